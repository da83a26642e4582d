"""embed against others on this machine, from files to vectors, in alternating rounds: `python tests/benchmarks/embedding.py texts`.

- `texts`: MiniLM on texts of AG News and IMDB, beside sentence-transformers (torch in float32 and bfloat16, ONNX, OpenVINO) and
  onnxruntime; `photos`: MobileNetV2 0.35 on hymenoptera's JPEGs, beside Keras's `predict` and torchvision. Each contestant is a
  process in an environment of its own (made in --environments where it is missing) that has loaded its model and warmed up.
  Ratios are embedkit's speed over the other's, median and range of the rounds; agreement is the lowest cosine with float32.
- `decoding`: agreement of vectors of hymenoptera's photos with those of full decoding, by how much larger than needed they stay.
- `memory`: peak memory of a static encoder on 10,000 and on 1,000,000 texts.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from transfer import MINILM, MOBILENET, SHARED

ROUNDS = 5
PEERS = Path(__file__).with_name("peers.py")
TORCH = ["torch==2.13.0"]
ENVIRONMENTS = {
    "st": [*TORCH, "sentence-transformers>=5"],
    "st-onnx": [*TORCH, "sentence-transformers[onnx]>=5"],
    "st-openvino": [*TORCH, "sentence-transformers[openvino]>=5"],
    "onnxruntime": ["onnxruntime", "tokenizers"],
    "keras": ["tensorflow", "keras", "pillow"],
    "torch": ["torch", "torchvision"],
}
OTHERS = {
    "texts": {
        "st-32": "st",
        "st-bfloat16-32": "st",
        "st-bfloat16-64": "st",
        "st-onnx-32": "st-onnx",
        "st-openvino-32": "st-openvino",
        "onnxruntime-32": "onnxruntime",
    },
    "photos": {"keras-directory": "keras", "torch-photos": "torch"},
}


class Contestant:
    """A process that makes vectors of the files each time it is told to."""

    def __init__(self, name: str, command: list[str]):
        self.name, self.seconds, self.vectors = name, [], None
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.wait("ready")

    def wait(self, word: str) -> str:
        """The line that begins with a word; others are skipped."""
        assert self.process.stdout
        for line in self.process.stdout:
            if line.startswith(word):
                return line
        raise RuntimeError(f"{self.name} ended with {self.process.wait()} before it said {word}")

    def run(self, into: str = "") -> float:
        """Seconds of one run."""
        assert self.process.stdin
        self.process.stdin.write(into + "\n")
        self.process.stdin.flush()
        return float(self.wait("seconds").split()[1])


def environment(folder: Path, name: str) -> Path:
    """The Python of an environment, which is made where it is missing."""
    python = folder / name / "bin/python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder / name], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *ENVIRONMENTS[name]], check=True)
    return python


def texts_file(folder: Path, rows: int) -> Path:
    """Three quarters texts of AG News, a quarter reviews of IMDB, mixed."""
    import csv
    import gzip

    with (SHARED / "data/ag_news/train.csv").open() as file:
        found = [line[0] for line, _ in zip(csv.reader(file), range(3 * rows // 4), strict=False)]
    with gzip.open(next((SHARED / "data/imdb").glob("*unsup*")), "rt") as file:
        found += [json.loads(line)["text"] for line, _ in zip(file, range(rows - len(found)), strict=False)]
    np.random.default_rng(0).shuffle(found)
    path = folder / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in found))
    return path


def own(kind: str, files: str, engine: str, precision: str) -> None:
    """embedkit as a contestant: the parts of `embed` from a dataset's files into files of vectors, without starting anew."""
    from embedkit import ImportEncoder, embedding, import_encoder, load_images, load_texts
    from embedkit.embedding import Embed, Work, choose_way
    from embedkit.encoders import Encoder
    from embedkit.feeding import embedded
    from embedkit.vectors import write_vectors

    with tempfile.TemporaryDirectory() as root:
        if kind == "texts":
            encoder, dataset = import_encoder(str(MINILM), name="minilm", root=root), load_texts(files, root=root)
        else:
            network = ImportEncoder(architecture="MobileNetV2", alpha=0.35)
            encoder = import_encoder(str(MOBILENET), network, name="mobilenet", root=root)
            dataset = load_images(files, root=root)
        settings = Embed.model_validate({"engine": engine, "precision": precision})
        embedding.LEAST_SECONDS = embedding.LEAST_ROWS = 0  # measured however short it is
        work = Work(dataset, Encoder.open(encoder), settings, None)
        print("chosen", json.dumps(choose_way(work, settings, Path(root))), file=sys.stderr, flush=True)
        print("ready", flush=True)
        for line in sys.stdin:
            start, parts = time.perf_counter(), {}
            for part in embedded(work.supply, range(work.parts)):
                ids, vectors, _ = part.rows()
                write_vectors(Path(root) / f"part-{part.number}.parquet", ids, vectors)
                parts[part.number] = vectors
            seconds = time.perf_counter() - start
            if line.strip():
                np.save(line.strip(), np.concatenate([parts[number] for number in sorted(parts)]))
            print(f"seconds {seconds}", flush=True)


def race(kind: str, files: Path, rows: int, environments: Path, only: list[str]) -> None:
    """All contestants in alternating rounds; prints a line for each."""
    model = {"texts": str(MINILM), "photos": str(MOBILENET)}[kind]
    ours = [sys.executable, __file__, "--own", kind, str(files)]
    contestants = [Contestant("embedkit", [*ours, "auto", "auto"]), Contestant("embedkit-float32", [*ours, "keras", "float32"])]
    for name, place in OTHERS[kind].items():
        if only and name not in only:
            continue
        try:
            python = environment(environments, place)
            contestants.append(Contestant(name, [str(python), str(PEERS), name, str(files), model]))
        except (RuntimeError, subprocess.CalledProcessError) as error:
            print(f"  {name:18} left out: {error}", flush=True)
    vectors = {}
    with tempfile.TemporaryDirectory() as folder:
        for contestant in contestants:  # the first round warms up, and gives the vectors
            path = Path(folder) / f"{contestant.name}.npy"
            contestant.run(str(path))
            vectors[contestant.name] = np.load(path)
    for _ in range(ROUNDS):
        for contestant in contestants:
            contestant.seconds.append(contestant.run())
    plain = unit(vectors["embedkit-float32"])
    for contestant in contestants:
        ratios = [theirs / own for theirs, own in zip(contestant.seconds, contestants[0].seconds, strict=True)]
        other = unit(vectors[contestant.name])
        ours = contestant.name.startswith("embedkit") or kind == "texts"  # others resize photos in other ways
        alike = f"{(plain * other).sum(axis=1).min():.6f}" if ours else "not comparable"
        speed = rows / statistics.median(contestant.seconds)
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"  {contestant.name:18} {speed:7.1f} rows/s  embedkit is {spread} times as fast  agreement {alike}", flush=True)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of length 1, in the order of the files."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


def memory() -> None:
    """Peak memory of the stage, by rows."""
    script = "import sys; from embedkit import Embed, embed; print(embed(*sys.argv[1:3]).manifest.peak_memory_bytes)"
    from embedkit import Distil, ImportEncoder, distil, import_encoder, load_texts

    with tempfile.TemporaryDirectory() as root:
        few = texts_file(Path(root), 500)
        encoder = distil(
            import_encoder(str(MINILM), ImportEncoder(maximal_length=64), root=root),
            load_texts(str(few), root=root),
            Distil(student="static", steps=0, twin=False),
        )
        peaks = {}
        for rows in (10_000, 1_000_000):
            path = Path(root) / f"rows-{rows}.txt"
            with path.open("w") as file:
                file.writelines(f"row {number} of {rows}, a film about {number % 977} cats\n" for number in range(rows))
            dataset = load_texts(str(path), root=root)
            start = time.monotonic()
            command, place = [sys.executable, "-c", script, str(dataset), str(encoder)], os.environ | {"EMBEDKIT_ARTIFACTS": root}
            done = subprocess.run(command, env=place, capture_output=True, text=True, check=True)
            peaks[rows] = int(done.stdout)
            print(f"  {rows:9,} rows: peak {peaks[rows] / 2**20:,.0f} MiB, {time.monotonic() - start:.0f} s", flush=True)
        print(f"  ratio {peaks[1_000_000] / peaks[10_000]:.3f}")


def decoding() -> None:
    """Vectors of photos that were decoded at reduced scale, against full decoding."""
    from embedkit import Encoder, ImportEncoder, canaries, images, import_encoder

    photos = [path.read_bytes() for path in sorted((SHARED / "data/hymenoptera").rglob("*.jpg"))]
    with tempfile.TemporaryDirectory() as root:
        encoder = Encoder.open(import_encoder(str(MOBILENET), ImportEncoder(architecture="MobileNetV2", alpha=0.35), root=root))
    height, width = encoder.feed.height, encoder.feed.width
    plain = None
    for times in (0, 2, 1):
        near = (times * height, times * width) if times else None
        start = time.perf_counter()
        pixels = [images.resize(images.decode(photo, near), height, width) for photo in photos]
        seconds = time.perf_counter() - start
        vectors = encoder.encode(pixels)
        plain = vectors if plain is None else plain
        lowest = canaries.agreement(vectors, plain).min()
        name, each = f"{times} times" if times else "full", 1000 * seconds / len(photos)
        print(f"  {name:8} {each:.2f} ms a photo, lowest agreement {lowest:.5f}")


def main() -> None:
    """Run one of them."""
    if sys.argv[1:2] == ["--own"]:
        own(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["texts", "photos", "decoding", "memory"])
    parser.add_argument("--rows", type=int, default=2048, help="texts")
    parser.add_argument("--environments", type=Path, default=Path("/tmp/embedkit-peers"))
    parser.add_argument("--only", action="append", default=[], help="a peer; by default all")
    given = parser.parse_args()
    if given.what in ("memory", "decoding"):
        {"memory": memory, "decoding": decoding}[given.what]()
        return
    with tempfile.TemporaryDirectory() as folder:
        files = texts_file(Path(folder), given.rows) if given.what == "texts" else SHARED / "data/hymenoptera"
        rows = given.rows if given.what == "texts" else len(list(files.rglob("*.jpg")))
        race(given.what, files, rows, given.environments, given.only)


if __name__ == "__main__":
    main()
