"""The captioner of bottom-up and top-down attention (Anderson et al. 2018, section 3.2), over features of regions.

At each word the attention LSTM reads the state of the language LSTM, the mean of all regions, and the word before; its
state decides how much each region counts; the language LSTM reads the attended region and that state, and its own state
gives the next word. Each gate of an LSTM is a linear map of its own, named input, forget, cell or output, of the step's
inputs and the state before. They have no bias: the biases of the gates are added behind, so that a padded step, which
reads zeros, gives zeros.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import CausalLMOutput

State = tuple[Tensor, Tensor]


class ButdConfig(PreTrainedConfig):
    """Sizes as published: 36 regions of 2,048 values, LSTMs and words 1,000 wide, attention 512."""

    model_type = "butd"

    vocab_size: int = 10_010
    regions: int = 36
    region_width: int = 2_048
    hidden_size: int = 1_000
    attention_size: int = 512
    max_position_embeddings: int = 64
    initializer_range: float = 0.05
    bos_token_id: int | None = 2
    eos_token_id: int | None = 3
    pad_token_id: int | None = 0
    use_cache: bool = False


class Lstm(nn.Module):
    """One step: inputs (n, reads) and the state before, hidden and cell (n, width) each -> the state after."""

    def __init__(self, reads: int, width: int):
        super().__init__()
        self.input, self.forget, self.cell, self.output = (nn.Linear(reads + width, width, bias=False) for _ in "ifgo")
        self.bias = nn.Parameter(torch.zeros(4, width))

    def forward(self, inputs: Tensor, state: State, real: Tensor) -> State:
        """`real` (n, 1) is 0 where the step is padding."""
        hidden, cell = state
        read = torch.cat([inputs, hidden], dim=-1) * real
        gates = zip((self.input, self.forget, self.cell, self.output), self.bias, strict=True)
        i, f, g, o = (gate(read) + bias for gate, bias in gates)
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        return o.sigmoid() * cell.tanh(), cell


class Attention(nn.Module):
    """Regions weighted by w^T tanh(W_v v + W_h h), normalised (equations 3 and 4); W_v is the model's `region_map`."""

    def __init__(self, config: ButdConfig):
        super().__init__()
        self.state = nn.Linear(config.hidden_size, config.attention_size, bias=False)
        self.weight = nn.Linear(config.attention_size, 1, bias=False)

    def forward(self, regions: Tensor, mapped: Tensor, hidden: Tensor, real: Tensor) -> Tensor:
        """Regions (n, k, d), mapped (n, k, a), and states (n, width) -> what is attended to (n, d).

        `real`: as of Lstm.
        """
        scores = self.weight((mapped + self.state(hidden * real)[:, None]).tanh() * real[:, None])
        return (scores.softmax(1) * regions).sum(1)


class ButdForCaptioning(PreTrainedModel, GenerationMixin):
    """Logits (n, length, words) of the next words of captions."""

    config_class = ButdConfig
    config: ButdConfig
    main_input_name = "input_ids"

    def __init__(self, config: ButdConfig):
        super().__init__(config)
        width = config.hidden_size
        self.words = nn.Embedding(config.vocab_size, width, padding_idx=config.pad_token_id)
        self.attention_lstm = Lstm(width + config.region_width + width, width)
        self.region_map = nn.Linear(config.region_width, config.attention_size, bias=False)
        self.attention = Attention(config)
        self.language_lstm = Lstm(config.region_width + width, width)
        self.head = nn.Linear(width, config.vocab_size)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            init.normal_(module.weight, std=self.config.initializer_range)
        if isinstance(module, nn.Linear) and module.bias is not None:
            init.zeros_(module.bias)
        if isinstance(module, Lstm):
            init.zeros_(module.bias)

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False

    def get_input_embeddings(self) -> nn.Module:
        return self.words

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.words = value

    def forward(
        self, input_ids: Tensor, regions: Tensor, attention_mask: Tensor | None = None, **generating: Any
    ) -> CausalLMOutput:
        """`input_ids` (n, length) begin with the start token and are padded on the right; `regions` (n, k, d)."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        mean, mapped = regions.mean(1), self.region_map(regions)
        reals = mask.to(regions.dtype).unsqueeze(2).unbind(1)
        zeros = regions.new_zeros(len(regions), self.config.hidden_size)
        attending, language, states = (zeros, zeros), (zeros, zeros), []
        for word, real in zip(self.words(input_ids).unbind(1), reals, strict=True):
            attending = self.attention_lstm(torch.cat([language[0], mean, word], -1), attending, real)
            attended = self.attention(regions, mapped, attending[0], real)
            language = self.language_lstm(torch.cat([attended, attending[0]], -1), language, real)
            states.append(language[0])
        return CausalLMOutput(logits=self.head(torch.stack(states, 1)))

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, regions: Tensor, attention_mask: Tensor | None = None, **other: Any
    ) -> dict[str, Tensor | None]:
        """The whole text at each step: an LSTM has no cache of keys and values."""
        return {"input_ids": input_ids, "regions": regions, "attention_mask": attention_mask}
