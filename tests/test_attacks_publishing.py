"""Attacks on publishing: kills at every step on the disk and at random moments, full disks, interrupts.

After each attack nothing half-made can be seen, and the same call ends with the bytes of an undisturbed one and leaves no draft.
Each attack is a process forked from one that has imported everything and computed nothing yet, so that hundreds take a minute; the
tests run that process and count.
"""

import contextlib
import hashlib
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from embedkit import LoadTexts, MaskTexts, load_texts, mask_texts
from embedkit.artifacts import DRAFTS, list_artifacts, scan
from embedkit.cli import main

pytestmark = pytest.mark.slow

EVENTS = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree", "os.truncate"}
ROWS = 600
COMMANDS = {"load": ["load-texts", "rows.csv", "--rows-per-part", "200"], "mask": ["mask-texts", "texts/rows", "--copies", "1"]}
"""A call without inputs and one with an input, neither needing a framework."""
CALLS = {
    "load": lambda root: load_texts("rows.csv", LoadTexts(rows_per_part=200), root=root),
    "mask": lambda root: mask_texts("texts/rows", MaskTexts(copies=1), root=root),
}
"""The same in Python."""


def write_rows(place):
    drawn = random.Random(0)
    words = ["".join(drawn.choices("abcdefghijklmnopqrstuvwxyz", k=6)) for _ in range(4000)]
    lines = [f"{' '.join(drawn.choices(words, k=12))},{'pos' if row % 2 else 'neg'}" for row in range(ROWS)]
    (place / "rows.csv").write_text("text,label\n" + "\n".join(lines) + "\n")


# What runs in the process of the attacks


def forked(stage, root, prepare=lambda: None, errors=None):
    """A process that makes a call, by its command where its messages are asked for; its id."""
    process = os.fork()
    if process:
        return process
    code = 130
    try:
        for stream, place in ((1, os.devnull), (2, errors or os.devnull)):
            os.dup2(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), stream)
        prepare()
        if errors:
            code = main([*COMMANDS[stage], "--root", str(root)])
        else:
            CALLS[stage](root)
            code = 0
    except KeyboardInterrupt:  # before the command listened, or after it was done
        pass
    except Exception:
        code = 1
    finally:
        os._exit(code)


def ended(process):
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def die_at(number, counted=None):
    """Let this process kill itself at its step of this number on the disk; or count them."""
    steps = [0]

    def step():
        if steps[0] == number:
            os.kill(os.getpid(), signal.SIGKILL)
        steps[0] += 1
        if counted:
            os.pwrite(counted, b"%9d" % steps[0], 0)

    def hook(event, given):
        writes = event == "open" and isinstance(given[2], int) and given[2] & (os.O_WRONLY | os.O_RDWR)
        if event in EVENTS or writes:
            step()

    fsync = os.fsync
    os.fsync = lambda descriptor: (step(), fsync(descriptor))[1]
    sys.addaudithook(hook)


def seen(root):
    """What can be seen, as kinds and names, unless any of it is not whole."""
    assert all(artifact is not None for _, artifact in scan(root)), "a manifest that can't be read"
    found = list_artifacts(root)
    assert all(artifact.problems() == [] for artifact in found), "an artifact that isn't as published"
    return [f"{artifact.manifest.kind}/{artifact.manifest.name}" for artifact in found]


def bytes_of(root):
    """Each artifact's files with their checksums, without times."""
    found = {}
    for artifact in list_artifacts(root):
        for file in artifact.manifest.files:
            content = (artifact / file.path).read_bytes()
            found[f"{artifact.manifest.kind}/{artifact.manifest.name}/{file.path}"] = hashlib.sha256(content).hexdigest()
    return found


def left(root):
    return sorted(path.name for path in (root / DRAFTS).iterdir() if path.name != "changes.lock")


class Attacks:
    """One call that is attacked: how it is when nothing disturbs it, and whether it comes to that after an attack."""

    def __init__(self, stage):
        self.stage, self.base = stage, Path("base").resolve()
        if not self.base.exists():
            assert ended(forked("load", self.base)) == 0
        self.before = [] if stage == "load" else ["texts/rows"]
        self.number = self.tried = self.held = 0
        self.said = []
        whole = self.fresh()
        start = time.monotonic()
        assert ended(forked(self.stage, whole)) == 0
        self.seconds, self.whole, self.names = time.monotonic() - start, bytes_of(whole), seen(whole)

    def fresh(self):
        """A root in which the call was not made yet."""
        self.number += 1
        root = Path(f"root-{os.getpid()}-{self.number}").resolve()
        if self.before:
            shutil.copytree(self.base, root)
        else:
            root.mkdir()
        return root

    def heals(self, root, what):
        """Look at what an attack left, and make the call again."""
        self.tried += 1
        try:
            assert seen(root) in (self.before, self.names), "something half-made can be seen"
            assert ended(forked(self.stage, root)) == 0, "the same call fails"
            assert bytes_of(root) == self.whole, "other bytes"
            assert seen(root) == self.names, "made twice"
            assert left(root) == [], f"left: {left(root)}"
            self.held += 1
        except AssertionError as error:
            self.said.append(f"{what}: {error}")

    def forget(self, root):
        shutil.rmtree(root)


def kills(stage):
    attacks = Attacks(stage)
    root = attacks.fresh()
    with open("steps", "wb+") as counted:
        assert ended(forked(stage, root, lambda: die_at(-1, counted.fileno()))) == 0
        steps = int(os.pread(counted.fileno(), 9, 0))
    attacks.forget(root)
    for step in range(steps):
        root = attacks.fresh()
        assert ended(forked(stage, root, lambda step=step: die_at(step))) == -signal.SIGKILL
        attacks.heals(root, f"step {step}")
        attacks.forget(root)
    return attacks


def random_kills(stage, count):
    return at_random(stage, count, signal.SIGKILL, (-signal.SIGKILL, 0))


def interrupts(stage, count):
    return at_random(stage, count, signal.SIGINT, (130, 0))


def at_random(stage, count, sign, codes):
    attacks, drawn = Attacks(stage), random.Random(1)
    for number in range(count):
        root, ready = attacks.fresh(), os.pipe()
        process = forked(stage, root, lambda ready=ready: os.write(ready[1], b"."), "errors.txt")
        os.read(ready[0], 1)
        time.sleep(drawn.uniform(0, attacks.seconds))
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, sign)
        for end in ready:
            os.close(end)
        code = ended(process)
        attacks.heals(root, f"{sign.name} {number}") if code in codes else attacks.said.append(f"exit code {code}")
        attacks.forget(root)
    return attacks


def full_disks(stage, count):
    attacks = Attacks(stage)
    place = Path("disk").resolve()
    place.mkdir()

    def mount(*options):
        done = subprocess.run(["mount", *options], capture_output=True, text=True)
        if done.returncode:
            print(json.dumps({"skip": f"can't mount a small disk here: {done.stderr.strip()}"}))
            sys.exit()

    def made(room):
        """What the call says with so many bytes beside what its inputs take."""
        mount("-t", "tmpfs", "-o", "size=64m", "tmpfs", str(place))
        root, errors = place / "root", Path("errors.txt")
        if attacks.before:
            shutil.copytree(attacks.base, root)
        used = shutil.disk_usage(place).used
        mount("-o", f"remount,size={used + room}", str(place))
        errors.unlink(missing_ok=True)
        code = ended(forked(stage, root, errors=str(errors)))
        return root, code, errors.read_text()

    def done():
        subprocess.run(["umount", "-l", place], check=True)

    low, high = 4096, 16 * 2**20
    while high - low > 4096:  # how much it takes
        middle = (low + high) // 2
        high, low = (middle, low) if made(middle)[1] == 0 else (high, middle)
        done()
    for number in range(count):
        room = 4096 + number * (low - 4096) // (count - 1)
        root, code, words = made(room)
        sentence = r"(embedkit: )?there is no space left on the disk \(.*\); mend that and make the same call again: .*\n"
        lines = [line for line in words.splitlines(True) if line.startswith("embedkit: ") or "Error" in line]
        mount("-o", "remount,size=64m", str(place))
        if code == 1 and len(lines) == 1 and re.fullmatch(sentence, lines[0]):
            attacks.heals(root, f"{room} bytes")
        else:
            attacks.tried += 1
            attacks.said.append(f"{room} bytes: exit code {code}: {words[-300:]}")
        done()
    return attacks


# What counts


ATTACKS = [
    ("kills", "load"),
    ("kills", "mask"),
    ("random_kills", "load", 60),
    ("random_kills", "mask", 60),
    ("interrupts", "load", 30),
    ("interrupts", "mask", 30),
    ("full_disks", "load", 32),
    ("full_disks", "mask", 32),
]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: "-".join(map(str, attack[:2])))
def test_after_each_attack_nothing_half_made_is_seen_and_the_same_call_heals(attack, tmp_path, capsys):
    write_rows(tmp_path)
    done = subprocess.run([sys.executable, __file__, *map(str, attack)], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    if "skip" in found:
        pytest.skip(found["skip"])
    with capsys.disabled():
        print(f"\n{' '.join(attack[:2])}: tried {found['tried']}, held {found['held']}")
    assert found["held"] == found["tried"] >= 30, "\n".join(found["said"])


if __name__ == "__main__":
    import pandas  # noqa: F401  which every child would import, with cyclopts' application
    import pyarrow.parquet  # noqa: F401

    with contextlib.redirect_stdout(io.StringIO()):
        main(["load-texts", "--help"])
    name, stage, *count = sys.argv[1:]
    attacks = globals()[name](stage, *map(int, count))
    print(json.dumps({"tried": attacks.tried, "held": attacks.held, "said": attacks.said}))
