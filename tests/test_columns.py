"""Which type fits a column, and what its values become."""

import math
import re
from datetime import UTC, date, datetime, time
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from embedkit import columns


def typed(*values):
    """The type chosen for a column, and its values in it."""
    found = columns.study(iter([{"x": value} for value in values]), ["x"])["x"]
    return found.type, columns.convert(list(values), columns.TYPES[found.type], found.form).to_pylist()


@pytest.mark.parametrize(
    ("values", "kind", "stored"),
    [
        (["1", "2"], "whole", [1, 2]),
        (["1", "-2", ""], "whole", [1, -2, None]),
        ([" 5 ", "6"], "whole", [5, 6]),
        (["0", "1"], "whole", [0, 1]),
        ([0, 1], "whole", [0, 1]),
        ([1, "2"], "whole", [1, 2]),
        (["1", "2.5"], "number", [1.0, 2.5]),
        (["1e3", "2"], "number", [1000.0, 2.0]),
        (["9" * 20], "word", ["9" * 20]),
        (["1", str(2**53 + 1), "0.5"], "word", ["1", str(2**53 + 1), "0.5"]),
        (["12E4", "1234"], "word", ["12E4", "1234"]),
        (["5 €", "1,234.50 €"], "number", [5.0, 1234.5]),
        (["$5", "-$1.5"], "number", [5.0, -1.5]),
        (["12 %", "3.5%"], "number", [12.0, 3.5]),
        (["1.234,5", "2"], "number", [1234.5, 2.0]),
        (["1 234,5", "2,25"], "number", [1234.5, 2.25]),
        (["1,234,567", "12"], "number", [1234567.0, 12.0]),
        (["1,234", "5,678"], "word", ["1,234", "5,678"]),
        (["true", "false"], "truth", [True, False]),
        (["True", "", "False"], "truth", [True, None, False]),
        ([True, None], "truth", [True, None]),
        (["2020-01-31", "2020-02-01 10:30:00"], "moment", [datetime(2020, 1, 31), datetime(2020, 2, 1, 10, 30)]),
        (["2020-01-31T10:30"], "moment", [datetime(2020, 1, 31, 10, 30)]),
        (["a", "b"], "word", ["a", "b"]),
        (["1", "x"], "word", ["1", "x"]),
        (["1,5", "2,5"], "number", [1.5, 2.5]),
        (["yes", "no"], "word", ["yes", "no"]),
        (["31.12.2020", "1.2.2021"], "moment", [datetime(2020, 12, 31), datetime(2021, 2, 1)]),
        (["12/31/2020", "1/2/2021"], "moment", [datetime(2020, 12, 31), datetime(2021, 1, 2)]),
        (["31/12/2020", "1/2/2021"], "moment", [datetime(2020, 12, 31), datetime(2021, 2, 1)]),
        (["1/2/2021", "3/4/2021"], "word", ["1/2/2021", "3/4/2021"]),
        (["31/02/2021"], "word", ["31/02/2021"]),
        (["3 Mar 2021", "12 december 2021"], "moment", [datetime(2021, 3, 3), datetime(2021, 12, 12)]),
        (["Mar 3, 2021 1:05 PM"], "moment", [datetime(2021, 3, 3, 13, 5)]),
        (["2024-01-01T00:00:00+02:00", "2024-01-01T00:00Z"], "moment", [datetime(2023, 12, 31, 22), datetime(2024, 1, 1)]),
        (["2024-01-01T00:00:00+02:00", "2024-01-01"], "word", ["2024-01-01T00:00:00+02:00", "2024-01-01"]),
        ([1, "2020-01-01"], "word", ["1", "2020-01-01"]),
        ([True, 1], "word", ["True", "1"]),
        ([[1, 2], {"a": "é"}], "word", ["[1, 2]", '{"a": "é"}']),
    ],
)
def test_a_column_has_the_narrowest_type_that_fits_all_its_values(values, kind, stored):
    assert typed(*values) == (kind, stored)


@pytest.mark.parametrize("values", [[1.5], [1.5, 2.5], [1, 0.5], [0.5, 1], [1, None, 2.5], [Decimal("1.5")]])
def test_a_fraction_is_never_cut_off(values):
    kind, stored = typed(*values)
    assert kind == "number" and stored == [value if value is None else float(value) for value in values]


def test_not_a_number_is_a_number():
    kind, stored = typed(math.nan, 1.5, None)
    assert kind == "number" and math.isnan(stored[0]) and stored[1:] == [1.5, None]


def test_whole_numbers_beside_truth_values_are_kept_apart():
    assert typed(1, True) == ("word", ["1", "True"])  # as in the other order


MISSING = (
    "",
    "NA",
    "N/A",
    "na",
    "n/a",
    "NaN",
    "nan",
    "null",
    "NULL",
    "None",
    "?",
    " NA ",
    "-",
    "--",
    ".",
    "#N/A",
    "<NA>",
    "#DIV/0!",
)


@pytest.mark.parametrize("word", MISSING)
def test_words_for_a_missing_value_are_missing_among_numbers(word):
    assert typed("1", word) == ("whole", [1, None])


@pytest.mark.parametrize("word", MISSING)
def test_words_for_a_missing_value_are_words_among_words(word):
    assert typed("x", word) == ("word", ["x", word])


@pytest.mark.parametrize("values", [[None], [None, None], ["", None], ["NA", "NA"]])
def test_a_column_without_values_is_of_words(values):
    assert typed(*values) == ("word", values)


def test_a_column_that_no_row_has_is_of_words():
    assert columns.infer(iter([{"x": 1}, {"x": 2}]), ["x", "y"]) == {"x": "whole", "y": "word"}
    assert columns.infer(iter([]), ["x"]) == {"x": "word"}


def test_what_parquet_knows_of_dates_is_kept():
    assert typed(datetime(2020, 1, 1, 5)) == ("moment", [datetime(2020, 1, 1, 5)])
    assert typed(datetime(2020, 1, 1, 5, tzinfo=UTC)) == ("moment", [datetime(2020, 1, 1, 5)])
    assert typed(time(1, 2)) == ("word", ["01:02:00"])


def test_a_date_is_a_moment_whether_it_comes_as_text_or_from_parquet():
    assert typed("2020-01-01") == ("moment", [datetime(2020, 1, 1)])
    assert typed(date(2020, 1, 1)) == ("moment", [datetime(2020, 1, 1)])


def test_a_column_may_change_its_type_far_down():
    rows = [{"x": 1, "y": "1", "z": None}] * columns.ROWS_AT_ONCE + [{"x": "a", "y": "1.5", "z": "7"}]
    assert columns.infer(iter(rows), ["x", "y", "z"]) == {"x": "word", "y": "number", "z": "whole"}
    rows = [{"x": None}] * columns.ROWS_AT_ONCE + [{"x": 5}] * columns.ROWS_AT_ONCE + [{"x": "2020-01-01"}]
    assert columns.infer(iter(rows), ["x"]) == {"x": "word"}


def test_a_value_that_does_not_fit_is_an_error():
    with pytest.raises(pa.ArrowInvalid, match="'x'"):
        columns.convert(["1", "x"], pa.int64())


def test_no_values_become_an_empty_column_of_the_type():
    for kind in columns.TYPES.values():
        assert columns.convert([], kind).type == kind and len(columns.convert([], kind)) == 0


def test_bytes_stay_bytes():
    assert columns.convert([b"\xff\x00", None], pa.binary()).to_pylist() == [b"\xff\x00", None]


def test_numbers_in_a_column_of_words_are_written_out():
    assert columns.convert([1, 2.5, None, True, "x"], pa.string()).to_pylist() == ["1", "2.5", None, "True", "x"]


def noted(name, *values):
    return columns.study(iter([{name: value} for value in values]), [name])[name]


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        (
            "t",
            ["1"] * 9 + ["n.b."],
            r"column 't' is taken as text: 9 of its 10 values are numbers, but not 'n\.b\.'; .* types t=number$",
        ),
        ("t", ["1,234", "5,678"], r"column 't' holds '1,234', which may be 1234 or 1\.234, .* types t=number:\. .* or t=number:,"),
        ("t", ["1/2/2021"], r"in which order is not clear.* types t=time:%d/%m/%Y or t=time:%m/%d/%Y$"),
        ("t", ["$5", "$6"], r"column 't' holds numbers written with signs beside the digits, such as '\$5'; .* types t=text$"),
        ("t", ["1,5"], r"column 't' holds numbers written with a decimal comma, such as '1,5'"),
        (
            "Unnamed: 0",
            list(range(10)),
            r"column 'Unnamed: 0' numbers the rows, and is left out; keep it with types Unnamed: 0=integer$",
        ),
    ],
)
def test_what_looks_wrong_in_a_column_is_noted_with_the_setting_that_decides(name, values, words):
    assert re.search(words, noted(name, *values).note)


@pytest.mark.parametrize("name", ["Unnamed: 0", "", "index", "id", "Row", "row_number", "no.", "#", "...1"])
def test_a_column_that_counts_the_rows_is_left_out(name):
    assert noted(name, *map(str, range(1, 13))).type == "left out"
    assert noted(name, *map(str, [*range(12), *range(12)])).type == ("left out" if name not in ("", "index") else "left out")


@pytest.mark.parametrize("values", [range(5), [*range(11), 12], [*range(2, 14)], [0.5 + n for n in range(12)]])
def test_whole_numbers_that_do_not_count_the_rows_stay(values):
    assert noted("id", *values).type in ("whole", "number")


def test_what_goes_up_by_one_stays_where_its_name_says_nothing_of_rows():
    assert noted("x", *range(400)).type == "whole"


def test_an_index_of_shuffled_rows_is_left_out():
    assert noted("Unnamed: 0", *np.random.default_rng(0).permutation(500).tolist()).type == "left out"


@pytest.mark.parametrize(
    ("kind", "form", "values", "stored", "lost"),
    [
        ("number", None, ["1", "-", "x", "$2.50", None], [1.0, None, None, 2.5, None], ["x"]),
        ("number", ",", ["1.234,5", "2"], [1234.5, 2.0], []),
        ("whole", None, ["007", "12.0", "1.5"], [7, 12, None], ["1.5"]),
        ("whole", None, [7, True, 1.5], [7, None, None], ["True", "1.5"]),
        ("truth", None, ["yes", "0", "maybe"], [True, False, None], ["maybe"]),
        ("moment", "%d/%m/%Y", ["1/2/2021", "2/30/2021"], [datetime(2021, 2, 1), None], ["2/30/2021"]),
        ("moment", "%Y%m%d", ["20210201"], [datetime(2021, 2, 1)], []),
        ("moment", "%j-%Y", ["032-2021", "x"], [datetime(2021, 2, 1), None], ["x"]),
        ("word", None, [12, "007", b"x"], ["12", "007", "x"], []),
    ],
)
def test_a_declared_type_is_kept_and_what_does_not_fit_is_counted_as_missing(kind, form, values, stored, lost):
    found: list[str] = []
    assert columns.convert(values, columns.TYPES[kind], form, found).to_pylist() == stored
    assert found == lost
