"""Files of every kind as a stream of records, odd ones included."""

import gzip
import json
import os
import tracemalloc
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedkit import delimited
from embedkit.readers import ReadFiles, passed_over, read
from embedkit.settings import UserError
from embedkit.sources import Source


@pytest.fixture
def records(tmp_path):
    """Write a file and read it as records: `records(name, text or bytes, **settings of ReadFiles)`."""

    def write_and_read(name, data, **settings):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return list(read(Source(path), "texts", ReadFiles(**settings)))

    return write_and_read


def rows(found):
    assert not any(record.problem for record in found)
    return [record.columns for record in found]


def problems(found):
    return [(record.place, record.problem) for record in found if record.problem]


HI = [{"text": "hi", "label": "1"}, {"text": "yo", "label": "2"}]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "text,label\nhi,1\nyo,2\n"),
        ("no-newline.csv", "text,label\nhi,1\nyo,2"),
        ("windows.csv", "text,label\r\nhi,1\r\nyo,2\r\n"),
        ("blank-lines.csv", "text,label\n\nhi,1\n\n\nyo,2\n\n"),
        ("bom.csv", "\ufefftext,label\nhi,1\nyo,2\n"),
        ("semicolon.csv", "text;label\nhi;1\nyo;2\n"),
        ("bom-semicolon.csv", "\ufefftext;label\nhi;1\nyo;2\n"),
        ("spaces.csv", "text, label\nhi, 1\nyo, 2\n"),
        ("UPPER.CSV", "text,label\nhi,1\nyo,2\n"),
        ("dots.v1.2.csv", "text,label\nhi,1\nyo,2\n"),
        ("a.tsv", "text\tlabel\nhi\t1\nyo\t2\n"),
        ("bom.tsv", "\ufefftext\tlabel\nhi\t1\nyo\t2\n"),
        ("a.jsonl", '{"text": "hi", "label": "1"}\n{"text": "yo", "label": "2"}\n'),
        ("bom.jsonl", '\ufeff{"text": "hi", "label": "1"}\n\n{"text": "yo", "label": "2"}'),
        ("a.json", '{"text": "hi", "label": "1"}\n{"text": "yo", "label": "2"}\n'),
    ],
)
def test_the_same_rows_come_from_every_format_plain_and_gzipped(records, name, text):
    assert rows(records(name, text)) == HI
    assert rows(records(name + ".gz", gzip.compress(text.encode()))) == HI


@pytest.mark.parametrize(
    ("name", "text", "place"),
    [
        ("a.csv", "text\nx\n", "a.csv line 2"),
        ("a.tsv", "text\n\nx\n", "a.tsv line 3"),
        ("a.jsonl", '\n{"text": 1}\n', "a.jsonl line 2"),
        ("a.txt", "\n\nx\n", "a.txt line 3"),
    ],
)
def test_places_are_lines_as_an_editor_counts_them(records, name, text, place):
    assert [record.place for record in records(name, text)] == [place]


def test_text_files_hold_one_text_a_line(records):
    text = "one\n\n  two \r\nthree\u2028still three\x0band\n\ufeff"
    assert [row["text"] for row in rows(records("a.txt", text))][:3] == ["one", "two", "three\u2028still three\x0band"]
    assert rows(records("b.txt.gz", gzip.compress(b"one\ntwo"))) == [{"text": "one"}, {"text": "two"}]
    assert rows(records("c.txt", "\ufeffone\n")) == [{"text": "one"}]


def test_csv_may_quote_commas_newlines_and_quotes(records):
    text = 'text,label\n"one, two",1\n"two\nlines",2\n"a ""word""",3\n"",4\n'
    found = records("a.csv", text)
    assert [row["text"] for row in rows(found)] == ["one, two", "two\nlines", 'a "word"', None]
    assert rows(records("b.csv", 'text\r\n"two\r\nlines"\r\n')) == [{"text": "two\r\nlines"}]


def test_in_tsv_a_quote_is_a_letter_unless_told_otherwise(records):
    text = 'text\tlabel\n"hi\t1\nyo "you"\t2\n'
    assert [row["text"] for row in rows(records("a.tsv", text))] == ['"hi', 'yo "you"']
    quoted = 'text\tlabel\n"two\nlines\tand a tab"\t1\n'
    assert rows(records("b.tsv", quoted, quoted=True)) == [{"text": "two\nlines\tand a tab", "label": "1"}]
    assert rows(records("c.csv", 'text,label\n"hi,1\n', quoted=False)) == [{"text": '"hi', "label": "1"}]


def test_a_missing_value_of_csv_is_none(records):
    assert rows(records("a.csv", "text,label\nhi,\n,2\n")) == [{"text": "hi", "label": None}, {"text": None, "label": "2"}]


def test_a_row_of_another_width_is_set_aside_and_the_next_is_read(records):
    found = records("a.csv", "text,label\nhi,1\nno comma\na,b,c\nyo,2\n")
    assert problems(found) == [("a.csv line 3", "1 columns instead of 2"), ("a.csv line 4", "3 columns instead of 2")]
    assert [record.columns for record in found if not record.problem] == HI


def test_a_quote_that_never_closes_is_reported_where_it_opens(records):
    lines = ["text,label", "hi,1", '"yo,2', *(f"row {n},{n}" for n in range(50))]
    words = r'a.csv: the quote \("\) that opens in line 3 closes nowhere, .*; set files.quoted to false .*, to true .*, or fix'
    with pytest.raises(UserError, match=words):
        records("a.csv", "\n".join(lines) + "\n")
    assert len(records("a.csv", "\n".join(lines) + "\n", quoted=False)) == 52


@pytest.mark.parametrize("delimiter", ["|", " ", "\t", ";"])
def test_a_delimiter_can_be_given_for_a_file_of_any_name(records, delimiter):
    text = "text,label\nhi,1\nyo,2\n".replace(",", delimiter)
    for name in ("u.data", "a.txt", "a.csv", "nosuffix"):
        assert rows(records(name, text, delimiter=delimiter)) == HI


def test_columns_may_be_set_apart_by_any_number_of_spaces(records):
    text = "text label\nhi  1\n yo 2 \n   \nhi 1   \r\n"
    assert rows(records("a.txt", text, delimiter=" ")) == [*HI, HI[0]]


@pytest.mark.parametrize("delimiter", ["||", "ab"])
def test_a_delimiter_that_is_not_one_character_is_refused(records, delimiter):
    with pytest.raises(ValueError, match="delimiter"):  # UserError or pydantic's own, which both name the setting
        records("a.csv", "text||label\nhi||1\n", delimiter=delimiter)


def test_names_can_be_given_where_there_is_no_header(records):
    names = ("text", "label")
    assert rows(records("a.csv", "hi,1\nyo,2\n", column_names=names)) == HI
    assert rows(records("a.tsv", "hi\t1\nyo\t2\n", column_names=names)) == HI
    assert rows(records("b.csv", "\ufeffhi,1\nyo,2\n", column_names=names)) == HI


def test_a_header_that_names_a_column_twice_is_refused(records):
    with pytest.raises(UserError, match="a.csv has the column 'text' twice; rename one, or give all names with column_names"):
        records("a.csv", "text,label,text\nhi,1,x\n")
    assert rows(records("b.csv", "hi,1\n", column_names=("text", "label"))) == HI[:1]


def test_an_empty_file_or_a_header_alone_has_no_records(records):
    for name, text in {"a.csv": "", "b.csv": "text,label\n", "c.tsv": "", "d.jsonl": "", "e.txt": "\n\n", "f.csv.gz": ""}.items():
        assert records(name, gzip.compress(b"") if name.endswith(".gz") else text) == []


def test_bytes_in_another_encoding_set_one_row_aside(records):
    found = records("a.csv", b"text,label\nhi,1\ncaf\xe9,3\nyo,2\n")
    assert problems(found) == [("a.csv line 3", "not in the encoding utf-8")]
    assert [record.columns for record in found if not record.problem] == HI
    assert problems(records("a.txt", b"hi\ncaf\xe9\n")) == [("a.txt line 2", "not in the encoding utf-8")]


def test_the_encoding_can_be_said(records):
    assert rows(records("a.csv", b"text\ncaf\xe9\n", encoding="latin-1")) == [{"text": "café"}]
    assert rows(records("a.txt", b"caf\xe9\n", encoding="latin-1")) == [{"text": "café"}]
    assert rows(records("a.jsonl", b'{"text": "caf\xe9"}\n', encoding="latin-1")) == [{"text": "café"}]
    assert rows(records("b.csv", "text;label\ncafé;1\n".encode("utf-16"), encoding="utf-16")) == [{"text": "café", "label": "1"}]


@pytest.mark.parametrize("encoding", ["UTF-8", "utf8", "utf_8", "utf-8-sig"])
def test_a_byte_order_mark_is_no_part_of_the_first_name(records, encoding):
    assert rows(records("a.csv", "\ufefftext\nhi\n", encoding=encoding)) == [{"text": "hi"}]


@pytest.mark.parametrize("encoding", ["klingon", "base64", "rot13"])
def test_an_unknown_encoding_is_refused(records, encoding):
    with pytest.raises(UserError, match=f"the encoding '{encoding}' is not known; give one that Python knows, such as utf-8"):
        records("a.csv", "text\nhi\n", encoding=encoding)


def test_a_utf_16_file_that_was_cut_off_is_one_sentence(records):
    with pytest.raises(UserError, match=r"a\.csv can't be read"):
        records("a.csv", "text\nhi\n".encode("utf-16") + b"x", encoding="utf-16")


def test_a_header_in_another_encoding_is_refused_by_name(records):
    with pytest.raises(UserError, match=r"a\.csv.*encoding utf-8"):
        records("a.csv", b"caf\xe9,label\nhi,1\n")


def test_lines_that_are_no_json_objects_are_set_aside(records):
    found = records("a.jsonl", '{"text": "hi"}\n[1, 2]\n{broken\n"text"\n{"text": "yo"}\n')
    (place, bad), *others = problems(found)[1:]
    assert problems(found)[0] == ("a.jsonl line 2", "not a JSON object but list")
    assert place == "a.jsonl line 3" and bad.startswith("not JSON (Expecting property name")
    assert others == [("a.jsonl line 4", "not a JSON object but str")]
    assert [record.columns for record in found if not record.problem] == [{"text": "hi"}, {"text": "yo"}]


@pytest.mark.parametrize("bad", ["[" * 100_000, '{"text": ' + "9" * 5000 + "}", '{"text": '], ids=["deep", "long", "half"])
def test_json_that_python_refuses_costs_one_row(records, bad):
    found = records("a.jsonl", f'{{"text": "hi"}}\n{bad}\n{{"text": "yo"}}\n')
    assert [record.place for record in found if record.problem] == ["a.jsonl line 2"]
    assert [record.columns for record in found if not record.problem] == [{"text": "hi"}, {"text": "yo"}]


def test_json_keeps_types_and_keys_as_they_are(records):
    line = {"text": "é", "n": 1, "x": 2.5, "ok": True, "none": None, "tags": ["a"], "": 0}
    assert rows(records("a.jsonl", json.dumps(line) + '\n{"other": 1}\n')) == [line, {"other": 1}]


def test_a_limit_stops_each_file_early(records, tmp_path):
    lines = "".join(f"row {n}\n" for n in range(9))
    assert rows(records("a.csv", "text\n" + lines, limit=3)) == [{"text": f"row {n}"} for n in range(3)]
    assert len(records("b.csv", "text\n" + lines, limit=9)) == len(records("c.csv", "text\n" + lines, limit=99)) == 9
    for name in ("train", "dev"):
        (tmp_path / "both").mkdir(exist_ok=True)
        (tmp_path / "both" / f"{name}.txt").write_text(lines)
    found = list(read(Source(tmp_path / "both"), "texts", ReadFiles(limit=2)))
    assert [(record.split, record.place) for record in found] == [
        *(("validation", "dev.txt line 1"), ("validation", "dev.txt line 2")),
        *(("train", "train.txt line 1"), ("train", "train.txt line 2")),
    ]


def test_a_limit_reads_no_further(records):
    data = gzip.compress(b"text\n" + b"row\n" * 20)
    assert len(records("a.csv.gz", data[:-4], limit=5)) == 5  # the cut-off end is never reached


def test_a_long_text_is_one_field(records):
    assert rows(records("a.csv", "text\n" + "x" * 500_000 + "\n")) == [{"text": "x" * 500_000}]


LONG = "longer than 50 characters (files.longest_line)"


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.txt", "a.jsonl"])
def test_a_line_that_is_too_long_is_set_aside_and_the_next_is_read(records, name, end):
    def line(text):
        return json.dumps({"text": text}) if name == "a.jsonl" else text

    header = ["text"] if name in ("a.csv", "a.tsv") else []
    data = end.join([*header, line("hi"), line("x" * 3_000_000), line("yo"), line("y" * 20), ""]).encode()
    for file, given in ((name, data), (name + ".gz", gzip.compress(data))):
        found = records(file, given, longest_line=50)
        assert problems(found) == [(f"{file} line {2 + len(header)}", LONG)]
        assert [record.columns["text"] for record in found if not record.problem] == ["hi", "yo", "y" * 20]
        assert [record.place for record in found][-1] == f"{file} line {4 + len(header)}"


def test_a_line_may_be_as_long_as_is_said(records):
    assert rows(records("a.txt", "x" * 49 + "\n" + "y" * 50, longest_line=50)) == [{"text": "x" * 49}, {"text": "y" * 50}]
    assert problems(records("a.txt", "y" * 51, longest_line=50)) == [("a.txt line 1", LONG)]


def test_a_quoted_record_that_is_too_long_is_set_aside_too(records):
    text = 'text,label\n"one\ntwo",1\n"' + "long\n" * 10 + "long" * 10 + '",2\nyo,2\n'
    found = records("a.csv", text, longest_line=50)
    assert found[0].columns == {"text": "one\ntwo", "label": "1"} and found[-1].columns == HI[1]
    assert problems(found)[0] == ("a.csv line 4", LONG)


def test_with_spaces_between_columns_a_long_line_is_no_end_of_the_file(records):
    found = records("a.csv", "text label\nhi 1 \n" + "x" * 100 + "\nyo 2\n", delimiter=" ", longest_line=50)
    assert problems(found) == [("a.csv line 3", LONG)] and [row.columns for row in found if not row.problem] == HI


def test_a_line_that_is_too_long_takes_no_memory(records, tmp_path):
    with gzip.open(tmp_path / "a.jsonl.gz", "wb", 1) as file:
        for _ in range(64):
            file.write(b"x" * 2**20)
    tracemalloc.start()
    found = list(read(Source(tmp_path / "a.jsonl.gz"), "texts", ReadFiles(longest_line=2**20)))
    assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
    tracemalloc.stop()
    assert problems(found) == [("a.jsonl.gz line 1", "longer than 1,048,576 characters (files.longest_line)")]


def test_a_header_that_is_too_long_is_refused(records):
    words = r"the header of a\.csv can't be read: longer than 50 characters .*; say how the file is read, or give"
    with pytest.raises(UserError, match=words):
        records("a.csv", "x" * 100 + "\nhi\n", longest_line=50)


def test_a_file_of_too_many_columns_is_refused_by_their_number(records):
    wide = ",".join(f"c{number}" for number in range(20_001)) + "\n"
    with pytest.raises(UserError, match=r"a\.csv has 20,001 columns or more, and at most 20,000 are read; leave some out"):
        records("a.csv", wide + "1\n")
    assert len(records("b.csv", wide.removesuffix(",c20000\n") + "\n" + "1," * 19_999 + "1\n")[0].columns) == 20_000


def test_a_column_that_comes_twice_is_found_at_once_and_named_shortly(records):
    with pytest.raises(UserError, match=r"a\.csv has the column 'xxx.*\.\.\.' twice") as caught:
        records("a.csv", ",".join([*map(str, range(15_000)), "x" * 10**6, "x" * 10**6]) + "\n")
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_json_that_is_nested_too_deeply_costs_one_row(records, opening):
    def nested(depth):
        return opening * depth + "1" + ("]" if opening == "[" else "}") * depth

    lines = [f'{{"x": {nested(depth)}}}' for depth in (99, 100, 1000, 10_000)]
    found = records("a.jsonl", "\n".join(lines))
    assert problems(found) == [(f"a.jsonl line {number}", "not JSON (nested too deeply)") for number in (2, 3, 4)]
    wide = json.dumps({"x": [[number] for number in range(500)], "y": "[" * 500})
    assert len(rows(records("b.jsonl", wide))) == 1


def test_a_truncated_gzip_file_is_one_sentence(records):
    data = gzip.compress(b"text\n" + b"row\n" * 1000)
    with pytest.raises(UserError, match=r"a\.csv\.gz can't be read \(Compressed file ended.*mend the file"):
        records("a.csv.gz", data[:-20])


def test_a_damaged_gzip_file_is_one_sentence(records):
    data = bytearray(gzip.compress("".join(f"text {n * 7919 % 1000}\n" for n in range(3000)).encode()))
    data[300:320] = b"\xff" * 20
    with pytest.raises(zlib.error):
        gzip.decompress(data)
    with pytest.raises(UserError, match=r"a\.csv\.gz can't be read"):
        records("a.csv.gz", bytes(data))


def test_a_file_that_is_only_called_gz_is_one_sentence(records):
    with pytest.raises(UserError, match=r"a\.csv\.gz can't be read \(Not a gzipped file"):
        records("a.csv.gz", "text\nhi\n")


def test_a_format_that_is_not_known_is_refused_by_name(records):
    with pytest.raises(UserError, match=r"the format of a\.html '\.html' is not known; .*\.csv.*or give a delimiter"):
        records("a.html", "text")


@pytest.mark.parametrize("data", [b"", b"PAR1", b"text,label\nhi,1\n" * 10])
def test_what_is_only_called_parquet_is_refused(records, data):
    with pytest.raises(UserError, match=r"a\.parquet can't be read as Parquet .*; give a whole file, or rename it to what it is"):
        records("a.parquet", data)


def folder(tmp_path, files):
    for name, text in files.items():
        path = tmp_path / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Source(tmp_path / "folder")


def splits_of(source, kind="texts"):
    return [(record.place, record.split) for record in read(source, kind, ReadFiles())]


def test_files_in_a_folder_are_named_after_their_split(tmp_path):
    names = {
        **{"train.csv": "train", "Validation.csv": "validation", "test.csv": "test", "unsup.csv": "train"},
        **{"sub/dev-00000-of-00002.csv": "validation", "val.tar.csv": "validation"},
    }
    source = folder(tmp_path, dict.fromkeys([*names, "extra.csv", "readme.txt"], "text\nhi\n"))
    assert dict(splits_of(source)) == {f"{name.rpartition('/')[2]} line 2": split for name, split in names.items()}


def test_files_of_one_format_without_such_names_are_read_as_one(tmp_path):
    source = folder(tmp_path, {"b.csv": "text\nhi\n", "a.csv": "text\nyo\n", "notes.txt": "not a row", "x.pdf": ""})
    assert splits_of(source) == [("a.csv line 2", None), ("b.csv line 2", None)]


@pytest.mark.parametrize("files", [{"a.csv": "text\n", "b.tsv": "text\n"}, {"x.pdf": ""}, {"a.txt": "one", "b.txt": "two"}])
def test_a_folder_whose_rows_can_not_be_told_is_refused(tmp_path, files):
    with pytest.raises(UserError, match=r"holds no rows that can be told: .* none named train, dev or test; name one file \(\.csv"):
        splits_of(folder(tmp_path, files))


def test_a_network_is_no_dataset():
    with pytest.raises(UserError, match="keras://bert is no dataset; rows come from a file, a folder, builtin:NAME or hf://NAME"):
        list(read(Source("keras://bert"), "texts", ReadFiles()))


def pictures(tmp_path, *names):
    return [
        (record.columns["path"], record.split, record.columns.get("label"))
        for record in read(folder(tmp_path, dict.fromkeys(names, "x")), "images", ReadFiles())
    ]


def test_class_folders_label_their_pictures(tmp_path):
    assert pictures(tmp_path, "cat/2.jpg", "dog/x/1.PNG", "cat/1.jpeg", "cat/notes.txt", ".trash/cat/3.jpg") == [
        *(("cat/1.jpeg", None, "cat"), ("cat/2.jpg", None, "cat"), ("dog/x/1.PNG", None, "dog")),
    ]


def test_folders_named_after_splits_may_stand_above_the_classes(tmp_path):
    assert pictures(tmp_path, "train/cat/1.jpg", "Val/cat/2.jpg", "test/dog/x/3.jpg", "train/4.jpg") == [
        *(("Val/cat/2.jpg", "validation", "cat"), ("test/dog/x/3.jpg", "test", "dog")),
        *(("train/4.jpg", "train", None), ("train/cat/1.jpg", "train", "cat")),
    ]


def test_a_class_may_be_called_test_where_its_neighbours_are_no_splits(tmp_path):
    assert pictures(tmp_path, "test/1.jpg", "control/2.jpg") == [("control/2.jpg", None, "control"), ("test/1.jpg", None, "test")]


def test_a_flat_folder_has_pictures_without_labels(tmp_path):
    assert pictures(tmp_path, "2.gif", "1.bmp", "3.webp", "4.tif", "5.tiff") == [
        (name, None, None) for name in ("1.bmp", "2.gif", "3.webp", "4.tif", "5.tiff")
    ]


def test_a_limit_holds_for_each_split_of_a_folder_of_pictures(tmp_path):
    names = [f"{split}/cat/{n}.jpg" for split in ("train", "test") for n in range(5)]
    found = list(read(folder(tmp_path, dict.fromkeys(names, "x")), "images", ReadFiles(limit=2)))
    assert [record.place for record in found] == ["test/cat/0.jpg", "test/cat/1.jpg", "train/cat/0.jpg", "train/cat/1.jpg"]


def test_a_folder_without_pictures_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"folder holds no pictures \(\.jpg, .*\); name a folder that does"):
        pictures(tmp_path, "a.txt")
    with pytest.raises(UserError, match=r"holds no pictures .*; name one of its Parquet files, such as a\.parquet"):
        pictures(tmp_path, "a.parquet")


def test_a_picture_whose_name_is_not_utf_8_is_set_aside_and_named(tmp_path):
    root = os.fsencode(tmp_path / "folder")
    for name in (b"cat/1.jpg", b"cat/caf\xe9.jpg", b"ros\xe9/2.jpg", "été/3.jpg".encode(), b"dog/a\nb\x1b\xe2\x80\xae.jpg"):
        os.makedirs(os.path.dirname(os.path.join(root, name)), exist_ok=True)
        Path(os.fsdecode(os.path.join(root, name))).write_bytes(b"x")
    found = list(read(Source(tmp_path / "folder"), "images", ReadFiles()))
    reason = "its name, or that of its folder, is not in UTF-8"
    assert problems(found) == [(r"cat/caf\xe9.jpg", reason), (r"ros\xe9/2.jpg", reason)]
    kept = [(record.columns["path"], record.columns["label"]) for record in found if not record.problem]
    assert kept == [("cat/1.jpg", "cat"), ("dog/a\nb\x1b\u202e.jpg", "dog"), ("été/3.jpg", "été")]


@pytest.mark.parametrize("name", [b"r\xff.csv", b"r\xff.jsonl", b"r\xff.parquet"])
def test_a_file_whose_name_is_not_utf_8_is_read_and_its_places_can_be_written(tmp_path, name):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    if path.suffix == ".parquet":
        with path.open("wb") as file:
            pq.write_table(pa.table({"text": ["hi"]}), file)
    else:
        path.write_text("text\nhi\n" if path.suffix == ".csv" else '{"text": "hi"}\n')
    (found,) = read(Source(path), "texts", ReadFiles())
    assert found.columns == {"text": "hi"} and found.place.encode().startswith(rb"r\xff.")


def test_a_folder_of_links_that_lead_out_names_them_and_the_setting(tmp_path):
    (tmp_path / "folder").mkdir()
    for name in ("a", "b"):
        (tmp_path / f"{name}.csv").write_text("text\nhi\n")
        (tmp_path / f"{name}.jpg").write_text("x")
        for suffix in (".csv", ".jpg"):
            (tmp_path / "folder" / f"{name}{suffix}").symlink_to(tmp_path / f"{name}{suffix}")
    said = r"; a.csv and 3 more was passed over: a link that leads out of the folder \(.*a\.csv\); follow links with files"
    for kind in ("texts", "images"):
        with pytest.raises(UserError, match=said):
            list(read(Source(tmp_path / "folder"), kind, ReadFiles()))
        assert len(list(read(Source(tmp_path / "folder", True), kind, ReadFiles()))) == 2


STRAY = ["text,label", *(f"room {n},{'pos' if n % 2 else 'neg'}" for n in range(30))]


def stray(*changed):
    lines = list(STRAY)
    for number, line in changed:
        lines[number - 1] = line
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (stray((5, '"room,pos'), (20, '"room,neg')), "opens in line 5 closes within a column in line 20"),
        (
            stray((5, '"room,pos'), (20, 'a board of 20",neg')),
            "opens in line 5 closes in line 20, though each line",
        ),
        (stray((5, '"room,pos'), (6, 'a board of 20",neg')), "opens in line 5 closes in line 6, though each line"),
        (stray((5, '"room,pos')), "opens in line 5 closes nowhere"),
    ],
)
def test_a_stray_quote_that_would_swallow_rows_is_refused_with_its_line(records, text, words):
    with pytest.raises(UserError, match=f"a.csv: the quote .* {words}.* set files.quoted to false"):
        records("a.csv", text)
    found = records("a.csv", text, quoted=False)
    assert len(found) == 30 and not problems(found)


def test_texts_of_several_lines_stay_texts(records):
    text = stray((5, '"one, two\nthree\nfour, five, six",pos'), (9, '"dear you,\nbest, me",neg'))
    found = records("a.csv", text)
    assert len(found) == 30 and found[3].columns["text"] == "one, two\nthree\nfour, five, six"
    assert found[7].columns["text"] == "dear you,\nbest, me"


def test_quotes_within_one_line_are_letters_where_they_can_be_nothing_else(records):
    found = records("a.csv", stray((5, '"Great" room,pos'), (7, 'a 5" pipe,neg'), (9, '"6" pipe", 7, 8,neg')))
    assert found[3].columns["text"] == '"Great" room' and found[5].columns["text"] == 'a 5" pipe'
    assert problems(found) == [("a.csv line 9", "a quote that opens isn't closed rightly (',' expected after '\"')")]


def test_a_backslash_before_a_quote_is_read_where_the_file_has_no_other_way(records):
    found = records("a.csv", stray((5, r'"He said \"hi, you\" twice",pos')))
    assert found[3].columns == {"text": 'He said "hi, you" twice', "label": "pos"}
    assert records("b.csv", 'text,label\n"x \\"" y",1\n')[0].columns["text"] == 'x \\" y'


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_the_delimiter_of_a_csv_file_is_found(tmp_path, delimiter):
    told: list[str] = []
    (tmp_path / "a.csv").write_text("text,label\nhi, you,1\nyo,2\n".replace(",", delimiter).replace(f"hi{delimiter}", "hi,"))
    found = list(read(Source(tmp_path / "a.csv"), "texts", ReadFiles(), told.append))
    assert rows(found) == [{"text": "hi, you", "label": "1"}, {"text": "yo", "label": "2"}]
    assert told == [f"a.csv separates its columns by {delimited.DELIMITERS[delimiter]}"]


def test_two_delimiters_that_would_do_are_asked_about(records):
    text = "a,b;c\n1,2;3\n4,5;6\n"
    with pytest.raises(
        UserError, match="what separates .* of a.csv is not clear, a comma or a semicolon; give files.delimiter"
    ):
        records("a.csv", text)
    assert rows(records("a.csv", text, delimiter=";"))[0] == {"a,b": "1,2", "c": "3"}


def test_a_tsv_file_that_holds_commas_is_read_by_them(records):
    assert rows(records("a.tsv", "text,label\nhi,1\nyo,2\n")) == HI


def test_names_of_columns_lose_the_spaces_around_them_and_get_one_where_they_have_none(records):
    assert list(rows(records("a.csv", "\n, text ,label \n0,hi,1\n"))[0]) == ["Unnamed: 0", "text", "label"]


def test_a_first_line_that_is_a_row_is_no_header(records):
    with pytest.raises(
        UserError, match="first line of a.csv holds '5.1', so it is a row and no header; give files.column"
    ):
        records("a.csv", "5.1,3.5,setosa\n4.9,3.0,setosa\n")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_a_file_says_itself_that_it_is_in_utf_16(tmp_path, encoding):
    mark = b"\xff\xfe" if encoding == "utf-16-le" else b""
    (tmp_path / "a.csv").write_bytes(mark + "text,label\nhé,1\n".encode(encoding))
    assert rows(list(read(Source(tmp_path / "a.csv"), "texts", ReadFiles()))) == [{"text": "hé", "label": "1"}]


@pytest.mark.parametrize("indent", [None, 2])
def test_an_array_of_json_is_read_item_by_item(records, indent):
    items = [{"text": "a [{", "label": [1, 2]}, {"text": "x" * 200_000}, 3, {"text": "end"}]
    found = records("a.json", " " + json.dumps(items, indent=indent))
    assert [record.columns for record in found if not record.problem] == [items[0], items[1], items[3]]
    assert problems(found) == [("a.json item 3", "not a JSON object but int")]
    assert records("b.json", "[]") == []


@pytest.mark.parametrize("text", ['[{"text": "a"}, {"text"', '[{"text": "a"}', '[{"text": "a"}, x]'])
def test_an_array_of_json_that_breaks_off_is_refused(records, text):
    with pytest.raises(
        UserError, match=r"a.json is an array of JSON that (ends in its|has an) item [12].*; fix it, or"
    ):
        records("a.json", text)


SHARDS = {
    "train_0.csv": "train",
    "train_1.csv": "train",
    "test.csv": "test",
    "train-00000-of-00002.csv": "train",
    "reviews_test.csv": "test",
    "dev-v2.0.csv": "validation",
    "Train.part1.csv": "train",
    "val/0.csv": "validation",
    "deep/test/part-3.csv": "test",
}
NO_SPLIT = ("train_labels.csv", "train_test.csv", "notes.csv", "contest.csv", "latest.csv")


def test_the_files_of_a_folder_say_their_split_by_name_or_folder_and_others_are_passed_over_by_name(tmp_path):
    for name in (*SHARDS, *NO_SPLIT, "about.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"text\n{name}\n")
    source = Source(tmp_path)
    assert {record.columns["text"]: record.split for record in read(source, "texts", ReadFiles())} == SHARDS
    passed = dict(passed_over(source, "texts", ReadFiles()))
    reason = "neither its name nor its folder says a split, as others do"
    assert passed == {**dict.fromkeys(NO_SPLIT, reason), "about.md": "no file of rows"}


def test_bytes_of_a_parquet_file_that_are_text_are_read_as_text(tmp_path):
    pq.write_table(pa.table({"text": [b"h\xc3\xa9"], "data": [b"\xff\xfe"]}), tmp_path / "a.parquet")
    assert rows(list(read(Source(tmp_path / "a.parquet"), "texts", ReadFiles()))) == [{"text": "hé", "data": b"\xff\xfe"}]
