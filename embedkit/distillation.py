"""distil: a small network learns to say what a large one says.

The teacher answers once: `embed` makes vectors of every row, its head makes outputs of them, and both are read while the
student learns. Test rows are nobody's: neither are they in what the student learns from, nor may the teacher have seen them.
Beside each student stands its twin, an artifact of the same call but for the teacher's answers: same shape, same first
weights, same steps.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, NonNegativeInt, PositiveInt

from embedkit import engines, frameworks, metrics, near, splits, students
from embedkit.apprentice import Apprentice, Transfer, linear_head
from embedkit.artifacts import Artifact, Dataset, EncoderArtifact, Metric
from embedkit.classifiers import WITHOUT_COPIES, facts_of, measures, save_classifier
from embedkit.datasets import read_contents, read_rows, with_near
from embedkit.embedding import vectors_of_all
from embedkit.encoders import HALF, Encoder, embedder_of, feed, save_encoder
from embedkit.imitation import Weights
from embedkit.index import unit_length
from embedkit.leaks import Copies, record_fitted, with_lineage
from embedkit.learning import Learned
from embedkit.lessons import Lesson, TrainHead, assign
from embedkit.masking import MaskTexts, mask_texts
from embedkit.predicting import Classifier
from embedkit.preparation import Prepared
from embedkit.settings import UserError
from embedkit.stages import Draft, Facts, stage
from embedkit.students import Student
from embedkit.tasks import MAIN, Task
from embedkit.training import Progress, Training
from embedkit.tuning import head_of

Kind = Literal["layers", "narrow", "static"]
LAYERS = {"layers": 3, "narrow": 2}
STEPS = {"layers": 400, "narrow": 2000, "static": 2000, "start": 400}
RATES = {"layers": 3e-4, "narrow": 1e-3, "static": 3e-3, "start": 3e-4}
DIMENSION = 256
"""Numbers of a static student's vectors at most; Model2Vec's own."""
HELD_OUT_SHARE = 0.05
PAIRS, RESAMPLES = 5000, 100
"""Pairs of test rows whose similarities are ranked, and how often rows are drawn anew for the standard error."""
LEAST = 3
"""Test rows without which similarities say nothing."""


class Distil(Weights):
    """How a student learns from a teacher."""

    student: Kind = "layers"
    """Layers of the teacher at even distances; a narrower BERT with fewer layers, between the main directions of the teacher's; or
    a table of token vectors that are averaged, which is hundreds of times as fast. With `start` another encoder's network."""
    layers: PositiveInt | None = None
    """Transformer layers of the student; by default 3 of the teacher's, or 2 narrow ones."""
    width: PositiveInt | None = None
    """Width of a narrow student's tokens, by default half the teacher's; numbers of a static one's vectors, by default 256."""
    copies: NonNegativeInt = 0
    """Copies of every training text with words masked and pieces left out that are added to what is learned from, answered by the
    teacher (Tang et al. 2019, arXiv:1903.12136); for texts."""
    masking: MaskTexts = MaskTexts()
    """How the copies are made, but for how many."""
    steps: NonNegativeInt | None = None
    """Steps of training; by default 400 for layers of the teacher and 2,000 for narrow and static students; 0 leaves a student as
    it starts: a teacher with layers dropped, or a static one that was only looked up."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of a vector's numbers that the head doesn't see in a step."""
    twin: bool = True
    """Whether a student of the same shape, first weights and steps learns without the teacher too: from the labels, or, for an
    encoder, by contrast."""
    training: Training = Training()
    """How fast it learns; by default at 0.0003 for layers of the teacher, 0.001 for narrow and 0.003 for static students, along a
    cosine."""


@dataclass
class Teacher:
    """A teacher opened: the artifact, the one that embeds for it, and its head, where it is a classifier."""

    artifact: Artifact
    embedder: Artifact
    loaded: Encoder
    classifier: Classifier | None

    @classmethod
    def open(cls, artifact: Artifact) -> "Teacher":
        """Open an encoder, or a classifier, fine-tuned or on frozen vectors."""
        classifier = Classifier.open(artifact) if artifact.manifest.kind == "classifier" else None
        return cls(artifact, embedder_of(artifact), classifier.encoder if classifier else Encoder.open(artifact), classifier)

    def outputs(self, vectors: np.ndarray) -> np.ndarray:
        """What the head says of vectors, before softmax or sigmoid, (rows, outputs) float32, or in the label's unit, float64.

        An encoder has no outputs.
        """
        if self.classifier is None:
            return np.empty((len(vectors), 0), np.float32)
        if self.classifier.facts.type == "number":
            return self.classifier.of_vectors(vectors)[:, None]
        return self.classifier.outputs_of(vectors)

    def head(self, task: Task) -> tuple[np.ndarray, np.ndarray] | None:
        """Kernel and bias of the head, where it is linear; numbers in standard deviations."""
        if self.classifier is None:
            return None
        return linear_head(lambda vectors: standardised(task, self.outputs(vectors)), self.loaded.facts.dimension)


def _called(names: dict[str, str], settings: Distil) -> str:
    kind = names.get("start", settings.student)
    return f"{names['teacher']}-{kind}" + ("-untrained" if settings.steps == 0 else "" if taught(settings) else "-twin")


def taught(settings: Distil, kind: str = "classifier") -> bool:
    """Whether anything of the answers of a teacher of this kind counts; an encoder has no outputs."""
    soft = settings.soft if kind == "classifier" else 0.0
    return bool(soft or settings.vectors or settings.hidden or settings.attention)


@stage(lambda inputs: inputs["teacher"].manifest.kind, revision=1, name=_called, keras=True)  # pyright: ignore
def distil(
    out: Draft,
    teacher: EncoderArtifact,
    dataset: Dataset,
    settings: Distil = Distil(),
    *,
    unlabelled: Dataset | None = None,
    start: EncoderArtifact | None = None,
) -> Facts:
    """Teach a small network what a large one knows: an encoder gives an encoder, a classifier a classifier.

    Args:
        teacher: an encoder, or a classifier.
        dataset: rows that the teacher takes; rows without a label are learned from as well.
        unlabelled: more rows to learn from, whatever their labels and splits; those equal to a test row are left out.
        start: an encoder to start from, instead of a student made from the teacher.
    """
    opened = Teacher.open(teacher)
    modality = opened.loaded.facts.modality
    _refuse(teacher, modality, settings, start)
    for given in (dataset, unlabelled):
        if given is not None and given.manifest.kind != modality:
            raise UserError(f"{teacher} takes {modality}, but {given} holds {given.manifest.kind}; give it {modality}")
    rows = with_near(dataset, read_rows(dataset.check()))
    lesson, more = lesson_of(opened, dataset, rows, settings.seed)
    lesson.copies = lesson.copies.beside(rows.take(lesson.test), teacher, dataset, unlabelled, start)
    sources = _sources(opened, dataset, rows, lesson, more, settings, unlabelled)
    wanted = settings.twin and taught(settings, teacher.manifest.kind) and settings.steps != 0
    twin = _twin(teacher, dataset, settings, unlabelled, start) if wanted else None

    frameworks.start_keras(settings.seed)
    student = _student(out, opened, sources, settings, start)
    kind = "start" if start else settings.student
    head = opened.head(lesson.task)
    apprentice = Apprentice(out, opened.loaded, head, student, sources, lesson, settings, settings.dropout, settings.seed)
    steps = STEPS[kind] if settings.steps is None else settings.steps
    learned = apprentice.learn(out, settings.training, steps, RATES[kind]) if steps else untaught(settings.training)
    details: dict[str, Any] = {"student": kind, "transfer_rows": apprentice.count if steps else 0, "steps": learned.run.step}
    details |= {"compared_to": str(teacher), "twin": str(twin) if twin else None}
    if opened.classifier is None:
        facts = _encoder(out, apprentice, learned, details)
    else:
        facts = _classifier(out, apprentice, dataset, rows, learned, details)
    facts.details |= {"fitted": _record(out, rows, lesson, sources)}
    facts.verdict = with_lineage(_beside(facts, twin, lesson), teacher, start, dataset, unlabelled)
    return facts


def _refuse(teacher: Artifact, modality: str, settings: Distil, start: Artifact | None) -> None:
    """Stop at settings that contradict each other or the inputs."""
    kind, texts = settings.student, modality == "texts"
    if not start and not texts:
        what = f"{teacher} takes {modality}, of which no student is made"
        raise UserError(f"{what}; give start, an encoder for them that is smaller")
    for name, given, fits in (
        ("student", settings.student != Distil().student, not start),
        ("layers", settings.layers, not start and kind in LAYERS),
        ("width", settings.width, not start and kind in ("narrow", "static")),
        ("hidden", settings.hidden, not start and kind in LAYERS),
        ("attention", settings.attention, not start and kind in LAYERS),
        ("copies", settings.copies, texts),
        ("contrast", settings.contrast, texts),
    ):
        if given and not fits:
            which = f"one that starts from {start}" if start else f"a {kind} student" if texts else f"students of {teacher}"
            raise UserError(f"{name} is not for {which}; leave it out")
    if teacher.manifest.kind == "encoder":
        if settings.labels:
            raise UserError(f"labels have no weight here, since {teacher} is an encoder, which has no head; give it a classifier")
    elif settings.contrast:
        raise UserError(f"contrast is for encoders, but {teacher} is a classifier; take labels instead")
    if not taught(settings, teacher.manifest.kind) and not settings.labels and not settings.contrast and settings.steps != 0:
        raise UserError("no part of the loss has a weight; give soft, labels, vectors, hidden, attention or contrast one")
    if settings.training.epochs is not None:
        raise UserError("steps says how long a student learns; give that and leave training.epochs out")
    if settings.training.monitor != "loss":
        came = settings.training.monitor
        raise UserError(f"a student's run is measured by its loss alone, not by {came}; leave training.monitor out")
    if settings.masking.copies != MaskTexts().copies:
        raise UserError("copies says how many copies are made; give that and leave masking.copies out")
    if settings.masking.seed:
        raise UserError("seed draws the copies too; give that and leave masking.seed out")
    if settings.copies and not taught(settings, teacher.manifest.kind):
        raise UserError("copies have no label, so without a teacher nothing is learned from them; leave copies out")


def lesson_of(teacher: Teacher, dataset: Artifact, rows: pa.Table, seed: int) -> tuple[Lesson, np.ndarray]:
    """Which rows train, stop and test, and which others, without a label, are learned from; for encoders no row needs one."""
    ids, split = rows["id"].to_numpy(), np.array(rows["split"].to_pylist())
    train, empty = np.flatnonzero(split == "train"), np.empty((len(rows), 0))
    plain = TrainHead(seed=seed)
    if teacher.classifier is None:
        held, test = np.flatnonzero(split == "validation"), np.flatnonzero(split == "test")
        if len(train) < 2 or len(test) < LEAST:
            counts = f"{len(train)} train and {len(test)} test rows"
            raise UserError(f"{dataset} has {counts}; two and {LEAST} are needed at least, so load more, or with another split")
        if not len(held):
            drawn = splits.draw(ids[train], HELD_OUT_SHARE, 0, seed) == 1
            drawn[0] |= not drawn.any()
            train, held = train[~drawn], train[drawn]
        none = Task("none", [], np.zeros((len(rows), 0), np.float32))
        copies = Copies.of(rows, test, np.concatenate([train, held]))
        return Lesson(plain, none, ids, empty, train, held, test, [], copies=copies), np.empty(0, int)
    if "label" not in rows.column_names or rows["label"].null_count == len(rows):
        raise UserError(f"{dataset} has no labels, so nothing could be measured; give rows with labels, and these as unlabelled")
    lesson = assign(str(dataset), rows, ids, empty, plain)
    lesson.task = _same_task(teacher, str(dataset), lesson.task)
    unlabelled = np.array(rows["label"].combine_chunks().is_null())
    more = train[unlabelled[train]]
    learned = np.concatenate([lesson.train, lesson.validation, more])
    lesson.copies = Copies.of(rows, lesson.test, learned)
    return lesson, more


def _same_task(teacher: Teacher, dataset: str, task: Task) -> Task:
    """The dataset's task in the teacher's classes and unit.

    Raises:
        UserError: when the teacher predicts something else.
    """
    assert teacher.classifier is not None
    facts = teacher.classifier.facts
    words = {"class": "one class", "classes": "several labels", "number": "a number"}
    if facts.type != task.kind:
        theirs = f"{teacher.artifact} predicts {words[facts.type]} a row"
        raise UserError(f"{theirs}, but {dataset} has {words[task.kind]}; give rows with such labels")
    if foreign := [name for name in task.classes if name not in facts.classes]:
        raise UserError(f"{dataset} has the label {foreign[0]!r}, which {teacher.artifact} doesn't know; give rows with its labels")
    place = [facts.classes.index(name) for name in task.classes]
    if task.kind == "class":
        return replace(task, classes=facts.classes, targets=np.array(place, np.int32)[task.targets])
    if task.kind == "classes":
        targets = np.zeros((len(task.targets), len(facts.classes)), np.float32)
        targets[:, place] = task.targets
        return replace(task, classes=facts.classes, targets=targets)
    return task


def _sources(
    teacher: Teacher,
    dataset: Artifact,
    rows: pa.Table,
    lesson: Lesson,
    more: np.ndarray,
    settings: Distil,
    unlabelled: Artifact | None,
) -> list[Transfer]:
    """What is learned from, each with the teacher's answers: the dataset first, then more rows, then changed copies."""
    found, others = [(dataset, np.concatenate([lesson.train, more]))], [unlabelled] if unlabelled is not None else []
    if settings.copies and taught(settings, teacher.artifact.manifest.kind):
        masking = settings.masking.model_copy(update={"copies": settings.copies, "seed": settings.seed})
        others.append(mask_texts(dataset, masking))
    kept = rows.take(np.concatenate([lesson.validation, lesson.test]))
    for other in others:  # a piece of a text may be another text
        theirs = with_near(other, read_rows(other, ["content"]))
        ours = np.isin(theirs["content"].to_numpy(), kept["content"].to_numpy())
        ours |= near.like(theirs["sketch"].combine_chunks(), kept["sketch"].combine_chunks())
        if ours.any():
            equal = np.isin(theirs["content"].to_numpy()[ours], kept["content"].to_numpy()).all()
            called = f"{other.manifest.kind}/{other.manifest.name}"  # without a time, as a card needs it
            words = "equal" if equal else "equal, or nearly,"
            lesson.notes.append(f"{int(ours.sum()):,} rows of {called} {words} rows that are measured on, and were left out")
        found.append((other, np.flatnonzero(~ours)))
    made = []
    for source, places in found:
        vectors = vectors_of_all(source, teacher.embedder)
        made.append(Transfer(source, places, vectors, standardised(lesson.task, teacher.outputs(vectors))))
    return made


def standardised(task: Task, outputs: np.ndarray) -> np.ndarray:
    """What `Teacher.outputs` gives, numbers in standard deviations of the task's labels."""
    return (outputs - task.location) / task.scale if task.kind == "number" else outputs


def _twin(
    teacher: Artifact, dataset: Artifact, settings: Distil, unlabelled: Artifact | None, start: Artifact | None
) -> Artifact | None:
    """The same student without the teacher, as an artifact; None where there is nothing else to learn from."""
    alone: dict[str, Any] = {"soft": 0.0, "vectors": 0.0, "hidden": 0.0, "attention": 0.0, "copies": 0, "twin": False}
    if teacher.manifest.kind == "classifier":
        alone |= {"labels": 1.0}
    elif teacher.detail("modality", str) == "texts":
        alone |= {"contrast": 1.0}
    else:
        return None
    return distil(teacher, dataset, settings.model_copy(update=alone), unlabelled=unlabelled, start=start)


def _student(out: Draft, teacher: Teacher, sources: list[Transfer], settings: Distil, start: Artifact | None) -> Student:
    """The student at its first weights."""
    if start is not None:
        opened = Encoder.open(start)
        ours, theirs = opened.facts.modality, teacher.loaded.facts.modality
        if ours != theirs:
            raise UserError(f"{start} takes {ours}, but {teacher.artifact} {theirs}; start from an encoder for {theirs}")
        student = students.given(opened, opened.preprocessing)
        if teacher.classifier is None and not student.model.trainable_variables:
            raise UserError(f"{start} has no weights that could learn; start from an encoder that has some")
        return student
    tokenizer, own = teacher.loaded.preprocessing, sources[0]
    assert tokenizer is not None
    if settings.student == "layers":
        return students.fewer_layers(teacher.loaded, tokenizer, settings.layers or LAYERS["layers"])
    if settings.student == "narrow":
        few = np.sort(np.random.default_rng(settings.seed).permutation(own.places)[: students.SAMPLE])
        texts = read_contents(own.dataset, 0, own.dataset.manifest.rows or 0)["text"].take(few).to_pylist()
        return students.narrower(teacher.loaded, tokenizer, settings.layers or LAYERS["narrow"], settings.width, texts)
    bare = feed(teacher.loaded.facts, students.without_special_tokens(tokenizer))
    tokens = Prepared(own.dataset, bare, own.places, out.work).tokens or []
    counts = np.bincount(np.concatenate([*tokens, np.empty(0, np.int32)]), minlength=students.vocabulary_of(teacher.loaded))
    dimension = settings.width or min(DIMENSION, own.vectors.shape[1])
    return students.static(teacher.loaded, tokenizer, dimension, own.vectors[own.places], counts)


def _encoder(out: Draft, apprentice: Apprentice, learned: Learned, details: dict[str, Any]) -> Facts:
    """Write a student that is an encoder, and measure how like the teacher it is on test rows."""
    model, facts, tokenizer = apprentice.whole, apprentice.facts, apprentice.student.tokenizer
    saved = save_encoder(out, model, facts, tokenizer)
    test = apprentice.lesson.test
    ours = apprentice.encode(test)
    theirs = apprentice.sources[0].vectors[test]
    seed, copies = apprentice.lesson.settings.seed, apprentice.lesson.copies
    found = likeness(ours, theirs, seed)
    if copies.count and not copies.say_nothing:
        found[f"similarity{WITHOUT_COPIES}"] = likeness(ours[copies.clean], theirs[copies.clean], seed)["similarity"]
    if apprentice.way is not None:
        found["cosine"] = metrics.mean((unit_length(ours) * unit_length(theirs @ apprentice.way)).sum(axis=1))
    return Facts(
        rows=len(test),
        metrics=found,
        notes=apprentice.lesson.notes + learned.notes,
        details=saved | details | learned.details | copies.details,
        timings=learned.timings,
    )


def likeness(ours: np.ndarray, theirs: np.ndarray, seed: int) -> dict[str, Metric]:
    """How alike the similarities are that two encoders see between rows: Spearman's rank correlation over pairs of rows.

    Args:
        ours: (rows, any dimension).
        theirs: (rows, any other dimension).
        seed: of the pairs.
    """
    ours, theirs = unit_length(ours), unit_length(theirs)
    random, rows = np.random.default_rng(seed), len(ours)
    left, right = random.integers(0, rows, (2, PAIRS))

    def correlation(chosen: np.ndarray) -> float:
        one, other = chosen[left], chosen[right]
        one, other = one[one != other], other[one != other]
        return _correlation(*((each[one] * each[other]).sum(axis=1) for each in (ours, theirs)))

    resampled = [correlation(random.integers(0, rows, rows)) for _ in range(RESAMPLES)]  # rows, since pairs share them
    value = correlation(np.arange(rows))
    return {"similarity": Metric(value=value, n=rows, standard_error=float(np.nanstd(resampled, ddof=1)))}


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    from scipy.stats import spearmanr

    if len(one) < 2 or one.min() == one.max() or other.min() == other.max():
        return float("nan")  # a draw of few rows may hold one pair alone
    found: Any = spearmanr(one, other)
    return float(found.statistic)


def _classifier(
    out: Draft, apprentice: Apprentice, dataset: Artifact, rows: pa.Table, learned: Learned, details: dict[str, Any]
) -> Facts:
    """Write a student that is a classifier with its encoder half, and measure it on test rows, beside its teacher."""
    lesson, task = apprentice.lesson, apprentice.lesson.task
    saved = save_encoder(out, apprentice.whole, apprentice.facts, apprentice.student.tokenizer, HALF)
    assert apprentice.joint is not None
    head = head_of(apprentice.joint, task)
    forward = engines.forward(_up_to_outputs(head))

    def predict(places: np.ndarray) -> np.ndarray:
        return task.predict(forward(apprentice.encode(places)))

    predicted = predict(lesson.test)
    saved |= save_classifier(out, lesson, head, saved["identity"], learned, lesson.test, predicted)
    facts = facts_of(out, dataset, lesson, rows, predict, predicted, measures(lesson, predicted), learned, saved | details, [])
    said = task.predict(apprentice.sources[0].outputs[lesson.test])
    theirs = measures(lesson, said)
    names = (MAIN[task.kind], f"{MAIN[task.kind]}{WITHOUT_COPIES}")
    facts.metrics |= {f"teacher_{name}": theirs[name] for name in names if name in theirs}
    if task.kind != "number":
        facts.metrics["agreement"] = task.agreement(predicted, said)
    return facts


def _up_to_outputs(head: Any) -> Any:
    import keras

    return keras.Model(head.input, head.get_layer("head_outputs").output)


def untaught(training: Training) -> Learned:
    """The run of a student that is left as it starts."""
    return Learned(Progress(finished=True), training, {"epochs": 0, "best_epoch": 0}, {}, [])


def _record(out: Draft, rows: pa.Table, lesson: Lesson, sources: list[Transfer]) -> int:
    """Write which rows shaped the student: learned from, or looked at to stop; copies of texts by the texts they are of."""
    places = np.unique(np.concatenate([sources[0].places, lesson.train, lesson.validation]))
    known = ["id", "content", "sketch"]
    tables = [rows.take(places).select(known)]
    for one in sources[1:]:
        tables.append(with_near(one.dataset, read_rows(one.dataset, ["id", "content"])).select(known).take(np.sort(one.places)))
    return record_fitted(out, pa.concat_tables(tables))


def _beside(facts: Facts, twin: Artifact | None, lesson: Lesson) -> str:
    """Put the student's figures beside its twin's; returns the verdict that both make."""
    measure, copies = MAIN.get(lesson.task.kind, "similarity"), lesson.copies
    led = f"{measure}{WITHOUT_COPIES}" if copies.count and not copies.say_nothing else measure
    ours = facts.metrics[led]
    words = measure.replace("_", " ")
    if f"teacher_{measure}" in facts.metrics:
        theirs = facts.metrics[f"teacher_{led}"]
        share = theirs.value / ours.value if measure == "rmse" else ours.value / theirs.value
        said = f"{words} {ours.value:.4g} where the teacher has {theirs.value:.4g}, {100 * share:.1f} % of its quality"
    else:
        said = f"similarities of test rows rank as the teacher's do at {ours.value:.4f} (Spearman; 1 is the same order)"
    if twin is not None:
        theirs = twin.manifest.metrics
        facts.metrics |= {f"twin_{name}": theirs[name] for name in (measure, led) if name in theirs}
        led = led if led in theirs else measure  # one that was made before copies were counted
        ours, other = facts.metrics[led], theirs[led]
        gain = other.value - ours.value if measure == "rmse" else ours.value - other.value
        error = float(np.hypot(ours.standard_error or 0, other.standard_error or 0))
        said += f"; its twin, which learned without the teacher, has {other.value:.4g}"
        said += "" if gain > 2 * error else ": more than with it" if gain < -2 * error else ": the teacher brought nothing clear"
    if facts.verdict is None:
        return copies.verdict(said, f"{words} {facts.metrics[measure]}")
    return facts.verdict if copies.say_nothing else f"{said}; {facts.verdict}"
