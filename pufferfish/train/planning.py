"""The planner wired to this machine: real prices, a survey of the text, real steps."""

from __future__ import annotations

from collections.abc import Callable

from pufferfish.data.survey import bz2_bits_per_byte, survey, train_bytes_after_split
from pufferfish.model.transformer import decoder_price
from pufferfish.plan import table
from pufferfish.plan.case import MAX_VALIDATION_BYTES, VALIDATION_SHARE
from pufferfish.plan.choose import MEASURED_STEPS_S
from pufferfish.plan.make import make_plan
from pufferfish.plan.scaling import Text, difficulty
from pufferfish.plan.space import VOCABULARIES
from pufferfish.schema.hardware import Corpus, Hardware
from pufferfish.schema.params import Params
from pufferfish.schema.plan import Plan
from pufferfish.train.measure import measure_steps

SAMPLE_BYTES = 1_000_000
LARGEST_VOCABULARY = {"cpu": 8_192, "cuda": 32_768}  # the head of a larger one costs more than it gives
SMALL_CORPUS_BYTES = 1_000_000  # below this, vocabularies under 512 are surveyed too


def plan_here(params: Params, hardware: Hardware, corpus: Corpus, *, spent_s: Callable[[], float]) -> Plan:
    """Survey the text, price and measure on this machine, choose. Raises UserError as `make_plan` and `survey` do."""
    vocabularies = survey(params.data, corpus, _vocab_sizes(params, hardware, corpus), SAMPLE_BYTES)
    unique_bytes = train_bytes_after_split(corpus, validation_share=VALIDATION_SHARE, max_validation_bytes=MAX_VALIDATION_BYTES)
    return make_plan(
        params,
        hardware,
        corpus,
        vocabularies=vocabularies,
        text=Text(unique_bytes, difficulty(bz2_bits_per_byte(params.data, SAMPLE_BYTES))),
        price_of=lambda model, attention: decoder_price(model, attention=attention),
        measure=lambda model, plan: measure_steps(model, plan, limit_s=MEASURED_STEPS_S),
        spent_s=spent_s,
    )


def _vocab_sizes(params: Params, hardware: Hardware, corpus: Corpus) -> list[int]:
    """The pinned one, or those worth looking at for this machine and so much text."""
    if params.data.vocab_size != "auto":
        return [params.data.vocab_size]
    if params.plan.strategy == "table":
        return [size for size in VOCABULARIES if size <= table.VOCABULARY]
    smallest = 0 if corpus.num_bytes < SMALL_CORPUS_BYTES else 512
    return [size for size in VOCABULARIES if smallest <= size <= LARGEST_VOCABULARY[hardware.fingerprint.device]]
