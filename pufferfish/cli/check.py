"""`pufferfish check`: whether params.yaml is right, in a fraction of a second and before anything runs."""

from __future__ import annotations

import argparse

from pufferfish.base import paths
from pufferfish.schema.params import Params


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None: it reads the settings of the folder it is called in."""


def run(arguments: argparse.Namespace) -> int:
    """Raises UserError with every mistake in the file, also where it is no YAML and DVC could not read it either."""
    params = Params.load(paths.PARAMS)
    print(f"{paths.PARAMS} is right: {params.budget.time} for the source {params.data.source}")
    return 0
