"""Which type fits a column, and what its values become."""

import math
from datetime import UTC, date, datetime, time
from decimal import Decimal

import pyarrow as pa
import pytest

from embedkit import columns


def typed(*values):
    """The type chosen for a column, and its values in it."""
    kind = columns.infer(iter([{"x": value} for value in values]), ["x"])["x"]
    return kind, columns.convert(list(values), columns.TYPES[kind]).to_pylist()


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
        (["9" * 20], "number", [1e20]),
        (["true", "false"], "truth", [True, False]),
        (["True", "", "False"], "truth", [True, None, False]),
        ([True, None], "truth", [True, None]),
        (["2020-01-31", "2020-02-01 10:30:00"], "moment", [datetime(2020, 1, 31), datetime(2020, 2, 1, 10, 30)]),
        (["2020-01-31T10:30"], "moment", [datetime(2020, 1, 31, 10, 30)]),
        (["a", "b"], "word", ["a", "b"]),
        (["1", "x"], "word", ["1", "x"]),
        (["1,5", "2,5"], "word", ["1,5", "2,5"]),
        (["yes", "no"], "word", ["yes", "no"]),
        (["31.12.2020"], "word", ["31.12.2020"]),
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


MISSING = ("", "NA", "N/A", "na", "n/a", "NaN", "nan", "null", "NULL", "None", "?", " NA ")


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
