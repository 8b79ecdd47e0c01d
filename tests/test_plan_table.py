"""The classic time table: training hours name the model, pins still win, and what cannot work is refused with the way out."""

import pytest
from machines import BYTES_PER_TOKEN, MACHINES, Planner, price_of, vocabularies

from pufferfish.base.errors import UserError
from pufferfish.plan import make, recipe, table
from pufferfish.plan.case import Case, Measuring
from pufferfish.plan.make import decide
from pufferfish.plan.prices import StepTime
from pufferfish.plan.table import TABLE, row_for
from pufferfish.schema import params
from pufferfish.schema.params import Params

TEXT_BYTES = 0.95 * 11_000_000
ROWS = [  # hours of training between, a budget that leaves so many, then what the table says
    (0, 0.01, "60s", 1, 64, 4, 4, None),
    (0.01, 0.1, "2m", 4, 256, 8, 8, 0.05),
    (0.1, 0.5, "20m", 12, 512, 8, 8, 0.10),
    (0.5, 1, "50m", 20, 768, 12, 4, 0.20),
    (1, 3, "2h", 30, 768, 16, 4, 0.30),
    (3, 6, "5h", 30, 768, 16, 4, 0.50),
    (6, 12, "10h", 30, 768, 16, 4, 0.70),
    (12, 10**6, "24h", 30, 768, 16, 4, 0.90),
]


def plan(machine="H200", time="1h", **sections):
    return Planner(machine).plan(time, plan={"strategy": "table"}, **sections)


def refusal(machine, time, **sections):
    with pytest.raises(UserError) as error:
        plan(machine, time, **sections)
    return error.value


@pytest.mark.parametrize("expected", ROWS, ids=lambda row: row[2])
def test_the_hours_of_training_name_shape_heads_and_data(expected):
    first, last, time, num_layers, d_model, num_heads, num_kv_heads, share = expected
    planned = plan(time=time)
    assert first <= planned.budget.phases.train_s / 3600 < last, "the test means another row"
    model = planned.model
    assert (model.num_layers, model.d_model, model.num_heads, model.num_kv_heads) == (num_layers, d_model, num_heads, num_kv_heads)
    wanted = int(share * TEXT_BYTES) if share else table.NUM_SAMPLES * 256 * BYTES_PER_TOKEN[4096]
    assert planned.data.train_bytes == pytest.approx(wanted, abs=1)


def test_a_row_begins_where_the_last_one_ends():
    for number, (first, last, *_) in enumerate(ROWS):
        assert row_for(3600 * first) is row_for(3600 * last - 1e-6) is TABLE[number]


def test_every_strategy_that_can_be_wished_for_is_there():
    assert tuple(make.STRATEGIES) == params.STRATEGIES


def test_the_recipe_is_the_same_for_every_row():
    for time in ("60s", "3m", "1h", "12h"):
        planned = plan(time=time)
        train = planned.train
        assert (planned.model.vocab_size, planned.model.seq_len, train.tokens_per_step) == (4096, 256, 16_384)
        assert planned.data.vocab_size == 4096
        assert train.clock == "deadline"
        assert not train.is_compiled
        of_its_batch = recipe.rate_for_batch(train.tokens_per_step, num_sequences=64, tokens=train.num_steps * train.tokens_per_step)
        assert train.matrix_lr == recipe.MATRIX_LR * min(1.0, of_its_batch)


def test_a_small_text_gets_the_largest_vocabulary_that_it_fills():
    planner = Planner("server")
    wishes = Params.model_validate({"budget": {"time": "3m"}, "plan": {"strategy": "table"}})
    known = [each for each in vocabularies(planner.hardware) if each.vocab_size <= 1024]
    case = Case(wishes, planner.hardware, planner.corpus, known, planner.text, price_of)
    assert decide(case, Measuring(planner.measure, lambda: 1.0)).plan.data.vocab_size == 1024


def test_a_single_configuration_is_measured_and_shown_as_chosen():
    planner = Planner("server")
    planned = planner.plan("1h", plan={"strategy": "table"})
    assert len(planner.measured) == 1
    assert [candidate.verdict for candidate in planned.why.candidates] == ["chosen"]
    assert planned.why.candidates[0].measured_step_s == planned.forecast.step_s
    assert "classic table" in planned.why.reasons[0]
    assert any("conventional number" in reason for reason in planned.why.reasons)


def test_nothing_is_measured_where_that_would_take_more_than_planning_may():
    planner = Planner("laptop")
    planned = planner.plan("1h", plan={"strategy": "table"})
    assert planner.measured == []
    assert planned.why.candidates[0].measured_step_s == 0
    assert any("pace is predicted" in reason for reason in planned.why.reasons)
    assert planned.budget.phases.plan_s < 3


@pytest.mark.parametrize("machine", MACHINES)
def test_the_phases_use_up_the_budget(machine):
    phases = plan(machine, "3m").budget.phases.model_dump()
    assert sum(phases.values()) == pytest.approx(180)
    assert all(phase > 0 for phase in phases.values())


PINS = {
    "num_layers": 7, "d_model": 320, "num_heads": 16, "num_kv_heads": 2, "d_ff": 333, "seq_len": 192, "is_tied": True, "has_qk_norm": False
}  # fmt: skip


@pytest.mark.parametrize("name", PINS)
def test_each_pinned_value_of_the_model_wins(name):
    planned = plan(model={name: PINS[name]})
    assert getattr(planned.model, name) == PINS[name]
    assert planned.model.head_dim * planned.model.num_heads == planned.model.d_model
    assert planned.train.tokens_per_step % planned.model.seq_len == 0
    assert planned.model.num_layers == (7 if name == "num_layers" else 20)
    assert name in planned.why.reasons[0]


def test_pinned_values_of_data_and_training_win():
    planned = plan(data={"vocab_size": 8192}, train={"tokens_per_step": 4096, "micro_batch": 8, "learning_rate": 0.003, "dtype": "float32", "compile": True})
    assert planned.model.vocab_size == planned.data.vocab_size == 8192
    assert (planned.train.tokens_per_step, planned.train.micro_batch, planned.train.matrix_lr) == (4096, 8, 0.003)
    assert (planned.train.dtype, planned.train.is_compiled) == ("float32", True)
    assert plan(train={"micro_batch": 24}).train.tokens_per_step % (24 * 256) == 0
    counted = plan("server", "3m", train={"num_steps": 5000})
    assert (counted.train.clock, counted.train.num_steps) == ("steps", 5000)
    assert "is not kept" in counted.why.reasons[-1]


def test_a_model_that_does_not_fit_into_memory_names_the_other_strategy():
    error = refusal("gpu of 4 GB", "12h")
    assert "does not fit into memory" in error.what
    assert "30 layers x 768" in error.saw
    assert "4.0 GB" in error.saw
    assert "plan.strategy: measured" in error.fix


def test_memory_that_runs_out_when_a_step_is_measured_is_told_in_the_same_way(monkeypatch):
    planner = Planner("server")
    planner.measure = lambda model, train: StepTime(0.0, 0, 0.1, fits=False)
    with pytest.raises(UserError, match="does not fit into memory"):
        planner.plan("1h", plan={"strategy": "table"})


def test_a_model_too_slow_for_a_single_step_names_the_other_strategy():
    with pytest.raises(UserError) as error:
        Planner("laptop").plan("1h", plan={"strategy": "table"}, train={"tokens_per_step": 2**19})
    assert "too slow for a single step" in error.value.what
    assert "plan.strategy: measured" in error.value.fix
    largest = int(error.value.fix.split("at most ")[1].split(",")[0])
    assert Planner("laptop").plan("1h", plan={"strategy": "table"}, train={"tokens_per_step": largest}).train.num_steps >= 1


def test_a_step_that_is_no_whole_sequences_names_the_nearest_that_is():
    assert "train.tokens_per_step: 1024" in refusal("server", "3m", train={"tokens_per_step": 1000}).fix


def test_a_budget_that_is_too_short_is_refused_as_always():
    assert "too short" in refusal("laptop", "20s").what


def test_no_more_text_is_taken_than_can_be_encoded_in_time():
    planned = Planner("server", num_bytes=10**11).plan("1h", plan={"strategy": "table"})
    assert planned.data.train_bytes < 10**9
    assert "20% of the text, or as much as can be encoded (" in planned.why.reasons[0]
    assert sum(planned.budget.phases.model_dump().values()) == pytest.approx(3600)
