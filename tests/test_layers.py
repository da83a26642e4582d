"""Layers: where an encoder can be cut, which cut is worth most, and that choosing is measured on rows it wasn't made by."""

import json
import logging

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import WORDS

from embedkit import (
    Artifact,
    Compare,
    CutEncoder,
    Encoder,
    FineTune,
    LoadTable,
    Training,
    UserError,
    cut_encoder,
    embed,
    fine_tune,
    frameworks,
    import_encoder,
    load_images,
    load_table,
    load_texts,
    make_control,
)
from embedkit.cli import main
from embedkit.datasets import read_contents, read_rows
from embedkit.layers import OWN, STRENGTHS, Ridge, _vectors, candidates, sweep
from embedkit.preparation import Prepared
from embedkit.tasks import Task
from embedkit.vectors import read_vectors

TEXTS = ["the cat sat on the mat", "good film", "a red moon was very green and the dog ran", "bad"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("layers")


@pytest.fixture(scope="module")
def root(place):
    return place / "artifacts"


@pytest.fixture(autouse=True)
def here(root, monkeypatch):
    monkeypatch.setenv("EMBEDKIT_ARTIFACTS", str(root))


@pytest.fixture(scope="module")
def bert(place, root, tiny_bert):
    return import_encoder(tiny_bert, root=root)


@pytest.fixture(scope="module")
def painter(root, nested_network):
    return import_encoder(nested_network, root=root)


@pytest.fixture(scope="module")
def films(place, root):
    """150 texts whose label is whether `moon` stands in them, which the embeddings know and the layers above have blurred."""
    random = np.random.default_rng(0)
    others = [word for word in WORDS if word != "moon"]
    lines = ["text,label"]
    for number in range(150):
        words = [*random.choice(others, random.integers(8, 20)), *["moon"] * (number % 2)]
        lines.append(f"{' '.join(random.permutation(words))},{'night' if number % 2 else 'day'}")
    (place / "films.csv").write_text("\n".join(lines) + "\n")
    return load_texts(place / "films.csv", root=root)


# Candidates ---------------------------------------------------------------------------------------------------------


def test_a_bert_can_be_cut_after_its_embeddings_and_after_every_layer_with_each_pooling(bert):
    pairs = candidates(Encoder.open(bert), ("auto",))
    names = list(dict.fromkeys(path for path, _ in pairs))
    assert names[-3:] == ["embeddings_layer_norm", "transformer_layer_0", "transformer_layer_1"]
    assert [pooling for path, pooling in pairs if path == "transformer_layer_0"] == ["mean", "cls", "max"]
    assert not any("dropout" in name or "unit_length" in name for name in names)


def test_a_nested_picture_network_can_be_cut_at_its_convolutions(painter):
    pairs = candidates(Encoder.open(painter), ("auto",))
    paths = ["network/outer_first", "network/inner/inner_first", "network/inner/inner_second", "network/outer_last"]
    assert pairs == [(path, pooling) for path in paths for pooling in ("avg", "max")]


def test_layers_can_be_named(painter):
    assert candidates(Encoder.open(painter), ("inner_second", "outer_first")) == [
        *(("network/inner/inner_second", pooling) for pooling in ("avg", "max")),
        *(("network/outer_first", pooling) for pooling in ("avg", "max")),
    ]
    with pytest.raises(UserError, match="layer 'inner_frist' is not known; did you mean 'inner_first'"):
        candidates(Encoder.open(painter), ("inner_frist",))


def test_an_encoder_without_layers_has_none_to_look_at(place, root):
    lines = [f"{number},{number % 2}" for number in range(30)]
    (place / "goods.csv").write_text("size,label\n" + "\n".join(lines) + "\n")
    columns = make_control(load_table(place / "goods.csv", LoadTable(label_type="class"), root=root), root=root)
    with pytest.raises(UserError, match=r"encoder/goods-control@\S+ has no layer at which it could be cut; leave layers out"):
        candidates(Encoder.open(columns), ("auto",))


# Vectors of all candidates at once ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_one_pass_gives_the_vectors_that_encoders_cut_one_by_one_give(bert, films, tmp_path):
    loaded = Encoder.open(bert)
    texts = read_contents(films, 0, 150)["text"].to_pylist()
    places = np.arange(0, 150, 3)
    pairs = candidates(loaded, ("embeddings_layer_norm", "transformer_layer_0", "transformer_layer_1"))
    prepared = Prepared(films, loaded.feed, places, tmp_path)
    found = _vectors(prepared, loaded, pairs, places, 150, tmp_path)
    assert len(found) == len(pairs) == 9
    for number, (layer, pooling) in enumerate(pairs):
        cut = Encoder.open(cut_encoder(bert, CutEncoder(layer=layer, pooling=pooling)))
        assert found[number] == pytest.approx(cut.encode([texts[row] for row in places]), abs=1e-5), (layer, pooling)
    last = pairs.index(("transformer_layer_1", "mean"))
    assert found[last] == pytest.approx(loaded.encode([texts[row] for row in places]), abs=1e-5)


def test_one_pass_through_nested_networks_does_so_too(painter, photos, root, tmp_path):
    loaded, pictures = Encoder.open(painter), load_images(photos, root=root)
    places = np.arange(20)
    pairs = candidates(loaded, ("auto",))
    found = _vectors(Prepared(pictures, loaded.feed, places, tmp_path), loaded, pairs, places, 60, tmp_path)
    data = read_contents(pictures, 0, 20)["image"].to_pylist()
    for number in (0, 3, 7):
        cut = Encoder.open(cut_encoder(painter, CutEncoder(layer=pairs[number][0], pooling=pairs[number][1])))
        expected = cut.encode(data)
        assert found[number] == pytest.approx(expected, rel=1e-4, abs=1e-3)  # pixels reach 255


# The probe ----------------------------------------------------------------------------------------------------------


def ridge_of(inputs, labels, count=None):
    kind = "number" if labels.dtype == float else "class"
    if kind == "number":
        task = Task("number", [], ((labels - labels.mean()) / labels.std())[:, None], labels.mean(), labels.std(), labels)
    else:
        task = Task("class", [str(n) for n in range(labels.max() + 1)], labels.astype(np.int32))
    return Ridge(inputs, task, np.arange(len(labels)))


@pytest.mark.parametrize(("rows", "width"), [(40, 6), (20, 30)], ids=["tall", "wide"])
@pytest.mark.parametrize("kind", ["class", "number"])
def test_the_leave_one_out_score_equals_leaving_out_one_after_the_other(rows, width, kind):
    from sklearn.linear_model import Ridge as Theirs

    random = np.random.default_rng(0)
    inputs = random.normal(size=(rows, width)) + 3
    labels = inputs @ random.normal(size=width) + 0.5 * random.normal(size=rows)
    labels = labels if kind == "number" else (labels > np.median(labels)).astype(int)
    fitted = ridge_of(inputs, labels).fit(np.arange(rows))
    targets = labels if kind == "number" else np.eye(2)[labels]
    total = np.square(inputs - inputs.mean(axis=0)).sum()
    by_strength = []
    for strength in STRENGTHS:
        said = []
        for row in range(rows):
            others = np.arange(rows) != row
            said.append(Theirs(alpha=strength * total).fit(inputs[others], targets[others]).predict(inputs[[row]])[0])
        right = np.mean(np.argmax(said, axis=1) == labels) if kind == "class" else -np.sqrt(np.mean((np.array(said) - labels) ** 2))
        by_strength.append(right)
    assert fitted.score == pytest.approx(max(by_strength))
    assert len(set(np.round(by_strength, 6))) > 1


def test_a_probe_predicts_other_rows_as_scikit_learns_ridge_does():
    from sklearn.linear_model import Ridge as Theirs

    random = np.random.default_rng(1)
    inputs = random.normal(size=(60, 5))
    labels = inputs @ random.normal(size=5) + random.normal(size=60)
    probe, train = ridge_of(inputs, labels), np.arange(40)
    fitted = probe.fit(train)
    said = ((inputs[40:] - fitted.center) @ fitted.weights + fitted.bias)[:, 0] * labels.std() + labels.mean()
    total = np.square(inputs[:40] - inputs[:40].mean(axis=0)).sum()
    theirs = [Theirs(alpha=strength * total).fit(inputs[:40], labels[:40]).predict(inputs[40:]) for strength in STRENGTHS]
    assert min(np.abs(said - one).max() for one in theirs) < 1e-8
    assert probe.parts(fitted, np.arange(40, 60))[:, 0] == pytest.approx(np.square(said - labels[40:]))


# The sweep ----------------------------------------------------------------------------------------------------------


def swept(loaded, dataset, targets, rows, folder):
    """A sweep over all layers for these labels, with the rows to probe with."""
    count = dataset.manifest.rows
    task = Task("class", ["day", "night"], targets.astype(np.int32))
    prepared = Prepared(dataset, loaded.feed, np.arange(count), folder)
    own = prepared.encode(loaded.forward, np.arange(count), count)
    return sweep(prepared, loaded, task, rows, own, ("auto",), 0, folder, "encoder/tiny-bert")


@pytest.fixture(scope="module")
def knows(bert, films, tmp_path_factory):
    targets = np.array([label == "night" for label in read_rows(films)["label"].to_pylist()])
    return swept(Encoder.open(bert), films, targets, np.arange(120), tmp_path_factory.mktemp("sweep"))


def test_a_sweep_picks_the_early_layer_that_holds_the_answer(knows):
    assert knows["winner"]["layer"] in ("token_embedding", "embeddings_layer_norm")
    assert knows["nested"]["gain"] > 2 * knows["nested"]["gain_error"] > 0
    assert knows["nested"]["value"] > knows["nested"]["own"]
    assert knows["nested"]["gain"] == pytest.approx(knows["nested"]["value"] - knows["nested"]["own"])
    layer, pooling = knows["winner"].values()
    assert knows["command"] == f"embedkit cut-encoder encoder/tiny-bert --layer {layer} --pooling {pooling}"


def test_the_table_has_the_encoder_as_it_is_and_every_candidate(knows):
    first, *rest = knows["table"]
    assert (first["layer"], first["pooling"], first["own"]) == (OWN, "mean", True)
    assert not any(row["own"] for row in rest)
    assert {row["pooling"] for row in rest} == {"mean", "cls", "max"}
    best = max(rest, key=lambda row: row["value"])
    assert (best["layer"], best["pooling"]) == tuple(knows["winner"].values())
    last = next(row for row in rest if (row["layer"], row["pooling"]) == ("transformer_layer_1", "mean"))
    assert last["value"] == pytest.approx(first["value"], abs=0.02)  # the same vectors


def test_an_earlier_cut_is_faster(knows):
    speed = knows["speedup"]
    assert speed["lowest"] <= speed["median"] <= speed["highest"] and speed["rounds"] == 5
    assert speed["highest"] > 1


def test_choosing_among_layers_gains_nothing_where_labels_are_drawn_at_random(bert, films, tmp_path):
    loaded = Encoder.open(bert)
    for seed in range(3):
        targets = np.random.default_rng(seed).integers(0, 2, 150)
        folder = tmp_path / str(seed)
        folder.mkdir()
        found = swept(loaded, films, targets, np.arange(150), folder)
        best = max(row["value"] for row in found["table"])
        assert found["nested"]["gain"] <= 2 * found["nested"]["gain_error"]
        assert abs(found["nested"]["value"] - 0.5) < 3 * found["nested"]["error"]
        assert best > found["nested"]["value"]  # the best of many seems better than choosing it is


def test_the_choice_never_sees_the_rows_that_are_left_out(bert, films, tmp_path):
    loaded, found = Encoder.open(bert), []
    for flipped in (False, True):
        targets = np.arange(150) % 2
        targets[120:] ^= flipped  # of rows that aren't to be probed with
        (tmp_path / str(flipped)).mkdir()
        found.append(swept(loaded, films, targets, np.arange(120), tmp_path / str(flipped)))
        found[-1].pop("speedup")
    assert found[0] == found[1]


# cut_encoder --------------------------------------------------------------------------------------------------------


def test_a_cut_encoder_is_smaller_has_another_identity_and_gives_that_layers_vectors(bert):
    cut = cut_encoder(bert, CutEncoder(layer="transformer_layer_0", pooling="max", normalise=False))
    assert cut.manifest.name == "tiny-bert-transformer_layer_0-max"
    details, whole = cut.manifest.details, bert.manifest.details
    expected = {"layer": "transformer_layer_0", "pooling": "max", "normalised": False, "dimension": 16}
    assert {name: details[name] for name in expected} == expected
    assert details["identity"] != whole["identity"] and details["parameters"] < whole["parameters"]
    assert (details["maximal_length"], details["modality"]) == (whole["maximal_length"], "texts")
    assert not (cut / "fitted.parquet").exists()

    frameworks.load_frameworks()
    import keras

    loaded = Encoder.open(bert)
    by_hand = keras.Model(loaded.model.input, loaded.model.get_layer("transformer_layer_0").output)
    for text, vector in zip(TEXTS, Encoder.open(cut).encode(TEXTS), strict=True):
        (_, given), *_ = loaded.feed.batches([text])
        tokens = np.asarray(by_hand(given))[0][np.asarray(given["padding_mask"])[0] == 1]
        assert vector == pytest.approx(tokens.max(axis=0), abs=1e-5)


def test_by_default_texts_are_averaged_and_lengths_stay_as_the_encoders(bert):
    cut = cut_encoder(bert, CutEncoder(layer="transformer_layer_0"))
    assert cut.manifest.name == "tiny-bert-transformer_layer_0"
    assert (cut.manifest.details["pooling"], cut.manifest.details["normalised"]) == ("mean", True)
    assert np.linalg.norm(Encoder.open(cut).encode(TEXTS), axis=1) == pytest.approx(np.ones(4), abs=1e-5)


def test_a_cut_of_the_last_layer_gives_the_encoders_own_vectors(bert):
    cut = cut_encoder(bert, CutEncoder(layer="transformer_layer_1"))
    assert Encoder.open(cut).encode(TEXTS) == pytest.approx(Encoder.open(bert).encode(TEXTS), abs=1e-5)


def test_a_picture_network_is_cut_in_its_nested_part_and_cut_again(painter, photos):
    cut = cut_encoder(painter, CutEncoder(layer="inner_second"))
    details = cut.manifest.details
    assert (cut.manifest.name, details["pooling"], details["dimension"]) == ("nested-inner_second", "avg", 6)
    again = cut_encoder(cut, CutEncoder(layer="inner_first"))
    once = cut_encoder(painter, CutEncoder(layer="inner_first"), name="once")
    paths = sorted(photos.rglob("*.png"))[:5]
    assert Encoder.open(again).encode(paths) == pytest.approx(Encoder.open(once).encode(paths), rel=1e-4, abs=1e-3)


@pytest.fixture(scope="module")
def tuned(films, bert):
    return fine_tune(films, bert, FineTune(training=Training(epochs=1, preflight=False)))


@pytest.mark.slow
def test_a_cut_of_a_fine_tuned_classifier_keeps_the_rows_it_learned_from(tuned, films):
    cut = cut_encoder(tuned, CutEncoder(layer="transformer_layer_0"))
    assert cut.manifest.kind == "encoder"
    assert pq.read_table(cut / "fitted.parquet") == pq.read_table(tuned / "fitted.parquet")
    learned = sum(split != "test" for split in read_rows(films)["split"].to_pylist())
    assert pq.read_table(cut / "fitted.parquet").num_rows == learned
    vectors = read_vectors(embed(films, cut))[1]
    assert vectors == pytest.approx(Encoder.open(cut).encode(read_contents(films, 0, 150)["text"].to_pylist()), abs=1e-5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, r"where to cut is not said; give a layer \(`embedkit layers encoder/tiny-bert@\S+` lists them\)"),
        ({"layer": "transformer_layer_9"}, "layer 'transformer_layer_9' is not known; did you mean 'transformer_layer_"),
        (
            {"layer": "transformer_layer_0", "pooling": "avg"},
            r"pooling 'avg' doesn't fit a layer of shape \(None, None, 16\) in a network of texts; give mean or max or cls",
        ),
    ],
    ids=["no layer", "missing", "pooling"],
)
def test_what_can_not_be_cut_is_refused(bert, settings, words):
    with pytest.raises(UserError, match=words):
        cut_encoder(bert, CutEncoder(**settings))


# The command line ---------------------------------------------------------------------------------------------------


def test_the_commands_say_only_what_they_published_and_the_one_leads_to_the_other(bert, films, root, capsys, monkeypatch):
    monkeypatch.setattr(logging.getLogger("embedkit"), "handlers", [])
    words = ["compare", str(films), str(bert), "--arms", "knn", "--layers", "auto", "--budgets", "5", "--seeds", "1"]
    code, (out, err) = main([*words, "--root", str(root)]), capsys.readouterr()
    assert code == 0, err
    report = Artifact.open(out.strip())
    assert out == f"{report}\n" and report.manifest.kind == "report"
    found = json.loads((report / "results.json").read_text())
    tests = {row["id"] for row in read_rows(films).to_pylist() if row["split"] == "test"}
    assert found["layers"]["nested"]["rows"] == 150 - len(tests)
    assert report.manifest.details["layers"]["winner"] == found["layers"]["winner"]
    assert "Which layer to cut at" in (report / "report.html").read_text()

    program, *words = found["layers"]["command"].split()
    assert program == "embedkit"
    code, (out, err) = main([*words, "--root", str(root)]), capsys.readouterr()
    assert code == 0, err
    cut = Artifact.open(out.strip())
    assert out == f"{cut}\n" and cut.manifest.details["pooling"] == found["layers"]["winner"]["pooling"]
    code, (out, err) = main(["cut-encoder", str(bert), "--layer", "nowhere", "--root", str(root)]), capsys.readouterr()
    assert (code, out) == (1, "") and "layer 'nowhere' is not known" in err


def test_layers_are_not_looked_at_unless_asked(films, bert):
    from embedkit import compare

    report = compare(films, bert, Compare(arms=("guess",), budgets=(), seeds=1))
    assert json.loads((report / "results.json").read_text())["layers"] is None
    assert "Which layer to cut at" not in (report / "report.html").read_text()
