"""A second plan costs next to nothing and prepares the same data: surveys and steps are kept by machine, text and code."""

import json
import random
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from machines import MACHINES, price_of

from pufferfish.base import memo
from pufferfish.base.errors import UserError
from pufferfish.data.corpus import inspect_corpus
from pufferfish.plan.prices import StepTime
from pufferfish.plan.speed import Machine, step_seconds
from pufferfish.schema.params import Params
from pufferfish.train import known, planning
from pufferfish.train.known import KnownSteps


class Workshop:
    """`plan_here` with real text and made-up steps, which counts what it found out."""

    def __init__(self, monkeypatch, machine="server"):
        self.hardware, self.surveys, self.num_ended, self.measured, self.said = MACHINES[machine], 0, 0, [], []
        self.real_survey, self.spent_s = known.survey, 1.0
        monkeypatch.setattr(known, "survey", self.survey)

    def survey(self, *arguments):
        """Takes another time whenever it is called."""
        self.surveys += 1
        found = self.real_survey(*arguments)
        return replace(
            found, vocabularies=[replace(each, train_tokenizer_s=0.2 * self.surveys, encode_s_per_mb=0.1 * self.surveys) for each in found.vocabularies]
        )

    def measure(self, model, train):
        self.measured.append((model, train))
        self.spent_s += 0.5
        slowness = 1.2 + 0.01 * len(self.measured)
        return StepTime(slowness * step_seconds(Machine(self.hardware), price_of(model, train.attention), model, train), 10**9, 0.3)

    def end(self):
        self.num_ended += 1

    def plan(self, *, hardware=None, **sections):
        self.spent_s = 1.0
        wishes = {"data": {"source": "text", "path": "lines.txt", "vocab_size": 512}, "model": {"seq_len": 128, "d_model": 64}}
        params = Params.model_validate({"plan": {"pilots": False}, **wishes, **sections, "train": {"compile": False, **sections.get("train", {})}})
        corpus = inspect_corpus(params.data)
        return planning.plan_here(params, hardware or self.hardware, corpus, steps=self, spent_s=lambda: self.spent_s, tell=self.said.append)


def write_lines(seed=0):
    source = random.Random(seed)
    words = ["".join(source.choices("abcdefghij", k=source.randint(2, 7))) for _ in range(900)]
    Path("lines.txt").write_text("".join(" ".join(source.choices(words, k=13)) + "\n" for _ in range(3000)), "utf-8")


@pytest.fixture
def workshop(workplace, monkeypatch):
    write_lines()
    return Workshop(monkeypatch)


def test_a_second_plan_finds_nothing_out_again_and_is_the_same(workshop):
    first = workshop.plan()
    done = workshop.surveys, len(workshop.measured)
    second = workshop.plan()
    assert (workshop.surveys, len(workshop.measured)) == done
    number = len({(model.model_dump_json(), train.model_dump_json()) for model, train in workshop.measured})
    assert workshop.surveys == 1 <= number
    assert (second.data, second.model) == (first.data, first.model)
    assert first.why.candidates[0].verdict == "chosen"
    assert first.why.candidates[0].measured_step_s == first.forecast.step_s
    assert second.forecast.step_s == pytest.approx(first.forecast.step_s)
    assert second.budget.phases.plan_s < first.budget.phases.plan_s
    assert any(f"{number} of them earlier" in reason for reason in second.why.reasons)
    assert not any("earlier" in reason for reason in first.why.reasons)
    assert workshop.said == []


def test_another_optimizer_measures_its_steps_and_prepares_the_same_data(workshop):
    first = workshop.plan(train={"optimizer": "muon"})
    second = workshop.plan(train={"optimizer": "adamw"})
    assert workshop.surveys == 1
    assert {train.optimizer for _, train in workshop.measured} == {"muon", "adamw"}
    assert second.data == first.data


def test_wishes_that_do_not_change_the_pace_measure_nothing_again(workshop):
    workshop.plan()
    num_measured = len(workshop.measured)
    workshop.plan(train={"learning_rate": 0.004, "seed": 3, "warmup_share": 0.1, "weight_decay": 0.3})
    assert len(workshop.measured) == num_measured


def test_another_budget_measures_only_what_is_new_to_it(workshop):
    workshop.plan(budget={"time": "3m"})
    measured, workshop.measured = set(workshop.measured), []
    workshop.plan(budget={"time": "10m"})
    assert workshop.surveys == 1
    assert measured.isdisjoint(workshop.measured)


def test_what_is_measured_several_times_is_kept_with_all_of_it(workshop):
    workshop.plan()
    of = workshop.measured[0]
    again = KnownSteps(workshop.hardware, workshop, tell=pytest.fail).measure_again(*of)
    step = KnownSteps(workshop.hardware, workshop, tell=pytest.fail).measure(*of)
    assert step == replace(again, is_kept=True)
    assert len(step.takes_s) == 2
    assert min(step.takes_s) < step.step_s == statistics.geometric_mean(step.takes_s) < max(step.takes_s)


def test_memory_that_runs_out_the_second_time_changes_nothing_of_what_is_known(workshop, monkeypatch):
    workshop.plan()
    of = workshop.measured[0]
    kept = KnownSteps(workshop.hardware, workshop, tell=pytest.fail)
    before = kept.measure(*of)
    monkeypatch.setattr(workshop, "measure", lambda model, train: StepTime(0.0, 0, 0.1, fits=False))
    assert not kept.measure_again(*of).fits
    assert kept.measure(*of) == before


def test_another_text_machine_or_code_is_found_out_anew(workshop, monkeypatch):
    workshop.plan()
    workshop.plan(hardware=MACHINES["laptop"])
    assert workshop.surveys == 2
    write_lines(seed=1)
    workshop.plan()
    assert workshop.surveys == 3
    num_measured = len(workshop.measured)
    monkeypatch.setattr(memo, "digest_code", lambda *rooms: "other code")
    workshop.plan()
    assert workshop.surveys == 4
    assert len(workshop.measured) > num_measured


def test_damaged_answers_are_told_in_a_line_each_and_written_anew(workshop):
    workshop.plan()
    for path in memo.folder().glob("*.json"):
        content = json.loads(path.read_text("utf-8"))
        path.write_text(json.dumps({**content, "answer": [{"of": []}]}), "utf-8")
    second = workshop.plan()
    assert len(workshop.said) == 2
    assert workshop.surveys == 2
    assert workshop.plan().model == second.model
    assert len(workshop.said) == 2


def test_where_every_step_is_known_torch_is_not_needed():
    code = "import sys, pufferfish.train.planning; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True)
    assert "torch" not in done.stdout.split()


def test_memory_that_ran_out_is_not_kept(workshop, monkeypatch):
    with monkeypatch.context() as full:
        full.setattr(workshop, "measure", lambda model, train: StepTime(0.0, 0, 0.1, fits=False))
        with pytest.raises(UserError, match="no model fits into memory"):
            workshop.plan()
    workshop.plan()
    assert workshop.measured


def test_steps_are_measured_nowhere_else_when_a_pilot_begins(workshop, monkeypatch):
    """Their process holds memory, and perhaps a device that only one process may use."""
    from pufferfish.train import pilot

    monkeypatch.setattr(pilot, "read_text", lambda *_: workshop.num_ended)
    monkeypatch.setattr(pilot, "run_pilot", lambda text, *_, **__: text)
    run = planning._open_pilots(workshop, None, 1000, tell=pytest.fail)
    assert run(None, None, 1.0) == 1, "ended before the text was read"
