"""The menu: every variant of every kind on one screen. Reading it imports nothing; choosing from it imports one file."""

from __future__ import annotations

import importlib
from typing import Any

from pufferfish.base.errors import UserError, did_you_mean

MENU: dict[str, dict[str, str]] = {
    "source": {
        "stdlib": "pufferfish.data.sources.stdlib:StdlibSource",
        "text": "pufferfish.data.sources.text:TextSource",
    },
    "optimizer": {
        "adamw": "pufferfish.train.optimizers.adamw:build_adamw",
        "muon": "pufferfish.train.optimizers.muon:build_muon",
    },
    "export": {
        "hf": "pufferfish.export.hf:export_hf",
    },
}


def names(kind: str) -> list[str]:
    """The variants of a kind, sorted."""
    return sorted(MENU[kind])


def load(kind: str, name: str) -> Any:
    """Import and return one variant. Raises UserError for a name that is not on the menu."""
    entries = MENU[kind]
    if name not in entries:
        raise UserError(f"there is no {kind} called `{name}`", saw=name, fix=did_you_mean(name, entries))
    module, _, attribute = entries[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
