"""Publishing, and what goes on beside it: other calls of the same name, `prune`, kills at the worst moment, links.

The stage `note_down` needs no framework. A child process that runs this file does what it is told, and can be told to stop, or to
kill itself, when Python is about to do something on the disk (`AT`, an audit event and a part of its first path).
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from embedkit import artifacts, stages
from embedkit.artifacts import DRAFTS, Artifact, list_artifacts, prunable, prune, versions
from embedkit.cli import main
from embedkit.settings import Settings, UserError
from embedkit.sources import Source
from embedkit.stages import Draft, Facts, _alone, stage


def before_a_note(out):
    """What a test puts here happens before a note is taken."""


class Note(Settings):
    """What is noted."""

    words: str = "a note"
    """What it says."""


@stage("note", revision=1)
def note_down(out: Draft, source: Source, settings: Note = Note()) -> Facts:
    """Note something down.

    Args:
        source: where it stands.
    """
    before_a_note(out)
    out.part("note.txt", lambda path: path.write_text(settings.words) and None)
    return Facts()


@stage("copy", revision=1)
def copy_out(out: Draft, note: Artifact, settings: Settings = Settings()) -> Facts:
    """Copy a note.

    Args:
        note: what is copied.
    """
    (out / "copy.txt").write_text((note / "note.txt").read_text())
    return Facts()


@stage("book", revision=1)
def bind(out: Draft, source: Source, settings: Settings = Settings()) -> Facts:
    """Note something down, and bind it.

    Args:
        source: where it stands.
    """
    pages = [note_down(source, Note(words=words)) for words in ("first", "second")]
    prune(out.root)
    (out / "book.txt").write_text(" ".join((page / "note.txt").read_text() for page in pages))
    return Facts()


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "paper.txt"
    path.write_text("white")
    return path


def child(*words, at="", then="stop"):
    """A process that does something to the root of the test."""
    return subprocess.Popen(
        [sys.executable, __file__, *map(str, words)],
        env=os.environ | {"AT": at, "THEN": then},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def stopped(*words, at):
    """The same, when it has come to a moment; `communicate("go")` lets it go on."""
    process = child(*words, at=at)
    assert process.stdout.readline() == "stopped\n", process.communicate()[1]
    return process


def killed(*words, at):
    """The same, when it was killed at that moment."""
    process = child(*words, at=at, then="die")
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def left(root):
    """What lies among the drafts beside the lock of the root."""
    return sorted(path.name for path in (root / DRAFTS).iterdir() if path.name != "changes.lock")


def answer(process):
    out, err = process.communicate("go\n", timeout=60)
    assert process.returncode == 0, err
    return out.strip().split("\n")


# What is left behind


def test_a_call_leaves_neither_a_draft_nor_a_lock(source, root):
    copy_out(note_down(source))
    assert left(root) == []


def test_a_call_that_finds_nothing_to_go_on_from_leaves_nothing_either(source, root):
    note = note_down(source)
    (note / "note.txt").write_text("a lie")
    with pytest.raises(UserError, match="is damaged"):
        copy_out(note)
    assert left(root) == []


@pytest.mark.parametrize("published", [True, False])
def test_the_draft_of_a_call_that_was_killed_when_it_had_published_goes_with_the_next_call(source, root, published, monkeypatch):
    killed("note", source, "killed", at="shutil.rmtree .drafts")
    (artifact,) = list_artifacts()
    assert len(left(root)) == 2  # the draft and its lock
    if not published:  # for the one that waited for the lock and finds it then
        monkeypatch.setattr("embedkit.artifacts.forget_draft", lambda draft: None)
        monkeypatch.setattr(type(note_down), "_reuse", first_misses(type(note_down)._reuse))
    assert note_down(source, Note(words="killed")) == artifact
    assert left(root) == []


def first_misses(reuse):
    calls = []

    def missing(*arguments):
        calls.append(arguments)
        return None if len(calls) == 1 else reuse(*arguments)

    return missing


def test_a_draft_that_somebody_holds_is_left_to_him(source, root):
    process = stopped("note", source, "held", at="shutil.rmtree .drafts")
    artifact = note_down(source, Note(words="held"))
    assert len(left(root)) == 2
    assert answer(process) == [str(artifact)] and left(root) == []


def test_who_waits_for_a_lock_whose_file_goes_takes_a_new_one_and_is_alone(tmp_path):
    inside, most, turns = [], [], []

    def take_turns():
        for _ in range(10):
            with _alone(tmp_path / "draft", "test"):
                inside.append(1)
                most.append(len(inside))
                turns.append(1)
                time.sleep(0.001)
                inside.pop()

    threads = [threading.Thread(target=take_turns) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(turns) == 40 and max(most) == 1
    assert list(tmp_path.iterdir()) == []


# prune beside calls that run


def test_what_a_running_call_reads_is_not_removed(source, root):
    old = note_down(source, Note(words="old"))
    new = note_down(source, Note(words="new"))
    assert prunable() == [old]
    process = stopped("copy", old, at="open copy.txt")
    assert prune() == ([], [])
    assert answer(process)[0].startswith("copy/paper@")
    assert list_artifacts()[1:] == [old, new]


def test_a_call_that_starts_while_its_input_is_removed_says_so(source, root):
    old = note_down(source, Note(words="old"))
    note_down(source, Note(words="new"))
    copying = stopped("copy", old, at="open changes.lock")  # it was opened, and nobody was told yet
    assert prune() == ([old], [])
    out, err = copying.communicate("go\n")
    assert (out, err) == ("", f"{old} was removed while this call began; make it again, or give another\n")
    assert left(root) == []


def test_a_draft_that_is_removed_is_not_gone_on_with(source, root):
    killed("note", source, "resumed", at="open receipts")
    draft = next(path for path in (root / DRAFTS).iterdir() if path.is_dir())
    long_ago = time.time() - 2 * 24 * 3600
    for path in (*draft.rglob("*"), draft):
        os.utime(path, (long_ago, long_ago))
    pruning = stopped("prune", at=f"os.rename {draft}")
    noting = child("note", source, "resumed")
    time.sleep(0.5)
    assert noting.poll() is None and draft.exists()
    assert answer(pruning) == [f"removed {draft}"]
    assert Artifact.open(answer(noting)[0]).problems() == [] and left(root) == []


def test_what_a_stage_was_given_by_another_is_not_removed_while_it_works(source):
    book = bind(source)  # it prunes, and the first of its notes is not the newest
    assert (book / "book.txt").read_text() == "first second"
    prune()
    assert [str(artifact).split("@")[0] for artifact in list_artifacts()] == ["book/paper", "note/paper"]


def test_prune_stops_where_it_is_not_known_what_a_draft_is_made_from(source, root):
    note_down(source, Note(words="old"))
    note_down(source, Note(words="new"))
    (root / DRAFTS / "some-draft").mkdir()
    for text in ("{", '"note/paper"', "[1]"):
        (root / DRAFTS / "some-draft/inputs.json").write_text(text)
        with pytest.raises(UserError, match="inputs.json is damaged, so what this unfinished artifact is made from is not known"):
            prune()
    assert len(list_artifacts()) == 2


def test_prune_takes_locks_of_drafts_that_are_gone_and_leaves_those_that_are_held(source, root):
    note_down(source)
    (root / DRAFTS / "0123.lock").touch()
    process = stopped("note", source, "held", at="open receipts")
    assert len(left(root)) == 3
    assert prune() == ([], [])
    assert len(left(root)) == 2 and "0123.lock" not in left(root)
    answer(process)


# One name


def test_versions_of_one_name_have_seconds_of_their_own_whoever_publishes_at_once(source, root):
    processes = [child("notes", source, f"by {number}", 8) for number in range(3)]
    made = [line for process in processes for line in answer(process)]
    folders = versions(root / "note/paper")
    assert len({*made}) == len(folders) == 24
    seconds = [folder.name[:16] for folder in folders]
    assert len({*seconds}) == 24 and seconds == sorted(seconds)
    renamed = [folder.stat().st_ctime_ns for folder in folders]
    assert renamed == sorted(renamed)


# Links


@pytest.mark.parametrize("began", ["before", "meanwhile"])
def test_a_worker_that_was_given_up_does_not_write_into_what_is_published(source, root, monkeypatch, began):
    hashed, begun, workers = threading.Event(), threading.Event(), []

    def late(path):
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(path.open("w")) if began == "before" else None
            begun.set()
            hashed.wait(60)
            (file or stack.enter_context(path.open("w"))).write("theirs")

    def hand_out(out):
        """Give a part to a worker, lose patience and make it here."""

        def work():
            with contextlib.suppress(FileNotFoundError):  # nobody looks after it any more
                Draft(out.folder).part("note.txt", late)

        workers.append(threading.Thread(target=work))
        workers[0].start()
        begun.wait(60)

    def hash_slowly(path):
        found = artifacts.sha256(path)
        if path.name == "note.txt":
            hashed.set()
            workers[0].join(60)
        return found

    monkeypatch.setattr(stages, "sha256", hash_slowly)
    monkeypatch.setitem(globals(), "before_a_note", hand_out)
    made = note_down(source, Note(words="ours"))
    assert not workers[0].is_alive() and made.problems() == [] and (made / "note.txt").read_text() == "ours"
    assert left(root) == []


def test_a_call_that_is_killed_when_its_files_were_taken_aside_goes_on_with_them(source, root):
    killed("note", source, "sealed", at="os.rename sealed")
    (draft,) = (root / DRAFTS).glob("*/")
    assert (draft / "sealed/manifest.json").is_file()
    made = note_down(source, Note(words="sealed"))
    assert (made / "note.txt").read_text() == "sealed" and made.problems() == [] and left(root) == []


@pytest.mark.parametrize("place", ["note", "note/paper", ".drafts", ".drafts/CALL", ".drafts/CALL/files", ".drafts/CALL/work"])
def test_nothing_is_written_through_a_link(source, root, tmp_path, place):
    outside = tmp_path / "outside"
    outside.mkdir()
    link = root / place.replace("CALL", note_down.fingerprint(source, Note())[:32])
    link.parent.mkdir(parents=True)
    link.symlink_to(outside)
    with pytest.raises(UserError) as caught:
        note_down(source)
    assert str(caught.value) == f"{link} is a link, which could lead out of the root; put the folder itself in its place"
    assert list(outside.iterdir()) == [] and list_artifacts() == []


def test_the_command_refuses_a_link_with_one_sentence(reviews, root, tmp_path, capsys):
    (tmp_path / "outside").mkdir()
    root.mkdir()
    (root / "texts").symlink_to(tmp_path / "outside")
    assert main(["load-texts", str(reviews)]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"embedkit: {root / 'texts'} is a link") and err.count("\n") == 1
    assert list((tmp_path / "outside").iterdir()) == []


def test_a_root_that_is_a_link_is_where_it_leads(source, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert note_down(source, root=tmp_path / "link").root == tmp_path / "real"


def test_a_link_in_a_draft_is_not_published(source, root, tmp_path):
    killed("note", source, "linked", at="open receipts")
    draft = Draft(root / DRAFTS / note_down.fingerprint(source, Note(words="linked"))[:32])
    (tmp_path / "elsewhere.txt").write_text("linked")
    (draft / "note.txt").symlink_to(tmp_path / "elsewhere.txt")
    (draft / "more.txt").symlink_to(tmp_path / "elsewhere.txt")
    artifact = note_down(source, Note(words="linked"))
    assert artifact.problems() == [] and [file.path for file in artifact.manifest.files] == ["note.txt"]


def work(verb, *given):
    """What a child does."""
    if verb == "note":
        print(note_down(given[0], Note(words=given[1])), flush=True)
    elif verb == "notes":
        for number in range(int(given[2])):
            print(note_down(given[0], Note(words=f"{given[1]} {number}")), flush=True)
    elif verb == "copy":
        print(copy_out(given[0]), flush=True)
    elif verb == "prune":
        going, drafts = artifacts.prune()
        for gone in (*going, *(draft for draft, _ in drafts)):
            print(f"removed {gone}", flush=True)


def watch():
    """Stop, or die, once, when Python is about to do what `AT` says."""
    event, _, part = os.environ.get("AT", "").partition(" ")
    done = []

    def hook(name, given):
        if name == event and not done and part in str(given[0]):
            done.append(name)
            if os.environ["THEN"] == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            print("stopped", flush=True)
            sys.stdin.readline()

    if event:
        sys.addaudithook(hook)


if __name__ == "__main__":
    watch()
    try:
        work(*sys.argv[1:])
    except UserError as refusal:
        sys.exit(str(refusal))
