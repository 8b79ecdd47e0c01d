"""The planner keeps its promises on made-up machines: pure arithmetic, time is a variable."""

import itertools
import json
import re
import subprocess
import sys
from dataclasses import replace

import pytest
from machines import BYTES_PER_TOKEN, MACHINES, SMALL, FakeVocabulary, Planner, each_machine, price_of, situation, some_candidates, usual, vocabularies
from toys import model_plan, train_plan

from pufferfish.base.errors import UserError
from pufferfish.plan import budget, choose, measuring, memory, scaling, search, space, speed
from pufferfish.plan.candidate import COMPILE_S, FEWEST_STEPS, has_enough_steps, held
from pufferfish.plan.case import ENCODING_SHARE, Case, Measuring
from pufferfish.plan.configure import configurations
from pufferfish.plan.make import decide
from pufferfish.plan.prices import StepTime
from pufferfish.plan.recipe import embedding_params
from pufferfish.schema.hardware import DtypeSpeed
from pufferfish.schema.params import ModelParams, Params
from pufferfish.schema.plan import Plan


def refusal(planner, time="3m", **wishes):
    with pytest.raises(UserError) as error:
        planner.plan(time, **wishes)
    return error.value


# --- the plan as a whole


@each_machine
def test_a_plan_is_resolved_to_the_last_value(machine):
    _, plan = usual(machine)
    text = json.dumps(plan.model_dump(mode="json"), allow_nan=False)
    assert "null" not in text
    assert '"auto"' not in text
    assert Plan.model_validate(json.loads(text)) == plan


@each_machine
def test_the_phases_use_up_the_budget(machine):
    _, plan = usual(machine)
    assert sum(plan.budget.phases.model_dump().values()) + plan.budget.unused_s == pytest.approx(plan.budget.total_s) == 180
    after = plan.budget.phases.evaluate_s + plan.budget.phases.export_s
    assert plan.budget.reserve_s == pytest.approx(after + 2 * budget.PAUSE_S + budget.PAUSES_S_PER_PARAM * plan.forecast.num_params)
    assert all(phase > 0 for phase in plan.budget.phases.model_dump().values())


def test_what_the_last_stages_take_by_experience_is_kept_for_them_and_said():
    planner, plan = usual()
    params, found = Params.model_validate({"budget": {"time": "3m"}, "data": {"vocab_size": 2048}}), vocabularies(planner.hardware, 2048)
    case = Case(params, planner.hardware, planner.corpus, found, planner.text, price_of, reserve_factor=2 * budget.RESERVE_MARGIN)
    experienced = decide(case, Measuring(planner.measure, lambda: planner.spent_s)).plan
    assert experienced.budget.phases.export_s == pytest.approx(2 * plan.budget.phases.export_s, rel=0.02), "but for the size of the model"
    assert experienced.budget.phases.train_s < plan.budget.phases.train_s
    assert sum(experienced.budget.phases.model_dump().values()) == pytest.approx(180)
    said = "evaluation and export are given 2.5 times what they are estimated to take, by what earlier pipelines took on this machine"
    assert said in experienced.why.reasons
    assert not any("are given" in reason for reason in plan.why.reasons)


def test_a_probe_that_had_much_to_read_is_paid_for():
    planner, plan = usual()
    params, found = Params.model_validate({"budget": {"time": "3m"}, "data": {"vocab_size": 2048}}), vocabularies(planner.hardware, 2048)
    case = Case(params, planner.hardware, planner.corpus, found, planner.text, price_of, probed_s=50.0)
    paid = decide(case, Measuring(planner.measure, lambda: 1.5)).plan
    assert paid.budget.phases.hardware_probe_s == 50.0
    assert sum(paid.budget.phases.model_dump().values()) == pytest.approx(180)
    assert paid.budget.phases.train_s < plan.budget.phases.train_s - 40
    with pytest.raises(UserError, match="too short"):
        decide(replace(case, probed_s=500.0), Measuring(planner.measure, lambda: 1.5))


def test_what_few_long_documents_leave_to_measure_on_and_what_reading_takes_are_paid_for():
    planner = Planner("server")
    params, found = Params.model_validate({"budget": {"time": "3m"}, "data": {"vocab_size": 2048}}), vocabularies(planner.hardware, 2048)
    case = Case(params, planner.hardware, planner.corpus, found, planner.text, price_of)
    usual_phases, long, slow = (
        decide(each, Measuring(planner.measure, lambda: 1.5)).plan.budget.phases
        for each in (case, replace(case, held_back_bytes=3e6), replace(case, reading_s=lambda train_bytes: 5.0 + train_bytes / 1e8))
    )
    assert long.evaluate_s > 2 * usual_phases.evaluate_s
    assert slow.prepare_subset_s == pytest.approx(usual_phases.prepare_subset_s + 5.1, abs=0.4)
    assert all(sum(each.model_dump().values()) == pytest.approx(180) for each in (long, slow))


@pytest.mark.parametrize("taken_s", [31.0, 200.0])
def test_planning_that_took_more_than_there_was_is_refused(taken_s):
    planner = Planner("server")

    def measure(model, train):
        planner.spent_s = taken_s
        return StepTime(0.002, 10**9, 0.3)

    params = Params.model_validate({"budget": {"time": "36s"}, "train": {"compile": False}})
    case = Case(params, planner.hardware, planner.corpus, vocabularies(planner.hardware, 2048), planner.text, price_of)
    with pytest.raises(UserError, match="too short"):
        decide(case, Measuring(measure, lambda: planner.spent_s))


def test_what_one_slow_pipeline_took_refuses_no_budget_that_the_usual_margin_bears():
    planner = Planner("server")
    params = Params.model_validate({"budget": {"time": "36s"}, **SMALL})
    case = Case(params, planner.hardware, planner.corpus, vocabularies(planner.hardware, 2048), planner.text, price_of, reserve_factor=4.0)
    plan = decide(case, Measuring(planner.measure, lambda: planner.spent_s)).plan
    assert plan.budget.reserve_factor == budget.RESERVE_MARGIN
    assert any("earlier pipelines on this machine ask for 4 times" in reason and "may end late" in reason for reason in plan.why.reasons)
    with pytest.raises(UserError, match="too short"):
        decide(case.with_total(9.0), Measuring(planner.measure, lambda: 1.5))


def test_a_budget_that_one_vocabulary_leaves_too_little_of_is_not_refused_for_it():
    assert Planner("server", num_bytes=10**8).plan("36s", model=SMALL["model"]).data.vocab_size > 512


@each_machine
def test_steps_and_tokens_are_those_that_fit_into_the_time(machine):
    planner = Planner(machine, num_bytes=10**9)
    plan = planner.plan(data={"vocab_size": 2048})
    in_loop_s = plan.budget.phases.train_s - budget.training_setup_s(planner.hardware)
    compile_s = 25.3 if plan.train.is_compiled else 0.0  # as it was measured
    assert plan.train.num_steps == pytest.approx((in_loop_s - compile_s) / plan.forecast.step_s, abs=1)
    assert plan.forecast.tokens == plan.train.num_steps * plan.train.tokens_per_step
    assert plan.train.tokens_per_step % (plan.train.micro_batch * plan.model.seq_len) == 0
    assert plan.forecast.val_bpb_low < plan.forecast.val_bpb < plan.forecast.val_bpb_high
    assert plan.train.num_steps >= FEWEST_STEPS


@each_machine
def test_what_was_chosen_was_measured_and_is_the_only_one_chosen(machine):
    planner, plan = usual(machine)
    assert plan.forecast.step_s == pytest.approx(1.2 * predicted_s(planner, plan))
    assert plan.model in [model for model, _ in planner.measured]
    verdicts = [candidate.verdict for candidate in plan.why.candidates]
    assert verdicts.count("chosen") == 1
    assert "" not in verdicts
    assert plan.why.reasons


def predicted_s(planner, plan):
    return speed.step_seconds(planner.machine, price_of(plan.model, plan.train.attention), plan.model, plan.train)


@pytest.mark.parametrize("time", ["60s", "3m", "1h"])
@each_machine
def test_planning_stays_within_its_share_of_the_budget(machine, time):
    planner = Planner(machine)
    plan = planner.plan(time, **SMALL, train={"compile": False})
    assert plan.budget.phases.plan_s <= budget.planning_limit_s(plan.budget.total_s) + 0.2
    assert len(planner.measured) >= 1


def test_measuring_a_compiled_model_stays_within_the_share_of_planning():
    planner = Planner("server")
    plan = planner.plan("150s", data={"vocab_size": 8192}, model={"seq_len": 512})
    assert plan.budget.phases.plan_s <= budget.planning_limit_s(150) + 0.2


def test_the_same_wishes_give_the_same_plan():
    assert usual.__wrapped__()[1] == usual()[1]


# --- more of something is not worse


TIMES = ["60s", "90s", "2m", "3m", "5m", "10m", "30m", "1h", "3h", "12h"]


@each_machine
def test_more_time_never_plans_a_worse_model(machine):
    planner = Planner(machine, num_bytes=1_000_000_000)
    forecasts = [planner.plan(time, **SMALL, train={"compile": False}).forecast.val_bpb for time in TIMES]
    for shorter, longer in itertools.pairwise(forecasts):
        assert longer <= shorter * (1 + 2 * choose.NEAR)  # the smaller of near-equals, and readings on a grid
    assert forecasts[-1] < forecasts[0] - 0.1


def test_more_time_never_plans_a_worse_model_where_compiling_begins_to_pay():
    planner = Planner("server")
    forecasts = [planner.plan(time, data={"vocab_size": 8192}, model={"seq_len": 512}).forecast.val_bpb for time in ("100s", "2m", "130s", "150s", "3m")]
    for shorter, longer in itertools.pairwise(forecasts):
        assert longer <= shorter * (1 + choose.NEAR)


def test_a_faster_machine_plans_a_better_model():
    assert usual("H200")[1].forecast.val_bpb < usual("server")[1].forecast.val_bpb < usual("laptop")[1].forecast.val_bpb


def test_more_text_is_never_worse():
    forecasts = [Planner("server", num_bytes=size).plan("10m", **SMALL, train={"compile": False}).forecast.val_bpb for size in (10**6, 10**7, 10**8)]
    assert forecasts == sorted(forecasts, reverse=True)


# --- near-equals


def test_candidates_are_ranked_by_their_forecast_and_fit():
    planner, candidates = some_candidates()
    forecasts = [candidate.forecast(planner.text) for candidate in candidates]
    assert forecasts == sorted(forecasts)
    assert len({(c.model, c.train.tokens_per_step) for c in candidates}) == len(candidates) > 50
    for candidate in candidates:
        assert candidate.memory.total <= memory.USABLE_SHARE * planner.hardware.usable_memory_bytes
        assert candidate.num_steps >= FEWEST_STEPS


def test_the_smaller_of_near_equals_is_taken():
    planner, candidates = some_candidates()
    larger = candidates[0]
    smaller = replace(larger, price=replace(larger.price, num_params=larger.price.num_params - 1), predicted_step_s=1.001 * larger.predicted_step_s)
    candidates = [larger, smaller, *candidates[1:]]
    best = larger.forecast(planner.text)
    near = [candidate for candidate in candidates if candidate.forecast(planner.text) <= best * (1 + choose.NEAR)]
    assert best < smaller.forecast(planner.text)
    assert len(near) > 1
    chosen = choose.choose(candidates, text=planner.text)
    trusted = [candidate for candidate in near if candidate.epochs(planner.text) <= (1 + choose.OFTEN) * max(1.0, larger.epochs(planner.text))]
    assert chosen in trusted
    assert chosen.price.num_params == min(candidate.price.num_params for candidate in trusted)
    assert choose.choose([c for c in candidates if c not in near], text=planner.text).forecast(planner.text) > best * (1 + choose.NEAR)


def test_a_near_equal_that_reads_the_text_more_often_is_not_taken():
    planner, candidates = some_candidates()
    larger = candidates[0]
    text = replace(planner.text, unique_bytes=larger.tokens * larger.vocabulary.bytes_per_token / 2)
    best = larger.forecast(text)
    smaller = replace(larger, price=replace(larger.price, num_params=larger.price.num_params - 1), predicted_step_s=larger.predicted_step_s / 1.2)
    smaller = replace(smaller, learned=1.001 * best / smaller.forecast(text))
    assert smaller.epochs(text) > 1.1 * larger.epochs(text)
    assert choose.choose([larger, smaller], text=text) is larger
    as_often = replace(smaller, predicted_step_s=larger.predicted_step_s)
    assert choose.choose([larger, replace(as_often, learned=1.001 * best / replace(as_often, learned=1.0).forecast(text))], text=text) is not larger


def test_what_was_measured_goes_before_what_was_only_priced_and_promises_little_more():
    planner, candidates = some_candidates()
    first = candidates[0]
    promising, measured = replace(first, learned=0.995), replace(first, measured=StepTime(first.predicted_step_s, 10**9, 0.1))
    assert choose.choose([promising, measured], text=planner.text) is measured
    promising = replace(first, learned=0.95)
    assert choose.choose([promising, measured], text=planner.text) is promising
    compiled = replace(promising, train=first.train.model_copy(update={"is_compiled": True}))
    assert choose.choose([compiled, measured], text=planner.text) is measured, "what a compilation takes is not known before"


def best_of(planner, candidates, measure, *, is_batch_free=True):
    known = measuring.measure_best(
        list(candidates),
        lambda candidate: measure(candidate.model, candidate.train),
        text=planner.text,
        cost_of=lambda candidate, num_measured: None if candidate.measured else 0.5,
        is_batch_free=is_batch_free,
    )
    return known, [candidate for candidate in known if candidate.measured]


def test_measuring_goes_on_until_the_best_is_a_measured_one():
    planner, candidates = some_candidates()
    known, measured = best_of(planner, candidates, lambda model, train: slower(planner, model, train, 3.0))
    best = min(known, key=lambda candidate: candidate.forecast(planner.text))
    assert best.measured
    assert len(measured) < 10
    others = [candidate for candidate in known if not candidate.measured]
    assert all(2.5 < candidate.step_s / candidate.predicted_step_s < 3.5 for candidate in others), "what was learned is believed of the others"


def test_no_configuration_that_gets_enough_steps_is_missed_though_wider_ones_of_a_kind_are_not_priced():
    planner = Planner("laptop")
    shared, models = situation(planner), list(space.models(ModelParams(), [512, 2048], max_seq_len=512))
    known = vocabularies(planner.hardware, "auto")
    priced = list(configurations(shared, models, known))
    enough = [(each.model, each.train) for each in priced if has_enough_steps(each)]
    assert 0 < len(enough) < len(priced)
    assert [(each.model, each.train) for each in choose._quick_enough(shared, models, known)] == enough


def test_what_is_known_costs_nothing_and_is_never_measured_again_nor_is_what_was_compiled():
    planner, candidates = some_candidates()
    params = Params.model_validate({"budget": {"time": "3m"}})
    case = Case(params, planner.hardware, planner.corpus, vocabularies(planner.hardware, 2048), planner.text, price_of)
    first, spent_s = candidates[0], 2.0
    here = Measuring(planner.measure, lambda: spent_s, is_known=lambda model, train: model == first.model, again=planner.measure)
    taken, kept = StepTime(0.1, 10**9, 0.3), StepTime(0.1, 10**9, 0.3, is_kept=True)
    compiled = replace(first, train=first.train.model_copy(update={"is_compiled": True}))
    other = next(each for each in candidates if each.model != first.model)
    assert search._measuring_s(case, here, first, 1) == 0
    assert search._measuring_s(case, here, other, 1) == measuring.measurement_s(other)
    assert search._measuring_s(case, here, replace(first, measured=taken), 1) == measuring.measurement_s(first)
    assert search._measuring_s(case, here, replace(first, measured=kept), 1) is None
    assert search._measuring_s(case, here, replace(compiled, measured=taken), 1) is None
    spent_s = case.planning_limit_s
    assert search._measuring_s(case, here, other, 1) is None
    assert search._measuring_s(case, here, other, 0) == measuring.measurement_s(other), "one is measured whatever it costs"


def slower(planner, model, train, factor):
    return StepTime(factor * speed.step_seconds(planner.machine, price_of(model, train.attention), model, train), 10**9, 0.1)


def test_what_a_compilation_did_not_take_is_time_for_steps_and_the_other_way_round():
    eager = some_candidates()[1][0]
    compiled = replace(eager, train=eager.train.model_copy(update={"is_compiled": True}), loop_s=100.0)
    guessed_s = COMPILE_S["cpu"]
    for first_step_s in (12.0, 50.0):
        known = compiled.with_measured(StepTime(0.1, 10**9, first_step_s))
        assert (known.compile_s, known.loop_s) == (first_step_s, pytest.approx(100.0 + guessed_s - first_step_s))
    assert eager.with_measured(StepTime(0.1, 10**9, 12.0)).loop_s == eager.loop_s


def test_a_compilation_that_is_known_to_take_too_long_is_refused_with_the_budget_that_works():
    planner = Planner("server")
    params = Params.model_validate({"budget": {"time": "3m"}, **SMALL, "train": {"compile": True}})
    case = Case(params, planner.hardware, planner.corpus, vocabularies(planner.hardware, 2048), planner.text, price_of)
    kept = Measuring(lambda model, train: StepTime(0.05, 10**9, 170.0, is_kept=True), lambda: 1.5, is_known=lambda model, train: True)
    with pytest.raises(UserError, match="too short") as error:
        decide(case, kept)
    assert re.search(r"at least 2\d\ds", error.value.fix)


def test_a_pinned_part_of_the_schedule_leaves_no_room_for_more_than_the_rest():
    for wish, shares in (({"warmup_share": 0.7}, (0.7, 0.3)), ({"cooldown_share": 1.0}, (0.0, 1.0)), ({"warmup_share": 0.1}, (0.1, 0.55))):
        train = Planner("server").plan("3m", **SMALL, train=wish).train
        assert (train.warmup_share, train.cooldown_share) == pytest.approx(shares)


def test_a_model_that_is_slower_than_predicted_loses_to_one_that_is_not():
    planner, candidates = some_candidates()
    favourite = candidates[0].model
    known, measured = best_of(planner, candidates, lambda model, train: slower(planner, model, train, 9.0 if model == favourite else 1.0))
    assert choose.choose(known, text=planner.text).model != favourite
    assert measured[0].model == favourite


def test_what_does_not_fit_when_measured_is_dropped():
    planner, candidates = some_candidates()
    too_large, no_room = {candidate.model for candidate in candidates[:3]}, StepTime(0.0, 0, 0.1, fits=False)
    known, _ = best_of(planner, candidates, lambda model, train: no_room if model in too_large else slower(planner, model, train, 1.0))
    assert choose.choose(known, text=planner.text).model not in too_large
    with pytest.raises(UserError, match="no model fits into memory"):
        best_of(planner, candidates[:4], lambda model, train: no_room)


def test_where_time_is_left_over_more_of_it_is_never_worse():
    planner = Planner("server", num_bytes=1_000_000)
    plans = [planner.plan(time, **SMALL) for time in ("60s", "3m", "10m", "30m")]
    assert plans[0].budget.unused_s == 0 < plans[-1].budget.unused_s
    forecasts = [plan.forecast.val_bpb for plan in plans]
    assert forecasts == sorted(forecasts, reverse=True)
    assert plans[-1].forecast.val_bpb == min(each.val_bpb for each in plans[-1].why.candidates if each.measured_step_s)


def test_a_device_that_others_use_is_not_tried_with_everything():
    planner, candidates = some_candidates()
    tries, free = [], min(candidate.memory.total for candidate in candidates) * 1.2

    def measure(model, train):
        tries.append(held(model, price_of(model, train.attention), train).total)
        return StepTime(0.0, 0, 0.1, fits=False) if tries[-1] > free else slower(planner, model, train, 1.0)

    known, measured = best_of(planner, candidates, measure)
    failed = [size for size in tries if size > free]
    assert failed == sorted(failed, reverse=True)
    assert len(failed) < 8 < len(candidates)
    assert measured
    assert choose.choose(known, text=planner.text).memory.total <= free


def test_where_memory_runs_out_the_same_model_is_tried_with_less_at_once():
    planner, candidates = some_candidates()
    best, tries = candidates[0], []
    quarter = best.train.model_copy(update={"micro_batch": best.train.micro_batch // 4})
    free = 1.01 * held(best.model, best.price, quarter).total

    def measure(model, train):
        tries.append(held(model, price_of(model, train.attention), train).total)
        return slower(planner, model, train, 1.0) if tries[-1] <= free else StepTime(0.0, 0, 0.1, fits=False)

    known, measured = best_of(planner, candidates, measure)
    assert tries[0] > free
    assert best.model in {each.model for each in measured}, "before any smaller one"
    assert all(each.memory.total <= free for each in measured)
    assert all(each.train.tokens_per_step % (each.train.micro_batch * each.model.seq_len) == 0 for each in known)
    assert len(tries) < 12
    with pytest.raises(UserError, match="no model fits into memory"):
        best_of(planner, [best], lambda model, train: StepTime(0.0, 0, 0.1, fits=False), is_batch_free=False)


def test_where_compiling_fails_nothing_is_compiled_unless_that_is_pinned():
    planner = Planner("server")
    real, broken = planner.measure, UserError("torch.compile does not work here", saw="no header", fix="set `train.compile: false`")

    def measure(model, train):
        if train.is_compiled:
            raise broken
        return real(model, train)

    planner.measure = measure
    plan = planner.plan("2h", **SMALL)
    assert not plan.train.is_compiled
    assert plan.why.candidates[0].measured_step_s
    with pytest.raises(UserError, match="does not work here"):
        planner.plan("2h", train={"compile": True}, **SMALL)


def test_what_was_measured_and_fits_stays_where_something_smaller_did_not_fit():
    planner, candidates = some_candidates()
    first = candidates[0].model
    known, measured = best_of(
        planner, candidates, lambda model, train: slower(planner, model, train, 1.5) if model == first else StepTime(0.0, 0, 0.1, fits=False)
    )
    assert {each.model for each in measured} == {first}
    assert choose.choose(known, text=planner.text).model == first


# --- what is learned of the paces


def slow_machine():
    """A single core of long ago."""
    laptop = MACHINES["laptop"]
    speeds = [DtypeSpeed(dtype="float32", gemms=[gemm.model_copy(update={"flops_per_s": gemm.flops_per_s / 8}) for gemm in laptop.measured.dtypes[0].gemms])]
    measured = laptop.measured.model_copy(update={"dtypes": speeds, "import_torch_s": 6.0, "launch_s": 4e-6, "bandwidth_bytes_per_s": 3e9})
    fingerprint = laptop.fingerprint.model_copy(update={"num_cores": 1, "num_threads": 1})
    return laptop.model_copy(update={"measured": measured, "fingerprint": fingerprint})


@pytest.mark.parametrize("slowness", [0.4, 0.7, 1.2, 3.0])
@pytest.mark.parametrize("time", ["36s", "3m"])
def test_the_choice_is_the_best_for_the_time_that_is_left_in_the_end(slowness, time):
    planner = Planner("server", slowness=slowness, num_bytes=300_000_000)
    params = Params.model_validate({"budget": {"time": time}, **SMALL})
    case = Case(params, planner.hardware, planner.corpus, vocabularies(planner.hardware, 2048), planner.text, price_of)
    planner.spent_s = 1.5
    decision = decide(case, Measuring(planner.measure, lambda: planner.spent_s))
    selection = decision.selection
    best = choose.choose(selection.candidates, text=selection.text)  # two may take turns, whose near-equality depends on each other's time
    assert selection.best is best or selection.best.forecast(selection.text) < (1 + 2 * choose.NEAR) * best.forecast(selection.text)
    assert sum(decision.plan.budget.phases.model_dump().values()) == pytest.approx(params.budget.time_s)
    assert selection.best.loop_s == pytest.approx(decision.plan.budget.phases.train_s - case.setup_s - selection.best.compile_s)


@pytest.mark.parametrize("slowness", [0.3, 0.6, 1.2])
@pytest.mark.parametrize(("machine", "time"), [("server", "20m"), ("server", "36s"), ("gpu of 4 GB", "60s")])
def test_there_is_as_much_text_as_is_read_and_its_encoding_is_what_is_paid_for(machine, time, slowness):
    planner = Planner(machine, slowness=slowness, num_bytes=1_000_000_000)
    plan = planner.plan(time, **SMALL)
    encoding_s = plan.data.train_bytes / 1e6 * vocabularies(planner.hardware, 2048)[0].encode_s_per_mb
    assert encoding_s < plan.budget.phases.prepare_subset_s < encoding_s + 3
    assert plan.forecast.tokens * BYTES_PER_TOKEN[2048] == pytest.approx(plan.forecast.epochs * plan.data.train_bytes)
    assert plan.forecast.epochs <= 1 or 2 * encoding_s > ENCODING_SHARE * plan.budget.total_s


@pytest.mark.parametrize(("time", "num_steps"), [("3m", 10), ("3m", 100), ("10m", 500)])
def test_nothing_is_compiled_on_a_guess_where_steps_are_counted(time, num_steps):
    for num_bytes in (3_000_000, 11_000_000):
        plan = Planner("server", num_bytes=num_bytes).plan(time, train={"num_steps": num_steps})
        chosen = next(each for each in plan.why.candidates if each.verdict == "chosen")
        assert chosen.measured_step_s or not chosen.is_compiled


def test_a_budget_too_short_for_enough_steps_is_told_how_much_is_missing():
    planner = Planner(slow_machine(), num_bytes=1_000_000)
    error = refusal(planner, "65s")
    missing_s = int(re.search(r"about (\d+) s more", error.fix)[1])
    assert 0 < missing_s < 30
    assert planner.plan(f"{65 + missing_s + 5}s").train.num_steps >= FEWEST_STEPS


def test_too_few_steps_by_what_was_measured_are_told():
    plan = Planner("server", slowness=4, num_bytes=3_000_000).plan("3m", train={"micro_batch": 1000})
    assert plan.train.num_steps < FEWEST_STEPS
    assert any(f"only {plan.train.num_steps} steps fit" in reason for reason in plan.why.reasons)


# --- pins


MODEL_PINS = {
    "num_layers": 7, "d_model": 224, "num_heads": 5, "num_kv_heads": 2, "head_dim": 48, "d_ff": 333, "seq_len": 192, "is_tied": True, "has_qk_norm": False
}  # fmt: skip
TRAIN_PINS = {
    "optimizer": ("optimizer", "adamw"),
    "tokens_per_step": ("tokens_per_step", 4096),
    "learning_rate": ("matrix_lr", 0.007),
    "weight_decay": ("weight_decay", 0.013),
    "warmup_share": ("warmup_share", 0.11),
    "cooldown_share": ("cooldown_share", 0.33),
    "input_noise": ("input_noise", 0.25),
    "teacher_share": ("teacher_share", 0.4),
    "clip_norm": ("clip_norm", 0.77),
    "dtype": ("dtype", "float32"),
    "attention": ("attention", "sdpa"),
    "compile": ("is_compiled", True),
    "num_steps": ("num_steps", 321),
    "seed": ("seed", 12),
}  # fmt: skip


@pytest.mark.parametrize("d_model", space.WIDTHS)
def test_the_heads_that_the_plan_chooses_can_be_pinned(d_model):
    [chosen] = space.models(ModelParams(num_layers=2, d_model=d_model, seq_len=256), [1024], max_seq_len=256)
    heads = chosen.model_dump(include={"num_heads", "num_kv_heads", "head_dim"})
    assert list(space.models(ModelParams(num_layers=2, d_model=d_model, seq_len=256, **heads), [1024], max_seq_len=256)) == [chosen]


def test_every_pin_of_the_model_is_tried_here():
    assert MODEL_PINS.keys() | {"portable", "lookup"} == ModelParams.model_fields.keys()  # these two: test_plan_lookup.py
    assert TRAIN_PINS.keys() | {"micro_batch"} == Params().train.model_dump().keys()


@pytest.mark.parametrize("name", MODEL_PINS)
def test_each_pinned_value_of_the_model_is_kept(name):
    plan = Planner("server").plan(data={"vocab_size": 1024}, model={"seq_len": 256, name: MODEL_PINS[name]}, train={"compile": False})
    assert getattr(plan.model, name) == MODEL_PINS[name]
    others = plan.model.d_model // plan.model.num_heads if name == "num_heads" else 64
    assert plan.model.head_dim == (48 if name == "head_dim" else others)
    assert plan.model.num_heads % plan.model.num_kv_heads == 0
    assert plan.model.head_dim % 2 == 0


@pytest.mark.parametrize("wish", TRAIN_PINS)
def test_each_pinned_value_of_the_training_is_kept(wish):
    name, value = TRAIN_PINS[wish]
    plan = Planner("server").plan("10m", **SMALL, train={wish: value})
    assert getattr(plan.train, name) == value
    assert plan.train.clock == ("steps" if wish == "num_steps" else "deadline")


QUALITY = [
    *({"model": {name: value}} for name, value in MODEL_PINS.items()),
    *({"train": {name: value}} for name, (_, value) in TRAIN_PINS.items() if name not in ("dtype", "attention", "compile", "seed")),
    *({"data": {"vocab_size": 1024}}, {"plan": {"strategy": "table"}}),
]
HARMLESS = [
    {"train": {"seed": 7, "dtype": "float32", "attention": "sdpa", "compile": False}},
    {"train": {"micro_batch": 2}},
    {"data": {"seed": 5}},
    {"budget": {"time": "10m"}},
]


@pytest.mark.parametrize("wishes", QUALITY + HARMLESS, ids=str)
def test_a_plan_is_free_unless_something_that_decides_the_quality_is_pinned(wishes):
    assert Params.model_validate(wishes).is_free == (wishes in HARMLESS)


def test_the_forecast_says_whether_the_plan_was_free():
    assert Planner("laptop").plan().forecast.is_free
    assert not Planner("laptop").plan(model={"d_model": 128}).forecast.is_free


def test_flash_attn_is_taken_where_it_is_pinned_and_runs():
    pinned = {"train": {"attention": "flash_attn", "compile": False}}
    assert Planner("H200").plan(**SMALL, **pinned).train.attention == "flash_attn"
    for machine, more, seen in (("server", {}, "on a CPU"), ("gpu of 4 GB", {}, "compute capability 7.5"), ("H200", {"dtype": "float32"}, "in float32")):
        error = refusal(Planner(machine), **SMALL, train={**pinned["train"], **more})
        assert error.what == "flash-attn does not run here"
        assert seen in error.saw


def test_a_pinned_rate_moves_the_others_in_proportion():
    for optimizer in ("muon", "adamw"):
        pins = {"optimizer": optimizer, "tokens_per_step": 4096}
        model = {"d_model": 192, "num_layers": 3, "seq_len": 256}
        free, pinned = (Planner("server").plan(data={"vocab_size": 2048}, model=model, train={**pins, **rate}).train for rate in ({}, {"learning_rate": 0.001}))
        for other in ("embedding_lr", "head_lr", "gain_lr"):
            assert getattr(pinned, other) / getattr(free, other) == pytest.approx(0.001 / free.matrix_lr)


def test_a_pinned_micro_batch_is_kept_where_the_step_is_pinned_too():
    for size in (1, 4, 16):
        assert Planner("server").plan(**SMALL, train={"micro_batch": size, "tokens_per_step": 4096}).train.micro_batch == size


@pytest.mark.parametrize("size", [4, 16, 32])
def test_a_pinned_micro_batch_is_kept(size):
    assert Planner("server").plan(**SMALL, train={"micro_batch": size}).train.micro_batch == size


@pytest.mark.parametrize(
    ("machine", "time", "model", "train"),
    [
        ("server", "60s", {"num_layers": 4, "d_model": 512, "seq_len": 256}, {"optimizer": "adamw", "tokens_per_step": 256}),
        ("laptop", "40m", {"num_layers": 12, "d_model": 768, "seq_len": 64}, {"optimizer": "adamw", "tokens_per_step": 64}),
        ("gpu of 4 GB", "1m", {"num_layers": 16, "d_model": 512, "seq_len": 128}, {"optimizer": "adamw"}),
    ],
)
def test_a_large_model_that_fits_as_it_is_pinned_is_planned_though_the_default_training_of_it_would_not_fit(machine, time, model, train):
    wishes = {"model": model, "data": {"vocab_size": 1024}}
    refusal(Planner(machine), time, **wishes, train={"compile": False})
    plan = Planner(machine).plan(time, **wishes, train=train | {"compile": False})
    assert (plan.model.d_model, plan.train.optimizer) == (model["d_model"], "adamw")
    assert plan.data.train_bytes >= plan.forecast.tokens


def test_a_pinned_step_takes_a_context_that_divides_it():
    plan = Planner("server").plan(data={"vocab_size": 2048}, train={"tokens_per_step": 384})
    assert (plan.train.tokens_per_step, plan.model.seq_len) == (384, 128)


def test_pinned_steps_that_are_no_whole_sequences_name_the_nearest_that_work():
    error = refusal(Planner("server"), **SMALL, train={"tokens_per_step": 1000})
    assert "train.tokens_per_step: 1000; a sequence has 256 tokens" in error.saw
    assert "train.tokens_per_step: 1024" in error.fix
    assert Planner("server").plan(**SMALL, train={"tokens_per_step": 1024}).train.tokens_per_step == 1024


@pytest.mark.parametrize("tokens_per_step", [2**19, 2**24, 10**12])
def test_a_pinned_step_that_is_too_large_names_the_largest_that_works(tokens_per_step):
    error = refusal(Planner("server"), **SMALL, train={"tokens_per_step": tokens_per_step - tokens_per_step % 256, "compile": False})
    assert error.what == "the tokens of a step are too many"
    assert "such steps" in error.saw
    assert "a training needs 100" in error.saw
    largest = int(error.fix.split("at most ")[1].split(",")[0])
    assert Planner("server", slowness=1.0).plan(**SMALL, train={"tokens_per_step": largest, "compile": False}).train.tokens_per_step == largest
    refusal(Planner("server"), **SMALL, train={"tokens_per_step": 2 * largest, "compile": False})


@pytest.mark.parametrize("size", [3, 7, 24])
def test_a_pinned_micro_batch_that_is_no_power_of_two_is_kept(size):
    plan = Planner("server").plan(**SMALL, train={"micro_batch": size})
    assert plan.train.micro_batch == size
    assert plan.train.tokens_per_step % (size * 256) == 0


@pytest.mark.parametrize(("size", "bound"), [(2000, "such steps"), (10**7, "memory")])
def test_a_pinned_micro_batch_that_is_too_large_names_one_that_works(size, bound):
    error = refusal(Planner("server"), **SMALL, train={"micro_batch": size})
    assert error.what == "the micro-batch is too large"
    assert bound in error.saw
    works = int(error.fix.split("at most ")[1].split(",")[0])
    assert Planner("server", slowness=1.0).plan(**SMALL, train={"micro_batch": works}).train.micro_batch == works


def test_a_pinned_micro_batch_that_does_not_divide_the_step_names_one_that_does():
    error = refusal(Planner("server"), **SMALL, train={"tokens_per_step": 4096, "micro_batch": 3})
    assert "train.micro_batch: 3; a step has 16 sequences" in error.saw
    assert "train.micro_batch: 2" in error.fix


@pytest.mark.parametrize(
    ("model", "named"),
    [
        ({"d_model": 192, "num_heads": 7}, "is 6"),
        ({"num_heads": 12, "num_kv_heads": 5}, "is 4"),
        ({"d_model": 100, "head_dim": 5}, "4 and 6"),
        pytest.param({"d_model": 63}, "62 and 64", id="an odd width"),
        pytest.param({"d_model": 192, "num_heads": 0}, "1", id="no heads"),
    ],
)
def test_pins_that_contradict_each_other_are_refused_with_the_nearest_legal_value(model, named):
    from pydantic import ValidationError

    with pytest.raises((UserError, ValidationError), match=named):
        Planner("server").plan(model=model)


def test_a_dtype_that_does_not_run_here_is_refused_with_those_that_do():
    error = refusal(Planner("laptop"), **SMALL, train={"dtype": "bfloat16"})
    assert "there are float32" in error.saw


def test_compiling_without_a_compiler_is_refused():
    error = refusal(Planner("laptop"), **SMALL, train={"compile": True})
    assert "no C++ compiler" in error.saw
    assert Planner("laptop").plan(**SMALL, train={"compile": False}).train.is_compiled is False


def test_without_a_compiler_nothing_is_compiled_and_the_dtype_is_taken():
    assert usual("laptop", "12h")[1].train.is_compiled is False
    assert usual("laptop")[1].train.dtype == "float32"
    assert usual("server")[1].train.dtype == "bfloat16"
    assert usual("H200")[1].train.dtype == "bfloat16"


def test_counted_steps_ignore_the_clock():
    plan = Planner("server").plan("3m", **SMALL, train={"num_steps": 50})
    assert (plan.train.num_steps, plan.train.clock) == (50, "steps")
    assert plan.forecast.tokens == 50 * plan.train.tokens_per_step


def test_counted_steps_need_no_budget():
    plan = Planner("server").plan("20s", **SMALL, train={"num_steps": 50})
    assert plan.train.num_steps == 50
    assert all(phase > 0 for phase in plan.budget.phases.model_dump().values())
    assert "the budget of 20.0 s is not kept" in plan.why.reasons[-1]


def test_counted_steps_with_a_pinned_micro_batch_have_all_the_text_that_they_read():
    plan = Planner("server", num_bytes=10**9).plan("10m", **SMALL, train={"num_steps": 40_000, "micro_batch": 64})
    read = plan.forecast.tokens * BYTES_PER_TOKEN[2048]
    assert plan.data.train_bytes > min(read, 0.95 * 10**9)
    assert plan.forecast.epochs == pytest.approx(read / min(plan.data.train_bytes, 0.95 * 10**9))


def test_counted_steps_keep_the_budget_where_they_are_found_slower_than_predicted():
    plans = [Planner("server", slowness=slowness).plan("10m", **SMALL, train={"num_steps": 2000}) for slowness in (1.0, 3.0)]
    assert all(sum(plan.budget.phases.model_dump().values()) <= 600 for plan in plans)


@pytest.mark.parametrize("num_steps", [200, 3000, 40_000])
def test_counted_steps_take_about_the_time_that_there_is_unless_whole_sequences_take_more(num_steps):
    plan = Planner("server", num_bytes=10**9).plan("10m", **SMALL, train={"num_steps": num_steps})
    train_s = num_steps * plan.forecast.step_s
    assert train_s > 0.2 * plan.budget.phases.train_s or num_steps == 200  # so few steps learn little from a larger batch
    assert train_s < 600 or plan.train.tokens_per_step == plan.model.seq_len
    best = scaling.best_tokens_per_step(plan.forecast.tokens)
    assert plan.train.tokens_per_step <= 16 * best


def test_what_a_larger_batch_costs_is_told():
    small, large = (Planner("server").plan("3m", **SMALL, train={"num_steps": 500 * 2048 // size}).why.reasons for size in (512, 16_384))
    assert any("tokens a step" in reason and "teach no better" in reason and "cost" not in reason for reason in small)
    assert any("tokens a step" in reason and "% and are quicker" in reason for reason in large)


def test_few_steps_get_a_batch_that_teaches_something():
    def forecast(size):
        return Planner("server").plan("3m", **SMALL, train={"num_steps": 100, "tokens_per_step": size}).forecast.val_bpb

    assert forecast("auto") <= forecast(16_384) < forecast(256)


def test_what_is_prepared_is_what_counted_steps_read():
    for num_steps in (1000, 4000):
        plan = Planner("server", num_bytes=10**9).plan("10m", **SMALL, train={"num_steps": num_steps})
        read = plan.forecast.tokens * BYTES_PER_TOKEN[2048]
        assert read < plan.data.train_bytes <= max(10**6, 2 * 2.5 * read)
    pinned = Planner("server", num_bytes=10**9).plan("10m", **SMALL, train={"num_steps": 4000, "tokens_per_step": 8192})
    assert pinned.data.train_bytes >= 4000 * 8192 * BYTES_PER_TOKEN[2048]


@pytest.mark.parametrize(("num_bytes", "least", "most"), [(10**7, 1.0, 2.0), (10**9, 2.5, 5.0)])
def test_more_text_is_prepared_than_is_read_where_there_is_more(num_bytes, least, most):
    plan = Planner("server", num_bytes=num_bytes).plan("5m", **SMALL)
    read = min(plan.forecast.tokens * BYTES_PER_TOKEN[2048], num_bytes)
    assert least * read <= plan.data.train_bytes <= most * read


@each_machine
@pytest.mark.parametrize("time", ["3m", "1h"])
def test_what_is_prepared_can_be_encoded_in_the_time_planned_for_it(machine, time):
    planner = Planner(machine, num_bytes=10**11)
    plan = planner.plan(time, **SMALL)
    encoding_s = plan.data.train_bytes / 1e6 * vocabularies(planner.hardware)[0].encode_s_per_mb
    assert encoding_s < plan.budget.phases.prepare_subset_s
    assert encoding_s < 0.1 * plan.budget.total_s


def test_text_that_cannot_all_be_encoded_is_read_again_and_that_is_told():
    slow = [replace(each, encode_s_per_mb=3.0) for each in vocabularies(MACHINES["H200"])]
    planner = Planner("H200", num_bytes=10**11)
    params = Params.model_validate({"budget": {"time": "3m"}, **SMALL})
    case = Case(params, planner.hardware, planner.corpus, slow, planner.text, price_of)
    plan = decide(case, Measuring(planner.measure, lambda: planner.spent_s)).plan
    assert plan.data.train_bytes == case.text.unique_bytes == 4_000_000
    assert plan.forecast.epochs > 1
    assert any(
        "4.0 MB of the text's 95.0 GB are used: to read and encode twice as much would take more than 8% of the budget" in row for row in plan.why.reasons
    )


def test_where_all_text_is_read_again_more_would_help():
    plan = Planner("server", num_bytes=2 * 10**6).plan("3m", **SMALL, train={"compile": False})
    assert plan.forecast.epochs > 1
    assert f"the text is read {plan.forecast.epochs:.1f} times; more text would help" in plan.why.reasons


@pytest.mark.parametrize("time", ["3m", "10m", "1h"])
def test_text_that_takes_long_to_read_is_read_within_its_share_of_the_budget_too(time):
    planner = Planner("H200", num_bytes=10**10)
    params, found = Params.model_validate({"budget": {"time": time}, **SMALL}), vocabularies(planner.hardware, 2048)
    case = Case(params, planner.hardware, planner.corpus, found, planner.text, price_of)
    dear = replace(case, reading_s=lambda train_bytes: 4 * 0.031 * max(64.0, 4 * (train_bytes / 1e6 + 1)))
    quick, plan = (decide(each, Measuring(planner.measure, lambda: 1.5)).plan for each in (case, dear))
    assert plan.budget.phases.prepare_subset_s < dear.reading_s(0.0) + 3 + ENCODING_SHARE * params.budget.time_s
    assert 1_000_000 < plan.data.train_bytes < quick.data.train_bytes


def test_more_text_than_is_read_is_prepared_only_where_to_read_it_costs_little():
    planner = Planner("H200", num_bytes=10**10)
    found = vocabularies(planner.hardware, 2048)
    case = Case(Params.model_validate({"budget": {"time": "1h"}}), planner.hardware, planner.corpus, found, planner.text, price_of)
    dear = replace(case, reading_s=lambda train_bytes: train_bytes / 1e6)
    prepared = [search.train_bytes_for(each, found[0], read_bytes=6e6, loop_s=60.0) for each in (case, dear)]
    assert prepared == [16_000_000, 8_000_000]


def test_counted_steps_stay_within_the_budget_where_they_can_and_say_so_where_not():
    planner = Planner("server")
    few, many = (planner.plan("10m", **SMALL, train={"num_steps": num_steps, "compile": False}) for num_steps in (500, 400_000))
    for plan, is_kept in ((few, True), (many, False)):
        phases = plan.budget.phases.model_dump()
        assert all(phase > 0 for phase in phases.values())
        assert (sum(phases.values()) <= plan.budget.total_s) == is_kept
        assert phases["train_s"] == pytest.approx(budget.training_setup_s(planner.hardware) + plan.train.num_steps * plan.forecast.step_s)
        assert ("is not kept" in plan.why.reasons[-1]) != is_kept
    assert few.forecast.num_params > many.forecast.num_params, "where the time is too short anyway, a quick model is taken"


def test_counted_steps_can_be_compiled_in_any_budget():
    assert Planner("H200").plan("30s", **SMALL, train={"num_steps": 50, "compile": True}).train.is_compiled


# --- what is prepared does not depend on how it is learned


@pytest.mark.parametrize("wish", [wish for wish in TRAIN_PINS if wish not in ("dtype", "num_steps")])
def test_another_way_of_training_prepares_nothing_anew(wish):
    usual_plan, other = (Planner("server").plan("10m", **SMALL, train=train) for train in ({}, {wish: TRAIN_PINS[wish][1]}))
    assert other.data == usual_plan.data
    assert other.train != usual_plan.train or wish in ("compile", "tokens_per_step"), "those two may be what was planned anyway"


def test_another_optimizer_for_counted_steps_prepares_nothing_anew():
    one, other = (Planner("server").plan("10m", **SMALL, train={"num_steps": 700, "optimizer": optimizer}) for optimizer in ("muon", "adamw"))
    assert one.data == other.data


def test_planning_that_took_longer_prepares_nothing_anew():
    plans = []
    for spent_s in (1.0, 8.0):
        planner = Planner("server")
        params = Params.model_validate({"budget": {"time": "3m"}, **SMALL})
        case = Case(params, planner.hardware, planner.corpus, vocabularies(planner.hardware, 2048), planner.text, price_of)
        plans.append(decide(case, Measuring(planner.measure, lambda spent_s=spent_s: spent_s)).plan)
    assert plans[0].data == plans[1].data
    assert plans[0].budget.phases.train_s > plans[1].budget.phases.train_s


def test_a_vocabulary_is_learned_from_as_much_as_it_is_known_to_need_and_that_is_paid_for():
    planner = Planner("server", num_bytes=10**9)
    params, usual_one = Params.model_validate({"budget": {"time": "3m"}, **SMALL}), FakeVocabulary(2048, BYTES_PER_TOKEN[2048])
    large = replace(usual_one, filling_bytes=20_000_000)
    plans = []
    for vocabulary in (usual_one, large):
        case = Case(params, planner.hardware, planner.corpus, [vocabulary], planner.text, price_of)
        plans.append(decide(case, Measuring(planner.measure, lambda: 1.5)).plan)
    small, enough = plans
    assert small.data.tokenizer_bytes <= 3_000_000 < enough.data.tokenizer_bytes == 20_000_000
    learning_s = (20_000_000 - small.data.tokenizer_bytes) / 1e6 * usual_one.train_tokenizer_s
    assert enough.budget.phases.prepare_subset_s - small.budget.phases.prepare_subset_s == pytest.approx(learning_s, abs=1.5)


@pytest.mark.parametrize("time", ["60s", "3m", "1h"])
def test_what_is_prepared_suffices_for_what_is_read(time):
    plan = Planner("server", num_bytes=10**9).plan(time, **SMALL)
    epochs_of_what_is_encoded = plan.forecast.tokens * BYTES_PER_TOKEN[2048] / plan.data.train_bytes
    assert 0.2 < epochs_of_what_is_encoded < 1.5, "neither read again while there is more, nor encoded in vain"
    assert plan.data.tokenizer_bytes <= 3_000_000


# --- time that does not suffice


@each_machine
def test_a_budget_that_is_too_small_names_a_larger_one(machine):
    error = refusal(Planner(machine), "20s")
    assert "too short" in error.what
    assert "budget.time: 20s" in error.saw
    assert int(error.fix.split("at least ")[1].split("s")[0]) > 20


def test_the_budget_that_is_named_really_works():
    for machine, seconds in itertools.product(MACHINES, (5, 20, 25, 30, 35, 40, 45)):
        try:
            Planner(machine).plan(f"{seconds}s", **SMALL)
        except UserError as error:
            named = error.fix.split("at least ")[1].split(" ")[0]
            assert Planner(machine).plan(named, **SMALL).train.num_steps >= FEWEST_STEPS, (machine, seconds)


@pytest.mark.parametrize(("machine", "slowness", "time"), [("laptop", 20.0, "60s"), ("server", 300.0, "3m")])
def test_a_machine_far_slower_than_predicted_is_refused_and_not_given_a_negative_time(machine, slowness, time):
    error = refusal(Planner(machine, slowness=slowness), time, **SMALL)
    assert "too short" in error.what


def test_a_context_is_no_longer_than_the_text():
    planner = Planner("server", num_bytes=2_000)
    params = Params.model_validate({"budget": {"time": "60s"}, "data": {"vocab_size": 512}, "model": {"num_layers": 2, "d_model": 64}})
    case = Case(params, planner.hardware, planner.corpus, vocabularies(planner.hardware, 512), planner.text, price_of)
    contexts = {each.model.seq_len for each in decide(case, None).selection.candidates}
    assert 512 in contexts
    assert max(contexts) < planner.text.unique_bytes / BYTES_PER_TOKEN[512]


@pytest.mark.parametrize("strategy", ["measured", "table"])
def test_a_pinned_context_that_is_longer_than_the_text_is_refused_with_the_longest_that_fits(strategy):
    planner = Planner("server", num_bytes=30_000)
    wishes = {"plan": {"strategy": strategy}, "data": {"vocab_size": 512}}
    error = refusal(planner, **wishes, model={"seq_len": 16_384, "num_layers": 2, "d_model": 64})
    assert error.what == "the text may not fill one context"
    assert "model.seq_len: 16384" in error.saw
    longest = int(error.fix.split("at most ")[1].split(",")[0])
    assert 0.03 * planner.text.unique_bytes / BYTES_PER_TOKEN[512] < longest < planner.text.unique_bytes / BYTES_PER_TOKEN[512]
    assert planner.plan(**wishes, model={"seq_len": longest, "num_layers": 2, "d_model": 64}).model.seq_len == longest
    refusal(planner, **wishes, model={"seq_len": longest + 1, "num_layers": 2, "d_model": 64})


def test_compiling_is_refused_where_it_leaves_no_time_to_train():
    refusal(Planner("server"), "60s", **SMALL, train={"compile": True})


# --- memory


LARGE = {"model": {"seq_len": 256, "d_model": 384, "num_layers": 6}, "data": {"vocab_size": 8192}, "train": {"tokens_per_step": 16384, "compile": False}}


def large_plan(memory_bytes):
    return Planner("server", memory_bytes=memory_bytes).plan("1h", **LARGE)


def test_micro_batches_shrink_with_the_memory_and_the_step_stays():
    plans = [large_plan(size) for size in (24 * 10**9, 3 * 10**9, 2 * 10**9, 12 * 10**8)]
    sizes = [plan.train.micro_batch for plan in plans]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) > 2
    assert {plan.train.tokens_per_step for plan in plans} == {16384}
    for plan, size in zip(plans, (24e9, 3e9, 2e9, 1.2e9), strict=True):
        assert plan.forecast.peak_memory_bytes <= memory.USABLE_SHARE * size
        assert not plan.train.is_checkpointed


def test_activations_are_recomputed_only_where_nothing_fits_without_and_too_little_is_an_error():
    outcomes = []
    for size in range(1_200_000_000, 600_000_000, -20_000_000):
        try:
            outcomes.append("recomputed" if large_plan(size).train.is_checkpointed else "kept")
        except UserError as error:
            outcomes.append("refused" if f"{size / 1e9:.1f} GB of memory" in error.saw and "pin smaller values" in error.fix else str(error))
    assert [outcome for outcome, _ in itertools.groupby(outcomes)] == ["kept", "recomputed", "refused"]


def test_the_terms_of_memory_follow_the_plan():
    price = price_of(model_plan(), "explicit")

    def terms(**changes):
        return memory.memory_of(price, train_plan(**changes), seq_len=20, embedding_params=embedding_params(model_plan(), price))

    usual_terms = terms()
    assert terms(micro_batch=6).activations == pytest.approx(2 * usual_terms.activations, abs=1)
    assert terms(micro_batch=6).logits == 2 * usual_terms.logits
    assert terms(optimizer="adamw").optimizer == 8 * price.num_params > usual_terms.optimizer > 4 * price.num_params
    assert (usual_terms.weights, usual_terms.masters, usual_terms.gradients) == (0, 4 * price.num_params, 4 * price.num_params)
    assert usual_terms.average == usual_terms.masters, "a running mean of all of them"
    halved = terms(dtype="bfloat16")
    assert (halved.weights, halved.masters, halved.gradients) == (2 * price.num_params, 4 * price.num_params, 6 * price.num_params)
    deep = price_of(model_plan(num_layers=12), "explicit")
    recomputed, kept = (memory.memory_of(deep, train_plan(is_checkpointed=is_so), seq_len=20, embedding_params=0) for is_so in (True, False))
    assert recomputed.activations < kept.activations / 2
    assert terms(is_checkpointed=True).logits == usual_terms.logits, "the head is not recomputed"
    assert usual_terms.total == sum(vars(usual_terms).values())


def test_matrices_between_hidden_states_are_all_that_adamw_does_not_keep():
    for changes, tables in (({}, 2 * 97 * 40), ({"is_tied": True}, 97 * 40), ({"lookup": "value"}, 97 * (80 + 16)), ({"lookup": "bigram"}, 7 * 97 * 40)):
        model = model_plan(**changes)
        assert embedding_params(model, price_of(model, "explicit")) == tables + 3 * 2 * 8


@pytest.mark.parametrize("vocab_size", [97, 60_000])
def test_the_largest_micro_batch_is_the_last_that_fits(vocab_size):
    model, train = model_plan(vocab_size=vocab_size, seq_len=512), train_plan()
    price = price_of(model, "explicit")

    def held(size):
        return memory.memory_of(price, train_plan(micro_batch=size), seq_len=512, embedding_params=7).total

    for limit_bytes in (held(1) - 10, held(1), held(7), held(7) + 10, held(8) - 10, held(300), held(4000) - 10):
        size = memory.largest_micro_batch(price, train, seq_len=512, embedding_params=7, limit_bytes=limit_bytes)
        assert held(size) <= limit_bytes + 5 if size else limit_bytes < held(1) + 5
        assert held(size + 1) > limit_bytes - 5


def test_on_a_device_what_the_optimizer_takes_counts_where_it_is_more_than_the_activations():
    price, train = price_of(model_plan(), "sdpa"), train_plan(device="cuda", micro_batch=1)
    few, many = (memory.memory_of(price, train, seq_len=seq_len, embedding_params=0) for seq_len in (1, 2000))
    later = few.activations + few.logits + few.workspace - round(memory.WORKSPACE["cuda"].states * 16 * price.num_params)
    assert later == pytest.approx(12 * price.num_params, abs=2)
    assert many.workspace < many.activations, "the same bytes serve both"
    short_of_one = few.total - few.activations  # where activations alone would decide, half of it would do
    assert memory.largest_micro_batch(price, train, seq_len=1, embedding_params=0, limit_bytes=few.total + 2) > 0
    assert memory.largest_micro_batch(price, train, seq_len=1, embedding_params=0, limit_bytes=short_of_one - 2) == 0


# Peaks of real trainings with the settings of the pipeline, in MB (benchmarks/memory.py; docs/LOG.md).
# From run to run most differ by a few per cent, one by a fifth.
REAL_PEAKS = [
    ({"d_model": 96, "vocab_size": 2048, "seq_len": 128}, 4096, 393),
    ({"d_model": 64, "vocab_size": 1024, "seq_len": 128}, 2048, 334),
    ({"d_model": 192, "vocab_size": 4096, "seq_len": 256}, 4096, 508),
    ({"d_model": 192, "vocab_size": 8192, "seq_len": 512}, 8192, 757),
    ({"d_model": 128, "vocab_size": 16384, "seq_len": 256}, 8192, 706),
]


@pytest.mark.parametrize(("shape", "tokens", "real_mb"), REAL_PEAKS)
def test_peaks_of_real_trainings_are_predicted_within_a_tenth(shape, tokens, real_mb):
    wish = ModelParams(num_layers=2, d_model=shape["d_model"], seq_len=shape["seq_len"])
    model = next(space.models(wish, [shape["vocab_size"]], max_seq_len=shape["seq_len"]))
    train = train_plan(dtype="bfloat16", micro_batch=tokens // model.seq_len, tokens_per_step=tokens)
    price = price_of(model, "explicit")
    estimate = memory.memory_of(price, train, seq_len=model.seq_len, embedding_params=embedding_params(model, price))
    assert estimate.total == pytest.approx(real_mb * 1e6, rel=0.1)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("vocab_size", [2_000, 50_000])
@pytest.mark.parametrize(("changes", "device"), [({"device": "cuda"}, "cuda"), ({"is_compiled": True}, "cuda"), ({}, "cpu")])
def test_logits_are_held_in_the_chunks_of_the_loss(changes, device, vocab_size, dtype):
    """Compiled, a CPU holds as many as a GPU."""
    from pufferfish.model.loss import chunk_tokens
    from pufferfish.train.precision import DTYPES

    price = price_of(model_plan(vocab_size=vocab_size), "explicit")
    for size in (1, 2, 4, 1000):
        terms = memory.memory_of(price, train_plan(micro_batch=size, dtype=dtype, **changes), seq_len=100, embedding_params=0)
        assert terms.logits == memory.LOGIT_BYTES[dtype] * vocab_size * chunk_tokens(100 * size, vocab_size, device, DTYPES[dtype])


REAL_STEP = """
import json, sys, threading, time
import numpy as np
from pufferfish.base.memory import process_memory_bytes
from pufferfish.schema.plan import ModelPlan, TrainPlan
from pufferfish.train.step import Trainer

def watch():
    while not is_done:
        seen.append(process_memory_bytes())
        time.sleep(0.0005)

model, train = ModelPlan.model_validate(json.loads(sys.argv[1])), TrainPlan.model_validate(json.loads(sys.argv[2]))
trainer = Trainer(model, train)
batch = np.random.default_rng(0).integers(0, model.vocab_size, (train.micro_batch, model.seq_len + 1))
trainer.step([batch[:1]], lr_share=1e-3)
before, seen, is_done = process_memory_bytes(), [], False
watcher = threading.Thread(target=watch)
watcher.start()
for _ in range(3):
    trainer.step([batch], lr_share=1e-3)
is_done = True
watcher.join()
print(before, max(seen))
"""


@pytest.mark.parametrize(
    ("dtype", "vocab_size", "micro_batch"),
    [
        ("float32", 2048, 40),
        pytest.param("bfloat16", 2048, 40, marks=pytest.mark.slow),
        pytest.param("float32", 8192, 128, marks=pytest.mark.slow, id="logits in chunks"),
    ],
)
def test_the_estimated_memory_is_that_of_a_real_step_within_a_sixth(dtype, vocab_size, micro_batch):
    shape = {"vocab_size": vocab_size, "num_layers": 4, "d_model": 96, "num_heads": 3, "num_kv_heads": 3, "head_dim": 32, "d_ff": 256, "seq_len": 128}
    model, train = model_plan(**shape), train_plan(dtype=dtype, micro_batch=micro_batch, tokens_per_step=micro_batch * 128)
    arguments = [json.dumps(plan.model_dump()) for plan in (model, train)]
    settings = {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}  # freed memory goes back at once, so that the peak is what is held
    done = subprocess.run([sys.executable, "-c", REAL_STEP, *arguments], env=settings, capture_output=True, text=True, check=True)
    before, peak = map(int, done.stdout.split())
    estimate = memory.memory_of(price_of(model, "explicit"), train, seq_len=128, embedding_params=embedding_params(model, price_of(model, "explicit")))
    assert peak <= estimate.total, "the estimate is never too low"
    held_before = estimate.weights + estimate.masters + estimate.optimizer
    in_use = estimate.total - estimate.process - estimate.average - estimate.workspace  # a step takes no average, and nothing lies idle here
    assert in_use == pytest.approx(peak - before + held_before, rel=1 / 6)
