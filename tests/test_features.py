"""Features: what becomes of each column's values, whatever type they come in."""

from datetime import date, datetime
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from embedkit import features
from embedkit.features import (
    MISSING,
    UNKNOWN,
    Calendar,
    Category,
    Columns,
    Embedded,
    Numbers,
    Vocabulary,
    as_texts,
    calendar,
    moments,
    text_array,
)


def chunked(values, kind=None):
    return pa.chunked_array([pa.array(values, kind)])


def encoded(column, values, kind=None):
    return column.encode(chunked(values, kind)).tolist()


# Numbers


def test_the_core_of_a_bounded_column_is_linear_and_what_lies_outside_stays_within_1():
    column = Numbers(name="x", low=0, high=10, gaps=False, bounded=True)
    found = np.ravel(encoded(column, [0.0, 5.0, 10.0, 2.5, -5.0, 15.0]))
    # an outlier as far away as the half range is wide: the tenth that is left is shared, 0.9 + 0.1 * 0.9 / (0.1 + 0.9)
    assert found == pytest.approx([-0.9, 0, 0.9, -0.45, -0.99, 0.99])


def test_an_outlier_does_not_squash_the_rest_and_order_is_kept():
    column = Numbers(name="x", low=0, high=10, gaps=True, bounded=True)
    values = [float("-inf"), -1e300, -1e12, -1.0, 0.0, 3.0, 10.0, 10.5, 11.0, 1e12, float("inf")]
    found = np.array(encoded(column, values))
    assert found[:, 1].tolist() == [1, *[0] * 9, 1]  # what isn't finite is a gap
    assert (np.diff(found[1:-1, 0]) >= 0).all() and (np.diff(found[2:-1, 0]) > 0).all()
    assert np.abs(found).max() <= 1
    assert found[6, 0] - found[4, 0] == pytest.approx(1.8)


def test_a_bounded_column_has_one_slope_where_its_core_ends():
    column = Numbers(name="x", low=-1, high=1, gaps=False, bounded=True)
    before, at, after = np.ravel(column.encode(chunked([1 - 1e-3, 1.0, 1 + 1e-3])))
    assert after - at == pytest.approx(at - before, rel=0.02)


def test_a_column_that_is_not_bounded_goes_on_linearly():
    assert encoded(Numbers(name="x", low=0, high=10, gaps=False), [20.0, -5]) == [[3], [-2]]


def test_numbers_of_every_type_are_one_number():
    column = Numbers(name="x", low=0, high=8, gaps=False, bounded=True)
    given = column.array([2, 2.0, Decimal(2), np.int8(2), np.float32(2), None])
    assert np.ravel(column.encode(pa.chunked_array([given]))) == pytest.approx([-0.45] * 5 + [0])


# Categories


def test_indices_are_one_hot_whatever_type_they_come_in():
    column = Category(name="month", values=[1, 2, 3])
    assert column.outputs == ["month is 1", "month is 2", "month is 3"]
    expected = [[0, 1, 0], [0, 0, 0], [0, 0, 0]]
    assert encoded(column, [2, 4, None]) == encoded(column, [2.0, 4.5, None]) == encoded(column, ["2", "4", None]) == expected
    assert column.encode(pa.chunked_array([column.array([2, 2.0, "2", None])])).tolist() == [[0, 1, 0]] * 3 + [[0, 0, 0]]


@pytest.mark.parametrize(
    ("values", "fitting", "others", "words"),
    [
        (["a", "b"], (str, np.str_), (int, bool, float, date), "texts"),
        ([False, True], (bool, np.bool_), (int, str), "truth values"),
        ([0.5, 1.0], (int, float, str, np.float32), (bool, datetime), "numbers"),
        ([0, 1, 2], (int, float, str, np.int64, np.float32), (bool, datetime), "whole numbers"),
    ],
)
def test_a_category_says_what_it_takes(values, fitting, others, words):
    column = Category(name="x", values=values)
    assert all(column.fits(kind) for kind in fitting) and not any(column.fits(kind) for kind in others)
    assert column.takes == words


def test_numbers_that_are_one_hot_are_compared_as_numbers():
    column = Columns.model_validate_json(Columns(columns=[Category(name="x", values=[1.0, 2.5])]).model_dump_json()).columns[0]
    assert encoded(column, [1, 2]) == [[1, 0], [0, 0]] and encoded(column, [1.0, 2.5]) == [[1, 0], [0, 1]]
    given = column.array([1, "2.5", np.float32(2.5), None])
    assert column.encode(pa.chunked_array([given])).tolist() == [[1, 0], [0, 1], [0, 1], [0, 0]]


def test_true_is_neither_1_nor_a_text():
    assert Category(name="x", values=[False, True]).values == [False, True]
    told = '{"columns": [{"kind": "category", "name": "x", "values": [0, 1]}]}'
    assert Columns.model_validate_json(told).columns[0].takes == "whole numbers"


# Moments


def test_a_moment_becomes_its_calendar_parts():
    found = calendar(chunked([datetime(2024, 2, 29, 23, 59), None, datetime(1969, 12, 31)]))
    assert {part: values.tolist() for part, values in found.items()} == {
        "year": [2024, -1, 1969],
        "month": [2, -1, 12],
        "day": [29, -1, 31],
        "weekday": [3, -1, 2],  # a Thursday and a Wednesday
        "hour": [23, -1, 0],
    }


def test_calendar_parts_are_one_hot_and_unseen_or_missing_ones_zeros():
    column = Calendar(name="day", parts={"month": [1, 2], "weekday": [0, 6]})
    assert column.outputs == ["month of day is 1", "month of day is 2", "weekday of day is 0", "weekday of day is 6"]
    sunday, july, nothing = encoded(column, [datetime(2026, 2, 1), datetime(2026, 7, 7), None])
    assert (sunday, july, nothing) == ([0, 1, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0])


def test_moments_are_timestamps_or_texts_as_the_format_says():
    iso, german = Calendar(name="d", parts={"day": [1, 2]}), Calendar(name="d", parts={"day": [1, 2]}, format="%d.%m.%Y")
    assert encoded(iso, ["2026-03-02", "2026-03-01 12:00:00", None]) == [[0, 1], [1, 0], [0, 0]]
    assert encoded(german, ["02.03.2026", "01.03.2026", None]) == [[0, 1], [1, 0], [0, 0]]
    assert encoded(german, [datetime(2026, 3, 2)], pa.timestamp("us")) == [[0, 1]]
    assert (iso.takes, german.takes) == ("moments", "moments written as '%d.%m.%Y'")
    with pytest.raises(pa.ArrowInvalid):
        moments(chunked(["2026-03-02"]), "%d.%m.%Y")


def test_whole_numbers_are_moments_where_a_format_says_how():
    column = Calendar(name="d", parts={"day": [1, 31]}, format="%Y%m%d")
    assert encoded(column, [20260131, 20260201]) == encoded(column, ["20260131", "20260201"]) == [[0, 1], [1, 0]]
    assert column.fits(int) and not column.fits(bool) and not Calendar(name="d", parts={"day": [1]}).fits(int)
    assert column.array([20260131, np.int64(20260131), date(2026, 1, 31), None]).to_pylist() == ["20260131"] * 3 + [None]


@pytest.mark.parametrize("form", [None, "%m/%d/%y"])
def test_dates_and_their_texts_are_one_moment(form):
    column = Calendar(name="d", parts={"day": [3, 4], "hour": [0, 5]}, format=form)
    text = "2026-12-03" if form is None else "12/03/26"
    found = column.encode(pa.chunked_array([column.array([date(2026, 12, 3), datetime(2026, 12, 3), text, None])]))
    assert found.tolist() == [[1, 0, 1, 0]] * 3 + [[0] * 4]


# Values as texts


def test_7_in_every_type_is_one_value():
    for values in ([7], [7.0], ["7"], [np.int8(7)], [np.float32(7)]):
        assert as_texts(chunked(values)).to_pylist() == text_array(values).to_pylist() == ["7"]
    assert text_array([Decimal(7), Decimal("7.0")]).to_pylist() == ["7", "7"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.5, "0.5"),
        (-0.0, "0"),
        (0.1, "0.1"),
        (True, "true"),
        (False, "false"),
        ("", ""),
        (" Köln ", " Köln "),
        (2**53 - 1, "9007199254740991"),
        (float("nan"), None),
        (float("inf"), None),
        (None, None),
        (datetime(2026, 1, 2, 3, 4, 5), "2026-01-02 03:04:05.000000"),
    ],
)
def test_a_value_has_one_text_in_a_dictionary_and_in_an_arrow_table(value, text):
    kind = pa.float64() if value is None else None
    assert text_array([value]).to_pylist() == [text]
    assert as_texts(chunked([value], kind)).to_pylist() == [text]


@pytest.mark.parametrize("number", [1e15, 1e16, 2.0**53, -(2.0**60), 1e21, 1e-5, 1.25e-7, 1e300, 123456.789, 0.1 + 0.2])
def test_a_number_has_one_text_however_large_or_small(number):
    assert as_texts(chunked([number])).to_pylist() == text_array([number]).to_pylist()


def test_a_date_is_the_moment_it_begins():
    assert text_array([date(2026, 1, 2)]).to_pylist() == as_texts(chunked([datetime(2026, 1, 2)], pa.timestamp("us"))).to_pylist()


def test_a_lone_surrogate_is_a_value_that_no_row_had():
    assert text_array(["\ud800"]).to_pylist() == ["\\ud800"]


# Vocabularies


def test_a_value_has_the_place_of_its_own_or_of_unknown_or_missing_ones():
    known = Vocabulary(name="city", values=["Bonn", "Köln"], missing=True, dimension=3)
    assert known.places(chunked(["Köln", "Bonn", "Rom", None, ""])).tolist() == [3, 2, UNKNOWN, MISSING, UNKNOWN]
    assert (known.size, known.places(chunked(["Köln"])).dtype) == (4, np.int32)


def test_missing_values_are_unknown_ones_where_training_rows_hardly_had_such():
    known = Vocabulary(name="city", values=["Bonn"], missing=False, dimension=3)
    assert known.places(chunked([None, "Bonn"])).tolist() == [UNKNOWN, 2]


def test_a_vocabulary_without_values_knows_none():
    known = Vocabulary(name="city", values=[], missing=False, dimension=3)
    assert known.places(chunked(["Bonn", None])).tolist() == [UNKNOWN, UNKNOWN]


# Columns

COLUMNS = Columns(
    columns=[
        Embedded(name="home", vocabulary=0),
        Numbers(name="size", low=0, high=1, gaps=True, bounded=True),
        Embedded(name="away", vocabulary=0),
        Category(name="sold", values=[False, True]),
    ],
    vocabularies=[Vocabulary(name="home, away", values=["Bonn", "Köln"], missing=False, dimension=2)],
)


def test_outputs_are_plain_columns_first_and_then_vectors():
    plain = ["size", "size is missing", "sold is False", "sold is True"]
    assert COLUMNS.outputs == [*plain, "home [0]", "home [1]", "away [0]", "away [1]"]
    assert [column.name for column in COLUMNS.plain] == ["size", "sold"]
    assert [COLUMNS.vocabulary(column).name for column in COLUMNS.embedded] == ["home, away"] * 2


def test_columns_survive_json_with_the_types_of_their_values():
    months = Columns(columns=[Category(name="month", values=[1, 2]), Calendar(name="day", parts={"hour": [1, 2]}, format="%H")])
    for columns in (COLUMNS, months):
        assert Columns.model_validate_json(columns.model_dump_json()) == columns


def test_examples_are_of_a_type_that_their_column_takes():
    calendars = Calendar(name="d", parts={"day": [1]}, format="%d.%m.%y")
    columns = Columns(
        columns=[*COLUMNS.columns, calendars, Category(name="n", values=[1, 2])], vocabularies=COLUMNS.vocabularies
    )
    for column in columns.columns:
        found = [columns.example(column, place) for place in (0, 0.3, 0.6, 0.999)]
        assert all(column.fits(type(value)) for value in found)
        assert len(set(map(str, found))) > 1
        assert len(column.array(found)) == 4
    assert columns.example(columns.embedded[0], 0.999) == "no such value"


@pytest.mark.parametrize(
    ("text", "form", "hour"),
    [("2024-01-01T00:00:00+02:00", None, 22), ("2024-01-01 05:00", None, 5), ("31/1/2024 07:30", "%d/%m/%Y %H:%M", 7)],
)
def test_moments_are_read_as_they_are_written_an_offset_in_utc(text, form, hour):
    assert features.calendar(features.moments(pa.chunked_array([[text, None]]), form))["hour"].tolist() == [hour, -1]


def test_a_day_that_no_calendar_has_is_no_moment():
    with pytest.raises(pa.ArrowInvalid, match="'31/02/2024' is none"):
        features.moments(pa.chunked_array([["30/01/2024", "31/02/2024"]]), "%d/%m/%Y")
