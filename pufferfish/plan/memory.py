"""How much memory a training holds at its peak, in bytes, by term."""

from __future__ import annotations

from dataclasses import dataclass

from pufferfish.plan.prices import Price
from pufferfish.schema.plan import TrainPlan

PROCESS_BYTES = {"cpu": 420_000_000, "cuda": 600_000_000}  # interpreter, libraries, context; guesses
SLACK = 1.08  # fragmentation and short-lived tensors
USABLE_SHARE = 0.85  # of the memory that is there

WEIGHT_BYTES = {"float32": 8, "bfloat16": 12, "float16": 12}  # master, its gradient, and the copy that computes with its own
STATE_BYTES = {"adamw": 8, "muon": 4}  # two moments; one momentum (embedding and head, which have two, are counted apart)


@dataclass(frozen=True)
class Memory:
    """Terms of the peak, bytes."""

    process: int
    weights: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        """The peak."""
        return self.process + round(SLACK * (self.weights + self.optimizer + self.activations))


def memory_of(price: Price, train: TrainPlan, *, seq_len: int, embedding_params: int) -> Memory:
    """Peak of one training step. `embedding_params` are those of embedding and head, which AdamW keeps under every optimizer."""
    element_bytes = 4 if train.dtype == "float32" else 2
    tokens = train.micro_batch * seq_len
    kept = price.activation_elements_per_token * element_bytes + price.float32_elements_per_token * 4
    if train.is_checkpointed:
        kept *= 0.3  # one block at a time and the borders between blocks
    states = STATE_BYTES[train.optimizer] * price.num_params + (8 - STATE_BYTES[train.optimizer]) * embedding_params
    return Memory(PROCESS_BYTES[train.device], WEIGHT_BYTES[train.dtype] * price.num_params, states, round(tokens * kept))
