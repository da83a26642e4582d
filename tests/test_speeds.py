"""Speeds: measured on one core, in rounds in which all take their turn."""

import shutil
import time

import pytest

from embedkit import ImportEncoder, UserError, import_encoder
from embedkit.speeds import SINGLE, TOGETHER, alternating, measure


def test_every_round_asks_everybody_and_the_first_round_is_not_counted(monkeypatch):
    monkeypatch.setattr("embedkit.speeds.LEAST_SECONDS", 0.0)
    asked = []

    def answer(name):
        return lambda rows: asked.append((name, len(rows)))

    rows = [f"text {number}" for number in range(40)]
    found = alternating([answer("one"), answer("other")], rows, 3)
    once = [("one", 1)] * SINGLE + [("one", TOGETHER), ("one", 40)]
    assert asked == 4 * (once + [("other", size) for _, size in once])
    assert [set(each) for each in found] == 2 * [{"ms_1", "ms_32", "rows_per_second", "speedup"}]
    assert found[0]["speedup"] == {"median": 1.0, "lowest": 1.0, "highest": 1.0}


def test_who_sleeps_is_slower(monkeypatch):
    monkeypatch.setattr("embedkit.speeds.LEAST_SECONDS", 0.0)
    quick, slow = alternating([lambda rows: None, lambda rows: time.sleep(0.02)], ["a text"] * 3, 2)
    assert slow["speedup"]["highest"] < 1 and slow["ms_1"] > quick["ms_1"]
    assert slow["rows_per_second"] < 3 / 0.02


@pytest.mark.slow
def test_artifacts_are_measured_in_a_process_of_their_own(tiny_bert):
    whole = import_encoder(str(tiny_bert))
    short = import_encoder(str(tiny_bert), ImportEncoder(layer="transformer_layer_0"))
    found = measure([whole, short], ["a good film", "a bad one"], rounds=1)
    assert len(found) == 2 and all(each["rows_per_second"] > 0 for each in found)
    assert found[0]["speedup"]["median"] == 1


@pytest.mark.slow
def test_an_artifact_that_cannot_be_opened_is_named(tiny_bert):
    broken = import_encoder(str(tiny_bert))
    shutil.copy(broken / "encoder.json", broken / "model.keras")
    words = r"^the speed could not be measured \(.*encoder/.* is damaged: .*\); make the same call again, or look at"
    with pytest.raises(UserError, match=words):
        measure([broken], ["a text"], rounds=1)
