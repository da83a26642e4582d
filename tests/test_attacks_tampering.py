"""Attacks: a root in which somebody changes what was published, in every way that a disk allows.

`verify` says so each time, and every command that would use what was changed refuses it in one sentence with exit code 1.

What no check can know is a change that is carried through: a file, its checksum in the manifest, and the manifest's seal, or a
manifest's words and its seal. The seal shows damage, and edits by those who don't know of it; it is no signature. Of such changes
it is only asked that whatever is said wrongly or not at all ends in no traceback. Values in `settings`, `details` and `decisions`
that are of another type than the stage's own are out of scope: each stage has its own there, and a forger any of them.
"""

import contextlib
import hashlib
import json
import os
import shutil
import signal

import pytest

from embedkit import build_index, embed, import_encoder, load_texts, train_head
from embedkit.cli import main

pytestmark = pytest.mark.slow

SECONDS = 60


class Hangs(BaseException):
    """No `except` takes this for an answer."""


@contextlib.contextmanager
def patience():
    def stop(*_):
        raise Hangs

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# Changes of one file: each takes its path and a folder outside of the root


def flipped(share):
    def change(path, outside):
        raw = bytearray(path.read_bytes())
        raw[min(int(share * len(raw)), len(raw) - 1)] ^= 1
        path.write_bytes(raw)

    return change


def cut(path, outside):
    os.truncate(path, path.stat().st_size - 1)


def lengthened(path, outside):
    with path.open("ab") as file:
        file.write(b"\0")


def emptied(path, outside):
    path.write_bytes(b"")


def deleted(path, outside):
    path.unlink()


def linked(path, outside):
    path.rename(outside / path.name)
    path.symlink_to(outside / path.name)


def a_folder(path, outside):
    path.unlink()
    path.mkdir()


def a_pipe(path, outside):
    path.unlink()
    os.mkfifo(path)


def a_device(path, outside):
    path.unlink()
    path.symlink_to("/dev/zero")


def a_link_to_itself(path, outside):
    path.unlink()
    path.symlink_to(path)


OF_FILES = {
    **{"flipped at its start": flipped(0), "flipped in its middle": flipped(0.5), "flipped at its end": flipped(1)},
    **{"cut": cut, "lengthened": lengthened, "emptied": emptied, "deleted": deleted, "replaced by a link": linked},
    **{"a folder": a_folder, "a pipe": a_pipe, "a device": a_device, "a link to itself": a_link_to_itself},
}


# Changes of a folder: each takes an artifact's folder and a folder outside of the root


def more_file(folder, outside):
    (folder / "more.txt").write_text("more")


def more_folder(folder, outside):
    (folder / "more").mkdir()


def more_link(folder, outside):
    (folder / "more").symlink_to(outside)


def more_pipe(folder, outside):
    os.mkfifo(folder / "more")


def moved_to(name):
    def change(folder, outside):
        folder.rename(folder.with_name(name))

    return change


def linked_level(level):
    def change(folder, outside):
        place = [folder, *folder.parents][level]
        place.rename(outside / "moved")
        place.symlink_to(outside / "moved")

    return change


def under_another_name(folder, outside):
    other = folder.parent.with_name("other")
    other.mkdir()
    folder.rename(other / folder.name)


def under_another_kind(folder, outside):
    other = folder.parents[2] / "other" / folder.parent.name
    other.mkdir(parents=True)
    folder.rename(other / folder.name)


OF_FOLDERS = {
    **{"a file more": more_file, "an empty folder more": more_folder, "a link more": more_link, "a pipe more": more_pipe},
    **{"another version": moved_to("20250101T000000Z-00000000"), "a version that is none": moved_to("old")},
    **{"its version a link": linked_level(0), "its name a link": linked_level(1), "its kind a link": linked_level(2)},
    **{"under another name": under_another_name, "under another kind": under_another_kind},
}


# Changes of what a manifest says, whose seal fits: fields in, fields out


def first_file(**changes):
    return lambda fields: fields | {"files": [{**fields["files"][0], **changes}, *fields["files"][1:]]}


def said(**changes):
    return lambda fields: fields | changes


def reference(fields):
    return {"role": "more", "ref": f"{fields['kind']}/{fields['name']}@{fields['version']}", "fingerprint": fields["fingerprint"]}


RESEALED = {
    "a path that leads out": first_file(path="../../../../outside/secret"),
    "a path from the top": first_file(path="/etc/passwd"),
    "itself among its files": first_file(path="manifest.json"),
    "a path on another system": first_file(path="..\\..\\x"),
    "a path with a line": first_file(path="a\nb"),
    "a path of another file": first_file(path="other.bin"),
    "a smaller size": first_file(bytes=1),
    "a larger size": first_file(bytes=2**50),
    "a negative size": first_file(bytes=-1),
    "a size beyond all numbers": first_file(bytes=10**40),
    "another checksum": first_file(sha256="0" * 64),
    "no checksum": first_file(sha256=""),
    "a file twice": lambda fields: fields | {"files": fields["files"][:1] * 2 + fields["files"][1:]},
    "a file less": lambda fields: fields | {"files": fields["files"][1:]},
    "no files": said(files=[]),
    "another kind": said(kind="other"),
    "a kind that leads out": said(kind="../.."),
    "another name": said(name="other"),
    "a name that is none": said(name=""),
    "another version": said(version="20250101T000000Z-00000000"),
    "a version that leads out": said(version="../x"),
    "another fingerprint": said(fingerprint="0" * 64),
    "an input that leads out": said(inputs=[{"role": "a", "ref": "../../x", "fingerprint": "0" * 64}]),
    "an input of any version": said(inputs=[{"role": "a", "ref": "texts/reviews", "fingerprint": "0" * 64}]),
    "itself as an input": lambda fields: fields | {"inputs": [*fields["inputs"], reference(fields)]},
    "a source without a text": said(source={}),
    "checks that are none": said(decisions={"preflight": {"loss": 3}}),
    "rows that are none": said(rows=-1),
    "settings that are none": said(settings=[]),
    "a value a thousand deep": said(details={"deep": json.loads("[" * 400 + "]" * 400)}),
    "a field of the wrong type": said(metrics={"accuracy": {"value": "high", "n": 1}}),
}
CARRIED_THROUGH = {
    "other settings": said(settings={"seed": 99}),
    "no settings": said(settings={}),
    "more details": lambda fields: fields | {"details": fields["details"] | {"more": [1, "\x1b[2J"]}},
    "no details": said(details={}),
    "no inputs": said(inputs=[]),
    "other notes": said(notes=["\x1b[2J forged"]),
    "other metrics": said(metrics={"accuracy": {"value": 1.0, "n": 10**9}}),
    "no metrics": said(metrics={}),
    "other rows": said(rows=10**12),
    "another stage": said(stage="other", revision=99),
    "another time": said(created="never"),
    "no environment": said(environment={}),
    "more than is known": said(more={"later": 1}),
}


def reseal(edit):
    def change(folder, outside):
        path = folder / "manifest.json"
        fields = edit(json.loads(path.read_text())) | {"seal": "0" * 64}
        body = json.dumps(fields, indent=1, ensure_ascii=False).encode() + b"\n"
        path.write_bytes(body[:-68] + hashlib.sha256(body).hexdigest().encode() + body[-4:])

    return change


def without_seal(field):
    """Change one field of a manifest and leave its seal."""

    def change(folder, outside):
        path = folder / "manifest.json"
        fields = json.loads(path.read_text())
        seal = fields.pop("seal")
        fields[field] = None if fields[field] else "forged"
        path.write_text(json.dumps(fields | {"seal": seal}, indent=1, ensure_ascii=False) + "\n")

    return change


# Trying them


@pytest.fixture
def chain(reviews, tiny_bert, root):
    """A dataset, an encoder, vectors, a classifier and an index, each made from those before, by kind."""
    texts, encoder = load_texts(reviews, name="reviews"), import_encoder(tiny_bert)
    vectors = embed(texts, encoder)
    made = [texts, encoder, vectors, train_head(vectors), build_index(vectors)]
    return {artifact.manifest.kind: artifact for artifact in made}


def users(chain):
    """The commands that read an artifact's files, by its kind; with settings of their own, so that nothing made before will do."""
    ref = {kind: f"{kind}/{artifact.manifest.name}" for kind, artifact in chain.items()}
    embeds = ["embed", ref["texts"], ref["encoder"], "--rows-per-part", "50"]
    predicts, searches = ["predict", ref["classifier"], "good film"], ["search", ref["index"], "good film"]
    return {
        "texts": [embeds, searches],
        "encoder": [embeds, predicts, searches],
        "vectors": [["train-head", ref["vectors"], "--seed", "7"], ["build-index", ref["vectors"], "--method", "hnsw"]],
        "classifier": [predicts],
        "index": [searches],
    }


def run(capsys, words):
    """Exit code, stdout and stderr of a command, or what got through it."""
    try:
        with patience():
            code = main(words)
    except Hangs:
        code = "hangs"
    except BaseException as error:
        code = f"{type(error).__name__}: {error}"[:300]
    return code, *capsys.readouterr()


def one_sentence(found):
    code, out, err = found
    lines = [line for line in err.split("\n") if line]
    return code == 1 and not out and bool(lines) and lines[-1].startswith("embedkit: ") and "Traceback" not in err


class Attacked:
    """A copy of the root for one act, put back afterwards."""

    def __init__(self, artifact, tmp_path):
        self.artifact, self.kept, self.outside = artifact, tmp_path / "kept", tmp_path / "outside"

    def __enter__(self):
        shutil.copytree(self.artifact.root, self.kept, symlinks=True)
        self.outside.mkdir()
        (self.outside / "secret").write_text("secret")
        return self.artifact.path, self.outside

    def __exit__(self, *_):
        shutil.rmtree(self.artifact.root)
        self.kept.rename(self.artifact.root)
        shutil.rmtree(self.outside)


def acts(chain, tmp_path):
    """Every kind of tampering with every artifact and every file: its name, the kind, and a function of folder and outside."""
    every = [(kind, file.path) for kind, artifact in chain.items() for file in artifact.manifest.files]
    for kind, artifact in chain.items():
        for name in [*(file.path for file in artifact.manifest.files), "manifest.json"]:
            for words, change in OF_FILES.items():
                yield f"{kind}: {name} {words}", kind, lambda folder, outside, n=name, c=change: c(folder / n, outside)
        for inner in {str(os.path.dirname(file.path)) for file in artifact.manifest.files} - {""}:
            yield f"{kind}: {inner}/ a link", kind, lambda folder, outside, n=inner: linked(folder / n, outside)
        for words, change in OF_FOLDERS.items():
            yield f"{kind}: {words}", kind, change
        for field in json.loads((artifact / "manifest.json").read_text()).keys() - {"seal"}:
            yield f"{kind}: manifest.json says another {field}", kind, without_seal(field)
        for words, change in RESEALED.items():
            yield f"{kind}: manifest.json resealed with {words}", kind, reseal(change)
    for (kind, name), (other, another) in zip(every, [*every[1:], every[0]], strict=True):
        theirs = chain[other].path / another

        def exchange(folder, outside, name=name, theirs=theirs):
            mine, raw = folder / name, (folder / name).read_bytes()
            mine.write_bytes(theirs.read_bytes())
            theirs.write_bytes(raw)

        yield f"{kind}: {name} exchanged with {other}'s {another}", kind, exchange


def test_whatever_is_changed_is_found_and_refused(chain, tmp_path, capsys):
    held, failures, commands = 0, [], users(chain)
    reference = {kind: f"{kind}/{artifact.manifest.name}" for kind, artifact in chain.items()}
    for used in ([["artifacts", "verify"]], *commands.values()):  # as published all of it works
        for words in used:
            assert run(capsys, words)[0] == 0, words
    for kind in ("vectors", "index"):  # what that made
        for path in chain[kind].root.glob(f"{kind}/*/*"):
            if path != chain[kind].path:
                shutil.rmtree(path)
    for path in chain["classifier"].root.glob("classifier/*/*"):
        if path != chain["classifier"].path:
            shutil.rmtree(path)
    for name, kind, change in acts(chain, tmp_path):
        with Attacked(chain[kind], tmp_path) as (folder, outside):
            change(folder, outside)
            found = [("verify", run(capsys, ["artifacts", "verify"]))]
            wrong = [] if found[0][1][0] == 1 and found[0][1][1] and "Traceback" not in found[0][1][2] else found
            pushed = ["artifacts", "push", reference[kind], f"file://{tmp_path}/outside/store"]
            for words in (*commands[kind], pushed):
                told = run(capsys, words)
                wrong += [] if one_sentence(told) else [(" ".join(words), told)]
        failures += [f"{name}: {wrong!r:.700}"] if wrong else []
        held += not wrong
    tried(capsys, held, failures, "tampering with artifacts")


def test_what_is_changed_with_all_its_seals_never_ends_in_a_traceback(chain, tmp_path, capsys):
    held, failures, commands = 0, [], users(chain)
    for kind, artifact in chain.items():
        reference = f"{kind}/{artifact.manifest.name}"
        looks = [["artifacts", word, *([reference] if word in ("show", "lineage") else [])] for word in LOOKS]
        for name, edit in CARRIED_THROUGH.items():
            with Attacked(artifact, tmp_path) as (folder, outside):
                reseal(edit)(folder, outside)
                uses = commands[kind] if name in READ_BY_STAGES else []
                found = [(words, run(capsys, words)) for words in (*looks, *uses)]
            wrong = [(" ".join(words), told) for words, told in found if told[0] not in (0, 1) or "Traceback" in told[2]]
            failures += [f"{kind}: {name}: {wrong!r:.700}"] if wrong else []
            held += not wrong
    tried(capsys, held, failures, "changes carried through to the seal")


READ_BY_STAGES = ("no settings", "no details", "no inputs", "no metrics", "other rows")
LOOKS = ("list", "show", "lineage", "verify", "prune")


def tried(capsys, held, failures, what):
    with capsys.disabled():
        print(f"\n{what}: tried {held + len(failures)}, held {held}")
        for failure in failures:
            print("  ", failure)
    assert not failures
