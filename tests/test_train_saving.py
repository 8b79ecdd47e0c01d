"""When an unfinished training is saved."""

import math

import pytest

from pufferfish.train.saving import Saving


def due(*times_s, since_s, left_s=math.inf):
    return Saving(20.0, 1000.0, list(times_s)).is_due(1000.0 + since_s, remaining_s=left_s)


def test_it_is_saved_by_time():
    assert not due(since_s=19.0)
    assert due(since_s=21.0)


def test_what_takes_long_is_saved_less_often():
    assert not due(1.0, 1.2, since_s=49.0)
    assert due(1.0, 1.2, since_s=51.0)


@pytest.mark.parametrize("times_s", [(0.1, 3600.0), (3600.0, 0.1)])
def test_a_stall_is_no_price(times_s):
    assert due(*times_s, since_s=21.0)


def test_near_the_end_the_model_itself_is_saved_soon():
    assert due(since_s=21.0, left_s=6.0)
    assert not due(since_s=21.0, left_s=4.0)
