"""Pictures with addresses: fetched from a real server, within bounds, never from where a list of rows has no business."""

import http.server
import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest
from conftest import write_list
from PIL import Image

from embedkit import fetching
from embedkit.datasets import LoadImages, load_images, read_contents
from embedkit.fetching import Fetch, Fetcher, is_public
from embedkit.settings import UserError


def png(*colour):
    data = io.BytesIO()
    Image.new("RGB", (5, 4), colour).save(data, "PNG")
    return data.getvalue()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        at = self.server
        with at.lock:
            at.asked[self.path] += 1
            at.now += 1
            at.most = max(at.most, at.now)
        self.waiting = True
        try:
            at.answer(self)
        except OSError:
            self.close_connection = True
        finally:
            self.answers()

    def answers(self):
        """Who asked waits no longer: with the answer in hand it may ask for the next before this thread ends."""
        with self.server.lock:
            self.server.now -= self.waiting
            self.waiting = False

    def give(self, data, status=200, length=None, **headers):
        self.answers()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def server():
    """A server on this machine: `answer` gives what it answers, `asked` counts, `at` makes addresses."""
    made = http.server.ThreadingHTTPServer(("0.0.0.0", 0), Handler)
    made.daemon_threads, made.lock, made.asked, made.now, made.most = True, threading.Lock(), Counter(), 0, 0
    made.answer = lambda request: request.give(png(int(request.path.strip("/")) % 256, 0, 0))
    made.at = lambda path, host="127.0.0.1": f"http://{host}:{made.server_address[1]}/{path}"
    thread = threading.Thread(target=made.serve_forever, args=(0.02,))
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    """What was slept between attempts."""
    slept = []
    monkeypatch.setattr(fetching.time, "sleep", slept.append)
    return slept


HERE = Fetch(private=True, timeout=5)


def refused(address, settings=HERE):
    with pytest.raises(ValueError) as raised:
        Fetcher(settings).get(address)
    assert not isinstance(raised.value, UserError)
    return str(raised.value)


def test_addresses_in_a_list_are_fetched_side_by_side_and_once_each(server, tmp_path, monkeypatch):
    def slowly(request):
        threading.Event().wait(0.05)
        request.give(png(int(request.path.strip("/")), 0, 0))

    server.answer = slowly
    rows = [{"file": server.at(n % 30), "species": "cat" if n % 2 else "dog"} for n in range(40)]
    made = load_images(write_list(tmp_path / "a.csv", rows), LoadImages(label_column="species", fetch=HERE))
    contents = read_contents(made, 0, 40)
    assert contents["image"].to_pylist() == [png(n % 30, 0, 0) for n in range(40)]
    assert contents["path"].to_pylist() == [row["file"] for row in rows]
    assert set(server.asked.values()) == {1} and len(server.asked) == 30 and 4 <= server.most <= 8


def test_no_more_are_fetched_at_a_time_than_is_said(server, tmp_path):
    def slowly(request):
        threading.Event().wait(0.02)
        request.give(png(int(request.path.strip("/")), 0, 0))

    server.answer = slowly
    path = write_list(tmp_path / "a.csv", [{"file": server.at(n), "species": "x"} for n in range(20)])
    load_images(path, LoadImages(label_column="species", fetch=Fetch(private=True, connections=2)))
    assert server.most == 2


def test_a_server_that_is_overloaded_is_asked_again_and_as_late_as_it_says(server, no_pause):
    def answer(request):
        count = server.asked[request.path]
        if count <= 2:
            request.give(b"", 503, **({"Retry_After": "7"} if count == 2 else {}))
        else:
            request.give(b"there")

    server.answer = answer
    assert Fetcher(HERE).get(server.at("x")) == b"there" and no_pause == [0.5, 7]
    server.answer = lambda request: request.give(b"", 500)
    assert refused(server.at("y")) == "can't be fetched (500 Internal Server Error)" and server.asked["/y"] == 4


@pytest.mark.parametrize(("status", "said"), [(404, "404 Not Found"), (403, "403 Forbidden"), (204, "204 No Content")])
def test_what_is_not_there_is_asked_for_once(server, status, said):
    server.answer = lambda request: request.give(b"", status)
    assert refused(server.at("x")) == f"can't be fetched ({said})" and server.asked["/x"] == 1


def test_a_picture_has_as_many_bytes_as_are_allowed(server):
    few = Fetch(private=True, max_bytes=1000)
    server.answer = lambda request: request.give(bytes(1000))
    assert Fetcher(few).get(server.at("x")) == bytes(1000)
    server.answer = lambda request: request.give(bytes(1001))
    assert refused(server.at("x"), few) == "can't be fetched (it has more than 1,000 bytes; fetch.max_bytes bounds them)"

    def endless(request):  # and says no length
        request.send_response(200)
        request.end_headers()
        while True:
            request.wfile.write(bytes(1000))

    server.answer = endless
    assert "more than 1,000 bytes" in refused(server.at("x"), few)


def test_an_answer_that_is_cut_off_is_no_picture(server):
    def short(request):
        request.close_connection = True
        request.give(b"half", length=8)

    server.answer = short
    assert refused(server.at("x")) == "can't be fetched (cut off after 4 bytes)" and server.asked["/x"] == 4


@pytest.mark.parametrize("where", ["head", "body"])
def test_a_server_that_sends_a_byte_now_and_then_does_not_hold_anything_up(server, where):
    def drip(request):
        if where == "body":
            request.send_response(200)
            request.send_header("Content-Length", "1000")
            request.end_headers()
        while True:
            request.wfile.write(b"x")
            request.wfile.flush()
            threading.Event().wait(0.05)

    server.answer = drip
    started = time.monotonic()
    assert refused(server.at("x"), Fetch(private=True, timeout=0.4, retries=0)) == "can't be fetched (no whole answer within 0.4 s)"
    assert time.monotonic() - started < 3


def test_redirects_are_followed_so_far(server):
    def answer(request):
        left = int(request.path.strip("/"))
        request.give(b"", 302, Location=f"/{left - 1}") if left else request.give(b"there")

    server.answer = answer
    assert Fetcher(HERE).get(server.at(5)) == b"there"
    assert refused(server.at(6)) == "can't be fetched (it leads from one address to the next, more than 5 times)"
    server.answer = lambda request: request.give(b"", 301, Location="file:///etc/passwd")
    assert refused(server.at(1)) == "can't be fetched (it leads to 'file:///etc/passwd', and only http and https are followed)"


# Where a list has no business


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "2130706433", "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]"])
def test_this_machine_is_not_asked_unless_that_is_said(server, host):
    assert "no public address; fetch.private allows those" in refused(server.at("1", host), Fetch())
    assert not server.asked


@pytest.mark.parametrize(
    "address",
    [
        *("10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255"),
        *("::1", "fe80::1%eth0", "fc00::1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::"),
    ],
)
def test_private_addresses_are_known(address):
    assert not is_public(address)


def test_public_addresses_are_known():
    assert is_public("93.184.216.34") and is_public("2606:2800:220:1::1")


def test_a_redirect_into_a_private_network_is_not_followed(server, monkeypatch):
    monkeypatch.setattr(fetching, "is_public", lambda address: address == "127.0.0.1")
    server.answer = lambda request: request.give(b"", 302, Location=server.at("inside", "127.0.0.2"))
    assert (
        refused(server.at("x"), Fetch())
        == "can't be fetched (127.0.0.2 is 127.0.0.2, no public address; fetch.private allows those)"
    )
    assert server.asked == {"/x": 1}


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("http://", "it leads to 'http://', and only http and https are followed"),
        ("http://127.0.0.1:99999/", "no address: Port out of range 0-65535"),
        ("http://[::1/", "no address: Invalid IPv6 URL"),
        ("http://" + "a" * 300 + ".example/", "can't be a host"),
        ("http://no-such-host.invalid/1.png", "no-such-host.invalid"),
        ("http://x/" + "a" * 9000, "an address of 9,009 characters; at most 8,192 are asked for"),
    ],
)
def test_what_is_no_address_is_set_aside(address, reason):
    assert reason in refused(address, Fetch(retries=0))


def test_spaces_and_letters_of_an_address_are_written_as_servers_take_them(server):
    server.answer = lambda request: request.give(request.path.encode())
    assert Fetcher(HERE).get(server.at("ä b.png?c=d e&f=%20")) == b"/%C3%A4%20b.png?c=d%20e&f=%20"


def test_a_host_that_never_answers_is_soon_tried_once_each(no_pause):
    fetcher = Fetcher(HERE)
    for number in range(20):
        with pytest.raises(ValueError, match=r"can't be fetched \(Connection refused\)"):
            fetcher.get(f"http://127.0.0.1:9/{number}")
    assert len(no_pause) < 8


# As a part of a load


def test_what_can_not_be_fetched_is_set_aside_with_its_reason(server, tmp_path):
    def answer(request):
        number = int(request.path.strip("/"))
        request.give(b"<html>log in</html>") if number == 3 else request.give(png(number, 0, 0), 404 if number == 5 else 200)

    server.answer = answer
    path = write_list(tmp_path / "a.xlsx", [{"file": server.at(n), "species": "x"} for n in range(30)])
    made = load_images(path, LoadImages(label_column="species", fetch=HERE))
    assert made.manifest.rows == 28 and made.manifest.details["rejected"] == 2
    assert "2 of 30 records could not be read: a.xlsx sheet Sheet row 5: not a readable picture" in " ".join(made.manifest.notes)
    with pytest.raises(
        UserError, match=r"can't be read.*: a\.xlsx sheet Sheet row 2: can't be fetched \(127\.0\.0\.1 is 127\.0\.0\.1, no public"
    ):
        load_images(path, LoadImages(label_column="species"))


LOAD = """
import sys
from embedkit import load_images
from embedkit.datasets import LoadImages
from embedkit.fetching import Fetch
load_images(sys.argv[1], LoadImages(label_column="species", fetch=Fetch(private=True, connections=2)))
"""


def test_a_load_that_was_killed_goes_on_with_what_it_had_fetched(server, tmp_path, root):
    held = threading.Event()

    def answer(request):
        number = int(request.path.strip("/"))
        if number >= 20:
            held.wait(20)
        request.give(png(number, 0, 0))

    server.answer = answer
    path = write_list(tmp_path / "a.csv", [{"file": server.at(n), "species": "x"} for n in range(30)])
    child = subprocess.Popen([sys.executable, "-c", LOAD, str(path)], env=os.environ | {"EMBEDKIT_ARTIFACTS": str(root)})
    deadline = time.monotonic() + 60
    while not {"/20", "/21"} <= set(server.asked):
        assert time.monotonic() < deadline and child.poll() is None
        threading.Event().wait(0.05)
    child.send_signal(signal.SIGKILL)
    child.wait()
    held.set()
    made = load_images(path, LoadImages(label_column="species", fetch=Fetch(private=True, connections=2)))
    asked = [server.asked[f"/{n}"] for n in range(20)]
    assert made.manifest.rows == 30 and sum(asked) <= 24 and asked[:10] == [1] * 10  # at most what four threads had in their hands
    kept = [file for file in (root / ".drafts").rglob("*") if file.is_file()] if (root / ".drafts").exists() else []
    assert not [file for file in kept if "fetched" in file.parts]
