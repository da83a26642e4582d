"""What small students keep of a fine-tuned MiniLM, a report from one command: `python tests/benchmarks/distillation.py trec`.

Sets: sst2, trec, banking77, ag_news; data and weights in ../shared. MiniLM is fine-tuned on the set first, which makes the
teacher; texts that the teacher's training didn't use are unlabelled ones to learn from.
`python tests/benchmarks/distillation.py vectors` takes MiniLM itself as the teacher, and texts of IMDB, AG News and SST-2
without labels; its students are then measured on the sentence pairs of STS-B (Spearman's rank correlation).
"""

import argparse
import csv
import gzip
import json
import os
import time
from pathlib import Path

import numpy as np
from transfer import MINILM, SHARED, prepared

DATA = SHARED / "data"
EPOCHS = {"sst2": 1, "trec": 5, "banking77": 3, "ag_news": 1}
"""Of the teacher's fine-tuning: what a quarter of an hour allows."""
LABELLED = {"sst2": 20_000}
COPIES = {"trec": 10, "banking77": 5}
LENGTH = 64
"""Tokens of a text, where vectors are learned: the pairs of STS-B are shorter, and whole reviews take four times as long."""


def rows_of(name: str, folder: Path) -> tuple[str, dict]:
    """Where the set's files lie, with `text` and `label` columns, and how they are to be read."""
    folder.mkdir(parents=True, exist_ok=True)
    if name == "sst2":
        return str(DATA / "sst2"), {"text_column": "sentence"}
    if name == "banking77":
        for split in ("train", "test"):
            with (DATA / f"banking77/{split}.csv").open() as file, (folder / f"{split}.csv").open("w") as kept:
                writer = csv.writer(kept)
                writer.writerow(["text", "label"])
                writer.writerows((row["text"], row["category"]) for row in csv.DictReader(file))
    elif name == "ag_news":
        # Its dev.csv repeats rows of train.csv, so the test rows are drawn from these.
        (folder / "items.csv").write_text("text,label\n" + (DATA / "ag_news/train.csv").read_text())
    return str(folder), {}


def labelled(name: str, root: Path):
    """The set with its labels, as an artifact."""
    from embedkit import LoadTexts, load_texts
    from embedkit.readers import ReadFiles

    if name == "trec":
        return prepared("trec", root / "trec")
    source, options = rows_of(name, root / name)
    files = ReadFiles(limit=LABELLED[name]) if name in LABELLED else ReadFiles()
    return load_texts(source, LoadTexts(files=files, **options), name=name)


def unlabelled(name: str, root: Path):
    """More texts of the same kind, without labels; None where there are none."""
    from embedkit import LoadTexts, load_texts

    if name == "sst2":
        source, options = rows_of(name, root / name)
        return load_texts(source, LoadTexts(**options), name="sst2-all")
    if name == "ag_news":
        path = root / "ag_news_more.jsonl"
        with (DATA / "ag_news/noisy.csv").open() as file:
            path.write_text("".join(json.dumps({"text": row["text"]}) + "\n" for row in csv.DictReader(file)))
        return load_texts(str(path), name="ag_news-more")
    return None


def teacher_for(name: str, dataset):
    """MiniLM, fine-tuned on the set."""
    from embedkit import FineTune, ImportEncoder, Training, fine_tune, import_encoder

    minilm = import_encoder(str(MINILM), ImportEncoder(), name="minilm")
    return fine_tune(dataset, minilm, FineTune(training=Training(epochs=EPOCHS[name])), name=f"{name}-minilm")


def mixed(root: Path, of_each: int):
    """Texts of three kinds without labels: IMDB's unlabelled reviews, AG News, SST-2."""
    from embedkit import load_texts

    path = root / "mixed.jsonl"
    texts = []
    with gzip.open(next((DATA / "imdb").glob("*unsup*")), "rt") as file:
        texts += [json.loads(line)["text"] for line, _ in zip(file, range(of_each), strict=False)]
    for source in ("train.csv", "noisy.csv"):
        with (DATA / "ag_news" / source).open() as file:
            lines = csv.reader(file)
            texts += [line[0] for line, _ in zip(lines, range(of_each // 2), strict=False) if line[0] != "text"]
    with (DATA / "sst2/train.tsv").open() as file:
        texts += [line.split("\t")[0] for line, _ in zip(file, range(of_each), strict=False)][1:]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return load_texts(str(path), name="mixed")


def similar(encoder) -> float:
    """Spearman's rank correlation of cosines with people's judgements, on the pairs of STS-B's dev set."""
    from scipy.stats import spearmanr

    from embedkit import Encoder

    with (DATA / "stsb/stsb-en-dev.csv").open() as file:
        left, right, score = zip(*((a, b, float(c)) for a, b, c in csv.reader(file)), strict=True)
    loaded = Encoder.open(encoder)
    sides = [loaded.encode(list(texts)) for texts in (left, right)]
    one, other = (each / np.maximum(np.linalg.norm(each, axis=1, keepdims=True), 1e-9) for each in sides)
    return float(spearmanr((one * other).sum(axis=1), score).statistic)


def main() -> None:
    """Load, fine-tune the teacher, teach the students, and print the verdict."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=[*EPOCHS, "vectors"])
    parser.add_argument("--only-teacher", action="store_true", help="stop when it is fine-tuned")
    parser.add_argument("--copies", type=int, default=None, help="changed copies of each training text; 10 for trec and banking77")
    parser.add_argument("--texts", type=int, default=10_000, help="of each of the three kinds, for vectors")
    given = parser.parse_args()
    os.environ.setdefault("EMBEDKIT_ARTIFACTS", "/tmp/embedkit-distillation")
    root = Path(os.environ["EMBEDKIT_ARTIFACTS"]) / "sources"
    root.mkdir(parents=True, exist_ok=True)
    from embedkit import Artifact, CompareStudents, Distil, ImportEncoder, compare_students, import_encoder

    start = time.monotonic()
    if given.name == "vectors":
        dataset, more = mixed(root, given.texts), None
        teacher = import_encoder(str(MINILM), ImportEncoder(maximal_length=LENGTH), name=f"minilm-{LENGTH}")
    else:
        dataset, more = labelled(given.name, root), unlabelled(given.name, root)
        teacher = teacher_for(given.name, dataset)
        print(f"{teacher}: accuracy {teacher.manifest.metrics['accuracy']}, {time.monotonic() - start:.0f} s", flush=True)
    if given.only_teacher:
        return
    copies = COPIES.get(given.name, 0) if given.copies is None else given.copies
    report = compare_students(teacher, dataset, CompareStudents(distil=Distil(copies=copies)), unlabelled=more)
    print(f"{given.name}: {report.manifest.verdict}")
    for one in json.loads((report / "results.json").read_text())["models"]:
        kept = f"{100 * one['kept']['value']:5.1f} ± {100 * one['kept']['error']:.1f} %" if one["kept"] else " " * 12
        speed = "{median:6.1f} ({lowest:.1f} to {highest:.1f})".format(**one["speedup"]) if one["speedup"] else ""
        print(f"  {one['name']:18} {one['value']:.4f} ± {one['error']:.4f}  kept {kept}  speed {speed}")
    if given.name == "vectors":
        for name, reference in {"minilm": str(teacher), **report.manifest.details["students"]}.items():
            print(f"  stsb dev, {name}: {similar(Artifact.open(reference)):.4f}", flush=True)
    print(f"  {report / 'report.html'}\n  {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
