"""Leaks: what learned from a row is not measured on it, whatever lies between them."""

import re
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedkit import LoadTexts, Settings, UserError, load_texts
from embedkit.artifacts import Artifact, remove
from embedkit.datasets import read_rows
from embedkit.leaks import Copies, record_fitted, refuse_leaks, with_lineage
from embedkit.sources import Source
from embedkit.stages import Draft, Facts, stage


class Learn(Settings):
    """What a tiny stage learns from."""

    first: int = 0
    """First row it learns from."""
    rows: int = 0
    """How many rows it learns from."""


@stage("encoder", revision=1)
def learn(out: Draft, dataset: Artifact, settings: Learn = Learn()) -> Facts:
    """Learn from some rows of a dataset."""
    chosen = read_rows(dataset).slice(settings.first, settings.rows)
    (out / "learned.txt").write_text(str(chosen["id"].to_pylist()))
    return Facts(rows=record_fitted(out, chosen))


@stage("vectors", revision=1)
def derive(out: Draft, encoder: Artifact, settings: Settings = Settings()) -> Facts:
    """Make something of what was learned, learning nothing."""
    (out / "derived.txt").write_text("derived")
    return Facts()


@stage("encoder", revision=1)
def boast(out: Draft, dataset: Artifact, settings: Learn = Learn()) -> Facts:
    """Say that rows were learned from, and not which."""
    (out / "learned.txt").write_text("much")
    return Facts(details={"fitted": settings.rows})


@stage("classifier", revision=1)
def classify(out: Draft, dataset: Artifact, settings: Settings = Settings()) -> Facts:
    """Be a classifier that says nothing of what it learned from."""
    (out / "learned.txt").write_text("labels")
    return Facts()


@stage("encoder", revision=1)
def bring(out: Draft, source: Source, settings: Settings = Settings()) -> Facts:
    """Import an encoder, of which nobody knows what it learned from."""
    (out / "weights.txt").write_text("1 2 3")
    return Facts()


@stage("encoder", revision=1)
def shorten(out: Draft, encoder: Artifact, settings: Settings = Settings()) -> Facts:
    """Cut an encoder, learning nothing."""
    (out / "weights.txt").write_text("1 2")
    return Facts()


@pytest.fixture
def texts(tmp_path):
    """Twelve texts in their order, each with a key of its own."""
    (tmp_path / "texts.csv").write_text("text,key\n" + "".join(f"text {number},{number}\n" for number in range(12)))
    return load_texts(tmp_path / "texts.csv", LoadTexts(key_column="key"))


def test_what_was_learned_from_is_written_beside_the_artifact(texts):
    encoder = learn(texts, Learn(first=2, rows=3))
    ledger = pq.read_table(encoder / "fitted.parquet")
    assert ledger["id"].to_pylist() == [2, 3, 4]
    assert ledger["content"].to_pylist() == read_rows(texts)["content"].to_pylist()[2:5]
    assert encoder.manifest.rows == 3


def test_rows_that_were_learned_from_are_not_measured_on(texts):
    encoder = learn(texts, Learn(first=2, rows=3))
    words = rf"2 of the 6 rows to measure on were learned from by {encoder}; measure on rows it never saw, or train it again"
    with pytest.raises(UserError, match=words):
        refuse_leaks(encoder, read_rows(texts).slice(3, 6))


def test_rows_that_nothing_learned_from_may_be_measured_on(texts):
    encoder = learn(texts, Learn(first=2, rows=3))
    assert refuse_leaks(encoder, read_rows(texts).slice(5, 7)) is None
    assert refuse_leaks(derive(encoder), read_rows(texts).slice(0, 2)) is None


def test_the_ancestor_that_learned_is_named_however_far_up(texts):
    encoder = learn(texts, Learn(rows=1))
    derived = derive(derive(encoder, name="nearer"), name="nearest")
    with pytest.raises(UserError, match=f"1 of the 12 rows to measure on were learned from by {encoder};"):
        refuse_leaks(derived, read_rows(texts))


def test_rows_are_known_by_their_content_under_other_keys_and_splits(texts, tmp_path):
    encoder = learn(texts, Learn(rows=4))
    (tmp_path / "again.csv").write_text("text,key\n" + "".join(f"text {number},{number + 900}\n" for number in range(3, 9)))
    again = read_rows(load_texts(tmp_path / "again.csv", LoadTexts(key_column="key")))
    assert not set(again["id"].to_pylist()) & set(read_rows(texts)["id"].to_pylist())
    with pytest.raises(UserError, match="1 of the 6 rows"):
        refuse_leaks(encoder, again)


def test_equal_keys_of_other_contents_are_no_leak(texts, tmp_path):
    encoder = learn(texts, Learn(rows=12))
    (tmp_path / "others.csv").write_text("text,key\n" + "".join(f"other {number},{number}\n" for number in range(12)))
    others = read_rows(load_texts(tmp_path / "others.csv", LoadTexts(key_column="key")))
    assert others["id"].to_pylist() == read_rows(texts)["id"].to_pylist()
    assert refuse_leaks(encoder, others) is None


def test_nothing_is_said_of_what_an_ancestor_that_is_gone_learned_from(texts):
    encoder = learn(texts, Learn(rows=1))
    derived = derive(encoder)
    remove(encoder)
    with pytest.raises(UserError, match=f"{derived} was made from {encoder}, which is not in .* any more; make it again or bring"):
        refuse_leaks(Artifact.at(derived.path), read_rows(texts))


def test_every_copy_of_a_learned_row_counts(texts, tmp_path):
    (tmp_path / "twice.csv").write_text("text\ntext 0\ntext 0\ntext 1\n")
    twice = read_rows(load_texts(tmp_path / "twice.csv"))
    with pytest.raises(UserError, match="2 of the 3 rows"):
        refuse_leaks(learn(texts, Learn(rows=1)), twice)


def test_a_ledger_holds_ids_and_contents_only(texts, tmp_path):
    rows = pa.table({"id": [1], "content": np.array([2]), "split": ["train"], "label": ["secret"]})
    draft = Draft(tmp_path / "draft")
    assert record_fitted(draft, rows) == 1
    assert pq.read_table(draft / "fitted.parquet").column_names == ["id", "content"]


def test_a_ledger_holds_the_fold_of_each_row_where_there_are_folds(tmp_path):
    rows = pa.table({"id": [1, 2], "content": [3, 4], "split": ["train", "validation"]})
    draft = Draft(tmp_path / "draft")
    assert record_fitted(draft, rows, np.array([2, -1], np.int8)) == 2
    ledger = pq.read_table(draft / "fitted.parquet")
    assert ledger.to_pydict() == {"id": [1, 2], "content": [3, 4], "fold": [2, -1]} and ledger["fold"].type == pa.int8()


# Ledgers that can't be trusted


def empty(path):
    path.write_bytes(b"")


def another(path):
    pq.write_table(pa.table({"id": [1], "content": [1]}), path)


def link(path):
    path.rename(path.with_name("moved"))
    path.symlink_to(path.with_name("moved"))


DAMAGES = {
    "lost": (lambda path: path.unlink(), "is missing"),
    "empty": (empty, "doesn't fit its checksum"),
    "another": (another, "doesn't fit its checksum"),
    "a link": (link, "is missing"),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "is missing"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_a_ledger_that_is_not_as_it_was_published_measures_nothing_however_far_up(texts, damage, steps):
    measured = encoder = learn(texts, Learn(rows=3))
    for number in range(steps):
        measured = derive(measured, name=f"step-{number}")
    spoil, words = DAMAGES[damage]
    spoil(encoder / "fitted.parquet")
    with pytest.raises(UserError) as caught:
        refuse_leaks(measured, read_rows(texts).slice(6, 6))  # rows that it did not learn from
    assert str(caught.value) == (
        f"which rows {encoder} learned from can't be known, since its fitted.parquet {words}; restore it, or make {encoder} again "
        "and what was made from it"
    )


def test_a_ledger_that_was_looked_at_before_is_looked_at_again_when_it_changed(texts):
    encoder = learn(texts, Learn(rows=3))
    rows = read_rows(texts).slice(6, 6)
    assert refuse_leaks(encoder, rows) is None
    kept = (encoder / "fitted.parquet").read_bytes()
    (encoder / "fitted.parquet").write_bytes(bytes([kept[0] ^ 1]) + kept[1:])
    with pytest.raises(UserError, match="doesn't fit its checksum"):
        refuse_leaks(encoder, rows)
    (encoder / "fitted.parquet").write_bytes(kept)
    assert refuse_leaks(encoder, rows) is None


@pytest.mark.parametrize("made", [lambda texts: boast(texts, Learn(rows=3)), classify])
def test_what_learned_and_has_no_ledger_measures_nothing(texts, made):
    made = made(texts)
    words = f"which rows {made} learned from can't be known, since its fitted.parquet is not among its files; restore it, or make"
    for measured in (made, derive(made)):
        with pytest.raises(UserError, match=re.escape(words)):
            refuse_leaks(measured, read_rows(texts))


def test_what_says_that_it_learned_from_no_row_needs_no_ledger(texts):
    assert refuse_leaks(boast(texts, Learn(rows=0)), read_rows(texts)) is None


def test_a_ledger_that_nobody_published_is_not_believed(texts):
    encoder = boast(texts, Learn(rows=0))
    shutil.copy(learn(texts, Learn(rows=3), name="other") / "fitted.parquet", encoder.path)
    with pytest.raises(UserError, match="since its fitted.parquet is not among its files"):
        refuse_leaks(encoder, read_rows(texts).slice(6, 6))


# What must be said of the rest


def test_a_verdict_on_what_was_imported_says_that_nobody_knows_what_it_learned_from(texts, tmp_path):
    (tmp_path / "minilm.txt").write_text("x")
    minilm = bring(tmp_path / "minilm.txt")
    said = "better (lineage unknown: encoder/minilm was imported, and what it learned from is not recorded)"
    for made in (minilm, derive(minilm), shorten(minilm), derive(shorten(minilm), name="d")):
        assert with_lineage("better", made) == said
        assert with_lineage("better", texts, None, made, minilm) == said
    (tmp_path / "other.txt").write_text("y")
    other = bring(tmp_path / "other.txt")
    assert with_lineage("It is better.", minilm, other) == (
        "It is better. Lineage unknown: encoder/minilm and encoder/other were imported, and what they learned from is not recorded."
    )


def test_a_verdict_on_what_is_known_stays_as_it_is(texts):
    for made in (texts, learn(texts, Learn(rows=3)), boast(texts, Learn(rows=0), name="random"), derive(learn(texts))):
        assert with_lineage("better", made, None) == "better"


def copies(count, rows):
    return Copies(np.arange(rows) < count)


def test_copies_are_test_rows_that_hold_what_is_learned_from():
    found = Copies.among(np.array([7, 8, 9, 7, 5, 9]), test=np.array([3, 4, 5]), learned=np.array([0, 1]))
    assert (found.mask.tolist(), found.count, found.clean.tolist()) == ([True, False, False], 1, [False, True, True])
    assert Copies().count == 0 and not Copies().say_nothing


@pytest.mark.parametrize(
    ("count", "rows", "clean", "words"),
    [
        (0, 3, "better", "better"),
        (0, 0, "It is better.", "It is better."),
        (5, 5, "better", "nothing can be said: every test row is also a training row"),
        (1005, 1005, "It is better.", "Nothing can be said: every test row is also a training row."),
        (1, 10, "better", "nothing can be said: 1 of the 10 test rows are also training rows, and the 9 others are too few"),
        (2, 12, "better", "better, on the 10 test rows that are no copies of training rows; with the 2 copies too: 0.9"),
        (2, 12, "It is.", "It is. That is on the 10 test rows that are no copies of training rows; with the 2 copies too: 0.9."),
    ],
)
def test_a_verdict_leads_with_what_is_no_copy_and_says_nothing_where_too_little_is(count, rows, clean, words):
    found = copies(count, rows)
    assert found.verdict(clean, "0.9") == words
    assert found.leading.sum() == (rows if found.say_nothing else rows - count)


def test_a_verdict_without_a_figure_of_all_rows_says_what_was_left_out():
    words = "It is better. That is on the 30 test rows that are no copies of training rows; 10 more are copies, and left out."
    assert copies(10, 40).verdict("It is better.") == words
