"""Byte-level BPE: trained on a sample of the training text, lossless for any text, the same ids here and in exports."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from pufferfish.base.errors import UserError

SEPARATOR = "<|endoftext|>"
SEPARATOR_ID = 0
NUM_BASE_TOKENS = 257  # the separator and one token for each byte
MIN_FREQUENCY = 2  # a pair that is seen once teaches nothing

# After the patterns of GPT-2 and GPT-4 (tiktoken: `gpt2`, `cl100k_base`): contractions; letters with one character before them, so that `(self`
# and ` word` can be one token; digits, two at most, so that numbers look alike; punctuation with the line end after it; white space, the last blank left
# to the next word. Compared with GPT-2's pattern it saves 3 % of the tokens of Python and English at 4,096 entries (docs/LOG.md). Marks belong to words,
# as Qwen 3.5 has it (transformers: `qwen3_5`): where they end one, a word of Hindi, Tamil or Thai is many pieces, and so is a Latin one in form NFD.
PATTERN = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}{1,2}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s+(?!\S)|\s+"

# The same for ASCII, in Python's own syntax.
ASCII_PATTERN = re.compile(r"'(?i:[sdmt]|ll|ve|re)|[^\r\nA-Za-z0-9]?[A-Za-z]+|[0-9]{1,2}| ?[^\sA-Za-z0-9]+[\r\n]*|\s+(?!\S)|\s+", re.ASCII)
BEFORE_WORD = re.compile(r"(?= \S)")  # a blank before anything else than white space begins a piece, in any script
MANY_CORES = 8  # the library alone keeps all cores busy, 0.45 s for each MB and core; with lookups it is 0.18 s, most of them of one core


def train_tokenizer(documents: Iterable[str], vocab_size: int) -> Tokenizer:
    """A tokenizer with exactly `vocab_size` entries.

    Raises UserError that names the reachable size where the text has too few repeated pairs for so many.
    """
    tokenizer = train_up_to(documents, vocab_size)
    reached = tokenizer.get_vocab_size()
    if reached < vocab_size:
        raise UserError(
            f"the text is too small for a vocabulary of {vocab_size}",
            saw=f"data.vocab_size: {vocab_size}; the sample of the training text gives {reached}",
            fix=f"set `data.vocab_size` to at most {reached}, or to auto, or give more text",
        )
    return tokenizer


def train_up_to(documents: Iterable[str], vocab_size: int) -> Tokenizer:
    """A tokenizer with `vocab_size` entries, or as many as the text gives."""
    tokenizer = _empty(models.BPE())
    tokenizer.train_from_iterator(
        documents,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=MIN_FREQUENCY,
            special_tokens=[SEPARATOR],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    return _as_text(tokenizer)


def shrink(tokenizer: Tokenizer, vocab_size: int) -> Tokenizer:
    """The tokenizer that training with a smaller vocabulary would have given: its first merges."""
    content = json.loads(tokenizer.to_str())["model"]
    assert NUM_BASE_TOKENS <= vocab_size <= len(content["vocab"])
    vocab = {token: number for token, number in content["vocab"].items() if number < vocab_size}
    smaller = _empty(models.BPE(vocab, [tuple(pair) for pair in content["merges"][: vocab_size - NUM_BASE_TOKENS]]))
    smaller.add_special_tokens([SEPARATOR])
    return _as_text(smaller)


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """The ids of each text, as the library gives them: each different piece of the texts is encoded once, and looked up where it comes again."""
    has_many_cores = num_cores() >= MANY_CORES
    pieces = [[text] if has_many_cores else _pieces(text) for text in texts]
    different = list(set().union(*pieces))
    encodings = tokenizer.encode_batch_fast(different, add_special_tokens=False)
    ids = {piece: encoding.ids for piece, encoding in zip(different, encodings, strict=True)}
    return [list(chain.from_iterable(map(ids.__getitem__, each))) for each in pieces]


def num_cores() -> int:
    """Logical cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _pieces(text: str) -> list[str]:
    """The text in parts that no token reaches across."""
    return ASCII_PATTERN.findall(text) if text.isascii() else BEFORE_WORD.split(text)


def load_tokenizer(path: Path) -> Tokenizer:
    """A tokenizer of ours from its file, `tokenizer.json`. Raises UserError if it is missing or broken."""
    again = "run `dvc repro --force --single-item prepare-subset`"
    try:
        content = path.read_text("utf-8")
    except OSError as error:
        raise UserError("the tokenizer cannot be read", saw=f"{error.strerror}: {path}", fix=again) from None
    try:
        is_ours = json.loads(content)["model"]["vocab"].get(SEPARATOR) == SEPARATOR_ID
    except (ValueError, KeyError, TypeError, AttributeError):
        is_ours = False
    if not is_ours:
        raise UserError("the tokenizer is not one of ours", saw=f"no {SEPARATOR} with id {SEPARATOR_ID} in {path}", fix=again)
    try:
        return _as_text(Tokenizer.from_str(content))
    except BaseException as error:
        if type(error) is Exception:  # the library raises just that for what it cannot read
            raise UserError("the tokenizer cannot be read", saw=f"{error}, in {path}", fix=again) from None
        raise


def _empty(model: models.BPE) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(PATTERN), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _as_text(tokenizer: Tokenizer) -> Tokenizer:
    """A separator that is spelled out in a document is text like any other: only we end documents."""
    tokenizer.encode_special_tokens = True
    return tokenizer
