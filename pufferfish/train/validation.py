"""The periodic validation: bits per byte of a sample of the validation text.

Shapes: B windows, T time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from pufferfish.base.memory import give_back_freed
from pufferfish.model.loss import chunk_tokens
from pufferfish.train import memory
from pufferfish.train.step import Trainer

BATCH_TOKENS = 8192  # at a time, at most
LARGE_LOGITS = 1 << 24  # bytes in float32: evaluations of as many leave holes on the CPU, around which steps then take up to half as much again (docs/LOG.md)


class Validation:
    """Windows spread evenly over the validation text, `num_tokens` in all."""

    def __init__(self, tokens: np.ndarray, *, seq_len: int, num_tokens: int, bytes_per_token: float) -> None:
        num_windows = max(1, min(num_tokens, len(tokens) - 1) // seq_len)
        self._tokens, self._seq_len, self._bytes_per_token = tokens, seq_len, bytes_per_token
        self._starts = np.linspace(0, max(0, len(tokens) - 1 - seq_len), num_windows).astype(np.int64)
        self._most = max(1, min(num_windows, BATCH_TOKENS // seq_len))
        self.batch_size = self._most  # windows at a time in the last evaluation

    def bits_per_byte(self, trainer: Trainer) -> float:
        """Of the sample, with as many windows at a time as a micro-batch has, at most. Not finite where the model is not."""
        self.batch_size = min(self._most, trainer.micro_batch)
        nats = [(len(window), trainer.mean_loss(window[:, :-1], window[:, 1:])) for window in self._batches()]
        vocab_size, device = trainer.model_plan.vocab_size, trainer.device.type
        num_tokens = chunk_tokens(self.batch_size * self._seq_len, vocab_size, device, trainer.model.model.dtype)
        if device == "cpu" and 4 * vocab_size * num_tokens >= LARGE_LOGITS:
            give_back_freed()
        return sum(count * loss for count, loss in nats) / sum(count for count, _ in nats) / math.log(2) / self._bytes_per_token

    def shrink(self, trainer: Trainer, error: RuntimeError) -> str:
        """An evaluation is worth less than the training: after an out-of-memory error it is left out, which is told, and from now on half as many windows are
        read at a time; any other error goes on."""
        if not memory.is_out_of_memory(error):
            raise error
        trainer.model.train()  # the evaluation was left half-way
        memory.free(error, trainer.device)
        self._most = self.batch_size = max(1, self.batch_size // 2)
        return f"an evaluation was left out for want of memory; the next one reads {self.batch_size} windows at a time"

    def _batches(self) -> Iterator[np.ndarray]:
        """int64 (B, T + 1)."""
        span = np.arange(min(self._seq_len + 1, len(self._tokens)))
        for first in range(0, len(self._starts), self.batch_size):
            yield self._tokens[self._starts[first : first + self.batch_size, None] + span].astype(np.int64)
