"""The exported folder, loaded the way its users will load it, is the model that was trained.

T tokens, V vocabulary.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import torch

from pufferfish.data.select import divide
from pufferfish.data.tokenizer import SEPARATOR
from pufferfish.model.transformer import Decoder

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MAX_LOGIT_DIFFERENCE = 1e-4  # in float32, of the largest logit, or of 1; rounding in another order gives about 1e-5 for logits that are tens
NUM_WINDOWS = 4
LONGEST_WINDOW, MOST_LOGITS = 2048, 1 << 26  # of a window: more would take long after the training, and gigabytes
NUM_LINES, LINE_BYTES = 1000, 200  # of text that is tokenized twice; longer lines count as several
HARD_TEXTS = (
    "",
    " ",
    "   leading, trailing and   inner blanks   ",
    "tab\tand\t\ttabs\n\tindented",
    "line\r\nline\r\n\r\nold mac\rend",
    "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 and 🐡",
    "é and e\u0301, ﬁ and fi, Å Å, ½, İstanbul, ß",
    "한국어 日本語 العربية עברית हिन्दी ไทย",
    "\u200b\u200d\ufeff\u00a0\u3000\u2028\u2029",
    "".join(map(chr, range(1, 256))),
    "\x01\x02\x7f\x80\x9f \x1b[31m\ufffd\U0010fffd",
    f"a separator {SEPARATOR} spelled out",
    "don't we'LL I'M 1234567 3.14e-10 __init__ !!!??? ->>= 'n't . , !",
    "x" * 3000,
)


class ExportMismatch(AssertionError):
    """The exported folder does not hold the model that was trained: our defect."""


@dataclass(frozen=True)
class Comparison:
    """What was compared."""

    max_logit_difference: float
    num_texts: int


def verify_hf(folder: Path, model: Decoder, tokenizer: Tokenizer, *, tokens_N: np.ndarray, documents: list[str], has_code: bool) -> Comparison:
    """Load `folder` with AutoModelForCausalLM and AutoTokenizer and compare with our model (float32, CPU) and tokenizer.

    `has_code` lets the folder's own code run. Raises ExportMismatch with the details. The import of transformers is most of the time (3 s), and its users pay
    the same.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    where = {"local_files_only": True, "trust_remote_code": has_code}
    try:
        with code_copied_in_passing():
            their_tokenizer = AutoTokenizer.from_pretrained(folder, **where)
            theirs, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, **where)
    except (OSError, ValueError, RuntimeError) as error:
        raise ExportMismatch(f"transformers cannot load the export: {error}") from error
    texts = [*HARD_TEXTS, *spread_lines(documents)]
    compare_tokens(their_tokenizer, tokenizer, texts)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[kind]:
            raise ExportMismatch(f"{kind} in the exported weights: {sorted(map(str, info[kind]))[:5]}")
    return Comparison(max_logit_difference=compare_logits(theirs, model, tokens_N), num_texts=len(texts))


@contextmanager
def code_copied_in_passing() -> Iterator[None]:
    """Transformers runs a folder's code from a copy, which it keeps under the folder's name; ours is unfinished and moves, so nobody would use that copy."""
    from transformers import dynamic_module_utils

    kept = dynamic_module_utils.HF_MODULES_CACHE
    with TemporaryDirectory() as passing:
        dynamic_module_utils.HF_MODULES_CACHE = passing
        try:
            yield
        finally:
            dynamic_module_utils.HF_MODULES_CACHE = kept
            if passing in sys.path:
                sys.path.remove(passing)


def spread_lines(documents: list[str]) -> list[str]:
    """`NUM_LINES` lines with their ends, or parts of about `LINE_BYTES` of longer ones, spread evenly over the documents; all where there are fewer."""
    lines = [part for document in documents for line in document.splitlines(keepends=True) for part in _parts(line)]
    places = np.linspace(0, len(lines) - 1, min(NUM_LINES, len(lines))).astype(int)
    return [lines[place] for place in places]


def _parts(line: str) -> list[str]:
    content = line.encode()
    return [line] if len(content) <= LINE_BYTES else [part.decode() for part in divide(content, -(-len(content) // LINE_BYTES))]


def compare_tokens(theirs: object, ours: Tokenizer, texts: list[str]) -> None:
    """Raises ExportMismatch unless both give the same ids, and the ids give the text back."""
    found = theirs(texts, add_special_tokens=False, verbose=False)["input_ids"]  # type: ignore[operator]
    for text, ids, encoding in zip(texts, found, ours.encode_batch(texts, add_special_tokens=False), strict=True):
        if ids != encoding.ids:
            raise ExportMismatch(f"another tokenization of {text[:80]!r}: {ids[:20]}, ours is {encoding.ids[:20]}")
        back = theirs.decode(ids)  # type: ignore[attr-defined]
        if back != text:
            raise ExportMismatch(f"decoding does not give the text back: {back[:80]!r} for {text[:80]!r}")


@torch.inference_mode()
def compare_logits(theirs: torch.nn.Module, ours: Decoder, tokens_N: np.ndarray) -> float:
    """The largest difference of logits on windows spread over the tokens. Raises ExportMismatch if it is too large."""
    theirs.eval()
    seq_len = min(ours.plan.seq_len, LONGEST_WINDOW, max(1, MOST_LOGITS // ours.plan.vocab_size), len(tokens_N))
    starts = np.linspace(0, len(tokens_N) - seq_len, NUM_WINDOWS).astype(int)
    return max(_difference(theirs, ours, torch.from_numpy(tokens_N[start : start + seq_len].astype(np.int64))[None]) for start in starts)


def _difference(theirs: torch.nn.Module, ours: Decoder, tokens_1T: torch.Tensor) -> float:
    their_1TV, our_1TV = theirs(input_ids=tokens_1T).logits, ours(tokens_1T)
    if their_1TV.dtype != torch.float32:
        raise ExportMismatch(f"the export loads as {their_1TV.dtype}, not as float32")
    difference, scale = float((their_1TV - our_1TV).abs().max()), float(our_1TV.abs().max())
    allowed = MAX_LOGIT_DIFFERENCE * max(1.0, scale)
    if not difference <= allowed < math.inf:
        raise ExportMismatch(f"logits differ by {difference:.2e}, allowed are {allowed:.0e}; the largest logit is {scale:.2e}")
    return difference
