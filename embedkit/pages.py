"""The report of a comparison as one page: a verdict, what to do next, and the measurements that both rest on.

A page is a list of blocks, each written twice: as HTML for a browser and as Markdown for Prefect. Both hold their pictures and
ask nothing of the network; the HTML has no script, and its policy allows none. Class names, texts and paths may be anyone's:
they pass through `wording.safe` or `wording.plain` and stay text. Pictures are drawn for light and for dark; the files have the
light ones.
"""

import base64
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from embedkit import charts, wording
from embedkit.stages import Draft

OUTSIDE = "A score in brackets lies outside the picture."
CLEAR = 2.0
"""A difference of less than so many standard errors is called none."""
MOST_LAYERS = 8
MOST_CONFUSIONS = 10


class _Block(NamedTuple):
    html: str
    markdown: str


class _Row(NamedTuple):
    """A row of a table: cells, each perhaps with a smaller second line; badges behind the first one mark the row."""

    cells: list[str | tuple[str, str]]
    badges: tuple[str, ...] = ()
    skipped: bool = False


def write_report(folder: Draft | Path, results: dict[str, Any]) -> None:
    """Write what a comparison found, for people: `report.html`, `report.md`, and its pictures as PNG files.

    The same results give the same bytes. `curve.png` and `cost.png` are always there, `confusion.png` where
    `results["confusion"]` is.

    Args:
        folder: where the files go.
        results: plain JSON, as `compare` keeps it in `results.json`: what was compared, `arms` with their scores and costs
            (`cost_seconds` to train and then predict `predictions` rows), and what else the page has a section for.
    """
    drawings: dict[str, Callable[[dict[str, Any], charts.Ink], bytes]] = {"curve": charts.curve, "cost": charts.cost}
    if results["confusion"]:
        drawings["confusion"] = charts.confusion
    pictures = {name: (draw(results, charts.LIGHT), draw(results, charts.DARK)) for name, draw in drawings.items()}
    blocks = list(_blocks(results, pictures))
    title = wording.safe(f"Comparison {results['title']}")
    page = PAGE.format(title=title, style=STYLE, body="\n".join(block.html for block in blocks))
    for name, (light, _) in pictures.items():
        (folder / f"{name}.png").write_bytes(light)
    (folder / "report.html").write_bytes(page.encode("ascii", "xmlcharrefreplace"))
    (folder / "report.md").write_bytes(("\n\n".join(block.markdown for block in blocks) + "\n").encode("utf-8", "replace"))


def _blocks(results: dict[str, Any], pictures: dict[str, tuple[bytes, bytes]]) -> Iterator[_Block]:
    yield _opening(results)
    if results["command"]:
        yield _heading("What to do next")
        yield _command(results["command"])
    yield _heading("The arms")
    yield _arms(results)
    yield _heading("What labels are worth")
    yield _picture("curve", pictures["curve"], _curve_caption(results))
    yield _folded("Every score, and other measures", _every_score(results))
    yield _heading("What it costs")
    words = f"Time to train and then to predict {results['predictions']:,} rows, against the score of all labels."
    yield _picture("cost", pictures["cost"], f"{words} {OUTSIDE} The line joins what nothing cheaper beats.")
    if results["confusion"]:
        yield from _confusion(results, pictures["confusion"])
    if results["mistakes"]:
        yield from _mistakes(results)
    if results["layers"]:
        yield from _layers(results)
    if results["duplicates"]:
        yield _heading("Duplicates")
        yield _paragraph(_duplicates(results["duplicates"]))
    if results["notes"]:
        yield _heading("Notes")
        yield _bullets(results["notes"])
    yield _heading("How it was made")
    yield _lineage(results)
    yield _settings(results)


def _opening(results: dict[str, Any]) -> _Block:
    rows, seeds = results["rows"], results["seeds"]
    parts = ", ".join(f"{count:,} {name}" for name, count in rows.items())
    repeats = "none" if seeds == 1 else f"{seeds} draws of labels"
    facts = {"Dataset": results["dataset"], "Encoder": results["encoder"], "Rows": parts, "Repeats": repeats}
    listed = "".join(f"<div><dt>{name}</dt><dd><bdi>{wording.safe(value)}</bdi></dd></div>" for name, value in facts.items())
    question = f"Comparison {results['title']}: which way of using this encoder is worth its cost?"
    bullets = "\n".join(f"- {name}: {wording.plain(value)}" for name, value in facts.items())
    first, *rest = re.split(r"(?<=[.!?])\s+(?=[A-Z])", results["verdict"].strip(), maxsplit=1)
    top = f'<p class="over">{wording.safe(question)}</p>\n<h1>{wording.safe(first)}</h1>'
    lead = "".join(f'\n<p class="lead">{wording.safe(words)}</p>' for words in rest)
    words = "".join(f"\n\n**{wording.plain(words)}**" for words in rest)
    return _Block(
        f"<header>\n{top}{lead}\n<dl>{listed}</dl>\n</header>",
        f"# {wording.plain(first)}{words}\n\n{wording.plain(question)}\n\n{bullets}",
    )


def _arms(results: dict[str, Any]) -> _Block:
    """The arms with quality and price, the best score first, skipped ones last."""
    measured, skipped = wording.measured(results), [arm for arm in results["arms"] if arm["skipped"]]
    unit = "points" if wording.is_share(results) else wording.measure(results)
    head: list[str | tuple[str, str]] = ["arm", wording.measure(results), f"to the best, {unit}", _clean_head(measured), "to train"]
    head += ["per 1,000 predictions"]
    head += [("train and predict", f"{results['predictions']:,} rows"), "peak memory", "on disk"]
    rows = [_Row([(arm["title"], arm["what"]), *_figures(results, arm)], wording.badges(results, arm)) for arm in measured]
    rows += [_Row([(arm["title"], arm["what"]), f"skipped: {arm['skipped']}"], skipped=True) for arm in skipped]
    listed = _table(head, rows, "arms")
    over = "" if results["seeds"] == 1 else f" over {results['seeds']} draws of the labels, and in the second line"
    words = f"±: one standard error,{over} over the test rows; differences to the best are paired."
    return _Block(f'{listed.html}\n<p class="over">{wording.safe(words)}</p>', f"{listed.markdown}\n\n{wording.plain(words)}")


def _clean_head(measured: list[dict[str, Any]]) -> str | tuple[str, str]:
    """Without near duplicates, and how many rows those are, where it is the same for all arms."""
    rows = {arm["clean"]["rows"] for arm in measured if arm["clean"]}
    return ("without near duplicates", f"{rows.pop():,} rows") if len(rows) == 1 else "without near duplicates"


def _figures(results: dict[str, Any], arm: dict[str, Any]) -> list[str | tuple[str, str]]:
    """The cells of a measured arm."""
    budget, score = list(arm["scores"].items())[-1]
    errors = [f"{wording.spread(results, score['rows_error'])} over rows"] if score["rows_error"] is not None else []
    if budget != "all":
        errors.append(f"of {budget} {results['budget_unit']}")
    clean, difference, seen = arm["clean"], arm["difference"], arm["rows_seen"]
    vague = abs(difference["value"]) < CLEAR * (difference["error"] or 0)
    gap = wording.join(wording.gap(results, difference["value"]), wording.spread(results, difference["error"]))
    without = (
        "–" if clean is None else wording.join(wording.score(results, clean["value"]), wording.spread(results, clean["error"]))
    )
    train = wording.duration(arm["seconds_to_train"])
    return [
        (wording.join(wording.score(results, score["value"]), wording.spread(results, score["seeds_error"])), ", ".join(errors)),
        "–" if arm["name"] == results["best"] else (gap, "no clear difference") if vague else gap,
        without,
        train if seen is None or seen >= results["rows"]["train"] else (train, f"saw {seen:,} rows"),
        wording.duration(arm["seconds_per_1000"]),
        wording.duration(arm["cost_seconds"]),
        wording.size(arm["peak_memory_bytes"]),
        wording.size(arm["bytes"]),
    ]


def _curve_caption(results: dict[str, Any]) -> str:
    seeds = results["seeds"]
    bars = "one standard error over the test rows" if seeds == 1 else f"one standard error over {seeds} draws of the labels"
    return f"Score on {results['rows']['test']:,} test rows by how many labels an arm was given. Bars: {bars}. {OUTSIDE}"


def _every_score(results: dict[str, Any]) -> _Block:
    measured, budgets = wording.measured(results), wording.budgets(results)
    others = list(dict.fromkeys(name for arm in measured for name in arm["others"]))
    rows = []
    for arm in measured:
        scores = [arm["scores"].get(budget) for budget in budgets]
        cells = [
            "–"
            if one is None
            else wording.join(wording.score(results, one["value"]), wording.spread(results, wording.standard_error(one)))
            for one in scores
        ]
        extra = ["–" if arm["others"].get(name) is None else wording.number(arm["others"][name]) for name in others]
        rows.append(_Row([arm["title"], *cells, *extra], wording.badges(results, arm)))
    shown = [budget if budget == "all" else f"{budget} {results['budget_unit']}" for budget in budgets]
    return _table(["arm", *shown, *(name.replace("_", " ") for name in others)], rows)


def _confusion(results: dict[str, Any], pictures: tuple[bytes, bytes]) -> Iterator[_Block]:
    confusion, title = results["confusion"], wording.title(results, results["confusion"]["arm"])
    counts, classes = np.array(confusion["counts"]), confusion["classes"]
    wrong = np.where(np.eye(len(classes), dtype=bool), 0, counts)
    order = np.argsort(-wrong, axis=None, kind="stable")[:MOST_CONFUSIONS]
    pairs = [(int(place) // len(classes), int(place) % len(classes)) for place in order]
    rows = [
        _Row(
            [
                wording.cut(classes[truth], 32),
                wording.cut(classes[taken], 32),
                f"{wrong[truth, taken]:,} of {counts[truth].sum():,}",
            ]
        )
        for truth, taken in pairs
        if wrong[truth, taken]
    ]
    yield _heading("What is taken for what")
    caption = f"{title}: a row is what is true, a column what was predicted. The stronger the colour, the more of the row."
    size = "confusion" if len(classes) <= charts.MOST_CLASSES_WITH_NUMBERS else "confusion many"
    drawn, listed = _picture(size, pictures, caption), _table(["truth", "taken for", "test rows"], rows, "plain")
    yield _Block(f'<div class="beside">\n{drawn.html}\n{listed.html}\n</div>', f"{drawn.markdown}\n\n{listed.markdown}")


def _mistakes(results: dict[str, Any]) -> Iterator[_Block]:
    number = results["task"] == "number"
    yield _heading("The largest errors" if number else "The most confidently wrong rows")
    title = wording.title(results, results["recommended"] or results["best"])
    ask = "Look here first: some may be labelled wrongly." if not number else "Look here first: some may be measured wrongly."
    yield _paragraph(f"Test rows of {title}. {ask}")
    cards = "\n".join(_card(mistake) for mistake in results["mistakes"])
    head = ["row", "truth" if number else "label", "predicted", "error" if number else "probability"]
    lines = [_table(head, []).markdown]
    for one in results["mistakes"]:
        first = f"![]({wording.picture_of(one)})" if wording.picture_of(one) else wording.plain(wording.content(one))
        words = [
            wording.plain(word) for word in (wording.shown(one["label"]), wording.shown(one["predicted"]), wording.sureness(one))
        ]
        lines.append("| " + " | ".join([first, *words]) + " |")
    kind = results["kind"] if results["kind"] in ("texts", "images", "table") else "texts"
    yield _Block(f'<div class="cards {kind}">\n{cards}\n</div>', "\n".join(lines))


def _layers(results: dict[str, Any]) -> Iterator[_Block]:
    layers, winner = results["layers"], results["layers"]["winner"]
    yield _heading("Which layer to cut at")
    yield _paragraph(_layers_words(results))
    if layers["command"]:
        yield _command(layers["command"])
    rows = []
    for one in layers["table"]:
        won = winner and one["layer"] == winner["layer"] and one["pooling"] == winner["pooling"]
        badges = (("chosen",) if won else ()) + (("own output",) if one["own"] else ())
        value = wording.join(wording.score(results, one["value"]), wording.spread(results, one["error"]))
        rows.append(_Row([one["layer"], one["pooling"], f"{one['dimension']:,}", value], badges))
    first = _table(["layer", "pooling", "dimension", wording.measure(results)], rows[:MOST_LAYERS], "plain numbers")
    rest = _table(["layer", "pooling", "dimension", wording.measure(results)], rows[MOST_LAYERS:], "plain numbers")
    yield first
    if rows[MOST_LAYERS:]:
        yield _folded(f"{len(rows) - MOST_LAYERS} more", rest)


def _layers_words(results: dict[str, Any]) -> str:
    layers, unit = results["layers"], " points" if wording.is_share(results) else ""
    nested, winner, speed = layers["nested"], layers["winner"], layers["speedup"]
    said = []
    if winner:
        said.append(f"Layer {winner['layer']} with pooling {winner['pooling']} did best{_but(results)}.")
    if nested:
        value = wording.join(wording.score(results, nested["value"]), wording.spread(results, nested["error"]))
        gain = wording.join(wording.gap(results, nested["gain"]), wording.spread(results, nested["gain_error"]))
        said.append(
            f"Chosen and scored on different rows ({nested['folds']} nested folds of {nested['rows']:,} training rows), "
            f"such a choice scores {value}, the encoder's own output {wording.score(results, nested['own'])}: {gain}{unit}."
        )
    if speed:
        span = f"{speed['lowest']:.2g} to {speed['highest']:.2g} in {speed['rounds']} rounds"
        said.append(f"Cut there, the encoder is {speed['median']:.2g} times as fast ({span}).")
    return " ".join(said)


def _but(results: dict[str, Any]) -> str:
    """What to add where no layer did better than the encoder as it is."""
    sign = 1 if results["more_is_better"] else -1
    own, others = ([sign * one["value"] for one in results["layers"]["table"] if one["own"] is mine] for mine in (True, False))
    worse = own and others and own[0] >= max(others)
    return " of those it can be cut at, though not better than the encoder as it is" if worse else ""


def _duplicates(found: dict[str, Any]) -> str:
    exact, near, test = found["exact"], found["near"], found["test"]
    return (
        f"Of {test:,} test rows, {exact:,} {'is' if exact == 1 else 'are'} also among the training rows, and {near:,} "
        f"{'has' if near == 1 else 'have'} a near duplicate there (similarity of {found['bound']:g} or more). "
        "The table of the arms also has each score without near duplicates."
    )


def _heading(text: str) -> _Block:
    return _Block(f"<h2>{wording.safe(text)}</h2>", f"## {wording.plain(text)}")


def _paragraph(text: str) -> _Block:
    return _Block(f"<p>{wording.safe(text)}</p>", wording.plain(text))


def _command(text: str) -> _Block:
    return _Block(f'<pre class="command" tabindex="0">{wording.safe(text)}</pre>', wording.fenced(text, "sh"))


def _bullets(lines: list[str]) -> _Block:
    items = "".join(f"<li>{wording.safe(line)}</li>" for line in lines)
    return _Block(f"<ul>{items}</ul>", "\n".join(f"- {wording.plain(line)}" for line in lines))


def _folded(title: str, block: _Block) -> _Block:
    folded = f"<details>\n<summary>{wording.safe(title)}</summary>\n{block.html}\n</details>"
    return _Block(folded, f"{wording.plain(title)}:\n\n{block.markdown}")


def _picture(name: str, pictures: tuple[bytes, bytes], caption: str) -> _Block:
    light, dark = (f"data:image/png;base64,{base64.b64encode(data).decode()}" for data in pictures)
    source = f'<source media="(prefers-color-scheme: dark)" srcset="{dark}">'
    image = f'<picture>{source}<img src="{light}" alt="{wording.safe(caption)}"></picture>'
    scroll = f'<div class="scroll" tabindex="0">{image}</div>'
    return _Block(
        f'<figure class="{name}">\n{scroll}\n<figcaption>{wording.safe(caption)}</figcaption>\n</figure>',
        f"![{name}]({light})\n\n{wording.plain(caption)}",
    )


def _table(head: list[Any], rows: list[_Row], kind: str = "scores") -> _Block:
    names = "".join(f'<th scope="col">{_two_lines(name)}</th>' for name in head)
    body = "\n".join(_table_row(row, len(head)) for row in rows)
    table = f"<table>\n<thead><tr>{names}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"
    lines = ["| " + " | ".join(_one_line(name) for name in head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    for row in rows:
        cells = [_one_line(cell) for cell in row.cells]
        if isinstance(row.cells[0], tuple):
            cells[0] = f"**{wording.plain(row.cells[0][0])}**: {wording.plain(row.cells[0][1])}"
        cells[0] += "".join(f" **[{badge}]**" for badge in row.badges)
        lines.append("| " + " | ".join(cells + [""] * (len(head) - len(cells))) + " |")
    return _Block(f'<div class="scroll {kind}" tabindex="0">{table}</div>', "\n".join(lines))


def _table_row(row: _Row, width: int) -> str:
    written = []
    for place, cell in enumerate(row.cells):
        inner = _two_lines(cell, row.badges if place == 0 else ())
        span = f' colspan="{width - place}"' if row.skipped and place == len(row.cells) - 1 else ""
        written.append(f'<th scope="row">{inner}</th>' if place == 0 else f"<td{span}>{inner}</td>")
    kind = " ".join(["skipped"] * row.skipped + [badge.split()[0] for badge in row.badges])
    return f'<tr class="{kind}">' + "".join(written) + "</tr>"


def _two_lines(cell: str | tuple[str, str], badges: tuple[str, ...] = ()) -> str:
    main, small = (cell, "") if isinstance(cell, str) else cell
    marks = "".join(f' <span class="badge {badge.split()[0]}">{badge}</span>' for badge in badges)
    return f"<bdi>{wording.safe(main)}</bdi>{marks}" + (f"<small>{wording.safe(small)}</small>" if small else "")


def _one_line(cell: str | tuple[str, str]) -> str:
    return wording.plain(cell if isinstance(cell, str) else ", ".join(filter(None, cell)))


def _card(mistake: dict[str, Any]) -> str:
    if wording.picture_of(mistake):
        alt, small = wording.safe(mistake.get("path", "")), ' class="small"' if mistake.get("small") else ""
        content = f'<img src="{wording.safe(wording.picture_of(mistake))}" alt="{alt}"{small}>'
    elif "columns" in mistake:
        pairs, more = mistake["columns"][: wording.MOST_COLUMNS], len(mistake["columns"]) - wording.MOST_COLUMNS
        shown = "".join(
            f"<dt>{wording.safe(wording.cut(name, 40))}</dt><dd>{wording.safe(wording.cut(value, 80))}</dd>"
            for name, value in pairs
        )
        content = f"<dl>{shown}</dl>" + (f'<p class="where">and {more} more</p>' if more > 0 else "")
    else:
        content = f'<p class="text" dir="auto">{wording.safe(wording.content(mistake))}</p>'
    path = mistake.get("path")
    where = wording.cut("/".join(path.split("/")[-2:]) if path else f"row {mistake['id']}", 60)
    said = {
        "predicted": wording.shown(mistake["predicted"]),
        "truth" if "error" in mistake else "label": wording.shown(mistake["label"]),
    }
    taken = "".join(f"<div>{name} <bdi>{wording.safe(value)}</bdi></div>" for name, value in said.items())
    last = " · ".join(filter(None, [wording.sureness(mistake), where]))
    return f'<article>{content}<div class="taken">{taken}</div><p class="where">{wording.safe(last)}</p></article>'


def _lineage(results: dict[str, Any]) -> _Block:
    report = f"report/{results['title']}"
    given = "".join(f"<li><small>{wording.safe(role)}</small>{wording.safe(name)}</li>" for name, role in results["lineage"])
    lines = ["graph LR", f'r["{wording.mermaid(report)}"]']
    for place, (name, role) in enumerate(results["lineage"]):
        lines += [f'a{place}["{wording.mermaid(name)}"]', f'a{place} -->|"{wording.mermaid(role)}"| r']
    drawn = f'<div class="lineage"><ul>{given}</ul><span>→</span><b>{wording.safe(report)}</b></div>'
    return _Block(drawn, "\n".join(["```mermaid", *lines, "```"]))


def _settings(results: dict[str, Any]) -> _Block:
    shown = {"settings": results["settings"], "decided": results["decisions"]}
    text = json.dumps({name: value for name, value in shown.items() if value}, indent=1, ensure_ascii=False)
    return _folded("Settings", _Block(f"<pre>{wording.safe(text)}</pre>", wording.fenced(text, "json")))


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
.arms th:first-child { min-width: 16rem }
.scores th:first-child { min-width: 9rem }
.arms { margin-bottom: 1rem }
.arms tr.skipped td { color: var(--soft); text-align: left; white-space: normal }
.skipped bdi { color: var(--soft); font-weight: 400 }
tr:is(.recommended, .chosen) > * { background: var(--tint) }
tr:is(.recommended, .chosen) > th:first-child { background: var(--tint); box-shadow: inset 4px 0 var(--accent) }
.badge { display: inline-block; margin-left: .25rem; padding: 0 .5em; border: 1px solid; border-radius: 1em; color: var(--soft);
  font-size: .72rem; font-weight: 550; line-height: 1.5; white-space: nowrap }
.badge:is(.recommended, .chosen) { border-color: var(--accent); background: var(--accent); color: var(--card) }
.badge.best { color: var(--best) }
.plain { width: fit-content; max-width: 100% }
.plain :is(th, td):nth-child(2) { text-align: left; white-space: normal }
.plain th:first-child { min-width: 8rem }
.numbers { min-width: min(100%, 38rem) }
.beside { display: flex; flex-wrap: wrap; align-items: flex-start; gap: 1.25rem }
.beside > * { min-width: 0 }
figure { margin: 0 0 1rem; width: fit-content; max-width: 100% }
figure .scroll { width: fit-content; max-width: 100%; padding: .75rem }
figure img { display: block; width: 54rem; max-width: 100%; min-width: 34rem; height: auto }
.confusion img { width: auto; min-width: 0; max-height: 30rem }
.confusion.many img { width: 62rem; min-width: 44rem; max-height: none }
figcaption { contain: inline-size; margin-top: .5rem; text-wrap: pretty }
details { margin: 0 0 1rem }
summary { padding: .3rem 0; color: var(--accent); cursor: pointer; font-size: .9rem }
.cards { display: grid; gap: .8rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)) }
.cards.images { grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)) }
article { display: flex; flex-direction: column; padding: .9rem 1rem; border: 1px solid var(--line); border-radius: 8px;
  background: var(--card); min-width: 0; break-inside: avoid }
article p { margin: 0 }
article img { width: 100%; height: 8.5rem; margin-bottom: .6rem; object-fit: contain }
article img.small { image-rendering: pixelated }
article dl { display: grid; grid-template-columns: fit-content(45%) minmax(0, 1fr); gap: 0 .9rem; font-size: .9rem }
article dt, .taken { color: var(--soft) }
.taken { margin-top: auto; padding-top: .7rem }
.taken bdi { color: var(--ink) }
.taken div:first-child bdi { font-weight: 600 }
.images .taken { margin-top: 0; padding-top: 0; font-size: .925rem }
.images .where { margin-top: auto; padding-top: .3rem; font-size: .8rem }
.lineage { display: flex; flex-wrap: wrap; align-items: center; gap: .9rem; margin-bottom: 1rem }
.lineage ul { display: grid; gap: .5rem; margin: 0; padding: 0; list-style: none }
.lineage li, .lineage b { padding: .45rem .9rem; border: 1px solid var(--line); border-radius: 8px; background: var(--card) }
.lineage b { border-color: var(--accent); font-weight: 550 }
@media (max-width: 46rem) { body { font-size: 15px } h2 { margin-top: 2.5rem } .arms th:first-child { min-width: 10.5rem }
  th, td { padding: .5rem .6rem } }
@media print { :root { --page: #fff } body { font-size: 10pt } main { padding: 0; max-width: none } h2 { break-after: avoid }
  .scroll { overflow: visible } th, td { padding: .3rem .4rem } table { font-size: 7.5pt }
  small, thead th, thead th:first-child { font-size: 6.5pt }
  td small { white-space: normal } .badge { font-size: .8em }
  .arms th:first-child { min-width: 0 } figure img { min-width: 0 }
  pre { white-space: pre-wrap } tr, figure { break-inside: avoid } * { print-color-adjust: exact }
  details::details-content { content-visibility: visible; height: auto } }
"""
