"""Floor 0: what every other room stands on. Standard library and psutil only; nothing here imports another room."""
