"""What a language model must beat, in bits per byte of the same validation text: a uniform byte, compressors, token frequencies, a 5-gram.

Each is a proper code: its probabilities sum to one. Token models are scored as the model is: every token but the very first, once.
"""

from __future__ import annotations

import lzma
import math
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pufferfish.data.ngram import KneserNey
from pufferfish.data.shards import VALIDATION_TEXT, open_tokens
from pufferfish.schema.reports import Subset

ORDER = 5
MAX_TRAIN_TOKENS = 4_000_000  # for the n-gram: under a second on one core, and the embedded corpus whole
SLICE_TOKENS = 1 << 20  # counted at a time: ids become int64 as they are counted, and the training tokens are mapped, not held


@dataclass(frozen=True)
class Baselines:
    """Bits per byte by name, and how many tokens of the training text the n-gram counted: the first `MAX_TRAIN_TOKENS`."""

    bpb: dict[str, float]
    ngram_tokens: int


def uniform_bpb() -> float:
    """Every byte equally likely."""
    return 8.0


def zlib_bpb(text: bytes) -> float:
    """DEFLATE at its highest level, header and checksum included."""
    return 8 * len(zlib.compress(text, 9)) / len(text)


def lzma_bpb(text: bytes) -> float:
    """LZMA2 without container, dictionary as large as the text needs."""
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9}]
    return 8 * len(lzma.compress(text, format=lzma.FORMAT_RAW, filters=filters)) / len(text)


def unigram_bpb(train_N: np.ndarray, validation_N: np.ndarray, *, vocab_size: int, num_bytes: int) -> float:
    """Token frequencies of the training part, one added to each so that nothing is impossible (Laplace)."""
    counts_V = np.ones(vocab_size)
    for start in range(0, len(train_N), SLICE_TOKENS):
        counts_V += np.bincount(train_N[start : start + SLICE_TOKENS], minlength=vocab_size)
    nats_V = math.log(counts_V.sum()) - np.log(counts_V)
    return float(nats_V[validation_N[1:]].sum()) / (math.log(2) * num_bytes)


def ngram_bpb(train_N: np.ndarray, validation_N: np.ndarray, *, vocab_size: int, num_bytes: int) -> float:
    """Interpolated modified Kneser-Ney of order 5."""
    nats_N = KneserNey(train_N, vocab_size=vocab_size, order=ORDER).nats(validation_N)
    return float(nats_N[1:].sum()) / (math.log(2) * num_bytes)


def measure_subset(subset: Subset, folder: Path, *, say: Callable[[str], None]) -> Baselines:
    """`measure_baselines` of what the folder holds. Raises UserError where token files are missing or have another size."""
    train_N, validation_N = (open_tokens(folder, shard, subset.token_dtype) for shard in (subset.train, subset.validation))
    return measure_baselines(train_N, validation_N, (folder / VALIDATION_TEXT).read_bytes(), vocab_size=subset.vocab_size, say=say)


def measure_baselines(train_N: np.ndarray, validation_N: np.ndarray, text: bytes, *, vocab_size: int, say: Callable[[str], None]) -> Baselines:
    """All baselines. `train_N` and `validation_N` are token ids, `text` is the raw validation text, `say` hears what each cost."""
    seen_N = train_N[:MAX_TRAIN_TOKENS]
    sizes = {"vocab_size": vocab_size, "num_bytes": len(text)}
    parts: dict[str, Callable[[], float]] = {
        "uniform": uniform_bpb,
        "zlib": lambda: zlib_bpb(text),
        "lzma": lambda: lzma_bpb(text),
        "unigram": lambda: unigram_bpb(train_N, validation_N, **sizes),
        f"{ORDER}-gram": lambda: ngram_bpb(seen_N, validation_N, **sizes),
    }
    bpb = {}
    for name, measure in parts.items():
        start_s = time.perf_counter()
        bpb[name] = measure()
        say(f"{name}: {bpb[name]:.4f} bits per byte ({time.perf_counter() - start_s:.2f} s)")
    return Baselines(bpb, ngram_tokens=len(seen_N))
