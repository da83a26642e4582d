"""Types of columns as a user declares them: `code=text`, `amount=number:,`, `day=time:%d.%m.%Y`, `row=leave-out`."""

import re
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

from embedkit.artifacts import Artifact
from embedkit.columns import DECIMAL_COMMA, LEFT_OUT, POINT, TYPES, Column, Declared, convert, is_missing
from embedkit.features import Columns
from embedkit.moments import ISO, OFFSET
from embedkit.settings import UserError, not_among

NAMES = {"text": "word", "integer": "whole", "number": "number", "boolean": "truth", "time": "moment", "leave-out": LEFT_OUT}
WORDS = {kind: name for name, kind in NAMES.items()}
OFFER = "text, integer, number, number:, (a decimal comma), boolean, time, time:FORMAT, leave-out"
DECLARATION = re.compile(r"(.+)=(text|integer|boolean|leave-out|number(?::[.,])?|time(?::.+)?)", re.DOTALL)


def _split(given: Any) -> Any:
    """Declarations joined by commas, as a shell writes them, one by one; a name may hold a comma itself."""
    if not isinstance(given, str | list | tuple):
        return given
    found: list[Any] = []
    for text in [given] if isinstance(given, str) else given:
        whole = ""
        for piece in text.split(",") if isinstance(text, str) else []:
            if found and not whole and piece == "" and found[-1].endswith("=number:"):
                found[-1] += ","  # it was the decimal comma
                continue
            whole = f"{whole},{piece}" if whole else piece
            if "=" in whole and (DECLARATION.fullmatch(whole) or whole.endswith("=number:")):
                found.append(whole)
                whole = ""
        found += [whole] if whole else [] if isinstance(text, str) else [text]
    return tuple(found)


def _checked(text: str) -> str:
    if not DECLARATION.fullmatch(text):
        raise ValueError(f"{text!r} declares no type; give NAME=TYPE, with one of {OFFER}")
    return text


Declarations = Annotated[tuple[Annotated[str, AfterValidator(_checked)], ...], BeforeValidator(_split)]


def declared(texts: Iterable[str], names: Iterable[str]) -> dict[str, Declared]:
    """What was declared of each column.

    Args:
        texts: declarations; of several for a column the last counts.
        names: the columns there are.

    Raises:
        UserError: when one names no column.
    """
    found, known = {}, list(names)
    for text in texts:
        match = DECLARATION.fullmatch(text)
        assert match, text
        name, (kind, _, form) = match[1], match[2].partition(":")
        if name not in known:
            raise not_among("column", name, known, hint="in types")
        found[name] = Declared(NAMES[kind], form or None)
    return found


def as_declared(values: list[Any], known: Declared | None) -> list[Any]:
    """Values of a file by how the column's values were written where it was first read; those that don't fit as they came."""
    if known is None or known.form is None:
        return values
    read = convert(values, TYPES[known.type], known.form, []).to_pylist()
    return [value if each is None and not is_missing(value) else each for value, each in zip(values, read, strict=True)]


def written(columns: dict[str, Column]) -> list[str]:
    """What columns were taken for, as declarations that would take them so again."""
    return [f"{name}={WORDS[column.type]}{_form(column)}" for name, column in columns.items()]


def _form(column: Column) -> str:
    if column.type == "moment" and column.form not in (None, ISO, OFFSET):
        return f":{column.form}"
    return f":{column.form}" if column.type == "number" and column.form in (POINT, DECIMAL_COMMA) else ""


def of_encoder(encoder: Artifact, names: Iterable[str]) -> dict[str, Declared]:
    """The types that an encoder's columns have, of those columns that there are.

    Args:
        encoder: an encoder of tables.
        names: the columns there are.

    Raises:
        UserError: when it is an encoder of something else.
    """
    made = (encoder, *encoder.ancestors())
    path = next((path for one in made if (path := one / "columns.json").is_file()), None)
    if path is None:
        raise UserError(f"{encoder} is no encoder of tables, so that its columns have no types; give one that is")
    known = Columns.model_validate_json(path.read_text(encoding="utf-8"))
    types = {column.name: Declared(*known.type_of(column)) for column in known.columns}
    for ancestor in made:  # the table it was made from says how its values were written
        if ancestor.manifest.kind == "table":
            texts = [text for text in ancestor.manifest.details.get("types", ()) if isinstance(text, str)]
            theirs = {match[1]: text for text in texts if (match := DECLARATION.fullmatch(text)) and match[1] in types}
            types |= declared(theirs.values(), theirs)
            break
    return {name: one for name, one in types.items() if name in set(names)}
