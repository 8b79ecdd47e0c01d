"""artifacts/samples.md: what the model writes after fixed beginnings, or after those of documents that nobody learned from."""

from __future__ import annotations

import math
import re
import time
import unicodedata
from collections.abc import Sequence
from itertools import chain, islice

from pufferfish.generate.engine import Engine
from pufferfish.schema.params import EvaluateParams

CUT = "(Cut off: the time for samples was over.)"
NUM_PROMPTS, PROMPT_CHARACTERS = 3, 24  # taken from the text, where none are given
KEPT = "\n\t\u200c\u200d"  # the last two join letters, or keep them apart, in Persian, in scripts of India and in emoji


def beginnings(documents: Sequence[str]) -> list[str]:
    """The first words of a few documents from everywhere, no two alike; an empty beginning, which begins a document, where none has any."""
    stride = max(1, len(documents) // NUM_PROMPTS)
    spread = chain.from_iterable(documents[start::stride] for start in range(stride))
    return list(islice(dict.fromkeys(filter(None, map(beginning, spread))), NUM_PROMPTS)) or [""]


def beginning(document: str) -> str:
    """Of the first line with a letter or a digit, about so many characters: whole words where there are blanks between them, and letters with their marks."""
    line = next((line for line in document.splitlines() if any(map(str.isalnum, line))), "").rstrip()
    line = line if line[:PROMPT_CHARACTERS].strip() else line.lstrip()
    end = PROMPT_CHARACTERS
    while end < len(line) and unicodedata.category(line[end]).startswith("M"):
        end += 1
    if end >= len(line):
        return line
    words, blank, _ = line[: end + 1].rpartition(" ")
    return words.rstrip() if blank and words.strip() else line[:end]


def write_samples(engine: Engine, prompts: Sequence[str], params: EvaluateParams, *, limit_s: float = math.inf) -> str:
    """Markdown with one fenced text for each prompt; the seed of each follows from its place. What `limit_s` is too short for is cut off, and that is said:
    each text has its part of the time that is left.
    """
    end_s = time.perf_counter() + limit_s
    parts = [
        "# Samples",
        f"Temperature {params.temperature}, top-k {params.top_k}, top-p {params.top_p}, seed {params.seed}, {params.sample_tokens} tokens each.",
    ]
    for place, prompt in enumerate(prompts):
        now_s = time.perf_counter()
        until_s = now_s + (end_s - now_s) / (len(prompts) - place)
        stream = engine.stream(
            prompt,
            max_tokens=params.sample_tokens,
            temperature=params.temperature,
            top_k=params.top_k,
            top_p=params.top_p,
            seed=params.seed + place,
        )
        pieces, is_cut = [], False
        for piece in stream:
            pieces.append(piece)
            if is_cut := time.perf_counter() > until_s:
                break
        parts += [f"## {in_line(repr(prompt))}", fenced(prompt + "".join(pieces)), *([CUT] if is_cut else [])]
    return "\n\n".join(parts) + "\n"


def in_line(text: str) -> str:
    """A line of text as code, in more backticks than any of its own."""
    ticks = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{ticks}{text}{ticks}"


def fenced(text: str) -> str:
    """The text as a code block, in a fence that is longer than any in it; lines end in one way and control characters are shown as U+FFFD."""
    text = "".join(character if _is_text(character) else "\ufffd" for character in text.replace("\r\n", "\n"))
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}text\n{text.strip(chr(10))}\n{fence}"


def _is_text(character: str) -> bool:
    """Python calls all blanks but one unprintable, which are ordinary in other scripts: U+3000, U+00A0."""
    return character.isprintable() or character in KEPT or unicodedata.category(character) == "Zs"
