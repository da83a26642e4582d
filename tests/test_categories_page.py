"""The page of compare_categories: arms of each split, the best first, and what each column's vectors save."""

import pytest
from test_pages import HOSTILE, OUTSIDE, look

from embedkit.categories_page import write_report


def arm(name, value, embeds, against, difference=0.01):
    return {
        **{"name": name, "title": name.replace("_", " "), "what": f"what {name} is", "embeds": embeds, "value": value},
        **{"seeds_error": 0.002, "rows_error": 0.004, "each": [value, value], "seconds": 12.5, "against": against},
        **{"difference": {"value": difference, "error": 0.003}},
    }


def results(**changes):
    arms = [
        arm("guess", 0.5, False, "network", -0.4),
        arm("boosting", 0.88, False, "network", -0.02),
        arm("network", 0.9, True, "boosting", 0.02),
    ]
    split = {"rows": {"train and validation": 900, "test": 300}, "arms": arms, "best": "network", "best_control": "boosting"}
    columns = [
        {
            **{"name": "shop", "role": "embedding", "reason": "30 different values: texts that recur", "values": 30, "kept": 28},
            **{"dimension": 11, "in_fold": {"value": 0.2, "error": 0.01}, "out_of_fold": {"value": 0.15, "error": 0.02}},
        },
        {"name": "ticket", "role": "left out", "reason": "an identifier", "values": 900},
    ]
    return {
        **{"title": "shops", "dataset": "table/shops@20260101T000000Z-abcdef01", "measure": "accuracy", "task": "class"},
        **{"splits": [split | {"name": "shuffled"}, split | {"name": "by time"}], "columns": columns, "decisions": {}, "seeds": 2},
        **{"verdict": "Use entity embeddings here. They are better.", "notes": ["a note"], "settings": {"seed": 0}},
        **{"lineage": [["table/shops@20260101T000000Z-abcdef01", "dataset"]]},
    } | changes


@pytest.fixture
def page(tmp_path):
    write_report(tmp_path, results())
    return tmp_path


def test_a_page_opens_with_the_verdict_and_shows_the_arms_of_each_split_the_best_first(page):
    text = (page / "report.md").read_text()
    assert text.startswith("# Use entity embeddings here.\n\n**They are better.**")
    for split in ("The shuffled split", "The by time split"):
        part = text.partition(f"## {split}")[2]
        assert part.index("**network**") < part.index("**boosting**") < part.index("**guess**")
    assert "90.0 % ± 0.2" in text and "+2.0 ± 0.3, against boosting" in text
    assert "900 train and validation, 300 test" in text


def test_columns_say_their_role_and_what_their_vectors_save(page):
    text = (page / "report.md").read_text().partition("## The columns")[2]
    assert "**shop**: 30 different values: texts that recur | embedding | 30 | 28 with a vector of 11 | 0.2 ± 0.01 | 0.15" in text
    assert "**ticket**: an identifier | left out | 900 | – | – | – |" in text


def test_errors_come_first_where_less_is_better(tmp_path):
    write_report(tmp_path, results(measure="rmse"))
    part = (tmp_path / "report.md").read_text().partition("## The shuffled split")[2]
    assert part.index("**guess**") < part.index("**boosting**") < part.index("**network**")


def test_pages_repeat_ask_nothing_of_the_network_and_hold_their_pictures(page, tmp_path):
    other = tmp_path / "again"
    other.mkdir()
    write_report(other, results())
    for name in ("report.html", "report.md", "shuffled.png", "by_time.png"):
        assert (other / name).read_bytes() == (page / name).read_bytes()


@pytest.mark.parametrize("width", [390, 1280])
def test_names_stay_text_and_nothing_overflows_on_a_phone_or_a_screen(chromium, tmp_path, width):
    given = results(title=HOSTILE)
    given["columns"][0]["name"] = HOSTILE
    write_report(tmp_path, given)
    look(chromium, tmp_path / "report.html", width)
    assert chromium.run("document.scripts.length") == 0
    assert chromium.run("[...document.images].length") == 2
    assert chromium.run("[...document.images].every(image => image.naturalWidth > 200)")
    assert chromium.run("document.documentElement.scrollWidth <= innerWidth") and chromium.run(OUTSIDE) == []
