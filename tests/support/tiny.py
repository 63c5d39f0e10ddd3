"""Tiny random models with real processors, saved as checkpoints, and samples to feed them.

`save(kind, folder)` writes what a user's checkpoint folder holds, so that tests load it the way the command does.
Knows nothing of idvl but its Sample and its own classes of models.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from idvl.data.samples import Sample

WORDS = ["a", "the", "red", "green", "blue", "small", "large", "square", "circle", "star", "left", "right", "above"]
WORDS += ["below", "of", "and", "near", "two", "three"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<image>"]
VOCAB = {token: i for i, token in enumerate(SPECIAL + WORDS)}
SIDE = 32  # pixels; patches of 8 make 16 of them

WIDTH = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = {**WIDTH, "image_size": SIDE, "patch_size": 8}
TEXT = {
    **WIDTH,
    "vocab_size": len(VOCAB),
    "max_position_embeddings": 40,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "sep_token_id": 3,
}


def samples(n: int, seed: int = 0) -> list[Sample]:
    """`n` samples with distinct images (40 x 32 RGB), mirrored as second ones, and captions of 2 to 9 known words."""
    rng = random.Random(seed)
    captions: dict[str, None] = {}
    while len(captions) < n:
        captions[" ".join(rng.choices(WORDS, k=rng.randint(2, 9)))] = None
    pixels = np.random.default_rng(seed).integers(0, 256, (n, 4, 5, 3), dtype=np.uint8)
    images = [Image.fromarray(each).resize((40, 32)) for each in pixels]
    return [
        Sample(id=f"tiny-{i}", source=image, second=ImageOps.mirror(image), texts=(caption,))
        for i, (image, caption) in enumerate(zip(images, captions, strict=True))
    ]


def save_samples(folder: Path, samples: list[Sample], rows: Callable[[int, Sample], list[dict[str, object]]]) -> Path:
    """Write pictures with a metadata.jsonl, of which each sample has these `rows`, and return the folder."""
    folder.mkdir()
    lines = []
    for number, sample in enumerate(samples):
        sample.source.save(folder / f"{sample.id}.png")
        lines += [json.dumps({"file_name": f"{sample.id}.png", **row}) for row in rows(number, sample)]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def save_pairs(folder: Path, samples: list[Sample], held_out: int | None = None) -> Path:
    """Write pairs of pictures, half of them true, with BLIP's annotations of NLVR2, and return the folder.

    All samples are in train, the first `held_out` of them in dev and test too.
    """
    for split, n in (("train", None), ("dev", held_out), ("test", held_out)):
        pairs = []
        for number, sample in enumerate(samples[:n]):
            names = [f"{split}/{number}/{sample.id}-img{side}.png" for side in range(2)]
            for name, image in zip(names, (sample.source, sample.second), strict=True):
                (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
                image.save(folder / "images" / name)
            pairs.append({"images": names, "sentence": f"{sample.texts[0]}.", "label": str(number % 2 == 0)})
        (folder / f"nlvr_{split}.json").write_text(json.dumps(pairs))
    return folder


def save(kind: str, folder: str | Path, seed: int = 0) -> Path:
    """Write the tiny checkpoint of `kind` (a key of KINDS) with random weights into `folder`, and return the folder."""
    torch.manual_seed(seed)
    folder = Path(folder)
    model, processor = KINDS[kind]()
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def words_tokenizer(**names):
    """One token a word, between [CLS] and [SEP]; `names` override the tokenizer's settings."""
    from transformers import PreTrainedTokenizerFast

    tokens = Tokenizer(models.WordLevel(VOCAB, unk_token="[UNK]"))
    tokens.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokens.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", VOCAB["[CLS]"]), ("[SEP]", VOCAB["[SEP]"])]
    )
    settings = {"pad_token": "[PAD]", "unk_token": "[UNK]", "bos_token": "[CLS]", "eos_token": "[SEP]", **names}
    return PreTrainedTokenizerFast(tokenizer_object=tokens, **settings)


def bert_tokenizer():
    from transformers import BertTokenizer

    return BertTokenizer(vocab=VOCAB)


def image_processor(name: str, **settings):
    """The image processor of a model type for squares of SIDE pixels, by the name of its PIL class."""
    import transformers

    square = {"height": SIDE, "width": SIDE}
    return getattr(transformers, name)(size=square, **settings)


def blip(head: str = "BlipForConditionalGeneration"):
    import transformers

    config = transformers.BlipConfig(
        # with its default of 1e-10 a random tower is constant
        vision_config={**VISION, "initializer_range": 0.02},
        text_config={**TEXT, "encoder_hidden_size": 32, "is_decoder": True},
        projection_dim=16,
        image_text_hidden_size=16,
    )
    processor = transformers.BlipProcessor(image_processor("BlipImageProcessorPil"), bert_tokenizer())
    return getattr(transformers, head)(config), processor


def blip_nlvr2():
    from idvl.models.own.blip_pairs import BlipForImagesAndTextClassification

    config, processor = blip()[0].config, blip()[1]
    config.id2label, config.label2id = {0: "False", 1: "True"}, {"False": 0, "True": 1}
    return BlipForImagesAndTextClassification(config), processor


def clip():
    import transformers

    letters = sorted(set("".join(WORDS)))
    vocab = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = transformers.CLIPTokenizer(vocab={token: i for i, token in enumerate(vocab)}, merges=[])
    text = {**TEXT, "vocab_size": len(vocab), "bos_token_id": len(vocab) - 2, "eos_token_id": len(vocab) - 1}
    config = transformers.CLIPConfig(
        text_config={**text, "pad_token_id": 1, "max_position_embeddings": 77}, vision_config=VISION, projection_dim=16
    )
    square = {"height": SIDE, "width": SIDE}
    images = transformers.CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=square)
    return transformers.CLIPModel(config), transformers.CLIPProcessor(images, tokenizer)


def vit():
    import transformers

    config = transformers.ViTConfig(**VISION, num_labels=10)
    return transformers.ViTForImageClassification(config), image_processor("ViTImageProcessorPil")


def mobilevit():
    import transformers

    config = transformers.MobileViTConfig(
        image_size=SIDE,
        hidden_sizes=[16, 24, 32],
        neck_hidden_sizes=[8, 8, 16, 16, 24, 24, 32],
        num_attention_heads=2,
        num_labels=10,
    )
    square = {"height": SIDE, "width": SIDE}
    images = transformers.MobileViTImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=square)
    return transformers.MobileViTForImageClassification(config), images


def siglip():
    import transformers

    # the tokenizer of SigLIP gives no attention mask: the model reads its padding
    tokenizer = words_tokenizer(model_input_names=["input_ids"])
    config = transformers.SiglipConfig(text_config={**TEXT, "max_position_embeddings": 16}, vision_config=VISION)
    return transformers.SiglipModel(config), transformers.SiglipProcessor(
        image_processor("SiglipImageProcessorPil"), tokenizer
    )


def vilt():
    import transformers

    config = transformers.ViltConfig(**TEXT, image_size=SIDE, patch_size=8, num_labels=3)
    images = transformers.ViltImageProcessorPil(size={"shortest_edge": SIDE}, size_divisor=8)
    return transformers.ViltForQuestionAnswering(config), transformers.ViltProcessor(images, bert_tokenizer())


def vilt_nlvr2(labels=("False", "True")):
    import transformers

    config = transformers.ViltConfig(
        **TEXT,
        image_size=SIDE,
        patch_size=8,
        num_images=2,
        modality_type_vocab_size=3,
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
    )
    return transformers.ViltForImagesAndTextClassification(config), vilt()[1]


def git():
    import transformers

    config = transformers.GitConfig(**TEXT, vision_config=VISION)
    square = {"height": SIDE, "width": SIDE}
    images = transformers.CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=square)
    return transformers.GitForCausalLM(config), transformers.GitProcessor(images, bert_tokenizer())


def dinov2():
    import transformers

    config = transformers.Dinov2Config(**{k: v for k, v in VISION.items() if k != "intermediate_size"}, mlp_ratio=2)
    square = {"height": SIDE, "width": SIDE}
    images = transformers.BitImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=square)
    return transformers.Dinov2Model(config), images


def bert():
    import transformers

    return transformers.BertForMaskedLM(transformers.BertConfig(**TEXT)), bert_tokenizer()


def gpt2():
    import transformers

    config = transformers.GPT2Config(
        vocab_size=len(VOCAB), n_embd=32, n_layer=2, n_head=2, n_positions=40, bos_token_id=2, eos_token_id=3
    )
    # no padding token, as in the published checkpoints
    return transformers.GPT2LMHeadModel(config), words_tokenizer(pad_token=None)


def llava():
    import transformers

    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**VISION),
        # room for an image, a question and the longest answer
        text_config=transformers.LlamaConfig(**{**TEXT, "max_position_embeddings": 80, "num_key_value_heads": 2}),
        image_token_index=VOCAB["<image>"],
    )
    square = {"height": SIDE, "width": SIDE}
    processor = transformers.LlavaProcessor(
        transformers.CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=square),
        words_tokenizer(padding_side="left", extra_special_tokens={"image_token": "<image>"}),
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    return transformers.LlavaForConditionalGeneration(config), processor


def blip2(language=None):
    import transformers

    text = {k: v for k, v in TEXT.items() if k not in ("intermediate_size", "sep_token_id")}
    config = transformers.Blip2Config(
        vision_config={**VISION, "initializer_range": 0.02},
        qformer_config={**TEXT, "encoder_hidden_size": 32},
        text_config=language or transformers.OPTConfig(**text, ffn_dim=64, word_embed_proj_dim=32),
        num_query_tokens=4,
        image_token_index=VOCAB["<image>"],
    )
    processor = transformers.Blip2Processor(
        image_processor("BlipImageProcessorPil"), words_tokenizer(), num_query_tokens=4
    )
    model = transformers.Blip2ForConditionalGeneration(config)
    # zeros by default, whose keys and values stay zero
    torch.nn.init.normal_(model.query_tokens, std=0.02)
    return model, processor


def flava():
    import transformers

    config = transformers.FlavaConfig(
        image_config=VISION, text_config=TEXT, multimodal_config=WIDTH, hidden_size=32, projection_dim=16
    )
    square = {"height": SIDE, "width": SIDE}
    images = transformers.FlavaImageProcessorPil(size=square, crop_size=square)
    return transformers.FlavaModel(config), transformers.FlavaProcessor(images, bert_tokenizer())


def t5():
    import transformers

    config = transformers.T5Config(
        vocab_size=len(VOCAB), d_model=32, d_ff=64, d_kv=16, num_layers=2, num_heads=2, decoder_start_token_id=0
    )
    return transformers.T5ForConditionalGeneration(config), words_tokenizer()


KINDS = {
    "blip": blip,
    "blip-vqa": lambda: blip("BlipForQuestionAnswering"),
    "blip-itm": lambda: blip("BlipForImageTextRetrieval"),
    "blip-nlvr2": blip_nlvr2,
    "clip": clip,
    "vit": vit,
    "siglip": siglip,
    "vilt": vilt,
    "vilt-nlvr2": vilt_nlvr2,
    "git": git,
    "dinov2": dinov2,
    "bert": bert,
    "gpt2": gpt2,
    "t5": t5,
    "llava": llava,
    "blip2": blip2,
    "flava": flava,
}
