"""The command line: the result on stdout and nothing else, one sentence for an error, and exit codes that scripts can trust."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

import embedkit
from embedkit.artifacts import Artifact, list_artifacts
from embedkit.cli import main
from embedkit.entities import TableTraining

COMMANDS = [name.replace("_", "-") for name in embedkit.STAGES]
FRAMEWORKS = ("tensorflow", "keras", "keras_hub", "numpy", "pyarrow", "prefect", "transformers", "datasets", "faiss", "sklearn")


def shell(*words, env=None, **options):
    """The command `embedkit` in a process of its own."""
    command = [sys.executable, "-m", "embedkit", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | (env or {}), **options)


@pytest.fixture
def embed_kit(capsys):
    """`embedkit ...` in this process, as exit code, stdout, stderr."""

    def run(*words):
        code = main([str(word) for word in words])
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def refused(embed_kit):
    """`embedkit ...` where it is refused: the code, and the one sentence on stderr. Notes may come before it."""

    def run(*words):
        code, out, err = embed_kit(*words)
        assert code in (1, 2) and out == "" and err.endswith("\n") and "Traceback" not in err
        *_, last = err[:-1].split("\n")
        assert last.startswith("embedkit: ")
        return code, last.removeprefix("embedkit: ")

    return run


def help_of(embed_kit, monkeypatch, *words):
    """A help page without line breaks in its sentences."""
    monkeypatch.setenv("COLUMNS", "400")
    code, out, err = embed_kit(*words, "--help")
    assert (code, err) == (0, "")
    return out


# Help


def test_help_names_every_command_with_its_first_sentence(embed_kit, monkeypatch):
    out = help_of(embed_kit, monkeypatch)
    for name, module in embedkit.STAGES.items():
        stage = getattr(__import__(module, fromlist=[name]), name)
        assert re.search(rf"{name.replace('_', '-')} +{re.escape(stage.__doc__.splitlines()[0])}", out), name
    for name in ("predict", "search", "neighbours", "layers", "quickstart", "ui", "artifacts", "--version"):
        assert f" {name} " in out
    assert "Add --debug to any command" in out


@pytest.mark.parametrize("words", [[], ["artifacts", "prune"], ["load-texts"], ["train-head"]])
def test_help_fits_80_columns(words):
    out = shell(*words, "--help", env={"COLUMNS": "80"}).stdout
    assert max(map(len, out.split("\n"))) <= 80 and f"Usage: embedkit {' '.join(words)}".strip() in out


def fields_of(settings, prefix=""):
    """Every setting that can be given, dotted where nested, with its field."""
    for name, field in settings.model_fields.items():
        if isinstance(field.default, embedkit.Settings):
            yield from fields_of(type(field.default), f"{prefix}{name}.")
        else:
            yield prefix + name, field


def words_only(text):
    return " ".join(re.sub("│", " ", text.replace("`", "")).split())


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_stage_shows_every_setting_with_its_help_and_no_more_dots_than_needed(embed_kit, monkeypatch, command):
    stage = getattr(embedkit, command.replace("-", "_"))
    out = words_only(help_of(embed_kit, monkeypatch, command))
    fields = dict(fields_of(stage.Settings))
    assert fields
    for name, field in fields.items():
        assert f"--{name.replace('_', '-')}" in out.split(), name
        assert words_only(field.description) in out, name
    for name in stage.inputs:
        assert name.upper() in out
    assert "--name STR Name of the artifact, for people" in out and "--root PATH Where artifacts lie" in out
    assert "--json Print JSON instead." in out and "--settings" not in out and "--as-json" not in out


def test_help_of_predict_shows_every_setting_with_its_help(embed_kit, monkeypatch):
    out = words_only(help_of(embed_kit, monkeypatch, "predict"))
    for name, field in fields_of(embedkit.Predict):
        assert f"--{name.replace('_', '-')}" in out.split() and words_only(field.description) in out, name
    assert "CLASSIFIER" in out and "SOURCES" in out and "--root PATH Where artifacts lie" in out
    assert "--json Print JSON instead." in out and "--settings" not in out


def test_help_shows_the_defaults_that_count(embed_kit, monkeypatch):
    out = words_only(help_of(embed_kit, monkeypatch, "train-head"))
    default = embedkit.TrainHead().training
    assert default.epochs is None and "by default 1,000 for a head, 60 for an autoencoder, and" in out
    assert re.search(rf"--training.patience INT [^\[]*\[default: {default.patience}\]", out)


def test_help_imports_no_framework():
    code = f"""
import sys
from embedkit.cli import main
assert main(["--help"]) == 0
assert main([]) == 0
assert main(["--version"]) == 0
assert main(["artifacts", "--help"]) == 0
print([name for name in {FRAMEWORKS} if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "[]\n") and done.stdout.count("load-texts") == 2


def test_importing_embedkit_imports_no_framework():
    code = f"import sys, embedkit; dir(embedkit); print([name for name in {FRAMEWORKS} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


@pytest.mark.parametrize("command", ["load-texts", "train-head", "predict"])  # one that needs none, two that do
def test_help_of_a_stage_imports_no_tensorflow(command):
    code = f"""
import sys
from embedkit.cli import main
assert main([{command!r}, "--help"]) == 0
print([name for name in ("tensorflow", "keras", "prefect", "transformers") if name in sys.modules], file=sys.stderr)
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr == "[]\n"


def test_version_and_help_by_their_short_names(embed_kit):
    code, out, _ = embed_kit("--version")
    assert (code, out) == (0, "0.1.0\n")
    assert embed_kit("-h")[1] == embed_kit("--help")[1] == embed_kit()[1]
    assert embed_kit("artifacts")[:2] == embed_kit("artifacts", "--help")[:2]


# Results


def test_stdout_is_the_reference_and_notes_go_to_stderr(embed_kit, reviews):
    code, out, err = embed_kit("load-texts", reviews)
    artifact = Artifact.open("texts/reviews")
    assert (code, out) == (0, f"{artifact}\n")
    first, shares, read, last = err.splitlines()
    assert first == "load_texts: starts" and re.match(r"train \d+ rows \(.*\), validation .*; classes in train, .*: neg ", shares)
    assert read == f"{reviews}: 120 records, 120 rows; 'text' is text; 'label' is label: class (words)"
    assert last == f"{artifact}: published, 120 rows in {artifact.manifest.seconds:.1f} s"
    code, out, err = embed_kit("load-texts", reviews)
    assert (code, out) == (0, f"{artifact}\n") and err == f"{artifact}: reused, made {artifact.manifest.created}\n"


def test_json_is_the_manifest(embed_kit, reviews):
    code, out, _ = embed_kit("load-texts", reviews, "--json")
    manifest = json.loads(out)
    assert code == 0 and (manifest["kind"], manifest["name"], manifest["rows"]) == ("texts", "reviews", 120)
    assert manifest == Artifact.open("texts/reviews").manifest.model_dump(mode="json")


def test_options_are_settings_and_nested_ones_are_dotted(embed_kit, tmp_path):
    (tmp_path / "rows.csv").write_text("words;stars\n" + "".join(f"text {n};{n % 2}\n" for n in range(30)))
    code, out, _ = embed_kit(
        *("load-texts", "rows.csv", "--files.delimiter", ";", "--files.limit=20", "--text-column", "words", "--seed", 3),
        *("--label-column", "stars", "--validation-share", "0.2", "--unlabelled", "7", "--unlabelled", "8", "--name", "mine"),
    )
    manifest = Artifact.open("texts/mine").manifest
    assert code == 0 and out.startswith("texts/mine@") and manifest.rows == 20
    given = embedkit.LoadTexts(
        **{"text_column": "words", "label_column": "stars", "seed": 3, "validation_share": 0.2, "unlabelled": ("7", "8")},
        files={"delimiter": ";", "limit": 20},
    )
    assert manifest.settings == given.model_dump(mode="json")


def test_a_python_call_and_a_command_are_the_same_call(embed_kit, reviews):
    artifact = embedkit.load_texts(reviews, embedkit.LoadTexts(seed=4))
    assert embed_kit("load-texts", reviews, "--seed", 4)[1] == f"{artifact}\n"


def test_inputs_that_may_be_left_out_are_options(embed_kit, refused, monkeypatch, tmp_path):
    out = help_of(embed_kit, monkeypatch, "distil")
    assert "distil [OPTIONS] TEACHER DATASET\n" in out
    assert re.search(r"--unlabelled +STR +more rows to learn from", out)
    assert re.search(r"--start +STR +an encoder to start from", out)
    (tmp_path / "goods.csv").write_text("size,label\n" + "".join(f"{row * 1.5},{'ab'[row % 2]}\n" for row in range(60)))
    assert embed_kit("load-table", "goods.csv", "--label-column", "label")[0] == 0
    assert embed_kit("make-control", "table/goods")[0] == 0
    distil = ("distil", "encoder/goods-control", "table/goods")
    assert "give start, an encoder for them that is smaller" in refused(*distil)[1]
    assert "layers is not for one that starts from encoder/goods-control@" in refused(
        *distil, "--start", "encoder/goods-control", "--layers", "2"
    )[1]
    assert "distil takes encoder or classifier as its start, but table/goods@" in refused(*distil, "--start", "table/goods")[1]


def test_root_and_name_are_where_and_how_it_is_called(embed_kit, reviews, tmp_path, root):
    code, out, _ = embed_kit("load-texts", reviews, "--root", tmp_path / "other", "--name", "mine")
    assert code == 0 and [str(one) for one in list_artifacts(tmp_path / "other")] == [out.strip()] and not root.exists()
    assert embed_kit("artifacts", "show", "texts/mine", "--root", "other")[0] == 0


def test_two_dashes_end_the_options(embed_kit, tmp_path):
    (tmp_path / "-odd.txt").write_text("one text\nanother text\n")
    assert embed_kit("load-texts", "--", "-odd.txt")[0] == 0


# Errors that the user can mend: exit code 1


def test_a_missing_file(refused, reviews, tmp_path):
    code, sentence = refused("load-texts", "reviws.csv")
    assert (code, sentence) == (1, f"in {tmp_path}, the file or folder 'reviws.csv' is not known; did you mean 'reviews.csv'?")


def test_a_wrong_column(refused, reviews):
    code, sentence = refused("load-texts", reviews, "--text-column", "txt")
    assert (code, sentence) == (1, "text column 'txt' is not known; did you mean 'text'? (set text_column)")


def test_an_unknown_reference(refused, reviews, embed_kit):
    embed_kit("load-texts", reviews)
    code, sentence = refused("embed", "texts/review", "encoder/minilm")
    assert code == 1 and sentence.startswith("artifact 'texts/review' is not known; did you mean 'texts/reviews'?")
    code, sentence = refused("embed", "texts/reviews", "texts/reviews")
    assert code == 1 and re.fullmatch("embed takes encoder or classifier as its encoder, but texts/reviews@.* came.*", sentence)
    assert refused("embed", "../../etc", "encoder/x")[1].startswith("'../../etc' is no reference; it must read kind/name")


def test_a_search_without_a_query_or_an_index(refused):
    assert refused("search", "index/x") == (1, "there is no query; give one text, or one path of a picture, or several")
    code, sentence = refused("search", "index/x", "a text")
    assert code == 1 and sentence.startswith("artifact 'index/x' is not known; there is none")


def test_a_root_that_can_not_be_one(refused, reviews):
    for words in (["load-texts", reviews, "--root", reviews], ["load-texts", reviews, "--root", "/proc/nowhere"]):
        code, sentence = refused(*words)
        assert code == 1 and str(words[-1]) in sentence


def test_an_error_is_one_line_whatever_line_breaks_came(embed_kit, tmp_path):
    (tmp_path / "a\nb").mkdir()
    code, out, err = embed_kit("load-texts", "a\nb/c.csv")
    assert (code, out, err) == (1, "", f"embedkit: in {tmp_path}/a b, the file or folder 'c.csv' is not known; there is none\n")


def test_debug_shows_the_traceback_wherever_it_stands(embed_kit):
    for words in (["--debug", "artifacts", "show", "texts/x"], ["artifacts", "show", "--debug", "texts/x"]):
        with pytest.raises(embedkit.UserError, match="'texts/x' is not known"):
            embed_kit(*words)
    done = shell("artifacts", "show", "texts/x", "--debug")
    assert done.returncode == 1 and "Traceback" in done.stderr and done.stdout == ""
    done = shell("artifacts", "show", "texts/x")
    assert done.returncode == 1 and "Traceback" not in done.stderr and done.stderr.count("\n") == 1


# Wrong usage: exit code 2


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["load-text", "x"], 'Unknown command "load-text". Did you mean "load-texts".*'),
        (["load_texts", "x"], 'Unknown command "load_texts". Did you mean "load-texts".*'),
        (["artifacts", "shw"], 'Unknown command "shw". Did you mean "show".*'),
        (["load-texts"], 'Command "load-texts" parameter SOURCE requires an argument.'),
        (["embed", "texts/x"], 'Command "embed" parameter ENCODER requires an argument.'),
        (["artifacts", "show"], 'Command "artifacts show" parameter .*reference.* requires an argument.'),
        (["load-texts", "x", "y"], ".*'y'.*"),
        (["load-texts", "x", "--label-colum", "y"], "Unknown option: --label-colum. Did you mean --label-column."),
        (["load-texts", "x", "--files.limits", "3"], "Unknown option: --files.limits. Did you mean --files.limit."),
        (["load-texts", "x", "--seed"], ".*--seed.* requires an argument."),
        (["load-texts", "x", "--rows-per-part", "0"], "the setting rows_per_part can't be '0': Input should be greater than 0"),
        (["load-texts", "x", "--seed", "y"], "the setting seed can't be 'y': Input should be a valid integer.*"),
        (["load-texts", "x", "--split", "odd"], "the setting split can't be 'odd': Input should be 'auto', 'source', .*"),
        (["load-texts", "x", "--test-share", "nan"], "the setting test_share can't be 'nan': .*"),
        (
            ["train-head", "x", "--training.layer-rates", "block"],
            r"the setting training.layer_rates.0 can't be 'block': NAME=FACTOR is meant, such as block_1\*=0.1",
        ),
        (["load-texts", "x", "--corrections", "no.csv"], "the setting corrections can't be 'no.csv': in .*'no.csv' is not known.*"),
        (["train-head", "x", "--training.epochs", "0"], "the setting training.epochs can't be '0': Input should be greater than 0"),
        (["search", "index/x", "a", "--k", "many"], '.*--k.*"many".*int.*'),
        (["--root", "x", "load-texts", "y"], ".*--root.*"),
        (["artifacts", "prune", "--keep", "x"], '.*--keep.*"x".*int.*'),
    ],
)
def test_wrong_usage_is_one_sentence_and_exit_code_2(refused, words, sentence):
    code, said = refused(*words)
    assert re.fullmatch(sentence, said), said
    assert code == 2


def test_a_setting_out_of_bounds_is_wrong_usage_in_every_command(refused):
    code, sentence = refused("search", "index/x", "a text", "--k", "0")
    assert (code, sentence) == (2, "the setting k can't be 0: Input should be greater than or equal to 1")


# The chain, in real processes


CHAIN = """
import json, os, sys
from embedkit.cli import main
os.dup2(os.open("stderr", os.O_RDWR | os.O_CREAT), 2)
os.dup2(os.open("stdout", os.O_RDWR | os.O_CREAT), 1)
printed, done = {}, {}
for words in json.loads(sys.argv[1]):
    os.truncate("stdout", 0), os.truncate("stderr", 0), os.lseek(1, 0, 0), os.lseek(2, 0, 0)
    code = main([printed.get(word, word) for word in words])
    sys.stdout.flush(), sys.stderr.flush()
    done[words[0]] = [code, open("stdout").read(), open("stderr").read()]
    printed[f"${words[0]}"] = done[words[0]][1].strip()
json.dump(done, open("done.json", "w"))
"""


@pytest.fixture(scope="module")
def chained(tmp_path_factory, tiny_bert):
    """Every command of the chain, each given the reference that an earlier one printed; test_readme runs it in a real shell.

    They share a process of their own, whose stdout and stderr are files, since each start of TensorFlow takes seconds.
    """
    folder = tmp_path_factory.mktemp("chain")
    lines = [f"the {('good', 'bad')[n % 2]} film number {n},{('pos', 'neg')[n % 2]}" for n in range(120)]
    (folder / "reviews.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    commands = [
        ["load-texts", "reviews.csv", "--label-column", "label"],
        ["import-encoder", str(tiny_bert)],
        ["embed", "$load-texts", "$import-encoder"],
        ["train-head", "$embed", "--training.epochs", "3", "--training.batch-size", "32", "--json"],
        ["build-index", "$embed"],
        ["search", "$build-index", "the good film number 8", "a bad cat", "--k", "3"],
    ]
    environment = os.environ | {"EMBEDKIT_ARTIFACTS": str(folder / "artifacts")}
    subprocess.run([sys.executable, "-c", CHAIN, json.dumps(commands)], cwd=folder, env=environment, check=True)
    done = {name: SimpleNamespace(stdout=out, stderr=err, returncode=code)
            for name, (code, out, err) in json.loads((folder / "done.json").read_text()).items()}
    assert all(one.returncode == 0 for one in done.values()), done
    return folder / "artifacts", done


def test_commands_chain_by_the_references_they_print(chained):
    root, done = chained
    printed = [done[command].stdout for command in ("load-texts", "import-encoder", "embed", "build-index")]
    assert all(re.fullmatch(r"[\w.-]+/[\w.-]+@\d{8}T\d{6}Z-[0-9a-f]{8}\n", line) for line in printed)
    texts, encoder, vectors, index = (Artifact.open(line.strip(), root) for line in printed)
    assert vectors.inputs == {"dataset": texts, "encoder": encoder} and index.inputs == {"vectors": vectors}
    assert [one.manifest.kind for one in list_artifacts(root)] == ["classifier", "encoder", "index", "texts", "vectors"]
    assert all(one.problems() == [] for one in list_artifacts(root))


def test_nothing_but_notes_of_embedkit_is_on_stderr(chained):
    root, done = chained
    names = {"load-texts": "texts", "import-encoder": "encoder", "embed": "vectors", "train-head": "classifier"}
    names["build-index"] = "index"
    for command, kind in names.items():
        trains = command == "train-head"  # it alone trains, and was asked for its manifest
        lines = done[command].stderr.rstrip("\n").split("\n")
        assert lines[0] == f"{command.replace('-', '_')}: starts", lines
        assert re.fullmatch(rf"{kind}/\S+: published, (\d+ rows )?in [\d.]+ s", lines[-1])
        checks = [check["line"] for check in json.loads(done[command].stdout)["decisions"]["preflight"].values()] if trains else []
        told = r"epoch \d+: loss|train \d+ rows \(|\S+: \d+ records, \d+ rows; 'text' is text"
        assert [line for line in lines[1:-1] if not re.match(told, line)] == checks
    assert done["search"].stderr == ""


def test_a_nested_option_changes_that_setting_and_no_other(chained):
    root, done = chained
    manifest = json.loads(done["train-head"].stdout)
    expected = embedkit.TrainHead().training.model_copy(update={"epochs": 3, "batch_size": 32})
    assert manifest["settings"]["training"] == expected.model_dump(mode="json")
    assert manifest["details"]["epochs"] == 3 and manifest["kind"] == "classifier"


def test_search_prints_score_id_and_text_the_nearest_first(chained):
    root, done = chained
    lines = [line.split("\t") for line in done["search"].stdout.rstrip("\n").split("\n")]
    assert len(lines) == 6 and all(len(line) == 3 for line in lines)
    scores = [float(score) for score, _, _ in lines]
    assert scores[:3] == sorted(scores[:3], reverse=True) and scores[3:] == sorted(scores[3:], reverse=True)
    assert lines[0][2] == "the good film number 8" and lines[0][0] == "1.0000"


@pytest.fixture(scope="module")
def towns(tmp_path_factory):
    """An artifact root with an encoder whose column `town` has 12 values, two epochs old."""
    folder = tmp_path_factory.mktemp("towns")
    lines = [f"town {chr(97 + row % 12)},{row % 7},{'ab'[row % 12 < 6]}" for row in range(240)]
    (folder / "sales.csv").write_text("\n".join(["town,size,label", *lines]) + "\n")
    root = folder / "artifacts"
    table = embedkit.load_table(folder / "sales.csv", embedkit.LoadTable(label_column="label"), root=root)
    training = TableTraining(epochs=2, batch_size=64, preflight=False)
    embedkit.learn_categories(table, embedkit.LearnCategories(folds=0, training=training), root=root)
    return root


def test_neighbours_prints_score_count_and_value_the_nearest_first(embed_kit, towns):
    code, out, err = embed_kit("neighbours", "encoder/sales-categories", "town", "town a", "--k", 3, "--root", towns)
    lines = [line.split("\t") for line in out.rstrip("\n").split("\n")]
    found = embedkit.neighbours("encoder/sales-categories", "town", "town a", embedkit.Neighbours(k=3), root=towns)
    assert (code, err) == (0, "") and lines == [[f"{near.score:.4f}", str(near.count), near.value] for near in found]
    scores = [float(score) for score, _, _ in lines]
    assert len(lines) == 3 and scores == sorted(scores, reverse=True) and all(value != "town a" for _, _, value in lines)
    code, out, _ = embed_kit("neighbours", "encoder/sales-categories", "town", "town a", "--root", towns, "--json")
    told = json.loads(out)
    assert code == 0 and told["value"] == "town a" and len(told["neighbours"]) == 10
    assert told["neighbours"][:3] == [near.model_dump() for near in found]


def test_neighbours_of_what_is_not_there_is_one_sentence(refused, towns):
    asked = ("neighbours", "encoder/sales-categories")
    code, sentence = refused(*asked, "town", "town q", "--root", towns)
    assert code == 1 and sentence.startswith("value of 'town' 'town q' is not known; did you mean 'town ")
    assert sentence.endswith("(rarer ones have no vector of their own)")
    code, sentence = refused(*asked, "size", "3", "--root", towns)
    assert (code, sentence) == (1, "embedded column 'size' is not known; there is town")
    assert refused(*asked, "town", "town a", "--k", "0", "--root", towns)[0] == 2


def test_the_artifacts_of_a_chain_can_be_looked_at(chained, embed_kit):
    root, _ = chained
    code, out, _ = embed_kit("artifacts", "lineage", "classifier/reviews-tiny-bert", "--root", root)
    roles = [line.strip(" └├─│").partition(":")[0] for line in out.split("\n")[1:4]]
    assert code == 0 and roles == ["vectors", "dataset", "encoder"]
    assert embed_kit("artifacts", "verify", "--root", root)[:2] == (0, "5 artifacts are as published\n")
    for kind in ("texts/reviews", "encoder/tiny-bert", "vectors/reviews-tiny-bert", "classifier/reviews-tiny-bert"):
        code, out, _ = embed_kit("artifacts", "show", kind, "--root", root)
        assert code == 0 and max(map(len, out.split("\n"))) <= 80


# Interruption: exit code 130


def interrupted(words, when, attempts=5, number=signal.SIGINT):
    """Run a command and send it a real signal when it has come that far; its exit code, stdout and stderr."""
    for _ in range(attempts):
        process = subprocess.Popen(
            [sys.executable, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # a shell's background jobs ignore some
        )
        before = when(process)
        process.send_signal(number)
        out, err = process.communicate()
        if process.returncode != 0:  # else it was done before
            break
    return process.returncode, out, before + err


def test_an_interrupted_command_says_that_the_same_command_goes_on_and_it_does(tmp_path, root):
    path = tmp_path / "rows.txt"
    path.write_text("".join(f"text number {n} of many\n" for n in range(60_000)))

    def until_two_parts_are_finished(process):
        while process.poll() is None and len(list(root.glob(".drafts/*/work/receipts/*.json"))) < 2:
            time.sleep(0.005)
        return ""

    words = ["load-texts", path, "--rows-per-part", "1000"]
    code, out, err = interrupted(["-m", "embedkit", *words], until_two_parts_are_finished)
    assert (code, out) == (130, "")
    assert err == "load_texts: starts\nembedkit: interrupted; the same command goes on where it stopped\n"
    assert list_artifacts() == [] and len(list(root.glob(".drafts/*/work/receipts/*.json"))) >= 2
    done = shell(*words)
    assert done.returncode == 0 and done.stderr.startswith("load_texts: goes on in ")
    artifact = Artifact.open(done.stdout.strip())
    undisturbed = embedkit.load_texts(path, embedkit.LoadTexts(rows_per_part=1000), root=tmp_path / "undisturbed")
    assert artifact.manifest.files == undisturbed.manifest.files and artifact.manifest.rows == 60_000


def test_a_command_interrupted_while_it_is_loading_says_the_same(reviews):
    def until_pyarrow_is_imported(process):
        lines = []
        for line in process.stderr:
            lines.append(line)
            if re.search(r"\| +pyarrow$", line.rstrip()):
                break
        return "".join(lines)

    code, out, err = interrupted(["-X", "importtime", "-m", "embedkit", "load-texts", str(reviews)], until_pyarrow_is_imported)
    assert "Traceback" not in err and "embedkit: interrupted; the same command goes on where it stopped" in err
    assert (code, out) == (130, "")


# When the disk refuses, as a user sees it


def test_a_full_disk_is_one_sentence_and_the_same_command_goes_on(tmp_path):
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("can't mount a small disk here")
    try:
        path = tmp_path / "rows.txt"
        path.write_text("".join(f"{os.urandom(60).hex()}\n" for _ in range(3000)))
        words = ["load-texts", path, "--root", place / "artifacts", "--rows-per-part", 200]
        done = shell(*words)
        assert (done.returncode, done.stdout) == (1, "") and "Traceback" not in done.stderr
        sentence = r"there is no space left on the disk \(.*\); mend that and make the same call again: it goes on where it stopped"
        assert re.fullmatch(rf"load_texts: starts\nembedkit: {sentence}\n", done.stderr)
        subprocess.run(["mount", "-o", "remount,size=20m", place], check=True)
        done = shell(*words)
        assert done.returncode == 0 and done.stderr.startswith("load_texts: goes on in ")
        assert Artifact.open(done.stdout.strip(), place / "artifacts").manifest.rows == 3000
    finally:
        subprocess.run(["umount", "-l", place], check=True)  # -l: a failed writer may still hold its file


def test_a_closed_pipe_ends_a_command_quietly(reviews, embed_kit):
    embed_kit("load-texts", reviews)
    command = f"{sys.executable} -m embedkit artifacts show texts/reviews --json | true"
    assert subprocess.run(["bash", "-c", command], capture_output=True, text=True).stderr == ""


def test_a_result_that_can_not_be_written_is_an_error(reviews):
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "embedkit", "artifacts", "list"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr and "No space left on device" in done.stderr


def test_main_may_be_called_again_and_leaves_log_and_stdout_as_they_were(reviews, capsys):
    logger, stdout = logging.getLogger("embedkit"), sys.stdout
    level = logger.level
    logger.setLevel(logging.NOTSET)
    try:
        before = logger.level, logger.propagate, list(logger.handlers)
        assert [main(["load-texts", "reviews.csv"]) for _ in range(2)] == [0, 0]
        assert main(["artifacts", "list", "--root", "x" * 5000]) == 1  # the system refuses such a name
        assert main(["artifacts", "list"]) == 0 and main(["nonsense"]) == 2
        assert (logger.level, logger.propagate, list(logger.handlers)) == before
        assert sys.stdout is stdout
        assert "File name too long" in capsys.readouterr().err
    finally:
        logger.setLevel(level)
