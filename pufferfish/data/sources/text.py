"""text: the user's own text, a file with one document per line or a folder with one document per file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pufferfish.base import paths
from pufferfish.base.errors import UserError
from pufferfish.data.sources.files import read_lines, read_text, status_of, walk


class TextSource:
    """Blank lines and blank files are no documents; lines lose their ends, files keep them."""

    def __init__(self, path: str, *, setting: str = "data.path") -> None:
        self.written, self.setting = path, setting
        self.root = paths.user_path(path)

    @property
    def where(self) -> str:
        """The setting and what it leads to, for the `saw` line of an error."""
        return f"{self.setting}: {self.written}      ({self.root.absolute()})"

    def files(self) -> list[Path]:
        """The file, or the files of the folder, sorted. Raises UserError if there is no such path or nothing in it."""
        if not self.root.exists():
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
        files = self.files()
        if self.root.is_file():
            for number, text in enumerate(read_lines(self.root), start=1):
                if text.strip():
                    yield f"{self.root.name}:{number}", text
            return
        for path in files:
            text = read_text(path)
            if text.strip():
                yield path.relative_to(self.root).as_posix(), text
