"""An apprentice: a student with its head, the rows that it learns from, and the teacher's answers to them; and its run.

The head starts as the teacher's, turned into the student's space, so that a student which hardly differs has little to learn.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from embedkit import engines, students
from embedkit.artifacts import Artifact
from embedkit.encoders import Encoder, EncoderFacts, feed
from embedkit.imitation import Line, Watched, Weights, step_of
from embedkit.learning import Learned, learn
from embedkit.lessons import Lesson
from embedkit.pipelines import TextFeed
from embedkit.preparation import Joined, Prepared
from embedkit.schedules import Training
from embedkit.stages import Draft
from embedkit.students import Student
from embedkit.training import Problem, Rows, resolve
from embedkit.tuning import Joint, join

LOOKS = 10
"""Times that a run looks at its validation rows at most; as many as divide its steps."""
SCALED_BY = 2048
"""Rows whose vectors the scaling of the head is taken from at most."""


@dataclass
class Transfer:
    """Rows of one dataset to learn from, `places`, and what the teacher says of all of its rows.

    `vectors` are the teacher's, (rows of the dataset, its dimension), `outputs` those of its head, (rows, outputs), numbers in
    standard deviations.
    """

    dataset: Artifact
    places: np.ndarray
    vectors: np.ndarray
    outputs: np.ndarray


class Apprentice:
    """A student that is ready to learn.

    Args:
        out: the draft, beside which inputs are kept.
        teacher: its encoder, for hidden states.
        head: kernel, (dimension of the teacher, outputs), and bias, (outputs,), of the teacher's head; None for an encoder, or
            where the head isn't linear.
        student: at its first weights.
        sources: what is learned from; the first one is the dataset of the lesson.
        lesson: which of its rows stop and test, and the task.
        weights: of the parts of the loss.
        dropout: of the head.
        seed: of what is random.
    """

    def __init__(
        self,
        out: Draft,
        teacher: Encoder,
        head: tuple[np.ndarray, np.ndarray] | None,
        student: Student,
        sources: list[Transfer],
        lesson: Lesson,
        weights: Weights,
        dropout: float,
        seed: int,
    ):
        self.student, self.sources, self.lesson, self.weights, self.seed = student, sources, lesson, weights, seed
        self.facts: EncoderFacts = student.facts
        self.feed = feed(student.facts, student.tokenizer)
        counts = [source.dataset.manifest.rows or 0 for source in sources]
        self.starts = np.concatenate([[0], np.cumsum(counts)])
        held = np.concatenate([sources[0].places, lesson.validation, lesson.test])
        wanted = [np.unique(held), *(source.places for source in sources[1:])]
        folders = [out.work / f"rows-{number}" for number in range(len(sources))]
        parts = [
            Prepared(one.dataset, self.feed, places, folder)
            for one, places, folder in zip(sources, wanted, folders, strict=True)
        ]
        self.own, self.prepared = parts[0], Joined(parts, counts, self.feed)
        taught = weights.soft or weights.vectors or weights.hidden or weights.attention or weights.contrast
        places = [one.places + start for one, start in zip(sources, self.starts[:-1], strict=True)]
        self.train = np.sort(np.concatenate(places)) if taught else lesson.train
        if self.prepared.lengths is not None:  # a vector of zeros has no direction to learn, and unit length no slope there
            self.train = self.train[self.prepared.lengths[self.train] > 0]
        self.small = self._small()
        self.encoder = self.small.model if self.small else student.model
        self.joint = join(self.encoder, lesson.task, dropout) if lesson.task.outputs and lesson.task.kind != "none" else None
        if self.joint:
            self._begin(self.joint, head)
        self._model(teacher)

    @property
    def whole(self) -> Any:
        """The student's encoder as it is kept."""
        return self.student.model

    @property
    def count(self) -> int:
        """Rows that are learned from."""
        return len(self.train)

    def _small(self) -> students.Small | None:
        """The student with a table of the tokens that occur, where the teacher doesn't read the same ids in each step."""
        if self.student.projection is None or self.weights.hidden or self.weights.attention:
            return None
        tokens = self.prepared.tokens or []
        padding = self.feed.padding if isinstance(self.feed, TextFeed) else 0
        return students.small(self.student, np.unique(np.concatenate([np.array([padding], np.int32), *tokens])))

    def inputs(self, chosen: np.ndarray) -> Any:
        """Rows, counted over all sources, as the model takes them while it learns."""
        found = self.prepared.batch(chosen)
        return self.small.renamed(found) if self.small else found

    def _begin(self, joint: Joint, head: tuple[np.ndarray, np.ndarray] | None) -> None:
        """Scale the first vectors, and start from the teacher's head, or from the labels' prior."""
        task, rows = self.lesson.task, self.train[:: max(1, len(self.train) // SCALED_BY)]
        forward, size = engines.forward(self.encoder), 64
        known = np.concatenate([forward(self.inputs(rows[at : at + size])) for at in range(0, len(rows), size)])
        center, variance = known.mean(axis=0), float(known.var(axis=0).mean()) or 1.0
        joint.scaling.set_weights([center, np.full_like(center, variance)])
        if head is None or self.student.projection is None:
            bias = task.bias(task.prior(self.lesson.train), len(self.lesson.train)).astype(np.float32)
            joint.outputs.set_weights([np.zeros((len(center), task.outputs), np.float32), bias])
            return
        kernel = self.student.projection.T @ head[0]  # (dimension, outputs)
        joint.outputs.set_weights([kernel * np.sqrt(variance), head[1] + center @ kernel])

    def _model(self, teacher: Encoder) -> None:
        """The network that learns: vectors, turned into the teacher's space where no projection leads from there, then outputs."""
        import keras

        self.way = self.student.projection
        vectors: Any = self.encoder.output
        wide = self.sources[0].vectors.shape[1]
        if self.way is None and (self.weights.vectors or self.joint is None) and vectors.shape[-1] != wide:
            vectors = keras.layers.Dense(wide, use_bias=False, kernel_initializer="orthogonal", name="to_teacher")(vectors)
        self.dimension = int(vectors.shape[-1])
        output: Any = keras.layers.Concatenate(name="answers")([vectors, self.joint.logits.output]) if self.joint else vectors
        self.model = keras.Model(self.encoder.input, output)
        self.watched = Watched(teacher, self.model, self.encoder) if self.weights.hidden or self.weights.attention else None
        if self.watched:
            self.model = self.watched.model

    def problem(self, order: Any) -> Problem:
        """What is to be learned."""
        import keras

        lesson, task = self.lesson, self.lesson.task
        outputs = task.outputs if self.joint else 0
        line = Line(outputs, self.dimension)
        labels = np.eye(outputs, dtype=np.float32)[task.targets] if task.kind == "class" else task.targets
        labelled = np.zeros(self.starts[1], bool)
        labelled[np.concatenate([lesson.train, lesson.validation])] = True
        generator = keras.random.SeedGenerator(self.seed)

        def targets(chosen: np.ndarray) -> np.ndarray:
            of = np.searchsorted(self.starts, chosen, side="right") - 1
            found = np.zeros((len(chosen), 2 * outputs + 1 + self.dimension), np.float32)
            for number in np.unique(of):
                mine = of == number
                rows, source = chosen[mine] - self.starts[number], self.sources[number]
                theirs = source.vectors[rows]
                vectors = theirs if self.way is None else theirs @ self.way
                known, given = np.zeros(len(rows), bool), np.zeros((len(rows), outputs), np.float32)
                if number == 0:
                    known = labelled[rows]
                    given[known] = labels[rows[known]]
                if vectors.shape[1] != self.dimension:  # they count nothing then
                    vectors = np.zeros((len(rows), self.dimension), np.float32)
                found[mine] = line.of(source.outputs[rows], given, known, vectors)
            return found

        def rows(part: np.ndarray, **more: Any) -> Rows:
            def batch(chosen: np.ndarray) -> tuple[Any, np.ndarray]:
                return self.inputs(part[chosen]), targets(part[chosen])

            ids = np.concatenate([lesson.ids, np.full(self.starts[-1] - self.starts[1], -1)])
            return Rows(len(part), batch, ids[part], signature=self.prepared.signature(targets(part[:1])), **more)

        return Problem(
            self.model,
            lambda targets, outputs: targets[:, 0],
            rows(self.train, order=order),
            rows(lesson.validation),
            step=step_of(task if self.joint else None, line, self.weights, self.watched, generator),
            state=[generator.state],
            bound=self._bound(line) if self.weights.labels and self.joint else None,
        )

    def _bound(self, line: Line) -> Any:
        """Where labels and the teacher disagree no loss can reach 0: what is left is the loss of a student that is the teacher."""
        task, weights = self.lesson.task, self.weights

        def bound(targets: np.ndarray) -> float:
            outputs, labels, known, _ = (np.asarray(part) for part in line.parts(targets))
            floor = np.asarray(task.loss()(labels, outputs)) * known if weights.soft or weights.vectors else np.zeros(len(targets))
            start = task.entropy(self.lesson.train, task.prior(self.lesson.train))
            return float(weights.labels * (floor.mean() + 0.1 * start))

        return bound

    def learn(self, out: Draft, settings: Training, steps: int, rate: float) -> Learned:
        """Run so many steps, and leave the result in the student."""
        looks = max(each for each in range(1, LOOKS + 1) if steps % each == 0)
        size = steps // looks * settings.batch_size
        asked = settings.model_copy(update={"schedule": "cosine" if settings.schedule == "auto" else settings.schedule})
        training = resolve(asked, linear=False, epochs=looks, rate=rate)
        order = self.prepared.order(self.train, size, training.batch_size)
        learned = learn(out, self.problem(order), training, self.seed)
        if self.small:
            self.small.restore()
        return learned

    def encode(self, places: np.ndarray) -> np.ndarray:
        """The kept student's vectors of rows of the first dataset, (places, dimension) float32."""
        rows = self.sources[0].dataset.manifest.rows or 0
        return self.own.encode(engines.forward(self.student.model), places, rows)[places]


def linear_head(outputs_of: Any, dimension: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Kernel, (dimension, outputs), and bias of a head that is linear, read off what it says of vectors; None for another.

    Args:
        outputs_of: from (rows, dimension) to (rows, outputs).
        dimension: of its vectors.
    """
    bias = outputs_of(np.zeros((1, dimension), np.float32))[0].astype(np.float64)
    kernel = outputs_of(np.eye(dimension, dtype=np.float32)).astype(np.float64) - bias
    probe = np.random.default_rng(0).normal(size=(8, dimension)).astype(np.float32)
    apart = np.abs(outputs_of(probe) - (probe @ kernel + bias)).max()
    if apart > 1e-3 * (1 + np.abs(kernel).sum(axis=0).max()):
        return None
    return kernel.astype(np.float32), bias.astype(np.float32)

