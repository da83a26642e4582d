"""pretrain_autoencoder: unlabelled pictures become an encoder.

A convolutional network squeezes a picture into `dimension` numbers and draws it again from them. What is kept is the first
half; the second half only draws the pictures in the artifact. Reconstruction says little about usefulness, so the measure
stands beside principal components of the same dimension and the mean picture; whether the vectors are worth having is
decided by `train_head` against the encoders of `make_control`.
"""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, PositiveInt

from embedkit import augmentation, engines, images, metrics
from embedkit.artifacts import Artifact, Images, Metric
from embedkit.datasets import read_rows, with_near
from embedkit.encoders import EncoderFacts, save_encoder
from embedkit.leaks import Copies, record_fitted
from embedkit.learning import learn
from embedkit.preparation import load_pixels
from embedkit.rows import RowReader
from embedkit.settings import Seeded, Settings, UserError
from embedkit.stages import Draft, Facts, stage
from embedkit.training import Problem, Rows, Training, resolve

EPOCHS = 60
LARGEST_SIDE = 64
DIMENSIONS = (300, 600)
SHOWN = 10
LOOKED_AT = 64
"""Training pictures by which sizes are found."""


class ConvNet(Settings):
    """Shape of the network that turns a small picture into a vector."""

    side: PositiveInt | None = None
    """Height and width in pixels to which pictures are resized; by default their own median, at most 64."""
    dimension: PositiveInt | None = None
    """Length of the vectors; by default a quarter of the numbers in a picture, within 300 to 600, and at most half of them."""
    channels: PositiveInt = 32
    """Channels of the first convolution; each further one, at half the resolution, has twice as many."""


class PretrainAutoencoder(Seeded):
    """How an autoencoder learns from unlabelled pictures."""

    network: ConvNet = ConvNet()
    """Shape of the network."""
    noise: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Deviation of the noise that is put on pixels (0 to 1) in training and has to be taken off again (Vincent et al. 2008)."""
    augment: augmentation.Images = ("none",)
    """How training pictures are changed before they are drawn again: `none`, `light`, `strong`, or names of single changes."""
    training: Training = Training()
    """How long and how fast it learns."""


@stage("encoder", revision=2, name="{dataset}-autoencoder", keras=True)
def pretrain_autoencoder(out: Draft, dataset: Images, settings: PretrainAutoencoder = PretrainAutoencoder()) -> Facts:
    """Learn an encoder from unlabelled pictures; labels are not looked at, test rows neither.

    Args:
        dataset: pictures, labelled or not.
    """
    from keras import ops

    rows = with_near(dataset, read_rows(dataset))
    split = np.array(rows["split"].to_pylist())
    train, validation, test = (np.flatnonzero(split == name) for name in ("train", "validation", "test"))
    if not len(train) or not len(validation):
        raise UserError(f"{dataset} has {len(train)} training and {len(validation)} validation rows; load it with some of both")
    side, dimension = shape(dataset, train, settings.network)
    pixels = load_pixels(dataset, side, side, out.work / "pixels.npy")
    whole, encoder = build(side, dimension, settings.network.channels, settings.noise)

    def data(part: np.ndarray) -> Rows:
        def batch(chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            shown = pixels[part[chosen]].astype(np.float32)
            return shown, shown

        return Rows(len(part), batch, rows["id"].to_numpy()[part])

    def loss(targets: Any, outputs: Any) -> Any:
        return ops.mean(ops.square(ops.divide(targets, 255.0) - outputs), axis=(1, 2, 3))  # (rows,)

    training = resolve(settings.training, linear=False, epochs=EPOCHS)
    problem = Problem(whole, loss, data(train), data(validation), separable=4, bound=_told_apart)
    if layers := augmentation.layers(settings.augment, settings.seed):

        def augment(shown: Any, _: Any) -> tuple[Any, Any]:
            changed = augmentation.apply(layers, shown)
            return changed, changed

        problem.augment, problem.state = augment, [variable for layer in layers for variable in layer.variables]
    learned = learn(out, problem, training, settings.seed)
    facts = EncoderFacts(
        modality="images",
        dimension=dimension,
        layer="codes",
        pooling="none",
        normalised=False,
        height=side,
        width=side,
        source="autoencoder",
    )
    details = save_encoder(out, encoder, facts)
    metric, verdict = {}, None
    if len(test):
        copies = Copies.of(rows, test, np.concatenate([train, validation])).beside(rows.take(test), dataset)
        test = test[copies.leading]
        drawn = engines.predict(whole, pixels[test])
        metric, said = _measure(pixels, train, test, drawn, dimension, settings.seed)
        verdict = copies.verdict(said)
        _draw(out / "reconstructions.png", pixels[test[:SHOWN]], drawn[:SHOWN])
    fitted = record_fitted(out, rows.take(np.sort(np.concatenate([train, validation]))))
    details |= {"fitted": fitted} | learned.details
    return Facts(rows=fitted, metrics=metric, verdict=verdict, notes=learned.notes, details=details, timings=learned.timings)


def _told_apart(pictures: np.ndarray) -> float:
    """Nine tenths of the error of drawing the mean of these pictures for each: below it, a network tells them apart.

    A tenth of the first loss would ask a small decoder to draw noise.
    """
    scaled = pictures / np.float32(255)
    return 0.9 * float(np.square(scaled - scaled.mean(axis=0)).mean())


def shape(dataset: Artifact, train: np.ndarray, network: ConvNet) -> tuple[int, int]:
    """Side of the pictures in pixels and length of the vectors, where the settings leave them open: by the first training rows.

    Args:
        dataset: pictures.
        train: (n,) int, the places of its training rows, ascending.
        network: what the settings say.

    Raises:
        UserError: when there is no training row.
    """
    if not len(train):
        raise UserError(f"{dataset} has no training rows, by which the size of a network is found; load it with some")
    contents = RowReader(dataset).contents(train[:LOOKED_AT])["image"].to_pylist()
    sample, side = [images.decode(data) for data in contents], network.side
    if side is None:
        side = min(LARGEST_SIDE, int(np.median([min(picture.shape[:2]) for picture in sample])))
    grey = all((picture == picture[..., :1]).all() for picture in sample)
    numbers = side * side * (1 if grey else 3)
    dimension = network.dimension or min(int(np.clip(numbers // 4, *DIMENSIONS)), max(1, numbers // 2))
    return side, dimension


def build(side: int, dimension: int, channels: int, noise: float = 0.0) -> tuple[Any, Any]:
    """The autoencoder and its encoder half, with random weights.

    Returns:
        A model from (rows, side, side, 3) pixels, 0 to 255, to (rows, side, side, 3) in [0, 1]; and the model from the same
        pixels to (rows, dimension).
    """
    import keras
    from keras import layers

    halvings = max(0, int(np.ceil(np.log2(side / 4))))
    small = -(-side // 2**halvings)
    widths = [channels * 2**n for n in range(halvings)] or [channels]
    pixels = keras.Input((side, side, 3), name="pixels")                                     # (rows, side, side, 3), 0 to 255
    x = layers.Rescaling(1 / 255, name="scaling")(pixels)                                    # in [0, 1]
    x = layers.GaussianNoise(noise, name="noise")(x)                                         # in training only
    for n in range(halvings):
        x = layers.Conv2D(widths[n], 3, strides=2, padding="same", activation="gelu", name=f"down_{n}")(x)
    codes = layers.Dense(dimension, name="codes")(layers.Flatten(name="flat")(x))            # (rows, dimension)
    x = layers.Dense(small * small * widths[-1], activation="gelu", name="spread")(codes)
    x = layers.Reshape((small, small, widths[-1]), name="map")(x)                            # (rows, small, small, width)
    for n in reversed(range(halvings)):
        x = layers.Conv2DTranspose(widths[max(n - 1, 0)], 3, strides=2, padding="same", activation="gelu", name=f"up_{n}")(x)
    x = layers.Conv2D(3, 3, padding="same", activation="sigmoid", name="drawn")(x)           # in [0, 1]
    return keras.Model(pixels, x[:, :side, :side], name="autoencoder"), keras.Model(pixels, codes, name="encoder")


def principal_components(pixels: np.ndarray, train: np.ndarray, dimension: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Principal components of training pictures in [0, 1] (scikit-learn, at most 4,096 pictures).

    Returns:
        (numbers,) mean picture and (components, numbers) directions; fewer than `dimension` where there are few pictures.
    """
    from sklearn.decomposition import PCA

    chosen = np.sort(np.random.default_rng(seed).permutation(train)[:4096])
    flat = pixels[chosen].reshape(len(chosen), -1) / np.float32(255)
    pca = PCA(min(dimension, *flat.shape), svd_solver="randomized", random_state=seed).fit(flat)
    return np.asarray(pca.mean_), np.asarray(pca.components_)


def _measure(
    pixels: np.ndarray, train: np.ndarray, test: np.ndarray, drawn: np.ndarray, dimension: int, seed: int
) -> tuple[dict[str, Metric], str]:
    truth = pixels[test].reshape(len(test), -1) / np.float32(255)
    average, components = principal_components(pixels, train, dimension, seed)
    projected = (truth - average) @ components.T @ components + average

    def error(found: np.ndarray) -> Metric:
        return metrics.mean(np.square(truth - found).mean(axis=1))

    ours, pca = error(drawn.reshape(len(test), -1)), error(projected)
    found = {"mse": ours, "pca_mse": pca, "mean_picture_mse": error(np.broadcast_to(average, truth.shape))}
    better = "closer to the picture than" if ours.value < pca.value else "not as close to the picture as"
    verdict = f"draws test pictures {better} {len(components)} principal components: mse {ours} against {pca}"
    return found, verdict + "; whether its vectors are useful is what train_head measures"


def _draw(path: Path, originals: np.ndarray, drawn: np.ndarray) -> None:
    """A picture of pictures: originals above, what was drawn from their vectors below."""
    from PIL import Image

    rows = [np.concatenate(list(line), axis=1) for line in (originals, (drawn * 255).round().clip(0, 255).astype(np.uint8))]
    sheet = Image.fromarray(np.concatenate(rows, axis=0))
    scale = max(1, 96 // originals.shape[1])
    sheet.resize((sheet.width * scale, sheet.height * scale), Image.Resampling.NEAREST).save(path)
