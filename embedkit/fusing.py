"""Fusing: fewer and cheaper operations where the layers of a Keras model come out as many, or as dear ones.

`simplify` changes the frozen graph, for TensorFlow and OpenVINO alike: attention of keras-hub's BERTs transposes its scores and
masks them twice, and GELU has an error function of its own. `fuse` puts single operations of OpenVINO where it doesn't find
Keras's layer norms and projections itself. What isn't found stays as it is, and what is put in place of the rest computes the same
but for rounding.
"""

import importlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np

OPERATIONS = "opset13"
"""OpenVINO's set of operations that patterns are written in."""
NOTHING = -1e4
"""What is added to a score of attention is at most this where a token is masked: nothing of it is left after the softmax."""


# The frozen graph


def simplify(graph: Any) -> None:
    """Let a graph compute the same in less time; changes it.

    Args:
        graph: a `GraphDef` without variables; what is not float32 in it stays as it is.
    """
    nodes = _Nodes(graph)
    for node in [*graph.node]:
        if node.op == "Erfc" and nodes.is_float32(node):
            _error_function(nodes, node)
        if node.op == "BatchMatMulV2" and nodes.is_float32(node):
            _attention(nodes, node)
    nodes.prune()


class _Nodes:
    """A graph that is being changed, and its nodes by name."""

    def __init__(self, graph: Any):
        self.graph, self.of = graph, {node.name: node for node in graph.node}
        self.ends = {*self.of} - {_name(given) for node in graph.node for given in node.input}

    def prune(self) -> None:
        """Take out what nothing takes any more, which OpenVINO would take for outputs."""
        kept, to_see = set[str](), [*self.ends]
        while to_see:
            if (name := to_see.pop()) not in kept:
                kept.add(name)
                to_see.extend(map(_name, self.of[name].input))
        for place in reversed(range(len(self.graph.node))):
            if self.graph.node[place].name not in kept:
                del self.graph.node[place]

    def is_float32(self, node: Any) -> bool:
        """Whether a node computes float32."""
        import tensorflow as tf

        return node.attr["T"].type == tf.float32.as_datatype_enum

    def source(self, given: str) -> Any:
        """The node that computes an input, past those that only hand it on."""
        node = self.of[_name(given)]
        while node.op in ("Identity", "StopGradient"):
            node = self.of[_name(node.input[0])]
        return node

    def constant(self, given: str) -> np.ndarray:
        """The value of an input that is known beforehand; an empty array where it isn't."""
        import tensorflow as tf

        node = self.source(given)
        return tf.make_ndarray(node.attr["value"].tensor) if node.op == "Const" else np.zeros(0)

    def add(self, op: str, name: str, *inputs: str, **attributes: Any) -> str:
        """A new node; its name."""
        self.of[name] = self.graph.node.add(name=name)
        self.become(self.of[name], op, *inputs, **attributes)
        return name

    def value(self, name: str, array: Any) -> str:
        """A new node that holds an array; its name."""
        import tensorflow as tf

        self.of[name] = self.graph.node.add(op="Const", name=name)
        self.of[name].attr["dtype"].type = tf.as_dtype(array.dtype).as_datatype_enum
        self.of[name].attr["value"].tensor.CopyFrom(tf.make_tensor_proto(array))
        return name

    def become(self, node: Any, op: str, *inputs: str, **attributes: Any) -> None:
        """Let what takes a node get something else; flags and types are the operation's attributes."""
        node.op = op
        node.ClearField("input")
        node.ClearField("attr")
        node.input.extend(inputs)
        for key, value in attributes.items():
            if isinstance(value, bool):
                node.attr[key].b = value
            else:
                node.attr[key].type = value.as_datatype_enum


def _name(given: str) -> str:
    """The node that an input names, which may say which of its outputs, or that it only comes before."""
    return given.lstrip("^").split(":")[0]


def _error_function(nodes: _Nodes, node: Any) -> None:
    """Erfc(-y) = 1 + Erf(y), which TensorFlow is faster at, and OpenVINO knows GELU by."""
    import tensorflow as tf

    name, product = node.name, nodes.source(node.input[0])
    minus = nodes.source(product.input[0]) if product.op == "Mul" else product
    one, float32 = nodes.value(f"{name}/one", np.float32(1)), tf.float32
    if product.op == "Mul" and minus.op == "Neg":
        y = nodes.add("Mul", f"{name}/y", minus.input[0], product.input[1], T=float32)
        nodes.become(node, "AddV2", nodes.add("Erf", f"{name}/erf", y, T=float32), one, T=float32)
    else:
        nodes.become(node, "Sub", one, nodes.add("Erf", f"{name}/erf", node.input[0], T=float32), T=float32)


ATTENTION = (("SelectV2", 1), ("Softmax", 0), ("SelectV2", 1), ("Transpose", 0), ("BatchMatMulV2", 0))
"""What leads to the weights of attention, the last first, and which input each has it from: the scores of keys and queries,
transposed, masked, softmax, masked again."""


def _attention(nodes: _Nodes, node: Any) -> None:
    """Weights times values: the weights without a transpose, and masked once."""
    import tensorflow as tf

    found, given = [], node.input[0]
    for op, place in ATTENTION:
        found.append(nodes.source(given))
        if found[-1].op != op:
            return
        given = found[-1].input[place]
    again, _, masked, turned, product = found
    if masked.input[0] != again.input[0]:
        return
    order, low, zero = nodes.constant(turned.input[1]), nodes.constant(masked.input[2]), nodes.constant(again.input[2])
    if order.tolist() != [0, 1, 3, 2] or low.size != 1 or zero.size != 1 or low.item() > NOTHING or zero.item() != 0:
        return
    name, mask, (keys, queries), float32 = node.name, masked.input[0], product.input[:2], tf.float32
    of_keys, of_queries = product.attr["adj_x"].b, product.attr["adj_y"].b
    scores = nodes.add(  # (K Q)' = Q' K'
        "BatchMatMulV2", f"{name}/scores", queries, keys, adj_x=not of_queries, adj_y=not of_keys, T=float32
    )
    nothing = nodes.value(f"{name}/nothing", np.float32(0)), nodes.value(f"{name}/low", np.float32(low.item()))
    bias = nodes.add("SelectV2", f"{name}/bias", mask, *nothing, T=float32)
    weights = nodes.add("Softmax", f"{name}/softmax", nodes.add("AddV2", f"{name}/masked", scores, bias, T=float32), T=float32)
    flags = {key: node.attr[key].b for key in ("adj_x", "adj_y")}
    sums = nodes.add("BatchMatMulV2", f"{name}/sums", weights, node.input[1], T=float32, **flags)
    # A text without a token has none to attend to.
    last = nodes.value(f"{name}/last", np.array([-1], np.int32))
    seen = nodes.add("Any", f"{name}/any", mask, last, keep_dims=True, Tidx=tf.int32)
    nodes.become(node, "Mul", sums, nodes.add("Cast", f"{name}/seen", seen, SrcT=tf.bool, DstT=float32), T=float32)


# OpenVINO


def fuse(model: Any) -> list[str]:
    """Fuse a model in place.

    Args:
        model: an `openvino.Model` that was converted from the frozen graph of a Keras model.

    Returns:
        What was fused: the names of `FUSED`, each as often as it was found, in order.
    """
    passes = importlib.import_module("openvino.passes")
    found: list[str] = []
    manager = passes.Manager()
    for name, (pattern, replacement) in FUSED.items():
        manager.register_pass(_fusing(passes, name, pattern, replacement, found.append))
    manager.run_passes(model)
    return found


class _Pattern:
    """Builds a group of operations to look for, and names what is to be known of it."""

    def __init__(self, passes: Any):
        self.passes, self.named = passes, {}

    def any(self, name: str) -> Any:
        """Whatever computes a tensor; the same wherever it is used in the pattern."""
        self.named[name] = self.passes.AnyInput()
        return self.named[name]

    def constant(self, name: str) -> Any:
        """An array that is known beforehand."""
        self.named[name] = self.passes.WrapType(f"{OPERATIONS}.Constant")
        return self.named[name]

    def op(self, kind: str, *inputs: Any, name: str = "") -> Any:
        """An operation of others; sums and products in either order."""
        made = self.passes.WrapType(f"{OPERATIONS}.{kind}", [each.output(0) for each in inputs])
        if name:
            self.named[name] = made
        return made


def _fusing(passes: Any, name: str, pattern: Callable[[_Pattern], Any], replacement: Any, report: Callable[[str], None]) -> Any:
    """One pass of OpenVINO: each group that matches becomes what the replacement makes of its parts, unless that is None."""
    ops, build = importlib.import_module(f"openvino.{OPERATIONS}"), _Pattern(passes)
    root = pattern(build)

    def changed(matcher: Any) -> bool:
        outputs = matcher.get_pattern_value_map()
        parts = {part: outputs[wanted] for part, wanted in build.named.items()}
        made = replacement(ops, **{part: _array(output) for part, output in parts.items()})
        if made is None:
            return False
        made.set_friendly_name(matcher.get_match_root().get_friendly_name())
        matcher.get_match_value().replace(made.output(0))
        report(name)
        return True

    class Pass(passes.MatcherPass):
        def __init__(self):
            super().__init__()
            self.register_matcher(passes.Matcher(root, name), changed)

    return Pass()


def _array(output: Any) -> Any:
    """A constant as an array, anything else as it is."""
    node = output.get_node()
    return node.data.copy() if node.get_type_name() == "Constant" else output


def _is(array: np.ndarray, value: float) -> bool:
    return array.size == 1 and math.isclose(array.item(), value, rel_tol=1e-6)


# Layer norm: x * (gamma / deviation) + (-mean * (gamma / deviation) + beta)


def _norm_pattern(p: _Pattern) -> Any:
    x, axes = p.any("x"), p.constant("axes")
    mean = p.op("ReduceMean", x, axes, name="mean")
    variance = p.op("ReduceMean", p.op("SquaredDifference", x, mean), p.constant("again"), name="variance")
    deviation = p.op("Power", p.op("Add", variance, p.constant("epsilon")), p.constant("power"))
    scale = p.op("Multiply", deviation, p.constant("gamma"))
    moved = p.op("Multiply", p.op("Multiply", mean, p.constant("minus")), scale)
    return p.op("Add", p.op("Multiply", x, scale), p.op("Add", moved, p.constant("beta")))


def _norm(
    ops: Any, x: Any, axes: Any, mean: Any, again: Any, variance: Any, epsilon: Any, power: Any, gamma: Any, minus: Any, beta: Any
) -> Any:
    kept = all(each.get_node().get_attributes()["keep_dims"] for each in (mean, variance))
    if not (kept and np.array_equal(axes, again) and epsilon.size == 1 and _is(power, -0.5) and _is(minus, -1)):
        return None
    scaled = ops.mvn(x, ops.constant(axes.reshape(-1)), True, epsilon.item(), "inside_sqrt")
    return ops.add(ops.multiply(scaled, ops.constant(gamma)), ops.constant(beta))


# Projections to heads of attention, and back from them: Einsums with constant weights, each of which is one matrix product


def _to_heads_pattern(p: _Pattern) -> Any:
    return p.op("Add", p.op("Transpose", _projection_pattern(p), p.constant("order")), p.constant("bias"))


def _scaled_to_heads_pattern(p: _Pattern) -> Any:  # queries are divided by the root of their size
    turned = p.op("Transpose", _projection_pattern(p), p.constant("order"))
    return p.op("Add", p.op("Multiply", turned, p.constant("scale")), p.constant("bias"))


def _to_heads(
    ops: Any, x: Any, weights: np.ndarray, einsum: Any, order: np.ndarray, bias: np.ndarray, scale: np.ndarray | None = None
) -> Any:
    each = np.transpose(bias, np.argsort(order)) if bias.ndim == len(order) else bias  # as it was before the product was turned
    if each.shape != (1, 1, *weights.shape[1:]) or (scale is not None and scale.size != 1):
        return None
    made = _projection(ops, x, weights if scale is None else weights * scale.item(), einsum, each)
    return None if made is None else ops.transpose(made, ops.constant(order))


def _projection_pattern(p: _Pattern) -> Any:
    return p.op("Einsum", p.any("x"), p.constant("weights"), name="einsum")


def _projection(ops: Any, x: Any, weights: np.ndarray, einsum: Any, bias: np.ndarray | None = None) -> Any:
    equation = _equation(einsum)
    if equation == "abcd,cde->abe" and bias is None:
        side_by_side = ops.reshape(x, ops.constant(np.array([0, 0, weights.shape[0] * weights.shape[1]])), True)
        return ops.matmul(side_by_side, ops.constant(weights.reshape(-1, weights.shape[2])), False, False)
    if equation != "abc,cde->abde":
        return None
    products = ops.matmul(x, ops.constant(weights.reshape(len(weights), -1)), False, False)
    if bias is not None:
        products = ops.add(products, ops.constant(bias.reshape(1, 1, -1)))
    return ops.reshape(products, ops.constant(np.array([0, 0, *weights.shape[1:]])), True)


def _equation(einsum: Any) -> str:
    """With its letters in the order in which they come."""
    given: str = einsum.get_node().get_attributes()["equation"].replace(" ", "")
    letters = dict.fromkeys(filter(str.isalpha, given))
    return given.translate({ord(letter): "abcdefghijklmnopqrstuvwxyz"[place] for place, letter in enumerate(letters)})


FUSED: dict[str, tuple[Callable[[_Pattern], Any], Callable[..., Any]]] = {
    "norm": (_norm_pattern, _norm),
    "projection to heads": (_to_heads_pattern, _to_heads),
    "scaled projection to heads": (_scaled_to_heads_pattern, _to_heads),
    "projection": (_projection_pattern, _projection),
}
