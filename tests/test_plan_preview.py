"""What `pufferfish plan` tells beyond the plan: what nearly won, where the memory goes, other budgets, other machines."""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import pytest
from machines import MACHINES, Planner, price_of, vocabularies

from pufferfish.base import paths
from pufferfish.base.errors import UserError
from pufferfish.cli import main as cli
from pufferfish.cli import plan as command
from pufferfish.plan import budget, explain
from pufferfish.plan.case import Case, Measuring
from pufferfish.plan.make import decide
from pufferfish.plan.preview import make_preview
from pufferfish.plan.prices import StepTime
from pufferfish.plan.speed import Machine, step_seconds
from pufferfish.probe import probe
from pufferfish.probe.fingerprint import Identity
from pufferfish.schema.hardware import Hardware
from pufferfish.schema.params import Params
from pufferfish.schema.preview import Preview
from pufferfish.train import beside
from pufferfish.ui.preview import TERMS, preview_text

OTHER_MACHINE = Path(__file__).parent / "files" / "gpu_of_4_GB.json"


def case_of(planner, time="3m", **sections):
    params = Params.model_validate({"budget": {"time": time}, "data": {"vocab_size": 2048}, "model": {"seq_len": 256}, **sections})
    return Case(params, planner.hardware, planner.corpus, vocabularies(planner.hardware, params.data.vocab_size), planner.text, price_of)


def preview(machine="server", time="3m", **sections):
    planner = Planner(machine)
    return make_preview(case_of(planner, time, **sections), Measuring(planner.measure, lambda: planner.spent_s))


# --- the runner-up


@pytest.mark.parametrize("time", ["3m", "30m"])
def test_the_runner_up_is_the_best_of_another_shape(time):
    planner = Planner("server")
    selection = decide(case_of(planner, time), Measuring(planner.measure, lambda: planner.spent_s)).selection
    second = explain.runner_up(selection)
    best = selection.best
    others = [candidate for candidate in selection.candidates if candidate.shape != best.shape]
    assert (second.num_layers, second.d_model) != best.shape
    assert second.val_bpb == min(candidate.forecast(selection.text) for candidate in others)


@pytest.mark.parametrize(
    ("size", "pace", "words"),
    [
        (1.5, 3.0, "1.5 times as many parameters, but reads"),
        (0.25, 0.9, "but has 0.25 of the parameters"),
        (0.25, 1.5, "it has 0.25 of the parameters and reads"),
        (1.01, 1.0, "equal within 0.3%, and it has 1 times as many"),
    ],
)
def test_why_it_lost_names_what_decided(size, pace, words):
    planner = Planner("server")
    selection = decide(case_of(planner), Measuring(planner.measure, lambda: planner.spent_s)).selection
    best, text = selection.best, selection.text
    head = best.model.vocab_size * best.model.d_model
    blocks = round(size * (best.price.matmul_params - head))
    price = replace(best.price, num_params=round(size * best.price.num_params), matmul_params=head + blocks)
    other = replace(best, price=price).with_measured(replace(best.measured, step_s=pace * best.step_s))
    assert words in explain.why_it_lost(other, best, text)
    if pace == 1.0:
        assert "not worth the time" in explain.why_it_lost(replace(other, measured=None, predicted_step_s=best.step_s, correction=1.0), best, text)


def test_a_shape_that_is_too_slow_for_enough_steps_says_so_and_nothing_that_is_false():
    planner = Planner("server")
    selection = decide(case_of(planner), Measuring(planner.measure, lambda: planner.spent_s)).selection
    best = selection.best
    large = replace(best, price=replace(best.price, num_params=2 * best.price.num_params))
    slow = large.with_measured(replace(best.measured, step_s=best.loop_s / 50))
    assert explain.why_it_lost(slow, best, selection.text) == "but it is too slow for enough steps"
    assert explain.why_it_lost(replace(slow, learned=0.8), best, selection.text) == "but it is too slow for enough steps"


@pytest.mark.parametrize("machine", ["server", "laptop"])
def test_a_shape_whose_counted_steps_take_too_long_is_no_near_equal(machine):
    shown = preview(machine, train={"num_steps": 500})
    assert shown.runner_up.val_bpb < 0.98 * shown.plan.forecast.val_bpb
    assert shown.runner_up.verdict == "but it is too slow for enough steps"


def test_a_pinned_shape_has_no_runner_up():
    pinned = preview(model={"seq_len": 256, "num_layers": 2, "d_model": 128})
    assert pinned.runner_up is None
    assert "there was no other shape" in preview_text(pinned, MACHINES["server"])


# --- memory


@pytest.mark.parametrize("machine", MACHINES)
def test_the_terms_of_memory_add_up_to_the_planned_peak(machine):
    shown = preview(machine)
    assert list(shown.memory_bytes) == [name for name in TERMS if name != "cache"]
    assert sum(shown.memory_bytes.values()) == shown.plan.forecast.peak_memory_bytes
    assert (shown.memory_bytes["weights"] == 0) == (shown.plan.train.dtype == "float32")


# --- other budgets


def test_half_and_double_the_budget_are_planned_without_measuring_again():
    planner = Planner("server")
    shown = make_preview(case_of(planner), Measuring(planner.measure, lambda: planner.spent_s))
    assert len(planner.measured) == len([c for c in shown.plan.why.candidates if c.measured_step_s])
    half, double = shown.other_budgets
    assert (half.total_s, double.total_s) == (90, 360)
    assert double.forecast.val_bpb < shown.plan.forecast.val_bpb < half.forecast.val_bpb
    assert half.forecast.tokens < shown.plan.forecast.tokens


def test_what_was_measured_is_believed_for_other_budgets():
    forecasts = {}
    for slowness in (1.0, 5.0):
        planner = Planner("server", slowness=slowness)
        forecasts[slowness] = make_preview(case_of(planner), Measuring(planner.measure, lambda planner=planner: planner.spent_s)).other_budgets[1].forecast
    assert forecasts[5.0].flops_per_token * forecasts[5.0].tokens < forecasts[1.0].flops_per_token * forecasts[1.0].tokens / 2
    whole = Planner("server", slowness=5.0).plan("6m", data={"vocab_size": 2048}, model={"seq_len": 256}).forecast
    assert forecasts[5.0].val_bpb == pytest.approx(whole.val_bpb, rel=0.06)  # what a plan for that budget measures, it knows better


def test_a_half_that_is_too_short_is_told_and_no_error():
    half, double = preview("laptop", "50s").other_budgets
    assert "too short" in half.refusal
    assert half.model is half.forecast is None
    assert double.refusal == ""
    assert "too short" in preview_text(preview("laptop", "50s"), MACHINES["laptop"])


def test_other_budgets_train_as_many_counted_steps_with_other_batches_and_models():
    shown = preview(train={"num_steps": 500})
    half, double = shown.other_budgets
    assert (half.total_s, double.total_s) == (90, 360)
    assert half.tokens_per_step <= shown.plan.train.tokens_per_step <= double.tokens_per_step
    assert half.model != shown.plan.model != double.model
    assert [each.forecast.tokens for each in (half, double)] == [500 * each.tokens_per_step for each in (half, double)]
    assert double.forecast.val_bpb < shown.plan.forecast.val_bpb < half.forecast.val_bpb
    text = preview_text(shown, MACHINES["server"])
    assert "1m 30s" in text
    assert "budget          " in text, "what the steps take is not the budget"


def test_the_longest_budget_has_no_double():
    assert [each.total_s for each in preview("H200", "365d").other_budgets] == [365 * 43200]


def test_the_table_has_a_preview_too():
    shown = preview("H200", "1h", plan={"strategy": "table"}, data={}, model={})
    assert shown.runner_up is None
    assert [each.model.num_layers for each in shown.other_budgets] == [12, 30]


# --- another machine


def test_nothing_is_measured_for_another_machine_and_the_text_says_so():
    case = case_of(Planner("gpu of 4 GB"))
    shown = make_preview(case, None)
    assert shown.is_predicted
    assert shown.plan.budget.phases.plan_s == budget.planning_limit_s(180)
    assert all(candidate.measured_step_s == 0 for candidate in shown.plan.why.candidates)
    assert [candidate.verdict for candidate in shown.plan.why.candidates].count("chosen") == 1
    assert any("no step of this configuration was measured" in reason for reason in shown.plan.why.reasons)
    assert "not this one" in preview_text(shown, case.hardware).splitlines()[0]
    to_come = preview_text(shown.model_copy(update={"pilots_to_come": True}), case.hardware)
    assert "pilots are trained on the text" in to_come
    assert "pilots are trained" not in preview_text(shown.model_copy(update={"pilots_to_come": False}), case.hardware)


# --- the text and the command


@pytest.mark.parametrize("machine", MACHINES)
def test_the_text_is_complete_and_not_too_wide(machine):
    text = preview_text(preview(machine), MACHINES[machine])
    assert max(map(len, text.splitlines())) <= 110
    for words in ("Plan for 3m 00s", "forecast", "hardware-probe", "memory", "gradients", "1m 30s", "6m 00s", "runner-up", "chosen", "  Why"):
        assert words in text, words


@pytest.fixture
def measured_place(workplace, monkeypatch):
    """A checkout whose machine is known, whose steps are made up, and where nothing is trained."""
    Path("lines.txt").write_text("".join(f"{number} lines of a text that is made up, {number % 77} and {number % 13}\n" for number in range(9000)))
    sections = {name: {} for name in Params.model_fields}
    sections |= {"data": {"source": "text", "path": "lines.txt"}, "model": {"seq_len": 128, "d_model": 64}, "train": {"compile": False}}
    sections["plan"] = {"pilots": False}
    paths.PARAMS.write_text(json.dumps(sections))
    server = MACHINES["server"]
    monkeypatch.setattr(probe, "identify_here", lambda params: Identity(server.fingerprint, server.usable_memory_bytes, []))
    monkeypatch.setattr(probe, "load_advice", lambda: "")
    probe.keep_speeds(server.fingerprint, server.measured)
    monkeypatch.setattr(command, "ensure_runtime", lambda num_threads: None)

    monkeypatch.setattr(beside, "StepsBeside", MadeUpSteps)
    return workplace


class MadeUpSteps:
    num_ended = 0

    def measure(self, model, train):
        return StepTime(step_seconds(Machine(MACHINES["server"]), price_of(model, train.attention), model, train), 10**9, 0.1)

    def end(self):
        MadeUpSteps.num_ended += 1


def test_the_command_prints_the_text_ends_who_measured_and_writes_no_artifact(measured_place, capsys):
    before = MadeUpSteps.num_ended
    assert cli.main(["plan", "--budget", "2m"]) == 0
    assert MadeUpSteps.num_ended == before + 1
    assert capsys.readouterr().out.startswith("Plan for 2m 00s\n")
    assert not paths.ARTIFACTS.exists()


def test_where_nothing_ran_yet_the_machine_is_measured_once_and_told_so_in_a_line(measured_place, monkeypatch, capsys):
    probe.forget_speeds()
    measured, settings = [], []
    monkeypatch.setattr(command, "ensure_runtime", settings.append)
    monkeypatch.setattr(probe, "measure", lambda fingerprint: measured.append(list(settings)) or MACHINES["server"].measured)
    assert cli.main(["plan", "--json"]) == 0
    said = capsys.readouterr()
    assert Preview.model_validate_json(said.out).plan.hardware == MACHINES["server"].identity
    assert "this machine is measured first" in said.err
    assert len(said.err.splitlines()) == 1
    assert cli.main(["plan", "--json"]) == 0
    assert not capsys.readouterr().err
    assert measured == [[2]], "under the settings of a training"
    assert not paths.ARTIFACTS.exists()


def test_the_text_is_the_one_that_the_settings_name_now(measured_place, capsys):
    cli.main(["plan", "--json"])
    before = Preview.model_validate_json(capsys.readouterr().out).plan.data
    with Path("lines.txt").open("a") as lines:
        lines.write("one more line\n")
    cli.main(["plan", "--json"])
    assert Preview.model_validate_json(capsys.readouterr().out).plan.data.corpus != before.corpus


def test_as_json_it_says_everything(measured_place, capsys):
    assert cli.main(["plan", "--budget", "2m", "--json"]) == 0
    shown = Preview.model_validate_json(capsys.readouterr().out)
    assert shown.plan.budget.total_s == 120
    assert len(shown.other_budgets) == 2
    assert shown.memory_bytes["process"] > 0
    assert not shown.is_predicted


def test_remarks_do_not_spoil_the_json(measured_place, capsys):
    cli.main(["plan", "--json"])
    for path in paths.state().glob("kept/*.json"):
        path.write_text("{")
    capsys.readouterr()
    assert cli.main(["plan", "--json"]) == 0
    said = capsys.readouterr()
    assert Preview.model_validate_json(said.out)
    assert len(said.err.splitlines()) == 2


def test_the_file_of_another_machine_is_planned_for(measured_place, monkeypatch, capsys):
    monkeypatch.setattr(beside, "StepsBeside", lambda: pytest.fail("measured here for a machine that is not here"))
    assert Hardware.load(OTHER_MACHINE) == MACHINES["gpu of 4 GB"]
    assert cli.main(["plan", "--machine", str(OTHER_MACHINE), "--json"]) == 0
    shown = Preview.model_validate_json(capsys.readouterr().out)
    assert shown.is_predicted
    assert shown.plan.hardware == MACHINES["gpu of 4 GB"].identity
    assert (shown.plan.train.device, shown.plan.train.dtype) == ("cuda", "float16")


def test_a_machine_is_planned_for_by_its_data_sheet(measured_place, capsys):
    assert cli.main(["plan", "--machine", "t4", "--budget", "1h", "--json"]) == 0
    shown = Preview.model_validate_json(capsys.readouterr().out)
    assert shown.is_predicted
    assert (shown.plan.train.device, shown.plan.train.dtype) == ("cuda", "float16")


@pytest.mark.parametrize("content", [None, "{}", "no json"])
def test_a_file_that_describes_no_machine_is_refused_with_the_way_to_get_one(measured_place, content):
    if content is not None:
        Path("there.json").write_text(content)
    with pytest.raises(UserError) as error:
        command.run(argparse.Namespace(budget=None, machine="there.json", json=False))
    assert "there.json" in error.value.what
    assert "on that machine" in error.value.fix
