"""The house rules: what every module, every setting and every stage of embedkit keeps to."""

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import embedkit
from embedkit.artifacts import Artifact
from embedkit.cli import main
from embedkit.settings import Settings
from embedkit.sources import Source
from embedkit.stages import Facts, Stage

PACKAGE = Path(embedkit.__file__).parent
MODULES = sorted(module.name for module in pkgutil.iter_modules([str(PACKAGE)]) if module.name != "__main__")
TREES = {path.stem: ast.parse(path.read_text()) for path in sorted(PACKAGE.glob("*.py"))}
FLOWS = {f"flows/{path.name}": ast.parse(path.read_text()) for path in sorted((PACKAGE.parent / "flows").glob("*.py"))}

# DESIGN.md, Layout: dependence points one way. What isn't named here serves several of them, and only may not close a circle.
LAYERS = [
    {"settings", "escaping"},
    {"artifacts"},
    {"cards"},
    {"stages"},
    {"metrics", "leaks", "reports", "networks", "canaries", "pipelines", "graphs", "wording"},
    {"schedules", "batches", "trainer", "checkpoints", "augmentation", "rebalancing", "sizes"},
    {"training", "encoders", "checks"},
    {"learning", "tasks"},
    {"lessons", "review", "datasets", "embedding", "preparation", "autoencoder", "textmodels", "controls"},
    {"adaptation", "classifiers", "tuning", "predicting", "berts", "masking", "layouts"},
    {"students", "imitation", "index"},
    {"categories"},
    {"heads", "finetuning", "apprentice", "distillation", "exporting"},
    {"arms", "layers", "verdicts", "findings"},
    {"charts", "pages", "blocks", "students_page"},
    {"comparison", "compression", "tables", "cli", "__main__"},
]


ALL = {name: vars(importlib.import_module(f"embedkit.{name}")) for name in MODULES}
SETTINGS = [
    value
    for name, found in ALL.items()
    for value in found.values()
    if inspect.isclass(value) and issubclass(value, Settings) and value.__module__ == f"embedkit.{name}"
]
STAGES = [(name, getattr(embedkit, name)) for name in embedkit.STAGES]


def imports_of(tree):
    """Every module that a tree imports, also inside functions, by its full name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module
            if node.module == "embedkit":
                yield from (f"embedkit.{alias.name}" for alias in node.names if alias.name in MODULES)


def graph():
    """Which modules of embedkit each module of it imports."""
    return {
        name: {found.split(".")[1] for found in imports_of(tree) if found.startswith("embedkit.")} - {name}
        for name, tree in TREES.items()
        if name != "__init__"
    }


def reached(edges, start):
    """Every module that a module depends on, however far away."""
    seen, queue = set(), [start]
    while queue:
        for name in edges[queue.pop()] - seen:
            seen.add(name)
            queue.append(name)
    return seen


# Settings


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: settings.__name__)
def test_every_setting_has_help_that_is_a_sentence(settings):
    for name, field in settings.model_fields.items():
        assert field.description, f"{settings.__name__}.{name} has no help"
        words = field.description.strip()
        assert words[0].isupper() or not words[0].isalpha(), f"{settings.__name__}.{name}: {words}"
        assert words.endswith("."), f"{settings.__name__}.{name}: {words}"
    assert settings.__doc__ and settings.__doc__.strip().endswith(".")


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: settings.__name__)
def test_every_setting_has_a_default_and_a_group_has_the_one_of_its_own_class(settings):
    for name, field in settings.model_fields.items():
        assert not field.is_required(), f"{settings.__name__}.{name} has no default"
        if isinstance(field.default, Settings):
            # A form and a command line build a group from its class, so another default would be lost with the first option.
            assert field.default == type(field.default)(), f"{settings.__name__}.{name} has other defaults than its class"


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: settings.__name__)
def test_every_setting_survives_json(settings):
    given = settings()
    assert settings.model_validate_json(given.model_dump_json()) == given
    assert hash(given) == hash(settings())


# Stages


@pytest.mark.parametrize(("name", "stage"), STAGES, ids=embedkit.STAGES)
def test_a_stage_takes_artifacts_or_sources_then_settings(name, stage):
    assert isinstance(stage, Stage) and stage.__name__ == name and stage.revision >= 1
    first, *inputs = inspect.signature(stage.body).parameters.values()
    optional = [one for one in inputs if one.kind is one.KEYWORD_ONLY]
    *inputs, settings = [one for one in inputs if one.kind is not one.KEYWORD_ONLY]
    assert first.name == "out" and settings.name == "settings"
    assert all(one.default is None for one in optional) and [one.name for one in optional] == list(stage.optional)
    assert issubclass(stage.Settings, Settings) and settings.default == stage.Settings()
    assert inputs and [one.name for one in inputs] == list(stage.inputs)
    for annotation in (stage.inputs | stage.optional).values():
        kind = getattr(annotation, "__origin__", annotation)
        assert kind in (Artifact, Source), annotation
    assert all(one.default is one.empty for one in inputs)
    assert inspect.signature(stage.body).return_annotation is Facts


@pytest.mark.parametrize(("name", "stage"), STAGES, ids=embedkit.STAGES)
def test_a_stage_says_what_it_does_in_one_sentence_and_what_it_takes(name, stage):
    first, _, rest = stage.body.__doc__.partition("\n")
    assert re.fullmatch(r"[A-Z][^.]*(\.[a-z0-9][^.]*)*\.", first), first
    arguments = rest.partition("Args:")[2]
    for role in stage.inputs | stage.optional:
        assert re.search(rf"^ +{role}: \S.*\.$", arguments, re.MULTILINE), f"{name} doesn't say what {role} is"
    assert "settings:" not in arguments and "out:" not in arguments


@pytest.mark.parametrize(("name", "stage"), STAGES, ids=embedkit.STAGES)
def test_a_stage_and_its_settings_have_one_name_and_are_public(name, stage):
    words = "".join(word.capitalize() for word in name.split("_"))
    assert stage.Settings.__name__ == words and words in embedkit.__all__
    assert stage.body.__module__ == embedkit.STAGES[name]


@pytest.mark.parametrize("name", embedkit.STAGES)
def test_a_stage_is_a_command(name, capsys):
    assert main([name.replace("_", "-"), "--help"]) == 0
    assert f"Usage: embedkit {name.replace('_', '-')}" in capsys.readouterr().out


def test_every_stage_of_the_package_is_in_the_list():
    found = {
        name: f"embedkit.{module}"
        for module, names in ALL.items()
        for name, value in names.items()
        if isinstance(value, Stage) and value.body.__module__ == f"embedkit.{module}"
    }
    assert found == embedkit.STAGES


def test_every_public_name_loads_and_nothing_else_is_there():
    assert len(set(embedkit.__all__)) == len(embedkit.__all__) and dir(embedkit) == sorted(embedkit.__all__)
    for name in embedkit.__all__:
        assert getattr(embedkit, name).__name__ == name
    with pytest.raises(AttributeError, match="module 'embedkit' has no attribute 'nothing'"):
        _ = embedkit.nothing


# Modules


def test_no_module_depends_on_itself_through_others():
    edges = graph()
    assert [name for name in edges if name in reached(edges, name)] == []


def test_dependence_points_one_way():
    edges = graph()
    height = {name: number for number, layer in enumerate(LAYERS) for name in layer}
    for name in edges.keys() & height.keys():
        above = [other for other in reached(edges, name) if height.get(other, -1) > height[name]]
        assert above == [], f"{name} depends on {above}, which stand above it"


def test_the_ground_floor_stands_by_itself():
    edges = graph()
    assert edges["settings"] == set() and reached(edges, "artifacts") == {"settings"}
    assert edges["escaping"] == set() and reached(edges, "cards") == {"artifacts", "settings", "escaping"}
    assert reached(edges, "stages") <= {
        *("settings", "escaping", "artifacts", "cards", "progress", "environment", "sources", "frameworks", "builtin", "hubs"),
    }


def test_nothing_depends_on_the_command_line():
    assert {name for name, found in graph().items() if "cli" in found} == {"__main__"}


def test_embedkit_knows_nothing_of_prefect_and_flows():
    for name, tree in TREES.items():
        roots = {found.split(".")[0] for found in imports_of(tree)}
        assert not roots & {"prefect", "flows"}, name
    code = f"""
import importlib, sys
for name in {MODULES}:
    importlib.import_module("embedkit." + name)
print([name for name in ("prefect", "flows", "tensorflow", "keras", "transformers", "torch") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"  # nor does importing any module of it load a framework


@pytest.mark.parametrize("name", [*TREES, *FLOWS])
def test_nothing_is_unpickled_or_run_from_data(name):
    tree = (TREES | FLOWS)[name]
    pickled = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    assert not {found.split(".")[0] for found in imports_of(tree)} & pickled
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        assert given.get("allow_pickle", "False") == "False", f"line {node.lineno}"
        assert given.get("safe_mode", "True") == "True", f"line {node.lineno}"
        assert given.get("trust_remote_code", "False") == "False", f"line {node.lineno}"
        assert called not in ("eval", "exec", "os.system") and given.get("shell", "False") == "False", f"line {node.lineno}"
        if called in ("np.load", "numpy.load"):
            assert given.get("allow_pickle") == "False", f"line {node.lineno} doesn't say allow_pickle=False"
        if called.endswith("load_model"):
            assert given.get("safe_mode") == "True", f"line {node.lineno} doesn't say safe_mode=True"


def without_encoding(tree):
    """Calls that read or write text as the locale has it, and writers that leave the ends of lines to the platform."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func).rpartition(".")[2]
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        words = [one.value for one in [*node.args, *given.values()] if isinstance(one, ast.Constant)]
        modes = [word for word in words if isinstance(word, str) and re.fullmatch("[rwxa][bt+]*", word)]
        text = any("b" not in mode for mode in modes)
        if not modes and called in ("open", "fdopen"):  # `.open(something)` that is no mode opens something else than a file
            text = not isinstance(node.func, ast.Attribute) or called == "fdopen" or not node.args
        takes = called in ("open", "fdopen", "NamedTemporaryFile", "TemporaryFile", "SpooledTemporaryFile") and text
        takes |= called in ("read_text", "write_text", "TextIOWrapper") or "universal_newlines" in given
        takes |= isinstance(given.get("text"), ast.Constant) and given["text"].value is True
        writes = called in ("write_text", "TextIOWrapper")
        if (takes and "encoding" not in given) or (writes and "newline" not in given):
            yield f"line {node.lineno}: {ast.unparse(node)[:80]}"


@pytest.mark.parametrize("name", [*TREES, *FLOWS])
def test_no_locale_decides_what_is_read_or_written(name):
    assert [*without_encoding((TREES | FLOWS)[name])] == []


@pytest.mark.parametrize(
    ("code", "found"),
    [
        *((call, True) for call in ("open(path)", "open(path, 'w')", "path.open()", "path.open('w')", "io.open(path, 'a')")),
        *((call, True) for call in ("path.read_text()", "path.write_text(x, encoding='utf-8')", "io.TextIOWrapper(raw)")),
        *((call, True) for call in ("NamedTemporaryFile('w')", "gzip.open(path, 'rt')", "os.fdopen(1)", "run(x, text=True)")),
        *((call, False) for call in ("open(path, 'rb')", "path.open('wb')", "gzip.open(raw)", "Artifact.open(reference, root)")),
        *((call, False) for call in ("path.read_text(encoding='utf-8')", "TemporaryFile()", "open(path, encoding='utf-8')")),
    ],
)
def test_the_rule_about_encodings_finds_what_it_is_for(code, found):
    assert bool([*without_encoding(ast.parse(code))]) == found


@pytest.mark.parametrize("name", [name for name in TREES if name != "__main__"])
def test_a_module_opens_with_what_it_is_about(name):
    words = ast.get_docstring(TREES[name])
    assert words and re.match(r"\S.*[.?:]$", words.split("\n\n")[0].replace("\n", " "))
