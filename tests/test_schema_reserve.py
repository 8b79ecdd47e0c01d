"""What evaluation and export took in earlier pipelines decides how much time is kept for them."""

import uuid

import pytest
from toys import whole_plan

from pufferfish.base import lines
from pufferfish.base.timing import Timing
from pufferfish.plan.budget import RESERVE_FACTORS, RESERVE_MARGIN, reserve_factor
from pufferfish.schema.reserve import KEPT, file, ratios, remember


@pytest.fixture(autouse=True)
def workspace(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))


def plan(clock="deadline"):
    whole = whole_plan()
    return whole.model_copy(update={"train": whole.train.model_copy(update={"clock": clock})})


def took(evaluate_s, export_s, *, run_key=None, boots=("b", "b")):
    remember(plan(), run_key or uuid.uuid4().hex, Timing(boots[0], 100.0, 100.0 + evaluate_s), Timing(boots[1], 300.0, 300.0 + export_s))


def test_what_was_taken_is_compared_with_the_estimate_without_its_margin():
    took(9.0, 4.0)  # 6 and 7 s were planned, with a factor of 1.3
    took(6.0, 7.0)
    assert ratios("h0") == [pytest.approx(1.3), pytest.approx(1.3)]
    assert ratios("another machine") == []


def test_a_pipeline_in_two_pieces_tells_nothing():
    took(9.0, 4.0, boots=("b", "c"))
    remember(plan(), "run", None, Timing("b", 0.0, 4.0))
    assert ratios("h0") == []
    assert not file().exists()


def test_a_training_that_is_exported_again_counts_once():
    for export_s in (4.0, 2.0, 2.0):
        took(9.0, export_s, run_key="run")
    assert ratios("h0") == [pytest.approx(1.3)]


def test_a_training_by_steps_tells_nothing():
    remember(plan("steps"), "run", Timing("b", 100.0, 190.0), Timing("b", 300.0, 304.0))
    assert ratios("h0") == []


def test_lines_of_an_earlier_version_are_passed_over():
    lines.append(file(), {"hardware": "h0", "took_s": 9.0, "estimated_s": 10.0})
    took(9.0, 4.0)
    assert len(ratios("h0")) == 2


def test_only_the_last_pipelines_count_and_a_broken_line_is_passed_over():
    for number in range(KEPT + 2):
        took(1.0 + number, 9.0)
        file().write_text(file().read_text() + '{"hardware": "h0", "to')
    assert ratios("h0") == [pytest.approx((10.0 + number) / 10.0) for number in range(2, KEPT + 2)]
    assert len(lines.read(file())) == KEPT + 2


def test_without_pipelines_the_margin_stands():
    assert reserve_factor([]) == RESERVE_MARGIN


def test_the_worst_of_few_and_the_second_worst_of_several_decide():
    assert reserve_factor([1.4]) == pytest.approx(1.4 * RESERVE_MARGIN)
    assert reserve_factor([1.4, 0.9]) == pytest.approx(1.4 * RESERVE_MARGIN)
    assert reserve_factor([1.9, 0.9, 1.0]) == pytest.approx(1.0 * RESERVE_MARGIN)


def test_an_estimate_that_was_too_high_in_small_pipelines_is_kept_for_large_ones():
    assert reserve_factor([0.7, 0.75, 0.7]) == 1.0


def test_the_factor_has_limits():
    assert (reserve_factor([0.01]), reserve_factor([99.0])) == RESERVE_FACTORS
