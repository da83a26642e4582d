"""Escaping: hostile words read by a real Markdown parser, and what a terminal and a spreadsheet would obey."""

import csv
import io
import json
import random
import re
import unicodedata
from html.parser import HTMLParser

import pytest
from markdown_it import MarkdownIt

from embedkit import escaping
from embedkit.escaping import cell, fenced, literal, mermaid, of_cell, one_line, plain, visible, visible_json

HOSTILE = [
    "![x](http://evil.example/pixel.png)",
    "[click](javascript:alert(1)) [a][b] [b]: http://evil.example [^1] ![x][b]",
    "<img src=x onerror=alert(1)> <script>alert(1)</script> <http://evil.example> <a@b.example> <!-- x --> <?x?> <![CDATA[x]]>",
    "http://evil.example https://evil.example/a?b=c&d=(e) ftp://evil.example www.evil.example WWW.evil.example a@evil.example",
    "x:http://evil.example, (www.evil.example) _www.evil.example_ mailto:a.b+c@evil.example xmpp:a@evil.example/b",
    "a|b \\| c `|` `http://evil.example|x` \\http://evil.example\\ ``www.evil.example`` |---|",
    "**bold** __bold__ *it* _it_ `code` ~~gone~~ ~gone~ ==mark== ^up^ $x$ $$y$$ :smile: #1 &copy; &#60;b&#62; \\",
    "# head",
    "> quote",
    "- item",
    "+ item",
    "1. item",
    "123456789) item",
    "---",
    "===",
    "``` code",
    "~~~ code",
    "one\n===\ntwo\n---\n\n\n# head\n\n    code\n\n```\nfence\n| a |\n|---|\n| b |",
    "a\u2028# b\u2029- c\x85> d\r# e\x00 \x1b[31m \x7f\x9b",
    "tab\t\tand spaces   \\",
    "é 日本 🦊 \u202eevil\u202c \u200d",
]
AUTOLINK = re.compile(r"https?://|ftp://|www\.|[\w.+-]+@[\w-]+\.\w", re.IGNORECASE)
"""What GitHub's Markdown makes a link of in text."""
AROUND = {"{}": 0, "# {}": 0, "- {}": 0, "- name: {}": 0, "**{}**": 0, "**{}**: {}": 0, '"{}"': 0}
AROUND |= {"| a |\n|---|\n| {} |": 2, "| {} | {} |\n|---|---:|\n| {} | b |": 4}
"""Where texts stand on pages, and how many cells that has."""


def tokens_of(markdown):
    """Every token of a page, those inside lines too, with neighbouring pieces of text joined, as readers join them."""
    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    for token in parser.parse(markdown):
        yield token.type, token.content
        text = ""
        for child in token.children or []:
            text = text + child.content if child.type in ("text", "text_special") else ""
            yield child.type, text or child.content


def nothing_of_it_is_read(markdown):
    found = list(tokens_of(markdown))
    wrong = {"link_open", "image", "html_inline", "html_block", "code_block", "fence", "s_open", "em_open", "hr", "blockquote_open"}
    assert not {kind for kind, _ in found} & (wrong | {"hardbreak", "softbreak", "ordered_list_open", "lheading_open"}), markdown
    assert not [text for kind, text in found if kind == "text" and AUTOLINK.search(text)], markdown


class Words(HTMLParser):
    """The words of a page that a reader sees."""

    def __init__(self, markdown):
        super().__init__()
        self.words = ""
        self.feed(MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(markdown))

    def handle_data(self, data):
        self.words += data


def read(text):
    """A text as it should read: on one line, without what no page can hold."""
    return " ".join(re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", " ", text).split())


# Markdown


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("around", AROUND)
def test_nothing_of_a_hostile_text_is_read_and_it_reads_the_same(text, around):
    page = around.format(*[plain(text)] * 3)
    nothing_of_it_is_read(page)
    assert read(text) in " ".join(Words(page).words.split())
    assert sum(kind in ("th_open", "td_open") for kind, _ in tokens_of(page)) == AROUND[around]


@pytest.mark.parametrize("count", [200, pytest.param(10_000, marks=pytest.mark.slow)])
def test_any_text_of_the_signs_that_markdown_reads_stays_text(count):
    signs = random.Random(0)
    pieces = [*"\\`*_{}[]()<>|~#&$!@^:.-+= \n\t'\"", "http://a.b", "www.a.b", "a@b.c", "](", "![", "x", "1.", "&lt;", "<b>", "://"]
    for _ in range(count):
        text = "x" + "".join(signs.choices(pieces, k=signs.randint(1, 12))) if signs.random() < 0.5 else signs.choice(pieces) + "x"
        for around in ("{}", "| a | b |\n|---|---|\n| {} | c |", "- **{}**"):
            page = around.format(plain(text))
            nothing_of_it_is_read(page)
            assert sum(kind in ("th_open", "td_open") for kind, _ in tokens_of(page)) == (4 if "|--" in around else 0), page
            if "**" not in around:
                assert read(text) in " ".join(Words(page).words.split()), page


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("a|b_c\n# d", r"a\|b\_c \# d"),
        ("[x](https://a.b) c", "`[x](https://a.b)` c"),
        ("www.a.b", "`www.a.b`"),
        ("d@e.f texts/reviews@20260801", r"`d@e.f` texts/reviews\@20260801"),
        ("`https://a.b|c`", r"\`https`://`a.b\|c\`"),
        ("1. one", r"1\. one"),
        ("- one", r"\- one"),
        ("1.5 is no list", "1.5 is no list"),
        ("half \ud800 sign", "half \ufffd sign"),
    ],
)
def test_a_text_for_markdown_is_one_line_with_nothing_to_read(text, written):
    assert plain(text) == written


def test_a_name_is_code_where_it_can_be():
    assert literal("a_b/c-1.d") == "`a_b/c-1.d`" and literal("a`b") == r"a\`b" and literal("a b") == "a b"


def test_a_fence_is_longer_than_any_inside_it():
    assert fenced("a", "sh") == "```sh\na\n```"
    assert fenced("` ````", "json") == "`````json\n` ````\n`````"


def test_a_label_of_a_graph_has_its_signs_as_numbers():
    assert mermaid('texts/é-1 "]') == "texts/é-1 #34;#93;"


def test_a_text_for_html_ends_neither_a_tag_nor_an_attribute():
    assert escaping.safe('<b title="it\'s"> & 1') == "&lt;b title=&quot;it&#x27;s&quot;&gt; &amp; 1" and escaping.safe(7) == "7"


# A terminal


TURNING = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
BLANK = "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u3164\uffa0"
"""Letters and marks that show nothing."""


def test_a_terminal_gets_nothing_that_it_would_obey_or_hide():
    planes = (range(0x3200), range(0xD800, 0xE000), range(0xFE00, 0x10000), range(0x1F000, 0x1F100), range(0xE0000, 0xE0200))
    for number in (number for plane in planes for number in plane):
        sign = chr(number)
        kind, shown = unicodedata.category(sign), visible(sign)
        obeyed = kind in ("Cc", "Cs", "Zl", "Zp") or unicodedata.bidirectional(sign) in TURNING or 0xE0000 <= number < 0xE0080
        if sign != "\t" and (obeyed or sign in "\u200b\u200c\u200d\u200e\u200f\u061c\u2060\ufeff\xad"):
            assert shown.isascii() and shown.isprintable() and shown.startswith("\\"), hex(number)
        elif kind[0] in "LMNPS" and sign not in BLANK and number < 0xE0000:
            assert shown == sign, hex(number)


def test_what_a_terminal_is_shown_can_be_read():
    assert visible("a\x1b[31m\x9b\u202e\u200b\ud800\U000e0041\nb\tc é 日本 🦊") == (
        "a\\x1b[31m\\x9b\\u202e\\u200b\\ud800\\U000e0041\\nb\tc é 日本 🦊"
    )


def test_json_for_a_terminal_holds_the_same_values():
    value = {"a\x1b\x7f\x9b\u202e": ["\U000e0041🦊é\u2028", "\ud800"]}
    text = visible_json(json.dumps(value, indent=1, ensure_ascii=False))
    assert json.loads(text) == value and "🦊é" in text and not re.search(r"[\x7f-\x9f\u2028-\u202e\U000e0041\ud800]", text)


def test_a_line_stays_one():
    text = "a\nb\rc\vd\fe\x1cf\x85g\u2028h\u2029\n\ni"
    assert one_line(text) == "a b c d e f g h i" and one_line(7) == "7"


# A spreadsheet


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠"])
@pytest.mark.parametrize("quotes", [0, 1, 2])
def test_a_cell_begins_no_formula_and_is_read_back(start, quotes):
    text = "'" * quotes + start + "1+1"
    assert cell(text) == "'" + text and of_cell(cell(text)) == text


@pytest.mark.parametrize("text", ["", "a", "'tis", "''", "'", "'a=1", "1-1", " =1", "é", "'1"])
def test_a_cell_that_is_no_formula_is_left_as_it_is(text):
    assert cell(text) == of_cell(text) == text


def test_cells_survive_a_csv_file():
    signs = random.Random(0)
    texts = ["".join(signs.choices("'=+-@\t\r\n\"a,1", k=signs.randint(1, 5))) for _ in range(2000)]
    written = io.StringIO(newline="")
    csv.writer(written).writerows([[cell(text)] for text in texts])
    rows = list(csv.reader(io.StringIO(written.getvalue(), newline="")))
    assert [of_cell(row[0]) for row in rows] == texts and not [row for row in rows if row[0][0] in "=+-@\t\r\n"]
