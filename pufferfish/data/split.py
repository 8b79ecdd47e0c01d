"""What is learned from and what is measured on: decided by the content of each document, before anything else is done with it.

Letters: D documents, G groups of equal documents.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from pufferfish.base import clock
from pufferfish.base.errors import UserError
from pufferfish.base.units import format_bytes

FILLED_SHARE = 0.95  # of the wanted bytes: enough, look no further
LEAST_SHARE, LEAST_BYTES = 0.1, 10_000  # of the wanted bytes, and of text: less says nothing of a model


@dataclass(frozen=True)
class Catalog:
    """What is known of each document without keeping it, in the order of the source."""

    hashes_D: np.ndarray  # uint64, of the content, salted with the seed
    sizes_D: np.ndarray  # int64, bytes of UTF-8
    read_s: float  # that it took to read them

    def __len__(self) -> int:
        return len(self.sizes_D)

    @property
    def num_bytes(self) -> int:
        """Of all documents together."""
        return int(self.sizes_D.sum())

    def part(self, is_included_D: np.ndarray) -> Catalog:
        """What is known of some of them."""
        return replace(self, hashes_D=self.hashes_D[is_included_D], sizes_D=self.sizes_D[is_included_D])


def catalog(documents: Iterable[tuple[str, str]], seed: int) -> Catalog:
    """Read all documents once, keeping 16 bytes of each. Equal documents have equal hashes, whatever their names."""
    start_s = clock.now_s()
    salt = hashlib.blake2b(str(seed).encode(), digest_size=16).digest()
    hashes, sizes = array("Q"), array("q")
    for _, text in documents:
        content = text.encode()
        hashes.append(int.from_bytes(hashlib.blake2b(content, digest_size=8, salt=salt).digest(), "little"))
        sizes.append(len(content))
    return Catalog(np.frombuffer(hashes, dtype=np.uint64), np.frombuffer(sizes, dtype=np.int64), clock.now_s() - start_s)


def hold_back(documents: Catalog, *, share: float, max_bytes: int) -> np.ndarray:
    """bool_D: the documents to measure on, about `share` of the bytes and not over `max_bytes` where whole documents allow it.

    Documents are taken in the order of their salted hashes, those that would overfill it left out; where next to nothing is taken
    so, the smallest of the others are taken too. Raises UserError if all documents are equal, which leaves one side empty, or all but one are tiny.
    """
    _, group_D = np.unique(documents.hashes_D, return_inverse=True)  # groups are numbered by hash: a seeded order
    sizes_G = np.bincount(group_D, weights=documents.sizes_D).astype(np.int64)
    if len(sizes_G) < 2:
        saw = f"{len(documents)} document{'s, all equal' if len(documents) > 1 else ''}, {format_bytes(documents.num_bytes)}"
        raise UserError(
            "one document cannot be split into text to learn from and text to measure on",
            saw=saw,
            fix="give at least two documents, or your own `data.validation`",
        )
    wanted = min(share * documents.num_bytes, max_bytes)
    is_taken_G, taken = np.zeros(len(sizes_G), dtype=bool), 0
    for group, size in enumerate(sizes_G):
        if taken + size <= wanted:
            is_taken_G[group], taken = True, taken + int(size)
        if taken >= FILLED_SHARE * wanted:
            break
    least = min(LEAST_SHARE * wanted, LEAST_BYTES)
    for group in np.argsort(sizes_G, kind="stable"):
        if taken >= max(1, least):
            break
        taken += 0 if is_taken_G[group] else int(sizes_G[group])
        is_taken_G[group] = True
    if is_taken_G.all():  # the largest is left to learn from
        is_taken_G[np.argmax(sizes_G)] = False
    if (left := int(sizes_G[is_taken_G].sum())) < least:
        saw = f"{len(documents)} documents, all but one of them {format_bytes(left)} together"
        raise UserError("too little text is left to measure on", saw=saw, fix="divide the long document, or give your own `data.validation`")
    return is_taken_G[group_D]


def not_in(documents: Catalog, other: Catalog) -> np.ndarray:
    """bool_D: the documents whose content the other side does not have. Raises UserError if there are none."""
    is_own_D = ~np.isin(documents.hashes_D, other.hashes_D)
    if not is_own_D.any():
        saw = f"each of the {len(documents)} documents to learn from is in the validation text too"
        raise UserError("nothing is left to learn from", saw=saw, fix="give a `data.validation` with documents that are not in the training text")
    return is_own_D
