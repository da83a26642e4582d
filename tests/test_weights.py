"""Files of networks are looked at first: what is refused, with which words, and that what libraries save is not."""

import io
import json
import re
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from embedkit import UserError, frameworks
from embedkit.weights import (
    at_most,
    foreign,
    open_keras,
    read_json,
    refuse_depth,
    refuse_layers,
    refuse_links,
    refuse_paths,
    words,
)

frameworks.load_frameworks()

import keras  # noqa: E402  after the frameworks were loaded quietly

# JSON and what libraries say ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 1000, "is not JSON|is JSON that is nested too deep to be read"),
        ("[" * 100_000, "is JSON that is nested too deep to be read; download the folder again"),
        ("", "is not JSON .Expecting value: line 1 column 1 .char 0..; download the folder again"),
    ],
)
def test_json_that_can_not_be_read_is_one_sentence(tmp_path, text, said):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=f"config.json {said}"):
        read_json(tmp_path / "config.json")


def test_json_that_is_too_large_is_not_read(tmp_path):
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(256_000_001)
    with pytest.raises(UserError, match="config.json has more than 256,000,000 bytes; a network's JSON is smaller, so download"):
        read_json(tmp_path / "config.json")


def test_a_librarys_words_are_one_short_line():
    assert words(ValueError("one\n  two")) == "one two"
    assert words(MemoryError()) == "MemoryError"
    assert words(KeyError("added_tokens")) == "'added_tokens' is missing"
    assert len(words(ValueError("x" * 999))) == 203


def test_whatever_a_library_raises_becomes_a_sentence_but_an_interruption_stays_one():
    class PanicException(BaseException):  # as Rust's are called
        pass

    for error in (RuntimeError("why"), RecursionError("why"), PanicException("why")):
        with pytest.raises(UserError, match="it can't be read .why.; try another"), foreign("it can't be read", "try another"):
            raise error
    for kind in (KeyboardInterrupt, SystemExit, GeneratorExit):
        with pytest.raises(kind), foreign("it can't be read", "try another"):
            raise kind
    with pytest.raises(UserError, match="^as it is$"), foreign("it can't be read", "try another"):
        raise UserError("as it is")


# Sizes --------------------------------------------------------------------------------------------------------------


def test_a_network_larger_than_its_weights_is_stopped_before_it_is_made():
    said = "it says it is a network of at least 1,000,000,000,000 weights, but its files hold at most 100; give the complete"
    with pytest.raises(UserError, match=said), at_most(100, "it"):
        keras.layers.Dense(10**6).build((None, 10**6))


def test_a_network_as_large_as_its_weights_is_made():
    with at_most(1_000_000, "it"):
        layer = keras.layers.Dense(1000)
        layer.build((None, 999))
    assert layer.count_params() == 1_000_000


def test_another_error_while_a_network_is_made_stays_what_it_is():
    with pytest.raises(RuntimeError, match="why"), at_most(100, "it"):
        raise RuntimeError("why")


@pytest.mark.parametrize("value", [0, -1, 513, 10**9, "2", 1.5, [2]])
def test_a_depth_that_no_network_has_is_refused(value):
    said = f"config.json says num_hidden_layers is {re.escape(repr(value))}; it must be a whole number from 1 to 512"
    with pytest.raises(UserError, match=said):
        refuse_depth({"num_hidden_layers": value}, Path("config.json"))


def test_a_depth_that_networks_have_is_not_refused():
    refuse_depth({"num_hidden_layers": 48, "n_layers": None, "hidden_size": 10**9}, Path("config.json"))


@pytest.mark.parametrize("kind", ["Lambda", "TFSMLayer", "TorchModuleWrapper", "StringLookup", "BertTokenizer"])
def test_layers_that_read_files_or_run_code_are_refused_wherever_they_stand(kind):
    config = {"layers": [{"class_name": "Dense", "config": {"inner": [{"class_name": kind}]}}]}
    with pytest.raises(UserError, match=f"it has a layer of the kind {kind}, which may read files or run code; save it from plain"):
        refuse_layers(config, "it")


def test_more_layers_than_any_network_has_are_refused():
    refuse_layers([{"class_name": "Dense", "inbound_nodes": []}] * 4000, "it")
    with pytest.raises(UserError, match="it describes 4,001 layers; at most 4,000 are built, so take a smaller network"):
        refuse_layers([{"class_name": "Dense", "inbound_nodes": []}] * 4001, "it")


@pytest.mark.parametrize("path", ["../a", "/etc/passwd", "a/../../b", "a\\b", None, 7])
def test_paths_out_of_a_folder_are_refused(path):
    for named in ({"a": path}, {"a": ["fine", path]}):
        with pytest.raises(UserError, match="list.json names .*, which leads out of its folder; download the folder again"):
            refuse_paths(named, Path("list.json"))


def test_paths_within_a_folder_are_not_refused():
    refuse_paths({"a": "model-00001.safetensors", "b": ["x/y.h5"], "c": ""}, Path("list.json"))
    with pytest.raises(UserError, match="list.json names no files; download the folder again"):
        refuse_paths(["a"], Path("list.json"))


# HDF5 ---------------------------------------------------------------------------------------------------------------


def external(file, other):
    file.create_dataset("x", (4,), "<f4", external=[(other, 0, 16)])


def virtual(file, other):
    layout = h5py.VirtualLayout((4,), "<f4")
    layout[:] = h5py.VirtualSource(other, "x", (4,))
    file.create_virtual_dataset("x", layout)


def soft(file, other):
    file["y"] = np.zeros(4, np.float32)
    file["inside/x"] = h5py.SoftLink("/y")


def outside(file, other):
    file["x"] = h5py.ExternalLink(other, "/x")


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (external, "takes x from another file"),
        (virtual, "takes x from another file"),
        (soft, "has a link instead of weights at inside/x"),
        (outside, "has a link instead of weights at x"),
        (lambda file, _: file.create_dataset("x", (10**6, 10**6), "<f4", chunks=(10, 10)), "unpacks to more than 4,000,000,000"),
        (lambda file, _: file.create_dataset("x", data=np.zeros(10**6), compression="gzip"), "unpacks to more than 8,000,000 byte"),
        (lambda file, _: file.create_dataset("x", data="a text"), "holds something else than weights at x"),
        (lambda file, _: file.create_dataset("x", data=np.array([b"a" * 99])), "holds something else than weights at x"),
        (lambda file, _: file.__setitem__("x", np.dtype("<f4")), "holds something else than weights at x"),
    ],
)
def test_hdf5_that_does_not_hold_its_weights_itself_is_refused(tmp_path, write, said):
    path = tmp_path / "weights.h5"
    (tmp_path / "other").write_bytes(bytes(16))
    with h5py.File(path, "w") as file:
        write(file, str(tmp_path / "other"))
    with pytest.raises(UserError, match=f"it {said}.*; only files that hold all their weights themselves are read, so"):
        refuse_links(path, "it", path.stat().st_size)


def test_what_is_no_hdf5_is_refused(tmp_path):
    (tmp_path / "weights.h5").write_bytes(b"none")
    with pytest.raises(UserError, match="it can't be read as HDF5 weights .*; download it again"):
        refuse_links(tmp_path / "weights.h5", "it", 4)


def test_hdf5_of_weights_is_not_refused(tmp_path):
    with h5py.File(tmp_path / "weights.h5", "w") as file:
        file["a/b"], file["c"] = np.random.default_rng(0).normal(size=(99, 99)), np.float32(7)
        file["again"] = file["a/b"]  # under a second name, as h5py shares arrays
    refuse_links(tmp_path / "weights.h5", "it", (tmp_path / "weights.h5").stat().st_size)


# Keras files --------------------------------------------------------------------------------------------------------


def rezipped(path, change, kind=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path) as given:
        members = {name: given.read(name) for name in given.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w", kind) as made:
        for name, data in members.items():
            made.writestr(name, data)


@pytest.fixture
def saved(tmp_path, dense):
    dense.save(tmp_path / "dense.keras")
    return tmp_path / "dense.keras"


@pytest.mark.parametrize("kind", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_keras_file_is_opened_packed_or_not(saved, kind):
    rezipped(saved, lambda members: None, kind)
    assert open_keras(saved, "it").layers[-1].get_weights()[1].tolist() == [10, 20]


def test_a_keras_file_of_two_members_of_one_name_is_refused(saved):
    with zipfile.ZipFile(saved, "a") as packed, pytest.warns(UserWarning, match="Duplicate name"):
        packed.writestr("config.json", "{}")
    with pytest.raises(UserError, match="it holds two members of one name; save it anew"):
        open_keras(saved, "it")


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "assets/words.txt", "config.json/x"])
def test_a_keras_file_with_other_members_is_refused(saved, name):
    rezipped(saved, lambda members: members.update({name: b"x"}))
    with pytest.raises(UserError, match=f"it holds '{name}', which is no part of a plain Keras model; save it anew"):
        open_keras(saved, "it")


def test_a_keras_file_that_unpacks_to_far_more_is_refused(saved):
    rezipped(saved, lambda members: members.update({"metadata.json": b" " * 30_000_000}), zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match="it unpacks to 30,[0-9,]* bytes, from [0-9]*,[0-9]*, which weights do not; save it anew"):
        open_keras(saved, "it")


def test_a_link_in_the_weights_of_a_keras_file_is_refused(saved, tmp_path):
    def link(members):
        held = io.BytesIO(members["model.weights.h5"])
        with h5py.File(held, "a") as file:
            outside(file, str(tmp_path / "other.h5"))
        members["model.weights.h5"] = held.getvalue()

    for kind in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        rezipped(saved, link if kind == zipfile.ZIP_STORED else lambda members: None, kind)
        with pytest.raises(UserError, match="it has a link instead of weights at x; only files that hold all their weights"):
            open_keras(saved, "it")


def test_a_keras_file_that_describes_more_than_it_holds_is_refused(saved):
    def widen(members):
        config = json.loads(members["config.json"])
        config["config"]["layers"][-1]["config"]["units"] = 10**9
        members["config.json"] = json.dumps(config).encode()

    rezipped(saved, widen)
    with pytest.raises(UserError, match="it says it is a network of at least 3,000,000,002 weights, but its files hold at most"):
        open_keras(saved, "it")


def test_a_keras_file_that_can_not_be_read_is_refused(saved):
    rezipped(saved, lambda members: members.update({"config.json": b"[" * 100_000}))
    with pytest.raises(UserError, match="it can't be read as a Keras model without running code of it .maximum recursion depth"):
        open_keras(saved, "it")
