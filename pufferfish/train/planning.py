"""The planner wired to this machine: real prices, a survey of the text, real steps."""

from __future__ import annotations

from collections.abc import Callable

from pufferfish.data.survey import survey, train_bytes_after_split
from pufferfish.model.transformer import decoder_price
from pufferfish.plan.choose import MEASURED_STEPS_S
from pufferfish.plan.make import MAX_VALIDATION_BYTES, VALIDATION_SHARE, make_plan
from pufferfish.plan.space import VOCABULARIES
from pufferfish.schema.hardware import Corpus, Hardware
from pufferfish.schema.params import Params
from pufferfish.schema.plan import Plan
from pufferfish.train.measure import measure_steps

SAMPLE_BYTES = 1_000_000
LARGEST_VOCABULARY = 16_384  # on a CPU; the head of a larger one costs more than it gives


def plan_here(params: Params, hardware: Hardware, corpus: Corpus, *, spent_s: Callable[[], float]) -> Plan:
    """Survey the text, price and measure on this machine, choose. Raises UserError as `make_plan` and `survey` do."""
    wish = params.data.vocab_size
    largest = LARGEST_VOCABULARY if hardware.fingerprint.device == "cpu" else max(VOCABULARIES)
    sizes = [wish] if wish != "auto" else [size for size in VOCABULARIES if size <= largest]
    vocabularies = survey(params.data, corpus, sizes, SAMPLE_BYTES)
    return make_plan(
        params,
        hardware,
        corpus,
        vocabularies=vocabularies,
        unique_bytes=train_bytes_after_split(corpus, validation_share=VALIDATION_SHARE, max_validation_bytes=MAX_VALIDATION_BYTES),
        price_of=lambda model, attention: decoder_price(model, attention=attention),
        measure=lambda model, plan: measure_steps(model, plan, limit_s=MEASURED_STEPS_S),
        spent_s=spent_s,
    )
