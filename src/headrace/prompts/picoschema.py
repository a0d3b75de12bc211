"""dotprompt's short form of a JSON Schema: `{"text": "string, what to judge", "tone?": "string"}`. Pure.

Source: dotprompt, reference of Picoschema, google.github.io/dotprompt.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["json_schema"]

_SCALARS = ("string", "number", "integer", "boolean", "null", "any")
_NAME = re.compile(
    r"^(?P<name>[^?(]+)(?P<optional>\?)?(?:\((?P<kind>array|object|enum|\*)(?:,\s*(?P<words>.*))?\))?$"
)


def json_schema(schema: object) -> dict[str, Any]:
    """A JSON Schema from one, which is given back as it is, or from its short form.

    Raises:
        ValueError: It is neither.
    """
    if isinstance(schema, str):
        return _scalar(schema)
    if not isinstance(schema, Mapping):
        raise ValueError(f"a schema is a mapping or a word such as string, not {schema!r:.80}")
    if schema.get("type") in (*_SCALARS, "object", "array") or "$ref" in schema or "anyOf" in schema:
        return dict(schema)
    properties: dict[str, Any] = {}
    required: list[str] = []
    out: dict[str, Any] = {"type": "object", "properties": properties, "required": required}
    out["additionalProperties"] = False
    for key, value in schema.items():
        found = _NAME.match(str(key))
        if found is None:
            raise ValueError(
                f"{key!r} is not a member of a schema: name, name?, name(array), name(object), name(enum)"
            )
        kind, words = found["kind"], found["words"]
        if str(key).startswith("(*)"):
            out["additionalProperties"] = json_schema(value)
            continue
        inner = _member(kind, value)
        if words:
            inner["description"] = words
        name = found["name"].strip()
        properties[name] = _or_null(inner) if found["optional"] else inner
        if not found["optional"]:
            required.append(name)
    return out


def _member(kind: str | None, value: object) -> dict[str, Any]:
    match kind:
        case "array":
            return {"type": "array", "items": json_schema(value)}
        case "enum":
            if not isinstance(value, list):
                raise ValueError(f"an enum is a list of values, not {value!r:.80}")
            return {"enum": value}
        case _:
            return json_schema(value)


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    """An optional member may be null: models say so rather than leave it out."""
    if isinstance(schema.get("type"), str):
        return {**schema, "type": [schema["type"], "null"]}
    if "enum" in schema:
        return {**schema, "enum": [*schema["enum"], None]}
    return schema


def _scalar(text: str) -> dict[str, Any]:
    kind, _, words = text.partition(",")
    kind = kind.strip()
    if kind not in _SCALARS:
        raise ValueError(f"{kind!r} is not a type: {', '.join(_SCALARS)}")
    out: dict[str, Any] = {} if kind == "any" else {"type": kind}
    if words.strip():
        out["description"] = words.strip()
    return out
