"""How much memory a training holds at its peak, in bytes, by term."""

from __future__ import annotations

from dataclasses import dataclass

from pufferfish.plan.prices import Price
from pufferfish.schema.plan import TrainPlan

# Interpreter, libraries, kernels and threads. CPU: 247 MB when everything is imported, 315 MB after the first step of a small model; to measure it, a plan
# from predictions alone would have to import torch and take a step. CUDA: a guess.
PROCESS_BYTES = {"cpu": 315_000_000, "cuda": 600_000_000}
USABLE_SHARE = 0.85  # of the memory that is there

# At most, since the head is computed in chunks (model/loss.py). Real steps of 8,192 and 16,384 tokens with a vocabulary of 8,192 both held about so much.
LOGITS_BYTES = 3 * 2**28
STATE_BYTES = {"adamw": 8, "muon": 4}  # two moments; one momentum (embedding and head, which have two, are counted apart)
RECOMPUTED = 0.3  # of the activations that remain where they are recomputed: one block at a time and the borders between blocks


@dataclass(frozen=True)
class WorkSpace:
    """What is held beyond the terms, as shares of them: short-lived tensors, and memory that was freed and cannot be taken again."""

    states: float  # of all that grows with the parameters
    activations: float
    logits: float
    chunks: float  # of the logits, where they are computed in chunks


# CPU: glibc takes an aligned block from a hole only if that is 96 bytes larger, so a freed block is not used again for the same size while its neighbours are
# held. Three blocks of logits are held at once, and about 5.4 stay reserved: mostly 4.4 to 6.5, up to 8 in 39 trainings, and one more or less from run to run
# of the same one, since small objects decide which holes grow together. With GLIBC_TUNABLES=glibc.malloc.tcache_count=0 they do, and it is always 3.5.
# States: joined weights of each layer, and directions of the optimizer. GPUs: one guess for all.
WORKSPACE = {"cpu": WorkSpace(states=0.2, activations=0.15, logits=0.8, chunks=0.15), "cuda": WorkSpace(0.08, 0.08, 0.08, 0.08)}


@dataclass(frozen=True)
class Memory:
    """Terms of the peak, bytes. What a term is called here is what people read."""

    process: int
    weights: int  # the copy that computes, where that is not the masters themselves
    masters: int
    average: int  # of the weights, in case that time is over in mid-schedule
    gradients: int
    optimizer: int
    activations: int
    logits: int  # of the head, with their gradients
    workspace: int

    @property
    def total(self) -> int:
        """The peak."""
        return sum(vars(self).values())


def memory_of(price: Price, train: TrainPlan, *, seq_len: int, embedding_params: int) -> Memory:
    """Peak of one training step. `embedding_params` are those that AdamW keeps under every optimizer: all but matrices of blocks."""
    states, share = _states(price, train, embedding_params), WORKSPACE[train.device]
    logits = train.micro_batch * _logits_bytes(price, seq_len)
    terms = states | {
        "activations": round(train.micro_batch * _kept_bytes(price, train, seq_len)),
        "logits": round(min(LOGITS_BYTES, logits)),
    }
    of_logits = share.chunks if logits > LOGITS_BYTES else share.logits
    workspace = share.states * sum(states.values()) + share.activations * terms["activations"] + of_logits * terms["logits"]
    return Memory(process=PROCESS_BYTES[train.device], workspace=round(workspace), **terms)


def largest_micro_batch(price: Price, train: TrainPlan, *, seq_len: int, embedding_params: int, limit_bytes: float) -> int:
    """How many sequences fit, so that every smaller number fits, too; 0 where not even one does."""
    share, logits = WORKSPACE[train.device], _logits_bytes(price, seq_len)
    kept = (1 + share.activations) * _kept_bytes(price, train, seq_len)
    of_logits = 1 + (share.chunks if logits > LOGITS_BYTES else share.logits)
    left_bytes = limit_bytes - PROCESS_BYTES[train.device] - (1 + share.states) * sum(_states(price, train, embedding_params).values())
    sequences = left_bytes / (kept + of_logits * logits)
    if sequences * logits > LOGITS_BYTES:  # in chunks the head takes no more than just before
        sequences = (left_bytes - of_logits * LOGITS_BYTES) / kept
    return max(0, int(sequences))


def _states(price: Price, train: TrainPlan, embedding_params: int) -> dict[str, int]:
    """What grows with the parameters alone."""
    copy_bytes = 0 if train.dtype == "float32" else 2
    return {
        "weights": copy_bytes * price.num_params,
        "masters": 4 * price.num_params,
        "average": 4 * price.num_params,
        "gradients": (4 + copy_bytes) * price.num_params,
        "optimizer": STATE_BYTES[train.optimizer] * price.num_params + (8 - STATE_BYTES[train.optimizer]) * embedding_params,
    }


def _kept_bytes(price: Price, train: TrainPlan, seq_len: int) -> float:
    """Activations of one sequence."""
    element_bytes = 4 if train.dtype == "float32" else 2
    return seq_len * price.activation_elements_per_token * element_bytes * (RECOMPUTED if train.is_checkpointed else 1.0)


def _logits_bytes(price: Price, seq_len: int) -> float:
    """Three blocks of logits for one sequence: log-probabilities and two gradients of them."""
    return seq_len * 4 * price.float32_elements_per_token
