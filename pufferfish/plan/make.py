"""From wishes, machine and text to one resolved plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from pufferfish.plan import budget, choose, recipe, scaling, space
from pufferfish.plan.choose import Candidate, Situation
from pufferfish.plan.explain import explain
from pufferfish.plan.prices import Measure, PriceOf, Vocabulary
from pufferfish.plan.scaling import Text
from pufferfish.plan.speed import Machine
from pufferfish.schema.hardware import Corpus, Hardware
from pufferfish.schema.params import Params, TrainParams
from pufferfish.schema.plan import BudgetPlan, DataPlan, Forecast, Plan, TrainPlan

VALIDATION_SHARE, MAX_VALIDATION_BYTES = 0.05, 1_000_000
TOKENIZER_BYTES = 3_000_000  # a guess: what a larger sample would gain was not measured
TOKENIZER_SHARE = 0.01  # of the budget, for training the tokenizer
MARGIN = 1.15  # text encoded over what the plan expects to read
ENCODE_UNIT = 1_000_000  # bytes; what is encoded is a power of two of these, so that small changes of the plan prepare nothing anew
PREPARE_START_S = 0.5
MEASURE_START_S = 0.3  # building and first step of a measurement, besides its steps
COUNTED_STEPS_S = 60.0  # what a training by steps may take at least, so that a small budget does not refuse it
ROUGH_TOKENS_PER_S = 20_000  # until a candidate is chosen


def make_plan(
    params: Params,
    hardware: Hardware,
    corpus: Corpus,
    *,
    vocabularies: Sequence[Vocabulary],
    text: Text,
    price_of: PriceOf,
    measure: Measure,
    spent_s: Callable[[], float],
) -> Plan:
    """The whole plan. `text` is what there is to learn from; `spent_s` tells how long planning has taken so far.

    Raises UserError if the budget is too short, memory too small, or the pinned values contradict each other.
    """
    total_s, setup_s, is_timed = params.budget.time_s, budget.training_setup_s(hardware), params.train.num_steps == "auto"

    def divided(vocabulary: Vocabulary, total_s: float, *, tokens_per_s: float = ROUGH_TOKENS_PER_S, plan_s: float | None = None) -> BudgetPlan:
        plan_s = max(budget.planning_limit_s(total_s), spent_s()) if plan_s is None else plan_s
        prepare_s = PREPARE_START_S + _prepare_s(vocabulary, text.unique_bytes, total_s)
        validation_bytes = corpus.validation_bytes or min(VALIDATION_SHARE * corpus.num_bytes, MAX_VALIDATION_BYTES)
        tokens = validation_bytes / vocabulary.bytes_per_token
        return budget.divide(total_s, hardware, plan_s=plan_s, prepare_s=prepare_s, validation_tokens=tokens, trained_tokens_per_s=tokens_per_s)

    def loop_s(vocabulary: Vocabulary) -> float:
        left_s = divided(vocabulary, total_s).phases.train_s - setup_s
        return left_s if is_timed else max(left_s, COUNTED_STEPS_S)

    if is_timed:
        compile_s = choose.COMPILE_S[hardware.fingerprint.device] if params.train.compile is True else 0.0
        budget.check(lambda time_s: divided(vocabularies[0], time_s), total_s=total_s, written=params.budget.time, setup_s=setup_s + compile_s)
    situation = Situation(Machine(hardware), params.data, params.train, price_of, text, loop_s)
    vocabulary, expected_tokens = choose_vocabulary(situation, params, vocabularies)
    candidates = choose.enumerate_candidates(situation, space.models(params.model, [vocabulary.vocab_size], max_seq_len=_longest(hardware)), [vocabulary])

    def is_affordable(candidate: Candidate, num_measured: int) -> bool:
        compile_s = choose.COMPILE_S[hardware.fingerprint.device] if candidate.train.is_compiled else 0.0
        needed_s = MEASURE_START_S + compile_s + max(choose.MEASURED_STEPS_S, 4 * candidate.step_s)
        is_first = num_measured == 0 and not candidate.train.is_compiled  # one is measured whatever it costs
        return is_first or spent_s() + needed_s < budget.planning_limit_s(total_s)

    candidates, measured = choose.measure_best(candidates, measure, text=text, is_affordable=is_affordable)
    best = choose.choose(candidates, text=text)
    pace, plan_s = best.train.tokens_per_step / best.step_s, spent_s() + 0.2
    if is_timed:
        budget.check(lambda time_s: divided(vocabulary, time_s, tokens_per_s=pace, plan_s=plan_s), total_s=total_s, written=params.budget.time, setup_s=setup_s)
    divided_budget = divided(vocabulary, total_s, tokens_per_s=pace, plan_s=plan_s)
    best = replace(best, loop_s=best.loop_s + divided_budget.phases.train_s - setup_s - loop_s(vocabulary))
    return Plan(
        hardware=hardware.identity,
        budget=divided_budget,
        data=_data_plan(params, corpus, vocabulary, text.unique_bytes, expected_tokens, total_s),
        model=best.model,
        train=_train_plan(situation, best),
        forecast=_forecast(best, text),
        why=explain(best, candidates, measured, situation=situation, vocabularies=vocabularies),
    )


def choose_vocabulary(situation: Situation, params: Params, vocabularies: Sequence[Vocabulary]) -> tuple[Vocabulary, float]:
    """The vocabulary of the best forecast under the default recipe, and the tokens that it would read.

    Wishes about training play no part, so that another optimizer prepares no data anew.
    """
    neutral = replace(situation, train=TrainParams(dtype=params.train.dtype))
    sizes = [vocabulary.vocab_size for vocabulary in vocabularies]
    best = choose.enumerate_candidates(neutral, space.models(params.model, sizes, max_seq_len=_longest(situation.hardware)), vocabularies)[0]
    return best.vocabulary, best.tokens


def _longest(hardware: Hardware) -> int:
    return 512 if hardware.fingerprint.device == "cpu" else 2048


def _tokenizer_bytes(vocabulary: Vocabulary, unique_bytes: float, total_s: float) -> float:
    """Sample for the tokenizer: a fixed size, less where that would cost too much of the budget or there is less text."""
    affordable = TOKENIZER_SHARE * total_s / max(1e-6, vocabulary.train_tokenizer_s) * 1e6
    units = max(1, int(affordable // ENCODE_UNIT))
    return min(unique_bytes, TOKENIZER_BYTES, units * ENCODE_UNIT)


def _prepare_s(vocabulary: Vocabulary, unique_bytes: float, total_s: float) -> float:
    learning_s = _tokenizer_bytes(vocabulary, unique_bytes, total_s) / 1e6 * vocabulary.train_tokenizer_s
    return learning_s + min(unique_bytes, total_s * 200_000) / 1e6 * vocabulary.encode_s_per_mb


def _data_plan(params: Params, corpus: Corpus, vocabulary: Vocabulary, unique_bytes: float, tokens: float, total_s: float) -> DataPlan:
    needed = MARGIN * tokens * vocabulary.bytes_per_token
    train_bytes = ENCODE_UNIT
    while train_bytes < min(needed, unique_bytes):
        train_bytes *= 2
    return DataPlan(
        source=corpus.source,
        path=corpus.path,
        corpus=corpus.content,
        validation_path=corpus.validation_path,
        validation_content=corpus.validation_content,
        validation_share=VALIDATION_SHARE,
        max_validation_bytes=MAX_VALIDATION_BYTES,
        vocab_size=vocabulary.vocab_size,
        tokenizer_bytes=int(_tokenizer_bytes(vocabulary, unique_bytes, total_s)),
        train_bytes=train_bytes,
        seed=params.data.seed,
    )


def _train_plan(situation: Situation, best: Candidate) -> TrainPlan:
    """The chosen configuration with the numbers that depend on how many tokens it will see."""
    return recipe.train_plan(
        situation.train,
        situation.data,
        situation.hardware,
        best.model,
        dtype=best.train.dtype,
        tokens_per_step=best.train.tokens_per_step,
        micro_batch=best.train.micro_batch,
        num_steps=max(1, best.num_steps),
        train_s=best.loop_s,
        best_tokens_per_step=scaling.best_tokens_per_step(max(1, best.tokens)),
        is_compiled=best.train.is_compiled,
        is_checkpointed=best.train.is_checkpointed,
    )


def _forecast(best: Candidate, text: Text) -> Forecast:
    forecast = best.forecast(text)
    low, high = scaling.interval(forecast)
    return Forecast(
        val_bpb=forecast,
        val_bpb_low=low,
        val_bpb_high=high,
        step_s=best.step_s,
        tokens=best.tokens,
        epochs=best.tokens * best.vocabulary.bytes_per_token / text.unique_bytes,
        peak_memory_bytes=best.memory_bytes,
        num_params=best.price.num_params,
        flops_per_token=best.price.flops_per_token,
    )
