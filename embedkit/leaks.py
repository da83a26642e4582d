"""Leaks: which rows an artifact has learned from, the refusal to measure on them, and what a verdict must say of the rest.

Each stage that learns writes `fitted.parquet`: id and content hash of every row that could have shaped what it made, those
used for early stopping included. Rows are compared by content, since ids are keys that two datasets may use differently. Such a
ledger is read only where it is as it was published; without it nothing is measured.

Two things can't be refused, and are said: test rows that equal rows which are learned from in the same call (datasets may keep
equal rows in different splits), and networks that were imported, of which nobody knows what they learned from.
"""

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embedkit.artifacts import Artifact, checksum
from embedkit.settings import UserError
from embedkit.stages import Draft

LEDGER = "fitted.parquet"
ENOUGH = 10
"""Test rows that are no copies without which a verdict has nothing to stand on."""


def record_fitted(out: Draft, rows: pa.Table, folds: np.ndarray | None = None) -> int:
    """Write which rows an artifact learned from, and how many they are.

    Args:
        out: the draft.
        rows: lines of a dataset's `rows.parquet`.
        folds: (rows,) int8, where each row's vector comes from a network that didn't see it (`crossfit`).
    """
    ledger = rows.select(["id", "content"])
    ledger = ledger if folds is None else ledger.append_column("fold", pa.array(folds))
    pq.write_table(ledger, out / LEDGER, compression="zstd")
    return len(rows)


def refuse_leaks(artifact: Artifact, measured: pa.Table) -> None:
    """Stop when rows that are to be measured on were learned from by this artifact or anything it was made from.

    Args:
        artifact: what the measured predictions come from.
        measured: lines of a dataset's `rows.parquet`.

    Raises:
        UserError: naming the ancestor and how many rows.
    """
    content = measured["content"].to_numpy()
    for ancestor in (artifact, *artifact.ancestors()):
        seen = int(np.isin(content, learned_by(ancestor)).sum())
        if seen:
            raise UserError(
                f"{seen:,} of the {len(content):,} rows to measure on were learned from by {ancestor}; measure on rows it "
                "never saw, or train it again on a dataset with the same split"
            )


def learned_by(artifact: Artifact) -> np.ndarray:
    """Content hashes of the rows that an artifact learned from by itself, (rows,) int64; none where it learned nothing.

    Raises:
        UserError: when it says that it learned, or has to, and its ledger isn't there as it was published.
    """
    path, manifest = artifact / LEDGER, artifact.manifest
    listed = next((file for file in manifest.files if file.path == LEDGER), None)
    if listed is None and not manifest.details.get("fitted") and manifest.kind != "classifier" and not path.exists():
        return np.empty(0, np.int64)
    if listed is None:
        what = "is not among its files"
    elif not path.is_file() or path.is_symlink():
        what = "is missing"
    elif path.stat().st_size != listed.bytes or checksum(path) != listed.sha256:
        what = "doesn't fit its checksum"
    else:
        return pq.read_table(path, columns=["content"])["content"].to_numpy()
    raise UserError(
        f"which rows {artifact} learned from can't be known, since its {LEDGER} {what}; restore it, or make {artifact} again "
        "and what was made from it"
    )


def with_lineage(verdict: str, *given: Artifact | None) -> str:
    """A verdict on what was made from these artifacts, which says so where what they learned from is not recorded.

    Args:
        verdict: as it is otherwise; a sentence with its full stop, or words without one.
        given: encoders, classifiers, vectors or datasets; None counts nothing.
    """
    lines = [(one, *one.ancestors()) for one in given if one is not None]
    names = list(dict.fromkeys(f"{one.manifest.kind}/{one.manifest.name}" for line in lines for one in line if _is_imported(one)))
    if not names:
        return verdict
    was, they = ("was", "it") if len(names) == 1 else ("were", "they")
    words = f"ineage unknown: {' and '.join(names)} {was} imported, and what {they} learned from is not recorded"
    return f"{verdict} L{words}." if verdict.endswith(".") else f"{verdict} (l{words})"


def _is_imported(artifact: Artifact) -> bool:
    """Whether an encoder or classifier neither records what it learned from nor was made of one that may."""
    manifest = artifact.manifest
    kinds = ("encoder", "classifier")
    if manifest.kind not in kinds or "fitted" in manifest.details or any(file.path == LEDGER for file in manifest.files):
        return False
    return not any(one.manifest.kind in kinds for one in artifact.inputs.values())


@dataclass(frozen=True)
class Copies:
    """Which test rows hold what a row that is learned from holds: `mask`, (test rows,) bool; empty where nothing is measured."""

    mask: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))

    @classmethod
    def among(cls, content: np.ndarray, test: np.ndarray, learned: np.ndarray) -> "Copies":
        """Those of the rows of a dataset.

        Args:
            content: (rows,) content hashes.
            test: places of the test rows.
            learned: places of all rows that are learned from, or decide when to stop.
        """
        return cls(np.isin(content[test], content[learned]))

    @property
    def count(self) -> int:
        """How many there are."""
        return int(self.mask.sum())

    @property
    def clean(self) -> np.ndarray:
        """The other test rows, (test rows,) bool."""
        return ~self.mask

    @property
    def say_nothing(self) -> bool:
        """Whether so many test rows are copies that the others are too few to say anything."""
        return self.count > 0 and len(self.mask) - self.count < ENOUGH

    @property
    def leading(self) -> np.ndarray:
        """The test rows that a verdict is about, (test rows,) bool: those that are no copies, or all where these are too few."""
        return self.mask | True if self.say_nothing else self.clean

    def verdict(self, clean: str, whole: str = "") -> str:
        """A verdict, which says how many test rows are copies.

        Args:
            clean: what is said of the leading rows; a sentence with its full stop, or words without one.
            whole: the figure of all test rows, to stand beside.
        """
        rows, count = len(self.mask), self.count
        if not count:
            return clean
        if self.say_nothing:
            left = f"{count:,} of the {rows:,} test rows are also training rows, and the {rows - count:,} others are too few"
            words = "othing can be said: " + ("every test row is also a training row" if count == rows else left)
            return f"N{words}." if clean.endswith(".") else f"n{words}"
        of = f"the {rows - count:,} test rows that are no copies of training rows"
        beside = f"with the {count:,} copies too: {whole}" if whole else f"{count:,} more are copies, and left out"
        return f"{clean} That is on {of}; {beside}." if clean.endswith(".") else f"{clean}, on {of}; {beside}"
