"""The command line: every stage as a command, and commands over artifacts.

The options of a command are read from its stage's Settings, its help from the docstrings; nothing is restated here. Stages
are named by string, and their modules loaded when a command needs them, so that `embedkit --help` imports no framework.

stdout carries the result and nothing else; progress, notes and errors go to stderr. Exit codes: 0 done, 1 an error that the
user can mend, 2 wrong usage, 130 interrupted, and so on for other signals (`stopping`).
"""

import ast
import contextlib
import functools
import importlib
import importlib.metadata
import inspect
import json
import logging
import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Parameter

from embedkit import STAGES, failures, stopping, terminal
from embedkit.terminal import say, say_json, tell

ROOT_HELP = "Where artifacts lie; by default $EMBEDKIT_ARTIFACTS, else artifacts/ in the working directory."
Root = Annotated[Path | None, Parameter(help=ROOT_HELP)]
As_json = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON instead.")]


@functools.cache
def docstring_of(function: str, module: str) -> str:
    """First line of a function's docstring, read from its file, since importing it would cost seconds."""
    path = Path(__file__).parent / (module.removeprefix("embedkit.") + ".py")
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name == function:
            return (ast.get_docstring(node) or "").partition("\n")[0]
    return ""


def command_of(name: str) -> Any:
    """A stage as a function that cyclopts can read: its inputs by position, its settings as options."""
    from embedkit.stages import OPTIONS

    stage = getattr(importlib.import_module(STAGES[name]), name)

    def run(
        *inputs: str, settings: Any = None, name: str | None = None, root: Path | None = None, as_json: bool = False, **more: str
    ) -> None:
        artifact = stage(*inputs, settings or stage.Settings(), name=name, root=root, **more)
        say_json(artifact.manifest.model_dump_json(indent=1)) if as_json else say(artifact)

    keyword, position = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_ONLY
    options = [
        _options_of(stage.Settings),
        *(inspect.Parameter(role, keyword, annotation=str | None, default=None) for role in stage.optional),
        inspect.Parameter("name", keyword, annotation=Annotated[str | None, Parameter(help=OPTIONS["name"])], default=None),
        inspect.Parameter("root", keyword, annotation=Annotated[Path | None, Parameter(help=OPTIONS["root"])], default=None),
        inspect.Parameter("as_json", keyword, annotation=As_json, default=False),
    ]
    inputs = [inspect.Parameter(role, position, annotation=str) for role in stage.inputs]
    run.__doc__ = stage.body.__doc__
    return _signed(run, [*inputs, *options])


def _options_of(settings: type) -> inspect.Parameter:
    """The parameter `settings`, whose fields are options."""
    annotation = Annotated[settings, Parameter(name="*")]
    return inspect.Parameter("settings", inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=settings())


def _signed(function: Any, parameters: list[inspect.Parameter]) -> Any:
    """A function with the parameters that cyclopts is to see."""
    function.__signature__ = inspect.Signature(parameters)
    function.__annotations__ = {one.name: one.annotation for one in parameters}
    return function


def application(only: str | None) -> App:
    """The command line; of the stages only the one that is going to run, if any, is loaded."""
    app = App(
        name="embedkit",
        help="Turn images, texts and tables into vectors, and vectors into classifiers and search.",
        version=lambda: importlib.metadata.version("embedkit"),
        suppress_keyboard_interrupt=False,  # `main` has a word to say about it
        help_epilogue="Add --debug to any command to see the traceback of an error.",
    )
    if only == "predict":
        from embedkit.predicting import Predict

        parameters = inspect.signature(predict).parameters | {"settings": _options_of(Predict)}
        _signed(predict, list(parameters.values()))
    if only == "look":
        from embedkit.look import Look

        parameters = inspect.signature(look).parameters | {"settings": _options_of(Look)}
        _signed(look, list(parameters.values()))
    for command in (look, predict, search, neighbours, layers, quickstart, ui, artifacts):
        app.command(command)
    for name, module in STAGES.items():
        command = name.replace("_", "-")
        if command == only:
            app.command(command_of(name), name=command)
        else:
            app.command(_not_loaded, name=command, help=docstring_of(name, module))
    return app


def _not_loaded(*arguments: str) -> None:
    raise AssertionError("a stage's command is loaded before it runs")


def look(source: str, *, settings: Any = None, as_json: As_json = False) -> None:
    """Show what a source holds: its columns, what each would be taken for, what is passed over, and the command that loads it.

    Args:
        source: what the loading commands take: a folder, a file of rows, builtin:NAME or hf://NAME.
    """
    from embedkit.look import Look
    from embedkit.look_table import show

    show(source, settings or Look(), as_json)


def predict(classifier: str, *sources: str, settings: Any = None, root: Root = None, as_json: As_json = False) -> None:
    """Predict the labels of rows in files, of pictures, or of texts: a line each of label, probability and row.

    Rejected rows have the label ?, several labels stand in one, numbers have no probability. Rows that can't be read are
    named on stderr.

    Args:
        classifier: the classifier, such as classifier/reviews-minilm.
        sources: pictures, folders of pictures, files of rows, or texts themselves; one or several.
    """
    from embedkit import progress
    from embedkit.predicting import Predict, as_line
    from embedkit.predicting import predict as find

    log = logging.getLogger(__name__)
    # At a terminal the rows themselves show how far it is.
    bar = contextlib.nullcontext(lambda more: None) if sys.stdout.isatty() else progress.bar(None, "rows")
    with progress.of("predict"), bar as advance:
        for row, found in find(classifier, sources, settings or Predict(), root):
            row = row.encode(errors="replace").decode()  # a path may hold bytes that are no text
            if isinstance(found, str):
                log.warning("%s: %s", " ".join(row.split()), found)
            if as_json:
                told = {"problem": found} if isinstance(found, str) else found.model_dump()
                say_json(json.dumps({"row": row} | told, ensure_ascii=False))
            elif not isinstance(found, str):
                say(as_line(row, found))
            advance(1)


def search(
    index: str,
    *queries: str,
    k: Annotated[int, Parameter(help="How many neighbours to give for each query.")] = 10,
    encoder: str | None = None,
    root: Root = None,
    as_json: As_json = False,
) -> None:
    """Find the rows of an index that are nearest to a text or a picture.

    Args:
        index: the index, such as index/reviews-minilm.
        queries: texts, or paths of pictures, one or several.
        encoder: what to encode the queries with; by default the encoder the index was built with.
    """
    from embedkit.index import Search
    from embedkit.index import search as find
    from embedkit.settings import UserError

    if not queries:
        raise UserError("there is no query; give one text, or one path of a picture, or several")
    for query, neighbours in zip(queries, find(index, queries, Search(k=k), encoder=encoder, root=root), strict=True):
        if as_json:
            say_json(json.dumps({"query": query, "neighbours": [n.model_dump() for n in neighbours]}, ensure_ascii=False))
            continue
        for neighbour in neighbours:
            say(f"{neighbour.score:.4f}\t{neighbour.id}\t{' '.join(neighbour.content.split())}")


def neighbours(
    encoder: str,
    column: str,
    value: str,
    *,
    k: Annotated[int, Parameter(help="How many neighbours to give.")] = 10,
    root: Root = None,
    as_json: As_json = False,
) -> None:
    """Find the values of a table's column that are nearest to one: a line each of score, count in the training rows, and value.

    Args:
        encoder: what `learn-categories` made, such as encoder/sales-categories.
        column: a column whose values have vectors.
        value: one of its values.
    """
    from embedkit.categories import Neighbours
    from embedkit.categories import neighbours as find

    found = find(encoder, column, value, Neighbours(k=k), root=root)
    if as_json:
        say_json(json.dumps({"value": value, "neighbours": [near.model_dump() for near in found]}, ensure_ascii=False))
        return
    for near in found:
        say(f"{near.score:.4f}\t{near.count}\t{' '.join(near.value.split())}")


def layers(source: str, *, architecture: str | None = None, alpha: float | None = None, as_json: As_json = False) -> None:
    """List the layers at which a network can be cut, with their output shapes.

    Args:
        source: what `import-encoder` takes: a folder, a weights file, or a hub's name; or an encoder such as encoder/minilm.
        architecture: name in keras.applications, for a weights file.
        alpha: width multiplier of the architecture, for MobileNets.
    """
    from embedkit.encoders import ImportEncoder
    from embedkit.encoders import layers as list_layers
    from embedkit.frameworks import load_frameworks

    load_frameworks()
    found = list_layers(source, ImportEncoder(architecture=architecture, alpha=alpha))
    if as_json:
        say_json(json.dumps([{"layer": name, "class": kind, "shape": shape} for name, kind, shape in found]))
        return
    found = [(terminal.shown(name), kind, shape) for name, kind, shape in found]
    width = max(len(name) for name, _, _ in found)
    for name, kind, shape in found:
        say(f"{name:{width}}  {kind:22}  {' x '.join('?' if size is None else str(size) for size in shape[1:])}")


def quickstart(*, root: Root = None) -> None:
    """Run the whole chain on built-in data: digits, an autoencoder, heads on few labels, and their controls."""
    from embedkit.settings import UserError

    try:  # named by string: embedkit doesn't depend on flows
        module = importlib.import_module("flows.quickstart")
    except ModuleNotFoundError as error:
        raise UserError(f"the flows can't be loaded ({error}); install embedkit with `pip install -e .` in its checkout") from error
    module.main(root)


ALLOW = "A folder, or the beginning of an address, that runs may use beside the root; by default the working directory."


def ui(
    *,
    port: Annotated[int, Parameter(help="Port of the Prefect server, on loopback.")] = 4200,
    allow: Annotated[tuple[str, ...], Parameter(help=ALLOW, negative="")] = (),
    root: Root = None,
) -> None:
    """Start a Prefect server that only you can use, or use the one that PREFECT_API_URL names, and serve every flow on it.

    It opens with the address that is printed, which holds a secret. Runs read and write in the root and in what --allow names.
    """
    importlib.import_module("flows.serve").main(port, root, allow)


artifacts = App(name="artifacts", help="List, show, check, compare, prune and copy artifacts.")


@artifacts.command(name="list")
def list_(kind: str | None = None, *, root: Root = None, as_json: As_json = False) -> None:
    """List artifacts, the newest version of each name last.

    Args:
        kind: only of this kind, such as encoder.
    """
    from embedkit import tables

    tables.list_artifacts(kind, root, as_json)


@artifacts.command
def show(reference: str, *, root: Root = None, as_json: As_json = False) -> None:
    """Show what an artifact is, what it was made from, and what was measured.

    Args:
        reference: such as classifier/reviews or classifier/reviews@20260822T10.
    """
    from embedkit import tables

    tables.show(reference, root, as_json)


@artifacts.command
def lineage(reference: str, *, root: Root = None) -> None:
    """Show all that an artifact was made from, as a tree.

    Args:
        reference: such as classifier/reviews.
    """
    from embedkit import tables

    tables.lineage(reference, root)


@artifacts.command
def verify(reference: str | None = None, *, root: Root = None) -> None:
    """Check every byte of an artifact, or of all, against the checksums in the manifests.

    Args:
        reference: such as encoder/minilm; all artifacts by default.
    """
    from embedkit import tables

    tables.verify(reference, root)


@artifacts.command
def compare(left: str, right: str, *, root: Root = None) -> None:
    """Show in what two artifacts differ: settings, inputs, measures, environment.

    Args:
        left: a reference.
        right: a reference.
    """
    from embedkit import tables

    tables.compare(left, right, root)


@artifacts.command
def prune(
    *,
    keep: Annotated[int, Parameter(help="Versions of each name to keep.")] = 1,
    yes: Annotated[bool, Parameter(negative="", help="Remove them; without this they are only listed.")] = False,
    root: Root = None,
) -> None:
    """Remove old versions and abandoned drafts; never what a kept artifact was made from."""
    from embedkit import tables

    tables.prune(keep, yes, root)


@artifacts.command
def push(reference: str, address: str, *, root: Root = None) -> None:
    """Copy an artifact, and all that it was made from, to a remote root.

    Args:
        reference: such as vectors/reviews-minilm.
        address: such as s3://bucket/folder; credentials are found as the store's own library does.
    """
    from embedkit.artifacts import Artifact
    from embedkit.remote import Remote

    artifact = Artifact.open(reference, root)
    Remote(address, artifact.root).send_lineage(artifact)
    say(artifact)


@artifacts.command
def pull(reference: str, address: str, *, root: Root = None) -> None:
    """Copy an artifact, and all that it was made from, from a remote root.

    Args:
        reference: such as vectors/reviews-minilm.
        address: such as s3://bucket/folder; credentials are found as the store's own library does.
    """
    from embedkit.artifacts import root_at
    from embedkit.remote import Remote

    say(Remote(address, root_at(root)).fetch_lineage(reference))


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = words[: words.index("--")] if "--" in words else words
    debug = "--debug" in options
    words = [word for word in options if word != "--debug"] + words[len(options) :]
    logger = logging.getLogger("embedkit")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(terminal.Lines("%(message)s"))
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False  # Prefect gives the root logger a console of its own
    try:
        app = application(next((word for word in words if not word.startswith("-")), None))
        app(words, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
        return 0
    except CycloptsError as error:
        tell(f"embedkit: {failures.sentence(error.__cause__ if isinstance(error.__cause__, ValueError) else error)}")
        return failures.USAGE
    except KeyboardInterrupt as stop:
        return _stopped(stop)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else failures.FAILED
    except Exception as error:
        if stopping.came:  # a library made another error of it
            return _stopped(stopping.Stopped(stopping.came[-1]))
        if isinstance(error, BrokenPipeError) and not terminal.has_reader(sys.stdout):  # `embedkit ... | head`
            return 0
        if debug:
            raise
        tell(f"embedkit: {failures.sentence(error)}")
        return failures.exit_code(error)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]


def _stopped(stop: KeyboardInterrupt) -> int:
    tell(f"embedkit: {stopping.sentence(stop)}")
    return 128 + stopping.number_of(stop)


def run() -> None:
    """The console command `embedkit`, once it answers signals."""
    code = failures.FAILED
    try:
        terminal.open_streams()
        stopping.gently()
        code = main()
    except KeyboardInterrupt as stop:  # before main was ready, or while it ended
        code = _stopped(stop)
    finally:
        stopping.quietly(code)
        terminal.close_streams()
    sys.exit(code)
