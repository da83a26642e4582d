"""Stages: what every step of embedkit promises, written once.

A stage is a function of artifacts (and sources), and one frozen Settings. `@stage` gives it the promises:

1. The call has a fingerprint: stage, revision, settings as given, content of its inputs.
2. The same call again returns the same artifact, as long as its files verify.
3. An interrupted call goes on: its draft is kept under its fingerprint, with the parts and checkpoints that were finished.
   What is found there is used where it has the checksum that it was finished with, and else made anew; all of it is where it
   was computed by other versions, or on another kind of processor, than the call has now.
4. Two callers get one artifact: the second waits for the first. In one process one stage works at a time, whichever threads
   call them, so that each gives what it gives alone.
5. What can be seen is complete: files, then checksums, then the manifest, then one rename. What a call reads is not removed
   under its hands, and versions of one name have seconds of their own.
6. Random generators start from `settings.seed`; time and peak memory are measured; progress goes to stderr.

The body gets a `Draft` to write to. What it writes directly is written anew by a resumed call; what it writes through
`Draft.part` or `Draft.decide` is kept, and so is a file in `Draft.work` that `keep` was told of.
"""

import contextlib
import errno
import functools
import hashlib
import inspect
import json
import logging
import os
import random
import re
import shutil
import threading
import time
import typing
import uuid
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import filelock
import numpy as np
from pydantic import BaseModel

from embedkit import artifacts, cards, progress
from embedkit.artifacts import DRAFTS, INPUTS, NAME, Artifact, File, Input, Kinds, Manifest, Metric, refuse_links, sha256
from embedkit.environment import computing, environment, peak_of
from embedkit.settings import Settings, UserError, described, listed, not_among
from embedkit.sources import Source

log = logging.getLogger(__name__)
DECISIONS = "decisions.json"
"""In a draft's `work`: what `auto` came to."""
COMPUTED_BY = "computed_by.json"
"""In a draft's `work`: versions, processor and devices of the call that began it (`environment.computing`)."""


class Facts(BaseModel):
    """What a stage's body says of what it made.

    All of it but `timings`, and notes that hold a time, repeats with the call as the files do: a card (`cards`) is written of it.
    """

    rows: int | None = None
    metrics: dict[str, Metric] = {}
    verdict: str | None = None
    notes: list[str] = []
    details: dict[str, Any] = {}
    timings: dict[str, float] = {}


def draft_name(fingerprint: str) -> str:
    """The folder of a call's draft, under DRAFTS in the root."""
    return fingerprint[:32]


class Draft:
    """An artifact in the making.

    `draft / "name"` is where a file of the artifact goes; `draft.work / "name"` is for what helps to make it and isn't
    published. Both outlive an interruption.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.root = folder.parent.parent
        self.files = folder / "files"
        self.work = folder / "work"
        self.sealed = folder / "sealed"
        self.files.mkdir(parents=True, exist_ok=True)
        self.work.mkdir(exist_ok=True)

    def clear(self) -> "Draft":
        """Remove what an interrupted call was writing, and links, which no call makes; nobody else may be writing here."""
        if self.sealed.is_dir():  # it was about to be published
            shutil.rmtree(self.files)
            os.rename(self.sealed, self.files)
        for path in [*self.folder.rglob("*")]:
            if path.is_symlink() or path.name.endswith(".unfinished"):
                path.unlink()
        return self

    def seal(self) -> Path:
        """Take the artifact's files where nobody else finds them; what was being written there is removed. Returns the place.

        Somebody may: a worker that took so long, or went so silent, that another made its part.
        """
        os.rename(self.files, self.sealed)
        for path in [*self.sealed.rglob("*.unfinished")]:
            path.unlink()
        return self.sealed

    def __truediv__(self, name: str) -> Path:
        path = self.files / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def finished(self, name: str, *beside: Path) -> dict[str, Any] | None:
        """What `part` recorded of a finished part, or None where the part is missing, unfinished or damaged.

        It counts as unfinished too where what was decided before it is decided otherwise now, or a file beside it is not as it was.
        """
        receipt = _unsealed(self.receipt(name))
        path = self.files / name
        if receipt is None or not path.is_file() or path.stat().st_size != receipt["bytes"] or sha256(path) != receipt["sha256"]:
            return None
        decided = _digests(self.decisions)
        if "decided" not in receipt or any(decided.get(choice) != digest for choice, digest in receipt["decided"].items()):
            return None
        return receipt["facts"] if all(map(is_kept, beside)) else None

    def part(self, name: str, write: Callable[[Path], dict[str, Any] | None], *beside: Path) -> dict[str, Any]:
        """Write one part, unless an earlier call finished it.

        Args:
            name: file name of the part in the artifact.
            write: writes the file at the path it is given and returns what to record of it (plain JSON).
            beside: files in `work` that `write` writes too.

        Returns:
            What was recorded, now or by the call that finished the part.
        """
        facts = self.finished(name, *beside)
        if facts is None:
            path = self / name
            unfinished = _unfinished(path)
            facts = json.loads(json.dumps(write(unfinished) or {}))  # as a resumed call will read it
            sync(unfinished)
            receipt = {"bytes": unfinished.stat().st_size, "sha256": sha256(unfinished), "facts": facts}
            for each in beside:
                keep(each)
            os.replace(unfinished, path)
            _write_sealed(self.receipt(name), receipt | {"decided": _digests(self.decisions)})
        return facts

    def decide(self, name: str, choose: Callable[[], Any]) -> Any:
        """What `auto` comes to: chosen once, kept for a resumed call, recorded in the manifest. Plain JSON values."""
        decisions = self.decisions
        if name not in decisions:
            _write_sealed(self.work / DECISIONS, decisions | {name: choose()})
        return self.decisions[name]

    def goes_on(self, computing: dict[str, str]) -> bool:
        """Whether there is something to go on from; what was computed otherwise than it would be here is removed."""
        path = self.work / COMPUTED_BY
        begun = [path for path in (*self.work.iterdir(), *self.files.iterdir()) if path.name != COMPUTED_BY]
        if begun and (other := self.computed_otherwise(computing)):
            log.warning("%s was begun with %s; it starts anew: results of both don't belong into one artifact", self.folder, other)
            for folder in (self.files, self.work):
                shutil.rmtree(folder)
                folder.mkdir()
            begun = []
        if not begun:
            _write_sealed(path, computing)
        return any(path.parent == self.work for path in begun)

    def computed_otherwise(self, computing: dict[str, str]) -> str:
        """In which ways the call that began this draft computed otherwise, in words; empty where it didn't."""
        known = _unsealed(self.work / COMPUTED_BY)
        if not isinstance(known, dict):
            return "versions that aren't recorded"
        names = sorted(name for name in known | computing if known.get(name) != computing.get(name))
        return listed((f"{name} {known.get(name) or 'missing'}, now {computing.get(name) or 'missing'}" for name in names), "; ")

    @contextlib.contextmanager
    def kept_if_begun(self) -> Iterator[None]:
        """Remove the draft when the block fails before it wrote anything: there is nothing to go on from."""
        try:
            yield
        except BaseException:
            told = (self.folder / INPUTS, self.work / COMPUTED_BY)
            if not any(path.is_file() and path not in told for path in self.folder.rglob("*")):
                shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def use(self, root: Path, inputs: list[Artifact]) -> bool:
        """Say what the artifact is made from, so that `prune` leaves it alone; False where it removed one before."""
        with artifacts.changing(root):
            if not all((artifact / "manifest.json").is_file() for artifact in inputs):
                return False
            used = artifacts.used_by(self.folder)
            write_json(self.folder / INPUTS, list(dict.fromkeys([*used, *map(str, inputs)])))
            return True

    @property
    def decisions(self) -> dict[str, Any]:
        """All that was decided so far; nothing where that is damaged, and then parts that were made by it are made anew."""
        path = self.work / DECISIONS
        decisions = _unsealed(path)
        if decisions is None and path.exists():
            log.warning("%s is damaged (its checksum doesn't fit); what was decided there is decided anew", path)
        return decisions or {}

    def receipt(self, name: str) -> Path:
        """Where it is recorded that a part is finished."""
        return self.work / "receipts" / f"{name}.json"


def keep(path: Path) -> None:
    """Record what a finished file beside the artifact holds, so that a resumed call can tell whether it still does."""
    _write_sealed(_record_of(path), {"bytes": path.stat().st_size, "sha256": sha256(path)})


def is_kept(path: Path) -> bool:
    """Whether a file is there and holds what `keep` recorded; what isn't is to be made anew."""
    record = _unsealed(_record_of(path))
    try:
        return record is not None and path.stat().st_size == record["bytes"] and sha256(path) == record["sha256"]
    except OSError:
        return False


def _record_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.kept.json")


def _write_sealed(path: Path, receipt: dict[str, Any]) -> None:
    receipt = json.loads(json.dumps(receipt))  # as it will be read
    write_json(path, {"receipt": receipt, "sha256": _digest(receipt)})


def _unsealed(path: Path) -> dict[str, Any] | None:
    """What `_write_sealed` wrote, or None where it is missing or damaged."""
    try:
        sealed = json.loads(path.read_text(encoding="utf-8"))
        return sealed["receipt"] if sealed["sha256"] == _digest(sealed["receipt"]) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _digests(decisions: dict[str, Any]) -> dict[str, str]:
    return {name: _digest(value) for name, value in decisions.items()}


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that a reader sees the old text or the new one, never a half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = _unfinished(path)
    unfinished.write_text(json.dumps(value, indent=1, ensure_ascii=False), encoding="utf-8", newline="\n")
    sync(unfinished)
    os.replace(unfinished, path)


def _unfinished(path: Path) -> Path:
    """Where a file is written before it gets its name.

    Each has a name of its own, since another process may be writing the same: one that nobody waits for any more.
    """
    return path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}.unfinished")


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk, so that the order of writing holds through a power cut too."""
    if os.name == "nt" and path.is_dir():  # Windows opens no folders, and writes their entries with the files
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


OPTIONS = {
    "name": "Name of the artifact, for people; by default one made of the inputs' names.",
    "root": "Where artifacts lie; by default the inputs' root, $EMBEDKIT_ARTIFACTS, or artifacts/ in the working directory.",
}
"""What every stage takes beside its inputs and settings, and the help for it."""
Naming = str | Callable[[dict[str, str], Any], str]
Kind = str | Callable[[dict[str, "Artifact | Source"]], str]


class Stage:
    """A stage as its users see it: artifacts, sources and settings in, an artifact out.

    Calling it takes the body's parameters but `out`, and by keyword `name` (of the artifact, for people; not part of the
    fingerprint) and `root` (where artifacts lie; the inputs' root by default). Inputs that the body takes by keyword may be
    left out.
    """

    def __init__(self, body: Callable[..., Facts], kind: Kind, revision: int, name: Naming, keras: bool):
        self.body, self.kind, self.revision, self.keras = body, kind, revision, keras
        self.__name__ = body.__name__
        functools.update_wrapper(self, body)
        hints = typing.get_type_hints(body, include_extras=True)
        parameters = list(inspect.signature(body).parameters.values())[1:]
        keyword = inspect.Parameter.KEYWORD_ONLY
        parameters = [parameter.replace(annotation=hints[parameter.name]) for parameter in parameters]
        *inputs, settings = [parameter for parameter in parameters if parameter.kind is not keyword]
        optional = [parameter for parameter in parameters if parameter.kind is keyword]
        shown = [parameter.replace(annotation=str) if parameter.annotation is Source else parameter for parameter in inputs]
        self.inputs: dict[str, Any] = {parameter.name: parameter.annotation for parameter in inputs}
        self.optional: dict[str, Any] = {parameter.name: _given(parameter.annotation) for parameter in optional}
        self.Settings: type[Settings] = settings.annotation
        self.naming = name or "-".join("{" + role + "}" for role in self.inputs)
        options = [
            inspect.Parameter(option, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=str | None) for option in OPTIONS
        ]
        self.__signature__ = inspect.Signature([*shown, settings, *optional, *options], return_annotation=Artifact)
        more = "\n".join(f"    {option}: {sentence}" for option, sentence in OPTIONS.items())
        every = described(self.Settings).replace("Settings:", f"{self.Settings.__name__}, the settings:", 1)
        self.__doc__ = f"{inspect.cleandoc(body.__doc__ or '')}\n{more}\n\n{every}"

    def __get__(self, instance: object, owner: type | None = None) -> "Stage":
        """Itself, wherever it is an attribute. It makes a stage a routine to `help`, which then shows its own parameters."""
        return self

    def __call__(self, *arguments: Any, name: str | None = None, root: Path | str | None = None, **named: Any) -> Artifact:
        """Run the stage, or return what an earlier run of the same call published."""
        base, roles, settings = self._call(arguments, named, root)
        fingerprint = self._fingerprint(roles, settings)
        asked, name = name, self._name(name, roles, settings)
        outer = _outer.get()
        with _readable_failures(base):
            kind = self.kind(roles) if callable(self.kind) else self.kind
            while True:
                made = self._reuse(base, kind, fingerprint, name)
                if made:
                    artifacts.forget_draft(base / DRAFTS / draft_name(fingerprint))
                else:
                    with _one_at_a_time(self.__name__):
                        made = self._make(base, kind, fingerprint, name, roles, settings)
                if asked is not None and made.manifest.name != name:
                    log.info("%s: was published by the same call, and is called %s too", made, name)
                    made = _also_named(made, base, name)
                if outer is None or outer.root != base or outer.use(base, [made]):  # or else it was pruned meanwhile
                    return made

    def fingerprint(self, *arguments: Any, root: Path | str | None = None, **named: Any) -> str:
        """What a call with these inputs and settings is known by."""
        _, roles, settings = self._call(arguments, named, root)
        return self._fingerprint(roles, settings)

    def _call(
        self, arguments: tuple[Any, ...], named: dict[str, Any], root: Path | str | None
    ) -> "tuple[Path, dict[str, Artifact | Source], Settings]":
        """A call's root, inputs and settings, as the body takes them."""
        parameters = list(self.__signature__.parameters.values())
        for name in named:
            if name not in self.__signature__.parameters:
                raise self._stranger(name)
        bound = inspect.Signature(parameters[:-2]).bind(*arguments, **named)
        bound.apply_defaults()
        settings = bound.arguments["settings"]
        if not isinstance(settings, self.Settings):
            came = f"{type(settings).__name__}(...)" if isinstance(settings, Settings) else f"{settings!r:.80}"
            raise UserError(f"{self.__name__} takes {self.Settings.__name__}(...) as its settings, not {came}")
        given = {role: bound.arguments[role] for role in (*self.inputs, *self.optional)}
        given = {role: value for role, value in given.items() if role in self.inputs or value is not None}
        base = _root(root, [value for value in given.values() if isinstance(value, Artifact)])
        return base, {role: self._open(role, value, base, settings) for role, value in given.items()}, settings

    def _stranger(self, name: str) -> UserError:
        """The error for an option that there isn't."""
        if name in self.Settings.model_fields:
            own = self.Settings.__name__
            return UserError(f"{name} is one of the settings of {self.__name__}; give {self.__name__}(..., {own}({name}=...))")
        return not_among(f"{self.__name__}: the option", name, [*self.__signature__.parameters, *self.Settings.model_fields])

    def __reduce__(self) -> str:
        """Pickled by its name, as functions are: a task's context goes to the processes that work for it."""
        return self.__name__

    def _open(self, role: str, value: Any, root: Path, settings: Settings) -> "Artifact | Source":
        annotation = (self.inputs | self.optional)[role]
        if annotation is Source:
            source = Source(value, settings.follows_links)
            settings.extend(source)
            return source
        artifact = Artifact.open(value, root)
        kinds = next((mark.names for mark in getattr(annotation, "__metadata__", ()) if isinstance(mark, Kinds)), ())
        if kinds and artifact.manifest.kind not in kinds:
            raise UserError(f"{self.__name__} takes {' or '.join(kinds)} as its {role}, but {artifact} came; give it one of those")
        return artifact

    def _fingerprint(self, roles: "dict[str, Artifact | Source]", settings: Settings) -> str:
        # Of an artifact the call counts beside the files, since a stage may look behind its input: the same vectors of the
        # same texts with other labels are other training data.
        contents = {
            role: value.content() if isinstance(value, Source) else f"{value.manifest.fingerprint} {_content(value)}"
            for role, value in roles.items()
        }
        call = {
            "stage": self.__name__,
            "revision": self.revision,
            "settings": settings.deciding(),
            "inputs": contents,
        }
        return _digest(call)

    def _name(self, name: str | None, roles: "dict[str, Artifact | Source]", settings: Settings) -> str:
        if name is None:
            names = {role: value.stem if isinstance(value, Source) else value.manifest.name for role, value in roles.items()}
            return (self.naming(names, settings) if callable(self.naming) else self.naming.format(**names))[:120]
        if not NAME.fullmatch(name) or len(name) > 120:
            raise UserError(f"{name!r} can't name an artifact; use up to 120 letters, digits, '.', '_' and '-'")
        return name

    def _reuse(self, base: Path, kind: str, fingerprint: str, name: str) -> Artifact | None:
        artifact = artifacts.find(base, kind, fingerprint, name)
        if artifact:
            log.info("%s: reused, made %s", artifact, artifact.manifest.created)
        return artifact

    def _make(
        self, base: Path, kind: str, fingerprint: str, name: str, roles: "dict[str, Artifact | Source]", settings: Settings
    ) -> Artifact:
        folder = base / DRAFTS / draft_name(fingerprint)
        inside = (folder / inner for inner in ("files", "work", "sealed"))
        refuse_links(base / kind, base / kind / name, base / DRAFTS, folder, *inside)
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
        except FileNotFoundError as error:
            raise UserError(f"the root {base} can't be made ({error.strerror}: {error.filename}); name another") from error
        with _alone(folder, self.__name__):
            if artifact := self._reuse(base, kind, fingerprint, name):
                shutil.rmtree(folder, ignore_errors=True)  # of a call that was killed after it had published
                return artifact
            draft, given = Draft(folder), [value for value in roles.values() if isinstance(value, Artifact)]
            sources = {role: value for role, value in roles.items() if isinstance(value, Source)}
            start = time.monotonic()
            with draft.kept_if_begun(), peak_of() as peak:
                draft.clear()
                if given and not draft.use(base, given):
                    gone = next((value for value in given if not value.path.exists()), given[0])
                    raise UserError(f"{gone} was removed while this call began; make it again, or give another")
                for value in given:
                    value.check()
                with _seeded(getattr(settings, "seed", 0), self.keras), progress.of(self.__name__), _inside(draft):
                    begun = draft.goes_on(computing(self.keras))
                    log.info("%s: %s", self.__name__, f"goes on in {folder}" if begun else "starts")
                    more = {role: roles.get(role) for role in self.optional}
                    facts = self.body(draft, *(roles[role] for role in self.inputs), settings, **more)
            if self._fingerprint(roles, settings) != fingerprint or any(source.changed() for source in sources.values()):
                shutil.rmtree(folder)
                changed = " and ".join(source.shown for source in sources.values())
                raise UserError(f"{changed} changed while it was read; make the same call again when nobody writes to it")
            manifest = Manifest(
                kind=kind,
                name=name,
                version="",
                fingerprint=fingerprint,
                stage=self.__name__,
                revision=self.revision,
                settings=settings.model_dump(mode="json"),
                source=next((source.known() for source in sources.values()), None),
                inputs=[
                    Input(role=role, ref=str(value), fingerprint=value.manifest.fingerprint)
                    for role, value in roles.items()
                    if isinstance(value, Artifact)
                ],
                decisions=draft.decisions,
                environment=environment(),
                seconds=round(time.monotonic() - start, 3),
                peak_memory_bytes=peak(),
                **facts.model_dump(),
            )
            return _publish(draft, base, manifest, given)


def stage(kind: Kind, revision: int, name: Naming = "", keras: bool = False) -> Callable[[Callable[..., Facts]], Stage]:
    """Make a stage of a function `body(out: Draft, *inputs, settings, *, optional inputs) -> Facts`.

    Args:
        kind: the kind of artifact it publishes, or a function of its inputs by role that gives it.
        revision: raised by hand when the body's result changes for the same input, so that old artifacts aren't reused.
        name: the default name of what it makes: a template of the inputs' names, or a function of them and the settings; by
            default the inputs' names.
        keras: whether the body computes with Keras, whose generators and names are then reset first.
    """
    return lambda body: Stage(body, kind, revision, name, keras)


def _given(annotation: Any) -> Any:
    """What an input is that may be None where it is left out."""
    return next(part for part in typing.get_args(annotation) if part is not type(None))


def _content(artifact: Artifact) -> str:
    """An artifact's content without its card, in which names stand, and names are no part of a call."""
    files = [file for file in artifact.manifest.files if file.path != cards.CARD]
    return artifact.manifest.model_copy(update={"files": files}).content


def _root(root: Path | str | None, inputs: list[Artifact]) -> Path:
    roots = {artifact.root for artifact in inputs} | ({artifacts.root_at(root)} if root else set())
    if len(roots) > 1:
        raise UserError(
            f"a lineage can't cross roots, but there are {len(roots)} ({', '.join(sorted(map(str, roots)))}); "
            "make or copy everything under one"
        )
    return roots.pop() if roots else artifacts.default_root()


_outer: ContextVar[Draft | None] = ContextVar("outer", default=None)
"""The draft of the stage whose body calls other stages: what they give it is in use until it is done."""


@contextlib.contextmanager
def _inside(draft: Draft) -> Iterator[None]:
    token = _outer.set(draft)
    try:
        yield
    finally:
        _outer.reset(token)


@contextlib.contextmanager
def _alone(draft: Path, stage: str) -> Iterator[None]:
    """Hold the lock of a draft. The kernel lets go of it when its holder dies, however it dies."""
    lock = filelock.FileLock(artifacts.lock_of(draft))
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        log.info("%s: another process is making this; waiting for it", stage)
        lock.acquire()
    try:
        yield
    finally:
        artifacts.let_go(draft, lock)


_bodies = threading.RLock()
"""Held by the thread of this process in which a stage works: random generators and Keras's state are the process's. It is taken
before the lock of any draft, so that no two threads wait for each other."""


@contextlib.contextmanager
def _one_at_a_time(stage: str) -> Iterator[None]:
    if not _bodies.acquire(blocking=False):
        log.info("%s: another thread is making something; waiting for it", stage)
        _bodies.acquire()
    try:
        yield
    finally:
        _bodies.release()


@contextlib.contextmanager
def _seeded(seed: int, keras: bool) -> Iterator[None]:
    """Start all random generators from the seed, and give the caller's Python and numpy states back afterwards."""
    states = random.getstate(), np.random.get_state()
    try:
        random.seed(seed)
        np.random.seed(seed % 2**32)
        if keras:
            from embedkit.frameworks import own_keras, start_keras

            with own_keras():
                start_keras(seed)
                yield
        else:
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


@contextlib.contextmanager
def _readable_failures(base: Path) -> Iterator[None]:
    """Turn what the disk or the memory refuses into one sentence; the draft stays, so the same call goes on."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, MemoryError) or re.search(r"std::bad_alloc|can't start new thread", str(error)):
            advice = "give it more, or let other programs end, and make the same call again: it goes on where it stopped"
            raise UserError(f"there is not enough memory ({str(error) or type(error).__name__}); {advice}") from error
        number, where = getattr(error, "errno", None), getattr(error, "filename", None) or base
        words = {
            errno.ENOSPC: "there is no space left on the disk",
            errno.EDQUOT: "the disk quota is used up",
            errno.EACCES: "there is no permission to read or write",
            errno.EPERM: "there is no permission to read or write",
            errno.EROFS: "the disk can't be written to",
            **dict.fromkeys((errno.ENOTDIR, errno.EEXIST), "there is a file where a folder is needed"),
        }
        if number not in words and re.search(r"[Nn]o space left on device", str(error)):  # libraries in C lose the number
            number = errno.ENOSPC
        if number not in words:
            raise
        advice = "mend that and make the same call again: it goes on where it stopped"
        raise UserError(f"{words[number]} ({where}); {advice}") from error


def _publish(draft: Draft, base: Path, manifest: Manifest, inputs: list[Artifact]) -> Artifact:
    """Files, then checksums, then the manifest, then one rename; nobody who still writes to the draft reaches what is hashed."""
    draft.clear()
    if manifest.kind in cards.KINDS:
        (draft / cards.CARD).write_text(cards.card(manifest, cards.lineage(inputs)), encoding="utf-8", newline="\n")
    made, files = draft.seal(), []
    for path in sorted(path for path in made.rglob("*") if path.is_file() and path != made / "manifest.json"):
        sync(path)
        files.append(File(path=path.relative_to(made).as_posix(), bytes=path.stat().st_size, sha256=sha256(path)))
    for inner in (path for path in made.rglob("*") if path.is_dir()):
        sync(inner)
    with artifacts.changing(base):  # of two calls that publish under one name at once each sees the other's version
        artifact = _appear(made, base, manifest.model_copy(update={"files": files}))
    shutil.rmtree(draft.folder, ignore_errors=True)
    finished = artifact.manifest
    rows = "" if finished.rows is None else f"{finished.rows:,} rows "
    log.info("%s: published, %sin %.1f s", artifact, rows, finished.seconds)
    return artifact


def _appear(made: Path, base: Path, manifest: Manifest) -> Artifact:
    """Give a folder with an artifact's files its manifest and its place, by one rename; the root is locked."""
    folder = base / manifest.kind / manifest.name
    refuse_links(folder.parent, folder)
    folder.mkdir(parents=True, exist_ok=True)
    now = datetime.now(UTC)
    if older := artifacts.versions(folder):  # versions of a name sort by their second, so a newer one must have a later one
        newest = datetime.strptime(older[-1].name[:16], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        now = max(now, newest + timedelta(seconds=1))
    version = f"{now:%Y%m%dT%H%M%SZ}-{manifest.fingerprint[:8]}"
    finished = manifest.model_copy(update={"version": version, "created": now.isoformat(timespec="seconds")})
    (made / "manifest.json").write_bytes(finished.sealed())
    sync(made / "manifest.json")
    sync(made)
    os.rename(made, folder / version)
    for outer in (folder, folder.parent, base):
        sync(outer)
    return Artifact.at(folder / version)


def _also_named(artifact: Artifact, base: Path, name: str) -> Artifact:
    """What was published under another name, findable by this one as well; where files can be linked they take no room twice."""
    made = base / DRAFTS / f"named-{uuid.uuid4().hex[:12]}"
    with artifacts.changing(base):
        try:
            for file in artifact.manifest.files:
                path = made / file.path
                path.parent.mkdir(parents=True, exist_ok=True)
                try:
                    os.link(artifact / file.path, path)
                except OSError:  # a file system without links
                    shutil.copyfile(artifact / file.path, path)
                    sync(path)
            made.mkdir(parents=True, exist_ok=True)
            return _appear(made, base, artifact.manifest.model_copy(update={"name": name}))
        finally:
            shutil.rmtree(made, ignore_errors=True)
