"""Floor 1: the artifacts between the stages, and the wishes they start from, as checked data. No torch, no numpy."""
