"""What is known of paces: real steps, the predictions beside them, and how far each can be trusted."""

import math
from dataclasses import replace
from functools import cache

import pytest
from machines import Planner, price_of, vocabularies

from pufferfish.plan import choose, measuring, pace, space
from pufferfish.plan.case import Case, Measuring
from pufferfish.plan.make import decide
from pufferfish.plan.prices import StepTime
from pufferfish.schema.params import Params


@cache
def planned():
    """A planner and candidates of many shapes and batches, best forecast first."""
    planner = Planner("server", num_bytes=10**9)
    params = Params.model_validate({"budget": {"time": "3m"}, "train": {"compile": False}})
    known = vocabularies(planner.hardware, 2048)
    case = Case(params, planner.hardware, planner.corpus, known, planner.text, price_of)
    models = space.models(params.model, [2048], max_seq_len=256)
    return planner, choose.enumerate_candidates(case.situation(plan_s=6.0), models, known)


def measured(candidate, *factors):
    """With steps that took so many times what was predicted."""
    first, *others = (StepTime(factor * candidate.predicted_step_s, 10**9, 0.1) for factor in factors)
    for other in others:
        first = first.with_another(other)
    return candidate.with_measured(first)


def error_of(candidate, known):
    """Of its pace, after what is known."""
    [found] = pace.with_paces([candidate], known)
    return math.log(found.step_s / candidate.predicted_step_s)


def test_without_measurements_paces_are_as_predicted_and_one_is_believed_of_all():
    candidates = planned()[1]
    assert pace.with_paces(candidates, []) == candidates
    assert all(each.correction == pytest.approx(1.4) for each in pace.with_paces(candidates, [measured(candidates[0], 1.4)]))


def test_what_a_measurement_says_beyond_the_others_fades_with_the_distance():
    candidates = planned()[1]
    first, *others = sorted(candidates, key=lambda each: pace.distance(each.model, candidates[0].model))
    near, far = next(each for each in others if pace.distance(each.model, first.model)), others[-1]
    assert 0 < pace.distance(first.model, near.model) < pace.LENGTH < 2 * pace.LENGTH < pace.distance(first.model, far.model)
    known = [measured(first, 1.1), measured(far, 1.0)]
    errors = [error_of(each, known) for each in (first, near, far)]
    assert math.log(1.1) > errors[0] > errors[1] > sum(errors) / 3 > errors[2] > 0
    nothing_alike = replace(first, model=first.model.model_copy(update={"seq_len": 2**20}))
    assert error_of(nothing_alike, known) == pytest.approx(math.log(1.1) / 2), "the mean"


def test_the_more_a_machine_changes_its_pace_the_less_a_measurement_says():
    first, second = planned()[1][0], planned()[1][-1]
    shares = []
    for spread in (0.0, 0.03, 0.1, 0.3):
        known = [measured(first, 1.2, 1.2 * math.exp(spread), 1.2 * math.exp(-spread)), measured(second, 1.0)]
        assert pace.noise(known) == pytest.approx(math.sqrt((pace.NOISE**2 + 2 * spread**2) / 3))
        assert 0 < pace.Paces(known).surprise(first) < pace.Paces(known[1:]).surprise(first) <= pace.PREDICTED_ERROR["cpu"]
        shares.append((error_of(first, known) - error_of(second, known)) / math.log(1.2))
    assert shares == sorted(shares, reverse=True)
    assert 0.85 < shares[0] < 1
    assert 0 < shares[-1] < 0.1


def test_compiled_steps_and_others_say_nothing_of_each_other_where_both_are_known():
    first, second = planned()[1][:2]
    compiled = replace(first, train=first.train.model_copy(update={"is_compiled": True}))
    assert error_of(second, [measured(compiled, 0.7)]) == pytest.approx(math.log(0.7))
    both = [measured(compiled, 0.7), measured(first, 1.3)]
    assert error_of(compiled, both) == pytest.approx(math.log(0.7))
    assert error_of(second, both) == pytest.approx(math.log(1.3))


class Restless:
    """A machine whose every measurement is off, in turn, by one of these factors."""

    def __init__(self, *factors):
        self.factors, self.asked = factors, []

    def __call__(self, candidate):
        self.asked.append(candidate)
        take = StepTime(self.factors[len(self.asked) % len(self.factors)] * candidate.predicted_step_s, 10**9, 0.1)
        return candidate.measured.with_another(take) if candidate.measured else take


def some_measured(*factors):
    """The best candidates of so many shapes, measured, among all."""
    planner, candidates = planned()
    shapes = {each.shape: each for each in reversed(candidates)}
    best = sorted(shapes.values(), key=lambda each: each.forecast(planner.text))[: len(factors)]
    known = {id(each): measured(each, factor) for each, factor in zip(best, factors, strict=True)}
    found = [known.get(id(each), each) for each in candidates]
    return planner, pace.with_paces(found, list(known.values()))


def measure(candidates, take, *, cost_s, most=99):
    """What is known after all that was worth it at that price."""
    spent = []

    def cost_of(candidate, num_measured):
        return cost_s if len(spent) < most else None

    def taken(candidate):
        spent.append(candidate)
        return take(candidate)

    return measuring.measure_best(list(candidates), taken, text=planned()[0].text, cost_of=cost_of)


def test_the_cheaper_measurements_are_the_more_are_made_and_only_of_what_is_near_to_the_best():
    planner, candidates = planned()
    numbers = []
    for cost_s in (20.0, 2.0, 0.5, 0.02):
        machine = Restless(1.0)
        known = measure(candidates, machine, cost_s=cost_s)
        numbers.append(len(machine.asked))
        best = min(known, key=lambda each: each.forecast(planner.text))
        assert all(each.forecast(planner.text) < 1.03 * best.forecast(planner.text) for each in known if each.measured)
    assert numbers[0] == 1 < numbers[-1] < 40
    assert numbers == sorted(numbers)


def test_another_measurement_says_the_less_the_more_there_are_and_the_more_the_pace_changes():
    first, second = planned()[1][0], planned()[1][-1]
    steady = [pace.Paces([measured(first, *[1.0] * number), measured(second, 1.0)]).surprise(first) for number in (1, 2, 4)]
    assert steady == sorted(steady, reverse=True)
    restless = pace.Paces([measured(first, 1.2, 0.8), measured(second, 1.0)])
    assert restless.surprise(planned()[1][1]) < pace.Paces([measured(first, 1.0, 1.0), measured(second, 1.0)]).surprise(planned()[1][1])


def test_two_that_are_near_to_each_other_are_measured_in_turn_and_one_alone_never_again():
    candidates, machine = planned()[1], Restless(1.0)
    known = measure(candidates[:2], machine, cost_s=0.001)
    assert all(each.measured.num_takes > 1 for each in known)
    assert len({each.model for each in machine.asked[:2]}) == 2
    alone = Restless(1.0)
    measure(candidates[:1], alone, cost_s=0.0)
    assert len(alone.asked) == 1


def test_without_time_nothing_is_measured():
    candidates = some_measured(1.0, 1.0, 1.0)[1]
    assert measure(candidates, pytest.fail, cost_s=0.0, most=0) == candidates


def test_where_no_pace_can_change_the_choice_only_other_shapes_are_measured_while_that_is_cheap():
    candidates = planned()[1]
    counted = [replace(each, train=each.train.model_copy(update={"clock": "steps", "num_steps": 500})) for each in candidates]
    for loop_s, number in ((100.0, 1), (1e5, measuring.INSURED)):
        machine = Restless(1.0)
        measure([replace(each, loop_s=loop_s) for each in counted], machine, cost_s=0.5)
        assert len(machine.asked) == len({each.shape for each in machine.asked}) == number


def test_where_memory_runs_out_the_second_time_what_was_measured_holds():
    candidates = some_measured(1.0, 1.0)[1]
    known = [each for each in candidates if each.measured]
    assert measure(known, lambda candidate: StepTime(0.0, 0, 0.1, fits=False), cost_s=0.0) == known


@pytest.mark.parametrize("time", ["60s", "3m", "1h"])
def test_measuring_stays_within_the_time_for_planning_but_for_the_first(time):
    planner = Planner("server", num_bytes=10**9)
    params = Params.model_validate({"budget": {"time": time}, "train": {"compile": False}, "model": {"seq_len": 256}})
    case = Case(params, planner.hardware, planner.corpus, vocabularies(planner.hardware, 2048), planner.text, price_of)
    for spent_s in (1.5, case.planning_limit_s):
        planner.spent_s, planner.measured = spent_s, []
        decide(case, Measuring(planner.measure, lambda: planner.spent_s, again=planner.measure))
        assert len(planner.measured) == 1 or planner.spent_s < case.planning_limit_s
    assert len(planner.measured) == 1
