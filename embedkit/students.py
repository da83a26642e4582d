"""Students: smaller networks that start from a teacher's own weights, before they learn anything from it.

A student's vectors live in a space that a fixed `projection` leads to from the teacher's, (teacher's dimension, student's
dimension) with orthonormal columns, so that what the teacher gives can be held against what the student gives, and the
teacher's own head fits the student from the start.
"""

import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from embedkit import adaptation, berts, progress
from embedkit.encoders import Encoder, EncoderFacts, pool
from embedkit.networks import Network
from embedkit.pipelines import TOKENS_PER_BATCH, TextFeed
from embedkit.settings import UserError

FREQUENT = 1e-3
"""Share of all tokens at which a token's vector counts half: a of SIF (Arora et al. 2017, openreview.net SyK00v5xx)."""
TABLES = ("token_vectors", "token_embedding")
"""Layers that hold a vector for each token: of static students, and of BERTs."""
SAMPLE = 512
"""Texts from which the directions of hidden states are found; (tokens, width) of them are held at a time."""


@dataclass
class Student:
    """A network that is going to learn: its model, what decides its vectors beside it, and the way to the teacher's.

    `tokenizer` is the text of `tokenizer.json`, None where rows are no texts; `projection` is None where the student was given
    and knows nothing of the teacher's space.
    """

    model: Any
    facts: EncoderFacts
    tokenizer: str | None
    projection: np.ndarray | None


def directions(vectors: np.ndarray, dimension: int) -> np.ndarray:
    """The directions in which vectors are longest, their mean not taken off, since cosines are measured from 0.

    Args:
        vectors: (rows, wide) float.
        dimension: how many directions.

    Returns:
        (wide, dimension) float32 with orthonormal columns, the longest first.
    """
    square = vectors.astype(np.float64)
    return _largest(square.T @ square, dimension)


def _largest(gram: np.ndarray, dimension: int) -> np.ndarray:
    _, found = np.linalg.eigh(gram)  # ascending
    found = found[:, ::-1][:, :dimension]
    signs = np.sign(found[np.abs(found).argmax(axis=0), np.arange(found.shape[1])])  # a direction has no sign of its own
    return (found * signs).astype(np.float32)


def fewer_layers(teacher: Encoder, tokenizer: str, count: int) -> Student:
    """Layers of the teacher at even distances, the first and the last among them, with its embeddings (Sanh et al. 2019).

    Raises:
        UserError: when the teacher is no BERT, or has not more layers.
    """
    bert = berts.anatomy(teacher.model, teacher.name)
    chosen = _even(bert, count, teacher.name)
    inputs, tokens = berts.build(replace(bert.shape, layers=count))
    berts.copy(bert, berts.anatomy(_headless(inputs, tokens), "the student"), chosen)
    return _pooled(teacher, tokenizer, inputs, tokens, np.eye(bert.shape.width, dtype=np.float32))


def narrower(teacher: Encoder, tokenizer: str, count: int, width: int | None, texts: list[str]) -> Student:
    """A BERT of fewer and narrower layers, its weights those of the teacher between the main directions of its hidden states.

    Every part that reads or writes tokens is turned into those directions; of the attention heads and inner units those with
    the largest weights are kept; gains of normalisation are fitted, since a part of a vector has another length than all of it.

    Args:
        teacher: a BERT.
        tokenizer: the text of its `tokenizer.json`.
        count: layers.
        width: of the tokens; by default half the teacher's.
        texts: a sample, for the directions.

    Raises:
        UserError: when the teacher is no BERT, has not more layers, or the width doesn't fit.
    """
    bert = berts.anatomy(teacher.model, teacher.name)
    head = bert.shape.width // bert.shape.heads
    width = width or max(head, bert.shape.width // 2 // head * head)
    if width % head or width > bert.shape.width:
        most = f"at most {bert.shape.width}"
        raise UserError(f"width {width} doesn't fit: an attention head of {teacher.name} is {head} wide; give a multiple, {most}")
    chosen = _even(bert, count, teacher.name)
    hidden = hidden_states(teacher, bert, texts)
    way = _largest(sum((each.T @ each / np.square(each).sum() for each in hidden), np.zeros((bert.shape.width,) * 2)), width)
    share = width / bert.shape.width
    heads, inner = width // head, max(1, round(bert.shape.inner * share))
    inputs, tokens = berts.build(replace(bert.shape, layers=count, width=width, heads=heads, inner=inner))
    made = berts.anatomy(_headless(inputs, tokens), "the student")
    for part, table in made.tables.items():
        table.set_weights([each @ way for each in bert.tables[part].get_weights()])
    made.norm.set_weights(_norm(bert.norm.get_weights(), hidden[0], way))
    for ours, theirs in zip(made.layers, chosen, strict=True):
        berts.assign(ours, _narrowed(berts.weights(theirs), hidden[1 + bert.layers.index(theirs)], way, heads, inner))
    return _pooled(teacher, tokenizer, inputs, tokens, way)


def static(teacher: Encoder, tokenizer: str, dimension: int, vectors: np.ndarray, counts: np.ndarray) -> Student:
    """A table of token vectors, averaged: what the teacher says of each token alone, rare ones weighing more (Model2Vec).

    Its tokenizer adds no special tokens. (Tulkens and van Dongen 2024, Model2Vec; the weights are SIF's, Arora et al. 2017.)

    Args:
        teacher: of texts, whatever its architecture.
        tokenizer: the text of its `tokenizer.json`.
        dimension: of the vectors.
        vectors: (texts, teacher's dimension), which the directions are taken from.
        counts: (vocabulary,) how often each token occurs in those texts.

    Raises:
        UserError: when the dimension is more than the teacher's.
    """
    import keras

    if dimension > vectors.shape[1]:
        raise UserError(f"{dimension} numbers are more than the {vectors.shape[1]} of {teacher.name}'s vectors; give at most those")
    way = directions(vectors, dimension)
    alone = token_vectors(teacher, len(counts)) @ way
    shares = counts / max(1, counts.sum())
    table = alone * (FREQUENT / (FREQUENT + shares))[:, None]
    names = ("token_ids", "padding_mask", "segment_ids")
    inputs: dict[str, Any] = {name: keras.Input((None,), dtype="int32", name=name) for name in names}
    layer = keras.layers.Embedding(len(counts), dimension, name="token_vectors")
    tokens: Any = layer(inputs["token_ids"])                                                 # (texts, length, dimension)
    layer.set_weights([table.astype(np.float32)])
    network = Network("texts", _headless(inputs, tokens), tokens, "token_vectors", "mean")
    pooled = keras.layers.UnitNormalization(name="unit_length")(pool(tokens, network, "mean"))  # (texts, dimension), length 1
    said = {"dimension": dimension, "layer": "token_vectors", "pooling": "mean", "normalised": True}
    model = keras.Model(inputs, pooled, name="encoder")
    return Student(model, teacher.facts.model_copy(update=said), without_special_tokens(tokenizer), way)


@dataclass
class Small:
    """A student of texts whose table holds only the tokens that occur, as long as it learns: `seen`, (tokens,), ascending."""

    model: Any
    whole: Any
    seen: np.ndarray

    def renamed(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Inputs of the whole table's model as this one takes them."""
        return inputs | {"token_ids": np.searchsorted(self.seen, inputs["token_ids"]).astype(np.int32)}

    def restore(self) -> None:
        """Put what was learned into the whole student; tokens that don't occur keep their vectors."""
        for ours, theirs in zip(self.model.layers, self.whole.layers, strict=True):
            if ours.name in TABLES:
                (rows,) = theirs.get_weights()
                rows[self.seen] = ours.get_weights()[0]
                theirs.set_weights([rows])
            elif ours.weights:
                theirs.set_weights(ours.get_weights())


def small(student: Student, seen: np.ndarray) -> Small | None:
    """A student that learns faster to the same end: tokens that don't occur have no gradient, but are updated in each step.

    Most of a small BERT's weights are those of its 30,000 tokens. None where the student has no table of tokens by itself.
    """
    import keras

    if not any(layer.name in TABLES for layer in student.model.layers):
        return None

    def same(layer: Any) -> Any:
        config = layer.get_config()
        if layer.name in TABLES:
            config["input_dim"] = len(seen)
        return layer.__class__.from_config(config)

    model: Any = keras.models.clone_model(student.model, clone_function=same)
    for ours, theirs in zip(model.layers, student.model.layers, strict=True):
        if ours.name in TABLES:
            ours.set_weights([theirs.get_weights()[0][seen]])
        elif ours.weights:
            ours.set_weights(theirs.get_weights())
    return Small(model, student.model, seen)


def vocabulary_of(teacher: Encoder) -> int:
    """How many tokens the tokenizer of an encoder of texts knows."""
    assert isinstance(teacher.feed, TextFeed)
    return int(teacher.feed.tokenizer.get_vocab_size())


def given(start: Encoder, tokenizer: str | None) -> Student:
    """A copy of another encoder's network, of any modality, as a student."""
    model = adaptation.copy_of(start.model)
    for layer in model._flatten_layers():
        layer.trainable = True
    adaptation.keep_statistics(model)
    return Student(model, start.facts, tokenizer, None)


def without_special_tokens(tokenizer: str) -> str:
    """A tokenizer that puts nothing before and behind a text."""
    found = json.loads(tokenizer)
    found["post_processor"] = None
    return json.dumps(found, ensure_ascii=False)


def hidden_states(teacher: Encoder, bert: berts.Bert, texts: list[str]) -> list[np.ndarray]:
    """Tokens after the embeddings and after each layer, padding left out: (tokens, width) float64 each."""
    import keras

    outputs = [bert.norm.output, *(layer.output for layer in bert.layers)]
    model = keras.Model(teacher.model.input, outputs)
    found: list[list[np.ndarray]] = [[] for _ in outputs]
    for _, batch in teacher.feed.batches(texts[:SAMPLE]):
        assert isinstance(batch, dict)
        kept = batch["padding_mask"].astype(bool)
        for place, each in enumerate(model(batch, training=False)):
            found[place].append(each.numpy()[kept])
    return [np.concatenate(each).astype(np.float64) for each in found]


def token_vectors(teacher: Encoder, vocabulary: int) -> np.ndarray:
    """What a teacher says of each token alone, between the special tokens of its texts; (vocabulary, dimension) float32."""
    feed = teacher.feed
    assert isinstance(feed, TextFeed)
    around = feed.tokens([""])[0]
    before, behind = around[: (len(around) + 1) // 2], around[(len(around) + 1) // 2 :]
    found = np.empty((vocabulary, teacher.facts.dimension), np.float32)
    size = max(1, TOKENS_PER_BATCH // (len(around) + 1))
    with progress.bar(vocabulary, "tokens") as advance:
        for start in range(0, vocabulary, size):
            ids = range(start, min(start + size, vocabulary))
            found[start : ids.stop] = teacher.forward(feed.padded([[*before, token, *behind] for token in ids]))
            advance(len(ids))
    return found


def _even(bert: berts.Bert, count: int, name: str) -> list[Any]:
    if count > len(bert.layers):
        raise UserError(f"{name} has {len(bert.layers)} layers, of which {count} can't be taken; give at most {len(bert.layers)}")
    places = np.linspace(0, len(bert.layers) - 1, count).round().astype(int) if count > 1 else [len(bert.layers) - 1]
    return [bert.layers[place] for place in places]


def _headless(inputs: Any, tokens: Any) -> Any:
    import keras

    return keras.Model(inputs, tokens)


def _pooled(teacher: Encoder, tokenizer: str, inputs: Any, tokens: Any, way: np.ndarray) -> Student:
    """A student of tokens that pools them as the teacher does."""
    import keras

    facts = teacher.facts
    if facts.pooling == "none":
        raise UserError(f"{teacher.name} has a layer behind its pooling, which no student has; import it with another pooling")
    last = tokens._keras_history.operation.name
    pooled = pool(tokens, Network("texts", _headless(inputs, tokens), tokens, last, facts.pooling), facts.pooling)
    if facts.normalised:
        pooled = keras.layers.UnitNormalization(name="unit_length")(pooled)
    model = keras.Model(inputs, pooled, name="encoder")
    return Student(model, facts.model_copy(update={"dimension": way.shape[1], "layer": last}), tokenizer, way)


def _norm(given: list[np.ndarray], outputs: np.ndarray, way: np.ndarray) -> list[np.ndarray]:
    """Gain and bias of a normalisation of turned tokens that come nearest to the turned tokens of the teacher's.

    Args:
        given: gain and bias of the teacher's, (width,) each.
        outputs: (tokens, width) of the same or another normalisation, whose tokens before gain and bias are taken as alike.
        way: (width, narrow).
    """
    gain, bias = (each.astype(np.float64) for each in given)
    plain = (outputs - outputs.mean(axis=1, keepdims=True)) / outputs.std(axis=1, keepdims=True)
    goal, turned = (plain * gain + bias) @ way, plain @ way
    turned = (turned - turned.mean(axis=1, keepdims=True)) / turned.std(axis=1, keepdims=True)
    center, middle = turned.mean(axis=0), goal.mean(axis=0)
    spread = np.square(turned - center).sum(axis=0)
    fitted = ((turned - center) * (goal - middle)).sum(axis=0) / np.maximum(spread, 1e-12)
    return [fitted.astype(np.float32), (middle - fitted * center).astype(np.float32)]


def _narrowed(given: berts.Weights, outputs: np.ndarray, way: np.ndarray, heads: int, inner: int) -> berts.Weights:
    """The weights of a transformer layer between turned tokens, with fewer heads and inner units."""
    strength = np.sqrt(np.square(given["value"][0]).sum(axis=(0, 2)) * np.square(given["attended"][0]).sum(axis=(1, 2)))
    kept = np.sort(np.argsort(-strength, kind="stable")[:heads])
    busy = np.linalg.norm(given["inner"][0], axis=0) * np.linalg.norm(given["outer"][0], axis=1)
    units = np.sort(np.argsort(-busy, kind="stable")[:inner])
    found: berts.Weights = {
        name: [np.einsum("dhk,dw->whk", given[name][0][:, kept], way), given[name][1][kept]] for name in ("query", "key", "value")
    }
    found["attended"] = [given["attended"][0][kept] @ way, given["attended"][1] @ way]
    found["inner"] = [way.T @ given["inner"][0][:, units], given["inner"][1][units]]
    found["outer"] = [given["outer"][0][units] @ way, given["outer"][1] @ way]
    for name in ("attended_norm", "outer_norm"):
        found[name] = _norm(given[name], outputs, way)
    return found


def taps(model: Any) -> list[Any]:
    """The tokens after the embeddings and after each transformer layer of a BERT's model, as Keras tensors."""
    bert = berts.anatomy(model, "the student")
    return [bert.norm.output, *(layer.output for layer in bert.layers)]
