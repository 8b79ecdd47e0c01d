"""Repeat a finished training step by step and without a clock, and compare the weights with the recorded ones."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from pufferfish.base.digest import digest_file
from pufferfish.base.errors import UserError
from pufferfish.base.events import Event, Finished
from pufferfish.base.units import format_duration
from pufferfish.data.shards import VALIDATION_TEXT, open_tokens
from pufferfish.evaluate.validation import as_trained, evaluate_validation
from pufferfish.experiments.recording import Recording
from pufferfish.model.load import WEIGHTS, load_model
from pufferfish.model.transformer import Decoder
from pufferfish.probe.fingerprint import identify_here
from pufferfish.schema.hardware import Fingerprint
from pufferfish.schema.params import HardwareProbeParams
from pufferfish.schema.plan import Plan
from pufferfish.train.checkpoint import save_tensors
from pufferfish.train.start import start_replay
from pufferfish.ui.lines import columns

# The largest difference between seeds of one setting and the mean there: 0.012 of 1.524 bits per byte (docs/LOG.md, 2026-11-21, learning rates).
SEED_NOISE_SHARE = 0.012 / 1.524

PROCESSOR = "processor"
OF_THE_MACHINE = ("system", PROCESSOR, "instructions")  # which trainings of older versions did not record


@dataclass(frozen=True)
class Difference:
    """Something that the bits of weights may depend on, and that is not as it was."""

    name: str
    recorded: str
    here: str


@dataclass(frozen=True)
class Explanation:
    """Why the weights may be others, and what that is worth."""

    differences: list[Difference]
    is_machine_known: bool  # whether the processor that trained could be compared
    recorded_bpb: float  # of the whole validation text
    replayed_bpb: float


@dataclass(frozen=True)
class Comparison:
    """What a replay found."""

    recorded_sha256: str
    replayed_sha256: str
    num_steps: int
    elapsed_s: float
    explanation: Explanation | None  # None: the weights are the same, bit for bit


def replay(recording: Recording, listen: Callable[[Event], None]) -> Comparison:
    """Train again. Raises UserError if the device of the training is not here, if the recorded weights were changed, or if memory no longer suffices."""
    if recording.plan.train.device == "cuda" and not torch.cuda.is_available():
        raise UserError("the device of this training is not here", saw="no CUDA device", fix="repeat it on a machine with an NVIDIA device")
    recorded_model, _ = load_model(recording.model_folder)
    with tempfile.TemporaryDirectory(prefix="pufferfish-replay-") as name:
        work = Path(name)
        training = start_replay(recording.plan, recording.subset_folder, recording.subset, work, outcome=recording.outcome, recorded=recording.realised)
        for event in training.run():
            if not isinstance(event, Finished):  # what follows tells more
                listen(event)
        elapsed_s = training.elapsed_s
        save_tensors(work / WEIGHTS, training.final_weights())
        recorded, replayed = recording.outcome.weights_sha256, digest_file(work / WEIGHTS)
        explanation = None if replayed == recorded else _explain(recording, training.environment, [recorded_model, _loaded(work / WEIGHTS, recording.plan)])
    return Comparison(recorded, replayed, training.step, elapsed_s, explanation)


def _explain(recording: Recording, environment: dict[str, str], models: list[Decoder]) -> Explanation:
    recorded, here = recording.realised.environment, environment
    is_machine_known = PROCESSOR in recorded or recording.machine is not None
    if recording.machine:  # what the training itself recorded is true of where it ran, the rest was measured for its plan
        recorded, here = _facts(recording.machine) | recorded, _facts(identify_here(HardwareProbeParams()).fingerprint) | here
    elif not is_machine_known:
        here = {name: fact for name, fact in here.items() if name not in OF_THE_MACHINE}
    return Explanation(compare(recorded, here), is_machine_known, *(_bits_per_byte(model, recording) for model in models))


def _loaded(weights: Path, plan: Plan) -> Decoder:
    model = Decoder(plan.model)
    model.load_state_dict(load_file(weights))
    return model


def compare(recorded: dict[str, str], here: dict[str, str]) -> list[Difference]:
    """What is not the same, by name."""
    pairs = {name: (recorded.get(name, "not recorded"), here.get(name, "none")) for name in recorded | here}
    return [Difference(name, *pair) for name, pair in pairs.items() if pair[0] != pair[1]]


def _facts(machine: Fingerprint) -> dict[str, str]:
    drivers = ", ".join(gpu.driver for gpu in machine.gpus)
    return {"system": machine.system, PROCESSOR: machine.cpu, "instructions": " ".join(machine.cpu_flags), "NVIDIA driver": drivers or "none"}


def _bits_per_byte(model: Decoder, recording: Recording) -> float:
    """As the stage evaluate does it, on the device of the training."""
    train, subset = recording.plan.train, recording.subset
    tokens = open_tokens(recording.subset_folder, subset.validation, subset.token_dtype)
    num_bytes = (recording.subset_folder / VALIDATION_TEXT).stat().st_size
    return evaluate_validation(as_trained(model.to(train.device).eval(), train), tokens, num_bytes=num_bytes).bpb


def told(comparison: Comparison) -> str:
    """The result for people."""
    steps = f"{comparison.num_steps:,} steps in {format_duration(comparison.elapsed_s)}"
    if comparison.explanation is None:
        return f"replay: the same weights, bit for bit ({steps}, SHA-256 {comparison.recorded_sha256[:16]})"
    lines = [f"replay: other weights ({steps}, SHA-256 {comparison.replayed_sha256[:16]}, recorded {comparison.recorded_sha256[:16]})"]
    return "\n".join([*lines, *_told_environment(comparison.explanation), *_told_scores(comparison.explanation)])


def _told_environment(explanation: Explanation) -> list[str]:
    lines = columns([(each.name, each.here, f"recorded {each.recorded}") for each in explanation.differences], align="<<<") if explanation.differences else []
    if not lines:
        lines = ["  nothing that was recorded about the environment differs; kernels of NVIDIA devices add in a changing order, those of processors do not"]
    if not explanation.is_machine_known:
        lines.append("  the processor was not compared: this training did not record its own, and hardware.json is not that of its plan")
    return lines


def _told_scores(explanation: Explanation) -> list[str]:
    change = explanation.replayed_bpb - explanation.recorded_bpb
    share = change / explanation.recorded_bpb
    verdict = "less" if abs(share) <= SEED_NOISE_SHARE else "more"
    return [
        f"  validation {explanation.replayed_bpb:.4f} bits per byte, recorded {explanation.recorded_bpb:.4f}: {change:+.4f}, {share:+.2%}",
        f"  that is {verdict} than another seed may change: up to {SEED_NOISE_SHARE:.1%} were seen between seeds of one setting (docs/LOG.md, 2026-11-21)",
    ]
