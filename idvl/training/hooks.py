"""What a training calls while it runs. It does not know what its hooks do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Numbers = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """What `train` calls, and when; steps and epochs count from 1.

    `on_step(step)` comes after the optimizer's step and before gradients are cleared: these are unscaled, clipped, and
    averaged over processes and terms; a step that fp16 skipped does not count. `on_epoch(epoch, step)` comes after each
    whole epoch of samples, `step` being the steps made so far, `evaluate(step)` after each `evaluate_every`-th step:
    both in eval mode, on every process, and what they draw changes no random number of training. On the first process
    alone, `progress(step, of, numbers)` gets every step, `log(numbers)` and the trackers each `log_every`-th: loss (a
    term's), lr, norm (the gradient's, before clipping) and what `describe()` adds; and what `evaluate` returned.
    """

    on_step: Callable[[int], None] | None = None
    on_epoch: Callable[[int, int], None] | None = None
    evaluate: Callable[[int], Numbers] | None = None
    describe: Callable[[], Numbers] | None = None
    progress: Callable[[int, int, Numbers], None] | None = None
    log: Callable[[Numbers], None] | None = None
