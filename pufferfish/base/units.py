"""Durations and sizes as people write them, and back."""

from __future__ import annotations

import re

SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
BYTES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}

_DURATION = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?\s*[smhd]\s*)+")
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([smhd])")
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([kMGT]B|[KMGT]iB|B)")


def parse_duration(text: str) -> float:
    """Seconds in a duration such as `36s`, `90m`, `1.5h` or `1h30m`.

    Raises ValueError for anything else: a bare number has no unit, `1:30` could mean two things.
    """
    if not _DURATION.fullmatch(text.strip()):
        raise ValueError(f"{text!r} is not a duration: write a number and a unit, for example 36s, 3m, 1.5h or 1h30m")
    parts = _DURATION_PART.findall(text)
    units = [unit for _, unit in parts]
    if len(set(units)) != len(units) or units != sorted(units, key=lambda unit: -SECONDS[unit]):
        raise ValueError(f"{text!r} is not a duration: name each unit once, from the largest to the smallest")
    return sum(float(number) * SECONDS[unit] for number, unit in parts)


def format_duration(elapsed_s: float) -> str:
    """A duration for people: `4.2 s`, `3m 05s`, `1h 30m`, `2d 3h`."""
    if elapsed_s < 0:
        return "-" + format_duration(-elapsed_s)
    if elapsed_s < 59.95:
        return f"{elapsed_s:.1f} s"
    whole = round(elapsed_s)
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d {whole % 86400 // 3600}h"


def format_seconds(elapsed_s: float) -> str:
    """A short time with its digits: `34 ms`, `1.2 s`."""
    return f"{1000 * elapsed_s:.3g} ms" if elapsed_s < 1 else format_duration(elapsed_s)


def parse_bytes(text: str) -> int:
    """Bytes in a size such as `4GB` or `512MiB`. Raises ValueError for anything else."""
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise ValueError(f"{text!r} is not a size: write a number and a unit, for example 4GB or 512MiB")
    return round(float(match[1]) * BYTES[match[2]])


def format_bytes(num_bytes: float) -> str:
    """A size for people, in powers of ten: `13.4 MB`."""
    for unit in ("TB", "GB", "MB", "kB"):
        if abs(num_bytes) >= BYTES[unit]:
            return f"{num_bytes / BYTES[unit]:.1f} {unit}"
    return f"{num_bytes:.0f} B"


def format_count(count: float) -> str:
    """A count for people: `1.3 M`, `24.6 k`, `512`."""
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(count) >= limit:
            return f"{count / limit:.3g} {unit}"
    return f"{count:.0f}"
