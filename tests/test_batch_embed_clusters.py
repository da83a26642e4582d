"""batch_embed on clusters: workers of Dask and of Ray, one of which dies, make the bytes that the plain stage makes."""

import importlib.util
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from embedkit import Embed, embed, import_encoder, load_texts

pytestmark = [pytest.mark.slow, pytest.mark.prefect, pytest.mark.filterwarnings("default")]
SETTINGS = Embed(rows_per_part=50)
COMMANDS = {"dask": b"spawn_main", "ray": b"ray::make_part"}
"""What the command of a worker's process holds."""


def workers(name):
    """The processes of a cluster's workers that this test started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            ours = name == "ray" or os.getsid(int(folder.name)) == os.getsid(0)  # Ray's are started by the cluster
            if COMMANDS[name] in (folder / "cmdline").read_bytes() and ours:
                found.append(int(folder.name))
        except (OSError, ValueError):
            continue
    return found


@pytest.fixture
def cluster(name):
    """The address of a cluster that runs already; None for Dask, which `batch_embed` starts itself."""
    if importlib.util.find_spec(f"prefect_{name}") is None:
        pytest.skip(f"prefect-{name} is not installed (the extra {name})")
    if name == "dask":
        yield None
        return
    subprocess.run(["ray", "start", "--head", "--num-cpus", "2", "--port", "0", "--include-dashboard", "false"], check=True)
    yield "auto"
    subprocess.run(["ray", "stop", "--force"], check=True)


@pytest.mark.parametrize("name", ["dask", "ray"])
def test_workers_of_a_cluster_make_the_same_bytes_though_one_dies(name, cluster, tiny_bert, tmp_path, server):
    from flows.batch_embed import Workers, batch_embed

    words, drawn = "the a cat dog sat ran on mat moon red blue".split(), np.random.default_rng(0)
    lines = [f"{' '.join(drawn.choice(words, drawn.integers(5, 30)))} {number}" for number in range(2000)]
    (tmp_path / "lines.txt").write_text("\n".join(lines) + "\n")
    for root in (tmp_path / "plain", tmp_path / "cluster"):
        load_texts(tmp_path / "lines.txt", root=root)
        import_encoder(tiny_bert, root=root)
    plain, killed = embed("texts/lines", "encoder/tiny-bert", SETTINGS, root=tmp_path / "plain"), []

    def kill():
        """One worker, when the first part is there."""
        while not [*(tmp_path / "cluster/.drafts").glob("*/work/receipts/*.json")]:
            time.sleep(0.01)
        while not (found := workers(name)):
            time.sleep(0.01)
        victim = found[-1]
        os.kill(victim, signal.SIGKILL)
        killed.append(victim)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    chosen = Workers.model_validate({"runner": name, "count": 2, "address": cluster})
    made = batch_embed("texts/lines", "encoder/tiny-bert", SETTINGS, chosen, root=str(tmp_path / "cluster"))
    killer.join(timeout=10)
    assert killed
    assert made.manifest.files == plain.manifest.files
