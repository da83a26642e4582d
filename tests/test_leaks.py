"""Leaks: what learned from a row is not measured on it, whatever lies between them."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedkit import LoadTexts, Settings, UserError, load_texts
from embedkit.artifacts import Artifact, remove
from embedkit.datasets import read_rows
from embedkit.leaks import record_fitted, refuse_leaks
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
