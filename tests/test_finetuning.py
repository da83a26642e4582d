"""fine_tune: an encoder that moves, the encoder that comes out of it, and what it says about rows it has seen."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import write_pictures

from embedkit import (
    Artifact,
    Classifier,
    Compare,
    Encoder,
    FineTune,
    LoadImages,
    LoadTable,
    TrainHead,
    Training,
    UserError,
    compare,
    embed,
    fine_tune,
    import_encoder,
    load_images,
    load_table,
    load_texts,
    make_control,
    train_head,
    tuning,
)
from embedkit.datasets import read_contents, read_rows
from embedkit.labels import Neutral

SHORT = Training(epochs=2, batch_size=48, learning_rate=0.01, preflight=False)  # one step an epoch
LONGER = SHORT.model_copy(update={"epochs": 24})
RECIPES = ("lp-ft", "full", "adapter", "scratch")
LAYERS = ["first_conv", "first_norm", "second_conv", "second_norm"]


def load_pictures(path, root, label="red", name=None, **more):
    return load_images(path, LoadImages(split_column="split", label_column=label, **more), root=root, name=name)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A root for artifacts that several tests look at."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning, "PROBE_EPOCHS", 100)  # on rows that can be told apart each of a thousand would still gain a little
        yield tmp_path_factory.mktemp("finetuning")


@pytest.fixture(scope="module")
def pictures(place):
    return load_pictures(write_pictures(place / "pictures.parquet"), place)


@pytest.fixture(scope="module")
def network(place, normed_network):
    return import_encoder(normed_network, root=place)


@pytest.fixture(scope="module")
def seeing(pictures, network):
    """A classifier of pictures by each recipe."""
    return {recipe: fine_tune(pictures, network, FineTune(recipe=recipe, training=LONGER)) for recipe in RECIPES}


def contents_of(dataset, split):
    """Raw rows of a split, as `Encoder.encode` takes them."""
    rows = read_contents(dataset, 0, dataset.manifest.rows)["image"].to_pylist()
    return [row for row, own in zip(rows, read_rows(dataset)["split"].to_pylist(), strict=True) if own == split]


def layer_weights(artifact):
    """Weights of an encoder's layers, or of a classifier's encoder half, by layer."""
    return {layer.name: layer.get_weights() for layer in Encoder.open(artifact).model._flatten_layers() if layer.weights}


def same(ours, theirs):
    return all(np.array_equal(one, other) for one, other in zip(ours, theirs, strict=True))


def better_than_guessing(classifier):
    return classifier.manifest.verdict.startswith("better than guessing from the training labels")


# Recipes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_learns_pictures_that_can_be_told_apart(seeing, recipe):
    assert better_than_guessing(seeing[recipe]), seeing[recipe].manifest.verdict
    assert seeing[recipe].manifest.metrics["accuracy"].value > 0.8
    unknown = "(lineage unknown: encoder/normed was imported, and what it learned from is not recorded)"
    assert seeing[recipe].manifest.verdict.endswith(unknown) == (recipe != "scratch")  # which takes its shape alone
    assert seeing[recipe].manifest.name == f"pictures-normed-{recipe}"


@pytest.mark.parametrize("recipe", RECIPES)
def test_batch_normalisation_keeps_statistics_and_scale_unless_it_starts_from_scratch(seeing, network, recipe):
    before, after = layer_weights(network), layer_weights(seeing[recipe])
    for name in LAYERS:
        assert same(before[name], after[name]) == (name.endswith("norm") and recipe != "scratch"), name
    if recipe == "scratch":
        fresh = [np.ones(6), np.zeros(6), np.zeros(6), np.ones(6)]
        assert not any(np.allclose(now, start, atol=1e-4) for now, start in zip(after["first_norm"], fresh, strict=True))


def test_several_labels_are_learned_each_by_itself(place, network):
    rows = load_pictures(place / "pictures.parquet", place, label="both", name="both")
    found = fine_tune(rows, network, FineTune(training=LONGER))
    assert (found.manifest.details["type"], found.manifest.details["classes"]) == ("classes", ["green", "red"])
    assert better_than_guessing(found) and len(found.manifest.details["decision"]) == 2
    [one, *_] = Classifier.open(found).predict(contents_of(rows, "test"))
    assert isinstance(one.label, list) and set(one.probabilities) == {"green", "red"}


def test_numbers_are_learned_in_their_own_unit(place, network):
    rows = load_pictures(place / "pictures.parquet", place, label="blue", name="blue", label_type="number")
    found = fine_tune(rows, network, FineTune(training=LONGER))
    assert better_than_guessing(found) and found.manifest.metrics["rmse"].value < 0.15
    predicted = [one.label for one in Classifier.open(found).predict(contents_of(rows, "test"))]
    assert predicted == pytest.approx(pq.read_table(found / "predictions.parquet")["predicted"].to_pylist(), abs=1e-4)


# Linear probe first -------------------------------------------------------------------------------------------------


def test_lp_ft_starts_where_the_linear_probe_ended(seeing, pictures, network):
    head = train_head(embed(pictures, network), TrainHead(training=Training(epochs=100, batch_size=48, preflight=False)))
    probe = min(entry["validation_loss"] for entry in json.loads((head / "history.json").read_text()))
    for recipe in ("lp-ft", "adapter"):
        assert seeing[recipe].manifest.details["start"]["validation_loss"] == pytest.approx(probe, rel=0.01)
        assert seeing[recipe].manifest.details["best_epoch"] > 0
    assert "start" not in seeing["full"].manifest.details


def test_where_moving_brings_nothing_the_probe_is_kept_and_said(pictures, network):
    still = SHORT.model_copy(update={"learning_rate": 1e-9})
    found = fine_tune(pictures, network, FineTune(training=still), name="kept")
    note = "moving the encoder brought validation rows nothing: the linear head on the frozen encoder was kept"
    assert note in found.manifest.notes and found.manifest.details["best_epoch"] == 0
    assert found.manifest.details["identity"] == network.manifest.details["identity"]
    assert all(same(weights, layer_weights(network)[name]) for name, weights in layer_weights(found).items())
    assert better_than_guessing(found)


# What stays ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frozen", [2, "first_norm", "network/first_norm"], ids=repr)
def test_frozen_layers_stay_bit_for_bit_and_later_ones_move(pictures, network, frozen):
    found = fine_tune(pictures, network, FineTune(recipe="full", frozen=frozen, training=SHORT), name="frozen")
    before, after = layer_weights(network), layer_weights(found)
    assert [same(before[name], after[name]) for name in LAYERS] == [True, True, False, True]
    assert found.manifest.details["frozen"] == 2


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"frozen": 9}, "9 layers can't be frozen: the network has 4 with weights; freeze fewer"),
        ({"frozen": "first_con"}, "layer 'first_con' is not known; did you mean 'first_conv'"),
        ({"recipe": "adapter", "frozen": 1}, "frozen is for lp-ft and full, but recipe adapter decides itself what moves"),
        ({"recipe": "scratch", "frozen": "auto"}, "frozen is for lp-ft and full, but recipe scratch decides itself"),
        ({"rebalance": ("interpolate",)}, "interpolate makes vectors, not rows of an encoder; take oversample, undersample"),
        ({"word_dropout": 0.1}, "word_dropout is not for the images of encoder/normed@.*; leave it out"),
        ({"mixup": 0.2, "rebalance": ("weights",)}, "mixed rows have no weight of their own; take oversample instead of weights"),
    ],
)
def test_what_cannot_be_done_is_refused(pictures, network, settings, words):
    with pytest.raises(UserError, match=words):
        fine_tune(pictures, network, FineTune(**settings))


def test_auto_frees_the_network_piece_by_piece_and_records_it(pictures, network):
    found = fine_tune(pictures, network, FineTune(recipe="full", frozen="auto", training=LONGER), name="auto")
    details = found.manifest.details
    assert [phase["frozen"] for phase in details["phases"]] == [3, 2, 1, 0][: len(details["phases"])]
    assert all(phase["epochs"] == 6 for phase in details["phases"])  # a quarter of 24 each
    assert details["epochs"] == sum(phase["epochs"] for phase in details["phases"])
    gained = [phase["frozen"] for phase in details["phases"] if phase["best_epoch"]]
    assert details["frozen"] == (gained[-1] if gained else 4)
    assert f"unfrozen piece by piece: {details['frozen']} of 4 layers stayed as they were" in found.manifest.notes
    before, after = layer_weights(network), layer_weights(found)
    assert all(same(before[name], after[name]) for name in LAYERS[: details["frozen"]])
    history = json.loads((found / "history.json").read_text())
    assert [entry["epoch"] for entry in history] == list(range(1, details["epochs"] + 1))
    starts = [phase["start"]["validation_loss"] for phase in details["phases"]]
    assert starts == sorted(starts, reverse=True)  # each goes on from the best of the one before


# Rare classes, few labels, augmentation -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rare(place):
    """Pictures of which one in eight is red."""
    table = pq.read_table(place / "pictures.parquet").to_pylist()
    red = [row for row in table if row["red"] == "red"]
    pq.write_table(pa.Table.from_pylist([row for row in table if row["red"] != "red"] + red[:8]), place / "rare.parquet")
    return load_pictures(place / "rare.parquet", place)


@pytest.mark.parametrize("chain", [("weights",), ("oversample",)], ids="".join)
def test_rare_classes_are_made_to_count_and_probabilities_corrected(rare, network, chain):
    found = fine_tune(rare, network, FineTune(recipe="full", rebalance=chain, training=LONGER), name=f"rare-{chain[0]}")
    assert "balanced_accuracy" in found.manifest.verdict and len(found.manifest.details["decision"]) == 2
    assert found.manifest.metrics["balanced_accuracy"].value > 0.9
    shares = np.array(pq.read_table(found / "predictions.parquet")["probabilities"].to_pylist()).mean(axis=0)
    labels = pq.read_table(found / "predictions.parquet")["label"].to_pylist()
    assert shares[1] == pytest.approx(labels.count("red") / len(labels), abs=0.15)


def test_so_many_labels_per_class_are_what_is_learned_and_recorded(pictures, network):
    found = fine_tune(pictures, network, FineTune(recipe="full", labels_per_class=3, training=SHORT), name="few")
    assert found.manifest.details["used"] == {"train": 6, "validation": 6, "test": 16}
    assert found.manifest.details["fitted"] == len(pq.read_table(found / "fitted.parquet")) == 12


@pytest.mark.slow
def test_augmented_runs_repeat_and_are_other_runs(pictures, network, place):
    changed = FineTune(recipe="full", augment=("flip", "brightness"), mixup=0.2, cut_mix=0.5, label_smoothing=0.1, training=SHORT)
    ours = fine_tune(pictures, network, changed, name="changed")
    plain = fine_tune(pictures, network, FineTune(recipe="full", training=SHORT), name="plain")
    history = [json.loads((each / "history.json").read_text()) for each in (ours, plain)]
    assert [entry["loss"] for entry in history[0]] != [entry["loss"] for entry in history[1]]
    again = fine_tune(*fresh(place / "augmented", pictures, network), changed, name="changed")
    assert files(again) == files(ours)


def files(artifact):
    return {
        path.relative_to(artifact.path).as_posix(): path.read_bytes()
        for path in artifact.path.rglob("*")
        if path.is_file() and path.name != "manifest.json"
    }


def fresh(root, *artifacts):
    """The same artifacts in another root."""
    for artifact in artifacts:
        shutil.copytree(artifact.path, root / artifact.path.relative_to(artifact.root))
    return [Artifact.open(str(artifact), root) for artifact in artifacts]


def test_what_was_predicted_is_what_the_published_classifier_predicts_of_raw_pictures(seeing, pictures):
    for classifier in seeing.values():
        expected = pq.read_table(classifier / "predictions.parquet").to_pydict()
        found = Classifier.open(classifier).predict(contents_of(pictures, "test"))
        assert [one.label for one in found] == expected["predicted"]
        probabilities = np.array([list(one.probabilities.values()) for one in found])
        assert probabilities == pytest.approx(np.array(expected["probabilities"]), abs=1e-4)


def test_what_was_fine_tuned_is_fine_tuned_again(seeing, pictures):
    again = fine_tune(pictures, seeing["lp-ft"], FineTune(recipe="full", training=LONGER))
    assert again.manifest.name == "pictures-normed-lp-ft-full"
    assert Encoder.open(again).facts.source == "normed, fine-tuned (lp-ft), fine-tuned (full)"
    assert again.manifest.details["identity"] != seeing["lp-ft"].manifest.details["identity"]
    assert better_than_guessing(again)


# Refusals -----------------------------------------------------------------------------------------------------------


def test_an_encoder_without_weights_is_refused(place):
    (place / "plain.csv").write_text("size,label\n" + "".join(f"{row * 1.5},{'ab'[row % 2]}\n" for row in range(60)))
    table = load_table(place / "plain.csv", LoadTable(label_column="label"), root=place)
    control = make_control(table)
    with pytest.raises(UserError, match=f"^{control} has no weights that could move; train a head on its vectors instead$"):
        fine_tune(table, control)


def test_an_encoder_for_other_rows_is_refused(place, network, reviews):
    texts = load_texts(reviews, root=place)
    with pytest.raises(UserError, match=f"{network} takes images, but {texts} holds texts; give it an encoder for texts"):
        fine_tune(texts, network)


def test_rows_without_labels_are_refused(place, network):
    table = pq.read_table(place / "pictures.parquet").select(["image"])
    pq.write_table(table, place / "bare.parquet")
    bare = load_images(place / "bare.parquet", root=place)
    with pytest.raises(UserError, match=f"{bare} has no labels; load it again with a label_column, then fine-tune on that"):
        fine_tune(bare, network)


def test_a_classifier_that_holds_no_encoder_names_the_one_to_take(pictures, network):
    head = train_head(embed(pictures, network), TrainHead(training=SHORT))
    words = f"{head} holds no encoder: it was trained on vectors of {network}; give that one"
    for use in (embed, fine_tune, compare):
        with pytest.raises(UserError, match=words):
            use(pictures, head)


# Leaks --------------------------------------------------------------------------------------------------------------


def test_rows_that_a_classifier_was_fine_tuned_on_are_not_measured_on_in_another_dataset(place, seeing):
    lines = pq.read_table(place / "pictures.parquet").to_pylist()
    turned = [row | {"split": "test" if row["split"] == "validation" else "train"} for row in lines]
    pq.write_table(pa.Table.from_pylist(turned), place / "turned.parquet")
    other, classifier = load_pictures(place / "turned.parquet", place), seeing["lp-ft"]
    words = f"16 of the 16 rows to measure on were learned from by {classifier}; measure on rows it never saw"
    vectors = embed(other, classifier)
    with pytest.raises(UserError, match=words):
        train_head(vectors, TrainHead(training=SHORT))
    with pytest.raises(UserError, match=words):
        fine_tune(other, classifier, FineTune(training=SHORT))
    with pytest.raises(UserError, match=words):
        compare(other, classifier, Compare())
    again = fine_tune(load_pictures(place / "pictures.parquet", place), classifier, FineTune(recipe="full", training=SHORT))
    with pytest.raises(UserError, match=words.replace(str(classifier), f"({again}|{classifier})")):
        fine_tune(other, again, FineTune(training=SHORT))


# Neutral rows -------------------------------------------------------------------------------------------------------


def test_neutral_rows_get_a_review_page_with_their_proposals(place, network):
    settings = {"neutral": Neutral(column="unsure"), "name": "unsure"}
    rows = load_pictures(place / "pictures.parquet", place, **settings)
    found = fine_tune(rows, network, FineTune(recipe="full", training=LONGER))
    known = read_rows(rows).to_pylist()
    left = {row["id"]: row["label"] for row in known if row["neutral"] and row["split"] != "test"}
    review = pq.read_table(found / "review.parquet").to_pydict()
    assert left and set(review["id"]) == set(left)
    proposed = [left[row] == label for row, label in zip(review["id"], review["proposed"], strict=True)]
    assert np.mean(proposed) > 0.8  # the rows really are told apart
    assert "still neutral" in (found / "review.html").read_text()
    assert not set(pq.read_table(found / "fitted.parquet")["id"].to_pylist()) & set(left)
