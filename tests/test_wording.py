"""Words of a comparison's page: numbers in the units that people use."""

import pytest

from embedkit import wording

SHARES, NUMBERS = {"measure": "accuracy"}, {"measure": "rmse"}


def test_a_text_is_cut_on_one_line_and_says_so():
    assert (
        wording.cut("one\n two", 7) == "one two" and wording.cut("one two", 6) == "one t…" and wording.cut("one two", 5) == "one…"
    )


@pytest.mark.parametrize(
    ("label", "words"), [(["joy", "fear"], "joy, fear"), ([], "none"), (3.14159, "3.14"), (2, "2"), ("x" * 50, "x" * 39 + "…")]
)
def test_a_label_is_shown_for_people(label, words):
    assert wording.shown(label) == words


def test_a_row_is_shown_by_its_columns_its_text_its_path_or_its_id():
    assert wording.content({"columns": [["size", "4"], ["colour", "red"]], "id": "1"}) == "size: 4, colour: red"
    assert wording.content({"text": "a b", "path": "b/1.jpg", "id": "1"}) == "a b"
    assert wording.content({"path": "b/1.jpg", "id": "1"}) == "b/1.jpg" and wording.content({"id": "1"}) == "1"


@pytest.mark.parametrize("url", ["", "https://example.org/a.png", "data:image/svg+xml;base64,AA==", 'data:image/png;base64,x" a="'])
def test_nothing_but_a_png_or_jpeg_in_base64_is_a_picture(url):
    assert wording.picture_of({"picture": url}) == "" and wording.picture_of({}) == ""
    assert wording.picture_of({"picture": "data:image/png;base64,AA=="}) == "data:image/png;base64,AA=="


def test_a_wrong_row_says_how_sure_or_how_far_off_it_was():
    assert wording.sureness({"probability": 0.971}) == "97.1 % sure" and wording.sureness({"error": -6.25}) == "off by 6.25"
    assert wording.sureness({"probability": None}) == ""


def test_budgets_are_in_order_of_their_numbers_and_all_is_last():
    score = {"value": 0.5}
    arms = [{"skipped": None, "scores": {name: score for name in names}} for names in (["100", "all"], ["30", "100"])]
    assert wording.budgets({"more_is_better": True, "arms": [*arms, {"skipped": "no time"}]}) == ["30", "100", "all"]


def test_a_title_is_that_of_the_arm_or_its_name():
    found = {"arms": [{"name": "lp_ft", "title": "lp ft"}]}
    assert wording.title(found, "lp_ft") == "lp ft" and wording.title(found, "other") == "other"


def test_the_error_is_that_over_seeds_where_there_are_several():
    assert wording.standard_error({"seeds_error": 0.02, "rows_error": 0.01}) == 0.02
    assert wording.standard_error({"seeds_error": None, "rows_error": 0.01}) == 0.01


def test_shares_are_in_percent_and_numbers_in_their_unit():
    assert wording.score(SHARES, 0.9561) == "95.6 %" and wording.score(NUMBERS, 12.512) == "12.5"
    assert wording.spread(SHARES, 0.0104) == "± 1.0" and wording.spread(NUMBERS, 0.0104) == "± 0.01"
    assert wording.spread(SHARES, None) == ""
    assert wording.join(wording.score(SHARES, 0.5), wording.spread(SHARES, None)) == "50.0 %"
    correlation = {"measure": "similarity"}
    assert wording.score(correlation, 0.9) == "0.900" and wording.spread(correlation, 0.0041) == "± 0.004"


def test_a_share_of_another_has_its_error_where_that_is_known():
    assert wording.share({"value": 0.971, "error": 0.006}) == "97.1 % ± 0.6"
    assert wording.share({"value": 0.971, "error": None}) == "97.1 %" and wording.share(None) == "–"


def test_a_twin_is_a_control_of_a_student_whose_name_ends_so():
    given = [("control", "narrow", "narrow-twin"), ("control", "narrow", "narrow-untrained"), ("control", None, "twin")]
    roles = [wording.role({"role": role, "of": of, "name": name}) for role, of, name in [*given, ("student", None, "my-twin")]]
    assert roles == ["twin", "control", "control", "student"]


def test_a_model_is_as_fast_as_it_was_measured_or_as_the_one_that_it_names():
    plain = {"speedup": None, "speed_of": None}
    teacher, timed = plain | {"role": "teacher", "name": "t"}, plain | {"role": "student", "name": "s", "speedup": {"median": 9.7}}
    others = [
        plain | {"role": "control", "name": name, "speed_of": of} for name, of in (("a", "s"), ("b", "t"), ("c", "x"), ("d", "d"))
    ]
    models = [teacher, timed, *others]
    assert [wording.speed({"models": models}, model) for model in models] == [1, 9.7, 9.7, 1, None, None]


def test_a_difference_has_a_sign_but_where_it_is_none():
    assert [wording.gap(SHARES, value) for value in (-0.012, 0.012, 0.0001, -0.0001)] == ["−1.2", "+1.2", "0.0", "0.0"]
    assert [wording.gap(NUMBERS, value) for value in (-1509.6, 1.25, 0.0)] == ["−1,510", "+1.25", "0"]


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.012, "12 ms"), (0.4, "0.4 s"), (14.2, "14 s"), (119, "119 s"), (410, "7 min"), (9000, "2.5 h")]
)
def test_times_have_the_unit_that_people_use(seconds, words):
    assert wording.duration(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"), [(800, "800 B"), (9_140_000, "9.1 MB"), (91_000_000, "91.0 MB"), (1_200_000_000, "1.2 GB")]
)
def test_sizes_have_the_unit_that_people_use(count, words):
    assert wording.size(count) == words


@pytest.mark.parametrize(("value", "words"), [(0.0449, "0.045"), (7, "7.0"), (99.96, "100"), (402, "402"), (11214, "11,214")])
def test_measured_times_and_speeds_have_the_digits_that_people_read(value, words):
    assert wording.rounded(value) == words


@pytest.mark.parametrize(("count", "words"), [(31_200, "31,200"), (22_713_216, "22.7 million"), (7_240_000_000, "7.2 billion")])
def test_many_parameters_are_counted_in_millions(count, words):
    assert wording.count(count) == words
