"""The loop against plain torch, and what it does when a step goes wrong."""

import dataclasses
import math
import re

import pytest
import torch
from transformers import BlipForConditionalGeneration, get_scheduler

from idvl.errors import RunError, UsageError
from idvl.models.loading import load, wrap
from idvl.training import Training, checkpoint, loop, train
from idvl.training.accelerator import schedule
from idvl.training.batches import Collate, Order
from idvl.training.dry_run import rehearse
from idvl.training.stepper import terms
from tests.support import tiny

CAPTIONS = tiny.samples(32)
LABELLED = [dataclasses.replace(sample, label=i % 10, texts=()) for i, sample in enumerate(CAPTIONS)]
FAST = {"learning_rate": 1e-3, "lr_schedule": "linear", "weight_decay": 0.01, "checkpoint_every": None}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {kind: tiny.save(kind, tmp_path_factory.mktemp(kind)) for kind in ("blip", "clip", "vit")}


def fresh(folders, kind):
    return load(str(folders[kind]), device="cpu")


def weights(loaded):
    return {name: value.detach().clone() for name, value in loaded.model.named_parameters()}


def close(one, other):
    """Adam's first steps are signs of gradients: noise in tiny ones moves a weight by much of the learning rate."""
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, atol=2e-4, rtol=1e-3, msg=name)


def test_it_is_plain_adamw_on_the_mean_over_tokens(folders):
    settings = Training(batch_size=8, max_steps=6, warmup=0.5, clip=0.5, **FAST)
    loaded, seen = fresh(folders, "blip"), []
    train(loaded, CAPTIONS, settings, progress=lambda step, total, numbers: seen.append((step, total, numbers)))
    assert not loaded.model.training

    plain = fresh(folders, "blip")
    model = plain.model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    schedule = get_scheduler("linear", optimizer, 3, 6)
    collate = Collate(plain.family, plain.processor, model.config)
    order = Order(samples=32, batch_size=8, accumulate=1, ranks=1, seed=0).parts(0, 0)
    for step in range(6):
        inputs = collate([CAPTIONS[index] for _, index in next(order)])
        total, count, _ = plain.family.training_task.loss(model, inputs, None)
        (total / count).backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        numbers = seen[step][2]
        assert seen[step][:2] == (step + 1, 6)
        assert numbers["loss"] == pytest.approx((total / count).item(), rel=1e-4)
        assert numbers["norm"] == pytest.approx(norm.item(), rel=1e-3)
        assert numbers["lr"] == schedule.get_last_lr()[0]
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    close(weights(plain), weights(loaded))


def test_a_cosine_by_epoch_falls_once_an_epoch(folders):
    """As BLIP's cosine_lr_schedule: the rate x (1 + cos(pi e / E)) / 2 in all of epoch e of E."""
    rates = []
    train(
        fresh(folders, "vit"),
        LABELLED,
        Training(epochs=5, batch_size=16, **FAST | {"lr_schedule": "cosine_by_epoch"}),
        progress=lambda step, total, numbers: rates.append(numbers["lr"]),
    )
    epochs = [1e-3 * 0.5 * (1 + math.cos(math.pi * epoch / 5)) for epoch in range(5)]
    assert rates == pytest.approx([rate for rate in epochs for _ in range(2)])


def test_labels_are_smoothed_and_text_dropped_out_while_training(folders):
    """As in a checkpoint that has both of its own, step by step; dropout stays out of the model that is left."""

    def losses(loaded, **settings):
        seen = []
        settings = Training(max_steps=2, batch_size=4, **FAST, **settings)
        train(loaded, CAPTIONS, settings, progress=lambda step, total, numbers: seen.append(numbers["loss"]))
        return seen

    config = fresh(folders, "blip").model.config
    config.text_config.update({"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, "label_smoothing": 0.1})
    own = BlipForConditionalGeneration.from_pretrained(folders["blip"], config=config)
    own = losses(wrap(own, fresh(folders, "blip").processor))
    loaded = fresh(folders, "blip")
    assert losses(loaded, label_smoothing=0.1, text_dropout=0.1) == own
    assert {module.p for module in loaded.model.modules() if isinstance(module, torch.nn.Dropout)} == {0.0}


def gradients(folders, kind, samples, **settings):
    """The gradients that the hook sees in the first step."""
    loaded, seen = fresh(folders, kind), {}

    def note(step):
        seen.update({name: w.grad.clone() for name, w in loaded.model.named_parameters() if w.grad is not None})

    train(loaded, samples, Training(max_steps=1, clip=None, **FAST, **settings), on_step=note)
    return seen


@pytest.mark.parametrize(("kind", "samples"), [("blip", CAPTIONS), ("vit", LABELLED)])
def test_accumulating_changes_nothing(folders, kind, samples):
    whole = gradients(folders, kind, samples, batch_size=16)
    parts = gradients(folders, kind, samples, batch_size=4, accumulate=4)
    assert whole.keys() == parts.keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, atol=1e-6, rtol=1e-4, msg=name)


def test_checkpointing_blocks_changes_nothing(folders):
    plain = gradients(folders, "blip", CAPTIONS, batch_size=8)
    again = gradients(folders, "blip", CAPTIONS, batch_size=8, gradient_checkpointing=True)
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, msg=name)


def test_processes_that_prepare_samples_change_nothing(folders):
    one, two = (gradients(folders, "blip", CAPTIONS, batch_size=8, workers=workers) for workers in (0, 2))
    assert all(torch.equal(gradient, two[name]) for name, gradient in one.items())


def test_weights_can_be_left_alone(folders):
    loaded, norms = fresh(folders, "vit"), []
    before = weights(loaded)

    def note(step):
        norms.append(loaded.model.vit.layers[0].mlp.fc1.weight.grad.norm().item())

    outcome = train(
        loaded, LABELLED, Training(epochs=0, max_steps=5, batch_size=8, update_weights=False, **FAST), on_step=note
    )
    assert outcome.steps == len(norms) == 5 and min(norms) > 0
    assert all(torch.equal(value, before[name]) for name, value in weights(loaded).items())
    assert all(weight.grad is None for weight in loaded.model.parameters())


def test_distillation_pulls_towards_the_dense_model(folders):
    """Without a loss of its own, a perturbed student returns to its teacher."""
    loaded, teacher = fresh(folders, "blip"), fresh(folders, "blip").model
    own = loaded.family.training_task.loss

    def no_loss(model, inputs, gather):
        objective = own(model, inputs, gather)
        return objective._replace(total=objective.total * 0)

    silent = dataclasses.replace(loaded.family.training_task, loss=no_loss)
    loaded = dataclasses.replace(loaded, family=dataclasses.replace(loaded.family, training_task=silent))
    with torch.no_grad():
        for weight in loaded.model.parameters():
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)) * 0.05)
    losses = []
    settings = Training(batch_size=16, max_steps=30, distill=1.0, **FAST | {"learning_rate": 3e-3})
    train(
        loaded,
        CAPTIONS,
        settings,
        teacher=teacher,
        progress=lambda step, total, numbers: losses.append(numbers["loss"]),
    )
    assert losses[-1] < 0.5 * losses[0]
    assert not any(weight.grad is not None for weight in teacher.parameters())


def test_the_teacher_is_the_model_as_given(folders):
    losses = []
    settings = Training(batch_size=8, max_steps=1, distill=10.0, **FAST)
    for distill in (0.0, 10.0):
        train(
            fresh(folders, "blip"),
            CAPTIONS,
            dataclasses.replace(settings, distill=distill),
            progress=lambda step, total, numbers: losses.append(numbers["loss"]),
        )
    # the divergence from itself is nothing
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_epochs_end_in_eval_mode_and_draw_no_random_number(folders):
    def run(on_epoch):
        loaded = fresh(folders, "vit")
        for module in loaded.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.1
        train(loaded, LABELLED, Training(epochs=3, batch_size=8, **FAST), on_epoch=on_epoch and on_epoch(loaded))
        return weights(loaded)

    epochs = []

    def evaluate(loaded):
        def hook(epoch, step):
            assert step == 4 * epoch
            epochs.append((epoch, loaded.model.training))
            torch.rand(3)

        return hook

    plain, evaluated = run(None), run(evaluate)
    assert epochs == [(1, False), (2, False), (3, False)]
    assert all(torch.equal(value, evaluated[name]) for name, value in plain.items())


def test_numbers_are_logged_every_so_often(folders):
    logged = []
    train(fresh(folders, "vit"), LABELLED, Training(max_steps=5, batch_size=8, log_every=2, **FAST), log=logged.append)
    assert [numbers["step"] for numbers in logged] == [2, 4, 5]
    assert set(logged[0]) == {"step", "epoch", "loss", "lr", "norm"}


def test_what_hooks_describe_and_measure_is_logged_too(folders):
    logged, sent, modes = [], [], []

    def evaluate(step):
        modes.append(loaded.model.training)
        torch.rand(3)
        return {"CIDEr": step}

    loaded, settings = fresh(folders, "vit"), {"max_steps": 5, "batch_size": 8, "log_every": 2, **FAST}
    train(
        loaded,
        LABELLED,
        Training(**settings, evaluate_every=2),
        log=logged.append,
        progress=lambda step, total, numbers: sent.append(numbers),
        describe=lambda: {"sparsity": 0.5},
        evaluate=evaluate,
    )
    assert [(numbers["step"], "loss" in numbers, numbers.get("CIDEr")) for numbers in logged] == [
        *((2, True, None), (2, False, 2), (4, True, None), (4, False, 4), (5, True, None))
    ]
    assert modes == [False, False]
    assert [numbers["sparsity"] for numbers in sent] == [0.5] * 5
    plain = fresh(folders, "vit")
    train(plain, LABELLED, Training(**settings))
    assert all(torch.equal(value, weights(loaded)[name]) for name, value in weights(plain).items())


def test_trackers_get_what_is_logged(folders, monkeypatch):
    sent = []
    monkeypatch.setattr(
        loop.Accelerator, "log", lambda self, numbers, step: sent.append((step, set(numbers))), raising=True
    )
    settings = Training(max_steps=2, batch_size=8, log_every=2, **FAST)
    train(fresh(folders, "vit"), LABELLED, settings, describe=lambda: {"sparsity": 0.5, "sparsity.vision": 0.5})
    assert sent == [(2, {"loss", "lr", "norm", "sparsity", "sparsity.vision"})]


def test_a_loss_that_is_no_number_stops_the_run(folders, tmp_path):
    loaded = fresh(folders, "vit")

    def break_it(step):
        if step == 3:
            with torch.no_grad():
                loaded.model.classifier.bias.fill_(math.nan)

    settings = Training(max_steps=8, batch_size=8, **FAST | {"checkpoint_every": 2})
    with pytest.raises(RunError, match=r"the loss became nan at step 4: the last good checkpoint is step-000000002"):
        train(loaded, LABELLED, settings, folder=tmp_path / "c", on_step=break_it)


def test_a_gradient_that_is_no_number_stops_the_run(folders):
    loaded = fresh(folders, "vit")
    loaded.model.classifier.weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(RunError, match=r"the gradient's norm became \w+ at step 1: there is no checkpoint yet"):
        train(loaded, LABELLED, Training(max_steps=2, batch_size=8, **FAST))


def test_steps_that_fp16_skips_reach_nobody(folders, monkeypatch):
    """As on a GPU, but with a scaler on the CPU, whose first scales overflow."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60, growth_interval=1000)
    make = loop.setup.session

    def session(*args):
        return _with_scaler(make(*args), scaler)

    monkeypatch.setattr(loop.setup, "session", session)
    loaded, norms, told, epochs = fresh(folders, "vit"), [], [], []
    for weight in loaded.model.parameters():
        # the largest number of fp16
        weight.register_hook(lambda gradient: torch.where(gradient.abs() > 65504, math.inf, gradient))

    def note(step):
        grads = [weight.grad for weight in loaded.model.parameters() if weight.grad is not None]
        norms.append((step, torch.nn.utils.get_total_norm(grads).item()))

    outcome = train(
        loaded,
        LABELLED,
        Training(max_steps=4, batch_size=8, clip=1.0, **FAST | {"lr_schedule": "constant"}),
        on_step=note,
        on_epoch=lambda epoch, step: epochs.append((epoch, step)),
        progress=lambda step, total, numbers: told.append((step, numbers["norm"])),
    )
    assert epochs[:5] == [(epoch, 0) for epoch in range(1, 6)]
    assert outcome.steps == 4 and outcome.skipped > 20
    assert [step for step, _ in norms] == [step for step, _ in told] == [1, 2, 3, 4]
    # unscaled, then clipped
    assert all(
        norm == pytest.approx(min(1.0, before), rel=1e-3) for (_, norm), (_, before) in zip(norms, told, strict=True)
    )


class _with_scaler:
    """A session whose accelerator scales gradients as under fp16."""

    def __init__(self, session, scaler):
        self.session, self.scaler = session, scaler

    def __enter__(self):
        accelerator = self.session.__enter__()
        accelerator.scaler = self.scaler
        accelerator.unscale_gradients = lambda optimizer: self.scaler.unscale_(optimizer.optimizer)
        return accelerator

    def __exit__(self, *error):
        return self.session.__exit__(*error)


def test_a_full_gpu_is_told_in_one_line(folders, monkeypatch):
    loaded = fresh(folders, "vit")

    def full(*args):
        raise torch.OutOfMemoryError("CUDA out of memory")

    task = dataclasses.replace(loaded.family.training_task, loss=full)
    loaded = dataclasses.replace(loaded, family=dataclasses.replace(loaded.family, training_task=task))
    with pytest.raises(RunError, match="batch_size of 8: use batch_size 4 and accumulate 2"):
        train(loaded, LABELLED, Training(max_steps=2, batch_size=8, **FAST))


@pytest.mark.parametrize(
    ("room", "settings", "said"),
    [
        (2, {}, "batch_size of 8: use batch_size 2 and accumulate 4 for the same steps, or gradient_checkpointing"),
        (2, {"accumulate": 3}, "use batch_size 2 and accumulate 12 for the same steps"),
        (2, {"batch_size": 7}, "batch_size of 7: use batch_size 1 and accumulate 7"),
        (0, {}, "batch_size of 8: no smaller one helps; use gradient_checkpointing, or a smaller model"),
    ],
)
def test_a_rehearsal_finds_the_batch_that_fits(folders, monkeypatch, room, settings, said):
    loaded = fresh(folders, "vit")
    layer = loaded.model.vit.layers[1].mlp.fc1
    before, forward = weights(loaded), layer.forward

    def full(x):
        if len(x) > room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has ...")
        return forward(x)

    monkeypatch.setattr(layer, "forward", full)
    with pytest.raises(RunError, match=said) as refusal:
        rehearse(loaded, LABELLED, Training(max_steps=2, **{"batch_size": 8} | settings))
    assert "\n" not in str(refusal.value)
    assert not loaded.model.training and all(weight.grad is None for weight in loaded.model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in weights(loaded).items())
    if room:
        assert rehearse(loaded, LABELLED, Training(max_steps=2, batch_size=room)) > 0


def test_the_last_step_of_each_epoch_can_be_left_out(folders, monkeypatch):
    settings = dict(epochs=2, batch_size=8, **FAST)
    loaded, seen, rates = fresh(folders, "vit"), [], []

    def note(step):
        weight = loaded.model.vit.layers[0].mlp.fc1.weight
        seen.append((weight.detach().clone(), weight.grad.norm().item()))

    def told(step, total, numbers):
        rates.append(numbers["lr"])

    train(loaded, LABELLED, Training(skip_last=True, **settings), on_step=note, progress=told)
    stayed = [step + 1 for step in range(1, 8) if torch.equal(seen[step][0], seen[step - 1][0])]
    assert stayed == [4, 8] and all(norm > 0 for _, norm in seen)
    assert rates == pytest.approx([1e-3 * (8 - step) / 8 for step in range(8)])

    # where fp16 skips the second step, the data's epoch still ends with its fourth
    again, moves, left_out = fresh(folders, "vit"), iter([True, False] + [True] * 8), []
    move = loop.Stepper.move

    def skipping(self, *, leave_out):
        left_out.append(leave_out)
        norm, _ = move(self, leave_out=leave_out)
        return norm, next(moves)

    monkeypatch.setattr(loop.Stepper, "move", skipping)
    train(again, LABELLED, Training(skip_last=True, **settings))
    assert [position for position, left in enumerate(left_out, 1) if left] == [4, 8]

    # Adam's state is that of 6 steps
    plain = fresh(folders, "vit")
    model, order = plain.model.train(), Order(samples=32, batch_size=8, accumulate=1, ranks=1, seed=0).parts(0, 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01, fused=True)
    collate = Collate(plain.family, plain.processor, model.config)
    for step in range(8):
        optimizer.param_groups[0]["lr"] = rates[step]
        batch = collate([LABELLED[index] for _, index in next(order)])
        total, count, _ = plain.family.training_task.loss(model, batch, None)
        (total / count).backward()
        if step not in (3, 7):
            optimizer.step()
        optimizer.zero_grad()
    close(weights(plain), weights(loaded))


def batch_normed():
    """A tiny MobileViT, which normalises by statistics of its batches."""
    model, processor = tiny.mobilevit()
    return wrap(model, processor)


def buffers(loaded):
    return {name: value.clone() for name, value in loaded.model.named_buffers()}


def test_a_rehearsal_leaves_no_trace():
    loaded = batch_normed()
    layer = loaded.model.mobilevit.encoder.layer[0]
    layer.train()  # a mode of its own
    weight = layer.layer[0].expand_1x1.convolution.weight
    weight.grad = grad = torch.ones_like(weight)
    before, modes, random = buffers(loaded), [m.training for m in loaded.model.modules()], checkpoint.random_state()
    rehearse(loaded, LABELLED, Training(max_steps=2, batch_size=4))
    assert all(torch.equal(value, before[name]) for name, value in buffers(loaded).items())
    assert [module.training for module in loaded.model.modules()] == modes
    assert weight.grad is grad and bool((grad == 1).all())
    assert checkpoint.random_state() == random


def test_statistics_of_batches_move_with_the_weights_alone():
    loaded = batch_normed()
    before = buffers(loaded)
    train(loaded, LABELLED, Training(epochs=0, max_steps=2, batch_size=8, update_weights=False, **FAST))
    assert all(torch.equal(value, before[name]) for name, value in buffers(loaded).items())
    train(loaded, LABELLED, Training(max_steps=2, batch_size=8, **FAST))
    assert not any(torch.equal(value, before[name]) for name, value in buffers(loaded).items())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"report_to": ("wandb",)}, "its package is not installed"),
        ({"report_to": ("papyrus",)}, "no tracker 'papyrus'"),
        ({"lr_schedule": "sideways"}, "lr_schedule 'sideways'"),
        ({"mixed_precision": "fp16"}, "fp16 needs a GPU"),
        ({"text_dropout": 0.1}, "text_dropout is for BLIP, not for ViTForImageClassification"),
        ({"batch_size": 64}, "batch_size of at most 32"),
    ],
)
def test_what_cannot_be_run_is_refused(folders, settings, said, monkeypatch):
    monkeypatch.setattr(loop.setup, "get_available_trackers", list)
    with pytest.raises(UsageError, match=said):
        train(fresh(folders, "vit"), LABELLED, Training(max_steps=2, **{"batch_size": 8, **settings}))


def test_processes_that_do_not_know_of_each_other_are_refused(folders, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="ACCELERATE_USE_CPU=true"):
        train(fresh(folders, "vit"), LABELLED, Training(max_steps=1, batch_size=8))


def test_bfloat16_trains(folders):
    losses = []
    train(
        fresh(folders, "vit"),
        LABELLED,
        Training(max_steps=30, batch_size=16, mixed_precision="bf16", **FAST),
        progress=lambda step, total, numbers: losses.append(numbers["loss"]),
    )
    assert losses[-1] < losses[0]


def test_terms_are_counted_before_the_forward_pass():
    assert terms({"labels": torch.tensor([[1, -100], [2, 3]])}) == 3


@pytest.mark.parametrize(("name", "why"), [("nope", "there is no such scheduler"), ("wsd", "num_decay_steps|warmup")])
def test_a_scheduler_that_cannot_be_used_names_those_that_can(name: str, why: str) -> None:
    weights = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])
    with pytest.raises(UsageError) as refused:
        schedule(weights, Training(lr_schedule=name), total=5, per_epoch=1)
    assert re.search(why, str(refused.value)) and str(refused.value).count("constant_with_warmup") == 1
    assert "reduce_lr_on_plateau" not in str(refused.value)
