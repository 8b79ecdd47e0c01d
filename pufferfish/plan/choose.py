"""Price every configuration; of those that are known, take the smaller of near-equals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from pufferfish.plan import scaling
from pufferfish.plan.candidate import Candidate, has_enough_steps, in_time
from pufferfish.plan.configure import Situation, configurations
from pufferfish.plan.pace import with_paces
from pufferfish.plan.prices import Vocabulary
from pufferfish.plan.refuse import nothing_fits
from pufferfish.plan.scaling import Text
from pufferfish.schema.plan import ModelPlan

NEAR = 0.003  # relative difference of forecasts that counts as equal
OFTEN = 0.1  # more readings than the best, with which an equal forecast is not trusted: 2 x 256 in 4.1 readings was 1.8 % worse than 3 x 256 in 3 (docs/LOG.md)
UNMEASURED = 0.01  # relative difference of forecasts that a predicted pace has to promise


def enumerate_candidates(situation: Situation, models: Iterable[ModelPlan], vocabularies: Sequence[Vocabulary]) -> list[Candidate]:
    """Every model with the batches around its best one, that fits into memory and gets enough steps; best forecast first.

    Raises UserError if there is none: which of the bounds and pins left nothing.
    """
    models = list(models)
    candidates = in_time(list(_quick_enough(situation, models, vocabularies)))
    if not candidates:
        raise nothing_fits(situation, models, vocabularies)
    return sorted(_as_tried(candidates, situation.text), key=lambda candidate: candidate.forecast(situation.text))


def _quick_enough(situation: Situation, models: Iterable[ModelPlan], vocabularies: Sequence[Vocabulary]) -> Iterator[Candidate]:
    """Those that get enough steps. Models come narrow ones first: where one gets too few, or does not fit, wider ones of its kind are not priced."""
    hopeless = set()
    for model in models:
        kind = model.num_layers, model.vocab_size, model.seq_len
        if kind not in hopeless:
            found = [each for each in configurations(situation, [model], vocabularies) if has_enough_steps(each)]
            yield from found
            if not found:
                hopeless.add(kind)


def _as_tried(candidates: list[Candidate], text: Text) -> list[Candidate]:
    """Those that are no larger for the text than what the loss law was fitted to, or the smallest that can look back: beyond that it finds any size worth its
    while.

    A vocabulary is not a size: where a shape is pinned, each keeps its smallest.
    """
    most: dict[int, float] = {}
    for candidate in [each for each in candidates if each.model.num_layers > 1] or candidates:
        most[candidate.model.vocab_size] = min(candidate.price.num_params, most.get(candidate.model.vocab_size, math.inf))
    bounds = {is_taught: scaling.most_params(text.unique_bytes, is_taught=is_taught) for is_taught in (False, True)}
    return [each for each in candidates if each.price.num_params <= max(bounds[each.is_taught], most.get(each.model.vocab_size, 0.0))]


def informed(candidates: list[Candidate], known: Sequence[Candidate]) -> list[Candidate]:
    """The candidates with what is known from steps of configurations like them, measured for another plan. Where that measured nothing compiled, those that
    are not come first: a plan that measures would compile nothing on a guess."""
    if known and not any(each.train.is_compiled for each in known):
        candidates = [candidate for candidate in candidates if not candidate.train.is_compiled] or candidates
    return with_paces(candidates, known)


def choose(candidates: list[Candidate], *, text: Text) -> Candidate:
    """The smallest of those whose forecast is within `NEAR` of the best that can be chosen, and that read the text no more often than it: nothing is known less
    well than what a further reading is worth. The best itself where all of these leave time unused, so that more time is never worse."""
    pool = eligible(candidates, text=text)
    best = min(pool, key=lambda candidate: candidate.forecast(text))
    near = [each for each in pool if each.forecast(text) <= best.forecast(text) * (1 + NEAR) and not reads_more(each, best, text)]
    if all(candidate.unused_s for candidate in near):
        return best
    return min(near, key=lambda candidate: (candidate.price.num_params, candidate.forecast(text)))


def reads_more(candidate: Candidate, best: Candidate, text: Text) -> bool:
    """Whether it goes over the text again more often than the best does."""
    return candidate.epochs(text) > (1 + OFTEN) * max(1.0, best.epochs(text))


def eligible(candidates: list[Candidate], *, text: Text) -> list[Candidate]:
    """Those that can be chosen: in time and with enough steps, by what is known of the paces, as far as there are such. Where some were measured, one that was
    not has to promise `UNMEASURED` more, and is never compiled where there is another."""
    is_measured = any(candidate.measured for candidate in candidates)
    candidates = in_time(candidates)
    candidates = [candidate for candidate in candidates if has_enough_steps(candidate)] or candidates
    measured = [candidate for candidate in candidates if candidate.measured]
    if not measured:
        return (is_measured and [candidate for candidate in candidates if not candidate.train.is_compiled]) or candidates
    bound = (1 - UNMEASURED) * min(candidate.forecast(text) for candidate in measured)
    return [*measured, *(each for each in candidates if not each.measured and not each.train.is_compiled and each.forecast(text) < bound)]
