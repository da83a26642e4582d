"""Verdicts: from scores, their errors and their costs to what should be done, with numbers that can be checked by hand."""

import re

import numpy as np
import pytest

from embedkit.arms import Trial, described
from embedkit.findings import _asides
from embedkit.tasks import Task
from embedkit.verdicts import Judge, beats, command, decide, sentence, shown

ARMS = described("texts")
CLASS = Task("class", ["a", "b"], np.array([0, 1] * 50, np.int32))
NUMBER = Task("number", [], np.zeros((4, 1)), numbers=np.array([1.0, 2.0, 3.0, 4.0]))
CLEAR = {"value": 0.4, "error": 0.01}


def scores(**arms):
    """Of each arm its score, its cost in seconds, and how far it is behind the best, with the error of that."""
    return {
        name: {"value": value, "cost_seconds": cost, "difference": {"value": behind, "error": error}}
        for name, (value, cost, behind, error) in arms.items()
    }


def verdict(given, task=CLASS, guess=CLEAR, against=None):
    against = against or dict.fromkeys(given, guess)
    found = decide(given, ARMS, against)
    return found, sentence(found, given, ARMS, task, guess, 10_000)


# What is recommended ------------------------------------------------------------------------------------------------


def test_the_cheapest_arm_within_one_standard_error_of_the_best_is_enough():
    found, words = verdict(
        scores(
            guess=(0.5, 0, -0.46, 0.02),
            raw=(0.80, 1, -0.16, 0.02),
            linear=(0.95, 10, -0.010, 0.012),
            mlp=(0.955, 20, -0.005, 0.012),
            lp_ft=(0.96, 400, 0.0, 0.0),
        )
    )
    assert found == {"best": "lp_ft", "recommended": "linear", "near": ["linear", "mlp", "lp_ft"]}
    assert words == (
        "Frozen + linear is enough: accuracy 95.0 %, within one standard error of the best, LP-FT (96.0 %; 1.0 ± 1.2 points "
        "more). Of the 3 arms that are, none is clearly cheaper: 10 s to train and to predict 10,000 rows, where LP-FT takes 400 s."
    )


def test_just_more_than_one_standard_error_behind_is_not_near():
    given = scores(linear=(0.95, 10, -0.0121, 0.012), lp_ft=(0.96, 400, 0.0, 0.0))
    assert verdict(given)[0]["recommended"] == "lp_ft"
    given["linear"]["difference"]["value"] = -0.012
    assert verdict(given)[0]["recommended"] == "linear"


def test_the_best_itself_where_nothing_comes_near():
    found, words = verdict(scores(raw=(0.8, 1, -0.16, 0.02), linear=(0.9, 10, -0.06, 0.012), lp_ft=(0.96, 1400, 0.0, 0.0)))
    assert (found["recommended"], found["near"]) == ("lp_ft", ["lp_ft"])
    assert words == (
        "LP-FT is worth its cost: accuracy 96.0 %; no other arm comes within one standard error; the next, frozen + linear, is "
        "6.0 ± 1.2 points behind. It takes 1,400 s to train and to predict 10,000 rows."
    )


def test_the_best_where_it_is_also_the_cheapest_of_those_near():
    found, words = verdict(scores(linear=(0.96, 10, 0.0, 0.0), lp_ft=(0.955, 400, -0.005, 0.01)))
    assert (found["recommended"], found["near"]) == ("linear", ["linear", "lp_ft"])
    assert "it is the best, and none within one standard error of it is clearly cheaper. It takes 10 s" in words


def test_the_only_arm():
    _, words = verdict(scores(guess=(0.5, 0, -0.4, 0.1), linear=(0.9, 10, 0.0, 0.0)))
    assert words == "frozen + linear: accuracy 90.0 %, the only arm there is, and better than guessing."


def test_controls_are_never_recommended_however_good_and_cheap():
    found, words = verdict(scores(guess=(0.99, 0, 0.09, 0.01), random=(0.98, 1, 0.08, 0.01), linear=(0.9, 10, 0.0, 0.0)))
    assert (found["best"], found["recommended"], found["near"]) == ("linear", "linear", ["linear"])
    assert "random" not in words


def test_no_arm_at_all():
    found, words = verdict(scores(guess=(0.5, 0, 0.0, 0.0)))
    assert found == {"best": None, "recommended": None, "near": []}
    assert words == "No arm could learn from these rows."


def test_nothing_is_recommended_where_the_best_does_not_beat_guessing():
    guess = {"value": 0.03, "error": 0.02}
    found, words = verdict(scores(linear=(0.53, 10, 0.0, 0.0), mlp=(0.52, 12, -0.01, 0.02)), guess=guess)
    assert (found["best"], found["recommended"]) == ("linear", None)
    assert words == (
        "Nothing beats guessing: the best arm, frozen + linear, has accuracy 53.0 %, which is 3.0 ± 2.0 points better than "
        "guessing, no more than chance does among so many arms. Look at the labels, or get more of them."
    )


def test_only_the_best_arms_gain_on_guessing_counts():
    given = scores(linear=(0.53, 10, 0.0, 0.0), mlp=(0.52, 12, -0.01, 0.02))
    none, clear = {"value": 0.0, "error": 0.02}, {"value": 0.4, "error": 0.02}
    assert verdict(given, against={"linear": none, "mlp": clear})[0]["recommended"] is None
    assert verdict(given, against={"linear": clear, "mlp": none})[0]["recommended"] == "linear"


def test_of_arms_that_cost_about_the_same_the_simplest_is_recommended():
    near = {"linear": (0.90, 60, -0.014, 0.036), "mlp": (0.914, 50, 0.0, 0.0), "lp_ft": (0.91, 500, -0.004, 0.036)}
    assert verdict(scores(**near))[0]["recommended"] == "linear"
    assert verdict(scores(**near | {"linear": (0.90, 76, -0.014, 0.036)}))[0]["recommended"] == "mlp"


def test_the_clock_of_another_run_does_not_change_what_is_recommended():
    random = np.random.default_rng(0)
    costs = {"raw": 3, "knn": 64, "linear": 66, "mlp": 68, "adapter": 240, "full": 236, "lp_ft": 250}
    for dropped in range(len(costs)):
        names = list(costs)[dropped:]
        seen = set()
        for _ in range(100):
            noisy = {name: costs[name] * random.uniform(0.85, 1.15) for name in names}
            found, words = verdict(scores(**{name: (0.9, noisy[name], -0.001 * n, 0.01) for n, name in enumerate(names[::-1])}))
            seen.add((found["recommended"], re.sub(r"[\d,]+ s\b", "n s", words)))
        assert {name for name, _ in seen} == {names[0]} and len(seen) == 1


@pytest.mark.parametrize(("arms", "errors"), [(1, 1.960), (8, 2.734)])
def test_the_more_arms_the_more_a_gain_must_be(arms, errors):
    # 5 % in both tails among so many arms: the quantiles of 0.975 and of 1 - 0.05 / 16
    assert not beats({"value": errors - 0.005, "error": 1.0}, arms)
    assert beats({"value": errors + 0.005, "error": 1.0}, arms)
    assert not beats({"value": 0.0, "error": 0.0}, arms) and beats({"value": 0.1, "error": 0.0}, arms)


def test_of_root_mean_square_errors_less_is_better():
    # differences are of what is better already: positive where ours is
    found, words = verdict(scores(linear=(1.5, 10, -0.25, 0.1), lp_ft=(1.25, 400, 0.0, 0.0)), NUMBER)
    assert found["recommended"] == "lp_ft"
    assert "rmse 1.25;" in words and "frozen + linear, is 0.25 ± 0.1 behind" in words


@pytest.mark.parametrize(("task", "text"), [(CLASS, "12.3 %"), (NUMBER, "0.1234")])
def test_shares_are_shown_in_percent_and_numbers_in_their_unit(task, text):
    assert shown(task, 0.12344) == text


@pytest.mark.parametrize(
    ("arm", "words"),
    [
        ("linear", "embedkit train-head $(embedkit embed texts/a encoder/b)"),
        ("mlp", "embedkit train-head $(embedkit embed texts/a encoder/b) --hidden 256"),
        ("knn", "embedkit build-index $(embedkit embed texts/a encoder/b)"),
        ("lp_ft", "embedkit fine-tune texts/a encoder/b --recipe lp-ft"),
        ("scratch", "embedkit fine-tune texts/a encoder/b --recipe scratch"),
        ("raw", None),
        (None, None),
    ],
)
def test_the_recommended_arm_is_had_by_a_command(arm, words):
    assert command(arm, "texts/a", "encoder/b", 256) == words


# Scores and their errors --------------------------------------------------------------------------------------------


def judged(*right, rows=100):
    """A judge of so many rows, and the parts of one trial for each way of being right: (rows,) bool each."""
    judge = Judge(CLASS, np.arange(rows))
    truth = CLASS.targets[:rows]
    said = [np.eye(2)[np.where(each, truth, 1 - truth)] for each in right]
    return judge, judge.parts([Trial(one, 0.0, 0.0, 0) for one in said])


def test_a_score_is_the_mean_over_seeds_with_an_error_over_them_and_one_over_rows():
    first, second = np.arange(100) < 80, np.arange(100) < 90
    score = (judge_parts := judged(first, second))[0].score(judge_parts[1])
    assert score["each"] == pytest.approx([0.8, 0.9])
    assert score["value"] == pytest.approx(0.85)
    assert score["seeds_error"] == pytest.approx(0.05)  # deviations of 0.05, two seeds
    by_row = (first + second.astype(float)) / 2
    assert score["rows_error"] == pytest.approx(by_row.std(ddof=1) / 10, rel=0.15)


def test_one_seed_has_no_error_over_seeds():
    judge, parts = judged(np.arange(100) < 80)
    assert judge.score(parts)["seeds_error"] is None
    assert judge.difference(parts, parts) == {"value": 0.0, "error": 0.0}


def test_what_is_hard_for_both_cancels_out_of_a_difference():
    hard = np.arange(100) < 70
    ours, theirs = hard.copy(), hard.copy()
    ours[90], theirs[95] = True, True
    judge, parts = judged(ours, theirs)
    gain = judge.difference(parts[:1], parts[1:])
    assert gain["value"] == pytest.approx(0.0)
    assert gain["error"] == pytest.approx(np.sqrt(2) / 100, rel=0.25)  # two rows of a hundred differ
    assert gain["error"] < 0.5 * judge.score(parts[:1])["rows_error"]


def test_the_error_of_a_difference_has_the_seeds_in_it():
    judge, parts = judged(np.arange(100) < 80, np.arange(100) < 90, np.arange(100) < 70, np.arange(100) < 70)
    gain = judge.difference(parts[:2], parts[2:])
    assert gain["value"] == pytest.approx(0.15)
    assert gain["error"] >= 0.05  # gains of 0.1 and 0.2


def test_numbers_are_judged_by_the_root_of_the_mean_square_and_a_smaller_one_is_a_gain():
    judge = Judge(NUMBER, np.arange(4))
    close, far = (judge.parts([Trial(NUMBER.numbers + off, 0.0, 0.0, 0)]) for off in (0.5, [1.0, -1.0, 2.0, -2.0]))
    assert judge.score(close)["value"] == pytest.approx(0.5)
    assert judge.score(far)["value"] == pytest.approx(np.sqrt(2.5))
    assert judge.difference(close, far)["value"] == pytest.approx(np.sqrt(2.5) - 0.5)


def test_several_labels_are_judged_by_micro_f1():
    from sklearn.metrics import f1_score

    random = np.random.default_rng(0)
    truth, said = random.random((30, 3)) < 0.4, random.random((30, 3))
    task = Task("classes", list("abc"), truth.astype(np.float32))
    judge = Judge(task, np.arange(30))
    score = judge.score(judge.parts([Trial(said, 0.0, 0.0, 0)]))
    assert score["value"] == pytest.approx(f1_score(truth, said >= 0.5, average="micro"))


# Asides -------------------------------------------------------------------------------------------------------------


def asides(chosen, ours, random):
    judge, parts = judged(ours, random)
    return _asides(judge, {(chosen, "all"): parts[:1], ("random", "all"): parts[1:]}, chosen)


def test_a_random_encoder_that_does_as_well_is_told():
    words = ["A random encoder does as well: what this encoder has learned is of no use here."]
    assert asides("linear", np.arange(100) < 80, np.arange(100) < 80) == words
    assert asides("linear", np.arange(100) < 80, np.arange(100) < 90) == words
    assert asides("linear", np.arange(100) < 80, np.arange(100) < 40) == []


def test_a_random_encoder_says_nothing_of_what_needs_no_encoder():
    assert asides("raw", np.arange(100) < 80, np.arange(100) < 80) == []
    judge, parts = judged(np.arange(100) < 80)
    assert _asides(judge, {("linear", "all"): parts}, "linear") == []
    assert _asides(judge, {("linear", "all"): parts, ("random", "all"): parts}, None) == []
