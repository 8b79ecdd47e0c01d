"""artifacts/samples.md: what the model writes after fixed beginnings."""

from __future__ import annotations

import re

from pufferfish.generate.engine import Engine
from pufferfish.schema.params import EvaluateParams


def write_samples(engine: Engine, params: EvaluateParams) -> str:
    """Markdown with one fenced text for each prompt; the seed of each follows from its place."""
    parts = [
        "# Samples",
        f"Temperature {params.temperature}, top-k {params.top_k}, top-p {params.top_p}, seed {params.seed}, {params.sample_tokens} tokens each.",
    ]
    for place, prompt in enumerate(params.prompts):
        pieces = engine.stream(
            prompt,
            max_tokens=params.sample_tokens,
            temperature=params.temperature,
            top_k=params.top_k,
            top_p=params.top_p,
            seed=params.seed + place,
        )
        parts += [f"## {prompt!r}", fenced(prompt + "".join(pieces))]
    return "\n\n".join(parts) + "\n"


def fenced(text: str) -> str:
    """The text as a code block, in a fence that is longer than any in it; lines end in one way and control characters are shown as U+FFFD."""
    text = "".join(character if character.isprintable() or character in "\n\t" else "\ufffd" for character in text.replace("\r\n", "\n"))
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}text\n{text.strip(chr(10))}\n{fence}"
