"""`pufferfish size`: what any model would need on this machine or another. Arithmetic alone: no torch, no text, nothing is trained."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from pufferfish.base import paths
from pufferfish.base.errors import UserError
from pufferfish.cli.plan import MACHINES, other_machine
from pufferfish.model.price import decoder_price
from pufferfish.plan import space
from pufferfish.plan.configure import largest_divisor
from pufferfish.plan.sizing import TOKENS_PER_PARAMETER, size_up
from pufferfish.probe.fingerprint import identify_here
from pufferfish.probe.probe import kept_speeds
from pufferfish.probe.sheets import SHEETS
from pufferfish.schema.complaints import in_words
from pufferfish.schema.hardware import Hardware
from pufferfish.schema.params import HardwareProbeParams, ModelParams, Params, TrainParams
from pufferfish.schema.plan import ModelPlan
from pufferfish.ui.sizing import sizing_text

OPTIONS = {  # field of the settings -> option
    "num_layers": "--layers",
    "d_model": "--width",
    "seq_len": "--context",
    "num_heads": "--heads",
    "num_kv_heads": "--kv-heads",
    "head_dim": "--head-dim",
    "d_ff": "--ff",
}
MEANINGS = {
    "num_layers": "decoder layers",
    "d_model": "width of the residual stream",
    "seq_len": "context in tokens",
    "num_heads": "query heads (default: as the plan chooses)",
    "num_kv_heads": "key/value heads (default: as the plan chooses)",
    "head_dim": "width of a head (default: width over heads, as the plan chooses without --heads)",
    "d_ff": "width of the feed-forward layer (default: 8/3 of the width)",
}
TRAINING = {  # field of the settings -> option, placeholder, type, meaning
    "optimizer": ("--optimizer", "NAME", str, "default: as the plan chooses"),
    "dtype": ("--dtype", "NAME", str, "of the matrix products (default: the machine's fastest)"),
    "tokens_per_step": ("--batch", "N", int, "tokens in one optimizer step (default: what suits so many tokens)"),
    "micro_batch": ("--micro-batch", "N", int, "sequences in one forward pass (default: as many as fit)"),
}
REQUIRED = ("num_layers", "d_model", "seq_len")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The shape, the training, the machine."""
    for name, option in OPTIONS.items():
        parser.add_argument(option, dest=name, type=int, metavar="N", required=name in REQUIRED, help=MEANINGS[name])
    parser.add_argument("--vocab", type=int, metavar="N", required=True, help="size of the vocabulary")
    parser.add_argument("--tied", action="store_true", help="input and output share their embedding")
    parser.add_argument("--tokens", type=float, metavar="N", help=f"to train on, for example 7e9 (default: {TOKENS_PER_PARAMETER} for each parameter)")
    for name, (option, metavar, kind, meaning) in TRAINING.items():
        parser.add_argument(option, dest=name, type=kind, metavar=metavar, help=meaning)
    parser.add_argument("--machine", metavar="MACHINE", help=f"{MACHINES} (default: this one, as it was measured)")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Raises UserError for an impossible shape or training, and where the machine is not measured yet."""
    model = model_of(arguments)
    if arguments.tokens is not None and not 1 <= arguments.tokens < 1e18:
        raise UserError("the number of tokens is not right", saw=f"--tokens {arguments.tokens:g}", fix="give a number from 1 on, for example 7e9")
    hardware = this_machine() if arguments.machine is None else other_machine(arguments.machine)
    wish = training_of(arguments, model, hardware)
    tokens = None if arguments.tokens is None else int(arguments.tokens)
    sizing = size_up(model, hardware, lambda model, attention: decoder_price(model, attention=attention), wish, tokens=tokens)
    if arguments.json:
        plans = {name: getattr(sizing, name).model_dump() for name in ("model", "train")}
        print(json.dumps({**{name: value for name, value in vars(sizing).items() if name not in plans}, **plans}, indent=2))
    else:
        print(sizing_text(sizing, hardware))
    return 0


def model_of(arguments: argparse.Namespace) -> ModelPlan:
    """The shape with what was left open chosen as the plan does. Raises UserError where there is no such shape, naming the nearest."""
    wishes = _given(arguments, OPTIONS)
    written = ", ".join(f"{OPTIONS[name]} {value}" for name, value in wishes.items())
    if not 1 <= arguments.vocab <= 10**9:
        raise UserError("the vocabulary is not right", saw=f"--vocab {arguments.vocab}", fix="give the number of its tokens")
    try:
        wish = ModelParams(**wishes, is_tied=arguments.tied)
    except ValidationError as error:
        raise _refusal("model", error, OPTIONS, written) from None
    return next(space.models(wish, [arguments.vocab], max_seq_len=wish.seq_len))


def training_of(arguments: argparse.Namespace, model: ModelPlan, hardware: Hardware) -> TrainParams:
    """How it is trained, without compilation. Raises UserError where the model or the machine cannot be trained so."""
    options = {name: option for name, (option, *_) in TRAINING.items()}
    wishes = _given(arguments, TRAINING)
    written = ", ".join(f"{options[name]} {value}" for name, value in wishes.items())
    try:
        wish = TrainParams(compile=False, **wishes)
    except ValidationError as error:
        raise _refusal("training", error, options, written) from None
    dtypes = [speed.dtype for speed in hardware.measured.dtypes]
    if wish.dtype not in ("auto", *dtypes):
        saw = f"--dtype {wish.dtype}; there are {', '.join(dtypes)}"
        raise UserError("this type does not run on the machine", saw=saw, fix="leave --dtype out, or name another machine")
    sequences, left = (None, 0) if wish.tokens_per_step == "auto" else divmod(wish.tokens_per_step, model.seq_len)
    if left or sequences == 0:
        saw = f"--batch {wish.tokens_per_step}; a sequence has {model.seq_len} tokens"
        raise UserError("tokens per step are not whole sequences", saw=saw, fix=f"give --batch {model.seq_len * max(1, sequences or 0)}")
    if sequences and wish.micro_batch != "auto" and sequences % wish.micro_batch:
        saw = f"--micro-batch {wish.micro_batch}; a step has {sequences} sequences"
        raise UserError("micro-batches do not make up a step", saw=saw, fix=f"give --micro-batch {largest_divisor(sequences, at_most=wish.micro_batch)}")
    return wish


def _given(arguments: argparse.Namespace, names: Iterable[str]) -> dict[str, Any]:
    return {name: value for name in names if (value := getattr(arguments, name)) is not None}


def _refusal(what: str, error: ValidationError, options: Mapping[str, str], written: str) -> UserError:
    first = error.errors()[0]
    mistake, fix = in_words(first)
    saw = f"{options[first['loc'][0]]} {first['input']}" if first["loc"] else written
    return UserError(f"there is no such {what}: {mistake}", saw=saw, fix=fix)


def this_machine() -> Hardware:
    """As the last probe measured it. Raises UserError if none did."""
    if paths.HARDWARE.exists():
        return Hardware.load(paths.HARDWARE)
    wish = Params.load(paths.PARAMS).hardware_probe if paths.PARAMS.exists() else HardwareProbeParams()
    identity = identify_here(wish)
    measured = kept_speeds(identity.fingerprint)
    if measured is None:
        fix = f"run `dvc repro {Hardware.MADE_BY}`, or name another one with --machine, for example {next(iter(SHEETS))}"
        raise UserError("this machine is not measured yet", saw=f"no file {paths.HARDWARE.absolute()}", fix=fix)
    return Hardware(fingerprint=identity.fingerprint, measured=measured, usable_memory_bytes=identity.usable_memory_bytes)
