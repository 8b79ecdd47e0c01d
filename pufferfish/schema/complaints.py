"""A document as a checked model, or every mistake in it in the user's words: what is wrong, what was written where, how to mend it."""

from __future__ import annotations

import re
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from pufferfish.base.errors import UserError, UserErrors, did_you_mean, nearest
from pufferfish.schema.document import Document, Location

M = TypeVar("M", bound=BaseModel)

NOT_MINE = {  # pydantic's kinds of error: what is wrong, how to mend it
    "bool": ("neither true nor false", "write true or false"),
    "dict": ("no section", "write indented `key: value` lines below it"),
    "float": ("not a number", "write a number"),
    "finite": ("not a finite number", "write a finite number"),
    "int": ("not a whole number", "write a whole number"),
    "invalid": ("not a name", "write a name before the colon"),
    "list": ("not a list", "write a list, for example [a, b]"),
    "model": ("no section", "write indented `key: value` lines below it"),
    "string": ("not text", "write text, in quotes if it looks like a number"),
}
LIMITS = {"greater_than": "more than", "greater_than_equal": "at least", "less_than": "less than", "less_than_equal": "at most"}


def validate(model: type[M], document: Document) -> M:
    """The document as a checked model. Raises UserErrors with every mistake in it, each with its line."""
    if not isinstance(document.data, dict):
        saw = f"{type(document.data).__name__}      ({document.path}, line 1)"
        raise UserError(f"{document.path} holds no settings", saw=saw, fix="write `section:` lines with indented `key: value` lines")
    try:
        return model.model_validate(document.data)
    except ValidationError as error:
        raise UserErrors([complaint(model, item, document) for item in error.errors()]) from None


def complaint(model: type[BaseModel], error: Any, document: Document) -> UserError:
    """One of pydantic's errors as what, saw, fix."""
    location = tuple(part for part in error["loc"] if part not in ("auto", "pinned", "[key]"))
    key, where = ".".join(map(str, location)), document.where(location)
    if error["type"] == "extra_forbidden":
        known = known_keys(model, location)
        match = nearest(str(location[-1]), known)
        fix = f"did you mean `{'.'.join(map(str, (*location[:-1], match)))}`?" if match else did_you_mean(str(location[-1]), known)
        return UserError(f"`{key}` is not a setting", saw=f"{key}      ({where})", fix=fix)
    if error["type"] == "missing":
        return UserError(f"`{key}` is missing", saw=f"no {key}      ({where})", fix="add it")
    what, fix = in_words(error)
    if "pinned" in error["loc"] and not fix.endswith("?"):
        fix += ", or auto"
    return UserError(f"`{key}`: {what}", saw=f"{key}: {as_written(error['input'], location, document)}      ({where})", fix=fix)


def in_words(error: Any) -> tuple[str, str]:
    """What is wrong and how to mend it. Our own messages say both: `what: fix`."""
    kind, context = error["type"], error.get("ctx", {})
    if kind == "value_error":
        what, _, fix = error["msg"].removeprefix("Value error, ").partition(": ")
        return what, fix or what
    if kind == "literal_error":
        allowed = re.findall(r"'([^']*)'", context["expected"])
        return "not one of the choices", f"use one of: {', '.join(allowed)}"
    if kind in LIMITS:
        return "out of range", f"give {LIMITS[kind]} {next(iter(context.values()))}"
    if kind == "too_short":
        return "too short", f"give at least {context['min_length']}"
    known = NOT_MINE.get(kind.split("_")[0])
    return known or ("not right", error["msg"][:1].lower() + error["msg"][1:])


def as_written(value: Any, location: Location, document: Document) -> str:
    """A value as the user wrote it; of a section, the settings that are not left to `auto`."""
    if isinstance(value, dict):
        return ", ".join(f"{key}: {each}" for key, each in value.items() if each != "auto") or "(nothing)"
    return document.written.get(location, str(value)) or "(nothing)"


def known_keys(model: type[BaseModel], location: Location) -> list[str]:
    """The keys that are allowed beside the last key of `location`."""
    for name in location[:-1]:
        field = model.model_fields.get(str(name))
        annotation = field.annotation if field else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return list(model.model_fields)
