"""When an unfinished training is saved."""

import math

import pytest

from pufferfish.train.saving import FIRST_SHARE, Saving


def due(*times_s, since_s, left_s=math.inf, guess_s=0.0):
    return Saving(20.0, 1000.0, guess_s, list(times_s)).is_due(1000.0 + since_s, remaining_s=left_s)


def test_it_is_saved_by_time():
    assert not due(since_s=19.0)
    assert due(since_s=21.0)


def test_what_takes_long_is_saved_less_often():
    assert not due(1.0, 1.2, since_s=49.0)
    assert due(1.0, 1.2, since_s=51.0)


@pytest.mark.parametrize("times_s", [(0.1, 3600.0), (3600.0, 0.1)])
def test_a_stall_is_no_price(times_s):
    assert due(*times_s, since_s=21.0)


def test_what_failed_is_tried_again_as_seldom_as_its_time_demands_until_one_succeeds():
    failing = Saving(20.0, 1000.0, 0.0, [0.1], failed_s=1.0)
    assert not failing.is_due(1049.0, remaining_s=math.inf)
    assert failing.is_due(1051.0, remaining_s=math.inf)
    failing.made(0.2)
    assert failing.is_due(1021.0, remaining_s=math.inf)


def test_near_the_end_the_model_itself_is_saved_soon():
    assert due(since_s=21.0, left_s=6.0)
    assert not due(since_s=21.0, left_s=4.0)


def test_a_guess_delays_the_first_one_no_further():
    assert due(since_s=21.0, guess_s=30.0)


def test_the_first_one_leaves_much_of_the_time_as_its_price_is_a_guess_and_a_known_price_has_to_fit():
    first, later = Saving(20.0, 1000.0, 8.0), Saving(20.0, 1000.0, 8.0, [2.0, 3.0])
    assert first.price_s == 8.0
    assert first.fits(8.0 / FIRST_SHARE)
    assert not first.fits(7.9 / FIRST_SHARE)
    assert later.price_s == 2.0
    assert later.fits(2.0)
    assert not later.fits(1.9)
