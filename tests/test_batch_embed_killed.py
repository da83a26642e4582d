"""batch_embed, killed: workers and the flow itself are killed at random moments; no part is lost, or made anew once it is there.

The vectors end with the bytes of the plain stage's.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from embedkit import Embed, embed, import_encoder, load_texts
from embedkit.artifacts import list_artifacts

pytestmark = [pytest.mark.slow, pytest.mark.prefect, pytest.mark.filterwarnings("default")]

KILLS, ROWS, PARTS = 10, 4000, 40
SETTINGS = Embed(rows_per_part=ROWS // PARTS)
SCRIPT = """
import sys
import test_batch_embed_killed
if __name__ == "__main__":
    test_batch_embed_killed.work(sys.argv[1])
"""


def work(root):
    """What the killed process runs."""
    from flows.batch_embed import Workers, batch_embed

    batch_embed("texts/lines", "encoder/tiny-bert", SETTINGS, Workers(count=2), root=root)


@pytest.fixture
def roots(tiny_bert, tmp_path_factory):
    """Two roots with the same texts and encoder; the vectors are in the first."""
    folder, words = tmp_path_factory.mktemp("killed"), "the a cat dog sat ran on mat moon red blue green good bad film".split()
    drawn = np.random.default_rng(0)
    lines = [f"{' '.join(drawn.choice(words, drawn.integers(5, 30)))} {number}" for number in range(ROWS)]
    (folder / "lines.txt").write_text("\n".join(lines) + "\n")
    for root in (folder / "plain", folder / "killed"):
        load_texts(folder / "lines.txt", root=root)
        import_encoder(tiny_bert, root=root)
    embed("texts/lines", "encoder/tiny-bert", SETTINGS, root=folder / "plain")
    return folder / "plain", folder / "killed"


def finished(root):
    """When each finished part of the draft was written, by its name."""
    receipts = (root / ".drafts").glob("*/work/receipts/*.json")
    return {path.name: (path.parents[2] / "files" / path.stem).stat().st_mtime_ns for path in receipts if path.exists()}


def children(process):
    """The processes of a pool, by what their command says."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == process.pid and b"spawn_main" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except (OSError, ValueError):
            continue
    return found


@pytest.mark.parametrize("whom", ["workers", "flow"])
def test_what_is_killed_costs_only_the_parts_that_were_being_made(roots, server, whom):
    from prefect.settings import PREFECT_API_URL

    plain, root = roots
    chance, before, killed = random.Random(whom), {}, 0
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])}
    environment |= {"PREFECT_API_URL": PREFECT_API_URL.value(), "EMBEDKIT_CORES": "1"}
    script = root.parent / "script.py"
    script.write_text(SCRIPT)
    messages = (root.parent / f"{whom}.txt").open("ab")

    def start():
        return subprocess.Popen([sys.executable, script, str(root)], env=environment, stdout=messages, stderr=messages)

    process, deadline, last = start(), time.monotonic() + 1200, 0
    while killed < KILLS and time.monotonic() < deadline and process.poll() is None:
        time.sleep(chance.uniform(0.0, 1.0))
        now = finished(root)
        if before and not now:  # published
            break
        assert {name: when for name, when in now.items() if name in before} == before  # none was lost, none made anew
        before = now
        victims = [process.pid] if whom == "flow" else children(process)
        if not victims or len(now) == last:  # something was done since the last time: dying in vain has a test of its own
            continue
        last = len(now)
        os.kill(chance.choice(victims), signal.SIGKILL)
        killed += 1
        if whom == "flow":
            process.wait()
            process = start()
    process.wait(timeout=600)
    assert process.returncode == 0, (root.parent / f"{whom}.txt").read_text()[-3000:]
    assert killed == KILLS
    (made,) = [found for found in list_artifacts(root) if found.manifest.kind == "vectors"]
    (expected,) = [found for found in list_artifacts(plain) if found.manifest.kind == "vectors"]
    assert made.manifest.files == expected.manifest.files
