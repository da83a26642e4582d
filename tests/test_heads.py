"""train_head: what it learns, that it says how well, and when it would be wrong to go on.

Rows are texts that spell their own vectors, such as `0.5 -1.25 3`, so that data with known answers can be written down.
"""

import json
import shutil
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import SHARED

from embedkit import (
    Artifact,
    Embed,
    ImportEncoder,
    LoadImages,
    LoadTable,
    LoadTexts,
    Settings,
    TrainHead,
    Training,
    UserError,
    embed,
    frameworks,
    import_encoder,
    load_images,
    load_table,
    load_texts,
    make_control,
    metrics,
    train_head,
)
from embedkit.artifacts import Dataset, EncoderArtifact, remove
from embedkit.datasets import read_contents, read_rows
from embedkit.labels import Neutral
from embedkit.leaks import record_fitted
from embedkit.lessons import build
from embedkit.readers import ReadFiles
from embedkit.stages import Draft, Facts, stage
from embedkit.tasks import Task
from embedkit.vectors import read_vectors, write_vectors

frameworks.load_frameworks()

import keras  # noqa: E402  after the frameworks were loaded quietly

SHORT = TrainHead(training=Training(epochs=3, preflight=False))
SPLIT = LoadTexts(split_column="split")


class Learn(Settings):
    """What the stand-in for an encoder learns from."""

    rows: int = 0
    """The first so many rows of the dataset."""


@stage("encoder", revision=1)
def learn(out: Draft, dataset: Dataset, settings: Learn = Learn()) -> Facts:
    """Learn from the first rows of a dataset, or from none."""
    (out / "encoder.json").write_text("{}")
    fitted = record_fitted(out, read_rows(dataset).slice(0, settings.rows))
    return Facts(rows=fitted, details={"identity": "5" * 64, "fitted": fitted})


class Spell(Settings):
    """How spelled vectors are changed."""

    rotation: int | None = None
    """Seed of a random rotation."""
    scale: float = 1.0
    """Factor on all numbers."""


@stage("vectors", revision=1)
def spell(out: Draft, dataset: Dataset, encoder: EncoderArtifact, settings: Spell = Spell()) -> Facts:
    """Read each row's vector from its text."""
    rows = read_contents(dataset, 0, dataset.manifest.rows)["text"].to_pylist()
    vectors = settings.scale * np.array([[float(number) for number in row.split()] for row in rows])
    if settings.rotation is not None:
        size = vectors.shape[1]
        vectors = vectors @ np.linalg.qr(np.random.default_rng(settings.rotation).normal(size=(size, size)))[0]
    write_vectors(out / "vectors-00000.parquet", read_rows(dataset)["id"].to_numpy(), vectors.astype(np.float32))
    made_by = encoder.manifest.details["identity"]
    return Facts(rows=len(rows), details={"encoder": made_by, "modality": "texts", "dimension": vectors.shape[1], "parts": 1})


def dataset(path, inputs, labels, splits=None, settings=SPLIT, root=None):
    """A dataset of spelled vectors; three train rows for each validation and test row, unless said otherwise."""
    splits = splits or [("train", "train", "train", "validation", "test")[row % 5] for row in range(len(inputs))]
    lines = [
        f"{' '.join(f'{number:.4f}' for number in row)}\t{'' if label is None else label}\t{split}\n"
        for row, label, split in zip(inputs, labels, splits, strict=True)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("text\tlabel\tsplit\n" + "".join(lines))
    return load_texts(path, settings, root=root)


def vectors_of(rows, settings=Spell()):
    return spell(rows, learn(rows), settings)


def clouds(count=300, classes=3, seed=0, apart=1.5):
    """Points around corners, one corner a class, and the names of their classes."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, count)
    return random.normal(size=(count, 4)) + apart * np.eye(4)[labels], [f"class {label}" for label in labels]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A root for artifacts that several tests look at."""
    return tmp_path_factory.mktemp("heads")


@pytest.fixture(scope="module")
def corners(place):
    """Vectors of three classes."""
    return vectors_of(dataset(place / "corners.tsv", *clouds(), root=place))


@pytest.fixture(scope="module")
def classifier(corners):
    """A linear head on them."""
    return train_head(corners)


def predictions(classifier):
    return pq.read_table(classifier / "predictions.parquet").to_pydict()


def split_of(vectors):
    """Inputs and labels of a vectors artifact: train, validation, test."""
    rows, (_, inputs) = read_rows(vectors.inputs["dataset"]), read_vectors(vectors)
    names, labels = np.array(rows["split"].to_pylist()), np.array(rows["label"].to_pylist())
    return [(inputs[names == name], labels[names == name]) for name in ("train", "validation", "test")]


# One class a row ----------------------------------------------------------------------------------------------------


def test_a_linear_head_is_as_good_as_scikit_learns(corners, classifier):
    from sklearn.linear_model import LogisticRegression

    train, _, test = split_of(corners)
    theirs = LogisticRegression(max_iter=1000).fit(*train).score(*test)
    ours = classifier.manifest.metrics["accuracy"]
    assert ours.n == 60
    assert abs(ours.value - theirs) <= ours.standard_error


def test_the_measures_are_those_of_the_predictions_that_are_written(classifier):
    found = predictions(classifier)
    names = classifier.manifest.details["classes"]
    assert names == ["class 0", "class 1", "class 2"]
    labels, probabilities = np.array([names.index(label) for label in found["label"]]), np.array(found["probabilities"])
    assert found["predicted"] == [names[best] for best in probabilities.argmax(axis=1)]
    for name, metric in metrics.of_class(labels, probabilities).items():
        assert classifier.manifest.metrics[name].value == pytest.approx(metric.value, rel=1e-5), name


def test_predictions_are_of_the_test_rows_in_their_order(corners, classifier):
    rows = read_rows(corners.inputs["dataset"]).to_pylist()
    expected = [(row["id"], row["label"]) for row in rows if row["split"] == "test"]
    found = predictions(classifier)
    assert list(zip(found["id"], found["label"], strict=True)) == expected


def test_the_model_file_maps_vectors_to_probabilities_in_keras_alone(corners, classifier):
    model = keras.saving.load_model(classifier / "model.keras", safe_mode=True)
    found = model.predict(split_of(corners)[2][0], verbose=0)
    assert found == pytest.approx(np.array(predictions(classifier)["probabilities"]), abs=1e-5)
    assert found.sum(axis=1) == pytest.approx(1)


def test_the_artifact_says_what_it_needs(corners, classifier):
    facts = json.loads((classifier / "classifier.json").read_text())
    assert facts == {"type": "class", "classes": ["class 0", "class 1", "class 2"], "encoder": "5" * 64, "dimension": 4}
    details = classifier.manifest.details
    assert facts.items() <= details.items()
    assert details["used"] == {"train": 180, "validation": 60, "test": 60}
    assert (details["optimizer"], details["learning_rate"], details["fitted"]) == ("sgd", 1.0, 240)
    history = json.loads((classifier / "history.json").read_text())
    assert [entry["epoch"] for entry in history] == list(range(1, details["epochs"] + 1))
    assert classifier.manifest.name == corners.manifest.name


def test_guessing_is_measured_beside_it(corners, classifier):
    train, _, test = split_of(corners)
    found, prior = classifier.manifest.metrics, {label: (train[1] == label).mean() for label in set(train[1])}
    commonest = max(prior, key=prior.get)
    assert found["guessing_accuracy"].value == pytest.approx((test[1] == commonest).mean())
    assert found["guessing_log_loss"].value == pytest.approx(np.mean([-np.log(prior[label]) for label in test[1]]), rel=1e-4)
    assert classifier.manifest.verdict.startswith("better than guessing from the training labels: accuracy 0.")


def test_shuffled_labels_score_as_guessing(place):
    inputs, labels = clouds(400)
    shuffled = list(np.random.default_rng(5).permutation(labels))
    found = train_head(vectors_of(dataset(place / "shuffled.tsv", inputs, shuffled, root=place)))
    assert found.manifest.verdict.startswith("no better than guessing from the training labels: accuracy")
    ours, guess = found.manifest.metrics["log_loss"], found.manifest.metrics["guessing_log_loss"]
    assert abs(ours.value - guess.value) < 3 * np.hypot(ours.standard_error, guess.standard_error)


def test_rotated_vectors_give_a_linear_head_the_same_predictions(corners, classifier):
    rotated = train_head(spell(corners.inputs["dataset"], corners.inputs["encoder"], Spell(rotation=3), name="rotated"))
    ours, theirs = (np.array(predictions(each)["probabilities"]) for each in (rotated, classifier))
    assert ours == pytest.approx(theirs, abs=1e-4)


@pytest.mark.parametrize("scale", [1e-3, 1e4])
def test_the_unit_of_the_vectors_makes_no_difference(corners, classifier, scale):
    scaled = train_head(spell(corners.inputs["dataset"], corners.inputs["encoder"], Spell(scale=scale), name=f"scaled-{scale:g}"))
    ours, theirs = (np.array(predictions(each)["probabilities"]) for each in (scaled, classifier))
    assert ours == pytest.approx(theirs, abs=1e-3)


@pytest.mark.slow
def test_a_hidden_layer_learns_what_a_line_cannot(place):
    inputs = np.random.default_rng(0).uniform(-1, 1, (600, 2))
    labels = ["same" if x * y > 0 else "opposite" for x, y in inputs]
    vectors = vectors_of(dataset(place / "checkers.tsv", inputs, labels, root=place))
    fast = Training(epochs=60, batch_size=32, learning_rate=0.02, patience=60)
    line = train_head(vectors, TrainHead(training=Training(epochs=20)), name="line")
    bent = train_head(vectors, TrainHead(hidden=(16,), dropout=0.1, training=fast), name="bent")
    assert line.manifest.metrics["accuracy"].value < 0.7
    assert bent.manifest.metrics["accuracy"].value > 0.9
    assert bent.manifest.details["optimizer"] == "adamw"
    layers = [layer.name for layer in keras.saving.load_model(bent / "model.keras").layers]
    assert layers == ["vectors", "scaling", "hidden_0", "dropout_0", "outputs", "probabilities"]


def test_classes_called_by_numbers_are_in_the_order_of_numbers(tmp_path):
    inputs, labels = clouds(60)
    found = train_head(vectors_of(dataset(tmp_path / "n.tsv", inputs, [{"0": 2, "1": 10, "2": 9}[x[-1]] for x in labels])), SHORT)
    assert found.manifest.details["classes"] == ["2", "9", "10"]


def test_a_class_that_only_test_rows_have_counts_as_missed(tmp_path):
    inputs, labels = clouds(100, 2)
    labels = ["new" if row % 10 == 4 else label for row, label in enumerate(labels)]
    found = train_head(vectors_of(dataset(tmp_path / "new.tsv", inputs, labels)), SHORT)
    assert found.manifest.details["classes"] == ["class 0", "class 1", "new"]
    assert found.manifest.metrics["accuracy"].value <= 0.5
    assert np.isfinite(found.manifest.metrics["log_loss"].value)


def test_vectors_that_are_all_the_same_give_the_prior(tmp_path):
    labels = ["rare" if row % 4 == 0 else "common" for row in range(100)]
    inputs, _ = clouds(100)
    found = train_head(vectors_of(dataset(tmp_path / "same.tsv", inputs, labels), Spell(scale=0.0)), SHORT)
    probabilities = np.array(predictions(found)["probabilities"])
    assert probabilities[:, 1] == pytest.approx(0.25, abs=0.05)
    assert found.manifest.verdict.startswith("no better than guessing")


# The start ----------------------------------------------------------------------------------------------------------


def started(task, hidden=()):
    """What an untrained head predicts for any vectors."""
    frameworks.start_keras(0)
    inputs = np.random.default_rng(0).normal(size=(len(task.targets), 3)).astype(np.float32)
    rows = np.arange(len(inputs))
    model, logits = build(task, inputs, rows, hidden, 0.0, task.prior(rows))
    return model.predict(inputs, verbose=0), task.predict(logits.predict(inputs, verbose=0))


def test_a_head_starts_at_the_share_of_each_class():
    targets = np.array([0] * 6 + [1] * 3 + [2], np.int32)
    shown, predicted = started(Task("class", ["a", "b", "c"], targets))
    assert shown == pytest.approx(np.tile([0.6, 0.3, 0.1], (10, 1)), abs=1e-6)
    assert predicted == pytest.approx(shown, abs=1e-6)


def test_a_head_of_several_labels_starts_at_the_share_of_each():
    targets = np.array([[1, 0], [1, 0], [1, 1], [0, 0]], np.float32)
    shown, predicted = started(Task("classes", ["a", "b"], targets))
    assert shown == pytest.approx(np.tile([0.75, 0.25], (4, 1)), abs=1e-6)
    assert predicted == pytest.approx(shown, abs=1e-6)


def test_a_head_of_numbers_starts_at_their_mean():
    targets = np.array([[-1], [0], [1], [0]], np.float32)  # standardised: 7 + 2 * target in the label's unit
    shown, predicted = started(Task("number", [], targets, 7.0, 2.0))
    assert shown[:, 0] == pytest.approx(7)
    assert predicted == pytest.approx(7)


def test_a_class_or_label_without_a_training_row_starts_at_half_a_row():
    targets = np.array([0, 0, 1, 1], np.int32)
    shown, _ = started(Task("class", ["a", "b", "c"], targets))
    assert shown[0] == pytest.approx(np.array([4, 4, 1]) / 9, abs=1e-6)
    several = np.array([[1, 0], [1, 0], [1, 0], [1, 0]], np.float32)
    shown, _ = started(Task("classes", ["always", "never"], several))
    assert shown[0] == pytest.approx([7 / 8, 1 / 8], abs=1e-6)


@pytest.mark.parametrize("task", ["class", "classes", "number"])
def test_an_untrained_head_starts_at_the_entropy_of_its_labels(task):
    random = np.random.default_rng(0)
    rows = np.arange(50)
    given = {
        "class": Task("class", ["a", "b", "c"], random.choice(3, 50, p=[0.7, 0.2, 0.1]).astype(np.int32)),
        "classes": Task("classes", ["a", "b"], (random.random((50, 2)) < [0.9, 0.2]).astype(np.float32)),
        "number": Task("number", [], random.normal(size=(50, 1)).astype(np.float32), 7.0, 2.0),
    }[task]
    prior = given.prior(rows)
    outputs = np.tile(given.bias(prior, 50).astype(np.float32), (50, 1))
    mean = float(np.mean(given.loss()(keras.ops.convert_to_tensor(given.targets), keras.ops.convert_to_tensor(outputs))))
    assert given.entropy(rows, prior) == pytest.approx(mean, rel=1e-5)
    if task != "number":  # an unbiased start costs what theory says: the divergence of the prior from even odds
        even = float(np.mean(given.loss()(keras.ops.convert_to_tensor(given.targets), keras.ops.zeros_like(outputs))))
        shares = np.stack([prior, 1 - prior]) if task == "classes" else prior[None]
        odds = 2 if task == "classes" else 3
        assert even - mean == pytest.approx(float(np.sum(shares * np.log(shares * odds))), rel=1e-4)


@pytest.mark.slow
def test_the_first_loss_on_symbols_is_lower_by_what_theory_says():
    symbols = load_table("builtin:symbols", LoadTable(label_column="kind", label_type="class", files=ReadFiles(limit=3000)))
    found = train_head(embed(symbols, make_control(symbols)), TrainHead(training=Training(epochs=1)))
    first = found.manifest.decisions["preflight"]["initial_loss"]
    counts = np.array(list(Counter(read_rows(symbols)["label"].to_pylist()).values()))
    entropy = -np.sum(counts / counts.sum() * np.log(counts / counts.sum()))
    assert first["expected"] == pytest.approx(entropy, abs=0.05) and first["expected"] < 0.9 * np.log(len(counts))
    assert first["as_expected"] and first["loss"] == pytest.approx(first["expected"], abs=4 * first["standard_error"])


# Rare classes -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rare(place):
    """Digits in eight numbers each; one in ten is an eight, and some others look like it."""
    from sklearn.datasets import load_digits
    from sklearn.decomposition import PCA

    pixels, digits = load_digits(return_X_y=True)
    numbers = PCA(8, random_state=0).fit_transform(pixels) / 10
    return vectors_of(dataset(place / "rare.tsv", numbers, ["eight" if digit == 8 else "other" for digit in digits], root=place))


@pytest.fixture(scope="module")
def unbalanced(rare):
    return train_head(rare).manifest.metrics


CHAINS = [("weights",), ("oversample",), ("undersample",), ("interpolate",), ("undersample", "oversample", "weights")]


@pytest.mark.parametrize("chain", CHAINS, ids="+".join)
def test_a_rebalanced_head_finds_the_rare_class_and_keeps_its_probabilities(rare, unbalanced, chain):
    found = train_head(rare, TrainHead(rebalance=chain, training=Training(preflight=False)))
    ours = found.manifest.metrics
    assert ours["balanced_accuracy"].value > unbalanced["balanced_accuracy"].value + 0.1
    assert ours["log_loss"].value < unbalanced["log_loss"].value + 0.01  # the true prior was put back
    assert ours["ece"].value < unbalanced["ece"].value + 0.03
    assert len(found.manifest.details["decision"]) == 2
    assert found.manifest.verdict.startswith("better than guessing from the training labels: balanced_accuracy")
    _, _, (inputs, labels) = split_of(rare)
    model = keras.models.load_model(found / "model.keras")
    decided = (model.predict(inputs, verbose=0) * found.manifest.details["decision"]).argmax(axis=1)
    assert list(np.array(["eight", "other"])[decided]) == predictions(found)["predicted"]


def test_what_is_decided_by_can_be_chosen_without_rebalancing(rare, unbalanced):
    found = train_head(rare, TrainHead(decide_by="balanced_accuracy")).manifest.metrics
    assert found["balanced_accuracy"].value > unbalanced["balanced_accuracy"].value + 0.1
    assert found["log_loss"] == unbalanced["log_loss"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rebalance": ("weights",)}, "rebalance is for one class a row, but the labels of .* are number; leave it out"),
        ({"mixup": 0.2}, "mixup mixes classes, but the labels of .* are number; leave it out"),
        ({"decide_by": "macro_f1"}, "decide_by macro_f1 is for classes, but the labels of .* are number; leave it out"),
        ({"target_error": 0.1}, "target_error is for surrogates; set purpose to surrogate, or leave it out"),
    ],
)
def test_what_is_for_classes_or_surrogates_is_refused_elsewhere(line, settings, words):
    with pytest.raises(UserError, match=words):
        train_head(line, TrainHead(**settings))


def test_mixed_rows_with_weights_are_refused(rare):
    with pytest.raises(UserError, match="mixed rows have no weight of their own; take oversample instead of weights"):
        train_head(rare, TrainHead(mixup=0.2, rebalance=("weights",)))


# Noise, seeds, epochs -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_mixing_and_swapping_keep_a_large_head_from_learning_few_rows_by_heart(place):
    inputs, labels = clouds(240, 2, apart=1.2)
    few = vectors_of(dataset(place / "few.tsv", inputs, labels, root=place))
    long = Training(epochs=150, patience=None, preflight=False, monitor="accuracy", learning_rate=0.01)
    found = {
        name: train_head(few, TrainHead(hidden=(64,), training=long, **more))
        for name, more in {"plain": {}, "mixed": {"mixup": 0.5}, "swapped": {"swap_noise": 0.2}}.items()
    }
    last = {name: json.loads((one / "history.json").read_text())[-1] for name, one in found.items()}
    for name in ("mixed", "swapped"):
        assert last[name]["loss"] > last["plain"]["loss"] + 0.02  # training rows are harder
        assert last[name]["validation_loss"] < last["plain"]["validation_loss"]  # others are easier


@pytest.mark.slow
def test_several_seeds_give_means_with_their_spread_and_the_first_head_is_kept(corners, place):
    settings = TrainHead(hidden=(8,), training=Training(epochs=5, preflight=False))
    single = [train_head(corners, settings.model_copy(update={"seed": seed})) for seed in (3, 4, 5)]
    several = train_head(corners, settings.model_copy(update={"seed": 3, "seeds": 3}))
    for name in ("accuracy", "log_loss"):
        values, found = [one.manifest.metrics[name].value for one in single], several.manifest.metrics[name]
        assert found.value == pytest.approx(np.mean(values)) and found.spread == pytest.approx(np.std(values, ddof=1))
        assert (found.seeds, found.n) == (3, single[0].manifest.metrics[name].n) and "3 seeds ±" in str(found)
    assert (several / "model.keras").read_bytes() == (single[0] / "model.keras").read_bytes()


def test_many_more_epochs_say_where_their_gain_ended(corners):
    found = train_head(corners, TrainHead(training=Training(epochs=10, epochs_factor=5, preflight=False)))
    assert found.manifest.details["epochs"] == 50
    ended = found.manifest.details["course"]["gain_ended"]
    assert found.manifest.details["best_epoch"] == ended
    note = next(note for note in found.manifest.notes if "the gain of more epochs" in note)
    assert note.startswith(f"the gain of more epochs ended at epoch {ended} of 50; the {50 - ended} after it brought nothing")


# Neutral rows -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def voted(place):
    """Points between two corners, labelled by five voters each; near the middle they disagree, and the label is a coin's."""
    random = np.random.default_rng(0)
    inputs = random.normal(size=(400, 4))
    inputs[:, 0] = random.uniform(-2, 2, 400)
    votes = random.binomial(5, 1 / (1 + np.exp(-3 * inputs[:, 0])))
    labels = ["yes" if count > 2 else "no" for count in votes]
    lines = [
        f"{' '.join(f'{number:.4f}' for number in row)}\t{label}\t[{count}, {5 - count}]\n"
        for row, label, count in zip(inputs, labels, votes, strict=True)
    ]
    (place / "voted.tsv").write_text("text\tlabel\tvotes\n" + "".join(lines))
    settings = LoadTexts(neutral=Neutral(votes_column="votes", min_agreement=0.9))
    return vectors_of(load_texts(place / "voted.tsv", settings, root=place))


def test_neutral_rows_are_left_out_of_training_and_prelabelled_by_their_doubt(voted):
    rows = read_rows(voted.inputs["dataset"])
    neutral, split = rows["neutral"].to_numpy(), np.array(rows["split"].to_pylist())
    ours, all_of_them = train_head(voted), train_head(voted, TrainHead(neutral="learn"))
    assert ours.manifest.details["used"]["train"] == int((~neutral & (split == "train")).sum())
    assert all_of_them.manifest.details["used"]["train"] == int((split == "train").sum())
    assert ours.manifest.rows == all_of_them.manifest.rows == int((split == "test").sum())  # measured on all the same
    left = int((neutral & (split != "test")).sum())
    assert f"{left:,} neutral rows were left out of training" in ours.manifest.notes
    fitted = pq.read_table(ours / "fitted.parquet")["id"].to_pylist()
    assert not set(fitted) & set(rows["id"].to_numpy()[neutral].tolist())
    review = pq.read_table(ours / "review.parquet").to_pydict()
    assert sorted(review["id"]) == sorted(rows["id"].to_numpy()[neutral & (split != "test")].tolist())  # no hint for test rows
    assert review["doubt"] == sorted(review["doubt"], reverse=True) and set(review["proposed"]) <= {"yes", "no"}
    assert "still neutral" in (ours / "review.html").read_text()
    assert ours.manifest.metrics["clear_accuracy"].value > ours.manifest.metrics["accuracy"].value


def test_neutral_rows_of_numbers_get_no_proposal_and_that_is_said(place):
    lines = "".join(f"{row}.0 1.0\t{row}.5\t{'yes' if row % 4 == 0 else 'no'}\n" for row in range(60))
    (place / "sure.tsv").write_text("text\tlabel\tunsure\n" + lines)
    found = train_head(vectors_of(load_texts(place / "sure.tsv", LoadTexts(neutral=Neutral(column="unsure")), root=place)), SHORT)
    left = sum(found.inputs["vectors"].inputs["dataset"].manifest.details["neutral"][name] for name in ("train", "validation"))
    note = f"labels were proposed for none of the {left} neutral rows: that takes one class a row"
    assert left > 0 and note in found.manifest.notes and not (found / "review.html").exists()


def test_where_all_training_rows_are_neutral_nothing_is_trained(place):
    lines = "".join(f"{row}.0 1.0\t{'ab'[row % 2]}\tyes\n" for row in range(40))
    (place / "unsure.tsv").write_text("text\tlabel\tunsure\n" + lines)
    unsure = load_texts(place / "unsure.tsv", LoadTexts(neutral=Neutral(column="unsure")), root=place)
    with pytest.raises(UserError, match="has no labelled train rows left beside the neutral ones; label some"):
        train_head(vectors_of(unsure))


# Surrogates ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def simulation(place):
    """What a formula says of 200 pairs of numbers."""
    grid = np.random.default_rng(0).uniform(-1, 1, (200, 2))
    lines = "".join(f"{x:.5f},{y:.5f},{10 + 5 * np.sin(3 * x) * y:.5f}\n" for x, y in grid)
    (place / "formula.csv").write_text("x,y,z\n" + lines)
    table = load_table(place / "formula.csv", LoadTable(label_column="z", label_type="number"), root=place)
    return embed(table, make_control(table))


def test_a_surrogate_learns_every_row_to_the_target_error_and_calls_nothing_generalisation(simulation):
    settings = TrainHead(purpose="surrogate", target_error=0.2, hidden=(64, 64), training=Training(learning_rate=0.005))
    found = train_head(simulation, settings)
    manifest, rows = found.manifest, predictions(found)
    errors = np.abs(np.array(rows["predicted"]) - rows["label"])
    assert manifest.details["used"] == {"train": 200, "validation": 200, "test": 0} and len(errors) == 200
    assert manifest.metrics["fitted_mae"].value == pytest.approx(errors.mean()) and errors.mean() <= 0.2
    assert manifest.metrics["fitted_worst_error"].value == pytest.approx(errors.max())
    assert all(name.startswith(("fitted_", "guessing_fitted_")) for name in manifest.metrics)
    worst = manifest.details["worst"]
    assert worst["id"] == rows["id"][int(errors.argmax())] and set(worst["columns"]) == {"x", "y"}
    assert 10 + 5 * np.sin(3 * worst["columns"]["x"]) * worst["columns"]["y"] == pytest.approx(worst["label"], abs=1e-3)
    assert manifest.verdict.startswith("the target error 0.2 on the rows it learned was reached: mean 0.")
    assert manifest.verdict.endswith("of rows it has not learned this says nothing")
    assert manifest.details["epochs"] < 2000  # it stopped there
    last = json.loads((found / "history.json").read_text())[-1]
    assert "fitted_mae" in last and not any("validation" in name for name in last)


def test_a_target_error_that_is_missed_is_missed_by_a_number(simulation):
    settings = TrainHead(purpose="surrogate", target_error=1e-6, training=Training(epochs=2, preflight=False))
    manifest = train_head(simulation, settings).manifest
    by = manifest.metrics["fitted_mae"].value - 1e-6
    assert f"was missed by {by:.3g}: mean" in manifest.verdict and manifest.details["target_reached"] is False


@pytest.mark.parametrize(
    ("which", "settings", "words"),
    [
        ("corners", {}, "a surrogate predicts numbers, but the labels of .* are classes; load it with label_type number"),
        ("simulation", {"dropout": 0.1}, "dropout is not for surrogates, which learn every row as it is; leave it out"),
        ("simulation", {"swap_noise": 0.1}, "swap_noise is not for surrogates"),
        ("simulation", {"seeds": 3}, "seeds is not for surrogates, of which nothing is measured on other rows; leave it out"),
        ("simulation", {"decide_by": "accuracy"}, "decide_by is not for surrogates"),
    ],
)
def test_what_makes_no_surrogate_is_refused(request, which, settings, words):
    with pytest.raises(UserError, match=words):
        train_head(request.getfixturevalue(which), TrainHead(purpose="surrogate", **settings))


# Several labels, and numbers ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def several(place):
    """Two labels, each where one number is positive; a row may have both or none."""
    inputs = np.random.default_rng(0).normal(size=(300, 4))
    labels = [",".join(name for name, number in zip("xy", row, strict=False) if number > 0) or "," for row in inputs]
    settings = SPLIT.model_copy(update={"label_separator": ","})
    return vectors_of(dataset(place / "several.tsv", inputs, labels, settings=settings, root=place))


def above(probabilities, bounds):
    """The labels x and y of each row, where their probability is high enough."""
    return [[name for name, p, least in zip("xy", row, bounds, strict=True) if p >= least] for row in probabilities]


def test_several_labels_are_learned_each_by_itself(several):
    found = train_head(several, TrainHead(training=Training(epochs=100)))
    assert (found.manifest.details["type"], found.manifest.details["classes"]) == ("classes", ["x", "y"])
    assert found.manifest.metrics["micro_f1"].value > 0.9
    assert found.manifest.verdict.startswith("better than guessing from the training labels: micro_f1")
    rows = predictions(found)
    probabilities = np.array(rows["probabilities"])
    bounds = found.manifest.details["decision"]  # each label has the threshold that suits the validation rows
    assert len(bounds) == 2 and bounds != [0.5, 0.5]
    assert rows["predicted"] == above(probabilities, bounds)
    plain = predictions(train_head(several, TrainHead(decide_by="accuracy", training=Training(epochs=100))))
    assert plain["predicted"] == above(plain["probabilities"], [0.5, 0.5])
    truth = np.array([[name in labels for name in "xy"] for labels in rows["label"]])
    for name, metric in metrics.of_classes(truth, probabilities, np.array(bounds)).items():
        assert found.manifest.metrics[name].value == pytest.approx(metric.value, rel=1e-5), name
    assert {len(labels) for labels in rows["label"]} == {0, 1, 2}


def test_a_head_of_several_labels_gives_probabilities_that_need_not_sum_to_1(several):
    found = train_head(several, SHORT, name="short")
    model = keras.saving.load_model(found / "model.keras")
    both = model.predict(np.array([[3, 3, 0, 0], [-3, -3, 0, 0]], np.float32), verbose=0).sum(axis=1)
    assert both[0] > 1.2
    assert both[1] < 0.8


@pytest.fixture(scope="module")
def line(place):
    """A number that is 1000 + 20 times the first component of the vector, and noise of deviation 5."""
    random = np.random.default_rng(1)
    inputs = random.normal(size=(300, 4))
    labels = [f"{number:.3f}" for number in 1000 + 20 * inputs[:, 0] + random.normal(0, 5, 300)]
    return vectors_of(dataset(place / "line.tsv", inputs, labels, root=place))


def test_numbers_are_predicted_in_their_own_unit(line):
    found = train_head(line)
    rows = predictions(found)
    assert found.manifest.details["type"] == "number"
    assert found.manifest.metrics["rmse"].value == pytest.approx(5, rel=0.2)
    assert found.manifest.metrics["r2"].value > 0.85
    assert found.manifest.verdict.startswith("better than guessing from the training labels: rmse")
    model = keras.saving.load_model(found / "model.keras")
    train, _, test = split_of(line)
    assert model.predict(test[0], verbose=0)[:, 0] == pytest.approx(rows["predicted"], abs=1e-2)
    assert rows["label"] == pytest.approx(test[1], abs=1e-3)
    guess = np.sqrt(np.mean((test[1] - train[1].mean()) ** 2))
    assert found.manifest.metrics["guessing_rmse"].value == pytest.approx(guess, rel=1e-5)


def test_a_line_through_numbers_is_scikit_learns(line):
    from sklearn.linear_model import LinearRegression

    train, _, test = split_of(line)
    theirs = np.sqrt(np.mean((LinearRegression().fit(*train).predict(test[0]) - test[1]) ** 2))
    ours = train_head(line).manifest.metrics["rmse"]
    assert abs(ours.value - theirs) <= ours.standard_error


# Which rows ---------------------------------------------------------------------------------------------------------


def test_rows_without_a_label_are_left_out(tmp_path):
    inputs, labels = clouds(100, 2)
    labels = [None if row % 5 in (0, 4) and row < 50 else label for row, label in enumerate(labels)]
    found = train_head(vectors_of(dataset(tmp_path / "gaps.tsv", inputs, labels)), SHORT)
    assert found.manifest.details["used"] == {"train": 50, "validation": 20, "test": 10}
    assert None not in predictions(found)["label"]


def test_what_a_head_learned_from_is_its_training_and_validation_rows(corners, classifier):
    rows = read_rows(corners.inputs["dataset"]).to_pylist()
    expected = [row["id"] for row in rows if row["split"] != "test"]
    assert pq.read_table(classifier / "fitted.parquet")["id"].to_pylist() == expected


def test_test_rows_shape_no_byte_of_the_model(tmp_path):
    inputs, labels = clouds(100, 2)
    test = np.arange(100) % 5 == 4
    others = np.where(test[:, None], 50 * inputs[::-1], inputs)
    turned = [labels[row - 1] if test[row] else label for row, label in enumerate(labels)]
    found = []
    for name, rows in (("one", (inputs, labels)), ("two", (others, turned))):
        made = dataset(tmp_path / name / "rows.tsv", *rows, root=tmp_path / name / "artifacts")
        found.append(train_head(vectors_of(made), SHORT))
    assert (found[0] / "model.keras").read_bytes() == (found[1] / "model.keras").read_bytes()
    assert found[0].manifest.metrics["accuracy"] != found[1].manifest.metrics["accuracy"]


def test_without_validation_rows_a_tenth_of_the_training_rows_decides_when_to_stop(tmp_path):
    inputs, labels = clouds(300, 2)
    splits = ["test" if row % 5 == 4 else "train" for row in range(300)]
    settings = SPLIT.model_copy(update={"validation_share": 0.0})
    found = train_head(vectors_of(dataset(tmp_path / "two.tsv", inputs, labels, splits, settings)), SHORT)
    used = found.manifest.details["used"]
    assert used["train"] + used["validation"] == 240
    assert 12 <= used["validation"] <= 36
    assert found.manifest.notes == ["no validation rows: a tenth of the training rows decided when to stop"]


@pytest.mark.slow
def test_so_many_labels_per_class_are_drawn_by_hash(corners):
    few = train_head(corners, TrainHead(labels_per_class=5, training=Training(epochs=5)), name="few")
    other = train_head(corners, TrainHead(labels_per_class=5, seed=1, training=Training(epochs=5)), name="other")
    assert few.manifest.details["used"] == {"train": 15, "validation": 15, "test": 60}
    drawn = [set(pq.read_table(each / "fitted.parquet")["id"].to_pylist()) for each in (few, other)]
    assert drawn[0] != drawn[1]
    more = train_head(corners, TrainHead(labels_per_class=8, training=Training(epochs=5)), name="more")
    assert drawn[0] < set(pq.read_table(more / "fitted.parquet")["id"].to_pylist())


def test_more_labels_per_class_than_there_are_means_all(corners):
    found = train_head(corners, TrainHead(labels_per_class=10_000, training=Training(epochs=3)), name="all")
    assert found.manifest.details["used"] == {"train": 180, "validation": 60, "test": 60}


def test_corrected_labels_make_another_classifier(tmp_path):
    inputs, labels = clouds(100, 2)
    first = train_head(vectors_of(dataset(tmp_path / "rows.tsv", inputs, labels)), SHORT)
    swapped = [{"class 0": "class 1", "class 1": "class 0"}[label] for label in labels]
    second = train_head(vectors_of(dataset(tmp_path / "rows.tsv", inputs, swapped)), SHORT)
    assert str(second) != str(first)
    assert predictions(second)["label"] != predictions(first)["label"]


def test_another_split_makes_another_classifier(tmp_path):
    inputs, labels = clouds(100, 2)
    first = train_head(vectors_of(dataset(tmp_path / "rows.tsv", inputs, labels)), SHORT)
    moved = ["test" if row % 5 == 0 else "train" if row % 5 < 4 else "validation" for row in range(100)]
    second = train_head(vectors_of(dataset(tmp_path / "rows.tsv", inputs, labels, moved)), SHORT)
    assert str(second) != str(first)
    assert not set(predictions(second)["id"]) & set(predictions(first)["id"])


def test_the_same_call_in_another_root_gives_the_same_bytes(corners, tmp_path):
    for artifact in (corners, *corners.ancestors()):
        shutil.copytree(artifact.path, tmp_path / "root" / artifact.path.relative_to(artifact.root))
    settings = TrainHead(hidden=(8,), dropout=0.3, training=Training(epochs=4))
    here = train_head(corners, settings, name="bytes")
    there = train_head(str(corners), settings, name="bytes", root=tmp_path / "root")
    assert here.path != there.path
    assert here.manifest.files == there.manifest.files


# What is refused ----------------------------------------------------------------------------------------------------


def refused(path, words, inputs=None, labels=None, splits=None, head=SHORT, settings=SPLIT):
    cloud, names = clouds(50, 2)
    rows = dataset(path / "rows.tsv", cloud if inputs is None else inputs, labels or names, splits, settings)
    with pytest.raises(UserError, match=words):
        train_head(vectors_of(rows), head)
    return rows


def test_a_dataset_without_labels_is_refused(tmp_path):
    (tmp_path / "bare.tsv").write_text("text\n1 2\n3 4\n")
    with pytest.raises(UserError, match="texts/bare@.* has no labels; load it again with a label_column, then embed it and train"):
        train_head(vectors_of(load_texts(tmp_path / "bare.tsv")))


def test_a_dataset_whose_labels_are_all_missing_is_refused(tmp_path):
    refused(tmp_path, "texts/rows@.* has no labelled train rows; label some, or load it again with another", labels=[None] * 50)


def test_one_class_only_is_refused(tmp_path):
    words = "all training rows of texts/rows@.* have the label 'only'; a classifier needs two classes at least"
    refused(tmp_path, words, labels=["only"] * 50)


def test_one_class_among_the_training_rows_is_refused(tmp_path):
    labels = ["only" if row % 5 < 3 else f"class {row % 2}" for row in range(50)]
    refused(tmp_path, "all training rows of texts/rows@.* have the label 'only'", labels=labels)


@pytest.mark.parametrize(("split", "places"), [("train", (0, 1, 2)), ("test", (4,))])
@pytest.mark.parametrize("kind", ["class", "number", "classes"])
def test_no_labelled_rows_to_train_or_test_on_are_refused(tmp_path, split, places, kind):
    written = {"class": "class {}", "number": "{}.5", "classes": "{},x"}[kind]
    labels = [None if row % 5 in places else written.format(row % 7) for row in range(50)]
    settings = SPLIT.model_copy(update={"label_separator": "," if kind == "classes" else None})
    refused(tmp_path, f"texts/rows@.* has no labelled {split} rows; label some", labels=labels, settings=settings)


def test_numbers_that_do_not_differ_are_refused(tmp_path):
    settings = SPLIT.model_copy(update={"label_type": "number"})
    words = "the training labels of texts/rows@.* don't differ; there is nothing to predict"
    refused(tmp_path, words, labels=[3] * 50, settings=settings)


def test_several_labels_of_which_there_is_none_are_refused(tmp_path):
    settings = SPLIT.model_copy(update={"label_separator": ","})
    refused(tmp_path, "texts/rows@.* label", labels=[","] * 50, settings=settings)


def test_a_single_training_row_is_refused(tmp_path):
    settings = SPLIT.model_copy(update={"validation_share": 0.0})
    words = "texts/rows@.* has one labelled train row and no validation row; label more"
    refused(tmp_path, words, splits=["train"] + ["test"] * 49, settings=settings)


def test_labels_per_class_of_numbers_are_refused(line):
    words = "labels_per_class counts rows of a class, but the labels of texts/line@.* are number; leave it out"
    with pytest.raises(UserError, match=words):
        train_head(line, TrainHead(labels_per_class=3))


def test_test_rows_that_the_encoder_learned_from_are_refused(tmp_path):
    inputs, labels = clouds(50, 2)
    rows = dataset(tmp_path / "rows.tsv", inputs, labels)
    encoder = learn(rows, Learn(rows=15))  # of which rows 4, 9 and 14 are test rows
    words = f"3 of the 10 rows to measure on were learned from by {encoder}; measure on rows it never saw, or train it again"
    with pytest.raises(UserError, match=words):
        train_head(spell(rows, encoder), SHORT)


def test_test_rows_that_the_encoder_learned_from_in_another_dataset_are_refused(tmp_path):
    inputs, labels = clouds(50, 2)
    splits = ["train"] * 45 + ["validation", "test"] + ["train"] * 3
    earlier = learn(dataset(tmp_path / "earlier.tsv", inputs, labels, splits), Learn(rows=50))
    rows = dataset(tmp_path / "rows.tsv", inputs[:25], labels[:25])
    with pytest.raises(UserError, match=f"5 of the 5 rows to measure on were learned from by {earlier}"):
        train_head(spell(rows, earlier), SHORT)


def test_an_encoder_that_learned_from_training_rows_only_is_welcome(tmp_path):
    inputs, labels = clouds(50, 2)
    rows = dataset(tmp_path / "rows.tsv", inputs, labels, ["train"] * 30 + ["validation"] * 10 + ["test"] * 10)
    found = train_head(spell(rows, learn(rows, Learn(rows=40))), SHORT)
    assert found.manifest.metrics["accuracy"].n == 10


def test_what_is_no_vectors_is_refused(corners):
    with pytest.raises(UserError, match="train_head takes vectors as its vectors, but texts/corners@.* came; give it one of those"):
        train_head(corners.inputs["dataset"])


def test_vectors_whose_dataset_is_gone_are_refused(tmp_path):
    inputs, labels = clouds(50, 2)
    rows = dataset(tmp_path / "rows.tsv", inputs, labels)
    vectors = str(vectors_of(rows))
    remove(rows)
    with pytest.raises(UserError, match=f"{vectors} was made from {rows}, which is not in .* any more; make it again or bring it"):
        train_head(vectors)


def test_vectors_whose_dataset_is_damaged_are_refused(tmp_path):
    inputs, labels = clouds(50, 2)
    rows = dataset(tmp_path / "rows.tsv", inputs, labels)
    vectors = vectors_of(rows)
    table = pq.read_table(rows / "rows.parquet")
    turned = pa.array(table["label"].to_pylist()[::-1])
    pq.write_table(table.set_column(table.column_names.index("label"), "label", turned), rows / "rows.parquet")
    with pytest.raises(UserError, match="texts/rows@.* is damaged: rows.parquet"):
        train_head(str(vectors), SHORT)


# ../shared ----------------------------------------------------------------------------------------------------------


def against_scikit_learn(vectors):
    """The accuracy of a linear head, and of scikit-learn's LogisticRegression on the same vectors and training rows."""
    from sklearn.linear_model import LogisticRegression

    ours = train_head(vectors).manifest
    train, _, test = split_of(vectors)
    assert ours.details["used"]["train"] == len(train[0])
    return ours.metrics["accuracy"], LogisticRegression(max_iter=2000).fit(*train).score(*test)


@pytest.mark.shared
@pytest.mark.slow
def test_a_head_on_minilm_is_as_good_as_scikit_learns_on_sst2():
    texts = load_texts(SHARED / "data" / "sst2", LoadTexts(files=ReadFiles(limit=10_000)))
    vectors = embed(texts, import_encoder(SHARED / "models" / "all-MiniLM-L6-v2"), Embed(rows_per_part=4096))
    ours, theirs = against_scikit_learn(vectors)
    assert ours.n == 872
    assert abs(ours.value - theirs) <= ours.standard_error
    assert ours.value > 0.75


@pytest.mark.slow
@pytest.mark.shared
def test_a_head_on_mobilenet_is_as_good_as_scikit_learns_on_hymenoptera():
    pictures = load_images(SHARED / "data" / "hymenoptera", LoadImages())
    weights = SHARED / "models" / "imagenet" / "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.35_224_no_top.h5"
    encoder = import_encoder(weights, ImportEncoder(architecture="MobileNetV2", alpha=0.35))
    ours, theirs = against_scikit_learn(embed(pictures, encoder))
    assert ours.n == 153
    assert abs(ours.value - theirs) <= ours.standard_error
    assert ours.value > 0.85


def test_references_are_enough(corners, place):
    assert Artifact.open("classifier/" + corners.manifest.name, place).manifest.inputs[0].ref == str(corners)


@pytest.mark.slow
@pytest.mark.shared
def test_neutral_pictures_of_cifar10h_left_out_are_compared_over_five_seeds_on_the_same_test_rows():
    settings = LoadImages(neutral=Neutral(votes_column="human_counts", min_agreement=0.8))
    pictures = load_images(SHARED / "data/cifar10h/cifar10-test-human.parquet", settings)
    vectors = embed(pictures, make_control(pictures))
    without, among = (train_head(vectors, TrainHead(neutral=how, seeds=5)).manifest for how in ("leave_out", "learn"))
    assert without.details["used"]["test"] == among.details["used"]["test"] == 2009
    assert among.details["used"]["train"] - without.details["used"]["train"] == pictures.manifest.details["neutral"]["train"] == 423
    for name in ("accuracy", "log_loss", "clear_accuracy"):
        ours, theirs = without.metrics[name], among.metrics[name]
        assert (ours.n, ours.seeds) == (theirs.n, theirs.seeds)
        assert abs(ours.value - theirs.value) < 3 * np.hypot(ours.standard_error, theirs.standard_error)  # no clear winner here


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.parametrize(("name", "columns"), [("airfoil/airfoil_self_noise.dat", 5), ("energy/data.txt", 8)])
def test_a_surrogate_of_a_real_simulation_or_measurement_reaches_two_percent_of_its_spread(name, columns):
    names = (*(f"x{number}" for number in range(columns)), "y")
    files = ReadFiles(delimiter="\\t", column_names=names)
    table = load_table(SHARED / "data/physics" / name, LoadTable(label_column="y", label_type="number", files=files))
    found = train_head(embed(table, make_control(table)), TrainHead(purpose="surrogate")).manifest
    assert found.details["target_reached"] and found.metrics["fitted_mae"].value <= found.details["target_error"]
    assert found.rows == table.manifest.rows  # every row was learned


# Test rows that are training rows too


KEPT = LoadTexts(split_column="split", duplicates="keep")
LONG = TrainHead(training=Training(epochs=30, preflight=False))


def with_copies(tmp_path, count, clean=30):
    """Labels drawn at random, each told by its vector; `count` test rows that equal training rows, and others."""
    random = np.random.default_rng(0)
    points, labels = random.normal(size=(80, 40)), random.choice(["one", "two"], 80 + clean)
    others = random.normal(size=(clean, 40))
    inputs = np.concatenate([points, others, points[:count]])
    splits = ["train"] * 60 + ["validation"] * 20 + ["test"] * (clean + count)
    return dataset(tmp_path / "kept.tsv", inputs, [*labels, *labels[:count]], splits, KEPT)


def test_a_verdict_leads_with_test_rows_that_are_no_training_rows(tmp_path):
    head = train_head(vectors_of(with_copies(tmp_path, 50)), LONG).manifest
    whole, clean = head.metrics["accuracy"], head.metrics["accuracy_without_copies"]
    assert (whole.n, clean.n, head.details["copies"]) == (80, 30, 50) and whole.value != clean.value
    guess = head.metrics["guessing_accuracy_without_copies"]
    assert head.verdict == (
        f"no better than guessing from the training labels: accuracy {clean} against {guess}, on the 30 test rows that are no "
        f"copies of training rows; with the 50 copies too: accuracy {whole}"
    )


def test_nothing_can_be_said_where_every_test_row_is_a_training_row(tmp_path):
    head = train_head(vectors_of(with_copies(tmp_path, 50, clean=0)), LONG).manifest
    assert head.verdict == "nothing can be said: every test row is also a training row"
    assert head.metrics["accuracy"].n == 50 and "accuracy_without_copies" not in head.metrics


def test_copies_are_counted_over_seeds_too_and_where_something_else_decides(tmp_path):
    settings = LONG.model_copy(update={"seeds": 2, "decide_by": "balanced_accuracy"})
    head = train_head(vectors_of(with_copies(tmp_path, 12)), settings).manifest
    assert head.metrics["accuracy_without_copies"].seeds == 2 == head.metrics["balanced_accuracy_without_copies"].seeds
    assert head.metrics["balanced_accuracy_without_copies"].n == 30 and "balanced_accuracy" in head.verdict


def test_a_dataset_without_copies_says_nothing_of_them(tmp_path):
    head = train_head(vectors_of(with_copies(tmp_path, 0)), LONG).manifest
    assert "copies" not in head.details and "copies" not in head.verdict and "lineage" not in head.verdict
    assert not [name for name in head.metrics if "copies" in name]
