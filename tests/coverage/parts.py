"""What tiny checkpoints are made of: widths, tokenizers of the real classes over few words, image processors, chats."""

from __future__ import annotations

import string
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

WORDS = ["a", "the", "red", "green", "blue", "small", "large", "square", "circle", "star", "left", "right", "above"]
WORDS += ["below", "of", "and", "near", "two", "three", "photo", "picture", "is", "in", "what", "where", "yes", "no"]
SIDE, PATCH = 32, 8  # pixels: 16 patches a picture
SQUARE = {"height": SIDE, "width": SIDE}
WIDTH = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
# with the initializer_range of 1e-10 that BLIP and BLIP-2 have, a random tower is constant
VISION = {**WIDTH, "image_size": SIDE, "patch_size": PATCH, "initializer_range": 0.02}
# sorted, since its own order differs from process to process
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
ASCII = [*string.ascii_letters, *string.digits, *string.punctuation, "\n"]


def bpe(space: str, symbols: list[str], special: tuple[str, ...]) -> dict[str, Any]:
    """A vocabulary in which each of WORDS is one token, behind `space` or not, and the merges that lead there."""
    merges: dict[tuple[str, str], None] = {}
    for before in (space, ""):
        for word in WORDS:
            first, *rest = [*before, *word]
            for letter in rest:
                merges[first, letter] = None
                first += letter
    tokens = dict.fromkeys([*special, space, *symbols, *("".join(pair) for pair in merges)])
    return {"vocab": {token: i for i, token in enumerate(tokens)}, "merges": list(merges)}


def pieces(*special: str) -> list[tuple[str, float]]:
    """A Unigram vocabulary: WORDS and single characters."""
    tokens = dict.fromkeys([*special, "▁", *(f"▁{word}" for word in WORDS), *ASCII])
    return [(token, 0.0 if token in special else -2.0 - (len(token) == 1)) for token in tokens]


def qwen(*special: str, **names: Any) -> Any:
    """Byte-level BPE as Qwen's: no token at the start or the end."""
    words = bpe("Ġ", ALPHABET, ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *special))
    tokenizer = transformers.Qwen2Tokenizer(**words, eos_token="<|im_end|>", **_marked(special, names))
    return tokenizer


def gpt2(cls: str = "GPT2Tokenizer", **names: Any) -> Any:
    special = ("<s>", "<pad>", "</s>", "<unk>", "<mask>") if cls != "GPT2Tokenizer" else ("<|endoftext|>",)
    return getattr(transformers, cls)(**bpe("Ġ", ALPHABET, special), **names)


def llama(*special: str, **names: Any) -> Any:
    """BPE over pieces with a token at the start and none at the end."""
    words = bpe("▁", ASCII, ("<unk>", "<s>", "</s>", "<pad>", *special))
    return transformers.LlamaTokenizer(**words, pad_token="<pad>", legacy=False, **_marked(special, names))


def gemma(*special: str, cls: str = "GemmaTokenizer", **names: Any) -> Any:
    words = bpe("▁", ASCII, ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *special))
    return getattr(transformers, cls)(**words, **_marked(special, names))


def t5(*special: str, **names: Any) -> Any:
    words = pieces("<pad>", "</s>", "<unk>", *special)
    return transformers.T5Tokenizer(vocab=words, extra_ids=0, **_marked(special, names))


def xlm_roberta(**names: Any) -> Any:
    return transformers.XLMRobertaTokenizer(vocab=pieces("<s>", "<pad>", "</s>", "<unk>", "<mask>"), **names)


def bert(**names: Any) -> Any:
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    return transformers.BertTokenizer(vocab={token: i for i, token in enumerate(tokens)}, **names)


def clip(**names: Any) -> Any:
    letters = sorted(set("".join(WORDS) + "."))
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return transformers.CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[], **names)


def fast(*special: str, bos: str = "<s>", eos: str = "</s>", pad: str = "<pad>", **names: Any) -> Any:
    """What checkpoints have that name no tokenizer class: byte-level BPE with a token at the start."""
    words = bpe("Ġ", ALPHABET, tuple(dict.fromkeys((pad, bos, eos, *special))))
    tokenizer = Tokenizer(models.BPE(**words))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, words["vocab"][bos])]
    )
    ends = {"bos_token": bos, "eos_token": eos, "pad_token": pad}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **ends, **_marked(special, names))


def _marked(special: tuple[str, ...], names: dict[str, Any]) -> dict[str, Any]:
    """A tokenizer's settings: keywords that end in _token and name one of `special` become attributes of it."""
    own = ("bos_token", "eos_token", "sep_token", "pad_token", "unk_token", "mask_token")
    marks = {name: token for name, token in names.items() if name.endswith("_token") and name not in own}
    rest = {name: value for name, value in names.items() if name not in marks}
    others = {f"marker_{i}_token": token for i, token in enumerate(special) if token not in marks.values()}
    return {"model_max_length": 2048, **rest, "extra_special_tokens": {**marks, **others}}


def language(tokenizer: Any, **more: Any) -> dict[str, Any]:
    """Sizes of a language model that reads `tokenizer`'s tokens."""
    ends = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": 2048, "num_key_value_heads": 2}
    return {**WIDTH, **sizes, **{name: token for name, token in ends.items() if token is not None}, **more}


def encoder(tokenizer: Any, **more: Any) -> dict[str, Any]:
    """Sizes of a text encoder like BERT, with learnt positions."""
    sizes = {**language(tokenizer), "max_position_embeddings": 64, **more}
    return {name: value for name, value in sizes.items() if name != "num_key_value_heads"}


def images(name: str, **settings: Any) -> Any:
    """An image processor for pictures of SIDE pixels, by the name of its class without `ImageProcessor`."""
    cls = getattr(transformers, f"{name}ImageProcessorPil", None) or getattr(transformers, f"{name}ImageProcessor")
    return cls(**{"size": SQUARE, **settings})


def clip_images(name: str = "CLIP", **settings: Any) -> Any:
    return images(name, size={"shortest_edge": SIDE}, crop_size=SQUARE, **settings)


def chat(turn: str, end: str, reply: str, image: str, start: str = "") -> str:
    """A chat template: `turn` with {role} opens a message, `image` stands for a picture, `reply` asks for an answer."""
    role = turn.replace("{role}", "{{ message['role'] }}").replace("{ROLE}", "{{ message['role'] | upper }}")
    parts = "{% for part in message['content'] %}{% if part['type'] == 'image' %}" + image
    parts += "{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    content = "{% if message['content'] is string %}{{ message['content'] }}{% else %}" + parts + "{% endif %}"
    messages = "{% for message in messages %}" + role + content + end + "{% endfor %}"
    return start + messages + "{% if add_generation_prompt %}" + reply + "{% endif %}"


# what authors put behind a question: LLaVA and InternVL, Qwen-VL, Idefics and SmolVLM
SHORT_ANSWER = "{}\nAnswer the question using a single word or phrase."
SHORT_PHRASES = "{}\nPlease try to answer the question with short words or phrases if possible."
BRIEF_ANSWER = "{}\nGive a very brief answer."
CHATML = ("<|im_start|>{role}\n", "<|im_end|>\n", "<|im_start|>assistant\n")


def noisy(*parameters: torch.nn.Parameter, std: float = 0.02) -> None:
    """Fill what a random model starts as zeros or an empty tensor, so that points differ."""
    for parameter in parameters:
        torch.nn.init.normal_(parameter, std=std)
