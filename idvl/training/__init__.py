"""The Accelerate loop: accumulate, clip, step, hook, save, resume. It knows neither recipes nor what pruning is."""

from idvl.training.loop import Outcome, train
from idvl.training.ranks import agree
from idvl.training.settings import Training, global_batch, steps_per_epoch, total_steps

__all__ = ["Outcome", "Training", "agree", "global_batch", "steps_per_epoch", "total_steps", "train"]
