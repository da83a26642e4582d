"""Settings: every parameter of a stage, written once and read by Python, the shell and Prefect's forms alike.

A setting is a typed field with a default, bounds and, underneath, the sentence that explains it. The objects are frozen:
a stage cannot change what it was asked for, and the fingerprint of a call is taken from the settings as given.
"""

import difflib
import re
import textwrap
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt

NAMES_SHOWN = 12
SETTINGS = "Settings:"
"""What stands above the list of settings in a docstring."""
LONGEST_NAME = 80
"""Characters of a name in a message. A file may bring names as long as it likes, and as many."""
NAMES_COMPARED = 2000
"""Names that a misspelt one is compared with; a millisecond each where all look alike."""


class UserError(ValueError):
    """Something the user can mend, in one sentence: what came, what is allowed, what to do next."""


def not_among(what: str, came: str, allowed: Iterable[str], hint: str = "") -> UserError:
    """The error for a name that is not one of those allowed; near names first, so that a slip is mended at a glance."""
    names, came = list(dict.fromkeys(map(short, allowed))), short(came)
    near = difflib.get_close_matches(came, names[:NAMES_COMPARED], n=3, cutoff=0.5)
    if near:
        offer = "did you mean " + " or ".join(repr(name) for name in near) + "?"
    elif names:
        offer = f"there is {listed(names)}"
    else:
        offer = "there is none"
    return UserError(f"{what} {came!r} is not known; {offer}" + (f" ({hint})" if hint else ""))


def short(name: str) -> str:
    """A name as a message has it: cut where it is longer than LONGEST_NAME."""
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 3] + "..."


def listed(names: Iterable[str], between: str = ", ") -> str:
    """Names as a message has them: the first few, each of bounded length, and how many more there are."""
    every = list(names)
    more = f" and {len(every) - NAMES_SHOWN:,} more" if len(every) > NAMES_SHOWN else ""
    return between.join(map(short, every[:NAMES_SHOWN])) + more


def later(default: Any) -> Any:
    """The default of a setting that a class got after artifacts had been made with it.

    At its default the setting is left out of what a call is known by, so that such artifacts are still found.
    """
    return Field(default=default, exclude_if=lambda value: value == default)


def first_part(doc: str | None) -> str:
    """What stands in a docstring before the settings that `described` lists."""
    return (doc or "").partition(f"\n\n{SETTINGS}")[0].rstrip()


def described(settings: "type[Settings]") -> str:
    """Each setting's name, type, default and sentence, one below the other."""
    lines = [SETTINGS]
    for name, field in settings.model_fields.items():
        kind: Any = field.annotation
        plain = isinstance(kind, type) and not hasattr(kind, "__origin__")
        kind = kind.__name__ if plain else re.sub(r"([A-Za-z_]\w*\.)+", "", repr(kind))
        default = "" if field.is_required() else f" = {_shown(field.get_default(call_default_factory=True))}"
        sentence = " ".join((field.description or "").split())
        lines.append(f"    {name}: {kind}{default}")
        lines += textwrap.wrap(sentence, 100, initial_indent=" " * 8, subsequent_indent=" " * 8)
    return "\n".join(lines)


def _shown(default: Any) -> str:
    return f"{type(default).__name__}()" if isinstance(default, BaseModel) else repr(default)


def _in_source_order(schema: dict[str, Any], model: type) -> None:
    if "description" in schema:
        schema["description"] = first_part(schema["description"])
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

    def __init__(self, **given: Any):
        for name in given:
            if name not in type(self).model_fields:
                raise not_among(f"{type(self).__name__}: the setting", name, type(self).model_fields)
        super().__init__(**given)

    @classmethod
    def __pydantic_init_subclass__(cls, **named: Any) -> None:
        """Let `help` show each setting with its type, default and sentence."""
        super().__pydantic_init_subclass__(**named)
        cls.__doc__ = f"{first_part(cls.__doc__)}\n\n{described(cls)}"

    def deciding(self) -> dict[str, Any]:
        """What a call is known by: these settings as plain JSON, without what can't change its result."""
        return self.model_dump(mode="json")

    @property
    def follows_links(self) -> bool | None:
        """Whether links that lead out of a source's folder are followed; None for a network's, which may be made of them."""
        return None

    def extend(self, source: Any) -> None:
        """Tell a source what else it is made of, as these settings read it."""


class Seeded(Settings):
    """Settings of a stage that draws random numbers."""

    seed: NonNegativeInt = 0
    """Start of every random generator; the same seed gives the same bytes on one machine's processor."""


PositiveIntOrNone = PositiveInt | None
