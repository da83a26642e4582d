"""Spreadsheets as people make them: what is no row is set aside with its reason, and what can't be known is asked."""

import random
import re
import time
import zipfile
from datetime import date, datetime, timedelta
from datetime import time as clock

import openpyxl
import pytest
from odf import office, style, table, text
from odf.opendocument import OpenDocumentSpreadsheet

from embedkit.datasets import LoadTable, load_table, load_texts, read_contents
from embedkit.readers import ReadFiles, read
from embedkit.settings import UserError
from embedkit.sources import Source
from embedkit.xlsx import reading


@pytest.fixture
def book(tmp_path):
    """Write lists of cells as the sheet `Data` of an XLSX file; `more` may change the sheet and the workbook."""

    def write(*lines, more=None, name="book.xlsx"):
        made = openpyxl.Workbook()
        sheet = made.active
        sheet.title = "Data"
        for line in lines:
            sheet.append(line)
        if more:
            more(sheet, made)
        made.save(tmp_path / name)
        return tmp_path / name

    return write


@pytest.fixture
def ods(tmp_path):
    """Write rows of (attributes of a cell, its text) as an ODS file of one sheet or several."""

    def write(*sheets, hidden=(), name="book.ods"):
        made = OpenDocumentSpreadsheet()
        quiet = style.Style(name="quiet", family="table")
        quiet.addElement(style.TableProperties(display="false"))
        made.automaticstyles.addElement(quiet)
        for number, lines in enumerate(sheets, 1):
            one = table.Table(name=f"S{number}", **({"stylename": quiet} if number in hidden else {}))
            for line in lines:
                row = table.TableRow(**(line.pop(0) if line and isinstance(line[0], dict) else {}))
                for cell in line:
                    given, words = cell if isinstance(cell, tuple) else ({"valuetype": "string"}, cell)
                    made_cell = table.TableCell(**given)
                    if words is not None:
                        made_cell.addElement(text.P(text=words))
                    row.addElement(made_cell)
                one.addElement(row)
            made.spreadsheet.addElement(one)
        made.save(str(tmp_path / name))
        return tmp_path / name

    return write


def found(path, **settings):
    """The columns of the rows, and (place, reason) of what is none."""
    records = list(read(Source(path), "table", ReadFiles(**settings)))
    return [record.columns for record in records if not record.problem], [(r.place, r.problem) for r in records if r.problem]


def rewritten(path, **changes):
    """An XLSX file whose parts, by the end of their names, are changed as text."""
    with zipfile.ZipFile(path) as given:
        parts = {name: given.read(name) for name in given.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as kept:
        for name, data in parts.items():
            for end, change in changes.items():
                if name.endswith(f"{end}.xml"):
                    data = change(data.decode()).encode()
            kept.writestr(name, data)
    return path


def computed(path, **values):
    """An XLSX file whose formulas have values, by cell, as Excel stores them."""

    def change(sheet):
        for cell, value in values.items():
            kind = ' t="str"' if isinstance(value, str) else ""
            sheet, count = re.subn(
                rf'<c r="{cell}"([^>]*)><f>(.*?)</f><v ?/?>(</v>)?', rf'<c r="{cell}"\1{kind}><f>\2</f><v>{value}</v>', sheet
            )
            assert count == 1, cell
        return sheet

    return rewritten(path, sheet1=change)


# What cells hold


def test_types_are_those_of_the_cells_and_not_of_what_they_look_like(book):
    def formats(sheet, _):
        for place, form in (
            ("B2", "0%"),
            ("C2", "00000"),
            ("D2", '#,##0.00 "EUR"'),
            ("E2", "@"),
            ("F2", '"day "0'),
            ("G2", "[Red]0.0"),
        ):
            sheet[place].number_format = form

    path = book(list("abcdefghi"), [7, 0.25, 1067, 1234.5, "012", 3, 2.5, True, " x "], more=formats)
    assert found(path) == (
        [{"a": 7, "b": 0.25, "c": "01067", "d": 1234.5, "e": "012", "f": 3, "g": 2.5, "h": True, "i": " x "}],
        [],
    )
    assert [type(value) for value in found(path)[0][0].values()] == [int, float, str, float, str, int, float, bool, str]


MOMENT = datetime(2024, 3, 1, 14, 30)


@pytest.mark.parametrize(
    ("form", "value", "expected"),
    [
        ("yyyy-mm-dd", date(2024, 3, 1), date(2024, 3, 1)),
        ("dd.mm.yyyy", date(1900, 1, 1), date(1900, 1, 1)),
        ("d/m/yy h:mm", MOMENT, MOMENT),
        ("[$-407]dddd, d. mmmm yyyy", date(2024, 2, 29), date(2024, 2, 29)),
        ("mm/dd/yyyy", MOMENT, MOMENT),  # more than is shown stays
        ("h:mm:ss", clock(14, 30), "14:30:00"),
        ("h:mm AM/PM", clock(14, 30), "14:30:00"),
        ("[h]:mm:ss", timedelta(hours=30, minutes=5), "30:05:00"),
        ("mm:ss.0", timedelta(seconds=61.5), "00:01:01.5"),
        ("mmm-yy", date(2024, 3, 1), date(2024, 3, 1)),
    ],
)
def test_dates_moments_times_and_durations_are_what_their_format_says(book, form, value, expected):
    def formats(sheet, _):
        sheet["A2"].number_format = form

    assert found(book(["when"], [value], more=formats)) == ([{"when": expected}], [])


def test_dates_of_the_macs_epoch_are_the_same_days(book):
    def macs(_, made):
        made.epoch = openpyxl.utils.datetime.CALENDAR_MAC_1904

    path = book(["when"], [date(2024, 3, 1)], more=macs)
    assert "date1904" in zipfile.ZipFile(path).read("xl/workbook.xml").decode()
    assert found(path)[0] == [{"when": date(2024, 3, 1)}]


@pytest.mark.parametrize(
    ("form", "number", "value"),
    [
        ("General", 0.1 + 0.2, 0.1 + 0.2),
        ("General", 1e300, 1e300),
        ("yyyy-mm-dd", 59.0, date(1900, 2, 28)),  # Excel has a 29th of February in 1900
        ("yyyy-mm-dd", 61.0, date(1900, 3, 1)),
        ("yyyy-mm-dd", 1e9, 1e9),
        ("000", 7.0, "007"),
        ("000", 7.5, 7.5),
        ('"H"0', 7.0, 7),
        ("0.00E+00", 1500.0, 1500),
        ("yyyy-mm-dd h:mm", 45352.0, datetime(2024, 3, 1)),
        ("[h]:mm", -0.5, "-12:00:00"),
    ],
)
def test_a_format_makes_of_a_number_what_excel_shows(form, number, value):
    made = reading(form)(number)
    assert made == value and type(made) is type(value)


def shared(path, table):
    """An XLSX file whose texts stand in a table of their own, as Excel has them; `table` holds its items as XML."""
    with zipfile.ZipFile(path) as given:
        parts = {name: given.read(name).decode() for name in given.namelist()}
    cell, numbers = "xl/worksheets/sheet1.xml", iter(range(99))
    parts[cell] = re.sub(r't="inlineStr"><is>.*?</is>', lambda _: f't="s"><v>{next(numbers)}</v>', parts[cell])
    kind = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/sharedStrings"
    related = "xl/_rels/workbook.xml.rels"
    parts[related] = re.sub(
        "(<Relationship )", rf'<Relationship Type="{kind}" Target="sharedStrings.xml" Id="s"/>\1', parts[related], count=1
    )
    parts["xl/sharedStrings.xml"] = f'<sst xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main">{"".join(table)}</sst>'
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as kept:
        for name, data in parts.items():
            kept.writestr(name, data)
    return path


def test_runs_escapes_and_hints_of_pronunciation_of_shared_texts(book):
    rich = '<si><r><t>a </t></r><r><rPr><b/></rPr><t xml:space="preserve">bold </t></r><rPh sb="0" eb="1"><t>hint</t></rPh></si>'
    plain = [f"<si><t>{word}</t></si>" for word in ("a", "b", "c", "plain")]
    path = shared(book(["a", "b", "c"], ["x", "x", "x"]), [*plain, rich, "<si><t>one_x000D_\ntwo</t></si>"])
    assert found(path)[0] == [{"a": "plain", "b": "a bold ", "c": "one\r\ntwo"}]
    path = shared(book(["a"], ["x"]), plain[:1])
    with pytest.raises(UserError, match="book.xlsx can't be read: xl/worksheets/sheet1.xml in it is damaged"):
        found(path)


# Headers


def test_empty_rows_and_columns_before_the_names_are_no_part_of_the_rows(book):
    path = book([], [], [None, None, "text", "label"], [None, None, "hi", 1], [], [None, None, "yo", 2])
    assert found(path) == ([{"text": "hi", "label": 1}, {"text": "yo", "label": 2}], [])
    assert [record.place for record in read(Source(path), "texts", ReadFiles())] == [
        f"book.xlsx sheet Data row {n}" for n in (4, 6)
    ]


def test_names_are_stripped_and_numbers_and_dates_are_names_too(book):
    path = book([" text ", "two\nlines", 2024, date(2024, 1, 1)], ["a", "b", 1, 2])
    assert found(path)[0] == [{"text": "a", "two lines": "b", "2024": 1, "2024-01-01": 2}]


@pytest.mark.parametrize(("area", "cells"), [("B1:C1", "B1:C1"), ("A1:A2", "A1:A2"), ("A1:C1", "A1:C1")])
def test_merged_names_are_refused_with_the_setting_that_says_where_names_are(book, area, cells):
    path = book(["name", "size", None], [None, "wide", "high"], ["x", 1, 2], more=lambda sheet, _: sheet.merge_cells(area))
    with pytest.raises(
        UserError, match=f"row 1 of sheet 'Data' of book.xlsx, which should name the columns, has merged cells \\({cells}\\)"
    ):
        found(path)


def test_names_in_two_rows_are_read_where_the_second_is_named(book):
    def merge(sheet, _):
        sheet.merge_cells("A1:A2")
        sheet.merge_cells("B1:C1")

    path = book(["name", "size", None], [None, "wide", "high"], ["x", 1, 2], more=merge)
    assert found(path, header_row=2) == ([{"name": "x", "wide": 1, "high": 2}], [])


def test_a_title_above_the_names_is_refused_with_the_setting_that_says_where_names_are(book):
    path = book(["Survey of 2024"], [], ["a", "b"], [1, 2])
    with pytest.raises(UserError, match=r"row 1 of sheet 'Data' .* name.* column B, which holds values.*files\.header_row"):
        found(path)
    assert found(path, header_row=3) == ([{"a": 1, "b": 2}], [])
    assert found(path, header_row=2) == ([{"a": 1, "b": 2}], [])  # the first from there on that holds something


def test_a_name_that_comes_twice_or_is_an_error_is_refused(book):
    with pytest.raises(UserError, match="sheet 'Data' of book.xlsx has the column 'a' twice; rename one"):
        found(book(["a", "a"], [1, 2]))
    with pytest.raises(UserError, match="B1 of sheet 'Data' of book.xlsx names no column, since it is the error #REF!"):
        found(book(["a", "#REF!"], [1, 2]))


def test_the_index_that_pandas_writes_has_no_name(book):
    assert found(book([None, "a"], [0, "x"], [1, "y"])) == ([{"": 0, "a": "x"}, {"": 1, "a": "y"}], [])


def test_a_sheet_without_names_gets_those_that_are_given(book):
    assert found(book([None, "hi", 1], [None, "yo", 2]), column_names=("text", "label"))[0][1] == {"text": "yo", "label": 2}


def test_a_column_without_a_name_further_down_costs_its_row(book):
    lines = [["hi"]] * 60
    lines[55] = ["hi", None, "a remark"]
    rows, problems = found(book(["text"], *lines))
    assert len(rows) == 59 and problems == [("book.xlsx sheet Data row 57", "C57 holds a value, but its column has no name")]


# Below and beside the rows


def test_totals_and_footnotes_are_no_rows(book):
    lines = [["a", 1, 2.5], ["b", 2, 3.5], ["Total", 3, 6.0], [], ["Source: the ministry"], ["* estimated"]]
    rows, problems = found(book(["name", "n", "x"], *lines))
    assert rows == [{"name": "a", "n": 1, "x": 2.5}, {"name": "b", "n": 2, "x": 3.5}]
    assert problems == [
        ("book.xlsx sheet Data row 4", "a row of totals, as 'Total' says"),
        ("book.xlsx sheet Data row 6", "a footnote: one cell alone, below an empty row"),
        ("book.xlsx sheet Data row 7", "a footnote: one cell alone, below an empty row"),
    ]


def test_totals_are_known_by_their_formulas_too_and_running_ones_are_rows(book):
    path = computed(book(["name", "n"], ["a", 1], ["b", 2], [None, "=SUM(B2:B3)"]), B4=3)
    rows, problems = found(path)
    assert len(rows) == 2 and problems == [("book.xlsx sheet Data row 4", "a row of totals, as its formulas over other rows say")]
    path = computed(book(["n", "so far"], [1, "=SUM(A$2:A2)"], [2, "=SUM(A$2:A3)"]), B2=1, B3=3)
    assert found(path) == ([{"n": 1, "so far": 1}, {"n": 2, "so far": 3}], [])


def test_a_word_for_totals_among_the_rows_is_a_text_and_subtotals_are_not(book):
    rows, problems = found(book(["text", "n"], ["Total", 1], ["a", 2], ["Subtotal", 3], ["b", 4], ["sum", 5], ["Average:", 6]))
    assert [row["text"] for row in rows] == ["Total", "a", "b"]
    assert [why for _, why in problems] == [f"a row of totals, as {word!r} says" for word in ("Subtotal", "sum", "Average:")]


@pytest.mark.parametrize("word", ["Total", "Sum", "count"])
def test_a_text_that_says_total_among_texts_is_a_row(book, word):
    assert found(book(["text", "label"], [word, "pos"], ["other", "neg"]))[0][0] == {"text": word, "label": "pos"}


def test_rows_with_one_cell_are_rows_where_there_were_such_before(book):
    rows, problems = found(book(["text", "label"], ["a", 1], ["b"], [], ["c"]))
    assert [row["text"] for row in rows] == ["a", "b", "c"] and not problems


def test_a_cell_merged_over_rows_holds_for_each_of_them(book):
    def merge(sheet, _):
        sheet.merge_cells("A2:A3")
        sheet.merge_cells("A4:A5")

    path = book(
        ["species", "file"], ["cat", "1.jpg"], [None, "2.jpg"], ["dog", "3.jpg"], [None, "4.jpg"], [None, "5.jpg"], more=merge
    )
    assert [row["species"] for row in found(path)[0]] == ["cat", "cat", "dog", "dog", None]


def test_a_cell_merged_over_columns_is_no_value_of_each(book):
    rows, problems = found(book(["a", "b"], [1, 2], ["none", None], [3, 4], more=lambda sheet, _: sheet.merge_cells("A3:B3")))
    assert len(rows) == 2 and problems == [("book.xlsx sheet Data row 3", "A3:B3 are merged over several columns")]


# Errors and formulas


def test_not_available_is_a_missing_value_and_another_error_costs_its_row(book):
    rows, problems = found(book(["a", "b"], [1, "#N/A"], [2, "#DIV/0!"], [3, 4]))
    assert rows == [{"a": 1, "b": None}, {"a": 3, "b": 4}]
    assert problems == [
        ("book.xlsx sheet Data row 3", "B3 holds the error #DIV/0!; fix it, or write #N/A where there is no value"),
    ]


def test_a_formula_has_the_value_that_was_computed(book):
    path = book(["a", "b", "c"], [1, "=A2+1", '=A2&"x"'], [2, "=A3+1", '=""'])
    assert found(computed(path, B2=2, C2="1x", B3=3, C3="")) == ([{"a": 1, "b": 2, "c": "1x"}, {"a": 2, "b": 3, "c": None}], [])


def test_a_formula_that_nobody_computed_is_not_an_empty_cell(book):
    with pytest.raises(
        UserError, match=r"B2 of sheet 'Data' of book.xlsx is a formula that no program has computed yet; open the file"
    ):
        found(book(["a", "b"], [1, "=A2+1"]))


# Sheets


def test_of_several_sheets_one_is_to_be_named(book):
    def more(_, made):
        made.create_sheet("Empty")
        made.create_sheet("Other").append(["a"])

    path = book(["a"], [1], more=more)
    with pytest.raises(
        UserError, match=r"book.xlsx has 2 sheets that hold something \('Data', 'Other'\); name one with files.sheet"
    ):
        found(path)
    assert found(path, sheet="Data") == ([{"a": 1}], [])
    with pytest.raises(UserError, match=r"sheet of book.xlsx 'data' is not known; did you mean 'Data'\? \(files.sheet\)"):
        found(path, sheet="data")


@pytest.mark.parametrize("state", ["hidden", "veryHidden"])
def test_a_hidden_sheet_is_read_only_where_it_is_named(book, state):
    def more(_, made):
        sheet = made.create_sheet("Lists")
        sheet.append(["b"])
        sheet.append([2])
        sheet.sheet_state = state

    path = book(["a"], [1], more=more)
    assert found(path) == ([{"a": 1}], []) and found(path, sheet="Lists") == ([{"b": 2}], [])
    path = book(more=more)
    with pytest.raises(UserError, match=r"of book.xlsx hidden sheets alone hold something \('Lists'\); name one with files.sheet"):
        found(path)


def test_a_workbook_without_anything_or_with_names_alone_has_no_row(book):
    with pytest.raises(UserError, match="no sheet of book.xlsx holds anything"):
        found(book())
    assert found(book(["a", "b"])) == ([], [])
    with pytest.raises(UserError, match="has no readable row"):
        load_table(book(["a", "b"]))


def test_what_is_no_workbook_is_refused(tmp_path):
    for data, reason in (
        (b"a,b\n1,2\n", "it is no workbook, whatever its name says"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(99), "it is encrypted, or of Excel before 2007"),
        (b"PK\x05\x06" + bytes(18), "it is a zip but no workbook"),
    ):
        (tmp_path / "x.xlsx").write_bytes(data)
        with pytest.raises(UserError, match=f"x.xlsx can't be read: {reason}"):
            found(tmp_path / "x.xlsx")
    (tmp_path / "x.xls").write_bytes(b"")
    with pytest.raises(UserError, match=r"the format of x.xls '.xls' is not known; did you mean '.xlsx'"):
        found(tmp_path / "x.xls")


def test_a_file_that_was_cut_off_or_changed_is_one_sentence(book):
    path = book(["a"], *[[n, str(n) * 50] for n in range(300)])
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="book.xlsx can't be read: "):
        found(path)
    damage = random.Random(0)
    for _ in range(60):
        broken = bytearray(data)
        for place in damage.sample(range(len(data)), 4):
            broken[place] = damage.randrange(256)
        path.write_bytes(broken)
        try:
            found(path, column_names=("a", "b"))
        except UserError as error:
            assert "book.xlsx" in str(error)


# Size


def test_three_hundred_columns_are_three_hundred_columns(book):
    path = book([f"c{n}" for n in range(300)], *[[r * n for n in range(300)] for r in range(40)])
    rows, problems = found(path)
    assert len(rows) == 40 and not problems and rows[7]["c299"] == 7 * 299 and list(rows[0]) == [f"c{n}" for n in range(300)]


def test_a_cell_in_the_far_corner_takes_no_memory(book):
    def far(sheet, _):
        sheet["A1048576"] = 3

    started = time.monotonic()
    assert found(book(["a"], [1], more=far))[0] == [{"a": 1}, {"a": 3}] and time.monotonic() - started < 10


def bomb(path, part, data):
    """The workbook with another part, which compresses well."""
    with zipfile.ZipFile(path) as given:
        parts = {name: given.read(name) for name in given.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as kept:
        for name, old in parts.items():
            kept.writestr(name, data if name == part else old)


@pytest.mark.parametrize(
    ("part", "data", "reason"),
    [
        (
            "xl/sharedStrings.xml",
            b"<sst>" + b" " * 5000 + b"</sst>",
            r"xl/sharedStrings.xml in it has 5,011 bytes, and at most 4,000",
        ),
        (
            "xl/worksheets/sheet1.xml",
            b"<worksheet>" + bytes(9000) + b"</worksheet>",
            "sheet1.xml in it has 9,023 bytes, and at most 8,000",
        ),
        ("xl/worksheets/sheet1.xml", b'<!DOCTYPE x [<!ENTITY a "b">]><worksheet>&a;</worksheet>', "defines entities"),
        ("xl/worksheets/sheet1.xml", b'<worksheet><row><c t="str"><v>' + b"x" * 1001, "a cell holds more than 1,000 characters"),
    ],
)
def test_what_a_crafted_file_claims_is_bounded(book, monkeypatch, part, data, reason):
    monkeypatch.setattr("embedkit.xlsx.MOST_WORDS", 4000)
    monkeypatch.setattr("embedkit.cells.parsed.__defaults__", (8000,))
    monkeypatch.setattr("embedkit.cells.LONGEST", 1000)
    path = shared(book(["a"], ["x"]), ["<si><t>a</t></si>"] * 2)
    bomb(path, part, data)
    with pytest.raises(UserError, match=reason):
        found(path)


def test_any_workbook_of_openpyxl_is_read_as_openpyxl_reads_it(book):
    draw_ = random.Random(1)
    kinds = [
        lambda: draw_.randrange(-(10**9), 10**9),
        lambda: draw_.uniform(-1e6, 1e6),
        lambda: draw_.choice([True, False]),
        lambda: draw_.choice(["x", "ä & <b>", "a\nb", "007", "'=1"]),
        lambda: datetime(1950, 1, 1) + timedelta(seconds=draw_.randrange(10**9)),
        lambda: None,
    ]
    lines = [[draw_.choice(kinds)() for _ in range(6)] for _ in range(300)]
    path = book([f"c{n}" for n in range(6)], *lines)
    theirs = openpyxl.load_workbook(path)["Data"].iter_rows(min_row=2, values_only=True)
    rows = [tuple(row.values()) for row in found(path)[0]]
    assert rows == [row for row in theirs if any(value is not None for value in row)]


# ODS

NAMES = [["a", "b"]]


def number(value, **more):
    return {"valuetype": "float", "value": value, **more}, str(value)


def test_an_ods_has_the_types_of_its_cells(ods):
    lines = [
        ["a", "b", "c", "d", "e", "f"],
        [
            *(
                number(7),
                ({"valuetype": "percentage", "value": 0.25}, "25 %"),
                ({"valuetype": "date", "datevalue": "2024-03-01"}, "1.3.24"),
            ),
            *(
                ({"valuetype": "boolean", "booleanvalue": "true"}, "WAHR"),
                ({"valuetype": "time", "timevalue": "PT30H05M00S"}, "30:05"),
            ),
            "two  words",
        ],
        [
            *(number(7.5), ({"valuetype": "currency", "value": 3, "currency": "EUR"}, "3 €")),
            *(
                ({"valuetype": "date", "datevalue": "2024-03-01T14:30:00"}, "x"),
                ({"valuetype": "boolean", "booleanvalue": "false"}, "x"),
            ),
        ],
    ]
    rows, problems = found(ods(lines))
    assert not problems and rows[0] == {"a": 7, "b": 0.25, "c": date(2024, 3, 1), "d": True, "e": "30:05:00", "f": "two  words"}
    assert rows[1] == {"a": 7.5, "b": 3, "c": MOMENT, "d": False, "e": None, "f": None}


def test_repeated_cells_and_rows_of_an_ods_are_as_many(ods):
    path = ods(
        [
            ["a", "b", "c"],
            [{"numberrowsrepeated": 3}, number(1, numbercolumnsrepeated=2), "x"],
            [{"numberrowsrepeated": 10**6}, ({}, None)],
        ]
    )
    assert found(path) == ([{"a": 1, "b": 1, "c": "x"}] * 3, [])
    assert [record.place for record in read(Source(path), "table", ReadFiles())][-1] == "book.ods sheet S1 row 4"


def test_more_rows_than_a_sheet_has_are_refused(ods):
    with pytest.raises(UserError, match="book.ods can't be read: a sheet has more than 16,777,216 rows"):
        found(ods([["a"], [{"numberrowsrepeated": 10**9}, number(1)]]))


def test_formulas_errors_and_merged_cells_of_an_ods(ods):
    merged = {"valuetype": "string", "numberrowsspanned": 2, "numbercolumnsspanned": 1}
    error = {"valuetype": "string", "formula": "of:=1/0"}
    lines = [
        *NAMES,
        [(merged, "cat"), number(1, formula="of:=1")],
        [({}, None), number(2)],
        ["dog", (error, "#DIV/0!")],
        ["x", (error, "#N/A")],
    ]
    rows, problems = found(ods(lines))
    assert rows == [{"a": "cat", "b": 1}, {"a": "cat", "b": 2}, {"a": "x", "b": None}]
    assert problems == [("book.ods sheet S1 row 4", "B4 holds the error #DIV/0!; fix it, or write #N/A where there is no value")]
    with pytest.raises(UserError, match="B2 of sheet 'S1' of book.ods is a formula that no program has computed yet"):
        found(ods([*NAMES, ["x", ({"formula": "of:=[.A2]"}, None)]]))


def test_sheets_of_an_ods_are_chosen_as_those_of_an_xlsx(ods):
    path = ods([["a"], ["x"]], [["b"], ["y"]])
    with pytest.raises(UserError, match=r"book.ods has 2 sheets that hold something \('S1', 'S2'\)"):
        found(path)
    assert found(path, sheet="S2") == ([{"b": "y"}], [])
    assert found(ods([["a"], ["x"]], [["b"], ["y"]], hidden=[1])) == ([{"b": "y"}], [])


def test_comments_are_no_part_of_a_cell(ods, tmp_path):
    made = OpenDocumentSpreadsheet()
    one, row = table.Table(name="S"), table.TableRow()
    cell = table.TableCell(valuetype="string")
    remark = office.Annotation()
    remark.addElement(text.P(text="a remark"))
    cell.addElement(remark)
    cell.addElement(text.P(text="a"))
    row.addElement(cell)
    one.addElement(row)
    value = table.TableRow()
    value.addElement(table.TableCell(valuetype="float", value=1))
    one.addElement(value)
    made.spreadsheet.addElement(one)
    made.save(str(tmp_path / "c.ods"))
    assert found(tmp_path / "c.ods") == ([{"a": 1}], [])


# As sources


@pytest.mark.parametrize("kind", ["xlsx", "ods"])
def test_texts_and_tables_are_loaded_from_spreadsheets(book, ods, kind):
    lines = [["text", "label", "n"], *[[f"row {n}", "pos" if n % 2 else "neg", n] for n in range(30)]]
    path = book(*lines) if kind == "xlsx" else ods([[number(c) if isinstance(c, int) else c for c in line] for line in lines])
    made = load_texts(path)
    assert str(made).startswith("texts/book@") and made.manifest.details["label"]["classes"] == {"neg": 15, "pos": 15}
    made = load_table(path, LoadTable(key_column="text"))
    assert made.manifest.details["columns"] == {"n": "int64"}
    assert sorted(read_contents(made, 0, 30)["n"].to_pylist()) == list(range(30))


def test_a_folder_of_spreadsheets_named_after_splits_is_a_source(book, tmp_path):
    for name in ("train", "test"):
        path = book(["text"], [f"{name} 1"], [f"{name} 2"])
        path.rename(tmp_path / f"{name}.xlsx")
    assert load_texts(tmp_path).manifest.details["splits"]["test"] == 2


def test_a_changed_cell_is_another_source(book):
    before = Source(book(["a"], [1])).content()
    assert Source(book(["a"], [2])).content() != before


def test_a_value_left_of_the_named_columns_is_not_lost_without_a_word(book):
    path = book([None, "x", "y"], *([None, n, "a"] for n in range(60)), ["late", 61, "b"])
    rows, problems = found(path)
    assert len(rows) == 60
    assert problems == [("book.xlsx sheet Data row 62", "A62 holds a value, but its column has no name")]
