"""Multiply-accumulates of attention, counted by hand."""

import torch
import torch.nn.functional as F

from tests.passes.priced import Call, flop_counter_macs, macs, table_of


def mha(module, x, **options):
    key = getattr(module, "memory", x)
    separate = hasattr(module, "q")
    given = {
        **dict.fromkeys(("in_proj_bias", "bias_k", "bias_v", "out_proj_bias")),
        "add_zero_attn": False,
        "dropout_p": 0.0,
        "need_weights": False,
        "use_separate_proj_weight": separate,
    }
    if separate:
        weights = {f"{n}_proj_weight": getattr(module, n) for n in "qkv"}
        given.update(weights, in_proj_weight=None)
    else:
        given["in_proj_weight"] = module.w
    return F.multi_head_attention_forward(
        x, key, key, 8, 2, out_proj_weight=module.out, **{**given, **options}
    )[0]


def test_multi_head_attention_by_hand() -> None:
    module = Call(mha, w=(24, 8), out=(8, 8))
    x = torch.randn(7, 4, 8)
    for batch_dim in (1, None):
        table = table_of(module, x, batch_dim=batch_dim)
        assert str(table["w"].per_weight()["macs"]) == "batch*tokens"
        assert (table["w"].op, table["out"].op) == ("attention_in", "attention_out")
        assert table["w"].number() + table["out"].number() == 4 * 7 * (192 + 64)
        fixed = table.totals()["macs"]["fixed"]
        assert fixed == 4 * 2 * 7 * 7 * (4 + 4)
    # The part outside the fused kernel is what the flop counter sees.
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        assert flop_counter_macs(module, x) == macs(table)


def test_unbatched_attention_and_added_keys_by_hand() -> None:
    module = Call(lambda m, x: mha(m, x, add_zero_attn=True), w=(24, 8), out=(8, 8))
    table = table_of(module, torch.randn(7, 8), batch_dim=None)
    assert str(table["w"].per_weight()["macs"]) == "tokens"
    assert table.totals()["macs"]["fixed"] == 2 * 7 * 8 * (4 + 4)


def test_cross_attention_by_hand() -> None:
    memory = (5, 4, 8)
    packed = Call(mha, w=(24, 8), out=(8, 8), memory=memory)
    split = Call(mha, q=(8, 8), k=(8, 8), v=(8, 8), out=(8, 8), memory=memory)
    x = torch.randn(7, 4, 8)
    first, second = (table_of(m, x, batch_dim=None) for m in (packed, split))
    assert [second[n].number() for n in "qkv"] == [1792, 1280, 1280]
    assert first["w"].number() == 1792 + 1280 + 1280
    assert first.totals()["macs"]["fixed"] == 4 * 2 * 7 * 5 * 8
    assert second.totals()["macs"] == first.totals()["macs"]


def test_scaled_dot_product_attention_by_hand() -> None:
    def forward(module, x):
        q, k, v = (x @ w for w in (module.q, module.k, module.v))
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    module = Call(forward, q=(8, 4), k=(8, 4), v=(8, 6))
    x = torch.randn(3, 2, 7, 8)
    table = table_of(module, x)
    row = table["scaled_dot_product_attention"]
    assert str(row.macs) == "10*batch*heads*tokens*tokens_kv"
    assert row.number() == 3 * 2 * 7 * 7 * (4 + 6)
    assert not row.maskable
