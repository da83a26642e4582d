"""Adaptation: which parts of a pretrained network move, and how fast.

A network's layers are those of its graph that have weights, in order (a transformer block is one of them), each by its path.
Batch normalisation keeps the statistics of its pretraining, and its scale: moved by small batches they ruin transfer.
What moves is decided by variable, so that a network can be trained from a later layer on, or by low-rank additions alone.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from embedkit import frameworks, networks
from embedkit.settings import UserError, not_among

LEVELS = 8
"""Different learning rates at most: each takes an optimizer of its own."""


def layers_of(model: Any) -> list[tuple[str, Any]]:
    """The layers with weights, in order, by path; those of a nested network one by one."""
    found = [(path, layer) for path, layer, _ in networks.walk(model)]
    inner = {path.rpartition("/")[0] for path, _ in found}
    return [(path, layer) for path, layer in found if path not in inner and layer.weights]


def frozen_count(model: Any, frozen: int | str) -> int:
    """How many of the first layers stay as they are.

    Args:
        model: the network.
        frozen: their number, or the path or name of the last of them.

    Raises:
        UserError: when there are not so many, or no layer of that name; names near ones.
    """
    paths = [path for path, _ in layers_of(model)]
    if isinstance(frozen, int):
        if frozen > len(paths):
            raise UserError(f"{frozen} layers can't be frozen: the network has {len(paths)} with weights; freeze fewer")
        return frozen
    fitting = [place for place, path in enumerate(paths) if frozen in (path, path.rsplit("/", 1)[-1])]
    if len(fitting) != 1:
        names = [path.rsplit("/", 1)[-1] for path in paths]
        raise not_among("layer", frozen, names, hint="in frozen; a number freezes so many layers, auto decides by measurement")
    return fitting[0] + 1


def keep_statistics(model: Any) -> None:
    """Keep batch normalisation at inference, with the statistics and scales that it has."""
    import keras

    for layer in model._flatten_layers(include_self=False):
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False


def quicken_statistics(model: Any) -> None:
    """Let batch normalisation forget within ten steps, for networks that start from nothing.

    Momenta such as MobileNet's 0.999 are for runs of many thousand steps; in shorter ones the statistics would still be those
    of the start when they are first needed.
    """
    import keras

    for layer in model._flatten_layers(include_self=False):
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = min(layer.momentum, 0.9)


def movable(model: Any) -> list[list[Any]]:
    """What can move of each layer: its trainable variables, by layer in their order."""
    return [list(layer.trainable_variables) for _, layer in layers_of(model)]


def freeze(layers: list[list[Any]], first: int) -> None:
    """Let layers move, as `movable` gives them, but so many of the first ones."""
    for number, variables in enumerate(layers):
        for variable in variables:
            variable.trainable = number >= first


def rates(model: Any, first_layer_rate: float) -> Callable[[str], float]:
    """Factors of the learning rate, falling geometrically from the last layer's, 1, to the first one's.

    Args:
        model: the network.
        first_layer_rate: factor of its first layer.

    Returns:
        From the path of a variable to its factor; 1 for variables that aren't the network's.
    """
    layers = layers_of(model)
    steps = min(LEVELS, len(layers)) - 1
    known = {}
    for number, (_, layer) in enumerate(layers):
        depth = 1 - number / max(1, len(layers) - 1)  # 1 for the first layer, 0 for the last
        level = round(depth * steps) / max(1, steps)
        known |= {variable.path: first_layer_rate**level for variable in layer.variables}
    return lambda path: known.get(path, 1.0)


def add_adapters(model: Any, rank: int, seed: int) -> int:
    """Freeze a network and let low-rank additions to its kernels move instead (LoRA; Hu et al. 2022, arXiv:2106.09685).

    Dense, einsum-dense and convolution layers get some; depthwise convolutions and embeddings don't.

    Args:
        model: the network.
        rank: of each addition.
        seed: of their first values.

    Returns:
        How many numbers move.

    Raises:
        UserError: when no layer takes an addition.
    """
    layers = movable(model)
    freeze(layers, len(layers))
    chosen = [layer for layer in adaptable(model) if layer.trainable]
    for layer in chosen:
        layer.enable_lora(rank)
        if layer.bias is not None:
            layer.bias.trainable = False
    if not chosen:
        raise UserError("no layer of this encoder takes an adapter (dense and convolution layers do); take another recipe")
    draw_adapters(model, seed)
    return sum(int(np.prod(v.shape)) for layer in chosen for v in (layer.lora_kernel_a, layer.lora_kernel_b))


def adaptable(model: Any) -> list[Any]:
    """The layers that low-rank additions can be made to."""
    import keras

    takes = (keras.layers.Dense, keras.layers.EinsumDense, keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
    return [layer for layer in model._flatten_layers(include_self=False) if isinstance(layer, takes)]


def unmovable(model: Any) -> str | None:
    """Why a network can't be trained; None where it can."""
    if not model.weights:
        return "the encoder has no weights"
    try:
        copied = copy_of(model)
    except UserError as error:
        return str(error)
    for layer in copied._flatten_layers():
        layer.trainable = True
    return None if copied.trainable_variables else "the encoder has no weights that could move"


def draw_adapters(model: Any, seed: int) -> None:
    """First values of low-rank additions: one factor random, the other 0, so that the network computes what it did."""
    import keras

    for number, layer in enumerate(_adapted(model)):
        start = keras.initializers.HeUniform(seed=seed * 100_003 + number)
        layer.lora_kernel_a.assign(start(layer.lora_kernel_a.shape))
        layer.lora_kernel_b.assign(np.zeros(layer.lora_kernel_b.shape, np.float32))


def merge(adapted: Any, plain: Any) -> None:
    """Give a network the weights of another one of its kind, low-rank additions worked into the kernels."""
    pairs = zip(adapted._flatten_layers(include_self=False), plain._flatten_layers(include_self=False), strict=True)
    for theirs, ours in pairs:
        if getattr(theirs, "lora_enabled", False):
            ours.kernel.assign(theirs.kernel)
            if ours.bias is not None:
                ours.bias.assign(theirs.bias)
        else:
            for target, value in zip(_own(ours), _own(theirs), strict=True):
                target.assign(value)


def _own(layer: Any) -> list[Any]:
    """Weights that a layer holds itself, beside those of layers inside it: a wrapper has some too."""
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def _adapted(model: Any) -> list[Any]:
    return [layer for layer in model._flatten_layers(include_self=False) if getattr(layer, "lora_enabled", False)]


def copy_of(model: Any, fresh: int | None = None) -> Any:
    """A network of the same layers, with the same weights, or with first ones.

    Args:
        model: the network.
        fresh: seed of first weights; None for those that it has.

    Raises:
        UserError: when a layer can't be made again from its own configuration, as some of keras-hub's can't.
    """
    import keras

    if fresh is not None:
        frameworks.start_drawing(fresh)

    def same(layer: Any) -> Any:
        try:
            return layer.__class__.from_config(layer.get_config())
        except (TypeError, ValueError) as error:
            reason = str(error).splitlines()[-1].removeprefix("Exception encountered: ")
            what = f"the layer {layer.name} ({type(layer).__name__}) can't be made again from its configuration ({reason})"
            raise UserError(f"{what}, so this network can't be fine-tuned; train a head on its vectors instead") from error

    made: Any = keras.models.clone_model(model, clone_function=same, recursive=True)
    if fresh is None:
        for target, value in zip(made.variables, model.variables, strict=True):
            target.assign(value.numpy())
    return made
