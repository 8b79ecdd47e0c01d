"""The planner wired to this machine: real prices, a survey of the text, real steps; what earlier plans found out is not found out again."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial

from pufferfish.base.memo import Tell
from pufferfish.data.survey import reading_s, text_to_learn_from
from pufferfish.model.price import decoder_price
from pufferfish.plan import table
from pufferfish.plan.budget import reserve_factor
from pufferfish.plan.case import MAX_VALIDATION_BYTES, VALIDATION_SHARE, Case, Measuring, data_plan
from pufferfish.plan.make import decide
from pufferfish.plan.preview import make_preview
from pufferfish.plan.prices import Price, RunPilot
from pufferfish.plan.scaling import LAW, NOISE_EPOCHS, Text, difficulty, experience, lookback, wear
from pufferfish.plan.space import VOCABULARIES
from pufferfish.schema.experience import log_errors
from pufferfish.schema.hardware import Corpus, Hardware
from pufferfish.schema.params import Params
from pufferfish.schema.plan import DataPlan, ModelPlan, Plan
from pufferfish.schema.preview import Preview
from pufferfish.schema.reserve import ratios
from pufferfish.train.beside import Steps
from pufferfish.train.known import KnownSteps, known_survey
from pufferfish.train.known_pilots import KnownPilots

LARGEST_VOCABULARY = {"cpu": 8_192, "cuda": 32_768}  # the head of a larger one costs more than it gives
SURVEYED_BYTES = 800_000  # of the training side


def plan_here(
    params: Params, hardware: Hardware, corpus: Corpus, *, steps: Steps, spent_s: Callable[[], float], probed_s: float = 0.0, tell: Tell = print
) -> Plan:
    """Survey the text, price and measure on this machine, choose. `probed_s`: what the probe took, if this pipeline began with it. Raises UserError as
    `decide` and `survey` do."""
    pilots = pilots_here(params, hardware, corpus, tell=tell)
    case = replace(case_here(params, hardware, corpus, here=hardware, pilots=pilots, tell=tell), probed_s=probed_s)
    return decide(case, measuring_here(hardware, steps, pilots, spent_s=spent_s, tell=tell)).plan


def preview_here(
    params: Params, here: Hardware, corpus: Corpus, *, steps: Steps | None, other: Hardware | None, spent_s: Callable[[], float], tell: Tell
) -> Preview:
    """The plan with its surroundings, for this machine, `here`, or for an `other` one. Without `steps`, from predictions alone. Raises UserError as
    `plan_here` does."""
    pilots = pilots_here(params, other or here, corpus, tell=tell)
    case = case_here(params, other or here, corpus, here=here, pilots=pilots, tell=tell)
    case = replace(case, price_of=cache(case.price_of))  # the same models are priced for several budgets
    return make_preview(case, measuring_here(here, steps, None, spent_s=spent_s, tell=tell) if steps else None)  # nothing is trained for a look


def pilots_here(params: Params, hardware: Hardware, corpus: Corpus, *, tell: Tell) -> KnownPilots | None:
    """The short trainings that this text had; None where none are wished for, or nothing is chosen by forecasts."""
    is_wanted = params.plan.pilots == "auto" and params.plan.strategy == "measured"
    return KnownPilots(params, hardware, corpus, tell=tell) if is_wanted else None


def case_here(params: Params, hardware: Hardware, corpus: Corpus, *, here: Hardware, pilots: KnownPilots | None, tell: Tell) -> Case:
    """What to plan for on the machine `hardware`, with the text surveyed on this one, `here`."""
    vocab_sizes = _vocab_sizes(params, hardware)
    found = known_survey(_surveyed(params, corpus, vocab_sizes), vocab_sizes, here, tell=tell)
    unique_bytes = text_to_learn_from(corpus, found, validation_share=VALIDATION_SHARE, max_validation_bytes=MAX_VALIDATION_BYTES)
    known = experience(log_errors(corpus, seed=params.data.seed, law=LAW))
    hardness, copies = found.hardness, found.copies
    noisy_from = math.inf if params.train.input_noise == 0 else NOISE_EPOCHS
    text = Text(
        unique_bytes,
        difficulty(hardness.bpb),
        known,
        copies.share,
        copies.num_bytes,
        wear(hardness.slope),
        noisy_from,
        found.document_bytes,
        lookback(hardness.lookback),
    )
    rounds, factor = pilots.rounds if pilots else [], reserve_factor(ratios(hardware.identity))
    return Case(
        params,
        hardware,
        corpus,
        found.vocabularies,
        text,
        price_of=_price_of,
        pilots=rounds,
        reserve_factor=factor,
        held_back_bytes=found.held_back_bytes,
        reading_s=lambda train_bytes: reading_s(corpus, found, train_bytes=train_bytes, max_validation_bytes=MAX_VALIDATION_BYTES),
    )


def _price_of(model: ModelPlan, attention: str) -> Price:
    return decoder_price(model, attention=attention)


def _surveyed(params: Params, corpus: Corpus, vocab_sizes: list[int]) -> DataPlan:
    """What is looked at of the text: its split, and a sample."""
    return data_plan(corpus, vocab_size=max(vocab_sizes), tokenizer_bytes=SURVEYED_BYTES, train_bytes=SURVEYED_BYTES, seed=params.data.seed)


def measuring_here(hardware: Hardware, steps: Steps, pilots: KnownPilots | None, *, spent_s: Callable[[], float], tell: Tell) -> Measuring:
    """Real steps, kept for later plans on this machine, and short trainings, once for the same wishes."""
    known = KnownSteps(hardware, steps, tell=tell)
    open_pilots = pilots.keeping(partial(_open_pilots, steps, tell=tell)) if pilots and not pilots.has_own else None
    return Measuring(known.measure, spent_s, known.is_known, known.measure_again, open_pilots)


def _open_pilots(steps: Steps, data: DataPlan, sample_bytes: int, *, tell: Tell) -> RunPilot:
    from pufferfish.train.pilot import read_text, run_pilot  # torch arrives here

    steps.end()  # a pilot needs the memory, and a device that only one process may use
    text = read_text(data, sample_bytes)
    return lambda model, plan, limit_s: run_pilot(text, model, plan, limit_s=limit_s, tell=tell)


def _vocab_sizes(params: Params, hardware: Hardware) -> list[int]:
    """The pinned one, or those worth looking at for this machine."""
    if params.data.vocab_size != "auto":
        return [params.data.vocab_size]
    if params.plan.strategy == "table":
        return [size for size in VOCABULARIES if size <= table.VOCABULARY]
    return [size for size in VOCABULARIES if size <= LARGEST_VOCABULARY[hardware.fingerprint.device]]
