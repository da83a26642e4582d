"""The training loop: one, for every stage that trains.

The order of rows is a function of seed and epoch, so that a position in a run is two numbers. A checkpoint holds all that
the next step depends on (weights, optimizer, random state of dropout and augmentation, position, best so far); a resumed
run therefore ends with the same bits as an undisturbed one.
"""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from embedkit import checkpoints, progress
from embedkit.batches import Batch, Repeated, Rows, training_stream
from embedkit.checkpoints import Checkpoints
from embedkit.schedules import Training, course, gained, learning_rate, resolve
from embedkit.settings import not_among
from embedkit.trainer import Problem, Trainer, infinite

__all__ = ["Batch", "Problem", "Progress", "Rows", "Trainer", "Training", "course", "fit", "learning_rate", "resolve"]

log = logging.getLogger(__name__)
SPEAK_EVERY_SECONDS = 5.0
ROWS_AT_ONCE = 1024
FALLING = {"loss", "log_loss", "brier", "ece", "mse", "rmse", "mae", "worst_error"}
"""Measures of which less is better."""


@dataclass
class Progress:
    """Where a run is; all of it goes into a checkpoint. `best` is the monitored measure, negative where more is better.

    `start` are the measures of the first weights, where they may be kept; `best_epoch` is 0 where they were.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    best: float | None = None
    best_epoch: int = 0
    finished: bool = False
    seconds: float = field(default=0.0, compare=False)
    waited: float = field(default=0.0, compare=False)
    history: list[dict[str, float]] = field(default_factory=list)
    start: dict[str, float] | None = None


def fit(trainer: Trainer, seed: int, folder: Path | None, after_epoch: Callable[[Progress], None] = lambda run: None) -> Progress:
    """Train a model and leave the weights of its best epoch in it; goes on where an earlier call was interrupted.

    Args:
        trainer: what is to be learned, and how; the learning rate resolved.
        seed: decides the order of rows in each epoch.
        folder: where checkpoints lie; None for a run so short that it begins anew where it was interrupted.
        after_epoch: called after each epoch that this call ran.

    Returns:
        The run: an entry of `history` per epoch, and the best epoch (counted from 1).

    Raises:
        UserError: when the loss is no longer finite, naming the rows.
    """
    settings, problem = trainer.settings, trainer.problem
    saved = Checkpoints(folder, settings.checkpoints, settings.checkpoint_share)
    best = checkpoints.values(trainer.model.variables)
    run = Progress(**(saved.restore(trainer.variables, best) or {}))
    if run.step:
        log.info("goes on after step %d", run.step)
    assert settings.epochs is not None
    rows = len(problem.train.epoch(seed, 0))
    per_epoch = -(-rows // settings.batch_size)
    steps = per_epoch * settings.epochs
    validation = Repeated(problem.validation, trainer.specs, min(ROWS_AT_ONCE, 4 * settings.batch_size))
    stream = training_stream(problem.train, trainer.specs, settings.batch_size, seed, run.step, steps)
    if problem.keep_start and run.start is None:
        measured = measure(trainer, validation, "the start")
        run.start = {f"{problem.measured_on}_{name}": value for name, value in measured.items()}
        run.best = monitored_in(run.start, trainer)
    spoken, rate = time.monotonic(), 0.0
    with progress.bar(settings.epochs, "epochs") as advance:
        advance(run.epoch)
        while not run.finished:
            monitored = [monitored_in(entry, trainer) for entry in run.history]
            while run.batch < per_epoch:
                start = time.monotonic()
                batch = next(stream)
                ready = time.monotonic()
                rate = learning_rate(settings, run.step, steps, monitored)
                value, losses = trainer.step(batch, rate)
                mean = float(value)
                if not math.isfinite(mean):
                    raise infinite("training", f"step {run.step + 1}", problem.train, batch, losses.numpy(), rate)
                run.waited += ready - start
                run.seconds += time.monotonic() - start
                run.loss_sum += mean * len(batch.chosen)
                run.batch += 1
                run.step += 1
                if run.step % settings.checkpoint_every == 0 and run.batch < per_epoch and saved.due():
                    saved.save(run.step, asdict(run), trainer.variables, best)
            with trainer.averaged():
                measured = measure(trainer, validation, f"the end of epoch {run.epoch + 1}")
                _end_epoch(run, measured, rows, rate, trainer)
                if run.best_epoch == run.epoch:
                    best = checkpoints.values(trainer.model.variables)
            if run.finished or saved.due():
                saved.save(run.step, asdict(run), trainer.variables, best)
            after_epoch(run)
            advance(1)
            if run.finished or time.monotonic() - spoken >= SPEAK_EVERY_SECONDS:
                spoken = time.monotonic()
                last = run.history[-1]
                name = problem.measured_on
                log.info("epoch %d: loss %.4f, %s loss %.4f", run.epoch, last["loss"], name, last[f"{name}_loss"])
    trainer.finish(best)
    return run


def measure(trainer: Trainer, validation: Repeated, when: str) -> dict[str, float]:
    """Mean loss, each row counted by its weight, and the problem's scores over all validation rows.

    Args:
        trainer: whose present weights are measured.
        validation: the rows.
        when: for the message.

    Raises:
        UserError: when a loss is not finite.
    """
    total, counted, outputs, scores = 0.0, 0.0, [], trainer.problem.scores if trainer.settings.monitor != "loss" else None
    for batch in validation:
        losses = trainer.losses(batch)
        if not np.isfinite(losses).all():
            rate: Any = trainer.settings.learning_rate
            raise infinite(trainer.problem.measured_on, when, validation.rows, batch, losses, rate)
        weights = batch.weights.numpy().astype(np.float64)
        total, counted = total + float(losses @ weights), counted + float(weights.sum())
        if scores:
            outputs.append(trainer.outputs(batch))
    found = {"loss": total / counted}
    return found | (scores(np.concatenate(outputs)) if scores else {})


def monitored_in(entry: dict[str, float], trainer: Trainer) -> float:
    """The monitored measure of an epoch of the history; negative where more is better."""
    monitor, prefix = trainer.settings.monitor, f"{trainer.problem.measured_on}_"
    if prefix + monitor not in entry:
        measures = [key.removeprefix(prefix) for key in entry if key.startswith(prefix)]
        raise not_among("measure", monitor, measures, hint="to monitor")
    return entry[prefix + monitor] if monitor in FALLING else -entry[prefix + monitor]


def _end_epoch(run: Progress, measured: dict[str, float], rows: int, rate: float, trainer: Trainer) -> None:
    problem, settings = trainer.problem, trainer.settings
    run.epoch += 1
    entry = {"epoch": run.epoch, "loss": run.loss_sum / rows, "learning_rate": rate}
    run.history.append(entry | {f"{problem.measured_on}_{name}": value for name, value in measured.items()})
    now = monitored_in(run.history[-1], trainer)
    if gained(now, run.best):
        run.best, run.best_epoch = now, run.epoch
    run.batch, run.loss_sum = 0, 0.0
    target = problem.target
    reached = target is not None and now <= (target if settings.monitor in FALLING else -target)
    ended = settings.patience is not None and run.epoch - run.best_epoch >= settings.patience
    run.finished = reached or ended or run.epoch >= (settings.epochs or 0)
