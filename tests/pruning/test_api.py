"""idvl.Pruner and PruneCallback: the masks of `idvl prune`, any module, and one clear error for what cannot be."""

from __future__ import annotations

import copy
import json
import shutil
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import Trainer, TrainingArguments

import idvl
from idvl.distributed import Team
from idvl.models.layers import find_layers
from idvl.models.loading import load
from idvl.pruning.job import gather
from idvl.pruning.prunable import family_in_memory
from idvl.pruning.settings import resolve
from idvl.recipe import load as load_recipe
from idvl.sparsity.criteria.magnitude import Magnitude
from idvl.sparsity.criteria.wanda import Wanda
from idvl.sparsity.masks import Masks
from idvl.training import train
from idvl.workflows.prune import run
from tests.support import tiny
from tests.support.profiles import profile_of
from tests.support.reporter import Silent

STEPS = 12


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))


def loop(model: nn.Module, pruner: idvl.Pruner, steps: int, seed: int = 0) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    draw = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        model(torch.randn(8, 4, generator=draw)).square().mean().backward()
        optimizer.step()
        pruner.step()
        optimizer.zero_grad()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, vit/, labelled pictures, and a profile, profile.json."""
    folder = tmp_path_factory.mktemp("pruner")
    tiny.save("vit", folder / "vit")
    tiny.save_samples(folder / "pictures", tiny.samples(16), lambda number, _: [{"label": number % 10}])
    loaded = load(str(folder / "vit"))
    profile_of(find_layers(loaded.model, loaded.family)).save(folder / "profile.json")
    return folder


def test_its_masks_are_those_of_idvl_prune(place: Path, tmp_path: Path) -> None:
    settings = {"criterion": "platon", "sparsity": 0.6, "window": 3, "mask_every": 2, "min_keep": 5}
    training = {"train.max_steps": STEPS, "train.batch_size": 4, "train.learning_rate": 1e-3, "eval.after": False}
    wanted = {f"prune.{key}": value for key, value in settings.items()} | training
    wanted |= {"prune.profile": str(place / "profile.json"), "data.dataset": str(place / "pictures")}
    recipe = load_recipe(None, {"model.name": str(place / "vit"), **wanted})
    told = run(recipe, folder=tmp_path / "run", reporter=Silent()).report

    job = gather(resolve(recipe), torch.device("cpu"), Team(), Silent(), store=tmp_path / "images")
    pruner = idvl.Pruner.from_model(job.loaded.model, total_steps=STEPS, profile=place / "profile.json", **settings)
    train(job.loaded, job.selection.samples, job.training, on_step=lambda step: pruner.step())
    report, masks = pruner.finish()
    assert masks.hashes() == Masks.load(tmp_path / "run" / "masks.safetensors").hashes()
    assert report.pop("made")["schedule"] == told["made"]["schedule"]
    assert {key: told[key] for key in report} == report
    saved = load(str(tmp_path / "run" / "model")).model.state_dict()
    assert all(torch.equal(value, saved[name]) for name, value in job.loaded.model.state_dict().items())


def test_of_any_module_all_linear_layers_but_the_head_are_pruned(tmp_path: Path) -> None:
    model = mlp().eval()
    pruner = idvl.Pruner.from_model(model, sparsity=0.75, total_steps=20, criterion="magnitude")
    loop(model, pruner, 20)
    report, masks = pruner.finish()
    assert list(masks.shapes) == list(report["layers"]) == ["0", "2"] and not model.training
    assert sum(int((model[i].weight == 0).sum()) for i in (0, 2)) == round(0.75 * 320) == report["total"]["zeros"]
    assert report["total"]["model_weights"] == sum(weight.numel() for weight in model.parameters())
    assert pruner.finish() == (report, masks)
    with torch.no_grad():
        model[0].weight.fill_(1.0)
    pruner.enforce()
    assert int((model[0].weight == 0).sum()) == masks.zeros["0"] > 0
    (tmp_path / "report.json").write_text(json.dumps(report))
    assert idvl.load_report(tmp_path / "report.json") == report
    with pytest.raises(idvl.UsageError, match="step after finish"):
        pruner.step()


def no_inputs(model: nn.Sequential) -> nn.Module:
    return nn.Sequential(nn.Linear(0, 4), *model)


def no_outputs(model: nn.Sequential) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 0), *model)


def lazy(model: nn.Sequential) -> nn.Module:
    return nn.Sequential(nn.LazyLinear(4), *model)


def lazy_head(model: nn.Sequential) -> nn.Module:
    return model.append(nn.LazyLinear(4))


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (no_inputs, r"0\.weight cannot be pruned: it is empty \(0 inputs, 4 outputs\)"),
        (no_outputs, r"0\.weight cannot be pruned: it is empty \(4 inputs, 0 outputs\)"),
        (lazy, r"0\.weight has no shape yet: run a batch"),
        (lazy_head, r"5\.weight has no shape yet: run a batch"),
        (lambda model: None, "model is a torch.nn.Module, not None"),
        (lambda model: "builtin/vit", "model is a torch.nn.Module, not 'builtin/vit'"),
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy modules", "ignore:Initializing zero-element tensors")
def test_what_is_no_model_with_weights_is_refused(model: object, why: str) -> None:
    with pytest.raises(idvl.UsageError, match=why):
        idvl.Pruner.from_model(model(mlp()), sparsity=0.5, total_steps=10)


def test_a_state_of_another_pruner_is_refused() -> None:
    settings = {"total_steps": np.int64(20), "criterion": "magnitude"}
    pruner, other = (idvl.Pruner.from_model(mlp(), sparsity=share, **settings) for share in (0.7, 0.3))
    pruner.step()
    state = pruner.state_dict()
    pruner.load_state_dict({name: value for name, value in state.items() if name != "schedule"})
    for steps in (-5, 500):
        with pytest.raises(idvl.UsageError, match=f"the state is of step {steps} of 20"):
            pruner.load_state_dict(state | {"steps": torch.tensor(steps)})
    for key in ("steps", "frozen", "factor.0", "mask.0"):
        with pytest.raises(idvl.UsageError, match="lacks|other layers"):
            pruner.load_state_dict({name: value for name, value in state.items() if name != key})
    broken = [state | {key: torch.tensor([1, 2], dtype=torch.uint8)} for key in ("steps", "schedule", "mask.0")]
    broken += [None, [1], {key: value.tolist() for key, value in state.items()}]
    for other_state in broken:
        with pytest.raises(idvl.UsageError, match="of another pruner, or not whole"):
            pruner.load_state_dict(other_state)
    with pytest.raises(idvl.UsageError, match=r"a pruner with target 0\.7, not 0\.3: use the same settings"):
        other.load_state_dict(state)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"structure": "2:4"}, "allocation 'global', not 'uniform'"),
        ({"criterion": "magnitude"}, "criterion 'platon', not 'magnitude'"),
        ({"criterion": Magnitude(), "window": None}, "criterion 'platon', not 'Magnitude'"),
        ({"floor": 0.1}, r"floor 0\.0, not 0\.1"),
        ({"ceiling": 0.9}, r"ceiling 1\.0, not 0\.9"),
        ({"min_keep": 3}, "min_keep None, not 3"),
        ({"monotone": True}, "monotone False, not True"),
        ({"window": 3}, "window 2, not 3"),
        ({"beta1": 0.5}, r"beta1 0\.85, not 0\.5"),
        ({"smoothing_dtype": "bfloat16"}, "smoothing_dtype 'float32', not 'bfloat16'"),
        ({"profile": True}, "id_weight 'none', not 'multiply'"),
        ({"mask_every": 2}, "mask_every 1, not 2"),
    ],
)
def test_a_state_of_other_settings_is_refused(changed: dict[str, object], why: str) -> None:
    model, settings = mlp(), {"sparsity": 0.5, "total_steps": 12, "window": 2, "mask_every": 1}
    pruner = idvl.Pruner.from_model(model, **settings)
    loop(model, pruner, 3)
    if changed.get("profile"):
        changed = {"profile": profile_of(find_layers(model, family_in_memory(model)))}
    changed = {key: value for key, value in (settings | changed).items() if value is not None}
    other = idvl.Pruner.from_model(model, **changed)
    with pytest.raises(idvl.UsageError, match=f"^the state is of a pruner with {why}: use the same settings$"):
        other.load_state_dict(pruner.state_dict())


def test_a_state_of_other_factors_or_without_averages_is_refused(tmp_path: Path) -> None:
    model, settings = mlp(), {"sparsity": 0.5, "total_steps": 12, "window": 2, "mask_every": 1}
    profile = profile_of(find_layers(model, family_in_memory(model)))
    pruner = idvl.Pruner.from_model(model, profile=profile, **settings)
    loop(model, pruner, 3)
    state = pruner.state_dict()
    changed = json.loads(profile.dumps())
    changed["layers"]["2"]["estimate"]["dimension"] = 9.0
    (tmp_path / "changed.json").write_text(json.dumps(changed))
    other = idvl.Pruner.from_model(model, profile=tmp_path / "changed.json", **settings)
    with pytest.raises(idvl.UsageError, match=r"factor of 2 3\.0, not 9\.0"):
        other.load_state_dict(state)
    bare = {key: value for key, value in state.items() if not key.startswith("criterion.") and key != "settings"}
    with pytest.raises(idvl.UsageError, match="lacks the criterion's averages"):
        pruner.load_state_dict(bare)


def test_gradients_cleared_too_early_are_told(caplog: pytest.LogCaptureFixture) -> None:
    for to_none in (True, False):
        model = mlp()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        pruner = idvl.Pruner.from_model(model, sparsity=0.5, total_steps=1, criterion="gradient")
        model(torch.randn(8, 4)).square().mean().backward()
        optimizer.zero_grad(set_to_none=to_none)
        if to_none:
            with pytest.raises(idvl.RunError, match=r"0 has no gradient: prune before optimizer.zero_grad\(\)"):
                pruner.step()
        else:
            pruner.step()
    assert "every score is 0 at step 1" in caplog.text


def test_a_scope_is_a_pattern_and_a_profile_weights_scores() -> None:
    model, settings = mlp(), {"sparsity": 0.5, "total_steps": 5, "criterion": "magnitude"}
    profile = profile_of(find_layers(model, family_in_memory(model)))
    pruner = idvl.Pruner.from_model(model, profile=profile, scope="2", **settings)
    assert list(pruner.masks.shapes) == ["2"]
    pruner = idvl.Pruner.from_model(model, profile=profile, id_weight="divide", **settings)
    loop(model, pruner, 5)
    layers = pruner.finish().report["layers"]
    assert [layer["factor"] for layer in layers.values()] == [1 / 2, 1 / 3]


class Scored(Magnitude):
    """Magnitude, whose scores `change` replaces."""

    def __init__(self, change: Callable[[torch.Tensor], object]) -> None:
        self.change = change

    def score(self, name: str, weight: torch.Tensor, grad: torch.Tensor | None) -> object:
        return self.change(super().score(name, weight, grad))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (torch.Tensor.double, r"must score 0 with float32 \(16, 4\) on cpu, not float64 \(16, 4\) on cpu"),
        (torch.Tensor.bfloat16, r"not bfloat16 \(16, 4\) on cpu"),
        (lambda scores: scores[:, :2], r"not float32 \(16, 2\) on cpu"),
        (lambda scores: scores.T, r"not float32 \(4, 16\) on cpu"),
        (lambda scores: None, "not None"),
        (torch.Tensor.neg, "fails at 0: ValueError: scores must not be negative or -0.0, as those of 0 are"),
        (lambda scores: 1 / 0, "fails at 0: ZeroDivisionError: division by zero"),
        (lambda scores: scores.missing, "fails at 0: AttributeError: 'Tensor' object has no attribute 'missing'"),
    ],
)
def test_scores_that_break_the_contract_are_refused(change: Callable, why: str) -> None:
    pruner = idvl.Pruner.from_model(mlp(), sparsity=0.5, total_steps=1, criterion=Scored(change))
    with pytest.raises(idvl.RunError, match=rf"^the criterion tests\.pruning\.test_api\.Scored .*{why}$"):
        pruner.step()


def test_a_criterion_that_fails_to_observe_is_named() -> None:
    criterion = Scored(torch.Tensor.abs)
    criterion.observe = lambda name, weight, grad: {}[name]
    pruner = idvl.Pruner.from_model(mlp(), sparsity=0.5, total_steps=9, criterion=criterion)
    with pytest.raises(idvl.RunError, match=r"Scored fails at 0: KeyError: '0'$"):
        pruner.step()


def test_scores_may_lie_in_memory_in_any_order() -> None:
    masks = []
    for criterion in ("magnitude", Scored(lambda scores: scores.T.contiguous().T)):
        model = mlp()
        pruner = idvl.Pruner.from_model(model, sparsity=0.5, total_steps=4, criterion=criterion)
        loop(model, pruner, 4)
        masks.append(pruner.finish().masks.hash())
    assert masks[0] == masks[1]


def test_settings_beside_a_criterion_object_are_refused() -> None:
    for settings in ({"beta1": 0.5}, {"window": 3}):
        with pytest.raises(idvl.UsageError, match=rf"{next(iter(settings))} is a setting of a .*set it in Magnitude\("):
            idvl.Pruner.from_model(mlp(), sparsity=0.5, total_steps=4, criterion=Magnitude(), **settings)


def test_its_state_resumes_it(caplog: pytest.LogCaptureFixture) -> None:
    whole, model = mlp(), mlp()
    settings = {"sparsity": 0.75, "total_steps": 12, "window": 2, "mask_every": 1}
    pruners = [idvl.Pruner.from_model(one, **settings) for one in (whole, model)]
    for one, pruner in zip((whole, model), pruners, strict=True):
        loop(one, pruner, 6)
    resumed = idvl.Pruner.from_model(model, **settings)
    resumed.load_state_dict(copy.deepcopy(pruners[1].state_dict()))
    loop(whole, pruners[0], 6, seed=1)
    loop(model, resumed, 6, seed=1)
    assert resumed.steps == 12 and resumed.finish().masks.hash() == pruners[0].finish().masks.hash()
    pruners[1].finish()
    assert "after 6 of 12 steps" in caplog.text


def frozen(model: nn.Sequential) -> nn.Module:
    model[2].weight.requires_grad_(False)
    return model


def shared(model: nn.Sequential) -> nn.Module:
    model.append(nn.Linear(16, 16))
    model[5].weight = model[2].weight
    return model.append(nn.Linear(16, 2))


def meta(model: nn.Sequential) -> nn.Module:
    return model.to("meta")


def computed(model: nn.Sequential) -> nn.Module:
    nn.utils.parametrizations.weight_norm(model[2])
    return model


def cut(model: nn.Sequential) -> nn.Module:
    """As DeepSpeed ZeRO-3 leaves a parameter outside of its forward pass."""
    model[2].weight.data = torch.empty(0)
    return model


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (frozen, "frozen"),
        (shared, r"shared with 5\.weight"),
        (meta, "on the meta device"),
        (computed, "computed from other parameters"),
        (cut, "sharded"),
    ],
)
def test_parameters_that_cannot_be_pruned_are_refused(change: object, why: str) -> None:
    with pytest.raises(idvl.UsageError, match=rf"^[02]\.weight cannot be pruned: it is {why}.*;"):
        idvl.Pruner.from_model(change(mlp()), sparsity=0.5, total_steps=10)


def test_a_parameter_sharded_by_torch_is_refused() -> None:
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import distribute_tensor

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        model = mlp()
        model[2].weight = nn.Parameter(distribute_tensor(model[2].weight.data, init_device_mesh("cpu", (1,))))
        with pytest.raises(idvl.UsageError, match=r"^2\.weight cannot be pruned: it is sharded over processes"):
            idvl.Pruner.from_model(model, sparsity=0.5, total_steps=10)
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"sparsitty": 0.5}, "unknown key 'prune.sparsitty'; did you mean 'prune.sparsity'"),
        ({"criterion": "platoon"}, "platoon"),
        ({"criterion": object()}, "the criterion object cannot be used: it has no method observe"),
        ({"criterion": Magnitude}, r"not a class: pass Magnitude\(...\)"),
        ({"total_steps": 0}, "total_steps is a whole number from 1"),
        ({"total_steps": 10.5}, "total_steps is a whole number from 1 .*, not 10.5"),
        ({"structure": "2:4"}, "structure 2:4 has sparsity 0.5, not 0.75"),
        ({"sparsity": None}, "no sparsity: set sparsity, as in sparsity=0.8, or a structure that implies it"),
        ({"id_weight": "multiply"}, "needs a profile"),
        ({"compat": "icml24"}, "use idvl prune"),
        ({"scope": "vision"}, "scope vision is empty"),
        ({"profile": {"width": 17}}, "the profile is of another model: 0 has 17 features there, 16 here"),
        ({"profile": {}}, "the profile lacks 2 of 2 layers in scope"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict, why: str) -> None:
    model = mlp()
    if "profile" in settings:
        of = model if settings["profile"] else nn.Sequential(nn.Identity(), model)
        settings = {"profile": profile_of(find_layers(of, family_in_memory(of)), **settings["profile"])}
    with pytest.raises(idvl.UsageError, match=why):
        idvl.Pruner.from_model(model, **{"sparsity": 0.75, "total_steps": 10, **settings})
    with pytest.raises(idvl.UsageError, match="no linear layer beside its output head"):
        idvl.Pruner.from_model(nn.Sequential(nn.Linear(4, 2)), sparsity=0.5, total_steps=10)


def test_a_structure_implies_the_sparsity() -> None:
    pruner = idvl.Pruner.from_model(mlp(), structure="2:4", total_steps=1, criterion="magnitude", schedule="one-shot")
    pruner.step()
    assert pruner.finish().report["total"]["sparsity"] == 0.5
    assert idvl.PruneCallback(structure="2:4").settings["sparsity"] is None


def test_weights_that_were_zero_before_are_told_and_not_counted(caplog: pytest.LogCaptureFixture) -> None:
    model = mlp()
    with torch.no_grad():
        model[0].weight[:, :8] = 0  # half of the first layer, more than is pruned
    pruner = idvl.Pruner.from_model(model, sparsity=0.1, total_steps=1, criterion="magnitude", schedule="one-shot")
    pruner.step()
    report = pruner.finish().report
    zeros = sum(int((weight == 0).sum()) for weight in pruner.weights.weights.values())
    assert report["made"]["other_zeros"] == zeros - report["total"]["zeros"] > 0
    assert pruner.finish().report["made"] == report["made"]
    assert report["total"]["prunable_zeros"] == report["total"]["model_zeros"] == zeros
    assert report["before"] == {"layers": 1, "zeros": zeros}
    assert caplog.text.count("more weights in scope are zero; the sparsity in scope does not count them") == 1
    assert caplog.text.count("1 layer in scope holds ") == 1


def test_a_resumed_pruner_knows_the_zeros_of_the_beginning(caplog: pytest.LogCaptureFixture) -> None:
    options = {"sparsity": 0.5, "total_steps": 4, "criterion": "magnitude", "initial": 0.0, "final": 0.0}
    for zeros in (0, 8):
        caplog.clear()
        model = mlp()
        with torch.no_grad():
            model[0].weight[:, :zeros] = 0
        held = int((model[0].weight == 0).sum())
        first = idvl.Pruner.from_model(model, **options)
        for _ in range(3):
            first.step()
        first.enforce()
        # of weights that hold zeros of the masks by now
        second = idvl.Pruner.from_model(model, **options)
        second.load_state_dict(first.state_dict())
        second.step()
        assert second.finish().report.get("before") == ({"layers": 1, "zeros": held} if zeros else None)
        assert caplog.text.count("of an earlier pruning") == (zeros > 0)


def test_names_with_characters_of_patterns_are_names() -> None:
    names = ["q+k", "q[0]", "a*", "layer?", "q(k", "$", "b|", "head"]
    model = nn.Sequential(OrderedDict((name, nn.Linear(4, 4)) for name in names))
    pruner = idvl.Pruner.from_model(model, sparsity=0.5, total_steps=5)
    assert list(pruner.masks.shapes) == names[:-1]
    pruner = idvl.Pruner.from_model(model, sparsity=0.5, total_steps=5, scope="q[0]")
    assert list(pruner.masks.shapes) == ["q[0]"]


def assigned(model: nn.Sequential) -> None:
    model.load_state_dict({name: value.clone() for name, value in model.state_dict().items()}, assign=True)


def replaced(model: nn.Sequential) -> None:
    model[0].weight = nn.Parameter(torch.randn(16, 4))


def exchanged(model: nn.Sequential) -> None:
    model[0] = nn.Linear(4, 16)


def converted(model: nn.Sequential) -> None:
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    model.to(torch.float64)
    torch.__future__.set_overwrite_module_params_on_conversion(before)


def parametrized(model: nn.Sequential) -> None:
    nn.utils.parametrizations.spectral_norm(model[0])


@pytest.mark.parametrize("change", [assigned, replaced, exchanged, converted, parametrized])
def test_a_weight_that_was_replaced_is_refused(change: object) -> None:
    model = mlp()
    pruner = idvl.Pruner.from_model(model, sparsity=0.5, total_steps=4, criterion="magnitude")
    loop(model, pruner, 3)
    change(model)
    for call in (pruner.step, pruner.masked, pruner.finish):
        with pytest.raises(idvl.UsageError, match=r"^0\.weight was replaced after .*make the Pruner afterwards"):
            call()


class Regression(nn.Module):
    """What the Trainer takes: a loss from a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = mlp()

    def forward(self, points: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": (self.layers(points) - labels).square().mean()}


def trained(folder: Path, *, resume: str | None = None) -> tuple[str, dict[str, torch.Tensor]]:
    """The hash of the masks and the weights that a Trainer ends with."""
    model, draw = Regression(), torch.Generator().manual_seed(0)
    data = [{"points": torch.randn(4, generator=draw), "labels": torch.randn(2, generator=draw)} for _ in range(16)]
    callback = idvl.PruneCallback(sparsity=0.6, window=2, mask_every=1)
    arguments = TrainingArguments(
        str(folder), max_steps=8, per_device_train_batch_size=4, save_steps=4, report_to=[], use_cpu=True, seed=1,
        learning_rate=1e-2, disable_tqdm=True, logging_strategy="no",
    )  # fmt: skip
    trainer = Trainer(model, arguments, train_dataset=data, callbacks=[callback])
    trainer.train(resume_from_checkpoint=resume)
    assert callback.result.report["total"]["zeros"] == round(0.6 * callback.result.report["total"]["weights"])
    return callback.result.masks.hash(), model.state_dict()


def test_the_callback_prunes_and_resumes(tmp_path: Path) -> None:
    masks, weights = trained(tmp_path)
    again, resumed = trained(tmp_path, resume=str(tmp_path / "checkpoint-4"))
    assert masks == again and all(torch.equal(weights[name], resumed[name]) for name in weights)
    state = tmp_path / "checkpoint-4" / "idvl_pruner.safetensors"
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(idvl.UsageError, match=r"cannot resume: .*idvl_pruner\.safetensors' is damaged"):
        trained(tmp_path, resume=str(tmp_path / "checkpoint-4"))
    state.unlink()
    with pytest.raises(idvl.UsageError, match="cannot resume: there is no pruner's state"):
        trained(tmp_path, resume=str(tmp_path / "checkpoint-4"))


def test_the_callback_resumes_a_checkpoint_of_another_folder(tmp_path: Path) -> None:
    masks, weights = trained(tmp_path / "a")
    checkpoint = tmp_path / "a" / "checkpoint-4"
    trained(tmp_path / "b")  # has a checkpoint-4 of its own
    again, resumed = trained(tmp_path / "b", resume=str(checkpoint))
    assert masks == again and all(torch.equal(weights[name], resumed[name]) for name in weights)
    shutil.copytree(tmp_path / "a", tmp_path / "moved")
    trained(tmp_path / "a")  # writes its own checkpoint-4
    with pytest.raises(idvl.UsageError, match=r"is of another training; copy the checkpoint to .*b/checkpoint-4"):
        trained(tmp_path / "b", resume=str(tmp_path / "moved" / "checkpoint-4"))
    assert trained(tmp_path / "moved", resume=str(tmp_path / "moved" / "checkpoint-4"))[0] == masks


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"criterion": "wanda"}, "criterion wanda prunes from calibration samples"),
        ({"criterion": Wanda()}, "criterion Wanda prunes from calibration samples"),
        ({"calibration": "sequential"}, "calibration is for pruning from calibration samples"),
        ({"repair": "obs"}, "repair is for pruning from calibration samples"),
        ({"calibration_samples": 7}, "calibration_samples is for pruning from calibration samples"),
    ],
)
def test_what_needs_calibration_samples_is_refused_at_once(settings: dict[str, object], why: str) -> None:
    with pytest.raises(idvl.UsageError, match=why):
        idvl.Pruner.from_model(mlp(), sparsity=0.5, total_steps=10, **settings)
    with pytest.raises(idvl.UsageError, match=why):
        idvl.PruneCallback(sparsity=0.5, **settings)


def test_the_callback_refuses_a_training_that_ends_with_earlier_weights(tmp_path: Path) -> None:
    arguments = TrainingArguments(
        str(tmp_path), max_steps=2, report_to=[], use_cpu=True, eval_strategy="steps", eval_steps=1, save_steps=1,
        load_best_model_at_end=True, metric_for_best_model="loss", disable_tqdm=True,
    )  # fmt: skip
    data = [{"points": torch.zeros(4), "labels": torch.zeros(2)}] * 4
    callback = idvl.PruneCallback(sparsity=0.6)
    with pytest.raises(idvl.UsageError, match="load_best_model_at_end .*: leave it out"):
        Trainer(Regression(), arguments, train_dataset=data, eval_dataset=data, callbacks=[callback]).train()
