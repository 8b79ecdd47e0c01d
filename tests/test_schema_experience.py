"""What earlier trainings reached corrects the next forecasts for the same text, and no other."""

import math

import pytest
from toys import model_plan, outcome, whole_plan

from pufferfish.plan.scaling import Experience, experience
from pufferfish.schema.experience import file, log_errors, remember
from pufferfish.schema.hardware import Corpus

CORPUS = Corpus(
    source="text", path="corpus", content="c0", num_bytes=9, num_files=1, has_short_documents=True, validation_path="", validation_content="",
    validation_bytes=0,
)  # fmt: skip


def experience_with(corpus, seed):
    return experience(log_errors(corpus, seed=seed, law=whole_plan().forecast.law))


def reach(plan, val_bpb, **changes):
    remember(plan, outcome(plan, **changes), val_bpb)


@pytest.fixture(autouse=True)
def workspace(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))


def test_without_trainings_the_law_stands_as_it_is():
    assert experience_with(CORPUS, 0) == Experience() == experience([])


def test_forecasts_move_towards_what_was_reached_and_become_surer():
    plan = whole_plan()
    seen = [experience_with(CORPUS, 0)]
    for number in range(6):
        reach(plan, 1.1 * plan.forecast.val_bpb, run_key=f"run{number}")
        seen.append(experience_with(CORPUS, 0))
    corrections, spreads = [each.correction for each in seen], [each.spread for each in seen]
    assert corrections == sorted(corrections)
    assert corrections[0] == 1.0 < 1.05 < corrections[1] < corrections[-1] < 1.1
    assert spreads == sorted(spreads, reverse=True)
    assert seen[-1].num_outcomes == 6


def test_a_corrected_forecast_is_not_corrected_twice():
    plan = whole_plan()
    corrected = plan.model_copy(update={"forecast": plan.forecast.model_copy(update={"val_bpb": 1.1 * plan.forecast.val_bpb, "correction": 1.1})})
    reach(plan, 2.2, run_key="first")
    reach(corrected, 2.2, run_key="second")
    both = experience_with(CORPUS, 0)
    assert both.correction == pytest.approx(experience([math.log(2.2 / plan.forecast.val_bpb)] * 2).correction)


def test_other_texts_other_splits_and_a_repeated_evaluation_do_not_count():
    plan = whole_plan()
    reach(plan, 2.5, run_key="run")
    reach(plan, 2.5, run_key="run")
    assert experience_with(CORPUS, 0).num_outcomes == 1
    assert experience_with(CORPUS, 1) == experience_with(CORPUS.model_copy(update={"content": "other"}), 0) == Experience()


def test_a_line_that_a_power_cut_left_unfinished_is_passed_over():
    reach(whole_plan(), 2.5, run_key="run")
    with open(file(), "a") as lines:
        lines.write('{"law": 2, "te')
    assert experience_with(CORPUS, 0).num_outcomes == 1
    reach(whole_plan(), 2.5, run_key="next")
    assert experience_with(CORPUS, 0).num_outcomes == 2


@pytest.mark.parametrize("share", [0.5, 0.79, 1.26, 3.0])
def test_a_training_that_read_far_less_or_more_than_planned_does_not_count(share):
    plan = whole_plan()
    reach(plan, 2.5, num_tokens=round(share * plan.forecast.tokens))
    assert experience_with(CORPUS, 0) == Experience()


@pytest.mark.parametrize("changes", [{}, {"num_resumes": 2}, {"num_tokens": 200}, {"num_tokens": 290}])
def test_a_training_that_read_about_what_was_planned_counts_interrupted_or_not(changes):
    reach(whole_plan(), 2.5, **changes)
    assert experience_with(CORPUS, 0).num_outcomes == 1


def test_a_training_that_the_plan_was_not_free_to_choose_does_not_count():
    plan = whole_plan()
    reach(plan.model_copy(update={"forecast": plan.forecast.model_copy(update={"is_free": False})}), 2.5)
    reach(whole_plan(model_plan(lookup="value")), 2.5)
    assert experience_with(CORPUS, 0) == Experience()
