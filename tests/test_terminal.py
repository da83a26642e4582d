"""The terminal: what real commands print on a real terminal, in a pipe, in an ASCII locale, and where nobody listens."""

import json
import os
import pty
import re
import subprocess
import sys

import pytest
from test_cli import shell
from test_tables import plant

import embedkit
from embedkit.artifacts import Metric, list_artifacts
from embedkit.escaping import HIDDEN
from embedkit.terminal import shown

ODD = "\x1b]0;owned\x07\x1b[2J\x9b31m \u202egnp.exe\u2066 \u200b\U000e0041\x7f\x08 [red]x[/red] [link=http://a.b]y[/link] :smile:"
FAKE = f"one\nembedkit: fake\r\n\u2028classifier/fake@1  9 {ODD}"
SHOWN = r"\x1b]0;owned\x07\x1b[2J\x9b31m \u202egnp.exe\u2066 \u200b\U000e0041\x7f\x08 [red]x[/red] [link=http://a.b]y[/link]"


def on_terminal(*words, **environment):
    """A command on a terminal of its own: exit code, and what a person sees there, stdout and stderr."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "embedkit", *map(str, words)]
    environment = os.environ | {"COLUMNS": "5000", "TERM": "xterm-256color"} | environment
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, close_fds=True) as process:
        os.close(theirs)
        read = b""
        try:
            while more := os.read(ours, 2**16):
                read += more
        except OSError:  # the other side is closed
            pass
    os.close(ours)
    return process.returncode, read.decode(errors="surrogateescape").replace("\r\n", "\n")


def without_styles(text):
    """What is seen without the styles that rich itself writes."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def harmless(text):
    found = HIDDEN.sub(lambda sign: sign[0] if sign[0] == "\n" else f"<{ord(sign[0]):x}>", without_styles(text))
    return found == without_styles(text)


@pytest.fixture
def odd(root):
    """Two artifacts whose manifests say odd things wherever they can, one of them damaged."""
    first = plant(root, "texts/odd@1", source={"text": FAKE, "sha256": "0" * 64}, settings={"a": FAKE}, details={"b": [FAKE]})
    more = {"verdict": FAKE, "notes": [FAKE], "metrics": {FAKE: Metric(value=1, n=2)}, "decisions": {FAKE: FAKE}}
    second = plant(root, "texts/odd@2", {"a.txt": "b"}, inputs={FAKE: first}, environment={FAKE: FAKE}, **more)
    (second / "embedkit: fake\n\u202e\x1b[31m.txt").write_text("c")
    return first, second


def test_a_terminal_is_shown_what_it_would_obey_and_no_line_is_faked(odd):
    for words in (["show", "texts/odd"], ["list"], ["lineage", "texts/odd"], ["compare", *map(str, odd)], ["verify"]):
        code, out = on_terminal("artifacts", *words)
        assert code == (words == ["verify"]) and harmless(out), out
        lines = without_styles(out).split("\n")
        assert not [line for line in lines if line.startswith(("embedkit: fake", "classifier/fake"))], out
        if words[0] in ("show", "lineage", "compare"):
            assert SHOWN in without_styles(out), out
    assert out.count("\n") == 2 and "'embedkit: fake\\n\\u202e\\x1b[31m.txt' doesn't belong to it\n" in out


def test_json_on_a_terminal_holds_the_same_values_and_nothing_that_a_terminal_obeys(odd):
    for words in (["show", "texts/odd", "--json"], ["list", "--json"]):
        code, out = on_terminal("artifacts", *words)
        assert code == 0 and harmless(out) and "\x1b" not in out
        assert json.loads(out) == json.loads(shell("artifacts", *words).stdout)


def test_in_a_pipe_words_are_data_on_one_line(odd):
    out = shell("artifacts", "verify").stdout
    assert out.count("\n") == 1 and "'embedkit: fake\\n\\u202e\\x1b[31m.txt' doesn't belong to it" in out  # as Python writes it
    out = shell("artifacts", "show", "texts/odd", env={"COLUMNS": "5000"}).stdout
    assert not [line for line in out.split("\n") if line.startswith(("embedkit: fake", "classifier/fake"))]


def test_an_error_and_a_note_are_one_line_each_on_a_terminal(tmp_path):
    name = "odd\n\x1b[31m\u202e.csv"
    code, out = on_terminal("load-texts", name)
    assert code == 1 and out.count("\n") == 1 and harmless(out) and "\x1b" not in out
    assert out.startswith("embedkit: ") and "\\x1b[31m\\u202e.csv" in out
    (tmp_path / name).write_text("text\none text\nanother text\n")
    code, out = on_terminal("load-texts", name, "--name", "x\ny")
    assert code == 1 and out.startswith("embedkit: 'x\\ny' can't name an artifact; ") and out.count("\n") == 1
    code, out = on_terminal("load-texts", "--no\x1b[31m", name)
    assert code == 2 and out.count("\n") == 1 and "\x1b" not in out


def test_names_that_are_no_text_are_shown_by_their_bytes(tmp_path):
    (tmp_path / os.fsdecode(b"odd-\xff.csv")).write_text("text\none text\nanother text\n")
    command = [sys.executable, "-m", "embedkit", "load-texts", b"od-\xff.csv"]
    done = subprocess.run(command, capture_output=True)
    assert done.returncode == 1 and b"Traceback" not in done.stderr and done.stderr.count(b"\n") == 1 and b"\\udcff" in done.stderr


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize("environment", [ASCII, {"PYTHONIOENCODING": "latin-1"}], ids=["ascii", "latin-1"])
def test_a_stream_that_can_not_hold_a_sign_gets_an_escape(odd, tmp_path, environment):
    (tmp_path / "rows.csv").write_text("text,label\né 日本 🦊,a\nother,b\n", encoding="utf-8")
    for words, code in ((["load-texts", "rows.csv"], 0), (["artifacts", "show", "texts/odd"], 0), (["load-texts", "日本.csv"], 1)):
        command = [sys.executable, "-m", "embedkit", *words]
        done = subprocess.run(command, capture_output=True, env=os.environ | environment)
        assert done.returncode == code and b"Traceback" not in done.stderr, done.stderr
    assert done.stderr.startswith(b"embedkit: ") and done.stderr.count(b"\n") == 1


def test_every_help_page_can_be_printed_in_ascii(tmp_path):
    code = f"""
import sys
from embedkit import terminal
from embedkit.cli import main
terminal.open_streams()
print([name for name in {list(embedkit.STAGES)} if main([name.replace("_", "-"), "--help"])], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=os.environ | ASCII, text=True)
    assert (done.returncode, done.stderr) == (0, "[]\n") and done.stdout.isascii()


@pytest.mark.parametrize(
    ("command", "ending", "code"),
    [
        ("load-texts rows.csv", ">&- 2>&-", 0),
        ("load-texts rows.csv", "<&- >&- 2>&-", 0),
        ("load-texts rows.csv", "2>&1 | true; exit ${PIPESTATUS[0]}", 0),
        ("load-texts rows.csv", ">/dev/full 2>&1", 1),
        ("artifacts list", ">&-", 0),
        ("artifacts list", "2>/dev/full", 0),
        ("artifacts list", "| true; exit ${PIPESTATUS[0]}", 0),
        ("artifacts list", ">/dev/full", 1),
    ],
)
def test_where_nobody_listens_nothing_breaks(tmp_path, root, command, ending, code):
    if "full" in ending and not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    (tmp_path / "rows.csv").write_text("text\none text\nanother text\n")
    words = f"{sys.executable} -m embedkit {command} {ending}"
    done = subprocess.run(["bash", "-c", words], capture_output=True, text=True)
    assert done.returncode == code and "Traceback" not in done.stderr + done.stdout and "Exception" not in done.stderr
    if ending == ">/dev/full":
        assert re.fullmatch(r"embedkit: .*No space left on device.*\n", done.stderr)
    if command.startswith("load"):
        assert [each.manifest.rows for each in list_artifacts(root)] == [2] and not (tmp_path / "1").exists()


def test_an_error_where_nobody_listens_keeps_its_code(tmp_path):
    for ending in ("2>&-", "2>/dev/full"):
        words = f"{sys.executable} -m embedkit load-texts no-such-file {ending}"
        assert subprocess.run(["bash", "-c", words], capture_output=True).returncode == 1, ending


def test_a_line_without_a_terminal_is_as_it_came():
    assert shown(f"a\nb\t{ODD}") == f"a b\t{ODD}"


# A chain, since search and predict need an encoder


@pytest.mark.slow
def test_what_search_and_predict_find_is_shown_on_a_terminal_and_is_data_in_a_pipe(tiny_bert, tmp_path, root):
    labels = [f"good\t{ODD}\nembedkit: fake", "bad"]
    rows = [{"text": f"the {('good', 'bad')[n % 2]} film {n} {FAKE}", "label": labels[n % 2]} for n in range(60)]
    (tmp_path / "reviews.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    vectors = embedkit.embed(embedkit.load_texts(tmp_path / "reviews.jsonl"), embedkit.import_encoder(tiny_bert))
    embedkit.build_index(vectors)
    embedkit.train_head(vectors, embedkit.TrainHead(training=embedkit.Training(epochs=1, preflight=False)))
    query = f"good film {FAKE}"
    for words in (["search", "index/reviews-tiny-bert", query, "--k", "3"], ["predict", "classifier/reviews-tiny-bert", query]):
        code, out = on_terminal(*words)
        assert code == 0 and "\x1b" not in out and harmless(out) and SHOWN in out
        assert out.count("\n") == (3 if words[0] == "search" else 1)
        begins = r"[\d.]+\t\d+\tthe " if words[0] == "search" else r"(good|bad).*\t[\d.]+\t"
        assert all(re.match(begins, line) for line in out.splitlines())
        piped = shell(*words).stdout
        assert piped.count("\n") == out.count("\n") and ODD.split()[0] in piped
        code, out = on_terminal(*words, "--json")
        assert code == 0 and "\x1b" not in out and harmless(out)
        assert out.count("\n") == 1 and json.loads(out) == json.loads(shell(*words, "--json").stdout)
