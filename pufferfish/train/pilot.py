"""A pilot: a short training on a sample of the real text, annealed to zero by the clock, measured on documents that the real training will be measured on.

Letters: N tokens, S stretches of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pufferfish.base.clock import now_s
from pufferfish.data.batches import Prefetcher, Windows
from pufferfish.data.prepare import encoded, split
from pufferfish.data.select import LONG_PIECE_BYTES, Piece
from pufferfish.data.shards import token_dtype
from pufferfish.data.tokenizer import train_up_to
from pufferfish.plan.candidate import FEWEST_STEPS
from pufferfish.plan.pilot import EVALUATED_SHARE, LEAST_SAMPLE_BYTES
from pufferfish.plan.prices import Pilot
from pufferfish.schema.plan import DataPlan, ModelPlan, TrainPlan
from pufferfish.train import memory
from pufferfish.train.clock import DeadlineClock
from pufferfish.train.readings import Readings
from pufferfish.train.schedule import lr_share
from pufferfish.train.step import Trainer
from pufferfish.train.validation import Validation

STRETCH_TOKENS = 512  # measured at a time: the same for models of all contexts


@dataclass(frozen=True)
class PilotText:
    """Tokens to learn from, of how many bytes, and to measure on."""

    train_N: np.ndarray
    num_bytes: int
    validation_N: np.ndarray
    validation_bytes_per_token: float


def read_text(data: DataPlan, sample_bytes: int) -> PilotText:
    """A sample of each side of the split that is planned, with a tokenizer of the planned size that learned from the first."""
    train, validation = split(data.model_copy(update={"train_bytes": sample_bytes}))
    pieces = list(train.read(max_bytes=sample_bytes, seed=data.seed))
    held_back = list(validation.read(max_bytes=data.max_validation_bytes, seed=data.seed, piece_bytes=LONG_PIECE_BYTES))
    every = max(1, sample_bytes // LEAST_SAMPLE_BYTES)
    tokenizer = train_up_to((piece.content.decode("utf-8") for piece in pieces[::every]), data.vocab_size)
    train_N, validation_N = (np.concatenate([ids for _, ids in encoded(side, tokenizer, token_dtype(data.vocab_size))]) for side in (pieces, held_back))
    return PilotText(train_N, _num_bytes(pieces), validation_N, _num_bytes(held_back) / len(validation_N))


def _num_bytes(pieces: Sequence[Piece]) -> int:
    return sum(len(piece.content) for piece in pieces)


def run_pilot(text: PilotText, model: ModelPlan, plan: TrainPlan, *, limit_s: float, tell: Callable[[str], None]) -> Pilot | None:
    """What a training of so many seconds reaches, all in all. Where it comes to nothing, it is told in a line, and the answer is None."""
    deadline_s = now_s() + limit_s
    name = f"a pilot of {model.num_layers} x {model.d_model} came to nothing"
    if len(text.train_N) <= model.seq_len:
        tell(f"{name}: its text is shorter than one window")
        return None
    try:
        num_steps, val_bpb = _train(text, model, plan, stop_s=deadline_s - EVALUATED_SHARE * limit_s)
    except RuntimeError as error:
        if not memory.is_out_of_memory(error):
            raise
        memory.free(error, torch.device(plan.device))
        tell(f"{name}: memory ran out")
        return None
    if num_steps < FEWEST_STEPS:
        tell(f"{name}: {num_steps} steps in {limit_s:.0f} s, where {plan.num_steps} were expected")
        return None
    if not math.isfinite(val_bpb):
        tell(f"{name}: its loss is not a number")
        return None
    return Pilot(model, plan.tokens_per_step, num_steps, text.num_bytes / len(text.train_N), text.num_bytes, limit_s, val_bpb)


def _train(text: PilotText, model: ModelPlan, plan: TrainPlan, *, stop_s: float) -> tuple[int, float]:
    """Steps made, and bits per byte reached by the last; those are not a number where too few were made to ask."""
    trainer = Trainer(model, plan, text.train_N)
    windows, readings = Windows(text.train_N, model.seq_len, plan.data_seed), Readings(trainer.device)
    num_micro = trainer.sequences_per_step // plan.micro_batch
    trainer.dry_step([windows.batch(0, plan.micro_batch)] * num_micro)
    clock, num_steps = DeadlineClock(stop_s, step_s=(stop_s - now_s()) / plan.num_steps, is_in_flight=lambda: readings.is_in_flight), 0
    with Prefetcher(windows, plan.micro_batch, 0) as batches:
        while not clock.is_over:
            loss, grad_norm = trainer.step((next(batches) for _ in range(num_micro)), lr_share=lr_share(clock.u, plan))
            readings.exchange(num_steps, loss, grad_norm)
            clock.tick()
            num_steps += 1
    readings.flush()
    sample_N = stretches(text.validation_N, plan.eval_tokens)
    validation = Validation(sample_N, seq_len=model.seq_len, num_tokens=len(sample_N), bytes_per_token=text.validation_bytes_per_token)
    return num_steps, validation.bits_per_byte(trainer) if num_steps >= FEWEST_STEPS else math.nan


def stretches(tokens_N: np.ndarray, count: int) -> np.ndarray:
    """About so many of the tokens, in stretches from everywhere, one after the other; or all of them."""
    if count >= len(tokens_N) or len(tokens_N) < 2 * STRETCH_TOKENS:
        return tokens_N
    starts_S = np.linspace(0, len(tokens_N) - STRETCH_TOKENS, max(1, count // STRETCH_TOKENS)).astype(np.int64)
    return np.concatenate([tokens_N[start : start + STRETCH_TOKENS] for start in starts_S])
