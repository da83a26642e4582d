"""Augmentation: what changes, by how much, what stays, and that a resumed run draws the same."""

import typing

import numpy as np
import pytest
from cyclopts import App, Parameter
from pydantic import ValidationError

from embedkit import augmentation, frameworks
from embedkit.checkpoints import assign, values
from embedkit.settings import Settings

frameworks.load_frameworks()

import keras  # noqa: E402  after the frameworks were loaded quietly
import tensorflow as tf  # noqa: E402

NAMES = typing.get_args(typing.get_args(augmentation.Images)[0])
LAYERS = [name for name in NAMES if name not in augmentation.PRESETS]


class Look(Settings):
    """What a stage could ask for."""

    images: augmentation.Images = ("none",)
    """Changes to pictures."""


@pytest.fixture
def generator():
    frameworks.start_keras(0)
    return keras.random.SeedGenerator(1)


def traced(function, *examples):
    """A function as the training step has it: traced, the number of rows open, order of summation fixed."""
    specs = [tf.TensorSpec([None, *np.shape(example)[1:]], np.asarray(example).dtype) for example in examples]
    step = tf.function(function, input_signature=specs).get_concrete_function()

    def run(*arrays):
        return tf.nest.map_structure(lambda tensor: tensor.numpy(), step(*map(tf.constant, arrays)))

    return run


def near(share, expected, count):
    """Whether a share is within four standard errors of what is expected."""
    return abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / count)


def photo(rows=64, height=20, width=30):
    """Coloured noise, darker on the right."""
    pixels = np.random.default_rng(0).uniform(0, 255, (rows, height, width, 3)).astype(np.float32)
    pixels[:, :, width // 2 :] *= 0.4
    return pixels


# Pictures


def changed(names, pixels, seed=0):
    """Pictures, the layers that changed them, and the traced function."""
    frameworks.start_keras(0)
    layers = augmentation.layers(names, seed)
    run = traced(lambda images: augmentation.apply(layers, images), pixels)
    return run(pixels), [variable for layer in layers for variable in layer.variables], run


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_changes_each_picture_in_its_own_way_and_keeps_shape_type_and_range(name):
    pixels = np.broadcast_to(photo(1), (64, 20, 30, 3)).copy()
    first, _, _ = changed((name,), pixels)
    assert first.shape == pixels.shape and first.dtype == np.float32
    assert first.min() >= 0 and first.max() <= 255
    different = len(np.unique(first.reshape(64, -1), axis=0))
    assert different == 2 if name in ("flip", "grayscale", "blur") else different > 8


def test_restored_random_state_gives_the_same_bits_and_another_step_others():
    pixels = photo(8)
    _, variables, run = changed(LAYERS, pixels)
    kept = values(variables)
    assert len(kept) == len(LAYERS) and len({tuple(state) for state in kept}) == len(kept)  # each draws for itself
    ahead = [run(pixels) for _ in range(3)]
    assert not np.array_equal(ahead[0], ahead[1])
    assign(variables, kept)
    assert np.array_equal([run(pixels) for _ in range(3)], ahead)


def test_a_fresh_start_with_the_same_seed_gives_the_same_bits_and_another_seed_others():
    pixels = photo(8)
    first, same, other = (changed(("light",), pixels, seed)[0] for seed in (3, 3, 4))
    assert np.array_equal(first, same) and not np.array_equal(first, other)


def test_none_changes_nothing():
    pixels = photo()
    for names in ((), ("none",)):
        found, variables, _ = changed(names, pixels)
        assert np.array_equal(found, pixels) and variables == []


def test_presets_stand_for_their_layers_and_what_is_named_twice_comes_once():
    def kinds(*names):
        return [type(layer).__name__.removeprefix("Random").lower() for layer in augmentation.layers(names, 0)]

    frameworks.start_keras(0)
    assert kinds("light") == ["translation", "zoom"]
    assert kinds("light", "flip", "zoom") == ["translation", "zoom", "flip"]
    assert kinds("strong") == ["translation", "zoom", "flip", "rotation", "contrast", "brightness", "erasing"]


def test_light_moves_a_picture_by_a_tenth_at_most_and_never_mirrors_it():
    pixels = np.zeros((200, 40, 40, 3), np.float32)
    pixels[:, 15:20, 5:10] = 255
    moved, _, _ = changed(("light",), pixels)
    middle = (moved[..., 0].sum(axis=1) * (np.arange(40) + 0.5)).sum(axis=1) / moved[..., 0].sum(axis=(1, 2))
    # 7.5 is moved by 4 pixels at most, then drawn a tenth nearer to the middle (20) or further from it.
    assert middle.min() >= 7.5 - 4 - 1.7 and middle.max() <= 7.5 + 4 + 1.7
    assert middle.std() > 1.5


def test_what_comes_in_at_the_border_is_the_border_and_no_mirror_image():
    pixels = np.full((100, 20, 20, 3), 100, np.float32)
    pixels[:, :, 1] = 200  # a line beside the border, which a mirror would show twice when it is moved by two pixels
    moved, _, _ = changed(("translation",), pixels)
    assert (moved[:, 10, :, 0] - 100).sum(axis=1).max() <= 100 + 1e-2


def test_amounts_are_those_that_the_setting_says():
    pixels = np.full((1000, 4, 4, 3), 100, np.float32)
    brighter = changed(("brightness",), pixels)[0][:, 0, 0, 0] - 100
    assert -51 <= brighter.min() < -45 and 45 < brighter.max() <= 51
    pixels[:, :2] = 120
    contrast = np.ptp(changed(("contrast",), pixels)[0], axis=(1, 2, 3)) / 20
    assert 0.7 <= contrast.min() + 1e-4 < 0.73 and 1.27 < contrast.max() - 1e-4 <= 1.3
    pixels = np.broadcast_to(photo(1, 8, 8), (1000, 8, 8, 3)).copy()
    for name, share in {"flip": 0.5, "grayscale": 0.2, "blur": 0.2, "erasing": 0.5}.items():
        touched = (np.abs(changed((name,), pixels)[0] - pixels).max(axis=(1, 2, 3)) > 0.1).mean()
        assert near(touched, share, 1000), (name, touched)


def test_a_flip_changes_left_and_right_only():
    pixels = photo()
    flipped, _, _ = changed(("flip",), pixels)
    turned = np.abs(flipped - pixels).max(axis=(1, 2, 3)) > 0
    assert np.array_equal(flipped[turned], pixels[turned][:, :, ::-1]) and 0 < turned.sum() < 64


def test_a_turn_is_of_15_degrees_at_most():
    pixels = np.zeros((200, 41, 41, 3), np.float32)
    pixels[:, 20, 30:] = 255  # a hand to the right of the middle
    turned = changed(("rotation",), pixels)[0][..., 0]
    height = (turned * (20 - np.arange(41))[:, None]).sum(axis=(1, 2)) / turned.sum(axis=(1, 2))
    reach = (turned * (np.arange(41) - 20)).sum(axis=(1, 2)) / turned.sum(axis=(1, 2))
    degrees = np.degrees(np.arctan2(height, reach))
    assert 12 < np.abs(degrees).max() < 15.5 and degrees.min() < -10 and degrees.max() > 10


def test_the_names_are_a_setting_that_a_form_and_a_command_line_can_read():
    assert Look.model_validate_json('{"images": ["light", "flip"]}') == Look(images=("light", "flip"))
    assert Look.model_json_schema()["properties"]["images"]["items"]["enum"] == list(NAMES)
    with pytest.raises(ValidationError, match="Input should be 'none', 'light'"):
        Look(images=("mirror",))  # pyright: ignore[reportArgumentType]
    found, app = [], App()
    app.default(lambda *, look=Look(): found.append(look.images))
    app.default_command.__annotations__ = {"look": typing.Annotated[Look, Parameter(name="*")]}
    app(["--images", "light", "--images", "flip"], result_action="return_value")
    assert found == [("light", "flip")]


# Mixed rows


@pytest.mark.parametrize("shape", [(6,), (5, 4, 3)])
def test_mixed_rows_have_the_share_of_their_targets(generator, shape):
    rows = 500
    inputs = np.zeros((rows, *shape), np.float32)
    inputs.reshape(rows, -1)[:, 0] = np.arange(rows) % 2  # a row's first number says its class
    targets = np.eye(2, dtype=np.float32)[np.arange(rows) % 2]
    run = traced(lambda x, y: augmentation.mix_up(x, y, 1.0, generator), inputs, targets)
    mixed, found = run(inputs, targets)
    assert mixed.dtype == found.dtype == np.float32 and mixed.shape == inputs.shape
    assert found[:, 1] == pytest.approx(mixed.reshape(rows, -1)[:, 0], abs=1e-6)
    assert found.sum(axis=1) == pytest.approx(1, abs=1e-6)
    between = np.unique(found[(found > 0).all(axis=1)].round(4))
    assert len(between) > 200  # each row has a share of its own


def test_shares_are_even_at_1_rarely_in_the_middle_below_and_numbers_at_any_alpha(generator):
    def middle(alpha):
        inputs = np.eye(4000, 1, dtype=np.float32)
        run = traced(lambda x, y: augmentation.mix_up(x, y, alpha, generator), inputs, inputs)
        share = keras.ops.convert_to_numpy(augmentation._shares(4000, alpha, generator))
        assert np.isfinite(run(inputs, inputs)[0]).all() and ((0 <= share) & (share <= 1)).all()
        return ((share > 0.25) & (share < 0.75)).mean()

    assert near(middle(1.0), 0.5, 4000)
    assert middle(0.2) < 0.2
    assert middle(0.001) < 0.01


def test_a_pieces_share_of_the_pixels_is_its_share_of_the_target(generator):
    rows = 300
    images = np.ones((rows, 12, 10, 3), np.float32)
    images[::2] = 0
    targets = np.eye(2, dtype=np.float32)[np.arange(rows) % 2]
    run = traced(lambda x, y: augmentation.cut_mix(x, y, 1.0, generator), images, targets)
    mixed, found = run(images, targets)
    assert mixed.dtype == found.dtype == np.float32 and mixed.shape == images.shape
    assert set(np.unique(mixed)) == {0, 1}  # pixels are moved, not blended
    assert mixed.mean(axis=(1, 2, 3)) == pytest.approx(found[:, 1], abs=1e-6)
    assert len(np.unique(found[:, 1].round(3))) > 30


def test_a_piece_is_one_rectangle_of_one_other_picture(generator):
    images = np.broadcast_to(np.arange(50, dtype=np.float32)[:, None, None, None], (50, 8, 8, 1))
    mixed, _ = traced(lambda x, y: augmentation.cut_mix(x, y, 1.0, generator), images, images[:, 0, 0])(images, images[:, 0, 0])
    foreign = mixed[..., 0] != np.arange(50)[:, None, None]
    for row, piece in enumerate(foreign):
        assert len(np.unique(mixed[row][piece])) <= 1
        assert np.array_equal(piece, piece.any(axis=1)[:, None] & piece.any(axis=0))


# Texts


def sentences():
    """400 rows of token ids: 2 first, 3 last, then padding that looks like a word; the words are 5 to 99."""
    random = np.random.default_rng(0)
    ids = random.integers(5, 100, (400, 30)).astype(np.int32)
    lengths = random.integers(5, 31, 400)
    mask = (np.arange(30) < lengths[:, None]).astype(np.int32)
    ids[:, 0] = 2
    ids[np.arange(400), lengths - 1] = 3
    return ids, mask


SPECIAL = (0, 1, 2, 3, 4)


def test_tokens_are_masked_replaced_or_kept_as_in_bert(generator):
    ids, mask = sentences()
    run = traced(lambda i, m: augmentation.mask_tokens(i, m, 0.15, 4, 100, SPECIAL, generator), ids, mask)
    found, chosen = run(ids, mask)
    words = (mask > 0) & ~np.isin(ids, SPECIAL)
    assert found.dtype == np.int32 and chosen.dtype == bool
    assert near(chosen[words].mean(), 0.15, words.sum())
    assert not chosen[~words].any() and np.array_equal(found[~chosen], ids[~chosen])
    masked, kept = found[chosen] == 4, found[chosen] == ids[chosen]
    count = chosen.sum()
    assert near(masked.mean(), 0.8, count)
    assert near(kept.mean(), 0.1 + 0.1 / 95, count)  # another token is now and then the same
    others = found[chosen][~masked & ~kept]
    assert others.min() >= 5 and others.max() <= 99 and len(np.unique(others)) > 50


def test_dropped_words_become_unknown_and_special_tokens_and_padding_stay(generator):
    ids, mask = sentences()
    found = traced(lambda i, m: augmentation.drop_words(i, m, 0.3, 1, SPECIAL, generator), ids, mask)(ids, mask)
    words = (mask > 0) & ~np.isin(ids, SPECIAL)
    gone = found != ids
    assert found.dtype == np.int32
    assert near(gone[words].mean(), 0.3, words.sum())
    assert not gone[~words].any() and set(found[gone]) == {1}


def test_without_special_tokens_every_word_may_go(generator):
    ids = np.full((50, 4), 7, np.int32)
    found = traced(lambda i, m: augmentation.drop_words(i, m, 0.999, 1, (), generator), ids, ids)(ids, ids)
    assert (found == 1).mean() > 0.95


# Tables and vectors


def test_swapped_entries_come_from_the_same_column_of_another_row(generator):
    vectors = (np.arange(3000)[:, None] + 10_000 * np.arange(4)).astype(np.float32)
    found = traced(lambda v: augmentation.swap_noise(v, 0.15, generator), vectors)(vectors)
    swapped = found != vectors
    assert found.dtype == np.float32
    assert near(swapped.mean(), 0.15, swapped.size)  # never by its own, which would look unchanged
    assert np.array_equal(found // 10_000, vectors // 10_000)
    assert len(np.unique(found[:, 0][swapped[:, 0]] % 10_000)) > 300
    assert not np.array_equal(swapped[:, 0], swapped[:, 1])


def test_swapping_keeps_what_a_column_holds(generator):
    random = np.random.default_rng(0)
    vectors = np.c_[random.normal(5, 2, 4000), random.random(4000) < 0.1].astype(np.float32)
    found = traced(lambda v: augmentation.swap_noise(v, 0.5, generator), vectors)(vectors)
    assert found.mean(axis=0) == pytest.approx(vectors.mean(axis=0), abs=0.1)
    assert found.std(axis=0) == pytest.approx(vectors.std(axis=0), abs=0.1)
    assert set(found[:, 1]) == {0, 1}


def test_no_entry_is_swapped_for_itself(generator):
    vectors = np.arange(2000, dtype=np.float32).reshape(2, 1000)
    found = traced(lambda v: augmentation.swap_noise(v, 1.0, generator), vectors)(vectors)
    assert np.array_equal(found, vectors[::-1])


def test_a_batch_of_one_row_has_nothing_to_swap(generator):
    vectors = np.array([[1.0, 2.0]], np.float32)
    assert np.array_equal(traced(lambda v: augmentation.swap_noise(v, 0.9, generator), vectors)(vectors), vectors)


# Random state


@pytest.mark.parametrize(
    "function",
    [
        lambda x, generator: augmentation.mix_up(x, x, 0.2, generator)[0],
        lambda x, generator: augmentation.cut_mix(x[:, :, None, None], x, 1.0, generator)[1],
        lambda x, generator: augmentation.mask_tokens(tf.cast(x, tf.int32), tf.ones_like(x), 0.5, 4, 100, SPECIAL, generator)[0],
        lambda x, generator: augmentation.drop_words(tf.cast(x, tf.int32), tf.ones_like(x), 0.5, 1, SPECIAL, generator),
        lambda x, generator: augmentation.swap_noise(x, 0.5, generator),
        lambda x, generator: augmentation.swap_noise(x, 1.0, generator),
    ],
    ids=["mix_up", "cut_mix", "mask_tokens", "drop_words", "swap_noise", "swapped_with"],
)
def test_a_restored_generator_repeats_the_bits_and_another_step_draws_anew(generator, function):
    vectors = np.random.default_rng(0).uniform(5, 99, (16, 8)).astype(np.float32)
    run, state = traced(lambda x: function(x, generator), vectors), [generator.state]
    run(vectors)
    kept = values(state)
    ahead = [run(vectors) for _ in range(3)]
    assert not np.array_equal(ahead[0], ahead[1])
    assign(state, kept)
    assert np.array_equal([run(vectors) for _ in range(3)], ahead)
