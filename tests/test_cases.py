"""Inputs that were once read wrongly, each as a kind: the file that showed it, and another of its kind."""

from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import SHARED

from embedkit import (
    BuildIndex,
    LoadTable,
    LoadTexts,
    build_index,
    embed,
    import_encoder,
    load_images,
    load_table,
    load_texts,
)
from embedkit.datasets import read_contents, read_rows
from embedkit.images import decode
from embedkit.readers import ReadFiles
from embedkit.settings import UserError

CASES = SHARED / "cases"


def labels(dataset):
    return dataset.manifest.details["label"]


def values(dataset, name):
    return read_contents(dataset, 0, dataset.manifest.rows)[name].to_pylist()


def column(dataset, name):
    return read_rows(dataset)[name].to_pylist()


@pytest.fixture
def table(tmp_path):
    """Write a file of lines and load it as a table: `table(name, lines, **settings)`."""

    def loaded(name, lines, **settings):
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
        return load_table(tmp_path / name, LoadTable(**settings))

    return loaded


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "where"), [("q1_unclosed.csv", "closes nowhere"), ("q2_pair.csv", "closes within a column in line 123")]
)
def test_stray_quotes_lose_no_row(name, where):
    with pytest.raises(UserError, match=f"{name}: the quote .* opens in line 22 {where}.*files.quoted to false"):
        load_texts(CASES / name)
    assert load_texts(CASES / name, LoadTexts(files=ReadFiles(quoted=False))).manifest.rows == 200


@pytest.mark.shared
def test_labels_with_leading_zeros_are_classes():
    assert len(labels(load_texts(CASES / "l6_zero.csv"))["classes"]) == 120


@pytest.mark.shared
def test_a_label_that_comes_late_in_json_lines_is_the_label():
    dataset = load_table(CASES / "j2_late_label_table.jsonl")
    assert list(dataset.manifest.details["columns"]) == ["x", "z"] and labels(dataset)["classes"] == {"neg": 40, "pos": 40}
    assert load_table(CASES / "j2_late_label_table.jsonl", LoadTable(label_column="label")).manifest.details["label"] == labels(
        dataset
    )


def test_a_text_column_that_comes_late_in_json_lines_is_found(tmp_path):
    (tmp_path / "a.jsonl").write_text("".join('{"n": 1}\n' for _ in range(120)) + '{"n": 1, "body": "x"}\n' * 1000)
    with pytest.raises(UserError, match="which column holds the texts is not clear: there is n, body"):
        load_texts(tmp_path / "a.jsonl")
    settings = LoadTexts(text_column="body", max_unreadable=0.5)
    assert load_texts(tmp_path / "a.jsonl", settings).manifest.rows == 1000


@pytest.mark.shared
def test_shards_named_after_splits_are_all_read():
    dataset = load_texts(CASES / "f1_shards")
    splits = dataset.manifest.details["splits"]
    assert splits["test"] == 60 and splits["train"] + splits["validation"] == 140


@pytest.mark.shared
def test_missing_numbers_as_labels_are_missing():
    found = labels(load_table(CASES / "l1_na_number.csv", LoadTable(label_column="y")))
    assert (found["type"], found["labelled"], found["lowest"], found["highest"]) == ("number", 290, 100.0, 608.3)


@pytest.mark.shared
def test_spaces_around_the_names_of_columns_are_none_of_them():
    assert labels(load_texts(CASES / "l9_header.csv"))["classes"] == {"neg": 100, "pos": 100}


@pytest.mark.shared
def test_a_csv_file_with_tabs_has_two_columns():
    dataset = load_texts(CASES / "d1_tab.csv")
    assert dataset.manifest.rows == 200 and set(labels(dataset)["classes"]) == {"neg", "pos"}
    assert "d1_tab.csv separates its columns by a tab" in dataset.manifest.notes


@pytest.mark.shared
def test_labels_that_look_alike_are_one_class_with_a_note():
    floats, spaces = load_texts(CASES / "l4_float"), load_texts(CASES / "l3_space.csv")
    assert len(labels(floats)["classes"]) == 2 and len(labels(spaces)["classes"]) == 2
    assert any("labels written as " in note and "'1.0' (" in note for note in floats.manifest.notes)


@pytest.mark.shared
def test_test_rows_of_a_class_that_no_training_row_has_are_counted():
    assert (
        "20 of 60 test rows are of a class that no training row has: 'odd' (20)" in load_texts(CASES / "c1_newclass").manifest.notes
    )


@pytest.mark.shared
def test_row_numbers_are_no_feature():
    dataset = load_table(CASES / "i2_unnamed.csv")
    assert list(dataset.manifest.details["columns"]) == ["x"]
    assert any("column 'Unnamed: 0' numbers the rows" in note for note in dataset.manifest.notes)
    assert "Unnamed: 0" in load_table(CASES / "i2_unnamed.csv", LoadTable(types=["Unnamed: 0=integer"])).manifest.details["columns"]


@pytest.mark.shared
def test_one_hot_labels_are_read_by_position():
    found = labels(load_texts(CASES / "j7_onehot.jsonl"))
    assert found["type"] == "classes" and set(found["classes"]) == {"0", "1", "2"}


@pytest.mark.shared
def test_huge_integers_stay_apart():
    dataset = load_table(CASES / "h1_huge.csv")
    assert dataset.manifest.details["columns"] == {"id20": "string"} and len(set(values(dataset, "id20"))) == 40


@pytest.mark.shared
def test_numbers_in_other_dress_are_numbers():
    assert load_table(CASES / "n3_onebad.csv").manifest.details["columns"] == {"temp": "double"}
    assert load_table(CASES / "n4_excelna.csv").manifest.details["columns"] == {"temp": "double", "hum": "int64"}


@pytest.mark.shared
def test_moments_with_an_offset_are_in_utc():
    dataset = load_table(CASES / "t1_tz.csv")
    assert dataset.manifest.details["columns"]["when"] == "timestamp[us]" and values(dataset, "when")[0] == datetime(
        2023, 12, 31, 22
    )


@pytest.mark.shared
def test_bytes_as_labels_are_texts():
    assert set(labels(load_texts(CASES / "pq" / "bytes_label.parquet"))["classes"]) == {"x", "y"}


@pytest.mark.shared
def test_an_array_of_json_is_read():
    assert load_texts(CASES / "j3_array.json").manifest.rows > 10


@pytest.mark.shared
def test_a_second_file_is_read_by_the_types_of_the_encoders_columns():
    from embedkit import make_control
    from embedkit.vectors import read_vectors

    train = load_table(CASES / "s1_train.csv")
    encoder = make_control(train)
    new = load_table(CASES / "s1_new.csv")
    assert new.manifest.details["columns"]["code"] == "int64"
    like = load_table(CASES / "s1_new.csv", like=encoder)
    assert like.manifest.details["columns"]["code"] == "string"
    vectors = [read_vectors(embed(dataset, encoder))[1] for dataset in (new, like)]
    assert (vectors[0] == vectors[1]).all() and np.ptp(vectors[0], axis=0).max() > 0


def test_declared_types_go_before_what_is_found_and_what_does_not_fit_is_counted(table):
    lines = ["code,amount,day,flag", *(f"{n},{n}.5,0{n}/02/2024,yes" for n in range(1, 9)), "9,abc,31/02/2024,maybe"]
    types = ("code=text,amount=number", "day=time:%d/%m/%Y", "flag=boolean")
    dataset = table("a.csv", lines, types=types)
    assert dataset.manifest.details["columns"] == {"code": "string", "amount": "double", "day": "timestamp[us]", "flag": "bool"}
    assert dataset.manifest.notes == [
        "column 'amount': 1 value is no number and taken as missing, such as 'abc'",
        "column 'day': 1 value is no time and taken as missing, such as '31/02/2024'",
        "column 'flag': 1 value is no boolean and taken as missing, such as 'maybe'",
    ]
    assert values(dataset, "amount")[-1] is None and values(dataset, "day")[0] == datetime(2024, 2, 1)
    assert dataset.manifest.details["types"] == ["code=text", "amount=number", "day=time:%d/%m/%Y", "flag=boolean"]


@pytest.mark.parametrize(
    ("types", "words"),
    [
        (["cod=text"], "column 'cod' is not known; did you mean 'code'"),
        (["code=words"], "'code=words' declares no type; give NAME=TYPE, with one of text, integer, number"),
        (["code=leave-out", "n=leave-out"], "has no column left: 'code' as was declared; 'n' as was declared"),
    ],
)
def test_a_declaration_that_fits_nothing_is_refused(table, types, words):
    with pytest.raises(ValueError, match=words):
        table("a.csv", ["code,n,label", "1,2,a", "3,4,b"], types=types)


def test_a_load_says_what_it_took_each_column_for(table):
    lines = ["id,code,price,made,note,label", *(f'{n},0{n},"{n},5",{n}.3.2024,x y z {n},{"ab"[n % 2]}' for n in range(1, 13))]
    dataset = table("a.csv", lines)
    assert dataset.manifest.details["records"] == 12 and dataset.manifest.details["taken_for"] == {
        "id": "leave-out (numbers the rows)",
        "code": "text (digits that are codes, such as '01')",
        "price": "number (numbers with a decimal comma)",
        "made": "time (moments written as %d.%m.%Y)",
        "note": "text (texts)",
        "label": "label: class (words)",
    }
    assert dataset.manifest.details["types"] == ["id=leave-out", "code=text", "price=number:,", "made=time:%d.%m.%Y", "note=text"]


def test_the_usual_names_of_columns_count_whatever_their_case(tmp_path):
    (tmp_path / "a.csv").write_text("Text,Label,Title\n" + "".join(f"t{n},{n % 2},x\n" for n in range(20)))
    dataset = load_texts(tmp_path / "a.csv")
    assert labels(dataset)["type"] == "class"
    assert dataset.manifest.details["taken_for"] == {
        "Text": "text",
        "Label": "label: class (2 different whole numbers)",
        "Title": "passed over",
    }


def test_a_split_without_labels_is_named(tmp_path):
    (tmp_path / "train.csv").write_text("text,label\n" + "".join(f"t{n},{n % 2}\n" for n in range(20)))
    (tmp_path / "test.csv").write_text("text\n" + "".join(f"u{n}\n" for n in range(20)))
    (tmp_path / "sample.csv").write_text("text\nx\n")
    dataset = load_texts(tmp_path)
    assert "no test row has a label" in dataset.manifest.notes
    assert any(
        "1 in the folder passed over: sample.csv: neither its name nor its folder says a split" in n for n in dataset.manifest.notes
    )


def test_class_labels_that_a_parquet_file_declares_are_classes(tmp_path):
    import datasets

    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=[str(n) for n in range(1, 151)])}
    )
    made = datasets.Dataset.from_dict({"text": [f"t{n}" for n in range(150)], "label": list(range(150))}, features=features)
    made.to_parquet(tmp_path / "a.parquet")
    found = labels(load_texts(tmp_path / "a.parquet"))
    assert found["type"] == "class" and len(found["classes"]) == 150


def test_bytes_in_a_table_are_texts(tmp_path):
    pq.write_table(pa.table({"code": [b"a", b"b"], "n": [1, 2]}), tmp_path / "a.parquet")
    assert values(load_table(tmp_path / "a.parquet"), "code") == ["a", "b"]


def test_the_only_column_without_another_role_is_said_to_hold_the_texts(tmp_path):
    (tmp_path / "a.csv").write_text("sentence,label\n" + "".join(f"t{n},{n % 2}\n" for n in range(20)))
    assert load_texts(tmp_path / "a.csv").manifest.details["taken_for"]["sentence"] == "text"


@pytest.mark.shared
@pytest.mark.slow
def test_neighbours_at_one_distance_are_found_whichever_they_are():
    encoder = import_encoder(SHARED / "models/all-MiniLM-L6-v2")
    index = build_index(embed(load_texts(CASES / "x1_dups.csv"), encoder), BuildIndex(method="hnsw"))
    assert index.manifest.metrics["recall_at_10"].value == 1.0


@pytest.mark.shared
def test_folders_that_are_numbered_and_files_of_any_suffix_are_read():
    suffixes, extra = load_images(CASES / "p1_ext"), load_images(CASES / "p3_extra")
    reasons = " ".join(pq.read_table(suffixes / "rejected.parquet")["reason"].to_pylist())
    assert (suffixes.manifest.rows, suffixes.manifest.details["rejected"]) == (20, 4)
    assert "AVIF" in reasons and "JPEG 2000" in reasons
    assert labels(extra)["classes"] == {"cat": 15, "dog": 15} and extra.manifest.details["splits"]["test"] == 10
    assert any("sample/" in note for note in extra.manifest.notes)


@pytest.mark.shared
def test_float_samples_and_metadata_give_the_pixels_that_stand_there():
    floats = values(load_images(CASES / "p6_float"), "image")
    assert len(floats) == 16 and max(decode(data).max() for data in floats) > 100
    ztxt, plain = (decode((CASES / "p8_png" / "a" / f"{name}.png").read_bytes()) for name in ("ztxt", "plain"))
    assert (ztxt == plain).all()


@pytest.mark.shared
def test_predict_on_a_learned_table_gives_what_python_gives(tmp_path):
    from embedkit import LearnCategories, learn_categories, train_head
    from embedkit.entities import TableTraining
    from embedkit.predicting import Classifier, predict

    table = load_table(CASES / "s3_shops_class.csv")
    vectors = embed(table, learn_categories(table, LearnCategories(training=TableTraining(epochs=1))))
    opened = Classifier.open(train_head(vectors))
    found = [one for _, one in predict(opened, [str(CASES / "s3_new.csv")])]
    rows = load_table(CASES / "s3_new.csv", LoadTable(test_share=0, validation_share=0))
    contents = read_contents(rows, 0, rows.manifest.rows)
    assert len(found) == 4 and [one.label for one in found] == [one.label for one in opened.predict(contents.to_pylist())]


@pytest.mark.shared
@pytest.mark.parametrize(("name", "label"), [("bike_sharing/hour.csv", "cnt"), ("ames/AmesHousing.csv", "SalePrice")])
def test_strong_columns_of_real_tables_are_not_called_give_aways(name, label):
    if not (SHARED / "data" / name).is_file():
        pytest.skip(f"shared/data has no {name}")
    details = load_table(SHARED / "data" / name, LoadTable(label_column=label)).manifest.details
    assert "gives_away" not in details


def test_a_file_to_predict_is_read_as_the_table_was_that_was_learned_from(tmp_path):
    from embedkit import make_control, train_head
    from embedkit.predicting import Classifier, predict

    ends = ("lo", "hi")
    lines = (f"{n % 40},{n % 10}5;{n % 28 + 1}/{n % 12 + 1}/2024;{'abc'[n % 3]};{ends[n % 40 > 19]}" for n in range(200))
    (tmp_path / "rows.csv").write_text("\n".join(["x;day;kind;label", *lines]))
    table = load_table(tmp_path / "rows.csv")
    opened = Classifier.open(train_head(embed(table, make_control(table))))
    (tmp_path / "new.csv").write_text("x;day;kind\n1,55;1/2/2024;a\n39,05;3/4/2024;b\nabc;3/4/2024;b\n")
    few, many, none = (found for _, found in predict(opened, [str(tmp_path / "new.csv")]))
    assert (few.label, many.label, none) == ("lo", "hi", "column 'x' takes numbers, but 'abc' came")
    opened.types = {}  # where the table is gone, a file of plain values is still read
    (tmp_path / "plain.csv").write_text("x,day,kind\n1.55,2024-02-01,a\n39.05,2024-04-03,b\n")
    assert [found.label for _, found in predict(opened, [str(tmp_path / "plain.csv")])] == ["lo", "hi"]
