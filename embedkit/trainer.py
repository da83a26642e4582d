"""The training step: forward, backward and update, traced once, on one device or on several.

A stage says what is to be learned as a `Problem`; a `Trainer` is that problem with its optimizer on this machine's
devices. The loop (`training.fit`) and the checks before it take the same traced step.
"""

import contextlib
import fnmatch
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from embedkit import checkpoints, frameworks
from embedkit.batches import Batch, Rows
from embedkit.schedules import Training
from embedkit.settings import UserError, not_among
from embedkit.stages import Draft

Loss = Callable[[Any, Any], Any]
Step = Callable[[Any, Any, Any, bool], Any]
Augment = Callable[[Any, Any], tuple[Any, Any]]
Score = Callable[[np.ndarray], dict[str, float]]


@dataclass
class Problem:
    """What is to be learned.

    Attributes:
        model: a Keras model; `fit` leaves the weights of the best epoch in it.
        loss: from (targets, outputs) to one number per row, (rows,).
        train: rows to learn from.
        validation: rows that decide when to stop and which weights to keep.
        step: where a loss of outputs doesn't do: from (model, inputs, targets, training) to one number per row; it is traced
            without AutoGraph, as `augment` is.
        augment: changes (inputs, targets) in training, inside the traced step.
        state: Keras variables that `augment` changes, such as those of its seed generators.
        scores: measures of all validation outputs, (rows, ...) in their order, by name; `Training.monitor` may name one.
        target: value of the monitored measure at which the run ends.
        expected: mean loss that theory says of the untrained model, such as the entropy of the labels.
        separable: how many different rows the model can tell apart at least, which bounds the batch it is asked to overfit.
        bound: from the targets of a batch to the loss below which it counts as overfitted; by default a tenth of the first loss.
        factor: from the path of a variable to a factor of its learning rate; 1 for all by default. `Training.layer_rates`
            multiply it.
        keep_start: whether the first weights are kept unless an epoch beats them.
        measured_on: what the validation rows are called in the history; `fitted` where they are the training rows.
    """

    model: Any
    loss: Loss
    train: Rows
    validation: Rows
    step: Step | None = None
    augment: Augment | None = None
    state: list[Any] = field(default_factory=list)
    scores: Score | None = None
    target: float | None = None
    expected: float | None = None
    separable: int = 16
    bound: Callable[[Any], float] | None = None
    factor: Callable[[str], float] | None = None
    keep_start: bool = False
    measured_on: str = "validation"


class Trainer:
    """A problem, its optimizer and its traced step.

    `variables` is all that a step depends on and changes: weights, optimizer, random generators. `model` is the problem's
    own, or a copy of it where several devices or another number type compute; `finish` brings the weights home.
    """

    def __init__(self, problem: Problem, settings: Training):
        import keras

        assert settings.epochs is not None and settings.optimizer != "auto", "resolve the settings first"
        self.problem, self.settings = problem, settings
        self.strategy = _strategy(settings.devices)
        self.precision = _precision(settings.precision)
        self.model = problem.model
        with self.strategy.scope():
            if self.precision != "float32" or self.strategy.num_replicas_in_sync > 1:
                self.model = keras.models.clone_model(self.model, clone_function=self._cloned, recursive=True)
                checkpoints.assign(self.model.variables, checkpoints.values(problem.model.variables))
                for mine, given in zip(self.model.variables, problem.model.variables, strict=True):
                    mine.trainable = given.trainable  # of single variables the configuration says nothing
            groups = _groups(self.model, settings, problem.factor)
            self.groups = [(_optimizer(settings), factor, chosen) for factor, chosen in groups]
            for optimizer, _, chosen in self.groups:
                if narrow := [variable for variable in chosen if len(variable.shape) < 2]:
                    optimizer.exclude_from_weight_decay(var_list=narrow)
                optimizer.build(chosen)
        self._state = [variable for optimizer, _, _ in self.groups for variable in optimizer.variables]
        self.variables = [*self.model.variables, *self._state, *problem.state]
        self.specs = problem.train.specs()
        self._traces: dict[str, Any] = {}

    @property
    def replicas(self) -> int:
        """How many devices share a batch."""
        return self.strategy.num_replicas_in_sync

    @property
    def random(self) -> bool:
        """Whether two steps from the same state and batch could differ, but for their random generators."""
        return bool(self.problem.augment) or any("seed_generator" in variable.path for variable in self.model.variables)

    def restart(self, problem: Problem, weights: list[np.ndarray]) -> None:
        """Begin anew with other rows and first weights; what was traced is kept, since tracing a large network takes long.

        Args:
            problem: the same model, loss and augmentation, with rows of the same shapes.
            weights: of all variables of the problem's model.
        """
        assert problem.model is self.problem.model and problem.augment is self.problem.augment
        self.problem = problem
        checkpoints.assign(problem.model.variables, weights)
        if self.model is not problem.model:
            checkpoints.assign(self.model.variables, weights)
        for variable in self._state:
            variable.assign(np.zeros(variable.shape, variable.dtype))

    def step(self, batch: Batch, rate: float, calm: bool = False) -> tuple[Any, Any]:
        """Learn from one batch.

        Args:
            batch: what to learn from.
            rate: the learning rate.
            calm: without augmentation, dropout and other noise of training.

        Returns:
            The mean over the rows of weight times loss, and the loss of each row before the update, (rows,).
        """
        import tensorflow as tf

        name = "calm" if calm and self.random else "learn"
        if name not in self._traces:
            specs = (*self.specs, tf.TensorSpec([None], tf.float32), tf.TensorSpec([], tf.float32))
            learn = self._learn if name == "learn" else self._learn_calmly
            self._traces[name] = _traced(learn, specs)
        return self._traces[name](*tf.nest.flatten([batch.inputs, batch.targets]), batch.weights, tf.constant(rate, tf.float32))

    def losses(self, batch: Batch) -> np.ndarray:
        """The loss of each row at inference; (rows,) float64."""
        import tensorflow as tf

        if "losses" not in self._traces:
            self._traces["losses"] = _traced(lambda inputs, targets: self._losses(inputs, targets, False), self.specs)
        return self._traces["losses"](*tf.nest.flatten([batch.inputs, batch.targets])).numpy().astype(np.float64)

    def outputs(self, batch: Batch) -> np.ndarray:
        """The outputs at inference; (rows, ...) float32."""
        import tensorflow as tf

        if "outputs" not in self._traces:
            def forward(inputs: Any) -> Any:
                return tf.cast(self.model(inputs, training=False), tf.float32)

            self._traces["outputs"] = _traced(forward, self.specs[:1])
        return self._traces["outputs"](*tf.nest.flatten(batch.inputs)).numpy()

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Put the moving averages of the weights, where there are some, in the place of the weights inside the block."""
        if not self.settings.average:
            yield
            return
        pairs = [
            (variable, average)
            for optimizer, _, chosen in self.groups
            for variable, average in zip(chosen, optimizer._model_variables_moving_average, strict=True)
        ]
        now = checkpoints.values([variable for variable, _ in pairs])
        for variable, average in pairs:
            variable.assign(average.numpy())
        try:
            yield
        finally:
            checkpoints.assign([variable for variable, _ in pairs], now)

    @contextlib.contextmanager
    def untouched(self) -> Iterator[str]:
        """Give everything a step changes back after the block, its random generators too; proved by its hash.

        Yields:
            The hash, as hexadecimal digits.
        """
        kept = checkpoints.values(self.variables)
        before = self.digest()
        try:
            yield before
        finally:
            checkpoints.assign(self.variables, kept)
        if self.digest() != before:
            raise RuntimeError("a check before the run changed the model, the optimizer or a random generator")

    def digest(self) -> str:
        """Hash of weights, optimizer and random generators.

        Python's and numpy's own generators are no part of it: nothing here draws from them, and other threads may.
        """
        found = hashlib.sha256()
        for value in checkpoints.values(self.variables):
            found.update(value.tobytes())
        found.update(repr(frameworks.random_states()).encode())
        return found.hexdigest()

    def finish(self, best: list[np.ndarray]) -> None:
        """Leave these weights in the problem's own model."""
        checkpoints.assign(self.problem.model.variables, best)

    def _learn(self, inputs: Any, targets: Any, weights: Any, rate: Any) -> tuple[Any, Any]:
        if self.problem.augment:
            inputs, targets = self.problem.augment(inputs, targets)
        return self._update(inputs, targets, weights, rate, True)

    def _learn_calmly(self, inputs: Any, targets: Any, weights: Any, rate: Any) -> tuple[Any, Any]:
        return self._update(inputs, targets, weights, rate, False)

    def _update(self, inputs: Any, targets: Any, weights: Any, rate: Any, training: bool) -> tuple[Any, Any]:
        import tensorflow as tf

        for optimizer, factor, _ in self.groups:
            optimizer._learning_rate.assign(rate * factor)

        def on_one_device(inputs: Any, targets: Any, weights: Any) -> tuple[Any, Any]:
            context: Any = tf.distribute.get_replica_context()
            # Not by their sum: a batch with more rows of a rare class than others would then count no more than those.
            weights = weights / tf.cast(tf.shape(weights)[0], tf.float32)
            if self.replicas > 1:
                share = -(-tf.shape(weights)[0] // self.replicas)
                first = tf.cast(context.replica_id_in_sync_group, tf.int32) * share
                inputs, targets, weights = tf.nest.map_structure(lambda t: t[first : first + share], (inputs, targets, weights))
            value, losses, gradients = self._gradients(inputs, targets, weights, training)
            if self.settings.clip_norm:
                gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients) if self.replicas > 1 else gradients
                gradients = tf.clip_by_global_norm(gradients, self.settings.clip_norm)[0]
                # Keras adds up the devices' gradients, which are equal now.
                gradients = [each / self.replicas for each in gradients] if self.replicas > 1 else gradients
            for optimizer, _, chosen in self.groups:
                mine, gradients = gradients[: len(chosen)], gradients[len(chosen) :]
                optimizer.apply(mine, chosen)
            return value, losses

        value, losses = self.strategy.run(on_one_device, args=(inputs, targets, weights))
        parts = self.strategy.experimental_local_results(losses)
        return self.strategy.reduce(tf.distribute.ReduceOp.SUM, value, axis=None), tf.concat(parts, 0)

    def _gradients(self, inputs: Any, targets: Any, weights: Any, training: bool) -> tuple[Any, Any, list[Any]]:
        """Weighted sum of losses, the losses, and its gradient; piece after piece where the batch is accumulated."""
        import tensorflow as tf

        variables = [variable.value for _, _, chosen in self.groups for variable in chosen]

        def piece(inputs: Any, targets: Any, weights: Any, share: Any) -> tuple[Any, Any, list[Any]]:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(variables)
                losses = tf.cast(self._losses(inputs, targets, training), tf.float32)
                value = tf.reduce_sum(losses * weights)
                penalty = tf.add_n(self.model.losses) * share / self.replicas if self.model.losses else 0.0
                whole = value + penalty
            return value, losses, tape.gradient(whole, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)

        if self.settings.accumulate == 1:
            return piece(inputs, targets, weights, 1.0)
        size = -(-self.settings.batch_size // (self.settings.accumulate * self.replicas))
        rows = tf.shape(weights)[0]
        pieces = -(-rows // size)

        def more(number: Any, value: Any, losses: Any, total: list[Any]) -> Any:
            first, last = number * size, (number + 1) * size
            part = tf.nest.map_structure(lambda tensor: tensor[first:last], (inputs, targets, weights))
            gain, found, gradients = piece(part[0], part[1], part[2], 1.0 / tf.cast(pieces, tf.float32))
            dense = [old + tf.convert_to_tensor(new) for old, new in zip(total, gradients, strict=True)]
            return number + 1, value + gain, tf.concat([losses, found], 0), dense

        # The number of losses grows with each piece, which the loop has to know.
        start = (tf.constant(0), tf.constant(0.0), tf.zeros([0]), [tf.zeros(variable.shape) for variable in variables])
        shapes = (tf.TensorShape([]), tf.TensorShape([]), tf.TensorShape([None]), [variable.shape for variable in variables])
        _, value, losses, total = tf.while_loop(
            lambda number, *_: number < pieces, more, start, shape_invariants=shapes, parallel_iterations=1
        )
        return value, losses, total

    def _losses(self, inputs: Any, targets: Any, training: bool) -> Any:
        import tensorflow as tf

        if self.problem.step:
            return self.problem.step(self.model, inputs, targets, training)
        return self.problem.loss(targets, tf.cast(self.model(inputs, training=training), tf.float32))

    def _cloned(self, layer: Any) -> Any:
        """A layer of the copy, in the number type of the computation but where it scales raw inputs."""
        import keras

        config = layer.get_config()
        scales = isinstance(layer, keras.layers.Rescaling | keras.layers.Normalization)
        if self.precision != "float32" and isinstance(layer, keras.layers.Layer) and not scales:  # an operation has no policy
            config["dtype"] = keras.DTypePolicy(f"mixed_{self.precision}")
        return layer.__class__.from_config(config)


def _traced(function: Callable[..., Any], signature: tuple[Any, ...]) -> Any:
    """A graph of a function; what it decides by a tensor's value it has to say with `tf.cond` or Keras's operations."""
    import tensorflow as tf

    return tf.function(function, input_signature=signature, autograph=False).get_concrete_function()


def infinite(what: str, when: str, rows: Rows, batch: Batch, losses: np.ndarray, rate: float) -> UserError:
    """What to say of losses, (rows,), of which some are not finite: when, on which rows, and what to do."""
    chosen = batch.chosen.numpy()
    wrong = chosen[~np.isfinite(losses)] if not np.isfinite(losses).all() else chosen
    return UserError(
        f"the {what} loss became {'nan' if np.isnan(losses).any() else 'inf'} at {when}, on {len(wrong):,} of the batch's "
        f"{len(chosen):,} rows ({rows.named(wrong)}); lower the learning rate (now {rate:g}), or look for rows that are not finite"
    )


def _strategy(devices: str) -> Any:
    import tensorflow as tf

    if devices == "all" and len(found := _devices()) > 1:
        return tf.distribute.MirroredStrategy([device.name for device in found])
    return tf.distribute.get_strategy()


def _devices() -> list[Any]:
    """Those that can share a batch."""
    import tensorflow as tf

    return tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")


def settled(out: Draft, settings: Training) -> Training:
    """The settings with the number type that `auto` came to where the call began, or comes to here."""
    known = {} if settings.precision != "auto" else {"precision": out.decisions.get("precision") or _precision("auto")}
    return settings.model_copy(update=known)


def decided(out: Draft, settings: Training) -> Training:
    """The same, from here on for every call that resumes this one; and which devices share a batch, where all do."""
    found = settled(out, settings)
    if settings.precision == "auto":
        out.decide("precision", lambda: found.precision)
    if settings.devices == "all":  # where there are others, a draft isn't resumed
        out.decide("devices", lambda: [device.name for device in _devices()])
    return found


def _precision(asked: str) -> str:
    import tensorflow as tf

    if asked != "auto":
        return asked
    gpus = [tf.config.experimental.get_device_details(gpu) for gpu in tf.config.list_physical_devices("GPU")]
    new = all(gpu.get("compute_capability", (0, 0)) >= (8, 0) for gpu in gpus)  # NVIDIA Ampere was the first with bfloat16
    return "bfloat16" if gpus and new else "float32"


def _optimizer(settings: Training) -> Any:
    import keras

    more: dict[str, Any] = {"use_ema": True, "ema_momentum": settings.average} if settings.average else {}
    if settings.optimizer == "sgd":
        return keras.optimizers.SGD(1.0, momentum=0.9, nesterov=True, weight_decay=settings.weight_decay or None, **more)
    return keras.optimizers.AdamW(1.0, weight_decay=settings.weight_decay, **more)


def _groups(model: Any, settings: Training, factor: Callable[[str], float] | None) -> list[tuple[float, list[Any]]]:
    """The trainable variables by the factor of their learning rate, frozen ones left out."""
    rules = [(name, float(number)) for name, _, number in (rule.rpartition("=") for rule in settings.layer_rates)]
    names = sorted({part for variable in model.trainable_variables for part in variable.path.split("/")})
    for name, _ in rules:
        if not fnmatch.filter(names, name):
            raise not_among("layer", name, names, hint="in layer_rates")
    groups: dict[float, list[Any]] = {}
    for variable in model.trainable_variables:
        own = factor(variable.path) if factor else 1.0
        fits = (number for name, number in rules if fnmatch.filter(variable.path.split("/"), name))
        groups.setdefault(own * next(fits, 1.0), []).append(variable)
    groups.pop(0.0, None)
    if not groups:
        raise UserError("layer_rates freezes every layer; leave one at least to learn")
    return list(groups.items())
