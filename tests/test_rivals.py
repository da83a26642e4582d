"""Rivals: what entity embeddings have to beat, each as scikit-learn gives it when it is called by hand."""

from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, TargetEncoder

from embedkit import rivals, roles
from embedkit.rivals import Cells
from embedkit.tasks import as_counts, task_of

ROWS = 600
TRAIN, HELD, TEST = np.arange(0, 360), np.arange(360, 420), np.arange(420, ROWS)


def table():
    random = np.random.default_rng(0)
    shops = random.integers(0, 40, ROWS)
    size = random.normal(size=ROWS)
    size[::17] = np.nan
    names = [None if n % 29 == 0 else f"shop {shop}" for n, shop in enumerate(shops)]
    colour = random.choice(["red", "blue"], ROWS)
    day = [datetime(2024, 1, 1) + timedelta(days=int(n)) for n in random.integers(0, 300, ROWS)]
    return pa.table({"shop": names, "size": size, "colour": colour, "day": day}), shops


@pytest.fixture(scope="module")
def cells():
    contents, _ = table()
    columns, _ = roles.find(contents.take(TRAIN))
    return Cells.of(columns, contents)


def task(labels, count=False):
    train = np.zeros(ROWS, bool)
    train[TRAIN] = True
    found = task_of("shops", labels, train)
    return as_counts(found, "shops", TRAIN) if count else found


def classes():
    _, shops = table()
    return np.where(np.random.default_rng(1).random(ROWS) < shops / 40, "yes", "no")


def by_hand(cells, model, target):
    """Boosting as anyone would call it."""
    gaps = {"unknown_value": np.nan, "encoded_missing_value": np.nan}
    coder = OrdinalEncoder(handle_unknown="use_encoded_value", max_categories=255, **gaps)
    words = coder.fit(cells.words[TRAIN]).transform(cells.words)
    inputs = np.concatenate([cells.numbers, words], axis=1)
    more = {"categorical_features": np.arange(inputs.shape[1]) >= cells.numbers.shape[1], "max_iter": 20, "early_stopping": True}
    return model(**more, random_state=3).fit(inputs[TRAIN], target[TRAIN]), inputs[TEST]


def test_rivals_see_numbers_with_gaps_calendar_parts_and_words(cells):
    contents, _ = table()
    assert np.isnan(cells.numbers[0, 0]) and cells.numbers[1, 0] == contents["size"][1].as_py()
    day = contents["day"][5].as_py()
    assert cells.numbers[5, 1:].tolist() == [day.month, day.day, day.weekday()]  # the year and the hour are always the same
    assert cells.words[1].tolist() == [contents["shop"][1].as_py(), contents["colour"][1].as_py()]
    assert cells.words[0, 0] is None
    assert np.abs(cells.scaled).max() <= 1


def test_boosting_of_classes_is_scikit_learns(cells):
    labels = classes()
    model, inputs = by_hand(cells, HistGradientBoostingClassifier, labels)
    ours = rivals.boosted(task(pa.array(labels)), cells, TRAIN, TEST, 3, 20)
    assert np.array_equal(ours, model.predict_proba(inputs))


def test_boosting_of_numbers_is_scikit_learns(cells):
    numbers = np.random.default_rng(2).normal(size=ROWS) + np.nan_to_num(cells.numbers[:, 0])
    model, inputs = by_hand(cells, HistGradientBoostingRegressor, numbers)
    assert np.array_equal(rivals.boosted(task(pa.array(numbers)), cells, TRAIN, TEST, 3, 20), model.predict(inputs))


def test_boosting_of_counts_has_poissons_loss(cells):
    counts = np.random.default_rng(2).poisson(3, ROWS).astype(float)
    model, inputs = by_hand(cells, lambda **more: HistGradientBoostingRegressor(loss="poisson", **more), counts)
    ours = rivals.boosted(task(pa.array(counts), count=True), cells, TRAIN, TEST, 3, 20)
    assert np.array_equal(ours, model.predict(inputs))


def test_boosting_of_several_labels_says_each_by_itself(cells):
    labels = pa.array([["a"] * bool(n % 2) + ["b"] * bool(n % 3) for n in range(ROWS)])
    assert rivals.boosted(task(labels), cells, TRAIN, TEST, 3, 5).shape == (len(TEST), 2)


def test_target_encoding_is_scikit_learns_and_out_of_fold_for_training_rows(cells):
    labels = classes()
    found = rivals.target_encoded(task(pa.array(labels)), cells, TRAIN, 3)
    coder = TargetEncoder(target_type="binary", cv=StratifiedKFold(5, shuffle=True, random_state=3))
    words = np.where(cells.words == None, "nothing", cells.words).astype(str)  # noqa: E711  elementwise
    inside = coder.fit_transform(words[TRAIN], (labels == "yes").astype(int)[TRAIN])
    assert np.allclose(found[TRAIN], inside) and np.allclose(found[TEST], coder.transform(words[TEST]))
    assert not np.allclose(found[TRAIN], coder.transform(words[TRAIN]))


def test_a_linear_model_is_as_strong_as_suits_the_validation_rows(cells):
    inputs = rivals.one_hot(cells, TRAIN)
    words = np.where(cells.words == None, "nothing", cells.words).astype(str)  # noqa: E711  elementwise
    coded = OneHotEncoder(handle_unknown="ignore").fit(words[TRAIN]).transform(words).toarray()
    assert inputs.shape[1] == cells.scaled.shape[1] + coded.shape[1]
    labels = classes()
    models = [LogisticRegression(C=c, max_iter=200).fit(inputs[TRAIN], labels[TRAIN]) for c in rivals.STRENGTHS]
    best = max(models, key=lambda model: (model.predict(inputs[HELD]) == labels[HELD]).mean())
    ours = rivals.linear(task(pa.array(labels)), inputs, TRAIN, HELD, TEST, 0)
    assert np.allclose(ours, best.predict_proba(inputs[TEST]), atol=1e-3)
    numbers = cells.scaled[:, 0].astype(float)
    line = rivals.linear(task(pa.array(numbers)), inputs, TRAIN, HELD, TEST, 0)
    assert np.allclose(line, Ridge(alpha=0.1).fit(inputs[TRAIN], numbers[TRAIN]).predict(inputs[TEST]), atol=1e-6)


def test_more_values_than_columns_can_be_had_of_are_hashed(cells, monkeypatch):
    monkeypatch.setattr(rivals, "MOST_ONE_HOT", 10)
    assert rivals.one_hot(cells, TRAIN).shape == (ROWS, cells.scaled.shape[1] + rivals.HASHED)


def test_where_vectors_stand_for_a_column_its_words_are_left_out():
    contents, _ = table()
    columns, _ = roles.find(contents.take(TRAIN))
    assert [column.name for column in columns.embedded] == ["shop"]
    assert Cells.of(columns, contents).without(columns).words[:, 0].tolist() == contents["colour"].to_pylist()
