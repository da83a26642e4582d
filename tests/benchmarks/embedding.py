"""embed against others on this machine, from files to vectors, in alternating rounds: `python tests/benchmarks/embedding.py texts`.

- `texts`: MiniLM on texts of AG News and IMDB, beside sentence-transformers (torch in float32 and bfloat16, ONNX, OpenVINO) and
  onnxruntime; `photos`: MobileNetV2 0.35 on hymenoptera's JPEGs, beside Keras's `predict` and torchvision. Each contestant is a
  process in an environment of its own (made in --environments where it is missing) that has loaded its model and warmed up;
  embedkit once as it chooses, once in plain Keras, and once in TensorFlow, which is what there is without the extra openvino.
  Ratios are embedkit's speed over the other's, median and range of the rounds; agreement is the lowest cosine with float32.
- `decoding`: agreement of vectors of hymenoptera's photos with those of full decoding, by how much larger than needed they stay.
- `memory`: peak memory of a static encoder on 10,000 and on 1,000,000 texts.
- `overhead`: the stage on 100,000 short texts beside the bare loop, which opens the encoder, reads, prepares,
  embeds and keeps nothing.
- `workers`: the flow with one and with two Dask workers of one core each, rows a second from the first part to the last.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from transfer import MINILM, MOBILENET, SHARED

ROUNDS = 5
PEERS = Path(__file__).with_name("peers.py")
TORCH, VISION = ["torch==2.13.0"], ["torch==2.14.1", "torchvision==0.29.1"]
ENVIRONMENTS = {
    "st": [*TORCH, "sentence-transformers>=5"],
    "st-onnx": [*TORCH, "sentence-transformers[onnx]>=5"],
    "st-openvino": [*VISION, "sentence-transformers[openvino]>=5"],  # optimum-intel brings a torchvision, which has to fit
    "onnxruntime": ["onnxruntime", "tokenizers", "numpy"],
    "keras": ["tensorflow", "keras", "pillow"],
    "torch": VISION,
}
EXPORTED = {"st-onnx": "onnx", "onnxruntime": "onnx", "st-openvino": "openvino"}
"""What MiniLM is exported to, by sentence-transformers itself, for the environments that take it so."""
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


def model_for(folder: Path, place: str, kind: str) -> str:
    """The network as those of an environment take it; exported where that is missing."""
    if place not in EXPORTED:
        return str({"texts": MINILM, "photos": MOBILENET}[kind])
    backend = EXPORTED[place]
    made = folder / f"minilm-{backend}"
    if not made.exists():
        script = (
            "import sys; from sentence_transformers import SentenceTransformer;"
            "SentenceTransformer(sys.argv[1], backend=sys.argv[2], device='cpu').save_pretrained(sys.argv[3])"
        )
        python = environment(folder, f"st-{backend}")
        subprocess.run([python, "-c", script, MINILM, backend, made], check=True, capture_output=True)
    return str(made)


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
            start, parts, phases = time.perf_counter(), {}, Counter()
            for part in embedded(work.supply, range(work.parts)):
                ids, vectors, _ = part.rows()
                write_vectors(Path(root) / f"part-{part.number}.parquet", ids, vectors)
                parts[part.number] = vectors
                phases.update(part.seconds)
            seconds = time.perf_counter() - start
            if line.strip():
                np.save(line.strip(), np.concatenate([parts[number] for number in sorted(parts)]))
                spent = ", ".join(f"{name} {value:.1f}" for name, value in phases.most_common())
                print(f"spent in {seconds:.1f} s, summed over threads: {spent}", file=sys.stderr, flush=True)
            print(f"seconds {seconds}", flush=True)


def race(kind: str, files: Path, rows: int, environments: Path, only: list[str]) -> None:
    """All contestants in alternating rounds; prints a line for each."""
    ours = [sys.executable, __file__, "--own", kind, str(files)]
    ways = {"embedkit": ("auto", "auto"), "embedkit-float32": ("keras", "float32"), "embedkit-tensorflow": ("tensorflow", "auto")}
    contestants = [Contestant(name, [*ours, *way]) for name, way in ways.items()]
    for name, place in OTHERS[kind].items():
        if only and name not in only:
            continue
        try:
            python = environment(environments, place)
            model = model_for(environments, place, kind)
            contestants.append(Contestant(name, [str(python), str(PEERS), name, str(files), model]))
        except (RuntimeError, subprocess.CalledProcessError) as error:
            print(f"  {name:19} left out: {error}", flush=True)
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
        print(f"  {contestant.name:19} {speed:7.1f} rows/s  embedkit is {spread} times as fast  agreement {alike}", flush=True)
    if kind == "texts":
        share_of_peak(files, rows / statistics.median(contestants[0].seconds))


def share_of_peak(files: Path, rate: float) -> None:
    """What MiniLM's sums of products are of the machine's fastest ones, in float32 and in bfloat16."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(MINILM / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(256)
    texts = [json.loads(line)["text"] for line in files.open()]
    lengths = np.array([len(found.ids) for found in tokenizer.encode_batch(texts)], float)
    width, inner, layers = 384, 1536, 6
    dense = 2 * (4 * width * width + 2 * width * inner)  # of a token in a layer: query, key, value, output; up and down
    each = layers * (dense * lengths + 4 * lengths**2 * width).mean()
    for kind in ("float32", "bfloat16"):
        script = (
            "import os, time; os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'; import tensorflow as tf;"
            f"a = tf.cast(tf.random.normal((2048, 2048)), '{kind}'); f = tf.function(lambda x: tf.matmul(x, a)); f(a); best = 9e9\n"
            "for _ in range(40): start = time.perf_counter(); f(a).numpy(); best = min(best, time.perf_counter() - start)\n"
            "print(2 * 2048**3 / best)"
        )
        peak = float(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout)
        share = rate * each / peak
        print(f"  {each / 1e9:.2f} GFLOP a text; best matmul {kind} {peak / 1e9:.0f} GFLOP/s, of which embedkit uses {share:.0%}")


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


def overhead(rows: int) -> None:
    """The stage's seconds over the bare loop's, in alternating rounds of the same engine."""
    from concurrent.futures import ThreadPoolExecutor

    from embedkit import Embed, ImportEncoder, embed, import_encoder, load_texts
    from embedkit.embedding import Way, Work
    from embedkit.encoders import Encoder

    way = Way("tensorflow", "bfloat16")
    with tempfile.TemporaryDirectory() as root:
        path = Path(root) / "rows.txt"
        words = "film plot actor scene good bad long short never again watch love hate dull bright story".split()
        drawn = np.random.default_rng(0)
        with path.open("w") as file:
            file.writelines(f"{' '.join(drawn.choice(words, 6))} {number}\n" for number in range(rows))
        encoder, dataset = import_encoder(str(MINILM), ImportEncoder(), root=root), load_texts(str(path), root=root)
        settings = Embed.model_validate({"engine": way.engine, "precision": way.precision})
        ratios = []
        for number in range(3):
            start = time.perf_counter()
            work = Work(dataset, Encoder.open(encoder), settings, None)
            work.use(way, Path(root))
            opened = time.perf_counter() - start
            with ThreadPoolExecutor(work.encoder.streams) as pool:
                for part in range(work.parts):
                    contents = work.encoder.feed.rows(work.reader.contents(np.asarray(work.of(part))))
                    list(pool.map(work.encoder.forward, (inputs for _, inputs in work.encoder.feed.batches(contents))))
            bare = time.perf_counter() - start
            part_rows = settings.rows_per_part + number  # another call each time, or the artifact would be found
            start = time.perf_counter()
            embed(dataset, encoder, settings.model_copy(update={"rows_per_part": part_rows}))
            ratios.append((time.perf_counter() - start) / bare)
            share = f"stage {ratios[-1]:.3f} times that"
            print(f"  bare loop {bare:.1f} s, opening the encoder {opened:.1f} s of it; {share}", flush=True)
        print(f"  stage over bare loop: {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")


def workers(rows: int) -> None:
    """Rows a second of one and two Dask workers, in alternating rounds."""
    from prefect.testing.utilities import prefect_test_harness

    from embedkit import Embed, ImportEncoder, import_encoder, load_texts
    from flows.batch_embed import Workers, batch_embed

    rates: dict[int, list[float]] = {1: [], 2: []}
    given = {"engine": "tensorflow", "precision": "float32"}
    with tempfile.TemporaryDirectory() as root, prefect_test_harness(server_startup_timeout=120):
        load_texts(str(texts_file(Path(root), rows)), name="texts", root=root)
        import_encoder(str(MINILM), ImportEncoder(), name="minilm", root=root)
        for number in range(3):
            for count in rates:
                # Another call each time, or the artifact would be found.
                settings = Embed.model_validate(given | {"rows_per_part": 128 + 2 * number + count})
                chosen = Workers(runner="dask", count=count, cores=1)
                made = batch_embed("texts/texts", "encoder/minilm", settings, chosen, root=root)
                times = sorted(path.stat().st_mtime for path in made.path.glob("vectors-*.parquet"))
                first = count  # the first of each worker waits for its start
                done = (len(times) - first) * settings.rows_per_part
                rates[count].append(done / (times[-1] - times[first - 1]))
                print(f"  {count} workers: {rates[count][-1]:.1f} rows/s", flush=True)
    ratios = [two / one for one, two in zip(rates[1], rates[2], strict=True)]
    print(f"  two workers over one: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


def main() -> None:
    """Run one of them."""
    if sys.argv[1:2] == ["--own"]:
        own(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["texts", "photos", "decoding", "memory", "overhead", "workers"])
    parser.add_argument("--rows", type=int, default=None, help="texts; by default 2,048, for overhead 100,000, for workers 2,560")
    parser.add_argument("--environments", type=Path, default=Path("/tmp/embedkit-peers"))
    parser.add_argument("--only", action="append", default=[], help="a peer; by default all")
    given = parser.parse_args()
    alone = {
        "memory": memory,
        "decoding": decoding,
        "overhead": lambda: overhead(given.rows or 100_000),
        "workers": lambda: workers(given.rows or 2560),
    }
    if given.what in alone:
        alone[given.what]()
        return
    given.rows = given.rows or 2048
    with tempfile.TemporaryDirectory() as folder:
        files = texts_file(Path(folder), given.rows) if given.what == "texts" else SHARED / "data/hymenoptera"
        rows = given.rows if given.what == "texts" else len(list(files.rglob("*.jpg")))
        race(given.what, files, rows, given.environments, given.only)


if __name__ == "__main__":
    main()
