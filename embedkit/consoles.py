"""Consoles: tables for a terminal of any width, and for a pipe, where they have 80 columns."""

from typing import Any

from rich.console import Console
from rich.text import Text

from embedkit.terminal import shown


def console() -> Console:
    """A console on stdout; 80 columns where there is no terminal, so that logs and pipes look alike."""
    plain: dict[str, Any] = {"markup": False, "emoji": False, "highlight": False}  # names may hold brackets
    found = Console(**plain)
    return found if found.is_terminal else Console(width=80, **plain)


def words(value: object, style: str = "") -> Text:
    """A cell that says what anyone wrote: one line, with nothing in it that a terminal or rich would read."""
    return Text(shown(value), style)
