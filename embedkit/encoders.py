"""Encoders: anything that turns a row into a vector, whatever it was made from.

An encoder artifact is a folder: `model.keras` (the network, cut at its layer, pooling and normalisation inside it; pixels
enter as 0 to 255 in RGB, texts as token ids, rows of a table as numbers near [-1, 1]), `tokenizer.json` for texts,
`columns.json` for tables, `encoder.json` (what else decides a vector), and `canaries.npz`. `model.keras` holds plain layers
and opens in Keras without embedkit.

Its identity is a hash of what decides a vector, whatever call made it. Vectors and indexes carry it.
"""

import hashlib
import json
import os
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, PositiveFloat, PositiveInt

from embedkit import canaries, crossfit, engines, frameworks, networks, patterns, weights
from embedkit.artifacts import AGAIN, Artifact
from embedkit.batches import pick
from embedkit.crossfit import NONE, Folds, Known
from embedkit.features import Columns
from embedkit.lineage import import_lineage
from embedkit.pipelines import Feed, ImageFeed, TableFeed, TextFeed, by_position
from embedkit.settings import Settings, UserError, later
from embedkit.sources import Source
from embedkit.stages import Draft, Facts, stage

LEAST_LENGTH = 3
MOST_SIDE = 100_000
"""Of a picture in pixels, or of a text in tokens."""
PREPROCESSING = {"texts": "tokenizer.json", "table": "columns.json"}
"""The file, by modality, of preprocessing that `encoder.json` doesn't say."""
HALF = "encoder"
"""Folder of a fine-tuned classifier that holds its encoder half, with the files of an encoder artifact."""


class EncoderFacts(BaseModel):
    """What `encoder.json` says: all that decides a vector beside the network itself, and the identity over both."""

    modality: Literal["images", "texts", "table"]
    dimension: int
    layer: str
    pooling: str
    normalised: bool
    maximal_length: int | None = None
    prompt: str = ""
    lower: bool = False
    height: int | None = None
    width: int | None = None
    source: str
    identity: str = ""
    folds: str = later("")
    """SHA-256 of the vectors it gives rows that it learned from, and of which rows these are (`crossfit`), where it does."""


def facts_of_table(columns: Columns, source: str) -> EncoderFacts:
    """What `encoder.json` says of an encoder of tables.

    Args:
        columns: what it takes.
        source: what it was made from.
    """
    shape: dict[str, Any] = {"modality": "table", "dimension": len(columns.outputs), "layer": "columns", "pooling": "none"}
    return EncoderFacts(**shape, normalised=False, source=source)


class Encoder:
    """A loaded encoder.

    Attributes:
        facts: what `encoder.json` says.
        model: the Keras model, from what the feed gives to (rows, dimension).
        preprocessing: the text of the file that PREPROCESSING names; None for pictures.
        name: how it is called in messages.
        folds: networks for rows that it learned from with their labels, where it has such (`crossfit`).
        streams: how many batches the engine takes at a time.
    """

    def __init__(self, model: Any, facts: EncoderFacts, preprocessing: str | None, name: str):
        self.model, self.facts, self.preprocessing, self.name = model, facts, preprocessing, name
        self.forward, self.streams = engines.forward(model), 1
        self.feed = feed(facts, preprocessing)
        self.folds: Folds | None = None
        self.folder: Path | None = None

    @classmethod
    def open(cls, reference: str | Artifact, root: Path | str | None = None) -> "Encoder":
        """Load an encoder artifact, or the encoder half of a fine-tuned classifier, after its checksums matched.

        Its canaries are checked, and its identity is taken again: vectors are kept apart, and put together, by it alone.

        Raises:
            UserError: when it is no encoder, is damaged, gives other vectors than when it was made, or isn't the one it says.
        """
        frameworks.load_frameworks()
        artifact = Artifact.open(reference, root)
        folder = encoder_folder(artifact)
        artifact.check()
        facts = _facts(artifact, folder)
        file = PREPROCESSING.get(facts.modality)
        preprocessing = _text(artifact, folder / file) if file else None
        if facts.modality == "texts" and preprocessing is not None:
            patterns.refuse_endless(preprocessing, f"{file} of {artifact}")
        model = weights.open_keras(folder / "model.keras", f"model.keras of {artifact}")
        with weights.foreign(f"{artifact} can't embed its own canaries", AGAIN), ThreadPoolExecutor(1) as beside:
            found = beside.submit(identity, model, facts, preprocessing)  # hashing weights holds no other thread up
            encoder = cls(model, facts, preprocessing, str(artifact))
            encoder.folds, encoder.folder = Folds.open(folder, model), folder
            lowest = encoder.agreement(canaries.CHECKED_ON_LOADING)
        if not lowest >= canaries.LEAST_AGREEMENT:
            raise UserError(
                f"{artifact} gives other vectors here than when it was made (cosine {lowest:.6f}, at least "
                f"{canaries.LEAST_AGREEMENT} is needed); use the package versions in its manifest, or import it again"
            )
        own = with_folds(found.result(), crossfit.digest(folder) if facts.folds else "")
        if own != facts.identity:
            raise UserError(
                f"{artifact} says its identity is {facts.identity:.12}, but that of its weights and preprocessing is "
                f"{own:.12}, so its vectors would be taken for another encoder's; {AGAIN}"
            )
        return encoder

    def use(self, engine: engines.Engine) -> None:
        """Run the network by an engine from here on; networks of folds are made as they are needed, so by one stream."""
        self.forward, self.streams = engine.run, 1 if self.folds else engine.streams

    def agreement(self, few: int | None = None, run: Callable[[Any], np.ndarray] | None = None) -> float:
        """The lowest agreement of the artifact's canaries with the vectors they had when it was made.

        Args:
            few: how many canaries, spread over all; all by default.
            run: another way to run the network.
        """
        assert self.folder is not None
        rows, expected = canaries.load(self.folder / "canaries.npz")
        if expected.shape[1] != self.facts.dimension:
            numbers = f"{expected.shape[1]:,} numbers, not {self.facts.dimension:,}"
            raise UserError(f"the canaries of {self.name} have vectors of {numbers}; {AGAIN}")
        step = max(1, len(rows) // few) if few else 1
        found = np.empty_like(expected[::step])
        for indices, batch in self.feed.batches(rows[::step]):
            found[indices] = (run or self.forward)(batch)
        return float(canaries.agreement(found, expected[::step]).min())

    def encode(self, rows: Sequence[Any], known: Known | None = None) -> np.ndarray:
        """Turn rows into vectors.

        Args:
            rows: texts; pictures as paths, encoded bytes or (height, width, 3) uint8 arrays; or rows of a table, as dictionaries
                of a value by each column's name (None where it is missing), as an Arrow table or as a DataFrame. A Series, or any
                other collection with an order, is taken by position.
            known: which rows of a dataset they are: one that the encoder learned from with its label gets the vector of a network
                that didn't see it, where there is such.

        Returns:
            (rows, dimension) float32, in the order of the rows.

        Raises:
            UserError: when a row is not of the encoder's modality or can't be read.
        """
        if isinstance(rows, str | bytes | os.PathLike | Mapping):
            raise UserError(f"one {type(rows).__name__} came where several rows are expected; put it in a list")
        rows = by_position(rows)
        vectors = np.empty((len(rows), self.facts.dimension), np.float32)
        folds = self.folds_of(known) if known is not None else np.full(len(rows), NONE)
        for indices, batch in self.feed.batches(rows):
            vectors[indices] = self.embedded(batch, folds[indices])
        return vectors

    def embedded(self, batch: Any, folds: np.ndarray) -> np.ndarray:
        """The vectors of a batch that the feed gave, (rows, dimension) float32; `folds` are those of its rows, (rows,) int."""
        vectors = engines.within_memory(self.forward, batch)
        for fold in np.unique(folds[folds != NONE]).tolist():
            assert self.folds is not None
            vectors[folds == fold] = self.folds.forward(fold)(pick(batch, folds == fold))
        return vectors

    def folds_of(self, known: Known) -> np.ndarray:
        """The fold of each row that the encoder learned from with its label, NONE for others; (rows,) int."""
        return self.folds.of(known) if self.folds else np.full(len(known.ids), NONE)


def _text(artifact: Artifact, path: Path) -> str:
    """A file of an encoder's."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path.name} of {artifact} can't be read ({weights.words(error)}); {AGAIN}") from error


def _facts(artifact: Artifact, folder: Path) -> EncoderFacts:
    """What `encoder.json` says, of which the manifest must say the same."""
    with weights.foreign(f"encoder.json of {artifact} can't be read", AGAIN):
        facts = EncoderFacts.model_validate_json(_text(artifact, folder / "encoder.json"))
    for name in ("identity", "modality", "dimension"):
        said, own = artifact.manifest.details.get(name), getattr(facts, name)
        if said != own:
            raise UserError(f"the manifest of {artifact} says its {name} is {said!r:.20}, but encoder.json {own!r:.20}; {AGAIN}")
    needed = {"images": ("height", "width"), "texts": ("maximal_length",), "table": ()}[facts.modality]
    if lacking := [name for name in needed if not 0 < (getattr(facts, name) or 0) <= MOST_SIDE]:
        raise UserError(f"encoder.json of {artifact} says no {lacking[0]} from 1 to {MOST_SIDE:,}; {AGAIN}")
    return facts


def embedder_of(artifact: Artifact) -> Artifact:
    """What embeds for an artifact: itself, or, for a classifier on frozen vectors, the encoder that made them."""
    if artifact.manifest.kind == "encoder" or (artifact / HALF / "encoder.json").is_file():
        return artifact
    return artifact.inputs["vectors"].inputs["encoder"]


def encoder_folder(artifact: Artifact) -> Path:
    """Where an artifact's encoder lies: the artifact's own folder, or that of a fine-tuned classifier's encoder half.

    Raises:
        UserError: when it holds none.
    """
    if artifact.manifest.kind == "encoder":
        return artifact.path
    if (artifact / HALF / "encoder.json").is_file():
        return artifact / HALF
    if artifact.manifest.kind == "classifier":
        raise UserError(f"{artifact} holds no encoder: it was trained on vectors of {embedder_of(artifact)}; give that one")
    raise UserError(f"{artifact} is no encoder; `embedkit artifacts list encoder` names those there are")


def feed(facts: EncoderFacts, preprocessing: str | None) -> Feed:
    """What turns rows of an encoder's modality into batches; `preprocessing` is the text of its file, where it has one."""
    if facts.modality == "texts":
        from tokenizers import Tokenizer

        assert preprocessing is not None and facts.maximal_length is not None
        return TextFeed(Tokenizer.from_str(preprocessing), facts.maximal_length, facts.prompt, facts.lower)
    if facts.modality == "table":
        assert preprocessing is not None
        return TableFeed(Columns.model_validate_json(preprocessing))
    assert facts.height is not None and facts.width is not None
    return ImageFeed(facts.height, facts.width)


def identity(model: Any, facts: EncoderFacts, preprocessing: str | None) -> str:
    """SHA-256 over what decides a vector: layers and weights, preprocessing, pooling, normalisation, dimension."""
    digest = hashlib.sha256()
    deciding = facts.model_dump(exclude={"identity", "source", "layer", "folds"})
    digest.update(json.dumps([deciding, _nameless(model.get_config())], sort_keys=True, default=str).encode())
    digest.update((preprocessing or "").encode())
    for weight in model.weights:
        array = np.ascontiguousarray(weight.numpy())
        digest.update(f"{array.shape} {array.dtype}".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)  # not copied
    return digest.hexdigest()


def with_folds(identity: str, folds: str) -> str:
    """The identity of an encoder that gives rows it learned from other vectors; `folds` is their `crossfit.digest`, or empty."""
    return hashlib.sha256(f"{identity} {folds}".encode()).hexdigest() if folds else identity


TRAINING_ONLY = ("trainable", "module", "registered_name", "build_config", "compile_config", "shared_object_id")
NAMING = ("name", "keras_history", "input_layers", "output_layers")


def _nameless(config: Any) -> Any:
    """A Keras configuration with numbers for names, without what only training needs: equal for two imports of one network."""
    names = {name: f"#{number}" for number, name in enumerate(dict.fromkeys(_names(config)))}

    def plain(value: Any, naming: bool) -> Any:  # `naming`: texts here are names; elsewhere "tanh" is an activation
        if isinstance(value, dict):
            ends = ("_initializer", "_regularizer", "_constraint")
            kept = {key: v for key, v in value.items() if key not in TRAINING_ONLY and not key.endswith(ends)}
            return {key: plain(v, key in NAMING) for key, v in kept.items()}
        if isinstance(value, list | tuple):
            return [plain(v, naming) for v in value]
        return names.get(value, value) if naming and isinstance(value, str) else value

    return plain(config, False)


def _names(config: Any) -> Iterator[str]:
    if isinstance(config, dict):
        if isinstance(config.get("name"), str):
            yield config["name"]
        config = list(config.values())
    if isinstance(config, list | tuple):
        for value in config:
            yield from _names(value)


def save_model(model: Any, path: Path) -> None:
    """Save a Keras model so that the same model gives the same bytes.

    `.keras` is a zip that holds the time of saving, and numbers shared objects by where they lay in memory.
    """
    unfinished = path.with_name("unfinished.keras")
    model.save(unfinished)
    with zipfile.ZipFile(unfinished) as given, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as kept:
        for name in sorted(given.namelist()):
            data = given.read(name)
            if name == "metadata.json":
                data = json.dumps(json.loads(data) | {"date_saved": "1980-01-01@00:00:00"}).encode()
            if name == "config.json":
                data = _renumbered(data)
            kept.writestr(zipfile.ZipInfo(name), data)
    unfinished.unlink()


def _renumbered(config: bytes) -> bytes:
    """A Keras configuration whose shared objects are numbered in the order in which they come."""
    numbers: dict[bytes, bytes] = {}

    def number(found: re.Match[bytes]) -> bytes:
        return found[1] + numbers.setdefault(found[2], b"%d" % (len(numbers) + 1))

    return re.sub(rb'("shared_object_id": )(\d+)', number, config)


def save_encoder(
    out: Draft, model: Any, facts: EncoderFacts, preprocessing: str | None = None, folder: str = "."
) -> dict[str, Any]:
    """Write an encoder's files into a draft.

    Args:
        out: the draft.
        model: from what the modality's feed gives to (rows, dimension).
        facts: what decides a vector beside it; the identity is found here.
        preprocessing: the text of the file that PREPROCESSING names.
        folder: where in the draft; HALF for a classifier's.

    Returns:
        The details that its manifest carries: modality, dimension, identity and the like.
    """
    facts = facts.model_copy(update={"identity": identity(model, facts, preprocessing), "folds": ""})
    save_model(model, out / f"{folder}/model.keras")
    if preprocessing is not None:
        (out / f"{folder}/{PREPROCESSING[facts.modality]}").write_text(preprocessing, encoding="utf-8", newline="\n")
    (out / f"{folder}/encoder.json").write_text(facts.model_dump_json(indent=1) + "\n", encoding="utf-8", newline="\n")
    with weights.foreign("the network can't embed the canaries", "its files don't fit each other, so import it anew"):
        encoder = Encoder(model, facts, preprocessing, "the new encoder")
        vectors = encoder.encode(canaries.inputs(facts.modality, preprocessing))
    if not np.isfinite(vectors).all():
        raise UserError("the network gives vectors that are not finite; its weights are damaged or don't fit, so import it anew")
    canaries.save(out / f"{folder}/canaries.npz", facts.modality, vectors, preprocessing)
    return facts.model_dump() | {"parameters": int(model.count_params())}


def seal_folds(out: Draft) -> dict[str, Any]:
    """Make the folds that an encoder was given a part of its identity; returns what its manifest's details say anew."""
    facts = EncoderFacts.model_validate_json((out / "encoder.json").read_text(encoding="utf-8"))
    folds = crossfit.digest(out.files)
    sealed = {"identity": with_folds(facts.identity, folds), "folds": folds}
    text = facts.model_copy(update=sealed).model_dump_json(indent=1)
    (out / "encoder.json").write_text(text + "\n", encoding="utf-8", newline="\n")
    return sealed


class ImportEncoder(Settings):
    """How a pretrained network becomes an encoder."""

    layer: str | None = None
    """Layer to cut the network at, by name (`embedkit layers SOURCE` lists them); by default its last feature layer."""
    pooling: Literal["auto", "mean", "max", "cls", "avg", "flatten", "none"] = "auto"
    """How a layer's output becomes one vector: mean, max, cls or none for texts; avg, max, flatten or none for images."""
    normalise: bool | None = None
    """Whether vectors get length 1; by default as the source's own files say, else no."""
    maximal_length: PositiveInt | None = None
    """Tokens kept of a text, special ones included; by default what the source says."""
    prompt: str | None = None
    """Text put before each text; by default what the source says, usually nothing."""
    architecture: str | None = None
    """Name in keras.applications, such as MobileNetV2, for a weights file."""
    alpha: PositiveFloat | None = None
    """Width multiplier of the architecture, for MobileNets; must fit the weights."""
    image_size: PositiveInt | None = None
    """Height and width of pictures in pixels, for keras.applications; by default what the file's name says, else 224."""
    scaling: Literal["0..255", "0..1", "-1..1"] = "0..255"
    """What a .keras file expects of pixels; every other source says it itself."""


def _network(source: Source, settings: ImportEncoder) -> networks.Network:
    return networks.load(source, settings.architecture, settings.alpha, settings.image_size, settings.scaling)


def _called(names: dict[str, str], settings: ImportEncoder) -> str:
    network = settings.architecture.lower() if settings.architecture else names["source"]
    return "-".join(str(part) for part in (network, settings.alpha, settings.layer) if part).replace("/", "-")


@stage("encoder", revision=1, name=_called, keras=True)
def import_encoder(out: Draft, source: Source, settings: ImportEncoder = ImportEncoder()) -> Facts:
    """Make an encoder of a pretrained network, cut at a chosen layer.

    Args:
        source: a Hugging Face or keras-hub folder, a weights or .keras file, hf://NAME, keras://PRESET or applications://NAME.
    """
    import keras

    network = _network(source, settings)
    tensor = networks.find_layer(network, settings.layer) if settings.layer else network.output
    pooling = network.pooling if settings.pooling == "auto" else settings.pooling
    if settings.pooling == "auto" and len(tensor.shape) == 2:
        pooling = "none"
    normalised = network.normalised if settings.normalise is None else settings.normalise
    pooled = pool(tensor, network, pooling)
    if normalised:
        pooled = keras.layers.UnitNormalization(name="unit_length")(pooled)  # (rows, dimension), length 1
    model: Any = keras.Model(network.model.input, pooled, name="encoder")
    size = model.input.shape[1:3] if network.modality == "images" else (None, None)
    length = settings.maximal_length or network.maximal_length
    if network.modality == "texts" and (length or 0) < LEAST_LENGTH:
        raise UserError(f"maximal_length {length} leaves no room for a word; it must be at least {LEAST_LENGTH}")
    if length and network.longest and length > network.longest:
        raise UserError(f"maximal_length {length} is more than {source} takes; give at most {network.longest}")
    facts = EncoderFacts(
        modality=network.modality,  # pyright: ignore[reportArgumentType]
        dimension=int(pooled.shape[-1]),
        layer=settings.layer or network.layer,
        pooling=pooling,
        normalised=normalised,
        maximal_length=length if network.modality == "texts" else None,
        prompt=network.prompt if settings.prompt is None else settings.prompt,
        lower=network.lower,
        height=size[0],
        width=size[1],
        source=source.stem,
    )
    details = save_encoder(out, model, facts, network.tokenizer)
    learned, notes = import_lineage(out, source)
    return Facts(details=details | learned, notes=notes)


def pool(tensor: Any, network: networks.Network, pooling: str, name: str = "pooled") -> Any:
    """The output of a layer as one vector per row, in plain Keras operations; padding never counts.

    Raises:
        UserError: when the pooling doesn't fit the layer's shape.
    """
    import keras
    from keras import ops

    rank, texts = len(tensor.shape), network.modality == "texts"
    fitting = {(True, 3): ("mean", "max", "cls"), (False, 4): ("avg", "max", "flatten")}
    allowed = ("none",) if rank == 2 else fitting.get((texts, rank), ())
    if pooling not in allowed:
        advice = f"give {' or '.join(allowed)}, or cut at another layer" if allowed else "cut at another layer"
        shape = tuple(tensor.shape)
        raise UserError(f"pooling {pooling!r} doesn't fit a layer of shape {shape} in a network of {network.modality}; {advice}")
    if pooling == "none":
        return tensor
    if not texts:
        average, largest = keras.layers.GlobalAveragePooling2D, keras.layers.GlobalMaxPooling2D
        return {"avg": average, "max": largest, "flatten": keras.layers.Flatten}[pooling](name=name)(tensor)
    if pooling == "cls":
        return tensor[:, 0]  # (texts, dimension)
    mask: Any = ops.expand_dims(ops.cast(network.model.input["padding_mask"], "float32"), -1)  # (texts, length, 1)
    if pooling == "max":
        return ops.max(tensor * mask - 1e9 * (1 - mask), axis=1)
    return ops.sum(tensor * mask, axis=1) / ops.maximum(ops.sum(mask, axis=1), 1.0)


def layers(source: str | Source, settings: ImportEncoder = ImportEncoder()) -> list[tuple[str, str, tuple]]:
    """Where a network, or an encoder artifact, can be cut: name, class and output shape of each layer, in order."""
    if re.match("(encoder|classifier)/", str(source)) and not Path(str(source)).exists():
        return list(networks.list_layers(Encoder.open(str(source)).model))
    return list(networks.list_layers(_network(Source(source), settings).model))
