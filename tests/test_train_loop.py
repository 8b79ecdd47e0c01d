"""The loop yields what happened, gives back what an interruption took, and repeats a run bit for bit."""

import errno
import json
import math
from itertools import chain, pairwise, repeat

import numpy as np
import pytest
import torch
from toys import model_plan, tokens, train_plan, whole_plan

from pufferfish.base import paths
from pufferfish.base.atomic import write_json
from pufferfish.base.clock import boot_id, now_s
from pufferfish.base.digest import digest_file
from pufferfish.base.errors import UserError
from pufferfish.base.events import CheckpointSaved, EvalDone, Finished, Refit, Shrunk, Started, StepDone, Warned
from pufferfish.data.batches import Windows
from pufferfish.data.shards import write_validation_text
from pufferfish.model.load import load_model
from pufferfish.schema.plan import Plan
from pufferfish.schema.reports import Outcome, Shard, Subset
from pufferfish.train import checkpoint, finish, loop, progress, saving, validation
from pufferfish.train.average import is_worth_it
from pufferfish.train.clock import DeadlineClock
from pufferfish.train.loop import Corpora, Training
from pufferfish.train.readings import Reading, Readings
from pufferfish.train.realised import Realised, load_realised
from pufferfish.train.schedule import lr_share
from pufferfish.train.start import start_training
from pufferfish.train.step import Trainer
from pufferfish.train.validation import Validation

CORPORA = Corpora(tokens(5000), tokens(500, seed=1), 1.7)
FEWER = "the steps that are left are fewer"


def training(work, *, share_s=60.0, recorded=None, should_stop=lambda: False, model=None, **changes):
    plan = whole_plan(model, train_plan(**changes))
    return Training(plan, CORPORA, work, share_s=share_s, start_s=loop.now_s(), finish_s=0.0, should_stop=should_stop, recorded=recorded)


@pytest.fixture
def unhurried(monkeypatch):
    """Checkpoints may take all the time: with `checkpoint_interval_s=0.0` each step is saved."""
    monkeypatch.setattr(saving, "MAX_SHARE", float("inf"))


def names(events):
    return [type(event).__name__ for event in events]


def of_kind(kind, events):
    return [event for event in events if isinstance(event, kind)]


def bits(tensor):
    return tensor.detach().reshape(-1).view(torch.uint8)


def same_state(one, other):
    one, other = one.trainer.state(), other.trainer.state()
    return one.keys() == other.keys() and all(torch.equal(bits(one[name]), bits(other[name])) for name in one)


# --- events


def test_a_run_tells_its_start_each_step_its_evaluations_and_its_end(tmp_path):
    run = training(tmp_path)
    events = list(run.run())
    steps = ["StepDone"] * 4
    assert names(events) == ["Started", *steps, "EvalDone", *steps, "EvalDone", *steps, "Finished"]
    assert (events[0].step, events[0].is_resumed, events[0].num_params) == (0, False, run.plan.forecast.num_params)
    done = of_kind(StepDone, events)
    assert [event.step for event in done] == list(range(1, 13))
    assert [event.num_tokens for event in done] == [120 * step for step in range(1, 13)]
    assert [event.u for event in done] == [step / 12 for step in range(1, 13)]
    assert [event.learning_rate for event in done] == [lr_share(step / 12, run.plan.train) for step in range(12)]
    assert all(event.tokens_per_s > 0 and event.grad_norm > 0 and event.memory_bytes > 0 for event in done)
    assert [event.u for event in of_kind(EvalDone, events)] == [4 / 12, 8 / 12]
    assert (events[-1].step, events[-1].u, events[-1].num_tokens) == (12, 1.0, 1440)
    assert events[0].train_s == pytest.approx(12 * run.plan.forecast.step_s), "the planned pace of so many steps, whatever the budget"
    assert events[-1].late_s is None


def test_the_first_loss_is_below_that_of_guessing_since_pairs_were_counted_and_it_falls(tmp_path):
    losses = [event.loss for event in of_kind(StepDone, training(tmp_path).run())]
    assert 0.5 * math.log(97) < losses[0] < math.log(97) - 0.1
    assert losses[-1] < losses[0] - 0.3


def test_evaluations_are_in_bits_per_byte(tmp_path, monkeypatch):
    monkeypatch.setattr(Trainer, "mean_loss", lambda self, inputs, targets: 2.5)
    evals = of_kind(EvalDone, training(tmp_path).run())
    assert [event.val_bpb for event in evals] == [pytest.approx(2.5 / math.log(2) / 1.7)] * 2


def test_evaluations_read_whole_windows_spread_over_the_validation_text(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(Trainer, "mean_loss", lambda self, inputs, targets: seen.append((inputs, targets)) or 1.0)
    list(training(tmp_path, num_evals=1).run())
    rows = np.concatenate([np.concatenate((inputs, targets[:, -1:]), axis=1) for inputs, targets in seen])
    assert rows.shape == (4, 21)
    starts = [0, 159, 319, 479]
    assert np.array_equal(rows, np.stack([CORPORA.validation[start : start + 21] for start in starts]))


def test_evaluating_changes_no_weight(tmp_path):
    with_evals, without = training(tmp_path / "a", num_evals=3), training(tmp_path / "b", num_evals=0)
    assert len(of_kind(EvalDone, with_evals.run())) == 3
    assert not of_kind(EvalDone, without.run())
    assert same_state(with_evals, without)


@pytest.mark.parametrize(("large", "times"), [(4 * 97 * 20, 3), (4 * 97 * 20 + 1, 0)])
def test_memory_of_large_logits_is_given_back_after_each_evaluation(tmp_path, monkeypatch, large, times):
    given_back = []
    monkeypatch.setattr(validation, "give_back_freed", lambda: given_back.append(True))
    monkeypatch.setattr(validation, "LARGE_LOGITS", large)
    events = list(training(tmp_path, num_evals=3, eval_tokens=200, micro_batch=1, tokens_per_step=20, num_steps=9).run())
    assert len(of_kind(EvalDone, events)) == 3
    assert len(given_back) == times


def test_a_validation_text_shorter_than_a_window_is_used_whole(tmp_path):
    run = training(tmp_path)
    run.corpora = Corpora(CORPORA.train, tokens(9, seed=1), 1.7)
    assert len(of_kind(EvalDone, run.run())) == 2


def test_what_was_done_is_recorded_step_by_step(tmp_path):
    run = training(tmp_path)
    done = of_kind(StepDone, run.run())
    assert run.record.u == [step / 12 for step in range(12)]
    assert run.record.micro_batch == [3] * 12
    assert list(run.record.loss) == [event.loss for event in done]
    assert [row["step"] for row in run.record.curve] == [4, 8]
    run.record.save_curve(tmp_path / "curve.csv")
    assert (tmp_path / "curve.csv").read_text().splitlines()[0] == "elapsed_s,val_bpb,train_loss,step,tokens"


# --- the deadline


def test_a_run_against_the_clock_ends_with_its_time(tmp_path, monkeypatch):
    now = paced(monkeypatch, repeat(0.05))
    plan = whole_plan(train=train_plan(clock="deadline", num_steps=1), step_s=0.05)
    run = Training(plan, CORPORA, tmp_path, share_s=0.6, start_s=now[0], finish_s=0.0)
    events = list(run.run())
    assert isinstance(events[-1], Finished)
    assert len(of_kind(StepDone, events)) == pytest.approx(11, abs=1)  # beside the dry step
    assert now[0] - 1000.0 == pytest.approx(0.6, abs=0.05)
    us = [event.u for event in of_kind(StepDone, events)]
    assert us == sorted(us)
    assert run.record.u[0] == 0.0


def realised(run, path):
    """What the run recorded, through the file."""
    Realised(run.record.u, run.record.micro_batch, run.environment).save(path, run.plan)
    return load_realised(path)


def test_a_replay_of_a_timed_run_makes_the_same_weights_bit_for_bit(tmp_path, monkeypatch):
    paced(monkeypatch, repeat(0.05), step=Trainer.step)
    timed = training(tmp_path / "a", share_s=0.4, clock="deadline", dtype="bfloat16")
    list(timed.run())
    replayed = training(tmp_path / "b", clock="deadline", dtype="bfloat16", recorded=realised(timed, tmp_path / "schedule.jsonl"))
    events = list(replayed.run())
    assert of_kind(Finished, events)
    assert replayed.step == timed.step > 3
    assert replayed.record.u == timed.record.u
    assert replayed.record.loss == timed.record.loss
    assert same_state(timed, replayed)


def test_a_replay_of_a_run_that_shrank_adds_up_the_same_micro_batches(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        Memory(patch, fails=lambda call, micro_batch: call == 5)
        shrunk = training(tmp_path / "a", micro_batch=6)
        list(shrunk.run())
    recorded = realised(shrunk, tmp_path / "schedule.jsonl")
    assert recorded.micro_batch == [6] * 4 + [3] * 8
    replayed = training(tmp_path / "b", micro_batch=6, recorded=recorded)
    list(replayed.run())
    assert replayed.record.micro_batch == recorded.micro_batch
    assert same_state(shrunk, replayed)


def test_a_replay_that_runs_out_of_memory_itself_goes_on_smaller(tmp_path, monkeypatch):
    run = training(tmp_path / "a", micro_batch=6)
    list(run.run())
    Memory(monkeypatch, fails=lambda call, micro_batch: micro_batch > 3)
    replayed = training(tmp_path / "b", micro_batch=6, recorded=realised(run, tmp_path / "schedule.jsonl"))
    assert isinstance(list(replayed.run())[-1], Finished)
    assert replayed.record.micro_batch == [3] * 12


# --- cut off

CUT = Realised([step / 100 for step in range(60)], [3] * 60, {})
AT_THE_PEAK = {"cooldown_share": 0.3, "num_evals": 0}


def validation_loss(run, weights):
    with torch.no_grad():
        for name, master in run.trainer.weights.masters.items():
            master.copy_(weights[name])
    run.trainer.weights.distribute()
    return run._validation.bits_per_byte(run.trainer)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_schedule_cut_off_at_the_peak_gives_an_average_that_is_better_than_the_last_weights(tmp_path, dtype):
    run = training(tmp_path, recorded=CUT, dtype=dtype, **AT_THE_PEAK)
    events = list(run.run())
    assert names(events)[-2:] == ["Warned", "Finished"]
    assert "time was over at 59% of the schedule" in run.warnings[0]
    last, averaged = run.trainer.exported_weights(), run.final_weights()
    assert last.keys() == averaged.keys()
    assert all(averaged[name].shape == weight.shape and averaged[name].dtype == torch.float32 for name, weight in last.items())
    last_loss = validation_loss(run, last)  # before the average takes the place of the last weights
    assert validation_loss(run, averaged) < 0.99 * last_loss


def test_a_whole_schedule_gives_its_last_weights(tmp_path):
    run = training(tmp_path, num_steps=40)
    assert not of_kind(Warned, run.run())
    assert all(torch.equal(run.final_weights()[name], weight) for name, weight in run.trainer.exported_weights().items())


def test_an_average_is_the_same_after_interruptions_and_in_a_replay(tmp_path):
    whole = training(tmp_path / "whole", recorded=CUT, **AT_THE_PEAK)
    list(whole.run())
    resumed, _ = run_with_stops(tmp_path / "parts", (3, 57), recorded=CUT, **AT_THE_PEAK)
    replayed = training(tmp_path / "replay", recorded=realised(whole, tmp_path / "schedule.jsonl"), **AT_THE_PEAK)
    list(replayed.run())
    for other in (resumed, replayed):
        assert other.is_averaged
        assert all(torch.equal(bits(other.final_weights()[name]), bits(weight)) for name, weight in whole.final_weights().items())


@pytest.mark.parametrize(("num_steps", "end", "is_better"), [(60, 0.6, True), (60, 0.1, False), (60, 0.97, False), (60, 1.0, False), (20, 0.6, False)])
def test_only_a_training_that_ends_far_from_both_ends_of_its_schedule_is_averaged(num_steps, end, is_better):
    assert is_worth_it([end * step / num_steps for step in range(num_steps)]) is is_better


def test_a_small_text_ends_the_training_after_the_planned_steps_and_with_its_schedule(tmp_path):
    plan = whole_plan(train=train_plan(clock="deadline", num_steps=12, num_evals=0))
    plan = plan.model_copy(update={"budget": plan.budget.model_copy(update={"unused_s": 500.0})})
    run = Training(plan, CORPORA, tmp_path, share_s=600.0, start_s=now_s(), finish_s=0.0)
    events = list(run.run())
    assert run.step in (11, 12)
    assert run.clock.u == 1.0
    assert events[0].train_s == pytest.approx(12 * plan.forecast.step_s), "the time that is left unused is not told as training"
    assert events[-1].late_s is None


def test_the_start_tells_the_time_that_is_left_and_not_that_of_the_set_up(tmp_path, monkeypatch):
    now = paced(monkeypatch, chain([7.0], repeat(0.5)))
    run = Training(whole_plan(train=train_plan(clock="deadline")), CORPORA, tmp_path, share_s=30.0, start_s=now[0] - 4.0, finish_s=1.0)
    assert next(run.run()).train_s == pytest.approx(30.0 - 1.0 - 4.0 - 7.0)


def still(trainer, batches, *, lr_share):
    """A step that changes nothing."""
    return torch.tensor(3.0), torch.tensor(1.0)


def paced(monkeypatch, durations, *, step=still):
    """A clock of our own, on which the dry step and the steps after it take these seconds; its first second."""
    now, durations = [1000.0], iter(durations)

    class Clock(DeadlineClock):
        def __init__(self, deadline_s, **wishes):
            super().__init__(deadline_s, **wishes, now=lambda: now[0])

    def timed(trainer, batches, *, lr_share):
        now[0] += next(durations)
        return step(trainer, batches, lr_share=lr_share)

    monkeypatch.setattr(loop, "DeadlineClock", Clock)
    monkeypatch.setattr(loop, "now_s", lambda: now[0])
    monkeypatch.setattr(progress, "now_s", lambda: now[0])
    monkeypatch.setattr(Trainer, "step", timed)
    return now


def test_a_training_without_a_single_step_is_no_model(tmp_path, monkeypatch):
    now = paced(monkeypatch, repeat(0.5))
    run = Training(whole_plan(train=train_plan(clock="deadline")), CORPORA, tmp_path, share_s=10.0, start_s=now[0] - 9.9, finish_s=0.0)
    with pytest.raises(UserError, match="no time was left for a single step") as error:
        list(run.run())
    assert "10.4 s of 10.0 s for training had passed" in error.value.saw  # the dry step takes half a second
    assert run.median_step_s == 0.0


def test_nothing_is_evaluated_or_saved_after_the_deadline(tmp_path, monkeypatch):
    now = paced(monkeypatch, chain([0.1] * 59, [50.0]))
    plan = whole_plan(train=train_plan(clock="deadline", num_evals=1, checkpoint_interval_s=20.0))
    evaluations_take(monkeypatch, now, 5.0)
    run = Training(plan, CORPORA, tmp_path, share_s=12.0, start_s=now[0], finish_s=0.0)
    events = list(run.run())
    assert not of_kind(CheckpointSaved, events)
    assert all(event.elapsed_s < 12.0 for event in of_kind(EvalDone, events))


def test_a_checkpoint_that_would_cost_the_deadline_is_skipped_and_that_is_told(tmp_path, monkeypatch):
    now = paced(monkeypatch, repeat(0.5))
    save = checkpoint.save

    def slow_save(*arguments):
        now[0] += 12.0 if now[0] < 1030 else 0.1
        return save(*arguments)

    monkeypatch.setattr(checkpoint, "save", slow_save)
    monkeypatch.setattr(saving, "MAX_SHARE", float("inf"))
    plan = whole_plan(train=train_plan(clock="deadline", num_evals=0, checkpoint_interval_s=20.0), step_s=0.5)
    run = Training(plan, CORPORA, tmp_path, share_s=62.0, start_s=now[0], finish_s=0.0)
    events = list(run.run())
    assert len(of_kind(CheckpointSaved, events)) == 1
    unexpected, skipped = (event.reason for event in of_kind(Refit, events))
    assert unexpected.startswith("12.0 s passed between two steps, where ")
    assert skipped == "checkpoint skipped: it takes 12.0 s"
    assert now[0] - 1000.0 <= 62.0


def test_a_stall_until_after_the_deadline_cuts_the_schedule_off(tmp_path, monkeypatch):
    now = paced(monkeypatch, chain([0.1] * 59, [50.0]))
    plan = whole_plan(train=train_plan(clock="deadline", num_evals=0), step_s=0.1)
    run = Training(plan, CORPORA, tmp_path, share_s=10.0, start_s=now[0], finish_s=0.0)
    assert names(run.run())[-3:] == ["Refit", "Warned", "Finished"]
    assert run.is_averaged
    assert run.step == 59


def test_a_machine_that_becomes_slower_leaves_more_time_to_the_stages_after_and_still_ends_its_schedule(tmp_path, monkeypatch):
    now = paced(monkeypatch, chain([0.5] * 40, repeat(1.0)))
    plan = whole_plan(train=train_plan(clock="deadline", num_evals=0), step_s=0.5)
    run = Training(plan, CORPORA, tmp_path, share_s=60.0, start_s=now[0], finish_s=0.0)
    told = of_kind(Refit, run.run())
    assert [event.reason.partition(" more ")[2] for event in told] == ["are kept for evaluation and export"]
    assert now[0] - 1000.0 == pytest.approx(60.0 - 0.6 * plan.budget.reserve_s, abs=1.0)
    assert run.clock.u == pytest.approx(1.0, abs=0.05)


def test_a_pace_that_is_not_the_planned_one_is_told_once(tmp_path, monkeypatch):
    now = paced(monkeypatch, repeat(0.5))
    plan = whole_plan(train=train_plan(clock="deadline", num_evals=0), step_s=0.42)
    run = Training(plan, CORPORA, tmp_path, share_s=60.0, start_s=now[0], finish_s=0.0)
    (told,) = of_kind(Refit, run.run())
    assert told.reason == "a step takes 500 ms, planned were 420 ms"
    assert told.expected_steps == pytest.approx(120 - told.step, rel=0.06)


def test_a_machine_that_is_much_slower_than_planned_leaves_more_time_to_the_stages_after(tmp_path, monkeypatch):
    now = paced(monkeypatch, repeat(0.5))
    plan = whole_plan(train=train_plan(clock="deadline", num_evals=0), step_s=0.25)
    run = Training(plan, CORPORA, tmp_path, share_s=60.0, start_s=now[0], finish_s=0.0)
    (told,) = of_kind(Refit, run.run())
    assert told.reason.startswith("steps take 2.0 times as long as planned: ")
    assert now[0] - 1000.0 == pytest.approx(60.0 - 0.6 * plan.budget.reserve_s, abs=1.0)


def test_time_that_a_stall_takes_from_the_stages_after_is_told(tmp_path, monkeypatch):
    now = paced(monkeypatch, chain([0.5] * 60, [29.0], repeat(0.5)))
    plan = whole_plan(train=train_plan(clock="deadline", num_evals=0), step_s=0.5)
    plan = plan.model_copy(update={"budget": plan.budget.model_copy(update={"reserve_s": 80.0})})
    run = Training(plan, CORPORA, tmp_path, share_s=60.0, start_s=now[0], finish_s=0.0)
    events = list(run.run())
    told = [event.reason for event in of_kind(Refit, events)]
    assert told == [f"a step took 29.0 s: {FEWER}; 12.0 s of the time for evaluation and export bring the learning rate down"]
    assert lr_share(run.record.u[-1], plan.train) < 0.1
    assert events[-1].late_s == pytest.approx(0.0, abs=0.6), "the time was given on purpose"


def test_time_that_was_given_after_a_stall_is_still_given_after_an_interruption_and_only_once(tmp_path, monkeypatch):
    plan = whole_plan(train=train_plan(clock="deadline", num_evals=0), step_s=0.5)
    plan = plan.model_copy(update={"budget": plan.budget.model_copy(update={"reserve_s": 80.0})})

    def start(durations):
        now = paced(monkeypatch, durations)
        return Training(plan, CORPORA, tmp_path, share_s=60.0, start_s=now[0], finish_s=0.0)

    first = start(chain([0.5] * 60, [29.0], repeat(0.5)))
    first.should_stop = lambda: first.step == 62
    list(first.run())
    used_s = first.elapsed_s
    assert (first.clock.given_s, used_s) == (12.0, 60.0)
    resumed = start(repeat(0.5))
    events = list(resumed.run())
    assert events[0].train_s == pytest.approx(60.0 + 12.0 - used_s)
    assert resumed.step > 62 + 15
    assert lr_share(resumed.record.u[-1], plan.train) < 0.1
    assert resumed.elapsed_s <= 60.0 + 12.0
    assert events[-1].late_s == pytest.approx(0.0, abs=0.6)
    assert resumed.clock._grace_s == 0.0, "a second stall gets nothing more"


def evaluations_take(monkeypatch, now, *times_s):
    """The first ones as long as given, the others as long as the last of these."""
    times = chain(times_s, repeat(times_s[-1]))

    def timed(validation, trainer):
        now[0] += next(times)
        return 2.0

    monkeypatch.setattr(Validation, "bits_per_byte", timed)


@pytest.mark.parametrize("stall_s", [29.0, 31.0], ids=["almost all the time", "more than all the time"])
def test_a_stall_in_an_evaluation_that_takes_all_the_time_gets_some_from_the_stages_after_and_that_is_told(tmp_path, monkeypatch, stall_s):
    now = paced(monkeypatch, repeat(0.5))
    evaluations_take(monkeypatch, now, stall_s)
    plan = whole_plan(train=train_plan(clock="deadline", num_evals=1), step_s=0.5)
    plan = plan.model_copy(update={"budget": plan.budget.model_copy(update={"reserve_s": 80.0})})
    run = Training(plan, CORPORA, tmp_path, share_s=60.0, start_s=now[0], finish_s=0.0)
    told = [event.reason for event in of_kind(Refit, run.run())]
    pause = f"{stall_s} s passed between two steps, where 600 ms were expected: {FEWER}"
    assert told == [f"{pause}; 12.0 s of the time for evaluation and export bring the learning rate down"]
    assert lr_share(run.record.u[-1], plan.train) < 0.1
    assert now[0] - 1000.0 <= 60.0 + 12.0


def test_a_first_checkpoint_that_a_slow_disk_may_not_finish_in_time_is_not_begun_and_that_is_told(tmp_path, monkeypatch):
    now = paced(monkeypatch, repeat(0.5))
    plan = whole_plan(train=train_plan(clock="deadline", num_evals=0, checkpoint_interval_s=20.0), step_s=0.5)
    monkeypatch.setattr(loop, "DISK_BYTES_PER_S", 5e4)
    run = Training(plan, CORPORA, tmp_path / "slow", share_s=60.0, start_s=now[0], finish_s=0.0)
    events = list(run.run())
    assert not of_kind(CheckpointSaved, events)
    assert {event.reason for event in of_kind(Refit, events)} == {f"checkpoint skipped: it may take {run._saving.guess_s:.1f} s"}
    monkeypatch.setattr(loop, "DISK_BYTES_PER_S", 1e8)
    now[0] = 1000.0
    quick = Training(plan, CORPORA, tmp_path / "quick", share_s=60.0, start_s=now[0], finish_s=0.0)
    saved = of_kind(CheckpointSaved, quick.run())
    assert len(saved) == 2
    assert quick._saving.guess_s * 1e8 == pytest.approx(saved[0].num_bytes, rel=0.05), "the guess knows how large a checkpoint is"


@pytest.mark.parametrize(("times_s", "expected"), [((0.2, 10.2, 0.2), "200 ms"), ((10.2, 0.2), "600 ms")], ids=["the second", "the first"])
def test_a_stall_in_an_evaluation_costs_its_time_and_nothing_else_and_is_told(tmp_path, monkeypatch, times_s, expected):
    now = paced(monkeypatch, repeat(0.5))
    evaluations_take(monkeypatch, now, *times_s)
    plan = whole_plan(train=train_plan(clock="deadline", num_evals=8), step_s=0.5)
    run = Training(plan, CORPORA, tmp_path, share_s=60.0, start_s=now[0], finish_s=0.0)
    events = list(run.run())
    assert len(of_kind(EvalDone, events)) == 8
    (told,) = of_kind(Refit, events)
    assert told.reason == f"10.2 s passed between two steps, where {expected} were expected: {FEWER}"
    assert told.expected_steps == pytest.approx(run.step - told.step, abs=6), "after the correction; until a second one was paid more is kept for those to come"
    assert now[0] - 1000.0 == pytest.approx(60.0, abs=1.0)
    assert run.step == pytest.approx((60 - 10 - 8 * 0.2) / 0.5, abs=2)


def test_evaluations_that_are_too_dear_are_skipped_and_their_time_is_trained(tmp_path, monkeypatch):
    now = paced(monkeypatch, repeat(0.5))
    evaluations_take(monkeypatch, now, 2.0)
    plan = whole_plan(train=train_plan(clock="deadline", num_evals=8), step_s=0.5)
    run = Training(plan, CORPORA, tmp_path, share_s=60.0, start_s=now[0], finish_s=0.0)
    events = list(run.run())
    assert len(of_kind(EvalDone, events)) == 2
    unexpected = f"2.0 s passed between two steps, where 600 ms were expected: {FEWER}"
    assert [event.reason for event in of_kind(Refit, events)] == [unexpected, *["evaluation skipped: it takes 2.0 s"] * 6]
    assert now[0] - 1000.0 == pytest.approx(60.0, abs=1.0)
    assert run.clock.u == pytest.approx(1.0, abs=0.05)


def paused_run(tmp_path, monkeypatch, pauses_s, *, share_s=60.0, unused_s=0.0, **changes):
    """A training with steps of 0.5 s, on a machine that stands still so long right after some of them, by number; its events."""
    now = paced(monkeypatch, repeat(0.5))
    evaluations_take(monkeypatch, now, 0.2)
    plan = whole_plan(train=train_plan(clock="deadline", **changes), step_s=0.5)
    plan = plan.model_copy(update={"budget": plan.budget.model_copy(update={"unused_s": unused_s})})
    run = Training(plan, CORPORA, tmp_path, share_s=share_s, start_s=now[0], finish_s=0.0)
    for event in run.run():
        if isinstance(event, StepDone):
            now[0] += pauses_s.get(event.step, 0.0)
        yield event
    if not unused_s:
        assert share_s - 1.0 < now[0] - 1000.0 <= share_s


def test_a_pause_between_two_steps_that_shortens_the_schedule_is_told_once(tmp_path, monkeypatch):
    (told,) = of_kind(Refit, paused_run(tmp_path, monkeypatch, {30: 8.0}, num_evals=0))
    assert told.step == 30
    assert told.reason == f"8.0 s passed between two steps: {FEWER}"
    assert told.expected_steps == pytest.approx((60 - 0.5 * 31 - 8) / 0.5, abs=1)


def test_a_pause_of_a_second_or_of_a_hundredth_of_the_time_left_is_no_correction(tmp_path, monkeypatch):
    assert not of_kind(Refit, paused_run(tmp_path / "a", monkeypatch, {30: 0.9}, num_evals=0))
    long = {"num_evals": 0, "share_s": 1000.0}
    assert not of_kind(Refit, paused_run(tmp_path / "b", monkeypatch, {200: 8.5}, **long))
    assert len(of_kind(Refit, paused_run(tmp_path / "c", monkeypatch, {1700: 8.5}, **long))) == 1


def test_pauses_now_and_then_are_all_told_and_of_those_in_a_row_only_the_first(tmp_path, monkeypatch):
    now_and_then = dict.fromkeys(range(5, 45, 5), 2.0)
    assert [event.step for event in of_kind(Refit, paused_run(tmp_path / "a", monkeypatch, now_and_then, num_evals=0))] == list(now_and_then)
    in_a_row = dict.fromkeys(range(5, 20), 2.0)
    assert [event.step for event in of_kind(Refit, paused_run(tmp_path / "b", monkeypatch, in_a_row, num_evals=0))] == [5, 6, 7]


def test_a_pause_beside_an_evaluation_is_told_and_the_evaluation_itself_is_not(tmp_path, monkeypatch):
    events = list(paused_run(tmp_path / "a", monkeypatch, {}, num_evals=3))
    assert len(of_kind(EvalDone, events)) == 3
    assert not of_kind(Refit, events)
    evaluated = of_kind(EvalDone, events)[1].step
    (told,) = of_kind(Refit, paused_run(tmp_path / "b", monkeypatch, {evaluated: 5.0}, num_evals=3))
    assert told.reason == f"5.2 s passed between two steps, where 200 ms were expected: {FEWER}"


def test_a_checkpoint_that_takes_longer_than_it_did_is_told(tmp_path, monkeypatch):
    save, takes_s = checkpoint.save, iter([0.2, 6.0])

    def slow_save(*arguments):
        now[0] += next(takes_s)
        return save(*arguments)

    now = paced(monkeypatch, repeat(0.5))
    monkeypatch.setattr(checkpoint, "save", slow_save)
    plan = whole_plan(train=train_plan(clock="deadline", num_evals=0, checkpoint_interval_s=20.0), step_s=0.5)
    run = Training(plan, CORPORA, tmp_path, share_s=60.0, start_s=now[0], finish_s=0.0)
    events = list(run.run())
    assert len(of_kind(CheckpointSaved, events)) == 2
    assert [event.reason for event in of_kind(Refit, events)] == [f"6.0 s passed between two steps, where 200 ms were expected: {FEWER}"]


def test_a_pause_that_costs_no_step_is_no_correction(tmp_path, monkeypatch):
    events = list(paused_run(tmp_path, monkeypatch, {20: 8.0}, num_evals=0, num_steps=40, share_s=100.0, unused_s=500.0))
    assert not of_kind(Refit, events)
    assert len(of_kind(StepDone, events)) in (39, 40)


def test_an_evaluation_whose_known_price_would_cost_the_schedule_its_end_is_skipped_and_that_is_told(tmp_path, monkeypatch):
    now = paced(monkeypatch, chain([0.5] * 55, [20.0], repeat(0.5)))
    evaluations_take(monkeypatch, now, 7.0)  # one was paid, so that they are not too dear yet
    plan = whole_plan(train=train_plan(clock="deadline", num_evals=2), step_s=0.5)
    run = Training(plan, CORPORA, tmp_path, share_s=60.0, start_s=now[0], finish_s=0.0)
    events = list(run.run())
    assert len(of_kind(EvalDone, events)) == 1
    skipped = [event.reason for event in of_kind(Refit, events) if "skipped" in event.reason]
    assert len(skipped) == 1
    assert skipped[0].startswith("evaluation skipped: it takes 7.0 s of the ")
    assert skipped[0].endswith(" s that are left")
    assert now[0] - 1000.0 <= 60.0
    assert lr_share(run.record.u[-1], plan.train) < 0.2


@pytest.mark.parametrize("factor", [2.0, 2.9])
@pytest.mark.parametrize("later_s", [13.5, 60.0])
@pytest.mark.parametrize("slower_from", [0.5, 0.9, 0.95])
def test_however_late_a_machine_becomes_slower_the_learning_rate_comes_down_and_time_is_kept(tmp_path, monkeypatch, slower_from, later_s, factor):
    num_quick = int(600 * slower_from)
    now = paced(monkeypatch, chain([0.1] * num_quick, repeat(0.1 * factor)))
    plan = whole_plan(train=train_plan(clock="deadline", num_evals=0))
    plan = plan.model_copy(update={"budget": plan.budget.model_copy(update={"reserve_s": later_s})})
    run = Training(plan, CORPORA, tmp_path, share_s=60.0, start_s=now[0], finish_s=0.0)
    assert names(run.run())[-1] == "Finished"
    assert lr_share(run.record.u[-1], plan.train) < 0.12
    assert max(after - before for before, after in pairwise(run.record.u)) < 0.06
    left_s = 60.0 - (now[0] - 1000.0)
    wanted_s = later_s * min(1.0, factor / 1.25 - 1)
    assert left_s == pytest.approx(run._disturbance.extra_s, abs=0.1 * factor + 1e-6), "what is kept is left"
    seen_s = 60.0 * (1 - slower_from) - 8.0  # four looks later the pace is known
    assert left_s > min(wanted_s, seen_s - 6.0) - 0.1 * factor


# --- interrupted and resumed


def run_with_stops(work, stops, **changes):
    """Run, stopping after each of these steps and starting anew as another process would."""
    events, seen = [], 0
    for stop in (*stops, None):
        run = training(work, **changes)
        run.should_stop = lambda run=run, stop=stop: run.step == stop
        part = list(run.run())
        if stop is not None:
            assert run.is_interrupted
            assert isinstance(part[-1], CheckpointSaved)
            seen += 1
        events += part
    return run, events


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("stops", [(5,), (1, 2, 8, 11)], ids=str)
def test_an_interrupted_run_makes_the_same_weights_bit_for_bit(tmp_path, optimizer, dtype, stops):
    changes = {"optimizer": optimizer, "dtype": dtype}
    whole = training(tmp_path / "whole", **changes)
    expected = of_kind(StepDone, whole.run())
    resumed, events = run_with_stops(tmp_path / "parts", stops, **changes)
    assert same_state(whole, resumed)
    assert resumed.record.u == whole.record.u
    assert resumed.record.micro_batch == whole.record.micro_batch
    assert resumed.record.curve[0]["val_bpb"] == whole.record.curve[0]["val_bpb"]
    assert list(resumed.record.loss) == list(whole.record.loss) == [event.loss for event in expected]
    assert [event.step for event in of_kind(StepDone, events)] == list(range(1, 13))
    assert len(of_kind(EvalDone, events)) == 2
    assert resumed.num_resumes == len(stops)


def test_a_run_that_was_stopped_says_so_and_goes_on(tmp_path):
    resumed, events = run_with_stops(tmp_path, (5,))
    assert names(events)[:6] == ["Started", *["StepDone"] * 4, "EvalDone"]
    started = of_kind(Started, events)
    assert [(event.step, event.is_resumed) for event in started] == [(0, False), (5, True)]
    assert len(of_kind(Finished, events)) == 1
    assert not resumed.is_interrupted


def test_a_run_that_was_killed_goes_on_from_its_last_checkpoint(tmp_path, unhurried):
    whole = training(tmp_path / "whole")
    list(whole.run())
    killed = training(tmp_path / "parts", checkpoint_interval_s=0.0)
    for event in killed.run():
        if isinstance(event, StepDone) and event.step == 7:
            break  # before step 7 is saved
    resumed = training(tmp_path / "parts")
    events = list(resumed.run())
    assert events[0].step == 6
    assert same_state(whole, resumed)
    assert resumed.loop_s > 0


def test_a_stop_after_the_last_step_leaves_nothing_to_do(tmp_path):
    resumed, events = run_with_stops(tmp_path, (12,))
    assert names(events)[-3:] == ["CheckpointSaved", "Started", "Finished"]
    assert resumed.step == 12


def test_a_resumed_timed_run_goes_on_with_the_clock_of_its_checkpoint(tmp_path):
    first = training(tmp_path, share_s=40.0, clock="deadline")
    first.should_stop = lambda: first.step == 3
    list(first.run())
    used_s, u = checkpoint.load_progress(checkpoint.newest(tmp_path)[0])["elapsed_s"], first.clock.u
    resumed = training(tmp_path, share_s=40.0, clock="deadline")
    resumed.should_stop = lambda: resumed.step == 4
    events = list(resumed.run())
    assert resumed.record.u[3] == u, "progress goes on where it was"
    assert resumed.elapsed_s >= used_s > 0, "the time that was used counts"
    assert of_kind(StepDone, events)[0].remaining_s < 40 - used_s + 0.1


def test_a_training_that_a_small_text_ends_makes_no_more_steps_for_an_interruption(tmp_path, monkeypatch):
    plan = whole_plan(train=train_plan(clock="deadline", num_steps=12, num_evals=0), step_s=0.5)
    plan = plan.model_copy(update={"budget": plan.budget.model_copy(update={"unused_s": 500.0})})
    for stop in (5, None):
        now = paced(monkeypatch, repeat(0.5))
        run = Training(plan, CORPORA, tmp_path, share_s=600.0, start_s=now[0], finish_s=0.0)
        run.should_stop = lambda run=run, stop=stop: run.step == stop
        list(run.run())
    assert run.num_resumes == 1
    assert run.step in (11, 12)
    assert run.clock.u == 1.0


@pytest.mark.parametrize("second_share_s", [20.0, 90.0])
def test_a_resumed_training_keeps_the_share_of_the_time_that_it_began_with(tmp_path, monkeypatch, second_share_s):
    plan = whole_plan(train=train_plan(clock="deadline", num_evals=0), step_s=0.5)
    for share_s, stop in ((40.0, 30), (second_share_s, None)):
        now = paced(monkeypatch, repeat(0.5))
        run = Training(plan, CORPORA, tmp_path, share_s=share_s, start_s=now[0], finish_s=0.0)
        run.should_stop = lambda run=run, stop=stop: run.step == stop
        events = list(run.run())
    (finished,) = of_kind(Finished, events)
    assert run.share_s == 40.0
    assert run.elapsed_s == pytest.approx(40.0, abs=1.0)
    assert finished.late_s == pytest.approx(0.0, abs=1.0)
    assert run.clock.u == pytest.approx(1.0, abs=0.05)


def test_a_training_killed_on_a_busy_machine_still_knows_the_usual_pace_and_prices_when_it_goes_on(tmp_path, monkeypatch):
    plan = whole_plan(train=train_plan(clock="deadline", num_evals=8, checkpoint_interval_s=4.0), step_s=0.5)

    def start(durations):
        now = paced(monkeypatch, durations)
        evaluations_take(monkeypatch, now, 0.25)
        return Training(plan, CORPORA, tmp_path, share_s=60.0, start_s=now[0], finish_s=0.0), now

    killed, _ = start(chain([0.5] * 40, repeat(1.0)))
    for event in killed.run():
        if isinstance(event, StepDone) and event.elapsed_s > 35:
            break
    assert killed.saved_step < killed.step
    resumed, now = start(repeat(1.0))
    told = of_kind(Refit, resumed.run())
    assert [event.reason.partition(":")[0] for event in told] == ["steps take 2.0 times as long as usual"]
    assert resumed.num_resumes == 1
    assert now[0] - resumed.start_s == pytest.approx(60.0 - 0.6 * plan.budget.reserve_s, abs=1.0)
    assert resumed._evaluations.times_s == [0.25] * 8
    assert resumed.clock.u == pytest.approx(1.0, abs=0.05)


def test_the_newest_checkpoint_is_damaged_so_the_one_before_serves_and_that_is_said(tmp_path, unhurried):
    whole = training(tmp_path / "whole")
    list(whole.run())
    run_until(tmp_path / "parts", 6)
    damage(tmp_path / "parts" / "step-000000006")
    resumed = training(tmp_path / "parts")
    events = list(resumed.run())
    assert [event.step for event in of_kind(Started, events)] == [5]
    assert "step-000000006 is damaged" in of_kind(Warned, events)[0].message
    assert resumed.warnings == [event.message for event in of_kind(Warned, events)]
    assert same_state(whole, resumed)


def test_no_checkpoint_is_whole_so_training_starts_anew_and_says_it(tmp_path, unhurried):
    run_until(tmp_path, 6)
    damage(tmp_path / "step-000000005")
    damage(tmp_path / "step-000000006")
    events = list(training(tmp_path).run())
    assert [event.step for event in of_kind(Started, events)] == [0]
    assert len(of_kind(Warned, events)) == 3
    assert "starts anew" in of_kind(Warned, events)[-1].message


def run_until(work, step):
    """Save at each step and stop after this one."""
    run = training(work, checkpoint_interval_s=0.0)
    run.should_stop = lambda: run.step == step
    list(run.run())


def damage(folder):
    content = bytearray((folder / "state.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "state.safetensors").write_bytes(content)


def test_what_an_interruption_left_behind_is_told_as_it_is(tmp_path, monkeypatch, unhurried):
    def stopped(step, **changes):
        run = training(tmp_path, **changes)
        run.should_stop = lambda: run.step == step
        list(run.run())
        return finish.farewell(run)

    def full(folder, tensors, progress):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", full)
        assert stopped(2) == "stopped at step 2, and nothing could be saved; `dvc repro` starts anew"
    assert stopped(4) == "stopped at step 4, the work so far is saved; `dvc repro` goes on from here"
    monkeypatch.setattr(checkpoint, "save", full)
    assert stopped(6) == "stopped at step 6, which could not be saved; `dvc repro` goes on from the last good checkpoint, at step 4"


# --- what can go wrong


def test_a_full_disk_warns_keeps_the_last_good_checkpoint_and_training_goes_on(tmp_path, monkeypatch, unhurried):
    save, saved = checkpoint.save, []

    def save_until_full(folder, tensors, progress):
        if len(saved) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        saved.append(progress["step"])
        return save(folder, tensors, progress)

    monkeypatch.setattr(checkpoint, "save", save_until_full)
    run = training(tmp_path, checkpoint_interval_s=0.0)
    events = list(run.run())
    assert len(of_kind(StepDone, events)) == 12
    assert isinstance(events[-1], Finished)
    assert [event.step for event in of_kind(CheckpointSaved, events)] == [1, 2, 3]
    warnings = of_kind(Warned, events)
    assert [event.step for event in warnings] == [4], "nine attempts failed for one reason"
    assert "No space left on device" in warnings[0].message
    assert checkpoint.newest(tmp_path)[0].name == "step-000000003"


def test_saves_that_fail_take_no_more_of_the_time_than_those_that_succeed(tmp_path, monkeypatch):
    now, attempts = paced(monkeypatch, repeat(0.5)), []

    def full(folder, tensors, progress):
        attempts.append(now[0])
        now[0] += 4.0
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save", full)
    plan = whole_plan(train=train_plan(clock="deadline", num_evals=0, checkpoint_interval_s=20.0), step_s=0.5)
    run = Training(plan, CORPORA, tmp_path, share_s=1000.0, start_s=now[0], finish_s=0.0)
    events = list(run.run())
    assert len(of_kind(Warned, events)) == 1
    assert len(attempts) == 5
    assert all(after - before >= 4.0 / saving.MAX_SHARE for before, after in pairwise(attempts))


class Memory:
    """`Trainer.step` with a memory that does not suffice for `too_many` sequences at a time; notes what each finished step was trained on."""

    def __init__(self, monkeypatch, *, fails):
        self.calls, self.steps, step = 0, [], Trainer.step

        def stepped(trainer, batches, *, lr_share):
            rows = []
            for batch in batches:
                rows.append(batch)
                if fails(self.calls, trainer.micro_batch):
                    self.calls += 1
                    raise torch.OutOfMemoryError("out of memory, tried to allocate 20.00 MiB")
            self.calls += 1
            result = step(trainer, rows, lr_share=lr_share)
            self.steps.append(np.concatenate(rows))
            return result

        monkeypatch.setattr(Trainer, "step", stepped)


def test_memory_that_runs_out_halves_the_micro_batch_and_loses_no_sample(tmp_path, monkeypatch):
    memory = Memory(monkeypatch, fails=lambda call, micro_batch: call == 5)  # call 0 is the dry step
    run = training(tmp_path, micro_batch=6)
    events = list(run.run())
    shrunk = of_kind(Shrunk, events)
    assert [(event.step, event.micro_batch) for event in shrunk] == [(4, 3)]
    assert "120 tokens a step as before" in shrunk[0].reason
    assert run.warnings == [shrunk[0].reason]
    assert [event.num_tokens for event in of_kind(StepDone, events)] == [120 * step for step in range(1, 13)]
    windows = Windows(CORPORA.train, 20, 11)
    assert np.array_equal(np.concatenate(memory.steps[1:]), windows.batch(0, 72))
    assert isinstance(events[-1], Finished)


def test_memory_that_is_too_small_from_the_start_is_found_before_the_clock_runs(tmp_path, monkeypatch):
    Memory(monkeypatch, fails=lambda call, micro_batch: micro_batch > 2)
    run = training(tmp_path, micro_batch=6)
    events = list(run.run())
    assert names(events)[:3] == ["Shrunk", "Shrunk", "Started"]
    assert [event.micro_batch for event in of_kind(Shrunk, events)] == [3, 1]
    assert len(of_kind(StepDone, events)) == 12


def test_a_shrunken_run_stays_shrunken_after_an_interruption(tmp_path, monkeypatch):
    Memory(monkeypatch, fails=lambda call, micro_batch: micro_batch > 3)
    _, events = run_with_stops(tmp_path, (5,), micro_batch=6)
    assert len(of_kind(Shrunk, events)) == 1


def test_the_cpu_says_out_of_memory_in_words(tmp_path, monkeypatch):
    step, calls = Trainer.step, []

    def stepped(trainer, batches, *, lr_share):
        calls.append(trainer.micro_batch)
        if len(calls) == 3:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return step(trainer, batches, lr_share=lr_share)

    monkeypatch.setattr(Trainer, "step", stepped)
    assert [event.micro_batch for event in of_kind(Shrunk, training(tmp_path).run())] == [1]


def test_memory_for_not_even_one_sequence_is_told_to_the_user(tmp_path, monkeypatch):
    Memory(monkeypatch, fails=lambda call, micro_batch: call > 3)
    with pytest.raises(UserError, match="memory does not suffice") as error:
        list(training(tmp_path).run())
    assert "hardware_probe.memory" in error.value.fix


def test_another_error_in_a_step_is_ours_and_keeps_its_traceback(tmp_path, monkeypatch):
    def broken(trainer, batches, *, lr_share):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(Trainer, "step", broken)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        list(training(tmp_path).run())


def lose(monkeypatch, *, steps):
    """Make the loss of these calls not a number; call 0 is the dry step."""
    step, calls = Trainer.step, []

    def stepped(trainer, batches, *, lr_share):
        calls.append(1)
        loss, norm = step(trainer, batches, lr_share=lr_share)
        return (loss * float("nan") if len(calls) - 1 in steps else loss), norm

    monkeypatch.setattr(Trainer, "step", stepped)


def test_a_diverged_training_is_told_to_the_user_with_the_rate_to_lower(tmp_path, monkeypatch):
    lose(monkeypatch, steps=range(4, 99))
    seen = []
    with pytest.raises(UserError, match="diverged") as error:
        seen.extend(training(tmp_path).run())
    assert "at step 6" in error.value.saw
    assert "train.learning_rate below 0.02" in error.value.fix


def test_a_rate_that_is_far_too_high_really_diverges(tmp_path):
    with pytest.raises(UserError, match="diverged"):
        list(training(tmp_path, optimizer="adamw", matrix_lr=1e30, warmup_share=0.0, clip_norm=0.0).run())


def test_a_loss_that_is_lost_in_the_last_step_is_told_too(tmp_path, monkeypatch):
    lose(monkeypatch, steps={12})
    with pytest.raises(UserError, match="diverged") as error:
        list(training(tmp_path).run())
    assert "at step 12" in error.value.saw


class LateReadings(Readings):
    """As on an accelerator: each reading comes one step late."""

    late: Reading | None = None

    @property
    def is_in_flight(self):
        return self.late is not None

    def exchange(self, step, loss, grad_norm):
        before, self.late = self.late, Readings.exchange(self, step, loss, grad_norm)
        return before

    def flush(self):
        before, self.late = self.late, None
        return before


def test_where_readings_come_late_the_last_one_is_not_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "Readings", LateReadings)
    run = training(tmp_path / "a")
    list(run.run())
    assert len(run.record.loss) == 12
    lose(monkeypatch, steps={12})
    with pytest.raises(UserError, match="diverged"):
        list(training(tmp_path / "b").run())


def test_a_step_in_flight_has_its_time_before_the_deadline_and_launching_is_no_pace(tmp_path, monkeypatch):
    now, ready, step_s = paced(monkeypatch, repeat(0.01)), [0.0, 0.0], 3.4  # a launch takes 0.01 s, and the device goes on with it

    class Device(LateReadings):
        def exchange(self, step, loss, grad_norm):
            ready[:] = [ready[1], max(ready[1], now[0]) + step_s]
            if self.is_in_flight:
                now[0] = max(now[0], ready[0])
            return super().exchange(step, loss, grad_norm)

        def flush(self):
            if self.is_in_flight:
                now[0] = max(now[0], ready[1])
            return super().flush()

    monkeypatch.setattr(loop, "Readings", Device)
    evaluations_take(monkeypatch, now, 0.2)
    plan = whole_plan(train=train_plan(clock="deadline", num_evals=4, checkpoint_interval_s=20.0))
    plan = plan.model_copy(update={"forecast": plan.forecast.model_copy(update={"step_s": step_s})})
    run = Training(plan, CORPORA, tmp_path, share_s=60.0, start_s=now[0], finish_s=0.0)
    events = list(run.run())
    assert len(of_kind(EvalDone, events)) == 4
    assert [event.cost_s for event in of_kind(EvalDone, events)] == [pytest.approx(0.2)] * 4
    assert len(of_kind(CheckpointSaved, events)) == 2
    assert not of_kind(Refit, events)
    assert 60.0 - step_s - 0.2 < now[0] - 1000.0 <= 60.0
    assert run.clock.step_s == pytest.approx(step_s, abs=0.02)
    assert run._disturbance.usual_s == pytest.approx(step_s, abs=0.02)
    assert lr_share(run.record.u[-1], plan.train) < 0.2
    assert len(run.record.loss) == run.step


def test_a_last_update_that_ruins_the_weights_is_told_although_its_loss_was_a_number(tmp_path, monkeypatch):
    step = Trainer.step

    def stepped(trainer, batches, *, lr_share):
        result = step(trainer, batches, lr_share=lr_share)
        if lr_share == last_share:
            next(iter(trainer.weights.masters.values())).data[0, 0] = float("inf")
        return result

    run = training(tmp_path, num_evals=0)
    last_share = lr_share(11 / 12, run.plan.train)
    monkeypatch.setattr(Trainer, "step", stepped)
    with pytest.raises(UserError, match="diverged") as error:
        list(run.run())
    assert "weights" in error.value.saw


def test_a_stop_right_after_a_lost_loss_is_no_divergence_and_keeps_the_last_good_checkpoint(tmp_path, monkeypatch, unhurried):
    lose(monkeypatch, steps={4})
    run = training(tmp_path, checkpoint_interval_s=0.0)
    run.should_stop = lambda: run.step == 4
    events = list(run.run())
    assert [event.step for event in of_kind(CheckpointSaved, events)] == [1, 2, 3]
    assert run.is_interrupted
    assert checkpoint.newest(tmp_path)[0].name == "step-000000003"
    words = "stopped at step 4, which could not be saved, as its loss or gradient is not a number"
    assert finish.farewell(run) == f"{words}; `dvc repro` goes on from the last good checkpoint, at step 3"


def ruin(monkeypatch, *, steps):
    """Make a gradient of these steps not a number although their loss is one; call 0 is the dry step."""
    clip, calls = Trainer._clip, []

    def ruined(trainer):
        calls.append(1)
        if len(calls) - 1 in steps:
            next(iter(trainer.weights.masters.values())).grad[0, 0] = float("nan")
        return clip(trainer)

    monkeypatch.setattr(Trainer, "_clip", ruined)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_gradient_that_is_not_a_number_costs_its_step_and_a_replay_does_the_same(tmp_path, monkeypatch, dtype):
    with monkeypatch.context() as patch:
        ruin(patch, steps={4, 12})
        run = training(tmp_path / "a", dtype=dtype)
        events = list(run.run())
    assert isinstance(events[-1], Finished)
    assert all(math.isfinite(event.loss) for event in of_kind(StepDone, events))
    assert all(torch.isfinite(weight).all() for weight in run.final_weights().values())
    ruin(monkeypatch, steps={4, 12})
    replayed = training(tmp_path / "b", dtype=dtype, recorded=realised(run, tmp_path / "schedule.jsonl"))
    list(replayed.run())
    assert same_state(run, replayed)


def test_gradients_that_are_no_numbers_any_more_are_a_divergence_although_no_loss_was_lost(tmp_path, monkeypatch):
    ruin(monkeypatch, steps=range(4, 99))
    with pytest.raises(UserError, match="diverged") as error:
        list(training(tmp_path).run())
    assert error.value.saw == "loss or gradient is not a number for 3 steps, at step 6"


def reach(monkeypatch, loss):
    """Each step with this loss, which changes nothing."""
    monkeypatch.setattr(Trainer, "step", lambda trainer, batches, *, lr_share: (torch.tensor(loss), torch.tensor(1.0)))


@pytest.mark.parametrize(("num_evals", "step"), [(0, 12), (2, 4)])
def test_losses_that_are_numbers_but_far_worse_than_a_guess_are_a_divergence(tmp_path, monkeypatch, num_evals, step):
    reach(monkeypatch, 2.1 * math.log(97))
    with pytest.raises(UserError, match="diverged") as error:
        list(training(tmp_path, num_evals=num_evals).run())
    assert error.value.saw == f"the loss is 9.607 nats per token, where a guess has 4.575, at step {step}"
    assert "train.learning_rate below 0.02" in error.value.fix


def test_a_loss_like_that_of_a_guess_or_a_validation_text_of_another_kind_is_no_divergence(tmp_path, monkeypatch):
    reach(monkeypatch, 1.5 * math.log(97))
    monkeypatch.setattr(Trainer, "mean_loss", lambda self, inputs, targets: 40.0)
    assert isinstance(list(training(tmp_path).run())[-1], Finished)


def no_compiler(monkeypatch, error):
    """The dry step of this training, compiled or not, ends with the error."""

    def fail(trainer, batches):
        raise error

    monkeypatch.setattr(torch, "compile", lambda function, **settings: function)
    monkeypatch.setattr(Trainer, "dry_step", fail)


@pytest.mark.parametrize(
    "error", [RuntimeError("InvalidCxxCompiler: no working C++ compiler"), FileNotFoundError(2, "No such file", "g++")], ids=["torch", "g++"]
)
def test_a_compiler_that_has_disappeared_is_told_to_the_user_with_the_way_to_another_plan(tmp_path, monkeypatch, error):
    no_compiler(monkeypatch, error)
    with pytest.raises(UserError, match="does not work here") as told:
        list(training(tmp_path / "a", is_compiled=True).run())
    assert "pufferfish doctor --remeasure" in told.value.fix
    with pytest.raises(type(error)):
        list(training(tmp_path / "b").run())


def test_a_compilation_that_runs_out_of_memory_is_tried_with_a_smaller_micro_batch(tmp_path, monkeypatch):
    dry_step, sizes = Trainer.dry_step, []

    def starved(trainer, batches):
        sizes.append(trainer.micro_batch)
        if len(sizes) == 1:
            raise RuntimeError("InductorError: OutOfMemoryError: CUDA out of memory. Tried to allocate 1 GiB")
        dry_step(trainer, batches)

    monkeypatch.setattr(torch, "compile", lambda function, **settings: function)
    monkeypatch.setattr(Trainer, "dry_step", starved)
    assert isinstance(list(training(tmp_path, is_compiled=True).run())[-1], Finished)
    assert sizes == [3, 1]


def test_a_validation_that_is_not_a_number_is_a_divergence(tmp_path, monkeypatch):
    monkeypatch.setattr(Trainer, "mean_loss", lambda self, inputs, targets: float("nan"))
    with pytest.raises(UserError, match="diverged") as error:
        list(training(tmp_path).run())
    assert "validation" in error.value.saw
    assert "at step 4" in error.value.saw


def test_memory_that_runs_out_in_an_evaluation_costs_this_evaluation_and_nothing_else(tmp_path, monkeypatch):
    undisturbed = training(tmp_path / "a", num_evals=3)
    list(undisturbed.run())
    sizes, mean_loss = [], Trainer.mean_loss

    def starved(trainer, inputs, targets):
        sizes.append(len(inputs))
        if len(inputs) > 1:
            trainer.model.eval()
            raise torch.OutOfMemoryError("out of memory, tried to allocate 20.00 MiB")
        return mean_loss(trainer, inputs, targets)

    monkeypatch.setattr(Trainer, "mean_loss", starved)
    run = training(tmp_path / "b", num_evals=3)
    events = list(run.run())
    assert len(of_kind(EvalDone, events)) == 2
    assert [event.step for event in of_kind(Warned, events)] == [3]
    assert "left out" in run.warnings[0]
    assert sizes == [3, *[1] * 4, *[1] * 4]
    assert run.trainer.model.training
    assert run.trainer.micro_batch == 3, "training goes on as it was"
    assert same_state(undisturbed, run)
    assert [row["step"] for row in run.record.curve] == [6, 9]


def test_another_error_in_an_evaluation_is_ours_and_keeps_its_traceback(tmp_path, monkeypatch):
    def broken(trainer, inputs, targets):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(Trainer, "mean_loss", broken)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        list(training(tmp_path).run())


def test_one_lost_loss_stops_neither_training_nor_saving_nor_the_outcome(tmp_path, monkeypatch, unhurried):
    lose(monkeypatch, steps={4})
    run = training(tmp_path / "work", checkpoint_interval_s=0.0)
    events = list(run.run())
    assert math.isnan(of_kind(StepDone, events)[3].loss)
    assert [event.step for event in of_kind(CheckpointSaved, events)] == [1, 2, 3, *range(5, 13)], "what may be ruined is not saved"
    assert isinstance(events[-1], Finished)
    assert len(run.record.loss) == 11
    assert math.isfinite(saved_outcome(run, tmp_path).final_loss)


# --- from artifacts to artifacts


def write_subset(folder, *, corpus="c0"):
    folder.mkdir(parents=True)
    shards = {}
    for part, ids in (("train", CORPORA.train), ("validation", CORPORA.validation)):
        ids.tofile(folder / f"{part}.bin")
        digest = digest_file(folder / f"{part}.bin")
        shards[part] = Shard(file=f"{part}.bin", sha256=digest, num_tokens=len(ids), num_documents=1, num_bytes=850 if part == "validation" else 9000)
    (folder / "tokenizer.json").write_text("{}")
    rest = {
        "validation_text_sha256": write_validation_text(folder, [b"x" * 850]),
        "separator_id": 0,
        "token_dtype": "uint16",
        "corpus_train_bytes": 9000,
        "bytes_per_token": 1.8,
    }
    subset = Subset(corpus=corpus, vocab_size=97, tokenizer_sha256=digest_file(folder / "tokenizer.json"), **shards, **rest)
    subset.save(folder / "manifest.json")
    return subset


def saved_outcome(run, folder):
    subset = write_subset(folder / "subset")
    return finish.save_model(run, run.plan, subset, tokenizer=folder / "subset" / "tokenizer.json", run_key="k", target=folder / "model")


def test_the_trained_model_is_a_folder_that_says_what_happened(tmp_path):
    run = training(tmp_path / "work", dtype="bfloat16")
    list(run.run())
    outcome = saved_outcome(run, tmp_path)
    assert {path.name for path in (tmp_path / "model").iterdir()} == {"model.safetensors", "outcome.json", "plan.json", "schedule.jsonl", "tokenizer.json"}
    assert Outcome.load(tmp_path / "model" / "outcome.json") == outcome
    assert Plan.load(tmp_path / "model" / "plan.json") == run.plan
    assert (outcome.num_steps, outcome.num_tokens, outcome.num_resumes, outcome.warnings) == (12, 1440, 0, [])
    assert outcome.final_lr_share == lr_share(11 / 12, run.plan.train)
    assert outcome.tokens_per_s == pytest.approx(1440 / run.loop_s)
    model, _ = load_model(tmp_path / "model")
    assert all(torch.equal(parameter, run.trainer.weights.masters[name]) for name, parameter in model.named_parameters())
    assert load_realised(tmp_path / "model" / "schedule.jsonl") == Realised(run.record.u, run.record.micro_batch, run.environment)
    rows = [json.loads(line) for line in (tmp_path / "model" / "schedule.jsonl").read_text().splitlines()]
    assert {name: rows[0][name] for name in ("num_steps", "seed", "data_seed")} == {"num_steps": 12, "seed": 5, "data_seed": 11}
    assert rows[6] == {"step": 5, "u": (5 / 12).hex(), "lr_share": lr_share(5 / 12, run.plan.train).hex(), "first_sample": 30, "micro_batch": 3}


def test_a_disk_that_is_full_at_the_end_is_told_and_takes_neither_the_old_model_nor_the_work(tmp_path, monkeypatch):
    run = training(tmp_path / "work")
    run.should_stop = lambda: run.step == 12
    list(run.run())
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old").touch()

    def full(path, tensors):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(finish, "save_tensors", full)
    with pytest.raises(UserError, match="cannot be saved") as error:
        saved_outcome(run, tmp_path)
    assert "No space left on device" in error.value.saw
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["old"]
    assert {path.name for path in tmp_path.iterdir()} == {"work", "model", "subset"}
    assert checkpoint.newest(tmp_path / "work")[0]


def test_a_training_starts_from_the_artifacts_with_its_share_of_the_time(workplace):
    subset = write_subset(paths.SUBSET)
    started_s = now_s()
    run = start_training(whole_plan(), subset, workplace / "work", started_s=started_s, should_stop=lambda: False)
    assert run.share_s == pytest.approx(53 - (2 + 3 + 4) - 3 / 5 - 13.5)
    assert run.start_s == started_s
    assert run.corpora.validation_bytes_per_token == 850 / 500
    assert np.array_equal(run.corpora.train, CORPORA.train)
    assert run.warnings == []
    assert names(run.run())[-1] == "Finished"


def test_a_training_that_starts_too_late_says_which_stage_took_its_time(workplace):
    at_s = now_s()
    for name, start_s, end_s in (("hardware-probe", at_s - 60, at_s - 55), ("plan", at_s - 54, at_s - 50), ("prepare-subset", at_s - 49, at_s - 1)):
        write_json(paths.timing(name), {"boot_id": boot_id(), "start_s": start_s, "end_s": end_s})
    run = start_training(whole_plan(), write_subset(paths.SUBSET), workplace / "work", started_s=at_s, should_stop=lambda: False)
    assert run.share_s > 1.0
    (warning,) = run.warnings
    assert warning.startswith("the stages before left 0.0 s for training, which is too little: hardware-probe 5.0 s, plan 4.0 s, prepare-subset 48.0 s")


def test_a_subset_of_another_plan_is_refused(workplace):
    subset = write_subset(paths.SUBSET, corpus="c9")
    with pytest.raises(UserError, match="prepared for another plan") as error:
        start_training(whole_plan(), subset, workplace / "work", started_s=0.0, should_stop=lambda: False)
    assert "c9" in error.value.saw
    with pytest.raises(UserError, match="prepared for another plan"):
        start_training(whole_plan(model_plan(vocab_size=98), corpus="c9"), subset, workplace / "work", started_s=0.0, should_stop=lambda: False)
