"""Failures: whatever stops a command is one sentence and an exit code.

What a user can mend says what to do. What nobody foresaw says that it is a defect, with its kind and place, so that it can be
reported; `--debug` shows the traceback.
"""

import errno
import re
import traceback
from pathlib import Path

USAGE, FAILED = 2, 1
LONGEST = 1000
MEMORY = re.compile(
    r"bad_alloc|can't start new thread|(cannot|unable to|failed to) allocate|OOM when allocating|out of memory",
    re.IGNORECASE,
)
"""How libraries in C say that memory is short."""


def sentence(error: Exception) -> str:
    """An error as one line; a refused setting by its name, what came and what is allowed."""
    from cyclopts import CycloptsError
    from pydantic import ValidationError

    words = " ".join(str(error).split())
    words = words if len(words) <= LONGEST else words[: LONGEST - 1] + "…"
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        came = repr(first["input"])
        came = came if len(came) <= LONGEST else came[: LONGEST - 1] + "…"
        return " ".join(f"the setting {where} can't be {came}: {first['msg'].removeprefix('Value error, ')}".split())
    if _short_of_memory(error):
        return f"there is not enough memory for this ({words or 'it is used up'}); close what else runs, or ask for less at a time"
    if isinstance(error, RecursionError):
        return f"something that came is nested too deeply ({words}); make it flatter"
    if isinstance(error, OverflowError):
        return f"a number is too large for this ({words}); give a smaller one"
    if isinstance(error, ValueError | OSError | CycloptsError):
        return words or f"{type(error).__name__}, of which no more is known; `--debug` shows where"
    return f"this is a defect of embedkit: {type(error).__name__}: {words} ({_place(error)}); report it with what --debug shows"


def exit_code(error: Exception) -> int:
    """2 where the command was wrong, 1 for all else."""
    from pydantic import ValidationError

    return USAGE if isinstance(error, ValidationError) else FAILED


def _short_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError":  # TensorFlow's
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and MEMORY.search(str(error)) is not None


def _place(error: Exception) -> str:
    """File and line of the last step of embedkit's own on the way to an error, or of the last one of all."""
    steps = traceback.extract_tb(error.__traceback__)
    own = [step for step in steps if Path(step.filename).parent.name in ("embedkit", "flows")] or steps
    return f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else "no place is known"
