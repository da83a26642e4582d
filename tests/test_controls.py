"""Controls: encoders that learn nothing, or next to nothing."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from embedkit import Encoder, LoadImages, MakeControl, PretrainAutoencoder, UserError, embed, load_images, load_texts, make_control
from embedkit.autoencoder import ConvNet
from embedkit.datasets import read_rows
from embedkit.embedding import read_vectors

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
    assert str(one) == str(same)
    assert one.manifest.details["identity"] != other.manifest.details["identity"]
    assert [layer.name for layer in Encoder.open(one).model.layers] == ["pixels", "scaling", "noise", "down_0", "flat", "codes"]
    assert (one.manifest.details["dimension"], (one / "fitted.parquet").exists()) == (5, False)


@pytest.mark.parametrize("control", ["pca", "random", "pixels"])
def test_the_same_call_in_another_root_gives_the_same_bytes(pictures, tmp_path, control):
    import shutil

    shutil.copytree(pictures.path, tmp_path / "root" / pictures.path.relative_to(pictures.root))
    settings = MakeControl(control=control, network=NETWORK)
    here, there = make_control(pictures, settings), make_control(str(pictures), settings, root=tmp_path / "root")
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
    with pytest.raises(UserError, match="make_control takes images as its dataset, but texts/reviews@.* came; give it one of"):
        make_control(load_texts(reviews))


def test_a_control_has_the_shape_of_what_it_is_compared_with():
    assert MakeControl().network == PretrainAutoencoder().network
