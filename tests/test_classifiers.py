"""Classifiers: what the artifact holds, of texts that were fine-tuned on, and that its encoder half is an encoder.

What a head on frozen vectors says is told in test_heads.
"""

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import WORDS

from embedkit import (
    Classifier,
    Encoder,
    FineTune,
    ImportEncoder,
    LoadTexts,
    Training,
    build_index,
    embed,
    fine_tune,
    frameworks,
    import_encoder,
    load_texts,
    search,
    tuning,
)
from embedkit.datasets import read_contents, read_rows
from embedkit.encoders import HALF
from embedkit.vectors import read_vectors

frameworks.load_frameworks()

import keras  # noqa: E402  after the frameworks were loaded quietly

RECIPES = ("lp-ft", "full", "adapter", "scratch")
SPLITS = ("train", "train", "train", "validation", "test")
TRAINING = Training(epochs=10, batch_size=32, learning_rate=0.01, preflight=False)


def write_texts(path, count=100):
    """Short texts that are `pos` where they hold the word good and `neg` where they hold bad."""
    random, lines = np.random.default_rng(0), ["text,label,split"]
    for number in range(count):
        good = number % 2 == 0
        words = [*random.choice(WORDS[:12], random.integers(1, 8)), "good" if good else "bad", f"film{number}"]
        lines.append(f"{' '.join(words)},{'pos' if good else 'neg'},{SPLITS[number % 5]}")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A root for artifacts that several tests look at."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning, "PROBE_EPOCHS", 100)  # on rows that can be told apart each of a thousand would still gain a little
        yield tmp_path_factory.mktemp("classifiers")


@pytest.fixture(scope="module")
def texts(place):
    return load_texts(write_texts(place / "reviews.csv"), LoadTexts(split_column="split"), root=place)


@pytest.fixture(scope="module")
def bert(place, tiny_bert):
    """The first of the two layers; tracing both takes twice as long."""
    return import_encoder(tiny_bert, ImportEncoder(layer="transformer_layer_0"), root=place, name="bert")


@pytest.fixture(scope="module")
def reading(texts, bert):
    """A classifier of texts by each recipe; from random weights it takes longer."""
    longer = {"scratch": TRAINING.model_copy(update={"epochs": 30})}

    class Reading(dict):  # each is made when it is first asked for
        def __missing__(self, recipe):
            self[recipe] = fine_tune(texts, bert, FineTune(recipe=recipe, training=longer.get(recipe, TRAINING)))
            return self[recipe]

    return Reading()


@pytest.fixture
def classifier(reading):
    """That of linear probing and fine-tuning."""
    return reading["lp-ft"]


def contents_of(dataset, split):
    """The texts of a split."""
    rows = zip(read_contents(dataset, 0, 100)["text"].to_pylist(), read_rows(dataset)["split"].to_pylist(), strict=True)
    return [row for row, own in rows if own == split]


def probabilities(classifier):
    return np.array(pq.read_table(classifier / "predictions.parquet")["probabilities"].to_pylist())


@pytest.mark.parametrize("recipe", [*RECIPES[:1], *(pytest.param(recipe, marks=pytest.mark.slow) for recipe in RECIPES[1:])])
def test_every_recipe_learns_texts_that_can_be_told_apart(reading, recipe):
    verdict = reading[recipe].manifest.verdict
    assert verdict.startswith("better than guessing from the training labels"), verdict


@pytest.mark.slow
def test_the_encoder_half_of_an_adapter_is_plain_keras(reading, bert):
    model = keras.saving.load_model(reading["adapter"] / HALF / "model.keras", safe_mode=True)
    assert not any("lora" in weight.path for weight in model.weights)
    before = Encoder.open(bert).model
    assert [weight.shape for weight in model.weights] == [weight.shape for weight in before.weights]
    kernels = [weight.path for weight, old in zip(model.weights, before.weights, strict=True) if not np.array_equal(weight, old)]
    assert kernels and all(path.endswith("kernel") for path in kernels)  # no bias, scale or embedding moved


def test_what_was_predicted_is_what_the_published_classifier_predicts_of_raw_rows(classifier, texts, bert):
    expected = pq.read_table(classifier / "predictions.parquet").to_pydict()
    loaded = Classifier.open(classifier)
    found = loaded.predict(contents_of(texts, "test"))
    assert [one.label for one in found] == expected["predicted"]
    assert np.array([list(one.probabilities.values()) for one in found]) == pytest.approx(probabilities(classifier), abs=1e-4)


def test_the_encoder_half_opens_as_an_encoder_of_another_identity(classifier, texts, bert):
    half, before = Encoder.open(classifier), Encoder.open(bert)
    assert half.facts.identity == classifier.manifest.details["identity"] == classifier.manifest.details["encoder"]
    assert half.facts.identity != before.facts.identity
    changed = {"identity", "source"}
    assert half.facts.model_dump(exclude=changed) == before.facts.model_dump(exclude=changed)
    assert half.facts.source == f"{before.facts.source}, fine-tuned (lp-ft)"
    rows = contents_of(texts, "test")
    assert not np.allclose(half.encode(rows), before.encode(rows), atol=1e-3)


def test_a_head_on_the_vectors_of_the_encoder_half_is_the_classifiers_own_model(classifier, texts, bert):
    vectors = embed(texts, classifier)
    assert vectors.manifest.details["encoder"] == classifier.manifest.details["identity"]
    test = np.array(read_rows(texts)["split"].to_pylist()) == "test"
    model = keras.saving.load_model(classifier / "model.keras", safe_mode=True)
    found = model.predict(read_vectors(vectors)[1][test], verbose=0)
    assert found == pytest.approx(probabilities(classifier), abs=1e-4)


def test_rows_are_found_by_the_encoder_half(reading, texts):
    index = build_index(embed(texts, reading["lp-ft"]))
    [[nearest, *_]] = search(index, ["the good cat sat"])
    assert "good" in nearest.content


def test_what_a_classifier_was_fitted_on_is_its_training_and_validation_rows(classifier, texts, bert):
    rows = read_rows(texts).to_pylist()
    expected = [(row["id"], row["content"]) for row in rows if row["split"] != "test"]
    ledger = pq.read_table(classifier / "fitted.parquet").to_pydict()
    assert list(zip(ledger["id"], ledger["content"], strict=True)) == expected
    assert classifier.manifest.details["fitted"] == len(expected)
