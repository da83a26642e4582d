"""The report of a comparison as one page: a verdict, what to do next, and the measurements that both rest on.

A page is a list of blocks, each written twice: as HTML for a browser and as Markdown for Prefect. Both hold their pictures and
ask nothing of the network; the HTML has no script, and its policy allows none. Class names, texts and paths may be anyone's:
they pass through `_safe` or `_plain` and stay text. Pictures are drawn for light and for dark; the files have the light ones.
"""

import base64
import html
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from embedkit.reports import _figure
from embedkit.stages import Draft

MEASURES = {"accuracy": "accuracy", "micro_f1": "micro-F1", "rmse": "root mean square error"}
OUTSIDE = "A score in brackets lies outside the picture."
CLEAR = 2.0
"""A difference of less than so many standard errors is called none."""
LONGEST_TEXT = 280
MOST_LAYERS = 8
MOST_COLUMNS = 12
MOST_CONFUSIONS = 10
MOST_CLASSES_WITH_NUMBERS = 20
"""Confusion matrices of more classes have cells too small for numbers."""


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
    drawings: dict[str, Callable[[dict[str, Any], _Ink], bytes]] = {"curve": _draw_curve, "cost": _draw_cost}
    if results["confusion"]:
        drawings["confusion"] = _draw_confusion
    pictures = {name: (draw(results, LIGHT), draw(results, DARK)) for name, draw in drawings.items()}
    blocks = list(_blocks(results, pictures))
    title = _safe(f"Comparison {results['title']}")
    page = PAGE.format(title=title, style=STYLE, body="\n".join(block.html for block in blocks))
    for name, (light, _) in pictures.items():
        (folder / f"{name}.png").write_bytes(light)
    (folder / "report.html").write_bytes(page.encode("ascii", "xmlcharrefreplace"))
    (folder / "report.md").write_bytes(("\n\n".join(block.markdown for block in blocks) + "\n").encode("utf-8", "replace"))


# What the page says


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
    listed = "".join(f"<div><dt>{name}</dt><dd><bdi>{_safe(value)}</bdi></dd></div>" for name, value in facts.items())
    question = f"Comparison {results['title']}: which way of using this encoder is worth its cost?"
    bullets = "\n".join(f"- {name}: {_plain(value)}" for name, value in facts.items())
    first, *rest = re.split(r"(?<=[.!?])\s+(?=[A-Z])", results["verdict"].strip(), maxsplit=1)
    top = f'<p class="over">{_safe(question)}</p>\n<h1>{_safe(first)}</h1>'
    lead = "".join(f'\n<p class="lead">{_safe(words)}</p>' for words in rest)
    words = "".join(f"\n\n**{_plain(words)}**" for words in rest)
    return _Block(
        f"<header>\n{top}{lead}\n<dl>{listed}</dl>\n</header>", f"# {_plain(first)}{words}\n\n{_plain(question)}\n\n{bullets}"
    )


def _arms(results: dict[str, Any]) -> _Block:
    """The arms with quality and price, the best score first, skipped ones last."""
    measured, skipped = _measured(results), [arm for arm in results["arms"] if arm["skipped"]]
    unit = "points" if _is_share(results) else _measure(results)
    head: list[str | tuple[str, str]] = ["arm", _measure(results), f"to the best, {unit}", _clean_head(measured), "to train"]
    head += ["per 1,000 predictions"]
    head += [("train and predict", f"{results['predictions']:,} rows"), "peak memory", "on disk"]
    rows = [_Row([(arm["title"], arm["what"]), *_figures(results, arm)], _badges(results, arm)) for arm in measured]
    rows += [_Row([(arm["title"], arm["what"]), f"skipped: {arm['skipped']}"], skipped=True) for arm in skipped]
    listed = _table(head, rows, "arms")
    over = "" if results["seeds"] == 1 else f" over {results['seeds']} draws of the labels, and in the second line"
    words = f"±: one standard error,{over} over the test rows; differences to the best are paired."
    return _Block(f'{listed.html}\n<p class="over">{_safe(words)}</p>', f"{listed.markdown}\n\n{_plain(words)}")


def _clean_head(measured: list[dict[str, Any]]) -> str | tuple[str, str]:
    """Without near duplicates, and how many rows those are, where it is the same for all arms."""
    rows = {arm["clean"]["rows"] for arm in measured if arm["clean"]}
    return ("without near duplicates", f"{rows.pop():,} rows") if len(rows) == 1 else "without near duplicates"


def _figures(results: dict[str, Any], arm: dict[str, Any]) -> list[str | tuple[str, str]]:
    """The cells of a measured arm."""
    budget, score = list(arm["scores"].items())[-1]
    errors = [f"{_spread(results, score['rows_error'])} over rows"] if score["rows_error"] is not None else []
    if budget != "all":
        errors.append(f"of {budget} {results['budget_unit']}")
    clean, difference, seen = arm["clean"], arm["difference"], arm["rows_seen"]
    vague = abs(difference["value"]) < CLEAR * (difference["error"] or 0)
    gap = _join(_gap(results, difference["value"]), _spread(results, difference["error"]))
    without = "–" if clean is None else _join(_score(results, clean["value"]), _spread(results, clean["error"]))
    train = _seconds(arm["seconds_to_train"])
    return [
        (_join(_score(results, score["value"]), _spread(results, score["seeds_error"])), ", ".join(errors)),
        "–" if arm["name"] == results["best"] else (gap, "no clear difference") if vague else gap,
        without,
        train if seen is None or seen >= results["rows"]["train"] else (train, f"saw {seen:,} rows"),
        _seconds(arm["seconds_per_1000"]),
        _seconds(arm["cost_seconds"]),
        _bytes(arm["peak_memory_bytes"]),
        _bytes(arm["bytes"]),
    ]


def _curve_caption(results: dict[str, Any]) -> str:
    seeds = results["seeds"]
    bars = "one standard error over the test rows" if seeds == 1 else f"one standard error over {seeds} draws of the labels"
    return f"Score on {results['rows']['test']:,} test rows by how many labels an arm was given. Bars: {bars}. {OUTSIDE}"


def _every_score(results: dict[str, Any]) -> _Block:
    measured, budgets = _measured(results), _budgets(results)
    others = list(dict.fromkeys(name for arm in measured for name in arm["others"]))
    rows = []
    for arm in measured:
        scores = [arm["scores"].get(budget) for budget in budgets]
        cells = ["–" if one is None else _join(_score(results, one["value"]), _spread(results, _error(one))) for one in scores]
        extra = ["–" if arm["others"].get(name) is None else _number(arm["others"][name]) for name in others]
        rows.append(_Row([arm["title"], *cells, *extra], _badges(results, arm)))
    shown = [budget if budget == "all" else f"{budget} {results['budget_unit']}" for budget in budgets]
    return _table(["arm", *shown, *(name.replace("_", " ") for name in others)], rows)


def _confusion(results: dict[str, Any], pictures: tuple[bytes, bytes]) -> Iterator[_Block]:
    confusion, title = results["confusion"], _title(results, results["confusion"]["arm"])
    counts, classes = np.array(confusion["counts"]), confusion["classes"]
    wrong = np.where(np.eye(len(classes), dtype=bool), 0, counts)
    order = np.argsort(-wrong, axis=None, kind="stable")[:MOST_CONFUSIONS]
    pairs = [(int(place) // len(classes), int(place) % len(classes)) for place in order]
    rows = [
        _Row([_cut(classes[truth], 32), _cut(classes[taken], 32), f"{wrong[truth, taken]:,} of {counts[truth].sum():,}"])
        for truth, taken in pairs
        if wrong[truth, taken]
    ]
    yield _heading("What is taken for what")
    caption = f"{title}: a row is what is true, a column what was predicted. The stronger the colour, the more of the row."
    size = "confusion" if len(classes) <= MOST_CLASSES_WITH_NUMBERS else "confusion many"
    drawn, listed = _picture(size, pictures, caption), _table(["truth", "taken for", "test rows"], rows, "plain")
    yield _Block(f'<div class="beside">\n{drawn.html}\n{listed.html}\n</div>', f"{drawn.markdown}\n\n{listed.markdown}")


def _mistakes(results: dict[str, Any]) -> Iterator[_Block]:
    number = results["task"] == "number"
    yield _heading("The largest errors" if number else "The most confidently wrong rows")
    title = _title(results, results["recommended"] or results["best"])
    ask = "Look here first: some may be labelled wrongly." if not number else "Look here first: some may be measured wrongly."
    yield _paragraph(f"Test rows of {title}. {ask}")
    cards = "\n".join(_card(mistake) for mistake in results["mistakes"])
    head = ["row", "truth" if number else "label", "predicted", "error" if number else "probability"]
    lines = [_table(head, []).markdown]
    for one in results["mistakes"]:
        first = f"![]({_picture_of(one)})" if _picture_of(one) else _plain(_content(one))
        words = [_plain(word) for word in (_shown(one["label"]), _shown(one["predicted"]), _sureness(one))]
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
        value = _join(_score(results, one["value"]), _spread(results, one["error"]))
        rows.append(_Row([one["layer"], one["pooling"], f"{one['dimension']:,}", value], badges))
    first = _table(["layer", "pooling", "dimension", _measure(results)], rows[:MOST_LAYERS], "plain numbers")
    rest = _table(["layer", "pooling", "dimension", _measure(results)], rows[MOST_LAYERS:], "plain numbers")
    yield first
    if rows[MOST_LAYERS:]:
        yield _folded(f"{len(rows) - MOST_LAYERS} more", rest)


def _layers_words(results: dict[str, Any]) -> str:
    layers, unit = results["layers"], " points" if _is_share(results) else ""
    nested, winner, speed = layers["nested"], layers["winner"], layers["speedup"]
    said = []
    if winner:
        said.append(f"Layer {winner['layer']} with pooling {winner['pooling']} did best.")
    if nested:
        value = _join(_score(results, nested["value"]), _spread(results, nested["error"]))
        gain = _join(_gap(results, nested["gain"]), _spread(results, nested["gain_error"]))
        said.append(
            f"Chosen and scored on different rows ({nested['folds']} nested folds of {nested['rows']:,} training rows), "
            f"such a choice scores {value}, the encoder's own output {_score(results, nested['own'])}: {gain}{unit}."
        )
    if speed:
        span = f"{speed['lowest']:.2g} to {speed['highest']:.2g} in {speed['rounds']} rounds"
        said.append(f"Cut there, the encoder is {speed['median']:.2g} times as fast ({span}).")
    return " ".join(said)


def _duplicates(found: dict[str, Any]) -> str:
    exact, near, test = found["exact"], found["near"], found["test"]
    return (
        f"Of {test:,} test rows, {exact:,} {'is' if exact == 1 else 'are'} also among the training rows, and {near:,} "
        f"{'has' if near == 1 else 'have'} a near duplicate there (similarity of {found['bound']:g} or more). "
        "The table of the arms also has each score without near duplicates."
    )


# How a block is written


def _heading(text: str) -> _Block:
    return _Block(f"<h2>{_safe(text)}</h2>", f"## {_plain(text)}")


def _paragraph(text: str) -> _Block:
    return _Block(f"<p>{_safe(text)}</p>", _plain(text))


def _command(text: str) -> _Block:
    return _Block(f'<pre class="command" tabindex="0">{_safe(text)}</pre>', _fenced(text, "sh"))


def _bullets(lines: list[str]) -> _Block:
    items = "".join(f"<li>{_safe(line)}</li>" for line in lines)
    return _Block(f"<ul>{items}</ul>", "\n".join(f"- {_plain(line)}" for line in lines))


def _folded(title: str, block: _Block) -> _Block:
    folded = f"<details>\n<summary>{_safe(title)}</summary>\n{block.html}\n</details>"
    return _Block(folded, f"{_plain(title)}:\n\n{block.markdown}")


def _picture(name: str, pictures: tuple[bytes, bytes], caption: str) -> _Block:
    light, dark = (f"data:image/png;base64,{base64.b64encode(data).decode()}" for data in pictures)
    source = f'<source media="(prefers-color-scheme: dark)" srcset="{dark}">'
    image = f'<picture>{source}<img src="{light}" alt="{_safe(caption)}"></picture>'
    scroll = f'<div class="scroll" tabindex="0">{image}</div>'
    return _Block(
        f'<figure class="{name}">\n{scroll}\n<figcaption>{_safe(caption)}</figcaption>\n</figure>',
        f"![{name}]({light})\n\n{_plain(caption)}",
    )


def _table(head: list[Any], rows: list[_Row], kind: str = "scores") -> _Block:
    names = "".join(f'<th scope="col">{_two_lines(name)}</th>' for name in head)
    body = "\n".join(_table_row(row, len(head)) for row in rows)
    table = f"<table>\n<thead><tr>{names}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"
    lines = ["| " + " | ".join(_one_line(name) for name in head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    for row in rows:
        cells = [_one_line(cell) for cell in row.cells]
        if isinstance(row.cells[0], tuple):
            cells[0] = f"**{_plain(row.cells[0][0])}**: {_plain(row.cells[0][1])}"
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
    return f"<bdi>{_safe(main)}</bdi>{marks}" + (f"<small>{_safe(small)}</small>" if small else "")


def _one_line(cell: str | tuple[str, str]) -> str:
    return _plain(cell if isinstance(cell, str) else ", ".join(filter(None, cell)))


def _card(mistake: dict[str, Any]) -> str:
    if _picture_of(mistake):
        alt, small = _safe(mistake.get("path", "")), ' class="small"' if mistake.get("small") else ""
        content = f'<img src="{_safe(_picture_of(mistake))}" alt="{alt}"{small}>'
    elif "columns" in mistake:
        pairs, more = mistake["columns"][:MOST_COLUMNS], len(mistake["columns"]) - MOST_COLUMNS
        shown = "".join(f"<dt>{_safe(_cut(name, 40))}</dt><dd>{_safe(_cut(value, 80))}</dd>" for name, value in pairs)
        content = f"<dl>{shown}</dl>" + (f'<p class="where">and {more} more</p>' if more > 0 else "")
    else:
        content = f'<p class="text" dir="auto">{_safe(_content(mistake))}</p>'
    path = mistake.get("path")
    where = _cut("/".join(path.split("/")[-2:]) if path else f"row {mistake['id']}", 60)
    said = {"predicted": _shown(mistake["predicted"]), "truth" if "error" in mistake else "label": _shown(mistake["label"])}
    taken = "".join(f"<div>{name} <bdi>{_safe(value)}</bdi></div>" for name, value in said.items())
    last = " · ".join(filter(None, [_sureness(mistake), where]))
    return f'<article>{content}<div class="taken">{taken}</div><p class="where">{_safe(last)}</p></article>'


def _lineage(results: dict[str, Any]) -> _Block:
    report = f"report/{results['title']}"
    given = "".join(f"<li><small>{_safe(role)}</small>{_safe(name)}</li>" for name, role in results["lineage"])
    lines = ["graph LR", f'r["{_mermaid(report)}"]']
    for place, (name, role) in enumerate(results["lineage"]):
        lines += [f'a{place}["{_mermaid(name)}"]', f'a{place} -->|"{_mermaid(role)}"| r']
    drawn = f'<div class="lineage"><ul>{given}</ul><span>→</span><b>{_safe(report)}</b></div>'
    return _Block(drawn, "\n".join(["```mermaid", *lines, "```"]))


def _settings(results: dict[str, Any]) -> _Block:
    shown = {"settings": results["settings"], "decided": results["decisions"]}
    text = json.dumps({name: value for name, value in shown.items() if value}, indent=1, ensure_ascii=False)
    return _folded("Settings", _Block(f"<pre>{_safe(text)}</pre>", _fenced(text, "json")))


# How anything is put into words


def _safe(text: Any) -> str:
    return html.escape(str(text))


def _plain(text: Any) -> str:
    """A text for Markdown, on one line, with nothing in it that Markdown would read."""
    line = re.sub(r"([\\`*_{}\[\]<>|~#&$!@])", r"\\\1", " ".join(str(text).split()))
    line = re.sub(r"(://|\bwww\.)", lambda found: found[0].replace(":", "\\:").replace(".", "\\."), line)
    return re.sub(r"^(\d*)([.)]|[-+=]+)(?= |$)", r"\1\\\2", line)  # a list or a rule


def _fenced(text: str, language: str) -> str:
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text)), 3)
    return f"{fence}{language}\n{text}\n{fence}"


def _mermaid(text: str) -> str:
    return "".join(sign if sign.isalnum() or sign in " ./_-" else f"#{ord(sign)};" for sign in text)


def _cut(text: Any, longest: int) -> str:
    line = " ".join(str(text).split())
    return line if len(line) <= longest else line[: longest - 1].rstrip() + "…"


def _shown(label: Any) -> str:
    """A label for people: several joined, a number rounded, a long name cut."""
    if isinstance(label, list):
        return _cut(", ".join(map(str, label)) or "none", 40)
    return _number(label) if isinstance(label, float) else _cut(label, 40)


def _content(mistake: dict[str, Any]) -> str:
    if "columns" in mistake:
        return _cut(", ".join(f"{name}: {value}" for name, value in mistake["columns"][:MOST_COLUMNS]), LONGEST_TEXT)
    return _cut(mistake.get("text") or mistake.get("path") or mistake["id"], LONGEST_TEXT)


def _picture_of(mistake: dict[str, Any]) -> str:
    found = mistake.get("picture", "")
    return found if re.fullmatch(r"data:image/(png|jpeg);base64,[A-Za-z0-9+/=]+", found) else ""


def _sureness(mistake: dict[str, Any]) -> str:
    if mistake.get("error") is not None:
        return f"off by {_number(abs(mistake['error']))}"
    return "" if mistake.get("probability") is None else f"{100 * mistake['probability']:.1f} % sure"


def _badges(results: dict[str, Any], arm: dict[str, Any]) -> tuple[str, ...]:
    return tuple(badge for badge in ("recommended", "best") if results[badge] == arm["name"])


def _title(results: dict[str, Any], name: str) -> str:
    return next((arm["title"] for arm in results["arms"] if arm["name"] == name), name)


def _measured(results: dict[str, Any]) -> list[dict[str, Any]]:
    """The arms that were not skipped, the best score of all labels first."""
    sign = -1 if results["more_is_better"] else 1
    return sorted((arm for arm in results["arms"] if not arm["skipped"]), key=lambda arm: sign * _last(arm)["value"])


def _last(arm: dict[str, Any]) -> dict[str, Any]:
    return list(arm["scores"].values())[-1]


def _budgets(results: dict[str, Any]) -> list[str]:
    found = {budget for arm in _measured(results) for budget in arm["scores"]}
    return sorted(found - {"all"}, key=float) + ["all"] * ("all" in found)


def _error(score: dict[str, Any]) -> float | None:
    return score["rows_error"] if score["seeds_error"] is None else score["seeds_error"]


def _is_share(results: dict[str, Any]) -> bool:
    return results["measure"] != "rmse"


def _measure(results: dict[str, Any]) -> str:
    return MEASURES[results["measure"]]


def _score(results: dict[str, Any], value: float) -> str:
    return f"{100 * value:.1f} %" if _is_share(results) else _number(value)


def _gap(results: dict[str, Any], value: float) -> str:
    text = f"{100 * value:+.1f}" if _is_share(results) else _number(value, "+")
    return text.replace("-", "−") if float(text.replace(",", "")) else text[1:]


def _spread(results: dict[str, Any], error: float | None) -> str:
    return "" if error is None else f"± {100 * error:.1f}" if _is_share(results) else f"± {error:.2g}"


def _join(*words: str) -> str:
    return " ".join(filter(None, words))


def _number(value: float, sign: str = "") -> str:
    return f"{value:{sign},.0f}" if abs(value) >= 1000 else f"{value:{sign}.3g}"


def _seconds(seconds: float) -> str:
    if seconds < 0.1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _bytes(size: float) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}" if size < 10 * factor else f"{size / factor:.0f} {unit}"
    return f"{size / 1e3:.0f} kB"


# Pictures


class _Ink(NamedTuple):
    """The colours of a picture; those of arms after Okabe and Ito 2008 and Tol 2021, which colour-blind people can tell apart."""

    page: str
    ink: str
    soft: str
    line: str
    full: str
    arms: tuple[str, ...]


LIGHT = _Ink(
    *("#ffffff", "#1d1d1b", "#6a6a65", "#e2e2dc", "#0b4f8a"),
    ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b58900", "#3fa7dc", "#7a7a75", "#332288", "#882255", "#6b7a1e"),
)
DARK = _Ink(
    *("#1e1f21", "#e8e8e4", "#9c9c96", "#36373b", "#8fcbff"),
    ("#4fa8e8", "#ff8a4c", "#2ec49a", "#e29ac4", "#e6c13c", "#a6dcff", "#b0b0aa", "#b3a6ff", "#ff7f9f", "#c3cf6e"),
)
MARKERS = "osD^vPX<>*h"
TICKS = [0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 60, 300, 900, 3600, 10800, 36000, 108000, 360000]
"""Seconds that people have names for."""


def _canvas(inches: tuple[float, float], ink: _Ink) -> tuple[Any, Any]:
    figure, (axes,) = _figure(inches, 1)
    figure.set_dpi(160)
    figure.patch.set_facecolor(ink.page)
    axes.set_facecolor(ink.page)
    for spine in axes.spines.values():
        spine.set_color(ink.soft)
    axes.tick_params(which="both", color=ink.soft, labelcolor=ink.ink, labelsize=9)
    axes.xaxis.label.set_color(ink.soft)
    axes.yaxis.label.set_color(ink.soft)
    return figure, axes


def _png(figure: Any) -> bytes:
    written = io.BytesIO()
    figure.savefig(written, format="png", dpi=figure.dpi, bbox_inches="tight", pad_inches=0.08)
    return written.getvalue()


def _looks(results: dict[str, Any], ink: _Ink) -> dict[str, dict[str, Any]]:
    """Colour, marker and weight of each measured arm: the recommended one blue, the best orange, the same in all pictures."""
    names = [arm["name"] for arm in _measured(results)]
    order = sorted(names, key=lambda name: (name != results["recommended"], name != results["best"]))
    looks = {}
    for place, name in enumerate(order):
        chosen = name in (results["recommended"], results["best"])
        style = "-" if place < len(ink.arms) else "--"
        colour, marker = ink.arms[place % len(ink.arms)], MARKERS[place % len(MARKERS)]
        looks[name] = {"color": colour, "marker": marker, "linestyle": style, "linewidth": 2.4 if chosen else 1.2}
        looks[name] |= {"markersize": 6 if chosen else 4.5, "zorder": 4 if chosen else 3}
    return looks


def _score_axis(results: dict[str, Any], axes: Any, ink: _Ink, scores: list[dict[str, Any]]) -> None:
    """Scores from the best to what is six times as far from it as the middle: what is worse, as guessing, lies outside."""
    if scores:
        values, errors = [score["value"] for score in scores], [_error(score) or 0 for score in scores]
        best = max(values) if results["more_is_better"] else min(values)
        reach = 6 * abs(float(np.median(values)) - best) or abs(best) / 10 or 1
        shown = [place for place, value in enumerate(values) if abs(value - best) <= reach]
        low, high = min(values[n] - errors[n] for n in shown), max(values[n] + errors[n] for n in shown)
        room = 0.06 * (high - low) or 0.05 * abs(best) or 1
        axes.set_ylim(low - room, high + room)
    better = "more" if results["more_is_better"] else "less"
    axes.set_ylabel(f"{_measure(results)} ({better} is better)")
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g} %" if _is_share(results) else f"{value:g}")
    axes.set_autoscale_on(False)
    axes.grid(axis="y", color=ink.line, linewidth=0.8)
    axes.set_axisbelow(True)


def _draw_curve(results: dict[str, Any], ink: _Ink) -> bytes:
    """The score over the number of labels; arms are named at the right, where their lines end."""
    arms, budgets, looks = _measured(results), _budgets(results), _looks(results, ink)
    figure, axes = _canvas((8.4, max(4.2, 0.28 * len(arms) + 1.6)), ink)
    labels: dict[str, int] = {}
    for place, arm in enumerate(arms):
        there = [budget for budget in budgets if budget in arm["scores"]]
        labels |= {budget: arm["scores"][budget]["labels"] for budget in there}
        beside = 0.03 * (place - (len(arms) - 1) / 2) if len(budgets) > 1 else 0
        x = [budgets.index(budget) + beside for budget in there]
        y = [arm["scores"][budget]["value"] for budget in there]
        errors = [_error(arm["scores"][budget]) or 0 for budget in there]
        axes.errorbar(x, y, yerr=errors, elinewidth=1, capsize=0, **looks[arm["name"]])
    axes.set_xticks(range(len(budgets)), [f"{budget}\n{labels[budget]:,}" for budget in budgets])
    axes.set_xlim(-0.3, max(len(budgets) - 0.75, 0.3))
    axes.set_xlabel(f"{results['budget_unit']}; below, labels in all")
    _score_axis(results, axes, ink, [score for arm in arms for score in arm["scores"].values()])
    _name_lines(figure, axes, [(arm, _named(results, arm, axes)) for arm in arms], looks)
    return _png(figure)


def _named(results: dict[str, Any], arm: dict[str, Any], axes: Any) -> str:
    """An arm's title, with its score where that lies outside the picture."""
    low, high = axes.get_ylim()
    value = _last(arm)["value"]
    return _drawable(arm["title"], 34) + ("" if low <= value <= high else f" ({_score(results, value)})")


def _name_lines(figure: Any, axes: Any, named: list[tuple[dict[str, Any], str]], looks: dict[str, dict[str, Any]]) -> None:
    """Name lines at the right edge, none on another, with a thread from where the line ends."""
    figure.draw_without_rendering()
    height, (low, high) = axes.get_window_extent().height, axes.get_ylim()
    ends = np.array([np.clip((_last(arm)["value"] - low) / (high - low), 0, 1) for arm, _ in named])
    places = _apart(ends * height, 14 * figure.dpi / 72, height) / height
    for (arm, name), end, place in zip(named, ends, places, strict=True):
        colour, weight = looks[arm["name"]]["color"], _weight(looks[arm["name"]])
        axes.plot([1, 1.03], [end, place], color=colour, linewidth=0.7, clip_on=False, transform=axes.transAxes)
        style = {"color": colour, "fontsize": 9, "fontweight": weight, "parse_math": False}
        axes.text(1.035, place, name, va="center", transform=axes.transAxes, **style)


def _weight(look: dict[str, Any]) -> str:
    return "bold" if look["linewidth"] > 2 else "normal"


def _apart(wanted: np.ndarray, gap: float, height: float) -> np.ndarray:
    """Places near the wanted ones and at least a gap apart: the mean of pushing up and pushing down, which keeps the gaps."""
    order = np.argsort(wanted, kind="stable")
    steps = gap * np.arange(len(wanted))
    upward = np.maximum.accumulate(wanted[order] - steps) + steps
    downward = np.minimum.accumulate((wanted[order] - steps)[::-1])[::-1] + steps
    found = (upward + downward) / 2
    top = height - gap * (np.arange(len(wanted))[::-1])
    places = np.empty(len(wanted))
    places[order] = np.minimum(found, top) if len(wanted) * gap < height else np.linspace(0, height, len(wanted))
    return places


def _draw_cost(results: dict[str, Any], ink: _Ink) -> bytes:
    """The score against the time that training and predicting take."""
    arms, looks = _measured(results), _looks(results, ink)
    figure, axes = _canvas((8.4, 4.6), ink)
    axes.set_xscale("log")
    points = [(max(arm["cost_seconds"], 0.01), _last(arm)["value"]) for arm in arms]
    for arm, (x, y) in zip(arms, points, strict=True):
        axes.errorbar([x], [y], yerr=[_error(_last(arm)) or 0], elinewidth=1, **looks[arm["name"]])
    sign = 1 if results["more_is_better"] else -1
    front = [point for point in sorted(points) if all(sign * y < sign * point[1] for x, y in points if x < point[0])]
    axes.plot(*zip(*front, strict=True) if front else ([], []), color=ink.soft, linewidth=0.8, linestyle=":", zorder=2)
    low, high = min((x for x, _ in points), default=1) / 1.6, max((x for x, _ in points), default=10) * 1.6
    axes.set_xlim(low, high)
    ticks = [tick for tick in TICKS if low <= tick <= high]
    axes.set_xticks(ticks, [_seconds(tick).replace(".0 ", " ") for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel(f"time to train and predict {results['predictions']:,} rows (log scale)")
    _score_axis(results, axes, ink, [_last(arm) for arm in arms])
    floor, top = axes.get_ylim()
    points = [(x, float(np.clip(y, floor, top))) for x, y in points]
    for arm, (x, y) in zip(arms, points, strict=True):
        axes.plot([x], [y], clip_on=False, **looks[arm["name"]])
    named = [(_named(results, arm, axes), looks[arm["name"]]) for arm in arms]
    _name_points(figure, axes, named, points, [_error(_last(arm)) or 0 for arm in arms])
    return _png(figure)


def _name_points(
    figure: Any, axes: Any, named: list[tuple[str, dict[str, Any]]], points: list[tuple[float, float]], errors: list[float]
) -> None:
    """Name each point beside it, in the nearest free place, so that no name lies on another or on a point."""
    from matplotlib.patheffects import withStroke

    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    renderer, unit, frame = figure.canvas.get_renderer(), figure.dpi / 72, axes.get_window_extent()
    scale = axes.get_window_extent().height / np.ptp(axes.get_ylim())
    bars = [scale * error for error in errors]
    back, centres = axes.transData.inverted(), axes.transData.transform(np.reshape(points, (-1, 2)))
    taken = [np.array([x - 6 * unit, y - 6 * unit, x + 6 * unit, y + 6 * unit]) for x, y in centres]
    taken += [np.array([x - unit, y - bar, x + unit, y + bar]) for (x, y), bar in zip(centres, bars, strict=True)]
    for place in sorted(range(len(named)), key=lambda place: -named[place][1]["linewidth"]):
        (name, look), (x, y) = named[place], centres[place]
        style = {"color": look["color"], "fontsize": 9, "fontweight": _weight(look), "parse_math": False}
        text = axes.text(*points[place], name, va="bottom", zorder=6, **style)
        text.set_path_effects([withStroke(linewidth=2.5, foreground=figure.get_facecolor())])
        size = text.get_window_extent(renderer)
        boxes = [_beside(x, y, size.width, size.height, angle, unit * far) for far in range(8, 80, 8) for angle in range(8)]
        inside = [box for box in boxes if frame.x0 < box[0] and box[2] < frame.x1 and frame.y0 < box[1] and box[3] < frame.y1]
        best = min(inside or boxes, key=lambda box: sum(_overlap(box, other) for other in taken))
        text.set_position(back.transform(best[:2]))
        taken.append(best)
        near = np.clip([x, y], best[:2], best[2:])
        if np.hypot(*(near - [x, y])) > 12 * unit:
            axes.plot(*back.transform([[x, y], near]).T, color=look["color"], linewidth=0.6, zorder=2)


def _beside(x: float, y: float, width: float, height: float, angle: int, far: float) -> np.ndarray:
    """A box at a distance from a point: to the right of it, to the left, above, below, and between those."""
    across, up = [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1)][angle]
    left = x + across * far * (0.75 if up else 1) - (width if across < 0 else width / 2 if across == 0 else 0)
    low = y + up * far * (0.75 if across else 1) - (height if up < 0 else height / 2 if up == 0 else 0)
    return np.array([left, low, left + width, low + height])


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    return float(np.prod(np.maximum(sides, 0)))


def _draw_confusion(results: dict[str, Any], ink: _Ink) -> bytes:
    """What share of each true class was taken for which class; counts in the cells where they can be read."""
    from matplotlib.colors import LinearSegmentedColormap, PowerNorm

    counts = np.array(results["confusion"]["counts"], float)  # (true, predicted)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    count, few = len(counts), len(counts) <= MOST_CLASSES_WITH_NUMBERS
    names = [_drawable(name, 22 if few else 32) for name in results["confusion"]["classes"]]
    side = max(2.4, 0.42 * count) if few else 0.118 * count
    figure, axes = _canvas((side + 2.2, side + 1.6), ink)
    colours = LinearSegmentedColormap.from_list("row", [ink.page, ink.full])
    axes.imshow(shares, colours, norm=PowerNorm(0.6, 0, 1), interpolation="nearest")  # below 1, so that a few rows can be seen
    size = 9 if few else 5.5
    figure.set_dpi(160 if few else 120)
    upright = count > 4 or max(map(len, names)) > 10
    axes.set_xticks(range(count), names, rotation=90 if upright else 0, fontsize=size, parse_math=False)
    axes.set_yticks(range(count), names, fontsize=size, parse_math=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xticks(np.arange(-0.5, count), minor=True)
    axes.set_yticks(np.arange(-0.5, count), minor=True)
    axes.grid(which="minor", color=ink.line, linewidth=0.6 if few else 0.25)
    axes.tick_params(which="minor", length=0)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    for (truth, taken), value in np.ndenumerate(counts) if few else ():
        if value:
            colour = ink.page if shares[truth, taken] > 0.3 else ink.ink
            axes.text(taken, truth, f"{value:.0f}", ha="center", va="center", color=colour, fontsize=8)
    return _png(figure)


def _drawable(text: str, longest: int) -> str:
    """A text on one line, cut, with a box for each sign that the font of the pictures lacks."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    signs = get_font(findfont(FontProperties())).get_charmap()
    return "".join(sign if ord(sign) in signs else "□" for sign in _cut(text, longest))


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
