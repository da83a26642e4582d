"""Checkpoints: files of arrays that are whole or not there."""

import numpy as np
import pytest

from embedkit import checkpoints


def test_arrays_are_written_by_name_and_the_same_ones_have_the_same_bytes(tmp_path):
    arrays = {"vocabulary_0": np.arange(6, dtype=np.float32).reshape(3, 2), "losses": np.array([1.5])}
    for name in ("one.npz", "two.npz"):
        checkpoints.save_arrays(tmp_path / name, **arrays)
    with np.load(tmp_path / "one.npz", allow_pickle=False) as stored:
        assert sorted(stored.files) == sorted(arrays) and all(np.array_equal(stored[name], arrays[name]) for name in arrays)
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.npz", "two.npz"]


def test_a_file_that_could_not_be_written_leaves_the_one_before(tmp_path):
    checkpoints.save_arrays(tmp_path / "one.npz", a=np.ones(2))
    with pytest.raises(ValueError, match="allow_pickle"):
        checkpoints.save_arrays(tmp_path / "one.npz", a=np.array([object()]))
    with np.load(tmp_path / "one.npz", allow_pickle=False) as stored:
        assert stored["a"].tolist() == [1, 1]
