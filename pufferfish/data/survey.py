"""What the planner is told of a text: what each vocabulary would cost and save, and how hard the text is. Numbers only, nothing is kept of the text.

Both sides of a split like the planned one are looked at, of the training side a sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from pufferfish.base import clock
from pufferfish.base.errors import UserError
from pufferfish.base.paths import user_path
from pufferfish.data.copies import Copies, Lines
from pufferfish.data.hardness import Hardness, hardness
from pufferfish.data.prepare import Side, encoded, looked_at, split
from pufferfish.data.select import LONG_PIECE_BYTES, Piece, divide
from pufferfish.data.shards import token_dtype
from pufferfish.data.tokenizer import NUM_BASE_TOKENS, encode, shrink, train_up_to
from pufferfish.schema.hardware import Corpus
from pufferfish.schema.plan import DataPlan

BLOCK_BYTES = 1 << 14
HELD_OUT = 4  # one block of the sample in so many is encoded, the others train the tokenizer
HARDNESS_VOCABULARY = 2048  # for all texts the same, so that they can be compared
SMALL_BYTES, USUAL_VOCABULARY = 1_000_000, 512  # a text from this size on looks at smaller vocabularies only where it fills no other, as numbers do
PASSES = 4  # of a preparation over the text: for its catalog, its tokenizer, what is measured on and what is learned from
LISTINGS = 2  # of a preparation: to identify the text, and to draw from it
LISTED_S = 1.1e-5  # a listing, for each file: to find it, ask for its size and draw, with 100,000 files on 2 cores
MOST_BYTES = 16_000_000  # of text that are looked at: short lines take half a second for each pass


@dataclass(frozen=True)
class VocabularySurvey:
    """One vocabulary on this text and machine."""

    vocab_size: int
    bytes_per_token: float  # of text that the tokenizer was not trained on
    train_tokenizer_s: float  # per MB of sample
    encode_s_per_mb: float
    filling_bytes: float  # of text, that are known to have enough repeated pairs


@dataclass(frozen=True)
class Survey:
    """What there is to know of a text before it is prepared."""

    vocabularies: list[VocabularySurvey]  # those that the text can fill, smallest first
    hardness: Hardness
    copies: Copies
    train_bytes: int  # to learn from, of what was looked at: see `text_to_learn_from`
    held_back_bytes: int  # to measure on; more than is wished for, where documents are few and long
    document_bytes: float  # of the document that a byte lies in, on average
    read_s_per_mb: float  # for one pass over the text, once its files are found


def survey(plan: DataPlan, vocab_sizes: Sequence[int]) -> Survey:
    """Look at `plan.train_bytes` of the training side, and at more where they fill none of the vocabularies; very small ones are for small texts.

    One tokenizer is trained, the largest; the smaller are its first merges. Raises UserError that names the reachable size if
    what is looked at fills none, and as `split` does.
    """
    train, validation = split(plan, most_bytes=MOST_BYTES)
    catalogs = [train.documents, *([validation.documents] if validation.documents is not train.documents else [])]
    read_s_per_mb = sum(each.read_s for each in catalogs) / sum(each.num_bytes for each in catalogs) * 1e6
    sample_bytes = plan.train_bytes
    while True:
        pieces = list(train.read(max_bytes=sample_bytes, seed=plan.seed))
        blocks = list(_blocks(pieces))
        held_out = blocks[::HELD_OUT]
        learned = [text for number, (text, _) in enumerate(blocks) if number % HELD_OUT] or [text for text, _ in blocks]
        start_s = clock.now_s()
        largest = train_up_to(learned, max(HARDNESS_VOCABULARY, *vocab_sizes))
        train_s_per_mb = (clock.now_s() - start_s) / _megabytes(learned)
        reached = largest.get_vocab_size()
        sizes = sorted(size for size in set(vocab_sizes) if NUM_BASE_TOKENS <= size <= reached)
        usual = sizes if train.num_bytes < SMALL_BYTES else [size for size in sizes if size >= min(USUAL_VOCABULARY, max(vocab_sizes))]
        if usual or sample_bytes >= train.num_bytes:
            break
        sample_bytes *= 4
    sizes = usual or sizes
    if not sizes:
        wanted = min(vocab_sizes)
        if len(vocab_sizes) > 1:
            saw = f"its repeated pairs of bytes make up about {reached} entries"
            raise UserError(f"the text is too small for the smallest vocabulary, {wanted}", saw=saw, fix="give more text, or text with more that is repeated")
        raise UserError(
            f"the text is too small for a vocabulary of {wanted}",
            saw=f"data.vocab_size: {wanted}; the text gives about {reached}",
            fix=f"set `data.vocab_size` to at most {reached}, or give more text",
        )
    filling_bytes = sum(len(piece.content) for piece in pieces)
    vocabularies = [_survey_vocabulary(shrink(largest, size), held_out, train_s_per_mb, filling_bytes) for size in sizes]
    held_back = list(validation.read(max_bytes=plan.max_validation_bytes, seed=plan.seed, piece_bytes=LONG_PIECE_BYTES))
    sample = list(train.read(max_bytes=plan.train_bytes, seed=plan.seed)) if sample_bytes > plan.train_bytes else pieces
    hardness_tokenizer = shrink(largest, min(reached, HARDNESS_VOCABULARY))
    text = _hardness(sample, held_back, hardness_tokenizer), _copies(plan, sample, held_back, train)
    held_back_bytes = min(validation.num_bytes, plan.max_validation_bytes)
    return Survey(vocabularies, *text, train.num_bytes, held_back_bytes, train.document_bytes, read_s_per_mb)


def _survey_vocabulary(tokenizer: Tokenizer, blocks: list[tuple[str, bool]], train_s_per_mb: float, filling_bytes: float) -> VocabularySurvey:
    texts, num_separators = [text for text, _ in blocks], sum(is_start for _, is_start in blocks)
    start_s = clock.now_s()
    num_tokens = sum(len(ids) for ids in encode(tokenizer, texts)) + num_separators
    encode_s_per_mb = (clock.now_s() - start_s) / _megabytes(texts)
    return VocabularySurvey(tokenizer.get_vocab_size(), _megabytes(texts) * 1e6 / num_tokens, train_s_per_mb, encode_s_per_mb, filling_bytes)


def _hardness(pieces: list[Piece], held_back: list[Piece], tokenizer: Tokenizer) -> Hardness:
    dtype = token_dtype(tokenizer.get_vocab_size())
    train_N, validation_M = (np.concatenate([ids for _, ids in encoded(side, tokenizer, dtype)]) for side in (pieces, held_back))
    train_bytes, validation_bytes = (sum(len(piece.content) for piece in side) for side in (pieces, held_back))
    return hardness(train_N, validation_M, vocab_size=tokenizer.get_vocab_size(), train_bytes=train_bytes, validation_bytes=validation_bytes)


def _copies(plan: DataPlan, pieces: list[Piece], held_back: list[Piece], train: Side) -> Copies:
    if train.source.files() == [user_path(plan.path)] and not plan.validation_path:  # each line is a document, and equal ones are on one side
        return Copies(0.0, train.num_bytes)
    lines = Lines(piece.content for piece in held_back)
    in_sample = lines.found_in(piece.content for piece in pieces)
    in_all = lines.found_in(piece.content for piece in train.read(max_bytes=train.num_bytes, seed=plan.seed))
    return Copies(in_all - in_sample, train.num_bytes)


def _blocks(pieces: list[Piece]) -> Iterator[tuple[str, bool]]:
    """The text in parts of at most about a size, so that of long documents some is learned from and some encoded; and whether a separator comes before."""
    for piece in pieces:
        for number, part in enumerate(divide(piece.content, -(-len(piece.content) // BLOCK_BYTES))):
            if part:
                yield part.decode("utf-8"), piece.is_start and number == 0


def text_to_learn_from(corpus: Corpus, found: Survey, *, validation_share: float, max_validation_bytes: int) -> int:
    """Bytes that are left to learn from: as they were found, or about that, where only a part was looked at."""
    if corpus.num_bytes <= MOST_BYTES:
        return found.train_bytes
    if corpus.validation_path:
        return corpus.num_bytes
    return corpus.num_bytes - int(min(validation_share * corpus.num_bytes, max_validation_bytes))


def reading_s(corpus: Corpus, found: Survey, *, train_bytes: float, max_validation_bytes: int) -> float:
    """What it takes to find and read the text in order to prepare so much of it: it is read once for each purpose, and many short documents take long."""
    looked_at_bytes = min(corpus.num_bytes, looked_at(train_bytes, max_validation_bytes, has_short_documents=corpus.has_short_documents))
    return LISTINGS * LISTED_S * corpus.num_files + PASSES * found.read_s_per_mb * looked_at_bytes / 1e6


def _megabytes(texts: list[str]) -> float:
    return sum(len(text.encode()) for text in texts) / 1e6
