"""Cross-fitting: which rows get vectors of which fold, and whose vectors these are."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedkit import checkpoints
from embedkit.crossfit import NONE, Folds, Known, file_of
from embedkit.entities import build
from embedkit.features import Columns, Embedded, Numbers, Vocabulary
from embedkit.frameworks import start_keras

COLUMNS = Columns(
    columns=[Numbers(name="size", low=0, high=1, gaps=False), Embedded(name="city", vocabulary=0)],
    vocabularies=[Vocabulary(name="city", values=["a", "b"], missing=False, dimension=2)],
)
WHOLE = np.array([[0, 0], [1, 1], [2, 2], [3, 3]], np.float32)
INPUTS = {"numbers": np.array([[0.5], [0.25]], np.float32), "values": np.array([[2], [3]], np.int32)}


@pytest.fixture(scope="module")
def model():
    """An encoder of one number and one column of two values."""
    start_keras(0)
    encoder, (table,) = build(COLUMNS)
    table.set_weights([WHOLE])
    return encoder


@pytest.fixture
def folds(model, tmp_path):
    """Five rows that were learned from in two folds, of which two are equal, and one that wasn't; vectors are tens and hundreds."""
    folds = pa.array([0, 1, 0, 1, NONE, 0], pa.int8())
    ledger = pa.table({"id": [5, 1, 4, 2, 3, 6], "content": [50, 10, 40, 10, 30, 60], "fold": folds})
    pq.write_table(ledger, tmp_path / "fitted.parquet")
    (tmp_path / "folds").mkdir()
    for fold in (0, 1):
        checkpoints.save_arrays(tmp_path / file_of(fold), vocabulary_0=WHOLE * 10 ** (fold + 1))
    found = Folds.open(tmp_path, model)
    assert found is not None
    return found


def test_a_row_has_the_fold_of_its_id_and_content_else_that_of_its_content_and_others_have_none(folds):
    content = np.array([10, 60, 30, 11, -5, 2**62, 50])
    for ids in (np.arange(7) + 100, np.arange(7)):  # another dataset may use its ids otherwise
        assert folds.of(Known(ids, content)).tolist() == [1, 0, NONE, NONE, NONE, NONE, 0]
    assert folds.of(Known(np.arange(0), np.arange(0))).tolist() == []


def test_of_equal_rows_each_has_its_own_fold(model, folds, tmp_path):
    ledger = {"id": [5, 3, 4], "content": [7, 7, 8], "fold": pa.array([0, 1, 1], pa.int8())}
    pq.write_table(pa.table(ledger), tmp_path / "fitted.parquet")
    rows = pa.table({"id": [3, 5, 4, 4], "content": [7, 7, 8, 9]})
    found = Folds(tmp_path, model)
    assert found.of(Known.of(rows)).tolist() == [1, 0, 1, NONE]  # the last is another row of the same key
    assert found.of(Known.of(rows).take([1, 3])).tolist() == [0, NONE]


def test_a_copy_of_a_training_row_that_decided_when_to_stop_has_the_training_rows_fold(model, folds, tmp_path):
    for order in ([0, NONE, 1], [NONE, 0, 1], [1, NONE, 0]):
        content = [7 if fold <= 0 else 8 for fold in order]
        ledger = {"id": range(3), "content": content, "fold": pa.array(order, pa.int8())}
        pq.write_table(pa.table(ledger), tmp_path / "fitted.parquet")
        found = Folds(tmp_path, model).of(Known(np.arange(3), np.array(content)))
        assert found.tolist() == [0 if one == 7 else 1 for one in content]


def test_a_folds_network_has_its_own_vectors_and_all_else_of_the_encoder(folds, model):
    assert folds.forward(1)(INPUTS).tolist() == [[0.5, 200, 200], [0.25, 300, 300]]
    assert folds.forward(0)(INPUTS).tolist() == [[0.5, 20, 20], [0.25, 30, 30]]
    assert np.asarray(model(INPUTS)).tolist() == [[0.5, 2, 2], [0.25, 3, 3]]  # which keeps its own


def test_an_encoder_without_folds_has_none(model, tmp_path):
    assert Folds.open(tmp_path, model) is None
