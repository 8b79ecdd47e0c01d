"""What a training records about where it ran, so that a replay elsewhere can tell what differs."""

import torch
from toys import train_plan

from pufferfish.base.processor import cpu_name
from pufferfish.probe.fingerprint import identify_here
from pufferfish.schema.params import HardwareProbeParams
from pufferfish.train.environment import environment_here


def test_the_machine_is_recorded_as_the_plan_knows_it():
    environment, machine = environment_here(train_plan()), identify_here(HardwareProbeParams()).fingerprint
    assert environment["processor"] == machine.cpu
    assert environment["instructions"] == " ".join(machine.cpu_flags)
    assert environment["system"] == machine.system
    assert "GPU" not in environment


def test_on_an_nvidia_device_its_name_is_recorded_beside_the_processor(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Example H200")
    environment = environment_here(train_plan(device="cuda"))
    assert environment["GPU"] == "Example H200, compute capability 9.0"
    assert environment["processor"] == cpu_name()
