"""Tiny real things that tests share: a BERT of two layers, a nested picture network, a folder of pictures, csv files, what a
comparison found, a browser.

Each test has an artifact root of its own. `SHARED` are the data and weights beside the checkout, for tests marked `shared`.
"""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from embedkit import learning
from embedkit.artifacts import Artifact, Manifest

SHARED = Path(__file__).parents[2] / "shared"
CHROMIUM = shutil.which("chromium")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")  # tests run on two workers: with more threads they would only wait
WORDS = "the a cat dog sat ran on mat moon red blue green good bad film plot very not is was and of it".split()


LONGEST = [
    *("ui", "readme", "finetuning_killed", "distillation_killed", "interruption", "classifiers", "finetuning", "distillation"),
    *("comparison_killed", "layers", "arms"),
    *("findings", "comparison", "flows", "tuning", "trainer", "heads", "predicting", "training", "cli", "networks"),
    *("encoders", "stages", "remote", "exporting", "embedding", "estimator", "pages", "datasets", "categories"),
]


def pytest_collection_modifyitems(items):
    # Files that take long come first, so that no worker is left with one at the end.
    order = {f"test_{name}.py": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))
    if not SHARED.is_dir():
        for item in items:
            if "shared" in item.keywords:
                item.add_marker(pytest.mark.skip(reason=f"needs {SHARED}"))


@pytest.fixture(scope="session", autouse=True)
def patience():
    """No run waits long enough for the hint about it: whether one does depends on what else the machine does."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(learning, "WAITED", float("inf"))
        yield


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    """An artifact root for one test, and a working directory beside it."""
    folder = tmp_path / "artifacts"
    monkeypatch.setenv("EMBEDKIT_ARTIFACTS", str(folder))
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def reviews(tmp_path):
    """A csv of 120 short texts, `text,label`, that a linear model can tell apart."""
    random = np.random.default_rng(0)
    lines = ["text,label"]
    for number in range(120):
        good = number % 2 == 0
        words = [*random.choice(WORDS, 5), "good" if good else "bad", f"film{number}"]
        lines.append(f"{' '.join(words)},{'pos' if good else 'neg'}")
    path = tmp_path / "reviews.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def photos(tmp_path):
    """A folder of class folders: 60 pictures of 24 x 32, bright on the left (`left`) or on the right (`right`)."""
    random, folder = np.random.default_rng(0), tmp_path / "photos"
    for number in range(60):
        side = "left" if number % 2 else "right"
        pixels = random.integers(0, 120, (24, 32, 3))
        pixels[:, slice(0, 16) if side == "left" else slice(16, 32)] += 120
        (folder / side).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype("uint8")).save(folder / side / f"{number:03d}.png")
    return folder


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory):
    """A Hugging Face folder: BERT, 2 layers of 16 numbers, 2 heads, random weights, WordPiece, mean pooling, length 1."""
    from safetensors.numpy import save_file

    folder = tmp_path_factory.mktemp("bert") / "tiny-bert"
    folder.mkdir()
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *"abcdefghijklmnopqrstuvwxyz0123456789.,!?'"]
    vocabulary = list(dict.fromkeys([*vocabulary, *(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz0123456789")]))
    width, inner, random = 16, 32, np.random.default_rng(0)

    def draw(*shape):
        return random.normal(0, 0.3, shape).astype(np.float32)

    weights = {
        "embeddings.word_embeddings.weight": draw(len(vocabulary), width),
        "embeddings.position_embeddings.weight": draw(64, width),
        "embeddings.token_type_embeddings.weight": draw(2, width),
        "pooler.dense.weight": draw(width, width),
        "pooler.dense.bias": draw(width),
    }
    norms = ["embeddings.LayerNorm"]
    for layer in range(2):
        prefix = f"encoder.layer.{layer}."
        for name in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
            weights |= {f"{prefix}{name}.weight": draw(width, width), f"{prefix}{name}.bias": draw(width)}
        weights |= {f"{prefix}intermediate.dense.weight": draw(inner, width), f"{prefix}intermediate.dense.bias": draw(inner)}
        weights |= {f"{prefix}output.dense.weight": draw(width, inner), f"{prefix}output.dense.bias": draw(width)}
        norms += [f"{prefix}attention.output.LayerNorm", f"{prefix}output.LayerNorm"]
    for name in norms:
        weights |= {f"{name}.weight": np.ones(width, np.float32), f"{name}.bias": np.zeros(width, np.float32)}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        **{"model_type": "bert", "architectures": ["BertModel"], "vocab_size": len(vocabulary), "hidden_size": width},
        **{"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": inner, "max_position_embeddings": 64},
        **{"type_vocab_size": 2, "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1},
        **{"layer_norm_eps": 1e-12, "pad_token_id": 0},
    }
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
    ]
    (folder / "1_Pooling").mkdir()
    for name, value in {
        "config.json": config,
        "tokenizer_config.json": {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 64},
        "modules.json": modules,
        "sentence_bert_config.json": {"max_seq_length": 32, "do_lower_case": False},
        "1_Pooling/config.json": {"word_embedding_dimension": width, "pooling_mode_mean_tokens": True},
    }.items():
        (folder / name).write_text(json.dumps(value))
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    return folder


@pytest.fixture(scope="session")
def nested_network(tmp_path_factory):
    """A .keras file: pictures of 16 x 16 through an outer network that holds an inner one, random weights."""
    from embedkit.frameworks import start_keras

    start_keras(0)
    import keras
    from keras import layers

    pixels = keras.Input((16, 16, 3))
    x = layers.Conv2D(4, 3, strides=2, padding="same", activation="relu", name="inner_first")(pixels)
    x = layers.Conv2D(6, 3, padding="same", activation="relu", name="inner_second")(x)
    inner = keras.Model(pixels, x, name="inner")
    outside = keras.Input((16, 16, 3))
    x = inner(layers.Conv2D(3, 1, name="outer_first")(outside))
    x = layers.Conv2D(8, 3, strides=2, activation="relu", name="outer_last")(x)
    path = tmp_path_factory.mktemp("keras") / "nested.keras"
    keras.Model(outside, x, name="outer").save(path)
    return path


# What an attacker can do who can write where artifacts lie


def reseal(folder, **fields):
    """Make a manifest vouch for the files as they are now, with these of its fields changed; the artifact."""
    manifest = json.loads((folder / "manifest.json").read_text()) | fields
    del manifest["seal"]
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json")
    manifest["files"] = [
        {
            "path": path.relative_to(folder).as_posix(),
            "bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in paths
    ]
    (folder / "manifest.json").write_bytes(Manifest.model_validate(manifest).sealed())
    return Artifact.at(folder)


def forged(artifact, **changes):
    """The artifact in its place, with details of its manifest changed; None takes one away."""
    details = artifact.manifest.details | changes
    return reseal(artifact.path, details={name: value for name, value in details.items() if value is not None})


def outcomes(code, jobs, seconds=60):
    """What a child process says of each job, a line of JSON; `[how it ended, "", ""]` where it crashed, or took too long.

    Args:
        code: of the child: it takes a line of JSON for each job, prints a line when it begins with it, and another when it is done.
        jobs: as JSON.
        seconds: for each.
    """
    found, child = [], None
    for job in jobs:
        if child is None:
            child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        child.stdin.write(json.dumps(job) + "\n")
        child.stdin.flush()
        said = child.stdout.readline()  # comes when all is imported
        late = threading.Timer(seconds, child.kill)
        late.start()
        said = said and child.stdout.readline()
        late.cancel()
        found.append(json.loads(said) if said else [f"the process ended by {child.wait()}", "", ""])
        if not said:
            child.stdin.close()
            child.stdout.close()
            child = None
    if child is not None:
        child.communicate()
    return found


# What a comparison found


def compared_score(value, labels=600, **changes):
    return {"value": value, "seeds_error": 0.0104, "rows_error": 0.0092, "each": [value] * 3, "labels": labels} | changes


def compared_arm(name, value, seconds=14.2, **changes):
    """A measured arm; scores rise with the labels."""
    made = {
        **{"name": name, "title": name.replace("_", " "), "what": f"what {name} is", "skipped": None},
        "scores": {
            name: compared_score(value - less, n) for name, less, n in (("10", 0.2, 60), ("30", 0.1, 180), ("all", 0, 4906))
        },
        **{"clean": {"value": value - 0.01, "error": 0.0101, "rows": 480}, "difference": {"value": value - 0.968, "error": 0.006}},
        **{"others": {"log_loss": 0.4}, "seconds_to_train": seconds, "seconds_per_1000": 2.1, "cost_seconds": seconds + 21},
        **{"peak_memory_bytes": 1_200_000_000, "bytes": 91_000_000, "rows_seen": 4906},
    }
    return made | changes


SKIPPED_ARM = {"name": "distilled", "title": "distilled", "what": "a student", "skipped": "the encoder is small already"}
COMPARED_ARMS = [
    compared_arm("frozen_linear", 0.956),
    SKIPPED_ARM,
    compared_arm("lp_ft", 0.968, 410),
    compared_arm("frozen_mlp", 0.961, 30),
    compared_arm("guess", 0.23, 0.02),
]


def compared(**changes):
    """What a comparison of texts found."""
    made = {
        **{"title": "trec-minilm", "dataset": "texts/trec@2026", "encoder": "encoder/minilm@2026", "kind": "texts"},
        **{"task": "class", "measure": "accuracy", "more_is_better": True, "seeds": 3, "budget_unit": "labels per class"},
        **{"rows": {"train": 4906, "validation": 546, "test": 500}, "predictions": 10000, "recommended": "frozen_linear"},
        **{"verdict": "A linear head is enough. More costs 12 times the time.", "best": "lp_ft"},
        **{"command": "embedkit train-head v", "arms": COMPARED_ARMS, "layers": None, "notes": ["a note"]},
        "duplicates": {"exact": 1, "near": 20, "bound": 0.95, "test": 500},
        "confusion": {"arm": "frozen_linear", "classes": ["a", "b"], "counts": [[50, 3], [4, 43]]},
        "mistakes": [{"id": "12", "label": "a", "predicted": "b", "probability": 0.971, "text": "who was it"}],
        **{"settings": {"training": {"epochs": 20}}, "decisions": {"steps": 240}},
        "lineage": [["texts/trec", "dataset"], ["encoder/minilm", "encoder"]],
    }
    return json.loads(json.dumps(made | changes))


def compared_numbers(**changes):
    """What a comparison on numbers found, where less is better."""
    arms = [
        compared_arm("ridge", 12.512, difference={"value": 1.25, "error": 0.2}),
        compared_arm("network", 11.262, 90),
        compared_arm("guess", 1520.4, 0.02),
    ]
    row = {"id": "7", "label": 3.25, "predicted": 9.5, "error": 6.25, "columns": [["size", "4"], ["colour", "red"]]}
    given = {"kind": "table", "task": "number", "measure": "rmse", "more_is_better": False, "arms": arms, "confusion": None}
    return compared(**given | {"recommended": "ridge", "best": "network", "mistakes": [row], "budget_unit": "labels"} | changes)


# A real browser


class Browser:
    """Chromium without a window, driven through its DevTools protocol on two pipes; downloads go to `saved`."""

    def __init__(self, folder):
        theirs_in, self.out = os.pipe()
        self.into, theirs_out = os.pipe()
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-pipe"]
        command = ["bash", "-c", f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}', "bash", CHROMIUM, *options]
        self.process = subprocess.Popen(
            [*command, f"--user-data-dir={folder / 'profile'}"], pass_fds=(theirs_in, theirs_out), stderr=subprocess.DEVNULL
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self.replies, self.number, self.session, self.rest = {}, 0, None, b""
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.saved = folder / "saved"
        self.ask("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(self.saved))

    def ask(self, method, **parameters):
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session and not method.startswith("Browser."):
            message["sessionId"] = self.session
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self.rest:
                read = os.read(self.into, 2**16)
                assert read, "the browser has ended"
                self.rest += read
            line, _, self.rest = self.rest.partition(b"\0")
            reply = json.loads(line)
            if reply.get("id") == self.number:
                if reply.get("error", {}).get("message") == "Inspected target navigated or closed":
                    return self.ask(method, **parameters)  # the page gave way to another one before it answered
                assert "error" not in reply, reply
                return reply["result"]

    def run(self, script):
        """The value of a JavaScript expression in the page."""
        result = self.ask("Runtime.evaluate", expression=script, returnByValue=True, userGesture=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def until(self, ready):
        deadline = time.monotonic() + 30
        while not ready():
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def open(self, path):
        self.visit(path.as_uri())

    def visit(self, address):
        self.run("window.old = true")
        self.ask("Page.navigate", url=address)
        self.until(lambda: self.run("!window.old && document.readyState === 'complete'"))

    def text(self):
        """What a page shows, nothing while it has no body yet."""
        return self.run("document.body ? document.body.innerText : ''")

    def press(self, *keys):
        """Press one key after the other, each until the page has it: what comes before a page's first paint may be dropped."""
        for key in keys:
            self.run("seen = false; addEventListener('keydown', () => { seen = true }, {capture: true, once: true})")
            self.until(lambda key=key: self.pressed(key))

    def pressed(self, key):
        self.ask("Input.dispatchKeyEvent", type="keyDown", key=key, text=key if len(key) == 1 else "")
        self.ask("Input.dispatchKeyEvent", type="keyUp", key=key)
        return self.run("seen")

    def close(self):
        self.ask("Browser.close")
        self.process.wait()
        os.close(self.out)
        os.close(self.into)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    """A browser that the tests of a file share."""
    if CHROMIUM is None:
        pytest.skip("needs chromium")
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


@pytest.fixture
def dense():
    """A model of one dense layer that can be computed by hand, with dropout that must not act."""
    from embedkit.frameworks import start_keras

    start_keras(0)
    import keras

    vectors = keras.Input((3,))
    model = keras.Model(vectors, keras.layers.Dense(2)(keras.layers.Dropout(0.9)(vectors)))
    model.layers[-1].set_weights([np.arange(6, dtype=np.float32).reshape(3, 2), np.array([10, 20], np.float32)])
    return model


@pytest.fixture(scope="session")
def normed_network(tmp_path_factory):
    """A .keras file: pictures of 8 x 8 through two convolutions with batch normalisation, statistics as after training."""
    from embedkit.frameworks import start_keras

    start_keras(0)
    import keras

    pixels = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(6, 3, strides=2, name="first_conv")(keras.layers.Rescaling(1 / 255)(pixels))
    x = keras.layers.ReLU()(keras.layers.BatchNormalization(name="first_norm")(x))
    x = keras.layers.Conv2D(8, 3, padding="same", name="second_conv")(x)
    model = keras.Model(pixels, keras.layers.ReLU(name="features")(keras.layers.BatchNormalization(name="second_norm")(x)))
    random = np.random.default_rng(0)
    for name, width in (("first_norm", 6), ("second_norm", 8)):
        gamma, beta, mean = random.normal(1, 0.2, width), random.normal(0, 0.2, width), random.normal(0, 0.2, width)
        model.get_layer(name).set_weights([gamma, beta, mean, random.uniform(0.5, 1.5, width)])
    path = tmp_path_factory.mktemp("normed") / "normed.keras"
    model.save(path)
    return path


def write_pictures(path, count=80, splits=("train", "train", "train", "validation", "test")):
    """Pictures of 8 x 8 pixels in a Parquet file: red or not, green or not, more or less blue.

    Columns `red` (a class), `both` (labels), `blue` (a number), `unsure` and `split`.
    """
    random, lines = np.random.default_rng(0), []
    for number in range(count):
        red, green, blue = random.random() < 0.5, random.random() < 0.5, random.random()
        pixels = random.integers(0, 60, (8, 8, 3)) + np.array([120 * red, 120 * green, 150 * blue])
        data = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(data, "png")
        both = [name for name, held in (("red", red), ("green", green)) if held]
        words = {"red": "red" if red else "dark", "both": both, "blue": blue, "unsure": "yes" if number % 7 == 0 else "no"}
        lines.append({"image": data.getvalue(), "split": splits[number % len(splits)]} | words)
    pq.write_table(pa.Table.from_pylist(lines), path)
    return path


def write_list(path, rows):
    """Rows, all with the same columns, as the file of rows that a path's suffix says."""
    names, suffix = list(rows[0]), path.suffix
    if suffix == ".xlsx":
        import openpyxl

        book = openpyxl.Workbook()
        for line in [names, *(list(row.values()) for row in rows)]:
            book.active.append(line)
        book.save(path)
    elif suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        between = "\t" if suffix == ".tsv" else ","
        path.write_text("".join(between.join(map(str, line)) + "\n" for line in [names, *(row.values() for row in rows)]))
    return path


# Prefect


@pytest.fixture(scope="session")
def server():
    """A Prefect server for this session, without heartbeats."""
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
    from prefect.testing.utilities import prefect_test_harness

    import flows  # noqa: F401  its settings come before Prefect

    with prefect_test_harness(server_startup_timeout=120), temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield
