"""Escaping: anyone's words stay words wherever they are shown.

Class names, columns, file names, texts and notes may be anyone's. `safe` is for HTML; `plain` and `literal` are for Markdown,
`fenced` and `mermaid` for blocks in it; `visible` is for a terminal, which would obey some characters; `cell` and `of_cell` are for
a spreadsheet, which would compute. Nothing that came from data reaches a page, a terminal or a csv file without one of them.
"""

import html
import re
from typing import Any

CONTROLS = r"\x00-\x1f\x7f-\x9f\u2028\u2029"
BREAKS = re.compile(r"[\n\v\f\r\x1c-\x1e\x85\u2028\u2029]+")
"""What ends a line for Python, or for whoever reads a log."""
HIDDEN = re.compile(
    r"[\x00-\x08\x0a-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164"
    r"\ufeff\uffa0\ufff0-\ufffb\ud800-\udfff\U000e0000-\U000e0fff]"
)
"""What a terminal obeys (C0 but for the tab, C1), what turns the direction of text, what has no width, and halves of signs."""
ADDRESS = re.compile(r"((?:://|www\.|@(?=[\w-]+\.))+)", re.IGNORECASE)
"""What GitHub's Markdown makes a link of without being told, e-mail addresses too; some readers even where it is escaped."""
FORMULA = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")
"""How a cell begins that a spreadsheet computes, or that was written by `cell` (OWASP, CSV Injection)."""


def safe(text: Any) -> str:
    """A text for HTML, between tags or in a quoted attribute."""
    return html.escape(str(text))


def plain(text: Any) -> str:
    """A text for Markdown, on one line, with nothing in it that Markdown or HTML would read; addresses are code and no links."""
    words = re.sub(f"[{CONTROLS}]", " ", str(text)).encode("utf-16", "surrogatepass").decode("utf-16", "replace").split()
    line = " ".join(_address(word) if ADDRESS.search(word) else _signs(word) for word in words)
    return re.sub(r"^(\d*)([.)]|[-+=]+)(?= |$)", r"\1\\\2", line)  # a list or a rule


def _signs(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>|~#&$!@^])", r"\\\1", text)


def _address(word: str) -> str:
    """A word that holds an address as code, or just what makes it one where the word has signs that code can't hold."""
    if re.fullmatch(r"[^`|\\]+", word):
        return f"`{word}`"
    parts = ADDRESS.split(word)  # every second one is what makes an address
    return "".join(f"`{part}`" if place % 2 else _signs(part) for place, part in enumerate(parts))


def literal(text: Any) -> str:
    """A name as code for Markdown, where it holds nothing that could end the code; else as `plain` gives it."""
    return f"`{text}`" if re.fullmatch(r"[\w.,:;/@+=-]+", str(text)) else plain(text)


def fenced(text: str, language: str) -> str:
    """A block of code for Markdown, in a fence longer than any run of backticks inside it."""
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", text))])
    return f"{fence}{language}\n{text}\n{fence}"


def mermaid(text: str) -> str:
    """A text for a Mermaid label: what isn't a letter, a digit or one of ` ./_-` is written as its number."""
    return "".join(sign if sign.isalnum() or sign in " ./_-" else f"#{ord(sign)};" for sign in text)


def one_line(text: Any) -> str:
    """A text whose line breaks are spaces: what is printed as a line stays one."""
    return BREAKS.sub(" ", str(text))


def visible(text: str) -> str:
    """A text for a terminal: what a terminal would obey or hide is shown, such as `\\x1b` or `\\u202e`; a tab stays one."""
    return HIDDEN.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), text)


def visible_json(text: str) -> str:
    """JSON for a terminal: the same values, with what a terminal would obey or hide as JSON escapes it."""
    return HIDDEN.sub(lambda found: found[0] if found[0] == "\n" else _numbered(found[0]), text)


def _numbered(sign: str) -> str:
    units = sign.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at:at + 2].hex()}" for at in range(0, len(units), 2))


def cell(text: str) -> str:
    """A text for a csv file that a spreadsheet may open: with a `'` before what it would take for a formula."""
    return f"'{text}" if FORMULA.match(text) else text


def of_cell(text: str) -> str:
    """What `cell` made this of; any other text as it is."""
    return text[1:] if text.startswith("'") and FORMULA.match(text) else text
