"""What the bits of trained weights depend on beside plan and data: the programs, the machine, and the kernels that it gets."""

from __future__ import annotations

import platform

import numpy as np
import torch

from pufferfish import __version__
from pufferfish.base.digest import digest_code
from pufferfish.base.processor import cpu_flags, cpu_name
from pufferfish.schema.plan import TrainPlan


def environment_here(plan: TrainPlan) -> dict[str, str]:
    """Facts of this process by name. Those of the machine have the names and values that `identify` has for them, but are of where it trained."""
    seen = {
        "pufferfish": __version__,
        "code": digest_code("data", "model", "train"),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "processor": cpu_name(),
        "instructions": " ".join(cpu_flags()),
        "threads": str(torch.get_num_threads()),
        "vector units": torch.backends.cpu.get_cpu_capability(),
    }
    if plan.device == "cuda":
        capability = ".".join(map(str, torch.cuda.get_device_capability()))
        seen |= {"CUDA": str(torch.version.cuda), "GPU": f"{torch.cuda.get_device_name()}, compute capability {capability}"}
    return seen
