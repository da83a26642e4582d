"""Verdicts: from the trials of a comparison to what should be done, with its reason. Arrays in, plain JSON out.

Every arm was measured on the same test rows at the same seeds, so differences are paired by split and by row. Their standard
error has both parts: the spread over seeds, and that over resampled test rows (Efron 1979). The arm that is recommended is
the cheapest within one standard error of the best (Breiman et al. 1984), of about equally cheap ones the simplest, so that the
same call recommends the same whatever its clock said; none is where the best doesn't beat guessing.
"""

import shlex
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from embedkit.arms import Arm, Trial, measure_of, parts_of
from embedkit.metrics import RESAMPLES
from embedkit.tasks import MAIN, Task

FALSE_ALARMS = 0.05
"""Chance that any of the arms seems to beat guessing where none does (Bonferroni)."""
SAME_COST = 1.5
"""Costs of up to so many times the least are as low: they were measured once, on a machine that may do other things. Which of them
is taken is then decided by the order of `described`, in which costs rise: so the clock decides only where it is clear."""
ALL = "all"


@dataclass
class Judge:
    """Scores of trials and their errors, for one set of test rows.

    Args:
        task: what is predicted.
        test: (rows,) places of the test rows.
    """

    task: Task
    test: np.ndarray

    def __post_init__(self) -> None:
        random, rows = np.random.default_rng(0), len(self.test)
        drawn = (np.bincount(random.integers(0, rows, rows), minlength=rows) for _ in range(RESAMPLES))
        self.counts = np.stack(list(drawn)).astype(np.float64)  # (resamples, rows)
        self.sign = -1.0 if self.task.kind == "number" else 1.0

    def parts(self, trials: list[Trial]) -> np.ndarray:
        """What the measure is made of: (seeds, rows, 2)."""
        return np.stack([parts_of(self.task, self.test, trial.predicted) for trial in trials])

    def each(self, parts: np.ndarray, chosen: np.ndarray | None = None) -> np.ndarray:
        """The measure of each seed, of all rows or of those chosen; (seeds,)."""
        return measure_of(self.task, (parts if chosen is None else parts[:, chosen]).sum(axis=1))

    def resampled(self, parts: np.ndarray) -> np.ndarray:
        """The measure, mean over the seeds, of each resample of the rows; (resamples,)."""
        return measure_of(self.task, np.einsum("rn,snk->srk", self.counts, parts)).mean(axis=0)

    def score(self, parts: np.ndarray) -> dict[str, Any]:
        """A mean over the seeds with both errors."""
        each = self.each(parts)
        return {
            "value": float(each.mean()),
            "seeds_error": float(each.std(ddof=1) / np.sqrt(len(each))) if len(each) > 1 else None,
            "rows_error": float(self.resampled(parts).std(ddof=1)),
            "each": each.tolist(),
        }

    def difference(self, ours: np.ndarray, theirs: np.ndarray) -> dict[str, float]:
        """How much better ours are, positive where they are, paired by seed and by row, with its standard error."""
        each = self.sign * (self.each(ours) - self.each(theirs))
        seeds = each.std(ddof=1) / np.sqrt(len(each)) if len(each) > 1 else 0.0
        rows = (self.resampled(ours) - self.resampled(theirs)).std(ddof=1)
        return {"value": float(each.mean()), "error": float(np.hypot(seeds, rows))}


def decide(scores: dict[str, dict[str, Any]], arms: dict[str, Arm], against_guess: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Which arm is recommended, which is best, and whether it beats guessing.

    Args:
        scores: by arm, of those that ran with all labels: `value`, `cost_seconds`, and `difference` to the best.
        arms: what each is, the simplest first.
        against_guess: each arm's gain on guessing.
    """
    able = [name for name in scores if not arms[name].control]
    best = min(able, key=lambda name: -scores[name]["difference"]["value"]) if able else None
    if best is None or not beats(against_guess[best], len(able)):
        return {"best": best, "recommended": None, "near": []}
    near = [name for name in able if scores[name]["difference"]["value"] >= -scores[name]["difference"]["error"]]
    near = [*dict.fromkeys([*near, best])]
    least = min(scores[name]["cost_seconds"] for name in near)
    cheap = {name for name in near if scores[name]["cost_seconds"] <= SAME_COST * least}
    return {"best": best, "recommended": next(name for name in arms if name in cheap), "near": near}


def beats(gain: dict[str, float], arms: int) -> bool:
    """Whether a gain is clear where the best of so many arms is looked at."""
    return gain["value"] > NormalDist().inv_cdf(1 - FALSE_ALARMS / (2 * max(1, arms))) * gain["error"]


def sentence(
    found: dict[str, Any], scores: dict[str, Any], arms: dict[str, Arm], task: Task, guess: dict[str, float], predictions: int
) -> str:
    """The verdict in words, with its reason.

    Args:
        found: as `decide` gives it.
        scores: by arm.
        arms: what each is.
        task: what is predicted.
        guess: the best arm's gain on guessing.
        predictions: rows that the cost counts beside training.
    """
    measure = MAIN[task.kind].replace("_", " ")
    best, chosen = found["best"], found["recommended"]

    def said(name: str) -> str:
        return shown(task, scores[name]["value"])

    if best is None:
        return "No arm could learn from these rows."
    if chosen is None:
        gain = points(task, guess["value"], guess["error"])
        return (
            f"Nothing beats guessing: the best arm, {arms[best].title}, has {measure} {said(best)}, which is {gain} better than "
            "guessing, no more than chance does among so many arms. Look at the labels, or get more of them."
        )
    costs = {name: f"{scores[name]['cost_seconds']:,.0f} s" for name in (best, chosen)}
    kept = f"to train and to predict {predictions:,} rows"
    if chosen == best:
        others = [name for name in scores if name != best and not arms[name].control]
        if not others:
            return f"{arms[best].title}: {measure} {said(best)}, the only arm there is, and better than guessing."
        second = max(others, key=lambda name: scores[name]["difference"]["value"])
        gap = scores[second]["difference"]
        cheaper = [name for name in found["near"] if name != best]
        why = (
            "it is the best, and none within one standard error of it is clearly cheaper"
            if cheaper
            else (
                f"no other arm comes within one standard error; the next, {arms[second].title}, is "
                f"{points(task, -gap['value'], gap['error'])} behind"
            )
        )
        return f"{_upper(arms[best].title)} is worth its cost: {measure} {said(best)}; {why}. It takes {costs[best]} {kept}."
    gap = scores[chosen]["difference"]
    return (
        f"{_upper(arms[chosen].title)} is enough: {measure} {said(chosen)}, within one standard error of the best, "
        f"{arms[best].title} ({said(best)}; {points(task, -gap['value'], gap['error'])} more). Of the {len(found['near'])} arms "
        f"that are, none is clearly cheaper: {costs[chosen]} {kept}, where {arms[best].title} takes {costs[best]}."
    )


def shown(task: Task, value: float) -> str:
    """A score for people."""
    return f"{value:.4g}" if task.kind == "number" else f"{100 * value:.1f} %"


def points(task: Task, value: float, error: float) -> str:
    """A difference with its standard error, for people."""
    return f"{value:.3g} ± {error:.2g}" if task.kind == "number" else f"{100 * value:.1f} ± {100 * error:.1f} points"


def _upper(words: str) -> str:
    return words[:1].upper() + words[1:]


def command(arm: str | None, dataset: str, encoder: str, hidden: int) -> str | None:
    """How the recommended arm is had, as a command; None where embedkit has none."""
    data, network = shlex.quote(dataset), shlex.quote(encoder)
    vectors = f"$(embedkit embed {data} {network})"
    known = {
        "knn": f"embedkit build-index {vectors}",
        "linear": f"embedkit train-head {vectors}",
        "mlp": f"embedkit train-head {vectors} --hidden {hidden}",
    }
    recipes = {"scratch": "scratch", "adapter": "adapter", "full": "full", "lp_ft": "lp-ft"}
    known |= {name: f"embedkit fine-tune {data} {network} --recipe {recipe}" for name, recipe in recipes.items()}
    return known.get(arm or "")
