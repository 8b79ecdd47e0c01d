"""Replaced inputs: as many as asked for, everywhere, others for other windows, and the same again for the same window."""

import pytest
import torch
from toys import model_plan, train_plan

from pufferfish.train.noise import corrupt
from pufferfish.train.step import Trainer


def windows(count=400, length=50, vocab_size=611):
    return torch.randint(0, vocab_size, (count, length), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("share", [0.05, 0.3])
def test_as_many_inputs_are_replaced_as_asked_for_and_at_every_position(share):
    clean = windows()
    is_replaced = corrupt(clean, share, 611) != clean
    assert is_replaced.double().mean().item() == pytest.approx(share, rel=0.1)
    by_position = is_replaced.double().mean(0)
    assert by_position.min() > share / 3
    assert by_position.max() < 2 * share


def test_replacements_are_spread_over_the_whole_vocabulary():
    clean = torch.zeros(2000, 50, dtype=torch.int64)
    clean[:, 0] = torch.arange(2000) % 611
    noisy = corrupt(clean, 0.5, 611)
    counts = torch.bincount(noisy[:, 1:][noisy[:, 1:] > 0], minlength=611)
    assert int(noisy.min()) >= 0
    assert len(counts) == 611
    assert (counts[1:] > 0).all()


def test_windows_that_differ_in_one_token_are_corrupted_otherwise_and_equal_ones_alike():
    one = windows(1)
    other = one.clone()
    other[0, 7] += 1
    is_replaced, is_replaced_elsewhere = (corrupt(each, 0.5, 5000) != each for each in (one, other))
    assert torch.equal(corrupt(one, 0.5, 5000), corrupt(one.clone(), 0.5, 5000))
    assert 10 < int((is_replaced != is_replaced_elsewhere).sum()) < 40


def test_a_step_learns_from_corrupted_inputs_and_clean_targets():
    clean, noisy = (Trainer(model_plan(), train_plan(input_noise=noise)) for noise in (0.0, 0.5))
    batch = windows(6, 21, 97).numpy()
    for trainer in (clean, noisy):
        for _ in range(30):
            trainer.step([batch[:3], batch[3:]], lr_share=1.0)
    assert clean.mean_loss(batch[:, :-1], batch[:, 1:]) < noisy.mean_loss(batch[:, :-1], batch[:, 1:])
    inputs = corrupt(torch.from_numpy(batch[:, :-1]), 0.5, 97).numpy()
    assert noisy.mean_loss(inputs, batch[:, 1:]) < clean.mean_loss(inputs, batch[:, 1:])
