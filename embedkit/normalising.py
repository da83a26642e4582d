"""Normalising: texts without what may be typed one way or another.

Case, spaces, punctuation and the ways in which Unicode writes one letter are left out; letters, digits and signs such as + or
an emoji stay, and two numbers stay two.
"""

import functools
import re
import sys
import unicodedata

BETWEEN = re.compile(r"(?<=\d)[^\w]+(?=\d)")
LEAST = 3
"""Letters and digits from which on a value of a table is compared as a text; shorter ones, such as A and a, are codes."""


@functools.cache
def _dropped() -> dict[int, None]:
    """Punctuation, spaces, control and invisible characters."""
    kinds = ("P", "Z", "Cc", "Cf")
    return {code: None for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)).startswith(kinds)}


def normal(text: str) -> str:
    """A text as copies of it have it too; empty where nothing is left."""
    folded = text.lower()
    if not text.isascii():
        folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return BETWEEN.sub("|", folded).translate(_dropped())


def normal_word(value: str) -> str:
    """A value of a table likewise, where it says enough; else without spaces around it."""
    found = normal(value)
    return found if sum(map(str.isalnum, found)) >= LEAST else value.strip()
