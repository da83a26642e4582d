"""Near copies: what differs in its dress alone is found, and what is merely alike is not."""

import io

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from embedkit import near
from embedkit.normalising import normal, normal_word


def found(kind, contents, content=None):
    """The place of the first row that each is a near copy of."""
    sketches = near.KINDS[kind].sketch(contents, map)
    content = np.arange(len(contents)) if content is None else np.asarray(content)
    table = near.found(kind, content, sketches, lambda name: contents[name], contents.column_names)
    return table["near"].to_numpy()


def texts(*rows):
    return found("texts", pa.table({"text": pa.array(rows, pa.string())})).tolist()


@pytest.mark.parametrize(
    "copy",
    [
        "the film, is GOOD!",
        " The  film is\tgood.\n",
        "THE FILM IS GOOD",
        "the-film is «good»",
        "the ﬁlm is good",  # a ligature
        "ｔｈｅ ｆｉｌｍ ｉｓ ｇｏｏｄ",
        "the film\u200b is good",
    ],
)
def test_a_text_in_another_dress_is_a_copy(copy):
    assert texts("the film is good", "the film is bad", copy) == [0, 1, 0]


@pytest.mark.parametrize(
    ("one", "other"),
    [("1.5 of 3", "15 of 3"), ("1, 2", "12"), ("a < b", "a > b"), ("good 😀", "good 😡"), ("it is", "it was"), ("?", "!")],
)
def test_texts_that_say_something_else_are_none(one, other):
    assert texts(one, other) == [0, 1]


def test_normalising_leaves_letters_digits_and_signs():
    assert normal("Straße № 5: 1,000.5 + x²!") == "strasseno5|1|000|5+x2"
    assert (normal_word(" New-York "), normal_word(" A "), normal_word("a")) == ("newyork", "A", "a")


def encoded(pixels, form="PNG", **options):
    file = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(file, form, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def pictures():
    """Forty pictures of 60 x 80: a few bright boxes each, somewhere else in each."""
    random, made = np.random.default_rng(0), []
    for _ in range(40):
        pixels = np.full((60, 80, 3), random.integers(0, 120, 3), np.uint8)
        for _ in range(5):
            top, left = random.integers(0, 45), random.integers(0, 60)
            pixels[top : top + random.integers(8, 20), left : left + random.integers(8, 25)] = random.integers(0, 255, 3)
        made.append(pixels)
    return made


CHANGED = {
    "encoded again": lambda pixels: encoded(pixels, "JPEG", quality=75),
    "halved": lambda pixels: encoded(Image.fromarray(pixels).resize((40, 30))),
    "enlarged": lambda pixels: encoded(Image.fromarray(pixels).resize((200, 150))),
    "both": lambda pixels: encoded(Image.fromarray(pixels).resize((60, 45)), "JPEG", quality=75),
}


@pytest.mark.parametrize("change", CHANGED)
def test_a_picture_encoded_or_sized_otherwise_is_a_copy(pictures, change):
    rows = [encoded(pixels) for pixels in pictures] + [CHANGED[change](pixels) for pixels in pictures]
    assert found("images", pa.table({"image": rows})).tolist() == [*range(40), *range(40)]
    sketches = near.KINDS["images"].sketch(pa.table({"image": rows}), map)
    assert near.like(sketches[40:], sketches[:40]).all() and not near.like(sketches[40:60], sketches[:20]).sum() < 20
    assert not near.like(sketches[60:], sketches[:20]).any()


def test_no_two_of_1797_digits_are_copies_and_each_encoded_again_is():
    digits = [(pixels * (255 / 16)).astype(np.uint8) for pixels in load_digits().images]
    rows = [encoded(pixels) for pixels in digits]
    assert (found("images", pa.table({"image": rows})) == np.arange(1797)).all()
    rows += [encoded(pixels, "JPEG", quality=75) for pixels in digits[:50]]
    assert (found("images", pa.table({"image": rows}))[1797:] == np.arange(50)).mean() >= 0.98


def test_flat_pictures_and_noise_of_one_shape_are_no_copies():
    flat = [encoded(np.full((20, 20, 3), level, np.uint8)) for level in (10, 11, 200, 255)]
    assert found("images", pa.table({"image": flat})).tolist() == [0, 1, 2, 3]
    random, noisy = np.random.default_rng(0), []
    for _ in range(60):  # bright on the left, each with noise of its own
        pixels = random.integers(0, 120, (24, 32, 3))
        pixels[:, :16] += 120
        noisy.append(encoded(pixels.astype(np.uint8)))
    assert (found("images", pa.table({"image": noisy})) == np.arange(60)).all()


def test_a_picture_in_other_colours_is_no_copy(pictures):
    assert found("images", pa.table({"image": [encoded(pictures[0]), encoded(pictures[0][..., ::-1])]})).tolist() == [0, 1]


def table(**columns):
    return pa.table(columns)


def numbers(rows, columns, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, columns))


@pytest.mark.parametrize("noise", [lambda x, e: x + 1e-6 * e, lambda x, e: x * (1 + 1e-6 * e)], ids=["absolute", "relative"])
@pytest.mark.parametrize("columns", [2, 3, 20])
def test_a_row_whose_numbers_have_a_millionth_of_noise_is_a_copy_and_no_other(columns, noise):
    own = numbers(2000, columns)
    both = np.concatenate([own, noise(own[:300], numbers(300, columns, 1))])
    rows = pa.table({f"x{number}": both[:, number] for number in range(columns)})
    assert found("table", rows).tolist() == [*range(2000), *range(300)]


def test_whole_numbers_with_noise_are_copies_and_whole_numbers_that_differ_are_none():
    own = np.random.default_rng(0).integers(0, 1000, (500, 4)).astype(float)
    both = np.concatenate([own, own[:100] + 1e-6 * numbers(100, 4)])
    assert found("table", pa.table({f"x{n}": both[:, n] for n in range(4)})).tolist() == [*range(500), *range(100)]
    moments = 1_700_000_000 + np.arange(500)  # a ten-millionth apart
    assert (found("table", table(at=moments, x=np.ones(500))) == np.arange(500)).all()


def test_numbers_that_meet_by_chance_are_no_copies():
    one = np.random.default_rng(0).uniform(0, 1, 50_000)
    assert (found("table", table(x=one)) == np.arange(50_000)).all()
    assert (found("table", table(price=one, taxed=one * 1.19)) == np.arange(50_000)).all()  # one number, twice
    assert (found("table", table(x=one, kind=np.arange(50_000) % 3)) == np.arange(50_000)).all()


def test_words_in_another_dress_are_copies_where_a_row_says_enough():
    name = [f"Street number {n}" for n in range(200)]
    own = table(name=[*name, *(one.upper() + " " for one in name[:20])], x=np.r_[np.arange(200), np.arange(20)])
    assert found("table", own).tolist() == [*range(200), *range(20)]
    colours = [*("red", "Red ", "green", "GREEN") * 50]
    few = table(colour=colours, size=["small", "Small"] * 100)  # which equal rows have by nature
    assert (found("table", few) == np.arange(200)).all()


def test_codes_of_a_letter_keep_their_case():
    random = np.random.default_rng(0)
    rows = {f"gene{n}": random.choice(["A", "a"], 300) for n in range(40)}
    changed = {name: np.char.swapcase(values[:50].astype(str)) for name, values in rows.items()}
    assert (found("table", table(**{name: np.r_[rows[name], changed[name]] for name in rows})) == np.arange(350)).all()


def test_a_row_is_known_in_another_file_whatever_the_order_of_its_columns_and_its_types():
    own = table(name=[f"name {n}" for n in range(50)], x=numbers(50, 1)[:, 0], n=np.arange(50))
    other = table(N=np.arange(50).astype(float), x=own["x"], name=[f"NAME  {n}" for n in range(50)])
    ours, theirs = (
        near.found("table", np.arange(50), near.KINDS["table"].sketch(one, map), lambda name, one=one: one[name], one.column_names)
        for one in (own, other)
    )
    assert near.like(ours["sketch"].combine_chunks(), theirs["sketch"].combine_chunks()).all()
    assert not near.like(ours["sketch"].combine_chunks()[:25], theirs["sketch"].combine_chunks()[25:]).any()


def test_missing_values_are_equal_to_missing_ones_alone():
    x, y = [0.125, None, 0.125, None], [0.7501, 0.3301, None, 0.3301000001]
    more = numbers(400, 2)
    keys = ["same row"] * 4 + [f"row {n}" for n in range(400)]
    rows = table(x=pa.array([*x, *more[:, 0]]), y=pa.array([*y, *more[:, 1]]), key=keys)
    assert found("table", rows).tolist()[:4] == [0, 1, 2, 1]


def test_equal_rows_are_copies_of_the_first_of_them():
    assert found("table", table(x=[1, 1, 2]), content=[7, 7, 8]).tolist() == [0, 0, 2]
    assert found("texts", table(text=["a", "a", "A"]), content=[7, 7, 8]).tolist() == [0, 0, 0]


@pytest.mark.parametrize("kind", near.KINDS)
def test_no_rows_have_no_copies(kind):
    column = {"texts": ("text", pa.string()), "images": ("image", pa.binary()), "table": ("x", pa.float64())}[kind]
    assert found(kind, pa.schema([column]).empty_table()).tolist() == []
