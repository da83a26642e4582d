"""`embedkit ui`: who may use it, what its runs may touch, and what is left when it ends."""

import http.server
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from ui import Ui, clean_environment, gone, marked

import embedkit
from embedkit import LoadTexts, UserError
from embedkit.artifacts import list_artifacts

pytestmark = [pytest.mark.prefect, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def ui(tmp_path_factory):
    """The command, on a free port, with three texts in its working directory."""
    folder = tmp_path_factory.mktemp("ui")
    (folder / "lines.txt").write_text("the cat\na dog\nred moon\n")
    started = Ui(folder)
    yield started
    started.stop()


def refused(ui, path="flows/filter", body=b"{}", method=None, **headers):
    """The status of an answer to somebody without the secret."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(f"{ui.base}/{path}", body, named, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


# Who may use it


def test_every_deployment_finds_its_flow_again():
    from prefect.deployments.runner import EntrypointType
    from prefect.flows import load_flow_from_entrypoint

    from flows.batch_embed import batch_embed
    from flows.pipeline import pipeline
    from flows.stages import FLOWS

    for flow in (pipeline, batch_embed, *FLOWS):
        deployment = flow.to_deployment("local", entrypoint_type=EntrypointType.MODULE_PATH)
        assert load_flow_from_entrypoint(deployment.entrypoint) is flow


def test_every_flow_is_served_and_a_run_ends_in_its_artifact(ui):
    assert set(ui.deployments()) == {"pipeline", "batch-embed", *(name.replace("_", "-") for name in embedkit.STAGES)}
    assert ui.end(ui.start("load-texts", source="lines.txt")) == ("COMPLETED", "")
    assert [str(made).partition("@")[0] for made in list_artifacts(ui.root)] == ["texts/lines"]


@pytest.mark.parametrize("method", ["POST", "PATCH", "PUT", "DELETE"])
def test_whoever_lacks_the_secret_changes_nothing(ui, method):
    deployment = ui.deployments()["load-texts"]
    for headers in ({}, {"authorization": "Basic ZW1iZWRraXQ6"}, {"content_type": "text/plain"}):
        for path in ("flows/filter", f"deployments/{deployment}", f"deployments/{deployment}/create_flow_run"):
            assert refused(ui, path, method=method, **headers) in (401, 403)
    token = json.loads(json.dumps(ui.ask("csrf-token?client=somebody")["token"]))
    known = {"prefect_csrf_token": token, "prefect_csrf_client": "somebody", "content_type": "application/json"}
    assert refused(ui, method=method, **known) == 401  # a token alone is no secret


def test_whoever_lacks_the_secret_reads_nothing(ui):
    for path in ("admin/settings", "admin/version", "flow_runs/count", "csrf-token?client=x", "openapi.json", "docs"):
        assert refused(ui, path, None) == 401
    assert refused(ui, "health", None) == 200


def test_the_secret_stands_in_no_command_that_other_users_see(ui):
    assert len(marked(ui.mark)) >= 2
    assert all(ui.secret not in command and "embedkit:" not in command for command in marked(ui.mark).values())


@pytest.mark.parametrize("host", ["evil.example", "localhost", "127.0.0.1", "127.0.0.1:1", "[::1]"])
def test_a_page_that_takes_another_name_for_this_address_is_sent_away(ui, host):
    port = ui.host.partition(":")[2]
    for name in {host, f"{host}:{port}"} - {ui.host}:
        assert refused(ui, "flows/filter", host=name, authorization=f"Basic {ui.secret}") == 421
        assert refused(ui, "../", None, host=name) == 421


def test_it_listens_on_loopback_alone(ui):
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    listening = {line[1] for line in lines if line[3] == "0A"}
    port = int(ui.host.partition(":")[2])
    assert {address for address in listening if address.endswith(f":{port:04X}")} == {f"0100007F:{port:04X}"}


@pytest.mark.parametrize("path", ["events/in", "events/out", "logs/out"])
@pytest.mark.parametrize("origin", [None, "http://evil.example"])
def test_a_socket_of_the_server_needs_the_secret_too(ui, path, origin):
    from websockets.exceptions import WebSocketException
    from websockets.sync.client import connect

    with pytest.raises((WebSocketException, OSError)):
        with connect(f"ws://{ui.host}/api/{path}", subprotocols=["prefect"], origin=origin, open_timeout=30) as connection:
            connection.send(json.dumps({"type": "auth", "token": "guess"}))
            raise AssertionError(connection.recv(timeout=30))


ATTACK = """<!doctype html><title>harmless</title><script>
const api = "http://%(host)s/api", script = {script: "touch %(file)s"};
const steps = {pull_steps: [{"prefect.deployments.steps.run_shell_script": script}]};
const run = JSON.stringify({state: {type: "SCHEDULED"}, parameters: {source: "lines.txt", name: "stolen"}});
async function attempt(path, method, body, type, mode, credentials) {
  try { const reply = await fetch(api + path, {method, mode, body, credentials, headers: {"content-type": type}});
        return mode == "no-cors" ? "sent" : reply.status; }
  catch (error) { return "blocked"; }
}
async function attack() {
  const said = [];
  for (const type of ["application/json", "text/plain", "application/x-www-form-urlencoded"])
    for (const [mode, credentials] of [["cors", "include"], ["cors", "omit"], ["no-cors", "include"]]) {
      for (const method of ["PATCH", "POST", "PUT"])
        said.push(await attempt("/deployments/%(deployment)s", method, JSON.stringify(steps), type, mode, credentials));
      said.push(await attempt("/deployments/%(deployment)s/create_flow_run", "POST", run, type, mode, credentials));
      said.push(await attempt("/deployments/filter", "POST", "{}", type, mode, credentials));
    }
  const form = document.createElement("form");
  const action = api + "/deployments/%(deployment)s/create_flow_run";
  Object.assign(form, {method: "post", action, enctype: "text/plain", target: "frame"});
  const field = document.createElement("input");
  Object.assign(field, {name: run.slice(0, -1) + ', "x": "', value: '"}'});
  form.append(field); document.body.append(form);
  const frame = document.createElement("iframe"); frame.name = "frame"; document.body.append(frame); form.submit();
  window.said = said;
}
</script><body onload="attack()">"""


@pytest.fixture
def page():
    """Serves one page on another port of this machine, which is another origin; gives its address."""
    shown = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(shown[-1].encode())

        def log_message(self, format, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield lambda text: shown.append(text) or f"http://localhost:{server.server_port}/"
    server.shutdown()
    server.server_close()


def test_a_web_page_gets_no_shell_though_the_same_browser_has_the_ui_open(ui, chromium, page, tmp_path):
    deployment, stolen = ui.deployments()["load-texts"], tmp_path / "stolen"
    chromium.visit(ui.door)
    chromium.until(lambda: "Dashboard" in chromium.text())
    assert chromium.run("location.hash") == "" and chromium.run("localStorage['prefect-password']") == ui.secret
    before = ui.ask("flow_runs/count", {})
    chromium.visit(page(ATTACK % {"host": ui.host, "deployment": deployment, "file": stolen}))
    chromium.until(lambda: chromium.run("window.said && true"))
    said = chromium.run("said")
    assert len(said) == 45 and set(said) <= {"blocked", "sent"}  # what was sent without being seen was refused
    time.sleep(3)  # the runner looks every two seconds
    assert ui.ask("flow_runs/count", {}) == before
    assert not ui.ask(f"deployments/{deployment}")["pull_steps"] and not stolen.exists()


def test_the_pages_of_the_ui_work_behind_the_secret(ui, chromium):
    chromium.visit(ui.door)
    chromium.until(lambda: "Deployments" in chromium.text())
    chromium.visit(f"http://{ui.host}/deployments")
    chromium.until(lambda: "batch-embed" in chromium.text())


def test_the_door_without_its_key_says_how_to_open_it(ui, chromium):
    chromium.visit(f"http://{ui.host}/embedkit")
    assert "opens with the address that embedkit ui printed" in chromium.text()


def test_no_page_shows_the_ui_in_a_frame(ui):
    for address in (f"http://{ui.host}/", f"http://{ui.host}/embedkit", f"{ui.base}/health"):
        with urllib.request.urlopen(address, timeout=30) as answer:
            assert answer.headers["x-frame-options"] == "DENY"


# What runs may touch


def test_a_run_stays_inside_the_folders_that_are_allowed(ui, tmp_path):
    (tmp_path / "outside.txt").write_text("not yours\n")
    (ui.folder / "link.txt").symlink_to(tmp_path / "outside.txt")
    how, message = ui.end(ui.start("load-texts", source="link.txt"))
    assert how == "FAILED" and "link.txt lies outside of what runs may use here" in message


def test_what_is_allowed_is_compared_by_real_paths(tmp_path, monkeypatch):
    from flows import borders

    inside, outside = tmp_path / "inside", tmp_path / "inside-not"
    for folder in (inside, outside):
        folder.mkdir()
        (folder / "decisions.csv").write_text("id,label\n")
        (folder / "lines.txt").write_text("a\n")
    (inside / "out").symlink_to(outside)
    monkeypatch.setenv(borders.ALLOWED, "")
    borders.allow([inside, "s3://bucket/ours"])
    load = embedkit.load_texts
    for source in ("lines.txt", inside / "lines.txt", "builtin:docstrings", "hf://any/thing"):
        monkeypatch.chdir(inside)
        borders.check_call(load, [source], {}, inside / "artifacts")
    good = LoadTexts(corrections=str(inside / "decisions.csv"))
    borders.check_call(load, [inside / "lines.txt"], {"settings": good}, inside)
    borders.check("s3://bucket/ours/deeper")
    bad = LoadTexts(corrections=str(outside / "decisions.csv"))
    for call in (
        lambda: borders.check_call(load, [outside / "lines.txt"], {}, inside),
        lambda: borders.check_call(load, [inside / "out" / "lines.txt"], {}, inside),
        lambda: borders.check_call(load, ["../inside-not/lines.txt"], {}, inside),
        lambda: borders.check_call(load, [inside / "lines.txt", bad], {}, inside),
        lambda: borders.check_call(load, [inside / "lines.txt"], {"settings": bad}, inside),
        lambda: borders.check_call(load, [inside / "lines.txt"], {}, outside),
        lambda: borders.check("s3://bucket/others"),
        lambda: borders.check("s3://bucket/ours-not"),
        lambda: borders.check("s3://bucket/ours/../others"),
    ):
        with pytest.raises(UserError, match=r"lies outside of what runs may use here \(.*inside, s3://bucket/ours\); start"):
            call()


def test_links_out_of_a_folder_are_no_way_out(tmp_path, monkeypatch):
    from embedkit.readers import ReadFiles
    from flows import borders

    inside, outside = tmp_path / "inside", tmp_path / "weights.h5"
    (inside / "network").mkdir(parents=True)
    outside.write_bytes(b"not yours")
    monkeypatch.setenv(borders.ALLOWED, "")
    borders.allow([inside])
    borders.check_call(embedkit.import_encoder, [inside / "network"], {}, inside)
    (inside / "network/model.h5").symlink_to(outside)
    with pytest.raises(UserError, match="model.h5 lies outside of what runs may use here"):
        borders.check_call(embedkit.import_encoder, [inside / "network"], {}, inside)
    with pytest.raises(UserError, match="follows no links out of a folder .files.follow_links.; name what they lead to"):
        following = LoadTexts(files=ReadFiles(follow_links=True))
        borders.check_call(embedkit.load_texts, [inside, following], {}, inside)


def test_a_folder_that_is_not_there_cannot_be_allowed(tmp_path, monkeypatch):
    from flows import borders

    monkeypatch.setenv(borders.ALLOWED, "")
    with pytest.raises(UserError, match="nowhere is no folder, so nothing can be allowed there; make it, or name another with"):
        borders.allow([tmp_path / "nowhere"])


# Which server it is


def test_a_port_that_is_taken_is_nobody_elses_server(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "embedkit", "ui", "--port", port]
        done = subprocess.run(command, env=clean_environment("none"), cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert f"embedkit: the port {port} of 127.0.0.1 can't be used" in done.stderr and "set PREFECT_API_URL" in done.stderr


def test_a_named_server_that_is_open_to_all_is_said(ui, capsys):
    from flows.serve import warn_if_open

    class Open(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()

        def log_message(self, format, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Open)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    warn_if_open(ui.base)
    assert capsys.readouterr().err == ""
    warn_if_open(f"http://127.0.0.1:{server.server_port}/api")
    server.shutdown()
    server.server_close()
    assert "asks for no password: whoever reaches it, web pages included, can run commands here" in capsys.readouterr().err


def test_flows_are_served_on_a_server_that_is_named(ui, tmp_path):
    import base64

    secret = base64.b64decode(ui.secret).decode()
    named = {"PREFECT_API_URL": ui.base, "PREFECT_API_AUTH_STRING": secret, "PREFECT_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "embedkit", "ui"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, env=clean_environment(ui.mark, **named), cwd=tmp_path, stdout=log, stderr=log)
        deadline = time.monotonic() + 120
        while f"open http://{ui.host}" not in (tmp_path / "log").read_text():
            assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.2)
        process.terminate()
        process.wait(60)
    assert secret not in (tmp_path / "log").read_text()


# What is left


@pytest.mark.slow
def test_a_killed_ui_leaves_nothing(tmp_path):
    (tmp_path / "lines.txt").write_text("the cat\n" * 20)
    ui = Ui(tmp_path)
    ui.start("load-texts", source="lines.txt")
    deadline = time.monotonic() + 60
    while not any("prefect.engine" in command for command in marked(ui.mark).values()):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    ui.process.send_signal(signal.SIGKILL)
    ui.process.wait()
    assert gone(ui.mark) == {}


@pytest.mark.slow
def test_a_ui_whose_server_is_killed_says_so_and_ends(tmp_path):
    ui = Ui(tmp_path)
    (server,) = [number for number, command in marked(ui.mark).items() if "flows.server" in command]
    os.kill(server, signal.SIGKILL)
    assert ui.process.wait(60) == 1
    assert gone(ui.mark) == {}
    assert re.search(r"embedkit: the Prefect server has ended, and the runs with it; start it and them again", ui.log.read_text())


@pytest.mark.slow
def test_a_ui_that_is_interrupted_ends_without_a_traceback_and_leaves_nothing(tmp_path):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # where tests run in the background, it is ignored
    try:
        ui = Ui(tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)
    ui.process.send_signal(signal.SIGINT)
    assert ui.process.wait(60) == 0
    assert gone(ui.mark) == {}
    assert "Traceback" not in ui.log.read_text()
