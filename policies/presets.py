"""The presets beside this file, and policy files in general: YAML to a mapping."""

from __future__ import annotations

import importlib.resources
import itertools
from pathlib import Path

import yaml

from sparsefx.errors import PolicyError
from sparsefx.settings.rules import shown


def preset_names() -> tuple[str, ...]:
    """Names of the policies that come with sparsefx, in alphabetical order.

    Example:
        >>> "cost_budget" in preset_names()
        True
    """
    files = importlib.resources.files("sparsefx.policies").iterdir()
    names = (file.name for file in files)
    return tuple(sorted(n.removesuffix(".yaml") for n in names if n.endswith(".yaml")))


def read_preset(name: str) -> dict[str, object]:
    """The fields a preset sets.

    Args:
        name: one of `preset_names`.

    Example:
        >>> read_preset("erk")["allocation"]
        'erk'
    """
    return parse(_text(name), f"preset {name!r}")


def _text(name: str) -> str:
    file = importlib.resources.files("sparsefx.policies").joinpath(f"{name}.yaml")
    return file.read_text("utf-8")


def preset_purpose(name: str) -> str:
    """What a preset is for: the comment that its file begins with.

    Args:
        name: one of `preset_names`.

    Example:
        >>> preset_purpose("erk")
        'Small and thin layers keep more (Erdős-Rényi-Kernel).'
    """
    lines = _text(name).splitlines()
    head = itertools.takewhile(lambda line: line.startswith("#"), lines)
    return " ".join(line.removeprefix("#").strip() for line in head)


def read_file(path: str | Path) -> dict[str, object]:
    """The fields a policy file sets.

    Raises:
        PolicyError: the file is missing or is not a YAML mapping.
    """
    try:
        text = Path(path).read_text("utf-8")
    except (OSError, ValueError) as error:  # a name, or bytes, that are no text
        raise PolicyError(
            f"policy file {str(path)!r} cannot be read: {error}"
        ) from None
    return parse(text, f"policy file {str(path)!r}")


def parse(text: str, origin: str) -> dict[str, object]:
    """YAML text to a mapping from field names.

    Args:
        text: a YAML mapping.
        origin: what messages call the text.

    Raises:
        PolicyError: the text is not YAML, not a mapping, or repeats a key.

    Example:
        >>> parse("beta: 5.0", "this text")
        {'beta': 5.0}
    """
    try:
        data = yaml.load(text, Loader=_UniqueKeyLoader)
    except PolicyError:
        raise
    except Exception as error:  # of the parser, its constructors or its recursion
        raise PolicyError(f"{origin} is not valid YAML: {error}") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise PolicyError(
            f"{origin} holds {shown(data)}; write one 'field: value' a line, for "
            "example 'allocation: cost_budget'"
        )
    return data


class _UniqueKeyLoader(yaml.SafeLoader):
    """The loader of yaml.safe_load, but a repeated key is an error."""

    def construct_mapping(
        self, node: yaml.MappingNode, deep: bool = False
    ) -> dict[object, object]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise PolicyError(
                    "a key is a list or a mapping (line "
                    f"{key.start_mark.line + 1}); write a name"
                )
            if key.value in seen:
                raise PolicyError(
                    f"{key.value!r} is given twice in the same mapping (line "
                    f"{key.start_mark.line + 1}); keep one"
                )
            seen.add(str(key.value))
        return super().construct_mapping(node, deep=deep)
