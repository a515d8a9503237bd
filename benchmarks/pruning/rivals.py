"""Other people's one-shot methods, written plainly, at the same density everywhere."""

import torch

from sparsefx.pruning.methods import Method


def wanda(layer, choose):
    """The largest ``|w| ||x||`` of every row, as they are (arXiv 2306.11695)."""
    score = (layer.target / layer.roots).abs()
    keep = round(choose.count / score.numel() * score.shape[-1])
    mask = torch.zeros_like(score, dtype=torch.bool)
    mask.scatter_(-1, score.topk(keep, -1).indices, True)
    return layer.target * mask, mask


def sparsegpt(layer, choose, columns=128):
    """Column by column, the same share in each block of them (arXiv 2301.00774)."""
    weight = layer.target.clone()
    keep = choose.count / weight.numel()
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(layer.inputs.matrix()))
    factor = torch.linalg.cholesky(inverse, upper=True)[0]
    mask = torch.zeros_like(weight, dtype=torch.bool)
    w, m, size = weight[0], mask[0], weight.shape[-1]
    for begin in range(0, size, columns):
        end = min(begin + columns, size)
        score = (w[:, begin:end] / factor.diagonal()[begin:end]).square()
        best = score.flatten().topk(round(keep * score.numel())).indices
        chosen = torch.zeros(score.numel(), dtype=torch.bool)
        chosen[best] = True
        m[:, begin:end] = chosen.view(score.shape)
        errors = torch.zeros_like(score)
        for i in range(begin, end):
            kept = w[:, i] * m[:, i]
            error = (w[:, i] - kept) / factor[i, i]
            w[:, i:end] -= error[:, None] * factor[i, i:end]
            w[:, i] = kept
            errors[:, i - begin] = error
        w[:, end:] -= errors @ factor[begin:end, end:]
    return weight * mask, mask


RIVALS = {
    "magnitude": "magnitude",
    "wanda": Method("wanda", wanda),
    "sparsegpt": Method("sparsegpt", sparsegpt, fits=True),
}
