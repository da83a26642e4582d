"""EntityEmbedding: vectors of a table's categories as a transformer of scikit-learn, in memory.

It learns what `learn_categories` learns, without artifacts and files. `fit_transform` gives the rows that it learned from vectors
of networks that didn't see them, `fit(X).transform(X)` doesn't: in a Pipeline, and in its cross-validation, the former is what
the next step is fitted on. Nothing of Keras stays on the object, so that it can be copied and pickled.
"""

import contextlib
import inspect
import math
import random
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt, ValidationError, create_model
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import check_array, check_consistent_length, check_random_state, column_or_1d
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import (
    _check_feature_names_in,  # pyright: ignore[reportAttributeAccessIssue]  has no public name
    check_is_fitted,
    validate_data,
)

from embedkit import codes, entities, frameworks, progress, splits
from embedkit.entities import CrossFitted, Entities, Network, TableTraining, resolved
from embedkit.features import Columns, as_texts, text_array
from embedkit.pipelines import TableFeed
from embedkit.preparation import stacked
from embedkit.restoration import case_of
from embedkit.roles import ONE_HOT, RoleText, find, left_out
from embedkit.schedules import Share
from embedkit.settings import UserError, listed
from embedkit.tasks import Task, as_counts, task_of

Target = Literal["auto", "class", "classes", "number", "count"]


class EntityEmbedding(TransformerMixin, BaseEstimator):
    """Learn a vector for each value of a table's categories, and put them beside its scaled numbers and one-hot words.

    X is a pandas DataFrame, whose columns are found by their names, or an array, whose columns are called x0, x1 and so on. None,
    NaN and numbers that are not finite are missing. A table without a column to embed has nothing to learn, and is scaled only.

    Args:
        target: what y is: `class` for one of several, `classes` for an indicator matrix of several at once, `number`, or `count`
            for a number whose mean's logarithm is learned. `auto` finds it from y; without y, hidden values of the rows are
            restored, and so they are with None, whatever y is.
        roles: what is made of a column, as NAME=ROLE with `embedding`, `embedding:SIZE`, `one-hot`, `number`, `date`,
            `date:FORMAT` or `leave-out`; NAME may be a pattern. Found from the rows by default.
        shared: columns that have one vocabulary and its vectors together, joined by commas, such as `home,away`.
        least_count: rows that a value needs for a vector of its own; rarer ones share that of unknown values.
        one_hot: values of a column of words up to which it is one-hot instead of embedded.
        folds: parts of the rows whose vectors `fit_transform` takes from networks that didn't see them; with 0 it takes none
            such, and later models are fooled.
        hidden: widths of the dense layers between the vectors and the prediction.
        dropout: share of the vectors' numbers, and of the first dense layer's, that are left out in training.
        unknown: share of the values that are shown as unknown in training.
        epochs: passes over the rows at most.
        batch_size: rows in one step; by default a fiftieth of the rows to learn from, within 32 to 1,024.
        learning_rate: step size of AdamW.
        patience: epochs without a gain before it stops; None never stops early.
        validation_share: share of the rows that decide when to stop, and aren't learned from.
        random_state: an integer for the same vectors each time, a RandomState, or None for numpy's own.

    Attributes:
        columns_: what is made of each column.
        found_: the role of each column, and why it was found.
        vectors_: the vectors of each vocabulary, (values, dimension) float32; places as in `columns_.vocabularies`.
        target_: what was learned: a kind of target, or None.
    """

    n_features_in_: int
    feature_names_in_: np.ndarray

    def __init__(
        self,
        target: Target | None = "auto",
        *,
        roles: tuple[RoleText, ...] = (),
        shared: tuple[str, ...] = (),
        least_count: PositiveInt = 3,
        one_hot: PositiveInt = ONE_HOT,
        folds: Annotated[int, Field(ge=0, le=20)] = 5,
        hidden: tuple[PositiveInt, ...] = (256, 128),
        dropout: Share = 0.1,
        unknown: Share = 0.05,
        epochs: PositiveInt = 100,
        batch_size: PositiveInt | None = None,
        learning_rate: PositiveFloat = 0.003,
        patience: PositiveInt | None = 5,
        validation_share: Annotated[float, Field(gt=0, le=0.5)] = 0.1,
        random_state: NonNegativeInt | np.random.RandomState | None = 0,
    ):
        self.target = target
        self.roles = roles
        self.shared = shared
        self.least_count = least_count
        self.one_hot = one_hot
        self.folds = folds
        self.hidden = hidden
        self.dropout = dropout
        self.unknown = unknown
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.patience = patience
        self.validation_share = validation_share
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = tags.input_tags.categorical = tags.input_tags.string = True
        tags.target_tags.multi_output = True
        tags.transformer_tags.preserves_dtype = []  # whatever comes, float32 goes
        return tags

    def fit(self, X: Any, y: Any = None) -> "EntityEmbedding":
        """Learn the vectors.

        Args:
            X: (rows, columns), a DataFrame or an array.
            y: (rows,) targets, or (rows, labels) of 0 and 1; hidden values of X are restored without.

        Raises:
            UserError: when a parameter, a column or y isn't what is needed.
        """
        self._learn(X, y, folds=0)
        return self

    def fit_transform(self, X: Any, y: Any = None) -> np.ndarray:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Learn the vectors, and give those of the rows that were learned from, out of fold.

        As with scikit-learn's TargetEncoder this isn't `fit(X, y).transform(X)`: each row's vectors come from a network that saw
        the other folds only, as a network tells more of its own rows than it can of new ones. Rows that decided when to stop, and
        all rows where hidden values are restored, get those of the whole network, which didn't learn from their targets.

        Returns:
            (rows, dimension) float32.
        """
        inputs, crossed = self._learn(X, y, self._parameters().folds)
        return self._vectors(inputs) if crossed is None else crossed.vectors(inputs, crossed.fold)

    def transform(self, X: Any) -> np.ndarray:
        """The vectors of rows, by the network that learned from all folds.

        Args:
            X: (rows, columns); of a DataFrame other columns than those it was fitted on are not looked at.

        Returns:
            (rows, dimension) float32: first the plain columns' numbers, then the vectors of embedded ones.

        Raises:
            UserError: when a column is missing, or holds what it didn't when it was fitted.
        """
        check_is_fitted(self)
        return self._vectors(_encoded(self.columns_, self._table(X)))

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """What each number of a vector says; (dimension,) of str.

        Args:
            input_features: names of the columns, where it was fitted on an array.
        """
        check_is_fitted(self)
        names: Any = _check_feature_names_in(self, input_features)
        given = dict(zip(self._names(), names, strict=True))
        renamed = [column.model_copy(update={"name": given[column.name]}) for column in self.columns_.columns]
        return np.array(self.columns_.model_copy(update={"columns": renamed}).outputs, object)

    def _parameters(self) -> Any:
        """The parameters, checked by what `__init__` says of their types.

        Raises:
            UserError: when one can't be what it is.
        """
        signature = inspect.signature(EntityEmbedding.__init__).parameters
        fields: Any = {name: (one.annotation, one.default) for name, one in signature.items() if name != "self"}
        # A grid of parameters holds numpy's numbers, which pydantic doesn't take for Python's.
        given = {name: value.item() if isinstance(value, np.generic) else value for name, value in self.get_params(False).items()}
        try:
            return create_model("Parameters", __config__=ConfigDict(arbitrary_types_allowed=True), **fields)(**given)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where, said = first["loc"][0], first["msg"].removeprefix("Value error, ")
            raise UserError(f"{where} can't be {given[str(where)]!r}: {said}; set_params gives another") from None

    def _learn(self, X: Any, y: Any, folds: int) -> tuple[Any, CrossFitted | None]:
        """Fit, and give the inputs of all rows and, where something was learned and folds were asked for, its networks."""
        asked = self._parameters()
        if asked.folds == 1:
            raise UserError("one fold leaves no other rows to learn from; give folds two at least, or 0 for none")
        table = self._table(X, reset=True)
        target, labels = _labels(y, asked.target)
        if labels is not None:
            check_consistent_length(table, labels)
        rules = asked.roles, asked.shared, asked.least_count, asked.one_hot
        targets = _as_columns(labels)
        self.columns_, self.found_ = find(table, *rules, targets)
        self.target_, self.vectors_, crossed = None, [], None
        train = validation = np.empty(0, int)
        seed = asked.random_state if isinstance(asked.random_state, int) else self._drawn_seed()
        if self.columns_.embedded:
            # Of rows that aren't learned from no value may be known, as its vector would stay what it was drawn as.
            order = np.argsort(splits.mix(np.arange(len(table)), seed), kind="stable")
            held = max(1, round(asked.validation_share * len(table)))
            train, validation = np.sort(order[held:]), np.sort(order[:held])
            self.columns_, self.found_ = find(table.take(train), *rules, None if targets is None else targets[train])
        if not self.columns_.columns:
            raise UserError(f"no column of X tells its rows apart: left out {left_out(self.found_)}; give others, or set roles")
        inputs = _encoded(self.columns_, table)
        if self.columns_.embedded:
            self.target_ = target
            task = None if labels is None else _task(labels, target, train)
            with _apart(seed), progress.of("EntityEmbedding"):
                crossed = _crossed(self.columns_, inputs, task, asked, seed, train, validation, folds if task else 0)
            self.vectors_ = crossed.whole
        return inputs, crossed if folds and labels is not None else None

    def _drawn_seed(self) -> int:
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def _vectors(self, inputs: Any) -> np.ndarray:
        return entities.vectors_of(self.columns_, inputs, self.vectors_) if self.vectors_ else inputs

    def _names(self) -> list[str]:
        """The columns' names; x0 and on where they have none."""
        return list(getattr(self, "feature_names_in_", [f"x{number}" for number in range(self.n_features_in_)]))

    def _table(self, X: Any, reset: bool = False) -> pa.Table:
        """X as Arrow has it, typed as `load_table` types a table.

        Args:
            X: what was given.
            reset: whether names, number and kinds of columns are to be kept, or to be those that were.
        """
        least = 2 if reset else 1
        if hasattr(X, "iloc") and hasattr(X, "columns"):
            X = self._frame(X, reset)
            if len(X) < least:
                raise UserError(f"a table of {len(X)} rows came; give {least} at least")
            columns = [X.iloc[:, number] for number in range(X.shape[1])]
        else:
            X = validate_data(self, X, reset=reset, dtype=None, ensure_all_finite=False, ensure_min_samples=least)
            columns = list(X.T)
        arrays = [_array(values) for values in columns]
        if reset:
            # What has been words stays words: the same texts may come as numbers when they are read again.
            pairs = zip(columns, arrays, strict=True)
            self._words = [pa.types.is_string(array.type) or _is_categorical(values) for values, array in pairs]
        arrays = [as_texts(array) if words else array for array, words in zip(arrays, self._words, strict=True)]
        return pa.table(dict(zip(self._names(), arrays, strict=True)))

    def _frame(self, X: Any, reset: bool) -> Any:
        """The columns of a DataFrame that it is fitted on."""
        if not X.columns.is_unique:
            twice = X.columns[X.columns.duplicated()][0]
            raise UserError(f"two columns of X are called {twice!r}; give each a name of its own")
        if reset or not hasattr(self, "feature_names_in_"):
            return validate_data(self, X, reset=reset, skip_check_array=True)
        if missing := [name for name in self.feature_names_in_ if name not in X.columns]:
            advice = "give all columns that it was fitted on, with None for a value that is missing"
            raise UserError(f"X has no column {listed(map(repr, missing), ' and no ')}; {advice}")
        return X[list(self.feature_names_in_)]


@contextlib.contextmanager
def _apart(seed: int) -> Iterator[None]:
    """Keras started from the seed; what the caller's Python, numpy and Keras would draw, and Keras's settings, stay as they are."""
    frameworks.load_frameworks()
    from keras.src.backend.common import global_state  # has no public name

    states, trackers = (random.getstate(), np.random.get_state()), ("GLOBAL_STATE_TRACKER", "GLOBAL_SETTINGS_TRACKER")
    try:
        with frameworks.own_keras():
            kept = {name: getattr(global_state, name) for name in trackers}
            try:
                frameworks.start_keras(seed)
                yield
            finally:
                for name, tracker in kept.items():  # names and generators, which were set aside, not changed
                    setattr(global_state, name, tracker)
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def _encoded(columns: Columns, table: pa.Table) -> Any:
    return stacked([batch for _, batch in TableFeed(columns).batches(table)])


def _is_categorical(values: Any) -> bool:
    return str(values.dtype) == "category"


def _array(values: Any) -> pa.ChunkedArray:
    """A column of a DataFrame or an array as whole numbers, numbers, truth values, moments or texts."""
    try:
        found = pa.array(values, from_pandas=True)
        found = found if isinstance(found, pa.ChunkedArray) else pa.chunked_array([found])
        if pa.types.is_dictionary(found.type):
            found = found.cast(found.type.value_type)
        return _typed(found, gaps_made_floats=hasattr(values, "iloc"))
    except (pa.ArrowException, UnicodeError, OverflowError):  # several types in one column, or one that Arrow doesn't have
        return pa.chunked_array([text_array([None if _is_missing(value) else value for value in values.tolist()])])


def _typed(values: pa.ChunkedArray, gaps_made_floats: bool) -> pa.ChunkedArray:
    """Arrow values as one of the types that `load_table` gives.

    Args:
        values: of any type.
        gaps_made_floats: whether numbers with gaps that are all whole were whole numbers, which pandas can't hold beside NaN.

    Raises:
        pyarrow.ArrowInvalid: when there is no such type for them.
    """
    kind = values.type
    if pa.types.is_boolean(kind):
        return values
    if pa.types.is_integer(kind):
        return values.cast(pa.int64())
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        values = values.cast(pa.float64())
        known = values.drop_null()
        if gaps_made_floats and values.null_count and len(known) and _whole(known.to_numpy()):
            return values.cast(pa.int64())
        return values
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return values.cast(pa.timestamp("us"), safe=False)  # moments that pandas knows to the nanosecond
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind):
        return values.cast(pa.string())
    raise pa.ArrowInvalid(f"{kind} is none of a table's types")


def _whole(numbers: np.ndarray) -> bool:
    return bool(((np.floor(numbers) == numbers) & (np.abs(numbers) < 2**53)).all())


def _is_missing(value: Any) -> bool:
    # pandas, whose values these two are, isn't needed otherwise.
    return value is None or type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, float) and math.isnan(value))


def _labels(y: Any, target: str | None) -> tuple[str | None, np.ndarray | None]:
    """The kind of target, and y as that: (rows,) str of class, (rows, labels) bool of classes, (rows,) float64 of others.

    Raises:
        UserError: when y isn't of the kind.
    """
    if y is None and target not in (None, "auto"):
        raise UserError(f"target {target!r} is learned from y, but no y came; give one, or set target to None")
    if y is None or target is None:
        return None, None
    as_it_is: Any = None
    y = check_array(y, ensure_2d=False, dtype=as_it_is, input_name="y", estimator="EntityEmbedding")
    if target == "auto":
        came = type_of_target(y, input_name="y")
        whole = "number" if y.dtype.kind == "f" else "class"  # prices may be whole, but classes are hardly written 3.0
        kinds = {"binary": "class", "multiclass": whole, "continuous": "number", "multilabel-indicator": "classes"}
        if came not in kinds:
            # These first words are what scikit-learn's checks ask for.
            raise UserError(f"Unknown label type: y is {came}; give a label or a number for each row, or a matrix of 0 and 1")
        target = kinds[came]
    if target == "classes":
        if y.ndim != 2 or not np.isin(y, (0, 1)).all():
            raise UserError("target 'classes' learns a matrix of 0 and 1, a column a label, but y is none; set another target")
        return target, y.astype(bool)
    y = column_or_1d(y, warn=True)
    if target == "class":
        return target, y.astype(str)
    try:
        return target, y.astype(np.float64)
    except (ValueError, TypeError) as error:
        raise UserError(f"target {target!r} learns numbers, but y holds others ({error}); set target to 'class'") from None


def _as_columns(labels: np.ndarray | None) -> np.ndarray | None:
    """Labels as `codes` takes them, (rows, outputs) float64."""
    if labels is None or labels.dtype.kind not in "US":
        return None if labels is None else codes.as_columns(labels.astype(np.float64))
    names, targets = np.unique(labels, return_inverse=True)
    return codes.as_columns(targets, len(names))


def _task(labels: np.ndarray, target: str | None, train: np.ndarray) -> Task:
    """What is to be learned of labels as `_labels` gives them."""
    if target in ("number", "count"):
        task = task_of("y", pa.array(labels), np.isin(np.arange(len(labels)), train))
        return as_counts(task, "y", train) if target == "count" else task
    if target == "classes":
        return Task("classes", [str(number) for number in range(labels.shape[1])], labels.astype(np.float32))
    names, targets = np.unique(labels, return_inverse=True)
    task = Task("class", names.tolist(), targets.astype(np.int32))
    if len(np.unique(targets[train])) < 2:
        only = task.classes[targets[train[0]]]
        raise UserError(f"all rows to learn from have {only!r} in y; give two classes at least, or set target to None")
    return task


def _crossed(
    columns: Columns, inputs: Any, task: Task | None, asked: Any, seed: int, train: np.ndarray, validation: np.ndarray, folds: int
) -> CrossFitted:
    """Train a network, and one for each fold.

    Raises:
        UserError: when a fold would have no row.
    """
    ids = np.arange(len(train) + len(validation))
    case = case_of(task, columns, inputs, ids, train, seed)
    network = Entities(columns, case, Network(hidden=asked.hidden, dropout=asked.dropout, unknown=asked.unknown), seed)
    training = TableTraining(
        epochs=asked.epochs, batch_size=asked.batch_size, learning_rate=asked.learning_rate, patience=asked.patience
    )
    return entities.cross_fitted(network, resolved(training, len(train)), train, validation, folds, asked.least_count)
