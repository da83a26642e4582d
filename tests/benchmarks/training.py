"""Our training loop against Keras's `model.fit`: the same model, rows, optimizer and number of steps, in alternating rounds.

    python tests/benchmarks/training.py

Prints, for three networks, the seconds of our loop over those of `model.fit`, validation included, without and with
checkpoints: the median over rounds, and the quartiles.
"""

import tempfile
import time
from pathlib import Path

import numpy as np

from embedkit import frameworks
from embedkit.training import Problem, Rows, Trainer, Training, fit

ROUNDS = 7


def linear(layers):
    return (384,), 2, 20_000, 10, [layers.Dense(2)]


def hidden(layers):
    return (384,), 10, 20_000, 6, [layers.Dense(256, activation="relu"), layers.Dropout(0.2), layers.Dense(10)]


def convolutional(layers):
    convolutions = [layers.Conv2D(width, 3, strides=2, padding="same", activation="relu") for width in (32, 64, 128)]
    return (32, 32, 3), 10, 2_000, 3, [*convolutions, layers.Flatten(), layers.Dropout(0.2), layers.Dense(10)]


def made(network):
    """A model with the same first weights each time, and its rows."""
    frameworks.start_keras(0)
    import keras

    shape, classes, count, epochs, layers = network(keras.layers)
    random = np.random.default_rng(0)
    inputs, targets = random.normal(size=(count, *shape)).astype(np.float32), random.integers(0, classes, count).astype(np.int32)
    return keras.Sequential([keras.Input(shape), *layers]), inputs, targets, epochs


def theirs(network):
    """Seconds of an epoch of `model.fit`, the first one, which traces, left out."""
    import keras

    model, inputs, targets, epochs = made(network)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.AdamW(1e-3, weight_decay=0.0), loss=loss)
    held = (inputs[:1000], targets[:1000])
    ends = []
    ended = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: ends.append(time.perf_counter()))
    model.fit(inputs, targets, 64, epochs, verbose=0, validation_data=held, validation_batch_size=256, callbacks=[ended])
    return (ends[-1] - ends[0]) / (epochs - 1)


def ours(network, share):
    """Seconds of an epoch of our loop, the first one left out; checkpoints may take so much of the time."""
    import keras

    model, inputs, targets, epochs = made(network)

    def loss(targets, outputs):
        return keras.ops.sparse_categorical_crossentropy(targets, outputs, from_logits=True)

    problem = Problem(model, loss, Rows.of(inputs, targets), Rows.of(inputs[:1000], targets[:1000]))
    saved = {"checkpoint_every": 50 if share else 10**9, "checkpoint_share": share or 1e-9}
    settings = Training(optimizer="adamw", learning_rate=1e-3, epochs=epochs, patience=None, **saved)
    ends = []
    with tempfile.TemporaryDirectory() as folder:
        fit(Trainer(problem, settings), 0, Path(folder), lambda run: ends.append(time.perf_counter()))
    return (ends[-1] - ends[0]) / (epochs - 1)


def main():
    for network in (linear, hidden, convolutional):
        plain, saving = [], []
        for number in range(ROUNDS + 1):
            reference = theirs(network)
            pair = ours(network, None) / reference, ours(network, 0.05) / reference
            if number:  # the first round warms caches up
                plain.append(pair[0])
                saving.append(pair[1])
        for words, ratios in (("", plain), (" with checkpoints", saving)):
            low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
            spread = f"({low:.2f} to {high:.2f}, {ROUNDS} rounds)"
            print(f"{network.__name__}{words}: {middle:.2f} of model.fit's time {spread}", flush=True)


if __name__ == "__main__":
    main()
