"""Why this plan: reasons in sentences, and the candidates that lost with the reason for each."""

from __future__ import annotations

from collections.abc import Sequence

from pufferfish.base.units import format_count
from pufferfish.plan import scaling
from pufferfish.plan.choose import COMPILE_S, NEAR, Candidate, Situation
from pufferfish.plan.prices import Vocabulary
from pufferfish.plan.scaling import Text
from pufferfish.schema import plan as schema

NUM_SHOWN = 16


def explain(best: Candidate, candidates: list[Candidate], measured: list[Candidate], *, situation: Situation, vocabularies: Sequence[Vocabulary]) -> schema.Why:
    """Reasons and the candidates, measured ones first, then the best forecasts."""
    ranked = sorted(candidates, key=lambda candidate: candidate.forecast(situation.text))
    shown = [best, *(c for c in measured if c.model != best.model or c.train != best.train)]
    shown += [c for c in ranked if not c.measured][: NUM_SHOWN - len(shown)]
    return schema.Why(
        reasons=_reasons(best, candidates, measured, situation, vocabularies), candidates=[_row(c, best, situation.text) for c in shown[:NUM_SHOWN]]
    )


def _reasons(best: Candidate, candidates: list[Candidate], measured: list[Candidate], situation: Situation, vocabularies: Sequence[Vocabulary]) -> list[str]:
    forecast = best.forecast(situation.text)
    lowest = min(candidate.forecast(situation.text) for candidate in candidates)
    epochs = best.tokens * best.vocabulary.bytes_per_token / situation.text.unique_bytes
    best_batch = scaling.best_tokens_per_step(max(1, best.tokens))
    sizes = ", ".join(f"{v.vocab_size}: {v.bytes_per_token:.2f}" for v in vocabularies)
    rows = [
        f"{len(candidates)} configurations priced, {len(measured)} measured; the best forecast is {lowest:.4f}"
        f" bits per byte, and of those within {NEAR:.1%} of it the smallest was taken ({forecast:.4f})",
        f"vocabulary {best.model.vocab_size}: bytes per token on a sample of this text are {sizes}",
        f"{best.train.tokens_per_step} tokens a step: the law for {format_count(best.tokens)} tokens says {best_batch:.0f}",
        f"{best.train.dtype}: the fastest that runs here, by measured matrix products",
        _compile_reason(best, candidates, situation),
    ]
    if epochs > 1:
        rows.append(
            f"the text is read {epochs:.1f} times; more text would help"
            if epochs > 4
            else f"the text is read {epochs:.1f} times, which is nearly as good as new text"
        )
    if best.train.micro_batch * best.model.seq_len < best.train.tokens_per_step:
        rows.append(
            f"{best.train.tokens_per_step // (best.train.micro_batch * best.model.seq_len)} micro-batches a step, because memory does not hold them at once"
        )
    return rows


def _compile_reason(best: Candidate, candidates: list[Candidate], situation: Situation) -> str:
    if situation.train.compile != "auto":
        return f"compile: {str(best.train.is_compiled).lower()}, as pinned"
    others = [c for c in candidates if c.train.is_compiled != best.train.is_compiled]
    cost = f"about {COMPILE_S[situation.hardware.fingerprint.device]:.0f} s of the training time"
    if not others:
        return "not compiled: no compiler, or the compilation would take all the time"
    other = min(c.forecast(situation.text) for c in others)
    word = "compiled" if best.train.is_compiled else "not compiled"
    return f"{word}: compilation takes {cost}, and the best forecast the other way is {other:.4f}"


def _row(candidate: Candidate, best: Candidate, text: Text) -> schema.Candidate:
    forecast, winner = candidate.forecast(text), best.forecast(text)
    if candidate is best:
        verdict = "chosen"
    elif forecast < winner:
        verdict = "near-equal and larger" if candidate.measured else "not measured in time"
    elif forecast <= winner * (1 + NEAR):
        verdict = "near-equal"
    else:
        verdict = f"{forecast / winner - 1:.1%} worse"
    return schema.Candidate(
        vocab_size=candidate.model.vocab_size,
        num_layers=candidate.model.num_layers,
        d_model=candidate.model.d_model,
        seq_len=candidate.model.seq_len,
        tokens_per_step=candidate.train.tokens_per_step,
        num_params=candidate.price.num_params,
        is_compiled=candidate.train.is_compiled,
        predicted_step_s=candidate.predicted_step_s,
        measured_step_s=candidate.measured.step_s if candidate.measured else 0.0,
        tokens=candidate.tokens,
        val_bpb=forecast,
        verdict=verdict,
    )
