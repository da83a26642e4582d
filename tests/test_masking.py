"""mask_texts: more texts made of training texts, and of nothing else."""

import numpy as np
import pytest

from embedkit import Encoder, LoadTexts, MaskTexts, UserError, embed, import_encoder, load_texts, mask_texts
from embedkit.datasets import read_contents, read_rows
from embedkit.masking import MASK, changed
from embedkit.splits import hash64

WORDS = "zero one two three four five six seven eight nine ten eleven".split()


@pytest.fixture
def texts(tmp_path):
    """20 training texts of twelve words, and two of each other split."""
    lines = [f"{' '.join(WORDS[number % 3 :])} {number},train" for number in range(20)]
    lines += [f"never seen {number},{split}" for split in ("validation", "test") for number in range(2)]
    (tmp_path / "texts.csv").write_text("text,split\n" + "\n".join(lines) + "\n")
    return load_texts(tmp_path / "texts.csv", LoadTexts(split_column="split"))


def contents(dataset):
    return read_contents(dataset, 0, dataset.manifest.rows)["text"].to_pylist()


def change(text, **settings):
    random = np.random.default_rng(0)
    return [changed(text, MaskTexts(**settings), random) for _ in range(1000)]


def test_so_many_words_are_masked():
    found = change(" ".join(WORDS), masked=0.25, cut=0)
    assert all(len(text.split()) == 12 for text in found)
    assert all(word in (MASK, kept) for text in found for word, kept in zip(text.split(), WORDS, strict=True))
    assert np.mean([text.split().count(MASK) for text in found]) == pytest.approx(3, abs=0.2)


def test_so_many_texts_are_a_run_of_one_to_five_words():
    found = change(" ".join(WORDS), masked=0, cut=0.5)
    pieces = [text for text in found if text != " ".join(WORDS)]
    assert len(pieces) == pytest.approx(500, abs=50)
    assert {len(piece.split()) for piece in pieces} == {1, 2, 3, 4, 5}
    assert all(f" {piece} " in f" {' '.join(WORDS)} " for piece in pieces)
    assert {piece.split()[0] for piece in pieces} == set(WORDS) == {piece.split()[-1] for piece in pieces}


def test_a_text_shorter_than_its_piece_is_taken_whole():
    assert set(change("zero one", masked=0, cut=1)) == {"zero", "one", "zero one"}
    assert set(change("", masked=0.5, cut=1)) == {""}


def test_copies_are_of_training_texts_differ_and_have_no_label(texts):
    made = mask_texts(texts, MaskTexts(copies=3))
    found = contents(made)
    assert made.manifest.kind == "texts" and made.manifest.name == "texts-masked"
    assert 40 < len(found) == len(set(found)) == made.manifest.rows <= 60
    assert not set(found) & set(contents(texts)) and "" not in found
    assert not any("never" in text or "seen" in text for text in found)
    rows = read_rows(made)
    assert set(rows["split"].to_pylist()) == {"train"} and "label" not in rows.column_names
    assert rows["content"].to_pylist() == [hash64(text.encode()) for text in found] == rows["id"].to_pylist()
    assert rows["position"].to_pylist() == list(range(len(found)))
    assert made.manifest.details["splits"] == {"train": len(found), "validation": 0, "test": 0}


def test_the_same_call_in_another_root_gives_the_same_bytes_and_another_seed_others(texts, tmp_path):
    def files(dataset):
        return {file.path: file.sha256 for file in dataset.manifest.files}

    again = load_texts(tmp_path / "texts.csv", LoadTexts(split_column="split"), root=tmp_path / "other")
    first = mask_texts(texts)
    assert files(mask_texts(again)) == files(first)
    assert files(mask_texts(texts, MaskTexts(seed=1))) != files(first)


def test_a_mask_is_one_token_to_an_encoder_and_copies_can_be_embedded(texts, tiny_bert):
    encoder = import_encoder(tiny_bert)
    assert Encoder.open(encoder).feed.tokens([f"the {MASK} sat"]) == [[2, 5, 4, 9, 3]]
    made = mask_texts(texts)
    assert embed(made, encoder).manifest.rows == made.manifest.rows


def test_texts_of_which_none_trains_are_refused(tmp_path):
    (tmp_path / "held.csv").write_text("text,split\none,test\ntwo,test\n")
    held = load_texts(tmp_path / "held.csv", LoadTexts(split_column="split"))
    with pytest.raises(UserError, match=f"^{held} has no training rows to change; load it again with another split$"):
        mask_texts(held)


def test_settings_that_change_nothing_are_refused(texts):
    with pytest.raises(UserError, match=f"^no text of {texts} changed; raise masked, cut or copies$"):
        mask_texts(texts, MaskTexts(masked=0, cut=0))
