"""`pufferfish replay`: train a model once more, step by step, and see whether the weights are the same, bit for bit."""

from __future__ import annotations

import argparse
import sys

from pufferfish.base import paths

EXIT_DIFFERENT = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which training."""
    help_text = "a folder that `dvc repro` left behind, with the model, its schedule and the prepared text, or the id of a run in MLflow (default: %(default)s)"
    parser.add_argument("training", nargs="?", default=str(paths.ARTIFACTS), metavar="FOLDER|RUN", help=help_text)


def run(arguments: argparse.Namespace) -> int:
    """0 for the same weights, 1 for others. Raises UserError if there is nothing to repeat or if the prepared text changed."""
    from pufferfish.base.runtime import ensure_runtime
    from pufferfish.experiments.recording import find_recording

    with find_recording(arguments.training, report=lambda line: print(f"replay: {line}", flush=True)) as recording:
        ensure_runtime(recording.plan.train.num_threads)

        from pufferfish.experiments.replay import replay, told  # torch arrives here
        from pufferfish.ui.view import view_for

        print(f"replay: {recording.outcome.num_steps:,} steps of {arguments.training}, in a temporary folder", flush=True)
        with view_for(recording.plan, sys.stdout) as view:
            comparison = replay(recording, view)
    print(told(comparison))
    return EXIT_DIFFERENT if comparison.explanation else 0
