"""Stopping: whenever a signal comes, a command ends with one sentence and the exit code that shells expect of it.

While a command loads there is nothing to tidy up, so it ends at once. While it runs, the signal is an exception as Ctrl-C always
was: locks are let go of, and drafts stay, so that the same command goes on. A second one doesn't wait for that. A signal that was
ignored when the command began, as by `nohup` and shells, stays ignored.
"""

import os
import signal
import sys
from types import FrameType

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing it takes longer than all else here
    from collections.abc import Callable

WORDS = {"SIGINT": "interrupted", "SIGTERM": "terminated", "SIGHUP": "the terminal was closed"}
"""What is said of each signal; Windows hasn't all of them."""
SHOW_CURSOR = b"\x1b[?25h"
came: list[int] = []
"""Signals that were raised as exceptions; libraries in C may have made others of these."""


class Stopped(KeyboardInterrupt):
    """A signal that ends the command."""

    def __init__(self, number: int = signal.SIGINT):
        super().__init__()
        self.number = number


def sentence(stop: KeyboardInterrupt) -> str:
    """What is said of it."""
    return f"{WORDS[signal.Signals(number_of(stop)).name]}; the same command goes on where it stopped"


def number_of(stop: KeyboardInterrupt) -> int:
    """The signal it was."""
    return stop.number if isinstance(stop, Stopped) else signal.SIGINT


def at_once() -> None:
    """From here on a signal ends the process, after one sentence."""
    _answer(_end)


def _end(number: int, frame: FrameType | None = None) -> None:
    shown = SHOW_CURSOR if os.isatty(2) else b""  # which a progress bar hides
    try:
        os.write(2, shown + f"embedkit: {sentence(Stopped(number))}\n".encode())
    except OSError:
        pass  # nobody listens
    os._exit(128 + number)


def gently() -> None:
    """From here on a signal is an exception in the main thread, and a second one ends the process."""

    def stop(number: int, frame: FrameType | None) -> None:
        at_once()
        came.append(number)
        raise Stopped(number)

    def unraisable(found: "sys.UnraisableHookArgs") -> None:
        if issubclass(found.exc_type, Stopped):  # it came where Python can't raise, as while an object is deleted
            _end(came[-1])
        before(found)

    before, sys.unraisablehook = sys.unraisablehook, unraisable
    _answer(stop)


def quietly(code: int) -> None:
    """From here on a signal ends the process with this exit code: all is done and said."""
    _answer(lambda number, frame: os._exit(code))


def _answer(handler: "Callable[[int, FrameType | None], None]") -> None:
    for name in WORDS:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) not in (signal.SIG_IGN, None):
            signal.signal(number, handler)
