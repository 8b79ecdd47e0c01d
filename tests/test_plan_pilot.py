"""Pilots correct the law: by how much, for whom, and only where planning has the time; then a real one, and what stops it."""

import json
import math
import random
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from machines import BYTES_PER_TOKEN, SMALL, Planner, corpus, price_of, vocabularies
from toys import model_plan, train_plan

from pufferfish.base import memo
from pufferfish.data.corpus import inspect_corpus
from pufferfish.plan import candidate, pilot, scaling
from pufferfish.plan.case import Case, Measuring
from pufferfish.plan.make import decide
from pufferfish.plan.preview import make_preview
from pufferfish.plan.prices import Pilot
from pufferfish.plan.scaling import Experience, experience
from pufferfish.schema.params import DataParams, Params
from pufferfish.schema.plan import DataPlan
from pufferfish.train import pilot as running
from pufferfish.train.known_pilots import KnownPilots

READING_S = 2.0


class Place:
    """A made-up machine and text on which pilots reach what `error` says of the model, over the law's forecast."""

    def __init__(self, error=lambda model: 0.0, *, kept=(), reading_s=READING_S, **wishes):
        self.planner, self.error, self.reading_s = Planner("H200", num_bytes=10**10), error, reading_s
        self.kept, self.wishes = kept, {**SMALL, "train": {"compile": False}, **wishes}
        self.opened, self.flown = [], []

    def open(self, data, sample_bytes):
        self.planner.spent_s += self.reading_s
        self.opened.append((data, sample_bytes))
        return self.run

    def run(self, model, train, limit_s):
        self.planner.spent_s += limit_s
        self.flown.append((model, train, limit_s))
        return made(self.case("10m"), model, self.error(model), num_steps=train.num_steps, tokens_per_step=train.tokens_per_step, limit_s=limit_s)

    def case(self, time):
        params = Params.model_validate({"budget": {"time": time}, **self.wishes})
        planner = self.planner
        found = vocabularies(planner.hardware, params.data.vocab_size)
        return Case(params, planner.hardware, planner.corpus, found, planner.text, price_of, pilots=self.kept)

    def measuring(self):
        self.planner.spent_s = 1.5
        return Measuring(self.planner.measure, lambda: self.planner.spent_s, open_pilots=self.open)

    def decide(self, time="20m"):
        return decide(self.case(time), self.measuring())


def made(case, model, error, *, num_steps=400, tokens_per_step=1024, limit_s=10.0):
    """A pilot that is off the law by this error."""
    short = Pilot(model, tokens_per_step, num_steps, BYTES_PER_TOKEN[model.vocab_size], 2e6, limit_s, val_bpb=1.0)
    return replace(short, val_bpb=math.exp(error - pilot.log_error(case, short)))


# --- arithmetic


def test_pilots_and_trainings_correct_the_law_as_bayes_says():
    trainings, pilots = [0.03, 0.05], [0.10, 0.06]
    precisions = [1 / scaling.OFFSET_SPREAD**2, 2 / scaling.SPREAD**2, 1 / scaling.PILOT_SPREAD**2]
    offset = (precisions[1] * 0.04 + precisions[2] * 0.08) / sum(precisions)
    after = experience(trainings).with_pilots(pilots)
    assert after.correction == pytest.approx(math.exp(offset))
    assert after.spread == pytest.approx(math.sqrt(scaling.SPREAD**2 + 1 / sum(precisions)))
    assert after.num_outcomes == 2


def test_a_pilot_says_less_than_a_training_and_more_than_nothing():
    assert 1 < Experience().with_pilots([0.05]).correction < experience([0.05]).correction
    assert experience([0.05]).spread < Experience().with_pilots([0.05]).spread < Experience().spread


def test_what_a_pilot_is_off_is_measured_against_its_own_tokens_batch_and_text():
    case = Place().case("10m")
    model = model_plan(vocab_size=2048, d_model=128)
    for num_steps, tokens_per_step in ((300, 512), (900, 4096)):
        flown = made(case, model, 0.07, num_steps=num_steps, tokens_per_step=tokens_per_step)
        assert pilot.log_error(case, flown) == pytest.approx(0.07)


def test_the_shapes_near_to_a_pilot_share_its_deviation_and_far_ones_do_not():
    selection = Place().decide().selection
    case, best = Place().case("10m"), selection.best
    far = best.model.model_copy(update={"num_layers": 12 * best.model.num_layers})
    [near] = [each for each in selection.candidates if each is best]
    other = replace(best, model=far)
    third = replace(best, model=best.model.model_copy(update={"d_model": 20 * best.model.d_model}))
    text, [near, other, third] = pilot.learn(case, [[made(case, best.model, 0.01), made(case, far, 0.05)]], [near, other, third])
    assert near.learned == pytest.approx(math.exp(-0.02 * pilot.CARRIED))
    assert other.learned == pytest.approx(math.exp(0.02 * pilot.CARRIED))
    assert third.learned == pytest.approx(1.0, abs=1e-4)
    wanted = case.text.experience.with_pilots([0.01, 0.05])
    assert (text.experience.correction, text.experience.spread) == pytest.approx((wanted.correction, wanted.spread))


def test_only_pilots_of_the_same_plan_are_compared():
    case, best = Place().case("10m"), Place().decide().selection.best
    _, [candidate] = pilot.learn(case, [[made(case, best.model, 0.01)], [made(case, best.model, 0.08)]], [best])
    assert candidate.learned == 1.0


def test_a_later_rung_says_what_differs_between_its_own_and_not_from_those_that_had_less_time():
    case, best = Place().case("10m"), Place().decide().selection.best
    other, third = (best.model.model_copy(update={"d_model": factor * best.model.d_model}) for factor in (20, 400))
    first = [made(case, model, error) for model, error in ((best.model, 0.01), (other, 0.03), (third, 0.08))]
    later = [made(case, best.model, 0.06, limit_s=20.0), made(case, other, 0.04, limit_s=20.0)]
    candidates = [replace(best, model=model) for model in (best.model, other, third)]
    text, learned = pilot.learn(case, [[*first, *later]], candidates)
    assert [math.log(each.learned) / pilot.CARRIED for each in learned] == pytest.approx(
        [-0.01, -0.03, 0.04], abs=1e-6
    )  # the mean of the first two stays -0.02
    assert text.experience.correction == pytest.approx(case.text.experience.with_pilots([0.06, 0.04, 0.08]).correction)


# --- which, and when


@pytest.mark.parametrize("time", ["60s", "3m"])
def test_short_budgets_have_no_pilots(time):
    place = Place()
    selection = place.decide(time).selection
    assert place.opened == []
    assert not any(selection.pilots)
    assert selection.text == place.case(time).text


def test_text_that_takes_too_long_to_read_leaves_no_pilot():
    place = Place(reading_s=120.0)
    place.decide()
    assert (len(place.opened), place.flown) == (1, [])


def test_no_text_is_read_where_no_pilot_would_get_enough_steps():
    place = Place()
    place.planner.slowness = 8.0
    place.decide()
    assert (place.opened, place.flown) == ([], [])


def test_one_that_would_get_too_few_steps_leaves_its_place_to_another():
    place = Place()
    case, best = place.case("20m"), place.decide().selection.best
    slow, other = (replace(best, model=best.model.model_copy(update={"seq_len": seq_len})) for seq_len in (512, 1024))
    picks = [best, replace(slow, correction=1e4 * slow.correction), other]
    wanted, limit_s = pilot.divided(case, case.situation(plan_s=2.0), picks, 30.0)
    assert [model for model, _ in wanted] == [best.model, other.model]
    assert limit_s == pytest.approx(15.0)


@pytest.mark.parametrize("time", ["20m", "30m", "2h"])
def test_pilots_stay_within_the_share_of_planning(time):
    place = Place()
    decision = place.decide(time)
    assert 1 <= len(place.flown) <= pilot.MOST + pilot.MOST // 2
    assert decision.plan.budget.phases.plan_s <= place.case(time).planning_limit_s
    longest_s = 2 * max(pilot.LONGEST_S, pilot.LONGEST_SHARE * place.case(time).total_s)
    assert all(pilot.SHORTEST_S <= limit_s <= longest_s for _, _, limit_s in place.flown)


def test_the_better_half_has_twice_the_time_once_more():
    def error(model):
        return 0.0 if (model.num_layers, model.d_model) in better else 0.2

    better = set()
    place = Place(error)
    place.decide("12h")
    first = [(model, limit_s) for model, _, limit_s in place.flown[: pilot.MOST]]
    better = {(model.num_layers, model.d_model) for model, _ in first[1::2]}
    place = Place(error)
    decision = place.decide("12h")
    [*short, one, two] = [(model, limit_s) for model, _, limit_s in place.flown]
    assert short == first
    assert {limit_s for _, limit_s in short} == {240.0}
    assert {one[1], two[1]} == {480.0}
    assert {(model.num_layers, model.d_model) for model, _ in (one, two)} == better
    assert decision.plan.budget.phases.plan_s <= place.case("12h").planning_limit_s
    before, after = (train.num_steps * train.tokens_per_step for model, train, _ in place.flown if model == two[0])
    assert after > 1.5 * before


def test_pilots_read_no_small_text_more_often_than_without_replaced_inputs():
    place = Place()
    best, case = place.decide().selection.best, place.case("12h")
    assert [pilot.longest_s(case, [best], num) for num in (4, 3, 2)] == [240.0, 320.0, 480.0]
    tokens_per_s = best.train.tokens_per_step / best.step_s
    for limit_s in (60.0, 2.0):
        unique_bytes = pilot.STEPS_SHARE * limit_s * tokens_per_s * best.vocabulary.bytes_per_token / scaling.NOISE_EPOCHS
        small = replace(case, all_text=replace(case.all_text, unique_bytes=unique_bytes))
        assert pilot.longest_s(small, [best]) == pytest.approx(limit_s)
    assert pilot.divided(small, small.situation(plan_s=10.0), [best, best], 100.0) == ([], 0.0)


def test_pilots_differ_have_the_same_time_and_text_and_follow_the_recipe():
    place = Place()
    place.decide("20m")
    models, trains, limits = zip(*place.flown, strict=True)
    assert len(set(limits)) == len({train.eval_tokens for train in trains}) == 1
    assert len(models) > 1
    for number, model in enumerate(models):
        assert all(pilot.distance(model, other) > pilot.APART for other in models[:number])
    for train in trains:
        assert (train.clock, train.is_compiled) == ("deadline", False)
        assert 0.2 < train.tokens_per_step / scaling.best_tokens_per_step(train.num_steps * train.tokens_per_step) < 10
        assert train.num_steps >= candidate.FEWEST_STEPS


def test_nobody_teaches_pilots_even_where_a_teacher_is_pinned():
    place = Place(train={"teacher_share": 0.5})
    assert place.decide("30m").plan.train.teacher_share == 0.5
    assert place.flown
    assert {train.teacher_share for _, train, _ in place.flown} == {0.0}


def test_pilots_take_what_is_pinned():
    place = Place(model={"num_layers": 2, "d_model": 128}, train={"compile": False, "tokens_per_step": 1024, "num_steps": 3000})
    assert place.decide().plan.train.num_steps == 3000
    assert len(place.flown) > 1
    for model, train, _ in place.flown:
        assert (model.num_layers, model.d_model, train.tokens_per_step) == (2, 128, 1024)
        assert train.clock == "deadline"
        assert train.num_steps != 3000


def test_a_single_pilot_which_could_change_nothing_is_not_flown():
    place = Place(model={"num_layers": 2, "d_model": 128, "seq_len": 256}, train={"compile": False})
    place.decide()
    assert not place.flown


def test_a_pilot_that_takes_too_long_is_the_last():
    place = Place()
    real = place.run

    def slow(*order):
        place.planner.spent_s += 200
        return real(*order)

    place.run = slow
    place.decide("30m")
    assert len(place.flown) == 1


# --- what they change


def test_a_pilot_that_favours_another_candidate_changes_the_choice_and_says_so():
    free = {"model": {}}  # with pinned contexts no other is near enough
    law = Place(**free).decide("30m").plan
    place = Place(error=lambda model: 0.08 if model == law.model else 0.0, **free)
    decision = place.decide("30m")
    assert decision.plan.model != law.model
    told = " ".join(decision.plan.why.reasons)
    assert f"{len(place.flown)} pilots" in told
    assert f"the choice would have been {law.model.num_layers} x {law.model.d_model}" in told
    assert "the choice is the same" in " ".join(Place(**free).decide("30m").plan.why.reasons)


def test_pilots_move_the_forecast_and_narrow_its_interval():
    law, higher = Place(plan={"pilots": False}).decide("30m").plan.forecast, Place(error=lambda model: 0.1).decide("30m").plan.forecast
    assert higher.val_bpb > 1.04 * law.val_bpb
    assert higher.val_bpb_high / higher.val_bpb_low < 1.2
    assert higher.correction == pytest.approx(Experience().with_pilots([0.1]).correction)


def test_pilots_that_come_to_nothing_change_nothing():
    place = Place()
    place.run = lambda *order: None
    plan = place.decide().plan
    assert plan.forecast.correction == 1.0
    assert not any("pilot" in reason for reason in plan.why.reasons)


def test_what_was_flown_for_one_budget_holds_for_the_half_and_the_double():
    place = Place(error=lambda model: 0.1)
    shown = make_preview(place.case("10m"), place.measuring())
    assert all(each.forecast.correction == pytest.approx(shown.plan.forecast.correction, rel=0.01) for each in shown.other_budgets)


def test_a_look_that_flies_no_pilots_says_that_they_are_to_come():
    def to_come(time, **wishes):
        place = Place(**wishes)
        return make_preview(place.case(time), replace(place.measuring(), open_pilots=None)).pilots_to_come

    assert [to_come(time) for time in ("60s", "20m")] == [False, True]
    assert not to_come("20m", plan={"pilots": False})
    assert not to_come("20m", kept=Place().decide().selection.pilots)


def test_kept_pilots_count_where_nothing_is_measured():
    flown = Place(error=lambda model: 0.1)
    pilots = flown.decide().selection.pilots
    assert decide(Place(kept=pilots).case("60s"), None).plan.forecast.correction == pytest.approx(Experience().with_pilots([0.1]).correction, rel=0.01)


# --- kept


def keeping(said, **sections):
    params = Params.model_validate({"budget": {"time": "10m"}, **sections})
    return KnownPilots(params, Planner("server").hardware, corpus(), tell=said.append)


def test_pilots_are_kept_for_the_same_text_and_a_plan_like_theirs_has_no_more(workplace):
    said, case, model = [], Place().case("10m"), model_plan(vocab_size=2048)
    flown = made(case, model, 0.02)
    first = keeping(said)
    assert (first.rounds, first.has_own) == ([], False)
    run = first.keeping(lambda data, sample_bytes: lambda model, train, limit_s: flown if limit_s > 1 else None)(None, 10)
    assert run(model, train_plan(), 0.5) is None
    assert not first.has_own
    assert run(model, train_plan(), 5.0) is flown
    assert not keeping(said).has_own, "a round that was interrupted is flown again"
    assert run(model, train_plan(), 5.0) is flown
    again = keeping(said)
    assert (again.rounds, again.has_own) == ([[flown, flown]], True)
    longer = keeping(said, budget={"time": "1h"})
    assert (longer.rounds, longer.has_own) == ([[flown, flown]], False)
    assert keeping(said, data={"seed": 1}).rounds == []
    assert keeping(said, train={"learning_rate": 0.5}).rounds == []
    assert said == []


def test_damaged_pilots_are_told_in_a_line_and_run_anew(workplace):
    said, case = [], Place().case("10m")
    run = keeping(said).keeping(lambda *text: lambda *order: made(case, model_plan(vocab_size=2048), 0.0))(None, 1)
    assert run(None, None, 1.0)
    assert run(None, None, 1.0)
    [path] = memo.folder().glob("pilots-*.json")
    content = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**content, "answer": {"round": [{"model": 7}]}}), "utf-8")
    assert keeping(said).rounds == []
    assert len(said) == 1


# --- a real one


@pytest.fixture
def data(workplace):
    """A small text with something to learn."""
    source = random.Random(3)
    words = ["".join(source.choices("abcdefghij", k=source.randint(2, 7))) for _ in range(300)]
    Path("lines.txt").write_text("".join(" ".join(source.choices(words, k=13)) + "\n" for _ in range(4000)), "utf-8")
    found = inspect_corpus(DataParams(source="text", path="lines.txt"))
    return DataPlan(
        source="text", path="lines.txt", corpus=found.content, validation_path="", validation_content="", validation_share=0.05,
        max_validation_bytes=9000, vocab_size=300, tokenizer_bytes=100_000, train_bytes=100_000, seed=0,
    )  # fmt: skip


@pytest.fixture
def text(data):
    return running.read_text(data, 120_000)


def test_a_pilot_looks_at_as_much_text_as_its_sample_needs(data, text, monkeypatch):
    asked, split = [], running.split
    monkeypatch.setattr(running, "split", lambda plan: asked.append(plan.train_bytes) or split(plan))
    again = running.read_text(data.model_copy(update={"train_bytes": 4 * 10**9}), 120_000)
    assert asked == [120_000]
    assert np.array_equal(again.train_N, text.train_N)


TINY = model_plan(vocab_size=300)
QUICK = train_plan(num_threads=1, micro_batch=6, clock="deadline", num_steps=200, eval_tokens=1000)


def test_a_real_pilot_learns_and_ends_in_time(text, monkeypatch):
    monkeypatch.setattr(running, "FEWEST_STEPS", 2)  # however slow this machine is
    said, start_s = [], time.monotonic()
    flown = running.run_pilot(text, TINY, QUICK, limit_s=1.5, tell=said.append)
    assert said == []
    assert time.monotonic() - start_s < 10
    assert 0.9e5 < flown.unique_bytes <= 1.2e5
    assert flown.val_bpb < math.log2(300) / text.validation_bytes_per_token, "better than guessing"


def test_documents_to_measure_on_are_not_learned_from(text):
    assert 5_000 < len(text.validation_N) * text.validation_bytes_per_token <= 9_000
    learned = text.train_N.tobytes()
    line = text.validation_N[: list(text.validation_N).index(0, 1)]
    assert line.tobytes() not in learned


def test_a_pilot_on_a_machine_that_became_slow_ends_in_time_and_is_thrown_away(text, monkeypatch):
    def slow(self, *arguments, **options):
        time.sleep(0.03)
        return real(self, *arguments, **options)

    real = running.Trainer.step
    monkeypatch.setattr(running.Trainer, "step", slow)
    said, start_s = [], time.monotonic()
    assert running.run_pilot(text, TINY, QUICK, limit_s=0.8, tell=said.append) is None
    assert time.monotonic() - start_s < 10
    assert len(said) == 1
    assert "came to nothing" in said[0]
    assert "where 200 were expected" in said[0]  # which would have taken 6 s


def test_a_pilot_that_diverges_or_finds_no_memory_is_told_in_a_line(text, monkeypatch):
    said = []
    monkeypatch.setattr(running, "FEWEST_STEPS", 1)
    monkeypatch.setattr(running.Validation, "bits_per_byte", lambda self, trainer: math.nan)
    assert running.run_pilot(text, TINY, QUICK, limit_s=0.3, tell=said.append) is None

    def no_memory(self, *arguments, **options):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(running.Trainer, "step", no_memory)
    assert running.run_pilot(text, TINY, QUICK, limit_s=0.3, tell=said.append) is None
    assert [line.split(": ")[1] for line in said] == ["its loss is not a number", "memory ran out"]


def test_all_pilots_are_measured_on_the_same_stretches():
    tokens_N = np.arange(100_000)
    sample_N = running.stretches(tokens_N, 5_000)
    assert 4_000 < len(sample_N) <= 5_000
    assert len(set(sample_N)) == len(sample_N)
    assert (sample_N[0], sample_N[-1]) == (0, 99_999)
    assert len(running.stretches(tokens_N[:700], 100)) == 700
    assert len(running.stretches(tokens_N, 10**9)) == 100_000
