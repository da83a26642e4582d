"""The README's own commands and programs run, as they are written there."""

import os
import re
import subprocess
from pathlib import Path

import pytest
from conftest import SHARED

README = (Path(__file__).parents[1] / "README.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def slowly(block):
    """A block as a test, which is slow where a network of real size learns or is read."""
    learns = any(command in block for command in ("fine-tune", "distil", "train-head", "learn-categories", "import-encoder"))
    return pytest.param(block, marks=pytest.mark.slow if learns else (), id=block.split("embedkit ")[-1].split()[0])


def run(block, folder):
    """A block in a shell, and what it printed."""
    networks = {
        "MINILM": str(SHARED / "models/all-MiniLM-L6-v2"),
        "MOBILENET": str(SHARED / "models/imagenet/mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.35_224_no_top.h5"),
    }
    command = ["bash", "-euo", "pipefail", "-c", block]
    done = subprocess.run(command, cwd=folder, env=os.environ | networks, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.shared
@pytest.mark.parametrize("block", [slowly(block) for block in blocks("sh") if "pip install" not in block])
def test_every_shell_block_runs(block, tmp_path):
    done = run(block, tmp_path)
    if "distil" in block:
        assert re.search("^export/minilm-layers-sentence-transformers@", done.stdout, re.MULTILINE) and "twin" in done.stdout
    elif "learn-categories" in block:
        assert "\tshop 2\n" in done.stdout and re.search("^report/shops-categories@", done.stdout, re.MULTILINE)
    elif "compare" in block:
        assert re.search("^report/films-minilm@", done.stdout, re.MULTILINE) and "good\t" in done.stdout
    elif "--previous" in block:
        assert re.search("^vectors/many-minilm@", done.stdout, re.MULTILINE)
    elif "search" in block:
        assert "a truly fine film number" in done.stdout and "artifacts are as published" in done.stdout
    else:
        assert "block_12_add" in done.stdout and "encoder/mobilenetv2-0.35-block_12_add@" in done.stdout


@pytest.mark.shared
@pytest.mark.slow
def test_the_shell_blocks_run_one_after_the_other_in_one_root(tmp_path):
    for block in blocks("sh"):
        if "pip install" not in block:
            run(block, tmp_path)


def test_the_installing_blocks_are_what_ci_runs():
    ci = (Path(__file__).parents[1] / ".ci/run").read_text()
    installing = [block.strip() for block in blocks("sh") if "pip install" in block]
    assert installing == ["pip install -e . && embedkit quickstart", "pip install -e '.[dev]' && pytest"]
    assert "pip install -q -e '.[dev]' && pytest" in ci and "embedkit quickstart" in ci


@pytest.mark.slow
def test_the_python_of_the_first_screen_runs(photos, capsys):
    program = next(block for block in blocks("python") if "pretrain_autoencoder(pictures)" in block)
    exec(compile(program, "README.md", "exec"), {})
    assert "classifier/photos-pca@" in capsys.readouterr().out


def test_the_readmes_flow_runs_with_no_server(reviews, tiny_bert):
    import embedkit

    program = next(block for block in blocks("python") if "def text_search" in block)
    names = {"__name__": "readme"}
    exec(compile(program, "README.md", "exec"), names)
    index = names["text_search"].fn(embedkit.load_texts(str(reviews)), embedkit.import_encoder(str(tiny_bert)))
    assert index.manifest.kind == "index"


def test_the_readmes_stage_keeps_the_promises_of_a_stage(reviews, tiny_bert, tmp_path, monkeypatch):
    import embedkit

    (tmp_path / "lengths.py").write_text(next(block for block in blocks("python") if "class MeasureLengths" in block))
    monkeypatch.syspath_prepend(tmp_path)
    from lengths import measure_lengths  # pyright: ignore[reportMissingImports]

    vectors = embedkit.embed(embedkit.load_texts(str(reviews)), embedkit.import_encoder(str(tiny_bert)))
    made = measure_lengths(vectors)
    assert made == measure_lengths(vectors)
    assert abs(made.manifest.metrics["length"].value - 1) < 1e-6


def test_the_file_tree_names_every_module():
    tree = README.partition("## The files")[2].partition("flows/")[0]
    named = set(re.findall(r"^  (\w+\.py)", tree, re.MULTILINE))
    there = {path.name for path in (Path(__file__).parents[1] / "embedkit").glob("*.py") if not path.name.startswith("__")}
    assert named == there
