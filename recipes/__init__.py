"""Ready-made runs; each file opens with its command."""
