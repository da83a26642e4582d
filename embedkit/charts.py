"""Charts: the pictures of the report pages, each for light and for dark. Results in, PNG bytes out, always the same.

Colours are those of Okabe and Ito and of Tol, told apart by colour-blind readers, each with a marker of its own and a name
beside it. A filled mark is what is offered, a hollow one in its colour what it is held against.
"""

import io
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from embedkit import reports, wording

MOST_CLASSES_WITH_NUMBERS = 20
"""Confusion matrices of more classes have cells too small for numbers."""


class Ink(NamedTuple):
    """The colours of a picture; those of arms after Okabe and Ito 2008 and Tol 2021, which colour-blind people can tell apart."""

    page: str
    ink: str
    soft: str
    line: str
    full: str
    arms: tuple[str, ...]


LIGHT = Ink(
    *("#ffffff", "#1d1d1b", "#6a6a65", "#e2e2dc", "#0b4f8a"),
    ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b58900", "#3fa7dc", "#7a7a75", "#332288", "#882255", "#6b7a1e"),
)
DARK = Ink(
    *("#1e1f21", "#e8e8e4", "#9c9c96", "#36373b", "#8fcbff"),
    ("#4fa8e8", "#ff8a4c", "#2ec49a", "#e29ac4", "#e6c13c", "#a6dcff", "#b0b0aa", "#b3a6ff", "#ff7f9f", "#c3cf6e"),
)
MARKERS = "osD^vPX<>*h"
TICKS = [0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 60, 300, 900, 3600, 10800, 36000, 108000, 360000]
"""Seconds that people have names for."""
OTHERS = "hPdX8p"
"""Markers of controls that belong to no student."""
MODEL_SIZES = {"teacher": 11, "student": 7.5, "twin": 6.5, "control": 5}


def both(draw: Callable[[dict[str, Any], Ink], bytes], results: dict[str, Any]) -> tuple[bytes, bytes]:
    """A picture for a light page and for a dark one."""
    return draw(results, LIGHT), draw(results, DARK)


def _canvas(inches: tuple[float, float], ink: Ink) -> tuple[Any, Any]:
    figure, (axes,) = reports.blank_figure(inches, 1)
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


def _looks(results: dict[str, Any], ink: Ink) -> dict[str, dict[str, Any]]:
    """Colour, marker and weight of each measured arm: the recommended one blue, the best orange, the same in all pictures."""
    names = [arm["name"] for arm in wording.measured(results)]
    order = sorted(names, key=lambda name: (name != results["recommended"], name != results["best"]))
    looks = {}
    for place, name in enumerate(order):
        chosen = name in (results["recommended"], results["best"])
        style = "-" if place < len(ink.arms) else "--"
        colour, marker = ink.arms[place % len(ink.arms)], MARKERS[place % len(MARKERS)]
        looks[name] = {"color": colour, "marker": marker, "linestyle": style, "linewidth": 2.4 if chosen else 1.2}
        looks[name] |= {"markersize": 6 if chosen else 4.5, "zorder": 4 if chosen else 3}
    return looks


def _score_axis(results: dict[str, Any], axes: Any, ink: Ink, scores: list[dict[str, Any]]) -> None:
    """Scores from the best to what is six times as far from it as the middle: what is worse, as guessing, lies outside."""
    if scores:
        values, errors = [score["value"] for score in scores], [wording.standard_error(score) or 0 for score in scores]
        best = max(values) if results["more_is_better"] else min(values)
        reach = 6 * abs(float(np.median(values)) - best) or abs(best) / 10 or 1
        shown = [place for place, value in enumerate(values) if abs(value - best) <= reach]
        low, high = min(values[n] - errors[n] for n in shown), max(values[n] + errors[n] for n in shown)
        room = 0.06 * (high - low) or 0.05 * abs(best) or 1
        axes.set_ylim(low - room, high + room)
    _measure_axis(results, axes, ink, results["more_is_better"])


def _measure_axis(results: dict[str, Any], axes: Any, ink: Ink, more_is_better: bool) -> None:
    better = "more" if more_is_better else "less"
    axes.set_ylabel(f"{wording.measure(results)} ({better} is better)")
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g} %" if wording.is_share(results) else f"{value:g}")
    axes.set_autoscale_on(False)
    axes.grid(axis="y", color=ink.line, linewidth=0.8)
    axes.set_axisbelow(True)


def curve(results: dict[str, Any], ink: Ink) -> bytes:
    """The score over the number of labels; arms are named at the right, where their lines end."""
    arms, budgets, looks = wording.measured(results), wording.budgets(results), _looks(results, ink)
    figure, axes = _canvas((8.4, max(4.2, 0.28 * len(arms) + 1.6)), ink)
    labels: dict[str, int] = {}
    for place, arm in enumerate(arms):
        there = [budget for budget in budgets if budget in arm["scores"]]
        labels |= {budget: arm["scores"][budget]["labels"] for budget in there}
        beside = 0.03 * (place - (len(arms) - 1) / 2) if len(budgets) > 1 else 0
        x = [budgets.index(budget) + beside for budget in there]
        y = [arm["scores"][budget]["value"] for budget in there]
        errors = [wording.standard_error(arm["scores"][budget]) or 0 for budget in there]
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
    value = wording.last_score(arm)["value"]
    return _drawable(arm["title"], 34) + ("" if low <= value <= high else f" ({wording.score(results, value)})")


def _name_lines(figure: Any, axes: Any, named: list[tuple[dict[str, Any], str]], looks: dict[str, dict[str, Any]]) -> None:
    """Name lines at the right edge, none on another, with a thread from where the line ends."""
    figure.draw_without_rendering()
    height, (low, high) = axes.get_window_extent().height, axes.get_ylim()
    ends = np.array([np.clip((wording.last_score(arm)["value"] - low) / (high - low), 0, 1) for arm, _ in named])
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


def cost(results: dict[str, Any], ink: Ink) -> bytes:
    """The score against the time that training and predicting take."""
    arms, looks = wording.measured(results), _looks(results, ink)
    figure, axes = _canvas((8.4, 4.6), ink)
    axes.set_autoscalex_on(False)  # of one point it would warn
    axes.set_xscale("log")
    points = [(max(arm["cost_seconds"], 0.01), wording.last_score(arm)["value"]) for arm in arms]
    for arm, (x, y) in zip(arms, points, strict=True):
        axes.errorbar([x], [y], yerr=[wording.standard_error(wording.last_score(arm)) or 0], elinewidth=1, **looks[arm["name"]])
    sign = 1 if results["more_is_better"] else -1
    front = [point for point in sorted(points) if all(sign * y < sign * point[1] for x, y in points if x < point[0])]
    axes.plot(*zip(*front, strict=True) if front else ([], []), color=ink.soft, linewidth=0.8, linestyle=":", zorder=2)
    low, high = min((x for x, _ in points), default=1) / 1.6, max((x for x, _ in points), default=10) * 1.6
    axes.set_xlim(low, high)
    ticks = [tick for tick in TICKS if low <= tick <= high]
    axes.set_xticks(ticks, [wording.duration(tick).replace(".0 ", " ") for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel(f"time to train and predict {results['predictions']:,} rows (log scale)")
    _score_axis(results, axes, ink, [wording.last_score(arm) for arm in arms])
    floor, top = axes.get_ylim()
    points = [(x, float(np.clip(y, floor, top))) for x, y in points]
    for arm, (x, y) in zip(arms, points, strict=True):
        axes.plot([x], [y], clip_on=False, **looks[arm["name"]])
    named = [(_named(results, arm, axes), looks[arm["name"]]) for arm in arms]
    _name_points(figure, axes, named, points, [wording.standard_error(wording.last_score(arm)) or 0 for arm in arms])
    return _png(figure)


def _name_points(
    figure: Any,
    axes: Any,
    named: list[tuple[str, dict[str, Any]]],
    points: list[tuple[float, float]],
    errors: list[float],
    drawn: Sequence[Any] = (),
) -> None:
    """Name each point beside it, in the nearest free place, so that no name lies on another, on a point or on what is `drawn`."""
    from matplotlib.patheffects import withStroke

    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    renderer, unit, frame = figure.canvas.get_renderer(), figure.dpi / 72, axes.get_window_extent()
    scale = axes.get_window_extent().height / np.ptp(axes.get_ylim())
    bars = [scale * error for error in errors]
    back, centres = axes.transData.inverted(), axes.transData.transform(np.reshape(points, (-1, 2)))
    taken = [np.array([x - 6 * unit, y - 6 * unit, x + 6 * unit, y + 6 * unit]) for x, y in centres]
    taken += [np.array([x - unit, y - bar, x + unit, y + bar]) for (x, y), bar in zip(centres, bars, strict=True)]
    taken += [artist.get_window_extent(renderer).extents for artist in drawn]
    for place in sorted(range(len(named)), key=lambda place: -named[place][1]["linewidth"]):
        (name, look), (x, y) = named[place], centres[place]
        style = {"color": look["color"], "fontsize": 9, "fontweight": _weight(look), "parse_math": False}
        text = axes.text(*points[place], name, va="bottom", zorder=6, **style)
        text.set_path_effects([withStroke(linewidth=2.5, foreground=figure.get_facecolor())])
        size = text.get_window_extent(renderer)
        boxes = [_beside(x, y, size.width, size.height, angle, unit * far) for far in range(8, 240, 8) for angle in range(8)]
        inside = [box for box in boxes if frame.x0 < box[0] and box[2] < frame.x1 and frame.y0 < box[1] and box[3] < frame.y1]
        best = min(inside or boxes, key=lambda box: _overlap(box, np.array(taken)))
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


def _overlap(box: np.ndarray, others: np.ndarray) -> float:
    """The area of a box that others lie on, boxes being (left, low, right, top)."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    return float(np.prod(np.maximum(sides, 0), axis=1).sum())


def quality(results: dict[str, Any], ink: Ink) -> bytes:
    """What students keep of their teacher against their speed, each joined to its twin; what was aimed for is shaded."""
    return _png(_quality(results, ink)[0])


def _quality(results: dict[str, Any], ink: Ink) -> tuple[Any, Any]:
    figure, axes = _canvas((8.4, 5), ink)
    places, looks = _model_places(results, axes, ink), _model_looks(results, ink)
    drawn, named = _goal(results, axes, ink), []
    models = [model for model in results["models"] if model["name"] in places]
    models.sort(key=lambda model: -places[model["name"]][0])  # names have least room at the right
    for model in models:
        (x, y), look = places[model["name"]], looks[model["name"]]
        twin = wording.role(model) == "twin"
        if twin and model["of"] in places:
            line = {"color": look["color"], "linewidth": 1.2, "zorder": 2}
            drawn += axes.plot(*zip(places[model["of"]], (x, y), strict=True), **line)
        bar = {"fmt": "none", "ecolor": look["color"], "elinewidth": 1, "zorder": 2.5}
        axes.errorbar([x], [model["value"]], yerr=[model["error"] or 0], **bar)
        axes.plot([x], [y], clip_on=False, **look)
        outside = "" if y == model["value"] else f" ({wording.score(results, model['value'])})"
        named.append((("twin" if twin else _drawable(model["title"], 34)) + outside, look))
    points = [places[model["name"]] for model in models]
    bars = [(model["error"] or 0) * (y == model["value"]) for model, (_, y) in zip(models, points, strict=True)]
    _name_points(figure, axes, named, points, bars, drawn)
    return figure, axes


def _model_places(results: dict[str, Any], axes: Any, ink: Ink) -> dict[str, tuple[float, float]]:
    """Where each model stands whose speed is known, on axes that are laid out for all of them.

    A model at the speed of another stands a little beside it, so that the bars of both are seen.
    """
    speeds = {model["name"]: wording.speed(results, model) for model in results["models"]}
    known, goal = [speed for speed in speeds.values() if speed], results["aim"]
    far = [1.3 * goal["speedup"]] if goal else []
    low, high = min([1, *known]) / 1.6, max([2, *known, *far]) * 1.6
    axes.set_autoscalex_on(False)  # of one point it would warn
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    ticks = [step * 10.0**power for power in range(-4, 7) for step in (1, 2, 5) if low <= step * 10.0**power <= high]
    axes.set_xticks(ticks, [f"{tick:,g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("times the teacher's speed on one core (log scale)")
    floor, top = _model_span(results)
    axes.set_ylim(floor, top)
    _measure_axis(results, axes, ink, results["measure"] != "rmse")
    places: dict[str, tuple[float, float]] = {}
    beside: dict[str, int] = {}
    for model in results["models"]:
        if speed := speeds[model["name"]]:
            steps = beside[model["speed_of"]] = beside.get(model["speed_of"], 0) + 1 if model["speed_of"] else 0
            places[model["name"]] = speed * (high / low) ** (0.016 * steps), float(np.clip(model["value"], floor, top))
    return places


def _model_span(results: dict[str, Any]) -> tuple[float, float]:
    """From the worst to the best teacher, student and twin, with what was aimed for; other controls only where they are near."""
    shown = [model for model in results["models"] if wording.role(model) != "control"] or results["models"]
    edges = [model["value"] + side * (model["error"] or 0) for model in shown for side in (-1, 1)]
    edges += [goal[1]] if (goal := _goal_corner(results)) else []
    near = 0.5 * (max(edges) - min(edges))
    for model in results["models"]:
        if min(edges) - near <= model["value"] <= max(edges) + near:
            edges += [model["value"] + side * (model["error"] or 0) for side in (-1, 1)]
    room = 0.08 * (max(edges) - min(edges)) or 0.05 * abs(max(edges)) or 1
    return min(edges) - room, max(edges) + room


def _goal_corner(results: dict[str, Any]) -> tuple[float, float] | None:
    """The speed and the quality that were aimed for."""
    teacher = next((model for model in results["models"] if model["role"] == "teacher"), None)
    if not results["aim"] or not teacher:
        return None
    kept = results["aim"]["kept"]
    return results["aim"]["speedup"], teacher["value"] / kept if results["measure"] == "rmse" else teacher["value"] * kept


def _goal(results: dict[str, Any], axes: Any, ink: Ink) -> list[Any]:
    """Shade what was aimed for; what is drawn there that no name may lie on."""
    if not (corner := _goal_corner(results)):
        return []
    (speed, value), (_, right), (floor, top) = corner, axes.get_xlim(), axes.get_ylim()
    far, side = (floor, "bottom") if results["measure"] == "rmse" else (top, "top")
    axes.fill_between([speed, right], value, far, color=ink.full, alpha=0.1, linewidth=0, zorder=1)
    style = {"xytext": (-5, 5 if side == "bottom" else -5), "textcoords": "offset points", "ha": "right", "va": side}
    return [axes.annotate("aimed for", (right, far), color=ink.soft, fontsize=9, **style)]


def _model_looks(results: dict[str, Any], ink: Ink) -> dict[str, dict[str, Any]]:
    """Colour and marker of each model: a student has its own, filled; its controls have the same, hollow; others are grey."""
    looks: dict[str, dict[str, Any]] = {}
    students = [model["name"] for model in results["models"] if model["role"] == "student"]
    others = [model["name"] for model in results["models"] if model["role"] == "control" and model["of"] not in students]
    for model in results["models"]:
        role, own = wording.role(model), model["name"] if model["role"] == "student" else model["of"]
        if own in students:
            place = students.index(own)
            look = {"color": ink.arms[place % len(ink.arms)], "marker": MARKERS[place % len(MARKERS)]}
        elif role == "teacher":
            look = {"color": ink.ink, "marker": "*"}
        else:
            look = {"color": ink.soft, "marker": OTHERS[others.index(model["name"]) % len(OTHERS)]}
        look |= {"linewidth": 2.4 if model["name"] == results["recommended"] else 1.2, "linestyle": "none"}
        look |= {"markersize": MODEL_SIZES[role], "zorder": 4 if role == "student" else 3}
        looks[model["name"]] = look | ({} if model["role"] != "control" else {"markerfacecolor": ink.page})
    return looks


def scores(results: dict[str, Any], ink: Ink) -> bytes:
    """The scores of one split's arms with their errors, the best at the top; those that embed are filled, the others hollow."""
    sign = -1 if results["measure"] == "rmse" else 1
    arms = sorted((arm for arm in results["split"]["arms"] if arm["name"] != "guess"), key=lambda arm: sign * arm["value"])
    figure, axes = _canvas((8.4, 0.42 * len(arms) + 1.1), ink)
    best = (results["split"]["best"], results["split"]["best_control"])
    for place, arm in enumerate(arms):
        colour = ink.arms[0] if arm["embeds"] else ink.arms[1]
        error = float(np.hypot(arm["seeds_error"] or 0, arm["rows_error"]))
        axes.errorbar([arm["value"]], [place], xerr=[error], fmt="none", ecolor=colour, elinewidth=1.4)
        look = {"color": colour, "marker": "o" if arm["embeds"] else "s", "markersize": 9 if arm["name"] in best else 6.5}
        axes.plot([arm["value"]], [place], markerfacecolor=colour if arm["embeds"] else ink.page, **look)
    axes.set_yticks(range(len(arms)), [arm["title"] for arm in arms])
    axes.set_ylim(-0.6, len(arms) - 0.4)
    axes.set_xlabel(f"{wording.measure(results)} ({'less' if sign < 0 else 'more'} is better)")
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g} %" if wording.is_share(results) else f"{value:g}")
    axes.grid(axis="x", color=ink.line, linewidth=0.8)
    axes.set_axisbelow(True)
    return _png(figure)


def confusion(results: dict[str, Any], ink: Ink) -> bytes:
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
    return "".join(sign if ord(sign) in signs else "□" for sign in wording.cut(text, longest))
