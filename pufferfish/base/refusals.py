"""A system that refuses to write, because the disk is full or forbidden, is the user's to mend; its other errors are not."""

from __future__ import annotations

import errno
from dataclasses import dataclass


@dataclass(frozen=True)
class Refusal:
    """One of them, in words."""

    what: str
    mend: str


FULL, FORBIDDEN = "the disk is full", "writing is not allowed"
REFUSALS = {  # by the system's number
    errno.ENOSPC: Refusal(FULL, "make room on the disk"),
    errno.EDQUOT: Refusal(FULL, "make room within your quota"),
    errno.EACCES: Refusal(FORBIDDEN, "mend the permissions there"),
    errno.EPERM: Refusal(FORBIDDEN, "mend the permissions there"),
    errno.EROFS: Refusal(FORBIDDEN, "work in a folder that can be written"),
}
