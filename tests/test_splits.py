"""Ids and splits, on arrays small enough to check by hand."""

import hashlib

import numpy as np
import pytest

from embedkit import splits

TRAIN, VALIDATION, TEST = range(3)


def hashes(count, first=0):
    return np.array([splits.hash64(f"row {number}".encode()) for number in range(first, first + count)], np.int64)


def test_the_names_of_the_splits_are_in_the_order_of_their_numbers():
    assert splits.SPLITS == ("train", "validation", "test")


def test_hash64_is_the_first_63_bits_of_blake2b():
    bits = f"{int(hashlib.blake2b(b'hi', digest_size=8).hexdigest(), 16):064b}"
    assert splits.hash64(b"hi") == int(bits[:63], 2) == 591633059294511627  # ids lie in artifacts: the number may not change


@pytest.mark.parametrize("data", [b"", b"\x00", b"a" * 10_000, "é".encode()])
def test_hashes_fit_a_non_negative_int64(data):
    assert 0 <= splits.hash64(data) < 2**63


def test_mix_gives_the_published_outputs_of_splitmix64():
    first, second = 0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4  # of the generator started at 0 (Vigna, splitmix64.c)
    assert splits.mix(np.array([0]), seed=0)[0] == (first >> 11) / 2**53
    assert splits.mix(np.array([0]), seed=1)[0] == (second >> 11) / 2**53


def test_mix_is_uniform_even_for_numbers_in_a_row():
    uniform = splits.mix(np.arange(100_000), seed=0)
    assert uniform.min() >= 0 and uniform.max() < 1
    counts = np.histogram(uniform, bins=10, range=(0, 1))[0]
    assert np.abs(counts - 10_000).max() < 500  # 5 standard deviations of 95


def test_mix_with_another_seed_has_nothing_to_do_with_the_first():
    values = hashes(5000)
    assert abs(np.corrcoef(splits.mix(values, 0), splits.mix(values, 1))[0, 1]) < 0.06


def test_mix_takes_the_largest_hash_and_the_largest_seed():
    assert 0 <= splits.mix(np.array([2**63 - 1]), seed=2**63)[0] < 1


@pytest.mark.parametrize(
    ("values", "counts"),
    [
        ([7, 8, 7], [0, 0, 1]),
        ([5, 5, 5, 5], [0, 1, 2, 3]),
        ([3, 1, 2], [0, 0, 0]),
        ([2, 1, 2, 1, 1], [0, 0, 1, 1, 2]),
        ([9], [0]),
        ([], []),
    ],
)
def test_occurrences_counts_the_equals_before_each_value(values, counts):
    assert splits.occurrences(np.array(values, np.int64)).tolist() == counts


def test_the_first_row_of_a_content_has_its_hash_as_its_id_and_copies_have_others():
    content = np.array([70, 80, 70, 70], np.int64)
    ids = splits.content_ids(content)
    assert ids[:2].tolist() == [70, 80]
    assert len(set(ids.tolist())) == 4
    assert ids[2] == splits.hash64(b"70 1") and ids[3] == splits.hash64(b"70 2")


def test_ids_stay_when_rows_are_added():
    content = np.array([70, 80, 70], np.int64)
    assert splits.content_ids(np.r_[content, 70, 90])[:3].tolist() == splits.content_ids(content).tolist()


def test_making_ids_leaves_the_content_hashes_alone():
    content = np.array([70, 70], np.int64)
    splits.content_ids(content)
    assert content.tolist() == [70, 70]


def test_a_drawn_split_has_the_shares_asked_for():
    counts = np.bincount(splits.draw(hashes(20_000), 0.1, 0.2, seed=0), minlength=3)
    assert np.abs(counts - [14_000, 2_000, 4_000]).max() < 300  # 5 standard deviations of 57


def test_a_drawn_split_is_three_small_numbers():
    drawn = splits.draw(hashes(100), 0.1, 0.2, seed=0)
    assert drawn.dtype == np.int8 and set(drawn.tolist()) == {TRAIN, VALIDATION, TEST}


def test_adding_rows_moves_no_old_row():
    few, many = hashes(500), hashes(5000)
    drawn = splits.draw(many, 0.1, 0.2, seed=3)
    assert (drawn[:500] == splits.draw(few, 0.1, 0.2, seed=3)).all()
    order = np.random.default_rng(0).permutation(5000)
    assert (splits.draw(many[order], 0.1, 0.2, seed=3) == drawn[order]).all()


def test_equal_rows_are_drawn_to_one_side():
    rows = hashes(200)
    drawn = splits.draw(np.r_[rows, rows], 0.3, 0.3, seed=0)
    assert (drawn[:200] == drawn[200:]).all()


def test_test_rows_stay_test_rows_when_the_validation_share_grows():
    rows = hashes(2000)
    small, large = splits.draw(rows, 0.1, 0.2, 0), splits.draw(rows, 0.4, 0.2, 0)
    assert ((small == TEST) == (large == TEST)).all()
    assert (large[small == VALIDATION] == VALIDATION).all()


def test_another_seed_draws_other_rows():
    rows = hashes(1000)
    assert (splits.draw(rows, 0.1, 0.2, 0) != splits.draw(rows, 0.1, 0.2, 1)).sum() > 200


def test_shares_of_nothing_leave_all_rows_in_training():
    assert not splits.draw(hashes(1000), 0.0, 0.0, 0).any()
    assert not splits.draw_stratified(hashes(1000), np.arange(1000) % 3, 0.0, 0.0, 0).any()


@pytest.mark.parametrize("draw", [splits.draw, lambda h, v, t, s: splits.draw_stratified(h, h, v, t, s)])
def test_no_rows_give_no_splits(draw):
    assert draw(np.empty(0, np.int64), 0.1, 0.2, 0).tolist() == []


def test_each_stratum_gets_the_same_shares():
    strata = np.repeat([0, 1, 2], [900, 90, 10])
    drawn = splits.draw_stratified(hashes(1000), strata, 0.1, 0.2, seed=0)
    counts = [np.bincount(drawn[strata == stratum], minlength=3).tolist() for stratum in range(3)]
    assert counts == [[630, 90, 180], [63, 9, 18], [7, 1, 2]]


def test_rows_without_a_label_are_a_stratum_of_their_own():
    strata = np.repeat([-1, 0], [100, 100])
    drawn = splits.draw_stratified(hashes(200), strata, 0.1, 0.2, seed=0)
    assert np.bincount(drawn[strata == -1]).tolist() == [70, 10, 20]


def test_a_stratum_of_one_row_is_trained_on():
    strata = np.arange(50)
    assert not splits.draw_stratified(hashes(50), strata, 0.1, 0.2, seed=0).any()


def test_equal_rows_of_a_stratum_stay_together():
    rows = np.tile(hashes(50), 4)
    drawn = splits.draw_stratified(rows, np.zeros(200, int), 0.2, 0.2, seed=0)
    assert (drawn.reshape(4, 50) == drawn[:50]).all()
    assert np.bincount(drawn[:50]).tolist() == [30, 10, 10]


def test_equal_rows_of_different_strata_stay_together_with_most_of_them():
    content = np.r_[np.arange(200), np.zeros(3, int)]  # one content has four rows, of which three are in another stratum
    drawn = splits.draw_stratified(hashes(203), np.r_[np.zeros(200, int), np.ones(3, int)], 0.2, 0.2, seed=0, units=content)
    assert len(set(drawn[content == 0].tolist())) == 1


@pytest.mark.parametrize("seed", range(5))
def test_shares_are_of_rows_however_often_some_of_them_recur(seed):
    random = np.random.default_rng(seed)
    content = random.integers(0, 400, 2000) ** 2 // 400  # a few recur a hundred times
    positive = (random.permutation(400) < 60)[content].astype(int)
    drawn = splits.draw_stratified(hashes(2000), positive, 0.1, 0.2, seed, units=content)
    shares = np.bincount(drawn, minlength=3) / 2000
    assert np.abs(shares - [0.7, 0.1, 0.2]).max() < 0.01
    assert not splits.straddling(content, drawn)[0].any()
    rates = [positive[drawn == side].mean() for side in range(3)]
    assert np.abs(np.array(rates) - positive.mean()).max() < 0.1 * positive.mean()


def test_a_row_that_recurs_more_often_than_a_split_is_large_is_trained_on():
    content = np.r_[np.zeros(300, int), np.arange(1, 701)]
    drawn = splits.draw_stratified(hashes(1000), np.zeros(1000, int), 0.1, 0.2, seed=1, units=content)
    assert not drawn[:300].any() and np.bincount(drawn).tolist() == [700, 100, 200]


def test_rows_are_together_that_have_a_key_in_common_be_it_by_way_of_others():
    one, other = np.array([1, 1, 2, 3, 4, 5]), np.array([7, 8, 8, 9, 7, 10])
    assert splits.together(one, other).tolist() == [0, 0, 0, 3, 0, 5]
    assert splits.together(one).tolist() == [0, 0, 2, 3, 4, 5]
    assert splits.together(np.empty(0, int)).tolist() == []


def test_a_stratified_draw_is_no_sort_by_position():
    drawn = splits.draw_stratified(hashes(100), np.zeros(100, int), 0.1, 0.2, seed=0)
    assert drawn.tolist() != sorted(drawn.tolist()) and drawn.tolist() != sorted(drawn.tolist(), reverse=True)
    assert drawn.tolist() != splits.draw_stratified(hashes(100), np.zeros(100, int), 0.1, 0.2, seed=1).tolist()


def test_the_latest_rows_are_for_testing():
    times = np.array([5, 1, 9, 3, 7, 2, 8, 4, 6, 0], float)
    drawn = splits.draw_by_time(times, validation=0.1, test=0.2)
    assert drawn.tolist() == [0, 0, 2, 0, 1, 0, 2, 0, 0, 0]
    assert drawn.dtype == np.int8


def test_dates_are_split_by_time_too():
    times = np.array(["2020-01-03", "2020-01-01", "2020-01-04", "2020-01-02"], "datetime64[us]")
    assert splits.draw_by_time(times, validation=0.25, test=0.25).tolist() == [1, 0, 2, 0]


def test_rows_of_one_moment_stay_together():
    times = np.array([1, 2, 3, 4, 5, 5, 5, 5, 5, 5], float)
    assert splits.draw_by_time(times, 0.0, 0.2).tolist() == [0, 0, 0, 0, 2, 2, 2, 2, 2, 2]


def test_a_split_by_time_without_a_test_share_has_no_test_rows():
    times = np.arange(10.0)
    assert splits.draw_by_time(times, validation=0.2, test=0.0).tolist() == [0] * 8 + [1, 1]
    assert splits.draw_by_time(times, validation=0.0, test=0.0).tolist() == [0] * 10


def test_a_split_by_time_without_a_validation_share_has_no_validation_rows():
    assert splits.draw_by_time(np.arange(10.0), validation=0.0, test=0.3).tolist() == [0] * 7 + [2] * 3


def test_equal_rows_on_two_sides_are_found_and_moved_to_the_earlier_side():
    content = np.array([1, 2, 1, 3, 3, 4, 4, 2], np.int64)
    drawn = np.array([2, 2, 0, 1, 2, 1, 1, 2], np.int8)
    across, moved = splits.straddling(content, drawn)
    assert across.tolist() == [True, False, True, True, True, False, False, False]
    assert moved.tolist() == [0, 2, 0, 1, 1, 1, 1, 2]
    assert moved.dtype == np.int8 and drawn.tolist() == [2, 2, 0, 1, 2, 1, 1, 2]


def test_no_two_equal_rows_means_no_straddling():
    across, moved = splits.straddling(np.arange(3), np.array([0, 1, 2], np.int8))
    assert not across.any() and moved.tolist() == [0, 1, 2]
    across, moved = splits.straddling(np.empty(0, np.int64), np.empty(0, np.int8))
    assert len(across) == len(moved) == 0
