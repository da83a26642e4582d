"""Sources become datasets: rows, ids, splits, labels, what was rejected, and what an interruption leaves."""

import gzip
import hashlib
import io
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import SHARED
from PIL import Image

from embedkit import images, splits
from embedkit.artifacts import Artifact
from embedkit.datasets import LoadImages, LoadTable, LoadTexts, fetch, load_images, load_table, load_texts, read_contents, read_rows
from embedkit.labels import Neutral, agreement
from embedkit.readers import ReadFiles
from embedkit.settings import UserError


@pytest.fixture
def write(tmp_path):
    """Write a file of text or bytes and give its path."""

    def written(name, data):
        path = tmp_path / "sources" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return path

    return written


def csv(count, columns="text", line="text {n}", first=0):
    return f"{columns}\n" + "".join(line.format(n=n) + "\n" for n in range(first, first + count))


def column(dataset, name):
    return read_rows(dataset)[name].to_pylist()


def contents(dataset, name="text"):
    return read_contents(dataset, 0, dataset.manifest.rows)[name].to_pylist()


def rejected(dataset):
    return [(row["place"], row["reason"]) for row in pq.read_table(dataset / "rejected.parquet").to_pylist()]


def sums(dataset):
    files = (path for path in dataset.path.rglob("*") if path.is_file() and path.name != "manifest.json")
    return {path.relative_to(dataset.path).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def png(*colour, size=(5, 4)):
    data = io.BytesIO()
    Image.new("RGB", size, colour).save(data, "PNG")
    return data.getvalue()


# What a dataset is


def test_a_dataset_is_its_rows_in_the_order_of_the_source(write):
    dataset = load_texts(write("My Reviews.csv", "text,label\nhi,1\nyo,2\nhi,1\n"), LoadTexts(validation_share=0, test_share=0))
    assert str(dataset).startswith("texts/my-reviews@") and dataset.manifest.kind == "texts"
    names = ["manifest.json", "near.parquet", "part-00000.parquet", "rows.parquet"]
    assert sorted(path.name for path in dataset.path.iterdir()) == names
    rows = read_rows(dataset)
    assert rows.column_names == ["id", "content", "position", "split", "label"]
    assert str(rows.schema.field("id").type) == str(rows.schema.field("content").type) == "int64"
    assert rows["content"].to_pylist() == [splits.hash64(text) for text in (b"hi", b"yo", b"hi")]
    assert rows["id"].to_pylist()[:2] == rows["content"].to_pylist()[:2] and len(set(rows["id"].to_pylist())) == 3
    assert rows["position"].to_pylist() == [0, 1, 2]
    assert rows["split"].to_pylist() == ["train"] * 3
    assert rows["label"].to_pylist() == ["1", "2", "1"]
    assert read_contents(dataset, 0, 3).to_pydict() == {"text": ["hi", "yo", "hi"]}


def test_the_manifest_says_what_the_dataset_holds(write):
    dataset = load_texts(write("a.csv", "text,label\nhi,1\nyo,\nhi,1\n"), LoadTexts(validation_share=0, test_share=0))
    assert dataset.manifest.details == {
        "parts": [3],
        "splits": {"train": 3, "validation": 0, "test": 0},
        "columns": {"text": "string"},
        "label": {"type": "class", "labelled": 2, "classes": {"1": 2}},
        "copies": 1,
        "duplicates_across_splits": 0,
        "rejected": 0,
        "records": 3,
        "taken_for": {"text": "text", "label": "label: class (1 different whole numbers)"},
    }


def test_a_dataset_without_a_label_column_has_none(write):
    dataset = load_texts(write("a.txt", "one\ntwo\n"))
    assert read_rows(dataset).column_names == ["id", "content", "position", "split"]
    assert dataset.manifest.details["label"] is None


TWO = [{"text": "hi", "label": "a"}, {"text": "yo", "label": "b"}]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("x.csv", "text,label\nhi,a\nyo,b\n"),
        ("x.tsv", "text\tlabel\nhi\ta\nyo\tb\n"),
        ("x.jsonl", "".join(json.dumps(row) + "\n" for row in TWO)),
        ("x.csv.gz", gzip.compress(b"text,label\nhi,a\nyo,b\n")),
        ("x.tsv.gz", gzip.compress(b"text\tlabel\nhi\ta\nyo\tb\n")),
        ("x.jsonl.gz", gzip.compress("".join(json.dumps(row) + "\n" for row in TWO).encode())),
        ("x.csv", "\ufefflabel;text\r\na;hi\r\nb;yo\r\n"),
    ],
    ids=["csv", "tsv", "jsonl", "csv.gz", "tsv.gz", "jsonl.gz", "csv of Excel"],
)
def test_texts_come_from_every_format_with_the_same_ids(write, name, data):
    dataset = load_texts(write(name, data))
    assert (contents(dataset), column(dataset, "label")) == (["hi", "yo"], ["a", "b"])
    assert column(dataset, "id") == [splits.hash64(b"hi"), splits.hash64(b"yo")]


def test_texts_come_from_parquet(tmp_path):
    pq.write_table(pa.table({"text": ["hi", "yo"], "label": ["a", "b"]}), tmp_path / "x.parquet")
    dataset = load_texts(tmp_path / "x.parquet")
    assert (contents(dataset), column(dataset, "label")) == (["hi", "yo"], ["a", "b"])


def test_texts_keep_every_letter(write):
    odd = ["  spaces  ", "tab\there", "é – 🙂", "\u200b", 'say "hi"', "a\x00b", "combining e\u0301"]
    dataset = load_texts(write("a.jsonl", "".join(json.dumps({"text": text}) + "\n" for text in odd)))
    assert contents(dataset) == odd


@pytest.mark.parametrize(
    ("header", "settings", "texts"),
    [
        ("text,other", {}, "a"),
        ("other,text", {}, "b"),
        ("sentence,label", {}, "a"),
        ("id,sentence", {"key_column": "id"}, "b"),
        ("sentence,stars", {"label_column": "stars"}, "a"),
        ("user,sentence", {"split": "group", "group_column": "user"}, "b"),
        ("text,other", {"text_column": "other"}, "b"),
    ],
)
def test_the_text_column_is_the_one_called_text_or_the_only_one_left(write, header, settings, texts):
    dataset = load_texts(write("a.csv", f"{header}\na1,b1\na2,b2\n"), LoadTexts(**settings))
    assert contents(dataset) == [f"{texts}1", f"{texts}2"]


def test_a_text_column_that_is_not_clear_is_asked_for(write):
    with pytest.raises(UserError, match="which column holds the texts is not clear: there is a, b, label; set text_column"):
        load_texts(write("a.csv", "a,b,label\n1,2,3\n"))


@pytest.mark.parametrize("role", ["text", "label", "key", "split", "group", "time"])
def test_a_column_that_is_not_there_is_refused_with_the_near_ones(write, role):
    path = write("a.csv", "review,stars\nhi,1\n")
    with pytest.raises(UserError, match=rf"{role} column 'reviw' is not known; did you mean 'review'\?"):
        load_texts(path, LoadTexts(**{f"{role}_column": "reviw"}))


def test_a_missing_file_is_refused_with_the_near_ones(write):
    path = write("reviews.csv", "text\nhi\n")
    with pytest.raises(UserError, match=r"the file or folder 'review\.csv' is not known; did you mean 'reviews\.csv'\?"):
        load_texts(path.with_name("review.csv"))


@pytest.mark.parametrize(("name", "data"), [("a.csv", ""), ("a.csv", "text,label\n"), ("a.txt", "\n\n"), ("a.jsonl", "\n")])
def test_an_empty_source_is_refused(write, name, data):
    for load in (load_texts, load_table):
        with pytest.raises(UserError, match=rf"{name} has no readable row; give one that has"):
            load(write(name, data))


@pytest.mark.parametrize(
    ("name", "data", "settings", "reason"),
    [
        ("a.csv", "hi,1\nyo,2\n", {"column_names": ("text", "label", "more")}, "2 columns instead of 3"),
        ("a.json", '["hi"]', {}, "not a JSON object but str"),
        ("a.txt", b"caf\xe9\n", {}, "not in the encoding utf-8"),
    ],
    ids=["csv", "json", "txt"],
)
def test_a_source_without_a_readable_row_says_what_is_wrong_with_the_first(write, name, data, settings, reason):
    with pytest.raises(UserError, match=f"no readable row.*{reason}"):
        load_texts(write(name, data), LoadTexts(files=ReadFiles(**settings)))


# Ids


def test_ids_stay_when_the_source_grows_or_is_shuffled(write):
    few = load_texts(write("few.csv", csv(50)))
    many = load_texts(write("many.csv", csv(200)))
    backwards = load_texts(write("back.csv", "text\n" + "".join(f"text {n}\n" for n in reversed(range(50)))))
    assert column(many, "id")[:50] == column(few, "id") == column(backwards, "id")[::-1]


def test_adding_rows_moves_no_old_row(write):
    few, many = (load_texts(write("a.csv", csv(count)), LoadTexts(seed=7)) for count in (200, 600))
    assert column(many, "split")[:200] == column(few, "split") and len(set(column(few, "split"))) == 3


def test_another_seed_draws_other_rows_with_the_same_ids(write):
    path = write("a.csv", csv(200))
    one, two = (load_texts(path, LoadTexts(seed=seed)) for seed in (1, 2))
    assert column(one, "id") == column(two, "id") and column(one, "split") != column(two, "split")


def test_a_label_is_no_part_of_an_id(write):
    one = load_texts(write("a.csv", "text,label\nhi,1\n"))
    two = load_texts(write("b.csv", "text,label\nhi,2\n"))
    assert column(one, "id") == column(two, "id")


def test_ids_of_pictures_are_of_their_bytes_not_their_names(write):
    for name in ("one/a.png", "two/b.png"):
        write(f"pictures/{name}", png(255, 0, 0))
    dataset = load_images(write("pictures/x.txt", "").parent)
    first, second = column(dataset, "id")
    assert first == splits.hash64(png(255, 0, 0)) != second
    assert dataset.manifest.details["copies"] == 1


@pytest.mark.parametrize(
    ("keys", "ids"),
    [
        (["0", "17", str(2**63 - 1)], [0, 17, 2**63 - 1]),
        (["-5", "u7", str(2**63)], [splits.hash64(b"-5"), splits.hash64(b"u7"), splits.hash64(str(2**63).encode())]),
    ],
)
def test_a_key_that_is_a_number_is_the_id_and_any_other_is_hashed(write, keys, ids):
    path = write("a.csv", "text,key\n" + "".join(f"same,{key}\n" for key in keys))
    assert column(load_texts(path, LoadTexts(key_column="key")), "id") == ids


@pytest.mark.parametrize("keys", [("7", "007"), ("3", "٣"), ("1", "9" * 5000)], ids=["zeros", "arabic", "long"])
def test_keys_that_differ_name_different_rows(write, keys):
    path = write("a.csv", "text,key\n" + "".join(f"text {n},{key}\n" for n, key in enumerate(keys)))
    assert len(set(column(load_texts(path, LoadTexts(key_column="key")), "id"))) == 2


def test_with_a_key_the_split_is_drawn_by_it(write):
    one = load_texts(write("a.csv", csv(300, "text,key", "old {n},{n}")), LoadTexts(key_column="key"))
    two = load_texts(write("b.csv", csv(300, "text,key", "new {n},{n}")), LoadTexts(key_column="key"))
    assert column(one, "split") == column(two, "split") and column(one, "content") != column(two, "content")


def test_a_key_that_names_two_rows_is_refused(write):
    with pytest.raises(UserError, match="the key 'u' names several rows; give a key_column whose values differ, or none"):
        load_texts(write("a.csv", "text,key\na,u\nb,v\nc,u\n"), LoadTexts(key_column="key"))


def test_a_row_without_a_key_is_refused(write):
    with pytest.raises(UserError, match="row 1 has no value in the key column 'key'; a key must name every row"):
        load_texts(write("a.csv", "text,key\na,u\nb,\n"), LoadTexts(key_column="key"))


def test_a_key_is_no_column_of_a_table(write):
    dataset = load_table(write("a.csv", "key,x\n5,1\n6,2\n"), LoadTable(key_column="key"))
    assert read_contents(dataset, 0, 2).to_pydict() == {"x": [1, 2]} and column(dataset, "id") == [5, 6]


# Splits


def test_a_split_drawn_by_hash_has_about_the_shares(write):
    dataset = load_texts(write("a.csv", csv(3000)))
    counts = dataset.manifest.details["splits"]
    assert sum(counts.values()) == 3000
    assert abs(counts["test"] - 600) < 110 and abs(counts["validation"] - 300) < 82  # 5 standard deviations
    assert {name: column(dataset, "split").count(name) for name in counts} == counts


def test_shares_that_leave_nothing_to_train_on_are_refused(write):
    path = write("a.csv", csv(10, "text,fold", "text {n},train"))
    shares = {"validation_share": 0.6, "test_share": 0.6}
    with pytest.raises(UserError, match="validation_share and test_share are 1.2 together; leave more than nothing for training"):
        load_texts(path, LoadTexts(text_column="text", **shares))
    with pytest.raises(UserError, match="validation_share and test_share are 1.2 together"):
        load_texts(path, LoadTexts(split_column="fold", **shares))


def test_a_stratified_split_has_exact_shares_of_each_class(write):
    path = write("a.csv", "text,label\n" + "".join(f"text {n},{'rare' if n % 10 == 0 else 'often'}\n" for n in range(1000)))
    dataset = load_texts(path, LoadTexts(split="stratified"))
    pairs = list(zip(column(dataset, "label"), column(dataset, "split"), strict=True))
    assert [pairs.count(("rare", split)) for split in splits.SPLITS] == [70, 10, 20]
    assert [pairs.count(("often", split)) for split in splits.SPLITS] == [630, 90, 180]


def test_a_stratified_split_needs_labels(write):
    with pytest.raises(UserError, match="split 'stratified' needs labels; give a label_column or another split"):
        load_texts(write("a.csv", csv(10)), LoadTexts(split="stratified"))


def groups(dataset, path):
    """The splits that each group's rows are in."""
    found = {}
    for line, split in zip(path.read_text().splitlines()[1:], column(dataset, "split"), strict=True):
        found.setdefault(line.rpartition(",")[2], set()).add(split)
    return found


def test_a_group_stays_on_one_side(write):
    path = write("a.csv", "text,user\n" + "".join(f"text {n},u{n % 100}\n" for n in range(1000)))
    found = groups(load_texts(path, LoadTexts(split="group", group_column="user")), path)
    assert len(found) == 100 and all(len(sides) == 1 for sides in found.values())
    assert {side for sides in found.values() for side in sides} == {"train", "validation", "test"}


def test_a_group_stays_on_one_side_even_where_its_rows_have_equals_elsewhere(write):
    lines = [f"{text},u{user}" for user in range(100) for text in (f"own {user}", f"shared by two {user // 2}", f"mine {user}")]
    path = write("a.csv", "\n".join(["text,user", *lines]) + "\n")
    dataset = load_texts(path, LoadTexts(split="group", group_column="user"))
    assert all(len(sides) == 1 for sides in groups(dataset, path).values())
    across, _ = splits.straddling(
        np.array(column(dataset, "content")), np.array([splits.SPLITS.index(split) for split in column(dataset, "split")], np.int8)
    )
    assert not across.any()


def test_rows_without_a_group_are_on_their_own(write):
    path = write("a.csv", "text,user\n" + "".join(f"text {n},\n" for n in range(300)))
    dataset = load_texts(path, LoadTexts(split="group", group_column="user", text_column="text"))
    assert set(column(dataset, "split")) == {"train", "validation", "test"}


@pytest.mark.parametrize("role", ["group", "time"])
def test_a_split_by_a_column_and_the_column_belong_together(write, role):
    path = write("a.csv", csv(3, "text,x", "text {n},{n}"))
    alone = [{f"{role}_column": "x"}, {f"{role}_column": "x", "split": "hash"}] if role == "time" else []
    for settings in ({"split": role}, *alone):  # a group's pieces stay together whatever the split
        with pytest.raises(UserError, match=f"split '{role}' and {role}_column belong together; give both or neither"):
            load_texts(path, LoadTexts(text_column="text", **settings))


@pytest.mark.parametrize(
    ("when", "settings"),
    [
        ("{n}", {}),
        ("{n}.5", {}),
        ("-1{n}", "backwards"),
        ("2020-01-1{n}", {}),
        ("2020-01-01T00:0{n}:00", {}),
        ("2020-01-01T00:0{n}:00Z", {}),
        ("1{n}.01.2020", {"time_format": "%d.%m.%Y"}),
        ("1/1{n}/20", {"time_format": "%m/%d/%y"}),
    ],
)
def test_the_latest_rows_are_the_test_rows(write, when, settings):
    path = write("a.csv", csv(10, "text,at", f"text {{n}},{when}"))
    order = ["train"] * 7 + ["validation"] + ["test"] * 2
    expected = order[::-1] if settings == "backwards" else order
    settings = {} if settings == "backwards" else settings
    assert column(load_texts(path, LoadTexts(split="time", time_column="at", **settings)), "split") == expected


def test_moments_of_parquet_split_by_time(tmp_path):
    when = [datetime(2020, 1, day) for day in range(10, 0, -1)]
    pq.write_table(pa.table({"x": range(10), "at": when}), tmp_path / "a.parquet")
    dataset = load_table(tmp_path / "a.parquet", LoadTable(split="time", time_column="at"))
    assert column(dataset, "split") == ["test"] * 2 + ["validation"] + ["train"] * 7
    assert contents(dataset, "at") == when


def test_a_split_by_time_without_a_test_share_has_no_test_rows(write):
    path = write("a.csv", csv(10, "text,at", "text {n},{n}"))
    dataset = load_texts(path, LoadTexts(split="time", time_column="at", test_share=0, validation_share=0.2))
    assert column(dataset, "split") == ["train"] * 8 + ["validation"] * 2


@pytest.mark.parametrize("missing", ["", "nan", "NaT"])
def test_a_row_without_a_time_is_refused(write, missing):
    path = write("a.csv", csv(5, "text,at", "text {n},{n}") + f"late,{missing}\n")
    with pytest.raises(UserError, match="the time column 'at'"):
        load_texts(path, LoadTexts(split="time", time_column="at"))


def test_a_missing_time_is_named_by_its_row(write):
    with pytest.raises(UserError, match="row 1 has no value in the time column 'at'; a split by time needs every row's"):
        load_texts(write("a.csv", "text,at\na,1\nb,\n"), LoadTexts(split="time", time_column="at"))


def test_a_time_that_can_not_be_read_is_named(write):
    path = write("a.csv", csv(3, "text,at", "text {n},1/{n}/20"))
    with pytest.raises(UserError, match="the time column 'at' holds '1/0/20', not numbers or ISO dates; set time_format, like %m"):
        load_texts(path, LoadTexts(split="time", time_column="at"))
    path = write("b.csv", "text,at\na,1/1/20\nb,soon\n")
    with pytest.raises(UserError, match="the time column 'at' holds 'soon', not moments written as '%m/%d/%y'; set time_format"):
        load_texts(path, LoadTexts(split="time", time_column="at", time_format="%m/%d/%y"))


def test_a_split_column_names_each_rows_split(write):
    names = ["train", "dev", "test", "Train", "VALID", "unsup", "testing", ""]
    path = write("a.csv", "text,fold\n" + "".join(f"text {n},{name}\n" for n, name in enumerate(names)))
    dataset = load_texts(path, LoadTexts(split_column="fold"))
    assert column(dataset, "split") == ["train", "validation", "test", "train", "validation", "train", "test", "train"]


def test_a_split_that_is_not_known_is_refused(write):
    with pytest.raises(UserError, match=r"split 'tset' is not known; did you mean 'test'.*\(in the split column\)"):
        load_texts(write("a.csv", "text,fold\na,train\nb,tset\n"), LoadTexts(split_column="fold"))


def test_splits_of_a_source_without_any_are_refused(write):
    with pytest.raises(UserError, match="split 'source' was asked for, but the source has no splits; give a split_column or ano"):
        load_texts(write("a.csv", csv(3)), LoadTexts(split="source"))


def test_files_named_after_splits_are_the_splits(write):
    for number, name in enumerate(("train", "dev", "test")):
        folder = write(f"three/{name}.tsv", csv(20, "sentence\tfold", f"{name} {{n}}\t{number}")).parent
    dataset = load_texts(folder, LoadTexts(text_column="sentence"))
    assert dataset.manifest.notes == []
    by_text = dict(zip(contents(dataset), column(dataset, "split"), strict=True))
    assert by_text["dev 3"] == "validation" and by_text["test 3"] == "test" and by_text["train 3"] == "train"
    assert dataset.manifest.details["splits"] == {"train": 20, "validation": 20, "test": 20}


def test_a_source_with_development_rows_only_is_tested_on_them(write):
    for name in ("train", "dev"):
        folder = write(f"two/{name}.csv", csv(200, "text", f"{name} {{n}}")).parent
    dataset = load_texts(folder)
    assert dataset.manifest.notes == [
        "the source has no test split: its validation rows are the test rows",
        "validation rows were drawn from the training rows by hash",
    ]
    sides = dict(zip(contents(dataset), column(dataset, "split"), strict=True))
    assert {sides[f"dev {n}"] for n in range(200)} == {"test"}
    assert {sides[f"train {n}"] for n in range(200)} == {"train", "validation"}


def test_a_source_with_training_rows_only_gives_some_of_them_away(write):
    folder = write("one/train.csv", csv(500)).parent
    dataset = load_texts(folder)
    assert set(column(dataset, "split")) == {"train", "validation", "test"}
    assert dataset.manifest.notes == ["validation and test rows were drawn from the training rows by hash"]


def test_the_splits_of_a_source_can_be_ignored(write):
    for name in ("train", "test"):
        folder = write(f"two/{name}.csv", csv(200, "text", f"{name} {{n}}")).parent
    sides = column(load_texts(folder, LoadTexts(split="hash")), "split")
    assert set(sides[:200]) == set(sides[200:]) == {"train", "validation", "test"}


def test_equal_rows_in_two_splits_are_moved_to_the_earlier_one_and_said(write, caplog):
    write("leak/train.csv", "text\na\nb\nc\n")
    folder = write("leak/test.csv", "text\nc\nd\nc\n").parent
    settings = LoadTexts(validation_share=0)
    with caplog.at_level(logging.WARNING, "embedkit"):
        dataset = load_texts(folder, settings)
    sides = list(zip(contents(dataset), column(dataset, "split"), strict=True))
    assert sides == [("c", "train"), ("d", "test"), ("c", "train"), ("a", "train"), ("b", "train"), ("c", "train")]
    note = "3 rows have an equal in another split; 2 of them moved to the earliest split"
    assert dataset.manifest.notes == [note] == caplog.messages
    assert dataset.manifest.details["duplicates_across_splits"] == 3


def test_equal_rows_in_two_splits_can_be_left_there_and_are_said(write):
    write("leak/train.csv", "text\na\nc\n")
    folder = write("leak/test.csv", "text\nc\nd\n").parent
    dataset = load_texts(folder, LoadTexts(validation_share=0, duplicates="keep"))
    assert list(zip(contents(dataset), column(dataset, "split"), strict=True)) == [
        *(("c", "test"), ("d", "test"), ("a", "train"), ("c", "train")),
    ]
    assert dataset.manifest.notes == ["2 rows have an equal in another split; left as they are"]
    assert dataset.manifest.details["splits"] == {"train": 2, "validation": 0, "test": 2}


def test_a_test_split_that_was_all_moved_away_is_said(write):
    write("same/train.csv", csv(50))
    folder = write("same/test.csv", csv(10)).parent
    dataset = load_texts(folder, LoadTexts(validation_share=0))
    assert dataset.manifest.details["splits"]["test"] == 0
    assert any("no test row" in note for note in dataset.manifest.notes)


# Labels, end to end (test_labels.py has the cases)


def test_labels_that_mean_none_are_none_and_not_counted(write):
    dataset = load_texts(write("a.csv", "text,label\na,1\nb,-1\nc,\nd,2\n"), LoadTexts(unlabelled=("-1",)))
    assert column(dataset, "label") == ["1", None, None, "2"]
    assert dataset.manifest.details["label"] == {"type": "class", "labelled": 2, "classes": {"1": 1, "2": 1}}


def test_several_labels_come_from_a_separator_or_a_list(write):
    by_text = load_texts(write("a.csv", 'text,label\na,"x, y"\nb,x\nc,\n'), LoadTexts(label_separator=","))
    lines = ({"text": "a", "label": ["x", "y"]}, {"text": "b", "label": ["x"]}, {"text": "c"})
    by_list = load_texts(write("a.jsonl", "".join(json.dumps(line) + "\n" for line in lines)))
    for dataset in (by_text, by_list):
        assert column(dataset, "label") == [["x", "y"], ["x"], None]
        assert dataset.manifest.details["label"] == {"type": "classes", "labelled": 2, "classes": {"x": 2, "y": 1}}


def test_labels_may_be_numbers(write):
    dataset = load_texts(write("a.csv", "text,price\na,1.5\nb,-2\nc,\n"), LoadTexts(label_column="price"))
    assert column(dataset, "label") == [1.5, -2.0, None]
    assert dataset.manifest.details["label"] == {"type": "number", "labelled": 2, "lowest": -2.0, "highest": 1.5}


def test_a_label_that_is_no_number_is_refused_where_numbers_were_asked_for(write):
    with pytest.raises(UserError, match="the label 'cheap' is no number; set label_type to class, or name it in unlabelled"):
        load_texts(write("a.csv", "text,label\na,1\nb,cheap\n"), LoadTexts(label_type="number"))


@pytest.mark.parametrize("count", [3, 150])
def test_a_label_that_only_later_files_have_is_found(write, count):
    write("late/test.csv", csv(count, "text", "test {n}"))
    folder = write("late/train.csv", csv(4, "text,label", "train {n},{n}")).parent
    dataset = load_texts(folder)
    assert dataset.manifest.details["label"]["labelled"] == 4
    assert column(load_texts(folder, LoadTexts(label_column="label")), "label")[count:] == ["0", "1", "2", "3"]


@pytest.mark.parametrize("count", [3, 150])
def test_class_folders_label_the_training_pictures_beside_a_flat_folder_of_test_pictures(write, count):
    for n in range(count):
        write(f"kaggle/test/{n}.png", png(n, 0, 0))
    for n, kind in enumerate(("cat", "dog")):
        folder = write(f"kaggle/train/{kind}/1.png", png(0, 100, n)).parents[2]
    dataset = load_images(folder, LoadImages(validation_share=0))
    assert dataset.manifest.details["label"] == {"type": "class", "labelled": 2, "classes": {"cat": 1, "dog": 1}}
    assert column(dataset, "split") == ["test"] * count + ["train"] * 2


# Neutral rows


def neutral(dataset):
    return column(dataset, "neutral")


@pytest.mark.parametrize(
    ("values", "marks"),
    [
        (("true", "yes", "1"), [True, False, True, True, False, False, True]),
        (("Maybe",), [False, False, False, False, False, True, False]),
    ],
)
def test_a_column_marks_neutral_rows(write, values, marks):
    rows = [True, False, "YES ", 1, None, "maybe", 1.0]
    path = write("a.jsonl", "".join(json.dumps({"text": f"text {n}", "odd": value}) + "\n" for n, value in enumerate(rows)))
    dataset = load_texts(path, LoadTexts(neutral=Neutral(column="odd", values=values)))
    assert neutral(dataset) == marks and str(read_rows(dataset).schema.field("neutral").type) == "bool"


def test_a_mark_in_the_label_column_is_no_label(write):
    path = write("a.csv", "text,label\nhi,pos\nyo,unclear\nho,neg\nhu,\n")
    dataset = load_texts(path, LoadTexts(neutral=Neutral(column="label", values=("unclear",))))
    assert (column(dataset, "label"), neutral(dataset)) == (["pos", None, "neg", None], [False, True, False, False])
    assert dataset.manifest.details["label"] == {"type": "class", "labelled": 2, "classes": {"neg": 1, "pos": 1}}


@pytest.mark.parametrize(
    ("votes", "share"),
    [
        ([0, 48, 2, 0], 0.96),
        ([0.25, 0.75], 0.75),
        ("[1, 1]", 0.5),
        (["cat", "dog", " cat", "cat"], 0.75),
        ('["cat", "dog"]', 0.5),
        ("cat,cat , dog,cat", 0.75),
        ("cat", 1.0),
        ("3,3,5", 2 / 3),
        (["cat", None, "", "cat"], 1.0),
    ],
)
def test_agreement_is_the_winners_share_of_numbers_or_words(votes, share):
    assert agreement(votes) == pytest.approx(share)


@pytest.mark.parametrize("votes", [None, "", [], [0, 0], "[]", " , ", [None, ""], float("nan")])
def test_where_nobody_voted_there_is_no_agreement(votes):
    assert agreement(votes) is None


def test_votes_in_one_text_may_have_another_separator(write):
    path = write("a.csv", "text,votes\nhi,a|a|b\nyo,a|a|a\n")
    settings = Neutral(votes_column="votes", votes_separator="|", min_agreement=0.9)
    assert neutral(load_texts(path, LoadTexts(neutral=settings))) == [True, False]


def test_a_row_is_neutral_where_fewer_agree_than_asked_for(write):
    rows = [[8, 2], [7, 3], None, [0, 0], [5, 5]]
    path = write("a.jsonl", "".join(json.dumps({"text": f"text {n}", "votes": votes}) + "\n" for n, votes in enumerate(rows)))
    dataset = load_texts(path, LoadTexts(neutral=Neutral(votes_column="votes", min_agreement=0.8)))
    assert neutral(dataset) == [False, True, False, False, True]


def test_a_row_is_neutral_where_the_confidence_is_below_the_bound(write):
    path = write("a.csv", "text,sure\na,0.5\nb,0.49\nc,\nd,NA\ne,-1e3\n")
    dataset = load_texts(path, LoadTexts(neutral=Neutral(confidence_column="sure", min_confidence=0.5)))
    assert neutral(dataset) == [False, True, False, False, True]


def test_any_criterion_makes_a_row_neutral(write):
    path = write("a.csv", 'text,odd,votes,sure\na,yes,"x,x",1\nb,no,"x,y",1\nc,no,"x,x",0\nd,no,"x,x",1\n')
    settings = Neutral(column="odd", votes_column="votes", min_agreement=1, confidence_column="sure", min_confidence=0.5)
    dataset = load_texts(path, LoadTexts(neutral=settings, validation_share=0, test_share=0))
    assert neutral(dataset) == [True, True, True, False]
    assert dataset.manifest.details["neutral"] == {"train": 3, "validation": 0, "test": 0}


@pytest.mark.parametrize(
    ("settings", "value", "reason"),
    [
        (Neutral(votes_column="x", min_agreement=0.5), [3, -1], r"column 'x' holds \[3, -1\]; votes are numbers from 0 up"),
        (Neutral(votes_column="x", min_agreement=0.5), [3, "cat"], r"column 'x' holds \[3, 'cat'\]; votes are numbers from 0"),
        (Neutral(votes_column="x", min_agreement=0.5), [True, False], r"votes are numbers from 0 up, one a class, or words"),
        (Neutral(votes_column="x", min_agreement=0.5), "[1, NaN]", r"votes are numbers from 0 up"),
        (Neutral(votes_column="x", min_agreement=0.5), 7, r"column 'x' holds 7, not votes \(a list of numbers, or of words\)"),
        (Neutral(confidence_column="x", min_confidence=0.5), "85%", "column 'x' holds '85%', not a number"),
        (Neutral(confidence_column="x", min_confidence=0.5), "y" * 99, r"holds 'y{59}\.\.\., not a number"),
    ],
)
def test_votes_and_confidences_that_can_not_be_read_set_their_row_aside(write, settings, value, reason):
    rows = [{"text": "hi", "x": None}, {"text": "yo", "x": value}]
    path = write("a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    dataset = load_texts(path, LoadTexts(neutral=settings, max_unreadable=0.5))
    [(place, found)] = rejected(dataset)
    assert place == "a.jsonl line 2" and re.search(reason, found) and contents(dataset) == ["hi"]


@pytest.mark.parametrize("role", ["votes", "confidence"])
def test_a_column_and_its_bound_belong_together(write, role):
    bound = {"votes": "min_agreement", "confidence": "min_confidence"}[role]
    for settings in (Neutral(**{f"{role}_column": "text"}), Neutral(**{bound: 0.5})):
        with pytest.raises(UserError, match=rf"neutral\.{role}_column and neutral\.{bound} belong together; give both or neither"):
            load_texts(write("a.csv", "text\nhi\n"), LoadTexts(neutral=settings))


@pytest.mark.parametrize(
    ("role", "settings"),
    [
        ("neutral", Neutral(column="vote")),
        ("votes", Neutral(votes_column="vote", min_agreement=0.5)),
        ("confidence", Neutral(confidence_column="vote", min_confidence=1)),
    ],
)
def test_a_column_that_would_make_rows_neutral_must_be_there(write, role, settings):
    with pytest.raises(UserError, match=rf"{role} column 'vote' is not known; did you mean 'votes' or 'text'\?"):
        load_texts(write("a.csv", "text,votes\nhi,1\n"), LoadTexts(neutral=settings))


def test_a_column_that_makes_rows_neutral_is_no_content(write):
    settings = Neutral(column="odd", votes_column="votes", min_agreement=0.5, confidence_column="sure", min_confidence=1)
    path = write("a.csv", "words,odd,votes,sure,label\nhi,1,a,1,x\nyo,0,a,1,y\n")
    assert contents(load_texts(path, LoadTexts(neutral=settings))) == ["hi", "yo"]
    assert load_table(path, LoadTable(neutral=settings)).manifest.details["columns"] == {"words": "string"}


def test_without_a_criterion_nothing_is_said_of_neutral_rows(write):
    dataset = load_texts(write("a.csv", "text,neutral\nhi,1\n"))
    assert "neutral" not in read_rows(dataset).column_names and "neutral" not in dataset.manifest.details


# Corrections


DOUBTED = "text,label,odd\none,a,1\ntwo,b,1\nthree,a,0\nfour,,1\n"
ID_ONE, ID_TWO, ID_THREE, ID_FOUR = (splits.hash64(text) for text in (b"one", b"two", b"three", b"four"))


@pytest.fixture
def correct(write):
    """Load four rows, three of them neutral, with a file of corrections; their labels and neutrality."""

    def corrected(lines, name="c.csv", source=DOUBTED, **settings):
        corrections = write(name, lines if isinstance(lines, bytes) or name != "c.csv" else f"id,label\n{lines}")
        settings = LoadTexts(neutral=Neutral(column="odd"), corrections=str(corrections), **settings)
        dataset = load_texts(write("doubted.csv", source), settings)
        return column(dataset, "label"), neutral(dataset)

    return corrected


def test_a_corrected_row_has_its_new_label_and_is_no_longer_neutral(correct):
    assert correct(f"{ID_ONE},b\n{ID_THREE},b\n{ID_FOUR},a\n") == (["b", "b", "b", "a"], [False, True, False, False])


@pytest.mark.parametrize("still", ["", "neutral"])
def test_a_row_that_is_still_neutral_keeps_its_label(correct, still):
    assert correct(f"{ID_ONE},{still}\n{ID_THREE},{still}\n") == (["a", "b", "a", None], [True, True, False, True])


def test_neutral_is_a_label_where_it_is_a_class(correct):
    labels, marks = correct(f"{ID_ONE},neutral\n", source=DOUBTED.replace("three,a", "three,neutral"))
    assert (labels, marks) == (["neutral", "b", "neutral", None], [False, True, False, True])


def test_corrections_come_from_json_lines_too(correct):
    lines = [{"id": ID_ONE, "label": "b"}, {"id": str(ID_TWO), "label": None}, {"id": ID_FOUR, "label": "a", "by": "me"}]
    found = correct("".join(json.dumps(line) + "\n" for line in lines), "c.jsonl")
    assert found == (["b", "b", "a", "a"], [False, True, False, False])


@pytest.mark.parametrize("label", ['"[""a"", ""b""]"', '"a,b"'], ids=["JSON", "separator"])
def test_a_correction_may_hold_several_labels(correct, label):
    source = DOUBTED.replace("two,b", 'two,"b,a"')
    labels, _ = correct(f"{ID_ONE},{label}\n{ID_FOUR},b\n", source=source, label_separator=",")
    assert labels == [["a", "b"], ["b", "a"], ["a"], ["b"]]


def test_the_last_correction_of_a_row_counts_so_that_files_can_be_joined(correct):
    labels, marks = correct(f"{ID_ONE},b\n{ID_TWO},\nid,label\n{ID_ONE},\n{ID_TWO},a\n")
    assert (labels, marks) == (["a", "a", "a", None], [True, False, False, True])


def test_where_corrections_lie_makes_no_other_dataset_but_what_stands_in_them_does(write):
    path, lines = write("t.csv", "text\none\ntwo\nthree\n"), f"id,label\n{ID_ONE},a\n"
    here, there = (write(name, lines) for name in ("c.csv", "elsewhere.csv"))
    first = load_texts(path, LoadTexts(corrections=str(here)))
    assert load_texts(path, LoadTexts(corrections=str(there))) == first
    there.write_text(lines.replace(",a", ",b"))
    assert load_texts(path, LoadTexts(corrections=str(there))) != first
    assert first.manifest.settings["corrections"].startswith(f"{here}#sha256=")


def test_corrections_may_be_the_only_labels(write):
    path = write("a.csv", "text\none\ntwo\n")
    dataset = load_texts(path, LoadTexts(corrections=str(write("c.csv", f"id,label\n{ID_ONE},a\n"))))
    assert column(dataset, "label") == ["a", None] and dataset.manifest.notes == []
    assert dataset.manifest.details["corrections"] == 1


def test_corrected_labels_decide_the_split(write):
    path = write("a.csv", csv(40, "text,label,key", "text {n},a,{n}"))
    corrections = write("c.csv", "id,label\n" + "".join(f"{n},b\n" for n in range(20)))
    dataset = load_texts(path, LoadTexts(key_column="key", split="stratified", corrections=str(corrections)))
    of = list(zip(column(dataset, "label"), column(dataset, "split"), strict=True))
    assert of.count(("b", "test")) == of.count(("a", "test")) == 4


def test_a_label_that_no_row_had_is_said(correct, caplog):
    caplog.set_level(logging.WARNING)
    assert correct(f"{ID_ONE},bb\n{ID_TWO},a\n")[0] == ["bb", "a", "a", None]
    assert "the corrections bring labels that no row had: bb" in caplog.text


def test_a_word_among_numbers_is_refused_in_corrections(correct):
    source = "text,label,odd\none,1.5,1\ntwo,2.5,1\nthree,0.1,0\n"
    assert correct(f"{ID_ONE},3\n", source=source)[0] == [3.0, 2.5, 0.1]
    with pytest.raises(UserError, match="the label 'much' is no number"):
        correct(f"{ID_ONE},much\n", source=source)


def test_a_correction_that_fits_no_row_is_refused(correct):
    with pytest.raises(UserError, match=r"2 of the 3 corrections in .*c\.csv fit no row, such as the one of id 5; take them"):
        correct(f"{ID_ONE},a\n5,b\n6,b\n")


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("x,a\n", r"c\.csv line 2 can't be taken as a correction: 'x' is no id \(a whole number, as in rows\.parquet\); mend or"),
        ("1.5e18,a\n", "'1.5e18' is no id"),
        ("007,a\n", "'007' is no id"),
        (f"{2**63},a\n", f"'{2**63}' is no id"),
        ("1,a,b\n", "3 columns instead of 2"),
        (b"row,label\n1,a\n", "line 2 can't be taken as a correction: it has row, label, but not both id and label"),
    ],
)
def test_a_line_that_is_no_correction_is_refused(correct, lines, reason):
    with pytest.raises(UserError, match=reason):
        correct(lines)


def test_other_corrections_make_another_dataset_and_the_same_ones_the_same(write):
    path = write("a.csv", DOUBTED)

    def load(lines):
        return load_texts(path, LoadTexts(corrections=str(write("c.csv", f"id,label\n{lines}"))))

    first = load(f"{ID_ONE},b\n")
    second = load(f"{ID_ONE},c\n")
    assert column(first, "label")[0] == "b" and column(second, "label")[0] == "c"
    assert first.manifest.fingerprint != second.manifest.fingerprint
    assert load(f"{ID_ONE},b\n") == first != load_texts(path)


def test_a_setting_of_corrections_says_which_content_was_meant(write):
    path = write("c.csv", "id,label\n1,a\n")
    settings = LoadTexts(corrections=str(path))
    assert settings.corrections == f"{path}#sha256={hashlib.sha256(path.read_bytes()).hexdigest()}"
    assert LoadTexts.model_validate_json(settings.model_dump_json()) == settings and hash(settings) == hash(settings.model_copy())
    assert settings.model_dump(mode="json")["corrections"] == settings.corrections
    assert LoadTexts.model_json_schema()["properties"]["corrections"]["anyOf"] == [{"type": "string"}, {"type": "null"}]
    write("c.csv", "id,label\n1,b\n")
    with pytest.raises(ValueError, match=r"c\.csv has other corrections than were meant \(SHA-256 \w{8}\.\.\., not \w{8}"):
        LoadTexts.model_validate_json(settings.model_dump_json())
    with pytest.raises(UserError, match="has other corrections than were meant"):
        load_texts(write("a.csv", DOUBTED), settings)  # changed since the call was written


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("d.csv", r"the file or folder 'd\.csv' is not known; did you mean 'c\.csv'"),
        (".", "is no file; corrections come from a csv or jsonl file with the columns id and label"),
        ("builtin:digits", "builtin:digits is no file"),
    ],
)
def test_corrections_must_be_a_file(write, monkeypatch, path, reason):
    monkeypatch.chdir(write("c.csv", "id,label\n").parent)
    with pytest.raises(ValueError, match=reason):
        LoadTexts(corrections=path)


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that even root can't read")
def test_corrections_that_can_not_be_read_are_refused():
    with pytest.raises(ValueError, match=r"/proc/self/mem can't be read \(Input/output error\); mend its permissions"):
        LoadTexts(corrections="/proc/self/mem")


def test_corrections_and_neutral_rows_are_options_of_the_command_line(write):
    write("a.csv", DOUBTED)
    folder = write("c.csv", f"id,label\n{ID_ONE},b\n").parent

    def embedkit(*words):
        command = [sys.executable, "-m", "embedkit", "load-texts", "a.csv", "--text-column", "text", *words]
        return subprocess.run(command, capture_output=True, text=True, cwd=folder)

    def load():
        done = embedkit("--neutral.column", "odd", "--corrections", "c.csv")
        assert done.returncode == 0, done.stderr
        return Artifact.open(done.stdout.strip())

    first = load()
    assert (column(first, "label"), neutral(first)) == (["b", "b", "a", None], [False, True, False, True])
    assert load() == first
    write("c.csv", f"id,label\n{ID_ONE},c\n")
    assert column(load(), "label") == ["c", "b", "a", None] and load() != first
    refused = embedkit("--corrections", "d.csv")
    assert refused.returncode == 2 and "the file or folder 'd.csv' is not known; did you mean 'c.csv'" in refused.stderr


# What can't be read


def test_rows_that_can_not_be_read_are_set_aside_with_place_and_reason(write):
    good = b"".join(b"text %d,1\n" % n for n in range(100))
    path = write("a.csv", b"text,label\n" + b"one column\n" + b"caf\xe9,1\n" + b",1\n" + good + b"a,b,c\n")
    dataset = load_texts(path, LoadTexts(validation_share=0, test_share=0))
    assert contents(dataset) == [f"text {n}" for n in range(100)]
    assert column(dataset, "position") == list(range(3, 103))
    assert rejected(dataset) == [
        ("a.csv line 2", "1 columns instead of 2"),
        ("a.csv line 3", "not in the encoding utf-8"),
        ("a.csv line 4", "the text is missing"),
        ("a.csv line 105", "3 columns instead of 2"),
    ]
    assert dataset.manifest.details["rejected"] == 4
    assert dataset.manifest.notes == ["4 of 104 records could not be read: a.csv line 2: 1 columns instead of 2 (rejected.parquet)"]


def test_what_is_set_aside_is_said_as_a_warning(write, caplog):
    with caplog.at_level(logging.WARNING, "embedkit"):
        load_texts(write("a.csv", csv(20) + ",\n"))
    assert caplog.messages == ["1 of 21 records could not be read: a.csv line 22: 2 columns instead of 1 (rejected.parquet)"]


def test_json_texts_that_are_none_blank_numbers_or_no_unicode_are_set_aside(write):
    bad = ['{"text": null}', '{"text": "  \\n"}', '{"text": 5}', '{"other": 1}', '{"text": "\\ud800"}', "[1]"]
    path = write("a.jsonl", "\n".join(bad) + "\n" + "".join(json.dumps({"text": f"text {n}"}) + "\n" for n in range(100)))
    dataset = load_texts(path)
    assert contents(dataset) == [f"text {n}" for n in range(100)]
    assert [place for place, _ in rejected(dataset)] == [f"a.jsonl line {n}" for n in range(1, 7)]
    reasons = [reason for _, reason in rejected(dataset)]
    assert reasons[:4] == ["the text is missing", "the text is blank", "column 'text' holds int, not a text", "the text is missing"]
    assert "not valid Unicode (a lone surrogate)" in reasons[4] and reasons[5] == "not a JSON object but list"


@pytest.mark.parametrize("load", [load_texts, load_table])
@pytest.mark.parametrize(
    "line",
    [b'{"text": "x", "label": "\\ud800"}', b'{"text": "caf\xe9", "label": 1}', b'{"text": "x", "label": ["caf\xe9"]}'],
    ids=["escaped label", "text in latin-1", "list in latin-1"],
)
def test_one_row_that_is_no_unicode_costs_no_more_than_itself(write, load, line):
    good = b"".join(b'{"text": "text %d", "label": "1"}\n' % n for n in range(20))
    dataset = load(write("a.jsonl", good + line + b"\n"))
    assert dataset.manifest.rows == 20 and [place for place, _ in rejected(dataset)] == ["a.jsonl line 21"]


def test_pictures_that_can_not_be_read_are_set_aside_with_their_reason(write):
    jpeg = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(jpeg, "JPEG")
    for n in range(60):
        write(f"pictures/good/{n:02d}.png", png(n, n, n))
    write("pictures/good/60.jpg", png(1, 2, 3))  # a PNG in all but name
    write("pictures/bad/empty.jpg", b"")
    write("pictures/bad/half.jpg", jpeg.getvalue()[: len(jpeg.getvalue()) // 2])
    folder = write("pictures/bad/text.jpg", "a text").parents[1]
    dataset = load_images(folder)
    assert dataset.manifest.rows == 61
    (empty, nothing), (half, cut), (text, words) = rejected(dataset)
    assert (empty, half, text) == ("bad/empty.jpg", "bad/half.jpg", "bad/text.jpg")
    assert nothing == "the file is empty" and cut.startswith("not a readable picture (") and words.startswith("not a readable pic")
    assert dataset.manifest.details["label"]["classes"] == {"good": 61}


def test_pictures_that_can_not_be_read_give_the_same_files_each_time(write, tmp_path):
    for n in range(20):
        write(f"pictures/{n:02d}.png", png(n, n, n))
    folder = write("pictures/text.jpg", "a text in a file that is named like a picture").parent
    one, two = (load_images(folder, root=tmp_path / root) for root in ("one", "two"))
    assert sums(one) == sums(two)


def test_more_unreadable_records_than_allowed_stop_the_load(write):
    path = write("a.csv", csv(8, "text,label", "text {n},1") + "bad\nbad\n")
    with pytest.raises(
        UserError,
        match=r"2 of the first 10 records of .*a\.csv can't be read, more than 10%: a\.csv line 10: 1 columns instead of 2; "
        r"mend the source, say how it is read \(`files` settings\), or raise max_unreadable",
    ):
        load_texts(path)
    assert load_texts(path, LoadTexts(max_unreadable=0.2)).manifest.details["rejected"] == 2


def test_as_many_unreadable_records_as_allowed_do_not(write):
    assert load_texts(write("a.csv", csv(9, "text,label", "text {n},1") + "bad\n")).manifest.details["rejected"] == 1


def test_not_one_unreadable_record_may_be_allowed(write):
    path = write("a.csv", csv(99, "text,label", "text {n},1") + "bad\n")
    with pytest.raises(UserError, match="1 of the first 100 records of .* can't be read, more than 0%"):
        load_texts(path, LoadTexts(max_unreadable=0))


def test_a_hopeless_source_stops_early(write):
    path = write("a.csv", "text,label\n" + "bad\n" * 200 + "".join(f"text {n},1\n" for n in range(5000)))
    with pytest.raises(UserError, match="200 of the first 1,200 records of"):
        load_texts(path, LoadTexts(rows_per_part=500))


def test_a_bad_start_is_forgiven_where_the_whole_is_good(write):
    path = write("a.csv", "text,label\n" + "bad\n" * 90 + "".join(f"text {n},1\n" for n in range(1000)))
    assert load_texts(path, LoadTexts(rows_per_part=100)).manifest.details["rejected"] == 90


# Pictures


def test_class_folders_are_labels_and_paths_are_kept(write):
    for n, name in enumerate(("ants/1.png", "ants/sub/2.png", "bees/1.png")):
        write(f"insects/{name}", png(n, 0, 0))
    dataset = load_images(write("insects/notes.txt", "").parent)
    assert str(dataset).startswith("images/insects@")
    assert contents(dataset, "path") == ["ants/1.png", "ants/sub/2.png", "bees/1.png"]
    assert column(dataset, "label") == ["ants", "ants", "bees"]
    assert contents(dataset, "image") == [png(n, 0, 0) for n in range(3)]


def test_split_folders_above_class_folders_are_the_splits(write):
    for n, name in enumerate(("train/a/1.png", "train/b/1.png", "val/a/1.png", "test/b/1.png")):
        write(f"split/{name}", png(n, 0, 0))
    dataset = load_images(write("split/notes.txt", "").parent)
    assert list(zip(contents(dataset, "path"), column(dataset, "split"), column(dataset, "label"), strict=True)) == [
        ("test/b/1.png", "test", "b"),
        ("train/a/1.png", "train", "a"),
        ("train/b/1.png", "train", "b"),
        ("val/a/1.png", "validation", "a"),
    ]


def test_a_flat_folder_has_no_labels(photos):
    flat = photos.parent / "flat"
    flat.mkdir()
    for path in photos.rglob("*.png"):
        path.rename(flat / path.name)
    dataset = load_images(flat)
    assert dataset.manifest.rows == 60 and dataset.manifest.details["label"] is None
    assert contents(dataset, "path") == [f"{n:03d}.png" for n in range(60)]


def test_a_moved_folder_is_the_same_dataset(photos):
    first = load_images(photos)
    assert str(load_images(photos.rename(photos.with_name("moved")))) == str(first)


def test_pictures_of_parquet_may_be_bytes_or_structs(tmp_path):
    data = [png(n, 0, 0) for n in range(4)]
    pq.write_table(pa.table({"image": data, "label": [0, 1, 0, 1]}), tmp_path / "bytes.parquet")
    structs = [{"bytes": one, "path": f"{n}.png"} for n, one in enumerate(data)]
    pq.write_table(pa.table({"image": structs, "label": [0, 1, 0, 1]}), tmp_path / "structs.parquet")
    one, two = load_images(tmp_path / "bytes.parquet"), load_images(tmp_path / "structs.parquet")
    for dataset in (one, two):
        assert contents(dataset, "image") == data and column(dataset, "label") == ["0", "1", "0", "1"]
    assert contents(one, "path") == [f"bytes.parquet row {n}" for n in range(4)]
    assert contents(two, "path") == ["0.png", "1.png", "2.png", "3.png"]


def test_pictures_of_the_datasets_library_keep_their_class_names(tmp_path):
    import datasets

    data = {"image": [{"bytes": png(n, 0, 0), "path": f"{n}.png"} for n in range(3)], "label": [1, 0, -1]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    datasets.Dataset.from_dict(data, features=features).to_parquet(tmp_path / "hf.parquet")
    dataset = load_images(tmp_path / "hf.parquet")
    assert column(dataset, "label") == ["dog", "cat", None]
    assert contents(dataset, "image") == [png(n, 0, 0) for n in range(3)]


def test_an_image_column_without_pictures_is_set_aside(tmp_path):
    values = [png(n, 0, 0) for n in range(20)] + [None, b"", b"text"]
    pq.write_table(pa.table({"image": values}), tmp_path / "a.parquet")
    dataset = load_images(tmp_path / "a.parquet", LoadImages(max_unreadable=0.2))
    assert [place for place, _ in rejected(dataset)] == [f"a.parquet row {n}" for n in (20, 21, 22)]
    assert rejected(dataset)[0][1] == "column 'image' holds NoneType, not an encoded picture"


def test_a_list_whose_pictures_are_not_there_is_refused_with_the_first(write):
    with pytest.raises(UserError, match=r"1 of the first 1 records .*: a\.csv line 2: there is no file 'a\.jpg' beside"):
        load_images(write("a.csv", "image,label\na.jpg,cat\n"))


def test_pictures_do_not_come_from_a_file_of_texts(write):
    with pytest.raises(UserError, match=r"image column 'image' is not known; there is text, label \(set image_column\)"):
        load_images(write("a.csv", "text,label\nhi,1\n"))


# Tables


def test_a_table_keeps_odd_columns_with_their_types(write):
    path = write(
        "a.csv",
        "id,split,content,position,day,ok,price,none,mixed,label\n"
        "7,north,x,1,2020-01-31,true,1.5,,1,yes\n"
        "8,south,y,2,2020-02-01 10:30:00,false,2,,a,no\n"
        "9,,,,,,NA,,,yes\n",
    )
    dataset = load_table(path, LoadTable(validation_share=0, test_share=0))
    assert dataset.manifest.details["columns"] == {
        **{"id": "int64", "split": "string", "content": "string", "position": "int64", "day": "timestamp[us]", "ok": "bool"},
        **{"price": "double", "none": "string", "mixed": "string"},
    }
    assert read_contents(dataset, 0, 3).to_pydict() == {
        **{"id": [7, 8, 9], "split": ["north", "south", None], "content": ["x", "y", None], "position": [1, 2, None]},
        **{"day": [datetime(2020, 1, 31), datetime(2020, 2, 1, 10, 30), None], "ok": [True, False, None]},
        **{"price": [1.5, 2.0, None], "none": [None] * 3, "mixed": ["1", "a", None]},
    }
    assert column(dataset, "label") == ["yes", "no", "yes"] and column(dataset, "split") == ["train"] * 3
    assert len(set(column(dataset, "id"))) == 3 and 7 not in column(dataset, "id")


def test_numbers_of_json_and_parquet_keep_their_fractions(write, tmp_path):
    values = [0.5, 1.0, None, -2.25]
    pq.write_table(pa.table({"x": values}), tmp_path / "a.parquet")
    lines = "".join(json.dumps({"x": value}) + "\n" for value in values)
    for path in (tmp_path / "a.parquet", write("a.jsonl", lines)):
        dataset = load_table(path)
        assert dataset.manifest.details["columns"] == {"x": "double"}
        assert contents(dataset, "x") == values


def test_not_a_number_in_parquet_is_a_value_like_others(tmp_path):
    pq.write_table(pa.table({"x": [0.5, float("nan"), None]}), tmp_path / "a.parquet")
    first, second, third = contents(load_table(tmp_path / "a.parquet"), "x")
    assert first == 0.5 and third is None and (second is None or np.isnan(second))


def test_keys_that_only_some_json_rows_have_are_columns_with_gaps(write):
    lines = [{"a": 1}, {"b": "x"}, {"a": 2, "b": "y", "c": [1, {"d": 2}]}, {"label": "z", "a": 3}]
    dataset = load_table(write("a.jsonl", "".join(json.dumps(line) + "\n" for line in lines)))
    assert read_contents(dataset, 0, 4).to_pydict() == {
        **{"a": [1, None, 2, 3], "b": [None, "x", "y", None], "c": [None, None, '[1, {"d": 2}]', None]}
    }
    assert column(dataset, "label") == [None, None, None, "z"]


def test_a_key_that_first_comes_late_is_a_column_too(write):
    lines = [{"a": n} for n in range(150)] + [{"a": 150, "late": "x"}]
    dataset = load_table(write("a.jsonl", "".join(json.dumps(line) + "\n" for line in lines)))
    assert dataset.manifest.details["columns"] == {"a": "int64", "late": "string"}
    assert contents(dataset, "late") == [None] * 150 + ["x"]


def test_a_column_may_change_its_type_in_a_later_part(write):
    path = write("a.csv", csv(50, "x", "{n}") + "1.5\n")
    dataset = load_table(path, LoadTable(rows_per_part=10))
    assert contents(dataset, "x") == [float(n) for n in range(50)] + [1.5]
    assert {str(pq.read_schema(part)) for part in dataset.path.glob("part-*")} == {"x: double"}


def test_a_table_of_a_label_alone_is_refused(write):
    with pytest.raises(UserError, match=r"a\.csv has no column left beside label; a table needs one at least"):
        load_table(write("a.csv", "label\nx\n"))


def test_equal_rows_of_a_table_are_equal_whatever_their_label(write):
    dataset = load_table(write("a.csv", "x,y,label\n1,2,a\n1,2,b\n2,1,a\n"))
    one, two, three = column(dataset, "content")
    assert one == two != three and dataset.manifest.details["copies"] == 1


def test_a_missing_value_and_the_word_none_are_different_contents(write):
    dataset = load_table(write("a.jsonl", '{"x": null, "y": "a"}\n{"x": "None", "y": "a"}\n'))
    assert dataset.manifest.details["copies"] == 0 and len(set(column(dataset, "content"))) == 2


def test_a_table_without_a_header_gets_its_names(write):
    dataset = load_table(write("a.csv", "1,x\n2,y\n"), LoadTable(files=ReadFiles(column_names=("n", "word")), test_share=0))
    assert read_contents(dataset, 0, 2).to_pydict() == {"n": [1, 2], "word": ["x", "y"]}


def test_a_limit_is_part_of_what_was_asked_for(write):
    path = write("a.csv", csv(30))
    assert load_texts(path, LoadTexts(files=ReadFiles(limit=7))).manifest.rows == 7
    assert load_texts(path).manifest.rows == 30


# Parts


def test_rows_are_read_across_parts(write):
    dataset = load_texts(write("a.csv", csv(25)), LoadTexts(rows_per_part=10))
    assert dataset.manifest.details["parts"] == [10, 10, 5]
    assert sorted(path.name for path in dataset.path.glob("part-*")) == [f"part-{n:05d}.parquet" for n in range(3)]
    for start, stop in ((0, 25), (9, 11), (10, 20), (0, 1), (24, 25), (5, 21), (20, 99)):
        texts = read_contents(dataset, start, stop)["text"].to_pylist()
        assert texts == [f"text {n}" for n in range(start, min(stop, 25))]


def test_an_empty_range_has_no_rows(write):
    dataset = load_texts(write("a.csv", csv(25)), LoadTexts(rows_per_part=10))
    for start, stop in ((3, 3), (10, 10), (25, 30)):
        found = read_contents(dataset, start, stop)
        assert found.num_rows == 0 and found.column_names == ["text"]


def test_rows_may_be_read_by_column(write):
    dataset = load_texts(write("a.csv", csv(5)))
    assert read_rows(dataset, ["split", "id"]).column_names == ["split", "id"]


def test_contents_are_fetched_by_id_in_the_order_asked_for(write):
    dataset = load_texts(write("a.csv", csv(25)), LoadTexts(rows_per_part=10))
    ids = column(dataset, "id")
    wanted = [24, 0, 10, 9, 0, 19]
    assert fetch(dataset, [ids[n] for n in wanted]) == [{"text": f"text {n}"} for n in wanted]
    assert fetch(dataset, []) == []


@pytest.mark.parametrize("stranger", [-1, 5, 2**63 - 1, 2**63, 2**70])
def test_an_id_that_is_not_there_is_none(write, stranger):
    dataset = load_texts(write("a.csv", csv(25)), LoadTexts(rows_per_part=10))
    assert fetch(dataset, [stranger, column(dataset, "id")[3], stranger]) == [None, {"text": "text 3"}, None]


def test_a_source_that_ends_with_a_part_leaves_no_empty_file(write):
    dataset = load_texts(write("a.csv", csv(20)), LoadTexts(rows_per_part=10))
    assert dataset.manifest.details["parts"] == [10, 10]
    assert sorted(path.name for path in dataset.path.iterdir()) == [
        *("manifest.json", "near.parquet", "part-00000.parquet", "part-00001.parquet", "rows.parquet"),
    ]
    assert contents(dataset) == [f"text {n}" for n in range(20)]


def test_a_source_that_ends_with_unreadable_records_loses_none_of_them(write):
    path = write("a.csv", csv(20, "text,label", "text {n},1") + "bad\nbad\n")
    dataset = load_texts(path, LoadTexts(rows_per_part=10))
    assert dataset.manifest.details["parts"] == [10, 10] and dataset.manifest.details["rejected"] == 2
    assert [place for place, _ in rejected(dataset)] == ["a.csv line 22", "a.csv line 23"]


def test_the_size_of_parts_changes_nothing_but_the_files(write):
    path = write("a.csv", csv(300, "text,label", "text {n},1") + "bad\n")
    one, many = (load_texts(path, LoadTexts(rows_per_part=size)) for size in (8192, 7))
    assert read_rows(one).equals(read_rows(many)) and contents(one) == contents(many) and rejected(one) == rejected(many)
    assert len(list(many.path.glob("part-*"))) == 43


def test_large_rows_make_smaller_parts(write, monkeypatch):
    from embedkit import datasets

    monkeypatch.setattr(datasets, "BYTES_PER_PART", 100_000)
    path = write("a.csv", "text\n" + "".join(f"{n:04d}{'x' * 996}\n" for n in range(1000)))
    dataset = load_texts(path)
    assert dataset.manifest.details["parts"] == [256, 256, 256, 232]
    assert contents(dataset)[999].startswith("0999")


# Interruption

CHILD = """
import os, signal, sys
from embedkit import datasets
from embedkit.readers import ReadFiles

load, source, left = sys.argv[1], sys.argv[2], int(sys.argv[3])
real = os.fsync

def fsync(descriptor):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    real(descriptor)

os.fsync = fsync  # the one thing that happens at every step that must outlast a crash
settings = {
    "load_table": lambda: datasets.LoadTable(rows_per_part=100, key_column="key", label_column="y", split="stratified"),
    "load_images": lambda: datasets.LoadImages(rows_per_part=15),
    "load_texts": lambda: datasets.LoadTexts(rows_per_part=1000),
}[load]()
getattr(datasets, load)(source, settings)
"""
SAME = {
    "load_table": lambda: LoadTable(rows_per_part=100, key_column="key", label_column="y", split="stratified"),
    "load_images": lambda: LoadImages(rows_per_part=15),
    "load_texts": lambda: LoadTexts(rows_per_part=1000),
}
LOADS = {"load_table": load_table, "load_images": load_images, "load_texts": load_texts}


def killed(load, source, after):
    """Load in a process that dies by SIGKILL instead of its fsync number `after`; whether it died."""
    done = subprocess.run([sys.executable, "-c", CHILD, load, str(source), str(after)], capture_output=True, text=True)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode == -signal.SIGKILL


def drafts(root):
    return {path.name: path for path in root.glob(".drafts/*/[fs]*/part-*.parquet")}


@pytest.fixture
def source_of(write, photos):
    """A source of five parts for each loader, some records unreadable."""
    rows = ["key,x,word,y", *(f"{n},{n / 4},{'abc'[n % 3]},{n % 2}" for n in range(430))]
    rows[200:200] = ["too,few", "too,few"]
    (photos / "left" / "empty.png").write_bytes(b"")
    return {"load_table": write("big.csv", "\n".join(rows) + "\n"), "load_images": photos}


@pytest.mark.parametrize("load", ["load_table", "load_images"])
def test_a_load_killed_at_several_moments_ends_with_the_same_files(load, source_of, root, tmp_path):
    source = source_of[load]
    undisturbed = LOADS[load](source, SAME[load](), root=tmp_path / "undisturbed")
    assert len(undisturbed.manifest.details["parts"]) > 3 and undisturbed.manifest.details["rejected"] > 0
    kept = {}
    for after in (0, 6, 6, 14):  # in the first part, later ones, and while what is finished is made ready to be seen
        assert killed(load, source, after)
        assert not list(root.glob("*/*/*/manifest.json"))  # nothing half-finished can be seen
        receipts = {path.stem for path in root.glob(".drafts/*/work/receipts/part-*.json")}
        for name, path in drafts(root).items():
            if name in receipts:
                kept.setdefault(name, path.stat().st_ino)
    assert list(root.glob(".drafts/*/[fs]*/rows.parquet"))  # the last kill came when all parts were made
    finished = LOADS[load](source, SAME[load]())
    assert sums(finished) == sums(undisturbed)
    assert finished.manifest.details == undisturbed.manifest.details and finished.manifest.notes == undisturbed.manifest.notes
    inodes = {path.name: path.stat().st_ino for path in finished.path.glob("part-*")}
    assert len(inodes) > 3 and inodes.items() <= kept.items()  # finished parts were not made again


def test_a_part_damaged_between_two_runs_is_made_again(source_of, root, tmp_path):
    source = source_of["load_table"]
    assert killed("load_table", source, 9)
    assert len(drafts(root)) >= 2
    part = drafts(root)["part-00000.parquet"]
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    finished = load_table(source, SAME["load_table"]())
    assert sums(finished) == sums(load_table(source, SAME["load_table"](), root=tmp_path / "undisturbed"))


def test_a_load_killed_from_outside_again_and_again_ends_with_the_same_files(write, root, tmp_path):
    source = write("many.csv", csv(40_000, "text,label", "text number {n},class") + "bad line\n")
    undisturbed = load_texts(source, SAME["load_texts"](), root=tmp_path / "undisturbed")
    deaths = 0
    for parts in (1, 9, 25):
        process = subprocess.Popen([sys.executable, "-c", CHILD, "load_texts", str(source), "1000000"], stderr=subprocess.PIPE)
        with process:
            while process.poll() is None and len(drafts(root)) < parts:
                time.sleep(0.001)
            process.kill()
        deaths += process.returncode == -signal.SIGKILL
    assert deaths >= 2
    finished = load_texts(source, SAME["load_texts"]())
    assert sums(finished) == sums(undisturbed) and len(finished.manifest.details["parts"]) == 40
    assert not list((root / ".drafts").glob("*/files"))


# Real data beside the checkout; the numbers were counted with plain Python and pandas


DATA = SHARED / "data"


def shared_counts(dataset):
    details = dataset.manifest.details
    return dataset.manifest.rows, details["splits"], details["label"]


@pytest.mark.shared
def test_sst2_is_tested_on_its_dev_file():
    dataset = load_texts(DATA / "sst2")
    rows, counts, label = shared_counts(dataset)
    assert rows == 67_349 + 872 and counts["test"] == 872 and counts["train"] + counts["validation"] == 67_349
    assert label == {"type": "class", "labelled": 68_221, "classes": {"0": 30_208, "1": 38_013}}
    with (DATA / "sst2" / "dev.tsv").open(newline="") as file:
        lines = file.read().split("\n")[1:-1]
    assert contents(dataset)[:872] == [line.split("\t")[0] for line in lines]
    assert column(dataset, "label")[:872] == [line.split("\t")[1] for line in lines]


@pytest.mark.shared
def test_hymenoptera_has_a_class_for_each_folder():
    dataset = load_images(DATA / "hymenoptera")
    rows, counts, label = shared_counts(dataset)
    files = {side: list((DATA / "hymenoptera" / side).glob("*/*.*")) for side in ("train", "val")}
    assert rows == 398 == len(files["train"]) + len(files["val"]) and counts["test"] == 153 == len(files["val"])
    assert label == {"type": "class", "labelled": 398, "classes": {"ants": 194, "bees": 204}}
    path = DATA / "hymenoptera" / contents(dataset, "path")[200]
    assert contents(dataset, "image")[200] == path.read_bytes() and column(dataset, "label")[200] == path.parent.name


@pytest.mark.shared
def test_cifar10h_comes_from_parquet_with_its_pictures():
    dataset = load_images(DATA / "cifar10h" / "cifar10-test-human.parquet", LoadImages(files=ReadFiles(limit=1500)))
    table = pq.read_table(DATA / "cifar10h" / "cifar10-test-human.parquet").slice(0, 1500)
    assert dataset.manifest.rows == 1500 and dataset.manifest.details["columns"] == {"image": "binary", "path": "string"}
    assert contents(dataset, "image") == [image["bytes"] for image in table["image"].to_pylist()]
    assert column(dataset, "label") == table["label"].to_pylist()
    assert dataset.manifest.details["label"]["classes"]["airplane"] == table["label"].to_pylist().count("airplane") == 149


@pytest.mark.shared
def test_cifar10h_is_neutral_where_people_disagree():
    settings = Neutral(votes_column="human_counts", min_agreement=0.8)
    path = DATA / "cifar10h" / "cifar10-test-human.parquet"
    dataset = load_images(path, LoadImages(neutral=settings, files=ReadFiles(limit=1500)))
    votes = pq.read_table(path).slice(0, 1500)["human_counts"].to_pylist()
    assert neutral(dataset) == [max(row) < 0.8 * sum(row) for row in votes] and sum(neutral(dataset)) == 85


@pytest.mark.shared
def test_goemotions_has_several_labels_a_row():
    names = ReadFiles(column_names=("text", "label", "id"))
    dataset = load_texts(DATA / "goemotions", LoadTexts(label_separator=",", files=names, duplicates="keep"))
    rows, counts, label = shared_counts(dataset)
    assert rows == 43_410 + 5_426 and counts["test"] == 5_426
    assert label["type"] == "classes" and len(label["classes"]) == 28
    lines = [line.split("\t") for line in (DATA / "goemotions" / "dev.tsv").read_text().split("\n")[:-1]]
    assert column(dataset, "label")[:5_426] == [line[1].split(",") for line in lines]
    assert sum(len(labels) > 1 for labels in column(dataset, "label")) / rows == pytest.approx(0.16, abs=0.005)
    assert dataset.manifest.details["rejected"] == 0


@pytest.mark.shared
def test_bike_sharing_is_split_by_its_dates():
    settings = LoadTable(label_column="cnt", split="time", time_column="dteday", time_format="%m/%d/%y")
    dataset = load_table(DATA / "bike_sharing" / "hour.csv", settings)
    rows, counts, label = shared_counts(dataset)
    assert (rows, counts) == (17_379, {"train": 12_163, "validation": 1_728, "test": 3_488})
    assert label == {"type": "number", "labelled": 17_379, "lowest": 1.0, "highest": 977.0}
    days = contents(dataset, "dteday")
    sides = column(dataset, "split")
    latest, earliest = (
        choose(day for day, side in zip(days, sides, strict=True) if (side == "test") == test)
        for choose, test in ((max, False), (min, True))
    )
    assert latest < earliest == datetime(2012, 8, 7)


@pytest.mark.shared
def test_ames_has_its_prices_and_its_gaps():
    import pandas

    frame = pandas.read_csv(DATA / "ames" / "AmesHousing.csv")
    dataset = load_table(DATA / "ames" / "AmesHousing.csv", LoadTable(label_column="SalePrice", key_column="PID"))
    rows, counts, label = shared_counts(dataset)
    assert rows == len(frame) == 2_930 and sum(counts.values()) == 2_930
    assert label == {"type": "number", "labelled": 2_930, "lowest": 12_789.0, "highest": 755_000.0}
    assert column(dataset, "id") == frame["PID"].tolist()
    found = read_contents(dataset, 0, rows)
    assert found.num_columns == 80 and found["Lot Frontage"].null_count == frame["Lot Frontage"].isna().sum() == 490
    assert found["Lot Area"].to_pylist() == frame["Lot Area"].tolist()
    numeric = {name for name in found.column_names if frame[name].dtype.kind in "if"}
    assert {name for name in found.column_names if str(found.schema.field(name).type) in ("int64", "double")} == numeric


@pytest.mark.shared
def test_imdb_has_rows_without_a_label():
    dataset = load_texts(DATA / "imdb", LoadTexts(unlabelled=("-1",), files=ReadFiles(limit=3000)))
    lines = [json.loads(line) for line in gzip.open(DATA / "imdb" / "train.jsonl.gz", "rt").readlines()[:3000]]
    assert dataset.manifest.rows == 6000 and dataset.manifest.details["label"]["labelled"] == 3000
    assert contents(dataset)[:3000] == [line["text"] for line in lines]
    assert column(dataset, "label") == [str(line["label"]) for line in lines] + [None] * 3000


@pytest.mark.shared
def test_trec_reads_in_both_encodings_and_differs_in_its_one_odd_row():
    utf8, latin = (load_texts(DATA / "trec", LoadTexts(files=ReadFiles(encoding=name))) for name in ("utf-8", "latin-1"))
    assert utf8.manifest.rows == latin.manifest.rows == 5_452 + 500
    differing = [(one, two) for one, two in zip(contents(utf8), contents(latin), strict=True) if one != two]
    assert len(differing) == 1 and "sister\ufffdcity" in differing[0][0] and "sisterï¿½city" in differing[0][1]


@pytest.mark.shared
def test_movielens_is_read_with_a_tab_and_names():
    settings = LoadTable(
        label_column="rating",
        split="group",
        group_column="user",
        files=ReadFiles(delimiter="\t", column_names=("user", "film", "rating", "at"), limit=20_000),
    )
    dataset = load_table(DATA / "movielens100k" / "u.data", settings)
    lines = [line.split("\t") for line in (DATA / "movielens100k" / "u.data").read_text().split("\n")[:20_000]]
    assert contents(dataset, "user") == [int(line[0]) for line in lines]
    assert column(dataset, "label") == [line[2] for line in lines]
    sides = {}
    for user, side in zip(contents(dataset, "user"), column(dataset, "split"), strict=True):
        sides.setdefault(user, set()).add(side)
    assert all(len(found) == 1 for found in sides.values()) and len(sides) == len({line[0] for line in lines})


@pytest.mark.shared
def test_adult_is_read_without_a_header():
    names = (
        *("age", "workclass", "fnlwgt", "education", "education-num", "marital-status", "occupation", "relationship"),
        *("race", "sex", "capital-gain", "capital-loss", "hours-per-week", "native-country", "income"),
    )
    dataset = load_table(DATA / "adult" / "adult-train.csv", LoadTable(label_column="income", files=ReadFiles(column_names=names)))
    rows, _, label = shared_counts(dataset)
    assert rows == 32_561 and label == {"type": "class", "labelled": 32_561, "classes": {"<=50K": 24_720, ">50K": 7_841}}
    found = read_contents(dataset, 0, rows)
    assert found["age"].to_pylist()[:3] == [39, 50, 38] and str(found.schema.field("fnlwgt").type) == "int64"
    assert found["workclass"].to_pylist().count("?") == 1_836


# Links, names, and what is too large


def animals(tmp_path, count=3):
    """Six pictures in two class folders."""
    folder = tmp_path / "animals"
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            (folder / name / f"{number}.png").write_bytes(png(len(name), number, ord(name[0])))
    return folder


def labels(dataset):
    return sorted(zip(contents(dataset, "path"), column(dataset, "label"), strict=True))


def test_links_back_into_a_folder_bring_no_picture_twice(tmp_path):
    folder = animals(tmp_path)
    before = labels(load_images(folder))
    (folder / "again").symlink_to(folder)
    (folder / "cat" / "up").symlink_to("..")
    (folder / "zoo").symlink_to("dog")
    (folder / "cat" / "gone.png").symlink_to("nowhere.png")
    made = load_images(folder)
    assert labels(made) == before and {label for _, label in before} == {"cat", "dog"}
    assert rejected(made) == [
        *(("again", "a folder that is read as '.'"), ("cat/gone.png", "a link that leads nowhere (nowhere.png)")),
        *(("cat/up", "a folder that is read as '.'"), ("zoo", "a folder that is read as 'dog'")),
    ]
    assert made.manifest.details["passed_over"] == 4 and made.manifest.details["rejected"] == 0
    (note,) = (note for note in made.manifest.notes if "passed over" in note)
    assert note == (
        "4 in the folder passed over: again: a folder that is read as '.' (rejected.parquet); "
        "links out of it are followed with files.follow_links"
    )


def test_links_out_of_a_folder_are_followed_where_the_setting_says_so(tmp_path):
    folder = animals(tmp_path)
    (tmp_path / "birds").mkdir()
    (tmp_path / "birds" / "1.png").write_bytes(png(9, 9, 9))
    (folder / "owl").symlink_to("../birds")
    (folder / "dog" / "3.png").symlink_to("../../birds/1.png")
    kept = load_images(folder)
    assert kept.manifest.rows == 6 and [place for place, _ in rejected(kept)] == ["dog/3.png", "owl"]
    followed = load_images(folder, LoadImages(files=ReadFiles(follow_links=True)))
    assert followed.manifest.rows == 8 and "passed_over" not in followed.manifest.details
    assert ("owl/1.png", "owl") in labels(followed) and ("dog/3.png", "dog") in labels(followed)
    assert followed.manifest.settings["files"]["follow_links"] is True


def test_settings_at_their_defaults_give_a_call_the_fingerprint_it_had(tmp_path, write):
    # of revision 2, which reads anew what 1 read otherwise; before the settings that came later
    table = write("a.csv", "text,label\nhi,1\nyo,2\n")
    write("pics/cat/1.png", b"x"), write("pics/2.png", b"y")
    found = [load_texts.fingerprint(table), load_table.fingerprint(table), load_images.fingerprint(table.parent / "pics")]
    assert found == [
        "6d45c876a1a033a417d9f7b6ca9db1f78e71c14a0630bfcb7102d9ed0224e7a9",
        "0b030c26ead86ad20de60cecde04601f4d5360a2ca909dce4920986595163ceb",
        "184634bdf1434a4eaee726c5d49f203e6221b4bb2b97652ee0f5a26e7cc8ab29",
    ]
    limited = LoadTexts(files=ReadFiles(limit=3))
    assert load_texts.fingerprint(table, limited) == "44278f7d573ada8592c24d9819e37ff7c2050df88ab5ca7b01a9c62fb8b33541"
    assert load_texts.fingerprint(table, LoadTexts(files=ReadFiles(longest_line=99))) != found[0]


def test_a_picture_with_a_name_that_is_no_utf_8_is_set_aside_and_the_others_are_loaded(tmp_path):
    folder = animals(tmp_path, 10)
    named = Path(os.fsdecode(os.fsencode(folder / "cat") + b"/caf\xe9.png"))
    named.write_bytes(png(1, 2, 3))
    (folder / "dog" / "two\nlines.png").write_bytes(png(3, 2, 1))
    made = load_images(folder)
    assert made.manifest.rows == 21 and ("dog/two\nlines.png", "dog") in labels(made)
    assert rejected(made) == [(r"cat/caf\xe9.png", "its name, or that of its folder, is not in UTF-8")]


def test_a_file_with_a_name_that_is_no_utf_8_is_loaded_from_the_command_line(tmp_path, root):
    path = os.fsencode(tmp_path) + b"/caf\xe9.csv"
    Path(os.fsdecode(path)).write_text("text,label\n" + "hi,1\n" * 30 + "broken\n")
    done = subprocess.run([sys.executable, "-m", "embedkit", "load-texts", path], capture_output=True)
    assert done.returncode == 0, done.stderr
    (made,) = (Artifact.at(folder) for folder in (root / "texts").glob("*/*"))
    assert rejected(made) == [(r"caf\xe9.csv line 32", "1 columns instead of 2")]
    assert made.manifest.source["text"].endswith(r"/caf\xe9.csv")


def test_pictures_of_more_pixels_than_are_wanted_are_set_aside(tmp_path):
    folder = animals(tmp_path, 10)
    (folder / "cat" / "large.png").write_bytes(png(1, 2, 3, size=(30, 20)))
    made = load_images(folder, LoadImages(max_pixels=599))
    assert rejected(made) == [("cat/large.png", "30 x 20 pixels are more than 599")]
    assert "max_pixels" not in load_images(folder).manifest.settings


OUT_OF_MEMORY = """
import resource, sys
from embedkit import load_images
from embedkit.cli import main
assert main(["load-images", "few"]) == 0
used = int(next(line for line in open("/proc/self/status") if line.startswith("VmSize")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, -1))
sys.exit(main(["load-images", "many"]))
"""


@pytest.mark.slow
def test_a_picture_for_which_there_is_no_memory_ends_the_load_in_one_sentence(tmp_path):
    animals(tmp_path).rename(tmp_path / "few")
    animals(tmp_path).rename(tmp_path / "many")
    Image.new("1", (15_000, 15_000)).save(tmp_path / "many" / "cat" / "9.png", compress_level=1)
    done = subprocess.run([sys.executable, "-c", OUT_OF_MEMORY], capture_output=True, text=True)
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert last.startswith("embedkit: cat/9.png is too large for the memory there is (15000 x 15000 pixels); give it more, or set")


def test_too_many_columns_are_refused_wherever_they_come_from(write):
    rows = "".join(json.dumps({f"c{row}-{number}": 1 for number in range(300)}) + "\n" for row in range(90))
    with pytest.raises(UserError, match=r"has 2\d,\d{3} columns or more, and at most 20,000 are read"):
        load_table(write("a.jsonl", rows))


def test_pictures_in_formats_that_are_not_decoded_are_set_aside_by_name_and_stop_nothing(tmp_path):
    folder = animals(tmp_path)
    for number, begin in enumerate((b"\0\0\0 ftypavif\0\0\0\0", b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x14ftypjp2 ")):
        for name in ("cat", "dog"):
            (folder / name / f"{number}.jpg").write_bytes(begin)  # whatever it is called
    made = load_images(folder)
    assert made.manifest.rows == 6 and made.manifest.details["rejected"] == 4
    reason = "not a readable picture ({} is not decoded; save it as JPEG, PNG or WebP)"
    known = {"0.jpg": reason.format("AVIF"), "1.jpg": reason.format("JPEG 2000 (JP2)")}
    assert rejected(made) == [(f"{name}/{file}", why) for name in ("cat", "dog") for file, why in known.items()]
    assert f"4 of 10 records could not be read: cat/0.jpg: {reason.format('AVIF')} (rejected.parquet)" in made.manifest.notes
    (folder / "cat" / "3.jpg").write_bytes(b"damaged")
    (folder / "cat" / "4.jpg").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"2 of the first 12 records of .* can't be read, more than 10%: cat/3\.jpg"):
        load_images(folder)


def test_a_folder_of_which_nothing_can_be_decoded_says_why(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "1.avif").write_bytes(b"\0\0\0 ftypavif")
    with pytest.raises(UserError, match=r"has no readable row \(1\.avif: not a readable picture \(AVIF is not decoded"):
        load_images(tmp_path / "folder")


def test_files_that_are_no_pictures_are_counted_and_named(tmp_path):
    folder = animals(tmp_path)
    (folder / "cat" / "labels.csv").write_text("a,b")
    made = load_images(folder)
    assert rejected(made) == [("cat/labels.csv", "no picture")] and made.manifest.details["passed_over"] == 1
    assert "1 in the folder passed over: cat/labels.csv: no picture (rejected.parquet)" in made.manifest.notes


def test_class_folders_are_classes_however_many_numbers_they_are_called(tmp_path):
    for number in range(1, 103):
        (tmp_path / "flowers" / f"{number}").mkdir(parents=True)
        (tmp_path / "flowers" / f"{number}" / "a.png").write_bytes(png(number, 0, 0))
    made = load_images(tmp_path / "flowers")
    known = made.manifest.details["label"]
    assert known["type"] == "class" and known["labelled"] == 102 and list(known["classes"]) == [str(n) for n in range(1, 103)]
    assert load_images(tmp_path / "flowers", LoadImages(label_type="number")).manifest.details["label"]["highest"] == 102


@pytest.mark.shared
@pytest.mark.parametrize(
    ("case", "rows", "classes", "rejects"),
    [("p1_ext", 20, {"cat": 10, "dog": 10}, 4), ("p3_extra", 30, {"cat": 15, "dog": 15}, 0), ("p6_float", 16, {"a": 8, "b": 8}, 0)],
)
def test_the_cases_of_pictures_are_read(case, rows, classes, rejects):
    made = load_images(SHARED / "cases" / case)
    assert (made.manifest.rows, made.manifest.details["label"]["classes"]) == (rows, classes)
    assert made.manifest.details["rejected"] == rejects and made.manifest.details.get("passed_over", 0) == (case == "p3_extra")
    pixels = [images.decode(data) for data in contents(made, "image")]
    assert all(each.max() > 200 and each.std() > 10 for each in pixels)
