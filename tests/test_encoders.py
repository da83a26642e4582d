"""Encoders: the vectors they give, what decides them, and what is refused rather than answered wrongly."""

import json
import shutil
import zipfile

import numpy as np
import pandas
import pytest
from conftest import SHARED, forged, reseal
from scipy.special import erf

from embedkit import (
    Artifact,
    Encoder,
    ImportEncoder,
    UserError,
    canaries,
    frameworks,
    import_encoder,
    load_table,
    load_texts,
    make_control,
)
from embedkit.artifacts import sha256
from embedkit.encoders import PREPROCESSING, EncoderFacts, encoder_folder, identity, layers, save_model
from embedkit.failures import sentence

frameworks.load_frameworks()

import keras  # noqa: E402  after the frameworks were loaded quietly

TEXTS = ["the cat sat on the mat", "a dog", "not very good at all!", "", "The CAT sat", "good good " * 30]
PICTURES = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A root for artifacts that several tests look at."""
    return tmp_path_factory.mktemp("encoders")


@pytest.fixture(scope="module")
def bert(tiny_bert, place):
    """The tiny BERT as an encoder artifact: mean pooling, length 1, 32 tokens."""
    return import_encoder(tiny_bert, root=place)


@pytest.fixture(scope="module")
def encoder(bert):
    return Encoder.open(bert)


def columns_of(path, lines):
    """The columns of a table of size, colour and truth as an encoder artifact."""
    path.write_text("\n".join(["size,colour,sold", *lines]) + "\n")
    return make_control(load_table(path, root=path.parent))


GOODS = [f"{n / 8},{('red', 'blue', 'green')[n % 3]},{n % 2 == 0}" for n in range(40)]


@pytest.fixture(scope="module")
def goods(place):
    return columns_of(place / "goods.csv", GOODS)


@pytest.fixture(scope="module")
def nested(nested_network, place):
    """The nested picture network as an encoder artifact."""
    return import_encoder(nested_network, root=place)


# The vectors --------------------------------------------------------------------------------------------------------


ACTIVATIONS = {
    "gelu": lambda x: x * (1 + erf(x / np.sqrt(2))) / 2,
    "gelu_new": lambda x: x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2,
    "silu": lambda x: x / (1 + np.exp(-x)),
}


def by_hand(folder, text, pooling="mean", length=32):
    """The tiny BERT in plain numpy, from a text to its vector before normalisation, as Devlin et al. 2018 describe it."""
    from safetensors.numpy import load_file
    from transformers import AutoTokenizer

    config = json.loads((folder / "config.json").read_text())
    found = {name: value.astype(np.float64) for name, value in load_file(folder / "model.safetensors").items()}

    def norm(x):
        centred = x - x.mean(axis=-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + config["layer_norm_eps"])  # gain 1 and bias 0

    def dense(x, name):
        return x @ found[f"{name}.weight"].T + found[f"{name}.bias"]

    ids = AutoTokenizer.from_pretrained(folder)(text, truncation=True, max_length=length)["input_ids"]
    words, places = found["embeddings.word_embeddings.weight"], found["embeddings.position_embeddings.weight"]
    x = norm(words[ids] + places[: len(ids)] + found["embeddings.token_type_embeddings.weight"][0])  # (length, 16)
    for number in range(2):
        layer = f"encoder.layer.{number}"
        heads = [dense(x, f"{layer}.attention.self.{part}").reshape(-1, 2, 8) for part in ("query", "key", "value")]
        query, key, value = (head.transpose(1, 0, 2) for head in heads)                          # (2, length, 8)
        scores = np.exp(query @ key.transpose(0, 2, 1) / np.sqrt(8))
        mixed = (scores / scores.sum(axis=-1, keepdims=True) @ value).transpose(1, 0, 2).reshape(-1, 16)
        x = norm(x + dense(mixed, f"{layer}.attention.output.dense"))
        inner = dense(x, f"{layer}.intermediate.dense")
        x = norm(x + dense(ACTIVATIONS[config["hidden_act"]](inner), f"{layer}.output.dense"))
    return {"mean": x.mean(axis=0), "max": x.max(axis=0), "cls": x[0]}[pooling]


def test_a_bert_gives_what_the_same_network_gives_in_numpy(encoder, tiny_bert):
    expected = np.stack([by_hand(tiny_bert, text) for text in TEXTS])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert encoder.encode(TEXTS) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("config", [{"hidden_act": "gelu_new"}, {"hidden_act": "silu", "layer_norm_eps": 0.1}])
def test_a_bert_computes_what_its_config_says(tiny_bert, tmp_path, config):
    folder = shutil.copytree(tiny_bert, tmp_path / "other")
    (folder / "config.json").write_text(json.dumps(json.loads((folder / "config.json").read_text()) | config))
    expected = np.stack([by_hand(folder, text) for text in TEXTS])
    assert np.abs(expected - np.stack([by_hand(tiny_bert, text) for text in TEXTS])).max() > 2e-4
    found = Encoder.open(import_encoder(folder, ImportEncoder(normalise=False))).encode(TEXTS)
    assert found == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize("pooling", ["max", "cls"])
def test_poolings_of_texts_are_what_they_are_called(tiny_bert, pooling):
    artifact = import_encoder(tiny_bert, ImportEncoder(pooling=pooling, normalise=False))
    expected = np.stack([by_hand(tiny_bert, text, pooling) for text in TEXTS])
    assert Encoder.open(artifact).encode(TEXTS) == pytest.approx(expected, abs=1e-4)


def test_a_maximal_length_may_be_the_networks_own(tiny_bert):
    long = "cat " * 100
    encoder = Encoder.open(import_encoder(tiny_bert, ImportEncoder(maximal_length=64)))
    expected = by_hand(tiny_bert, long, length=64)
    assert encoder.encode([long])[0] == pytest.approx(expected / np.linalg.norm(expected), abs=1e-5)


def test_texts_are_cut_at_the_maximal_length(tiny_bert):
    encoder = Encoder.open(import_encoder(tiny_bert, ImportEncoder(maximal_length=5)))
    long, cut = encoder.encode(["the cat sat on the mat", "the cat sat"])
    assert encoder.facts.maximal_length == 5
    assert np.allclose(long, cut, atol=1e-6)  # a processor may sum a batch's rows in its own order


def test_a_maximal_length_beyond_the_networks_is_refused(tiny_bert):
    with pytest.raises(UserError, match="maximal_length 65 is more than .*tiny-bert takes; give at most 64"):
        import_encoder(tiny_bert, ImportEncoder(maximal_length=65))


@pytest.mark.parametrize("length", [1, 2])
def test_a_maximal_length_that_leaves_no_room_for_a_word_is_refused(tiny_bert, length):
    with pytest.raises(UserError, match=f"maximal_length {length} .*at least 3"):
        import_encoder(tiny_bert, ImportEncoder(maximal_length=length))


def test_normalised_vectors_have_length_1_and_the_others_their_direction(encoder, tiny_bert):
    plain = Encoder.open(import_encoder(tiny_bert, ImportEncoder(normalise=False))).encode(TEXTS)
    lengths = np.linalg.norm(plain, axis=1, keepdims=True)
    assert np.abs(lengths - 1).min() > 0.1
    assert np.linalg.norm(encoder.encode(TEXTS), axis=1) == pytest.approx(1, abs=1e-6)
    assert encoder.encode(TEXTS) == pytest.approx(plain / lengths, abs=1e-6)


def test_a_prompt_is_text_before_the_text(encoder, tiny_bert):
    prompted = Encoder.open(import_encoder(tiny_bert, ImportEncoder(prompt="good dog ")))
    assert prompted.facts.prompt == "good dog "
    assert np.array_equal(prompted.encode(["the cat"]), encoder.encode(["good dog the cat"]))


def test_a_prompt_can_be_taken_away(tiny_bert, tmp_path):
    folder = shutil.copytree(tiny_bert, tmp_path / "prompted")
    prompts = {"prompts": {"query": "good "}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    assert import_encoder(folder, ImportEncoder(prompt="")).manifest.details["prompt"] == ""


def test_padding_never_changes_a_vector(encoder):
    alone = np.concatenate([encoder.encode([text]) for text in TEXTS])
    together = encoder.encode([*TEXTS, "mat " * 40])
    assert (alone * together[:-1]).sum(axis=1).min() > 1 - 1e-6


def test_vectors_keep_the_order_of_the_rows(encoder):
    texts = [f"{'cat ' * (number % 7)} dog {number}" for number in range(300)]
    shuffled = np.random.default_rng(0).permutation(300)
    found = encoder.encode([texts[row] for row in shuffled])
    assert (found * encoder.encode(texts)[shuffled]).sum(axis=1).min() > 1 - 1e-6
    assert found.dtype == np.float32


def test_no_rows_give_no_vectors(encoder, nested):
    assert encoder.encode([]).shape == (0, 16)
    assert Encoder.open(nested).encode([]).shape == (0, 8)


@pytest.mark.parametrize("pooling", ["avg", "max", "flatten"])
def test_poolings_of_pictures_are_what_they_are_called(nested_network, pooling):
    maps = keras.saving.load_model(nested_network).predict(PICTURES.astype(np.float32), verbose=0)  # (5, 3, 3, 8)
    expected = {"avg": maps.mean(axis=(1, 2)), "max": maps.max(axis=(1, 2)), "flatten": maps.reshape(5, -1)}[pooling]
    artifact = import_encoder(nested_network, ImportEncoder(pooling=pooling))
    assert artifact.manifest.details["dimension"] == expected.shape[1]
    assert Encoder.open(artifact).encode(list(PICTURES)) == pytest.approx(expected, rel=1e-5, abs=1e-4)


def test_a_layer_that_gives_vectors_needs_no_pooling(tiny_bert):
    artifact = import_encoder(tiny_bert, ImportEncoder(layer="pooled_dense", normalise=False))
    assert artifact.manifest.details["pooling"] == "none"
    assert np.abs(Encoder.open(artifact).encode(TEXTS)).max() <= 1  # its activation is tanh


def test_a_cut_has_fewer_parameters(bert, tiny_bert):
    cut = import_encoder(tiny_bert, ImportEncoder(layer="transformer_layer_0"))
    names = [layer.name for layer in Encoder.open(cut).model.layers]
    assert "transformer_layer_0" in names
    assert "transformer_layer_1" not in names
    assert cut.manifest.details["parameters"] < bert.manifest.details["parameters"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"pooling": "avg"}, r"'avg' doesn't fit a layer of shape \(None, None, 16\) in a network of texts; give mean or max"),
        ({"pooling": "none"}, "'none' doesn't fit .* in a network of texts; give mean or max or cls, or cut at another layer"),
        ({"pooling": "flatten"}, "'flatten' doesn't fit"),
        ({"pooling": "mean", "layer": "pooled_dense"}, r"'mean' doesn't fit a layer of shape \(None, 16\) .*; give none, or cut"),
    ],
)
def test_a_pooling_that_does_not_fit_a_network_of_texts_is_refused(tiny_bert, settings, words):
    with pytest.raises(UserError, match=words):
        import_encoder(tiny_bert, ImportEncoder(**settings))


@pytest.mark.parametrize("pooling", ["mean", "cls", "none"])
def test_a_pooling_that_does_not_fit_a_network_of_pictures_is_refused(nested_network, pooling):
    words = rf"'{pooling}' doesn't fit a layer of shape \(None, 3, 3, 8\) in a network of images; give avg or max or flatten"
    with pytest.raises(UserError, match=words):
        import_encoder(nested_network, ImportEncoder(pooling=pooling))


@pytest.mark.parametrize("pooling", ["auto", "none"])
def test_a_layer_of_patches_is_refused_because_nothing_pools_it(tmp_path, pooling):
    frameworks.start_keras(0)
    pixels = keras.Input((16, 16, 3))
    keras.Model(pixels, keras.layers.Reshape((64, 12), name="patches")(pixels)).save(tmp_path / "patches.keras")
    with pytest.raises(UserError, match=r"doesn't fit a layer of shape \(None, 64, 12\)"):
        import_encoder(tmp_path / "patches.keras", ImportEncoder(pooling=pooling))


def test_what_can_be_cut_is_listed(tiny_bert):
    found = layers(tiny_bert)
    assert found[0] == ("token_embedding", "ReversibleEmbedding", (None, None, 16))
    assert [name for name, _, _ in found][-3:] == ["transformer_layer_0", "transformer_layer_1", "pooled_dense"]


# Identity -----------------------------------------------------------------------------------------------------------


def identity_of(source, **settings):
    return import_encoder(source, ImportEncoder(**settings)).manifest.details["identity"]


def test_the_same_network_has_the_same_identity_under_another_name(bert, tiny_bert, tmp_path):
    moved = shutil.copytree(tiny_bert, tmp_path / "another-name")
    (moved / "README.md").write_text("not part of the network")
    artifact = import_encoder(moved, name="third-name")
    assert artifact.manifest.fingerprint != bert.manifest.fingerprint
    assert artifact.manifest.details["identity"] == bert.manifest.details["identity"]


def test_the_same_cut_said_in_other_words_has_the_same_identity(bert, tiny_bert):
    said = identity_of(tiny_bert, layer="transformer_layer_1", pooling="mean", normalise=True, maximal_length=32)
    assert said == bert.manifest.details["identity"]


def test_names_of_layers_are_no_part_of_an_identity(nested, nested_network, tmp_path):
    model = keras.saving.load_model(nested_network)
    renamed = keras.models.clone_model(model, clone_function=lambda layer: other_name(layer))
    renamed.set_weights(model.get_weights())
    renamed.save(tmp_path / "renamed.keras")
    assert {layer.name for layer in renamed.layers}.isdisjoint({"outer_first", "outer_last"})
    assert identity_of(tmp_path / "renamed.keras") == nested.manifest.details["identity"]


def other_name(layer):
    config = layer.get_config()
    return type(layer).from_config(config | {"name": f"other_{config['name']}"}) if "filters" in config else layer


@pytest.mark.parametrize(
    "settings",
    [
        {"pooling": "cls"},
        {"layer": "transformer_layer_0"},
        {"normalise": False},
        {"maximal_length": 16},
        {"prompt": "good "},
    ],
)
def test_what_decides_a_vector_decides_the_identity(bert, tiny_bert, settings):
    assert identity_of(tiny_bert, **settings) != bert.manifest.details["identity"]


def test_a_changed_weight_changes_the_identity(bert, tiny_bert, tmp_path):
    from safetensors.numpy import load_file, save_file

    changed = shutil.copytree(tiny_bert, tmp_path / "changed")
    found = load_file(changed / "model.safetensors")
    found["embeddings.word_embeddings.weight"][7, 3] += 1e-6
    save_file(found, changed / "model.safetensors", metadata={"format": "pt"})
    assert identity_of(changed) != bert.manifest.details["identity"]


def test_a_changed_tokenizer_changes_the_identity(bert, tiny_bert, tmp_path):
    changed = shutil.copytree(tiny_bert, tmp_path / "changed")
    fields = json.loads((changed / "tokenizer_config.json").read_text())
    (changed / "tokenizer_config.json").write_text(json.dumps(fields | {"do_lower_case": False}))
    assert identity_of(changed) != bert.manifest.details["identity"]


def test_what_becomes_of_columns_is_part_of_the_identity(goods, tmp_path):
    ours = goods.manifest.details["identity"]
    assert columns_of(tmp_path / "same.csv", GOODS[::-1]).manifest.details["identity"] == ours  # an id, so a split, is of content
    for number, change in enumerate((("red", "pink"), (",True", ",False"))):
        lines = [line.replace(*change) for line in GOODS]
        assert columns_of(tmp_path / f"other-{number}.csv", lines).manifest.details["identity"] != ours
    wider = [f"{float(line.partition(',')[0]) * 2},{line.partition(',')[2]}" for line in GOODS]
    assert columns_of(tmp_path / "wider.csv", wider).manifest.details["identity"] != ours


def test_scaling_is_part_of_the_identity(nested, nested_network):
    assert identity_of(nested_network, scaling="-1..1") != nested.manifest.details["identity"]


def test_an_activation_is_part_of_the_identity_whatever_the_layer_is_called(tmp_path):
    found, vectors = [], []
    for activation in ("tanh", "sigmoid"):
        frameworks.start_keras(0)
        pixels = keras.Input((16, 16, 3))
        small = keras.initializers.Constant(1e-3)
        layer = keras.layers.Conv2D(4, 3, activation=activation, name=activation, kernel_initializer=small)
        keras.Model(pixels, layer(pixels)).save(tmp_path / f"{activation}.keras")
        encoder = Encoder.open(import_encoder(tmp_path / f"{activation}.keras"))
        found.append(encoder.facts.identity)
        vectors.append(encoder.encode(list(PICTURES)))
    assert np.abs(vectors[0] - vectors[1]).max() > 0.01
    assert found[0] != found[1]


def test_the_identity_is_in_the_file_and_in_the_manifest_and_can_be_taken_again(bert, encoder):
    stored = json.loads((bert / "encoder.json").read_text())
    assert stored["identity"] == bert.manifest.details["identity"]
    assert identity(encoder.model, encoder.facts, (bert / "tokenizer.json").read_text()) == stored["identity"]


# The files ----------------------------------------------------------------------------------------------------------


def test_an_encoder_is_a_folder_that_opens_in_keras_alone(nested):
    assert {file.path for file in nested.manifest.files} == {"model.keras", "encoder.json", "canaries.npz", "README.md"}
    model = keras.saving.load_model(nested / "model.keras", safe_mode=True)
    expected = Encoder.open(nested).encode(list(PICTURES))
    assert model.predict(PICTURES.astype(np.float32), verbose=0) == pytest.approx(expected, rel=1e-5, abs=1e-4)


def test_a_text_encoder_holds_its_tokenizer(bert):
    from tokenizers import Tokenizer

    files = {"model.keras", "encoder.json", "canaries.npz", "tokenizer.json", "README.md"}
    assert {file.path for file in bert.manifest.files} == files
    assert Tokenizer.from_file(str(bert / "tokenizer.json")).encode("The cat").tokens == ["[CLS]", "the", "cat", "[SEP]"]


def test_an_encoder_of_tables_holds_its_columns(goods):
    files = {"model.keras", "encoder.json", "canaries.npz", "columns.json", "fitted.parquet", "fitted_near.parquet", "README.md"}
    assert {file.path for file in goods.manifest.files} == files
    stored = json.loads((goods / "encoder.json").read_text())
    assert (stored["modality"], stored["dimension"], stored["layer"]) == ("table", 6, "columns")
    encoder = Encoder.open(goods)
    assert identity(encoder.model, encoder.facts, (goods / "columns.json").read_text()) == stored["identity"]


def test_the_canaries_of_a_table_are_made_up_and_go_beyond_what_it_holds(goods, place):
    rows, vectors = canaries.load(goods / "canaries.npz")
    assert np.array_equal(Encoder.open(goods).encode(rows), vectors)
    assert len(rows) == 32 and rows == canaries.inputs("table", (goods / "columns.json").read_text())
    assert all(any(row[name] is None for row in rows) for name in ("size", "colour", "sold"))
    assert {row["colour"] for row in rows} == {"red", "green", "blue", "no such text", None}
    sizes = [row["size"] for row in rows if row["size"] is not None]
    assert min(sizes) < 0 and max(sizes) > 39 / 8
    with np.load(goods / "canaries.npz", allow_pickle=False) as stored:
        assert {stored[name].dtype.kind for name in stored.files} == {"U", "f"}


def test_a_model_saved_twice_has_the_same_bytes(encoder, tmp_path):
    (tmp_path / "later").mkdir()
    for path in (tmp_path / "one.keras", tmp_path / "later" / "two.keras"):
        save_model(encoder.model, path)
    assert (tmp_path / "one.keras").read_bytes() == (tmp_path / "later" / "two.keras").read_bytes()
    assert sorted(path.name for path in tmp_path.rglob("*.keras")) == ["one.keras", "two.keras"]


def test_the_model_file_is_a_zip_without_the_time_of_saving(nested):
    with zipfile.ZipFile(nested / "model.keras") as kept:
        assert {info.date_time for info in kept.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert json.loads(kept.read("metadata.json"))["date_saved"].startswith("1980")


def test_the_same_import_in_another_root_gives_the_same_files(bert, tiny_bert, tmp_path):
    again = import_encoder(tiny_bert, root=tmp_path / "elsewhere")
    assert again.manifest.files == bert.manifest.files
    assert again.manifest.fingerprint == bert.manifest.fingerprint


def resealed(artifact, root, name, change):
    """A copy of an artifact with one file changed and a manifest that vouches for it."""
    copy = shutil.copytree(artifact.path, root / artifact.path.relative_to(artifact.root))
    change(copy / name)
    found = Artifact.at(copy).manifest
    entry = next(file for file in found.files if file.path == name)
    entry.bytes, entry.sha256 = (copy / name).stat().st_size, sha256(copy / name)
    (copy / "manifest.json").write_bytes(found.sealed())
    return Artifact.at(copy)


def with_changed_weight(path, by):
    model = keras.saving.load_model(path)
    found = model.get_weights()
    found[0] = found[0] + by * np.random.default_rng(0).normal(size=found[0].shape)
    model.set_weights(found)
    save_model(model, path)


def test_canaries_that_moved_are_refused_when_the_manifest_says_all_is_well(nested, tmp_path):
    moved = resealed(nested, tmp_path / "moved", "model.keras", lambda path: with_changed_weight(path, 0.1))
    assert moved.check() is moved
    with pytest.raises(UserError, match=r"gives other vectors here than when it was made \(cosine -?[0-9.]+, at least 0.9999 is"):
        Encoder.open(moved)


def test_columns_that_moved_are_refused_when_the_manifest_says_all_is_well(goods, tmp_path):
    def widen(path):
        facts = json.loads(path.read_text())
        facts["columns"][0]["low"] -= 1
        path.write_text(json.dumps(facts))

    moved = resealed(goods, tmp_path / "moved", "columns.json", widen)
    with pytest.raises(UserError, match=r"gives other vectors here than when it was made \(cosine -?[0-9.]+, at least 0.9999 is"):
        Encoder.open(moved)


def test_canaries_that_moved_by_rounding_only_are_accepted(nested, tmp_path):
    def rounded(path):
        rows, vectors = canaries.load(path)
        noise = np.random.default_rng(0).normal(0, 1e-6, vectors.shape)
        np.savez(path, inputs=np.array(rows), vectors=(vectors * (1 + noise)).astype(np.float32))

    made = resealed(nested, tmp_path / "rounded", "canaries.npz", rounded)
    assert np.array_equal(Encoder.open(made).encode(list(PICTURES)), Encoder.open(nested).encode(list(PICTURES)))


# An identity that is not the encoder's own, with canaries to match ----------------------------------------------------


def with_own_canaries(artifact, root, change):
    """A copy with files changed, canaries that fit them, and the identity of before."""
    copy = shutil.copytree(artifact.path, root / artifact.path.relative_to(artifact.root))
    folder = encoder_folder(Artifact.at(copy))
    change(folder)
    facts = EncoderFacts.model_validate_json((folder / "encoder.json").read_text())
    file = PREPROCESSING.get(facts.modality)
    preprocessing = (folder / file).read_text() if file else None
    model = keras.saving.load_model(folder / "model.keras", compile=False)
    changed = Encoder(model, facts, preprocessing, "the changed encoder")
    rows = canaries.inputs(facts.modality, preprocessing)
    canaries.save(folder / "canaries.npz", facts.modality, changed.encode(rows), preprocessing)
    return reseal(copy)


def edited(name, **fields):
    def change(folder):
        (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | fields))

    return change


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("nested", lambda folder: with_changed_weight(folder / "model.keras", 0.1)),
        ("bert", edited("encoder.json", prompt="good ")),
        ("bert", edited("encoder.json", maximal_length=5)),
        ("bert", edited("tokenizer.json", normalizer=None)),
        ("goods", edited("columns.json", vocabularies=[{"name": "x", "values": ["a"], "missing": False, "dimension": 1}])),
    ],
)
def test_an_encoder_that_carries_the_identity_of_another_is_refused(kind, change, request, tmp_path):
    made = with_own_canaries(request.getfixturevalue(kind), tmp_path / "forged", change)
    words = r"says its identity is [0-9a-f]{12}, but that of its weights and preprocessing is [0-9a-f]{12}, so its vectors would be"
    with pytest.raises(UserError, match=f"{made} {words} taken for another encoder's; make it again"):
        Encoder.open(made)


@pytest.mark.parametrize(("name", "value"), [("identity", "0" * 64), ("modality", "texts"), ("dimension", 3), ("identity", None)])
def test_a_manifest_that_says_another_thing_than_the_encoder_is_refused(nested, tmp_path, name, value):
    copy = Artifact.at(shutil.copytree(nested.path, tmp_path / "forged" / nested.path.relative_to(nested.root)))
    made = forged(copy, **{name: value})
    with pytest.raises(UserError, match=f"the manifest of {made} says its {name} is .*, but encoder.json .*; make it again"):
        Encoder.open(made)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 100_000, "encoder.json of .* can't be read"),
        ("{}", "encoder.json of .* can't be read .*modality"),
        ("\x00", "encoder.json of .* can't be read"),
    ],
)
def test_an_encoder_json_that_says_nothing_is_refused(nested, tmp_path, text, words):
    made = resealed(nested, tmp_path / "forged", "encoder.json", lambda path: path.write_text(text))
    with pytest.raises(UserError, match=f"{words}.*; make it again") as refused:
        Encoder.open(made)
    assert len(sentence(refused.value).splitlines()) == 1


def test_a_size_that_no_picture_has_is_refused(nested, tmp_path):
    made = resealed(nested, tmp_path / "forged", "encoder.json", lambda path: edited("encoder.json", height=10**12)(path.parent))
    with pytest.raises(UserError, match="encoder.json of .* says no height from 1 to 100,000; make it again"):
        Encoder.open(made)


def test_a_tokenizer_that_never_ends_is_refused_in_an_encoder_too(bert, tmp_path):
    step = {"type": "Split", "pattern": {"Regex": "(a|aa|a)+$"}, "behavior": "Isolated", "invert": False}
    made = resealed(bert, tmp_path / "forged", "tokenizer.json", lambda path: edited(path.name, pre_tokenizer=step)(path.parent))
    with pytest.raises(UserError, match="tokenizer.json of encoder/.* fails on short texts .its pattern .*; take a network with"):
        Encoder.open(made)


# Canaries that check nothing -----------------------------------------------------------------------------------------

PIXELS, ZEROS = np.zeros((24, 4, 4, 3), np.uint8), np.zeros((24, 8), np.float32)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"inputs": PIXELS[:0], "vectors": ZEROS[:0]}, "0 rows, .*, but at least 8 are needed"),
        ({"inputs": PIXELS[:1], "vectors": ZEROS[:1]}, "1 rows, .*, but at least 8 are needed"),
        ({"inputs": PIXELS, "vectors": ZEROS[:9]}, "24 rows, vectors of shape .9, 8., but"),
        ({"inputs": PIXELS, "vectors": ZEROS[:, :0]}, "have vectors of 0 numbers, not 8"),
        ({"inputs": PIXELS, "vectors": ZEROS[:, :3]}, "have vectors of 3 numbers, not 8"),
        ({"inputs": PIXELS, "vectors": ZEROS[..., None]}, "24 rows, vectors of shape .24, 8, 1., but"),
        ({"inputs": PIXELS, "vectors": ZEROS[:, 0]}, "24 rows, vectors of shape .24,., but"),
        ({"inputs": PIXELS, "vectors": ZEROS * np.nan}, "its vectors are not finite numbers"),
        ({"inputs": PIXELS, "vectors": ZEROS + np.inf}, "its vectors are not finite numbers"),
        ({"inputs": PIXELS, "vectors": ZEROS.astype(str)}, "its vectors are not finite numbers"),
        ({"inputs": PIXELS, "vectors": ZEROS.astype(object)}, "holds no canaries that could be checked"),
        ({"inputs": PIXELS[..., :2], "vectors": ZEROS}, "its rows are neither texts, pictures nor rows of a table"),
        ({"inputs": PIXELS.astype(float), "vectors": ZEROS}, "its rows are neither texts, pictures nor rows of a table"),
        ({"inputs": np.array("a"), "vectors": ZEROS}, "holds no canaries that could be checked"),
        ({"inputs": np.array(["a"] * 24), "vectors": ZEROS}, "can't embed its own canaries|a str came|can't be"),
        ({"rows": np.array(["[" * 99_999] * 24), "vectors": ZEROS}, "holds no canaries that could be checked"),
        ({"rows": np.array(["[]"] * 24), "vectors": ZEROS}, "its rows are neither texts, pictures nor rows of a table"),
        ({"vectors": ZEROS}, "holds no canaries that could be checked"),
        ({"inputs": PIXELS}, "holds no canaries that could be checked"),
    ],
)
def test_canaries_that_check_nothing_are_refused(nested, tmp_path, arrays, words):
    made = resealed(nested, tmp_path / "forged", "canaries.npz", lambda path: np.savez(path, **arrays))
    with pytest.raises(UserError, match=words):
        Encoder.open(made)


@pytest.mark.parametrize("data", [b"", b"PK", b"\x93NUMPY\x01\x00", np.random.default_rng(0).bytes(99)])
def test_a_file_that_holds_no_canaries_is_refused(nested, tmp_path, data):
    made = resealed(nested, tmp_path / "forged", "canaries.npz", lambda path: path.write_bytes(data))
    with pytest.raises(UserError, match="canaries.npz holds no canaries that could be checked .*; make its artifact again"):
        Encoder.open(made)


def test_canaries_that_unpack_to_far_more_are_refused(nested, tmp_path):
    def packed(path):
        np.savez_compressed(path, inputs=PIXELS, vectors=ZEROS)

    made = resealed(nested, tmp_path / "forged", "canaries.npz", packed)
    with pytest.raises(UserError, match="canaries.npz holds no canaries that could be checked .it is compressed.; make"):
        Encoder.open(made)


@pytest.mark.parametrize("name", ["model.keras", "encoder.json", "canaries.npz", "tokenizer.json"])
def test_a_flipped_byte_in_any_file_is_refused(bert, tmp_path, name):
    copy = shutil.copytree(bert.path, tmp_path / "flipped" / bert.path.relative_to(bert.root))
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(UserError, match=f"encoder/tiny-bert@.* is damaged: {name} doesn't fit its checksum; make it again"):
        Encoder.open(Artifact.at(copy))


def test_an_encoder_opens_by_its_reference(bert, place):
    assert Encoder.open("encoder/tiny-bert", place).facts.identity == bert.manifest.details["identity"]
    with pytest.raises(UserError, match="artifact 'encoder/tiny-bird' is not known; did you mean 'encoder/tiny-bert'"):
        Encoder.open("encoder/tiny-bird", place)


def test_what_is_no_encoder_is_refused(reviews):
    texts = load_texts(reviews)
    with pytest.raises(UserError, match="texts/reviews@.* is no encoder; `embedkit artifacts list encoder` names those there are"):
        Encoder.open(texts)


# Rows that are none -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", ["a text", b"a text"])
def test_a_bare_string_is_refused(encoder, rows):
    with pytest.raises(UserError, match=f"one {type(rows).__name__} came where several rows are expected; put it in a list"):
        encoder.encode(rows)


def test_a_bare_path_is_refused(nested, tmp_path):
    with pytest.raises(UserError, match="one PosixPath came where several rows are expected; put it in a list"):
        Encoder.open(nested).encode(tmp_path / "picture.png")


def test_a_bare_row_of_a_table_is_refused(goods):
    with pytest.raises(UserError, match="one dict came where several rows are expected; put it in a list"):
        Encoder.open(goods).encode({"size": 1, "colour": "red", "sold": True})


def test_rows_of_another_modality_are_refused(encoder, nested, goods):
    with pytest.raises(UserError, match="rows of a table are encoded here, but str came: 'the cat'; give dictionaries"):
        Encoder.open(goods).encode(["the cat"])
    with pytest.raises(UserError, match="texts are encoded here, but ndarray came"):
        encoder.encode(list(PICTURES))
    with pytest.raises(UserError, match="the cat can't be read: .*; give the bytes, the path or the pixels of one"):
        Encoder.open(nested).encode(["the cat"])


def test_one_picture_that_is_not_in_a_list_is_refused(nested):
    with pytest.raises(UserError, match=r"an array of shape \(16, 3\) and type uint8, not \(height, width, 3\) uint8"):
        Encoder.open(nested).encode(PICTURES[0])


# ../shared ----------------------------------------------------------------------------------------------------------


@pytest.mark.shared
def test_minilm_agrees_with_sentence_transformers_on_all_256_texts():
    artifact = import_encoder(SHARED / "models" / "all-MiniLM-L6-v2")
    texts = json.loads((SHARED / "reference" / "minilm_texts.json").read_text())
    reference = np.load(SHARED / "reference" / "minilm_vectors.npy")
    found = Encoder.open(artifact).encode(texts)
    assert found.shape == reference.shape == (256, 384)
    assert (found * reference).sum(axis=1).min() >= 0.99999
    details = artifact.manifest.details
    assert (details["pooling"], details["normalised"], details["maximal_length"]) == ("mean", True, 256)


def test_a_series_of_pictures_is_encoded_by_position_whatever_its_index(nested_network):
    encoder = Encoder.open(import_encoder(nested_network))
    expected = encoder.encode(list(PICTURES))
    given = pandas.Series(list(PICTURES))
    for order in ([1, 3], [4, 0, 2, 1, 3], [2]):
        assert (encoder.encode(given[order]) == encoder.encode([PICTURES[place] for place in order])).all()
        assert encoder.encode(given[order]) == pytest.approx(expected[order], rel=1e-5, abs=1e-4)
