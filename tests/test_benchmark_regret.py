"""The benchmark of the planner's choice searches, remembers and compares; a made-up runner, whose best configuration is known, stands for the pipelines."""

import importlib
import json
import math
import subprocess
import sys
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import yaml
from machines import SMALL, Planner
from toys import model_plan, train_plan

from pufferfish.base.errors import UserError
from pufferfish.plan.space import NORM_EPS, ROPE_THETA, models
from pufferfish.schema.params import Params
from pufferfish.schema.plan import ModelPlan


def load(name):
    folder = str(Path(__file__).resolve().parents[1] / "benchmarks")
    if folder not in sys.path:
        sys.path.insert(0, folder)  # as Python does for a script
    return importlib.import_module(name)


descent, ledger, paces, pipeline, regret, report, runners = map(load, ("descent", "ledger", "paces", "pipeline", "regret", "report", "runners"))

CHOICE = descent.Configuration(num_layers=2, d_model=96, vocab_size=1024, seq_len=128, tokens_per_step=1536, compile=False, learning_rate=0.015)
BEST = replace(CHOICE, d_model=160, vocab_size=2048, tokens_per_step=384)
SHORT, LONG = ledger.Case("stdlib", "60s"), ledger.Case("/text", "5m")


def notches(configuration):
    """Distance from the best one on each axis, in e-folds."""
    return [math.log(float(value) / float(getattr(BEST, axis))) for axis, value in asdict(configuration).items() if axis != "compile"]


def bowl(configuration):
    return 1.5 * (1 + 0.01 * sum(abs(each) for each in notches(configuration)))


class MadeUp:
    """A runner with a bowl of bits per byte. `refuses` and `is_late` tell of what; everything asked for is noted."""

    def __init__(self, refuses=lambda order: "", spent_s=lambda order: 50.0, export_s=0.0):
        self.orders, self.refuses, self.spent_s, self.export_s = [], refuses, spent_s, export_s

    def __call__(self, order):
        self.orders.append(order)
        if stage := self.refuses(order):
            return ledger.Result(8.0, refused_by=stage, refusal="it cannot be\n  saw:  this\n  fix:  that")
        wished = {axis: value for axis, value in order.pins.items() if axis != "strategy"}
        configuration = replace(CHOICE, **wished)
        return ledger.Result(
            spent_s=self.spent_s(order),
            val_bpb=bowl(configuration) + 0.001 * order.seed,
            val_bytes=777,
            device="cpu",
            configuration=asdict(configuration),
            tokens=4_000_000,
            flops_per_token=3e6,
            export_s=self.export_s,
        )


def price_of(model, attention):
    matrices = 12 * model.num_layers * model.d_model**2 + model.vocab_size * model.d_model
    return SimpleNamespace(num_params=matrices + model.vocab_size * model.d_model, flops_per_token=6 * matrices)


def study(runner, path, *, cases=(SHORT,), num_runs=30, num_seeds=1, num_repeats=0, told=None):
    wishes = regret.Wishes(num_runs, num_seeds, num_repeats)
    laboratory = regret.Laboratory(ledger.Ledger(path), runner, cases, wishes, code="abc", tell=(told if told is not None else []).append)
    studies = [regret.study(case, laboratory, wishes, price_of=price_of) for case in cases]
    assert laboratory.left_s == 0
    return studies


@pytest.fixture
def out(tmp_path):
    return tmp_path / "runs" / "regret.jsonl"


def roles(path):
    return [json.loads(line)["role"] for line in path.read_text().splitlines()]


def test_the_descent_reaches_the_bottom_of_a_bowl_and_evaluates_nothing_twice():
    seen = []
    grids = descent.grids_around(CHOICE, with_compile=False)
    found = descent.descend(CHOICE, bowl(CHOICE), grids, lambda each: seen.append(each) or bowl(each), max_runs=1000)
    assert found == BEST
    assert len(seen) == len({*seen, CHOICE}) - 1


def test_the_descent_ends_when_its_runs_are_used_up_with_the_best_it_saw():
    seen = []
    grids = descent.grids_around(CHOICE, with_compile=False)
    found = descent.descend(CHOICE, bowl(CHOICE), grids, lambda each: seen.append(each) or bowl(each), max_runs=7)
    assert len(seen) == 7
    assert found == min(seen, key=bowl)


def test_where_no_neighbour_is_better_two_axes_change_at_once_and_the_likeliest_pair_comes_first():
    grids = {"d_model": (64, 96, 128), "num_layers": (1, 2, 3)}
    answers = {(64, 2): 2.1, (128, 2): 2.4, (96, 1): 2.2, (96, 3): 2.3, (64, 1): 2.05, (64, 3): 1.9}
    seen = []
    found = descent.descend(CHOICE, 2.0, grids, lambda each: seen.append((each.d_model, each.num_layers)) or answers[seen[-1]], max_runs=6)
    assert (found.d_model, found.num_layers) == (64, 3)
    assert seen[4:] == [(64, 1), (64, 3)]


def test_illegal_neighbours_are_no_runs_and_runs_that_failed_are_no_way():
    grids = {"d_model": (64, 96, 128), "num_layers": (1, 2, 3)}
    answers = {(64, 2): None, (128, 2): math.inf, (96, 1): 3.0}
    found = descent.descend(CHOICE, 2.0, grids, lambda each: answers[each.d_model, each.num_layers], max_runs=2)
    assert found == CHOICE  # three layers would have been the third run


def test_neighbours_are_one_value_away_and_end_with_the_grid():
    grids = descent.grids_around(CHOICE, with_compile=True)
    around = {axis: [getattr(each, axis) for each in descent.neighbours(CHOICE, axis, grid)] for axis, grid in grids.items()}
    assert around.pop("learning_rate") == pytest.approx([0.01, 0.0225])
    assert around == {
        "tokens_per_step": [768, 3072],
        "d_model": [64, 128],
        "num_layers": [1, 3],
        "vocab_size": [512, 2048],
        "seq_len": [256],
        "compile": [True],
    }


def test_a_short_budget_does_not_search_compilation():
    assert "compile" not in descent.grids_around(CHOICE, with_compile=False)


def test_all_values_of_the_grids_ascend():
    assert all(list(grid) == sorted(set(grid)) for grid in descent.grids_around(CHOICE, with_compile=True).values())


def test_random_configurations_come_again_with_their_seed_and_are_whole_sequences():
    drawn = list(islice(descent.draw(CHOICE, 3, with_compile=False), 50))
    assert drawn == list(islice(descent.draw(CHOICE, 3, with_compile=False), 50))
    assert drawn != list(islice(descent.draw(CHOICE, 4, with_compile=False), 50))
    assert all(each.tokens_per_step % each.seq_len == 0 and not each.compile for each in drawn)


def test_the_search_finds_the_regret_and_the_way(out):
    [found] = study(MadeUp(), out)
    summary = report.summarise(found)
    assert summary.regret == pytest.approx(bowl(CHOICE) / bowl(BEST) - 1)
    assert summary.changes == {"d_model": [96, 160], "vocab_size": [1024, 2048], "tokens_per_step": [1536, 384]}
    assert summary.best_role == "search"
    assert summary.num_runs == len(roles(out))


def test_every_run_is_one_line_with_all_that_tells_it_apart(out):
    runner = MadeUp()
    study(runner, out)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(lines) == len(runner.orders)
    assert roles(out)[0] == "planner"
    assert {"corpus", "budget", "role", "pins", "configuration", "val_bpb", "spent_s", "machine", "date", "code"} <= set(lines[0])


def test_no_order_is_run_twice(out):
    runner = MadeUp()
    study(runner, out, cases=[SHORT, LONG], num_repeats=2)
    names = [(order.case, tuple(sorted(order.pins.items())), order.seed) for order in runner.orders]
    assert len(names) == len(set(names))


def test_a_benchmark_that_was_stopped_goes_on_where_it_was(out):
    whole = MadeUp()
    expected = study(whole, out, num_repeats=1)
    lines = out.read_text().splitlines(keepends=True)
    out.write_text("".join(lines[:6]) + lines[6][:40])  # stopped in the middle of a line
    rest = MadeUp()
    found = study(rest, out, num_repeats=1)
    assert rest.orders == whole.orders[6:]
    assert report.summarise(found[0]) == report.summarise(expected[0])
    again = MadeUp()
    assert report.summarise(study(again, out, num_repeats=1)[0]) == report.summarise(expected[0])
    assert not again.orders


def test_what_the_planner_refuses_is_remembered_but_is_no_run(out):
    runner = MadeUp(refuses=lambda order: "plan" if order.pins.get("vocab_size") == 2048 else "")
    [found] = study(runner, out, num_runs=4)
    legal = [run for run in found.runs if run.role == "search" and run.is_legal]
    assert len(legal) == 4
    runner.orders.clear()
    study(runner, out, num_runs=4)
    assert not runner.orders


def test_a_training_that_diverges_is_a_run_that_does_not_count(out):
    [found] = study(MadeUp(refuses=lambda order: "train" if order.pins.get("learning_rate", 0) > 0.015 else ""), out)
    assert any(run.is_legal and run.score == math.inf for run in found.runs)
    assert found.best.order.pins["learning_rate"] == 0.015


def test_who_is_late_is_not_the_best(out):
    [found] = study(MadeUp(spent_s=lambda order: 61.0 if order.pins.get("tokens_per_step") == 384 else 59.0), out)
    assert found.best.result.configuration["tokens_per_step"] == 768


def test_who_leaves_no_time_for_export_is_late(out):
    [found] = study(MadeUp(spent_s=lambda order: 56.5 if order.pins.get("tokens_per_step") == 384 else 55.5, export_s=4.0), out)
    assert found.best.result.configuration["tokens_per_step"] == 768
    late = next(run for run in found.runs if run.order.pins.get("tokens_per_step") == 384)
    assert (late.score, late.failing) == (math.inf, "late by 0.5 s")


def test_runs_of_older_code_that_noted_nothing_of_export_are_read(out):
    study(MadeUp(), out)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    out.write_text("".join(json.dumps({name: value for name, value in line.items() if name != "export_s"}) + "\n" for line in lines))
    again = MadeUp()
    study(again, out)
    assert not again.orders


def test_a_refused_rival_is_told_in_the_table(out):
    [found] = study(MadeUp(refuses=lambda order: "plan" if "strategy" in order.pins else ""), out)
    summary = report.summarise(found)
    assert summary.rivals["table"] is None
    assert summary.rivals["20 per parameter"] > 0
    assert "stdlib, 60s, table: refused by plan: it cannot be" in report.table([summary]).splitlines()


def test_a_refused_planner_ends_its_case_alone(out):
    runner = MadeUp(refuses=lambda order: "plan" if order.case == SHORT else "")
    summaries = [report.summarise(each) for each in study(runner, out, cases=[SHORT, LONG])]
    assert [each.regret is None for each in summaries] == [True, False]
    assert len([order for order in runner.orders if order.case == SHORT]) == 1
    assert "stdlib, 60s, planner: refused by plan: it cannot be" in report.table(summaries)


def test_the_random_rival_is_drawn_until_it_is_legal_once_for_each_seed(out):
    [found] = study(MadeUp(refuses=lambda order: "plan" if order.pins.get("d_model", 0) > 192 else ""), out, num_seeds=3)
    assert len(found.rivals["random"]) == 3
    assert all(run in found.rivals["random"] for run in found.runs if run.role == "random" and run.is_legal)
    assert all(run.result.configuration["d_model"] <= 192 for run in found.rivals["random"])


def test_pairs_are_run_again_with_other_initial_weights_and_the_same_for_both(out):
    runner = MadeUp()
    [found] = study(runner, out, num_repeats=2)
    assert [(first.order.seed, second.order.seed) for first, second in found.pairs] == [(1, 1), (2, 2)]
    assert all(first.order.pins == {} and second.order.pins == asdict(BEST) for first, second in found.pairs)
    summary = report.summarise(found)
    pairs = [(bowl(CHOICE) + 0.001 * seed) / (bowl(BEST) + 0.001 * seed) - 1 for seed in (1, 2)]
    assert summary.regret_again == pytest.approx(sum(pairs) / 2)


def test_a_planner_that_is_the_best_is_not_compared_with_itself(out, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "BEST", CHOICE)
    [found] = study(MadeUp(), out, num_repeats=1)
    assert found.pairs == []
    assert report.summarise(found).regret == 0
    assert "the planner's choice" in report.table([report.summarise(found)])


def test_the_time_left_falls_to_the_last_run(out):
    told = []
    study(MadeUp(), out, cases=[SHORT], num_runs=2, num_repeats=1, told=told)
    left = [line.rsplit("; ", 1)[1] for line in told if line.startswith("---")]
    assert left == [f"about {minutes}m 00s left at most" for minutes in range(8, 0, -1)]


def test_a_corpus_that_changed_is_not_compared_with_itself(out):
    first = study(MadeUp(), out)[0].planner
    other = replace(first, result=replace(first.result, val_bytes=778))
    with pytest.raises(UserError, match="validation text"):
        ledger.Ledger(out).add(other)


def test_twenty_tokens_for_each_parameter_come_out_of_the_planners_operations():
    for tokens in (10**5, 10**7, 10**9):
        planner = ledger.Result(50.0, val_bpb=1.5, device="cpu", tokens=tokens, flops_per_token=6e6)
        pins = regret.twenty_tokens_per_parameter(planner, price_of)
        ratios = {}
        for num_layers in descent.LAYERS:
            price = price_of(SimpleNamespace(num_layers=num_layers, d_model=64 * num_layers, vocab_size=4096), "sdpa")
            ratios[num_layers] = tokens * 6e6 / price.flops_per_token / price.num_params
        assert pins == {
            "num_layers": min(ratios, key=lambda each: abs(math.log(ratios[each] / 20))),
            "d_model": 64 * pins["num_layers"],
            "vocab_size": 4096,
            "seq_len": 256,
        }
    assert pins["num_layers"] > 2


def test_settings_pin_what_is_wanted_and_nothing_else(monkeypatch):
    tried = yaml.safe_load((pipeline.ROOT / "params.yaml").read_text())
    tried["train"]["optimizer"], tried["model"]["num_heads"], tried["plan"]["pilots"] = "adamw", 2, False
    monkeypatch.setattr(pipeline, "copy_project", lambda folder, **_: (folder / "params.yaml").write_text(yaml.safe_dump(tried)))
    monkeypatch.setattr(pipeline.subprocess, "run", lambda *_, **__: None)  # no tracking store
    for order in (regret.Order(SHORT, {}), regret.Order(LONG, asdict(CHOICE), 5), regret.Order(SHORT, {"strategy": "table"})):
        with pipeline.cold_project(runners.settings_of(order)) as folder:
            read = Params.load(folder / "params.yaml")
        assert read.train.pins.keys() | read.model.pins.keys() <= order.pins.keys()
        assert read.plan.pilots == "auto"
        found = {name: getattr(getattr(read, section), name) for name, section in runners.SECTIONS.items()}
        assert found == {**dict.fromkeys(found, "auto"), "strategy": "measured", **order.pins}
        assert (read.budget.time_s, read.data.seed, read.train.seed) == (order.case.budget_s, 0, order.seed)
        assert (read.data.source, read.data.path) == (("stdlib", "") if order.case == SHORT else ("text", "/text"))


def test_a_result_is_read_from_what_the_stages_left(tmp_path):
    model = {"num_layers": 2, "d_model": 96, "vocab_size": 1024, "seq_len": 128, "num_heads": 3}
    train = {"tokens_per_step": 1536, "is_compiled": False, "matrix_lr": 0.015, "device": "cpu"}
    written = {
        "plan.json": {
            "model": model,
            "train": train,
            "forecast": {"flops_per_token": 2.5e6},
            "budget": {"phases": {"export_s": 5.0}, "reserve_factor": 1.25},
        },
        "evaluation.json": {"val_bpb": 1.75, "num_bytes": 777},
        "model/outcome.json": {"num_tokens": 123_456},
        "timing/hardware-probe.json": {"start_s": 10.0, "end_s": 13.0},
        "timing/evaluate.json": {"start_s": 52.0, "end_s": 57.5},
    }
    for name, content in written.items():
        (tmp_path / "artifacts" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "artifacts" / name).write_text(json.dumps(content))
    expected = ledger.Result(47.5, 1.75, 777, "cpu", asdict(CHOICE), 123_456, 2.5e6, export_s=4.45)
    assert runners.read_result(tmp_path) == expected


# --- on a machine that others use


def planned(num_steps=100, step_s=0.1, unused_s=0.0, probe_s=3.0, **model):
    """What the benchmark reads of a plan."""
    axes = {name: getattr(CHOICE, name) for name in ("num_layers", "d_model", "vocab_size", "seq_len")}
    return {
        "model": model_plan(**axes | {"rope_theta": ROPE_THETA, "norm_eps": NORM_EPS} | model).model_dump(),
        "train": {"tokens_per_step": 1536, "is_compiled": False, "matrix_lr": 0.015, "device": "cpu", "num_steps": num_steps, "teacher_share": 0.25},
        "forecast": {"step_s": step_s, "flops_per_token": 2.5e6},
        "budget": {"unused_s": unused_s, "phases": {"hardware_probe_s": probe_s, "between_s": 2.0, "export_s": 5.0}, "reserve_factor": 1.25},
    }


@pytest.mark.parametrize(("unused_s", "step_s", "num_steps"), [(0.0, 0.1, 100), (0.0, 0.2, 50), (0.0, 0.05, 200), (10.0, 0.1, 100), (10.0, 0.25, 80)])
def test_steps_are_counted_by_the_time_that_the_plan_has_for_them_unless_fewer_are_better(unused_s, step_s, num_steps):
    settings = runners.counted(runners.settings_of(regret.Order(SHORT, {"learning_rate": 0.02})), planned(unused_s=unused_s), step_s=step_s)
    pinned = {"tokens_per_step": 1536, "compile": False, "teacher_share": 0.25, "num_steps": num_steps}
    assert settings["train"] == {"seed": 0, "learning_rate": 0.02} | pinned
    assert settings["data"] == {"source": "stdlib", "path": "", "seed": 0, "vocab_size": 1024}
    read = Params.model_validate({name: dict(section) for name, section in settings.items()}).model
    [again] = models(read, [1024], max_seq_len=128)
    assert again == ModelPlan(**planned()["model"]), "the model that was timed, with heads of its own"


def test_in_turn_each_is_trained_for_as_many_steps_as_its_pace_against_the_planners_leaves_time_for(tmp_path, monkeypatch):
    asked = []

    def reproduce(folder, stage):
        wished = yaml.safe_load((folder / "params.yaml").read_text())
        asked.append((stage, wished["train"]["num_steps"]))
        width = wished["model"]["d_model"]
        (folder / runners.SPEEDS).mkdir(parents=True, exist_ok=True)
        speeds = folder / runners.SPEEDS / "this.json"
        if not speeds.exists():
            speeds.write_text(f"found for {width}")
        written = {
            # whatever others do meanwhile
            "plan.json": planned(step_s=0.1, d_model=96) if width == "auto" else planned(step_s=0.5, d_model=width, probe_s=5.0),
            "evaluation.json": {"val_bpb": 1.75, "num_bytes": 777},
            "model/outcome.json": {"num_tokens": 123_456},
            "timing/hardware-probe.json": {"start_s": 10.0, "end_s": 13.0},
            "timing/evaluate.json": {"start_s": 52.0, "end_s": 97.5},
        }
        for name, content in written.items():
            (folder / "artifacts" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "artifacts" / name).write_text(json.dumps(content))

    def ratio(plan, other, code):
        assert (plan.parents[1] / runners.SPEEDS / "this.json").read_text() == "found for auto"
        assert json.loads(other.read_text())["model"]["d_model"] == 96
        return json.loads(plan.read_text())["model"]["d_model"] / 96

    monkeypatch.setattr(pipeline, "copy_project", lambda folder, **_: None)
    monkeypatch.setattr(pipeline.subprocess, "run", lambda *_, **__: None)  # no tracking store
    monkeypatch.setattr(pipeline, "reproduce_quietly", reproduce)
    monkeypatch.setattr(paces, "ratio", ratio)
    book = ledger.Ledger(tmp_path / "runs.jsonl")
    laboratory = regret.Laboratory(book, runners.InTurn(book, project=tmp_path), [SHORT], regret.Wishes(1, 0, 0), code="abc", tell=asked.append)
    planner = laboratory.run(regret.Order(SHORT, {}), "planner")
    wider = laboratory.run(regret.Order(SHORT, asdict(replace(CHOICE, d_model=192))), "search")
    assert [each for each in asked if isinstance(each, tuple)] == [("plan", "auto"), ("evaluate", 100), ("plan", "auto"), ("evaluate", 260)]
    assert planner.score == wider.score == 1.75, "its own time does not count"
    assert [bool(run.result.plan) for run in ledger.Ledger(tmp_path / "runs.jsonl").runs] == [True, False]


def test_the_ratio_of_paces_is_that_of_the_first_over_the_other(tmp_path):
    server = Planner("server").plan("60s", **SMALL)
    plans = {}
    for num_layers in (1, 12):
        plan = server.model_copy(update={"model": model_plan(num_layers=num_layers), "train": train_plan()})
        plans[num_layers] = tmp_path / f"{num_layers}.json"
        plan.save(plans[num_layers])
    assert paces.ratio(plans[12], plans[1], code=pipeline.ROOT, turns=2) > 1
    (tmp_path / "none.json").write_text("{}")
    with pytest.raises(pipeline.Refused, match="status"):
        paces.ratio(tmp_path / "none.json", plans[1], code=pipeline.ROOT, turns=2)


@pytest.mark.parametrize("further", [[], ["--in-turn"]])
def test_runs_against_the_clock_and_counted_ones_do_not_share_a_file(tmp_path, monkeypatch, capsys, further):
    laboratory = ["regret.py", "--runs", "0", "--seeds", "0", "--budgets", "60s", "--out", str(tmp_path / "runs.jsonl")]
    monkeypatch.setattr(pipeline, "copy_project", lambda folder: None)
    monkeypatch.setattr(regret, "run_pipeline", lambda order, project: MadeUp()(order))
    monkeypatch.setattr(runners.InTurn, "__call__", lambda self, order: replace(MadeUp()(order), plan={} if order.pins else {"forecast": {}}))
    monkeypatch.setattr(sys, "argv", laboratory + further)
    regret.main()
    monkeypatch.setattr(sys, "argv", laboratory + (["--in-turn"] if not further else []))
    with pytest.raises(SystemExit):
        regret.main()
    assert "give another file" in capsys.readouterr().err


REFUSED = """
Running stage 'plan':
> python stages/plan.py
plan: tokens per step are not whole sequences
  saw:  train.tokens_per_step: 1000; a sequence has 128 tokens
  fix:  set `train.tokens_per_step: 1024`
ERROR: failed to reproduce 'plan': failed to run: python stages/plan.py, exited with 2
"""


def test_a_refusal_is_told_from_a_crash_by_the_status_of_the_stage():
    refused = pipeline.refusal_in(REFUSED)
    assert refused.stage == "plan"
    assert refused.text.splitlines()[0] == "tokens per step are not whole sequences"
    assert refused.text.endswith("fix:  set `train.tokens_per_step: 1024`")
    assert pipeline.refusal_in(REFUSED.replace("with 2", "with 1")) is None
    assert pipeline.refusal_in(REFUSED.replace("stages/plan.py, exited", "stages/hardware_probe.py, exited")).stage == "hardware-probe"


@pytest.mark.parametrize(("status", "raised"), [(2, pipeline.Refused), (1, subprocess.CalledProcessError)])
def test_a_quiet_pipeline_tells_of_a_refusal_and_shows_the_last_words_of_a_crash(tmp_path, monkeypatch, capfd, status, raised):
    code = f"import sys; sys.exit({REFUSED.replace('with 2', f'with {status}')!r})"
    monkeypatch.setattr(pipeline, "dvc_repro", lambda *targets: [sys.executable, "-c", code])
    with pytest.raises(raised):
        pipeline.reproduce_quietly(tmp_path, "evaluate")
    assert (f"exited with {status}" in capfd.readouterr().err) == (status == 1)


def test_a_copy_has_what_git_knows_and_what_is_new_but_no_result(tmp_path):
    source, copy, snapshot = tmp_path / "source", tmp_path / "copy", tmp_path / "snapshot"
    for name, text in {"known.py": "1", "new.py": "2", "artifacts/plan.json": "{}", "dvc.lock": "", "ignored.txt": "", ".gitignore": "ignored.txt"}.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(text)
    subprocess.run(["git", "init", "--quiet"], cwd=source, check=True)
    subprocess.run(["git", "add", "known.py", ".gitignore"], cwd=source, check=True)
    pipeline.copy_project(snapshot, source=source)
    pipeline.copy_project(copy, source=snapshot)
    assert sorted(path.name for path in copy.iterdir()) == [".git", ".gitignore", "known.py", "new.py"]


def test_what_still_delivers_is_waited_for(tmp_path):
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(0.3)", str(tmp_path / "journal")]) as process:
        pipeline.wait_for_stragglers(tmp_path)
        assert not psutil.pid_exists(process.pid) or process.poll() == 0


def test_the_table_names_mean_and_worst_under_the_heads(out):
    summaries = [report.summarise(each) for each in study(MadeUp(), out, cases=[SHORT, LONG])]
    summaries = [replace(each, regret=share) for each, share in zip(summaries, (0.01, 0.03), strict=True)]
    head, *lines = report.table(summaries).splitlines()
    end = head.index("regret") + len("regret")
    assert [line[:end].split()[-1] for line in lines] == ["+1.00%", "+3.00%", "+2.00%", "+3.00%"]
    assert [line.split()[0] for line in lines] == ["stdlib", "/text", "mean", "worst"]
    json.dumps([asdict(each) for each in summaries])


def test_it_goes_on_in_a_file_of_its_own_unless_another_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(regret, "OUT", tmp_path / "kept")
    monkeypatch.setattr(sys, "argv", ["regret.py", "--budgets", "60s", "--corpora", "stdlib", "--runs", "2"])
    monkeypatch.setattr(pipeline, "copy_project", lambda folder: None)
    monkeypatch.setattr(regret, "run_pipeline", lambda order, project: MadeUp()(order))
    regret.main()
    (own,) = regret.OUT.iterdir()
    assert len(roles(own)) == 6
    assert "not run again" not in capsys.readouterr().err
    regret.main()
    assert len(roles(own)) == 6
    assert f"{own} has 6 runs, which are not run again" in capsys.readouterr().err
    monkeypatch.setattr(regret, "digest_files", lambda files: "another")
    regret.main()
    assert "not run again" not in capsys.readouterr().err
    assert len(list(regret.OUT.iterdir())) == 2


def test_its_own_file_is_none_of_the_checkouts():
    ignored = (pipeline.ROOT / ".gitignore").read_text("utf-8").splitlines()
    assert f"/{regret.OUT.relative_to(pipeline.ROOT)}/" in ignored
