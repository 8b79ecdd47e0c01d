"""What is counted in the text is right, and an embedding and a head that start from it know it from the first step."""

import math

import numpy as np
import pytest
import torch
from toys import model_plan, train_plan

from pufferfish.model import counts
from pufferfish.model.init import initialize
from pufferfish.model.transformer import Decoder
from pufferfish.train.step import Trainer

VOCABULARY = 61


@pytest.fixture
def text():
    """Each token is followed by one of three, one of which is usual."""
    random = np.random.default_rng(0)
    followers = random.integers(0, VOCABULARY, (VOCABULARY, 3))
    tokens = [0]
    for choice in random.choice(3, 20_000, p=[0.7, 0.2, 0.1]):
        tokens.append(followers[tokens[-1], choice])
    return np.array(tokens, dtype=np.uint16)


def made(tokens=None, *, seed=0, **shape):
    model = Decoder(model_plan(vocab_size=VOCABULARY, d_model=64, **shape), attention="explicit")
    initialize(model, seed=seed, tokens_N=tokens)
    return model


def first_loss(model, tokens):
    batch = torch.from_numpy(tokens[: 20 * 17].astype(np.int64)).view(20, 17)
    with torch.no_grad():
        return float(model.loss(batch[:, :-1], batch[:, 1:]))


def test_pairs_are_counted_as_they_follow():
    entries, found = counts.count_pairs(np.array([2, 0, 2, 0, 1, 2, 2], dtype=np.uint16), 4)
    assert entries.tolist() == [0, 1, 2, 3]
    assert found.tolist() == [[0, 1, 1, 0], [0, 0, 1, 0], [2, 0, 1, 0], [0, 0, 0, 0]]


def test_of_a_large_vocabulary_the_most_frequent_are_counted(monkeypatch, text):
    _, everything = counts.count_pairs(text, VOCABULARY)
    monkeypatch.setattr(counts, "MOST_ENTRIES", 10)
    monkeypatch.setattr(counts, "ROWS", 4)
    entries, found = counts.count_pairs(text, VOCABULARY)
    often = np.bincount(text, minlength=VOCABULARY)
    assert len(entries) == 10
    assert often[entries].min() >= np.delete(often, entries).max()
    assert torch.equal(found, everything[entries][:, entries])
    plain, planted = made(), made(text)
    others = np.setdiff1d(np.arange(VOCABULARY), entries)
    assert torch.equal(plain.model.embed_tokens.weight[others], planted.model.embed_tokens.weight[others])
    assert first_loss(planted, text) < math.log(VOCABULARY)


def test_of_a_long_text_stretches_from_everywhere_are_counted(monkeypatch):
    monkeypatch.setattr(counts, "MOST_TOKENS", 100)
    monkeypatch.setattr(counts, "STRETCHES", 10)
    sorted_text = np.repeat(np.arange(50, dtype=np.uint16), 20)
    _, found = counts.count_pairs(sorted_text, 50)
    assert found.sum() == 10 * 9, "no pair across two stretches"
    assert (found.sum(1) > 0).sum() >= 10
    assert found[0].sum() > 0 < found[49].sum()


def test_a_model_knows_from_the_start_what_follows_what(text):
    plain, planted = made(), made(text)
    assert first_loss(plain, text) == pytest.approx(math.log(VOCABULARY), abs=0.01)
    assert first_loss(planted, text) < 0.85 * math.log(VOCABULARY)
    assert torch.equal(plain.model.embed_tokens.weight[:, 0], planted.model.embed_tokens.weight[:, 0]), "the constant component"
    lengths = [float(each.model.embed_tokens.weight.detach()[:, 1:].square().mean()) for each in (plain, planted)]
    assert lengths[1] == pytest.approx(lengths[0], rel=0.15)
    others = [name for name, _ in plain.named_parameters() if "embed_tokens" not in name and "lm_head" not in name]
    assert all(torch.equal(plain.get_parameter(name), planted.get_parameter(name)) for name in others)


def test_the_same_text_and_seed_make_the_same_weights(text):
    one, again, other = made(text), made(text), made(text, seed=1)
    assert torch.equal(one.head_weight, again.head_weight)
    assert not torch.equal(one.head_weight, other.head_weight)


def test_a_tied_embedding_starts_without_counts(text):
    plain, planted = made(is_tied=True), made(text, is_tied=True)
    assert torch.equal(plain.model.embed_tokens.weight, planted.model.embed_tokens.weight)


@pytest.mark.parametrize("tokens", [[], [3], [3, 3], [0, 1, 2]])
def test_a_text_of_hardly_a_token_does_no_harm(tokens):
    model = made(np.array(tokens, dtype=np.uint16))
    assert all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())


def test_training_learns_more_in_few_steps(text):
    def trained(tokens):
        trainer = Trainer(model_plan(vocab_size=VOCABULARY, d_model=64), train_plan(num_steps=20), tokens)
        size = trainer.plan.micro_batch * (trainer.model_plan.seq_len + 1)
        for step in range(20):
            batch = text[step * size : (step + 1) * size].astype(np.int64).reshape(trainer.plan.micro_batch, -1)
            trainer.step([batch] * (trainer.sequences_per_step // trainer.micro_batch), lr_share=0.2)
        return first_loss(trainer.model, text)

    assert trained(text) < trained(None)
