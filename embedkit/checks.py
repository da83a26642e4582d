"""Checks: what to know before a long run, so that a night isn't lost to what a minute would have shown.

Every check runs on the trainer's own traced step and gives back all it changed: the hash of weights, optimizer and random
generators is the same before and after. Its result is plain JSON: numbers, and one `line` for people.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from embedkit import metrics
from embedkit.batches import Batch, Rows, batch_of, parts_of, stream, training_stream
from embedkit.schedules import DEFAULT_RATES
from embedkit.settings import UserError
from embedkit.sizes import sizes
from embedkit.splits import hash64
from embedkit.trainer import Trainer, infinite

FITTED = 0.1
"""One batch counts as overfitted when its loss fell to this share of what it was, where the problem names no other bound."""
OVERFIT_STEPS = 150
OVERFIT_RATES = (1.0, 0.3, 3.0, 0.1, 10.0)
"""Times the run's learning rate, tried in turn: the check is of model, loss and rows, not of the rate."""
STEPS = (20, 100)
"""Least and most steps of the other checks; in between a twentieth of the run's."""
SAMPLE = 1024
RANGE = {"adamw": (1e-6, 1.0), "sgd": (1e-4, 100.0)}
LOWER_RATES = (1.0, 0.1, 0.01)
LEAST_RANGE = 40
SHUFFLES = 4
CALM = 5
"""First steps of a range test, whose rates are too small to change anything: it starts from their losses."""
DIVERGED = 4.0
CAUSES = "labels that don't belong to their rows, inputs that are all alike or badly scaled, a loss that doesn't fit the outputs"


def preflight(trainer: Trainer, seed: int) -> dict[str, dict[str, Any]]:
    """All checks of a run, by name.

    Raises:
        UserError: when one batch can't be overfitted, naming its rows.
    """
    found = {}
    with trainer.untouched() as digest:
        found["initial_loss"] = initial_loss(trainer, seed)
        checks = {"overfit_one_batch": overfit_one_batch, "zeroed_inputs": zeroed_inputs, "learning_rate": learning_rate_range}
        if trainer.settings.thorough:
            checks["shuffled_labels"] = shuffled_labels
        for name, check in checks.items():
            with trainer.untouched():
                found[name] = check(trainer, seed)
        if trainer.settings.thorough:
            found["sizes"] = sizes(trainer)
    return found | {"untouched": {"sha256": digest, "line": f"model, optimizer and random generators are as before: {digest[:16]}"}}


def initial_loss(trainer: Trainer, seed: int) -> dict[str, Any]:
    """The loss of the untrained model on training rows, against what theory says of it."""
    rows = trainer.problem.train
    loss = metrics.mean(_losses(trainer, rows, _sample(rows, seed)))
    expected = trainer.problem.expected
    found: dict[str, Any] = {"loss": loss.value, "standard_error": loss.standard_error, "rows": loss.n, "expected": expected}
    if expected is None:
        return found | {"line": f"loss before training: {loss}"}
    near = loss.value <= expected * 1.1 + 3 * (loss.standard_error or 0)
    words = "as it should be" if near else "much higher: the untrained outputs are too large, or their bias is wrong"
    return found | {"as_expected": near, "line": f"loss before training: {loss}, the labels' entropy is {expected:.4g}: {words}"}


def overfit_one_batch(trainer: Trainer, seed: int) -> dict[str, Any]:
    """Whether the model can learn a few rows by heart, with the noise of training off.

    Raises:
        UserError: when it can't.
    """
    rows = trainer.problem.train
    chosen = _different(rows, seed, min(trainer.problem.separable, trainer.settings.batch_size))
    batch = batch_of(rows, chosen, trainer.specs)
    before = float(trainer.losses(batch).mean())
    bound = trainer.problem.bound(rows.batch(chosen)[1]) if trainer.problem.bound else FITTED * before
    best = before
    ids = [int(rows.ids[row]) if rows.ids is not None else int(row) for row in chosen]
    found: dict[str, Any] = {"rows": len(chosen), "ids": ids, "loss_before": before, "bound": bound}
    for factor in OVERFIT_RATES:
        with trainer.untouched():
            for step in range(1, OVERFIT_STEPS + 1):
                value = float(trainer.step(batch, _rate(trainer) * factor, calm=True)[0])
                if not math.isfinite(value):
                    break
                best = min(best, value)
                if value <= bound:
                    line = f"one batch of {len(chosen)} rows can be overfitted: loss {before:.4g} to {value:.4g} in {step} steps"
                    return found | {"loss": value, "steps": step, "rate_factor": factor, "line": line}
    raise UserError(
        f"one batch of {len(chosen)} rows can't be overfitted: its loss fell from {before:.4g} to {best:.4g} only, not to "
        f"{bound:.4g}, at {len(OVERFIT_RATES)} learning rates around {_rate(trainer):g}; usual causes are {CAUSES}; look at the "
        f"rows {', '.join(map(str, ids))}, or set preflight to false"
    )


def zeroed_inputs(trainer: Trainer, seed: int) -> dict[str, Any]:
    """Whether inputs matter: after a few steps the model must do better than one that saw zeros instead."""
    real, blank = trainer.problem.validation, _zeroed(trainer.problem.validation)
    chosen, steps = _sample(real, seed), _steps(trainer)
    seen = _learned(trainer, trainer.problem.train, real, chosen, seed, steps)
    unseen = _learned(trainer, _zeroed(trainer.problem.train), blank, chosen, seed, steps)
    gain = metrics.mean(unseen - seen)
    clear = gain.value > 2 * (gain.standard_error or 0)
    words = "inputs matter" if clear else "so far the inputs bring nothing"
    line = f"after {steps} steps the loss is {seen.mean():.4g}, with zeroed inputs {unseen.mean():.4g}: {words}"
    found = {"loss": float(seen.mean()), "loss_of_zeros": float(unseen.mean()), "standard_error": gain.standard_error}
    return found | {"steps": steps, "rows": gain.n, "inputs_matter": clear, "line": line}


def shuffled_labels(trainer: Trainer, seed: int) -> dict[str, Any]:
    """Whether a model trained on shuffled labels scores as one that never saw the inputs; if better, labels leak somewhere.

    Done SHUFFLES times: one shuffle may by chance leave a class many of its labels.
    """
    rows, validation = trainer.problem.train, trainer.problem.validation
    chosen, steps, gains = _sample(validation, seed), _steps(trainer), []
    for number in range(SHUFFLES):
        shuffle = np.random.default_rng([seed, number]).permutation(rows.count)
        shuffled = rows.changed(lambda chosen, inputs, _, shuffle=shuffle: (inputs, rows.batch(shuffle[chosen])[1]))
        seen = _learned(trainer, shuffled, validation, chosen, seed, steps)
        gains.append((_learned(trainer, _zeroed(shuffled), _zeroed(validation), chosen, seed, steps) - seen).mean())
    gain = metrics.mean(np.array(gains))
    chance = gain.value <= 3 * (gain.standard_error or 0)
    words = "as chance" if chance else "better than chance, so labels leak into the inputs, or rows into the validation split"
    line = f"{SHUFFLES} times {steps} steps on shuffled labels lowered the loss by {gain.value:.2g}: {words}"
    return {"gain": gain.value, "standard_error": gain.standard_error, "steps": steps, "as_chance": chance, "line": line}


def learning_rate_range(trainer: Trainer, seed: int) -> dict[str, Any]:
    """The loss while the learning rate rises from step to step (Smith 2017, arXiv:1506.01186), and the rate it suggests."""
    low, high = RANGE[trainer.settings.optimizer]
    steps = max(LEAST_RANGE, _steps(trainer))
    rates, losses = np.geomspace(low, high, steps), []
    for rate, batch in zip(rates, _batches(trainer, trainer.problem.train, seed, steps), strict=True):
        value, each = trainer.step(batch, float(rate))
        losses.append(float(value))
        if len(losses) == 1 and not math.isfinite(losses[0]):
            raise infinite("first", "the range test of learning rates", trainer.problem.train, batch, each.numpy(), float(rate))
        if not math.isfinite(losses[-1]) or (len(losses) > CALM and min(losses[-3:]) > DIVERGED * max(losses[:CALM])):
            losses = losses[:-1]
            break
    smoothed, suggestion = suggest(rates[: len(losses)], np.array(losses))
    words = "no usable slope" if suggestion is None else f"the loss falls fastest at {suggestion:g}"
    return {
        "rates": [float(f"{rate:.4g}") for rate in rates[: len(losses)]],
        "losses": losses,
        "smoothed": smoothed.tolist(),
        "suggestion": suggestion,
        "line": f"learning rates from {low:g} to {rates[len(losses) - 1]:.2g}: {words}",
    }


def suggest(rates: np.ndarray, losses: np.ndarray) -> tuple[np.ndarray, float | None]:
    """What a range test suggests.

    Args:
        rates: (steps,), rising by a constant factor.
        losses: (steps,) of the batch at each rate, before its update.

    Returns:
        The losses smoothed over an eighth of the steps, (steps,), and the rate at which they fall fastest; None where they
        never fell by more than their noise.
    """
    width = 2 * (len(losses) // 16) + 1
    # Batches of texts are of one length each, and some are learned already or hard to learn: a median passes over them.
    usual = np.median(sliding_window_view(np.pad(losses, 2, mode="reflect"), 5), axis=1)
    padded = np.pad(usual, width // 2, mode="edge")
    smoothed = np.convolve(padded, np.ones(width) / width, mode="valid")
    calm = losses[: max(CALM, len(losses) // 8)]  # the first rates are too small to change anything
    lowest = int(smoothed.argmin())
    level, around = float(np.median(calm)), float(np.median(np.abs(calm - np.median(calm))))
    noise = 1.4826 * around + 0.02 * abs(level)  # so much of a normal distribution's median distance is its standard deviation
    if len(losses) < LEAST_RANGE // 2 or level - float(smoothed[lowest]) <= noise:
        return smoothed, None
    fastest = int(np.gradient(smoothed)[: lowest + 1].argmin())
    return smoothed, float(f"{rates[fastest]:.2g}")


def _rate(trainer: Trainer) -> float:
    rate = trainer.settings.learning_rate
    return float(rate) if isinstance(rate, float | int) else DEFAULT_RATES[trainer.settings.optimizer]


def _steps(trainer: Trainer) -> int:
    per_epoch = -(-len(trainer.problem.train.epoch(0, 0)) // trainer.settings.batch_size)
    return int(np.clip(per_epoch * (trainer.settings.epochs or 1) // 20, *STEPS))


def _batches(trainer: Trainer, rows: Rows, seed: int, steps: int) -> Iterator[Batch]:
    yield from training_stream(rows, trainer.specs, trainer.settings.batch_size, seed, 0, steps)


def _learned(trainer: Trainer, rows: Rows, measured: Rows, chosen: np.ndarray, seed: int, steps: int) -> np.ndarray:
    """Losses of rows after a few steps; at a lower rate where the run's own is too high for these inputs, as zeros may be."""
    for factor in LOWER_RATES:
        with trainer.untouched():
            values = [float(trainer.step(batch, _rate(trainer) * factor)[0]) for batch in _batches(trainer, rows, seed, steps)]
            if np.isfinite(values).all() or factor == LOWER_RATES[-1]:
                losses = _losses(trainer, measured, chosen, only_finite=factor == LOWER_RATES[-1])
                if np.isfinite(losses).all():
                    return losses
    raise AssertionError("the last rate returns or raises")


def _sample(rows: Rows, seed: int) -> np.ndarray:
    return np.sort(np.random.default_rng(seed).permutation(rows.count)[:SAMPLE])


def _losses(trainer: Trainer, rows: Rows, chosen: np.ndarray, only_finite: bool = True) -> np.ndarray:
    size = min(256, 4 * trainer.settings.batch_size)
    losses = []
    for batch in stream(rows, trainer.specs, parts_of(chosen, size)):
        losses.append(trainer.losses(batch))
        if only_finite and not np.isfinite(losses[-1]).all():
            raise infinite("first", "a check before the run", rows, batch, losses[-1], _rate(trainer))
    return np.concatenate(losses)


def _zeroed(rows: Rows) -> Rows:
    import tensorflow as tf

    return rows.changed(lambda chosen, inputs, targets: (tf.nest.map_structure(np.zeros_like, inputs), targets))


def _different(rows: Rows, seed: int, most: int) -> np.ndarray:
    """A few rows with as many different targets as there are, and inputs that are as far from each other as rows here are.

    Raises:
        UserError: when an input is not finite.
    """
    import tensorflow as tf

    candidates = np.unique(rows.epoch(seed, 0)[: SAMPLE // 4])
    inputs, targets = rows.batch(candidates)
    for array in tf.nest.flatten(inputs):
        if array.dtype.kind == "f" and not (finite := np.isfinite(array).reshape(len(array), -1).all(axis=1)).all():
            raise UserError(f"the inputs of row {rows.named(candidates[~finite])} are not finite; leave such rows out or mend them")
    flat = np.concatenate([array.reshape(len(array), -1).astype(np.float32) for array in tf.nest.flatten(inputs)], axis=1)
    lines = zip(*tf.nest.flatten(targets), strict=True)
    names = np.array([hash64(b"".join(np.asarray(one).tobytes() for one in line)) for line in lines])
    chosen = [0]
    while len(chosen) < most:
        nearest = np.min([np.square(flat - flat[row]).sum(axis=1) for row in chosen], axis=0)
        counts = {name: int((names[chosen] == name).sum()) for name in np.unique(names[nearest > 0])}
        if not counts:
            break
        rarest = np.isin(names, [name for name, count in counts.items() if count == min(counts.values())])
        chosen.append(int(np.where(rarest, nearest, -1).argmax()))
    return np.sort(candidates[chosen])
