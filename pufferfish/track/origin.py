"""Where a row comes from: the git commit, the DVC experiment, the program."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from pufferfish.track.clean import clean_value

GIT_TIMEOUT_S = 10.0
ENVIRONMENT = {"DVC_EXP_NAME": "dvc.exp_name", "DVC_EXP_BASELINE_REV": "dvc.exp_baseline_rev", "DVC_STAGE": "dvc.stage"}


def environment_tags() -> dict[str, str]:
    """What DVC says about the experiment, and the program that runs."""
    tags = {tag: clean_value(os.environ[name]) for name, tag in ENVIRONMENT.items() if os.environ.get(name)}
    return tags | {"mlflow.source.type": "LOCAL", "mlflow.source.name": clean_value(Path(sys.argv[0]).name)}


def git_tags(folder: Path) -> dict[str, str]:
    """Commit, whether tracked files differ from it, and the remote without credentials; empty outside of git. Takes tens of milliseconds."""
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit:
        return {}
    is_dirty = bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))
    remote = _git(folder, "config", "--get", "remote.origin.url")
    tags = {"git.commit": commit, "git.is_dirty": str(is_dirty).lower(), "mlflow.source.git.commit": commit}
    return tags | ({"git.remote": clean_value(remote)} if remote else {})


def _git(folder: Path, *arguments: str) -> str:
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0"}
    try:
        result = subprocess.run(["git", *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=GIT_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout.strip()
