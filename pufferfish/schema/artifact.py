"""Artifacts: JSON files with a schema version, refused when they come from another version, another parent or another hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from pufferfish.base import atomic
from pufferfish.base.digest import digest
from pufferfish.base.errors import UserError


class Strict(BaseModel):
    """Plain checked data: unknown keys are refused, nothing changes after construction."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Artifact(Strict):
    """A file between two stages. `identity` is the digest of its content, so that an edit by hand is noticed."""

    SCHEMA_VERSION: ClassVar[int] = 1
    MADE_BY: ClassVar[str] = ""  # the stage that writes it

    @property
    def identity(self) -> str:
        """16 hex digits that name this content."""
        return digest(self.model_dump(mode="json"))

    def save(self, path: Path) -> bool:
        """Write the file if its content changed, atomically, and return whether it did; the same content leaves the same bytes and date."""
        content = {"schema_version": self.SCHEMA_VERSION, "identity": self.identity, **self.model_dump(mode="json")}
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        is_new = not path.exists() or path.read_text("utf-8") != text
        if is_new:
            atomic.write_text(path, text)
        return is_new

    @classmethod
    def load(cls, path: Path) -> Self:
        """Raises UserError if the file is missing, not ours, of another schema version, or edited by hand."""
        again = f"run `dvc repro --force --single-item {cls.MADE_BY}`"
        try:
            content: Any = json.loads(path.read_text("utf-8"))
            version, identity = content.pop("schema_version"), content.pop("identity")
        except FileNotFoundError:
            raise UserError(f"{path} is missing", saw=f"no file {path.absolute()}", fix=f"run `dvc repro {cls.MADE_BY}`") from None
        except OSError as error:
            raise UserError(
                f"{path} cannot be read", saw=f"{error.strerror}: {path.absolute()}", fix="check that it is a file and that you may read it"
            ) from None
        except (ValueError, AttributeError, KeyError, TypeError) as error:
            raise UserError(f"{path} is not an artifact of this project", saw=f"{type(error).__name__}: {error}", fix=again) from None
        if version != cls.SCHEMA_VERSION:
            raise UserError(f"{path} was written by another version", saw=f"schema_version {version}; this code reads {cls.SCHEMA_VERSION}", fix=again)
        try:
            artifact = cls.model_validate(content)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"]))
            raise UserError(f"{path} does not hold what its version promises", saw=f"{key}: {first['msg']}", fix=again) from None
        if artifact.identity != identity:
            saw = f"content {artifact.identity}, written as {identity}"
            raise UserError(f"{path} was edited by hand", saw=saw, fix=f"wishes belong into params.yaml; then {again}")
        return artifact
