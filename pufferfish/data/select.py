"""A representative part of some documents: seeded, from every stretch of the text, and in the order of the text.

Long documents count as several pieces, so that a part of them can be taken. Letters: D documents, P pieces.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

PIECE_BYTES = 1 << 13  # documents up to this size are never divided; text in larger pieces says less: a third of `stdlib` in 64 kB taught 1 % less
LONG_PIECE_BYTES = 1 << 16  # of what is measured on, so that there is a context before most of it
NUM_STRATA = 64  # stretches of the text with equal bytes; each gives the same share
# Where a match ends a line starts. Each begins with the line end itself, which is found far quicker than a look-behind at each byte.
LINE_START = re.compile(rb"\n(?:(?<=\S\n)|(?<=[!-/:-@\[-`{-~]\r\n))(?=\S)")  # the parts have the tokens of the whole, where blanks are ASCII
CRLF_LINE_START = re.compile(rb"\n(?<=\S\r\n)(?=\S)")  # no token reaches across, but CRLF after a word may become one token, which are two in the whole
ANY_CHARACTER = re.compile(rb"(?=[^\x80-\xbf])")


@dataclass(frozen=True)
class Piece:
    """Part of a document, or all of it."""

    content: bytes  # UTF-8
    is_start: bool  # nothing of its document comes directly before it in the selection
    is_first: bool  # nothing of its document comes before it at all


@dataclass(frozen=True)
class Selection:
    """Which pieces of which documents, in the order of the text."""

    document_P: np.ndarray
    number_P: np.ndarray  # of the piece in its document
    count_P: np.ndarray  # pieces in its document
    max_bytes: int

    def read(self, documents: Iterable[tuple[str, str]]) -> Iterator[Piece]:
        """The chosen pieces of the documents that were catalogued, at most `max_bytes` in all: the last one may be cut."""
        remaining, at = self.max_bytes, 0
        last = None  # document and number of the piece before
        for index, (_, text) in enumerate(documents):
            if at == len(self.document_P) or remaining == 0:
                return
            if self.document_P[at] != index:
                continue
            parts = divide(text.encode(), int(self.count_P[at]))
            while at < len(self.document_P) and self.document_P[at] == index:
                number = int(self.number_P[at])
                content = until_character(parts[number], remaining)
                at += 1
                if content:
                    yield Piece(content, is_start=last != (index, number - 1), is_first=last is None or last[0] != index)
                    remaining, last = remaining - len(content), (index, number)


def choose(sizes_D: np.ndarray, is_included_D: np.ndarray, *, max_bytes: int, seed: int, piece_bytes: int = PIECE_BYTES) -> Selection:
    """Pieces of about `piece_bytes`, at least `max_bytes` in all (`Selection.read` stops there), or all pieces where there are fewer.

    A smaller part of the same documents lies within a larger one of the same seed.
    """
    included_I = np.flatnonzero(is_included_D)
    count_I = np.maximum(1, -(-sizes_D[included_I] // piece_bytes))
    document_P = np.repeat(included_I, count_I)
    count_P = np.repeat(count_I, count_I)
    number_P = np.arange(len(document_P)) - np.repeat(np.cumsum(count_I) - count_I, count_I)
    size_P = sizes_D[document_P] / count_P
    is_chosen_P = np.ones(len(document_P), dtype=bool)
    if size_P.sum() > max_bytes:
        order_P = _fair_order(size_P, seed)
        before_P = np.cumsum(size_P[order_P]) - size_P[order_P]
        is_chosen_P[order_P[before_P >= max_bytes]] = False
    return Selection(document_P[is_chosen_P], number_P[is_chosen_P], count_P[is_chosen_P], max_bytes)


def _fair_order(size_P: np.ndarray, seed: int) -> np.ndarray:
    """Pieces in an order in which each beginning holds about the same share of every stratum, and of its long pieces as of its short ones."""
    stratum_P = np.minimum((np.cumsum(size_P) - size_P / 2) * NUM_STRATA // size_P.sum(), NUM_STRATA - 1).astype(np.int64)
    dice = np.random.default_rng([seed, len(size_P)])
    shuffled_P = np.lexsort((dice.random(len(size_P)), stratum_P))
    count_S = np.bincount(stratum_P, minlength=NUM_STRATA)
    stratum_shuffled_P = stratum_P[shuffled_P]
    rank_P = np.arange(len(size_P)) - (np.cumsum(count_S) - count_S)[stratum_shuffled_P]
    share_P = (rank_P + dice.random(len(size_P))) / count_S[stratum_shuffled_P]
    return shuffled_P[np.argsort(share_P, kind="stable")]


def divide(content: bytes, count: int) -> list[bytes]:
    """`count` parts of about equal size that together are the content, cut at line starts where there are any."""
    cuts = [0]
    for number in range(1, count):
        wanted, limit = len(content) * number // count, len(content) * (number + 1) // count
        cuts.append(_cut(content, wanted, limit))
    return [content[start:end] for start, end in zip(cuts, [*cuts[1:], len(content)], strict=True)]


def _cut(content: bytes, wanted: int, limit: int) -> int:
    for line_start in (LINE_START, CRLF_LINE_START):
        if match := line_start.search(content, max(0, wanted - 1), limit):
            return match.end()
    match = ANY_CHARACTER.search(content, wanted, limit)
    return match.start() if match else wanted


def until_character(content: bytes, max_bytes: int) -> bytes:
    """The beginning of UTF-8 text with at most so many bytes, ending with a whole character."""
    if len(content) <= max_bytes:
        return content
    while max_bytes > 0 and content[max_bytes] & 0xC0 == 0x80:
        max_bytes -= 1
    return content[:max_bytes]
