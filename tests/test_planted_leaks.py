"""Planted leaks: each is refused, or counted in the verdict behind the score without it, whatever stage meets it.

Tables on their own columns stand in where nothing has to do with the kind of rows, since their networks are traced in no time.
"""

import io
import json
import re
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import WORDS, reseal
from PIL import Image

from embedkit import (
    Artifact,
    Compare,
    Distil,
    Embed,
    Encoder,
    Export,
    FineTune,
    LearnCategories,
    LoadImages,
    LoadTable,
    LoadTexts,
    MakeControl,
    TrainHead,
    Training,
    UserError,
    compare,
    cut_encoder,
    distil,
    embed,
    export,
    fine_tune,
    import_encoder,
    learn_categories,
    load_images,
    load_table,
    load_texts,
    make_control,
    train_head,
)
from embedkit.crossfit import file_of
from embedkit.datasets import read_rows
from embedkit.entities import TableTraining
from embedkit.layers import CutEncoder
from embedkit.leaks import with_lineage

HEAD = TrainHead(training=Training(epochs=5, preflight=False))
TUNE = FineTune(training=Training(epochs=1, preflight=False))
COMPARE = Compare(seeds=1, budgets=(), arms=("raw", "knn"), head=HEAD)
LEARN = LearnCategories(folds=2, training=TableTraining(epochs=2, preflight=False))
STATIC = Distil(student="static", steps=2, twin=False, training=Training(batch_size=16, preflight=False))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("planted")


def loaded(place, name, load, rows, **settings):
    """Rows of a Parquet file as a dataset; where each came from stands in `split`."""
    pq.write_table(pa.Table.from_pylist(rows), place / f"{name}.parquet")
    kind = {load_texts: LoadTexts, load_images: LoadImages, load_table: LoadTable}[load]
    given = {"split_column": "split", "label_column": "label", "duplicates": "keep"} | settings
    return load(place / f"{name}.parquet", kind(**given), root=place / "root")


def leaking(rows, change, test=40, leaks=15):
    """Rows of which the last are test rows, and some of these training rows again, changed."""
    train = rows[:-test]
    held = [row | {"split": "validation"} for row in train[-20:]]
    own = [row | {"split": "test"} for row in rows[-test:]]
    copies = [change(row, number) | {"split": "test"} for number, row in enumerate(train[:leaks])]
    return [row | {"split": "train"} for row in train[:-20]] + held + own + copies


def said_of(artifact, exact=0, near=0, clean=40):
    """See that a verdict leads with rows that are no copies, and counts the others."""
    verdict, count = artifact.manifest.verdict, exact + near
    assert f"the {clean} test rows that are no copies of training rows" in verdict
    of = f" ({near} of them near copies)" if near else ""
    assert f"the {count} copies{of} too" in verdict or f"{count} more are copies{of}, and left out" in verdict
    return verdict


# Tables -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def numbers():
    """180 rows of numbers with a shop each, whose label is drawn."""
    random = np.random.default_rng(0)
    return [
        dict(zip("abc", map(float, row), strict=True))
        | {"shop": f"shop {random.integers(12)}", "label": str(random.choice(["up", "down"]))}
        for row in random.normal(size=(180, 3))
    ]


def noisy(row, number):
    random = np.random.default_rng(number)
    return row | {name: row[name] + 1e-6 * float(random.normal()) for name in "abc"}


def head_of(dataset, place, settings=HEAD):
    vectors = embed(dataset, make_control(dataset, root=place / "root"), root=place / "root")
    return train_head(vectors, settings, root=place / "root")


def test_equal_rows_that_were_kept_and_that_an_encoder_learned_from_are_refused_by_train_head(place, numbers):
    dataset = loaded(place, "equal", load_table, leaking(numbers, lambda row, _: row))
    with pytest.raises(UserError, match="15 of the 55 rows to measure on were learned from by encoder/equal-control@"):
        head_of(dataset, place)


@pytest.fixture(scope="module")
def noise(place, numbers):
    return loaded(place, "noise", load_table, leaking(numbers, noisy))


def test_rows_with_a_millionth_of_noise_are_counted_at_load_and_by_train_head(place, noise):
    words = "30 rows have a near copy in another split; left as they are; what is said of test rows leaves them out"
    assert any(words in note for note in noise.manifest.notes)
    assert noise.manifest.details["near_copies"] == 15 and noise.manifest.details["near_copies_across_splits"] == 30
    head = head_of(noise, place)
    verdict = said_of(head, near=15)
    clean, every = (head.manifest.metrics[f"accuracy{end}"] for end in ("_without_copies", ""))
    assert (clean.n, every.n) == (40, 55) and verdict.index(str(clean)) < verdict.index(f"accuracy {every}")
    assert head.manifest.details["near_copies"] == 15


def test_compare_leads_with_rows_that_are_no_near_copies(place, noise):
    report = compare(noise, make_control(noise, root=place / "root"), COMPARE, root=place / "root")
    said_of(report, near=15)
    found = json.loads((report / "results.json").read_text())
    assert found["duplicates"] == {"exact": 0, "near": 15, "alike": None, "bound": 0.95, "test": 55}


def test_distinct_rows_that_point_the_same_way_are_no_copies(place):
    random = np.random.default_rng(0)  # by the cosine of their columns nearly all of these would be
    pairs = random.normal(size=(200, 2)) + [1000.5, 2000.25]
    rows = [{"a": float(a), "b": float(b), "label": str(random.choice(["x", "y"]))} for a, b in pairs]
    dataset = loaded(place, "pointing", load_table, leaking(rows, lambda row, _: row, leaks=0))
    report = compare(dataset, make_control(dataset, root=place / "root"), COMPARE, root=place / "root")
    assert "copies" not in report.manifest.verdict and "near_copies" not in dataset.manifest.details


@pytest.fixture(scope="module")
def learned(place, noise):
    return learn_categories(noise, LEARN, root=place / "root")


def test_learn_categories_counts_near_copies(learned):
    said_of(learned, near=15)


def test_near_copies_can_be_moved_to_one_side(place, numbers):
    dataset = loaded(place, "moved", load_table, leaking(numbers, noisy), duplicates="move", near_copies="move")
    assert dataset.manifest.details["splits"] == {"train": 120, "validation": 20, "test": 40} | {"train": 135}
    assert "30 rows have a near copy in another split; 15 of them moved to the earliest split" in dataset.manifest.notes


def test_a_second_file_with_its_columns_in_another_order_is_known_to_what_learned_from_the_first(place, numbers, learned):
    turned = [{name: row[name] for name in ("shop", "c", "b", "a", "label")} for row in numbers]
    rows = [row | {"split": "test" if number < 30 else "train"} for number, row in enumerate(turned)]
    dataset = loaded(place, "turned", load_table, rows + [noisy(row, 7) | {"split": "test", "shop": "new"} for row in rows[:30]])
    ledger = pq.read_table(learned / "fitted.parquet")["content"].to_pylist()
    assert not set(read_rows(dataset)["content"].to_pylist()) & set(ledger)
    head = train_head(embed(dataset, learned, root=place / "root"), HEAD, root=place / "root")
    said_of(head, near=30, clean=30)


def test_a_column_that_gives_the_label_away_is_named_by_load_train_head_and_learn_categories(place, numbers):
    rows = [row | {"outcome": {"up": "won", "down": "lost"}[row["label"]]} for row in numbers]
    rows = [row | {"split": ["train", "train", "test"][n % 3]} for n, row in enumerate(rows)]
    dataset = loaded(place, "telling", load_table, rows)
    words = r"column 'outcome' alone gives the label away \(balanced accuracy 1\.000 on \d+ rows, each by the other half of them\)"
    words += "; leave it out, unless it is known when a prediction is made"
    root = place / "root"
    head = head_of(dataset, place)
    encoder = learn_categories(dataset, LEARN, root=root)
    for made in (dataset, head, encoder):
        assert len([note for note in made.manifest.notes if re.match(words, note)]) == 1
    assert [one["column"] for one in dataset.manifest.details["gives_away"]] == ["outcome"]
    without = learn_categories(dataset, LEARN.model_copy(update={"roles": ("outcome=leave-out",)}), root=root)
    assert not any("gives the label away" in note for note in without.manifest.notes)


def test_numbers_of_rows_that_were_sorted_by_label_are_named(place, numbers):
    ordered = sorted(numbers, key=lambda row: row["label"])
    rows = [row | {"number": 5000 + 3 * n, "split": ["train", "validation", "test"][n % 3]} for n, row in enumerate(ordered * 2)]
    named = [one["column"] for one in loaded(place, "sorted", load_table, rows).manifest.details["gives_away"]]
    assert named == ["number"]


def test_strong_columns_are_not_called_give_aways(place, numbers):
    random = np.random.default_rng(3)
    rows = [
        row | {"strong": float(random.normal(1.5 if row["label"] == "up" else -1.5)), "split": ["train", "test"][n % 2]}
        for n, row in enumerate(numbers)
    ]
    assert "gives_away" not in loaded(place, "strong", load_table, rows).manifest.details


def test_vectors_by_other_folds_are_not_taken_for_an_encoders_own(place, noise, learned):
    inside = learn_categories(noise, LEARN.model_copy(update={"folds": 0}), root=place / "root", name="inside")
    other = learn_categories(noise, LEARN.model_copy(update={"folds": 3}), root=place / "root", name="other")
    identities = {one.manifest.details["identity"] for one in (learned, inside, other)}
    assert len(identities) == 3  # though their networks are the same
    vectors = embed(noise, inside, root=place / "root")
    with pytest.raises(UserError, match="are vectors of another encoder than"):
        embed(noise, learned, Embed(rows_per_part=77), previous=vectors, root=place / "root")


def test_folds_that_were_changed_make_another_encoder(place, learned, tmp_path):
    shutil.copytree(place / "root", tmp_path / "root")
    copy = Artifact.open(str(learned), tmp_path / "root")
    one, two = (copy / file_of(number) for number in (0, 1))
    shutil.copy(one, two)
    with pytest.raises(UserError, match="says its identity is .*, but that of its weights and preprocessing is"):
        Encoder.open(reseal(copy.path))


# Texts ------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sentences():
    """120 texts whose label is drawn."""
    random = np.random.default_rng(0)
    return [{"text": f"{' '.join(random.choice(WORDS, 6))} {n}", "label": str(random.choice(["pos", "neg"]))} for n in range(120)]


def dressed(row, number):
    text = row["text"]
    return row | {"text": [text.upper(), f"  {text.replace(' ', '   ')} ", f"{text.replace(' ', ', ')}!"][number % 3]}


@pytest.fixture(scope="module")
def dress(place, sentences):
    return loaded(place, "dress", load_texts, leaking(sentences, dressed))


@pytest.fixture(scope="module")
def bert(place, tiny_bert):
    return import_encoder(tiny_bert, root=place / "root")


def test_equal_rows_that_were_kept_are_counted_by_train_head(place, sentences, bert):
    dataset = loaded(place, "kept", load_texts, leaking(sentences, lambda row, _: row))
    head = train_head(embed(dataset, bert, root=place / "root"), HEAD, root=place / "root")
    said_of(head, exact=15)
    assert head.manifest.details["copies"] == 15 and "near_copies" not in head.manifest.details


def test_texts_in_another_dress_are_counted_by_train_head_and_compare(place, dress, bert):
    head = train_head(embed(dress, bert, root=place / "root"), HEAD, root=place / "root")
    said_of(head, near=15)
    said_of(compare(dress, bert, COMPARE.model_copy(update={"arms": ("raw",)}), root=place / "root"), near=15)


def test_a_student_is_measured_on_no_near_copy_of_what_it_or_its_teacher_learned(place, dress, bert):
    student = distil(bert, dress, STATIC, root=place / "root")
    said_of(student, near=15)
    assert student.manifest.metrics["similarity_without_copies"].n == 40


def test_a_teacher_that_learned_near_copies_of_the_students_test_rows_flatters_none(place, sentences, bert):
    half = [row | {"split": ["train", "train", "validation", "test"][n % 4]} for n, row in enumerate(sentences[:60])]
    vectors = embed(loaded(place, "taught", load_texts, half), bert, root=place / "root")
    teacher = train_head(vectors, HEAD, root=place / "root")
    learned = [row for row in half if row["split"] != "test"]
    rows = [row | {"split": ["train", "train", "validation", "test"][n % 4]} for n, row in enumerate(sentences[60:])]
    rows += [dressed(row, number) | {"split": "test"} for number, row in enumerate(learned[:12])]
    student = distil(teacher, loaded(place, "student", load_texts, rows), STATIC, root=place / "root")
    said_of(student, near=12, clean=15)


def test_an_encoder_that_was_exported_and_imported_again_still_knows_what_it_learned(place, sentences, bert, tmp_path):
    rows = [row | {"split": ["train", "train", "validation", "test"][n % 4]} for n, row in enumerate(sentences)]
    dataset = loaded(place, "tuned", load_texts, rows)
    tuned = fine_tune(dataset, bert, TUNE, root=place / "root")
    made = export(tuned, Export(format="sentence-transformers"), root=place / "root")
    folder = tmp_path / "elsewhere"
    shutil.copytree(made.path, folder)
    again = import_encoder(folder, root=tmp_path / "other root")
    assert again.manifest.details["fitted"] == 90
    swapped = {"train": "test", "test": "train", "validation": "validation"}
    pq.write_table(pa.Table.from_pylist([row | {"split": swapped[row["split"]]} for row in rows]), tmp_path / "swapped.parquet")
    other = load_texts(tmp_path / "swapped.parquet", LoadTexts(split_column="split"), root=tmp_path / "other root")
    with pytest.raises(UserError, match=f"60 of the 60 rows to measure on were learned from by {again}; measure on rows it"):
        train_head(embed(other, again, root=tmp_path / "other root"), HEAD, root=tmp_path / "other root")
    with pytest.raises(UserError, match="60 of the 60 rows to measure on were learned from by encoder/"):
        fine_tune(other, again, TUNE, root=tmp_path / "other root")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "same.parquet")
    same = load_texts(tmp_path / "same.parquet", LoadTexts(split_column="split"), root=tmp_path / "other root")
    head = train_head(embed(same, again, root=tmp_path / "other root"), HEAD, root=tmp_path / "other root")
    words = "lineage unknown: encoder/tiny-bert was imported, and what it learned from is not recorded"
    assert words in head.manifest.verdict  # which came before what is recorded


def spoil(folder, name):
    (folder / name).write_bytes((folder / name).read_bytes()[:-1] + b"?")


def forge(folder):
    empty = pa.table({"id": pa.array([], pa.int64()), "content": pa.array([], pa.int64())})
    pq.write_table(empty, folder / "learned.parquet")


def foreign(folder):
    shutil.copy(folder / "model.safetensors", folder / "more.safetensors")


SPOILED = {
    "gone": (lambda folder: (folder / "learned.parquet").unlink(), "learned.parquet is missing"),
    "emptied": (forge, "learned.parquet is not as it was exported"),
    "of other weights": (lambda folder: spoil(folder, "model.safetensors"), "model.safetensors is not as it was exported"),
    "no json": (lambda folder: (folder / "lineage.json").write_text("{"), "lineage.json of the export is not believed"),
    "beside other weights": (foreign, "it doesn't know more.safetensors"),
    "absent": (lambda folder: (folder / "lineage.json").unlink(), None),
}


@pytest.fixture(scope="module")
def exported(place, sentences, bert):
    rows = [row | {"split": ["train", "validation", "test"][n % 3]} for n, row in enumerate(sentences[:30])]
    settings = STATIC.model_copy(update={"student": "layers", "layers": 1})
    student = distil(bert, loaded(place, "few", load_texts, rows), settings, root=place / "root")
    return export(student, Export(format="sentence-transformers"), root=place / "root")


@pytest.mark.parametrize("damage", SPOILED)
def test_an_exports_ledger_that_is_not_its_own_is_not_believed(exported, damage, tmp_path):
    folder = tmp_path / damage.replace(" ", "-")
    shutil.copytree(exported.path, folder)
    change, words = SPOILED[damage]
    change(folder)
    encoder = import_encoder(folder)
    assert "fitted" not in encoder.manifest.details and not (encoder / "fitted.parquet").exists()
    assert any(words in note for note in encoder.manifest.notes) if words else encoder.manifest.notes == []
    assert with_lineage("better", encoder).startswith(f"better (lineage unknown: encoder/{encoder.manifest.name} was imported")


def test_pieces_of_one_thing_stay_on_one_side_by_the_group_column_alone(place, sentences):
    rows = [row | {"text": f"page {n} of {row['text']}", "user": f"u{n // 4}"} for n, row in enumerate(sentences)]
    for split in ("auto", "hash", "stratified", "group"):
        asked = {"split": split, "split_column": None, "group_column": "user", "text_column": "text"}
        dataset = loaded(place, f"grouped-{split}", load_texts, rows, **asked)
        sides = np.array(read_rows(dataset)["split"].to_pylist()).reshape(30, 4)
        assert (sides == sides[:, :1]).all() and len(np.unique(sides)) == 3


def test_groups_that_the_source_has_torn_apart_are_put_together_and_said(place, sentences):
    rows = [row | {"user": f"u{n // 4}", "split": "test" if n % 8 == 0 else "train"} for n, row in enumerate(sentences)]
    dataset = loaded(place, "torn", load_texts, rows, group_column="user", text_column="text", validation_share=0)
    assert dataset.manifest.details["splits"]["test"] == 0
    words = "60 rows have others of their 'user' in another split; 15 of them moved to the earliest split"
    assert words in dataset.manifest.notes


def test_an_encoder_that_was_fine_tuned_on_test_rows_is_refused_by_fine_tune_and_compare(place, sentences, bert):
    rows = [row | {"split": ["train", "validation", "test"][n % 3]} for n, row in enumerate(sentences[:60])]
    tuned = fine_tune(loaded(place, "first", load_texts, rows), bert, TUNE, root=place / "root")
    turned = [row | {"split": ["test", "train", "validation"][n % 3]} for n, row in enumerate(rows)]
    other = loaded(place, "second", load_texts, turned)
    for stage, settings in ((fine_tune, TUNE), (compare, COMPARE)):
        with pytest.raises(UserError, match=f"20 of the 20 rows to measure on were learned from by {re.escape(str(tuned))}"):
            stage(other, tuned, settings, root=place / "root")


def test_fine_tune_counts_near_copies(place, dress, bert):
    said_of(fine_tune(dress, bert, TUNE, root=place / "root"), near=15)


# Pictures ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pictures():
    """120 pictures of 40 x 48: bright boxes, somewhere else in each, whose label is drawn."""
    random, rows = np.random.default_rng(0), []
    for number in range(120):
        pixels = np.full((40, 48, 3), random.integers(0, 120, 3), np.uint8)
        for _ in range(5):
            top, left = random.integers(0, 30), random.integers(0, 36)
            pixels[top : top + random.integers(6, 14), left : left + random.integers(6, 14)] = random.integers(0, 255, 3)
        rows.append({"image": _encoded(pixels), "label": str(random.choice(["left", "right"])), "path": f"{number}.png"})
    return rows


def _encoded(pixels, size=None, **form):
    file, picture = io.BytesIO(), Image.fromarray(pixels)
    (picture.resize(size) if size else picture).save(file, **({"format": "PNG"} | form))
    return file.getvalue()


def changed(row, number):
    pixels = np.asarray(Image.open(io.BytesIO(row["image"])))
    ways = ({"format": "JPEG", "quality": 75}, {"size": (96, 80)}, {"size": (36, 30)})
    return row | {"image": _encoded(pixels, **ways[number % 3])}


def test_pictures_that_were_encoded_again_or_resized_are_counted(place, pictures):
    dataset = loaded(place, "photos", load_images, leaking(pictures, changed))
    assert dataset.manifest.details["near_copies"] == 15
    control = make_control(dataset, MakeControl(control="pixels"), root=place / "root")
    head = train_head(embed(dataset, control, root=place / "root"), HEAD, root=place / "root")
    said_of(head, near=15)


# What was loaded before near copies were known -----------------------------------------------------------------------------


def test_a_dataset_that_was_loaded_before_near_copies_were_written_down_is_looked_at_anew(place, noise, tmp_path):
    shutil.copytree(place / "root", tmp_path / "root")
    old = Artifact.open(str(noise), tmp_path / "root")
    (old / "near.parquet").unlink()
    old = reseal(old.path)
    vectors = embed(old, make_control(old, root=tmp_path / "root"), root=tmp_path / "root")
    said_of(train_head(vectors, HEAD, root=tmp_path / "root"), near=15)


def test_a_cut_encoder_knows_near_copies_too(place, dress, bert):
    tuned = fine_tune(dress, bert, TUNE, root=place / "root")
    half = cut_encoder(tuned, CutEncoder(layer=Encoder.open(tuned).model.layers[-2].name), root=place / "root")
    assert (half / "fitted_near.parquet").read_bytes() == (tuned / "fitted_near.parquet").read_bytes()
