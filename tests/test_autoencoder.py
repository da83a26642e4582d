"""pretrain_autoencoder: unlabelled pictures become an encoder, measured beside what learns next to nothing."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from embedkit import (
    Encoder,
    LoadImages,
    MakeControl,
    PretrainAutoencoder,
    Training,
    UserError,
    engines,
    frameworks,
    load_images,
    make_control,
    pretrain_autoencoder,
)
from embedkit.artifacts import Dataset
from embedkit.autoencoder import ConvNet, build, principal_components, shape
from embedkit.datasets import read_rows
from embedkit.leaks import record_fitted
from embedkit.preparation import load_pixels
from embedkit.settings import Settings
from embedkit.stages import Draft, Facts, stage

frameworks.load_frameworks()

import keras  # noqa: E402  after the frameworks were loaded quietly

SMALL = PretrainAutoencoder(
    network=ConvNet(side=8, dimension=6, channels=8), training=Training(epochs=40, batch_size=16, learning_rate=0.01)
)


def stripes(folder, count=80, size=(8, 8), grey=True, splits=("train", "train", "train", "val", "test")):
    """Pictures of a bright stripe at some height over some background: two numbers decide nearly all of each."""
    random = np.random.default_rng(0)
    for number in range(count):
        pixels = np.full((*size, 3), 200.0) * random.random((1, 1, 1 if grey else 3))
        top = random.integers(0, size[0] - 1)
        pixels[top : top + 2] = 255 * random.random((1, 1, 1 if grey else 3))
        pixels = (pixels + random.normal(0, 2, (*size, 1 if grey else 3))).clip(0, 255).astype(np.uint8)
        path = folder / splits[number % len(splits)] / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """80 grey pictures of 8 x 8 pixels: 48 train, 16 validation, 16 test."""
    place = tmp_path_factory.mktemp("autoencoder")
    return load_images(stripes(place / "stripes"), root=place / "artifacts")


@pytest.fixture(scope="module")
def learned(pictures):
    return pretrain_autoencoder(pictures, SMALL)


def test_it_makes_an_encoder_like_any_other(pictures, learned):
    encoder, facts = Encoder.open(learned), learned.manifest.details
    assert (learned.manifest.kind, learned.manifest.name) == ("encoder", "stripes-autoencoder")
    assert (facts["modality"], facts["dimension"], facts["pooling"], facts["normalised"]) == ("images", 6, "none", False)
    assert (encoder.facts.height, encoder.facts.width, encoder.facts.identity) == (8, 8, facts["identity"])
    assert encoder.encode([np.zeros((20, 30, 3), np.uint8)]).shape == (1, 6)


def test_only_the_first_half_is_kept_and_noise_is_off(learned):
    encoder = Encoder.open(learned)
    names = [layer.name for layer in encoder.model.layers]
    assert names == ["pixels", "scaling", "noise", "down_0", "flat", "codes"]
    picture = [np.full((8, 8, 3), 100, np.uint8)]
    assert np.array_equal(encoder.encode(picture), encoder.encode(picture))


def test_it_draws_better_than_the_mean_picture_and_says_how_it_compares_with_principal_components(pictures, learned):
    found = learned.manifest.metrics
    assert {metric.n for metric in found.values()} == {16}
    assert found["mse"].value < found["mean_picture_mse"].value
    ours, pca = found["mse"], found["pca_mse"]
    words = "closer to the picture than" if ours.value < pca.value else "not as close to the picture as"
    assert learned.manifest.verdict == (
        f"draws test pictures {words} 6 principal components: mse {ours} against {pca}; "
        "whether its vectors are useful is what train_head measures"
    )


def test_the_controls_are_those_of_scikit_learn_and_of_the_training_pictures_mean(pictures, learned, tmp_path):
    from sklearn.decomposition import PCA

    split = np.array(read_rows(pictures)["split"].to_pylist())
    flat = load_pixels(pictures, 8, 8, tmp_path / "pixels.npy").reshape(80, -1) / 255
    train, test = flat[split == "train"], flat[split == "test"]
    mean = np.square(test - train.mean(axis=0)).mean()
    assert learned.manifest.metrics["mean_picture_mse"].value == pytest.approx(mean, rel=1e-4)
    pca = PCA(6, svd_solver="full").fit(train)
    drawn = pca.inverse_transform(pca.transform(test))
    assert learned.manifest.metrics["pca_mse"].value == pytest.approx(np.square(test - drawn).mean(), rel=1e-2)


def test_what_it_learned_from_is_its_training_and_validation_rows(pictures, learned):
    rows = read_rows(pictures).to_pylist()
    expected = [row["id"] for row in rows if row["split"] != "test"]
    assert pq.read_table(learned / "fitted.parquet")["id"].to_pylist() == expected
    assert learned.manifest.rows == learned.manifest.details["fitted"] == 64


def test_the_pictures_and_the_history_are_in_the_artifact(learned):
    with Image.open(learned / "reconstructions.png") as sheet:
        assert sheet.size == (10 * 8 * 12, 2 * 8 * 12)  # ten pictures above, ten below, each shown at 96 pixels
    history = json.loads((learned / "history.json").read_text())
    assert [entry["epoch"] for entry in history] == list(range(1, learned.manifest.details["epochs"] + 1))
    assert history[-1]["validation_loss"] < history[0]["validation_loss"]


def test_the_same_call_in_another_root_gives_the_same_bytes(learned, pictures, tmp_path):
    import shutil

    shutil.copytree(pictures.path, tmp_path / "root" / pictures.path.relative_to(pictures.root))
    again = pretrain_autoencoder(str(pictures), SMALL, root=tmp_path / "root")
    assert again.path != learned.path
    assert again.manifest.files == learned.manifest.files


def test_labels_are_not_looked_at(pictures, learned, tmp_path):
    folder = stripes(tmp_path / "stripes")
    for path in sorted(folder.rglob("*.png")):
        (path.parent / "somewhere").mkdir(exist_ok=True)
        path.rename(path.parent / "somewhere" / path.name)
    labelled = load_images(folder)
    assert labelled.manifest.details["label"]["classes"] == {"somewhere": 80}
    again = pretrain_autoencoder(labelled, SMALL)
    assert again.manifest.details["identity"] == learned.manifest.details["identity"]


def test_without_test_rows_nothing_is_measured(tmp_path):
    rows = load_images(stripes(tmp_path / "few", 12, splits=("train", "val")), LoadImages(split="hash", test_share=0.0))
    found = pretrain_autoencoder(rows, SMALL.model_copy(update={"training": Training(epochs=1)}))
    assert (found.manifest.metrics, found.manifest.verdict) == ({}, None)
    assert not (found / "reconstructions.png").exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"validation_share": 0.0}, r"images/few@.* has \d+ training and 0 validation rows; load it with some of both"),
        ({"test_share": 0.0, "validation_share": 0.999}, r"images/few@.* has 0 training and \d+ validation rows"),
    ],
)
def test_without_rows_to_learn_from_or_to_stop_by_it_is_refused(tmp_path, settings, words):
    rows = load_images(stripes(tmp_path / "few", 12), LoadImages(split="hash", **settings))
    with pytest.raises(UserError, match=words):
        pretrain_autoencoder(rows, SMALL)


def test_what_holds_no_pictures_is_refused(learned):
    with pytest.raises(UserError, match="pretrain_autoencoder takes images as its dataset, but encoder/stripes-auto.* came; give"):
        pretrain_autoencoder(learned)


@stage("images", revision=1)
def augment(out: Draft, dataset: Dataset, settings: Settings = Settings()) -> Facts:
    """Stand in for a stage that makes a dataset and learns from all rows of another."""
    import shutil

    for path in dataset.path.glob("*.parquet"):
        shutil.copy(path, out / path.name)
    record_fitted(out, read_rows(dataset))
    return Facts(rows=dataset.manifest.rows, details=dataset.manifest.details)


def test_test_rows_that_an_ancestor_learned_from_are_refused(pictures):
    with pytest.raises(UserError, match="16 of the 16 rows to measure on were learned from by images/stripes@"):
        pretrain_autoencoder(augment(pictures), SMALL.model_copy(update={"training": Training(epochs=1)}))


# Shapes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [1, 2, 3, 4, 5, 7, 8, 28, 64])
def test_the_network_draws_pictures_of_the_size_it_takes(side):
    frameworks.start_keras(0)
    whole, encoder = build(side, 5, 2)
    pixels = np.random.default_rng(0).integers(0, 256, (2, side, side, 3)).astype(np.uint8)
    drawn = engines.predict(whole, pixels)
    assert drawn.shape == (2, side, side, 3)
    assert 0 <= drawn.min() <= drawn.max() <= 1
    assert engines.predict(encoder, pixels).shape == (2, 5)
    maps = [layer.output.shape[1] for layer in encoder.layers if layer.name.startswith("down")]
    assert not maps or 2 < maps[-1] <= 4


@pytest.mark.parametrize(
    ("size", "grey", "network", "expected"),
    [
        ((8, 8), True, ConvNet(), (8, 32)),              # half of 64 grey numbers
        ((8, 8), False, ConvNet(), (8, 96)),             # half of 192
        ((28, 30), True, ConvNet(), (28, 300)),          # 784 / 4 is below 300
        ((40, 36), False, ConvNet(), (36, 600)),         # 3 * 1296 / 4 is above 600
        ((30, 40), False, ConvNet(side=20), (20, 300)),  # 3 * 400 / 4
        ((90, 80), True, ConvNet(), (64, 600)),          # at most 64 pixels
        ((8, 8), True, ConvNet(dimension=7), (8, 7)),
        ((1, 1), True, ConvNet(), (1, 1)),
    ],
)
def test_side_and_dimension_follow_the_pictures(tmp_path, size, grey, network, expected):
    random = np.random.default_rng(0)
    (tmp_path / "some").mkdir()
    for number in range(3):
        pixels = random.integers(0, 256, (*size, 1 if grey else 3)).repeat(3 if grey else 1, axis=2).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "some" / f"{number}.png")
    assert shape(load_images(tmp_path / "some"), np.arange(3), network) == expected


def test_the_size_of_a_network_is_that_of_training_pictures_whatever_comes_to_test(tmp_path):
    data = []
    for number in range(90):  # test rows come first, large and red
        split = "test" if number < 70 else "validation" if number < 75 else "train"
        picture = Image.new("RGB", (40, 40), "red") if split == "test" else Image.new("RGB", (16, 16), (number, number, number))
        picture.save(path := tmp_path / f"{number}.png")
        data.append({"image": path.read_bytes(), "split": split})
    pq.write_table(pa.Table.from_pylist(data), tmp_path / "pictures.parquet")
    dataset = load_images(tmp_path / "pictures.parquet", LoadImages(split_column="split", duplicates="keep"))
    assert shape(dataset, np.arange(75, 90), ConvNet()) == (16, 128)
    control = make_control(dataset, MakeControl(control="random"))
    learned = pretrain_autoencoder(dataset, PretrainAutoencoder(training=Training(epochs=1, preflight=False)))
    assert [(one.manifest.details["height"], one.manifest.details["dimension"]) for one in (control, learned)] == [(16, 128)] * 2


def test_one_coloured_picture_among_grey_ones_makes_them_coloured(tmp_path):
    folder = stripes(tmp_path / "some", 5)
    Image.fromarray(np.tile(np.array([10, 20, 30], np.uint8), (8, 8, 1))).save(folder / "train" / "colour.png")
    assert shape(load_images(folder), np.arange(5), ConvNet()) == (8, 96)


def test_pixels_are_decoded_once_and_kept_in_row_order(pictures, tmp_path):
    path = tmp_path / "pixels.npy"
    found = load_pixels(pictures, 8, 8, path, rows_at_once=30)
    assert (found.shape, found.dtype, isinstance(found, np.memmap)) == ((80, 8, 8, 3), np.uint8, True)
    folder = pictures.root.parent / "stripes"
    paths = sorted(folder.rglob("*.png"), key=lambda each: each.relative_to(folder).as_posix())
    assert all(np.array_equal(found[row], np.asarray(Image.open(each).convert("RGB"))) for row, each in enumerate(paths))
    inode = path.stat().st_ino
    assert np.array_equal(load_pixels(pictures, 8, 8, path), found)
    assert path.stat().st_ino == inode


def test_principal_components_are_fewer_where_pictures_are_few():
    pixels = np.random.default_rng(0).integers(0, 256, (9, 2, 2, 3)).astype(np.uint8)
    mean, components = principal_components(pixels, np.arange(5), 300, 0)
    assert components.shape == (5, 12)
    assert mean == pytest.approx(pixels[:5].reshape(5, -1).mean(axis=0) / 255, abs=1e-6)
    assert components[:4] @ components[:4].T == pytest.approx(np.eye(4), abs=1e-5)


def test_noise_is_for_training_only():
    frameworks.start_keras(0)
    whole, _ = build(8, 4, 2, noise=0.5)
    pixels = np.full((1, 8, 8, 3), 128, np.uint8)
    shown = [np.asarray(whole(pixels, training=training)) for training in (False, False, True, True)]
    assert np.array_equal(shown[0], shown[1])
    assert not np.array_equal(shown[2], shown[3])
    assert isinstance(whole.get_layer("noise"), keras.layers.GaussianNoise)
