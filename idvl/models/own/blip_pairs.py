"""BLIP that tells whether a sentence is true of two images (Li et al. 2022, section 5.4), as released for NLVR2.

Both images go through one vision tower. Each text layer has a cross-attention for each image, which read the same text
states; their outputs are averaged in the first half of the layers, and merged by a linear map in the others. The names
of the weights are those of the authors' models/nlvr_encoder.py. Everything else is transformers' BLIP.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import BlipConfig, BlipPreTrainedModel, BlipVisionModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.models.blip.modeling_blip_text import (
    BlipTextAttention,
    BlipTextEmbeddings,
    BlipTextIntermediate,
    BlipTextOutput,
    BlipTextSelfAttention,
)


class PairOutput(nn.Module):
    """What both cross-attentions (n, length, width) give, projected, averaged or merged, added to the text states."""

    def __init__(self, config: BlipConfig, *, merges: bool):
        super().__init__()
        width = config.hidden_size
        self.LayerNorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.dense0, self.dense1 = nn.Linear(width, width), nn.Linear(width, width)
        self.merge_layer = nn.Linear(2 * width, width) if merges else None

    def forward(self, left: Tensor, right: Tensor, states: Tensor) -> Tensor:
        left, right = self.dense0(left), self.dense1(right)
        merged = self.merge_layer(torch.cat([left, right], dim=-1)) if self.merge_layer else (left + right) / 2
        return self.LayerNorm(self.dropout(merged) + states)


class PairAttention(nn.Module):
    """Text states (n, length, width) that read the tokens of two images, each (n, tokens, vision width)."""

    def __init__(self, config: BlipConfig, *, merges: bool):
        super().__init__()
        self.self0, self.self1 = (BlipTextSelfAttention(config, is_cross_attention=True) for _ in range(2))
        self.output = PairOutput(config, merges=merges)

    def forward(self, states: Tensor, left: Tensor, right: Tensor) -> Tensor:
        read = [
            attention(states, encoder_hidden_states=image)[0]
            for attention, image in ((self.self0, left), (self.self1, right))
        ]
        return self.output(*read, states)


class PairLayer(GradientCheckpointingLayer):
    """Self-attention, attention to both images, feed-forward."""

    def __init__(self, config: BlipConfig, *, merges: bool):
        super().__init__()
        self.attention = BlipTextAttention(config)
        self.crossattention = PairAttention(config, merges=merges)
        self.intermediate, self.output = BlipTextIntermediate(config), BlipTextOutput(config)

    def forward(self, states: Tensor, mask: Tensor, left: Tensor, right: Tensor) -> Tensor:
        states = self.crossattention(self.attention(states, attention_mask=mask)[0], left, right)
        return self.output(self.intermediate(states), states)


class PairEncoder(nn.Module):
    """Tokens (n, length), their mask, and the tokens of both images -> states (n, length, width)."""

    def __init__(self, config: BlipConfig):
        super().__init__()
        self.embeddings = BlipTextEmbeddings(config)
        count = config.num_hidden_layers
        layers = (PairLayer(config, merges=number >= count // 2) for number in range(count))
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(layers)})

    def forward(self, input_ids: Tensor, attention_mask: Tensor, left: Tensor, right: Tensor) -> Tensor:
        states = self.embeddings(input_ids)
        mask = torch.zeros_like(attention_mask, dtype=states.dtype)
        mask = mask.masked_fill(attention_mask == 0, torch.finfo(states.dtype).min)[:, None, None]
        for layer in self.encoder["layer"]:
            states = layer(states, mask, left, right)
        return states


class BlipForImagesAndTextClassification(BlipPreTrainedModel):
    """Logits (n, classes) of sentences about two images each.

    The second half of the text layers merges by a linear map: the authors' 6 of 12.
    """

    def __init__(self, config: BlipConfig):
        super().__init__(config)
        text = config.text_config
        self.vision_model = BlipVisionModel(config.vision_config)
        self.text_encoder = PairEncoder(text)
        self.cls_head = nn.Sequential(
            nn.Linear(text.hidden_size, text.hidden_size), nn.ReLU(), nn.Linear(text.hidden_size, config.num_labels)
        )
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, BlipTextEmbeddings):  # a buffer that checkpoints do not hold
            init.copy_(module.position_ids, torch.arange(module.position_ids.shape[-1]).expand((1, -1)))

    def get_input_embeddings(self) -> nn.Module:
        return self.text_encoder.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.text_encoder.embeddings.word_embeddings = value

    def forward(
        self, input_ids: Tensor, pixel_values: Tensor, attention_mask: Tensor | None = None
    ) -> SequenceClassifierOutput:
        """`pixel_values` (n, 2, 3, side, side); the first token of `input_ids` (n, length) is [ENC] in BLIP."""
        attention_mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        images = self.vision_model(pixel_values.flatten(0, 1)).last_hidden_state
        left, right = images.unflatten(0, (-1, 2)).unbind(1)
        states = self.text_encoder(input_ids, attention_mask, left, right)
        return SequenceClassifierOutput(logits=self.cls_head(states[:, 0]))
