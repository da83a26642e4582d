"""Reports: what an artifact is and what was measured, as Markdown and as figures for people."""

import base64
import json
import os
import textwrap
from pathlib import Path

from embedkit.artifacts import Artifact

LARGEST_PICTURE = 500_000


def markdown(artifact: Artifact) -> str:
    """An artifact as a page of Markdown: verdict, measures, settings, pictures, and its lineage as a Mermaid graph."""
    manifest = artifact.manifest
    lines = [f"# {artifact}", "", f"**{manifest.verdict}**" if manifest.verdict else f"made by `{manifest.stage}`", ""]
    if manifest.metrics:
        lines += ["| measure | value | standard error | rows |", "|---|---:|---:|---:|"]
        for name, metric in manifest.metrics.items():
            error = "" if metric.standard_error is None else f"{metric.standard_error:.2g}"
            lines.append(f"| {name} | {metric.value:.4g} | {error} | {metric.n:,} |")
        lines.append("")
    lines += [f"- {note}" for note in manifest.notes]
    rows = "" if manifest.rows is None else f"{manifest.rows:,} rows, "
    lines += ["", f"{rows}{manifest.seconds:,.1f} s, peak memory {manifest.peak_memory_bytes / 1e9:.2f} GB", ""]
    for file in manifest.files:
        if file.path.endswith(".png") and file.bytes < LARGEST_PICTURE:
            data = base64.b64encode((artifact / file.path).read_bytes()).decode()
            lines += [f"![{file.path}](data:image/png;base64,{data})", ""]
    settings = json.dumps(manifest.settings, indent=1, ensure_ascii=False)
    return "\n".join([*lines, "```mermaid", *_graph(artifact), "```", "", "```json", settings, "```", ""])


def _graph(artifact: Artifact) -> list[str]:
    everything = [artifact, *artifact.ancestors()]
    number = {str(one): f"a{n}" for n, one in enumerate(everything)}
    lines = ["graph LR"]
    for one in everything:
        lines.append(f'{number[str(one)]}["{one.manifest.kind}/{one.manifest.name}"]')
        lines += [f"{number[str(given)]} -->|{role}| {number[str(one)]}" for role, given in one.inputs.items()]
    return lines


def bars(heads: list[Artifact], verdict: str, path: Path) -> None:
    """Draw the accuracies of classifiers, the first against its controls, with bars of two standard errors each way."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((7, 0.5 * len(heads) + 1.4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    metrics = [head.manifest.metrics["accuracy"] for head in heads]
    guess = heads[0].manifest.metrics["guessing_accuracy"].value
    places = range(len(heads), 0, -1)
    colours = ["#1f6fb4", *["#b8b8b8"] * (len(heads) - 1)]
    axes.barh(list(places), [m.value for m in metrics], xerr=[2 * (m.standard_error or 0) for m in metrics], color=colours)
    axes.axvline(guess, color="black", linewidth=1, linestyle=":")
    axes.set_yticks(list(places), [head.manifest.name for head in heads])
    used, rows = heads[0].manifest.details["used"], metrics[0].n
    axes.set_xlabel(f"accuracy on {rows:,} test rows, ± 2 standard errors (dotted: guessing); {used['train']} labels")
    axes.set_xlim(0, 1)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(textwrap.fill(verdict, 95), fontsize=8, loc="left")
    unfinished = path.with_suffix(".unfinished")
    figure.savefig(unfinished, format="png")
    os.replace(unfinished, path)
