"""An average of the last weights teaches a training that reads its text again and again, and is the model in the end."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from machines import Planner
from test_train_loop import CORPORA, bits, names, realised, run_with_stops, training
from toys import model_plan, train_plan

from pufferfish.model import loss as loss_module
from pufferfish.model.loss import Lesson, mean_cross_entropy
from pufferfish.model.price import decoder_price
from pufferfish.plan import memory, recipe, scaling, speed
from pufferfish.train.average import TAUGHT_SNAPSHOTS, Average
from pufferfish.train.loop import Corpora, Training
from pufferfish.train.step import Trainer

SHARE = 0.3


def batch(seed=0, rows=6):
    return np.random.default_rng(seed).integers(0, 97, (rows, 21))


def step(trainer, windows):
    return trainer.step([windows[:3], windows[3:]], lr_share=1.0)


# --- the loss


@pytest.mark.parametrize("chunk", [7, 53])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float16, 3e-3)])
def test_gradients_are_those_of_targets_that_are_mixed_with_the_teachers_and_the_value_is_the_texts_own(monkeypatch, dtype, tolerance, chunk):
    monkeypatch.setattr(loss_module, "CHUNK_BYTES", 4 * 61 * chunk)
    generator = torch.Generator().manual_seed(3)
    hidden, weight, teacher_hidden, teacher_weight = (torch.randn(rows, 9, generator=generator).to(dtype) for rows in (53, 61, 53, 61))
    targets = torch.randint(0, 61, (53,), generator=generator)
    hidden.requires_grad_()
    weight.requires_grad_()
    loss = mean_cross_entropy(hidden, weight, targets, Lesson(teacher_hidden, teacher_weight, SHARE))
    loss.backward()
    assert loss.item() == pytest.approx(mean_cross_entropy(hidden, weight, targets).item(), rel=1e-6)
    exact_hidden, exact_weight = (tensor.detach().double().requires_grad_() for tensor in (hidden, weight))
    log_probabilities = torch.log_softmax(exact_hidden @ exact_weight.T, -1)
    taught = torch.softmax(teacher_hidden.double() @ teacher_weight.double().T, -1)
    mixed = (1 - SHARE) * F.one_hot(targets, 61) + SHARE * taught
    (-(mixed * log_probabilities).sum(-1).mean()).backward()
    for found, exact in ((hidden.grad, exact_hidden.grad), (weight.grad, exact_weight.grad)):
        assert found.dtype == dtype
        assert (found.double() - exact).norm() <= tolerance * exact.norm()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 2e-2), (torch.float16, 3e-3)])
def test_a_nearly_certain_target_keeps_its_gradient_beside_a_nearly_certain_teacher(dtype, tolerance):
    logits = torch.zeros(2, 6)
    logits[:, 4] = torch.tensor([8.6, 9.3])  # others are 0.0009 and 0.0005
    hidden, teacher_hidden = (row[None].to(dtype) for row in logits)
    weight = torch.eye(6, dtype=dtype)
    hidden.requires_grad_()
    mean_cross_entropy(hidden, weight, torch.tensor([4]), Lesson(teacher_hidden, weight, SHARE)).backward()
    mine, taught = (torch.softmax(row.detach().double(), -1) for row in (hidden, teacher_hidden))
    exact = mine - (1 - SHARE) * F.one_hot(torch.tensor([4]), 6) - SHARE * taught
    assert hidden.grad[0, 4].item() == pytest.approx(exact[0, 4].item(), rel=tolerance)


# --- the step


@pytest.mark.parametrize(("share", "is_same"), [(1.0, True), (0.5, False)])
def test_a_teacher_that_gives_all_of_the_targets_leaves_the_text_nothing_to_say(share, is_same):
    one, other = (Trainer(model_plan(), train_plan(teacher_share=share, optimizer="adamw", clip_norm=0.0)) for _ in range(2))
    teacher, windows, others = Trainer(model_plan(), train_plan(seed=77)), batch(), batch()
    others[:, -1] = (others[:, -1] + 1) % 97  # targets only: nothing follows them
    for trainer, each in ((one, windows), (other, others)):
        trainer.teach(teacher.weights.masters)
        step(trainer, each)
    pairs = zip(one.weights.masters.values(), other.weights.masters.values(), strict=True)
    assert (max(float((mine - theirs).detach().abs().max()) for mine, theirs in pairs) < 1e-3) is is_same


def test_the_teacher_sees_the_text_as_it_is_and_keeps_its_weights():
    trainer, seen = Trainer(model_plan(), train_plan(teacher_share=SHARE, input_noise=0.5)), []
    before = {name: weight.clone() for name, weight in trainer._teacher.state_dict().items()}
    trainer._teacher.model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    windows = batch()
    step(trainer, windows)
    assert np.array_equal(torch.cat(seen).numpy(), windows[:, :-1])
    assert all(torch.equal(before[name], weight) for name, weight in trainer._teacher.state_dict().items())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_teacher_takes_weights_by_their_names_and_is_what_is_measured(dtype):
    trainer, other = (Trainer(model_plan(), train_plan(teacher_share=share, dtype=dtype, seed=seed)) for share, seed in ((SHARE, 1), (0.0, 2)))
    windows = batch()
    assert trainer.mean_loss(windows[:, :-1], windows[:, 1:]) != other.mean_loss(windows[:, :-1], windows[:, 1:])
    trainer.teach(other.weights.masters)
    assert trainer.mean_loss(windows[:, :-1], windows[:, 1:]) == other.mean_loss(windows[:, :-1], windows[:, 1:])


def test_without_a_share_there_is_no_teacher_and_none_to_teach():
    trainer = Trainer(model_plan(), train_plan())
    assert trainer._teacher is None
    trainer.teach(trainer.weights.masters)


# --- the average


def test_an_average_is_over_the_same_part_of_the_schedule_however_few_the_steps():
    def left_of_half(num_steps):
        """The share of the weights of the first half in the average at the end."""
        weights = {"a": torch.zeros(1)}
        average = Average(weights, is_teacher=True)
        for step in range(num_steps):
            weights["a"].fill_(float(step < num_steps // 2))
            average.see(step / num_steps)
        return float(average.means["a"])

    assert left_of_half(400) == pytest.approx((1 - 1 / TAUGHT_SNAPSHOTS) ** 50, rel=1e-5)
    assert [left_of_half(num_steps) for num_steps in (10, 20, 50, 100)] == pytest.approx([left_of_half(400)] * 4, rel=1e-5)


# --- the training


TAUGHT = {"teacher_share": SHARE, "num_steps": 120, "micro_batch": 6}


def test_the_average_is_the_model_in_the_end(tmp_path):
    run = training(tmp_path, **TAUGHT)
    assert "Warned" not in names(run.run())
    assert run.is_averaged
    weights, last = run.final_weights(), run.trainer.exported_weights()
    assert all(torch.equal(weights[name], mean) for name, mean in run._average.means.items())
    assert any(not torch.equal(weights[name], last[name]) for name in weights)
    assert run.record.curve[-1]["val_bpb"] < run.record.curve[0]["val_bpb"]


def test_a_taught_training_is_the_same_after_interruptions_and_in_a_replay(tmp_path):
    whole = training(tmp_path / "whole", **TAUGHT)
    list(whole.run())
    resumed, _ = run_with_stops(tmp_path / "parts", (3, 57), **TAUGHT)
    replayed = training(tmp_path / "replay", recorded=realised(whole, tmp_path / "schedule.jsonl"), **TAUGHT)
    list(replayed.run())
    for other in (resumed, replayed):
        assert all(torch.equal(bits(other.final_weights()[name]), bits(weight)) for name, weight in whole.final_weights().items())


def test_what_is_learned_by_heart_is_learned_later_with_a_teacher(tmp_path):
    few = Corpora(CORPORA.train[:400], CORPORA.validation, 1.7)
    reached = []
    for share in (0.0, 0.5):
        plan = training(tmp_path / "none", num_steps=200, num_evals=6, matrix_lr=0.05, teacher_share=share).plan
        run = Training(plan, few, tmp_path / f"{share}", share_s=60.0, start_s=0.0, finish_s=0.0)
        list(run.run())
        reached.append(run.record.curve[-1]["val_bpb"])
    assert reached[1] < 0.99 * reached[0]


# --- the plan


def test_with_a_teacher_matrices_decay_the_more_the_more_often_and_the_larger_a_model_reads():
    decays = [recipe.decay_to_forget(epochs, per_byte) for epochs, per_byte in ((8, 0.35), (8, 1.4), (8, 3.0), (4, 3.0))]
    assert decays == pytest.approx([3.0, 12.0, 12.0, 6.0])


@pytest.mark.parametrize(("train", "seconds"), [({"num_steps": 12}, "10m"), ({"tokens_per_step": 65_536}, "10m"), ({"num_steps": 3000}, "1h")])
def test_however_few_the_steps_no_decay_wipes_the_weights_out(train, seconds):
    train = Planner("server", num_bytes=30_000).plan(seconds, train={"teacher_share": 0.5, **train}).train
    assert train.weight_decay * train.matrix_lr <= recipe.MOST_DECAY
    assert train.weight_decay * train.matrix_lr * train.num_steps <= recipe.decay_to_forget(recipe.MOST_READINGS, recipe.MANY_PER_BYTE) * (1 + 1e-9)


@pytest.mark.parametrize(("num_steps", "is_taught"), [(100, False), (1000, True)])
def test_counted_steps_are_taught_where_they_read_the_text_often(num_steps, is_taught):
    planner = Planner("server", num_bytes=1_000_000)
    plan = planner.plan("10m", train={"num_steps": num_steps, "tokens_per_step": 4096}, model={"num_layers": 3, "d_model": 192})
    assert (plan.train.teacher_share > 0) is is_taught, plan.forecast.epochs


def test_a_pinned_decay_and_cooldown_are_kept_with_a_teacher():
    train = Planner("server", num_bytes=1_000_000).plan("10m", train={"weight_decay": 0.3, "cooldown_share": 0.7}).train
    assert (train.teacher_share, train.weight_decay, train.cooldown_share) == (recipe.TEACHER_SHARE, 0.3, 0.7)


def test_a_small_text_with_much_time_gets_a_teacher_and_more_readings():
    planner = Planner("server", num_bytes=1_000_000)
    taught, alone = planner.plan("10m"), planner.plan("10m", train={"teacher_share": 0})
    assert (taught.train.teacher_share, alone.train.teacher_share) == (recipe.TEACHER_SHARE, 0.0)
    per_byte = taught.forecast.num_params / (0.95 * 1_000_000)
    decay = taught.train.weight_decay * taught.train.matrix_lr * taught.train.num_steps
    assert decay == pytest.approx(recipe.decay_to_forget(taught.forecast.epochs, per_byte))
    assert taught.train.weight_decay > 10 * alone.train.weight_decay == 10 * recipe.WEIGHT_DECAY
    assert taught.forecast.epochs > 1.3 * alone.forecast.epochs
    assert taught.forecast.val_bpb < 0.99 * alone.forecast.val_bpb
    assert any("average of the last weights" in reason for reason in taught.why.reasons)
    assert not any("average of the last weights" in reason for reason in alone.why.reasons)


@pytest.mark.parametrize(("num_bytes", "time"), [(1_000_000, "36s"), (11_000_000, "5m"), (10**9, "2h")])
def test_a_text_that_is_not_read_often_gets_none(num_bytes, time):
    assert Planner("server", num_bytes=num_bytes).plan(time).train.teacher_share == 0.0


def test_a_pinned_teacher_is_paid_for_where_it_does_not_pay():
    pinned, usual = (Planner("server").plan("2m", train=train) for train in ({"teacher_share": 0.4}, {}))
    assert pinned.train.teacher_share == 0.4
    assert pinned.forecast.tokens < 0.9 * usual.forecast.tokens
    assert not pinned.forecast.is_free


def test_a_text_is_learned_by_heart_the_later_with_a_teacher():
    alone, taught = ([scaling.repetition_cost(1e6, epochs, 1e6, is_taught=is_so) for epochs in (1, 4, 6, 8)] for is_so in (False, True))
    assert taught == sorted(taught)
    assert taught[0] == alone[0] == 0
    assert all(mine < theirs for mine, theirs in zip(taught[1:], alone[1:], strict=True))


def test_a_teacher_costs_a_third_of_the_passes_and_a_copy_of_the_weights():
    planner, model = Planner("server"), model_plan(d_model=256, num_layers=4, seq_len=256, vocab_size=4096)
    price = decoder_price(model, attention="explicit")
    taught, alone = (train_plan(teacher_share=share, dtype="bfloat16", micro_batch=8, tokens_per_step=2048) for share in (SHARE, 0.0))
    assert speed.pass_seconds(planner.machine, price, model, taught) == pytest.approx(4 / 3 * speed.pass_seconds(planner.machine, price, model, alone))
    assert speed.step_seconds(planner.machine, price, model, taught) < 4 / 3 * speed.step_seconds(planner.machine, price, model, alone)
    terms = [memory.memory_of(price, train, seq_len=256, embedding_params=0) for train in (taught, alone)]
    assert terms[0].weights == 2 * terms[1].weights == 4 * price.num_params
    assert terms[0].logits == 2 * terms[1].logits
    assert math.isclose(terms[0].activations, terms[1].activations)
