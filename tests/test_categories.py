"""learn_categories: a table's values become vectors that tell of other rows, and rows that were learned from get honest ones."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import SHARED
from PIL import Image
from pydantic import ValidationError

from embedkit import (
    BuildIndex,
    Classifier,
    Compare,
    CutEncoder,
    Encoder,
    FineTune,
    LearnCategories,
    LoadTable,
    Neighbours,
    Search,
    TrainHead,
    Training,
    UserError,
    build_index,
    compare,
    cut_encoder,
    embed,
    fine_tune,
    learn_categories,
    load_table,
    load_texts,
    make_control,
    neighbours,
    search,
    train_head,
)
from embedkit.crossfit import NONE, Known
from embedkit.datasets import read_contents, read_rows
from embedkit.entities import Network, TableTraining, folds_of
from embedkit.features import Columns, Embedded
from embedkit.predicting import Prediction, predict
from embedkit.preparation import Prepared
from embedkit.readers import ReadFiles
from embedkit.vectors import read_vectors

ROWS = 400
SPLITS = ("train", "train", "train", "validation", "test")
FAST = TableTraining(batch_size=32, learning_rate=0.05, epochs=8, patience=None, preflight=False)
PLAIN = LearnCategories(
    roles=("opened=date:%d.%m.%Y",),
    folds=2,
    network=Network(hidden=(8,)),
    training=FAST,
)
LEAKY = PLAIN.model_copy(
    update={
        "roles": ("row=embedding:6",),
        "least_count": 1,
        "network": Network(hidden=(8,), dropout=0),
        "training": FAST.model_copy(update={"learning_rate": 0.1}),
    }
)
WITHOUT = PLAIN.model_copy(update={"folds": 0, "roles": ()})


def shop_of(n):
    """Shops 0 to 11 in turn, now and then one that hardly any row has, or none."""
    if n % 21 == 20:
        return None
    return f"rare {n}" if n % 33 == 32 else f"shop {n * 7 % 12:02d}"


def sales(rows=ROWS):
    """Rows whose shop decides the label, nearly always."""
    random, found = np.random.default_rng(0), []
    for n in range(rows):
        shop = shop_of(n)
        likely = shop is not None and int(shop[-2:]) % 2 == 0
        found.append(
            {
                "shop": shop,
                "store_id": 1000 + int(random.integers(11)),
                "month": 1 + int(random.integers(12)),
                "size": 1e12 if n == 5 else None if n % 9 == 8 else round(float(random.normal(50, 10)), 2),
                "opened": f"{random.integers(1, 29):02d}.{random.integers(1, 4):02d}.2026",
                "order": f"o-{n:05d}",
                "remark": f"it went rather well with number {n}",
                "same": "x",
                "empty": None,
                "label": "yes" if likely != (random.random() < 0.08) else "no",
                "split": SPLITS[n % 5],
            }
        )
    return found


def table_of(path, rows, **settings):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_table(path, LoadTable(**{"split_column": "split", "rows_per_part": 150} | settings), root=path.parent)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A root for artifacts that several tests look at."""
    return tmp_path_factory.mktemp("categories")


@pytest.fixture(scope="module")
def table(place):
    return table_of(place / "sales.jsonl", sales())


@pytest.fixture(scope="module")
def encoder(table):
    return learn_categories(table, PLAIN)


@pytest.fixture(scope="module")
def loaded(encoder):
    return Encoder.open(encoder)


@pytest.fixture(scope="module")
def vectors(table, encoder):
    return embed(table, encoder)


def columns_of(encoder):
    return Columns.model_validate_json((encoder / "columns.json").read_text())


def split_of(dataset):
    return np.array(read_rows(dataset)["split"].to_pylist())


@pytest.fixture(scope="module")
def classifier(vectors):
    """One of `opened`, `shop`, `store_id`, `month` and `size`: a column of each kind."""
    return train_head(vectors, TrainHead(training=Training(epochs=3, preflight=False)))


# Predictions of its rows


NAMES = ("shop", "store_id", "month", "size", "opened", "order")


def csv_of(path, rows):
    lines = [",".join("" if row[name] is None else str(row[name]) for name in NAMES) for row in rows]
    path.write_text("\n".join([",".join(NAMES), *lines]) + "\n")
    return [path]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_rows_of_a_file_are_predicted_as_they_are_in_python(classifier, tmp_path, suffix):
    rows = [{name: row[name] for name in NAMES} for row in sales(60)]
    rows[3] |= {"shop": "new", "store_id": 7, "month": 77}
    if suffix == "csv":
        csv_of(tmp_path / "new.csv", rows)
    elif suffix == "jsonl":
        (tmp_path / "new.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "new.parquet")
    found = [one for _, one in predict(classifier, [tmp_path / f"new.{suffix}"])]
    assert found == Classifier.open(classifier).predict(rows)


def test_numbers_in_a_file_of_texts_are_the_values_that_they_were_learned_as(classifier, tmp_path):
    row = sales(1)[0]
    stores = ["1003", "1003.0", "1.003e3", " 1003", "NA", "north"]
    found = [one for _, one in predict(classifier, csv_of(tmp_path / "a.csv", [row | {"store_id": store} for store in stores]))]
    stores = [1003] * 4 + [None, "no such store"]
    assert found == Classifier.open(classifier).predict([row | {"store_id": store} for store in stores])
    months = ["4", "4.0", "NA", "May"]
    found = [one for _, one in predict(classifier, csv_of(tmp_path / "b.csv", [row | {"month": month} for month in months]))]
    assert found == Classifier.open(classifier).predict([row | {"month": month} for month in (4, 4, None, "no such month")])


def test_a_row_of_a_file_that_does_not_fit_is_given_with_its_reason(classifier, tmp_path):
    good = sales(1)[0]
    rows = [good | change for change in ({"opened": "2026-01-05"}, {"size": "large"}, {}, {"opened": "NA"})]
    found = [one for _, one in predict(classifier, csv_of(tmp_path / "a.csv", rows))]
    assert found[0] == "column 'opened' takes moments written as '%d.%m.%Y', but '2026-01-05' came"
    assert found[1] == "column 'size' takes numbers, but 'large' came"
    assert found[2:] == Classifier.open(classifier).predict([good, good | {"opened": None}])
    lines = [json.dumps({name: row[name] for name in NAMES}) for row in (good, good | {"shop": [1]})]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    first, second = [one for _, one in predict(classifier, [tmp_path / "a.jsonl"])]
    assert isinstance(first, Prediction) and second == "column 'shop' takes texts, numbers, truth values or moments, but [1] came"


@pytest.mark.shared
def test_shops_days_and_sizes_of_a_csv_are_predicted_as_they_are_in_python(place):
    cases = SHARED / "cases"
    table = load_table(cases / "s3_shops_class.csv", LoadTable(label_column="label"), root=place)
    encoder = learn_categories(table, LearnCategories(folds=2, network=Network(hidden=(8,)), training=FAST))
    classifier = train_head(embed(table, encoder), TrainHead(training=Training(epochs=3, preflight=False)))
    shown = [f"shop {shop}" for shop in (0, 1, 4, 9)]
    rows = [{"shop": shop, "day": f"2024-0{n}-0{n}", "size": n - 1} for n, shop in enumerate(shown, 1)]
    found = [one for _, one in predict(classifier, [cases / "s3_new.csv"])]
    assert found == Classifier.open(classifier).predict(rows) and [one.label for one in found] == ["lo"] * 4


# What is learned


def test_columns_get_their_roles_and_each_is_said(encoder):
    rare = sum(1 for n in range(ROWS) if (shop_of(n) or "").startswith("rare") and SPLITS[n % 5] == "train")
    found = {one["name"]: (one["role"], one["reason"]) for one in encoder.manifest.details["columns"]}
    assert found == {
        "shop": ("embedding", f"{12 + rare} different values: texts that recur"),
        "store_id": ("embedding", "11 different values: whole numbers that name things, by the column's name"),
        "month": ("one-hot", "an index of 12 values"),
        "size": ("number", "numbers"),
        "opened": ("date", "as was asked"),
        "order": ("left out", "an identifier: nearly every row has a value of its own, which says nothing of other rows"),
        "remark": ("left out", "free text"),
        "same": ("left out", "the same in all training rows"),
        "empty": ("left out", "no value in any training row"),
    }
    note = next(note for note in encoder.manifest.notes if note.startswith("left out: "))
    assert "'order' (an identifier: " in note and "'remark' (free text)" in note
    assert "'same' (the same in all training rows)" in note and "'empty' (no value in any training row)" in note
    assert json.loads((encoder / "columns_found.json").read_text()) == encoder.manifest.details["columns"]


def test_the_network_finds_what_the_shop_decides(encoder):
    metrics = encoder.manifest.metrics
    assert metrics["accuracy"].value > 0.8 > 0.7 > metrics["guessing_accuracy"].value
    assert metrics["accuracy"].n == ROWS // 5
    words = "the network that learned the vectors has accuracy .* on test rows, guessing 0.5.*; whether the vectors pay is what"
    assert encoder.manifest.verdict.startswith(words.partition(".*")[0]) and encoder.manifest.details["target"] == "class"
    shop, store = encoder.manifest.details["columns"][:2]
    assert shop["out_of_fold"]["value"] > 0.1 > store["out_of_fold"]["value"]
    assert shop["dimension"] == 6 and shop["kept"] == 12


def test_no_note_warns_of_vectors_that_pay_on_other_rows(encoder):
    assert not any("'shop'" in note for note in encoder.manifest.notes)


def test_the_dimension_is_that_of_numbers_and_vectors(encoder, loaded):
    columns = columns_of(encoder)
    assert encoder.manifest.details["dimension"] == len(columns.outputs) == loaded.model.output.shape[1]
    # 12 months, 1 number and its gap, and of the dates 3 months, 28 days and 7 weekdays; 6 and 6 numbers of vectors
    assert len(columns.outputs) == 12 + 2 + 3 + 28 + 7 + 6 + 6
    assert encoder.manifest.name == "sales-categories" and encoder.manifest.rows == ROWS * 4 // 5


def test_numbers_of_its_vectors_stay_near_1_beside_an_outlier(table, vectors, encoder):
    _, found = read_vectors(vectors)
    size = columns_of(encoder).outputs.index("size")
    given = np.array([np.nan if row["size"] is None else row["size"] for row in sales()])
    assert np.abs(found[:, : size + 2]).max() <= 1
    order = np.argsort(given[~np.isnan(given)])
    sorted_ = found[~np.isnan(given), size][order]
    assert (np.diff(sorted_) >= 0).all() and np.quantile(sorted_, 0.9) - np.quantile(sorted_, 0.1) > 0.8


def test_a_file_for_each_embedded_column_holds_its_values_with_counts_and_vectors(encoder, loaded):
    assert sorted(path.name for path in (encoder / "values").iterdir()) == ["00-shop.parquet", "01-store_id.parquet"]
    shops = pq.read_table(encoder / "values/00-shop.parquet")
    assert shops.column_names == ["value", "kind", "count", "vector"]
    assert shops["kind"].to_pylist() == ["unknown", "missing"] + ["value"] * 12
    assert shops["value"].to_pylist()[:2] == [None, None] and shops["value"].to_pylist()[2].startswith("shop ")
    train = [shop_of(n) for n in range(ROWS) if SPLITS[n % 5] == "train"]
    for value, kind, count in zip(*(shops[name].to_pylist() for name in ("value", "kind", "count")), strict=True):
        expected = sum(1 for shop in train if shop and shop.startswith("rare")) if kind == "unknown" else train.count(value)
        assert count == expected
    assert np.array_equal(np.stack(shops["vector"].to_pylist()), loaded.model.get_layer("vocabulary_0").get_weights()[0])
    stores = pq.read_table(encoder / "values/01-store_id.parquet")
    assert stores["kind"].to_pylist() == ["unknown"] + ["value"] * 11  # no row had none


def test_a_map_is_drawn(encoder):
    with Image.open(encoder / "maps.png") as picture:
        assert picture.size[0] > 500 and len(set(picture.convert("RGB").resize((60, 60)).get_flattened_data())) > 10


def test_it_learned_from_training_and_validation_rows_and_says_so(table, encoder):
    ledger, rows = pq.read_table(encoder / "fitted.parquet"), read_rows(table)
    split, ids = split_of(table), rows["id"].to_numpy()
    assert ledger["id"].to_pylist() == ids[split != "test"].tolist()
    expected = np.where(split == "train", folds_of(ids, 2, 0), NONE)[split != "test"]
    assert ledger["fold"].to_pylist() == expected.tolist()
    assert encoder.manifest.details["fitted"] == len(ledger)


def test_an_encoder_opens_and_its_canaries_agree_also_in_half_a_batch(encoder, loaded):
    with np.load(encoder / "canaries.npz", allow_pickle=False) as stored:
        rows = [json.loads(row) for row in stored["rows"]]
        assert np.abs(loaded.encode(rows) - stored["vectors"]).max() < 1e-5
        assert np.abs(loaded.encode(rows[:3]) - stored["vectors"][:3]).max() < 1e-5
    assert {row["shop"] for row in rows} - {f"shop {n:02d}" for n in range(12)} >= {None}


# What is embedded


def test_a_row_that_was_learned_from_gets_a_vector_of_a_network_that_did_not_see_it(table, loaded, vectors, encoder):
    split, (_, found) = split_of(table), read_vectors(vectors)
    plain = loaded.encode(read_contents(table, 0, ROWS))
    assert np.array_equal(found[split != "train"], plain[split != "train"])
    width = len(columns_of(encoder).outputs) - 12
    assert np.array_equal(found[:, :width], plain[:, :width])  # numbers were learned from no label
    assert (found[split == "train", width:] != plain[split == "train", width:]).any(axis=1).all()
    ids = read_rows(table)["id"].to_numpy()
    with np.load(encoder / "folds/fold-1.npz", allow_pickle=False) as stored:
        place = int(np.flatnonzero((split == "train") & (folds_of(ids, 2, 0) == 1))[0])
        shop = columns_of(encoder).vocabularies[0].places(pa.chunked_array([[shop_of(place)]]))[0]
        assert np.array_equal(found[place, width : width + 6], stored["vocabulary_0"][shop])
    assert vectors.manifest.details["out_of_fold"] == ROWS * 3 // 5


def test_rows_of_another_dataset_that_were_learned_from_are_known(table, encoder, vectors, place):
    again = [row for n, row in enumerate(sales()) if n in (0, 4, 5, 9)]
    other = table_of(place / "again.jsonl", [row | {"split": "test"} for row in again])
    made = embed(other, encoder)
    ids, found = read_vectors(made)
    theirs = dict(zip(*(part.tolist() for part in read_vectors(vectors)), strict=True))
    assert [theirs[number] for number in ids.tolist()] == found.tolist()
    assert made.manifest.details["out_of_fold"] == 2


@pytest.mark.parametrize("layer", ["columns", "vocabulary_1"])
def test_an_encoder_that_is_cut_keeps_its_folds_and_what_it_learned_from(table, encoder, vectors, layer):
    cut = cut_encoder(encoder, CutEncoder(layer=layer))
    assert pq.read_table(cut / "fitted.parquet") == pq.read_table(encoder / "fitted.parquet")
    assert cut.manifest.details["fitted"] == encoder.manifest.details["fitted"] == ROWS * 4 // 5
    made, (_, whole) = embed(table, cut), read_vectors(vectors)
    assert made.manifest.details["out_of_fold"] == ROWS * 3 // 5
    kept = whole if layer == "columns" else whole[:, -6:]  # those of the stores
    assert np.array_equal(read_vectors(made)[1], kept)
    stores = neighbours(cut, "store_id", 1003)
    assert stores == neighbours(encoder, "store_id", 1003)
    if layer != "columns":
        with pytest.raises(UserError, match="embedded column 'shop' is not known; there is store_id"):
            neighbours(cut, "shop", "shop 00")


def test_values_that_were_never_seen_share_the_vector_of_unknown_ones_and_are_counted(encoder, loaded, place):
    rows = [row | {"shop": f"new {n}", "store_id": 1001 if n % 2 else 5} for n, row in enumerate(sales(20))]
    made = embed(table_of(place / "new.jsonl", rows), encoder)
    shops = read_vectors(made)[1][:, -12:-6]
    assert (shops == loaded.model.get_layer("vocabulary_0").get_weights()[0][0]).all()
    assert made.manifest.details["unknown"] == {"shop": 20, "store_id": 10}
    words = "20 of 20 rows have a value of 'shop' that the encoder hardly saw; they share the vector of unknown ones"
    assert made.manifest.notes == [words]  # of the stores it is half, and so not most


def test_few_unknown_values_are_counted_without_a_note(vectors):
    rare = sum(1 for n in range(ROWS) if (shop_of(n) or "").startswith("rare"))
    assert vectors.manifest.details["unknown"] == {"shop": rare, "store_id": 0} and vectors.manifest.notes == []


def test_a_column_that_is_missing_throughout_has_the_vector_of_missing_values(encoder, loaded, place):
    rows = [row | {"shop": None, "size": None, "month": None, "opened": None} for row in sales(10)]
    found = read_vectors(embed(table_of(place / "nothing.jsonl", rows), encoder))[1]
    assert (found[:, -12:-6] == loaded.model.get_layer("vocabulary_0").get_weights()[0][1]).all()
    outputs = columns_of(encoder).outputs
    assert found[:, :-12].sum(axis=1).tolist() == [1] * 10 and (found[:, outputs.index("size is missing")] == 1).all()


def test_other_columns_and_their_order_do_not_count(loaded):
    given = {name: value for name, value in sales(3)[2].items() if name != "order"}
    more = dict(reversed((given | {"more": object()}).items()))
    assert np.array_equal(loaded.encode([given]), loaded.encode([more]))


def test_a_column_that_lacks_is_refused_in_one_sentence(encoder, loaded, place):
    rows = [{name: value for name, value in row.items() if name not in ("shop", "size")} for row in sales(5)]
    words = "there is no column 'shop' and no 'size'.*; give all columns that the encoder was made from, with None for a value"
    with pytest.raises(UserError, match=words):
        embed(table_of(place / "lacking.jsonl", rows), encoder)
    with pytest.raises(UserError, match=words):
        loaded.encode(rows)


def test_whole_numbers_fractions_and_texts_are_one_value_of_an_embedded_column(loaded):
    row = sales(1)[0]
    kinds = [1003, 1003.0, "1003", np.int16(1003), np.float32(1003)]
    found = loaded.encode([row | {"store_id": value} for value in kinds])
    assert (found == found[0]).all() and (found[0] != loaded.encode([row | {"store_id": 1004}])[0]).any()
    for values in (kinds[:1], kinds[1:2], kinds[2:3]):
        given = pa.Table.from_pylist([row | {"store_id": value} for value in values])
        assert np.array_equal(loaded.encode(given), found[:1])


def test_a_number_column_with_words_is_refused_with_the_value(encoder, place):
    rows = [row | {"size": "huge"} for row in sales(3)]
    with pytest.raises(UserError, match="column 'size' takes numbers, but 'huge' came; give what it held when the encoder was"):
        embed(table_of(place / "words.jsonl", rows), encoder)


def test_a_date_written_otherwise_is_refused_with_the_value(loaded):
    rows = [row | {"opened": text} for row, text in zip(sales(2), ("03.01.2026", "2026-01-03"), strict=True)]
    words = "column 'opened' takes moments written as '%d.%m.%Y', but '2026-01-03' came; give what it held when the"
    with pytest.raises(UserError, match=words):
        loaded.encode(rows)
    with pytest.raises(UserError, match="column 'shop' takes texts, numbers, truth values or moments, but .'a'. came in row 0"):
        loaded.encode([sales(1)[0] | {"shop": ["a"]}])


def test_texts_are_refused(reviews):
    with pytest.raises(UserError, match="learn_categories takes table as its dataset, but texts/reviews@.* came; give it"):
        learn_categories(load_texts(reviews))


# Neighbours


def test_neighbours_of_a_value_are_those_that_mean_alike(encoder):
    found = neighbours(encoder, "shop", "shop 04", Neighbours(k=3))
    assert [int(one.value[-2:]) % 2 for one in found] == [0, 0, 0]
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True) and found[0].score <= 1 + 1e-6
    names = {f"shop {n:02d}" for n in range(12)} - {"shop 04"}
    everything = neighbours(str(encoder), "shop", "shop 04", Neighbours(k=100), root=encoder.root)
    train = [shop_of(n) for n in range(ROWS) if SPLITS[n % 5] == "train"]
    assert {one.value: one.count for one in everything} == {shop: train.count(shop) for shop in train if shop in names}


def test_a_value_may_be_asked_in_any_type(encoder):
    found = [neighbours(encoder, "store_id", value) for value in (1003, "1003", 1003.0)]
    assert found[0] == found[1] == found[2] and len(found[0]) == 10


def test_neighbours_of_what_is_not_there_are_refused(encoder, table):
    with pytest.raises(UserError, match="embedded column 'shops' is not known; did you mean 'shop'"):
        neighbours(encoder, "shops", "shop 04")
    with pytest.raises(UserError, match=r"value of 'shop' 'shop 4' is not known; did you mean 'shop .*\(rarer ones have no"):
        neighbours(encoder, "shop", "shop 4")
    with pytest.raises(UserError, match=r"value of 'shop' 'rare 32' is not known; .*\(rarer ones have no vector of their own\)"):
        neighbours(encoder, "shop", "rare 32")
    with pytest.raises(UserError, match="table/sales@.* is no encoder of a table; give one that `embedkit learn-categories` made"):
        neighbours(table, "shop", "shop 04")
    with pytest.raises(UserError, match="embedded column 'shop' is not known; there is none"):
        neighbours(make_control(table), "shop", "shop 04")


# Cross-fitting against a column that names each row


@pytest.fixture(scope="module")
def leak(place):
    """500 rows of which a city says the label in three of four; `row` names each."""
    random, rows = np.random.default_rng(0), []
    for n in range(500):
        city = int(random.integers(12))
        label = "yes" if (city % 2 == 0) != (random.random() < 0.25) else "no"
        size = round(float(random.normal()), 3)
        rows.append({"row": f"r{n}", "city": f"city {city}", "size": size, "label": label, "split": SPLITS[n % 5]})
    return table_of(place / "leak.jsonl", rows)


@pytest.fixture(scope="module")
def leaky(leak):
    return learn_categories(leak, LEAKY)


def test_a_column_that_names_each_row_is_left_out_unless_asked_for(leak):
    (found,) = [one for one in learn_categories(leak, WITHOUT).manifest.details["columns"] if one["role"] == "left out"]
    assert found["name"] == "row" and found["reason"].startswith("an identifier")


def test_the_loss_of_rows_that_were_learned_from_is_far_below_that_out_of_fold(leaky):
    metrics = leaky.manifest.metrics
    assert metrics["in_fold_loss"].value < 0.2 and metrics["out_of_fold_loss"].value > 0.5
    assert metrics["gap"].value == pytest.approx(metrics["out_of_fold_loss"].value - metrics["in_fold_loss"].value)
    assert metrics["gap"].value > 5 * metrics["gap"].standard_error
    assert metrics["in_fold_loss"].n == metrics["out_of_fold_loss"].n == 300


def test_a_column_that_misleads_is_said_in_the_manifest(leaky):
    said = [note for note in leaky.manifest.notes if note.startswith("the vectors of 'row' lower the loss of rows that they were")]
    assert len(said) == 1
    words = "they fit their own rows and tell next to nothing of new ones; try without it: --roles row=leave-out"
    assert said[0].endswith(f"but out of fold by 0 ± 0: {words}")


def test_what_learns_from_embedded_rows_is_not_fooled(leak, leaky):
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss

    rows, split = read_rows(leak), split_of(leak)
    train, test, label = split == "train", split == "test", np.array(rows["label"].to_pylist())
    plain = Encoder.open(leaky).encode(read_contents(leak, 0, 500))
    found = {}
    for name, inputs in (("plain", plain), ("embedded", read_vectors(embed(leak, leaky))[1])):
        model = LogisticRegression(max_iter=2000).fit(inputs[train], label[train])
        found[name] = model.score(inputs[train], label[train]), log_loss(label[test], model.predict_proba(inputs[test]))
    assert found["plain"][0] > 0.97 and found["embedded"][0] < 0.85
    assert found["embedded"][1] < found["plain"][1] and found["embedded"][1] < np.log(2)


def test_a_head_learns_from_its_vectors(leak, leaky):
    head = train_head(embed(leak, leaky), TrainHead(training=Training(epochs=30, preflight=False)))
    accuracy = head.manifest.metrics["accuracy"]
    assert accuracy.value > 0.6 and accuracy.n == 100


def test_rows_are_searched_for_by_their_values(table, vectors):
    index = build_index(vectors, BuildIndex())
    row = read_contents(table, 4, 5).to_pylist()[0]  # a test row
    ((found, *_),) = search(index, [row], Search(k=2))
    assert found.id == read_rows(table)["id"].to_pylist()[4] and found.score == pytest.approx(1, abs=1e-5)


def test_what_is_frozen_for_training_is_what_is_embedded(table, loaded, vectors, tmp_path):
    places = np.array([7, 3, 0, 399, 24, 42])
    prepared = Prepared(table, loaded.feed, places, tmp_path)
    frozen = prepared.frozen(loaded, Known.of(read_rows(table)), places)
    assert np.array_equal(frozen, read_vectors(vectors)[1][places])


def test_it_is_fine_tuned_like_any_encoder(table, encoder):
    tuned = fine_tune(table, encoder, FineTune(recipe="lp-ft", training=Training(epochs=3, preflight=False)))
    assert tuned.manifest.metrics["accuracy"].value > 0.7
    again = embed(table, tuned)
    assert again.manifest.details["dimension"] == encoder.manifest.details["dimension"]


# The same bytes


def test_the_same_call_in_another_root_gives_the_same_bytes(table, encoder, tmp_path):
    shutil.copytree(table.path, tmp_path / "root" / table.path.relative_to(table.root))
    there = learn_categories(str(table), PLAIN, root=tmp_path / "root")
    assert there.path != encoder.path
    assert there.manifest.files == encoder.manifest.files
    assert (there.manifest.metrics, there.manifest.notes) == (encoder.manifest.metrics, encoder.manifest.notes)


# Other targets


def towns(path, labels, **settings):
    """240 rows whose town is that of the shop, with labels by the number of the shop."""
    rows = []
    for n in range(240):
        shop = n * 7 % 11
        row = {"shop": f"s{shop:02d}", "town": f"t{shop * 5 % 11:02d}", "noise": n * 37 % 101 / 7, "split": SPLITS[n % 5]}
        rows.append(row | ({} if labels is None else {"label": labels(shop, n)}))
    return table_of(path, rows, **settings)


@pytest.fixture(scope="module")
def counts(place):
    return towns(place / "counts.jsonl", lambda shop, n: shop * 3 + n % 2, label_type="number")


def test_counts_are_learned_by_the_logarithm_of_their_mean(counts):
    made = learn_categories(counts, WITHOUT.model_copy(update={"target": "count"}))
    assert made.manifest.details["target"] == "count"
    assert made.manifest.metrics["rmse"].value < 0.5 * made.manifest.metrics["guessing_rmse"].value
    assert not (made / "folds").exists() and "gap" not in made.manifest.metrics
    assert pq.read_table(made / "fitted.parquet").column_names == ["id", "content"]
    split = split_of(counts)
    plain, (_, found) = Encoder.open(made).encode(read_contents(counts, 0, 240)), read_vectors(embed(counts, made))
    assert np.array_equal(found, plain) and (split == "train").any()  # without folds there is one network


def test_numbers_are_learned_as_they_are(place):
    made = learn_categories(towns(place / "numbers.jsonl", lambda shop, n: shop / 3 - 2, label_type="number"), WITHOUT)
    assert made.manifest.details["target"] == "number"
    assert made.manifest.metrics["rmse"].value < 0.5 * made.manifest.metrics["guessing_rmse"].value


def test_several_labels_are_learned_too(place):
    def labels(shop, n):
        return "|".join(name for name, held in (("a", shop % 2), ("b", shop % 3), ("c", True)) if held)

    made = learn_categories(towns(place / "several.jsonl", labels, label_separator="|"), WITHOUT)
    assert made.manifest.details["target"] == "classes"
    assert made.manifest.metrics["micro_f1"].value > made.manifest.metrics["guessing_micro_f1"].value


def test_without_labels_hidden_values_are_restored_from_the_others(place):
    nothing = towns(place / "unlabelled.jsonl", None)
    made = learn_categories(nothing, WITHOUT.model_copy(update={"folds": 2, "training": FAST.model_copy(update={"epochs": 40})}))
    metrics = made.manifest.metrics
    assert made.manifest.details["target"] == "none"
    assert metrics["restoring_loss"].value < 0.6 * metrics["guessing_restoring_loss"].value
    assert made.manifest.verdict.startswith("restores hidden values better than guessing by their shares: loss ")
    assert not (made / "folds").exists()  # no label was seen, so that no fold is needed
    assert embed(nothing, made).manifest.details["out_of_fold"] == 0


# What is refused


def test_one_fold_is_refused(table):
    with pytest.raises(UserError, match="one fold leaves no other rows to learn from; give folds two at least, or 0 for none"):
        learn_categories(table, PLAIN.model_copy(update={"folds": 1}))
    with pytest.raises(ValidationError):
        LearnCategories(folds=21)


def test_a_table_without_embedded_columns_is_refused_with_all_reasons(place):
    rows = [{"x": n * n, "y": "ab"[n % 2], "label": "cd"[n % 2], "split": SPLITS[n % 5]} for n in range(30)]
    words = (
        r"no column of table/plain@.* has many values that recur, so there is nothing to learn vectors of: 'x' is number "
        r"\(numbers\), 'y' is one-hot \(2 different values\); name one with roles, such as --roles NAME=embedding, or take"
    )
    with pytest.raises(UserError, match=words):
        learn_categories(table_of(place / "plain.jsonl", rows), PLAIN.model_copy(update={"roles": ()}))


def test_counts_that_are_none_are_refused(table, place):
    count = WITHOUT.model_copy(update={"target": "count"})
    with pytest.raises(UserError, match="counts are numbers, but the labels of table/sales@.* are class; load it with label_type"):
        learn_categories(table, count)
    negative = towns(place / "negative.jsonl", lambda shop, n: shop - 2.5, label_type="number")
    with pytest.raises(UserError, match="a training label of table/negative@.* is -2.5, and counts are 0 or more; leave"):
        learn_categories(negative, count)
    with pytest.raises(UserError, match="table/unlabelled@.* has no labels that could be counts; load it with a label_column"):
        learn_categories(towns(place / "unlabelled.jsonl", None), count)


def test_too_few_rows_are_refused(place):
    rows = [{"shop": f"s{n % 2}", "split": "train"} for n in range(30)]
    few = table_of(place / "few.jsonl", rows, validation_share=0.0)
    words = "table/few@.* has 30 training and 0 validation rows; load it with some of both"
    with pytest.raises(UserError, match=words):
        learn_categories(few, WITHOUT.model_copy(update={"roles": ("shop=embedding",)}))
    rows = [{"shop": f"s{n % 2}", "x": n / 3, "label": "ab"[n % 2], "split": SPLITS[n % 5]} for n in range(20)]
    alike = table_of(place / "alike.jsonl", rows)
    with pytest.raises(UserError, match="12 training rows are too few for 20 folds; give fewer folds, or more rows"):
        learn_categories(alike, PLAIN.model_copy(update={"roles": ("shop=embedding",), "folds": 20}))


# What takes longer


@pytest.mark.slow
def test_a_comparison_takes_it_like_any_encoder(table, encoder):
    settings = Compare(arms=("raw", "random", "linear", "full"), budgets=(10,), seeds=1, rows_a_run=64)
    results = json.loads((compare(table, encoder, settings) / "results.json").read_text())
    found = {arm["name"]: arm["scores"]["all"]["value"] for arm in results["arms"] if not arm["skipped"]}
    assert set(found) == {"guess", "raw", "random", "linear", "full"}
    assert found["linear"] > 0.75 > 0.65 > found["guess"]
    # An arm gets the vectors that embed gives, and so does a head.
    head = train_head(embed(table, encoder), TrainHead(training=Training(epochs=200)))
    assert found["linear"] == pytest.approx(head.manifest.metrics["accuracy"].value, abs=0.1)


@pytest.mark.slow
def test_real_symbols_are_learned(place):
    symbols = load_table("builtin:symbols", LoadTable(label_column="documented", files=ReadFiles(limit=3000)), root=place)
    made = learn_categories(symbols, LearnCategories(folds=2, training=TableTraining(epochs=5)))
    assert made.manifest.metrics["accuracy"].value > made.manifest.metrics["guessing_accuracy"].value
    assert {one["name"] for one in made.manifest.details["columns"] if one["role"] == "embedding"} >= {"module", "prefix"}
    assert all(isinstance(column, Embedded) for column in columns_of(made).embedded)
