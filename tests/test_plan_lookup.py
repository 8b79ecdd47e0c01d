"""A table of values is planned only where it need not be portable and the text is not read too often."""

import re

import pytest
from machines import Planner

from pufferfish.plan import scaling
from pufferfish.plan.lookup import MOST_EPOCHS

FREE = {"portable": False}
NARROW = {"num_layers": 2, "d_model": 64, "seq_len": 256}  # so small that it may read a text often
WIDE = {"num_layers": 4, "d_model": 256, "seq_len": 256}  # so large that it learns a small text by heart
SHAPE = {"num_layers": 2, "d_model": 128, "seq_len": 256}
GAINS = {"none": 0.0, "value": 0.027, "bigram": 0.0}
SMALL = {"data": {"vocab_size": 1024}, "train": {"compile": False}}


def reasons(plan):
    return [reason for reason in plan.why.reasons if "looked up" in reason]


@pytest.mark.parametrize("strategy", ["measured", "table"])
def test_what_must_be_portable_looks_nothing_up(strategy):
    plan = Planner("server").plan(**SMALL, plan={"strategy": strategy})
    assert plan.model.lookup == "none"
    assert not reasons(plan)


@pytest.mark.parametrize(("num_bytes", "lookup"), [(1_000_000_000, "value"), (2_000_000, "none")])
@pytest.mark.parametrize("machine", ["laptop", "server"])
def test_a_text_that_is_read_more_than_four_times_gets_no_table(machine, num_bytes, lookup):
    plan = Planner(machine, num_bytes=num_bytes).plan("10m", **SMALL, model=FREE | NARROW)
    assert plan.model.lookup == lookup
    has_time_for_more = plan.forecast.epochs > MOST_EPOCHS or plan.budget.unused_s > 0
    assert has_time_for_more == (lookup == "none")
    [reason] = reasons(plan)
    assert f"this one is read {plan.forecast.epochs:.1f} times" in reason or plan.budget.unused_s > 0
    assert ("comes with code" in reason) == (lookup == "value")


def test_every_budget_keeps_the_rule():
    plans = [Planner("server", num_bytes=40_000_000).plan(f"{minutes}m", **SMALL, model=FREE | NARROW) for minutes in (1, 2, 3, 4, 5, 6, 8, 10, 15, 30)]
    assert {plan.model.lookup for plan in plans} == {"value", "none"}
    assert all((plan.forecast.epochs <= MOST_EPOCHS) == (plan.model.lookup == "value") for plan in plans)


def test_what_counts_is_how_often_there_is_time_to_read_a_text_and_not_where_reading_is_capped():
    plan = Planner("server", num_bytes=1_500_000).plan("30m", **SMALL, model=FREE | WIDE)
    assert plan.budget.unused_s > 0
    assert plan.model.lookup == "none"
    (reason,) = reasons(plan)
    times = float(
        re.fullmatch(r"nothing is looked up: that pays where a text is read 4 times at most, and there is time to read this one (\S+) times", reason)[1]
    )
    assert times > plan.forecast.epochs + 1


def test_counted_steps_that_read_a_text_once_keep_the_table_however_much_time_there_is():
    counted = SMALL | {"train": {"compile": False, "num_steps": 500, "tokens_per_step": 2048}}
    plan = Planner("server", num_bytes=5_000_000).plan("30m", **counted, model=FREE | WIDE)
    assert plan.model.lookup == "value"
    assert reasons(plan)[0].endswith(f"this one is read {plan.forecast.epochs:.1f} times")


def test_without_its_table_the_same_model_is_planned():
    free, pinned = (Planner("server", num_bytes=2_000_000).plan("10m", **SMALL, model=FREE | NARROW | wish) for wish in ({}, {"lookup": "value"}))
    assert free.model == pinned.model.model_copy(update={"lookup": "none"})
    assert free.train.tokens_per_step == pinned.train.tokens_per_step
    assert pinned.forecast.num_params - free.forecast.num_params == 1024 * pinned.model.num_kv_heads * pinned.model.head_dim
    assert free.forecast.peak_memory_bytes < pinned.forecast.peak_memory_bytes
    assert free.forecast.step_s <= pinned.forecast.step_s
    assert [each.verdict for each in free.why.candidates].count("chosen") == 1
    assert any("pace is predicted" in reason for reason in free.why.reasons)


def test_the_measured_gain_of_a_table_is_in_the_forecast():
    forecasts = {lookup: Planner("server", num_bytes=100_000_000).plan("10m", **SMALL, model=FREE | SHAPE | {"lookup": lookup}).forecast for lookup in GAINS}
    none = forecasts["none"]
    for lookup, gain in GAINS.items():
        same_tokens = (none.tokens / forecasts[lookup].tokens) ** 0.2  # the table takes a little of the time
        assert forecasts[lookup].val_bpb == pytest.approx((1 - gain) * none.val_bpb * same_tokens, rel=0.002), lookup
    assert scaling.LOOKUP_GAIN == GAINS


def test_where_the_table_is_dropped_nothing_promises_its_gain():
    plan = Planner("server", num_bytes=2_000_000).plan("10m", **SMALL, model=FREE | NARROW)
    plain = Planner("server", num_bytes=2_000_000).plan("10m", **SMALL, model=NARROW)
    assert plan.forecast.val_bpb == pytest.approx(plain.forecast.val_bpb, rel=0.006)  # the best with a table may be another shape than without
    assert min(each.val_bpb for each in plan.why.candidates) == pytest.approx(min(each.val_bpb for each in plain.why.candidates), rel=0.003)
    assert {each.num_params for each in plan.why.candidates} <= {each.num_params for each in plain.why.candidates}


@pytest.mark.parametrize("lookup", ["none", "value", "bigram"])
@pytest.mark.parametrize("num_bytes", [100_000_000, 2_000_000])
def test_a_pinned_lookup_is_kept_however_often_the_text_is_read(lookup, num_bytes):
    plan = Planner("server", num_bytes=num_bytes).plan("10m", **SMALL, model=FREE | {"lookup": lookup})
    assert plan.model.lookup == lookup
    assert not reasons(plan)
