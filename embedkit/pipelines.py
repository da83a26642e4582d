"""Pipelines: rows become the batches that a network takes.

A feed knows one modality's preprocessing, which is part of an encoder's identity. It turns rows into batches and says
which rows each batch holds, so that the caller can put vectors back in row order.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
import pyarrow as pa

from embedkit import images
from embedkit.features import UNKNOWN, Columns, Embedded, Plain, as_texts
from embedkit.settings import UserError, listed

TOKENS_PER_BATCH = 1024
"""Padded tokens in a batch of texts; 512 to 2,048 were enough to keep a processor busy when measured."""
CHARACTERS_PER_TOKEN = 32
"""Of a text so many characters for each token that is kept are looked at first, and nearly always they are enough."""
PIXELS_PER_BATCH = 32 * 224 * 224
PICTURES_PER_BATCH = 256
"""At most, however small they are."""
TABLE_ROWS_PER_BATCH = 8192
DRAFT = 2
"""A JPEG may be decoded at a half, quarter or eighth of its size while it stays so many times larger than what is needed.

What that changes of vectors is measured by `python tests/benchmarks/embedding.py decoding`.
"""


def by_position(rows: Any) -> Any:
    """Rows of any collection as a sequence: a row is found by where it stands, whatever its label in an index is.

    Args:
        rows: a sequence, an array, an Arrow table or column, a pandas or polars Series or DataFrame, or an iterable.

    Raises:
        UserError: when they have no order, or columns of a DataFrame are of no one type.
    """
    if isinstance(rows, Sequence | np.ndarray | pa.Table):
        return rows
    if isinstance(rows, Set):
        raise UserError(f"a {type(rows).__name__} came, whose rows have no order; give a list")
    for name in ("to_pylist", "to_dicts", "to_list"):  # of Arrow's columns, polars' DataFrame, and the Series of both
        if hasattr(rows, name):
            return getattr(rows, name)()
    if hasattr(rows, "iloc"):
        try:
            return pa.Table.from_pandas(rows, preserve_index=False).to_pylist()
        except (pa.ArrowException, TypeError) as error:
            raise UserError(f"the DataFrame can't be read ({error.args[0]}); give each column one type, or dictionaries") from error
    return list(rows)


def cut(tokenizer: Any, length: int) -> None:
    """Let a tokenizer cut texts at a length, on the side on which it cuts them itself."""
    tokenizer.enable_truncation(length, direction=(tokenizer.truncation or {}).get("direction", "right"))


class TextFeed:
    """Texts as token ids: cut at the maximal length, sorted by length, padded to the longest of the batch.

    Args:
        tokenizer: a `tokenizers.Tokenizer`.
        maximal_length: tokens kept of a text, special ones included.
        prompt: put before each text.
        lower: whether texts are lower-cased before the tokenizer sees them, so that no special token is found in them.
    """

    def __init__(self, tokenizer: Any, maximal_length: int, prompt: str = "", lower: bool = False):
        self.tokenizer, self.maximal_length, self.prompt, self.lower = tokenizer, maximal_length, prompt, lower
        tokenizer.no_padding()
        cut(tokenizer, maximal_length)
        padding = tokenizer.get_vocab_size() and next(
            (tokenizer.token_to_id(token) for token in ("[PAD]", "<pad>") if tokenizer.token_to_id(token) is not None), 0
        )
        self.padding: int = padding

    def rows(self, contents: pa.Table) -> list[str]:
        """The contents of a dataset as rows."""
        return contents["text"].to_pylist()

    def batches(self, rows: Sequence[str]) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        """Batches of at most TOKENS_PER_BATCH padded tokens (one row at least).

        Yields:
            (rows,) indices into `rows`, and `token_ids`, `padding_mask`, `segment_ids`, each (rows, longest) int32.
        """
        tokens = self.tokens(rows)
        lengths = np.array([len(ids) for ids in tokens])
        order, start = np.argsort(-lengths, kind="stable"), 0  # longest first: too large a batch fails at once
        while start < len(order):
            longest = int(lengths[order[start]])
            chosen = order[start : start + max(1, TOKENS_PER_BATCH // max(1, longest))]  # a text may have no token at all
            yield chosen, self.padded([tokens[row] for row in chosen])
            start += len(chosen)

    def tokens(self, rows: Sequence[str]) -> list[list[int]]:
        """The token ids of each text, special ones included, cut at the maximal length."""
        for row in rows:
            if not isinstance(row, str):
                raise UserError(f"texts are encoded here, but {type(row).__name__} came: {row!r:.80}; give str")
        texts = [self.prompt + row for row in rows]
        try:
            "".join(texts).encode()
        except UnicodeEncodeError as error:
            raise UserError("a text is not valid Unicode (a lone surrogate); take it out or replace the character") from error
        texts = [text.lower() for text in texts] if self.lower else texts
        ends = self.tokenizer.truncation["direction"] == "left"
        begun = texts if ends else [_begun(text, self.maximal_length) for text in texts]
        found = [encoding.ids for encoding in self.tokenizer.encode_batch_fast(begun)]
        for place, ids in enumerate(found):
            if len(ids) < self.maximal_length and len(begun[place]) < len(texts[place]):
                found[place] = self.tokenizer.encode(texts[place]).ids
        return found

    def padded(self, tokens: Sequence[Sequence[int]]) -> dict[str, np.ndarray]:
        """Token ids of several texts as a network takes them: three arrays, (texts, longest) int32."""
        lengths = np.array([len(ids) for ids in tokens])
        longest = int(lengths.max())
        ids = np.full((len(tokens), longest), self.padding, np.int32)
        for line, own in enumerate(tokens):
            ids[line, : len(own)] = own
        mask = (np.arange(longest) < lengths[:, None]).astype(np.int32)
        return {"token_ids": ids, "padding_mask": mask, "segment_ids": np.zeros_like(ids)}


def _begun(text: str, tokens: int) -> str:
    """The beginning of a very long text up to a space, in which as many tokens lie nearly always."""
    most = tokens * CHARACTERS_PER_TOKEN
    if len(text) <= most:
        return text
    space = max(text.rfind(" ", most // 2, most), text.rfind("\n", most // 2, most))
    # A word that was cut would be another one; spaces at the end may be a token, which is none where a word follows.
    return text[:space].rstrip() if space > 0 else text


class ImageFeed:
    """Pictures as pixels of one size, RGB, 0 to 255; scaling to what the network wants is a layer of the network.

    Args:
        height: in pixels.
        width: in pixels.
    """

    def __init__(self, height: int, width: int):
        self.height, self.width = height, width

    def rows(self, contents: pa.Table) -> list[bytes]:
        """The contents of a dataset as rows."""
        return contents["image"].to_pylist()

    def batches(
        self, rows: Sequence[Any], bad: dict[int, str] | None = None, done: Collection[int] = ()
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Batches of at most PIXELS_PER_BATCH pixels (one picture at least), in order; decoded by several threads.

        Args:
            rows: encoded pictures as bytes, paths of files, or (height, width, 3) uint8 arrays.
            bad: takes the reasons, by index, of pictures that can't be read, which are then left out; by default they are refused.
            done: indices of pictures that aren't wanted any more; a batch of such alone isn't decoded.

        Yields:
            (rows,) indices into `rows`, and (rows, height, width, 3) uint8.
        """
        size = min(PICTURES_PER_BATCH, max(1, PIXELS_PER_BATCH // (self.height * self.width)))

        def decoded(place: int) -> np.ndarray | None:
            try:
                return self.pixels(rows[place])
            except UserError as error:
                if bad is None:
                    raise
                bad[place] = str(error.__cause__)
                return None

        with ThreadPoolExecutor(4) as pool:
            for start in range(0, len(rows), size):
                places = range(start, min(start + size, len(rows)))
                if done and all(place in done for place in places):
                    continue
                found = dict(zip(places, pool.map(decoded, places), strict=True))
                if good := {place: pixels for place, pixels in found.items() if pixels is not None}:
                    yield np.array([*good]), np.stack([*good.values()])

    def pixels(self, row: Any) -> np.ndarray:
        """One picture as the network sees it, before scaling: (height, width, 3) uint8.

        Raises:
            UserError: when it can't be read.
        """
        try:
            if isinstance(row, np.ndarray):
                if row.ndim != 3 or row.shape[2] != 3 or row.dtype != np.uint8 or not row.size:
                    raise ValueError(f"an array of shape {row.shape} and type {row.dtype}, not (height, width, 3) uint8")
                return images.resize(row, self.height, self.width)
            near = (DRAFT * self.height, DRAFT * self.width)
            return images.decode(row if isinstance(row, bytes) else Path(row).read_bytes(), near, (self.height, self.width))
        except (ValueError, OSError, TypeError) as error:
            what = "a picture" if isinstance(row, bytes | np.ndarray) else str(row)
            raise UserError(f"{what} can't be read: {error}; give the bytes, the path or the pixels of one") from error


PYTHON_TYPES = {pa.int64(): int, pa.float64(): float, pa.bool_(): bool, pa.string(): str, pa.timestamp("us"): datetime}


class TableFeed:
    """Rows of a table as numbers, and as places in vocabularies where columns are embedded.

    Scaling is done here, in float64, and not by the network: numbers far from 0 that differ little, such as seconds since
    1970, would have lost their difference as float32.

    Args:
        columns: what is taken from a row; its other columns are not looked at.
    """

    def __init__(self, columns: Columns):
        self.all, self.columns = columns, columns.columns

    def rows(self, contents: pa.Table) -> pa.Table:
        """The contents of a dataset as rows."""
        return contents

    def batches(self, rows: pa.Table | Sequence[Mapping[str, Any]]) -> Iterator[tuple[np.ndarray, Any]]:
        """Batches of at most TABLE_ROWS_PER_BATCH rows, in order.

        Args:
            rows: an Arrow table, or dictionaries of a value by each column's name, None where it is missing.

        Yields:
            (rows,) indices into `rows`, and (rows, outputs of plain columns) float32; where columns are embedded a dictionary
            of these `numbers`, if there are some, and of `values`, (rows, embedded columns) int32.

        Raises:
            UserError: when a column is missing, or holds what it didn't when the encoder was made.
        """
        for start in range(0, len(rows), TABLE_ROWS_PER_BATCH):
            batch: Any = rows[start : start + TABLE_ROWS_PER_BATCH]
            values = self._of_table(batch) if isinstance(batch, pa.Table) else self._of_dictionaries(batch, start)
            yield np.arange(start, start + len(batch)), self.inputs(values)

    def inputs(self, values: list[pa.ChunkedArray]) -> Any:
        """What a network takes, from the values of each column."""
        given = list(zip(self.columns, values, strict=True))
        encoded = [self._encoded(column, each) for column, each in given if not isinstance(column, Embedded)]
        places = [self.all.vocabulary(column).places(as_texts(each)) for column, each in given if isinstance(column, Embedded)]
        if not places:
            return np.concatenate(encoded, axis=1)
        numbers = {"numbers": np.concatenate(encoded, axis=1)} if encoded else {}
        return numbers | {"values": np.stack(places, axis=1)}

    def unknown(self, inputs: Any, times: np.ndarray) -> dict[str, int]:
        """How many rows hold a value that has no vector of its own, by embedded column.

        Args:
            inputs: a batch.
            times: (rows,) int, how often each of its rows comes.
        """
        if not self.all.embedded:
            return {}
        counts = ((inputs["values"] == UNKNOWN) * times[:, None]).sum(axis=0).tolist()
        return dict(zip((column.name for column in self.all.embedded), counts, strict=True))

    def _encoded(self, column: Plain, values: pa.ChunkedArray) -> np.ndarray:
        try:
            return column.encode(values)
        except pa.ArrowInvalid:
            for value in values.drop_null().to_pylist():
                try:
                    column.encode(pa.chunked_array([pa.array([value], values.type)]))
                except pa.ArrowInvalid:
                    raise _other_type(column, value) from None
            raise

    def _of_table(self, rows: pa.Table) -> list[pa.ChunkedArray]:
        self._refuse_missing(rows.column_names)
        return [self._of_column(column, rows[column.name]) for column in self.columns]

    def _of_column(self, column: Plain | Embedded, values: pa.ChunkedArray) -> pa.ChunkedArray:
        """A column's values, read as the encoder's column has them where a file by itself was typed otherwise."""
        if values.null_count == len(values) or column.fits(PYTHON_TYPES.get(values.type, NoneType)):
            return values
        given = values.to_pylist()
        if column.belong(given):
            return pa.chunked_array([self.all.read(column, given)])
        wrong = next(value for value in given if not column.belong([value]))
        advice = "give what it held when the encoder was made, or load the file with the types of that (load_table, like)"
        raise _other_type(column, wrong, advice=advice)

    def _of_dictionaries(self, rows: Sequence[Mapping[str, Any]], start: int) -> list[pa.ChunkedArray]:
        for number, row in enumerate(rows, start):
            if not isinstance(row, Mapping):
                came = f"{type(row).__name__} came: {row!r:.80}"
                raise UserError(f"rows of a table are encoded here, but {came}; give dictionaries of a value by each column's name")
            self._refuse_missing(row.keys(), f" in row {number}")
        found = [[row[column.name] for row in rows] for column in self.columns]
        for column, values in zip(self.columns, found, strict=True):
            wrong = {kind for kind in set(map(type, values)) - {NoneType} if not column.fits(kind)}
            for number, value in enumerate(values, start) if wrong else ():
                if type(value) in wrong:
                    raise _other_type(column, value, f" in row {number}")
        return [pa.chunked_array([column.array(values)]) for column, values in zip(self.columns, found, strict=True)]

    def _refuse_missing(self, names: Collection[str], where: str = "") -> None:
        if missing := [column.name for column in self.columns if column.name not in names]:
            advice = "give all columns that the encoder was made from, with None for a value that is missing"
            raise UserError(f"there is no column {listed(map(repr, missing), ' and no ')}{where}; {advice}")


def _other_type(
    column: Plain | Embedded,
    value: Any,
    where: str = "",
    advice: str = "give what it held when the encoder was made, None where it is missing",
) -> UserError:
    return UserError(f"column {column.name!r} takes {column.takes}, but {value!r:.80} came{where}; {advice}")


Feed = TextFeed | ImageFeed | TableFeed
