"""Feeding: parts are read, prepared and embedded side by side, and come out whole, whatever happens on the way."""

import io
import threading

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from embedkit import Encoder, UserError, feeding, frameworks
from embedkit.crossfit import NONE, Known
from embedkit.encoders import EncoderFacts, facts_of_table
from embedkit.features import Columns, Embedded, Numbers, Vocabulary
from embedkit.feeding import PARTS_AT_ONCE, Part, Supply, embedded

frameworks.load_frameworks()

import keras  # noqa: E402  after the frameworks were loaded quietly
from keras import layers  # noqa: E402

COLUMNS = Columns(columns=[Numbers(name="x", low=-1, high=1, gaps=False), Numbers(name="y", low=-1, high=1, gaps=False)])


@pytest.fixture(scope="module")
def doubling():
    """A network that doubles two numbers."""
    frameworks.start_keras(0)
    numbers = keras.Input((2,))
    return keras.Model(numbers, layers.Rescaling(2.0)(numbers))


@pytest.fixture
def encoder(doubling):
    """An encoder of the columns x and y: a row's vector is (2x, 2y)."""
    return Encoder(doubling, facts_of_table(COLUMNS, "test"), COLUMNS.model_dump_json(), "doubling")


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert running() == []


def running():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("embedkit-")]


def part_of(number, x, ids=None, content=None):
    """Contents of one part, whose rows are known by x where nothing else is said; y is the part's number."""
    x = np.asarray(x, float)
    content = x.astype(np.int64) if content is None else np.asarray(content)
    ids = 1000 * number + np.arange(len(x)) if ids is None else np.asarray(ids)
    return pa.table({"x": x, "y": np.full(len(x), float(number))}), Known(ids, content)


def supply_of(encoder, parts, found=None):
    return Supply(encoder, lambda number: parts[number], found)


def counted(encoder):
    """The rows of each batch that the network is given from here on."""
    sizes, forward = [], encoder.forward

    def run(batch):
        sizes.append(len(batch))
        return forward(batch)

    encoder.forward = run
    return sizes


def test_each_part_has_the_vectors_of_its_rows_in_their_order(encoder):
    encoder.streams = 3
    random = np.random.default_rng(0)
    parts = {number: part_of(number, random.permutation(50 + number)) for number in range(8)}
    made = {part.number: part for part in embedded(supply_of(encoder, parts), [7, 0, 1, 2, 3, 4, 5])}
    assert sorted(made) == [0, 1, 2, 3, 4, 5, 7]
    for number, part in made.items():
        ids, vectors, aside = part.rows()
        contents, known = parts[number]
        assert ids.tolist() == known.ids.tolist()
        assert vectors.tolist() == [[2 * x, 2 * number] for x in contents["x"].to_pylist()]
        assert (vectors.dtype, aside) == (np.float32, [])
        assert {"read", "prepare", "wait", "forward"} == set(part.seconds)


def test_no_part_is_no_work(encoder):
    assert list(embedded(supply_of(encoder, {}), [])) == []


def test_equal_rows_are_embedded_once_and_each_has_the_vector(encoder):
    sizes = counted(encoder)
    (part,) = embedded(supply_of(encoder, {0: part_of(0, [5, 3, 5, 4, 3, 5])}), [0])
    assert sizes == [3]
    assert part.rows()[1][:, 0].tolist() == [10, 6, 10, 8, 6, 10]
    assert (part.first.tolist(), part.times.tolist()) == ([0, 1, 0, 2, 1, 0], [3, 2, 1])


class TwoFolds:
    """Folds by the id, whose networks add 100 and 200."""

    def of(self, known):
        return np.where(known.ids < 2, known.ids, NONE).astype(np.int8)

    def forward(self, fold):
        return lambda batch: batch + 100 * (fold + 1)


def test_equal_rows_of_different_folds_have_vectors_of_their_own(encoder):
    encoder.folds = TwoFolds()
    sizes = counted(encoder)
    (part,) = embedded(supply_of(encoder, {0: part_of(0, [5, 5, 5, 5, 6], ids=[3, 1, 0, 4, 2])}), [0])
    assert sizes == [4]
    assert part.rows()[1][:, 0].tolist() == [10, 205, 105, 10, 12]


def earlier(known):
    """Rows whose content is even have a vector already, (-content, 0)."""
    there = known.content % 2 == 0
    return there, np.stack([-known.content[there], 0 * known.content[there]], axis=1).astype(np.float32)


def test_rows_with_a_vector_are_not_embedded(encoder):
    sizes = counted(encoder)
    (part,) = embedded(supply_of(encoder, {0: part_of(0, [4, 1, 3, 4, 1, 2])}, earlier), [0])
    assert sizes == [2]
    assert part.rows()[1][:, 0].tolist() == [-4, 2, 6, -4, 2, -2]
    assert len(part.found) == 3


def test_a_part_whose_rows_all_have_vectors_asks_the_network_nothing(encoder):
    sizes = counted(encoder)
    made = list(embedded(supply_of(encoder, {0: part_of(0, [4, 2]), 1: part_of(1, [6])}, earlier), [0, 1]))
    assert sizes == []
    assert [part.rows()[1].tolist() for part in made] == [[[-4, 0], [-2, 0]], [[-6, 0]]]


def test_a_vector_that_is_not_finite_sets_all_rows_of_its_content_aside(encoder):
    far = 1.5e308
    (part,) = embedded(supply_of(encoder, {0: part_of(0, [1, far, 2, far], content=[1, 9, 2, 9])}), [0])
    ids, vectors, aside = part.rows()
    assert (ids.tolist(), vectors[:, 0].tolist()) == ([0, 2], [2, 4])
    assert aside == [(1, "its vector is not finite"), (3, "its vector is not finite")]


def test_progress_counts_each_row_once_however_it_got_its_vector(encoder):
    encoder.streams, counts = 2, []
    parts = {0: part_of(0, [4, 1, 3, 3, 1.5e308], content=[4, 1, 3, 3, 9]), 1: part_of(1, np.arange(40) // 2)}
    for part in embedded(supply_of(encoder, parts, earlier), [0, 1], counts.append):
        assert sum(counts) >= len(part.first)
    assert sum(counts) == 45


# Pictures


@pytest.fixture(scope="module")
def averaging():
    """A network that averages the pixels of pictures of 4 x 4."""
    frameworks.start_keras(0)
    pixels = keras.Input((4, 4, 3))
    return keras.Model(pixels, layers.GlobalAveragePooling2D()(pixels))


@pytest.fixture
def painter(averaging):
    shape = {"modality": "images", "dimension": 3, "layer": "average", "pooling": "none", "normalised": False}
    return Encoder(averaging, EncoderFacts(**shape, height=4, width=4, source="test"), None, "averaging")


def pictures_of(levels):
    """Grey pictures of these levels; bytes stay as they are."""
    found = []
    for level in levels:
        data = io.BytesIO()
        if isinstance(level, int):
            Image.new("RGB", (6, 5), (level,) * 3).save(data, "png")
        found.append(data.getvalue() if isinstance(level, int) else level)
    content = np.array([hash(data) for data in found])
    return pa.table({"image": pa.array(found, pa.binary())}), Known(np.arange(len(levels)), content)


def test_a_broken_picture_is_set_aside_with_its_reason_and_the_others_have_their_vectors(painter):
    counts = []
    cut = pictures_of([77])[0]["image"][0].as_py()[:50]
    supply = supply_of(painter, {0: pictures_of([10, b"no picture", 20, cut, b"", 30, b"no picture", 10])})
    (part,) = embedded(supply, [0], counts.append)
    ids, vectors, aside = part.rows()
    assert (ids.tolist(), vectors[:, 0].tolist()) == ([0, 2, 5, 7], [10, 20, 30, 10])
    unknown, empty = "not a readable picture (of no known format)", "the file is empty"
    assert [aside[0], *aside[2:]] == [(1, unknown), (4, empty), (6, unknown)]
    assert aside[1][0] == 3 and aside[1][1].startswith("not a readable picture (")
    assert sum(counts) == 8


def test_a_part_of_broken_pictures_alone_has_no_vector(painter):
    (part,) = embedded(supply_of(painter, {0: pictures_of([b"a", b"b"])}), [0])
    ids, vectors, aside = part.rows()
    assert (ids.tolist(), vectors.shape, len(aside)) == ([], (0, 3), 2)


# Values without a vector of their own


def test_unknown_values_are_counted_as_often_as_their_rows_come(doubling):
    columns = Columns(
        columns=[Embedded(name="city", vocabulary=0)],
        vocabularies=[Vocabulary(name="city", values=["Bonn"], missing=False, dimension=2)],
    )
    encoder = Encoder(doubling, facts_of_table(columns, "test"), columns.model_dump_json(), "cities")
    encoder.forward = lambda batch: np.repeat(batch["values"], 2, axis=1).astype(np.float32)
    contents = pa.table({"city": ["Bonn", "Ulm", "Ulm", "Rom"]})
    (part,) = embedded(supply_of(encoder, {0: (contents, Known(np.arange(4), np.array([1, 2, 2, 3])))}), [0])
    assert dict(part.unknown) == {"city": 3}


# What goes wrong


def failing_reading(encoder):
    def read(number):
        if number == 3:
            raise OSError("the disk is gone")
        return part_of(number, range(5))

    return Supply(encoder, read), OSError


def failing_preparing(encoder):
    parts = {number: part_of(number, range(5)) for number in range(20)}
    parts[3] = (parts[3][0].drop_columns("x"), parts[3][1])
    return supply_of(encoder, parts), UserError


def failing_forward(encoder):
    forward = encoder.forward

    def run(batch):
        if batch[0, 1] == 3:
            raise ArithmeticError("no kernel")
        return forward(batch)

    encoder.forward = run
    return supply_of(encoder, {number: part_of(number, range(5)) for number in range(20)}), ArithmeticError


@pytest.mark.parametrize("streams", [1, 3])
@pytest.mark.parametrize("fail", [failing_reading, failing_preparing, failing_forward])
def test_an_error_in_a_thread_reaches_the_caller_and_all_threads_end(encoder, fail, streams):
    encoder.streams = streams
    supply, error = fail(encoder)
    with pytest.raises(error, match="the disk is gone|there is no column 'x'|no kernel"):
        list(embedded(supply, range(20)))
    assert running() == []


def test_an_error_of_what_shows_progress_reaches_the_caller(encoder):
    def advance(more):
        raise BrokenPipeError("nobody looks")

    with pytest.raises(BrokenPipeError, match="nobody looks"):
        list(embedded(supply_of(encoder, {0: part_of(0, range(5))}), [0], advance))


def test_a_caller_that_stops_early_leaves_no_thread(encoder):
    encoder.streams = 2
    supply = supply_of(encoder, {number: part_of(number, range(5)) for number in range(100)})
    found = embedded(supply, range(100))
    next(found)
    assert "embedkit-read" in running()
    found.close()
    assert running() == []
    with pytest.raises(KeyError):
        for _ in embedded(supply, range(100)):
            raise KeyError
    assert running() == []


def test_only_a_few_parts_are_open_at_once(encoder):
    encoder.streams, begun, most = 2, [], 0

    def read(number):
        begun.append(number)
        return part_of(number, range(5))

    for done, _ in enumerate(embedded(Supply(encoder, read), range(30))):
        most = max(most, len(begun) - done)
    assert len(begun) == 30
    assert 1 <= most <= PARTS_AT_ONCE


def test_batches_that_wait_are_bounded_by_their_bytes(encoder, monkeypatch):
    monkeypatch.setattr(feeding, "WAITING_BYTES", 1)
    prepared, waited, forward, most = [], threading.Event(), encoder.forward, 2 + 1 + 1  # queued, in work, being put
    monkeypatch.setattr("embedkit.pipelines.TABLE_ROWS_PER_BATCH", 1)
    batches = encoder.feed.batches

    def watched(rows):
        for item in batches(rows):
            prepared.append(item)
            if len(prepared) == most:
                waited.set()
            yield item

    def run(batch):
        assert waited.wait(60)
        ahead.append(len(prepared) - len(ahead))
        return forward(batch)

    ahead: list[int] = []
    encoder.forward, encoder.feed.batches = run, watched
    (part,) = embedded(supply_of(encoder, {0: part_of(0, range(20))}), [0])
    assert len(part.rows()[0]) == 20
    assert max(ahead) <= most


# What engines are measured on


def test_a_sample_is_rows_from_all_over_the_first_part(encoder):
    supply = supply_of(encoder, {0: part_of(0, range(100))})
    (batch,) = supply.sample(5)
    assert batch[:, 0].tolist() == [0, 24, 49, 74, 99]
    assert len(supply.sample(1000)[0]) == 100


def test_pictures_that_are_broken_are_no_sample(painter):
    ((batch),) = supply_of(painter, {0: pictures_of([10, b"no picture", 20])}).sample(3)
    assert batch[:, 0, 0, 0].tolist() == [10, 20]


def test_rows_that_have_vectors_already_are_a_sample_as_good_as_any(encoder):
    (batch,) = supply_of(encoder, {0: part_of(0, [2, 4])}, earlier).sample(5)
    assert batch.tolist() == [[2, 0], [4, 0]]


def test_no_rows_are_no_sample(encoder, painter):
    assert supply_of(encoder, {0: part_of(0, [])}).sample(5) == []
    assert supply_of(painter, {0: pictures_of([b"no picture"])}).sample(5) == []


def test_a_part_without_rows_is_a_part(encoder):
    (part,) = embedded(supply_of(encoder, {0: part_of(0, [])}), [0])
    assert isinstance(part, Part) and part.rows()[1].shape == (0, 2)
