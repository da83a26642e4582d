"""Flows: one body with a server and without, forms that read the stages, and a real server with served flows."""

import json
import re
import sys
import threading

import pytest

import embedkit
from embedkit import Embed, LoadTexts, MakeControl, PretrainAutoencoder, TrainHead, Training, UserError
from embedkit.artifacts import Artifact
from embedkit.autoencoder import ConvNet

pytestmark = [
    pytest.mark.prefect,
    pytest.mark.filterwarnings("default"),  # Prefect's server warns of its own dependencies in its own threads
]
QUICK = PretrainAutoencoder(network=ConvNet(side=8, dimension=8, channels=4), training=Training(epochs=2))


def client():
    from prefect.client.orchestration import get_client

    return get_client(sync_client=True)


def run_pipeline(run, photos):
    return run(source=str(photos), autoencoder=QUICK, head=TrainHead(training=Training(epochs=3)))


def test_every_stage_is_a_flow_of_its_own_name():
    from flows.stages import FLOWS

    assert [flow.fn.__name__ for flow in FLOWS] == list(embedkit.STAGES)
    assert [flow.name for flow in FLOWS] == [name.replace("_", "-") for name in embedkit.STAGES]


def test_the_form_of_a_flow_is_read_from_its_stage():
    from flows.stages import FLOWS

    for flow, name in zip(FLOWS, embedkit.STAGES, strict=True):
        stage = getattr(embedkit, name)
        form = json.loads(flow.parameters.model_dump_json())
        assert list(form["properties"]) == [*stage.inputs, "settings", *stage.optional, "name", "root"]
        for role in stage.inputs:
            assert form["properties"][role]["type"] == "string" and form["properties"][role]["description"]
        for role in stage.optional:  # a reference, or nothing
            types = [one["type"] for one in form["properties"][role]["anyOf"]]
            assert types == ["string", "null"] and form["properties"][role]["description"]
            assert role not in form.get("required", [])
        fields = form["definitions"][stage.Settings.__name__]["properties"]
        assert [field["position"] for field in fields.values()] == list(range(len(stage.Settings.model_fields)))
        assert list(fields) == list(stage.Settings.model_fields)
        for field, described in stage.Settings.model_fields.items():
            assert fields[field].get("description", described.description) == described.description


def test_a_step_outside_a_flow_is_the_stage_itself(reviews):
    from flows.steps import step

    assert step(embedkit.load_texts)(str(reviews)) == embedkit.load_texts(str(reviews))


def test_the_pipeline_runs_with_no_server_and_its_pages_show_verdict_measures_pictures_and_lineage(photos):
    from embedkit.escaping import plain
    from embedkit.reports import markdown
    from flows.pipeline import pipeline

    made = run_pipeline(pipeline.fn, photos)
    kinds = [artifact.manifest.kind for artifact in made]
    assert kinds == ["images", *["encoder"] * 4, *["vectors"] * 4, *["classifier"] * 4, "index"]
    names = [artifact.manifest.name for artifact in made if artifact.manifest.kind == "classifier"]
    assert names == ["photos-autoencoder", "photos-pixels", "photos-pca", "photos-random"]
    head = made[kinds.index("classifier")]
    page = markdown(head)
    assert plain(head.manifest.verdict) in page and "| `accuracy` |" in page and "`guessing_accuracy`" in page
    assert 'a0["classifier/photos-autoencoder"]' in page and '-->|"vectors"| a0' in page
    assert "data:image/png;base64," in markdown(made[1])


@pytest.mark.slow
def test_a_flow_run_publishes_what_the_plain_call_publishes(server, photos):
    from flows.pipeline import pipeline

    made = run_pipeline(pipeline, photos)
    assert run_pipeline(pipeline.fn, photos) == made
    with client() as api:
        run = max(api.read_flow_runs(), key=lambda run: run.start_time)
        tasks = api.read_task_runs()
        shown = {artifact.key for artifact in api.read_artifacts()}
    assert run.state_name == "Completed"
    assert {"load_images", "pretrain_autoencoder", "make_control", "embed", "train_head", "build_index"} <= {t.name for t in tasks}
    assert {"images-photos", "encoder-photos-autoencoder", "classifier-photos-pca", "index-photos-autoencoder"} <= shown


def test_a_flow_takes_artifacts_or_references_and_is_recorded_with_references(server, photos):
    from flows.stages import embed, load_images, make_control

    pictures = load_images(str(photos))
    control = make_control(pictures, MakeControl(control="pixels", network=ConvNet(side=4)))
    vectors = embed(str(pictures), str(control), name="called")
    assert isinstance(vectors, Artifact) and vectors.manifest.name == "called"
    with client() as api:
        recorded = [run.parameters for run in api.read_flow_runs() if run.parameters.get("dataset") == str(pictures)]
    assert any(parameters.get("encoder") == str(control) for parameters in recorded)


def test_a_flow_fails_with_the_stages_own_sentence(server, reviews):
    from flows.stages import load_texts

    with pytest.raises(UserError, match="text column 'txt' is not known; did you mean 'text'"):
        load_texts(str(reviews), LoadTexts(text_column="txt"))
    with client() as api:
        failed = max(api.read_flow_runs(), key=lambda run: run.start_time)
    assert failed.state_name == "Failed" and "did you mean 'text'" in failed.state.message


# Parts on workers


def test_threads_make_the_same_vectors_as_the_plain_stage_and_show_how_far_they_are(server, tiny_bert, tmp_path):
    from flows.batch_embed import Workers, batch_embed

    (tmp_path / "lines.txt").write_text("".join(f"the cat {number} sat\n" for number in range(30)))
    roots = [tmp_path / "plain", tmp_path / "flow"]
    for root in roots:
        embedkit.load_texts(tmp_path / "lines.txt", root=root)
        embedkit.import_encoder(tiny_bert, root=root)
    settings = Embed(rows_per_part=8)
    plain = embedkit.embed("texts/lines", "encoder/tiny-bert", settings, root=roots[0])
    made = batch_embed("texts/lines", "encoder/tiny-bert", settings, Workers(runner="threads", count=2), root=str(roots[1]))
    assert made.manifest.files == plain.manifest.files and made.manifest.fingerprint == plain.manifest.fingerprint
    shown = [found for found in client().read_artifacts() if found.key == "parts"]
    assert [(found.type, found.data) for found in shown] == [("progress", 100.0)]
    assert re.fullmatch(r"30 of 30 rows, \d+\.\d a second, 0 s left", shown[0].description)
    assert batch_embed("texts/lines", "encoder/tiny-bert", settings, root=str(roots[1])) == made


def test_without_a_server_the_parts_are_made_here(tiny_bert, tmp_path):
    from flows.batch_embed import batch_embed

    (tmp_path / "lines.txt").write_text("the cat\na dog\n")
    embedkit.load_texts(tmp_path / "lines.txt", root=tmp_path)
    embedkit.import_encoder(tiny_bert, root=tmp_path)
    assert batch_embed.fn("texts/lines", "encoder/tiny-bert", root=str(tmp_path)).manifest.rows == 2


def test_the_thread_that_hands_on_what_workers_say_knows_the_server_of_the_run_and_starts_none():
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.batch_embed import Workers, _runner

    class Queue(list):
        get = list.pop

    def see(message_type, message_payload):
        seen.append((threading.current_thread().name, PREFECT_API_URL.value(), message_payload))

    seen = []
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:1/api"}):
        runner = _runner(Workers())
    runner.subprocess_message_processor_factories += (lambda: see,)
    runner._subprocess_message_queue = Queue(["__prefect_process_pool_message_queue_shutdown__", ("event", "a part is made")])
    thread = threading.Thread(target=runner._forward_subprocess_messages, name="forwards")
    thread.start()
    thread.join()
    assert seen == [("forwards", "http://127.0.0.1:1/api", "a part is made")]


def test_an_address_is_for_a_cluster():
    from flows.batch_embed import Workers, _runner

    with pytest.raises(UserError, match="address is of a cluster, but runner is threads; set runner to dask or ray, or leave"):
        _runner(Workers(runner="threads", address="tcp://127.0.0.1:1"))


def test_no_ray_is_started_that_would_listen_on_every_network():
    from flows.batch_embed import Workers, _runner

    with pytest.raises(UserError, match="no Ray is started here, since one listens on every network of this machine; give"):
        _runner(Workers(runner="ray"))


@pytest.mark.parametrize("name", ["dask", "ray"])
def test_a_missing_cluster_library_is_named(name, monkeypatch):
    from flows.batch_embed import Workers, _runner

    monkeypatch.setitem(sys.modules, f"prefect_{name}.task_runners", None)
    monkeypatch.setitem(sys.modules, f"prefect_{name}", None)
    with pytest.raises(UserError, match=rf"{name} is not installed; run `pip install 'embedkit\[{name}\]'`, or take another"):
        _runner(Workers(runner=name, address="tcp://127.0.0.1:1"))
