"""Where text comes from: one file per source. Standard library only, since the probe looks at the text on every run."""
