"""The console script: sub-commands are found late, mistakes are told in three lines."""

import pytest

from pufferfish.base.errors import UserError
from pufferfish.cli import main as cli


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
    (workplace / "params.yaml").write_text("budget: {time: 3m")
    assert cli.main(["check"]) == 2
    assert "is not valid YAML" in capsys.readouterr().err


def test_the_summary_before_any_run_says_what_to_run(workplace, capsys):
    assert cli.main(["summary"]) == 2
    assert "dvc repro" in capsys.readouterr().err
