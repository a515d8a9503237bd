"""Attention of feature-major tensors is torch's own."""

from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from sparsefx.lowering.feature_major_attention import feature_major_attention
from sparsefx.lowering.inference_graph import graph_of
from sparsefx.lowering.layer_forms import FORMS, CompressedLayer
from sparsefx.lowering.layer_trial import Asked
from sparsefx.lowering.lower_graph import search_graph

DOUBLE = {"fused": 2.0, "ours": 1.0}


@given(st.integers(1, 3), st.integers(1, 20), st.integers(1, 20), st.integers(1, 5))
def test_feature_major_attention(
    heads: int, queries: int, keys: int, features: int
) -> None:
    q = torch.randn(2, heads, queries, features, dtype=torch.float64)
    k, v = torch.randn(2, 2, heads, keys, features, dtype=torch.float64)
    for scale in (None, 0.3):
        torch.testing.assert_close(
            feature_major_attention(q, k, v, scale),
            functional.scaled_dot_product_attention(q, k, v, scale=scale),
        )


def test_attention_follows_the_sparse_products(
    block: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = block
    monkeypatch.setattr(
        "sparsefx.lowering.feature_major_attention.interleaved", lambda *_: DOUBLE
    )
    found = graph_of(model, (x,))
    assert not isinstance(found, str)
    module, _ = found
    monkeypatch.setitem(FORMS, "csr", (partial(CompressedLayer, kernel="gather"),))
    for target, taken in (("csr", True), ("dense", False)):
        found = search_graph(module, [x], Asked(target, 1, fused=True))
        made = found.with_layers(found.trials)
        targets = {node.target for node in made.graph.nodes}
        assert (feature_major_attention in targets) == taken
        torch.testing.assert_close(made(x), model(x), atol=1e-5, rtol=1e-4)
