"""Whether entity embeddings pay on a table, a report from one command: `python tests/benchmarks/categories.py adult`.

Sets: adult, movielens (user and film are categories, the rating is the target), bike_sharing (split by time), ames, and symbols,
which is on every machine; the others are in ../shared. `--by-hand` calls scikit-learn's gradient boosting on the same rows, written
out here without embedkit, and prints both. `python tests/benchmarks/categories.py large` measures time and memory of
`learn_categories` and `embed` with 1,000,000 rows and a column of 100,000 values.
"""

import argparse
import csv
import os
import resource
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

SHARED = Path(__file__).resolve().parents[3] / "shared"
DATA = SHARED / "data"
ADULT = (
    *("age", "workclass", "fnlwgt", "education", "education_num", "marital_status", "occupation", "relationship", "race", "sex"),
    *("capital_gain", "capital_loss", "hours_per_week", "native_country", "income"),
)


def adult(folder: Path):
    """Income above 50,000 from a census; the weight of a row in the sample is no property of a person."""
    path = folder / "adult.csv"
    lines = [line for line in (DATA / "adult/adult-train.csv").read_text().splitlines() if line.strip()]
    first = [] if lines[0].startswith("age") else [",".join(ADULT)]
    path.write_text("\n".join([*first, *(line.replace(", ", ",") for line in lines)]) + "\n")
    with path.open() as file:
        label = next(csv.reader(file))[-1]
    return path, {"label_column": label}, {}


def movielens(folder: Path):
    """Ratings of films by users, beside what is known of both; split by the time of the rating too."""
    films, users = {}, {}
    with (DATA / "movielens100k/u.item").open(encoding="latin-1") as file:
        films = {line.split("|")[0]: line.split("|")[1] for line in file}
    with (DATA / "movielens100k/u.user").open() as file:
        users = {line.split("|")[0]: line.strip().split("|")[1:4] for line in file}
    path = folder / "movielens.csv"
    with path.open("w") as file, (DATA / "movielens100k/u.data").open() as ratings:
        writer = csv.writer(file)
        writer.writerow(["user", "film", "age", "sex", "occupation", "time", "rating"])
        for line in ratings:
            user, film, rating, moment = line.split()
            writer.writerow([f"u{user}", films[film], *users[user], moment, rating])
    return path, {"label_column": "rating", "label_type": "number"}, {"time_column": "time"}


def bike_sharing(folder: Path):
    """Bicycles lent in an hour; what registered and casual riders took adds up to the target, and is left out."""
    options = {"label_column": "cnt", "label_type": "number", "split": "time", "time_column": "instant"}
    roles = ("instant=leave-out", "casual=leave-out", "registered=leave-out", "dteday=leave-out", "hr=embedding:10")
    roles += ("weekday=embedding:4", "mnth=embedding:6", "season=embedding:2", "weathersit=embedding:2")
    return DATA / "bike_sharing/hour.csv", options, {"roles": roles, "target": "count"}


def ames(folder: Path):
    """Prices of houses; the number of a row and of a parcel name the house."""
    roles = ("Order=leave-out", "PID=leave-out", "MS SubClass=embedding", "Neighborhood=embedding", "Exterior*=embedding")
    return DATA / "ames/AmesHousing.csv", {"label_column": "SalePrice", "label_type": "number"}, {"roles": roles}


def symbols(folder: Path):
    """Whether a public function or class of the installed libraries is documented."""
    return "builtin:symbols", {"label_column": "documented"}, {}


SETS = {"adult": adult, "movielens": movielens, "bike_sharing": bike_sharing, "ames": ames, "symbols": symbols}


def by_hand(report, dataset, name: str) -> None:
    """Gradient boosting of scikit-learn on the rows, columns and seeds of a report, called as anyone would."""
    import json

    import pandas as pd
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    from sklearn.preprocessing import OrdinalEncoder

    from embedkit.datasets import read_contents, read_rows

    found = json.loads((report / "results.json").read_text())
    rows = read_rows(dataset).to_pandas()
    table = read_contents(dataset, 0, len(rows)).to_pandas()
    roles = {one["name"]: one["role"] for one in found["columns"]}
    words = [column for column in table if roles[column] in ("embedding", "one-hot")]
    numbers = [column for column in table if roles[column] == "number"]
    label = rows["label"]
    for split in found["splits"]:
        scores = []
        for seed in range(found["seeds"]):
            said = pq.read_table(report / f"predictions/{split['name'].replace(' ', '_')}-{seed}-boosting.parquet")
            test = rows["id"].isin(said["id"].to_pylist()).to_numpy()
            coder = OrdinalEncoder(
                handle_unknown="use_encoded_value", unknown_value=np.nan, encoded_missing_value=np.nan, max_categories=255
            )
            as_words = table[words].apply(lambda column: column.map(lambda v: None if pd.isna(v) else str(v), na_action=None))
            as_words = as_words.map(lambda v: v.removesuffix(".0") if isinstance(v, str) and v.endswith(".0") else v).astype(object)
            as_words = as_words.where(as_words.notna(), None).to_numpy()
            codes = coder.fit(as_words[~test]).transform(as_words)
            inputs = np.concatenate([table[numbers].to_numpy(float), codes], axis=1)
            more = {"max_iter": 300, "early_stopping": True, "random_state": seed}
            more |= {"categorical_features": np.arange(inputs.shape[1]) >= len(numbers)}
            if found["measure"] == "rmse":
                loss = "poisson" if found["settings"]["target"] == "count" else "squared_error"
                model = HistGradientBoostingRegressor(loss=loss, **more).fit(inputs[~test], label[~test])
                scores.append(float(np.sqrt(np.mean((model.predict(inputs[test]) - label[test]) ** 2))))
            else:
                model = HistGradientBoostingClassifier(**more).fit(inputs[~test], label[~test])
                scores.append(float((model.predict(inputs[test]) == label[test]).mean()))
        ours = next(arm for arm in split["arms"] if arm["name"] == "boosting")
        print(f"  by hand, {split['name']}: {np.mean(scores):.6f}, in the report {ours['value']:.6f}")
        print(f"    each seed: {scores} / {ours['each']}")


def large(rows: int = 1_000_000, values: int = 100_000) -> None:
    """Time and peak memory of learning from, and embedding, a table with a column of many values."""
    from embedkit import LearnCategories, LoadTable, embed, learn_categories, load_table
    from embedkit.entities import TableTraining

    random = np.random.default_rng(0)
    item = np.concatenate([np.arange(values), random.zipf(1.2, rows - values) % values])
    effect, number = random.normal(size=values), random.normal(size=rows)
    label = np.where(effect[item] + 0.5 * number + random.normal(size=rows) > 0, "yes", "no")
    path = Path(os.environ["EMBEDKIT_ARTIFACTS"]) / "large.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"item": [f"item {n}" for n in item], "number": number, "label": label}), path)

    def peak() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

    start = time.monotonic()
    dataset = load_table(str(path), LoadTable())
    print(f"load_table: {time.monotonic() - start:.0f} s, peak {peak():.2f} GiB", flush=True)
    start = time.monotonic()
    training = TableTraining(batch_size=8192, epochs=3, preflight=False)
    encoder = learn_categories(dataset, LearnCategories(training=training, folds=2))
    print(f"learn_categories: {time.monotonic() - start:.0f} s, peak {peak():.2f} GiB; {encoder.manifest.verdict}", flush=True)
    start = time.monotonic()
    embed(dataset, encoder)
    print(f"embed: {time.monotonic() - start:.0f} s, peak {peak():.2f} GiB")


def main() -> None:
    """Load, compare, and print the verdict."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=[*SETS, "large"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--by-hand", action="store_true", help="call gradient boosting by hand as well")
    given = parser.parse_args()
    os.environ.setdefault("EMBEDKIT_ARTIFACTS", "/tmp/embedkit-categories")
    if given.name == "large":
        large()
        return
    folder = Path(os.environ["EMBEDKIT_ARTIFACTS"]) / "sources"
    folder.mkdir(parents=True, exist_ok=True)
    from embedkit import CompareCategories, LoadTable, compare_categories, load_table

    start = time.monotonic()
    source, options, wanted = SETS[given.name](folder)
    dataset = load_table(str(source), LoadTable(**options), name=given.name)
    report = compare_categories(dataset, CompareCategories(seeds=given.seeds, **wanted))
    print(f"{given.name}: {report.manifest.verdict}")
    for name, metric in report.manifest.metrics.items():
        print(f"  {name} {metric}")
    for note in report.manifest.notes:
        print(f"  - {note}")
    print(f"  {report / 'report.html'}\n  {time.monotonic() - start:.0f} s")
    if given.by_hand:
        by_hand(report, dataset, given.name)


if __name__ == "__main__":
    main()
