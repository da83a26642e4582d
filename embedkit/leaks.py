"""Leaks: which rows an artifact has learned from, the refusal to measure on them, and what a verdict must say of the rest.

Each stage that learns writes `fitted.parquet`: id and content hash of every row that could have shaped what it made, those
used for early stopping included. Rows are compared by content, since ids are keys that two datasets may use differently. Such a
ledger is read only where it is as it was published; without it nothing is measured.

Three things can't be refused, and are said: test rows that equal rows which are learned from in the same call (datasets may keep
equal rows in different splits); near copies of what was learned from (`near`), which `fitted_near.parquet` knows by their
sketches; and networks that were imported without a ledger, of which nobody knows what they learned from.
"""

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embedkit import near
from embedkit.artifacts import Artifact, checksum
from embedkit.settings import UserError
from embedkit.stages import Draft

LEDGER, LEDGER_NEAR = "fitted.parquet", "fitted_near.parquet"
ENOUGH = 10
"""Test rows that are no copies without which a verdict has nothing to stand on."""


def record_fitted(out: Draft, rows: pa.Table, folds: np.ndarray | None = None) -> int:
    """Write which rows an artifact learned from, and how many they are.

    Args:
        out: the draft.
        rows: lines of a dataset's `rows.parquet`, as `datasets.with_near` gives them where near copies are to be known.
        folds: (rows,) int8, where each row's vector comes from a network that didn't see it (`crossfit`).
    """
    ledger = rows.select(["id", "content"])
    ledger = ledger if folds is None else ledger.append_column("fold", pa.array(folds))
    pq.write_table(ledger, out / LEDGER, compression="zstd")
    if "sketch" in rows.column_names:
        record_sketches(out, rows["sketch"])
    return len(rows)


def record_sketches(out: Draft, sketches: pa.ChunkedArray) -> None:
    """Write by what near copies of learned rows are known, each once."""
    known = sketches.combine_chunks().drop_null().unique()
    pq.write_table(pa.table({"sketch": known}), out / LEDGER_NEAR, compression="zstd")


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
    manifest = artifact.manifest
    learned = manifest.details.get("fitted") or manifest.kind == "classifier"
    ledger = _ledger(artifact, LEDGER, must=bool(learned))
    return np.empty(0, np.int64) if ledger is None else ledger["content"].to_numpy()


def near_learned(artifact: Artifact, measured: pa.Table) -> np.ndarray:
    """Which rows are near copies of what an artifact, or anything it was made from, learned from; (rows,) bool.

    Args:
        artifact: what the measured predictions come from.
        measured: lines of a dataset's `rows.parquet` with their sketches; without them none is found.
    """
    found = np.zeros(len(measured), bool)
    if "sketch" not in measured.column_names:
        return found
    ours = measured["sketch"].combine_chunks()
    for ancestor in (artifact, *artifact.ancestors()):
        ledger = _ledger(ancestor, LEDGER_NEAR, must=False)
        if ledger is not None and ledger.schema.field("sketch").type == ours.type:
            found |= near.like(ours, ledger["sketch"].combine_chunks())
    return found


def ledgers(artifact: Artifact) -> tuple[pa.Table, pa.Array | None]:
    """What an artifact, and all that it was made from, learned from: ids and content hashes, and sketches where there are some."""
    rows, sketches = [pa.table({"id": pa.array([], pa.int64()), "content": pa.array([], pa.int64())})], []
    for one in (artifact, *artifact.ancestors()):
        learned_by(one)  # refuses a ledger that is missing
        if (ledger := _ledger(one, LEDGER, must=False)) is not None:
            rows.append(ledger.select(["id", "content"]))
        if (known := _ledger(one, LEDGER_NEAR, must=False)) is not None:
            sketches.append(known["sketch"].combine_chunks())
    every = pa.concat_tables(rows).group_by(["id", "content"], use_threads=False).aggregate([]).sort_by("id")
    alike = [one for one in sketches if one.type == sketches[0].type]
    return every, pa.concat_arrays(alike).unique() if alike else None


def _ledger(artifact: Artifact, name: str, must: bool) -> pa.Table | None:
    """A ledger as it was published; None where there is none."""
    path, listed = artifact / name, next((file for file in artifact.manifest.files if file.path == name), None)
    if listed is None and not must and not path.exists():
        return None
    if listed is None:
        what = "is not among its files"
    elif not path.is_file() or path.is_symlink():
        what = "is missing"
    elif path.stat().st_size != listed.bytes or checksum(path) != listed.sha256:
        what = "doesn't fit its checksum"
    else:
        return pq.read_table(path)
    raise UserError(
        f"which rows {artifact} learned from can't be known, since its {name} {what}; restore it, or make {artifact} again "
        "and what was made from it"
    )


def with_lineage(verdict: str, *given: Artifact | None) -> str:
    """A verdict on what was made from these artifacts, which says so where what they learned from is not recorded.

    Args:
        verdict: as it is otherwise; a sentence with its full stop, or words without one.
        given: encoders, classifiers, vectors or datasets; None counts nothing.
    """
    names = list(dict.fromkeys(name for one in given if one is not None for name in unrecorded(one)))
    if not names:
        return verdict
    was, they = ("was", "it") if len(names) == 1 else ("were", "they")
    words = f"ineage unknown: {' and '.join(names)} {was} imported, and what {they} learned from is not recorded"
    return f"{verdict} L{words}." if verdict.endswith(".") else f"{verdict} (l{words})"


def unrecorded(artifact: Artifact) -> list[str]:
    """The imported networks that an artifact is, or was made from, of which nobody knows what they learned from; kind/name."""
    found: list[str] = []
    for one in (artifact, *artifact.ancestors()):
        found += [f"{one.manifest.kind}/{one.manifest.name}"] if _is_imported(one) else []
        found += [name for name in one.manifest.details.get("unrecorded", ()) if not _is_imported(one)]
    return list(dict.fromkeys(found))


def _is_imported(artifact: Artifact) -> bool:
    """Whether an encoder or classifier neither records what it learned from nor was made of one that may."""
    manifest = artifact.manifest
    kinds = ("encoder", "classifier")
    if manifest.kind not in kinds or "fitted" in manifest.details or any(file.path == LEDGER for file in manifest.files):
        return False
    return not any(one.manifest.kind in kinds for one in artifact.inputs.values())


@dataclass(frozen=True)
class Copies:
    """Which test rows hold what a row that is learned from holds; empty where nothing is measured.

    Attributes:
        mask: (test rows,) bool, all of them.
        near: (test rows,) bool, those among them that equal none, but are near copies; or empty where there is none.
    """

    mask: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    near: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))

    @classmethod
    def among(cls, content: np.ndarray, test: np.ndarray, learned: np.ndarray) -> "Copies":
        """Those of the rows of a dataset.

        Args:
            content: (rows,) content hashes.
            test: places of the test rows.
            learned: places of all rows that are learned from, or decide when to stop.
        """
        return cls(np.isin(content[test], content[learned]))

    @classmethod
    def of(cls, rows: pa.Table, test: np.ndarray, learned: np.ndarray) -> "Copies":
        """Those of the rows of a dataset, near ones too.

        Args:
            rows: lines of its `rows.parquet`, with what `datasets.with_near` puts beside them; without it equal rows alone count.
            test: places of the test rows.
            learned: places of all rows that are learned from, or decide when to stop.
        """
        found = cls.among(rows["content"].to_numpy(), test, learned)
        return found.and_near(cls.among(rows["near"].to_numpy(), test, learned).mask) if "near" in rows.column_names else found

    def and_near(self, mask: np.ndarray) -> "Copies":
        """These and more near copies; `mask` (test rows,) bool."""
        more = mask & ~self.mask
        return Copies(self.mask | more, (self.near | more) if len(self.near) else more) if more.any() else self

    def beside(self, measured: pa.Table, *learned: Artifact | None) -> "Copies":
        """These, and near copies of what artifacts that a measure depends on learned from; equal rows stop it.

        Args:
            measured: the test rows, as `near_learned` takes them.
            learned: artifacts; None counts nothing.

        Raises:
            UserError: as `refuse_leaks`.
        """
        found = self
        for artifact in learned:
            if artifact is not None:
                refuse_leaks(artifact, measured)
                found = found.and_near(near_learned(artifact, measured))
        return found

    @property
    def details(self) -> dict[str, int]:
        """What a manifest says of them."""
        found = {"copies": self.count, "near_copies": int(self.near.sum())}
        return {name: count for name, count in found.items() if count}

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
        rows, count, almost = len(self.mask), self.count, int(self.near.sum())
        if not count:
            return clean
        if self.say_nothing:
            few = f"the {rows - count:,} others are too few"
            left = f"{count:,} of the {rows:,} test rows are also training rows, and {few}"
            words = "every test row is also a training row" if count == rows else left
            if almost:
                left = f"{count:,} of the {rows:,} test rows are training rows, or near copies of some, and {few}"
                words = "every test row is a training row, or a near copy of one" if count == rows else left
            return f"Nothing can be said: {words}." if clean.endswith(".") else f"nothing can be said: {words}"
        of = f"the {rows - count:,} test rows that are no copies of training rows"
        kinds = f" ({almost:,} of them near copies)" if almost else ""
        beside = f"with the {count:,} copies{kinds} too: {whole}" if whole else f"{count:,} more are copies{kinds}, and left out"
        return f"{clean} That is on {of}; {beside}." if clean.endswith(".") else f"{clean}, on {of}; {beside}"
