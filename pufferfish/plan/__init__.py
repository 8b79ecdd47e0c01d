"""Floor 2: pure arithmetic. No torch, no clock, no files: prices and measurements are handed in."""
