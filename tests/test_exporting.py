"""Exports: what others open, opened as they do it, gives the vectors and the probabilities that embedkit gives."""

import dataclasses
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import venv

import numpy as np
import pytest
from conftest import SHARED, WORDS, write_pictures

from embedkit import (
    Classifier,
    CutEncoder,
    Encoder,
    Export,
    FineTune,
    ImportEncoder,
    LearnCategories,
    LoadImages,
    LoadTable,
    LoadTexts,
    Settings,
    TrainHead,
    Training,
    UserError,
    berts,
    canaries,
    cut_encoder,
    described,
    embed,
    export,
    exporting,
    fine_tune,
    import_encoder,
    layouts,
    learn_categories,
    load_images,
    load_table,
    load_texts,
    make_control,
    preprocessing,
    train_head,
)
from embedkit.artifacts import EncoderArtifact
from embedkit.cli import main
from embedkit.datasets import read_contents
from embedkit.encoders import save_encoder
from embedkit.entities import Network, TableTraining
from embedkit.features import text_array
from embedkit.graphs import GRAPHS
from embedkit.stages import Draft, Facts, stage

TEXTS = ["the cat sat on the mat", "good film", "a red moon was very green and the dog ran", "bad"]
SHORT = Training(epochs=2, batch_size=48, learning_rate=0.01, preflight=False)
HEAD = TrainHead(training=Training(epochs=5, preflight=False))
OTHERS = "take onnx, openvino, saved-model or litert"


def needs(format):
    """A format as a parameter; skipped where a library of it is missing."""
    missing = [name for name in GRAPHS[format].libraries if importlib.util.find_spec(name) is None]
    marks = [pytest.mark.skip(reason=f"needs {missing[0]}: pip install 'embedkit[{format}]'")] if missing else []
    return pytest.param(format, marks=marks)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("exporting") / "artifacts"


@pytest.fixture(autouse=True)
def here(root, monkeypatch):
    monkeypatch.setenv("EMBEDKIT_ARTIFACTS", str(root))


@pytest.fixture(scope="module")
def bert(root, tiny_bert):
    return import_encoder(tiny_bert, root=root)


@pytest.fixture(scope="module")
def short(bert):
    """The BERT cut after its first layer."""
    return cut_encoder(bert, CutEncoder(layer="transformer_layer_0", pooling="cls"))


@pytest.fixture(scope="module")
def painter(root, nested_network):
    return import_encoder(nested_network, root=root)


@pytest.fixture(scope="module")
def films(root):
    random, lines = np.random.default_rng(0), ["text,label,stars"]
    for number in range(60):
        word, label = ("bad", "no") if number % 2 else ("good", "yes")
        lines.append(f"{' '.join(random.choice(WORDS, 5))} {word},{label},{number % 5}")
    (root.parent / "films.csv").write_text("\n".join(lines) + "\n")
    return load_texts(root.parent / "films.csv", LoadTexts(text_column="text"), root=root)


@pytest.fixture(scope="module")
def classifier(films, short):
    return train_head(embed(films, short), HEAD)


@pytest.fixture(scope="module")
def table(bert):
    """A static encoder, of which graphs are small."""
    return make(bert)


@pytest.fixture
def unpublished(root):
    """The folder of all exports, of which there is none yet."""
    shutil.rmtree(root / "export", ignore_errors=True)
    return root / "export"


class Made(Settings):
    """What is made of a BERT."""

    how: str = "static"
    """Name of a function below."""


def static(loaded, tokenizer):
    """A table of token vectors, averaged to length 1, and a tokenizer without special tokens."""
    import keras

    layer = keras.layers.Embedding(len(json.loads(tokenizer)["model"]["vocab"]), 8, name="token_vectors")
    inputs = {name: keras.Input((None,), dtype="int32", name=name) for name in ("token_ids", "padding_mask", "segment_ids")}
    tokens = layer(inputs["token_ids"])
    layer.set_weights([np.random.default_rng(0).normal(size=layer.embeddings.shape)])
    bare = json.dumps(json.loads(tokenizer) | {"post_processor": None})
    return pooled(loaded, inputs, tokens, dimension=8, normalised=True), bare


def pooled(loaded, inputs, tokens, **facts):
    """An encoder's model of these tokens, their average; and what is to be said of it."""
    import keras

    from embedkit.encoders import pool
    from embedkit.networks import Network

    vectors = pool(tokens, Network("texts", keras.Model(inputs, tokens), tokens, "", "mean"), "mean")
    if facts.get("normalised"):
        vectors = keras.layers.UnitNormalization()(vectors)
    return keras.Model(inputs, vectors), loaded.facts.model_copy(update=facts)


def three_heads(loaded, tokenizer):
    """A BERT whose 3 heads of 5 numbers don't fill tokens of 16."""
    shape = dataclasses.replace(berts.anatomy(loaded.model, "it").shape, heads=3)
    return pooled(loaded, *berts.build(shape), normalised=False), tokenizer


def lowered(loaded, tokenizer):
    """A static encoder whose texts are lower-cased before its tokenizer sees them."""
    (model, facts), tokenizer = static(loaded, tokenizer)
    normalizer = json.loads(tokenizer)["normalizer"] | {"lowercase": False, "strip_accents": False}
    return (model, facts.model_copy(update={"lower": True})), json.dumps(json.loads(tokenizer) | {"normalizer": normalizer})


def unigram(loaded, tokenizer):
    """The BERT with a tokenizer of another kind."""
    words = {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.0]], "byte_fallback": False}
    found = json.loads(tokenizer) | {"model": words, "added_tokens": [], "post_processor": None}
    return (loaded.model, loaded.facts), json.dumps(found)


def strange(loaded, tokenizer):
    """A static encoder behind whose vectors something is done that no small runtime knows."""
    import keras

    (model, facts), tokenizer = static(loaded, tokenizer)
    return (keras.Model(model.input, keras.ops.erfinv(model.output)), facts), tokenizer


@stage("encoder", revision=1, name=lambda names, settings: settings.how, keras=True)
def make(out: Draft, encoder: EncoderArtifact, settings: Made = Made()) -> Facts:
    """Make an encoder of a BERT's parts."""
    (model, facts), tokenizer = globals()[settings.how](Encoder.open(encoder), (encoder / "tokenizer.json").read_text())
    return Facts(details=save_encoder(out, model, facts, tokenizer))


# sentence-transformers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("pooling", "prompt"), [("mean", ""), ("max", "the film: ")])
def test_a_bert_becomes_a_folder_that_is_read_back_as_the_same_encoder(tiny_bert, pooling, prompt):
    encoder = import_encoder(tiny_bert, ImportEncoder(pooling=pooling, prompt=prompt, normalise=pooling != "max"))
    made = export(encoder)
    assert str(made).startswith("export/tiny-bert-sentence-transformers@")
    again = Encoder.open(import_encoder(made.path))
    ours = Encoder.open(encoder)
    kept = {"pooling", "normalised", "maximal_length", "prompt", "dimension", "lower"}
    assert again.facts.model_dump(include=kept) == ours.facts.model_dump(include=kept)
    assert again.encode(TEXTS) == pytest.approx(ours.encode(TEXTS), abs=1e-6)
    metric = made.manifest.metrics["lowest_agreement"]
    assert metric.n == 32 and metric.value == pytest.approx(1, abs=1e-9)
    assert made.manifest.verdict == (
        "opened anew by embedkit's own reader, it gives the vectors it gave here: lowest agreement 1.000000 (n=32)"
    )


def test_its_weights_and_its_configuration_are_those_of_the_folder_it_was_imported_from(bert, tiny_bert):
    from safetensors.numpy import load_file

    made = export(bert)
    ours, theirs = load_file(made / "model.safetensors"), load_file(tiny_bert / "model.safetensors")
    assert ours.keys() == {name for name in theirs if not name.startswith("pooler.")}
    assert all(np.array_equal(array, theirs[name]) for name, array in ours.items())
    config, given = (json.loads((folder / "config.json").read_text()) for folder in (made, tiny_bert))
    assert config | given == config
    assert json.loads((made / "sentence_bert_config.json").read_text())["max_seq_length"] == 32
    assert (made / "vocab.txt").read_text() == (tiny_bert / "vocab.txt").read_text()
    modules = [(module["path"], module["type"].split(".")[-1]) for module in json.loads((made / "modules.json").read_text())]
    assert modules == [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]


def test_transformers_finds_the_tokenizer_in_it(bert):
    from transformers import AutoTokenizer

    tokenizer, ours = AutoTokenizer.from_pretrained(str(export(bert).path)), Encoder.open(bert)
    assert tokenizer.is_fast and tokenizer.pad_token == "[PAD]" and tokenizer.model_max_length == 64
    found = tokenizer(list(canaries.TEXTS), truncation=True, max_length=32)["input_ids"]
    assert found == ours.feed.tokens(canaries.TEXTS)


def test_a_bert_that_was_cut_has_as_many_layers_as_are_left(short):
    made = export(short)
    assert json.loads((made / "config.json").read_text())["num_hidden_layers"] == 1
    pooling = json.loads((made / "1_Pooling/config.json").read_text())
    assert [name for name, value in pooling.items() if value is True] == ["pooling_mode_cls_token"]


def test_a_table_of_token_vectors_becomes_a_static_embedding(table):
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer

    made, ours = export(table), Encoder.open(table)
    modules = [(module["path"], module["type"].split(".")[-1]) for module in json.loads((made / "modules.json").read_text())]
    assert modules == [("0_StaticEmbedding", "StaticEmbedding"), ("1_Normalize", "Normalize")]
    vectors = load_file(made / "0_StaticEmbedding/model.safetensors")["embedding.weight"]
    tokenizer = Tokenizer.from_file(str(made / "0_StaticEmbedding/tokenizer.json"))
    assert len(tokenizer.encode("the " * 50).ids) == 32 and tokenizer.encode("the cat").tokens == ["the", "cat"]
    for text, vector in zip(TEXTS, ours.encode(TEXTS), strict=True):
        mean = vectors[tokenizer.encode(text).ids].mean(axis=0)
        assert vector == pytest.approx(mean / np.linalg.norm(mean), abs=1e-6)


def test_a_static_embedding_lowers_texts_itself_where_the_encoder_did(bert):
    made = export(make(bert, Made(how="lowered")))
    assert made.manifest.metrics["lowest_agreement"].value == pytest.approx(1, abs=1e-9)
    tokenizer = json.loads((made / "0_StaticEmbedding/tokenizer.json").read_text())
    assert [step["type"] for step in tokenizer["normalizer"]["normalizers"]] == ["Lowercase", "BertNormalizer"]


# keras-hub ----------------------------------------------------------------------------------------------------------


def test_a_preset_opens_in_keras_hub_and_is_read_back_as_the_same_encoder(bert):
    import keras_hub

    made, ours = export(bert, Export(format="keras-hub")), Encoder.open(bert)
    backbone = keras_hub.models.Backbone.from_preset(str(made.path))
    tokenizer = keras_hub.models.BertTokenizer.from_preset(str(made.path))
    assert np.asarray(tokenizer("the cat sat")).tolist() == ours.feed.tokens(["the cat sat"])[0][1:-1]
    ids = ours.feed.padded(ours.feed.tokens(TEXTS))
    tokens = np.asarray(backbone(ids)["sequence_output"]) * ids["padding_mask"][..., None]
    mean = tokens.sum(axis=1) / ids["padding_mask"].sum(axis=1, keepdims=True)
    assert mean / np.linalg.norm(mean, axis=1, keepdims=True) == pytest.approx(ours.encode(TEXTS), abs=2e-3)  # GELU's two forms
    again = Encoder.open(import_encoder(made.path, ImportEncoder(normalise=True)))
    assert again.encode(TEXTS) == pytest.approx(ours.encode(TEXTS), abs=2e-3)
    assert made.manifest.notes == [
        "pooled_output of this preset means nothing, vectors are pooled from sequence_output (preprocessing.json)",
        "keras-hub's BERT computes the tanh form of GELU, the encoder gelu",
        "keras-hub's own tokenizer splits 1 of 32 canary texts otherwise than the encoder's, fast_tokenizer.json",
    ]
    steps = json.loads((made / "preprocessing.json").read_text())["steps"]
    assert steps == [
        "split it by fast_tokenizer.json, with its special tokens, cut to 32 tokens",
        "pad the ids of shorter texts behind with 0",
        "average sequence_output over the tokens of a text, padding left out",
        "give the vector length 1",
    ]


# Graphs -------------------------------------------------------------------------------------------------------------


def in_onnxruntime(folder):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(None, inputs), strict=True))


def in_openvino(folder):
    import openvino

    compiled = openvino.Core().compile_model(str(folder / "model.xml"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda inputs: {output.get_any_name(): value for output, value in compiled(inputs).items()}


def in_tensorflow(folder):
    import tensorflow as tf

    serve = tf.saved_model.load(str(folder)).signatures["serving_default"]
    return lambda inputs: {name: value.numpy() for name, value in serve(**{n: tf.constant(v) for n, v in inputs.items()}).items()}


def in_litert(folder):
    from ai_edge_litert.interpreter import Interpreter

    run = Interpreter(str(folder / "model.tflite")).get_signature_runner()
    return lambda inputs: run(**inputs)


RUNTIMES = {"onnx": in_onnxruntime, "openvino": in_openvino, "saved-model": in_tensorflow, "litert": in_litert}
FORMATS = [needs(format) for format in RUNTIMES]


def as_described(folder, texts):
    """Texts as the inputs that an export's own files say; nothing of embedkit in it."""
    from tokenizers import Tokenizer

    said = json.loads((folder / "preprocessing.json").read_text())
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = [tokenizer.encode(said["prompt"] + text).ids for text in texts]
    longest = max(map(len, ids))
    inputs = {
        "token_ids": np.array([[*one, *[said["padding"]] * (longest - len(one))] for one in ids]),
        "padding_mask": np.array([[1] * len(one) + [0] * (longest - len(one)) for one in ids]),
        "segment_ids": np.zeros((len(ids), longest)),
    }
    return {name: values.astype(said["inputs"][name]["type"]) for name, values in inputs.items()}


@pytest.mark.parametrize("format", FORMATS)
def test_a_graph_of_a_bert_gives_its_vectors_in_its_own_runtime(short, format, capfd):
    made = export(short, Export(format=format))
    assert capfd.readouterr() == ("", "")
    metric = made.manifest.metrics["lowest_agreement"]
    assert metric.n == 32 and metric.value == pytest.approx(1, abs=1e-6)
    run, ours = RUNTIMES[format](made.path), Encoder.open(short).encode(TEXTS)
    assert run(as_described(made, TEXTS)) == {"vectors": pytest.approx(ours, abs=1e-5)}
    assert run(as_described(made, TEXTS[:1]))["vectors"] == pytest.approx(ours[:1], abs=1e-5)  # other rows, another length
    assert json.loads((made / "preprocessing.json").read_text())["outputs"]["vectors"]["shape"] == ["rows", 16]


@pytest.mark.parametrize("format", FORMATS)
def test_a_graph_of_a_picture_network_takes_pixels_and_has_the_same_bytes_whenever_it_is_written(painter, format):
    made = export(painter, Export(format=format))
    said = json.loads((made / "preprocessing.json").read_text())
    assert said["inputs"] == {
        "pixels": {"type": "float32", "shape": ["rows", 16, 16, 3], "holds": "red, green and blue from 0 to 255"}
    }
    pictures = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3)).astype(np.uint8)
    ours = Encoder.open(painter).encode(list(pictures))
    assert RUNTIMES[format](made.path)({"pixels": pictures.astype("float32")})["vectors"] == pytest.approx(ours, rel=1e-4, abs=1e-3)
    shutil.rmtree(made.path)
    again = export(painter, Export(format=format))
    assert {file.path: file.sha256 for file in again.manifest.files} == {file.path: file.sha256 for file in made.manifest.files}


@pytest.mark.parametrize("format", ["sentence-transformers", "keras-hub"])
def test_a_folder_of_a_bert_has_the_same_bytes_whenever_it_is_written(bert, format):
    made = export(bert, Export(format=format))
    shutil.rmtree(made.path)
    again = export(bert, Export(format=format))
    assert {file.path: file.sha256 for file in again.manifest.files} == {file.path: file.sha256 for file in made.manifest.files}


@pytest.mark.parametrize("format", [needs("openvino")])
def test_openvino_is_used_without_what_reports_its_use(painter, format):
    export(painter, Export(format=format))
    assert "openvino" in sys.modules and not [name for name in sys.modules if name.startswith("openvino_telemetry")]


def test_a_table_says_how_its_rows_become_numbers(root):
    lines = [f"{number},{number % 3},{number % 2}" for number in range(30)]
    (root.parent / "goods.csv").write_text("size,kind,label\n" + "\n".join(lines) + "\n")
    encoder = make_control(load_table(root.parent / "goods.csv", LoadTable(label_type="class"), root=root), root=root)
    made = export(encoder, Export(format="saved-model"))
    said, columns = (json.loads((made / name).read_text()) for name in ("preprocessing.json", "columns.json"))
    assert said["inputs"]["numbers"]["shape"] == ["rows", len(columns["outputs"])]
    put = "put each column's numbers into its `input`, at its `at`, as the input's type"
    assert [step.partition(":")[0] for step in said["steps"]] == ["numbers", put]
    center, half = (np.array([column[name] for column in said["columns"]]) for name in ("center", "half"))
    assert [(column["name"], column["low"], column["high"]) for column in said["columns"]] == [("size", 0, 26), ("kind", 0, 2)]
    given = ((np.array([[12, 1]]) - center) / half).astype("float32")  # as the first step says
    assert in_tensorflow(made.path)({"numbers": given})["vectors"] == pytest.approx(
        Encoder.open(encoder).encode([{"size": 12, "kind": 1}]), abs=1e-6
    )


GOODS = [
    {"shop": f"shop {n % 5}", "size": None if n % 8 == 7 else 10 * n % 70, "day": f"2024-{n % 12 + 1:02d}-{n % 28 + 1:02d}"}
    for n in range(120)
]
"""Rows whose shop decides the label; columns of each kind that an encoder knows."""
LEARNED = LearnCategories(
    folds=2,
    roles=("shop=embedding", "size=number", "kind=one-hot"),
    network=Network(hidden=(8,)),
    training=TableTraining(batch_size=32, learning_rate=0.05, epochs=3, patience=None, preflight=False),
)


@pytest.fixture(scope="module")
def shops(root):
    """Vectors of a table by what was learned of its shops, for a label of words and one of numbers."""

    def made(name, label):
        rows = [row | {"kind": ("a", "b")[n % 2], "label": label(n % 5)} for n, row in enumerate(GOODS)]
        (root.parent / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        table = load_table(root.parent / f"{name}.jsonl", root=root)
        return embed(table, learn_categories(table, LEARNED))

    return {"words": made("words", lambda shop: "high" if shop > 2 else "low"), "numbers": made("numbers", lambda shop: 1.5 * shop)}


@pytest.fixture(scope="module")
def shop_classifier(shops):
    return train_head(shops["words"], HEAD)


@pytest.mark.parametrize("format", FORMATS)
def test_what_a_classifier_of_learned_categories_takes_is_described_truly(shop_classifier, format):
    made = export(shop_classifier, Export(format=format))
    said = json.loads((made / "preprocessing.json").read_text())
    columns = {column["name"]: column for column in said["columns"]}
    assert (said["unknown"], columns["shop"]["missing"], said["first"]) == (0, 0, 2)  # no row had none, so that is unknown too
    assert said["vocabularies"] == [{"name": "shop", "values": [f"shop {n}" for n in range(5)]}]
    assert columns["day"]["parts"]["month"] == list(range(1, 13)) and columns["kind"]["values"] == ["a", "b"]
    assert said["inputs"]["values"]["holds"].startswith(
        "places of a row's values in `vocabularies`: 0 for an unknown value, 1 for a missing one, 2 for the first value; each"
    )
    assert columns["size"]["bounded"] and columns["size"]["gaps"]
    rows = [{"shop": "shop 3", "size": 77, "day": "2024-05-17", "kind": "b"}, dict.fromkeys(columns) | {"shop": "new"}]
    numbers = np.zeros((2, *said["inputs"]["numbers"]["shape"][1:]), said["inputs"]["numbers"]["type"])
    x = (77 - columns["size"]["center"]) / columns["size"]["half"]
    beyond = 0.9 * (x - 1)
    numbers[0, columns["size"]["at"]] = [0.9 + 0.1 * beyond / (0.1 + beyond), 0]
    numbers[1, columns["size"]["at"]] = [0, 1]
    numbers[0, columns["kind"]["at"]] = [0, 1]
    days = [(part, value) for part, values in columns["day"]["parts"].items() for value in values]
    for each in (("month", 5), ("day", 17), ("weekday", 4)):  # a Friday
        numbers[0, columns["day"]["at"][days.index(each)]] = 1
    found = RUNTIMES[format](made.path)({"numbers": numbers, "values": np.array([[5], [0]], said["inputs"]["values"]["type"])})
    assert found["probabilities"] == pytest.approx(Classifier.open(shop_classifier).probabilities(rows), abs=1e-5)


@pytest.mark.parametrize("format", FORMATS)
def test_of_numbers_predicted_from_learned_categories_input_and_output_have_two_names(shops, format):
    regressor = train_head(shops["numbers"], HEAD)
    made = export(regressor, Export(format=format))
    said = json.loads((made / "preprocessing.json").read_text())
    assert [*said["inputs"]] == ["numbers", "places"] and [*said["outputs"]] == ["values"]
    assert [column["input"] for column in said["columns"] if column["kind"] == "embedded"] == ["places"]
    assert said["outputs"]["values"]["holds"] == "one number for each row, in the label's unit"
    rows = [row | {"kind": "a"} for row in GOODS[:20]]
    found = [RUNTIMES[format](made.path)(inputs)["values"] for inputs in described.prepared(said, made.path, rows)]
    assert np.concatenate(found)[:, 0] == pytest.approx(Classifier.open(regressor).probabilities(rows), abs=1e-4)


def of(name, **changed):
    """Says something else of a column."""
    return lambda said: next(column for column in said["columns"] if column["name"] == name).update(changed)


FALSE = {
    "the first place": lambda said: said.update(first=1),
    "the place of unknown values": lambda said: said.update(unknown=2),
    "a vocabulary": lambda said: said["vocabularies"][0]["values"].reverse(),
    "calendar parts": lambda said: said["columns"][2]["parts"]["weekday"].reverse(),
    "a bound": of("size", half=3.0),
    "whether it is bounded": of("size", bounded=False),
    "the order of numbers": lambda said: said["columns"][1]["at"].reverse(),
    "a one-hot value": of("kind", values=["b", "a"]),
}


@pytest.mark.parametrize("what", FALSE)
def test_an_export_that_is_described_falsely_is_not_published(shops, what, monkeypatch, unpublished):
    told = preprocessing.described

    def falsely(*given, **named):
        said = json.loads(json.dumps(told(*given, **named)))
        FALSE[what](said)
        return said

    monkeypatch.setattr(preprocessing, "described", falsely)
    encoder = shops["words"].inputs["encoder"]
    with pytest.raises(UserError, match=r"opened by TensorFlow, gives other vectors than here \(lowest .*, so nothing was"):
        export(encoder, Export(format="saved-model"))
    assert not unpublished.exists()


def test_numbers_stand_in_descriptions_as_they_stand_in_vocabularies():
    odd = [0.0, -0.0, 7, 7.0, 0.1, -2.5, True, 1e-5, 1.5e-6]
    odd += [9.9e-7, 1e-7, 999999999999999.9, 1e10 - 0.5, 1e10 + 0.5, 2.0**53, 1.5e17, 1e300]
    numbers = np.random.default_rng(0).normal(size=1000) * 10.0 ** np.random.default_rng(1).integers(-20, 20, 1000)
    given = [*odd, *numbers.tolist(), "x", "", None, float("nan"), float("inf")]
    assert [described.as_text(value) for value in given] == text_array(given).to_pylist()


# Classifiers --------------------------------------------------------------------------------------------------------


def test_a_graph_of_a_classifier_goes_from_inputs_to_probabilities(classifier):
    made = export(classifier, Export(format="saved-model"))
    probabilities = in_tensorflow(made.path)(as_described(made, TEXTS))["probabilities"]
    assert probabilities == pytest.approx(Classifier.open(classifier).probabilities(TEXTS), abs=1e-5)
    assert json.loads((made / "labels.json").read_text()) == {"type": "class", "classes": ["no", "yes"]}
    assert made.manifest.verdict.startswith("opened anew by TensorFlow, it gives the probabilities it gave here: ")


def test_a_fine_tuned_classifier_is_exported_with_the_encoder_that_moved(root, normed_network):
    pictures = write_pictures(root.parent / "pictures.parquet")
    dataset = load_images(pictures, LoadImages(split_column="split", label_column="both"), root=root)
    tuned = fine_tune(dataset, import_encoder(normed_network), FineTune(recipe="scratch", training=SHORT))
    made, rows = export(tuned, Export(format="saved-model")), read_contents(dataset, 0, 8)["image"].to_pylist()
    ours = Classifier.open(tuned)
    pixels = np.stack([ours.encoder.feed.pixels(row) for row in rows]).astype("float32")
    assert in_tensorflow(made.path)({"pixels": pixels})["probabilities"] == pytest.approx(ours.probabilities(rows), abs=1e-5)
    labels = json.loads((made / "labels.json").read_text())
    assert labels["classes"] == ["green", "red"] and len(labels["decision"]) == 2
    assert made.manifest.details["identity"] == ours.facts.encoder


def test_of_a_classifier_sentence_transformers_holds_the_encoder_and_says_so(classifier, short):
    made = export(classifier)
    assert made.manifest.notes == [
        "this is the encoder of a classifier, without what decides: take onnx, openvino, saved-model, litert for the whole"
    ]
    assert made.manifest.details["identity"] == Encoder.open(short).facts.identity
    lineage = ("README.md", "lineage.json", "learned.parquet", "learned_near.parquet")  # the classifier learned from rows
    ours, theirs = ({file.path: file.sha256 for file in each.manifest.files} for each in (made, export(short)))
    assert {k: v for k, v in ours.items() if k not in lineage} == {k: v for k, v in theirs.items() if k not in lineage}


def test_a_graph_of_a_regressor_gives_values_in_the_labels_unit(root, table):
    dataset = load_texts(root.parent / "films.csv", LoadTexts(label_column="stars", label_type="number"), root=root, name="stars")
    regressor = train_head(embed(dataset, table), HEAD)
    made = export(regressor, Export(format="saved-model"))
    values = in_tensorflow(made.path)(as_described(made, TEXTS))["values"]
    assert values[:, 0] == pytest.approx(Classifier.open(regressor).probabilities(TEXTS), abs=1e-4)


def test_values_that_a_float32_does_not_hold_are_not_exported(root, table):
    lines = [f"the {'good ' * (number % 6)}film {number},{1_700_000_000 + number % 6}" for number in range(60)]
    (root.parent / "dates.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    dated = train_head(embed(load_texts(root.parent / "dates.csv", LoadTexts(label_type="number"), root=root), table), HEAD)
    with pytest.raises(UserError, match=r"as saved-model, opened by TensorFlow, gives other values than here \(lowest agreement -"):
        export(dated, Export(format="saved-model"))


# What is refused ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["sentence-transformers", "keras-hub"])
def test_pictures_are_not_for_the_libraries_of_texts(painter, format):
    with pytest.raises(UserError, match=f"{format} holds encoders of texts, but encoder/nested@.* takes images; {OTHERS}"):
        export(painter, Export(format=format))


def test_another_network_of_texts_is_no_bert(table):
    with pytest.raises(UserError, match=f"keras-hub has no place for encoder/static@.*, which is no BERT; {OTHERS}"):
        export(table, Export(format="keras-hub"))


def test_heads_that_do_not_fill_the_tokens_are_not_for_transformers(bert):
    words = (
        "has 3 attention heads that are 5 wide, and tokens that are 16 wide; a BERT in sentence-transformers has heads that are as "
    )
    with pytest.raises(UserError, match=rf"encoder/three_heads@\S+ {words}wide as the tokens together, so {OTHERS}"):
        export(make(bert, Made(how="three_heads")))


def test_a_layer_behind_the_tokens_has_no_place(tiny_bert):
    encoder = import_encoder(tiny_bert, ImportEncoder(layer="pooled_dense"))
    words = "come from its layer pooled_dense, which is behind the last tokens, and sentence-transformers has no place for it; "
    with pytest.raises(UserError, match=words + OTHERS):
        export(encoder)


def test_another_tokenizer_than_word_piece_is_not_for_keras_hub(bert):
    words = r"a BERT of keras-hub needs WordPiece with \[CLS\], \[SEP\], \[PAD\], \[MASK\] and \[UNK\], but the tokenizer of "
    with pytest.raises(UserError, match=rf"{words}encoder/unigram@\S+ is another one \(Unigram\); {OTHERS}"):
        export(make(bert, Made(how="unigram")), Export(format="keras-hub"))


def test_a_tokenizer_without_a_token_for_padding_is_not_for_sentence_transformers(bert):
    words = r"the tokenizer of encoder/unigram@\S+ has no token for padding \(\[PAD\] or <pad>\), without which sentence-"
    with pytest.raises(UserError, match=f"{words}transformers takes no two texts at once; {OTHERS}"):
        export(make(bert, Made(how="unigram")))


@pytest.mark.parametrize("format", ["onnx", "openvino", "litert"])
def test_a_missing_library_is_named_with_what_installs_it(bert, format, monkeypatch, unpublished):
    *others, name = GRAPHS[format].libraries
    for library in others:
        monkeypatch.setitem(sys.modules, library, np)  # any module will do
    monkeypatch.setitem(sys.modules, name, None)
    words = rf"{format} takes the library {name}, which is not installed; run `pip install 'embedkit\[{format}\]'`"
    with pytest.raises(UserError, match=words):
        export(bert, Export(format=format))


@pytest.mark.parametrize("format", [needs("litert"), needs("onnx")])
def test_a_graph_that_a_runtime_does_not_know_is_refused(bert, format):
    odd = make(bert, Made(how="strange"))
    with pytest.raises(UserError, match=rf"encoder/strange@\S+ can't be written as {format} \(.*\); take another format"):
        export(odd, Export(format=format))


@pytest.mark.parametrize("format", ["sentence-transformers", "keras-hub", "saved-model"])
def test_an_export_that_gives_other_vectors_is_not_published(bert, table, format, monkeypatch, unpublished):
    given = table if format == "saved-model" else bert

    def damage(array):
        array = array.copy()
        array.flat[: array.size // 2] = 1.0
        return array

    def write(folder, encoder, *rest):
        model = encoder if format == "saved-model" else encoder.model
        table = next(layer for layer in model._flatten_layers() if layer.name in ("token_embedding", "token_vectors"))
        kept = table.get_weights()
        table.set_weights([damage(each) for each in kept])
        try:
            return written(folder, encoder, *rest)
        finally:
            table.set_weights(kept)

    if format == "saved-model":
        written = GRAPHS[format].write
        monkeypatch.setitem(exporting.GRAPHS, format, dataclasses.replace(GRAPHS[format], write=write))
    else:
        written, read = layouts.LAYOUTS[format]
        monkeypatch.setitem(exporting.LAYOUTS, format, (write, read))
    words = rf"{given} as {format}, opened by .*, gives other vectors than here \(lowest agreement -?\d\.\d+ over 32 canaries, at "
    with pytest.raises(
        UserError, match=words + r"least 0\.9999 is needed\), so nothing was published; take another format, or other"
    ):
        export(given, Export(format=format))
    assert not unpublished.exists()


def test_the_command_prints_the_reference_of_the_export(table, capsys):
    assert main(["export", str(table), "--format", "saved-model"]) == 0
    assert re.fullmatch(r"export/static-saved-model@\S+\n", capsys.readouterr().out)


# The real thing -----------------------------------------------------------------------------------------------------

OPENED = """
import json, sys
import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoTokenizer

def cosine(found, expected):
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    return float(((found * expected).sum(axis=1) / lengths).min())

said = json.load(open("said.json"))
lowest = {}
for name, folder in said["folders"].items():
    expected = np.load(name + ".npy", allow_pickle=False)
    model = SentenceTransformer(folder, device="cpu")
    lowest[name] = cosine(model.encode(said["texts"]), expected)
    if name != "static":
        tokenizer, bert = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
        texts = [said["prompts"][name] + text for text in said["texts"]]
        given = tokenizer(texts, padding=True, truncation=True, max_length=model.max_seq_length, return_tensors="pt")
        with torch.no_grad():
            tokens, mask = bert(**given).last_hidden_state, given["attention_mask"][..., None]
        lowest[name + " by AutoModel"] = cosine(((tokens * mask).sum(1) / mask.sum(1)).numpy(), expected)
print(json.dumps(lowest))
"""


@pytest.mark.slow
@pytest.mark.shared
def test_sentence_transformers_and_transformers_open_what_was_exported(tmp_path):
    minilm, prompted = SHARED / "models/all-MiniLM-L6-v2", ImportEncoder(prompt="query: ", maximal_length=64)
    encoders = {"minilm": import_encoder(minilm), "prompted": import_encoder(minilm, prompted)}
    encoders["static"] = make(encoders["minilm"])
    for name, encoder in encoders.items():
        np.save(tmp_path / f"{name}.npy", Encoder.open(encoder).encode(canaries.TEXTS))
    folders = {name: str(export(encoder).path) for name, encoder in encoders.items()}
    said = {"folders": folders, "texts": canaries.TEXTS, "prompts": {"minilm": "", "prompted": "query: "}}
    (tmp_path / "said.json").write_text(json.dumps(said))
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv/bin/python"
    listed = subprocess.run([python, "-m", "pip", "index", "versions", "torch"], capture_output=True, text=True)
    small = re.search(r"[\d.]+\+cpu", listed.stdout)  # without what a graphics card needs, where the index has that
    torch = f"torch=={small[0]}" if small else "torch"
    subprocess.run([python, "-m", "pip", "install", "-q", torch, "sentence-transformers"], check=True)
    done = subprocess.run(
        [python, "-c", OPENED], cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"}
    )
    assert done.returncode == 0, done.stderr
    lowest = json.loads(done.stdout.splitlines()[-1])
    print(lowest, done.stderr)
    assert lowest.keys() == {"minilm", "minilm by AutoModel", "prompted", "prompted by AutoModel", "static"}
    assert min(lowest.values()) >= 0.9999
