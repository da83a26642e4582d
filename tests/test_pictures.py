"""Lists of pictures: paths below the list's folder, addresses, or the pictures themselves, with their labels."""

import base64
import io
import shutil
import subprocess
import sys
import unicodedata

import pyarrow.parquet as pq
import pytest
from conftest import SHARED, write_list
from PIL import Image

from embedkit.datasets import LoadImages, load_images, read_contents, read_rows
from embedkit.readers import ReadFiles
from embedkit.settings import UserError


def png(*colour):
    data = io.BytesIO()
    Image.new("RGB", (5, 4), colour).save(data, "PNG")
    return data.getvalue()


@pytest.fixture
def photos(tmp_path):
    """A folder of twenty pictures of two kinds, and what lists them."""
    folder = tmp_path / "all"
    (folder / "photos").mkdir(parents=True)
    rows = []
    for number in range(20):
        (folder / "photos" / f"{number}.png").write_bytes(png(number, 0, 0))
        rows.append({"file": f"photos/{number}.png", "species": "cat" if number % 2 else "dog"})
    return folder, rows


def loaded(dataset):
    contents, labels = read_contents(dataset, 0, dataset.manifest.rows), read_rows(dataset)["label"].to_pylist()
    return list(zip(contents["path"].to_pylist(), contents["image"].to_pylist(), labels, strict=True))


def rejected(dataset):
    return [(row["place"], row["reason"]) for row in pq.read_table(dataset / "rejected.parquet").to_pylist()]


SPECIES = LoadImages(label_column="species")


@pytest.mark.parametrize("name", ["list.csv", "list.tsv", "list.xlsx", "list.jsonl", "list.parquet"])
def test_a_labelled_list_of_pictures_is_a_dataset(photos, name):
    folder, rows = photos
    made = load_images(write_list(folder / name, rows), LoadImages(image_column="file", label_column="species"))
    assert str(made).startswith("images/list@") and made.manifest.details["label"]["classes"] == {"cat": 10, "dog": 10}
    assert loaded(made) == [(row["file"], (folder / row["file"]).read_bytes(), row["species"]) for row in rows]


def test_the_column_that_names_pictures_is_found(photos):
    folder, rows = photos
    made = load_images(write_list(folder / "a.csv", [row | {"n": 1, "note": "a.png is fine"} for row in rows]), SPECIES)
    assert made.manifest.rows == 20


def test_two_columns_that_name_pictures_are_asked_about(photos):
    folder, rows = photos
    path = write_list(folder / "a.csv", [row | {"mask": row["file"]} for row in rows])
    with pytest.raises(
        UserError, match=r"which column of .*a\.csv holds the pictures is not clear: file, mask may; set image_column"
    ):
        load_images(path, SPECIES)


def test_a_list_names_nothing_outside_its_folder(photos, tmp_path):
    folder, rows = photos
    (tmp_path / "secret.png").write_bytes(png(9, 9, 9))
    (folder / "out.png").symlink_to(tmp_path / "secret.png")
    outside = ["../secret.png", str(tmp_path / "secret.png"), "out.png", "photos/../../secret.png"]
    path = write_list(folder / "a.csv", rows + [{"file": text, "species": "cat"} for text in outside])
    made = load_images(path, LoadImages(label_column="species", max_unreadable=0.5))
    reason = "{!r} leads out of the folder of a.csv; what does is read with files.follow_links"
    assert made.manifest.rows == 20 and [why for _, why in rejected(made)] == [reason.format(text) for text in outside]
    made = load_images(path, LoadImages(label_column="species", files=ReadFiles(follow_links=True)))
    assert made.manifest.rows == 24


def test_paths_may_be_written_as_other_systems_do(photos):
    folder, _ = photos
    (folder / unicodedata.normalize("NFD", "Käfer.png")).write_bytes(png(1, 2, 3))
    names = ["photos\\1.png", unicodedata.normalize("NFC", "Käfer.png"), " photos/2.png ", "./photos/3.png"]
    made = load_images(write_list(folder / "a.xlsx", [{"file": name, "species": "x"} for name in names]), SPECIES)
    assert [data for _, data, _ in loaded(made)] == [png(1, 0, 0), png(1, 2, 3), png(2, 0, 0), png(3, 0, 0)]


def test_what_can_not_be_read_is_set_aside_with_its_reason(photos):
    folder, rows = photos
    (folder / "words.png").write_text("words")
    bad = ["none.png", "photos", "words.png", "a\0b.png", ""]
    path = write_list(folder / "a.jsonl", rows + [{"file": text, "species": "cat"} for text in bad])
    made = load_images(path, LoadImages(label_column="species", max_unreadable=0.5))
    assert [why for _, why in rejected(made)] == [
        *("there is no file 'none.png' beside a.jsonl", "there is no file 'photos' beside a.jsonl"),
        *("not a readable picture (of no known format)", r"'a\x00b.png' can't be a path"),
        "column 'file' holds str, not an encoded picture",
    ]


def test_a_picture_that_changes_or_comes_makes_another_dataset(photos):
    folder, rows = photos
    path = write_list(folder / "a.csv", [*rows, {"file": "photos/new.png", "species": "cat"}])
    before = load_images(path, SPECIES)
    assert load_images(path, SPECIES) == before and before.manifest.rows == 20
    (folder / "photos" / "3.png").write_bytes(png(200, 0, 0))
    changed = load_images(path, SPECIES)
    assert changed != before and png(200, 0, 0) in [data for _, data, _ in loaded(changed)]
    (folder / "photos" / "new.png").write_bytes(png(201, 0, 0))
    assert load_images(path, SPECIES).manifest.rows == 21
    shutil.copytree(folder, folder.parent / "moved")
    assert load_images(folder.parent / "moved" / "a.csv", SPECIES) == load_images(path, SPECIES)


def test_a_picture_that_changes_while_it_is_read_is_refused(photos, monkeypatch):
    folder, rows = photos
    path = write_list(folder / "a.csv", rows)
    from embedkit import images

    def check(data, most, whole=images.check):
        (folder / "photos" / "19.png").write_bytes(png(99, 0, 0))
        return whole(data, most)

    monkeypatch.setattr(images, "check", check)
    monkeypatch.setattr("embedkit.datasets.LoadImages.threads", 1)
    with pytest.raises(UserError, match="changed while it was read"):
        load_images(path, SPECIES)


def test_pictures_may_stand_in_the_list_itself(photos):
    folder, rows = photos
    inline = [{"file": "data:image/png;base64," + base64.b64encode(png(n, 0, 0)).decode(), "species": "x"} for n in range(3)]
    made = load_images(write_list(folder / "a.jsonl", inline), SPECIES)
    assert [data for _, data, _ in loaded(made)] == [png(n, 0, 0) for n in range(3)]
    bad = [{"file": "data:image/png,raw", "species": "x"}, {"file": "data:image/png;base64,??", "species": "x"}]
    made = load_images(write_list(folder / "b.jsonl", inline + bad), LoadImages(label_column="species", max_unreadable=0.5))
    assert [why.partition("(")[0] for _, why in rejected(made)] == [
        "a data: address that is not in base64",
        "a data: address that is damaged ",
    ]


def test_bytes_and_paths_in_one_column_are_told_apart(photos):
    folder, _ = photos
    lines = [{"image": {"bytes": png(n, 9, 9), "path": None}} for n in range(120)]
    lines.append({"image": {"bytes": None, "path": "photos/1.png"}})
    made = load_images(write_list(folder / "a.parquet", lines))
    assert made.manifest.rows == 120
    assert rejected(made) == [
        ("a.parquet row 120", "'photos/1.png' names a file, where the first rows hold the pictures themselves")
    ]


def test_a_list_is_loaded_from_the_command_line(photos, root):
    folder, rows = photos
    path = write_list(folder / "my photos.xlsx", rows)
    command = [sys.executable, "-m", "embedkit", "load-images", str(path), "--image-column", "file", "--label-column", "species"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("images/my-photos@")


def test_a_run_from_the_ui_reads_lists_in_allowed_folders_and_from_public_servers(photos, tmp_path, monkeypatch):
    from flows import borders

    folder, rows = photos
    path, load = write_list(folder / "a.csv", rows), load_images
    other = tmp_path / "other"
    other.mkdir()
    (other / "link.csv").symlink_to(path)  # whose neighbours are those of the link
    monkeypatch.setenv(borders.ALLOWED, "")
    borders.allow([folder])
    borders.check_call(load, [path], {}, folder)
    with pytest.raises(UserError, match="other lies outside of what runs may use here"):
        borders.check_call(load, [other / "link.csv"], {}, folder)
    private = LoadImages.model_validate({"fetch": {"private": True}})
    with pytest.raises(UserError, match=r"fetches from no private network \(fetch\.private\)"):
        borders.check_call(load, [path, private], {}, folder)


@pytest.mark.shared
@pytest.mark.slow
def test_a_spreadsheet_of_photos_becomes_a_classifier_in_three_commands(tmp_path, root):
    from embedkit.encoders import ImportEncoder, import_encoder

    kinds = sorted((SHARED / "data" / "caltech20").iterdir())
    kinds = [kind for kind in kinds if kind.is_dir()][:5]
    for kind in kinds:
        shutil.copytree(kind, tmp_path / "photos" / kind.name)
    files = sorted((tmp_path / "photos").rglob("*.jpg"))
    write_list(tmp_path / "photos.xlsx", [{"file": str(f.relative_to(tmp_path)), "species": f.parent.name} for f in files])
    network = next((SHARED / "models" / "imagenet").glob("*1_0.25*no_top*.h5"), None) or next(
        path for path in (SHARED / "models" / "imagenet").iterdir() if "0_25" in path.name or "2_5" in path.name
    )
    import_encoder(network, ImportEncoder(architecture="MobileNet", alpha=0.25), name="mobilenet", root=root)

    def run(*words):
        done = subprocess.run([sys.executable, "-m", "embedkit", *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    images = run("load-images", str(tmp_path / "photos.xlsx"), "--image-column", "file", "--label-column", "species")
    vectors = run("embed", images, "encoder/mobilenet")
    classifier = run("train-head", vectors)
    write_list(tmp_path / "new.xlsx", [{"file": str(files[n].relative_to(tmp_path))} for n in (0, -1)])
    first, last = run("predict", classifier, str(tmp_path / "new.xlsx"), "--image-column", "file").splitlines()
    assert first.split("\t")[0] == files[0].parent.name and last.split("\t")[2] == str(files[-1].relative_to(tmp_path))
