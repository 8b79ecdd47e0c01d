"""Price every configuration, measure real steps of the most promising until the best one is measured, take the smaller of near-equals."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from pufferfish.base.errors import UserError
from pufferfish.base.units import format_bytes
from pufferfish.plan import scaling
from pufferfish.plan.candidate import Candidate, has_enough_steps, in_time
from pufferfish.plan.configure import Situation, configurations
from pufferfish.plan.pace import standard_error, with_known_paces, with_paces
from pufferfish.plan.prices import Measure, StepTime, Vocabulary
from pufferfish.plan.refuse import nothing_fits
from pufferfish.plan.scaling import Text
from pufferfish.schema.plan import ModelPlan

NEAR = 0.003  # relative difference of forecasts that counts as equal
OFTEN = 0.1  # more readings than the best, with which an equal forecast is not trusted: 2 x 256 in 4.1 readings was 1.8 % worse than 3 x 256 in 3 (docs/LOG.md)
UNMEASURED = 0.01  # relative difference of forecasts that a predicted pace has to promise
# Time for the steps of one measurement, and how many of them it takes where they take longer: where the pace changes from second to second, twice as many tell
# hardly more (6.2 instead of 6.6 % standard deviation, docs/LOG.md), and measuring again later does.
MEASURED_STEPS_S, MOST_STEPS = 0.2, 4
MEASURE_START_S = 0.3  # building and first step of a measurement, besides its steps
# What a compiled candidate must promise over the best eager one, at most: measuring it costs a compilation, more than all others together. The less of the
# training time that is, the less it must promise.
COMPILING_GAIN, COMPILING_PRICE = 0.01, 0.5
MUCH_SMALLER = 0.75  # of what did not fit, where no less can be taken at once: what is tried next, as others may use most of the device
FEWEST_MEASURED = 5  # shapes, where there is time: the errors of predictions differ by shape
CONTENDER = 0.02  # behind the best forecast of the measured ones: so near, they are measured again
MOST_TAKES, PRECISE = 3, 0.02  # measurements of one configuration, and the standard error of its pace that is good enough


def enumerate_candidates(situation: Situation, models: Iterable[ModelPlan], vocabularies: Sequence[Vocabulary]) -> list[Candidate]:
    """Every model with the batches around its best one, that fits into memory and gets enough steps; best forecast first.

    Raises UserError if there is none: which of the bounds and pins left nothing.
    """
    models = list(models)
    candidates = in_time([each for each in configurations(situation, models, vocabularies) if has_enough_steps(each)])
    if not candidates:
        raise nothing_fits(situation, models, vocabularies)
    return sorted(_as_tried(candidates, situation.text), key=lambda candidate: candidate.forecast(situation.text))


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


def measurement_s(candidate: Candidate) -> float:
    """What measuring a candidate will cost."""
    return MEASURE_START_S + candidate.compile_s + max(MEASURED_STEPS_S, MOST_STEPS * candidate.step_s)


def measure_best(
    candidates: list[Candidate], measure: Measure, *, text: Text, is_affordable: Callable[[Candidate, int], bool], is_batch_free: bool = True
) -> list[Candidate]:
    """Measure the candidate with the best forecast, correct the others by what was learned, and repeat until the best one is a measured one.

    At least `FEWEST_MEASURED` shapes are looked at. `is_affordable` tells whether there is time to measure a candidate after so many others; those for
    which there is not are passed over. Where memory runs out, smaller micro-batches are taken, if they are free, and then smaller models; where compiling
    fails, nothing is compiled. Returns the candidates, corrected by what was measured.
    """
    while target := _next_to_measure(candidates, text, is_affordable):
        try:
            result = measure(target.model, target.train)
        except UserError:
            candidates = [candidate for candidate in candidates if not candidate.train.is_compiled]
            if not target.train.is_compiled or not candidates:
                raise
            continue
        if not result.fits:
            halved = _with_less_at_once(target, target.memory.total, is_batch_free=is_batch_free)
            bounds = (halved.memory.total + 1 if halved else MUCH_SMALLER * target.memory.total, target.memory.total)
            candidates = next(filter(None, (_smaller(candidates, num_bytes, is_batch_free=is_batch_free) for num_bytes in bounds)), [])
            if not candidates:
                saw = f"not even the {format_bytes(target.memory.total)} of the smallest that was tried are free"
                raise UserError("no model fits into memory", saw=saw, fix="end what else uses the memory, or pin smaller values in `model` and `train`")
            continue
        candidates = _with_measured(candidates, target, target.with_measured(result))
    return candidates


def measure_again(candidates: list[Candidate], again: Callable[[Candidate], StepTime | None], *, text: Text) -> list[Candidate]:
    """Measure those that the choice is between once more, in turn, until their paces are sure enough. `again` returns what is known by then, and None where
    there is no time."""
    while target := _least_sure(candidates, text):
        result = again(target)
        if result is None or not result.fits:
            break
        candidates = _with_measured(candidates, target, target.with_measured(result))
    return candidates


def _with_measured(candidates: list[Candidate], target: Candidate, known: Candidate) -> list[Candidate]:
    return with_known_paces([known if candidate is target else candidate for candidate in candidates])


def _least_sure(candidates: list[Candidate], text: Text) -> Candidate | None:
    """The contender that was measured least often, if any should be again: none that an earlier plan measured, or whose measurement is a compilation."""
    measured = [candidate for candidate in candidates if candidate.measured]
    choices = [candidate for candidate in eligible(candidates, text=text) if candidate.measured]
    if len(choices) < 2:
        return None
    bound = (1 + CONTENDER) * min(candidate.forecast(text) for candidate in choices)
    contenders = [
        (steps.num_takes, candidate.forecast(text), number, candidate)
        for number, candidate in enumerate(choices)
        if (steps := candidate.measured) and not steps.is_kept and steps.num_takes < MOST_TAKES
        if candidate.forecast(text) <= bound and not candidate.train.is_compiled
    ]
    unsure = [each for each in contenders if standard_error(each[-1], measured) > PRECISE]
    return min(unsure)[-1] if unsure else None


def _smaller(candidates: list[Candidate], num_bytes: float, *, is_batch_free: bool) -> list[Candidate]:
    shrunk = (each if each.measured else _with_less_at_once(each, num_bytes, is_batch_free=is_batch_free) for each in candidates)
    return [candidate for candidate in shrunk if candidate]


def _with_less_at_once(candidate: Candidate, num_bytes: float, *, is_batch_free: bool) -> Candidate | None:
    """With the micro-batch halved until it holds less than so many bytes; None where it cannot."""
    while candidate.memory.total >= num_bytes:
        if not is_batch_free or candidate.train.micro_batch % 2:
            return None
        candidate = replace(candidate, train=candidate.train.model_copy(update={"micro_batch": candidate.train.micro_batch // 2}))
    return candidate


def _next_to_measure(candidates: list[Candidate], text: Text, is_affordable: Callable[[Candidate, int], bool]) -> Candidate | None:
    """The best forecast that can be measured, if it is not yet; else the best of a shape that is not, until there are enough of them."""
    measured = [candidate for candidate in candidates if candidate.measured]
    ranked = sorted(_worth_measuring(in_time(candidates), text), key=lambda candidate: candidate.forecast(text))
    best = next((candidate for candidate in ranked if candidate.measured or is_affordable(candidate, len(measured))), None)
    if best is None or not best.measured:
        return best
    if len(measured) >= FEWEST_MEASURED:
        return None
    shapes = {other.shape for other in measured}
    others = (candidate for candidate in ranked if candidate.shape not in shapes)
    return next((candidate for candidate in others if is_affordable(candidate, len(measured))), None)


def _worth_measuring(candidates: list[Candidate], text: Text) -> list[Candidate]:
    """All but compiled ones that promise too little."""
    eager = min((candidate.forecast(text) for candidate in candidates if not candidate.train.is_compiled), default=math.inf)
    return [each for each in candidates if not each.train.is_compiled or each.measured or each.forecast(text) < (1 - _compiling_gain(each)) * eager]


def _compiling_gain(candidate: Candidate) -> float:
    return min(COMPILING_GAIN, COMPILING_PRICE * candidate.compile_s / max(1.0, candidate.loop_s))


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
