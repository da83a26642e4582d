"""Preparation: a dataset's rows as a network takes them, made once and then read by their place.

Pictures are decoded and resized into a file that is mapped, not held, in memory; texts become token ids; rows of a table
numbers. What is prepared is what the encoder's feed would give it, so that training and embedding see the same.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from embedkit import progress
from embedkit.artifacts import Artifact
from embedkit.batches import pick
from embedkit.crossfit import NONE, Known
from embedkit.datasets import read_contents
from embedkit.pipelines import Feed, ImageFeed, TextFeed
from embedkit.stages import is_kept, keep, sync

ROWS_AT_ONCE = 1024
ALIKE = 16
"""Batches that are sorted by length together: their texts are then padded little, and the order stays nearly random."""


class Prepared:
    """Rows of a dataset as inputs of a network.

    `batch` takes places in the dataset, (rows,) int, and gives inputs for them; `lengths` are the tokens of each text, (rows,),
    or None where all inputs have one size. Only the places that were asked for are prepared.
    """

    def __init__(self, dataset: Artifact, feed: Feed, places: np.ndarray, folder: Path):
        self.lengths: np.ndarray | None = None
        self.tokens: list[np.ndarray] | None = None
        if isinstance(feed, TextFeed):
            self.tokens = tokens = _tokens(dataset, feed, places)
            self.lengths = np.array([len(ids) for ids in tokens])
            self.batch: Callable[[np.ndarray], Any] = lambda chosen: feed.padded([tokens[row] for row in chosen])
        elif isinstance(feed, ImageFeed):
            line = _lines(places, dataset.manifest.rows or 0)
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"pixels-{feed.height}x{feed.width}.npy"
            pixels = load_pixels(dataset, feed.height, feed.width, path, places)
            self.batch = lambda chosen: pixels[line[chosen]].astype(np.float32)
        else:
            line, rows = _lines(places, dataset.manifest.rows or 0), dataset.manifest.rows or 0
            found = [inputs for _, inputs in feed.batches(read_contents(dataset, 0, rows).take(np.unique(places)))]
            inputs = stacked(found)
            self.batch = lambda chosen: pick(inputs, line[chosen])

    def signature(self, targets: np.ndarray) -> tuple[Any, Any] | None:
        """Shapes and types of (inputs, targets), for `Rows`, where the inputs' lengths vary."""
        if self.lengths is None:
            return None
        import tensorflow as tf

        inputs = {name: tf.TensorSpec([None, None], tf.int32) for name in ("token_ids", "padding_mask", "segment_ids")}
        return inputs, tf.TensorSpec([None, *targets.shape[1:]], targets.dtype)

    def encode(self, forward: Callable[[Any], np.ndarray], places: np.ndarray, rows: int, at_once: int = 64) -> np.ndarray:
        """What a network makes of the rows at these places, others left 0.

        Args:
            forward: from one batch of inputs to (n, dimension).
            places: (n,) int.
            rows: of the dataset.
            at_once: rows in a batch.

        Returns:
            (rows, dimension) float32.
        """
        order = places if self.lengths is None else places[np.argsort(-self.lengths[places], kind="stable")]
        found: np.ndarray | None = None
        with progress.bar(len(order), "rows") as advance:
            for start in range(0, len(order), at_once):
                chosen = np.sort(order[start : start + at_once])
                outputs = forward(self.batch(chosen))
                found = np.zeros((rows, outputs.shape[1]), np.float32) if found is None else found
                found[chosen] = outputs
                advance(len(chosen))
        assert found is not None, "no rows to encode"
        return found

    def frozen(self, encoder: Any, known: Known, places: np.ndarray) -> np.ndarray:
        """The vectors of these rows as `embed` gives them: of rows that the encoder learned from, out of fold.

        Args:
            encoder: an `Encoder`.
            known: which rows the dataset has.
            places: (n,) int.

        Returns:
            (n, dimension) float32.
        """
        rows = len(known.ids)
        found = self.encode(encoder.forward, places, rows)
        folds = encoder.folds.of(known.take(places)) if encoder.folds else np.full(len(places), NONE)
        for fold in np.unique(folds[folds != NONE]).tolist():
            mine = places[folds == fold]
            found[mine] = self.encode(encoder.folds.forward(fold), mine, rows)[mine]
        return found[places]

    def order(self, places: np.ndarray, size: int, batch_size: int) -> Callable[[int, int], np.ndarray]:
        """Orders of epochs of `size` rows, one after the other through the rows, texts of like length in one batch.

        Every row comes once before any comes again: an epoch is a window of one random order after another.

        Args:
            places: (count,) of the rows to learn from.
            size: rows in an epoch, which needn't be all.
            batch_size: rows in a batch.

        Returns:
            From (seed, epoch) to (size,) indices into `places`.
        """
        lengths = None if self.lengths is None else self.lengths[places]

        def of(seed: int, epoch: int) -> np.ndarray:
            first, last = epoch * size // len(places), ((epoch + 1) * size - 1) // len(places)
            turns = [np.random.default_rng([seed, turn]).permutation(len(places)) for turn in range(first, last + 1)]
            if lengths is not None:  # before they are cut into windows, of which one may be a single batch
                turns = [_alike(turn, lengths, batch_size, seed, first + number) for number, turn in enumerate(turns)]
            start = epoch * size - first * len(places)
            return np.concatenate(turns)[start : start + size]

        return of


class Joined(Prepared):
    """Rows of several datasets behind one another, made ready by one feed; places count on from one to the next.

    Args:
        parts: what was prepared of each.
        counts: rows of each dataset.
        feed: that of all of them.
    """

    def __init__(self, parts: list[Prepared], counts: list[int], feed: Feed):
        starts = np.concatenate([[0], np.cumsum(counts)])
        self.tokens = None
        self.lengths = None
        if isinstance(feed, TextFeed):
            self.tokens = tokens = [ids for part in parts for ids in part.tokens or []]
            self.lengths = np.array([len(ids) for ids in tokens])
            self.batch = lambda chosen: feed.padded([tokens[row] for row in chosen])
            return

        def batch(chosen: np.ndarray) -> Any:
            of = np.searchsorted(starts, chosen, side="right") - 1
            found: dict[str, np.ndarray] | None = None
            for number in np.unique(of):
                inputs = parts[number].batch(chosen[of == number] - starts[number])
                given = inputs if isinstance(inputs, dict) else {"": inputs}
                if found is None:
                    found = {name: np.empty((len(chosen), *each.shape[1:]), each.dtype) for name, each in given.items()}
                for name, each in given.items():
                    found[name][of == number] = each
            assert found is not None
            return found.get("", found)

        self.batch = batch


def stacked(batches: list[Any]) -> Any:
    """Batches of inputs as one: arrays, or dictionaries of arrays, behind one another."""
    if isinstance(batches[0], dict):
        return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    return np.concatenate(batches)


def _alike(order: np.ndarray, lengths: np.ndarray, batch_size: int, seed: int, turn: int) -> np.ndarray:
    """The same rows so that batches hold texts of like length; the batches in random order, a smaller one last."""
    whole = len(order) // batch_size * batch_size
    rest = order[whole:]
    block = ALIKE * batch_size
    blocks = [order[at : min(at + block, whole)] for at in range(0, whole, block)]
    blocks = [block[np.argsort(lengths[block], kind="stable")] for block in blocks]
    batches = np.concatenate(blocks).reshape(-1, batch_size) if whole else order[:0].reshape(0, batch_size)
    mixed = np.random.default_rng([seed, turn, 1]).permutation(len(batches))
    return np.concatenate([batches[mixed].ravel(), rest])


def _lines(places: np.ndarray, rows: int) -> np.ndarray:
    """At which line of what was prepared each row of the dataset stands; (rows,) int."""
    lines = np.full(rows, -1)
    lines[np.unique(places)] = np.arange(len(np.unique(places)))
    return lines


def _tokens(dataset: Artifact, feed: TextFeed, places: np.ndarray) -> list[np.ndarray]:
    """Token ids by place; those of places that aren't asked for are empty."""
    rows = dataset.manifest.rows or 0
    wanted = np.zeros(rows, bool)
    wanted[places] = True
    empty = np.empty(0, np.int32)
    found: list[np.ndarray] = [empty] * rows
    for start in range(0, rows, ROWS_AT_ONCE):
        here = start + np.flatnonzero(wanted[start : start + ROWS_AT_ONCE])
        if len(here):
            texts = feed.rows(read_contents(dataset, start, min(start + ROWS_AT_ONCE, rows)).take(here - start))
            for place, ids in zip(here, feed.tokens(texts), strict=True):
                found[place] = np.array(ids, np.int32)
    return found


def load_pixels(
    dataset: Artifact, height: int, width: int, path: Path, places: np.ndarray | None = None, rows_at_once: int = ROWS_AT_ONCE
) -> np.ndarray:
    """Pictures of a dataset, decoded once into a file that is mapped, not held, in memory.

    Args:
        dataset: of pictures.
        height: in pixels.
        width: in pixels.
        path: of the file; one that lies there is taken where it is as it was finished.
        places: (n,) int, which rows; all by default.
        rows_at_once: how many are read at a time.

    Returns:
        (rows, height, width, 3) uint8, in row order.
    """
    if not is_kept(path):
        rows, feed = dataset.manifest.rows or 0, ImageFeed(height, width)
        wanted = np.arange(rows) if places is None else np.unique(places)
        unfinished = path.with_suffix(".unfinished")
        mapped = np.lib.format.open_memmap(unfinished, mode="w+", dtype=np.uint8, shape=(len(wanted), height, width, 3))
        with progress.bar(len(wanted), "pictures") as advance:
            for start in range(0, rows, rows_at_once):
                stop = min(start + rows_at_once, rows)
                first, last = np.searchsorted(wanted, [start, stop])
                if first < last:
                    contents = read_contents(dataset, start, stop)["image"].take(wanted[first:last] - start)
                    for indices, batch in feed.batches(contents.to_pylist()):
                        mapped[first + indices] = batch
                    advance(int(last - first))
        mapped.flush()
        sync(unfinished)
        os.replace(unfinished, path)
        keep(path)
    return np.load(path, mmap_mode="r", allow_pickle=False)
