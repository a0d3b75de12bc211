"""Judges a JSON value by a JSON Schema (draft 2020-12, with what older drafts spell otherwise where it is common). Pure.

Formats and content keywords are annotations, as the draft has them by default. A schema that uses an assertion which is not known
here is refused by `refuse_unknown`, never waved through.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import Any

__all__ = ["faults", "patterns", "refuse_unknown"]

MAX_FAULTS = 10
"""Faults that are told of one value; a model that is asked again needs no more."""

_TYPES: Mapping[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "number": lambda value: isinstance(value, int | float | Decimal) and not isinstance(value, bool),
    "integer": lambda value: (
        (isinstance(value, int) and not isinstance(value, bool))
        or (isinstance(value, float) and value.is_integer())
        or (isinstance(value, Decimal) and value == value.to_integral_value())
    ),
}

_UNKNOWN = frozenset(
    {
        "unevaluatedProperties",
        "unevaluatedItems",
        "dependentSchemas",
        "$dynamicRef",
        "$recursiveRef",
        "dependencies",
    }
)
_NESTED = ("properties", "patternProperties", "$defs", "definitions")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_SINGLE = ("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames")


_NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_COUNTS = (
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "minContains",
    "maxContains",
)


def refuse_unknown(schema: object, path: str = "#", root: object = None) -> None:
    """Raises `ValueError` for a schema that is none, or that asserts what `faults` does not know."""
    root = schema if root is None else root
    if isinstance(schema, bool):
        return
    if not isinstance(schema, Mapping):
        raise ValueError(f"{path} is not a JSON Schema: {schema!r:.80}")
    if unknown := _UNKNOWN & schema.keys():
        raise ValueError(f"{path} uses {', '.join(sorted(unknown))}, which is not supported")
    if (ref := schema.get("$ref")) is not None and not (isinstance(ref, str) and ref.startswith("#")):
        raise ValueError(f"{path}/$ref must point into the same schema, not to {ref!r}")
    if ref is not None:
        _resolve(root, ref)
    types = schema.get("type", [])
    for name in types if isinstance(types, list) else [types]:
        if name not in _TYPES:
            raise ValueError(f"{path}/type is not one of {', '.join(_TYPES)}: {name!r:.80}")
    for name in ("required", "enum"):
        if not isinstance(schema.get(name, []), list):
            raise ValueError(f"{path}/{name} must be a list, not {schema[name]!r:.80}")
    _refuse_values(schema, path)
    for name in _NESTED:
        inner = schema.get(name, {})
        if not isinstance(inner, Mapping):
            raise ValueError(f"{path}/{name} must be an object, not {inner!r:.80}")
        for key, value in inner.items():
            refuse_unknown(value, f"{path}/{name}/{key}", root)
    for name in _LISTS:
        options = schema.get(name, [])
        if not isinstance(options, list):
            raise ValueError(f"{path}/{name} must be a list, not {options!r:.80}")
        for index, value in enumerate(options):
            refuse_unknown(value, f"{path}/{name}/{index}", root)
    for name in _SINGLE:
        if name in schema and not isinstance(schema[name], list):
            refuse_unknown(schema[name], f"{path}/{name}", root)


def _refuse_values(schema: Mapping[str, Any], path: str) -> None:
    for name in (*_NUMBERS, *_COUNTS):
        value = schema.get(name, 1)
        if not _TYPES["number" if name in _NUMBERS else "integer"](value) or (
            name == "multipleOf" and value <= 0
        ):
            raise ValueError(f"{path}/{name} must be a number, not {value!r:.80}")
    needed = schema.get("dependentRequired", {})
    if not isinstance(needed, Mapping) or not all(isinstance(names, list) for names in needed.values()):
        raise ValueError(f"{path}/dependentRequired must be an object of lists, not {needed!r:.80}")
    patterns = schema.get("patternProperties", {})
    for pattern in (schema.get("pattern", ""), *(patterns if isinstance(patterns, Mapping) else ())):
        try:
            re.compile(pattern)
        except (re.error, TypeError, RecursionError, OverflowError) as error:
            raise ValueError(f"{path}: the pattern {pattern!r:.80} is not one of Python's: {error}") from None


def patterns(schema: object) -> Iterator[str]:
    """Every regular expression in a schema, wherever it stands."""
    if isinstance(schema, Mapping):
        if isinstance(schema.get("pattern"), str):
            yield schema["pattern"]
        if isinstance(schema.get("patternProperties"), Mapping):
            yield from schema["patternProperties"]
        for inner in schema.values():
            yield from patterns(inner)
    elif isinstance(schema, list):
        for inner in schema:
            yield from patterns(inner)


def faults(value: object, schema: Mapping[str, Any] | bool) -> list[str]:
    """What is wrong with `value`, at most `MAX_FAULTS` lines, each with its place; empty when it is valid."""
    found: list[str] = []
    for fault in _faults(value, schema, "$", schema, 0):
        found.append(fault)
        if len(found) == MAX_FAULTS:
            break
    return found


def _valid(value: object, schema: Any, root: Any, depth: int) -> bool:
    return next(_faults(value, schema, "$", root, depth), None) is None


def _faults(value: Any, schema: Any, path: str, root: Any, depth: int) -> Iterator[str]:
    if schema is True:
        return
    if schema is False:
        yield f"{path}: nothing is allowed here"
        return
    if depth > 256:
        raise ValueError("the schema refers to itself without end")
    if (ref := schema.get("$ref")) is not None:
        yield from _faults(value, _resolve(root, ref), path, root, depth + 1)
    if (types := schema.get("type")) is not None:
        allowed = [types] if isinstance(types, str) else types
        if not any(_TYPES[name](value) for name in allowed):
            yield f"{path}: expected {' or '.join(allowed)}, got {_kind(value)}"
            return
    if "enum" in schema and not any(_same(value, one) for one in schema["enum"]):
        yield f"{path}: {value!r:.80} is not one of {schema['enum']!r:.400}"
    if "const" in schema and not _same(value, schema["const"]):
        yield f"{path}: {value!r:.80} is not {schema['const']!r:.80}"
    if isinstance(value, str):
        yield from _text(value, schema, path)
    elif isinstance(value, dict):
        yield from _object(value, schema, path, root, depth)
    elif isinstance(value, list):
        yield from _array(value, schema, path, root, depth)
    elif isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        yield from _number(value, schema, path)
    yield from _combined(value, schema, path, root, depth)


def _combined(value: Any, schema: Any, path: str, root: Any, depth: int) -> Iterator[str]:
    for inner in schema.get("allOf", ()):
        yield from _faults(value, inner, path, root, depth + 1)
    for name in ("anyOf", "oneOf"):
        options = schema.get(name)
        if not options:
            continue
        fitting = sum(_valid(value, option, root, depth + 1) for option in options)
        if fitting == 0:
            closest = min(([*_faults(value, option, path, root, depth + 1)] for option in options), key=len)
            yield f"{path}: fits none of {len(options)} alternatives ({closest[0]})"
        elif name == "oneOf" and fitting > 1:
            yield f"{path}: fits {fitting} alternatives where exactly one must fit"
    if "not" in schema and _valid(value, schema["not"], root, depth + 1):
        yield f"{path}: {value!r:.80} is what it must not be"
    if "if" in schema:
        branch = "then" if _valid(value, schema["if"], root, depth + 1) else "else"
        if branch in schema:
            yield from _faults(value, schema[branch], path, root, depth + 1)


def _text(value: str, schema: Any, path: str) -> Iterator[str]:
    if len(value) < schema.get("minLength", 0):
        yield f"{path}: shorter than {schema['minLength']} characters"
    if len(value) > schema.get("maxLength", math.inf):
        yield f"{path}: longer than {schema['maxLength']} characters"
    if "pattern" in schema and re.search(schema["pattern"], value) is None:
        yield f"{path}: {value!r:.80} does not match {schema['pattern']}"


def _number(value: Any, schema: Any, path: str) -> Iterator[str]:
    if "minimum" in schema and value < schema["minimum"]:
        yield f"{path}: {value} is below {schema['minimum']}"
    if "maximum" in schema and value > schema["maximum"]:
        yield f"{path}: {value} is above {schema['maximum']}"
    if "exclusiveMinimum" in schema and value <= schema["exclusiveMinimum"]:
        yield f"{path}: {value} is not above {schema['exclusiveMinimum']}"
    if "exclusiveMaximum" in schema and value >= schema["exclusiveMaximum"]:
        yield f"{path}: {value} is not below {schema['exclusiveMaximum']}"
    if "multipleOf" in schema and Decimal(str(value)) % Decimal(str(schema["multipleOf"])):
        yield f"{path}: {value} is not a multiple of {schema['multipleOf']}"


def _object(value: dict[str, Any], schema: Any, path: str, root: Any, depth: int) -> Iterator[str]:
    for name in schema.get("required", ()):
        if name not in value:
            yield f"{path}: {name!r} is missing"
    if len(value) < schema.get("minProperties", 0):
        yield f"{path}: fewer than {schema['minProperties']} members"
    if len(value) > schema.get("maxProperties", math.inf):
        yield f"{path}: more than {schema['maxProperties']} members"
    for name, needed in schema.get("dependentRequired", {}).items():
        if name in value and (missing := [other for other in needed if other not in value]):
            yield f"{path}: {name!r} needs {', '.join(map(repr, missing))}"
    properties = schema.get("properties", {})
    patterns = schema.get("patternProperties", {})
    others = schema.get("additionalProperties", True)
    for name, member in value.items():
        place = f"{path}.{name}"
        known = name in properties
        if known:
            yield from _faults(member, properties[name], place, root, depth + 1)
        for pattern, inner in patterns.items():
            if re.search(pattern, name) is not None:
                known = True
                yield from _faults(member, inner, place, root, depth + 1)
        if not known:
            if others is False:
                yield f"{path}: {name!r} is not allowed"
            else:
                yield from _faults(member, others, place, root, depth + 1)
        if "propertyNames" in schema:
            yield from _faults(name, schema["propertyNames"], place, root, depth + 1)


def _array(value: list[Any], schema: Any, path: str, root: Any, depth: int) -> Iterator[str]:
    if len(value) < schema.get("minItems", 0):
        yield f"{path}: fewer than {schema['minItems']} items"
    if len(value) > schema.get("maxItems", math.inf):
        yield f"{path}: more than {schema['maxItems']} items"
    if schema.get("uniqueItems") and any(_same(a, b) for i, a in enumerate(value) for b in value[:i]):
        yield f"{path}: an item stands twice"
    front, rest = schema.get("prefixItems", ()), schema.get("items", True)
    if isinstance(rest, list):  # before 2020-12
        front, rest = rest, schema.get("additionalItems", True)
    for index, item in enumerate(value):
        inner = front[index] if index < len(front) else rest
        yield from _faults(item, inner, f"{path}[{index}]", root, depth + 1)
    if "contains" in schema:
        count = sum(_valid(item, schema["contains"], root, depth + 1) for item in value)
        if not schema.get("minContains", 1) <= count <= schema.get("maxContains", math.inf):
            yield f"{path}: {count} items are what it must contain"


def _resolve(root: Any, ref: str) -> Any:
    found = root
    for part in ref[1:].split("/")[1:]:
        part = part.replace("~1", "/").replace("~0", "~")
        try:
            found = found[int(part)] if isinstance(found, list) else found[part]
        except (KeyError, IndexError, ValueError, TypeError):
            raise ValueError(f"the schema has no {ref!r}") from None
    return found


def _same(a: Any, b: Any) -> bool:
    """JSON's equality: 1 is 1.0, and true is not 1."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[name], b[name]) for name in a)
    return bool(a == b)


def _kind(value: object) -> str:
    return next(
        name
        for name in ("null", "boolean", "string", "array", "object", "integer", "number")
        if _TYPES[name](value)
    )
