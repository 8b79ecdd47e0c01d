"""stdlib: the source text of the running interpreter's standard library. About 11 MB of code and prose, on every machine."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from pathlib import Path

from pufferfish.base.errors import UserError
from pufferfish.data.sources.files import Source, not_among, read_text, walk

# Installed packages, tests (some are deliberately broken text), a retired copy of a parser; what belongs to one machine.
EXCLUDED_FOLDERS = frozenset({"site-packages", "dist-packages", "test", "tests", "idle_test", "lib2to3", "__pycache__"})
EXCLUDED_MODULES = ("_sysconfigdata", "sitecustomize", "usercustomize")


class StdlibSource:
    """One document per module."""

    has_short_documents = False

    def __init__(self, path: str = "", *, setting: str = "data.path") -> None:
        assert not path, f"{setting} is for other sources; the settings refuse it with stdlib"
        self.folder = Path(sysconfig.get_path("stdlib"))
        self.num_left_out = 0
        self._files: list[Path] = []  # empty: not looked for yet

    def files(self) -> list[Path]:
        """The modules, sorted by name. Raises UserError where the interpreter comes without source text."""
        if self._files:
            return self._files
        found = [path for path in walk(self.folder, skipped=EXCLUDED_FOLDERS) if _is_included(path)] if self.folder.is_dir() else []
        if not found:
            raise UserError(
                "this Python comes without its library's source text", saw=f"no modules in {self.folder}", fix="use another Python, or `data.source: text`"
            )
        self._files = found
        return found

    def documents(self) -> Iterator[tuple[str, str]]:
        """Name and text of each module that is not blank."""
        for path in self.files():
            text = read_text(path)
            if text.strip():
                yield path.relative_to(self.folder).as_posix(), text

    def without(self, other: Source) -> StdlibSource:
        """But for modules that are in the other source. Raises UserError if none would be left."""
        found, rest = self.files(), StdlibSource()
        rest._files = not_among(found, other.files())
        rest.num_left_out = len(found) - len(rest._files)
        return rest

    def part(self, max_bytes: int, seed: int) -> StdlibSource:
        """All of it: it is small."""
        return self


def _is_included(path: Path) -> bool:
    return path.suffix == ".py" and not path.name.startswith(EXCLUDED_MODULES)
