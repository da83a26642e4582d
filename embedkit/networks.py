"""Networks: pretrained Keras models from folders, files and hubs, and cutting them at a layer.

A network maps what its feed gives (token ids, or pixels from 0 to 255 in RGB) to the output of its last layer; scaling
of pixels is made a layer of it. Only formats that hold arrays and no code are read: safetensors, Keras, HDF5 weights.
"""

import contextlib
import importlib
import inspect
import math
import pkgutil
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embedkit.patterns import refuse_endless
from embedkit.settings import UserError, listed, not_among
from embedkit.sources import Source
from embedkit.weights import at_most, foreign, open_keras, read_json, refuse_depth, refuse_layers, refuse_links, refuse_paths

# Model types that keras-hub converts, with the name under which their weights stand in checkpoints of a whole model.
FAMILY = {"bert": "bert", "distilbert": "distilbert", "roberta": "roberta", "xlm-roberta": "roberta", "albert": "albert"}
TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spiece.model")
# The field's names for one curve: exact GELU, its tanh approximation, and the others that occur.
ACTIVATIONS = {
    **{"gelu": "gelu", "relu": "relu", "silu": "silu", "swish": "silu"},
    **dict.fromkeys(("gelu_new", "gelu_fast", "gelu_pytorch_tanh"), "gelu_approximate"),
}


MOST_NUMBERS = 1 << 28
"""That a layer may make of one picture, 1 GB; VGG16 makes 3 million of 224 x 224 pixels."""


@dataclass
class Network:
    """A Keras model and what must be known to feed it.

    `model` takes token ids or pixels; `output` is the tensor a cut defaults to and `layer` its
    layer's name. For texts only: `tokenizer` is JSON text, `maximal_length` what the source cuts texts at, and `longest` what
    its positions allow.
    """

    modality: str
    model: Any
    output: Any
    layer: str
    pooling: str
    normalised: bool = False
    tokenizer: str | None = None
    maximal_length: int | None = None
    longest: int | None = None
    prompt: str = ""
    lower: bool = False


def load(source: Source, architecture: str | None, alpha: float | None, size: int | None, scaling: str) -> Network:
    """A network from a source.

    Args:
        source: a Hugging Face folder, a keras-hub preset folder, a weights file, a .keras file, or a hub's name.
        architecture: name in keras.applications, for a weights file or hub weights.
        alpha: width multiplier, for architectures that have one.
        size: height and width of pictures in pixels.
        scaling: what a .keras file expects of pixels.

    Raises:
        UserError: when the source holds no network that can be read, with what would do.
    """
    if source.scheme == "path" and source.path.is_dir():
        return _folder(source.path)
    if source.scheme == "path" and source.path.suffix == ".keras":
        return _keras_file(source.path, scaling)
    if source.scheme in ("path", "applications"):
        return _application(source, architecture, alpha, size)
    if source.scheme == "hf":
        from embedkit import hubs

        return _folder(hubs.snapshot(source.name))
    if source.scheme in ("keras", "kaggle"):
        from embedkit import hubs

        return _preset(source.name if source.scheme == "keras" else f"kaggle://{hubs.kaggle_handle(source.name)}")
    raise UserError(f"{source} is no network; give a folder, a weights file, hf://NAME, keras://PRESET or applications://NAME")


def _json(path: Path, kind: type = dict) -> Any:
    """What a JSON file says, an object or a list; nothing where there is none."""
    try:
        found = read_json(path)
    except FileNotFoundError:
        return kind()
    if not isinstance(found, kind):
        raise UserError(f"{path} holds {type(found).__name__} where {kind.__name__} is expected; download the folder again")
    return found


ADVICE = "give the complete folder of one"


def _folder(folder: Path) -> Network:
    config = _json(folder / "config.json")
    if "model_type" not in config:
        if "registered_name" in config or "class_name" in config:
            return _preset(str(folder))
        raise UserError(f"{folder} holds no network: its config.json names none; give a Hugging Face or keras-hub folder")
    if config["model_type"] not in [*FAMILY]:  # which may be of any type
        raise not_among("model type", str(config["model_type"]), FAMILY, hint=f"in {folder}/config.json")
    refuse_depth(config, folder / "config.json")
    if not any(folder.glob("*.safetensors")):
        raise UserError(f"{folder} holds no .safetensors file; other formats are pickled and are not read, so convert it")
    import keras

    own = _sentence_transformers(folder)
    if (folder / "tokenizer.json").is_file():
        refuse_endless((folder / "tokenizer.json").read_text(encoding="utf-8", errors="replace"), str(folder / "tokenizer.json"))
    with _under_family_names(folder, FAMILY[config["model_type"]]) as (named, pooler):
        backbone = _backbone(str(named), folder)
        segment = _tensor(named, "roberta.embeddings.token_type_embeddings.weight")
    with foreign(f"{folder}/config.json says what no network is", ADVICE):
        _configure(backbone, config, segment, folder)
    tokenizer = _tokenizer(folder)
    pooling, normalised, own_length, lower, prompt, width = own
    if not any((folder / name).exists() for name in TOKENIZERS):
        raise UserError(f"{folder} holds no tokenizer ({', '.join(TOKENIZERS)}); download the folder again, with all its files")
    with foreign(f"the tokenizer of {folder} can't be read", ADVICE):
        longest = int(min(_positions(backbone), tokenizer.model_max_length))
        text = _cut_as(tokenizer, longest)
    refuse_endless(text, f"the tokenizer of {folder}")
    tokens = _tokens(backbone)
    if width not in (None, tokens.shape[-1]):
        raise UserError(f"{folder} pools vectors of {width!r:.40} numbers, but its tokens have {tokens.shape[-1]}; {ADVICE}")
    model = backbone if pooler else keras.Model(backbone.input, tokens)  # without a pooler that nobody trained
    taken = min(own_length or longest, longest)
    return Network("texts", model, tokens, _name(tokens), pooling, normalised, text, taken, longest, prompt, lower)


def _cut_as(tokenizer: Any, longest: int) -> str:
    """A tokenizer's own text, which says so where long texts lose their beginning and not their end."""
    own = tokenizer.backend_tokenizer
    if tokenizer.truncation_side == "left":
        own.enable_truncation(longest, direction="left")
    return own.to_str()


def _tokenizer(folder: Path) -> Any:
    """The folder's tokenizer, as transformers opens it."""
    from transformers import AutoTokenizer

    with foreign(f"the tokenizer of {folder} can't be read", ADVICE):
        found = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    if not found.is_fast:
        raise UserError(f"{folder} has no fast tokenizer; add its tokenizer.json")
    return found


@contextlib.contextmanager
def _under_family_names(folder: Path, family: str) -> Iterator[tuple[Path, bool]]:
    """A folder that keras-hub can convert, and whether it holds all weights that the conversion asks for.

    It is the folder itself, or a copy whose weights carry the family's prefix, which bare encoders lack, and a stand-in for
    the pooler of a BERT that was saved without.
    """
    from safetensors import safe_open
    from safetensors.numpy import save_file

    weights, prefixed = {}, False
    for path in sorted(folder.glob("*.json")):
        if path.name.endswith(".safetensors.index.json"):
            refuse_paths(_json(path).get("weight_map"), path)
    for path in sorted(folder.glob("*.safetensors")):
        with foreign(f"{folder} can't be read as a network", ADVICE), safe_open(path, framework="numpy") as file:
            names = list(file.keys())
            prefixed |= any(name.startswith(f"{family}.") for name in names)
            prefix = "" if prefixed else f"{family}."
            weights |= {prefix + name: file.get_tensor(name) for name in names}
    pooler = [f"{family}.pooler.dense.{part}" for part in ("weight", "bias")]
    complete = family != "bert" or pooler[0] in weights
    if prefixed and complete:
        yield folder, True
        return
    if not complete:
        words = weights.get("bert.embeddings.word_embeddings.weight")
        if words is None or words.ndim != 2:
            raise UserError(f"{folder} can't be read as a network (it has no table of word embeddings); {ADVICE}")
        width = words.shape[1]
        weights |= {pooler[0]: np.zeros((width, width), np.float32), pooler[1]: np.zeros(width, np.float32)}
    with tempfile.TemporaryDirectory() as copy:
        for path in folder.glob("*.json"):
            if not path.name.endswith(".safetensors.index.json"):
                shutil.copy(path, copy)
        for path in folder.glob("*.txt"):
            shutil.copy(path, copy)
        save_file(weights, Path(copy) / "model.safetensors", metadata={"format": "pt"})
        yield Path(copy), complete


def _tensor(folder: Path, name: str) -> np.ndarray | None:
    from safetensors import safe_open

    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="numpy") as file:
            if name in file.keys():
                return file.get_tensor(name)
    return None


def _configure(backbone: Any, config: dict[str, Any], segment: np.ndarray | None, folder: Path) -> None:
    """Make a backbone compute what its config.json says; the conversion has one activation and one epsilon per family."""
    import keras
    import keras_hub
    from keras_hub.src.utils.keras_utils import gelu_approximate

    if config.get("position_embedding_type", "absolute") != "absolute":
        raise UserError(f"{folder} has {config['position_embedding_type']} positions; only absolute ones are read, so take another")
    name = config.get("hidden_act", config.get("activation", "gelu"))
    if name not in ACTIVATIONS:
        raise not_among("activation", str(name), ACTIVATIONS, hint=f"in {folder}/config.json")
    curve: Any = ACTIVATIONS[name]
    activation = gelu_approximate if curve == "gelu_approximate" else keras.activations.get(curve)
    epsilon = config.get("layer_norm_eps", 1e-12)
    if config["model_type"] == "roberta" and segment is not None:
        # keras-hub leaves out the one segment vector; it is the same at every position, so it is added there
        positions = backbone.embeddings.position_embedding.position_embeddings
        positions.assign(positions.numpy() + segment[:1])
    for layer in backbone.layers:
        if isinstance(layer, keras.layers.LayerNormalization):
            layer.epsilon = epsilon
        if isinstance(layer, keras_hub.layers.TransformerEncoder):
            layer.activation = layer._feedforward_intermediate_dense.activation = activation
            layer.layer_norm_epsilon = epsilon
            layer._self_attention_layer_norm.epsilon = layer._feedforward_layer_norm.epsilon = epsilon


def _backbone(preset: str, shown: Path | None = None) -> Any:
    import keras_hub

    if Path(preset).exists():
        name, folder = str(shown or preset), Path(preset)
        _look(folder, name)
        numbers = sum(path.stat().st_size for kind in ("safetensors", "h5") for path in folder.glob(f"*.{kind}"))
        with foreign(f"{name} can't be read as a network", ADVICE), at_most(numbers, name):
            return keras_hub.models.Backbone.from_preset(preset)
    try:
        return keras_hub.models.Backbone.from_preset(preset)
    except Exception as error:
        from embedkit import hubs

        raise hubs.unreachable(preset if "://" in preset else f"keras://{preset}", error) from error


def _look(folder: Path, name: str) -> None:
    """Look at a preset's own files before keras-hub reads them."""
    config = _json(folder / "config.json")
    refuse_layers(config, f"{name}/config.json")
    if isinstance(config.get("config"), dict):
        refuse_depth(config["config"], Path(name) / "config.json")
    for path in folder.glob("*.weights.json"):
        refuse_paths(_json(path).get("weight_map"), path)
    for path in folder.glob("*.h5"):
        refuse_links(path, str(path), path.stat().st_size)


def _tokens(backbone: Any) -> Any:
    """The token vectors of a text backbone: (texts, length, dimension)."""
    return backbone.output["sequence_output"] if isinstance(backbone.output, dict) else backbone.output


def _name(tensor: Any) -> str:
    return tensor._keras_history.operation.name


def _positions(backbone: Any) -> int:
    return int(getattr(backbone, "max_sequence_length", None) or 512)


def _sentence_transformers(folder: Path) -> tuple[str, bool, int | None, bool, str, int | None]:
    """Pooling, normalisation, maximal length, lower-casing, prompt and width from sentence-transformers' own files."""
    pooling, normalised, length, lower, width = "mean", False, None, False, None
    for module in _json(folder / "modules.json", list):
        if not isinstance(module, dict) or not isinstance(module.get("type"), str):
            raise UserError(f"{folder}/modules.json has a module without a type; download the folder again")
        refuse_paths({"path": module.get("path")}, folder / "modules.json")
        kind, path = module["type"].rsplit(".", 1)[-1], folder / module["path"]
        if kind == "Transformer":
            own = _json(path / "sentence_bert_config.json")
            length, lower = own.get("max_seq_length"), bool(own.get("do_lower_case"))
        elif kind == "Pooling":
            own = _json(path / "config.json")
            pooling, width = _pooling(own, path), own.get("word_embedding_dimension", own.get("embedding_dimension"))
        elif kind == "Normalize":
            normalised = True
        else:
            raise UserError(
                f"{folder} ends in a {kind} module, which would be lost; only Transformer, Pooling and Normalize are read, "
                "so take another encoder"
            )
    if not (length is None or isinstance(length, int) and length > 0):
        raise UserError(f"{folder} says its texts have {length!r:.40} tokens at most; it must be a number above 0, or null")
    own = _json(folder / "config_sentence_transformers.json")
    prompts, default = own.get("prompts") or {}, own.get("default_prompt_name") or ""
    prompt = prompts.get(default, "") if isinstance(prompts, dict) and isinstance(default, str) else None
    if not isinstance(prompt, str):
        raise UserError(f"{folder}/config_sentence_transformers.json says no text as its prompt; download the folder again")
    return pooling, normalised, length, lower, prompt, width


def _pooling(config: dict[str, Any], path: Path) -> str:
    names = {"cls_token": "cls", "mean_tokens": "mean", "max_tokens": "max", "cls": "cls", "mean": "mean", "max": "max"}
    mode = config.get("pooling_mode")
    flags = [key.removeprefix("pooling_mode_") for key, value in config.items() if value is True and "mode" in key]
    modes = [mode] if isinstance(mode, str) else flags
    if config.get("include_prompt") is False:
        raise UserError(f"{path} leaves the prompt out of its pooling, which is not read; take another encoder")
    if len(modes) != 1 or modes[0] not in names:
        raise UserError(f"{path} pools by {' and '.join(modes) or 'nothing'}, but only one of cls, mean and max is read")
    return names[modes[0]]


def _preset(name: str) -> Network:
    import keras_hub

    backbone: Any = _backbone(name)
    if isinstance(backbone.input, dict) and "token_ids" in backbone.input:
        tokenizer = _of_preset(keras_hub.models.Tokenizer, name)
        tokens = _tokens(backbone)
        words, longest = _word_pieces(tokenizer), _positions(backbone)
        return Network("texts", backbone, tokens, _name(tokens), "mean", False, words, longest, longest)
    converter: Any = _of_preset(keras_hub.layers.ImageConverter, name)
    taken: Any = backbone.input
    size = converter.image_size or taken.shape[1:3]
    height, width = (224, 224) if size is None or None in tuple(size) else map(int, size)
    scale = 1.0 if converter.scale is None else converter.scale
    offset = 0.0 if converter.offset is None else converter.offset
    return _scaled(backbone, None, (height, width), scale, offset)


def _of_preset(kind: Any, name: str) -> Any:
    try:
        return kind.from_preset(name)
    except (FileNotFoundError, ValueError) as error:
        raise UserError(f"the preset {name} has no {kind.__name__} ({str(error).splitlines()[0]}); give a complete one") from error


def _word_pieces(tokenizer: Any) -> str:
    """A keras-hub WordPiece tokenizer as a fast one, proved equal on sample texts."""
    from tokenizers import BertWordPieceTokenizer, normalizers

    from embedkit.canaries import TEXTS

    kind = type(tokenizer).__name__
    if not hasattr(tokenizer, "get_vocabulary") or "[CLS]" not in (vocabulary := list(tokenizer.get_vocabulary())):
        raise UserError(f"the preset's {kind} is not WordPiece, the only one read from keras-hub; give the network's hf:// form")
    lower, strip = bool(tokenizer.lowercase), bool(tokenizer.strip_accents)
    fast = BertWordPieceTokenizer({word: n for n, word in enumerate(vocabulary)}, lowercase=lower, strip_accents=strip)
    if lower:  # keras-hub folds case by way of NFKC
        fast.normalizer = normalizers.Sequence([normalizers.NFKC(), fast.normalizer])
    plain = [text for text in TEXTS if "[" not in text]
    ours = [fast.encode(text, add_special_tokens=False).ids for text in plain]
    theirs = [np.asarray(ids).tolist() for ids in (tokenizer(text) for text in plain)]
    if any(mine != other[: len(mine)] or any(other[len(mine) :]) for mine, other in zip(ours, theirs, strict=True)):
        raise UserError(f"the preset's {kind} and its fast form split a text differently; give the network's hf:// form")
    return fast.to_str()


def _scaled(model: Any, output: Any, size: tuple[int, int], scale: Any, offset: Any, flip: bool = False) -> Network:
    """A picture network that takes pixels from 0 to 255 in RGB: scaling, and channel order, become its first layers.

    `output` is the output of a layer of `model`, or None for the model's own.
    """
    import keras

    pixels: Any = keras.Input((*size, 3), name="pixels")  # (rows, height, width, 3), 0 to 255
    x = pixels[..., ::-1] if flip else pixels
    x = keras.layers.Rescaling(_plain(scale), _plain(offset), name="scaling")(x)  # as the network was trained
    whole = keras.Model(_graph(model).input, _graph(model).output, name="network")
    result = keras.Model(pixels, whole(x), name="pixels_to_output")
    if output is None:
        return Network("images", result, result.output, _name(_graph(model).output), "avg")
    return Network("images", result, _locate(result, ["network", _name(output)]), _name(output), "avg")


def _plain(value: Any) -> Any:
    return np.asarray(value, np.float64).tolist()


def _keras_file(path: Path, scaling: str) -> Network:
    model = open_keras(path, str(path))
    given, made = getattr(_graph(model), "input", None), getattr(_graph(model), "output", None)
    shape = getattr(given, "shape", ())
    if len(shape) != 4 or None in shape[1:] or shape[3] != 3:
        raise UserError(f"{path} doesn't take pictures of one size in RGB (its input is {given}), the only kind read from a file")
    if not hasattr(made, "shape"):
        raise UserError(f"{path} has several outputs, of which none is the vector; save a network that has one")
    for layer, _, made_shape in list_layers(model):
        numbers = math.prod(size or 1 for size in made_shape)
        if numbers > MOST_NUMBERS:
            says = f"{path} makes {numbers:,} numbers of a picture at its layer {layer}"
            raise UserError(f"{says}; at most {MOST_NUMBERS:,} are computed, so take a smaller network")
    scale, offset = {"0..255": (1.0, 0.0), "0..1": (1 / 255, 0.0), "-1..1": (1 / 127.5, -1.0)}[scaling]
    return _scaled(model, None, (shape[1], shape[2]), scale, offset)


def _application(source: Source, architecture: str | None, alpha: float | None, size: int | None) -> Network:
    import h5py
    import keras

    applications = _applications()
    name = architecture or (source.name if source.scheme == "applications" else None)
    if name is None:
        with h5py.File(source.path) as file:
            whole = "model_config" in file.attrs
        if whole:
            raise UserError(f"{source.path.name} holds a whole model in an old format; open it in Keras and save it as .keras")
        raise UserError(f"{source.path.name} holds weights only; say of which keras.applications architecture, such as MobileNetV2")
    if name not in applications:
        raise not_among("architecture", name, applications)
    build, preprocess = applications[name]
    takes = inspect.signature(build).parameters
    options: dict[str, Any] = {} if alpha is None else {"alpha": alpha}
    if alpha is not None and "alpha" not in takes:
        raise UserError(f"{name} has no width multiplier; leave alpha out")
    named = (int(word) for word in source.stem.split("_") if word in ("224", "192", "160", "128", "96", "299", "331"))
    side = size or next(named, 224)
    weights = str(source.path) if source.scheme == "path" else "imagenet"
    if source.scheme == "path" and h5py.is_hdf5(source.path):
        refuse_links(source.path, str(source.path), source.path.stat().st_size)
    if "include_preprocessing" in takes:
        options["include_preprocessing"] = True
    problems = []
    for top in (False, True):  # the file doesn't say whether it holds the classifier too
        keras.backend.clear_session()
        try:
            with contextlib.redirect_stdout(sys.stderr):  # Keras announces downloads on stdout, where only results belong
                model = build(include_top=top, weights=weights, input_shape=(side, side, 3), **options)
        except Exception as error:
            if source.scheme == "applications" and isinstance(error, ValueError):
                words = str(error).splitlines()[0]
                raise UserError(f"{source}: {words}; give values that the architecture has weights for") from error
            if source.scheme == "applications":
                from embedkit import hubs

                raise hubs.unreachable(str(source), error) from error
            problems.append(str(error).splitlines()[0])
            continue
        scale, offset, flip = _affine(preprocess)
        return _scaled(model, _last_map(model) if top else None, (side, side), scale, offset, flip)
    raise UserError(f"{source} doesn't fit {name} ({problems[0]:.200}); check the architecture, alpha and image_size")


def _applications() -> dict[str, tuple[Any, Any]]:
    """Architectures of keras.applications by name, each with its own preprocessing."""
    import keras

    found: dict[str, tuple[Any, Any]] = {}
    modules = [importlib.import_module(f"keras.applications.{m.name}") for m in pkgutil.iter_modules(keras.applications.__path__)]
    for module in (keras.applications, *modules):
        for name, build in vars(module).items():
            own = f"keras.applications.{getattr(build, '__module__', '').rsplit('.', 1)[-1]}"
            if name[0].isupper() and callable(build) and own in sys.modules:
                found.setdefault(name, (build, sys.modules[own].preprocess_input))
    return found


def _affine(preprocess: Any) -> tuple[Any, Any, bool]:
    """Scale, offset and channel flip of an architecture's own preprocessing, read off its effect on four pixels."""
    black = preprocess(np.zeros((1, 1, 3))).reshape(3)
    effect = np.stack([preprocess(255 * channel.reshape(1, 1, 3)).reshape(3) for channel in np.eye(3)]) - black
    flip = effect[0, 0] == 0
    scale = (effect[:, ::-1] if flip else effect).diagonal() / 255
    return (scale[::-1] if flip else scale), black, bool(flip)


def _last_map(model: Any) -> Any:
    """What the last global pooling, or flattening, of a network with its classifier is applied to."""
    import keras

    pooling = (keras.layers.GlobalAveragePooling2D, keras.layers.GlobalMaxPooling2D, keras.layers.Flatten)
    last = [layer for layer in model.layers if isinstance(layer, pooling)][-1]
    return last.input


def _graph(model: Any) -> Any:
    """The functional graph of a model: itself, or what a Sequential keeps inside."""
    return getattr(model, "_functional", None) or model


def _nested(layer: Any) -> bool:
    import keras

    return isinstance(layer, keras.Model) and hasattr(_graph(layer), "operations") and hasattr(_graph(layer), "inputs")


def list_layers(model: Any) -> Iterator[tuple[str, str, tuple]]:
    """Layers at which a model can be cut, in order: path (`outer/inner` for nested models), class, output shape."""
    for path, layer, outputs in walk(model):
        if len(outputs) == 1:
            yield path, type(layer).__name__, tuple(outputs[0].shape)


def walk(model: Any, prefix: str = "") -> Iterator[tuple[str, Any, list[Any]]]:
    """Every layer of a model but its inputs, in order, those of a nested model before it: path, layer, output tensors."""
    import keras

    for layer in _graph(model).layers:
        path = prefix + layer.name
        if isinstance(layer, keras.layers.InputLayer):
            continue
        if _nested(layer):
            yield from walk(layer, path + "/")
        yield path, layer, _node(model, layer).output_tensors


def find_layer(network: Network, layer: str) -> Any:
    """The output tensor of a layer by its path, or by its bare name where only one layer has it.

    Raises:
        UserError: when there is none; names near ones.
    """
    return locate_all(network.model, [path_of(network.model, layer).split("/")])[0]


def path_of(model: Any, layer: str) -> str:
    """The path of a layer, by its path, or by its bare name where only one layer has it.

    Raises:
        UserError: when there is none; names near ones.
    """
    paths = [path for path, _, _ in list_layers(model)]
    fitting = [path for path in paths if path == layer] or [path for path in paths if path.rsplit("/", 1)[-1] == layer]
    if len(fitting) > 1:
        raise UserError(f"{len(fitting)} layers are called {layer!r}: {listed(fitting)}; give one of these paths")
    if not fitting:
        near = [path.rsplit("/", 1)[-1] for path in paths]
        raise not_among("layer", layer, near, hint="list them with `embedkit layers SOURCE`")
    return fitting[0]


def bottlenecks(model: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Path and class of the layers through which everything passes, in order: what lies behind them needs nothing else.

    Inputs that later layers look at as well, such as padding masks, don't count, nor does what is made of them without weights.
    """
    import keras

    graph = _graph(model)
    nodes = [node for depth in sorted(graph._nodes_by_depth, reverse=True) for node in graph._nodes_by_depth[depth]]
    nodes = [node for node in nodes if node.arguments.keras_tensors]  # inputs have none
    last: dict[int, int] = {id(tensor): len(nodes) for tensor in graph.outputs}
    for place, node in enumerate(nodes):
        for tensor in node.arguments.keras_tensors:
            last[id(tensor)] = max(place, last.get(id(tensor), -1))
    found: list[tuple[str, str]] = []
    open_: set[int] = set()
    counted: set[int] = set()
    for place, node in enumerate(nodes):
        if getattr(node.operation, "weights", ()) or any(id(tensor) in counted for tensor in node.arguments.keras_tensors):
            counted |= {id(tensor) for tensor in node.output_tensors}
        open_ = {tensor for tensor in open_ if last[tensor] > place}
        made = [id(tensor) for tensor in node.output_tensors if last.get(id(tensor), -1) > place]
        is_layer = isinstance(node.operation, keras.layers.Layer)  # operations such as a division are none
        if is_layer and not open_ and len(made) == 1 and len(node.output_tensors) == 1:
            path = prefix + node.operation.name
            found += bottlenecks(node.operation, path + "/") if _nested(node.operation) else [(path, type(node.operation).__name__)]
        open_ |= set(made) & counted
    return found


def _node(model: Any, layer: Any) -> Any:
    """The call of a layer that belongs to this model's graph; the layer may have been called in others too."""
    nodes = [node for depth in _graph(model)._nodes_by_depth.values() for node in depth]
    return next(node for node in nodes if node.operation is layer)


def _locate(model: Any, path: list[str]) -> Any:
    return locate_all(model, [path])[0]


def locate_all(model: Any, paths: list[list[str]]) -> list[Any]:
    """The tensors of layers in terms of the outermost model's inputs, so that one pass gives all of them.

    A nested model's inner tensors belong to a graph of their own, which is why `keras.Model(outer.input, inner_tensor)`
    fails; the nested model is cut first, and its cut is called in its place.
    """
    import keras

    found: list[Any] = [None] * len(paths)
    for first in dict.fromkeys(path[0] for path in paths):
        layer = _graph(model).get_layer(first)
        node = _node(model, layer)
        inside = [place for place, path in enumerate(paths) if path[0] == first and len(path) > 1]
        for place, path in enumerate(paths):
            if path == [first]:
                found[place] = node.output_tensors[0]
        if inside:
            tensors = locate_all(layer, [paths[place][1:] for place in inside])
            name = layer.name if len(paths) == 1 else f"{layer.name}_cut"  # the whole may be needed too, for a later layer
            outputs = keras.Model(_graph(layer).input, tensors, name=name)(node.arguments.args[0])
            for place, tensor in zip(inside, outputs if isinstance(outputs, list | tuple) else [outputs], strict=True):
                found[place] = tensor
    return found
