"""Blocks: what every report page is built of, each written twice, as HTML for a browser and as Markdown for Prefect.

Both pages hold their pictures and ask nothing of the network; the HTML has no script, and its policy allows none. Names, texts
and paths may be anyone's: they pass through `escaping.safe` or `escaping.plain` and stay text. A picture is drawn for light and for
dark; the files have the light one.
"""

import base64
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from embedkit import escaping
from embedkit.stages import Draft

Cell = str | tuple[str, str]
"""What a cell of a table says, perhaps with a smaller second line."""
Pictures = dict[str, tuple[bytes, bytes]]
"""PNG files by name, each for a light page and for a dark one."""


class Block(NamedTuple):
    """A part of a page."""

    html: str
    markdown: str


class Row(NamedTuple):
    """A row of a table; badges behind its first cell mark it, and one that is `under` the row above belongs to that."""

    cells: list[Cell]
    badges: tuple[str, ...] = ()
    skipped: bool = False
    under: bool = False


def write_page(folder: Draft | Path, title: str, blocks: Iterable[Block], pictures: Pictures, style: str = "") -> None:
    """Write `report.html`, `report.md`, and the light pictures as `NAME.png`; the same blocks give the same bytes.

    Args:
        folder: where the files go.
        title: what a browser shows above the page.
        blocks: from top to bottom.
        pictures: those that the blocks show.
        style: CSS of what only this page has.
    """
    blocks = list(blocks)
    body = "\n".join(block.html for block in blocks)
    page = PAGE.format(title=escaping.safe(title), style=STYLE + style + PRINTED, body=body)
    for name, (light, _) in pictures.items():
        (folder / f"{name}.png").write_bytes(light)
    (folder / "report.html").write_bytes(page.encode("ascii", "xmlcharrefreplace"))
    (folder / "report.md").write_bytes(("\n\n".join(block.markdown for block in blocks) + "\n").encode("utf-8", "replace"))


def opening(verdict: str, question: str, facts: dict[str, str]) -> Block:
    """The verdict, its first sentence as the title, below the question that it answers; and what it was found on."""
    listed = "".join(f"<div><dt>{name}</dt><dd><bdi>{escaping.safe(value)}</bdi></dd></div>" for name, value in facts.items())
    lines = "\n".join(f"- {name}: {escaping.plain(value)}" for name, value in facts.items())
    first, *rest = re.split(r"(?<=[.!?])\s+(?=[A-Z])", verdict.strip(), maxsplit=1)
    top = f'<p class="over">{escaping.safe(question)}</p>\n<h1>{escaping.safe(first)}</h1>'
    lead = "".join(f'\n<p class="lead">{escaping.safe(words)}</p>' for words in rest)
    words = "".join(f"\n\n**{escaping.plain(words)}**" for words in rest)
    return Block(
        f"<header>\n{top}{lead}\n<dl>{listed}</dl>\n</header>",
        f"# {escaping.plain(first)}{words}\n\n{escaping.plain(question)}\n\n{lines}",
    )


def counts(rows: dict[str, int]) -> str:
    """How many rows there are of each part: 4,906 train, 546 validation, 500 test."""
    return ", ".join(f"{count:,} {name}" for name, count in rows.items())


def heading(text: str) -> Block:
    """A heading of a section."""
    return Block(f"<h2>{escaping.safe(text)}</h2>", f"## {escaping.plain(text)}")


def paragraph(text: str) -> Block:
    """A paragraph."""
    return Block(f"<p>{escaping.safe(text)}</p>", escaping.plain(text))


def small(text: str) -> Block:
    """A paragraph in small print, as below a table."""
    return Block(f'<p class="over">{escaping.safe(text)}</p>', escaping.plain(text))


def command(text: str) -> Block:
    """A command to run."""
    return Block(f'<pre class="command" tabindex="0">{escaping.safe(text)}</pre>', escaping.fenced(text, "sh"))


def bullets(lines: list[str]) -> Block:
    """A list."""
    items = "".join(f"<li>{escaping.safe(line)}</li>" for line in lines)
    return Block(f"<ul>{items}</ul>", "\n".join(f"- {escaping.plain(line)}" for line in lines))


def folded(title: str, block: Block) -> Block:
    """A block that is shown when asked for; in Markdown it always is."""
    inner = f"<summary>{escaping.safe(title)}</summary>\n{block.html}"
    return Block(f"<details>\n{inner}\n</details>", f"{escaping.plain(title)}:\n\n{block.markdown}")


def picture(name: str, drawn: tuple[bytes, bytes], caption: str) -> Block:
    """A picture, light or dark as the page is, with its caption; `name` is also its class."""
    light, dark = (f"data:image/png;base64,{base64.b64encode(data).decode()}" for data in drawn)
    source = f'<source media="(prefers-color-scheme: dark)" srcset="{dark}">'
    image = f'<picture>{source}<img src="{light}" alt="{escaping.safe(caption)}"></picture>'
    scroll = f'<div class="scroll" tabindex="0">{image}</div>'
    return Block(
        f'<figure class="{name}">\n{scroll}\n<figcaption>{escaping.safe(caption)}</figcaption>\n</figure>',
        f"![{name}]({light})\n\n{escaping.plain(caption)}",
    )


def table(head: Sequence[Cell], rows: list[Row], kind: str = "scores") -> Block:
    """A table; its first column stays in sight where the others are scrolled.

    Args:
        head: what each column is.
        rows: a row may end early.
        kind: its class: `named` for rows with a line of explanation, `scores`, or `plain` for words.
    """
    names = "".join(f'<th scope="col">{_two_lines(name)}</th>' for name in head)
    body = "\n".join(_table_row(row, len(head)) for row in rows)
    drawn = f"<table>\n<thead><tr>{names}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"
    lines = ["| " + " | ".join(_one_line(name) for name in head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    for row in rows:
        cells = [_one_line(cell) for cell in row.cells]
        if isinstance(row.cells[0], tuple):
            cells[0] = f"**{escaping.plain(row.cells[0][0])}**: {escaping.plain(row.cells[0][1])}"
        cells[0] = "↳ " * row.under + cells[0] + "".join(f" **[{badge}]**" for badge in row.badges)
        lines.append("| " + " | ".join(cells + [""] * (len(head) - len(cells))) + " |")
    return Block(f'<div class="scroll {kind}" tabindex="0">{drawn}</div>', "\n".join(lines))


def _table_row(row: Row, width: int) -> str:
    written = []
    for place, cell in enumerate(row.cells):
        inner = _two_lines(cell, row.badges if place == 0 else ())
        span = f' colspan="{width - place}"' if row.skipped and place == len(row.cells) - 1 else ""
        written.append(f'<th scope="row">{inner}</th>' if place == 0 else f"<td{span}>{inner}</td>")
    kind = " ".join(["skipped"] * row.skipped + ["under"] * row.under + [badge.split()[0] for badge in row.badges])
    return f'<tr class="{kind}">' + "".join(written) + "</tr>"


def _two_lines(cell: Cell, badges: tuple[str, ...] = ()) -> str:
    main, small = (cell, "") if isinstance(cell, str) else cell
    marks = "".join(f' <span class="badge {badge.split()[0]}">{badge}</span>' for badge in badges)
    return f"<bdi>{escaping.safe(main)}</bdi>{marks}" + (f"<small>{escaping.safe(small)}</small>" if small else "")


def _one_line(cell: Cell) -> str:
    return escaping.plain(cell if isinstance(cell, str) else ", ".join(filter(None, cell)))


def closing(results: dict[str, Any]) -> Iterator[Block]:
    """How every report ends: `notes`, what it was made from, all settings and what was decided by them and the data.

    Args:
        results: with `title`, `notes`, `lineage` as pairs of an artifact and its role, `settings` and `decisions`.
    """
    if results["notes"]:
        yield heading("Notes")
        yield bullets(results["notes"])
    yield heading("How it was made")
    yield _lineage(f"report/{results['title']}", results["lineage"])
    shown = {"settings": results["settings"], "decided": results["decisions"]}
    text = json.dumps({name: value for name, value in shown.items() if value}, indent=1, ensure_ascii=False)
    yield folded("Settings", Block(f"<pre>{escaping.safe(text)}</pre>", escaping.fenced(text, "json")))


def _lineage(report: str, given: list[list[str]]) -> Block:
    items = "".join(f"<li><small>{escaping.safe(role)}</small>{escaping.safe(name)}</li>" for name, role in given)
    lines = ["graph LR", f'r["{escaping.mermaid(report)}"]']
    for place, (name, role) in enumerate(given):
        lines += [f'a{place}["{escaping.mermaid(name)}"]', f'a{place} -->|"{escaping.mermaid(role)}"| r']
    drawn = f'<div class="lineage"><ul>{items}</ul><span>→</span><b>{escaping.safe(report)}</b></div>'
    return Block(drawn, "\n".join(["```mermaid", *lines, "```"]))


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""

STYLE = """
:root { color-scheme: light dark; --page: #f5f5f2; --card: #fff; --ink: #1d1d1b; --soft: #64645f; --line: #e2e2dc;
  --accent: #1f6fb4; --tint: #eaf3fb; --best: #b04a00 }
@media (prefers-color-scheme: dark) { :root { --page: #151516; --card: #1e1f21; --ink: #e8e8e4; --soft: #a3a39d; --line: #36373b;
  --accent: #6fb3ef; --tint: #1c2c3a; --best: #ff9a62 } }
* { box-sizing: border-box }
html { -webkit-text-size-adjust: 100% }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; overflow-wrap: anywhere }
main { margin: 0 auto; padding: clamp(1.5rem, 5vw, 4rem) clamp(1rem, 4vw, 2.5rem) 5rem; max-width: 76rem }
h1 { margin: .35rem 0 1.5rem; max-width: 30em; font-size: clamp(1.4rem, 1.05rem + 1.5vw, 2.1rem); line-height: 1.25;
  font-weight: 650; letter-spacing: -.012em; text-wrap: pretty }
.lead { margin: -.75rem 0 1.6rem; max-width: 42rem; font-size: 1.15rem; line-height: 1.5 }
h2 { margin: 3.25rem 0 .9rem; font-size: 1.2rem; line-height: 1.3; font-weight: 650 }
p, ul { margin: 0 0 1rem; max-width: 44rem }
ul { padding-left: 1.2rem }
small { display: block; color: var(--soft); font-size: .8rem; font-weight: 400; line-height: 1.4 }
.over, figcaption, .where, header dt { color: var(--soft); font-size: .875rem }
.over { margin: 0 }
dl { margin: 0 }
dd { margin: 0 }
header dl { display: flex; flex-wrap: wrap; gap: .75rem 2rem; padding-top: 1rem; border-top: 1px solid var(--line);
  font-size: .925rem }
pre { margin: 0 0 1rem; padding: .9rem 1.1rem; overflow-x: auto; border: 1px solid var(--line); border-radius: 8px;
  background: var(--card); font: .85rem/1.5 ui-monospace, monospace; overflow-wrap: normal }
.command { white-space: pre-wrap; overflow-wrap: anywhere; user-select: all; border-left: 4px solid var(--accent) }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 8px; background: var(--card) }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px }
table { width: 100%; border-collapse: separate; border-spacing: 0; font-size: .9rem; line-height: 1.4;
  font-variant-numeric: tabular-nums }
th, td { padding: .6rem .75rem; border-top: 1px solid var(--line); text-align: right; vertical-align: top; white-space: nowrap;
  overflow-wrap: normal }
th:first-child { position: sticky; left: 0; background: var(--card); text-align: left; font-weight: 550; white-space: normal;
  overflow-wrap: anywhere }
thead th, thead th:first-child { border-top: 0; color: var(--soft); font-size: .8rem; font-weight: 500; white-space: normal;
  vertical-align: bottom }
td small, thead small { white-space: nowrap }
.named th:first-child { min-width: 16rem }
.scores th:first-child { min-width: 9rem }
.named { margin-bottom: 1rem }
tr.skipped td { color: var(--soft); text-align: left; white-space: normal }
.skipped bdi { color: var(--soft); font-weight: 400 }
tr.under > :is(th, td) { border-top-style: dotted }
tr.under > th:first-child { padding-left: 2rem; font-weight: 450 }
tr:is(.recommended, .chosen) > * { background: var(--tint) }
tr:is(.recommended, .chosen) > th:first-child { background: var(--tint); box-shadow: inset 4px 0 var(--accent) }
.badge { display: inline-block; margin-left: .25rem; padding: 0 .5em; border: 1px solid; border-radius: 1em; color: var(--soft);
  font-size: .72rem; font-weight: 550; line-height: 1.5; white-space: nowrap }
.badge:is(.recommended, .chosen) { border-color: var(--accent); background: var(--accent); color: var(--card) }
.badge.best { color: var(--best) }
.plain { width: fit-content; max-width: 100% }
.plain :is(th, td):nth-child(2) { text-align: left; white-space: normal }
.plain th:first-child { min-width: 8rem }
figure { margin: 0 0 1rem; width: fit-content; max-width: 100% }
figure .scroll { width: fit-content; max-width: 100%; padding: .75rem }
figure img { display: block; width: 54rem; max-width: 100%; min-width: 34rem; height: auto }
figcaption { contain: inline-size; margin-top: .5rem; text-wrap: pretty }
details { margin: 0 0 1rem }
summary { padding: .3rem 0; color: var(--accent); cursor: pointer; font-size: .9rem }
.lineage { display: flex; flex-wrap: wrap; align-items: center; gap: .9rem; margin-bottom: 1rem }
.lineage ul { display: grid; gap: .5rem; margin: 0; padding: 0; list-style: none }
.lineage li, .lineage b { padding: .45rem .9rem; border: 1px solid var(--line); border-radius: 8px; background: var(--card) }
.lineage b { border-color: var(--accent); font-weight: 550 }
@media (max-width: 46rem) { body { font-size: 15px } h2 { margin-top: 2.5rem } .named th:first-child { min-width: 10.5rem }
  th, td { padding: .5rem .6rem } tr.under > th:first-child { padding-left: 1.4rem } }
"""

PRINTED = """
@media print { :root { --page: #fff } body { font-size: 10pt } main { padding: 0; max-width: none } h2 { break-after: avoid }
  .scroll { overflow: visible } th, td { padding: .3rem .4rem } table { font-size: 7.5pt }
  small, thead th, thead th:first-child { font-size: 6.5pt }
  td small { white-space: normal } .badge { font-size: .8em }
  .named th:first-child { min-width: 0 } figure img { min-width: 0 }
  pre { white-space: pre-wrap } tr, figure { break-inside: avoid } * { print-color-adjust: exact }
  details::details-content { content-visibility: visible; height: auto } }
"""
