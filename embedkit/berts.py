"""BERTs: what an encoder of texts is made of where it is one, and new ones of any shape.

Kernels are as keras-hub has them: of attention (width, heads, width of a head) on the way in and (heads, width of a head,
width) on the way out, of dense layers (inputs, outputs). Width of a head times heads needn't be the width of the tokens.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from embedkit.settings import UserError

TABLES = {"token": "token_embedding", "position": "position_embedding", "segment": "segment_embedding"}
NORM = "embeddings_layer_norm"
Weights = dict[str, list[np.ndarray]]


@dataclass(frozen=True)
class Shape:
    """What a BERT's configuration says."""

    vocabulary: int
    layers: int
    width: int
    heads: int
    inner: int
    positions: int
    segments: int
    activation: str
    epsilon: float


@dataclass
class Bert:
    """A BERT inside a model: its `tables` of embeddings and their `norm`, its transformer `layers`, in order."""

    shape: Shape
    tables: dict[str, Any]
    norm: Any
    layers: list[Any]


def anatomy(model: Any, name: str) -> Bert:
    """The BERT that a model of texts is.

    Args:
        model: from token ids to vectors.
        name: how it is called in messages.

    Raises:
        UserError: when it is none, such as a RoBERTa, or a table of word vectors.
    """
    import keras_hub

    by_name = {layer.name: layer for layer in model.layers}
    blocks = [layer for layer in model.layers if isinstance(layer, keras_hub.layers.TransformerEncoder)]
    if not blocks or not {*TABLES.values(), NORM} <= by_name.keys():
        raise UserError(f"{name} is no BERT of transformer layers; give an encoder that is one")
    tables = {part: by_name[layer] for part, layer in TABLES.items()}
    rows, width = tables["token"].embeddings.shape
    first = blocks[0]
    shape = Shape(
        vocabulary=int(rows),
        layers=len(blocks),
        width=int(width),
        heads=int(first.num_heads),
        inner=int(first.intermediate_dim),
        positions=int(tables["position"].position_embeddings.shape[0]),
        segments=int(tables["segment"].embeddings.shape[0]),
        activation=_activation(first.activation),
        epsilon=float(first.layer_norm_epsilon),
    )
    return Bert(shape, tables, by_name[NORM], blocks)


def _activation(function: Any) -> str:
    """The name of an activation; `gelu_approximate` for the tanh form of GELU, whatever keras-hub calls it."""
    name = getattr(function, "__name__", str(function))
    return "gelu_approximate" if "approximate" in name else name


def build(shape: Shape, dropout: float = 0.1) -> tuple[Any, Any]:
    """An untrained BERT without a pooler: its Keras inputs, and its last tokens, (texts, length, width)."""
    made = backbone(shape, dropout)
    return made.input, made.transformer_layers[-1].output


def backbone(shape: Shape, dropout: float = 0.1) -> Any:
    """An untrained BERT of keras-hub, which computes what the shape says, but doesn't keep activation and epsilon when saved."""
    import keras
    import keras_hub
    from keras_hub.src.utils.keras_utils import gelu_approximate

    made: Any = keras_hub.models.BertBackbone(
        vocabulary_size=shape.vocabulary,
        num_layers=shape.layers,
        num_heads=shape.heads,
        hidden_dim=shape.width,
        intermediate_dim=shape.inner,
        dropout=dropout,
        max_sequence_length=shape.positions,
        num_segments=shape.segments,
        name="bert_backbone",
    )
    curve = gelu_approximate if shape.activation == "gelu_approximate" else keras.activations.get(shape.activation)
    made.get_layer(NORM).epsilon = shape.epsilon
    for layer in made.transformer_layers:
        layer.activation = layer._feedforward_intermediate_dense.activation = curve
        layer.layer_norm_epsilon = shape.epsilon
        layer._self_attention_layer_norm.epsilon = layer._feedforward_layer_norm.epsilon = shape.epsilon
    return made


def copy(theirs: Bert, ours: Bert, layers: list[Any]) -> None:
    """Give a BERT the tables and the norm of another one of its width, and as many of its layers, in order."""
    for part, table in ours.tables.items():
        table.set_weights(theirs.tables[part].get_weights())
    ours.norm.set_weights(theirs.norm.get_weights())
    for own, given in zip(ours.layers, layers, strict=True):
        assign(own, weights(given))


def parts(layer: Any) -> dict[str, Any]:
    """The layers inside a transformer layer: query, key, value, attended, attended_norm, inner, outer, outer_norm."""
    attention = layer._self_attention_layer
    return {
        "query": attention._query_dense,
        "key": attention._key_dense,
        "value": attention._value_dense,
        "attended": attention._output_dense,
        "attended_norm": layer._self_attention_layer_norm,
        "inner": layer._feedforward_intermediate_dense,
        "outer": layer._feedforward_output_dense,
        "outer_norm": layer._feedforward_layer_norm,
    }


def weights(layer: Any) -> Weights:
    """Kernel (or gain) and bias of each part of a transformer layer."""
    return {name: part.get_weights() for name, part in parts(layer).items()}


def assign(layer: Any, given: Weights) -> None:
    """Set what `weights` gives."""
    for name, part in parts(layer).items():
        part.set_weights(given[name])
