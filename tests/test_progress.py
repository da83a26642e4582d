"""Progress: a bar for a person at a terminal, a line now and then in a log, nothing for anybody else."""

import logging
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest

from embedkit import progress

WORK = """
import sys
from embedkit import progress
with progress.of("knead"), progress.bar(10, "loaves") as advance:
    for _ in range(10):
        advance(1)
print("done")
"""


def told(caplog):
    return [record.getMessage() for record in caplog.records]


@pytest.fixture
def talkative(monkeypatch, caplog):
    """Each step is logged, as if ten seconds had passed."""
    monkeypatch.setattr(progress, "LOG_EVERY_SECONDS", 1e-9)
    caplog.set_level(logging.INFO, "embedkit")
    return caplog


def test_without_a_terminal_and_without_logging_nothing_is_shown():
    done = subprocess.run([sys.executable, "-c", WORK], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("done\n", "")


def test_a_log_gets_lines_with_how_far_of_how_much(talkative):
    with progress.of("knead"), progress.bar(1200, "loaves") as advance:
        advance(3)
        advance(1000)
    first, second = told(talkative)
    assert re.fullmatch(r"knead: 3 of 1,200 loaves, [0-9.]+ a second, [0-9,]+ s left", first)
    assert second.startswith("knead: 1,003 of 1,200 loaves, ")


def test_what_is_left_takes_as_long_as_what_was_done(talkative, monkeypatch):
    moments = iter([100.0, 100.0, 110.0, 140.0])  # two at its beginning, one of each step
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(moments)))
    with progress.bar(5000, "loaves") as advance:
        advance(500)
        advance(1500)
    assert told(talkative) == [
        "embedkit: 500 of 5,000 loaves, 50.0 a second, 90 s left",
        "embedkit: 2,000 of 5,000 loaves, 50.0 a second, 60 s left",
    ]


def test_where_the_end_is_not_known_only_what_was_done_is_said(talkative):
    with progress.of("knead"), progress.bar(None, "loaves") as advance:
        advance(7)
    assert re.fullmatch(r"knead: 7 loaves, [0-9.]+ a second", told(talkative)[0])


def test_lines_are_seconds_apart(caplog):
    caplog.set_level(logging.INFO, "embedkit")
    assert progress.LOG_EVERY_SECONDS >= 1
    with progress.bar(1000, "loaves") as advance:
        for _ in range(1000):
            advance(1)
    assert told(caplog) == []


def test_the_stage_is_named_inside_its_block_only_also_after_an_error(talkative):
    def name():
        with progress.bar(1, "loaves") as advance:
            advance(1)
        return told(talkative)[-1].partition(":")[0]

    assert name() == "embedkit"
    with pytest.raises(KeyError), progress.of("outer"):
        with progress.of("inner"):
            assert name() == "inner"
        assert name() == "outer"
        raise KeyError
    assert name() == "embedkit"


def test_an_error_in_the_block_passes_through():
    with pytest.raises(ZeroDivisionError), progress.bar(3, "loaves"):
        _ = 1 / 0


def test_at_a_terminal_there_is_a_bar_on_stderr_and_stdout_stays_clean(tmp_path):
    ours, theirs = os.openpty()
    with (tmp_path / "stdout").open("w") as stdout:
        child = subprocess.Popen(
            [sys.executable, "-c", WORK], stdout=stdout, stderr=theirs, env=os.environ | {"TERM": "xterm", "COLUMNS": "100"}
        )
        os.close(theirs)
        shown = b""
        while True:
            try:
                piece = os.read(ours, 4096)
            except OSError:  # Linux: the other side was closed
                break
            if not piece:
                break
            shown += piece
        assert child.wait() == 0
    os.close(ours)
    assert b"knead" in shown and b"loaves" in shown and b"10/10" in shown
    assert (tmp_path / "stdout").read_text() == "done\n"


def test_a_process_without_stderr_works_all_the_same():
    done = subprocess.run([sys.executable, "-c", "import sys; sys.stderr = None\n" + WORK], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "done\n")
