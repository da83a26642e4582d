"""Whole numbers that name things are told from numbers by what they predict."""

import numpy as np
import pyarrow as pa
import pytest

from embedkit.codes import as_columns, name_things
from embedkit.roles import find

ROWS = 6000


def drawn(logits, random):
    return as_columns((random.random(len(logits)) < 1 / (1 + np.exp(-logits))).astype(int), 2)


@pytest.fixture
def random():
    return np.random.default_rng(0)


def test_numbers_whose_order_says_nothing_are_codes(random):
    names, effects, places = random.choice(300_000, 200, replace=False), random.normal(0, 1.5, 200), random.integers(0, 200, ROWS)
    assert name_things(names[places], drawn(effects[places], random))
    assert name_things(names[places], as_columns(effects[places] + random.normal(size=ROWS)))


@pytest.mark.parametrize(
    "shape", [lambda x: x / 30 - 3, lambda x: 2 - np.abs(x - 100) / 25, lambda x: 2 * np.sin(x / 15), lambda x: 2.0 * (x > 140)]
)
def test_numbers_whose_order_says_something_stay_numbers(random, shape):
    x = random.integers(0, 200, ROWS)
    assert not name_things(x * 37, drawn(shape(x), random))


def test_numbers_that_say_nothing_stay_numbers(random):
    assert not name_things(random.integers(0, 200, ROWS), drawn(np.zeros(ROWS), random))


def test_a_value_for_none_beside_numbers_makes_no_codes_of_them(random):
    x = np.where(random.random(ROWS) < 0.8, 0, random.integers(100, 400, ROWS))
    assert not name_things(x, drawn(np.where(x == 0, 2.0, -2.0), random))


def test_a_table_gives_codes_vectors_and_says_why(random):
    names, effects, places = random.choice(300_000, 200, replace=False), random.normal(0, 1.5, 200), random.integers(0, 200, ROWS)
    table = pa.table({"RESOURCE": names[places], "amount": random.integers(0, 200, ROWS)})
    _, (resource, amount) = find(table, targets=drawn(effects[places] + table["amount"].to_numpy() / 100, random))
    assert resource.role == "embedding" and amount.role == "number"
    assert resource.reason == "200 different values: whole numbers that name things, since their order says nothing of the target"
    assert find(table)[1][0].role == "number"  # with no target nothing can be told
