"""An exception inside `step` or `load`, in whatever function, leaves no trace.

The functions of the package that a call runs are noted; then each in turn raises when
it is called. The model, its optimizer and the random numbers must be what they were,
bit for bit, and the call made again must do what an undisturbed one does.
"""

import copy
import inspect
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparsefx
from tests import models
from tests.made_once import made_once
from tests.some_of import some_of
from tests.unit_networks import awake, images, vit

PACKAGE = str(Path(sparsefx.__file__).parent)
X = torch.linspace(-1, 1, 6 * 8).reshape(6, 8).sin()
PICTURES = images(2)
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "soft": ("cost_budget", {}),
    "budgets": ("cost_budget", {"budget": {"macs": 0.3, "params": 0.4}}),
    "blocks": ("cost_budget", {"granularity": "block:2x4"}),
    "paper": ("spartan_paper", {"budget": 0.3}),
    "allocated": ("erk", {}),
    "rigl": ("rigl", {}),
    "granet": ("granet", {}),
    "magnitude": ("magnitude", {}),
    "topkast": ("topkast", {}),
    "units": ("units", {"budget": 0.6}),
    "soft units": ("units", {"budget": 0.6, "learner": "units_soft_topk"}),
    "mixed": ("spartan", {"budget": {"macs": 0.3}, "unit_density": 0.6}),
    "tokens": ("svite_joint", {"budget": 0.5}),
}
MOVING, FREEZING, FROZEN = 3, 7, 9  # steps before the one that is disturbed
USUAL = [
    *((kind, MOVING) for kind in ("soft", "budgets", "rigl", "units", "tokens")),
    *((kind, FREEZING) for kind in ("soft", "rigl", "mixed")),
    ("soft", FROZEN),
]
Subject = tuple[nn.Module, torch.optim.Optimizer | None]


class Injected(BaseException):
    """No handler of the package takes it for one of its own."""


@made_once
def made(kind: str, **options: object) -> nn.Module:
    policy, settings = KINDS[kind]
    torch.manual_seed(0)
    tokens = kind == "tokens"
    model, inputs = (awake(vit()), PICTURES) if tokens else (models.mlp(), X)
    given = {"budget": 0.3, "total_steps": 10, "update_every": 1, **settings}
    given |= options
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # settings without effect
        return sparsefx.transform(model, policy, example_inputs=(inputs,), **given)


def inputs_of(model: nn.Module) -> Tensor:
    return X if next(model.parameters()).shape[-1] == X.shape[-1] else PICTURES


def trained(model: nn.Module, steps: int) -> Subject:
    """A model after so many steps, and with its next one due."""
    adam = torch.optim.Adam(model.parameters(), 1e-2)
    for number in range(steps + 1):
        adam.zero_grad()
        model(inputs_of(model)).square().mean().backward()
        adam.step()
        if number < steps:
            sparsefx.step(model, adam)
    return model, adam


def plain(value: Any) -> Any:
    """Anything with tensors in it, such that equality is that of all bits."""
    if isinstance(value, Tensor):
        data = value.detach().flatten().view(torch.uint8).numpy().tobytes()
        return str(value.dtype), tuple(value.shape), data
    if isinstance(value, dict):
        return [(key, plain(item)) for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def state_of(subject: Subject) -> Any:
    model, optimizer = subject
    found: dict[str, Any] = {
        "random": (random.getstate(), torch.get_rng_state()),
        "tensors": model.state_dict(),
        "gradients": [p.grad for p in model.parameters()],
        "optimizer": optimizer.state_dict() if optimizer is not None else None,
    }
    if "_sparsefx" in model._modules:
        found["masks"] = sparsefx.masks(model)
    return plain(found)


def calls_in(act: Callable[[], object]) -> list[CodeType]:
    """The package's functions that run, in order; not where generators go on."""
    found: list[CodeType] = []

    def note(frame: FrameType, event: str, arg: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(PACKAGE):
            if not (code.co_flags & inspect.CO_GENERATOR and code in found):
                found.append(code)

    sys.setprofile(note)
    try:
        act()
    finally:
        sys.setprofile(None)
    return found


def interrupted(act: Callable[[], object], code: CodeType, number: int) -> bool:
    """Whether the call of a function with that number, which raises, is reached."""
    left = number

    def fail(frame: FrameType, event: str, arg: object) -> None:
        nonlocal left
        if event == "call" and frame.f_code is code:
            left -= 1
            if left == 0:
                raise Injected(code.co_qualname)

    sys.setprofile(fail)
    try:
        act()
    except Injected:
        return True
    finally:
        sys.setprofile(None)
    return False


def places(calls: list[CodeType], every: bool) -> Iterator[tuple[CodeType, int]]:
    """Each function's last call, or all calls: the function and the call's number."""
    seen: dict[CodeType, int] = {}
    for code in calls:
        seen[code] = seen.get(code, 0) + 1
        if every or seen[code] == calls.count(code):
            yield code, seen[code]


def assert_all_or_nothing(
    first: Subject,
    act: Callable[[Subject], object],
    *,
    every: bool = False,
    stride: int = 1,
) -> int:
    """Disturbs ``act`` at every `stride`-th place; how many that were."""

    def again(subject: Subject) -> Any:
        torch.manual_seed(3)
        answer = act(subject)
        found = repr(answer)
        if isinstance(answer, nn.Module):
            found = state_of((answer, None))
        return found, state_of(subject)

    wanted = again(copy.deepcopy(first))
    # What is computed once, in a process or when it is asked for, is there from now on.
    whole, broken = copy.deepcopy(first), copy.deepcopy(first)
    state_of(whole)
    calls = calls_in(lambda: act(whole))
    torch.manual_seed(3)
    before = state_of(broken)
    chosen = list(places(calls, every))[::stride]
    for code, number in chosen:
        torch.manual_seed(3)
        assert interrupted(lambda: act(broken), code, number), (code, number)
        unchanged = state_of(broken) == before
        assert unchanged, (code, number)
        if every:
            assert again(copy.deepcopy(broken)) == wanted, (code, number)
    assert again(broken) == wanted
    return len(chosen)


def stepped(subject: Subject) -> sparsefx.StepReport:
    return sparsefx.step(*subject)


@pytest.mark.parametrize(("kind", "steps"), some_of(USUAL, 2))
def test_a_step_happens_or_does_not(kind: str, steps: int) -> None:
    assert assert_all_or_nothing(trained(made(kind), steps), stepped) > 10


@pytest.mark.slow
@pytest.mark.parametrize("steps", [MOVING, FREEZING, FROZEN])
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_happens_or_does_not_at_every_call(kind: str, steps: int) -> None:
    assert_all_or_nothing(trained(made(kind), steps), stepped, every=True)


LOADS = ["alike", "compressed", "dense", "budget"]
OTHER = {"budget": {"budget": 0.6}}


def loaded_from(path: Path) -> Callable[[Subject], nn.Module]:
    def act(subject: Subject) -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return sparsefx.load(subject[0], path)

    return act


def files(path: Path, case: str, kind: str = "soft") -> Subject:
    """A checkpoint for a case, and what it is loaded into."""
    source, adam = trained(made(kind, **OTHER.get(case, {})), FROZEN)
    sparsefx.step(source, adam)
    if case == "dense":
        source = sparsefx.finalize(source)
    sparsefx.save(source, path, compressed=case == "compressed")
    if case == "plain":
        return models.mlp(), None
    return trained(made(kind), MOVING)


@pytest.mark.parametrize("case", some_of(LOADS, 2))
def test_a_load_happens_or_does_not(case: str, tmp_path: Path) -> None:
    first = files(tmp_path / "a.safetensors", case)
    assert assert_all_or_nothing(first, loaded_from(tmp_path / "a.safetensors")) > 10


def test_a_plain_model_is_made_sparse_or_not(tmp_path: Path) -> None:
    first = files(tmp_path / "a.safetensors", "plain", "rigl")
    act = loaded_from(tmp_path / "a.safetensors")
    assert assert_all_or_nothing(first, act, stride=120) > 3


@pytest.mark.slow
@pytest.mark.parametrize("case", [*LOADS, "plain"])
@pytest.mark.parametrize("kind", ["soft", "budgets", "rigl", "topkast", "units"])
def test_a_load_happens_or_does_not_at_every_call(
    kind: str, case: str, tmp_path: Path
) -> None:
    first = files(tmp_path / "a.safetensors", case, kind)
    act = loaded_from(tmp_path / "a.safetensors")
    assert_all_or_nothing(first, act, every=case != "plain")
