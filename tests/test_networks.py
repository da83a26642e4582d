"""Networks: what can be read as one, what is refused, and cutting at any layer, nested or not."""

import io
import json
import re
import shutil
import zipfile

import numpy as np
import pytest
from conftest import SHARED, WORDS
from PIL import Image
from tokenizers import Tokenizer

from embedkit import Encoder, ImportEncoder, UserError, engines, frameworks, import_encoder, networks
from embedkit.encoders import layers as cuts
from embedkit.pipelines import TextFeed
from embedkit.sources import Source

frameworks.load_frameworks()

import keras  # noqa: E402  after the frameworks were loaded quietly
import keras_hub  # noqa: E402
from keras import layers, ops  # noqa: E402

PICTURES = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3)).astype(np.uint8)


@pytest.fixture(autouse=True)
def fresh():
    """The same names and weights in each test, whichever ran before."""
    frameworks.start_keras(0)


def load(source, **settings):
    """A network as `import_encoder` gets it."""
    chosen = ImportEncoder(**settings)
    return networks.load(Source(source), chosen.architecture, chosen.alpha, chosen.image_size, chosen.scaling)


def output(network, tensor, inputs):
    return engines.predict(keras.Model(network.model.input, tensor), inputs)


def saved(path, inputs, outputs):
    keras.Model(inputs, outputs).save(path)
    return path


def square(channels=3):
    return keras.Input((16, 16, channels))


# Cutting ------------------------------------------------------------------------------------------------------------


def test_layers_are_listed_in_order_with_the_paths_of_nested_ones(nested_network):
    assert cuts(nested_network) == [
        ("scaling", "Rescaling", (None, 16, 16, 3)),
        ("network/outer_first", "Conv2D", (None, 16, 16, 3)),
        ("network/inner/inner_first", "Conv2D", (None, 8, 8, 4)),
        ("network/inner/inner_second", "Conv2D", (None, 8, 8, 6)),
        ("network/inner", "Functional", (None, 8, 8, 6)),
        ("network/outer_last", "Conv2D", (None, 3, 3, 8)),
        ("network", "Functional", (None, 3, 3, 8)),
    ]


def test_a_nested_network_cut_at_every_listed_layer_gives_what_that_layer_gives(nested_network):
    outer = keras.saving.load_model(nested_network)
    inner = outer.get_layer("inner")
    pixels = PICTURES.astype(np.float32)
    first = outer.get_layer("outer_first")(pixels)
    middle = inner.get_layer("inner_first")(first)
    last = inner.get_layer("inner_second")(middle)
    end = outer.get_layer("outer_last")(last)
    by_hand = {"scaling": pixels, "network/outer_first": first, "network/inner/inner_first": middle}
    by_hand |= {"network/inner/inner_second": last, "network/inner": last, "network/outer_last": end, "network": end}
    assert list(by_hand) == [path for path, _, _ in cuts(nested_network)]
    for path, expected in by_hand.items():
        network = load(nested_network)
        found = output(network, networks.find_layer(network, path), PICTURES)
        assert found == pytest.approx(np.asarray(expected), rel=1e-5, abs=1e-4), path


def test_a_bare_name_finds_a_layer_however_deep(nested_network):
    network = load(nested_network)
    by_name = output(network, networks.find_layer(network, "inner_second"), PICTURES)
    by_path = output(network, networks.find_layer(network, "network/inner/inner_second"), PICTURES)
    assert np.array_equal(by_name, by_path)


def test_a_cut_leaves_the_later_layers_out(nested_network):
    network = load(nested_network)
    paths = [path for path, _, _ in cuts(nested_network)]
    sizes = [keras.Model(network.model.input, networks.find_layer(network, path)).count_params() for path in paths]
    # 3x3x1x1+3; +3x3x3x4+4; +3x3x4x6+6; the same; +3x3x6x8+8; the same
    assert sizes == [0, 12, 124, 346, 346, 786, 786]


def test_by_default_the_cut_is_after_the_last_layer(nested_network):
    network = load(nested_network)
    assert network.layer == "outer_last"
    by_hand = keras.saving.load_model(nested_network).predict(PICTURES.astype(np.float32), verbose=0)
    assert output(network, network.output, PICTURES) == pytest.approx(by_hand, rel=1e-5, abs=1e-4)


def test_an_unknown_layer_is_refused_with_near_ones(nested_network):
    with pytest.raises(UserError, match=r"layer 'inner_frist' is not known; did you mean 'inner_first'.*`embedkit layers SOURCE`"):
        import_encoder(nested_network, ImportEncoder(layer="inner_frist"))


def test_an_unknown_layer_with_nothing_near_is_refused_with_those_there_are(nested_network):
    with pytest.raises(UserError, match="layer 'zzz' is not known; there is scaling, outer_first, inner_first, inner_second"):
        import_encoder(nested_network, ImportEncoder(layer="zzz"))


def test_several_cuts_of_one_network_come_from_one_pass(nested_network):
    network = load(nested_network)
    paths = [path for path, _, _ in cuts(nested_network)]
    tensors = networks.locate_all(network.model, [path.split("/") for path in paths])
    assert len(tensors) == len(paths)
    joined = keras.Model(network.model.input, [layers.Flatten()(tensor) for tensor in tensors])(PICTURES.astype(np.float32))
    for path, found in zip(paths, joined, strict=True):
        alone = load(nested_network)
        expected = output(alone, networks.find_layer(alone, path), PICTURES)
        assert np.asarray(found) == pytest.approx(expected.reshape(3, -1), rel=1e-5, abs=1e-4), path


def test_a_path_is_found_by_a_bare_name(nested_network):
    model = load(nested_network).model
    assert networks.path_of(model, "inner_second") == "network/inner/inner_second"
    assert networks.path_of(model, "network/inner") == "network/inner"


# Where everything passes --------------------------------------------------------------------------------------------


def bottlenecks(*ends):
    return [name for name, _ in networks.bottlenecks(keras.Model(*ends))]


def test_everything_passes_through_the_embeddings_and_each_layer_of_a_bert(tiny_bert):
    network = load(tiny_bert)
    names = [name for name, _ in networks.bottlenecks(keras.Model(network.model.input, network.output))]
    assert names[-4:] == ["embeddings_layer_norm", "embeddings_dropout", "transformer_layer_0", "transformer_layer_1"]
    assert not {"position_embedding", "segment_embedding"} & set(names)


@pytest.mark.parametrize("pooling", ["mean", "max", "cls"])
def test_the_mask_behind_a_pooling_is_no_second_way(tiny_bert, pooling):
    model = Encoder.open(import_encoder(tiny_bert, ImportEncoder(pooling=pooling))).model
    names = [name for name, _ in networks.bottlenecks(model)]
    start = names.index("embeddings_layer_norm")
    assert names[start : start + 4] == ["embeddings_layer_norm", "embeddings_dropout", "transformer_layer_0", "transformer_layer_1"]


def test_everything_passes_only_between_the_blocks_of_a_residual_network():
    pixels = square()
    x = stem = layers.Conv2D(4, 3, padding="same", name="stem")(pixels)
    for block in range(2):
        y = layers.Conv2D(4, 3, padding="same", name=f"first_{block}")(x)
        y = layers.Conv2D(4, 3, padding="same", name=f"second_{block}")(layers.ReLU(name=f"relu_{block}")(y))
        x = layers.Add(name=f"add_{block}")([x, y])
    assert bottlenecks(pixels, layers.ReLU(name="end")(x)) == ["stem", "add_0", "add_1", "end"]
    assert bottlenecks(pixels, layers.Concatenate(name="both")([x, stem])) == ["stem", "both"]  # the stem goes on to the end


def test_a_layer_of_two_branches_is_no_bottleneck_and_the_one_that_joins_them_is():
    pixels = square()
    stem = layers.Conv2D(2, 1, name="stem")(pixels)
    branches = [layers.Conv2D(2, 1, name=f"branch_{number}")(stem) for number in range(2)]
    joined = layers.Concatenate(name="joined")(branches)
    assert bottlenecks(pixels, joined) == ["stem", "joined"]


def test_the_inside_of_a_nested_network_counts_where_everything_passes(nested_network):
    names = networks.bottlenecks(load(nested_network).model)
    paths = ["scaling", "network/outer_first", "network/inner/inner_first", "network/inner/inner_second", "network/outer_last"]
    assert [name for name, _ in names] == paths
    assert names[1][1] == "Conv2D"


def twins(path):
    """Two nested networks, one after the other, each with a layer called `same`."""

    def half(name, width):
        inside = square()
        return keras.Model(inside, layers.Conv2D(width, 1, name="same")(inside), name=name)

    pixels = square()
    return saved(path, pixels, layers.ReLU(name="end")(half("right", 3)(half("left", 3)(pixels))))


def test_a_name_that_two_layers_have_is_refused_with_their_paths(tmp_path):
    network = load(twins(tmp_path / "twins.keras"))
    with pytest.raises(UserError, match=r"'same'.*network/left/same.*network/right/same"):
        networks.find_layer(network, "same")


def test_the_path_of_a_layer_tells_two_of_one_name_apart(tmp_path):
    path = twins(tmp_path / "twins.keras")
    whole, network = keras.saving.load_model(path), load(path)
    for name in ("left", "right"):
        found = output(network, networks.find_layer(network, f"network/{name}/same"), PICTURES)
        pixels = PICTURES.astype(np.float32)
        left = whole.get_layer("left")(pixels)
        expected = left if name == "left" else whole.get_layer("right")(left)
        assert found == pytest.approx(np.asarray(expected), rel=1e-5, abs=1e-3)


def test_a_network_that_ends_in_a_nested_one_is_cut_after_it(tmp_path):
    inside, pixels = square(), square()
    backbone = keras.Model(inside, layers.Conv2D(4, 3, name="last")(inside), name="backbone")
    path = saved(tmp_path / "wrapped.keras", pixels, backbone(pixels))
    network = load(path)
    expected = keras.saving.load_model(path).predict(PICTURES.astype(np.float32), verbose=0)
    assert output(network, network.output, PICTURES) == pytest.approx(expected, rel=1e-5, abs=1e-3)


def test_a_sequential_inside_a_functional_network_is_cut_like_any_other(tmp_path):
    inner = keras.Sequential([square(), layers.Conv2D(4, 3, name="one"), layers.Conv2D(5, 3, name="two")], name="row")
    pixels = square()
    path = saved(tmp_path / "mixed.keras", pixels, layers.ReLU(name="end")(inner(layers.Conv2D(3, 1, name="start")(pixels))))
    whole, network = keras.saving.load_model(path), load(path)
    expected = whole.get_layer("row").get_layer("one")(whole.get_layer("start")(PICTURES.astype(np.float32)))
    assert output(network, networks.find_layer(network, "one"), PICTURES) == pytest.approx(np.asarray(expected), rel=1e-5, abs=1e-3)


def test_a_sequential_file_is_a_network(tmp_path):
    model = keras.Sequential([square(), layers.Conv2D(4, 3, name="one"), layers.Flatten(name="flat"), layers.Dense(5, name="two")])
    model.save(tmp_path / "row.keras")
    network = load(tmp_path / "row.keras")
    assert network.layer == "two"
    expected = model.predict(PICTURES.astype(np.float32), verbose=0)
    assert output(network, network.output, PICTURES) == pytest.approx(expected, rel=1e-5, abs=1e-2)
    assert [path for path, _, _ in cuts(tmp_path / "row.keras")][1:-1] == ["network/one", "network/flat", "network/two"]


def test_a_network_that_ends_in_a_bare_operation_is_read(tmp_path):
    pixels = square()
    path = saved(tmp_path / "bare.keras", pixels, ops.relu(layers.Conv2D(4, 3)(pixels)) - 1)
    network = load(path)
    expected = keras.saving.load_model(path).predict(PICTURES.astype(np.float32), verbose=0)
    assert output(network, network.output, PICTURES) == pytest.approx(expected, rel=1e-5, abs=1e-3)


# .keras files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scaling", "expected"), [("0..255", (0, 255)), ("0..1", (0, 1)), ("-1..1", (-1, 1))])
def test_the_scaling_of_a_keras_file_is_what_it_is_said_to_expect(nested_network, scaling, expected):
    network = load(nested_network, scaling=scaling)
    black_and_white = np.stack([np.zeros((16, 16, 3), np.uint8), np.full((16, 16, 3), 255, np.uint8)])
    found = output(network, network.model.get_layer("scaling").output, black_and_white)
    assert (found[0].max(), found[1].max()) == pytest.approx(expected)


def refused(path, inputs, outputs, words):
    with pytest.raises(UserError, match=words):
        load(saved(path, inputs, outputs))


def test_a_network_of_vectors_is_refused(tmp_path):
    vectors = keras.Input((16,))
    refused(tmp_path / "a.keras", vectors, layers.Dense(2)(vectors), r"a\.keras doesn't take pictures of one size .*the only kind")


def test_a_network_for_pictures_of_any_size_is_refused(tmp_path):
    pixels = keras.Input((None, None, 3))
    refused(tmp_path / "a.keras", pixels, layers.Conv2D(2, 3)(pixels), r"a\.keras doesn't take pictures of one size")


def test_a_network_of_two_inputs_is_refused(tmp_path):
    inputs = [square(), square()]
    refused(tmp_path / "a.keras", inputs, layers.Add()(inputs), r"a\.keras doesn't take pictures of one size")


def test_a_network_for_grey_pictures_is_refused(tmp_path):
    pixels = square(1)
    refused(tmp_path / "a.keras", pixels, layers.Conv2D(2, 3)(pixels), r"a\.keras .*16, 16, 1")


@pytest.mark.parametrize("kind", [list, dict])
def test_a_network_of_two_outputs_is_refused(tmp_path, kind):
    pixels = square()
    outputs = kind({"a": layers.Conv2D(2, 3, name="first")(pixels), "b": layers.Conv2D(4, 3, name="second")(pixels)}.items())
    outputs = outputs if kind is dict else [tensor for _, tensor in outputs]
    refused(tmp_path / "a.keras", pixels, outputs, r"a\.keras .*outputs")


def test_code_in_a_keras_file_is_never_run(tmp_path):
    pixels = square()
    words = r"a\.keras has a layer of the kind Lambda, which may read files or run code; save it from plain layers"
    refused(tmp_path / "a.keras", pixels, layers.Lambda(lambda x: x * 2)(pixels), words)


def test_a_file_that_is_no_network_is_refused(tmp_path):
    (tmp_path / "junk.keras").write_bytes(b"junk")
    with pytest.raises(UserError, match=r"junk\.keras can't be read as a Keras model"):
        load(tmp_path / "junk.keras")


def test_a_damaged_keras_file_is_refused(tmp_path, nested_network):
    path = tmp_path / "damaged.keras"
    with zipfile.ZipFile(nested_network) as given, zipfile.ZipFile(path, "w") as kept:
        for name in given.namelist():
            kept.writestr(name, given.read(name)[:200] if name.endswith(".h5") else given.read(name))
    with pytest.raises(UserError, match=r"damaged\.keras can't be read as HDF5 weights .*; download it again"):
        load(path)


def test_what_is_no_network_at_all_is_refused():
    with pytest.raises(UserError, match="builtin:digits is no network; give a folder, a weights file, hf://NAME, keras://PRESET"):
        import_encoder("builtin:digits")


# keras.applications -------------------------------------------------------------------------------------------------


def test_the_scaling_of_every_architecture_is_its_own_preprocessing():
    pixels = np.random.default_rng(1).integers(0, 256, (2, 5, 4, 3)).astype(np.float32)
    kinds = set()
    for name, (_, preprocess) in networks._applications().items():
        scale, offset, flip = networks._affine(preprocess)
        kinds.add((tuple(np.round(scale, 6)), flip))
        found = (pixels[..., ::-1] if flip else pixels) * scale + offset
        assert found == pytest.approx(preprocess(pixels.copy()), abs=1e-3), name
    assert len(kinds) == 4  # none, -1 to 1, mean and deviation of ImageNet, BGR without the mean


def test_every_architecture_of_keras_applications_is_known():
    known = set(networks._applications())
    assert {name for name in dir(keras.applications) if name[0].isupper()} <= known


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Random weights of MobileNet 0.25 without the classifier."""
    frameworks.start_keras(0)
    path = tmp_path_factory.mktemp("weights") / "mobilenet.weights.h5"
    keras.applications.MobileNet(alpha=0.25, include_top=False, weights=None, input_shape=(32, 32, 3)).save_weights(path)
    return path


def test_a_weights_file_needs_its_architecture(weights):
    with pytest.raises(UserError, match=r"mobilenet\.weights\.h5 holds weights only; say of which .* such as MobileNetV2"):
        load(weights)


def test_an_unknown_architecture_is_refused_with_near_ones(weights):
    with pytest.raises(UserError, match="architecture 'MobilNetV2' is not known; did you mean 'MobileNetV2'"):
        load(weights, architecture="MobilNetV2")


def test_a_width_is_refused_where_there_is_none(weights):
    with pytest.raises(UserError, match="ResNet50 has no width multiplier; leave alpha out"):
        load(weights, architecture="ResNet50", alpha=0.5)


@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # Keras names each weight that doesn't fit
def test_weights_of_another_width_are_refused(weights):
    words = "doesn't fit MobileNet .*; check the architecture, alpha and image_size"
    with pytest.raises(UserError, match=words):
        load(weights, architecture="MobileNet", alpha=0.5, image_size=32)


def test_a_file_of_weights_that_is_none_is_refused(tmp_path):
    (tmp_path / "junk.h5").write_bytes(b"junk")
    with pytest.raises(UserError, match=r"junk\.h5 doesn't fit MobileNet .*check the architecture"):
        load(tmp_path / "junk.h5", architecture="MobileNet")


def test_a_width_that_has_no_weights_on_the_hub_is_not_called_a_network_failure():
    with pytest.raises(UserError, match="0.33") as caught:
        load("applications://MobileNetV2", alpha=0.33)
    assert "no network" not in str(caught.value)


def test_an_application_is_cut_after_its_last_layer_even_where_that_is_one_pixel(weights):
    network = load(weights, architecture="MobileNet", alpha=0.25, image_size=32)
    assert network.layer == "conv_pw_13_relu"
    assert tuple(network.output.shape) == (None, 1, 1, 256)


def test_the_size_of_pictures_is_read_from_the_files_name(weights, tmp_path):
    named = tmp_path / "mobilenet_0.25_96_no_top.weights.h5"
    shutil.copy(weights, named)
    assert tuple(load(named, architecture="MobileNet", alpha=0.25).model.input.shape) == (None, 96, 96, 3)


def test_a_weights_file_with_the_classifier_is_read_too_and_cut_before_it(tmp_path):
    model = keras.applications.MobileNet(alpha=0.25, weights=None, input_shape=(64, 64, 3), classes=1000)
    model.save_weights(tmp_path / "with_top.weights.h5")
    network = load(tmp_path / "with_top.weights.h5", architecture="MobileNet", alpha=0.25, image_size=64)
    assert network.layer == "conv_pw_13_relu"
    pixels = np.random.default_rng(2).integers(0, 256, (2, 64, 64, 3)).astype(np.uint8)
    by_hand = keras.Model(model.input, model.get_layer("conv_pw_13_relu").output)
    expected = by_hand.predict(keras.applications.mobilenet.preprocess_input(pixels.astype(np.float32)), verbose=0)
    assert output(network, network.output, pixels) == pytest.approx(expected, rel=1e-4, abs=1e-5)


# Hugging Face folders -----------------------------------------------------------------------------------------------


def copy_of(folder, target, **files):
    """A copy of a folder; `config={...}` changes fields of config.json, `modules=[...]` replaces modules.json."""
    shutil.copytree(folder, target)
    names = {
        **{"config": "config.json", "modules": "modules.json", "pooling": "1_Pooling/config.json"},
        **{"lengths": "sentence_bert_config.json", "tokenizer": "tokenizer_config.json"},
        **{"prompts": "config_sentence_transformers.json"},
    }
    for key, value in files.items():
        path = target / names[key]
        if isinstance(value, dict) and key in ("config", "tokenizer", "lengths"):
            value = {name: v for name, v in (json.loads(path.read_text()) | value).items() if v is not None}
        path.write_text(json.dumps(value))
    return target


def tokens(network, text):
    return Tokenizer.from_str(network.tokenizer).encode(text.lower() if network.lower else text).tokens


def test_sentence_transformers_own_files_say_pooling_normalisation_and_length(tiny_bert):
    network = load(tiny_bert)
    assert (network.modality, network.layer, network.pooling, network.normalised) == ("texts", "transformer_layer_1", "mean", True)
    assert (network.maximal_length, network.prompt) == (32, "")


def test_without_sentence_transformers_files_it_is_mean_pooling_and_the_networks_length(tiny_bert, tmp_path):
    folder = copy_of(tiny_bert, tmp_path / "plain")
    (folder / "modules.json").unlink()
    network = load(folder)
    assert (network.pooling, network.normalised, network.maximal_length) == ("mean", False, 64)


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_max_tokens": True, "word_embedding_dimension": 16}, "max"),
        ({"pooling_mode": "cls"}, "cls"),
        ({"pooling_mode": "mean", "include_prompt": True}, "mean"),
    ],
)
def test_pooling_is_read_in_both_of_its_spellings(tiny_bert, tmp_path, pooling, expected):
    assert load(copy_of(tiny_bert, tmp_path / "pooled", pooling=pooling)).pooling == expected


@pytest.mark.parametrize(
    ("pooling", "words"),
    [
        ({"pooling_mode_lasttoken": True}, "pools by lasttoken, but only one of cls, mean and max is read"),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}, "pools by mean_tokens and max_tokens, but only one"),
        ({}, "pools by nothing, but only one of"),
    ],
)
def test_pooling_that_would_be_another_is_refused(tiny_bert, tmp_path, pooling, words):
    with pytest.raises(UserError, match=words):
        load(copy_of(tiny_bert, tmp_path / "pooled", pooling=pooling))


def test_pooling_that_leaves_the_prompt_out_is_refused_where_there_is_a_prompt(tiny_bert, tmp_path):
    prompts = {"prompts": {"query": "good : "}, "default_prompt_name": "query"}
    pooling = {"pooling_mode_mean_tokens": True, "include_prompt": False}
    with pytest.raises(UserError, match="prompt"):
        load(copy_of(tiny_bert, tmp_path / "pooled", pooling=pooling, prompts=prompts))


def test_a_module_that_would_be_lost_is_refused(tiny_bert, tmp_path):
    modules = json.loads((tiny_bert / "modules.json").read_text())
    modules.append({"idx": 3, "name": "3", "path": "3_Dense", "type": "sentence_transformers.models.Dense"})
    with pytest.raises(UserError, match="ends in a Dense module, which would be lost; only Transformer, Pooling and Normalize"):
        load(copy_of(tiny_bert, tmp_path / "dense", modules=modules))


def test_the_default_prompt_is_read_and_others_are_not(tiny_bert, tmp_path):
    prompts = {"query": "good : ", "document": "bad : "}
    chosen = copy_of(tiny_bert, tmp_path / "chosen", prompts={"prompts": prompts, "default_prompt_name": "query"})
    assert load(chosen).prompt == "good : "
    open_ = copy_of(tiny_bert, tmp_path / "open", prompts={"prompts": prompts, "default_prompt_name": None})
    assert load(open_).prompt == ""


@pytest.mark.parametrize(("own", "tokenizer", "expected"), [(16, 64, 16), (None, 20, 20), (None, None, 64), (100, 1000, 64)])
def test_the_maximal_length_is_the_smallest_that_is_said(tiny_bert, tmp_path, own, tokenizer, expected):
    files = {"lengths": {"max_seq_length": own}, "tokenizer": {"model_max_length": tokenizer}}
    assert load(copy_of(tiny_bert, tmp_path / "length", **files)).maximal_length == expected


def test_lower_casing_is_read_from_sentence_transformers_own_file(tiny_bert, tmp_path):
    cased = {"tokenizer": {"do_lower_case": False}}
    kept = load(copy_of(tiny_bert, tmp_path / "kept", **cased))
    lowered = load(copy_of(tiny_bert, tmp_path / "lowered", lengths={"do_lower_case": True}, **cased))
    assert tokens(kept, "the CAT") == ["[CLS]", "the", "[UNK]", "[SEP]"]
    assert tokens(lowered, "the CAT") == ["[CLS]", "the", "cat", "[SEP]"]


def test_lower_casing_comes_before_special_tokens_are_looked_for(tiny_bert, tmp_path):
    # sentence-transformers lower-cases the text itself, so that a spelled-out [SEP] is no special token any more
    folder = copy_of(tiny_bert, tmp_path / "lowered", tokenizer={"do_lower_case": False}, lengths={"do_lower_case": True})
    assert tokens(load(folder), "cat [SEP] dog").count("[SEP]") == 1


def test_a_folder_with_pickled_weights_only_is_refused(tiny_bert, tmp_path):
    folder = copy_of(tiny_bert, tmp_path / "pickled")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"holds no \.safetensors file; other formats are pickled and are not read, so convert it"):
        load(folder)


def test_a_folder_without_its_vocabulary_is_refused(tiny_bert, tmp_path):
    folder = copy_of(tiny_bert, tmp_path / "wordless")
    (folder / "vocab.txt").unlink()
    with pytest.raises(UserError, match="tokenizer"):
        load(folder)


def test_a_folder_without_any_tokenizer_file_is_refused(tiny_bert, tmp_path):
    folder = copy_of(tiny_bert, tmp_path / "wordless")
    (folder / "vocab.txt").unlink()
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(UserError, match="tokenizer"):
        load(folder)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "gpt2"}, "model type 'gpt2' is not known; there is bert, distilbert"),
        ({"model_type": "berd"}, "model type 'berd' is not known; did you mean 'bert'"),
        ({"model_type": None}, "holds no network: its config.json names none; give a Hugging Face or keras-hub folder"),
        ({"hidden_act": "tanh"}, r"activation 'tanh' is not known; there is gelu, relu, silu.* \(in .*other/config.json\)"),
        ({"hidden_act": "gleu"}, "activation 'gleu' is not known; did you mean 'gelu'"),
        ({"position_embedding_type": "relative_key"}, "other has relative_key positions; only absolute ones are read, so take"),
        ({"hidden_size": 32}, "can't be read as a network"),
    ],
)
def test_a_network_that_would_be_computed_differently_is_refused(tiny_bert, tmp_path, config, words):
    with pytest.raises(UserError, match=words):
        load(copy_of(tiny_bert, tmp_path / "other", config=config))


@pytest.mark.parametrize("kind", ["electra", "deberta-v2", "modernbert"])
def test_a_family_that_keras_hub_has_not_is_refused_as_such(tiny_bert, tmp_path, kind):
    with pytest.raises(UserError) as caught:
        load(copy_of(tiny_bert, tmp_path / "other", config={"model_type": kind}))
    assert f"model type '{kind}' is not known" in str(caught.value)


def test_a_config_that_is_no_json_is_refused(tiny_bert, tmp_path):
    folder = copy_of(tiny_bert, tmp_path / "broken")
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json is not JSON .*; download the folder again"):
        load(folder)


def test_a_folder_that_is_something_else_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty holds no network: its config.json names none"):
        load(tmp_path / "empty")


def reweighted(folder, target, change):
    from safetensors.numpy import load_file, save_file

    copy_of(folder, target)
    save_file(change(load_file(target / "model.safetensors")), target / "model.safetensors", metadata={"format": "pt"})
    return target


def test_weights_cut_off_or_missing_are_refused(tiny_bert, tmp_path):
    cut = copy_of(tiny_bert, tmp_path / "cut")
    (cut / "model.safetensors").write_bytes((tiny_bert / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(UserError, match="cut can't be read as a network .*; give the complete folder of one"):
        load(cut)
    gone = "encoder.layer.1.output.dense.weight"
    missing = reweighted(tiny_bert, tmp_path / "missing", lambda found: {k: v for k, v in found.items() if k != gone})
    with pytest.raises(UserError, match=f"missing can't be read as a network .*{re.escape(gone)}"):
        load(missing)


def test_weights_that_are_not_finite_are_refused(tiny_bert, tmp_path):
    name = "encoder.layer.0.output.dense.weight"
    folder = reweighted(tiny_bert, tmp_path / "nan", lambda found: found | {name: found[name] * np.nan})
    with pytest.raises(UserError, match="the network gives vectors that are not finite; its weights are damaged"):
        import_encoder(folder)


def token_vectors(network):
    """What a network gives for three texts of its own tokenizer: (texts, length, dimension)."""
    feed = TextFeed(Tokenizer.from_str(network.tokenizer), 32)
    ((_, batch),) = feed.batches(["the cat sat on the mat", "good dog", ""])
    return engines.forward(keras.Model(network.model.input, network.output))(batch)


def test_weights_under_a_prefix_are_read_alike(tiny_bert, tmp_path):
    prefixed = reweighted(tiny_bert, tmp_path / "prefixed", lambda found: {f"bert.{k}": v for k, v in found.items()})
    assert np.array_equal(token_vectors(load(prefixed)), token_vectors(load(tiny_bert)))


def test_a_bert_saved_without_its_pooler_is_read_alike(tiny_bert, tmp_path):
    bare = reweighted(tiny_bert, tmp_path / "bare", lambda found: {k: v for k, v in found.items() if "pooler" not in k})
    assert np.array_equal(token_vectors(load(bare)), token_vectors(load(tiny_bert)))


def test_a_pooler_that_was_not_saved_is_no_place_to_cut(tiny_bert, tmp_path):
    bare = reweighted(tiny_bert, tmp_path / "bare", lambda found: {k: v for k, v in found.items() if "pooler" not in k})
    with pytest.raises(UserError, match="pooled_dense"):
        import_encoder(bare, ImportEncoder(layer="pooled_dense"))


def distil(found, prefix):
    """The weights of the tiny BERT under DistilBERT's names, which has no segments and no pooler."""
    names = {
        **{f"attention.self.{part}": f"attention.{part[0]}_lin" for part in ("query", "key", "value")},
        **{"attention.output.dense": "attention.out_lin", "attention.output.LayerNorm": "sa_layer_norm"},
        **{"intermediate.dense": "ffn.lin1", "output.dense": "ffn.lin2", "output.LayerNorm": "output_layer_norm"},
        "encoder.layer": "transformer.layer",
    }
    result = {}
    for name, value in found.items():
        if "pooler" not in name and "token_type" not in name:
            for old, new in names.items():
                name = name.replace(old, new)
            result[prefix + name] = value
    return result


@pytest.mark.parametrize("prefix", ["distilbert.", ""])  # as Hugging Face's own checkpoints and as sentence-transformers' name them
def test_a_distilbert_is_a_bert_without_segments(tiny_bert, tmp_path, prefix):
    def silence(found):
        return {name: value * 0 if "token_type" in name else value for name, value in found.items()}

    silent = reweighted(tiny_bert, tmp_path / "silent", silence)
    folder = reweighted(tiny_bert, tmp_path / "distil", lambda found: distil(found, prefix))
    config = {"model_type": "distilbert", "n_layers": 2, "n_heads": 2, "dim": 16, "hidden_dim": 32, "dropout": 0.1}
    config |= {"vocab_size": json.loads((folder / "config.json").read_text())["vocab_size"], "max_position_embeddings": 64}
    (folder / "config.json").write_text(json.dumps(config | {"activation": "gelu"}))
    assert token_vectors(load(folder)) == pytest.approx(token_vectors(load(silent)), abs=1e-5)


@pytest.mark.parametrize("prefix", ["roberta.", ""])
def test_a_roberta_is_a_bert_whose_positions_start_at_two_and_that_has_one_segment(tiny_bert, tmp_path, prefix):
    def shifted(found):
        kept = {name: value for name, value in found.items() if "pooler" not in name}
        positions, segments = (f"embeddings.{name}_embeddings.weight" for name in ("position", "token_type"))
        kept[positions] = np.concatenate([np.full((2, 16), 9, np.float32), found[positions]])
        kept[segments] = found[segments][:1].copy()
        return {prefix + name: value for name, value in kept.items()}

    folder = reweighted(tiny_bert, tmp_path / "roberta", shifted)
    (folder / "tokenizer.json").write_text(load(tiny_bert).tokenizer)
    fast = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 64}
    (folder / "tokenizer_config.json").write_text(json.dumps(fast))
    (folder / "vocab.txt").unlink()
    config = {"model_type": "roberta", "max_position_embeddings": 66, "type_vocab_size": 1, "pad_token_id": 1}
    (folder / "config.json").write_text(json.dumps(json.loads((folder / "config.json").read_text()) | config))
    assert token_vectors(load(folder)) == pytest.approx(token_vectors(load(tiny_bert)), abs=1e-5)


def test_a_hub_without_a_network_says_so_and_names_the_local_form(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="hf://somebody/something could not be reached .*no network.*give the local folder or file"):
        import_encoder("hf://somebody/something")


# keras-hub presets --------------------------------------------------------------------------------------------------


def vocabulary():
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    return list(dict.fromkeys([*special, *WORDS, *letters, *".,!?'", *(f"##{letter}" for letter in letters)]))


def text_preset(folder, **tokenizer):
    folder.mkdir()
    words = vocabulary()
    shape = {"num_layers": 1, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 16, "max_sequence_length": 24}
    keras_hub.models.BertBackbone(vocabulary_size=len(words), **shape).save_to_preset(str(folder))
    if tokenizer:
        keras_hub.tokenizers.BertTokenizer(vocabulary=words, **tokenizer).save_to_preset(str(folder))
    return folder


@pytest.mark.parametrize(
    "tokenizer",
    [{"lowercase": False}, {"lowercase": True}, {"lowercase": True, "strip_accents": True}],
    ids=["cased", "lower", "strip"],
)
def test_a_keras_hub_text_preset_equals_the_preset_run_by_hand(tmp_path, tokenizer):
    folder = text_preset(tmp_path / "preset", **tokenizer)
    encoder = Encoder.open(import_encoder(folder))
    assert (encoder.facts.dimension, encoder.facts.maximal_length, encoder.facts.pooling) == (8, 24, "mean")
    backbone = keras_hub.models.Backbone.from_preset(str(folder))
    words = keras_hub.models.Tokenizer.from_preset(str(folder))
    texts = ["the cat sat on the mat", "a good film, very good!", "the Moon"]
    for text, vector in zip(texts, encoder.encode(texts), strict=True):
        ids = np.array([[words.cls_token_id, *np.asarray(words(text)).tolist(), words.sep_token_id]])
        given = {"token_ids": ids, "padding_mask": np.ones_like(ids), "segment_ids": np.zeros_like(ids)}
        expected = np.asarray(backbone(given)["sequence_output"]).mean(axis=1)[0]
        assert vector == pytest.approx(expected, abs=1e-5)


def test_a_text_preset_without_its_tokenizer_is_refused(tmp_path):
    with pytest.raises(UserError, match="tokenizer"):
        import_encoder(text_preset(tmp_path / "preset"))


def picture_preset(folder, **converter):
    folder.mkdir()
    shape = {"input_conv_filters": [64], "input_conv_kernel_sizes": [3], "stackwise_num_filters": [64]}
    shape |= {"stackwise_num_blocks": [1], "stackwise_num_strides": [1]}
    keras_hub.models.ResNetBackbone(**shape, block_type="basic_block", image_shape=(16, 16, 3)).save_to_preset(str(folder))
    if converter:
        keras_hub.layers.ResNetImageConverter(**converter).save_to_preset(str(folder))
    return folder


@pytest.mark.parametrize(
    "converter",
    [
        {"image_size": (16, 16), "scale": [1 / 50, 1 / 60, 1 / 70], "offset": [-1.0, -2.0, -3.0]},
        {"image_size": None, "scale": 1 / 255},
    ],
    ids=["channels", "any_size"],
)
def test_a_keras_hub_picture_preset_equals_the_preset_run_by_hand(tmp_path, converter):
    folder = picture_preset(tmp_path / "preset", **converter)
    encoder = Encoder.open(import_encoder(folder))
    assert (encoder.facts.height, encoder.facts.width, encoder.facts.dimension) == (16, 16, 64)
    scaled = keras_hub.layers.ImageConverter.from_preset(str(folder))(PICTURES)
    expected = np.asarray(keras_hub.models.Backbone.from_preset(str(folder))(scaled)).mean(axis=(1, 2))
    assert encoder.encode(list(PICTURES)) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_a_picture_preset_without_its_converter_is_refused(tmp_path):
    with pytest.raises(UserError, match="preset"):
        import_encoder(picture_preset(tmp_path / "preset"))


# ../shared ----------------------------------------------------------------------------------------------------------

IMAGENET = SHARED / "models" / "imagenet"


def photos_of(count):
    """Decoded photographs at 224 x 224, uint8, and the bytes they came from."""
    paths = sorted((SHARED / "data" / "hymenoptera" / "val").rglob("*.jpg"))[:: 150 // count][:count]
    data = [path.read_bytes() for path in paths]
    shown = [Image.open(io.BytesIO(each)).convert("RGB").resize((224, 224), Image.Resampling.BILINEAR) for each in data]
    return data, np.stack([np.asarray(picture) for picture in shown])


@pytest.mark.slow
@pytest.mark.shared
def test_mobilenet_v2_equals_keras_applications_run_by_hand_and_its_cut_that_layers_pooled_output():
    path = IMAGENET / "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.35_224_no_top.h5"
    settings = ImportEncoder(architecture="MobileNetV2", alpha=0.35)
    data, pixels = photos_of(4)
    model = keras.applications.MobileNetV2(alpha=0.35, include_top=False, weights=str(path), input_shape=(224, 224, 3))
    scaled = keras.applications.mobilenet_v2.preprocess_input(pixels.astype(np.float32))
    whole = engines.predict(model, scaled).mean(axis=(1, 2))
    middle = engines.predict(keras.Model(model.input, model.get_layer("block_12_add").output), scaled).mean(axis=(1, 2))
    encoder = import_encoder(path, settings)
    cut = import_encoder(path, settings.model_copy(update={"layer": "block_12_add"}))
    for artifact, expected in ((encoder, whole), (cut, middle)):
        assert Encoder.open(artifact).encode(data) == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert [artifact.manifest.details["dimension"] for artifact in (encoder, cut)] == [1280, 32]
    assert cut.manifest.details["parameters"] < encoder.manifest.details["parameters"]


@pytest.mark.slow
@pytest.mark.shared
def test_mobilenet_v1_with_and_without_its_classifier_is_one_network():
    _, pixels = photos_of(4)
    files = [IMAGENET / f"mobilenet_2_5_224_tf{end}.h5" for end in ("", "_no_top")]
    found = [load(path, architecture="MobileNet", alpha=0.25) for path in files]
    assert [(network.layer, tuple(network.output.shape)) for network in found] == [("conv_pw_13_relu", (None, 7, 7, 256))] * 2
    top, bare = (output(network, network.output, pixels).mean(axis=(1, 2)) for network in found)
    assert top == pytest.approx(bare, rel=1e-4, abs=1e-5)
    model = keras.applications.MobileNet(alpha=0.25, weights=str(files[0]))
    by_hand = keras.Model(model.input, model.get_layer("conv_pw_13_relu").output)
    expected = engines.predict(by_hand, keras.applications.mobilenet.preprocess_input(pixels.astype(np.float32)))
    assert top == pytest.approx(expected.mean(axis=(1, 2)), rel=1e-4, abs=1e-5)


# What a folder says of itself -----------------------------------------------------------------------------------------


POOLING_MODULE = {"type": "sentence_transformers.models.Pooling"}


@pytest.mark.parametrize(
    ("name", "said", "words"),
    [
        ("config.json", [], "config.json holds list where dict is expected; download the folder again"),
        ("config.json", {"model_type": ["bert"]}, "model type .* is not known; did you mean 'bert'"),
        ("config.json", {"model_type": "bert", "num_hidden_layers": 10**5}, "num_hidden_layers is 100000; it must be a"),
        ("modules.json", {}, "modules.json holds dict where list is expected; download the folder again"),
        ("modules.json", [{"path": ""}], "modules.json has a module without a type; download the folder again"),
        ("modules.json", [POOLING_MODULE | {"path": "../.."}], "modules.json names '../..', which leads out of its folder"),
        ("modules.json", [POOLING_MODULE | {"path": "/etc"}], "modules.json names '/etc', which leads out of its folder"),
        ("sentence_bert_config.json", {"max_seq_length": "x"}, "says its texts have 'x' tokens at most; it must be"),
        ("sentence_bert_config.json", {"max_seq_length": 0}, "says its texts have 0 tokens at most; it must be a number above 0"),
        ("config_sentence_transformers.json", {"prompts": [1]}, "sentence_transformers.json says no text as its prompt; download"),
        ("model.safetensors.index.json", {"weight_map": {"a": "../x"}}, "index.json names '../x', which leads out of its folder"),
        ("model.safetensors.index.json", {}, "index.json names no files; download the folder again"),
        ("1_Pooling/config.json", {"pooling_mode": "cls", "word_embedding_dimension": 9}, "pools vectors of 9 numbers, but its t"),
        ("config.json", {"model_type": "bert", "num_hidden_layers": 1, "layer_norm_eps": {}}, "can't be read as a network"),
    ],
)
def test_what_a_folder_says_wrongly_of_itself_is_refused(tiny_bert, tmp_path, name, said, words):
    folder = shutil.copytree(tiny_bert, tmp_path / "net")
    (folder / name).write_text(json.dumps(said))
    with pytest.raises(UserError, match=words):
        load(folder)


def test_a_vocabulary_far_larger_than_the_weights_is_refused_before_it_is_made(tiny_bert, tmp_path):
    folder = shutil.copytree(tiny_bert, tmp_path / "net")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 10**10}))
    with pytest.raises(UserError, match="net says it is a network of at least 160,000,000,[0-9]* weights, but its files hold"):
        load(folder)


def test_an_activation_that_is_no_word_is_refused(tiny_bert, tmp_path):
    folder = shutil.copytree(tiny_bert, tmp_path / "net")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_act": ["gelu"]}))
    with pytest.raises(UserError, match="config.json says what no network is .unhashable type: 'list'.; give the complete folder"):
        load(folder)


def test_a_bert_without_words_is_refused(tiny_bert, tmp_path):
    from safetensors.numpy import load_file, save_file

    folder = shutil.copytree(tiny_bert, tmp_path / "net")
    gone = ("embeddings.word_embeddings.weight", "pooler.dense.weight")
    kept = {name: array for name, array in load_file(folder / "model.safetensors").items() if name not in gone}
    save_file(kept, folder / "model.safetensors")
    with pytest.raises(UserError, match="net can't be read as a network .it has no table of word embeddings.; give the complete"):
        load(folder)


def test_a_tokenizer_that_transformers_can_not_open_is_refused(tiny_bert, tmp_path):
    folder = shutil.copytree(tiny_bert, tmp_path / "net")
    (folder / "tokenizer.json").write_text('{"model": {"type": "WordPiece"}}')
    with pytest.raises(UserError, match="the tokenizer of .*net can't be read .*; give the complete folder of one"):
        load(folder)


def test_a_tokenizer_with_ids_that_the_network_has_not_is_refused(tiny_bert, tmp_path):
    folder = shutil.copytree(tiny_bert, tmp_path / "net")
    (folder / "vocab.txt").write_text((folder / "vocab.txt").read_text() + "quick\nfox\n")
    with pytest.raises(UserError, match="the network can't embed the canaries .*; its files don't fit each other, so import it"):
        import_encoder(folder)


def test_a_picture_that_becomes_too_many_numbers_is_refused(tmp_path):
    pixels = square()
    path = saved(tmp_path / "large.keras", pixels, layers.UpSampling2D(9000, name="up")(pixels))
    words = "large.keras makes 62,208,000,000 numbers of a picture at its layer up; at most 268,435,456 are computed, so take"
    with pytest.raises(UserError, match=words):
        load(path)


def test_a_link_in_a_weights_file_is_refused(tmp_path):
    import h5py

    with h5py.File(tmp_path / "mobilenet.h5", "w") as file:
        file["x"] = h5py.ExternalLink("other.h5", "/x")
    with pytest.raises(UserError, match="mobilenet.h5 has a link instead of weights at x; only files that hold all their weights"):
        load(tmp_path / "mobilenet.h5", architecture="MobileNet", alpha=0.25)


def test_a_whole_model_in_h5_is_told_from_weights(tmp_path):
    frameworks.start_keras(0)
    given = keras.Input((8, 8, 3))
    keras.Model(given, keras.layers.Flatten()(given)).save(tmp_path / "whole.h5")
    with pytest.raises(UserError, match=r"whole\.h5 holds a whole model in an old format; open it in Keras and save it as \.keras"):
        load(tmp_path / "whole.h5")


def test_texts_are_cut_on_the_side_that_the_tokenizer_says(tiny_bert, tmp_path):
    folder = copy_of(tiny_bert, tmp_path / "left", tokenizer={"truncation_side": "left"})
    words = " ".join(["film"] * 100 + ["good"])
    left, right = (import_encoder(each, ImportEncoder(maximal_length=8)) for each in (folder, tiny_bert))
    end, beginning = (Encoder.open(each).encode([words]) for each in (left, right))
    short = Encoder.open(right).encode([" ".join(["film"] * 5 + ["good"])])
    assert np.allclose(end, short, atol=1e-6) and not np.allclose(beginning, short, atol=1e-3)
