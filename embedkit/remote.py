"""Remote roots: artifacts in an object store (`s3://`, `gs://`, `az://`) or in a folder named as one (`file:///mnt/shared`).

A remote root has the layout of a local one. Its manifests are written last, so that an artifact is complete from the moment it
can be seen there too. Work is done on copies, in a root of this machine's own; every copy is checked against its manifest.
A job that many machines work for keeps its finished parts and its decisions under `.drafts/` there, as it does locally.

What lies in a store may be anyone's. Nothing is copied before it is known how large it may be and that it lies inside; what comes
otherwise ends in one sentence, and nothing of it is seen in the local root.
"""

import contextlib
import hashlib
import itertools
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import filelock
import fsspec
import fsspec.asyn
from pydantic import BaseModel, ValidationError

from embedkit.artifacts import (
    DRAFTS,
    LARGEST_MANIFEST,
    MANIFEST,
    NAME,
    VERSION,
    Artifact,
    Count,
    Manifest,
    Newer,
    Sum,
    changing,
    is_address,
    let_go,
    lock_of,
    oldest_first,
    open_file,
    parse_reference,
    pick_version,
    read_json,
    read_manifest,
    refuse_links,
    root_at,
)
from embedkit.environment import computing
from embedkit.settings import UserError, not_among
from embedkit.stages import COMPUTED_BY, DECISIONS, Draft, sync

CACHE = "EMBEDKIT_CACHE"
"""Environment variable: the folder in which copies of remote roots lie; by default `~/.cache/embedkit`."""
UNFINISHED = ".unfinished"
STORES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "memory": None, "file": None}
"""The stores that are spoken to, and what speaks to each. fsspec knows others, among them archives and web pages inside each
other, which have no place for what is published or lead where nobody looked."""
EXTRAS = {"s3fs": "embedkit[s3]", "gcsfs": "embedkit[gcs]", "adlfs": "adlfs"}
LARGEST_WORK = 64 * 2**30
"""Bytes of a file that helps to make a job's parts, such as a network; one larger than the free disk isn't copied either."""
MOST_NAMES = 100_000
"""Names in one folder of a store; a folder holds kinds, names, versions, or the parts of a job."""
MOST_MADE_FROM = 10_000
"""Artifacts that one was made from, that are fetched with it."""
LISTING_SECONDS = 120
"""How long a store may go on with naming what lies in one folder."""


class Receipt(BaseModel):
    """What says of a job's part that it is finished."""

    class Part(BaseModel):
        """The part's file, and what was recorded of it."""

        bytes: Count
        sha256: Sum
        facts: dict[str, object]

    receipt: Part
    sha256: Sum


class Bound(fsspec.Callback):
    """Stops a copy that grows beyond what is allowed."""

    def __init__(self, shown: str, most: int):
        super().__init__()
        self.shown, self.most = shown, most

    def check(self, size: int | None) -> None:
        """Stop at more bytes than allowed."""
        if size is not None and size > self.most:
            raise UserError(f"{self.shown} has more than the {self.most:,} bytes it may have; it isn't as published: don't use it")

    def set_size(self, size: int | None) -> None:
        """What the store says of the file's size."""
        self.check(size)

    def absolute_update(self, value: int) -> None:
        """So many bytes have come."""
        self.value = value
        self.check(value)

    def relative_update(self, inc: int = 1) -> None:
        """So many more bytes have come."""
        self.absolute_update(self.value + inc)


class Remote:
    """A remote root.

    Args:
        address: such as `s3://bucket/folder`. Who may read and write is the store's business: credentials come from where its
            library looks for them (environment, profile), never from the address.
        root: the local root for this machine's copies; by default one in CACHE.

    Raises:
        UserError: when the address is none, holds a password, is of no store in STORES, or its library isn't installed.
    """

    def __init__(self, address: str, root: Path | str | None = None):
        self.address = address.rstrip("/")
        self.protocol, _, place = self.address.partition("://")
        if not is_address(self.address) or not place:
            raise UserError(f"{address!r} is no address of a remote root; give one such as s3://bucket/folder")
        if "::" in address or ".." in place.split("/") or not address.isprintable():
            raise UserError(f"{address!r} doesn't name one place; give one without '::' and '..', such as s3://bucket/folder")
        if "@" in place.partition("/")[0]:
            raise UserError("an address is shown and kept, so no password belongs in it; give credentials in the environment")
        if self.protocol not in STORES:
            raise UserError(f"{self.protocol}:// can't be used here; give s3://, gs://, az://, or file:// for a shared folder")
        try:
            self.store, self.base = fsspec.core.url_to_fs(self.address, use_listings_cache=False, skip_instance_cache=True)
        except (ImportError, ValueError) as error:
            extra = EXTRAS.get(STORES[self.protocol] or "")
            advice = f"run `pip install '{extra}'`" if extra else "give an address such as s3://bucket/folder"
            raise UserError(f"{self.protocol}:// can't be used here ({error}); {advice}") from error
        cache = Path(os.environ.get(CACHE) or Path.home() / ".cache/embedkit").expanduser().resolve()
        self.root = root_at(root or cache / hashlib.sha256(self.address.encode()).hexdigest()[:16])
        refuse_links(self.root / DRAFTS)
        (self.root / DRAFTS).mkdir(parents=True, exist_ok=True)

    # Artifacts

    def fetch(self, reference: str) -> Artifact:
        """This machine's copy of an artifact, made where there is none; its files are as published.

        Raises:
            UserError: when there is no such artifact, or a file isn't what its manifest says.
        """
        found = self._found(reference)
        return self._kept(found) or self._copied(found, *self._manifest(found))

    def fetch_made(self, kind: str, fingerprint: str) -> Artifact | None:
        """This machine's copy of the newest artifact with a fingerprint, or None where the same call was never published."""
        fitting = [
            (version, name)
            for name in self._names(kind)
            for version in self._names(f"{kind}/{name}")
            if VERSION.fullmatch(version) and version.endswith(fingerprint[:8])
        ]
        for version, name in sorted(fitting, reverse=True):
            if self._there(f"{kind}/{name}/{version}/{MANIFEST}"):
                artifact = self.fetch(f"{kind}/{name}@{version}")
                if artifact.manifest.fingerprint == fingerprint:
                    return artifact
        return None

    def fetch_lineage(self, reference: str) -> Artifact:
        """The same as `fetch`, of an artifact and of all that it was made from: the oldest first, so that each has its inputs.

        Raises:
            UserError: also where they were made from each other in a circle, are too many, or larger than the free disk.
        """
        first = self._found(reference)
        queue, known, new = [first], dict[str, Manifest](), dict[str, bytes]()
        while queue:
            name = queue.pop()
            kept = self._kept(name)
            raw, manifest = (b"", kept.manifest) if kept else self._manifest(name)
            known[name] = manifest
            new |= {} if kept else {name: raw}
            for given in manifest.inputs:
                if given.ref in known or given.ref in queue:
                    continue
                try:
                    queue.append(self._found(given.ref))
                except UserError as error:
                    raise UserError(f"{name} was made from {given.ref}, but {error}") from error
            if len(known) + len(queue) > MOST_MADE_FROM:
                raise UserError(f"{first} was made from more than {MOST_MADE_FROM:,} artifacts, which no stage does; don't use it")
        for name, manifest in known.items():
            for given in manifest.inputs:
                if known[given.ref].fingerprint != given.fingerprint:
                    raise UserError(f"{name} was made from {given.ref}, but {self.address} holds another there; don't use it")
        _refuse_too_large(first, sum(file.bytes for name in new for file in known[name].files), self.root)
        for name in oldest_first({name: [given.ref for given in manifest.inputs] for name, manifest in known.items()}):
            if name in new:
                self._copied(name, new[name], known[name])
        return Artifact.open(first, self.root)

    def send(self, artifact: Artifact) -> None:
        """Publish a local artifact in the remote root, unless it is there: its files, and then its manifest."""
        artifact.check()
        place = _place(str(artifact))
        if self._there(f"{place}/{MANIFEST}"):
            _, theirs = self._manifest(str(artifact))
            if (theirs.fingerprint, theirs.content) != (artifact.manifest.fingerprint, artifact.manifest.content):
                raise UserError(f"{self.address}/{place} holds another {artifact} than this one; remove the one that isn't meant")
            return
        for name in (*(file.path for file in artifact.manifest.files), MANIFEST):
            self._put(artifact / name, f"{place}/{name}")

    def send_lineage(self, artifact: Artifact) -> None:
        """Publish an artifact and all that it was made from, the oldest first."""
        known = {str(one): one for one in (artifact, *artifact.ancestors())}
        for name in oldest_first({name: [given.ref for given in one.manifest.inputs] for name, one in known.items()}):
            self.send(known[name])

    def _found(self, reference: str) -> str:
        """The full reference of an artifact that is here or there."""
        kind, name, version = parse_reference(reference)
        if VERSION.fullmatch(version) and (self._kept(reference) or self._there(f"{_place(reference)}/{MANIFEST}")):
            return reference
        known = sorted(found for found in self._names(f"{kind}/{name}") if VERSION.fullmatch(found))
        fitting = [found for found in reversed(known) if found.startswith(version)]
        complete = (found for found in fitting if self._there(f"{kind}/{name}/{found}/{MANIFEST}"))
        # Without a version the newest is meant, whether others are complete or not; with one it is enough to see that several are.
        fitting = list(itertools.islice(complete, 4 if version else 1))
        if not known or (not fitting and not version):
            raise not_among("artifact", f"{kind}/{name}", [f"{kind}/{each}" for each in self._names(kind)], f"in {self.address}")
        if not fitting:
            raise not_among(f"version of {kind}/{name}", version, [each for each in known if not each.startswith(version)])
        return f"{kind}/{name}@{pick_version(reference, sorted(fitting))}"

    def _kept(self, reference: str) -> Artifact | None:
        """This machine's copy of an artifact, if there is one."""
        place = self.root / _place(reference)
        refuse_links(place.parent.parent, place.parent, place)
        return Artifact.at(place) if place.exists() else None

    def _manifest(self, reference: str) -> tuple[bytes, Manifest]:
        """A manifest there, as bytes and read."""
        place = f"{_place(reference)}/{MANIFEST}"
        raw = self._read(place, LARGEST_MANIFEST)
        try:
            manifest = read_manifest(raw)
        except Newer as error:
            raise UserError(f"{self.address}/{place} {error}") from error
        except ValueError as error:
            raise UserError(f"{self.address}/{place} is damaged: {error}; don't use it") from error
        if f"{manifest.kind}/{manifest.name}@{manifest.version}" != reference:
            raise UserError(f"{self.address}/{place} is of another artifact, {manifest.kind}/{manifest.name}; don't use it")
        return raw, manifest

    def _copied(self, reference: str, raw: bytes, manifest: Manifest) -> Artifact:
        """Copy the files of a manifest, check them, and only then let them be seen."""
        place = self.root / _place(reference)
        _refuse_too_large(reference, sum(file.bytes for file in manifest.files), self.root)
        copy = self.root / DRAFTS / f"fetch-{_place(reference).replace('/', '-')}"  # of which there is only the file of its lock
        lock = filelock.FileLock(lock_of(copy))
        with contextlib.ExitStack() as stack:
            lock.acquire()
            stack.callback(let_go, copy, lock)
            if not place.exists():
                holds = self.root / DRAFTS / f"fetch-{uuid.uuid4().hex}"
                folder = holds / _place(reference)
                try:
                    folder.mkdir(parents=True)
                    (folder / MANIFEST).write_bytes(raw)
                    sync(folder / MANIFEST)
                    for file in manifest.files:
                        self._get(f"{_place(reference)}/{file.path}", folder / file.path, file.bytes)
                    Artifact.at(folder).check()
                    for inner in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
                        sync(inner)
                    with changing(self.root):  # a name that lost its last version may be going
                        place.parent.mkdir(parents=True, exist_ok=True)
                        os.rename(folder, place)
                    for outer in (place.parent, place.parent.parent, self.root):
                        sync(outer)
                finally:
                    shutil.rmtree(holds, ignore_errors=True)
        return Artifact.at(place)

    # Drafts: `id` is the name of a draft's folder

    def fetch_draft(self, id: str) -> None:
        """Copy what was finished of a job, and decided, into this machine's draft of it, so that the same call goes on there."""
        here = self.root / DRAFTS / id
        self.fetch_work(id, here)
        if (here / "work" / DECISIONS).exists() and (other := Draft(here).computed_otherwise(computing(keras=True))):
            shutil.rmtree(here)
            raise UserError(
                f"{self.address}/{DRAFTS}/{id} was begun with {other}; go on where that is so, or remove it there to start anew"
            )
        for receipt in self._names(f"{DRAFTS}/{id}/work/receipts"):
            self.fetch_part(id, receipt.removesuffix(".json"))

    def fetch_work(self, id: str, folder: Path) -> None:
        """Copy what helps to make a job's parts, such as a network in int8, into a draft's folder."""
        for name in self._names(f"{DRAFTS}/{id}/work"):
            if name == DECISIONS:
                place = f"{DRAFTS}/{id}/work/{name}"
                raw = self._read(place, LARGEST_MANIFEST)
                with self._sound(place):
                    if not isinstance(read_json(raw), dict):
                        raise ValueError("it holds no decisions")
                _write(folder / "work" / name, raw)
            elif name != "receipts" and not name.endswith(UNFINISHED):
                self._get(f"{DRAFTS}/{id}/work/{name}", folder / "work" / name, LARGEST_WORK)

    def send_work(self, id: str) -> None:
        """Publish what was decided for a job, for those who make its parts.

        Raises:
            UserError: when another run of the same call decided otherwise meanwhile, or computes by other versions.
        """
        work = self.root / DRAFTS / id / "work"
        for path in sorted(work.iterdir()):
            if path.is_file() and path.name not in (DECISIONS, COMPUTED_BY) and path.suffix != UNFINISHED:
                self._put(path, f"{DRAFTS}/{id}/work/{path.name}")
        for name in (COMPUTED_BY, DECISIONS):
            self._put_once(id, name, (work / name).read_bytes())

    def _put_once(self, id: str, name: str, raw: bytes) -> None:
        """Publish what all who work for a job go by, unless it is there."""
        place = f"{DRAFTS}/{id}/work/{name}"
        with self._plainly():
            try:
                self.store.pipe_file(self._inside(place), raw, mode="create")
            except FileExistsError:
                if self._read(place, LARGEST_MANIFEST) != raw:
                    shutil.rmtree(self.root / DRAFTS / id)
                    what = "another engine" if name == DECISIONS else "other versions"
                    raise UserError(
                        f"the same call began elsewhere at the same time, with {what}; make it again to go on with that one"
                    ) from None

    def has_part(self, id: str, name: str) -> bool:
        """Whether a part is finished."""
        return self._there(f"{DRAFTS}/{id}/work/receipts/{name}.json")

    def send_part(self, id: str, draft: Draft, name: str) -> None:
        """Publish a finished part: its file, and then its receipt."""
        self._put(draft / name, f"{DRAFTS}/{id}/files/{name}")
        self._put(draft.receipt(name), f"{DRAFTS}/{id}/work/receipts/{name}.json")

    def fetch_part(self, id: str, name: str) -> None:
        """Copy a finished part into this machine's draft, unless it is there; `Draft.finished` says whether it came whole."""
        draft = Draft(self.root / DRAFTS / id)
        if draft.finished(name) is None:
            place = f"{DRAFTS}/{id}/work/receipts/{name}.json"
            raw = self._read(place, LARGEST_MANIFEST)
            with self._sound(place):
                receipt = Receipt.model_validate(read_json(raw)).receipt
            self._get(f"{DRAFTS}/{id}/files/{name}", draft / name, receipt.bytes)
            _write(draft.receipt(name), raw)

    def forget_draft(self, id: str) -> None:
        """Remove what was kept of a job that is published."""
        if self._names(f"{DRAFTS}/{id}"):
            with self._plainly():
                self.store.rm(self._inside(f"{DRAFTS}/{id}"), recursive=True)

    # The store

    @contextlib.contextmanager
    def _plainly(self) -> Iterator[None]:
        """Say in one sentence what a store's library refuses, whatever it raises."""
        try:
            yield
        except (UserError, FileExistsError):
            raise
        except Exception as error:
            why = re.sub(r"\s+", " ", f"{type(error).__name__}: {error}")[:200]
            why = "".join(sign if sign.isprintable() else "?" for sign in why)
            raise UserError(f"{self.address} refused ({why}); check the address and your credentials, and try again") from error

    @contextlib.contextmanager
    def _sound(self, place: str) -> Iterator[None]:
        """Say in one sentence what is wrong with a file of a job."""
        try:
            yield
        except ValueError as error:
            why = f"{error.errors()[0]['msg']}: {error.errors()[0]['loc']}" if isinstance(error, ValidationError) else error
            raise UserError(f"{self.address}/{place} is damaged ({why}); remove it there, and it is made again") from error

    def _inside(self, place: str) -> str:
        """Where a file or folder lies in the store, by the store's own name; in a shared folder no link may lead there."""
        if self.protocol == "file":
            path = Path(self.base)
            for part in PurePosixPath(place).parts:
                path /= part
                refuse_links(path)
        return f"{self.base}/{place}"

    def _names(self, place: str) -> list[str]:
        """What lies in a folder, by names that lead nowhere else; nothing where there is no such folder.

        Raises:
            UserError: for a folder that never ends.
        """
        folder = self._inside(place)
        with self._plainly():
            try:
                found = self._listed(folder)
            except (FileNotFoundError, NotADirectoryError):
                return []
            except fsspec.FSTimeoutError as error:
                raise self._endless(place) from error
        if len(found) > MOST_NAMES:
            raise self._endless(place)
        names = (PurePosixPath(path).name for path in found if path.rstrip("/") != folder)
        return sorted({name for name in names if NAME.fullmatch(name) and len(name) <= 255})

    def _listed(self, folder: str) -> list[str]:
        if self.protocol == "file":
            with os.scandir(folder) as entries:
                return [entry.path for entry in itertools.islice(entries, MOST_NAMES + 1)]
        if isinstance(self.store, fsspec.asyn.AsyncFileSystem):
            return list(fsspec.asyn.sync(self.store.loop, self.store._ls, folder, detail=False, timeout=LISTING_SECONDS) or ())
        return list(itertools.islice(self.store.ls(folder, detail=False), MOST_NAMES + 1))

    def _endless(self, place: str) -> UserError:
        return UserError(
            f"{self.address}/{place} names more than {MOST_NAMES:,} entries, or goes on for more than {LISTING_SECONDS} s; "
            "no root is so large: check the address"
        )

    def _there(self, place: str) -> bool:
        inside = self._inside(place)
        with self._plainly():
            return bool(self.store.exists(inside))

    def _get(self, place: str, path: Path, most: int) -> None:
        """Copy a file that may have so many bytes."""
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = _unfinished(path)
        try:
            self._download(place, unfinished, most)
            sync(unfinished)
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)

    def _read(self, place: str, most: int) -> bytes:
        """The bytes of a file that may have so many."""
        unfinished = _unfinished(self.root / DRAFTS / "read")
        try:
            self._download(place, unfinished, most)
            return unfinished.read_bytes()
        finally:
            unfinished.unlink(missing_ok=True)

    def _download(self, place: str, path: Path, most: int) -> None:
        shown, inside, bound = f"{self.address}/{place}", self._inside(place), Bound(f"{self.address}/{place}", most)
        with self._plainly():
            if self.protocol == "file":
                _copy_file(Path(inside), path, bound)
            else:
                known = self.store.info(inside)
                bound.check(known.get("size"))
                if known.get("type") != "file":
                    raise UserError(f"{shown} is no file; don't use it")
                _refuse_too_large(shown, known.get("size") or 0, path.parent)
                self.store.get_file(inside, str(path), callback=bound)
            bound.check(path.stat().st_size)

    def _put(self, path: Path, place: str) -> None:
        inside = self._inside(place)
        with self._plainly():
            if self.protocol == "file":
                Path(inside).parent.mkdir(parents=True, exist_ok=True)
                unfinished = _unfinished(Path(inside))
                try:
                    _copy_file(path, unfinished)
                    sync(unfinished)
                    os.replace(unfinished, inside)
                finally:
                    unfinished.unlink(missing_ok=True)
            else:
                self.store.put_file(str(path), inside)


def _refuse_too_large(what: str, size: int, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if size > free:
        raise UserError(f"{what} takes {size:,} bytes, but {free:,} are free at {folder}; make room or name another root")


def _place(reference: str) -> str:
    """Where an artifact lies in a root, by its full reference."""
    return reference.replace("@", "/")


def _unfinished(path: Path) -> Path:
    return path.with_name(f"{uuid.uuid4().hex}{UNFINISHED}")


def _write(path: Path, raw: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = _unfinished(path)
    unfinished.write_bytes(raw)
    sync(unfinished)
    os.replace(unfinished, path)


def _copy_file(source: Path, path: Path, bound: Bound | None = None) -> None:
    """Copy a file that is a file, and no link to one."""
    with open_file(source) as given, path.open("xb") as written:
        if bound:
            bound.set_size(os.fstat(given.fileno()).st_size)
        while chunk := given.read(2**20):
            written.write(chunk)
            if bound:
                bound.relative_update(len(chunk))
