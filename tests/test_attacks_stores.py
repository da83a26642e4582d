"""Attacks: remote roots that were made to harm whoever copies from them, or to them.

Every attack ends with exit code 1 and one sentence; nothing is written or read outside the roots, no disk is filled, nothing
that is half made is seen, and nothing hangs.
"""

import contextlib
import errno
import hashlib
import http.server
import itertools
import json
import os
import shutil
import signal
import threading

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from embedkit.cli import main
from embedkit.remote import Remote
from embedkit.settings import UserError
from embedkit.stages import Draft

pytestmark = pytest.mark.slow

SECONDS = 30
MOST_WRITTEN = 200 * 2**20
SECRET = b"a secret that lies outside of every root"


class Hangs(BaseException):
    """No `except` takes this for an answer."""


@contextlib.contextmanager
def patience(seconds=SECONDS):
    """Stop what takes longer."""

    def stop(*_):
        raise Hangs

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# A root, written as its maker would, and then against its reader


def sealed(fields):
    body = json.dumps(fields | {"seal": "0" * 64}, indent=1, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"
    return body.replace(b"0" * 64 + b'"\n}\n', hashlib.sha256(body).hexdigest().encode() + b'"\n}\n')


def listed(path, content):
    return {"path": path, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def fields_of(kind, name, files, inputs=(), **changes):
    """What a manifest says; of inputs their references and fingerprints."""
    fingerprint = hashlib.sha256(f"{kind}/{name}".encode()).hexdigest()
    made = {"kind": kind, "name": name, "version": f"20260801T120000Z-{fingerprint[:8]}", "fingerprint": fingerprint}
    made |= {"stage": "plant", "revision": 1, "settings": {}, "created": "2026-08-01T12:00:00+00:00"}
    made |= {"files": [listed(path, content) for path, content in files.items()]}
    given = [{"role": f"given{n}", "ref": ref_of(one), "fingerprint": one["fingerprint"]} for n, one in enumerate(inputs)]
    return made | {"inputs": given} | changes


def ref_of(fields):
    return f"{fields['kind']}/{fields['name']}@{fields['version']}"


class Store:
    """Where an attacker writes: a folder that is shared, or a store in memory."""

    def __init__(self, folder, memory):
        self.folder, self.memory = folder, memory
        self.address = "memory://root" if memory else f"file://{folder}"

    def put(self, place, content):
        if self.memory:
            Hostile.store.pop(f"/root/{place}", None)
            with MemoryFileSystem.open(Hostile(), f"/root/{place}", "wb") as file:
                file.write(content)
        else:
            (self.folder / place).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / place).write_bytes(content)

    def plant(self, kind, name, files=None, inputs=(), **changes):
        """An artifact, whole unless its changes say otherwise; gives its folder and the fields of its manifest."""
        files = {"a.txt": b"apple", "deep/b.txt": b"banana"} if files is None else files
        fields = fields_of(kind, name, files, inputs, **changes)
        place = f"{kind}/{name}/{fields_of(kind, name, {})['version']}"
        for path, content in files.items():
            self.put(f"{place}/{path}", content)
        self.put(f"{place}/manifest.json", sealed(fields))
        return place, fields


class Hostile(MemoryFileSystem):
    """A store in memory that answers as an attack wants."""

    store, pseudo_dirs, cachable = {}, [""], False
    answers = {}

    def ls(self, path, detail=True, **more):
        return self.answers.get("ls", super().ls)(path, detail=detail)

    def info(self, path, **more):
        return self.answers.get("info", super().info)(path)

    def exists(self, path, **more):
        return self.answers.get("exists", super().exists)(path)

    def _open(self, path, mode="rb", **more):
        if "open" in self.answers and "r" in mode:
            found = self.answers["open"](path)
            if found is not None:
                return found
        return super()._open(path, mode, **more)


class Endless:
    """A file without an end."""

    size = None

    def __init__(self, error=None, after=2**40):
        self.error, self.left = error, after

    def read(self, size=-1):
        if self.left <= 0:
            raise self.error
        self.left -= 2**20
        return b"x" * 2**20

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


# The attacks: each makes a root whose texts/a is asked for

ATTACKS, ONLY_FOLDERS, ONLY_MEMORY = {}, set(), set()


def attack(*only):
    def keep(make):
        ATTACKS[make.__name__] = make
        for one in only:
            one.add(make.__name__)
        return make

    return keep


def whole(make):
    """An attack that is nothing but changed fields of a manifest whose seal fits."""
    return attack()(make)


def forged(called, /, **changes):
    def make(store, outside):
        files = {"a.txt": b"apple", "deep/b.txt": b"banana"}
        place, fields = store.plant("texts", "a", files)
        given = {key: value(fields, outside) if callable(value) else value for key, value in changes.items()}
        store.put(f"{place}/manifest.json", sealed(fields | given))

    make.__name__ = called
    whole(make)


def one_file(**changes):
    return lambda fields, outside: [{**fields["files"][0], **{k: v(outside) if callable(v) else v for k, v in changes.items()}}]


for number, path in enumerate(
    [
        *("../../../../outside/taken.txt", "deep/../../x", "./a.txt", "deep//b.txt", "manifest.json", "MANIFEST.JSON"),
        *("manifest.json/x", "..\\..\\x", "C:/x", "a\n.txt", "a\x1b[2J.txt", "a\0b", "", ".", "deep/", "x" * 5000, "é" * 200),
    ]
):
    forged(f"path_{number}_that_leads_out", files=one_file(path=path))
forged("path_that_is_absolute", files=one_file(path=lambda outside: str(outside / "taken.txt")))
forged("path_twice", files=lambda fields, _: fields["files"] * 2)
forged("path_through_a_file", files=lambda fields, _: [*fields["files"], {**fields["files"][0], "path": "a.txt/b"}])
forged("size_negative", files=one_file(bytes=-1))
forged("size_beyond_all_disks", files=one_file(bytes=2**62))
forged("size_beyond_all_numbers", files=one_file(bytes=10**40))
forged("size_of_another_type", files=one_file(bytes="5 bytes"))
forged("size_too_small", files=one_file(bytes=4))
forged("size_too_large", files=one_file(bytes=6))
forged("checksum_wrong", files=one_file(sha256="0" * 64))
forged("checksum_that_is_none", files=one_file(sha256="../../x"))
forged("kind_of_another", kind="encoder")
forged("kind_that_leads_out", kind="../..")
forged("name_of_another", name="b")
forged("version_of_another", version="20250101T000000Z-00000000")
forged("version_that_leads_out", version="../../../x")
forged("fingerprint_of_another", fingerprint="0" * 64)
forged("input_that_leads_out", inputs=[{"role": "a", "ref": "../../x@y", "fingerprint": "0" * 64}])
forged("input_of_any_version", inputs=[{"role": "a", "ref": "texts/b", "fingerprint": "0" * 64}])
forged("input_that_is_missing", inputs=[{"role": "a", "ref": f"texts/b@20250101T000000Z-{'0' * 8}", "fingerprint": "0" * 64}])
forged("itself_as_input", inputs=lambda fields, _: [{"role": "a", "ref": ref_of(fields), "fingerprint": fields["fingerprint"]}])
forged("files_that_are_no_list", files="a.txt")
forged("details_too_deep", details={"deep": json.loads("[" * 400 + "]" * 400)})
forged("rows_that_are_text", rows="many")


@attack()
def circular_lineage(store, outside):
    a, b, c = (fields_of("texts", name, {"a.txt": name.encode()}) for name in "abc")
    for name, one in (("a", b), ("b", c), ("c", a)):
        store.plant("texts", name, {"a.txt": name.encode()}, [one])


@attack()
def input_that_was_put_in_place_of_another(store, outside):
    _, b = store.plant("texts", "b")
    store.plant("texts", "a", inputs=[b | {"fingerprint": b["fingerprint"][:8] + "0" * 56}])


@attack()
def input_whose_file_is_damaged(store, outside):
    place, b = store.plant("texts", "b")
    store.put(f"{place}/a.txt", b"APPLE")
    store.plant("texts", "a", inputs=[b])


@attack()
def file_with_a_flipped_bit(store, outside):
    place, _ = store.plant("texts", "a")
    store.put(f"{place}/a.txt", b"bpple")


@attack()
def file_that_is_far_too_large(store, outside):
    place, _ = store.plant("texts", "a")
    store.put(f"{place}/a.txt", b"x" * 300 * 2**20 if store.memory else b"")
    if not store.memory:
        os.truncate(store.folder / place / "a.txt", 2**40)


@attack()
def file_that_is_missing(store, outside):
    place, fields = store.plant("texts", "a", {})
    store.put(f"{place}/manifest.json", sealed(fields | {"files": [listed("a.txt", b"apple")]}))


@attack()
def two_files_exchanged(store, outside):
    place, _ = store.plant("texts", "a", {"a.txt": b"apple", "b.txt": b"grape"})
    store.put(f"{place}/a.txt", b"grape")
    store.put(f"{place}/b.txt", b"apple")


@attack()
def file_that_is_a_folder(store, outside):
    place, fields = store.plant("texts", "a", {})
    store.put(f"{place}/a.txt/inner.txt", b"x")
    store.put(f"{place}/manifest.json", sealed(fields | {"files": [listed("a.txt", b"apple")]}))


@attack()
def version_that_is_none(store, outside):
    _, fields = store.plant("texts", "b")
    for version in ("2026", "20260801T120000Z", "20260801T120000Z-0000000g", "٢٠260801T120000Z-00000000"):
        store.put(f"texts/a/{version}/manifest.json", sealed(fields))


def text_of_manifest(name, text):
    def make(store, outside):
        place, _ = store.plant("texts", "a")
        body = text.encode("utf-8", "surrogatepass") + b',\n "seal": "' + b"0" * 64 + b'"\n}\n'
        store.put(f"{place}/manifest.json", body[:-68] + hashlib.sha256(body).hexdigest().encode() + body[-4:])

    make.__name__ = f"manifest_{name}"
    whole(make)


text_of_manifest("as_deep_as_a_well", '{\n "a": ' + "[" * 200_000 + "]" * 200_000)
text_of_manifest("with_a_field_twice", '{\n "kind": "texts",\n "kind": "images"')
text_of_manifest("with_no_number", '{\n "a": NaN')
text_of_manifest("with_endless_digits", '{\n "rows": ' + "9" * 1_000_000)
text_of_manifest("in_no_encoding", '{\n "a": "\udcff"')
text_of_manifest("that_is_no_json", '{\n "a')
text_of_manifest("with_one_field", '{\n "kind": "texts"')


@attack()
def manifest_without_its_seal(store, outside):
    place, fields = store.plant("texts", "a")
    store.put(f"{place}/manifest.json", json.dumps(fields).encode())


@attack()
def manifest_that_is_empty(store, outside):
    place, _ = store.plant("texts", "a")
    store.put(f"{place}/manifest.json", b"")


@attack()
def manifest_without_an_end(store, outside):
    place, _ = store.plant("texts", "a")
    store.put(f"{place}/manifest.json", b" " * 100 * 2**20 if store.memory else b"")
    if not store.memory:
        os.truncate(store.folder / place / "manifest.json", 2**40)


@attack()
def manifest_that_is_a_folder(store, outside):
    place = f"texts/a/{fields_of('texts', 'a', {})['version']}"
    store.put(f"{place}/manifest.json/x", b"{}")


@attack()
def nothing_at_all(store, outside):
    store.put("README.md", b"nothing is here")


# Links, pipes and devices in a shared folder


def replaced(name, part, what):
    def make(store, outside):
        place, _ = store.plant("texts", "a")
        version = store.folder / place
        places = {"file": version / "a.txt", "inner": version / "deep", "manifest": version / "manifest.json", "version": version}
        path = (places | {"name": version.parent, "kind": version.parent.parent})[part]
        if what == "pipe":
            path.unlink()
            os.mkfifo(path)
            return
        path.rename(outside / "moved")
        path.symlink_to({"link": outside / "moved", "zero": "/dev/zero", "secret": outside / "secret"}[what])

    make.__name__ = name
    attack(ONLY_FOLDERS)(make)


for part in ("file", "inner", "manifest", "version", "name", "kind"):
    replaced(f"link_in_place_of_{part}", part, "link")
for part in ("file", "manifest"):
    for what in ("pipe", "zero", "secret"):
        replaced(f"{what}_in_place_of_{part}", part, what)


@attack(ONLY_FOLDERS)
def input_behind_a_link(store, outside):
    place, b = store.plant("texts", "b")
    store.plant("texts", "a", inputs=[b])
    (store.folder / place).rename(outside / "moved")
    (store.folder / place).symlink_to(outside / "moved")


# Stores that answer what they like


@attack(ONLY_MEMORY)
def endless_file(store, outside):
    store.plant("texts", "a")
    Hostile.answers["open"] = lambda path: Endless() if path.endswith("a.txt") else None


@attack(ONLY_MEMORY)
def endless_file_whose_size_is_not_said(store, outside):
    endless_file(store, outside)
    Hostile.answers["info"] = lambda path: {"name": path, "size": None, "type": "file"}


@attack(ONLY_MEMORY)
def endless_manifest(store, outside):
    store.plant("texts", "a")
    Hostile.answers["open"] = lambda path: Endless() if path.endswith("manifest.json") else None


for number, error in enumerate(
    [
        *(RuntimeError("\x1b[2J\n\ngone"), KeyError("x"), OSError(errno.EIO, "broken"), EOFError(), MemoryError()),
        *(RecursionError(), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), FileExistsError("there"), NotImplementedError()),
        *(TimeoutError("late"), StopIteration(), AssertionError()),
    ]
):

    def broken(store, outside, error=error):
        store.plant("texts", "a", {"a.txt": b"x" * 50 * 2**20})
        Hostile.answers["open"] = lambda path: Endless(error, 2**21) if path.endswith("a.txt") else None

    broken.__name__ = f"error_{number}_in_the_middle"
    attack(ONLY_MEMORY)(broken)


@attack(ONLY_MEMORY)
def error_when_it_is_listed(store, outside):
    store.plant("texts", "a")

    def refuse(path, detail):
        raise AttributeError("no listing\nfor you")

    Hostile.answers["ls"] = refuse


@attack(ONLY_MEMORY)
def a_million_versions_that_are_not_there(store, outside):
    names = [f"/root/texts/a/20260801T120000Z-{n:08x}" for n in range(1_000_000)]
    Hostile.answers["ls"] = lambda path, detail: names


@attack(ONLY_MEMORY)
def a_listing_without_an_end(store, outside):
    Hostile.answers["ls"] = lambda path, detail: (f"/root/texts/a/{n}" for n in itertools.count())


@attack(ONLY_MEMORY)
def a_listing_that_leads_out(store, outside):
    names = ["/root/texts/a/../../x", "/etc/passwd", "", "/", "..", "a\0b", "/root/texts/a/" + "x" * 10_000, "/root/texts/a"]
    Hostile.answers["ls"] = lambda path, detail: names


@attack(ONLY_MEMORY)
def an_endless_lineage(store, outside):
    def manifest(path):
        if not path.endswith("manifest.json"):
            return None
        kind, name, version = path.split("/")[-4:-1]
        number = int(name[1:] or 0)
        after = fields_of("texts", f"a{number + 1}", {})
        fields = fields_of(kind, name, {}, [after])
        return MemoryFileSystem._open(Hostile(), store_bytes(path, sealed(fields)), "rb")

    Hostile.answers |= {"open": manifest, "exists": lambda path: True}
    Hostile.answers["info"] = lambda path: {"name": path, "size": None, "type": "file"}
    store.plant("texts", "a")


def store_bytes(path, content):
    from fsspec.implementations.memory import MemoryFile

    Hostile.store[path] = MemoryFile(None, path, content)
    return path


@attack(ONLY_MEMORY)
def a_manifest_that_changes_between_two_reads(store, outside):
    place, fields = store.plant("texts", "a")
    path, count = f"/root/{place}/manifest.json", itertools.count()
    other = sealed(fields | {"files": [{**fields["files"][0], "path": "../../../../../outside/taken.txt"}]})

    def changing(asked):
        if asked == path and next(count):
            store_bytes(path, other)

    Hostile.answers["open"] = changing
    store.put(f"{place}/a.txt", b"grape")  # it ends in a sentence all the same


@attack(ONLY_MEMORY)
def a_file_that_changes_between_two_reads(store, outside):
    place, _ = store.plant("texts", "a")

    def changing(path):
        if path.endswith("a.txt"):
            store_bytes(path, b"grape")

    Hostile.answers["open"] = changing


@attack(ONLY_MEMORY)
def sizes_that_are_none(store, outside):
    store.plant("texts", "a")
    Hostile.answers["info"] = lambda path: {"name": path, "size": "5", "type": "file"}


@attack(ONLY_MEMORY)
def facts_that_are_none(store, outside):
    store.plant("texts", "a")
    Hostile.answers["info"] = lambda path: None


@attack(ONLY_MEMORY)
def everything_is_there_and_nothing_is(store, outside):
    Hostile.answers |= {"exists": lambda path: True, "ls": lambda path, detail: [f"{path}/20260801T120000Z-00000000"]}


# Trying them


@pytest.fixture
def hostile():
    fsspec.register_implementation("memory", Hostile, clobber=True)
    yield
    fsspec.register_implementation("memory", MemoryFileSystem, clobber=True)
    clear()


def clear():
    Hostile.store.clear()
    Hostile.answers.clear()
    Hostile.pseudo_dirs[:] = [""]


def state(folder):
    """Every path in a folder, with what a file holds."""
    return {str(path): path.read_bytes() if path.is_file() and not path.is_symlink() else None for path in folder.rglob("*")}


def outcome(capsys, words):
    """What an attack comes to: None where it ends in one sentence."""
    try:
        with patience():
            code = main(words)
    except Hangs:
        return "hangs"
    except BaseException as error:  # whatever gets through
        return f"{type(error).__name__}: {error}"[:300]
    finally:
        out, err = capsys.readouterr()
    told = err.startswith("embedkit: ") and err.count("\n") == 1 and "\x1b" not in err and len(err) < 2000
    return None if code == 1 and told and not out else f"code {code}, said {out + err!r:.600}"


def harm(local, outside, before):
    """What was written that should not be, after an attack."""
    found = [str(path) for path in local.rglob("*") if path.is_file() and path.suffix != ".lock"]
    found += [str(path) for path in local.glob("*/*/*") if path.parts[-3] != ".drafts"]
    held = [path for path in local.rglob("*") if path.is_file() and SECRET in path.read_bytes()]
    return found or held or ("the outside changed" if state(outside) != before else None)


def tried(capsys, held, failures, what):
    with capsys.disabled():
        print(f"\n{what}: tried {held + len(failures)}, held {held}")
        for failure in failures:
            print("  ", failure)
    assert not failures


def test_pulling_from_hostile_roots_ends_in_one_sentence(tmp_path, capsys, hostile, monkeypatch):
    monkeypatch.setattr("embedkit.remote.MOST_MADE_FROM", 1000)
    held, failures = 0, []
    runs = [(name, True) for name in ATTACKS if name not in ONLY_FOLDERS]
    runs += [(name, False) for name in ATTACKS if name not in ONLY_MEMORY]
    for number, (name, memory) in enumerate(runs):
        place = tmp_path / str(number)
        outside, local = place / "outside", place / "local"
        outside.mkdir(parents=True)
        (outside / "secret").write_bytes(SECRET)
        store = Store(place / "store", memory)
        clear()
        ATTACKS[name](store, outside)
        before = state(outside)
        free = shutil.disk_usage(tmp_path).free
        by_name = number % 2 or "ls" in Hostile.answers
        reference = "texts/a" if by_name else ref_of(fields_of("texts", "a", {}))
        wrong = outcome(capsys, ["artifacts", "pull", reference, store.address, "--root", str(local)])
        wrong = wrong or harm(local, outside, before)
        if free - shutil.disk_usage(tmp_path).free > MOST_WRITTEN:
            wrong = wrong or "the disk was filled"
        if wrong:
            failures.append(f"{name} {store.address}: {wrong}")
        held += not wrong
        shutil.rmtree(place)
    clear()
    tried(capsys, held, failures, "pull from hostile roots")


def test_what_is_whole_is_pulled_from_the_same_stores(tmp_path, capsys, hostile):
    for memory in (True, False):
        store = Store(tmp_path / "store", memory)
        _, b = store.plant("texts", "b")
        store.plant("texts", "a", inputs=[b])
        assert main(["artifacts", "pull", "texts/a", store.address, "--root", str(tmp_path / f"local{memory}")]) == 0
        assert main(["artifacts", "verify", "--root", str(tmp_path / f"local{memory}")]) == 0


def test_jobs_in_hostile_roots_end_in_one_sentence(tmp_path, capsys, hostile):
    good = {"bytes": 5, "sha256": hashlib.sha256(b"apple").hexdigest(), "facts": {}, "decided": {}}
    receipts = [
        *(b"", b"{", b"[]", b"null", b"{}", b'{"receipt": null}', b'{"receipt": {}, "sha256": ""}', b"\xff", b"[" * 10**6),
        *(receipt_of(good | {"bytes": size}) for size in (-1, 4, "many", None, 2**70)),
        *(receipt_of(good | {"sha256": "x"}), receipt_of(good | {"facts": []}), receipt_of({"bytes": 5}), b" " * 100 * 2**20),
    ]
    decisions = [b"", b"[]", b"{", b"\xff", b"[" * 10**6, b'{"a": NaN}', b'{"a": 1, "a": 2}', b" " * 100 * 2**20]
    jobs = [("work/receipts/part-0.json", raw) for raw in receipts] + [("work/decisions.json", raw) for raw in decisions]
    held, failures = 0, []
    for number, (place, raw) in enumerate(jobs):
        clear()
        store = Store(tmp_path, True)
        store.put(".drafts/job/files/part-0", b"apple")
        store.put(f".drafts/job/{place}", raw)
        wrong = refused(lambda local=tmp_path / f"local{number}": Remote("memory://root", local).fetch_draft("job"))
        failures += [f"{place} {raw[:60]!r}: {wrong}"] if wrong else []
        held += not wrong
    for name in ("work/network.keras", "files/part-0", "work/decisions.json", "work/receipts/part-0.json"):
        clear()
        store.put(".drafts/job/work/receipts/part-0.json", receipt_of(good))
        store.put(f".drafts/job/{name}", receipt_of(good))
        Hostile.answers["open"] = lambda path, name=name: Endless(after=2**38) if path.endswith(name) else None
        local = tmp_path / f"endless-{name.replace('/', '-')}"
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("embedkit.remote.LARGEST_WORK", 50 * 2**20)
            wrong = refused(lambda local=local: Remote("memory://root", local).fetch_draft("job"))
        written = sum(path.stat().st_size for path in local.rglob("*") if path.is_file())
        wrong = wrong or (f"{written:,} bytes are left" if written > 2**20 else None)
        failures += [f"endless {name}: {wrong}"] if wrong else []
        held += not wrong
    clear()
    whole = Store(tmp_path, True)
    whole.put(".drafts/job/files/part-0", b"apple")
    whole.put(".drafts/job/work/receipts/part-0.json", receipt_of(good))
    Remote("memory://root", tmp_path / "whole").fetch_draft("job")
    assert Draft(tmp_path / "whole/.drafts/job").finished("part-0") == {}
    tried(capsys, held, failures, "jobs in hostile roots")


def receipt_of(facts):
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return json.dumps({"receipt": facts, "sha256": digest}).encode()


def refused(call):
    """None where a call ends in one sentence."""
    try:
        with patience():
            call()
    except UserError as error:
        return None if "\n" not in str(error) and len(str(error)) < 1500 else f"said {error!s:.300}"
    except Hangs:
        return "hangs"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"[:300]
    return "nothing was refused"


class Pushed:
    """A local root with an artifact and what it was made from, a shared folder to push it to, and what lies outside of both."""

    def __init__(self, place):
        self.outside, self.local, self.store = place / "outside", Store(place / "local", False), Store(place / "store", False)
        self.outside.mkdir(parents=True)
        (self.outside / "secret").write_bytes(SECRET)
        self.store.folder.mkdir()
        _, b = self.local.plant("texts", "b")
        where, self.fields = self.local.plant("texts", "a", inputs=[b])
        self.mine = self.local.folder / where

    def says(self, file):
        """Let the manifest name one file more."""
        (self.mine / "manifest.json").write_bytes(sealed(self.fields | {"files": [*self.fields["files"], file]}))


def test_pushing_against_attacks_writes_nothing_outside(tmp_path, capsys, hostile):
    held, failures = 0, []

    def link(path, target):
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target)

    there, secret = f"texts/a/{fields_of('texts', 'a', {})['version']}", {**listed("../../../../outside/secret", SECRET)}
    cases = {
        "file that is a link to a secret": lambda case: link(case.mine / "a.txt", case.outside / "secret"),
        "folder that is a link": lambda case: link(case.mine / "deep", case.outside),
        "manifest that is a link": lambda case: link(case.mine / "manifest.json", case.outside / "secret"),
        "version that is a link": lambda case: link(case.mine, case.outside),
        "manifest in the manifest": lambda case: case.says(listed("manifest.json", b"{}")),
        "path that leads out": lambda case: case.says(secret),
        "store whose kind is a link": lambda case: link(case.store.folder / "texts", case.outside),
        "store whose name is a link": lambda case: link(case.store.folder / "texts/a", case.outside),
        "store whose version is a link": lambda case: link(case.store.folder / there, case.outside),
        "store whose file is a link": lambda case: link(case.store.folder / there / "a.txt", case.outside / "secret"),
        "store whose manifest is a link to nothing": lambda case: link(
            case.store.folder / there / "manifest.json", case.outside / "made.json"
        ),
        "store that holds another": lambda case: case.store.plant("texts", "a", {"a.txt": b"grape"}),
        "store whose manifest is damaged": lambda case: case.store.put(f"{there}/manifest.json", b"{}"),
        "circle": lambda case: case.local.plant("texts", "b", inputs=[case.fields]),
        "input that is gone": lambda case: shutil.rmtree(case.local.folder / "texts/b"),
    }
    for number, (name, change) in enumerate(cases.items()):
        case = Pushed(tmp_path / str(number))
        change(case)
        before, files = state(case.outside), (path for path in case.store.folder.rglob("*") if not path.is_symlink())
        wrong = outcome(capsys, ["artifacts", "push", "texts/a", case.store.address, "--root", str(case.local.folder)])
        leaked = [path for path in files if path.is_file() and SECRET in path.read_bytes()]
        wrong = wrong or ("the outside changed" if state(case.outside) != before else f"{leaked} leaked" if leaked else None)
        failures += [f"{name}: {wrong}"] if wrong else []
        held += not wrong
    for address in (
        *("zip://a::https://b/c.zip", "zip:///tmp/a.zip", "http://127.0.0.1:9/root", "local:///tmp", "simplecache::s3://b/c", "x://y"),
        *("github://a:b@c/d", "file:///tmp/../etc", "s3://me:secret@bucket", "data://x", "reference://x", "s3:bucket", "memory://"),
    ):
        case = Pushed(tmp_path / f"address-{len(failures) + held}")
        for verb in ("push", "pull"):
            wrong = outcome(capsys, ["artifacts", verb, "texts/a", address, "--root", str(case.local.folder)])
            failures += [f"{verb} {address}: {wrong}"] if wrong else []
            held += not wrong
    tried(capsys, held, failures, "pushes against attacks")


class Answers(http.server.BaseHTTPRequestHandler):
    """A server that says of every object that it is small, and then never stops sending it."""

    protocol_version, sent, listing = "HTTP/1.1", 0, False

    def do_HEAD(self):
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()

    def do_GET(self):
        if "list-type" in self.path:
            self.list()
            return
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        with contextlib.suppress(OSError):
            while Answers.sent < 2**32:
                self.wfile.write(b"10000\r\n" + b"x" * 2**16 + b"\r\n")
                Answers.sent += 2**16
        self.close_connection = True

    def list(self):
        number = next(NUMBERS)
        names = "".join(f"<CommonPrefixes><Prefix>texts/a/{number}-{n}/</Prefix></CommonPrefixes>" for n in range(100))
        more = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{number}</NextContinuationToken>"
        body = f'<?xml version="1.0"?><ListBucketResult>{more}{names}</ListBucketResult>'.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(OSError):  # who asked has left
            self.wfile.write(body)

    def log_message(self, *_):
        pass


NUMBERS = itertools.count()


@pytest.mark.filterwarnings("default")
def test_a_server_that_never_stops_is_left(tmp_path, capsys, monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name, value in {"ACCESS_KEY_ID": "any", "SECRET_ACCESS_KEY": "any", "DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setattr("embedkit.remote.LISTING_SECONDS", 3)
    try:
        full = ref_of(fields_of("texts", "a", {}))
        failures = [
            f"{reference}: {wrong}"
            for reference in (full, "texts/a")
            if (wrong := outcome(capsys, ["artifacts", "pull", reference, "s3://bucket", "--root", str(tmp_path / "local")]))
        ]
        assert Answers.sent < 2**28
        tried(capsys, 2 - len(failures), failures, "servers that never stop")
    finally:
        server.shutdown()
        server.server_close()
