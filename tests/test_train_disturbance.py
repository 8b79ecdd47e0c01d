"""What is kept for the stages after training when steps become slower, and what the user hears of it."""

import random

import pytest

from pufferfish.train.disturbance import BORNE, MOST, Disturbance

LATER_S = 10.0


def see(disturbance, *, step_s, num_steps, is_stall=False, left_s=1000.0):
    """What was told during steps of one length."""
    told = (disturbance.see_step(step_s, is_stall=is_stall, left_s=left_s) for _ in range(num_steps))
    return [text for text in told if text]


@pytest.mark.parametrize("step_s", [0.002, 0.1, 1.5, 5.0])
def test_an_even_pace_keeps_nothing_and_says_nothing(step_s):
    disturbance = Disturbance(later_s=LATER_S)
    assert see(disturbance, step_s=step_s, num_steps=3000) == []
    assert disturbance.extra_s == 0.0


def test_what_the_planned_time_bears_keeps_nothing():
    disturbance = Disturbance(later_s=LATER_S)
    assert see(disturbance, step_s=0.1, num_steps=60) == []
    assert see(disturbance, step_s=0.1 * BORNE * 0.999, num_steps=60) == []
    assert disturbance.extra_s == 0.0


def test_slower_steps_keep_time_in_proportion_and_it_is_told_once():
    disturbance = Disturbance(later_s=LATER_S)
    see(disturbance, step_s=0.1, num_steps=60)
    (told,) = see(disturbance, step_s=0.2, num_steps=200)
    assert disturbance.extra_s == pytest.approx(LATER_S * (2 / BORNE - 1))
    assert told == "steps take 1.7 times as long as usual: 4.0 s more are kept for evaluation and export"  # already while the mean still rises


def test_a_machine_that_is_slower_than_planned_from_the_first_step_on_keeps_time_too():
    disturbance = Disturbance(later_s=LATER_S, planned_s=0.1)
    see(disturbance, step_s=0.1 * BORNE * 0.999, num_steps=200)
    assert disturbance.extra_s == 0.0
    see(disturbance, step_s=0.2, num_steps=200)
    assert disturbance.extra_s == pytest.approx(LATER_S * (2 / BORNE - 1))
    quicker = Disturbance(later_s=LATER_S, planned_s=1.0)
    see(quicker, step_s=0.1, num_steps=200)
    assert quicker.extra_s == 0.0


def test_a_short_training_sees_sooner_that_it_became_slower():
    short, long = (Disturbance(later_s=LATER_S, share_s=share_s) for share_s in (13.0, 1000.0))
    for disturbance in (short, long):
        see(disturbance, step_s=0.06, num_steps=120)
        see(disturbance, step_s=0.12, num_steps=25)
    assert short.extra_s == pytest.approx(LATER_S * (2 / BORNE - 1), rel=0.2)
    assert long.extra_s < 0.2 * short.extra_s


def test_a_jittery_machine_is_told_of_once():
    disturbance, dice = Disturbance(later_s=LATER_S), random.Random(0)
    see(disturbance, step_s=0.1, num_steps=60)
    told = [disturbance.see_step(0.2 * dice.uniform(0.6, 1.4), is_stall=False, left_s=1000.0) for _ in range(1000)]
    assert len([text for text in told if text]) == 1


def test_a_machine_that_recovers_gets_its_time_back():
    disturbance = Disturbance(later_s=LATER_S)
    see(disturbance, step_s=0.1, num_steps=60)
    see(disturbance, step_s=0.2, num_steps=60)
    told = see(disturbance, step_s=0.1, num_steps=100)
    assert disturbance.extra_s == 0.0
    assert told[-1].endswith("nothing more is kept for evaluation and export")


def test_however_slow_the_steps_become_no_more_than_the_planned_time_is_kept_again():
    disturbance = Disturbance(later_s=LATER_S)
    see(disturbance, step_s=0.1, num_steps=60)
    see(disturbance, step_s=10.0, num_steps=8)
    assert disturbance.extra_s == LATER_S * (MOST - 1)


def test_no_more_than_half_of_the_time_for_steps_is_kept_at_once_and_nothing_given_back():
    disturbance, kept = Disturbance(later_s=LATER_S), []
    see(disturbance, step_s=2.0, num_steps=60)
    for left_s in (8.0, 2.0, 0.5, 0.0):
        see(disturbance, step_s=16.0, num_steps=1, left_s=left_s)
        kept.append(disturbance.extra_s)
    assert kept == [4.0, 5.0, 5.25, 5.25]


def test_a_stall_is_told_and_is_no_pace():
    disturbance = Disturbance(later_s=LATER_S)
    see(disturbance, step_s=0.1, num_steps=60)
    assert see(disturbance, step_s=10.0, num_steps=1, is_stall=True) == ["a step took 10.0 s: the steps that are left are fewer"]
    assert see(disturbance, step_s=0.5, num_steps=1, is_stall=True) == []
    assert see(disturbance, step_s=0.1, num_steps=60) == []
    assert disturbance.extra_s == 0.0


def test_the_first_steps_are_no_promise():
    disturbance = Disturbance(later_s=LATER_S)
    see(disturbance, step_s=1.0, num_steps=2)  # cold caches
    see(disturbance, step_s=0.1, num_steps=60)
    assert disturbance.extra_s == 0.0


def test_a_machine_that_becomes_much_slower_is_told_of_a_few_times():
    disturbance = Disturbance(later_s=LATER_S)
    see(disturbance, step_s=0.5, num_steps=60)
    told = see(disturbance, step_s=2.0, num_steps=12, is_stall=True) + see(disturbance, step_s=2.0, num_steps=60)
    assert [text.startswith("a step took") for text in told] == [True, True, True, False, False]  # then what is kept, twice


def test_stalls_now_and_then_are_all_told():
    disturbance = Disturbance(later_s=LATER_S)
    told = [text for _ in range(9) for text in see(disturbance, step_s=0.1, num_steps=5) + see(disturbance, step_s=4.0, num_steps=1, is_stall=True)]
    assert len(told) == 9


def test_what_is_usual_is_known_to_the_next_process():
    first = Disturbance(later_s=LATER_S)
    see(first, step_s=0.1, num_steps=60)
    resumed = Disturbance(later_s=LATER_S, usual_s=first.usual_s)
    (told,) = see(resumed, step_s=0.2, num_steps=60)
    assert told.startswith("steps take 2.0 times as long as usual")
    assert resumed.extra_s == pytest.approx(LATER_S * (2 / BORNE - 1))


@pytest.mark.parametrize(("planned_s", "told"), [(0.1, []), (0.108, []), (0.2, ["a step takes 100 ms, planned were 200 ms"])])
def test_a_pace_that_differs_from_the_plan_is_told_once_it_has_settled(planned_s, told):
    disturbance = Disturbance(later_s=LATER_S, planned_s=planned_s)
    assert see(disturbance, step_s=0.2, num_steps=10) == []  # cold caches
    assert see(disturbance, step_s=0.1, num_steps=200) == told
