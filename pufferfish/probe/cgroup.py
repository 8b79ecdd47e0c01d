"""What control groups allow this process: containers, batch systems and services limit memory and processor time through them.

Version 2 has one tree (`0::/path`), version 1 one for each controller (`4:memory:/path`); mixtures exist. A limit of a parent binds its
children, so the smallest on the way to the root counts. In a container the path may belong to the host: then only the root is there.
Source: `Documentation/admin-guide/cgroup-v2.rst` and `cgroup-v1/` of the Linux kernel.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

ROOT = Path("/")


def memory_limit_bytes(root: Path = ROOT) -> int | None:
    """The smallest limit on memory, None where there is none. Version 1 writes a huge number for none, which is returned as it stands."""
    limits = [int(text) for text in _read(root, "memory", "memory.max") + _read(root, "memory", "memory.limit_in_bytes") if text.isdigit()]
    return min(limits, default=None)


def memory_used_bytes(root: Path = ROOT) -> int | None:
    """What the tightest group uses now, without the file cache that it can drop; None where nothing says so."""
    groups = []
    for folder in _folders(root, "memory"):
        for limit_name, used_name in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            limit, used = _text(folder / limit_name), _text(folder / used_name)
            if limit.isdigit() and used.isdigit():
                statistics = dict(line.split(None, 1) for line in _text(folder / "memory.stat").splitlines() if " " in line)
                cache = int(statistics.get("total_inactive_file") or statistics.get("inactive_file") or 0)
                groups.append((int(limit), max(0, int(used) - cache)))
    return min(groups)[1] if groups else None


def cpu_quota(root: Path = ROOT) -> float | None:
    """Processors' worth of time that this process may use, None where there is no limit."""
    quotas = []
    for text in _read(root, "cpu", "cpu.max"):
        quota, _, period = text.partition(" ")
        if quota.isdigit() and period.isdigit():
            quotas.append(int(quota) / int(period))
    for folder in _folders(root, "cpu"):
        quota, period = _text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit() and int(quota) > 0:
            quotas.append(int(quota) / int(period))
    return min(quotas, default=None)


def _folders(root: Path, controller: str) -> Iterator[Path]:
    """The groups of this process that can limit `controller`, from its own to the root of each tree."""
    mount = root / "sys/fs/cgroup"
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            trees = [mount, mount / "unified"]
        elif controller in controllers.split(","):
            trees = [mount / name for name in dict.fromkeys((controllers, controller))]
        else:
            continue
        inside = PurePosixPath(path.lstrip("/"))
        for tree in trees:
            for place in (inside, *inside.parents):
                if ".." not in place.parts and (tree / place).is_dir():
                    yield tree / place


def _read(root: Path, controller: str, name: str) -> list[str]:
    return [text for folder in _folders(root, controller) if (text := _text(folder / name))]


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8").strip()
    except OSError:
        return ""
