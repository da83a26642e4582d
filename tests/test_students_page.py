"""The page of students: each above its twin and other controls, with what it keeps of its teacher and how fast it is."""

import base64
import html
import io
import json
import re

import numpy as np
import pytest
from PIL import Image
from test_pages import HOSTILE, OUTSIDE, SHOWN, Tables, look, parsed, read

from embedkit import charts
from embedkit.stages import Draft
from embedkit.students_page import write_report

TEACHER = "classifier/sst2-minilm@20260101-000000-abcdef"
SHAPES = {
    "layers": ("3 of its layers", 17_400_000, 2.0),
    "narrow": ("2 narrow layers", 5_500_000, 10.2),
    "static": ("static vectors", 7_800_000, 312.0),
}


def model(name, value, **changes):
    """A control that was measured, unless changed to something else."""
    made = {
        **{"name": name, "title": name, "what": f"what {name} is", "role": "control", "of": None, "value": value, "error": 0.0104},
        **{"kept": {"value": value / 0.913, "error": 0.006}, "agreement": {"value": value - 0.01, "error": 0.0074}},
        **{"ece": 0.031, "log_loss": 0.312, "parameters": 5_500_000, "bytes": 22_100_000, "ms_1": 5.1, "ms_32": 90.4},
        **{"texts_per_second": 310.2, "speedup": None, "speed_of": None, "reference": None, "seconds_to_train": None},
    }
    return made | changes


def untimed(of):
    """What is unknown of a control whose speed is that of its student."""
    return {"of": of, "speed_of": of, "ms_1": None, "ms_32": None, "texts_per_second": None}


def student(name, value, twin, untrained):
    """A student, its twin and the same without training."""
    title, parameters, times = SHAPES[name]
    shape, control = {"parameters": parameters, "bytes": 4 * parameters}, untimed(name)
    own = shape | {"title": title, "what": "learned from the teacher's answers", "role": "student"}
    own |= {"speedup": {"median": times, "lowest": 0.94 * times, "highest": 1.07 * times}}
    own |= {"ms_1": 14 / times, "ms_32": 400 / times, "texts_per_second": 80 * times}
    own |= {"reference": f"classifier/sst2-{name}@20260102-000000-abcdef", "seconds_to_train": 180.0}
    alone = shape | control | {"title": f"{title}, twin", "what": "same shape and steps, without the teacher"}
    fresh = shape | control | {"title": f"{title}, untrained", "what": "as it starts"}
    return [model(name, value, **own), model(f"{name}-twin", twin, **alone), model(f"{name}-untrained", untrained, **fresh)]


def distilled(**changes):
    """What students of a classifier of texts keep, and their controls."""
    teacher = {"title": "MiniLM, 6 layers", "what": "fine-tuned on all labels", "role": "teacher", "kept": None, "agreement": None}
    size = {"parameters": 22_713_216, "bytes": 90_852_864, "texts_per_second": 80.1, "ms_1": 14.2, "ms_32": 402.0}
    size |= {"speedup": {"median": 1.0, "lowest": 1.0, "highest": 1.0}}
    bag = {"title": "TF-IDF + linear", "what": "words and pairs of words, weighed; no network", "parameters": 31_200}
    bag |= {"speedup": {"median": 140.0, "lowest": 121.0, "highest": 152.0}, "bytes": 310_000}
    bag |= {"ms_1": 0.31, "ms_32": 2.8, "texts_per_second": 11214.0}
    cut = untimed(None) | {"title": "teacher cut to 32", "what": "its main directions, nothing trained", "speed_of": "teacher"}
    made = {
        **{"title": "sst2 from minilm-sst2", "teacher": TEACHER, "dataset": "texts/sst2@20260101-000000-abcdef", "similar": None},
        **{"measure": "accuracy", "task": "class", "rows": {"train": 5000, "validation": 500, "test": 872}},
        "verdict": "The 2-layer student keeps 97.1 ± 0.6 % of the teacher's accuracy at 10.2 times its speed on one core; its twin "
        "without the teacher keeps 93 %. Three layers keep more, at twice the teacher's speed.",
        "models": [
            model("teacher", 0.913, **teacher, **size, reference=TEACHER),
            *student("layers", 0.904, 0.871, 0.643),
            *student("narrow", 0.886, 0.849, 0.512),
            *student("static", 0.838, 0.812, 0.707),
            model("tfidf", 0.803, **bag),
            model("pca", 0.898, **cut),
        ],
        **{"recommended": "narrow", "command": f"embedkit distil {TEACHER} texts/sst2 --student narrow"},
        **{"aim": {"kept": 0.97, "speedup": 9.4}, "notes": ["1 of 872 test texts is also among the training rows"]},
        **{"settings": {"students": ["layers", "narrow", "static"]}, "decisions": {"steps": 600}},
        "lineage": [["texts/sst2@20260101-000000-abcdef", "dataset"], [TEACHER, "teacher"]],
    }
    return json.loads(json.dumps(made | changes))


def distilled_vectors(**changes):
    """The same for a teacher that is an encoder: no classes, and the teacher is 1 by definition."""
    given = distilled(measure="similarity", task="vectors", title="sst2 from minilm", teacher="encoder/minilm@20260101")
    for one in given["models"]:
        one |= {"ece": None, "log_loss": None}
        one |= {"value": 1.0, "error": 0.0} if one["role"] == "teacher" else {"value": one["value"] * 0.98, "error": 0.0041}
    verdict = "The 2-layer student orders texts as its teacher does (0.868 ± 0.004) at 10.2 times its speed."
    return given | {"verdict": verdict} | changes


def distilled_numbers(**changes):
    """The same for numbers, where less is better."""
    given = distilled(measure="rmse", task="number")
    for one in given["models"]:
        one |= {"value": 3.2 / one["value"], "error": 0.08, "ece": None, "log_loss": None, "agreement": None}
    return given | changes


def hostile():
    """Anyone's words wherever a comparison of students takes any."""
    given = distilled(title=HOSTILE, teacher=HOSTILE, dataset=HOSTILE, verdict=HOSTILE, command=HOSTILE, notes=[HOSTILE])
    for one in given["models"]:
        one |= {"title": HOSTILE, "what": HOSTILE, "reference": HOSTILE}
    return given | {"settings": {HOSTILE: HOSTILE}, "lineage": [[HOSTILE, HOSTILE]]}


def near(spread, shift):
    """A teacher and eight students with long names, almost of one speed and quality."""
    random, students = np.random.default_rng(0), []
    for number in range(8):
        speed, value = 3 * float(np.exp(random.uniform(-spread, spread))), 0.88 + float(random.uniform(-shift, shift))
        timed = {"role": "student", "speedup": {"median": speed, "lowest": speed, "highest": speed}}
        students.append(model(f"student{number}", value, title=f"{number}, a student with a long name", **timed))
    return distilled(models=[model("teacher", 0.9, title="a teacher with a long name", role="teacher"), *students])


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """Write a report, unless it was written; its folder."""
    known = {}

    def written(given):
        key = json.dumps(given)
        if key not in known:
            known[key] = tmp_path_factory.mktemp("report")
            write_report(known[key], given)
        return known[key]

    return written


def models_of(folder):
    """The table of the models by name, badges with it."""
    return {row[0].partition(";")[0]: row[1:] for row in Tables((folder / "report.html").read_text()).tables[0]}


# What it writes and says


def test_a_report_has_the_same_bytes_again_in_a_draft_too(reported, tmp_path):
    first, out = reported(distilled()), Draft(tmp_path / "draft")
    write_report(out, distilled())
    names = sorted(path.name for path in out.files.iterdir())
    assert names == ["quality.png", "report.html", "report.md"]
    assert all((first / name).read_bytes() == (out / name).read_bytes() for name in names)


def test_the_verdict_comes_first_and_then_what_to_do(reported):
    folder = reported(distilled())
    order = [
        "Students for sst2 from minilm-sst2: what do they keep of their teacher?",
        "<h1>The 2-layer student keeps 97.1 ± 0.6 %",
    ]
    order += ["Three layers keep more", "5,000 train, 500 validation, 872 test", "What to do next", "embedkit distil", "The models"]
    order += ["fine-tuned on all labels", "Quality against speed", "hollow mark", "Where they are", "sst2-narrow@", "3 min"]
    order += ["1 of 872 test texts", "texts/sst2@20260101-000000-abcdef<", '"steps": 600']
    page, place = read(folder), 0
    for words in order:
        place = page.index(words, place)
    markdown = (folder / "report.md").read_text()
    assert markdown.startswith("# The 2-layer student keeps 97.1 ± 0.6 % of the teacher's accuracy")
    assert markdown.index("```sh\nembedkit distil classifier/") < markdown.index("| model |")


def test_a_twin_stands_right_below_its_student_and_is_marked(reported):
    given = distilled()
    given["models"] = sorted(given["models"], key=lambda one: (one["role"] == "control", one["name"]))  # as if they came apart
    folder = reported(given)
    names = list(models_of(folder))
    assert names[:4] == ["model", "3 of its layers", "3 of its layers, twin twin", "3 of its layers, untrained control"]
    assert names[4:6] == ["2 narrow layers recommended", "2 narrow layers, twin twin"]
    assert names[-3:] == ["MiniLM, 6 layers teacher", "teacher cut to 32 control", "TF-IDF + linear control"]
    kinds = re.findall(r'<tr class="([^"]*)"', (folder / "report.html").read_text())
    assert kinds[:5] == ["", "under twin", "under control", "recommended", "under twin"]
    assert (
        r"| ↳ **2 narrow layers, twin**: same shape and steps, without the teacher **[twin]** | 84.9 % ± 1.0 |"
        in (folder / "report.md").read_text()
    )


def test_models_have_quality_speed_and_size_in_numbers_for_people(reported):
    found = models_of(reported(distilled()))
    head = ["accuracy", "kept of the teacher's", "times the teacher's speed; lowest to highest", "says what the teacher says"]
    head += ["calibration error; log loss", "parameters; on disk", "one text; 32 texts", "texts per second"]
    assert found["model"] == head
    narrow = ["88.6 % ± 1.0", "97.0 % ± 0.6", "10.2; 9.6 to 10.9", "87.6 % ± 0.7", "0.031; 0.312", "5.5 million; 22.0 MB"]
    assert found["2 narrow layers recommended"] == [*narrow, "1.4 ms; 39.2 ms", "816"]
    assert found["MiniLM, 6 layers teacher"][1:4] == ["–", "–", "–"]
    assert found["2 narrow layers, twin twin"][2] == "10.2; as its student"
    assert found["2 narrow layers, twin twin"][-2:] == ["–", "–"]
    assert found["teacher cut to 32 control"][2] == "1.0; as the teacher"


def test_of_an_encoder_there_is_no_calibration_and_the_teacher_is_1(reported):
    folder = reported(distilled_vectors())
    found = models_of(folder)
    measures = ["rank correlation with the teacher's similarities", "times the teacher's speed; lowest to highest"]
    assert found["model"][:4] == [*measures, "cosine to the teacher's vectors", "parameters; on disk"]
    assert found["MiniLM, 6 layers teacher"][:2] == ["1.000", "–"]
    assert found["2 narrow layers recommended"][:3] == ["0.868 ± 0.004", "10.2; 9.6 to 10.9", "0.876 ± 0.007"]
    assert "Spearman's, over pairs of test rows; the teacher's own is 1" in read(folder)


def test_of_numbers_the_share_that_is_kept_is_one_of_errors(reported):
    found = models_of(reported(distilled_numbers()))
    assert found["model"][:2] == ["root mean square error", "teacher's error as a share of its own"]
    assert found["MiniLM, 6 layers teacher"][:2] == ["3.5 ± 0.08", "–"]


def test_a_control_may_have_the_speed_of_any_model(reported):
    given = distilled()
    given["models"][-1] |= {"of": None, "speed_of": "tfidf"}
    assert models_of(reported(given))["teacher cut to 32 control"][2] == "140; as TF-IDF + linear"


def test_a_page_needs_neither_controls_nor_students_nor_an_aim(reported):
    given = {"recommended": None, "command": None, "aim": None, "notes": []}
    page = read(
        reported(distilled(models=[model("teacher", 0.9, title="alone", role="teacher", kept=None)], **given, verdict="None."))
    )
    assert "alone" in page and "one standard error over the test rows" in page
    for words in ("What to do next", "Notes", "twin", "Shaded", "Where they are", "same speed"):
        assert words not in page


def test_the_picture_says_what_was_aimed_for_and_which_speeds_are_unknown(reported):
    given = distilled()
    given["models"][-1]["speed_of"] = None
    page = read(reported(given))
    assert "Shaded: at least 97 % of the teacher's quality at 9.4 times its speed." in page
    assert "Not in it, as no speed was measured beside the teacher's: teacher cut to 32." in page


# The picture


def test_the_picture_is_inline_the_same_as_the_file_and_dark_where_the_page_is(reported):
    folder = reported(distilled())
    page, markdown, data = ((folder / name).read_bytes() for name in ("report.html", "report.md", "quality.png"))
    url = b"data:image/png;base64," + base64.b64encode(data)
    assert b'<img src="' + url + b'"' in page and b"](" + url + b")" in markdown
    dark = re.findall(rb'\(prefers-color-scheme: dark\)" srcset="data:image/png;base64,([^"]+)"', page)
    corners = [np.asarray(Image.open(io.BytesIO(one)).convert("RGB"))[0, 0] for one in (data, base64.b64decode(dark[0]))]
    assert len(dark) == 1 and corners[0].min() == 255 and corners[1].max() < 40


def test_a_student_is_filled_its_controls_are_hollow_in_its_colour_and_others_are_grey():
    looks = charts._model_looks(distilled(), charts.LIGHT)
    assert [looks[name]["color"] for name in ("layers", "narrow", "static")] == list(charts.LIGHT.arms[:3])
    for name in ("narrow-twin", "narrow-untrained"):
        assert (looks[name]["color"], looks[name]["marker"]) == (looks["narrow"]["color"], looks["narrow"]["marker"])
        assert looks[name]["markerfacecolor"] == charts.LIGHT.page and "markerfacecolor" not in looks["narrow"]
    assert looks["tfidf"]["color"] == looks["pca"]["color"] == charts.LIGHT.soft
    assert looks["tfidf"]["marker"] != looks["pca"]["marker"]
    assert [name for name, look in looks.items() if look["linewidth"] > 2] == ["narrow"]


def test_a_twin_stands_beside_its_student_joined_by_a_line_and_a_far_control_at_the_edge():
    figure, axes = charts._quality(distilled(), charts.LIGHT)
    places = charts._model_places(distilled(), axes, charts.LIGHT)
    assert places["narrow"] == (10.2, 0.886) and places["teacher"] == (1, 0.913) and places["tfidf"] == (140, 0.803)
    assert 10.2 < places["narrow-twin"][0] < places["narrow-untrained"][0] < 13 and places["narrow-twin"][1] == 0.849
    lines = [line.get_xydata().tolist() for line in axes.lines]
    assert [list(places["narrow"]), list(places["narrow-twin"])] in lines
    assert places["narrow-untrained"][1] == axes.get_ylim()[0] > 0.75
    names = [text.get_text() for text in axes.texts]
    assert names.count("twin") == 3 and "2 narrow layers, untrained (51.2 %)" in names and "aimed for" in names


@pytest.mark.parametrize(("given", "corner"), [(distilled(), 0.913 * 0.97), (distilled_numbers(), 3.2 / 0.913 / 0.97)])
def test_what_was_aimed_for_is_the_corner_of_faster_and_better(given, corner):
    _, axes = charts._quality(given, charts.LIGHT)
    (shade,) = [one for one in axes.collections if one.get_alpha() == 0.1]
    (left, low), (right, high) = shade.get_paths()[0].get_extents().get_points()
    assert left == 9.4 and right == axes.get_xlim()[1]
    worse, best = (low, high) if given["measure"] == "accuracy" else (high, low)
    assert worse == pytest.approx(corner) and best in axes.get_ylim()


@pytest.mark.parametrize(
    "given", [distilled(), distilled_vectors(), distilled_numbers(), near(0, 0), near(0.02, 0.002), near(0.3, 0.03)]
)
def test_names_lie_neither_on_each_other_nor_on_a_mark_and_are_inside_the_picture(given):
    figure, axes = charts._quality(given, charts.LIGHT)
    figure.draw_without_rendering()
    boxes, frame = [text.get_window_extent() for text in axes.texts], axes.get_window_extent()
    marks = [axes.transData.transform(place) for place in charts._model_places(given, axes, charts.LIGHT).values()]
    for place, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[place + 1 :])
        assert not any(box.contains(*mark) for mark in marks)
        assert frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1


# Anyone's words


def test_the_page_asks_for_nothing_and_has_no_script(reported):
    page = (reported(hostile()) / "report.html").read_text()
    assert "<script" not in page and page.isascii() and "<img src=x" not in page and not re.search(r"@import|url\(", page)
    asked = re.findall(r"<[^>]*?\b(?:src|srcset|href)=\"(.*?)\"", page)
    assert len(asked) == 2 and all(url.startswith("data:image/png;base64,") for url in asked)


def test_hostile_words_stay_text_in_markdown_and_break_no_table(reported):
    tokens, widths = list(parsed(reported(hostile()))), []
    kinds = {token.type for token in tokens}
    assert not kinds & {"html_block", "html_inline", "link_open", "s_open", "code_block"}
    assert {token.content for token in tokens if token.type == "code_inline"} <= {"[link](https://example.org)"}
    for token in tokens:
        if token.type == "table_open":
            widths.append([])
        elif token.type == "tr_open":
            widths[-1].append(0)
        elif token.type in ("th_open", "td_open"):
            widths[-1][-1] += 1
    assert [(len(table), set(table)) for table in widths] == [(13, {9}), (13, {3})]
    first = next(token for token in tokens if token.type == "inline")
    assert "".join(child.content for child in first.children) == " ".join(HOSTILE.split())


# A real browser


def test_hostile_words_are_shown_as_they_are_and_nothing_is_asked_for(chromium, reported):
    look(chromium, reported(hostile()) / "report.html")
    shown = " ".join(HOSTILE.split())
    assert chromium.run("document.title").startswith("Students for </script>") and chromium.run("document.scripts.length") == 0
    for place in ("h1", ".models tbody bdi", ".models tbody small", ".lineage li", ".command"):
        text = html.unescape(chromium.run(f"document.querySelector({place!r}).textContent"))
        assert " ".join(text.split()).startswith(html.unescape(shown)[:60])
    entries = "performance.getEntriesByType('resource').map(entry => entry.name).filter(name => !name.startsWith('data:'))"
    assert chromium.run(entries) == [] and chromium.run("[...document.images].every(image => image.naturalWidth > 200)")


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_overflows_on_a_phone_or_a_screen(chromium, reported, width):
    for name, given in {"class": distilled(), "vectors": distilled_vectors(), "hostile": hostile()}.items():
        look(chromium, reported(given) / "report.html", width)
        assert chromium.run("document.documentElement.scrollWidth <= innerWidth"), name
        assert chromium.run(OUTSIDE) == [], name


def test_a_wide_screen_shows_the_whole_table_and_a_twin_is_set_in(chromium, reported):
    look(chromium, reported(distilled()) / "report.html", 1280)
    assert chromium.run("document.querySelector('.models').scrollWidth <= document.querySelector('.models').clientWidth")
    left = "document.querySelector('.models {} th bdi').getBoundingClientRect().left"
    assert chromium.run(left.format("tr.under.twin")) - chromium.run(left.format("tr.recommended")) >= 12


def test_the_picture_follows_the_colours_of_the_page(chromium, reported):
    path = reported(distilled()) / "report.html"
    look(chromium, path)
    light = chromium.run(SHOWN)
    look(chromium, path, colours="dark")
    assert len(light) == 1 and light != chromium.run(SHOWN)
