"""The transfer decision on real sets, a report from one command each: `python tests/benchmarks/transfer.py trec`.

Sets: hymenoptera, caltech20, cifar10h (2,000 rows), trec, banking77 (30 classes), sst2 (2,000 rows); data and weights in
../shared. With `--by-hand` two arms are done again without embedkit's own code for them, on the rows of the report's first
seed: the frozen encoder under scikit-learn's LogisticRegression, and full fine-tuning in Keras's own `fit`.
"""

import argparse
import csv
import os
import time
from pathlib import Path

import numpy as np

SHARED = Path(__file__).parents[3] / "shared"
MINILM = SHARED / "models/all-MiniLM-L6-v2"
MOBILENET = SHARED / "models/imagenet/mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.35_224_no_top.h5"


def prepared(name: str, folder: Path):
    """The set as an artifact; what its files don't say in a way that a reader could see is written down first."""
    from embedkit import LoadImages, LoadTexts, load_images, load_texts
    from embedkit.readers import ReadFiles

    few = ReadFiles(limit=2000)
    if name in ("hymenoptera", "caltech20"):
        return load_images(str(SHARED / "data" / name))
    if name == "cifar10h":
        return load_images(str(SHARED / "data/cifar10h/cifar10-test-human.parquet"), LoadImages(files=few), name=name)
    if name == "sst2":
        return load_texts(str(SHARED / "data/sst2"), LoadTexts(text_column="sentence", files=few))
    folder.mkdir(parents=True, exist_ok=True)
    if name == "trec":  # `COARSE:fine text` a line
        for split in ("train", "test"):
            lines = (SHARED / f"data/trec/{split}.txt").read_text(encoding="latin-1").splitlines()
            pairs = [(line.partition(":")[0], line.partition(" ")[2]) for line in lines if line]
            (folder / f"{split}.tsv").write_text("label\ttext\n" + "".join(f"{label}\t{text}\n" for label, text in pairs))
        return load_texts(str(folder), name=name)
    with (SHARED / "data/banking77/train.csv").open() as file:
        classes = sorted({row["category"] for row in csv.DictReader(file)})[:30]
    for split in ("train", "test"):
        with (SHARED / f"data/banking77/{split}.csv").open() as file, (folder / f"{split}.csv").open("w") as kept:
            writer = csv.writer(kept)
            writer.writerow(["text", "label"])
            writer.writerows((row["text"], row["category"]) for row in csv.DictReader(file) if row["category"] in classes)
    return load_texts(str(folder), name="banking77")


def encoder_for(name: str):
    """MiniLM for texts, MobileNetV2 0.35 for pictures, at 96 pixels for those of 32."""
    from embedkit import ImportEncoder, import_encoder

    if name in ("hymenoptera", "caltech20", "cifar10h"):
        size = 96 if name == "cifar10h" else None
        settings = ImportEncoder(architecture="MobileNetV2", alpha=0.35, image_size=size)
        return import_encoder(str(MOBILENET), settings, name=f"mobilenet{size or ''}")
    return import_encoder(str(MINILM), name="minilm")


def by_hand(dataset, encoder, report) -> None:
    """The linear and the full arm without embedkit's heads, trainer and loop, on the rows of the report's first seed."""
    from sklearn.linear_model import LogisticRegression

    from embedkit import Compare, Encoder
    from embedkit.classifiers import labelled_rows
    from embedkit.comparison import _lessons
    from embedkit.datasets import read_contents
    from embedkit.lessons import assign

    rows = labelled_rows(dataset, "")
    settings = Compare.model_validate(report.manifest.settings)
    whole = assign(str(dataset), rows, rows["id"].to_numpy(), np.empty((len(rows), 0)), settings.head)
    loaded, labels = Encoder.open(encoder), whole.task.targets
    contents = loaded.feed.rows(read_contents(dataset, 0, len(rows)))
    vectors = loaded.encode(contents)
    found = report.manifest.metrics["linear_accuracy"]
    scores = []
    for seed in range(settings.seeds):
        lesson = _lessons(whole, rows["content"].to_numpy(), settings)["all", seed]
        train, held = lesson.train, lesson.validation
        strengths = (0.001, 0.01, 0.1, 1, 10, 100)
        models = [LogisticRegression(C=c, max_iter=2000).fit(vectors[train], labels[train]) for c in strengths]
        best = max(models, key=lambda model: model.score(vectors[held], labels[held]))
        scores.append(best.score(vectors[whole.test], labels[whole.test]))
    print(f"frozen + linear: embedkit {found}; scikit-learn {np.mean(scores):.4f} ± {np.std(scores, ddof=1):.4f} between seeds")

    arm = report.manifest.metrics["full_accuracy"]
    seen = report.manifest.decisions["plan"]["rows_a_run"]
    scores = []
    for seed in range(settings.seeds):
        lesson = _lessons(whole, rows["content"].to_numpy(), settings)["all", seed]
        model = _fine_tuned(loaded, vectors, labels, contents, lesson.train, seen, seed)
        hits = [
            model.predict_on_batch(_batch(loaded.feed, contents, chosen)).argmax(axis=1) == labels[chosen]
            for chosen in np.array_split(whole.test, -(-len(whole.test) // 64))
        ]
        scores.append(np.concatenate(hits).mean())
    hand = f"{np.mean(scores):.4f} ± {np.std(scores, ddof=1):.4f} between seeds"
    print(f"full fine-tuning, {seen:,} rows shown: embedkit {arm}; Keras's own train_on_batch {hand}")


def _fine_tuned(loaded, vectors, labels, contents, train, seen, seed):
    """The protocol of the arm `full` in Keras alone: AdamW at 4e-4 along a cosine, the head ten times as fast."""
    import keras

    keras.utils.set_random_seed(seed)
    encoder = keras.models.clone_model(loaded.model)
    encoder.set_weights(loaded.model.get_weights())
    for layer in encoder._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False
    classes = int(labels.max()) + 1
    center, scale = vectors[train].mean(axis=0), float(np.sqrt(vectors[train].var(axis=0).mean()))
    prior = np.log(np.maximum(np.bincount(labels[train], minlength=classes) / len(train), 0.5 / len(train)))
    x = keras.layers.Rescaling(1 / scale, (-center / scale).tolist())(encoder.output)
    x = keras.layers.Dropout(0.1)(x)
    bias = keras.initializers.Constant((prior / 10).tolist())
    x = keras.layers.Dense(classes, kernel_initializer="zeros", bias_initializer=bias)(x)
    x = keras.layers.Rescaling(10.0)(x)  # Adam's steps don't depend on scale: the head then moves ten times as fast
    model = keras.Model(encoder.input, keras.layers.Softmax()(x))
    turns = [np.random.default_rng([seed, turn]).permutation(train) for turn in range(-(-seen // len(train)))]
    order = np.concatenate(turns)[:seen]
    rate = keras.optimizers.schedules.CosineDecay(4e-4, -(-seen // 64))
    model.compile(keras.optimizers.AdamW(rate, weight_decay=0.0), "sparse_categorical_crossentropy")
    for start in range(0, seen, 64):
        chosen = order[start : start + 64]
        model.train_on_batch(_batch(loaded.feed, contents, chosen), labels[chosen])
    return model


def _batch(feed, contents, chosen):
    """These rows as inputs of the network."""
    rows = [contents[row] for row in chosen]
    if hasattr(feed, "padded"):
        return feed.padded(feed.tokens(rows))
    return np.stack([feed.pixels(row) for row in rows]).astype(np.float32)


def main() -> None:
    """Load, compare, and print the verdict."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=["hymenoptera", "caltech20", "cifar10h", "trec", "banking77", "sst2"])
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--layers", action="store_true", help="look at every layer too")
    parser.add_argument("--by-hand", action="store_true", help="then do two arms by hand")
    given = parser.parse_args()
    os.environ.setdefault("EMBEDKIT_ARTIFACTS", "/tmp/embedkit-transfer")
    from embedkit import Compare, compare

    start = time.monotonic()
    dataset = prepared(given.name, Path(os.environ["EMBEDKIT_ARTIFACTS"]) / "sources" / given.name)
    encoder = encoder_for(given.name)
    report = compare(dataset, encoder, Compare(minutes=given.minutes, layers=("auto",) if given.layers else ()))
    print(f"{given.name}: {report.manifest.verdict}")
    for name, metric in report.manifest.metrics.items():
        print(f"  {name:24} {metric}")
    print(f"  {report / 'report.html'}\n  {time.monotonic() - start:.0f} s here, the report {report.manifest.seconds:.0f} s")
    if given.by_hand:
        by_hand(dataset, encoder, report)


if __name__ == "__main__":
    main()
