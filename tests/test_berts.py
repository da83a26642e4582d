"""BERTs: what an encoder of texts is made of, and new ones of any shape, which compute what their weights say."""

from dataclasses import replace

import numpy as np
import pytest

from embedkit import Encoder, UserError, berts, frameworks, import_encoder

TEXTS = ["the cat sat on the mat", "good film", "a red moon was very green and the dog ran", "bad"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory, tiny_bert):
    return Encoder.open(import_encoder(tiny_bert, root=tmp_path_factory.mktemp("berts")))


@pytest.fixture(scope="module")
def bert(encoder):
    return berts.anatomy(encoder.model, encoder.name)


@pytest.fixture(scope="module")
def fresh(bert):
    """An untrained BERT of another shape, and the model it stands in."""
    import keras

    frameworks.start_keras(0)
    shape = berts.Shape(30, 2, width=12, heads=2, inner=20, positions=10, segments=2, activation="relu", epsilon=1e-7)
    inputs, tokens = berts.build(shape)
    return shape, keras.Model(inputs, tokens)


def tokens_of(model, encoder, texts):
    ((_, batch),) = encoder.feed.batches(texts)
    return np.asarray(model(batch, training=False)), batch["padding_mask"].astype(bool)


def test_the_shape_is_what_the_configuration_says(bert):
    said = {"layers": 2, "width": 16, "heads": 2, "inner": 32, "positions": 64, "segments": 2}
    assert bert.shape == berts.Shape(vocabulary=104, activation="gelu", epsilon=1e-12, **said)
    assert [layer.name for layer in bert.layers] == ["transformer_layer_0", "transformer_layer_1"]
    assert {part: table.get_weights()[0].shape for part, table in bert.tables.items()} == {
        "token": (104, 16),
        "position": (64, 16),
        "segment": (2, 16),
    }


def cut(encoder, layer):
    """The model of an encoder up to one of its layers."""
    import keras

    return keras.Model(encoder.model.input, encoder.model.get_layer(layer).output)


def test_an_encoder_that_is_cut_has_the_layers_below_the_cut(encoder, bert):
    found = berts.anatomy(cut(encoder, "transformer_layer_0"), "it")
    assert found.shape == replace(bert.shape, layers=1) and found.layers == bert.layers[:1]


def test_what_has_no_transformer_layers_is_no_bert(encoder):
    import keras

    pixels = keras.Input((8, 8, 3))
    for model in (cut(encoder, "embeddings_layer_norm"), keras.Model(pixels, keras.layers.Conv2D(2, 3)(pixels))):
        with pytest.raises(UserError, match="^encoder/it@1 is no BERT of transformer layers; give an encoder that is one$"):
            berts.anatomy(model, "encoder/it@1")


def test_a_new_one_has_the_shape_it_was_asked_for(fresh):
    shape, model = fresh
    found = berts.anatomy(model, "the new one")
    assert found.shape == shape
    weights = berts.weights(found.layers[0])
    assert weights["query"][0].shape == (12, 2, 6) and weights["attended"][0].shape == (2, 6, 12)
    assert weights["inner"][0].shape == (12, 20) and weights["outer"][0].shape == (20, 12)


@pytest.mark.parametrize("activation", ["gelu", "gelu_approximate", "relu"])
def test_the_activation_and_the_smallest_variance_are_those_of_the_computation(activation):
    import keras

    frameworks.start_keras(0)
    shape = berts.Shape(8, 1, width=4, heads=1, inner=4, positions=4, segments=2, activation=activation, epsilon=0.5)
    inputs, tokens = berts.build(shape)
    [layer] = berts.anatomy(keras.Model(inputs, tokens), "it").layers
    parts = berts.parts(layer)
    numbers = np.array([[-1.0, -0.5, 0.5, 2.0]], np.float32)
    parts["inner"].set_weights([np.eye(4), np.zeros(4)])
    exact, tanh = [-0.158655, -0.154269, 0.345731, 1.954500], [-0.158808, -0.154286, 0.345714, 1.954598]
    expected = {"gelu": exact, "gelu_approximate": tanh, "relu": [0, 0, 0.5, 2]}[activation]
    assert np.asarray(parts["inner"](numbers))[0] == pytest.approx(expected, abs=2e-6)
    spread = numbers - numbers.mean()
    assert np.asarray(parts["outer_norm"](numbers)) == pytest.approx(spread / np.sqrt(numbers.var() + 0.5), abs=1e-5)


def test_given_the_weights_of_another_it_computes_the_same(encoder, bert):
    import keras

    frameworks.start_keras(0)
    inputs, tokens = berts.build(bert.shape)
    model = keras.Model(inputs, tokens)
    found = berts.anatomy(model, "the new one")
    for part, table in found.tables.items():
        table.set_weights(bert.tables[part].get_weights())
    found.norm.set_weights(bert.norm.get_weights())
    theirs = keras.Model(encoder.model.input, bert.layers[-1].output)
    ours, mask = tokens_of(model, encoder, TEXTS)
    expected, _ = tokens_of(theirs, encoder, TEXTS)
    assert not np.allclose(ours[mask], expected[mask], atol=0.1)
    for mine, given in zip(found.layers, bert.layers, strict=True):
        berts.assign(mine, berts.weights(given))
    ours, _ = tokens_of(model, encoder, TEXTS)
    assert np.array_equal(ours[mask], expected[mask])


def test_no_weight_of_a_layer_is_left_out(bert):
    counted = sum(array.size for part in berts.weights(bert.layers[0]).values() for array in part)
    assert counted == bert.layers[0].count_params()


def test_heads_may_be_fewer_than_fill_the_width(bert):
    import keras

    frameworks.start_keras(0)
    inputs, tokens = berts.build(replace(bert.shape, width=8, heads=1, layers=1))
    found = berts.anatomy(keras.Model(inputs, tokens), "it")
    assert found.shape == replace(bert.shape, width=8, heads=1, layers=1)
