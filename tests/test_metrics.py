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
