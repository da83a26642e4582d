"""A locale decides nothing: a process with another one writes the same bytes under the same fingerprint."""

import hashlib
import os
import shutil
import subprocess
import sys

import pytest
from PIL import Image

LOAD = """
import sys
from pathlib import Path
from embedkit import load_images, load_table, load_texts
from embedkit.datasets import LoadTable
for made in (load_table("rows.csv", LoadTable(label_column="größe")), load_texts("rows.jsonl"), load_images("photos")):
    print(made.manifest.fingerprint, made.path)
"""


@pytest.fixture(scope="module")
def latin(tmp_path_factory):
    """A folder with a locale whose encoding is Latin-1, as few machines have one."""
    folder = tmp_path_factory.mktemp("locales")
    if not shutil.which("localedef"):
        pytest.skip("needs localedef")
    made = subprocess.run(["localedef", "-i", "en_US", "-f", "ISO-8859-1", folder / "en_US.ISO-8859-1"], capture_output=True)
    if not (folder / "en_US.ISO-8859-1").exists():
        pytest.skip(f"localedef made no locale: {made.stderr.decode(errors='replace')[-200:]}")
    return folder


def loaded(tmp_path, root, **environment):
    """The fingerprints of three datasets, and the checksums of their files by kind and name."""
    script = tmp_path / "load.py"
    script.write_text(LOAD, encoding="utf-8")
    given = os.environ | {"EMBEDKIT_ARTIFACTS": str(tmp_path / root), "PYTHONCOERCECLOCALE": "0"} | environment
    done = subprocess.run([sys.executable, script], capture_output=True, cwd=tmp_path, env=given)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    files = [path for path in (tmp_path / root).rglob("*") if path.is_file() and path.name != "manifest.json"]
    # a version's name holds the time
    sums = {(path.parts[-4], path.name): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    return [line.split(" ")[0] for line in done.stdout.decode().splitlines()], sums


@pytest.fixture
def sources(tmp_path):
    """A table, texts and pictures whose names, columns and values are not ASCII."""
    (tmp_path / "rows.csv").write_text("größe,naïve\n" + "".join(f"{n % 3},été {n % 7}\n" for n in range(60)), encoding="utf-8")
    rows = "".join(f'{{"text": "日本 {n}", "label": "ж{n % 2}"}}\n' for n in range(20))
    (tmp_path / "rows.jsonl").write_text(rows + '{"broken\n', encoding="utf-8")
    for name in ("été/ä.png", "zoo/é.png", "zoo/z.png"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (len(name), 0, 0)).save(path)
    return tmp_path


def test_a_locale_without_letters_changes_no_byte(sources):
    usual = loaded(sources, "usual", PYTHONUTF8="1")
    assert loaded(sources, "plain", LC_ALL="C", PYTHONUTF8="0") == usual


@pytest.mark.slow
def test_a_latin_locale_changes_no_byte(sources, latin):
    usual = loaded(sources, "usual", PYTHONUTF8="1")
    assert loaded(sources, "latin", LC_ALL="en_US.ISO-8859-1", LOCPATH=str(latin), PYTHONUTF8="0") == usual
