"""The console script `pufferfish`. Each sub-command is a file of this room, imported only when it is called.

A sub-command's file offers `add_arguments(parser)` and `run(arguments) -> int`, the exit status.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from typing import Any, NoReturn

from pufferfish import __version__
from pufferfish.base.errors import UserError
from pufferfish.base.output import mute
from pufferfish.base.refusals import as_user_error
from pufferfish.base.stage import EXIT_INTERRUPTED, EXIT_USER_ERROR

COMMANDS = {
    "check": "whether params.yaml is right",
    "doctor": "what this machine has, what is missing, and what may be cleaned up",
    "plan": "what would be trained for a budget, and how good it would be, without training",
    "size": "what any model would need: parameters, arithmetic, memory, days on a machine",
    "generate": "continue a text with the trained model",
    "replay": "train the last model, or that of an earlier run, once more and see whether the weights are the same, bit for bit",
    "summary": "what the last `dvc repro` did",
}


class Parser(argparse.ArgumentParser):
    """Tells what was mistyped as all mistakes are told."""

    def error(self, message: str) -> NoReturn:
        """Raises UserError, where argparse would print and exit."""
        raise mistyped(message, self.prog)


def mistyped(saw: str, program: str) -> UserError:
    """What to raise for words that `program` does not take."""
    return UserError("the command line is not right", saw=saw, fix=f"see `{program} --help`")


def command_module(name: str) -> Any:
    """The file behind a sub-command."""
    return importlib.import_module(f"pufferfish.cli.{name}")


def make_parser(chosen: str | None) -> argparse.ArgumentParser:
    """All names and one line for each; the arguments of only the chosen one, so that nothing else is imported."""
    parser = Parser(prog="pufferfish", description="Tell it how long you have: `dvc repro` trains the best small language model by then.")
    parser.add_argument("--version", action="version", version=f"pufferfish {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    for name, line in COMMANDS.items():
        command = commands.add_parser(name, help=line, description=f"{line[:1].upper()}{line[1:]}.")
        if name == chosen:
            command_module(name).add_arguments(command)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0, 2 for a mistake of the user (told in three lines), 130 when interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    chosen = next((word for word in arguments if word in COMMANDS), None)
    name = chosen or "pufferfish"
    try:
        parsed, left_over = make_parser(chosen).parse_known_args(arguments)
        if left_over:
            raise mistyped(f"unrecognized arguments: {' '.join(left_over)}", f"pufferfish {parsed.command}")
        return int(command_module(parsed.command).run(parsed))
    except UserError as error:
        return tell(f"{name}: {error}", EXIT_USER_ERROR)
    except BrokenPipeError:
        # The reader of our output has seen enough (`| head`); keep the interpreter from complaining when it flushes.
        mute(sys.stdout)
        return 0
    except (IsADirectoryError, NotADirectoryError, PermissionError) as error:
        if error.filename is None:
            raise
        what, fix = f"{error.filename} cannot be used", "check what stands there, a file or a folder, and that you may read and write it"
        return tell(f"{name}: {UserError(what, saw=str(error.strerror), fix=fix)}", EXIT_USER_ERROR)
    except (OSError, MemoryError, RuntimeError) as error:
        refused = as_user_error(error, then="then try again")
        if not refused:
            raise
        return tell(f"{name}: {refused}", EXIT_USER_ERROR)
    except KeyboardInterrupt:
        return tell(f"{name}: interrupted", EXIT_INTERRUPTED)


def tell(lines: str, status: int) -> int:
    """Say why it ends, and pass the exit status on."""
    print(lines, file=sys.stderr, flush=True)
    return status
