"""A Hugging Face folder. Stock architectures need no code of ours to load; a model that looks something up brings `modeling_pufferfish.py` with it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file

from pufferfish.base import atomic
from pufferfish.base.errors import UserError
from pufferfish.base.refusals import REFUSALS
from pufferfish.data.shards import load_subset, open_tokens, read_validation_text
from pufferfish.data.tokenizer import SEPARATOR, SEPARATOR_ID, load_tokenizer
from pufferfish.export.card import model_card
from pufferfish.export.verify import verify_hf
from pufferfish.model.load import load_model
from pufferfish.schema.plan import ModelPlan, Plan
from pufferfish.schema.reports import Evaluation, ExportReport, Outcome

SYSTEM_ERROR = re.compile(r"\(os error (\d+)\)")  # how safetensors tells the system's errors
CODE = "modeling_pufferfish.py"
# What `pufferfish generate` does unless told otherwise; top-k 0 is all tokens, where transformers takes 50 if nothing is said.
GENERATION = {"do_sample": True, "temperature": 0.8, "top_k": 0, "top_p": 0.95}


def export_hf(model_folder: Path, subset_folder: Path, target_folder: Path, *, name: str, evaluation: Evaluation, samples: str) -> ExportReport:
    """Write the folder beside its place, load it with transformers, compare it with the model, and move it into place.

    Raises UserError if an input is missing, changed or of another model, or if the disk refuses; ExportMismatch if the folder does not
    hold our model. What stood at `target_folder` before is kept in all these cases.
    """
    outcome, subset = Outcome.load(model_folder / "outcome.json"), load_subset(subset_folder)
    if evaluation.weights_sha256 != outcome.weights_sha256:
        saw = f"evaluated {evaluation.weights_sha256[:16]}, trained {outcome.weights_sha256[:16]}"
        raise UserError("the evaluation is of another model", saw=saw, fix="run `dvc repro evaluate`")
    model, plan = load_model(model_folder)
    tokenizer = load_tokenizer(model_folder / "tokenizer.json")
    card = model_card(name, plan=plan, outcome=outcome, subset=subset, evaluation=evaluation, samples=samples)
    with in_place(target_folder) as unfinished:
        with refusals_told(target_folder):
            save_file({key: tensor.contiguous() for key, tensor in model.state_dict().items()}, unfinished / "model.safetensors", metadata={"format": "pt"})
            shutil.copyfile(model_folder / "tokenizer.json", unfinished / "tokenizer.json")
            for file, content in small_files(plan).items():
                atomic.write_json(unfinished / file, content)
            if has_code(plan.model):
                shutil.copyfile(Path(__file__).with_name(CODE), unfinished / CODE)
            atomic.write_text(unfinished / "README.md", card)
        tokens_N = open_tokens(subset_folder, subset.validation, subset.token_dtype)
        documents = read_validation_text(subset_folder)
        comparison = verify_hf(unfinished, model, tokenizer, tokens_N=tokens_N, documents=documents, has_code=has_code(plan.model))
    return ExportReport(
        weights_sha256=outcome.weights_sha256,
        folder=target_folder.as_posix(),
        architecture=architecture(plan.model),
        num_bytes=sum(path.stat().st_size for path in target_folder.iterdir()),
        max_logit_difference=comparison.max_logit_difference,
        num_texts_compared=comparison.num_texts,
    )


@contextmanager
def in_place(folder: Path) -> Iterator[Path]:
    """A fresh folder beside the wanted one, moved into place if the block succeeds and removed if it does not."""
    unfinished = atomic.beside(folder)
    try:
        with refusals_told(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            atomic.remove_left_overs(folder)
            unfinished.mkdir()
        yield unfinished
        with refusals_told(folder):
            atomic.replace_folder(folder, unfinished)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


@contextmanager
def refusals_told(folder: Path) -> Iterator[None]:
    """Around what writes: a disk that is full or forbidden is the user's to mend (UserError); all other errors go on as they are."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        number, file = system_error(error)
        if number not in REFUSALS:
            raise
        fix = f"{REFUSALS[number].mend}; then `dvc repro export`"
        raise UserError("the export cannot be written", saw=f"{os.strerror(number)}: {file or folder.absolute()}", fix=fix) from error


def system_error(error: Exception) -> tuple[int, str | None]:
    """The system's number of an error, 0 where it has none, and the file that it names."""
    if isinstance(error, OSError):
        return error.errno or 0, error.filename
    told = SYSTEM_ERROR.search(str(error))
    return int(told[1]) if told else 0, None


def has_code(plan: ModelPlan) -> bool:
    """Whether no stock architecture computes the same, so that code comes with the folder."""
    return plan.lookup != "none"


def architecture(plan: ModelPlan) -> str:
    """The class that computes the same: a stock one, where there is one."""
    if has_code(plan):
        return "PufferfishForCausalLM"
    return "Qwen3ForCausalLM" if plan.has_qk_norm else "LlamaForCausalLM"


def model_config(plan: ModelPlan) -> dict[str, Any]:
    """config.json as transformers 5 writes it; `rope_theta` is repeated at the top level for readers of the older form."""
    config: dict[str, Any] = {
        "architectures": [architecture(plan)],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": SEPARATOR_ID,
        "dtype": "float32",
        "eos_token_id": SEPARATOR_ID,
        "head_dim": plan.head_dim,
        "hidden_act": "silu",
        "hidden_size": plan.d_model,
        "initializer_range": 0.02,
        "intermediate_size": plan.d_ff,
        "max_position_embeddings": plan.seq_len,
        "model_type": "qwen3" if plan.has_qk_norm else "llama",
        "num_attention_heads": plan.num_heads,
        "num_hidden_layers": plan.num_layers,
        "num_key_value_heads": plan.num_kv_heads,
        "pad_token_id": None,
        "rms_norm_eps": plan.norm_eps,
        "rope_parameters": {"rope_theta": plan.rope_theta, "rope_type": "default"},
        "rope_theta": plan.rope_theta,
        "tie_word_embeddings": plan.is_tied,
        "use_cache": True,
        "vocab_size": plan.vocab_size,
    }
    layers = {"layer_types": ["full_attention"] * plan.num_layers}
    qwen3 = config | layers | {"max_window_layers": plan.num_layers, "sliding_window": None, "use_sliding_window": False}
    if has_code(plan):
        module = CODE.removesuffix(".py")
        auto_map = {"AutoConfig": f"{module}.PufferfishConfig", "AutoModelForCausalLM": f"{module}.{architecture(plan)}"}
        return qwen3 | {"auto_map": auto_map, "has_qk_norm": plan.has_qk_norm, "lookup": plan.lookup, "model_type": "pufferfish"}
    return qwen3 if plan.has_qk_norm else config | {"mlp_bias": False, "pretraining_tp": 1}


def small_files(plan: Plan) -> dict[str, dict[str, Any]]:
    """The JSON files beside weights and tokenizer, by name."""
    tokenizer = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SEPARATOR,
        "eos_token": SEPARATOR,
        "unk_token": SEPARATOR,
        "pad_token": SEPARATOR,
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": True,  # a separator spelled out in a text is text, as it was in training
        "model_max_length": plan.model.seq_len,
    }
    generation = {"bos_token_id": SEPARATOR_ID, "eos_token_id": SEPARATOR_ID, "pad_token_id": SEPARATOR_ID, **GENERATION}
    return {"config.json": model_config(plan.model), "tokenizer_config.json": tokenizer, "generation_config.json": generation}
