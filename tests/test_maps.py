"""Maps: where vectors lie in two dimensions."""

import numpy as np
import pytest
from PIL import Image

from embedkit import maps
from embedkit.features import Columns, Embedded, Vocabulary
from embedkit.maps import principal_plane


def test_the_plane_is_that_of_the_largest_differences():
    vectors = np.array([[0, 0, 3], [0, 0, -3], [1, 0, 0], [-1, 0, 0]], np.float32)
    places, shares = principal_plane(vectors, np.ones(4))
    assert places == pytest.approx(np.array([[3, 0], [-3, 0], [0, 1], [0, -1]]))
    assert shares == pytest.approx([0.9, 0.1])


def test_a_value_counts_as_often_as_it_comes():
    vectors = np.array([[2.0, 0], [0, 1], [0, -1]])
    places, _ = principal_plane(vectors, np.array([10**9, 1, 1]))
    assert places[0] == pytest.approx([0, 0], abs=1e-6)  # the mean is where nearly all rows are
    vectors = np.array([[0, 1.0], [0, -1], [5, 0], [-5, 0]])
    places, _ = principal_plane(vectors, np.array([1000, 1000, 1, 1]))
    assert places == pytest.approx(vectors[:, ::-1])  # nearly all rows differ along the second number


def test_vectors_of_one_number_lie_on_a_line_and_equal_ones_on_a_point():
    places, shares = principal_plane(np.array([[1.0], [3.0]]), np.zeros(2))
    assert places.tolist() == [[-1, 0], [1, 0]] and shares.tolist() == [1, 0]
    places, shares = principal_plane(np.ones((3, 2)), np.ones(3))
    assert not places.any() and shares.tolist() == [0, 0]


def columns(**values):
    vocabularies = [Vocabulary(name=name, values=kept, missing=False, dimension=2) for name, kept in values.items()]
    embedded = [Embedded(name=name, vocabulary=number) for number, name in enumerate(values)]
    return Columns(columns=embedded, vocabularies=vocabularies)


def drawn(path, **values):
    given, random = columns(**values), np.random.default_rng(0)
    tables = [random.normal(size=(known.size, 2)) for known in given.vocabularies]
    maps.draw(given, tables, [random.integers(1, 9, known.size) for known in given.vocabularies], path)
    with Image.open(path) as picture:
        return picture.size, path.read_bytes()


def test_the_columns_of_most_values_are_drawn(tmp_path):
    odd = ["$x_1$", "a" * 80, "", "ß\n\t", "<b>", "%s {0}", "$"]
    many = {name: [*odd, *(f"{name} {n}" for n in range(60))] for name in ("one", "$two_", "three")}
    (width, three), _ = drawn(tmp_path / "three.png", **many)
    assert (width, three) == drawn(tmp_path / "four.png", **many, few=["x", "y"])[0]  # and a fourth isn't
    assert drawn(tmp_path / "one.png", one=["x", "y"])[0] == (width, pytest.approx(three / 3, abs=2))


def test_the_same_map_has_the_same_bytes(tmp_path):
    assert drawn(tmp_path / "one.png", one=["x", "y"])[1] == drawn(tmp_path / "two.png", one=["x", "y"])[1]


def test_a_column_without_a_value_of_its_own_is_said_to_have_none(tmp_path):
    assert drawn(tmp_path / "none.png", one=[])[1] != drawn(tmp_path / "some.png", one=["x"])[1]
    drawn(tmp_path / "odd.png", **{"$\\frac$": []})  # no formula
