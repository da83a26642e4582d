"""Every deployment that `embedkit ui` serves, started once through the server's API with real input, ends in its artifact.

A job of `batch_embed` is killed in each of its processes; nothing of it is left.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
import uuid

import pytest
from conftest import SHARED
from ui import Ui, clean_environment, gone, marked

from embedkit.artifacts import Artifact

pytestmark = [pytest.mark.slow, pytest.mark.shared, pytest.mark.prefect, pytest.mark.filterwarnings("default")]

NEWS = {"source": str(SHARED / "data/ag_news/train.csv")}
NAMED = {"column_names": ["text", "label"]}
SHORT = {"epochs": 2, "preflight": False}
BRIEF = {"steps": 10, "training": {"preflight": False}}
CATEGORIES = {"folds": 2, "training": {"epochs": 2, "preflight": False}}
RUNS = [
    ("load-images", {"source": "builtin:digits", "settings": {"files": {"limit": 400}}}, "images/digits"),
    ("load-texts", NEWS | {"name": "news", "settings": {"files": NAMED | {"limit": 2000}}}, "texts/news"),
    ("load-texts", NEWS | {"name": "few", "settings": {"files": NAMED | {"limit": 240}}}, "texts/few"),
    (
        "load-table",
        {"source": "builtin:symbols", "settings": {"label_column": "documented", "files": {"limit": 600}}},
        "table/symbols",
    ),
    ("import-encoder", {"source": str(SHARED / "models/all-MiniLM-L6-v2"), "name": "minilm"}, "encoder/minilm"),
    ("make-control", {"dataset": "images/digits", "settings": {"control": "pca"}}, "encoder/digits-pca"),
    ("pretrain-autoencoder", {"dataset": "images/digits", "settings": {"training": SHORT}}, "encoder/digits-autoencoder"),
    ("learn-categories", {"dataset": "table/symbols", "settings": CATEGORIES}, "encoder/symbols-categories"),
    (
        "cut-encoder",
        {"encoder": "encoder/minilm", "name": "cut", "settings": {"layer": "transformer_layer_2", "pooling": "mean"}},
        "encoder/cut",
    ),
    ("embed", {"dataset": "texts/few", "encoder": "encoder/minilm"}, "vectors/few-minilm"),
    ("train-head", {"vectors": "vectors/few-minilm"}, "classifier/few-minilm"),
    ("build-index", {"vectors": "vectors/few-minilm"}, "index/few-minilm"),
    (
        "fine-tune",
        {"dataset": "texts/few", "encoder": "encoder/minilm", "name": "tuned", "settings": {"training": {**SHORT, "epochs": 1}}},
        "classifier/tuned",
    ),
    ("mask-texts", {"texts": "texts/few", "settings": {"copies": 1}}, "texts/few-masked"),
    (
        "distil",
        {"teacher": "encoder/minilm", "dataset": "texts/few", "name": "small", "settings": BRIEF | {"layers": 2}},
        "encoder/small",
    ),
    (
        "compare",
        {
            "dataset": "texts/few",
            "encoder": "encoder/minilm",
            "settings": {"arms": ["raw", "linear"], "budgets": [10], "seeds": 1, "rows_a_run": 64},
        },
        "report/few-minilm",
    ),
    (
        "compare-students",
        {
            "teacher": "encoder/minilm",
            "dataset": "texts/few",
            "name": "students",
            "settings": {"students": ["static"], "distil": BRIEF, "timed_rows": 16},
        },
        "report/students",
    ),
    (
        "compare-categories",
        {"dataset": "table/symbols", "name": "worth", "settings": CATEGORIES | {"seeds": 1, "rounds": 10}},
        "report/worth",
    ),
    ("export", {"artifact": "encoder/minilm"}, "export/minilm-sentence-transformers"),
    ("pipeline", {"load": {"files": {"limit": 400}}, "autoencoder": {"training": SHORT}}, "classifier/digits-autoencoder"),
]


@pytest.fixture(scope="module")
def ui(tmp_path_factory):
    """The command, whose runs may read the shared data."""
    started = Ui(tmp_path_factory.mktemp("deployments"), "--allow", str(SHARED))
    yield started
    started.stop()
    assert gone(started.mark) == {}


@pytest.mark.parametrize(("flow", "parameters", "made"), RUNS, ids=[made for *_, made in RUNS])
def test_a_deployment_that_is_started_through_the_api_ends_in_its_artifact(ui, flow, parameters, made):
    assert ui.end(ui.start(flow, **parameters)) == ("COMPLETED", "")
    Artifact.open(made, ui.root).check()


def test_every_deployment_was_started(ui):
    assert {flow for flow, *_ in RUNS} | {"batch-embed"} == set(ui.deployments())


def parts(root):
    return [*root.glob(".drafts/*/work/receipts/*.json")]


def workers(mark):
    """The processes of the pool that makes parts."""
    return [number for number, command in marked(mark).items() if "spawn_main" in command]


def wait_for(ready, seconds=300):
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_batch_embed_from_the_ui_ends_though_one_of_its_processes_is_killed(ui):
    batch = {"dataset": "texts/news", "encoder": "encoder/minilm", "settings": {"rows_per_part": 100}, "workers": {"count": 2}}
    run = ui.start("batch-embed", **batch)
    wait_for(lambda: len(parts(ui.root)) >= 3 and len(workers(ui.mark)) >= 2)
    os.kill(workers(ui.mark)[0], signal.SIGKILL)
    assert ui.end(run) == ("COMPLETED", "")
    assert Artifact.open("vectors/news-minilm", ui.root).check().manifest.rows == 2000
    wait_for(lambda: not workers(ui.mark), 60)


def test_the_processes_of_a_run_that_is_killed_end_with_it(ui):
    shutil.rmtree(ui.root / "vectors/news-minilm", ignore_errors=True)
    settings = {"rows_per_part": 100, "limit": 1900}
    run = ui.start("batch-embed", dataset="texts/news", encoder="encoder/minilm", settings=settings, workers={"count": 2})
    wait_for(lambda: len(parts(ui.root)) >= 1 and len(workers(ui.mark)) >= 2)
    (engine,) = [number for number, command in marked(ui.mark).items() if "prefect.engine" in command]
    os.kill(engine, signal.SIGKILL)
    wait_for(lambda: not workers(ui.mark), 60)
    assert ui.end(run, 120)[0] == "CRASHED"
    made = ui.end(ui.start("batch-embed", dataset="texts/news", encoder="encoder/minilm", settings=settings, workers={"count": 2}))
    assert made == ("COMPLETED", "")


# With no server

ALONE = """
import sys
from embedkit import Embed
from flows.batch_embed import Workers, batch_embed

if __name__ == "__main__":
    settings = Embed(engine="keras", precision="float32", rows_per_part=50)  # a choice between engines would take minutes
    made = batch_embed("texts/news", "encoder/minilm", settings, Workers(count=2), root=sys.argv[1], name="alone")
    print(made)
"""


@pytest.fixture
def alone(ui, tmp_path):
    """Starts a job in a process with no server, its output in a pipe; gives the process and its mark."""
    root, started = tmp_path / "root", []
    for made in ("texts/news", "encoder/minilm"):
        shutil.copytree(ui.root / made, root / made)

    def start():
        mark = uuid.uuid4().hex
        (tmp_path / "script.py").write_text(ALONE)
        environment = clean_environment(mark, PREFECT_HOME=str(tmp_path / "prefect"))
        command = [sys.executable, str(tmp_path / "script.py"), str(root)]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        started.append(process)
        wait_for(lambda: (len(parts(root)) >= 1 and len(workers(mark)) >= 2) or process.poll() is not None)
        assert process.poll() is None, process.stdout.read().decode()
        return process, mark

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize("whom", ["the call itself", "a worker", "the server", "nothing"])
def test_a_job_with_no_server_leaves_nothing_behind_whatever_of_it_is_killed(alone, whom):
    process, mark = alone()
    found = {
        "the call itself": [process.pid],
        "a worker": workers(mark)[:1],
        "the server": [number for number, command in marked(mark).items() if "flows.server" in command],
        "nothing": [],
    }[whom]
    assert whom == "nothing" or len(found) == 1
    assert not any("create_app" in command for command in marked(mark).values())  # a server that Prefect starts by itself
    for number in found:
        os.kill(number, signal.SIGKILL)
    text, _ = process.communicate(timeout=240)  # the pipe closes: nobody holds it
    if whom in ("a worker", "nothing"):
        assert process.returncode == 0 and b"vectors/alone@" in text, text[-3000:]
    else:
        assert process.returncode != 0
    assert gone(mark) == {}
