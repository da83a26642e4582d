"""`embedkit ui` in a process of its own, as its tests use it: its address, a client that has the secret, and all its processes."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path

MARK = "EMBEDKIT_TEST_MARK"
"""Environment variable by which a test knows the processes that it started, and those that they started."""
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


def marked(mark):
    """The processes that have this mark, by their number, with their commands; zombies are none."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
    return {number: command for number, command in found.items() if command}


def gone(mark, seconds=60):
    """Wait until no process has this mark; those that still do after that time."""
    deadline = time.monotonic() + seconds
    while (left := marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.5)
    return left


def clean_environment(mark, **more):
    """This process's environment without Prefect's settings, and with a mark."""
    return {key: value for key, value in os.environ.items() if not key.startswith("PREFECT")} | {MARK: mark} | more


class Ui:
    """The command, once it serves.

    Args:
        folder: the working directory; artifacts lie in its `made`, and Prefect's database beside.
        options: of the command.
    """

    def __init__(self, folder, *options, **environment):
        self.folder, self.root, self.mark = folder, folder / "made", uuid.uuid4().hex
        self.log = folder / "log"
        home = {"PREFECT_HOME": str(folder / "prefect"), "EMBEDKIT_ARTIFACTS": str(self.root)}
        command = [sys.executable, "-m", "embedkit", "ui", "--port", "0", *options]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command, env=clean_environment(self.mark, **home, **environment), stdout=log, stderr=log, cwd=folder
            )
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise

    def _wait(self):
        deadline = time.monotonic() + 180
        while not (opens := re.search(r"; open (http://(127\.0\.0\.1:\d+)/embedkit#(\S+))", self.log.read_text())):
            assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.2)
        self.door, self.host, self.secret = opens.groups()
        self.base, self.csrf = f"http://{self.host}/api", None
        while len(self.deployments()) < 20:
            assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.5)

    def ask(self, path, body=None, method=None):
        """What the API answers to somebody who has the secret."""
        headers = {"authorization": f"Basic {self.secret}", "content-type": "application/json"}
        if body is not None:
            self.csrf = self.csrf or self.ask(f"csrf-token?client={self.mark}")["token"]
            headers |= {"prefect-csrf-token": self.csrf, "prefect-csrf-client": self.mark}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.base}/{path}", data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                text = answer.read()
                return json.loads(text) if text else None
        except urllib.error.HTTPError as error:
            if error.code == 503:  # Prefect's answer where its database is busy
                time.sleep(1)
                return self.ask(path, body, method)
            raise AssertionError(f"{path}: {error.code} {error.read()[:500]}") from error

    def deployments(self):
        """The number of each deployment, by its flow's name."""
        flows = {flow["id"]: flow["name"] for flow in self.ask("flows/filter", {})}
        return {flows[found["flow_id"]]: found["id"] for found in self.ask("deployments/filter", {})}

    def start(self, flow, **parameters):
        """Start a run as the form does; its number."""
        body = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
        return self.ask(f"deployments/{self.deployments()[flow]}/create_flow_run", body)["id"]

    def state(self, run):
        """What a run is doing, and its message."""
        state = self.ask(f"flow_runs/{run}")["state"]
        return state["type"], state["message"] or ""

    def end(self, run, seconds=600):
        """How a run ended, and its message."""
        deadline = time.monotonic() + seconds
        while (state := self.state(run))[0] not in ENDED and time.monotonic() < deadline:
            time.sleep(1)
        return state

    def stop(self):
        """End it as Ctrl-C in its terminal does, and wait."""
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(60)
