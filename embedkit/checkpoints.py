"""Checkpoints: all that the next training step depends on, in one file that is whole or not there.

A file is the SHA-256 of what follows, then a numpy archive: `now0` and on (all variables), `best0` and on (the weights of
the best epoch) and `run` (where the run is, as JSON).
"""

import hashlib
import io
import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from embedkit.stages import sync

log = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: where they lie; None keeps none.
        kept: how many of the newest are kept.
        share: of the run's time that they may take; those beyond it are left out.
    """

    def __init__(self, folder: Path | None, kept: int, share: float):
        self.folder, self.kept, self.share = folder, kept, share
        self.cost, self.ended = 0.0, time.monotonic()

    def due(self) -> bool:
        """Whether enough was computed since the last one."""
        return self.folder is not None and (time.monotonic() - self.ended) * self.share >= self.cost * (1 - self.share)

    def save(self, step: int, run: dict[str, Any], variables: list[Any], best: list[np.ndarray]) -> None:
        """Write a checkpoint, then remove the oldest.

        Args:
            step: steps done.
            run: where the run is; plain JSON.
            variables: Keras variables.
            best: weights of the best epoch so far.
        """
        if self.folder is None:
            return
        start = time.monotonic()
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"step-{step:010d}.checkpoint"
        unfinished = path.with_suffix(".unfinished")
        arrays = {f"now{n}": value for n, value in enumerate(values(variables))}
        arrays |= {f"best{n}": value for n, value in enumerate(best)}
        content = io.BytesIO()
        np.savez(content, run=np.array(json.dumps(run)), **arrays)  # pyright: ignore[reportArgumentType]
        with unfinished.open("wb") as file:
            file.write(hashlib.sha256(content.getbuffer()).digest())
            file.write(content.getbuffer())
        sync(unfinished)
        os.replace(unfinished, path)
        for old in sorted(self.folder.glob("step-*.checkpoint"))[: -self.kept]:
            old.unlink()
        self.ended = time.monotonic()
        self.cost = self.ended - start

    def restore(self, variables: list[Any], best: list[np.ndarray]) -> dict[str, Any] | None:
        """Set all variables from the newest checkpoint that can be read, and say where the run is; None where there is none."""
        for path in sorted(self.folder.glob("step-*.checkpoint"), reverse=True) if self.folder else ():
            raw = path.read_bytes()
            if hashlib.sha256(memoryview(raw)[32:]).digest() != raw[:32]:
                log.warning("checkpoint %s is damaged (its checksum doesn't fit); going on from the one before", path.name)
                continue
            with np.load(io.BytesIO(raw[32:]), allow_pickle=False) as stored:
                assign(variables, [stored[f"now{n}"] for n in range(len(variables))])
                best[:] = [stored[f"best{n}"] for n in range(len(best))]
                return json.loads(str(stored["run"]))
        return None


def values(variables: list[Any]) -> list[np.ndarray]:
    """A copy of what Keras variables hold."""
    return [np.array(variable.numpy()) for variable in variables]


def assign(variables: list[Any], arrays: list[np.ndarray]) -> None:
    """Set Keras variables."""
    for variable, value in zip(variables, arrays, strict=True):
        variable.assign(value)


def save_array(path: Path, array: np.ndarray) -> None:
    """Write a numpy file that is whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _whole(path, lambda file: np.save(file, array, allow_pickle=False))


def save_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Write numpy arrays by name into a file that is whole or not there."""
    _whole(path, lambda file: np.savez(file, allow_pickle=False, **arrays))


def _whole(path: Path, write: Callable[[Any], None]) -> None:
    unfinished = path.with_name(path.name + ".partial.unfinished")
    with unfinished.open("wb") as file:
        write(file)
    sync(unfinished)
    os.replace(unfinished, path)
