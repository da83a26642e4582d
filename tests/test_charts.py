"""Pictures of a comparison: the same bytes again, names that can be told apart and read, the colours of the page they are on."""

import io

import numpy as np
import pytest
from conftest import COMPARED_ARMS, SKIPPED_ARM, compared, compared_numbers
from PIL import Image

from embedkit import charts, wording


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize("draw", [charts.curve, charts.cost, charts.confusion])
def test_a_picture_has_the_same_bytes_again_and_the_colour_of_the_page_behind_it(draw):
    for ink in (charts.LIGHT, charts.DARK):
        data = draw(compared(), ink)
        assert data == draw(compared(), ink)
        assert pixels(data)[0, 0].tolist() == list(bytes.fromhex(ink.page[1:]))


@pytest.mark.parametrize("draw", [charts.curve, charts.cost])
@pytest.mark.parametrize("given", [compared_numbers(), compared(arms=COMPARED_ARMS[:1]), compared(arms=[SKIPPED_ARM])])
def test_a_picture_needs_no_share_no_second_arm_and_not_even_one(draw, given):
    assert min(pixels(draw(given, charts.LIGHT)).shape[:2]) > 200


def test_an_arm_has_one_colour_and_marker_the_recommended_one_the_first_and_the_best_the_second():
    looks = charts._looks(compared(), charts.DARK)
    assert list(looks) == ["frozen_linear", "lp_ft", "frozen_mlp", "guess"]
    assert [look["color"] for look in looks.values()] == list(charts.DARK.arms[:4])
    assert [look["marker"] for look in looks.values()] == ["o", "s", "D", "^"]
    assert [look["linewidth"] for look in looks.values()] == [2.4, 2.4, 1.2, 1.2]


def test_a_score_far_below_the_others_lies_outside_and_is_named_in_brackets():
    given = compared()
    arms, (_, axes) = wording.measured(given), charts._canvas((8.4, 4.6), charts.LIGHT)
    charts._score_axis(given, axes, charts.LIGHT, [wording.last_score(arm) for arm in arms])
    low, high = axes.get_ylim()
    assert 0.93 < low < 0.956 - 0.0104 and 0.968 + 0.0104 < high < 1
    assert [charts._named(given, arm, axes) for arm in arms] == ["lp ft", "frozen mlp", "frozen linear", "guess (23.0 %)"]


def test_a_sign_that_the_font_lacks_is_a_box():
    assert charts._drawable("é 名前\n", 34) == "é □□" and charts._drawable("a long name", 7) == "a long…"


def test_names_beside_lines_keep_their_distance_and_order():
    assert charts._apart(np.array([50.0, 10.0, 52.0]), 10, 100).tolist() == [46, 10, 56]
    assert charts._apart(np.array([99.0, 100.0]), 10, 100).tolist() == [90, 100]
    assert charts._apart(np.array([0.0, 1.0, 2.0]), 10, 20).tolist() == [0, 10, 20]
    assert charts._apart(np.array([]), 10, 100).tolist() == []


def test_names_on_the_cost_picture_lie_neither_on_each_other_nor_on_a_point():
    figure, axes = charts._canvas((8.4, 4.6), charts.LIGHT)
    random = np.random.default_rng(0)
    points = [(float(x), float(y)) for x, y in zip(random.uniform(0.3, 0.6, 10), random.uniform(0.4, 0.6, 10), strict=True)]
    look = {"color": "black", "linewidth": 1.2}
    charts._name_points(figure, axes, [(f"an arm with a name, {n}", look) for n in range(10)], points, [0.0] * 10)
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in axes.texts]
    for place, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[place + 1 :])
        assert not any(box.contains(*axes.transData.transform(point)) for point in points)
