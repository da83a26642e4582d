"""Pipelines: rows become the batches that a network takes.

A feed knows one modality's preprocessing, which is part of an encoder's identity. It turns rows into batches and says
which rows each batch holds, so that the caller can put vectors back in row order.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from embedkit import images
from embedkit.settings import UserError

TOKENS_PER_BATCH = 2048
"""Padded tokens in a batch of texts; 512 to 2,048 were enough to keep a processor busy when measured."""
PICTURES_PER_BATCH = 32


class TextFeed:
    """Texts as token ids: cut at the maximal length, sorted by length, padded to the longest of the batch.

    Args:
        tokenizer: a `tokenizers.Tokenizer`.
        maximal_length: tokens kept of a text, special ones included.
        prompt: put before each text.
        lower: whether texts are lower-cased before the tokenizer sees them, so that no special token is found in them.
    """

    def __init__(self, tokenizer: Any, maximal_length: int, prompt: str = "", lower: bool = False):
        self.tokenizer, self.prompt, self.lower = tokenizer, prompt, lower
        tokenizer.no_padding()
        tokenizer.enable_truncation(maximal_length)
        padding = tokenizer.get_vocab_size() and next(
            (tokenizer.token_to_id(token) for token in ("[PAD]", "<pad>") if tokenizer.token_to_id(token) is not None), 0
        )
        self.padding: int = padding

    def batches(self, rows: Sequence[str]) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        """Batches of at most TOKENS_PER_BATCH padded tokens (one row at least).

        Yields:
            (rows,) indices into `rows`, and `token_ids`, `padding_mask`, `segment_ids`, each (rows, longest) int32.
        """
        for row in rows:
            if not isinstance(row, str):
                raise UserError(f"texts are encoded here, but {type(row).__name__} came: {row!r:.80}; give str")
        texts = [self.prompt + row for row in rows]
        try:
            "".join(texts).encode()
        except UnicodeEncodeError as error:
            raise UserError("a text is not valid Unicode (a lone surrogate); take it out or replace the character") from error
        texts = [text.lower() for text in texts] if self.lower else texts
        tokens = [encoding.ids for encoding in self.tokenizer.encode_batch_fast(texts)]
        lengths = np.array([len(ids) for ids in tokens])
        order, start = np.argsort(-lengths, kind="stable"), 0  # longest first: too large a batch fails at once
        while start < len(order):
            longest = int(lengths[order[start]])
            chosen = order[start : start + max(1, TOKENS_PER_BATCH // longest)]
            ids = np.full((len(chosen), longest), self.padding, np.int32)
            for line, row in enumerate(chosen):
                ids[line, : lengths[row]] = tokens[row]
            mask = (np.arange(longest) < lengths[chosen][:, None]).astype(np.int32)
            yield chosen, {"token_ids": ids, "padding_mask": mask, "segment_ids": np.zeros_like(ids)}
            start += len(chosen)


class ImageFeed:
    """Pictures as pixels of one size, RGB, 0 to 255; scaling to what the network wants is a layer of the network.

    Args:
        height: in pixels.
        width: in pixels.
    """

    def __init__(self, height: int, width: int):
        self.height, self.width = height, width

    def batches(self, rows: Sequence[Any]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Batches of at most PICTURES_PER_BATCH pictures, in order; decoded by several threads.

        Args:
            rows: encoded pictures as bytes, paths of files, or (height, width, 3) uint8 arrays.

        Yields:
            (rows,) indices into `rows`, and (rows, height, width, 3) uint8.
        """
        with ThreadPoolExecutor(4) as pool:
            for start in range(0, len(rows), PICTURES_PER_BATCH):
                pictures = list(pool.map(self.pixels, rows[start : start + PICTURES_PER_BATCH]))
                yield np.arange(start, start + len(pictures)), np.stack(pictures)

    def pixels(self, row: Any) -> np.ndarray:
        """One picture as the network sees it, before scaling: (height, width, 3) uint8.

        Raises:
            UserError: when it can't be read.
        """
        try:
            if isinstance(row, np.ndarray):
                if row.ndim != 3 or row.shape[2] != 3 or row.dtype != np.uint8 or not row.size:
                    raise ValueError(f"an array of shape {row.shape} and type {row.dtype}, not (height, width, 3) uint8")
                pixels = row
            else:
                pixels = images.decode(row if isinstance(row, bytes) else Path(row).read_bytes())
        except (ValueError, OSError, TypeError) as error:
            what = "a picture" if isinstance(row, bytes | np.ndarray) else str(row)
            raise UserError(f"{what} can't be read: {error}; give the bytes, the path or the pixels of one") from error
        return images.resize(pixels, self.height, self.width)
