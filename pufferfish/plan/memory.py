"""How much memory a training holds at its peak, in bytes, by term."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pufferfish.plan.prices import Price
from pufferfish.schema.plan import TrainPlan

# Interpreter, libraries, kernels and threads. CPU: 247 MB when everything is imported, 315 MB after the first step of a small model; to measure it, a plan
# from predictions alone would have to import torch and take a step. CUDA: a guess.
PROCESS_BYTES = {"cpu": 315_000_000, "cuda": 600_000_000}
USABLE_SHARE = 0.85  # of the memory that is there
MOST_AT_ONCE = {"cpu": math.inf, "cuda": 65_536}  # tokens of a micro-batch: more are no quicker, and take memory that others may want; a guess

# The head is computed for so many tokens at a time (model/loss.py): logits and their probabilities are held.
CHUNK_BYTES, CACHED_TOKENS, FLOAT16_TOKENS = 2**28, 512, 4096
LOGIT_BYTES = {"float32": 8, "bfloat16": 4, "float16": 6}  # of both
STATE_BYTES = {"adamw": 8, "muon": 4}  # two moments; one momentum (embedding and head, which have two, are counted apart)
# Of each matrix parameter, while the optimizer works and activations are gone: directions, updates, and where they agree with the weights (muon.py). On CPUs
# the share of the states that was fitted has them in it.
TEMPORARY_BYTES = {("cuda", "muon"): 12}
RECOMPUTED = 0.25  # of the activations that remain where they are recomputed, besides those of the block that is at hand


@dataclass(frozen=True)
class WorkSpace:
    """What is held beyond the terms, as shares of them: short-lived tensors, and memory that was freed and cannot be taken again."""

    states: float  # of all that grows with the parameters: joined weights of each layer, directions of the optimizer
    activations: float
    block: float  # of the activations of one, whose gradients are at hand
    logits: float


# CPU: fitted to 24 trainings, 4.6 % root mean square (docs/LOG.md). glibc takes an aligned block from a hole only if that is 96 bytes larger, so freed blocks
# lie idle beside held ones, up to a fifth more from run to run of the same training. GPUs: guesses.
WORKSPACE = {"cpu": WorkSpace(states=0.7, activations=0.05, block=1.15, logits=0.15), "cuda": WorkSpace(states=0.08, activations=0.08, block=1.0, logits=0.08)}


@dataclass(frozen=True)
class Memory:
    """Terms of the peak, bytes. What a term is called here is what people read."""

    process: int
    weights: int  # the copies that compute, where these are not the masters themselves: one, and a teacher
    masters: int
    average: int  # of the weights, in case that time is over in mid-schedule
    gradients: int
    optimizer: int
    activations: int
    logits: int  # of the head, for a chunk of tokens
    workspace: int

    @property
    def total(self) -> int:
        """The peak."""
        return sum(vars(self).values())


def memory_of(price: Price, train: TrainPlan, *, seq_len: int, embedding_params: int) -> Memory:
    """Peak of one training step. `embedding_params` are those that AdamW keeps under every optimizer: all but matrices of blocks."""
    states, share = _states(price, train, embedding_params), WORKSPACE[train.device]
    num_tokens = train.micro_batch * seq_len
    activations, block = num_tokens * _kept_bytes(price, train), num_tokens * _block_bytes(price, train)
    logits = _head_tokens(price, train, num_tokens) * _logits_bytes(price, train)
    passing = share.activations * activations + share.block * block + share.logits * logits
    later = max(0.0, _temporaries(price, train, embedding_params) - activations - logits - passing)
    workspace = share.states * sum(states.values()) + passing + later
    return Memory(process=PROCESS_BYTES[train.device], workspace=round(workspace), activations=round(activations), logits=round(logits), **states)


def largest_micro_batch(price: Price, train: TrainPlan, *, seq_len: int, embedding_params: int, limit_bytes: float) -> int:
    """How many sequences fit; 0 where not even one does."""
    share = WORKSPACE[train.device]
    logits_bytes = (1 + share.logits) * _logits_bytes(price, train)
    kept = (1 + share.activations) * _kept_bytes(price, train) + share.block * _block_bytes(price, train)
    left_bytes = limit_bytes - PROCESS_BYTES[train.device] - (1 + share.states) * sum(_states(price, train, embedding_params).values())
    if left_bytes < _temporaries(price, train, embedding_params):
        return 0
    num_tokens, most_tokens = left_bytes / (kept + logits_bytes), _head_tokens(price, train, math.inf)
    if num_tokens > most_tokens:  # the head takes no more than for those
        num_tokens = (left_bytes - most_tokens * logits_bytes) / kept
    return max(0, int(min(num_tokens, max(seq_len, MOST_AT_ONCE[train.device])) / seq_len))


def _states(price: Price, train: TrainPlan, embedding_params: int) -> dict[str, int]:
    """What grows with the parameters alone."""
    copy_bytes = 0 if train.dtype == "float32" else 2
    return {
        "weights": (copy_bytes + (_element_bytes(train) if train.teacher_share else 0)) * price.num_params,
        "masters": 4 * price.num_params,
        "average": 4 * price.num_params,
        "gradients": (4 + copy_bytes) * price.num_params,
        "optimizer": STATE_BYTES[train.optimizer] * price.num_params + (8 - STATE_BYTES[train.optimizer]) * embedding_params,
    }


def _temporaries(price: Price, train: TrainPlan, embedding_params: int) -> int:
    """What the optimizer takes for the time of its work."""
    return TEMPORARY_BYTES.get((train.device, train.optimizer), 0) * (price.num_params - embedding_params)


def _kept_bytes(price: Price, train: TrainPlan) -> float:
    """Activations of one token."""
    kept = price.activation_elements_per_token * _element_bytes(train) + price.float32_elements_per_token * 4
    return RECOMPUTED * kept + _block_bytes(price, train) if train.is_checkpointed else kept


def _block_bytes(price: Price, train: TrainPlan) -> float:
    """Activations of one token in one block."""
    return price.block_elements_per_token * _element_bytes(train)


def _logits_bytes(price: Price, train: TrainPlan) -> int:
    """Of one token; of a teacher's as well."""
    return (2 if train.teacher_share else 1) * LOGIT_BYTES[train.dtype] * price.logits_per_token


def _head_tokens(price: Price, train: TrainPlan, num_tokens: float) -> float:
    """Tokens whose logits are held at a time."""
    is_cached = train.device == "cpu" and not train.is_compiled
    most = min(CACHED_TOKENS if is_cached else math.inf, FLOAT16_TOKENS if train.dtype == "float16" else math.inf)
    return min(num_tokens, CHUNK_BYTES // (4 * price.logits_per_token), most)


def _element_bytes(train: TrainPlan) -> int:
    return 4 if train.dtype == "float32" else 2
