"""The terminal: a command's output and messages, so that nobody's words act on whoever reads them.

At a terminal, what it would obey or hide is shown as an escape; in a pipe or a file words are data and stay as they came. A line is
one line everywhere. A stream that can't hold a sign, as in an ASCII locale, gets an escape too; one that is closed swallows all.
"""

import contextlib
import logging
import os
import select
import sys
from typing import TextIO

from embedkit.escaping import one_line, visible, visible_json


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a person reads a stream."""
    return stream is not None and not stream.closed and stream.isatty()


def shown(text: object, stream: TextIO | None = None) -> str:
    """A text as a line of a stream, stdout by default, takes it; tabs that separate columns stay."""
    line = one_line(text)
    return visible(line) if is_terminal(stream or sys.stdout) else line


def say(text: object) -> None:
    """Print a line of the result."""
    print(shown(text))


def say_json(text: str) -> None:
    """Print JSON; its values are the same everywhere."""
    print(visible_json(text) if is_terminal(sys.stdout) else text)


def tell(text: object) -> None:
    """Print a line on stderr, as far as anybody listens there."""
    with contextlib.suppress(OSError, ValueError):
        print(shown(text, sys.stderr), file=sys.stderr)


class Lines(logging.Formatter):
    """Log messages as lines of stderr."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """A record as one line."""
        return shown(super().formatMessage(record), sys.stderr)


def open_streams() -> None:
    """Let the process print whatever comes, wherever its streams lead.

    A descriptor that was closed (`>&-`) would else become that of the next file that is opened.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, os.fdopen(number, "w", encoding="utf-8", closefd=False))
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def close_streams() -> None:
    """Give up what can't be written: it would be tried again, and fail again, when Python ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def has_reader(stream: TextIO) -> bool:
    """Whether anybody reads what is written to a stream: not where it is a pipe whose other end is closed."""
    try:
        polled = select.poll()
        polled.register(stream.fileno(), select.POLLOUT)
        return not any(event & (select.POLLERR | select.POLLHUP) for _, event in polled.poll(0))
    except (AttributeError, OSError, ValueError):  # no such thing here: then a broken pipe is taken for the stream's
        return False
