"""Crafted index files, whose checksums fit: a search ends in exit code 1 and one sentence, and never in a crash.

Each file lies in a resealed copy of an index and is searched by the command, in a child process whose end is seen. What was
tried and what held is printed with `-s`.
"""

import os
import shutil

import faiss
import numpy as np
import pytest
from conftest import outcomes, reseal

from embedkit import BuildIndex, LoadTexts, build_index, embed, import_encoder, load_texts

ROWS, WIDTH, LINKS = 60, 16, 4
HEADER = 37
"""Bytes of four letters and what every index begins with."""

CHILD = """
import contextlib, io, json, sys
from pathlib import Path
from embedkit import Artifact, Search, search
from embedkit.cli import main

for line in sys.stdin:
    way, folder, queries = json.loads(line)
    print("begins", flush=True)
    out, err = io.StringIO(), io.StringIO()
    index, vectors = Artifact.at(Path(folder)), Artifact.at(Path(queries))
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            if way == "command":
                code = main(["search", str(index), "the cat sat", "--root", str(index.root)])
            else:
                print([[near.id for near in line] for line in search(index, vectors, Search(k=5))])
                code = 0
    except ValueError as error:  # which the command makes exit code 1 of, and nothing else
        code = 1
        print("embedkit:", error, file=err)
    except BaseException as error:
        code = repr(error)
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
"""


def of(made, vectors, ids):
    """The bytes of an index of faiss's over some vectors."""
    index = faiss.IndexIDMap2(made)
    if not made.is_trained:
        made.train(vectors)
    index.add_with_ids(vectors, ids)
    return faiss.serialize_index(index).tobytes()


def graph_of(data):
    """Where the arrays of a graph of neighbours lie: name to (place, dtype, count)."""
    at, found = 2 * HEADER, {}
    arrays = (("chances", "<f8"), ("sums", "<i4"), ("levels", "<i4"), ("offsets", "<u8"), ("links", "<i4"))
    for name, dtype in arrays:
        count = int(np.frombuffer(data, "<u8", 1, at)[0])
        found[name] = (at + 8, dtype, count)
        at += 8 + count * np.dtype(dtype).itemsize
    for name in ("entry", "highest", "building", "searching", "beam"):
        found[name] = (at, "<i4", 1)
        at += 4
    return found | {"storage": (at, "<u1", 4)}


def with_(data, place, values, dtype="<i4"):
    """The bytes with others from a place on."""
    new = np.asarray(values, dtype).tobytes()
    return data[:place] + new + data[place + len(new) :]


def crafted(flat, hnsw, ids):
    """Name and bytes of each file."""
    random = np.random.default_rng(0)
    vectors = random.normal(size=(ROWS, WIDTH)).astype("f4")
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    for size in (0, 1, 3, 4, 40, 4096):
        yield f"{size} random bytes", random.bytes(size)
    yield "four letters and random bytes", flat[:4] + random.bytes(4096)
    yield "a header and random bytes", flat[:HEADER] + random.bytes(4096)
    for name, data in (("flat", flat), ("hnsw", hnsw)):
        for end in (4, 20, HEADER, HEADER + 4, 2 * HEADER, 2 * HEADER + 8, len(data) // 2, len(data) - 8 * ROWS, len(data) - 1):
            yield f"{name} cut off at {end}", data[:end]
        yield f"{name} with more behind it", data + b"more"
        for inside in (0, HEADER):
            for field, place, values, dtype in (
                ("dimension", 4, [WIDTH + 1], "<i4"),
                ("dimension", 4, [2**31 - 1], "<i4"),
                ("dimension", 4, [-WIDTH], "<i4"),
                ("rows", 8, [ROWS + 1], "<i8"),
                ("rows", 8, [2**62], "<i8"),
                ("rows", 8, [-1], "<i8"),
                ("trained", 32, [0], "<u1"),
                ("metric", 33, [1], "<i4"),
                ("metric", 33, [23], "<i4"),
            ):
                yield f"{name}, {field} {values[0]} at {inside}", with_(data, inside + place, values, dtype)
        yield f"{name} with ids of no rows", with_(data, len(data) - 8 * ROWS, ids + 10**6, "<i8")
        yield f"{name} with negative ids", with_(data, len(data) - 8 * ROWS, -ids - 1, "<i8")
        yield f"{name} with one id twice", with_(data, len(data) - 8, ids[:1], "<i8")
        yield f"{name} with more ids than rows", with_(data, len(data) - 8 * ROWS - 8, [2**60], "<u8")
        for wrong in (np.nan, np.inf, 1e30):
            yield f"{name} with a number that is {wrong}", with_(data, len(data) - 8 * ROWS - 12, [wrong], "<f4")
    places = graph_of(hnsw)
    levels = np.frombuffer(hnsw, "<i4", ROWS, places["levels"][0])
    offsets = np.frombuffer(hnsw, "<u8", ROWS + 1, places["offsets"][0]).astype(int)
    high, low = int(np.argmax(levels)), int(np.argmin(levels))
    assert levels[high] > 1 == levels[low]
    upper = 4 * (offsets[high] + 2 * LINKS)
    for name, change, values in (
        ("links", 0, [ROWS]),
        ("links", 0, [2**31 - 1]),
        ("links", 0, [-2]),
        ("links", 4 * (offsets[-1] - 1), [10**6]),
        ("links", upper, [low]),
        ("levels", 0, [0]),
        ("levels", 0, [-1]),
        ("levels", 4 * low, [2]),
        ("levels", 4 * low, [10**6]),
        ("offsets", 8, [2**40]),
        ("offsets", 0, [1]),
        ("offsets", 8 * ROWS, [2**40]),
        ("offsets", 8 * ROWS, [0]),
        ("sums", 0, [1]),
        ("sums", 4, [2**31 - 1]),
        ("sums", 8, [0]),
        ("chances", 0, [np.nan]),
        ("entry", 0, [ROWS]),
        ("entry", 0, [-1]),
        ("entry", 0, [-(2**31)]),
        ("entry", 0, [low]),
        ("highest", 0, [100]),
        ("highest", 0, [-1]),
        ("building", 0, [-1]),
        ("searching", 0, [0]),
        ("searching", 0, [-5]),
        ("searching", 0, [2**31 - 1]),
        ("beam", 0, [2**31 - 1]),
    ):
        place, dtype, _ = places[name]
        yield f"hnsw, {name} {values[0]} at {change}", with_(hnsw, place + change, values, dtype)
    for name in ("chances", "sums", "levels", "offsets", "links"):
        for length in (0, 2**31, 2**60, 2**64 - 1):
            yield f"hnsw, {name} that are {length}", with_(hnsw, places[name][0] - 8, [length], "<u8")
    yield "hnsw around a graph", with_(hnsw, places["storage"][0], np.frombuffer(b"IHNf", "u1"), "u1")
    product, euclidean = faiss.METRIC_INNER_PRODUCT, faiss.METRIC_L2
    for name, made in {
        "euclidean": faiss.IndexFlatL2(WIDTH),
        "euclidean graph": faiss.IndexHNSWFlat(WIDTH, LINKS, euclidean),
        "inverted lists": faiss.index_factory(WIDTH, "IVF4,Flat", product),
        "product quantiser": faiss.index_factory(WIDTH, "PQ4x4", product),
        "inverted lists of codes": faiss.index_factory(WIDTH, "IVF2,PQ4x4", product),
        "scalar quantiser": faiss.index_factory(WIDTH, "SQ8", product),
        "graph of codes": faiss.index_factory(WIDTH, "HNSW4,SQ8", product),
        "refined": faiss.index_factory(WIDTH, "SQ8,RFlat", product),
        "turned": faiss.index_factory(WIDTH, "PCA8,Flat", product),
        "hashed": faiss.index_factory(WIDTH, "LSH", euclidean),
        "narrow": faiss.IndexFlatIP(WIDTH // 2),
    }.items():
        given = np.ascontiguousarray(vectors[:, : made.d])
        yield f"an index that is {name}", of(made, given, ids)
        if name == "euclidean":
            made.reset()
            made.add(given)
            yield "an index without ids", faiss.serialize_index(made).tobytes()
            yield "an id map of the other kind", b"IxMp" + of(faiss.IndexFlatIP(WIDTH), given, ids)[4:]
            yield "an id map around an id map", flat[:HEADER] + flat[:HEADER] + flat[HEADER:]
    yield "fewer rows", of(faiss.IndexFlatIP(WIDTH), vectors[:5], ids[:5])
    binary = faiss.IndexBinaryFlat(8 * WIDTH)
    binary.add(random.integers(0, 256, (ROWS, WIDTH)).astype(np.uint8))
    yield "an index of bits", faiss.serialize_index_binary(binary).tobytes()


def held(outcome, answers):
    """Whether it was refused by one sentence, or made no difference to what is found."""
    code, out, err = outcome
    lines = err.splitlines()
    refused = code == 1 and not out and len(lines) == 1 and lines[0].startswith("embedkit: ") and "build" in lines[0]
    return refused or (code == 0 and out in answers)


@pytest.mark.slow
def test_no_crafted_index_file_is_searched(tmp_path, tiny_bert):
    words = "the a cat dog sat ran on mat moon red blue green good bad film".split()
    random = np.random.default_rng(0)
    lines = [f"{' '.join(random.choice(words, 4))} {number},{1000 + 7 * number}" for number in range(ROWS)]
    (tmp_path / "films.csv").write_text("text,key\n" + "\n".join(lines) + "\n")
    place = tmp_path / "good"
    made = embed(load_texts(tmp_path / "films.csv", LoadTexts(key_column="key"), root=place), import_encoder(tiny_bert, root=place))
    settings = BuildIndex(method="hnsw", links=LINKS)
    indexes = {"flat": build_index(made, name="flat"), "hnsw": build_index(made, settings, name="hnsw")}
    ids = np.array([1000 + 7 * number for number in range(ROWS)])
    good = {name: (index / "index.faiss").read_bytes() for name, index in indexes.items()}
    cases = [(name, indexes["hnsw" if "hnsw" in name else "flat"], data) for name, data in crafted(*good.values(), ids)]
    jobs = [["function", str(index.path), str(made.path)] for index in indexes.values()]
    for number, (_, index, data) in enumerate(cases):
        root = tmp_path / f"root-{number}"
        shutil.copytree(place, root, copy_function=os.link)
        copy = root / index.path.relative_to(place)
        for name, content in (("index.faiss", data), ("manifest.json", (index / "manifest.json").read_bytes())):
            (copy / name).unlink()
            (copy / name).write_bytes(content)
        reseal(copy)
        jobs.append(["command" if number % 40 == 9 else "function", str(copy), str(made.path)])
    found = outcomes(CHILD, jobs)
    assert [code for code, _, _ in found[:2]] == [0, 0], found[:2]
    answers = [out for _, out, _ in found[:2]]
    lost = [(name, outcome) for (name, _, _), outcome in zip(cases, found[2:], strict=True) if not held(outcome, answers)]
    print(f"crafted index files: tried {len(cases)}, held {len(cases) - len(lost)}")
    assert len(cases) >= 66
    assert not lost, "\n".join(f"{name}: {code} {err[-300:]}" for name, (code, _, err) in lost)
