"""Frozen weights and adapters stay dense, with the reason, unless asked for."""

import copy

import pytest
import torch
from torch import nn

import sparsefx

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))


class Adapted(nn.Module):
    """A layer with two narrow ones beside it, named as LoRA's are."""

    def __init__(self) -> None:
        super().__init__()
        self.base_layer = nn.Linear(6, 6)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(6, 2, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(2, 6, bias=False)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        down = self.lora_A["default"](x)
        added: torch.Tensor = self.lora_B["default"](down)
        return self.base_layer(x) + added


def frozen_first() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 2))
    net[0].requires_grad_(False)
    return net


def reasons(sparse: nn.Module) -> dict[str, str]:
    rows = sparsefx.report(sparse).to_dict()["coverage"]
    return {row["parameter"]: row["reason"] for row in rows if not row["masked"]}


@pytest.mark.filterwarnings("ignore:weights that stay dense")
def test_frozen_weights_stay_dense_with_the_reason() -> None:
    sparse = sparsefx.transform(frozen_first(), budget=0.6, example_inputs=(X,))
    assert set(sparsefx.masks(sparse)) == {"2.weight", "3.weight"}
    assert reasons(sparse)["0.weight"].startswith("frozen (requires_grad=False)")
    strict = {"example_inputs": (X,), "budget": 0.6, "strict": True}
    sparsefx.transform(frozen_first(), **strict)  # nothing was missed


def test_frozen_weights_are_masked_where_asked() -> None:
    net = frozen_first()
    before = copy.deepcopy(net.state_dict())
    sparse = sparsefx.transform(net, budget=0.5, example_inputs=(X,), include=("*",))
    assert set(sparsefx.masks(sparse)) == {"0.weight", "2.weight", "3.weight"}
    assert not net[0].weight.requires_grad
    sparse(X).sum().backward()
    assert net[0].weight.grad is None
    assert torch.equal(net[0].weight, before["0.weight"])
    sparsefx.step(sparse)
    final = sparsefx.finalize(sparse)
    assert int(final[0].weight.count_nonzero()) < 48


def test_a_frozen_model_is_refused_by_its_reason() -> None:
    net = frozen_first().requires_grad_(False)
    with pytest.raises(
        sparsefx.PolicyError, match=r"0\.weight: frozen \(requires_grad"
    ):
        sparsefx.transform(net, budget=0.5, example_inputs=(X,))


@pytest.mark.filterwarnings("ignore:weights that stay dense")
def test_adapters_stay_dense() -> None:
    sparse = sparsefx.transform(Adapted(), budget=0.7, example_inputs=(X,))
    assert set(sparsefx.masks(sparse)) == {"base_layer.weight"}
    told = reasons(sparse)["lora_A.default.weight"]
    assert told == "a part of an adapter (lora_*); include it to mask it"
    asked = ("base_layer", "lora_?.default")
    every = sparsefx.transform(
        Adapted(), budget=0.7, example_inputs=(X,), include=asked
    )
    assert len(sparsefx.masks(every)) == 3


def chain() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential()
    for width in (6, 8, 8):
        net.extend([nn.Linear(width, 8), nn.ReLU()])
    return net.append(nn.Linear(8, 2))


@pytest.mark.parametrize("frozen", ["0.weight", "2.weight"], ids=["made", "used"])
@pytest.mark.parametrize("learner", ["units", "soft_topk"])
@pytest.mark.filterwarnings("ignore:weights that stay dense")
def test_no_unit_of_a_frozen_weight_closes(frozen: str, learner: str) -> None:
    net = chain()
    net.get_parameter(frozen).requires_grad_(False)
    before = net.get_parameter(frozen).detach().clone()
    around = {"policy": "units"} if learner == "units" else {"unit_density": 0.5}
    sparse = sparsefx.transform(net, budget=0.75, example_inputs=(X,), **around)
    sparsefx.step(sparse)
    rows = sparsefx.report(sparse).to_dict()["layers"]
    left = ["4.neurons", "6.neurons"] if frozen == "0.weight" else ["6.neurons"]
    assert [row["name"] for row in rows if row["op"] == "neurons"] == left
    if learner == "units":
        told = reasons(sparse)[frozen]
        assert told == "frozen (requires_grad=False); include it to mask it"
        strict = {"example_inputs": (X,), "budget": 0.9, "policy": "units"}
        sparsefx.transform(chain(), **strict, strict=True)
    final = sparsefx.finalize(sparse)
    assert torch.equal(final.get_parameter(frozen), before)


@pytest.mark.filterwarnings("ignore:weights that stay dense")
def test_units_own_all_of_what_no_other_units_divide() -> None:
    net = chain()
    net[2].weight.requires_grad_(False)
    options = {"policy": "units", "budget": 0.75, "example_inputs": (X,)}
    (site,) = sparsefx.sites(sparsefx.transform(net, **options))
    assert site.cost("macs") == len(X) * (8 + 2)  # its row and its column, whole
    assert site.cost("params") == 8 + 1 + 2
    every = sparsefx.sites(sparsefx.transform(chain(), **options))
    assert every[-1].cost("macs") == len(X) * (4 + 2)  # the row is shared


def test_units_of_a_frozen_weight_close_where_asked() -> None:
    net = chain()
    net[2].requires_grad_(False)
    asked = {"policy": "units", "budget": 0.6, "include": ("*",)}
    sparse = sparsefx.transform(net, **asked, example_inputs=(X,))
    assert len(sparsefx.sites(sparse)) == 3


def test_units_of_a_frozen_model_are_refused_by_the_weight() -> None:
    net = chain().requires_grad_(False)
    with pytest.raises(
        sparsefx.PolicyError, match=r"2\.neurons: [02]\.weight is frozen"
    ):
        sparsefx.transform(net, policy="units", budget=0.5, example_inputs=(X,))
