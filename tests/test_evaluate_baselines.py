"""The baselines are proper codes, and the n-gram equals a slow plain count."""

import math
import tracemalloc
from collections import Counter, defaultdict

import numpy as np
import pytest

from pufferfish.data.ngram import FALLBACK_DISCOUNT, KneserNey
from pufferfish.evaluate import baselines

VOCAB_SIZE = 7


def toy_tokens(length, seed):
    """Tokens with some structure: each likes to follow its predecessor."""
    random = np.random.default_rng(seed)
    tokens = [0]
    while len(tokens) < length:
        tokens.append((tokens[-1] * 2 + int(random.integers(0, 3)) ** 2) % VOCAB_SIZE if random.random() < 0.8 else int(random.integers(0, VOCAB_SIZE - 1)))
    return np.array(tokens)


class SlowKneserNey:
    """Chen & Goodman (1999), section 3, with dictionaries and loops."""

    def __init__(self, tokens, vocab_size, order):
        self.vocab_size = vocab_size
        grams = {n: Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)) for n in range(1, order + 1)}
        self.counts = {order: grams[order]}
        for n in range(1, order):
            predecessors = defaultdict(set)
            for gram in grams[n + 1]:
                predecessors[gram[1:]].add(gram[0])
            self.counts[n] = Counter({gram: len(seen) for gram, seen in predecessors.items()})
        self.discounts = {n: self.estimate(counts) for n, counts in self.counts.items()}

    @staticmethod
    def estimate(counts):
        n1, n2, n3, n4 = (sum(count == k for count in counts.values()) for k in (1, 2, 3, 4))
        if 0 in (n1, n2, n3, n4):
            return [0, FALLBACK_DISCOUNT, FALLBACK_DISCOUNT, FALLBACK_DISCOUNT]
        y = n1 / (n1 + 2 * n2)
        wanted = [1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3]
        return [0, *wanted] if min(wanted) > 0 else [0, FALLBACK_DISCOUNT, FALLBACK_DISCOUNT, FALLBACK_DISCOUNT]

    def probability(self, context, token, n=None):
        n = len(context) + 1 if n is None else n
        if n == 0:
            return 1 / self.vocab_size
        context = context[len(context) - (n - 1) :]
        shorter = self.probability(context[1:], token, n - 1)
        behind = {gram[-1]: count for gram, count in self.counts[n].items() if gram[:-1] == tuple(context)}
        total = sum(behind.values())
        if total == 0:
            return shorter
        discount = {w: self.discounts[n][min(count, 3)] for w, count in behind.items()}
        own = behind.get(token, 0) - discount.get(token, 0)
        return (own + sum(discount.values()) * shorter) / total


@pytest.mark.parametrize(("order", "length"), [(2, 40), (3, 300), (5, 600)])
def test_the_ngram_equals_the_slow_count(order, length):
    train, validation = toy_tokens(length, seed=1), np.append(toy_tokens(90, seed=2), VOCAB_SIZE - 1)
    slow = SlowKneserNey(train.tolist(), VOCAB_SIZE, order)
    text = validation.tolist()
    expected = [-math.log(slow.probability(tuple(text[max(0, i - order + 1) : i]), text[i])) for i in range(len(text))]
    found = KneserNey(train, vocab_size=VOCAB_SIZE, order=order).nats(validation)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_the_ngram_gives_every_context_one_whole_probability():
    model = KneserNey(toy_tokens(500, seed=4), vocab_size=VOCAB_SIZE, order=5)
    for context in ([], [3], [0, 0, 0, 0], [6, 6], [1, 2, 5, 3], toy_tokens(9, seed=4).tolist()):
        total = sum(math.exp(-model.nats(np.array([*context, token]))[-1]) for token in range(VOCAB_SIZE))
        assert total == pytest.approx(1, abs=1e-12)


def test_the_ngram_keeps_large_vocabularies_apart():
    train = np.array([65535, 0, 65534, 65535, 1, 65535, 0, 65534])
    model = KneserNey(train, vocab_size=65536, order=5)
    after = [math.exp(-model.nats(np.array([0, 65534, 65535, token]))[-1]) for token in (1, 0, 2)]
    assert after[0] > after[1] > after[2] > 0  # seen here, seen after the last token, never seen


def test_longer_contexts_and_more_text_help_where_text_has_memory():
    random = np.random.default_rng(5)
    tokens = [1, 2]
    while len(tokens) < 6000:  # each follows from the two before it, nine times out of ten
        tokens.append((3 * tokens[-1] + 5 * tokens[-2]) % VOCAB_SIZE if random.random() < 0.9 else int(random.integers(0, VOCAB_SIZE)))
    train, validation = np.array(tokens[:5000]), np.array(tokens[5000:])
    short, long = (KneserNey(train, vocab_size=VOCAB_SIZE, order=order).nats(validation).mean() for order in (2, 3))
    little = KneserNey(train[:100], vocab_size=VOCAB_SIZE, order=3).nats(validation).mean()
    assert long < 0.6 * short
    assert long < little


def test_random_tokens_cannot_be_predicted():
    random = np.random.default_rng(8)
    train, validation = random.integers(0, VOCAB_SIZE, 3000), random.integers(0, VOCAB_SIZE, 1000)
    sizes = {"vocab_size": VOCAB_SIZE, "num_bytes": 1000}
    chance = math.log2(VOCAB_SIZE) * 999 / 1000
    assert baselines.unigram_bpb(train, validation, **sizes) == pytest.approx(chance, rel=0.01)
    assert baselines.ngram_bpb(train, validation, **sizes) > chance


def test_the_unigram_is_proper_and_counts_all_but_the_first_token():
    train, validation = np.array([0, 0, 1, 2]), np.array([5, 0, 1])
    counts = [3, 2, 2, 1, 1, 1, 1]
    expected = -(math.log2(counts[0] / sum(counts)) + math.log2(counts[1] / sum(counts))) / 10
    assert baselines.unigram_bpb(train, validation, vocab_size=VOCAB_SIZE, num_bytes=10) == pytest.approx(expected)


def test_the_unigram_holds_a_slice_of_the_training_tokens_at_a_time(monkeypatch):
    monkeypatch.setattr(baselines, "SLICE_TOKENS", 1000)
    train, validation = toy_tokens(4321, seed=1).astype(np.uint16), toy_tokens(60, seed=2)
    counts = np.bincount(train, minlength=VOCAB_SIZE) + 1
    expected = -np.log2(counts[validation[1:]] / counts.sum()).sum() / 60
    many = np.resize(train, 1_000_000)
    assert baselines.unigram_bpb(train, validation, vocab_size=VOCAB_SIZE, num_bytes=60) == pytest.approx(expected)
    tracemalloc.start()
    baselines.unigram_bpb(many, validation, vocab_size=VOCAB_SIZE, num_bytes=60)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 0.1 * many.nbytes


def test_compressors_find_repetition_and_not_noise():
    noise = np.random.default_rng(9).integers(0, 256, 20_000, dtype=np.uint8).tobytes()
    for measure in (baselines.zlib_bpb, baselines.lzma_bpb):
        assert measure(b"the same again. " * 2000) < 0.2
        assert 8.0 <= measure(noise) < 8.1


def test_every_baseline_has_a_stable_name_and_it_is_known_what_the_ngram_counted(monkeypatch):
    monkeypatch.setattr(baselines, "MAX_TRAIN_TOKENS", 300)
    said = []
    train, validation = toy_tokens(800, seed=1), toy_tokens(60, seed=2)
    found = baselines.measure_baselines(train, validation, bytes(validation.tolist()), vocab_size=VOCAB_SIZE, say=said.append)
    assert list(found.bpb) == ["uniform", "zlib", "lzma", "unigram", "5-gram"]
    assert len(said) == len(found.bpb)
    assert found.bpb["uniform"] == 8
    assert found.ngram_tokens == 300
