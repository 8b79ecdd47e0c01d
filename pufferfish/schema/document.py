"""YAML 1.2 with line numbers, and pydantic's complaints in the user's words."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from pufferfish.base.errors import UserError, UserErrors, did_you_mean, nearest

MAX_BYTES = 1_000_000  # a settings file, not data

Location = tuple[str | int, ...]


class Yaml12Loader(yaml.SafeLoader):
    """PyYAML reading scalars by the YAML 1.2 core schema, as DVC does: `1e-3` is a number, `on` and `12:30` are text."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", "-+.0123456789"),
):
    Yaml12Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), [*_first, ""] if _tag == "null" else list(_first))


def _construct_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = loader.construct_scalar(node)
    return int(text, 0) if text[:2] in ("0o", "0x") else int(text)


def _construct_float(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    return float(loader.construct_scalar(node).replace(".inf", "inf").replace(".nan", "nan"))


Yaml12Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)
Yaml12Loader.add_constructor("tag:yaml.org,2002:float", _construct_float)


class Document:
    """A YAML file as plain data, with the line of every key."""

    def __init__(self, path: Path) -> None:
        """Raises UserError if the file is missing, unreadable, too large, not UTF-8 or not YAML."""
        self.path = path
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise UserError(f"{path} is missing", saw=f"no file {path.absolute()}", fix="run in the folder of the project, or restore the file from git") from None
        except OSError as error:
            raise UserError(f"{path} cannot be read", saw=f"{error.strerror}: {path.absolute()}", fix="check that it is a file and that you may read it") from None
        if len(content) > MAX_BYTES:
            raise UserError(f"{path} is too large for a settings file", saw=f"{len(content)} bytes", fix=f"keep it under {MAX_BYTES} bytes")
        try:
            loader = Yaml12Loader(content.decode("utf-8"))
            node = loader.get_single_node()
            self.data = loader.construct_document(node) if node else {}
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is not UTF-8 text", saw=f"byte {content[error.start]:#04x} at position {error.start}", fix="save the file as UTF-8") from None
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            where = f"{path}, line {mark.line + 1}, column {mark.column + 1}" if mark else str(path)
            raise UserError(f"{path} is not valid YAML", saw=f"{error.problem}      ({where})", fix="mend the line; nesting is by spaces, values follow `key: `") from None
        except yaml.YAMLError as error:
            raise UserError(f"{path} is not valid YAML", saw=str(error).splitlines()[0], fix="remove the character") from None
        self.lines: dict[Location, int] = {}
        if node:
            self._note_lines(node, ())

    def _note_lines(self, node: yaml.Node, location: Location) -> None:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                child = (*location, key.value)
                self.lines[child] = key.start_mark.line + 1
                self._note_lines(value, child)

    def where(self, location: Location) -> str:
        """`params.yaml, line 3`, or of the nearest parent that is in the file."""
        while location and location not in self.lines:
            location = location[:-1]
        return f"{self.path}, line {self.lines[location]}" if location else str(self.path)


def known_keys(model: type[BaseModel], location: Location) -> list[str]:
    """The keys that are allowed beside the last key of `location`."""
    for name in location[:-1]:
        field = model.model_fields.get(str(name))
        annotation = field.annotation if field else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return list(model.model_fields)


def complaint(model: type[BaseModel], error: Any, location: Location, where: str) -> UserError:
    """One of pydantic's errors as what, saw, fix."""
    key, value = ".".join(map(str, location)), error["input"]
    if error["type"] == "extra_forbidden":
        known = known_keys(model, location)
        match = nearest(str(location[-1]), known)
        fix = f"did you mean `{'.'.join(map(str, (*location[:-1], match)))}`?" if match else did_you_mean(str(location[-1]), known)
        return UserError(f"`{key}` is not a setting", saw=f"{key}      ({where})", fix=fix)
    if error["type"] == "missing":
        return UserError(f"`{key}` is missing", saw=f"no {key}      ({where})", fix="add it")
    message = error["msg"].removeprefix("Value error, ")
    shown = "(nothing)" if value is None or value == "" else value
    what, _, fix = message.partition(": ")
    return UserError(f"`{key}` is not right", saw=f"{key}: {shown}      ({where})", fix=fix or what[:1].lower() + what[1:])


def validate(model: type[BaseModel], document: Document) -> Any:
    """The document as a checked model. Raises UserErrors with every mistake in it, each with its line."""
    if not isinstance(document.data, dict):
        raise UserError(f"{document.path} holds no settings", saw=type(document.data).__name__, fix="write `section:` lines with indented `key: value` lines")
    try:
        return model.model_validate(document.data)
    except ValidationError as error:
        problems = []
        for item in error.errors():
            location = tuple(part for part in item["loc"] if part not in ("auto", "pinned"))
            problems.append(complaint(model, item, location, document.where(location)))
        raise UserErrors(problems) from None
