"""Remote roots: artifacts in an object store, `s3://` or `gs://`, or at any other address that fsspec knows.

A remote root has the layout of a local one. Its manifests are written last, so that an artifact is complete from the moment it
can be seen there too. Work is done on copies, in a root of this machine's own; every copy is checked against its manifest.
A job that many machines work for keeps its finished parts and its decisions under `.drafts/` there, as it does locally.
"""

import contextlib
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import filelock
import fsspec

from embedkit.artifacts import DRAFTS, NAME, VERSION, Artifact, is_address, parse_reference, pick_version, root_at
from embedkit.settings import UserError, not_among
from embedkit.stages import Draft

CACHE = "EMBEDKIT_CACHE"
"""Environment variable: the folder in which copies of remote roots lie; by default `~/.cache/embedkit`."""
MANIFEST = "manifest.json"
DECISIONS = "decisions.json"
OBJECTS = {"s3", "s3a", "gs", "gcs", "az", "abfs", "memory"}
"""Stores that have no folders: there a name may hold slashes, and making one could make a bucket."""


class Remote:
    """A remote root.

    Args:
        address: such as `s3://bucket/folder`. Who may read and write is the store's business: credentials come from where its
            library looks for them (environment, profile), never from the address.
        root: the local root for this machine's copies; by default one in CACHE.

    Raises:
        UserError: when the address is none, holds a password, or its library isn't installed.
    """

    def __init__(self, address: str, root: Path | str | None = None):
        self.address = address.rstrip("/")
        self.protocol = self.address.partition("://")[0]
        if not is_address(self.address):
            raise UserError(f"{address!r} is no address of a remote root; give one such as s3://bucket/folder")
        if "@" in self.address.partition("://")[2].partition("/")[0]:
            raise UserError("an address is shown and kept, so no password belongs in it; give credentials in the environment")
        try:
            self.store, self.base = fsspec.core.url_to_fs(self.address, use_listings_cache=False, skip_instance_cache=True)
        except (ImportError, ValueError) as error:
            extra = {"s3": "s3", "gs": "gcs", "gcs": "gcs"}.get(self.protocol)
            advice = f"run `pip install 'embedkit[{extra}]'`" if extra else "give s3://, gs:// or another address that fsspec knows"
            raise UserError(f"{self.protocol}:// can't be used here ({error}); {advice}") from error
        cache = Path(os.environ.get(CACHE) or Path.home() / ".cache/embedkit").expanduser().resolve()
        self.root = root_at(root or cache / hashlib.sha256(self.address.encode()).hexdigest()[:16])
        (self.root / DRAFTS).mkdir(parents=True, exist_ok=True)

    # Artifacts

    def fetch(self, reference: str) -> Artifact:
        """This machine's copy of an artifact, made where there is none; its files are as published.

        Raises:
            UserError: when there is no such artifact, or a file isn't what its manifest says.
        """
        kind, name, version = self._found(reference)
        place = self.root / kind / name / version
        with filelock.FileLock(self.root / DRAFTS / f"fetch-{kind}-{name}-{version}.lock"):
            if not place.exists():
                holds = self.root / DRAFTS / f"fetch-{uuid.uuid4().hex}"
                try:
                    self._copy(f"{kind}/{name}/{version}", holds / kind / name / version)
                    place.parent.mkdir(parents=True, exist_ok=True)
                    os.rename(holds / kind / name / version, place)
                finally:
                    shutil.rmtree(holds, ignore_errors=True)
        return Artifact.at(place)

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
        """The same as `fetch`, of an artifact and of all that it was made from."""
        first = self.fetch(reference)
        queue, seen = [first], {str(first)}
        while queue:
            new = {given.ref for given in queue.pop().manifest.inputs} - seen
            seen |= new
            queue += [self.fetch(reference) for reference in sorted(new)]
        return first

    def send(self, artifact: Artifact) -> None:
        """Publish a local artifact in the remote root, unless it is there: its files, and then its manifest."""
        place = "/".join([artifact.manifest.kind, artifact.manifest.name, artifact.manifest.version])
        if self._there(f"{place}/{MANIFEST}"):
            return
        artifact.check()
        for name in (*(file.path for file in artifact.manifest.files), MANIFEST):
            self._put(artifact / name, f"{place}/{name}")

    def send_lineage(self, artifact: Artifact) -> None:
        """Publish an artifact and all that it was made from, the oldest first."""
        for one in (*reversed([*artifact.ancestors()]), artifact):
            self.send(one)

    def _found(self, reference: str) -> tuple[str, str, str]:
        kind, name, version = parse_reference(reference)
        if VERSION.fullmatch(version) and (self.root / kind / name / version).exists():
            return kind, name, version
        known = sorted(found for found in self._names(f"{kind}/{name}") if VERSION.fullmatch(found))
        known = [found for found in known if self._there(f"{kind}/{name}/{found}/{MANIFEST}")]
        if not known:
            raise not_among("artifact", f"{kind}/{name}", [f"{kind}/{each}" for each in self._names(kind)], f"in {self.address}")
        return kind, name, pick_version(reference, known)

    def _copy(self, place: str, folder: Path) -> None:
        self._get(f"{place}/{MANIFEST}", folder / MANIFEST)
        artifact = Artifact.at(folder)
        for file in artifact.manifest.files:
            if file.path != PurePosixPath(file.path).as_posix() or file.path.startswith("/") or ".." in file.path.split("/"):
                raise UserError(f"{self.address}/{place} names a file outside itself ({file.path!r}); don't use it")
            self._get(f"{place}/{file.path}", folder / file.path)
        artifact.check()

    # Drafts: `id` is the name of a draft's folder

    def fetch_draft(self, id: str) -> None:
        """Copy what was finished of a job, and decided, into this machine's draft of it, so that the same call goes on there."""
        self.fetch_work(id, self.root / DRAFTS / id)
        for receipt in self._names(f"{DRAFTS}/{id}/work/receipts"):
            self.fetch_part(id, receipt.removesuffix(".json"))

    def fetch_work(self, id: str, folder: Path) -> None:
        """Copy what helps to make a job's parts, such as a network in int8, into a draft's folder."""
        for name in self._names(f"{DRAFTS}/{id}/work"):
            if name != "receipts":
                self._get(f"{DRAFTS}/{id}/work/{name}", folder / "work" / name)

    def send_work(self, id: str) -> None:
        """Publish what was decided for a job, for those who make its parts.

        Raises:
            UserError: when another run of the same call decided otherwise meanwhile.
        """
        work = self.root / DRAFTS / id / "work"
        for path in sorted(work.iterdir()):
            if path.is_file() and path.name != DECISIONS and path.suffix != ".unfinished":
                self._put(path, f"{DRAFTS}/{id}/work/{path.name}")
        decided = (work / DECISIONS).read_bytes()
        with self._plainly():
            try:
                self.store.pipe_file(f"{self.base}/{DRAFTS}/{id}/work/{DECISIONS}", decided, mode="create")
            except FileExistsError:
                if self.store.cat_file(f"{self.base}/{DRAFTS}/{id}/work/{DECISIONS}") != decided:
                    shutil.rmtree(self.root / DRAFTS / id)
                    raise UserError(
                        "the same call began elsewhere at the same time, with another engine; make it again to go on with that one"
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
            self._get(f"{DRAFTS}/{id}/files/{name}", draft / name)
            self._get(f"{DRAFTS}/{id}/work/receipts/{name}.json", draft.receipt(name))

    def forget_draft(self, id: str) -> None:
        """Remove what was kept of a job that is published."""
        if self._names(f"{DRAFTS}/{id}"):
            with self._plainly():
                self.store.rm(f"{self.base}/{DRAFTS}/{id}", recursive=True)

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
            raise UserError(f"{self.address} refused ({why}); check the address and your credentials, and try again") from error

    def _names(self, place: str) -> list[str]:
        """What lies in a folder, by names that lead nowhere else; nothing where there is no such folder."""
        with self._plainly():
            try:
                found = self.store.ls(f"{self.base}/{place}", detail=False)
            except (FileNotFoundError, NotADirectoryError):
                return []
        names = (PurePosixPath(path).name for path in found if path.rstrip("/") != f"{self.base}/{place}")
        return sorted(name for name in names if NAME.fullmatch(name))

    def _there(self, place: str) -> bool:
        with self._plainly():
            return bool(self.store.exists(f"{self.base}/{place}"))

    def _get(self, place: str, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}.unfinished")
        with self._plainly():
            self.store.get_file(f"{self.base}/{place}", str(unfinished))
        os.replace(unfinished, path)

    def _put(self, path: Path, place: str) -> None:
        with self._plainly():
            if self.protocol not in OBJECTS:
                self.store.makedirs(str(PurePosixPath(self.base, place).parent), exist_ok=True)
            self.store.put_file(str(path), f"{self.base}/{place}")

