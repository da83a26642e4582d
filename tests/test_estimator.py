"""EntityEmbedding among scikit-learn's own: in pipelines and checks, with tables of every type, and out of fold where it counts."""

import copy
import pickle
import random
import warnings
from datetime import datetime

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import embedkit
from embedkit import categories, frameworks
from embedkit.estimator import EntityEmbedding
from embedkit.settings import UserError

SMALL = {"folds": 2, "epochs": 2, "hidden": (8,), "batch_size": 64, "learning_rate": 0.03}
CROSSED = "the rows that were learned from get vectors out of fold, as those of TargetEncoder do"


def small(**more):
    return EntityEmbedding(**SMALL | more)


def table(rows=240):
    """Towns that decide the label, three of four times, and a number that doesn't."""
    drawn = np.random.default_rng(0)
    towns = drawn.integers(0, 15, rows)
    X = pd.DataFrame({"town": [f"town {number}" for number in towns], "size": drawn.normal(size=rows)})
    return X, np.where((towns % 2 == 1) ^ (drawn.random(rows) < 0.25), "yes", "no")


@pytest.fixture(scope="module")
def fitted():
    return small().fit(*table())


# scikit-learn's checks


@parametrize_with_checks([EntityEmbedding()])
def test_checks_of_scikit_learn_on_numbers_of_which_nothing_is_learned(estimator, check):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks([small(roles=("*=embedding:2",), least_count=1, folds=0)])
def test_checks_of_scikit_learn_where_every_column_is_embedded(estimator, check):
    check(estimator)


def failing(estimator):
    return dict.fromkeys(("check_transformer_general", "check_transformer_data_not_an_array"), CROSSED)


@pytest.mark.slow
@parametrize_with_checks([small(roles=("*=embedding:2",), least_count=1)], expected_failed_checks=failing)
def test_checks_of_scikit_learn_where_vectors_are_out_of_fold(estimator, check):
    check(estimator)


# Beside other estimators


def test_the_class_is_reached_from_the_package_and_beside_learn_categories():
    assert embedkit.EntityEmbedding is EntityEmbedding and categories.EntityEmbedding is EntityEmbedding
    with pytest.raises(AttributeError, match="module 'embedkit.categories' has no attribute 'nothing'"):
        _ = categories.nothing


def test_a_pipeline_is_cross_validated_and_finds_what_the_towns_decide():
    scores = cross_val_score(make_pipeline(small(epochs=6), LogisticRegression()), *table(), cv=2)
    assert scores.shape == (2,) and scores.min() > 0.6


def test_a_column_transformer_gives_it_some_columns_and_boosting_takes_the_vectors():
    X, y = table()
    X["weight"] = np.arange(len(X)) % 50
    parts = ColumnTransformer([("towns", small(), ["town"]), ("numbers", StandardScaler(), ["size", "weight"])])
    model = make_pipeline(parts, HistGradientBoostingClassifier(max_iter=5)).fit(X, y)
    assert model.predict(X[["weight", "town", "size"]]).shape == (240,)
    names = parts.fit(X, y).get_feature_names_out()
    assert names[0] == "towns__town [0]" and list(names[-2:]) == ["numbers__size", "numbers__weight"]


def test_output_can_be_a_data_frame(fitted):
    X, _ = table()
    found = copy.deepcopy(fitted).set_output(transform="pandas").transform(X)
    assert list(found.columns) == list(fitted.get_feature_names_out()) and found.columns[:2].tolist() == ["size", "town [0]"]
    np.testing.assert_array_equal(found.to_numpy(), fitted.transform(X))
    assert (found.dtypes == np.float32).all() and list(found.index) == list(X.index)


def test_a_clone_has_the_parameters_and_nothing_of_what_was_learned(fitted):
    again = clone(fitted)
    assert again.get_params() == fitted.get_params() and not hasattr(again, "columns_")
    with pytest.raises(NotFittedError):
        again.transform(table()[0])
    with pytest.raises(NotFittedError):
        again.get_feature_names_out()


def test_a_fitted_one_can_be_pickled_and_copied(fitted):
    X, _ = table()
    for again in (pickle.loads(pickle.dumps(fitted)), copy.deepcopy(fitted)):
        np.testing.assert_array_equal(again.transform(X), fitted.transform(X))


def test_the_same_seed_gives_the_same_vectors_and_another_others(fitted):
    X, y = table()
    np.testing.assert_array_equal(small().fit(X, y).transform(X), fitted.transform(X))
    assert not np.array_equal(small(random_state=1).fit(X, y).transform(X), fitted.transform(X))
    drawn = [small(random_state=np.random.RandomState(5)).fit(X, y).transform(X) for _ in range(2)]
    np.testing.assert_array_equal(*drawn)


def test_what_the_caller_would_draw_and_keras_is_set_to_stay_as_they_are(monkeypatch):
    import keras

    monkeypatch.setattr(frameworks._seed_generator(), "python_random", random)  # as Keras has it, whatever ran before

    def made():
        """The first weights, the name and the draw that a caller's Keras would give next."""
        layer = keras.layers.Dense(2)
        layer.build((None, 3))
        return layer.name, layer.kernel.numpy().tolist(), keras.random.normal((2,)).numpy().tolist()

    found = []
    for between in (lambda: None, lambda: small(folds=0).fit(*table())):
        keras.backend.clear_session()
        keras.utils.set_random_seed(7)
        keras.config.set_dtype_policy("mixed_bfloat16")
        made()
        between()
        found.append((made(), random.random(), np.random.random(), keras.config.dtype_policy().name))
        keras.config.set_dtype_policy("float32")
    assert found[0] == found[1] and found[0][-1] == "mixed_bfloat16"


# Out of fold


def test_rows_that_were_learned_from_get_vectors_that_do_not_know_their_labels():
    X = pd.DataFrame({"key": [f"row {number}" for number in range(200)], "size": np.arange(200) * 0.1})
    y = np.random.default_rng(1).integers(0, 2, 200)
    leaking = small(roles=("key=embedding:4",), least_count=1, learning_rate=0.1)
    out_of_fold, in_fold = leaking.fit_transform(X, y), leaking.fit(X, y).transform(X)
    scores = [LogisticRegression().fit(vectors, y).score(vectors, y) for vectors in (out_of_fold, in_fold)]
    assert scores[0] < 0.65 and scores[1] > 0.9
    assert out_of_fold.shape == in_fold.shape and out_of_fold.dtype == in_fold.dtype == np.float32


def test_after_fit_transform_the_whole_network_transforms_as_after_fit(fitted):
    X, y = table()
    estimator = small()
    out_of_fold = estimator.fit_transform(X, y)
    np.testing.assert_array_equal(estimator.transform(X), fitted.transform(X))
    same = (out_of_fold == fitted.transform(X)).all(axis=1)
    assert same.sum() == 24  # a tenth decided when to stop, and was learned from by no network


# Columns


def test_values_that_were_not_seen_are_unknown_and_missing_ones_too_where_hardly_a_row_had_them(fitted):
    X = pd.DataFrame({"town": ["nowhere", "town 3", None], "size": [0.0, 0.0, np.nan]})
    vectors = fitted.transform(X)
    assert not np.array_equal(vectors[0], vectors[1])
    np.testing.assert_array_equal(vectors[0, 1:], vectors[2, 1:])
    np.testing.assert_array_equal(vectors[0, 1:], fitted.vectors_[0][0])


def test_columns_are_found_by_name_and_others_are_not_looked_at(fitted):
    X, _ = table()
    more = X.assign(other="x")[["other", "size", "town"]]
    np.testing.assert_array_equal(fitted.transform(more), fitted.transform(X))
    with pytest.raises(UserError, match="X has no column 'town'; give all columns that it was fitted on, with None for a value"):
        fitted.transform(X[["size"]])
    with pytest.raises(UserError, match="column 'size' takes numbers, but 'large' came"):
        fitted.transform(X.assign(size="large"))


def test_columns_of_an_array_are_called_x0_and_on_or_as_is_asked():
    X, y = table()
    estimator = small().fit(X.to_numpy(), y)
    assert estimator.n_features_in_ == 2 and not hasattr(estimator, "feature_names_in_")
    assert list(estimator.get_feature_names_out()[:2]) == ["x1", "x0 [0]"]
    assert list(estimator.get_feature_names_out(["place", "size"])[:2]) == ["size", "place [0]"]
    assert [one.role for one in estimator.found_] == ["embedding", "number"]


def test_every_type_of_column_is_taken_as_what_it_is():
    rows = np.arange(60)
    X = pd.DataFrame(
        {
            "customer_id": pd.array(np.where(rows % 20 == 19, np.nan, rows % 20)),  # whole but for its gaps, as pandas has it
            "kind": pd.Categorical(rows % 4),
            "late": rows % 3 == 0,
            "when": pd.date_range("2024-01-01", periods=60, freq="D", tz="UTC"),
            "mixed": [[1, "one", None, 2.5, datetime(2024, 1, 1)][row % 5] for row in rows],
            "weight": pd.array([None if row == 5 else row * 2 for row in rows], "Int64"),
            "colour": pd.array([["red", "blue", pd.NA][row % 3] for row in rows], "string"),
        }
    )
    estimator = small(target=None, one_hot=5).fit(X)
    assert {one.name: one.role for one in estimator.found_} == {
        **{"customer_id": "embedding", "kind": "one-hot", "late": "one-hot", "when": "date"},
        **{"mixed": "one-hot", "weight": "number", "colour": "one-hot"},
    }
    names = list(estimator.get_feature_names_out())
    assert {"kind is 0", "late is True", "weekday of when is 0", "mixed is 2.5", "weight is missing", "colour is red"} < set(names)
    assert "mixed is 2024-01-01 00:00:00.000000" in names and estimator.columns_.vocabularies[0].values[0] == "0"
    again = X.assign(kind=rows % 4, customer_id=(rows % 20).astype(str))  # read again, codes may be numbers and numbers texts
    columns = [number for number, name in enumerate(names) if name.startswith("kind")]
    np.testing.assert_array_equal(estimator.transform(again)[:, columns], estimator.transform(X)[:, columns])
    np.testing.assert_array_equal(estimator.transform(again)[0], estimator.transform(X)[0])


def test_a_table_without_columns_to_embed_is_scaled_and_one_hot_alone():
    X = pd.DataFrame({"size": [0.0, 1.0, 3.0, 7.0], "colour": ["red", "blue", "red", "red"]})
    estimator = EntityEmbedding()
    found = estimator.fit_transform(X, [1, 2, 1, 2])
    assert list(estimator.get_feature_names_out()) == ["size", "colour is blue", "colour is red"]
    assert found[:, 1:].tolist() == [[0, 1], [1, 0], [0, 1], [0, 1]] and estimator.target_ is None and estimator.vectors_ == []
    np.testing.assert_array_equal(found, estimator.transform(X))


# Targets


@pytest.mark.parametrize(
    ("target", "y", "learned"),
    [
        ("auto", lambda towns: towns % 3, "class"),
        ("auto", lambda towns: towns % 2 == 0, "class"),
        ("auto", lambda towns: towns / 7, "number"),
        ("auto", lambda towns: towns * 10.0, "number"),
        ("number", lambda towns: towns, "number"),
        ("count", lambda towns: towns, "count"),
        ("auto", lambda towns: np.stack([towns % 2, towns % 3 == 0], axis=1).astype(int), "classes"),
        ("auto", lambda towns: None, None),
        (None, lambda towns: towns % 2, None),
    ],
)
def test_a_target_is_what_y_is_or_what_was_said(target, y, learned):
    X, _ = table(90)
    estimator = small(target=target, epochs=1)
    vectors = estimator.fit_transform(X, y(X["town"].str[5:].astype(int).to_numpy()))
    assert estimator.target_ == learned and vectors.shape == (90, len(estimator.get_feature_names_out()))
    assert np.isfinite(vectors).all() and (learned is not None) == (not np.array_equal(vectors, estimator.transform(X)))


def test_a_column_of_targets_is_taken_with_a_warning():
    X, y = table(60)
    with pytest.warns(DataConversionWarning, match="A column-vector y was passed"):
        small(epochs=1).fit(X, y[:, None])


# What is refused


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"folds": 1}, "one fold leaves no other rows to learn from; give folds two at least, or 0 for none"),
        ({"dropout": 2}, "dropout can't be 2: Input should be less than 1; set_params gives another"),
        ({"target": "label"}, "target can't be 'label': Input should be 'auto', 'class', 'classes', 'number' or 'count'"),
        ({"roles": ("town=word",)}, r"roles can't be \('town=word',\): 'town=word' is no role; give NAME=ROLE"),
        ({"roles": ("city=embedding",)}, "column 'city' is not known; there is town, size"),
        ({"roles": ("*=leave-out",)}, r"no column of X tells its rows apart: left out 'town', 'size' \(as was asked\); give"),
        ({"target": "number"}, "target 'number' learns numbers, but y holds others .*'(yes|no)'.*; set target to 'class'"),
        ({"target": "classes"}, "target 'classes' learns a matrix of 0 and 1, a column a label, but y is none; set another target"),
    ],
)
def test_a_parameter_that_does_not_fit_is_one_sentence(given, sentence):
    with pytest.raises(UserError, match=f"^{sentence}"):
        small(**given).fit(*table(60))


def test_targets_that_can_not_be_learned_are_one_sentence():
    X, y = table(60)
    with pytest.raises(UserError, match="target 'class' is learned from y, but no y came; give one, or set target to None"):
        small(target="class").fit(X)
    with pytest.raises(UserError, match="Unknown label type: y is continuous-multioutput; give a label or a number for each row"):
        small().fit(X, np.random.default_rng(0).random((60, 2)))
    with pytest.raises(UserError, match="all rows to learn from have 'yes' in y; give two classes at least, or set target to None"):
        small().fit(X, ["yes"] * 60)
    with pytest.raises(UserError, match="the training labels of y don't differ; there is nothing to predict"):
        small(target="number").fit(X, [2.5] * 60)
    with pytest.raises(UserError, match="a training label of y is -1, and counts are 0 or more"):
        small(target="count").fit(X, np.arange(60) % 5 - 1)
    with pytest.raises(ValueError, match="Input y contains NaN"):
        small().fit(X, [np.nan] * 60)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        small().fit(X, y[:-1])


def test_tables_that_can_not_be_learned_from_are_one_sentence(fitted):
    X, y = table(60)
    with pytest.raises(UserError, match="a table of 1 rows came; give 2 at least"):
        small().fit(X[:1], y[:1])
    with pytest.raises(UserError, match="a table of 0 rows came; give 1 at least"):
        fitted.transform(X[:0])
    with pytest.raises(UserError, match="two columns of X are called 'town'; give each a name of its own"):
        small().fit(pd.concat([X, X[["town"]]], axis=1), y)
    with pytest.raises(ValueError, match="Found array with 1 sample"):
        small().fit(X[:1].to_numpy(), y[:1])
    with pytest.raises(UserError, match="9 training rows are too few for 20 folds; give fewer folds, or more rows"):
        small(folds=20, roles=("town=embedding",)).fit_transform(X[:10], y[:10])


def test_parameters_may_be_numbers_of_numpy_and_lists():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        estimator = small(least_count=np.int64(2), dropout=np.float32(0.5), hidden=[4], epochs=1, folds=0)
        assert estimator.fit(*table(60)).target_ == "class" and estimator.hidden == [4]
