"""Reports: what Prefect shows of an artifact, whatever its manifest says."""

import numpy as np
import pytest
from PIL import Image
from test_escaping import HOSTILE, Words, nothing_of_it_is_read, read, tokens_of
from test_tables import plant

from embedkit.artifacts import Metric, sha256
from embedkit.escaping import mermaid
from embedkit.reports import markdown


@pytest.fixture
def hostile(root):
    """An artifact whose manifest says hostile things wherever it can, made from another by a hostile role."""
    given = plant(root, "texts/_reviews_@1")
    words = "\n".join(HOSTILE[:7])
    return plant(
        **{"root": root, "reference": "classifier/__init__@2", "inputs": {words: given}, "stage": words, "rows": 3},
        **{"verdict": words, "notes": HOSTILE, "metrics": {each: Metric(value=0.5, n=3) for each in HOSTILE}},
        **{"settings": {each: each for each in HOSTILE}, "decisions": {"preflight": {"a": {"line": words}}}},
    )


def test_nothing_that_a_manifest_says_is_read_as_markdown(hostile):
    page = markdown(hostile)
    found = list(tokens_of(page))
    kinds = [kind for kind, _ in found]
    assert kinds.count("heading_open") == 1 and kinds.count("fence") == 2 and kinds.count("bullet_list_open") == 1
    assert kinds.count("tr_open") == 1 + len(HOSTILE) and kinds.count("td_open") == 4 * len(HOSTILE)
    assert kinds.count("list_item_open") == len(HOSTILE) + 1
    text, graph = page[: page.index("```mermaid")], next(content for kind, content in found if kind == "fence")
    nothing_of_it_is_read(text)
    words = " ".join(Words(text).words.split())
    assert all(read(each) in words for each in HOSTILE) and str(hostile) in words
    assert graph.count("\n") == 4 and graph.count('"') == 6
    assert [line for line in graph.split("\n") if not line.startswith(("graph LR", "a0[", "a1["))] == [
        f'a1 -->|"{mermaid(next(iter(hostile.inputs)))}"| a0', ""
    ]


def test_a_stage_is_said_where_there_is_no_verdict(root):
    assert "made by `plant`\n" in markdown(plant(root, "texts/reviews@1"))
    assert "made by a\\|b\n" in markdown(plant(root, "texts/reviews@2", stage="a|b"))


def test_a_picture_is_shown_by_its_bytes_and_nothing_else_is(root):
    name = "![](http:) <b>.png"
    artifact = plant(root, "encoder/tiny@1", {name: "x"})
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(artifact / name)
    artifact.manifest.files[0] = artifact.manifest.files[0].model_copy(update={"sha256": sha256(artifact / name)})
    pictures = [content for kind, content in tokens_of(markdown(artifact)) if kind == "image"]
    assert pictures == [r"\!\[\](http:) \<b\>.png"]


def test_only_a_report_is_a_page_of_its_own(root):
    page = "# A page\n\n![x](data:image/png;base64,AA==)\n"
    assert markdown(plant(root, "report/reviews@1", {"report.md": page})) == page
    assert "A page" not in markdown(plant(root, "encoder/tiny@1", {"report.md": page}))
