"""The schedule reaches its end exactly when time runs out, whatever the machine does on the way. Time is a variable here: nothing waits."""

import itertools
import random
from dataclasses import dataclass, field

import pytest
from toys import train_plan, whole_plan

from pufferfish.base.timing import Timing, read_timing
from pufferfish.train.clock import DeadlineClock, ReplayClock, StepClock
from pufferfish.train.schedule import lr_share
from pufferfish.train.share import BEFORE, taken_just_now_s, train_share_s

PLAN = train_plan(warmup_share=0.02, cooldown_share=0.55, final_lr_share=0.02)


# --- schedule


def test_the_learning_rate_rises_stays_and_falls():
    shares = [lr_share(i / 1000, PLAN) for i in range(1001)]
    assert shares[0] < 1e-3
    assert shares[:21] == sorted(shares[:21])
    assert set(shares[21:450]) == {1.0}
    assert shares[450:] == sorted(shares[450:], reverse=True)
    assert shares[-1] == pytest.approx(0.02)
    assert shares[725] == pytest.approx((1 + 0.02) / 2)  # linear: half-way down in the middle of the cooldown


@pytest.mark.parametrize(("warmup", "cooldown"), [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (0.3, 0.7), (0.6, 0.9)])
def test_any_pinned_shares_give_rates_between_zero_and_the_peak(warmup, cooldown):
    plan = train_plan(warmup_share=warmup, cooldown_share=cooldown, final_lr_share=0.02)
    shares = [lr_share(i / 100, plan) for i in range(101)]
    assert all(0 <= share <= 1 for share in shares)
    assert shares[-1] == pytest.approx(0.02 if cooldown else 1.0)
    if warmup == 0:
        assert shares[0] == 1.0


# --- steps and replay


def test_the_step_clock_counts_steps():
    clock = StepClock(7, step_s=0.5)
    assert (clock.remaining_s, clock.late_s) == (3.5, None)
    seen = []
    while not clock.is_over:
        seen.append((clock.u, clock.expected_steps))
        clock.tick()
    assert seen == [(step / 7, 7 - step) for step in range(7)]
    assert clock.u == 1.0


def test_the_step_clock_goes_on_where_it_was():
    clock = StepClock(7, step=5, step_s=0.5)
    assert (clock.u, clock.expected_steps, clock.is_over) == (5 / 7, 2, False)
    assert StepClock(7, step=7, step_s=0.5).is_over


@pytest.mark.parametrize("start", [0, 2, 4])
def test_a_replay_repeats_the_recorded_progress(start):
    recorded = [0.0, 0.1, 0.37, 0.9]
    clock, seen = ReplayClock(recorded, step=start, step_s=0.5), []
    while not clock.is_over:
        seen.append(clock.u)
        clock.tick()
    assert seen == recorded[start:]
    assert clock.u == 1.0


def test_a_replay_knows_how_long_it_will_still_take(monkeypatch):
    now = [5.0]
    monkeypatch.setattr("pufferfish.train.clock.now_s", lambda: now[0])
    replay = ReplayClock([0.0, 0.1, 0.37, 0.9], step_s=1.5)
    assert replay.remaining_s == 6.0
    now[0] += 2.0
    replay.tick()
    assert replay.remaining_s == pytest.approx(6.0)


# --- deadline


@dataclass
class Run:
    """A training that does nothing but take time."""

    step_s: list[float] = field(default_factory=list)
    u: list[float] = field(default_factory=list)
    late_s: float = 0.0
    used_share: float = 0.0

    @property
    def last_share(self):
        return lr_share(self.u[-1], PLAN)


def race(durations, *, share_s=100.0, planned_s=0.1, u=0.0, grace_s=0.0):
    """Follow a clock with `share_s` seconds, where the steps take `durations`."""
    now = [1000.0]
    clock = DeadlineClock(1000.0 + share_s, step_s=planned_s, u=u, grace_s=grace_s, now=lambda: now[0])
    run = Run()
    for duration in durations:
        if clock.is_over:
            break
        clock.start_step()
        run.u.append(clock.u)
        run.step_s.append(duration)
        now[0] += duration
        clock.tick()
    assert clock.is_over, "the durations ran out before the time"
    run.u.append(clock.u)
    run.late_s, run.used_share = now[0] - 1000.0 - share_s, (now[0] - 1000.0) / share_s
    return run


def constant(step_s):
    return itertools.repeat(step_s)


def jittery(seed=0):
    dice = random.Random(seed)
    while True:
        yield 0.1 * dice.uniform(0.5, 1.6)


def with_stalls(*stalls, step_s=0.1):
    """Step number -> seconds."""
    return itertools.chain(dict(stalls).get(number, step_s) for number in range(10**4))


def slower_from(second, factor):
    passed = 0.0
    while True:
        step_s = 0.1 * (factor if passed > second else 1)
        passed += step_s
        yield step_s


def faster_from(second, factor):
    return slower_from(second, 1 / factor)


COURSES = {
    "a constant pace": lambda: constant(0.1),
    "a pace that the plan overrated": lambda: constant(0.25),
    "a pace that the plan underrated": lambda: constant(0.03),
    "a jittery pace": jittery,
    "a slow first step": lambda: with_stalls((0, 6.0)),
    "a stall in the first step": lambda: with_stalls((0, 30.0)),
    "a stall in the second step": lambda: with_stalls((1, 30.0)),
    "one stall of 10 s": lambda: with_stalls((300, 10.0)),
    "a stall in the cooldown": lambda: with_stalls((800, 10.0)),
    "a laptop asleep for half of the time": lambda: with_stalls((200, 50.0)),
    "twenty stalls, now and then": lambda: with_stalls(*((30 * k, 2.0) for k in range(1, 21))),
    "twice as slow from the middle": lambda: slower_from(50, 2),
    "twice as fast from the middle": lambda: faster_from(50, 2),
    "six times as slow from the middle": lambda: slower_from(50, 6),
}


@pytest.mark.parametrize("course", COURSES.values(), ids=COURSES.keys())
def test_the_schedule_ends_with_the_time(course):
    run = race(course())
    assert run.u == sorted(run.u), "progress never goes back"
    assert run.u[-1] >= 0.97
    assert lr_share(run.u[-2], PLAN) <= 0.05, "the last step is taken with a cooled learning rate"
    assert run.late_s <= run.step_s[-1]
    assert run.used_share >= 0.97


@pytest.mark.parametrize("course", [course for name, course in COURSES.items() if "stall" in name or "asleep" in name])
def test_a_stall_shortens_the_future_and_skips_nothing(course):
    run = race(course())
    jumps = [after - before for before, after in itertools.pairwise(run.u[:-1])]
    assert max(jumps) < 0.02, "no step covers a large part of the schedule"


def test_a_constant_pace_gives_the_schedule_of_counted_steps():
    run = race(constant(0.1))
    assert len(run.step_s) == pytest.approx(1000, abs=2)
    for step in (0, 250, 500, 990):
        assert run.u[step] == pytest.approx(step / 1000, abs=0.003)


@pytest.mark.parametrize("steps", [3, 10, 30, 100])
def test_few_steps_end_in_time_too(steps):
    run = race(constant(100 / steps), planned_s=100 / steps)
    assert run.late_s <= 1e-6
    assert run.u[-1] >= 1 - 2 / steps


def test_a_resumed_clock_goes_on_and_ends_in_time():
    run = race(constant(0.1), share_s=40.0, u=0.6)
    assert run.u[0] == 0.6
    assert run.u[200] == pytest.approx(0.8, abs=0.01)
    assert run.u[-1] >= 0.99
    assert run.late_s <= 0


def test_a_stall_in_the_first_step_after_a_resumption_skips_nothing_either():
    run = race(with_stalls((0, 10.0)), share_s=40.0, u=0.4)
    assert run.u[1] == pytest.approx(0.4, abs=0.01)
    assert run.u[-1] >= 0.97


@pytest.mark.parametrize("stall_s", [49.0, 51.0, 60.0])
def test_a_stall_that_takes_all_the_time_gets_some_more_for_the_learning_rate_to_come_down(stall_s):
    grace_s = 12.5
    run = race(with_stalls((500, stall_s)), grace_s=grace_s)
    assert run.late_s <= grace_s
    assert lr_share(run.u[-2], PLAN) <= 0.05
    longer = race(with_stalls((500, 70.0)), grace_s=grace_s)
    assert longer.late_s == pytest.approx(20.0, abs=0.2), "more than that is not made up for"


def test_a_stall_that_leaves_time_or_comes_near_the_end_gets_none():
    for number, stall_s in ((500, 45.0), (950, 10.0)):
        assert race(with_stalls((number, stall_s)), grace_s=12.5).late_s == pytest.approx(race(with_stalls((number, stall_s))).late_s)


def test_a_second_stall_that_takes_all_the_time_gets_nothing_more():
    run = race(with_stalls((500, 60.0), (510, 8.0)), grace_s=12.5)
    assert len(run.step_s) == 511
    assert run.late_s == pytest.approx(51.0 + 60.0 + 8.0 - 100.0 - 0.1, abs=0.2)


def test_what_was_given_before_counts_and_is_not_given_again():
    now = [1000.0]
    clock = DeadlineClock(1010.0, step_s=0.1, u=0.8, grace_s=12.5, given_s=12.5, now=lambda: now[0])
    assert clock.until_deadline_s == 22.5
    for duration in (0.1, 21.0):
        clock.start_step()
        now[0] += duration
        clock.tick()
    assert (clock.grace_taken_s, clock.given_s, clock.deadline_s) == (0.0, 12.5, 1022.5)
    assert clock.late_s == pytest.approx(-1.4)


def paused(*, pause_s, grace_s=12.5, after=500):
    """1,000 steps of 0.1 s in 100 s, and a pause between two of them; returns the clock, how late it ended, and the progress before the last step."""
    now, us, taken_s = [1000.0], [], 0.0
    clock = DeadlineClock(1100.0, step_s=0.1, grace_s=grace_s, now=lambda: now[0])
    clock.start_step()
    while not clock.is_over:
        us.append(clock.u)
        now[0] += 0.1
        clock.tick()
        now[0] += pause_s if len(us) == after else 0.0
        clock.start_step()
        taken_s += clock.grace_taken_s
    assert taken_s in (0.0, grace_s)
    return taken_s, now[0] - 1100.0, us[-1]


@pytest.mark.parametrize("pause_s", [49.0, 51.0, 60.0])
def test_a_stall_between_two_steps_that_takes_all_the_time_gets_some_more_too(pause_s):
    taken_s, late_s, last_u = paused(pause_s=pause_s)
    assert taken_s == 12.5
    assert late_s <= 12.5
    assert lr_share(last_u, PLAN) <= 0.05


@pytest.mark.parametrize(("pause_s", "after"), [(0.0, 500), (5.0, 500), (45.0, 500), (70.0, 500), (9.0, 950)])
def test_a_pause_that_leaves_time_or_takes_too_much_or_comes_near_the_end_gets_none(pause_s, after):
    assert paused(pause_s=pause_s, after=after)[0] == 0.0


def test_a_pause_that_was_reserved_for_is_no_stall():
    now = [0.0]
    clock = DeadlineClock(11.0, step_s=0.5, grace_s=12.5, now=lambda: now[0])
    clock.reserve_s = 5.0
    for _ in range(4):
        clock.start_step()
        now[0] += 0.5
        clock.tick()
    now[0] += 5.0  # an evaluation, in a training of so few steps that less than twenty are always left
    clock.reserve_s = 0.0
    clock.start_step()
    assert clock.grace_taken_s == 0.0
    assert clock.deadline_s == 11.0


def test_a_pause_costs_time_for_steps_where_the_deadline_ends_them_and_the_step_in_flight_is_no_part_of_it():
    now, flying = [0.0], [False]
    timed, counted = (DeadlineClock(100.0, step_s=0.5, most_steps=most, is_in_flight=lambda: flying[0], now=lambda: now[0]) for most in (10**6, 20))
    for clock in (timed, counted):
        clock.start_step()
    now[0] += 0.5
    flying[0] = True
    for clock in (timed, counted):
        clock.tick()
    now[0] += 5.0
    for clock in (timed, counted):
        clock.start_step()
    assert timed.lost_s == 0.0, "the step in flight is not done yet, and gets the time"
    now[0] += 5.0
    for clock in (timed, counted):
        clock.tick()
    now[0] += 3.5
    flying[0] = False
    for clock in (timed, counted):
        clock.start_step()
    assert (timed.pause_s, timed.lost_s) == (3.5, 3.0)
    assert (counted.pause_s, counted.lost_s) == (3.5, 0.0)


def test_a_stall_is_forgotten_by_a_step_that_is_not_measured():
    now, flying = [0.0], [False]
    clock = DeadlineClock(100.0, step_s=0.1, is_in_flight=lambda: flying[0], now=lambda: now[0])
    now[0] += 5.0
    clock.tick()
    assert clock.is_stall
    clock.start_step()
    flying[0] = True
    clock.tick()
    assert not clock.is_measured
    assert not clock.is_stall


def test_time_that_is_reserved_is_not_spent_on_steps():
    now = [0.0]
    clock = DeadlineClock(50.0, step_s=0.1, now=lambda: now[0])
    clock.reserve_s = 8.0
    while not clock.is_over:
        clock.start_step()
        now[0] += 0.1
        clock.tick()
    assert 41.5 < now[0] <= 42.0
    assert clock.u >= 0.97


def test_it_ends_before_the_deadline_after_the_most_steps_with_the_schedule_at_its_end():
    now, num_steps = [0.0], 0
    clock = DeadlineClock(1000.0, step_s=0.1, most_steps=200, now=lambda: now[0])
    assert clock.remaining_s == pytest.approx(20)
    while not clock.is_over:
        clock.start_step()
        now[0] += 0.1
        clock.tick()
        num_steps += 1
    assert num_steps in (199, 200)
    assert clock.u == 1.0


def test_on_a_slower_machine_the_deadline_comes_before_the_most_steps():
    now = [0.0]
    clock = DeadlineClock(50.0, step_s=0.1, most_steps=200, now=lambda: now[0])
    while not clock.is_over:
        clock.start_step()
        now[0] += 0.5
        clock.tick()
    assert 49 < now[0] <= 50
    assert clock.u >= 0.97


def test_time_between_steps_belongs_to_no_step():
    now = [0.0]
    clock = DeadlineClock(100.0, step_s=0.1, now=lambda: now[0])
    for _ in range(50):
        clock.start_step()
        now[0] += 0.1
        clock.tick()
        now[0] += 0.9  # an evaluation
    assert clock.step_s == pytest.approx(0.1)
    assert clock.expected_steps == pytest.approx(500, abs=1)


def test_no_time_at_all_means_no_step():
    clock = DeadlineClock(10.0, step_s=0.1, now=lambda: 10.5)
    assert clock.is_over
    assert clock.expected_steps == 0
    assert clock.remaining_s == 0.0


def test_isolated_stalls_are_no_slower_machine():
    now = [0.0]
    clock = DeadlineClock(10**4, step_s=0.1, now=lambda: now[0])
    for number in range(1, 1001):
        clock.start_step()
        now[0] += 5.0 if number % 50 == 0 else 0.1
        clock.tick()
        assert clock.step_s < 0.11


def test_a_machine_that_became_slower_is_noticed_within_the_window():
    now = [0.0]
    clock = DeadlineClock(10**4, step_s=0.1, now=lambda: now[0])
    for number in range(20 + clock.WINDOW):
        clock.start_step()
        now[0] += 0.1 if number < 20 else 1.0
        clock.tick()
    assert clock.step_s == pytest.approx(1.0)


# --- share


BUDGET = whole_plan().budget  # 53 s: 2, 3 and 4 s before, 1 s of pauses, 13.5 s after


def chain(*, boot="b", pauses=(0.3, 0.4, 0.5), costs=(2.5, 3.5, 4.5)):
    """Timings of the stages before and of this process, one after the other."""
    timings, at = {}, 100.0
    for name, cost, pause in zip(BEFORE, costs, pauses, strict=True):
        timings[name] = Timing(boot, at, at + cost)
        at += cost + pause
    return timings, Timing(boot, at, at)


def test_training_owns_what_is_left_after_the_stages_before_it():
    timings, own = chain()
    assert train_share_s(BUDGET, timings, own=own) == pytest.approx(53 - (2.5 + 3.5 + 4.5) - (0.3 + 0.4 + 0.5) - 13.5)


def test_cached_stages_are_charged_what_they_cost_when_they_ran():
    timings, own = chain()
    cold = train_share_s(BUDGET, timings, own=own)
    later = Timing("b", own.start_s + 5000, own.start_s + 5000)
    assert train_share_s(BUDGET, timings, own=later) == pytest.approx(cold + 0.5 - 1 / 5)  # the last pause is the planned one


def test_an_accident_of_an_earlier_run_is_charged_in_part_and_one_of_this_run_in_full():
    for cost_s, charged_s in ((6.0, 6.0), (3600.0, 2 + 0.1 * 53)):
        timings, own = chain(costs=(cost_s, 3.5, 4.5))
        assert train_share_s(BUDGET, timings, own=own) == pytest.approx(53 - (cost_s + 3.5 + 4.5) - (0.3 + 0.4 + 0.5) - 13.5)
        plan_again = {
            **timings,
            "plan": Timing("b", own.start_s + 500, own.start_s + 503.5),
            "prepare-subset": Timing("b", own.start_s + 504, own.start_s + 508.5),
        }
        later = Timing("b", own.start_s + 509, own.start_s + 509)
        assert train_share_s(BUDGET, plan_again, own=later) == pytest.approx(53 - (charged_s + 3.5 + 4.5) - (1 / 5 + 0.5 + 0.5) - 13.5)


def test_an_accident_before_stages_that_are_all_cached_is_charged_in_part():
    timings, _ = chain(costs=(3600.0, 3.5, 4.5))
    training_alone = Timing("b", 9000.0, 9000.0)
    assert train_share_s(BUDGET, timings, own=training_alone) == pytest.approx(53 - (2 + 0.1 * 53 + 3.5 + 4.5) - (0.3 + 0.4 + 1 / 5) - 13.5)


def test_a_long_pause_in_a_long_run_is_a_pause():
    timings, own = chain(pauses=(0.3, 0.4, 30.0))
    day = BUDGET.model_copy(update={"total_s": 86400.0})
    assert train_share_s(BUDGET, timings, own=own) == pytest.approx(53 - 10.5 - (0.3 + 0.4 + 1 / 5) - 13.5)
    assert train_share_s(day, timings, own=own) == pytest.approx(86400 - 10.5 - 30.7 - 13.5)


def test_a_short_budget_is_not_charged_with_the_time_that_somebody_took_to_mend_something():
    timings, own = chain(pauses=(0.3, 0.4, 12.0))
    assert train_share_s(BUDGET, timings, own=own) == pytest.approx(53 - 10.5 - (0.3 + 0.4 + 1 / 5) - 13.5)
    slow, own = chain(pauses=(0.3, 0.4, 5.0))
    assert train_share_s(BUDGET, slow, own=own) == pytest.approx(53 - 10.5 - 5.7 - 13.5)


def test_what_a_stage_took_is_known_to_the_next_one_of_the_same_pipeline():
    timings, _ = chain()
    probe, own = timings["hardware-probe"], timings["plan"]
    assert taken_just_now_s(probe, own, total_s=53) == pytest.approx(2.5)
    assert taken_just_now_s(probe, Timing("b", own.start_s + 60, own.end_s + 60), total_s=53) == 0.0
    assert taken_just_now_s(probe, Timing("c", own.start_s, own.end_s), total_s=53) == 0.0
    assert taken_just_now_s(None, own, total_s=53) == 0.0


def test_stages_of_another_boot_are_charged_with_planned_pauses():
    timings, _ = chain()
    assert train_share_s(BUDGET, timings, own=Timing("c", 3.0, 3.0)) == pytest.approx(53 - 10.5 - (0.3 + 0.4 + 1 / 5) - 13.5)


def test_a_cached_stage_in_the_middle_breaks_two_pauses():
    timings, own = chain()
    timings["plan"] = Timing("b", 10.0, 13.0)
    assert train_share_s(BUDGET, timings, own=own) == pytest.approx(53 - (2.5 + 3.0 + 4.5) - (1 / 5 + 1 / 5 + 0.5) - 13.5)


@pytest.mark.parametrize("missing", [("plan",), BEFORE])
def test_missing_timings_are_taken_from_the_plan(missing):
    timings, own = chain()
    planned = dict(zip(BEFORE, (2, 3, 4), strict=True))
    costs = {name: planned[name] if name in missing else timings[name].elapsed_s for name in BEFORE}
    pauses = 0.5 + 2 / 5 if missing == ("plan",) else 3 / 5
    given = {name: None if name in missing else timing for name, timing in timings.items()}
    expected = pytest.approx(53 - sum(costs.values()) - pauses + (0.3 - 0.3) - 13.5)
    assert train_share_s(BUDGET, given, own=own) == expected
    assert train_share_s(BUDGET, {name: timing for name, timing in given.items() if timing}, own=own) == expected


def test_a_timing_is_read_back_and_nonsense_is_none(workplace):
    from pufferfish.base import paths
    from pufferfish.base.timing import write_timing

    write_timing("plan")
    timing = read_timing(paths.timing("plan"))
    assert timing.elapsed_s > 0
    assert read_timing(paths.timing("train")) is None
    paths.timing("plan").write_text("{")
    assert read_timing(paths.timing("plan")) is None
