"""export: an encoder or a classifier in files that others open with no code of ours.

`sentence-transformers` and `keras-hub` hold an encoder of texts as those libraries save one. `onnx`, `openvino`,
`saved-model` and `litert` hold any encoder, or a classifier whole, as one graph from prepared rows to `vectors`,
`probabilities` or `values`; `preprocessing.json` says how rows are prepared.

What the network learned from lies beside it (`lineage`), so that one who imports it again measures it on no row that it knows.

Nothing is published before it was opened anew from its files and gave the artifact's canaries what they had. The same call
gives the same bytes while the libraries that write them stay the same: for that an ONNX graph and a SavedModel are
numbered anew, a SavedModel goes without `fingerprint.pb`, which is random, and a preset of keras-hub without its date.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from embedkit import canaries, described, preprocessing, weights
from embedkit.artifacts import Artifact, EncoderArtifact, Metric
from embedkit.encoders import PREPROCESSING, Encoder, embedder_of, encoder_folder
from embedkit.environment import package_version
from embedkit.graphs import GRAPHS, refuse_missing
from embedkit.layouts import EXACT, LAYOUTS, fast
from embedkit.lineage import export_lineage
from embedkit.predicting import Classifier
from embedkit.settings import Settings, UserError
from embedkit.stages import Draft, Facts, stage, write_json

WRITERS = {
    "sentence-transformers": ("embedkit's own reader", ("safetensors", "tokenizers")),
    "keras-hub": ("keras-hub", ("keras", "keras-hub")),
    "onnx": ("onnxruntime", ("keras", "tensorflow", "tf2onnx", "onnx", "onnxruntime")),
    "openvino": ("OpenVINO", ("keras", "tensorflow", "openvino")),
    "saved-model": ("TensorFlow", ("keras", "tensorflow")),
    "litert": ("LiteRT", ("keras", "tensorflow", "ai-edge-litert")),
}
"""What opens each format anew, and the packages that decide its bytes and what it computes."""
INPUT = {"images": "pixels", "table": "numbers"}
"""Name of a network's one input; one of texts has three."""


class Export(Settings):
    """What an encoder or a classifier is to be opened with."""

    format: Literal["sentence-transformers", "keras-hub", "onnx", "openvino", "saved-model", "litert"] = "sentence-transformers"
    """Whose files are written. The first two hold encoders of texts, as Python code in PyTorch or Keras takes them; the others any
    encoder, or a classifier whole, for their runtimes. onnx, openvino and litert take libraries of their own (`pip install
    'embedkit[onnx]'` and the like)."""


@dataclass
class Subject:
    """What is exported.

    Attributes:
        encoder: the encoder.
        preprocessing: the text of the file that `PREPROCESSING` names, empty for pictures.
        model: from what the encoder's feed gives to outputs.
        output: name of the outputs: vectors, probabilities or values.
        rows: the canaries.
        expected: (canaries, ...) float, their outputs.
        labels: what `labels.json` says, for a classifier.
        scale: offset and unit in which numbers are compared.
    """

    encoder: Encoder
    preprocessing: str
    model: Any
    output: str
    rows: list[Any]
    expected: np.ndarray
    labels: dict[str, Any] | None = None
    scale: tuple[float, float] | None = None


def _called(names: dict[str, str], settings: Export) -> str:
    return f"{names['artifact']}-{settings.format}"


@stage("export", revision=2, name=_called, keras=True)
def export(out: Draft, artifact: EncoderArtifact, settings: Export = Export()) -> Facts:
    """Write an encoder or a classifier in a format that others open without embedkit.

    Args:
        artifact: the encoder, or the classifier; of a classifier the first two formats hold its encoder only.
    """
    notes = []
    if settings.format in GRAPHS:
        refuse_missing(settings.format)
        subject = _whole(artifact)
        found = _as_graph(out, artifact, subject, settings.format)
    else:
        subject = _encoder(artifact)
        write, read = LAYOUTS[settings.format]
        notes += write(out.files, subject.encoder, subject.preprocessing)
        if settings.format == "keras-hub":
            said = preprocessing.described(subject.encoder.facts, subject.encoder.feed, EXACT, pooled=False)
            write_json(out / "preprocessing.json", said)
        found = read(out.files, subject.encoder)(subject.rows)
        if artifact.manifest.kind == "classifier":
            notes.append(f"this is the encoder of a classifier, without what decides: take {', '.join(GRAPHS)} for the whole")
    export_lineage(out, artifact)
    opener, packages = WRITERS[settings.format]
    lowest, count = agreement(found, subject), len(subject.rows)
    if not lowest >= canaries.LEAST_AGREEMENT:
        raise UserError(
            f"{artifact} as {settings.format}, opened by {opener}, gives other {subject.output} than here (lowest agreement "
            f"{lowest:.6f} over {count} canaries, at least {canaries.LEAST_AGREEMENT} is needed), so nothing was published; "
            "take another format, or other versions of its libraries"
        )
    facts = subject.encoder.facts
    details = facts.model_dump(include={"modality", "dimension", "pooling", "normalised", "maximal_length", "identity"})
    details |= {"format": settings.format, "opened_by": opener, "canaries": count, "lowest_agreement": lowest}
    return Facts(
        metrics={"lowest_agreement": Metric(value=lowest, n=count)},
        verdict=f"opened anew by {opener}, it gives the {subject.output} it gave here: lowest agreement {lowest:.6f} (n={count})",
        notes=notes,
        details=details | {"libraries": {name: package_version(name) for name in packages}},
    )


def _encoder(artifact: Artifact, encoder: Encoder | None = None) -> Subject:
    """The encoder that an artifact is, or that a classifier has."""
    embedder = embedder_of(artifact)
    encoder = encoder or Encoder.open(embedder)
    rows, vectors = canaries.load(encoder_folder(embedder) / "canaries.npz")
    return Subject(encoder, encoder.preprocessing or "", encoder.model, "vectors", rows, vectors)


def _whole(artifact: Artifact) -> Subject:
    """An encoder, or a classifier from the rows of its encoder to what it says of them."""
    import keras

    if artifact.manifest.kind == "encoder":
        return _encoder(artifact)
    classifier = Classifier.open(artifact)
    subject = _encoder(artifact, classifier.encoder)
    head: Any = weights.open_keras(artifact / "model.keras", f"model.keras of {artifact}")
    facts = classifier.facts
    subject.model = keras.Model(subject.encoder.model.input, head(subject.encoder.model.output), name="classifier")
    subject.expected = classifier.of_vectors(subject.expected).reshape(len(subject.rows), -1)
    subject.output = "values" if facts.type == "number" else "probabilities"
    subject.labels = facts.model_dump(include={"type", "classes", "decision"}, exclude_none=True)
    if facts.type == "number":
        last = head.get_layer("in_units")
        subject.scale = float(last.offset), float(last.scale)
    return subject


def _as_graph(out: Draft, artifact: Artifact, subject: Subject, format: str) -> np.ndarray:
    """Write a graph and what is to be known beside it, and return what it gives for the canaries."""
    graph, encoder, text = GRAPHS[format], subject.encoder, subject.preprocessing
    model, places = _named(subject)
    if encoder.facts.modality == "texts":
        text = fast(text, encoder.facts.maximal_length)
    if text:
        (out / PREPROCESSING[encoder.facts.modality]).write_text(text, encoding="utf-8", newline="\n")
    said = preprocessing.described(encoder.facts, encoder.feed, places=places)
    said |= {"inputs": preprocessing.tensors(model.input, preprocessing.TAKES)}
    write_json(out / "preprocessing.json", said | {"outputs": preprocessing.tensors(model.output, preprocessing.GIVES)})
    if subject.labels:
        write_json(out / "labels.json", subject.labels)
    try:
        graph.write(out.files, model)
        return described.outputs(out.files, graph.read(out.files), subject.rows).reshape(subject.expected.shape)
    except (UserError, OSError, MemoryError):
        raise
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"{artifact} can't be written as {format} ({reason:.300}); take another format") from error


def _named(subject: Subject) -> tuple[Any, str]:
    """A model as `graphs` takes it: named inputs, one named output; and what the input of places in vocabularies is called."""
    import keras

    given, places = subject.model.input, preprocessing.PLACES if subject.output == "values" else "values"
    tensors = given if isinstance(given, dict) else {INPUT[subject.encoder.facts.modality]: given}
    named = {name: places if name == "values" else name for name in tensors}
    inputs = {named[name]: keras.Input(t.shape[1:], dtype=t.dtype, name=named[name]) for name, t in sorted(tensors.items())}
    passed = {name: inputs[named[name]] for name in tensors}
    made: Any = subject.model(passed if isinstance(given, dict) else next(iter(inputs.values())))
    model: Any = keras.Model(inputs, {subject.output: made}, name="export")
    model(inputs)  # Keras exports no model that was never called
    return model, places


def agreement(found: np.ndarray, subject: Subject) -> float:
    """The lowest agreement of canaries with what they had.

    Numbers are compared in the unit of their spread and with a 1 beside each, since one alone has no direction.
    """
    pair = [np.asarray(found, np.float64), np.asarray(subject.expected, np.float64)]
    if subject.scale:
        offset, unit = subject.scale
        pair = [np.insert((each - offset) / unit, 1, 1.0, axis=1) for each in pair]
    return float(canaries.agreement(*pair).min())
