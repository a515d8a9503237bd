"""Lowering: finalised models that run faster, layer by layer, measured."""

from sparsefx.lowering.aot_package import package as package
from sparsefx.lowering.lower_model import lower as lower
from sparsefx.lowering.lowered import Lowered as Lowered
from sparsefx.lowering.lowering_report import LayerChoice as LayerChoice
from sparsefx.lowering.lowering_report import Lowering as Lowering
