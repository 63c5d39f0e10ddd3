"""What a recipe asks for, opened: its model and its samples. It does not know what is done with them."""

from __future__ import annotations

import torch

from idvl.data.choice import Progress
from idvl.data.samples import Selection, select
from idvl.models.loading import Loaded, load
from idvl.models.team import Team
from idvl.recipe import ModelSection, Recipe


def open_model(asked: ModelSection, device: torch.device, team: Team) -> Loaded:
    """The model on this process's device; what keeps one process from loading it is raised on all."""
    return team.each(
        lambda: load(
            asked.name,
            revision=asked.revision,
            dtype=asked.dtype,
            device=device,
            trust_remote_code=asked.trust_remote_code,
            cache_dir=asked.cache_dir,
            local_files_only=asked.local_files_only,
        )
    )


def choose_samples(
    recipe: Recipe,
    dataset: str,
    team: Team,
    *,
    split: str | None,
    n: int | None,
    force: bool,
    distinct: bool = True,
    progress: Progress | None = None,
) -> Selection:
    """Samples of the recipe's dataset, chosen by the first process for all; `n` None is as many as `select` takes."""
    data = recipe.data
    return team.first(
        lambda: select(
            dataset,
            split=split,
            n=n,
            seed=data.seed,
            data_dir=data.data_dir,
            dataset_id=data.dataset_id,
            image_column=data.image_column,
            text_column=data.text_column,
            cache_dir=recipe.model.cache_dir,
            force=force,
            distinct=distinct,
            progress=progress,
        )
    )
