"""What each vocabulary would cost and save on this text, measured on a sample: numbers for the planner, nothing is kept of the text.

The sample is read from random places of the files, so that its price does not grow with the text.
"""

from __future__ import annotations

import bz2
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np

from pufferfish.base import clock
from pufferfish.base.errors import UserError
from pufferfish.data.corpus import open_source
from pufferfish.data.select import ANY_CHARACTER
from pufferfish.data.sources.files import Source, unreadable
from pufferfish.data.tokenizer import NUM_BASE_TOKENS, encode, shrink, train_up_to
from pufferfish.schema.hardware import Corpus
from pufferfish.schema.params import DataParams

BLOCK_BYTES = 1 << 14
HELD_OUT = 4  # one block in so many is encoded, the others train the tokenizer


@dataclass(frozen=True)
class VocabularySurvey:
    """One vocabulary on this text and machine."""

    vocab_size: int
    bytes_per_token: float  # of text that the tokenizer was not trained on
    train_tokenizer_s: float  # per MB of sample
    encode_s_per_mb: float


def survey(data: DataParams, corpus: Corpus, vocab_sizes: list[int], sample_bytes: int) -> list[VocabularySurvey]:
    """The vocabularies that the text can fill, smallest first; where it fills none on the sample, larger samples are tried.

    One tokenizer is trained, the largest; the smaller are its first merges. Raises UserError that names the reachable size if
    the whole text fills none.
    """
    source = open_source(data.source, data.path)
    while True:
        texts = read_sample(source, sample_bytes, data.seed)
        held_out = texts[::HELD_OUT]
        learned = [text for number, text in enumerate(texts) if number % HELD_OUT] or texts
        start_s = clock.now_s()
        largest = train_up_to(learned, max(vocab_sizes))
        train_s_per_mb = (clock.now_s() - start_s) / _megabytes(learned)
        reached = largest.get_vocab_size()
        sizes = sorted(size for size in set(vocab_sizes) if NUM_BASE_TOKENS <= size <= reached)
        if sizes or sample_bytes >= corpus.num_bytes:
            break
        sample_bytes *= 4
    if not sizes:
        wanted = min(vocab_sizes)
        raise UserError(
            f"the text is too small for a vocabulary of {wanted}",
            saw=f"data.vocab_size: {wanted}; the text gives about {reached}",
            fix=f"set `data.vocab_size` to at most {reached}, or give more text",
        )
    found = []
    for size in sizes:
        tokenizer = shrink(largest, size)
        start_s = clock.now_s()
        num_tokens = sum(len(ids) for ids in encode(tokenizer, held_out))
        elapsed_s = clock.now_s() - start_s
        found.append(VocabularySurvey(size, _megabytes(held_out) * 1e6 / num_tokens, train_s_per_mb, elapsed_s / _megabytes(held_out)))
    return found


def bz2_bits_per_byte(data: DataParams, sample_bytes: int) -> float:
    """How far a general compressor gets with a sample: how hard the text is, before anything is learned."""
    sample = "".join(read_sample(open_source(data.source, data.path), sample_bytes, data.seed)).encode()
    return 8 * len(bz2.compress(sample)) / len(sample)


def read_sample(source: Source, sample_bytes: int, seed: int) -> list[str]:
    """Stretches of text from all over the source, about `sample_bytes` in all, or all of it: seeded, whole lines where there are any."""
    files = source.files()
    ends = list(accumulate(path.stat().st_size for path in files))
    total = ends[-1]
    num_blocks = min(max(HELD_OUT, sample_bytes // BLOCK_BYTES), max(1, total // BLOCK_BYTES))
    slot = total / num_blocks
    random = np.random.default_rng(seed)
    positions = [int(number * slot + random.random() * max(0.0, slot - BLOCK_BYTES)) for number in range(num_blocks)]
    blocks = (_read_block(files, ends, position) for position in positions)
    return [block for block in blocks if block]


def _read_block(files: Sequence[Path], ends: Sequence[int], position: int) -> str:
    """Text from a place in all files together: where one ends, the next goes on, so that short documents do not make a small sample."""
    first = bisect_right(ends, position)
    begin = ends[first - 1] if first else 0
    is_start, offset, block = position == begin, position - begin, b""
    for path in files[first:]:
        try:
            with open(path, "rb") as file:
                file.seek(offset)
                block += file.read(BLOCK_BYTES - len(block))
        except OSError as error:
            raise unreadable(path, error) from None
        if len(block) == BLOCK_BYTES:
            break
        offset = 0
    return _whole_lines(block, is_start=is_start)


def _whole_lines(block: bytes, *, is_start: bool) -> str:
    if not is_start:
        after_line = ANY_CHARACTER.search(block, block.find(b"\n") + 1)
        match = after_line or ANY_CHARACTER.search(block)  # the last line of a document may be all there is
        block = block[match.start() :] if match else b""
    end = block.rfind(b"\n") + 1
    return (block[:end] if end else block).decode("utf-8", errors="ignore")  # without line ends, half a character may stand at the end


def train_bytes_after_split(corpus: Corpus, *, validation_share: float, max_validation_bytes: int) -> int:
    """About how much text is left to learn from."""
    if corpus.validation_path:
        return corpus.num_bytes
    return corpus.num_bytes - int(min(validation_share * corpus.num_bytes, max_validation_bytes))


def _megabytes(texts: list[str]) -> float:
    return sum(len(text.encode()) for text in texts) / 1e6
