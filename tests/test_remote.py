"""Remote roots: a real S3 server on loopback, and real worker processes that share nothing but it."""

import hashlib
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import pytest

from embedkit import Embed, embed, environment, import_encoder, load_texts
from embedkit.artifacts import Artifact, File, Input, Manifest, changing
from embedkit.cli import main
from embedkit.embedding import file_of
from embedkit.remote import Remote
from embedkit.settings import UserError
from embedkit.stages import Draft, draft_name

LINES = "".join(f"the cat sat on mat {number}\n" for number in range(40))
SETTINGS = Embed(rows_per_part=10)


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """A server that speaks S3, its state in memory."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with (tmp_path_factory.mktemp("s3") / "log.txt").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        try:
            urllib.request.urlopen(address).close()
            break
        except OSError:
            time.sleep(0.1)
    yield address
    process.kill()
    process.wait()


@pytest.fixture
def bucket(store, tmp_path, monkeypatch):
    """A bucket of the test's own; gives its name."""
    given = {"ACCESS_KEY_ID": "any", "SECRET_ACCESS_KEY": "any", "ENDPOINT_URL": store, "DEFAULT_REGION": "us-east-1"}
    for name, value in given.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("EMBEDKIT_CACHE", str(tmp_path / "cache"))
    name = f"bucket-{time.time_ns()}"
    urllib.request.urlopen(urllib.request.Request(f"{store}/{name}", method="PUT")).close()
    return name


@pytest.fixture(scope="module")
def made(tiny_bert, tmp_path_factory):
    """The vectors that the plain stage makes of texts and an encoder, in a root with both."""
    place = tmp_path_factory.mktemp("made")
    (place / "lines.txt").write_text(LINES)
    root = place / "root"
    load_texts(place / "lines.txt", root=root)
    import_encoder(tiny_bert, root=root)
    return embed("texts/lines", "encoder/tiny-bert", SETTINGS, root=root)


@pytest.fixture
def lines(made, tmp_path):
    """The same in a root of the test's own."""
    shutil.copytree(made.root, tmp_path / "root")
    return Artifact.open(str(made), tmp_path / "root")


def another_machine(tmp_path, monkeypatch):
    """From here on there are no copies yet."""
    monkeypatch.setenv("EMBEDKIT_CACHE", str(tmp_path / f"cache-{time.time_ns()}"))


def test_an_artifact_goes_to_a_store_and_comes_back_byte_for_byte(lines, bucket, tmp_path, monkeypatch):
    address = f"s3://{bucket}/some/root"
    Remote(address).send_lineage(lines)
    another_machine(tmp_path, monkeypatch)
    remote = Remote(address)
    copy = remote.fetch_lineage("vectors/lines-tiny-bert")
    assert copy.path.is_relative_to(remote.root) and copy.manifest == lines.manifest
    assert (copy / file_of(3)).read_bytes() == (lines / file_of(3)).read_bytes()
    assert [str(one) for one in copy.ancestors()] == [str(one) for one in lines.ancestors()]
    assert copy.check().inputs["dataset"].check().manifest.rows == 40


def test_a_copy_waits_for_who_changes_the_root_and_leaves_no_lock(lines, bucket, tmp_path, monkeypatch):
    Remote(f"s3://{bucket}").send(lines)
    another_machine(tmp_path, monkeypatch)
    remote, copies = Remote(f"s3://{bucket}"), []
    copying = threading.Thread(target=lambda: copies.append(remote.fetch("vectors/lines-tiny-bert")))
    with changing(remote.root):  # as prune does, which may be about to take an empty name away
        copying.start()
        copying.join(2)
        assert copying.is_alive() and not (remote.root / "vectors").exists()
    copying.join()
    assert copies[0].problems() == [] and [path.name for path in (remote.root / ".drafts").iterdir()] == ["changes.lock"]


def test_nothing_is_seen_in_a_store_before_all_of_it_is_there(lines, bucket, monkeypatch):
    remote = Remote(f"s3://{bucket}")
    put = remote._put
    monkeypatch.setattr(remote, "_put", lambda path, place: None if path.name == "manifest.json" else put(path, place))
    remote.send(lines)  # as one that is killed before it wrote the last file
    with pytest.raises(UserError, match=r"artifact 'vectors/lines-tiny-bert' is not known"):
        Remote(f"s3://{bucket}").fetch("vectors/lines-tiny-bert")
    monkeypatch.undo()


def test_a_copy_that_is_damaged_on_its_way_is_refused_and_not_kept(lines, bucket):
    remote = Remote(f"s3://{bucket}")
    remote.send(lines)
    place = f"{bucket}/vectors/lines-tiny-bert/{lines.manifest.version}/{file_of(0)}"
    remote.store.pipe_file(place, b"x" + remote.store.cat_file(place)[1:])
    with pytest.raises(UserError, match=r"is damaged: vectors-00000\.parquet doesn't fit its checksum"):
        remote.fetch("vectors/lines-tiny-bert")
    assert not (remote.root / "vectors").exists()


def test_a_manifest_that_names_files_outside_its_folder_is_refused(lines, bucket, tmp_path):
    remote = Remote(f"s3://{bucket}")
    remote.send(lines)
    outside = lines.manifest.files[0].model_copy(update={"path": "../../../../outside.txt"})
    place = f"{bucket}/vectors/lines-tiny-bert/{lines.manifest.version}/manifest.json"
    remote.store.pipe_file(place, lines.manifest.model_copy(update={"files": [outside]}).sealed())
    with pytest.raises(UserError, match=r"damaged: its files\.0\.path can't be '\.\./.*a path must be relative.*; don't use it"):
        remote.fetch("vectors/lines-tiny-bert")


# What lies in a store may be anyone's; tests/test_attacks_stores.py tries far more


def put(folder, reference, files, inputs=(), listed=()):
    """An artifact in a folder, whole unless told otherwise."""
    kind, name = reference.split("/")
    fingerprint = hashlib.sha256(reference.encode()).hexdigest()
    version = f"20260801T120000Z-{fingerprint[:8]}"
    place = folder / kind / name / version
    place.mkdir(parents=True)
    for path, content in files.items():
        (place / path).write_text(content)
    sums = {path: hashlib.sha256(text.encode()).hexdigest() for path, text in files.items()}
    listed = listed or [File(path=path, bytes=len(text), sha256=sums[path]) for path, text in files.items()]
    made = {"kind": kind, "name": name, "version": version, "fingerprint": fingerprint, "files": listed, "settings": {}}
    refs = [(f"{one.kind}/{one.name}@{one.version}", one.fingerprint) for one in inputs]
    given = [Input(role=f"given{n}", ref=ref, fingerprint=theirs) for n, (ref, theirs) in enumerate(refs)]
    manifest = Manifest(**made | {"stage": "put", "revision": 1, "inputs": given})
    (place / "manifest.json").write_bytes(manifest.sealed())
    return manifest


@pytest.fixture
def shared(tmp_path):
    """A folder that serves as a remote root, and what pulls from it into a root of this machine."""
    (tmp_path / "shared").mkdir()
    return tmp_path / "shared", lambda: Remote(f"file://{tmp_path}/shared", tmp_path / "here")


def visible(remote):
    return [path for path in remote.root.rglob("*") if path.is_file() and path.suffix != ".lock"]


@pytest.mark.parametrize("name", ["a.txt", "manifest.json"])
def test_a_copy_ends_where_the_file_is_larger_than_it_may_be(shared, name):
    folder, here = shared
    manifest = put(folder, "texts/a", {"a.txt": "apple"})
    with (folder / f"texts/a/{manifest.version}" / name).open("r+b") as file:
        file.truncate(2**40)  # a sparse file: no disk holds a copy
    with pytest.raises(UserError, match=rf"/{name} has more than the (5|67,108,864) bytes it may have; it isn't as published"):
        here().fetch("texts/a")
    assert visible(here()) == []


def test_what_does_not_fit_on_the_disk_is_not_begun(shared):
    folder, here = shared
    put(folder, "texts/a", {}, listed=[File(path="a.txt", bytes=2**60, sha256="0" * 64)])
    with pytest.raises(UserError, match=r"^texts/a@\S+ takes 1,152,921,504,606,846,976 bytes, but [\d,]+ are free at "):
        here().fetch("texts/a")
    with pytest.raises(UserError, match="make room or name another root"):
        here().fetch_lineage("texts/a")


def test_a_lineage_in_a_circle_is_refused_before_anything_is_copied(shared):
    folder, here = shared
    later = put(folder, "texts/b", {"b.txt": "banana"})
    first = put(folder, "texts/a", {"a.txt": "apple"}, [later])
    shutil.rmtree(folder / "texts/b")
    put(folder, "texts/b", {"b.txt": "banana"}, [first])
    with pytest.raises(UserError, match="is among what it was made from itself, so a manifest was forged; make it again"):
        here().fetch_lineage("texts/a")
    assert visible(here()) == []


def test_nothing_of_a_lineage_is_seen_whose_input_is_missing_or_another(shared):
    folder, here = shared
    given = put(folder, "texts/b", {"b.txt": "banana"})
    put(folder, "texts/a", {"a.txt": "apple"}, [given.model_copy(update={"fingerprint": given.fingerprint[:8] + "0" * 56})])
    with pytest.raises(UserError, match=r"^texts/a@\S+ was made from texts/b@\S+, but file://.* holds another there; don't use it"):
        here().fetch_lineage("texts/a")
    shutil.rmtree(folder / "texts/b")
    with pytest.raises(UserError, match=r"^texts/a@\S+ was made from texts/b@\S+, but artifact 'texts/b' is not known; "):
        here().fetch_lineage("texts/a")
    assert visible(here()) == []


@pytest.mark.parametrize("part", ["texts", "texts/a", "texts/a/VERSION", "texts/a/VERSION/a.txt", "texts/a/VERSION/manifest.json"])
def test_a_link_in_a_shared_folder_is_not_followed(shared, tmp_path, part):
    folder, here = shared
    path = folder / part.replace("VERSION", put(folder, "texts/a", {"a.txt": "apple"}).version)
    path.rename(tmp_path / "moved")
    path.symlink_to(tmp_path / "moved")
    with pytest.raises(UserError, match=rf"^{path} is a link, which could lead out of the root; put .* in its place"):
        here().fetch("texts/a")
    assert visible(here()) == []


@pytest.mark.parametrize("part", ["texts", "texts/a", "texts/a/VERSION"])
def test_nothing_is_copied_through_a_link_of_this_machine_nor_sent_through_one_there(shared, tmp_path, part):
    folder, here = shared
    manifest = put(folder, "texts/a", {"a.txt": "apple"})
    part, remote = part.replace("VERSION", manifest.version), here()
    (tmp_path / "outside").mkdir()
    (remote.root / part).parent.mkdir(parents=True, exist_ok=True)
    (remote.root / part).symlink_to(tmp_path / "outside")
    with pytest.raises(UserError, match=rf"^{remote.root / part} is a link"):
        remote.fetch("texts/a")
    (remote.root / part).unlink()
    copy = remote.fetch("texts/a")
    shutil.rmtree(folder / "texts")
    (folder / part).parent.mkdir(parents=True, exist_ok=True)
    (folder / part).symlink_to(tmp_path / "outside")
    with pytest.raises(UserError, match=rf"^{folder / part} is a link"):
        remote.send(copy)
    assert list((tmp_path / "outside").iterdir()) == []


def test_a_store_that_holds_another_under_the_same_name_is_not_taken_for_sent(shared):
    folder, here = shared
    put(folder, "texts/a", {"a.txt": "apple"})
    copy = here().fetch("texts/a")
    shutil.rmtree(folder / "texts")
    put(folder, "texts/a", {"a.txt": "grape"})
    with pytest.raises(UserError, match=rf"holds another {copy} than this one; remove the one that isn't meant"):
        here().send(copy)


def test_what_is_damaged_here_is_not_taken_for_sent_though_it_is_there(shared):
    folder, here = shared
    put(folder, "texts/a", {"a.txt": "apple"})
    copy = here().fetch("texts/a")
    (copy / "a.txt").write_text("grape")
    with pytest.raises(UserError, match="is damaged: a.txt doesn't fit its checksum"):
        here().send(copy)


def test_a_lineage_is_sent_and_copied_the_oldest_first(shared, monkeypatch):
    folder, here = shared
    oldest = put(folder, "texts/c", {"c.txt": "cherry"})
    middle = put(folder, "texts/b", {"b.txt": "banana"}, [oldest])
    put(folder, "texts/a", {"a.txt": "apple"}, [oldest, middle])  # by way of its first input the oldest would be met first
    remote, sent = here(), []
    first = remote.fetch_lineage("texts/a")
    made = {path.stat().st_ctime_ns: path.parent.name for path in remote.root.glob("texts/*/*")}
    assert [made[time] for time in sorted(made)] == ["c", "b", "a"]
    monkeypatch.setattr(remote, "send", lambda artifact: sent.append(artifact.manifest.name))
    remote.send_lineage(first)
    assert sent == ["c", "b", "a"]


def test_a_damaged_receipt_or_decision_of_a_job_is_named(shared):
    folder, here = shared
    work = folder / ".drafts/job/work"
    (work / "receipts").mkdir(parents=True)
    (work / "receipts/part-0.json").write_text('{"receipt": {}}')
    with pytest.raises(UserError, match=r"/work/receipts/part-0.json is damaged \(.*\); remove it there, and it is made again"):
        here().fetch_draft("job")
    (work / "decisions.json").write_text("[]")
    with pytest.raises(UserError, match=r"/work/decisions.json is damaged \(it holds no decisions\); remove it there"):
        here().fetch_draft("job")


def test_a_folder_of_too_many_names_is_not_listed_to_its_end(shared, monkeypatch):
    folder, here = shared
    monkeypatch.setattr("embedkit.remote.MOST_NAMES", 3)
    for number in range(4):
        (folder / f"texts/a/{number}").mkdir(parents=True)
    with pytest.raises(UserError, match=r"/texts/a names more than 3 entries, or goes on for more than 120 s; no root is so large"):
        here().fetch("texts/a")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("no-address", "'no-address' is no address of a remote root; give one such as s3://bucket/folder"),
        ("s3://me:secret@bucket", "no password belongs in it; give credentials in the environment"),
        ("s3:/bucket", "'s3:/bucket' is no address of a remote root; give one such as s3://bucket/folder"),
        ("s3://", "'s3://' is no address of a remote root"),
        *(
            (f"{protocol}://a/b", f"{protocol}:// can't be used here; give s3://, gs://, az://, or file:// for a shared folder")
            for protocol in ("nothing", "zip", "local", "http", "https", "ftp", "github", "simplecache", "S3", "hf", "data")
        ),
        *(
            (address, "doesn't name one place; give one without '::' and '..', such as s3://bucket/folder")
            for address in ("zip://a::https://b/c.zip", "s3://bucket::file:///x", "s3://bucket/../other", "s3://bucket/a\nb")
        ),
    ],
)
def test_addresses_that_can_not_be_used_are_refused(address, message):
    with pytest.raises(UserError, match=message):
        Remote(address)


def test_a_library_that_is_missing_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(UserError, match=r"gs:// can't be used here .*run `pip install 'embedkit\[gcs\]'`"):
        Remote("gs://bucket")


def test_what_a_store_refuses_is_one_sentence(bucket, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    remote = Remote(f"s3://{bucket}/here")
    with pytest.raises(UserError, match=r"s3://bucket-\d+/here refused \(.+\); check the address and your credentials"):
        remote.fetch("texts/lines")


def test_an_unknown_name_or_version_says_what_there_is(lines, bucket):
    remote = Remote(f"s3://{bucket}")
    remote.send(lines)
    with pytest.raises(UserError, match=r"did you mean 'vectors/lines-tiny-bert'\?"):
        remote.fetch("vectors/line-tiny-bert")
    with pytest.raises(UserError, match=r"version of vectors/lines-tiny-bert '1999' is not known"):
        remote.fetch("vectors/lines-tiny-bert@1999")
    assert str(remote.fetch(f"vectors/lines-tiny-bert@{lines.manifest.version[:12]}")) == str(lines)


def test_stages_work_on_a_disk_and_say_how_to_get_an_artifact_there(tmp_path):
    with pytest.raises(UserError, match="s3://bucket/here isn't a folder.*`embedkit artifacts pull` and `push`"):
        Artifact.open("texts/lines", "s3://bucket/here")


def test_push_and_pull_from_the_shell(lines, bucket, tmp_path, capsys):
    address, other = f"s3://{bucket}/root", tmp_path / "other"
    assert main(["artifacts", "push", "vectors/lines-tiny-bert", address, "--root", str(lines.root)]) == 0
    assert main(["artifacts", "pull", "vectors/lines-tiny-bert", address, "--root", str(other)]) == 0
    assert capsys.readouterr().out.split() == [str(lines), str(lines)]
    assert main(["artifacts", "verify", "--root", str(other)]) == 0
    assert (other / "texts/lines").is_dir() and (other / "encoder/tiny-bert").is_dir()


# batch_embed


def sent(lines, address):
    """A store with all that the vectors are made from, and without them."""
    for one in lines.ancestors():
        Remote(address).send(one)


@pytest.mark.prefect
@pytest.mark.filterwarnings("default")
def test_processes_that_share_only_a_store_make_the_same_bytes(lines, bucket, server, tmp_path, monkeypatch):
    from flows.batch_embed import Workers, batch_embed

    address = f"s3://{bucket}/root"
    sent(lines, address)
    remote = Remote(address)
    made = batch_embed("texts/lines", "encoder/tiny-bert", SETTINGS, Workers(count=2), root=address)
    assert made.manifest.files == lines.manifest.files
    assert remote.store.exists(f"{bucket}/root/vectors/lines-tiny-bert/{made.manifest.version}/manifest.json")
    assert not remote.store.exists(f"{bucket}/root/.drafts")
    another_machine(tmp_path, monkeypatch)
    again = batch_embed("texts/lines", "encoder/tiny-bert", SETTINGS, Workers(count=2), root=address)
    assert str(again) == str(made)  # the same call gives the same artifact, wherever


def test_a_job_that_another_machine_began_goes_on_with_its_parts(lines, bucket, tmp_path, monkeypatch):
    from flows.batch_embed import _make_remote_part, batch_embed

    address = f"s3://{bucket}/root"
    sent(lines, address)
    remote = Remote(address)
    for reference in ("texts/lines", "encoder/tiny-bert"):
        remote.fetch(reference)
    id = draft_name(embed.fingerprint("texts/lines", "encoder/tiny-bert", SETTINGS, root=remote.root))
    job = job_of(remote, id)
    draft = Draft(remote.root / ".drafts" / id)
    assert not draft.goes_on(environment.computing(keras=True))
    draft.decide("engine", lambda: {"engine": "keras", "precision": "float32", "why": "chosen over there"})
    remote.send_work(id)
    for number in (1, 2):
        _make_remote_part(number, job, remote)
    assert [remote.has_part(id, file_of(number)) for number in range(4)] == [False, True, True, False]
    another_machine(tmp_path, monkeypatch)
    made_here = []
    monkeypatch.setattr("embedkit.embedding._written", counted(made_here))
    made = batch_embed.fn("texts/lines", "encoder/tiny-bert", SETTINGS, root=address)
    assert sorted(made_here) == [0, 3] and made.manifest.files == lines.manifest.files
    assert made.manifest.decisions["engine"]["why"] == "chosen over there"


def job_of(remote, id):
    from embedkit.embedding import PLAIN, Job

    given = {"dataset": str(remote.fetch("texts/lines")), "encoder": str(remote.fetch("encoder/tiny-bert")), "previous": None}
    draft = str(remote.root / ".drafts" / id)
    return Job(**given, root=str(remote.root), draft=draft, settings=SETTINGS, way=PLAIN, total=40)


def counted(numbers):
    """What writes a part, and notes its number."""
    from embedkit.embedding import _written

    def write(path, part, encoder):
        numbers.append(part.number)
        return _written(path, part, encoder)

    return write


def test_a_part_that_is_in_the_store_is_not_made_again(lines, bucket, monkeypatch):
    from flows.batch_embed import _make_remote_part

    address = f"s3://{bucket}"
    sent(lines, address)
    remote, made = Remote(address), []
    (remote.root / ".drafts/some-job/work").mkdir(parents=True)
    monkeypatch.setattr("embedkit.embedding._written", counted(made))
    for _ in range(2):
        _make_remote_part(3, job_of(remote, "some-job"), remote)
    assert made == [3]


def test_names_that_lead_out_of_a_draft_are_not_followed(bucket):
    remote = Remote(f"s3://{bucket}")
    for name in ("..", ".hidden", "a b", "good.json"):
        remote.store.pipe_file(f"{bucket}/.drafts/job/work/{name}", b"{}")
    remote.fetch_draft("job")
    assert [path.name for path in (remote.root / ".drafts/job/work").iterdir()] == ["good.json"]


def begin(address, engine, computing):
    """Begin a job, or go on with it, in the draft of this machine; and publish what was decided."""
    draft = Draft(Remote(address).root / ".drafts/job")
    draft.goes_on(computing)
    draft.decide("engine", lambda: engine)
    Remote(address).send_work("job")


def test_a_job_that_was_begun_with_other_versions_is_neither_gone_on_with_nor_mixed(bucket, tmp_path, monkeypatch):
    address, ours = f"s3://{bucket}", environment.computing(keras=True)
    begin(address, "keras", ours | {"tensorflow": "1.0"})
    another_machine(tmp_path, monkeypatch)
    words = rf"{address}/\.drafts/job was begun with tensorflow 1\.0, now {ours['tensorflow']}; go on where that is so, or remove "
    with pytest.raises(UserError, match=words + "it there to start anew"):
        Remote(address).fetch_draft("job")
    assert not (Remote(address).root / ".drafts/job").exists()
    with pytest.raises(UserError, match="the same call began elsewhere at the same time, with other versions; make it again"):
        begin(address, "keras", ours)


def test_two_runs_that_decided_otherwise_are_not_mixed(bucket, tmp_path, monkeypatch):
    address = f"s3://{bucket}"

    def decided(engine):
        begin(address, engine, environment.computing(keras=True))

    decided("keras")
    decided("keras")  # gone on with
    another_machine(tmp_path, monkeypatch)
    with pytest.raises(UserError, match="the same call began elsewhere at the same time, with another engine; make it again"):
        decided("tensorflow")
    Remote(address).fetch_draft("job")
    assert Draft(Remote(address).root / ".drafts/job").decisions == {"engine": "keras"}


def test_a_folder_that_is_named_as_an_address_serves_too(lines, tmp_path, monkeypatch):
    monkeypatch.setenv("EMBEDKIT_CACHE", str(tmp_path / "cache"))
    remote = Remote(f"file://{tmp_path}/shared")
    remote.send_lineage(lines)
    assert str(remote.fetch_lineage(str(lines))) == str(lines)
    shutil.rmtree(tmp_path / "shared")
    assert str(remote.fetch(str(lines))) == str(lines)  # the copy is there
