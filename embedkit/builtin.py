"""Built-in data: real rows that are on every machine where embedkit is installed, so that everything runs offline.

`digits` are the 1,797 handwritten digits that scikit-learn ships. `docstrings` and `symbols` are read, with `ast`, from
the source files of installed libraries; nothing of them is imported or run.
"""

import ast
import functools
import hashlib
import importlib.util
import io
import platform
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from embedkit.environment import package_version
from embedkit.settings import UserError, not_among

KINDS = {"digits": "images", "docstrings": "texts", "symbols": "table"}
# Dependencies of embedkit, so they are always there; import name -> distribution.
LIBRARIES = {
    **{name: name for name in ("numpy", "scipy", "pandas", "matplotlib", "keras", "datasets", "prefect", "rich", "pydantic")},
    **{"sklearn": "scikit-learn", "huggingface_hub": "huggingface-hub"},
}


def content(name: str) -> str:
    """What decides the rows of a built-in dataset, as a string: the versions of the packages it is read from.

    Of those that are read from source files Python's own too, whose `ast` decides which files can be read, and how.
    """
    if name not in KINDS:
        raise not_among("built-in dataset", name, KINDS)
    packages = ["scikit-learn"] if name == "digits" else LIBRARIES.values()
    python = [] if name == "digits" else [f"python={platform.python_version()}"]
    return " ".join([*python, *(f"{package}={package_version(package)}" for package in packages)])


def rows(name: str, kind: str) -> Iterator[dict[str, Any]]:
    """The rows of a built-in dataset as dictionaries.

    Raises:
        UserError: when there is no dataset of that name, or it is of another kind.
    """
    if name not in KINDS:
        raise not_among("built-in dataset", name, KINDS)
    if KINDS[name] != kind:
        load = {"images": "load-images", "texts": "load-texts", "table": "load-table"}[KINDS[name]]
        raise UserError(f"builtin:{name} holds {KINDS[name]}, not {kind}; load it with `embedkit {load} builtin:{name}`")
    return iter(_all(name))


def begun(name: str) -> Iterator[dict[str, Any]]:
    """The rows of a built-in dataset one after the other, for who needs only the first; `rows` reads all of them at once."""
    return {"digits": _digits, "docstrings": _docstrings, "symbols": _symbols}[name]()


@functools.cache  # reading thousands of source files takes long, and loading looks at the rows more than once
def _all(name: str) -> list[dict[str, Any]]:
    return list(begun(name))


def _digits() -> Iterator[dict[str, Any]]:
    from PIL import Image
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    for number, (pixels, digit) in enumerate(zip(digits.images, digits.target, strict=True)):
        png = io.BytesIO()
        Image.fromarray((pixels * (255 / 16)).round().astype("uint8")).save(png, "png")  # levels 0 to 16 as 0 to 255
        yield {"image": png.getvalue(), "path": f"digit-{number:04d}.png", "label": str(digit)}


def _docstrings() -> Iterator[dict[str, Any]]:
    seen = set()
    for library, _, node, _ in _definitions():
        text = ast.get_docstring(node) or ""
        digest = hashlib.blake2b(text.encode(errors="replace"), digest_size=8).digest()
        if len(text) >= 40 and digest not in seen:  # shorter ones say little; copies of inherited ones say nothing new
            seen.add(digest)
            yield {"text": text, "label": library}


def _symbols() -> Iterator[dict[str, Any]]:
    for library, module, node, owner in _definitions():
        if any(name.startswith("_") for name in (node.name, owner or "", *module.split("."))):
            continue
        function = not isinstance(node, ast.ClassDef)
        arguments = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)] if function else []
        first = arguments[0] if arguments else ""
        decorators = [ast.unparse(decorator).partition("(")[0] for decorator in node.decorator_list]
        yield {
            "package": library,
            "module": module,
            "owner": owner or "",
            "prefix": node.name.partition("_")[0].lower(),
            "kind": "class" if not function else "method" if owner else "function",
            "first_argument": first,
            "decorator": decorators[0] if decorators else "",
            "returns": bool(function and node.returns),
            "arguments": len(arguments),
            "lines": (node.end_lineno or node.lineno) - node.lineno + 1 - _docstring_lines(node),
            "documented": "yes" if ast.get_docstring(node) else "no",
        }


def _docstring_lines(node: Any) -> int:
    """Lines of a definition's docstring: counted among its lines they would give away whether it has one."""
    if ast.get_docstring(node) is None:
        return 0
    return (node.body[0].end_lineno or node.body[0].lineno) - node.body[0].lineno + 1


Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def _definitions() -> Iterator[tuple[str, str, Any, str | None]]:
    """Library, module, node and owning class of every function and class at the top two levels of each module."""
    for library in LIBRARIES:
        spec = importlib.util.find_spec(library)
        folder = Path(spec.origin).parent if spec and spec.origin else None
        for path in sorted(folder.rglob("*.py")) if folder else ():
            if {"tests", "_vendor", "_vendored", "testing"} & set(path.relative_to(folder).parts):  # pyright: ignore[reportArgumentType]
                continue
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # about doubtful escapes in others' files
                    tree = ast.parse(path.read_bytes())
            except (SyntaxError, ValueError):  # templates and files for other Python versions
                continue
            module = ".".join(path.relative_to(folder.parent).with_suffix("").parts)  # pyright: ignore[reportOptionalMemberAccess]
            module = module.removesuffix(".__init__")
            for node in tree.body:
                if isinstance(node, Definition):
                    yield library, module, node, None
                if isinstance(node, ast.ClassDef):
                    for inner in node.body:
                        if isinstance(inner, Definition):
                            yield library, module, inner, node.name
