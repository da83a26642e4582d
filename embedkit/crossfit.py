"""Cross-fitting: vectors of rows that an encoder learned from, by networks that did not see them.

An encoder of a table that learned with labels has seen what its training rows are. Its folder holds, beside the network,
`folds/fold-0.npz` and on (the vectors of each vocabulary, learned without a fold's rows) and, in `fitted.parquet`, the fold of
each row. `embed` gives such a row the vector of its fold, so that what is trained on vectors later isn't fooled by them.
"""

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embedkit import checkpoints, engines, frameworks

FOLDER = "folds"
NONE = -1
"""The fold of a row that the encoder's vectors weren't learned from."""


def file_of(fold: int) -> str:
    """Where a fold's vectors lie in the artifact."""
    return f"{FOLDER}/fold-{fold}.npz"


def digest(folder: Path) -> str:
    """SHA-256 over the vectors of all folds and which rows are in which; empty where a folder has no folds."""
    if not (folder / file_of(0)).is_file():
        return ""
    found, number = hashlib.sha256(), 0
    while (path := folder / file_of(number)).is_file():
        found.update(hashlib.sha256(path.read_bytes()).digest())
        number += 1
    ledger = pq.read_table(folder / "fitted.parquet", columns=["id", "content", "fold"])
    for name in ledger.column_names:
        found.update(np.ascontiguousarray(ledger[name].to_numpy()).tobytes())
    return found.hexdigest()


class Known(NamedTuple):
    """Which rows of a dataset these are: ids and content hashes, (rows,) int64 each, as in its `rows.parquet`."""

    ids: np.ndarray
    content: np.ndarray

    @classmethod
    def of(cls, rows: pa.Table) -> "Known":
        """Lines of `rows.parquet`."""
        return cls(rows["id"].to_numpy(), rows["content"].to_numpy())

    def take(self, chosen: Any) -> "Known":
        """Some of them."""
        return Known(self.ids[chosen], self.content[chosen])


class Folds:
    """The folds of an encoder.

    Args:
        folder: of the encoder artifact.
        model: its network, whose layers `vocabulary_0` and on are given other vectors.
    """

    def __init__(self, folder: Path, model: Any):
        self.folder, self.model = folder, model
        ledger = pq.read_table(folder / "fitted.parquet", columns=["id", "content", "fold"])
        self.known, self.fold = Known(*(ledger[name].to_numpy() for name in ("id", "content"))), ledger["fold"].to_numpy()
        self.by_id = np.argsort(self.known.ids, kind="stable")
        # Of equal contents one that was learned from, before those that only decided when to stop.
        self.by_content = np.lexsort((-self.fold, self.known.content))
        self._forward: dict[int, Callable[[Any], np.ndarray]] = {}
        self._making = threading.Lock()

    @classmethod
    def open(cls, folder: Path, model: Any) -> "Folds | None":
        """Those of an encoder's folder; None where it has none."""
        return cls(folder, model) if (folder / file_of(0)).is_file() else None

    def of(self, rows: Known) -> np.ndarray:
        """The fold of each row, NONE where it isn't one that was learned from; (rows,) int8.

        Rows are found by id and content, since ids are keys that two datasets may use differently; where another dataset has
        another id for a content that was learned from, by the content alone.
        """
        by_id = _place(self.known.ids, self.by_id, rows.ids)
        by_content = _place(self.known.content, self.by_content, rows.content)
        found = np.where(self.known.content[by_content] == rows.content, self.fold[by_content], NONE)
        same = (self.known.ids[by_id] == rows.ids) & (self.known.content[by_id] == rows.content) & (self.fold[by_id] != NONE)
        return np.where(same, self.fold[by_id], found).astype(np.int8)

    def forward(self, fold: int) -> Callable[[Any], np.ndarray]:
        """The network of a fold, from one batch of inputs to (rows, dimension) float32."""
        with self._making:  # threads that embed may ask for the same
            if fold not in self._forward:
                import keras

                with frameworks.same_first_weights():
                    copy: Any = keras.models.clone_model(self.model)
                copy.set_weights(self.model.get_weights())
                with np.load(self.folder / file_of(fold), allow_pickle=False) as stored:
                    for name in stored.files:
                        copy.get_layer(name).set_weights([stored[name]])
                self._forward[fold] = engines.forward(copy)
            return self._forward[fold]


def keep(folder: Path, model: Any, file: Callable[[str], Path]) -> None:
    """Write the folds of an encoder for a part of its network: vectors of vocabularies that it no longer has are left out.

    Args:
        folder: of the encoder.
        model: the part.
        file: from the name of a file in an artifact to where it is written.
    """
    layers = {layer.name for layer in model.layers}
    for path in sorted((folder / FOLDER).glob("fold-*.npz")):
        with np.load(path, allow_pickle=False) as stored:
            kept = {name: stored[name] for name in stored.files if name in layers}
        checkpoints.save_arrays(file(f"{FOLDER}/{path.name}"), **kept)


def _place(known: np.ndarray, order: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where each wanted number would stand among known ones, in any order; (wanted,) int."""
    return order[np.minimum(np.searchsorted(known, wanted, sorter=order), len(order) - 1)]
