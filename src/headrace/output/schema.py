"""What an answer must be: a type of Python's, or a JSON Schema, as one `Shape` that reads JSON text into the value.

pydantic models (and anything that holds one) are judged by pydantic, which is imported only then; dataclasses, TypedDicts, msgspec
structs, enums, unions and builtin types by msgspec; a JSON Schema by `headrace.output.validate`. All of them strictly: a string
is never made a number.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import sys
import typing
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar, cast

import msgspec

from headrace.errors import InvalidRequest
from headrace.output.validate import faults, refuse_unknown

__all__ = ["WRAPPER", "Mismatch", "Shape", "needs_pydantic", "shape_of"]

T = TypeVar("T")

WRAPPER = "value"
"""The one member of the object around a value that is none itself: providers take only objects at the top."""


class Mismatch(ValueError):
    """The text is not what was asked for; the message is the validator's."""


@dataclasses.dataclass(frozen=True, slots=True)
class Shape(Generic[T]):
    """The form of an answer.

    Attributes:
        name: For providers that want one: letters, digits, `_` and `-`, at most 64.
        schema: JSON Schema of the value.
        decode: JSON text to the value; raises `Mismatch`.
    """

    name: str
    schema: Mapping[str, Any]
    decode: Callable[[str], T]

    @property
    def wrapped(self) -> bool:
        """Whether the value is asked for inside an object, being none itself."""
        return not _is_object(self.schema, self.schema)

    @property
    def asked(self) -> dict[str, Any]:
        """The schema that a model is asked for; an object at the top."""
        schema = dict(self.schema)
        if not self.wrapped:
            return _inlined(schema)
        outer: dict[str, Any] = {
            "type": "object",
            "properties": {
                WRAPPER: {k: v for k, v in schema.items() if k not in ("$defs", "definitions", "$schema")}
            },
            "required": [WRAPPER],
            "additionalProperties": False,
        }
        return outer | {name: schema[name] for name in ("$defs", "definitions") if name in schema}


def _is_object(schema: Mapping[str, Any], root: Mapping[str, Any], depth: int = 0) -> bool:
    if schema.get("type") == "object":
        return True
    target = _local(schema, root)
    return target is not None and depth < 8 and _is_object(target, root, depth + 1)


def _local(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any] | None:
    ref = schema.get("$ref")
    if not isinstance(ref, str) or not ref.startswith(("#/$defs/", "#/definitions/")):
        return None
    _, group, name = ref.split("/", 2)
    found = root.get(group, {}).get(name.replace("~1", "/").replace("~0", "~"))
    return found if isinstance(found, Mapping) else None


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """A top that is only a reference, written out: providers want the object itself there."""
    target = _local(schema, schema)
    if target is None:
        return schema
    rest = {name: value for name, value in schema.items() if name != "$ref"}
    inlined = _inlined({**rest, **target})
    if '"$ref"' not in msgspec.json.encode(inlined).decode():
        inlined.pop("$defs", None)
        inlined.pop("definitions", None)
    return inlined


def shape_of(output: type[T] | Mapping[str, Any]) -> Shape[T]:
    """The shape of a type (or a form of `typing`), or of a JSON Schema, whose values are plain JSON values.

    Raises:
        InvalidRequest: There is no JSON for such a type, or the schema asserts what cannot be checked here.
    """
    if isinstance(output, Mapping):
        return cast("Shape[T]", _shape_of_schema(dict(output)))
    try:
        return cast("Shape[T]", _shape_of_type(cast("Any", output)))
    except TypeError:  # unhashable: Annotated with a list, for instance
        return cast("Shape[T]", _shape_of_type.__wrapped__(output))


def _shape_of_schema(schema: dict[str, Any]) -> Shape[Any]:
    try:
        refuse_unknown(schema)
        plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(schema))
    except (ValueError, TypeError) as error:
        raise InvalidRequest(
            f"the JSON Schema of the output is not usable: {error}", param="output"
        ) from None

    def decode(text: str) -> Any:
        value = _decoded(text)
        try:
            found = faults(value, plain)
        except (ValueError, ArithmeticError, RecursionError) as error:  # it refers to itself without end
            raise Mismatch(f"it cannot be judged: {error}") from None
        if found:
            raise Mismatch("\n".join(found))
        return value

    return Shape(_name(str(schema.get("title", "answer"))), plain, decode)


def _decoded(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Mismatch(str(error)) from None


@functools.lru_cache(maxsize=256)
def _shape_of_type(output: Any) -> Shape[Any]:
    name = _name(
        getattr(output, "__name__", "")
        if isinstance(output, type) and not typing.get_args(output)
        else "answer"
    )
    if needs_pydantic(output):
        return _pydantic(name, output)
    try:
        schema = msgspec.json.schema(output)
        decoder = msgspec.json.Decoder(output, strict=True)
    except (TypeError, NameError) as error:
        raise InvalidRequest(
            f"there is no JSON Schema for {output!r}: {error}. Give a pydantic model, a dataclass, a TypedDict, a msgspec "
            "struct, a builtin type or a JSON Schema",
            param="output",
        ) from None

    def decode(text: str) -> Any:
        try:
            return decoder.decode(text)
        except (msgspec.DecodeError, RecursionError) as error:
            raise Mismatch(str(error)) from None

    return Shape(name, schema, decode)


def needs_pydantic(output: Any, seen: set[int] | None = None) -> bool:
    """Whether a pydantic model is, or is inside, `output`. Nothing is imported: who has a model has imported pydantic."""
    seen = set() if seen is None else seen
    if "pydantic" not in sys.modules or id(output) in seen:
        return False
    seen.add(id(output))
    if any(needs_pydantic(argument, seen) for argument in typing.get_args(output)):
        return True
    if not isinstance(output, type):
        return False
    if hasattr(output, "__pydantic_core_schema__") or hasattr(output, "__get_pydantic_core_schema__"):
        return True
    if dataclasses.is_dataclass(output) or typing.is_typeddict(output) or issubclass(output, msgspec.Struct):
        try:
            hints = typing.get_type_hints(output)
        except (NameError, TypeError):
            return False
        return any(needs_pydantic(hint, seen) for hint in hints.values())
    return False


def _pydantic(name: str, output: Any) -> Shape[Any]:
    import pydantic

    try:
        adapter: Any = pydantic.TypeAdapter(output)
        schema: dict[str, Any] = adapter.json_schema()
    except pydantic.errors.PydanticUserError as error:
        raise InvalidRequest(
            f"pydantic has no JSON Schema for {output!r}: {error.message}", param="output"
        ) from None

    def decode(text: str) -> Any:
        try:
            return adapter.validate_json(text, strict=True)
        except pydantic.ValidationError as error:
            lines = [
                f"{'.'.join(map(str, fault['loc'])) or '$'}: {fault['msg']}"
                for fault in error.errors(include_url=False, include_context=False)[:10]
            ]
            raise Mismatch("\n".join(lines)) from None

    return Shape(name, schema, decode)


def _name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "_", text)[:64] or "answer"
