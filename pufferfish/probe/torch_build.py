"""Which PyTorch is installed, read from its files: importing it takes more than a second."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

from pufferfish.base.errors import UserError
from pufferfish.schema.hardware import Gpu

# Compute capabilities from, to below, and the oldest driver of PyTorch's own builds, from each CUDA version on.
# Source: "PyTorch CUDA Support Matrix" in PyTorch's RELEASE.md (2.11); NVIDIA, "CUDA Compatibility", minor version compatibility.
BUILDS = (((13, 0), 7.5, 99.0, 580), ((12, 8), 7.5, 99.0, 525), ((0, 0), 5.0, 10.0, 525))


@dataclass(frozen=True)
class TorchBuild:
    """`version` with its build tag, as torch.__version__ says; `cuda` is empty for a build without."""

    version: str
    cuda: str


def installed_torch() -> TorchBuild:
    """The build in this environment. Raises UserError where there is none."""
    spec = importlib.util.find_spec("torch")
    places = [Path(place) / "version.py" for place in (spec.submodule_search_locations or [])] if spec else []
    if not places or not places[0].is_file():
        raise UserError("PyTorch is not installed", saw="no package `torch` in this environment", fix="run `make setup`")
    return read_build(places[0].read_text("utf-8"))


def read_build(text: str) -> TorchBuild:
    """The build that torch/version.py describes."""
    version = re.search(r"^__version__ = '([^']+)'", text, re.MULTILINE)
    cuda = re.search(r"^cuda(?:: [^=]+)? = '([^']+)'", text, re.MULTILINE)
    assert version, "torch/version.py has another form than in the versions that we know"
    return TorchBuild(version[1], cuda[1] if cuda else "")


def why_unsupported(build: TorchBuild, gpu: Gpu) -> str:
    """Why this build of PyTorch cannot use this device; empty where it can."""
    if not build.cuda:
        return f"PyTorch {build.version} is a build without CUDA"
    version = tuple(int(part) for part in build.cuda.split(".")[:2])
    lowest, above, driver = next(row[1:] for row in BUILDS if version >= row[0])
    if float(gpu.compute_capability) < lowest:
        return f"{gpu.name} has compute capability {gpu.compute_capability}, PyTorch {build.version} needs {lowest}"
    if float(gpu.compute_capability) >= above:
        return f"{gpu.name} has compute capability {gpu.compute_capability}, newer than PyTorch {build.version} knows"
    if int(gpu.driver.split(".")[0]) < driver:
        return f"NVIDIA's driver {gpu.driver} is older than {driver}, which PyTorch {build.version} needs"
    return ""


def how_to_support(gpu: Gpu) -> str:
    """What to install so that PyTorch can use this device, in words."""
    (_, lowest, _, driver), (_, _, above, _) = BUILDS[0], BUILDS[-1]
    capability = float(gpu.compute_capability)
    is_old_driver = int(gpu.driver.split(".")[0]) < driver
    if is_old_driver and capability >= above:
        return f"NVIDIA's driver {driver} or newer, and then `PUFFERFISH_TORCH=cu130 make setup`"
    return f"`PUFFERFISH_TORCH={'cu126' if capability < lowest or is_old_driver else 'cu130'} make setup`"
