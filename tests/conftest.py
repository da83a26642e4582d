"""Tiny real things that tests share: a BERT of two layers, a nested picture network, a folder of pictures, csv files.

Each test has an artifact root of its own. `SHARED` are the data and weights beside the checkout, for tests marked `shared`.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SHARED = Path(__file__).parents[2] / "shared"
os.environ.setdefault("HF_HUB_OFFLINE", "1")
WORDS = "the a cat dog sat ran on mat moon red blue green good bad film plot very not is was and of it".split()


LONGEST = ["interruption", "readme", "flows", "trainer", "heads", "training", "cli", "networks", "encoders", "stages"]


def pytest_collection_modifyitems(items):
    # Files that take long come first, so that no worker is left with one at the end.
    order = {f"test_{name}.py": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))
    if not SHARED.is_dir():
        for item in items:
            if "shared" in item.keywords:
                item.add_marker(pytest.mark.skip(reason=f"needs {SHARED}"))


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
    from embedkit.engines import start_keras

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
