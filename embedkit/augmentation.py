"""Augmentation: what training rows could also have looked like, made inside the traced training step.

All functions take and give tensors of one batch, of any number of rows, and are for training only. What they draw comes from
`keras.random.SeedGenerator`s, those of `layers` or one that is given: their `state` (a layer's `variables`) is all that has
to be kept for a resumed run to go on with the same bits.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

Images = tuple[
    Literal[
        "none",
        "light",
        "strong",
        "translation",
        "zoom",
        "flip",
        "rotation",
        "contrast",
        "brightness",
        "hue",
        "grayscale",
        "blur",
        "erasing",
    ],
    ...,
]
"""What is done to training pictures, one after the other, each by a random amount: `translation` by up to a tenth of the sides,
`zoom` by up to a tenth, `flip` (left and right), `rotation` by up to 15 degrees, `contrast` by up to 30 %, `brightness` by up to
20 % of the range, `hue` by up to 18 degrees, `grayscale` or `blur` of one picture in five, `erasing` of a piece of every second
(Zhong et al. 2020, arXiv:1708.04896). `light` is translation and zoom, without flip, since a mirrored digit or letter is
another one or none; `strong` is light, flip, rotation, contrast, brightness and erasing; `none` is nothing."""
PRESETS = {
    "none": (),
    "light": ("translation", "zoom"),
    "strong": ("translation", "zoom", "flip", "rotation", "contrast", "brightness", "erasing"),
}
MASKED, REPLACED = 0.8, 0.1
"""Shares of the chosen tokens that are masked and that become another token; the others stay (Devlin et al. 2019)."""


def layers(names: Sequence[str], seed: int) -> list[Any]:
    """Keras layers that change pictures.

    Args:
        names: as in `Images`; what is named twice comes once.
        seed: of their random generators, one for each.
    """
    import keras

    kinds, border, pixels = keras.layers, {"fill_mode": "nearest"}, {"value_range": (0, 255)}  # Keras's own border is a mirror
    # Pairs where Keras takes a single number for the upper end of a range that begins at 0, or at no change.
    known: dict[str, tuple[Any, dict[str, Any]]] = {
        "translation": (kinds.RandomTranslation, {"height_factor": 0.1, "width_factor": 0.1} | border),
        "zoom": (kinds.RandomZoom, {"height_factor": 0.1} | border),
        "flip": (kinds.RandomFlip, {"mode": "horizontal"}),
        "rotation": (kinds.RandomRotation, {"factor": 15 / 360} | border),
        "contrast": (kinds.RandomContrast, {"factor": (0.3, 0.3)} | pixels),
        "brightness": (kinds.RandomBrightness, {"factor": 0.2} | pixels),
        "hue": (kinds.RandomHue, {"factor": 0.1} | pixels),
        "grayscale": (kinds.RandomGrayscale, {"factor": 0.2}),
        "blur": (kinds.RandomGaussianBlur, {"factor": (0.2, 0.2), "sigma": (0.5, 1.0)} | pixels),
        "erasing": (kinds.RandomErasing, {"factor": (0.5, 0.5)} | pixels),
    }
    wanted = dict.fromkeys(one for name in names for one in PRESETS.get(name, (name,)))
    seeds = np.random.SeedSequence(seed).generate_state(len(wanted))
    chosen = [known[name] for name in wanted]
    return [kind(**options, seed=int(each)) for (kind, options), each in zip(chosen, seeds, strict=True)]


def apply(layers: Sequence[Any], images: Any) -> Any:
    """Change pictures, (rows, height, width, 3) from 0 to 255, each in its own way; same shape and dtype."""
    import tensorflow as tf

    changed = images
    for layer in layers:
        changed = layer(changed, training=True)
    return tf.cast(changed, images.dtype)


def mix_up(inputs: Any, targets: Any, alpha: float, generator: Any) -> tuple[Any, Any]:
    """Mix each row with another, and their targets by the same share (Zhang et al. 2018, arXiv:1710.09412).

    Every row has a share and a partner of its own, where the paper has one share for a batch.

    Args:
        inputs: (rows, ...) float.
        targets: (rows, classes) float.
        alpha: of the Beta distribution of shares; 0.1 to 0.4 in the paper, 1 for all shares alike, less for less mixing.
        generator: a `keras.random.SeedGenerator`.

    Returns:
        Both as they came in shape and dtype.
    """
    import tensorflow as tf

    rows = tf.shape(inputs)[0]
    share, partner = _shares(rows, alpha, generator), _partners(rows, generator)
    return _mixed(inputs, share, partner), _mixed(targets, share, partner)


def cut_mix(images: Any, targets: Any, alpha: float, generator: Any) -> tuple[Any, Any]:
    """Put a piece of another picture into each, and mix their targets by its share of the pixels.

    From Yun et al. 2019, arXiv:1905.04899. Every row has a piece and a partner of its own. A piece has the picture's
    proportions, its middle is anywhere in the picture and what stands out is cut off; the share is counted in pixels.

    Args:
        images: (rows, height, width, channels).
        targets: (rows, classes) float.
        alpha: of the Beta distribution of what is left of a picture; 1 in the paper.
        generator: a `keras.random.SeedGenerator`.

    Returns:
        Both as they came in shape and dtype.
    """
    import tensorflow as tf

    rows = tf.shape(images)[0]
    half = tf.sqrt(1 - _shares(rows, alpha, generator))[:, None] / 2

    def covered(size: int) -> Any:
        middle = _uniform((rows, 1), generator) * size
        return tf.abs(tf.range(0.5, size) - middle) < half * size  # (rows, size)

    piece = covered(images.shape[1])[:, :, None] & covered(images.shape[2])[:, None]
    partner = _partners(rows, generator)
    left = 1 - tf.reduce_mean(tf.cast(piece, tf.float32), axis=(1, 2))
    return tf.where(piece[..., None], tf.gather(images, partner), images), _mixed(targets, left, partner)


def mask_tokens(
    token_ids: Any,
    padding_mask: Any,
    share: float,
    mask_id: int,
    vocabulary_size: int,
    special_ids: Sequence[int],
    generator: Any,
) -> tuple[Any, Any]:
    """Choose tokens to be guessed: of ten, eight are masked, one becomes another token, one stays.

    From Devlin et al. 2019, arXiv:1810.04805.

    Args:
        token_ids: (rows, length) int.
        padding_mask: (rows, length), 1 for a token, 0 for padding.
        share: of the tokens; 0.15 in the paper.
        mask_id: what stands for a masked token.
        vocabulary_size: how many ids there are.
        special_ids: ids that are never chosen and that no token becomes.
        generator: a `keras.random.SeedGenerator`.

    Returns:
        The changed ids, dtype of `token_ids`, and which tokens were chosen, bool; (rows, length) each.
    """
    import keras
    import tensorflow as tf

    shape, words = tf.shape(token_ids), np.setdiff1d(np.arange(vocabulary_size), special_ids)
    chosen = _chosen(token_ids, padding_mask, share, special_ids, generator)
    kind = _uniform(shape, generator)
    other = tf.gather(tf.constant(words, token_ids.dtype), keras.random.randint(shape, 0, len(words), seed=generator))
    becomes = tf.where(kind < MASKED, mask_id, tf.where(kind < MASKED + REPLACED, other, token_ids))
    return tf.where(chosen, becomes, token_ids), chosen


def drop_words(
    token_ids: Any, padding_mask: Any, share: float, unknown_id: int, special_ids: Sequence[int], generator: Any
) -> Any:
    """Make some tokens unknown (word dropout; Iyyer et al. 2015, Dai and Le 2015, arXiv:1511.01432).

    Args:
        token_ids: (rows, length) int.
        padding_mask: (rows, length), 1 for a token, 0 for padding.
        share: of the tokens; 0.3 in Iyyer et al.
        unknown_id: what stands for an unknown token.
        special_ids: ids that stay.
        generator: a `keras.random.SeedGenerator`.

    Returns:
        (rows, length), dtype of `token_ids`.
    """
    import tensorflow as tf

    chosen = _chosen(token_ids, padding_mask, share, special_ids, generator)
    return tf.where(chosen, unknown_id, token_ids)


def swap_noise(vectors: Any, share: float, generator: Any) -> Any:
    """Replace some entries by those that other rows of the batch have in the same column, whose distribution so stays.

    From the winning solution of Porto Seguro's Safe Driver Prediction (Jahrer 2017), where the share was 0.15.

    Args:
        vectors: (rows, dimension); a batch of one row stays as it is.
        share: of the entries.
        generator: a `keras.random.SeedGenerator`.

    Returns:
        (rows, dimension), dtype of `vectors`.
    """
    import keras
    import tensorflow as tf

    shape = tf.shape(vectors)
    away = keras.random.randint(shape, 1, tf.maximum(shape[0], 2), seed=generator)
    other = (tf.range(shape[0])[:, None] + away) % shape[0]
    swapped: Any = keras.ops.take_along_axis(vectors, other, axis=0)
    return tf.where(_uniform(shape, generator) < share, swapped, vectors)


def _uniform(shape: Any, generator: Any) -> Any:
    import keras

    return keras.random.uniform(shape, seed=generator)


def _shares(rows: Any, alpha: float, generator: Any) -> Any:
    """Numbers of the distribution Beta(alpha, alpha), (rows,) float32."""
    import keras
    import tensorflow as tf

    ours: Any = keras.random.gamma((rows,), alpha, seed=generator)
    theirs: Any = keras.random.gamma((rows,), alpha, seed=generator)
    return ours / tf.maximum(ours + theirs, 1e-30)  # both are 0 in float32 now and then where alpha is small


def _partners(rows: Any, generator: Any) -> Any:
    """A permutation of the rows."""
    import keras
    import tensorflow as tf

    return keras.random.shuffle(tf.range(rows), seed=generator)


def _mixed(tensor: Any, share: Any, partner: Any) -> Any:
    import tensorflow as tf

    share = tf.reshape(share, (-1, *[1] * (len(tensor.shape) - 1)))
    return share * tensor + (1 - share) * tf.gather(tensor, partner)


def _chosen(token_ids: Any, padding_mask: Any, share: float, special_ids: Sequence[int], generator: Any) -> Any:
    """This share of the tokens that are neither special nor padding; (rows, length) bool."""
    import tensorflow as tf

    special = tf.reduce_any(token_ids[..., None] == tf.constant(special_ids, token_ids.dtype), axis=-1)
    drawn = _uniform(tf.shape(token_ids), generator) < share
    return drawn & tf.cast(padding_mask, tf.bool) & ~special
