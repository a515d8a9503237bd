"""Lowering: finalised models that run faster, layer by layer, measured."""

from sparsefx.lowering.ahead import package as package
from sparsefx.lowering.api import lower as lower
from sparsefx.lowering.lowered import Lowered as Lowered
from sparsefx.lowering.record import LayerChoice as LayerChoice
from sparsefx.lowering.record import Lowering as Lowering
