"""Floor 6: questions about whole trainings, answered by training."""
