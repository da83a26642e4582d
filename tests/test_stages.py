"""The six promises of a stage, with real processes, real signals and a real full disk.

The stage `brew` below needs no framework. It keeps a diary, outside the artifacts, of what it really did, and a child process
that runs it can be told to stop dead at a moment (`STOP_AT`) until it is killed.
"""

import errno
import inspect
import json
import logging
import os
import pydoc
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Annotated

import numpy as np
import pytest
from pydantic import PositiveInt

import embedkit
from embedkit import environment, progress
from embedkit.artifacts import Artifact, Kinds, Metric, Texts, Vectors, default_root, list_artifacts, scan
from embedkit.settings import Seeded, Settings, UserError
from embedkit.sources import Source
from embedkit.stages import Draft, Facts, is_kept, keep, stage, sync, write_json

log = logging.getLogger("embedkit.test")
PART_BYTES = 200_000
MOMENTS = ("start", "decided", "half of part 0", "part 0", "half of part 2", "part 3", "half of the label", "end")


def note(line):
    with open(os.environ["DIARY"], "a") as file:
        file.write(line + "\n")


def moment(name):
    """Where a child that was told so says that it has come here, and waits to be killed."""
    if os.environ.get("STOP_AT") == name:
        print(name, flush=True)
        signal.pause()


class Brew(Seeded):
    """How something is brewed."""

    parts: PositiveInt = 4
    """How many parts it has."""
    strength: float = 1.0
    """How strong it is."""


@stage("brew", revision=1)
def brew(out: Draft, source: Source, settings: Brew = Brew()) -> Facts:
    """Brew something in parts.

    Args:
        source: what it is brewed from.
    """
    note("starts")
    moment("start")
    choice = out.decide("leaf", lambda: os.environ.get("LEAF", "green"))
    moment("decided")
    with progress.bar(settings.parts, "parts") as advance:
        for number in range(settings.parts):

            def write(path, number=number):
                note(f"part {number}")
                data = np.random.default_rng([settings.seed, number]).bytes(PART_BYTES)
                with path.open("wb") as file:
                    file.write(data[:70_000])
                    file.flush()
                    moment(f"half of part {number}")
                    file.write(data[70_000:])
                return {"number": number, "first": data[0]}

            out.part(f"part-{number}.bin", write)
            advance(1)
            moment(f"part {number}")
    with (out / "deep/label.txt").open("w") as label:
        label.write(f"{choice} ")
        label.flush()
        moment("half of the label")
        label.write(f"{settings.strength} {random.random()} {np.random.random()}")
    log.warning("the tea is hot")
    moment("end")
    return Facts(rows=settings.parts, metrics={"heat": Metric(value=90, n=1)}, notes=["hot"], details={"leaf": choice})


@stage("blend", revision=1)
def blend(out: Draft, brew: Artifact, settings: Brew = Brew()) -> Facts:
    """Blend a brew.

    Args:
        brew: what is blended.
    """
    note("blends")
    (out / "blend.txt").write_text("the same whatever came")
    return Facts()


@stage("cup", revision=1)
def pour(out: Draft, blend: Artifact, settings: Settings = Settings()) -> Facts:
    """Pour a blend, looking at what it was made from.

    Args:
        blend: what is poured.
    """
    (out / "label.txt").write_text((blend.inputs["brew"] / "deep/label.txt").read_text())
    return Facts()


@pytest.fixture(autouse=True)
def diary(tmp_path, monkeypatch):
    """What was really done: lines, in order."""
    path = tmp_path / "diary.txt"
    path.touch()
    monkeypatch.setenv("DIARY", str(path))
    monkeypatch.delenv("STOP_AT", raising=False)

    def lines():
        return path.read_text().split("\n")[:-1]

    return lines


@pytest.fixture
def leaves(tmp_path):
    path = tmp_path / "leaves.txt"
    path.write_text("camellia\nsinensis\n")
    return path


@pytest.fixture
def told(caplog):
    caplog.set_level(logging.INFO, "embedkit")
    return lambda: [record.getMessage() for record in caplog.records]


def child(source, stop_at="", **environment):
    """A process that brews."""
    return subprocess.Popen(
        [sys.executable, __file__, str(source)],
        env=os.environ | {"STOP_AT": stop_at} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def killed_at(source, where):
    """Brew in a process that is killed at a moment."""
    process = child(source, where)
    assert process.stdout.readline().strip() == where, process.communicate()[1]
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def files(artifact):
    """Every file but the manifest, by path."""
    found = {path.relative_to(artifact.path).as_posix(): path.read_bytes() for path in artifact.path.rglob("*") if path.is_file()}
    del found["manifest.json"]
    return found


def fingerprint(artifact):
    return artifact.manifest.fingerprint


@pytest.fixture
def undisturbed(leaves, tmp_path, monkeypatch):
    """The files of a run that nothing disturbed."""
    with monkeypatch.context() as patch:
        patch.setenv("DIARY", os.devnull)
        return files(brew(leaves, root=tmp_path / "undisturbed"))


# What a stage looks like


def test_a_stage_hides_its_draft_and_keeps_its_words():
    signature = inspect.signature(brew)
    assert list(signature.parameters) == ["source", "settings", "name", "root"]
    assert signature.return_annotation is Artifact
    assert signature.parameters["settings"].default == Brew()
    assert brew.__doc__.startswith("Brew something in parts.") and brew.__name__ == "brew" and brew.Settings is Brew
    assert list(inspect.signature(blend).parameters) == ["brew", "settings", "name", "root"]


def test_inputs_are_given_by_position_or_name_as_artifacts_or_references(leaves, root):
    one = brew(leaves, Brew(), name="tea")
    assert brew(str(leaves)) == brew(source=leaves, settings=Brew()) == brew(Source(leaves)) == one
    assert blend(one) == blend("brew/tea") == blend(str(one)) == blend(brew="brew/tea", settings=Brew())
    assert one.path == root / "brew" / "tea" / one.manifest.version


def test_the_manifest_says_what_was_done(leaves):
    artifact = brew(leaves, Brew(parts=2, seed=5), name="tea")
    manifest = artifact.manifest
    assert (manifest.kind, manifest.name, manifest.stage, manifest.revision) == ("brew", "tea", "brew", 1)
    assert manifest.settings == {"seed": 5, "parts": 2, "strength": 1.0}
    assert manifest.source == {"text": str(leaves), "sha256": Source(leaves).content()}
    assert (manifest.rows, manifest.notes, manifest.decisions) == (2, ["hot"], {"leaf": "green"})
    assert manifest.metrics == {"heat": Metric(value=90, n=1)}
    assert {file.path: file.bytes for file in manifest.files} == {path: len(content) for path, content in files(artifact).items()}
    assert [file.path for file in manifest.files] == ["deep/label.txt", "part-0.bin", "part-1.bin"]
    assert re.fullmatch(r"\d{8}T\d{6}Z-" + manifest.fingerprint[:8], manifest.version)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", manifest.created)
    assert re.sub(r"[^\d]", "", manifest.created[:19]) == re.sub(r"[^\d]", "", manifest.version[:16])
    assert manifest.seconds > 0 and manifest.peak_memory_bytes > 10_000_000
    assert manifest.environment["packages"]["numpy"] == np.__version__
    assert artifact.problems() == []
    mixed = blend(artifact).manifest
    assert mixed.source is None
    assert [given.model_dump() for given in mixed.inputs] == [
        {"role": "brew", "ref": str(artifact), "fingerprint": manifest.fingerprint}
    ]


def test_the_default_name_is_made_of_what_went_in(leaves):
    @stage("cup", revision=1)
    def two(out: Draft, brew: Artifact, blend: Artifact, settings: Settings = Settings()) -> Facts:
        """Mix."""
        return Facts()

    @stage("cup", revision=1, name="cup-of-{brew}")
    def template(out: Draft, brew: Artifact, settings: Settings = Settings()) -> Facts:
        """Mix."""
        return Facts()

    @stage("cup", revision=1, name=lambda names, settings: f"{names['brew']}-{settings.parts}")
    def computed(out: Draft, brew: Artifact, settings: Brew = Brew()) -> Facts:
        """Mix."""
        return Facts()

    tea = brew(leaves)
    assert tea.manifest.name == "leaves"
    mixed = blend(tea, name="mixed")
    names = [made.manifest.name for made in (two(tea, mixed), template(tea), computed(tea, Brew(parts=7)))]
    assert names == ["leaves-mixed", "cup-of-leaves", "leaves-7"]


def test_a_long_default_name_is_cut(tmp_path):
    path = tmp_path / ("l" * 200 + ".txt")
    path.write_text("x")
    artifact = brew(path)
    assert artifact.manifest.name == "l" * 120 and Artifact.open(str(artifact)) == artifact


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "a b", "a@b", "x" * 121, "é", "a\n"])
def test_a_name_that_is_none_is_refused(leaves, root, name):
    with pytest.raises(UserError, match="can't name an artifact; use up to 120 letters, digits, '.', '_' and '-'"):
        brew(leaves, name=name)
    assert not root.exists()


def test_other_settings_than_its_own_are_refused(leaves):
    for wrong in ({"parts": 2}, None, Settings(), Brew):
        with pytest.raises(UserError, match=r"brew takes Brew\(...\) as its settings, not "):
            brew(leaves, wrong)


def test_what_is_no_artifact_is_refused(leaves):
    for wrong in (np.zeros(3), object(), leaves):
        with pytest.raises(UserError, match="is no reference"):
            blend(wrong)


def test_an_artifact_of_another_kind_is_refused_by_name(leaves):
    @stage("cup", revision=1)
    def steep(out: Draft, texts: Texts, settings: Settings = Settings()) -> Facts:
        """Steep."""
        return Facts()

    @stage("cup", revision=1)
    def stir(out: Draft, vectors: Vectors, settings: Settings = Settings()) -> Facts:
        """Stir."""
        return Facts()

    tea = brew(leaves)
    with pytest.raises(UserError, match=f"steep takes texts as its texts, but {tea} came; give it one of those"):
        steep(tea)
    with pytest.raises(UserError, match=f"stir takes vectors as its vectors, but {tea} came"):
        stir(str(tea))


# Inputs that may be left out, and kinds that depend on what came


@stage(lambda inputs: inputs["brew"].manifest.kind, revision=1, name=lambda names, settings: "-with-".join(names.values()))
def sweeten(
    out: Draft,
    brew: Artifact,
    settings: Settings = Settings(),
    *,
    sugar: Annotated[Artifact, Kinds(("brew",))] | None = None,
    leaf: Source | None = None,
) -> Facts:
    """Sweeten something.

    Args:
        brew: what is sweetened.
        sugar: what with.
        leaf: what is laid on top.
    """
    note("sweetens")
    (out / "label.txt").write_text(f"{sugar is not None} {leaf is not None and leaf.path.read_text()}")
    return Facts()


@stage("gulp", revision=1)
def gulp(out: Draft, source: Source, settings: Brew = Brew()) -> Facts:
    """Take a lot of memory, and then a brew.

    Args:
        source: what it is brewed from.
    """
    np.ones(GULP // 8)
    brew(source, settings)
    return Facts()


GULP = 400 * 2**20
"""Bytes."""


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the kernel doesn't begin anew with its count")
def test_a_stage_inside_another_leaves_it_its_peak_of_memory(leaves):
    whole = gulp(leaves).manifest.peak_memory_bytes
    assert whole - brew(leaves).manifest.peak_memory_bytes > 0.9 * GULP


def test_inputs_by_keyword_may_be_left_out(leaves):
    signature = inspect.signature(sweeten)
    assert list(signature.parameters) == ["brew", "settings", "sugar", "leaf", "name", "root"]
    assert signature.parameters["sugar"].kind is inspect.Parameter.KEYWORD_ONLY and signature.parameters["sugar"].default is None
    assert (list(sweeten.inputs), list(sweeten.optional)) == (["brew"], ["sugar", "leaf"])
    tea = brew(leaves)
    plain = sweeten(tea)
    assert (plain / "label.txt").read_text() == "False False" and list(plain.inputs) == ["brew"]
    assert plain == sweeten(tea, sugar=None, leaf=None) and plain.manifest.source is None


def test_what_is_given_by_keyword_is_an_input_like_others(leaves, diary):
    tea, sugar = brew(leaves), brew(leaves, Brew(seed=1), name="sugar")
    plain, sweet = sweeten(tea), sweeten(tea, sugar=sugar)
    assert plain.manifest.fingerprint != sweet.manifest.fingerprint
    assert sweet.inputs == {"brew": tea, "sugar": sugar} and (sweet / "label.txt").read_text() == "True False"
    assert [plain.manifest.name, sweet.manifest.name] == ["leaves", "leaves-with-sugar"]
    assert sweeten(str(tea), sugar="brew/sugar") == sweeten(brew=tea, sugar=str(sugar)) == sweet
    assert diary().count("sweetens") == 2
    topped = sweeten(tea, leaf=leaves)
    assert topped.manifest.source["text"] == str(leaves) and (topped / "label.txt").read_text() == "False camellia\nsinensis\n"
    with pytest.raises(TypeError, match="too many positional arguments"):
        sweeten(tea, Settings(), sugar)


def test_what_is_given_by_keyword_is_checked_as_others_are(leaves, tmp_path):
    tea = brew(leaves)
    with pytest.raises(UserError, match=f"sweeten takes brew as its sugar, but {(mixed := blend(tea))} came; give it one of those"):
        sweeten(tea, sugar=mixed)
    with pytest.raises(UserError, match="is no reference"):
        sweeten(tea, sugar=np.zeros(3))
    with pytest.raises(UserError, match="a lineage can't cross roots"):
        sweeten(tea, sugar=brew(leaves, root=tmp_path / "other"))
    damaged = brew(leaves, Brew(seed=2))
    (damaged / "part-0.bin").write_bytes(b"x")
    with pytest.raises(UserError, match=f"{damaged}"):
        sweeten(tea, sugar=damaged)


def test_the_kind_may_depend_on_what_came(leaves, diary):
    tea = brew(leaves)
    found = [sweeten(tea), sweeten(blend(tea)), sweeten(pour(blend(tea)))]
    assert [one.manifest.kind for one in found] == ["brew", "blend", "cup"]
    assert [one.path.parent.parent.name for one in found] == ["brew", "blend", "cup"]
    again = [sweeten(tea), sweeten(blend(tea)), sweeten(pour(blend(tea)))]
    assert again == found and diary().count("sweetens") == 3


def test_inputs_of_two_roots_are_refused_because_a_lineage_stays_in_one(leaves, tmp_path):
    @stage("cup", revision=1)
    def two(out: Draft, brew: Artifact, other: Artifact, settings: Settings = Settings()) -> Facts:
        """Mix."""
        return Facts()

    here, there = brew(leaves, root=tmp_path / "here"), brew(leaves, root=tmp_path / "there")
    with pytest.raises(UserError, match=f"a lineage can't cross roots, but there are 2 .{tmp_path}/here, {tmp_path}/there.; make"):
        two(here, there)
    assert two(here, here).root == tmp_path / "here"


def test_an_artifact_is_not_made_in_another_root_than_its_inputs(leaves, tmp_path):
    tea = brew(leaves, root=tmp_path / "here")
    with pytest.raises(UserError, match=f"a lineage can't cross roots, but there are 2 .{tmp_path}/here, {tmp_path}/there.; make"):
        blend(tea, root=tmp_path / "there")
    assert not (tmp_path / "there").exists()


def test_inputs_decide_the_root_and_a_given_root_is_where_references_lead(leaves, tmp_path):
    tea = brew(leaves, root=tmp_path / "here", name="tea")
    assert blend(tea).root == tmp_path / "here"
    assert blend("brew/tea", root=tmp_path / "here").root == tmp_path / "here"
    with pytest.raises(UserError, match="'brew/tea' is not known"):
        blend("brew/tea")


def test_a_reference_beside_an_artifact_leads_into_the_root_of_that(leaves, tmp_path):
    @stage("cup", revision=1)
    def two(out: Draft, brew: Artifact, other: Artifact, settings: Settings = Settings()) -> Facts:
        """Mix."""
        return Facts()

    tea = brew(leaves, root=tmp_path / "here", name="tea")
    assert two(tea, "brew/tea") == two("brew/tea", tea) == two(tea, tea)


def test_one_root_may_be_written_in_several_ways(leaves, tmp_path):
    tea = brew(leaves, root=tmp_path / "here" / ".." / "here")
    assert blend(tea, root=tmp_path / "here").inputs == {"brew": tea}


def test_a_source_whose_name_is_no_unicode_is_a_source(leaves, tmp_path):
    odd = os.fsdecode(os.fsencode(str(tmp_path)) + b"/tea\xff.txt")
    shutil.copy(leaves, odd)
    artifact = brew(odd)
    assert artifact.manifest.name == "tea" and artifact.problems() == []
    assert json.loads((artifact / "manifest.json").read_text(encoding="utf-8"))["source"]["text"].startswith(f"{tmp_path}/tea")
    assert json.loads(artifact.manifest.model_dump_json())["name"] == "tea"


# 1. The fingerprint


def test_settings_seed_revision_stage_and_content_make_another_call(leaves, tmp_path):
    def variant(revision, function_name):
        def body(out: Draft, source: Source, settings: Brew = Brew()) -> Facts:
            """Brew."""
            return Facts()

        body.__name__ = function_name
        return stage("brew", revision=revision)(body)

    (tmp_path / "other.txt").write_text("rooibos\n")
    made = [
        variant(1, "infuse")(leaves, name="a"),
        variant(2, "infuse")(leaves, name="b"),
        variant(1, "boil")(leaves, name="c"),
        variant(1, "infuse")(leaves, Brew(seed=1), name="d"),
        variant(1, "infuse")(leaves, Brew(strength=2), name="e"),
        variant(1, "infuse")(tmp_path / "other.txt", name="f"),
    ]
    assert len(set(map(fingerprint, made))) == len(made)


def test_name_root_place_and_date_make_no_other_call(leaves, tmp_path, diary):
    first = brew(leaves, name="tea")
    elsewhere = tmp_path / "deep" / "renamed.txt"
    elsewhere.parent.mkdir()
    shutil.copy(leaves, elsewhere)
    os.utime(elsewhere, (1, 1))
    assert brew(elsewhere) == brew(leaves, Brew(parts=4, seed=0, strength="1")) == first
    assert diary().count("starts") == 1
    moved = brew(elsewhere, root=tmp_path / "other-root")
    assert fingerprint(moved) == fingerprint(first) and moved != first and files(moved) == files(first)


def test_what_exists_under_another_name_is_findable_by_a_new_one_as_well(leaves, told, diary):
    first = brew(leaves, name="tea")
    second = brew(leaves, name="coffee")
    assert diary().count("starts") == 1 and fingerprint(second) == fingerprint(first)
    assert Artifact.open("brew/coffee", first.root) == second and Artifact.open("brew/tea", first.root) == first
    assert second.manifest.name == "coffee" and not second.problems() and files(second) == files(first)
    assert brew(leaves, name="tea") == first and brew(leaves, name="coffee") == second
    assert len(list_artifacts(first.root)) == 2 and brew(leaves) in (first, second)
    assert any("is called coffee too" in line for line in told())
    shutil.rmtree(first.path)
    assert not second.problems() and brew(leaves, name="tea").manifest.name == "tea" and diary().count("starts") == 1


def test_other_content_of_an_input_makes_another_call_the_same_content_does_not(leaves, tmp_path, diary):
    weak, strong = brew(leaves, name="a"), brew(leaves, Brew(strength=2), name="b")
    assert fingerprint(blend(weak)) != fingerprint(blend(strong))
    again = brew(leaves, root=tmp_path / "second")
    assert fingerprint(blend(again)) == fingerprint(blend(weak))


def test_equal_files_made_from_other_inputs_make_another_call_since_a_stage_may_look_behind_them(leaves):
    blends = [blend(brew(leaves, Brew(strength=strength), name=f"s{strength}"), name=f"s{strength}") for strength in (1, 2)]
    assert files(blends[0]) == files(blends[1])
    cups = [(pour(one, name=f"c{number}") / "label.txt").read_text() for number, one in enumerate(blends)]
    assert cups == [(one.inputs["brew"] / "deep/label.txt").read_text() for one in blends]
    assert cups[0] != cups[1]


# 2. The same call again


def test_the_same_call_again_is_the_same_artifact_and_nothing_is_done(leaves, diary, told):
    first = brew(leaves)
    done = diary()
    second = brew(leaves)
    assert second == first and second.manifest == first.manifest and diary() == done
    assert told()[-1] == f"{first}: reused, made {first.manifest.created}"


@pytest.mark.parametrize("name", ["part-2.bin", "deep/label.txt", "manifest.json"])
def test_a_damaged_artifact_is_not_reused_but_made_again(leaves, diary, name):
    first = brew(leaves)
    good = files(first)
    raw = bytearray((first / name).read_bytes())
    raw[len(raw) // 2] ^= 1
    (first / name).write_bytes(raw)
    second = brew(leaves)
    assert second != first and second.problems() == [] and files(second) == good
    assert diary().count("starts") == 2
    assert brew(leaves) == second and Artifact.open("brew/leaves") == second


@pytest.mark.parametrize("change", [lambda folder: (folder / "extra").touch(), lambda folder: (folder / "part-0.bin").unlink()])
def test_an_artifact_with_an_extra_or_a_missing_file_is_not_reused(leaves, change):
    first = brew(leaves)
    change(first.path)
    assert brew(leaves) != first


def test_a_damaged_input_is_found_by_the_next_stage_that_reads_it(leaves, diary):
    tea = brew(leaves)
    raw = bytearray((tea / "part-1.bin").read_bytes())
    raw[-1] ^= 1
    (tea / "part-1.bin").write_bytes(raw)
    with pytest.raises(UserError, match=f"{tea} is damaged: part-1.bin doesn't fit its checksum; make it again"):
        blend(tea)
    assert "blends" not in diary()


def test_a_nested_file_may_be_called_as_the_manifest_is(leaves, diary):
    @stage("box", revision=1)
    def pack(out: Draft, source: Source, settings: Settings = Settings()) -> Facts:
        """Pack."""
        note("packs")
        (out / "inner/manifest.json").write_text("{}")
        return Facts()

    box = pack(leaves)
    assert box.problems() == [] and [file.path for file in box.manifest.files] == ["inner/manifest.json"]
    assert pack(leaves) == box and diary() == ["packs"]


def test_versions_of_a_name_sort_by_when_they_were_made(leaves):
    made = [brew(leaves, Brew(seed=seed, parts=1)) for seed in (0, 1)]
    assert list_artifacts() == made and Artifact.open("brew/leaves") == made[1]


def brewed_in_time(source, **environment):
    """The artifact that another process brews, unless it hangs."""
    process = child(source, **environment)
    try:
        return Artifact.open(process.communicate(timeout=60)[0].strip())
    finally:
        process.kill()
        process.communicate()


def test_what_a_person_put_beside_the_versions_does_not_hold_up_the_next(leaves, root):
    (root / "brew" / "leaves").mkdir(parents=True)
    (root / "brew" / "leaves" / "notes.txt").write_text("good tea")
    (root / "brew" / "leaves" / "zzz").mkdir()
    artifact = brewed_in_time(leaves)
    assert Artifact.open("brew/leaves") == artifact
    assert (root / "brew" / "leaves" / "notes.txt").read_text() == "good tea"


def test_a_version_from_a_clock_that_was_ahead_does_not_hold_up_the_next_which_is_the_newest(leaves, root):
    first = brew(leaves, Brew(parts=1))
    ahead = root / "brew" / "leaves" / f"20990101T000000Z-{first.manifest.fingerprint[:8]}"
    first.path.rename(ahead)
    manifest = first.manifest.model_copy(update={"version": ahead.name})
    (ahead / "manifest.json").write_bytes(manifest.sealed())
    artifact = brewed_in_time(leaves, STRENGTH="2")
    assert Artifact.open("brew/leaves") == artifact
    assert artifact.manifest.version > ahead.name


# 3. An interrupted call


@pytest.mark.parametrize("where", ["start", "half of part 0", "part 0", "half of part 2", "half of the label"])
def test_killed_at_any_moment_it_leaves_nothing_visible_and_the_rerun_gives_the_same_bytes(leaves, undisturbed, diary, where):
    killed_at(leaves, where)
    assert list_artifacts() == []
    artifact = brew(leaves)
    assert files(artifact) == undisturbed and artifact.problems() == []
    before, after = {
        **{"start": (0, 0), "half of part 0": (1, 0), "part 0": (1, 1)},
        **{"half of part 2": (3, 2), "half of the label": (4, 4)},
    }[where]  # parts that the killed process began, and that it finished
    begun, again = [f"part {number}" for number in range(before)], [f"part {number}" for number in range(after, 4)]
    assert diary() == ["starts", *begun, "starts", *again]


def test_a_process_killed_again_and_again_ends_with_the_same_bytes(leaves, undisturbed, diary, root):
    for where in MOMENTS:
        killed_at(leaves, where)
        assert list(scan()) == []
    artifact = brew(leaves)
    assert files(artifact) == undisturbed
    assert "".join(sorted(line[-1] for line in diary() if line != "starts")) == "001223"  # the two half ones were begun twice
    assert [path for path in (root / ".drafts").iterdir() if path.is_dir()] == []  # the draft went into the artifact


def test_a_process_killed_while_it_publishes_leaves_nothing_or_all(leaves, undisturbed, root):
    for _ in range(3):
        process = child(leaves)
        while process.poll() is None and not list((root / ".drafts").glob("*/files/manifest.json")):
            pass  # the manifest is there for as long as it takes to reach the disk
        process.send_signal(signal.SIGKILL)
        process.communicate()
        for artifact in list_artifacts():
            assert files(artifact) == undisturbed and artifact.problems() == []
            shutil.rmtree(artifact.path)  # it was published: try again
    artifact = brew(leaves)
    assert files(artifact) == undisturbed and artifact.problems() == []


def test_an_error_keeps_the_draft_and_the_same_call_goes_on(leaves, undisturbed, diary, told, monkeypatch):
    def stumble(name):
        if name == "part 1":
            raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setitem(globals(), "moment", stumble)
        with pytest.raises(ZeroDivisionError):
            brew(leaves)
    assert "brew: starts" in told()
    assert list_artifacts() == []
    assert files(brew(leaves)) == undisturbed
    assert any(line.startswith("brew: goes on in ") for line in told())
    assert [line for line in diary() if line != "starts"] == ["part 0", "part 1", "part 2", "part 3"]


def test_what_was_decided_is_not_decided_anew(leaves, monkeypatch):
    killed_at(leaves, "decided")
    monkeypatch.setenv("LEAF", "black")
    artifact = brew(leaves)
    assert artifact.manifest.decisions == {"leaf": "green"} and (artifact / "deep/label.txt").read_text().startswith("green ")
    assert brew(leaves, Brew(seed=1), name="other").manifest.decisions == {"leaf": "black"}


def test_what_was_begun_with_other_versions_is_begun_anew_and_said(leaves, diary, told, monkeypatch):
    killed_at(leaves, "part 3")
    monkeypatch.setenv("LEAF", "black")
    ours = environment.package_version
    monkeypatch.setattr(environment, "package_version", lambda name: "99.1" if name == "numpy" else ours(name))
    artifact = brew(leaves)
    assert artifact.manifest.decisions == {"leaf": "black"}
    assert diary()[-5:] == ["starts", "part 0", "part 1", "part 2", "part 3"]
    words = rf"\S+ was begun with numpy {ours('numpy')}, now 99\.1; it starts anew: results of both don't belong into one artifact"
    assert any(re.fullmatch(words, line) for line in told()) and "brew: starts" in told()
    monkeypatch.setattr(environment, "package_version", ours)
    assert brew(leaves) == artifact  # what is published is reused by whatever version


@pytest.mark.parametrize("damage", ["flipped", "lost"])
def test_what_was_begun_with_nobody_knows_which_versions_is_begun_anew(leaves, diary, root, told, damage):
    killed_at(leaves, "part 3")
    (path,) = (root / ".drafts").glob("*/work/computed_by.json")
    if damage == "lost":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes().replace(b"numpy", b"nunpy"))
    brew(leaves)
    assert diary()[-4:] == ["part 0", "part 1", "part 2", "part 3"]
    assert any("was begun with versions that aren't recorded; it starts anew" in line for line in told())


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "another", "lost"])
def test_parts_that_were_made_by_a_decision_that_is_lost_are_made_again(leaves, diary, root, monkeypatch, told, damage):
    killed_at(leaves, "part 3")
    (path,) = (root / ".drafts").glob("*/work/decisions.json")
    raw = path.read_bytes()
    damages = {"flipped": raw.replace(b"green", b"grean"), "cut": raw[:-9], "empty": b"", "another": b'{"leaf": "black"}'}
    if damage == "lost":
        path.unlink()
    else:
        path.write_bytes(damages[damage])
    monkeypatch.setenv("LEAF", "white")
    artifact = brew(leaves)
    assert artifact.manifest.decisions == {"leaf": "white"} and (artifact / "deep/label.txt").read_text().startswith("white ")
    assert diary()[-5:] == ["starts", "part 0", "part 1", "part 2", "part 3"]
    words = f"{path} is damaged (its checksum doesn't fit); what was decided there is decided anew"
    assert (words in told()) == (damage != "lost")


def test_a_part_that_was_damaged_in_the_draft_is_made_again(leaves, undisturbed, diary, root):
    killed_at(leaves, "part 3")
    for number, place in ((0, 0), (1, 100_000), (3, PART_BYTES - 1)):
        (part,) = (root / ".drafts").glob(f"*/files/part-{number}.bin")
        raw = bytearray(part.read_bytes())
        raw[place] ^= 1
        part.write_bytes(raw)
    assert files(brew(leaves)) == undisturbed
    assert diary()[-4:] == ["starts", "part 0", "part 1", "part 3"]


def test_a_part_that_was_cut_or_lost_in_the_draft_is_made_again(leaves, undisturbed, diary, root):
    killed_at(leaves, "part 3")
    (folder,) = (root / ".drafts").glob("*/files")
    (folder / "part-0.bin").write_bytes((folder / "part-0.bin").read_bytes()[:1000])
    (folder / "part-2.bin").unlink()
    (receipt,) = (root / ".drafts").glob("*/work/receipts/part-3.bin.json")
    receipt.unlink()
    assert files(brew(leaves)) == undisturbed
    assert diary()[-4:] == ["starts", "part 0", "part 2", "part 3"]


def test_a_call_with_other_settings_does_not_touch_the_draft(leaves, undisturbed, diary):
    killed_at(leaves, "part 3")
    brew(leaves, Brew(parts=1), name="small")
    assert files(brew(leaves)) == undisturbed
    assert diary().count("part 1") == 1


def test_the_draft_of_a_changed_stage_is_not_used(leaves, diary):
    killed_at(leaves, "part 3")

    @stage("brew", revision=2)
    def renewed(out: Draft, source: Source, settings: Brew = Brew()) -> Facts:
        """Brew."""
        assert list(out.files.iterdir()) == [] and out.decisions == {}
        return Facts()

    renewed.body.__name__ = renewed.__name__ = "brew"
    assert renewed(leaves).manifest.revision == 2


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("std::bad_alloc"), RuntimeError("can't start new thread")])
def test_too_little_memory_is_one_sentence(leaves, error):
    @stage("brew", revision=1)
    def large(out: Draft, source: Source, settings: Settings = Settings()) -> Facts:
        """Ask for more than there is."""
        raise error

    words = rf"there is not enough memory \({str(error) or 'MemoryError'}\); give it more, .* and make the same call again"
    with pytest.raises(UserError, match=words):
        large(leaves)


def test_a_source_that_changes_while_it_is_read_is_not_published_as_what_it_was(leaves):
    @stage("brew", revision=1)
    def slow(out: Draft, source: Source, settings: Settings = Settings()) -> Facts:
        """Read a source to which somebody writes."""
        (out / "copy.txt").write_bytes(source.path.read_bytes())
        with leaves.open("a") as file:
            file.write("mint\n")
        return Facts()

    with pytest.raises(UserError, match=f"{leaves} changed while it was read; make the same call again when nobody writes to it"):
        slow(leaves)
    assert list_artifacts() == []


# The draft


@pytest.fixture
def draft(tmp_path):
    return Draft(tmp_path / "draft")


def write(text, **facts):
    def to(path):
        path.write_text(text)
        return facts or None

    return to


def refuse(path):
    raise AssertionError("this was finished")


def test_a_finished_part_is_not_written_again_and_gives_what_was_recorded(draft):
    assert draft.finished("a.txt") is None
    assert draft.part("a.txt", write("apple", rows=3)) == {"rows": 3} == draft.part("a.txt", refuse) == draft.finished("a.txt")
    again = Draft(draft.folder)
    assert again.part("a.txt", refuse) == {"rows": 3} and (again / "a.txt").read_text() == "apple"


def test_a_part_may_record_nothing_and_lie_in_a_folder(draft):
    assert draft.part("deep/er/a.txt", write("apple")) == {} == draft.part("deep/er/a.txt", refuse)
    assert (draft.files / "deep" / "er" / "a.txt").read_text() == "apple"


def test_an_unfinished_file_is_cleared_away(draft):
    with pytest.raises(ZeroDivisionError):
        draft.part("a.txt", lambda path: path.write_text("app") and 1 / 0)
    (left,) = draft.files.iterdir()
    assert left.match("a.txt.*.unfinished")
    assert list(Draft(draft.folder).clear().files.iterdir()) == []


def test_a_receipt_damaged_anywhere_never_passes_for_another(draft):
    draft.part("a.txt", write("apple", rows=35, label="x"))
    (receipt,) = draft.work.rglob("a.txt.json")
    raw = receipt.read_bytes()
    for place in range(len(raw)):
        receipt.write_bytes(raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :])
        assert Draft(draft.folder).finished("a.txt") in (None, {"rows": 35, "label": "x"})


@pytest.mark.parametrize("left", [None, "peel", ""])
def test_a_part_with_a_file_beside_it_is_finished_while_that_is_as_it_was(draft, left):
    path = draft.work / "seeds.txt"

    def both(part, text="apple"):
        path.write_text("pips")
        return write(text, rows=3)(part)

    assert draft.finished("a.txt", path) is None
    assert draft.part("a.txt", both, path) == {"rows": 3} == draft.part("a.txt", refuse, path) == draft.finished("a.txt", path)
    path.unlink() if left is None else path.write_text(left)
    assert draft.finished("a.txt", path) is None and draft.finished("a.txt") == {"rows": 3}
    assert draft.part("a.txt", both, path) == {"rows": 3} and path.read_text() == "pips"


def test_what_is_kept_beside_an_artifact_is_known_by_its_checksum(draft):
    path = draft.work / "vectors.npy"
    assert not is_kept(path)
    path.write_bytes(b"12345")
    assert not is_kept(path)  # nobody has said that it is finished
    keep(path)
    assert is_kept(path)
    (record,) = draft.work.glob("vectors.npy.*")
    for found, raw in ((path, b"12345"), (record, record.read_bytes())):
        for place in range(len(raw)):
            found.write_bytes(raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :])
            assert not is_kept(path)
        found.write_bytes(raw[:-1])
        assert not is_kept(path)
        found.write_bytes(raw)
        assert is_kept(path)


def test_a_decision_is_made_once_and_outlives_the_process(draft):
    assert draft.decide("precision", lambda: "float32") == "float32" == draft.decide("precision", lambda: refuse(None))
    assert draft.decide("batch", lambda: {"rows": [1, 2]}) == {"rows": [1, 2]}
    assert Draft(draft.folder).decisions == {"precision": "float32", "batch": {"rows": [1, 2]}}


def test_a_decision_for_nothing_is_one_too(draft):
    assert draft.decide("limit", lambda: None) is None
    assert draft.decide("limit", lambda: refuse(None)) is None


def test_json_is_replaced_whole(draft):
    path = draft.work / "deep" / "state.json"
    write_json(path, {"step": 1, "é": None})
    write_json(path, {"step": 2})
    assert json.loads(path.read_text()) == {"step": 2} and [one.name for one in path.parent.iterdir()] == ["state.json"]
    with pytest.raises(TypeError):
        write_json(path, {"step": object()})
    assert json.loads(path.read_text()) == {"step": 2}
    sync(path)
    sync(path.parent)


# 4. Two callers


def test_eight_processes_making_the_same_call_end_with_one_artifact(leaves, diary, root):
    processes = [child(leaves) for _ in range(8)]
    answers = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0] * 8
    assert len({stdout for stdout, _ in answers}) == 1
    assert [str(artifact) for artifact in list_artifacts()] == [answers[0][0].strip()]
    assert diary().count("starts") == 1 and list_artifacts()[0].problems() == []
    assert [path.name for path in (root / ".drafts").iterdir()] == ["changes.lock"]  # those of the call are gone


def test_threads_making_the_same_call_end_with_one_artifact(leaves, diary):
    made = []
    threads = [threading.Thread(target=lambda: made.append(brew(leaves))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 4 and len(set(made)) == 1 and diary().count("starts") == 1


def test_the_second_caller_says_that_it_waits_and_goes_on_when_the_first_is_killed(leaves, undisturbed, diary):
    first = child(leaves, "part 3")
    assert first.stdout.readline().strip() == "part 3"
    second = child(leaves, LOUD="1")
    assert second.stderr.readline().strip() == "brew: another process is making this; waiting for it"
    first.send_signal(signal.SIGKILL)
    first.communicate()
    stdout, stderr = second.communicate()
    assert second.returncode == 0 and "brew: goes on in" in stderr
    assert files(Artifact.open(stdout.strip())) == undisturbed
    assert diary().count("part 3") == 1


# 5. What can be seen is complete


@pytest.mark.parametrize("where", ["half of part 2", "end"])
def test_while_a_stage_runs_nothing_of_it_can_be_seen(leaves, root, capsys, where):
    from embedkit.cli import main

    process = child(leaves, where)
    assert process.stdout.readline().strip() == where
    try:
        assert list_artifacts() == [] and list(scan()) == []
        with pytest.raises(UserError, match="'brew/leaves' is not known; there is none"):
            Artifact.open("brew/leaves")
        assert main(["artifacts", "list"]) == 0
        assert capsys.readouterr().out == f"no artifacts in {root}\n"
        assert [path.name for path in root.iterdir()] == [".drafts"]
    finally:
        process.kill()
        process.communicate()


def test_whoever_looks_while_artifacts_are_published_sees_whole_ones(leaves):
    processes = [child(leaves, STRENGTH=str(number)) for number in range(4)]
    seen = set()
    while any(process.poll() is None for process in processes):
        for artifact in list_artifacts():
            assert artifact.problems() == []
            seen.add(str(artifact))
    for process in processes:
        assert process.communicate()[1] == "" and process.returncode == 0
    assert seen <= set(map(str, list_artifacts())) and len(list_artifacts()) == 4


# 6. Seeds, and silence


def test_the_same_seed_draws_the_same_another_seed_another(leaves, tmp_path):
    random.seed(99)
    first = (brew(leaves) / "deep/label.txt").read_text()
    random.seed(1)
    np.random.seed(1)
    assert (brew(leaves, root=tmp_path / "again") / "deep/label.txt").read_text() == first
    assert (brew(leaves, Brew(seed=1), name="other") / "deep/label.txt").read_text() != first
    drawn = first.split()[2:]
    random.seed(0)
    np.random.seed(0)
    assert drawn == [str(random.random()), str(np.random.random())]


@pytest.mark.parametrize("stumbles", [False, True])
def test_the_caller_keeps_the_random_state_it_had(leaves, stumbles, monkeypatch):
    if stumbles:
        monkeypatch.setitem(globals(), "moment", lambda name: 1 / 0)
    random.seed(7)
    np.random.seed(7)
    expected = random.random(), random.random(), np.random.random(), np.random.random()
    random.seed(7)
    np.random.seed(7)
    drawn = [random.random(), np.random.random()]
    try:
        brew(leaves)
    except ZeroDivisionError:
        assert stumbles
    drawn += [random.random(), np.random.random()]
    assert (drawn[0], drawn[2], drawn[1], drawn[3]) == expected


def test_a_large_seed_is_a_seed(leaves):
    assert brew(leaves, Brew(seed=2**40)).manifest.settings["seed"] == 2**40


def test_a_stage_without_a_seed_setting_is_seeded_with_zero(leaves):
    @stage("cup", revision=1)
    def draw(out: Draft, source: Source, settings: Settings = Settings()) -> Facts:
        """Draw."""
        return Facts(details={"drawn": random.random()})

    random.seed(0)
    assert draw(leaves).manifest.details == {"drawn": random.random()}


def test_a_bare_call_prints_nothing_without_a_terminal(leaves):
    process = child(leaves)
    stdout, stderr = process.communicate()
    assert stderr == "" and re.fullmatch(r"brew/leaves@\S+\n", stdout)  # which the child prints itself


def test_a_log_says_what_was_published(leaves, told):
    artifact = brew(leaves)
    lines = [line for line in told() if line.startswith(str(artifact))]
    assert re.fullmatch(re.escape(f"{artifact}: published, 4 rows in ") + r"\d+\.\d s", lines[-1])
    assert told()[0] == "brew: starts"


# When the disk refuses


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 700 kB, and a function that makes it larger."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=700k", "tmpfs", place], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"can't mount a small disk here: {done.stderr.strip()}")
    yield place, lambda: subprocess.run(["mount", "-o", "remount,size=20m", place], check=True)
    subprocess.run(["umount", "-l", place], check=True)  # -l: a failed writer may still hold its file


def test_a_full_disk_is_answered_in_one_sentence_and_the_same_call_goes_on(leaves, undisturbed, diary, small_disk):
    place, enlarge = small_disk
    with pytest.raises(UserError) as caught:
        brew(leaves, root=place / "artifacts")
    assert re.fullmatch(
        rf"there is no space left on the disk \({place}/artifacts.*\); mend that and make the same call again: it goes on where "
        "it stopped",
        str(caught.value),
    )
    assert list_artifacts(place / "artifacts") == []
    done = diary()
    assert done[:4] == ["starts", "part 0", "part 1", "part 2"]
    enlarge()
    assert files(brew(leaves, root=place / "artifacts")) == undisturbed
    kept = 4 - len(diary()[len(done) + 1 :])
    assert kept >= 3 and diary()[len(done) :] == ["starts", *(f"part {number}" for number in range(kept, 4))]


def test_a_full_disk_is_recognised_where_a_library_in_c_writes(leaves, small_disk):
    import pyarrow as pa
    import pyarrow.parquet as pq

    @stage("table", revision=1)
    def tabulate(out: Draft, source: Source, settings: Settings = Settings()) -> Facts:
        """Write a table larger than the disk."""
        rows = pa.table({"x": np.random.default_rng(0).random(200_000)})
        out.part("rows.parquet", lambda path: pq.write_table(rows, path))
        return Facts()

    place, enlarge = small_disk
    with pytest.raises(UserError, match="there is no space left on the disk"):
        tabulate(leaves, root=place / "artifacts")
    enlarge()
    assert pq.read_table(tabulate(leaves, root=place / "artifacts") / "rows.parquet").num_rows == 200_000


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "there is no space left on the disk"),
        (errno.EDQUOT, "the disk quota is used up"),
        (errno.EACCES, "there is no permission"),
        (errno.EPERM, "there is no permission"),
        (errno.EROFS, "the disk can't be written to"),
    ],
)
def test_what_the_system_refuses_is_said_with_its_place_and_what_to_do(leaves, number, words):
    @stage("cup", revision=1)
    def refused(out: Draft, source: Source, settings: Settings = Settings()) -> Facts:
        """Be refused."""
        raise OSError(number, os.strerror(number), "/some/where")

    with pytest.raises(UserError, match=rf"^{words}.*\(/some/where\); mend that and make the same call again: it goes on where"):
        refused(leaves)


def test_a_full_disk_is_recognised_by_its_words_where_a_library_loses_the_number(leaves):
    @stage("index", revision=1)
    def write_index(out: Draft, source: Source, settings: Settings = Settings()) -> Facts:
        """Fail as faiss 1.15 does."""
        raise RuntimeError("Error in void faiss::write_index(): write error in x.faiss: 512 != 800 (No space left on device)")

    with pytest.raises(UserError, match=f"there is no space left on the disk .{default_root()}.; mend that"):
        write_index(leaves)


def test_another_error_passes_as_it_is(leaves):
    @stage("cup", revision=1)
    def broken(out: Draft, source: Source, settings: Settings = Settings()) -> Facts:
        """Look for what isn't there."""
        return Facts(rows=len((out / "nothing.txt").read_text()))

    with pytest.raises(FileNotFoundError):
        broken(leaves)


@pytest.fixture
def street():
    """A folder that everybody may enter, unlike those of pytest, with a source and an open diary."""
    folder = Path(tempfile.mkdtemp(prefix="embedkit-street-"))
    folder.chmod(0o755)
    (folder / "leaves.txt").write_text("camellia\nsinensis\n")
    (folder / "diary.txt").touch()
    (folder / "diary.txt").chmod(0o666)
    yield folder
    subprocess.run(["chmod", "-R", "u+rwX", folder], check=True)
    shutil.rmtree(folder)


def as_nobody(street, **environment):
    """Brew as a user who may write only what everybody may write; the exit code, stdout and the error's sentence."""
    given = {"AS_NOBODY": "1", "DIARY": str(street / "diary.txt"), "EMBEDKIT_ARTIFACTS": str(street / "artifacts")}
    process = child(street / "leaves.txt", **given | environment)
    stdout, stderr = process.communicate()
    return process.returncode, stdout, stderr


def test_a_root_that_may_not_be_written_is_answered_in_one_sentence(street):
    (street / "artifacts").mkdir(mode=0o555)
    (street / "artifacts").chmod(0o555)
    code, stdout, stderr = as_nobody(street)
    assert (code, stdout) == (1, "")
    words = rf"there is no permission to read or write \({street}/artifacts/.drafts\); mend that and make the same call again: .*\n"
    assert re.fullmatch(words, stderr)
    (street / "artifacts").chmod(0o777)
    code, stdout, stderr = as_nobody(street)
    assert (code, stderr) == (0, "") and stdout.startswith("brew/leaves@")


def test_a_draft_of_somebody_else_is_answered_in_one_sentence_and_stays(street, monkeypatch):
    if os.getuid() != 0:
        pytest.skip("needs two users: run as root")
    monkeypatch.setenv("EMBEDKIT_ARTIFACTS", str(street / "artifacts"))
    monkeypatch.setenv("DIARY", str(street / "diary.txt"))
    killed_at(street / "leaves.txt", "part 3")
    code, stdout, stderr = as_nobody(street)
    assert (code, stdout) == (1, "") and stderr.startswith("there is no permission") and stderr.count("\n") == 1
    brew(street / "leaves.txt")
    assert (street / "diary.txt").read_text().split("\n").count("part 3") == 1


def test_what_was_published_is_reused_from_a_root_that_may_only_be_read(street, monkeypatch):
    if os.getuid() != 0:
        pytest.skip("needs two users: run as root")
    monkeypatch.setenv("DIARY", str(street / "diary.txt"))
    artifact = brew(street / "leaves.txt", root=street / "artifacts")
    assert as_nobody(street) == (0, f"{artifact}\n", "")


def test_a_root_that_is_a_file_is_answered_in_one_sentence(leaves):
    with pytest.raises(UserError) as caught:
        brew(leaves, root=leaves)
    assert str(leaves) in str(caught.value) and "\n" not in str(caught.value)


if __name__ == "__main__":
    if os.environ.get("LOUD"):
        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    if os.environ.get("AS_NOBODY") and os.getuid() == 0:  # everything was imported: the interpreter may be closed to nobody
        from embedkit.environment import environment

        environment()
        np.random.get_state()  # numpy loads it at its first use
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    try:
        print(brew(sys.argv[1], Brew(strength=float(os.environ.get("STRENGTH", 1)))), flush=True)
    except UserError as refusal:
        sys.exit(str(refusal))


def test_help_of_a_stage_shows_its_parameters_and_every_setting():
    text = pydoc.render_doc(embedkit.embed, renderer=pydoc.plaintext)
    assert re.search(r"^embed\(dataset: .*encoder: .*settings: .*previous: ", text, re.MULTILINE)
    assert "Turn every row of a dataset into a vector." in text and "previous: vectors of an earlier state" in text
    assert all(f"        {name}: " in text for name in embedkit.Embed.model_fields)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: embedkit.embed("a", "b", limit=10), r"limit is one of the settings of embed; give embed\(\.\.\., Embed\(limit="),
        (lambda: embedkit.embed("a", "b", nam="x"), "embed: the option 'nam' is not known; did you mean 'name'"),
        (lambda: embedkit.embed("a", "b", embedkit.TrainHead()), r"takes Embed\(\.\.\.\) as its settings, not TrainHead"),
    ],
)
def test_a_call_with_what_it_does_not_take_is_one_sentence(call, words):
    with pytest.raises(UserError, match=words):
        call()
