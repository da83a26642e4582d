"""Tuning: the joint network, where each recipe begins, what it may be asked for, and one run of it."""

import numpy as np
import pytest

from embedkit import Encoder, FineTune, Training, UserError, adaptation, checkpoints, engines, frameworks, import_encoder, tuning
from embedkit.batches import batch_of
from embedkit.encoders import EncoderFacts
from embedkit.lessons import Lesson, balance
from embedkit.tasks import Task
from embedkit.training import Trainer, fit
from embedkit.tuning import Tuner, head_of, join, training_of

frameworks.load_frameworks()

import keras  # noqa: E402  after the frameworks were loaded quietly
from keras import ops  # noqa: E402

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.uniform(0, 255, (40, 6, 6, 3)).astype(np.float32)
REDDER = (PIXELS[..., 0].mean(axis=(1, 2)) > PIXELS[..., 1].mean(axis=(1, 2))).astype(np.int32)
CLASS = Task("class", ["green", "red"], REDDER)
SEVERAL = Task("classes", ["red", "bright"], np.stack([REDDER, PIXELS.mean(axis=(1, 2, 3)) > 127], axis=1).astype(np.float32))
NUMBER = Task("number", [], RANDOM.normal(size=(40, 1)).astype(np.float32), 7.0, 2.0)
QUICK = Training(epochs=2, batch_size=8, preflight=False)


def encoder(seed=0):
    """An encoder of pictures of 6 x 6 with batch normalisation; 5 numbers a vector."""
    frameworks.start_keras(seed)
    pixels = keras.Input((6, 6, 3), name="pixels")
    x = keras.layers.Conv2D(4, 3, name="conv")(keras.layers.Rescaling(1 / 255, name="scaling")(pixels))
    x = keras.layers.ReLU(name="relu")(keras.layers.BatchNormalization(name="norm")(x))
    model = keras.Model(pixels, keras.layers.Dense(5, name="last")(keras.layers.Flatten(name="flat")(x)), name="encoder")
    model.get_layer("norm").set_weights(list(np.random.default_rng(1).uniform(0.5, 2, (4, 4)).astype(np.float32)))
    given = {"dimension": 5, "layer": "last", "pooling": "none", "normalised": False, "source": "tiny"}
    return Encoder(model, EncoderFacts(modality="images", height=6, width=6, **given), None, "encoder/tiny")


class Memory:
    """Rows as `Prepared` gives them, from memory."""

    def batch(self, chosen):
        return PIXELS[chosen]

    def signature(self, targets):
        return None


def lesson_of(loaded, settings, task=CLASS):
    inputs = loaded.forward(PIXELS)
    return Lesson(settings, task, np.arange(40), inputs, np.arange(24), np.arange(24, 32), np.arange(32, 40), [])


def begun(settings, task=CLASS, frozen=0):
    """A tuner at its first weights, beside what it learns from."""
    loaded = encoder(settings.seed)
    tuner = Tuner(loaded, task, settings, frozen)
    lesson = lesson_of(loaded, settings, task)
    if settings.recipe == "scratch":
        lesson.inputs = engines.forward(adaptation.copy_of(loaded.model, settings.seed))(PIXELS)
    tuner.begin(lesson, balance(lesson, task.targets[lesson.train]), settings.seed)
    return tuner, lesson


def run(tuner, lesson, folder, training=QUICK):
    settings = tuner.settings.model_copy(update={"training": training})
    problem = tuner.problem(lesson, Memory(), balance(lesson, lesson.task.targets[lesson.train]))
    return fit(tuner.ready(problem, training_of(settings, len(lesson.train))), settings.seed, folder)


def weights_of(model):
    return {weight.path: weight.numpy() for weight in model.weights}


def layer_weights(model, name):
    return [weight.numpy() for weight in model.get_layer(name).weights]


def equal(ours, theirs):
    return all(np.array_equal(one, other) for one, other in zip(ours, theirs, strict=True))


# The joint network --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", [CLASS, SEVERAL, NUMBER], ids=lambda task: task.kind)
def test_the_joint_network_is_the_encoder_its_vectors_scaled_and_a_dense_layer(task):
    tuner, lesson = begun(FineTune(), task)
    head = tuner.joint.outputs
    head.set_weights([np.random.default_rng(0).normal(size=(5, task.outputs)), np.arange(task.outputs)])
    vectors = tuner.loaded.forward(PIXELS)
    known = vectors[lesson.train]
    scaled = (vectors - known.mean(axis=0)) / np.sqrt(known.var(axis=0).mean())
    expected = scaled @ head.kernel.numpy() + head.bias.numpy()
    assert tuner.forward()(PIXELS) == pytest.approx(expected, abs=1e-4)
    shown = head_of(tuner.joint, task).predict(vectors, verbose=0)
    assert shown.squeeze() == pytest.approx(task.predict(expected).squeeze(), abs=1e-4)


def test_vectors_that_are_all_the_same_are_left_in_their_unit():
    loaded = encoder()
    tuner, lesson = Tuner(loaded, CLASS, FineTune()), lesson_of(loaded, FineTune())
    lesson.inputs = np.ones_like(lesson.inputs)
    tuner.begin(lesson, balance(lesson, REDDER[:24]), 0)
    assert np.isfinite(tuner.forward()(PIXELS)).all()
    assert set(tuner.joint.scaling.weights[1].numpy().tolist()) == {1.0}


@pytest.mark.parametrize("recipe", ["full", "scratch"])
def test_an_untrained_head_predicts_the_prior(recipe):
    tuner, lesson = begun(FineTune(recipe=recipe))
    found = CLASS.predict(tuner.forward()(PIXELS))
    assert found == pytest.approx(np.tile(CLASS.prior(lesson.train), (40, 1)), abs=1e-6)


def test_dropout_is_for_training_steps_alone():
    for dropout, differs in ((0.0, False), (0.5, True)):
        frameworks.start_keras(0)
        joint = join(encoder().model, CLASS, dropout)
        joint.outputs.set_weights([np.ones((5, 2)), np.zeros(2)])
        trained, inferred = (np.array(joint.logits(PIXELS, training=training)) for training in (True, False))
        assert np.array_equal(inferred, np.array(joint.logits(PIXELS, training=False)))
        # The encoder's own normalisation has to stay at inference for the two to be the same.
        assert differs or not np.allclose(trained, inferred)
    tuner, _ = begun(FineTune(dropout=0.0))
    tuner.joint.outputs.set_weights([np.ones((5, 2)), np.zeros(2)])
    assert np.array(tuner.joint.logits(PIXELS, training=True)) == pytest.approx(tuner.forward()(PIXELS), abs=1e-4)


def test_the_share_of_dropout_is_what_is_not_seen():
    tuner, _ = begun(FineTune(dropout=0.4))
    dropout = tuner.joint.logits.get_layer("head_dropout")
    seen = np.array(dropout(np.ones((200, 100), np.float32), training=True))
    assert (seen == 0).mean() == pytest.approx(0.4, abs=0.02)


# Where recipes begin and what they move -----------------------------------------------------------------------------


@pytest.mark.parametrize("scaled_by", [8, 2048])
def test_a_probe_gives_the_joint_network_what_the_head_on_frozen_vectors_says(tmp_path, monkeypatch, scaled_by):
    from embedkit.lessons import TrainHead, problem_of
    from embedkit.training import resolve

    monkeypatch.setattr(tuning, "SCALED_BY", scaled_by)  # the joint network scales by fewer rows than the probe
    tuner, lesson = begun(FineTune(training=QUICK))
    tuner.probe(lesson, 0, tmp_path / "ours")
    theirs = Lesson(TrainHead(), *(getattr(lesson, name) for name in "task ids inputs train validation test notes".split()))
    _, logits, problem, _ = problem_of(theirs, 0)
    fit(Trainer(problem, resolve(Training(batch_size=8), linear=True, epochs=1000)), 0, tmp_path / "theirs")
    expected = logits.predict(lesson.inputs, verbose=0)
    assert np.ptp(expected) > 1
    assert tuner.forward()(PIXELS) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("recipe", "moved"),
    [("lp-ft", {"conv", "last"}), ("full", {"conv", "last"}), ("adapter", {"conv", "last"}), ("scratch", {"conv", "norm", "last"})],
)
def test_what_a_recipe_moves(tmp_path, recipe, moved):
    tuner, lesson = begun(FineTune(recipe=recipe))
    before = adaptation.copy_of(tuner.plain())
    fitted = run(tuner, lesson, tmp_path, QUICK.model_copy(update={"learning_rate": 0.01}))
    assert fitted.best_epoch > 0
    after = tuner.plain()
    names = {name for name in ("conv", "norm", "last") if not equal(layer_weights(before, name), layer_weights(after, name))}
    assert names == moved
    if recipe == "scratch":
        statistics = zip(layer_weights(before, "norm"), layer_weights(after, "norm"), strict=True)
        assert not any(np.array_equal(one, other) for one, other in statistics)  # scale, shift, mean and variance
    assert not any("lora" in weight.path for weight in after.weights)
    assert after.predict(PIXELS, verbose=0) == pytest.approx(engines.forward(tuner.joint.encoder)(PIXELS), abs=1e-4)


def test_the_first_layers_that_are_frozen_stay_bit_for_bit(tmp_path):
    tuner, lesson = begun(FineTune(recipe="full"), frozen=2)
    run(tuner, lesson, tmp_path, QUICK.model_copy(update={"learning_rate": 0.01, "weight_decay": 0.1}))
    after = tuner.plain()
    before = tuner.loaded.model
    assert [equal(layer_weights(before, name), layer_weights(after, name)) for name in ("conv", "last")] == [True, False]


def test_an_encoder_that_was_saved_frozen_moves_all_the_same():
    loaded = encoder()
    loaded.model.trainable = False
    tuner = Tuner(loaded, CLASS, FineTune(recipe="full"))
    assert {variable.path.split("/")[-2] for variable in tuner.joint.logits.trainable_variables} == {"conv", "last", "head_outputs"}
    assert loaded.model.trainable_variables == []  # the encoder itself is left as it is


def test_rates_fall_to_the_first_layer_and_the_heads_is_its_own():
    tuner, lesson = begun(FineTune(first_layer_rate=0.04, head_rate=7.0))
    trainer = Trainer(tuner.problem(lesson, Memory(), balance(lesson, REDDER[:24])), training_of(tuner.settings, 24))
    found = {variable.path.split("/")[-2]: factor for _, factor, chosen in trainer.groups for variable in chosen}
    assert found == pytest.approx({"conv": 0.04, "last": 1.0, "head_outputs": 7.0})


def test_a_step_moves_layers_by_their_rates():
    settings = FineTune(recipe="full", first_layer_rate=0.01, head_rate=10.0, dropout=0.0)
    tuner, lesson = begun(settings)
    tuner.joint.outputs.set_weights([np.ones((5, 2)) * [[1, -1]], np.zeros(2)])
    training = training_of(settings.model_copy(update={"training": QUICK}), 24)
    trainer = Trainer(tuner.problem(lesson, Memory(), balance(lesson, REDDER[:24])), training)
    before = weights_of(tuner.joint.logits)
    trainer.step(batch_of(trainer.problem.train, np.arange(8), trainer.specs), 1e-4)
    moves = {path: np.abs(now - before[path]).max() for path, now in weights_of(tuner.joint.logits).items()}
    # The first step of Adam is as long as the rate, whatever the gradient.
    found = {path.split("/")[-2]: move for path, move in moves.items() if path.endswith("kernel")}
    assert found == pytest.approx({"conv": 1e-6, "last": 1e-4, "head_outputs": 1e-3}, rel=0.1)


def test_from_scratch_all_layers_have_one_rate():
    tuner, lesson = begun(FineTune(recipe="scratch", first_layer_rate=0.01, head_rate=1.0))
    trainer = Trainer(tuner.problem(lesson, Memory(), balance(lesson, REDDER[:24])), training_of(tuner.settings, 24))
    assert [factor for _, factor, _ in trainer.groups] == [1.0]


@pytest.mark.parametrize("recipe", ["lp-ft", "adapter", "scratch"])
def test_a_tuner_that_begins_again_makes_the_same_run_with_the_steps_it_traced(tmp_path, recipe):
    settings = FineTune(recipe=recipe, augment=("light",), mixup=0.2)
    tuner, lesson = begun(settings)
    found = []
    for number, seed in enumerate((0, 3, 0)):
        frameworks.start_drawing(seed)
        if recipe == "scratch":
            lesson.inputs = engines.forward(adaptation.copy_of(tuner.loaded.model, seed))(PIXELS)
        tuner.begin(lesson, balance(lesson, REDDER[:24]), seed)
        history = run(tuner, lesson, tmp_path / str(number)).history
        traces = tuner.trainer._traces
        found.append((history, checkpoints.values(tuner.joint.logits.variables), dict(traces)))
    assert found[0][0] == found[2][0] and equal(found[0][1], found[2][1])
    assert found[0][2] == found[2][2]  # the traces are the same objects
    # Of the other seed is what the recipe draws: the order of rows, and for two of them first weights.
    assert tuner.settings.seed == 0 and (recipe == "lp-ft" or found[0][0] != found[1][0])


def test_first_weights_from_scratch_are_a_function_of_the_seed_of_the_run():
    tuner, lesson = begun(FineTune(recipe="scratch"))
    first = adaptation.copy_of(tuner.joint.encoder)
    for seed, same in ((1, False), (0, True)):
        tuner.begin(lesson, balance(lesson, REDDER[:24]), seed)
        expected = adaptation.copy_of(tuner.loaded.model, seed)
        assert equal(layer_weights(tuner.joint.encoder, "conv"), layer_weights(expected, "conv"))
        assert equal(layer_weights(tuner.joint.encoder, "conv"), layer_weights(first, "conv")) == same


# Settings -----------------------------------------------------------------------------------------------------------


def test_small_sets_get_more_passes_and_each_recipe_its_rate():
    found = {rows: training_of(FineTune(), rows).epochs for rows in (64, 1000, 640, 6400, 100_000)}
    assert found == {64: 40, 640: 30, 1000: 19, 6400: 5, 100_000: 5}
    assert training_of(FineTune(training=Training(batch_size=32)), 640).epochs == 15
    assert training_of(FineTune(training=Training(epochs=3)), 640).epochs == 3
    assert {recipe: training_of(FineTune(recipe=recipe), 64).learning_rate for recipe in tuning.RATES} == tuning.RATES
    resolved = training_of(FineTune(), 64)
    assert (resolved.optimizer, resolved.schedule) == ("adamw", "cosine")
    asked = training_of(FineTune(training=Training(schedule="constant", optimizer="sgd", learning_rate=0.5)), 64)
    assert (asked.optimizer, asked.schedule, asked.learning_rate) == ("sgd", "constant", 0.5)


def test_smoothed_labels_cost_what_can_be_counted_by_hand():
    outputs = np.log(np.array([[0.7, 0.2, 0.1]], np.float32))
    of_class = Task("class", ["a", "b", "c"], np.array([0], np.int32))
    shares = np.array([0.8, 0.1, 0.1])  # 0.3 of the label spread over three classes
    expected = -np.sum(shares * np.log([0.7, 0.2, 0.1]))
    assert float(of_class.loss(0.3)(ops.array([0]), outputs)[0]) == pytest.approx(expected, rel=1e-5)
    assert float(of_class.loss(0.3)(ops.array([[1.0, 0, 0]]), outputs)[0]) == pytest.approx(expected, rel=1e-5)
    assert float(of_class.loss()(ops.array([0]), outputs)[0]) == pytest.approx(-np.log(0.7), rel=1e-5)
    several = Task("classes", ["a", "b"], np.array([[1, 0]], np.float32))
    odds = np.log(np.array([[0.9 / 0.1, 0.2 / 0.8]], np.float32))
    expected = -(0.9 * np.log(0.9) + 0.1 * np.log(0.1)) - (0.1 * np.log(0.2) + 0.9 * np.log(0.8))
    assert float(several.loss(0.2)(ops.array([[1.0, 0.0]]), odds)[0]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("more", [{"cut_mix": 1.0}, {"mixup": 0.3}, {"cut_mix": 1.0, "label_smoothing": 0.1}], ids=str)
def test_mixed_pictures_bring_shares_of_their_classes(more):
    tuner, _ = begun(FineTune(**more))
    inputs, targets = tuner.augment(ops.array(PIXELS), ops.array(REDDER))
    assert np.array(targets).shape == (40, 2) and np.array(targets).sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert not np.array_equal(inputs, PIXELS)
    losses = np.array(CLASS.loss(tuner.settings.label_smoothing)(targets, ops.zeros((40, 2))))
    assert losses == pytest.approx(np.log(2), rel=1e-5)


def test_what_is_not_asked_for_changes_nothing():
    tuner, _ = begun(FineTune())
    assert (tuner.augment, tuner.state) == (None, [])


@pytest.mark.parametrize(
    ("task", "settings", "words"),
    [
        (CLASS, {"word_dropout": 0.1}, "word_dropout is not for the images of encoder/tiny; leave it out"),
        (SEVERAL, {"cut_mix": 1.0}, "cut_mix is not for the images of encoder/tiny with such labels; leave it out"),
        (NUMBER, {"mixup": 0.2}, "mixup is not for the images of encoder/tiny with such labels; leave it out"),
        (NUMBER, {"label_smoothing": 0.1}, "label_smoothing is for classes, but the labels are numbers; leave it out"),
        (CLASS, {"cut_mix": 1.0, "rebalance": ("weights",)}, "mixed rows have no weight of their own; take oversample instead of"),
    ],
    ids=lambda value: value.kind if isinstance(value, Task) else "",
)
def test_what_the_rows_or_labels_do_not_have_is_refused(task, settings, words):
    with pytest.raises(UserError, match=words):
        Tuner(encoder(), task, FineTune(**settings))


@pytest.fixture(scope="module")
def bert(tiny_bert, tmp_path_factory):
    return Encoder.open(import_encoder(tiny_bert, root=tmp_path_factory.mktemp("tuning")))


@pytest.mark.parametrize(
    ("settings", "name"), [({"augment": ("light",)}, "augment"), ({"cut_mix": 1.0}, "cut_mix"), ({"mixup": 0.2}, "mixup")]
)
def test_what_is_for_pictures_is_refused_for_texts(bert, settings, name):
    with pytest.raises(UserError, match=f"{name} is not for the texts of encoder/tiny-bert@.*; leave it out"):
        tuning._augment(bert, CLASS, FineTune(**settings))


def test_dropped_words_become_unknown_and_special_tokens_stay(bert):
    augment, state = tuning._augment(bert, CLASS, FineTune(word_dropout=0.5))
    inputs = bert.feed.padded(bert.feed.tokens(["the cat sat on the mat"] * 50 + ["moon"]))
    targets = np.zeros(51, np.int32)
    found, same = augment({name: ops.array(each) for name, each in inputs.items()}, targets)
    assert same is targets and len(state) == 1
    ids, before, unknown = np.array(found["token_ids"]), inputs["token_ids"], bert.feed.tokenizer.token_to_id("[UNK]")
    changed = ids != before
    words = inputs["padding_mask"].astype(bool)
    words[:, 0] = False  # [CLS]
    words[np.arange(51), inputs["padding_mask"].sum(axis=1) - 1] = False  # [SEP]
    assert not changed[~words].any() and set(ids[changed].tolist()) == {unknown}
    assert changed[words].mean() == pytest.approx(0.5, abs=0.1)


def test_words_are_not_dropped_where_the_tokenizer_has_no_unknown_one(bert):
    from tokenizers import Tokenizer, models

    class Feed:
        tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1}))

    with pytest.raises(UserError, match="this encoder's tokenizer has no token for unknown words, which word_dropout puts in"):
        tuning._word_dropper(Feed(), 0.1, None)
