"""Layouts: an encoder of texts as the folder that sentence-transformers, or keras-hub, saves of one.

Kernels are (outputs, inputs) in files of transformers; `berts` says how keras-hub has them. Everything is written as JSON,
safetensors or HDF5, and opens in its library with no code of ours.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from embedkit import berts, canaries, networks
from embedkit.encoders import Encoder, EncoderFacts, pool
from embedkit.networks import Network
from embedkit.pipelines import cut
from embedkit.settings import UserError
from embedkit.sources import Source
from embedkit.stages import write_json

OTHERS = "take onnx, openvino, saved-model or litert"
NAMES = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attended": "attention.output.dense",
    "attended_norm": "attention.output.LayerNorm",
    "inner": "intermediate.dense",
    "outer": "output.dense",
    "outer_norm": "output.LayerNorm",
}
"""The parts of a transformer layer, as transformers calls them."""
TABLES = {"token": "word_embeddings", "position": "position_embeddings", "segment": "token_type_embeddings"}
SPECIAL = {
    "unk_token": ("[UNK]", "<unk>"),
    "sep_token": ("[SEP]", "</s>"),
    "pad_token": ("[PAD]", "<pad>"),
    "cls_token": ("[CLS]", "<s>"),
    "mask_token": ("[MASK]", "<mask>"),
}
"""Special tokens by their role, as BERTs and others write them."""
MODULE = "sentence_transformers.models."
STATIC = "0_StaticEmbedding"
EXACT = "fast_tokenizer.json"
"""The encoder's own tokenizer in a keras-hub preset, whose own file has the usual name."""
Encode = Callable[[Sequence[Any]], np.ndarray]
"""From rows to vectors, (rows, dimension)."""


def fast(tokenizer: str, length: int | None) -> str:
    """A tokenizer that cuts texts at a length and doesn't pad them; the text of its `tokenizer.json`."""
    from tokenizers import Tokenizer

    made = Tokenizer.from_str(tokenizer)
    made.no_padding()
    if length:
        cut(made, length)
    return made.to_str(pretty=True)


def _bert(encoder: Encoder, format: str) -> berts.Bert:
    """The BERT that an encoder is, when its vectors are pooled tokens and its shape one that the format can say.

    Raises:
        UserError: when it is another encoder.
    """
    facts = encoder.facts
    if facts.modality != "texts":
        raise UserError(f"{format} holds encoders of texts, but {encoder.name} takes {facts.modality}; {OTHERS}")
    try:
        bert = berts.anatomy(encoder.model, encoder.name)
    except UserError as error:
        raise UserError(f"{format} has no place for {encoder.name}, which is no BERT; {OTHERS}") from error
    if facts.pooling == "none":
        behind = f"the vectors of {encoder.name} come from its layer {facts.layer}, which is behind the last tokens"
        raise UserError(f"{behind}, and {format} has no place for it; {OTHERS}")
    shape = bert.shape
    head = int(berts.weights(bert.layers[0])["query"][0].shape[2])
    if head * shape.heads != shape.width:
        has = f"{encoder.name} has {shape.heads} attention heads that are {head} wide, and tokens that are {shape.width} wide"
        raise UserError(f"{has}; a BERT in {format} has heads that are as wide as the tokens together, so {OTHERS}")
    return bert


# sentence-transformers ----------------------------------------------------------------------------------------------


def write_sentence_transformers(folder: Path, encoder: Encoder, preprocessing: str) -> list[str]:
    """Write a BERT, or a table of token vectors, as sentence-transformers saves one (sbert.net, `save_pretrained`).

    Raises:
        UserError: when the encoder is neither.
    """
    facts = encoder.facts
    table = _table(encoder)
    if table is None:
        _write_bert(folder, encoder, _bert(encoder, "sentence-transformers"), preprocessing)
        modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    else:
        _save_weights(folder / STATIC / "model.safetensors", {"embedding.weight": table})
        text = fast(_lowering(preprocessing, facts), facts.maximal_length)
        (folder / STATIC / "tokenizer.json").write_text(text, encoding="utf-8", newline="\n")
        modules = [(STATIC, "StaticEmbedding")]
    if facts.normalised:
        path = f"{len(modules)}_Normalize"
        write_json(folder / path / "config.json", {})  # else nothing would be left of the folder, which older versions ask for
        modules.append((path, "Normalize"))
    listed = [{"idx": n, "name": str(n), "path": path, "type": MODULE + name} for n, (path, name) in enumerate(modules)]
    write_json(folder / "modules.json", listed)
    own: dict[str, Any] = {"model_type": "SentenceTransformer", "similarity_fn_name": "cosine", "prompts": {}}
    if facts.prompt:
        own |= {"prompts": {"every": facts.prompt}}
    write_json(folder / "config_sentence_transformers.json", own | {"default_prompt_name": "every" if facts.prompt else None})
    return []


def _table(encoder: Encoder) -> np.ndarray | None:
    """The token vectors of an encoder that averages them, (vocabulary, dimension); None where it does anything else."""
    import keras

    weighed = [layer for layer in encoder.model.layers if layer.weights]
    if [layer.name for layer in weighed] != ["token_vectors"] or not isinstance(weighed[0], keras.layers.Embedding):
        return None
    return weighed[0].get_weights()[0] if encoder.facts.pooling == "mean" else None


def _lowering(tokenizer: str, facts: EncoderFacts) -> str:
    """A tokenizer that lower-cases texts itself, where the encoder's texts are; then it finds no special tokens in them either."""
    found = json.loads(tokenizer)
    if facts.lower:
        steps = [{"type": "Lowercase"}, *([found["normalizer"]] if found["normalizer"] else [])]
        found |= {"normalizer": {"type": "Sequence", "normalizers": steps}, "added_tokens": []}
    return json.dumps(found)


def _write_bert(folder: Path, encoder: Encoder, bert: berts.Bert, tokenizer: str) -> None:
    from tokenizers import Tokenizer

    facts, shape = encoder.facts, bert.shape
    words = Tokenizer.from_str(tokenizer).get_vocab()
    special = {role: next((token for token in tokens if token in words), None) for role, tokens in SPECIAL.items()}
    special = {role: token for role, token in special.items() if token}
    if "pad_token" not in special:
        lacks = f"the tokenizer of {encoder.name} has no token for padding ({' or '.join(SPECIAL['pad_token'])})"
        raise UserError(f"{lacks}, without which sentence-transformers takes no two texts at once; {OTHERS}")
    named = {f"embeddings.{TABLES[part]}": table.get_weights() for part, table in bert.tables.items()}
    named["embeddings.LayerNorm"] = bert.norm.get_weights()
    for number, layer in enumerate(bert.layers):
        named |= {f"encoder.layer.{number}.{NAMES[part]}": given for part, given in berts.weights(layer).items()}
    _save_weights(folder / "model.safetensors", _as_transformers(named))
    config = {
        **{"architectures": ["BertModel"], "model_type": "bert", "vocab_size": shape.vocabulary, "hidden_size": shape.width},
        **{"num_hidden_layers": shape.layers, "num_attention_heads": shape.heads, "intermediate_size": shape.inner},
        **{"hidden_act": "gelu_new" if shape.activation == "gelu_approximate" else shape.activation},
        **{"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, "initializer_range": 0.02},
        **{"max_position_embeddings": shape.positions, "type_vocab_size": shape.segments, "layer_norm_eps": shape.epsilon},
        **{"pad_token_id": encoder.feed.padding, "position_embedding_type": "absolute"},  # pyright: ignore[reportAttributeAccessIssue]
    }
    write_json(folder / "config.json", config)
    # The last layer behind the first token is left out: nothing that makes vectors needs it, and it may never have been trained.
    transformer = {"max_seq_length": facts.maximal_length, "do_lower_case": facts.lower}
    write_json(folder / "sentence_bert_config.json", transformer | {"model_args": {"add_pooling_layer": False}})
    modes = {"cls_token": "cls", "mean_tokens": "mean", "max_tokens": "max", "mean_sqrt_len_tokens": "other"}
    flags = {f"pooling_mode_{mode}": name == facts.pooling for mode, name in modes.items()}
    write_json(folder / "1_Pooling/config.json", {"word_embedding_dimension": shape.width} | flags)
    (folder / "tokenizer.json").write_text(fast(tokenizer, facts.maximal_length), encoding="utf-8", newline="\n")
    # A named class, such as BertTokenizer, would build a tokenizer of its own from the vocabulary.
    whole = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": shape.positions}
    write_json(folder / "tokenizer_config.json", whole | special)
    write_json(folder / "special_tokens_map.json", special)
    if vocabulary := _word_pieces(tokenizer):
        (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8", newline="\n")


def _as_transformers(named: dict[str, list[np.ndarray]]) -> dict[str, np.ndarray]:
    """Weights of keras-hub under the names, and in the shapes, of transformers; the first axes of a kernel are its inputs."""
    found = {}
    for name, (first, *rest) in named.items():
        if not rest:
            found[f"{name}.weight"] = first
            continue
        bias = rest[0].reshape(-1)
        found[f"{name}.weight"] = first if first.ndim == 1 else first.reshape(-1, len(bias)).T
        found[f"{name}.bias"] = bias
    return found


def _save_weights(path: Path, weights: dict[str, np.ndarray]) -> None:
    from safetensors.numpy import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {name: np.ascontiguousarray(array, np.float32) for name, array in weights.items()}
    save_file(arrays, path, metadata={"format": "pt"})


def _word_pieces(tokenizer: str) -> list[str] | None:
    """The vocabulary of a WordPiece tokenizer in the order of its ids; None for other tokenizers, or with gaps between ids."""
    from tokenizers import Tokenizer

    if json.loads(tokenizer)["model"]["type"] != "WordPiece":
        return None
    words = Tokenizer.from_str(tokenizer).get_vocab(with_added_tokens=True)
    ordered = sorted(words, key=words.__getitem__)
    return ordered if [words[word] for word in ordered] == list(range(len(ordered))) else None


def read_sentence_transformers(folder: Path, encoder: Encoder) -> Encode:
    """Open such a folder anew, everything taken from its files, by what `import_encoder` reads others' folders with."""
    import keras

    modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    if modules[0]["path"] == STATIC:
        return _read_table(folder, normalised=modules[-1]["type"].endswith(".Normalize"))
    network = networks.load(Source(str(folder)), None, None, None, "0..255")
    pooled = pool(network.output, network, network.pooling)
    if network.normalised:
        pooled = keras.layers.UnitNormalization()(pooled)
    own = {"maximal_length": network.maximal_length, "prompt": network.prompt, "lower": network.lower}
    model = keras.Model(network.model.input, pooled)
    return Encoder(model, encoder.facts.model_copy(update=own), network.tokenizer, "the export").encode


def _read_table(folder: Path, normalised: bool) -> Encode:
    """A static encoder from its files, in numpy."""
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer

    table = load_file(folder / STATIC / "model.safetensors")["embedding.weight"]
    tokenizer = Tokenizer.from_file(str(folder / STATIC / "tokenizer.json"))
    own = json.loads((folder / "config_sentence_transformers.json").read_text(encoding="utf-8"))
    prompt = own["prompts"].get(own["default_prompt_name"], "")

    def encode(rows: Sequence[Any]) -> np.ndarray:
        tokens = [one.ids for one in tokenizer.encode_batch([prompt + row for row in rows], add_special_tokens=False)]
        vectors = np.stack([table[ids].mean(axis=0) if ids else np.zeros(table.shape[1]) for ids in tokens])
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12) if normalised else vectors

    return encode


# keras-hub ----------------------------------------------------------------------------------------------------------


def write_keras_hub(folder: Path, encoder: Encoder, preprocessing: str) -> list[str]:
    """Write a BERT as a preset of keras-hub, with its tokenizer.

    The preset's own tokenizer may split some texts otherwise than the encoder's, which lies beside it.

    Raises:
        UserError: when the encoder is no BERT, or its tokenizer not WordPiece.
    """
    import keras_hub

    bert = _bert(encoder, "keras-hub")
    vocabulary = _word_pieces(preprocessing)
    if vocabulary is None or not {"[CLS]", "[SEP]", "[PAD]", "[MASK]", "[UNK]"} <= set(vocabulary):
        kind = json.loads(preprocessing)["model"]["type"]
        needs = "a BERT of keras-hub needs WordPiece with [CLS], [SEP], [PAD], [MASK] and [UNK]"
        raise UserError(f"{needs}, but the tokenizer of {encoder.name} is another one ({kind}); {OTHERS}")
    shape, facts = bert.shape, encoder.facts
    backbone = berts.backbone(shape)
    berts.copy(bert, berts.anatomy(backbone, "the preset"), bert.layers)
    unused = backbone.get_layer("pooled_dense")
    unused.set_weights([np.zeros_like(each) for each in unused.get_weights()])
    normalizer = _bert_normalizer(json.loads(preprocessing)["normalizer"])
    lower, strip = bool(normalizer.get("lowercase")), normalizer.get("strip_accents")
    strips = lower if strip is None else bool(strip)
    tokenizer = keras_hub.models.BertTokenizer(vocabulary, lower, strip_accents=strips, name="bert_tokenizer")
    backbone.save_to_preset(str(folder))
    tokenizer.save_to_preset(str(folder))
    _undate(folder)
    (folder / EXACT).write_text(fast(preprocessing, facts.maximal_length), encoding="utf-8", newline="\n")
    notes = ["pooled_output of this preset means nothing, vectors are pooled from sequence_output (preprocessing.json)"]
    if shape.activation != "gelu_approximate":
        notes.append(f"keras-hub's BERT computes the tanh form of GELU, the encoder {shape.activation}")
    apart = _split_apart(tokenizer, preprocessing, encoder)
    if apart:
        total = len(canaries.TEXTS)
        notes.append(f"keras-hub's own tokenizer splits {apart} of {total} canary texts otherwise than the encoder's, {EXACT}")
    return notes


def _bert_normalizer(normalizer: dict[str, Any] | None) -> dict[str, Any]:
    """What a tokenizer says of letters and accents; empty where it says nothing."""
    steps = (normalizer or {}).get("normalizers", [normalizer or {}])
    return next((step for step in steps if step.get("type") == "BertNormalizer"), {})


def _split_apart(tokenizer: Any, preprocessing: str, encoder: Encoder) -> int:
    """How many canary texts a tokenizer of keras-hub splits otherwise than an encoder's own."""
    from tokenizers import Tokenizer

    own = Tokenizer.from_str(preprocessing)
    own.no_truncation()
    own.no_padding()
    ours = [own.encode(text, add_special_tokens=False).ids for text in canaries.TEXTS]
    theirs = [np.asarray(tokenizer(text)).tolist() for text in canaries.TEXTS]
    return sum(mine != other[: len(mine)] or any(other[len(mine) :]) for mine, other in zip(ours, theirs, strict=True))


def _undate(folder: Path) -> None:
    path = folder / "metadata.json"
    found = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, found | {"date_saved": "1980-01-01@00:00:00"})


def read_keras_hub(folder: Path, encoder: Encoder) -> Encode:
    """Open a preset anew; rows are prepared, and tokens pooled, as the encoder does it."""
    import keras
    import keras_hub

    facts = encoder.facts
    backbone: Any = keras_hub.models.Backbone.from_preset(str(folder))
    tokens = backbone.output["sequence_output"]
    pooled = pool(tokens, Network("texts", backbone, tokens, "", facts.pooling), facts.pooling)
    if facts.normalised:
        pooled = keras.layers.UnitNormalization()(pooled)
    return Encoder(keras.Model(backbone.input, pooled), facts, (folder / EXACT).read_text(encoding="utf-8"), "the export").encode


LAYOUTS = {
    "sentence-transformers": (write_sentence_transformers, read_sentence_transformers),
    "keras-hub": (write_keras_hub, read_keras_hub),
}
"""By format: what writes a folder, and what opens it anew."""
