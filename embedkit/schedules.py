"""Schedules: how long and how fast a network learns, as settings and as pure functions of where a run is."""

import math
import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, NonNegativeFloat, PositiveFloat, PositiveInt

from embedkit.settings import Settings

LEAST_GAIN = 0.001
"""Relative fall of the validation loss that counts as one; smaller falls would keep a flat run alive for ever."""
WORSENING = 0.05
"""Relative rise of the validation loss above its lowest, for `course` to call it one; less is noise."""
DEFAULT_RATES = {"sgd": 1.0, "adamw": 1e-3}
Share = Annotated[float, Field(ge=0, lt=1)]
Optimizer = Literal["auto", "adamw", "sgd"]


def _rule(text: str) -> str:
    if not re.fullmatch(r"[^=]+=\d+(\.\d+)?", text):
        raise ValueError("NAME=FACTOR is meant, such as block_1*=0.1")
    return text


class Training(Settings):
    """How long and how fast a network learns."""

    epochs: PositiveInt | None = None
    """Passes over the training rows at most, by default 1,000 for a head, 60 for an autoencoder, and as many as make 300
    steps, 5 to 40, for fine-tuning; early stopping usually ends the run sooner."""
    epochs_factor: PositiveInt = 1
    """Times as many epochs, with early stopping off, to see where a longer run stops helping; the best weights are kept all the
    same."""
    batch_size: PositiveInt = 64
    """Rows in one step, those of all devices together."""
    optimizer: Optimizer = "auto"
    """AdamW, or gradient descent with Nesterov momentum 0.9; `auto` takes the second for linear heads, whose result then
    doesn't depend on how the vectors are rotated, and AdamW for everything else."""
    learning_rate: PositiveFloat | Literal["auto"] | None = None
    """Step size; by default 0.001 for AdamW (Kingma and Ba 2015, arXiv:1412.6980), 0.0002 to 0.001 by recipe for fine-tuning,
    and 1 for gradient descent on scaled vectors; `auto` takes what the range test suggests."""
    schedule: Literal["auto", "constant", "cosine", "plateau"] = "auto"
    """How the learning rate goes on after the warm-up: it stays, falls to 0 along a cosine over all epochs (Loshchilov and
    Hutter 2017, arXiv:1608.03983), or falls to a third whenever half of `patience` epochs brought no gain; `auto` takes the cosine
    for surrogates and fine-tuning, and else a constant rate."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps over which the learning rate rises to its value (Goyal et al. 2017, arXiv:1706.02677)."""
    weight_decay: NonNegativeFloat = 0.0
    """Share by which weights shrink a step, times the learning rate (Loshchilov and Hutter 2019, arXiv:1711.05101); biases and
    scales of normalisation are left alone."""
    clip_norm: PositiveFloat | None = None
    """Length to which the gradient of all weights together is cut (Pascanu et al. 2013, arXiv:1211.5063)."""
    accumulate: PositiveInt = 1
    """Pieces in which a batch is computed one after the other, to need less memory; the step stays the same, but for layers that
    look at a whole batch."""
    average: Share = 0.0
    """Decay of a moving average of the weights, such as 0.999, which then is what is validated and kept (Polyak and Juditsky
    1992); 0 keeps none."""
    layer_rates: tuple[Annotated[str, AfterValidator(_rule)], ...] = ()
    """Learning rates of groups of layers as NAME=FACTOR, such as `block_1*=0.1`; the first name that fits counts, a factor of 0
    freezes."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number type of the computation, weights stay float32 (Micikevicius et al. 2018, arXiv:1710.03740); `auto` takes bfloat16 on
    GPUs that have it."""
    devices: Literal["one", "all"] = "one"
    """Compute on one device or share each batch among all GPUs of this machine (all its processor devices where it has none)."""
    patience: PositiveInt | None = 10
    """Epochs without a gain before the run stops and the best weights are restored, usually 5 to 20; none never stops early."""
    monitor: str = "loss"
    """What a gain is measured by on the validation rows: `loss`, or a measure of the stage such as `balanced_accuracy`."""
    checkpoint_every: PositiveInt = 500
    """Steps between checkpoints, beside the one after each epoch; `checkpoint_share` may leave some of them out."""
    checkpoints: PositiveInt = 2
    """How many of the newest checkpoints are kept."""
    checkpoint_share: Annotated[float, Field(gt=0, le=1)] = 0.05
    """Share of the time that checkpoints may take; one that comes too soon after the last is left out, with 1 none is."""
    preflight: bool = True
    """Whether to check before the run that a batch can be overfitted, that the first loss is as theory says, that inputs matter,
    and which learning rates work; a batch that can't be overfitted stops the run."""
    thorough: bool = False
    """Whether to check also that shuffled labels score as chance, and which batch size and widths suit this machine."""


def resolve(settings: Training, linear: bool, epochs: int, rate: float | None = None) -> Training:
    """The same settings with what `auto` and the defaults that depend on the stage come to.

    A learning rate of `auto` stays, until the range test was run.

    Args:
        settings: as given.
        linear: whether the model is linear, which decides the optimizer.
        epochs: the stage's own default.
        rate: the stage's own default learning rate for AdamW, where it has one.
    """
    optimizer = ("sgd" if linear else "adamw") if settings.optimizer == "auto" else settings.optimizer
    usual = rate if rate is not None and optimizer == "adamw" else DEFAULT_RATES[optimizer]
    learning_rate = settings.learning_rate or usual
    planned = (settings.epochs or epochs) * settings.epochs_factor
    patience = settings.patience if settings.epochs_factor == 1 else None
    known = {"optimizer": optimizer, "learning_rate": learning_rate, "epochs": planned, "patience": patience}
    return settings.model_copy(update=known)


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
        if gained(value, best):
            best, since = value, 0
        else:
            since += 1
            if since == length:
                falls, since = falls + 1, 0
    return falls


def gained(value: float, best: float | None) -> bool:
    """Whether a measure of which less is better fell by enough to count."""
    return best is None or math.isinf(best) or best - value > LEAST_GAIN * abs(best)


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
        if epoch and gained(value, monitored[low]):
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
