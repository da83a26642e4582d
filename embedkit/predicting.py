"""predict: raw rows become labels, by a classifier and the encoder whose vectors it was trained on.

A row is a text, a picture or a row of a table, never a vector. The encoder is found by the classifier: the frozen one that
made its training vectors, or the half that it was fine-tuned with. What is predicted of a row doesn't depend on the rows
beside it, other than in the last digits of a float32.
"""

import contextlib
import itertools
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, Field

from embedkit import declarations, engines, pictures, weights
from embedkit.artifacts import AGAIN, Artifact
from embedkit.declarations import Declared
from embedkit.encoders import Encoder, embedder_of
from embedkit.fetching import Fetch
from embedkit.folders import PICTURES
from embedkit.pipelines import ImageFeed, TableFeed
from embedkit.readers import ReadFiles, Record, passed_over, read
from embedkit.settings import Settings, UserError, listed, not_among
from embedkit.shards import TABULAR
from embedkit.sources import Source
from embedkit.tasks import Task

log = logging.getLogger(__name__)
ROWS_AT_ONCE = {"texts": 1024, "table": 1024, "images": 128}
"""Rows that are held in memory at a time; 128 pictures of 224 x 224 pixels are 19 MB."""
VECTORS_AT_ONCE = 4096


class Predict(Settings):
    """How rows are read, and when no label is given."""

    reject_below: Annotated[float, Field(ge=0, le=1)] | None = None
    """Give a row no label when the class decided for has a probability below this, such as 0.9; for one class a row only. By
    default every row gets a label."""
    text_column: str | None = None
    """Column of a file that holds the texts; by default the one called `text`, or the only one beside `label`."""
    image_column: str = pictures.IMAGE_COLUMN
    """Column of a file of rows, or of a hub's, that holds pictures: encoded, as paths below the file's folder, or as http(s)
    addresses. Where none is called so, the only one whose values are paths or addresses of pictures."""
    fetch: Fetch = Fetch()
    """How pictures are fetched whose addresses rows name."""
    files: ReadFiles = ReadFiles()
    """How files of rows are read."""


class Prediction(BaseModel):
    """What is predicted of a row.

    `label` is a class, the list of all labels that apply, or a number, and None where the row was rejected. `probability` is
    that of the class decided for, rejected or not; None for several labels and for numbers. `probabilities` holds those of
    all classes or labels by name; None for numbers.
    """

    label: str | list[str] | float | None
    probability: float | None = None
    probabilities: dict[str, float] | None = None


def as_line(row: str, prediction: Prediction) -> str:
    """A prediction as `label<TAB>probability<TAB>row`.

    The label is `?` for a rejected row and holds several with commas between; the probability is empty where there is none.
    """
    label, probability = prediction.label, prediction.probability
    if label is None:
        words = "?"
    elif isinstance(label, list):
        words = ", ".join(label)
    else:
        words = label if isinstance(label, str) else f"{label:.10g}"
    return f"{' '.join(words.split())}\t{'' if probability is None else f'{probability:.4f}'}\t{' '.join(row.split())}"


class ClassifierFacts(BaseModel):
    """What `classifier.json` says: what is predicted, from vectors of which encoder, and by what is decided.

    `decision` holds the weights of the classes or the thresholds of the labels, where it isn't the likeliest class or 0.5.
    """

    type: Literal["class", "classes", "number"]
    classes: list[str]
    encoder: str
    dimension: int
    decision: list[float] | None = None


class Classifier:
    """A loaded classifier, with its encoder.

    Attributes:
        facts: what `classifier.json` says.
        encoder: what makes vectors of its rows.
        name: how it is called in messages.
        types: of a table's columns, how their values were written where it was learned.
    """

    def __init__(self, model: Any, facts: ClassifierFacts, encoder: Encoder, name: str):
        import keras

        self.facts, self.encoder, self.name = facts, encoder, name
        self.types: dict[str, Declared] = {}
        last = model.get_layer("in_units" if facts.type == "number" else "probabilities")
        # What the last layer does is done in float64 instead, as where the classifier was measured: far from 0 a float32
        # can't hold a number to its unit.
        self._outputs = engines.forward(keras.Model(model.input, last.input))
        decision = None if facts.decision is None else np.array(facts.decision)
        unit = {"location": last.offset, "scale": last.scale} if facts.type == "number" else {}
        self._task = Task(facts.type, facts.classes, np.empty(0), decision=decision, **unit)

    @classmethod
    def open(cls, reference: "str | Artifact", root: Path | str | None = None) -> "Classifier":
        """Load a classifier artifact and its encoder, after their checksums matched.

        Raises:
            UserError: when it is no classifier, is damaged, or its encoder isn't the one it was trained with.
        """
        artifact = Artifact.open(reference, root)
        if artifact.manifest.kind != "classifier":
            raise UserError(f"{artifact} is no classifier; {_instead(artifact)}")
        artifact.check()
        with weights.foreign(f"classifier.json of {artifact} can't be read", AGAIN):
            facts = ClassifierFacts.model_validate_json((artifact / "classifier.json").read_text(encoding="utf-8"))
        encoder = Encoder.open(embedder_of(artifact))
        if encoder.facts.identity != facts.encoder:
            raise UserError(
                f"{artifact} was trained on vectors of an encoder whose identity is {facts.encoder[:12]}, but that of "
                f"{encoder.name} is {encoder.facts.identity[:12]}; embed the rows with {encoder.name} and train on those vectors"
            )
        model = weights.open_keras(artifact / "model.keras", f"model.keras of {artifact}")
        with weights.foreign(f"model.keras of {artifact} is no classifier", AGAIN):
            opened = cls(model, facts, encoder, str(artifact))
        if isinstance(encoder.feed, TableFeed):
            with contextlib.suppress(UserError):  # without the table that it was made from, each file is read by itself
                opened.types = declarations.of_encoder(artifact, [column.name for column in encoder.feed.columns])
        return opened

    def probabilities(self, rows: Sequence[Any]) -> np.ndarray:
        """The probability of every class, or of every label, for raw rows.

        Args:
            rows: as `Encoder.encode` takes them: texts; pictures as paths, bytes or arrays; rows of a table as dictionaries.

        Returns:
            (rows, classes) float64 in the order of `facts.classes`; for numbers (rows,) float64, in the label's unit.

        Raises:
            UserError: when a row is not of the encoder's modality or can't be read.
        """
        vectors = self.encoder.encode(rows)
        if len(broken := np.flatnonzero(~np.isfinite(vectors).all(axis=1))):
            raise UserError(f"the vector of row {broken[0]} is not finite; look at that row, or check the encoder's weights")
        return self.of_vectors(vectors)

    def of_vectors(self, vectors: np.ndarray) -> np.ndarray:
        """What `probabilities` gives, of rows that are encoded already.

        Args:
            vectors: (rows, dimension) float32, of this classifier's own encoder.
        """
        return self._task.predict(self.outputs_of(vectors))

    def outputs_of(self, vectors: np.ndarray) -> np.ndarray:
        """What the head gives before softmax or sigmoid, or in standard deviations of the label, (rows, outputs) float32.

        Args:
            vectors: (rows, dimension) float32, of this classifier's own encoder.
        """
        starts = range(0, max(len(vectors), 1), VECTORS_AT_ONCE)
        return np.concatenate([self._outputs(vectors[start : start + VECTORS_AT_ONCE]) for start in starts])

    def predict(self, rows: Sequence[Any], settings: Predict = Predict()) -> list[Prediction]:
        """The labels of raw rows, in their order.

        Args:
            rows: as `Encoder.encode` takes them: texts; pictures as paths, bytes or arrays; rows of a table as dictionaries.
            settings: of which `reject_below` counts here; the others say how files are read.

        Raises:
            UserError: when a row is not of the encoder's modality or can't be read.
        """
        self.refuse_rejecting(settings)
        return self.decide(self.probabilities(rows), settings)

    def decide(self, probabilities: np.ndarray, settings: Predict = Predict()) -> list[Prediction]:
        """The labels that follow from what `probabilities` gives."""
        names = self.facts.classes
        if self.facts.type == "number":
            return [Prediction(label=number) for number in probabilities.tolist()]
        decided, found = self._task.decided(probabilities), []
        for row, choice in zip(probabilities.tolist(), decided, strict=True):
            each = dict(zip(names, row, strict=True))
            if self.facts.type == "classes":
                found.append(Prediction(label=[name for name, held in zip(names, choice, strict=True) if held], probabilities=each))
                continue
            sure = settings.reject_below is None or row[choice] >= settings.reject_below
            found.append(Prediction(label=names[choice] if sure else None, probability=row[choice], probabilities=each))
        return found

    def refuse_rejecting(self, settings: Predict) -> None:
        """Stop when rows are to be rejected by a classifier that doesn't predict one class a row."""
        if settings.reject_below is not None and self.facts.type != "class":
            what = {"classes": "several labels", "number": "numbers"}[self.facts.type]
            raise UserError(f"reject_below is for one class a row, but {self.name} predicts {what}; leave it out")


def _instead(artifact: Artifact) -> str:
    """What to do with an artifact that is no classifier."""
    kind = artifact.manifest.kind
    if kind == "vectors":
        return f"train one with `embedkit train-head {artifact}`"
    if kind == "encoder":
        return f"embed labelled rows with `embedkit embed DATASET {artifact}` and train one with `embedkit train-head VECTORS`"
    if kind in ROWS_AT_ONCE:
        return f"embed it with `embedkit embed {artifact} ENCODER` and train one with `embedkit train-head VECTORS`"
    return "`embedkit artifacts list classifier` names those there are"


@dataclass
class Row:
    """A row on its way: how it is called, and the reason why it can't be read, if it can't."""

    name: str
    problem: str | None = None


Prepare = Callable[[list[Record]], tuple[list[Row], Any]]
"""Records as rows, and the contents of those without a problem, as the encoder takes them."""


@dataclass
class Given:
    """Records that are read alike: those of one source, or texts that were given themselves.

    `source` is where they come from; `itself` says that a row is its own source.
    """

    records: Iterator[Record]
    name: str
    source: Source | None = None
    itself: bool = False


def predict(
    classifier: "Classifier | Artifact | str",
    sources: Sequence[str | os.PathLike[str]],
    settings: Predict = Predict(),
    root: Path | str | None = None,
) -> Iterator[tuple[str, Prediction | str]]:
    """Predict the labels of rows from files, or of texts.

    Rows are read, encoded and predicted batch by batch, so that millions of them take no more memory than a thousand.

    Args:
        classifier: the classifier, or a reference to it.
        sources: pictures, folders of pictures, files of rows, as the loading stages take them; for a classifier of texts
            also texts themselves. What exists as a path is read as one.
        settings: how to read them, and when to give no label.
        root: where artifacts lie, for a reference.

    Returns:
        An iterator over every row in its order: how it is called (its text, the path of a picture, the place of a row of a
        table), and its prediction, or in words why it can't be read.

    Raises:
        UserError: when a source is missing or can't be read as a whole, or none of its rows; the latter at the end.
    """
    if isinstance(sources, str | bytes | os.PathLike):
        raise UserError(f"one {type(sources).__name__} came where several sources are expected; put it in a list")
    if not sources:
        raise UserError("there is nothing to predict; give a path, or for a classifier of texts a text, or several")
    classifier = classifier if isinstance(classifier, Classifier) else Classifier.open(classifier, root)
    classifier.refuse_rejecting(settings)
    modality = classifier.encoder.facts.modality
    for name, of in (("text_column", "texts"), ("image_column", "images")):
        if getattr(settings, name) != Predict.model_fields[name].default and modality != of:
            raise UserError(f"{name} is for a classifier of {of}, but {classifier.name} is one of {modality}; leave it out")
    return _counted(classifier, list(_given(sources, modality, settings)), settings)


def _given(sources: Sequence[str | os.PathLike[str]], modality: str, settings: Predict) -> Iterator[Given]:
    """The sources as records, after all of them were seen to exist; texts that stand beside one another come together."""
    numbered = list(enumerate(sources, 1))
    for is_text, group in itertools.groupby(numbered, lambda one: modality == "texts" and _is_text(one[1])):
        if is_text:
            texts = [Record(f"text {number}", columns={"text": text}) for number, text in group]
            yield Given(iter(texts), "the texts", itself=True)
            continue
        for source in (Source(text, settings.files.follow_links) for _, text in group):
            here = source.scheme == "path"
            if passed := passed_over(source, modality, settings.files):
                log.warning("%s: %s in the folder passed over: %s: %s", source.shown, f"{len(passed):,}", *passed[0])
            if modality == "images" and here and source.path.is_file() and _suffix(source.text) not in TABULAR:
                picture = {"image": {"bytes": None, "path": str(source.path)}}
                yield Given(iter([Record(source.text, columns=picture)]), source.text, source, itself=True)
            else:
                yield Given(read(source, modality, settings.files), source.text, source)


def _suffix(name: str) -> str:
    return Path(name.lower().removesuffix(".gz")).suffix


def _is_text(source: str | os.PathLike[str]) -> bool:
    """Whether a source is a text itself: no path that exists, and no word that looks like one or like a hub's name.

    Raises:
        UserError: for a word that looks like a path but isn't there.
    """
    if not isinstance(source, str) or (source.strip() and _exists(source)):
        return False
    if re.fullmatch(r"\S+", source) is None:
        return True
    if source.startswith(("builtin:", "hf://")):
        return False
    if _suffix(source) in (*TABULAR, *PICTURES) or source.startswith(("/", "./", "../", "~/")):
        try:
            Source(source)
        except UserError as error:
            raise UserError(f"{error} (a text that looks like a path goes into a .txt file, one text a line)") from error
    return True


def _exists(text: str) -> bool:
    try:
        return Path(text).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # longer than any path, `~` of nobody, and the like
        return False


def _counted(classifier: Classifier, given: list[Given], settings: Predict) -> Iterator[tuple[str, Prediction | str]]:
    """All predictions, and afterwards what is to be said about them."""
    rows = rejected = unreadable = 0
    first = ""
    for name, found in itertools.chain.from_iterable(_predicted(classifier, one, settings) for one in given):
        rows += 1
        if isinstance(found, str):
            unreadable += 1
            first = first or f"{name}: {found}"
        elif found.label is None:
            rejected += 1
        yield name, found
    if not rows:
        raise UserError(f"{listed(one.name for one in given)} has no row; give one that has")
    if unreadable == rows:
        raise UserError(f"no row can be read ({rows:,} came): {first}; mend them, or say how they are read (`files` settings)")
    if unreadable:
        log.warning("%s of %s rows can't be read", f"{unreadable:,}", f"{rows:,}")
    if rejected:
        log.info("%s of %s rows were rejected: probability below %g", f"{rejected:,}", f"{rows:,}", settings.reject_below)


def _predicted(classifier: Classifier, given: Given, settings: Predict) -> Iterator[tuple[str, Prediction | str]]:
    modality, prepare = classifier.encoder.facts.modality, None
    while records := list(itertools.islice(given.records, ROWS_AT_ONCE[modality])):
        rows = [Row(record.place, record.problem) for record in records]
        readable = [place for place, record in enumerate(records) if record.problem is None]
        if readable and prepare is None:  # what the columns are called is known from the first rows that can be read
            seen = list(dict.fromkeys(itertools.chain.from_iterable(records[place].columns for place in readable)))
            prepare = _PREPARING[modality](classifier, given, seen, settings)
        predictions: Iterator[Prediction] = iter(())
        if readable and prepare:
            prepared, contents = prepare([records[place] for place in readable])
            for place, row in zip(readable, prepared, strict=True):
                rows[place] = row
            predictions = iter(_decided(classifier, [row for row in prepared if row.problem is None], contents, settings))
        yield from ((row.name, row.problem or next(predictions)) for row in rows)


def _decided(classifier: Classifier, rows: list[Row], contents: Any, settings: Predict) -> list[Prediction]:
    """Predictions of rows; one whose vector isn't finite gets none but is noted as a row that can't be read."""
    if not rows:
        return []
    vectors = classifier.encoder.encode(contents)
    finite = np.isfinite(vectors).all(axis=1)
    for place in np.flatnonzero(~finite):
        rows[place].problem = "its vector is not finite; look at its values"
    return classifier.decide(classifier.of_vectors(vectors[finite]), settings)


def _preparing_texts(classifier: Classifier, given: Given, seen: list[str], settings: Predict) -> Prepare:
    column = "text" if given.itself else settings.text_column or _text_column(given.name, seen)
    if column not in seen:
        raise not_among("text column", column, seen, hint="set text_column")

    def row(record: Record) -> Row:
        text = record.columns.get(column)
        if text is None:
            return Row(record.place, "the text is missing")
        if not isinstance(text, str):
            return Row(record.place, f"column {column!r} holds {type(text).__name__}, not a text")
        try:
            text.encode()
        except UnicodeEncodeError:
            return Row(record.place, "not valid Unicode (a lone surrogate)")
        return Row(text) if text.strip() else Row(record.place, "the text is blank")

    def prepare(records: list[Record]) -> tuple[list[Row], list[str]]:
        rows = [row(record) for record in records]
        return rows, [row.name for row in rows if row.problem is None]

    return prepare


def _text_column(source: str, seen: list[str]) -> str:
    rest = [name for name in seen if name != "label"]
    if "text" in rest or len(rest) == 1:
        return "text" if "text" in rest else rest[0]
    raise UserError(f"which column of {source} holds the texts is not clear: there is {listed(seen)}; set text_column")


def _preparing_images(classifier: Classifier, given: Given, seen: list[str], settings: Predict) -> Prepare:
    source = given.source
    assert source is not None
    own = given.itself or (source.scheme == "path" and source.path.is_dir())

    def rows() -> Iterator[dict[str, Any]]:
        return (record.columns for record in read(source, "images", settings.files) if record.problem is None)

    column = pictures.IMAGE_COLUMN if own else pictures.image_column(source, seen, settings.image_column, rows)
    found, feed = pictures.Pictures(source, column, settings.fetch, itself=given.itself), classifier.encoder.feed
    assert isinstance(feed, ImageFeed)

    def picture(record: Record) -> tuple[Row, np.ndarray | None]:
        value: Any = record.columns.get(column)
        name = record.place if given.itself else pictures.named_in(value) or record.place
        try:
            data, _ = found.read(value)
        except ValueError as error:
            return Row(name, str(error)), None
        try:
            return Row(name), feed.pixels(data)  # small from here on, however large it lies on the disk
        except UserError as error:
            return Row(name, str(error.__cause__)), None
        except MemoryError as error:
            raise UserError(f"{name} is too large for the memory there is ({error}); give it more, or leave it out") from error

    def prepare(records: list[Record]) -> tuple[list[Row], list[np.ndarray]]:
        with ThreadPoolExecutor(max(4, settings.fetch.connections)) as pool:
            rows, pixels = zip(*pool.map(picture, records), strict=True)
        return list(rows), [each for each in pixels if each is not None]

    return prepare


def _preparing_table(classifier: Classifier, given: Given, seen: list[str], settings: Predict) -> Prepare:
    feed: Any = classifier.encoder.feed
    classifier.encoder.encode(pa.table({name: pa.nulls(1) for name in seen}))  # refuses missing columns in the feed's own words

    def prepare(records: list[Record]) -> tuple[list[Row], pa.Table]:
        rows, arrays = [Row(record.place) for record in records], {}
        for column in feed.columns:
            values = [record.columns.get(column.name) for record in records]
            values = declarations.as_declared(values, classifier.types.get(column.name))
            for place, problem in _unfit(column, values):
                rows[place].problem, values[place] = rows[place].problem or problem, None
            arrays[column.name] = feed.all.read(column, values)
        return rows, pa.table(arrays).filter(pa.array([row.problem is None for row in rows]))

    return prepare


def _unfit(column: Any, values: list[Any]) -> list[tuple[int, str]]:
    """Which values don't belong into a column, and why."""
    if column.belong(values):
        return []
    wrong = (place for place, value in enumerate(values) if not column.belong([value]))  # rare enough to look at each by itself
    return [(place, f"column {column.name!r} takes {column.takes}, but {values[place]!r:.80} came") for place in wrong]


_PREPARING = {"texts": _preparing_texts, "images": _preparing_images, "table": _preparing_table}
