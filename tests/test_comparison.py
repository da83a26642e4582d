"""compare: every way of using an encoder on the same rows, splits and seeds, and numbers that the written predictions bear out."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import WORDS

from embedkit import (
    Compare,
    FineTune,
    LoadTexts,
    TrainHead,
    Training,
    UserError,
    compare,
    embed,
    import_encoder,
    load_images,
    load_texts,
    train_head,
)
from embedkit.comparison import _lessons
from embedkit.datasets import read_rows
from embedkit.lessons import Lesson
from embedkit.tasks import Task

ARMS = ["guess", "raw", "knn", "linear", "full", "lp_ft"]
SHORT = Compare(
    arms=("lp_ft", "full", "linear", "knn", "raw"),
    seeds=2,
    budgets=(5,),
    rows_a_run=64,
    head=TrainHead(training=Training(epochs=10)),
    fine_tune=FineTune(training=Training(batch_size=32)),
)
LEAST = SHORT.model_copy(update={"arms": ("guess", "knn"), "seeds": 1, "budgets": ()})


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("comparison")


@pytest.fixture(scope="module")
def texts(place):
    """130 texts; a word says the label in four of five."""
    random = np.random.default_rng(0)
    lines = ["text,label"]
    for number in range(130):
        good = number % 2 == 0
        word = ("good" if good else "bad") if random.random() < 0.8 else "film"
        lines.append(f"{' '.join(random.choice(WORDS, 4))} {word} film{number},{'pos' if good else 'neg'}")
    (place / "films.csv").write_text("\n".join(lines) + "\n")
    return load_texts(place / "films.csv", root=place / "artifacts")


@pytest.fixture(scope="module")
def encoder(place, tiny_bert):
    return import_encoder(tiny_bert, root=place / "artifacts")


@pytest.fixture(scope="module")
def report(texts, encoder):
    """Six arms, with five labels a class and with all, at two seeds."""
    return compare(texts, encoder, SHORT)


@pytest.fixture(scope="module")
def found(report):
    return json.loads((report / "results.json").read_text())


def predictions(report, arm, budget="all", seed=0):
    return pq.read_table(report / f"predictions/{arm}-{budget}-{seed}.parquet").to_pydict()


def hits(report, arm, budget="all"):
    """(seeds, rows) bool: which test rows were right."""
    each = [predictions(report, arm, budget, seed) for seed in range(2)]
    return np.array([np.array(one["label"]) == np.array(one["predicted"]) for one in each])


def test_one_call_measures_every_arm_at_every_budget_and_seed(report, found):
    assert [arm["name"] for arm in found["arms"]] == ARMS  # guessing is always among them
    assert [arm["skipped"] for arm in found["arms"]] == [None] * 6
    for arm in found["arms"]:
        # of the arms that take minutes only LP-FT has a curve
        assert list(arm["scores"]) == (["all"] if arm["name"] == "full" else ["5", "all"]), arm["name"]
        assert [len(score["each"]) for score in arm["scores"].values()] == [2] * len(arm["scores"])
    written = {f"{arm}-{budget}-{seed}.parquet" for arm in ARMS for budget in ("5", "all") for seed in (0, 1)}
    written -= {"full-5-0.parquet", "full-5-1.parquet"}
    assert {path.name for path in (report / "predictions").iterdir()} == written


def test_the_report_is_there_for_people_and_for_programs(report, found):
    files = {file.path for file in report.manifest.files}
    assert {"report.html", "report.md", "results.json", "curve.png", "cost.png", "confusion.png"} <= files
    assert (report.manifest.name, report.manifest.rows) == ("films-tiny-bert", found["rows"]["test"])
    assert report.manifest.verdict == found["verdict"]
    first = found["verdict"].split(":")[0]
    assert all(first in (report / name).read_text() for name in ("report.html", "report.md"))
    assert {name: report.manifest.details[name] for name in ("recommended", "best", "command")} == {
        name: found[name] for name in ("recommended", "best", "command")
    }


def test_scores_are_those_of_the_predictions_that_are_written(report, found):
    from sklearn.metrics import accuracy_score

    for arm in found["arms"]:
        for budget, score in arm["scores"].items():
            each = [predictions(report, arm["name"], budget, seed) for seed in (0, 1)]
            expected = [accuracy_score(one["label"], one["predicted"]) for one in each]
            assert score["each"] == pytest.approx(expected, abs=1e-12), (arm["name"], budget)
            assert score["value"] == pytest.approx(np.mean(expected))
            assert score["seeds_error"] == pytest.approx(np.std(expected, ddof=1) / np.sqrt(2))
    assert len({tuple(arm["scores"]["all"]["each"]) for arm in found["arms"]}) >= 4  # they do differ


def test_the_error_over_rows_is_the_one_of_textbooks(report, found):
    for arm in found["arms"]:
        by_row = hits(report, arm["name"]).mean(axis=0)
        expected = by_row.std(ddof=1) / np.sqrt(len(by_row))
        assert arm["scores"]["all"]["rows_error"] == pytest.approx(expected, rel=0.2), arm["name"]


def test_differences_to_the_best_are_paired_by_row_and_by_seed(report, found):
    best = hits(report, found["best"]).astype(float)
    for arm in found["arms"]:
        gain = hits(report, arm["name"]) - best
        seeds, rows = gain.mean(axis=1), gain.mean(axis=0)
        error = np.hypot(seeds.std(ddof=1) / np.sqrt(2), rows.std(ddof=1) / np.sqrt(len(rows)))
        assert arm["difference"]["value"] == pytest.approx(gain.mean())
        assert arm["difference"]["error"] == pytest.approx(error, rel=0.2), arm["name"]


def test_the_manifest_has_each_arms_score_with_its_errors(report, found):
    assert list(report.manifest.metrics) == [f"{arm}_accuracy" for arm in ARMS]
    for arm in found["arms"]:
        metric, score = report.manifest.metrics[f"{arm['name']}_accuracy"], arm["scores"]["all"]
        assert (metric.value, metric.n, metric.seeds) == (pytest.approx(score["value"]), found["rows"]["test"], 2)
        assert metric.standard_error == pytest.approx(score["rows_error"])
        assert metric.spread == pytest.approx(np.std(score["each"], ddof=1))
        assert report.manifest.timings[f"{arm['name']}_seconds_to_train"] == pytest.approx(arm["seconds_to_train"], abs=1e-3)


def test_the_log_loss_and_the_confusions_are_those_of_the_first_seed(report, found):
    from sklearn.metrics import confusion_matrix, log_loss

    one = predictions(report, "linear")
    said = np.array(one["probabilities"], float)
    expected = log_loss(one["label"], said / said.sum(axis=1, keepdims=True), labels=["neg", "pos"])
    linear = next(arm for arm in found["arms"] if arm["name"] == "linear")
    assert linear["others"]["log_loss"] == pytest.approx(expected, rel=1e-3)
    one, shown = predictions(report, found["confusion"]["arm"]), found["confusion"]
    assert shown["counts"] == confusion_matrix(one["label"], one["predicted"], labels=shown["classes"]).tolist()
    wrong = [row for row, (label, said) in enumerate(zip(one["label"], one["predicted"], strict=True)) if label != said]
    sure = sorted((max(one["probabilities"][row]) for row in wrong), reverse=True)[:12]
    assert [row["probability"] for row in found["mistakes"]] == pytest.approx(sure)
    ids = {str(one["id"][row]) for row in wrong}
    assert found["mistakes"] and {row["id"] for row in found["mistakes"]} <= ids


def test_all_arms_are_measured_on_the_datasets_own_test_rows(report, texts):
    rows = read_rows(texts).to_pylist()
    expected = [(row["id"], row["label"]) for row in rows if row["split"] == "test"]
    for path in sorted((report / "predictions").iterdir()):
        one = pq.read_table(path).to_pydict()
        assert list(zip(one["id"], one["label"], strict=True)) == expected, path.name


def test_budgets_say_how_many_labels_they_are(found):
    labels = {(budget, score["labels"]) for arm in found["arms"] for budget, score in arm["scores"].items()}
    assert labels == {("5", 10), ("all", found["rows"]["train"] + found["rows"]["validation"])}
    assert found["budget_unit"] == "labels per class"


def test_the_same_call_gives_the_same_artifact(report, texts, encoder):
    assert compare(texts, encoder, SHORT).path == report.path


def test_rows_a_run_make_the_plan_a_plain_function_of_the_settings(report):
    # full fine-tuning with all labels, LP-FT at both budgets, at two seeds
    assert report.manifest.decisions["plan"] == {"rows_a_run": 64, "runs": 6}


@pytest.mark.slow
def test_without_rows_a_run_the_minutes_decide_and_five_batches_are_the_least(texts, encoder):
    settings = LEAST.model_copy(update={"arms": ("full",), "rows_a_run": None, "minutes": 0.001})
    done = compare(texts, encoder, settings)
    plan = done.manifest.decisions["plan"]
    assert (plan["rows_a_run"], plan["runs"]) == (5 * 32, 1)
    assert plan["seconds_a_row"] > 0 and plan["wanted"] > 160
    full = json.loads((done / "results.json").read_text())["arms"][1]
    assert 32 <= full["rows_seen"] <= 160


# Which rows train and stop ------------------------------------------------------------------------------------------


def drawn(settings=Compare(), rows=400, shares=(0.7, 0.3), kind="class", validation=0.1):
    """Lessons on rows of which a fifth are for testing."""
    random = np.random.default_rng(0)
    order = random.permutation(rows)
    test, held, train = np.split(order, [rows // 5, rows // 5 + int(validation * rows)])
    targets = random.choice(len(shares), rows, p=shares).astype(np.int32)
    task = Task("class", [f"class {n}" for n in range(len(shares))], targets)
    if kind == "number":
        task = Task("number", [], random.normal(size=(rows, 1)), numbers=np.zeros(rows))
    whole = Lesson(TrainHead(), task, np.arange(rows), np.empty((rows, 0)), np.sort(train), np.sort(held), np.sort(test), [])
    return whole, _lessons(whole, random.integers(0, 2**62, rows), settings)


def used(lesson):
    return set(lesson.train) | set(lesson.validation)


def test_a_smaller_budget_is_a_part_of_a_larger_one():
    _, lessons = drawn(Compare(budgets=(30, 10, 60)))
    for seed in range(3):
        few, more, most, all_ = (used(lessons[budget, seed]) for budget in ("10", "30", "60", "all"))
        assert few < more < most < all_


def test_test_rows_stay_and_never_train_or_stop():
    whole, lessons = drawn()
    assert len(lessons) == 3 * 4  # 10, 30, all and 100: more than four fifths of the labels are left out
    for lesson in lessons.values():
        assert np.array_equal(lesson.test, whole.test)
        assert not used(lesson) & set(whole.test)
        assert not set(lesson.train) & set(lesson.validation)


def test_a_budget_counts_the_rows_that_stop_and_is_the_same_for_each_class():
    whole, lessons = drawn(Compare(budgets=(10, 30)))
    for budget in (10, 30):
        lesson = lessons[str(budget), 0]
        targets = whole.task.targets
        assert np.bincount(targets[np.r_[lesson.train, lesson.validation]]).tolist() == [budget, budget]
        assert np.bincount(targets[lesson.validation]).tolist() == [round(budget / 8)] * 2  # 40 of all 320 labels stop


def test_a_class_of_few_rows_gives_what_it_has():
    whole, lessons = drawn(Compare(budgets=(30,)), shares=(0.97, 0.03))
    rows = whole.task.targets[list(used(lessons["30", 0]))]
    there = int((whole.task.targets[np.r_[whole.train, whole.validation]] == 1).sum())
    assert there < 30 and np.bincount(rows).tolist() == [30, there]


def test_with_all_labels_classes_have_the_same_share_among_rows_that_train_and_that_stop():
    whole, lessons = drawn()
    lesson = lessons["all", 0]
    assert used(lesson) == set(whole.train) | set(whole.validation)
    shares = [np.bincount(whole.task.targets[part]) / len(part) for part in (lesson.train, lesson.validation)]
    assert shares[0] == pytest.approx(shares[1], abs=0.02)
    assert len(lesson.validation) / len(used(lesson)) == pytest.approx(40 / 320, abs=0.01)  # as the dataset's own


@pytest.mark.parametrize(("given", "share"), [(0.0, 0.1), (0.02, 0.1), (0.5, 0.3)])
def test_the_share_that_stops_stays_within_bounds(given, share):
    _, lessons = drawn(validation=given)
    lesson = lessons["all", 0]
    assert len(lesson.validation) / len(used(lesson)) == pytest.approx(share, abs=0.01)


def test_another_seed_draws_other_rows():
    _, lessons = drawn(Compare(budgets=(10,), seeds=2))
    assert set(lessons["all", 0].validation) != set(lessons["all", 1].validation)
    assert used(lessons["10", 0]) != used(lessons["10", 1])
    _, later = drawn(Compare(budgets=(10,), seeds=1, seed=1))
    assert np.array_equal(later["10", 1].train, lessons["10", 1].train)


def test_budgets_over_four_fifths_of_the_labels_are_left_out():
    _, lessons = drawn(Compare(budgets=(127, 129), seeds=1), shares=(0.5, 0.5))  # of 320 labels; 4/5 are 256
    assert [budget for budget, _ in lessons] == ["127", "all"]


def test_numbers_take_ten_times_a_budget():
    _, lessons = drawn(Compare(budgets=(10,), seeds=1), kind="number")
    lesson = lessons["10", 0]
    assert (len(lesson.train), len(lesson.validation)) == (88, 12)  # 40 of 320 labels stop


def test_a_budget_of_one_label_is_refused_since_none_would_be_left_to_stop_by():
    with pytest.raises(ValueError, match="budgets"):
        Compare(budgets=(1,))


# Refusals -----------------------------------------------------------------------------------------------------------


def test_rows_without_labels_are_refused(place, encoder):
    (place / "bare.csv").write_text("text\n" + "\n".join(f"the cat {number}" for number in range(30)) + "\n")
    bare = load_texts(place / "bare.csv", root=place / "artifacts")
    with pytest.raises(UserError, match=r"texts/bare@\S+ has no labels; .*compare on that"):
        compare(bare, encoder, LEAST)


def test_an_encoder_of_another_modality_is_refused(place, encoder, photos):
    pictures = load_images(photos, root=place / "artifacts")
    words = r"encoder/tiny-bert@\S+ takes texts, but images/photos@\S+ holds images; give it an encoder for images"
    with pytest.raises(UserError, match=words):
        compare(pictures, encoder, LEAST)


def test_a_classifier_on_frozen_vectors_is_no_encoder(texts, encoder):
    head = train_head(embed(texts, encoder), TrainHead(training=Training(epochs=2, preflight=False)))
    words = r"classifier/films-tiny-bert@\S+ holds no encoder: it was trained on vectors of encoder/tiny-bert@\S+; give that one"
    with pytest.raises(UserError, match=words):
        compare(texts, head, LEAST)


def test_test_rows_without_labels_are_refused(place, encoder):
    lines = [f"the cat {number},{number % 2 if number % 3 else ''},{'train' if number % 3 else 'test'}" for number in range(30)]
    (place / "trained.csv").write_text("text,label,split\n" + "\n".join(lines) + "\n")
    rows = load_texts(place / "trained.csv", LoadTexts(split_column="split"), root=place / "artifacts")
    with pytest.raises(UserError, match=r"texts/trained@\S+ has no labelled test rows; label some, or load it again with another"):
        compare(rows, encoder, LEAST)
