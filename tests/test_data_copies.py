"""How much of the validation text stands in the training text."""

import pytest

from pufferfish.data.copies import LINE_BYTES, Lines

LONG = [f"a line of text with the number {number:03}".encode() for number in range(10)]


def test_lines_that_stand_in_the_training_text_are_counted_by_their_bytes():
    lines = Lines([b"\n".join(LONG[:4]), b"\n".join(LONG[4:])])
    assert lines.found_in([b"something else\n" * 9]) == 0
    assert lines.found_in([LONG[0] + b"\n" + LONG[7]]) == pytest.approx(0.2)
    assert lines.found_in([LONG[0] + b" and more"]) == pytest.approx(0.2)
    assert lines.found_in(LONG) == 1


def test_a_line_that_is_measured_twice_counts_twice():
    assert Lines([LONG[0] + b"\n" + LONG[0] + b"\n" + LONG[1]]).found_in([LONG[0]]) == pytest.approx(2 / 3)


def test_short_lines_are_no_copies():
    short = b"x" * (LINE_BYTES - 1)
    assert Lines([short + b"\n" + short]).found_in([short]) == 0


def test_an_empty_text_holds_nothing():
    assert Lines([]).found_in(LONG) == 0
