"""A JSON Schema as each provider takes it. Pure.

What a provider's constrained decoding cannot express is taken out of the schema and written into the description, where the model
reads it; the answer is judged by the whole schema all the same. Sources: OpenAI, "Structured Outputs", supported schemas;
Anthropic, "Structured outputs", JSON Schema limitations; both read 2026-11-24.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["for_anthropic", "for_openai", "without_nulls"]

_OPENAI_DROPS = frozenset(
    {
        "default",
        "minProperties",
        "maxProperties",
        "patternProperties",
        "propertyNames",
        "uniqueItems",
        "contains",
        "minContains",
        "maxContains",
        "minLength",
        "maxLength",
        "not",
        "if",
        "then",
        "else",
        "dependentRequired",
        "examples",
        "$schema",
        "discriminator",
    }
)
_ANTHROPIC_DROPS = _OPENAI_DROPS | {
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "maxItems",
    "pattern",
}
_SAID = ("$schema", "discriminator", "examples")
"""Dropped without a word: they constrain nothing."""

_FORMATS = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"}
)


def for_openai(schema: Mapping[str, Any]) -> dict[str, Any] | None:
    """For `strict`: every property required, those that were optional nullable instead; None where it cannot be said strictly
    (open objects), so that it is sent without `strict`."""
    try:
        return _openai(schema)
    except _Inexpressible:
        return None


class _Inexpressible(Exception):
    pass


def _openai(schema: Any) -> dict[str, Any]:
    if not isinstance(schema, Mapping):
        raise _Inexpressible
    out = _dropped(schema, _OPENAI_DROPS)
    if "$ref" in out:
        # Nothing may stand beside a reference there.
        return {"$ref": out["$ref"]} | _defs(out, _openai)
    out |= _defs(out, _openai)
    if "oneOf" in out:
        out["anyOf"] = out.pop("oneOf")
    if "allOf" in out:
        if len(out["allOf"]) != 1 or not isinstance(out["allOf"][0], Mapping):
            raise _Inexpressible
        out = {**out.pop("allOf")[0], **out}
        return _openai(out)
    if "anyOf" in out:
        out["anyOf"] = [_openai(option) for option in out["anyOf"]]
    if out.get("type") == "object" or "properties" in out:
        properties = out.get("properties", {})
        if out.get("additionalProperties", False) is not False or not properties:
            raise _Inexpressible
        required = set(out.get("required", ()))
        out["properties"] = {
            name: _openai(inner) if name in required else _nullable(_openai(inner))
            for name, inner in properties.items()
        }
        out["required"] = list(properties)
        out["additionalProperties"] = False
    if "prefixItems" in out or isinstance(out.get("items"), list):
        raise _Inexpressible
    if out.get("type") == "array" or "items" in out:
        if not isinstance(out.get("items"), Mapping):
            raise _Inexpressible
        out["items"] = _openai(out["items"])
    if not out.keys() & {"type", "anyOf", "enum", "const", "$ref"}:
        raise _Inexpressible  # anything goes
    return out


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    if _takes_null(schema):
        return schema
    return {"anyOf": [schema, {"type": "null"}]}


def _takes_null(schema: Mapping[str, Any]) -> bool:
    types = schema.get("type")
    if types == "null" or (isinstance(types, list) and "null" in types):
        return True
    if None in schema.get("enum", ()):
        return True
    return any(isinstance(option, Mapping) and _takes_null(option) for option in schema.get("anyOf", ()))


def for_anthropic(schema: Mapping[str, Any]) -> dict[str, Any]:
    """For `output_config.format`: closed objects, no bounds on numbers, texts and lists."""
    out = _dropped(schema, _ANTHROPIC_DROPS)
    if "$ref" in out:
        return {"$ref": out["$ref"]} | _defs(out, for_anthropic)
    out |= _defs(out, for_anthropic)
    if "oneOf" in out:
        out["anyOf"] = out.pop("oneOf")
    for name in ("anyOf", "allOf"):
        if name in out:
            out[name] = [
                for_anthropic(option) if isinstance(option, Mapping) else option for option in out[name]
            ]
    if out.get("type") == "object" or "properties" in out:
        out["properties"] = {
            name: for_anthropic(inner) if isinstance(inner, Mapping) else inner
            for name, inner in out.get("properties", {}).items()
        }
        out["additionalProperties"] = False
    if isinstance(out.get("items"), Mapping):
        out["items"] = for_anthropic(out["items"])
    if out.get("minItems", 0) > 1:
        out = _said(out, {"minItems": out.pop("minItems")})
    if "format" in out and out["format"] not in _FORMATS:
        out = _said(out, {"format": out.pop("format")})
    return out


def _defs(schema: Mapping[str, Any], narrow: Any) -> dict[str, Any]:
    return {
        group: {name: narrow(inner) for name, inner in schema[group].items()}
        for group in ("$defs", "definitions")
        if isinstance(schema.get(group), Mapping)
    }


def _dropped(schema: Mapping[str, Any], drops: frozenset[str]) -> dict[str, Any]:
    kept = {name: value for name, value in schema.items() if name not in drops}
    return _said(kept, {name: value for name, value in schema.items() if name in drops and name not in _SAID})


def _said(schema: dict[str, Any], dropped: Mapping[str, Any]) -> dict[str, Any]:
    """`schema` with what was taken out of it named in its description."""
    if not dropped:
        return schema
    words = "{" + ", ".join(f"{name}: {value}" for name, value in dropped.items()) + "}"
    before = schema.get("description")
    return {**schema, "description": f"{before}\n\n{words}" if before else words}


def without_nulls(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any], depth: int = 0) -> Any:
    """`value` without the members that are null only because `for_openai` had to make optional ones nullable: those that
    `schema` neither requires nor lets be null."""
    if depth > 128 or not isinstance(schema, Mapping):
        return value
    ref = schema.get("$ref")
    if isinstance(ref, str) and ref.startswith(("#/$defs/", "#/definitions/")):
        _, group, name = ref.split("/", 2)
        return without_nulls(value, root.get(group, {}).get(name, {}), root, depth + 1)
    if isinstance(value, list) and isinstance(schema.get("items"), Mapping):
        return [without_nulls(item, schema["items"], root, depth + 1) for item in value]
    if isinstance(value, dict) and isinstance(properties := schema.get("properties"), Mapping):
        required = set(schema.get("required", ()))
        return {
            name: without_nulls(member, properties.get(name, {}), root, depth + 1)
            for name, member in value.items()
            if not (
                member is None
                and name in properties
                and name not in required
                and not _may_be_null(properties[name], root)
            )
        }
    for option in schema.get("anyOf", ()):
        if isinstance(value, dict | list):
            value = without_nulls(value, option, root, depth + 1)
    return value


def _may_be_null(schema: Any, root: Mapping[str, Any], depth: int = 0) -> bool:
    if schema is True or schema == {}:
        return True
    if not isinstance(schema, Mapping) or depth > 8:
        return False
    ref = schema.get("$ref")
    if isinstance(ref, str) and ref.startswith(("#/$defs/", "#/definitions/")):
        _, group, name = ref.split("/", 2)
        return _may_be_null(root.get(group, {}).get(name), root, depth + 1)
    options = [*schema.get("anyOf", ()), *schema.get("oneOf", ())]
    constrained = schema.keys() & {"type", "anyOf", "oneOf", "allOf", "enum", "const", "$ref"}
    return (
        _takes_null(schema)
        or not constrained
        or any(_may_be_null(option, root, depth + 1) for option in options)
    )
