"""Plans of several machines and budgets, kept, so that a changed heuristic shows as a difference.

After a change that is wanted: `python tests/test_plan_golden.py` writes them anew; look at `git diff tests/golden`.
"""

import json
from pathlib import Path

import pytest
from machines import Planner

from pufferfish.base.errors import UserError

GOLDEN = Path(__file__).parent / "golden"
KEPT = {  # machine -> budgets; those on the right of None are slow
    "laptop": ["60s", "3m", None, "36s", "1h", "12h"],
    "server": ["36s", "60s", "3m", None, "1h", "12h"],
    "gpu of 4 GB": ["60s", "3m", None, "1h", "12h"],
    "H200": ["60s", None, "3m", "1h", "12h"],
}
CASES = [
    pytest.param(machine, time, marks=[pytest.mark.slow] if budgets.index(time) > budgets.index(None) else [], id=f"{machine}, {time}")
    for machine, budgets in KEPT.items()
    for time in budgets
    if time
]


def rounded(value):
    """Floats to four digits: a plan differs where it decides otherwise, not in the last bit."""
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def summary(machine, time):
    """All that the plan decides, without the candidates that lost; a refusal as it is told."""
    gpu = machine in ("gpu of 4 GB", "H200")
    try:
        plan = Planner(machine, num_bytes=3 * 10**9 if gpu else 11_000_000).plan(time)
    except UserError as error:
        return {"refused": str(error).splitlines()}
    sections = plan.model_dump(mode="json", include={"budget", "data", "model", "train", "forecast"})
    return rounded(sections)


def path_of(machine):
    return GOLDEN / f"plans of {machine}.json".replace(" ", "_")


@pytest.mark.parametrize(("machine", "time"), CASES)
def test_the_plan_is_the_one_that_was_kept(machine, time):
    assert summary(machine, time) == json.loads(path_of(machine).read_text("utf-8"))[time]


def test_every_kept_plan_is_compared():
    for machine, budgets in KEPT.items():
        assert list(json.loads(path_of(machine).read_text("utf-8"))) == [time for time in budgets if time]


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for machine, budgets in KEPT.items():
        plans = {time: summary(machine, time) for time in budgets if time}
        path_of(machine).write_text(json.dumps(plans, indent=1) + "\n", "utf-8")
        print(f"wrote {path_of(machine)}")
