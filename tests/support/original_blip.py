"""BLIP as its authors lay it out and compute it, in plain torch, after models/vit.py, med.py and nlvr_encoder.py.

The modules have the authors' names, so that a state_dict is a checkpoint in their layout. Knows neither idvl nor
transformers. Weights are random and large enough that every part changes the logits.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HEAD = 64


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(q k / sqrt(d)) v in heads of HEAD; `mask` (..., queries, keys) is True where a key is seen."""
    q, k, v = (x.unflatten(-1, (-1, HEAD)).transpose(1, 2) for x in (query, key, value))
    scores = q @ k.transpose(-1, -2) / math.sqrt(HEAD)
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None], -torch.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


class Block(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 2 * width), "fc2": nn.Linear(2 * width, width)})

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn["proj"](attend(*self.attn["qkv"](self.norm1(x)).chunk(3, -1), None))
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


class Vision(nn.Module):
    """(n, 3, side, side) -> (n, 1 + patches, width), patches of 8."""

    def __init__(self, width: int, side: int, depth: int):
        super().__init__()
        self.cls_token = nn.Parameter(torch.randn(1, 1, width))
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + (side // 8) ** 2, width))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, 8, 8)})
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.patch_embed["proj"](pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(pixels), -1, -1), patches], 1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class Attention(nn.Module):
    """Queries of `width`, keys and values of `reads`."""

    def __init__(self, width: int, reads: int):
        super().__init__()
        self.query, self.key, self.value = nn.Linear(width, width), nn.Linear(reads, width), nn.Linear(reads, width)

    def forward(self, x: Tensor, states: Tensor, mask: Tensor | None) -> Tensor:
        return attend(self.query(x), self.key(states), self.value(states), mask)


class Residual(nn.Module):
    """A linear map back to the stream, which is added, and normed."""

    def __init__(self, inner: int, width: int):
        super().__init__()
        self.dense, self.LayerNorm = nn.Linear(inner, width), nn.LayerNorm(width, eps=1e-12)

    def forward(self, inner: Tensor, x: Tensor) -> Tensor:
        return self.LayerNorm(self.dense(inner) + x)


class Layer(nn.Module):
    """Self-attention, cross-attention if there are states to read, feed-forward."""

    def __init__(self, width: int, reads: int):
        super().__init__()
        self.attention = nn.ModuleDict({"self": Attention(width, width), "output": Residual(width, width)})
        self.crossattention = nn.ModuleDict({"self": Attention(width, reads), "output": Residual(width, width)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, 2 * width)})
        self.output = Residual(2 * width, width)

    def cross(self, x: Tensor, states: Tensor, mask: Tensor | None) -> Tensor:
        return self.crossattention["output"](self.crossattention["self"](x, states, mask), x)

    def forward(self, x: Tensor, mask: Tensor, states: Tensor | None, seen: Tensor | None) -> Tensor:
        x = self.attention["output"](self.attention["self"](x, x, mask), x)
        x = x if states is None else self.cross(x, states, seen)
        return self.output(F.gelu(self.intermediate["dense"](x)), x)


class Pair(nn.Module):
    """What both cross-attentions give: averaged, or merged by a linear map, and normed with the stream."""

    def __init__(self, width: int, merges: bool):
        super().__init__()
        self.LayerNorm = nn.LayerNorm(width, eps=1e-12)
        self.dense0, self.dense1 = nn.Linear(width, width), nn.Linear(width, width)
        if merges:
            self.merge_layer = nn.Linear(2 * width, width)

    def forward(self, first: Tensor, second: Tensor, x: Tensor) -> Tensor:
        first, second = self.dense0(first), self.dense1(second)
        merged = hasattr(self, "merge_layer")
        both = self.merge_layer(torch.cat([first, second], -1)) if merged else (first + second) / 2
        return self.LayerNorm(both + x)


class PairLayer(Layer):
    """A layer that reads two images, `states` one after the other along a new first axis."""

    def __init__(self, width: int, reads: int, merges: bool):
        super().__init__(width, reads)
        attentions = {"self0": Attention(width, reads), "self1": Attention(width, reads)}
        self.crossattention = nn.ModuleDict({**attentions, "output": Pair(width, merges)})

    def cross(self, x: Tensor, states: Tensor, mask: Tensor | None) -> Tensor:
        cross = self.crossattention
        return cross["output"](cross["self0"](x, states[0], mask), cross["self1"](x, states[1], mask), x)


class Text(nn.Module):
    """BERT with cross-attention: tokens (n, length) -> (n, length, width). `seen` masks the states that it reads."""

    def __init__(self, words: int, width: int, reads: int, depth: int):
        super().__init__()
        self.embeddings = nn.Module()
        self.embeddings.word_embeddings = nn.Embedding(words, width)
        self.embeddings.position_embeddings = nn.Embedding(40, width)
        self.embeddings.LayerNorm = nn.LayerNorm(width, eps=1e-12)
        self.embeddings.register_buffer("position_ids", torch.arange(40)[None])
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(self.layer(i, width, reads) for i in range(depth))})

    def layer(self, number: int, width: int, reads: int) -> nn.Module:
        return Layer(width, reads)

    def forward(
        self,
        tokens: Tensor,
        mask: Tensor,
        states: Tensor | None = None,
        *,
        seen: Tensor | None = None,
        causal: bool = False,
    ) -> Tensor:
        length, one = tokens.shape[1], self.embeddings
        x = one.LayerNorm(one.word_embeddings(tokens) + one.position_embeddings.weight[:length])
        mask = mask.bool()[:, None].expand(-1, length, -1)
        mask = mask & torch.ones(length, length, dtype=torch.bool).tril() if causal else mask
        seen = None if seen is None else seen.bool()[:, None].expand(-1, length, -1)
        for layer in self.encoder["layer"]:
            x = layer(x, mask, states, seen)
        return x


class PairText(Text):
    """BERT that reads two images: the first layer averages, the others merge (from the seventh of 12 on in BLIP)."""

    def layer(self, number: int, width: int, reads: int) -> nn.Module:
        return PairLayer(width, reads, number >= 1)


class Writer(nn.Module):
    """The decoder: logits (n, length, words) of the next tokens, of a matrix that it reads words with."""

    def __init__(self, words: int, width: int, reads: int, depth: int):
        super().__init__()
        self.bert = Text(words, width, reads, depth)
        head = nn.Module()
        head.bias = nn.Parameter(torch.randn(words))
        transform = {"dense": nn.Linear(width, width), "LayerNorm": nn.LayerNorm(width, eps=1e-12)}
        head.transform, head.decoder = nn.ModuleDict(transform), nn.Linear(width, words)
        head.decoder.weight, head.decoder.bias = self.bert.embeddings.word_embeddings.weight, head.bias
        self.cls = nn.ModuleDict({"predictions": head})

    def forward(self, tokens: Tensor, mask: Tensor, states: Tensor, *, seen: Tensor | None = None) -> Tensor:
        x, head = self.bert(tokens, mask, states, seen=seen, causal=True), self.cls["predictions"]
        return head.decoder(head.transform["LayerNorm"](F.gelu(head.transform["dense"](x))))


class Blip(nn.Module):
    """The model of one of the authors' files, `kind`: caption, answer, retrieval or nlvr2."""

    def __init__(self, kind: str, *, words: int, side: int = 32, width: int = 128, vision: int = 64, depth: int = 2):
        super().__init__()
        # transformers has one width for all that BLIP's two text stacks read, as in BLIP-base
        vision = width if kind == "answer" else vision
        self.visual_encoder = Vision(vision, side, depth)
        if kind == "caption":
            self.text_decoder = Writer(words, width, vision, depth)
        elif kind == "answer":
            self.text_encoder = Text(words, width, vision, depth)
            self.text_decoder = Writer(words, width, width, depth)
        elif kind == "retrieval":
            self.text_encoder = Text(words, width, vision, depth)
            self.vision_proj, self.text_proj = nn.Linear(vision, 16), nn.Linear(width, 16)
            self.itm_head = nn.Linear(width, 2)
            self.visual_encoder_m, self.vision_proj_m = Vision(vision, side, depth), nn.Linear(vision, 16)
            self.text_encoder_m, self.text_proj_m = Text(words, width, vision, depth), nn.Linear(width, 16)
            self.temp = nn.Parameter(torch.tensor(0.07))
            for name in ("image_queue", "text_queue", "idx_queue"):
                self.register_buffer(name, torch.randn(16, 4))
            self.register_buffer("ptr_queue", torch.zeros(1, dtype=torch.long))
        elif kind == "nlvr2":
            self.text_encoder = PairText(words, width, vision, depth)
            self.cls_head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2))
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.3)
        self.eval()
