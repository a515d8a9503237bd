"""What every process of the zoo imports; loaded once, before they fork."""

import importlib.util
import sys
import warnings

import torch

torch.set_num_threads(1)
warnings.simplefilter("ignore")

KEPT = []  # torch forgets a library's operators with the object

if importlib.util.find_spec("torchvision"):
    # its wheel for this torch needs CUDA to load its operators: two schemas are all
    # that importing it asks for, and its Python fall-backs do the rest
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    KEPT.append(library)

    @torch.library.impl(library, "nms", "CPU")
    def nms(dets, scores, iou_threshold):
        from torchvision.ops import box_iou

        kept = []
        order = scores.argsort(descending=True)
        while order.numel():
            kept.append(order[0])
            overlap = box_iou(dets[order[:1]], dets[order[1:]])[0]
            order = order[1:][overlap <= iou_threshold]
        return torch.stack(kept) if kept else torch.empty(0, dtype=torch.int64)


for name in (
    "torchvision",
    "timm",
    "transformers",
    "transformers.modeling_utils",
    "diffusers",
    "sympy",
    "torch.fx.experimental.symbolic_shapes",
    "torch.export._trace",
    "torch._dynamo",
    "sparsefx",
):
    if importlib.util.find_spec(name.partition(".")[0]):
        importlib.import_module(name)

if "torchvision" in sys.modules:
    sys.modules["torchvision.ops.boxes"]._assert_has_ops = lambda: None
