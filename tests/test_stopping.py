"""Stopping: real signals to real processes, while a command loads, runs and ends."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest
from test_cli import interrupted, shell

import embedkit
from embedkit.artifacts import Artifact, list_artifacts

SAID = {"SIGINT": "interrupted", "SIGTERM": "terminated", "SIGHUP": "the terminal was closed"}
NUMBERS = [getattr(signal, name) for name in SAID if hasattr(signal, name)]


def sentence(number):
    return f"embedkit: {SAID[signal.Signals(number).name]}; the same command goes on where it stopped\n"


def attentive():
    """Signals as a terminal gives them: a test run by `nohup` or in the background hands on that some are ignored."""
    for number in NUMBERS:
        signal.signal(number, signal.SIG_DFL)


def started(code, **options):
    """A Python program of its own."""
    options = {"preexec_fn": attentive} | options
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def ended(code, **options):
    """What a program of its own came to: exit code, stdout, stderr."""
    process = started(code, **options)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.mark.parametrize("number", NUMBERS[1:], ids=[signal.Signals(number).name for number in NUMBERS[1:]])
def test_a_signal_says_that_the_same_command_goes_on_and_it_does(number, tmp_path, root):
    path = tmp_path / "rows.txt"
    path.write_text("".join(f"text number {n} of many\n" for n in range(60_000)))

    def until_two_parts_are_finished(process):
        while process.poll() is None and len(list(root.glob(".drafts/*/work/receipts/*.json"))) < 2:
            time.sleep(0.005)
        return ""

    words = ["load-texts", path, "--rows-per-part", "1000"]
    code, out, err = interrupted(["-m", "embedkit", *words], until_two_parts_are_finished, number=number)
    assert (code, out, err) == (128 + number, "", "load_texts: starts\n" + sentence(number))
    assert list_artifacts() == []
    done = shell(*words)
    assert done.returncode == 0 and done.stderr.startswith("load_texts: goes on in ")
    undisturbed = embedkit.load_texts(path, embedkit.LoadTexts(rows_per_part=1000), root=tmp_path / "undisturbed")
    assert Artifact.open(done.stdout.strip()).manifest.files == undisturbed.manifest.files


@pytest.mark.parametrize(
    ("number", "module"), [(signal.SIGINT, "cyclopts"), (signal.SIGINT, "embedkit.cli"), (signal.SIGTERM, "cyclopts")]
)
def test_a_command_that_is_loading_ends_with_a_sentence(number, module):
    def until_it_is_imported(process):
        lines = []
        for line in process.stderr:
            lines.append(line)
            if re.search(rf"\| +{re.escape(module)}$", line.rstrip()):
                break
        return "".join(lines)

    words = ["-X", "importtime", "-m", "embedkit", "artifacts", "list"]
    code, out, err = interrupted(words, until_it_is_imported, number=number)
    assert "Traceback" not in err and (code, out) == (128 + number, "")
    assert "".join(line for line in err.splitlines(keepends=True) if not line.startswith("import time:")) == sentence(number)


def test_a_signal_that_was_ignored_stays_ignored(reviews):
    code = f"""
import os, signal, sys
from embedkit import stopping
stopping.at_once(), stopping.gently()
os.kill(os.getpid(), {int(signal.SIGINT)}), os.kill(os.getpid(), {int(NUMBERS[-1])})
print("still there")
"""

    def ignore():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(NUMBERS[-1], signal.SIG_IGN)

    assert ended(code, preexec_fn=ignore) == (0, "still there\n", "")


@pytest.mark.parametrize("number", NUMBERS, ids=[signal.Signals(number).name for number in NUMBERS])
def test_a_second_signal_does_not_wait_for_what_the_first_one_tidies_up(number):
    code = f"""
import os, time
from embedkit import stopping
stopping.gently()
try:
    os.kill(os.getpid(), {int(number)})
finally:
    print("tidying up", flush=True)
    os.kill(os.getpid(), {int(signal.SIGINT)})
    print("never comes here")
"""
    assert ended(code) == (130, "tidying up\n", sentence(signal.SIGINT))


def test_a_signal_ends_a_command_too_where_python_can_not_raise():
    code = """
import os, signal
from embedkit import stopping
stopping.gently()
class Odd:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        sum(range(10))
odd = Odd()
del odd
print("never comes here")
"""
    assert ended(code) == (130, "", sentence(signal.SIGINT))


def test_a_signal_that_a_library_makes_another_error_of_is_still_a_signal(reviews):
    code = f"""
import os, signal, sys
from embedkit import cli, readers, stopping
def odd(*_):
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except BaseException as error:
        raise RuntimeError("UNKNOWN: Stopped") from error
sys.addaudithook(lambda event, found: odd() if event == "open" and str(found[0]).endswith("reviews.csv") else None)
stopping.gently()
sys.exit(cli.main(["load-texts", {str(reviews)!r}]))
"""
    done, out, err = ended(code)
    assert (done, out) == (128 + signal.SIGTERM, "") and err.endswith(sentence(signal.SIGTERM)) and "Traceback" not in err


def test_when_all_is_done_a_signal_changes_nothing():
    code = """
import os, signal
from embedkit import stopping
stopping.gently(), stopping.quietly(7)
os.kill(os.getpid(), signal.SIGINT)
"""
    assert ended(code) == (7, "", "")


def test_importing_the_library_answers_no_signal_and_takes_next_to_nothing():
    code = """
import sys
before = set(sys.modules)
import embedkit, embedkit.__main__
print({name for name in set(sys.modules) - before if not name.startswith("embedkit")} - {"signal", "enum", "types", "operator",
    "_operator", "functools", "_functools", "collections", "keyword", "reprlib", "itertools", "_collections"})
import signal
print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, signal.getsignal(signal.SIGINT) is signal.default_int_handler)
"""
    assert ended(code) == (0, "set()\nTrue True\n", "")


def test_a_library_that_nobody_set_logging_up_for_says_nothing(reviews):
    code = f"import embedkit; embedkit.load_texts({str(reviews)!r})"
    assert ended(code, env=os.environ) == (0, "", "")
