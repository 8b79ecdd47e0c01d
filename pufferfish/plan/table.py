"""The strategy `table`: the classic time table. Training hours name a model and a share of the text; nothing is searched, and one step is measured at most.

It is kept to show what measuring wins over it. Its shapes know neither the machine nor the text, so it often asks for far too much.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf
from typing import NamedTuple

from pufferfish.base.errors import UserError
from pufferfish.base.units import format_bytes, format_count, format_duration
from pufferfish.plan import space
from pufferfish.plan.candidate import Candidate
from pufferfish.plan.case import Case, Measuring, Selection
from pufferfish.plan.choose import informed
from pufferfish.plan.configure import Situation, compile_choices, configure
from pufferfish.plan.measuring import measurement_s
from pufferfish.plan.prices import Price, Vocabulary
from pufferfish.plan.refuse import contradiction_of, longer_than_text
from pufferfish.schema.params import ModelParams
from pufferfish.schema.plan import ModelPlan


class Row(NamedTuple):
    """What so many hours of training get."""

    hours: float  # less than these
    num_layers: int
    d_model: int
    num_heads: int
    data_share: float  # of the bytes of the training text
    use: str


TABLE = (
    Row(0.01, 1, 64, 4, 0.0, "ultra-fast testing"),  # `NUM_SAMPLES` instead of a share
    Row(0.1, 4, 256, 8, 0.05, "quick iteration"),
    Row(0.5, 12, 512, 8, 0.10, "development"),
    Row(1.0, 20, 768, 12, 0.20, "serious training"),
    Row(3.0, 30, 768, 16, 0.30, "extended training"),
    Row(6.0, 30, 768, 16, 0.50, "production quality"),
    Row(12.0, 30, 768, 16, 0.70, "high quality"),
    Row(inf, 30, 768, 16, 0.90, "maximum quality"),
)
NUM_SAMPLES = 20  # in the first row; a sample is one context
GROUPED_FROM, NUM_KV_HEADS = 768, 4  # width from which on, and how many, key/value heads are shared by query heads
VOCABULARY, CONTEXT, TOKENS_PER_STEP = 4096, 256, 16_384  # one for all rows; the tokens of a step are a conventional number, and no law
INSTEAD = "set `plan.strategy: measured`, which chooses a model for this machine"


def look_up(case: Case, measuring: Measuring | None, *, plan_s: float, known: Sequence[Candidate] = ()) -> Selection:
    """The row for the time that is left for training, with what the user pinned. Raises UserError if it fits into memory or time not even once."""
    vocabulary = max((each for each in case.vocabularies if each.vocab_size <= VOCABULARY or len(case.vocabularies) == 1), key=lambda each: each.vocab_size)
    row = row_for(_train_s(case, vocabulary))
    model = next(space.models(wished(case.params.model, row), [vocabulary.vocab_size], max_seq_len=CONTEXT))
    train_bytes = min(bytes_of(row, model.seq_len, vocabulary, unique_bytes=case.all_text.unique_bytes), int(case.text.unique_bytes))  # what can be encoded
    text = replace(case.all_text, unique_bytes=train_bytes)
    situation = replace(case.situation(plan_s=plan_s), text=text)
    [best] = informed([_configured(case, situation, model, vocabulary)], known)
    if measuring and (measuring.is_known(best.model, best.train) or measuring.spent_s() + measurement_s(best) < case.planning_limit_s):
        step = measuring.measure(best.model, best.train)
        if not step.fits:
            raise _out_of_memory(case, best.model, best.price)
        best = best.with_measured(step)
    if case.is_timed and best.num_steps < 1:
        raise _out_of_time(case, best)
    return Selection(best, [best], [best] if best.measured else [], text, train_bytes)


def _train_s(case: Case, vocabulary: Vocabulary) -> float:
    """Time for training, before anything is chosen: the classic table goes by the clock alone."""
    return case.divided(vocabulary, plan_s=case.planning_limit_s).phases.train_s


def row_for(train_s: float) -> Row:
    """The row for so many seconds of training."""
    return next(row for row in TABLE if train_s < 3600 * row.hours)


def wished(pins: ModelParams, row: Row) -> ModelParams:
    """The row as wishes, under those of the user. Heads are those of the row only for the width of the row."""
    wishes = {"num_layers": row.num_layers, "d_model": row.d_model, "seq_len": CONTEXT}
    if pins.d_model == pins.num_heads == pins.num_kv_heads == "auto":
        wishes |= {"num_heads": row.num_heads, "num_kv_heads": NUM_KV_HEADS if row.d_model >= GROUPED_FROM else row.num_heads}
    return pins.model_copy(update={name: value for name, value in wishes.items() if getattr(pins, name) == "auto"})


def bytes_of(row: Row, seq_len: int, vocabulary: Vocabulary, *, unique_bytes: float) -> int:
    """Training text that a row takes of all there is."""
    samples = NUM_SAMPLES * seq_len * vocabulary.bytes_per_token
    return int(row.data_share * unique_bytes if row.data_share else min(unique_bytes, samples))


def _configured(case: Case, situation: Situation, model: ModelPlan, vocabulary: Vocabulary) -> Candidate:
    wish = situation.train
    unit = model.seq_len * (1 if wish.micro_batch == "auto" else wish.micro_batch)
    tokens_per_step = max(1, round(TOKENS_PER_STEP / unit)) * unit if wish.tokens_per_step == "auto" else wish.tokens_per_step
    price = situation.price_of(model, situation.attention(model.seq_len))
    if contradiction := longer_than_text(situation, [model], [vocabulary]) or contradiction_of(situation, [model]):
        raise contradiction
    is_compiled = compile_choices(situation)[0]  # only where it is pinned: nothing is searched
    candidate = configure(situation, model, price, vocabulary, tokens_per_step=tokens_per_step, is_compiled=is_compiled)
    if candidate is None:
        raise _out_of_memory(case, model, price)
    return replace(candidate, text=replace(situation.text, unique_bytes=inf))  # it trains to the end of its time, however often it reads the text


def _out_of_memory(case: Case, model: ModelPlan, price: Price) -> UserError:
    saw = f"{_shape(model)}, {format_count(price.num_params)} parameters; {format_bytes(case.hardware.usable_memory_bytes)} may be used"
    return UserError("the model of the classic table does not fit into memory", saw=saw, fix=INSTEAD)


def _out_of_time(case: Case, best: Candidate) -> UserError:
    step = f"a step of {best.train.tokens_per_step} tokens takes about {format_duration(best.step_s)}"
    saw = f"{_shape(best.model)}; {step}, and {format_duration(best.loop_s)} are left for steps"
    sequences = int(best.loop_s / best.step_s * best.train.tokens_per_step / best.model.seq_len)  # that fit into the time, about
    fewer = best.model.seq_len << sequences.bit_length() - 1 if sequences > 0 else 0
    pin = f", or set `train.tokens_per_step` to at most {fewer}" if fewer and case.params.train.tokens_per_step != "auto" else ""
    return UserError("the model of the classic table is too slow for a single step", saw=saw, fix=f"{INSTEAD}{pin}, or give more `budget.time`")


def _shape(model: ModelPlan) -> str:
    return f"plan.strategy: table; {model.num_layers} layers x {model.d_model}"


def table_reasons(case: Case, selection: Selection) -> list[str]:
    """Which row it was, in sentences."""
    best = selection.best
    train_s = _train_s(case, best.vocabulary)
    row = row_for(train_s)
    share = f"{row.data_share:.0%} of the text" if row.data_share else f"{NUM_SAMPLES} samples of one context"
    wanted = bytes_of(row, best.model.seq_len, best.vocabulary, unique_bytes=case.all_text.unique_bytes)
    share += ", or as much as can be encoded" if selection.train_bytes < wanted else ""
    pins = list(case.params.model.pins)
    shape = f"{row.num_layers} layers x {row.d_model}, {row.num_heads} heads" + (f", but for what is pinned ({', '.join(pins)})" if pins else "")
    pinned = "as pinned" if case.params.train.tokens_per_step != "auto" else "the conventional number for every row, and no law"
    time = f"the classic table for {format_duration(train_s)} of training ({row.use})"
    return [f"{time}: {shape}, {share} ({format_bytes(selection.train_bytes)}); nothing was searched", f"{best.train.tokens_per_step} tokens a step: {pinned}"]
