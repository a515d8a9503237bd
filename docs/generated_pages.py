"""Pages of the site that no hand writes: the front page, policies, the public names.

A hook of mkdocs (`mkdocs.yml`). Texts stand where the code reads them; here they are
only laid out.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import sparsefx
from sparsefx.errors import PolicyError
from sparsefx.policies.policy import Policy
from sparsefx.policies.presets import preset_names, preset_purpose, read_preset
from sparsefx.settings.fields import Setting, plain, settings_of
from sparsefx.settings.kinds import LAYER_RULES
from sparsefx.settings.rules import Rule
from sparsefx.settings.token_options import TokenOptions

ROOT = Path(__file__).resolve().parents[1]
ABOVE = {  # pages that stand above docs/, and their names in the site
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
BESIDE = {
    "Contracts": [
        "policies.policy_function.PolicyFunction",
        "learners.Situation",
        "learners.Decision",
    ],
    "Lowered models": [
        "lowering.lowered.Lowered",
        "lowering.lowering_report.Lowering",
        "lowering.lowering_report.LayerChoice",
    ],
    "Trainers": [
        "integrations.huggingface.SparseCallback",
        "integrations.lightning.SparseCallback",
    ],
}
FORMULA = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">'
    r"\\(?P<open>[\[(])(?P<tex>.*?)\\[\])]</(?P=tag)>",
    re.DOTALL,
)
PICTURES = re.compile(r"\]\((benchmarks/[^)]+\.svg)\)")


def pages() -> dict[str, str]:
    """The generated pages by their path in the site."""
    moved = {new: from_above((ROOT / old).read_text()) for old, new in ABOVE.items()}
    return {**moved, "policies.md": policies_page(), "reference.md": reference_page()}


def pictures() -> list[str]:
    """Pictures of these pages that stand outside docs/."""
    return [
        name for old in ABOVE for name in PICTURES.findall((ROOT / old).read_text())
    ]


def from_above(text: str) -> str:
    """A page from above docs/ with links as the site has them."""
    for old, new in ABOVE.items():
        text = text.replace(f"]({old}", f"]({new}")
    return text.replace("](docs/", "](")


def policies_page() -> str:
    """Every preset, and every field of a policy with what it may be."""
    lines = [
        "# Policies",
        "",
        "A policy is a preset's name, a YAML file, a mapping, a `sparsefx.Policy` or a "
        "function; each field may also be given by keyword: "
        '`sparsefx.transform(model, "rigl", budget=0.2, seed=3)`.',
        "",
        "## Presets",
    ]
    for name in preset_names():
        sets = [f"`{k}: {v}`" for k, v in read_preset(name).items() if k != "name"]
        lines += ["", f"### {name}", "", preset_purpose(name), "", ", ".join(sets)]
    lines += ["", "## Fields"]
    for setting in settings_of(Policy).values():
        lines += ["", f"### {setting.name}", "", *_field(setting)]
    lines += ["", "## Entries of `layers`", ""]
    lines += [f"- `{name}`: {_allowed(rule)}" for name, rule in LAYER_RULES.items()]
    lines += ["", "## Entries of `tokens`", ""]
    for setting in settings_of(TokenOptions).values():
        lines += [f"- `{setting.name}`: {' '.join(_field(setting))}"]
    return "\n".join([*lines, ""])


def reference_page() -> str:
    """Every public name, by kind, and what else the pages speak of."""
    passes = [name for name, value in vars(sparsefx.passes).items() if _ours(value)]
    sections: dict[str, list[str]] = {
        "Functions": [],
        "Values": [],
        "Errors": [],
        "Passes": [f"passes.{name}" for name in passes],
        **BESIDE,
    }
    for name in sparsefx.__all__:
        value = getattr(sparsefx, name)
        if _ours(value):
            error = inspect.isclass(value) and issubclass(value, Exception)
            kind = "Values" if inspect.isclass(value) else "Functions"
            sections["Errors" if error else kind].append(name)
    lines = ["# Public names"]
    for title, names in sections.items():
        lines += ["", f"## {title}"]
        for name in names:
            lines += ["", f"::: sparsefx.{name}"]
            if name == "Policy":  # policies.md has its fields
                lines += ["    options: {members: [schedule, interval, to_yaml]}"]
    return "\n".join([*lines, ""])


def _ours(value: object) -> bool:
    """Whether it is a function or class of the package."""
    home = getattr(value, "__module__", "")
    return home.startswith("sparsefx") and not inspect.ismodule(value)


def _field(setting: Setting) -> Iterator[str]:
    """What a field means, what it may be, what it is if nobody sets it."""
    yield setting.meaning
    default = plain(setting.default) or "empty"
    yield f"Default: `{default}`. Give {_allowed(setting.rule)}."
    for mark in setting.unless:
        yield f"It has no effect with `{mark.field}: {mark.value}`."


def _allowed(rule: Rule) -> str:
    """The words with which a rule refuses what it does not know."""
    try:
        rule.read("", object())
    except PolicyError as error:
        return str(error).partition("; give ")[2]
    raise AssertionError("a rule that allows everything")


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages to those that mkdocs found."""
    from mkdocs.structure.files import File

    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    for path in pictures():
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def on_page_content(html: str, **rest: Any) -> str:
    """Formulas as MathML, which browsers show without a script."""
    from latex2mathml.converter import convert

    def shown(found: re.Match[str]) -> str:
        display = "block" if found["open"] == "[" else "inline"
        return str(convert(unescape(found["tex"]), display=display))

    return FORMULA.sub(shown, html)
