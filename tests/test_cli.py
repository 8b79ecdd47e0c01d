"""The console script: sub-commands are found late, mistakes are told in three lines."""

import errno
from pathlib import Path

import pytest
from machines import MACHINES
from toys import model_plan, outcome, whole_plan

from pufferfish.base import atomic, paths
from pufferfish.base.errors import UserError
from pufferfish.cli import main as cli
from pufferfish.schema.plan import STAGES
from pufferfish.schema.reports import Evaluation, ExportReport
from pufferfish.track import browse

ROOT = Path(__file__).resolve().parents[1]
SIZE = ["size", "--layers", "2", "--width", "64", "--context", "128", "--vocab", "300"]


class Told:
    """A sub-command that does what a test wants."""

    def __init__(self, outcome):
        self.outcome = outcome

    def add_arguments(self, parser):
        parser.add_argument("--depth", type=int, default=3)

    def run(self, arguments):
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome + arguments.depth


@pytest.fixture
def behave(monkeypatch):
    def install(outcome):
        monkeypatch.setattr(cli, "command_module", lambda name: Told(outcome))

    return install


def test_the_arguments_reach_the_command_and_its_status_comes_back(behave):
    behave(0)
    assert cli.main(["plan", "--depth", "7"]) == 7


def test_a_mistake_of_the_user_is_three_lines_and_status_2(behave, capsys):
    behave(UserError("no water", saw="an empty tank", fix="fill it"))
    assert cli.main(["doctor"]) == 2
    assert capsys.readouterr().err == "doctor: no water\n  saw:  an empty tank\n  fix:  fill it\n"


def test_an_interruption_is_status_130(behave):
    behave(KeyboardInterrupt())
    assert cli.main(["generate"]) == 130


def test_our_own_defects_keep_their_traceback(behave):
    behave(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        cli.main(["plan"])


def test_help_names_every_command_and_imports_none(monkeypatch, capsys):
    monkeypatch.setattr(cli, "command_module", lambda name: pytest.fail(f"imported {name}"))
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--help"])
    said = capsys.readouterr().out
    assert all(name in said for name in cli.COMMANDS)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_is_there_and_has_a_help_of_its_own(name, capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main([name, "--help"])
    assert name in capsys.readouterr().out


def test_check_accepts_the_shipped_settings_and_refuses_broken_ones(workplace, capsys):
    paths.PARAMS.write_text((ROOT / "params.yaml").read_text("utf-8"), "utf-8")
    assert cli.main(["check"]) == 0
    assert capsys.readouterr().err == ""
    paths.PARAMS.write_text("budget: {time: 3m")
    assert cli.main(["check"]) == 2
    assert "is not valid YAML" in capsys.readouterr().err


def test_the_summary_before_any_run_says_what_to_run(workplace, capsys):
    assert cli.main(["summary"]) == 2
    assert "dvc repro" in capsys.readouterr().err


MISTYPED = [
    ([], "pufferfish", "command", "pufferfish --help"),
    (["sumary"], "pufferfish", "'sumary'", "pufferfish --help"),
    (["summary", "again"], "summary", "again", "pufferfish summary --help"),
    (["plan", "--budget"], "plan", "--budget", "pufferfish plan --help"),
    (["size", "--layers", "two"], "size", "'two'", "pufferfish size --help"),
    (["generate", "--seed", "1.5"], "generate", "'1.5'", "pufferfish generate --help"),
]


@pytest.mark.parametrize(("words", "name", "saw", "fix"), MISTYPED, ids=[" ".join(row[0]) for row in MISTYPED])
def test_what_was_mistyped_is_told_in_three_lines_too(capsys, words, name, saw, fix):
    assert cli.main(words) == 2
    told = capsys.readouterr().err.splitlines()
    assert told[0] == f"{name}: the command line is not right"
    assert saw in told[1]
    assert told[2] == f"  fix:  see `{fix}`"
    assert len(told) == 3


@pytest.mark.parametrize("error", [IsADirectoryError, NotADirectoryError, PermissionError])
def test_what_stands_in_the_place_of_a_file_is_told_by_its_name(behave, capsys, error):
    behave(error(1, "In the way", "deep/file.json"))
    assert cli.main(["replay"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "replay: deep/file.json cannot be used",
        "  saw:  In the way",
        "  fix:  check what stands there, a file or a folder, and that you may read and write it",
    ]


def test_a_full_disk_is_told_in_three_lines(behave, capsys):
    behave(OSError(errno.ENOSPC, "No space left on device", "weights"))
    assert cli.main(["doctor"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said == ["doctor: the disk is full", "  saw:  No space left on device: weights", "  fix:  make room on the disk, then try again"]


def test_a_width_beyond_all_models_is_refused_at_once(capsys):
    assert cli.main([*SIZE[:4], "999999999998", *SIZE[5:]]) == 2
    assert "give at most" in capsys.readouterr().err


def test_an_empty_budget_is_shown_as_nothing(workplace, capsys):
    paths.PARAMS.write_text((ROOT / "params.yaml").read_text())
    assert cli.main(["plan", "--budget", ""]) == 2
    assert "--budget (nothing)" in capsys.readouterr().err


def test_a_prompt_that_is_no_text_is_refused_before_a_model_is_loaded(workplace, capsys):
    paths.MODEL.mkdir(parents=True)
    assert cli.main(["generate", b"caf\xe9".decode("utf-8", "surrogateescape")]) == 2
    assert capsys.readouterr().err.splitlines()[:2] == ["generate: the prompt is not UTF-8 text", "  saw:  'caf\\udce9'"]


@pytest.fixture
def finished(workplace):
    """What a whole run leaves for the summary."""
    numbers = dict.fromkeys(("val_bpb", "val_loss_nats", "perplexity", "num_tokens", "num_bytes", "forecast_bpb", "ngram_tokens"), 1)
    Evaluation(weights_sha256="w0", baselines={}, **numbers).save(paths.EVALUATION)
    MACHINES["laptop"].save(paths.HARDWARE)
    whole_plan().save(paths.PLAN)
    outcome(whole_plan()).save(paths.MODEL / "outcome.json")
    for number, stage in enumerate(STAGES):
        atomic.write_json(paths.timing(stage), {"stage": stage, "boot_id": "b", "start_s": 2.0 * number, "end_s": 2.0 * number + 1, "elapsed_s": 1.0})
    assert cli.main(["summary"]) == 0


@pytest.mark.parametrize("stamp", ["", "{}", "[]", "null", '{"elapsed_s": 1.0}', '{"boot_id": "b", "start_s": 0, "end_s": 1, "elapsed_s": "long"}'])
def test_a_stamp_that_tells_no_time_is_told_by_the_name_of_its_stage(finished, capsys, stamp):
    paths.timing("train").write_text(stamp)
    assert cli.main(["summary"]) == 2
    assert "what the stage train cost is not known" in capsys.readouterr().err


@pytest.mark.parametrize("left", ["plan", "evaluation", "export"])
def test_what_an_interrupted_run_left_of_the_one_before_is_not_told_as_its_result(finished, capsys, left):
    if left == "plan":
        whole_plan(model_plan(num_layers=9)).save(paths.PLAN)
    if left == "evaluation":
        Evaluation.load(paths.EVALUATION).model_copy(update={"weights_sha256": "other"}).save(paths.EVALUATION)
    if left == "export":
        numbers = dict.fromkeys(("num_bytes", "max_logit_difference", "num_texts_compared"), 1)
        ExportReport(weights_sha256="other", folder="artifacts/export/hf", architecture="Qwen3ForCausalLM", **numbers).save(paths.EXPORT / "hf.json")
    assert cli.main(["summary"]) == 2
    assert {"plan": "the model is of another plan"}.get(left, f"the {left} is of another model") in capsys.readouterr().err


@pytest.mark.parametrize("spoil", [lambda path: path.write_bytes(b"\xff"), lambda path: path.mkdir()], ids=["no text", "a folder"])
def test_samples_that_cannot_be_read_are_told_by_their_name(finished, capsys, spoil):
    spoil(paths.SAMPLES)
    assert cli.main(["summary"]) == 2
    told = capsys.readouterr().err.splitlines()
    assert "samples.md" in told[0]
    assert len(told) == 3


@pytest.mark.parametrize(("written", "port"), [(None, "5000"), ("", "5000"), ("5001", "5001"), (" 80 ", "80")])
def test_the_browser_of_runs_is_on_the_port_that_is_wished_and_says_it(workplace, monkeypatch, capsys, written, port):
    monkeypatch.setattr(browse.os, "environ", {"PUFFERFISH_UI_PORT": written} if written is not None else {})
    became = []
    monkeypatch.setattr(browse.os, "execv", lambda program, arguments: became.append(arguments[-4:]))
    browse.main()
    assert became == [["--host", "127.0.0.1", "--port", port]]
    assert f"http://127.0.0.1:{port}/" in capsys.readouterr().out


@pytest.mark.parametrize("written", ["x", "0", "65536", "5_000", "-1", "50.5"])
def test_a_port_that_is_none_is_told_in_three_lines(workplace, monkeypatch, capsys, written):
    monkeypatch.setattr(browse.os, "environ", {"PUFFERFISH_UI_PORT": written})
    with pytest.raises(SystemExit, match="2"):
        browse.main()
    assert capsys.readouterr().err.splitlines() == [
        "ui: the port is not right",
        f"  saw:  PUFFERFISH_UI_PORT={written}",
        "  fix:  give a number from 1 to 65535, for example PUFFERFISH_UI_PORT=5001",
    ]
