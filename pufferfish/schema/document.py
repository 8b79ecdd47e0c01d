"""YAML 1.2 with the line of every key."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from pufferfish.base.errors import UserError

MAX_BYTES = 1_000_000  # a settings file, not data

Location = tuple[str | int, ...]


class Yaml12Loader(yaml.SafeLoader):
    """PyYAML reading scalars as DVC does, by the YAML 1.2 core schema with `_` between digits: `1e-3` is a number, `on` and `12:30` are text."""


Yaml12Loader.yaml_implicit_resolvers = {}  # those of YAML 1.1 are inherited
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(?:[0-9][0-9_]*|0b[01][01_]*|0o[0-7][0-7_]*|0x[0-9a-fA-F][0-9a-fA-F_]*)", "-+0123456789"),
    ("float", r"[-+]?[0-9][0-9_]*(?:\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[eE][-+]?[0-9]+)|[-+]?\.[0-9][0-9_]*(?:[eE][-+][0-9]+)?", "-+.0123456789"),
    ("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", "-+."),
):
    Yaml12Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), [*_first, ""] if _tag == "null" else list(_first))


def _construct_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = loader.construct_scalar(node).replace("_", "")
    return int(text, 0) if re.search("[box]", text) else int(text)


def _construct_float(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    text = loader.construct_scalar(node).replace("_", "").lower()
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


Yaml12Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)
Yaml12Loader.add_constructor("tag:yaml.org,2002:float", _construct_float)


class Document:
    """A YAML file as plain data, with the line of every key and every plain value as it was written."""

    def __init__(self, path: Path) -> None:
        """Raises UserError if the file is missing, unreadable, too large, not UTF-8 or not YAML."""
        self.path = path
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise UserError(
                f"{path} is missing", saw=f"no file {path.absolute()}", fix="run in the folder of the project, or restore the file from git"
            ) from None
        except OSError as error:
            raise UserError(
                f"{path} cannot be read", saw=f"{error.strerror}: {path.absolute()}", fix="check that it is a file and that you may read it"
            ) from None
        if len(content) > MAX_BYTES:
            raise UserError(f"{path} is too large for a settings file", saw=f"{len(content)} bytes", fix=f"keep it under {MAX_BYTES} bytes")
        try:
            loader = Yaml12Loader(content.decode("utf-8"))
            node = loader.get_single_node()
            self.data = loader.construct_document(node) if node else {}
        except UnicodeDecodeError as error:
            raise UserError(
                f"{path} is not UTF-8 text", saw=f"byte {content[error.start]:#04x} at position {error.start}", fix="save the file as UTF-8"
            ) from None
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            where = f"{path}, line {mark.line + 1}, column {mark.column + 1}" if mark else str(path)
            raise UserError(
                f"{path} is not valid YAML", saw=f"{error.problem}      ({where})", fix="mend the line; nesting is by spaces, values follow `key: `"
            ) from None
        except yaml.YAMLError as error:
            raise UserError(f"{path} is not valid YAML", saw=str(error).splitlines()[0], fix="remove the character") from None
        self.lines: dict[Location, int] = {}
        self.written: dict[Location, str] = {}
        if node:
            self._note(node, (), set())

    def _note(self, node: yaml.Node, location: Location, seen: set[int]) -> None:
        if id(node) in seen:
            return  # an alias: noted where its anchor stands
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                child = (*location, key.value)
                if child in self.lines:
                    first, second = self.lines[child], key.start_mark.line + 1
                    what = f"{self.path} gives `{'.'.join(map(str, child))}` twice"
                    raise UserError(what, saw=f"{self.path}, line {first} and line {second}", fix="keep one of them")
                self.lines[child] = key.start_mark.line + 1
                self._note(value, child, seen)
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                child = (*location, index)
                self.lines[child] = value.start_mark.line + 1
                self._note(value, child, seen)
        elif isinstance(node, yaml.ScalarNode):
            self.written[location] = node.value

    def where(self, location: Location) -> str:
        """`params.yaml, line 3`, or of the nearest parent that is in the file."""
        while location and location not in self.lines:
            location = location[:-1]
        return f"{self.path}, line {self.lines[location]}" if location else str(self.path)
