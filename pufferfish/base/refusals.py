"""A system that refuses to write, because the disk is full or forbidden, or has no memory left, is the user's to mend; its other errors are not."""

from __future__ import annotations

import errno
from dataclasses import dataclass

from pufferfish.base.errors import UserError
from pufferfish.base.memory import says_out_of_memory

LONGEST_WORDS = 200  # of an error that is told


@dataclass(frozen=True)
class Refusal:
    """One of them, in words."""

    what: str
    mend: str


FULL, FORBIDDEN = "the disk is full", "writing is not allowed"
NO_MEMORY = Refusal("memory ran out", "end what else uses it, or set hardware_probe.memory in params.yaml to what is really free")
REFUSALS = {  # by the system's number
    errno.ENOSPC: Refusal(FULL, "make room on the disk"),
    errno.EDQUOT: Refusal(FULL, "make room within your quota"),
    errno.EACCES: Refusal(FORBIDDEN, "mend the permissions there"),
    errno.EPERM: Refusal(FORBIDDEN, "mend the permissions there"),
    errno.EROFS: Refusal(FORBIDDEN, "work in a folder that can be written"),
    errno.ENOMEM: NO_MEMORY,
}


def as_user_error(error: Exception, *, then: str) -> UserError | None:
    """The error in three lines, where it is the user's to mend; `then` says what to do after that. None for all others."""
    if isinstance(error, OSError):
        refusal, words = REFUSALS.get(error.errno or 0), f"{error.strerror}: {error.filename or 'a file of this project'}"
    else:
        refusal, words = NO_MEMORY if isinstance(error, MemoryError) or says_out_of_memory(error) else None, str(error).strip().partition("\n")[0]
    return UserError(refusal.what, saw=words[:LONGEST_WORDS] or type(error).__name__, fix=f"{refusal.mend}, {then}") if refusal else None
