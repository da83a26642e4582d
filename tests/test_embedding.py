"""embed: every row of a dataset, once and in order, part by part."""

import io
import logging
import queue
import re
import shutil
import threading

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
    TrainHead,
    Training,
    UserError,
    build_index,
    embed,
    embedding,
    engines,
    import_encoder,
    load_images,
    load_table,
    load_texts,
    make_control,
    search,
    train_head,
)
from embedkit.artifacts import sha256
from embedkit.datasets import read_contents, read_rows
from embedkit.embedding import Where, crew, make_parts
from embedkit.feeding import Part
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


def test_a_phase_that_took_no_time_is_named_too(texts, bert, monkeypatch):
    monkeypatch.setattr(Part, "spent", lambda part, phase, since: part.seconds.setdefault(phase, 0.0))
    made = embed(texts, bert, Embed(rows_per_part=10), name="at-once")
    assert {name: spent for name, spent in made.manifest.timings.items() if name != "rows_per_second"} == {
        phase: 0 for phase in ("forward", "prepare", "read", "wait", "write")
    }


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


# Some of the rows


def ids_of(dataset, **equal):
    """Ids of the rows whose columns have these values, in the dataset's order."""
    return [row["id"] for row in read_rows(dataset).to_pylist() if all(row[name] == value for name, value in equal.items())]


@pytest.fixture(scope="module")
def keyed(place):
    """60 rows of a table with the ids 0, 2, 4 ... in turned order, in three splits, with a label."""
    lines = [f"{2 * n},{n},{('train', 'test', 'train', 'validation')[n % 4]},{('low', 'high')[n % 7 > 3]}" for n in range(60)]
    (place / "keyed.csv").write_text("\n".join(["key,size,split,label", *reversed(lines)]) + "\n")
    return load_table(place / "keyed.csv", LoadTable(key_column="key", split_column="split", duplicates="keep"), root=place)


@pytest.fixture(scope="module")
def keyed_control(keyed):
    return make_control(keyed)


@pytest.fixture(scope="module")
def keyed_vectors(keyed, keyed_control):
    ids, found = read_vectors(embed(keyed, keyed_control))
    return dict(zip(ids.tolist(), found.tolist(), strict=True))


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (Embed(where=Where(split="test"), rows_per_part=4), "keyed-control-test"),
        (Embed(where=Where(from_id=40, to_id=50)), "keyed-control-from-40-to-50"),
        (Embed(where=Where(from_id=101)), "keyed-control-from-101"),
        (Embed(where=Where(split="validation", to_id=30), limit=2), "keyed-control-validation-to-30-first-2"),
        (Embed(limit=7, rows_per_part=5), "keyed-control-first-7"),
        (Embed(limit=1000, rows_per_part=50), "keyed-control-first-1000"),
    ],
)
def test_only_the_rows_that_are_asked_for_are_embedded_and_the_name_says_so(keyed, keyed_control, keyed_vectors, settings, name):
    made = embed(keyed, keyed_control, settings)
    where = settings.where
    rows = ids_of(keyed, split=where.split) if where.split else ids_of(keyed)
    low, high = where.from_id or 0, 1000 if where.to_id is None else where.to_id
    rows = [row for row in rows if low <= row <= high][: settings.limit]
    ids, found = read_vectors(made)
    assert rows and ids.tolist() == rows
    assert found.tolist() == [keyed_vectors[row] for row in rows]
    assert (made.manifest.name, made.manifest.rows, made.manifest.details["parts"]) == (
        name,
        len(rows),
        -(-len(rows) // settings.rows_per_part),
    )


def test_where_no_row_is_left_it_is_said_which_were_wanted(keyed, keyed_control):
    words = "table/keyed@.* has no row with split test, from_id 118; see its splits and ids in rows.parquet, or ask for others"
    with pytest.raises(UserError, match=words):
        embed(keyed, keyed_control, Embed(where=Where(split="test", from_id=118)))


# Equal rows, earlier vectors


@pytest.fixture
def embedded_rows(monkeypatch):
    """How many rows of each batch the network was asked for."""
    sizes, ask = [], Encoder.embedded

    def asked(self, batch, folds):
        sizes.append(len(folds))
        return ask(self, batch, folds)

    monkeypatch.setattr(Encoder, "embedded", asked)
    return sizes


def test_equal_rows_are_embedded_once_in_each_part(place, embedded_rows):
    copies = table_of(place / "copies.csv", ["1,red", "2,red", "1,red", "1,red", "3,blue", "1,red", "2,red"], "size,colour")
    control = make_control(copies)
    embedded_rows.clear()
    made = embed(copies, control, Embed(rows_per_part=4))
    assert sorted(embedded_rows) == [2, 3]
    assert made.manifest.details["equal_rows"] == 2
    assert read_vectors(made)[1][:, 0].tolist() == [-1, 0, -1, -1, 1, -1, 0]


def test_rows_of_an_earlier_state_keep_their_vectors_and_only_others_are_embedded(texts, bert, vectors, place, embedded_rows):
    lines = read_contents(texts, 0, 50)["text"].to_pylist()
    later = [*lines[40:], "a new text", *lines[10:30], "another one that is new", lines[5] + " changed"]
    (place / "later.txt").write_text("\n".join(later) + "\n")
    dataset = load_texts(place / "later.txt", root=place)
    made = embed(dataset, bert, Embed(rows_per_part=9), previous=vectors)
    assert sum(embedded_rows) == 3 and made.manifest.details["kept_rows"] == 30
    old = dict(zip(lines, read_vectors(vectors)[1], strict=True))
    found = dict(zip(later, read_vectors(made)[1], strict=True))
    assert all(found[line].tobytes() == old[line].tobytes() for line in later if line in old)
    assert np.stack([*found.values()]) == pytest.approx(Encoder.open(bert).encode(later), abs=1e-6)
    assert [given.role for given in made.manifest.inputs] == ["dataset", "encoder", "previous"]


def test_earlier_vectors_of_another_encoder_are_refused(texts, tiny_bert, vectors):
    other = import_encoder(tiny_bert, ImportEncoder(pooling="max"), name="largest", root=texts.root)
    words = "vectors/lines-tiny-bert@.* are vectors of another encoder than encoder/largest@.*; give earlier ones of the same, or"
    with pytest.raises(UserError, match=words):
        embed(texts, other, previous=vectors)


def test_int8_vectors_are_not_mixed_with_others(texts, bert, vectors):
    words = "vectors/lines-tiny-bert@.* can't be mixed with int8 vectors, which differ from others; leave out previous"
    with pytest.raises(UserError, match=words):
        embed(texts, bert, Embed(engine="openvino", precision="int8"), previous=vectors)


# Rows that can't be embedded


@pytest.fixture
def half_broken(pictures, nested_network, place, tmp_path):
    """The nine pictures, of which the second and the last are damaged behind right checksums, and an encoder."""
    artifact = import_encoder(nested_network, root=place)
    root = tmp_path / "root"
    for each in (pictures, artifact):
        shutil.copytree(each.path, root / each.path.relative_to(place))
    copy = Artifact.open(str(pictures), root)
    for name, row in (("part-00000.parquet", 1), ("part-00002.parquet", 0)):
        table = pq.read_table(copy / name)
        contents = table["image"].to_pylist()
        contents[row] = contents[row][:200]
        pq.write_table(table.set_column(0, "image", pa.array(contents, pa.binary())), copy / name)
    reseal(copy)
    return Artifact.open(str(pictures), root), Artifact.open(str(artifact), root)


def reseal(artifact):
    """Make an artifact's checksums those of what lies there."""
    files = [
        file.model_copy(update={"bytes": (artifact / file.path).stat().st_size, "sha256": sha256(artifact / file.path)})
        for file in artifact.manifest.files
    ]
    (artifact / "manifest.json").write_bytes(artifact.manifest.model_copy(update={"files": files}).sealed())


def test_pictures_that_are_damaged_are_set_aside_with_a_reason(half_broken, place):
    dataset, encoder = half_broken
    made = embed(dataset, encoder, Embed(rows_per_part=4, max_set_aside=1))
    rows = ids_of(dataset)
    aside = pq.read_table(made / "set_aside.parquet").to_pylist()
    assert [line["id"] for line in aside] == [rows[1], rows[8]]
    assert all(line["reason"].startswith("not a readable picture (") for line in aside)
    assert made.manifest.notes == [
        f"2 rows have no vector and lie in set_aside.parquet; the first is row {rows[1]}: {aside[0]['reason']}"
    ]
    assert (made.manifest.rows, made.manifest.details["set_aside"], made.manifest.details["parts"]) == (7, 2, 3)
    ids, found = read_vectors(made)
    assert ids.tolist() == [row for number, row in enumerate(rows) if number not in (1, 8)]
    paths = [place / "pictures" / f"{number}.png" for number in (0, 2, 3, 4, 5, 6, 7)]
    assert found == pytest.approx(Encoder.open(encoder).encode(paths), rel=1e-5, abs=1e-5)


def test_too_many_rows_that_cannot_be_embedded_stop_the_job(half_broken):
    dataset, encoder = half_broken
    words = (
        f"2 of 9 rows can't be embedded, more than 20%: row {ids_of(dataset)[1]}: not a readable picture .*; look at such rows, "
        "check the encoder's weights, or raise max_set_aside"
    )
    with pytest.raises(UserError, match=words):
        embed(dataset, encoder, Embed(rows_per_part=4, max_set_aside=0.2))
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("embedkit-")] == []
    assert embed(dataset, encoder, Embed(rows_per_part=4, max_set_aside=0.23)).manifest.rows == 7


def test_a_job_stops_as_soon_as_enough_rows_were_seen(half_broken, monkeypatch):
    monkeypatch.setattr(embedding, "LEAST_ROWS", 4)
    with pytest.raises(UserError, match="1 of [45] rows can't be embedded, more than 10%"):
        embed(*half_broken, Embed(rows_per_part=1, max_set_aside=0.1))


def test_a_picture_is_not_set_aside_for_a_format_that_is_decoded_at_a_smaller_scale(nested_network, place):
    data = io.BytesIO()
    pixels = np.add.outer(np.arange(300), np.arange(400)) * 255 / 698
    Image.fromarray(pixels.astype(np.uint8)).save(data, "jpeg")
    (place / "large").mkdir()
    for number, cut in enumerate((0, 2, len(data.getvalue()) // 2)):  # whole, without its end mark, without its half
        (place / "large" / f"{number}.jpg").write_bytes(data.getvalue()[: len(data.getvalue()) - cut])
    dataset = load_images(place / "large", LoadImages(max_unreadable=0.9), root=place)
    made = embed(dataset, import_encoder(nested_network, root=place))
    assert made.manifest.details["set_aside"] == 0
    assert 1 <= dataset.manifest.rows == made.manifest.rows < 3


def test_vectors_without_any_row_can_be_read_and_be_earlier_ones(columns, place):
    far = table_of(place / "farther.csv", ["1e300,2,blue", "1e301,2,blue"])
    made = embed(far, columns, Embed(rows_per_part=1, max_set_aside=1))
    ids, found = read_vectors(made)
    assert (ids.tolist(), found.shape, made.manifest.rows) == ([], (0, 5), 0)
    nearer = table_of(place / "nearer.csv", ["1,2,blue"])
    assert embed(nearer, columns, previous=made).manifest.details["kept_rows"] == 0


# What is trained on some of the rows

BRIEF = TrainHead(training=Training(epochs=2, preflight=False, learning_rate=0.01))


@pytest.mark.parametrize("settings", [Embed(limit=41), Embed(where=Where(from_id=30, to_id=110))], ids=["limit", "where"])
def test_a_head_learns_and_is_measured_on_the_rows_that_have_vectors(keyed, keyed_control, settings):
    vectors = embed(keyed, keyed_control, settings)
    test = set(ids_of(keyed, split="test")) & set(read_vectors(vectors)[0].tolist())
    assert train_head(vectors, BRIEF).manifest.metrics["accuracy"].n == len(test) < 15
    only = embed(vectors.inputs["dataset"], vectors.inputs["encoder"], Embed(where=Where(split="train")))
    words = r"hold no test and no validation rows of table/.*; embed these too \(`where` and `limit`\)"
    with pytest.raises(UserError, match=words):
        train_head(only, BRIEF)


def test_a_head_works_without_rows_that_were_set_aside(place):
    splits, far = ("train", "test", "train", "validation"), {7: "e300", 13: "e300"}  # a validation row and a test row
    lines = [f"{n}{far.get(n, '')},{splits[n % 4]},{n % 7 > 3}" for n in range(60)]
    dataset = load_table_of(place / "aside.csv", lines)
    fine = load_table_of(place / "fine.csv", [line for line in lines if "e300" not in line])
    vectors = embed(dataset, make_control(fine), Embed(max_set_aside=0.5))
    assert vectors.manifest.details["set_aside"] == 2
    assert train_head(vectors, BRIEF).manifest.metrics["accuracy"].n == 14


def load_table_of(path, lines):
    path.write_text("\n".join(["size,split,label", *lines]) + "\n")
    return load_table(path, LoadTable(split_column="split", duplicates="keep"), root=path.parent)


# Engines


def test_a_short_job_runs_the_plain_way_and_says_why(vectors):
    decision = {"engine": "keras", "precision": "float32", "why": "fewer than 1,000 rows"}
    assert vectors.manifest.decisions == {"engine": decision}


def test_a_job_that_would_be_done_soon_is_not_measured(texts, bert, monkeypatch):
    monkeypatch.setattr(embedding, "LEAST_ROWS", 10)
    made = embed(texts, bert, name="soon", settings=Embed(rows_per_part=49))
    assert made.manifest.decisions["engine"] == {"engine": "keras", "precision": "float32", "why": "done in less than 60 s"}


def test_auto_says_what_it_is_doing_and_how_long_that_takes(texts, bert, favoured, caplog):
    favoured("tensorflow")
    caplog.set_level(logging.INFO, "embedkit")
    embed(texts, bert, name="said", settings=Embed(rows_per_part=11))
    said = [line for line in caplog.messages if line.startswith("engine: ")]
    assert said[0] == "engine: timing the network on 11 of 50 rows"
    words = r"engine: with keras float32 50 rows in about \d+ s; measuring keras float32, tensorflow float32, which takes"
    assert re.fullmatch(words + r" about \d+ s", said[1])
    assert said[2:] == ["engine: tensorflow float32 is the fastest, 50 rows in about 25 s"]


def test_an_engine_that_is_asked_for_is_used_and_recorded(texts, bert, vectors):
    made = embed(texts, bert, Embed(engine="tensorflow", precision="float32", rows_per_part=20))
    assert made.manifest.decisions["engine"] == {
        **{"engine": "tensorflow", "precision": "float32"},
        "measured": [{"engine": "tensorflow", "precision": "float32", "agreement": pytest.approx(1, abs=1e-6)}],
    }
    assert (made.manifest.details["engine"], made.manifest.details["precision"]) == ("tensorflow", "float32")
    assert read_vectors(made)[1] == pytest.approx(read_vectors(vectors)[1], abs=1e-6)


def test_products_in_bfloat16_are_recorded_and_near_the_others(texts, bert, vectors, monkeypatch):
    monkeypatch.setattr(engines, "has_bfloat16", lambda: True)  # TensorFlow computes in it on any processor
    made = embed(texts, bert, Embed(precision="bfloat16", engine="tensorflow"))
    assert (made.manifest.details["engine"], made.manifest.details["precision"]) == ("tensorflow", "bfloat16")
    assert made.manifest.decisions["engine"]["measured"][0]["agreement"] < 1
    found, expected = read_vectors(made)[1], read_vectors(vectors)[1]
    assert 0.9999 < (found * expected).sum(axis=1).min() and not np.array_equal(found, expected)


def test_an_engine_that_is_not_here_is_refused(texts, bert, monkeypatch):
    monkeypatch.setattr(engines, "openvino_is_installed", lambda: False)
    with pytest.raises(UserError, match="openvino is not installed; run"):
        embed(texts, bert, Embed(engine="openvino"))


@pytest.fixture
def favoured(monkeypatch):
    """Jobs are measured, and the engine of this name is found to be the fastest."""
    monkeypatch.setattr(embedding, "LEAST_ROWS", 10)
    monkeypatch.setattr(embedding, "LEAST_SECONDS", 0)
    monkeypatch.setattr(engines, "has_bfloat16", lambda: False)
    monkeypatch.setattr(engines, "openvino_is_installed", lambda: False)

    def favour(name):
        monkeypatch.setattr(engines, "rate", lambda engine, _: 2.0 if engine.name == name else 1.0)

    return favour


class Stopped(Exception):
    """A job is stopped."""


def stop_at(monkeypatch, part):
    """Stop a job before this many parts are written."""
    write, done = embedding.write_vectors, []

    def stopping(path, ids, vectors):
        if len(done) == part:
            raise Stopped
        done.append(path.name)
        write(path, ids, vectors)

    monkeypatch.setattr(embedding, "write_vectors", stopping)
    return done


def begin(monkeypatch, *call):
    """Make the first part of a job, and stop."""
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        stop_at(patch, 1)
        embed(*call)


def test_a_job_that_goes_on_keeps_the_engine_it_began_with(texts, bert, favoured, monkeypatch):
    favoured("tensorflow")
    settings = Embed(rows_per_part=13)
    begin(monkeypatch, texts, bert, settings)
    favoured("keras")
    done, built, build = stop_at(monkeypatch, 100), [], engines.build
    monkeypatch.setattr(engines, "build", lambda *given, **more: built.append(given[1].engine) or build(*given, **more))
    made = embed(texts, bert, settings)
    assert len(done) == 3 and made.manifest.details["parts"] == 4
    assert built == ["tensorflow"]  # it isn't measured again
    assert made.manifest.details["engine"] == made.manifest.decisions["engine"]["engine"] == "tensorflow"
    assert [line["rows_per_second"] for line in made.manifest.decisions["engine"]["measured"]] == [1.0, 2.0]


def test_a_job_is_not_gone_on_with_where_its_engine_gives_other_vectors(texts, bert, favoured, monkeypatch):
    favoured("tensorflow")
    settings = Embed(rows_per_part=12)
    begin(monkeypatch, texts, bert, settings)
    build = engines.build

    def other(*given, **more):
        made = build(*given, **more)
        return engines.Engine(made.name, made.precision, made.streams, lambda batch: 1.1 * made.run(batch))

    monkeypatch.setattr(engines, "build", other)
    words = (
        r"encoder/tiny-bert@.* in tensorflow float32, with which this job began, gives other vectors here \(agreement 0.99500\d, "
        r"at least 0.9999 is needed\); go on where it began, or take other settings"
    )
    with pytest.raises(UserError, match=words):
        embed(texts, bert, settings)


# Parts made by others


def copied(root, place, *given):
    """The same artifacts in another root, as references."""
    for artifact in given:
        shutil.copytree(artifact.path, root / artifact.path.relative_to(place))
    return [str(artifact) for artifact in given]


def by_threads(job, numbers, advance):
    """A crew of two threads, each with every other part."""
    finished = queue.SimpleQueue()

    def work(own):
        for number in own:
            make_parts(job, [number], advance)
            finished.put(number)

    threads = [threading.Thread(target=work, args=(numbers[first::2],)) for first in (0, 1)]
    for thread in threads:
        thread.start()
    for _ in numbers:
        yield finished.get(timeout=120)
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("engine", ["auto", "tensorflow"])
def test_parts_that_a_crew_makes_have_the_same_bytes(texts, bert, place, tmp_path, engine):
    settings = Embed(rows_per_part=6, engine=engine, precision="float32")
    given = copied(tmp_path / "alone", place, texts, bert)
    alone = embed(*given, settings, root=tmp_path / "alone")
    copied(tmp_path / "crew", place, texts, bert)
    with crew(by_threads):
        together = embed(*given, settings, root=tmp_path / "crew")
    assert together.manifest.files == alone.manifest.files
    assert together.manifest.details == alone.manifest.details
    assert together.manifest.decisions == alone.manifest.decisions


def test_a_crew_gets_only_parts_that_are_not_there_yet(texts, bert, place, tmp_path, monkeypatch):
    given = copied(tmp_path / "root", place, texts, bert)
    settings, asked = Embed(rows_per_part=10), []
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        stop_at(patch, 2)
        embed(*given, settings, root=tmp_path / "root")

    def noting(job, numbers, advance):
        asked.extend(numbers)
        return by_threads(job, numbers, advance)

    with crew(noting):
        made = embed(*given, settings, root=tmp_path / "root")
    assert len(asked) == 3 and made.manifest.rows == 50


def test_parts_that_a_crew_says_it_made_must_be_there(texts, bert, place, tmp_path):
    given = copied(tmp_path / "root", place, texts, bert)
    words = r"part 1 was made but isn't in .*; all workers need the same root"
    with crew(lambda job, numbers, advance: (number for number in [1])), pytest.raises(UserError, match=words):
        embed(*given, Embed(rows_per_part=10), root=tmp_path / "root")


def test_a_crew_is_asked_only_inside_its_block(texts, bert, place, tmp_path):
    with pytest.raises(KeyError), crew(lambda *_: iter([0])):
        raise KeyError
    given = copied(tmp_path / "root", place, texts, bert)
    assert embed(*given, root=tmp_path / "root").manifest.rows == 50
