"""generate: text from the trained model, shown while it is made."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pufferfish.base import paths
from pufferfish.base.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `pufferfish generate`."""
    parser.add_argument("prompt", nargs="?", default="", help="beginning of the text; without it a new document begins")
    parser.add_argument("--model", type=Path, default=paths.MODEL, metavar="FOLDER", help="trained model (default: %(default)s)")
    parser.add_argument("--max-tokens", type=int, default=200, metavar="N", help="at most so many tokens (default: %(default)s)")
    parser.add_argument("--temperature", type=float, default=0.8, metavar="T", help="0 always takes the likeliest token (default: %(default)s)")
    parser.add_argument("--top-k", type=int, default=0, metavar="K", help="choose from the K likeliest tokens; 0 is all (default: %(default)s)")
    parser.add_argument(
        "--top-p", type=float, default=0.95, metavar="P", help="choose from the likeliest tokens with this probability together (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="another number, another text (default: %(default)s)")


def run(arguments: argparse.Namespace) -> int:
    """Write prompt and text to the terminal as they come. Raises UserError if there is no model or a setting has no meaning."""
    if arguments.max_tokens < 1:
        raise UserError("nothing to generate", saw=f"--max-tokens {arguments.max_tokens}", fix="give 1 or more")
    if not 0 <= arguments.seed < 2**63:
        raise UserError("the seed is not right", saw=f"--seed {arguments.seed}", fix="give a whole number from 0 on")
    if any("\ud800" <= character <= "\udfff" for character in arguments.prompt):  # how Python carries bytes that it could not decode
        raise UserError("the prompt is not UTF-8 text", saw=ascii(arguments.prompt), fix="give it in UTF-8")
    if not arguments.model.is_dir():
        raise UserError(
            "there is no trained model yet", saw=f"no folder {arguments.model.absolute()}", fix="run `make repro`, or name a model with --model FOLDER"
        )
    check_is_of_a_training(arguments.model)

    from pufferfish.data.tokenizer import load_tokenizer  # torch arrives with the engine, once the user's part is right
    from pufferfish.generate.engine import Engine
    from pufferfish.model.load import load_model

    model, _ = load_model(arguments.model)
    engine = Engine(model, load_tokenizer(arguments.model / "tokenizer.json"))
    pieces = engine.stream(
        arguments.prompt,
        max_tokens=arguments.max_tokens,
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        seed=arguments.seed,
    )
    sys.stdout.write(arguments.prompt)
    for piece in pieces:
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")
    return 0


def check_is_of_a_training(folder: Path) -> None:
    """Raises UserError for a folder that no training wrote, such as an export: to train again would not mend it. Its own folder is read as it is."""
    missing = [name for name in ("plan.json", "outcome.json") if not (folder / name).exists()]
    if not missing or folder == paths.MODEL:
        return
    fix = f"leave --model out, or name a folder that training wrote, as {paths.MODEL} is"
    if (folder / "config.json").exists():
        fix += f"; an export is loaded by transformers: `AutoModelForCausalLM.from_pretrained({str(folder)!r})`"
    raise UserError("this is not the folder of a training", saw=f"no {' and no '.join(missing)} in {folder.absolute()}", fix=fix)
