"""Plain text in aligned columns and filled lines."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from pufferfish.base.units import format_bytes
from pufferfish.schema.hardware import Hardware

GAP = "   "


def columns(rows: Sequence[Sequence[str]], *, align: str, indent: str = "  ", gap: str = GAP) -> list[str]:
    """Rows of cells as aligned lines; `align` holds one of `<` or `>` for each column."""
    widths = [max(len(row[index]) for row in rows) for index in range(len(align))]
    lines = (gap.join(f"{cell:{side}{width}}" for cell, side, width in zip(row, align, widths, strict=True)) for row in rows)
    return [f"{indent}{line}".rstrip() for line in lines]


def labelled(label: str, text: str, *, width: int, label_width: int = 12) -> list[str]:
    """`  label      text`, with the text wrapped beside its label."""
    start = f"  {label:<{label_width}}"
    return textwrap.wrap(text, width, initial_indent=start, subsequent_indent=" " * len(start), break_on_hyphens=False)


def pack(fields: Sequence[str], *, width: int) -> list[str]:
    """Fields side by side, on as many lines as a narrow terminal needs. A field that is too long is cut."""
    lines: list[str] = []
    for field in fields:
        field = field[:width]
        if lines and len(lines[-1]) + len(GAP) + len(field) <= width:
            lines[-1] += GAP + field
        else:
            lines.append(field)
    return lines


def machine_lines(hardware: Hardware) -> list[str]:
    """What computes, and what may be used of it: one line for the processor, one for each NVIDIA device."""
    seen = hardware.fingerprint
    cores = f"{seen.num_cores} core{'s' if seen.num_cores != 1 else ''}"
    on_cpu = seen.device == "cpu"
    usable = f", {format_bytes(hardware.usable_memory_bytes)} usable"
    lines = [f"{seen.cpu}, {cores}, {format_bytes(seen.memory_bytes)} memory{usable if on_cpu else ''}"]
    for gpu in seen.gpus:
        lines.append(f"{gpu.name}, compute capability {gpu.compute_capability}, {format_bytes(gpu.memory_bytes)}{'' if on_cpu else usable}")
    return lines
