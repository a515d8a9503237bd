"""As much of JSON Schema as policies need: why a value does not fit."""

from typing import Any

TYPES: dict[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "number": (int, float),
    "integer": int,
    "boolean": bool,
    "null": type(None),
}
NOTES = {"$schema", "title", "description", "default"}
# A bound speaks of numbers (and so on) only.
BOUNDS: dict[str, tuple[str, Any]] = {
    "minimum": ("number", lambda value, bound: value >= bound),
    "maximum": ("number", lambda value, bound: value <= bound),
    "exclusiveMinimum": ("number", lambda value, bound: value > bound),
    "minLength": ("string", lambda value, bound: len(value) >= bound),
    "minProperties": ("object", lambda value, bound: len(value) >= bound),
}


def is_a(value: Any, name: str) -> bool:
    flag = isinstance(value, bool)
    return isinstance(value, TYPES[name]) and (not flag or name == "boolean")


def misfit(value: Any, schema: Any, path: str = "") -> str:
    """The first thing that does not fit; "" if all does."""
    if schema is False:
        return f"{path}: not known"
    for key, wanted in schema.items():
        if key in NOTES or key == "properties":
            continue
        if key in BOUNDS:
            kind, fits = BOUNDS[key]
            if is_a(value, kind) and not fits(value, wanted):
                return f"{path}: {key} {wanted}"
        elif key == "type":
            if not is_a(value, wanted):
                return f"{path}: no {wanted}"
        elif key == "enum":
            if value not in wanted:
                return f"{path}: none of {wanted}"
        elif key == "anyOf":
            if all(misfit(value, one, path) for one in wanted):
                return f"{path}: none of {len(wanted)} forms"
        elif key == "items":
            if is_a(value, "array"):
                for index, entry in enumerate(value):
                    if found := misfit(entry, wanted, f"{path}[{index}]"):
                        return found
        elif key == "additionalProperties":
            if is_a(value, "object"):
                known = schema.get("properties", {})
                for name, entry in value.items():
                    found = misfit(entry, known.get(name, wanted), f"{path}.{name}")
                    if found:
                        return found
        else:
            raise AssertionError(f"the schema uses {key}, which this does not know")
    return ""
