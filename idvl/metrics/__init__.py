"""Predictions and references -> numbers, with how sure they are. Nothing here knows a model."""
