"""Fusing: what is found in Keras's layers, what is left alone, and that vectors stay what they are."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from embedkit import Encoder, canaries, engines, frameworks, import_encoder
from embedkit.frozen import Frozen, openvino_is_installed, openvino_library

pytestmark = pytest.mark.skipif(not openvino_is_installed(), reason="needs openvino, which is an extra")
frameworks.load_frameworks()

import keras  # noqa: E402  after the frameworks were loaded quietly
from keras import layers  # noqa: E402

ops: Any = keras.ops
RANDOM = np.random.default_rng(0)


def fused(model, folder):
    """What was found in a Keras model, and what computes it with that in place."""
    from embedkit.fusing import fuse

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


def test_a_bert_is_found_whole_and_gives_the_vectors_that_keras_gives(tiny_bert, tmp_path):
    bert = Encoder.open(import_encoder(tiny_bert, root=tmp_path))
    shaken(bert.model)
    found, kinds, run = fused(bert.model, tmp_path)
    assert found == {
        "gelu": 2,
        "norm": 5,
        "projection to heads": 4,
        "scaled projection to heads": 2,
        "projection": 2,
        "attention": 2,
    }
    assert not {"Erf", "SquaredDifference", "Einsum"} & set(kinds) and (kinds["Gelu"], kinds["MVN"]) == (2, 5)
    for _, batch in bert.feed.batches(canaries.TEXTS):
        assert run(batch) == pytest.approx(bert.forward(batch), abs=1e-6)


def attention(causal=False, **settings):
    """The attention of Keras's BERTs, of tokens to the unmasked ones, after a norm that has its inputs in the same place."""
    from keras_hub import layers as hub

    tokens, mask = keras.Input((None, 6), name="tokens"), keras.Input((None,), dtype="int32", name="mask")
    seen = ops.cast(ops.expand_dims(mask, 1), "bool")  # (rows, 1, length)
    if causal:
        places = ops.cumsum(ops.ones_like(mask), axis=1)
        seen = ops.logical_and(seen, ops.expand_dims(places, 2) >= ops.expand_dims(places, 1))
    output = hub.CachedMultiHeadAttention(2, 4, dropout=0.1, **settings)(tokens, tokens, attention_mask=seen)
    return shaken(keras.Model({"tokens": tokens, "mask": mask}, output))


@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_the_same_with_any_mask_and_where_nothing_is_left_to_attend_to(tmp_path, causal):
    model = attention(causal)
    found, _, run = fused(model, tmp_path)
    assert found["attention"] == 1
    kept = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]], np.int32)
    batch = {"tokens": 3 * RANDOM.normal(size=(4, 4, 6)).astype(np.float32), "mask": kept}
    expected = engines.forward(model)(batch)
    assert run(batch) == pytest.approx(expected, abs=1e-5)
    for alone in (expected[3], expected[2, : 2 if causal else 1]):  # that see none: the bias is all there is
        assert np.ptp(alone, axis=0) == pytest.approx(0, abs=1e-6)


def test_projections_without_a_bias_are_matrix_products_too(tmp_path):
    model = attention(use_bias=False)
    found, kinds, run = fused(model, tmp_path)
    assert found == {"projection": 4, "attention": 1} and "Einsum" not in kinds
    batch = {"tokens": RANDOM.normal(size=(3, 5, 6)).astype(np.float32), "mask": np.ones((3, 5), np.int32)}
    assert run(batch) == pytest.approx(engines.forward(model)(batch), abs=1e-5)


def erfc(x, half=0.5, scale=-(0.5**0.5), one=1.0):
    """Keras's GELU with numbers of one's own."""
    return half * x * (one - ops.erf(x * scale))


def attended(tokens, axis=-1, order=(0, 1, 3, 2)):
    """Attention of tokens to themselves, by a softmax along any axis of scores turned in any way."""
    tokens = ops.expand_dims(tokens, 1)  # (rows, 1, length, size)
    others = ops.transpose(tokens * 2, (0, 1, 3, 2)) + 1
    scores = ops.transpose(ops.matmul(tokens, others), order)
    mask = ops.expand_dims(tokens[..., 0] > 0, 2)
    weights = ops.softmax(ops.where(mask, scores, -1e9), axis)
    return ops.matmul(ops.where(mask, weights, 0.0), tokens)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (erfc, {"gelu": 1}),
        (lambda x: erfc(x, half=0.25), {}),
        (lambda x: erfc(x, scale=-0.5), {}),
        (lambda x: erfc(x, one=2.0), {}),
        (layers.LayerNormalization(), {"norm": 1}),
        (layers.LayerNormalization(axis=1, epsilon=0.1), {"norm": 1}),
        (layers.LayerNormalization(center=False, scale=False), {}),
        (layers.EinsumDense("abc,cd->abd", (None, 5)), {}),
        (layers.EinsumDense("xyz,zuv->xyuv", (None, 2, 3)), {"projection": 1}),
        (layers.EinsumDense("abc,cde->aebd", (3, None, 2)), {}),
        (attended, {"attention": 1}),
        (lambda x: attended(x, axis=2), {}),
        (lambda x: attended(x, order=(1, 0, 3, 2)), {}),
    ],
)
def test_what_only_looks_alike_is_left_alone_and_all_of_it_computes_the_same(tmp_path, change, expected):
    given = keras.Input((5 if isinstance(change, layers.LayerNormalization) else None, 6))
    model = shaken(keras.Model(given, layers.Lambda(change)(given) if not isinstance(change, layers.Layer) else change(given)))
    found, _, run = fused(model, tmp_path)
    assert found == expected
    batch = RANDOM.normal(size=(4, 5, 6)).astype(np.float32)
    assert run(batch) == pytest.approx(engines.forward(model)(batch), abs=2e-6, rel=1e-5)
