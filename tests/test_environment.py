"""What a manifest says of the machine: true, plain, and naming nobody."""

import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

import embedkit
from embedkit.environment import PACKAGES, environment, package_version, peak_memory_bytes, reset_peak_memory

TELL = """
import json, sys
from embedkit.environment import environment
print(json.dumps([environment(), "tensorflow" in sys.modules]))
"""


def told_by_a_child(code=TELL, **options):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, **options)
    return json.loads(done.stdout)


def test_the_versions_are_those_that_are_installed():
    found = environment()
    assert found["python"] == platform.python_version()
    assert found["packages"]["numpy"] == np.__version__
    assert found["packages"] == {name: metadata.version(name) for name in found["packages"]}
    assert set(found["packages"]) <= set(PACKAGES) and "embedkit" in found["packages"]


def test_a_package_that_is_not_installed_has_no_version():
    assert package_version("embedkit-of-nowhere") is None


def test_everything_is_plain_json():
    found = environment()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert set(found) == {"python", "packages", "processor", "threads", "device", "commit"}


def test_nobody_and_no_place_is_named():
    text = json.dumps(environment())
    assert not {socket.gethostname().lower(), os.environ.get("USER", "-").lower()} & set(re.findall(r"[\w.-]+", text.lower()))
    assert str(Path.home()) not in text and os.getcwd() not in text


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_threads_are_those_this_process_may_use():
    one = min(os.sched_getaffinity(0))
    found, _ = told_by_a_child(f"import os; os.sched_setaffinity(0, {{{one}}})\n{TELL}")
    assert found["threads"] == 1
    assert environment()["threads"] == len(os.sched_getaffinity(0))


def test_asking_imports_no_tensorflow_and_a_process_without_it_computes_on_the_processor():
    found, imported = told_by_a_child()
    assert found["device"] == "cpu" and not imported
    assert found["processor"].strip()


def test_the_commit_is_that_of_the_checkout_and_says_when_it_was_changed(tmp_path):
    folder = tmp_path / "checkout"
    shutil.copytree(Path(embedkit.__file__).parent, folder / "embedkit", ignore=shutil.ignore_patterns("__pycache__"))
    here = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    assert told_by_a_child(env=here, cwd=tmp_path)[0]["commit"] is None  # a copy without history

    def git(*words):
        who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        return subprocess.run(["git", "-C", folder, *who, *words], capture_output=True, text=True, check=True).stdout.strip()

    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "all")
    git("tag", "v1")  # a tag's name says less than the commit
    assert told_by_a_child(env=here, cwd=tmp_path)[0]["commit"] == git("rev-parse", "HEAD")
    with (folder / "embedkit" / "settings.py").open("a") as file:
        file.write("\n# changed\n")
    assert told_by_a_child(env=here, cwd=tmp_path)[0]["commit"] == git("rev-parse", "HEAD") + "-dirty"


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_the_peak_of_memory_is_measured_from_the_last_reset():
    size = 200_000_000
    reset_peak_memory()
    before = peak_memory_bytes()
    block = np.ones(size, np.uint8)
    assert block.sum(dtype=np.int64) == size
    during = peak_memory_bytes()
    assert during - before > 0.9 * size
    del block
    assert peak_memory_bytes() - before > 0.9 * size  # a peak stays
    reset_peak_memory()
    assert peak_memory_bytes() < during - 0.9 * size
