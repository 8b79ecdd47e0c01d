"""What quality a training will reach: bits per byte as a function of model, data, context and batch.

    bpb = text x (E + ((A N^-alpha + G / d)^(1/gamma) + (B (D + C)^-beta)^(1/gamma))^gamma) x context x batch x vocabulary x repetition x depth x width

N are the matrix parameters of the blocks and D the bytes trained on, both in millions; C is what is counted before, and d the width in units of 128, through
which every prediction has to pass. Context and vocabulary cost no more than a model of its size can make of them (`LEARNABLE`), and all bends to a guess among
all tokens. Size and data limit a model together, as in Kaplan et al., 2020, arXiv 2001.08361: a small text leaves a large model little to gain. With gamma = 1
they would add up, as in Hoffmann et al., 2022, arXiv 2203.15556; that fits small trainings alone as well, and then takes any size for enough. Repeated data
counts less (Muennighoff et al., 2023, arXiv 2305.16264), and is learned by heart the sooner, the more parameters there are for each byte of it. The constants
were fitted, all together, to runs of this code of 0.3 to 11 million tokens on thirteen texts, and to what is published of nanochat's models of 0.13 to 0.4
billion parameters at 10^18 to 10^19 operations: bits per byte, and the 10.5 tokens for each parameter that are best there (docs/LOG.md).
Since then vocabulary, repetition, depth and what is counted were fitted by themselves, and a better recipe moved the level.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from operator import itemgetter

IRREDUCIBLE = 0.3665
A, ALPHA = 0.244, 0.292
B, BETA = 1.173, 0.291
NARROW = 0.147
TOGETHER = 0.322  # gamma
# What starts from counts instead of chance is ahead by: so much text, but no more than this share of all, a guess. Fitted to small runs, see docs/LOG.md.
COUNTED_BYTES, COUNTED_SHARE = 1e5, 0.02
VOCABULARY_COST = 0.0145  # per squared e-fold away from the best one
BEST_VOCABULARY, VOCABULARY_GROWTH = 3800, 0.2  # after two million tokens, and how it grows with them; a guess, but for
VOCABULARY_TRIED, TRIED_GROWTH = (0.8e6, 4e6), 0.45  # tokens between which it was tried
# With which power of the readings it shrinks, since entries of which little is said are learned by heart: up to so many tokens in one reading; with more of
# them that power falls, so that 11 MB are best read with half the entries that reading it once would want (docs/LOG.md).
VOCABULARY_AGAIN, AGAIN_TRIED, AGAIN_FADES = 0.4, 1.2e6, 0.5
BEST_CONTEXT, CONTEXT_GROWTH = 350, 0.8  # after a million tokens, and how it grows with them: pairs of trainings on three texts (docs/LOG.md)
CONTEXT_AGAIN, CONTEXT_EPOCHS = 0.5, 3.0  # with which power of the readings it grows besides, up to so many: plays (docs/LOG.md)
LONGEST_BEST = 2048  # no longer ones were tried: a guess for all that learns from more than nine million tokens
SHORTER_COST, LONGER_COST = 0.020, 0.008  # per squared e-fold below the best one, where each beyond the first costs twice as much as that, and above
REFERENCE_LOOKBACK, LOOKBACK = 0.058, (0.5, 1.5)  # of a text to which that applies, and the least and most of it
SHORT_COST, SHORT_TOKENS = 0.092, 1.6e6  # of each e-fold below a context of 128, from so many tokens on; fitted to contexts of 16, 32 and 64 (docs/LOG.md)
SHORTEST_TRIED = 16
REACH = 2.0  # documents that a context is worth being long for: what lies beyond the own one tells nothing, but windows begin anywhere in it (docs/LOG.md)
LEARNABLE = 15.0  # tokens for each parameter of the blocks: with more, a model makes no more of its context and vocabulary, or of a hard text; a guess
BATCH_FACTOR, BATCH_EXPONENT = 0.031, 0.75  # see `best_tokens_per_step`
BATCH_PENALTY = 0.017  # per squared e-fold above the best batch
BATCH_AGAIN, FLATTER_AGAIN = 0.5, 0.35  # with which powers of the readings the best batch grows, and that penalty falls: plays and English (docs/LOG.md)
FEW_SEQUENCES, ENOUGH_SEQUENCES = 0.004, 4  # what each halving of the sequences of a step costs below so many; pairs of -0.5 to 0.5 % (docs/LOG.md)
LOOKUP_GAIN = {"none": 0.0, "value": 0.027, "bigram": 0.0}  # share of the bits per byte that a table saves; from one run each (docs/LOG.md)
# A single layer cannot look up what followed an earlier occurrence. What it loses by that in the end, 96 wide and in a text of the reference's worth to look
# back in: it goes with the width and the square of that worth, as far as was tried, half of it is lost after so many tokens, and a vocabulary of words instead
# of syllables saves a part: three texts (docs/LOG.md).
LONE_LAYER, HALF_LOOKED_UP, LONE_WIDTH = 0.1, 0.5e6, 96
MOST_LONE = 0.25  # with more, more tokens would be forecast to do harm
SYLLABLES, WORDS, SAVED_BY_WORDS = 2048, 4096, 0.65  # entries, and with which power of them that falls in between; wider ones were not tried
# What width saves besides what it does for size: in little training too, where `by_reading` has size matter little, and as looking back does (docs/LOG.md).
WIDER, WIDEST_TRIED = 0.03, 192  # for a width of 128, of what remains with the root of the width; no more beyond what was tried
# What layers beyond two save besides what their parameters do, for each e-fold of their number: 0.8, 1.3 and 3 % on three texts with widths from 160 on
# (docs/LOG.md). More than five were not tried, and narrow ones gain by fewer: at a width of 128 English by none, and 5 x 160 were worse than 4 x 192 on plays.
DEEPER, MOST_LAYERS, WIDTH_PER_LAYER = 0.02, 5, 48
SPREAD, OFFSET_SPREAD = 0.03, 0.06  # standard deviations of the logarithm of a forecast: for each training, and shared by all on a text; guesses from few runs
PILOT_SPREAD = 0.06  # the same of what short trainings say of a text: they read little, and are measured on a sample; one case was 6 % off (docs/LOG.md)
LAW = 24  # counts changes of these constants: what was learned about the forecasts of another law does not count

REFERENCE_HARDNESS = 1.370  # bits per byte that counting and copying make of a text of difficulty 1: the level, from fourteen texts (docs/LOG.md)
HARD_TO_THE_END, REFERENCE_BYTES = 0.15, 7e6  # how much less a text harder by a factor e gives for each e-fold of bytes; all texts compare at so many
HARD_AGAIN = 0.15  # with which power of the difficulty readings beyond the first give less: 5, 3 and 1 % for plays, English and `stdlib` (docs/LOG.md)
HARDEST, FITTED_BYTES = 0.5, 3e7  # the logarithm of the difficulty, and bytes, up to which that was fitted: beyond, it stays as it is there
COPIED_GAIN = 0.2  # of the logarithm of the bits per byte, where all of the validation text can be found in what is read
BOUND_POWER = 8  # how sharply a forecast bends to that of a guess among all tokens
REUSE = 15.4  # epochs after which repetition has lost its worth by a factor e
LEARNED_BY_HEART = 0.05  # what each further epoch costs a model with many parameters for each byte of the text
ROOMY = 0.10  # parameters for each byte, below which that fades: there four readings cost no more than `effective_bytes` says (Muennighoff et al.)
RARE = 170  # entries of the vocabulary that are seen so many times in one reading double that cost, but for `MOST_RARE`: rare ones are learned by heart soonest
MOST_RARE = 0.006  # of `repetition_cost`: 30 kB are best read 2 to 4 times, and there a rarity of 0.02 had them read once (docs/LOG.md)
REFERENCE_SLOPE, WEAR = -0.105, (0.5, 1.5)  # of the hardness of a text whose repetition costs as much as that, and the least and most of it; from three texts
# Of text, alone and with a teacher: alone 3.6 were no better than 1.7 after four readings, 4.6 worse than 0.9 after six; taught 5.9 were 1.3 % better than 2.5
# after eight (docs/LOG.md).
PARAMS_PER_BYTE, TAUGHT_PARAMS_PER_BYTE = 2.0, 6.0
NOISY_GROWTH, NOISE_EPOCHS = 0.77, 2.0  # where inputs are replaced, that cost grows with this power of the further epochs
# The same over that where an average of the weights teaches: four texts, 4 to 16 readings (docs/LOG.md). That is considered where there is time for so many
# readings without, as after four it was just worth its passes, and with so many parameters for each byte of the text: fewer were not tried.
TAUGHT_FACTOR, TAUGHT_GROWTH = 1.32, 0.45
TAUGHT_EPOCHS, TAUGHT_PER_BYTE = 6.0, 0.3
# How often a text may be read. Alone five are as good as four and more are worse; with a teacher twelve were as good and half a per cent worse (docs/LOG.md).
ALONE_EPOCHS = 5.0
EPOCHS = (1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 7.0, 8.0)


def difficulty(hardness_bpb: float) -> float:
    """How much harder than the reference a text is, judged by what counting and copying make of it: `data/hardness.py`."""
    return hardness_bpb / REFERENCE_HARDNESS


def best_tokens_per_step(tokens: float, epochs: float = 1.0) -> float:
    """The largest batch that is as good as smaller ones, for so many training tokens of a text that is read so many times: fitted to runs of 0.4 to 11
    million tokens here, with rates that fall with small batches (docs/LOG.md). The law 0.10 D^0.72, fitted to seven published optima from 1 million to 10
    billion tokens, says 1.6 to 2.1 times as much. Untried above 11 million."""
    return float(BATCH_FACTOR * tokens**BATCH_EXPONENT * max(1.0, epochs) ** BATCH_AGAIN)


def effective_bytes(num_bytes: float, unique_bytes: float) -> float:
    """Bytes of fresh text that are worth as much as `num_bytes` from a text of `unique_bytes`, read again and again."""
    if num_bytes <= unique_bytes:
        return num_bytes
    repeats = num_bytes / unique_bytes - 1
    return unique_bytes * (1 + REUSE * (1 - math.exp(-repeats / REUSE)))


def lookback(gain: float) -> float:
    """What a context is worth against the reference, judged by what copying gains where it looks back further: `data/hardness.py`."""
    return min(LOOKBACK[1], max(LOOKBACK[0], gain / REFERENCE_LOOKBACK))


def context_cost(seq_len: float, tokens: float, epochs: float = 1.0, *, worth: float = 1.0, is_lone: bool = False) -> float:
    """What share of the bits per byte a context costs that is shorter than the best one, which grows as models learn to look back, and the more, the more often
    they read a text; or longer than that. A lone layer (`is_lone`) does not learn to. `worth`: see `lookback`."""
    best = 0.0 if is_lone else BEST_CONTEXT * (tokens / 1e6) ** CONTEXT_GROWTH * min(CONTEXT_EPOCHS, max(1.0, epochs)) ** CONTEXT_AGAIN
    distance = math.log(max(128, min(LONGEST_BEST, best)) / max(128, seq_len))
    cost = SHORTER_COST * (distance**2 if distance < 1 else 2 * distance - 1) if distance > 0 else LONGER_COST * distance**2
    shorter = math.log(128 / min(128, seq_len))
    return float(worth * cost + SHORT_COST * shorter * min(1.0, tokens / SHORT_TOKENS) ** 0.5)


def lone_layer_cost(d_model: int, vocab_size: int, seq_len: float, tokens: float, *, worth: float = 1.0) -> float:
    """What share of the bits per byte it costs to have a single layer, beyond what the parameters of another one would save: the more, the more of looking back
    two would have learned, which contexts below 128 leave little of. `worth`: see `lookback`."""
    in_the_end = min(MOST_LONE, LONE_LAYER * d_model / LONE_WIDTH * worth**2)
    looked_up = (tokens / HALF_LOOKED_UP) ** 2
    words = max(SYLLABLES, min(WORDS, vocab_size)) / SYLLABLES
    return float(in_the_end * looked_up / (1 + looked_up) * words**-SAVED_BY_WORDS * min(1.0, seq_len / 128))


def vocabulary_cost(vocab_size: int, fresh: float, epochs: float = 1.0) -> float:
    """Share of the bits per byte that a vocabulary costs which is too small, so that words are spelled, or too large for all of its tokens to be learned: from
    the `fresh` tokens of one reading, and the less, the more often they are read."""
    tried = min(VOCABULARY_TRIED[1], max(VOCABULARY_TRIED[0], fresh))
    best = BEST_VOCABULARY * (tried / 2e6) ** TRIED_GROWTH * (fresh / tried) ** VOCABULARY_GROWTH
    best /= max(1.0, epochs) ** (VOCABULARY_AGAIN * min(1.0, AGAIN_TRIED / fresh) ** AGAIN_FADES)
    return math.expm1(VOCABULARY_COST * math.log(vocab_size / best) ** 2)


def batch_cost(tokens_per_step: float, tokens: float, epochs: float = 1.0) -> float:
    """Share of the bits per byte that a larger batch than the best one costs, the less, the more often the text is read. Smaller ones cost time alone."""
    distance = max(0.0, math.log(tokens_per_step / best_tokens_per_step(tokens, epochs)))
    return float(BATCH_PENALTY * max(1.0, epochs) ** -FLATTER_AGAIN * distance**2)


def few_sequences_cost(tokens_per_step: float, seq_len: int) -> float:
    """Share of the bits per byte that it costs to learn from less than four sequences at a time: neighbours in a text say much the same."""
    return FEW_SEQUENCES * max(0.0, math.log2(ENOUGH_SEQUENCES * seq_len / tokens_per_step))


def wear(slope: float) -> float:
    """What reading a text again costs against the reference, judged by how counting and copying gain from more of it: where new text says little that is new,
    old text is nearly as good."""
    return float(min(WEAR[1], max(WEAR[0], slope / REFERENCE_SLOPE)))


def repetition_cost(
    num_params: float, epochs: float, unique_bytes: float, wear: float = 1.0, *, rarity: float = 0.0, noisy_from: float = NOISE_EPOCHS, is_taught: bool = False
) -> float:
    """Share of the bits per byte that reading a text again and again costs, beyond what `effective_bytes` says: it is learned by heart. `rarity` is the size of
    the vocabulary over the tokens of one reading; above `noisy_from` readings inputs are replaced; `is_taught` where an average of the weights teaches."""
    further = max(0.0, epochs - 1)
    power = NOISY_GROWTH if epochs > noisy_from else 1.0
    growth = TAUGHT_FACTOR * further**TAUGHT_GROWTH if is_taught else further**power
    per_byte = num_params / unique_bytes
    return float(LEARNED_BY_HEART * (1 + RARE * min(MOST_RARE, rarity)) * wear * growth / (1 + (ROOMY / per_byte) ** 2))


def most_params(unique_bytes: float, *, is_taught: bool = False) -> float:
    """Parameters of the largest model that the law can judge on a text."""
    return (TAUGHT_PARAMS_PER_BYTE if is_taught else PARAMS_PER_BYTE) * unique_bytes


@dataclass(frozen=True)
class Experience:
    """What earlier trainings on a text say about forecasts for it."""

    correction: float = 1.0  # of the law's bits per byte
    spread: float = math.hypot(SPREAD, OFFSET_SPREAD)  # of the corrected forecast, one standard deviation of its logarithm
    num_outcomes: int = 0

    def with_pilots(self, log_errors: Sequence[float]) -> Experience:
        """The same after short trainings. Short ones err in a way that they share, so that all of them together are one witness, with a spread of its own."""
        offset, left = math.log(self.correction), self.spread**2 - SPREAD**2
        weight = left / (left + PILOT_SPREAD**2)
        offset += weight * (sum(log_errors) / len(log_errors) - offset)
        return replace(self, correction=math.exp(offset), spread=math.sqrt(SPREAD**2 + (1 - weight) * left))


def experience(log_errors: Sequence[float]) -> Experience:
    """From logarithms of reached over forecast bits per byte. A text has an offset from the law that all its trainings share, and each training a deviation of
    its own; both are normal, so the mean error counts the more, the more trainings there are (Bayes)."""
    if not log_errors:
        return Experience()
    num = len(log_errors)
    weight = num / (num + (SPREAD / OFFSET_SPREAD) ** 2)
    left = OFFSET_SPREAD**2 * (1 - weight)
    return Experience(math.exp(weight * sum(log_errors) / num), math.sqrt(SPREAD**2 + left), num)


@dataclass(frozen=True)
class Text:
    """What the law needs to know of a text."""

    unique_bytes: float  # to learn from
    difficulty: float  # see `difficulty`
    experience: Experience = Experience()
    copied: float = 0.0  # share of the validation text that can be found in what is learned from, once so much was read:
    copied_bytes: float = math.inf
    wear: float = 1.0  # see `wear`
    noisy_from: float = NOISE_EPOCHS  # readings, above which inputs are replaced; infinite where that is not wished for
    document_bytes: float = math.inf  # of the document that a byte lies in, on average
    lookback: float = 1.0  # see `lookback`

    @property
    def hardening(self) -> float:
        """With which power of the fresh bytes read it becomes harder than the reference."""
        return HARD_TO_THE_END * max(-HARDEST, min(HARDEST, math.log(self.difficulty)))

    def factor(self, num_bytes: float) -> float:
        """Bits per byte against those of the reference after so many bytes: hard texts stay hard, copies are found in the end. Only what is new counts."""
        fresh = min(num_bytes, self.unique_bytes)
        to_the_end = (min(fresh, FITTED_BYTES) / REFERENCE_BYTES) ** self.hardening
        copies = math.exp(-COPIED_GAIN * self.copied * min(1.0, fresh / self.copied_bytes))
        return float(self.difficulty * to_the_end * copies * self.experience.correction)


@dataclass(frozen=True)
class Learner:
    """What the law needs to know of a model, but for its depth and its context."""

    block_params: float  # of the blocks' matrices
    num_params: float
    d_model: int
    vocab_size: int
    bytes_per_token: float  # of the text in this vocabulary
    is_taught: bool = False  # by an average of its weights


def val_bpb(learner: Learner, text: Text, *, num_layers: int, seq_len: int, tokens: float, tokens_per_step: float) -> float:
    """Forecast of validation bits per byte."""
    num_bytes = tokens * learner.bytes_per_token
    epochs = num_bytes / text.unique_bytes
    batch = 1 + batch_cost(tokens_per_step, tokens, epochs) + few_sequences_cost(tokens_per_step, seq_len)
    deep = max(2.0, min(num_layers, MOST_LAYERS, learner.d_model / WIDTH_PER_LAYER))
    seen, learnable = min(seq_len, max(SHORTEST_TRIED, REACH * text.document_bytes / learner.bytes_per_token)), _learnable(tokens, learner)
    lone = lone_layer_cost(learner.d_model, learner.vocab_size, seen, learnable, worth=text.lookback) if num_layers == 1 else 0.0
    depth = 1 + lone - DEEPER * math.log(deep / 2)
    context = 1 + context_cost(seen, learnable, epochs, worth=text.lookback, is_lone=num_layers == 1)
    vocabulary = 1 + vocabulary_cost(learner.vocab_size, _learnable(tokens / max(1.0, epochs), learner), epochs)
    width = 1 + WIDER * text.lookback**2 * ((128 / min(WIDEST_TRIED, learner.d_model)) ** 0.5 - 1)
    bpb = text.factor(learnable * learner.bytes_per_token) * by_reading(learner, text, epochs) * context * vocabulary * batch * depth * width
    uniform = math.log2(learner.vocab_size) / learner.bytes_per_token  # what a guess among all tokens comes to: nothing that learns is worse
    return float(bpb / (1 + (bpb / uniform) ** BOUND_POWER) ** (1 / BOUND_POWER))


def by_reading(learner: Learner, text: Text, epochs: float) -> float:
    """What the law says of a model that reads a text so many times, with the best batch, context and vocabulary."""
    counted = min(COUNTED_BYTES, COUNTED_SHARE * text.unique_bytes)
    data = (effective_bytes(epochs * text.unique_bytes, text.unique_bytes) + counted) / 1e6
    by_size, by_data = A * (learner.block_params / 1e6) ** -ALPHA + NARROW * 128 / learner.d_model, B * data**-BETA
    reducible = (by_size ** (1 / TOGETHER) + by_data ** (1 / TOGETHER)) ** TOGETHER
    rarity = learner.vocab_size * learner.bytes_per_token / text.unique_bytes
    repetition = repetition_cost(
        learner.num_params, epochs, text.unique_bytes, text.wear, rarity=rarity, noisy_from=text.noisy_from, is_taught=learner.is_taught
    )
    return float((IRREDUCIBLE + reducible) * (1 + repetition) * text.difficulty ** (HARD_AGAIN * (1 - max(1.0, epochs) ** -2)))


def most_epochs(*, is_taught: bool) -> float:
    """Readings of a text, at most."""
    return EPOCHS[-1] if is_taught else ALONE_EPOCHS


def worthwhile_epochs(learner: Learner, text: Text, fitting: float) -> float:
    """How often a text is best read where there is time for `fitting` readings: that often, or less where more would do harm."""
    known = zip(EPOCHS, _by_epochs(learner, text), strict=True)
    most = min(fitting, most_epochs(is_taught=learner.is_taught))
    return min([(most, _compared(learner, text, most)), *((epochs, bpb) for epochs, bpb in known if epochs < most)], key=itemgetter(1))[0]


@cache
def _by_epochs(learner: Learner, text: Text) -> tuple[float, ...]:
    return tuple(_compared(learner, text, epochs) for epochs in EPOCHS)


def _compared(learner: Learner, text: Text, epochs: float) -> float:
    """Numbers of readings are compared with what they leave of the vocabulary."""
    fresh = _learnable(text.unique_bytes / learner.bytes_per_token * min(1.0, epochs), learner)
    return by_reading(learner, text, epochs) * (1 + vocabulary_cost(learner.vocab_size, fresh, epochs))


def _learnable(tokens: float, learner: Learner) -> float:
    return min(tokens, LEARNABLE * learner.block_params)


def interval(forecast: float, spread: float) -> tuple[float, float]:
    """80 % interval of a forecast with this standard deviation of its logarithm."""
    width = math.exp(1.2816 * spread)
    return forecast / width, forecast * width
