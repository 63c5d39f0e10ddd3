"""The parts of a pruning run."""
