"""preprocessing.json: what a row has to become before an exported network takes it, in words and in values.

It says all of it, so that whoever knows this file and the network, and for texts the tokenizer beside it, needs nothing else.
`described` is a reader that goes by it alone; no export is published with which that reader gets other vectors or predictions.
"""

from typing import Any

from embedkit.encoders import EncoderFacts
from embedkit.features import CORE, FIRST, MISSING, UNKNOWN, Calendar, Category, Columns, Embedded, Numbers, text_array

POOLS = {
    "mean": "average sequence_output over the tokens of a text, padding left out",
    "max": "take the largest of each number of sequence_output over the tokens of a text, padding left out",
    "cls": "take sequence_output of the first token",
}
TAKES = {
    "token_ids": "ids of a text's tokens as tokenizer.json gives them, special ones included, padded behind with `padding`",
    "padding_mask": "1 for a token, 0 for padding",
    "segment_ids": "0 everywhere",
    "pixels": "red, green and blue from 0 to 255",
    "numbers": "what `columns` makes of a row, each number where its column's `at` says",
    "values": f"places of a row's values in `vocabularies`: {UNKNOWN} for an unknown value, {MISSING} for a missing one, {FIRST} "
    "for the first value; each where its column's `at` says",
}
"""What each input of a network holds."""
GIVES = {
    "vectors": "one vector for each row",
    "probabilities": "one for each of the classes, or labels, of labels.json in their order",
    "values": "one number for each row, in the label's unit",
}
"""What a network's output holds."""
PLACES = "places"
"""What the input `values` is called where the output is; no runtime knows two tensors by one name."""
STEPS = {
    "numbers": "numbers: x = (value - center) / half, in float64; 0 where the value is missing or not finite, or half is 0",
    "bounded": f"numbers that are `bounded`: sign(x) * (i + o) in place of x, with i = {CORE} * min(|x|, 1), "
    f"b = {CORE} * max(|x| - 1, 0) and o = {1 - CORE:g} * b / ({1 - CORE:g} + b), which is {1 - CORE:g} where b is infinite",
    "gaps": "numbers with `gaps`: a second number, 1 where the value is missing or not finite, else 0",
    "category": "category: a number for each of `values`, 1 for the row's own as text, else 0; all 0 for any other or missing one",
    "calendar": "calendar: a number for each value of each of `parts` (year, month from 1, day from 1, weekday from 0 for Monday, "
    "hour), 1 for the moment's own, else 0; all 0 for any other and a missing moment. Moments are written in ISO 8601, or as "
    "`format` says in the signs of strptime; one with an offset counts in UTC",
    "embedded": "embedded: the place of the row's value as text in `values` of the vocabulary, where the first has place `first`; "
    "`unknown` for any other value, the column's `missing` for a missing one",
    "as_text": "as text: a text as it is; true and false; a whole number below 2^53 in its digits, another number in the fewest "
    "digits that tell it from others, plain from 1e-6 up to 1e10, else as 9.9e-7 and 1.5e+17; a moment as 2026-01-31 "
    "09:30:00.000000; a number that is not finite is missing",
    "put": "put each column's numbers into its `input`, at its `at`, as the input's type",
}
"""What is done, by the kind of column that it concerns."""


def tensors(given: dict[str, Any], holds: dict[str, str]) -> dict[str, Any]:
    """What is said of a network's inputs, or outputs: the type, shape and meaning of each.

    Args:
        given: Keras tensors by name.
        holds: what each holds, TAKES or GIVES.
    """
    free = ("rows", "length")
    return {
        name: {
            "type": str(tensor.dtype),
            "shape": [free[place] if size is None else size for place, size in enumerate(tensor.shape)],
            "holds": holds["values" if name == PLACES else name],
        }
        for name, tensor in given.items()
    }


def described(
    facts: EncoderFacts, feed: Any, tokenizer: str = "tokenizer.json", pooled: bool = True, places: str = "values"
) -> dict[str, Any]:
    """What `preprocessing.json` says: how a row becomes inputs, step by step, and the same as values.

    Args:
        facts: of the encoder.
        feed: of the encoder.
        tokenizer: name of the file with its tokenizer.
        pooled: whether the network pools tokens itself.
        places: name of the input for places in vocabularies.
    """
    shared = {"modality": facts.modality, "dimension": facts.dimension, "pooling": facts.pooling, "normalised": facts.normalised}
    if facts.modality == "images":
        size = f"{facts.height} x {facts.width}"
        steps = [
            "turn the picture upright by its EXIF orientation, convert it to RGB, what is transparent on white",
            f"resize it to {size} pixels (height x width), bilinear with antialiasing, stretched if need be",
            "give the values as they are, 0 to 255; scaling is inside the network",
        ]
        return shared | {"steps": steps, "height": facts.height, "width": facts.width}
    if facts.modality == "table":
        return shared | _table(feed.all, places)
    steps = [
        *([f"put the prompt before the text: {facts.prompt!r}"] if facts.prompt else []),
        *(["lower-case the text"] if facts.lower else []),
        f"split it by {tokenizer}, with its special tokens, cut to {facts.maximal_length} tokens",
        f"pad the ids of shorter texts behind with {feed.padding}",
        *([] if pooled else [POOLS[facts.pooling]]),
        *(["give the vector length 1"] if facts.normalised and not pooled else []),
    ]
    own = {"prompt": facts.prompt, "lower": facts.lower, "maximal_length": facts.maximal_length, "padding": feed.padding}
    return shared | {"steps": steps} | own


def _table(columns: Columns, places: str) -> dict[str, Any]:
    """What is said of each column, and the steps that concern some of them."""
    said, numbers, values = [], 0, 0
    for column in columns.columns:
        if isinstance(column, Embedded):
            at, given, own = [values], places, _embedded(columns, column)
            values += 1
        else:
            at, given, own = list(range(numbers, numbers + len(column.outputs))), "numbers", _plain(column)
            numbers += len(at)
        said.append({"name": column.name, "kind": column.kind, "takes": column.takes, "input": given, "at": at} | own)
    kinds = {column["kind"] for column in said}
    kinds |= {name for name in ("bounded", "gaps") if any(column.get(name) for column in said)}
    kinds |= {"put", *(["as_text"] if kinds & {"category", "embedded"} else [])}
    found = {"steps": [words for name, words in STEPS.items() if name in kinds], "columns": said}
    if columns.embedded:
        found |= {"unknown": UNKNOWN, "first": FIRST}
        found |= {"vocabularies": [{"name": each.name, "values": each.values} for each in columns.vocabularies]}
    return found


def _embedded(columns: Columns, column: Embedded) -> dict[str, Any]:
    known = columns.vocabulary(column)
    return {"vocabulary": column.vocabulary, "missing": MISSING if known.missing else UNKNOWN}


def _plain(column: Numbers | Category | Calendar) -> dict[str, Any]:
    if isinstance(column, Numbers):
        own = {"center": column.center, "half": column.half, "low": column.low, "high": column.high}
        return own | {"bounded": column.bounded, "gaps": column.gaps}
    if isinstance(column, Category):
        return {"values": text_array(column.values).to_pylist()}
    return {"parts": column.parts, "format": column.format}
