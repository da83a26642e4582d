"""The report of `compare_students` as one page: what small students keep of their teacher, each above its controls.

A student is worth what it keeps; its teacher is worth what the student has beyond its twin, which has the same shape, start and
steps but no teacher. What the page is built of, and how anyone's words stay text on it, is said in `blocks`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from embedkit import blocks, charts, wording
from embedkit.blocks import Block, Cell, Row
from embedkit.stages import Draft

NONE = "–"


def write_report(folder: Draft | Path, results: dict[str, Any]) -> None:
    """Write what a comparison of students found, for people: `report.html`, `report.md` and `quality.png`.

    The same results give the same bytes.

    Args:
        folder: where the files go.
        results: plain JSON: what was compared, and `models`, the teacher first. A model has a `role`, its quality (`value` and
            `error` of the `measure`; `kept`, a share of the teacher's; `agreement` with it; `ece` and `log_loss`), its size and
            its times on one core. A control says which student it is `of`, and is that student's twin where its name ends in
            `twin`; one whose speed is that of another model names it in `speed_of`.
    """
    pictures = {"quality": charts.both(charts.quality, results)}
    blocks.write_page(folder, f"Students for {results['title']}", _blocks(results, pictures), pictures)


def _blocks(results: dict[str, Any], pictures: blocks.Pictures) -> Iterator[Block]:
    facts = {"Teacher": results["teacher"], "Dataset": results["dataset"], "Rows": blocks.counts(results["rows"])}
    yield blocks.opening(results["verdict"], f"Students for {results['title']}: what do they keep of their teacher?", facts)
    if results["command"]:
        yield blocks.heading("What to do next")
        yield blocks.command(results["command"])
    yield blocks.heading("The models")
    yield _models(results)
    yield blocks.small(_models_caption(results))
    yield blocks.heading("Quality against speed")
    yield blocks.picture("quality", pictures["quality"], _picture_caption(results))
    if any(model["reference"] for model in results["models"]):
        yield blocks.folded("Where they are, and how long they learned", _references(results))
    yield from blocks.closing(results)


def _grouped(models: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each control right below the student that it is of; else the order they came in."""
    students = {model["name"] for model in models if model["role"] == "student"}
    found = []
    for model in models:
        if model["of"] not in students:
            found += [model, *(other for other in models if other["of"] == model["name"] in students)]
    return found


def _models(results: dict[str, Any]) -> Block:
    """Quality, size and speed of every model; columns of which nothing is known are left out."""
    models, students = _grouped(results["models"]), {model["name"] for model in results["models"] if model["role"] == "student"}
    kept = "teacher's error as a share of its own" if results["measure"] == "rmse" else "kept of the teacher's"
    agreement = "cosine to the teacher's vectors" if results["task"] == "vectors" else "says what the teacher says"
    columns: list[tuple[Cell, list[Cell]]] = [
        (wording.measure(results), [_value(results, model) for model in models]),
        (kept, [NONE if results["measure"] == "similarity" else wording.share(model["kept"]) for model in models]),
        (("times the teacher's speed", "lowest to highest"), [_speed(results, model) for model in models]),
        (agreement, [_agreement(results, model) for model in models]),
        (("calibration error", "log loss"), [_calibration(model) for model in models]),
        (("parameters", "on disk"), [_size(model) for model in models]),
        (("one text", "32 texts"), [_times(model) for model in models]),
        ("texts per second", [_rate(model) for model in models]),
    ]
    columns = [(head, cells) for head, cells in columns if any(cell != NONE for cell in cells)]
    rows = []
    for place, model in enumerate(models):
        role = wording.role(model)
        badges = ("recommended",) * (model["name"] == results["recommended"]) + (role,) * (role != "student")
        named: list[Cell] = [(model["title"], model["what"])]
        rows.append(Row([*named, *(cells[place] for _, cells in columns)], badges, under=model["of"] in students))
    return blocks.table(["model", *(head for head, _ in columns)], rows, "models named")


def _value(results: dict[str, Any], model: dict[str, Any]) -> str:
    return wording.join(wording.score(results, model["value"]), wording.spread(results, model["error"] or None))


def _agreement(results: dict[str, Any], model: dict[str, Any]) -> str:
    found = model["agreement"]
    if results["task"] != "vectors" or found is None:
        return wording.share(found)
    return wording.join(f"{found['value']:.3f}", "" if found["error"] is None else f"± {found['error']:.3f}")


def _lines(*words: str) -> Cell:
    first, second = words
    return NONE if first == second == NONE else (first, second)


def _calibration(model: dict[str, Any]) -> Cell:
    return _lines(*(NONE if model[name] is None else f"{model[name]:.3f}" for name in ("ece", "log_loss")))


def _size(model: dict[str, Any]) -> Cell:
    count, size = model["parameters"], model["bytes"]
    return _lines(NONE if count is None else wording.count(count), NONE if size is None else wording.size(size))


def _times(model: dict[str, Any]) -> Cell:
    return _lines(*(NONE if model[name] is None else f"{wording.rounded(model[name])} ms" for name in ("ms_1", "ms_32")))


def _rate(model: dict[str, Any]) -> str:
    return NONE if model["texts_per_second"] is None else wording.rounded(model["texts_per_second"])


def _speed(results: dict[str, Any], model: dict[str, Any]) -> Cell:
    """The speed-up with its range over rounds, or the one that is another model's and whose."""
    found, speed = model["speedup"], wording.speed(results, model)
    if model["role"] == "teacher" or speed is None:
        return NONE
    if found is None:
        other = next(one for one in results["models"] if one["name"] == model["speed_of"])
        same = "its student" if other["name"] == model["of"] else "the teacher" if other["role"] == "teacher" else other["title"]
        return wording.rounded(speed), f"as {wording.cut(same, 20)}"
    return wording.rounded(speed), f"{wording.rounded(found['lowest'])} to {wording.rounded(found['highest'])}"


def _models_caption(results: dict[str, Any]) -> str:
    paired = "" if results["measure"] == "similarity" else "; what is kept is paired with the teacher, row by row"
    said = [f"±: one standard error over the test rows{paired}."]
    if results["task"] == "vectors":
        said.append("The correlation is Spearman's, over pairs of test rows; the teacher's own is 1, so it is also what is kept.")
    said.append("Times: one core, from strings to answers. Speeds: rounds in which a model and the teacher took turns.")
    if any(wording.role(model) == "twin" for model in results["models"]):
        said.append("A twin has its student's shape, start and steps, but no teacher.")
    return " ".join(said)


def _picture_caption(results: dict[str, Any]) -> str:
    models, aim = results["models"], results["aim"]
    said = [f"On {results['rows']['test']:,} test rows; bars: one standard error over them."]
    if any(wording.role(model) == "twin" for model in models):
        said.append("A hollow mark joined to a student is its twin: the line is what the teacher gave.")
    if any(model["speed_of"] for model in models):
        said.append("A control of a student's shape stands beside it, at the same speed.")
    if aim:
        said.append(f"Shaded: at least {100 * aim['kept']:.3g} % of the teacher's quality at {aim['speedup']:.3g} times its speed.")
    unknown = [model["title"] for model in models if wording.speed(results, model) is None]
    said.append("A score in brackets lies outside the picture.")
    if unknown:
        said.append(
            f"Not in it, as no speed was measured beside the teacher's: {', '.join(wording.cut(title, 40) for title in unknown)}."
        )
    return " ".join(said)


def _references(results: dict[str, Any]) -> Block:
    rows = []
    for model in _grouped(results["models"]):
        if model["reference"]:
            seconds = model["seconds_to_train"]
            rows.append(Row([model["title"], model["reference"], NONE if seconds is None else wording.duration(seconds)]))
    return blocks.table(["model", "artifact", "to train"], rows, "plain")
