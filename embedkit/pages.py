"""The report of a comparison as one page: a verdict, what to do next, and the measurements that both rest on.

What the page is built of, and how anyone's words stay text on it, is said in `blocks`.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from embedkit import blocks, charts, escaping, wording
from embedkit.blocks import Block, Cell, Row
from embedkit.stages import Draft

OUTSIDE = "A score in brackets lies outside the picture."
CLEAR = 2.0
"""A difference of less than so many standard errors is called none."""
MOST_LAYERS = 8
MOST_CONFUSIONS = 10


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
    pictures = {name: charts.both(draw, results) for name, draw in drawings.items()}
    blocks.write_page(folder, f"Comparison {results['title']}", _blocks(results, pictures), pictures, STYLE)


def _blocks(results: dict[str, Any], pictures: blocks.Pictures) -> Iterator[Block]:
    yield _opening(results)
    if results["command"]:
        yield blocks.heading("What to do next")
        yield blocks.command(results["command"])
    yield blocks.heading("The arms")
    yield _arms(results)
    yield blocks.heading("What labels are worth")
    yield blocks.picture("curve", pictures["curve"], _curve_caption(results))
    yield blocks.folded("Every score, and other measures", _every_score(results))
    yield blocks.heading("What it costs")
    words = f"Time to train and then to predict {results['predictions']:,} rows, against the score of all labels."
    yield blocks.picture("cost", pictures["cost"], f"{words} {OUTSIDE} The line joins what nothing cheaper beats.")
    if results["confusion"]:
        yield from _confusion(results, pictures["confusion"])
    if results["mistakes"]:
        yield from _mistakes(results)
    if results["layers"]:
        yield from _layers(results)
    if results["duplicates"]:
        yield blocks.heading("Duplicates")
        yield blocks.paragraph(_duplicates(results["duplicates"]))
    yield from blocks.closing(results)


def _opening(results: dict[str, Any]) -> Block:
    repeats = "none" if results["seeds"] == 1 else f"{results['seeds']} draws of labels"
    facts = {"Dataset": results["dataset"], "Encoder": results["encoder"]}
    facts |= {"Rows": blocks.counts(results["rows"]), "Repeats": repeats}
    question = f"Comparison {results['title']}: which way of using this encoder is worth its cost?"
    return blocks.opening(results["verdict"], question, facts)


def _arms(results: dict[str, Any]) -> Block:
    """The arms with quality and price, the best score first, skipped ones last."""
    measured, skipped = wording.measured(results), [arm for arm in results["arms"] if arm["skipped"]]
    unit = "points" if wording.is_share(results) else wording.measure(results)
    head: list[Cell] = ["arm", wording.measure(results), f"to the best, {unit}", _clean_head(measured), "to train"]
    head += ["per 1,000 predictions"]
    head += [("train and predict", f"{results['predictions']:,} rows"), "peak memory", "on disk"]
    rows = [Row([(arm["title"], arm["what"]), *_figures(results, arm)], wording.badges(results, arm)) for arm in measured]
    rows += [Row([(arm["title"], arm["what"]), f"skipped: {arm['skipped']}"], skipped=True) for arm in skipped]
    listed = blocks.table(head, rows, "arms named")
    over = "" if results["seeds"] == 1 else f" over {results['seeds']} draws of the labels, and in the second line"
    words = f"±: one standard error,{over} over the test rows; differences to the best are paired."
    said = blocks.small(words)
    return Block(f"{listed.html}\n{said.html}", f"{listed.markdown}\n\n{said.markdown}")


def _clean_head(measured: list[dict[str, Any]]) -> Cell:
    """Without copies, and how many rows those are, where it is the same for all arms."""
    rows = {arm["clean"]["rows"] for arm in measured if arm["clean"]}
    return ("without copies", f"{rows.pop():,} rows") if len(rows) == 1 else "without copies"


def _figures(results: dict[str, Any], arm: dict[str, Any]) -> list[Cell]:
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


def _every_score(results: dict[str, Any]) -> Block:
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
        rows.append(Row([arm["title"], *cells, *extra], wording.badges(results, arm)))
    shown = [budget if budget == "all" else f"{budget} {results['budget_unit']}" for budget in budgets]
    return blocks.table(["arm", *shown, *(name.replace("_", " ") for name in others)], rows)


def _confusion(results: dict[str, Any], pictures: tuple[bytes, bytes]) -> Iterator[Block]:
    confusion, title = results["confusion"], wording.title(results, results["confusion"]["arm"])
    counts, classes = np.array(confusion["counts"]), confusion["classes"]
    wrong = np.where(np.eye(len(classes), dtype=bool), 0, counts)
    order = np.argsort(-wrong, axis=None, kind="stable")[:MOST_CONFUSIONS]
    pairs = [(int(place) // len(classes), int(place) % len(classes)) for place in order]
    rows = [
        Row(
            [
                wording.cut(classes[truth], 32),
                wording.cut(classes[taken], 32),
                f"{wrong[truth, taken]:,} of {counts[truth].sum():,}",
            ]
        )
        for truth, taken in pairs
        if wrong[truth, taken]
    ]
    yield blocks.heading("What is taken for what")
    caption = f"{title}: a row is what is true, a column what was predicted. The stronger the colour, the more of the row."
    size = "confusion" if len(classes) <= charts.MOST_CLASSES_WITH_NUMBERS else "confusion many"
    drawn, listed = blocks.picture(size, pictures, caption), blocks.table(["truth", "taken for", "test rows"], rows, "plain")
    yield Block(f'<div class="beside">\n{drawn.html}\n{listed.html}\n</div>', f"{drawn.markdown}\n\n{listed.markdown}")


def _mistakes(results: dict[str, Any]) -> Iterator[Block]:
    number = results["task"] == "number"
    yield blocks.heading("The largest errors" if number else "The most confidently wrong rows")
    title = wording.title(results, results["recommended"] or results["best"])
    ask = "Look here first: some may be labelled wrongly." if not number else "Look here first: some may be measured wrongly."
    yield blocks.paragraph(f"Test rows of {title}. {ask}")
    cards = "\n".join(_card(mistake) for mistake in results["mistakes"])
    head = ["row", "truth" if number else "label", "predicted", "error" if number else "probability"]
    lines = [blocks.table(head, []).markdown]
    for one in results["mistakes"]:
        first = f"![]({wording.picture_of(one)})" if wording.picture_of(one) else escaping.plain(wording.content(one))
        words = [
            escaping.plain(word) for word in (wording.shown(one["label"]), wording.shown(one["predicted"]), wording.sureness(one))
        ]
        lines.append("| " + " | ".join([first, *words]) + " |")
    kind = results["kind"] if results["kind"] in ("texts", "images", "table") else "texts"
    yield Block(f'<div class="cards {kind}">\n{cards}\n</div>', "\n".join(lines))


def _layers(results: dict[str, Any]) -> Iterator[Block]:
    layers, winner = results["layers"], results["layers"]["winner"]
    yield blocks.heading("Which layer to cut at")
    yield blocks.paragraph(_layers_words(results))
    if layers["command"]:
        yield blocks.command(layers["command"])
    rows = []
    for one in layers["table"]:
        won = winner and one["layer"] == winner["layer"] and one["pooling"] == winner["pooling"]
        badges = (("chosen",) if won else ()) + (("own output",) if one["own"] else ())
        value = wording.join(wording.score(results, one["value"]), wording.spread(results, one["error"]))
        rows.append(Row([one["layer"], one["pooling"], f"{one['dimension']:,}", value], badges))
    first = blocks.table(["layer", "pooling", "dimension", wording.measure(results)], rows[:MOST_LAYERS], "plain numbers")
    rest = blocks.table(["layer", "pooling", "dimension", wording.measure(results)], rows[MOST_LAYERS:], "plain numbers")
    yield first
    if rows[MOST_LAYERS:]:
        yield blocks.folded(f"{len(rows) - MOST_LAYERS} more", rest)


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
    words = (
        f"Of {test:,} test rows, {exact:,} {'is' if exact == 1 else 'are'} also among the training rows, and {near:,} "
        f"{'has' if near == 1 else 'have'} a near copy there."
    )
    if alike := found.get("alike"):
        looks = "looks" if alike == 1 else "look"
        words += f" {alike:,} more {looks} like one to the encoder (similarity of {found['bound']:g} or more)."
    return f"{words} The table of the arms also has each score without copies." if exact or near else words


def _card(mistake: dict[str, Any]) -> str:
    if wording.picture_of(mistake):
        alt, small = escaping.safe(mistake.get("path", "")), ' class="small"' if mistake.get("small") else ""
        content = f'<img src="{escaping.safe(wording.picture_of(mistake))}" alt="{alt}"{small}>'
    elif "columns" in mistake:
        pairs, more = mistake["columns"][: wording.MOST_COLUMNS], len(mistake["columns"]) - wording.MOST_COLUMNS
        shown = "".join(
            f"<dt>{escaping.safe(wording.cut(name, 40))}</dt><dd>{escaping.safe(wording.cut(value, 80))}</dd>"
            for name, value in pairs
        )
        content = f"<dl>{shown}</dl>" + (f'<p class="where">and {more} more</p>' if more > 0 else "")
    else:
        content = f'<p class="text" dir="auto">{escaping.safe(wording.content(mistake))}</p>'
    path = mistake.get("path")
    where = wording.cut("/".join(path.split("/")[-2:]) if path else f"row {mistake['id']}", 60)
    said = {
        "predicted": wording.shown(mistake["predicted"]),
        "truth" if "error" in mistake else "label": wording.shown(mistake["label"]),
    }
    taken = "".join(f"<div>{name} <bdi>{escaping.safe(value)}</bdi></div>" for name, value in said.items())
    last = " · ".join(filter(None, [wording.sureness(mistake), where]))
    return f'<article>{content}<div class="taken">{taken}</div><p class="where">{escaping.safe(last)}</p></article>'


STYLE = """
.numbers { min-width: min(100%, 38rem) }
.beside { display: flex; flex-wrap: wrap; align-items: flex-start; gap: 1.25rem }
.beside > * { min-width: 0 }
.confusion img { width: auto; min-width: 0; max-height: 30rem }
.confusion.many img { width: 62rem; min-width: 44rem; max-height: none }
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
"""
