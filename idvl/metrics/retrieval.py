"""Retrieval: which rank the images and captions that belong together have among all others, by blocks.

Equal similarities count against the model: a rank is 1 + the number of others at least as similar. It knows no model.
"""

from __future__ import annotations

import torch
from torch import Tensor

from idvl.errors import UsageError
from idvl.metrics.measured import Measured, proportion

KS = (1, 5, 10)
OF_IMAGES, OF_CAPTIONS = "Wilson score, images", "Wilson score, captions clustered by image"
# similarities held at a time; 4 bytes each, twice
BLOCK = 2**23
# cosines that differ by less are equal: products of other shapes round otherwise
ROUNDING = 1e-6
# images whose similarities to their own captions are computed together
OWN = 64


def ranks(images: Tensor, texts: Tensor, owner: Tensor) -> tuple[Tensor, Tensor]:
    """The rank of each image's best caption among all captions (n,), and of each caption's image among all images (m,).

    Embeddings (n, d) or (n, q, d) and (m, d) are compared by `similarity`; `owner` (m,): the image of each caption.
    Captions of the same image do not count against each other. UsageError for embeddings that are not finite, and for
    images without captions.
    """
    owned = check(images, texts, owner)
    order = owner.argsort(stable=True)
    images, texts, owner = images.float(), texts[order].float(), owner[order]
    starts = [0, *owned.cumsum(0).tolist()]
    norms = images.norm(dim=-1).view(len(images), -1).amax(1)
    own = _own(images, texts, owner, starts) - ROUNDING * norms[owner] * texts.norm(dim=1)
    best = own.new_full((len(images),), -torch.inf).scatter_reduce(0, owner, own, "amax")
    image_to_text, text_to_image = torch.ones_like(owned), torch.ones_like(owner)
    rows = min(len(images), max(1, BLOCK // len(texts)))
    similarities, at_least = images.new_empty(2, rows, len(texts))
    for start in range(0, len(images), rows):
        stop = min(start + rows, len(images))
        if images.ndim == 2:
            similar = torch.mm(images[start:stop], texts.T, out=similarities[: stop - start])
        else:
            similar = similarity(images[start:stop], texts)
        mine = torch.arange(starts[start], starts[stop], device=owner.device)
        similar[owner[mine] - start, mine] = -torch.inf
        # as floats: sums of booleans take many times as long
        above = torch.ge(similar, best[start:stop, None], out=at_least[: stop - start])
        image_to_text[start:stop] += above.sum(1).long()
        text_to_image += torch.ge(similar, own, out=above).sum(0).long()
    return image_to_text, torch.empty_like(text_to_image).scatter_(0, order, text_to_image)


def ranks_of_scores(scores: Tensor, owner: Tensor) -> tuple[Tensor, Tensor]:
    """As `ranks`, of the scores (n, m) of every image with every caption."""
    images, texts = scores.shape
    own = scores[owner, torch.arange(texts)]
    best = own.new_full((images,), -torch.inf).scatter_reduce(0, owner, own, "amax")
    others = scores.masked_fill(owner == torch.arange(images)[:, None], -torch.inf)
    return 1 + (others >= best[:, None]).sum(1), 1 + (others >= own).sum(0)


def similarity(queries: Tensor, keys: Tensor) -> Tensor:
    """Inner products (n, m) of (n, d) and (m, d); of what has several vectors, (n, q, d) or (m, q, d), the largest."""
    products = queries.flatten(0, -2) @ keys.flatten(0, -2).T
    if queries.ndim == keys.ndim == 2:
        return products
    return products.view(len(queries), -1, len(keys), keys[0].numel() // keys.shape[-1]).amax((1, 3))


def nearest(queries: Tensor, keys: Tensor, k: int) -> Tensor:
    """The k keys most similar to each query, the most similar first: their numbers (n, k)."""
    queries, keys = queries.float(), keys.float()
    rows = max(1, BLOCK * keys.shape[-1] // keys.numel())
    return torch.cat([similarity(some, keys).topk(k).indices for some in queries.split(rows)])


def recalls(image_to_text: Tensor, text_to_image: Tensor, owner: Tensor) -> dict[str, Measured]:
    """ "image-to-text R@1", 5 and 10, and "text-to-image R@1", 5 and 10, of what `ranks` gives."""
    n = len(image_to_text)
    owned = torch.bincount(owner, minlength=n)
    measures = {}
    for k in KS:
        name = f"image-to-text R@{k}"
        measures[name] = proportion(name, (image_to_text <= k).cpu(), interval=OF_IMAGES)
    for k in KS:
        name = f"text-to-image R@{k}"
        hits = torch.bincount(owner, weights=(text_to_image <= k).double(), minlength=n)
        measures[name] = proportion(name, hits.cpu(), owned.cpu(), interval=OF_CAPTIONS)
    return measures


def check(images: Tensor, texts: Tensor, owner: Tensor) -> Tensor:
    """How many captions each image owns (n,). UsageError as in `ranks`."""
    sound = images.ndim in (2, 3) and texts.ndim == 2 and images.shape[-1] == texts.shape[1]
    if not sound or owner.shape != texts.shape[:1]:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in (images, texts, owner))
        raise UsageError(f"retrieval compares (n, d) with (m, d), owned by (m,), not {shapes}")
    if images.numel() == 0:
        raise UsageError("no predictions: there is nothing to score")
    if len(texts) and not 0 <= int(owner.min()) <= int(owner.max()) < len(images):
        raise UsageError(
            f"captions belong to images 0 to {len(images) - 1}, not {int(owner.min())} to {int(owner.max())}"
        )
    for what, tensor in (("image", images), ("caption", texts)):
        if not tensor.isfinite().all():
            raise UsageError(f"embeddings of {what}s are not finite: was the model evaluated in float16?")
    owned = torch.bincount(owner, minlength=len(images))
    if (owned == 0).any():
        raise UsageError(f"image {int(owned.argmin())} has no caption: leave it out")
    return owned


def _own(images: Tensor, texts: Tensor, owner: Tensor, starts: list[int]) -> Tensor:
    """The similarity of each caption (m,) to its image; captions are sorted by image."""
    parts = []
    for start in range(0, len(images), OWN):
        stop = min(start + OWN, len(images))
        mine = slice(starts[start], starts[stop])
        similar = similarity(images[start:stop], texts[mine])
        parts.append(similar.gather(0, (owner[mine] - start)[None])[0])
    return torch.cat(parts)
