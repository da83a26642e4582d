"""Graphs: a Keras model as one graph of a format that runs without Keras.

A model here takes a dictionary of named tensors and gives one. Each writer leaves one graph in a folder, each reader opens
it in the format's own runtime on the processor and gives a function of named arrays. Libraries of a format are loaded when
it is asked for.
"""

import importlib
import importlib.util
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embedkit import frameworks
from embedkit.frozen import openvino_library
from embedkit.settings import UserError

Run = Callable[[dict[str, np.ndarray]], np.ndarray]
NUMBERED = re.compile(r'(<layer id="(\d+)" name=")([A-Za-z]+)_\d+(" type=)')
"""A layer of OpenVINO's whose name is its kind and a number that counts through the process."""
TALK = rb"INFO: "
"""How lines begin that LiteRT's libraries write to stderr."""
FUNCTION = re.compile(r'(__inference_[^"\\]*?)(\d+)(?=")')
"""A function of TensorFlow's, whose number counts through the process."""


def _library(name: str) -> Any:
    return importlib.import_module(name)


# ONNX ---------------------------------------------------------------------------------------------------------------


def write_onnx(folder: Path, model: Any) -> None:
    """Write `model.onnx`, by way of tf2onnx; its tensors and nodes are numbered in the order in which they are computed."""
    onnx = _library("onnx")
    path = folder / "model.onnx"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)  # Keras 3.15 asks numpy for what it no longer has
        _teach_erfc()
        model.export(path, format="onnx", verbose=False)
    graph = onnx.load(path)
    _number(graph.graph, {tensor.name: tensor.shape for tensor in model.inputs})
    path.write_bytes(graph.SerializeToString(deterministic=True))


def _teach_erfc() -> None:
    """Let tf2onnx write TensorFlow's Erfc, which an exact GELU is made of, as 1 - Erf."""
    handler = _library("tf2onnx.handler")

    class Erfc:
        @classmethod
        def version_9(cls, ctx: Any, node: Any, **_: Any) -> None:
            """As of ONNX's operator set 9, which has Erf."""
            shape, dtype = ctx.get_shape(node.output[0]), ctx.get_dtype(node.output[0])
            one = ctx.make_const(f"{node.name}_one", np.array(1, np.float32))
            error = ctx.make_node("Erf", [node.input[0]])
            ctx.remove_node(node.name)
            given = [one.output[0], error.output[0]]
            ctx.make_node("Sub", given, outputs=node.output, name=node.name, shapes=[shape], dtypes=[dtype])

    handler.tf_op("Erfc")(Erfc)


def _number(graph: Any, shapes: dict[str, Any]) -> None:
    """Put an ONNX graph into the order that its outputs ask for, with numbers for names; inputs and outputs keep theirs."""
    made = {output: node for node in graph.node for output in node.output}
    weights = {weight.name: weight for weight in graph.initializer}
    nodes, done, waiting = [], set(), [made[output.name] for output in reversed(graph.output)]
    while waiting:
        node = waiting[-1]
        before = [made[name] for name in node.input if name in made and made[name].name not in done]
        if before:
            waiting.extend(reversed(before))
            continue
        waiting.pop()
        if node.name not in done:
            done.add(node.name)
            nodes.append(node)
    names = {each.name: each.name for each in (*graph.input, *graph.output)}
    used = []
    for number, node in enumerate(nodes):
        for name in node.input:
            if name in weights and name not in names:
                names[name] = f"weight_{len(used)}"
                used.append(weights[name])
        for place, name in enumerate(node.output):
            names.setdefault(name, f"{node.op_type}_{number}" + (f"_{place}" if place else ""))
        node.name = f"{node.op_type}_{number}"
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names[name] if name else "" for name in node.output]
    for weight in used:
        weight.name = names[weight.name]
    inputs, outputs = sorted(graph.input, key=lambda each: each.name), list(graph.output)
    for each in (*inputs, *outputs):
        free = iter(("rows", "length"))
        for size in each.type.tensor_type.shape.dim:
            if not size.HasField("dim_value"):
                size.dim_param = next(free)
    kept = {"node": nodes, "initializer": used, "input": inputs, "output": outputs, "value_info": []}
    kept = {field: [type(one).FromString(one.SerializeToString()) for one in many] for field, many in kept.items()}
    for field, many in kept.items():
        graph.ClearField(field)
        getattr(graph, field).extend(many)
    graph.name, graph.doc_string = "model", ""


def read_onnx(folder: Path) -> Run:
    """Open `model.onnx` in onnxruntime."""
    runtime = _library("onnxruntime")
    session = runtime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(None, inputs)[0]


# OpenVINO -----------------------------------------------------------------------------------------------------------


def write_openvino(folder: Path, model: Any) -> None:
    """Write `model.xml` and `model.bin`, weights in float32; layers without a name of their own are numbered by their place."""
    openvino_library()
    path = folder / "model.xml"
    model.export(str(path), format="openvino", verbose=False)
    text = NUMBERED.sub(r"\1\3_\2\4", path.read_text(encoding="utf-8"))
    path.write_text(text, encoding="utf-8", newline="\n")


def read_openvino(folder: Path) -> Run:
    """Open `model.xml` in OpenVINO, which otherwise computes in bfloat16 on processors that have it."""
    compiled = openvino_library().Core().compile_model(str(folder / "model.xml"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda inputs: compiled(inputs)[0]


# SavedModel ---------------------------------------------------------------------------------------------------------


def write_saved_model(folder: Path, model: Any) -> None:
    """Write `saved_model.pb` and `variables/`, with one signature, `serving_default`.

    TensorFlow's own saving is used, since Keras's stores every weight twice, in an order that changes.
    """
    import tensorflow as tf
    from google.protobuf import text_format
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel  # pyright: ignore[reportMissingModuleSource]

    named = {name: tf.TensorSpec(tensor.shape, tensor.dtype, name=name) for name, tensor in sorted(model.input.items())}
    module: Any = tf.Module()
    module.serve = tf.function(lambda inputs: model(inputs, training=False), input_signature=[named], autograph=False)
    module.kept = [variable.value for variable in model.variables]
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.serve.get_concrete_function()})
    (folder / "fingerprint.pb").unlink()
    path = folder / "saved_model.pb"
    # TensorFlow numbers functions and tensors through a process, and sorts functions by name.
    text = text_format.MessageToString(SavedModel.FromString(path.read_bytes()))
    numbers = sorted({int(found[2]) for found in FUNCTION.finditer(text)})
    place = {number: f"{n:04d}" for n, number in enumerate(numbers)}
    saved = text_format.Parse(FUNCTION.sub(lambda found: found[1] + place[int(found[2])], text), SavedModel())
    for graph in saved.meta_graphs:
        library = graph.graph_def.library
        for given in (each.attr for function in library.function for each in function.arg_attr.values()):
            if "_user_specified_name" in given and given["_user_specified_name"].s.isdigit():
                given["_user_specified_name"].s = b"captured"
        ordered = sorted(library.function, key=lambda function: function.signature.name)
        ordered = [type(each).FromString(each.SerializeToString(deterministic=True)) for each in ordered]
        library.ClearField("function")
        library.function.extend(ordered)
    path.write_bytes(saved.SerializeToString(deterministic=True))


def read_saved_model(folder: Path) -> Run:
    """Open a SavedModel in TensorFlow, without Keras."""
    import tensorflow as tf

    serve = tf.saved_model.load(str(folder)).signatures["serving_default"]
    return lambda inputs: next(iter(serve(**{name: tf.constant(each) for name, each in inputs.items()}).values())).numpy()


# LiteRT -------------------------------------------------------------------------------------------------------------


def write_litert(folder: Path, model: Any) -> None:
    """Write `model.tflite`, of LiteRT's own operators only, so that its small runtime is enough."""
    import tensorflow as tf

    own = {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]}
    with frameworks.hushed(TALK):
        model.export(str(folder / "model.tflite"), format="litert", verbose=False, target_spec=own)


def read_litert(folder: Path) -> Run:
    """Open `model.tflite` in LiteRT."""
    runtime = _library("ai_edge_litert.interpreter")
    run = runtime.Interpreter(str(folder / "model.tflite")).get_signature_runner()

    def of(inputs: dict[str, np.ndarray]) -> np.ndarray:
        with frameworks.hushed(TALK):
            return next(iter(run(**inputs).values()))

    return of


@dataclass(frozen=True)
class Graph:
    """A format: what writes a model into a folder, what opens it there, and the libraries that takes, as Python imports them."""

    write: Callable[[Path, Any], None]
    read: Callable[[Path], Run]
    libraries: tuple[str, ...] = ()


GRAPHS = {
    "onnx": Graph(write_onnx, read_onnx, ("onnx", "tf2onnx", "onnxruntime")),
    "openvino": Graph(write_openvino, read_openvino, ("openvino",)),
    "saved-model": Graph(write_saved_model, read_saved_model),
    "litert": Graph(write_litert, read_litert, ("ai_edge_litert",)),
}


def refuse_missing(format: str) -> None:
    """Stop when a library of a format isn't there, with what installs it.

    Raises:
        UserError: naming the first that is missing.
    """
    for name in GRAPHS[format].libraries:
        if importlib.util.find_spec(name) is None:
            raise UserError(f"{format} takes the library {name}, which is not installed; run `pip install 'embedkit[{format}]'`")
