"""When evaluations are due, what they cost, and when they are left out."""

import pytest

from pufferfish.train.evaluations import Evaluations

SHARE_S = 60.0


def after(*times_s, num=5):
    return Evaluations(num, SHARE_S, num_past=len(times_s), times_s=list(times_s))


def test_they_are_spread_evenly_over_the_schedule():
    evaluations, due = Evaluations(3, SHARE_S), []
    for step in range(101):
        if evaluations.is_due(step / 100):
            due.append(step / 100)
            evaluations.num_past += 1
    assert due == [0.25, 0.5, 0.75]


def test_those_that_are_left_get_their_time():
    assert after().reserve_s == 0.0
    assert after(0.3, 0.2).reserve_s == pytest.approx(3 * 0.2)
    assert after(*[0.2] * 5).reserve_s == 0.0


@pytest.mark.parametrize("times_s", [(10.0,), (0.2, 10.0), (10.0, 0.2), (10.0, 10.0, 0.2)])
def test_a_stall_is_no_price(times_s):
    evaluations = after(*times_s)
    assert not evaluations.are_too_dear
    assert evaluations.reserve_s <= (5 - len(times_s)) * 0.01 * SHARE_S


@pytest.mark.parametrize(("times_s", "left_s", "fits"), [((), 0.1, True), ((4.0,), 8.0, True), ((4.0,), 7.9, False), ((4.0, 0.2), 7.9, True)])
def test_one_with_a_known_price_takes_no_more_than_half_of_the_time_that_is_left(times_s, left_s, fits):
    assert after(*times_s).fits(left_s) is fits


def test_the_first_one_may_take_as_much_as_one_is_worth_and_the_others_their_price():
    assert after().expected_s == pytest.approx(0.01 * SHARE_S)
    assert after(2.0, 0.2).expected_s == 0.2


def test_those_that_are_too_dear_are_skipped_and_get_no_time():
    evaluations = after(0.7, 0.9)
    assert evaluations.are_too_dear
    assert evaluations.reserve_s == 0.0
