"""Where runs that are started from the UI may read and write: inside the folders that `embedkit ui --allow` names.

Whoever opens a form may type any path into it. The runs' processes find the folders in their environment; a flow that is called in
Python has no such border.
"""

import inspect
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from embedkit.artifacts import is_address, root_at
from embedkit.labels import unpinned
from embedkit.settings import UserError
from embedkit.sources import SCHEME, Source
from embedkit.stages import Stage

ALLOWED = "EMBEDKIT_ALLOWED"
"""Environment variable: the folders, and the beginnings of addresses of remote roots, one a line."""


def allow(places: Iterable[Path | str]) -> list[str]:
    """Let runs that begin from here read and write only there; the places come back as they are compared.

    Raises:
        UserError: for a folder that isn't there.
    """
    found = list(dict.fromkeys(str(place) if is_address(place) else _real(place) for place in places))
    for place in found:
        if not is_address(place) and not Path(place).is_dir():
            raise UserError(f"{place} is no folder, so nothing can be allowed there; make it, or name another with --allow")
    os.environ[ALLOWED] = "\n".join(found)
    return found


def check(place: Path | str) -> None:
    """Refuse a path, or the address of a remote root, outside what is allowed; without a border nothing is refused.

    Raises:
        UserError: naming the place, and how it can be allowed.
    """
    if ALLOWED not in os.environ:
        return
    allowed = os.environ[ALLOWED].splitlines()
    if is_address(place):
        inside = ".." not in str(place).split("/") and any(is_address(one) and _below(str(place), one) for one in allowed)
    else:
        inside = any(not is_address(one) and Path(_real(place)).is_relative_to(one) for one in allowed)
    if not inside:
        known = ", ".join(allowed)
        raise UserError(f"{place} lies outside of what runs may use here ({known}); start `embedkit ui --allow` with its folder")


def check_call(stage: Stage, arguments: Iterable[Any], named: Mapping[str, Any], root: Path | str | None) -> None:
    """Refuse a call of a stage that would read or write outside what is allowed.

    Raises:
        UserError: naming the place, and how it can be allowed.
    """
    if ALLOWED in os.environ:
        given = inspect.signature(stage).bind_partial(*arguments, **named).arguments
        for place in (root_at(root), *_outside(stage, given)):
            check(place)


def _outside(stage: Stage, given: Mapping[str, Any]) -> Iterator[Path | str]:
    """The paths that a call names: of its source, of links that it would follow, and of a file of corrections."""
    settings = given.get("settings")
    files = getattr(settings, "files", None)
    if getattr(files, "follow_links", False):
        raise UserError("a run that is started here follows no links out of a folder (files.follow_links); name what they lead to")
    if getattr(getattr(settings, "fetch", None), "private", False):
        raise UserError("a run that is started here fetches from no private network (fetch.private); start it in a shell")
    for role, annotation in stage.inputs.items():
        if annotation is Source and role in given and not SCHEME.fullmatch(text := os.fspath(given[role])):
            yield text
            if "image_column" in stage.Settings.model_fields and os.path.isfile(text):
                yield os.path.dirname(os.path.abspath(text))  # a list of pictures may name any file there
            if not files:  # a network, whose library follows what it finds
                yield from _links(text)
    if corrections := getattr(settings, "corrections", None):
        yield unpinned(corrections)[0]


def _links(folder: str) -> Iterator[str]:
    for inner, folders, files in os.walk(folder):
        yield from (path for name in (*folders, *files) if os.path.islink(path := os.path.join(inner, name)))


def _below(address: str, allowed: str) -> bool:
    return f"{address.rstrip('/')}/".startswith(f"{allowed.rstrip('/')}/")


def _real(place: Path | str) -> str:
    return os.path.realpath(Path(place).expanduser())
