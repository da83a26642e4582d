"""Arms: pictures, tables, several labels and numbers in every way; features that are computed once."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import WORDS
from PIL import Image

from embedkit import (
    Compare,
    Encoder,
    FineTune,
    LoadTable,
    LoadTexts,
    TrainHead,
    Training,
    compare,
    embed,
    import_encoder,
    load_images,
    load_table,
    load_texts,
    make_control,
    train_head,
)
from embedkit.arms import NEIGHBOURS, RECIPES, Bench, described, windows
from embedkit.datasets import read_contents, read_rows
from embedkit.lessons import assign
from embedkit.preparation import Prepared
from embedkit.vectors import read_vectors

SHORT = Compare(
    seeds=1,
    budgets=(),
    rows_a_run=64,
    head=TrainHead(training=Training(epochs=20, preflight=False)),
    fine_tune=FineTune(training=Training(batch_size=16, preflight=False)),
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("arms") / "artifacts"


@pytest.fixture(scope="module")
def texts(root, tiny_bert):
    """120 texts that a word tells apart in four of five, and an encoder."""
    random = np.random.default_rng(0)
    lines = ["text,label"]
    for number in range(120):
        word = ("good", "bad")[number % 2] if random.random() < 0.8 else "film"
        lines.append(f"{' '.join(random.choice(WORDS, 4))} {word} film{number},{('pos', 'neg')[number % 2]}")
    root.mkdir(parents=True)
    (root.parent / "films.csv").write_text("\n".join(lines) + "\n")
    return load_texts(root.parent / "films.csv", root=root), import_encoder(tiny_bert, root=root)


def found_by(report):
    return json.loads((report / "results.json").read_text())


def arms_of(report):
    return {arm["name"]: arm for arm in found_by(report)["arms"]}


def predictions(report, arm, seed=0):
    return pq.read_table(report / f"predictions/{arm}-all-{seed}.parquet").to_pydict()


# Pictures -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pictures(root, texts, nested_network):
    """A comparison on 60 pictures that are bright on the left or on the right."""
    random, folder = np.random.default_rng(0), root.parent / "photos"
    for number in range(60):
        side = "left" if number % 2 else "right"
        pixels = random.integers(0, 120, (24, 32, 3))
        pixels[:, slice(0, 16) if side == "left" else slice(16, 32)] += 120
        (folder / side).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype("uint8")).save(folder / side / f"{number:03d}.png")
    return compare(load_images(folder, root=root), import_encoder(nested_network, root=root), SHORT)


def test_pictures_are_measured_in_every_way(pictures):
    found = found_by(pictures)
    assert [arm["name"] for arm in found["arms"]] == list(described("images"))
    assert [arm["name"] for arm in found["arms"] if arm["skipped"]] == []
    assert {path.stem for path in (pictures / "predictions").iterdir()} == {f"{name}-all-0" for name in described("images")}
    assert arms_of(pictures)["raw"]["title"] == "PCA of pixels + linear"


def test_principal_components_of_pixels_tell_left_from_right(pictures):
    assert arms_of(pictures)["raw"]["value"] == 1.0 > arms_of(pictures)["guess"]["value"]


def test_rows_that_were_wrong_are_shown_as_pictures(pictures):
    for row in found_by(pictures)["mistakes"]:
        assert row["picture"].startswith("data:image/") and row["path"].endswith(".png")


# Tables -------------------------------------------------------------------------------------------------------------


def table(root, name, label, settings):
    """120 rows of two numbers and a word, labelled by a function of them and of noise."""
    random = np.random.default_rng(0)
    lines = ["size,weight,colour,label"]
    for _ in range(120):
        size, weight, colour = random.normal(), random.normal(), random.choice(["red", "blue"])
        lines.append(f"{size:.4f},{weight:.4f},{colour},{label(size + (colour == 'red') + 0.3 * random.normal())}")
    (root.parent / f"{name}.csv").write_text("\n".join(lines) + "\n")
    return load_table(root.parent / f"{name}.csv", settings, root=root)


@pytest.fixture(scope="module")
def goods(root, texts):
    """A comparison on a table of numbers to predict, with the table itself as the encoder."""
    rows = table(root, "goods", lambda number: f"{number:.4f}", LoadTable())
    return compare(rows, make_control(rows), SHORT.model_copy(update={"budgets": (2,)}))


@pytest.mark.slow
def test_arms_that_move_an_encoder_without_weights_are_skipped_with_the_reason(goods):
    skipped = {name: arm["skipped"] for name, arm in arms_of(goods).items() if arm["skipped"]}
    assert skipped == dict.fromkeys(["random", *RECIPES], "the encoder has no weights")
    assert list(arms_of(goods)) == list(described("table"))
    assert "skipped: the encoder has no weights" in (goods / "report.html").read_text()
    assert list(goods.manifest.metrics) == [f"{name}_rmse" for name in ("guess", "raw", "knn", "linear", "mlp")]


def test_of_numbers_the_root_mean_square_error_counts_and_less_is_better(goods):
    from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

    found = found_by(goods)
    assert (found["task"], found["measure"], found["more_is_better"], found["confusion"]) == ("number", "rmse", False, None)
    for name, arm in arms_of(goods).items():
        if not arm["skipped"]:
            one = predictions(goods, name)
            assert arm["value"] == pytest.approx(root_mean_squared_error(one["label"], one["predicted"])), name
            assert arm["others"]["mae"] == pytest.approx(mean_absolute_error(one["label"], one["predicted"]))
            assert arm["others"]["r2"] == pytest.approx(r2_score(one["label"], one["predicted"]))
    arms = arms_of(goods)
    assert arms["linear"]["value"] < 0.6 * arms["guess"]["value"]
    assert arms["guess"]["difference"]["value"] < -2 * arms["guess"]["difference"]["error"]
    assert found["recommended"] in ("raw", "linear") and not (goods / "confusion.png").exists()


def test_of_numbers_a_budget_is_ten_times_so_many_labels_and_errors_are_ranked(goods):
    found = found_by(goods)
    assert arms_of(goods)["linear"]["scores"]["2"]["labels"] == 20
    assert found["budget_unit"] == "labels"
    errors = [row["error"] for row in found["mistakes"]]
    one = predictions(goods, found["recommended"])
    off = np.sort(np.abs(np.array(one["label"]) - np.array(one["predicted"])))[::-1]
    assert errors == pytest.approx(off[:12])
    assert [name for name, _ in found["mistakes"][0]["columns"]][:3] == ["size", "weight", "colour"]


def test_guessing_a_number_is_the_mean_of_the_training_labels(goods):
    said = set(predictions(goods, "guess")["predicted"])
    assert len(said) == 1
    labels = [row["label"] for row in read_rows(goods.inputs["dataset"]).to_pylist() if row["split"] != "test"]
    assert said.pop() == pytest.approx(np.mean(labels), abs=0.3)


def test_classes_of_a_table(root, texts):
    rows = table(root, "kinds", lambda number: "big" if number > 0.5 else "small", LoadTable())
    report = compare(rows, make_control(rows), SHORT.model_copy(update={"arms": ("raw", "full")}))
    arms = arms_of(report)
    assert arms["full"]["skipped"] == "the encoder has no weights"
    assert arms["raw"]["value"] > arms["guess"]["value"] and (report / "confusion.png").exists()


def test_where_no_arm_can_run_the_report_says_so(root, texts):
    rows = table(root, "goods", lambda number: f"{number:.4f}", LoadTable())
    report = compare(rows, make_control(rows), SHORT.model_copy(update={"arms": ("full",)}))
    assert report.manifest.verdict == "No arm could learn from these rows."
    assert (found_by(report)["recommended"], found_by(report)["best"]) == (None, None)


# Several labels -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_several_labels_are_scored_by_micro_f1(root, texts):
    from sklearn.metrics import f1_score

    random, lines = np.random.default_rng(0), ["text\tlabel"]
    for number in range(120):
        tags = [word for word in ("good", "red", "moon") if random.random() < 0.4]
        lines.append(f"{' '.join([*random.choice(['the', 'a', 'cat', 'dog'], 4), *tags])} {number}\t{','.join(tags)}")
    (root.parent / "tags.tsv").write_text("\n".join(lines) + "\n")
    rows = load_texts(root.parent / "tags.tsv", LoadTexts(label_separator=","), root=root)
    settings = SHORT.model_copy(update={"arms": ("raw", "knn", "linear", "full"), "budgets": (2,)})
    report = compare(rows, texts[1], settings)
    found, arms = found_by(report), arms_of(report)
    assert (found["task"], found["measure"], found["confusion"]) == ("classes", "micro_f1", None)
    assert arms["raw"]["scores"]["2"]["labels"] == 20
    for name in arms:
        one = predictions(report, name)
        held = [np.array([[tag in row for tag in ("good", "moon", "red")] for row in one[side]]) for side in ("label", "predicted")]
        assert arms[name]["value"] == pytest.approx(f1_score(*held, average="micro", zero_division=0)), name
    assert arms["raw"]["value"] > 0.9  # the words are the labels


# Frozen features, and heads on them ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def frozen(texts):
    """The cheap arms on texts."""
    settings = SHORT.model_copy(update={"arms": ("raw", "knn", "linear"), "head": TrainHead(training=Training(epochs=200))})
    return compare(*texts, settings)


def test_cached_features_are_the_vectors_of_the_encoder(texts, tmp_path):
    dataset, encoder = texts
    loaded, rows = Encoder.open(encoder), read_rows(dataset)
    whole = assign("films", rows, rows["id"].to_numpy(), np.empty((120, 0)), TrainHead())
    places = np.arange(0, 120, 2)
    prepared = Prepared(dataset, loaded.feed, places, tmp_path)
    bench = Bench(tmp_path, dataset, encoder, loaded, prepared, whole.task, TrainHead(), FineTune(), places)
    contents = read_contents(dataset, 0, 120)["text"].to_pylist()
    assert bench.vectors[places] == pytest.approx(loaded.encode([contents[row] for row in places]), abs=1e-5)
    assert bench.vectors[places] == pytest.approx(read_vectors(embed(dataset, encoder))[1][places], abs=1e-5)
    assert not bench.vectors[1::2].any()  # nobody asked for them
    again = Bench(tmp_path, dataset, encoder, loaded, prepared, whole.task, TrainHead(), FineTune(), places)
    assert np.array_equal(again.vectors, bench.vectors)
    one, same, other = bench.random_vectors(3), again.random_vectors(3), bench.random_vectors(4)
    assert np.array_equal(one, same) and not np.allclose(one, other) and not np.allclose(one, bench.vectors)


def test_the_linear_arm_is_as_good_as_scikit_learns_and_as_train_head(texts, frozen):
    from sklearn.linear_model import LogisticRegression

    dataset, encoder = texts
    rows, vectors = read_rows(dataset), read_vectors(embed(dataset, encoder))[1]
    split, labels = np.array(rows["split"].to_pylist()), np.array(rows["label"].to_pylist())
    learned = split != "test"
    theirs = LogisticRegression(C=100, max_iter=5000).fit(vectors[learned], labels[learned])
    theirs = theirs.score(vectors[~learned], labels[~learned])
    ours = frozen.manifest.metrics["linear_accuracy"]
    assert abs(ours.value - theirs) <= 2 * ours.standard_error
    head = train_head(embed(dataset, encoder)).manifest.metrics["accuracy"]
    assert abs(ours.value - head.value) <= 2 * ours.standard_error


def test_neighbours_say_the_shares_of_their_labels(frozen):
    for row in predictions(frozen, "knn")["probabilities"]:
        counts = [np.array(row) * (count + 1) for count in NEIGHBOURS]
        shares = [np.abs(count - np.round(count)) for count in counts]
        assert sum(row) == pytest.approx(1, abs=1e-5)
        # the votes of so many neighbours, and one vote of the prior, about a half for each class
        assert min(np.abs(share - 0.5).max() for share in shares) < 0.1


def test_a_word_that_says_the_label_is_found_by_the_raw_arm(frozen):
    assert arms_of(frozen)["raw"]["value"] > arms_of(frozen)["guess"]["value"] + 0.2


@pytest.mark.parametrize(
    ("rows", "most", "epochs", "size"),
    [
        (1000, 2**62, 10, 1000),  # as fine_tune would: 300 steps of 32 rows in whole epochs
        (1000, 500, 5, 96),  # five looks at the validation rows, in whole batches
        (1000, 40, 1, 32),  # never less than a batch
        (20, 100, 5, 20),
    ],
)
def test_a_run_of_few_rows_looks_five_times_at_the_validation_rows(rows, most, epochs, size):
    training, found = windows(FineTune(training=Training(batch_size=32)), rows, most)
    assert (training.epochs, found) == (epochs, size)
    assert training.epochs * found <= max(most, 32)
