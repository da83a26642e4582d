"""Attacks on drafts: what an interrupted call left is damaged, file by file, and the same call ends with the bytes it would have.

A call is interrupted when it is about to publish, so that its draft holds all that it ever will. Each attack takes a fresh copy of
that draft, damages one file of it in one way, and makes the call again.
"""

import json
import shutil

import numpy as np
import pytest
from conftest import WORDS, write_pictures
from test_categories import FAST, PLAIN, sales

from embedkit import (
    Compare,
    FineTune,
    LoadImages,
    LoadTable,
    LoadTexts,
    MakeControl,
    TrainHead,
    Training,
    compare,
    fine_tune,
    import_encoder,
    learn_categories,
    load_images,
    load_table,
    load_texts,
    make_control,
    stages,
)
from embedkit.artifacts import DRAFTS, root_at

pytestmark = pytest.mark.slow

QUICK = Training(epochs=2, batch_size=16, preflight=False)


def flipped(path):
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGES = {"flipped": flipped, "cut": cut, "lost": lambda path: path.unlink()}


class Interrupted(Exception):
    """What stops a call."""


def interrupted(call, monkeypatch):
    """Make a call that stops when it is about to publish."""

    def stop(*_):
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(stages, "_publish", stop)
        with pytest.raises(Interrupted):
            call()


def contents(artifact):
    timed = artifact.manifest.kind == "report"  # of which only the predictions hold no time
    files = (file for file in artifact.manifest.files if not timed or file.path.startswith("predictions/"))
    return {file.path: file.sha256 for file in files}


def attacked(call, monkeypatch, capsys, at_once=False):
    """Damage a draft in every way; all files of `work` at once where a call takes long."""
    expected = call()
    good = contents(expected)
    shutil.rmtree(expected.path)
    interrupted(call, monkeypatch)
    drafts = root_at(None) / DRAFTS
    (draft,) = (path for path in drafts.iterdir() if path.is_dir())
    whole = drafts.parent.parent / "whole"
    shutil.copytree(draft, whole)
    paths = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file())
    groups = [[path for path in paths if path.parts[0] == "work"]] if at_once else [[path] for path in paths]
    tried = held = 0
    for group in groups:
        for damage in DAMAGES.values():
            shutil.rmtree(draft, ignore_errors=True)
            shutil.copytree(whole, draft)
            for path in group:
                damage(draft / path)
            made = call()
            tried += 1
            held += contents(made) == good and made.problems() == []
            shutil.rmtree(made.path)
    shutil.rmtree(whole)
    with capsys.disabled():
        print(f"\n{made.manifest.stage}: {len(paths)} files, tried {tried}, held {held}")
    assert held == tried > 2
    return paths


def test_a_load_of_texts(reviews, monkeypatch, capsys):
    paths = attacked(lambda: load_texts(reviews, LoadTexts(rows_per_part=50)), monkeypatch, capsys)
    assert len([path for path in paths if "rows-" in path.name and path.suffix == ".parquet"]) == 3


def test_a_load_of_a_table_with_decided_columns(tmp_path, monkeypatch, capsys):
    (tmp_path / "rows.csv").write_text("x,word,y\n" + "".join(f"{n / 4},{'abc'[n % 3]},{n % 2}\n" for n in range(90)))
    attacked(lambda: load_table(tmp_path / "rows.csv", LoadTable(rows_per_part=40, label_column="y")), monkeypatch, capsys)


def test_a_load_of_pictures(photos, monkeypatch, capsys):
    attacked(lambda: load_images(photos, LoadImages(rows_per_part=25)), monkeypatch, capsys)


def test_a_control_of_pictures(photos, monkeypatch, capsys):
    pictures = load_images(photos)
    paths = attacked(lambda: make_control(pictures, MakeControl(control="pca")), monkeypatch, capsys, at_once=True)
    assert any(path.name == "pixels.npy" for path in paths)


@pytest.fixture
def films(tmp_path):
    random = np.random.default_rng(0)
    lines = [f"{' '.join(random.choice(WORDS, 5))} {number},{'pos' if number % 2 else 'neg'}" for number in range(100)]
    (tmp_path / "films.csv").write_text("text,label\n" + "\n".join(lines) + "\n")
    return load_texts(tmp_path / "films.csv")


def test_a_fine_tuned_classifier_of_texts(films, tiny_bert, monkeypatch, capsys):
    encoder, settings = import_encoder(tiny_bert), FineTune(recipe="lp-ft", training=QUICK)
    paths = attacked(lambda: fine_tune(films, encoder, settings), monkeypatch, capsys, at_once=True)
    assert any(path.name == "vectors.npy" for path in paths) and any(path.suffix == ".checkpoint" for path in paths)


def test_a_fine_tuned_classifier_of_pictures(normed_network, tmp_path, monkeypatch, capsys):
    pictures = load_images(write_pictures(tmp_path / "p.parquet"), LoadImages(split_column="split", label_column="red"))
    encoder = import_encoder(normed_network)
    paths = attacked(lambda: fine_tune(pictures, encoder, FineTune(recipe="full", training=QUICK)), monkeypatch, capsys, True)
    assert any(path.name.startswith("pixels-") for path in paths)


def test_a_comparison(films, tiny_bert, monkeypatch, capsys):
    settings = Compare(
        arms=("knn", "random", "lp_ft"),
        seeds=1,
        budgets=(),
        rows_a_run=64,
        layers=("auto",),
        head=TrainHead(training=Training(epochs=3, preflight=False)),
        fine_tune=FineTune(training=Training(batch_size=16, preflight=False)),
    )
    encoder = import_encoder(tiny_bert)
    paths = attacked(lambda: compare(films, encoder, settings), monkeypatch, capsys, at_once=True)
    assert {"frozen.npy", "random-0.npy", "layers.npy"} <= {path.name for path in paths}


def test_learned_categories(tmp_path, monkeypatch, capsys):
    (tmp_path / "sales.jsonl").write_text("".join(json.dumps(row) + "\n" for row in sales(200)))
    table = load_table(tmp_path / "sales.jsonl", LoadTable(split_column="split"))
    settings = PLAIN.model_copy(update={"folds": 2, "training": FAST.model_copy(update={"batch_size": 16, "epochs": 2})})
    paths = attacked(lambda: learn_categories(table, settings), monkeypatch, capsys, at_once=True)
    assert any(path.name == "fold-0.npz" and path.parts[0] == "work" for path in paths)
