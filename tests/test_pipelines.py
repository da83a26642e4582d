"""Feeds: rows become batches, every row once, and the caller can put vectors back in order."""

import io
import json
from decimal import Decimal

import numpy as np
import pandas
import pyarrow as pa
import pytest
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.implementations import BertWordPieceTokenizer, ByteLevelBPETokenizer, SentencePieceUnigramTokenizer

from embedkit import UserError, images
from embedkit.features import MISSING, Category, Columns, Embedded, Numbers, Vocabulary
from embedkit.features import UNKNOWN as UNSEEN
from embedkit.pipelines import (
    CHARACTERS_PER_TOKEN,
    DRAFT,
    PICTURES_PER_BATCH,
    TABLE_ROWS_PER_BATCH,
    TOKENS_PER_BATCH,
    ImageFeed,
    TableFeed,
    TextFeed,
    by_position,
)

PAD, UNKNOWN, CLS, SEP, CAT, DOG, MAT = range(7)
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "cat", "dog", "mat"]
COLUMNS = Columns(
    columns=[
        Numbers(name="size", low=10, high=30, gaps=False),
        Numbers(name="depth", low=-1, high=0, gaps=True),
        Category(name="colour", values=["blue", "red"]),
        Category(name="sold", values=[False, True]),
    ]
)


def tokenizer(words=WORDS):
    return Tokenizer.from_str(BertWordPieceTokenizer({word: n for n, word in enumerate(words)}, lowercase=True).to_str())


def together(feed, rows):
    """Token ids of each row with its padding, in row order."""
    found = [None] * len(rows)
    for indices, batch in feed.batches(rows):
        for line, row in enumerate(indices):
            assert found[row] is None
            found[row] = batch["token_ids"][line].tolist()
    return found


def test_a_text_becomes_token_ids_between_special_ones():
    ((rows, batch),) = TextFeed(tokenizer(), 16).batches(["cat dog"])
    assert rows.tolist() == [0]
    assert batch["token_ids"].tolist() == [[CLS, CAT, DOG, SEP]]
    assert batch["padding_mask"].tolist() == [[1, 1, 1, 1]]
    assert batch["segment_ids"].tolist() == [[0, 0, 0, 0]]
    assert {array.dtype for array in batch.values()} == {np.dtype(np.int32)}


def test_longer_texts_come_first_and_shorter_ones_are_padded():
    ((rows, batch),) = TextFeed(tokenizer(), 16).batches(["cat", "cat dog mat", ""])
    assert rows.tolist() == [1, 0, 2]
    assert batch["token_ids"].tolist() == [[CLS, CAT, DOG, MAT, SEP], [CLS, CAT, SEP, PAD, PAD], [CLS, SEP, PAD, PAD, PAD]]
    assert batch["padding_mask"].sum(axis=1).tolist() == [5, 3, 2]


def test_padding_is_the_tokenizers_own_wherever_it_stands():
    ((_, batch),) = TextFeed(tokenizer(["[UNK]", "[CLS]", "[SEP]", "cat", "dog", "[PAD]"]), 16).batches(["cat dog", "cat"])
    assert batch["token_ids"][1].tolist() == [1, 3, 2, 5]


def test_a_text_is_cut_at_the_maximal_length_and_keeps_its_end_token():
    assert together(TextFeed(tokenizer(), 4), ["cat dog mat cat dog"]) == [[CLS, CAT, DOG, SEP]]


def test_a_prompt_stands_before_each_text():
    assert together(TextFeed(tokenizer(), 8, "dog "), ["cat", "mat"]) == [[CLS, DOG, CAT, SEP], [CLS, DOG, MAT, SEP]]


def test_settings_left_in_a_tokenizer_file_do_not_count():
    with_settings = tokenizer()
    with_settings.enable_padding(length=50)
    with_settings.enable_truncation(3)
    assert together(TextFeed(with_settings, 8), ["cat dog mat"]) == [[CLS, CAT, DOG, MAT, SEP]]


def test_batches_stay_within_the_token_budget_and_hold_every_row_once():
    random = np.random.default_rng(0)
    rows = [" ".join(["cat"] * length) for length in random.integers(1, 300, 500)]
    seen, longest = [], None
    for indices, batch in TextFeed(tokenizer(), 512).batches(rows):
        lines, length = batch["token_ids"].shape
        assert lines * length <= TOKENS_PER_BATCH
        assert longest is None or length <= longest
        assert batch["padding_mask"].sum(axis=1).tolist() == [len(rows[row].split()) + 2 for row in indices]
        seen, longest = [*seen, *indices.tolist()], length
    assert sorted(seen) == list(range(500))


def test_a_text_that_is_longer_than_the_budget_has_a_batch_of_its_own():
    rows = [" ".join(["cat"] * (TOKENS_PER_BATCH + 100)), "cat"]
    sizes = [batch["token_ids"].shape for _, batch in TextFeed(tokenizer(), 2 * TOKENS_PER_BATCH).batches(rows)]
    assert sizes == [(1, TOKENS_PER_BATCH + 102), (1, 3)]


def test_texts_without_any_token_are_padding_alone_beside_others_and_empty_by_themselves():
    bare = Tokenizer.from_str(tokenizer().to_str())
    bare = Tokenizer.from_str(json.dumps(json.loads(bare.to_str()) | {"post_processor": None}))
    assert together(TextFeed(bare, 8), ["", "cat", "dog mat"]) == [[PAD, PAD], [CAT, PAD], [DOG, MAT]]
    ((rows, batch),) = TextFeed(bare, 8).batches(["", "\u0301"])
    assert rows.tolist() == [0, 1] and {array.shape for array in batch.values()} == {(2, 0)}


def test_no_rows_make_no_batch():
    assert list(TextFeed(tokenizer(), 8).batches([])) == []
    assert list(ImageFeed(4, 4).batches([])) == []
    assert list(TableFeed(COLUMNS).batches([])) == []


@pytest.mark.parametrize(("row", "kind"), [(b"cat", "bytes"), (None, "NoneType"), (3, "int"), (np.zeros(3), "ndarray")])
def test_what_is_no_text_is_refused(row, kind):
    with pytest.raises(UserError, match=f"texts are encoded here, but {kind} came: .*; give str"):
        list(TextFeed(tokenizer(), 8).batches(["cat", row]))


def test_a_lone_surrogate_is_refused():
    with pytest.raises(UserError, match="not valid Unicode .a lone surrogate.; take it out or replace"):
        list(TextFeed(tokenizer(), 8).batches(["cat \ud800"]))


@pytest.mark.parametrize("text", ["\x00", "\u200b", "🐈" * 3, "cat" * 5000, "\n\t "])
def test_odd_texts_become_tokens_all_the_same(text):
    (ids,) = together(TextFeed(tokenizer(), 8), [text])
    assert (ids[0], ids[-1]) == (CLS, SEP)
    assert len(ids) <= 8


# Very long texts, of which only the beginning is looked at

LINES = ["the cat sat on the mat, and the dog ran; naïve cats don't!", "a dog  and\ta cat\n\n  over 1,234.5 mats 🐈 日本語"]


def wordpiece():
    return tokenizer([*WORDS, *"abcdefghijklmnopqrstuvwxyz", *(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz")])


def byte_level():
    made = ByteLevelBPETokenizer()
    made.train_from_iterator(LINES * 5, vocab_size=400, show_progress=False)
    return Tokenizer.from_str(made.to_str())


def unigram():
    made = SentencePieceUnigramTokenizer()
    made.train_from_iterator(LINES * 5, vocab_size=80, show_progress=False, special_tokens=["<unk>"], unk_token="<unk>")
    return Tokenizer.from_str(made.to_str())


def whole(made, texts, length):
    """The tokens of texts that are looked at as a whole."""
    made = Tokenizer.from_str(made.to_str())
    made.enable_truncation(length)
    return [made.encode(text).ids for text in texts]


def drawn(random, pieces, size):
    """A text of these pieces, about so many characters long."""
    return "".join(random.choice(pieces, 1 + size // max(1, int(np.mean([len(piece) for piece in pieces])))))


@pytest.fixture(scope="module")
def long_texts():
    """Texts of words, of very long words, of rare spaces, of none, of spaces only, and of odd ones, around where they are cut."""
    random, most = np.random.default_rng(0), 16 * CHARACTERS_PER_TOKEN
    made = [" " * 5 * most, "\n" * 5 * most, "cat" * 5 * most, "cat " * 5 * most, " " * 2 * most + "cat", "cat" + " " * 3 * most]
    made += ["x" * (most - 1) + " cat", "x" * most + " cat dog", "x" * (most + 1) + "\ncat", "cat" * most + " dog" * most]
    kinds = {
        "words": ["cat", "dog", "mat", " ", "  ", "\n", " \n ", ",", "don't"],
        "long words": ["cat" * 200, "y" * 90, "y" * 150, "dog", " ", " ", "\n"],
        "rare spaces": [*["cat", "dog", "é", "1,2"] * 30, " "],
        "odd": ["e\u0301", "\u0301", " \u0301", "\u00a0", "\u3000", "\t", "日本", "🐈", "\x00", "[SEP]", " ", " ", "\r\n", "cat"],
    }
    for pieces in kinds.values():
        made += [drawn(random, pieces, size) for size in random.integers(most // 2, 12 * most, 25)]
    return made


@pytest.mark.parametrize("make", [wordpiece, byte_level, unigram])
@pytest.mark.parametrize("prompt", ["", "query: "])
def test_a_long_text_has_the_tokens_of_the_whole(long_texts, make, prompt):
    made = make()
    found = TextFeed(made, 16, prompt).tokens(long_texts)
    for text, ids, expected in zip(long_texts, found, whole(made, [prompt + text for text in long_texts], 16), strict=True):
        assert ids == expected, text[:200]


def test_a_lower_cased_long_text_has_the_tokens_of_the_whole(long_texts):
    texts = [text.upper() for text in long_texts]
    assert TextFeed(wordpiece(), 16, lower=True).tokens(texts) == whole(wordpiece(), [text.lower() for text in texts], 16)


def test_of_ten_megabytes_only_the_beginning_is_tokenized():
    class Watched:
        """A tokenizer that notes how long the texts are that it is given."""

        def __init__(self):
            self.real, self.seen = wordpiece(), []

        def __getattr__(self, name):
            return getattr(self.real, name)

        def encode_batch_fast(self, texts):
            self.seen += [len(text) for text in texts]
            return self.real.encode_batch_fast(texts)

    watched, text = Watched(), drawn(np.random.default_rng(0), ["cat ", "dog ", "mats "], 10_000_000)
    assert len(text) > 9_000_000
    (found,) = TextFeed(watched, 256).tokens([text])
    assert watched.seen[0] <= 256 * CHARACTERS_PER_TOKEN
    assert found == whole(wordpiece(), [text[:100_000]], 256)[0]


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def noise(count, height=6, width=8):
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3)).astype(np.uint8)


def test_bytes_paths_and_pixels_of_a_picture_are_the_same_row(tmp_path):
    (pixels,) = noise(1)
    path = tmp_path / "picture.png"
    path.write_bytes(png(pixels))
    ((rows, batch),) = ImageFeed(6, 8).batches([pixels, png(pixels), path, str(path)])
    assert rows.tolist() == [0, 1, 2, 3]
    assert (batch.shape, batch.dtype) == ((4, 6, 8, 3), np.uint8)
    assert all(np.array_equal(line, pixels) for line in batch)


def test_pictures_keep_their_order_in_batches_of_bounded_size():
    pictures = noise(2 * PICTURES_PER_BATCH + 3)
    found = list(ImageFeed(6, 8).batches([png(pixels) for pixels in pictures]))
    assert [len(rows) for rows, _ in found] == [PICTURES_PER_BATCH, PICTURES_PER_BATCH, 3]
    assert np.concatenate([rows for rows, _ in found]).tolist() == list(range(len(pictures)))
    assert np.array_equal(np.concatenate([batch for _, batch in found]), pictures)


def test_pictures_of_any_size_come_to_the_networks_size():
    ((_, batch),) = ImageFeed(5, 7).batches([np.full((1, 1, 3), 9, np.uint8), np.full((40, 30, 3), 200, np.uint8)])
    assert batch.shape == (2, 5, 7, 3)
    assert (np.unique(batch[0]).tolist(), np.unique(batch[1]).tolist()) == ([9], [200])


def test_one_array_of_several_pictures_is_rows_too():
    pictures = noise(3)
    ((_, batch),) = ImageFeed(6, 8).batches(pictures)
    assert np.array_equal(batch, pictures)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("missing.png", r"missing\.png can't be read: .*No such file.*; give the bytes, the path or the pixels"),
        (b"no picture", "a picture can't be read: not a readable picture"),
        (b"", "a picture can't be read: the file is empty"),
        (np.zeros((4, 4), np.uint8), r"an array of shape \(4, 4\) and type uint8, not \(height, width, 3\) uint8"),
        (np.zeros((4, 4, 3)), r"an array of shape \(4, 4, 3\) and type float64"),
        (np.zeros((4, 4, 4), np.uint8), r"an array of shape \(4, 4, 4\)"),
        (None, "None can't be read"),
        (7, "7 can't be read"),
        ("a\0b", "can't be read: embedded null byte"),
    ],
)
def test_what_is_no_picture_is_refused(row, words):
    with pytest.raises(UserError, match=words):
        list(ImageFeed(4, 4).batches([row]))


def test_a_cut_off_picture_is_refused(tmp_path):
    path = tmp_path / "cut.png"
    path.write_bytes(png(noise(1, 64, 64)[0])[:2000])
    with pytest.raises(UserError, match=r"cut\.png can't be read: not a readable picture"):
        list(ImageFeed(4, 4).batches([path]))


def test_a_picture_without_pixels_is_refused():
    with pytest.raises(UserError, match="can't be read"):
        list(ImageFeed(4, 4).batches([np.zeros((0, 5, 3), np.uint8)]))


@pytest.mark.parametrize("with_bad", [True, False])
def test_broken_pictures_among_good_ones_are_told_or_refused(with_bad):
    pictures = noise(PICTURES_PER_BATCH + 4)
    rows = [png(pixels) for pixels in pictures]
    rows[1], rows[PICTURES_PER_BATCH + 1] = b"no picture", b""
    if not with_bad:
        with pytest.raises(UserError, match="a picture can't be read: not a readable picture"):
            list(ImageFeed(6, 8).batches(rows))
        return
    bad: dict[int, str] = {}
    found = list(ImageFeed(6, 8).batches(rows, bad))
    assert bad == {1: "not a readable picture (of no known format)", PICTURES_PER_BATCH + 1: "the file is empty"}
    places = np.concatenate([places for places, _ in found])
    assert places.tolist() == [place for place in range(len(rows)) if place not in bad]
    assert np.array_equal(np.concatenate([pixels for _, pixels in found]), pictures[places])


def test_a_batch_of_broken_pictures_alone_is_none():
    bad: dict[int, str] = {}
    assert list(ImageFeed(6, 8).batches([b"a", b"b", "missing.png"], bad)) == []
    assert sorted(bad) == [0, 1, 2] and "No such file" in bad[2]


def photo(height, width):
    """A JPEG of soft shapes, as a camera gives them."""
    rows, columns = np.mgrid[0:height, 0:width] / 50
    pixels = np.stack([np.sin(rows + shift) * np.cos(columns - shift) for shift in range(3)], axis=2) * 120 + 128
    data = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(data, "jpeg", quality=90)
    return data.getvalue()


@pytest.mark.parametrize(
    ("height", "width", "near", "decoded"),
    [
        (400, 600, (50, 50), (50, 75)),
        (400, 600, (100, 100), (100, 150)),
        (400, 600, (101, 101), (200, 300)),
        (400, 600, (50, 101), (200, 300)),  # of both sides the larger one, since the picture may be turned
        (400, 600, (200, 200), (200, 300)),
        (400, 600, (201, 10), (400, 600)),
        (400, 600, None, (400, 600)),
    ],
)
def test_a_jpeg_is_decoded_at_the_smallest_size_that_is_not_below_what_is_needed(height, width, near, decoded):
    assert images.decode(photo(height, width), near).shape == (*decoded, 3)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (20, 50)])
def test_pixels_of_a_large_jpeg_are_near_those_of_full_decoding(monkeypatch, height, width):
    data, seen, decode = photo(800, 1000), [], images.decode

    def watched(data, near=None, size=None):
        seen.append(near)
        return decode(data, near, size)

    monkeypatch.setattr(images, "decode", watched)
    found = ImageFeed(height, width).pixels(data)
    assert seen == [(DRAFT * height, DRAFT * width)]
    full = images.resize(decode(data), height, width)
    assert found.shape == full.shape
    assert np.abs(found.astype(int) - full).max() <= 4
    assert not np.array_equal(found, full)  # it was decoded smaller


def test_a_cut_jpeg_is_refused_at_any_scale_as_at_its_full_size():
    data = photo(120, 160)
    for cut in [*range(1, 40), len(data) // 2, len(data) - 200]:
        outcomes = set()
        for near in (None, (1, 1), (40, 40)):
            try:
                outcomes.add(len(images.decode(data[:-cut], near)) > 0)
            except ValueError:
                outcomes.add(False)
        assert len(outcomes) == 1, cut


ROWS = [
    {"size": 10, "depth": -1, "colour": "red", "sold": True},
    {"size": 30.0, "depth": 0, "colour": "blue", "sold": False},
    {"size": 40, "depth": -2.5, "colour": "pink", "sold": None},
    {"size": None, "depth": None, "colour": None, "sold": True},
    {"size": float("nan"), "depth": float("-inf"), "colour": "", "sold": False},
]
NUMBERS = [
    # size, depth, depth is missing, colour is blue, colour is red, sold is False, sold is True
    [-1, -1, 0, 0, 1, 0, 1],
    [1, 1, 0, 1, 0, 1, 0],
    [2, -4, 0, 0, 0, 0, 0],
    [0, 0, 1, 0, 0, 0, 1],
    [0, 0, 1, 0, 0, 1, 0],
]


def numbers(rows, columns=COLUMNS):
    return np.concatenate([batch for _, batch in TableFeed(columns).batches(rows)])


@pytest.mark.parametrize("rows", [ROWS, pa.Table.from_pylist(ROWS)], ids=["dictionaries", "arrow"])
def test_numbers_are_scaled_and_categories_one_hot(rows):
    found = numbers(rows)
    assert (found.dtype, found.tolist()) == (np.float32, NUMBERS)


def test_the_outputs_of_a_table_say_what_they_are():
    names = ["size", "depth", "depth is missing", "colour is blue", "colour is red", "sold is False", "sold is True"]
    assert COLUMNS.outputs == names
    assert Columns.model_validate_json(COLUMNS.model_dump_json()) == COLUMNS


def test_other_columns_and_the_order_of_columns_do_not_count():
    rows = [{"more": object(), **dict(reversed(row.items()))} for row in ROWS]
    assert numbers(rows).tolist() == NUMBERS
    table = pa.Table.from_pylist(ROWS)
    assert numbers(table.select(table.column_names[::-1]).append_column("more", [["x"] * 5])).tolist() == NUMBERS


def test_a_text_that_is_not_valid_unicode_is_one_that_no_row_had():
    assert numbers([ROWS[0] | {"colour": "\ud800"}]).tolist() == [[-1, -1, 0, 0, 0, 0, 1]]


def test_every_type_of_number_and_text_is_taken():
    given = [{"size": kind("20"), "depth": 0, "colour": np.str_("red"), "sold": np.True_} for kind in (int, float, Decimal)]
    given += [given[0] | {"size": kind(20)} for kind in (np.int8, np.uint64, np.float16, np.float32)] + [given[0] | {"size": 2**80}]
    assert numbers(given)[:7].tolist() == [[0, 1, 0, 0, 1, 0, 1]] * 7
    assert numbers(given)[7, 0] == np.float32(2**80 / 10)


def test_numbers_far_from_0_keep_what_they_differ_in():
    seconds = Columns(columns=[Numbers(name="time", low=1.7e9, high=1.7e9 + 8, gaps=False)])
    assert numbers([{"time": 1.7e9 + n} for n in range(9)], seconds)[:, 0].tolist() == [n / 4 - 1 for n in range(9)]


def test_a_range_may_be_as_wide_as_numbers_go():
    for low, middle, high in ((-1.7e308, 0, 1.7e308), (1.2e308, 1.4e308, 1.6e308)):
        widest = Columns(columns=[Numbers(name="x", low=low, high=high, gaps=False)])
        assert numbers([{"x": x} for x in (low, middle, high)], widest)[:, 0] == pytest.approx([-1, 0, 1], abs=1e-6)


def test_a_column_of_one_number_says_only_whether_it_is_there():
    flag = Columns(columns=[Numbers(name="flag", low=1, high=1, gaps=True)])
    assert numbers([{"flag": 1}, {"flag": None}, {"flag": 9}], flag).tolist() == [[0, 0], [0, 1], [0, 0]]


def test_a_column_without_any_value_is_missing_throughout_whatever_its_type():
    nothing = pa.table({name: pa.nulls(2, pa.string()) for name in ("size", "depth", "colour", "sold")})
    assert numbers(nothing).tolist() == [[0, 0, 1, 0, 0, 0, 0]] * 2


@pytest.mark.parametrize("arrow", [False, True])
def test_rows_of_a_table_keep_their_order_in_batches_of_bounded_size(arrow):
    count = 2 * TABLE_ROWS_PER_BATCH + 3
    rows = [ROWS[0] | {"size": n} for n in range(count)]
    found = list(TableFeed(COLUMNS).batches(pa.Table.from_pylist(rows) if arrow else rows))
    assert [len(batch) for _, batch in found] == [TABLE_ROWS_PER_BATCH, TABLE_ROWS_PER_BATCH, 3]
    assert np.concatenate([indices for indices, _ in found]).tolist() == list(range(count))
    assert np.concatenate([batch for _, batch in found])[:, 0] == pytest.approx(np.arange(count) / 10 - 2)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"size": "20"}, "column 'size' takes numbers, but '20' came in row 8194; give what it held when the encoder was"),
        ({"size": True}, "column 'size' takes numbers, but True came in row 8194"),
        ({"colour": 3}, "column 'colour' takes texts, but 3 came in row 8194"),
        ({"colour": float("nan")}, "column 'colour' takes texts, but nan came in row 8194"),
        ({"sold": "yes"}, "column 'sold' takes truth values, but 'yes' came in row 8194"),
        ({"sold": 1}, "column 'sold' takes truth values, but 1 came in row 8194"),
        ({"depth": ["x" * 200]}, "column 'depth' takes numbers, but .'x{78} came in row 8194;"),
    ],
)
def test_a_value_of_another_type_is_refused_with_its_row(value, words):
    rows = ROWS * 1700
    with pytest.raises(UserError, match=words):
        numbers([*rows[:8194], ROWS[0] | value, *rows])


def test_a_column_of_another_type_is_refused_with_a_value_of_it():
    table = pa.Table.from_pylist([row | {"size": text} for row, text in zip(ROWS, [None, "big", *"abc"], strict=True)])
    with pytest.raises(UserError, match="column 'size' takes numbers, but 'big' came; give what it held when the encoder was made"):
        numbers(table)


def test_a_missing_column_is_refused_by_its_name():
    rows = [*ROWS, {"size": 1, "sold": True}]
    words = "there is no column 'depth' and no 'colour' in row 5; give all columns that the encoder was made from, with None for"
    with pytest.raises(UserError, match=words):
        numbers(rows)
    with pytest.raises(UserError, match="there is no column 'colour'; give all columns"):
        numbers(pa.Table.from_pylist(ROWS).drop_columns("colour"))


@pytest.mark.parametrize(("row", "kind"), [("red", "str"), (None, "NoneType"), ([1, 2], "list")])
def test_what_is_no_row_of_a_table_is_refused(row, kind):
    with pytest.raises(UserError, match=f"rows of a table are encoded here, but {kind} came: .*; give dictionaries of a value by"):
        numbers([ROWS[0], row])


# Tables with embedded columns

SHOPS = Columns(
    columns=[
        Embedded(name="home", vocabulary=0),
        *COLUMNS.columns[:1],
        Embedded(name="away", vocabulary=0),
        Embedded(name="code", vocabulary=1),
    ],
    vocabularies=[
        Vocabulary(name="home, away", values=["Bonn", "Rom"], missing=True, dimension=2),
        Vocabulary(name="code", values=["7", "8"], missing=False, dimension=2),
    ],
)
GAMES = [
    {"home": "Bonn", "size": 10, "away": "Rom", "code": 7},
    {"home": "Ulm", "size": None, "away": None, "code": 8},
    {"home": None, "size": 30, "away": "Bonn", "code": None},
]


@pytest.mark.parametrize("rows", [GAMES, pa.Table.from_pylist(GAMES)], ids=["dictionaries", "arrow"])
def test_values_of_embedded_columns_become_places_beside_the_numbers(rows):
    ((indices, batch),) = TableFeed(SHOPS).batches(rows)
    assert indices.tolist() == [0, 1, 2]
    assert batch["numbers"].tolist() == [[-1], [0], [1]]
    assert batch["values"].tolist() == [[2, 3, 2], [UNSEEN, MISSING, 3], [MISSING, 2, UNSEEN]]
    assert (batch["numbers"].dtype, batch["values"].dtype) == (np.float32, np.int32)


def test_a_table_of_embedded_columns_alone_has_no_numbers():
    alone = Columns(columns=SHOPS.embedded, vocabularies=SHOPS.vocabularies)
    ((_, batch),) = TableFeed(alone).batches(GAMES)
    assert list(batch) == ["values"] and batch["values"].shape == (3, 3)


def test_values_without_a_vector_of_their_own_are_counted_by_column():
    feed = TableFeed(SHOPS)
    ((_, batch),) = feed.batches(GAMES)
    assert feed.unknown(batch, np.ones(len(GAMES), int)) == {"home": 1, "away": 0, "code": 1}
    assert TableFeed(COLUMNS).unknown(numbers(ROWS), np.ones(len(ROWS), int)) == {}


@pytest.mark.parametrize("codes", [[7, 8, 9], [7.0, 8.0, 7.5], ["7", "8", "7.0"]], ids=["whole", "fractions", "texts"])
def test_a_column_that_comes_in_another_type_has_the_same_values(codes):
    rows = [row | {"code": code} for row, code in zip(GAMES, codes, strict=True)]
    for given in (rows, pa.Table.from_pylist(rows)):
        ((_, batch),) = TableFeed(SHOPS).batches(given)
        assert batch["values"][:, 2].tolist() == [2, 3, UNSEEN]


def test_what_is_no_value_of_an_embedded_column_is_refused():
    words = "column 'home' takes texts, numbers, truth values or moments, but {'a': 1} came in row 1; give what it held when"
    with pytest.raises(UserError, match=words):
        list(TableFeed(SHOPS).batches([GAMES[0], GAMES[1] | {"home": {"a": 1}}]))


# Rows of other collections


@pytest.mark.parametrize(
    "rows",
    [
        *(pandas.Series(list("abcd"))[[3, 1]], pandas.Series(["d", "b"], index=[1, 0]), pandas.Series(["d", "b"], index=["", ""])),
        *(pa.array(["d", "b"]), pa.chunked_array([["d"], ["b"]]), iter(["d", "b"]), pandas.Series(["d", "b"], dtype="category")),
        *(dict.fromkeys("db").keys().__iter__(), np.array(["d", "b"]), ("d", "b"), pandas.Index(["d", "b"])),
    ],
)
def test_rows_are_taken_by_where_they_stand(rows):
    assert list(by_position(rows)) == ["d", "b"]


def test_a_series_of_pictures_is_taken_by_position(tmp_path):
    pixels = noise(4)
    paths = [tmp_path / f"{n}.png" for n in range(4)]
    for path, each in zip(paths, pixels, strict=True):
        path.write_bytes(png(each))
    feed = ImageFeed(6, 8)
    for given in (pandas.Series(paths), pandas.Series([str(path) for path in paths]), pandas.Series(list(pixels))):
        for order in ([1, 3], [2, 0, 1], [3]):
            ((_, batch),) = feed.batches(by_position(given[order]))
            assert (batch == pixels[order]).all()


def test_a_data_frame_is_rows_of_a_table():
    frame = pandas.DataFrame({"a": [1, 2, 3], "b": ["x", None, "z"], "c": pandas.Categorical(["u", "v", "u"])}, index=[2, 0, 1])
    assert by_position(frame[frame.a > 1]) == [{"a": 2, "b": None, "c": "v"}, {"a": 3, "b": "z", "c": "u"}]


def test_rows_without_an_order_and_columns_without_a_type_are_refused():
    with pytest.raises(UserError, match="a set came, whose rows have no order; give a list"):
        by_position({"a", "b"})
    with pytest.raises(UserError, match=r"the DataFrame can't be read .*; give each column one type, or dictionaries"):
        by_position(pandas.DataFrame({"a": [1, "x", b"y"]}))
