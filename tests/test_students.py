"""Students: what a smaller network has of its teacher before it learns anything."""

import json

import numpy as np
import pytest
from conftest import WORDS

from embedkit import Encoder, ImportEncoder, UserError, berts, frameworks, import_encoder, students
from embedkit.encoders import feed

TEXTS = ["the cat sat on the mat", "good film", "a red moon was very green and the dog ran", "bad"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("students")


@pytest.fixture(scope="module")
def artifact(place, tiny_bert):
    return import_encoder(tiny_bert, root=place)


@pytest.fixture(scope="module")
def teacher(artifact):
    return Encoder.open(artifact)


@pytest.fixture(scope="module")
def tokenizer(artifact):
    return (artifact / "tokenizer.json").read_text()


@pytest.fixture(scope="module")
def texts():
    """150 texts of 1 to 11 words, of which `the` is the most frequent."""
    random = np.random.default_rng(0)
    return [" ".join(["the", *random.choice(WORDS, random.integers(0, 11))]) for _ in range(150)]


def opened(student):
    """A student as an encoder."""
    return Encoder(student.model, student.facts, student.tokenizer, "the student")


def cosines(ours, theirs):
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    return (ours * theirs).sum(axis=1) / lengths


def untrained(teacher, tokenizer, student):
    """A student of the same shape from random weights."""
    inputs, tokens = berts.build(berts.anatomy(student.model, "the student").shape)
    return opened(students._pooled(teacher, tokenizer, inputs, tokens, student.projection))


# Directions


def test_directions_are_those_in_which_vectors_are_longest_and_their_mean_counts():
    vectors = np.array([[0, 3, 0.1], [0, 5, 0], [1, 4, 0], [-1, 4, 0]])
    found = students.directions(vectors, 2)
    assert found.dtype == np.float32 and found.T @ found == pytest.approx(np.eye(2), abs=1e-6)
    # 3 to 5 come before -1 to 1, and the largest number of each is positive
    assert found == pytest.approx(np.array([[0, 1], [1, 0], [0, 0]]), abs=0.01)


def test_directions_do_not_depend_on_the_sign_that_a_solver_gives(texts, teacher):
    vectors = teacher.encode(texts)
    found = students.directions(vectors, 5)
    assert (np.take_along_axis(found, np.abs(found).argmax(axis=0)[None], axis=0) > 0).all()
    kept = (np.square(vectors @ found)).sum() / np.square(vectors).sum()
    assert kept > 0.9 > (np.square(vectors[:, :5])).sum() / np.square(vectors).sum()


# Fewer layers


def test_all_layers_of_a_teacher_are_the_teacher(teacher, tokenizer):
    student = students.fewer_layers(teacher, tokenizer, 2)
    assert np.array_equal(opened(student).encode(TEXTS), teacher.encode(TEXTS))
    assert student.model.count_params() == teacher.model.count_params()
    assert np.array_equal(student.projection, np.eye(16)) and student.tokenizer == tokenizer
    assert student.facts == teacher.facts


def test_fewer_layers_are_at_even_distances_with_the_last_one(place, teacher, tokenizer):
    student = students.fewer_layers(teacher, tokenizer, 1)
    bert, ours = berts.anatomy(teacher.model, "the teacher"), berts.anatomy(student.model, "the student")
    assert ours.shape.layers == 1
    mine, last = berts.weights(ours.layers[0]), berts.weights(bert.layers[1])
    assert all(np.array_equal(a, b) for name in last for a, b in zip(mine[name], last[name], strict=True))
    assert students._even(berts.Bert(bert.shape, {}, None, list(range(12))), 3, "it") == [0, 6, 11]
    assert students._even(berts.Bert(bert.shape, {}, None, list(range(6))), 2, "it") == [0, 5]


def test_a_student_pools_and_normalises_as_its_teacher(tiny_bert, place, tokenizer):
    other = Encoder.open(import_encoder(tiny_bert, ImportEncoder(pooling="cls", normalise=False), root=place))
    student = students.fewer_layers(other, tokenizer, 2)
    assert (student.facts.pooling, student.facts.normalised) == ("cls", False)
    assert np.array_equal(opened(student).encode(TEXTS), other.encode(TEXTS))


def test_more_layers_than_the_teacher_has_are_refused(teacher, tokenizer):
    words = "encoder/tiny-bert@.* has 2 layers, of which 3 can't be taken; give at most 2"
    with pytest.raises(UserError, match=words):
        students.fewer_layers(teacher, tokenizer, 3)
    with pytest.raises(UserError, match=words):
        students.narrower(teacher, tokenizer, 3, None, TEXTS)


def test_a_layer_behind_the_pooling_is_refused(teacher, tokenizer):
    other = Encoder(teacher.model, teacher.facts.model_copy(update={"pooling": "none"}), tokenizer, "encoder/it@1")
    words = "encoder/it@1 has a layer behind its pooling, which no student has; import it with another pooling"
    with pytest.raises(UserError, match=words):
        students.fewer_layers(other, tokenizer, 1)


# Narrower


def test_all_layers_at_full_width_are_nearly_the_teacher_in_other_directions(teacher, tokenizer, texts):
    student = students.narrower(teacher, tokenizer, 2, 16, texts)
    way = student.projection
    assert way.T @ way == pytest.approx(np.eye(16), abs=1e-5) and not np.allclose(np.abs(way), np.eye(16), atol=0.1)
    agreement = cosines(opened(student).encode(texts), teacher.encode(texts) @ way)
    # Not exactly: normalisation looks at single numbers of a token, which are others in other directions.
    assert agreement.mean() > 0.95 and agreement.min() > 0.9


@pytest.mark.parametrize("width", [None, 8], ids=["default", "given"])
def test_a_narrow_student_begins_nearer_to_its_teacher_than_one_from_random_weights(teacher, tokenizer, texts, width):
    frameworks.start_keras(0)
    student = students.narrower(teacher, tokenizer, 2, width, texts)
    shape = berts.anatomy(student.model, "the student").shape
    assert (shape.layers, shape.width, shape.heads, shape.inner) == (2, 8, 1, 16)
    goal = teacher.encode(texts) @ student.projection
    ours = cosines(opened(student).encode(texts), goal).mean()
    assert student.facts.dimension == 8 and ours > 0.6
    assert ours > 0.3 + cosines(untrained(teacher, tokenizer, student).encode(texts), goal).mean()


def test_the_heads_and_inner_units_that_are_kept_are_those_with_the_largest_weights():
    random = np.random.default_rng(0)
    kernel = lambda *shape: random.normal(size=shape).astype(np.float32)  # noqa: E731
    given = {name: [kernel(4, 2, 2), kernel(2, 2)] for name in ("query", "key", "value")}
    given |= {"attended": [kernel(2, 2, 4), kernel(4)], "inner": [kernel(4, 3), kernel(3)], "outer": [kernel(3, 4), kernel(4)]}
    given |= {name: [np.ones(4), np.zeros(4)] for name in ("attended_norm", "outer_norm")}
    given["value"][0][:, 1] *= 10
    given["inner"][0][:, 2] *= 10
    given["outer"][0][0] *= 10
    way = np.eye(4, dtype=np.float32)[:, :2]
    found = students._narrowed(given, random.normal(size=(50, 4)), way, heads=1, inner=2)
    assert np.array_equal(found["value"][0], given["value"][0][:2, 1:]) and np.array_equal(found["query"][1], given["query"][1][1:])
    assert np.array_equal(found["attended"][0], given["attended"][0][1:, :, :2])
    assert np.array_equal(found["inner"][0], given["inner"][0][:2][:, [0, 2]])
    assert np.array_equal(found["outer"][0], given["outer"][0][[0, 2]][:, :2])
    assert np.array_equal(found["outer"][1], given["outer"][1][:2])


def test_gain_and_bias_of_a_narrow_normalisation_are_the_best_line_through_the_turned_tokens():
    random = np.random.default_rng(0)
    outputs, way = random.normal(size=(400, 6)), np.linalg.qr(random.normal(size=(6, 3)))[0]
    gain, bias = random.normal(1, 0.2, 6), random.normal(size=6)
    found_gain, found_bias = students._norm([gain, bias], outputs, way)

    def normed(tokens):
        return (tokens - tokens.mean(axis=1, keepdims=True)) / tokens.std(axis=1, keepdims=True)

    goal, turned = (normed(outputs) * gain + bias) @ way, normed(normed(outputs) @ way)
    for number in range(3):
        slope, offset = np.polyfit(turned[:, number], goal[:, number], 1)
        assert (found_gain[number], found_bias[number]) == pytest.approx((slope, offset), abs=1e-5)


@pytest.mark.parametrize("width", [12, 24])
def test_a_width_that_heads_do_not_fill_is_refused(teacher, tokenizer, width):
    words = f"^width {width} doesn't fit: an attention head of encoder/tiny-bert@.* is 8 wide; give a multiple, at most 16$"
    with pytest.raises(UserError, match=words):
        students.narrower(teacher, tokenizer, 1, width, TEXTS)


def test_hidden_states_are_the_tokens_of_texts_without_padding(teacher):
    bert = berts.anatomy(teacher.model, "the teacher")
    found = students.hidden_states(teacher, bert, ["the cat", "good"])
    assert [each.shape for each in found] == 3 * [(4 + 3, 16)]  # each text between two special tokens
    means = [part.mean(axis=0) for part in (found[-1][:4], found[-1][4:])]
    pooled = np.stack([mean / np.linalg.norm(mean) for mean in means])
    assert pooled == pytest.approx(teacher.encode(["the cat", "good"]), abs=1e-5)


# Static


def counts_of(tokenizer, facts, texts):
    tokens = feed(facts, students.without_special_tokens(tokenizer)).tokens(texts)
    return np.bincount(np.concatenate(tokens), minlength=104)


@pytest.fixture(scope="module")
def static(teacher, tokenizer, texts):
    return students.static(teacher, tokenizer, 6, teacher.encode(texts), counts_of(tokenizer, teacher.facts, texts))


def test_a_static_student_adds_no_special_tokens(static, tokenizer):
    loaded = opened(static)
    assert loaded.feed.tokens(["the cat"]) == [[5, 7]] and loaded.feed.tokens([""]) == [[]]
    assert {**json.loads(static.tokenizer), "post_processor": 0} == {**json.loads(tokenizer), "post_processor": 0}
    said = (static.facts.pooling, static.facts.layer, static.facts.dimension, static.facts.normalised)
    assert said == ("mean", "token_vectors", 6, True)


def test_each_token_says_what_the_teacher_says_of_it_alone(static, teacher):
    assert students.vocabulary_of(teacher) == 104
    alone = students.token_vectors(teacher, 104)
    assert alone[7] == pytest.approx(teacher.encode(["cat"])[0], abs=1e-5)
    expected = teacher.encode(["cat", "dog"]) @ static.projection
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert opened(static).encode(["cat", "dog"]) == pytest.approx(expected, abs=1e-5)


def test_a_frequent_token_weighs_less(static, teacher, tokenizer, texts):
    counts = counts_of(tokenizer, teacher.facts, texts)
    (table,) = static.model.get_layer("token_vectors").get_weights()
    alone = students.token_vectors(teacher, 104) @ static.projection
    weights = np.linalg.norm(table, axis=1) / np.linalg.norm(alone, axis=1)
    the, cat, unseen = 5, 7, 30
    assert counts[the] > counts[cat] > 0 == counts[unseen]
    assert weights[the] < weights[cat] < weights[unseen] == pytest.approx(1)
    assert weights[the] == pytest.approx(0.001 / (0.001 + counts[the] / counts.sum()), rel=1e-4)


def test_a_text_without_tokens_is_a_vector_of_zeros(static):
    found = opened(static).encode(["", "cat", "\u0301"])
    assert not found[[0, 2]].any() and np.linalg.norm(found[1]) == pytest.approx(1)
    assert not opened(static).encode([""]).any()


def test_more_numbers_than_the_teacher_gives_are_refused(teacher, tokenizer, texts):
    words = "20 numbers are more than the 16 of encoder/tiny-bert@.*'s vectors; give at most those"
    with pytest.raises(UserError, match=words):
        students.static(teacher, tokenizer, 20, teacher.encode(TEXTS), np.zeros(104))


@pytest.fixture
def small(static):
    """A static student whose table holds padding and the tokens of two texts only."""
    batch = opened(static).feed.padded([[5, 7, 30], [9]])
    return students.small(static, np.array([0, 5, 7, 9, 30])), batch


def test_a_small_table_gives_the_vectors_of_the_whole_one(static, small):
    made, batch = small
    assert made.model.get_layer("token_vectors").get_weights()[0].shape == (5, 6)
    renamed = made.renamed(batch)
    assert renamed["token_ids"].tolist() == [[1, 2, 4], [3, 0, 0]] and renamed["token_ids"].dtype == np.int32
    assert np.array_equal(made.model(renamed, training=False), static.model(batch, training=False))


def test_what_a_small_table_learned_comes_into_the_whole_one_and_other_tokens_stay(static, small):
    made, batch = small
    (before,) = static.model.get_layer("token_vectors").get_weights()
    learned = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    made.model.get_layer("token_vectors").set_weights([learned])
    made.restore()
    (after,) = static.model.get_layer("token_vectors").get_weights()
    assert np.array_equal(after[[0, 5, 7, 9, 30]], learned)
    others = np.setdiff1d(np.arange(104), [0, 5, 7, 9, 30])
    assert np.array_equal(after[others], before[others])
    assert np.array_equal(made.model(made.renamed(batch), training=False), static.model(batch, training=False))
    static.model.get_layer("token_vectors").set_weights([before])


# Given


def test_a_given_student_is_a_copy_of_another_network_that_can_move(place, normed_network):
    start = Encoder.open(import_encoder(normed_network, root=place))
    student = students.given(start, None)
    pictures = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3)).astype(np.uint8)
    assert np.array_equal(Encoder(student.model, student.facts, None, "it").encode(list(pictures)), start.encode(list(pictures)))
    assert student.projection is None and student.model is not start.model
    moving = {variable.path.split("/")[-2] for variable in student.model.trainable_variables}
    assert moving == {"first_conv", "second_conv"}  # batch normalisation keeps what it has
