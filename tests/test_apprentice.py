"""An apprentice: what it learns from, row by row, and what is left of it when it has learned."""

import json
from dataclasses import replace

import numpy as np
import pytest
from conftest import WORDS

from embedkit import Encoder, LoadTexts, TrainHead, Training, frameworks, import_encoder, load_texts, students
from embedkit.apprentice import Apprentice, Transfer, linear_head
from embedkit.datasets import read_contents, read_rows
from embedkit.imitation import Weights
from embedkit.lessons import assign
from embedkit.stages import Draft
from embedkit.tasks import Task

FAST = Training(batch_size=8, preflight=False)
NOTHING = {"soft": 0.0, "labels": 0.0, "vectors": 0.0, "hidden": 0.0, "attention": 0.0, "contrast": 0.0}


def weights(**given):
    return Weights(**NOTHING | {"temperature": 2.0, "vector_loss": "cosine"} | given)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("apprentice")


@pytest.fixture(scope="module")
def bert(place, tiny_bert):
    artifact = import_encoder(tiny_bert, root=place)
    return Encoder.open(artifact), (artifact / "tokenizer.json").read_text()


@pytest.fixture(scope="module")
def texts(place):
    """30 texts of two classes; row 0, which trains, has no token, and row 3 no label."""
    random, lines = np.random.default_rng(0), ["text,label,split"]
    for number in range(30):
        words = "\u0301" if number == 0 else f"{' '.join(random.choice(WORDS, 4))} {'good' if number % 2 else 'bad'}"
        split = ("train", "train", "train", "train", "validation", "test")[number % 6]
        lines.append(f"{words},{'' if number == 3 else ('neg', 'pos')[number % 2]},{split}")
    (place / "texts.csv").write_text("\n".join(lines) + "\n")
    return load_texts(place / "texts.csv", LoadTexts(split_column="split"), root=place)


@pytest.fixture(scope="module")
def more(place):
    """Four more texts, without labels."""
    (place / "more.csv").write_text("text\nthe cat\na dog ran\nred moon\nblue mat\n")
    return load_texts(place / "more.csv", root=place)


@pytest.fixture(scope="module")
def head():
    """Kernel and bias of a teacher's head of two outputs."""
    random = np.random.default_rng(1)
    return random.normal(size=(16, 2)).astype(np.float32), np.array([0.5, -0.5], np.float32)


def transfer(teacher, head, dataset, places):
    vectors = teacher.encode(read_contents(dataset, 0, dataset.manifest.rows)["text"].to_pylist())
    return Transfer(dataset, places, vectors, vectors @ head[0] + head[1])


@pytest.fixture
def lesson(texts):
    rows = read_rows(texts)
    return assign(str(texts), rows, rows["id"].to_numpy(), np.empty((len(rows), 0)), TrainHead())


@pytest.fixture
def make(tmp_path, bert, texts, more, head, lesson):
    """An apprentice of the tiny BERT: static, or of so many of its layers."""
    teacher, tokenizer = bert

    def of(given, student="static", classifier=True, own_head=head):
        frameworks.start_keras(0)
        own = transfer(teacher, head, texts, np.sort([*lesson.train, 3]))
        if student == "static":
            counts = np.ones(students.vocabulary_of(teacher))
            made = students.static(teacher, tokenizer, 6, own.vectors, counts)
        else:
            made = students.fewer_layers(teacher, tokenizer, student)
        sources = [own, transfer(teacher, head, more, np.array([1, 3]))]
        if not classifier:
            lesson.task = Task("none", [], np.zeros((30, 0), np.float32))
            sources = [replace(source, outputs=np.empty((len(source.outputs), 0))) for source in sources]
        return Apprentice(Draft(tmp_path), teacher, own_head, made, sources, lesson, given, 0.0, 0)

    return of


# Heads


def test_a_linear_head_is_read_off_what_it_says(head):
    kernel, bias = linear_head(lambda vectors: vectors @ head[0] + head[1], 16)
    assert kernel == pytest.approx(head[0], abs=1e-5) and bias == pytest.approx(head[1], abs=1e-6)
    assert kernel.dtype == bias.dtype == np.float32


def test_a_head_with_a_hidden_layer_is_none(head):
    assert linear_head(lambda vectors: np.tanh(vectors) @ head[0] + head[1], 16) is None


# First weights


def test_a_student_that_is_the_teacher_says_what_the_teacher_says_from_the_start(make, lesson):
    apprentice = make(weights(soft=1.0, vectors=1.0), student=2)
    rows = np.concatenate([lesson.train, lesson.test])
    said = np.asarray(apprentice.model(apprentice.inputs(rows), training=False))
    assert said[:, :16] == pytest.approx(apprentice.sources[0].vectors[rows], abs=1e-5)
    assert said[:, 16:] == pytest.approx(apprentice.sources[0].outputs[rows], abs=1e-4)


def test_a_head_that_is_not_linear_leaves_the_prior_to_start_from(make, lesson):
    apprentice = make(weights(soft=1.0), own_head=None)
    said = np.asarray(apprentice.model(apprentice.inputs(lesson.test), training=False))[:, 6:]
    shares = np.exp(said) / np.exp(said).sum(axis=1, keepdims=True)
    assert shares == pytest.approx(np.tile(lesson.task.prior(lesson.train), (len(lesson.test), 1)), abs=1e-6)


# What it learns from


def test_every_row_that_the_teacher_answered_is_learned_from_but_those_without_a_token(make, lesson):
    apprentice = make(weights(soft=1.0))
    assert apprentice.train.tolist() == [row for row in sorted([*lesson.train, 3, 31, 33]) if row != 0]
    assert apprentice.count == len(lesson.train) + 2
    assert 0 in make(weights(soft=1.0), student=1).train  # special tokens are tokens


def test_without_a_teacher_only_labelled_rows_are_learned_from(make, lesson):
    assert make(weights(labels=1.0)).train.tolist() == [row for row in lesson.train if row != 0]


def test_targets_are_the_teachers_answers_and_labels_where_there_are_some(make, lesson):
    apprentice = make(weights(soft=1.0, labels=1.0, vectors=1.0))
    problem = apprentice.problem(None)
    rows = np.searchsorted(apprentice.train, [1, 2, 3, 33])
    inputs, targets = problem.train.batch(rows)
    outputs, labels, known, vectors = targets[:, :2], targets[:, 2:4], targets[:, 4], targets[:, 5:]
    own, other = apprentice.sources
    assert known.tolist() == [1, 1, 0, 0] and labels.tolist() == [[0, 1], [1, 0], [0, 0], [0, 0]]
    assert outputs == pytest.approx(np.concatenate([own.outputs[1:4], other.outputs[[3]]]), abs=1e-6)
    assert vectors == pytest.approx(np.concatenate([own.vectors[1:4], other.vectors[[3]]]) @ apprentice.way, abs=1e-5)
    seen = apprentice.small.seen[inputs["token_ids"]]
    assert seen.tolist() == apprentice.prepared.batch(np.array([1, 2, 3, 33]))["token_ids"].tolist()
    assert problem.train.ids[rows].tolist() == [*lesson.ids[[1, 2, 3]], -1]
    held = problem.validation.batch(np.arange(len(lesson.validation)))[1]
    assert held[:, 4].all() and held[:, 2:4].argmax(axis=1).tolist() == lesson.task.targets[lesson.validation].tolist()


def test_a_batch_counts_as_learned_where_labels_and_the_teacher_disagree_as_much_as_they_do(make, lesson):
    bound = make(weights(soft=1.0, labels=2.0)).problem(None).bound
    # Of a student that says what the teacher says, a label costs ln 2 where that is even, nothing where it is right, and
    # nothing where there is none. A tenth of what guessing costs is left to it beside that.
    lines = np.zeros((3, 5 + 6), np.float32)
    lines[:, :2], lines[:, 2:4], lines[:, 4] = [[0, 0], [40, 0], [40, 0]], [[1, 0], [1, 0], [0, 1]], [1, 1, 0]
    guessing = lesson.task.entropy(lesson.train, lesson.task.prior(lesson.train))
    assert bound(lines) == pytest.approx(2 * (np.log(2) / 3 + 0.1 * guessing), abs=1e-5)
    assert make(weights(soft=1.0)).problem(None).bound is None


# What is left


def learned(apprentice, steps, tmp_path):
    found = apprentice.learn(Draft(tmp_path), FAST, steps, 0.05)
    return found, [entry["validation_loss"] for entry in json.loads((tmp_path / "files/history.json").read_text())]


def test_a_static_student_learns_what_its_tokens_mean_and_others_stay(make, tmp_path, lesson):
    apprentice = make(weights(soft=1.0, vectors=1.0))
    table = apprentice.whole.get_layer("token_vectors")
    before = table.get_weights()[0]
    found, losses = learned(apprentice, 20, tmp_path)
    after = table.get_weights()[0]
    assert found.run.step == 20 and found.run.epoch == 10 and losses[-1] < losses[0]
    assert np.isfinite(after).all()  # with a text of no token among the rows
    seen = apprentice.small.seen
    unseen = np.setdiff1d(np.arange(104), seen)
    assert np.array_equal(before[unseen], after[unseen]) and not np.array_equal(before[seen], after[seen])
    vectors = apprentice.encode(lesson.test)
    assert vectors == pytest.approx(np.asarray(apprentice.model(apprentice.inputs(lesson.test), training=False))[:, :6], abs=1e-5)


def test_texts_are_told_apart_without_a_teacher(make, tmp_path):
    apprentice = make(weights(contrast=1.0), classifier=False)
    assert apprentice.joint is None
    found, losses = learned(apprentice, 4, tmp_path)
    assert found.run.step == 4 and losses[-1] < losses[0]


def test_a_student_of_another_width_is_held_against_the_teacher_through_a_map_that_is_not_kept(make, bert, lesson, tmp_path):
    teacher, first = bert[0], make(weights(vectors=1.0))
    given, own = replace(first.student, projection=None), first.sources[:1]  # as a network that was given
    apprentice = Apprentice(Draft(tmp_path / "given"), teacher, None, given, own, lesson, weights(vectors=1.0), 0.0, 0)
    assert apprentice.dimension == 16 and apprentice.model.get_layer("to_teacher").kernel.shape == (6, 16)
    assert "to_teacher" not in [layer.name for layer in apprentice.whole.layers] and apprentice.whole.output.shape[-1] == 6
    without = Apprentice(Draft(tmp_path / "soft"), teacher, None, given, own, lesson, weights(soft=1.0), 0.0, 0)
    assert without.dimension == 6 and without.problem(None).train.batch(np.arange(2))[1].shape == (2, 2 + 2 + 1 + 6)
