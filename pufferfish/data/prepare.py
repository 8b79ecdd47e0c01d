"""From text to token files: split, train the tokenizer, encode what the plan asks for. Text is streamed, never held whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from pufferfish.base import atomic, clock
from pufferfish.base.digest import digest_file
from pufferfish.base.errors import UserError
from pufferfish.base.refusals import REFUSALS
from pufferfish.base.units import format_bytes, format_count
from pufferfish.data import shards
from pufferfish.data.corpus import inspect_corpus, open_source, open_validation
from pufferfish.data.select import LONG_PIECE_BYTES, PIECE_BYTES, Piece, Selection, choose
from pufferfish.data.sources.files import Source
from pufferfish.data.split import Catalog, catalog, hold_back, not_in
from pufferfish.data.tokenizer import SEPARATOR_ID, encode, train_tokenizer, train_up_to
from pufferfish.schema.hardware import Corpus
from pufferfish.schema.params import DataParams
from pufferfish.schema.plan import DataPlan
from pufferfish.schema.reports import Shard, Subset

BATCH_BYTES = 1 << 22  # text encoded at a time: bounds the memory
# Text up to this size is looked at whole, unless its documents are short: a second or two. Of longer text, documents of so much are held back from.
MIN_DRAWN_BYTES = 64_000_000
SHORT_FACTOR = 4  # so much less of a text whose documents are short, which takes four times as long to read, and more
LONG_DOCUMENT_BYTES = 1 << 15  # on average: 64 MB of them cost half a second more, of short lines two or three
DRAWN_FACTOR = 4  # times the planned bytes are looked at, to choose from


@dataclass(frozen=True)
class Side:
    """One side of the split: some documents of a source."""

    source: Source
    documents: Catalog
    is_included_D: np.ndarray

    @property
    def num_bytes(self) -> int:
        """Of the documents on this side."""
        return int(self.documents.sizes_D[self.is_included_D].sum())

    @property
    def document_bytes(self) -> float:
        """Of the document that a byte on this side lies in, on average: what there is to look back at, where a context is longer."""
        sizes_D = self.documents.sizes_D[self.is_included_D].astype(np.float64)
        return float((sizes_D**2).sum() / sizes_D.sum())

    @property
    def num_documents(self) -> int:
        """On this side."""
        return int(self.is_included_D.sum())

    def read(self, *, max_bytes: int, seed: int, piece_bytes: int = PIECE_BYTES) -> Iterator[Piece]:
        """A representative part of this side, at most so many bytes, in pieces of about `piece_bytes` and in the order of the source."""
        chosen: Selection = choose(self.documents.sizes_D, self.is_included_D, max_bytes=max_bytes, seed=seed, piece_bytes=piece_bytes)
        return chosen.read(self.source.documents())


def prepare_subset(plan: DataPlan, folder: Path, report: Callable[[str], None]) -> Subset:
    """Write the planned subset into `folder`, which appears finished or not at all, and say in a few lines what was done.

    Raises UserError if the text changed since it was planned for, cannot be split, is too small for the vocabulary, or if the
    folder cannot be written.
    """
    start_s = clock.now_s()
    corpus = _check_unchanged(plan)
    train, validation = split(plan)
    report(
        f"split: {train.num_documents} documents ({format_bytes(train.num_bytes)}) to learn from, "
        f"{validation.num_documents} ({format_bytes(validation.num_bytes)}) to measure on"
    )
    for line in _left_out(plan, corpus, train, validation):
        report(line)
    with _folder_in_place(folder) as unfinished:
        tokenizer = _train_tokenizer(plan, train, report)
        subset = _write(plan, _all_train_bytes(plan, corpus, train), train, validation, tokenizer, unfinished)
    report(
        f"encoded: {format_bytes(subset.train.num_bytes)} to learn from ({subset.train.num_bytes / subset.corpus_train_bytes:.0%} of it) "
        f"as {format_count(subset.train.num_tokens)} tokens, "
        f"{format_bytes(subset.validation.num_bytes)} to measure on as {format_count(subset.validation.num_tokens)}"
    )
    report(f"vocabulary: {plan.vocab_size}, {subset.bytes_per_token:.2f} bytes per token; {clock.now_s() - start_s:.1f} s")
    return subset


def _write(plan: DataPlan, all_train_bytes: int, train: Side, validation: Side, tokenizer: Tokenizer, folder: Path) -> Subset:
    (folder / shards.TOKENIZER).write_text(tokenizer.to_str(pretty=True), "utf-8")
    dtype = shards.token_dtype(plan.vocab_size)
    held_back = list(validation.read(max_bytes=plan.max_validation_bytes, seed=plan.seed, piece_bytes=LONG_PIECE_BYTES))
    validation_text_sha256 = shards.write_validation_text(folder, [b"".join(parts) for parts in _by_document(held_back)])
    validation_shard = write_shard(folder / "validation.bin", held_back, tokenizer, dtype)
    train_shard = write_shard(folder / "train.bin", train.read(max_bytes=plan.train_bytes, seed=plan.seed), tokenizer, dtype)
    subset = Subset(
        corpus=plan.corpus,
        vocab_size=plan.vocab_size,
        separator_id=SEPARATOR_ID,
        token_dtype=dtype,
        tokenizer_sha256=digest_file(folder / shards.TOKENIZER),
        train=train_shard,
        validation=validation_shard,
        validation_text_sha256=validation_text_sha256,
        corpus_train_bytes=all_train_bytes,
        bytes_per_token=train_shard.num_bytes / train_shard.num_tokens,
    )
    subset.save(folder / shards.MANIFEST)
    return subset


def _all_train_bytes(plan: DataPlan, corpus: Corpus, train: Side) -> int:
    """All there is to learn from; an estimate where only a part was looked at."""
    if corpus.num_bytes <= _enough_bytes(plan, has_short_documents=corpus.has_short_documents):
        return train.num_bytes
    return round(train.num_bytes * corpus.num_bytes / train.documents.num_bytes)


def _enough_bytes(plan: DataPlan, *, has_short_documents: bool) -> int:
    return int(looked_at(plan.train_bytes, plan.max_validation_bytes, has_short_documents=has_short_documents))


def looked_at(train_bytes: float, max_validation_bytes: int, *, has_short_documents: bool) -> float:
    """Bytes of text that are looked at, at most, in order to prepare so many."""
    return max(least_bytes(has_short_documents=has_short_documents), DRAWN_FACTOR * (train_bytes + max_validation_bytes))


def least_bytes(*, has_short_documents: bool) -> int:
    """Bytes of a long text that are looked at however little is prepared. It depends on the text alone, so that all plans are measured on the same."""
    return MIN_DRAWN_BYTES // (SHORT_FACTOR if has_short_documents else 1)


def split(plan: DataPlan, *, most_bytes: int | None = None) -> tuple[Side, Side]:
    """The documents to learn from and those to measure on; no content is on both sides. Raises UserError if one would be empty.

    Of text that is many times what the plan asks for, or more than `most_bytes`, only a part is looked at, so that the price follows the plan.
    What is measured on is held back from a part of one size, so that all plans are measured on the same; only where less is looked at and
    documents are short, from what is looked at.
    """
    own = open_validation(plan.validation_path) if plan.validation_path else None
    whole = open_source(plan.source, plan.path, validation=own)
    is_short = whole.has_short_documents
    least, limit_bytes = least_bytes(has_short_documents=is_short), most_bytes or _enough_bytes(plan, has_short_documents=is_short)
    source = whole.part(limit_bytes, plan.seed)
    documents = catalog(source.documents(), plan.seed)
    if own is not None:
        own_bytes = least_bytes(has_short_documents=own.has_short_documents)
        own = own.part(min(most_bytes or own_bytes, own_bytes), plan.seed)
        measured = catalog(own.documents(), plan.seed)
        return Side(source, documents, not_in(documents, measured)), Side(own, measured, np.ones(len(measured), dtype=bool))
    fixed = whole.part(least, plan.seed)
    is_too_dear = limit_bytes < least and documents.num_bytes < LONG_DOCUMENT_BYTES * len(documents)
    if fixed is whole or limit_bytes == least or is_too_dear:
        is_held_back_D = hold_back(documents, share=plan.validation_share, max_bytes=plan.max_validation_bytes)
        return Side(source, documents, ~is_held_back_D), Side(source, documents, is_held_back_D)
    measured = catalog(fixed.documents(), plan.seed)
    is_held_back_D = hold_back(measured, share=plan.validation_share, max_bytes=plan.max_validation_bytes)
    return Side(source, documents, not_in(documents, measured.part(is_held_back_D))), Side(fixed, measured, is_held_back_D)


def _left_out(plan: DataPlan, corpus: Corpus, train: Side, validation: Side) -> Iterator[str]:
    if corpus.num_bytes > _enough_bytes(plan, has_short_documents=corpus.has_short_documents):
        yield f"looked at: {format_bytes(train.documents.num_bytes)} from everywhere in the text of {format_bytes(corpus.num_bytes)}"
    if train.source.num_left_out:
        yield f"left out of the training text: {train.source.num_left_out} file{'s' * (train.source.num_left_out != 1)} of the validation text"
    if plan.validation_path and train.num_documents < len(train.documents):
        yield f"left out of the training text: {len(train.documents) - train.num_documents} documents that are in the validation text too"
    if validation.num_bytes > plan.max_validation_bytes:
        yield f"measured on: a part of the validation text of {format_bytes(plan.max_validation_bytes)}, from everywhere in it"


def write_shard(path: Path, pieces: Iterable[Piece], tokenizer: Tokenizer, dtype: str) -> Shard:
    """Encode the pieces, each start of a document after a separator, and write their ids one after the other. Documents count once."""
    num_tokens = num_documents = num_bytes = 0
    with open(path, "wb") as file:
        for piece, ids in encoded(pieces, tokenizer, dtype):
            file.write(ids.tobytes())
            num_tokens, num_documents, num_bytes = num_tokens + len(ids), num_documents + piece.is_first, num_bytes + len(piece.content)
    return Shard(file=path.name, sha256=digest_file(path), num_tokens=num_tokens, num_documents=num_documents, num_bytes=num_bytes)


def encoded(pieces: Iterable[Piece], tokenizer: Tokenizer, dtype: str) -> Iterator[tuple[Piece, np.ndarray]]:
    """Each piece with its ids, after a separator where a document starts."""
    for batch in _batched(pieces):
        for piece, ids in zip(batch, encode(tokenizer, [piece.content.decode("utf-8") for piece in batch]), strict=True):
            yield piece, np.array([SEPARATOR_ID, *ids] if piece.is_start else ids, dtype=dtype)


def _batched(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    batch: list[Piece] = []
    num_bytes = 0
    for piece in pieces:
        batch.append(piece)
        num_bytes += len(piece.content)
        if num_bytes >= BATCH_BYTES:
            yield batch
            batch, num_bytes = [], 0
    if batch:
        yield batch


def _by_document(pieces: list[Piece]) -> list[list[bytes]]:
    documents: list[list[bytes]] = []
    for piece in pieces:
        if piece.is_start:
            documents.append([])
        documents[-1].append(piece.content)
    return documents


def _train_tokenizer(plan: DataPlan, train: Side, report: Callable[[str], None]) -> Tokenizer:
    """On the planned sample, or on a larger one where that holds too few repeated pairs for the vocabulary."""
    sample_bytes = plan.tokenizer_bytes
    while sample_bytes < train.num_bytes:
        tokenizer = train_up_to(_sample(plan, train, sample_bytes), plan.vocab_size)
        if tokenizer.get_vocab_size() == plan.vocab_size:
            return tokenizer
        report(f"{format_bytes(sample_bytes)} of text are too few for a vocabulary of {plan.vocab_size}: the tokenizer learns from twice as much")
        sample_bytes *= 2
    return train_tokenizer(_sample(plan, train, train.num_bytes), plan.vocab_size)


def _sample(plan: DataPlan, train: Side, max_bytes: int) -> Iterator[str]:
    return (piece.content.decode("utf-8") for piece in train.read(max_bytes=max_bytes, seed=plan.seed))


def _check_unchanged(plan: DataPlan) -> Corpus:
    """The text as it is. Raises UserError if it is not the one that was planned for."""
    corpus = inspect_corpus(
        DataParams(source=plan.source, path=plan.path, validation=plan.validation_path or "auto", vocab_size=plan.vocab_size, seed=plan.seed)
    )
    for setting, found, planned in (("data.path", corpus.content, plan.corpus), ("data.validation", corpus.validation_content, plan.validation_content)):
        if found != planned:
            where = getattr(plan, "path" if setting == "data.path" else "validation_path") or plan.source
            raise UserError(
                "the text changed since the plan was made",
                saw=f"{setting}: {where} holds {found[:12]}, planned for {planned[:12]}",
                fix="run `dvc repro` again",
            )
    return corpus


@contextmanager
def _folder_in_place(folder: Path) -> Iterator[Path]:
    """A fresh folder, moved into place at the end. Raises UserError where the disk refuses."""
    try:
        with atomic.folder(folder) as unfinished:
            yield unfinished
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        fix = f"{REFUSALS[error.errno].mend}, then run `dvc repro` again"
        raise UserError("the subset cannot be written", saw=f"{error.strerror or error}: {folder.absolute()}", fix=fix) from error
