"""The training loop: one, for every stage that trains.

The order of rows is a function of seed and epoch, so that a position in a run is two numbers. A checkpoint holds all that
the next step depends on (weights, optimizer, random state of dropout, position, best so far); a resumed run therefore
ends with the same bits as an undisturbed one.
"""

import hashlib
import io
import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from embedkit import progress
from embedkit.settings import Settings, UserError
from embedkit.stages import sync

log = logging.getLogger(__name__)
KEPT_CHECKPOINTS = 2
SPEAK_EVERY_SECONDS = 5.0
LEAST_GAIN = 0.001
"""Relative fall of the validation loss that counts as one; smaller falls would keep a flat run alive for ever."""
Batch = Callable[[np.ndarray], tuple[Any, Any]]


class Training(Settings):
    """How long and how fast a network learns."""

    epochs: PositiveInt | None = None
    """Passes over the training rows at most, by default 1,000 for a head and 60 for an autoencoder; early stopping usually
    ends the run sooner."""
    batch_size: PositiveInt = 64
    """Rows in one step."""
    optimizer: Literal["auto", "adamw", "sgd"] = "auto"
    """AdamW, or gradient descent with Nesterov momentum 0.9; `auto` takes the second for linear heads, whose result then
    doesn't depend on how the vectors are rotated, and AdamW for everything else."""
    learning_rate: PositiveFloat | None = None
    """Step size; by default 0.001 for AdamW (Kingma and Ba 2015, arXiv:1412.6980) and 1 for gradient descent on scaled vectors."""
    weight_decay: NonNegativeFloat = 0.0
    """Share by which weights shrink a step, times the learning rate (Loshchilov and Hutter 2019, arXiv:1711.05101)."""
    patience: PositiveInt = 10
    """Epochs without a lower validation loss before the run stops; the best weights are restored."""
    checkpoint_every: PositiveInt = 500
    """Steps between checkpoints, beside the one after each epoch; what an interrupted run loses at most."""


def resolve(settings: Training, linear: bool, epochs: int) -> Training:
    """The same settings with what `auto` and the defaults that depend on the stage come to."""
    optimizer = ("sgd" if linear else "adamw") if settings.optimizer == "auto" else settings.optimizer
    rate = settings.learning_rate or {"sgd": 1.0, "adamw": 1e-3}[optimizer]
    return settings.model_copy(update={"optimizer": optimizer, "learning_rate": rate, "epochs": settings.epochs or epochs})


def _optimizer(settings: Training) -> Any:
    import keras

    rate: Any = settings.learning_rate
    if settings.optimizer == "sgd":
        decay = settings.weight_decay or None
        return keras.optimizers.SGD(rate, momentum=0.9, nesterov=True, weight_decay=decay)
    return keras.optimizers.AdamW(rate, weight_decay=settings.weight_decay)


@dataclass
class Rows:
    """Rows to learn from or to measure on: how many, and a function from indices to (inputs, targets)."""

    count: int
    batch: Batch


@dataclass
class Progress:
    """Where a run is; all of it goes into a checkpoint."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    best_loss: float | None = None
    best_epoch: int = 0
    finished: bool = False
    history: list[dict[str, float]] = field(default_factory=list)


def fit(model: Any, loss: Any, train: Rows, validation: Rows, settings: Training, seed: int, folder: Path) -> Progress:
    """Train a model and leave the weights of its best epoch in it; goes on where an earlier call was interrupted.

    Args:
        model: a Keras model; changed in place.
        loss: a Keras loss with `reduction=None`, giving one number per row.
        train: rows to learn from.
        validation: rows whose mean loss decides when to stop and which weights to keep.
        settings: how long and how fast; optimizer and learning rate resolved.
        seed: decides the order of rows in each epoch.
        folder: where checkpoints lie.

    Returns:
        The run: an entry of `history` per epoch, and the best epoch (counted from 1).

    Raises:
        UserError: when the loss is no longer finite.
    """
    import tensorflow as tf

    optimizer = _optimizer(settings)
    optimizer.build(model.trainable_variables)

    def learn(inputs: Any, targets: Any) -> Any:
        with tf.GradientTape() as tape:
            value = tf.reduce_mean(loss(targets, model(inputs, training=True)))
        optimizer.apply(tape.gradient(value, model.trainable_variables), model.trainable_variables)
        return value

    def measure(inputs: Any, targets: Any) -> Any:
        return loss(targets, model(inputs, training=False))

    step, losses = _traced(learn), _traced(measure)

    assert settings.epochs is not None and settings.optimizer != "auto", "resolve the settings first"
    variables = [*model.variables, *optimizer.variables]
    best = [variable.numpy() for variable in model.variables]
    run = _restore(folder, variables, best)
    batches = -(-train.count // settings.batch_size)
    spoken = time.monotonic()
    with progress.bar(settings.epochs, "epochs") as advance:
        advance(run.epoch)
        while not run.finished:
            order = np.random.default_rng([seed, run.epoch]).permutation(train.count)
            while run.batch < batches:
                chosen = np.sort(order[run.batch * settings.batch_size : (run.batch + 1) * settings.batch_size])
                value = float(step(*_tensors(train.batch(chosen))))
                _refuse_infinite("training", value, run, settings)
                run.loss_sum += value * len(chosen)
                run.batch += 1
                run.step += 1
                if run.step % settings.checkpoint_every == 0 and run.batch < batches:
                    _save(folder, run, variables, best)
            validation_loss = _mean_loss(losses, validation)
            _refuse_infinite("validation", validation_loss, run, settings)
            _end_epoch(run, validation_loss, train.count, settings)
            if run.best_epoch == run.epoch:
                best = [variable.numpy() for variable in model.variables]
            _save(folder, run, variables, best)
            advance(1)
            if run.finished or time.monotonic() - spoken >= SPEAK_EVERY_SECONDS:
                spoken = time.monotonic()
                log.info("epoch %d: loss %.4f, validation loss %.4f", run.epoch, *list(run.history[-1].values())[1:])
    for variable, value in zip(model.variables, best, strict=True):
        variable.assign(value)
    return run


def _traced(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """A function of batches of any size, traced at its first call only; TensorFlow warns of those traced again and again."""
    import tensorflow as tf

    concrete: list[Any] = []

    def call(*batch: Any) -> Any:
        if not concrete:
            signature = [tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype) for tensor in batch]
            concrete.append(tf.function(function, input_signature=signature).get_concrete_function())
        return concrete[0](*batch)

    return call


def _refuse_infinite(what: str, value: float, run: Progress, settings: Training) -> None:
    if not np.isfinite(value):
        raise UserError(
            f"the {what} loss became {value} at step {run.step + (what == 'training')}; lower the learning rate (now "
            f"{settings.learning_rate:g}), or look for rows that are not finite"
        )


def _tensors(batch: tuple[Any, Any]) -> tuple[Any, Any]:
    import tensorflow as tf

    return tf.constant(batch[0]), tf.constant(batch[1])


def _mean_loss(losses: Callable[[Any, Any], Any], rows: Rows, at_once: int = 1024) -> float:
    total = 0.0
    for start in range(0, rows.count, at_once):
        values = losses(*_tensors(rows.batch(np.arange(start, min(start + at_once, rows.count)))))
        total += float(values.numpy().astype(np.float64).sum())
    return total / rows.count


def _end_epoch(run: Progress, validation_loss: float, rows: int, settings: Training) -> None:
    run.epoch += 1
    run.history.append({"epoch": run.epoch, "loss": run.loss_sum / rows, "validation_loss": validation_loss})
    if run.best_loss is None or validation_loss < run.best_loss * (1 - LEAST_GAIN):
        run.best_loss, run.best_epoch = validation_loss, run.epoch
    run.batch, run.loss_sum = 0, 0.0
    run.finished = run.epoch >= (settings.epochs or 0) or run.epoch - run.best_epoch >= settings.patience


def _save(folder: Path, run: Progress, variables: list[Any], best: list[np.ndarray]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{run.step:010d}.checkpoint"
    unfinished = path.with_suffix(".unfinished")
    arrays = {f"now{n}": variable.numpy() for n, variable in enumerate(variables)}
    arrays |= {f"best{n}": value for n, value in enumerate(best)}
    content = io.BytesIO()
    np.savez(content, run=np.array(json.dumps(asdict(run))), **arrays)  # pyright: ignore[reportArgumentType]
    with unfinished.open("wb") as file:
        file.write(hashlib.sha256(content.getbuffer()).digest())
        file.write(content.getbuffer())
    sync(unfinished)
    os.replace(unfinished, path)
    for old in sorted(folder.glob("step-*.checkpoint"))[:-KEPT_CHECKPOINTS]:
        old.unlink()


def _restore(folder: Path, variables: list[Any], best: list[np.ndarray]) -> Progress:
    """Set all variables from the newest checkpoint that can be read; a fresh start where there is none."""
    for path in sorted(folder.glob("step-*.checkpoint"), reverse=True):
        raw = path.read_bytes()
        if hashlib.sha256(memoryview(raw)[32:]).digest() != raw[:32]:
            log.warning("checkpoint %s is damaged (its checksum doesn't fit); going on from the one before", path.name)
            continue
        with np.load(io.BytesIO(raw[32:]), allow_pickle=False) as stored:
            now = [stored[f"now{n}"] for n in range(len(variables))]
            best[:] = [stored[f"best{n}"] for n in range(len(best))]
            run = Progress(**json.loads(str(stored["run"])))
        for variable, value in zip(variables, now, strict=True):
            variable.assign(value)
        log.info("goes on after step %d", run.step)
        return run
    return Progress()
