"""The optimizer's step against its published formula, and a state that is complete."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from copy import deepcopy
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn

from sparring.averaging import EMA, SWA
from sparring.errors import BadInput
from sparring.learner import Learner
from sparring.optimisation import Optimisation
from sparring.schedule import Constant, Cosine, Cyclic, MultiStep
from tests.methods.harness import identical

TOTAL = 6
Weights = dict[str, Tensor]


def network(dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 3, 3, bias=False), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4)
    return nn.Sequential(*layers).to(dtype).train()


def batch(step: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    return torch.rand(8, 1, 4, 4, generator=generator, dtype=dtype), torch.randint(4, (8,), generator=generator)


def learner(dtype: torch.dtype = torch.float64, precision: Any = "32-true", **options: Any) -> Learner:
    options = {"lr": 0.1, "schedule": Constant(), "weight_decay": 0.0, **options}
    fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
    return Learner(network(dtype), Optimisation(**options), fabric, TOTAL)


def advance(subject: Learner, steps: Iterable[int]) -> None:
    for step in steps:
        x, y = batch(step, next(subject.network.parameters()).dtype)
        subject.zero_grad()
        subject.backward(F.cross_entropy(subject.model(x), y))
        subject.step()


def weights(module: nn.Module) -> Weights:
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


def gradients(module: nn.Module, step: int) -> Weights:
    """Of the loss at the weights that the module has now; BatchNorm's batch statistics do not remember."""
    x, y = batch(step)
    names, parameters = zip(*module.named_parameters(), strict=True)
    found = torch.autograd.grad(F.cross_entropy(module(x), y), parameters)
    return dict(zip(names, found, strict=True))


def place(module: nn.Module, new: Weights) -> None:
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(new[name])


def assert_same_weights(one: nn.Module, other: nn.Module) -> None:
    for (name, a), (_, b) in zip(one.named_parameters(), other.named_parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("decay_norms", [True, False])
@pytest.mark.parametrize(
    ("momentum", "nesterov", "decay"), [(0.0, False, 0.0), (0.9, False, 0.0), (0.9, False, 0.05), (0.8, True, 0.05)]
)
def test_sgd_moves_as_written(momentum: float, nesterov: bool, decay: float, decay_norms: bool) -> None:
    """g = grad + decay w; v = momentum v + g; w -= lr (g + momentum v if nesterov else v)."""
    schedule = Cosine()
    subject = learner(
        momentum=momentum, nesterov=nesterov, weight_decay=decay, decay_norms=decay_norms, schedule=schedule
    )
    advance(subject, range(TOTAL))
    expected, velocity = network(), {}
    for step in range(TOTAL):
        w, grad = weights(expected), gradients(expected, step)
        for name in w:
            g = grad[name] + (decay * w[name] if decay_norms or w[name].ndim > 1 else 0)
            velocity[name] = momentum * velocity[name] + g if step else g
            direction = g + momentum * velocity[name] if nesterov else velocity[name]
            w[name] -= 0.1 * (1 + math.cos(math.pi * step / TOTAL)) / 2 * direction
        place(expected, w)
    assert_same_weights(subject.network, expected)


@pytest.mark.parametrize("decay_norms", [True, False])
def test_adamw_moves_as_written(decay_norms: bool) -> None:
    """w -= lr decay w, then w -= lr m / (1 - .9^t) / (sqrt(v / (1 - .999^t)) + 1e-8)."""
    decay, lr = 0.1, 0.01
    subject = learner(optimizer="adamw", lr=lr, weight_decay=decay, decay_norms=decay_norms, schedule=Cosine())
    advance(subject, range(TOTAL))
    expected = network()
    first, second = ({name: torch.zeros_like(p) for name, p in expected.named_parameters()} for _ in range(2))
    for step in range(TOTAL):
        w, grad = weights(expected), gradients(expected, step)
        rate = lr * (1 + math.cos(math.pi * step / TOTAL)) / 2
        for name in w:
            if decay_norms or w[name].ndim > 1:
                w[name] -= rate * decay * w[name]
            first[name] = 0.9 * first[name] + 0.1 * grad[name]
            second[name] = 0.999 * second[name] + 0.001 * grad[name] ** 2
            m, v = first[name] / (1 - 0.9 ** (step + 1)), second[name] / (1 - 0.999 ** (step + 1))
            w[name] -= rate * m / (v.sqrt() + 1e-8)
        place(expected, w)
    assert_same_weights(subject.network, expected)


def test_norms_and_biases_can_be_spared_from_decay() -> None:
    """With no gradient, decay alone moves the weights."""
    subject = learner(weight_decay=0.5, decay_norms=False, momentum=0.0)
    before = weights(subject.network)
    for parameter in subject.network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    subject.step()
    for name, after in weights(subject.network).items():
        expected = before[name] * (1 - 0.1 * 0.5) if after.ndim > 1 else before[name]
        torch.testing.assert_close(after, expected)
    assert {name for name, after in before.items() if after.ndim <= 1} == {"1.weight", "1.bias", "4.bias"}


def test_frozen_weights_stay_and_are_not_optimised() -> None:
    frozen = network()
    frozen[0].requires_grad_(False)
    subject = Learner(frozen, Optimisation(schedule=Constant()), Fabric(accelerator="cpu", devices=1), TOTAL)
    before = weights(subject.network)
    advance(subject, range(2))
    after = weights(subject.network)
    assert torch.equal(after["0.weight"], before["0.weight"])
    assert not torch.equal(after["4.weight"], before["4.weight"])


@pytest.mark.parametrize("clip", [0.05, 0.5, 1e6])
def test_clipping_bounds_the_norm_of_all_gradients_together(clip: float) -> None:
    subject, plain = learner(clip=clip, momentum=0.0), network()
    advance(subject, [0])
    raw = gradients(plain, 0)
    norm = math.sqrt(sum((g**2).sum().item() for g in raw.values()))
    assert 0.5 < norm < 1e6
    factor = min(1.0, clip / norm)
    place(plain, {name: w - 0.1 * factor * raw[name] for name, w in weights(plain).items()})
    for (name, a), (_, b) in zip(subject.network.named_parameters(), plain.named_parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0.1 * factor * 1e-5, msg=name)
    clipped = math.sqrt(sum((p.grad**2).sum().item() for p in subject.network.parameters()))
    assert clipped == pytest.approx(min(clip, norm), rel=1e-4)


def test_the_rate_and_the_momentum_follow_the_schedule() -> None:
    schedule = Cyclic(peak=0.5, lowest_momentum=0.8)
    subject = learner(lr=0.3, schedule=schedule, decay_norms=False)
    seen = []
    for step in range(TOTAL):
        advance(subject, [step])
        seen.append([(group["lr"], group["momentum"]) for group in subject.optimizer.param_groups])
    assert len(seen[0]) == 2
    for step, groups in enumerate(seen):
        expected = (0.3 * schedule.factor(step, TOTAL), schedule.momentum(step, TOTAL))
        assert groups == [pytest.approx(expected)] * 2
    assert subject.steps == TOTAL
    assert seen[0][0] == (0.0, 0.9)
    assert seen[3][0] == pytest.approx((0.3, 0.8))


def test_adamw_ignores_a_schedules_momentum() -> None:
    subject = learner(optimizer="adamw", schedule=Cyclic(lowest_momentum=0.8))
    advance(subject, [0])
    assert "momentum" not in subject.optimizer.param_groups[0]
    assert subject.optimizer.param_groups[0]["betas"] == (0.9, 0.999)


def test_the_average_follows_the_formula_of_an_ema_with_its_warmup() -> None:
    """a = d a + (1 - d) w with d = min(decay, (1 + t) / (10 + t)) after step t = 1, 2, ..."""
    decay = 0.3  # reached at step 3: 2/11, 3/12, then 4/13 is larger
    subject = learner(average=EMA(decay))
    expected = weights(subject.network)
    for step in range(TOTAL):
        advance(subject, [step])
        d = [2 / 11, 3 / 12, decay, decay, decay, decay][step]
        current = weights(subject.network)
        expected = {name: d * expected[name] + (1 - d) * current[name] for name in expected}
        for name, averaged in subject.export_model.named_parameters():
            torch.testing.assert_close(averaged, expected[name], rtol=1e-10, atol=1e-14)


def test_the_average_is_the_plain_mean_of_the_steps_after_the_start_of_swa() -> None:
    subject = learner(average=SWA("1/3"))
    seen = []
    for step in range(TOTAL):
        advance(subject, [step])
        seen.append(weights(subject.network))
        averaged = seen[2:] or seen[-1:]  # of six steps two lie before the start
        for name, found in subject.export_model.named_parameters():
            expected = torch.stack([kept[name] for kept in averaged]).mean(0)
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_before_the_start_of_swa_the_average_is_the_network_bit_for_bit() -> None:
    subject = learner(torch.float32, average=SWA("1/2"))
    advance(subject, range(3))
    assert identical(subject.export_model.state_dict(), subject.network.state_dict())
    advance(subject, [3])
    assert identical(subject.export_model.state_dict(), subject.network.state_dict())  # the mean of one step
    advance(subject, [4])
    assert not identical(subject.export_model.state_dict(), subject.network.state_dict())


def test_the_average_has_the_statistics_of_its_steps_and_the_count_of_the_network() -> None:
    """BatchNorm's running statistics are averaged as the weights are; the network's own belong to its own weights."""
    subject = learner(average=SWA("1/3"))
    seen = []
    for step in range(TOTAL):
        advance(subject, [step])
        seen.append({name: buffer.clone() for name, buffer in subject.network.named_buffers()})
    kept = dict(subject.export_model.named_buffers())
    assert set(kept) == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    for name in ("1.running_mean", "1.running_var"):
        expected = torch.stack([buffers[name] for buffers in seen[2:]]).mean(0)
        torch.testing.assert_close(kept[name], expected, rtol=1e-12, atol=1e-14)
        assert not torch.equal(kept[name], seen[-1][name])
    assert kept["1.num_batches_tracked"] == TOTAL
    before = kept["1.running_mean"].clone()
    subject.network.get_buffer("1.running_mean").fill_(7)  # no alias
    assert torch.equal(kept["1.running_mean"], before)


def test_the_average_is_evaluated_and_exported() -> None:
    subject = learner(average=EMA(0.9))
    advance(subject, range(3))
    averaged = subject.export_model
    assert averaged is not subject.network
    assert not averaged.training
    assert not any(parameter.requires_grad for parameter in averaged.parameters())
    x, _ = batch(0)
    assert torch.equal(subject.eval_model(x), averaged(x))
    assert not torch.allclose(subject.eval_model(x), subject.network.eval()(x))


def test_without_an_average_the_network_itself_is_evaluated_and_exported() -> None:
    subject = learner()
    assert subject.export_model is subject.network
    assert subject.eval_model.network is subject.network
    x, _ = batch(0)
    subject.network.eval()
    assert torch.equal(subject.eval_model(x), subject.network(x))


def test_attacks_and_the_loss_see_the_same_weights() -> None:
    subject = learner()
    advance(subject, range(2))
    ours = {parameter.data_ptr() for parameter in subject.network.parameters()}
    assert {parameter.data_ptr() for parameter in subject.attack_model.parameters()} == ours
    assert {parameter.data_ptr() for parameter in subject.model.parameters()} == ours


def test_zero_grad_drops_the_gradients() -> None:
    subject = learner()
    advance(subject, [0])
    assert all(parameter.grad is not None for parameter in subject.network.parameters())
    subject.zero_grad()
    assert all(parameter.grad is None for parameter in subject.network.parameters())


@pytest.mark.parametrize(
    "options",
    [
        {"average": SWA("1/3")},
        {"momentum": 0.9, "average": EMA(0.5), "schedule": Cyclic(lowest_momentum=0.8)},
        {"optimizer": "adamw", "lr": 0.01, "decay_norms": False, "schedule": Cosine()},
        {"momentum": 0.9, "nesterov": True, "weight_decay": 5e-4, "schedule": MultiStep(("1/2",)), "clip": 0.1},
    ],
    ids=["swa", "ema", "adamw", "nesterov"],
)
def test_a_restored_learner_goes_on_bit_for_bit(options: dict[str, Any]) -> None:
    subject = learner(torch.float32, **options)
    advance(subject, range(3))
    file = io.BytesIO()
    torch.save(subject.state_dict(), file)
    advance(subject, range(3, TOTAL))
    file.seek(0)
    other = learner(torch.float32, **options)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert other.steps == 3
    advance(other, range(3, TOTAL))
    assert identical(other.state_dict(), subject.state_dict())
    assert identical(other.export_model.state_dict(), subject.export_model.state_dict())


def test_the_state_holds_everything() -> None:
    subject = learner(torch.float32, average=EMA(0.5))
    advance(subject, range(2))
    state = deepcopy(subject.state_dict())
    assert set(state) == {"network", "optimizer", "steps", "average", "folds"}
    assert state["steps"] == 2
    assert "1.running_var" in state["average"]
    advance(subject, [2])
    assert not identical(state, subject.state_dict())
    subject.load_state_dict(state)
    assert identical(state, subject.state_dict())


def test_a_learner_in_bfloat16_keeps_single_precision_weights() -> None:
    subject = learner(torch.float32, precision="bf16-mixed", average=EMA(0.5))
    advance(subject, range(2))
    x, _ = batch(0, torch.float32)
    exact = deepcopy(subject.network).eval()(x)
    subject.network.eval()
    assert {parameter.dtype for parameter in subject.network.parameters()} == {torch.float32}
    for module in (subject.attack_model, subject.eval_model):
        assert module(x).dtype == torch.float32
    assert not torch.equal(subject.attack_model(x), exact)
    torch.testing.assert_close(subject.attack_model(x), exact, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "optimisation.epochs must be positive, not 0."),
        ({"batch_size": -1}, "optimisation.batch_size must be positive, not -1."),
        ({"lr": 0.0}, "optimisation.lr must be positive, not 0.0."),
        ({"weight_decay": -0.1}, "optimisation.weight_decay must be at least 0, not -0.1."),
        ({"clip": 0.0}, "optimisation.clip must be positive, not 0.0: leave it out to not clip."),
        ({"nesterov": True, "momentum": 0.0}, "optimisation.nesterov needs a positive momentum, not 0.0."),
    ],
)
def test_what_cannot_train_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput) as caught:
        Optimisation(**options)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "options", [{"momentum": -0.5}, {"momentum": 1.5}, {"lr": math.nan}, {"lr": math.inf}, {"weight_decay": math.nan}]
)
def test_numbers_that_only_fail_later_are_refused_too(options: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        Optimisation(**options)


def test_the_plain_network_shares_the_weights_and_is_never_compiled() -> None:
    fabric = Fabric(accelerator="cpu", devices=1)
    compiler = partial(torch.compile, backend="eager")
    subject = Learner(network(torch.float32), Optimisation(), fabric, TOTAL, compiler=compiler)
    assert isinstance(subject.attack_model.network, torch._dynamo.OptimizedModule)
    assert subject.raw_model.network is subject.eval_model.network is subject.network
    x, _ = batch(0, torch.float32)
    assert subject.raw_model(x).shape == (8, 4)


# A step ahead ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decay_norms", [True, False])
def test_looking_ahead_is_one_plain_step_at_the_current_rate(decay_norms: bool) -> None:
    """w - lr (g + decay w), whatever the learner's momentum; the learner stays where it is."""
    schedule = MultiStep(milestones=("1/3",))
    subject = learner(schedule=schedule, weight_decay=0.01, decay_norms=decay_norms)
    advance(subject, range(3))
    kept = deepcopy(subject.state_dict())
    ahead = subject.look_ahead()
    x, y = batch(7)
    for _ in range(2):  # brought up to date, it starts from the learner again
        ahead.catch_up()
        ahead.backward(F.cross_entropy(ahead.model.train()(x), y))
        ahead.step()
    before = deepcopy(subject.network)
    gradients = torch.autograd.grad(F.cross_entropy(before(x), y), list(before.parameters()))
    for found, weight, gradient in zip(ahead.network.parameters(), before.parameters(), gradients, strict=True):
        decay = 0.01 if decay_norms or weight.ndim > 1 else 0.0
        torch.testing.assert_close(found, weight - 0.1 * 0.1 * (gradient + decay * weight))
    for found, buffer in zip(ahead.network.buffers(), before.buffers(), strict=True):
        torch.testing.assert_close(found, buffer)  # moved by one forward
    assert identical(kept, subject.state_dict())
    assert all(weight.grad is None for weight in ahead.network.parameters())


@pytest.mark.parametrize("clip", [None, 1e-3])
def test_the_gradient_norm_is_that_before_clipping(clip: float | None) -> None:
    subject = learner(clip=clip)
    x, y = batch(0)
    twin = network()
    gradients = torch.autograd.grad(F.cross_entropy(twin(x), y), [*twin.parameters()])
    advance(subject, [0])
    expected = torch.cat([gradient.flatten() for gradient in gradients]).norm()
    torch.testing.assert_close(subject.gradient_norm(), expected)
