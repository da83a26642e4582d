"""Odd values for every command and every option: each is refused with one sentence, or done; nothing hangs or shows a traceback.

The options are read from the stages' settings, so that a new one is tried as soon as it is there. A process of its own runs the
commands one after the other; it is started anew where one of them ends it. A few dozen also run as real commands.
"""

import itertools
import json
import os
import random
import select
import subprocess
import sys
import typing

import numpy as np
import pytest
from PIL import Image
from test_cli import fields_of
from test_terminal import ODD

import embedkit
from embedkit import BuildIndex, Embed, LoadTable, TrainHead, Training
from embedkit.artifacts import Kinds

pytestmark = pytest.mark.slow

SECONDS = 120
"""What any command may take, on a machine that does other things as well."""
WORKER = """
import io, json, os, resource, sys
results = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)  # what libraries print is no result
from embedkit.cli import main
from embedkit.frameworks import load_frameworks
load_frameworks()
held = int(open("/proc/self/statm").read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
resource.setrlimit(resource.RLIMIT_AS, (held + 4_000_000_000,) * 2)  # what asks for more is refused, not granted by and by
print("ready", file=results)
for line in sys.stdin:
    sys.stdout, sys.stderr = io.StringIO(), io.StringIO()
    try:
        code = main(json.loads(line))
    except BaseException as error:
        code = repr(error)
    print(json.dumps([code, sys.stdout.getvalue()[-2000:], sys.stderr.getvalue()[-4000:]]), file=results)
"""
ODD_VALUES = [
    *("", " ", "-", "-1", "0", "1.5", "nan", "inf", "-inf", "1e400", "9" * 400, "0x10", "١٢", "true", "None", "null"),
    *("[]", "{}", '{"a": 1}', "[" * 2000, '{"a":' * 2000, "../..", "/", "~nobody/x", "a=b", "=", "a=", "*", "%s%n", "--", "--seed"),
    *(ODD, "x" * 10_000, "od\udcff", "two\nlines", "a,b", "\u202e", "'", '"', "\\", "$(id)", "texts/reviews", "http://127.0.0.1:1/x"),
]
ODD_REFERENCES = [
    *("", " ", "-", ".", "..", "/", "@", "a", "a/b/c", "../../etc/passwd", "texts/../texts", "texts/reviews@"),
    *("texts/reviews@2@3", "texts/reviews@19990101", "texts/no-such", "no-such/reviews", "texts/.hidden", "/dev/null"),
    *("x" * 10_000, "texts/" + "x" * 300),
    *("od\udcff", "two\nlines", ODD, "texts/reviews\n", "TEXTS/REVIEWS", "*/*", "[]", "{}", "texts//reviews", "builtin:digits"),
]
ODD_SOURCES = [
    *("", " ", "-", ".", "..", "/dev/null", "/dev/zero", "/proc/self/mem", "fifo", "empty.csv", "broken.csv"),
    *("no-such.csv", "folder", "x" * 10_000),
    *("builtin:", "builtin:no-such", "hf://", "hf://a/b/c/d", "keras://no-such", "applications://X", "http://127.0.0.1:1/x", "s3://a/b"),
    *("od\udcff", "two\nlines", ODD, "~nobody/x", "file:///etc/passwd", "texts/reviews"),
]
ODD_ROOTS = ["", "reviews.csv", "no-such/folder", "/proc/nowhere", "/dev/null", "s3://bucket/x", "x" * 5000, "od\udcff", "~nobody"]
ODD_OPTIONS = ["--settings={}", "--training={}", "--name=a/b", "--no-such", "---", "--=", "-x", "--json=x", f"--{'a.' * 500}b=1"]
COMMANDS = {
    **{"predict": ["classifier/reviews-tiny-bert", "a text"], "search": ["index/reviews-tiny-bert", "a text"]},
    **{"neighbours": ["encoder/tiny-bert", "column", "value"], "layers": ["encoder/tiny-bert"]},
    **{f"artifacts {name}": ["texts/reviews"] for name in ("show", "lineage", "verify")},
    **{"artifacts list": [], "artifacts prune": [], "artifacts compare": ["texts/reviews", "texts/reviews"]},
    **{f"artifacts {name}": ["texts/reviews", "memory://x/y"] for name in ("push", "pull")},
}
"""Commands that are no stages, with what they take."""


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_bert):
    """A folder with odd files and a small root of one artifact of each kind."""
    folder = tmp_path_factory.mktemp("attacks")
    root, draw = folder / "artifacts", np.random.default_rng(0)
    lines = [f"the {('good', 'bad')[n % 2]} film {n},{('pos', 'neg')[n % 2]},{n}" for n in range(60)]
    (folder / "reviews.csv").write_text("\n".join(["text,label,size", *lines]) + "\n")
    for number in range(12):
        path = folder / "photos" / f"{'ab'[number % 2]}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (8, 8, 3)).astype(np.uint8)).save(path)
    (folder / "empty.csv").write_text("")
    (folder / "broken.csv").write_bytes(b'text,label\n"\xff\x00' + b"\n" * 20)
    (folder / "folder").mkdir()
    os.mkfifo(folder / "fifo")
    texts = embedkit.load_texts(folder / "reviews.csv", root=root)
    embedkit.load_table(folder / "reviews.csv", LoadTable(label_column="label"), root=root)
    embedkit.load_images(folder / "photos", root=root)
    vectors = embedkit.embed(texts, embedkit.import_encoder(tiny_bert, root=root), Embed())
    embedkit.train_head(vectors, TrainHead(training=Training(epochs=1, preflight=False)))
    embedkit.build_index(vectors, BuildIndex())
    return folder


def usual(stage):
    """Inputs of a stage that are not there, so that settings that are taken start no long run."""
    return [f"{kinds_of(stage, role)[0]}/no-such" if kinds_of(stage, role) else "no-such.csv" for role in stage.inputs]


def kinds_of(stage, role):
    marks = getattr(stage.inputs[role], "__metadata__", ())
    return next((mark.names for mark in marks if isinstance(mark, Kinds)), ())


def lines_of(draw):
    """Every command line that is tried."""
    stages = {name.replace("_", "-"): getattr(embedkit, name) for name in embedkit.STAGES}
    values = itertools.cycle(draw.sample(ODD_VALUES, len(ODD_VALUES)))
    for name, stage in stages.items():
        for option, _ in fields_of(stage.Settings):
            for value in itertools.islice(values, 2):
                yield [name, *usual(stage), f"--{option.replace('_', '-')}={value}"]
        for place, role in enumerate(stage.inputs):
            odd = ODD_REFERENCES if kinds_of(stage, role) else ODD_SOURCES
            for value in odd if not kinds_of(stage, role) else draw.sample(odd, 6):
                given = usual(stage)
                given[place] = value
                yield [name, "--", *given]
        for option in ODD_OPTIONS:
            yield [name, *usual(stage), option]
        yield from ([name, *usual(stage), "--root", root] for root in draw.sample(ODD_ROOTS, 3))
        yield from ([name], [name, "a", "b", "c", "d", "e"], [name, *usual(stage), "--name", "a", "--name", "b"])
        yield from ([name, *usual(stage), "--json", "--json", "--debug"],)
        kinds = ("texts/reviews", "table/reviews", "images/photos", "encoder/tiny-bert", "vectors/reviews-tiny-bert")
        for given in itertools.product((*kinds, "index/reviews-tiny-bert"), repeat=len(stage.inputs)):
            allowed = [kinds_of(stage, role) for role in stage.inputs]
            fits = all(one.split("/")[0] in names for one, names in zip(given, allowed, strict=True))
            if not fits and draw.random() < 6 / 6 ** len(stage.inputs):
                yield [name, *given]
    for value in ODD_VALUES:  # those that are quick to do what is asked
        yield ["load-texts", "reviews.csv", f"--text-column={value}"]
        yield ["load-texts", "reviews.csv", f"--files.delimiter={value}", f"--files.encoding={value}"]
        yield ["build-index", "vectors/reviews-tiny-bert", f"--name={value}"]
        yield ["search", "index/no-such", f"--k={value}", "a"]
        yield ["artifacts", "prune", f"--keep={value}"]
        yield ["quickstart", f"x{value}"], ["ui", f"--port=x{value}"]
    for value in draw.sample(ODD_VALUES, 8):  # each opens an encoder
        yield ["search", "index/reviews-tiny-bert", f"--k={10**draw.randint(0, 30)}", "--", value]
        yield ["predict", "classifier/reviews-tiny-bert", f"--reject-below={value}", "--", "a", value]
    for words, given in COMMANDS.items():
        for place in range(1 if words in ("predict", "search") else len(given)):
            for value in ODD_REFERENCES:
                yield [*words.split(), "--", *given[:place], value, *given[place + 1 :]]
        yield from ([*words.split(), *given, option] for option in ("--no-such", "--json=maybe", "--root=/proc/nowhere", "--root="))
        yield from ([*words.split(), *given, *["more"] * 20],)
    yield from ([value] for value in ODD_VALUES)
    yield from (["artifacts", value] for value in ODD_VALUES)
    yield from (["--", *words] for words in (["load-texts", "x"], ["artifacts", "list"], ["--help"]))


def flat(lines):
    for line in lines:
        yield from line if isinstance(line, tuple) else [line]


class Worker:
    """A process that runs commands, one after the other."""

    def __init__(self, place):
        environment = os.environ | {"EMBEDKIT_ARTIFACTS": str(place / "artifacts"), "HF_HUB_OFFLINE": "1"}
        pipes: typing.Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen([sys.executable, "-c", WORKER], cwd=place, env=environment, **pipes)
        assert self.process.stdout.readline() == b"ready\n"

    def run(self, words):
        """What a command came to: code, stdout, stderr; the code is a word where it never ended or ended the process."""
        self.process.stdin.write(json.dumps(words).encode() + b"\n")
        self.process.stdin.flush()
        ready, _, _ = select.select([self.process.stdout], [], [], SECONDS)
        if not ready:
            self.end()
            return "hangs", "", ""
        line = self.process.stdout.readline()
        return json.loads(line) if line else (f"ends the process with {self.process.wait()}", "", "")

    def end(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


def wrong(code, err):
    """What is wrong with how a command ended, or nothing."""
    if code not in (0, 1, 2):
        return f"code {code}"
    said = [line for line in err.splitlines() if line.startswith("embedkit: ")]
    if "Traceback" in err or "this is a defect" in err:
        return err[-600:]
    if code and (len(said) != 1 or err.splitlines()[-1] != said[0]):
        return f"{len(said)} sentences: {err[-300:]}"
    if code == 0 and said:
        return f"an error with code 0: {said}"
    return None


def short(words):
    return [word if len(word) < 60 else f"{word[:40]}... ({len(word)})" for word in words]


def test_odd_values_for_every_command_and_option(place, capsys):
    lines = list(flat(lines_of(random.Random(0))))
    assert len(lines) >= 815
    worker, found = Worker(place), []
    try:
        for words in lines:
            code, _, err = worker.run(words)
            if problem := wrong(code, err):
                debug = "--debug" in words and str(code).startswith("UserError")  # what it asks for
                found += [] if debug else [(short(words), problem)]
            if worker.process.poll() is not None:
                worker.end()
                worker = Worker(place)
    finally:
        worker.end()
    with capsys.disabled():
        print(f"\ntried {len(lines)}, held {len(lines) - len(found)}")
    assert found == []


def test_odd_values_for_real_commands(place, capsys):
    draw = random.Random(1)
    lines, found = [words for words in flat(lines_of(random.Random(0))) if "--debug" not in words], []
    lines = [words for words in draw.sample(lines, 400) if words[0] not in ("predict", "search")][:36]
    environment = os.environ | {"EMBEDKIT_ARTIFACTS": str(place / "artifacts"), "HF_HUB_OFFLINE": "1"}
    for words in lines:
        command = [sys.executable, "-m", "embedkit", *map(os.fsencode, words)]
        done = subprocess.run(command, cwd=place, env=environment, capture_output=True, timeout=SECONDS)
        if problem := wrong(done.returncode, done.stderr.decode(errors="replace")):
            found.append((short(words), problem))
    with capsys.disabled():
        print(f"\ntried {len(lines)} real ones, held {len(lines) - len(found)}")
    assert found == []
