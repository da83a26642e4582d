"""Canaries: fixed inputs, stored without pickles, and how much vectors may move."""

import numpy as np
import pytest

from embedkit import canaries
from embedkit.features import Calendar, Category, Columns, Embedded, Numbers, Vocabulary


def test_there_are_a_few_dozen_of_each_modality_and_no_two_are_equal():
    assert len(canaries.TEXTS) == len(set(canaries.TEXTS)) == 32
    pictures = canaries.pictures()
    assert (pictures.shape, pictures.dtype) == ((24, 48, 64, 3), np.uint8)
    assert len({picture.tobytes() for picture in pictures}) == 24


def test_pictures_are_the_same_every_time():
    assert np.array_equal(canaries.pictures(), canaries.pictures())


def test_pictures_span_all_levels_and_tell_channels_and_sides_apart():
    pictures = canaries.pictures()
    assert (pictures.min(), pictures.max()) == (0, 255)
    assert any((picture != picture[..., ::-1]).any() for picture in pictures)
    assert any((picture != picture[:, ::-1]).any() for picture in pictures)
    assert any((picture != picture[::-1]).any() for picture in pictures)


def test_texts_hold_what_breaks_tokenizers():
    whole = " ".join(canaries.TEXTS)
    assert any(text != text.lower() for text in canaries.TEXTS)
    assert any(ord(letter) > 0xFFFF for letter in whole)
    assert max(len(text.split()) for text in canaries.TEXTS) > 512
    assert min(len(text) for text in canaries.TEXTS) == 1


@pytest.mark.parametrize("modality", ["texts", "images"])
def test_what_is_saved_is_loaded(tmp_path, modality):
    rows = canaries.inputs(modality)
    vectors = np.random.default_rng(0).normal(size=(len(rows), 5)).astype(np.float32)
    canaries.save(tmp_path / "canaries.npz", modality, vectors)
    found, kept = canaries.load(tmp_path / "canaries.npz")
    assert len(found) == len(rows)
    assert all(np.array_equal(mine, theirs) for mine, theirs in zip(found, rows, strict=True))
    assert isinstance(found[0], str if modality == "texts" else np.ndarray)
    assert kept.dtype == np.float32
    assert np.array_equal(kept, vectors)


def test_a_file_of_canaries_needs_no_unpickling(tmp_path):
    canaries.save(tmp_path / "canaries.npz", "texts", np.zeros((32, 2)))
    with np.load(tmp_path / "canaries.npz", allow_pickle=False) as stored:
        assert {stored[name].dtype.kind for name in stored.files} == {"U", "f"}


def test_saving_twice_gives_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        canaries.save(tmp_path / f"{name}.npz", "images", np.ones((24, 3)))
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()


def test_agreement_of_vectors_of_length_1_is_their_cosine():
    angle = 0.3
    vectors = np.array([[np.cos(angle), np.sin(angle)], [0.0, 1.0], [-1.0, 0.0]])
    found = canaries.agreement(vectors, np.array([[1.0, 0.0]] * 3))
    assert found == pytest.approx([np.cos(angle), 0.0, -1.0])


def test_agreement_sees_a_changed_length_too():
    reference = np.array([[3.0, 4.0]])
    assert canaries.agreement(reference, reference).tolist() == [1.0]
    assert canaries.agreement(1.1 * reference, reference) == pytest.approx([1 - 0.01 / 2])
    assert canaries.agreement(2 * reference, reference)[0] < canaries.LEAST_AGREEMENT


def test_agreement_of_zeros_is_1_only_with_zeros():
    zeros = np.zeros((1, 3))
    assert canaries.agreement(zeros, zeros).tolist() == [1.0]
    assert canaries.agreement(np.full((1, 3), 1e-3), zeros)[0] < 0


def test_agreement_with_nan_is_never_enough():
    found = canaries.agreement(np.array([[np.nan, 1.0]]), np.array([[0.0, 1.0]]))
    assert not found.min() >= canaries.LEAST_AGREEMENT


# Tables

COLUMNS = Columns(
    columns=[
        Embedded(name="city", vocabulary=0),
        Numbers(name="size", low=0, high=8, gaps=True, bounded=True),
        Category(name="month", values=[1, 2, 3]),
        Calendar(name="day", parts={"month": [1, 2]}, format="%d.%m.%Y"),
    ],
    vocabularies=[Vocabulary(name="city", values=["a", "b"], missing=False, dimension=2)],
)


def test_rows_of_a_table_are_made_up_from_what_its_columns_take():
    rows = canaries.table_rows(COLUMNS)
    assert len(rows) == 32 and rows == canaries.table_rows(COLUMNS)
    found = {name: [row[name] for row in rows] for name in ("city", "size", "month", "day")}
    assert all(None in values for values in found.values())
    assert set(found["city"]) == {"a", "b", "no such value", None}
    assert {1, 2, 3} < set(found["month"])
    sizes = [size for size in found["size"] if size is not None]
    assert min(sizes) < 0 and max(sizes) > 8


def test_rows_of_a_table_are_stored_as_json(tmp_path):
    vectors = np.zeros((32, 3), np.float32)
    canaries.save(tmp_path / "canaries.npz", "table", vectors, COLUMNS.model_dump_json())
    rows, kept = canaries.load(tmp_path / "canaries.npz")
    assert rows == canaries.table_rows(COLUMNS) and np.array_equal(kept, vectors)
