"""Findings: labels drawn at random, rows that leak, and encoders that saw the rows they would be measured on."""

import json
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import WORDS

from embedkit import (
    Compare,
    FineTune,
    LoadTexts,
    TrainHead,
    Training,
    UserError,
    compare,
    embed,
    fine_tune,
    import_encoder,
    load_texts,
)
from embedkit.arms import described
from embedkit.datasets import read_rows
from embedkit.vectors import read_vectors

SHORT = Compare(
    seeds=1,
    budgets=(),
    rows_a_run=128,
    head=TrainHead(training=Training(epochs=30, preflight=False)),
    fine_tune=FineTune(training=Training(batch_size=32, preflight=False)),
)
CHEAP = SHORT.model_copy(update={"arms": ("raw", "knn")})
TUNE = FineTune(training=Training(epochs=1, preflight=False))
SPLIT = LoadTexts(split_column="split", duplicates="keep")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("findings")


@pytest.fixture(scope="module")
def encoder(place, tiny_bert):
    return import_encoder(tiny_bert, root=place / "artifacts")


def sentences(count, seed=0):
    random = np.random.default_rng(seed)
    return [f"{' '.join(random.choice(WORDS, 6))} {number}" for number in range(count)]


def load(place, name, texts, labels, splits):
    lines = [f"{text}\t{label}\t{split}" for text, label, split in zip(texts, labels, splits, strict=True)]
    (place / f"{name}.tsv").write_text("text\tlabel\tsplit\n" + "\n".join(lines) + "\n")
    return load_texts(place / f"{name}.tsv", SPLIT, root=place / "artifacts")


def found_by(report):
    return json.loads((report / "results.json").read_text())


# Labels drawn at random ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nothing(place, encoder):
    """All arms on 300 texts whose labels say nothing of them."""
    labels = np.random.default_rng(1).choice(["one", "two"], 300)
    splits = ["train"] * 160 + ["validation"] * 20 + ["test"] * 120
    return compare(load(place, "drawn", sentences(300), labels, splits), encoder, SHORT)


@pytest.mark.slow
def test_no_arm_beats_guessing_where_labels_are_drawn_at_random(nothing):
    found = found_by(nothing)
    arms = {arm["name"]: arm for arm in found["arms"]}
    assert list(arms) == list(described("texts")) and not any(arm["skipped"] for arm in found["arms"])
    for name, arm in arms.items():
        score = arm["scores"]["all"]
        assert abs(score["value"] - 0.5) < 3 * np.sqrt(0.25 / 120), name
        assert abs(score["value"] - arms["guess"]["value"]) < 3 * np.hypot(score["rows_error"], 0.05), name


@pytest.mark.slow
def test_the_verdict_says_that_nothing_beats_guessing_and_recommends_nothing(nothing):
    found = found_by(nothing)
    title = next(arm["title"] for arm in found["arms"] if arm["name"] == found["best"])
    assert re.match(rf"Nothing beats guessing: the best arm, {re.escape(title)}, has accuracy [\d.]+ %", found["verdict"])
    assert (found["recommended"], found["command"]) == (None, None)
    assert nothing.manifest.verdict == found["verdict"]


@pytest.mark.slow
def test_texts_are_measured_in_every_way_there_is(nothing):
    assert {path.stem for path in (nothing / "predictions").iterdir()} == {f"{name}-all-0" for name in described("texts")}


@pytest.mark.slow
def test_a_run_of_few_rows_is_said_to_be_short(nothing):
    titles = "from scratch, adapter (LoRA), full fine-tuning, LP-FT"
    assert any(note.startswith(f"{titles} saw the 160 training rows 0.") for note in nothing.manifest.notes)
    moved = {arm["name"]: arm["rows_seen"] for arm in found_by(nothing)["arms"] if arm["rows_seen"] is not None}
    assert list(moved) == ["scratch", "adapter", "full", "lp_ft"]
    assert all(32 <= seen <= 128 for seen in moved.values())


@pytest.mark.slow
def test_costs_are_those_of_training_and_of_predicting_so_many_rows(nothing):
    arms = {arm["name"]: arm for arm in found_by(nothing)["arms"]}
    for arm in arms.values():
        assert arm["cost_seconds"] == pytest.approx(arm["seconds_to_train"] + 10 * arm["seconds_per_1000"])
    weights = 4 * nothing.inputs["encoder"].manifest.details["parameters"]
    assert [arms[name]["bytes"] - weights for name in ("linear", "mlp")] == [
        4 * (16 * 2 + 2),
        4 * (16 * 256 + 256 + 256 * 2 + 2),
    ]
    assert arms["guess"]["seconds_per_1000"] == 0 and arms["linear"]["seconds_per_1000"] > 0


# Leaks --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def leaky(place):
    """200 texts: of 60 test texts 10 are also training texts, 10 are training texts with a word more at the end."""
    train, test = sentences(140), sentences(40, seed=9)
    more = [f"{text} the" for text in train[10:20]]
    labels = np.random.default_rng(2).choice(["one", "two"], 140)
    texts = [*train, *test, *train[:10], *more]
    splits = ["train"] * 120 + ["validation"] * 20 + ["test"] * 60
    return load(place, "leaky", texts, [*labels, *np.random.default_rng(3).choice(["one", "two"], 40), *labels[:20]], splits)


@pytest.fixture(scope="module")
def leaked(leaky, encoder):
    # Vectors of random weights lie close together: the bound is one that the closest of other pairs doesn't reach.
    vectors = read_vectors(embed(leaky, encoder))[1]
    near = (vectors[140:] @ vectors[:140].T).max(axis=1)
    bound = float(np.sort(near[40:])[0] - 1e-4)
    return compare(leaky, encoder, CHEAP.model_copy(update={"near_duplicate": bound})), near, bound


def test_test_rows_that_are_training_rows_are_counted_and_near_ones_too(leaked):
    report, near, bound = leaked
    found = found_by(report)["duplicates"]
    alike = int((near >= bound).sum()) - 10  # to the encoder, which decides nothing
    assert found == {"exact": 10, "near": 0, "alike": alike, "bound": pytest.approx(bound), "test": 60} and alike >= 10
    assert report.manifest.details["duplicates"] == found


def test_the_verdict_is_about_rows_that_are_no_training_rows_and_says_that_the_encoder_was_imported(leaked):
    report, _, _ = leaked
    arms = {arm["name"]: arm for arm in found_by(report)["arms"]}
    clean = report.manifest.metrics["raw_accuracy_without_copies"]
    assert clean.n == 50 and clean.value == pytest.approx(arms["raw"]["without_copies"]["value"]) != arms["raw"]["value"]
    said = report.manifest.verdict
    assert f"has accuracy {100 * max(arms[name]['without_copies']['value'] for name in ('raw', 'knn')):.1f} %" in said
    assert " That is on the 50 test rows that are no copies of training rows; 10 more are copies, and left out. " in said
    assert said.endswith(" Lineage unknown: encoder/tiny-bert was imported, and what it learned from is not recorded.")


def test_nothing_is_recommended_where_every_test_row_is_a_training_row(place, encoder):
    texts, labels = sentences(60, seed=5), ["one", "two"] * 30
    splits = ["train"] * 50 + ["validation"] * 10 + ["test"] * 20
    dataset = load(place, "copied", [*texts, *texts[:20]], [*labels, *labels[:20]], splits)
    report = compare(dataset, encoder, CHEAP)
    assert report.manifest.verdict.startswith("Nothing can be said: every test row is also a training row. Lineage unknown: ")
    assert [report.manifest.details[name] for name in ("recommended", "best", "command")] == [None, None, None]


def test_exact_ones_are_counted_whatever_the_vectors_say(leaky, encoder):
    found = found_by(compare(leaky, encoder, CHEAP.model_copy(update={"near_duplicate": 1.0, "arms": ("guess",)})))["duplicates"]
    assert found["exact"] == 10


def test_a_score_without_rows_that_leak_is_given_beside(leaked):
    report, _, _ = leaked
    clean = np.arange(60) < 40
    clean |= np.arange(60) >= 50
    for arm in found_by(report)["arms"]:
        one = pq.read_table(report / f"predictions/{arm['name']}-all-0.parquet")
        hits = one["label"].to_numpy() == one["predicted"].to_numpy()
        assert arm["clean"]["rows"] == clean.sum() == 50
        assert arm["clean"]["value"] == pytest.approx(hits[clean].mean())
        assert arm["clean"]["error"] == pytest.approx(hits[clean].std(ddof=1) / np.sqrt(clean.sum()), rel=0.25)


def test_the_page_says_how_many_rows_leak(leaked):
    assert "10 are also among the training rows" in (leaked[0] / "report.html").read_text()


@pytest.mark.slow
def test_rows_of_which_none_leaks_have_no_second_score(nothing):
    found = found_by(nothing)
    assert {arm["clean"] for arm in found["arms"]} == {None}
    assert (found["duplicates"]["exact"], found["duplicates"]["near"]) == (0, 0)


@pytest.fixture(scope="module")
def tuned(place, encoder):
    """A classifier that learned from 50 rows of a dataset, and that dataset with another split: 12 of them are to be tested on."""
    texts = sentences(80, seed=5)
    labels = ["one", "two"] * 40
    first = load(place, "first", texts, labels, ["train"] * 44 + ["validation"] * 6 + ["test"] * 30)
    other = load(place, "other", texts, labels, ["test"] * 12 + ["train"] * 30 + ["test"] * 0 + ["train"] * 38)
    return fine_tune(first, encoder, TUNE), first, other


@pytest.mark.slow
def test_an_encoder_that_was_fine_tuned_on_the_test_rows_is_refused_by_name(tuned):
    classifier, _, other = tuned
    words = rf"12 of the 12 rows to measure on were learned from by {re.escape(str(classifier))}; measure on rows it never saw"
    with pytest.raises(UserError, match=words):
        compare(other, classifier, CHEAP)


@pytest.mark.slow
def test_an_encoder_that_was_fine_tuned_on_the_same_split_is_compared(tuned):
    classifier, first, _ = tuned
    report = compare(first, classifier, CHEAP.model_copy(update={"arms": ("guess",)}))
    tests = [row["id"] for row in read_rows(first).to_pylist() if row["split"] == "test"]
    assert pq.read_table(report / "predictions/guess-all-0.parquet")["id"].to_pylist() == tests
    assert report.manifest.name == classifier.manifest.name  # which already begins with the dataset's


# Texts without words ------------------------------------------------------------------------------------------------


def test_texts_without_a_word_are_refused_by_what_counts_words(place, encoder):
    texts = ["?" * (number + 1) for number in range(40)]
    signs = load(place, "signs", texts, ["one", "two"] * 20, ["train"] * 28 + ["test"] * 12)
    with pytest.raises(UserError, match=r"TF-IDF finds no word in the training texts \(empty vocabulary.*leave the arm raw out"):
        compare(signs, encoder, CHEAP)
    assert found_by(compare(signs, encoder, CHEAP.model_copy(update={"arms": ("knn",)})))["arms"][1]["skipped"] is None


def test_a_note_says_why_moving_networks_saw_few_rows():
    from types import SimpleNamespace

    from embedkit.findings import _notes

    scores = {"full": {"title": "full fine-tuning", "rows_seen": 500}}
    lessons = {("all", 0): SimpleNamespace(train=range(1000))}
    fits, given = (SimpleNamespace(seed=0, minutes=4.0, rows_a_run=rows) for rows in (None, 500))
    assert "0.5 times, since that is what fits 4 minutes; more may help them: raise minutes" in _notes(scores, lessons, fits)[1]
    assert "since a run is shown 500 rows; more may help them: raise rows_a_run" in _notes(scores, lessons, given)[1]
