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

import numpy as np

from embedkit import checkpoints, progress
from embedkit.batches import Batch, Repeated, Rows, training_stream
from embedkit.checkpoints import Checkpoints
from embedkit.settings import not_among
from embedkit.trainer import Problem, Trainer, Training, infinite, resolve

__all__ = ["Batch", "Problem", "Progress", "Rows", "Trainer", "Training", "course", "fit", "learning_rate", "resolve"]

log = logging.getLogger(__name__)
SPEAK_EVERY_SECONDS = 5.0
LEAST_GAIN = 0.001
"""Relative fall of the validation loss that counts as one; smaller falls would keep a flat run alive for ever."""
WORSENING = 0.05
"""Relative rise of the validation loss above its lowest, for `course` to call it one; less is noise."""
ROWS_AT_ONCE = 1024
FALLING = {"loss", "log_loss", "brier", "ece", "mse", "rmse", "mae", "worst_error"}
"""Measures of which less is better."""


@dataclass
class Progress:
    """Where a run is; all of it goes into a checkpoint. `best` is the monitored measure, negative where more is better."""

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


def learning_rate(settings: Training, step: int, steps: int, monitored: list[float]) -> float:
    """The learning rate of a step, a function of where the run is.

    Args:
        settings: resolved.
        step: steps done before it.
        steps: of all epochs.
        monitored: the monitored measure of each epoch so far, less is better.
    """
    assert isinstance(settings.learning_rate, float | int), "resolve the settings first"
    rate, warmup = float(settings.learning_rate), settings.warmup_steps
    if step < warmup:
        return rate * (step + 1) / warmup
    if settings.schedule == "cosine":
        return rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
    if settings.schedule == "plateau":
        return rate / 3 ** _plateaus(monitored, max(1, (settings.patience or 10) // 2))
    return rate


def _plateaus(monitored: list[float], length: int) -> int:
    best, since, falls = math.inf, 0, 0
    for value in monitored:
        if _gained(value, best):
            best, since = value, 0
        else:
            since += 1
            if since == length:
                falls, since = falls + 1, 0
    return falls


def _gained(value: float, best: float | None) -> bool:
    return best is None or math.isinf(best) or best - value > LEAST_GAIN * abs(best)


def fit(trainer: Trainer, seed: int, folder: Path, after_epoch: Callable[[Progress], None] = lambda run: None) -> Progress:
    """Train a model and leave the weights of its best epoch in it; goes on where an earlier call was interrupted.

    Args:
        trainer: what is to be learned, and how; the learning rate resolved.
        seed: decides the order of rows in each epoch.
        folder: where checkpoints lie.
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
    spoken, rate = time.monotonic(), 0.0
    with progress.bar(settings.epochs, "epochs") as advance:
        advance(run.epoch)
        while not run.finished:
            monitored = [_monitored(entry, settings.monitor) for entry in run.history]
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
                _end_epoch(run, measured, rows, rate, problem, settings)
                if run.best_epoch == run.epoch:
                    best = checkpoints.values(trainer.model.variables)
            if run.finished or saved.due():
                saved.save(run.step, asdict(run), trainer.variables, best)
            after_epoch(run)
            advance(1)
            if run.finished or time.monotonic() - spoken >= SPEAK_EVERY_SECONDS:
                spoken = time.monotonic()
                last = run.history[-1]
                log.info("epoch %d: loss %.4f, validation loss %.4f", run.epoch, last["loss"], last["validation_loss"])
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
            rate = trainer.settings.learning_rate
            raise infinite("validation", when, validation.rows, batch, losses, rate if isinstance(rate, float) else 0.0)
        weights = batch.weights.numpy().astype(np.float64)
        total, counted = total + float(losses @ weights), counted + float(weights.sum())
        if scores:
            outputs.append(trainer.outputs(batch))
    found = {"loss": total / counted}
    return found | (scores(np.concatenate(outputs)) if scores else {})


def _monitored(entry: dict[str, float], monitor: str) -> float:
    name = f"validation_{monitor}"
    if name not in entry:
        measures = [key.removeprefix("validation_") for key in entry if key.startswith("validation_")]
        raise not_among("measure", monitor, measures, hint="to monitor")
    return entry[name] if monitor in FALLING else -entry[name]


def _end_epoch(run: Progress, measured: dict[str, float], rows: int, rate: float, problem: Problem, settings: Training) -> None:
    run.epoch += 1
    entry = {"epoch": run.epoch, "loss": run.loss_sum / rows, "learning_rate": rate}
    run.history.append(entry | {f"validation_{name}": value for name, value in measured.items()})
    now = _monitored(run.history[-1], settings.monitor)
    if _gained(now, run.best):
        run.best, run.best_epoch = now, run.epoch
    run.batch, run.loss_sum = 0, 0.0
    target = problem.target
    reached = target is not None and now <= (target if settings.monitor in FALLING else -target)
    ended = settings.patience is not None and run.epoch - run.best_epoch >= settings.patience
    run.finished = reached or ended or run.epoch >= (settings.epochs or 0)


def course(monitored: list[float]) -> dict[str, int]:
    """What a run of many epochs shows: where its gain ended, and whether there was a second descent.

    A second descent (Nakkiran et al. 2020, arXiv:1912.02292) is a gain on the lowest loss after it had risen by more than
    WORSENING above it.

    Args:
        monitored: the monitored measure of each epoch, less is better.

    Returns:
        `gain_ended`, the last epoch that brought a gain; and for the largest double descent, if there is one, the epochs
        `first_low`, `worst` and `second_low`. Counted from 1.
    """
    low, found, rise = 0, {"gain_ended": 1}, 0.0
    for epoch, value in enumerate(monitored):
        if epoch and _gained(value, monitored[low]):
            worst = max(range(low, epoch), key=monitored.__getitem__)
            height = monitored[worst] - monitored[low]
            if height > max(rise, WORSENING * abs(monitored[low])):
                rise = height
                found |= {"first_low": low + 1, "worst": worst + 1, "second_low": epoch + 1}
            low = epoch
            found["gain_ended"] = epoch + 1
    if "second_low" in found:  # how low it came in the end
        found["second_low"] = min(range(found["second_low"] - 1, len(monitored)), key=monitored.__getitem__) + 1
    return found
