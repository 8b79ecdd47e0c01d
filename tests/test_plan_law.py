"""The laws of loss, batch and speed, the space of models, and what is planned for small texts, on made-up machines."""

import itertools
import math
from dataclasses import replace

import pytest
from machines import BYTES_PER_TOKEN, SMALL, FakeVocabulary, Planner, corpus, each_machine, price_of, some_candidates
from toys import model_plan, train_plan

from pufferfish.plan import budget, memory, recipe, scaling, space, speed
from pufferfish.plan.case import MAX_VALIDATION_BYTES
from pufferfish.plan.scaling import Learner, Text
from pufferfish.schema.hardware import Gemm
from pufferfish.schema.params import ModelParams


def test_the_best_batch_grows_with_the_tokens():
    batches = [scaling.best_tokens_per_step(10.0**power) for power in range(5, 11)]
    assert batches == sorted(batches)
    assert all(1 < after / before < 10 for before, after in itertools.pairwise(batches))


def test_a_batch_costs_the_more_the_larger_it_is_and_a_small_one_nothing():
    costs = [scaling.batch_cost(share * scaling.best_tokens_per_step(1e6), 1e6) for share in (0.1, 1, 2, 8)]
    assert costs[:2] == [0, 0]
    assert costs == sorted(costs)


def test_rates_fall_with_small_batches_and_few_sequences_within_bounds():
    def rate(size, num_sequences=4):
        return recipe.rate_for_batch(size, num_sequences=num_sequences, tokens=10**6)

    reference = round(recipe.REFERENCE_BATCH * 10 ** (6 * recipe.REFERENCE_GROWTH))
    assert rate(reference) == pytest.approx(1, rel=1e-3)
    assert rate(reference // 2) == pytest.approx(0.5**0.5, rel=1e-3)
    assert rate(reference // 2, 1) == pytest.approx(0.5, rel=1e-3)
    assert rate(reference // 2, 9) == rate(reference // 2)
    assert (rate(1, 1), rate(10**6, 100)) == (0.5, 2.0)


@pytest.mark.parametrize(("size", "share"), [(512, 0.5), (1024, 0.8), (8192, 1.0)])
def test_matrices_learn_at_the_full_rate_from_large_batches_and_slower_from_small_ones(size, share):
    train = Planner("server").plan("3m", **SMALL, train={"tokens_per_step": size, "num_steps": 1_000_000 // size}).train
    assert train.matrix_lr == pytest.approx(share * recipe.MATRIX_LR, rel=0.15)


def test_the_more_often_a_text_is_read_the_more_inputs_are_replaced():
    shares = [recipe.usual_noise(epochs) for epochs in (0.3, 2.0, 2.5, 3.0, 4.0, 8.0)]
    assert shares[:2] == [0, 0]
    assert shares == sorted(shares)
    assert shares[3:] == pytest.approx([recipe.INPUT_NOISE / 2, recipe.INPUT_NOISE, recipe.INPUT_NOISE])


def test_text_read_again_is_worth_less_and_less_but_never_nothing():
    worth = [scaling.effective_bytes(epochs * 1e6, 1e6) for epochs in (0.5, 1, 2, 4, 16, 64)]
    assert worth[:2] == [0.5e6, 1e6]
    assert worth == sorted(worth)
    gains = [(after - before) / (b - a) for (before, after), (a, b) in zip(itertools.pairwise(worth[1:]), itertools.pairwise((1, 2, 4, 16, 64)), strict=True)]
    assert gains == sorted(gains, reverse=True)


def test_the_forecast_improves_with_everything_that_helps():
    planner, candidates = some_candidates()
    text, usual_case = planner.text, candidates[0]
    forecast = usual_case.forecast(text)
    price = usual_case.price
    assert replace(usual_case, price=replace(price, matmul_params=2 * price.matmul_params)).forecast(text) < forecast
    assert replace(usual_case, vocabulary=FakeVocabulary(2048, 1.1 * BYTES_PER_TOKEN[2048])).forecast(text) < forecast
    assert replace(usual_case, loop_s=1.5 * usual_case.loop_s).forecast(text) < forecast
    assert usual_case.forecast(Text(text.unique_bytes, 1.3)) == pytest.approx(1.3 * forecast, rel=0.05)
    copied = Text(text.unique_bytes, text.difficulty, copied=0.4, copied_bytes=1e6)
    assert usual_case.forecast(copied) < replace(usual_case, loop_s=0.1 * usual_case.loop_s).forecast(copied)
    assert usual_case.forecast(copied) < 0.95 * forecast
    assert usual_case.forecast(Text(text.unique_bytes / 100, 1.0)) > forecast
    low, high = scaling.interval(forecast, 0.05)
    assert low * high == pytest.approx(forecast**2)


def test_a_batch_far_above_the_best_costs_quality_and_one_far_below_hardly_any():
    planner, candidates = some_candidates()
    best = replace(candidates[0], text=replace(candidates[0].text, unique_bytes=1e9))
    for factor, least, most in ((1 / 16, 1.0, 1.02), (16, 1.05, 2.0)):
        per_step = int(factor * best.train.tokens_per_step)
        as_many_tokens = replace(best, train=best.train.model_copy(update={"tokens_per_step": per_step}), predicted_step_s=factor * best.predicted_step_s)
        assert as_many_tokens.tokens == pytest.approx(best.tokens, rel=0.05)
        assert least <= as_many_tokens.forecast(planner.text) / best.forecast(planner.text) < most


@each_machine
def test_products_between_measured_shapes_run_at_a_speed_between_theirs(machine):
    planner = Planner(machine)
    for table in planner.hardware.measured.dtypes:
        speeds = [gemm.flops_per_s for gemm in table.gemms]
        for m, k, n in ((700, 150, 600), (256, 64, 256), (10**6, 4096, 4096), (16, 16, 16)):
            assert min(speeds) <= planner.machine.gemm_flops_per_s(table.dtype, m, k, n) <= max(speeds)
        measured = max(table.gemms, key=lambda gemm: gemm.m * gemm.k * gemm.n)
        assert planner.machine.gemm_flops_per_s(table.dtype, measured.m, measured.k, measured.n) == pytest.approx(measured.flops_per_s, rel=0.2)


def test_a_step_takes_longer_with_more_of_everything():
    planner = Planner("server")

    def seconds(model=None, **changes):
        model = model or model_plan()
        return speed.step_seconds(planner.machine, price_of(model, "explicit"), model, train_plan(**changes))

    assert seconds(model_plan(num_layers=5)) > seconds()
    assert seconds(dtype="bfloat16") < seconds()
    update_s = speed.optimizer_seconds(planner.machine, price_of(model_plan(), "explicit"), model_plan(), train_plan())
    assert seconds(tokens_per_step=240) - update_s == pytest.approx(2 * (seconds() - update_s))
    assert seconds(is_checkpointed=True) > seconds()
    assert seconds(is_compiled=True) < seconds()
    assert seconds(optimizer="adamw") < seconds(optimizer="muon")


def test_the_flops_of_orthogonalizing_are_those_of_its_products():
    model = model_plan(num_layers=1)
    assert {matrix.shape for matrix in matrices(model)} == {(48, 40), (16, 40), (40, 48), (56, 40), (40, 56)}
    # each of 5 polynomials: X X^T, its square, and their product with X
    expected = sum(5 * (2 * small**2 * large + 2 * small**3 + 2 * small**2 * large) for small, large in (sorted(matrix.shape) for matrix in matrices(model)))
    assert speed.orthogonalization_flops(model) == expected


def matrices(model):
    from pufferfish.model.transformer import Decoder

    return [parameter for name, parameter in Decoder(model).named_parameters() if parameter.ndim == 2 and ".layers." in name]


# --- the space


def test_a_narrow_model_has_two_heads_no_wider_than_itself():
    [model] = space.models(ModelParams(num_layers=1, d_model=32, seq_len=128), [512], max_seq_len=512)
    assert (model.num_heads, model.num_kv_heads, model.head_dim) == (2, 2, 32)


def test_every_model_of_the_grid_is_legal():
    models = list(space.models(ModelParams(), [512, 2048], max_seq_len=512))
    assert len(models) == len(set(models)) > 200
    for model in models:
        assert model.head_dim == 64
        assert model.num_heads >= 2
        assert abs(model.num_heads * model.head_dim - model.d_model) <= 64
        assert model.num_heads % model.num_kv_heads == 0
        assert model.head_dim % 2 == 0
        assert model.seq_len <= 1024
        assert 1 <= model.num_layers <= 30


def test_a_device_with_much_memory_takes_no_more_at_once_than_makes_it_quicker():
    plan = Planner("H200", num_bytes=10**10).plan("1h", **SMALL, train={"tokens_per_step": 1 << 19})
    assert plan.train.micro_batch * plan.model.seq_len == memory.MOST_AT_ONCE["cuda"]
    assert "8 micro-batches a step, since more at once are no quicker" in plan.why.reasons


def test_a_speed_table_of_one_row_serves():
    planner = Planner("laptop")
    one = [table.model_copy(update={"gemms": [Gemm(m=1024, k=256, n=1024, flops_per_s=3e10)]}) for table in planner.hardware.measured.dtypes]
    hardware = planner.hardware.model_copy(update={"measured": planner.hardware.measured.model_copy(update={"dtypes": one})})
    assert Planner(hardware).plan(**SMALL).train.num_steps > 100


def test_a_text_of_the_users_own_for_validation_is_counted_in_the_evaluation():
    planner = Planner("server")
    planner.corpus = corpus().model_copy(update={"validation_path": "v.txt", "validation_content": "v0", "validation_bytes": 50_000_000})
    plan = planner.plan("10m", **SMALL)
    assert plan.budget.phases.evaluate_s > 1.2 * Planner("server").plan("10m", **SMALL).budget.phases.evaluate_s
    planner.corpus = planner.corpus.model_copy(update={"validation_bytes": MAX_VALIDATION_BYTES})
    assert planner.plan("10m", **SMALL).budget == plan.budget, "no more is read of a longer one"
    assert (plan.data.validation_path, plan.data.validation_content) == ("v.txt", "v0")


def test_a_small_text_is_not_read_more_often_than_is_good_and_the_time_is_left_unused():
    planner = Planner("server", num_bytes=1_000_000)
    plan = planner.plan("1h", data={"vocab_size": 2048}, model={"num_layers": 2, "d_model": 128, "seq_len": 256})
    assert 0.1 * 3600 < plan.budget.unused_s < 3600
    assert sum(plan.budget.phases.model_dump().values()) + plan.budget.unused_s == pytest.approx(3600)
    assert plan.forecast.tokens * plan.forecast.step_s / plan.train.tokens_per_step <= plan.budget.phases.train_s
    assert [reason for reason in plan.why.reasons if "left unused" in reason]
    shorter = planner.plan("20m", data={"vocab_size": 2048}, model={"num_layers": 2, "d_model": 128, "seq_len": 256})
    assert shorter.forecast.epochs == pytest.approx(plan.forecast.epochs, rel=0.2), "more time does not make more readings worth their while"


def test_counted_steps_are_taken_however_often_they_read_the_text():
    plan = Planner("server", num_bytes=1_000_000).plan(
        "1h", data={"vocab_size": 2048}, model={"num_layers": 2, "d_model": 128, "seq_len": 256}, train={"num_steps": 20_000}
    )
    assert plan.train.num_steps == 20_000
    assert plan.budget.unused_s == 0
    assert plan.forecast.epochs > 10


def test_hard_texts_stay_hard():
    """More text helps with a hard one less, and with an easy one more."""
    easy, usual, hard = (Text(1e12, each) for each in (0.7, 1.0, 1.5))
    gains = [text.factor(1e7) / text.factor(1e6) for text in (easy, usual, hard)]
    assert gains[0] < gains[1] == 1 < gains[2]


@pytest.mark.parametrize("difficulty", [0.3, 1.0, 2.0, 5.0])
def test_more_text_never_makes_the_forecast_worse(difficulty):
    text, learner = Text(1e12, difficulty), Learner(1e7, 2e7, 256, 4096, 3.25)
    found = [text.factor(num_bytes) * scaling.by_reading(learner, text, num_bytes / 1e12) for num_bytes in (1e6, 1e7, 3e7, 1e8, 1e9, 1e10)]
    assert found == sorted(found, reverse=True)


def test_reading_copies_again_finds_no_more_of_them():
    text = Text(1e6, 1.0, copied=0.4, copied_bytes=4e6)
    assert text.factor(1e6) == text.factor(1e7) > Text(4e6, 1.0, copied=0.4, copied_bytes=4e6).factor(4e6)


def test_a_vocabulary_whose_entries_are_rare_is_learned_by_heart_soonest():
    plain, small, large = (scaling.repetition_cost(1e6, 4, 1e6, rarity=size / 3e5) for size in (0, 1024, 4096))
    assert plain < small < large < 3.5 * plain
    for num_bytes, expected in ((10**6, 1024), (10**7, 4096), (10**9, 8192)):
        assert Planner("server", num_bytes=num_bytes).plan("30m").model.vocab_size <= expected


def test_what_new_text_hardly_helps_old_text_hardly_harms():
    assert scaling.wear(-0.01) < scaling.wear(-0.06) < scaling.wear(scaling.REFERENCE_SLOPE) == 1 < scaling.wear(-0.12) < scaling.wear(-0.4)
    weary, fresh = (scaling.repetition_cost(1e6, 4, 1e6, scaling.wear(slope)) for slope in (-0.12, -0.06))
    assert weary > 1.9 * fresh


def test_no_model_is_larger_for_its_text_than_what_the_law_was_fitted_to():
    for num_bytes in (100_000, 1_000_000):
        planner = Planner("server", num_bytes=num_bytes)
        plan = planner.plan("1h", data={"vocab_size": 512})
        smallest = plan.model.num_layers == 2 and plan.model.d_model == 64
        assert smallest or plan.forecast.num_params <= scaling.most_params(planner.text.unique_bytes, is_taught=plan.train.teacher_share > 0)
    pinned = planner.plan("1h", model={"num_layers": 6, "d_model": 512})
    assert (pinned.model.num_layers, pinned.model.d_model) == (6, 512)
    assert pinned.model.vocab_size > min(space.VOCABULARIES), "the size of the vocabulary is not that of the model"
    assert pinned.forecast.num_params > scaling.most_params(planner.text.unique_bytes, is_taught=True)
    assert any("a larger one is a guess" in reason for reason in pinned.why.reasons)


def test_the_bound_on_the_size_is_told_where_it_is_near():
    small, large = (Planner("server", num_bytes=each).plan("3m", data={"vocab_size": 2048}, model={"d_model": 128}) for each in (600_000, 10**9))
    assert any("are not considered" in reason for reason in small.why.reasons)
    assert not any("are not considered" in reason for reason in large.why.reasons)


def test_a_text_too_small_for_any_model_gets_the_smallest_that_can_look_back():
    planner = Planner("server", num_bytes=3_000)
    plan = planner.plan("2m", data={"vocab_size": 512})
    assert (plan.model.num_layers, plan.model.d_model) == (2, 64)
    assert planner.plan("2m", data={"vocab_size": 512}, model={"num_layers": 1}).model.num_layers == 1


def test_a_small_text_is_read_more_than_once():
    learner = Learner(110e3, 176e3, 64, 384, 1.8)
    readings = [scaling.worthwhile_epochs(learner, Text(num_bytes, 1.0, wear=1.5), 50) for num_bytes in (10_000, 30_000, 100_000)]
    assert all(2 <= each <= 5 for each in readings)


@pytest.mark.parametrize(
    ("difficulty", "lookback", "seq_len"), [*((1.0, 1.5, seq_len) for seq_len in (8, 32, 64, 128, 512)), *((1.65, 1.0, seq_len) for seq_len in (128, 512))]
)
def test_more_tokens_are_never_forecast_to_do_harm_whatever_the_context(difficulty, lookback, seq_len):
    text = Text(1e12, difficulty, lookback=lookback)
    for num_layers, d_model in ((1, 64), (1, 192), (1, 768), (2, 64), (2, 128), (12, 768))[: None if seq_len >= 128 else 3]:
        block_params = 12 * num_layers * d_model**2
        learner = Learner(block_params, 2 * block_params, d_model, 2048, 3.0)
        forecasts = [
            scaling.val_bpb(learner, text, num_layers=num_layers, seq_len=seq_len, tokens=tokens, tokens_per_step=scaling.best_tokens_per_step(tokens))
            for tokens in (1e5 * 2**power for power in range(14))
        ]
        assert forecasts == sorted(forecasts, reverse=True)


def test_no_forecast_is_worse_than_a_guess_among_all_tokens():
    planner = Planner("server", num_bytes=10_000, difficulty=5.0)
    forecast = planner.plan("60s", **SMALL).forecast
    assert forecast.val_bpb < math.log2(2048) / BYTES_PER_TOKEN[2048] < planner.text.difficulty


def test_an_easy_text_becomes_easier_by_no_more_than_was_fitted():
    assert Text(1e9, 0.01).hardening == Text(1e9, math.exp(-scaling.HARDEST)).hardening < 0 < Text(1e9, 3.0).hardening


def test_a_text_is_learned_by_heart_the_sooner_the_more_parameters_there_are_for_it():
    costs = [[scaling.repetition_cost(params, epochs, 1e6) for epochs in (0.5, 1, 2, 4)] for params in (1e4, 1e5, 1e6)]
    assert all(row[:2] == [0, 0] for row in costs)
    assert all(row[1] < row[2] < row[3] for row in costs)
    assert costs[0][3] < costs[1][3] < costs[2][3]


def test_only_what_is_new_of_a_hard_text_counts_as_much():
    text = Text(1e6, 1.5)
    assert text.factor(1e6) == text.factor(5e6) < Text(5e6, 1.5).factor(5e6)
    learner = Learner(1e6, 2e6, 128, 1024, 2.5)
    again = [scaling.by_reading(learner, Text(1e6, difficulty), 3) / scaling.by_reading(learner, Text(1e6, difficulty), 1) for difficulty in (0.9, 1.0, 1.5)]
    assert again[0] < again[1] < again[2] < 1


def test_a_text_that_is_read_again_bears_larger_batches():
    assert scaling.best_tokens_per_step(1e6) == scaling.best_tokens_per_step(1e6, 0.5) < scaling.best_tokens_per_step(1e6, 3)
    once, again = (scaling.batch_cost(8192, 1e6, epochs) for epochs in (1, 3))
    assert 0 < again < 0.7 * once


def test_alone_no_text_is_read_more_often_than_was_good():
    learner = Learner(1e6, 2e6, 192, 512, 2.0)
    assert (
        scaling.worthwhile_epochs(learner, Text(1e6, 1.0), 50)
        <= scaling.ALONE_EPOCHS
        < scaling.worthwhile_epochs(replace(learner, is_taught=True), Text(1e6, 1.0), 50)
    )


def test_who_wants_no_noise_is_told_what_reading_again_costs_without():
    plain, noisy = (scaling.repetition_cost(1e6, 4, 1e6, noisy_from=noisy_from) for noisy_from in (math.inf, scaling.NOISE_EPOCHS))
    assert plain > 1.05 * noisy
    planner = Planner("server", num_bytes=1_000_000)
    usual = planner.plan("10m", train={"teacher_share": 0.0})
    assert usual.forecast.epochs > scaling.NOISE_EPOCHS
    planner.text = replace(planner.text, noisy_from=math.inf)
    assert planner.plan("10m", train={"teacher_share": 0.0}).forecast.val_bpb > usual.forecast.val_bpb


def test_a_large_model_is_given_time_to_be_saved_loaded_and_compared():
    small, large = (Planner("H200", num_bytes=10**9).plan("1h", model={"num_layers": 24, "d_model": width, "seq_len": 512}) for width in (256, 1536))
    more = large.forecast.num_params - small.forecast.num_params
    later_s = [plan.budget.phases.evaluate_s + plan.budget.phases.export_s for plan in (small, large)]
    assert later_s[1] - later_s[0] > more * (budget.EVALUATE_S_PER_PARAM + budget.EXPORT_S_PER_PARAM) > 60


def test_the_best_context_grows_with_the_tokens_and_shorter_ones_cost_the_more_the_more_a_text_comes_back():
    seq_lens = (64, 128, 256, 512, 1024, 2048, 4096)
    costs = [[scaling.context_cost(seq_len, tokens) for seq_len in seq_lens] for tokens in (1e5, 3e5, 1e6, 4e6, 1e9)]
    best = [seq_lens[min(range(len(row)), key=row.__getitem__)] for row in costs]
    assert best == [128, 128, 512, 1024, 2048]
    assert all(
        row[place:] == sorted(row[place:]) and row[: place + 1] == sorted(row[: place + 1], reverse=True)
        for row, place in zip(costs, [seq_lens.index(each) for each in best], strict=True)
    )
    assert all(0 <= cost < 0.2 for row in costs for cost in row)
    assert scaling.context_cost(256, 1e6, 1.0) < scaling.context_cost(1024, 1e6, 1.0)
    assert scaling.context_cost(256, 1e6, 3.0) > scaling.context_cost(1024, 1e6, 3.0)
    alone = [scaling.context_cost(seq_len, 4e6, is_lone=True) for seq_len in seq_lens[1:]]
    assert alone == sorted(alone), "a lone layer gains nothing by looking back"
    once, twice = (scaling.context_cost(128, 1e6, worth=worth) - scaling.context_cost(512, 1e6, worth=worth) for worth in (0.7, 1.4))
    assert twice == pytest.approx(2 * once)


def test_what_looking_back_gives_counts_within_bounds():
    assert scaling.lookback(scaling.REFERENCE_LOOKBACK) == 1
    assert (scaling.lookback(0.0), scaling.lookback(1.0)) == scaling.LOOKBACK


def test_a_single_layer_costs_the_more_the_more_two_would_have_learned_to_look_back():
    costs = [scaling.lone_layer_cost(96, 2048, 256, tokens) for tokens in (0, 1e5, 4e5, 8e5, 16e5, 1e9)]
    assert costs == sorted(costs)
    assert costs[0] == 0
    assert costs[-1] == pytest.approx(scaling.LONE_LAYER)
    assert scaling.lone_layer_cost(96, 2048, 256, 4e5, worth=1.4) == pytest.approx(4 * scaling.lone_layer_cost(96, 2048, 256, 4e5, worth=0.7))
    assert scaling.lone_layer_cost(96, 2048, 16, 1e6) < 0.2 * scaling.lone_layer_cost(96, 2048, 128, 1e6)
    by_size = [[scaling.lone_layer_cost(d_model, size, 256, 1e6) for size in (512, 2048, 4096, 8192)] for d_model in (64, 192)]
    assert all(row[0] == row[1] > row[2] == row[3] > 0 for row in by_size)
    assert all(narrow < wide for narrow, wide in zip(*by_size, strict=True))


def test_a_context_much_longer_than_the_documents_is_worth_nothing_and_not_taken():
    def planned(document_bytes):
        planner = Planner("server")
        planner.text = replace(planner.text, document_bytes=document_bytes)
        return planner.plan("5m", data={"vocab_size": 2048})

    plans = [planned(document_bytes) for document_bytes in (40.0, 200.0, 1e6, math.inf)]
    seq_lens, forecasts = [plan.model.seq_len for plan in plans], [plan.forecast.val_bpb for plan in plans]
    assert seq_lens[0] <= seq_lens[1] <= 256 < seq_lens[2] == seq_lens[3]
    assert forecasts[0] > 1.03 * forecasts[1] > 1.03 * forecasts[2] == 1.03 * forecasts[3]


def test_a_compilation_that_is_a_small_part_of_the_time_is_tried_for_a_small_gain():
    planner = Planner("server", num_bytes=10**9)
    assert planner.plan("1h", **SMALL).train.is_compiled
    assert any(train.is_compiled for _, train in planner.measured)
    planner.plan("5m", **SMALL)
    assert not any(train.is_compiled for _, train in planner.measured)


def test_the_best_vocabulary_grows_with_the_tokens():
    def best(tokens):
        return min(space.VOCABULARIES, key=lambda size: scaling.vocabulary_cost(size, tokens))

    assert [best(tokens) for tokens in (1e2, 2e5, 2e6, 1e10)] == [384, 2048, 4096, 32768]


def test_the_best_vocabulary_shrinks_with_the_readings_of_a_small_text():
    def best(fresh, epochs):
        return min(space.VOCABULARIES, key=lambda size: scaling.vocabulary_cost(size, fresh, epochs))

    assert [best(3e5, epochs) for epochs in (0.5, 1.0, 2.0, 4.0)] == [2048, 2048, 2048, 1024]
    assert [best(1e9, epochs) for epochs in (1.0, 4.0)] == [16384, 16384], "of many tokens, all entries are seen often"


def test_less_than_four_sequences_at_a_time_cost_something():
    costs = [scaling.few_sequences_cost(4096, seq_len) for seq_len in (128, 1024, 2048, 4096)]
    assert costs == pytest.approx([0.0, 0.0, scaling.FEW_SEQUENCES, 2 * scaling.FEW_SEQUENCES])
