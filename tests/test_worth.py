"""compare_categories: whether entity embeddings pay, on real labels that a column of many values decides, and on a planted leak."""

import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.preprocessing import OrdinalEncoder

from embedkit import CompareCategories, LoadTable, UserError, compare_categories, load_table, worth
from embedkit.datasets import read_contents, read_rows
from embedkit.entities import Network, TableTraining
from embedkit.tasks import Task
from embedkit.worth import verdict

QUICK = {
    "seeds": 1,
    "folds": 2,
    "rounds": 20,
    "network": Network(hidden=(8,)),
    "training": TableTraining(batch_size=64, learning_rate=0.02, epochs=4, preflight=False),
}


def shops(path, rows=700):
    """Rows whose label hangs on their shop, with the day they came in and a number of their own each."""
    random = np.random.default_rng(0)
    shop, day = random.integers(0, 30, rows), np.arange(rows)
    effect = random.normal(size=30)
    label = np.where(2 * effect[shop] + random.normal(size=rows) > 0, "yes", "no")
    table = {"shop": [f"shop {n}" for n in shop], "day": day, "size": random.normal(size=rows), "label": label}
    table["ticket"] = [f"T-{n:05d}" for n in random.permutation(rows)]
    pq.write_table(pa.table(table), path)
    return path


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shops")
    return load_table(str(shops(folder / "shops.parquet")), LoadTable(), root=folder / "artifacts")


@pytest.fixture(scope="module")
def report(dataset):
    return compare_categories(dataset, CompareCategories(time_column="day", **QUICK))


@pytest.fixture(scope="module")
def found(report):
    return json.loads((report / "results.json").read_text())


def arm(found, split, name):
    return next(one for one in found["splits"][split]["arms"] if one["name"] == name)


def test_every_arm_is_measured_on_the_same_rows_of_a_shuffled_split_and_one_by_time(dataset, report, found):
    names = ["guess", "linear", "target_linear", "boosting", "target_boosting", "network", "embedded_linear", "embedded_boosting"]
    assert [split["name"] for split in found["splits"]] == ["shuffled", "by time"]
    rows = read_rows(dataset).to_pandas()
    days = dict(zip(rows["id"], read_contents(dataset, 0, len(rows))["day"].to_pylist(), strict=True))
    for split in found["splits"]:
        assert [one["name"] for one in split["arms"]] == names
        tables = [pq.read_table(report / f"predictions/{split['name'].replace(' ', '_')}-0-{name}.parquet") for name in names]
        assert all(table["id"] == tables[0]["id"] for table in tables)
        for name, table in zip(names, tables, strict=True):
            hits = np.array(table["label"].to_pylist()) == np.array(table["predicted"].to_pylist())
            assert arm(found, 0 if split["name"] == "shuffled" else 1, name)["value"] == pytest.approx(hits.mean())
        tested = {days[row] for row in tables[0]["id"].to_pylist()}
        if split["name"] == "by time":
            assert min(tested) > max(set(days.values()) - tested)
        else:
            assert set(tables[0]["id"].to_pylist()) == set(rows["id"][rows["split"] == "test"])


def test_gradient_boosting_is_scikit_learns_called_by_hand(dataset, report, found):
    rows = read_rows(dataset).to_pandas()
    table = read_contents(dataset, 0, len(rows)).to_pandas()
    said = pq.read_table(report / "predictions/shuffled-0-boosting.parquet").to_pandas()
    test = rows["id"].isin(said["id"]).to_numpy()
    words = table[["shop"]].to_numpy(object)
    gaps = {"unknown_value": np.nan, "encoded_missing_value": np.nan}
    coder = OrdinalEncoder(handle_unknown="use_encoded_value", max_categories=255, **gaps)
    inputs = np.concatenate([table[["day", "size"]].to_numpy(float), coder.fit(words[~test]).transform(words)], axis=1)
    model = HistGradientBoostingClassifier(max_iter=20, early_stopping=True, random_state=0, categorical_features=[2])
    model.fit(inputs[~test], rows["label"][~test])
    assert model.predict(inputs[test]).tolist() == said["predicted"].tolist()
    assert arm(found, 0, "boosting")["value"] == (model.predict(inputs[test]) == rows["label"][test]).mean()


def test_what_pays_beats_the_best_of_what_does_without(found, report):
    for split in found["splits"]:
        gain = arm(found, found["splits"].index(split), split["best"])["value"]
        gain -= arm(found, found["splits"].index(split), split["best_control"])["value"]
        assert split["gain"]["value"] == pytest.approx(gain)
        assert split["best"].startswith(("network", "embedded")) and not split["best_control"].startswith(("network", "embedded"))
    assert report.manifest.verdict == found["verdict"]
    assert {"report.html", "report.md", "shuffled.png", "by_time.png"} <= {path.name for path in report.path.iterdir()}


def test_vectors_that_tell_of_new_rows_save_loss_out_of_fold(found):
    shop = next(one for one in found["columns"] if one["name"] == "shop")
    assert shop["role"] == "embedding" and shop["out_of_fold"]["value"] > 2 * shop["out_of_fold"]["error"]


def test_a_name_of_each_row_is_left_out_and_said(report):
    words = "'ticket' is left out: an identifier: nearly every row has a value of its own, which says nothing of other rows"
    assert words in report.manifest.notes


def test_a_planted_name_of_each_row_shows_no_gain_out_of_fold_and_the_report_says_so(dataset):
    given = QUICK | {"roles": ("ticket=embedding:4", "shop=leave-out", "day=leave-out"), "least_count": 1}
    report = compare_categories(dataset, CompareCategories(**given))
    ticket = next(one for one in report.manifest.details["columns"] if one["name"] == "ticket")
    assert ticket["kept"] > 400 and ticket["out_of_fold"] == {"value": 0, "error": 0}  # all of them are unknown there
    said = re.compile("'ticket' (brings no gain out of fold|.* but out of fold by 0 ± 0)")
    assert any(said.search(note) for note in report.manifest.notes)
    assert report.manifest.verdict.startswith("Do not use entity embeddings here.")
    assert "ticket" in (report / "report.md").read_text().partition("## Notes")[2]


def one_split(name, pays, harms=False):
    arms = [
        {"name": "network", "title": "entity embeddings, network", "value": 0.9},
        {"name": "boosting", "title": "gradient boosting", "value": 0.8},
    ]
    gain = {"value": -0.1 if harms else 0.1, "error": 0.01}
    return {"name": name, "arms": arms, "best": "network", "best_control": "boosting", "gain": gain, "pays": pays, "harms": harms}


def test_a_verdict_says_which_test_rows_equal_training_rows():
    task, some = Task("class", ["no", "yes"], np.array([0, 1])), {"copies": 20, "of": 50}
    said = verdict([one_split("shuffled", True) | some], task)
    assert said.startswith("Use entity embeddings here. On the shuffled split the best with them, ") and said.endswith(
        " That is on the 30 test rows that are no copies of training rows; 20 more are copies, and left out."
    )
    assert verdict([one_split("shuffled", False) | {"copies": 50, "of": 50}], task) == (
        "Nothing can be said of entity embeddings here. On the shuffled split nothing can be said: every test row is also a "
        "training row."
    )


def test_a_verdict_says_where_they_pay():
    task = Task("class", ["no", "yes"], np.array([0, 1]))
    assert verdict([one_split("shuffled", True)], task) == (
        "Use entity embeddings here. On the shuffled split the best with them, entity embeddings, network, has accuracy 90.0 %, "
        "10.0 ± 1.0 points better than the best without, gradient boosting (80.0 %)."
    )
    assert verdict([one_split("shuffled", True), one_split("by time", False)], task).startswith(
        "Entity embeddings pay on the shuffled split only."
    )
    never = verdict([one_split("shuffled", False), one_split("by time", False, harms=True)], task)
    assert never.startswith("Do not use entity embeddings here.")
    assert "no better than (apart by 10.0 ± 1.0 points) the best without" in never
    assert "10.0 ± 1.0 points worse than the best without" in never


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"target": "none"}, "target none predicts nothing that could be compared; leave it out"),
        ({"time_column": "dya"}, "time column 'dya' is not known; did you mean 'day'?"),
        ({"time_column": "shop"}, "column 'shop' holds string and 0 gaps; a split by time needs a number or a moment in every row"),
        ({"roles": ("shop=one-hot",)}, "no column of table/shops@.* has many values that recur, so there is nothing to learn"),
    ],
)
def test_what_can_not_be_compared_is_refused(dataset, settings, words):
    with pytest.raises(UserError, match=words):
        compare_categories(dataset, CompareCategories(**(QUICK | settings)))


def test_a_table_without_labels_is_refused(tmp_path):
    table = pq.read_table(shops(tmp_path / "bare.parquet", 60)).drop_columns("label")
    pq.write_table(table, tmp_path / "bare.parquet")
    bare = load_table(str(tmp_path / "bare.parquet"), LoadTable(), root=tmp_path / "artifacts")
    with pytest.raises(UserError, match="table/bare@.* has no labels; load it again with a label_column, then compare on that"):
        compare_categories(bare)


def test_the_datasets_own_split_is_called_by_how_it_was_made(tmp_path):
    source, root = str(shops(tmp_path / "shops.parquet", 90)), tmp_path / "artifacts"
    seen = []
    for given in (LoadTable(split="time", time_column="day"), LoadTable(split="group", group_column="shop")):
        rows = load_table(source, given, root=root)
        bench = worth._Bench(rows, read_rows(rows), CompareCategories())
        seen.append(list(bench.splits))
    assert seen == [["shuffled", "by time"], ["by group"]]
    by_time = load_table(source, LoadTable(split="time", time_column="day"), root=root)
    with pytest.raises(UserError, match="table/shops@.* is split by time already; leave time_column day out, which would"):
        compare_categories(by_time, CompareCategories(time_column="day"))
