"""Beam search as BLIP's code has it, that of transformers 4.25: a beam's log-likelihood is divided by its whole length.

Since 4.36 transformers divides by the length without the prompt, and counts the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from idvl.errors import UsageError

# the steps of transformers' beam search that divide by a length, and what they must take
UPDATE, CHECK = "_update_finished_beams", "_check_early_stop_heuristic"
STATE = ("sequences", "beam_scores", "beam_indices", "is_sent_finished")
SHARED = ("is_early_stop_heuristic_unsatisfied", "decoder_prompt_len", "length_penalty", "early_stopping")
ARGUMENTS = {
    UPDATE: {
        *(*STATE, *SHARED, "cur_len", "num_beams", "top_num_beam_mask", "next_token_hits_stopping_criteria"),
        *("topk_log_probs", "topk_running_sequences"),
    },
    CHECK: {*SHARED, "cur_len", "max_length", "running_beam_scores", "beam_scores", "is_sent_finished"},
}


def check_version() -> None:
    """UsageError for a version of transformers whose beam search has no such steps."""
    import transformers

    for name, arguments in ARGUMENTS.items():
        step = getattr(transformers.GenerationMixin, name, None)
        if step is None or not arguments <= signature(step).parameters.keys():
            raise UsageError(
                f"beam_length whole does not work with the beam search of transformers {transformers.__version__}: "
                "leave it out, or install the version that idvl is tested with"
            )


@contextmanager
def whole_beams(decoder: nn.Module, end: int) -> Iterator[None]:
    """Inside, `decoder.generate` searches as BLIP's code does. `end`: the token that ends a text."""
    steps = _Steps(getattr(decoder, UPDATE), getattr(decoder, CHECK), end)
    setattr(decoder, UPDATE, steps.update)
    setattr(decoder, CHECK, steps.check)
    try:
        yield
    finally:
        delattr(decoder, UPDATE)
        delattr(decoder, CHECK)


class _Steps:
    """The steps in place of transformers' own. `best`: the log-likelihood of a step's best candidate (batch, 1).

    transformers divides by the length after the step without `decoder_prompt_len` tokens. A beam that ends counts
    without its end, so one token is left out; one that is cut at the maximum length has no end, so none is.
    """

    def __init__(self, update: Callable[..., Any], check: Callable[..., Any], end: int):
        self._update, self._check, self._end = update, check, end
        self.best: Tensor | None = None

    def update(self, **step: Any) -> Any:
        """Keep the best of the beams that have finished. Candidates are (batch, candidates), the best first."""
        length, longest = step["cur_len"] + 1, step["sequences"].shape[-1]
        self.best = step["topk_log_probs"][:, :1]
        ended = step["topk_running_sequences"][:, :, length - 1] == self._end
        finished = self._update(**{**step, "next_token_hits_stopping_criteria": ended, "decoder_prompt_len": 1})
        if length < longest:
            return finished
        # where no better beam may come, beams that are cut do not count
        step |= dict(zip(STATE, finished, strict=True))
        checked = {key: step[key] for key in (*SHARED, "beam_scores", "is_sent_finished")}
        step["is_early_stop_heuristic_unsatisfied"] = self.check(**checked, cur_len=length, max_length=longest)
        # of candidates without an end, the best are the beams that go on
        step["next_token_hits_stopping_criteria"] = ~ended & ((~ended).cumsum(1) <= step["num_beams"])
        step["top_num_beam_mask"] = torch.ones_like(step["top_num_beam_mask"])
        return self._update(**{**step, "decoder_prompt_len": 0})

    def check(self, **step: Any) -> Any:
        """Whether a better beam may come, by the best candidate, which may be one that ends."""
        return self._check(**{**step, "decoder_prompt_len": 1, "running_beam_scores": self.best})
