"""Roles: what is made of each column of a table, and what a user may say about it."""

from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from embedkit import LearnCategories, UserError
from embedkit.features import Calendar, Category, Columns, Embedded, Numbers
from embedkit.pipelines import TableFeed
from embedkit.roles import RULES, Found, dimension, find, left_out, parsed, plain_columns

ROWS = 120
CITIES = [f"city {n % 12:02d}" for n in range(ROWS)]


def roles(rules=(), shared=(), **columns):
    """Each column's role and reason."""
    return {one.name: (one.role, one.reason) for one in find(pa.table(columns), rules, shared)[1]}


def role(values, name="x", rules=(), kind=None):
    """The role and the reason of one column."""
    return roles(rules, **{name: pa.array(values, kind)})[name]


def column(values, rules=(), kind=None, **settings):
    """What one column becomes."""
    return find(pa.table({"x": pa.array(values, kind)}), rules, **settings)[0].columns[0]


# Found from the rows


def test_texts_that_recur_are_embedded_and_few_ones_one_hot():
    assert role(CITIES) == ("embedding", "12 different values: texts that recur")
    assert role([f"{n % 10}th" for n in range(ROWS)]) == ("one-hot", "10 different values")
    assert role([n % 2 == 0 for n in range(ROWS)]) == ("one-hot", "2 different values")


def test_numbers_are_numbers_and_indices_one_hot():
    assert role([n / 7 for n in range(ROWS)]) == ("number", "numbers")
    assert role([n * n for n in range(ROWS)]) == ("number", "numbers")
    assert role([n % 24 for n in range(ROWS)]) == ("one-hot", "an index of 24 values")
    assert role([1 + n % 12 for n in range(ROWS)]) == ("one-hot", "an index of 12 values")


@pytest.mark.parametrize(
    "values",
    [
        [2 + n % 12 for n in range(ROWS)],  # begins at neither 0 nor 1
        [n % 24 if n % 24 != 7 else 8 for n in range(ROWS)],  # one is missing between
        [n % 2 for n in range(ROWS)],  # two say the same as a number
        [n % 33 for n in range(330)],  # too many
        [0] * 100 + [1] * 10 + [2, 3, 4],  # counts thin out
    ],
)
def test_whole_numbers_that_are_no_index_stay_numbers(values):
    assert role(values) == ("number", "numbers")


@pytest.mark.parametrize("name", ["store_id", "storeId", "ID", "zip", "product code", "store-key"])
def test_whole_numbers_that_name_things_by_the_columns_name_are_embedded(name):
    found = role([1000 + n % 12 for n in range(ROWS)], name)
    assert found == ("embedding", "12 different values: whole numbers that name things, by the column's name")


@pytest.mark.parametrize("name", ["paid", "width", "idea", "keyed", "codes"])
def test_a_name_that_only_ends_alike_is_no_key(name):
    assert role([1000 + n % 12 for n in range(ROWS)], name) == ("number", "numbers")


def test_identifiers_and_free_text_are_left_out_and_said():
    found = roles(
        order=[f"order-{n}" for n in range(ROWS)],
        order_id=list(range(1000, 1000 + ROWS)),
        comment=[f"it was quite good, number {n}" for n in range(ROWS)],
        same=["x"] * ROWS,
        nothing=pa.nulls(ROWS, pa.string()),
    )
    identifier = "an identifier: nearly every row has a value of its own, which says nothing of other rows"
    assert found == {
        "order": ("left out", identifier),
        "order_id": ("left out", identifier),
        "comment": ("left out", "free text"),
        "same": ("left out", "the same in all training rows"),
        "nothing": ("left out", "no value in any training row"),
    }


def test_what_is_left_out_is_said_by_its_reason():
    table = pa.table({"a": ["x"] * 3, "b": pa.nulls(3, pa.string()), "c": [1.0, 2.0, 4.0], "d": [5.0] * 3})
    found = find(table)[1]
    assert left_out(found) == "'a', 'd' (the same in all training rows); 'b' (no value in any training row)"
    assert left_out([one for one in found if one.name == "c"]) == ""


def test_a_column_whose_one_value_is_sometimes_missing_still_says_something():
    assert column(["x", None] * 10).outputs == ["x is x"]
    assert column([5.0, None] * 10).outputs == ["x", "x is missing"]


def test_moments_become_those_calendar_parts_that_differ():
    start = datetime(2026, 1, 1)
    found = column([start + timedelta(hours=12 * n) for n in range(10)])
    assert isinstance(found, Calendar)
    assert found.parts == {"day": [1, 2, 3, 4, 5], "weekday": [0, 3, 4, 5, 6], "hour": [0, 12]}
    assert role([start] * 9 + [start + timedelta(seconds=1)])[0] == "left out"  # no part differs


def test_the_scale_of_numbers_is_that_of_all_but_outliers():
    found = column([1e12, *np.linspace(0, 100, 999).tolist()])
    assert isinstance(found, Numbers) and found.bounded
    assert 0 <= found.low < 2 and 98 < found.high <= 100


def test_numbers_that_hardly_differ_have_the_scale_of_all():
    found = column([0.0] * 999 + [5.0])
    assert isinstance(found, Numbers) and (found.low, found.high) == (0, 5)


def test_a_value_needs_so_many_training_rows_for_a_vector_of_its_own():
    values = ["often"] * 20 + ["thrice"] * 3 + ["twice"] * 2 + ["once"] + [None] * 3
    columns, (found,) = find(pa.table({"x": values}), ("x=embedding",))
    assert columns.vocabularies[0].values == ["often", "thrice"] and columns.vocabularies[0].missing
    assert (found.values, found.kept) == (4, 2)
    everything = find(pa.table({"x": values[:-1]}), ("x=embedding",), least_count=1)[0].vocabularies[0]
    assert everything.values == ["often", "thrice", "twice", "once"]
    assert not find(pa.table({"x": values[:-1]}), ("x=embedding",))[0].vocabularies[0].missing  # two had none


def test_equally_frequent_values_are_in_the_order_of_their_names():
    for values in (["b", "a", "c"] * 4, ["c", "b", "a"] * 4):
        assert find(pa.table({"x": values}), ("x=embedding",))[0].vocabularies[0].values == ["a", "b", "c"]


@pytest.mark.parametrize(("values", "expected"), [(1, 2), (2, 2), (10, 6), (12, 6), (100, 21), (1000, 50), (10**6, 50)])
def test_more_values_have_longer_vectors_up_to_50(values, expected):
    assert dimension(values) == expected  # 1.6 n^0.56


# As the user says


def test_a_user_gives_a_role_and_a_size():
    found = column(["a", "b"] * 10, ("x=embedding:7",))
    columns, said = find(pa.table({"x": ["a", "b"] * 10}), ("x=embedding:7",))
    assert isinstance(found, Embedded) and columns.vocabularies[0].dimension == 7
    assert said == [Found(name="x", role="embedding", reason="as was asked", values=2, kept=2, dimension=7)]


def test_every_role_can_be_asked_for():
    numbers = [n % 12 for n in range(ROWS)]
    assert isinstance(column(numbers, ("x=number",)), Numbers)
    assert isinstance(column(numbers, ("x=embedding",)), Embedded)
    assert isinstance(column([n * n for n in numbers], ("x=one-hot",)), Category)
    assert role(numbers, rules=("x=leave-out",)) == ("left out", "as was asked")


def test_numbers_may_be_one_hot_where_that_is_asked_for():
    found = column([n % 4 / 2 for n in range(ROWS)] + [None, float("nan"), -0.0], ("x=one-hot",))
    assert found.outputs == ["x is 0.0", "x is 0.5", "x is 1.0", "x is 1.5"]


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ([n % 4 / 2 for n in range(ROWS)], "x=one-hot"),
        ([n % 2 == 0 for n in range(ROWS)], "x=embedding"),
        ([datetime(2026, 1, 1 + n % 3) for n in range(ROWS)], "x=embedding"),
        ([datetime(2026, 1, 1 + n % 3) for n in range(ROWS)], "x=date:%d.%m.%Y"),
        ([20260101 + n % 3 for n in range(ROWS)], "x=date:%Y%m%d"),
        ([n % 5 for n in range(ROWS)], "x=embedding"),
        ([n % 5 for n in range(ROWS)], "x=one-hot"),
        ([n % 5 for n in range(ROWS)], "x=number"),
    ],
)
def test_a_column_takes_the_rows_that_it_was_found_from_as_a_table_and_as_dictionaries(values, rule):
    table = pa.table({"x": values})
    columns = find(table, (rule,))[0]
    found = [[inputs for _, inputs in TableFeed(columns).batches(rows)][0] for rows in (table, table.to_pylist())]
    one, other = (each["values"] if isinstance(each, dict) else each for each in found)
    assert np.array_equal(one, other) and len(np.unique(one, axis=0)) == len(set(values))
    assert Columns.model_validate_json(columns.model_dump_json()).model_dump() == columns.model_dump()


def test_dates_in_texts_are_read_where_that_is_asked_for():
    iso = [f"2026-0{1 + n % 9}-02" for n in range(20)]
    assert column(iso, ("x=date",)).parts["month"] == list(range(1, 10))
    german = [f"0{1 + n % 9}.03.2026 14:00" for n in range(20)]
    found = column(german, ("x=date:%d.%m.%Y %H:%M",))
    assert (found.format, found.parts["day"]) == ("%d.%m.%Y %H:%M", list(range(1, 10)))


def test_a_format_may_hold_an_equals_sign():
    assert parsed("x=date:%Y=%m") == ("x", "date", "%Y=%m")
    assert parsed("a=b=number") == ("a=b", "number", None)


def test_of_several_rules_that_fit_a_column_the_first_counts():
    given = {"a_id": CITIES, "b_id": CITIES, "c": CITIES}
    found = roles(("a_id=one-hot", "*_id=leave-out"), **given)
    assert [name for name, _ in found.values()] == ["one-hot", "left out", "embedding"]


@pytest.mark.parametrize("text", ["x", "x=", "=number", "x=numbers", "x=embed", "number", "", "x:number", "x=leave_out"])
def test_what_is_no_role_is_refused(text):
    with pytest.raises(ValueError, match=f"{text!r} is no role; give NAME=ROLE, with one of {', '.join(RULES)}"):
        parsed(text)
    with pytest.raises(ValidationError, match="is no role; give NAME=ROLE"):
        LearnCategories(roles=(text,))


@pytest.mark.parametrize("text", ["x=embedding:0", "x=embedding:many", "x=number:3", "x=one-hot:5", "x=embedding:12345"])
def test_a_role_that_takes_no_such_argument_is_refused(text):
    kind, _, argument = text[2:].partition(":")
    with pytest.raises(ValueError, match=f"'{text}' is no role: {kind} takes no '{argument}'; give NAME=ROLE, with one of"):
        parsed(text)


def test_a_rule_for_no_column_is_refused_with_near_names():
    with pytest.raises(UserError, match=r"column 'citty' is not known; did you mean 'city'\? \(in roles\)"):
        roles(("citty=number",), city=CITIES)
    with pytest.raises(UserError, match=r"column '\*_id' is not known; there is city \(in roles\)"):
        roles(("*_id=number",), city=CITIES)


def test_a_column_that_cannot_have_its_role_is_refused():
    with pytest.raises(UserError, match="column 'x' holds string, which is no number; give it another role"):
        column(CITIES, ("x=number",))
    with pytest.raises(UserError, match="column 'x' holds bool, which is no number; give it another role"):
        column([True, False], ("x=number",))
    with pytest.raises(UserError, match="column 'x' holds moments, which are not one-hot as they are; give it x=date, or emb"):
        column([datetime(2026, 1, 1), datetime(2026, 1, 2)], ("x=one-hot",))
    with pytest.raises(UserError, match="column 'x' holds int64, which is no moment; give it another role"):
        column([1, 2, 3], ("x=date",))
    with pytest.raises(UserError, match=r"what is no moment written as '%Y%m%d' \(.*\); say how it is"):
        column([20260101, 20269999], ("x=date:%Y%m%d",))
    with pytest.raises(UserError, match=r"column 'x' holds what is no moment written in ISO 8601 \(.*\); say how it is, such"):
        column(["3/4/26", "5/6/26"], ("x=date",))
    with pytest.raises(UserError, match=r"what is no moment written as '%m/%d/%y' \(.*\); say how .* or give another role"):
        column(["3/4/26", "soon"], ("x=date:%m/%d/%y",))


def test_a_column_that_says_nothing_is_left_out_even_where_a_role_was_asked_for():
    assert role([5.0] * 9, rules=("x=number",)) == ("left out", "the same in all training rows")
    assert role(["a"] * 9, rules=("x=one-hot",)) == ("left out", "the same in all training rows")
    assert role(["2026-01-01"] * 9, rules=("x=date",)) == ("left out", "the same in all training rows")


# Shared vocabularies


def test_columns_that_share_a_vocabulary_are_embedded_by_it():
    table = pa.table({"home": ["a", "b"] * 6, "size": [n * n for n in range(12)], "away": ["b", "c", "c"] * 4})
    columns, found = find(table, (), ("home, away",))
    assert [vocabulary.name for vocabulary in columns.vocabularies] == ["home, away"]
    assert columns.vocabularies[0].values == ["b", "c", "a"]  # 10, 8 and 6 times in both together
    assert [column.vocabulary for column in columns.embedded] == [0, 0]
    assert [(one.name, one.role, one.values, one.kept) for one in found] == [
        ("home", "embedding", 2, 3),
        ("size", "number", 12, None),
        ("away", "embedding", 2, 3),
    ]


def test_numbers_and_texts_may_share_a_vocabulary():
    table = pa.table({"one": [1, 2] * 6, "other": ["1", "3"] * 6, "third": [1.0, 2.0] * 6})
    columns, _ = find(table, (), ("one,other,third",))
    assert columns.vocabularies[0].values == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("shared", "words"),
    [
        (("home",), "shared 'home' names one column; give two at least, joined by commas"),
        (("home,home",), "shared 'home,home' names one column"),
        (("",), "shared '' names one column"),
        (("home,there",), r"column 'there' is not known; .*\(in shared\)"),
        (("home,away", "away,third"), "column 'away' stands in two groups of shared; put all of them into one"),
    ],
)
def test_columns_that_cannot_be_shared_are_refused(shared, words):
    with pytest.raises(UserError, match=words):
        roles((), shared, home=CITIES, away=CITIES, third=CITIES)


# Without anything learned


def test_plain_columns_are_numbers_by_their_whole_range_and_up_to_20_words():
    table = pa.table({"x": [1.0, 2.0, 1e12], "word": ["a", "b", None], "day": [datetime(2026, 1, n) for n in (1, 2, 3)]})
    columns, found = plain_columns(table)
    assert columns.columns == [
        Numbers(name="x", low=1, high=1e12, gaps=False),
        Category(name="word", values=["a", "b"]),
    ]
    assert [one.role for one in found] == ["number", "one-hot", "left out"]
