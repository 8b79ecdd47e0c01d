"""README.md of an exported model: what it is, how it was made, how good it is, how to load it."""

from __future__ import annotations

from operator import itemgetter

from pufferfish.base.units import format_bytes, format_count, format_duration
from pufferfish.schema.plan import ModelPlan, Plan
from pufferfish.schema.reports import Evaluation, Outcome, Subset

FRONT_MATTER = """---
library_name: transformers
pipeline_tag: text-generation
tags:
- pufferfish
# license: yours to choose before publishing; mind the license of the training text
---"""

LOADING = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "{name}"  # this folder
tokenizer = AutoTokenizer.from_pretrained(folder{trust})
model = AutoModelForCausalLM.from_pretrained(folder{trust})
tokens = tokenizer("Once", return_tensors="pt")
print(tokenizer.decode(model.generate(**tokens, max_new_tokens=80)[0]))
```"""

TRUST = ", trust_remote_code=True"
CODE = """This model looks up {table}. No architecture that transformers knows does, so code comes with the folder: `modeling_pufferfish.py`, a short
file that needs PyTorch and transformers 5. Transformers runs it only where `trust_remote_code=True` allows it; read it first."""
TABLES = {
    "value": "a row of values for each token in its last layer",
    "bigram": "a row for each token and the one before it, beside the token's embedding",
}


def model_card(name: str, *, plan: Plan, outcome: Outcome, subset: Subset, evaluation: Evaluation, samples: str) -> str:
    """Markdown with the front matter that model hubs read."""
    parts = [
        FRONT_MATTER,
        f"# {name}",
        f"A small base language model that Pufferfish trained from scratch. The budget was {format_duration(plan.budget.total_s)} for everything: "
        "measuring the machine, planning, preparing data, training, evaluation and export. It continues text; it follows no instructions, and what "
        "it says is not reliable.",
        "## How good it is",
        "Bits per byte of validation text that it was not trained on; less is better. All rows are of the same text. "
        f"The n-gram counted {evaluation.ngram_tokens} tokens of the training text.",
        results(evaluation),
        "## How to load it",
        *loading(name, plan.model),
        "## How it was made",
        table([("", ""), *facts(plan, outcome, subset, evaluation)]),
        one_lower(samples.strip()),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def one_lower(markdown: str) -> str:
    """With its headings one level lower, and what stands in fences as it is."""
    lines, fence = [], ""
    for line in markdown.splitlines():
        if fence:
            fence = "" if line == fence else fence
        elif line.startswith("```"):
            fence = line.removesuffix("text")
        lines.append(f"#{line}" if line.startswith("#") and not fence else line)
    return "\n".join(lines)


def loading(name: str, model: ModelPlan) -> list[str]:
    """The code that loads the model, and why more code comes with it, where it does."""
    if model.lookup == "none":
        return [LOADING.format(name=name, trust="")]
    return [CODE.format(table=TABLES[model.lookup]), LOADING.format(name=name, trust=TRUST)]


def results(evaluation: Evaluation) -> str:
    """The model among what it should beat, the best first."""
    scores = sorted([("**this model**", evaluation.val_bpb), *evaluation.baselines.items()], key=itemgetter(1))
    return table([("", "bits per byte"), *((name, f"{bpb:.4f}") for name, bpb in scores)])


def facts(plan: Plan, outcome: Outcome, subset: Subset, evaluation: Evaluation) -> list[tuple[str, str]]:
    """Plan, data and outcome in rows."""
    model, train = plan.model, plan.train
    heads = f"{model.num_heads} heads, {model.num_kv_heads} for keys and values, {model.head_dim} wide"
    return [
        ("parameters", format_count(plan.forecast.num_params)),
        ("shape", f"{model.num_layers} layers, width {model.d_model}, feed-forward {model.d_ff}, {heads}"),
        ("vocabulary", f"{model.vocab_size}, byte-level BPE"),
        ("context", f"{model.seq_len} tokens"),
        ("embeddings", "tied" if model.is_tied else "untied"),
        *([("lookup", TABLES[model.lookup])] if model.lookup != "none" else []),
        ("data", f"`{plan.data.source}`, {format_bytes(subset.train.num_bytes)} of training text in {subset.train.num_documents} documents"),
        ("data hash", f"`{subset.corpus}`"),
        ("validation", f"{format_bytes(subset.validation.num_bytes)} in {subset.validation.num_documents} documents"),
        ("training", f"{outcome.num_steps} steps, {format_count(outcome.num_tokens)} tokens, {format_duration(outcome.train_s)} on {train.device}"),
        ("optimizer", f"{train.optimizer}, {train.tokens_per_step} tokens per step, peak learning rate {train.matrix_lr:.3g} for matrices"),
        ("precision", train.dtype),
        ("perplexity", f"{evaluation.perplexity:.2f} per token"),
        ("forecast before training", f"{evaluation.forecast_bpb:.4f} bits per byte"),
        ("plan", f"`{outcome.plan}`"),
        ("weights (SHA-256)", f"`{outcome.weights_sha256}`"),
    ]


def table(rows: list[tuple[str, str]]) -> str:
    """Markdown table of two columns; the first row is the heading."""
    lines = [f"| {left} | {right} |" for left, right in rows]
    return "\n".join([lines[0], "|---|---|", *lines[1:]])
