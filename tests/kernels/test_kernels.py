"""Every maker of kernels gives the answers of the reference; ties and edges too."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.fx.experimental.proxy_tensor import make_fx

from sparsefx import kernels
from sparsefx.kernels import compile_cpu, cpu, reference
from sparsefx.kernels.bits import empty_bits, pack, unpack
from sparsefx.kernels.mask_rule import hard_mask
from sparsefx.masking import opaque_weight
from sparsefx.masking.masked_weight import masked_weight
from sparsefx.solver.hard_masks import solve_hard
from sparsefx.solver.layer import Layer, total_cost
from sparsefx.solver.survey_bands import cuts, look
from tests.networks import networks, softly
from tests.scalars import bits_above, site_scalars

compiled = pytest.mark.skipif(compile_cpu.library() is None, reason="no C++ compiler")
SIZES = [0, 1, 15, 16, 17, 511, 512, 513, 70_001]


def weights(kind="normal"):
    made = [torch.randn(n) for n in SIZES]
    if kind == "levels":
        made = [(w * 2).round() / 2 for w in made]
    return made


def scalars(number, kind=float):
    return [kind(number) for _ in SIZES]


@compiled
@pytest.mark.parametrize("kind", ["normal", "levels"])
@pytest.mark.parametrize("band", [(0.0, 0.0), (0.5, 1.0), (0.0, math.inf)])
def test_surveys_agree(kind: str, band: tuple[float, ...]) -> None:
    made = weights(kind)
    ours, theirs = (
        maker.survey(made, scalars(band[0]), scalars(band[1]))
        for maker in (cpu, reference)
    )
    assert ours.sums == pytest.approx(theirs.sums, rel=1e-6)
    assert (ours.lows, ours.highs) == (theirs.lows, theirs.highs)
    assert (ours.above, ours.edges) == (theirs.above, theirs.edges)
    found = []
    for a, b in zip(ours.bands, theirs.bands, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            assert torch.equal(a.sort().values, b.sort().values)
    for maker in (cpu, reference):
        both = [band for band in ours.bands if band is not None]
        found.append(maker.distinct(both))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    assert found[0][2] == found[1][2]


@compiled
def test_surveys_tell_what_is_not_finite() -> None:
    for bad in (math.nan, math.inf, -math.inf):
        weight = torch.randn(100)
        weight[37] = bad
        found = cpu.survey([weight], [0.0], [0.0])
        assert not math.isfinite(found.highs[0])
        assert not math.isfinite(found.sums[0])


@compiled
def test_histograms_and_searches_agree() -> None:
    for weight in weights("levels"):
        assert torch.equal(cpu.histogram(weight), reference.histogram(weight))
        for value in (0.0, 0.5, 1.5):
            for nth in (1, 2, 15, 40, 5000, 10**6):
                found = cpu.find(weight, value, nth)
                assert found == reference.find(weight, value, nth)


@compiled
@given(
    st.sampled_from(["normal", "levels"]),
    st.floats(0.1, 1e4),
    st.floats(0.0, 3.0),
    st.sampled_from([0.0, -2.0, 5.0, math.inf, -math.inf]),
    st.sampled_from([-1.0, 0.0, 0.5, 1.0]),
    st.sampled_from([-1, 0, 7, 16, 600, 69_999, 10**6]),
)
@settings(max_examples=40)
def test_masks_agree(
    kind: str, slope: float, center: float, mu: float, threshold: float, last: int
) -> None:
    made = weights(kind)
    soft = (scalars(slope), scalars(center), scalars(mu))
    rule = (scalars(threshold), scalars(last, int))
    ours, theirs = (maker.soft_sums(made, *soft, *rule) for maker in (cpu, reference))
    assert ours.kept == pytest.approx(theirs.kept, rel=1e-6, abs=1e-30)
    assert ours.spread == pytest.approx(theirs.spread, rel=1e-5, abs=1e-4)
    assert ours.bought == pytest.approx(theirs.bought, rel=1e-6, abs=1e-30)
    into = [[empty_bits(n) for n in SIZES] for _ in range(2)]
    makers = zip((cpu, reference), into, strict=True)
    first, second = (maker.hard_masks(made, *rule, into=bits) for maker, bits in makers)
    assert first == second
    assert all(torch.equal(a, b) for a, b in zip(*into, strict=True))
    expected = [hard_mask(w.abs(), threshold, last) for w in made]
    for bits, mask in zip(into[0], expected, strict=True):
        assert torch.equal(unpack(bits, mask.shape), mask)
        assert torch.equal(bits[: len(pack(mask))], pack(mask))
    assert cpu.hard_masks(made, *rule, into=into[0])[1] == (0,) * len(SIZES)


@compiled
@pytest.mark.parametrize("last", [-1, 5, 10**6])
def test_masked_weights_and_gradients_agree(last: int) -> None:
    rule = site_scalars(0.3, 7.0, 0.9)
    for weight in weights("levels"):
        bits = bits_above(weight, 1.0, last)
        makers = (cpu, reference)
        ours, theirs = (maker.masked(weight, bits, rule, 0) for maker in makers)
        assert not ours[~hard_mask(weight.abs(), 1.0, last)].any()
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
        grad = torch.randn_like(weight)
        pairs = [
            maker.masked_backward(grad, weight, rule, 0) for maker in (cpu, reference)
        ]
        torch.testing.assert_close(pairs[0][0], pairs[1][0], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(pairs[0][1], pairs[1][1], rtol=1e-5, atol=1e-3)


@compiled
def test_coupling_agrees() -> None:
    made, rows = weights(), torch.rand(4, len(SIZES), dtype=torch.float64)
    grads = [[torch.ones_like(w) for w in made] for _ in range(2)]
    cpu.couple(made, grads[0], *rows)
    reference.couple(made, grads[1], *rows)
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


@compiled
def test_a_density_of_one_is_the_identity_bitwise() -> None:
    weight = torch.randn(1000)
    weight[:2] = torch.tensor([0.0, -0.0])
    out = cpu.masked(weight, bits_above(weight, -1.0), site_scalars(math.inf, 1, 0), 0)
    assert torch.equal(out.view(torch.int32), weight.view(torch.int32))


@compiled
def test_sums_do_not_depend_on_threads() -> None:
    made = [torch.randn(3_000_000), torch.randn(1_000_001)]
    rule = ([1.0, 1.0], [5, 5])
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            soft = cpu.soft_sums(made, [3.0] * 2, [1.0] * 2, [0.1] * 2, *rule)
            found.append((soft, cpu.survey(made, [0.0] * 2, [0.0] * 2).sums))
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1] == found[2]


@compiled
@settings(max_examples=60)
@given(networks(), st.floats(-0.02, 0.02))
def test_a_survey_changes_nothing_but_time(network: Any, drift: float) -> None:
    layers, budget = network
    cold = solve_hard(layers, budget)
    flats = [layer.magnitude for layer in layers]
    near = ((low * (1 + drift), high) for low, high in cuts(layers, cold))
    warm = solve_hard(layers, budget, survey=look(flats, tuple(near)))
    assert (warm.counts, warm.rules) == (cold.counts, cold.rules)


@compiled
def test_both_makers_meet_the_budget_on_large_layers() -> None:
    layers = [
        Layer(torch.randn(200_000), 2.0, 1.0, 0, 200_000),
        Layer((torch.randn(50_000) * 3).round() / 7, 1.0, 2.0, 0, 40_000),
    ]
    budget, found = 41_234.0, []
    for name in (kernels.MAKERS["cpu"], kernels.REFERENCE):
        with kernels.using(name):
            hard = solve_hard(layers, budget)
            survey = look([x.magnitude for x in layers], cuts(layers, hard))
            assert solve_hard(layers, budget, survey=survey) == hard
            soft = softly(layers, budget, 5.0, hard)
            assert abs(total_cost(layers, soft.kept) - budget) <= 1e-6 * budget
            found.append((hard, soft))
    assert found[0][0] == found[1][0]
    assert found[0][1].mu == pytest.approx(found[1][1].mu, rel=1e-5)


def test_tensors_that_are_not_plain_go_to_the_reference() -> None:
    plain = torch.ones(3)
    assert kernels.kernels_for([plain.double()]) is reference
    assert kernels.kernels_for([torch.ones(2, 3).t()]) is reference
    seen = []

    def spy(x):
        seen.append(kernels.kernels_for([x]))
        return x

    torch.func.vmap(spy)(torch.ones(2, 3))
    assert seen == [reference]


def test_masked_weights_are_traced_into_graphs() -> None:
    one = torch.ones(1, dtype=torch.float64)

    def run(w):
        return masked_weight(w, pack(torch.ones(4) > 0), one, one, one, 0)

    graph, other = make_fx(run)(torch.randn(4)), torch.randn(4)
    torch.testing.assert_close(graph(other), run(other))


# of torch's own check, from 2.14
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_operators_keep_what_compilers_are_told(layout: Any) -> None:
    weight = torch.randn(4, 3, 5, 5).to(memory_format=layout).requires_grad_()
    scalars, bits = site_scalars(0.3, 7.0, 0.9), bits_above(weight)
    rule = [torch.cat([torch.ones_like(x), x]) for x in scalars]
    grad = torch.randn(4, 3, 5, 5)
    plain = weight.detach()
    torch.library.opcheck(opaque_weight.masked_backward, (grad, plain, rule, 1))
    rule[0].requires_grad_()
    # float32 sums, in the order of the gradient's layout
    near = {"rtol": 1e-5, "atol": 1e-6}
    torch.library.opcheck(opaque_weight.masked, (weight, bits, rule, 1), **near)
