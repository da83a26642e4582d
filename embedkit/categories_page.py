"""The report of `compare_categories` as one page: whether entity embeddings pay, split by split, and what each column's bring.

What the page is built of, and how anyone's words stay text on it, is said in `blocks`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from embedkit import blocks, charts, wording
from embedkit.blocks import Block, Cell, Row
from embedkit.stages import Draft

NONE = "–"


def write_report(folder: Draft | Path, results: dict[str, Any]) -> None:
    """Write what a comparison of categories found, for people: `report.html`, `report.md` and a picture of each split.

    The same results give the same bytes.

    Args:
        folder: where the files go.
        results: plain JSON: what was compared; `splits`, each with its `arms`, the `best` of those that embed and the
            `best_control`; and `columns`, what was made of each and what its vectors save of the loss.
    """
    pictures = {_file(split): charts.both(charts.scores, results | {"split": split}) for split in results["splits"]}
    title = f"Entity embeddings for {results['title']}"
    blocks.write_page(folder, title, _blocks(results, pictures), pictures)


def _file(split: dict[str, Any]) -> str:
    return split["name"].replace(" ", "_")


def _blocks(results: dict[str, Any], pictures: blocks.Pictures) -> Iterator[Block]:
    facts = {"Dataset": results["dataset"], "Seeds": str(results["seeds"])}
    yield blocks.opening(results["verdict"], f"Do entity embeddings pay on {results['title']}?", facts)
    for split in results["splits"]:
        yield blocks.heading(f"The {split['name']} split")
        yield _arms(results, split)
        yield blocks.small(
            f"{blocks.counts(split['rows'])}. Scores are means over {results['seeds']} seeds on the same test rows; the error of a "
            "difference holds the spread over seeds and over resampled rows, paired. Those that embed are held against the best "
            "that doesn't, and the others against the best that does."
        )
        yield blocks.picture(_file(split), pictures[_file(split)], _caption(results, split))
    yield blocks.heading("The columns")
    yield _columns(results)
    yield blocks.small(
        "What a column's vectors save of the loss, against its values unknown: of the rows that they were learned from, and of "
        "training rows that they were not learned from (out of fold). Only the second can help with new rows."
    )
    yield from blocks.closing(results)


def _caption(results: dict[str, Any], split: dict[str, Any]) -> str:
    better = "less" if results["measure"] == "rmse" else "more"
    return f"{wording.measure(results)} on the {split['name']} split ({better} is better), ± one standard error over seeds and rows"


def _arms(results: dict[str, Any], split: dict[str, Any]) -> Block:
    """The arms of a split, the best first."""
    sign = 1 if results["measure"] == "rmse" else -1
    rows = []
    for arm in sorted(split["arms"], key=lambda arm: sign * arm["value"]):
        badges = ("best",) * (arm["name"] in (split["best"], split["best_control"])) + ("embeds",) * arm["embeds"]
        gap = wording.gap(results, arm["difference"]["value"])
        cells: list[Cell] = [
            (arm["title"], arm["what"]),
            wording.join(wording.score(results, arm["value"]), wording.spread(results, wording.standard_error(arm))),
            (wording.join(gap, wording.spread(results, arm["difference"]["error"])), f"against {_title(split, arm['against'])}"),
            wording.duration(arm["seconds"]),
        ]
        rows.append(Row(cells, badges))
    return blocks.table(["arm", wording.measure(results), "better by", "time a seed"], rows, "named")


def _title(split: dict[str, Any], name: str) -> str:
    return next(arm["title"] for arm in split["arms"] if arm["name"] == name)


def _columns(results: dict[str, Any]) -> Block:
    rows = []
    for one in results["columns"]:
        gains = [_gain(one.get(name)) for name in ("in_fold", "out_of_fold")]
        size = f"{one['kept']:,} with a vector of {one['dimension']}" if "kept" in one else NONE
        rows.append(Row([(one["name"], one["reason"]), one["role"], f"{one['values']:,}", size, *gains]))
    head = ["column", "role", "different values", "of them", "saves in fold", "saves out of fold"]
    return blocks.table(head, rows, "named")


def _gain(found: dict[str, float] | None) -> str:
    return NONE if found is None else f"{found['value']:.3g} ± {found['error']:.2g}"
