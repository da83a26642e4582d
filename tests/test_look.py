"""look: what a source holds, within seconds and without a framework, and a command that loads it as it was described."""

import io
import json
import os
import shlex
import subprocess
import sys
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import write_list
from PIL import Image

from embedkit.artifacts import Artifact
from embedkit.cli import main
from embedkit.look import Look, look
from embedkit.readers import ReadFiles
from embedkit.settings import UserError


def png(number):
    data = io.BytesIO()
    Image.new("RGB", (5, 4), (number, 0, 0)).save(data, "PNG")
    return data.getvalue()


def run(words, capsys):
    """What a command printed."""
    capsys.readouterr()
    assert main(words) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def roles(seen):
    return {column.role: column.name for column in seen.columns if column.role}


def loaded(seen, capsys):
    """The dataset that the command of what was seen makes."""
    words = shlex.split(seen.shell)
    assert words[0] == "embedkit"
    return Artifact.open(run(words[1:], capsys).strip())


TEXTS = [
    {
        "rid": f"r{n}",
        "review": f"a film that number {n} saw and liked a lot",
        "stars": "good" if n % 2 else "bad",
        "set": "test" if n > 15 else "train",
    }
    for n in range(20)
]


@pytest.mark.parametrize("name", ["my reviews.csv", "a.tsv", "a.xlsx", "a.jsonl", "a.parquet"])
def test_texts_are_told_with_their_label_split_and_key_and_loaded_as_told(tmp_path, capsys, name):
    rows = [{"review_id": row["rid"]} | row for row in TEXTS]
    seen = look(write_list(tmp_path / name, [{k: v for k, v in row.items() if k != "rid"} for row in rows]))
    assert seen.kind == "texts" and seen.whole and seen.rows == 20 and seen.splits == {"train": 16, "test": 4}
    assert roles(seen) == {"id": "review_id", "text": "review", "label": "stars", "split": "set"}
    made = loaded(seen, capsys)
    assert made.manifest.kind == "texts" and made.manifest.rows == 20 and made.manifest.details["splits"]["test"] == 4
    assert made.manifest.details["label"]["classes"] == {"bad": 10, "good": 10}


@pytest.mark.parametrize("name", ["it's mine.xlsx", "a.csv", "a.jsonl", "a.parquet"])
def test_a_list_of_pictures_is_told_and_loaded(tmp_path, capsys, name):
    for n in range(12):
        (tmp_path / f"{n}.png").write_bytes(png(n))
    rows = [{"file": f"{n}.png", "species": "cat" if n % 2 else "dog", "weight": n / 2 + 0.25} for n in range(12)]
    seen = look(write_list(tmp_path / name, rows))
    assert seen.kind == "images" and roles(seen) == {"picture": "file", "label": "species"}
    made = loaded(seen, capsys)
    assert made.manifest.kind == "images" and made.manifest.rows == 12
    assert made.manifest.details["label"]["classes"] == {"cat": 6, "dog": 6}


def test_pictures_that_are_listed_but_not_there_are_noted(tmp_path):
    seen = look(write_list(tmp_path / "a.csv", [{"file": "none.png", "label": "x"}, {"file": "http://a.b/c.png", "label": "y"}]))
    assert "1 of the first 1 pictures that are listed can't be read: there is no file 'none.png' beside a.csv" in seen.notes


def test_encoded_pictures_of_parquet_are_told_and_loaded(tmp_path, capsys):
    pq.write_table(pa.table({"scan": [png(n) for n in range(8)], "kind": ["a", "b"] * 4}), tmp_path / "a.parquet")
    seen = look(tmp_path / "a.parquet")
    assert (
        seen.kind == "images"
        and roles(seen) == {"picture": "scan", "label": "kind"}
        and seen.columns[0].examples[0].startswith("PNG, ")
    )
    assert loaded(seen, capsys).manifest.rows == 8


def test_a_folder_of_pictures_is_told_with_what_is_passed_over(tmp_path, capsys):
    for place in ("train/cat", "train/dog", "test/cat", "test/dog", "sample"):
        (tmp_path / "pets" / place).mkdir(parents=True)
        for n in range(4):
            (tmp_path / "pets" / place / f"{n}.png").write_bytes(png(n + 10 * len(place)))
    seen = look(tmp_path / "pets")
    assert seen.kind == "images" and seen.splits == {"train": 8, "test": 8} and seen.rows == 16
    assert seen.passed_over[0][0] == "sample/" and roles(seen)["label"] == "label"
    assert seen.columns[-1].examples == ["cat (8)", "dog (8)"]
    assert loaded(seen, capsys).manifest.rows == 16


def test_a_table_is_told_with_types_missing_values_and_reasons(tmp_path, capsys):
    rows = [
        {
            "no": n,
            "area": n * 1.5 + 0.25,
            "day": f"2024-01-{n + 1:02d}",
            "code": f"0{n}",
            "gap": n if n % 4 else "",
            "target": "ab"[n % 2],
        }
        for n in range(20)
    ]
    seen = look(write_list(tmp_path / "a.csv", rows))
    types = {column.name: column.type for column in seen.columns}
    assert seen.kind == "table" and types == {
        "no": "left out",
        "area": "number",
        "day": "time",
        "code": "text",
        "gap": "integer",
        "target": "text",
    }
    assert {column.name: column.missing for column in seen.columns if column.missing} == {"gap": 0.25}
    assert "column 'no' numbers the rows" in " ".join(seen.notes) and roles(seen) == {"label": "target"}
    made = loaded(seen, capsys)
    assert (
        made.manifest.kind == "table"
        and made.manifest.rows == 20
        and made.manifest.details["label"]["classes"] == {"a": 10, "b": 10}
    )


def test_settings_by_which_a_file_was_read_are_a_part_of_the_command(tmp_path, capsys):
    path = write_list(tmp_path / "a.xlsx", [{"text": "a text that is long enough to be one", "label": "x"}] * 3)
    import openpyxl

    book = openpyxl.load_workbook(path)
    book.create_sheet("Second one").append(["more"])
    book.save(path)
    with pytest.raises(UserError, match=r"name one with files\.sheet"):
        look(path)
    seen = look(path, Look(files=ReadFiles(sheet="Sheet", follow_links=True)))
    assert seen.command[-3:] == ["--files.sheet", "Sheet", "--files.follow-links"]
    assert loaded(seen, capsys).manifest.rows == 3
    (tmp_path / "b.csv").write_text("one text of some length here;x\nanother text, as long;y\n")
    seen = look(tmp_path / "b.csv", Look(files=ReadFiles(column_names=("text", "label"), delimiter=";", quoted=False)))
    assert loaded(seen, capsys).manifest.rows == 2


def test_a_key_of_which_not_all_rows_were_seen_is_not_taken_for_granted(tmp_path, capsys):
    path = write_list(tmp_path / "a.csv", [row | {"id": n % 19} for n, row in enumerate(TEXTS)])
    seen = look(path, Look(rows=10))
    assert not seen.whole and "id" in roles(seen).values() and "--key-column" not in seen.command
    assert loaded(seen, capsys).manifest.rows == 20


def test_a_first_line_that_reads_like_values_is_noted(tmp_path):
    (tmp_path / "a.csv").write_text("39,Private\n50,State\n38,Private\n")
    assert any("'39' reads like a value, not a name" in note for note in look(tmp_path / "a.csv").notes)


@pytest.mark.parametrize(("name", "kind"), [("digits", "images"), ("docstrings", "texts"), ("symbols", "table")])
def test_built_in_rows_are_told(name, kind):
    seen = look(f"builtin:{name}", Look(seconds=0.5))
    assert seen.kind == kind and seen.command[:3] == ["embedkit", f"load-{'table' if kind == 'table' else kind}", f"builtin:{name}"]


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.png", png(1), "is one picture; give the folder it lies in, or a file that lists pictures"),
        ("a.csv", b"text\n", "has no readable row"),
        ("a.xlsx", b"text\n", "it is no workbook"),
    ],
)
def test_what_can_not_be_told_is_one_sentence(tmp_path, name, data, reason):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=reason):
        look(tmp_path / name)


def test_of_a_file_of_gigabytes_the_beginning_is_enough(tmp_path):
    head = b"text,label\n" + b"".join(b"row %d of many that are all alike,%d\n" % (n, n % 2) for n in range(40_000))
    with (tmp_path / "a.csv").open("wb") as file:
        file.write(head)
        file.truncate(3 * 2**30)  # the rest is a hole
    started = time.monotonic()
    seen = look(tmp_path / "a.csv", Look(seconds=2))
    assert time.monotonic() - started < 10 and not seen.whole and roles(seen) == {"text": "text", "label": "label"}


def test_the_command_prints_a_table_of_80_columns_and_the_command_last(tmp_path, capsys):
    path = write_list(tmp_path / "a.csv", [row | {"a very long name of a column indeed": "x" * 300} for row in TEXTS])
    lines = run(["look", str(path)], capsys).splitlines()
    assert lines[0].endswith(" s") and "texts; 20 rows were looked at, all of them" in lines[0]
    assert all(len(line) <= 80 for line in lines[1:-1]) and lines[-1] == look(path).shell
    told = json.loads(run(["look", str(path), "--json"], capsys))
    assert told["kind"] == "texts" and told["command"] == look(path).command and told["shell"] == lines[-1]
    assert json.loads(run(["look", str(path), "--json", "--rows", "5", "--files.limit", "4"], capsys))["rows"] == 4


def test_looking_imports_no_framework(tmp_path):
    path = write_list(tmp_path / "a.xlsx", TEXTS)
    code = (
        "import sys; from embedkit.cli import main; main(['look', sys.argv[1]]); "
        "print([name for name in ('tensorflow', 'keras', 'sklearn') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, env=os.environ, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
