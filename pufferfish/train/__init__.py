"""Floor 4: training under a deadline. The loop yields events and never prints."""
