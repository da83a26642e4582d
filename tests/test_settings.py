"""Settings: frozen, checked, documented, in source order; and the error for a name that is not there."""

import pydoc
import re

import pytest
from pydantic import PositiveInt, ValidationError

from embedkit import TrainHead
from embedkit.settings import PositiveIntOrNone, Seeded, Settings, UserError, later, listed, not_among


class Oven(Settings):
    """How hot and how long."""

    heat: float = 180.0
    """Degrees Celsius."""
    rounds: PositiveInt = 2
    """How often the tray
    is turned."""


class Bake(Seeded):
    """How bread is made."""

    zest: str = "lemon"
    """What is grated."""
    oven: Oven = Oven(rounds=2)
    """The oven."""
    apples: PositiveIntOrNone = None
    """How many apples; none by default."""


def test_settings_are_frozen():
    bake = Bake()
    with pytest.raises(ValidationError, match="frozen"):
        bake.zest = "orange"
    with pytest.raises(ValidationError, match="frozen"):
        bake.oven.heat = 20
    assert bake == Bake()


def test_a_setting_that_does_not_exist_is_refused():
    with pytest.raises(UserError, match="Bake: the setting 'zset' is not known; did you mean 'zest'"):
        Bake(zset="orange")
    with pytest.raises(ValidationError, match="(?s)oven.*Oven: the setting 'heet' is not known; did you mean 'heat'"):
        Bake(oven={"heet": 20})


@pytest.mark.parametrize("heat", [float("nan"), float("inf"), "-inf", "hot"])
def test_numbers_are_finite_numbers(heat):
    with pytest.raises(ValidationError, match="heat"):
        Oven(heat=heat)


def test_bounds_hold_in_nested_groups():
    with pytest.raises(ValidationError, match="(?s)oven.rounds.*greater than 0"):
        Bake(oven={"rounds": 0})


def test_a_default_out_of_bounds_is_found():
    class Wrong(Settings):
        """Wrong."""

        count: PositiveInt = 0
        """A count."""

    with pytest.raises(ValidationError, match="(?s)count.*greater than 0"):
        Wrong()


def test_help_is_the_string_under_the_field():
    assert {name: field.description for name, field in Bake.model_fields.items()} == {
        "seed": Seeded.model_fields["seed"].description,
        "zest": "What is grated.",
        "oven": "The oven.",
        "apples": "How many apples; none by default.",
    }
    assert Oven.model_fields["rounds"].description == "How often the tray\nis turned."


def test_a_form_shows_settings_in_the_order_of_the_source_inherited_ones_first():
    properties = Bake.model_json_schema()["properties"]
    assert {name: field["position"] for name, field in properties.items()} == {"seed": 0, "zest": 1, "oven": 2, "apples": 3}
    inner = Bake.model_json_schema()["$defs"]["Oven"]["properties"]
    assert {name: field["position"] for name, field in inner.items()} == {"heat": 0, "rounds": 1}


def test_equal_settings_are_equal_however_they_were_written():
    plain, words = Bake(seed=3, oven=Oven(heat=200)), Bake(seed="3", oven={"heat": "200"})
    assert plain == words and hash(plain) == hash(words)
    assert Bake.model_validate_json(plain.model_dump_json()) == plain
    assert Bake(seed=4) != plain


@pytest.mark.parametrize("seed", [-1, 1.5, None, "x"])
def test_a_seed_is_a_whole_number_from_zero_on(seed):
    with pytest.raises(ValidationError, match="seed"):
        Seeded(seed=seed)


def test_a_user_error_is_a_value_error_that_reads_as_its_sentence():
    assert isinstance(UserError("no"), ValueError)
    assert str(UserError("this came; do that")) == "this came; do that"


def test_a_name_that_is_not_there_is_answered_with_near_ones():
    assert str(not_among("colour", "orang", ["red", "blue", "orange"])) == "colour 'orang' is not known; did you mean 'orange'?"
    error = str(not_among("colour", "gree", ["blue", "green", "greet"]))
    assert error in [f"colour 'gree' is not known; did you mean {near}?" for near in ("'greet' or 'green'", "'green' or 'greet'")]


def test_with_nothing_near_all_that_there_is_is_named():
    assert str(not_among("colour", "xyz", ["red", "blue", "red"])) == "colour 'xyz' is not known; there is red, blue"


def test_a_long_list_is_cut_after_twelve():
    message = str(not_among("page", "x", [str(number) for number in range(100, 115)]))
    assert message.endswith("; there is 100, 101, 102, 103, 104, 105, 106, 107, 108, 109, 110, 111 and 3 more")


def test_an_empty_list_says_there_is_none_and_a_hint_comes_last():
    assert str(not_among("page", "x", [], hint="write one")) == "page 'x' is not known; there is none (write one)"
    assert isinstance(not_among("page", "x", iter(["y"])), UserError)


def test_a_message_about_names_stays_short_however_many_and_long_they_are():
    names = [f"{number} " + "x" * 200 for number in range(100_000)]
    said = str(not_among("column", "y" * 10**6, names))
    assert len(said) < 1500 and said.endswith(" and 99,988 more")
    assert "did you mean '7 xxx" in str(not_among("column", "7 " + "x" * 200, names[:20]))


def test_names_in_a_message_are_the_first_few_each_cut():
    assert listed(["a", "b"]) == "a, b"
    assert listed(["x" * 81]) == "x" * 77 + "..." and listed(["x" * 80]) == "x" * 80
    assert listed(map(str, range(14)), " and no ") == " and no ".join(map(str, range(12))) + " and 2 more"


def test_a_setting_that_came_later_is_left_out_of_what_is_written_at_its_default():
    class Later(Settings):
        """Later."""

        most: PositiveInt = later(7)
        """How many."""

    assert Later().model_dump(mode="json") == {} and Later(most=7) == Later()
    assert Later(most=8).model_dump(mode="json") == {"most": 8} and Later.model_validate_json("{}").most == 7
    assert Later.model_json_schema()["properties"]["most"]["default"] == 7


def test_a_misspelt_setting_is_one_sentence_with_near_names():
    with pytest.raises(UserError, match="^TrainHead: the setting 'label_per_class' is not known; did you mean 'labels_per_class'"):
        TrainHead(label_per_class=5)
    with pytest.raises(ValueError, match="Training: the setting 'epoch' is not known; did you mean 'epochs'"):
        TrainHead(training={"epoch": 5})
    with pytest.raises(ValueError, match="the setting 'sed' is not known; did you mean 'seed'"):
        TrainHead.model_validate_json('{"sed": 1}')


def test_help_shows_every_setting_with_its_sentence():
    text = pydoc.render_doc(TrainHead, renderer=pydoc.plaintext)
    assert "How vectors become a classifier." in text
    for name, field in TrainHead.model_fields.items():
        assert re.search(rf"^ \|      {name}: ", text, re.MULTILINE), name
        assert " ".join((field.description or "").split())[:50] in re.sub(r"\s+\|\s+", " ", text)
    assert TrainHead.model_json_schema()["description"] == "How vectors become a classifier."
