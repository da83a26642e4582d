"""Hub names with no network, Parquet files, and a whole hub on this machine that speaks Hugging Face's protocol.

The hub is a small HTTP server over folders of files; the process that loads from it runs the real `datasets` and
`huggingface_hub` libraries. A test marked `network` does the same with the real hub.
"""

import hashlib
import io
import json
import os
import subprocess
import sys
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from embedkit import hubs, networks
from embedkit.datasets import LoadImages, load_images, load_table, load_texts
from embedkit.settings import UserError
from embedkit.sources import Source

COMMIT = "1234567890" * 4
COLOURS = ("red", "green", "blue", "white", "black", "gray")


def picture(colour):
    data = io.BytesIO()
    Image.new("RGB", (5, 4), colour).save(data, "PNG")
    return data.getvalue()


class Hub(BaseHTTPRequestHandler):
    """The parts of Hugging Face's HTTP API that reading a repository needs; `root/datasets/OWNER/NAME/...` are files."""

    protocol_version = "HTTP/1.1"
    root = Path()

    def log_message(self, *arguments):
        pass

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, code):
        self.answer(404, b"{}", X_Error_Code=code, X_Error_Message=code)

    def do_POST(self):
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.do_GET()

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        parts = urllib.parse.unquote(urllib.parse.urlparse(self.path).path).strip("/").split("/")
        if parts[0] == "api" and len(parts) > 3:
            self.describe(parts[1], "/".join(parts[2:4]), parts[4:])
        elif "resolve" in parts:
            at = parts.index("resolve")
            kind = "datasets" if parts[0] == "datasets" else "models"
            self.file(self.root / kind / "/".join(parts[at - 2 : at]) / "/".join(parts[at + 2 :]))
        else:
            self.refuse("EntryNotFound")

    def describe(self, kind, name, rest):
        folder = self.root / kind / name
        if not folder.is_dir():
            return self.refuse("RepoNotFound")
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
        verb, revision, *under = rest or ["revision", "main"]
        if revision not in ("main", COMMIT):
            return self.refuse("RevisionNotFound")
        if verb == "revision":
            facts = {"_id": "1", "id": name, "sha": COMMIT, "private": False, "tags": [], "downloads": 0, "likes": 0}
            facts |= {"lastModified": "2024-01-01T00:00:00.000Z", "siblings": [{"rfilename": file} for file in files]}
            return self.answer(200, json.dumps(facts).encode(), Content_Type="application/json")
        if verb == "paths-info":
            wanted = urllib.parse.parse_qs(self.body.decode()).get("paths") or json.loads(self.body)["paths"]
        else:
            prefix, depth = "/".join(under), len(under) + 1
            inside = [file for file in files if file.startswith(prefix)]
            whole = "recursive=true" in self.path.lower()
            folders = {"/".join(file.split("/")[:end]) for file in inside for end in range(depth, file.count("/") + 1)}
            wanted = [path for path in [*sorted(folders), *inside] if whole or path.count("/") == depth - 1]
            if not wanted and prefix:
                return self.refuse("EntryNotFound")
        entries = []
        for path in wanted:
            if path in files:
                oid = hashlib.sha1(files[path]).hexdigest()
                entries.append({"type": "file", "path": path, "size": len(files[path]), "oid": oid})
            elif any(file.startswith(path + "/") for file in files):
                entries.append({"type": "directory", "path": path, "size": 0, "oid": "0" * 40})
        return self.answer(200, json.dumps(entries).encode(), Content_Type="application/json")

    def file(self, path):
        if not path.is_file():
            return self.refuse("EntryNotFound")
        data = path.read_bytes()
        common = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X_Repo_Commit": COMMIT, "Accept_Ranges": "bytes"}
        asked = self.headers.get("Range")
        if asked and self.command == "GET":
            first, _, last = asked.partition("=")[2].partition("-")
            start, stop = int(first), min(int(last or len(data)), len(data) - 1) + 1
            return self.answer(206, data[start:stop], Content_Range=f"bytes {start}-{stop - 1}/{len(data)}", **common)
        return self.answer(200, data, **common)


CLIENT = """
import json, sys
from embedkit import hubs
from embedkit.datasets import LoadTexts, load_images, load_texts, read_contents, read_rows
from embedkit.readers import ReadFiles

def facts(dataset):
    rows = read_rows(dataset)
    texts = read_contents(dataset, 0, dataset.manifest.rows).to_pydict().get("text")
    label = rows["label"].to_pylist() if "label" in rows.column_names else None
    return {"split": rows["split"].to_pylist(), "label": label, "text": texts, "source": dataset.manifest.source}

calls = {
    "texts": lambda: facts(load_texts("hf://tiny/texts")),
    "limited": lambda: facts(load_texts("hf://tiny/texts", LoadTexts(files=ReadFiles(limit=2)))),
    "at main": lambda: facts(load_texts("hf://tiny/texts@main")),
    "at nowhere": lambda: facts(load_texts("hf://tiny/texts@nowhere")),
    "no subset": lambda: facts(load_texts("hf://tiny/many")),
    "wrong subset": lambda: facts(load_texts("hf://tiny/many", LoadTexts(files=ReadFiles(subset="secnd")))),
    "subset": lambda: facts(load_texts("hf://tiny/many", LoadTexts(files=ReadFiles(subset="second")))),
    "matched": lambda: facts(load_texts("hf://tiny/matched", LoadTexts(validation_share=0, test_share=0))),
    "pictures": lambda: facts(load_images("hf://tiny/pictures")),
    "parquet": lambda: facts(load_images("hf://tiny/parquet")),
    "unknown": lambda: facts(load_texts("hf://tiny/unknown")),
    "network as data": lambda: facts(load_texts("hf://tiny/network")),
    "script": lambda: facts(load_texts("hf://tiny/script")),
    "empty": lambda: facts(load_texts("hf://tiny/empty")),
    "network": lambda: sorted(path.name for path in hubs.snapshot("tiny/network").iterdir()),
    "data as network": lambda: str(hubs.snapshot("tiny/texts")),
    "content": lambda: [hubs.content("hf", "tiny/texts"), hubs.content("hf", "tiny/network")],
}
answers = {}
for name, call in calls.items():
    try:
        answers[name] = call()
    except Exception as error:
        answers[name] = {"error": type(error).__name__, "message": str(error)}
print("ANSWERS " + json.dumps(answers))
"""


def on_the_hub(root):
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    images = [{"bytes": picture(colour), "path": f"{colour}.png"} for colour in COLOURS]
    table = datasets.Dataset.from_dict({"image": images, "label": [0, 1, 0, 1, 0, -1]}, features=features)
    parquet = io.BytesIO()
    table.to_parquet(parquet)
    many = "configs:\n- config_name: first\n  data_files: a.csv\n- config_name: second\n  data_files: b.csv\n"
    matched = "configs:\n- config_name: default\n  data_files:\n  - {split: train, path: a.csv}\n"
    matched += "  - {split: validation_matched, path: b.csv}\n  - {split: test_mismatched, path: c.csv}\n"
    files = {
        "datasets/tiny/texts/train.csv": "text,label\n" + "".join(f"train {n},{n % 2}\n" for n in range(30)),
        "datasets/tiny/texts/test.csv": "text,label\n" + "".join(f"test {n},{n % 2}\n" for n in range(10)),
        "datasets/tiny/many/README.md": f"---\n{many}---\n",
        "datasets/tiny/many/a.csv": "text\nfirst\n",
        "datasets/tiny/many/b.csv": "text\nsecond\n",
        "datasets/tiny/matched/README.md": f"---\n{matched}---\n",
        "datasets/tiny/matched/a.csv": "text\na\nb\n",
        "datasets/tiny/matched/b.csv": "text\nc\n",
        "datasets/tiny/matched/c.csv": "text\nd\n",
        "datasets/tiny/parquet/data/train-00000-of-00001.parquet": parquet.getvalue(),
        "datasets/tiny/script/script.py": "raise SystemExit('code from a hub was run')",
        "datasets/tiny/empty/README.md": "nothing here",
        **{f"datasets/tiny/pictures/train/{colour}/1.png": picture(colour) for colour in COLOURS[:4]},
        **{f"datasets/tiny/pictures/test/{colour}/1.png": picture(colour) for colour in COLOURS[3:]},
        **{f"models/tiny/network/{name}": "{}" for name in ("config.json", "model.safetensors", "pytorch_model.bin", "code.py")},
    }
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data if isinstance(data, bytes) else data.encode())


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """What each call of CLIENT came to, in a process whose hub is this machine."""
    folder = tmp_path_factory.mktemp("hub")
    on_the_hub(folder / "repositories")
    Hub.root = folder / "repositories"
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    here = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HUB_OFFLINE": "0", "HF_HOME": str(folder / "home")}
    here |= {"EMBEDKIT_ARTIFACTS": str(folder / "artifacts"), "no_proxy": "127.0.0.1", "HF_TOKEN": ""}
    try:
        done = subprocess.run([sys.executable, "-c", CLIENT], env=os.environ | here, capture_output=True, text=True)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert "ANSWERS " in done.stdout, done.stderr[-3000:]
    return json.loads(done.stdout.partition("ANSWERS ")[2])


def test_a_dataset_of_a_hub_keeps_its_splits_and_its_order(answers):
    found = answers["texts"]
    assert found["text"] == [f"train {n}" for n in range(30)] + [f"test {n}" for n in range(10)]
    assert found["label"] == ["0", "1"] * 20
    assert found["split"][30:] == ["test"] * 10 and set(found["split"][:30]) == {"train", "validation"}
    assert found["source"]["text"] == "hf://tiny/texts"


def test_a_limit_holds_for_each_split_of_a_hub(answers):
    assert answers["limited"]["text"] == ["train 0", "train 1", "test 0", "test 1"]


def test_a_revision_can_be_named(answers):
    assert answers["at main"]["text"] == answers["texts"]["text"]
    assert answers["at nowhere"] == {
        "error": "UserError",
        "message": "hf://tiny/texts@nowhere is not on the hub, or is private and no token is set; "
        "check its owner/name and revision",
    }


@pytest.mark.parametrize(
    ("call", "name"), [("unknown", "tiny/unknown"), ("network as data", "tiny/network"), ("data as network", "tiny/texts")]
)
def test_what_is_not_on_the_hub_is_one_sentence(answers, call, name):
    message = f"hf://{name} is not on the hub, or is private and no token is set; check its owner/name and revision"
    assert answers[call] == {"error": "UserError", "message": message}


def test_a_dataset_of_several_subsets_asks_for_one_of_them(answers):
    assert answers["subset"]["text"] == ["second"]
    missing, wrong = answers["no subset"], answers["wrong subset"]
    assert missing["error"] == wrong["error"] == "UserError"
    assert "first, second" in missing["message"] and "files.subset" in missing["message"]
    assert wrong["message"].startswith("subset of hf://tiny/many 'secnd' is not known; did you mean 'second'?")


def test_rows_of_a_split_with_a_longer_name_are_never_trained_on(answers):
    found = answers["matched"]
    if "error" in found:  # refusing such a split by name would be right too
        assert found["error"] == "UserError" and "matched" in found["message"]
    else:
        train = {text for text, split in zip(found["text"], found["split"], strict=True) if split == "train"}
        assert train == {"a", "b"}


def test_pictures_that_lie_on_a_hub_as_files_are_fetched(answers):
    found = answers["pictures"]
    assert "error" not in found, found
    assert found["label"] == ["blue", "green", "red", "white", "black", "gray", "white"]
    assert found["split"][4:] == ["test", "test", "train"]  # the white test picture is a copy of a training picture


def test_pictures_of_a_hubs_parquet_keep_their_class_names(answers):
    assert answers["parquet"]["label"] == ["cat", "dog", "cat", "dog", "cat", None]


def test_code_from_a_hub_is_never_run(answers):
    assert answers["script"]["error"] == "UserError"
    assert "code.py" not in answers["network"]


@pytest.mark.parametrize("call", ["script", "empty"])
def test_a_repository_that_holds_no_rows_is_not_blamed_on_the_network(answers, call):
    assert answers[call]["error"] == "UserError"
    assert "no network" not in answers[call]["message"]


def test_a_network_comes_without_pickles_and_code(answers):
    assert answers["network"] == ["config.json", "model.safetensors"]


def test_a_name_stands_for_a_commit(answers):
    data, network = answers["content"]
    assert data == f"tiny/texts {{'model': None, 'dataset': '{COMMIT}'}}"
    assert network == f"tiny/network {{'model': '{COMMIT}', 'dataset': None}}"


OFFLINE = r"hf://nobody/nothing could not be reached \(\w+: no network\?\); .*give the local folder or file instead of the name"


@pytest.mark.parametrize("load", [load_images, load_texts, load_table])
def test_with_no_network_a_dataset_of_a_hub_is_refused_in_one_sentence(load):
    with pytest.raises(UserError, match=OFFLINE):
        load("hf://nobody/nothing")


def test_with_no_network_a_network_of_a_hub_is_refused_in_one_sentence():
    with pytest.raises(UserError, match=OFFLINE):
        hubs.snapshot("nobody/nothing")
    with pytest.raises(UserError, match=OFFLINE):
        list(hubs.splits("nobody/nothing", None))


def test_a_network_of_kaggle_without_a_version_is_the_newest_that_was_found(tmp_path, monkeypatch):
    import kagglehub

    newest, asked = iter((3, 4)), []

    def download(handle, path):
        asked.append((handle, path))
        return str(tmp_path / "models" / handle / str(next(newest)) / path)

    monkeypatch.setattr(kagglehub, "model_download", download)
    loaded = []
    monkeypatch.setattr(networks, "_preset", loaded.append)
    hubs.kaggle_handle.cache_clear()
    source = Source("kaggle://keras/bert/keras/tiny")
    assert source.known()["with"] == "keras/bert/keras/tiny/3"
    networks.load(source, None, None, None, "0..255")
    assert loaded == ["kaggle://keras/bert/keras/tiny/3"] and asked == [("keras/bert/keras/tiny", "config.json")]
    first = source.content()
    hubs.kaggle_handle.cache_clear()  # as another process, after a new version came
    assert source.content() != first and source.known()["with"] == "keras/bert/keras/tiny/4"


def test_with_no_network_a_network_of_kaggle_without_a_version_is_refused_in_one_sentence(monkeypatch):
    import kagglehub

    def fail(*given):
        raise ConnectionError

    monkeypatch.setattr(kagglehub, "model_download", fail)
    hubs.kaggle_handle.cache_clear()
    with pytest.raises(UserError, match=r"kaggle://keras/bert/keras/tiny could not be reached \(ConnectionError: no network\?\)"):
        hubs.content("kaggle", "keras/bert/keras/tiny")


def test_what_the_other_hubs_names_stand_for_needs_no_network():
    assert hubs.content("kaggle", "keras/bert/keras/tiny/2") == "keras/bert/keras/tiny/2"
    assert hubs.content("keras", "bert_tiny") == f"bert_tiny {hubs.package_version('keras-hub')}"
    assert hubs.content("applications", "MobileNet") == f"MobileNet {hubs.package_version('keras')}"


@pytest.fixture
def parquet(tmp_path):
    """Write columns, with the `datasets` library where features are given, and read them back as rows."""

    def write_and_read(columns, features=None, name="data.parquet"):
        path = tmp_path / name
        if features is None:
            pq.write_table(pa.table(columns), path)
        else:
            import datasets

            datasets.Dataset.from_dict(columns, features=datasets.Features(features)).to_parquet(path)
        return list(hubs.parquet(path))

    return write_and_read


def test_parquet_rows_are_plain_python(parquet):
    columns = {"a": [1, None], "b": ["x", None], "c": [1.5, None], "d": [[1, 2], None], "e": [True, None], "f": [b"\xff", None]}
    first, second = parquet(columns)
    assert first == {"a": 1, "b": "x", "c": 1.5, "d": [1, 2], "e": True, "f": b"\xff"}
    assert second == dict.fromkeys("abcdef")


@pytest.mark.parametrize(
    ("values", "kind", "read"),
    [
        (["x", None], pa.dictionary(pa.int8(), pa.string()), ["x", None]),
        (["x"], pa.large_string(), ["x"]),
        ([None], pa.null(), [None]),
        ([1.5], pa.float16(), [1.5]),
        ([{"b": 1}], pa.struct({"b": pa.int8()}), [{"b": 1}]),
        ([[("k", 1)]], pa.map_(pa.string(), pa.int8()), [[("k", 1)]]),
    ],
    ids=["category", "large text", "nothing", "half", "struct", "map"],
)
def test_parquet_columns_of_every_type_are_read(parquet, values, kind, read):
    assert [row["a"] for row in parquet({"a": pa.array(values, kind)})] == read


def test_parquet_of_many_row_groups_keeps_its_order(tmp_path):
    path = tmp_path / "data.parquet"
    pq.write_table(pa.table({"a": range(5000)}), path, row_group_size=700)
    assert [row["a"] for row in hubs.parquet(path)] == list(range(5000))


def test_class_labels_become_their_names_and_minus_one_no_label(parquet):
    import datasets

    rows = parquet({"label": [1, 0, -1, None]}, {"label": datasets.ClassLabel(names=["cat", "dog"])})
    assert [row["label"] for row in rows] == ["dog", "cat", None, None]


def test_class_labels_in_lists_become_their_names_too(parquet):
    import datasets

    rows = parquet({"label": [[0, 1], []]}, {"label": datasets.Sequence(datasets.ClassLabel(names=["cat", "dog"]))})
    assert [row["label"] for row in rows] == [["cat", "dog"], []]


def test_images_of_parquet_stay_encoded(parquet):
    import datasets

    image = {"bytes": picture("red"), "path": "red.png"}
    assert parquet({"image": [image, None]}, {"image": datasets.Image()}) == [{"image": image}, {"image": None}]


@pytest.mark.parametrize("name", ["data[1].parquet", "da*ta?.parquet", "with space.parquet", "UPPER.PARQUET", "a::b.parquet"])
def test_a_parquet_file_may_have_an_odd_name(parquet, name):
    assert parquet({"a": [1]}, name="data1.parquet") == parquet({"a": [1]}, name=name) == [{"a": 1}]
    assert parquet({"a": [2]}, name=name) == [{"a": 2}]


def test_a_parquet_file_without_rows_has_no_readable_row(tmp_path):
    path = tmp_path / "none.parquet"
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), path)
    with pytest.raises(UserError, match="has no readable row; give one that has"):
        load_texts(path)


def test_a_damaged_parquet_file_is_one_sentence(tmp_path):
    path = tmp_path / "damaged.parquet"
    pq.write_table(pa.table({"text": [f"text {n}" for n in range(1000)]}), path)
    data = bytearray(path.read_bytes())
    data[10:200] = b"\xff" * 190
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"damaged\.parquet can't be read"):
        load_texts(path)


def test_a_file_that_is_no_parquet_is_refused(tmp_path):
    path = tmp_path / "text.parquet"
    path.write_text("text,label\nhi,1\n")
    with pytest.raises(UserError, match=r"text\.parquet can't be read as Parquet .*; give a whole file, or rename it"):
        list(hubs.parquet(path))


@pytest.mark.network
def test_small_datasets_of_the_real_hub_load(tmp_path):
    client = """
import json
from embedkit.datasets import LoadImages, LoadTexts, load_images, load_texts
from embedkit.readers import ReadFiles

texts = load_texts("hf://cornell-movie-review-data/rotten_tomatoes", LoadTexts(files=ReadFiles(limit=20)))
glue = load_texts("hf://nyu-mll/glue", LoadTexts(text_column="sentence", files=ReadFiles(limit=10, subset="sst2")))
digits = load_images("hf://ylecun/mnist", LoadImages(files=ReadFiles(limit=10)))
print("ANSWERS " + json.dumps([dataset.manifest.details for dataset in (texts, glue, digits)]))
"""
    here = {"HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home"), "EMBEDKIT_ARTIFACTS": str(tmp_path / "artifacts")}
    done = subprocess.run([sys.executable, "-c", client], env=os.environ | here, capture_output=True, text=True)
    assert "ANSWERS " in done.stdout, done.stderr[-3000:]
    texts, glue, digits = json.loads(done.stdout.partition("ANSWERS ")[2])
    assert texts["parts"] == [60] and set(texts["label"]["classes"]) <= {"neg", "pos"}
    assert texts["splits"] == {"train": 20, "validation": 20, "test": 20}
    assert glue["parts"] == [30] and set(glue["label"]["classes"]) <= {"negative", "positive"}
    assert digits["parts"] == [20] and digits["columns"] == {"image": "binary", "path": "string"}


def test_an_image_column_of_parquet_can_be_named(tmp_path):
    pq.write_table(pa.table({"scan": [picture(c) for c in COLOURS], "kind": list("aabbab")}), tmp_path / "scans.parquet")
    with pytest.raises(UserError, match=r"image column 'image' is not known; there is scan, kind \(set image_column\)"):
        load_images(tmp_path / "scans.parquet")
    found = load_images(tmp_path / "scans.parquet", LoadImages(image_column="scan", label_column="kind"))
    assert found.manifest.rows == 6 and found.manifest.details["label"]["classes"] == {"a": 3, "b": 3}
