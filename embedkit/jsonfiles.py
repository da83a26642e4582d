"""Files of JSON: one object a line, or one array of objects."""

import csv
import json
from collections.abc import Iterator
from typing import Any

from embedkit.settings import UserError
from embedkit.textfiles import Lines, each_line, sound

DEEPEST = 100
"""Lists and objects in one another of a JSON record; Python's own writer ends at about a thousand."""
AT_ONCE = 2**16
BLANK = " \t\r\n"

Row = dict[str, Any] | str
"""The columns of a row, or why it can't be read."""


def rows(lines: Lines, name: str, encoding: str) -> Iterator[tuple[str, Row]]:
    """Each row of a file with its place."""
    if lines.head(AT_ONCE).lstrip(BLANK).startswith("["):
        yield from _items(lines, name, encoding)
        return
    for place, line in each_line(lines, name):
        if isinstance(line, csv.Error):
            yield place, str(line)
        elif line.strip():
            yield place, _line(line, encoding)


def _line(line: str, encoding: str) -> Row:
    try:
        return _row(json.loads(line), line, encoding)
    except RecursionError:
        return "not JSON (nested too deeply)"
    except ValueError as error:
        return f"not JSON ({error})"


def _row(value: Any, text: str, encoding: str) -> Row:
    """A value as a row, where it can be one."""
    if text.count("[") + text.count("{") > DEEPEST and _depth(value) > DEEPEST:
        return "not JSON (nested too deeply)"
    if not sound(text):
        return f"not in the encoding {encoding}"
    if "\\ud" in text.lower() and not sound(json.dumps(value, ensure_ascii=False)):
        return "not valid Unicode (a lone surrogate)"
    return value if isinstance(value, dict) else f"not a JSON object but {type(value).__name__}"


def _items(lines: Lines, name: str, encoding: str) -> Iterator[tuple[str, Row]]:
    """The items of one array, of which no more is held than the one that is read.

    Raises:
        UserError: when the file ends before the array, or is no JSON.
    """
    decoder, buffer = json.JSONDecoder(), lines.file.read(AT_ONCE).lstrip(BLANK)[1:]
    number, step = 0, AT_ONCE
    while True:
        buffer = buffer.lstrip(BLANK + ("," if number else ""))
        try:
            if buffer.startswith("]"):
                return
            value, end = decoder.raw_decode(buffer)
            if not buffer[end:].lstrip(BLANK):
                raise ValueError("it may go on")  # a number, whose last digits are still to come
        except RecursionError:
            raise UserError(f"{name} item {number + 1} is nested too deeply; write one object a line (.jsonl)") from None
        except ValueError as error:
            more = lines.file.read(step)
            if more and len(buffer) < lines.longest:
                buffer, step = buffer + more, max(AT_ONCE, len(buffer))
                continue
            what = f"ends in its item {number + 1}" if not more else f"has an item {number + 1} that can't be read ({error})"
            raise UserError(f"{name} is an array of JSON that {what}; fix it, or write one object a line (.jsonl)") from None
        number += 1
        yield f"{name} item {number}", _row(value, buffer[:end], encoding)
        buffer = buffer[end:]


def _depth(value: Any) -> int:
    """How many lists and objects are in one another."""
    depth, level = 0, [value]
    while level := [each for each in level if isinstance(each, dict | list)]:
        depth += 1
        level = [inner for each in level for inner in (each.values() if isinstance(each, dict) else each)]
    return depth
