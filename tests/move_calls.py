"""A call of each operation that moves entries, on the value between two layers."""

import torch
import torch.nn.functional as F

# What is made of x, (batch, channels, places), by operation.
MOVES = {
    "view": lambda x, own: x.view(-1, 2, own.channels // 2, own.places).view(
        -1, own.channels, own.places
    ),
    "reshape": lambda x, own: x.reshape(
        x.shape[0], own.channels // 2, 2, own.places
    ).reshape(-1, own.channels, own.places),
    "permute": lambda x, own: x.permute(0, 2, 1).permute(0, 2, 1),
    "transpose": lambda x, own: x.transpose(1, 2).transpose(-1, -2),
    "t": lambda x, own: x[0].t().t().expand(x.shape),
    "flatten": lambda x, own: x.flatten(1).view(-1, own.channels, own.places),
    "unflatten": lambda x, own: x.unflatten(1, (2, own.channels // 2)).flatten(1, 2),
    "ravel": lambda x, own: x.ravel().view(-1, own.channels, own.places),
    "squeeze": lambda x, own: x.unsqueeze(1).squeeze(1),
    "unsqueeze": lambda x, own: x.unsqueeze(-1).squeeze(-1),
    "expand": lambda x, own: x.unsqueeze(1).expand(-1, 2, -1, -1)[:, 1],
    "expand_as": lambda x, own: x + x.mean(2, keepdim=True).expand_as(x),
    "broadcast_to": lambda x, own: x.mean(2, keepdim=True).broadcast_to(x.shape) + x,
    "getitem": lambda x, own: torch.cat(
        [x[:, 3:, 1:], x[..., :3, None, 1:].squeeze(2)], 1
    ),
    "select": lambda x, own: x.select(2, 1).unsqueeze(-1),
    "narrow": lambda x, own: torch.cat(
        [x.narrow(1, 3, own.channels - 3), x.narrow(1, 0, 3)], 1
    ),
    "chunk": lambda x, own: torch.cat(x.chunk(2, 1)[::-1], 1),
    "split": lambda x, own: torch.cat(x.split(own.channels // 2, 1)[::-1], 1),
    "tensor_split": lambda x, own: torch.cat(x.tensor_split(2, 1)[::-1], 1),
    "split_with_sizes": lambda x, own: torch.cat(
        x.split_with_sizes([2, own.channels - 2], 1), 1
    ),
    "unbind": lambda x, own: sum(x.unbind(2)).unsqueeze(-1),
    "tile": lambda x, own: x.tile(1, 1, 2),
    "repeat": lambda x, own: x.repeat(1, 1, 2),
    "repeat_interleave": lambda x, own: x.repeat_interleave(2, 2),
    "flip": lambda x, own: x.flip(1) + x,
    "roll": lambda x, own: x.roll(1, 1) + x,
    "movedim": lambda x, own: x.movedim(1, 2).movedim(2, 1),
    "moveaxis": lambda x, own: x.moveaxis(1, 0).moveaxis(0, 1),
    "swapaxes": lambda x, own: x.swapaxes(1, 2).swapaxes(1, 2),
    "swapdims": lambda x, own: x.swapdims(1, 2).swapdims(1, 2),
    "adjoint": lambda x, own: x.adjoint().adjoint(),
    "index_select": lambda x, own: x.index_select(1, own.order),
    "view_as": lambda x, own: x.flatten(1).view_as(x),
    "reshape_as": lambda x, own: x.transpose(1, 2).transpose(1, 2).reshape_as(x),
    "T": lambda x, own: x[0].T.T.expand(x.shape),
    "H": lambda x, own: x[0].H.H.expand(x.shape),
    "mT": lambda x, own: x.mT.mT,
    "mH": lambda x, own: x.mH.mH,
    "pixel_shuffle": lambda x, own: F.pixel_shuffle(x.unsqueeze(-1), 2).flatten(2),
    "pixel_unshuffle": lambda x, own: F.pixel_unshuffle(
        x.unflatten(2, (2, own.places // 2)).repeat(1, 1, 1, 2), 2
    ).flatten(2),
    "cat": lambda x, own: torch.cat([x, 2 * x], 1),
    "concat": lambda x, own: torch.concat([x, x.relu()], 2),
    "concatenate": lambda x, own: torch.concatenate([x, x], -1),
    "stack": lambda x, own: torch.stack([x, x.relu()], 1).sum(1),
}
