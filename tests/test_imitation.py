"""Imitation: the losses of a student, by numbers that were worked out by hand, and the step that adds them up."""

import numpy as np
import pytest

from embedkit import Encoder, Training, berts, frameworks, import_encoder, students
from embedkit.imitation import (
    UNSEEN,
    Line,
    Watched,
    Weights,
    _fewer,
    contrast_loss,
    hidden_loss,
    relation_loss,
    soft_loss,
    step_of,
    vector_loss,
)
from embedkit.tasks import Task
from embedkit.training import Problem, Rows, Trainer, fit, resolve

NOTHING = {"soft": 0.0, "labels": 0.0, "vectors": 0.0, "hidden": 0.0, "attention": 0.0, "contrast": 0.0}
TEXTS = ["the cat sat on the mat", "good film", "a red moon was very green and the dog ran", "bad dog", "the moon", "it is not"]


def weights(**given):
    return Weights(**NOTHING | {"temperature": 1.0, "vector_loss": "cosine"} | given)


def task(kind):
    return Task(kind, {"class": ["a", "b"], "classes": ["a", "b"], "number": []}[kind], np.empty(0))


def floats(*rows):
    return np.array(rows, np.float32)


def given(loss):
    return np.asarray(loss).tolist()


# Outputs


def test_a_softened_class_costs_its_divergence_times_the_squared_temperature():
    # softmax of (2 ln 3, 0) / 2 is (3/4, 1/4), of (0, 0) it is (1/2, 1/2); KL = 3/4 ln 3/2 + 1/4 ln 1/2 = 0.130812
    teacher, student = floats([2 * np.log(3), 0]), floats([0, 0])
    assert given(soft_loss(task("class"), teacher, student, 2.0)) == pytest.approx([4 * 0.130812], abs=1e-5)
    # unsoftened (9/10, 1/10): 0.9 ln 1.8 + 0.1 ln 0.2 = 0.368064
    assert given(soft_loss(task("class"), teacher, student, 1.0)) == pytest.approx([0.368064], abs=1e-5)


def test_several_softened_labels_cost_what_each_of_them_does():
    # sigmoid of ln 3 is 3/4, of 0 it is 1/2: 0.130812 a label as above
    teacher, student = floats([2 * np.log(3), -2 * np.log(3)], [2 * np.log(3), 0]), floats([0, 0], [0, 0])
    found = given(soft_loss(task("classes"), teacher, student, 2.0))
    assert found == pytest.approx([2 * 4 * 0.130812, 4 * 0.130812], abs=1e-5)


def test_numbers_cost_half_their_squared_difference_whatever_the_temperature():
    for temperature in (1.0, 3.0):
        assert given(soft_loss(task("number"), floats([2.0]), floats([-1.0]), temperature)) == [4.5]


@pytest.mark.parametrize("kind", ["class", "classes", "number"])
def test_what_says_the_same_costs_nothing(kind):
    outputs = floats([1.5, -40.0], [0.0, 80.0])[:, : 1 if kind == "number" else 2]
    assert given(soft_loss(task(kind), outputs, outputs, 2.0)) == pytest.approx([0, 0], abs=1e-5)


# Vectors


def test_vectors_cost_one_less_their_cosine():
    teacher, student = floats([3, 0], [3, 0], [3, 0], [1, 2]), floats([5, 0], [0, 1], [-2, 0], [1, 0])
    found = given(vector_loss(teacher, student, "cosine"))
    assert found == pytest.approx([0, 1, 2, 1 - 1 / np.sqrt(5)], abs=1e-6)


def test_or_their_squared_distance_over_the_teachers_mean_square():
    # squared distances 4 and 0; the teacher's squares are 9 and 1, on average 5
    assert given(vector_loss(floats([3, 0], [0, 1]), floats([3, 2], [0, 1]), "mse")) == pytest.approx([0.8, 0], abs=1e-6)


@pytest.mark.parametrize("kind", ["cosine", "mse"])
def test_a_vector_of_zeros_has_a_loss_and_a_slope_that_are_numbers(kind):
    import tensorflow as tf

    student = tf.Variable(floats([0, 0], [1, 0]))
    with tf.GradientTape() as tape:
        loss = vector_loss(tf.constant(floats([1, 1], [1, 1])), student, kind)
    assert np.isfinite(loss).all() and np.isfinite(tape.gradient(loss, student)).all()


def test_contrast_is_how_badly_a_row_is_told_from_the_others():
    # cosines to the two other looks: 1 and 0.95, over 0.05 that is e^20 and e^19; -ln of e^20 / (e^20 + e^19) = ln(1 + 1/e)
    near = floats([0.95, np.sqrt(1 - 0.95**2)])[0]
    one, other = np.stack([floats([2, 0])[0], near]), np.stack([floats([7, 0])[0], 3 * near])
    assert given(contrast_loss(one, other)) == pytest.approx(2 * [np.log(1 + np.exp(-1))], abs=1e-3)
    assert given(contrast_loss(one, other[::-1])) == pytest.approx(2 * [np.log(1 + np.e)], abs=1e-3)


def test_contrast_of_a_vector_of_zeros_has_a_slope_that_is_a_number():
    import tensorflow as tf

    looked = tf.Variable(floats([0, 0], [1, 0]))
    with tf.GradientTape() as tape:
        loss = contrast_loss(looked, looked)
    assert np.isfinite(loss).all() and np.isfinite(tape.gradient(loss, looked)).all()


# Inner states


def test_hidden_states_leave_padding_out():
    teacher = floats([[1, 1], [3, 3]], [[1, 1], [3, 3]])                     # mean square 5
    student = floats([[1, 3], [3, 3]], [[1, 1], [9, 9]])
    # the first row: (2 + 0) / 2 tokens / 5; the second differs in its padding only
    assert given(hidden_loss(teacher, student, floats([1, 1], [1, 0]))) == pytest.approx([0.2, 0], abs=1e-6)


def parts(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_equal_relations_cost_nothing_and_others_something():
    teacher, mask = parts(0, 2, 5, 2, 12), np.ones((2, 5), np.float32)
    assert given(relation_loss(teacher, teacher, mask)) == pytest.approx([0, 0], abs=1e-6)
    assert min(given(relation_loss(teacher, parts(1, 2, 5, 2, 12), mask))) > 0.01


def test_a_relation_is_the_divergence_of_how_tokens_look_at_each_other():
    # one head of one number a token (gcd of 12 and 1 is 1): token 1 looks by (1, 2), token 2 by (2, 4), padding is not seen
    teacher, student = floats([[[1]], [[2]], [[50]]]), floats([[[0]], [[0]], [[7]]])
    expected = 0.0
    for looks in ((1.0, 2.0), (2.0, 4.0)):
        share = np.exp(looks) / np.exp(looks).sum()
        expected += (share * np.log(share / 0.5)).sum() / 2  # the student looks at both alike
    assert given(relation_loss(teacher, student, floats([1, 1, 0]))) == pytest.approx([expected], abs=1e-6)


@pytest.mark.parametrize("heads, width", [(1, 8), (2, 8), (2, 12), (5, 2)])
def test_relations_compare_networks_of_different_width(heads, width):
    mask = np.ones((2, 5), np.float32)
    found = given(relation_loss(parts(0, 2, 5, 2, 12), parts(1, 2, 5, heads, width), mask))
    assert len(found) == 2 and min(found) > 0 and np.isfinite(found).all()


# A row's targets, and the step


def test_a_line_of_targets_comes_apart_as_it_was_put_together():
    line = Line(outputs=2, dimension=3)
    outputs, labels, known, vectors = floats([1, 2]), floats([0, 1]), np.array([True]), floats([7, 8, 9])
    targets = line.of(outputs, labels, known, vectors)
    assert targets.tolist() == [[1, 2, 0, 1, 1, 7, 8, 9]] and targets.dtype == np.float32
    assert [given(part) for part in line.parts(targets)] == [[[1, 2]], [[0, 1]], [1], [[7, 8, 9]]]


class Said:
    """What a network says, whatever comes: two numbers of a vector, two outputs."""

    def __init__(self, *rows):
        self.rows = floats(*rows)

    def __call__(self, inputs, training):
        return self.rows


def test_the_parts_are_added_up_by_their_weights_and_unknown_labels_do_not_count():
    import keras

    line, generator = Line(2, 2), keras.random.SeedGenerator(0)
    targets = line.of(floats([2 * np.log(3), 0], [0, 0]), floats([0, 1], [1, 0]), np.array([1, 0]), floats([1, 0], [1, 0]))
    said = Said([0, 1, 0, 0], [1, 0, 0, 0])
    soft, labels, vectors = floats([4 * 0.130812, 0], [np.log(2), 0], [1, 0])

    def step(**given):
        return np.asarray(step_of(task("class"), line, weights(temperature=2.0, **given), None, generator)(said, {}, targets, True))

    assert step(soft=1.0) == pytest.approx(soft, abs=1e-5)
    assert step(labels=1.0) == pytest.approx(labels, abs=1e-5)
    assert step(vectors=1.0) == pytest.approx(vectors, abs=1e-5)
    assert step(soft=0.5, labels=3.0, vectors=2.0) == pytest.approx(0.5 * soft + 3 * labels + 2 * vectors, abs=1e-5)


def test_an_encoder_has_vectors_and_nothing_else():
    line = Line(0, 2)
    targets = line.of(np.empty((2, 0)), np.empty((2, 0)), np.zeros(2), floats([1, 0], [1, 0]))
    step = step_of(None, line, weights(vectors=1.0, soft=1.0, labels=1.0), None, None)
    assert given(step(Said([0, 1], [1, 0]), {}, targets, True)) == pytest.approx([1, 0], abs=1e-6)


def test_a_look_leaves_some_tokens_out_but_never_the_first():
    import keras

    mask = np.ones((200, 20), np.int32)
    mask[:, 15:] = 0
    inputs = {"token_ids": np.ones((200, 20), np.int32), "padding_mask": mask}
    generator = keras.random.SeedGenerator(0)
    seen, again = (np.asarray(_fewer(inputs, generator)["padding_mask"]) for _ in range(2))
    assert seen[:, 0].all() and not seen[:, 15:].any() and seen.dtype == np.int32
    assert 1 - seen[:, 1:15].mean() == pytest.approx(UNSEEN, abs=0.02) and (seen != again).any()
    assert (mask[:, :15] == 1).all() and _fewer(mask, generator) is mask


# A real network that learns from inner states


@pytest.fixture(scope="module")
def bert(tmp_path_factory, tiny_bert):
    artifact = import_encoder(tiny_bert, root=tmp_path_factory.mktemp("imitation"))
    return Encoder.open(artifact), (artifact / "tokenizer.json").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_inner_states_of_a_narrower_network_come_nearer_and_the_teacher_stays(bert, precision):
    import tensorflow as tf

    teacher, tokenizer = bert
    frameworks.start_keras(0)
    student = students.narrower(teacher, tokenizer, 1, 8, TEXTS)
    watched, line = Watched(teacher, student.model, student.model), Line(0, 8)
    targets = line.of(np.empty((6, 0)), np.empty((6, 0)), np.zeros(6), np.zeros((6, 8)))
    tokens = teacher.feed.tokens(TEXTS)

    def batch(chosen):
        return teacher.feed.padded([tokens[row] for row in chosen]), targets[chosen]

    def parts(model):
        inputs, _ = batch(np.arange(6))
        _, *states = model(inputs, training=False)
        each = [watched.losses(model, inputs, states, weights(**{name: 1.0})) for name in ("hidden", "attention")]
        return np.mean(np.array(each), axis=1)

    inputs = {name: tf.TensorSpec([None, None], tf.int32) for name in ("token_ids", "padding_mask", "segment_ids")}
    rows = Rows(6, batch, np.arange(6), signature=(inputs, tf.TensorSpec([None, targets.shape[1]], tf.float32)))
    step = step_of(None, line, weights(hidden=1.0, attention=1.0), watched, None)
    problem = Problem(watched.model, lambda targets, outputs: outputs, rows, rows, step=step)
    asked = Training(batch_size=6, epochs=12, learning_rate=0.01, patience=None, precision=precision)
    before, first = parts(watched.model), [variable.numpy() for variable in teacher.model.variables]
    trainer = Trainer(problem, resolve(asked, linear=False, epochs=1))
    run = fit(trainer, 0, None)
    assert (parts(watched.model) < 0.9 * before).all()
    assert run.history[0]["loss"] == pytest.approx(before.sum(), rel=0.2)  # dropout, and fewer digits, change it a little
    assert all(np.array_equal(old, new.numpy()) for old, new in zip(first, teacher.model.variables, strict=True))
    assert trainer.model.get_layer(watched.last).compute_dtype == precision
    learned = zip(trainer.model.trainable_variables, problem.model.trainable_variables, strict=True)
    assert {mine.dtype for pair in learned for mine in pair} == {"float32"}


def test_maps_to_the_teachers_width_are_no_part_of_what_is_kept(bert):
    teacher, tokenizer = bert
    student = students.fewer_layers(teacher, tokenizer, 1)
    count = student.model.count_params()
    watched = Watched(teacher, student.model, student.model)
    assert watched.model.count_params() == count + 2 * (16 * 16 + 16)  # of the embeddings and of the one layer
    assert student.model.count_params() == count and len(watched.model.outputs) == 4
    assert berts.anatomy(student.model, "it").layers[-1].name == watched.last


def test_a_student_of_all_layers_has_nothing_to_learn_from_relations(bert):
    teacher, tokenizer = bert
    student = students.fewer_layers(teacher, tokenizer, 2)
    watched = Watched(teacher, student.model, student.model)
    ((_, batch),) = teacher.feed.batches(TEXTS)
    _, *states = watched.model(batch, training=False)
    found = watched.losses(watched.model, batch, states, weights(attention=1.0))
    assert given(found) == pytest.approx(6 * [0], abs=1e-5)
