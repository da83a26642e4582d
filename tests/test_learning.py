"""What a stage that trains does around the loop: checks before it, records after it, hints where something was slow."""

import hashlib
import json
import time

import numpy as np
import pytest
from PIL import Image

from embedkit import Training, UserError, frameworks, learning, trainer
from embedkit.learning import _longer, learn
from embedkit.stages import Draft
from embedkit.trainer import Problem
from embedkit.training import Rows

RANDOM = np.random.default_rng(0)
INPUTS = RANDOM.normal(size=(300, 6)).astype(np.float32)
CLASSES = INPUTS[:, :3].argmax(axis=1).astype(np.int32)
SETTINGS = Training(epochs=6, batch_size=32, optimizer="adamw", learning_rate=0.01)


def problem(classes=CLASSES, train=None):
    """A small network on three classes."""
    frameworks.start_keras(0)
    import keras

    vectors = keras.Input((6,))
    model = keras.Model(vectors, keras.layers.Dense(3)(keras.layers.Dense(16, activation="tanh")(vectors)))

    def loss(targets, outputs):
        return keras.ops.sparse_categorical_crossentropy(targets, outputs, from_logits=True)

    held = Rows.of(INPUTS[200:], classes[200:])
    return Problem(model, loss, train or Rows.of(INPUTS[:200], classes[:200]), held, expected=float(np.log(3)))


def hashes(folder):
    return {path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    out = Draft(tmp_path_factory.mktemp("learned"))
    return out, learn(out, problem(), SETTINGS, 0)


def test_a_run_leaves_its_history_its_pictures_and_its_curves(learned):
    out, found = learned
    assert sorted(str(path) for path in hashes(out.files)) == [
        "history.json",
        "learning_curve.png",
        "learning_rate.png",
        "tensorboard/events.out.tfevents.0000000000.embedkit",
    ]
    assert json.loads((out / "history.json").read_text()) == found.run.history
    for name in ("learning_curve.png", "learning_rate.png"):
        assert np.array(Image.open(out / name).convert("L")).std() > 10  # something is drawn
    assert out.decisions["preflight"]["untouched"]["line"].startswith("model, optimizer and random generators are as before")


def test_the_number_type_and_the_devices_stay_as_a_call_began(tmp_path, monkeypatch):
    settings, out = SETTINGS.model_copy(update={"devices": "all", "preflight": False}), Draft(tmp_path)
    assert learn(out, problem(), settings, 0).details["precision"] == out.decisions["precision"] == "float32"
    assert out.decisions["devices"] == ["/device:CPU:0"]
    monkeypatch.setattr(trainer, "_precision", lambda asked: "bfloat16" if asked == "auto" else asked)  # as on a new GPU
    assert learn(out, problem(), settings, 0).details["precision"] == "float32"  # resumed
    anew = Draft(tmp_path / "anew")
    assert learn(anew, problem(), settings, 0).details["precision"] == anew.decisions["precision"] == "bfloat16"


def test_tensorboard_reads_the_history_from_the_event_file(learned):
    import tensorflow as tf
    from tensorflow.core.util.event_pb2 import Event

    out, found = learned
    records = tf.data.TFRecordDataset(str(out / "tensorboard/events.out.tfevents.0000000000.embedkit"))
    first, *events = [Event.FromString(record.numpy()) for record in records]
    assert first.file_version == "brain.Event:2"
    read = [{"epoch": event.step} | {value.tag: value.simple_value for value in event.summary.value} for event in events]
    assert [list(entry) for entry in read] == [list(entry) for entry in found.run.history]
    for ours, theirs in zip(read, found.run.history, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-6)


def test_a_run_that_is_made_again_or_was_interrupted_leaves_the_same_bytes(learned, tmp_path):
    expected = hashes(learned[0].files)
    again = Draft(tmp_path / "again")
    learn(again, problem(), SETTINGS, 0)
    assert hashes(again.files) == expected
    learn(Draft(tmp_path / "again"), problem(), SETTINGS, 0)  # finished before it was published
    assert hashes(again.files) == expected
    stopped, calls = Draft(tmp_path / "stopped"), []

    def dying(chosen):
        calls.append(chosen)
        if len(calls) > 40:
            raise KeyboardInterrupt
        return INPUTS[:200][chosen], CLASSES[:200][chosen]

    often = SETTINGS.model_copy(update={"checkpoint_share": 1})
    stopped.decide("preflight", lambda: learned[0].decisions["preflight"])
    with pytest.raises(KeyboardInterrupt):
        learn(stopped, problem(train=Rows(200, dying)), often, 0)
    assert list((stopped.work / "checkpoints").iterdir())
    learn(stopped, problem(), often, 0)
    assert hashes(stopped.files) == expected


def test_what_the_checks_found_wrong_is_a_note(tmp_path):
    noise = np.random.default_rng(1).integers(0, 3, 300).astype(np.int32)
    found = learn(Draft(tmp_path), problem(noise), SETTINGS, 0)
    assert any(note.endswith("so far the inputs bring nothing") for note in found.notes)


@pytest.mark.slow
def test_the_range_test_decides_an_automatic_learning_rate_with_or_without_the_other_checks(tmp_path):
    for checked in (True, False):
        settings = SETTINGS.model_copy(update={"learning_rate": "auto", "preflight": checked})
        out = Draft(tmp_path / str(checked))
        found = learn(out, problem(), settings, 0)
        rate = found.details["learning_rate"]
        assert 0.001 < rate < 1 and found.run.history[0]["learning_rate"] == rate
        assert (out / "learning_rate.png").exists()
        assert found.run.history[-1]["validation_loss"] < 0.7
    constant = problem(np.zeros(300, np.int32))
    constant.loss = lambda targets, outputs: 0.0 * outputs[:, 0] + 1.0
    settings = SETTINGS.model_copy(update={"learning_rate": "auto", "preflight": False})
    flat = learn(Draft(tmp_path / "flat"), constant, settings, 0)
    assert flat.details["learning_rate"] == 0.001
    assert "the range test of learning rates found no usable slope; took the usual 0.001" in flat.notes


def test_waiting_for_rows_is_measured_and_brings_a_hint(tmp_path, monkeypatch):
    monkeypatch.setattr(learning, "WAITED", 1.0)

    def slow(chosen):
        time.sleep(0.1)
        return INPUTS[chosen], CLASSES[chosen]

    plain = SETTINGS.model_copy(update={"preflight": False})
    found = learn(Draft(tmp_path / "slow"), problem(train=Rows(200, slow)), plain, 0)
    assert found.timings["waiting_share"] > 0.2
    words = "of the steps' time was spent waiting for rows; a larger batch_size helps where steps are short"
    assert any(words in note for note in found.notes)
    fast = learn(Draft(tmp_path / "fast"), problem(), plain, 0)
    assert fast.notes == [] and 0 <= fast.timings["waiting_share"] <= 1


def test_a_batch_that_cannot_be_overfitted_stops_before_anything_is_written(tmp_path):
    blind = problem()
    blind.train = Rows.of(np.ones((200, 6), np.float32) * np.linspace(1, 1 + 1e-6, 200, dtype=np.float32)[:, None], CLASSES[:200])
    with pytest.raises(UserError, match="can't be overfitted"):
        learn(Draft(tmp_path), blind, SETTINGS, 0)
    assert hashes(tmp_path) == {}
    learn(Draft(tmp_path), blind, SETTINGS.model_copy(update={"preflight": False}), 0)  # who wants it may


def test_what_more_epochs_brought_is_said_in_one_sentence():
    assert _longer({"gain_ended": 50}, 50) == "the gain of more epochs had not ended at epoch 50"
    twice = {"gain_ended": 40, "first_low": 5, "worst": 20, "second_low": 40}
    assert _longer(twice, 50) == (
        "the gain of more epochs ended at epoch 40 of 50; the 10 after it brought nothing; double descent: low at 5, "
        "worst at 20, lower again by 40"
    )
