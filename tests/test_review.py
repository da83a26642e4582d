"""A review: neutral rows ranked by doubt, a page that a real browser shows and saves from, and the saved file taken by a load."""

import base64
import csv
import io
import json
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from embedkit import review, splits
from embedkit.datasets import LoadImages, LoadTable, LoadTexts, load_images, load_table, load_texts, read_rows
from embedkit.escaping import cell
from embedkit.labels import Neutral
from embedkit.review import doubt, thumbnail, write_review
from embedkit.stages import Draft

DECISIONS = "[...document.querySelectorAll('select')].map(select => select.selectedOptions[0].text)"
COUNT = "document.getElementById('count').textContent"
HOSTILE = "</script><script>document.title = 'owned'</script><img src=x onerror=\"document.title = 'owned'\">&amp;\u2028 @SCRIPT@"


@pytest.fixture
def texts(tmp_path):
    """Write texts with their labels and load them, all for training, every one neutral."""

    def loaded(*rows, **settings):
        path = tmp_path / "texts.jsonl"
        lines = [json.dumps({"text": text, "label": label, "unsure": True}) for text, label in rows]
        path.write_text("\n".join(lines) + "\n")
        return load_texts(path, LoadTexts(validation_share=0, test_share=0, neutral=Neutral(column="unsure"), **settings))

    return loaded


@pytest.fixture
def reviewed(tmp_path):
    """Review all rows of a dataset; the folder with the two files."""

    def written(dataset, classes, probabilities, rows=None, folder="review"):
        rows = np.arange(dataset.manifest.rows) if rows is None else rows
        out = Draft(tmp_path / folder)
        write_review(out, dataset, np.array(rows, int), classes, np.array(probabilities, float))
        return out.files

    return written


def table_of(folder):
    return pq.read_table(folder / "review.parquet")


def data_of(folder):
    """What the page knows, read from its file as a browser finds it."""
    page = (folder / "review.html").read_text()
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])


# Doubt and ranks


def test_doubt_is_the_entropy_as_a_share_of_the_highest():
    assert doubt(np.array([[1.0, 0.0], [0.5, 0.5]])).tolist() == [0, 1]
    assert doubt(np.array([[0.9, 0.1]])).round(6).tolist() == [0.468996]  # in bits, as every textbook has it
    assert doubt(np.array([[0.25] * 4, [0.5, 0.5, 0, 0]])).tolist() == [1, 0.5]
    assert doubt(np.full((1, 3), 1 / 3, np.float32)).max() <= 1
    assert not np.signbit(doubt(np.array([[1.0, 0.0]])))


def test_rows_are_ranked_by_doubt_and_then_by_id(texts, reviewed):
    dataset = texts(("one", "a"), ("two", None), ("three", "b"), ("four", "a"))
    ranked = table_of(reviewed(dataset, ["a", "b"], [[0.9, 0.1], [0.3, 0.7], [0.7, 0.3], [1, 0]]))
    one, two, three, four = (splits.hash64(text.encode()) for text in ("one", "two", "three", "four"))
    tied = sorted([two, three])
    assert ranked.column_names == ["id", "split", "label", "proposed", "probability", "doubt"]
    assert ranked["id"].to_pylist() == [*tied, one, four]
    assert dict(zip(ranked["id"].to_pylist(), ranked["proposed"].to_pylist(), strict=True)) == {
        one: "a",
        two: "b",
        three: "a",
        four: "a",
    }
    assert dict(zip(ranked["id"].to_pylist(), ranked["label"].to_pylist(), strict=True))[two] is None
    assert ranked["probability"].to_pylist() == [0.7, 0.7, 0.9, 1.0]
    assert ranked["doubt"].to_numpy().round(4).tolist() == [0.8813, 0.8813, 0.469, 0]
    assert set(ranked["split"].to_pylist()) == {"train"}


def test_a_review_has_the_same_bytes_whatever_the_order_of_its_rows(texts, reviewed):
    dataset = texts(*((f"text {n}", "ab"[n % 2]) for n in range(20)))
    p = np.random.default_rng(0).dirichlet([1, 1], 20)
    p[:10] = 0.5
    first, order = reviewed(dataset, ["a", "b"], p), np.random.default_rng(1).permutation(20)
    second = reviewed(dataset, ["a", "b"], p[order], order, folder="again")
    for name in ("review.parquet", "review.html"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_only_the_rows_that_were_given_are_reviewed(texts, reviewed):
    dataset = texts(*((f"text {n}", "a") for n in range(10)), rows_per_part=3)
    folder = reviewed(dataset, ["a", "b"], [[0.6, 0.4], [0.5, 0.5]], rows=[2, 7])
    assert [row["text"] for row in data_of(folder)["rows"]] == ["text 7", "text 2"]
    assert table_of(folder)["id"].to_pylist() == [splits.hash64(b"text 7"), splits.hash64(b"text 2")]


def test_a_dataset_without_labels_is_reviewed_too(write_csv, reviewed):
    dataset = load_texts(write_csv("text,unsure\nhi,1\n"), LoadTexts(neutral=Neutral(column="unsure")))
    folder = reviewed(dataset, ["a", "b"], [[0.5, 0.5]])
    assert table_of(folder)["label"].to_pylist() == [None] and data_of(folder)["rows"][0]["label"] is None


def test_several_labels_of_a_row_are_shown_together(texts, reviewed):
    folder = reviewed(texts(("hi", ["joy", "fear"])), ["fear", "joy"], [[0.5, 0.5]])
    assert table_of(folder)["label"].to_pylist() == [["joy", "fear"]] and data_of(folder)["rows"][0]["label"] == "joy, fear"


def test_a_review_of_no_rows_is_empty(texts, reviewed):
    folder = reviewed(texts(("hi", "a")), ["a", "b"], np.empty((0, 2)), rows=[])
    assert table_of(folder).num_rows == 0 and data_of(folder)["rows"] == []


def test_the_page_has_the_most_doubtful_rows_and_the_table_all(texts, reviewed, monkeypatch):
    monkeypatch.setattr(review, "MOST_ON_PAGE", 3)
    folder = reviewed(texts(*((f"text {n}", "a") for n in range(5))), ["a", "b"], [[p, 1 - p] for p in (0.9, 0.8, 0.5, 0.6, 0.7)])
    data = data_of(folder)
    assert [row["text"] for row in data["rows"]] == ["text 2", "text 3", "text 4"] and data["neutral"] == 5
    assert table_of(folder).num_rows == 5


# What the page holds


@pytest.fixture
def write_csv(tmp_path):
    def written(text, name="a.csv"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return written


def pixels_of(url):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB"))


@pytest.mark.parametrize(
    ("size", "shown", "small"),
    [((32, 20), (32, 20), True), ((600, 400), (240, 160), False), ((4000, 2), (240, 1), False), ((100, 240), (100, 240), False)],
)
def test_a_picture_is_made_smaller_but_never_larger(size, shown, small):
    data = io.BytesIO()
    Image.new("RGB", size, (200, 40, 90)).save(data, "PNG")
    url, is_small = thumbnail(data.getvalue())
    assert is_small == small and url.startswith("data:image/png;base64," if small else "data:image/jpeg;base64,")
    height, width, _ = pixels_of(url).shape
    assert (width, height) == shown and np.abs(pixels_of(url).astype(int) - [200, 40, 90]).max() <= (0 if small else 4)


def test_pictures_are_on_the_page_beside_their_proposals(photos, reviewed):
    dataset = load_images(photos, LoadImages(rows_per_part=7))
    rows = [3, 40, 59]
    entries = data_of(reviewed(dataset, ["left", "right"], [[0.5, 0.5], [0.4, 0.6], [0.7, 0.3]], rows))["rows"]
    for entry, place in zip(entries, rows, strict=True):
        assert np.array_equal(pixels_of(entry["picture"]), np.asarray(Image.open(photos / entry["path"])))
        assert int(entry["id"]) == read_rows(dataset)["id"][place].as_py() and entry["label"] == entry["path"].split("/")[0]


def test_a_row_of_a_table_is_shown_by_its_columns(write_csv, reviewed):
    dataset = load_table(write_csv("size,colour,empty,label\n1.5,red,,a\n2,blue,,b\n"), LoadTable())
    entries = data_of(reviewed(dataset, ["a", "b"], [[0.5, 0.5], [0.4, 0.6]]))["rows"]
    assert [entry["columns"] for entry in entries] == [[["size", "1.5"], ["colour", "red"]], [["size", "2.0"], ["colour", "blue"]]]


def test_the_page_needs_nothing_from_elsewhere_and_lets_no_other_script_run(texts, reviewed):
    page = (reviewed(texts((HOSTILE, HOSTILE)), [HOSTILE, "b"], [[0.5, 0.5]]) / "review.html").read_text()
    assert page.count("<script") == page.count("</script") == 2 and "onerror" not in re.sub(r'id="data">.*', "", page)
    assert "default-src 'none'" in page and not re.search(r"https?://|@import|url\(", page)
    assert page.isascii()


# A real browser


def reopen(chromium, path, count):
    """Open a page until it shows so many decisions: Chromium writes what a page stored a moment after the page did."""
    chromium.until(lambda: chromium.open(path) or chromium.run(COUNT) == count)


def choose(chromium, place, label):
    select = f"document.querySelectorAll('select')[{place}]"
    chromium.run(f"{select}.selectedIndex = [...{select}.options].findIndex(option => option.text === {json.dumps(label)})")
    chromium.run(f"{select}.dispatchEvent(new Event('change'))")


def save(chromium):
    """Press the button, and give the file that the browser has downloaded."""
    chromium.run("document.getElementById('save').click()")
    file = chromium.saved / "corrections.csv"
    chromium.until(file.exists)
    return file.rename(chromium.saved / f"corrections-{chromium.number}.csv")


def test_decisions_are_made_kept_saved_and_taken_by_the_next_load(chromium, texts, reviewed, tmp_path):
    classes = ['b, "best"', "a", "neutral", "two\nlines"]
    dataset = texts(*((f"text {n}", classes[n % 4]) for n in range(6)))
    p = [[0.4, 0.3, 0.2, 0.1], *([[0.3 + n / 10, 0.3 - n / 10, 0.2, 0.2] for n in range(1, 3)])] * 2
    folder = reviewed(dataset, classes, p)
    ranked = table_of(folder)
    chromium.open(folder / "review.html")
    assert chromium.run(COUNT) == "0 of 6 decided" and chromium.run("document.getElementById('save').disabled")
    chromium.press("j", "a", "n", "n", "u", "k", "k", "u")  # accepts the first, both next neutral, the third is undecided again
    assert chromium.run(DECISIONS) == [classes[0], "undecided", "still neutral", *["undecided"] * 3]
    assert chromium.run("document.activeElement.id") == f"row-{ranked['id'][1]}"
    choose(chromium, 1, "a")
    choose(chromium, 3, "neutral")
    choose(chromium, 4, "still neutral")
    choose(chromium, 5, "undecided")
    expected = [classes[0], "a", "still neutral", "neutral", "still neutral", "undecided"]
    assert chromium.run(DECISIONS) == expected and chromium.run(COUNT) == "5 of 6 decided"
    reopen(chromium, folder / "review.html", "5 of 6 decided")
    assert chromium.run(DECISIONS) == expected
    saved = save(chromium)
    ids = ranked["id"].to_pylist()
    new = {ids[0]: classes[0], ids[1]: "a", ids[3]: "neutral"}
    old = dict(zip(*(read_rows(dataset)[name].to_pylist() for name in ("id", "label")), strict=True))
    corrected = read_rows(texts(*((f"text {n}", classes[n % 4]) for n in range(6)), corrections=str(saved))).to_pylist()
    assert {row["id"]: row["label"] for row in corrected} == old | new
    assert {row["id"] for row in corrected if row["neutral"]} == {ids[2], ids[4], ids[5]}


def test_odd_labels_survive_the_page(chromium, texts, reviewed):
    classes = ["two\nlines", "a,b", '"', "\u200b", "é🙂", "[1]", "<b>", "</script>", "a\tb", "CR\r\nLF", "false"]
    rows = [(f"text {n}", name) for n, name in enumerate(classes)]
    folder = reviewed(texts(*rows, label_type="class"), classes, np.eye(len(classes)) * 0.5 + 0.5 / len(classes))
    chromium.open(folder / "review.html")
    chromium.press(*"j" + "a" * len(classes))
    assert chromium.run(COUNT) == f"{len(classes)} of {len(classes)} decided"
    shuffled = [(text, "a,b") for text, _ in rows]
    corrected = texts(*shuffled, label_type="class", corrections=str(save(chromium)))
    assert read_rows(corrected)["label"].to_pylist() == classes and not any(read_rows(corrected)["neutral"].to_pylist())


def test_no_label_is_a_formula_in_the_saved_file_and_all_survive_it(chromium, texts, reviewed):
    classes = ["=1+1", "+1", "-1", "@SUM(A1)", "'=1+1", "''-1", "'tis", "\uff1d1", "=\"a\",b", "1"]
    rows = [(f"text {n}", name) for n, name in enumerate(classes)]
    folder = reviewed(texts(*rows, label_type="class"), classes, np.eye(len(classes)) * 0.5 + 0.5 / len(classes))
    chromium.open(folder / "review.html")
    chromium.press(*"j" + "a" * len(classes))
    saved = save(chromium)
    with saved.open(encoding="utf-8", newline="") as file:
        cells = [line[1] for line in csv.reader(file)][1:]
    assert sorted(cells) == sorted(map(cell, classes)) and not [one for one in cells if one[0] in "=+-@\t\r\n\uff1d"]
    corrected = texts(*((text, "1") for text, _ in rows), label_type="class", corrections=str(saved))
    assert read_rows(corrected)["label"].to_pylist() == classes


def test_hostile_words_are_shown_as_they_are(chromium, texts, reviewed):
    chromium.open(reviewed(texts((HOSTILE, HOSTILE)), [HOSTILE, "b"], [[0.6, 0.4]]) / "review.html")
    assert chromium.run("document.title") == "Review of texts"
    assert chromium.run("document.querySelector('.content').textContent") == HOSTILE
    assert chromium.run("document.querySelector('.proposed').textContent") == HOSTILE + "?"
    assert chromium.run("[...document.querySelectorAll('option')].map(o => o.textContent)")[2:] == [HOSTILE, "b"]
    assert chromium.run("document.querySelectorAll('img').length") == 0


def test_a_script_put_into_the_page_by_anyone_else_does_not_run(chromium, texts, reviewed):
    path = reviewed(texts(("hi", "a")), ["a", "b"], [[0.6, 0.4]]) / "review.html"
    path.write_text(path.read_text().replace("</html>", "<script>document.title = 'owned'</script></html>"))
    chromium.open(path)
    assert chromium.run("document.title") == "Review of texts"


def test_a_long_text_is_cut_and_shown_in_full_on_demand(chromium, texts, reviewed):
    folder = reviewed(texts(("word " * 2000, "a"), ("short", "a")), ["a", "b"], [[0.5, 0.5], [0.6, 0.4]])
    chromium.open(folder / "review.html")
    buttons = "[...document.querySelectorAll('.more')].map(button => button.hidden ? '' : button.textContent)"
    height = "document.querySelector('.content').clientHeight"
    assert chromium.run(buttons) == ["show all", ""] and chromium.run(height) < 250
    chromium.run("document.querySelector('.more').click()")
    assert chromium.run(buttons) == ["show less", ""] and chromium.run(height) > 1000


def test_the_page_says_when_there_are_more_rows_and_shows_the_pictures(chromium, photos, reviewed, monkeypatch):
    monkeypatch.setattr(review, "MOST_ON_PAGE", 4)
    folder = reviewed(load_images(photos), ["left", "right"], [[0.5, 0.5]] * 60)
    chromium.open(folder / "review.html")
    assert "Neutral rows: 60, of which this page shows the 4 most doubtful. Keys:" in chromium.run("document.body.textContent")
    assert chromium.run("[...document.querySelectorAll('img')].map(img => img.naturalWidth)") == [32] * 4


def test_decisions_of_another_dataset_are_not_mixed_in(chromium, texts, reviewed):
    first = reviewed(texts(("hi", "a"), ("yo", "b")), ["a", "b"], [[0.5, 0.5], [0.5, 0.5]])
    chromium.open(first / "review.html")
    chromium.press("j", "a")
    reopen(chromium, first / "review.html", "1 of 2 decided")
    second = reviewed(texts(("hi", "a"), ("yo", "a")), ["a", "b"], [[0.5, 0.5], [0.5, 0.5]], folder="second")
    chromium.open(second / "review.html")
    assert chromium.run(COUNT) == "0 of 2 decided"
