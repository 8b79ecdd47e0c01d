"""How much memory a training holds at its peak, in bytes, by term."""

from __future__ import annotations

from dataclasses import dataclass

from pufferfish.plan.prices import Price
from pufferfish.schema.plan import TrainPlan

PROCESS_BYTES = {"cpu": 420_000_000, "cuda": 600_000_000}  # interpreter, libraries, context; guesses
WORKSPACE = 0.08  # of all the rest: fragmentation and short-lived tensors
USABLE_SHARE = 0.85  # of the memory that is there

# At most, since the head is computed in chunks (model/loss.py). Real steps of 8,192 and 16,384 tokens with a vocabulary of 8,192 both held about so much.
LOGITS_BYTES = 3 * 2**28
STATE_BYTES = {"adamw": 8, "muon": 4}  # two moments; one momentum (embedding and head, which have two, are counted apart)
RECOMPUTED = 0.3  # of the activations that remain where they are recomputed: one block at a time and the borders between blocks


@dataclass(frozen=True)
class Memory:
    """Terms of the peak, bytes. What a term is called here is what people read."""

    process: int
    weights: int  # the copy that computes, where that is not the masters themselves
    masters: int
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
    element_bytes = 4 if train.dtype == "float32" else 2
    copy_bytes = 0 if train.dtype == "float32" else element_bytes
    kept = price.activation_elements_per_token * element_bytes * (RECOMPUTED if train.is_checkpointed else 1.0)
    tokens = train.micro_batch * seq_len
    terms = {
        "weights": copy_bytes * price.num_params,
        "masters": 4 * price.num_params,
        "gradients": (4 + copy_bytes) * price.num_params,
        "optimizer": STATE_BYTES[train.optimizer] * price.num_params + (8 - STATE_BYTES[train.optimizer]) * embedding_params,
        "activations": round(tokens * kept),
        "logits": round(min(LOGITS_BYTES, tokens * 4 * price.float32_elements_per_token)),
    }
    return Memory(process=PROCESS_BYTES[train.device], workspace=round(WORKSPACE * sum(terms.values())), **terms)


def largest_micro_batch(price: Price, train: TrainPlan, *, seq_len: int, embedding_params: int, limit_bytes: float) -> int:
    """How many sequences fit, where `train` has some; 0 where not even one does."""
    some = memory_of(price, train, seq_len=seq_len, embedding_params=embedding_params)
    left_bytes = (limit_bytes - some.total) / (1 + WORKSPACE) + some.activations + some.logits
    kept, logits = some.activations / train.micro_batch, 4 * seq_len * price.float32_elements_per_token
    sequences = left_bytes / (kept + logits)
    if sequences * logits > LOGITS_BYTES:
        sequences = (left_bytes - LOGITS_BYTES) / kept
    return max(0, int(sequences))
