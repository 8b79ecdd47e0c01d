"""Pilots: short trainings on the text itself, each annealed to zero, that correct the loss law before the choice.

All of a rung run for the same time, so that they compare what matters: what a shape reaches by then. Their mean error says how far the law is off on this
text, and what each is off from that mean says which shapes the law favours wrongly. Where there is time, the better half has twice the time once more
(successive halving: Jamieson and Talwalkar, 2016, arXiv 1502.07943), since what short trainings say of long ones is little.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from itertools import groupby
from operator import attrgetter

from pufferfish.base.units import format_count
from pufferfish.plan import recipe, scaling, speed
from pufferfish.plan.budget import EVALUATED_PER_TRAINED
from pufferfish.plan.candidate import FEWEST_STEPS, Candidate, by_law
from pufferfish.plan.case import WRITE_S, Case, Measuring, Selection
from pufferfish.plan.choose import choose
from pufferfish.plan.configure import Situation, fitted, largest_divisor, whole_tokens_per_step
from pufferfish.plan.measuring import measurement_s
from pufferfish.plan.pace import LENGTH, distance, with_known_paces
from pufferfish.plan.prices import Pilot, RunPilot
from pufferfish.plan.scaling import NOISE_EPOCHS, Experience, Text
from pufferfish.schema.plan import DataPlan, ModelPlan, TrainPlan

# Guesses, but for what follows from them.
READING_S = 4.0  # for the text and its tokenizer, and torch in this process
SHORTEST_S = 4.0  # a pilot: shorter ones are mostly warm-up
LONGEST_S, LONGEST_SHARE = 20.0, 1 / 180  # of a full first rung, the greater of both, the share of the budget: longer ones take more than they tell
FEWEST, MOST = 2, 4  # in a rung: a single one cannot change the choice
USED_SHARE = 0.95  # of the time left over
STEPS_SHARE, EVALUATED_SHARE = 0.75, 0.15  # of a pilot's time: steps, and validation; the rest is building and a first step
ENCODED_SHARE = 0.15  # of the time left over: where the text would take longer to encode, pilots read it again
LEAST_SAMPLE_BYTES = 1_000_000  # enough for their tokenizer
BATCHES = (0.125, 0.25, 0.5, 1.0)  # times the best at the pace of the long training, whose larger steps are cheaper by the token
SPARE_STEPS = 1.2  # times as many as a pilot must have made to count, in case the machine becomes slower
MEASURED_SHARE = 0.1  # of the time left over, for measuring the steps of one more candidate
WORTH = 0.03  # behind the best forecast: more is not made up by pilots
APART = 0.45  # e-folds between the shapes of two pilots: more than a step of the grid
CARRIED = 0.5  # of a difference between short trainings, for long ones: some is chance, and some is gone with more text


def fly(case: Case, measuring: Measuring, situation: Situation, candidates: list[Candidate], data: DataPlan) -> tuple[list[Candidate], list[Pilot]]:
    """Pilots of the most promising candidates that differ: the candidates, those with a pilot measured, and what the pilots reached.

    None where planning has no time left for them, or where a plan like this had them.
    """

    def left_s() -> float:
        return USED_SHARE * (case.planning_limit_s - WRITE_S - measuring.spent_s())

    if measuring.open_pilots is None or left_s() < needed_s(case):
        return candidates, []
    affordable_s = MEASURED_SHARE * left_s()
    picks = diverse([each for each in candidates if each.measured or _is_quickly_measured(each, affordable_s)], case.text)[: _most(left_s())]
    candidates, picks = _measured(measuring, candidates, picks)
    if not divided(case, situation, picks, left_s())[0]:
        return candidates, []
    run = measuring.open_pilots(data, _sample_bytes(case, picks, left_s()))
    wanted, limit_s = divided(case, situation, picks, left_s())
    found: list[Pilot] = []
    while wanted:
        rung = _flown(run, wanted, limit_s, left_s)
        found += rung
        picks, limit_s = _better_half(case, picks, found, {pilot.model for pilot in rung}), 2 * limit_s
        has_time = len(picks) >= FEWEST and len(picks) * limit_s <= left_s() and limit_s <= read_s(case, picks)
        wanted = orders(case, situation, picks, limit_s) if has_time else []
    return candidates, found


def needed_s(case: Case) -> float:
    """What the fewest pilots take at least."""
    return READING_S + case.reading_s(LEAST_SAMPLE_BYTES) + FEWEST * SHORTEST_S


def are_to_come(case: Case, *, plan_s: float) -> bool:
    """Whether a plan that trains would have time for pilots, and no earlier one had any, after what planning took without them."""
    wish = case.params.plan
    return wish.pilots == "auto" and wish.strategy == "measured" and not case.pilots and USED_SHARE * (case.planning_limit_s - plan_s) >= needed_s(case)


def _flown(run: RunPilot, wanted: Sequence[tuple[ModelPlan, TrainPlan]], limit_s: float, left_s: Callable[[], float]) -> list[Pilot]:
    pilots = (run(model, train, limit_s) if left_s() > limit_s / 2 else None for model, train in wanted)  # None: another one took too long
    return [pilot for pilot in pilots if pilot]


def _better_half(case: Case, picks: Sequence[Candidate], found: Sequence[Pilot], flown: Collection[ModelPlan]) -> list[Candidate]:
    """Of those whose pilot came to something, by what all pilots say of them."""
    text, picks = learn(case, [*case.pilots, found], [pick for pick in picks if pick.model in flown])
    return sorted(picks, key=lambda pick: pick.forecast(text))[: (len(picks) + 1) // 2]


def longest_s(case: Case, picks: Sequence[Candidate], num: int = MOST) -> float:
    """Each of so many pilots of the first rung; fewer of them have as much time together. None reads the text more often than without replaced inputs, which
    pilots do not have."""
    return min(MOST / num * max(LONGEST_S, LONGEST_SHARE * case.total_s), read_s(case, picks))


def read_s(case: Case, picks: Sequence[Candidate]) -> float:
    """Time in which the pilot of the quickest reads the text so often."""
    tokens_per_s = max(pick.train.tokens_per_step / pick.step_s for pick in picks)
    return NOISE_EPOCHS * case.text.unique_bytes / (STEPS_SHARE * tokens_per_s * picks[0].vocabulary.bytes_per_token)


def _most(left_s: float) -> int:
    return min(MOST, int(left_s / SHORTEST_S))


def _is_quickly_measured(candidate: Candidate, limit_s: float) -> bool:
    return not candidate.train.is_compiled and measurement_s(candidate) <= limit_s


def diverse(candidates: Sequence[Candidate], text: Text) -> list[Candidate]:
    """The one that would be chosen, and the best of others, as far as they differ from each other in shape or context and could still win."""
    if not candidates:
        return []
    picks = [choose(list(candidates), text=text)]
    bound = (1 + WORTH) * picks[0].forecast(text)
    for each in sorted(candidates, key=lambda candidate: candidate.forecast(text)):
        if each.forecast(text) <= bound and all(distance(each.model, pick.model) > APART for pick in picks):
            picks.append(each)
    return picks


def _measured(measuring: Measuring, candidates: list[Candidate], picks: list[Candidate]) -> tuple[list[Candidate], list[Candidate]]:
    """Both with the picks measured, so that one of them can be chosen; what does not fit into memory is left out of both."""
    known = {id(pick): pick if pick.measured else pick.with_measured(measuring.measure(pick.model, pick.train)) for pick in picks}
    fitting = [(id(each), found) for each in candidates if not (found := known.get(id(each), each)).measured or found.measured.fits]
    candidates = with_known_paces([found for _, found in fitting])
    now = {before: after for (before, _), after in zip(fitting, candidates, strict=True)}
    return candidates, [now[id(pick)] for pick in picks if id(pick) in now]


def _sample_bytes(case: Case, picks: Sequence[Candidate], left_s: float) -> int:
    """Text that the quickest pilot reads once, or what can be encoded in its share of the time."""
    vocabulary = picks[0].vocabulary
    tokens_per_s = max(pick.train.tokens_per_step / pick.step_s for pick in picks)
    read = min(2 * longest_s(case, picks), left_s / len(picks)) * STEPS_SHARE * tokens_per_s * vocabulary.bytes_per_token
    return max(LEAST_SAMPLE_BYTES, int(min(read, 1e6 * ENCODED_SHARE * left_s / vocabulary.encode_s_per_mb)))


def divided(case: Case, situation: Situation, picks: Sequence[Candidate], left_s: float) -> tuple[list[tuple[ModelPlan, TrainPlan]], float]:
    """What is trained, and for how many seconds each: as many of the picks as get enough steps, the first of them."""
    for num in range(min(len(picks), _most(left_s)), FEWEST - 1, -1):
        limit_s = min(longest_s(case, picks, num), left_s / num)
        if limit_s >= SHORTEST_S and len(wanted := orders(case, situation, picks, limit_s, most=num)) == num:
            return wanted, limit_s
    return [], 0.0


def orders(case: Case, situation: Situation, picks: Sequence[Candidate], limit_s: float, *, most: int = MOST) -> list[tuple[ModelPlan, TrainPlan]]:
    """What is trained for so many seconds, at most so many; without those that would get too few steps. All are measured on as many tokens."""
    wanted = [(pick.model, train) for pick in picks if (train := _order(case, situation, pick, limit_s))][:most]
    trained = min((train.num_steps * train.tokens_per_step for _, train in wanted), default=0)
    evaluated = int(trained * EVALUATED_PER_TRAINED * EVALUATED_SHARE / STEPS_SHARE)
    return [(model, train.model_copy(update={"eval_tokens": max(model.seq_len, evaluated)})) for model, train in wanted]


def _order(case: Case, situation: Situation, pick: Candidate, limit_s: float) -> TrainPlan | None:
    """Never compiled, which would take too long, with the batch that promises most in the time."""
    wanted = scaling.best_tokens_per_step(STEPS_SHARE * limit_s * pick.train.tokens_per_step / pick.step_s)
    batches = {whole_tokens_per_step(situation, pick.model, factor * wanted) for factor in BATCHES}
    found = [
        train for each in sorted(batches) if (train := _with_batch(case, situation, pick, each, limit_s)) and train.num_steps >= SPARE_STEPS * FEWEST_STEPS
    ]
    return min(found, key=lambda train: _expected(case, pick, train), default=None)


def _with_batch(case: Case, situation: Situation, pick: Candidate, tokens_per_step: int, limit_s: float) -> TrainPlan | None:
    train = fitted(situation, pick.model, pick.price, tokens_per_step=tokens_per_step, is_compiled=False)
    if train is None:
        return None
    # Nobody teaches, also where that is pinned: what is read once or twice teaches better, and the law is asked so.
    train = train.model_copy(update={"teacher_share": 0.0})
    if case.params.train.micro_batch == "auto":  # no more at once than the pick takes: memory may have run out
        at_once = largest_divisor(tokens_per_step // pick.model.seq_len, at_most=min(train.micro_batch, pick.train.micro_batch))
        train = train.model_copy(update={"micro_batch": at_once})
    step_s = speed.step_seconds(case.machine, pick.price, pick.model, train) * pick.step_s / pick.predicted_step_s
    num_steps = int(STEPS_SHARE * limit_s / step_s)
    timed = {"clock": "deadline", "num_steps": num_steps}  # whatever the training is
    return case.train_plan(pick.model, train, num_steps=num_steps, train_s=limit_s, epochs=0.0, per_byte=0.0).model_copy(update=timed)


def _expected(case: Case, pick: Candidate, train: TrainPlan) -> float:
    tokens, bytes_per_token = train.num_steps * train.tokens_per_step, pick.vocabulary.bytes_per_token
    return by_law(pick.model, pick.price, case.text, tokens=tokens, tokens_per_step=train.tokens_per_step, bytes_per_token=bytes_per_token)


def learn(case: Case, rounds: Sequence[Sequence[Pilot]], candidates: list[Candidate]) -> tuple[Text, list[Candidate]]:
    """The text with what all pilots say of it, and the candidates with what the pilots near to them say of their shapes."""
    found = [_errors(case, pilots) for pilots in rounds if pilots]
    if not found:
        return case.text, candidates
    text = replace(case.text, experience=case.text.experience.with_pilots([error for errors, _ in found for error in errors.values()]))
    deviations = [pair for _, each in found for pair in each.items()]
    return text, [replace(candidate, learned=math.exp(CARRIED * _near(candidate.model, deviations))) for candidate in candidates]


def _errors(case: Case, pilots: Sequence[Pilot]) -> tuple[dict[ModelPlan, float], dict[ModelPlan, float]]:
    """Of one plan, by model: what its longest pilot is off, and by how much more than the others of the first rung. Only those of the same time are compared,
    so the mean of a later rung stays what it was before."""
    errors: dict[ModelPlan, float] = {}
    deviations: dict[ModelPlan, float] = {}
    for _, rung in groupby(sorted(pilots, key=attrgetter("limit_s")), key=attrgetter("limit_s")):
        found = {pilot.model: log_error(case, pilot) for pilot in rung}
        common = _mean(found.values()) - _mean([deviations.get(model, 0.0) for model in found])
        errors |= found
        deviations |= {model: error - common for model, error in found.items()}
    return errors, deviations


def log_error(case: Case, pilot: Pilot) -> float:
    """Logarithm of what it reached over what the bare law says of its own tokens, batch and text."""
    price = case.price_of(pilot.model, recipe.attention_for(case.params.train, case.hardware.fingerprint.device, pilot.model.seq_len))
    text = replace(case.text, unique_bytes=pilot.unique_bytes, experience=Experience())
    return math.log(
        pilot.val_bpb / by_law(pilot.model, price, text, tokens=pilot.tokens, tokens_per_step=pilot.tokens_per_step, bytes_per_token=pilot.bytes_per_token)
    )


def _mean(numbers: Collection[float]) -> float:
    return sum(numbers) / len(numbers)


def _near(model: ModelPlan, deviations: Sequence[tuple[ModelPlan, float]]) -> float:
    """The mean of those near in shape (a Gaussian kernel), fading to nothing where there are none."""
    weighted = [(math.exp(-((distance(model, other) / LENGTH) ** 2)), deviation) for other, deviation in deviations]
    return sum(weight * deviation for weight, deviation in weighted) / max(1.0, sum(weight for weight, _ in weighted))


def pilot_reasons(case: Case, selection: Selection) -> list[str]:
    """What pilots did and changed, in sentences."""
    rounds = [pilots for pilots in selection.pilots if pilots]
    if not rounds:
        return []
    reached = "; ".join(f"{_shape(pilot.model)} reached {pilot.val_bpb:.3f} after {format_count(pilot.tokens)} tokens" for pilot in rounds[-1])
    number = sum(map(len, rounds))
    before, after = case.text.experience, selection.text.experience
    without = choose([replace(each, learned=1.0) for each in selection.candidates], text=case.text)
    is_same = without.model == selection.best.model or not selection.best.measured  # one that lost its table is not measured any more
    change = "the choice is the same" if is_same else f"the choice would have been {_shape(without.model)} without them"
    return [
        f"{number} pilot{'s' if number > 1 else ''}, short trainings on this text, the last: {reached}",
        f"by {'them' if number > 1 else 'it'} the law is off by {after.correction / before.correction - 1:+.1%} on this text"
        f" and by {selection.best.learned - 1:+.1%} more for what was chosen; {change}",
    ]


def _shape(model: ModelPlan) -> str:
    return f"{model.num_layers} x {model.d_model} with a context of {model.seq_len}"
