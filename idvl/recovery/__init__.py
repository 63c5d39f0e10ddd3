"""A pruned model trained back under its masks: masked LoRA, full training, or biases and norms alone."""
