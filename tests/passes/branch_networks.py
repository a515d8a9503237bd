"""Networks whose middle layer is made of branches or factors."""

from torch import nn

from sparsefx.passes import SparseDoped, SparseFactorized, SparseParallel

MEMBERS = (SparseParallel, SparseFactorized, SparseDoped)


def linears(act=None):
    acts = [] if act is None else [act]
    return nn.Sequential(nn.Linear(8, 64), nn.Linear(64, 128), *acts, nn.Linear(128, 4))


def convs(stride=1):
    return nn.Sequential(
        nn.Conv2d(3, 64, 1),
        nn.Conv2d(64, 128, 3, stride, 1, bias=False),
        nn.BatchNorm2d(128),
        nn.ReLU(),
        nn.Conv2d(128, 4, 1),
    )
