"""Hostile networks: importing one ends in exit code 1 and one sentence, soon, in little memory, and runs nothing of it.

Each is imported by the command in a child process, whose end, time and memory are seen. What was tried and what held is printed
with `-s`. Some lie about a thing that is never asked for (code that nobody runs): those may be imported as if it weren't there.
"""

import io
import json
import os
import shutil
import struct
import zipfile

import h5py
import numpy as np
import pytest
from conftest import outcomes
from safetensors.numpy import load_file, save_file

SECRET = "root-of-all-secrets"
SECONDS, WAIT = 30, 200
"""Of a processor, and by the clock, for each; a machine that has other things to do takes ten times as long as one that has not."""
MEMORY = 1_500_000
"""Kilobytes that all of them together may add to what the first import takes."""

CHILD = """
import contextlib, io, json, os, re, sys
from pathlib import Path
from embedkit.cli import main
from embedkit.frameworks import load_frameworks

load_frameworks()
import transformers

for line in sys.stdin:
    words = json.loads(line)
    print("begins", flush=True)
    out, err, before = io.StringIO(), io.StringIO(), sum(os.times()[:4])
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(words)
    except BaseException as error:
        code = repr(error)
    memory = int(re.search("VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
    print(json.dumps([code, out.getvalue(), err.getvalue(), memory, sum(os.times()[:4]) - before]), flush=True)
"""

IGNORED = "may be imported without what it asks for"


def deep(levels):
    return '{"a":' * levels + "1" + "}" * levels


# Hugging Face folders -----------------------------------------------------------------------------------------------


def edited(name, **fields):
    """A change of a folder: fields of a JSON file."""

    def change(folder):
        path = folder / name
        found = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(found | fields))

    return change


def written(name, data):
    """A change of a folder: a whole file."""

    def change(folder):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())

    return change


def tensors(**changes):
    """A change of a folder: arrays of its weights, by a part of their names; what is asked for is a function of the array."""

    def change(folder):
        found = load_file(folder / "model.safetensors")
        for part, of in changes.items():
            found |= {name: of(array) for name, array in found.items() if part in name}
        save_file(found, folder / "model.safetensors", metadata={"format": "pt"})

    return change


def without(*names):
    """A change of a folder: arrays of its weights are missing."""

    def change(folder):
        found = {name: array for name, array in load_file(folder / "model.safetensors").items() if name not in names}
        save_file(found, folder / "model.safetensors", metadata={"format": "pt"})

    return change


def header(change_header, data=None):
    """A change of a folder: what the header of its weights says."""

    def change(folder):
        raw = (folder / "model.safetensors").read_bytes()
        (size,) = struct.unpack_from("<Q", raw)
        said = json.loads(raw[8 : 8 + size])
        change_header(said)
        new = json.dumps(said).encode()
        (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(new)) + new + (raw[8 + size :] if data is None else data))

    return change


def first(said):
    return next(value for name, value in said.items() if name != "__metadata__")


def tokenizer(**parts):
    """A change of a folder: a tokenizer.json with other parts."""

    def change(folder):
        from tokenizers import BertWordPieceTokenizer

        words = (folder / "vocab.txt").read_text().split("\n")
        made = BertWordPieceTokenizer({word: number for number, word in enumerate(words) if word})
        said = json.loads(made.to_str()) | parts
        (folder / "tokenizer.json").write_text(json.dumps({name: value for name, value in said.items() if value != "absent"}))

    return change


def split(pattern):
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def replace(pattern, content):
    return {"type": "Replace", "pattern": {"Regex": pattern}, "content": content}


def code(folder):
    """Code beside the network, which names it as its own."""
    (folder / "evil.py").write_text(f"open({str(folder.parent / 'ran')!r}, 'w').write('x')\nclass Evil: pass\n")
    names = {"AutoModel": "evil.Evil", "AutoConfig": "evil.Evil", "AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    edited("config.json", auto_map=names)(folder)


def own_tokenizer_code(folder):
    code(folder)
    edited("tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", None]}, tokenizer_class="Evil")(folder)


def albert(folder):
    deep = {"num_hidden_layers": 100_000, "num_hidden_groups": 1, "inner_group_num": 1}
    edited("config.json", model_type="albert", embedding_size=16, **deep)(folder)


def pickled(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n(S'touch ran'\ntR.")


FAR = {"[UNK]": 10**6, "[CLS]": 10**6 + 1, "[SEP]": 10**6 + 2}
MODULES = [{"type": "sentence_transformers.models.Transformer", "path": ""}]
POOLING = "sentence_transformers.models.Pooling"
FOLDERS = {
    "config 1,000 deep": written("config.json", deep(1000)),
    "config 100,000 deep": written("config.json", deep(100_000)),
    "config that is a list": written("config.json", "[]"),
    "config that is a number": written("config.json", "7"),
    "config that is no text": written("config.json", b"\xff\xfe\x00"),
    "config of 300 MB": written("config.json", b'{"a": "' + b"x" * 300_000_000 + b'"}'),
    "model type that is a list": edited("config.json", model_type=["bert"]),
    "100,000 layers": edited("config.json", num_hidden_layers=100_000),
    "-1 layers": edited("config.json", num_hidden_layers=-1),
    "layers that are a text": edited("config.json", num_hidden_layers="2"),
    "500 layers": edited("config.json", num_hidden_layers=500),
    "100,000 layers that share their weights": albert,
    "a vocabulary of ten billion": edited("config.json", vocab_size=10**10),
    "tokens a billion wide": edited("config.json", hidden_size=10**9),
    "layers a trillion wide inside": edited("config.json", intermediate_size=10**12),
    "ten billion positions": edited("config.json", max_position_embeddings=10**10),
    "no heads": edited("config.json", num_attention_heads=0),
    "heads that don't fit": edited("config.json", num_attention_heads=7),
    "an activation that is a list": edited("config.json", hidden_act=["gelu"]),
    "an epsilon that is a text": edited("config.json", layer_norm_eps="x"),
    "positions that are a list": edited("config.json", position_embedding_type=[]),
    "code beside it": (code, IGNORED),
    "code of a tokenizer beside it": (own_tokenizer_code, IGNORED),
    "pickled weights": pickled,
    "tokenizer.json 1,000 deep": written("tokenizer.json", deep(1000)),
    "tokenizer.json 100,000 deep": written("tokenizer.json", deep(100_000)),
    "tokenizer.json that is no JSON": written("tokenizer.json", b"\x00\x01"),
    "tokenizer.json that is a list": written("tokenizer.json", "[]"),
    "tokenizer.json without added_tokens": (tokenizer(added_tokens="absent"), IGNORED),
    "tokenizer.json without a model": tokenizer(model="absent"),
    "a tokenizer with ids that the network has not": tokenizer(model={"type": "WordLevel", "vocab": FAR, "unk_token": "[UNK]"}),
    "a pattern that never ends": tokenizer(pre_tokenizer=split("(a|aa|a)+$")),
    "a pattern with nested repetition": tokenizer(pre_tokenizer=split("(.*)*(.*)*(.*)*x(?=y)")),
    "a pattern among others that never ends": tokenizer(
        pre_tokenizer={"type": "Sequence", "pretokenizers": [{"type": "Whitespace"}, split("^(([a-z ])+.)+[A-Z]([a-z ])+$")]}
    ),
    "a replaced pattern that never ends": tokenizer(normalizer=replace("(x+x+)+y|(a+a+)+b|( + +)+b|(a?){60}a{60}", "")),
    "a pattern that makes a megabyte of each letter": tokenizer(normalizer=replace(".", "ab " * 300_000)),
    "a pattern that is none": tokenizer(pre_tokenizer=split("(((((")),
    "a pattern too large to be made": tokenizer(pre_tokenizer=split("((a{1,9999}){1,9999}){1,9999}$")),
    "modules 1,000 deep": written("modules.json", deep(1000)),
    "modules 100,000 deep": written("modules.json", "[" * 100_000),
    "modules that are an object": written("modules.json", "{}"),
    "a module without a type": written("modules.json", json.dumps([{"path": ""}])),
    "a module that is a text": written("modules.json", '["x"]'),
    "a module of an unknown type": written("modules.json", json.dumps([*MODULES, {"type": "os.system", "path": "x"}])),
    "a module above its folder": written("modules.json", json.dumps([*MODULES, {"type": POOLING, "path": "../.."}])),
    "a module at a place of its own": written("modules.json", json.dumps([*MODULES, {"type": POOLING, "path": "/etc"}])),
    "a module without a path": written("modules.json", json.dumps([*MODULES, {"type": POOLING}])),
    "pooling of another width": edited("1_Pooling/config.json", word_embedding_dimension=999),
    "pooling that is a list": written("1_Pooling/config.json", "[]"),
    "a length that is a text": edited("sentence_bert_config.json", max_seq_length="x"),
    "a length below 0": edited("sentence_bert_config.json", max_seq_length=-5),
    "prompts that are a list": edited("config_sentence_transformers.json", prompts=["x"], default_prompt_name="a"),
    "a prompt that is a number": edited("config_sentence_transformers.json", prompts={"a": 7}, default_prompt_name="a"),
    "weights that are none": written("model.safetensors", np.random.default_rng(0).bytes(4096)),
    "weights without a byte": written("model.safetensors", b""),
    "weights with a header of 100 MB": written("model.safetensors", struct.pack("<Q", 100_000_000) + b"{" * 64),
    "weights with an endless header": written("model.safetensors", struct.pack("<Q", 2**63) + b"{}"),
    "weights with a deep header": written("model.safetensors", struct.pack("<Q", 600_000) + b'{"a":' * 120_000),
    "weights behind the end of the file": header(lambda said: first(said)["data_offsets"].__setitem__(1, 10**12)),
    "weights that overlap": header(lambda said: [value.update(data_offsets=[0, 4]) for value in said.values() if "dtype" in value]),
    "weights of an unknown type": header(lambda said: first(said).update(dtype="F7")),
    "weights of another shape": header(lambda said: first(said).update(shape=[10**9, 10**9])),
    "weights that are cut off": header(lambda said: None, b""),
    "weights without a table of words": without("embeddings.word_embeddings.weight", "pooler.dense.weight"),
    "weights without a layer": without("encoder.layer.1.output.dense.weight"),
    "weights in bfloat16": header(lambda said: first(said).update(dtype="BF16", shape=[2 * np.prod(first(said)["shape"]).item()])),
    "weights that are not numbers": tensors(word_embeddings=lambda array: array * np.nan),
    "weights that are infinite": tensors(query=lambda array: array + np.inf),
    "weights of another width": tensors(query=lambda array: array[..., :3].copy()),
    "words that are one number": tensors(word_embeddings=lambda array: array[:1, 0].copy()),
    "a list of weights above its folder": written("model.safetensors.index.json", '{"weight_map": {"a": "../../secret"}}'),
    "a list of weights elsewhere": written("model.safetensors.index.json", '{"weight_map": {"a": "/etc/passwd"}}'),
    "a list of weights that is none": written("model.safetensors.index.json", '{"weight_map": 7}'),
}


# Keras files --------------------------------------------------------------------------------------------------------


def rezipped(path, change, kind=zipfile.ZIP_STORED):
    """A .keras file with other members."""
    with zipfile.ZipFile(path) as given:
        members = {name: given.read(name) for name in given.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w", kind) as made:
        for name, data in members.items():
            made.writestr(name, data)


def with_layer(fields, place=1):
    """A change of members: the first layer behind the input, or another, becomes another one."""

    def change(members):
        config = json.loads(members["config.json"])
        config["config"]["layers"][place] |= fields
        members["config.json"] = json.dumps(config).encode()

    return change


def config_of(**fields):
    def change(members):
        config = json.loads(members["config.json"])
        conv = config["config"]["layers"][1]["config"]
        conv |= fields
        members["config.json"] = json.dumps(config).encode()

    return change


def twice(path):
    with zipfile.ZipFile(path, "a") as packed, pytest.warns(UserWarning, match="Duplicate name"):
        packed.writestr("config.json", "{}")


def many_layers(members):
    config = json.loads(members["config.json"])
    layers = config["config"]["layers"]
    layers += [json.loads(json.dumps(layers[1]).replace("outer_first", f"more_{n}")) for n in range(100_000)]
    members["config.json"] = json.dumps(config).encode()


def weights_of(change):
    """A change of members: the HDF5 file in it."""

    def changed(members):
        held = io.BytesIO(members["model.weights.h5"])
        with h5py.File(held, "a") as file:
            change(file)
        members["model.weights.h5"] = held.getvalue()

    return changed


def kernel(file):
    """The first array of a file of weights, and what holds it."""
    found = []
    file.visititems(lambda name, value: found.append(name) if isinstance(value, h5py.Dataset) and value.ndim == 4 else None)
    return file[found[0]].parent, found[0].rsplit("/", 1)[-1]


def elsewhere(file):
    parent, name = kernel(file)
    shape = parent[name].shape
    del parent[name]
    parent.create_dataset(name, shape, "<f4", external=[(os.environ["SECRET_FILE"], 0, int(np.prod(shape)) * 4)])


def soft(file):
    parent, name = kernel(file)
    parent.move(name, "aside")
    parent[name] = h5py.SoftLink(f"{parent.name}/aside")


def other_file(file):
    parent, name = kernel(file)
    del parent[name]
    parent[name] = h5py.ExternalLink(os.environ["SECRET_FILE"], "/x")


def virtual(file):
    parent, name = kernel(file)
    shape = parent[name].shape
    del parent[name]
    layout = h5py.VirtualLayout(shape, "<f4")
    layout[:] = h5py.VirtualSource(os.environ["SECRET_FILE"], "x", shape)
    parent.create_virtual_dataset(name, layout)


def endless(file):
    parent, name = kernel(file)
    del parent[name]
    parent.create_dataset(name, (10**6, 10**6), "<f4", chunks=(1000, 1000), compression="gzip")


def objects(file):
    parent, name = kernel(file)
    del parent[name]
    parent[name] = np.array(["x"], h5py.string_dtype())


def damaged(members):
    members["model.weights.h5"] = members["model.weights.h5"][:500]


def function(module, name):
    return {"module": module, "class_name": "function", "config": name, "registered_name": name}


def bomb(members):
    members["model.weights.h5"] += b"\0" * 400_000_000


def member(name, data):
    return lambda members: members.update({name: data})


def layer(kind, module="keras.layers", **config):
    return with_layer({"class_name": kind, "module": module, "config": {"name": "outer_first"} | config})


def words_of(kind, module):
    return lambda members: layer(kind, module, vocabulary=os.environ["SECRET_FILE"])(members)


MEMBERS = {
    "no configuration": lambda members: members.pop("config.json"),
    "no weights": lambda members: members.pop("model.weights.h5"),
    "a configuration 1,000 deep": member("config.json", deep(1000).encode()),
    "a configuration 100,000 deep": member("config.json", deep(100_000).encode()),
    "a configuration that is a list": member("config.json", b"[]"),
    "a member above its folder": member("../../evil", b"x"),
    "a member at a place of its own": member("/tmp/evil", b"x"),
    "assets": member("assets/x/vocabulary.txt", b"x"),
    "100,000 layers": many_layers,
    "a billion filters": config_of(filters=10**9),
    "a kernel of a million pixels": config_of(kernel_size=[1000, 1000]),
    "pictures of 2,500 million pixels": with_layer(
        {"class_name": "UpSampling2D", "module": "keras.layers", "config": {"name": "outer_last", "size": [9000, 9000]}}, -1
    ),
    "code in a layer": layer("Lambda", function={"class_name": "__lambda__", "config": {"code": "4wEA"}}),
    "a layer of the operating system": layer("system", "os"),
    "a layer of subprocess": layer("Popen", "subprocess", args=["touch", "ran"]),
    "an activation that downloads": config_of(activation=function("keras.utils", "get_file")),
    "an activation of the operating system": config_of(activation=function("os", "system")),
    "an activation that is unknown": config_of(activation="none_such"),
    "a class that registers itself": with_layer({"class_name": "Evil", "registered_name": "evil>Evil"}),
    "a graph of TensorFlow's": layer("TFSMLayer", filepath="/etc"),
    "a module of PyTorch's": layer("TorchModuleWrapper", module="gASV"),
    "words from a file": words_of("StringLookup", "keras.layers"),
    "a tokenizer from a file": words_of("WordPieceTokenizer", "keras_hub.src.tokenizers.word_piece_tokenizer"),
    "weights in another file": weights_of(elsewhere),
    "weights behind a link": weights_of(soft),
    "weights behind a link to another file": weights_of(other_file),
    "weights put together from another file": weights_of(virtual),
    "weights that are not stored": weights_of(endless),
    "weights that are texts": weights_of(objects),
    "weights that are cut off": damaged,
    "weights that are no HDF5": member("model.weights.h5", b"none"),
}
PACKED = {
    "a configuration that unpacks to 400 MB": member("config.json", b" " * 400_000_000),
    "weights that unpack to 400 MB": bomb,
}
FILES = {
    "no zip": lambda path: path.write_bytes(b"no zip"),
    "a zip that is cut off": lambda path: path.write_bytes(path.read_bytes()[:-50]),
    "two configurations": twice,
}
WEIGHTS = {"no weights": None, "weights in another file": elsewhere, "behind a link": soft, "in another file": other_file}


# Presets ------------------------------------------------------------------------------------------------------------


def preset(folder, **changes):
    """A preset of keras-hub, small, with another configuration."""
    inner = {"vocabulary_size": 60, "num_layers": 1, "num_heads": 2, "hidden_dim": 16, "intermediate_dim": 32}
    inner["max_sequence_length"] = 32
    config = {
        "module": "keras_hub.src.models.bert.bert_backbone",
        "class_name": "BertBackbone",
        "config": inner | changes.pop("inner", {}),
        "registered_name": "keras_hub>BertBackbone",
    }
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config | changes))
    metadata = {"keras_version": "3.15.0", "keras_hub_version": "0.32.0", "parameter_count": 1, "date_saved": ""}
    (folder / "metadata.json").write_text(json.dumps(metadata))
    with h5py.File(folder / "model.weights.h5", "w") as file:
        file["x"] = np.zeros(10, np.float32)


PRESETS = {
    "100,000 layers": {"inner": {"num_layers": 100_000}},
    "a vocabulary of ten billion": {"inner": {"vocabulary_size": 10**10}},
    "layers a billion wide": {"inner": {"intermediate_dim": 10**9}},
    "a class of the operating system": {"module": "os", "class_name": "system", "registered_name": "system", "config": {}},
    "code": {"module": "keras.layers", "class_name": "Lambda", "registered_name": None},
    "a name that is unknown": {"registered_name": "evil>Evil", "class_name": "Evil"},
}


# What they come to --------------------------------------------------------------------------------------------------


def made(place, tiny_bert, nested_network):
    """Name, how it may end, and the words of the command for each hostile network."""
    for number, (name, change) in enumerate(FOLDERS.items()):
        change, ends = change if isinstance(change, tuple) else (change, "")
        folder = shutil.copytree(tiny_bert, place / f"folder-{number}" / "net")
        change(folder)
        yield f"a folder with {name}", ends, [str(folder)]
    files = [*MEMBERS.items(), *PACKED.items(), *FILES.items()]
    for number, (name, change) in enumerate(files):
        path = place / f"file-{number}.keras"
        shutil.copy(nested_network, path)
        if name in FILES:
            change(path)
        else:
            rezipped(path, change, zipfile.ZIP_DEFLATED if name in PACKED else zipfile.ZIP_STORED)
        yield f"a .keras file with {name}", "", [str(path)]
    for number, (name, change) in enumerate(WEIGHTS.items()):
        path = place / f"mobilenet_{number}.h5"
        path.write_bytes(b"none")
        if change:
            with h5py.File(path, "w") as file:
                file["conv/kernel"] = np.zeros((3, 3, 3, 8), np.float32)
                change(file)
        yield f"a .h5 file with {name}", "", [str(path), "--architecture", "MobileNet", "--alpha", "0.25"]
    for number, (name, changes) in enumerate(PRESETS.items()):
        preset(place / f"preset-{number}", **json.loads(json.dumps(changes)))
        yield f"a preset with {name}", "", [str(place / f"preset-{number}")]
    with_list = place / "preset-list"
    preset(with_list)
    (with_list / "model.weights.h5").unlink()
    (with_list / "model.weights.json").write_text('{"weight_map": {"a": ["../../secret.h5"]}}')
    yield "a preset with weights above its folder", "", [str(with_list)]


@pytest.mark.slow
def test_no_hostile_network_is_imported_and_none_is_run(tmp_path, tiny_bert, nested_network, monkeypatch):
    secret = tmp_path / "secret"
    secret.write_text(f"{SECRET}\n" * 200)
    monkeypatch.setenv("SECRET_FILE", str(secret))
    (tmp_path / "networks").mkdir()
    cases = [*made(tmp_path / "networks", tiny_bert, nested_network)]
    root = ["--root", str(tmp_path / "root")]
    jobs = [["import-encoder", *words, *root, "--name", f"n{number}"] for number, (_, _, words) in enumerate(cases)]
    good = ["import-encoder", str(tiny_bert), *root]
    (code, _, err, memory, _), *found = outcomes(CHILD, [good, *jobs], WAIT)
    assert code == 0, err

    def held(outcome, ends):
        code, out, err, used, seconds = [*outcome, 0, 0][:5]
        lines = [line for line in err.splitlines() if line != "import_encoder: starts"]
        refused = code == 1 and len(lines) == 1 and lines[0].startswith("embedkit: ") and len(lines[0]) < 1200
        return (refused or bool(ends) and code == 0) and SECRET not in out + err and used < memory + MEMORY and seconds < SECONDS

    lost = [(name, outcome) for (name, ends, _), outcome in zip(cases, found, strict=True) if not held(outcome, ends)]
    print(f"hostile networks: tried {len(cases)}, held {len(cases) - len(lost)}")
    for (name, _, _), (code, _, err, *used) in zip(cases, found, strict=True):
        print(f"  {name}: {code} {used} {err.removeprefix('import_encoder: starts').strip()}")
    assert len(cases) >= 52
    assert not lost, "\n".join(f"{name}: {outcome[0]} {outcome[2][-400:]} {outcome[3:]}" for name, outcome in lost)
    ran = [path for path in tmp_path.rglob("*") if path.name in ("ran", "evil")]
    assert ran == [] and not (tmp_path.parent / "evil").exists()
    published = [path for path in (tmp_path / "root").rglob("*") if path.is_file()]
    assert not [path for path in published if SECRET.encode() in path.read_bytes()]
