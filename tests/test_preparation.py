"""Preparation: rows as a network takes them, prepared once, and the order in which they are learned from."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from embedkit import Encoder, import_encoder, load_images, load_table, load_texts, make_control
from embedkit.datasets import read_contents
from embedkit.features import Columns, Embedded, Numbers, Vocabulary
from embedkit.pipelines import TableFeed
from embedkit.preparation import Joined, Prepared, load_pixels, stacked

WORDS = "the a cat dog sat ran on mat moon red blue green".split()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("preparation")


@pytest.fixture(scope="module")
def texts(place):
    """70 texts of one to twenty words."""
    random = np.random.default_rng(0)
    lines = [f"{' '.join(random.choice(WORDS, random.integers(1, 20)))} {number}" for number in range(70)]
    (place / "texts.csv").write_text("text\n" + "\n".join(lines) + "\n")
    return load_texts(place / "texts.csv", root=place)


@pytest.fixture(scope="module")
def bert(place, tiny_bert):
    return Encoder.open(import_encoder(tiny_bert, root=place))


@pytest.fixture(scope="module")
def pictures(place):
    """40 pictures of 20 x 10 pixels."""
    random, contents = np.random.default_rng(0), []
    for _ in range(40):
        data = io.BytesIO()
        Image.fromarray(random.integers(0, 256, (10, 20, 3)).astype(np.uint8)).save(data, "png")
        contents.append(data.getvalue())
    pq.write_table(pa.table({"image": contents}), place / "pictures.parquet")
    return load_images(place / "pictures.parquet", root=place)


@pytest.fixture(scope="module")
def network(place, nested_network):
    return Encoder.open(import_encoder(nested_network, root=place))


@pytest.fixture(scope="module")
def table(place):
    """50 rows of a number and a word."""
    lines = [f"{number * 1.5},{'odd' if number % 2 else 'even'}" for number in range(50)]
    (place / "table.csv").write_text("size,kind\n" + "\n".join(lines) + "\n")
    return load_table(place / "table.csv", root=place)


def fed(dataset, encoder):
    """What the encoder's feed gives of each row, a row of its own at a time."""
    rows = encoder.feed.rows(read_contents(dataset, 0, dataset.manifest.rows))
    return [next(iter(encoder.feed.batches(rows[place : place + 1])))[1] for place in range(len(rows))]


def test_pictures_are_those_of_the_feed(pictures, network, tmp_path):
    expected, places = np.concatenate(fed(pictures, network)), np.array([7, 3, 39, 0, 12])
    prepared = Prepared(pictures, network.feed, places, tmp_path)
    chosen = np.array([12, 7, 39])
    assert np.array_equal(prepared.batch(chosen), expected[chosen])
    assert prepared.batch(chosen).dtype == np.float32
    assert prepared.lengths is None and prepared.signature(np.zeros(40)) is None


def test_only_the_pictures_asked_for_are_decoded_and_a_second_time_none(pictures, network, tmp_path):
    Prepared(pictures, network.feed, np.array([7, 3, 39]), tmp_path)
    [path] = tmp_path.glob("*.npy")
    assert np.load(path, allow_pickle=False).shape == (3, 16, 16, 3)
    before = path.stat().st_mtime_ns, path.stat().st_ino
    Prepared(pictures, network.feed, np.array([7, 3, 39]), tmp_path)
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == before


def test_pictures_are_read_a_few_at_a_time_and_come_out_the_same(pictures, network, tmp_path):
    expected = np.concatenate(fed(pictures, network))
    assert np.array_equal(load_pixels(pictures, 16, 16, tmp_path / "all.npy", rows_at_once=7), expected)
    places = np.array([0, 6, 7, 13, 39])
    assert np.array_equal(load_pixels(pictures, 16, 16, tmp_path / "some.npy", places, rows_at_once=7), expected[places])


def test_texts_are_those_of_the_feed_padded_to_the_longest_of_the_batch(texts, bert, tmp_path):
    expected = fed(texts, bert)
    prepared = Prepared(texts, bert.feed, np.arange(70), tmp_path)
    chosen = np.array([5, 0, 40, 69])
    batch = prepared.batch(chosen)
    longest = max(expected[place]["token_ids"].shape[1] for place in chosen)
    assert batch["token_ids"].shape == (4, longest)
    for line, place in enumerate(chosen):
        length = expected[place]["token_ids"].shape[1]
        assert prepared.lengths[place] == length == batch["padding_mask"][line].sum()
        for name in ("token_ids", "padding_mask", "segment_ids"):
            assert batch[name][line, :length].tolist() == expected[place][name][0].tolist()
        assert set(batch["token_ids"][line, length:].tolist()) <= {bert.feed.padding}


def test_texts_that_nobody_asks_for_are_not_tokenised(texts, bert, tmp_path, monkeypatch):
    seen = []
    tokens = bert.feed.tokens
    monkeypatch.setattr(bert.feed, "tokens", lambda rows: seen.extend(rows) or tokens(rows))
    prepared = Prepared(texts, bert.feed, np.array([60, 2, 30]), tmp_path)
    assert seen == [read_contents(texts, 0, 70)["text"][place].as_py() for place in (2, 30, 60)]
    assert np.flatnonzero(prepared.lengths).tolist() == [2, 30, 60]


def test_texts_say_that_their_length_varies(texts, bert, tmp_path):
    inputs, targets = Prepared(texts, bert.feed, np.arange(3), tmp_path).signature(np.zeros((70, 2), np.float32))
    assert {name: spec.shape.as_list() for name, spec in inputs.items()} == dict.fromkeys(inputs, [None, None])
    assert (targets.shape.as_list(), targets.dtype.as_numpy_dtype) == ([None, 2], np.float32)


def test_rows_of_a_table_are_those_of_the_feed(table, tmp_path):
    encoder = Encoder.open(make_control(table))
    expected = np.concatenate(fed(table, encoder))
    prepared = Prepared(table, encoder.feed, np.array([44, 1, 20]), tmp_path)
    assert np.array_equal(prepared.batch(np.array([20, 44])), expected[[20, 44]])


@pytest.mark.parametrize("names", [("texts", "bert"), ("pictures", "network")], ids=["texts", "images"])
def test_vectors_in_any_order_are_the_encoders(request, names, tmp_path):
    dataset, encoder = (request.getfixturevalue(name) for name in names)
    rows = dataset.manifest.rows
    expected = encoder.encode(encoder.feed.rows(read_contents(dataset, 0, rows)))
    places = np.random.default_rng(0).permutation(rows)[:33]
    prepared = Prepared(dataset, encoder.feed, places, tmp_path)
    found = prepared.encode(encoder.forward, places, rows, at_once=8)
    assert found.shape == expected.shape and found.dtype == np.float32
    assert found[places] == pytest.approx(expected[places], abs=1e-5)
    left = np.setdiff1d(np.arange(rows), places)
    assert not found[left].any()


# Several datasets ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def more_texts(place):
    (place / "more.csv").write_text("text\n" + "\n".join(f"{word} moon" for word in WORDS) + "\n")
    return load_texts(place / "more.csv", root=place)


def test_places_of_joined_datasets_count_on_from_one_to_the_next(texts, more_texts, bert, tmp_path):
    parts = [Prepared(texts, bert.feed, np.array([3, 60]), tmp_path), Prepared(more_texts, bert.feed, np.arange(12), tmp_path)]
    joined = Joined(parts, [70, 12], bert.feed)
    expected = [fed(texts, bert)[60], fed(more_texts, bert)[0], fed(more_texts, bert)[11]]
    batch = joined.batch(np.array([60, 70, 81]))
    for line, row in enumerate(expected):
        length = row["token_ids"].shape[1]
        assert batch["token_ids"][line, :length].tolist() == row["token_ids"][0].tolist()
        assert batch["padding_mask"][line].sum() == length == joined.lengths[[60, 70, 81][line]]
    assert len(joined.lengths) == len(joined.tokens) == 82 and joined.signature(np.zeros(82)) is not None
    assert sorted(joined.order(np.array([3, 60, 75, 80]), 4, 2)(0, 0).tolist()) == [0, 1, 2, 3]


def test_pictures_of_joined_datasets_come_in_the_order_asked_for(place, pictures, network, tmp_path):
    pq.write_table(pq.read_table(place / "pictures.parquet").take([38, 5, 11]), place / "few.parquet")
    few = load_images(place / "few.parquet", root=place)
    parts = [Prepared(few, network.feed, np.arange(3), tmp_path / "few")]
    parts.append(Prepared(pictures, network.feed, np.arange(30, 40), tmp_path / "all"))
    joined, expected = Joined(parts, [3, 40], network.feed), np.concatenate(fed(pictures, network))
    found = joined.batch(np.array([38, 1, 42, 0, 33]))
    assert np.array_equal(found, expected[[35, 5, 39, 38, 30]]) and found.dtype == np.float32
    assert np.array_equal(joined.batch(np.array([2])), expected[[11]])
    assert joined.lengths is None and joined.tokens is None and joined.signature(np.zeros(43)) is None


def cities(folder, name, rows):
    (folder / f"{name}.csv").write_text("city,size\n" + "".join(f"{'ab'[n % 2]},{n}\n" for n in rows))
    return load_table(folder / f"{name}.csv", root=folder)


@pytest.mark.parametrize("numbers", [True, False], ids=["beside numbers", "alone"])
def test_tables_of_joined_datasets_come_with_all_their_inputs(place, tmp_path, numbers):
    city, size = Embedded(name="city", vocabulary=0), Numbers(name="size", low=0, high=10, gaps=False)
    known = Vocabulary(name="city", values=["a", "b"], missing=False, dimension=2)
    feed = TableFeed(Columns(columns=[city, size] if numbers else [city], vocabularies=[known]))
    one, other = cities(tmp_path, "one", range(6)), cities(tmp_path, "other", range(10, 14))
    parts = [Prepared(one, feed, np.array([5, 0, 2]), tmp_path), Prepared(other, feed, np.arange(4), tmp_path)]
    found = Joined(parts, [6, 4], feed).batch(np.array([7, 5, 9, 0]))
    assert found["values"].tolist() == [[3], [3], [3], [2]] and found["values"].dtype == np.int32
    assert ("numbers" in found) == numbers
    if numbers:
        assert found["numbers"][:, 0] == pytest.approx([1.2, 0, 1.6, -1])


def test_batches_are_stacked_as_arrays_or_as_dictionaries_of_them():
    assert stacked([np.ones((2, 1)), np.zeros((1, 1))]).tolist() == [[1], [1], [0]]
    found = stacked([{"a": np.array([1]), "b": np.array([[2]])}, {"a": np.array([3, 4]), "b": np.array([[5], [6]])}])
    assert {name: array.tolist() for name, array in found.items()} == {"a": [1, 3, 4], "b": [[2], [5], [6]]}


# Orders -------------------------------------------------------------------------------------------------------------


def test_every_row_comes_once_before_any_comes_again(pictures, network, tmp_path):
    prepared = Prepared(pictures, network.feed, np.arange(40), tmp_path)
    order = prepared.order(np.arange(0, 40, 2), size=8, batch_size=4)  # 20 rows to learn from
    whole = np.concatenate([order(3, epoch) for epoch in range(10)])
    assert [len(order(3, epoch)) for epoch in range(10)] == [8] * 10
    for turn in whole.reshape(4, 20):
        assert sorted(turn.tolist()) == list(range(20))
    assert len({tuple(turn) for turn in whole.reshape(4, 20).tolist()}) == 4


def test_an_order_is_a_function_of_seed_and_epoch(texts, bert, tmp_path):
    prepared = Prepared(texts, bert.feed, np.arange(70), tmp_path)
    one, same = (prepared.order(np.arange(50), 50, 8) for _ in range(2))
    assert one(0, 5).tolist() == same(0, 5).tolist()
    assert one(0, 5).tolist() != one(0, 4).tolist() and one(0, 5).tolist() != one(1, 5).tolist()


def test_texts_of_like_length_come_in_one_batch_and_each_once(texts, bert, tmp_path):
    prepared = Prepared(texts, bert.feed, np.arange(70), tmp_path)
    places = np.arange(69, 3, -1)  # 66 of them, so that the indices of an order are no places
    order = prepared.order(places, 66, 8)(0, 0)
    assert sorted(order.tolist()) == list(range(66))
    lengths = prepared.lengths[places][order]
    batches = lengths[:64].reshape(8, 8)
    spreads = np.ptp(batches, axis=1)
    assert spreads.max() <= 6 < np.ptp(lengths)  # of one to twenty words
    ranges = sorted((batch.min(), batch.max()) for batch in batches)
    assert all(one[1] <= other[0] for one, other in zip(ranges, ranges[1:], strict=False))
    assert [batch.min() for batch in batches] != sorted(batch.min() for batch in batches)  # batches come in a random order


def test_texts_of_a_window_are_those_of_the_window(texts, bert, tmp_path):
    prepared = Prepared(texts, bert.feed, np.arange(70), tmp_path)
    order = prepared.order(np.arange(60), 20, 8)
    whole = np.concatenate([order(0, epoch) for epoch in range(6)]).reshape(2, 60)
    assert all(sorted(turn.tolist()) == list(range(60)) for turn in whole)
    assert sorted(prepared.order(np.arange(5), 5, 8)(0, 1).tolist()) == [0, 1, 2, 3, 4]  # less than a batch
