"""Fusing: what is found in Keras's layers, what is left alone, and that vectors stay what they are."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from embedkit import Encoder, canaries, engines, frameworks, import_encoder
from embedkit.frozen import Frozen, openvino_is_installed, openvino_library
from embedkit.fusing import fuse

needs_openvino = pytest.mark.skipif(not openvino_is_installed(), reason="needs openvino, which is an extra")
frameworks.load_frameworks()

import keras  # noqa: E402  after the frameworks were loaded quietly
from keras import layers  # noqa: E402

ops: Any = keras.ops
RANDOM = np.random.default_rng(0)


def in_tensorflow(model):
    """The operations of a model's frozen graph, and what computes it."""
    frozen = Frozen(model)
    return Counter(node.op for node in frozen.graph.node), frozen.session()


def in_openvino(model, folder):
    """What OpenVINO is spared to find, the operations that come of it, and what computes them."""
    library, frozen, path = openvino_library(), Frozen(model), folder / "graph.pb"
    path.write_bytes(frozen.graph.SerializeToString())
    converted = library.convert_model(str(path))
    found = fuse(converted)
    compiled = library.Core().compile_model(converted, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    kinds = Counter(node.get_type_name() for node in converted.get_ops())
    return Counter(found), kinds, lambda inputs: compiled(frozen.fed(inputs))[0]


def shaken(model):
    """The same model with weights that are all over the place; a new norm's are ones and zeros."""
    model.set_weights([RANDOM.normal(0, 0.5, weight.shape) for weight in model.get_weights()])
    return model


@pytest.fixture(scope="module")
def bert(tiny_bert, tmp_path_factory):
    encoder = Encoder.open(import_encoder(tiny_bert, root=tmp_path_factory.mktemp("fusing")))
    shaken(encoder.model)
    return encoder


@pytest.fixture(scope="module")
def batches(bert):
    return [batch for _, batch in bert.feed.batches(canaries.TEXTS)]


def test_a_bert_in_tensorflow_masks_once_and_gives_the_vectors_that_keras_gives(bert, batches):
    kinds, run = in_tensorflow(bert.model)  # two transformer layers
    assert (kinds["Erf"], kinds["Erfc"], kinds["Softmax"]) == (2, 0, 2)
    assert kinds["Transpose"] == 2 * (2 + 4)  # of both dense layers; of queries, keys, values and what comes of them
    assert kinds["SelectV2"] == 2 + 2  # masks, and the tables of tokens and segments
    for batch in batches:
        assert run(batch) == pytest.approx(bert.forward(batch), abs=1e-6)


@needs_openvino
def test_a_bert_in_openvino_is_found_whole_and_gives_the_vectors_that_keras_gives(bert, batches, tmp_path):
    found, kinds, run = in_openvino(bert.model, tmp_path)
    assert found == {"norm": 5, "projection to heads": 4, "scaled projection to heads": 2, "projection": 2}
    assert not {"Erf", "SquaredDifference", "Einsum"} & set(kinds) and (kinds["Gelu"], kinds["MVN"]) == (2, 5)
    assert kinds["Result"] == 1
    for batch in batches:
        assert run(batch) == pytest.approx(bert.forward(batch), abs=1e-6)


def attention(causal=False, **settings):
    """The attention of keras-hub's BERTs, of tokens to the unmasked ones."""
    from keras_hub import layers as hub

    tokens, mask = keras.Input((None, 6), name="tokens"), keras.Input((None,), dtype="int32", name="mask")
    seen = ops.cast(ops.expand_dims(mask, 1), "bool")  # (rows, 1, length)
    if causal:
        places = ops.cumsum(ops.ones_like(mask), axis=1)
        seen = ops.logical_and(seen, ops.expand_dims(places, 2) >= ops.expand_dims(places, 1))
    output = hub.CachedMultiHeadAttention(2, 4, dropout=0.1, **settings)(tokens, tokens, attention_mask=seen)
    return shaken(keras.Model({"tokens": tokens, "mask": mask}, output))


@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_the_same_with_any_mask_and_where_nothing_is_left_to_attend_to(causal):
    model = attention(causal)
    kinds, run = in_tensorflow(model)
    assert kinds["Any"] == kinds["SelectV2"] == 1
    kept = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]], np.int32)
    batch = {"tokens": 3 * RANDOM.normal(size=(4, 4, 6)).astype(np.float32), "mask": kept}
    expected = engines.forward(model)(batch)
    assert run(batch) == pytest.approx(expected, abs=1e-5)
    for alone in (expected[3], expected[2, : 2 if causal else 1]):  # that see none: the bias is all there is
        assert np.ptp(alone, axis=0) == pytest.approx(0, abs=1e-6)


@needs_openvino
def test_projections_without_a_bias_are_matrix_products_too(tmp_path):
    model = attention(use_bias=False)
    found, kinds, run = in_openvino(model, tmp_path)
    assert found == {"projection": 4} and "Einsum" not in kinds
    batch = {"tokens": RANDOM.normal(size=(3, 5, 6)).astype(np.float32), "mask": np.ones((3, 5), np.int32)}
    assert run(batch) == pytest.approx(engines.forward(model)(batch), abs=1e-5)


def erfc(x):
    import tensorflow as tf

    return tf.math.erfc(x)


def attended(tokens, axis: Any = -1, order=(0, 1, 3, 2), low=-1e9, rest=0.0, other=False):
    """Attention of tokens to themselves, and what is nearly that: with scores turned otherwise, or other masks."""
    tokens = ops.expand_dims(tokens, 1)  # (rows, 1, length, size)
    scores = ops.transpose(ops.matmul(tokens, ops.transpose(tokens * 2, (0, 1, 3, 2)) + 1), order)
    mask = ops.expand_dims(tokens[..., 0] > 0, 2)
    weights = ops.where(mask, scores, low)
    weights = weights if axis is None else ops.softmax(weights, axis)
    return ops.matmul(ops.where(ops.expand_dims(tokens[..., 1] > 0, 2) if other else mask, weights, rest), tokens)


def of(change, length=None):
    """A model of one layer, or of a function, of (rows, length, 6)."""
    given = keras.Input((length, 6))
    return shaken(keras.Model(given, change(given) if isinstance(change, layers.Layer) else layers.Lambda(change)(given)))


@pytest.mark.parametrize(
    ("change", "op", "count"),
    [
        (lambda x: erfc(x), "Erfc", 0),
        (lambda x: erfc(x * -0.7), "Erfc", 0),
        (lambda x: erfc(-x * 0.7), "Erfc", 0),
        (lambda x: ops.cast(erfc(ops.cast(x, "float64")), "float32"), "Erfc", 1),
        (attended, "Any", 1),
        (lambda x: attended(x, axis=2), "Any", 0),
        (lambda x: attended(x, axis=None), "Any", 0),
        (lambda x: attended(x, order=(1, 0, 3, 2)), "Any", 0),
        (lambda x: attended(x, low=-1.0), "Any", 0),
        (lambda x: attended(x, rest=1.0), "Any", 0),
        (lambda x: attended(x, other=True), "Any", 0),
    ],
)
def test_what_only_looks_alike_in_a_graph_is_left_alone_and_all_of_it_computes_the_same(change, op, count):
    model = of(change)
    kinds, run = in_tensorflow(model)
    assert kinds[op] == count
    batch = RANDOM.normal(size=(4, 5, 6)).astype(np.float32)
    assert run(batch) == pytest.approx(engines.forward(model)(batch), abs=2e-6, rel=1e-5)


@needs_openvino
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (layers.LayerNormalization(), {"norm": 1}),
        (layers.LayerNormalization(axis=1, epsilon=0.1), {"norm": 1}),
        (layers.LayerNormalization(center=False, scale=False), {}),
        (layers.EinsumDense("abc,cd->abd", (None, 5)), {}),
        (layers.EinsumDense("xyz,zuv->xyuv", (None, 2, 3)), {"projection": 1}),
        (layers.EinsumDense("abc,cde->aebd", (3, None, 2)), {}),
        (attended, {}),
    ],
)
def test_what_only_looks_alike_in_openvino_is_left_alone_and_all_of_it_computes_the_same(tmp_path, change, expected):
    model = of(change, 5 if isinstance(change, layers.LayerNormalization) else None)
    found, _, run = in_openvino(model, tmp_path)
    assert found == expected
    batch = RANDOM.normal(size=(4, 5, 6)).astype(np.float32)
    assert run(batch) == pytest.approx(engines.forward(model)(batch), abs=2e-6, rel=1e-5)
