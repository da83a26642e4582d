"""Wording: what the report pages call things, and how its numbers are put for people."""

import re
from typing import Any

MEASURES = {
    "accuracy": "accuracy",
    "micro_f1": "micro-F1",
    "rmse": "root mean square error",
    "similarity": "rank correlation with the teacher's similarities",
}
LONGEST_TEXT = 280
MOST_COLUMNS = 12


def cut(text: Any, longest: int) -> str:
    """A text on one line of at most so many signs, the last one … where it was longer."""
    line = " ".join(str(text).split())
    return line if len(line) <= longest else line[: longest - 1].rstrip() + "…"


def shown(label: Any) -> str:
    """A label for people: several joined, a number rounded, a long name cut."""
    if isinstance(label, list):
        return cut(", ".join(map(str, label)) or "none", 40)
    return number(label) if isinstance(label, float) else cut(label, 40)


def content(mistake: dict[str, Any]) -> str:
    """What a row holds, in one line: its columns, or else its text, its path or its id."""
    if "columns" in mistake:
        return cut(", ".join(f"{name}: {value}" for name, value in mistake["columns"][:MOST_COLUMNS]), LONGEST_TEXT)
    return cut(mistake.get("text") or mistake.get("path") or mistake["id"], LONGEST_TEXT)


def picture_of(mistake: dict[str, Any]) -> str:
    """The picture of a row as a data URL, or nothing: an address on the network is none."""
    found = mistake.get("picture", "")
    return found if re.fullmatch(r"data:image/(png|jpeg);base64,[A-Za-z0-9+/=]+", found) else ""


def sureness(mistake: dict[str, Any]) -> str:
    """How sure a wrong prediction was, or how far off a number; nothing where that is unknown."""
    if mistake.get("error") is not None:
        return f"off by {number(abs(mistake['error']))}"
    return "" if mistake.get("probability") is None else f"{100 * mistake['probability']:.1f} % sure"


def badges(results: dict[str, Any], arm: dict[str, Any]) -> tuple[str, ...]:
    """What marks an arm: that it is recommended, that it is best."""
    return tuple(badge for badge in ("recommended", "best") if results[badge] == arm["name"])


def title(results: dict[str, Any], name: str) -> str:
    """The title of the arm of a name; the name where no arm has it."""
    return next((arm["title"] for arm in results["arms"] if arm["name"] == name), name)


def measured(results: dict[str, Any]) -> list[dict[str, Any]]:
    """The arms that were not skipped, the best score of all labels first."""
    sign = -1 if results["more_is_better"] else 1
    return sorted((arm for arm in results["arms"] if not arm["skipped"]), key=lambda arm: sign * last_score(arm)["value"])


def last_score(arm: dict[str, Any]) -> dict[str, Any]:
    """An arm's score of the most labels that it was given."""
    return list(arm["scores"].values())[-1]


def budgets(results: dict[str, Any]) -> list[str]:
    """The numbers of labels that any arm has a score of, the fewest first and `all` last."""
    found = {budget for arm in measured(results) for budget in arm["scores"]}
    return sorted(found - {"all"}, key=float) + ["all"] * ("all" in found)


def standard_error(found: dict[str, Any]) -> float | None:
    """A score's standard error over draws of the labels; over the test rows where there was one draw."""
    return found["rows_error"] if found["seeds_error"] is None else found["seeds_error"]


def role(model: dict[str, Any]) -> str:
    """What a model is there for: `teacher`, `student`, `control`, or `twin`, a control of a student whose name ends so."""
    twin = model["role"] == "control" and model["of"] is not None and model["name"].endswith("twin")
    return "twin" if twin else model["role"]


def speed(results: dict[str, Any], model: dict[str, Any]) -> float | None:
    """How many times as fast as the teacher a model is, or that of the same shape whose speed was measured; None if unknown."""
    for one in (model, *(other for other in results["models"] if other["name"] == model["speed_of"])):
        if one["role"] == "teacher" or one["speedup"]:
            return 1.0 if one["role"] == "teacher" else one["speedup"]["median"]
    return None


def is_share(results: dict[str, Any]) -> bool:
    """Whether scores are shares, shown in percent, and not in the unit of what is predicted."""
    return results["measure"] not in ("rmse", "similarity")


def measure(results: dict[str, Any]) -> str:
    """The measure's name for people."""
    return MEASURES[results["measure"]]


def score(results: dict[str, Any], value: float) -> str:
    """A score: 95.6 %, a correlation of 0.956, or a number in its own unit."""
    if results["measure"] == "similarity":
        return f"{value:.3f}"
    return f"{100 * value:.1f} %" if is_share(results) else number(value)


def gap(results: dict[str, Any], value: float) -> str:
    """A difference of scores in points, or in the unit of the numbers, with its sign: −1.2; no sign where it rounds to zero."""
    text = f"{100 * value:+.1f}" if is_share(results) else number(value, "+")
    return text.replace("-", "−") if float(text.replace(",", "")) else text[1:]


def spread(results: dict[str, Any], error: float | None) -> str:
    """A standard error behind its ±, or nothing where it is unknown."""
    if error is None:
        return ""
    if results["measure"] == "similarity":
        return f"± {error:.3f}"
    return f"± {100 * error:.1f}" if is_share(results) else f"± {error:.2g}"


def share(found: dict[str, Any] | None) -> str:
    """A share with its standard error: 97.1 % ± 0.6; a dash where there is none."""
    if found is None:
        return "–"
    return join(f"{100 * found['value']:.1f} %", "" if found["error"] is None else f"± {100 * found['error']:.1f}")


def join(*words: str) -> str:
    """Words with spaces between them, empty ones left out."""
    return " ".join(filter(None, words))


def number(value: float, sign: str = "") -> str:
    """A number to three digits, or whole with commas from 1,000 on; `sign="+"` also shows a plus."""
    return f"{value:{sign},.0f}" if abs(value) >= 1000 else f"{value:{sign}.3g}"


def count(value: int) -> str:
    """How many, for people: 9,216 or 22.7 million."""
    for unit, size in (("billion", 1e9), ("million", 1e6)):
        if value >= size:
            return f"{value / size:.1f} {unit}"
    return f"{value:,}"


def rounded(value: float) -> str:
    """A measured time or speed: 0.045, 7.0, 402, 11,214; from 1 on no more than one digit behind the point."""
    if value < 1:
        return f"{value:.2g}"
    return f"{value:.1f}" if value < 99.95 else f"{value:,.0f}"


def duration(seconds: float) -> str:
    """A time in the unit that people use for it: 12 ms, 14 s, 7 min, 2.5 h."""
    if seconds < 0.1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def size(count: float) -> str:
    """Bytes for people, in powers of 1,000: 22.7 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
