"""Which real steps are measured before the choice: those that may change it, as far as that is worth the steps of the training that could be taken meanwhile.

A measurement moves the forecast of a configuration by some share, up or down, and is worth what the choice is expected to gain by that (the knowledge gradient:
Frazier, Powell and Dayanik, "A knowledge-gradient policy for sequential information collection", 2008). So a budget of a minute measures one or two, and a long
one what is near to the best, again where the machine is restless; and other shapes besides, where that costs next to nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from statistics import NormalDist

from pufferfish.base.errors import UserError
from pufferfish.base.units import format_bytes
from pufferfish.plan.candidate import Candidate, in_time
from pufferfish.plan.pace import Paces, with_known_paces
from pufferfish.plan.prices import StepTime
from pufferfish.plan.scaling import Text

# Time for the steps of one measurement, and how many of them it takes where they take longer: where the pace changes from second to second, twice as many tell
# hardly more (6.2 instead of 6.6 % standard deviation, docs/LOG.md), and measuring again later does.
MEASURED_STEPS_S, MOST_STEPS = 0.2, 4
MEASURE_START_S = 0.3  # building and first step of a measurement, besides its steps
# What a compiled candidate must promise over the best eager one, at most: measuring it costs a compilation, more than all others together. The less of the
# training time that is, the less it must promise.
COMPILING_GAIN, COMPILING_PRICE = 0.01, 0.5
MUCH_SMALLER = 0.75  # of what did not fit, where no less can be taken at once: what is tried next, as others may use most of the device
FAR = 0.05  # behind the best, in e-folds of the forecast: no error of a pace makes up for more
LEAST_WORTH = 1e-4  # of the bits per byte: what costs nothing, being known, must promise so much too
# Shapes that differ are measured whatever they promise, so many, while all of that takes no more than this share of the time for steps: predictions may be
# wrong by more than is known.
INSURED, INSURANCE = 5, 0.005
NORMAL = NormalDist()

Take = Callable[[Candidate], StepTime]
CostOf = Callable[[Candidate, int], float | None]


def measurement_s(candidate: Candidate) -> float:
    """What measuring a candidate will cost."""
    return MEASURE_START_S + candidate.compile_s + max(MEASURED_STEPS_S, MOST_STEPS * candidate.step_s)


def measure_best(candidates: list[Candidate], take: Take, *, text: Text, cost_of: CostOf, is_batch_free: bool = True) -> list[Candidate]:
    """Measure the candidate with the best forecast, correct the others by what was learned, and go on with what is most worth it, until nothing is.

    `take` returns what is then known of a candidate's steps; `cost_of` says how many seconds that takes from the training after so many others, and None where
    there is no time: those are passed over. Where memory runs out, smaller micro-batches are taken, if they are free, and then smaller models; where compiling
    fails, nothing is compiled. Returns the candidates, corrected by what was measured.
    """
    while target := _next(candidates, text, cost_of):
        try:
            result = take(target)
        except UserError:
            candidates = [candidate for candidate in candidates if not candidate.train.is_compiled]
            if not target.train.is_compiled or not candidates:
                raise
            continue
        if result.fits:
            candidates = with_known_paces([target.with_measured(result) if candidate is target else candidate for candidate in candidates])
        elif target.measured:  # it did before: others take memory meanwhile
            break
        else:
            candidates = _with_less_memory(candidates, target, is_batch_free=is_batch_free)
    return candidates


def _next(candidates: list[Candidate], text: Text, cost_of: CostOf) -> Candidate | None:
    """The best forecast, until one is measured that is in time; then what is most worth it, if anything is, or another shape."""
    measured = [candidate for candidate in candidates if candidate.measured]
    ranked = sorted(_worth_compiling(in_time(candidates), text), key=lambda candidate: candidate.forecast(text))
    best = next((candidate for candidate in ranked if candidate.measured), None)
    if best is None:
        return next((candidate for candidate in ranked if cost_of(candidate, len(measured)) is not None), None)
    rival, paces = next((candidate for candidate in ranked if candidate is not best), None), Paces(measured)
    worth, target = LEAST_WORTH, None
    for candidate in ranked if rival else []:
        gap = abs(_behind(rival, best, text)) if rival and candidate is best else _behind(candidate, best, text)
        cost_s = cost_of(candidate, len(measured)) if gap <= FAR else None
        if cost_s is not None and (found := _worth(candidate, text, gap=gap, surprise=paces.surprise(candidate), cost_s=cost_s)) > worth:
            worth, target = found, candidate
    return target or _other_shape(ranked, measured, cost_of)


def _other_shape(ranked: list[Candidate], measured: list[Candidate], cost_of: CostOf) -> Candidate | None:
    """The best of a shape that is not measured, if that is cheap."""
    shapes, spent_s = {each.shape for each in measured}, sum(measurement_s(each) for each in measured)
    for candidate in ranked if len(shapes) < INSURED else []:
        if (
            candidate.shape not in shapes
            and spent_s + measurement_s(candidate) <= INSURANCE * candidate.loop_s
            and cost_of(candidate, len(measured)) is not None
        ):
            return candidate
    return None


def _behind(candidate: Candidate, best: Candidate, text: Text) -> float:
    """How much worse its forecast is, in e-folds; negative where it is better."""
    return math.log(candidate.forecast(text) / best.forecast(text))


def _worth(candidate: Candidate, text: Text, *, gap: float, surprise: float, cost_s: float) -> float:
    """Share of the bits per byte that measuring a candidate is expected to save, by changing the choice, less what the training could save in the time."""
    quicker = replace(candidate, correction=candidate.correction * math.exp(-surprise))
    change = math.log(candidate.forecast(text) / quicker.forecast(text))
    if change <= 0:  # its pace does not matter: it has all the steps that are good for it, or they are counted
        return max(0.0, -gap)
    gain = change * (NORMAL.pdf(gap / change) - gap / change * NORMAL.cdf(-gap / change))
    return gain - change / surprise * cost_s / max(1.0, candidate.loop_s)


def _worth_compiling(candidates: list[Candidate], text: Text) -> list[Candidate]:
    """All but compiled ones that promise too little."""
    eager = min((candidate.forecast(text) for candidate in candidates if not candidate.train.is_compiled), default=math.inf)
    return [each for each in candidates if not each.train.is_compiled or each.measured or each.forecast(text) < (1 - _compiling_gain(each)) * eager]


def _compiling_gain(candidate: Candidate) -> float:
    return min(COMPILING_GAIN, COMPILING_PRICE * candidate.compile_s / max(1.0, candidate.loop_s))


def _with_less_memory(candidates: list[Candidate], target: Candidate, *, is_batch_free: bool) -> list[Candidate]:
    """What is left where a candidate did not fit. Raises UserError if that is nothing."""
    halved = _with_less_at_once(target, target.memory.total, is_batch_free=is_batch_free)
    bounds = (halved.memory.total + 1 if halved else MUCH_SMALLER * target.memory.total, target.memory.total)
    for num_bytes in bounds:
        shrunk = (each if each.measured else _with_less_at_once(each, num_bytes, is_batch_free=is_batch_free) for each in candidates)
        if left := [candidate for candidate in shrunk if candidate]:
            return left
    saw = f"not even the {format_bytes(target.memory.total)} of the smallest that was tried are free"
    raise UserError("no model fits into memory", saw=saw, fix="end what else uses the memory, or pin smaller values in `model` and `train`")


def _with_less_at_once(candidate: Candidate, num_bytes: float, *, is_batch_free: bool) -> Candidate | None:
    """With the micro-batch halved until it holds less than so many bytes; None where it cannot."""
    while candidate.memory.total >= num_bytes:
        if not is_batch_free or candidate.train.micro_batch % 2:
            return None
        candidate = replace(candidate, train=candidate.train.model_copy(update={"micro_batch": candidate.train.micro_batch // 2}))
    return candidate
