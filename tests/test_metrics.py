"""Measures: checked by hand, and against scikit-learn where it has the same."""

import numpy as np
import pytest
from sklearn import metrics as theirs

from embedkit import metrics
from embedkit.artifacts import Metric


@pytest.fixture
def guesses():
    """200 rows of three classes, and probabilities that are right more often than not."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 200)
    scores = random.gamma(1.0, 1.0, (200, 3)) + 1.5 * np.eye(3)[labels]
    return labels, scores / scores.sum(axis=1, keepdims=True)


def test_a_mean_has_the_standard_error_of_a_mean():
    assert metrics.mean(np.array([1.0, 2.0, 3.0, 6.0])) == Metric(value=3.0, n=4, standard_error=np.sqrt(14 / 3) / 2)


def test_the_mean_of_one_number_has_no_standard_error():
    assert metrics.mean(np.array([5])) == Metric(value=5.0, n=1, standard_error=None)


def test_truth_values_are_averaged_as_shares():
    assert metrics.mean(np.array([True, True, False, True])).value == 0.75


def test_log_loss_is_minus_the_log_of_the_true_class():
    found = metrics.log_loss(np.array([0, 1]), np.array([[0.5, 0.5], [0.75, 0.25]]))
    assert found == pytest.approx([np.log(2), np.log(4)])


def test_log_loss_of_an_impossible_class_stays_finite():
    assert metrics.log_loss(np.array([0]), np.array([[0.0, 1.0]])) == pytest.approx([-np.log(1e-7)])


def test_brier_sums_over_classes_from_0_to_2():
    found = metrics.brier(np.array([0, 0, 0]), np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]))
    assert found.tolist() == [0.0, 2.0, 0.5]


def test_balanced_accuracy_counts_each_class_once():
    assert metrics.balanced_accuracy(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 0])) == pytest.approx((2 / 3 + 0) / 2)


def test_f1_is_the_harmonic_mean_and_0_for_a_label_that_never_occurs():
    truth = np.array([[1, 0, 0], [1, 0, 1], [0, 0, 1]], bool)
    predicted = np.array([[1, 0, 0], [0, 0, 1], [1, 0, 1]], bool)
    # label 0: one hit, one false, one missed; label 1: nothing anywhere; label 2: both found
    assert metrics.f1(truth, predicted).tolist() == [0.5, 0.0, 1.0]


def test_measures_of_one_class_agree_with_scikit_learn(guesses):
    labels, probabilities = guesses
    found, predicted = metrics.of_class(labels, probabilities), probabilities.argmax(axis=1)
    assert found["accuracy"].value == pytest.approx(theirs.accuracy_score(labels, predicted))
    assert found["balanced_accuracy"].value == pytest.approx(theirs.balanced_accuracy_score(labels, predicted))
    assert found["log_loss"].value == pytest.approx(theirs.log_loss(labels, probabilities))
    squared = [theirs.brier_score_loss(labels == k, probabilities[:, k]) for k in range(3)]
    assert found["brier"].value == pytest.approx(sum(squared))
    assert {metric.n for metric in found.values()} == {200}


def test_the_standard_error_of_an_accuracy_is_the_binomial_one(guesses):
    labels, probabilities = guesses
    accuracy = metrics.of_class(labels, probabilities)["accuracy"]
    assert accuracy.standard_error == pytest.approx(np.sqrt(accuracy.value * (1 - accuracy.value) / 199))


def test_measures_of_several_labels_agree_with_scikit_learn():
    random = np.random.default_rng(1)
    truth = random.random((150, 4)) < [0.5, 0.3, 0.2, 0.1]
    probabilities = np.clip(0.6 * truth + 0.4 * random.random((150, 4)), 0.01, 0.99)
    probabilities[::3] = 1 - probabilities[::3]
    found, predicted = metrics.of_classes(truth, probabilities), probabilities >= 0.5
    assert found["micro_f1"].value == pytest.approx(theirs.f1_score(truth, predicted, average="micro"))
    assert found["macro_f1"].value == pytest.approx(theirs.f1_score(truth, predicted, average="macro"))
    assert found["exact_match"].value == pytest.approx(theirs.accuracy_score(truth, predicted))
    each = [theirs.log_loss(truth[:, k], probabilities[:, k]) for k in range(4)]
    assert found["log_loss"].value == pytest.approx(np.mean(each))


def test_the_threshold_of_several_labels_is_a_parameter():
    truth, probabilities = np.array([[True], [False]]), np.array([[0.4], [0.2]])
    assert metrics.of_classes(truth, probabilities)["exact_match"].value == 0.5
    assert metrics.of_classes(truth, probabilities, threshold=0.3)["exact_match"].value == 1.0


def test_certain_and_wrong_labels_have_a_finite_log_loss():
    found = metrics.of_classes(np.array([[True], [False]]), np.array([[0.0], [1.0]]))
    assert found["log_loss"].value == pytest.approx(-np.log(1e-7))


def test_a_threshold_of_each_label_is_allowed_too():
    truth, probabilities = np.array([[True, False], [False, True]]), np.array([[0.4, 0.6], [0.2, 0.9]])
    assert metrics.of_classes(truth, probabilities)["exact_match"].value == 0.5
    assert metrics.of_classes(truth, probabilities, threshold=np.array([0.3, 0.7]))["exact_match"].value == 1.0


def test_brier_and_calibration_of_several_labels_are_means_over_the_labels():
    found = metrics.of_classes(np.array([[True, False], [True, False]]), np.array([[0.9, 0.4], [0.7, 0.0]]))
    assert found["brier"].value == pytest.approx((0.01 + 0.16 + 0.09 + 0) / 4)
    # bins of 0.9, 0.7, 0.4 and 0.0: each holds one probability of the four
    assert found["ece"].value == pytest.approx((0.1 + 0.3 + 0.4 + 0) / 4)


def test_macro_f1_is_that_of_scikit_learn_when_a_class_is_never_seen():
    labels, predicted = np.array([0, 0, 1, 4]), np.array([0, 2, 1, 1])
    assert metrics.macro_f1(labels, predicted) == pytest.approx(theirs.f1_score(labels, predicted, average="macro"))


# Decisions


def test_decisions_change_what_is_decided_and_leave_what_is_promised(guesses):
    labels, probabilities = guesses
    plain, decided = metrics.of_class(labels, probabilities), metrics.of_class(labels, probabilities, predicted=labels)
    assert {name: decided[name].value for name in ("accuracy", "balanced_accuracy", "macro_f1")} == {
        **{"accuracy": 1.0, "balanced_accuracy": 1.0, "macro_f1": 1.0},
    }
    for name in ("auroc", "auprc", "log_loss", "brier", "ece"):
        assert decided[name] == plain[name]


# Calibration


def test_calibration_error_is_the_gap_between_promise_and_truth():
    # Two rows at 0.8, of which one is right: 0.3 off; one at 0.6 (another bin), right: 0.4 off.
    probabilities = np.array([[0.8, 0.2], [0.2, 0.8], [0.6, 0.4]])
    assert metrics.of_class(np.array([0, 0, 0]), probabilities)["ece"].value == pytest.approx((2 * 0.3 + 0.4) / 3)


def test_promises_on_either_side_of_a_bound_are_not_averaged_and_those_within_a_bin_are():
    truth = np.array([[True], [False]])
    upper = np.array([[0.6], [0.55]])  # 9/15 belongs to the bin below it
    assert metrics.calibration_error(metrics.calibration_gaps(truth, upper)) == pytest.approx(abs(1 - 1.15) / 2)
    together, apart = np.array([[0.61], [0.66]]), np.array([[0.61], [0.67]])  # a bin ends at 10/15
    assert metrics.calibration_error(metrics.calibration_gaps(truth, together)) == pytest.approx(abs(1 - 1.27) / 2)
    assert metrics.calibration_error(metrics.calibration_gaps(truth, apart)) == pytest.approx((0.39 + 0.67) / 2)


def test_probabilities_that_hold_have_hardly_any_calibration_error_and_boasting_ones_do():
    random = np.random.default_rng(5)
    held = random.uniform(0.5, 1, 20_000)
    labels = (random.random(20_000) > held).astype(int)
    boasting = np.sqrt(held)
    honest, vain = (metrics.of_class(labels, np.stack([p, 1 - p], axis=1))["ece"] for p in (held, boasting))
    assert honest.value < 0.01 < vain.value
    assert vain.value == pytest.approx((boasting - held).mean(), abs=4 * vain.standard_error)


def test_probabilities_of_0_and_1_have_bins():
    assert metrics.calibration_gaps(np.array([[True], [False]]), np.array([[1.0], [0.0]])).tolist() == [[0.0] * 15] * 2


# Ranking


def tied(rows, labels, seed):
    """Truth and scores of which many are equal."""
    random = np.random.default_rng(seed)
    truth = random.random((rows, labels)) < random.uniform(0.2, 0.6, labels)
    return truth, np.round(random.random((rows, labels)) * 0.7 + 0.3 * truth, 1).astype(np.float32)


@pytest.mark.parametrize("seed", range(5))
def test_areas_are_those_of_scikit_learn_for_any_weights_and_ties(seed):
    truth, scores = (array[:, 0] for array in tied(80, 1, seed))
    weights = np.random.default_rng(seed).integers(0, 4, (80, 6))
    roc, recall = metrics.areas(truth, scores, weights)
    for column in range(6):
        given = {"sample_weight": weights[:, column]}
        assert roc[column] == pytest.approx(theirs.roc_auc_score(truth, scores, **given), abs=1e-12)
        assert recall[column] == pytest.approx(theirs.average_precision_score(truth, scores, **given), abs=1e-12)


def test_areas_are_the_same_computed_in_parts(monkeypatch):
    truth, scores = (array[:, 0] for array in tied(80, 1, 0))
    weights = np.random.default_rng(0).integers(0, 4, (80, 7))
    whole = metrics.areas(truth, scores, weights)
    monkeypatch.setattr(metrics, "AT_ONCE", 200)
    assert np.array(metrics.areas(truth, scores, weights)) == pytest.approx(np.array(whole), abs=1e-12)


def test_scores_that_say_nothing_have_half_the_area_and_the_prevalence():
    labels = np.array([0] * 90 + [1] * 10)
    found = metrics.of_class(labels, np.full((100, 2), 0.5))
    assert found["auroc"] == Metric(value=0.5, n=100, standard_error=0.0)
    assert found["auprc"].value == pytest.approx(0.1, abs=1e-12)
    assert found["auprc"].standard_error == pytest.approx(0.03, rel=0.2)  # that of a share of 0.1 in 100 rows


def test_of_two_classes_the_second_is_ranked():
    labels, chance = np.array([0, 0, 1, 0, 1]), np.array([0.1, 0.6, 0.4, 0.2, 0.9])
    found = metrics.of_class(labels, np.stack([1 - chance, chance], axis=1))
    assert found["auroc"].value == pytest.approx(5 / 6)  # one of six pairs is the wrong way round
    assert found["auprc"].value == pytest.approx((1 + 2 / 3) / 2)


def test_of_several_classes_each_is_ranked_against_the_rest(guesses):
    labels, probabilities = guesses
    found, each = metrics.of_class(labels, probabilities), labels[:, None] == np.arange(3)
    assert found["auroc"].value == pytest.approx(theirs.roc_auc_score(each, probabilities, average="macro"), abs=1e-12)
    assert found["auprc"].value == pytest.approx(theirs.average_precision_score(each, probabilities, average="macro"), abs=1e-12)


def test_the_errors_of_ranking_are_those_of_the_bootstrap_that_other_measures_have():
    truth, scores = tied(60, 1, 7)
    found = metrics.of_classes(truth, scores)
    for name, measure in {"auroc": theirs.roc_auc_score, "auprc": theirs.average_precision_score}.items():
        expected = metrics.bootstrapped(lambda t, s: float(measure(t, s)), truth[:, 0], scores[:, 0])  # noqa: B023
        assert found[name].value == pytest.approx(expected.value, abs=1e-12)
        assert found[name].standard_error == pytest.approx(expected.standard_error, abs=1e-12)


def test_a_class_that_no_row_has_is_not_ranked(guesses):
    labels, probabilities = guesses
    rows = labels < 2
    labels, probabilities = labels[rows], probabilities[rows]
    areas = [theirs.roc_auc_score(labels == label, probabilities[:, label]) for label in (0, 1)]
    assert metrics.of_class(labels, probabilities)["auroc"].value == pytest.approx(np.mean(areas), abs=1e-12)


def test_a_label_that_every_row_has_is_not_ranked():
    truth, scores = tied(50, 2, 3)
    assert metrics.ranking(np.c_[truth, np.ones(50, bool)], np.c_[scores, scores[:, 0]]) == metrics.ranking(truth, scores)


def test_rows_of_one_class_have_no_ranking_and_all_other_measures():
    found = metrics.of_class(np.zeros(4, int), np.array([[0.9, 0.1]] * 4))
    assert list(found) == ["accuracy", "balanced_accuracy", "macro_f1", "log_loss", "brier", "ece"]
    assert not {"auroc", "auprc"} & set(metrics.of_classes(np.zeros((4, 2), bool), np.full((4, 2), 0.1)))


def test_a_class_that_resamples_may_miss_has_an_error_all_the_same():
    found = metrics.of_class(np.array([0, 0, 0, 1]), np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.4, 0.6]]))
    assert found["auroc"].value == pytest.approx(2 / 3)
    assert 0 < found["auroc"].standard_error < 0.5


def test_a_resample_that_misses_a_class_is_the_mean_over_the_others():
    # One positive of the first label: a third of the resamples miss it. Both labels are ranked without a fault, always.
    truth = np.c_[np.arange(30) == 0, np.arange(30) < 15]
    found = metrics.of_classes(truth, truth * 0.9)
    assert (found["auroc"].value, found["auroc"].standard_error) == (1.0, 0.0)
    assert (found["auprc"].value, found["auprc"].standard_error) == (1.0, 0.0)


# Numbers


def test_measures_of_numbers_agree_with_scikit_learn():
    random = np.random.default_rng(2)
    truth = random.normal(10, 3, 120)
    predicted = truth + random.normal(0.5, 1, 120)
    found = metrics.of_number(truth, predicted)
    assert found["rmse"].value == pytest.approx(theirs.root_mean_squared_error(truth, predicted))
    assert found["mae"].value == pytest.approx(theirs.mean_absolute_error(truth, predicted))
    assert found["r2"].value == pytest.approx(theirs.r2_score(truth, predicted))


def test_r2_is_0_for_the_mean_1_for_the_truth_and_below_0_for_worse():
    truth = np.array([1.0, 2.0, 3.0])
    assert metrics.r2(truth, np.full(3, 2.0)) == 0.0
    assert metrics.r2(truth, truth) == 1.0
    assert metrics.r2(truth, truth[::-1]) == -3.0


def test_the_spread_of_r2_is_a_number_of_its_size_for_few_rows_too():
    # A resample of three rows is one row three times in one of nine cases: r2 has no meaning there.
    found = metrics.of_number(np.array([1.0, 2.0, 3.0]), np.array([1.1, 2.1, 2.9]))["r2"]
    assert found.value == pytest.approx(1 - 0.03 / 2)
    assert found.standard_error < 10


def test_a_bootstrap_is_repeatable_and_near_the_known_error():
    values = np.random.default_rng(3).normal(0, 1, 400)
    found = metrics.bootstrapped(lambda v: float(v.mean()), values)
    assert found == metrics.bootstrapped(lambda v: float(v.mean()), values)
    assert found.standard_error == pytest.approx(metrics.mean(values).standard_error, rel=0.2)


def test_a_bootstrap_draws_the_same_rows_of_every_array():
    values = np.random.default_rng(4).normal(0, 1, 50)
    assert metrics.bootstrapped(lambda a, b: float(np.abs(a - b).max()), values, values).standard_error == 0.0
