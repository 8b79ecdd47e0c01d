"""How long steps take: what was measured and what is predicted, each as far as it can be trusted.

A machine that others use changes its pace from second to second, by 6 % on the one this was written on, and so does what is measured there, while predictions
are off by 3 %, beside what they have in common, and alike for shapes that are alike. So the logarithms of measured over predicted paces are taken as a common
mean, errors of the prediction that are correlated by shape, and chance, and what is known of any configuration is their conditional mean (ordinary kriging:
Cressie, "Statistics for Spatial Data", 1993, chapter 3). How much is chance is seen where the same steps are measured again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from pufferfish.plan.candidate import Candidate
from pufferfish.schema.plan import ModelPlan

LENGTH = 0.7  # e-folds between two shapes, over which the errors of their predictions have less and less in common
# Standard deviation of the logarithm, besides what all have in common: 3 % in sixteen configurations, more where less was tried; on GPUs a guess, as is what
# is predicted there.
PREDICTED_ERROR = {"cpu": 0.05, "cuda": 0.15}
NOISE = 0.03  # of a measurement: a guess that weighs as much as one that is seen


def distance(one: ModelPlan, other: ModelPlan) -> float:
    """Between the shapes of two models, in e-folds."""
    return math.dist(_place(one), _place(other))


def _place(model: ModelPlan) -> tuple[float, ...]:
    return tuple(map(math.log, (model.num_layers, model.d_model, model.vocab_size**0.5, model.seq_len)))


def with_paces(candidates: Sequence[Candidate], measured: Sequence[Candidate]) -> list[Candidate]:
    """The candidates with what the measured ones say of their paces, those among them that are measured too. Compiled and other ones say as much of each other
    only where nothing else is measured."""
    if not measured:
        return list(candidates)
    paces = Paces(measured)
    return [replace(each, correction=math.exp(paces.error(each))) for each in candidates]


def with_known_paces(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates with what those among them that are measured say."""
    return with_paces(candidates, [candidate for candidate in candidates if candidate.measured])


def noise(measured: Iterable[Candidate]) -> float:
    """Standard deviation of the logarithm of a single measurement, from those of the same steps."""
    squares, freedom = NOISE**2, 1
    for steps in filter(None, (candidate.measured for candidate in measured)):
        logs = [math.log(take_s) for take_s in steps.each_s]
        squares += sum((log - sum(logs) / len(logs)) ** 2 for log in logs)
        freedom += len(logs) - 1
    return math.sqrt(squares / freedom)


class Paces:
    """What some measured candidates, one at least, say of the pace of any."""

    def __init__(self, measured: Sequence[Candidate]) -> None:
        chance = noise(measured)
        self._errors = {
            is_compiled: _Errors([each for each in measured if each.train.is_compiled == is_compiled] or measured, chance) for is_compiled in (False, True)
        }

    def error(self, candidate: Candidate) -> float:
        """Expected logarithm of its real pace over the predicted one."""
        return self._errors[candidate.train.is_compiled].at(candidate)

    def surprise(self, candidate: Candidate) -> float:
        """By how much one more measurement of it would move that: a standard deviation."""
        return self._errors[candidate.train.is_compiled].surprise(candidate)


class _Errors:
    """Logarithms of measured over predicted paces: what was found at M configurations, and what follows for any other."""

    def __init__(self, measured: Sequence[Candidate], chance: float) -> None:
        import numpy as np  # no other part of planning needs it, and mistakes of the user are told before

        self._places_M = [_place_of(each) for each in measured]
        steps = [each.measured for each in measured if each.measured]
        found_M = np.log([known.step_s / each.predicted_step_s for each, known in zip(measured, steps, strict=True)])
        covariance_MM = np.array([self._shared_M(each) for each in measured]) + np.diag([chance**2 / known.num_takes for known in steps])
        self._chance, self._precision_MM = chance, np.linalg.inv(covariance_MM)
        weights_M = self._precision_MM.sum(axis=0)
        self._mean = float(weights_M @ found_M / weights_M.sum())
        self._pulls_M: list[float] = (self._precision_MM @ (found_M - self._mean)).tolist()

    def at(self, candidate: Candidate) -> float:
        """The expected one of a configuration."""
        return self._mean + sum(shared * pull for shared, pull in zip(self._shared_M(candidate), self._pulls_M, strict=True))

    def surprise(self, candidate: Candidate) -> float:
        """By how much one more measurement of it would move what is expected of it, a standard deviation."""
        shared_M = self._shared_M(candidate)
        variance = max(0.0, PREDICTED_ERROR[candidate.train.device] ** 2 - float(shared_M @ self._precision_MM @ shared_M))
        return variance / math.hypot(math.sqrt(variance), self._chance)

    def _shared_M(self, candidate: Candidate) -> list[float]:
        """Covariance of the errors of its prediction with theirs."""
        place, variance = _place_of(candidate), PREDICTED_ERROR[candidate.train.device] ** 2
        return [variance * math.exp(-((math.dist(place, other) / LENGTH) ** 2)) for other in self._places_M]


def _place_of(candidate: Candidate) -> tuple[float, ...]:
    return *_place(candidate.model), math.log(candidate.train.tokens_per_step)
