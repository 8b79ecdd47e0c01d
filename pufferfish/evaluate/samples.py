"""artifacts/samples.md: what the model writes after fixed beginnings."""

from __future__ import annotations

import math
import re
import time
import unicodedata

from pufferfish.generate.engine import Engine
from pufferfish.schema.params import EvaluateParams

CUT = "(Cut off: the time for samples was over.)"
KEPT = "\n\t\u200c\u200d"  # the last two join letters, or keep them apart, in Persian, in scripts of India and in emoji


def write_samples(engine: Engine, params: EvaluateParams, *, limit_s: float = math.inf) -> str:
    """Markdown with one fenced text for each prompt; the seed of each follows from its place. What `limit_s` is too short for is cut off, and that is said:
    each text has its part of the time that is left.
    """
    end_s = time.perf_counter() + limit_s
    parts = [
        "# Samples",
        f"Temperature {params.temperature}, top-k {params.top_k}, top-p {params.top_p}, seed {params.seed}, {params.sample_tokens} tokens each.",
    ]
    for place, prompt in enumerate(params.prompts):
        now_s = time.perf_counter()
        until_s = now_s + (end_s - now_s) / (len(params.prompts) - place)
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
        parts += [f"## {prompt!r}", fenced(prompt + "".join(pieces)), *([CUT] if is_cut else [])]
    return "\n\n".join(parts) + "\n"


def fenced(text: str) -> str:
    """The text as a code block, in a fence that is longer than any in it; lines end in one way and control characters are shown as U+FFFD."""
    text = "".join(character if _is_text(character) else "\ufffd" for character in text.replace("\r\n", "\n"))
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}text\n{text.strip(chr(10))}\n{fence}"


def _is_text(character: str) -> bool:
    """Python calls all blanks but one unprintable, which are ordinary in other scripts: U+3000, U+00A0."""
    return character.isprintable() or character in KEPT or unicodedata.category(character) == "Zs"
