"""Parts that were begun: vectors of their batches are kept while the rest is made, so that an interruption costs seconds.

Which batches a part has depends on its rows alone. Those that are kept are passed over, and the part has the bytes that it would
have had. What is kept is used where it has its checksum and was computed in the same way.
"""

import json
import threading
import time
import uuid
from pathlib import Path

import numpy as np

from embedkit import checkpoints
from embedkit.feeding import Part
from embedkit.stages import is_kept, keep

SECONDS = 20.0
"""Of work that an interruption may cost, beside the batches under way."""


class Begun:
    """The parts of a job that are begun, and which of their different rows are embedded.

    Args:
        folder: where vectors are kept.
        way: engine and number type that compute them.
    """

    def __init__(self, folder: Path, way: str):
        self.folder, self.way = folder, way
        self._noting, self._saved = threading.Lock(), time.monotonic()
        self._new: dict[int, tuple[Part, list[np.ndarray]]] = {}

    def restore(self, part: Part) -> np.ndarray:
        """Fill in what is kept of a part; (different rows,) bool, which have their vector now."""
        done = np.zeros(len(part.vectors), bool)
        for path in self._of(part.number):
            if not is_kept(path):
                continue
            with np.load(path, allow_pickle=False) as stored:
                if str(stored["way"]) == self.way and tuple(stored["shape"]) == part.vectors.shape:
                    part.vectors[stored["rows"]], done[stored["rows"]] = stored["vectors"], True
                    part.bad |= {int(row): reason for row, reason in json.loads(str(stored["bad"]))}
        return done

    def note(self, part: Part, rows: np.ndarray) -> None:
        """Take note that these of a part's different rows are embedded; kept with others before long."""
        with self._noting:
            self._new.setdefault(part.number, (part, []))[1].append(rows)
        if time.monotonic() - self._saved >= SECONDS:
            self.save()

    def save(self) -> None:
        """Keep what was noted since the last time."""
        with self._noting:
            new, self._new, self._saved = self._new, {}, time.monotonic()
        for part, noted in new.values():
            self.folder.mkdir(parents=True, exist_ok=True)
            path, rows = self.folder / f"part-{part.number:05d}-{uuid.uuid4().hex[:12]}.npz", np.concatenate(noted)
            bad = np.array(json.dumps(list(part.bad.items())))
            more = {"bad": bad, "way": np.array(self.way), "shape": np.array(part.vectors.shape)}
            checkpoints.save_arrays(path, rows=rows, vectors=part.vectors[rows], **more)
            keep(path)

    def forget(self, number: int) -> None:
        """Remove what was kept of a part that is finished."""
        with self._noting:
            self._new.pop(number, None)
        for path in self.folder.glob(f"part-{number:05d}-*"):  # their records too
            path.unlink(missing_ok=True)

    def _of(self, number: int) -> list[Path]:
        return sorted(self.folder.glob(f"part-{number:05d}-*.npz"))
