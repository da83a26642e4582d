"""Frozen graphs: what a Keras model gives, from constants, in any number type, from any number of threads."""

import importlib.util
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from embedkit import Encoder, canaries, engines, frameworks, import_encoder
from embedkit.frozen import Frozen, openvino, openvino_is_installed, products_in

frameworks.load_frameworks()

import keras  # noqa: E402  after the frameworks were loaded quietly
import tensorflow as tf  # noqa: E402
from keras import layers  # noqa: E402

needs_openvino = pytest.mark.skipif(not openvino_is_installed(), reason="needs openvino, which is an extra")


@pytest.fixture(scope="module")
def painter():
    """Pictures of 16 x 16 through convolutions of both kinds and a batch normalisation that has seen something."""
    frameworks.start_keras(0)
    pixels = keras.Input((16, 16, 3))
    x = layers.Conv2D(8, 3, strides=2, activation="relu")(layers.Rescaling(1 / 127.5, offset=-1)(pixels))
    x = layers.BatchNormalization(name="norm")(layers.DepthwiseConv2D(3)(x))
    model = keras.Model(pixels, layers.GlobalAveragePooling2D()(layers.Conv2D(16, 1)(x)))
    random = np.random.default_rng(0)
    model.get_layer("norm").set_weights([random.uniform(0.5, 1.5, 8) for _ in range(4)])
    return model


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def bert(tiny_bert, tmp_path_factory):
    return Encoder.open(import_encoder(tiny_bert, root=tmp_path_factory.mktemp("frozen")))


@pytest.fixture(scope="module")
def texts(bert):
    """Batches of texts of different lengths."""
    return [batch for _, batch in bert.feed.batches(canaries.TEXTS * 2)]


def test_the_graph_gives_what_can_be_computed_by_hand(dense):
    run = Frozen(dense).session()
    found = run(np.array([[1, 0, 0], [0, 0, 2]], np.float32))
    assert (found.tolist(), found.dtype) == ([[10, 21], [18, 30]], np.float32)
    assert run(np.array([[1, 0, 0]], np.uint8)).tolist() == [[10, 21]]
    assert run(np.zeros((0, 3))).shape == (0, 2)


def test_the_graph_holds_no_variable(bert):
    assert not {node.op for node in Frozen(bert.model).graph.node} & {"VarHandleOp", "ReadVariableOp"}


def test_a_bert_from_its_graph_gives_the_vectors_that_keras_gives(bert, texts):
    run = Frozen(bert.model).session()
    for batch in texts:
        assert run(batch) == pytest.approx(bert.forward(batch), abs=1e-6)


def test_named_inputs_come_in_any_order_and_those_the_model_has_not_are_left_out(bert, texts):
    frozen, batch = Frozen(bert.model), texts[0]
    assert set(frozen.names) == {"token_ids", "padding_mask", "segment_ids"}
    turned = dict(reversed(batch.items())) | {"other": np.zeros(3)}
    run = frozen.session()
    assert run(turned).tobytes() == run(batch).tobytes()


def test_a_picture_network_takes_pixels_as_they_are(painter, pictures):
    expected = engines.forward(painter)(pictures)
    for compiled in (False, True):
        assert Frozen(painter).session(compiled=compiled)(pictures) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("number_type", ["bfloat16", "float16"])
def test_products_in_a_shorter_type_change_vectors_a_little(bert, texts, painter, pictures, number_type):
    for model, batches in ((bert.model, texts), (painter, [pictures])):
        plain, run = engines.forward(model), Frozen(model).session(number_type)
        for batch in batches:
            found, expected = run(batch), plain(batch)
            assert found.dtype == np.float32
            assert 0.9999 < canaries.agreement(found, expected).min() < 1


PRODUCTS = {"MatMul", "BatchMatMulV2", "Einsum", "Conv2D", "DepthwiseConv2dNative"}


def types_of(graph):
    """The number types of a graph's products, by operation."""
    return {(node.op, tf.as_dtype(node.attr["T"].type).name) for node in graph.node if node.op in PRODUCTS}


def test_only_products_are_computed_in_another_type_between_casts(bert, painter):
    for model, expected in ((bert.model, {"Einsum"}), (painter, {"Conv2D", "DepthwiseConv2dNative"})):
        graph = Frozen(model).graph
        changed = products_in(graph, "bfloat16")
        ops = {op for op, _ in types_of(graph)}
        assert ops >= expected and types_of(graph) == {(op, "float32") for op in ops}
        assert types_of(changed) == {(op, "bfloat16") for op in ops}
        nodes = {node.name: node for node in changed.node}
        assert len(nodes) == len(changed.node)
        for node in graph.node:
            if node.op in PRODUCTS:  # what took it takes it as float32 under its name
                cast = nodes[node.name]
                assert cast.op == "Cast" and tf.as_dtype(cast.attr["DstT"].type) == tf.float32
                assert all(nodes[given].op == "Cast" for given in nodes[cast.input[0]].input)
            else:
                assert nodes[node.name] == node


def run_graph(graph, fetch, feed):
    with tf.Graph().as_default() as whole:
        tf.import_graph_def(graph, name="")
    with tf.compat.v1.Session(graph=whole) as session:
        return session.run(fetch, feed)


def test_what_only_orders_operations_stays_and_other_types_are_left_alone():
    with tf.Graph().as_default() as given:
        x = tf.compat.v1.placeholder(tf.float32, (2, 2), name="x")
        first = tf.identity(x, name="first")
        with tf.control_dependencies([first]):
            product = tf.matmul(x, x, name="product")
        numbers = tf.cast(x, tf.int32)
        with tf.control_dependencies([product]):
            tf.matmul(numbers, numbers, name="whole")
    changed = products_in(given.as_graph_def(), "bfloat16")
    nodes = {node.name: node for node in changed.node}
    assert "^first" in nodes["product/bfloat16"].input
    assert "^product" in nodes["whole"].input and nodes["product"].op == "Cast"
    assert tf.as_dtype(nodes["whole"].attr["T"].type) == tf.int32
    assert len([node for node in changed.node if node.op == "Cast" and node.input[0] == "x"]) == 2  # one for both its sides
    found = run_graph(changed, ["product:0", "whole:0"], {"x:0": [[1, 2], [3, 4]]})
    assert [each.tolist() for each in found] == [[[7, 10], [15, 22]]] * 2


def test_outputs_and_operations_of_like_names_are_told_apart():
    with tf.Graph().as_default() as given:
        x = tf.compat.v1.placeholder(tf.float32, (2, 4), name="x")
        left, right = tf.split(x, 2, axis=1, name="half")
        other = tf.identity(left, name="half_1")
        tf.add(tf.matmul(right, right), tf.matmul(other, other), name="sum")
    changed = products_in(given.as_graph_def(), "bfloat16")
    rows = np.array([[1, 0, 2, 0], [0, 1, 0, 3]], np.float32)
    assert run_graph(changed, "sum:0", {"x:0": rows}).tolist() == [[5, 0], [0, 10]]


def at_once(run, batches):
    with ThreadPoolExecutor(4) as pool:
        return [found.tobytes() for found in pool.map(run, batches)]


def test_several_threads_get_the_bytes_that_one_gets(bert, texts):
    for number_type in ("float32", "bfloat16"):
        run = Frozen(bert.model).session(number_type)
        alone = [run(batch).tobytes() for batch in texts]
        assert at_once(run, texts * 4) == alone * 4


@needs_openvino
def test_openvino_gives_the_same_vectors_from_any_thread(bert, texts, painter, pictures):
    for model, batches in ((bert.model, texts), (painter, [pictures[:20], pictures[20:]])):
        plain, run = engines.forward(model), openvino(Frozen(model), "float32", 2)
        alone = [run(batch) for batch in batches]
        for found, batch in zip(alone, batches, strict=True):
            assert found.dtype == np.float32
            assert found == pytest.approx(plain(batch), abs=2e-6)
        assert at_once(run, batches * 4) == [found.tobytes() for found in alone] * 4


@needs_openvino
@pytest.mark.skipif(importlib.util.find_spec("nncf") is None, reason="needs nncf, which is an extra")
def test_int8_is_fitted_once_and_found_again(painter, pictures, tmp_path, monkeypatch):
    frozen, plain = Frozen(painter), engines.forward(painter)(pictures)
    first = openvino(frozen, "int8", 1, [pictures[:20], pictures[20:]], tmp_path)(pictures)
    assert 0.9 < canaries.agreement(first, plain).min() < 0.99999
    assert sorted(path.name for path in tmp_path.iterdir() if "int8" in path.name) == ["int8.bin", "int8.xml"]
    assert openvino(frozen, "int8", 1, [], tmp_path)(pictures).tobytes() == first.tobytes()  # nothing to be fitted to


@needs_openvino
def test_openvino_does_not_report_to_its_maker_and_what_was_imported_before_stays():
    script = """
import sys, types
sys.modules["openvino_telemetry"] = own = types.ModuleType("openvino_telemetry")
from embedkit.frozen import openvino_library
library = openvino_library()
assert sys.modules["openvino_telemetry"] is own
del sys.modules["openvino_telemetry"]
library.Core(), library.convert_model
from openvino.tools.ovc import convert_impl
assert "openvino_telemetry" not in sys.modules
print(convert_impl.tm.__name__)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "openvino.tools.ovc.telemetry_stub\n"), done.stderr
