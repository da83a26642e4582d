"""Findings: what the trials of a comparison say, arm by arm, as its page and its manifest take it.

Scores, their errors and differences are `verdicts`'; here are their costs, the rows that have a copy among the training rows,
and the rows that were wrong with the greatest confidence.
"""

from typing import Any

import numpy as np

from embedkit import verdicts
from embedkit.arms import HIDDEN, Bench, Trial, described, measures
from embedkit.datasets import fetch
from embedkit.index import unit_length
from embedkit.leaks import with_lineage
from embedkit.lessons import Lesson
from embedkit.review import thumbnail
from embedkit.tasks import MAIN, Task
from embedkit.verdicts import ALL, Judge

MISTAKES = 12
"""Rows that a report shows."""


def judged(
    bench: Bench,
    whole: Lesson,
    lessons: dict[tuple[str, int], Lesson],
    trials: dict[tuple[str, str], list[Trial]],
    arms: dict[str, str | None],
    settings: Any,
) -> dict[str, Any]:
    """All that the trials say, as `pages.write_report` takes it.

    Args:
        bench: what the arms shared.
        whole: the labelled rows, with the test rows.
        lessons: which rows trained and stopped, by budget and seed.
        trials: by arm and budget, a seed after the other.
        arms: all that were asked for, and of those that couldn't run why.
        settings: those of `compare`.
    """
    task, kind, test = bench.task, bench.dataset.manifest.kind, whole.test
    judge, known = Judge(task, test), described(kind)
    clean = whole.copies.clean
    parts = {key: judge.parts(found) for key, found in trials.items()}
    ran = [arm for arm, reason in arms.items() if reason is None]
    copies = whole.copies
    leading = Judge(task, test[copies.leading]) if copies.count else judge  # by whom is decided
    led = {key: each[:, copies.leading] if copies.count else each for key, each in parts.items()}
    top = max((arm for arm in ran if not known[arm].control), key=lambda arm: _mean(leading, led[arm, ALL]), default="guess")
    scores: dict[str, Any] = {}
    for arm, reason in arms.items():
        scores[arm] = {"name": arm, "title": known[arm].title, "what": known[arm].what, "skipped": reason}
        if reason is None:
            curve = {
                budget: judge.score(parts[arm, budget]) | {"labels": _labels(lessons[budget, settings.seed])}
                for budget in dict.fromkeys(budget for budget, _ in lessons)
                if (arm, budget) in parts
            }
            scores[arm] |= {"scores": curve, "value": curve[ALL]["value"]}
            scores[arm] |= {"difference": judge.difference(parts[arm, ALL], parts[top, ALL])}
            scores[arm] |= {"clean": _clean(judge, parts[arm, ALL], clean)}
            scores[arm] |= _costs(trials[arm, ALL], settings.predictions)
            others = measures(task, test, trials[arm, ALL][0].predicted)
            scores[arm]["others"] = {name: others[name].value for name in ("log_loss", "ece", "mae", "r2") if name in others}
            if copies.count and not copies.say_nothing:
                scores[arm]["without_copies"] = leading.score(led[arm, ALL])
    guess = {arm: leading.difference(led[arm, ALL], led["guess", ALL]) for arm in ran}
    able = {arm: scores[arm] | _lead(leading, led[arm, ALL], led[top, ALL]) for arm in ran}
    found = verdicts.decide(able, known, guess)
    words = verdicts.sentence(found, able, known, task, guess[top], settings.predictions)
    words = copies.verdict(" ".join([words, *_asides(leading, led, found["recommended"])]))
    if copies.say_nothing:
        found = {"best": None, "recommended": None, "near": []}
    chosen = found["recommended"] or top
    return {
        "kind": kind,
        "task": task.kind,
        "measure": MAIN[task.kind],
        "more_is_better": task.kind != "number",
        "rows": {"train": len(whole.train), "validation": len(whole.validation), "test": len(test)},
        "seeds": settings.seeds,
        "verdict": with_lineage(words, bench.encoder, bench.dataset),
        "recommended": found["recommended"],
        "best": found["best"],
        "command": verdicts.command(found["recommended"], str(bench.dataset), str(bench.encoder), HIDDEN[0]),
        "arms": list(scores.values()),
        "budget_unit": "labels per class" if task.kind == "class" else "labels",
        "predictions": settings.predictions,
        "duplicates": {
            "exact": copies.count - int(copies.near.sum()),
            "near": int(copies.near.sum()),
            "alike": _alike(bench, whole, settings.near_duplicate),
            "bound": settings.near_duplicate,
            "test": len(test),
        },
        "confusion": _confusion(task, test, trials[chosen, ALL][0].predicted, chosen),
        "mistakes": _mistakes(bench, whole, trials[chosen, ALL][0].predicted),
        "layers": None,
        "notes": whole.notes + _notes(able, lessons, settings),
    }


def _mean(judge: Judge, parts: np.ndarray) -> float:
    return judge.sign * float(judge.each(parts).mean())


def _lead(judge: Judge, parts: np.ndarray, top: np.ndarray) -> dict[str, Any]:
    """What is decided by: the score of the rows that are judged, and how far it is from the best."""
    return {"value": float(judge.each(parts).mean()), "difference": judge.difference(parts, top)}


def _labels(lesson: Lesson) -> int:
    return len(lesson.train) + len(lesson.validation)


def _clean(judge: Judge, parts: np.ndarray, clean: np.ndarray) -> dict[str, Any] | None:
    """The score of the test rows that have no copy among the labelled ones; None where all or none have."""
    if clean.all() or not clean.any():
        return None
    found = Judge(judge.task, judge.test[clean]).score(parts[:, clean])
    return {"value": found["value"], "error": found["rows_error"], "rows": int(clean.sum())}


def _costs(trials: list[Trial], predictions: int) -> dict[str, Any]:
    seconds = float(np.mean([trial.seconds for trial in trials]))
    per_row = float(np.mean([trial.per_row for trial in trials]))
    return {
        "seconds_to_train": seconds,
        "seconds_per_1000": 1000 * per_row,
        "cost_seconds": seconds + per_row * predictions,
        "peak_memory_bytes": max(trial.peak for trial in trials),
        "bytes": trials[0].bytes,
        "rows_seen": trials[0].rows_seen,
    }


def _asides(judge: Judge, parts: dict[tuple[str, str], np.ndarray], chosen: str | None) -> list[str]:
    """What a verdict would be misread without."""
    if chosen in (None, "raw") or ("random", ALL) not in parts:
        return []
    gain = judge.difference(parts[chosen, ALL], parts["random", ALL])
    useless = gain["value"] <= gain["error"]
    return ["A random encoder does as well: what this encoder has learned is of no use here."] if useless else []


def _notes(scores: dict[str, Any], lessons: dict[tuple[str, int], Lesson], settings: Any) -> list[str]:
    notes = ["the arm was chosen by these test rows, so its own score flatters it by up to about a standard error"]
    rows = len(lessons[ALL, settings.seed].train)
    short = [one["title"] for one in scores.values() if one["rows_seen"] is not None and one["rows_seen"] < 3 * rows]
    if short:
        seen = min(one["rows_seen"] for one in scores.values() if one["rows_seen"] is not None)
        why, more = f"that is what fits {settings.minutes:g} minutes", "minutes"
        if settings.rows_a_run:
            why, more = f"a run is shown {settings.rows_a_run:,} rows", "rows_a_run"
        times = f"{', '.join(short)} saw the {rows:,} training rows {seen / rows:.1f} times"
        notes.append(f"{times}, since {why}; more may help them: raise {more}")
    return notes


def _alike(bench: Bench, whole: Lesson, bound: float) -> int | None:
    """Test rows that are no copies, but look like a training row to the encoder; None for tables, whose columns don't compare."""
    if bench.dataset.manifest.kind == "table":
        return None
    pool = np.concatenate([whole.train, whole.validation])
    ours, theirs = (unit_length(bench.vectors[rows]) for rows in (whole.test, pool))
    near = np.concatenate([(ours[at : at + 256] @ theirs.T).max(axis=1) for at in range(0, len(ours), 256)]) >= bound
    return int((near & whole.copies.clean).sum())


def _confusion(task: Task, test: np.ndarray, predicted: np.ndarray, arm: str) -> dict[str, Any] | None:
    if task.kind != "class":
        return None
    counts = np.zeros((task.outputs, task.outputs), int)
    np.add.at(counts, (task.truth(test), predicted.argmax(axis=1)), 1)
    return {"arm": arm, "classes": task.classes, "counts": counts.tolist()}


def _mistakes(bench: Bench, whole: Lesson, predicted: np.ndarray) -> list[dict[str, Any]]:
    """The test rows that were wrong with the greatest confidence, with their contents."""
    task, test = bench.task, whole.test
    truth, table = task.truth(test), task.table(test, predicted)
    if task.kind == "number":
        wrong, sure = np.ones(len(test), bool), np.abs(predicted - truth)
    elif task.kind == "class":
        wrong, sure = predicted.argmax(axis=1) != truth, predicted.max(axis=1)
    else:
        off = np.abs(predicted - np.asarray(truth, float))
        wrong, sure = (off >= 0.5).any(axis=1), off.max(axis=1)
    ranked = np.argsort(-sure, kind="stable")
    order = ranked[np.asarray(wrong)[ranked]][:MISTAKES].tolist()
    contents = fetch(bench.dataset, [int(whole.ids[test[row]]) for row in order])
    return [
        _mistake(bench, whole, row, table, float(sure[row]), content or {}) for row, content in zip(order, contents, strict=True)
    ]


def _mistake(bench: Bench, whole: Lesson, row: int, table: dict[str, Any], sure: float, content: dict[str, Any]) -> dict[str, Any]:
    def said(value: Any) -> str:
        return ", ".join(value) or "none" if isinstance(value, list) else f"{value:.4g}" if isinstance(value, float) else str(value)

    found: dict[str, Any] = {"id": str(whole.ids[whole.test[row]])}
    found |= {name: said(table[name][row]) for name in ("label", "predicted")}
    found |= {"error" if bench.task.kind == "number" else "probability": sure}
    kind = bench.dataset.manifest.kind
    if kind == "texts":
        return found | {"text": content["text"]}
    if kind == "images":
        picture, small = thumbnail(content["image"])
        return found | {"picture": picture, "small": small, "path": content["path"]}
    return found | {"columns": [[name, str(value)] for name, value in content.items() if value is not None]}
