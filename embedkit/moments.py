"""Moments: how points in time are written, and their values.

A moment is naive and in microseconds. One that is written with an offset, or with Z, is converted to UTC. Besides ISO 8601, which
Arrow reads, a form is a format as `strptime` takes it; a text that fits it but is no day of the calendar is no moment.
"""

import re
from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute

pc: Any = pyarrow.compute  # its functions are made when it is imported
TYPE = pa.timestamp("us")
ISO, OFFSET = "ISO 8601", "ISO 8601 with an offset"
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
LONG = ("uary", "ruary", "ch", "il", "", "e", "y", "ust", "tember", "ober", "ember", "ember")
NAME = "|".join(f"{short}(?:{long})?" if long else short for short, long in zip(MONTHS, LONG, strict=True))
DIRECTIVES = {
    "%d": "(?P<day>[0-9]{1,2})",
    "%m": "(?P<month>[0-9]{1,2})",
    "%Y": "(?P<year>[0-9]{4})",
    "%b": f"(?P<name>(?i:{NAME}))",
    "%B": f"(?P<name>(?i:{NAME}))",
    "%H": "(?P<hour>[0-9]{1,2})",
    "%I": "(?P<hour>[0-9]{1,2})",
    "%M": "(?P<minute>[0-9]{2})",
    "%S": "(?P<second>[0-9]{2})",
    "%p": "(?P<half>(?i:am|pm))",
}
"""What Arrow can take apart; with any other directive Python reads value by value."""
DAYS = (
    *("%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m-%d-%Y", "%Y/%m/%d", "%Y.%m.%d", "%Y-%m-%d"),
    *("%d/%m/%y", "%m/%d/%y", "%y/%m/%d", "%d-%m-%y", "%m-%d-%y", "%y-%m-%d", "%d.%m.%y"),
    *("%d %b %Y", "%d-%b-%Y", "%b %d, %Y", "%d. %b %Y", "%d-%b-%y"),
)
"""Days as people write them; with points the day is always first (DIN 1355, GOST R 7.0.97)."""
TIMES = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p")
FORMS = (ISO, OFFSET, *(day + time for day in DAYS for time in TIMES))
LONGEST = 48
"""Characters of the longest text that is tried as a moment."""


def fitting(texts: pa.Array, forms: tuple[str, ...] = FORMS) -> tuple[str, ...]:
    """Those of the forms in which every text is a moment.

    Args:
        texts: strings without nulls, one at least.
        forms: what is tried.
    """
    longest = pc.max(pc.utf8_length(texts)).as_py()
    if longest > LONGEST or not pc.all(pc.match_substring_regex(texts, "[0-9]")).as_py():
        return ()
    first = texts.slice(0, 1)
    return tuple(form for form in forms if _fits(first, form) and _fits(texts, form))


def _fits(texts: pa.Array, form: str) -> bool:
    try:
        found = _read(texts, form)
    except pa.ArrowInvalid:
        return False
    return found.null_count == 0


def parse(texts: pa.Array, form: str) -> pa.Array:
    """Texts as moments; null where a text is none of this form.

    Args:
        texts: strings.
        form: ISO, OFFSET or a format.

    Returns:
        Of TYPE, in order.
    """
    try:
        return _read(texts, form)
    except pa.ArrowInvalid:
        different = texts.dictionary_encode()
        return _one_by_one(different.dictionary, form).take(different.indices)


def _one_by_one(texts: pa.Array, form: str) -> pa.Array:
    """Moments of texts some of which are none: halves of them, since Arrow says only that one doesn't fit."""
    try:
        return _read(texts, form)
    except pa.ArrowInvalid:
        half = len(texts) // 2
        parts = [_one_by_one(part, form) for part in (texts.slice(0, half), texts.slice(half))] if half else [pa.nulls(1, TYPE)]
        return pa.concat_arrays(parts)


def _read(texts: pa.Array, form: str) -> pa.Array:
    """Texts as moments; null where a text doesn't look like the form.

    Raises:
        pyarrow.ArrowInvalid: when one is no day of the calendar, or no ISO 8601.
    """
    texts = pc.utf8_trim_whitespace(texts)
    if form in (ISO, OFFSET):
        return pc.cast(texts, TYPE if form == ISO else pa.timestamp("us", "UTC")).cast(TYPE)
    pattern = _pattern(form)
    if pattern is None:
        values = texts.to_pylist()
        known = {value: _python(value, form) for value in dict.fromkeys(values)}
        return pa.array([known[value] for value in values], TYPE)
    found = pc.extract_regex(texts, pattern)
    fields = {name: found.field(place) for place, name in enumerate(_names(found.type))}
    if "name" in fields:
        place = pc.index_in(pc.utf8_lower(pc.utf8_slice_codeunits(fields["name"], 0, 3)), pa.array(MONTHS))
        fields["month"] = pc.add(place, 1).cast(pa.string())
    if "half" in fields:
        fields["hour"] = _of_24(fields["hour"], fields["half"])
    written = [pc.utf8_lpad(fields.get(name, pa.scalar("01" if name in ("month", "day") else "00")), 2, "0") for name in PARTS]
    day = pc.binary_join_element_wise(fields["year"], *written[:2], "-")
    hour = pc.binary_join_element_wise(*written[2:], ":")
    hour = pa.array([hour.as_py()] * len(texts), pa.string()) if isinstance(hour, pa.Scalar) else hour
    whole = pc.binary_join_element_wise(day, hour, " ")
    return pc.cast(pc.if_else(pc.is_valid(found), whole, None), TYPE)


PARTS = ("month", "day", "hour", "minute", "second")


def _names(kind: pa.DataType) -> list[str]:
    return [kind.field(place).name for place in range(kind.num_fields)]


def _of_24(hour: pa.Array, half: pa.Array) -> pa.Array:
    """Hours from 1 to 12 with am or pm as hours from 0 to 23, as texts; null for any other."""
    number = pc.index_in(pc.utf8_lpad(hour, 2, "0"), pa.array([f"{one:02d}" for one in (12, *range(1, 12))]))
    return pc.add(number, pc.if_else(pc.equal(pc.utf8_lower(half), "pm"), 12, 0)).cast(pa.string())


def _pattern(form: str) -> str | None:
    """A format as a regular expression; None where it has a directive that Arrow can't take apart."""
    parts = re.split(r"(%.)", form)
    directives = parts[1::2]
    names = [re.search(r"<(\w+)>", DIRECTIVES.get(one, "")) for one in directives]
    plain = [found[1] for found in names if found]
    if len(plain) < len(directives) or len(set(plain)) < len(plain) or "year" not in plain or ("%I" in form) != ("%p" in form):
        return None
    return "^" + "".join(DIRECTIVES[part] if number % 2 else re.escape(part) for number, part in enumerate(parts)) + "$"


def _python(value: str | None, form: str) -> datetime | None:
    if value is None:
        return None
    try:
        return naive(datetime.strptime(value, form))
    except ValueError:
        return None


def naive(value: date) -> datetime:
    """A day as its midnight, a moment with a zone in UTC."""
    if not isinstance(value, datetime):
        return datetime(value.year, value.month, value.day)
    return value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo else value
