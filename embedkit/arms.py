"""Arms: the ways of getting a classifier that `compare` holds against each other, on the same rows, splits and seeds.

A trial is one arm at one label budget and one seed: it learns from the training rows of a lesson, stops by its validation
rows, and predicts the test rows. Frozen vectors are computed once and shared by all arms that use them.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from embedkit import adaptation, checkpoints, engines, frameworks, metrics, roles
from embedkit.artifacts import Artifact
from embedkit.autoencoder import principal_components
from embedkit.crossfit import Known
from embedkit.datasets import read_contents, read_rows
from embedkit.encoders import Encoder
from embedkit.environment import peak_of
from embedkit.heads import EPOCHS, run
from embedkit.lessons import Balance, Lesson, TrainHead, problem_of
from embedkit.pipelines import TableFeed
from embedkit.preparation import Prepared, load_pixels
from embedkit.settings import UserError
from embedkit.stages import is_kept, keep
from embedkit.tasks import Task
from embedkit.training import Trainer, Training, fit, resolve
from embedkit.tuning import FineTune, Tuner, training_of

Name = Literal["guess", "raw", "random", "knn", "linear", "mlp", "scratch", "adapter", "full", "lp_ft"]
RECIPES = {"scratch": "scratch", "adapter": "adapter", "full": "full", "lp_ft": "lp-ft"}
"""Arms that move the encoder, and their recipes of `fine_tune`."""
HIDDEN = (256,)
SIDE = 32
"""Pixels of a side of the pictures whose principal components are the raw arm."""
COMPONENTS = 256
NEIGHBOURS = (1, 5, 20)
STRENGTHS = (0.1, 1.0, 10.0, 100.0)
"""Inverse strengths of regularisation that validation rows choose among, for linear models of scikit-learn."""
WINDOWS = 5
"""Times that a run whose rows are counted looks at validation rows."""


@dataclass(frozen=True)
class Arm:
    """What an arm is, for people; `control` is what learned vectors have to beat, and never recommended."""

    title: str
    what: str
    control: bool = False


def described(kind: str) -> dict[str, Arm]:
    """All arms, in the order of their cost as one would guess it, for a kind of dataset."""
    raw = {
        "texts": ("TF-IDF + linear", "words and pairs of words, weighed, under a logistic regression; no network at all"),
        "images": (
            "PCA of pixels + linear",
            f"{COMPONENTS} principal components of {SIDE} x {SIDE} pixels under a linear head; no pretrained network",
        ),
        "table": ("columns + linear", "numbers in [-1, 1] and one-hot words under a linear head; no network"),
    }[kind]
    return {
        "guess": Arm("majority guess", "the shares of the labels in the training rows, for every row", control=True),
        "raw": Arm(*raw),
        "random": Arm("random encoder + linear", "the same network with random weights, frozen, under a linear head", control=True),
        "knn": Arm("frozen + kNN", "the labels of the nearest training rows by cosine; nothing is trained"),
        "linear": Arm("frozen + linear", "a linear head on the vectors of the encoder, which stays as it is"),
        "mlp": Arm("frozen + MLP", f"a head with a hidden layer of {HIDDEN[0]} on the same vectors"),
        "scratch": Arm("from scratch", "the same network from random weights, all of it trained"),
        "adapter": Arm("adapter (LoRA)", "a linear head first, then low-rank additions to the encoder's kernels"),
        "full": Arm("full fine-tuning", "the whole encoder and its head from the start"),
        "lp_ft": Arm("LP-FT", "a linear head on the frozen encoder first, then all of it"),
    }


@dataclass
class Trial:
    """What came of one arm, budget and seed.

    `predicted` is what it says of the test rows, as `Task.predict` gives it; `bytes` what must be kept to predict, `seconds`
    those of training, `per_row` those of predicting one row; `rows_seen` how many rows a moving network was shown.
    """

    predicted: np.ndarray
    seconds: float
    per_row: float
    bytes: int
    peak: int = 0
    rows_seen: int | None = None


@dataclass
class Bench:
    """What all arms share: the rows, the encoder, and what was computed of them once."""

    folder: Path
    dataset: Artifact
    encoder: Artifact
    loaded: Encoder
    prepared: Prepared
    task: Task
    head: TrainHead
    tune: FineTune
    places: np.ndarray
    rows_a_run: int = 0
    tuners: dict[str, Tuner] = field(default_factory=dict)
    fresh: dict[int, np.ndarray] = field(default_factory=dict)
    probes: dict[tuple[int, int], tuple[list[np.ndarray], float]] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Rows of the dataset."""
        return self.dataset.manifest.rows or 0

    @cached_property
    def vectors(self) -> np.ndarray:
        """The vectors of the frozen encoder, (rows, dimension), 0 for rows that nobody asks for."""
        known = Known.of(read_rows(self.dataset, ["id", "content"]))
        return self._kept("frozen", lambda: self.prepared.frozen(self.loaded, known, self.places))

    def random_vectors(self, seed: int) -> np.ndarray:
        """The vectors of the same network with random weights."""
        if seed not in self.fresh:
            network = adaptation.copy_of(self.loaded.model, seed)
            forward = engines.forward(network)
            encode = self.prepared.encode
            self.fresh[seed] = self._kept(f"random-{seed}", lambda: encode(forward, self.places, self.rows)[self.places])
        return self.fresh[seed]

    def _kept(self, name: str, encode: Callable[[], np.ndarray]) -> np.ndarray:
        path, seconds = self.folder / f"{name}.npy", self.folder / f"{name}.seconds.npy"
        if not is_kept(path) or not is_kept(seconds):
            start = time.monotonic()
            found = encode()
            checkpoints.save_array(seconds, np.array((time.monotonic() - start) / len(self.places)))
            checkpoints.save_array(path, found)
            keep(seconds)
            keep(path)
        vectors = np.zeros((self.rows, self.loaded.facts.dimension), np.float32)
        vectors[self.places] = np.load(path, allow_pickle=False)
        return vectors

    @property
    def encoding_seconds(self) -> float:
        """Seconds that the frozen encoder takes for one row: decoding or tokenising, and its forward pass."""
        _ = self.vectors
        return float(np.load(self.folder / "frozen.seconds.npy", allow_pickle=False))

    @property
    def encoder_bytes(self) -> int:
        """Bytes of the encoder's weights."""
        return int(sum(np.prod(weight.shape) * 4 for weight in self.loaded.model.weights))

    def tuner(self, arm: str) -> Tuner:
        """The encoder made ready for an arm's recipe, kept so that its steps are traced once."""
        if arm not in self.tuners:
            frameworks.start_drawing(self.tune.seed)  # whenever it is made, its random generators are the same
            self.tuners[arm] = Tuner(self.loaded, self.task, self.tune.model_copy(update={"recipe": RECIPES[arm]}))
        return self.tuners[arm]

    @cached_property
    def texts(self) -> np.ndarray:
        """The texts of all rows."""
        return np.array(read_contents(self.dataset, 0, self.rows)["text"].to_pylist(), object)

    @cached_property
    def pixels(self) -> np.ndarray:
        """Small pictures of the rows that are asked for, in order, beside where each row's lies."""
        return load_pixels(self.dataset, SIDE, SIDE, self.folder / "small.npy", self.places)


def try_out(bench: Bench, arm: str, lesson: Lesson, seed: int) -> Trial:
    """One trial.

    Args:
        bench: what is shared.
        arm: its name.
        lesson: which rows train, stop and test.
        seed: of everything random.
    """
    with peak_of() as peak, _quietly():
        start = time.monotonic()
        if arm == "guess":
            task = bench.task
            predicted = task.guess(task.prior(lesson.train), len(lesson.test))
            found = Trial(predicted, time.monotonic() - start, 0.0, 8 * task.outputs)
        elif arm == "raw":
            found = _raw(bench, lesson, seed)
        elif arm == "knn":
            found = _neighbours(bench, replace(lesson, inputs=bench.vectors))
        elif arm in RECIPES:
            found = _moved(bench, arm, lesson, seed)
        else:
            vectors = bench.random_vectors(seed) if arm == "random" else bench.vectors
            found = _head(bench, replace(lesson, inputs=vectors), seed, HIDDEN if arm == "mlp" else ())
            found.seconds += bench.encoding_seconds * (len(lesson.train) + len(lesson.validation))
            found.per_row += bench.encoding_seconds
            found.bytes += bench.encoder_bytes
    found.peak = peak()
    return found


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Let runs say nothing of their epochs: there are dozens of them."""
    log = logging.getLogger("embedkit.training")
    before = log.level
    log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.setLevel(before)


def _head(bench: Bench, lesson: Lesson, seed: int, hidden: tuple[int, ...]) -> Trial:
    """A head on vectors, as `train_head` makes it."""
    start = time.monotonic()
    frameworks.start_drawing(seed)
    lesson = replace(lesson, settings=bench.head, hidden=hidden)
    model, logits, problem, correct = problem_of(lesson, seed)
    fit(Trainer(problem, resolve(bench.head.training, linear=not lesson.hidden, epochs=EPOCHS)), seed, None)
    correct()
    forward = engines.forward(logits)
    trained = time.monotonic()
    predicted = bench.task.predict(run(forward, lesson.inputs[lesson.test]))
    per_row = (time.monotonic() - trained) / len(lesson.test)
    return Trial(predicted, trained - start, per_row, 4 * int(model.count_params()))


def _moved(bench: Bench, arm: str, lesson: Lesson, seed: int) -> Trial:
    """A run of a recipe of `fine_tune`, of so many rows as was planned."""
    tuner, recipe = bench.tuner(arm), RECIPES[arm]
    start, probe_seconds = time.monotonic(), 0.0
    prior = bench.task.prior(lesson.train)
    balanced = Balance(prior, prior)
    lesson = replace(lesson, inputs=bench.random_vectors(seed) if recipe == "scratch" else bench.vectors, settings=tuner.settings)
    frameworks.start_drawing(seed)
    tuner.begin(lesson, balanced, seed)
    if recipe in ("lp-ft", "adapter"):
        probe_seconds = _probe(bench, tuner, lesson, seed)
    training, size = windows(tuner.settings, len(lesson.train), bench.rows_a_run)
    few = lesson.validation[: max(64, size // 2)]  # stopping by all of them would take longer than learning
    problem = tuner.problem(replace(lesson, validation=few), bench.prepared, balanced, _ordered(bench, lesson, size, training))
    trainer = tuner.ready(problem, training)
    seen = fit(trainer, seed, None)
    trained = time.monotonic()
    outputs = bench.prepared.encode(tuner.forward(), lesson.test, bench.rows)[lesson.test]
    head = 4 * int(np.prod(tuner.joint.outputs.kernel.shape))
    encoded = bench.encoding_seconds * (len(lesson.train) + len(lesson.validation)) * (recipe in ("lp-ft", "adapter"))
    seconds, bytes_ = trained - start + probe_seconds + encoded, bench.encoder_bytes + head
    return Trial(bench.task.predict(outputs), seconds, bench.encoding_seconds, bytes_, rows_seen=seen.epoch * size)


def _probe(bench: Bench, tuner: Tuner, lesson: Lesson, seed: int) -> float:
    """Give the joint network the linear head of the same rows and seed; returns the seconds that another arm spent on it."""
    key = seed, len(lesson.train)
    if key in bench.probes:
        weights, seconds = bench.probes[key]
        tuner.joint.outputs.set_weights(weights)
        return seconds
    start = time.monotonic()
    tuner.probe(lesson, seed, None)
    bench.probes[key] = tuner.joint.outputs.get_weights(), time.monotonic() - start
    return 0.0


def _ordered(bench: Bench, lesson: Lesson, size: int, training: Training) -> Callable[[int, int], np.ndarray]:
    return bench.prepared.order(lesson.train, size, training.batch_size)


def windows(settings: FineTune, rows: int, most: int) -> tuple[Training, int]:
    """The training settings of a run of at most so many rows in all, and how many of them are an epoch.

    Args:
        settings: of the recipe.
        rows: to learn from.
        most: rows that are shown, each as often as it comes.
    """
    usual = training_of(settings, rows)
    assert usual.epochs is not None
    shown = min(usual.epochs * rows, max(most, usual.batch_size))
    whole = shown // WINDOWS // usual.batch_size * usual.batch_size  # a smaller last batch would cost nearly a whole one
    size = min(rows, max(usual.batch_size, whole))
    return usual.model_copy(update={"epochs": max(1, shown // size)}), size


def _neighbours(bench: Bench, lesson: Lesson) -> Trial:
    """The labels of the nearest training rows, as many as suit the validation rows."""
    from sklearn.neighbors import NearestNeighbors

    task, start = bench.task, time.monotonic()
    most = min(max(NEIGHBOURS), len(lesson.train))
    near = NearestNeighbors(n_neighbors=most, metric="cosine").fit(lesson.inputs[lesson.train])
    targets = task.targets[lesson.train]
    held = np.eye(task.outputs, dtype=np.float32)[targets] if task.kind == "class" else targets

    def voted(places: np.ndarray) -> list[np.ndarray]:
        order = near.kneighbors(lesson.inputs[places], return_distance=False)
        return [_mean(task, held[order[:, :count]], task.prior(lesson.train)) for count in NEIGHBOURS if count <= most]

    scores = [score(task, lesson.validation, predicted) for predicted in voted(lesson.validation)]
    trained = time.monotonic()
    predicted = voted(lesson.test)[int(np.argmax(scores))]
    per_row = (time.monotonic() - trained) / len(lesson.test) + bench.encoding_seconds
    seconds = trained - start + bench.encoding_seconds * (len(lesson.train) + len(lesson.validation))
    return Trial(predicted, seconds, per_row, bench.encoder_bytes + lesson.inputs[lesson.train].nbytes)


def _mean(task: Task, votes: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """Mean of the neighbours' targets; of labels with one vote of the prior, so that no probability is 0."""
    if task.kind == "number":
        return votes.mean(axis=1)[:, 0] * task.scale + task.location
    return (votes.sum(axis=1) + prior) / (votes.shape[1] + 1)


def _raw(bench: Bench, lesson: Lesson, seed: int) -> Trial:
    """What needs no encoder: words, principal components of pixels, columns."""
    if bench.dataset.manifest.kind == "texts":
        return words(bench.task, bench.texts, lesson, seed)
    start = time.monotonic()
    known = np.concatenate([lesson.train, lesson.validation, lesson.test])
    if bench.dataset.manifest.kind == "images":
        line = np.searchsorted(np.unique(bench.places), known)
        train = np.searchsorted(np.unique(bench.places), lesson.train)
        average, components = principal_components(bench.pixels, train, COMPONENTS, seed)
        flat = bench.pixels[line].reshape(len(known), -1) / np.float32(255)
        found, kept = (flat - average) @ components.T, components.nbytes
    else:
        columns, _ = roles.plain_columns(read_contents(bench.dataset, 0, bench.rows).take(lesson.train))
        batches = TableFeed(columns).batches(read_contents(bench.dataset, 0, bench.rows).take(known))
        found, kept = np.concatenate([numbers for _, numbers in batches]), 0
    per_row = (time.monotonic() - start) / len(known)
    inputs = np.zeros((bench.rows, found.shape[1]), np.float32)
    inputs[known] = found
    trial = _head(bench, replace(lesson, inputs=inputs), seed, ())
    trial.seconds += per_row * (len(lesson.train) + len(lesson.validation))
    return replace(trial, per_row=trial.per_row + per_row, bytes=trial.bytes + kept)


def words(task: Task, texts: np.ndarray, lesson: Lesson, seed: int) -> Trial:
    """TF-IDF under a linear model of scikit-learn, regularised as suits the validation rows.

    Args:
        task: what is predicted.
        texts: of all rows.
        lesson: which rows train, stop and test.
        seed: of the solver.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    start = time.monotonic()
    counter = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2))
    try:
        train = counter.fit_transform(texts[lesson.train])
    except ValueError as error:  # nothing but stop words, or no word of two letters
        raise UserError(f"TF-IDF finds no word in the training texts ({error}); leave the arm raw out") from error
    held = counter.transform(texts[lesson.validation])
    models = [linear_of(task, strength, seed).fit(train, targets_of(task, lesson.train)) for strength in STRENGTHS]
    scores = [score(task, lesson.validation, said_of(task, model, held)) for model in models]
    best = models[int(np.argmax(scores))]
    trained = time.monotonic()
    predicted = said_of(task, best, counter.transform(texts[lesson.test]))
    per_row = (time.monotonic() - trained) / len(lesson.test)
    spelled = sum(len(word) + 4 for word in counter.vocabulary_)
    return Trial(predicted, trained - start, per_row, spelled + 4 * len(counter.vocabulary_) * (1 + task.outputs))


def linear_of(task: Task, strength: float, seed: int) -> Any:
    """A linear model of scikit-learn that is regularised with this inverse strength, untrained."""
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.multiclass import OneVsRestClassifier

    if task.kind == "number":
        return Ridge(alpha=1 / strength)
    one = LogisticRegression(C=strength, max_iter=200, random_state=seed)
    return OneVsRestClassifier(one) if task.kind == "classes" else one


def targets_of(task: Task, rows: np.ndarray) -> np.ndarray:
    """What is true of rows, as models of scikit-learn take it."""
    return task.truth(rows).astype(int) if task.kind == "classes" else task.truth(rows)


def said_of(task: Task, model: Any, inputs: Any) -> np.ndarray:
    """Predictions of a model of scikit-learn, a column for every class, those it never saw included."""
    if task.kind == "number":
        return model.predict(inputs)
    found = model.predict_proba(inputs)
    if task.kind == "classes" or found.shape[1] == task.outputs:
        return found
    whole = np.zeros((len(found), task.outputs))
    whole[:, model.classes_] = found
    return whole


def parts_of(task: Task, rows: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """What the main measure is made of, row by row, so that it can be had of any rows again; (rows, 2) float64.

    The measure of rows is the sum of the first number over the sum of the second: hits over rows, 2 TP over 2 TP + FP + FN,
    or squared errors over rows, of which `measure_of` takes the root.
    """
    truth = task.truth(rows)
    if task.kind == "number":
        return np.stack([np.square(predicted - truth), np.ones(len(rows))], axis=1)
    if task.kind == "class":
        return np.stack([predicted.argmax(axis=1) == truth, np.ones(len(rows))], axis=1).astype(np.float64)
    decided = predicted >= 0.5
    hits = 2.0 * (truth & decided).sum(axis=1)
    return np.stack([hits, hits + (truth ^ decided).sum(axis=1)], axis=1)


def measure_of(task: Task, parts: np.ndarray) -> np.ndarray:
    """The main measure from sums of `parts_of`: (..., 2) to (...)."""
    found = parts[..., 0] / np.maximum(parts[..., 1], 1e-12)
    return np.sqrt(found) if task.kind == "number" else found


def score(task: Task, rows: np.ndarray, predicted: np.ndarray) -> float:
    """The main measure of rows, more is better."""
    found = float(measure_of(task, parts_of(task, rows, predicted).sum(axis=0)))
    return -found if task.kind == "number" else found


def measures(task: Task, rows: np.ndarray, predicted: np.ndarray) -> dict[str, metrics.Metric]:
    """All measures, of the likeliest class or the labels from one half on."""
    return replace(task, decision=None).measure(rows, predicted)
