"""Controls: encoders that learn nothing, or next to nothing, and what any learned encoder has to beat.

They are encoders like all others, so that the same `embed` and `train_head` measure them.
"""

from typing import Any, Literal

import numpy as np

from embedkit import autoencoder
from embedkit.artifacts import Images
from embedkit.autoencoder import ConvNet
from embedkit.datasets import read_rows
from embedkit.encoders import EncoderFacts, save_encoder
from embedkit.leaks import record_fitted
from embedkit.settings import Seeded, UserError
from embedkit.stages import Draft, Facts, stage


class MakeControl(Seeded):
    """Which control, and of what shape."""

    control: Literal["pixels", "pca", "random"] = "pca"
    """The pixels themselves, their principal components, or the convolutional network with its random first weights."""
    network: ConvNet = ConvNet()
    """Shape; give the same as to the autoencoder that is compared."""


def _called(names: dict[str, str], settings: MakeControl) -> str:
    return f"{names['dataset']}-{settings.control}"


@stage("encoder", revision=1, name=_called, keras=True)
def make_control(out: Draft, dataset: Images, settings: MakeControl = MakeControl()) -> Facts:
    """Make an encoder that a learned one must beat: raw pixels, principal components, or a random network.

    Args:
        dataset: pictures; principal components are fitted on the training rows.
    """
    import keras

    side, dimension = autoencoder.shape(dataset, settings.network)
    fitted = 0
    if settings.control == "random":
        model = autoencoder.build(side, dimension, settings.network.channels)[1]
    else:
        pixels = keras.Input((side, side, 3), name="pixels")                                 # (rows, side, side, 3), 0 to 255
        codes: Any = keras.layers.Flatten(name="flat")(keras.layers.Rescaling(1 / 255, name="scaling")(pixels))
        if settings.control == "pca":
            rows = read_rows(dataset)
            train = np.flatnonzero(np.array(rows["split"].to_pylist()) == "train")
            if len(train) < 2:
                raise UserError(f"{dataset} has {len(train)} training rows; principal components need two at least")
            loaded = autoencoder.load_pixels(dataset, side, out.work / "pixels.npy")
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
        source=settings.control,
    )
    return Facts(details=save_encoder(out, model, facts) | {"fitted": fitted})
