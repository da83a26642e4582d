"""Tasks: counts, of which the logarithm of the mean is predicted."""

import numpy as np
import pyarrow as pa
import pytest

from embedkit import UserError
from embedkit.tasks import as_counts, task_of

LABELS = [0.0, 1.0, 3.0, 8.0, 100.0]
TRAIN = np.array([0, 1, 2, 3])


def counts(labels=LABELS):
    known = np.isin(np.arange(len(labels)), TRAIN)
    return as_counts(task_of("table/x", pa.array(labels), known), "table/x", TRAIN)


def test_counts_are_multiples_of_their_mean_and_predicted_by_its_logarithm():
    task = counts()
    assert task.targets[:, 0].tolist() == pytest.approx([0, 1 / 3, 1, 8 / 3, 100 / 3])
    assert (task.scale, task.location, task.link, task.outputs) == (3, 0, "log", 1)
    assert task.predict(np.log(np.array([[1], [8 / 3]]))).tolist() == pytest.approx([3, 8])
    assert task.truth(np.arange(5)).tolist() == LABELS


def test_the_loss_of_counts_is_half_their_poisson_deviance():
    from sklearn.metrics import mean_poisson_deviance

    task, predicted = counts(), np.array([2.0, 0.5, 3.0, 10.0, 40.0])
    outputs = np.log(predicted / 3)[:, None].astype(np.float32)
    found = np.asarray(task.loss()(task.targets, outputs))
    for line, (truth, guess) in enumerate(zip(LABELS, predicted, strict=True)):
        assert 2 * 3 * found[line] == pytest.approx(mean_poisson_deviance([truth], [guess]), abs=1e-4)  # in multiples of 3
    assert found[2] == pytest.approx(0, abs=1e-6)  # where the count was foretold


def test_an_untrained_network_of_counts_predicts_their_mean_and_its_loss_is_known():
    task = counts()
    prior = task.prior(TRAIN)
    outputs = np.tile(task.bias(prior, 4), (4, 1)).astype(np.float32)
    assert task.predict(outputs).tolist() == pytest.approx([3] * 4) == task.guess(prior, 4).tolist()
    assert task.entropy(TRAIN, prior) == pytest.approx(float(np.mean(task.loss()(task.targets[TRAIN], outputs))))


def test_predictions_of_counts_are_measured_in_their_unit():
    found = counts().measure(np.array([2, 3]), np.array([3.0, 10.0]))
    assert (found["rmse"].value, found["mae"].value) == (pytest.approx(2**0.5), 1)


def test_labels_that_are_no_counts_are_refused():
    with pytest.raises(UserError, match="a training label of table/x is -1, and counts are 0 or more; leave target out"):
        counts([0.0, -1.0, 3.0, 8.0, 1.0])
    with pytest.raises(UserError, match="counts are numbers, but the labels of table/x are class; load it with label_type number"):
        counts(["a", "b", "a", "b", "a"])
