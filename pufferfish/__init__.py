"""Pufferfish: tell it how long you have, and it trains the best small language model your machine can train by then."""

__version__ = "0.1.0"
