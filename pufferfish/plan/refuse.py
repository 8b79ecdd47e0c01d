"""Why no configuration is left, and what would leave one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from pufferfish.base.errors import UserError
from pufferfish.base.units import format_bytes
from pufferfish.plan.candidate import FEWEST_STEPS, has_enough_steps
from pufferfish.plan.configure import Situation, configurations, largest_divisor, longest_context
from pufferfish.plan.prices import Vocabulary
from pufferfish.schema.plan import ModelPlan


def nothing_fits(situation: Situation, models: Sequence[ModelPlan], vocabularies: Sequence[Vocabulary]) -> UserError:
    """Which of the bounds and pins left no configuration, and the largest value of a pin that is too large."""
    wish = situation.train
    if contradiction := longer_than_text(situation, models, vocabularies) or contradiction_of(situation, models):
        return contradiction
    loop_s = max(situation.loop_s(vocabulary) for vocabulary in vocabularies)
    for name in ("tokens_per_step", "micro_batch"):
        if getattr(wish, name) != "auto":
            steps = max((each.loop_s / each.step_s for each in configurations(situation, models, vocabularies)), default=None)  # None: memory is too small
            if smaller := _largest_that_works(situation, models, vocabularies, name=name, steps=steps):
                return _too_large(name, getattr(wish, name), smaller, steps=steps, loop_s=loop_s)
    memory = f"{situation.hardware.usable_memory_bytes / 1e9:.1f} GB of memory"
    if loop_s > 0 and not any(configurations(situation, models, vocabularies)):
        fix = "pin smaller values in `model` and `train`, or allow more with `hardware_probe.memory` where that is pinned"
        return UserError("no model fits into memory", saw=f"{memory} may be used", fix=fix)
    bound = f"{memory}, {loop_s:.0f} s for training"
    missing_s = min((FEWEST_STEPS * each.step_s - each.loop_s for each in configurations(situation, models, vocabularies)), default=0.0)
    more = f"about {5 * math.ceil(missing_s / 5)} s more" if missing_s > 0 else "more"
    fix = f"give {more} `budget.time` (a training needs {FEWEST_STEPS} steps), or pin smaller values in `model` and `train`"
    return UserError("no model fits into the time and memory", saw=bound, fix=fix)


def longer_than_text(situation: Situation, models: Sequence[ModelPlan], vocabularies: Sequence[Vocabulary]) -> UserError | None:
    """A context that the text does not fill with any of the vocabularies."""
    longest = {vocabulary.vocab_size: longest_context(situation.text, vocabulary) for vocabulary in vocabularies}
    if any(model.seq_len <= longest[model.vocab_size] for model in models):
        return None
    tokens = max(situation.text.unique_bytes / vocabulary.bytes_per_token for vocabulary in vocabularies)
    saw = f"model.seq_len: {models[0].seq_len}; {format_bytes(situation.text.unique_bytes)} of text to learn from are about {tokens:.0f} tokens"
    return UserError("the text may not fill one context", saw=saw, fix=f"set `model.seq_len` to at most {max(longest.values())}, or give more text")


def contradiction_of(situation: Situation, models: Sequence[ModelPlan]) -> UserError | None:
    """Pins of the batch that no model can keep, whatever the time and memory."""
    wish, context = situation.train, models[0].seq_len
    if wish.tokens_per_step == "auto":
        return None
    if all(wish.tokens_per_step % model.seq_len for model in models):
        nearest = max(1, round(wish.tokens_per_step / context)) * context
        saw = f"train.tokens_per_step: {wish.tokens_per_step}; a sequence has {context} tokens"
        fix = f"set `train.tokens_per_step: {nearest}`, or pin `model.seq_len` to a divisor"
        return UserError("tokens per step are not whole sequences", saw=saw, fix=fix)
    if wish.micro_batch != "auto" and (sequences := wish.tokens_per_step // context) % wish.micro_batch:
        fits = largest_divisor(sequences, at_most=wish.micro_batch)
        saw = f"train.micro_batch: {wish.micro_batch}; a step has {sequences} sequences"
        return UserError("micro-batches do not make up a step", saw=saw, fix=f"set `train.micro_batch: {fits}`")
    return None


def _largest_that_works(situation: Situation, models: Sequence[ModelPlan], vocabularies: Sequence[Vocabulary], *, name: str, steps: float | None) -> int | None:
    """The largest value below the pinned one, a power of two times what it is made of, with which there is a configuration."""
    pinned, unit = getattr(situation.train, name), min(model.seq_len for model in models) if name == "tokens_per_step" else 1
    most = pinned - 1 if steps is None else min(pinned - 1, 2 * pinned * steps / FEWEST_STEPS)  # quick steps are a little more than in proportion
    for power in range(int(math.log2(most / unit)), -1, -1) if most >= unit else ():
        smaller = replace(situation, train=situation.train.model_copy(update={name: unit << power}))
        if any(map(has_enough_steps, configurations(smaller, models, vocabularies))):
            return int(unit << power)
    return None


def _too_large(name: str, pinned: int, smaller: int, *, steps: float | None, loop_s: float) -> UserError:
    if steps is None:
        bound = "no model fits into memory with it"
    else:
        bound = f"of such steps not even one fits into {loop_s:.0f} s" if steps < 1 else f"about {steps:.0f} such steps fit into {loop_s:.0f} s"
        bound += f", and a training needs {FEWEST_STEPS}"
    what = "the tokens of a step are too many" if name == "tokens_per_step" else "the micro-batch is too large"
    more = "" if steps is None else ", or give more `budget.time`"
    return UserError(what, saw=f"train.{name}: {pinned}; {bound}", fix=f"set `train.{name}` to at most {smaller}{more}")
