"""Reports: what an artifact is and what was measured, as Markdown and as figures for people.

What a manifest says may be anyone's: it gets into the Markdown through `escaping` alone.
"""

import base64
import json
import os
import textwrap
from pathlib import Path
from typing import Any

from embedkit.artifacts import Artifact
from embedkit.escaping import fenced, literal, mermaid, plain

LARGEST_PICTURE = 500_000
REPORT_KIND, REPORT = "report", "report.md"


def markdown(artifact: Artifact) -> str:
    """An artifact as a page of Markdown: verdict, measures, settings, pictures, and its lineage as a Mermaid graph.

    A report is that page itself.
    """
    manifest = artifact.manifest
    if manifest.kind == REPORT_KIND and (artifact / REPORT).is_file():
        return (artifact / REPORT).read_text(encoding="utf-8")
    first = f"**{plain(manifest.verdict)}**" if manifest.verdict else f"made by {literal(manifest.stage)}"
    lines = [f"# {plain(artifact)}", "", first, ""]
    if manifest.metrics:
        lines += ["| measure | value | standard error | rows |", "|---|---:|---:|---:|"]
        for name, metric in manifest.metrics.items():
            error = "" if metric.standard_error is None else f"{metric.standard_error:.2g}"
            lines.append(f"| {literal(name)} | {metric.value:.4g} | {error} | {metric.n:,} |")
        lines.append("")
    lines += [f"- {plain(note)}" for note in manifest.notes]
    lines += [f"- checked: {plain(line)}" for line in manifest.checks.values()]
    rows = "" if manifest.rows is None else f"{manifest.rows:,} rows, "
    lines += ["", f"{rows}{manifest.seconds:,.1f} s, peak memory {manifest.peak_memory_bytes / 1e9:.2f} GB", ""]
    for file in manifest.files:
        if file.path.endswith(".png") and file.bytes < LARGEST_PICTURE:
            data = base64.b64encode((artifact / file.path).read_bytes()).decode()
            lines += [f"![{plain(file.path)}](data:image/png;base64,{data})", ""]
    settings = json.dumps(manifest.settings, indent=1, ensure_ascii=False)
    return "\n".join([*lines, fenced("\n".join(_graph(artifact)), "mermaid"), "", fenced(settings, "json"), ""])


def _graph(artifact: Artifact) -> list[str]:
    everything = [artifact, *artifact.ancestors()]
    number = {str(one): f"a{n}" for n, one in enumerate(everything)}
    lines = ["graph LR"]
    for one in everything:
        lines.append(f'{number[str(one)]}["{mermaid(f"{one.manifest.kind}/{one.manifest.name}")}"]')
        lines += [f'{number[str(given)]} -->|"{mermaid(role)}"| {number[str(one)]}' for role, given in one.inputs.items()]
    return lines


def bars(heads: list[Artifact], verdict: str, path: Path) -> None:
    """Draw the accuracies of classifiers, the first against its controls, with bars of two standard errors each way."""
    figure, (axes,) = blank_figure((7, 0.5 * len(heads) + 1.4), 1)
    metrics = [head.manifest.metrics["accuracy"] for head in heads]
    guess = heads[0].manifest.metrics["guessing_accuracy"].value
    places = range(len(heads), 0, -1)
    colours = ["#1f6fb4", *["#b8b8b8"] * (len(heads) - 1)]
    axes.barh(list(places), [m.value for m in metrics], xerr=[2 * (m.standard_error or 0) for m in metrics], color=colours)
    axes.axvline(guess, color="black", linewidth=1, linestyle=":")
    axes.set_yticks(list(places), [head.manifest.name for head in heads])
    used, rows = heads[0].detail("used", dict), metrics[0].n
    axes.set_xlabel(f"accuracy on {rows:,} test rows, ± 2 standard errors (dotted: guessing); {used['train']} labels")
    axes.set_xlim(0, 1)
    axes.set_title(textwrap.fill(verdict, 95), fontsize=8, loc="left")
    save_figure(figure, path)


def learning_curve(history: list[dict[str, float]], best: int, monitor: str, measured_on: str, path: Path) -> None:
    """Draw the loss of training and validation rows over the epochs, the monitored measure beside it where it is another.

    Args:
        history: an entry per epoch, as `training.fit` leaves it.
        best: the epoch whose weights were kept.
        monitor: the measure that decided.
        measured_on: the rows that it was measured on, `validation` or `fitted`.
        path: of the PNG.
    """
    epochs = [entry["epoch"] for entry in history]
    shown = ["loss"] if monitor == "loss" else ["loss", monitor]
    figure, panels = blank_figure((7, 3 * len(shown)), len(shown))
    for axes, name in zip(panels, shown, strict=True):
        if name == "loss":
            axes.plot(epochs, [entry["loss"] for entry in history], color="#b8b8b8", label="training rows")
        values = [entry[f"{measured_on}_{name}"] for entry in history]
        axes.plot(epochs, values, color="#1f6fb4", label=f"{measured_on} rows", marker="." if len(epochs) < 3 else "")
        axes.axvline(best, color="black", linewidth=1, linestyle=":", label=f"kept: epoch {best}")
        axes.set_xlabel("epoch")
        axes.set_ylabel(name)
        axes.legend(frameon=False)
    save_figure(figure, path)


def learning_rates(found: dict[str, Any], path: Path) -> None:
    """Draw a range test: the loss over the learning rate, and the rate it suggests.

    Args:
        found: `rates`, `losses`, `smoothed` and `suggestion`, as `checks.learning_rate_range` gives them.
        path: of the PNG.
    """
    figure, (axes,) = blank_figure((7, 3), 1)
    axes.plot(found["rates"], found["losses"], color="#d8d8d8", label="loss of each batch")
    axes.plot(found["rates"], found["smoothed"], color="#1f6fb4", label="smoothed")
    if found["suggestion"] is not None:
        axes.axvline(found["suggestion"], color="black", linewidth=1, linestyle=":", label=f"suggested: {found['suggestion']:g}")
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss")
    axes.set_title("" if found["suggestion"] is not None else "no usable slope", fontsize=9, loc="left")
    if found["smoothed"]:
        low, first = min(found["smoothed"]), found["smoothed"][0]
        axes.set_ylim(low - 0.1 * abs(first), first + 0.6 * abs(first))
    axes.legend(frameon=False)
    save_figure(figure, path)


def blank_figure(inches: tuple[float, float], panels: int) -> tuple[Any, list[Any]]:
    """A figure with panels one below the other, drawn without a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(inches, dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    found = list(figure.subplots(panels, 1, squeeze=False)[:, 0])
    for axes in found:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, found


def save_figure(figure: Any, path: Path) -> None:
    """Write a PNG; a reader sees all of it or nothing."""
    unfinished = path.with_suffix(".unfinished")
    figure.savefig(unfinished, format="png")
    os.replace(unfinished, path)
