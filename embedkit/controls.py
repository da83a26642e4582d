"""Controls: encoders that learn nothing, or next to nothing, and what any learned encoder has to beat.

They are encoders like all others, so that the same `embed` and `train_head` measure them. That of a table is the table
itself: numbers in [-1, 1] and one-hot words, by what the training rows hold.
"""

from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa

from embedkit import autoencoder, roles
from embedkit.artifacts import Artifact, Kinds
from embedkit.autoencoder import ConvNet
from embedkit.datasets import read_contents, read_rows, with_near
from embedkit.encoders import EncoderFacts, facts_of_table, save_encoder
from embedkit.leaks import record_fitted
from embedkit.preparation import load_pixels
from embedkit.settings import Seeded, UserError
from embedkit.stages import Draft, Facts, stage

CONTROLS = {"images": ("pca", "pixels", "random"), "table": ("columns",)}
"""Which control fits which kind of dataset; the first is what `auto` comes to."""


class MakeControl(Seeded):
    """Which control, and of what shape."""

    control: Literal["auto", "pixels", "pca", "random", "columns"] = "auto"
    """Of pictures the pixels, their principal components (`auto`), or a random network; of a table its columns (`auto`)."""
    network: ConvNet = ConvNet()
    """Shape for pictures; give the same as to the autoencoder that is compared."""


def _called(names: dict[str, str], settings: MakeControl) -> str:
    return f"{names['dataset']}-{'control' if settings.control == 'auto' else settings.control}"


@stage("encoder", revision=2, name=_called, keras=True)
def make_control(
    out: Draft, dataset: Annotated[Artifact, Kinds(("images", "table"))], settings: MakeControl = MakeControl()
) -> Facts:
    """Make an encoder that a learned one must beat: pixels, principal components, a random network, or a table's columns.

    Args:
        dataset: pictures or a table; principal components and the range of columns are taken from its training rows.
    """
    kind = dataset.manifest.kind
    fitting = CONTROLS[kind]
    if settings.control not in ("auto", *fitting):
        raise UserError(f"{dataset} holds {kind}, which control {settings.control!r} is not for; give {' or '.join(fitting)}")
    control = fitting[0] if settings.control == "auto" else settings.control
    return _of_table(out, dataset) if kind == "table" else _of_images(out, dataset, control, settings)


def _of_images(out: Draft, dataset: Artifact, control: str, settings: MakeControl) -> Facts:
    import keras

    rows, train = _rows(dataset)
    if control == "pca":
        _refuse_few(dataset, train, "principal components need")
    side, dimension = autoencoder.shape(dataset, train, settings.network)
    fitted = 0
    if control == "random":
        model = autoencoder.build(side, dimension, settings.network.channels)[1]
    else:
        pixels = keras.Input((side, side, 3), name="pixels")                                 # (rows, side, side, 3), 0 to 255
        codes: Any = keras.layers.Flatten(name="flat")(keras.layers.Rescaling(1 / 255, name="scaling")(pixels))
        if control == "pca":
            loaded = load_pixels(dataset, side, side, out.work / "pixels.npy")
            average, components = autoencoder.principal_components(loaded, train, dimension, settings.seed)
            layer = keras.layers.Dense(len(components), name="components")
            codes = layer(codes)                                                             # (rows, dimension)
            layer.set_weights([components.T, -components @ average])
            fitted = record_fitted(out, rows.take(train))
        model = keras.Model(pixels, codes, name="encoder")
    output: Any = model.output
    width = int(output.shape[-1])
    facts = EncoderFacts(
        modality="images",
        dimension=width,
        layer=model.layers[-1].name,
        pooling="none",
        normalised=False,
        height=side,
        width=side,
        source=control,
    )
    return Facts(details=save_encoder(out, model, facts) | {"fitted": fitted})


def _of_table(out: Draft, dataset: Artifact) -> Facts:
    import keras

    rows, train = _rows(dataset)
    _refuse_few(dataset, train, "the range of a column needs")
    columns, found = roles.plain_columns(read_contents(dataset, 0, len(rows)).take(train))
    reasons = roles.left_out(found)
    if not columns.columns:
        raise UserError(f"no column of {dataset} can be used: {reasons}; load a table with numbers, or with words that recur")
    numbers = keras.Input((len(columns.outputs),), name="numbers")                           # (rows, dimension), near [-1, 1]
    model = keras.Model(numbers, keras.layers.Identity(name="columns")(numbers), name="encoder")
    details = save_encoder(out, model, facts_of_table(columns, "columns"), columns.model_dump_json(indent=1) + "\n")
    fitted = record_fitted(out, rows.take(train))
    return Facts(notes=[f"left out: {reasons}"] if reasons else [], details=details | {"fitted": fitted})


def _rows(dataset: Artifact) -> tuple[pa.Table, np.ndarray]:
    """All rows of a dataset, and the places of its training rows."""
    rows = with_near(dataset, read_rows(dataset))
    return rows, np.flatnonzero(np.array(rows["split"].to_pylist()) == "train")


def _refuse_few(dataset: Artifact, train: np.ndarray, needing: str) -> None:
    if len(train) < 2:
        raise UserError(f"{dataset} has {len(train)} training rows; {needing} two at least")
