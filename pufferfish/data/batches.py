"""Training and validation windows over a stream of tokens. Any sample is found by its number alone, so resuming is a number.

Letters: B samples, S tokens of a window, N tokens of the stream.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import numpy as np

from pufferfish.base.errors import UserError

BATCHES_AHEAD = 8


class Windows:
    """An endless stream of contiguous windows, shuffled anew for each epoch.

    The stream of tokens is a ring: each epoch cuts it from a random start, so that borders move, and every token is a target
    equally often (`num_windows * seq_len` of N targets in an epoch). Nothing is padded.
    """

    def __init__(self, tokens: np.ndarray, seq_len: int, seed: int) -> None:
        """Raises UserError if the stream is shorter than one window and its next token."""
        if len(tokens) < seq_len + 1:
            saw = f"{len(tokens)} tokens of training text, model.seq_len: {seq_len}"
            raise UserError(
                "the training text is shorter than one window", saw=saw, fix=f"give more text, or set `model.seq_len` to at most {max(8, len(tokens) - 1)}"
            )
        self.tokens_N, self.seq_len, self.seed = tokens, seq_len, seed
        self.num_windows = len(tokens) // seq_len  # in an epoch
        self._epoch: tuple[int, int, np.ndarray] = (-1, 0, np.empty(0, np.int64))  # number, first token, order of the windows

    @property
    def tokens_per_epoch(self) -> int:
        """Targets in one pass over the text."""
        return self.num_windows * self.seq_len

    def batch(self, first: int, count: int) -> np.ndarray:
        """int64 (count, seq_len + 1): the samples number `first` to `first + count - 1`."""
        starts_B = np.empty(count, np.int64)
        done = 0
        while done < count:
            epoch, index = divmod(first + done, self.num_windows)
            start, order = self._cut(epoch)
            taken = order[index : index + count - done]
            starts_B[done : done + len(taken)] = start + taken * self.seq_len
            done += len(taken)
        return self.tokens_N[(starts_B[:, None] + np.arange(self.seq_len + 1)) % len(self.tokens_N)].astype(np.int64)

    def _cut(self, epoch: int) -> tuple[int, np.ndarray]:
        if self._epoch[0] != epoch:
            random = np.random.default_rng([self.seed, epoch])
            self._epoch = (epoch, int(random.integers(len(self.tokens_N))), random.permutation(self.num_windows))
        return self._epoch[1:]


class Prefetcher:
    """The batches `first`, `first + micro_batch`, ... of the windows, made ahead by a thread of its own; the same as asking for each.

    An error in the thread is raised where the batch is taken. Leaving the `with` block ends the thread.
    """

    def __init__(self, windows: Windows, micro_batch: int, first: int) -> None:
        self._windows, self._micro_batch, self._next = windows, micro_batch, first
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")
        self._ahead: deque[Future[np.ndarray]] = deque()

    def __enter__(self) -> Prefetcher:
        while len(self._ahead) < BATCHES_AHEAD:
            self._order_one()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __iter__(self) -> Iterator[np.ndarray]:
        return self

    def __next__(self) -> np.ndarray:
        """int64 (micro_batch, seq_len + 1)."""
        batch = self._ahead.popleft().result()
        self._order_one()
        return batch

    def _order_one(self) -> None:
        self._ahead.append(self._pool.submit(self._windows.batch, self._next, self._micro_batch))
        self._next += self._micro_batch


def validation_windows(tokens: np.ndarray, seq_len: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Inputs and targets, int64, `seq_len` long (the last may be shorter): each token but the first is a target exactly once."""
    for start in range(0, len(tokens) - 1, seq_len):
        window = tokens[start : start + seq_len + 1].astype(np.int64)
        yield window[:-1], window[1:]
