"""Failures: whatever stops a command is one sentence and an exit code; the traceback of a defect is a `--debug` away."""

import errno
import json
import resource
import subprocess
import sys

import numpy as np
import pytest
from pydantic import ValidationError
from test_cli import shell

import embedkit
from embedkit.failures import exit_code, sentence
from embedkit.settings import UserError


def raised(error):
    """An error as it is when it was raised."""
    try:
        raise error
    except type(error) as found:
        return found


def test_what_a_user_can_mend_is_said_as_it_was_written():
    assert sentence(UserError("a is b;\n do c")) == "a is b; do c"
    assert sentence(FileNotFoundError(2, "No such file or directory", "a\nb")) == r"[Errno 2] No such file or directory: 'a\nb'"
    assert len(sentence(ValueError("x" * 10_000))) == 1000


def test_a_refused_setting_is_named_with_what_came_on_one_line():
    with pytest.raises(ValidationError) as found:
        embedkit.LoadTexts(split="x\ny" * 1000)  # pyright: ignore[reportArgumentType]
    words = sentence(found.value)
    assert words.startswith(r"the setting split can't be 'x\nyx") and "\n" not in words and len(words) < 1200
    assert exit_code(found.value) == 2 and exit_code(UserError("a")) == 1


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("Error in void faiss::alloc() at x.cpp:1: std::bad_alloc"),
        RuntimeError("can't start new thread"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        type("ResourceExhaustedError", (Exception,), {})("OOM when allocating tensor with shape[9999999,99999]"),
    ],
    ids=repr,
)
def test_too_little_memory_is_said_in_whatever_words_it_comes(error):
    assert sentence(error).startswith("there is not enough memory for this (") and exit_code(error) == 1
    assert sentence(error).endswith("); close what else runs, or ask for less at a time")


def test_an_array_that_no_machine_can_hold_is_too_little_memory():
    with pytest.raises(MemoryError) as found:
        np.zeros((10**9, 10**6))
    assert sentence(found.value).startswith("there is not enough memory for this (Unable to allocate 7.11 PiB")


def test_nested_too_deeply_and_too_large_a_number():
    with pytest.raises(RecursionError) as deep:
        json.loads("[" * 10**6)
    assert sentence(deep.value).startswith("something that came is nested too deeply (maximum recursion depth exceeded")
    with pytest.raises(OverflowError) as large:
        float(10**400)
    assert sentence(large.value) == "a number is too large for this (int too large to convert to float); give a smaller one"


def test_a_defect_is_said_with_its_kind_and_place():
    error = raised(KeyError("a\nb"))
    place = rf"test_failures.py:{error.__traceback__.tb_lineno}"
    assert sentence(error) == rf"this is a defect of embedkit: KeyError: 'a\nb' ({place}); report it with what --debug shows"
    assert exit_code(error) == 1
    with pytest.raises(AttributeError) as found:
        embedkit.LoadTexts.model_construct(files=None) and embedkit.artifacts.parse_reference(None)
    assert "(artifacts.py:" in sentence(found.value)
    assert "(no place is known)" in sentence(KeyError("a"))


def test_a_defect_in_a_command_is_one_line_and_a_traceback_on_demand(tmp_path):
    code = """
import sys
from embedkit import cli, tables
def odd(*_):
    if _[0] == "os.scandir" or _[0] == "os.listdir":
        raise KeyError("a defect")
sys.addaudithook(odd)
sys.exit(cli.main(["artifacts", "list", *sys.argv[1:]]))
"""
    (tmp_path / "artifacts").mkdir()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("embedkit: this is a defect of embedkit: KeyError: 'a defect' (artifacts.py:")
    done = subprocess.run([sys.executable, "-c", code, "--debug"], capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" in done.stderr and "KeyError: 'a defect'" in done.stderr


def test_a_command_that_runs_out_of_memory_ends_with_a_sentence(tmp_path):
    (tmp_path / "rows.txt").write_text("a" * 400_000_000)  # one line

    def little():
        resource.setrlimit(resource.RLIMIT_AS, (900_000_000, 900_000_000))

    done = shell("load-texts", "rows.txt", "--files.longest-line", "500000000", preexec_fn=little)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("embedkit: there is not enough memory (")


def test_debug_behind_two_dashes_is_a_word():
    done = shell("artifacts", "show", "--", "--debug")
    assert done.returncode == 1 and done.stderr.startswith("embedkit: '--debug' is no reference;")
