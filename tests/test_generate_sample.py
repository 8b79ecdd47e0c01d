"""Choosing tokens agrees with slow plain loops, and its frequencies with its probabilities."""

import math

import pytest
import torch

from pufferfish.base.errors import UserError
from pufferfish.generate.sample import Sampling, next_probabilities, sample_token

LOGITS = torch.tensor([0.3, -1.2, 2.0, 2.0, 0.0, -4.0, 1.1])
SETTINGS = [Sampling(temperature, top_k, top_p) for temperature in (0.5, 1.0, 1.7) for top_k in (0, 1, 3, 50) for top_p in (0.05, 0.6, 0.93, 1.0)]


def reference(logits, sampling):
    """The same choice with lists and loops, from the definitions."""
    weights = [math.exp(logit / sampling.temperature) for logit in logits]
    best = sorted(range(len(weights)), key=lambda token: (-weights[token], token))
    if sampling.top_k:
        best = best[: sampling.top_k]
    total = sum(weights[token] for token in best)
    kept, reached = [], 0.0
    for token in best:
        if reached >= sampling.top_p:
            break
        kept.append(token)
        reached += weights[token] / total
    total = sum(weights[token] for token in kept)
    return [weights[token] / total if token in kept else 0.0 for token in range(len(weights))]


@pytest.mark.parametrize("sampling", SETTINGS, ids=str)
def test_probabilities_equal_the_plain_loops(sampling):
    expected = torch.tensor(reference(LOGITS.tolist(), sampling), dtype=torch.float64)
    torch.testing.assert_close(next_probabilities(LOGITS, sampling), expected, atol=1e-9, rtol=0)


def test_greedy_takes_the_first_of_the_best():
    probabilities = next_probabilities(LOGITS, Sampling(temperature=0))
    assert probabilities.tolist() == [0, 0, 1, 0, 0, 0, 0]
    assert sample_token(LOGITS, Sampling(temperature=0), torch.Generator()) == 2


@pytest.mark.parametrize("temperature", [5e-324, 1e-310, 1e-250, 1e-199, 1e-20])
def test_a_tiny_temperature_takes_one_of_the_best_however_far_the_logits_lie_apart(temperature):
    logits = torch.tensor([-3e38, 0.0, 3e38, 1.0])
    sampling = Sampling(temperature, top_p=0.9)
    assert next_probabilities(logits, sampling).tolist() == [0, 0, 1, 0]
    assert sample_token(logits, sampling, torch.Generator()) == 2


def test_drawn_frequencies_follow_the_probabilities():
    sampling, generator = Sampling(temperature=0.9, top_p=0.95), torch.Generator().manual_seed(3)
    draws = torch.bincount(torch.tensor([sample_token(LOGITS, sampling, generator) for _ in range(4000)]), minlength=7) / 4000
    expected = next_probabilities(LOGITS, sampling)
    assert (draws - expected).abs().max() < 0.03  # four standard deviations of a share of one half
    assert draws[expected == 0].sum() == 0


def test_the_logits_are_left_as_they_were():
    logits = LOGITS.clone().double()
    next_probabilities(logits, Sampling(temperature=1.0, top_k=2, top_p=0.5))
    assert torch.equal(logits, LOGITS.double())


@pytest.mark.parametrize(
    "settings", [{"temperature": -0.1}, {"temperature": math.nan}, {"temperature": math.inf}, {"top_k": -1}, {"top_p": 0}, {"top_p": 1.2}, {"top_p": math.nan}]
)
def test_settings_without_a_meaning_are_refused(settings):
    with pytest.raises(UserError) as caught:
        Sampling(**settings)
    assert "give" in caught.value.fix
