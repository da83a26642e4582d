"""What a label column holds: classes, several classes, numbers, or nothing."""

import json
import math

import numpy as np
import pytest

from embedkit import hubs, labels
from embedkit.datasets import LoadTexts
from embedkit.settings import UserError


def decide(*values, **settings):
    settings = LoadTexts(**settings)
    return labels.decide([labels.written(value, settings) for value in values], settings).labels


def array(*values, **settings):
    found = decide(*values, **settings)
    return found.kind, found.array.to_pylist()


@pytest.mark.parametrize("value", [None, "", math.nan, -1, "-1", -1.0, "?"])
def test_a_missing_label_or_one_that_means_none_is_no_label(value):
    assert labels.written(value, LoadTexts(unlabelled=("-1", "?"))) is None


@pytest.mark.parametrize("value", [0, "0", False, "none", -1, "-1", []])
def test_a_label_is_none_only_where_that_was_said(value):
    assert json.loads(labels.written(value, LoadTexts())) == value


def test_a_label_is_kept_as_readable_json():
    assert labels.written("naïve", LoadTexts()) == '"naïve"'
    assert labels.written(["a", "b"], LoadTexts()) == '["a", "b"]'
    assert labels.written(2.5, LoadTexts()) == "2.5"


def test_a_separator_makes_a_list_of_a_text_and_drops_blanks():
    settings = LoadTexts(label_separator=",")
    assert json.loads(labels.written(" joy, anger ,,", settings)) == ["joy", "anger"]
    assert json.loads(labels.written("joy", settings)) == ["joy"]
    assert json.loads(labels.written(["a,b"], settings)) == ["a,b"]
    assert labels.written("", settings) is None


def test_words_are_classes_in_the_order_of_letters():
    found = decide("pos", "neg", None, "pos")
    assert (found.kind, found.array.to_pylist()) == ("class", ["pos", "neg", None, "pos"])
    assert found.summary() == {"type": "class", "labelled": 3, "classes": {"neg": 1, "pos": 2}}
    assert list(found.summary()["classes"]) == ["neg", "pos"]


def test_whole_numbers_are_classes_in_the_order_of_their_values():
    found = decide("10", "9", "2", "9")
    assert found.kind == "class" and list(found.summary()["classes"].items()) == [("2", 1), ("9", 2), ("10", 1)]


@pytest.mark.parametrize("spelled", [[1, 2], ["1", "2"], [1.0, 2.0], [1, "2"]])
def test_a_class_has_one_name_however_the_source_writes_its_number(spelled):
    assert array(*spelled) == ("class", ["1", "2"])


def test_one_class_written_in_two_ways_is_one_class():
    assert decide(1, "1", 1.0).summary()["classes"] == {"1": 3}


def test_a_hundred_whole_numbers_are_classes_and_one_more_are_numbers():
    assert decide(*range(100)).kind == "class"
    found = decide(*range(101))
    assert found.kind == "number"
    assert found.summary() == {"type": "number", "labelled": 101, "lowest": 0.0, "highest": 100.0}


def test_fractions_are_numbers():
    assert array("1.5", "2", None) == ("number", [1.5, 2.0, None])


def test_truth_values_are_classes():
    assert array(True, False, None) == ("class", ["True", "False", None])
    assert array(True, 3) == ("class", ["True", "3"])


def test_numbers_beside_words_are_classes():
    assert array("1", "x") == ("class", ["1", "x"])
    assert list(decide("b", "10", "9").summary()["classes"]) == ["10", "9", "b"]


@pytest.mark.parametrize("value", ["none", "inf", "-inf", "Infinity"])
def test_words_that_python_would_read_as_numbers_are_words(value):
    assert array(value, "1") == ("class", [value, "1"])


@pytest.mark.parametrize("value", [math.inf, -math.inf, 10**400], ids=["inf", "-inf", "401 digits"])
def test_a_number_without_a_finite_value_is_a_class_of_its_own_and_stops_nothing(value):
    kind, values = array(value, 1)
    assert kind == "class" and values[1] == "1" and values[0] not in (None, "1")


def test_lists_are_several_classes():
    found = decide(["b", "a"], ["a"], [], None)
    assert (found.kind, found.array.to_pylist()) == ("classes", [["b", "a"], ["a"], [], None])
    assert found.summary() == {"type": "classes", "labelled": 3, "classes": {"a": 2, "b": 1}}


def test_one_list_makes_all_rows_lists():
    assert array(["x", "y"], "x", 3) == ("classes", [["x", "y"], ["x"], ["3"]])


def test_numbers_in_lists_are_named_like_numbers_alone():
    assert array([1, 2.0], ["3"]) == ("classes", [["1", "2"], ["3"]])


def test_what_is_missing_inside_a_list_is_no_class():
    assert array([1, None], [2]) == ("classes", [["1"], ["2"]])
    assert array([math.nan, 1], [2]) == ("classes", [["1"], ["2"]])


def test_the_type_can_be_said():
    assert array("1", "2", label_type="number") == ("number", [1.0, 2.0])
    assert array("1.5", "2.5", label_type="class") == ("class", ["1.5", "2.5"])
    assert array("1", "2", label_type="classes") == ("classes", [["1"], ["2"]])
    assert decide(*range(200), label_type="class").kind == "class"


def test_a_word_is_refused_where_numbers_were_asked_for():
    with pytest.raises(UserError, match="the label 'many' is no number; set label_type to class, or name it in unlabelled"):
        decide("1", "many", label_type="number")
    with pytest.raises(UserError, match=r"the label \['a'\] is no number"):
        decide(["a"], label_type="number")
    assert array("1", "many", label_type="number", unlabelled=("many",)) == ("number", [1.0, None])


def test_no_label_at_all_is_said_as_nothing_labelled():
    found = decide(None, None)
    assert found.array.to_pylist() == [None, None]
    assert found.summary() == {"type": "class", "labelled": 0, "classes": {}}
    assert found.strata().tolist() == [-1, -1]
    assert decide(None, label_type="number").summary() == {"type": "number", "labelled": 0}
    assert decide(None, label_type="classes").summary() == {"type": "classes", "labelled": 0, "classes": {}}


def test_strata_are_the_classes_by_number_and_minus_one_for_none():
    assert decide("pos", None, "neg", "pos").strata().tolist() == [1, -1, 0, 1]
    assert decide("10", "9").strata().tolist() == [1, 0]


def test_strata_of_lists_are_their_first_class():
    assert decide(["b", "a"], ["a"], [], None).strata().tolist() == [1, 0, -1, -1]


def test_strata_of_numbers_are_deciles():
    strata = decide(*(number + 0.5 for number in range(100)), None).strata()
    assert np.bincount(strata[:100]).tolist() == [10] * 10
    assert strata[0] == 0 and strata[99] == 9 and strata[100] == -1


def test_no_numbers_give_strata_of_minus_one():
    assert decide(None, None, label_type="number").strata().tolist() == [-1, -1]


def test_ordering_is_by_value_only_when_all_names_are_numbers():
    assert labels.ordered(["10", "9", "-1", "2.5"]) == ["-1", "2.5", "9", "10"]
    assert labels.ordered(["10", "9", "a"]) == ["10", "9", "a"]
    assert labels.ordered(["1", "01", "1.0"]) == ["01", "1", "1.0"]
    assert labels.ordered([]) == []


# Corrections


def test_a_correction_behind_a_quote_is_what_a_spreadsheet_would_compute_and_others_are_as_written(tmp_path):
    (tmp_path / "c.csv").write_text("id,label\n1,'=1+1\n2,=1+1\n3,'tis\n4,''-1\n5,\"'\t1\"\n6,-1\n7,'\n")
    found = labels.read_corrections(labels.pinned(str(tmp_path / "c.csv")))
    assert found == {1: "=1+1", 2: "=1+1", 3: "'tis", 4: "'-1", 5: "\t1", 6: "-1", 7: "'"}
    (tmp_path / "c.jsonl").write_text(json.dumps({"id": 1, "label": "'=1"}) + "\n" + json.dumps({"id": 2, "label": ["'=1"]}) + "\n")
    assert labels.read_corrections(labels.pinned(str(tmp_path / "c.jsonl"))) == {1: "'=1", 2: ["'=1"]}


def noted(*values, **settings):
    settings = LoadTexts(**settings)
    return labels.decide([labels.written(value, settings) for value in values], settings).notes


@pytest.mark.parametrize(
    "codes",
    [
        [f"{n:04d}" for n in range(150)],
        [f"{n}_1" for n in range(150)],
        [f"{n}E2" for n in range(150)],
        [str(10**18 + n) for n in range(150)],
        [10**18 + n for n in range(150)],
    ],
)
def test_digits_that_name_things_are_classes_however_many(codes):
    found = decide(*codes)
    assert found.kind == "class" and len(found.summary()["classes"]) == 150


def test_numbers_as_programs_write_them_are_numbers():
    values = ["1e-05", "1.50E+02", "-3", "2.", ".5", *map(str, range(150))]
    assert decide(*values).kind == "number" and decide(*values).array.to_pylist()[:2] == [1e-05, 150.0]


def test_declared_classes_are_classes_however_they_are_called():
    settings = LoadTexts()
    raw = [labels.written(hubs.ClassName(n), settings) for n in range(1, 151)]
    assert labels.decide(raw, settings).labels.kind == "number"
    assert labels.decide(raw, settings, declared=True).labels.summary()["classes"]["101"] == 1


@pytest.mark.parametrize("word", ["NA", "nan", "", "-", "#N/A", "?"])
def test_words_for_no_label_among_numbers_are_none_and_are_counted(word):
    values = [*(n + 0.5 for n in range(20)), word]
    assert array(*values)[0] == "number" and array(*values)[1][-1] is None
    note = f"the label {word!r} of 1 rows is taken as none; name it in unlabelled to say so"
    assert noted(*values) == ([note] if word else [])


def test_words_that_never_name_a_class_are_none_and_others_are_classes_with_a_note():
    assert array("a", "b", "NaN", "NA") == ("class", ["a", "b", None, "NA"])
    assert noted("a", "b", "NaN", "NA") == [
        "the label 'NaN' of 1 rows is taken as none; name it in unlabelled to say so",
        "'NA' (1) is taken as a class; name it in unlabelled where it means that there is none",
    ]
    assert array("a", "NA", unlabelled=("NA",))[1] == ["a", None]


def test_labels_that_are_written_in_two_ways_are_one_class():
    assert array("0", "1", "1.0", "0.0", 1) == ("class", ["0", "1", "1", "0", "1"])
    assert noted("1", "1.0", "0") == ["labels written as '1' (1) and '1.0' (1) are one class, 1"]
    assert array("pos ", "pos", " neg") == ("class", ["pos", "pos", "neg"])
    assert array("caf\u00e9", "cafe\u0301")[1] == ["caf\u00e9", "caf\u00e9"]


def test_classes_that_differ_in_case_are_kept_apart_with_a_note():
    (note,) = noted("Pos", "pos", "pos", "neg")
    assert note == "classes that look alike are kept apart: 'Pos' (1), 'pos' (2); fix the labels where they mean one"


def test_lists_of_0_and_1_are_read_by_position():
    assert array([1, 0, 0], [0, 1, 1], [0, 0, 0]) == ("classes", [["0"], ["1", "2"], []])
    assert array([1, 0, 0], [0, 1, 0]) == ("class", ["0", "1"])  # each has one
    assert array("[0, 1, 1]", "[1, 0, 0]") == ("classes", [["1", "2"], ["0"]])
    assert noted([1, 0], [0, 1]) == ["labels are lists of 0 and 1, so that 2 classes are known by their positions from 0"]
    assert array(["1", "0"], ["1"]) == ("classes", [["1", "0"], ["1"]])  # of unequal length: names


def test_lists_of_shares_are_refused():
    with pytest.raises(UserError, match=r"the labels are lists of shares, such as \[0\.7, 0\.3\], which are not learned"):
        decide([0.7, 0.3], [1, 0])


def test_texts_of_lists_are_lists():
    assert array("['a', 'b']", '["a"]', "[]") == ("classes", [["a", "b"], ["a"], []])
    assert array("[a", "[b]")[0] == "class"
    assert array("[__import__('os')]", "[1]") == ("class", ["[__import__('os')]", "[1]"])
