"""Set up everything in `.venv`, once: what `make` runs before anything else.

Runs by itself with any system Python and its standard library, before the package can be imported, so it imports nothing of the
house. The second call finds the stamp of the first and returns at once. PUFFERFISH_TORCH chooses the PyTorch build, also for later calls.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

OLDEST_PYTHON = (3, 11)
BASE_PYTHON = getattr(sys, "_base_executable", None) or sys.executable  # not that of an activated environment, perhaps the one to be replaced
TORCH_VERSION = "2.13.0"  # the pinned one; constraints.txt leaves it out, its build depends on the machine
TORCH_RANGE = ((2, 11), (2, 15))  # as in pyproject.toml: from, to below
TORCH_INDEX = "https://download.pytorch.org/whl/"  # PyTorch's own, one folder for each build
OLDEST_CAPABILITY = 7.5  # the default build, CUDA 13, has no kernels for Maxwell, Pascal and Volta
OLDEST_DRIVER = 580  # of CUDA 13; CUDA 12.6 serves older ones
NEW_CAPABILITY = 10.0  # Blackwell, for which CUDA 12.6 has no kernels: an older driver has to be updated
FREE_BYTES = {"small": 4 * 10**9, "large": 12 * 10**9}  # 2.1 GB installed without CUDA libraries, and what is unpacked on the way
TRY_IMPORTS = """
import torch, transformers, tokenizers, datasets, mlflow, dvc.repo, pydantic, rich
print(f"torch {torch.__version__}, transformers {transformers.__version__}, dvc {dvc.__version__}, mlflow {mlflow.__version__}")
"""


class SetupError(Exception):
    """What keeps the set-up from succeeding: what is wrong, what was seen, how to mend it."""

    def __init__(self, what: str, saw: str, fix: str) -> None:
        super().__init__(f"set-up: {what}\n  saw:  {saw}\n  fix:  {fix}")


@dataclass(frozen=True)
class Machine:
    """What decides which PyTorch build fits."""

    system: str  # Linux, Darwin
    architecture: str  # x86_64, aarch64, arm64
    python: tuple[int, int]
    capability: float | None = None  # of the best NVIDIA device; None: there is none
    driver: int = 0  # major version of NVIDIA's driver


@dataclass(frozen=True)
class Torch:
    """Which build to install: arguments for `pip install`, none to leave it to the system's Python."""

    arguments: tuple[str, ...]
    reason: str
    size: str = "small"  # or large, with CUDA libraries


def which_torch(wish: str, *, wheels: list[str], machine: Machine, index_answers: Callable[[str], bool]) -> Torch:
    """The build for this machine: the user's `wish`, else a local wheel, else by device and driver.

    `wheels` are file names from the folders that pip is configured to look into; `index_answers` says whether a page can be reached.
    Raises SetupError for a wish that is none, and for a machine that PyTorch no longer builds for.
    """
    low, high = (".".join(map(str, end)) for end in TORCH_RANGE)
    any_version = f"torch>={low},<{high}"
    local = newest_wheel(wheels, machine)
    if wish == "skip":
        return Torch((), "the system's own, as PUFFERFISH_TORCH=skip wishes")
    if re.fullmatch(r"cpu|cu\d{3}", wish):
        version = f"torch=={TORCH_VERSION}" if wish == "cpu" else any_version
        arguments = (f"torch=={local}",) if local and local.endswith("+" + wish) else ("--index-url", TORCH_INDEX + wish, version)
        return Torch(arguments, f"{wish}, as PUFFERFISH_TORCH wishes", "small" if wish == "cpu" else "large")
    if re.fullmatch(r"((==|>=|<=|~=|<|>)?\d+(\.\d+)*(\+\w+)?,?)+", wish):
        version = wish if wish[0] in "=<>~" else f"=={wish}"
        return Torch((f"torch{version}",), f"{version}, as PUFFERFISH_TORCH wishes", "large")
    if wish:
        raise SetupError("PUFFERFISH_TORCH names no build", f"PUFFERFISH_TORCH={wish}", f"use cpu, cu126, cu130, skip, or a version such as {TORCH_VERSION}")
    if local:
        note = "; it has no CUDA, PUFFERFISH_TORCH=cu130 would" if machine.capability and local.endswith("+cpu") else ""
        return Torch((f"torch=={local}",), f"{local}, a local wheel that pip is configured to find{note}", "small" if local.endswith("+cpu") else "large")
    if machine.system == "Darwin" and machine.architecture == "x86_64":
        raise SetupError("PyTorch no longer builds for Macs with Intel processors", "macOS on x86_64", "use another machine, or Linux in a virtual machine")
    if machine.system != "Linux":
        return Torch((f"torch=={TORCH_VERSION}",), f"{TORCH_VERSION} for {machine.system}")
    if machine.capability is None:
        if index_answers(TORCH_INDEX + "cpu/torch/"):
            return Torch(("--index-url", TORCH_INDEX + "cpu", f"torch=={TORCH_VERSION}"), f"{TORCH_VERSION} for CPU: no NVIDIA device here")
        reason = f"{TORCH_VERSION} with CUDA, 3 GB to download: PyTorch's smaller CPU build cannot be reached"
        return Torch((f"torch=={TORCH_VERSION}",), reason, "large")
    if machine.capability < OLDEST_CAPABILITY or (machine.driver < OLDEST_DRIVER and machine.capability < NEW_CAPABILITY):
        old = f"compute capability {machine.capability}, driver {machine.driver}"
        return Torch(("--index-url", TORCH_INDEX + "cu126", any_version), f"CUDA 12.6: {old}", "large")
    note = f"; it needs a driver from {OLDEST_DRIVER} on, this one is {machine.driver}" if machine.driver < OLDEST_DRIVER else ""
    return Torch((f"torch=={TORCH_VERSION}",), f"{TORCH_VERSION} with CUDA: NVIDIA device of compute capability {machine.capability}{note}", "large")


def newest_wheel(wheels: list[str], machine: Machine) -> str | None:
    """The version (`2.13.0+cpu`) of the newest torch wheel among file names that this Python, system and range admit."""
    tag = f"cp{machine.python[0]}{machine.python[1]}"
    platform_name = {"Linux": "linux", "Darwin": "macosx"}.get(machine.system, "win")
    found = []
    for wheel in wheels:
        match = re.fullmatch(rf"torch-((\d+)\.(\d+)\.(\d+)(?:\+\w+)?)-{tag}-{tag}-(\S+)\.whl", wheel)
        if match and platform_name in match[5] and match[5].endswith((machine.architecture, "universal2")):
            number = (int(match[2]), int(match[3]), int(match[4]))
            if TORCH_RANGE[0] <= number[:2] < TORCH_RANGE[1]:
                found.append((number, match[1]))
    return max(found)[1] if found else None


def find_links(pip_config: str) -> list[str]:
    """The folders that `pip config list` names as places of wheels."""
    values = re.findall(r"find-links='(.*)'$", pip_config, re.MULTILINE)
    words = [word for value in values for word in value.replace("\\n", " ").split()]
    return list(dict.fromkeys(word.removeprefix("file://") for word in words if "://" not in word.removeprefix("file://")))


def look_at_machine() -> Machine:
    """Asks the interpreter, and NVIDIA's own tool where there is one."""
    capability, driver = None, 0
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=compute_cap,driver_version", "--format=csv,noheader"]
        asked = subprocess.run(query, capture_output=True, text=True, check=False)
        rows = re.findall(r"^(\d+\.\d+), (\d+)", asked.stdout, re.MULTILINE) if asked.returncode == 0 else []
        if rows:
            capability, driver = max(float(row[0]) for row in rows), int(rows[0][1])  # the best is the one that is used
    return Machine(platform.system(), platform.machine(), sys.version_info[:2], capability, driver)


def page_answers(url: str) -> bool:
    """Whether a page can be reached within a few seconds."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=5) as answer:
            return bool(answer.status < 400)
    except OSError:
        return False


def stamp_of(root: Path, wish: str) -> dict[str, str]:
    """What the environment was made from, and where (environments cannot be moved); the wish in clear, for calls that name none."""
    contents = b"".join((root / name).read_bytes() for name in ("pyproject.toml", "constraints.txt", "pufferfish/cli/bootstrap.py"))
    return {"place": str(root), "wish": wish, "made_from": hashlib.sha256(contents).hexdigest()}


def read_stamp(folder: Path) -> dict[str, str]:
    """What an earlier call left in the environment; empty where the file is missing, empty or torn."""
    try:
        kept = json.loads((folder / ".stamp").read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}


def needs_new_environment(folder: Path, stamp: dict[str, str]) -> bool:
    """Whether `.venv` must be made, or made anew because it is broken or was moved; else it is brought up to date in place."""
    return not (folder / "bin" / "python").exists() or read_stamp(folder).get("place", stamp["place"]) != stamp["place"]


def make_environment(folder: Path, *, with_system_packages: bool) -> None:
    """Raises SetupError where Python comes without the means."""
    print(f"set-up: {folder.name} with Python {platform.python_version()}", flush=True)
    uv = shutil.which("uv")
    command = [uv, "venv", "--quiet", "--clear", "--python", BASE_PYTHON] if uv else [BASE_PYTHON, "-m", "venv", "--clear"]
    command += ["--system-site-packages"] if with_system_packages else []
    made = subprocess.run([*command, str(folder)], capture_output=True, text=True, check=False)
    if made.returncode:
        saw = ((made.stdout + made.stderr).strip().splitlines() or ["no message"])[0]
        packages = "install the system's package for it (Debian, Ubuntu: `apt install python3-venv`), or uv"
        raise SetupError("this Python cannot make a virtual environment", saw, packages)


def install(root: Path, folder: Path, torch: Torch, links: list[str]) -> None:
    """PyTorch first, in the build that was chosen; then everything else, pinned, which leaves it alone."""
    python, uv = str(folder / "bin" / "python"), shutil.which("uv")
    if uv:
        start = [uv, "pip", "install", "--python", python, "--compile-bytecode", *(part for link in links for part in ("--find-links", link))]
    else:
        start = [python, "-m", "pip", "install", "--progress-bar", "off", "--disable-pip-version-check", "--no-input"]
    pinned = ["--constraint", str(root / "constraints.txt")]
    log = folder / "setup.log"
    log.write_text("")
    if torch.arguments:
        # PyTorch's own indexes hold few versions of everything else: the pins follow in the second step.
        run_logged([*start, *torch.arguments, *([] if "--index-url" in torch.arguments else pinned)], log, "PyTorch")
    run_logged([*start, *pinned, "--editable", f"{root}[dev]"], log, "everything else")


def run_logged(command: list[str], log: Path, label: str) -> None:
    """Run an installer: one line of progress on the screen, all it says in the log. Raises SetupError with what it last said."""
    start_s = said_s = time.monotonic()
    is_terminal, num_seen = sys.stdout.isatty(), 0
    with open(log, "a") as file:
        file.write(f"\n$ {' '.join(command)}\n")
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        assert process.stdout
        for line in process.stdout:
            file.write(line)
            num_seen += line.startswith("Collecting")
            is_unpacking = line.startswith("Installing collected")
            message = f"  {label}: {time.monotonic() - start_s:.0f} s, {num_seen} packages{', unpacking' if is_unpacking else ''}"
            if is_terminal:
                print(f"\r\x1b[K{message}", end="", flush=True)
            elif is_unpacking or time.monotonic() - said_s > 20:
                said_s = time.monotonic()
                print(message, flush=True)
    print("\r\x1b[K" if is_terminal else "", end="")
    if process.wait():
        raise explained(log.read_text().splitlines(), log)
    print(f"  {label}: done in {time.monotonic() - start_s:.0f} s", flush=True)


def explained(said: list[str], log: Path) -> SetupError:
    """The usual reasons of a failed installation, in the user's words."""
    text = "\n".join(said)
    errors = [line.strip() for line in said if re.match(r"\s*(error|×|ERROR)", line, re.IGNORECASE)] or said[-1:]
    if re.search(r"No space left", text):
        return SetupError("the disk is full", errors[-1], "free some space and run the same command again; it goes on")
    if re.search(r"NewConnectionError|NameResolution|Network is unreachable|Could not connect|ConnectTimeout|dns error|Failed to fetch", text):
        return SetupError("the packages cannot be reached", errors[-1], f"connect to a network and run the same command again; details in {log}")
    return SetupError("installing failed", errors[-1], f"see {log}; PUFFERFISH_TORCH chooses another PyTorch build")


def try_imports(folder: Path, root: Path) -> None:
    """Import what the pipeline uses, once: shows that it works, and no timed run pays for cold files. Raises SetupError."""
    start_s = time.monotonic()
    tried = subprocess.run([str(folder / "bin" / "python"), "-W", "ignore", "-c", TRY_IMPORTS], cwd=root, capture_output=True, text=True, check=False)
    if tried.returncode:
        said = (tried.stderr.strip().splitlines() or ["no message"])[-1]
        raise SetupError("what was installed does not work", said, f"see {folder / 'setup.log'}; remove {folder} and run again")
    print(f"  {tried.stdout.strip()} (imported in {time.monotonic() - start_s:.0f} s)", flush=True)


def prepare_dvc(root: Path, folder: Path) -> None:
    """A DVC project here; without git (an unpacked archive) it is told so, and experiments are not available."""
    dvc = [str(folder / "bin" / "python"), "-m", "dvc"]
    git = next((place for place in (root, *root.parents) if (place / ".git").exists()), None) if shutil.which("git") else None
    config = root / ".dvc" / "config"
    if not config.parent.is_dir():
        subprocess.run([*dvc, "init", "--quiet", *([] if git == root else ["--subdir"] if git else ["--no-scm"])], cwd=root, check=True)
    if not config.exists() or "analytics" not in config.read_text():
        config.write_text("[core]\n    analytics = false\n    autostage = true\n")
    local = root / ".dvc" / "config.local"
    is_alone = local.exists() and "no_scm" in local.read_text()
    if not git and not is_alone:
        print("set-up: no git here: `dvc repro` works, `dvc exp` does not (`git init`, a first commit and `make setup` bring both)", flush=True)
        local.write_text("[core]\n    no_scm = true\n    autostage = false\n")
    elif git and is_alone:
        local.unlink()


def set_up(root: Path) -> None:
    """Bring `.venv`, DVC and the tracking store into place, doing only what is missing."""
    folder = root / ".venv"
    kept, written = read_stamp(folder), folder / ".stamp"
    wish = os.environ.get("PUFFERFISH_TORCH", kept.get("wish", "")).strip()  # set but empty is an answer too: choose for this machine
    stamp = stamp_of(root, wish)
    if kept != stamp or not (folder / "bin" / "python").exists():
        pip_config = subprocess.run([BASE_PYTHON, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False).stdout
        links = find_links(pip_config or f"find-links='{os.environ.get('PIP_FIND_LINKS', '')}'")
        wheels = [path.name for link in links for path in Path(link).glob("torch-*.whl")]
        torch = which_torch(wish, wheels=wheels, machine=look_at_machine(), index_answers=page_answers)
        free = shutil.disk_usage(root).free
        if not folder.exists() and free < FREE_BYTES[torch.size]:
            raise SetupError("the disk is too full to install", f"{free / 1e9:.1f} GB free", f"free {FREE_BYTES[torch.size] / 1e9:.0f} GB in {root}")
        if needs_new_environment(folder, stamp):
            make_environment(folder, with_system_packages=wish == "skip")
        written.write_text(json.dumps({"place": stamp["place"], "wish": wish}))
        is_earlier = wish and "PUFFERFISH_TORCH" not in os.environ
        note = " (an earlier wish; `PUFFERFISH_TORCH= make setup` forgets it)" if is_earlier else ""
        print(f"set-up: PyTorch {torch.reason}{note}", flush=True)
        install(root, folder, torch, links)
        try_imports(folder, root)
        written.write_text(json.dumps(stamp))
    prepare_dvc(root, folder)
    if not os.environ.get("MLFLOW_TRACKING_URI") and not (root / "mlruns" / "mlflow.db").exists():
        # Creating the tracking store takes seconds that would otherwise come out of the first budget.
        subprocess.run([str(folder / "bin" / "python"), "-m", "pufferfish.track.store"], cwd=root, check=True)


def newer_python() -> str | None:
    """A Python on the PATH that is new enough, for systems whose `python3` is not."""
    for minor in (13, 12, 14, 11):
        found = shutil.which(f"python3.{minor}")
        if found and subprocess.run([found, "-c", ""], capture_output=True, check=False).returncode == 0:
            return found
    return None


def main() -> None:
    """Exit status 0 when everything is in place, 2 with three lines when the user has to do something, 130 when interrupted."""
    try:
        if sys.version_info < OLDEST_PYTHON:
            found = newer_python()
            if not found:
                raise SetupError(
                    "this Python is too old", f"{platform.python_version()} at {sys.executable}", "install Python 3.11 or newer, or `make PYTHON=...`"
                )
            os.execv(found, [found, "-I", __file__])
        set_up(Path(__file__).resolve().parents[2])
    except SetupError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\nset-up: interrupted; the same command goes on", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
