"""Frozen graphs: a network with its weights as constants, run by TensorFlow or OpenVINO with one thread a stream.

Constant weights are packed once for the processor, and at the sizes of these networks several batches at a time on a thread
each are faster than one batch on all threads. Where sums of products are wanted in another number type, they alone are computed
in it: what lies between them stays float32, which keeps four digits more than a whole network in bfloat16 does.
"""

import contextlib
import importlib
import importlib.util
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from embedkit.fusing import fuse, simplify
from embedkit.settings import UserError
from embedkit.stages import is_kept, keep

NO_OPENVINO = "openvino is not installed; run `pip install 'embedkit[openvino]'`, or take another engine"
PRODUCTS = ("MatMul", "BatchMatMulV2", "Einsum", "Conv2D", "DepthwiseConv2dNative")
"""Operations that are sums of products: nearly all of the arithmetic."""
Inputs = np.ndarray | dict[str, np.ndarray]


class Frozen:
    """The inference pass of a Keras model as a graph without variables.

    Args:
        model: a functional model; its input is one tensor or a dictionary of tensors, its output one tensor.

    Attributes:
        graph: a `GraphDef`.
        names: of its inputs by the model's; one under "" where the model takes one tensor.
        output: the output's name.
    """

    def __init__(self, model: Any):
        from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

        constant = convert_variables_to_constants_v2(traced(model), lower_control_flow=False)
        self.graph = constant.graph.as_graph_def()
        simplify(self.graph)
        keys = sorted(model.input) if isinstance(model.input, dict) else [""]  # TensorFlow flattens dictionaries by their keys
        self.names = dict(zip(keys, (tensor.name for tensor in constant.inputs), strict=True))
        self.dtypes = dict(zip(keys, (tensor.dtype.as_numpy_dtype for tensor in constant.inputs), strict=True))
        self.output = constant.outputs[0].name

    def fed(self, inputs: Inputs) -> dict[str, np.ndarray]:
        """A batch as the graph takes it, by the names of its inputs."""
        given = inputs if isinstance(inputs, dict) else {"": inputs}
        return {name: np.asarray(given[key], self.dtypes[key]) for key, name in self.names.items()}

    def session(self, number_type: str = "float32", threads: int = 1, compiled: bool = False) -> Callable[[Inputs], np.ndarray]:
        """The graph in a TensorFlow session; what calls it at once computes at once, each on a thread of its own.

        Args:
            number_type: of the sums of products: float32, bfloat16 or float16.
            threads: that one operation may use, on a processor.
            compiled: whether XLA compiles what it can, anew for each shape of the inputs.
        """
        import tensorflow as tf

        graph = tf.Graph()
        with graph.as_default():
            tf.import_graph_def(self.graph if number_type == "float32" else products_in(self.graph, number_type), name="")
        config = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=threads, inter_op_parallelism_threads=threads)
        config.gpu_options.allow_growth = True
        if compiled:
            config.graph_options.optimizer_options.global_jit_level = tf.compat.v1.OptimizerOptions.ON_2
        session = tf.compat.v1.Session(graph=graph, config=config)
        here = tf.compat.v1.RunOptions(inter_op_thread_pool=-1)  # operations run on the thread that calls
        return lambda inputs: session.run(self.output, self.fed(inputs), options=here)


def traced(model: Any) -> Any:
    """The inference pass of a Keras model as a concrete TensorFlow function of its one input or its dictionary of inputs."""
    import tensorflow as tf

    def spec(tensor: Any) -> tf.TensorSpec:
        return tf.TensorSpec(tensor.shape, tensor.dtype)

    signature = {n: spec(t) for n, t in model.input.items()} if isinstance(model.input, dict) else spec(model.input)
    return tf.function(
        lambda inputs: model(inputs, training=False), input_signature=[signature], autograph=False
    ).get_concrete_function()


def products_in(graph: Any, number_type: str) -> Any:
    """A graph whose sums of products are computed in another number type; what goes into them and comes out is float32.

    Args:
        graph: a `GraphDef`.
        number_type: bfloat16 or float16.
    """
    import tensorflow as tf

    single, other = tf.float32.as_datatype_enum, tf.as_dtype(number_type).as_datatype_enum
    made = type(graph)(versions=graph.versions, library=graph.library)
    cast: dict[str, str] = {}

    def add_cast(name: str, given: str, source: int, target: int) -> None:
        node = made.node.add(op="Cast", name=name, input=[given])
        node.attr["SrcT"].type, node.attr["DstT"].type = source, target

    for node in graph.node:
        kept = made.node.add()
        kept.CopyFrom(node)
        if node.op not in PRODUCTS or node.attr["T"].type != single:
            continue
        kept.name = f"{node.name}/{number_type}"
        kept.attr["T"].type = other
        for place, given in enumerate(node.input):
            if given.startswith("^"):  # only an order, no number
                continue
            if given not in cast:
                cast[given] = f"{node.name}/{number_type}_of_{place}"
                add_cast(cast[given], given, single, other)
            kept.input[place] = cast[given]
        add_cast(node.name, kept.name, other, single)
    return made


# OpenVINO


def openvino_is_installed() -> bool:
    """Whether OpenVINO can be imported."""
    return importlib.util.find_spec("openvino") is not None


def openvino_library() -> Any:
    """OpenVINO, without the package by which it reports each use to its maker.

    Raises:
        UserError: when it isn't installed.
    """
    if not openvino_is_installed():
        raise UserError(NO_OPENVINO)
    with _unreported():
        importlib.import_module("openvino.tools.ovc.convert_impl")
        return importlib.import_module("openvino")


@contextlib.contextmanager
def _unreported() -> Iterator[None]:
    kept = {name: sys.modules.pop(name) for name in [*sys.modules] if name.split(".")[0] == "openvino_telemetry"}
    sys.modules["openvino_telemetry"] = None  # pyright: ignore[reportArgumentType]  to Python: can't be imported
    try:
        yield
    finally:
        del sys.modules["openvino_telemetry"]
        sys.modules.update(kept)


def openvino(
    frozen: Frozen, precision: str, streams: int, sample: Sequence[Inputs] = (), folder: Path | None = None
) -> Callable[[Inputs], np.ndarray]:
    """The graph in OpenVINO on the processor.

    Args:
        frozen: the graph.
        precision: float32, bfloat16 or int8.
        streams: how many batches are computed at a time, a thread each.
        sample: batches by which int8 chooses its scales (post-training quantisation with NNCF).
        folder: where what int8 came to is kept, and looked for.
    """
    library = openvino_library()
    core = library.Core()
    kept = folder / "int8.xml" if folder else None
    if precision == "int8" and kept and is_kept(kept) and is_kept(kept.with_suffix(".bin")):
        model = core.read_model(str(kept))
    else:
        with tempfile.TemporaryDirectory() as place:
            path = Path(place) / "graph.pb"
            path.write_bytes(frozen.graph.SerializeToString())
            model = library.convert_model(str(path))
            fuse(model)
            if precision == "int8":
                model = _quantised(library, model, frozen, sample)
                if kept:
                    library.save_model(model, str(kept.with_name("unfinished.xml")), compress_to_fp16=False)
                    os.replace(kept.with_name("unfinished.bin"), kept.with_suffix(".bin"))
                    os.replace(kept.with_name("unfinished.xml"), kept)
                    keep(kept.with_suffix(".bin"))
                    keep(kept)
    hint = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}[precision]
    options = {"PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": streams, "INFERENCE_NUM_THREADS": streams}
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": hint, **options})
    own = threading.local()

    def run(inputs: Inputs) -> np.ndarray:
        if not hasattr(own, "request"):
            own.request = compiled.create_infer_request()
        return own.request.infer(frozen.fed(inputs))[0].copy()  # the request's own memory is used again

    return run


def _quantised(library: Any, model: Any, frozen: Frozen, sample: Sequence[Inputs]) -> Any:
    with _unreported():
        nncf = importlib.import_module("nncf")
    kind = nncf.ModelType.TRANSFORMER if "token_ids" in frozen.names else None
    batches = nncf.Dataset([frozen.fed(batch) for batch in sample])
    return nncf.quantize(model, batches, model_type=kind, subset_size=len(sample))
