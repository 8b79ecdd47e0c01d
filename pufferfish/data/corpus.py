"""Which text there is: found, checked and identified on every run, and read again only where something changed."""

from __future__ import annotations

import json
import os
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from pufferfish.base import atomic, paths, registry
from pufferfish.base.digest import digest
from pufferfish.base.errors import UserError
from pufferfish.base.units import format_bytes
from pufferfish.data.sources.files import Source, digest_texts, status_of
from pufferfish.data.sources.text import TextSource
from pufferfish.schema.hardware import Corpus
from pufferfish.schema.params import DataParams

MIN_BYTES = 2_000  # less cannot fill a handful of windows with a byte-level vocabulary
MIN_VALIDATION_BYTES = 100
SIDES = ("train", "validation")  # folders of a text that comes divided
MAX_REMEMBERED = 100  # texts, of which the digests are kept
SPLIT_FIX = "a file holds one document per line, a folder one per file: give at least two, or your own `data.validation`"


class Scan(NamedTuple):
    """Identity and size of a source's text."""

    content: str
    num_bytes: int
    num_files: int


def open_source(source: str, path: str, *, validation: Source | None = None) -> Source:
    """The training text that the settings name, without the files of the validation text. Raises UserError as `Source.files` does, or if nothing is left."""
    opened: Source = registry.load("source", source)(path)
    return opened.without(validation) if validation else opened


def open_validation(path: str) -> Source:
    """The user's own validation text."""
    return TextSource(path, setting="data.validation")


def inspect_corpus(data: DataParams) -> Corpus:
    """Find and identify the text. A second call on the same files only looks at their sizes and dates.

    Raises UserError for a missing path, empty or blank text, binary or wrongly encoded files (with the place), and for text
    that is too little to learn from or to hold documents back.
    """
    data = _with_both_paths(data)
    own = None if data.validation == "auto" else open_validation(data.validation)
    source = open_source(data.source, data.path, validation=own)
    text = scan(source)
    setting = f"data.source: {data.source}" + (f", data.path: {data.path}" if data.path else "")
    where = f"{format_bytes(text.num_bytes)} in {text.num_files} file{'s' * (text.num_files != 1)}; {setting}"
    _check_documents(source, where, is_held_back=own is None)
    if text.num_bytes < MIN_BYTES:
        raise UserError("the text is too little to learn from", saw=where, fix=f"give at least {format_bytes(MIN_BYTES)}; a megabyte is a good start")
    validation = Scan("", 0, 0)
    if own:
        validation = scan(own)
        own_where = f"{validation.num_bytes} bytes; data.validation: {data.validation}"
        _check_documents(own, own_where, is_held_back=False)
        if validation.num_bytes < MIN_VALIDATION_BYTES:
            raise UserError(
                "the validation text is too little to measure with",
                saw=own_where,
                fix=f"give at least {MIN_VALIDATION_BYTES} bytes; 100 kB and more measure well",
            )
    return Corpus(
        source=data.source,
        path=data.path,
        content=text.content,
        num_bytes=text.num_bytes,
        num_files=text.num_files,
        has_short_documents=source.has_short_documents,
        validation_path=data.validation if own else "",
        validation_content=validation.content,
        validation_bytes=validation.num_bytes,
    )


def _with_both_paths(data: DataParams) -> DataParams:
    """The same settings, and where `data.path` holds just the two sides of a divided text, as if both had been pinned: what others will measure on is not to
    be learned from.
    """
    if data.validation != "auto" or not data.path:
        return data
    try:
        with os.scandir(paths.user_path(data.path)) as entries:
            seen = (entry for entry in entries if not entry.name.startswith("."))
            is_folder = {entry.name: entry.is_dir() for entry in islice(seen, len(SIDES) + 1)}
    except (OSError, RuntimeError, ValueError):  # no folder that can be read: told where its text is looked for
        return data
    if is_folder != dict.fromkeys(SIDES, True):
        return data
    train, validation = (str(Path(data.path, side)) for side in SIDES)
    return data.model_copy(update={"path": train, "validation": validation})


def describe_text(data: DataParams, corpus: Corpus) -> list[str]:
    """A line for people, where the text was found divided although the settings do not say so."""
    if corpus.path == data.path:
        return []
    return [f"text       learns from {corpus.path}, measures on {corpus.validation_path}: `data.path` holds just these two folders"]


def scan(source: Source) -> Scan:
    """Identity and size of the text, remembered for files of the same names, sizes and dates."""
    files = source.files()
    facts = []
    for path in files:
        status = status_of(path)
        facts.append((str(path.absolute()), status.st_size, status.st_mtime_ns))
    seen = digest(facts)
    memory = _recall(paths.state() / "corpus.json")
    if seen not in memory:
        # the newest come last, and few are worth keeping
        memory = {**dict(list(memory.items())[-MAX_REMEMBERED + 1 :]), seen: digest_texts(files)}
        atomic.write_json(paths.state() / "corpus.json", memory)
    return Scan(memory[seen], sum(size for _, size, _ in facts), len(files))


def _recall(path: Path) -> dict[str, str]:
    try:
        memory = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return {}  # only a memory of what can be read again
    return memory if isinstance(memory, dict) else {}


def _check_documents(source: Source, where: str, *, is_held_back: bool) -> None:
    texts: set[str] = set()
    for _, text in source.documents():
        texts.add(text)
        if len(texts) > is_held_back:
            return
    if not texts:
        raise UserError("the text is blank", saw=f"nothing but white space in {where}", fix="give text")
    copies = len(list(islice(source.documents(), 2))) > 1
    saw = f"{'only copies of one document' if copies else 'a single document'} in {where}"
    raise UserError("one document cannot be split into text to learn from and text to measure on", saw=saw, fix=SPLIT_FIX)
