"""How much of the text that is measured on stands in the text that is learned from, line by line.

What is told twice is easily learned, once the other place was read: the more is read, the more of the copies are known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

LINE_BYTES = 24  # shorter lines are alike by chance


@dataclass(frozen=True)
class Copies:
    """What more there is to find than the sample shows that the text's hardness was measured with."""

    share: float  # of the validation bytes
    num_bytes: float  # of training text, in which they stand


class Lines:
    """The lines of the validation text, and which of them have been found."""

    def __init__(self, validation: Iterable[bytes]) -> None:
        lines = [line for content in validation for line in content.split(b"\n")]
        self._num_bytes = {line: len(line) * number for line, number in Counter(lines).items() if len(line) >= LINE_BYTES}
        self._all_bytes = sum(map(len, lines))
        self._found: set[bytes] = set()

    def found_in(self, training: Iterable[bytes]) -> float:
        """Share of the validation bytes that stand in this training text, or in what was looked at before."""
        for content in training:
            self._found.update(self._num_bytes.keys() & set(content.split(b"\n")))
        return sum(self._num_bytes[line] for line in self._found) / max(1, self._all_bytes)
