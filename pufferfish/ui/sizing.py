"""What a configuration would cost, in words and tables."""

from __future__ import annotations

from pufferfish.base.units import format_bytes, format_count, format_duration
from pufferfish.plan.sizing import Sizing
from pufferfish.schema.hardware import Hardware
from pufferfish.ui.lines import labelled, machine_lines
from pufferfish.ui.preview import memory_table
from pufferfish.ui.tables import WIDTH, shape_text

DAY_S = 86400.0


def sizing_text(sizing: Sizing, hardware: Hardware) -> str:
    """Everything, at most 110 columns wide."""
    model, train = sizing.model, sizing.train
    parts = {"embedding": sizing.embedding_params, "blocks": sizing.block_params, "head": sizing.head_params}
    shares = ", ".join(f"{name} {format_count(count)}" for name, count in parts.items() if count) + (", the head shares the embedding" if model.is_tied else "")
    compute = f"{format_count(sizing.train_flops_per_token)}FLOP a token in training, {format_count(sizing.forward_flops_per_token)}FLOP when reading"
    steps = f"{train.tokens_per_step:,} tokens a step, {train.micro_batch} x {model.seq_len:,} at once"
    recomputed = ", activations recomputed" if train.is_checkpointed else ""
    time = f"{format_duration(sizing.train_s)} ({sizing.train_s / DAY_S:.3g} days) for {format_count(sizing.tokens)} tokens"
    pairs = {
        "machine": "; ".join(machine_lines(hardware)),
        "model": f"{shape_text(model)}, vocabulary {model.vocab_size:,}",
        "parameters": f"{format_count(sizing.num_params)}: {shares}",
        "compute": compute,
        "training": f"{train.optimizer}, {train.dtype}, not compiled, {steps}{recomputed}",
        "speed": f"about {format_count(sizing.tokens_per_s)} tokens/s, predicted from the machine's speeds",
        "time": f"about {time}",
    }
    lines = [line for label, text in pairs.items() for line in labelled(label, text, width=WIDTH)]
    short = f"does not fit: {format_bytes(sum(sizing.training_bytes.values()))} at the least, {format_bytes(sizing.usable_bytes)} are planned with"
    fit = [] if sizing.fits else labelled("memory", short, width=WIDTH)
    tables = ["", *memory_table(sizing.training_bytes, "memory to train"), "", *memory_table(sizing.inference_bytes, "memory to write")]
    return "\n".join([*lines, *fit, *tables])
