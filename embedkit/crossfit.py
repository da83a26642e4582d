"""Cross-fitting: vectors of rows that an encoder learned from, by networks that did not see them.

An encoder of a table that learned with labels has seen what its training rows are. Its folder holds, beside the network,
`folds/fold-0.npz` and on (the vectors of each vocabulary, learned without a fold's rows) and, in `fitted.parquet`, the fold of
each row. `embed` gives such a row the vector of its fold, so that what is trained on vectors later isn't fooled by them.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from embedkit import engines

FOLDER = "folds"
NONE = -1
"""The fold of a row that the encoder's vectors weren't learned from."""


def file_of(fold: int) -> str:
    """Where a fold's vectors lie in the artifact."""
    return f"{FOLDER}/fold-{fold}.npz"


class Folds:
    """The folds of an encoder.

    Args:
        folder: of the encoder artifact.
        model: its network, whose layers `vocabulary_0` and on are given other vectors.
    """

    def __init__(self, folder: Path, model: Any):
        self.folder, self.model = folder, model
        ledger = pq.read_table(folder / "fitted.parquet", columns=["content", "fold"])
        content, fold = ledger["content"].to_numpy(), ledger["fold"].to_numpy()
        order = np.lexsort((-fold, content))  # a copy that only decided when to stop comes after those learned from
        self.content, self.fold = content[order], fold[order]
        self._forward: dict[int, Callable[[Any], np.ndarray]] = {}

    @classmethod
    def open(cls, folder: Path, model: Any) -> "Folds | None":
        """Those of an encoder's folder; None where it has none."""
        return cls(folder, model) if (folder / file_of(0)).is_file() else None

    def of(self, content: np.ndarray) -> np.ndarray:
        """The fold of each row by its content hash, NONE where it isn't one that was learned from; (rows,) int64 to int8."""
        places = np.minimum(np.searchsorted(self.content, content), len(self.content) - 1)
        return np.where(self.content[places] == content, self.fold[places], NONE).astype(np.int8)

    def forward(self, fold: int) -> Callable[[Any], np.ndarray]:
        """The network of a fold, from one batch of inputs to (rows, dimension) float32."""
        if fold not in self._forward:
            import keras

            with engines.same_first_weights():
                copy: Any = keras.models.clone_model(self.model)
            copy.set_weights(self.model.get_weights())
            with np.load(self.folder / file_of(fold), allow_pickle=False) as stored:
                for name in stored.files:
                    copy.get_layer(name).set_weights([stored[name]])
            self._forward[fold] = engines.forward(copy)
        return self._forward[fold]
