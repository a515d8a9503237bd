"""The model that a text names: an import path, a file, a library's own name."""

from __future__ import annotations

import importlib
import os
import runpy
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from sparsefx.errors import SparsefxError

MODEL = (
    "package.module:callable, file.py:function, timm:NAME, torchvision:NAME, or "
    "hf:NAME (also a folder or a config.json)"
)


def load_model(name: str, kwargs: Mapping[str, Any] | None = None) -> nn.Module:
    """The model that a text names.

    Args:
        name: ``package.module:callable``, ``file.py:function``, or one of a library:
            ``timm:NAME``, ``torchvision:NAME``, ``hf:NAME``. Those of timm and
            torchvision have random weights unless ``kwargs`` ask for others.
        kwargs: what the callable is given.

    Raises:
        SparsefxError: it cannot be found or built, or is no module.

    Example:
        >>> load_model("torch.nn:Linear", {"in_features": 4, "out_features": 2})
        Linear(in_features=4, out_features=2, bias=True)
    """
    library, _, own_name = name.partition(":")
    origin, _, attribute = name.rpartition(":")
    if library in LIBRARIES and own_name:
        build = _of_library(library, own_name)
    elif origin and attribute:
        build = _of_python(name, origin, attribute)
    else:
        raise SparsefxError(
            f"model {name!r} names nothing; write {MODEL}, such as "
            "torchvision.models:resnet18 or timm:vit_tiny_patch16_224"
        )
    try:
        model = build(**(kwargs or {}))
    except Exception as error:  # of code that is not ours
        raise SparsefxError(
            f"model {name!r} cannot be built: {type(error).__name__}: {error}"
        ) from None
    if not isinstance(model, nn.Module):
        raise SparsefxError(
            f"{name} gives a {type(model).__name__}; name a torch.nn.Module or a "
            "callable that returns one (its arguments go to --kwargs)"
        )
    return model


def _of_python(name: str, origin: str, attribute: str) -> Callable[..., Any]:
    """What builds the model that an import path or a file holds."""
    try:
        found: Any = _Namespace(origin) if origin.endswith(".py") else _module(origin)
        for part in attribute.split("."):
            found = getattr(found, part)
    except Exception as error:  # importing runs code that is not ours
        raise SparsefxError(
            f"model {name!r} cannot be loaded: {type(error).__name__}: {error}"
        ) from None
    if isinstance(found, nn.Module) or not callable(found):
        return lambda: found
    return found  # type: ignore[no-any-return]


def _module(path: str) -> Any:
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # as `python -m sparsefx` does
    return importlib.import_module(path)


class _Namespace:
    """The names that a file defines; beside it, it may import."""

    def __init__(self, path: str) -> None:
        folder = str(Path(path).resolve().parent)
        sys.path.insert(0, folder)
        try:
            self.__dict__.update(runpy.run_path(path))
        finally:
            sys.path.remove(folder)


def _of_library(library: str, name: str) -> Callable[..., Any]:
    package, build = LIBRARIES[library]
    try:
        module = importlib.import_module(package)
    except ImportError as error:
        raise SparsefxError(
            f"{library}:{name} needs {package} ({error}): pip install {package}"
        ) from None
    return lambda **kwargs: build(module, name, kwargs)


def _timm(timm: Any, name: str, kwargs: dict[str, Any]) -> Any:
    return timm.create_model(name, **kwargs)


def _torchvision(torchvision: Any, name: str, kwargs: dict[str, Any]) -> Any:
    return torchvision.models.get_model(name, **kwargs)


def _transformers(transformers: Any, name: str, kwargs: dict[str, Any]) -> Any:
    """Random weights where only a configuration is there; the class it names."""
    weights = not name.endswith(".json") and (
        not Path(name).is_dir()
        or any(Path(name).glob("*.safetensors"))
        or any(Path(name).glob("*.bin"))
    )
    config = transformers.AutoConfig.from_pretrained(name, **kwargs)
    classes = config.architectures or ()
    cls = getattr(transformers, classes[0], None) if classes else None
    if weights:
        return (cls or transformers.AutoModel).from_pretrained(name, config=config)
    return cls(config) if cls else transformers.AutoModel.from_config(config)


LIBRARIES: Mapping[str, tuple[str, Callable[[Any, str, dict[str, Any]], Any]]] = {
    "timm": ("timm", _timm),
    "torchvision": ("torchvision", _torchvision),
    "hf": ("transformers", _transformers),
}
