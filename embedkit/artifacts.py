"""Artifacts: what stages publish, and how a person or a program finds, checks and removes them.

An artifact is a plain folder `<root>/<kind>/<name>/<version>/` that holds its files and a `manifest.json`. It is complete
from the moment it can be seen, and never changes afterwards. `artifacts/README.md` documents the manifest field by field,
so that it can be read without embedkit.

A reference is `kind/name` (the newest version), `kind/name@version`, or any unambiguous prefix of a version.
"""

import contextlib
import errno
import graphlib
import hashlib
import json
import os
import re
import shutil
import stat
import time
import uuid
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from io import BufferedReader
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Self, TypeVar

import filelock
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, GetCoreSchemaHandler, ValidationError, model_validator
from pydantic_core import CoreSchema, core_schema

from embedkit.settings import UserError, not_among

NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
VERSION = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{8}")
SEAL = re.compile(rb'"seal": "([0-9a-f]{64})"\n}\n\Z')
MANIFEST = "manifest.json"
FORMAT = 1
"""Of manifests: the highest `format` that is understood here. One without it has this one, or is older."""
LARGEST_MANIFEST = 64 * 2**20
"""Bytes of a manifest.json that are read: room for the checksums of some 400,000 files."""
DEEPEST = 100
"""Levels of objects and lists in a manifest; those of stages have less than ten."""
LARGEST_NUMBER = 2**63 - 1
DRAFTS = ".drafts"
INPUTS = "inputs.json"
"""In a draft: the references of what it is being made from."""
AGAIN = "make it again with the call that made it"
Kind = TypeVar("Kind")
CHANGES = "changes.lock"
"""Among the drafts: held while an artifact comes or goes, or a call says what it is going to read."""
GRAVE = "removed-"
"""How the folder of what is being removed begins, among the drafts."""
ABANDONED_SECONDS = 24 * 3600
"""A draft that nobody holds and nobody touched for a day is not going to be resumed."""


def _nothing(value: object) -> bool:
    return value is None


def _is_inside(path: str) -> str:
    """A path that leads to a file in an artifact's folder, and on every system to the same one."""
    parts = path.split("/")
    leads_out = not all(parts) or {".", ".."} & {*parts} or "\\" in path or re.match("[A-Za-z]:", path)
    too_long = len(path) > 1024 or max(len(part.encode(errors="replace")) for part in parts) > 255
    if leads_out or too_long or not path.isprintable() or parts[0].casefold() == MANIFEST:
        raise ValueError(f"a path must be relative, names joined by '/', and lead to a file inside the artifact beside {MANIFEST}")
    return path


def _is_full(reference: str) -> str:
    """A reference that holds a whole version."""
    if not VERSION.fullmatch(parse_reference(reference)[2]):
        raise ValueError("a reference must read kind/name@version, with the whole version")
    return reference


Name = Annotated[str, Field(pattern=rf"^(?:{NAME.pattern})\z", max_length=255)]
Sum = Annotated[str, Field(pattern=r"^[0-9a-f]{64}\z")]
Count = Annotated[int, Field(ge=0, le=LARGEST_NUMBER)]


Value = TypeVar("Value")


class Known(dict[str, Value]):
    """What a manifest says, which may be anyone's words: to ask for what it doesn't say is an error that the user can mend."""

    def __init__(self, whose: str, values: Mapping[str, Value]):
        super().__init__(values)
        self.whose = whose

    def __missing__(self, name: str) -> Value:
        raise UserError(f"the manifest of {self.whose} names no {name!r}, which its stage writes; make it again")


class Metric(BaseModel):
    """A measured number: its value, how many rows it was measured on, and its standard error where it has one.

    Where it was measured for several seeds, value and standard error are means over them, and `spread` is the standard
    deviation between them.
    """

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="strings")

    value: float
    n: int
    standard_error: float | None = None
    spread: float | None = Field(default=None, exclude_if=_nothing)
    seeds: int | None = Field(default=None, exclude_if=_nothing)

    def __str__(self) -> str:
        error = "" if self.standard_error is None else f" ± {self.standard_error:.2g}"
        seeds = "" if self.seeds is None else f", {self.seeds} seeds ± {self.spread:.2g}"
        return f"{self.value:.4g}{error} (n={self.n:,}{seeds})"


class File(BaseModel):
    """A file of an artifact, relative to its folder."""

    path: Annotated[str, AfterValidator(_is_inside)]
    bytes: Count
    sha256: Sum


class Input(BaseModel):
    """An artifact that another was made from."""

    role: str
    ref: Annotated[str, AfterValidator(_is_full)]
    fingerprint: Sum


class Newer(ValueError):
    """A manifest of a format that isn't known yet."""


class Manifest(BaseModel):
    """All that is known of an artifact. Unknown fields are kept, so that a manifest of the same format stays readable.

    A manifest may come from anywhere: where it holds a path or a reference that could lead out of the root, there is none.
    """

    model_config = ConfigDict(extra="allow", ser_json_inf_nan="strings")

    format: Annotated[int, Field(ge=0, le=FORMAT)] = FORMAT
    kind: Name
    name: Name
    version: Annotated[str, Field(pattern=rf"^(?:{VERSION.pattern})?\z")]
    fingerprint: Sum
    stage: str
    revision: int
    settings: dict[str, Any]
    source: dict[str, Any] | None = None
    inputs: list[Input] = []
    decisions: dict[str, Any] = {}
    rows: Count | None = None
    metrics: dict[str, Metric] = {}
    verdict: str | None = None
    notes: list[str] = []
    details: dict[str, Any] = {}
    files: list[File] = []
    environment: dict[str, Any] = {}
    seconds: float = 0.0
    timings: dict[str, float] = {}
    peak_memory_bytes: Count = 0
    created: str = ""

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        paths = [file.path for file in self.files]
        folders = {str(folder) for path in paths for folder in PurePosixPath(path).parents}
        if twice := next((path for path in paths if path in folders), None):
            raise ValueError(f"{twice!r} can't be a file and a folder")
        if len({*paths}) < len(paths):
            raise ValueError("a file can't be listed twice")
        if len({given.role for given in self.inputs}) < len(self.inputs):
            raise ValueError("two inputs can't have one role")
        if f"{self.kind}/{self.name}@{self.version}" in (given.ref for given in self.inputs):
            raise ValueError("an artifact can't be made from itself")
        if self.version and not self.version.endswith(f"-{self.fingerprint[:8]}"):
            raise ValueError("a version must end with the first digits of the fingerprint")
        if self.source is not None and not isinstance(self.source.get("text"), str):
            raise ValueError("a source must have a text")
        preflight = self.decisions.get("preflight") or {}
        if not isinstance(preflight, dict) or not all(isinstance(c, dict) and "line" in c for c in preflight.values()):
            raise ValueError("a check must have a line")
        self.details = Known(f"{self.kind}/{self.name}@{self.version}", self.details)
        return self

    def sealed(self) -> bytes:
        """The bytes of `manifest.json`: JSON whose last value is the SHA-256 of the text with 64 zeros in its place."""
        fields = json.loads(self.model_dump_json()) | {"seal": "0" * 64}  # pydantic's own JSON, since NaN is none of Python's
        body = json.dumps(fields, indent=1, ensure_ascii=False).encode() + b"\n"
        return body.replace(b"0" * 64 + b'"\n}\n', hashlib.sha256(body).hexdigest().encode() + b'"\n}\n')

    @property
    def checks(self) -> dict[str, str]:
        """What each check before a training run found, as a line."""
        return {name: check["line"] for name, check in (self.decisions.get("preflight") or {}).items()}

    @property
    def content(self) -> str:
        """SHA-256 over the names and checksums of the files: two artifacts with the same files have the same content."""
        lines = sorted(f"{file.sha256} {file.path}\n" for file in self.files)
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def read_json(raw: bytes) -> Any:
    """JSON that means one thing to every reader.

    Raises:
        ValueError: saying in a few words why it doesn't.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a field stands in it twice")
        return found

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is no number of JSON")

    try:
        found = json.loads(raw.decode(), object_pairs_hook=once, parse_constant=refuse)
    except RecursionError as error:
        raise ValueError(f"it is more than {DEEPEST} levels deep") from error
    except UnicodeDecodeError as error:
        raise ValueError("it isn't UTF-8") from error
    level: list[Any] = [found]
    for _ in range(DEEPEST + 1):
        level = [inner for outer in level if isinstance(outer, dict | list) for inner in _inner(outer)]
    if level:
        raise ValueError(f"it is more than {DEEPEST} levels deep")
    return found


def _inner(value: dict[str, Any] | list[Any]) -> Collection[Any]:
    return value.values() if isinstance(value, dict) else value


def read_manifest(raw: bytes) -> Manifest:
    """The manifest in the bytes of a `manifest.json`, after they were checked against their own seal.

    Raises:
        Newer: for one of a format that isn't known yet.
        ValueError: saying in a few words what is wrong with it.
    """
    seal = SEAL.search(raw, max(0, len(raw) - 100))
    if not seal or hashlib.sha256(raw[: seal.start(1)] + b"0" * 64 + raw[seal.end(1) :]).hexdigest().encode() != seal.group(1):
        raise ValueError("its text doesn't fit its own checksum")
    fields = read_json(raw)
    del fields["seal"]
    if isinstance(known := fields.get("format", FORMAT), int) and known > FORMAT:
        raise Newer(f"has format {known}, and this embedkit knows manifests up to format {FORMAT}; read it with a newer embedkit")
    try:
        return Manifest.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place, why = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
        if first["type"] == "missing":
            raise ValueError(f"it has no {place}") from error
        raise ValueError(f"its {place} can't be {first['input']!r:.80} ({why})" if place else why) from error


def default_root() -> Path:
    """`$EMBEDKIT_ARTIFACTS`, else `artifacts/` in the working directory."""
    return root_at(os.environ.get("EMBEDKIT_ARTIFACTS") or "artifacts")


def is_address(root: Path | str) -> bool:
    """Whether a root is meant that lies elsewhere, such as s3://bucket/folder."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(root)) is not None


def root_at(root: Path | str | None) -> Path:
    """The root that is meant, the default one for None, in one spelling.

    Raises:
        UserError: for an address: stages work on a disk.
    """
    if root and is_address(root):
        raise UserError(
            f"{root} isn't a folder, and stages work in one; `embedkit artifacts pull` and `push` copy artifacts from and to "
            "such an address, and the flow batch_embed takes it as its root"
        )
    return Path(root).expanduser().resolve() if root else default_root()


def parse_reference(reference: str) -> tuple[str, str, str]:
    """Split `kind/name@version` into its three parts, the version empty where none was given.

    Raises:
        UserError: for anything but letters, digits, `.`, `_` and `-` around one slash and at most one `@`.
    """
    path, at, version = reference.partition("@")
    parts = path.split("/")
    if len(parts) != 2 or not all(NAME.fullmatch(part) for part in parts) or (at and not NAME.fullmatch(version)):
        raise UserError(
            f"{reference!r} is no reference; it must read kind/name or kind/name@version, of letters, digits, "
            "'.', '_' and '-' only, such as vectors/reviews-minilm"
        )
    return parts[0], parts[1], version


def pick_version(reference: str, known: list[str]) -> str:
    """The version that a reference means among those of its name, which are given the oldest first.

    Raises:
        UserError: when none fits, or several do.
    """
    kind, name, version = parse_reference(reference)
    fitting = [found for found in known if found.startswith(version)]
    if not fitting:
        raise not_among(f"version of {kind}/{name}", version, known)
    if version and len(fitting) > 1 and version != fitting[-1]:
        names = ", ".join(fitting[:4])
        raise UserError(f"{reference!r} fits {len(fitting)} versions ({names}); give more of the version")
    return fitting[-1]


class Artifact:
    """A published artifact: where it lies (`path`) and what its manifest says (`manifest`)."""

    def __init__(self, path: Path, manifest: Manifest):
        self.path, self.manifest = path, manifest

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Artifact) and self.path == other.path

    def __hash__(self) -> int:
        return hash(self.path)

    def __repr__(self) -> str:
        return f"Artifact({str(self)!r})"

    @classmethod
    def open(cls, reference: "str | Artifact", root: Path | str | None = None) -> "Artifact":
        """The artifact that a reference names, in the given root or the default one.

        Raises:
            UserError: when the reference is malformed, unknown or ambiguous; the message names what there is.
        """
        if isinstance(reference, Artifact):
            return reference
        base = root_at(root)
        kind, name, version = parse_reference(str(reference))
        refuse_links(base / kind, base / kind / name, *linked_versions(base / kind / name, version))
        folders = versions(base / kind / name)
        if not folders:
            known = [f"{kind_}/{name_}" for kind_, name_ in _names(base)]
            raise not_among("artifact", f"{kind}/{name}", known, hint=f"in {base}; see `embedkit artifacts list`")
        return cls.at(base / kind / name / pick_version(str(reference), [folder.name for folder in folders]))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """In a form and in JSON an artifact is its reference."""
        opened = core_schema.no_info_plain_validator_function(cls.open, serialization=core_schema.to_string_ser_schema())
        return core_schema.json_or_python_schema(core_schema.chain_schema([core_schema.str_schema(), opened]), opened)

    @classmethod
    def at(cls, folder: Path) -> "Artifact":
        """The artifact in a folder; its manifest is checked against its own seal.

        Raises:
            UserError: when the manifest is missing, unreadable or damaged, or a link leads there.
        """
        refuse_links(folder.parent.parent, folder.parent, folder)
        path = folder / MANIFEST
        try:
            with open_file(path) as file:
                raw = file.read(LARGEST_MANIFEST + 1)
        except OSError as error:
            raise UserError(f"{path} can't be read ({error.strerror}); mend its permissions or make the artifact again") from error
        try:
            if len(raw) > LARGEST_MANIFEST:
                raise ValueError(f"it has more than {LARGEST_MANIFEST:,} bytes")
            manifest = read_manifest(raw)
        except Newer as error:
            raise UserError(f"{path} {error}") from error
        except ValueError as error:
            raise UserError(f"{path} is damaged: {error}; make the artifact again with the call that made it") from error
        if folder.parts[-3:] != (manifest.kind, manifest.name, manifest.version):
            artifact = cls(folder, manifest)
            raise UserError(f"{folder} holds {artifact}, so it was moved; move it back to {'/'.join(str(artifact).split('@'))}")
        return cls(folder, manifest)

    def __str__(self) -> str:
        return f"{self.manifest.kind}/{self.manifest.name}@{self.manifest.version}"

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def root(self) -> Path:
        """The folder of all kinds."""
        return self.path.parent.parent.parent

    @cached_property
    def inputs(self) -> dict[str, "Artifact"]:
        """The artifacts this one was made from, by role.

        Raises:
            UserError: when one of them is no longer there: then nothing can be said about what it was fitted on.
        """
        found = Known[Artifact](str(self), {})
        for given in self.manifest.inputs:
            kind, name, version = parse_reference(given.ref)
            if not (self.root / kind / name / version).exists():
                raise UserError(
                    f"{self} was made from {given.ref}, which is not in {self.root} any more; "
                    "make it again or bring it back, since rows, labels and leaks are read from there"
                )
            try:
                found[given.role] = Artifact.open(given.ref, self.root)
            except UserError as error:
                raise UserError(f"{self} was made from {given.ref}, but {error}") from error
            if found[given.role].manifest.fingerprint != given.fingerprint:
                raise UserError(f"{self} was made from {given.ref}, but another lies there; make it again or bring that one back")
        return found

    def detail(self, name: str, kind: type[Kind]) -> Kind:
        """What the manifest's details say under a name.

        Raises:
            UserError: when they say nothing there, or something of another type.
        """
        value = self.manifest.details.get(name)
        if not isinstance(value, kind) or isinstance(value, bool) and kind is not bool:
            said = "are without" if value is None else f"say {value!r:.60} as"
            raise UserError(f"the details in the manifest of {self} {said} its {name}; {AGAIN}")
        return value

    def ancestors(self) -> Iterator["Artifact"]:
        """Every artifact this one was made from, nearest first, each once.

        Raises:
            UserError: when one of them is gone or damaged, or is this one itself.
        """
        seen, queue = set(), deque(self.inputs.values())
        while queue:
            artifact = queue.popleft()
            if artifact == self:
                raise UserError(f"{self} is among what it was made from itself, so a manifest was forged; make it again")
            if str(artifact) not in seen:
                seen.add(str(artifact))
                yield artifact
                queue.extend(artifact.inputs.values())

    def problems(self) -> list[str]:
        """What is wrong with the files on disk, as sentences; empty when every byte is as published.

        No link is followed, neither in place of a file nor of a folder, and nothing is opened but regular files.
        """
        files, strays = {}, []
        folders = {str(folder) for file in self.manifest.files for folder in PurePosixPath(file.path).parents}
        expected, queue = {file.path for file in self.manifest.files}, [""]
        while queue:
            inner = queue.pop()
            try:
                with os.scandir(self.path / inner) as entries:
                    found = {f"{inner}{entry.name}": entry for entry in entries}
            except OSError as error:
                return [f"{inner or 'its folder'} can't be read ({error.strerror})"]
            for path, entry in found.items():
                if path in expected:
                    files[path] = entry
                elif path in folders and entry.is_dir(follow_symlinks=False):
                    queue.append(f"{path}/")
                elif path != MANIFEST and not self._made_by_tensorflow(path, entry, expected):
                    strays.append(path)
        found = [self._problem(file, files.get(file.path)) for file in self.manifest.files]
        strays = [path if path.isprintable() else ascii(path) for path in sorted(strays)]
        return [*filter(None, found), *(f"{path} doesn't belong to it" for path in strays)]

    def _problem(self, file: File, entry: "os.DirEntry[str] | None") -> str | None:
        if entry is None:
            return f"{file.path} is missing"
        if entry.is_symlink():
            return f"{file.path} is a link, not a file"
        if not entry.is_file():
            return f"{file.path} is a {'folder' if entry.is_dir() else 'pipe or a device'}, not a file"
        try:
            with open_file(self.path / file.path) as opened:
                size = os.fstat(opened.fileno()).st_size
                if size != file.bytes:
                    return f"{file.path} has {size:,} bytes instead of {file.bytes:,}"
                return None if _remembered(opened) == file.sha256 else f"{file.path} doesn't fit its checksum"
        except OSError as error:
            return f"{file.path} can't be read ({error.strerror})"

    @staticmethod
    def _made_by_tensorflow(path: str, entry: "os.DirEntry[str]", files: Collection[str]) -> bool:
        """Whether it is the folder that TensorFlow makes beside every `saved_model.pb`, and leaves empty."""
        beside = PurePosixPath(path).parent / "saved_model.pb"
        empty = entry.name == "assets" and entry.is_dir(follow_symlinks=False) and not os.listdir(entry.path)
        return empty and str(beside) in files

    def check(self) -> "Artifact":
        """This artifact, when all its files are as published.

        Raises:
            UserError: naming the artifact, the file and what to do.
        """
        if problems := self.problems():
            raise UserError(f"{self} is damaged: {problems[0]}; make it again with the call that made it, or restore the file")
        return self


@dataclass(frozen=True)
class Kinds:
    """Marks a stage's parameter with the kinds of artifact it takes."""

    names: tuple[str, ...]


Images = Annotated[Artifact, Kinds(("images",))]
Texts = Annotated[Artifact, Kinds(("texts",))]
Table = Annotated[Artifact, Kinds(("table",))]
Dataset = Annotated[Artifact, Kinds(("images", "texts", "table"))]
EncoderArtifact = Annotated[Artifact, Kinds(("encoder", "classifier"))]
"""An encoder, or a fine-tuned classifier, whose encoder half is meant."""
Vectors = Annotated[Artifact, Kinds(("vectors",))]
Index = Annotated[Artifact, Kinds(("index",))]


def sha256(path: Path) -> str:
    """Checksum of a file, as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_known: dict[tuple[str, int, int, int, int, int], str] = {}


def checksum(path: Path) -> str:
    """Checksum of a file, remembered as long as the file isn't touched."""
    with path.open("rb") as file:
        return _remembered(file)


def _remembered(file: BufferedReader) -> str:
    # A chain of stages checks the same files again and again. The change time can't be set by hand (stat(2)), so any
    # write since the last look is seen.
    state = os.fstat(file.fileno())
    key = (str(file.name), state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
    if key not in _known:
        _known[key] = hashlib.file_digest(file, "sha256").hexdigest()
    return _known[key]


def open_file(path: Path) -> BufferedReader:
    """Open a file to read its bytes.

    Raises:
        OSError: also for a link, which could lead anywhere, and for what a reader could wait for: a pipe, a socket, a device.
    """
    try:
        file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK))
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "it is a link", str(path)) from error
        raise
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is a pipe or a device", str(path))
    return file


def refuse_links(*places: Path) -> None:
    """Stop where a folder of the root is a link.

    Raises:
        UserError: naming it.
    """
    for place in places:
        if place.is_symlink():
            raise UserError(f"{place} is a link, which could lead out of the root; put the folder itself in its place")


def linked_versions(folder: Path, version: str) -> list[Path]:
    """The links among a name's versions that start so."""
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    return [entry for entry in entries if entry.is_symlink() and VERSION.fullmatch(entry.name) and entry.name.startswith(version)]


def circular(made_from: Mapping[str, Collection[str]]) -> list[str]:
    """References that were made from each other, or one from itself, in a circle; empty where there is none."""
    try:
        graphlib.TopologicalSorter(made_from).prepare()
    except graphlib.CycleError as error:
        return error.args[1][:-1]
    return []


def oldest_first(made_from: Mapping[str, Collection[str]]) -> list[str]:
    """References in an order in which each comes after all that it was made from.

    Raises:
        UserError: where there is none, since something was made from itself, through others or not.
    """
    if circle := circular(made_from):
        raise UserError(f"{circle[0]} is among what it was made from itself, so a manifest was forged; make it again")
    return list(graphlib.TopologicalSorter(made_from).static_order())


def versions(folder: Path) -> list[Path]:
    """The folders of a name's versions, the oldest first."""
    if not folder.is_dir() or folder.is_symlink() or folder.parent.is_symlink():  # a link could lead out of the root
        return []
    try:
        return sorted(entry for entry in folder.iterdir() if VERSION.fullmatch(entry.name) and not entry.is_symlink())
    except FileNotFoundError:  # its last version was removed meanwhile
        return []


def _names(root: Path) -> Iterator[tuple[str, str]]:
    for kind in sorted(root.iterdir()) if root.is_dir() else ():
        if kind.is_dir() and NAME.fullmatch(kind.name) and not kind.is_symlink():
            for name in sorted(kind.iterdir()):
                if name.is_dir() and NAME.fullmatch(name.name) and not name.is_symlink() and versions(name):
                    yield kind.name, name.name


def list_artifacts(root: Path | str | None = None) -> list[Artifact]:
    """Every readable artifact under a root, by kind, name and version; damaged manifests are left to `verify`."""
    return [artifact for _, artifact in scan(root) if artifact]


def scan(root: Path | str | None = None) -> Iterator[tuple[Path, Artifact | None]]:
    """Every artifact folder under a root, with None where its manifest can't be trusted."""
    base = root_at(root)
    for kind, name in _names(base):
        for folder in versions(base / kind / name):
            try:
                yield folder, Artifact.at(folder)
            except UserError:
                yield folder, None


def strays(root: Path | str | None = None) -> Iterator[str]:
    """What stands under a root where folders of kinds, names and versions stand, but is none, as sentences.

    Files there are no business of ours, such as a page about the root; nor are hidden folders beside the kinds.
    """
    levels = {"kind": NAME, "name": NAME, "version": VERSION}
    queue = [root_at(root)]
    for level, pattern in levels.items():
        folders, queue = queue, []
        for entry in sorted(entry for folder in folders if folder.is_dir() for entry in folder.iterdir()):
            shown = str(entry) if str(entry).isprintable() else ascii(str(entry))
            if entry.name.startswith(".") and level == "kind":
                continue
            if entry.is_symlink():
                yield f"{shown} is a link, which is not followed; put the folder itself in its place"
            elif entry.is_dir() and pattern.fullmatch(entry.name):
                queue.append(entry)
            elif entry.is_dir():
                yield f"{shown} can't be the folder of a {level}; give it its name back, or move it out of the root"


def find(root: Path, kind: str, fingerprint: str, name: str = "") -> Artifact | None:
    """The newest undamaged artifact with this fingerprint, of several names the one of this name first; or None.

    Raises:
        UserError: when the kind's folder is a link.
    """
    refuse_links(root / kind)
    names = (root / kind).iterdir() if (root / kind).is_dir() else ()
    fitting = (folder for name in names for folder in versions(name) if folder.name.endswith(f"-{fingerprint[:8]}"))
    for folder in sorted(fitting, key=lambda path: (path.parent.name == name, path.name), reverse=True):
        try:
            artifact = Artifact.at(folder)
        except UserError:
            continue
        if artifact.manifest.fingerprint == fingerprint and not artifact.problems():
            return artifact
    return None


def prunable(root: Path | str | None = None, keep: int = 1) -> list[Artifact]:
    """Artifacts that can go: not among the newest `keep` of their name, and no kept artifact or draft is made from them.

    Raises:
        UserError: when a manifest, or the list of what a draft is made from, is damaged: what must stay isn't known then.
    """
    everything = []
    for folder, artifact in scan(root):
        if artifact is None:
            raise UserError(f"{folder} is damaged, so what it was made from is not known; remove that folder or make it again")
        everything.append(artifact)
    by_name: dict[tuple[str, str], list[Artifact]] = {}
    for artifact in everything:
        by_name.setdefault((artifact.manifest.kind, artifact.manifest.name), []).append(artifact)
    kept = {str(artifact): artifact for versions in by_name.values() for artifact in versions[-keep:]}
    known = {str(artifact): artifact for artifact in everything}
    for path in (root_at(root) / DRAFTS).glob(f"*/{INPUTS}"):  # a draft may be gone on with
        kept |= {reference: known[reference] for reference in used_by(path.parent) if reference in known}
    queue = list(kept.values())
    while queue:
        for given in queue.pop().manifest.inputs:
            if given.ref in known and given.ref not in kept:
                kept[given.ref] = known[given.ref]
                queue.append(known[given.ref])
    return [artifact for artifact in everything if str(artifact) not in kept]


def used_by(draft: Path) -> list[str]:
    """The references of what a draft is being made from; none where it says nothing.

    Raises:
        UserError: when what it says is damaged.
    """
    path = draft / INPUTS
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except ValueError:
        found = None
    if not isinstance(found, list) or not all(isinstance(reference, str) for reference in found):
        raise UserError(
            f"{path} is damaged, so what this unfinished artifact is made from is not known; remove {draft.name}, or make "
            "it again"
        )
    return found


def abandoned(root: Path | str | None = None) -> list[tuple[Path, int]]:
    """Drafts that no process holds and that were last written a day ago, and graves that a removal left; each with its bytes."""
    found = []
    for folder in _drafts(root_at(root)):
        with _held(folder) as held:
            if held and _is_abandoned(folder):
                found.append((folder, _bytes(folder)))
    return found


@contextlib.contextmanager
def changing(root: Path) -> Iterator[None]:
    """Hold a root while artifacts come or go, or while a call says what it is going to read.

    It is held for moments, and nobody who holds it waits for another lock, so that it can be taken while holding others.
    """
    with filelock.FileLock(root / DRAFTS / CHANGES):
        yield


@contextlib.contextmanager
def _held(draft: Path) -> Iterator[bool]:
    """Hold a draft's lock, or say that somebody else does. The lock's file goes with its draft."""
    lock = filelock.FileLock(lock_of(draft))
    try:
        lock.acquire(timeout=0)
    except OSError:  # filelock.Timeout is one, and so is the refusal of another user's draft
        yield False
        return
    try:
        yield True
    finally:
        let_go(draft, lock)


def lock_of(draft: Path) -> Path:
    """The file whose lock whoever writes to a draft holds."""
    return draft.with_name(f"{draft.name}.lock")


def let_go(draft: Path, lock: filelock.BaseFileLock) -> None:
    """Let go of a draft's lock; where there is no draft any more, its file goes first.

    Whoever waited for it sees that the file is gone (filelock looks at its number of links) and takes a new one.
    """
    with contextlib.suppress(OSError):
        if not draft.exists():
            lock_of(draft).unlink(missing_ok=True)
    lock.release()


def forget_draft(draft: Path) -> None:
    """Remove a draft, and the file of its lock, whose artifact is published; unless somebody holds it, who does so himself."""
    if draft.exists() or lock_of(draft).exists():
        with _held(draft) as held:
            if held:
                shutil.rmtree(draft, ignore_errors=True)


def _drafts(root: Path) -> list[Path]:
    return [folder for folder in sorted((root / DRAFTS).glob("*/")) if not folder.is_symlink()]


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _is_abandoned(draft: Path) -> bool:
    try:
        newest = max(path.stat().st_mtime for path in (draft, *draft.rglob("*")))
    except FileNotFoundError:  # it is being written to, or taken away
        return False
    return draft.name.startswith(GRAVE) or time.time() - newest > ABANDONED_SECONDS


def prune(root: Path | str | None = None, keep: int = 1) -> tuple[list[Artifact], list[tuple[Path, int]]]:
    """Remove what `prunable` and `abandoned` name; returns the artifacts, and the drafts with their bytes.

    What goes is decided and out of sight before a call that starts can say what it reads; erasing it takes its time afterwards.
    """
    base, drafts = root_at(root), []
    (base / DRAFTS).mkdir(parents=True, exist_ok=True)
    with changing(base):
        going = prunable(base, keep)
        graves = [_bury(base, artifact.path) for artifact in going]
        _forget_names(going)
    for folder in [folder for folder in _drafts(base) if folder not in graves]:
        with _held(folder) as held:  # until it is out of sight: a call that goes on with it would lose it under its hands
            if held and _is_abandoned(folder):
                drafts.append((folder, _bytes(folder)))
                graves.append(_bury(base, folder))
    for grave in graves:
        with contextlib.suppress(FileNotFoundError):  # somebody else erases it too
            shutil.rmtree(grave)
    for lock in (base / DRAFTS).glob("*.lock"):
        if lock.name != CHANGES:
            with _held(lock.with_name(lock.name.removesuffix(".lock"))):  # after which it is gone, if its draft is
                pass
    return going, drafts


def remove(artifact: Artifact) -> None:
    """Take an artifact away: out of sight by one rename, then off the disk."""
    (artifact.root / DRAFTS).mkdir(exist_ok=True)
    with changing(artifact.root):
        grave = _bury(artifact.root, artifact.path)
        _forget_names([artifact])
    shutil.rmtree(grave)


def _bury(root: Path, folder: Path) -> Path:
    """Take a folder out of sight by one rename; returns where it lies then."""
    grave = root / DRAFTS / f"{GRAVE}{uuid.uuid4().hex}"
    os.rename(folder, grave)
    return grave


def _forget_names(gone: list[Artifact]) -> None:
    """Remove the folders of names of which no version is left."""
    for artifact in gone:
        if artifact.path.parent.is_dir() and not any(artifact.path.parent.iterdir()):
            artifact.path.parent.rmdir()
