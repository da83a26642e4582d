"""Settings: every parameter of a stage, written once and read by Python, the shell and Prefect's forms alike.

A setting is a typed field with a default, bounds and, underneath, the sentence that explains it. The objects are frozen:
a stage cannot change what it was asked for, and the fingerprint of a call is taken from the settings as given.
"""

import difflib
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt


class UserError(ValueError):
    """Something the user can mend, in one sentence: what came, what is allowed, what to do next."""


def not_among(what: str, came: str, allowed: Iterable[str], hint: str = "") -> UserError:
    """The error for a name that is not one of those allowed; near names first, so that a slip is mended at a glance."""
    names = list(dict.fromkeys(allowed))
    near = difflib.get_close_matches(came, names, n=3, cutoff=0.5)
    if near:
        offer = "did you mean " + " or ".join(repr(name) for name in near) + "?"
    elif names:
        offer = "there is " + ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
    else:
        offer = "there is none"
    return UserError(f"{what} {came!r} is not known; {offer}" + (f" ({hint})" if hint else ""))


def _in_source_order(schema: dict[str, Any], model: type) -> None:
    # Prefect's form sorts by `position` and falls back to the alphabet.
    for position, field in enumerate(schema.get("properties", {}).values()):
        field["position"] = position


class Settings(BaseModel):
    """The parameters of a stage: frozen, checked, documented."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        validate_default=True,
        json_schema_extra=_in_source_order,
    )


class Seeded(Settings):
    """Settings of a stage that draws random numbers."""

    seed: NonNegativeInt = 0
    """Start of every random generator; the same seed gives the same bytes on one machine's processor."""


PositiveIntOrNone = PositiveInt | None
