"""What is known of paces: real steps, the predictions beside them, and how far each can be trusted."""

import math
from dataclasses import replace
from functools import cache

import pytest
from machines import Planner, price_of, vocabularies

from pufferfish.plan import choose, pace, space
from pufferfish.plan.case import Case, Measuring
from pufferfish.plan.make import decide
from pufferfish.plan.prices import StepTime
from pufferfish.schema.params import Params


@cache
def planned():
    """A planner and candidates of many shapes and batches, best forecast first."""
    planner = Planner("server")
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
        assert pace.standard_error(known[0], known) == pytest.approx(pace.noise(known) / math.sqrt(3))
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

    def __init__(self, factors, *, most=99):
        self.factors, self.most, self.asked = factors, most, []

    def __call__(self, candidate):
        if len(self.asked) == self.most:
            return None
        self.asked.append(candidate.model)
        factor = self.factors[len(self.asked) % len(self.factors)]
        return candidate.measured.with_another(StepTime(factor * candidate.predicted_step_s, 10**9, 0.1))


def some_measured(*factors):
    """The best candidates of so many shapes, measured, among all."""
    planner, candidates = planned()
    shapes = {each.shape: each for each in reversed(candidates)}
    best = sorted(shapes.values(), key=lambda each: each.forecast(planner.text))[: len(factors)]
    known = {id(each): measured(each, factor) for each, factor in zip(best, factors, strict=True)}
    found = [known.get(id(each), each) for each in candidates]
    return planner, pace.with_paces(found, list(known.values()))


def test_contenders_are_measured_again_in_turn_until_their_paces_are_sure():
    planner, candidates = some_measured(1.0, 1.0, 1.0)
    steady, restless = Restless([1.0]), Restless([0.8, 1.2])
    choose.measure_again(candidates, steady, text=planner.text)
    found = choose.measure_again(candidates, restless, text=planner.text)
    assert 0 < len(steady.asked) < len(restless.asked)
    takes = [each.measured.num_takes for each in found if each.measured]
    assert max(takes) == choose.MOST_TAKES
    assert all(restless.asked.count(model) < choose.MOST_TAKES for model in restless.asked)
    assert restless.asked[0] == min((each for each in candidates if each.measured), key=lambda each: each.forecast(planner.text)).model


def test_a_moment_that_was_quick_is_found_out():
    planner, candidates = some_measured(1.0, 1.0, 1.0, 0.5)
    lucky = min((each for each in candidates if each.measured), key=lambda each: each.forecast(planner.text))
    assert lucky.correction < 0.8
    [after] = [each for each in choose.measure_again(candidates, Restless([1.0]), text=planner.text) if each.model == lucky.model and each.measured]
    assert 0.9 < after.correction < 1.1


def test_nothing_is_measured_again_without_time_or_choice_or_where_an_earlier_plan_did():
    planner, candidates = some_measured(1.0, 1.0, 1.0)
    assert choose.measure_again(candidates, Restless([1.0], most=0), text=planner.text) == candidates
    for others in (
        [each for each in candidates if not each.measured],
        some_measured(1.0)[1],
        [replace(each, measured=each.measured and replace(each.measured, is_kept=True)) for each in candidates],
        [replace(each, train=each.train.model_copy(update={"is_compiled": True})) for each in candidates],
    ):
        again = Restless([1.0])
        assert choose.measure_again(others, again, text=planner.text) == others
        assert again.asked == []
    no_room = choose.measure_again(candidates, lambda candidate: StepTime(0.0, 0, 0.1, fits=False), text=planner.text)
    assert no_room == candidates


def planned_with(spent_s, *, time):
    """How often what was measured again was, in a plan that begins after so many seconds of a budget; and how much of its limit is left in the end."""
    planner, often = Planner("server"), {}
    params = Params.model_validate({"budget": {"time": time}, "train": {"compile": False}, "model": {"seq_len": 256}})
    case = Case(params, planner.hardware, planner.corpus, vocabularies(planner.hardware, 2048), planner.text, price_of)

    def again(model, train):
        often[model] = often.get(model, 1) + 1
        return planner.measure(model, train)

    planner.spent_s = spent_s
    decide(case, Measuring(planner.measure, lambda: planner.spent_s, again=again))
    return often, case.planning_limit_s - planner.spent_s


def test_measuring_again_stays_within_the_time_for_planning():
    often, left_s = planned_with(1.5, time="3m")
    assert often
    assert left_s > 0
    late, _ = planned_with(8.0, time="3m")
    assert late == {}
