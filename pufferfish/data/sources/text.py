"""text: the user's own text, a file with one document per line or a folder with one document per file; of a long file in a folder, stretches are documents."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from pufferfish.base import paths
from pufferfish.base.errors import UserError
from pufferfish.data.sources.files import Source, find_lines, not_among, read_lines, read_part, read_stretch, read_text, status_of, unreadable, walk

FEWEST_DRAWN = 2  # files, or stretches of a file
STRETCH_BYTES = 1 << 20  # of a long file, read at a time where only a part is wanted; from this size on a file in a folder is long
DOCUMENT_BYTES = 1 << 14  # of a long file in a folder: small, so that what is measured on comes from many places, even of one megabyte
SHORT_LINE_BYTES, SHORT_FILE_BYTES = 128, 4096  # on average: shorter documents take over 8 ms for each MB, at 1 us for a line and 30 for a file
SOME_FILES = 1000  # of a folder, to judge the others by


class TextSource:
    """Blank lines and blank files are no documents; lines lose their ends, files keep them."""

    def __init__(self, path: str, *, setting: str = "data.path") -> None:
        self.written, self.setting = path, setting
        try:
            self.root = paths.user_path(path)
        except (RuntimeError, OSError) as error:  # `~name` without such a user; a folder above that may not be looked into
            raise UserError("there is no such text", saw=f"{error}      ({setting}: {path})", fix=f"correct `{setting}`, or mend the permissions") from None
        self.num_left_out = 0
        self._stretches: list[tuple[int, int | None]] = [(0, None)]  # bytes of the file
        self._files: list[Path] = []  # those that are wanted; empty: not looked for yet
        self._drawn: list[tuple[Path, int, int]] = []  # runs of a folder's files, see `_runs`; empty: all of them

    @property
    def where(self) -> str:
        """The setting and what it leads to, for the `saw` line of an error."""
        return f"{self.setting}: {self.written}      ({self.root.absolute()})"

    def files(self) -> list[Path]:
        """The file, or the files of the folder, sorted. Raises UserError if there is no such path or nothing in it."""
        if not self._files:
            self._files = self._find()
        return self._files

    def _find(self) -> list[Path]:
        try:
            exists = self.root.exists()
        except OSError as error:
            raise unreadable(self.root, error) from None
        if not exists:
            raise UserError("there is no such text", saw=self.where, fix=f"correct `{self.setting}`; a relative path starts at the project's folder")
        if self.root.is_file():
            if self.root.stat().st_size == 0:
                raise UserError("the text file is empty", saw=self.where, fix="put text into it, one document per line")
            return [self.root]
        if not self.root.is_dir():
            raise UserError(
                "the text is neither a file nor a folder", saw=self.where, fix="give a file with one document per line, or a folder with one document per file"
            )
        found = list(walk(self.root))
        if not any(status_of(path).st_size for path in found):
            held = f"{len(found)} files, all empty" if found else "no files (hidden ones do not count)"
            raise UserError("the folder holds no text", saw=f"{held}; {self.where}", fix="put text files into it, one document per file")
        return found

    def documents(self) -> Iterator[tuple[str, str]]:
        """Name and text of each document. Raises UserError for what is not UTF-8 text."""
        if self.root.is_file():
            name = self.root.name
            for start, end in self._stretches:
                for offset, text in read_lines(self.root, start, end):
                    if text.strip():
                        yield f"{name}, byte {offset}", text
            return
        for path, start, end in self._drawn or self._runs():
            name = path.relative_to(self.root).as_posix()
            if end < STRETCH_BYTES:  # all of a short file
                text = read_text(path)
                if text.strip():
                    yield name, text
                continue
            for at in range(start, end, DOCUMENT_BYTES):
                text = read_stretch(path, at, min(at + DOCUMENT_BYTES, end))
                if text.strip():
                    yield f"{name}, byte {at}", text

    def _runs(self) -> Iterator[tuple[Path, int, int]]:
        """Which bytes of which file: of a folder all that there are, long files a stretch at a time."""
        for path in self.files():
            size = status_of(path).st_size
            for start in range(0, size, STRETCH_BYTES) or [0]:
                yield path, start, min(start + STRETCH_BYTES, size)

    @property
    def has_short_documents(self) -> bool:
        """By the beginning of a file, or by files from everywhere in a folder."""
        if self.root.is_file():
            beginning = read_part(self.root, 0, STRETCH_BYTES)
            return len(beginning) < SHORT_LINE_BYTES * beginning.count(b"\n")
        some = self.files()[:: -(-len(self.files()) // SOME_FILES)]
        return sum(status_of(path).st_size for path in some) < SHORT_FILE_BYTES * len(some)

    def without(self, other: Source) -> TextSource:
        """All files but those that are in the other source. Raises UserError if none would be left."""
        found, rest = self.files(), TextSource(self.written, setting=self.setting)
        rest._files = not_among(found, other.files())
        rest.num_left_out = len(found) - len(rest._files)
        return rest

    def part(self, max_bytes: int, seed: int) -> TextSource:
        """About so many bytes: stretches of a file's lines, or files of a folder and stretches of its long ones, drawn at random; two at least, so that
        they can be split."""
        draw = random.Random(seed)
        if self._num_bytes <= max_bytes:
            return self
        drawn = TextSource(self.written, setting=self.setting)
        drawn.num_left_out = self.num_left_out
        if self.root.is_file():
            count = max(1, max_bytes // STRETCH_BYTES)
            slot = self._num_bytes / count
            starts = [int(number * slot + draw.random() * max(0.0, slot - STRETCH_BYTES)) for number in range(1, count)]
            drawn._stretches = self._stretches_from([0, *draw.sample(starts, len(starts))], max_bytes)  # one line may be all there is
            return drawn
        runs, numbers, num_bytes = self._all_runs, [], 0
        for number in draw.sample(range(len(runs)), len(runs)):
            if num_bytes >= max_bytes and len(numbers) >= FEWEST_DRAWN:
                break
            numbers.append(number)
            num_bytes += runs[number][2] - runs[number][1]
        drawn._drawn = [runs[number] for number in sorted(numbers)]
        drawn._files = list(dict.fromkeys(path for path, _, _ in drawn._drawn))
        return drawn

    @cached_property
    def _all_runs(self) -> list[tuple[Path, int, int]]:
        return list(self._runs())

    @cached_property
    def _num_bytes(self) -> int:
        return status_of(self.root).st_size if self.root.is_file() else sum(end - start for _, start, end in self._all_runs)

    def _stretches_from(self, starts: list[int], max_bytes: int) -> list[tuple[int, int | None]]:
        """One from the first line at each start, which may lie far behind it, and no line twice; fewer where the lines are long."""
        ends: dict[int, int] = {}  # by where the stretch begins
        gaps: list[tuple[int, int]] = []  # where no line begins, up to the next one
        num_bytes = 0
        for start in starts:
            if num_bytes >= max_bytes and len(ends) >= FEWEST_DRAWN:
                break
            if any(begin <= start < first for begin, first in gaps):
                continue
            first, end, last = find_lines(self.root, start, STRETCH_BYTES)
            if first >= start + STRETCH_BYTES:
                gaps.append((start, first))
            if last > first and first not in ends:
                ends[first] = end
                num_bytes += last - first
        order = sorted(ends)
        return [(first, min(ends[first], following)) for first, following in zip(order, [*order[1:], max(ends.values(), default=0)], strict=True)]
