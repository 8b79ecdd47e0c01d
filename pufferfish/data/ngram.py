"""An n-gram model over token ids: interpolated modified Kneser-Ney smoothing (Chen & Goodman 1999, section 3), by sorting.

Every distinct n-gram gets a rank. An n-gram is the pair (rank of its first n-1 tokens, last token), a number that fits 38 bits
beside its 22-bit place in the text; so one sort of plain integers per order finds all n-grams, their counts and where they begin.
N training tokens, M validation tokens, U distinct n-grams, C distinct contexts, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

PLACE_BITS = 22
MAX_TOKENS = 1 << PLACE_BITS  # a key is rank (22 bits), token (16 bits), place (22 bits)
MAX_VOCAB_SIZE = 1 << 16
NUM_DISCOUNTS = 3  # for n-grams seen once, twice, three times or more
FALLBACK_DISCOUNT = 0.75  # where there are too few counts to estimate one; Ney, Essen & Kneser 1994


@dataclass(frozen=True)
class Order:
    """All n-grams of one length. Counts are those of the text for the longest, and numbers of distinct predecessors for the shorter."""

    keys_U: np.ndarray  # context * V + token, sorted
    counts_U: np.ndarray
    discounts: np.ndarray  # by count: none for 0, then for 1, 2, 3 or more
    totals_C: np.ndarray  # sum of counts behind each context
    held_C: np.ndarray  # share of a context's probability that goes to the shorter one


class KneserNey:
    """Probabilities of tokens given up to `order` - 1 tokens before."""

    def __init__(self, train_N: np.ndarray, *, vocab_size: int, order: int) -> None:
        """`train_N` holds token ids below `vocab_size`."""
        assert 2 <= order <= len(train_N) <= MAX_TOKENS
        assert vocab_size <= MAX_VOCAB_SIZE
        self.vocab_size = vocab_size
        self.orders: list[Order] = []
        ranks_N = previous_N = np.zeros(len(train_N), np.int64)  # of the (n-1)-gram before each token; there is one empty context
        num_contexts = 1
        found = []
        for length in range(1, order + 1):
            keys_U, counts_U, firsts_U, next_N = rank(ranks_N, train_N[length - 1 :], vocab_size)
            found.append((keys_U, counts_U, num_contexts))
            if length > 1:  # the shorter n-grams count their distinct predecessors: this n-gram without its first token
                shorter_keys, _, shorter_contexts = found[length - 2]
                predecessors = np.bincount(previous_N[firsts_U + 1], minlength=len(shorter_keys))
                self.orders.append(make_order(shorter_keys, predecessors, shorter_contexts, vocab_size))
            previous_N, ranks_N, num_contexts = next_N, next_N[:-1], len(keys_U)
        self.orders.append(make_order(*found[-1], vocab_size))

    def nats(self, tokens_M: np.ndarray) -> np.ndarray:
        """-ln p (M,) of each token given those before it in `tokens_M`."""
        num_tokens = len(tokens_M)
        probabilities_M = np.full(num_tokens, 1 / self.vocab_size)
        contexts_M = np.zeros(num_tokens, np.int64)  # rank of the context of the order at hand, -1 where it was never seen
        for order in self.orders:
            keys_M = contexts_M * self.vocab_size + tokens_M
            ranks_M = np.searchsorted(order.keys_U, keys_M).clip(max=len(order.keys_U) - 1)
            is_known_M = (order.keys_U[ranks_M] == keys_M) & (contexts_M >= 0)
            counts_M = np.where(is_known_M, order.counts_U[ranks_M], 0)
            totals_M = np.where(contexts_M >= 0, order.totals_C[contexts_M], 0)
            seen_M = totals_M > 0
            own_M = (counts_M - order.discounts[counts_M.clip(max=NUM_DISCOUNTS)])[seen_M] / totals_M[seen_M]
            probabilities_M[seen_M] = own_M + order.held_C[contexts_M[seen_M]] * probabilities_M[seen_M]
            contexts_M = np.concatenate([[-1], np.where(is_known_M, ranks_M, -1)[:-1]])
        return -np.log(probabilities_M)


def rank(contexts_N: np.ndarray, tokens_N: np.ndarray, vocab_size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Distinct keys (U,), their counts (U,), where each occurs (U,), and the rank (N,) of the n-gram at each place."""
    places_N = np.arange(len(tokens_N), dtype=np.uint64)
    keys_N = (contexts_N * vocab_size + tokens_N).astype(np.uint64)
    packed_N = np.sort((keys_N << np.uint64(PLACE_BITS)) | places_N)
    order_N = (packed_N & np.uint64(MAX_TOKENS - 1)).astype(np.int64)
    sorted_N = (packed_N >> np.uint64(PLACE_BITS)).astype(np.int64)
    is_new_N = np.empty(len(sorted_N), bool)
    is_new_N[:1] = True
    np.not_equal(sorted_N[1:], sorted_N[:-1], out=is_new_N[1:])
    starts_U = np.flatnonzero(is_new_N)
    ranks_N = np.empty(len(sorted_N), np.int64)
    ranks_N[order_N] = np.cumsum(is_new_N) - 1
    return sorted_N[starts_U], np.diff(starts_U, append=len(sorted_N)), order_N[starts_U], ranks_N


def make_order(keys_U: np.ndarray, counts_U: np.ndarray, num_contexts: int, vocab_size: int) -> Order:
    """Discounts, and per context the total and the probability that the discounts take away."""
    discounts = estimate_discounts(counts_U)
    contexts_U = keys_U // vocab_size
    totals_C = np.bincount(contexts_U, weights=counts_U, minlength=num_contexts)
    taken_C = np.bincount(contexts_U, weights=discounts[counts_U.clip(max=NUM_DISCOUNTS)], minlength=num_contexts)
    held_C = np.divide(taken_C, totals_C, out=np.ones(num_contexts), where=totals_C > 0)
    return Order(keys_U, counts_U, discounts, totals_C, held_C)


def estimate_discounts(counts_U: np.ndarray) -> np.ndarray:
    """Discounts (4,) by count 0, 1, 2, 3 or more, from how many n-grams occur once to four times (Chen & Goodman 1999, equation 17).

    All are greater than zero, so that nothing is impossible: unusual counts that would give less fall back to one plain discount.
    """
    ones, twos, threes, fours = (int((counts_U == count).sum()) for count in (1, 2, 3, 4))
    if min(ones, twos, threes, fours) > 0:
        share = ones / (ones + 2 * twos)
        estimates = [1 - 2 * share * twos / ones, 2 - 3 * share * threes / twos, 3 - 4 * share * fours / threes]
        if min(estimates) > 0:
            return np.array([0, *estimates])
    return np.array([0, *[FALLBACK_DISCOUNT] * NUM_DISCOUNTS])
