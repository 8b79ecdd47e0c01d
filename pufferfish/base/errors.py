"""The user's mistakes, told in three lines: what is wrong, what was seen and where, how to mend it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake that the user can mend; printed without a traceback.

    `what` names the problem, `saw` what was found and where, `fix` what to do about it.
    """

    def __init__(self, what: str, *, saw: str, fix: str) -> None:
        super().__init__(what)
        self.what, self.saw, self.fix = what, saw, fix

    def __str__(self) -> str:
        return f"{self.what}\n  saw:  {self.saw}\n  fix:  {self.fix}"


class UserErrors(UserError):
    """Several mistakes at once, so that nobody mends them one run at a time."""

    def __init__(self, errors: list[UserError]) -> None:
        assert errors
        self.errors = errors
        first = errors[0]
        super().__init__(first.what, saw=first.saw, fix=first.fix)

    def __str__(self) -> str:
        return "\n".join(str(error) for error in self.errors)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that was probably meant, or None."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return matches[0] if matches else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A fix line for an unknown name: the nearest known one, or all of them."""
    known = sorted(known)
    match = nearest(name, known)
    return f"did you mean `{match}`?" if match else f"use one of: {', '.join(known)}"
