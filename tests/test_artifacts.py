"""Artifacts: references that never leave the root, manifests anybody can read, and damage that is always found."""

import hashlib
import json
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from pydantic import BaseModel

from embedkit.artifacts import (
    Artifact,
    File,
    Input,
    Manifest,
    Metric,
    default_root,
    find,
    list_artifacts,
    oldest_first,
    open_file,
    parse_reference,
    prunable,
    remove,
    scan,
    sha256,
    strays,
)
from embedkit.settings import UserError

DAY = "20260801T1200{:02}Z"


def plant(root, reference, files=None, inputs=(), **more):
    """An artifact with all its manifest says, `kind/name@version`, whose version may be a number; inputs are artifacts."""
    kind, name, version = re.fullmatch(r"([^/]+)/([^@]+)(?:@(.+))?", reference).groups()
    fingerprint = more.pop("fingerprint", None) or hashlib.sha256(f"{reference} {sorted(map(str, inputs))}".encode()).hexdigest()
    version = f"{DAY.format(int(version or 0))}-{fingerprint[:8]}" if (version or "0").isdecimal() else version
    folder = Path(root) / kind / name / version
    listed = []
    for path, content in ({"a.txt": "apple", "deep/b.txt": "banana"} if files is None else files).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(content)
        listed.append(File(path=path, bytes=len(content.encode()), sha256=sha256(folder / path)))
    folder.mkdir(parents=True, exist_ok=True)
    manifest = Manifest(
        **{"kind": kind, "name": name, "version": version, "fingerprint": fingerprint, "stage": "plant", "revision": 1},
        **{"settings": {"depth": 3}, "files": listed, "created": "2026-08-01T12:00:00+00:00", "rows": 2} | more,
        inputs=[Input(role=f"given{n}", ref=str(one), fingerprint=one.manifest.fingerprint) for n, one in enumerate(inputs)],
    )
    (folder / "manifest.json").write_bytes(manifest.sealed())
    return Artifact.at(folder)


def test_a_manifest_says_its_format_and_one_without_is_read(root):
    artifact = plant(root, "texts/a")
    assert json.loads((artifact / "manifest.json").read_bytes())["format"] == artifact.manifest.format == 1
    fields = json.loads(artifact.manifest.model_dump_json(exclude={"format"})) | {"seal": "0" * 64}
    body = json.dumps(fields, indent=1).encode() + b"\n"
    (artifact / "manifest.json").write_bytes(body.replace(b"0" * 64, hashlib.sha256(body).hexdigest().encode()))
    assert Artifact.open("texts/a").manifest == artifact.manifest


def test_a_manifest_of_a_newer_format_is_refused_and_not_called_damaged(root):
    artifact = plant(root, "texts/a")
    newer = artifact.manifest.model_copy(update={"format": 2, "details": {"new": "words"}})
    (artifact / "manifest.json").write_bytes(newer.sealed())
    words = r"manifest\.json has format 2, and this embedkit knows manifests up to format 1; read it with a newer embedkit$"
    with pytest.raises(UserError, match=words) as refusal:
        Artifact.open("texts/a")
    assert "damaged" not in str(refusal.value)


def flip(path, place):
    raw = bytearray(path.read_bytes())
    raw[place] ^= 1
    path.write_bytes(raw)


def refs(artifacts):
    return [str(artifact) for artifact in artifacts]


# References


def test_a_reference_is_the_newest_or_the_version_it_names(root):
    old, new = plant(root, "texts/reviews@1"), plant(root, "texts/reviews@2")
    assert Artifact.open("texts/reviews") == new
    assert Artifact.open(str(old)) == old and Artifact.open(str(new)) == new
    assert Artifact.open(old) is old
    assert str(old) == f"texts/reviews@20260801T120001Z-{old.manifest.fingerprint[:8]}"
    assert repr(old) == f"Artifact('{old}')"
    assert old != new and len({old, new, Artifact.open(str(old))}) == 2


def test_any_prefix_that_fits_one_version_works(root):
    old, new = plant(root, "texts/reviews@1"), plant(root, "texts/reviews@12")
    assert Artifact.open("texts/reviews@20260801T120001") == old
    assert Artifact.open("texts/reviews@20260801T120001Z-" + old.manifest.fingerprint[0]) == old
    assert Artifact.open("texts/reviews@20260801T12001") == new


def test_a_prefix_that_fits_several_versions_is_refused_and_names_them(root):
    old, new = plant(root, "texts/reviews@1"), plant(root, "texts/reviews@2")
    with pytest.raises(UserError) as caught:
        Artifact.open("texts/reviews@2026")
    assert str(caught.value) == (
        f"'texts/reviews@2026' fits 2 versions ({old.manifest.version}, {new.manifest.version}); give more of the version"
    )


def test_an_unknown_name_is_answered_with_near_ones_or_with_all(root):
    plant(root, "texts/reviews")
    plant(root, "encoder/minilm")
    with pytest.raises(UserError, match=f"artifact 'texts/review' is not known; did you mean 'texts/reviews'.*in {root}"):
        Artifact.open("texts/review")
    with pytest.raises(UserError, match="'zzz/q' is not known; there is encoder/minilm, texts/reviews .*embedkit artifacts list"):
        Artifact.open("zzz/q")


def test_an_unknown_version_is_answered_with_those_there_are(root):
    only = plant(root, "texts/reviews@1")
    with pytest.raises(UserError, match=f"version of texts/reviews '1999' is not known; there is {only.manifest.version}"):
        Artifact.open("texts/reviews@1999")


def test_an_empty_root_says_that_there_is_none(root):
    with pytest.raises(UserError, match="artifact 'texts/reviews' is not known; there is none"):
        Artifact.open("texts/reviews")
    assert list_artifacts() == [] and list(scan()) == []
    assert not root.exists()


def test_the_root_is_given_or_from_the_environment_or_beside_the_work(tmp_path, monkeypatch):
    ours, theirs = plant(tmp_path / "ours", "texts/a"), plant(tmp_path / "artifacts", "texts/b")
    monkeypatch.setenv("EMBEDKIT_ARTIFACTS", str(tmp_path / "ours"))
    assert default_root() == tmp_path / "ours" and list_artifacts() == [ours]
    monkeypatch.setenv("EMBEDKIT_ARTIFACTS", "")
    assert default_root() == tmp_path / "artifacts" and list_artifacts() == [theirs]
    monkeypatch.delenv("EMBEDKIT_ARTIFACTS")
    assert default_root() == tmp_path / "artifacts"
    assert Artifact.open("texts/a", "ours") == ours and Artifact.open("texts/a", tmp_path / "ours").root == tmp_path / "ours"


@pytest.mark.parametrize(
    "reference",
    [
        *("", "texts", "texts/", "/reviews", "texts/reviews/20260801T120001Z-00000000", "a/b/c"),
        *("texts//reviews", "//texts/reviews", "texts\\reviews", "texts/*", "t?xts/a", "texts/reviews@*"),
        *("../texts/reviews", "texts/..", "texts/../texts", "../..", "texts/.", "./reviews", "/etc/passwd", "~/reviews"),
        *("texts/reviews@../../encoder/x", "texts/reviews@/etc", "texts/reviews@..", "texts/reviews@2026@2027", "texts/reviews@"),
        *("texts/re views", "texts/reviews\n", "texts/reviews@2026\n", "texts/r\0", "texts/révues"),
        *(".drafts/0123", "texts/.hidden", "hf://texts/reviews"),
    ],
)
def test_anything_else_is_no_reference(root, reference):
    plant(root, "texts/reviews@1")
    with pytest.raises(UserError, match="(?s)is no reference; it must read kind/name or kind/name@version, of letters, digits"):
        Artifact.open(reference)
    with pytest.raises(UserError, match="is no reference"):
        parse_reference(reference)


def test_letters_digits_dots_underscores_and_dashes_are_names():
    assert parse_reference("A.b-c_1/2.x") == ("A.b-c_1", "2.x", "")
    assert parse_reference("texts/reviews@20260801T12-0") == ("texts", "reviews", "20260801T12-0")


@pytest.mark.parametrize("place", ["texts", "texts/reviews", "texts/reviews/VERSION"])
def test_a_link_that_leads_out_of_the_root_is_not_followed(tmp_path, root, place):
    outside = plant(tmp_path / "outside", "texts/reviews@1")
    kept = plant(root, "encoder/minilm")
    place = place.replace("VERSION", outside.manifest.version)
    (root / place).parent.mkdir(parents=True, exist_ok=True)
    (root / place).symlink_to(tmp_path / "outside" / place)
    for reference in ("texts/reviews", str(outside)):
        with pytest.raises(UserError, match=f"^{root / place} is a link, which could lead out of the root; put the folder itself"):
            Artifact.open(reference)
    with pytest.raises(UserError, match=f"^{root / place} is a link"):
        Artifact.at(root / "texts" / "reviews" / outside.manifest.version)
    assert list_artifacts() == [kept] == [found for _, found in scan()]
    assert list(strays()) == [f"{root / place} is a link, which is not followed; put the folder itself in its place"]
    if place == "texts":
        with pytest.raises(UserError, match=f"^{root / place} is a link"):
            find(root, "texts", outside.manifest.fingerprint)
    else:
        assert find(root, "texts", outside.manifest.fingerprint) is None


def test_a_newest_version_that_is_a_link_does_not_give_an_older_one(tmp_path, root):
    old, new = plant(root, "texts/reviews@1"), plant(root, "texts/reviews@2")
    new.path.rename(tmp_path / "elsewhere")
    new.path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=f"^{new.path} is a link"):
        Artifact.open("texts/reviews")
    assert Artifact.open(str(old)) == old


def test_a_folder_that_was_moved_under_another_name_is_refused(root):
    artifact = plant(root, "texts/reviews@1")
    for copy in (root / "texts" / "other" / artifact.path.name, root / "vectors" / "reviews" / artifact.path.name):
        shutil.copytree(artifact.path, copy)
        with pytest.raises(UserError, match=re.escape(str(artifact))):
            Artifact.open(f"{copy.parent.parent.name}/{copy.parent.name}")
    assert list_artifacts() == [artifact]


def test_a_form_and_json_hold_an_artifact_as_its_reference(root):
    class Form(BaseModel):
        encoder: Artifact

    artifact = plant(root, "encoder/minilm")
    assert json.loads(Form(encoder=artifact).model_dump_json()) == {"encoder": str(artifact)}
    assert Form(encoder="encoder/minilm").encoder == artifact
    assert Form.model_validate_json('{"encoder": "encoder/minilm"}').encoder == artifact
    assert Form.model_json_schema()["properties"]["encoder"]["type"] == "string"
    with pytest.raises(ValueError, match="'encoder/nothing' is not known"):
        Form(encoder="encoder/nothing")


# Listing


def test_artifacts_are_listed_by_kind_name_and_version(root):
    planted = [plant(root, reference) for reference in ("texts/b@2", "encoder/z@1", "texts/b@1", "texts/a@9")]
    expected = [planted[place] for place in (1, 3, 2, 0)]
    assert list_artifacts() == expected == list_artifacts(root) == list_artifacts(str(root))


def test_what_is_no_artifact_is_not_listed(root):
    artifact = plant(root, "texts/reviews@1")
    (root / "README.md").write_text("read me")
    (root / "texts" / "notes.txt").write_text("note")
    (artifact.path.parent / "notes.txt").write_text("note")
    (artifact.path.parent / "keep-this").mkdir()
    (root / ".drafts" / "0123" / "files").mkdir(parents=True)
    assert list_artifacts() == [artifact] == [found for _, found in scan()]
    assert Artifact.open("texts/reviews") == artifact


def test_a_damaged_manifest_is_left_out_of_the_list_but_scanned(root):
    good, bad = plant(root, "texts/a@1"), plant(root, "texts/b@1")
    flip(bad.path / "manifest.json", 40)
    assert list_artifacts() == [good]
    assert list(scan()) == [(good.path, good), (bad.path, None)]


def test_an_artifact_is_found_by_its_fingerprint_the_newest_undamaged_one(root):
    mark = "ab" * 32
    first, second = (plant(root, f"texts/reviews@{number}", fingerprint=mark) for number in (1, 2))
    elsewhere = plant(root, "texts/again@0", fingerprint=mark)
    plant(root, "texts/other@9", fingerprint=mark[:8] + "0" * 56)  # the same version's end, another call
    assert find(root, "texts", mark) == second
    flip(second / "a.txt", 0)
    assert find(root, "texts", mark) == first
    flip(first / "manifest.json", 99)
    assert find(root, "texts", mark) == elsewhere
    (elsewhere / "deep" / "b.txt").unlink()
    assert find(root, "texts", mark) is None
    assert find(root, "vectors", mark) is None


# Damage


def test_an_artifact_as_published_has_no_problems(root):
    artifact = plant(root, "texts/reviews")
    assert artifact.problems() == [] and artifact.check() is artifact


@pytest.mark.parametrize("name", ["a.txt", "deep/b.txt"])
def test_a_flipped_byte_in_any_file_is_found_wherever_it_is(root, name):
    artifact = plant(root, "texts/reviews")
    for place in range((artifact / name).stat().st_size):
        flip(artifact / name, place)
        assert artifact.problems() == [f"{name} doesn't fit its checksum"]
        with pytest.raises(UserError, match=f"^{artifact} is damaged: {name} doesn't fit its checksum; make it again with"):
            artifact.check()
        flip(artifact / name, place)
    assert artifact.problems() == []


def test_a_flipped_bit_in_any_byte_of_the_manifest_is_found(root):
    artifact = plant(root, "texts/reviews", metrics={"accuracy": Metric(value=0.9, n=10)}, notes=["né"])
    path = artifact / "manifest.json"
    raw = path.read_bytes()
    for place in range(len(raw)):
        path.write_bytes(raw[:place] + bytes([raw[place] ^ (128, 1, 32)[place % 3]]) + raw[place + 1 :])
        with pytest.raises(UserError, match="manifest.json is damaged: its text doesn't fit its own checksum; make the"):
            Artifact.at(artifact.path)
    path.write_bytes(raw)
    assert Artifact.at(artifact.path).manifest == artifact.manifest


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text.replace('"depth": 3', '"depth": 4'),
        lambda text: text + "\n",
        lambda text: "\n" + text,
        lambda text: text[:-1],
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: json.dumps(json.loads(text)),
        lambda text: json.dumps({key: value for key, value in json.loads(text).items() if key != "seal"}, indent=1) + "\n",
        lambda text: re.sub(r'"seal": "\w+"', '"seal": "' + "0" * 64 + '"', text),
    ],
)
def test_an_edited_manifest_is_refused(root, edit):
    artifact = plant(root, "texts/reviews")
    path = artifact / "manifest.json"
    path.write_text(edit(path.read_text()))
    with pytest.raises(UserError, match="is damaged: its text doesn't fit its own checksum"):
        Artifact.open("texts/reviews")


def test_a_sealed_manifest_that_lacks_a_field_is_refused_too(root):
    artifact = plant(root, "texts/reviews")
    fields = json.loads((artifact / "manifest.json").read_text()) | {"seal": "0" * 64}
    del fields["kind"]
    body = json.dumps(fields, indent=1) + "\n"
    (artifact / "manifest.json").write_text(body.replace("0" * 64, hashlib.sha256(body.encode()).hexdigest()))
    with pytest.raises(UserError, match="is damaged"):
        Artifact.at(artifact.path)


def test_a_missing_manifest_says_which_file(root):
    artifact = plant(root, "texts/reviews")
    (artifact / "manifest.json").unlink()
    with pytest.raises(UserError, match="manifest.json can't be read .No such file or directory.; .* make the artifact again"):
        Artifact.at(artifact.path)


def test_the_newest_version_without_its_manifest_does_not_pass_for_absent(root):
    plant(root, "texts/reviews@1")
    newest = plant(root, "texts/reviews@2")
    (newest / "manifest.json").unlink()
    with pytest.raises(UserError, match=f"{newest.manifest.version}/manifest.json can't be read"):
        Artifact.open("texts/reviews")
    assert (newest.path, None) in list(scan())


def test_a_file_of_another_size_is_found(root):
    artifact = plant(root, "texts/reviews", {"long.txt": "x" * 2000})
    with (artifact / "long.txt").open("a") as file:
        file.write("y")
    assert artifact.problems() == ["long.txt has 2,001 bytes instead of 2,000"]
    (artifact / "long.txt").write_text("")
    assert artifact.problems() == ["long.txt has 0 bytes instead of 2,000"]


def test_missing_and_extra_files_are_found(root):
    artifact = plant(root, "texts/reviews")
    (artifact / "a.txt").unlink()
    (artifact / "deep" / "more.txt").write_text("more")
    (artifact / "deep" / "manifest.json").write_text("{}")
    (artifact / ".hidden").write_text("")
    assert artifact.problems() == [
        "a.txt is missing",
        ".hidden doesn't belong to it",
        "deep/manifest.json doesn't belong to it",
        "deep/more.txt doesn't belong to it",
    ]


def test_a_folder_in_place_of_a_file_and_a_broken_link_in_place_of_a_folder_are_found(root):
    artifact = plant(root, "texts/reviews")
    (artifact / "a.txt").unlink()
    (artifact / "a.txt").mkdir()
    shutil.rmtree(artifact / "deep")
    (artifact / "deep").symlink_to(root / "nowhere")
    found = ["a.txt is a folder, not a file", "deep/b.txt is missing", "deep doesn't belong to it"]
    assert artifact.problems() == found


def test_links_to_equal_bytes_are_found_in_place_of_a_file_and_of_a_folder_on_its_path(tmp_path, root):
    artifact = plant(root, "texts/reviews")
    shutil.copytree(artifact.path, tmp_path / "equal")
    (artifact / "a.txt").unlink()
    (artifact / "a.txt").symlink_to(tmp_path / "equal" / "a.txt")
    shutil.rmtree(artifact / "deep")
    (artifact / "deep").symlink_to(tmp_path / "equal" / "deep")
    assert artifact.problems() == ["a.txt is a link, not a file", "deep/b.txt is missing", "deep doesn't belong to it"]
    with pytest.raises(UserError, match="is damaged: a.txt is a link, not a file; make it again"):
        artifact.check()
    assert find(root, "texts", artifact.manifest.fingerprint) is None


def test_an_empty_folder_and_a_folder_of_files_are_found_each_once(root):
    artifact = plant(root, "texts/reviews")
    (artifact / "empty/inner").mkdir(parents=True)
    (artifact / "deep/more").mkdir()
    (artifact / "deep/more/x.txt").write_text("x")
    assert artifact.problems() == ["deep/more doesn't belong to it", "empty doesn't belong to it"]


def test_the_folder_that_tensorflow_leaves_empty_beside_a_saved_model_belongs_to_it(root):
    export = plant(root, "export/reviews", {"saved_model.pb": "graph", "inner/saved_model.pb": "graph"})
    for folder in ("assets", "inner/assets"):
        (export / folder).mkdir()
    assert export.problems() == []
    (export / "assets/x.txt").write_text("x")
    assert export.problems() == ["assets doesn't belong to it"]
    other = plant(root, "export/other")
    (other / "assets").mkdir()
    assert other.problems() == ["assets doesn't belong to it"]


@pytest.mark.parametrize("name", ["a.txt", "deep/b.txt", "manifest.json"])
@pytest.mark.parametrize("kind", ["pipe", "socket", "device"])
def test_what_a_reader_would_wait_for_is_never_opened(root, kind, name):
    artifact = plant(root, "texts/reviews")
    put_strange(artifact / name, kind)
    if name == "manifest.json":
        with pytest.raises(UserError, match=f"^{artifact / name} can't be read .*; mend its permissions or make the"):
            Artifact.at(artifact.path)
    else:
        assert artifact.problems() == [f"{name} is a pipe or a device, not a file"]
        with pytest.raises(OSError, match="it is a pipe or a device|No such device"):
            open_file(artifact / name)


def put_strange(path, kind):
    """Put something in place of a file that is neither a file nor a folder."""
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as bound:
            here = os.open(path.parent, os.O_RDONLY)  # an address of a socket has 108 bytes at most
            bound.bind(f"/proc/self/fd/{here}/{path.name}")
            os.close(here)
    else:
        try:
            os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))  # /dev/zero
        except PermissionError:
            pytest.skip("only root makes devices")


def test_names_that_would_change_a_terminal_are_escaped(root):
    artifact = plant(root, "texts/reviews")
    (artifact / "a\x1b[2Jb").write_text("")
    (artifact.path / os.fsdecode(b"\xff")).write_text("")
    assert artifact.problems() == ["'a\\x1b[2Jb' doesn't belong to it", "'\\udcff' doesn't belong to it"]


def test_an_extra_link_is_found(tmp_path, root):
    artifact = plant(root, "texts/reviews")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "x.txt").write_text("x")
    (artifact / "link").symlink_to(tmp_path / "outside")
    assert artifact.problems() == ["link doesn't belong to it"]


def test_a_byte_that_changes_after_the_file_was_checked_is_found_whatever_its_date_says(root):
    artifact = plant(root, "texts/reviews")
    artifact.check()
    before = (artifact / "a.txt").stat()
    flip(artifact / "a.txt", 2)
    os.utime(artifact / "a.txt", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert artifact.problems() == ["a.txt doesn't fit its checksum"]


def test_a_file_that_may_not_be_read_is_answered_in_one_sentence():
    street = Path(tempfile.mkdtemp(prefix="embedkit-street-"))  # everybody may enter it, unlike pytest's folders
    street.chmod(0o755)
    try:
        artifact = plant(street / "artifacts", "texts/reviews")
        for folder in (street / "artifacts", *(street / "artifacts").rglob("*")):
            folder.chmod(0o755 if folder.is_dir() else 0o644)
        (artifact / "a.txt").chmod(0)
        code = f"""
import os
from embedkit.artifacts import Artifact
from embedkit.settings import UserError
if os.getuid() == 0:  # root may read everything
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
artifact = Artifact.open("texts/reviews", {str(artifact.root)!r})
try:
    artifact.check()
except UserError as error:
    print(error)
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert "Traceback" not in done.stderr
        assert "a.txt" in done.stdout and "Permission denied" in done.stdout and done.stdout.count("\n") == 1
    finally:
        shutil.rmtree(street)


# The manifest


def test_a_manifest_is_plain_json_and_its_seal_can_be_recomputed_in_five_lines(root):
    path = plant(root, "texts/reviews", notes=["Ünïcode, \"quotes\" and ' \\ in it"]) / "manifest.json"

    text = path.read_bytes()
    seal = json.loads(text)["seal"]
    assert text.endswith(b'"seal": "' + seal.encode() + b'"\n}\n')
    zeroed = text.replace(seal.encode(), b"0" * 64)
    assert hashlib.sha256(zeroed).hexdigest() == seal


def test_the_checksums_in_a_manifest_are_those_of_the_files(root):
    artifact = plant(root, "texts/reviews")
    fields = json.loads((artifact / "manifest.json").read_text())
    assert fields["files"] == [
        {"path": "a.txt", "bytes": 5, "sha256": hashlib.sha256(b"apple").hexdigest()},
        {"path": "deep/b.txt", "bytes": 6, "sha256": hashlib.sha256(b"banana").hexdigest()},
    ]
    assert (fields["kind"], fields["name"], fields["rows"], fields["settings"]) == ("texts", "reviews", 2, {"depth": 3})


def test_numbers_that_are_not_finite_stay_plain_json_and_come_back(root):
    inf, nan = float("inf"), float("nan")
    metrics = {"m": Metric(value=inf, n=1), "q": Metric(value=nan, n=2)}
    artifact = plant(root, "texts/a", metrics=metrics, details={"d": [-inf, nan]}, decisions={"rate": nan})

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    fields = json.loads((artifact / "manifest.json").read_text(), parse_constant=refuse)
    assert fields["metrics"]["m"]["n"] == 1
    metrics = Artifact.open("texts/a").manifest.metrics
    assert metrics["m"].value == inf and metrics["q"].value != metrics["q"].value


def test_a_manifest_of_the_future_keeps_what_it_says(root):
    plant(root, "texts/reviews", carbon={"grams": 3})
    manifest = Artifact.open("texts/reviews").manifest
    assert manifest.model_dump()["carbon"] == {"grams": 3}
    assert json.loads(manifest.sealed())["carbon"] == {"grams": 3}


def test_equal_files_are_equal_content_under_any_name(root):
    files = {"a.txt": "apple", "b.txt": "banana"}
    one, two = plant(root, "texts/one", files), plant(root, "texts/two", dict(reversed(files.items())), rows=7)
    assert one.manifest.content == two.manifest.content
    others = [
        plant(root, "texts/exchanged", {"a.txt": "banana", "b.txt": "apple"}),
        plant(root, "texts/fewer", {"a.txt": "apple"}),
        plant(root, "texts/renamed", {"a.txt": "apple", "c.txt": "banana"}),
    ]
    assert len({artifact.manifest.content for artifact in (one, *others)}) == 4


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        (Metric(value=0.91236, n=1000), "0.9124 (n=1,000)"),
        (Metric(value=0.5, n=7, standard_error=0.01234), "0.5 ± 0.012 (n=7)"),
        (Metric(value=12345.6, n=1), "1.235e+04 (n=1)"),
    ],
)
def test_a_metric_says_its_value_its_error_and_its_rows(metric, words):
    assert str(metric) == words


# Manifests that were made to harm: sealed anew, so that only what they say can give them away


def reseal(artifact, edit):
    """Change a manifest's fields and seal it as its maker would."""
    path = artifact.path / "manifest.json"
    fields = edit(json.loads(path.read_text()))
    write_sealed(path, json.dumps(fields | {"seal": "0" * 64}, indent=1))


def write_sealed(path, text):
    """Write a manifest's text, whose last value is the seal, with the seal it must have."""
    body = text.encode("utf-8", "surrogatepass") + b"\n"
    assert body.endswith(b'"seal": "' + b"0" * 64 + b'"\n}\n')
    path.write_bytes(body[:-68] + hashlib.sha256(body).hexdigest().encode() + body[-4:])


PATHS = [
    *("../../etc/passwd", "/etc/passwd", "deep/../../x", "deep/./b.txt", "./a.txt", "deep//b.txt", "deep/", "", ".", ".."),
    *("manifest.json", "Manifest.JSON", "manifest.json/x", "deep\\b.txt", "C:/x", "c:x", "x" * 1025),
    *("a\0.txt", "a\n.txt", "a\x1b[2J", "a\u202eb"),
]


@pytest.mark.parametrize("path", PATHS)
def test_a_file_that_is_not_inside_the_artifact_is_refused_wherever_the_manifest_is_read(root, path):
    artifact = plant(root, "texts/reviews")
    reseal(artifact, lambda fields: fields | {"files": [{**fields["files"][0], "path": path}]})
    with pytest.raises(UserError, match=r"is damaged: its files\.0\.path can't be .*a path must be relative.*; make the artifact"):
        Artifact.open("texts/reviews")
    with pytest.raises(ValueError, match="a path must be relative"):
        File(path=path, bytes=0, sha256="0" * 64)


@pytest.mark.parametrize("path", ["a.txt", "inner/manifest.json", ".hidden", "values/00-größe.parquet", "a b", "...", "-x/a:b"])
def test_a_file_inside_the_artifact_keeps_its_path(path):
    assert File(path=path, bytes=0, sha256="0" * 64).path == path


FILE = {"path": "a.txt", "bytes": 5, "sha256": hashlib.sha256(b"apple").hexdigest()}
GIVEN = {"role": "a", "ref": "texts/x", "fingerprint": "0" * 64}
FORGED = {
    "a negative size": ({"files": [FILE | {"bytes": -1}]}, r"its files\.0\.bytes can't be -1"),
    "a size beyond all disks": ({"files": [FILE | {"bytes": 10**30}]}, r"its files\.0\.bytes can't be 1000000"),
    "a checksum that is none": ({"files": [FILE | {"sha256": "0" * 63 + "G"}]}, r"its files\.0\.sha256 can't be"),
    "a checksum and a line": ({"files": [FILE | {"sha256": "0" * 64 + "\n"}]}, r"its files\.0\.sha256 can't be"),
    "a file twice": ({"files": [FILE, FILE]}, "a file can't be listed twice"),
    "a file that is a folder": ({"files": [FILE, FILE | {"path": "a.txt/b"}]}, "'a.txt' can't be a file and a folder"),
    "another kind": ({"kind": "encoder"}, "it was moved; move it back to encoder/reviews"),
    "a kind that leads out": ({"kind": "../texts"}, r"its kind can't be '\.\./texts'"),
    "a name that leads out": ({"name": ".."}, r"its name can't be '\.\.'"),
    "a name and a line": ({"name": "reviews\n"}, r"its name can't be"),
    "a version that is none": ({"version": "../../x"}, r"its version can't be"),
    "a version in other digits": ({"version": "٢٠٢٦0801T120000Z-00000000"}, r"its version can't be"),
    "a fingerprint that is none": ({"fingerprint": "x"}, r"its fingerprint can't be 'x'"),
    "another fingerprint": ({"fingerprint": "0" * 64}, "a version must end with the first digits of the fingerprint"),
    "negative rows": ({"rows": -1}, "its rows can't be -1"),
    "an input that leads out": ({"inputs": [GIVEN | {"ref": "../x"}]}, r"its inputs\.0\.ref can't be '\.\./x'"),
    "an input of any version": ({"inputs": [GIVEN]}, "with the whole version"),
    "two inputs of one role": ({"inputs": [GIVEN | {"ref": f"texts/{n}@{DAY.format(1)}-{'0' * 8}"} for n in "ab"]}, "one role"),
    "no source": ({"source": {}}, "a source must have a text"),
    "no check": ({"decisions": {"preflight": {"loss": {}}}}, "a check must have a line"),
    "checks that are none": ({"decisions": {"preflight": "x"}}, "a check must have a line"),
    "depth": ({"details": {"deep": json.loads("[" * 101 + "]" * 101)}}, "it is more than 100 levels deep"),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_manifest_that_says_what_no_stage_could_is_refused_though_its_seal_fits(root, name):
    artifact, (change, words) = plant(root, "texts/reviews"), FORGED[name]
    reseal(artifact, lambda fields: fields | change)
    with pytest.raises(UserError, match=words) as caught:
        Artifact.open("texts/reviews")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600
    assert list(scan()) == [(artifact.path, None)]


def test_what_a_manifest_does_not_say_is_asked_for_in_vain_in_one_sentence(root):
    artifact = plant(root, "vectors/reviews", details={"dimension": 3})
    assert artifact.manifest.details == {"dimension": 3} and artifact.manifest.details.get("parts") is None
    with pytest.raises(UserError, match=f"^the manifest of {artifact} names no 'parts', which its stage writes; make it again$"):
        _ = artifact.manifest.details["parts"]
    with pytest.raises(UserError, match=f"^the manifest of {artifact} names no 'dataset'"):
        _ = artifact.inputs["dataset"]
    assert Manifest.model_validate(artifact.manifest.model_dump()).sealed() == (artifact / "manifest.json").read_bytes()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{\n "a": 1,\n "a": 2,\n "seal": "%s"\n}', "a field stands in it twice"),
        ('{\n "a": NaN,\n "seal": "%s"\n}', "NaN is no number of JSON"),
        ('{\n "a": -Infinity,\n "seal": "%s"\n}', "-Infinity is no number of JSON"),
        ('{\n "a": ' + "[" * 100_000 + "]" * 100_000 + ',\n "seal": "%s"\n}', "it is more than 100 levels deep"),
        ('{\n "a": ' + "9" * 5000 + ',\n "seal": "%s"\n}', "Exceeds the limit"),
        ('{\n "a": "\udcff",\n "seal": "%s"\n}', "it isn't UTF-8"),
        ('{\n "a",\n "seal": "%s"\n}', "Expecting ':' delimiter"),
        ('{\n "seal": "%s"\n}', "it has no kind"),
    ],
)
def test_json_that_two_readers_could_read_in_two_ways_is_refused(root, text, words):
    artifact = plant(root, "texts/reviews")
    write_sealed(artifact / "manifest.json", text.replace("%s", "0" * 64))
    with pytest.raises(UserError, match=f"manifest.json is damaged: {words}.*; make the artifact again with the call") as caught:
        Artifact.at(artifact.path)
    assert "\n" not in str(caught.value)


def test_a_manifest_of_any_size_is_read_to_its_bound_and_no_further(root):
    artifact = plant(root, "texts/reviews")
    with (artifact / "manifest.json").open("r+b") as file:
        file.truncate(2**40)  # a sparse file: no disk holds it
    with pytest.raises(UserError, match=r"manifest.json is damaged: it has more than 67,108,864 bytes"):
        Artifact.at(artifact.path)


# Lineage


def forge_inputs(artifact, *inputs):
    """Let an artifact say that it was made from others."""
    given = [{"role": f"given{n}", "ref": str(one), "fingerprint": one.manifest.fingerprint} for n, one in enumerate(inputs)]
    reseal(artifact, lambda fields: fields | {"inputs": given})
    return Artifact.at(artifact.path)


def test_what_was_made_from_itself_is_refused_and_what_was_made_from_that_ends(root):
    first, second, third = (plant(root, f"texts/{name}@1") for name in ("a", "b", "c"))
    first, second = forge_inputs(first, second), forge_inputs(second, first)
    third = forge_inputs(third, second)
    with pytest.raises(UserError, match=f"^{first} is among what it was made from itself, so a manifest was forged; make it again"):
        list(first.ancestors())
    assert refs(third.ancestors()) == refs([second, first])
    assert prunable(root) == []
    with pytest.raises(UserError, match="is damaged: an artifact can't be made from itself; make the artifact again"):
        forge_inputs(third, third)


def test_an_input_with_another_fingerprint_is_another(root):
    texts = plant(root, "texts/reviews@1")
    vectors = plant(root, "vectors/reviews", inputs=[texts])
    end = f"{texts.manifest.fingerprint[:8]}{'0' * 56}"  # the version stays the same
    reseal(texts, lambda fields: fields | {"fingerprint": end})
    with pytest.raises(UserError, match=f"^vectors/reviews@.* was made from {texts}, but another lies there; make it again or"):
        _ = Artifact.open(str(vectors)).inputs


def test_a_lineage_as_long_as_a_mesh_of_thousands_is_walked_once(root):
    row = [plant(root, f"texts/{name}@1") for name in "ab"]
    for _ in range(40):  # two to the forty ways lead back
        row = [plant(root, f"texts/{name}@{int(row[0].manifest.version[13:15]) + 1}", inputs=row) for name in "ab"]
    assert len(list(row[0].ancestors())) == 80


def test_an_order_has_the_oldest_first_however_long_the_line():
    line = {f"texts/a@{n}": [f"texts/a@{n - 1}"] if n else [] for n in range(20_000)}
    assert oldest_first(dict(reversed(line.items()))) == list(line)
    with pytest.raises(UserError, match="is among what it was made from itself"):
        oldest_first(line | {"texts/a@0": ["texts/a@19999"]})


def test_inputs_and_ancestors_are_found_the_nearest_first_each_once(root):
    texts = plant(root, "texts/reviews")
    encoder = plant(root, "encoder/minilm", inputs=[texts])
    vectors = plant(root, "vectors/reviews", inputs=[texts, encoder])
    head = plant(root, "classifier/reviews", inputs=[vectors])
    assert head.inputs == {"given0": vectors}
    assert vectors.inputs == {"given0": texts, "given1": encoder}
    assert refs(head.ancestors()) == refs([vectors, texts, encoder])
    assert list(texts.ancestors()) == []


def test_an_input_stays_the_version_that_was_used(root):
    old = plant(root, "texts/reviews@1")
    vectors = plant(root, "vectors/reviews", inputs=[old])
    plant(root, "texts/reviews@2")
    assert Artifact.open("vectors/reviews").inputs["given0"] == old
    assert list(vectors.ancestors()) == [old]


def test_an_input_that_is_gone_is_named_with_what_to_do(root):
    texts = plant(root, "texts/reviews@1")
    plant(root, "vectors/reviews", inputs=[texts])
    plant(root, "texts/reviews@2")
    shutil.rmtree(texts.path)
    with pytest.raises(UserError, match=f"^vectors/reviews@.* was made from {texts}, which is not in {root} any more; make it"):
        _ = Artifact.open("vectors/reviews").inputs


def test_an_input_that_is_damaged_is_not_said_to_be_gone(root):
    texts = plant(root, "texts/reviews@1")
    plant(root, "vectors/reviews", inputs=[texts])
    flip(texts / "manifest.json", 50)
    with pytest.raises(UserError, match=f"^vectors/reviews@.* was made from {texts}.* damaged") as caught:
        _ = Artifact.open("vectors/reviews").inputs
    assert "not in" not in str(caught.value)


# Pruning


def test_only_old_versions_that_nothing_kept_was_made_from_can_go(root):
    texts = [plant(root, f"texts/reviews@{number}") for number in (1, 2, 3)]
    encoder = plant(root, "encoder/minilm@1")
    vectors = [plant(root, f"vectors/reviews@{number}", inputs=[texts[number], encoder]) for number in (0, 1)]
    # vectors@1 is kept and was made from texts@2; vectors@0 goes, and texts@1, which only vectors@0 was made from, goes too.
    assert refs(prunable(root)) == refs([texts[0], vectors[0]])
    assert refs(prunable(root, keep=2)) == []  # the kept vectors@0 was made from texts@1


def test_an_ancestor_is_kept_through_any_number_of_generations(root):
    line = [plant(root, "texts/a@1")]
    for kind in ("encoder", "vectors", "index"):
        line.append(plant(root, f"{kind}/a@1", inputs=[line[-1]]))
    newer = [plant(root, f"{one.manifest.kind}/a@2") for one in line[:-1]]
    assert prunable(root) == []
    newest = plant(root, "index/a@2", inputs=[newer[2]])
    assert sorted(refs(prunable(root))) == sorted(refs(line))
    assert set(refs(newest.ancestors())) <= set(refs(list_artifacts()))


def test_whatever_can_go_everything_that_stays_keeps_its_ancestors(root):
    made = []
    for number in range(24):  # inputs by arithmetic: a mesh of five names over four generations
        generation = number // 6
        inputs = [one for place, one in enumerate(made) if place // 6 == generation - 1 and (place * 7 + number) % 3 == 0]
        made.append(plant(root, f"kind{generation}/name{number % 2}@{number}", inputs=inputs))
    for keep in (1, 2, 3):
        going = set(refs(prunable(root, keep)))
        staying = [artifact for artifact in list_artifacts() if str(artifact) not in going]
        assert all(str(ancestor) not in going for artifact in staying for ancestor in artifact.ancestors())
        names = {(artifact.manifest.kind, artifact.manifest.name) for artifact in made}
        for kind, name in names:
            newest = [one for one in list_artifacts() if (one.manifest.kind, one.manifest.name) == (kind, name)][-keep:]
            assert not going & set(refs(newest))
    assert prunable(root, keep=1)


def test_a_removed_artifact_leaves_nothing_and_nothing_else_goes(root):
    old, new = plant(root, "texts/reviews@1"), plant(root, "texts/reviews@2")
    remove(old)
    assert list_artifacts() == [new] and not old.path.exists()
    remove(new)
    assert list_artifacts() == [] and not (root / "texts" / "reviews").exists()
    assert [path.name for path in root.rglob("*") if path.is_file()] == ["changes.lock"]  # which is empty, and stays
