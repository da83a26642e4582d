"""Rebalancing: how often rows come, what is learned from them, and what is decided afterwards."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, f1_score

from embedkit import metrics, rebalancing
from embedkit.batches import Rows
from embedkit.rebalancing import choose_decision, choose_thresholds, corrected_bias, decide, draw, interpolate, targets

COUNTS = np.array([900, 30, 0, 100])
LABELS = np.repeat(np.arange(4), COUNTS)


# How often rows come


@pytest.mark.parametrize(
    ("chain", "expected"),
    [
        ((), [900, 30, 0, 100]),
        (("weights",), [900, 30, 0, 100]),
        (("undersample",), [30, 30, 0, 30]),
        (("oversample",), [900, 900, 0, 900]),
        (("interpolate",), [900, 900, 0, 900]),
        (("interpolate", "oversample"), [900, 900, 0, 900]),
        (("oversample", "undersample"), [164, 164, 0, 164]),  # the root of 900 x 30
        (("undersample", "interpolate", "weights"), [164, 164, 0, 164]),
    ],
)
def test_methods_bring_classes_to_the_largest_the_smallest_or_their_geometric_mean(chain, expected):
    assert targets(COUNTS, chain).tolist() == expected


def test_new_rows_are_made_up_to_the_target_and_before_oversampling_five_for_each_real_one():
    assert rebalancing.interpolated(COUNTS, ("interpolate",)).tolist() == [900, 900, 0, 900]
    assert rebalancing.interpolated(COUNTS, ("oversample", "interpolate")).tolist() == [900, 180, 0, 600]
    assert rebalancing.interpolated(COUNTS, ("undersample", "interpolate")).tolist() == [900, 164, 0, 164]
    assert rebalancing.interpolated(COUNTS, ("oversample",)).tolist() == COUNTS.tolist()


def test_what_is_seen_has_the_prior_of_the_drawn_rows_or_with_weights_an_even_one():
    assert rebalancing.seen_prior(COUNTS, ()) == pytest.approx(COUNTS / 1030)
    for chain in (("weights",), ("undersample",), ("oversample",)):
        assert rebalancing.seen_prior(COUNTS, chain) == pytest.approx([1 / 3, 1 / 3, 0, 1 / 3])


def test_an_epoch_holds_each_class_as_often_as_its_goal():
    for chain in (("undersample",), ("oversample",), ("undersample", "oversample")):
        goal = targets(COUNTS, chain)
        rows = draw(LABELS, goal, seed=3, epoch=2)
        assert rows.dtype == np.int64
        assert np.bincount(LABELS[rows], minlength=4).tolist() == goal.tolist()


def test_an_oversampled_row_comes_as_often_as_any_other_of_its_class_or_once_more():
    times = np.bincount(draw(LABELS, np.array([900, 164, 0, 250]), seed=0, epoch=0), minlength=len(LABELS))
    assert set(times[LABELS == 0]) == {1}
    assert set(times[LABELS == 1]) == {5, 6} and (times[LABELS == 1] == 6).sum() == 164 - 5 * 30
    assert set(times[LABELS == 3]) == {2, 3} and (times[LABELS == 3] == 3).sum() == 50


def test_which_rows_come_once_more_or_are_left_out_is_drawn_anew_each_epoch():
    goal = np.array([90, 45, 0, 100])
    first, second = (draw(LABELS, goal, seed=0, epoch=epoch) for epoch in (0, 1))
    assert set(first[LABELS[first] == 0]).isdisjoint(second[LABELS[second] == 0])
    times = [np.bincount(rows, minlength=len(LABELS))[LABELS == 1] for rows in (first, second)]
    assert not np.array_equal(*times)


def test_undersampling_sees_every_row_before_any_comes_again():
    drawn = [draw(LABELS, np.array([30, 30, 0, 30]), seed=1, epoch=epoch) for epoch in range(60)]
    frequent = [rows[LABELS[rows] == 0] for rows in drawn]
    assert sorted(np.concatenate(frequent[:30])) == sorted(np.concatenate(frequent[30:])) == list(range(900))
    assert set(frequent[0]) != set(frequent[30])


def test_an_epoch_is_a_function_of_seed_and_number():
    goal = targets(COUNTS, ("undersample", "oversample"))
    assert np.array_equal(draw(LABELS, goal, 1, 5), draw(LABELS, goal, 1, 5))
    assert not np.array_equal(draw(LABELS, goal, 1, 5), draw(LABELS, goal, 2, 5))


def test_rows_are_shuffled_and_without_rebalancing_come_in_the_order_they_have_anyway():
    mixed = np.random.default_rng(0).permutation(LABELS)
    assert np.array_equal(draw(mixed, COUNTS, seed=4, epoch=7), Rows.of(mixed, mixed).epoch(4, 7))
    few = draw(LABELS, np.array([30, 30, 0, 30]), seed=0, epoch=0)
    assert 0.2 < (np.diff(LABELS[few]) == 0).mean() < 0.5  # neighbours are of one class by chance only: a third


def test_weights_let_all_classes_count_the_same_and_are_1_in_the_mean():
    weights = rebalancing.weights(LABELS, COUNTS)
    assert weights.dtype == np.float32
    assert weights.mean() == pytest.approx(1, rel=1e-6)
    assert [weights[LABELS == label].sum() for label in (0, 1, 3)] == pytest.approx([1030 / 3] * 3, rel=1e-5)
    goal = np.array([300, 60, 0, 100])
    drawn = rebalancing.weights(LABELS, goal)[draw(LABELS, goal, 0, 0)]
    assert drawn.mean() == pytest.approx(1, rel=1e-6)


# New rows


def clusters():
    """Three classes of 40, 6 and 1 rows around different points."""
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(3, dtype=np.int32), [40, 6, 1])
    return (random.normal(0, 1, (47, 4)) + 10 * labels[:, None]).astype(np.float32), labels


def test_new_rows_lie_between_two_rows_of_their_class():
    vectors, labels = clusters()
    new, named = interpolate(vectors, labels, np.array([40, 40, 0]), seed=0)
    assert (new.dtype, named.dtype, new.shape, set(named)) == (np.float32, np.int32, (34, 4), {1})
    real = vectors[labels == 1].astype(np.float64)
    for row in new:
        start, end = real[:, None] - row, real[None] - row
        # Between two points: the ways to them are opposite, so that their lengths add up to the distance of the points.
        detour = np.linalg.norm(start, axis=2) + np.linalg.norm(end, axis=2) - np.linalg.norm(real[:, None] - real[None], axis=2)
        np.fill_diagonal(detour, np.inf)
        assert detour.min() < 1e-5
    assert len(np.unique(new, axis=0)) == 34


def test_new_rows_go_to_near_neighbours_only():
    vectors = np.array([[0], [1], [100], [101], [200], [201]], np.float32)
    new, _ = interpolate(vectors, np.zeros(6, int), np.array([300]), seed=0, neighbours=1)
    assert (new % 100).max() <= 1
    assert set((new // 100).ravel()) == {0, 1, 2}


def test_every_row_is_the_start_of_equally_many_new_ones():
    corners = 100 * np.eye(6, dtype=np.float32)  # equally far: what a row keeps of a corner is its distance from it
    labels = np.zeros(6, int)
    starts, goal = np.zeros(6, int), np.array([6 + 3 * 6 + 2])
    new, _ = interpolate(corners, labels, goal, seed=1)
    first = np.repeat(np.arange(6), 3)
    assert (new[np.arange(18), first] > 0).all()  # sorted by start, the rest after them
    for row in new[18:]:
        starts[row > 0] += 1
    assert len(new) == 20 and starts.sum() == 4


def test_a_class_of_one_row_is_repeated_and_one_of_two_has_one_neighbour():
    vectors, labels = clusters()
    new, named = interpolate(vectors, labels, np.array([0, 0, 3]), seed=0)
    assert named.tolist() == [2, 2] and (new == vectors[46]).all()
    between, _ = interpolate(np.array([[0.0], [1.0]], np.float32), np.array([0, 0]), np.array([50]), seed=0)
    assert ((0 <= between) & (between <= 1)).all() and between.std() > 0.2


def test_equal_rows_are_neighbours_too():
    new, _ = interpolate(np.ones((4, 3), np.float32), np.zeros(4, int), np.array([9]), seed=0)
    assert (new == 1).all() and len(new) == 5


def test_new_rows_are_a_function_of_the_seed():
    vectors, labels = clusters()
    goal = np.array([50, 40, 5])
    first, same, other = (interpolate(vectors, labels, goal, seed)[0] for seed in (1, 1, 2))
    assert np.array_equal(first, same) and not np.array_equal(first, other)


def test_where_enough_rows_are_none_is_made():
    vectors, labels = clusters()
    new, named = interpolate(vectors, labels, np.array([40, 5, 1]), seed=0)
    assert new.shape == (0, 4) and named.shape == (0,)


# Probabilities and decisions


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def test_corrected_probabilities_are_those_of_bayes_rule():
    random = np.random.default_rng(0)
    learned, true = np.array([1 / 3, 1 / 3, 1 / 3]), np.array([0.9, 0.08, 0.02])
    likelihood = random.random((50, 3))
    before, after = (likelihood * prior / (likelihood * prior).sum(axis=1, keepdims=True) for prior in (learned, true))
    assert softmax(corrected_bias(np.log(before), learned, true)) == pytest.approx(after, abs=1e-12)


def test_the_bias_of_a_class_that_nobody_saw_stays():
    found = corrected_bias(np.array([1.0, 2.0, -9.0]), np.array([0.5, 0.5, 0]), np.array([0.9, 0.1, 0]))
    assert found == pytest.approx([1 + np.log(1.8), 2 + np.log(0.2), -9])


def test_the_chosen_weights_are_those_of_the_balanced_decision_when_probabilities_hold():
    random = np.random.default_rng(0)
    labels = (random.random(40_000) < 0.05).astype(int)
    logits = np.log(0.05 / 0.95) + 2 * (random.normal(2.0 * labels, 1) - 1)  # two Gaussians, by Bayes' rule
    chance = 1 / (1 + np.exp(-logits))
    probabilities = np.stack([1 - chance, chance], axis=1)
    weights = choose_decision(labels, probabilities, "balanced_accuracy")
    assert weights[0] == 1 and np.log(weights[1]) == pytest.approx(np.log(19), abs=0.4)  # t = 1
    plain = choose_decision(labels, probabilities, "accuracy")
    assert metrics.mean(labels == decide(probabilities, plain)).value >= metrics.mean(labels == (chance > 0.5)).value
    assert abs(np.log(plain[1])) < 0.6  # t = 0


@pytest.mark.parametrize("measure", ["accuracy", "balanced_accuracy", "macro_f1"])
def test_of_decisions_that_score_the_same_the_most_probable_class_is_taken(measure):
    labels, probabilities = np.array([0, 0, 0, 1]), np.array([[0.9, 0.1], [0.8, 0.2], [0.9, 0.1], [0.1, 0.9]])
    assert choose_decision(labels, probabilities, measure).tolist() == [1, 1]


def test_even_classes_still_get_the_thresholds_that_matter():
    labels = np.array([0] * 51 + [1] * 49)
    chance = np.where(labels == 1, 0.09, 0.07)  # all far too low: the threshold must be at 0.08
    probabilities = np.stack([1 - chance, chance], axis=1)
    weights = choose_decision(labels, probabilities, "macro_f1")
    assert np.array_equal(decide(probabilities, weights), labels)


def test_classes_as_frequent_as_each_other_have_no_weights_to_choose():
    labels = np.array([0, 1])
    assert choose_decision(labels, np.array([[0.9, 0.1], [0.8, 0.2]]), "accuracy").tolist() == [1, 1]


def test_a_class_without_validation_rows_has_a_finite_weight():
    labels, probabilities = np.array([0, 0, 0, 1]), np.array([[0.6, 0.3, 0.1]] * 3 + [[0.5, 0.4, 0.1]])
    weights = choose_decision(labels, probabilities, "balanced_accuracy")
    assert np.isfinite(weights).all()
    assert decide(probabilities, weights).tolist() == [0, 0, 0, 1]


def gaussians(rows, seed):
    """Two classes, 95 and 5 of 100, in two columns; no straight line is the right border."""
    random = np.random.default_rng(seed)
    labels = (random.random(rows) < 0.05).astype(int)
    return random.normal(0, 1, (rows, 2)) * np.where(labels, 1.3, 1)[:, None] + 1.3 * labels[:, None], labels


@pytest.mark.parametrize("chain", [("weights",), ("oversample",), ("undersample", "oversample"), ("interpolate",)])
def test_rebalanced_corrected_and_well_decided_finds_the_rare_class_at_no_cost_of_the_probabilities(chain):
    (inputs, labels), (held, truth), (unseen, expected) = (gaussians(rows, seed) for seed, rows in enumerate((4000, 4000, 20_000)))
    plain = LogisticRegression().fit(inputs, labels)
    counts = np.bincount(labels)
    new = interpolate(inputs.astype(np.float32), labels, rebalancing.interpolated(counts, chain), seed=0)
    rows, named = np.concatenate([inputs, new[0]]), np.concatenate([labels, new[1]])
    goal = targets(counts, chain)
    drawn = draw(named, goal, seed=0, epoch=0)
    counted = rebalancing.weights(named, goal)[drawn] if "weights" in chain else None
    model = LogisticRegression().fit(rows[drawn], named[drawn], counted)

    def probabilities(inputs, corrected=True):
        logits = np.c_[np.zeros(len(inputs)), model.decision_function(inputs)]
        seen = rebalancing.seen_prior(counts, chain)
        return softmax(corrected_bias(logits, seen, counts / counts.sum()) if corrected else logits)

    weights = choose_decision(truth, probabilities(held), "balanced_accuracy")
    decided = decide(probabilities(unseen), weights)
    gain = balanced_accuracy_score(expected, decided) - balanced_accuracy_score(expected, plain.predict(unseen))
    assert gain > 0.1
    losses = [metrics.log_loss(expected, found).mean() for found in (plain.predict_proba(unseen), probabilities(unseen))]
    assert losses[1] < losses[0] + 0.003
    assert metrics.log_loss(expected, probabilities(unseen, corrected=False)).mean() > 2 * losses[0]


# Thresholds


def test_a_threshold_has_the_best_f1_that_any_has():
    random = np.random.default_rng(0)
    truth = random.random((200, 3)) < [0.5, 0.2, 0.1]
    probabilities = np.round(0.3 * truth + 0.4 * random.random((200, 3)), 2).astype(np.float32)
    found = choose_thresholds(truth, probabilities)
    best = [max(f1_score(truth[:, k], probabilities[:, k] >= t) for t in np.unique(probabilities[:, k])) for k in range(3)]
    assert metrics.f1(truth, probabilities >= found) == pytest.approx(best)
    assert np.array_equal(found, choose_thresholds(truth, probabilities))


def test_a_threshold_lies_midway_and_of_equally_good_ones_nearest_to_a_half():
    truth = np.array([True] * 5 + [False] * 5)[:, None]
    assert choose_thresholds(truth, np.where(truth, 0.375, 0.125)) == pytest.approx([0.25])
    assert choose_thresholds(truth, np.where(truth, 0.875, 0.625)) == pytest.approx([0.75])
    assert choose_thresholds(truth, np.where(truth, 0.8, 0.1)).tolist() == [0.5]
    truth = np.array([True] * 6 + [False] * 6)[:, None]
    probabilities = np.array([0.4] * 3 + [0.2] * 9)[:, None]  # three found at no cost, or six with six false: F1 of 2/3 each
    assert choose_thresholds(truth, probabilities) == pytest.approx([0.3])


def test_few_positives_or_negatives_get_no_threshold_of_their_own():
    truth = np.zeros((20, 3), bool)
    truth[:4, 0], truth[:16, 1], truth[:5, 2] = True, True, True
    assert choose_thresholds(truth, np.where(truth, 0.375, 0.125)) == pytest.approx([0.5, 0.5, 0.25])
