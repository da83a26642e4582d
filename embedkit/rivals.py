"""Rivals: what entity embeddings have to beat on a table, each a model of scikit-learn on the same columns and rows.

Gradient boosting is called as anyone would by hand: numbers as they are, missing ones as NaN, every other column as codes of its
categories (`OrdinalEncoder`, the 254 most frequent values and all others together, unseen ones as missing) that the trees split
as categories, 300 rounds with early stopping, and all labelled rows beside the test rows. Whatever has rounds or strength to
choose does so on rows that it doesn't measure.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from embedkit.arms import linear_of, said_of, score, targets_of
from embedkit.features import Calendar, Category, Columns, Numbers, Plain, as_texts, calendar, moments
from embedkit.pipelines import TableFeed
from embedkit.tasks import Task

MOST_CATEGORIES = 255
"""Categories of a column that gradient boosting takes; scikit-learn's own bound."""
MOST_ONE_HOT = 20_000
"""Values of all columns together up to which they are one-hot under a linear model; beyond, they are hashed."""
HASHED = 2**14
STRENGTHS = (0.1, 1.0, 10.0)
"""Inverse strengths of regularisation that validation rows choose among."""


@dataclass
class Cells:
    """The columns of a table as rivals take them, of all rows.

    `numbers` are (rows, n) float64 with NaN where one is missing; `words` (rows, m) objects, texts with None where one is missing;
    `scaled` (rows, n') float32 what the encoder makes of its columns that are numbers.
    """

    numbers: np.ndarray
    words: np.ndarray
    scaled: np.ndarray

    @classmethod
    def of(cls, columns: Columns, contents: pa.Table) -> "Cells":
        """Those of a table, by the columns that the encoder uses."""
        numbers, words, scaled = [], [], []
        rows = len(contents)
        for column in columns.columns:
            values = contents[column.name]
            if isinstance(column, Numbers):
                numbers.append(values.cast(pa.float64(), safe=False).to_numpy()[:, None])
                scaled.append(column)
            elif isinstance(column, Calendar):
                parts = calendar(moments(values, column.format))
                found = np.stack([parts[part] for part in column.parts], axis=1).astype(np.float64)
                numbers.append(np.where(found < 0, np.nan, found))
                scaled.append(column)
            else:
                words.append(np.array(as_texts(values).to_pylist(), object)[:, None])
        return cls(
            np.concatenate(numbers, axis=1) if numbers else np.empty((rows, 0)),
            np.concatenate(words, axis=1) if words else np.empty((rows, 0), object),
            _encoded(scaled, contents),
        )

    def without(self, columns: Columns) -> "Cells":
        """The same without the words of embedded columns, for models that take their vectors instead."""
        others = [column for column in columns.columns if not isinstance(column, Numbers | Calendar)]
        kept = [number for number, column in enumerate(others) if isinstance(column, Category)]
        return Cells(self.numbers, self.words[:, kept], self.scaled)


def _encoded(columns: list[Plain], contents: pa.Table) -> np.ndarray:
    if not columns:
        return np.empty((len(contents), 0), np.float32)
    batches = TableFeed(Columns(columns=list(columns))).batches(contents)
    return np.concatenate([numbers for _, numbers in batches])


def boosted(
    task: Task, cells: Cells, train: np.ndarray, test: np.ndarray, seed: int, rounds: int, vectors: np.ndarray | None = None
) -> np.ndarray:
    """Predictions of gradient boosting, categories split as such (scikit-learn's HistGradientBoosting).

    Args:
        task: what is predicted.
        cells: of all rows.
        train: places of the rows to learn from.
        test: places of the rows to predict.
        seed: of the rows that stop the boosting.
        rounds: trees at most.
        vectors: (rows, dimension) further columns.
    """
    from sklearn.preprocessing import OrdinalEncoder

    inputs = [cells.numbers] if vectors is None else [cells.numbers, vectors.astype(np.float64)]
    width = sum(each.shape[1] for each in inputs)
    if cells.words.shape[1]:
        coder = OrdinalEncoder(
            handle_unknown="use_encoded_value",
            unknown_value=np.nan,
            encoded_missing_value=np.nan,
            max_categories=MOST_CATEGORIES,
        )
        coder.fit(cells.words[train])
        inputs.append(coder.transform(cells.words))
    table = np.concatenate(inputs, axis=1)
    categorical = np.arange(table.shape[1]) >= width
    model = boosting(task, seed, rounds, categorical).fit(table[train], targets_of(task, train))
    return said_of(task, model, table[test])


def boosting(task: Task, seed: int, rounds: int, categorical: np.ndarray) -> Any:
    """The model itself, untrained."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    from sklearn.multiclass import OneVsRestClassifier

    more: dict[str, Any] = {"max_iter": rounds, "early_stopping": True, "random_state": seed}
    more |= {"categorical_features": categorical if categorical.any() else None}
    if task.kind == "number":
        return HistGradientBoostingRegressor(loss="poisson" if task.link == "log" else "squared_error", **more)
    one = HistGradientBoostingClassifier(**more)
    return OneVsRestClassifier(one) if task.kind == "classes" else one


def target_encoded(task: Task, cells: Cells, train: np.ndarray, seed: int) -> np.ndarray:
    """Each category as the mean target of its training rows, theirs out of fold (scikit-learn's TargetEncoder).

    Args:
        task: what is predicted; not several labels.
        cells: of all rows.
        train: places of the rows to learn from.
        seed: of the folds.

    Returns:
        (rows, columns) float64; those of training rows are cross-fitted.
    """
    from sklearn.model_selection import KFold, StratifiedKFold
    from sklearn.preprocessing import TargetEncoder

    kind = "continuous" if task.kind == "number" else "binary" if task.outputs == 2 else "multiclass"
    folds: Any = (KFold if task.kind == "number" else StratifiedKFold)(5, shuffle=True, random_state=seed)
    coder = TargetEncoder(target_type=kind, cv=folds)
    known = _strings(cells.words)
    inside = coder.fit_transform(known[train], targets_of(task, train))
    found = np.asarray(coder.transform(known), np.float64)
    found[train] = inside
    return found


def target_boosted(task: Task, cells: Cells, train: np.ndarray, test: np.ndarray, seed: int, rounds: int) -> np.ndarray:
    """Predictions of gradient boosting on target-encoded categories; see `boosted`."""
    table = np.concatenate([cells.numbers, target_encoded(task, cells, train, seed)], axis=1)
    model = boosting(task, seed, rounds, np.zeros(table.shape[1], bool)).fit(table[train], targets_of(task, train))
    return said_of(task, model, table[test])


def linear(task: Task, inputs: Any, train: np.ndarray, held: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    """Predictions of a linear model, regularised as suits the validation rows.

    Args:
        task: what is predicted.
        inputs: (rows, n) array or sparse matrix.
        train: places of the rows to learn from.
        held: places of the rows that choose.
        test: places of the rows to predict.
        seed: of the solver.
    """
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        # A weak regularisation may take more steps than it gets; validation rows then choose among where they got to.
        warnings.simplefilter("ignore", ConvergenceWarning)
        models = [linear_of(task, strength, seed).fit(inputs[train], targets_of(task, train)) for strength in STRENGTHS]
    scores = [score(task, held, said_of(task, model, inputs[held])) for model in models]
    return said_of(task, models[int(np.argmax(scores))], inputs[test])


def one_hot(cells: Cells, train: np.ndarray) -> Any:
    """Every category as a column of its own, or hashed where there are too many, beside scaled numbers; (rows, n) sparse."""
    from scipy.sparse import csr_matrix, hstack
    from sklearn.feature_extraction import FeatureHasher
    from sklearn.preprocessing import OneHotEncoder

    if not cells.words.shape[1]:
        return csr_matrix(cells.scaled)
    known = _strings(cells.words)
    if sum(len(set(known[train, number])) for number in range(known.shape[1])) <= MOST_ONE_HOT:
        coded = OneHotEncoder(handle_unknown="ignore").fit(known[train]).transform(known)
    else:
        lines = ([f"{number}={word}" for number, word in enumerate(line)] for line in known)
        coded = FeatureHasher(HASHED, input_type="string").transform(lines)
    return hstack([csr_matrix(cells.scaled), coded], format="csr")


def _strings(words: np.ndarray) -> np.ndarray:
    """Words with a text for what is missing, which is then a category like others."""
    return np.where(words == None, "\x00missing", words).astype(str)  # noqa: E711  elementwise
