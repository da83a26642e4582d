"""predict: raw rows in, labels out, the same as were measured when the classifier was trained."""

import gzip
import json
import logging
import re
import shutil
import tracemalloc
from io import BytesIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import reseal, write_list
from PIL import Image

from embedkit import (
    Artifact,
    Classifier,
    Encoder,
    LoadTable,
    LoadTexts,
    Predict,
    Settings,
    TrainHead,
    Training,
    UserError,
    embed,
    import_encoder,
    load_images,
    load_table,
    load_texts,
    make_control,
    train_head,
)
from embedkit.artifacts import Dataset, EncoderArtifact
from embedkit.cli import main
from embedkit.datasets import read_contents, read_rows
from embedkit.predicting import Prediction, as_line, predict
from embedkit.readers import ReadFiles
from embedkit.stages import Draft, Facts, stage
from embedkit.vectors import write_vectors

QUICK = Training(epochs=30, preflight=False)
HEAD = TrainHead(training=QUICK)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A root for artifacts that several tests look at."""
    return tmp_path_factory.mktemp("predicting")


@pytest.fixture(scope="module")
def bert(tiny_bert, place):
    return import_encoder(tiny_bert, root=place)


def texts_of(path, lines, settings, root):
    path.write_text("\n".join(["text\tlabel", *(f"{text}\t{label}" for text, label in lines)]) + "\n")
    return load_texts(path, settings, root=root)


@pytest.fixture(scope="module")
def films(place):
    """200 texts: three in four are `pos` and speak of good films, the others are `neg`."""
    words = "the a cat dog sat ran on mat moon red blue green".split()
    random, lines = np.random.default_rng(0), []
    for number in range(200):
        good = number % 4 != 0
        text = " ".join([*random.choice(words, 4), "good" if good else "bad", str(number)])
        lines.append((text, "pos" if good == (number % 7 != 0) else "neg"))
    return texts_of(place / "films.tsv", lines, LoadTexts(), place)


@pytest.fixture(scope="module")
def classifier(films, bert):
    return train_head(embed(films, bert), HEAD)


@pytest.fixture(scope="module")
def opened(classifier):
    return Classifier.open(classifier)


@pytest.fixture(scope="module")
def weighed(films, bert):
    """A classifier that decides by weights of the classes."""
    return train_head(embed(films, bert), TrainHead(training=QUICK, decide_by="balanced_accuracy"), name="weighed")


@pytest.fixture(scope="module")
def tagged(place, bert):
    """A classifier of several labels a row."""
    names, random = ["cat", "dog", "moon"], np.random.default_rng(1)
    lines = []
    for number in range(400):
        told = [name for name in names if random.random() < 0.4]
        held = [name for name in names if (name in told) != (random.random() < 0.2)]
        lines.append((f"the {' '.join(told)} ran {number}", ";".join(held)))
    settings = LoadTexts(label_separator=";", label_type="classes")
    return train_head(embed(texts_of(place / "tags.tsv", lines, settings, place), bert), HEAD)


@pytest.fixture(scope="module")
def dated(place, bert):
    """A regressor whose numbers lie far from 0: seconds since 1970."""
    lines = [(f"the {'good ' * (number % 6)}film {number}", 1_700_000_000 + number % 6) for number in range(120)]
    settings = LoadTexts(label_type="number")
    return train_head(embed(texts_of(place / "dates.tsv", lines, settings, place), bert), HEAD)


def picture(random, bright):
    pixels = random.integers(0, 120, (24, 32, 3))
    pixels[:, slice(0, 16) if bright == "left" else slice(16, 32)] += 120
    return Image.fromarray(pixels.astype("uint8"))


@pytest.fixture(scope="module")
def sides(place):
    """A folder of class folders: pictures that are bright on the left or on the right."""
    random = np.random.default_rng(0)
    for number in range(60):
        side = "left" if number % 2 else "right"
        (place / "sides" / side).mkdir(parents=True, exist_ok=True)
        picture(random, side).save(place / "sides" / side / f"{number:03d}.png")
    return place / "sides"


@pytest.fixture(scope="module")
def looking(sides, place, nested_network):
    encoder = import_encoder(nested_network, root=place)
    return train_head(embed(load_images(sides, root=place), encoder), HEAD)


HEADER = "area,rooms,garden,code,price"


@pytest.fixture(scope="module")
def houses(place):
    """A csv of 120 houses: numbers with gaps, truth values, words that look like numbers, and what they cost."""
    random, lines = np.random.default_rng(0), [HEADER]
    for number in range(120):
        area, rooms = random.integers(40, 200), random.choice(["1", "2", "3", "4", "NA"])
        dear = "dear" if area > 120 else "cheap"
        lines.append(f"{area},{rooms},{('true', 'False')[number % 2]},{('01', '2', 'x')[number % 3]},{dear}")
    path = place / "houses.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def valued(houses, place):
    table = load_table(houses, LoadTable(label_column="price"), root=place)
    return train_head(embed(table, make_control(table)), HEAD)


def measured(classifier):
    """The test rows as the dataset holds them, and what was predicted of them when the classifier was trained."""
    found = pq.read_table(classifier / "predictions.parquet")
    dataset = classifier.inputs["vectors"].inputs["dataset"]
    places = {number: place for place, number in enumerate(read_rows(dataset)["id"].to_pylist())}
    contents = read_contents(dataset, 0, dataset.manifest.rows)
    return contents.take([places[number] for number in found["id"].to_pylist()]), found.to_pydict()


def by_name(found):
    return {name: one for name, one in found}


# The same as was measured -------------------------------------------------------------------------------------------


def test_texts_have_the_probabilities_that_were_measured(classifier, opened):
    contents, expected = measured(classifier)
    rows = contents["text"].to_pylist()
    assert len(rows) > 20 and opened.facts.classes == ["neg", "pos"]
    probabilities = opened.probabilities(rows)
    assert probabilities == pytest.approx(np.array(expected["probabilities"]), abs=1e-6)
    assert probabilities.dtype == np.float64 and probabilities.sum(axis=1) == pytest.approx(1, abs=1e-12)
    found = opened.predict(rows)
    assert [one.label for one in found] == expected["predicted"] and len(set(expected["predicted"])) == 2
    for one, row in zip(found, probabilities.tolist(), strict=True):
        assert one.probabilities == dict(zip(["neg", "pos"], row, strict=True)) and one.probability == max(row)


def test_pictures_have_the_probabilities_that_were_measured(looking, sides):
    contents, expected = measured(looking)
    found = by_name(predict(looking, [sides]))
    assert len(found) == 60 and list(found) == sorted(found)
    paths = [str(sides / path) for path in contents["path"].to_pylist()]
    assert [found[path].label for path in paths] == expected["predicted"]
    ours = [list(found[path].probabilities.values()) for path in paths]
    assert np.array(ours) == pytest.approx(np.array(expected["probabilities"]), abs=1e-6)
    assert Classifier.open(looking).probabilities(paths) == pytest.approx(np.array(ours), abs=1e-6)


def test_a_large_jpeg_is_seen_as_embed_sees_it(looking, tmp_path):
    random = np.random.default_rng(1)
    whole = np.kron(random.integers(0, 255, (60, 80, 3)), np.ones((10, 10, 1))) + random.integers(-20, 20, (600, 800, 3))
    Image.fromarray(whole.clip(0, 255).astype("uint8")).save(tmp_path / "large.jpg")
    found = by_name(predict(looking, [tmp_path / "large.jpg"]))
    expected = Classifier.open(looking).probabilities([str(tmp_path / "large.jpg")])
    assert list(found[str(tmp_path / "large.jpg")].probabilities.values()) == expected[0].tolist()


def test_rows_of_a_csv_are_typed_as_the_table_was(valued, houses):
    expected = measured(valued)[1]
    dataset = valued.inputs["vectors"].inputs["dataset"]
    rows = read_rows(dataset)
    lines = {row["id"]: f"houses.csv line {row['position'] + 2}" for row in rows.to_pylist()}
    found = by_name(predict(valued, [houses]))
    assert len(found) == 120
    ours = [found[lines[number]] for number in expected["id"]]
    assert [one.label for one in ours] == expected["predicted"]
    probabilities = np.array([list(one.probabilities.values()) for one in ours])
    assert probabilities == pytest.approx(np.array(expected["probabilities"]), abs=1e-6)


def test_numbers_are_in_the_labels_unit_to_more_digits_than_a_float32_has(dated):
    contents, expected = measured(dated)
    opened = Classifier.open(dated)
    numbers = opened.probabilities(contents["text"].to_pylist())
    assert numbers == pytest.approx(np.array(expected["predicted"]), rel=0, abs=1e-3)
    assert numbers.dtype == np.float64 and len(set(numbers - np.float32(numbers))) > 5
    (one,) = opened.predict(["the good film"])
    assert isinstance(one.label, float) and one.probability is None and one.probabilities is None


def test_several_labels_are_decided_by_their_thresholds(tagged):
    opened = Classifier.open(tagged)
    contents, expected = measured(tagged)
    assert opened.facts.decision is not None and set(opened.facts.decision) != {0.5}
    found = opened.predict(contents["text"].to_pylist())
    assert [one.label for one in found] == expected["predicted"]
    assert {len(labels) for labels in expected["predicted"]} >= {0, 1, 2}
    assert all(one.probability is None and list(one.probabilities) == ["cat", "dog", "moon"] for one in found)


def test_a_class_is_decided_for_by_the_weights_of_the_classes(weighed):
    opened = Classifier.open(weighed)
    contents, expected = measured(weighed)
    found = opened.predict(contents["text"].to_pylist())
    assert [one.label for one in found] == expected["predicted"]
    unlikely = [one for one in found if one.probability < 0.5]
    assert unlikely and all(one.probabilities[one.label] == one.probability for one in found)


def test_a_prediction_does_not_depend_on_the_rows_beside_it(opened, classifier, valued, houses, tmp_path):
    rows = measured(classifier)[0]["text"].to_pylist()
    together = opened.probabilities([*rows, "a very long text " * 20])
    for text, row in zip(rows[:5], together, strict=False):
        assert opened.probabilities([text])[0] == pytest.approx(row, abs=1e-6)
    # 1 and 2 alone would be whole numbers, and true among words a word
    (tmp_path / "one.csv").write_text(f"{HEADER}\n100,2,true,2,\n")
    (tmp_path / "many.csv").write_text(f"{HEADER}\n100,2,true,2,\n90.5,NA,,x,\n,nonsense,?,01,\n")
    alone, crowded = (list(predict(valued, [tmp_path / name])) for name in ("one.csv", "many.csv"))
    assert alone[0][1].label == crowded[0][1].label
    # to float32's last digits: which sums a processor rounds otherwise in a larger batch is its own affair
    assert alone[0][1].probabilities == pytest.approx(crowded[0][1].probabilities, abs=1e-6)
    assert isinstance(crowded[2][1], str)


def test_python_rows_of_a_table_are_dictionaries(valued):
    opened = Classifier.open(valued)
    row = {"area": 190, "rooms": 4, "garden": True, "code": "x"}
    dear, cheap = opened.predict([row, row | {"area": 41.5, "rooms": None}])
    assert (dear.label, cheap.label) == ("dear", "cheap")


def test_no_rows_have_no_predictions(opened):
    assert opened.predict([]) == [] and opened.probabilities([]).shape == (0, 2)


def test_outputs_of_vectors_are_those_before_softmax_or_sigmoid_or_in_standard_deviations(opened, tagged, dated):
    vectors = opened.encoder.encode(["the good film", "a bad cat", "moon"])
    outputs = opened.outputs_of(vectors)
    assert outputs.shape == (3, 2) and outputs.dtype == np.float32
    shares = np.exp(outputs) / np.exp(outputs).sum(axis=1, keepdims=True)
    assert shares == pytest.approx(opened.of_vectors(vectors), abs=1e-6)
    several = Classifier.open(tagged)
    assert 1 / (1 + np.exp(-several.outputs_of(vectors))) == pytest.approx(several.of_vectors(vectors), abs=1e-6)
    number = Classifier.open(dated)
    assert number.outputs_of(vectors).shape == (3, 1) and np.abs(number.outputs_of(vectors)).max() < 10
    steps = np.diff(number.of_vectors(vectors)) / np.diff(number.outputs_of(vectors)[:, 0])
    assert steps == pytest.approx(np.std(np.arange(6)), rel=0.1)  # so many seconds are one


def test_more_rows_than_the_head_takes_at_once_stay_in_order(opened, monkeypatch):
    rows = [f"the {'good' if number % 3 else 'bad'} film" for number in range(20)]
    whole = opened.probabilities(rows)
    monkeypatch.setattr("embedkit.predicting.VECTORS_AT_ONCE", 3)
    assert opened.probabilities(rows) == pytest.approx(whole, abs=1e-6)


# Sources ------------------------------------------------------------------------------------------------------------


def names(found):
    return [name for name, _ in found]


def test_texts_stand_for_themselves_beside_files_in_the_order_they_came(opened, tmp_path):
    (tmp_path / "more.txt").write_text("the red cat\n\nthe blue dog\n")
    (tmp_path / "table.jsonl").write_text('{"text": "a moon", "id": 1}\n')
    (tmp_path / "one.csv").write_text("sentence,label\nthe only column,pos\n")
    sources = ["a good film", "a bad film\nin two lines", "more.txt", tmp_path / "table.jsonl", "one.csv", "x" * 5000, "~nobody\0"]
    found = list(predict(opened, sources))
    assert names(found) == [*sources[:2], "the red cat", "the blue dog", "a moon", "the only column", *sources[-2:]]
    expected = opened.predict(names(found))
    assert [one.label for _, one in found] == [one.label for one in expected]
    assert [one.probability for _, one in found] == pytest.approx([one.probability for one in expected], abs=1e-6)


def test_the_column_of_texts_and_how_files_are_read_can_be_said(opened, tmp_path):
    (tmp_path / "a.csv").write_text("id;review;text\n1;a cat;x\n2;a dog;y\n")
    settings = Predict(text_column="review", files=ReadFiles(delimiter=";", limit=1))
    assert names(predict(opened, ["a.csv"], settings)) == ["a cat"]


def test_a_folder_of_texts_is_a_source(opened, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "dev.tsv").write_text("text\nthe cat\n")
    assert names(predict(opened, ["folder"])) == ["the cat"]


def test_built_in_rows_and_hubs_are_sources_and_no_texts(looking, opened):
    found = list(predict(looking, ["builtin:digits"], Predict(files=ReadFiles(limit=2))))
    assert names(found) == ["row 0", "row 1"] and all(isinstance(one, Prediction) for _, one in found)
    for word in ("builtin:nothing", "hf://nobody/nothing"):
        with pytest.raises(UserError, match="not known|could not be reached"):
            list(predict(opened, [word]))
    assert names(predict(opened, ["builtin: a text", "hf:// too"])) == ["builtin: a text", "hf:// too"]


def test_a_picture_is_a_source_by_itself_whatever_its_file_is_called(looking, sides, tmp_path):
    data = (sides / "left" / "001.png").read_bytes()
    (tmp_path / "picture").write_bytes(data)
    sources = [str(sides / "left" / "001.png"), "picture", tmp_path / "picture"]
    found = list(predict(looking, sources))
    assert names(found) == [str(source) for source in sources]
    assert len({json.dumps(one.model_dump()) for _, one in found}) == 1


def test_pictures_lie_in_folders_with_and_without_classes_and_in_parquet(looking, sides, tmp_path):
    (tmp_path / "flat").mkdir()
    data = [(sides / "left" / f"{number:03d}.png").read_bytes() for number in (1, 3)]
    for number, each in enumerate(data):
        (tmp_path / "flat" / f"{number}.png").write_bytes(each)
    rows = [{"bytes": each, "path": "/etc/passwd"} for each in data]
    pq.write_table(pa.table({"image": rows, "scan": data}), tmp_path / "rows.parquet")
    flat = list(predict(looking, ["flat"]))
    assert names(flat) == ["flat/0.png", "flat/1.png"]
    for column in ("image", "scan"):
        found = list(predict(looking, ["rows.parquet"], Predict(image_column=column)))
        assert names(found) == ["rows.parquet row 0", "rows.parquet row 1"]
        assert [one for _, one in found] == [one for _, one in flat]


def test_a_path_that_stands_in_a_file_leads_no_further_than_its_folder(looking, sides, tmp_path):
    picture = (sides / "left" / "001.png").read_bytes()
    (tmp_path / "inside.png").write_bytes(picture)
    outside = {"bytes": None, "path": str(sides / "left" / "001.png")}
    lines = [outside, {"bytes": None, "path": "inside.png"}, {"bytes": picture, "path": None}]
    pq.write_table(pa.table({"image": lines}), tmp_path / "rows.parquet")
    (name, refused), (_, beside), (_, read) = predict(looking, ["rows.parquet"])
    assert name == outside["path"] and refused.endswith(
        "leads out of the folder of rows.parquet; what does is read with files.follow_links"
    )
    assert isinstance(read, Prediction) and beside == read


@pytest.mark.parametrize("name", ["photos.csv", "photos.xlsx", "photos.jsonl", "photos.parquet"])
def test_a_list_of_pictures_is_a_source_whose_rows_are_called_as_it_calls_them(looking, sides, tmp_path, name):
    shutil.copytree(sides, tmp_path / "sides")
    paths = ["sides/left/001.png", "sides/right/000.png", "sides/none.png"]
    write_list(tmp_path / name, [{"file": path, "note": "x"} for path in paths])
    expected = [found for _, found in predict(looking, paths[:2])]
    for settings in (Predict(), Predict(image_column="file")):
        (one, first), (two, second), (three, missing) = predict(looking, [name], settings)
        assert [one, two, three] == paths and [first.label, second.label] == [each.label for each in expected]
        assert [first.probability, second.probability] == pytest.approx([each.probability for each in expected], abs=1e-6)
        assert missing == f"there is no file 'sides/none.png' beside {name}"
    with pytest.raises(UserError, match=r"image column 'files' is not known; did you mean 'file'"):
        list(predict(looking, [name], Predict(image_column="files")))


def test_a_table_is_read_from_jsonl_and_parquet_with_their_own_types(valued, tmp_path):
    rows = [{"area": 190, "rooms": 4, "garden": True, "code": "x"}, {"area": 41.5, "rooms": None, "garden": False, "code": "2"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"area": 190}\n')
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text("code,extra,garden,rooms,area\nx,?,True,4.0,190\n2,?,false,NA,41.5\n")
    expected = Classifier.open(valued).predict([*rows, dict.fromkeys(rows[0]) | {"area": 190}])
    for name in ("a.jsonl", "a.parquet", "a.csv"):
        found = [one for _, one in predict(valued, [name])]
        assert found == expected[: len(found)], name
    assert names(predict(valued, ["a.jsonl"])) == ["a.jsonl line 1", "a.jsonl line 2", "a.jsonl line 3"]


def test_rows_stream_so_that_what_comes_first_is_predicted_before_the_last_is_read(valued, tmp_path):
    lines = [HEADER, *(f"{40 + number % 160},2,true,x,{np.sqrt(number)}" for number in range(30_000))]
    whole = gzip.compress("\n".join(lines).encode())
    (tmp_path / "cut.csv.gz").write_bytes(whole[: len(whole) // 2])
    found = predict(valued, ["cut.csv.gz"])
    assert next(found)[0] == "cut.csv.gz line 2"
    with pytest.raises(UserError, match="cut.csv.gz can't be read"):
        list(found)


def test_memory_does_not_grow_with_the_rows(valued, tmp_path):
    opened = Classifier.open(valued)

    def peak(rows):
        (tmp_path / "rows.csv").write_text("\n".join([HEADER, *(f"{number % 200},2,true,x," for number in range(rows))]))
        tracemalloc.start()
        try:
            assert sum(1 for _ in predict(opened, ["rows.csv"])) == rows
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(24_000)
    assert peak(96_000) < 1.2 * peak(24_000)  # beyond what is read to find out how the file is written


# Rejected rows ------------------------------------------------------------------------------------------------------


def test_a_row_below_the_bound_has_no_label_but_keeps_its_probabilities(opened, classifier, caplog):
    rows = measured(classifier)[0]["text"].to_pylist()
    free = opened.predict(rows)
    bound = sorted(one.probability for one in free)[len(rows) // 2]  # one of them, which keeps its label
    bounded = opened.predict(rows, Predict(reject_below=bound))
    assert 0 < sum(one.label is None for one in bounded) < len(rows)
    for one, other in zip(free, bounded, strict=True):
        assert other == one.model_copy(update={"label": one.label if one.probability >= bound else None})
    with caplog.at_level(logging.INFO, "embedkit"):
        list(predict(opened, [*rows[:2], "the good film"], Predict(reject_below=1)))
    assert "3 of 3 rows were rejected: probability below 1" in caplog.messages


def test_rejecting_is_for_one_class_a_row(tagged, dated):
    for one, what in ((tagged, "several labels"), (dated, "numbers")):
        words = f"reject_below is for one class a row, but {one} predicts {what}; leave it out"
        opened, settings = Classifier.open(one), Predict(reject_below=0.5)
        with pytest.raises(UserError, match=words):
            opened.predict(["a film"], settings)
        with pytest.raises(UserError, match=words):
            predict(opened, ["a film"], settings)


# Rows that can't be read --------------------------------------------------------------------------------------------


def test_texts_that_can_not_be_read_are_given_with_their_reasons_among_the_others(opened, tmp_path, caplog):
    rows = ['{"text": "a cat"}', "{", '{"text": null}', '{"text": 5}', '{"text": " "}', '{"text": "a dog"}', '{"id": 1}']
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    found = list(predict(opened, ["a.jsonl", " ", "no \udce9 text", "a moon"]))
    places = [f"a.jsonl line {line}" for line in (2, 3, 4, 5)]
    assert names(found) == ["a cat", *places, "a dog", "a.jsonl line 7", "text 2", "text 3", "a moon"]
    reasons = [one for _, one in found if isinstance(one, str)]
    assert reasons[0].startswith("not JSON (") and reasons[1:] == [
        "the text is missing",
        "column 'text' holds int, not a text",
        "the text is blank",
        "the text is missing",
        "the text is blank",
        "not valid Unicode (a lone surrogate)",
    ]
    assert caplog.messages == ["7 of 10 rows can't be read"]


def test_a_whole_batch_that_can_not_be_read_stops_nothing(opened, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("embedkit.predicting").predicting.ROWS_AT_ONCE, "texts", 2)
    (tmp_path / "a.jsonl").write_text("{\n{\n{\n" + '{"text": "a cat"}\n' + '{"text": ""}\n' * 3)
    found = list(predict(opened, ["a.jsonl"]))
    assert [isinstance(one, Prediction) for _, one in found] == [False] * 3 + [True] + [False] * 3


def test_pictures_that_can_not_be_read_are_given_with_their_reasons(looking, sides, tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"no picture")
    (tmp_path / "bad" / "b.png").write_bytes(b"")
    (tmp_path / "bad" / "c.png").write_bytes((sides / "left" / "001.png").read_bytes())
    found = by_name(predict(looking, ["bad", "bad/a.png"]))
    assert found["bad/a.png"].startswith("not a readable picture (") and found["bad/b.png"] == "the file is empty"
    assert found["bad/c.png"].label == "left"


def test_a_picture_that_vanishes_meanwhile_is_given_with_its_reason(looking, sides, tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes((sides / "left" / "001.png").read_bytes())
    found = predict(looking, ["a.png", "b.png"])
    (tmp_path / "a.png").unlink()
    assert list(found)[0] == ("a.png", "can't be read (No such file or directory)")


def test_values_that_do_not_fit_make_their_row_unreadable(valued, tmp_path):
    rows = [f"{area},2,true,x," for area in (100, "large", "0x1F", "007", "1e300")] + ["100,2,maybe,x,", ",NA,?,,", "1,2"]
    (tmp_path / "a.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    found = [one for _, one in predict(valued, ["a.csv"])]
    assert isinstance(found[0], Prediction) and isinstance(found[6], Prediction)
    assert [one for one in found if isinstance(one, str)] == [
        "column 'area' takes numbers, but 'large' came",
        "column 'area' takes numbers, but '0x1F' came",
        "column 'area' takes numbers, but '007' came",
        "its vector is not finite; look at its values",
        "column 'garden' takes truth values, but 'maybe' came",
        "2 columns instead of 5",
    ]
    rows = [{"area": True, "rooms": 2, "garden": 1, "code": 2}, {"area": 5, "rooms": "3", "garden": True, "code": 2}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = [one for _, one in predict(valued, ["a.jsonl"])]
    assert found[0] == "column 'area' takes numbers, but True came"
    assert found[1] == Classifier.open(valued).predict([{"area": 5, "rooms": 3, "garden": True, "code": "2"}])[0]


def test_a_vector_that_is_not_finite_stops_a_call_that_gives_rows(valued):
    row = {"area": 190, "rooms": 4, "garden": True, "code": "x"}
    with pytest.raises(UserError, match="the vector of row 1 is not finite; look at that row, or check the encoder's weights"):
        Classifier.open(valued).predict([row, row | {"area": 1e300}])


def test_no_readable_row_at_all_is_an_error_after_the_reasons(opened, tmp_path):
    (tmp_path / "a.jsonl").write_text("{\n[1]\n")
    found = predict(opened, ["a.jsonl"])
    assert next(found)[1].startswith("not JSON") and next(found)[1] == "not a JSON object but list"
    words = r"no row can be read \(2 came\): a.jsonl line 1: not JSON .*; mend them, or say how they are read \(`files` settings\)"
    with pytest.raises(UserError, match=words):
        next(found)


def test_a_source_without_rows_is_an_error(opened, tmp_path):
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(UserError, match="empty.txt has no row; give one that has"):
        list(predict(opened, ["empty.txt"]))


# What is refused ----------------------------------------------------------------------------------------------------


def test_a_missing_file_is_not_taken_for_a_text(opened, tmp_path):
    (tmp_path / "reviews.csv").write_text("text\na cat\n")
    words = r"in .*, the file or folder 'reviws.csv' is not known; did you mean 'reviews.csv'\? "
    with pytest.raises(UserError, match=words + r"\(a text that looks like a path goes into a .txt file, one text a line\)"):
        predict(opened, ["a film", "reviws.csv"])
    for word in ("nowhere/reviews.tsv.gz", "photo.png", "./reviews", "/no/such/folder", "A.PARQUET"):
        with pytest.raises(UserError, match="the file or folder .* is not known.* one text a line"):
            predict(opened, [word])
    assert names(predict(opened, ["see reviws.csv", "and/or", "wait.what"])) == ["see reviws.csv", "and/or", "wait.what"]


def test_a_missing_path_is_an_error_where_texts_are_not_rows(looking, valued, sides, tmp_path):
    for one in (looking, valued):
        with pytest.raises(UserError, match="the file or folder 'a nice film' is not known"):
            predict(one, ["a nice film"])
    with pytest.raises(UserError, match=r"format of 001.png '.png' is not known"):
        list(predict(valued, [sides / "left" / "001.png"]))
    with pytest.raises(UserError, match="format of picture.png '.png' is not known"):
        (tmp_path / "picture.png").write_bytes(b"")
        list(predict(Classifier.open("classifier/films-tiny-bert", valued.root), ["picture.png"]))


def test_a_column_that_is_not_clear_or_not_there_is_an_error(opened, looking, valued, tmp_path):
    (tmp_path / "a.csv").write_text("title,body\nx,y\n")
    words = "which column of a.csv holds the texts is not clear: there is title, body; set text_column"
    with pytest.raises(UserError, match=words):
        list(predict(opened, ["a.csv"]))
    with pytest.raises(UserError, match=r"text column 'bod' is not known; did you mean 'body'\? \(set text_column\)"):
        list(predict(opened, ["a.csv"], Predict(text_column="bod")))
    with pytest.raises(UserError, match=r"image column 'image' is not known; there is title, body \(set image_column\)"):
        list(predict(looking, ["a.csv"]))
    with pytest.raises(UserError, match="there is no column 'area' and no 'rooms' and no 'garden' and no 'code'; give all columns"):
        list(predict(valued, ["a.csv"]))


def test_settings_for_other_rows_are_refused(opened, valued, looking, houses):
    with pytest.raises(UserError, match=f"text_column is for a classifier of texts, but {valued} is one of table; leave it out"):
        predict(valued, [houses], Predict(text_column="area"))
    words = f"image_column is for a classifier of images, but {opened.name} is one of texts; leave it out"
    with pytest.raises(UserError, match=words):
        predict(opened, ["a"], Predict(image_column="scan"))


def test_one_source_that_is_not_in_a_list_and_none_are_refused(opened):
    with pytest.raises(UserError, match="one str came where several sources are expected; put it in a list"):
        predict(opened, "a film")
    words = "there is nothing to predict; give a path, or for a classifier of texts a text, or several"
    with pytest.raises(UserError, match=words):
        predict(opened, [])
    with pytest.raises(UserError, match="one str came where several rows are expected; put it in a list"):
        opened.predict("a film")
    with pytest.raises(UserError, match="texts are encoded here, but int came: 5; give str"):
        opened.predict([5])


def test_what_is_no_classifier_is_refused_with_what_to_do(classifier, films, bert, place):
    vectors = classifier.inputs["vectors"]
    for artifact, advice in [
        (vectors, f"train one with `embedkit train-head {vectors}`"),
        (bert, f"embed labelled rows with `embedkit embed DATASET {bert}` and train one with `embedkit train-head VECTORS`"),
        (films, f"embed it with `embedkit embed {films} ENCODER` and train one with `embedkit train-head VECTORS`"),
        (Artifact(bert.path, bert.manifest.model_copy(update={"kind": "report"})), "`embedkit artifacts list classifier` names"),
    ]:
        with pytest.raises(UserError, match=re.escape(f"{artifact} is no classifier; {advice}")):
            Classifier.open(artifact)
    with pytest.raises(UserError, match="artifact 'classifier/flms' is not known"):
        predict("classifier/flms", ["a"], root=place)


@stage("vectors", revision=1)
def mislabel(out: Draft, dataset: Dataset, encoder: EncoderArtifact, settings: Settings = Settings()) -> Facts:
    """Make vectors that say they come from another encoder."""
    ids = read_rows(dataset)["id"].to_numpy()
    write_vectors(out / "vectors-00000.parquet", ids, np.random.default_rng(0).normal(size=(len(ids), 16)).astype(np.float32))
    return Facts(rows=len(ids), details={"encoder": "5" * 64, "modality": "texts", "dimension": 16, "parts": 1})


def test_an_encoder_that_is_not_the_one_it_was_trained_with_is_refused(films, bert):
    found = train_head(embed(films, bert), HEAD.model_copy(update={"seed": 7}), name="mislabelled")
    said = json.loads((found / "classifier.json").read_text())
    (found / "classifier.json").write_text(json.dumps(said | {"encoder": "5" * 64}))
    found = reseal(found.path)
    identity = Encoder.open(bert).facts.identity[:12]
    words = f"{found} was trained on vectors of an encoder whose identity is {'5' * 12}, but that of {bert} is {identity}; "
    with pytest.raises(UserError, match=words + f"embed the rows with {bert} and train on those vectors"):
        Classifier.open(found)


def test_nothing_is_trained_on_vectors_that_name_another_encoder_than_they_say(films, bert):
    words = f"say they were made by an encoder whose identity is 5{{12}}, but that of {bert}, which they name, is [0-9a-f]{{12}}"
    with pytest.raises(UserError, match=words):
        train_head(mislabel(films, bert), HEAD)


@pytest.mark.parametrize("text", ["[" * 100_000, "{}"])
def test_a_classifier_json_that_says_nothing_is_refused(films, bert, text):
    found = train_head(embed(films, bert), HEAD.model_copy(update={"seed": 8}), name=f"crafted-{len(text)}")
    (found / "classifier.json").write_text(text)
    with pytest.raises(UserError, match="classifier.json of classifier/crafted.* can't be read .*; make it again"):
        Classifier.open(reseal(found.path))


def test_a_network_that_is_no_classifier_is_refused(films, bert):
    found = train_head(embed(films, bert), HEAD.model_copy(update={"seed": 9}), name="swapped")
    (found / "model.keras").write_bytes((bert / "model.keras").read_bytes())
    with pytest.raises(UserError, match="model.keras of classifier/swapped@.* is no classifier .*; make it again"):
        Classifier.open(reseal(found.path))


def test_a_damaged_classifier_is_refused(films, bert):
    found = train_head(embed(films, bert), HEAD.model_copy(update={"seed": 1}), name="damaged")
    (found / "classifier.json").write_text("{}")
    with pytest.raises(UserError, match="classifier/damaged@.* is damaged: classifier.json"):
        Classifier.open(found)


@pytest.mark.parametrize("bound", [-0.1, 1.1, float("nan")])
def test_a_bound_that_is_no_probability_is_refused(bound):
    with pytest.raises(ValueError, match="reject_below"):
        Predict(reject_below=bound)


# The command --------------------------------------------------------------------------------------------------------


@pytest.fixture
def command(place, monkeypatch, capsys):
    """`embedkit predict ...` in this process, as exit code, lines of stdout, stderr."""
    monkeypatch.setenv("EMBEDKIT_ARTIFACTS", str(place))

    def run(*words):
        code = main(["predict", *map(str, words)])
        out, err = capsys.readouterr()
        assert out == "" or out.endswith("\n")
        return code, out.split("\n")[:-1], err

    return run


def test_a_line_says_label_probability_and_row():
    assert as_line("a\tfilm\nof two", Prediction(label="very\tgood", probability=0.5)) == "very good\t0.5000\ta film of two"
    assert as_line("x", Prediction(label=None, probability=0.25)) == "?\t0.2500\tx"
    assert as_line("x", Prediction(label=["a", "b"])) == "a, b\t\tx"
    assert as_line("x", Prediction(label=[])) == "\t\tx"
    assert as_line("x", Prediction(label=1234.5678)) == "1234.5678\t\tx"


def test_the_command_prints_a_line_a_row_and_nothing_else(command, opened):
    code, out, err = command("classifier/films-tiny-bert", "a good film", "a bad\nfilm")
    expected = opened.predict(["a good film", "a bad\nfilm"])
    assert (code, err) == (0, "")
    assert out == [as_line(row, one) for row, one in zip(["a good film", "a bad film"], expected, strict=True)]
    assert re.fullmatch(r"(pos|neg)\t0\.\d{4}\ta good film", out[0])


def test_the_command_takes_the_settings_as_options(command, tmp_path):
    (tmp_path / "a.csv").write_text("id;review\n1;a cat\n2;a dog\n3;a moon\n")
    words = ["--text-column", "review", "--files.delimiter", ";", "--files.limit", 2, "--reject-below", 1]
    code, out, err = command("classifier/films-tiny-bert", "a.csv", *words)
    assert code == 0 and [line.split("\t")[::2] for line in out] == [["?", "a cat"], ["?", "a dog"]]
    assert err == "2 of 2 rows were rejected: probability below 1\n"


def test_numbers_labels_pictures_and_rows_of_a_table_in_lines(command, dated, tagged, looking, valued, sides, houses):
    (line,) = command(dated, "the good film")[1]
    assert re.fullmatch(r"170000000\d(\.\d+)?\t\tthe good film", line)
    (line,) = command(tagged, "the cat dog ran")[1]
    assert line.endswith("\t\tthe cat dog ran")
    (line,) = command(looking, sides / "left" / "001.png")[1]
    assert re.fullmatch(rf"left\t\d\.\d{{4}}\t{sides}/left/001.png", line)
    out = command(valued, houses)[1]
    assert len(out) == 120 and re.fullmatch(r"(dear|cheap)\t\d\.\d{4}\thouses.csv line 2", out[0])


def test_unreadable_rows_are_on_stderr_and_in_json_too(command, opened, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a cat"}\n{"text": ""}\n')
    code, out, err = command("classifier/films-tiny-bert", "a.jsonl", "--reject-below", "0")
    assert code == 0 and len(out) == 1 and err == "a.jsonl line 2: the text is blank\n1 of 2 rows can't be read\n"
    code, out, err = command("classifier/films-tiny-bert", "a.jsonl", "--json", "--reject-below", "1")
    first, second = map(json.loads, out)
    (one,) = opened.predict(["a cat"], Predict(reject_below=1))
    assert first == {"row": "a cat", "label": None, "probability": first["probability"], "probabilities": first["probabilities"]}
    assert first["probabilities"] == pytest.approx(one.probabilities, abs=1e-6)
    assert second == {"row": "a.jsonl line 2", "problem": "the text is blank"}
    assert code == 0 and err.startswith("a.jsonl line 2: the text is blank\n") and "1 of 2 rows were rejected" in err


def test_a_path_of_odd_bytes_can_be_printed(command, looking, sides, tmp_path):
    name = "b\udcff.png"
    (tmp_path / name).write_bytes((sides / "left" / "001.png").read_bytes())
    code, out, _ = command(looking, name)
    assert code == 0 and out[0].endswith("\tb?.png")
    assert json.loads(command(looking, name, "--json")[1][0])["row"] == "b?.png"


def test_exit_codes_of_the_command(command, tmp_path):
    code, out, err = command("classifier/films-tiny-bert")
    assert (code, out) == (1, []) and err.startswith("embedkit: there is nothing to predict; give a path")
    code, out, err = command("classifier/films-tiny-bert", "reviws.csv")
    assert (code, out) == (1, []) and err.startswith("embedkit: in ") and err.count("\n") == 1
    code, out, err = command("encoder/tiny-bert", "a film")
    assert (code, out) == (1, []) and "is no classifier; embed labelled rows with" in err
    (tmp_path / "a.txt").write_bytes(b"\xff\n")
    code, out, err = command("classifier/films-tiny-bert", "a.txt")
    assert (code, out) == (1, [])
    assert err.startswith("a.txt line 1: not in the encoding utf-8\nembedkit: no row can be read (1 came)")
    code, out, err = command("classifier/films-tiny-bert", "a", "--reject-below", "2")
    assert (code, out) == (2, []) and err.startswith("embedkit: the setting reject_below can't be '2'")
    assert command("classifier/films-tiny-bert", "a", "--reject", "2")[0] == 2 and command()[0] == 2


def test_pixels_and_bytes_are_rows_too(looking, sides):
    path = sides / "left" / "001.png"
    with Image.open(BytesIO(path.read_bytes())) as image:
        pixels = np.asarray(image)
    labels = [one.label for one in Classifier.open(looking).predict([path, path.read_bytes(), pixels])]
    assert labels == ["left"] * 3
