"""`embedkit artifacts`: what a person reads in 80 columns, what a program reads as JSON, and what is removed."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from embedkit.artifacts import Artifact, File, Input, Manifest, Metric, list_artifacts, sha256
from embedkit.cli import main
from embedkit.tables import size

TWO_DAYS = 2 * 24 * 3600


def plant(root, reference, files=None, inputs=None, **more):
    """An artifact `kind/name@second` with a manifest that says all a manifest can say."""
    kind, name, second = re.fullmatch(r"([^/]+)/([^@]+)@(\d+)", reference).groups()
    fingerprint = hashlib.sha256(reference.encode()).hexdigest()
    version = f"20260801T1200{int(second):02}Z-{fingerprint[:8]}"
    folder, listed = Path(root) / kind / name / version, []
    folder.mkdir(parents=True)
    for path, content in (files or {"a.txt": "apple"}).items():
        (folder / path).write_text(content)
        listed.append(File(path=path, bytes=len(content.encode()), sha256=sha256(folder / path)))
    given = [Input(role=role, ref=str(one), fingerprint=one.manifest.fingerprint) for role, one in (inputs or {}).items()]
    said = {"kind": kind, "name": name, "version": version, "fingerprint": fingerprint, "stage": "plant", "revision": 1}
    said |= {"settings": {}, "files": listed, "inputs": given, "created": "2026-08-01T12:00:00+00:00"}
    manifest = Manifest(**said | more)
    (folder / "manifest.json").write_bytes(manifest.sealed())
    return Artifact.at(folder)


@pytest.fixture
def artifacts(capsys):
    """`embedkit artifacts ...` as exit code, stdout, stderr; whatever it prints fits 80 columns, unless it is JSON or says why."""

    def run(*words, wide=False):
        code = main(["artifacts", *map(str, words)])
        out, err = capsys.readouterr()
        assert wide or "--json" in words or all(len(line) <= 80 for line in out.split("\n")), out
        return code, out, err

    return run


@pytest.fixture
def chain(root):
    """A dataset, an encoder, vectors and a classifier, each made from those before."""
    texts = plant(root, "texts/reviews@1", {"rows.txt": "x" * 1500}, rows=120, source={"text": "reviews.csv", "sha256": "0" * 64})
    encoder = plant(root, "encoder/minilm@2", {"model.txt": "x" * 22_700_000}, details={"modality": "texts", "layer": [1, 2]})
    vectors = plant(root, "vectors/reviews-minilm@3", inputs={"dataset": texts, "encoder": encoder}, rows=12_000_000)
    head = plant(
        **{"root": root, "reference": "classifier/reviews-minilm@4", "inputs": {"vectors": vectors}, "rows": 24},
        **{"settings": {"seed": 3, "training": {"learning_rate": 0.1, "epochs": 9}}, "decisions": {"precision": "float32"}},
        **{"metrics": {"accuracy": Metric(value=0.875, n=24, standard_error=0.0675)}, "verdict": "better than guessing"},
        **{"notes": ["no validation rows"], "seconds": 12.34, "peak_memory_bytes": 1_234_000_000, "details": {"long": "é" * 300}},
    )
    return texts, encoder, vectors, head


def rows_of(out):
    return [line.split() for line in out.rstrip("\n").split("\n")]


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (22_700_000, "22.7 MB"), (1.5e9, "1.5 GB"), (2e12, "2.0 TB")],
)
def test_a_size_is_written_for_people(count, words):
    assert size(count) == words


# list


def test_list_shows_every_artifact_with_its_version_rows_and_size(artifacts, chain):
    code, out, err = artifacts("list")
    texts, encoder, vectors, head = chain
    assert (code, err) == (0, "")
    assert rows_of(out) == [
        ["artifact", "version", "rows", "size"],
        ["classifier/reviews-minilm", head.manifest.version, "24", "5", "B"],
        ["encoder/minilm", encoder.manifest.version, "22.7", "MB"],
        ["texts/reviews", texts.manifest.version, "120", "1.5", "kB"],
        ["vectors/reviews-minilm", vectors.manifest.version, "12,000,000", "5", "B"],
    ]


def test_list_shows_the_newest_version_of_a_name_last(artifacts, root):
    made = [plant(root, f"texts/reviews@{second}") for second in (7, 30, 4)]
    versions = [line[1] for line in rows_of(artifacts("list")[1])[1:]]
    assert versions == sorted(one.manifest.version for one in made) and versions[-1] == made[1].manifest.version


def test_a_long_name_is_folded_not_cut(artifacts, root):
    name = "".join(f"name{number:03}-" for number in range(15))
    artifact = plant(root, f"texts/{name}@1", rows=10**12)
    out = artifacts("list")[1]
    assert artifact.manifest.version in out and "1,000,000,000,000" in out
    assert "".join(line.split()[0] for line in out.split("\n")[1:-1]) == f"texts/{name}"


def test_list_can_be_kept_to_one_kind(artifacts, chain):
    assert [line[0] for line in rows_of(artifacts("list", "encoder")[1])[1:]] == ["encoder/minilm"]


def test_list_of_an_unknown_kind_is_answered_with_those_there_are(artifacts, chain, root):
    code, out, err = artifacts("list", "coder")
    assert (code, out) == (1, "") and err == f"embedkit: kind 'coder' is not known; did you mean 'encoder'? (in {root})\n"


def test_an_empty_root_says_so(artifacts, root, tmp_path):
    assert artifacts("list", wide=True) == (0, f"no artifacts in {root}\n", "")
    assert artifacts("list", "--root", tmp_path / "x", wide=True) == (0, f"no artifacts in {tmp_path}/x\n", "")
    assert artifacts("list", "--json") == (0, "[]\n", "")


def test_list_as_json_holds_the_manifests_and_the_references(artifacts, chain):
    code, out, _ = artifacts("list", "--json")
    found = json.loads(out)
    assert code == 0 and [one["ref"] for one in found] == [str(artifact) for artifact in list_artifacts()]
    assert found[0]["metrics"] == {"accuracy": {"value": 0.875, "n": 24, "standard_error": 0.0675}}
    assert [one["kind"] for one in json.loads(artifacts("list", "texts", "--json")[1])] == ["texts"]


def test_list_under_another_root(artifacts, chain, tmp_path):
    plant(tmp_path / "other", "texts/else@1")
    assert [line[0] for line in rows_of(artifacts("list", "--root", tmp_path / "other")[1])[1:]] == ["texts/else"]


# show


def test_show_says_all_that_is_known(artifacts, chain):
    _, _, vectors, head = chain
    code, out, err = artifacts("show", "classifier/reviews-minilm")
    assert (code, err) == (0, "")
    text = " ".join(out.split())
    for line in (
        *(f"artifact {head}", "made 2026-08-01 12:00:00 UTC by plant in 12.3 s, peak 1.2 GB", f"vectors {vectors}", "rows 24"),
        *("verdict better than guessing", "accuracy 0.875 ± 0.068 (n=24)", "note no validation rows", "--seed 3"),
        *("--training.learning-rate 0.1", "--training.epochs 9", "decided precision float32", "files 1 in "),
    ):
        assert f" {line}" in f" {text}", line
    assert out.count("é") == 199 and "..." in out  # a long detail is cut


def test_show_takes_a_version_and_a_prefix(artifacts, root):
    old, new = plant(root, "texts/reviews@1"), plant(root, "texts/reviews@2")
    assert str(old) in artifacts("show", "texts/reviews@20260801T120001")[1]
    assert str(new) in artifacts("show", "texts/reviews")[1]
    code, out, err = artifacts("show", "texts/reviews@2026")
    assert (code, out) == (1, "") and "fits 2 versions" in err and err.count("\n") == 1


def test_show_names_the_source(artifacts, chain):
    assert re.search(r"source +reviews.csv\b", artifacts("show", "texts/reviews")[1])


def test_names_in_brackets_are_shown_as_they_are(artifacts, root):
    plant(root, "classifier/a@1", metrics={"f1 [good]": Metric(value=0.5, n=3)}, details={"[bold]x": 1}, notes=["[red]note[/red]"])
    out = artifacts("show", "classifier/a")[1]
    assert "f1 [good]" in out and "[bold]x" in out and "[red]note[/red]" in out
    plant(root, "classifier/a@2", metrics={"f1 [good]": Metric(value=0.6, n=3)})
    out = artifacts("compare", "classifier/a@20260801T120001", "classifier/a")[1]
    assert "f1 [good]" in out


def test_show_as_json_is_the_manifest(artifacts, chain):
    code, out, _ = artifacts("show", "texts/reviews", "--json")
    assert code == 0 and Manifest.model_validate_json(out) == chain[0].manifest


def test_show_of_what_is_not_there_is_one_sentence(artifacts, chain):
    code, out, err = artifacts("show", "texts/review")
    assert (code, out) == (1, "")
    assert re.fullmatch(r"embedkit: artifact 'texts/review' is not known; did you mean 'texts/reviews'.*\n", err)


def test_show_of_a_damaged_manifest_is_one_sentence(artifacts, chain):
    with (chain[0] / "manifest.json").open("a") as file:
        file.write(" ")
    code, out, err = artifacts("show", "texts/reviews")
    assert (code, out) == (1, "") and re.fullmatch(r"embedkit: .*manifest.json is damaged: .*; make the artifact again.*\n", err)


# lineage


def test_lineage_is_a_tree_with_roles_and_sources(artifacts, chain):
    texts, encoder, vectors, head = chain
    code, out, _ = artifacts("lineage", "classifier/reviews-minilm")
    assert code == 0
    assert out.split("\n") == [
        f"{head}",
        f"└── vectors: {vectors}",
        f"    ├── dataset: {texts}  from reviews.csv",
        f"    └── encoder: {encoder}",
        "",
    ]


def test_lineage_of_what_came_from_outside_is_one_line(artifacts, chain):
    assert artifacts("lineage", "texts/reviews")[1] == f"{chain[0]}  from reviews.csv\n"


def test_lineage_with_an_input_that_is_gone_is_one_sentence(artifacts, chain):
    (chain[1] / "manifest.json").unlink()
    code, out, err = artifacts("lineage", "classifier/reviews-minilm")
    assert (code, out) == (1, "") and str(chain[1]) in err and err.count("\n") == 1


def edit(artifact, **changes):
    """Change what a manifest says, and seal it as its maker would."""
    manifest = artifact.manifest.model_copy(update=changes)
    (artifact / "manifest.json").write_bytes(manifest.sealed())
    return Artifact.at(artifact.path)


def given(*artifacts):
    return [Input(role=f"given{n}", ref=str(one), fingerprint=one.manifest.fingerprint) for n, one in enumerate(artifacts)]


def test_lineage_shows_each_once_and_then_where(artifacts, root):
    texts = plant(root, "texts/reviews@1", source={"text": "reviews.csv", "sha256": "0" * 64})
    encoder = plant(root, "encoder/learned@2", inputs={"dataset": texts})
    vectors = plant(root, "vectors/reviews@3", inputs={"encoder": encoder, "dataset": texts, "teacher": encoder})
    assert artifacts("lineage", "vectors/reviews", wide=True)[1].split("\n") == [
        f"{vectors}",
        f"├── encoder: {encoder}",
        f"│   └── dataset: {texts}  from reviews.csv",
        f"├── dataset: {texts}  (shown above)",
        f"└── teacher: {encoder}  (shown above)",
        "",
    ]


def test_lineage_of_a_mesh_shows_no_more_than_there_is(artifacts, root):
    row = [plant(root, f"texts/{name}@0") for name in "ab"]
    for second in range(1, 30):  # two to the thirty ways lead back
        row = [plant(root, f"texts/{name}@{second}", inputs={"a": row[0], "b": row[1]}) for name in "ab"]
    code, out, err = artifacts("lineage", "texts/a", wide=True)
    assert (code, err) == (0, "") and out.count("\ntexts/") == 6
    assert out.count("texts/") == 1 + 2 * (1 + 2 * 28) + out.count("\ntexts/")  # two lines for each that was made from two


def test_lineage_of_a_long_line_is_trees_below_each_other(artifacts, root):
    made = [plant(root, "texts/a@0")]
    for second in range(30):
        made.append(plant(root, f"texts/{second}@1", inputs={"given": made[-1]}))
    code, out, err = artifacts("lineage", "texts/29", wide=True)
    assert (code, err) == (0, "") and out.count("(continued below)") == out.count("\ntexts/") == 3
    assert list(dict.fromkeys(re.findall(r"texts/\S+", out))) == [str(one) for one in reversed(made)]


@pytest.mark.slow
def test_lineage_of_thousands_ends(artifacts, root):
    made = plant(root, "texts/a@0")
    for number in range(1500):
        made = plant(root, f"texts/a{number}@0", inputs={"given": made})
    code, out, err = artifacts("lineage", made, wide=True)
    assert (code, err) == (0, "") and len(set(re.findall(r"texts/\w+@", out))) == 1501
    assert artifacts("verify", wide=True)[:2] == (0, "1501 artifacts are as published\n")
    assert artifacts("prune", wide=True) == (0, "nothing to remove\n", "")


def test_lineage_of_what_was_made_from_itself_ends_and_verify_says_so(artifacts, root):
    first, second = plant(root, "texts/a@1"), plant(root, "texts/b@1")
    first, second = edit(first, inputs=given(second)), edit(second, inputs=given(first))
    third = plant(root, "texts/c@1", inputs={"given": second})
    code, out, err = artifacts("lineage", "texts/c", wide=True)
    assert (code, err) == (0, "") and out.split("\n")[3] == f"        └── given0: {second}  (shown above)"
    code, out, err = artifacts("verify", wide=True)
    words = "it is among what it was made from itself, so a manifest was forged"
    assert code == 1 and out == f"{first}: {words}\n{second}: {words}\n" and "2 of 3 artifacts are damaged" in err
    assert artifacts("verify", third)[0] == 0  # of one, not what it was made from
    assert artifacts("prune") == (0, "nothing to remove\n", "")


# verify


def test_verify_finds_an_input_that_was_put_in_place_of_another(artifacts, chain):
    texts, encoder, vectors, _ = chain
    edit(texts, fingerprint=texts.manifest.fingerprint[:8] + "0" * 56)
    code, out, err = artifacts("verify", wide=True)
    assert code == 1 and out == f"{vectors}: its dataset {texts} is another than it was made from\n"
    assert "1 of 4 artifacts are damaged" in err


@pytest.mark.parametrize("level", ["kind", "name", "version"])
def test_verify_finds_links_and_names_that_no_folder_of_the_root_has(artifacts, root, tmp_path, level):
    artifact = plant(root, "texts/reviews@1")
    place = [artifact.path, *artifact.path.parents][["version", "name", "kind"].index(level)].relative_to(root)
    link = (root / place).with_name({"kind": "vectors", "name": "other", "version": f"20250801T120000Z-{'0' * 8}"}[level])
    link.symlink_to(tmp_path)
    renamed = (root / place).with_name(f"{place.name} (copy)")
    renamed.mkdir()
    code, out, err = artifacts("verify", wide=True)
    assert code == 1 and {*out.split("\n")} == {
        f"{link} is a link, which is not followed; put the folder itself in its place",
        f"{renamed} can't be the folder of a {level}; give it its name back, or move it out of the root",
        "",
    }
    assert err.startswith(f"embedkit: in {root} 2 folders or links are no artifacts; ") and err.count("\n") == 1
    link.unlink()
    renamed.rmdir()
    (root / "README.md").write_text("a page about the root")
    (root / ".cache").mkdir()
    assert artifacts("verify") == (0, "1 artifact is as published\n", "")


def test_list_says_which_links_it_leaves_out(artifacts, chain, root, tmp_path):
    (root / "images").symlink_to(tmp_path)
    code, out, err = artifacts("list")
    assert code == 0 and len(rows_of(out)) == 5
    assert err == f"{root}/images is a link, which is not followed; put the folder itself in its place\n"


def test_verify_says_of_a_root_of_nothing_but_a_link_that_it_is_one(artifacts, root, tmp_path):
    plant(tmp_path / "outside", "texts/a@1")
    root.mkdir()
    (root / "texts").symlink_to(tmp_path / "outside/texts")
    code, out, err = artifacts("verify", wide=True)
    assert code == 1 and out.startswith(f"{root}/texts is a link") and "1 folders or links are no artifacts" in err


def test_verify_of_one_and_of_all_says_that_they_are_as_published(artifacts, chain):
    assert artifacts("verify", "texts/reviews") == (0, "1 artifact is as published\n", "")
    assert artifacts("verify") == (0, "4 artifacts are as published\n", "")


def test_verify_where_there_is_nothing_does_not_sound_as_if_all_were_well(artifacts, chain, tmp_path):
    assert artifacts("verify", "--root", tmp_path / "tpyo", wide=True) == (0, f"no artifacts in {tmp_path}/tpyo\n", "")


@pytest.mark.parametrize("name", ["a.txt", "manifest.json"])
def test_verify_finds_a_flipped_byte_in_any_file(artifacts, root, name):
    good, bad = plant(root, "texts/good@1"), plant(root, "texts/bad@1")
    raw = bytearray((bad / name).read_bytes())
    raw[3] ^= 1
    (bad / name).write_bytes(raw)
    code, out, err = artifacts("verify", wide=True)
    assert code == 1 and err == "embedkit: 1 of 2 artifacts are damaged; make them again with the calls that made them\n"
    assert out == {
        "a.txt": f"{bad}: a.txt doesn't fit its checksum\n",
        "manifest.json": f"{bad.path}/manifest.json is damaged: its text doesn't fit its own checksum; "
        "make the artifact again with the call that made it\n",
    }[name]
    assert artifacts("verify", good)[0] == 0
    assert artifacts("verify", "texts/bad", wide=True)[0] == 1


def test_verify_names_every_problem(artifacts, root):
    artifact = plant(root, "texts/a@1", {"a.txt": "apple", "b.txt": "banana", "c.txt": "cherry"})
    (artifact / "a.txt").unlink()
    (artifact / "b.txt").write_text("bananas")
    (artifact / "d.txt").write_text("date")
    code, out, _ = artifacts("verify", artifact, wide=True)
    assert code == 1 and out == (
        f"{artifact}: a.txt is missing\n{artifact}: b.txt has 7 bytes instead of 6\n{artifact}: d.txt doesn't belong to it\n"
    )


def test_verify_finds_a_version_that_lost_its_manifest(artifacts, chain):
    (chain[0] / "manifest.json").unlink()
    code, out, err = artifacts("verify", wide=True)
    assert code == 1 and str(chain[0].path) in out and "manifest.json" in out and "1 of 4 artifacts" in err


# compare


def test_compare_shows_only_what_differs(artifacts, root):
    texts = plant(root, "texts/a@1")
    common = {"rows": 24, "inputs": {"dataset": texts}, "seconds": 1.0}
    for second, rate in ((1, 0.1), (2, 0.25)):
        settings = {"seed": 3, "training": {"rate": rate, "epochs": 9}}
        plant(root, f"classifier/a@{second}", settings=settings, metrics={"accuracy": Metric(value=rate, n=24)}, **common)
    code, out, _ = artifacts("compare", "classifier/a@20260801T120001", "classifier/a")
    assert code == 0
    lines = [line.split() for line in out.split("\n")[1:-1]]
    assert ["accuracy", "0.1", "(n=24)", "0.25", "(n=24)"] in lines and ["--training.rate", "0.1", "0.25"] in lines
    assert not {"rows", "dataset", "seconds", "content", "--seed", "--training.epochs"} & {line[0] for line in lines}


def test_compare_of_equal_ones_says_so(artifacts, root):
    one, two = plant(root, "texts/a@1"), plant(root, "texts/a@2")
    assert artifacts("compare", one, two, wide=True) == (0, f"{one} and {two} don't differ\n", "")


def test_compare_of_other_files_shows_that_the_contents_differ(artifacts, root):
    one, two = plant(root, "texts/a@1"), plant(root, "texts/a@2", {"a.txt": "pear"})
    assert re.search(rf"content +{one.manifest.content[:16]} +{two.manifest.content[:16]}", artifacts("compare", one, two)[1])


def test_compare_of_two_kinds_is_refused(artifacts, chain):
    code, out, err = artifacts("compare", "texts/reviews", "encoder/minilm")
    assert (code, out) == (1, "")
    assert err == f"embedkit: {chain[0]} and {chain[1]} are of different kinds; compare two of one kind\n"


# prune


def test_prune_lists_what_can_go_and_removes_nothing_by_itself(artifacts, root):
    old, new = plant(root, "texts/a@1", {"a.txt": "x" * 1500}), plant(root, "texts/a@2")
    assert artifacts("prune") == (0, f"would remove {old}\n1.5 kB would be freed; add --yes to remove them\n", "")
    assert list_artifacts() == [old, new]


def test_prune_with_yes_removes(artifacts, root):
    old, new = plant(root, "texts/a@1", {"a.txt": "x" * 1500}), plant(root, "texts/a@2")
    assert artifacts("prune", "--yes") == (0, f"removed {old}\n1.5 kB freed\n", "")
    assert list_artifacts() == [new] and not old.path.exists()
    assert artifacts("prune", "--yes") == (0, "nothing to remove\n", "")


def test_prune_keeps_as_many_versions_as_it_is_told(artifacts, root):
    made = [plant(root, f"texts/a@{second}") for second in range(4)]
    assert artifacts("prune", "--yes", "--keep", 3)[0] == 0
    assert list_artifacts() == made[1:]


def test_prune_never_removes_what_a_kept_artifact_was_made_from(artifacts, chain, root):
    newer = plant(root, "texts/reviews@9")
    plant(root, "encoder/minilm@9")
    assert artifacts("prune", "--yes") == (0, "nothing to remove\n", "")
    assert set(chain[3].ancestors()) == set(chain[:3]) and newer in list_artifacts()


def test_prune_stops_before_a_damaged_manifest_since_what_that_was_made_from_is_not_known(artifacts, chain, root):
    head, newer = chain[3], plant(root, "texts/reviews@9")
    raw = bytearray((head / "manifest.json").read_bytes())
    raw[9] ^= 1
    (head / "manifest.json").write_bytes(raw)
    plant(root, "vectors/reviews-minilm@9")  # the vectors that the damaged classifier was made from are old now
    code, out, err = artifacts("prune", "--yes")
    assert (code, out) == (1, "") and str(head.path) in err and err.count("\n") == 1
    assert all(artifact.path.exists() for artifact in (*chain, newer))


@pytest.mark.parametrize("keep", [0, -1])
def test_prune_of_everything_is_refused(artifacts, chain, keep):
    code, out, err = artifacts("prune", "--yes", "--keep", keep)
    assert (code, out) == (1, "") and f"keep can't be {keep}: one version of each name stays at least" in err
    assert len(list_artifacts()) == 4


STAGE = '''
import os, signal, sys
from embedkit.settings import Settings
from embedkit.sources import Source
from embedkit.stages import Draft, Facts, stage, write_json

@stage("thing", revision=1)
def make(out: Draft, source: Source, settings: Settings = Settings()) -> Facts:
    """Make a thing."""
    out.part("part-0.txt", lambda path: path.write_text("x" * 1500) and {})
    print("made a part", flush=True)
    while sys.argv[2] == "busy":
        write_json(out.work / "state.json", {})
        write_json(out / "deep/state.json", {})
        (out.work / "state.json").unlink()
    if sys.argv[2] == "hold":
        signal.pause()
    return Facts()

print(make(sys.argv[1]))
'''


@pytest.fixture
def stage_process(tmp_path):
    """Starts a process that makes something and holds its draft; killed at the end."""
    (tmp_path / "stage.py").write_text(STAGE)
    (tmp_path / "source.txt").write_text("text\n")
    running = []

    def start(what):
        process = subprocess.Popen([sys.executable, "stage.py", "source.txt", what], stdout=subprocess.PIPE, text=True)
        running.append(process)
        assert process.stdout.readline() == "made a part\n"
        return process

    yield start
    for process in running:
        process.kill()
        process.wait()
        process.stdout.close()


def make_old(folder, seconds):
    moment = time.time() - seconds
    for path in (*folder.rglob("*"), folder):
        os.utime(path, (moment, moment))


def drafts(root):
    return [path for path in (root / ".drafts").iterdir() if path.is_dir()]


def test_prune_removes_an_old_draft_only_when_nobody_holds_it(artifacts, root, stage_process):
    process = stage_process("hold")
    (draft,) = drafts(root)
    make_old(draft, TWO_DAYS)
    assert artifacts("prune", "--yes") == (0, "nothing to remove\n", "")
    assert (draft / "files" / "part-0.txt").exists()
    process.send_signal(signal.SIGKILL)
    process.wait()
    code, out, _ = artifacts("prune", wide=True)
    assert code == 0 and out.startswith(f"would remove the unfinished .drafts/{draft.name}\n") and draft.exists()
    code, out, _ = artifacts("prune", "--yes", wide=True)
    assert code == 0 and re.match(rf"removed the unfinished \.drafts/{draft.name}\n\d\.\d kB freed", out)
    assert not draft.exists() and artifacts("prune") == (0, "nothing to remove\n", "")
    assert sum(path.stat().st_size for path in root.rglob("*") if path.is_file()) == 0  # nothing is left but an empty lock


def test_a_young_draft_stays_since_it_may_be_resumed(artifacts, root, stage_process):
    process = stage_process("hold")
    process.send_signal(signal.SIGKILL)
    process.wait()
    (draft,) = drafts(root)
    make_old(draft, 3600)
    assert artifacts("prune", "--yes") == (0, "nothing to remove\n", "")
    make_old(draft, TWO_DAYS)
    (draft / "work" / "checkpoint").write_text("new")  # one new file is enough
    assert artifacts("prune", "--yes") == (0, "nothing to remove\n", "")
    assert stage_process("go on").stdout.read().startswith("thing/source@")


def test_prune_while_a_stage_is_writing_goes_about_its_work(artifacts, root, stage_process):
    process = stage_process("busy")
    old = plant(root, "texts/a@1")
    plant(root, "texts/a@2")
    for _ in range(25):
        assert artifacts("prune")[:2] == (0, f"would remove {old}\n5 B would be freed; add --yes to remove them\n")
    assert process.poll() is None and len(drafts(root)) == 1


def test_what_an_interrupted_removal_left_is_removed_at_once(artifacts, root):
    grave = root / ".drafts" / "removed-0123456789abcdef"
    grave.mkdir(parents=True)
    (grave / "a.txt").write_text("apple")
    code, out, _ = artifacts("prune", "--yes")
    assert (code, out) == (0, "removed the unfinished .drafts/removed-0123456789abcdef\n5 B freed\n")
    assert not grave.exists()
