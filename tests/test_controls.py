"""Controls: encoders that learn nothing, or next to nothing."""

import json
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from embedkit import (
    Encoder,
    LoadImages,
    LoadTable,
    MakeControl,
    PretrainAutoencoder,
    UserError,
    embed,
    load_images,
    load_table,
    load_texts,
    make_control,
)
from embedkit.autoencoder import ConvNet
from embedkit.cards import CARD
from embedkit.datasets import read_rows
from embedkit.roles import left_out, plain_columns
from embedkit.vectors import read_vectors

NETWORK = ConvNet(side=6, dimension=5, channels=4)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """40 pictures of 6 x 6 pixels, mixed from five patterns: 24 train, 8 validation, 8 test."""
    place, random = tmp_path_factory.mktemp("controls"), np.random.default_rng(0)
    patterns = random.normal(size=(5, 6, 6, 3))
    for number in range(40):
        mixed = 128 + np.tensordot(random.normal(size=5) * [30, 18, 11, 7, 4], patterns, 1)
        path = place / "mixed" / ("train", "train", "train", "val", "test")[number % 5] / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mixed.clip(0, 255).round().astype(np.uint8)).save(path)
    return load_images(place / "mixed", root=place / "artifacts")


@pytest.fixture(scope="module")
def pixels(pictures):
    """The pixels of all pictures in row order, in [0, 1], one line each."""
    folder = pictures.root.parent / "mixed"
    paths = sorted(folder.rglob("*.png"), key=lambda each: each.relative_to(folder).as_posix())
    return np.stack([np.asarray(Image.open(path)).reshape(-1) for path in paths]) / 255


def test_pixels_are_the_pixels(pictures, pixels):
    control = make_control(pictures, MakeControl(control="pixels", network=NETWORK))
    assert control.manifest.name == "mixed-pixels"
    assert read_vectors(embed(pictures, control))[1] == pytest.approx(pixels, abs=1e-6)
    assert (control.manifest.details["fitted"], (control / "fitted.parquet").exists()) == (0, False)


def test_principal_components_are_scikit_learns_of_the_training_rows(pictures, pixels):
    from sklearn.decomposition import PCA

    control = make_control(pictures, MakeControl(control="pca", network=NETWORK))
    split = np.array(read_rows(pictures)["split"].to_pylist())
    expected = PCA(5, svd_solver="full").fit(pixels[split == "train"]).transform(pixels)
    found = read_vectors(embed(pictures, control))[1]
    assert np.abs(found) == pytest.approx(np.abs(expected), abs=0.01)  # the solver is randomised
    assert found[split == "train"].mean(axis=0) == pytest.approx(np.zeros(5), abs=1e-5)


def test_principal_components_learned_from_the_training_rows_and_say_so(pictures):
    control = make_control(pictures, MakeControl(control="pca", network=NETWORK))
    expected = [row["id"] for row in read_rows(pictures).to_pylist() if row["split"] == "train"]
    assert pq.read_table(control / "fitted.parquet")["id"].to_pylist() == expected
    assert control.manifest.details["fitted"] == 24


def test_there_are_no_more_components_than_training_rows(pictures):
    control = make_control(pictures, MakeControl(control="pca", network=ConvNet(side=6, dimension=100)), name="many")
    assert control.manifest.details["dimension"] == 24


def test_a_random_network_is_the_autoencoders_before_it_learns(pictures):
    one, same, other = (
        make_control(pictures, MakeControl(control="random", network=NETWORK, seed=seed), name=f"random-{number}")
        for number, seed in enumerate((0, 0, 1))
    )
    assert one.manifest.fingerprint == same.manifest.fingerprint and one.manifest.content == same.manifest.content
    assert one.manifest.details["identity"] != other.manifest.details["identity"]
    assert [layer.name for layer in Encoder.open(one).model.layers] == ["pixels", "scaling", "noise", "down_0", "flat", "codes"]
    assert (one.manifest.details["dimension"], (one / "fitted.parquet").exists()) == (5, False)


def test_principal_components_are_what_pictures_get_when_nothing_else_is_asked(pictures):
    asked = make_control(pictures, MakeControl(control="pca", network=NETWORK))
    default = make_control(pictures, MakeControl(network=NETWORK))
    assert (default.manifest.name, default.manifest.details["source"]) == ("mixed-control", "pca")
    assert default.manifest.details["identity"] == asked.manifest.details["identity"]


@pytest.mark.parametrize("control", ["pca", "random", "pixels"])
def test_the_same_call_in_another_root_gives_the_same_bytes(pictures, tmp_path, control):
    import shutil

    shutil.copytree(pictures.path, tmp_path / "root" / pictures.path.relative_to(pictures.root))
    settings = MakeControl(control=control, network=NETWORK)
    here = make_control(pictures, settings)
    there = make_control(str(pictures), settings, root=tmp_path / "root", name=here.manifest.name)
    assert here.path != there.path
    assert here.manifest.files == there.manifest.files


@pytest.mark.parametrize("splits", [("val",), ("train", *["val"] * 9)])
def test_too_few_training_rows_for_components_are_refused(tmp_path, splits):
    for number in range(10):
        path = tmp_path / "few" / splits[number % len(splits)] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4, 3), number, np.uint8)).save(path)
    rows = load_images(tmp_path / "few", LoadImages(test_share=0.0))
    train = splits.count("train")
    with pytest.raises(UserError, match=f"images/few@.* has {train} training rows; principal components need two at least"):
        make_control(rows, MakeControl(control="pca"))


def test_texts_are_refused(reviews):
    with pytest.raises(UserError, match="make_control takes images or table as its dataset, but texts/reviews@.* came; give it"):
        make_control(load_texts(reviews))


def test_a_control_has_the_shape_of_what_it_is_compared_with():
    assert MakeControl().network == PretrainAutoencoder().network


# Tables


TRAIN = [
    {
        "size": n,
        "depth": None if n == 3 else 4 - n / 4,
        "colour": ("red", "green", "blue", None)[n % 4],
        "sold": n % 2 == 0,
        "made": f"2026-01-{n + 1:02d}",
        "code": f"c{n}",
        "same": 7,
        "flag": 1 if n % 2 else None,
        "empty": None,
        "split": "train",
    }
    for n in range(25)
]
OTHERS = [
    TRAIN[0] | {"size": 36, "depth": 10, "colour": "pink", "sold": None, "same": 8, "split": "validation"},
    TRAIN[0] | {"size": None, "depth": None, "colour": None, "flag": 5, "empty": 3, "split": "test"},
]
OUTPUTS = [
    *("size", "depth", "depth is missing", "colour is blue", "colour is green", "colour is red", "sold is False", "sold is True"),
    *("flag", "flag is missing"),
]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """25 training rows, then one for validation and one to test on, with values that no training row has."""
    path = tmp_path_factory.mktemp("tables") / "goods.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in TRAIN + OTHERS))
    return load_table(path, LoadTable(split_column="split"), root=path.parent / "artifacts")


@pytest.fixture(scope="module")
def control(table):
    return make_control(table, MakeControl(control="columns"))


def expected(n):
    colour = [[0, 0, 1], [0, 1, 0], [1, 0, 0], [0, 0, 0]][n % 4]
    return [n / 12 - 1, *([0, 1] if n == 3 else [1 - n / 12, 0]), *colour, n % 2, 1 - n % 2, 0, 1 - n % 2]


def test_columns_are_numbers_and_one_hot_words_by_what_the_training_rows_hold(table, control):
    assert control.manifest.name == "goods-columns"
    found = read_vectors(embed(table, control))[1]
    assert found[:25] == pytest.approx(np.array([expected(n) for n in range(25)]), abs=1e-6)
    assert found[25:].tolist() == [[2, 3, 0, 0, 0, 0, 0, 0, 0, 1], [0, 0, 1, 0, 0, 0, 0, 1, 0, 0]]


def test_the_artifact_says_what_each_number_of_a_vector_is(control):
    facts = json.loads((control / "columns.json").read_text())
    assert facts["outputs"] == OUTPUTS
    assert facts["columns"][:2] == [
        {"kind": "numbers", "name": "size", "low": 0.0, "high": 24.0, "gaps": False, "bounded": False},
        {"kind": "numbers", "name": "depth", "low": -2.0, "high": 4.0, "gaps": True, "bounded": False},
    ]
    assert control.manifest.details["dimension"] == 10


def test_what_is_left_out_of_a_table_is_said(control):
    words = "left out: 'made' (moments); 'code' (more than 20 different texts); 'same', 'empty' (the same in all training rows)"
    assert control.manifest.notes == [words]


def test_the_range_of_columns_was_learned_from_the_training_rows_and_says_so(table, control):
    train = read_rows(table)["id"].to_pylist()[:25]
    assert pq.read_table(control / "fitted.parquet")["id"].to_pylist() == train
    assert control.manifest.details["fitted"] == 25


def test_columns_are_what_a_table_gets_when_nothing_else_is_asked(table, control):
    default = make_control(table)
    assert (default.manifest.name, default.manifest.details["source"]) == ("goods-control", "columns")
    ours, theirs = ([file for file in each.manifest.files if file.path != CARD] for each in (default, control))
    assert ours == theirs and len(ours) == 6


def test_the_same_table_in_another_root_gives_the_same_bytes(table, control, tmp_path):
    import shutil

    shutil.copytree(table.path, tmp_path / "root" / table.path.relative_to(table.root))
    there = make_control(str(table), MakeControl(control="columns"), root=tmp_path / "root")
    assert there.path != control.path
    assert there.manifest.files == control.manifest.files


def test_a_control_of_another_kind_of_rows_is_refused(table, pictures):
    with pytest.raises(UserError, match="table/goods@.* holds table, which control 'pca' is not for; give columns"):
        make_control(table, MakeControl(control="pca"))
    with pytest.raises(UserError, match="images/mixed@.* holds images, .* 'columns' is not for; give pca or pixels or random"):
        make_control(pictures, MakeControl(control="columns"))


def test_a_table_of_which_nothing_can_be_used_is_refused(tmp_path):
    (tmp_path / "none.csv").write_text("day,same\n" + "".join(f"2026-01-{n:02d},x\n" for n in range(1, 31)))
    words = (
        r"no column of table/none@.* can be used: 'day' \(moments\); 'same' \(the same in all training rows\); load a table with "
        "numbers, or with words that recur"
    )
    with pytest.raises(UserError, match=words):
        make_control(load_table(tmp_path / "none.csv"))


@pytest.mark.parametrize("train", [0, 1])
def test_too_few_training_rows_for_a_range_are_refused(tmp_path, train):
    splits = ["train"] * train + ["test"] * (4 - train)
    (tmp_path / "few.csv").write_text("x,split\n" + "".join(f"{n},{split}\n" for n, split in enumerate(splits)))
    rows = load_table(tmp_path / "few.csv", LoadTable(split_column="split", validation_share=0.0))
    with pytest.raises(UserError, match=f"table/few@.* has {train} training rows; the range of a column needs two at least"):
        make_control(rows)


def test_up_to_20_texts_are_one_hot_and_more_are_left_out():
    few, many = [f"{n:02d}" for n in range(20)], [f"{n:02d}" for n in range(21)]
    columns, found = plain_columns(pa.table({"few": [*few, None, None], "many": [*many, None], "one": ["x", *[None] * 21]}))
    assert columns.outputs == [*(f"few is {word}" for word in few), "one is x"]
    assert left_out(found) == "'many' (more than 20 different texts)"


def test_a_range_is_that_of_the_finite_numbers_and_what_is_not_finite_is_a_gap():
    columns, _ = plain_columns(pa.table({"x": [0.0, float("inf"), 4.0, float("nan")], "y": [1, 2, 3, -5]}))
    found = [(column.name, column.low, column.high, column.gaps) for column in columns.columns]
    assert found == [("x", 0, 4, True), ("y", -5, 3, False)]


def test_a_column_of_which_nothing_is_known_is_left_out():
    days = pa.array([datetime(2026, 1, 1), datetime(2026, 1, 2)])
    given = {"text": pa.nulls(2, pa.string()), "truth": [True, True], "number": [float("nan")] * 2, "day": days, "x": [1, 2]}
    columns, found = plain_columns(pa.table(given))
    assert columns.outputs == ["x"]
    assert left_out(found) == "'text', 'truth', 'number' (the same in all training rows); 'day' (moments)"
