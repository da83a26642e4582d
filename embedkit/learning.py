"""Learning: what every stage that trains does around the loop. Checks before it, records after it.

An artifact that was trained holds `history.json` (an entry per epoch), `learning_curve.png`, `learning_rate.png` (the range
test) and `tensorboard/` (the same numbers as an event file whose times are epochs, so that its bytes repeat).
"""

import logging
from dataclasses import dataclass, field
from typing import Any

from embedkit import checks, reports
from embedkit.schedules import DEFAULT_RATES, Training, course
from embedkit.stages import Draft, write_json
from embedkit.trainer import Problem, Trainer, decided, settled
from embedkit.training import Progress, fit, monitored_in

log = logging.getLogger(__name__)
WAITING = 0.2
"""Share of the time spent on waiting for batches above which a hint says so, once it adds up to WAITED seconds."""
WAITED = 1.0


@dataclass
class Learned:
    """A finished run, and what its manifest says of it."""

    run: Progress
    training: Training
    details: dict[str, Any]
    timings: dict[str, float]
    notes: list[str] = field(default_factory=list)


def learn(out: Draft, problem: Problem, settings: Training, seed: int) -> Learned:
    """Check, train, and write down what was seen.

    Args:
        out: where the records go; checkpoints are kept beside it.
        problem: what is to be learned; the weights of the best epoch are left in its model.
        settings: how; resolved for the stage.
        seed: of the order of rows.

    Raises:
        UserError: when one batch can't be overfitted, or the loss is no longer finite.
    """
    trainer = Trainer(problem, settled(out, settings))
    notes = check(out, trainer, seed)
    decided(out, settings)
    with EventFile(out / "tensorboard") as events:
        run = fit(trainer, seed, out.work / "checkpoints", events.write)
        events.write(run)  # a run that was finished before has no epoch to report
    return record(out, trainer, run, notes)


def check(out: Draft, trainer: Trainer, seed: int) -> list[str]:
    """Check before a run, and set a learning rate that was left to the range test; returns what should be said.

    Raises:
        UserError: when one batch can't be overfitted.
    """
    notes: list[str] = []
    found: dict[str, Any] = {}
    settings = trainer.settings
    if settings.preflight:
        found = out.decide("preflight", lambda: checks.preflight(trainer, seed))
    elif settings.learning_rate == "auto":
        with trainer.untouched():
            found = {"learning_rate": out.decide("learning_rate_range", lambda: checks.learning_rate_range(trainer, seed))}
    for each in found.values():
        log.info("%s", each["line"])
    if "learning_rate" in found:
        reports.learning_rates(found["learning_rate"], out / "learning_rate.png")
    if settings.learning_rate == "auto":
        rate = found["learning_rate"]["suggestion"]
        if rate is None:
            rate = DEFAULT_RATES[settings.optimizer]
            notes.append(f"the range test of learning rates found no usable slope; took the usual {rate:g}")
        trainer.settings = settings.model_copy(update={"learning_rate": rate})
    return notes + [found[name]["line"] for name, passed in PASSED.items() if found.get(name, {}).get(passed) is False]


def record(out: Draft, trainer: Trainer, run: Progress, notes: list[str]) -> Learned:
    """Write down a finished run: its history and curve; returns what its manifest says of it."""
    settings, problem = trainer.settings, trainer.problem
    write_json(out / "history.json", run.history)
    reports.learning_curve(run.history, run.best_epoch, settings.monitor, problem.measured_on, out / "learning_curve.png")
    seen = course([monitored_in(entry, trainer) for entry in run.history])
    details = {
        "best_epoch": run.best_epoch,
        "epochs": run.epoch,
        "optimizer": settings.optimizer,
        "learning_rate": settings.learning_rate,
        "batch_size": settings.batch_size,
        "devices": trainer.replicas,
        "precision": trainer.precision,
        "monitor": settings.monitor,
        "course": seen,
    }
    if settings.epochs_factor > 1:
        notes.append(_longer(seen, run.epoch))
    waiting = run.waited / run.seconds if run.seconds else 0.0
    if waiting > WAITING and run.waited > WAITED:
        notes.append(
            f"{waiting:.0%} of the steps' time was spent waiting for rows; a larger batch_size helps where steps are short (here "
            f"{1000 * run.seconds / run.step:.1f} ms), smaller pictures or a faster disk where reading takes long"
        )
    return Learned(run, settings, details, {"training_seconds": round(run.seconds, 3), "waiting_share": round(waiting, 4)}, notes)


PASSED = {"initial_loss": "as_expected", "zeroed_inputs": "inputs_matter", "shuffled_labels": "as_chance"}
"""Checks that don't stop a run, and the field that says whether all is well."""


def _longer(seen: dict[str, int], epochs: int) -> str:
    last = seen["gain_ended"]
    ended = f"the gain of more epochs ended at epoch {last} of {epochs}; the {epochs - last} after it brought nothing"
    ended = ended if last < epochs else f"the gain of more epochs had not ended at epoch {epochs}"
    if "second_low" in seen:
        ended += f"; double descent: low at {seen['first_low']}, worst at {seen['worst']}, lower again by {seen['second_low']}"
    return ended


class EventFile:
    """The history of a run as TensorBoard reads it, written while it grows.

    Args:
        folder: where the file goes; one that lies there is written anew.
    """

    def __init__(self, folder: Any):
        self.path = folder / "events.out.tfevents.0000000000.embedkit"
        self.written = 0

    def __enter__(self) -> "EventFile":
        import tensorflow as tf

        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.writer = tf.io.TFRecordWriter(str(self.path))
        self._event(file_version="brain.Event:2")
        return self

    def __exit__(self, *_: object) -> None:
        self.writer.close()

    def write(self, run: Progress) -> None:
        """Add the epochs that are not in the file yet."""
        from tensorflow.core.framework.summary_pb2 import Summary

        for entry in run.history[self.written :]:
            values = [Summary.Value(tag=name, simple_value=value) for name, value in entry.items() if name != "epoch"]
            self._event(int(entry["epoch"]), summary=Summary(value=values))
        self.written = len(run.history)
        self.writer.flush()

    def _event(self, step: int = 0, **content: Any) -> None:
        from tensorflow.core.util.event_pb2 import Event

        # The time of an event is its epoch: the file of a resumed run has the bytes of an undisturbed one.
        self.writer.write(Event(wall_time=float(step), step=step, **content).SerializeToString(deterministic=True))
