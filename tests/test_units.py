"""Durations and sizes as people write them."""

import pytest

from pufferfish.base.units import BYTES, format_bytes, format_count, format_duration, parse_bytes, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("36s", 36), ("3m", 180), ("1.5h", 5400), ("1h30m", 5400), ("1h 30m", 5400), (" 2d3h4m5s ", 183845), ("0.01h", 36), ("0s", 0), ("90 m", 5400)],
)
def test_a_duration_is_read(text, seconds):
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", " ", "0", "180", "-5s", "abc", "1h30", "1:30:00", "1e-3", "1e3s", "30m1h", "1h1h", "3M", "3 minutes", "h", ".5h", "1.h", "٣s"]
)
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (4.2, "4.2 s"),
        (0, "0.0 s"),
        (59.96, "1m 00s"),
        (185, "3m 05s"),
        (3599.6, "1h 00m"),
        (5400, "1h 30m"),
        (86399, "23h 59m"),
        (183845, "2d 3h"),
        (-61, "-1m 01s"),
    ],
)
def test_a_duration_is_written_for_people(seconds, text):
    assert format_duration(seconds) == text


@pytest.mark.parametrize("text", ["3m", "1h30m", "2d3h"])
def test_a_duration_survives_writing_and_reading(text):
    assert parse_duration(format_duration(parse_duration(text))) == parse_duration(text)


@pytest.mark.parametrize(("text", "num_bytes"), [("4GB", 4 * 10**9), ("512MiB", 512 * 2**20), ("1.5 GiB", 3 * 2**29), ("7B", 7), ("2kB", 2000), ("2KiB", 2048)])
def test_a_size_is_read(text, num_bytes):
    assert parse_bytes(text) == num_bytes


@pytest.mark.parametrize("unit", BYTES)
def test_every_unit_of_size_is_understood(unit):
    assert parse_bytes(f"3{unit}") == 3 * BYTES[unit]


@pytest.mark.parametrize("text", ["", "4", "4G", "4gb", "-4GB", "GB", "1e9", "4 GB 5 MB", "kiB"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError, match="is not a size"):
        parse_bytes(text)


def test_sizes_and_counts_are_written_for_people():
    assert [format_bytes(size) for size in (512, 2000, 13.4e6, 4e9, 2.5e12)] == ["512 B", "2.0 kB", "13.4 MB", "4.0 GB", "2.5 TB"]
    assert [format_count(count) for count in (512, 24600, 1.3e6, 2e9)] == ["512", "24.6 k", "1.3 M", "2 G"]
