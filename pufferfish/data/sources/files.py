"""Reading text files: which files a folder holds, decoding them, and saying exactly where one is not text."""

from __future__ import annotations

import codecs
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from pufferfish.base.errors import UserError

BLOCK_BYTES = 1 << 20
LOOK_BYTES = 1 << 16  # for the next line: where it lies farther off, a stretch begins within one
UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class Source(Protocol):
    """Text on this machine, always in the same order."""

    num_left_out: int  # files, by `without`

    @property
    def has_short_documents(self) -> bool:
        """Whether documents are so many that reading takes long, judged by some of them."""

    def files(self) -> list[Path]:
        """The files that hold the text, or what is wanted of it, sorted and found once. Raises UserError if there are none."""

    def documents(self) -> Iterator[tuple[str, str]]:
        """Name and text of each document that is not blank. Raises UserError for a file that is not UTF-8 text."""

    def without(self, other: Source) -> Source:
        """All of it but the files that the other source reads too. Raises UserError if nothing would be left."""

    def part(self, max_bytes: int, seed: int) -> Source:
        """About so many bytes of the documents, from everywhere, found without reading the others; or all of them."""


def walk(folder: Path, *, skipped: frozenset[str] = frozenset(), above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[Path]:
    """Regular files below a folder, sorted; hidden ones and folders with a `skipped` name are left out.

    Links are followed, but not into a folder that they lie in: `above` are the folders on the way here. Raises UserError for
    a folder that cannot be listed.
    """
    try:
        way = above | {_identity(folder)}
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise unreadable(folder, error) from None
    for entry in entries:
        if entry.name.startswith("."):
            continue
        path = folder / entry.name
        try:
            status = entry.stat()
        except OSError:  # a link that leads nowhere: a file that cannot be read
            yield path
            continue
        if stat.S_ISDIR(status.st_mode):
            if entry.name not in skipped and (status.st_dev, status.st_ino) not in way:
                yield from walk(path, skipped=skipped, above=way)
        elif stat.S_ISREG(status.st_mode):
            yield path


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def status_of(path: Path) -> os.stat_result:
    """Size and dates of a file. Raises UserError if the system does not tell."""
    try:
        return path.stat()
    except OSError as error:
        raise unreadable(path, error) from None


def not_among(paths: list[Path], others: list[Path]) -> list[Path]:
    """The files that are not the same as one of the others, whatever their names. Raises UserError if there are none."""
    taken = {(status.st_dev, status.st_ino) for status in map(status_of, others)}
    kept = [path for path in paths if ((status := status_of(path)).st_dev, status.st_ino) not in taken]
    if not kept:
        saw = f"each file to learn from is in the validation text too, as {paths[0]} is"
        raise UserError("nothing is left to learn from", saw=saw, fix="give a `data.validation` with files that are not all of the training text")
    return kept


def read_text(path: Path) -> str:
    """The whole file, without a byte order mark, line ends as they are. Raises UserError if it is not UTF-8 text."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from None
    return _decoded(path, content.removeprefix(codecs.BOM_UTF8))


def read_stretch(path: Path, start: int, end: int) -> str:
    """The text between two places of a file, as `read_text` gives it; both are moved on to the next line, or to the next character where lines are long.

    Neighbouring stretches have nothing in common and lose nothing. Raises UserError if it is not UTF-8 text.
    """
    before = max(0, start - 1)
    content = read_part(path, before, end + LOOK_BYTES)
    first = _border(content, start - before) if start else len(codecs.BOM_UTF8) * content.startswith(codecs.BOM_UTF8)
    return _decoded(path, content[first : _border(content, end - before)])


def read_part(path: Path, start: int, end: int) -> bytes:
    """The bytes between two places of a file, as far as it reaches. Raises UserError if it cannot be read."""
    try:
        with open(path, "rb") as file:
            file.seek(start)
            return file.read(end - start)
    except OSError as error:
        raise unreadable(path, error) from None


def _border(content: bytes, at: int) -> int:
    if line := content.find(b"\n", at - 1, at - 1 + LOOK_BYTES) + 1:
        return line
    while at < len(content) and content[at] & 0xC0 == 0x80:
        at += 1
    return at


def _decoded(path: Path, content: bytes) -> str:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise not_text(path) from None
    if "\0" in text:
        raise not_text(path)
    return text


def read_lines(path: Path, start: int = 0, end: int | None = None) -> Iterator[tuple[int, str]]:
    """Offset and text, without its end, of each line that begins in these bytes of the file. Raises UserError if it is not UTF-8 text."""
    try:
        with open(path, "rb") as file:
            offset = start
            if start:  # the line that begins before belongs to the bytes before
                file.seek(start - 1)
                offset += len(file.readline()) - 1
            for line in file:
                if end is not None and offset >= end:
                    return
                content = line if offset else line.removeprefix(codecs.BOM_UTF8)
                text = content.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8")
                if "\0" in text:
                    raise not_text(path)
                yield offset, text
                offset += len(line)
    except UnicodeDecodeError:
        raise not_text(path) from None
    except OSError as error:
        raise unreadable(path, error) from None


def find_lines(path: Path, start: int, num_bytes: int) -> tuple[int, int, int]:
    """A stretch of whole lines, at least one: where it begins, before which byte its lines begin, and where they end. Nothing at the end of the file.

    It begins with the first line that is not blank, at `start` or later; `num_bytes` count from `start`, or from that line where it is not among them.
    Raises UserError if the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            first = _seek_line(file, start)
            while (line := file.readline()) and not line.decode("utf-8", "replace").strip():
                first += len(line)
            if not line:
                return first, first, first
            end = (start if first < start + num_bytes else first) + num_bytes
            return first, end, _seek_line(file, end)
    except OSError as error:
        raise unreadable(path, error) from None


def _seek_line(file: BinaryIO, start: int) -> int:
    """Go to the first line that begins at `start` or later."""
    file.seek(max(0, start - 1))
    if start:
        file.readline()
    return file.tell()


def digest_texts(paths: Iterable[Path]) -> str:
    """64 hex digits that identify the content of text files, in this order. Raises UserError for a file that is not UTF-8 text."""
    whole = hashlib.sha256()
    for path in paths:
        content, decoder = hashlib.sha256(), codecs.getincrementaldecoder("utf-8")()
        try:
            with open(path, "rb") as file:
                while block := file.read(BLOCK_BYTES):
                    content.update(block)
                    decoder.decode(block)
                    if b"\0" in block:
                        raise not_text(path)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            raise not_text(path) from None
        except OSError as error:
            raise unreadable(path, error) from None
        whole.update(content.digest())
    return whole.hexdigest()


def not_text(path: Path) -> UserError:
    """What to say about a file that holds a NUL byte or is not UTF-8: the first such byte, by offset and line."""
    offset = 0
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if number == 1 and line.startswith(UTF16_MARKS):
                return UserError(
                    "the text is UTF-16, not UTF-8", saw=f"a UTF-16 byte order mark at byte offset 0, line 1      ({path})", fix="save the file as UTF-8"
                )
            nul = line.find(b"\0")
            try:
                line.decode("utf-8")
                bad = -1
            except UnicodeDecodeError as error:
                bad = error.start
            if nul >= 0 and (bad < 0 or nul < bad):
                where = f"byte offset {offset + nul}, line {number}      ({path})"
                return UserError("a file is binary, not text", saw=f"a NUL byte at {where}", fix="take the file out of the data, or convert it into UTF-8 text")
            if bad >= 0:
                where = f"byte offset {offset + bad}, line {number}      ({path})"
                return UserError("a file is not UTF-8 text", saw=f"byte {line[bad]:#04x} at {where}", fix="save the file as UTF-8, or take it out of the data")
            offset += len(line)
    raise AssertionError(f"{path} is text after all: it changed while it was read")


def unreadable(path: Path, error: OSError) -> UserError:
    """What to say about a file or folder that the system does not let us read."""
    return UserError(
        "the text cannot be read", saw=f"{error.strerror or error}      ({path})", fix="mend its permissions or the link, or take it out of the data"
    )
