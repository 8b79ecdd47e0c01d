"""How hard a text is, from counting and copying."""

import numpy as np
import pytest

from pufferfish.data.hardness import REFERENCE_BYTES, SHORTER_WINDOW, STEEPEST, WINDOW, bits, copying, hardness, last_occurrences

VOCAB_SIZE = 50


def phrases(num_tokens, *, num_phrases, seed):
    """Random phrases, again and again."""
    random = np.random.default_rng(7)
    known = random.integers(0, VOCAB_SIZE, (num_phrases, 6))
    return known[np.random.default_rng(seed).integers(0, num_phrases, num_tokens // 6)].ravel()


def measured(train, validation, **sizes):
    return hardness(train, validation, vocab_size=VOCAB_SIZE, **{"train_bytes": 3 * len(train), "validation_bytes": 3 * len(validation)} | sizes)


@pytest.mark.parametrize("window", [1, 5, 1000])
def test_the_last_occurrence_is_what_a_loop_finds(window):
    keys = np.random.default_rng(0).integers(0, 9, 300)
    slow = [next((before for before in range(at - 1, max(-1, at - 1 - window), -1) if keys[before] == keys[at]), -1) for at in range(len(keys))]
    assert last_occurrences(keys, window).tolist() == slow


def test_copying_makes_what_was_just_said_likely_and_all_else_hardly_less():
    random = np.random.default_rng(0)
    passage = random.integers(0, VOCAB_SIZE, 60)
    tokens = np.concatenate([random.integers(0, VOCAB_SIZE, 500), passage, passage, random.integers(0, VOCAB_SIZE, 500)])
    before = np.full(len(tokens), 1 / VOCAB_SIZE)
    after = copying(before, tokens)
    assert after[570:620].min() > 0.5
    assert np.log2(before / after)[:560].mean() < 0.1
    assert np.log2(after).sum() > np.log2(before).sum()


def test_nothing_is_impossible_where_copying_is_always_right():
    tokens = np.tile([3, 1, 2], 200)
    after = copying(np.full(len(tokens), 1 / VOCAB_SIZE), tokens)
    assert 0 < after.min() <= after.max() <= 1


def test_more_phrases_are_harder_and_more_text_is_easier():
    validation = phrases(3000, num_phrases=300, seed=1)
    easy, hard = (measured(phrases(30_000, num_phrases=number, seed=0), phrases(3000, num_phrases=number, seed=1)) for number in (30, 300))
    assert easy.bpb < hard.bpb
    (few,), (many,) = (bits(phrases(number, num_phrases=300, seed=0), validation, VOCAB_SIZE, windows=[WINDOW]) for number in (3000, 30_000))
    assert many < few
    assert STEEPEST <= hard.slope < 0


def test_a_text_that_comes_back_to_what_it_said_is_easier_for_who_looks_back_far_enough():
    random = np.random.default_rng(0)
    train = random.integers(0, VOCAB_SIZE, 20_000)

    def lookback(apart):
        """Of a text in which every stretch of so many tokens is said twice."""
        stretches = random.integers(0, VOCAB_SIZE, (6000 // apart, apart))
        return measured(train, np.repeat(stretches, 2, axis=0).ravel()).lookback

    near, middling, far = (lookback(apart) for apart in (SHORTER_WINDOW // 2, (SHORTER_WINDOW + WINDOW) // 2, 2 * WINDOW))
    assert middling > 0.3
    assert 0 <= near < 0.05
    assert 0 <= far < 0.05


def test_what_another_amount_of_text_says_is_carried_to_the_reference_by_the_slope():
    train, validation = phrases(20_000, num_phrases=3000, seed=0), phrases(6000, num_phrases=3000, seed=1)
    at_reference, at_half = (measured(train, validation, train_bytes=share * REFERENCE_BYTES) for share in (1, 0.5))
    assert at_half.bpb == pytest.approx(at_reference.bpb * 2**at_half.slope)
    assert at_half.bpb < at_reference.bpb == pytest.approx(bits(train, validation, VOCAB_SIZE, windows=[WINDOW])[0] / (3 * len(validation)))


@pytest.mark.parametrize(("num_train", "num_validation"), [(15, 1), (15, 2), (200, 5), (4000, 1)])
def test_a_handful_of_tokens_is_enough(num_train, num_validation):
    found = measured(phrases(6000, num_phrases=50, seed=0)[:num_train], phrases(600, num_phrases=50, seed=1)[:num_validation])
    assert found.bpb > 0
    assert STEEPEST <= found.slope <= 0
    assert found.lookback >= 0
