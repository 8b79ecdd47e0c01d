"""What leaves the process is flat, of bounded length and free of secrets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

MAX_KEY = 250  # characters; limits of the MLflow store
MAX_VALUE = 6000

_USER_IN_URL = re.compile(r"(?<=://)[^/@\s]+@")
_SECRET_IN_QUERY = re.compile(r"(?i)([?&;](?:[a-z0-9_-]*(?:token|secret|password|passwd|signature|api_?key|access_?key)[a-z0-9_-]*)=)[^&#\s]+")
_TOKEN = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|gh[opsur]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|(?:AKIA|ASIA)[A-Z0-9]{16}|sk-[\w-]{20,}|xox[abprs]-[\w-]{10,})"
)
_NOT_IN_A_KEY = re.compile(r"[^\w\-. /:]")


def without_secrets(text: str) -> str:
    """The text without credentials in URLs and without access tokens of well-known services."""
    text = _SECRET_IN_QUERY.sub(r"\1[removed]", _USER_IN_URL.sub("", text))
    return _TOKEN.sub("[removed]", text)


def clean_key(key: str) -> str:
    """A name that the store accepts for a parameter, metric or tag."""
    return _NOT_IN_A_KEY.sub("_", key)[:MAX_KEY]


def clean_value(value: Any) -> str:
    """A value as text of bounded length."""
    text = without_secrets(value if isinstance(value, str) else str(value))
    return text if len(text) <= MAX_VALUE else text[: MAX_VALUE - 3] + "..."


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested sections as one level of `section.key`, cleaned; a list is one value."""
    result: dict[str, str] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            result |= flat(value, f"{name}.")
        else:
            result[clean_key(name)] = clean_value(value)
    return result
