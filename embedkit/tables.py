"""What `embedkit artifacts` prints: tables and trees that fit 80 columns, or JSON."""

import json
import logging
from collections import deque
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from embedkit import artifacts
from embedkit.artifacts import Artifact, Manifest, circular, root_at, scan, strays
from embedkit.artifacts import list_artifacts as find_all
from embedkit.comparison import against
from embedkit.consoles import console, words
from embedkit.reports import bars
from embedkit.settings import UserError, not_among
from embedkit.terminal import say, say_json
from embedkit.wording import size

log = logging.getLogger(__name__)

DEEPEST_BRANCH = 8
"""Levels of a tree that 80 columns have room for; what lies deeper is a tree of its own."""


def total_bytes(artifact: Artifact) -> int:
    """Bytes of all files of an artifact."""
    return sum(file.bytes for file in artifact.manifest.files)


def list_artifacts(kind: str | None, root: Path | None, as_json: bool) -> None:
    """Print the artifacts under a root."""
    found = find_all(root)
    for problem in strays(root):
        log.warning("%s", problem)
    if kind is not None and not any(artifact.manifest.kind == kind for artifact in found):
        raise not_among("kind", kind, sorted({artifact.manifest.kind for artifact in found}), hint=f"in {root_at(root)}")
    found = [artifact for artifact in found if kind in (None, artifact.manifest.kind)]
    if as_json:
        say_json(json.dumps([artifact.manifest.model_dump(mode="json") | {"ref": str(artifact)} for artifact in found]))
        return
    if not found:
        say(f"no artifacts in {root_at(root)}")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("artifact", overflow="fold")
    for name in ("version", "rows", "size"):
        table.add_column(name, justify="left" if name == "version" else "right", no_wrap=True)
    for artifact in found:
        manifest = artifact.manifest
        rows = "" if manifest.rows is None else f"{manifest.rows:,}"
        table.add_row(f"{manifest.kind}/{manifest.name}", manifest.version, rows, size(total_bytes(artifact)))
    console().print(table)


def show(reference: str, root: Path | None, as_json: bool) -> None:
    """Print one artifact."""
    artifact = Artifact.open(reference, root)
    manifest = artifact.manifest
    if as_json:
        say_json(manifest.model_dump_json(indent=1))
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")

    def line(name: str, value: Any) -> None:
        table.add_row(words(name), words(value))

    line("artifact", artifact)
    cost = f"{manifest.seconds:,.1f} s, peak {size(manifest.peak_memory_bytes)}"
    line("made", f"{_moment(manifest.created)} by {manifest.stage} in {cost}")
    if manifest.source:
        line("source", manifest.source["text"])
    for given in manifest.inputs:
        line(given.role, given.ref)
    if manifest.rows is not None:
        line("rows", f"{manifest.rows:,}")
    if manifest.verdict:
        line("verdict", manifest.verdict)
    for name, metric in manifest.metrics.items():
        line(name, metric)
    for note in manifest.notes:
        line("note", note)
    for name, value in _flat(manifest.settings).items():
        line(f"--{name.replace('_', '-')}", value)
    for name, value in _decided(manifest).items():
        line(name, value)
    for name, value in manifest.details.items():
        text = json.dumps(value, ensure_ascii=False)
        line(name, text if len(text) <= 200 else text[:200] + " ...")
    for name, value in manifest.timings.items():
        line(name.replace("_", " "), value)
    line("files", f"{len(manifest.files)} in {artifact.path}, {size(total_bytes(artifact))}")
    if any(file.path.startswith("tensorboard/") for file in manifest.files):
        line("curves", f"pip install tensorboard && tensorboard --logdir {artifact / 'tensorboard'}")
    console().print(table)


def _decided(manifest: Manifest) -> dict[str, str]:
    """What was decided, and the line of each check before a run."""
    decided = {f"decided {name}": str(value) for name, value in manifest.decisions.items() if name != "preflight"}
    return decided | {f"checked {name.replace('_', ' ')}": line for name, line in manifest.checks.items()}


def _moment(created: str) -> str:
    return f"{datetime.fromisoformat(created):%Y-%m-%d %H:%M:%S} UTC"


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def lineage(reference: str, root: Path | None) -> None:
    """Print what an artifact was made from, as a tree; each once, and deep branches as trees of their own below."""
    shown, below = set[str](), deque([Artifact.open(reference, root)])
    while below:
        top = below.popleft()
        tree = _branch(top, "", "")
        shown.add(str(top))
        queue = [(role, given, tree, 1) for role, given in reversed(top.inputs.items())]
        while queue:
            role, artifact, parent, depth = queue.pop()
            inputs = artifact.inputs
            if inputs and depth == DEEPEST_BRANCH and artifact not in below and str(artifact) not in shown:
                below.append(artifact)
            elsewhere = "  (shown above)" if str(artifact) in shown else "  (continued below)" if artifact in below else ""
            branch = parent.add(_branch(artifact, role, elsewhere).label)
            if not elsewhere:
                shown.add(str(artifact))
                queue += [(name, given, branch, depth + 1) for name, given in reversed(inputs.items())]
        console().print(tree)


def _branch(artifact: Artifact, role: str, elsewhere: str) -> Tree:
    text = Text.assemble(words(f"{role}: " if role else "", "dim"), words(artifact), (elsewhere, "dim"))
    if artifact.manifest.source and not elsewhere:
        text.append_text(words(f"  from {artifact.manifest.source['text']}", "dim"))
    return Tree(text)


def verify(reference: str | None, root: Path | None) -> None:
    """Check one artifact, or all, and print what was found; of one, not what it was made from.

    Raises:
        UserError: when any is damaged, or something stands in the root that is no artifact.
    """
    given = [(Path(), Artifact.open(reference, root))] if reference else list(scan(root))
    odd = [] if reference else list(strays(root))
    if not given and not odd:
        say(f"no artifacts in {root_at(root)}")
        return
    made_from = {} if reference else _made_from([artifact for _, artifact in given if artifact])
    damaged = 0
    for folder, artifact in given:
        problems = [_unreadable(folder)] if artifact is None else [*artifact.problems(), *made_from.get(str(artifact), [])]
        damaged += bool(problems)
        for problem in problems:
            say(f"{artifact}: {problem}" if artifact else problem)
    for problem in odd:
        say(problem)
    if damaged:
        raise UserError(f"{damaged} of {len(given)} artifacts are damaged; make them again with the calls that made them")
    if odd:
        raise UserError(f"in {root_at(root)} {len(odd):,} folders or links are no artifacts; {odd[0]}")
    print(f"{len(given)} {'artifact is' if len(given) == 1 else 'artifacts are'} as published")


def _unreadable(folder: Path) -> str:
    """Why the artifact in a folder can't be opened."""
    try:
        return f"{Artifact.at(folder)} changed while it was checked"
    except UserError as error:
        return str(error)


def _made_from(artifacts: list[Artifact]) -> dict[str, list[str]]:
    """What is wrong with the lineage of artifacts, as sentences by reference; what is gone is left to those who need it."""
    known = {str(artifact): artifact.manifest for artifact in artifacts}
    found = {
        reference: [
            f"its {given.role} {given.ref} is another than it was made from"
            for given in manifest.inputs
            if given.ref in known and known[given.ref].fingerprint != given.fingerprint
        ]
        for reference, manifest in known.items()
    }
    edges = {reference: {given.ref for given in manifest.inputs} for reference, manifest in known.items()}
    while circle := circular(edges):
        for reference in circle:
            found[reference].append("it is among what it was made from itself, so a manifest was forged")
            edges[reference] = set()
    return found


def compare(left: str, right: str, root: Path | None) -> None:
    """Print in what two artifacts differ."""
    pair = Artifact.open(left, root), Artifact.open(right, root)
    if pair[0].manifest.kind != pair[1].manifest.kind:
        raise UserError(f"{pair[0]} and {pair[1]} are of different kinds; compare two of one kind")
    facts = [_facts(artifact) for artifact in pair]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", style="bold", overflow="fold")
    for artifact in pair:
        table.add_column(str(artifact), overflow="fold")
    for name in dict.fromkeys([*facts[0], *facts[1]]):
        values = [facts[side].get(name, "") for side in (0, 1)]
        if values[0] != values[1]:
            table.add_row(*map(words, (name, *values)))
    if table.row_count:
        console().print(table)
    else:
        print(f"{pair[0]} and {pair[1]} don't differ")


def _facts(artifact: Artifact) -> dict[str, str]:
    manifest = artifact.manifest
    facts = {"rows": "" if manifest.rows is None else f"{manifest.rows:,}"}
    facts |= {name: str(metric) for name, metric in manifest.metrics.items()}
    facts |= {given.role: given.ref for given in manifest.inputs}
    facts |= {"source": json.dumps(manifest.source)} if manifest.source else {}
    facts |= {f"--{name.replace('_', '-')}": str(value) for name, value in _flat(manifest.settings).items()}
    facts |= _decided(manifest)
    facts |= {name: str(value) for name, value in _flat(manifest.environment).items()}
    return facts | {"seconds": f"{manifest.seconds:.1f}", "content": manifest.content[:16]}


def prune(keep: int, yes: bool, root: Path | None) -> None:
    """Remove, or list, artifacts that can go, and drafts that nobody will resume."""
    if keep < 1:
        raise UserError(f"keep can't be {keep}: one version of each name stays at least; remove a whole name's folder by hand")
    base = root_at(root)
    if yes:
        going, drafts = artifacts.prune(base, keep)
    else:
        going, drafts = artifacts.prunable(base, keep), artifacts.abandoned(base)
    freed = sum(map(total_bytes, going)) + sum(bytes for _, bytes in drafts)
    for artifact in going:
        print(f"{'removed' if yes else 'would remove'} {artifact}")
    for draft, _ in drafts:
        say(f"{'removed' if yes else 'would remove'} the unfinished {draft.relative_to(base)}")
    if not going and not drafts:
        print("nothing to remove")
    else:
        print(f"{size(freed)} {'freed' if yes else 'would be freed; add --yes to remove them'}")


def chain(made: list[Artifact]) -> None:
    """Print what a chain of stages made: reference, seconds, and the measure of each head beside those of its controls."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("made", overflow="fold")
    table.add_column("seconds", justify="right", no_wrap=True)
    table.add_column("measured on test rows", overflow="fold")
    for artifact in made:
        name, metric = next(iter(artifact.manifest.metrics.items()), ("", None))
        measured = words(f"{name} {metric}" if metric else "")
        table.add_row(f"{artifact.manifest.kind}/{artifact.manifest.name}", f"{artifact.manifest.seconds:.1f}", measured)
    console().print(table)
    heads = [artifact for artifact in made if artifact.manifest.kind == "classifier"]
    verdict = against(heads[0], heads[1:])
    picture = made[0].root / "quickstart.png"
    bars(heads, verdict, picture)
    print()
    say(verdict)
    say(f"artifacts lie in {made[0].root}, and {picture.name} there shows this")
