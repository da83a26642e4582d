"""Folders of pictures: what a file holds decides whether it is one, and folders are splits or classes, or it is asked which."""

import shutil

import pytest
from conftest import SHARED
from PIL import Image

from embedkit.folders import layout, split_of
from embedkit.readers import ReadFiles, passed_over, read
from embedkit.settings import UserError
from embedkit.sources import Source


@pytest.fixture
def folder(tmp_path):
    """Make a folder of files that count as pictures by their suffix: `folder("cat/1.jpg", ...)`."""

    def make(*names):
        for name in names:
            path = tmp_path / "photos" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
        return Source(tmp_path / "photos")

    return make


def found(source, **settings):
    """`path split class` of each picture, and what is passed over."""
    records = read(source, "images", ReadFiles(**settings))
    lines = [f"{record.place} {record.split} {record.columns.get('label')}" for record in records]
    return lines, passed_over(source, "images", ReadFiles(**settings))


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *(("train", "train"), ("Train2017", "train"), ("train_images", "train"), ("Training Set", "train"), ("seg_train", "train")),
        *(("VAL", "validation"), ("val2017", "validation"), ("dev-set", "validation"), ("2_valid", "validation")),
        *(("test", "test"), ("test_01", "test"), ("Testing", "test"), ("test-data", "test")),
        *(("train station", None), ("sample", None), ("latest", None), ("contest", None), ("trainers", None), ("12", None)),
    ],
)
def test_a_folder_is_named_after_a_split_by_a_whole_word(name, split):
    assert split_of(name) == split


BESIDE = "{} pictures in a folder that is neither of training, validation nor test (files.folders says what folders are)"


def test_what_lies_beside_the_folders_of_splits_is_passed_over_by_name(folder):
    names = ("train/cat/1.jpg", "train/dog/2.jpg", "test/cat/3.jpg", "test/dog/4.jpg", "sample/5.jpg", "sample/6.jpg")
    assert found(folder(*names)) == (
        ["test/cat/3.jpg test cat", "test/dog/4.jpg test dog", "train/cat/1.jpg train cat", "train/dog/2.jpg train dog"],
        [("sample/", BESIDE.format(2))],
    )


def test_splits_may_be_called_as_data_sets_call_them(folder):
    lines, passed = found(folder("seg_train/sea/1.jpg", "seg_test/sea/2.jpg", "seg_pred/3.jpg"))
    assert lines == ["seg_test/sea/2.jpg test sea", "seg_train/sea/1.jpg train sea"]
    assert passed == [("seg_pred/", BESIDE.format(1))]


def test_splits_may_stand_in_one_folder_of_all_or_below_the_classes(folder):
    lines, passed = found(folder("pets/train/cat/1.jpg", "pets/test/dog/2.jpg", "pets/demo/cat/3.jpg"))
    assert lines == ["pets/test/dog/2.jpg test dog", "pets/train/cat/1.jpg train cat"]
    assert passed == [("pets/demo/", BESIDE.format(1))]


def test_splits_below_the_classes_are_splits_too(folder):
    names = ("cat/train/1.jpg", "cat/test/2.jpg", "dog/train/3.jpg", "dog/test/4.jpg")
    assert found(folder(*names))[0] == [
        *("cat/test/2.jpg test cat", "cat/train/1.jpg train cat", "dog/test/4.jpg test dog", "dog/train/3.jpg train dog"),
    ]


def test_classes_may_be_called_like_splits_where_nothing_else_says_so(folder):
    lines = ["bus/1.jpg None bus", "plane/3.jpg None plane", "train/2.jpg None train"]
    assert found(folder("bus/1.jpg", "train/2.jpg", "plane/3.jpg")) == (lines, [])


@pytest.mark.parametrize(
    "names",
    [
        ("train/1.jpg", "test/2.jpg", "plane/3.jpg"),
        ("train/cat/1.jpg", "train/dog/2.jpg", "more/3.jpg"),
        ("test/cat/1.jpg", "test/dog/2.jpg", "others/3.jpg"),
    ],
)
def test_where_folders_may_be_splits_or_classes_it_is_asked_which(folder, names):
    source = folder(*names)
    with pytest.raises(UserError, match=r"whether .* is not clear.*; set files\.folders to splits or classes"):
        found(source)
    lines, passed = found(source, folders="classes")
    assert not passed and all(line.split()[1:] == ["None", line.split("/")[0]] for line in lines)
    lines, passed = found(source, folders="splits")
    assert all(line.split()[1] == line.split("/")[0] for line in lines) and len(passed) == 1


def test_splits_that_are_not_there_can_not_be_asked_for(folder):
    with pytest.raises(UserError, match=r"no folder in .* is named after a split \(cat, dog\); leave files\.folders out"):
        found(folder("cat/1.jpg", "dog/2.jpg"), folders="splits")


def test_what_a_file_holds_decides_whether_it_is_a_picture(folder, tmp_path):
    root = tmp_path / "photos" / "cat"
    source = folder("cat/a.jpg", "cat/notes.txt", "cat/labels.csv", "cat/Thumbs.db", "cat/empty")
    picture = Image.new("RGB", (4, 3), "red")
    for name, form in (
        ("none", "PNG"),
        ("b.jfif", "JPEG"),
        ("c.jpe", "JPEG"),
        ("d.dib", "BMP"),
        ("e.heic", "JPEG"),
        ("f.txt", "GIF"),
    ):
        picture.save(root / name, form)
    for name in ("g.ppm", "h.pgm", "i.pnm"):
        picture.save(root / name, "PPM")
    (root / "j.avif").write_bytes(b"\0\0\0 ftypavif\0\0\0\0avif")  # to be set aside by name, not passed over
    (root / "k.nef").write_bytes(b"MM\0*\0\0\0\x08\0\0")
    names = ("a.jpg", "b.jfif", "c.jpe", "d.dib", "e.heic", "f.txt", "g.ppm", "h.pgm", "i.pnm", "j.avif", "k.nef", "none")
    lines, passed = found(source)
    assert lines == [f"cat/{name} None cat" for name in names]
    assert passed == [(f"cat/{name}", "no picture") for name in ("Thumbs.db", "empty", "labels.csv", "notes.txt")]


def test_words_that_begin_as_a_picture_might_are_no_picture(folder, tmp_path):
    source = folder("1.jpg", "a", "b", "c.log")
    for name, text in (("a", "BMW and others are cars of which"), ("b", "P3 is a class of drivers"), ("c.log", "GIF87 was first")):
        (tmp_path / "photos" / name).write_text(text)
    assert [place for place, _ in found(source)[1]] == ["a", "b", "c.log"]


def test_folders_with_a_link_back_hold_each_picture_once(folder, tmp_path):
    source = folder(*(f"{name}/{n}.jpg" for name in ("cat", "dog") for n in range(3)))
    (tmp_path / "photos" / "cat" / "loop").symlink_to("..")
    (tmp_path / "photos" / "dog" / "loop").symlink_to("..")
    lines, passed = found(source)
    assert len(lines) == 6 and {line.split()[2] for line in lines} == {"cat", "dog"}
    assert passed == [(f"{name}/loop", "a folder that is read as '.'") for name in ("cat", "dog")]


@pytest.mark.shared
def test_the_case_of_a_sample_folder():
    lines, passed = found(Source(SHARED / "cases" / "p3_extra"))
    assert [sum(f" {split} {name}" in line for line in lines) for split in ("train", "test") for name in ("cat", "dog")] == [
        10,
        10,
        5,
        5,
    ]
    assert passed == [("sample/", BESIDE.format(4))]


def test_layout_names_the_folders_that_it_took_for_splits(folder):
    assert layout(folder("train/cat/1.jpg", "test/cat/2.jpg")).by_split == ["test", "train"]
    shutil.rmtree(folder().path / "test")
    assert layout(folder()).by_split == ["train"]
