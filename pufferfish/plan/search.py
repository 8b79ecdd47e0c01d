"""The strategy `measured`: price a grid, measure the most promising, run pilots where there is time, take the smaller of near-equals."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial

from pufferfish.base.errors import UserError
from pufferfish.base.units import format_count
from pufferfish.plan import budget, choose, pilot, scaling, space
from pufferfish.plan.candidate import COMPILE_S, FEWEST_STEPS, Candidate, has_enough_steps
from pufferfish.plan.case import ENCODE_UNIT, WRITE_S, Case, Expected, Measuring, Selection
from pufferfish.plan.measuring import measure_best, measurement_s
from pufferfish.plan.pace import with_known_paces
from pufferfish.plan.prices import StepTime, Vocabulary
from pufferfish.schema.hardware import Hardware
from pufferfish.schema.params import TrainParams
from pufferfish.schema.plan import ModelPlan

MARGIN, PREFERRED_MARGIN = 1.15, 2.5  # text encoded over what the plan expects to read: as many tokens from more text teach more (docs/LOG.md)
PREFERRED_BYTES, PREFERRED_SHARE = 64_000_000, 0.08  # so much is preferred at most, and where as much again costs at most this of the training time
LARGE_SHARE = 0.25  # of what the law can judge: a larger choice is told with that bound
LEAST_TOLD = 0.001  # of the bits per byte: what a larger batch costs beyond that is told
LONGEST_CONTEXT = {"cpu": 1024, "cuda": 2048}


def search(case: Case, measuring: Measuring | None, *, plan_s: float, known: Sequence[Candidate] = ()) -> Selection:
    """The best configuration. Where nothing is to be measured, paces are predicted, and corrected by those that are `known` of other configurations.

    `plan_s` is what planning will take of the budget. Raises UserError if nothing fits into memory and time.
    """
    like = best_under_default_recipe(case)
    vocabulary = like.vocabulary
    read_bytes = like.tokens * vocabulary.bytes_per_token
    train_bytes = train_bytes_for(case, vocabulary, read_bytes=read_bytes, loop_s=case.loop_s(vocabulary, plan_s=plan_s))
    expected = Expected(like.passed_tokens_per_s, like.price.num_params, train_bytes)
    own_s = case.total_s
    case = case.affordable(
        vocabulary,
        plan_s=lambda total_s: plan_s if total_s == own_s else max(plan_s, budget.planning_limit_s(total_s)),
        expected=expected,
        extra_s=case.pinned_compile_s,
    )
    situation = case.situation(plan_s=plan_s, expected=expected)
    models = space.models(case.params.model, [vocabulary.vocab_size], max_seq_len=_longest(case.hardware))
    candidates = choose.informed(choose.enumerate_candidates(situation, models, [vocabulary]), known)
    pilots = [*case.pilots]
    if measuring:
        candidates = _measured(case, measuring, candidates)
        candidates, flown = pilot.fly(case, measuring, situation, candidates, case.data_plan(vocabulary, train_bytes=train_bytes))
        pilots.append(flown)
        candidates = with_known_paces(_with_known_steps(measuring, candidates, {each.model for several in pilots for each in several}))
        candidates = _with_time_left(candidates, plan_s - measuring.spent_s() - WRITE_S)
    text, candidates = pilot.learn(case, pilots, candidates)
    measured = [candidate for candidate in candidates if candidate.measured]
    return Selection(choose.choose(candidates, text=text), candidates, measured, text, train_bytes, pilots)


def _measured(case: Case, measuring: Measuring, candidates: list[Candidate]) -> list[Candidate]:
    return measure_best(
        candidates,
        partial(_take, measuring),
        text=case.text,
        cost_of=partial(_measuring_s, case, measuring),
        is_batch_free=case.params.train.micro_batch == "auto",
    )


def _take(measuring: Measuring, candidate: Candidate) -> StepTime:
    take = measuring.again if candidate.measured and measuring.again else measuring.measure
    return take(candidate.model, candidate.train)


def _with_time_left(candidates: list[Candidate], left_s: float) -> list[Candidate]:
    """With the time that planning has left over of what it might have taken."""
    return [replace(candidate, loop_s=candidate.loop_s + left_s) for candidate in candidates]


def _with_known_steps(measuring: Measuring, candidates: list[Candidate], piloted: Collection[ModelPlan]) -> list[Candidate]:
    """Those that had a pilot once can be chosen again: their steps were measured then."""
    return [
        each.with_measured(measuring.measure(each.model, each.train))
        if not each.measured and each.model in piloted and measuring.is_known(each.model, each.train)
        else each
        for each in candidates
    ]


def best_under_default_recipe(case: Case) -> Candidate:
    """The best forecast of all vocabularies under the default recipe.

    Wishes about training play no part but for the number of steps, unless nothing fits without them, and neither does how long planning took, so that another
    optimizer prepares no data anew, unless measured steps turn out to read more.
    """
    wish = case.params.train
    neutral = TrainParams(dtype=wish.dtype)
    if wish.num_steps != "auto":
        neutral = neutral.model_copy(update={name: getattr(wish, name) for name in ("num_steps", "tokens_per_step", "micro_batch")})
    sizes = [vocabulary.vocab_size for vocabulary in case.vocabularies]
    models = list(space.models(case.params.model, sizes, max_seq_len=_longest(case.hardware)))
    situation = case.situation(plan_s=case.planning_limit_s, train=neutral)
    try:
        return choose.enumerate_candidates(situation, models, case.vocabularies)[0]
    except UserError:  # a large model may fit only as it is pinned, and where not even that fits, the refusal should name the pins
        return choose.enumerate_candidates(replace(situation, train=wish), models, case.vocabularies)[0]


def _longest(hardware: Hardware) -> int:
    return LONGEST_CONTEXT[hardware.fingerprint.device]


def _measuring_s(case: Case, measuring: Measuring, candidate: Candidate, num_measured: int) -> float | None:
    """What measuring one more takes from the training; None where there is no time, and where it is known and not to be measured again, as that would be a
    compilation, or an earlier plan did. A compilation is kept for the training."""
    if candidate.measured and (measuring.again is None or candidate.measured.is_kept or candidate.train.is_compiled):
        return None
    if not candidate.measured and measuring.is_known(candidate.model, candidate.train):
        return 0.0
    is_first = num_measured == 0 and not candidate.train.is_compiled  # one is measured whatever it costs
    taken_s = measurement_s(candidate)
    return taken_s - candidate.compile_s if is_first or measuring.spent_s() + taken_s < case.planning_limit_s else None


def train_bytes_for(case: Case, vocabulary: Vocabulary, *, read_bytes: float, loop_s: float) -> int:
    """Text to prepare in order to read so much of it: a power of two, so that small changes of the plan prepare nothing anew."""

    def is_doubling_cheap(train_bytes: int) -> bool:
        return case.encoding_s(vocabulary, 2 * train_bytes) - case.encoding_s(vocabulary, train_bytes) <= PREFERRED_SHARE * loop_s

    needed = min(MARGIN * read_bytes, case.text.unique_bytes)
    preferred = min(PREFERRED_MARGIN * read_bytes, case.text.unique_bytes, PREFERRED_BYTES)
    train_bytes = ENCODE_UNIT
    while train_bytes < needed or (train_bytes < preferred and is_doubling_cheap(train_bytes)):
        train_bytes *= 2
    return train_bytes


def search_reasons(case: Case, selection: Selection) -> list[str]:
    """Why this configuration, in sentences."""
    best, measured = selection.best, selection.measured
    lowest = min(each.forecast(selection.text) for each in (best, *choose.eligible(selection.candidates, text=selection.text)))
    known = sum(candidate.measured.is_kept for candidate in measured if candidate.measured)
    steps = f"{len(measured)} measured" + (f" ({known} of them earlier; `pufferfish doctor --remeasure` forgets)" if known else "")
    taken = best.forecast(selection.text)
    smallest = f"the smallest of those within {choose.NEAR:.1%} of it that read no more often"
    smallest = smallest if taken <= lowest * (1 + choose.NEAR) else "the best with a table of values"
    choice = f"{smallest} was taken ({taken:.4f})" if taken > lowest else "it was taken"
    return [
        f"{len(selection.candidates)} configurations priced, {steps}; the best forecast is {lowest:.4f} bits per byte, and {choice}",
        *_size_reason(selection),
        *pilot.pilot_reasons(case, selection),
        _batch_reason(case, best),
        _compile_reason(case, selection),
        *_steps_reason(best),
    ]


def _size_reason(selection: Selection) -> list[str]:
    num_params, most = selection.best.price.num_params, scaling.most_params(selection.text.unique_bytes, is_taught=selection.best.is_taught)
    if num_params > most:
        return [f"the law knows models of up to {format_count(most)} parameters for this text: the forecast for a larger one is a guess"]
    if num_params < LARGE_SHARE * most:
        return []
    bound = f"{format_count(most)} parameters, {most / selection.text.unique_bytes:g} for each byte of the text"
    return [f"models of more than {bound}, are not considered: the law does not know them"]


def _batch_reason(case: Case, best: Candidate) -> str:
    if case.params.train.tokens_per_step != "auto":
        return f"{best.train.tokens_per_step} tokens a step, as pinned"
    of = max(1, best.tokens), best.epochs(case.text)
    bound = f"for {format_count(best.tokens)} tokens, smaller ones than {scaling.best_tokens_per_step(*of):.0f} teach no better"
    cost = scaling.batch_cost(best.train.tokens_per_step, *of)
    return f"{best.train.tokens_per_step} tokens a step: {bound}" + (f", and this many cost {cost:.1%} and are quicker" if cost >= LEAST_TOLD else "")


def _steps_reason(best: Candidate) -> list[str]:
    if has_enough_steps(best):
        return []
    return [f"only {best.num_steps} steps fit, since they are slower than predicted: with fewer than {FEWEST_STEPS} little is learned"]


def _compile_reason(case: Case, selection: Selection) -> str:
    best = selection.best
    if case.params.train.compile != "auto":
        return f"compile: {str(best.train.is_compiled).lower()}, as pinned"
    others = [candidate for candidate in selection.candidates if candidate.train.is_compiled != best.train.is_compiled]
    cost = f"about {best.compile_s or COMPILE_S[case.hardware.fingerprint.device]:.0f} s of the training time"
    if not others and best.train.is_compiled:
        return "compiled: nothing else is quick enough"
    if not others:
        return "not compiled: no compiler that works, or the compilation would take more than it can save"
    other = min(candidate.forecast(selection.text) for candidate in others)
    word = "compiled" if best.train.is_compiled else "not compiled"
    return f"{word}: compilation takes {cost}, and the best forecast the other way is {other:.4f}"
