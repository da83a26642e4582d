"""Odd files and texts, from load to vectors: each is embedded rightly, or set aside with its reason."""

import io
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from embedkit import Embed, Encoder, LoadImages, LoadTexts, embed, import_encoder, load_images, load_texts
from embedkit.datasets import read_rows
from embedkit.vectors import read_vectors

HEIGHT, WIDTH = 40, 60


def pattern(height=HEIGHT, width=WIDTH):
    """A smooth picture without symmetry: what is turned or cut looks different."""
    rows, columns = np.mgrid[0:height, 0:width] / np.array([[[height]], [[width]]])
    return (np.stack([rows, columns, rows * columns], axis=2) * 255).astype(np.uint8)


def file(picture, form, **options):
    data = io.BytesIO()
    picture.save(data, form, **options)
    return data.getvalue()


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("odd")


@pytest.fixture(scope="module")
def photos(place):
    """A folder of odd pictures; one plain one among them."""
    picture = Image.fromarray(pattern())
    jpeg = file(picture, "JPEG", quality=97, subsampling=0)
    wide = Image.fromarray(pattern(200, 20_000))
    files = {
        "plain.png": file(picture, "PNG"),
        "a-png.jpg": file(picture, "PNG"),
        "animated.gif": file(picture, "GIF", save_all=True, append_images=[Image.new("RGB", picture.size)] * 3),
        "cmyk.jpg": file(picture.convert("CMYK"), "JPEG", quality=97, subsampling=0),
        "cut.jpg": jpeg[: len(jpeg) // 2],
        "empty.jpg": b"",
        "grey-16-bit.png": file(Image.fromarray((np.asarray(picture.convert("L")).astype(np.uint16)) * 257), "PNG"),
        "panorama.jpg": file(wide, "JPEG", quality=97, subsampling=0),
        "rotated.jpg": file(picture.rotate(90, expand=True), "JPEG", quality=97, subsampling=0, exif=turned(6)),
        "words.jpg": b"this is no picture",
    }
    folder = place / "photos"
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return load_images(folder, LoadImages(max_unreadable=0.5), root=place)


@pytest.fixture(scope="module")
def network(nested_network, place):
    return import_encoder(nested_network, root=place)


def test_odd_pictures_are_embedded_as_the_picture_they_show(photos, network):
    made = embed(photos, network)
    ids, vectors = read_vectors(made)
    names = pq.read_table(photos / "part-00000.parquet")["path"].to_pylist()
    assert sorted(name.rsplit("/")[-1] for name in names) == [
        *("a-png.jpg", "animated.gif", "cmyk.jpg", "grey-16-bit.png", "panorama.jpg", "plain.png", "rotated.jpg")
    ]
    assert ids.tolist() == read_rows(photos)["id"].to_pylist() and made.manifest.details["set_aside"] == 0
    by_name = dict(zip((name.rsplit("/")[-1] for name in names), vectors, strict=True))
    encoder = Encoder.open(network)
    plain = by_name["plain.png"]
    grey = encoder.encode([np.repeat(np.asarray(Image.fromarray(pattern()).convert("L"))[..., None], 3, axis=2)])[0]
    wide = encoder.encode([pattern(200, 20_000)])[0]
    expected = {"a-png.jpg": plain, "cmyk.jpg": plain, "rotated.jpg": plain, "animated.gif": plain}
    apart = np.linalg.norm(plain - grey)
    for name, vector in (expected | {"grey-16-bit.png": grey, "panorama.jpg": wide}).items():
        assert np.linalg.norm(by_name[name] - vector) < apart / 4, name


def test_broken_pictures_are_set_aside_with_their_reasons(photos):
    rejected = pq.read_table(photos / "rejected.parquet").to_pylist()
    reasons = {line["place"].rsplit("/")[-1]: line["reason"] for line in rejected}
    assert reasons.keys() == {"cut.jpg", "empty.jpg", "words.jpg"}
    assert "truncated" in reasons["cut.jpg"] or "not a readable picture" in reasons["cut.jpg"]
    assert reasons["empty.jpg"] == "the file is empty" and reasons["words.jpg"] == "not a readable picture (of no known format)"


def test_odd_texts_are_embedded_or_set_aside(tiny_bert, place):
    long = "the cat sat on a red mat " * 400_000  # 10 MB
    rows = ["the cat", long, "\ud800 the dog", None, "", "  \n", "🦊" * 5, "\x00 the dog", ["a"], "e\u0301 cafe\u0301"]
    (place / "texts.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    texts = load_texts(place / "texts.jsonl", LoadTexts(max_unreadable=0.9), root=place)
    reasons = [line["reason"] for line in pq.read_table(texts / "rejected.parquet").to_pylist()]
    assert [reason.split(" (")[0] for reason in reasons] == [
        *("not valid Unicode", "the text is missing", "the text is blank", "the text is blank"),
        "column 'text' holds list, not a text",
    ]
    encoder = import_encoder(tiny_bert, root=place)
    ids, vectors = read_vectors(embed(texts, encoder, Embed(rows_per_part=2)))
    assert len(ids) == 5 and np.isfinite(vectors).all()
    kept = [rows[number] for number in (0, 1, 6, 7, 9)]
    again = Encoder.open(encoder).encode([text[:20_000] for text in kept])  # far more than its tokens
    assert np.linalg.norm(vectors - again, axis=1).max() < 1e-5
