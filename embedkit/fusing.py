"""Fusing: single operations of OpenVINO where the layers of a Keras model come out as many.

OpenVINO finds such groups itself where they look as other libraries write them. Keras's GELU, layer norm and attention don't:
their elementwise operations, and attention's transposes, took a third of a BERT's time in bfloat16. What isn't found stays as it
is, and what is put in its place computes the same but for rounding.
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


class Pattern:
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


def _fusing(passes: Any, name: str, pattern: Callable[[Pattern], Any], replacement: Any, report: Callable[[str], None]) -> Any:
    """One pass of OpenVINO: each group that matches becomes what the replacement makes of its parts, unless that is None."""
    ops, build = importlib.import_module(f"openvino.{OPERATIONS}"), Pattern(passes)
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


# GELU: x / 2 * erfc(-x / sqrt(2))


def _gelu_pattern(p: Pattern) -> Any:
    x = p.any("x")
    error = p.op("Erf", p.op("Multiply", x, p.constant("scale")))
    return p.op("Multiply", p.op("Multiply", x, p.constant("half")), p.op("Subtract", p.constant("one"), error))


def _gelu(ops: Any, x: Any, scale: np.ndarray, half: np.ndarray, one: np.ndarray) -> Any:
    return ops.gelu(x, "erf") if _is(scale, -math.sqrt(0.5)) and _is(half, 0.5) and _is(one, 1) else None


# Layer norm: x * (gamma / deviation) + (-mean * (gamma / deviation) + beta)


def _norm_pattern(p: Pattern) -> Any:
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


def _to_heads_pattern(p: Pattern) -> Any:
    return p.op("Add", p.op("Transpose", _projection_pattern(p), p.constant("order")), p.constant("bias"))


def _scaled_to_heads_pattern(p: Pattern) -> Any:  # queries are divided by the root of their size
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


def _projection_pattern(p: Pattern) -> Any:
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


# Attention: the scores of keys and queries, transposed; masked, softmax, masked again; times values


def _attention_pattern(p: Pattern) -> Any:
    mask, product = p.any("mask"), p.op("MatMul", p.any("keys"), p.any("queries"), name="product")
    scores = p.op("Select", mask, p.op("Transpose", product, p.constant("order")), p.constant("nothing"))
    weights = p.op("Select", mask, p.op("Softmax", scores, name="softmax"), p.constant("zero"))
    return p.op("MatMul", weights, p.any("values"), name="sums")


def _attention(ops: Any, product: Any, softmax: Any, sums: Any, **parts: Any) -> Any:
    keys, queries, values, mask = (parts[name] for name in ("keys", "queries", "values", "mask"))
    order, nothing, zero = (parts[name] for name in ("order", "nothing", "zero"))
    last = softmax.get_node().get_attributes()["axis"] in (-1, len(order) - 1)
    if not (last and order.tolist() == [0, 1, 3, 2] and nothing.size == zero.size == 1 and nothing <= NOTHING and zero == 0):
        return None
    of_keys, of_queries = _transposed(product)
    scores = ops.matmul(queries, keys, not of_queries, not of_keys)  # (K Q)' = Q' K'
    masked = ops.add(scores, ops.select(mask, np.float32(0), ops.constant(nothing.reshape(()))))
    found = ops.matmul(ops.softmax(masked, -1), values, *_transposed(sums))
    seen = ops.reduce_logical_or(mask, ops.constant(np.array([-1])), True)  # a text without a token has none to attend to
    return ops.select(seen, found, np.float32(0))


def _transposed(product: Any) -> tuple[bool, bool]:
    """Whether a matrix product transposes its first factor, and its second."""
    given = product.get_node().get_attributes()
    return given["transpose_a"], given["transpose_b"]


FUSED: dict[str, tuple[Callable[[Pattern], Any], Callable[..., Any]]] = {
    "gelu": (_gelu_pattern, _gelu),
    "norm": (_norm_pattern, _norm),
    "projection to heads": (_to_heads_pattern, _to_heads),
    "scaled projection to heads": (_scaled_to_heads_pattern, _to_heads),
    "projection": (_projection_pattern, _projection),
    "attention": (_attention_pattern, _attention),
}
