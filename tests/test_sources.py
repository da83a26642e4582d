"""Sources: what is written, what it is called, and what of it decides a result."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from embedkit.settings import UserError
from embedkit.sources import Source, printable

# Root may read everything, so a child that is root becomes nobody before it tries. The interpreter's own folder may be
# closed to nobody: everything is imported before.
AS_NOBODY = """
import os, sys
from embedkit.settings import UserError
from embedkit.sources import Source
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
try:
    print("content", Source(sys.argv[1]).content())
except UserError as error:
    print(error)
"""


@pytest.fixture
def street():
    """A folder that everybody may enter, unlike those of pytest."""
    folder = Path(tempfile.mkdtemp(prefix="embedkit-street-"))
    folder.chmod(0o755)
    yield folder
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            path.chmod(0o755)
    shutil.rmtree(folder)


def as_nobody(path):
    return subprocess.run([sys.executable, "-c", AS_NOBODY, path], capture_output=True, text=True, check=True).stdout.strip()


def write(path, content="text\na\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def content(path):
    return Source(path).content()


@pytest.mark.parametrize(
    ("text", "scheme", "name", "stem"),
    [
        ("builtin:digits", "builtin", "digits", "digits"),
        ("hf://stanfordnlp/sst2", "hf", "stanfordnlp/sst2", "sst2"),
        ("hf://owner/all-MiniLM-L6-v2@c9745ed", "hf", "owner/all-MiniLM-L6-v2@c9745ed", "all-minilm-l6-v2"),
        ("kaggle://keras/bert/keras/bert_tiny_en_uncased/2", "kaggle", "keras/bert/keras/bert_tiny_en_uncased/2", "2"),
        ("keras://mobilenet_v3_small_100_imagenet", "keras", "mobilenet_v3_small_100_imagenet", "mobilenet_v3_small_100_imagenet"),
        ("applications://MobileNetV2", "applications", "MobileNetV2", "mobilenetv2"),
    ],
)
def test_a_source_that_is_no_path_has_a_scheme_and_a_name(text, scheme, name, stem):
    source = Source(text)
    assert (source.scheme, source.name, source.stem, str(source)) == (scheme, name, stem, text)


@pytest.mark.parametrize(
    ("path", "stem"),
    [
        ("reviews.csv", "reviews"),
        ("Big Reviews (1).csv.gz", "big-reviews-1"),
        ("mobilenet.weights.h5", "mobilenet"),
        ("train.2024.jsonl", "train-2024"),
        ("sorted@home/letters@night.csv", "letters-night"),
        ("rows.PARQUET", "rows"),
        (".csv", "source"),
        ("...", "source"),
        ("été.txt", "t"),
    ],
)
def test_a_file_is_called_after_its_name_without_suffixes(tmp_path, path, stem):
    source = Source(write(tmp_path / path))
    assert (source.scheme, source.stem) == ("path", stem)


@pytest.mark.parametrize("written", ["photos", "photos/", "./photos//", "../here/photos", "~/photos"])
def test_a_folder_is_called_after_its_own_name_however_it_is_written(tmp_path, monkeypatch, written):
    folder = tmp_path / "here"
    write(folder / "photos" / "a.txt")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder))
    assert Source(written).stem == "photos"
    assert Source(written).content() == content(folder / "photos")


@pytest.mark.parametrize("written", [".", "./", "inner/.."])
def test_the_working_directory_is_called_after_its_folder(tmp_path, monkeypatch, written):
    write(tmp_path / "photos" / "inner" / "a.txt")
    monkeypatch.chdir(tmp_path / "photos")
    assert Source(written).stem == "photos"


def test_a_source_may_be_given_as_a_path_a_text_or_a_source(tmp_path):
    path = write(tmp_path / "a.csv")
    assert str(Source(path)) == str(path) == str(Source(Source(str(path))))


def test_a_missing_file_is_answered_with_near_names(tmp_path, monkeypatch):
    write(tmp_path / "reviews.csv")
    with pytest.raises(UserError, match="the file or folder 'reviws.csv' is not known; did you mean 'reviews.csv'"):
        Source("reviws.csv")
    with pytest.raises(UserError, match=f"in {tmp_path}/nowhere, the file or folder 'x' is not known; there is none"):
        Source("nowhere/x")


def test_hidden_files_are_not_offered(tmp_path):
    write(tmp_path / ".secret.csv")
    write(tmp_path / "rows.csv")
    with pytest.raises(UserError) as caught:
        Source("zzzz")
    assert "rows.csv" in str(caught.value) and ".secret" not in str(caught.value)


@pytest.mark.parametrize("text", ["", " ", "\n"])
def test_an_empty_source_is_refused(text):
    with pytest.raises(UserError, match="the source is empty; give a path, builtin:NAME or hf://NAME"):
        Source(text)


def test_an_unknown_scheme_is_answered_with_those_there_are():
    with pytest.raises(UserError, match="scheme 'zzzz://' is not known; .*hf://"):
        Source("zzzz://somewhere")
    with pytest.raises(UserError, match="scheme 'HF://' is not known; did you mean 'hf://'"):
        Source("HF://owner/name")


@pytest.mark.parametrize("name", ["digit", "", "nothing-like-it"])
def test_an_unknown_builtin_is_answered_with_those_there_are(name):
    with pytest.raises(UserError, match=f"built-in dataset '{name}' is not known; .*digits"):
        Source(f"builtin:{name}").content()


@pytest.mark.parametrize("text", ["x" * 300, "a whole text where a path was due, " * 200, "~nobody-of-that-name/x.csv", "a\0b"])
def test_what_can_not_be_a_path_is_refused_in_one_sentence(text):
    with pytest.raises(UserError) as caught:
        Source(text)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700


def test_a_moved_file_is_the_same_source(tmp_path):
    here = write(tmp_path / "here" / "reviews.csv")
    before = content(here)
    there = tmp_path / "there" / "renamed.csv"
    there.parent.mkdir()
    here.rename(there)
    os.utime(there, (1, 1))
    assert content(there) == before
    link = tmp_path / "link.csv"
    link.symlink_to(there)
    assert content(link) == before


def test_a_changed_byte_is_another_source(tmp_path):
    path = write(tmp_path / "a.csv", "text\na\n")
    before = content(path)
    assert content(write(path, "text\nb\n")) != before
    assert content(write(path, "text\na\n")) == before


def test_another_suffix_is_another_source_because_it_is_read_otherwise(tmp_path):
    same = {suffix: content(write(tmp_path / f"a{suffix}")) for suffix in (".csv", ".tsv", ".txt", ".csv.gz", "")}
    assert len(set(same.values())) == len(same)


def test_a_moved_folder_is_the_same_source(tmp_path):
    write(tmp_path / "photos" / "cat" / "1.txt", "one")
    write(tmp_path / "photos" / "dog" / "2.txt", "two")
    before = content(tmp_path / "photos")
    (tmp_path / "photos").rename(tmp_path / "pictures")
    assert content(tmp_path / "pictures") == before
    assert content(f"{tmp_path}/pictures/") == before


def test_a_file_that_is_renamed_moved_or_exchanged_inside_a_folder_makes_another_source(tmp_path):
    def folder(name, **files):
        for file, text in files.items():
            write(tmp_path / name / f"{file.replace('__', '/')}.txt", text)
        return content(tmp_path / name)

    seen = [
        folder("original", cat__1="one", dog__2="two"),
        folder("exchanged", cat__1="two", dog__2="one"),
        folder("renamed", cat__3="one", dog__2="two"),
        folder("moved", dog__1="one", dog__2="two"),
        folder("fewer", cat__1="one"),
        folder("more", cat__1="one", dog__2="two", dog__4=""),
    ]
    assert len(set(seen)) == len(seen)
    assert folder("again", dog__2="two", cat__1="one") == seen[0]


def test_hidden_files_and_empty_folders_count_for_nothing(tmp_path):
    write(tmp_path / "photos" / "1.txt", "one")
    before = content(tmp_path / "photos")
    write(tmp_path / "photos" / ".DS_Store", "x")
    write(tmp_path / "photos" / ".thumbs" / "1.txt", "x")
    (tmp_path / "photos" / "empty").mkdir()
    (tmp_path / "photos" / ".broken").symlink_to(tmp_path / "nowhere")
    assert content(tmp_path / "photos") == before
    assert Source(tmp_path / "photos").files() == [tmp_path / "photos" / "1.txt"]


def test_files_come_in_the_order_of_their_names(tmp_path):
    for name in ("b/2", "a/3", "b/1", "c"):
        write(tmp_path / "photos" / name)
    found = [str(path.relative_to(tmp_path / "photos")) for path in Source(tmp_path / "photos").files()]
    assert found == ["a/3", "b/1", "b/2", "c"]
    assert Source(tmp_path / "photos" / "c").files() == [tmp_path / "photos" / "c"]


def test_a_folder_that_links_to_itself_comes_to_an_end(tmp_path):
    write(tmp_path / "photos" / "1.txt", "one")
    for name in ("again", "and-again"):  # with two, the ways through them double with every step
        (tmp_path / "photos" / name).symlink_to(tmp_path / "photos")
    source = Source(tmp_path / "photos")
    assert source.files() == [tmp_path / "photos" / "1.txt"] and len(source.content()) == 64
    assert source.passed_over() == [(name, "a folder that is read as '.'") for name in ("again", "and-again")]


def test_a_file_name_that_is_no_unicode_is_a_name_like_others(tmp_path):
    path = os.fsdecode(os.fsencode(str(tmp_path)) + b"/r\xff.csv")
    Path(path).write_text("text\na\n")
    assert Source(path).stem == "r"
    assert Source(path).content() == content(write(tmp_path / "plain.csv"))
    assert len(Source(tmp_path).content()) == 64


def linked(tmp_path, **links):
    """A folder `photos` with a file in each of `cat` and `dog`, another folder beside it, and links by where they lead."""
    write(tmp_path / "photos" / "cat" / "1.txt", "one")
    write(tmp_path / "photos" / "dog" / "2.txt", "two")
    write(tmp_path / "outside" / "deep" / "3.txt", "three")
    for name, target in links.items():
        (tmp_path / "photos" / name).symlink_to(target)
    return tmp_path / "photos"


def names(folder, follow_links=False):
    return [str(path.relative_to(folder)) for path in Source(folder, follow_links).files()]


def test_a_folder_with_two_names_is_read_once_under_its_own(tmp_path):
    folder = linked(tmp_path, animals="dog", a="cat")
    assert names(folder) == ["cat/1.txt", "dog/2.txt"]
    assert Source(folder).passed_over() == [("a", "a folder that is read as 'cat'"), ("animals", "a folder that is read as 'dog'")]


def test_a_link_to_a_file_within_is_that_file_and_to_a_hidden_folder_within_that_folder(tmp_path):
    write(tmp_path / "photos" / ".store" / "x" / "4.txt", "four")
    folder = linked(tmp_path, alias="cat/1.txt", annexed=".store/x/4.txt", whole=".store/x", again=".store/x")
    assert names(folder) == ["again/4.txt", "alias", "annexed", "cat/1.txt", "dog/2.txt"]
    assert Source(folder).passed_over() == [("whole", "a folder that is read as 'again'")]


def test_links_that_lead_out_are_passed_over_unless_they_are_to_be_followed(tmp_path):
    folder = linked(tmp_path, near="../outside/deep", file="../outside/deep/3.txt", up="..", gone="nowhere", loop="loop")
    assert names(folder) == ["cat/1.txt", "dog/2.txt"]
    assert Source(folder).passed_over() == [
        ("file", "a link that leads out of the folder (../outside/deep/3.txt)"),
        ("gone", "a link that leads nowhere (nowhere)"),
        ("loop", "a link that leads nowhere (loop)"),
        ("near", "a link that leads out of the folder (../outside/deep)"),
        ("up", "a link that leads out of the folder (..)"),
    ]
    assert names(folder, True) == ["cat/1.txt", "dog/2.txt", "file", "near/3.txt"]  # of `up` all is read by then
    assert [name for name, _ in Source(folder, True).passed_over()] == ["gone", "loop", "up/outside/deep", "up/photos"]


def test_a_network_s_folder_may_be_made_of_links_and_counts_what_they_lead_to(tmp_path):
    blob = write(tmp_path / "blobs" / "abc", "weights")
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "model.txt").symlink_to(blob)
    before = Source(tmp_path / "snapshot", None).content()
    (tmp_path / "snapshot" / "gone").symlink_to("nowhere")
    assert Source(tmp_path / "snapshot", None).content() == before
    assert before == content(write(tmp_path / "plain" / "model.txt", "weights").parent)
    write(blob, "others")
    assert Source(tmp_path / "snapshot", None).content() != before


def test_a_source_may_be_a_link_itself(tmp_path):
    folder = linked(tmp_path)
    (tmp_path / "link").symlink_to(folder)
    assert content(tmp_path / "link") == content(folder)


def test_what_is_passed_over_is_part_of_the_content_since_it_is_told(tmp_path):
    before = content(linked(tmp_path))
    (tmp_path / "photos" / "gone").symlink_to("nowhere")
    after = content(tmp_path / "photos")
    assert after != before
    (tmp_path / "photos").rename(tmp_path / "moved")
    assert content(tmp_path / "moved") == after


def test_a_pipe_is_passed_over(tmp_path):
    folder = linked(tmp_path)
    os.mkfifo(folder / "pipe.txt")
    assert names(folder) == ["cat/1.txt", "dog/2.txt"]
    assert Source(folder).passed_over() == [("pipe.txt", "neither a file nor a folder")]


@pytest.mark.slow
def test_a_folder_may_be_as_deep_as_a_path_may_be_long(tmp_path):
    deep = str(linked(tmp_path))
    for _ in range(1500):
        deep += "/d"
        os.mkdir(deep)
    Path(deep, "x").touch()
    assert len(names(tmp_path / "photos")) == 3
    subprocess.run(["rm", "-r", tmp_path / "photos"], check=True)  # pytest's own way isn't as patient


CHANGED = "photos changed while it was read; make the same call again when nobody writes to it"


def test_bytes_that_are_not_those_that_were_known_are_refused_at_their_end(tmp_path):
    folder = linked(tmp_path)
    source = Source(folder)
    source.content()
    write(folder / "cat" / "1.txt", "eno")
    with source.open(folder / "cat" / "1.txt") as file:
        assert file.read(2) == b"en"
        with pytest.raises(UserError, match=CHANGED):
            file.read()
    with pytest.raises(UserError, match=CHANGED):
        source.read(folder / "cat" / "1.txt")
    write(folder / "cat" / "1.txt", "one")
    assert source.read(folder / "cat" / "1.txt") == b"one" and source.read(folder / "dog" / "2.txt") == b"two"


def test_a_file_that_came_after_the_fingerprint_is_refused(tmp_path):
    folder = linked(tmp_path)
    source = Source(folder)
    source.content()
    with pytest.raises(UserError, match=CHANGED):
        source.read(write(folder / "cat" / "9.txt"))
    with pytest.raises(UserError, match=CHANGED):
        source.open(folder / "cat" / "9.txt")


def test_a_file_of_which_a_part_was_read_may_not_have_been_touched(tmp_path):
    path = write(tmp_path / "rows.txt", "one")
    source = Source(path)
    source.content()
    assert not source.changed()
    with source.open(path) as file:
        file.read(1)
        source.check()
        write(path, "eno"), write(path, "one")  # changed, and changed back
        with pytest.raises(UserError, match=r"rows\.txt changed while it was read"):
            source.check()
    assert source.changed()


def test_a_file_that_a_library_read_by_its_path_may_not_have_been_touched(tmp_path):
    path = write(tmp_path / "weights.h5", "one")
    status, source = path.stat(), Source(path)
    before = source.content()
    write(path, "eno")
    assert source.changed()
    write(path, "one")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # as a careful forger would
    assert source.content() == before and source.changed()


def test_a_file_all_of_whose_bytes_were_seen_may_be_touched_afterwards(tmp_path):
    path = write(tmp_path / "rows.txt", "one")
    source = Source(path)
    source.content()
    with source.open(path) as file:
        assert file.read() == b"one"
    path.chmod(0o600)
    os.utime(path, (1, 1))
    assert not source.changed()
    source.check()


def test_a_write_right_after_the_fingerprint_has_another_time(tmp_path):
    for number in range(10):  # without the wait some of these fall into one step of the clock
        path = write(tmp_path / "rows.txt", f"{number}a")
        source = Source(path)
        source.content()
        write(path, f"{number}b"), write(path, f"{number}a")
        assert source.changed()


def test_a_name_is_printed_whatever_it_holds():
    assert printable("café") == "café" and printable(os.fsdecode(b"caf\xe9.jpg")) == r"caf\xe9.jpg"


def test_an_unreadable_file_is_named_with_what_to_do(street):
    path = write(street / "rows.csv")
    path.chmod(0)
    assert as_nobody(path) == f"{path} can't be read (Permission denied); mend its permissions or take it out of the source"


def test_an_unreadable_folder_inside_a_folder_is_named_with_what_to_do(street):
    write(street / "photos" / "1.txt")
    closed = street / "photos" / "closed"
    closed.mkdir()
    closed.chmod(0)
    expected = f"{closed} can't be read (Permission denied); mend its permissions or name another source"
    assert as_nobody(street / "photos") == expected


def test_a_file_in_a_folder_that_may_not_be_entered_is_answered_in_one_sentence(street):
    path = write(street / "closed" / "rows.csv")
    path.parent.chmod(0)
    answer = as_nobody(path)
    assert "Permission denied" in answer and str(path.parent) in answer and "\n" not in answer


def test_the_builtin_data_are_told_apart_and_stay_the_same():
    seen = [Source(f"builtin:{name}").content() for name in ("digits", "docstrings", "symbols")]
    assert len(set(seen)) == 3
    assert Source("builtin:digits").content() == seen[0]


def test_a_hub_that_can_not_be_reached_is_answered_with_the_local_form():
    with pytest.raises(UserError, match="hf://nobody/nothing could not be reached .*no network.* give the local folder or file"):
        Source("hf://nobody/nothing").content()


def test_other_hubs_count_by_handle_and_package_version_without_a_network():
    names = ["keras://bert_tiny_en_uncased", "keras://bert_small_en_uncased", "applications://MobileNetV2", "kaggle://keras/a/keras/b/1"]
    assert len({Source(name).content() for name in names}) == 4
