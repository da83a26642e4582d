"""distil: a small network learns to say what a large one says, and stands beside its twin that was not told.

What has nothing to do with texts is shown on tables, whose networks are traced in no time.
"""

import json
import re
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import WORDS, write_pictures

from embedkit import (
    Artifact,
    Classifier,
    Distil,
    Encoder,
    FineTune,
    ImportEncoder,
    LoadImages,
    LoadTable,
    LoadTexts,
    TrainHead,
    Training,
    UserError,
    distil,
    embed,
    fine_tune,
    frameworks,
    import_encoder,
    load_images,
    load_table,
    load_texts,
    make_control,
    train_head,
)
from embedkit.datasets import read_contents, read_rows
from embedkit.distillation import likeness
from embedkit.masking import MaskTexts

FAST = Training(batch_size=16, preflight=False)
LEARN = Training(batch_size=16, epochs=12, learning_rate=0.01, preflight=False)
STATIC = {"student": "static", "steps": 4, "training": FAST}
ALONE = STATIC | {"twin": False}
SHORT = Distil(steps=4, training=FAST)
SPLITS = ("train", "train", "train", "validation", "test")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A root for artifacts that several tests look at."""
    return tmp_path_factory.mktemp("distillation")


@pytest.fixture(scope="module")
def lines():
    """100 texts that are good or bad; every tenth has no label."""
    random, lines = np.random.default_rng(0), []
    for number in range(100):
        good = random.random() < 0.5
        words = [*random.choice(WORDS[9:17], random.integers(1, 8)), "good" if good else "bad", f"film{number}"]
        label = None if number % 10 == 0 else "pos" if good else "neg"
        lines.append({"text": " ".join(words), "split": SPLITS[number % 5], "label": label})
    return lines


def load(path, place, lines, **more):
    """Texts as an artifact."""
    pq.write_table(pa.Table.from_pylist(lines), place / path)
    return load_texts(place / path, LoadTexts(split_column="split", **more), root=place)


@pytest.fixture(scope="module")
def reviews(place, lines):
    return load("reviews.parquet", place, lines, label_column="label")


@pytest.fixture(scope="module")
def bert(place, tiny_bert):
    return import_encoder(tiny_bert, root=place, name="bert")


@pytest.fixture(scope="module")
def tuned(place, reviews, tiny_bert):
    """The first layer of a BERT, fine-tuned to tell good from bad."""
    first = import_encoder(tiny_bert, ImportEncoder(layer="transformer_layer_0"), root=place)
    return fine_tune(reviews, first, FineTune(recipe="full", training=LEARN), name="tuned")


@pytest.fixture(scope="module")
def head(reviews, bert):
    """A head on the frozen vectors of a BERT of two layers."""
    return train_head(embed(reviews, bert), TrainHead(training=Training(epochs=30, preflight=False)), name="head")


@pytest.fixture(scope="module")
def static(tuned, reviews):
    """A static student of the fine-tuned classifier, and its twin."""
    return distil(tuned, reviews, Distil(**STATIC | {"steps": 10}))


def goods_of(place, file="goods.parquet", rows=100, label="kind", change=lambda row: row, **more):
    """A table of two numbers: a label for one, tags for both, and their sum, as seconds since 1970."""
    random, lines = np.random.default_rng(0), []
    for number in range(rows):
        one, other = random.normal(size=2)
        tags = [name for name, value in (("deep", one), ("tall", other)) if value > 0]
        kind = None if number % 10 == 0 else "deep" if one > 0.4 else "flat" if one < -0.4 else "even"
        line = {"one": one, "other": other, "kind": kind, "tags": tags, "price": 1.7e9 + 10 * (one + other)}
        lines.append(change(line | {"split": SPLITS[number % 5]}))
    pq.write_table(pa.Table.from_pylist(lines), place / file)
    left = [name for name in ("kind", "tags", "price") if name != label]
    table = pq.read_table(place / file).drop_columns(left)
    pq.write_table(table, place / f"{label}-{file}")
    return load_table(place / f"{label}-{file}", LoadTable(split_column="split", label_column=label, **more), root=place)


@pytest.fixture(scope="module")
def goods(place):
    return goods_of(place)


@pytest.fixture(scope="module")
def columns(goods):
    return make_control(goods, name="columns")


def deep(dataset, columns, name):
    """A classifier of a table with a hidden layer."""
    settings = TrainHead(hidden=(8,), training=Training(epochs=5, preflight=False))
    return train_head(embed(dataset, columns), settings, name=name)


@pytest.fixture(scope="module")
def clerk(goods, columns):
    return deep(goods, columns, "clerk")


def texts_of(dataset, split):
    rows = read_contents(dataset, 0, dataset.manifest.rows)["text"].to_pylist()
    return [row for row, own in zip(rows, read_rows(dataset)["split"].to_pylist(), strict=True) if own == split]


def files(artifact):
    paths = [path for path in artifact.path.rglob("*") if path.is_file() and path.name != "manifest.json"]
    return {path.relative_to(artifact.path).as_posix(): path.read_bytes() for path in paths}


def history(artifact):
    return [entry["validation_loss"] for entry in json.loads((artifact / "history.json").read_text())]


def fitted(artifact):
    return set(pq.read_table(artifact / "fitted.parquet")["content"].to_pylist())


def content(dataset, *splits):
    rows = read_rows(dataset)
    return {row for row, own in zip(rows["content"].to_pylist(), rows["split"].to_pylist(), strict=True) if own in splits}


def twin_of(artifact):
    return Artifact.open(artifact.manifest.details["twin"], artifact.root)


# Classifiers --------------------------------------------------------------------------------------------------------


def test_a_fine_tuned_classifier_gives_a_classifier_of_raw_rows_with_an_encoder_half(static, tuned, reviews):
    assert static.manifest.kind == "classifier" and static.manifest.name == "tuned-static"
    opened, expected = Classifier.open(static), pq.read_table(static / "predictions.parquet").to_pydict()
    found = opened.predict(texts_of(reviews, "test"))
    assert [one.label for one in found] == expected["predicted"]
    probabilities = np.array([list(one.probabilities.values()) for one in found])
    assert probabilities == pytest.approx(np.array(expected["probabilities"]), abs=1e-4)
    half = Encoder.open(static)
    assert half.model.count_params() < 0.5 * Encoder.open(tuned).model.count_params() and half.facts.dimension == 16
    assert embed(reviews, static).manifest.details["encoder"] == opened.facts.encoder == half.facts.identity


def test_it_learned_and_is_measured_beside_its_teacher_guessing_and_its_twin(static, tuned):
    manifest, measures = static.manifest, static.manifest.metrics
    assert history(static)[-1] < history(static)[0]
    assert measures["teacher_accuracy"].value == tuned.manifest.metrics["accuracy"].value
    assert {"accuracy", "agreement", "twin_accuracy", "guessing_accuracy"} <= measures.keys()
    ours, theirs = measures["accuracy"].value, measures["teacher_accuracy"].value
    words = f"accuracy {ours:.4g} where the teacher has {theirs:.4g}, {100 * ours / theirs:.1f} % of its quality"
    assert manifest.verdict.startswith(words) and "guessing from the training labels" in manifest.verdict
    assert f"its twin, which learned without the teacher, has {measures['twin_accuracy'].value:.4g}" in manifest.verdict
    unknown = r" \(lineage unknown: encoder/[\w-]+ was imported, and what it learned from is not recorded\)$"
    assert re.search(unknown, manifest.verdict)
    details = manifest.details
    assert (details["student"], details["steps"], details["compared_to"]) == ("static", 10, str(tuned))
    assert details["transfer_rows"] == 60 and details["used"] == {"train": 50, "validation": 20, "test": 20}


def test_its_twin_is_an_artifact_of_the_same_shape_and_steps_that_nobody_taught(static, tuned, reviews):
    twin = twin_of(static)
    assert twin.manifest.name == "tuned-static-twin" and twin.inputs == static.inputs == {"teacher": tuned, "dataset": reviews}
    settings = twin.manifest.settings
    assert [settings[name] for name in ("soft", "vectors", "labels", "twin")] == [0, 0, 1, False]
    ours, theirs = static.manifest.details, twin.manifest.details
    assert all(ours[name] == theirs[name] for name in ("steps", "parameters", "learning_rate", "batch_size"))
    assert theirs["twin"] is None and theirs["transfer_rows"] == 50  # of rows without a label it has nothing to learn
    assert ours["identity"] != theirs["identity"]
    assert twin.manifest.metrics["accuracy"] == static.manifest.metrics["twin_accuracy"]


def test_all_layers_and_no_step_are_the_teacher(tuned, reviews):
    found = distil(tuned, reviews, Distil(layers=1, steps=0))
    assert found.manifest.name == "tuned-layers-untrained" and found.manifest.details["twin"] is None
    assert found.manifest.details["steps"] == found.manifest.details["transfer_rows"] == 0
    assert not (found / "history.json").exists() and fitted(found) == content(reviews, "train", "validation")
    assert found.manifest.metrics["agreement"].value == 1
    texts = texts_of(reviews, "test")
    ours, theirs = (Classifier.open(each).probabilities(texts) for each in (found, tuned))
    assert ours == pytest.approx(theirs, abs=1e-4)


@pytest.mark.slow
def test_a_layer_of_a_teacher_whose_head_lies_on_frozen_vectors_learns(head, reviews):
    found = distil(head, reviews, Distil(layers=1, steps=10, twin=False, training=FAST))
    assert found.inputs["teacher"] == head and found.manifest.name == "head-layers"
    assert found.manifest.metrics["teacher_accuracy"].value == head.manifest.metrics["accuracy"].value
    assert history(found)[-1] < 0.9 * history(found)[0]
    assert Classifier.open(found).predict(["good film"])[0].label in ("pos", "neg")
    layers = [layer.name for layer in Encoder.open(found).model.layers if layer.name.startswith("transformer_layer")]
    assert len(layers) == 1 and Encoder.open(found).facts.dimension == 16


@pytest.mark.slow
def test_hidden_states_and_relations_are_learned_from_in_bfloat16_too(head, reviews):
    asked = Distil(
        **{"student": "narrow", "layers": 1, "steps": 10, "twin": False, "hidden": 1.0, "attention": 1.0},
        training=FAST.model_copy(update={"precision": "bfloat16", "learning_rate": 0.003}),
    )
    found = distil(head, reviews, asked, name="inside")
    assert found.manifest.details["precision"] == "bfloat16" and history(found)[-1] < history(found)[0]
    assert not any("to_teacher" in layer.name for layer in Encoder.open(found).model.layers)
    assert Encoder.open(found).facts.dimension == 8
    assert Classifier.open(found).predict(["good film"])[0].label in ("pos", "neg")


@pytest.mark.slow
@pytest.mark.parametrize("student", ["layers", "narrow", "static"])
def test_checks_before_the_run_pass_for_every_student(tuned, bert, reviews, student):
    for teacher in (tuned, bert):
        settings = {} if student == "static" else {"layers": 1}
        found = distil(teacher, reviews, Distil(student=student, steps=20, **settings))
        assert found.manifest.decisions["preflight"]["overfit_one_batch"]["line"].startswith("one batch of")


# Encoders -----------------------------------------------------------------------------------------------------------


def test_an_encoder_gives_an_encoder_whose_similarities_are_like_its_own(bert, reviews):
    found = distil(bert, reviews, Distil(**STATIC))
    manifest = found.manifest
    assert manifest.kind == "encoder" and manifest.name == "bert-static" and manifest.rows == 20
    assert manifest.metrics.keys() == {"similarity", "cosine", "twin_similarity"}
    assert manifest.metrics["cosine"].value > 0.5
    words = f"similarities of test rows rank as the teacher's do at {manifest.metrics['similarity'].value:.4f} (Spearman; 1 is"
    assert manifest.verdict.startswith(words)
    opened, teacher, texts = Encoder.open(found), Encoder.open(bert), texts_of(reviews, "test")
    expected = likeness(opened.encode(texts), teacher.encode(texts), 0)["similarity"]
    assert manifest.metrics["similarity"].value == pytest.approx(expected.value, abs=1e-4)
    assert not opened.encode([""]).any() and np.linalg.norm(opened.encode(["good"])) == pytest.approx(1)
    twin = twin_of(found)
    assert twin.manifest.settings["contrast"] == 1 and twin.manifest.name == "bert-static-twin"
    assert twin.manifest.details["identity"] != manifest.details["identity"]


def test_what_is_alike_ranks_alike_whatever_the_dimension():
    vectors = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
    turned = vectors @ np.linalg.qr(np.random.default_rng(1).normal(size=(8, 8)))[0]
    assert likeness(turned, vectors, 0)["similarity"].value == pytest.approx(1, abs=1e-4)
    assert likeness(np.pad(3 * vectors, ((0, 0), (0, 2))), vectors, 0)["similarity"].value == pytest.approx(1, abs=1e-4)
    other = np.random.default_rng(2).normal(size=(40, 5)).astype(np.float32)
    assert abs(likeness(other, vectors, 0)["similarity"].value) < 0.2


@pytest.mark.slow
def test_the_error_of_similarities_is_that_of_rows_not_of_pairs():
    random = np.random.default_rng(0)
    values = []
    for _ in range(30):
        vectors = random.normal(size=(40, 4)).astype(np.float32)
        values.append(likeness(vectors + 0.8 * random.normal(size=vectors.shape), vectors, 0)["similarity"])
    spread, said = np.std([each.value for each in values]), np.mean([each.standard_error for each in values])
    assert 0.5 < said / spread < 2 and values[0].n == 40


def test_rows_need_no_label_and_no_validation_row(place, lines, bert):
    bare = [{"text": line["text"], "split": "test" if line["split"] == "test" else "train"} for line in lines]
    rows = load("bare.parquet", place, bare, validation_share=0)
    found = distil(bert, rows, Distil(**ALONE))
    assert 60 < found.manifest.details["transfer_rows"] < 80  # a twentieth of the training rows decides when to stop
    assert fitted(found) == content(rows, "train")


# Tasks --------------------------------------------------------------------------------------------------------------


def test_several_labels_are_learned_each_by_itself(place, columns):
    rows = goods_of(place, label="tags")
    found = distil(deep(rows, columns, "tagger"), rows, SHORT, start=columns)
    assert (found.manifest.details["type"], found.manifest.details["classes"]) == ("classes", ["deep", "tall"])
    assert {"micro_f1", "teacher_micro_f1", "twin_micro_f1", "agreement"} <= found.manifest.metrics.keys()
    assert found.manifest.verdict.startswith("micro f1 ")
    [one] = Classifier.open(found).predict([{"one": 1.0, "other": 1.0}])
    assert isinstance(one.label, list) and set(one.probabilities) == {"deep", "tall"}


def test_numbers_are_learned_in_their_own_unit_to_more_digits_than_a_float32_has(place, columns):
    rows = goods_of(place, label="price", label_type="number")
    teacher = deep(rows, columns, "pricer")
    found = distil(teacher, rows, SHORT, start=columns)
    measures = found.manifest.metrics
    assert {"rmse", "teacher_rmse", "twin_rmse"} <= measures.keys() and "agreement" not in measures
    assert measures["teacher_rmse"].value == pytest.approx(teacher.manifest.metrics["rmse"].value)
    share = 100 * measures["teacher_rmse"].value / measures["rmse"].value
    assert f"{share:.1f} % of its quality" in found.manifest.verdict
    expected = pq.read_table(found / "predictions.parquet")["predicted"].to_pylist()
    held = read_contents(rows, 0, 100).take(np.arange(4, 100, 5)).to_pylist()
    assert [one.label for one in Classifier.open(found).predict(held)] == pytest.approx(expected, abs=1e-3)
    assert np.mean(expected) == pytest.approx(1.7e9, abs=20)


def test_classes_are_the_teachers_in_its_order_though_rows_have_fewer(place, clerk, columns):
    rows = goods_of(place, "fewer.parquet", change=lambda row: row | {"kind": None if row["kind"] == "deep" else row["kind"]})
    found = distil(clerk, rows, SHORT.model_copy(update={"labels": 1.0, "twin": False}), start=columns)
    assert found.manifest.details["classes"] == ["deep", "even", "flat"]
    predictions = pq.read_table(found / "predictions.parquet").to_pydict()
    labels = dict(zip(read_rows(rows)["id"].to_pylist(), read_rows(rows)["label"].to_pylist(), strict=True))
    assert predictions["label"] == [labels[row] for row in predictions["id"]] and set(predictions["label"]) == {"even", "flat"}
    assert {len(shares) for shares in predictions["probabilities"]} == {3}


def test_labels_that_the_teacher_does_not_know_are_refused(place, clerk, columns):
    rows = goods_of(place, "odd.parquet", change=lambda row: row | {"kind": "odd" if row["one"] > 1 else row["kind"]})
    with pytest.raises(UserError, match=f"^{rows} has the label 'odd', which {clerk} doesn't know; give rows with its labels$"):
        distil(clerk, rows, SHORT, start=columns)
    for label, words in (("tags", "several labels"), ("price", "a number")):
        rows = goods_of(place, label=label, **{"label_type": "number"} if label == "price" else {})
        words = f"^{clerk} predicts one class a row, but {rows} has {words}; give rows with such labels$"
        with pytest.raises(UserError, match=words):
            distil(clerk, rows, SHORT, start=columns)


# Rows ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def more(place):
    """140 rows, the first 100 those of `goods` with a little more, but for three that `goods` measures on; labels all odd."""
    numbers = iter(range(1000))

    def change(row):
        number = next(numbers)
        same = number in (3, 4, 9)  # one of validation, two of test
        return row | {"one": row["one"] + (0.0 if same else 0.01), "kind": "odd", "split": ("train", "test")[number % 2]}

    return goods_of(place, "more.parquet", rows=140, change=change)


@pytest.fixture(scope="module")
def learned(clerk, goods, columns, more):
    return distil(clerk, goods, SHORT, unlabelled=more, start=columns)


def test_more_rows_are_learned_from_but_those_that_are_measured_on(learned, clerk, goods, columns, more):
    assert learned.inputs == {"teacher": clerk, "dataset": goods, "unlabelled": more, "start": columns}
    assert learned.manifest.details["transfer_rows"] == 60 + 137
    words = "3 rows of table/kind-more equal rows that are measured on, and were left out"
    assert words in learned.manifest.notes
    others = content(more, "train", "validation", "test") - content(goods, "validation", "test")
    assert len(others) == 137 and fitted(learned) == content(goods, "train", "validation") | others
    assert learned.manifest.details["fitted"] == len(pq.read_table(learned / "fitted.parquet"))
    twin = twin_of(learned)
    assert twin.inputs == learned.inputs and twin.manifest.details["transfer_rows"] == 50
    assert twin.manifest.name == "clerk-columns-twin"


def test_a_teacher_or_a_start_that_learned_test_rows_is_refused(place, clerk, columns, goods):
    turned = goods_of(
        place, "turned.parquet", change=lambda row: row | {"split": "test" if row["split"] == "validation" else "train"}
    )
    words = f"20 of the 20 rows to measure on were learned from by {clerk}; measure on rows it never saw"
    with pytest.raises(UserError, match=words):
        distil(clerk, turned, SHORT, start=columns)
    shy = distil(clerk, goods, SHORT.model_copy(update={"twin": False}), start=columns, name="shy")
    fresh = deep(turned, make_control(turned, name="turned-columns"), "fresh")
    with pytest.raises(UserError, match=words.replace(str(clerk), str(shy))):
        distil(fresh, turned, SHORT, start=shy)


def test_changed_copies_are_learned_from(tuned, reviews):
    found = distil(tuned, reviews, Distil(**ALONE, copies=2, masking=MaskTexts(cut=0, masked=0.5)))
    [path] = reviews.root.glob("texts/reviews-masked/*/rows.parquet")
    made = pq.read_table(path)
    assert found.manifest.details["transfer_rows"] == 60 + len(made)
    assert fitted(found) == content(reviews, "train", "validation") | set(made["content"].to_pylist())


def test_a_copy_that_is_a_text_to_measure_on_is_left_out(place, bert):
    lines = [{"text": f"{word} moon", "split": "train"} for word in WORDS if word != "moon"]
    held = {"moon": "test", "dog": "test", "mat": "test", "ran": "test", "cat": "validation"}
    rows = load("pieces.parquet", place, lines + [{"text": word, "split": split} for word, split in held.items()])
    found = distil(bert, rows, Distil(**ALONE, copies=40, masking=MaskTexts(cut=1, masked=0)))
    assert "5 rows of texts/pieces-masked equal rows that are measured on, and were left out" in found.manifest.notes
    assert not fitted(found) & content(rows, "test")


# Other networks -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pictures(place):
    settings = LoadImages(split_column="split", label_column="red")
    return load_images(write_pictures(place / "pictures.parquet"), settings, root=place)


@pytest.fixture(scope="module")
def network(place, normed_network):
    return import_encoder(normed_network, root=place, name="normed")


@pytest.fixture(scope="module")
def seeing(pictures, network):
    return train_head(embed(pictures, network), TrainHead(training=Training(epochs=100, preflight=False)), name="seeing")


@pytest.fixture(scope="module")
def smaller(place):
    """A network of pictures that is smaller, with random weights."""
    frameworks.start_keras(0)
    import keras

    pixels = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, strides=2, activation="relu", name="only")(keras.layers.Rescaling(1 / 255)(pixels))
    keras.Model(pixels, x).save(place / "smaller.keras")
    return import_encoder(place / "smaller.keras", root=place, name="smaller")


def test_a_picture_network_learns_from_a_larger_one(pictures, seeing, smaller):
    found = distil(seeing, pictures, Distil(steps=10, training=FAST, twin=False), start=smaller)
    assert found.manifest.name == "seeing-smaller" and found.inputs["start"] == smaller
    assert found.manifest.details["student"] == "start" and Encoder.open(found).facts.dimension == 4
    assert history(found)[-1] < history(found)[0]
    images = read_contents(pictures, 0, 80)["image"].to_pylist()[:3]
    assert all(one.label in ("red", "dark") for one in Classifier.open(found).predict(images))
    assert not any("to_teacher" in layer.name for layer in Encoder.open(found).model.layers)
    assert fitted(found) == content(pictures, "train", "validation")


def test_an_encoder_of_pictures_has_no_twin_since_nothing_else_could_teach_it(pictures, network, smaller):
    found = distil(network, pictures, SHORT, start=smaller)
    assert found.manifest.kind == "encoder" and found.manifest.details["twin"] is None
    assert found.manifest.metrics.keys() == {"similarity"}  # no projection leads to the student's own space
    assert found.manifest.verdict.startswith("similarities of test rows rank as the teacher's do at ")
    assert "lineage unknown: " in found.manifest.verdict


def test_a_verdict_on_students_leads_with_test_rows_that_are_no_training_rows(network, smaller, place):
    path = write_pictures(place / "copied.parquet", 100)
    table = pq.read_table(path)
    some = table.take(np.arange(0, 60, 5))  # training rows
    copies = some.set_column(table.column_names.index("split"), "split", [["test"] * 12])
    pq.write_table(pa.concat_tables([table, copies]), path)
    kept = load_images(path, LoadImages(split_column="split", label_column="red", duplicates="keep"), root=place)
    manifest = distil(network, kept, SHORT, start=smaller).manifest
    whole, clean = manifest.metrics["similarity"], manifest.metrics["similarity_without_copies"]
    assert (whole.n, clean.n, manifest.details["copies"]) == (32, 20, 12)
    assert manifest.verdict.startswith(f"similarities of test rows rank as the teacher's do at {clean.value:.4f} ")
    words = f", on the 20 test rows that are no copies of training rows; with the 12 copies too: similarity {whole} (lineage unk"
    assert words in manifest.verdict


def test_what_was_distilled_can_be_a_teacher_and_a_start(learned, goods):
    found = distil(learned, goods, SHORT.model_copy(update={"twin": False}), start=learned)
    assert found.manifest.name == "clerk-columns-clerk-columns" and learned in found.ancestors()
    assert Classifier.open(found).predict([{"one": 1.0, "other": 1.0}])[0].label in ("deep", "even", "flat")


def test_a_start_without_weights_has_a_head_to_learn_or_nothing(learned, goods, columns):
    assert history(learned)[-1] < history(learned)[0]
    with pytest.raises(UserError, match=f"^{columns} has no weights that could learn; start from an encoder that has some$"):
        distil(columns, goods, SHORT, start=columns)


# The same again -----------------------------------------------------------------------------------------------------


def test_the_same_call_again_is_the_same_artifact(static, tuned, reviews):
    assert distil(tuned, reviews, Distil(**STATIC | {"steps": 10})) == static


def test_the_same_call_in_another_root_gives_the_same_bytes_and_another_seed_others(place, learned, clerk, goods, columns, more):
    for artifact in (learned, *learned.ancestors()):
        if artifact != learned:
            target = place / "again" / artifact.path.relative_to(artifact.root)
            shutil.copytree(artifact.path, target, dirs_exist_ok=True)
    teacher, dataset, start = (Artifact.open(str(one), place / "again") for one in (clerk, goods, columns))
    again = distil(teacher, dataset, SHORT, unlabelled=str(more), start=start)
    assert again.root != learned.root and files(again) == files(learned)
    assert files(twin_of(again)) == files(twin_of(learned))
    other = distil(clerk, goods, SHORT.model_copy(update={"seed": 1, "twin": False}), unlabelled=more, start=columns)
    assert files(other)["model.keras"] != files(learned)["model.keras"]


# Refusals -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"student": "static", "layers": 2}, "^layers is not for a static student; leave it out$"),
        ({"width": 8}, "^width is not for a layers student; leave it out$"),
        ({"student": "static", "hidden": 1.0}, "^hidden is not for a static student; leave it out$"),
        ({"student": "static", "attention": 1.0}, "^attention is not for a static student; leave it out$"),
        ({"contrast": 1.0}, "^contrast is for encoders, but classifier/tuned@.* is a classifier; take labels instead$"),
        ({"soft": 0, "vectors": 0}, "^no part of the loss has a weight; give soft, labels, vectors, hidden, attention or contrast"),
        ({"training": Training(epochs=3)}, "^steps says how long a student learns; give that and leave training.epochs out$"),
        ({"training": Training(monitor="accuracy")}, "^a student's run is measured by its loss alone, not by accuracy; leave"),
        ({"masking": MaskTexts(copies=3)}, "^copies says how many copies are made; give that and leave masking.copies out$"),
        ({"masking": MaskTexts(seed=3)}, "^seed draws the copies too; give that and leave masking.seed out$"),
        ({"soft": 0, "vectors": 0, "labels": 1, "copies": 2}, "^copies have no label, so without a teacher nothing is learned"),
    ],
)
def test_settings_that_contradict_each_other_or_the_inputs_are_refused(tuned, reviews, settings, words):
    with pytest.raises(UserError, match=words):
        distil(tuned, reviews, Distil(**settings))


def test_an_encoder_has_no_labels_and_no_outputs_to_learn_from(bert, reviews):
    words = f"^labels have no weight here, since {bert} is an encoder, which has no head; give it a classifier$"
    with pytest.raises(UserError, match=words):
        distil(bert, reviews, Distil(labels=1.0))
    with pytest.raises(UserError, match="no part of the loss has a weight"):
        distil(bert, reviews, Distil(vectors=0))


def test_settings_for_texts_and_for_students_of_a_teacher_are_refused_elsewhere(pictures, network, smaller, bert, reviews):
    for settings in ({"copies": 1}, {"contrast": 1.0}):
        words = f"^{next(iter(settings))} is not for one that starts from {smaller}; leave it out$"
        with pytest.raises(UserError, match=words):
            distil(network, pictures, Distil(**settings), start=smaller)
    for settings in ({"layers": 1}, {"width": 8}, {"hidden": 1.0}, {"attention": 1.0}):
        with pytest.raises(UserError, match=f"^{next(iter(settings))} is not for one that starts from {bert}; leave it out$"):
            distil(bert, reviews, Distil(**settings), start=bert)


def test_of_pictures_no_student_is_made_without_a_start(pictures, network, seeing):
    for teacher in (network, seeing):
        words = f"^{teacher} takes images, of which no student is made; give start, an encoder for them that is smaller$"
        with pytest.raises(UserError, match=words):
            distil(teacher, pictures)


def test_rows_of_another_kind_and_a_start_for_others_are_refused(pictures, network, bert, reviews, goods, columns, clerk):
    with pytest.raises(UserError, match=f"^{bert} takes texts, but {pictures} holds images; give it texts$"):
        distil(bert, pictures)
    with pytest.raises(UserError, match=f"^{clerk} takes table, but {reviews} holds texts; give it table$"):
        distil(clerk, goods, unlabelled=reviews, start=columns)
    with pytest.raises(UserError, match=f"^{network} takes images, but {clerk} table; start from an encoder for table$"):
        distil(clerk, goods, Distil(twin=False), start=network)


def test_rows_without_labels_or_without_test_rows_are_refused(place, clerk, columns, bert):
    (place / "none.csv").write_text("one,other\n" + "\n".join(f"{row},{-row}" for row in range(9)) + "\n")
    none = load_table(place / "none.csv", root=place)
    words = f"^{none} has no labels, so nothing could be measured; give rows with labels, and these as unlabelled$"
    with pytest.raises(UserError, match=words):
        distil(clerk, none, SHORT, start=columns)
    (place / "train.csv").write_text("text\n" + "\n".join(WORDS[:9]) + "\n")
    rows = load_texts(place / "train.csv", LoadTexts(test_share=0, validation_share=0), root=place)
    words = "two and 3 are needed at least, so load more, or with another split$"
    with pytest.raises(UserError, match=f"^{rows} has 9 train and 0 test rows; {words}"):
        distil(bert, rows)


def test_what_is_no_bert_has_no_layers_to_take(place, tiny_bert, reviews):
    flat = import_encoder(tiny_bert, ImportEncoder(layer="embeddings_layer_norm"), root=place, name="flat")
    for student in ("layers", "narrow"):
        with pytest.raises(UserError, match=f"^{flat} is no BERT of transformer layers; give an encoder that is one$"):
            distil(flat, reviews, Distil(student=student, twin=False))
