"""The page of a comparison: what it says first, numbers for people, where its pictures are; anyone's words stay text on it."""

import base64
import html
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from conftest import COMPARED_ARMS, SKIPPED_ARM, compared, compared_arm, compared_numbers, compared_score
from markdown_it import MarkdownIt
from PIL import Image

from embedkit import reports
from embedkit.pages import _layers_words, write_report
from embedkit.stages import Draft

HOSTILE = (
    "</script><script>document.title = 'owned'</script><img src=x onerror=\"document.title = 'owned'\"> | `code` ``` "
    "**bold** [link](https://example.org) $\\frac \\| ~~gone~~\n\n# heading\n| cell |\u202e\u2028 &amp; 名前🙂"
)
SHOWN = "[...document.querySelectorAll('img')].map(image => image.currentSrc)"
OUTSIDE = (
    "[...document.querySelectorAll('body *')].filter(one => one.getBoundingClientRect().right > innerWidth + 0.5"
    " && !one.parentElement.closest('.scroll, pre')).map(one => one.outerHTML.slice(0, 80))"
)
LAYERS = {
    "nested": {"value": 0.84, "error": 0.01, "own": 0.83, "gain": 0.01, "gain_error": 0.006, "rows": 3000, "folds": 5},
    "winner": {"layer": "layer_3", "pooling": "mean"},
    "speedup": {"median": 1.4, "lowest": 1.3, "highest": 1.52, "rounds": 5},
    "table": [
        {"layer": f"layer_{n}", "pooling": "mean", "dimension": 8, "value": 0.8, "error": 0.01, "own": n == 5} for n in range(12)
    ],
    "command": "embedkit cut-encoder encoder/minilm",
}


def hostile():
    """Anyone's words wherever a comparison takes any."""
    row = {"id": HOSTILE, "label": HOSTILE, "predicted": [HOSTILE, "b"], "probability": 0.9}
    pictured = row | {"picture": 'data:image/png;base64,x" onerror="document.title = 1', "path": HOSTILE}
    rows = [row | {"text": HOSTILE + "x" * 900}, pictured, row | {"columns": [[HOSTILE, HOSTILE]] * 20}]
    arms = [COMPARED_ARMS[0] | {"title": HOSTILE, "what": HOSTILE}, SKIPPED_ARM | {"skipped": HOSTILE}, COMPARED_ARMS[2]]
    layers = LAYERS | {"table": [LAYERS["table"][0] | {"layer": HOSTILE}], "command": HOSTILE}
    given = {"title": HOSTILE, "dataset": HOSTILE, "verdict": HOSTILE, "command": HOSTILE, "notes": [HOSTILE], "arms": arms}
    given |= {"mistakes": rows, "layers": layers, "settings": {HOSTILE: HOSTILE}, "lineage": [[HOSTILE, HOSTILE]]}
    return compared(**given, confusion={"arm": "frozen_linear", "classes": [HOSTILE, "b"], "counts": [[50, 3], [4, 43]]})


class Tables(HTMLParser):
    """The tables of a page, as rows of texts."""

    def __init__(self, page):
        super().__init__()
        self.tables, self.inside = [], False
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td"):
            self.tables[-1][-1].append("")
            self.inside = True
        elif tag == "small" and self.inside:
            self.tables[-1][-1][-1] += "; "

    def handle_endtag(self, tag):
        self.inside = self.inside and tag not in ("th", "td")

    def handle_data(self, data):
        if self.inside:
            self.tables[-1][-1][-1] += data


@pytest.fixture
def reported(tmp_path):
    """Write a report; its folder."""

    def written(given, folder="report"):
        (tmp_path / folder).mkdir()
        write_report(tmp_path / folder, given)
        return tmp_path / folder

    return written


def arms_of(folder):
    """The first table of a page by arm, badges with the name."""
    return {row[0].partition(";")[0]: row[1:] for row in Tables((folder / "report.html").read_text()).tables[0]}


def read(folder):
    """The page with its entities read, without the data of pictures."""
    return re.sub(r"data:image/[^\"]*", "", html.unescape((folder / "report.html").read_text()))


def parsed(folder):
    """The Markdown page as tokens, those inside lines too."""
    for token in MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse((folder / "report.md").read_text()):
        yield token
        yield from token.children or []


# What it writes and says


def test_a_report_has_the_same_bytes_again(reported):
    first, second = reported(compared()), reported(compared(), "again")
    names = sorted(path.name for path in first.iterdir())
    assert names == ["confusion.png", "cost.png", "curve.png", "report.html", "report.md"]
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names)


def test_a_draft_gets_the_files_and_no_matrix_where_there_are_no_classes(tmp_path):
    out = Draft(tmp_path / "draft")
    write_report(out, compared_numbers())
    assert sorted(path.name for path in out.files.iterdir()) == ["cost.png", "curve.png", "report.html", "report.md"]


def test_the_verdict_comes_first_and_then_what_to_do(reported):
    folder = reported(compared(layers=LAYERS))
    order = ["<h1>A linear head is enough.</h1>", "More costs 12 times", "embedkit train-head v", "what lp_ft is"]
    order += ["labels per class", "4 of 47", "who was it", "layer_3 with pooling mean", "1 is also among the training rows"]
    order += ["a note", "texts/trec<", '"steps": 240']
    places = [read(folder).index(words) for words in order]
    assert places == sorted(places)
    markdown = (folder / "report.md").read_text()
    assert markdown.startswith("# A linear head is enough.\n\n**More costs 12 times the time.**\n")
    assert markdown.index("```sh\nembedkit train-head v\n```") < markdown.index("| arm |")


def test_arms_are_ranked_with_quality_and_price_in_numbers_for_people(reported):
    found = arms_of(reported(compared()))
    assert list(found) == ["arm", "lp ft best", "frozen mlp", "frozen linear recommended", "guess", "distilled"]
    assert found["arm"][:3] == ["accuracy", "to the best, points", "without copies; 480 rows"]
    quality = ["95.6 % ± 1.0; ± 0.9 over rows", "−1.2 ± 0.6", "94.6 % ± 1.0"]
    assert found["frozen linear recommended"] == [*quality, "14 s", "2.1 s", "35 s", "1.2 GB", "91.0 MB"]
    assert found["lp ft best"][1] == "–" and found["lp ft best"][3] == "7 min"
    assert found["frozen mlp"][1] == "−0.7 ± 0.6; no clear difference"
    assert found["distilled"] == ["skipped: the encoder is small already"]


def test_the_markdown_table_says_the_same(reported):
    lines = (reported(compared()) / "report.md").read_text().splitlines()
    line = next(line for line in lines if line.startswith("| **frozen linear**"))
    assert line.startswith(r"| **frozen linear**: what frozen\_linear is **[recommended]** | 95.6 % ± 1.0, ± 0.9 over rows | −1.2")


def test_an_arm_may_lack_a_clean_score_budgets_rows_and_repeats(reported):
    few = {"10": compared_score(0.5, 60, seeds_error=None)}
    found = arms_of(
        reported(compared(seeds=1, arms=[COMPARED_ARMS[0], compared_arm("other", 0.5, scores=few, clean=None, rows_seen=2000)]))
    )
    assert found["other"][0] == "50.0 %; ± 0.9 over rows, of 10 labels per class"
    assert found["other"][2] == "–" and found["other"][3] == "14 s; saw 2,000 rows"


def test_less_is_better_for_errors_of_numbers(reported):
    folder = reported(compared_numbers())
    found = arms_of(folder)
    assert list(found)[1:] == ["network best", "ridge recommended", "guess"]
    assert found["ridge recommended"][:2] == ["12.5 ± 0.01; ± 0.0092 over rows", "+1.25 ± 0.2"]
    assert found["guess"][0].startswith("1,520 ±")
    for words in ("off by 6.25 · row 7", "truth <bdi>3.25</bdi>", "<dt>colour</dt><dd>red</dd>"):
        assert words in read(folder)


def test_the_layer_sweep_says_what_a_choice_is_worth_and_folds_its_tail(reported):
    page = read(reported(compared(layers=LAYERS)))
    assert "5 nested folds of 3,000 training rows), such a choice scores 84.0 % ± 1.0, the encoder's own output 83.0 %:" in page
    assert "+1.0 ± 0.6 points." in page and "1.4 times as fast (1.3 to 1.5 in 5 rounds)" in page
    assert "<summary>4 more</summary>" in page and 'class="badge chosen"' in page and 'class="badge own"' in page


def test_the_commonest_confusions_are_listed_for_many_classes(reported):
    counts = np.eye(77, dtype=int) * 40
    counts[3, 70], counts[60, 5] = 9, 12
    names = [f"a rather long name of a class, number {n}" for n in range(77)]
    folder = reported(compared(confusion={"arm": "frozen_linear", "classes": names, "counts": counts.tolist()}))
    table = Tables((folder / "report.html").read_text()).tables[2]
    assert [row[2] for row in table[1:]] == ["12 of 52", "9 of 49"] and table[1][0] == "a rather long name of a class,…"
    assert (folder / "confusion.png").stat().st_size < reports.LARGEST_PICTURE


@pytest.mark.parametrize("arms", [[SKIPPED_ARM], COMPARED_ARMS[:1]])
def test_a_page_needs_no_second_arm_and_not_even_one(reported, arms):
    given = {"recommended": None, "best": None, "command": None, "duplicates": None, "confusion": None, "mistakes": []}
    page = read(reported(compared(arms=arms, **given)))
    assert "What to do next" not in page and "Duplicates" not in page and arms[0]["what"] in page


def test_long_texts_are_cut(reported):
    row = {"id": "1", "label": "a", "predicted": "b", "probability": 0.9, "text": "word " * 500}
    folder = reported(compared(mistakes=[row]))
    for page in (read(folder), (folder / "report.md").read_text()):
        assert "word " * 55 + "word…" in page and "word " * 56 not in page


# Pictures


def test_pictures_are_inline_the_same_as_the_files_and_dark_where_the_page_is(reported):
    folder = reported(compared())
    page, markdown = ((folder / name).read_text() for name in ("report.html", "report.md"))
    for name in ("curve", "cost", "confusion"):
        data = (folder / f"{name}.png").read_bytes()
        url = f"data:image/png;base64,{base64.b64encode(data).decode()}"
        assert f'<img src="{url}"' in page and f"]({url})" in markdown
        assert np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))[0, 0].tolist() == [255, 255, 255]
    dark = re.findall(r'\(prefers-color-scheme: dark\)" srcset="data:image/png;base64,([^"]+)"', page)
    corners = [np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))[0, 0].max() for data in dark]
    assert len(dark) == 3 and max(corners) < 40


def test_a_wrong_row_is_shown_with_its_picture(reported):
    data = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 40, 90)).save(data, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"
    row = {"id": "1", "label": "a", "predicted": "b", "probability": 0.9, "picture": url, "small": True, "path": "b/1.jpg"}
    folder = reported(compared(kind="images", mistakes=[row, row | {"path": "x", "picture": "https://example.org/a.png"}]))
    assert f'<img src="{url}" alt="b/1.jpg" class="small">' in (folder / "report.html").read_text()
    assert f"| ![]({url}) | a | b | 90.0 % sure |" in (folder / "report.md").read_text()
    assert "example" not in (folder / "report.html").read_text() + (folder / "report.md").read_text()


# Anyone's words


def test_the_page_asks_for_nothing_and_has_no_script(reported):
    page = (reported(hostile()) / "report.html").read_text()
    assert "<script" not in page and page.isascii() and "<img src=x" not in page and not re.search(r"@import|url\(", page)
    assert "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\"" in page
    asked = re.findall(r"<[^>]*?\b(?:src|srcset|href)=\"(.*?)\"", page)
    assert len(asked) >= 3 and all(url.startswith("data:image/png;base64,") for url in asked)


def test_hostile_words_stay_text_in_markdown_and_break_no_table(reported):
    tokens, widths = list(parsed(reported(hostile()))), []
    kinds = {token.type for token in tokens}
    assert not kinds & {"html_block", "html_inline", "link_open", "s_open", "code_block"}
    assert {token.content for token in tokens if token.type == "code_inline"} <= {"[link](https://example.org)"}
    assert all(token.attrs["src"].startswith("data:image/png") for token in tokens if token.type == "image")
    for token in tokens:
        if token.type == "table_open":
            widths.append([])
        elif token.type == "tr_open":
            widths[-1].append(0)
        elif token.type in ("th_open", "td_open"):
            widths[-1][-1] += 1
    assert len(widths) == 5 and all(len(set(table)) == 1 for table in widths)
    assert [len(table) for table in widths] == [4, 3, 3, 4, 2]  # with their heads
    first = next(token for token in tokens if token.type == "inline")
    assert "".join(child.content for child in first.children) == " ".join(HOSTILE.split())
    fences = [token for token in tokens if token.type == "fence"]
    assert [fence.info for fence in fences] == ["sh", "sh", "mermaid", "json"] and fences[0].content == HOSTILE + "\n"
    assert '"' not in fences[2].content.replace('["', "").replace('"]', "").replace('|"', "").replace('"|', "")


# A real browser


def look(chromium, path, width=1280, colours="light"):
    chromium.ask("Emulation.setDeviceMetricsOverride", width=width, height=844, deviceScaleFactor=1, mobile=width < 500)
    chromium.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": colours}])
    chromium.open(path)


def test_hostile_words_are_shown_as_they_are(chromium, reported):
    look(chromium, reported(hostile()) / "report.html")
    shown = " ".join(HOSTILE.split())
    assert chromium.run("document.title").startswith("Comparison </script>") and chromium.run("document.scripts.length") == 0
    assert chromium.run("document.querySelector('h1').textContent.split(/\\s+/).join(' ')") == shown
    assert chromium.run("document.querySelector('.command').textContent") == HOSTILE
    assert chromium.run("document.querySelector('.arms tbody bdi').textContent") == "lp ft"
    assert chromium.run("document.querySelectorAll('.arms tbody tr')[1].querySelector('bdi').textContent") == HOSTILE
    assert chromium.run("document.querySelector('article .text').textContent").startswith(shown)
    assert chromium.run("document.querySelectorAll('article img').length") == 0


def test_the_page_makes_no_request_and_lets_no_script_run(chromium, reported):
    path = reported(hostile()) / "report.html"
    added = "<script>document.title = 'owned'</script><img src='https://example.org/a.png' onerror='document.title = 1'>"
    look(chromium, path)
    entries = "performance.getEntriesByType('resource').map(entry => entry.name).filter(name => !name.startsWith('data:'))"
    assert chromium.run(entries) == [] and all(source.startswith("data:") for source in chromium.run(SHOWN))
    assert chromium.run("[...document.images].every(image => image.naturalWidth > 200)")
    path.write_text(path.read_text().replace("</main>", f"{added}</main>"))
    look(chromium, path)
    assert chromium.run("document.title").startswith("Comparison ")


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_overflows_on_a_phone_or_a_screen(chromium, reported, width):
    names, counts = [f"{'long' * 9} {n}" for n in range(77)], (np.eye(77, dtype=int) + 1).tolist()
    many = {"arm": "frozen_linear", "classes": names, "counts": counts}
    pages_of = {
        "texts": compared(layers=LAYERS),
        "many": compared(confusion=many),
        "numbers": compared_numbers(),
        "hostile": hostile(),
    }
    for name, given in pages_of.items():
        look(chromium, reported(given, name) / "report.html", width)
        assert chromium.run("document.documentElement.scrollWidth <= innerWidth"), name
        assert chromium.run(OUTSIDE) == [], name


def test_pictures_follow_the_colours_of_the_page(chromium, reported):
    path = reported(compared()) / "report.html"
    look(chromium, path)
    light = chromium.run(SHOWN)
    look(chromium, path, colours="dark")
    assert len(light) == 3 and not set(light) & set(chromium.run(SHOWN))


def test_a_layer_that_is_not_better_than_the_encoder_is_not_praised():
    layers = {
        "nested": None,
        "winner": {"layer": "block_1", "pooling": "mean"},
        "speedup": None,
        "command": None,
        "table": [
            {"layer": "as it is", "pooling": "mean", "dimension": 4, "value": 0.9, "error": 0.01, "own": True},
            {"layer": "block_1", "pooling": "mean", "dimension": 4, "value": 0.8, "error": 0.01, "own": False},
        ],
    }
    words = _layers_words(compared() | {"layers": layers})
    assert words.endswith("did best of those it can be cut at, though not better than the encoder as it is.")
    layers["table"][1]["value"] = 0.95
    assert _layers_words(compared() | {"layers": layers}) == "Layer block_1 with pooling mean did best."
