"""The space that the planner chooses from, and coordinate descent in it: one value up or down at a time, as long as that is better; then two."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from pufferfish.plan.space import CONTEXTS, LAYERS, VOCABULARIES, WIDTHS, models
from pufferfish.schema.params import ModelParams

NOTCHES = 6  # at most, away from the planner's choice, for what has no grid of its own
LEARNING_RATE_NOTCH = 1.5
DRAWN_NOTCHES = 2  # of a random batch and learning rate

Grids = Mapping[str, Sequence[Any]]  # ascending values by axis, in the order in which the axes are searched
Evaluate = Callable[["Configuration"], float | None]  # bits per byte, infinite for a run that does not count; None where the configuration is illegal


@dataclass(frozen=True)
class Configuration:
    """What the search may change."""

    num_layers: int
    d_model: int
    vocab_size: int
    seq_len: int
    tokens_per_step: int
    compile: bool
    learning_rate: float


def grids_around(start: Configuration, *, with_compile: bool) -> Grids:
    """The planner's own grids, and steps away from the start where it has none. First what matters most at a fixed time."""
    halvings = [start.tokens_per_step >> notch for notch in range(NOTCHES, 0, -1) if start.tokens_per_step % (1 << notch) == 0]
    rates = [start.learning_rate * LEARNING_RATE_NOTCH**notch for notch in range(-NOTCHES, NOTCHES + 1)]
    return {
        "tokens_per_step": [*halvings, *(start.tokens_per_step << notch for notch in range(NOTCHES + 1))],
        "d_model": WIDTHS,
        "num_layers": LAYERS,
        "vocab_size": VOCABULARIES,
        "seq_len": CONTEXTS,
        "learning_rate": rates,
        **({"compile": (False, True)} if with_compile else {}),
    }


def neighbours(here: Configuration, axis: str, grid: Sequence[Any]) -> Iterator[Configuration]:
    """One value down and one up, where there are such."""
    value = getattr(here, axis)
    lower, higher = [each for each in grid if each < value], [each for each in grid if each > value]
    yield from (replace(here, **{axis: each}) for each in (*lower[-1:], *higher[:1]))


def descend(start: Configuration, start_bpb: float, grids: Grids, evaluate: Evaluate, *, max_runs: int) -> Configuration:
    """Go along each axis in turn as long as a neighbour is better. Where none is on any axis, change two at once, first those that cost least alone, and go
    on from the first that is better; end where none is, or where the runs are used up.

    No configuration is evaluated twice, and illegal ones are no runs. Returns the best configuration seen.
    """
    seen = _Seen({start: start_bpb}, evaluate, max_runs)
    here: Configuration | None = start
    while here:
        here = _across(_along(here, grids, seen), grids, seen)
    return seen.best


class _Seen:
    """What was evaluated, and how many runs are left."""

    def __init__(self, known: dict[Configuration, float], evaluate: Evaluate, runs_left: int) -> None:
        self._known, self._evaluate, self._runs_left = known, evaluate, runs_left

    @property
    def best(self) -> Configuration:
        return min(self._known, key=self._known.__getitem__)

    def bpb(self, there: Configuration) -> float:
        """Infinite where it is illegal, or where no run is left for it."""
        if there not in self._known and self._runs_left > 0:
            bpb = self._evaluate(there)
            self._known[there] = math.inf if bpb is None else bpb
            self._runs_left -= bpb is not None
        return self._known.get(there, math.inf)


def _along(here: Configuration, grids: Grids, seen: _Seen) -> Configuration:
    """From neighbour to neighbour, until none is better on any axis."""
    axes, num_kept = list(grids), 0
    while num_kept < len(axes):
        best = min([here, *neighbours(here, axes[0], grids[axes[0]])], key=seen.bpb)
        if best == here:
            axes, num_kept = [*axes[1:], axes[0]], num_kept + 1
        else:
            here, num_kept = best, 0
    return here


def _across(here: Configuration, grids: Grids, seen: _Seen) -> Configuration | None:
    """The first better one that differs on two axes; None where there is none."""
    moves = [(axis, there) for axis, grid in grids.items() for there in neighbours(here, axis, grid)]
    pairs = [(one, other, axis) for (first, one), (axis, other) in combinations(moves, 2) if first != axis]
    pairs.sort(key=lambda pair: seen.bpb(pair[0]) + seen.bpb(pair[1]))
    both = (replace(one, **{axis: getattr(other, axis)}) for one, other, axis in pairs)
    return next((there for there in both if seen.bpb(there) < seen.bpb(here)), None)


def draw(choice: Configuration, seed: int, *, with_compile: bool) -> Iterator[Configuration]:
    """Random configurations without end: models uniformly from all that the planner knows, batch and learning rate within a few notches of its choice."""
    dice, grids = random.Random(seed), grids_around(choice, with_compile=with_compile)
    every = list(models(ModelParams(), VOCABULARIES, max_seq_len=CONTEXTS[-1]))
    nearest = {axis: _around(getattr(choice, axis), grids[axis]) for axis in ("tokens_per_step", "learning_rate")}
    while True:
        model = dice.choice(every)
        tokens_per_step, learning_rate = dice.choice(nearest["tokens_per_step"]), dice.choice(nearest["learning_rate"])
        is_compiled = dice.choice(grids["compile"]) if with_compile else choice.compile
        if tokens_per_step % model.seq_len == 0:
            yield Configuration(model.num_layers, model.d_model, model.vocab_size, model.seq_len, tokens_per_step, is_compiled, learning_rate)


def _around(value: float, grid: Sequence[Any]) -> Sequence[Any]:
    middle = grid.index(value)
    return grid[max(0, middle - DRAWN_NOTCHES) : middle + DRAWN_NOTCHES + 1]
