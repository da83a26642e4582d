"""embed: every row of a dataset, once and in order, part by part."""

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from embedkit import (
    Artifact,
    Embed,
    Encoder,
    ImportEncoder,
    LoadImages,
    LoadTable,
    LoadTexts,
    UserError,
    build_index,
    embed,
    import_encoder,
    load_images,
    load_table,
    load_texts,
    make_control,
    search,
)
from embedkit.datasets import read_contents, read_rows
from embedkit.vectors import read_vectors, write_vectors

WORDS = "the a cat dog sat ran on mat moon red blue green good bad film".split()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A root for artifacts that several tests look at."""
    return tmp_path_factory.mktemp("embedding")


@pytest.fixture(scope="module")
def texts(place):
    """50 short texts of different lengths, in two files of rows."""
    random = np.random.default_rng(0)
    lines = [f"{' '.join(random.choice(WORDS, random.integers(1, 30)))} {number}" for number in range(50)]
    (place / "lines.txt").write_text("\n".join(lines) + "\n")
    return load_texts(place / "lines.txt", LoadTexts(rows_per_part=20), root=place)


@pytest.fixture(scope="module")
def bert(tiny_bert, place):
    return import_encoder(tiny_bert, root=place)


@pytest.fixture(scope="module")
def encoder(bert):
    return Encoder.open(bert)


@pytest.fixture(scope="module")
def vectors(texts, bert):
    return embed(texts, bert, Embed(rows_per_part=20))


@pytest.fixture(scope="module")
def pictures(place):
    """Nine pictures of three sizes."""
    random = np.random.default_rng(0)
    for number in range(9):
        pixels = random.integers(0, 256, (16 + 4 * (number % 3), 20, 3)).astype(np.uint8)
        (place / "pictures").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(place / "pictures" / f"{number}.png")
    return load_images(place / "pictures", LoadImages(rows_per_part=4), root=place)


def test_each_row_has_the_vector_that_its_encoder_gives(texts, encoder, vectors):
    ids, found = read_vectors(vectors)
    assert ids.tolist() == read_rows(texts)["id"].to_pylist()
    assert (found.shape, found.dtype) == ((50, 16), np.float32)
    rows = read_contents(texts, 0, 50)["text"].to_pylist()
    assert (found * encoder.encode(rows)).sum(axis=1).min() > 1 - 1e-6


def test_pictures_are_embedded_like_texts(pictures, nested_network, place):
    artifact = import_encoder(nested_network, root=place)
    ids, found = read_vectors(embed(pictures, artifact, Embed(rows_per_part=4)))
    assert ids.tolist() == read_rows(pictures)["id"].to_pylist()
    paths = [place / "pictures" / f"{number}.png" for number in range(9)]
    assert found == pytest.approx(Encoder.open(artifact).encode(paths), rel=1e-5, abs=1e-5)


def test_a_part_is_ids_and_fixed_size_lists_of_float32(vectors):
    paths = sorted(path.name for path in vectors.path.glob("*.parquet"))
    assert paths == ["vectors-00000.parquet", "vectors-00001.parquet", "vectors-00002.parquet"]
    tables = [pq.read_table(vectors / name) for name in paths]
    assert [len(table) for table in tables] == [20, 20, 10]
    assert tables[0].schema.types == [pa.int64(), pa.list_(pa.float32(), 16)]


def test_the_manifest_says_what_made_the_vectors(vectors, bert):
    assert vectors.manifest.rows == 50
    assert vectors.manifest.details == {
        "encoder": bert.manifest.details["identity"],
        "modality": "texts",
        "dimension": 16,
        "normalised": True,
        "parts": 3,
        "engine": "keras",
        "precision": "float32",
        "set_aside": 0,
        "equal_rows": 0,
        "kept_rows": 0,
    }
    assert {"read", "prepare", "wait", "forward", "write", "rows_per_second"} == set(vectors.manifest.timings)
    assert [given.role for given in vectors.manifest.inputs] == ["dataset", "encoder"]


def test_the_size_of_parts_changes_no_vector(texts, bert, vectors):
    ids, found = read_vectors(vectors)
    for rows_per_part, parts in ((7, 8), (50, 1)):
        other_ids, other = read_vectors(embed(texts, bert, Embed(rows_per_part=rows_per_part), name=f"by-{rows_per_part}"))
        assert other_ids.tolist() == ids.tolist()
        assert (other * found).sum(axis=1).min() > 1 - 1e-6
        assert len(list(Artifact.open(f"vectors/by-{rows_per_part}", texts.root).path.glob("*.parquet"))) == parts


def test_vectors_are_called_after_both_their_inputs(vectors):
    assert vectors.manifest.name == "lines-tiny-bert"


def test_an_encoder_of_another_modality_is_refused(texts, pictures, bert, nested_network, place):
    words = "encoder/tiny-bert@.* embeds texts, but images/pictures@.* holds images; give it an encoder for images"
    with pytest.raises(UserError, match=words):
        embed(pictures, bert)
    with pytest.raises(UserError, match="embeds images, but texts/lines@.* holds texts; give it an encoder for texts"):
        embed(texts, import_encoder(nested_network, root=place))


def test_a_table_needs_an_encoder_for_tables(place, bert):
    (place / "table.csv").write_text("size,colour\n1,red\n2,blue\n")
    with pytest.raises(UserError, match="embeds texts, but table/table@.* holds table; give it an encoder for table"):
        embed(load_table(place / "table.csv", root=place), bert)


def test_inputs_of_the_wrong_kind_are_refused(texts, bert, vectors):
    with pytest.raises(UserError, match="embed takes images or texts or table as its dataset, but encoder/tiny-bert@.* came"):
        embed(bert, bert)
    with pytest.raises(UserError, match="embed takes encoder or classifier as its encoder, but vectors/lines-tiny-bert@.* came"):
        embed(texts, vectors)


def test_a_damaged_encoder_is_refused_before_anything_is_embedded(texts, bert, place, tmp_path):
    root = tmp_path / "root"
    for artifact in (texts, bert):
        shutil.copytree(artifact.path, root / artifact.path.relative_to(place))
    copy = Artifact.open("encoder/tiny-bert", root)
    data = bytearray((copy / "model.keras").read_bytes())
    data[-200] ^= 255
    (copy / "model.keras").write_bytes(data)
    with pytest.raises(UserError, match="encoder/tiny-bert@.* is damaged: model.keras doesn't fit its checksum"):
        embed("texts/lines", "encoder/tiny-bert", root=root)
    assert not (root / "vectors").exists()


def test_what_is_written_is_read_bit_for_bit(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    vectors[0] = [np.finfo(np.float32).tiny / 4, -0.0, np.finfo(np.float32).max]  # a subnormal, a signed zero, the largest
    ids = np.array([2**63 - 1, 0, 1, 2, 3])
    write_vectors(tmp_path / "part.parquet", ids, vectors)
    table = pq.read_table(tmp_path / "part.parquet")
    assert table["id"].to_numpy().tolist() == ids.tolist()
    assert table["vector"].combine_chunks().flatten().to_numpy().tobytes() == vectors.tobytes()


def test_the_same_part_has_the_same_bytes(texts, bert, vectors, tmp_path, place):
    root = tmp_path / "root"
    for artifact in (texts, bert):
        shutil.copytree(artifact.path, root / artifact.path.relative_to(place))
    again = embed("texts/lines", "encoder/tiny-bert", Embed(rows_per_part=20), root=root)
    assert again.manifest.files == vectors.manifest.files


def test_an_encoder_learned_from_the_dataset_lends_its_name(texts, tiny_bert):
    own = import_encoder(tiny_bert, ImportEncoder(pooling="cls"), name="lines-cls", root=texts.root)
    assert embed(texts, own).manifest.name == "lines-cls"


# Tables


@pytest.fixture(scope="module")
def goods(place):
    """60 rows of a table in several files of rows: two numbers, of which one has gaps, and a colour."""
    return table_of(place / "goods.csv", [f"{n % 7 / 2},{n if n % 5 else ''},{('red', 'blue')[n % 2]}" for n in range(60)])


def table_of(path, lines, header="size,depth,colour"):
    path.write_text("\n".join([header, *lines]) + "\n")
    return load_table(path, LoadTable(rows_per_part=25), root=path.parent)


@pytest.fixture(scope="module")
def columns(goods):
    return make_control(goods)


def test_a_table_is_embedded_like_texts(goods, columns):
    ids, found = read_vectors(embed(goods, columns, Embed(rows_per_part=20)))
    assert ids.tolist() == read_rows(goods)["id"].to_pylist()
    rows = read_contents(goods, 0, 60).to_pylist()
    assert rows[5] == {"size": 2.5, "depth": None, "colour": "blue"}
    assert np.array_equal(found, Encoder.open(columns).encode(rows))
    assert found[5].tolist() == pytest.approx([2.5 / 1.5 - 1, 0, 1, 1, 0])


def test_a_table_that_is_wider_is_embedded_by_the_columns_of_the_encoder(goods, columns, place):
    wider = table_of(place / "wider.csv", ["9,red,1.5,30", "8,blue,3,"], "more,colour,size,depth")
    found = read_vectors(embed(wider, columns))[1]
    assert np.array_equal(found, Encoder.open(columns).encode(read_contents(wider, 0, 2).to_pylist()))


def test_a_table_without_a_column_of_the_encoder_is_refused(columns, place):
    with pytest.raises(UserError, match="there is no column 'size' and no 'colour'; give all columns that the encoder was made"):
        embed(table_of(place / "narrower.csv", ["1,2", "2,3"], "depth,more"), columns)


def test_a_table_with_a_column_of_another_type_is_refused(columns, place):
    other = table_of(place / "other.csv", ["1,,red", "2,deep,blue"])
    with pytest.raises(UserError, match="column 'depth' takes numbers, but 'deep' came; give what it held when the encoder was"):
        embed(other, columns)


def test_a_number_too_far_from_the_training_rows_names_its_row(columns, place):
    far = table_of(place / "far.csv", ["1,2,red", "1e300,2,blue"])
    row = read_rows(far)["id"].to_pylist()[1]
    words = f"1 of 2 rows can't be embedded, more than 1%: row {row}: its vector is not finite; look at such rows, check the"
    with pytest.raises(UserError, match=words):
        embed(far, columns)


def test_an_encoder_of_tables_embeds_tables_only(texts, columns):
    with pytest.raises(UserError, match="encoder/goods-control@.* embeds table, but texts/lines@.* holds texts; give it an"):
        embed(texts, columns)


def test_a_row_of_a_table_is_searched_for_by_its_values_and_shown_by_them(goods, columns):
    index = build_index(embed(goods, columns))
    ((found, *_),) = search(index, [{"size": 2.5, "depth": None, "colour": "blue"}])
    assert (found.content, found.score) == ("size=2.5, colour=blue", pytest.approx(1))
    with pytest.raises(UserError, match="rows of a table are encoded here, but str came: 'blue'; give dictionaries"):
        search(index, ["blue"])
