"""build_index and search: the nearest rows, under their own ids, and never with another encoder."""

import re
import shutil

import faiss
import numpy as np
import pytest
from conftest import forged, reseal
from PIL import Image

from embedkit import (
    Artifact,
    BuildIndex,
    Encoder,
    ImportEncoder,
    LoadTexts,
    Search,
    Settings,
    UserError,
    build_index,
    embed,
    import_encoder,
    indexfile,
    load_images,
    load_texts,
    search,
)
from embedkit.artifacts import Dataset, EncoderArtifact
from embedkit.cli import main
from embedkit.datasets import read_contents, read_rows
from embedkit.index import recall, unit_length
from embedkit.stages import Draft, Facts, stage
from embedkit.vectors import read_vectors, write_vectors


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A root for artifacts that several tests look at."""
    return tmp_path_factory.mktemp("index")


@pytest.fixture(scope="module")
def texts(place):
    """60 texts with keys of their own, in three files of rows."""
    words = "the a cat dog sat ran on mat moon red blue green good bad film".split()
    random = np.random.default_rng(0)
    lines = [f"{' '.join(random.choice(words, 4))} {number},{1000 + 7 * number}" for number in range(60)]
    (place / "films.csv").write_text("text,key\n" + "\n".join(lines) + "\n")
    return load_texts(place / "films.csv", LoadTexts(key_column="key", rows_per_part=25), root=place)


@pytest.fixture(scope="module")
def bert(tiny_bert, place):
    return import_encoder(tiny_bert, root=place)


@pytest.fixture(scope="module")
def vectors(texts, bert):
    return embed(texts, bert)


@pytest.fixture(scope="module")
def index(vectors):
    return build_index(vectors)


# Spelled vectors: texts that spell their own, so that neighbours are known --------------------------------------------


class Spell(Settings):
    """How spelled vectors are read."""

    encoder: str = "5" * 64
    """Identity of the encoder they are said to come from."""


@stage("vectors", revision=1)
def spell(out: Draft, dataset: Dataset, encoder: EncoderArtifact, settings: Spell = Spell()) -> Facts:
    """Read each row's vector from its text."""
    rows = read_contents(dataset, 0, dataset.manifest.rows)["text"].to_pylist()
    vectors = np.array([[float(number) for number in row.split()] for row in rows], np.float32)
    write_vectors(out / "vectors-00000.parquet", read_rows(dataset)["id"].to_numpy(), vectors)
    details = {"encoder": settings.encoder, "modality": "texts", "dimension": vectors.shape[1], "parts": 1}
    return Facts(rows=len(rows), details=details)


@stage("encoder", revision=1)
def stand_in(out: Draft, dataset: Dataset, settings: Settings = Settings()) -> Facts:
    """Stand in for an encoder where vectors are spelled."""
    (out / "encoder.json").write_text("{}")
    return Facts(details={"identity": "5" * 64})


def spelled(path, lines, **settings):
    path.write_text("text,key\n" + "".join(f"{line},{number}\n" for number, line in enumerate(lines)))
    rows = load_texts(path, LoadTexts(key_column="key"))
    return spell(rows, stand_in(rows), Spell(**settings))


def found(neighbours):
    return [[(neighbour.id, round(neighbour.score, 4)) for neighbour in line] for line in neighbours]


# What is found ------------------------------------------------------------------------------------------------------


def test_neighbours_are_the_rows_of_the_highest_cosine_whatever_their_length(tmp_path):
    rows = build_index(spelled(tmp_path / "rows.csv", ["100 0", "0 3", "-1 0", "0.6 0.8"]))
    queries = spelled(tmp_path / "queries.csv", ["2 0", "0 0.1"])
    right, up = found(search(rows, queries, Search(k=4)))
    assert right == [(0, 1.0), (3, 0.6), (1, 0.0), (2, -1.0)]
    assert up[:2] == [(1, 1.0), (3, 0.8)]
    assert sorted(up[2:]) == [(0, 0.0), (2, 0.0)]


def test_a_neighbour_has_its_rows_text(tmp_path):
    rows = build_index(spelled(tmp_path / "rows.csv", ["1 0", "0 1"]))
    ((nearest,),) = search(rows, spelled(tmp_path / "queries.csv", ["1 0.1"]), Search(k=1))
    assert (nearest.id, nearest.content) == (0, "1 0")


def test_a_vector_of_length_0_is_near_nothing(tmp_path):
    rows = build_index(spelled(tmp_path / "rows.csv", ["0 0", "0 1", "1 0"]))
    (line,) = search(rows, spelled(tmp_path / "queries.csv", ["0 1"]), Search(k=3))
    assert [(neighbour.id, neighbour.score) for neighbour in line][:1] == [(1, 1.0)]
    assert {(neighbour.id, neighbour.score) for neighbour in line[1:]} == {(0, 0.0), (2, 0.0)}


def test_unit_length_leaves_zeros_and_gives_rows_that_faiss_takes():
    made = unit_length(np.array([[3.0, 4.0], [0.0, 0.0]])[:, ::-1])
    assert made == pytest.approx(np.array([[0.8, 0.6], [0.0, 0.0]]))
    assert (made.dtype, made.flags["C_CONTIGUOUS"]) == (np.float32, True)


def test_ids_are_the_datasets_own_and_stored_in_the_index(texts, index):
    stored = faiss.read_index(str(index / "index.faiss"))
    ids = faiss.vector_to_array(stored.id_map).tolist()
    assert ids == read_rows(texts)["id"].to_pylist() == [1000 + 7 * number for number in range(60)]
    rows = read_contents(texts, 0, 60)["text"].to_pylist()
    (line,) = search(index, ["the cat"], Search(k=60))
    assert {(neighbour.id, neighbour.content) for neighbour in line} == set(zip(ids, rows, strict=True))


def test_a_text_finds_itself(texts, index):
    rows = read_contents(texts, 0, 60)["text"].to_pylist()
    for query, line in zip(rows[::9], search(index, rows[::9], Search(k=3)), strict=True):
        assert line[0].content == query
        assert line[0].score == pytest.approx(1, abs=1e-5)
        assert [neighbour.score for neighbour in line] == sorted((neighbour.score for neighbour in line), reverse=True)


def test_vectors_as_queries_find_what_their_texts_find(texts, vectors, index):
    rows = read_contents(texts, 0, 60)["text"].to_pylist()
    by_vector, by_text = search(index, vectors, Search(k=4)), search(index, rows, Search(k=4))
    assert [[near.id for near in line] for line in by_vector] == [[near.id for near in line] for line in by_text]


def test_a_picture_finds_itself_and_its_path(tmp_path, photos, nested_network):
    encoder = import_encoder(nested_network)
    made = build_index(embed(load_images(photos), encoder))
    query = photos / "left" / "013.png"
    with Image.open(query) as picture:
        pixels = np.asarray(picture)
    found = search(made, [query, str(query), query.read_bytes(), pixels], Search(k=1))
    assert [(nearest.content, round(nearest.score, 5)) for (nearest,) in found] == [("left/013.png", 1.0)] * 4


def test_references_do_as_well_as_artifacts(index, vectors, place, monkeypatch):
    expected = found(search(index, vectors))
    assert found(search("index/films-tiny-bert", vectors, root=place)) == expected
    monkeypatch.setenv("EMBEDKIT_ARTIFACTS", str(place))
    assert found(search("index/films-tiny-bert", vectors)) == expected


def test_more_neighbours_than_rows_are_all_rows(index, vectors):
    assert {len(line) for line in search(index, vectors, Search(k=1000))} == {60}


def test_no_query_finds_nothing(index):
    assert search(index, []) == []


# How well ------------------------------------------------------------------------------------------------------------


def test_an_exact_index_has_a_recall_of_1(index):
    metric = index.manifest.metrics["recall_at_10"]
    assert (metric.value, metric.n) == (1.0, 60)
    assert index.manifest.details["method"] == "exact"
    assert index.manifest.rows == 60


def crowd(path, count=400, dimension=8):
    random = np.random.default_rng(0)
    return spelled(path, [" ".join(f"{number:.4f}" for number in row) for row in random.normal(size=(count, dimension))])


def test_hnsw_finds_nearly_all_true_neighbours(tmp_path):
    found = build_index(crowd(tmp_path / "crowd.csv"), BuildIndex(method="hnsw"))
    assert 0.95 < found.manifest.metrics["recall_at_10"].value <= 1
    assert found.manifest.details["method"] == "hnsw"


def test_less_effort_finds_less_and_the_manifest_says_so(tmp_path):
    vectors = crowd(tmp_path / "crowd.csv")
    settings = BuildIndex(method="hnsw", links=2, effort_building=2, effort_searching=1)
    poor = build_index(vectors, settings)
    metric = poor.manifest.metrics["recall_at_10"]
    assert metric.value < 0.9
    ids, rows = read_vectors(vectors)
    stored = faiss.read_index(str(poor / "index.faiss"))
    cosines = unit_length(rows) @ unit_length(rows).T
    true = ids[np.argsort(-cosines, axis=1)[:, :10]]
    _, given = stored.search(unit_length(rows), 10)
    by_hand = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(true.tolist(), given.tolist(), strict=True)])
    assert metric.value == pytest.approx(by_hand, abs=0.01)


def test_recall_of_fewer_rows_than_ten_counts_those_there_are():
    rows = unit_length(np.eye(3))
    whole = faiss.IndexIDMap2(faiss.IndexFlatIP(3))
    whole.add_with_ids(rows, np.array([5, 6, 7]))
    assert recall(whole, rows, np.array([5, 6, 7]), rows).value == 1.0
    half = faiss.IndexIDMap2(faiss.IndexFlatIP(3))
    half.add_with_ids(rows[:1], np.array([5]))
    assert recall(half, rows, np.array([5, 6, 7]), rows).value == pytest.approx(1 / 3)


def test_neighbours_that_a_poor_graph_does_not_reach_are_left_out(tmp_path):
    settings = BuildIndex(method="hnsw", links=2, effort_building=1, effort_searching=1)
    rows = build_index(crowd(tmp_path / "crowd.csv", 300), settings)
    (line,) = search(rows, spelled(tmp_path / "query.csv", ["1 0 0 0 0 0 0 0"]), Search(k=300))
    assert 0 < len(line) < 300
    assert min(neighbour.id for neighbour in line) >= 0
    assert all(-1.001 <= neighbour.score <= 1.001 for neighbour in line)


def test_a_graph_of_one_link_is_refused_because_faiss_crashes_on_it():
    with pytest.raises(ValueError, match="links"):
        BuildIndex(method="hnsw", links=1)


@pytest.mark.parametrize("method", ["exact", "hnsw"])
def test_the_same_vectors_give_the_same_bytes(tmp_path, method):
    vectors = crowd(tmp_path / "crowd.csv")
    shutil.copytree(tmp_path / "artifacts", tmp_path / "copy")
    here = build_index(vectors, BuildIndex(method=method))
    there = build_index(str(vectors), BuildIndex(method=method), root=tmp_path / "copy")
    assert here.path != there.path
    assert here.manifest.files == there.manifest.files


def test_an_index_of_the_same_vectors_from_another_dataset_shows_that_datasets_texts(tmp_path):
    first = build_index(spelled(tmp_path / "rows.csv", ["1 0", "0 1"]))
    second = build_index(spelled(tmp_path / "rows.csv", ["1.0 0", "0.0 1"]))
    query = spelled(tmp_path / "query.csv", ["1 0.1"])
    assert search(first, query, Search(k=1))[0][0].content == "1 0"
    assert search(second, query, Search(k=1))[0][0].content == "1.0 0"


# What is refused ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def other(tiny_bert, place):
    """Another encoder of the same network and dimension."""
    return import_encoder(tiny_bert, ImportEncoder(pooling="cls"), name="other", root=place)


def test_another_encoder_is_refused_by_name(index, bert, other):
    words = f"{index} was built from vectors of {bert}, but {other} is another encoder; embed the queries with {bert}"
    with pytest.raises(UserError, match=words):
        search(index, ["a cat"], encoder=other)


def test_vectors_of_another_encoder_are_refused_by_name(index, texts, bert, other):
    made = embed(texts, other)
    words = f"{index} was built from vectors of {bert}, but {made} was made by another encoder; embed the queries with {bert}"
    with pytest.raises(UserError, match=words):
        search(index, made)


def test_the_same_encoder_under_another_name_is_welcome(index, tiny_bert, tmp_path, place):
    folder = shutil.copytree(tiny_bert, tmp_path / "moved")
    (folder / "README.md").write_text("not part of the network")
    moved = import_encoder(folder, root=place)
    assert moved.manifest.name == "moved"
    assert found(search(index, ["a cat"], encoder=moved)) == found(search(index, ["a cat"]))


def test_queries_of_another_modality_are_refused(index):
    with pytest.raises(UserError, match="texts are encoded here, but bytes came: b'a cat'; give str"):
        search(index, [b"a cat"])


def test_one_text_that_is_not_in_a_list_is_refused(index):
    with pytest.raises(UserError, match="one str came where several rows are expected; put it in a list"):
        search(index, "a cat")


def test_artifacts_that_hold_no_vectors_are_refused_as_queries(index, texts, bert):
    for wrong in (index, texts, bert):
        with pytest.raises(UserError, match=f"{wrong}.* vectors"):
            search(index, wrong)


def test_what_is_no_index_is_refused(vectors):
    with pytest.raises(UserError, match="vectors/films-tiny-bert@.* is no index; build one with `embedkit build-index VECTORS`"):
        search(vectors, ["a cat"])


def test_what_is_no_vectors_cannot_be_indexed(bert):
    with pytest.raises(UserError, match="build_index takes vectors as its vectors, but encoder/tiny-bert@.* came; give it one"):
        build_index(bert)


def test_an_unknown_index_is_refused_with_near_ones(index, place):
    with pytest.raises(UserError, match="artifact 'index/films-tiny-bird' is not known; did you mean 'index/films-tiny-bert'"):
        search("index/films-tiny-bird", ["a cat"], root=place)


def test_a_damaged_index_is_refused_before_faiss_reads_it(index, tmp_path):
    copy = shutil.copytree(index.path, tmp_path / index.path.relative_to(index.root))
    data = bytearray((copy / "index.faiss").read_bytes())
    data[-3] ^= 1
    (copy / "index.faiss").write_bytes(data)
    with pytest.raises(UserError, match="index/films-tiny-bert@.* is damaged: index.faiss doesn't fit its checksum; make it again"):
        search(Artifact.at(copy), ["a cat"])


@pytest.mark.parametrize("k", [0, -1])
def test_a_number_of_neighbours_below_1_is_refused(k):
    with pytest.raises(ValueError, match="k\n"):
        Search(k=k)


def test_the_index_carries_the_encoders_identity(index, bert):
    assert index.manifest.details["encoder"] == Encoder.open(bert).facts.identity


# Files, manifests and settings that were crafted ------------------------------------------------------------------------


def small(method="flat", links=4):
    """60 vectors of length 1, their ids, and an index of them."""
    vectors = unit_length(np.random.default_rng(0).normal(size=(60, 8)))
    inner = faiss.IndexFlatIP(8) if method == "flat" else faiss.IndexHNSWFlat(8, links, faiss.METRIC_INNER_PRODUCT)
    made = faiss.IndexIDMap2(inner)
    made.add_with_ids(vectors, np.arange(60) + 1000)
    return faiss.serialize_index(made).tobytes()


def with_(data, place, number, kind):
    new = np.array([number], kind).tobytes()
    return data[:place] + new + data[place + len(new) :]


FLAT, GRAPH = small(), small("hnsw")


@pytest.mark.parametrize("links", [2, 3, 32, indexfile.MOST_LINKS])
def test_what_build_index_writes_is_read(tmp_path, links):
    for data in (FLAT, small("hnsw", links)):
        (tmp_path / "index.faiss").write_bytes(data)
        assert indexfile.check(tmp_path / "index.faiss", "it", 8, 60).tolist() == [*range(1000, 1060)]


def test_a_graph_of_no_rows_is_read(tmp_path):
    none = faiss.IndexIDMap2(faiss.IndexHNSWFlat(8, 4, faiss.METRIC_INNER_PRODUCT))
    faiss.write_index(none, str(tmp_path / "index.faiss"))
    assert indexfile.check(tmp_path / "index.faiss", "it", 8, 0).tolist() == []


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "ends too early"),
        (FLAT[:50], "ends too early"),
        (GRAPH[:-1], "ends too early"),
        (FLAT + b"x", "goes on behind its end"),
        (b"IwFl" + FLAT[4:], "holds an index of the kind b'IwFl', which build_index doesn't write"),
        (faiss.serialize_index(faiss.index_factory(8, "HNSW4,SQ8")).tobytes(), "holds an index of the kind b'IHNs'"),
        (with_(FLAT, 4, 9, "<i4"), "holds 60 vectors of 9 numbers instead of 60 of 8"),
        (with_(GRAPH, 37 + 8, 2**40, "<i8"), "holds 1,099,511,627,776 vectors of 8 numbers instead of 60 of 8"),
        (with_(FLAT, 33, 1, "<i4"), "doesn't compare by inner product"),
        (with_(FLAT, 32, 0, "<u1"), "doesn't compare by inner product"),
        (with_(FLAT, 74, 2**60, "<u8"), "holds 1,152,921,504,606,846,976 numbers in its vectors instead of 480"),
        (with_(FLAT, 82, np.nan, "<f4"), "has vectors that are longer than 1"),
        (with_(FLAT, 82, 7, "<f4"), "has vectors that are longer than 1"),
        (with_(FLAT, len(FLAT) - 8, 1000, "<i8"), "has one id for several vectors"),
        (with_(GRAPH, 74, 2**60, "<u8"), "ends too early"),
        (with_(GRAPH, 82, np.nan, "<f8"), "has chances of levels that are none"),
    ],
)
def test_an_index_file_that_would_lead_faiss_astray_is_refused(tmp_path, data, words):
    (tmp_path / "index.faiss").write_bytes(data)
    with pytest.raises(UserError, match=f"index.faiss of it {words}.*, so it is damaged or .*; build it again"):
        indexfile.check(tmp_path / "index.faiss", "it", 8, 60)


def places(data):
    """Where the arrays of GRAPH, and the numbers behind them, begin."""
    at, found = 74, {}
    for name, size in (("chances", 8), ("sums", 4), ("levels", 4), ("offsets", 8), ("links", 4)):
        found[name] = at + 8
        at += 8 + int(np.frombuffer(data, "<u8", 1, at)[0]) * size
    return found | {name: at + 4 * n for n, name in enumerate(("entry", "highest", "building", "searching", "beam"))}


@pytest.mark.parametrize(
    ("name", "place", "number", "words"),
    [
        ("sums", 4, 10**9, "has numbers of links by level that don't belong together"),
        ("levels", 0, 100, "has rows on levels that there are not"),
        ("levels", 0, 0, "has rows on levels that there are not"),
        ("offsets", 8, 2**40, "has links at places that don't belong together"),
        ("links", 0, 60, "links to rows that there are not"),
        ("links", 0, -2, "links to rows that there are not"),
        ("entry", 0, 60, "begins its search at a row that is not on its highest level"),
        ("entry", 0, -1, "begins its search at a row that is not on its highest level"),
        ("highest", 0, 9, "begins its search at a row that is not on its highest level"),
        ("searching", 0, 2**31 - 1, "asks for an effort that is not from 1 to 1,000,000"),
        ("searching", 0, 0, "asks for an effort that is not from 1 to 1,000,000"),
        ("beam", 0, 7, "asks for an effort that is not from 1 to 1,000,000"),
    ],
)
def test_a_graph_that_would_lead_faiss_astray_is_refused(tmp_path, name, place, number, words):
    data = with_(GRAPH, places(GRAPH)[name] + place, number, "<u8" if name == "offsets" else "<i4")
    (tmp_path / "index.faiss").write_bytes(data)
    with pytest.raises(UserError, match=f"index.faiss of it {words}"):
        indexfile.check(tmp_path / "index.faiss", "it", 8, 60)


def test_a_link_to_a_row_on_a_level_that_it_is_not_on_is_refused(tmp_path):
    at = places(GRAPH)
    levels = np.frombuffer(GRAPH, "<i4", 60, at["levels"])
    high, low = int(levels.argmax()), int(levels.argmin())
    assert levels[high] > levels[low] == 1
    start = int(np.frombuffer(GRAPH, "<u8", 61, at["offsets"])[high]) + 2 * 4
    (tmp_path / "index.faiss").write_bytes(with_(GRAPH, at["links"] + 4 * start, low, "<i4"))
    with pytest.raises(UserError, match="index.faiss of it links to rows on levels that they are not on"):
        indexfile.check(tmp_path / "index.faiss", "it", 8, 60)


def test_a_missing_index_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="index.faiss of it can't be read .No such file or directory.; build the index again"):
        indexfile.check(tmp_path / "index.faiss", "it", 8, 60)


@pytest.fixture
def own(tmp_path):
    """An index of three spelled rows, of which a test may change what it likes, and a query."""
    return build_index(spelled(tmp_path / "rows.csv", ["1 0", "0 1", "1 1"])), spelled(tmp_path / "query.csv", ["1 0.1"])


def test_ids_that_no_row_has_are_refused(own):
    index, query = own
    data = (index / "index.faiss").read_bytes()
    (index / "index.faiss").write_bytes(with_(data, len(data) - 8, 77, "<i8"))
    with pytest.raises(UserError, match="index/.* has ids that no row of texts/rows@.* has; build it again"):
        search(reseal(index.path), query)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"encoder": None}, "the details in the manifest of index/.* are without its encoder; make it again with the call that"),
        ({"encoder": 7}, "the details in the manifest of index/.* say 7 as its encoder; make it again with the call that made it"),
        ({"encoder": "6" * 64}, "index/.* an encoder whose identity is 6{12}, but that of vectors/.* is 5{12}; build it"),
        ({"dimension": None}, "the details in the manifest of index/.* are without its dimension; make it again"),
        ({"dimension": True}, "the details in the manifest of index/.* say True as its dimension; make it again"),
        ({"dimension": 3}, "index/.* holds vectors of 3 numbers, but the queries have 2; build it again"),
    ],
)
def test_an_index_whose_details_are_not_its_vectors_is_refused(own, changes, words):
    index, query = own
    with pytest.raises(UserError, match=words):
        search(forged(index, **changes), query)


def test_an_index_of_other_rows_than_its_vectors_is_refused(own):
    index, query = own
    with pytest.raises(UserError, match="index/.* and vectors/.*, which .*, don't have as many rows; build it again"):
        search(reseal(index.path, rows=2), query)


def test_an_index_that_names_no_vectors_is_refused(own):
    index, query = own
    with pytest.raises(UserError, match="the manifest of index/.* names no 'vectors', which its stage writes; make it again"):
        search(reseal(index.path, inputs=[]), query)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"encoder": None}, "the details in the manifest of vectors/.* are without its encoder; make it again"),
        ({"encoder": "6" * 64}, "vectors/.* identity is 6{12}, but that of encoder/.* is 5{12}; embed the dataset again"),
        ({"parts": None}, "the details in the manifest of vectors/.* are without its parts; make it again"),
        ({"parts": 0}, "the manifest of vectors/.* says they have 0 parts, so they hold nothing; embed the dataset again"),
        ({"parts": 2}, "vectors-00001.parquet of vectors/.* can't be read as vectors .*; embed the dataset again"),
        ({"dimension": 3}, "vectors-00000.parquet of vectors/.* can't be read as vectors .it doesn't hold an id and 3 numbers"),
        ({"modality": None}, "the details in the manifest of vectors/.* are without its modality; make it again"),
    ],
)
def test_vectors_whose_details_are_wrong_are_not_indexed(tmp_path, changes, words):
    vectors = forged(spelled(tmp_path / "rows.csv", ["1 0", "0 1"]), **changes)
    with pytest.raises(UserError, match=words):
        build_index(vectors)


@pytest.mark.parametrize(
    ("name", "most"), [("links", 1024), ("effort_building", 1_000_000), ("effort_searching", 1_000_000)]
)
def test_more_than_a_graph_can_take_is_refused(name, most, capsys):
    BuildIndex(**{name: most})
    assert main(["build-index", "vectors/none", f"--{name.replace('_', '-')}", "1000000000000"]) == 2
    words = f"embedkit: the setting {name} can't be '?1000000000000'?: Input should be less than or equal to {most}\n"
    assert re.fullmatch(words, capsys.readouterr().err)


def test_more_neighbours_than_a_list_can_take_are_refused(capsys):
    assert main(["search", "index/none", "a cat", "--k", "1000000000000"]) == 2
    words = "embedkit: the setting k can't be '?1000000000000'?: Input should be less than or equal to 1000000\n"
    assert re.fullmatch(words, capsys.readouterr().err)


def test_a_graph_that_memory_cannot_hold_is_refused_before_it_is_begun(tmp_path):
    vectors = spelled(tmp_path / "rows.csv", ["1 0", "0 1"])
    many = reseal(vectors.path, rows=10**11)
    with pytest.raises(UserError, match="100,000,000,000 rows with 1024 links each take about 820,800.0 GB, but this machine has"):
        build_index(many, BuildIndex(method="hnsw", links=1024))


def test_neighbours_at_one_distance_count_as_found_whichever_they_are():
    rows = unit_length(np.repeat(np.eye(4), 20, axis=0).astype(np.float32))
    ids = np.arange(80)
    others = faiss.IndexIDMap2(faiss.IndexFlatIP(4))
    others.add_with_ids(rows[::-1].copy(), ids[::-1].copy())  # equal rows come in another order, so that others are taken
    assert recall(others, rows, ids, rows[:40]).value == 1.0
    wrong = faiss.IndexIDMap2(faiss.IndexFlatIP(4))
    wrong.add_with_ids(rows[20:], ids[20:])
    assert recall(wrong, rows, ids, rows[:40]).value == 0.5
