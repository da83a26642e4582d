"""Adaptation: what of a network moves, how fast, and what is added to it."""

import numpy as np
import pytest

from embedkit import UserError, adaptation, frameworks

frameworks.load_frameworks()

import keras  # noqa: E402  after the frameworks were loaded quietly


def network(seed=0):
    """Pictures of 6 x 6 through an inner network with batch normalisation and an outer layer, statistics as after training."""
    frameworks.start_keras(seed)
    pixels = keras.Input((6, 6, 3))
    x = keras.layers.Conv2D(4, 3, name="inner_conv")(pixels)
    x = keras.layers.BatchNormalization(name="inner_norm")(x)
    inner = keras.Model(pixels, keras.layers.ReLU(name="inner_relu")(x), name="inner")
    outside = keras.Input((6, 6, 3), name="pixels")
    x = inner(keras.layers.Rescaling(1 / 255, name="scaling")(outside))
    x = keras.layers.Dense(5, name="outer_dense")(keras.layers.Flatten(name="flat")(x))
    found = keras.Model(outside, keras.layers.Dense(3, name="outer_last")(x), name="outer")
    inner.get_layer("inner_norm").set_weights(list(np.random.default_rng(1).uniform(0.5, 2, (4, 4)).astype(np.float32)))
    return found


PATHS = ["inner/inner_conv", "inner/inner_norm", "outer_dense", "outer_last"]
PIXELS = np.random.default_rng(0).uniform(0, 255, (7, 6, 6, 3)).astype(np.float32)


def outputs(model, pixels=PIXELS):
    return np.array(model(pixels, training=False))


def values(layer):
    return [weight.numpy() for weight in layer.weights]


def moving(model):
    return [[variable.trainable for variable in variables] for variables in adaptation.movable(model)]


def test_the_layers_of_a_network_are_those_with_weights_in_order_the_inner_ones_one_by_one():
    found = adaptation.layers_of(network())
    assert [path for path, _ in found] == PATHS
    assert [layer.name for _, layer in found] == [path.rsplit("/")[-1] for path in PATHS]


def test_first_layers_are_counted_by_number_name_or_path():
    model = network()
    assert [adaptation.frozen_count(model, number) for number in (0, 2, 4)] == [0, 2, 4]
    assert adaptation.frozen_count(model, "inner_norm") == adaptation.frozen_count(model, "inner/inner_norm") == 2
    assert adaptation.frozen_count(model, "outer_last") == 4


def test_more_layers_than_there_are_cannot_be_frozen():
    with pytest.raises(UserError, match="5 layers can't be frozen: the network has 4 with weights; freeze fewer"):
        adaptation.frozen_count(network(), 5)


def test_a_layer_that_is_not_there_is_refused_with_near_names():
    words = r"layer 'inner_conf' is not known; did you mean 'inner_conv'.*\(in frozen; a number freezes so many layers"
    with pytest.raises(UserError, match=words):
        adaptation.frozen_count(network(), "inner_conf")
    with pytest.raises(UserError, match="layer 'flat' is not known; "):  # it is there, but has no weights
        adaptation.frozen_count(network(), "flat")


def test_batch_normalisation_keeps_its_statistics_and_scale():
    model = network()
    adaptation.keep_statistics(model)
    norm = model.get_layer("inner").get_layer("inner_norm")
    before = values(norm)
    assert moving(model) == [[True, True], [], [True, True], [True, True]]
    assert np.array(model(PIXELS, training=True)) == pytest.approx(outputs(model), abs=1e-6)
    assert all(np.array_equal(now, then) for now, then in zip(values(norm), before, strict=True))


def test_freezing_so_many_layers_lets_the_others_move_again():
    model = network()
    layers = adaptation.movable(model)
    for first in (4, 1, 2):
        adaptation.freeze(layers, first)
        assert [all(variable.trainable for variable in variables) for variables in layers] == [row >= first for row in range(4)]
    assert {variable.path.split("/")[-2] for variable in model.trainable_variables} == {"outer_dense", "outer_last"}


def test_rates_fall_geometrically_from_the_last_layer_to_the_first():
    model = network()
    factor = adaptation.rates(model, 0.001)
    found = [{factor(variable.path) for variable in layer.variables} for _, layer in adaptation.layers_of(model)]
    assert [len(each) for each in found] == [1, 1, 1, 1]
    assert [each.pop() for each in found] == pytest.approx([0.001, 0.01, 0.1, 1])
    assert factor("head_outputs/kernel") == 1


def test_a_deep_network_has_eight_rates_at_most_none_of_which_rises_towards_its_start():
    frameworks.start_keras(0)
    model = keras.Sequential([keras.Input((2,)), *(keras.layers.Dense(2, name=f"layer_{number}") for number in range(30))])
    factor = adaptation.rates(model, 0.1)
    found = [factor(layer.kernel.path) for _, layer in adaptation.layers_of(model)]
    assert found == sorted(found) and len(set(found)) == adaptation.LEVELS == 8
    assert (found[0], found[-1]) == (pytest.approx(0.1), 1.0)
    steps = np.diff(np.log(sorted(set(found))))
    assert steps == pytest.approx(np.full(7, np.log(10) / 7))


def test_a_network_of_one_layer_has_the_last_ones_rate():
    frameworks.start_keras(0)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, name="only")])
    assert adaptation.rates(model, 0.1)(model.layers[0].kernel.path) == 1


def test_low_rank_additions_change_nothing_at_first_and_are_all_that_moves():
    model = network()
    before = outputs(model)
    adaptation.keep_statistics(model)
    count = adaptation.add_adapters(model, 2, seed=0)
    names = sorted("/".join(variable.path.split("/")[-2:]) for variable in model.trainable_variables)
    layers = ("inner_conv", "outer_dense", "outer_last")
    assert names == sorted(f"{layer}/lora_kernel_{letter}" for layer in layers for letter in "ab")
    # A convolution's addition is one of its own window to two maps, and their mixing to its four.
    expected = (3 * 3 * 3 * 2 + 2 * 4) + (64 * 2 + 2 * 5) + (5 * 2 + 2 * 3)
    assert count == sum(int(np.prod(variable.shape)) for variable in model.trainable_variables) == expected
    assert np.array_equal(outputs(model), before)


def test_additions_begin_anew_by_their_seed_whatever_they_had_become():
    model = network()
    before = outputs(model)
    adaptation.add_adapters(model, 2, seed=3)
    first = [variable.numpy() for variable in model.trainable_variables]
    for variable in model.trainable_variables:
        variable.assign(variable + 1)
    assert not np.allclose(outputs(model), before, atol=1e-3)
    adaptation.draw_adapters(model, 3)
    assert all(np.array_equal(now, then) for now, then in zip(model.trainable_variables, first, strict=True))
    assert np.array_equal(outputs(model), before)
    adaptation.draw_adapters(model, 4)
    assert not np.array_equal(model.trainable_variables[0], first[0])


def test_additions_are_worked_into_the_kernels_of_a_plain_network():
    model, plain = network(), network(seed=9)
    adaptation.add_adapters(model, 2, seed=0)
    for variable in model.trainable_variables:
        variable.assign(np.random.default_rng(0).normal(0, 0.1, variable.shape))
    adaptation.merge(model, plain)
    assert outputs(plain) == pytest.approx(outputs(model), abs=1e-4)
    assert not np.allclose(outputs(plain), outputs(network()), atol=1e-2)
    assert [weight.path for weight in plain.weights] == [weight.path for weight in network().weights]


def test_a_network_without_dense_or_convolution_layers_takes_no_additions():
    frameworks.start_keras(0)
    words = keras.Input((None,), dtype="int32")
    model = keras.Model(words, keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(9, 4)(words)))
    words = r"no layer of this encoder takes an adapter \(dense and convolution layers do\); take another recipe"
    with pytest.raises(UserError, match=words):
        adaptation.add_adapters(model, 2, 0)


def test_merging_copies_every_weight_also_those_that_a_wrapper_holds_itself():
    def wrapped(seed):
        frameworks.start_keras(seed)
        numbers = keras.Input((4,))
        outer = keras.layers.SpectralNormalization(keras.layers.Dense(3, name="inside"), name="wrapper")
        return keras.Model(numbers, keras.layers.BatchNormalization(name="norm")(outer(numbers)))

    theirs, ours = wrapped(0), wrapped(1)
    theirs.get_layer("norm").set_weights([np.full(3, number, np.float32) for number in (1, 2, 3, 4)])
    adaptation.merge(theirs, ours)
    for weight, expected in zip(ours.weights, theirs.weights, strict=True):
        assert np.array_equal(weight, expected), weight.path


def test_a_copy_has_the_same_weights_and_shares_none_of_them():
    model = network()
    copied = adaptation.copy_of(model)
    assert np.array_equal(outputs(copied), outputs(model))
    assert [layer.name for layer in copied.layers] == [layer.name for layer in model.layers]
    for weight in copied.weights:
        weight.assign(weight + 1)
    assert np.array_equal(outputs(model), outputs(network()))


def test_a_fresh_copy_has_first_weights_that_are_a_function_of_its_seed():
    model = network()
    one, same, other = (adaptation.copy_of(model, seed) for seed in (5, 5, 6))
    assert np.array_equal(outputs(one), outputs(same))
    assert not np.allclose(outputs(one), outputs(other)) and not np.allclose(outputs(one), outputs(model))
    norm = values(one.get_layer("inner").get_layer("inner_norm"))
    assert [set(each.tolist()) for each in norm] == [{1.0}, {0.0}, {0.0}, {1.0}]


def test_a_layer_that_cannot_be_made_again_is_named():
    class Odd(keras.layers.Layer):
        def __init__(self, size, **more):
            super().__init__(**more)
            self.size = size

        def call(self, inputs):
            return inputs

        def get_config(self):
            return {"name": self.name}

    rows = keras.Input((3,))
    model = keras.Model(rows, Odd(3, name="odd_one")(rows))
    with pytest.raises(UserError, match=r"the layer odd_one \(Odd\) can't be made again .* train a head on its vectors instead"):
        adaptation.copy_of(model)
