"""Imitation: the loss by which a student learns from a teacher's answers, row by row.

A row's targets are one line of numbers: the teacher's outputs before softmax or sigmoid, the label, whether there is one, and
the teacher's vector in the student's space. What the model gives is a line too: its vector, then its outputs. Keras's
own `keras.distillation` gives one number for a batch and trains in `fit`; here every row has its loss, as the loop needs it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import NonNegativeFloat, PositiveFloat

from embedkit import berts, students
from embedkit.encoders import Encoder
from embedkit.settings import Seeded
from embedkit.tasks import Task

RELATION_HEADS = 12
"""Heads into which queries, keys and values are cut for their relations; MiniLMv2 took 48 for a network twice as wide."""
SIMCSE = 0.05
"""Temperature of the contrast (Gao et al. 2021)."""
UNSEEN = 0.1
"""Share of a text's tokens that each look at it leaves out, for contrast."""


class Weights(Seeded):
    """What a student learns from its teacher: how much each part of the loss counts."""

    temperature: PositiveFloat = 2.0
    """Softens both distributions before they are compared; 1 leaves them. Hinton et al. 2015, arXiv:1503.02531."""
    soft: NonNegativeFloat = 1.0
    """Weight of the teacher's outputs, for teachers that are classifiers: the divergence between the softened distributions, times
    the temperature squared (Hinton et al. 2015)."""
    labels: NonNegativeFloat = 0.0
    """Weight of the labels themselves, on rows that have one."""
    vectors: NonNegativeFloat = 1.0
    """Weight of the teacher's vectors."""
    vector_loss: Literal["cosine", "mse"] = "cosine"
    """How far vectors are from the teacher's: 1 - cosine, or the squared distance, as a share of the teacher's mean square."""
    hidden: NonNegativeFloat = 0.0
    """Weight of the teacher's hidden states at even distances, through a linear map that is dropped afterwards (TinyBERT; Jiao et
    al. 2020, arXiv:1909.10351); for `layers` and `narrow`. The teacher then computes in every step."""
    attention: NonNegativeFloat = 0.0
    """Weight of the last layer's relations between queries, keys and values (MiniLMv2; Wang et al. 2021, arXiv:2012.15828); for
    `layers` and `narrow`."""
    contrast: NonNegativeFloat = 0.0
    """Weight of telling texts apart by two looks at each through dropout, without any teacher (SimCSE; Gao et al. 2021,
    arXiv:2104.08821): what the twin of an encoder learns."""


@dataclass(frozen=True)
class Line:
    """Where each part of a row's targets lies: `outputs`, `labels` (so many numbers each) and `dimension` of the vector."""

    outputs: int
    dimension: int

    def of(self, outputs: np.ndarray, labels: np.ndarray, known: np.ndarray, vectors: np.ndarray) -> np.ndarray:
        """Targets, (rows, 2 outputs + 1 + dimension) float32."""
        return np.concatenate([outputs, labels, known[:, None], vectors], axis=1).astype(np.float32)

    def parts(self, targets: Any) -> tuple[Any, Any, Any, Any]:
        """Outputs, labels, whether they are known, (rows,), and vectors."""
        wide = 2 * self.outputs
        return targets[:, : self.outputs], targets[:, self.outputs : wide], targets[:, wide], targets[:, wide + 1 :]


def _ops() -> Any:
    from keras import ops  # typed as if it could give None

    return ops


def soft_loss(task: Task, teacher: Any, student: Any, temperature: float) -> Any:
    """How far a student's outputs are from the teacher's, (rows,).

    The Kullback-Leibler divergence of the softened distributions times the squared temperature, summed over several labels; half
    the squared difference of numbers.
    """
    ops = _ops()

    if task.kind == "number":
        return ops.mean(0.5 * ops.square(student - teacher), axis=-1)
    goal, ours = teacher / temperature, student / temperature
    if task.kind == "class":
        shares = ops.softmax(goal)
        return temperature**2 * ops.sum(shares * (ops.log_softmax(goal) - ops.log_softmax(ours)), axis=-1)
    share = ops.sigmoid(goal)
    apart = share * (ops.log_sigmoid(goal) - ops.log_sigmoid(ours))
    apart += (1 - share) * (ops.log_sigmoid(-goal) - ops.log_sigmoid(-ours))
    return temperature**2 * ops.sum(apart, axis=-1)


def vector_loss(teacher: Any, student: Any, kind: str) -> Any:
    """How far vectors are from the teacher's, (rows,): 1 - cosine, or the squared distance over the batch's mean square."""
    ops = _ops()

    if kind == "cosine":
        squares = ops.sum(teacher**2, axis=-1) * ops.sum(student**2, axis=-1)
        return 1 - ops.sum(teacher * student, axis=-1) / ops.sqrt(ops.maximum(squares, 1e-12))  # a root has no slope at 0
    return ops.sum((teacher - student) ** 2, axis=-1) / ops.maximum(ops.mean(ops.sum(teacher**2, axis=-1)), 1e-6)


def contrast_loss(one: Any, other: Any) -> Any:
    """How badly the other look at each row is told from the other rows of the batch, (rows,) (Gao et al. 2021)."""
    ops = _ops()

    one, other = (each / ops.sqrt(ops.maximum(ops.sum(each**2, axis=-1, keepdims=True), 1e-12)) for each in (one, other))
    near = ops.matmul(one, ops.transpose(other)) / SIMCSE
    return ops.logsumexp(near, axis=-1) - ops.diagonal(near)


def hidden_loss(teacher: Any, student: Any, mask: Any) -> Any:
    """Mean squared distance of tokens over the teacher's mean square, padding left out, (rows,); (rows, length, width) each."""
    ops = _ops()

    far = ops.mean((teacher - student) ** 2, axis=-1) * mask
    return ops.sum(far, axis=-1) / ops.maximum(ops.sum(mask, axis=-1), 1.0) / ops.maximum(ops.mean(teacher**2), 1e-6)


def relation_loss(teacher: Any, student: Any, mask: Any) -> Any:
    """How far the relations between a layer's queries, keys or values are from the teacher's, (rows,) (Wang et al. 2021).

    Args:
        teacher: (rows, length, heads, width of a head).
        student: the same of the student, of any width; both are cut into as many heads as divide RELATION_HEADS and both widths.
        mask: (rows, length), 1 for a token.
    """
    ops = _ops()
    heads = int(np.gcd.reduce([RELATION_HEADS, *(parts.shape[2] * parts.shape[3] for parts in (teacher, student))]))

    def relations(parts: Any) -> Any:
        length, width = ops.shape(parts)[1], parts.shape[2] * parts.shape[3]
        cut = ops.transpose(ops.reshape(parts, (-1, length, heads, width // heads)), (0, 2, 1, 3))
        near = ops.matmul(cut, ops.transpose(cut, (0, 1, 3, 2))) / np.sqrt(width // heads)
        return ops.log_softmax(near - 1e9 * (1 - mask[:, None, None, :]))

    theirs, ours = relations(teacher), relations(student)
    apart = ops.mean(ops.sum(ops.exp(theirs) * (theirs - ours), axis=-1), axis=1)  # (rows, length)
    return ops.sum(apart * mask, axis=-1) / ops.maximum(ops.sum(mask, axis=-1), 1.0)


class Watched:
    """A student whose inner states are held against the teacher's, which computes beside it in every step.

    `model` gives what the plain one gives and then the student's states, those before the last turned into the teacher's width
    by maps that learn too.
    """

    def __init__(self, teacher: Encoder, plain: Any, encoder: Any):
        import keras

        theirs, ours = students.taps(teacher.model), students.taps(encoder)
        pairs = np.linspace(0, len(theirs) - 1, len(ours)).round().astype(int)
        wide = int(theirs[0].shape[-1])
        mapped: list[Any] = [
            keras.layers.Dense(wide, kernel_initializer="orthogonal", name=f"to_teacher_{number}")(tensor)
            for number, tensor in enumerate(ours)
        ]
        self.last = berts.anatomy(encoder, "the student").layers[-1].name
        self.model = keras.Model(plain.input, [plain.output, *mapped, ours[-2]])
        self.teacher = keras.Model(teacher.model.input, [*(theirs[place] for place in pairs), theirs[-2]])
        self.teacher.trainable = False
        self.teachers_last = berts.parts(berts.anatomy(teacher.model, teacher.name).layers[-1])

    def losses(self, model: Any, inputs: Any, states: list[Any], weights: Weights) -> Any:
        """The weighted losses of inner states, (rows,)."""
        ops = _ops()

        mask = ops.cast(inputs["padding_mask"], "float32")
        *theirs, before = [ops.stop_gradient(state) for state in self.teacher(inputs, training=False)]
        total: Any = 0.0
        if weights.hidden:
            pairs = zip(theirs, states[:-1], strict=True)
            total += weights.hidden * sum(hidden_loss(t, ops.cast(s, "float32"), mask) for t, s in pairs) / len(theirs)
        if weights.attention:
            ours = berts.parts(model.get_layer(self.last))
            for name in ("query", "key", "value"):
                goal = ops.stop_gradient(self.teachers_last[name](before))
                total += weights.attention / 3 * relation_loss(goal, ops.cast(ours[name](states[-1]), "float32"), mask)
        return total


def step_of(task: Task | None, line: Line, weights: Weights, watched: Watched | None, generator: Any) -> Callable[..., Any]:
    """The loss of each row, as the loop takes it: from (model, inputs, targets, training) to (rows,).

    Args:
        task: what is predicted; None for encoders.
        line: where the targets lie.
        weights: of the parts.
        watched: where inner states count.
        generator: a Keras `SeedGenerator`, for contrast.
    """
    ops = _ops()

    def looked(model: Any, inputs: Any, training: bool) -> tuple[Any, list[Any]]:
        found = model(inputs, training=training)
        main, *states = found if watched else [found]
        return ops.cast(main, "float32"), states

    def step(model: Any, inputs: Any, targets: Any, training: bool) -> Any:
        outputs, labels, known, vectors = line.parts(targets)
        main, states = looked(model, _fewer(inputs, generator) if weights.contrast and training else inputs, training)
        ours, said = main[:, : line.dimension], main[:, line.dimension :]
        total = ops.zeros_like(known)
        if weights.soft and task:
            total += weights.soft * soft_loss(task, outputs, said, weights.temperature)
        if weights.labels and task:
            total += weights.labels * known * task.loss()(labels, said)
        if weights.vectors:
            total += weights.vectors * vector_loss(vectors, ours, weights.vector_loss)
        if weights.contrast:
            again = _fewer(inputs, generator) if training else inputs
            total += weights.contrast * contrast_loss(ours, looked(model, again, training)[0][:, : line.dimension])
        if watched:
            total += watched.losses(model, inputs, states, weights)
        return total

    return step


def _fewer(inputs: Any, generator: Any) -> Any:
    """Texts without a few of their tokens, the first of each left; other rows as they are."""
    import keras

    ops = _ops()

    if not isinstance(inputs, dict):
        return inputs
    mask = inputs["padding_mask"]
    kept = ops.cast(keras.random.uniform(ops.shape(mask), seed=generator) >= UNSEEN, mask.dtype)
    kept = ops.concatenate([ops.ones_like(kept[:, :1]), kept[:, 1:]], axis=1)
    return inputs | {"padding_mask": mask * kept}
