"""Everything that fits into memory and time: from what all candidates share to each of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from pufferfish.base.errors import UserError
from pufferfish.plan import memory, recipe, scaling, speed
from pufferfish.plan.candidate import COMPILE_S, Candidate
from pufferfish.plan.prices import Price, PriceOf, Vocabulary
from pufferfish.plan.scaling import Text
from pufferfish.plan.speed import Machine
from pufferfish.schema.hardware import Hardware
from pufferfish.schema.params import DataParams, TrainParams
from pufferfish.schema.plan import ModelPlan, TrainPlan

BATCH_CHOICES = (0.5, 1.0, 2.0, 4.0)  # times the best batch
COUNTED_CHOICES = (0.125, 0.25, 0.5, 1.0, 2.0)  # times the batch with which counted steps would take about the time that there is
WINDOW_SHARE = 0.8  # of the tokens that the text will give, as estimated: 100 kB gave 17 % fewer with 2,048 entries, which were learned from all of it


@dataclass(frozen=True)
class Situation:
    """What every candidate shares."""

    machine: Machine
    data: DataParams
    train: TrainParams
    price_of: PriceOf
    text: Text
    loop_s: Callable[[Vocabulary], float]  # time for steps with a vocabulary, before compilation

    @property
    def hardware(self) -> Hardware:
        """What was measured of it."""
        return self.machine.hardware

    @cached_property
    def known_bare(self) -> dict[tuple[Any, ...], TrainPlan]:
        """Trainings of `bare`: thousands of candidates share a few hundred."""
        return {}

    @cached_property
    def with_teacher(self) -> Situation:
        """The same for trainings that an average of their last weights teaches."""
        return replace(self, train=self.train.model_copy(update={"teacher_share": recipe.TEACHER_SHARE}))

    @cached_property
    def dtype(self) -> str:
        """The pinned one, or that of the fastest matrix products. Raises UserError where the pinned one does not run."""
        speeds, wish = self.hardware.measured.dtypes, self.train.dtype
        if wish == "auto":
            # float16 needs its loss scaled: only where it is far faster, as on GPUs that lack bfloat16
            worth = {speed.dtype: max(gemm.flops_per_s for gemm in speed.gemms) / (2 if speed.dtype == "float16" else 1) for speed in speeds}
            return max(worth, key=lambda dtype: worth[dtype])
        if wish not in {speed.dtype for speed in speeds}:
            known = ", ".join(speed.dtype for speed in speeds)
            raise UserError(f"{wish} does not run on this machine", saw=f"train.dtype: {wish}; there are {known}", fix="set `train.dtype: auto`")
        return wish

    def attention(self, seq_len: int) -> str:
        """The pinned kernel, or the fastest. Raises UserError where the pinned one does not run."""
        kernel, seen = recipe.attention_for(self.train, self.hardware.fingerprint.device, seq_len), self.hardware.fingerprint
        if kernel != "flash_attn" or (seen.device == "cuda" and float(seen.gpus[0].compute_capability) >= recipe.OLDEST_FLASH and self.dtype != "float32"):
            return kernel
        where = f"{seen.gpus[0].name}, compute capability {seen.gpus[0].compute_capability}" if seen.device == "cuda" else "a CPU"
        needs = f"it takes half precision on NVIDIA devices of compute capability {recipe.OLDEST_FLASH} and more"
        raise UserError(
            "flash-attn does not run here", saw=f"train.attention: flash_attn, on {where} in {self.dtype}; {needs}", fix="set `train.attention: auto`"
        )


def longest_context(text: Text, vocabulary: Vocabulary) -> int:
    """Tokens of which the text surely gives a window."""
    return int(WINDOW_SHARE * text.unique_bytes / vocabulary.bytes_per_token)


def configurations(situation: Situation, models: Iterable[ModelPlan], vocabularies: Sequence[Vocabulary]) -> Iterator[Candidate]:
    """Everything that fits into memory, with a context that the text fills."""
    by_size = {vocabulary.vocab_size: vocabulary for vocabulary in vocabularies}
    for model in models:
        if model.seq_len > longest_context(situation.text, by_size[model.vocab_size]):
            continue
        price, vocabulary = situation.price_of(model, situation.attention(model.seq_len)), by_size[model.vocab_size]
        for is_compiled in compile_choices(situation):
            if not is_compiled or may_pay_to_compile(situation, vocabulary):
                yield from _with_batches(situation, model, price, vocabulary, is_compiled=is_compiled)


def largest_divisor(number: int, *, at_most: int) -> int:
    """The largest divisor of a number up to a limit."""
    return next(size for size in range(min(number, at_most), 0, -1) if number % size == 0)


def compile_choices(situation: Situation) -> list[bool]:
    """Whether to compile: what is pinned, or what is possible. Raises UserError where it is pinned and impossible."""
    wish, measured = situation.train.compile, situation.hardware.measured
    if wish is True and not measured.has_compiler:
        raise UserError(
            "torch.compile does not work here",
            saw="train.compile: true, and no C++ compiler with Python's headers, or no Triton for this device",
            fix="install what `pufferfish doctor` names, or set `train.compile: auto`",
        )
    if wish != "auto":
        return [wish]
    return [False, True] if measured.has_compiler else [False]


def may_pay_to_compile(situation: Situation, vocabulary: Vocabulary) -> bool:
    """Whether compiled steps could be more in the time that is left to them, or are pinned, or counted."""
    if situation.train.compile != "auto" or situation.train.num_steps != "auto":
        return True
    eager_s, compiled_s = (loop_seconds(situation, vocabulary, is_compiled=is_compiled) for is_compiled in (False, True))
    return compiled_s > speed.COMPILED_SHARE[situation.hardware.fingerprint.device] * eager_s


def _with_batches(situation: Situation, model: ModelPlan, price: Price, vocabulary: Vocabulary, *, is_compiled: bool) -> Iterator[Candidate]:
    seen = set()
    wish = situation.train
    if wish.tokens_per_step != "auto":
        wanted = [float(wish.tokens_per_step)] if wish.tokens_per_step % model.seq_len == 0 else []
    else:
        in_time = max(1.0, loop_seconds(situation, vocabulary, is_compiled=is_compiled)) * price_per_second(situation, model, price)
        unique_tokens = situation.text.unique_bytes / vocabulary.bytes_per_token
        in_time = min(in_time, scaling.ALONE_EPOCHS * unique_tokens)
        if wish.num_steps == "auto":
            wanted = [factor * scaling.best_tokens_per_step(in_time, in_time / unique_tokens) for factor in BATCH_CHOICES]
        else:
            wanted = [factor * in_time / wish.num_steps for factor in COUNTED_CHOICES]
    for tokens in wanted:
        tokens_per_step = whole_tokens_per_step(situation, model, tokens)
        if tokens_per_step not in seen:
            seen.add(tokens_per_step)
            candidate = configure(situation, model, price, vocabulary, tokens_per_step=tokens_per_step, is_compiled=is_compiled)
            if candidate:
                yield candidate
            if candidate and may_be_taught(situation, candidate):
                taught = configure(situation.with_teacher, model, price, vocabulary, tokens_per_step=tokens_per_step, is_compiled=is_compiled)
                yield from [taught] if taught else []


def may_be_taught(situation: Situation, candidate: Candidate) -> bool:
    """Whether that is left to the plan, and may be worth its passes: there is time to read the text often, for a model that could learn it by heart."""
    unique_bytes = situation.text.unique_bytes
    num_steps = candidate.fitting_steps if candidate.train.clock == "deadline" else candidate.num_steps
    epochs = num_steps * candidate.train.tokens_per_step * candidate.vocabulary.bytes_per_token / unique_bytes
    per_byte = candidate.price.num_params / unique_bytes
    return situation.train.teacher_share == "auto" and epochs >= scaling.TAUGHT_EPOCHS and per_byte >= scaling.TAUGHT_PER_BYTE


def loop_seconds(situation: Situation, vocabulary: Vocabulary, *, is_compiled: bool) -> float:
    """Time for steps; nothing or less where the compilation takes all of it."""
    return situation.loop_s(vocabulary) - (COMPILE_S[situation.hardware.fingerprint.device] if is_compiled else 0.0)


def price_per_second(situation: Situation, model: ModelPlan, price: Price) -> float:
    """Rough tokens per second, to place the batch."""
    flops_per_s = situation.machine.gemm_flops_per_s(situation.dtype, 2048, model.d_model, model.d_model * 4)
    return 0.5 * flops_per_s / price.flops_per_token


def whole_tokens_per_step(situation: Situation, model: ModelPlan, wanted: float) -> int:
    """The pinned number, or the power of two times the pinned micro-batch or one sequence that is nearest to what is wanted."""
    wish = situation.train
    if wish.tokens_per_step != "auto":
        return wish.tokens_per_step
    unit = model.seq_len * (1 if wish.micro_batch == "auto" else wish.micro_batch)
    return unit << max(0, round(math.log2(max(1.0, wanted / unit))))


def configure(situation: Situation, model: ModelPlan, price: Price, vocabulary: Vocabulary, *, tokens_per_step: int, is_compiled: bool) -> Candidate | None:
    """The configuration as it fits best into memory. None where there is no time or memory."""
    loop_s = loop_seconds(situation, vocabulary, is_compiled=is_compiled)
    if loop_s <= 0 and situation.train.num_steps == "auto":
        return None
    train = fitted(situation, model, price, tokens_per_step=tokens_per_step, is_compiled=is_compiled)
    if train is None:
        return None
    of = situation.machine, price, model, train
    predicted_s = speed.step_seconds(*of)
    return Candidate(model, train, price, predicted_s, speed.pass_seconds(*of) / predicted_s, loop_s, vocabulary, situation.text)


def fitted(situation: Situation, model: ModelPlan, price: Price, *, tokens_per_step: int, is_compiled: bool) -> TrainPlan | None:
    """A training with the largest micro-batch that fits, activations recomputed only if nothing else does. None where nothing does."""
    sequences, embedding_params = tokens_per_step // model.seq_len, recipe.embedding_params(model, price)
    limit_bytes = memory.USABLE_SHARE * situation.hardware.usable_memory_bytes
    pinned = situation.train.micro_batch
    if pinned != "auto" and sequences % pinned:
        return None
    for is_checkpointed in (False, True):
        train = bare(situation, model, tokens_per_step=tokens_per_step, is_compiled=is_compiled, is_checkpointed=is_checkpointed)
        fits = memory.largest_micro_batch(price, train, seq_len=model.seq_len, embedding_params=embedding_params, limit_bytes=limit_bytes)
        if fits >= (1 if pinned == "auto" else pinned):
            return train.model_copy(update={"micro_batch": largest_divisor(sequences, at_most=fits) if pinned == "auto" else pinned})
    return None


def bare(situation: Situation, model: ModelPlan, *, tokens_per_step: int, is_compiled: bool, is_checkpointed: bool) -> TrainPlan:
    """A training with one sequence at a time, which takes the least memory. Only what paces and memory depend on is right about it."""
    key = (model.d_model, model.seq_len, model.is_tied, tokens_per_step, is_compiled, is_checkpointed)  # all of a model that a recipe sees
    known = situation.known_bare
    if key not in known:
        known[key] = _bare(situation, model, tokens_per_step=tokens_per_step, is_compiled=is_compiled, is_checkpointed=is_checkpointed)
    return known[key]


def _bare(situation: Situation, model: ModelPlan, *, tokens_per_step: int, is_compiled: bool, is_checkpointed: bool) -> TrainPlan:
    return recipe.train_plan(
        situation.train,
        situation.data,
        situation.hardware,
        model,
        dtype=situation.dtype,
        tokens_per_step=tokens_per_step,
        micro_batch=1,
        num_steps=1,
        train_s=0.0,
        epochs=0.0,
        per_byte=0.0,
        teacher_share=0.0 if situation.train.teacher_share == "auto" else situation.train.teacher_share,
        is_compiled=is_compiled,
        is_checkpointed=is_checkpointed,
    )
