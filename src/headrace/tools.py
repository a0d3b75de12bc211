"""Plain functions as tools: the schema from signature and docstring, and running what a model calls.

A call is run by the loop of the client, between two requests; what retries a request never gets here, so that a function is run
once for each time that the model calls it.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
import re
import textwrap
import typing
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec

from headrace.clock import Clock, timeout_at
from headrace.errors import InvalidRequest, ToolLoopStopped
from headrace.output import Mismatch, Shape, shape_of
from headrace.output.schema import needs_pydantic
from headrace.types import Block, Document, Image, Message, Text, Tool, ToolCall, ToolResult

__all__ = ["Approve", "FunctionTool", "Repeats", "ToolRun", "function_tool", "run_calls"]

Approve: TypeAlias = Callable[[ToolCall], "bool | Awaitable[bool]"]
"""Whether a call may be run; asked before each, in the order of the calls."""

SAME_CALLS = 3
"""The same function with the same arguments so often: the model goes in circles."""

RESULT_KEPT = 100_000
"""Characters of one result that the model gets; more would be most of a window."""

ERROR_KEPT = 2_000


@dataclass(frozen=True, slots=True)
class FunctionTool:
    """A function that a model may call: how it is told of it, and how it is run."""

    tool: Tool
    function: Callable[..., object]
    shape: Shape[Any]
    parameters: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name that the model uses."""
        return self.tool.name


@dataclass(frozen=True, slots=True)
class ToolRun:
    """One call that was run, or was not approved.

    Attributes:
        result: What the model was told, as text.
        is_error: The function raised, took too long, was not approved, does not exist, or its arguments did not fit.
        seconds: How long it took.
    """

    call: ToolCall
    result: str
    is_error: bool
    seconds: float


def function_tool(function: Callable[..., object], *, name: str | None = None) -> FunctionTool:
    """`function`, synchronous or not, as a tool.

    The description is its docstring; parameters have the types of its hints (those of `output=`), their descriptions from the
    docstring's `Args:` or from `Annotated[..., msgspec.Meta(description=...)]`.

    Raises:
        InvalidRequest: A parameter has no type hint, no JSON type, or is `*args` or positional only.
    """
    if not callable(function):
        raise InvalidRequest(
            f"a tool is a function or a headrace.Tool, not {type(function).__name__}: {function!r:.80}",
            param="tools",
        )
    called = name or str(getattr(function, "__name__", ""))
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", called):
        raise InvalidRequest(
            f"a tool's name is letters, digits, _ and -, at most 64, not {called!r}", param="tools"
        )
    try:
        hints = typing.get_type_hints(function, include_extras=True)
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError, NameError) as error:
        raise InvalidRequest(f"the hints of tool {called!r} cannot be read: {error}", param="tools") from None
    description, explained = _documented(inspect.getdoc(function) or "")
    fields: list[tuple[str, Any, Any]] = []
    for parameter in parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise InvalidRequest(
                f"parameter {parameter.name!r} of tool {called!r} cannot be given by name", param="tools"
            )
        if parameter.name not in hints:
            raise InvalidRequest(
                f"parameter {parameter.name!r} of tool {called!r} has no type hint", param="tools"
            )
        fields.append((parameter.name, hints[parameter.name], parameter.default))
    shape = _arguments(called, fields, explained)
    tool = Tool(
        name=called, description=description or None, parameters=msgspec.Raw(msgspec.json.encode(shape.asked))
    )
    return FunctionTool(tool, function, shape, tuple(name for name, _, _ in fields))


def _arguments(name: str, fields: Sequence[tuple[str, Any, Any]], explained: Mapping[str, str]) -> Shape[Any]:
    """The shape of the arguments together: an object with one attribute each."""
    if any(needs_pydantic(hint) for _, hint, _ in fields):
        return _pydantic_arguments(name, fields, explained)
    members: list[Any] = []
    for field, hint, default in fields:
        if field in explained:
            hint = typing.Annotated[hint, msgspec.Meta(description=explained[field])]
        if default is inspect.Parameter.empty:
            members.append((field, hint))
        elif default is None or isinstance(default, str | int | float | bool):
            members.append((field, hint, default))
        else:
            members.append(
                (field, hint, msgspec.field(default_factory=functools.partial(copy.copy, default)))
            )
    try:
        struct = msgspec.defstruct(name, members, kw_only=True, forbid_unknown_fields=True)
        return shape_of(struct)
    except (TypeError, InvalidRequest) as error:
        raise InvalidRequest(
            f"the parameters of tool {name!r} have no JSON form: {error}", param="tools"
        ) from None


def _pydantic_arguments(
    name: str, fields: Sequence[tuple[str, Any, Any]], explained: Mapping[str, str]
) -> Shape[Any]:
    import pydantic

    members: dict[str, Any] = {}
    for field, hint, default in fields:
        said = pydantic.Field(
            default=... if default is inspect.Parameter.empty else default, description=explained.get(field)
        )
        members[field] = (hint, said)
    return shape_of(pydantic.create_model(name, __config__=pydantic.ConfigDict(extra="forbid"), **members))


_SECTION = re.compile(r"^(Args|Arguments|Parameters|Returns|Raises|Yields|Example|Examples|Note|Notes):\s*$")
_PARAMETER = re.compile(r"^(\w+)\s*(?:\([^)]*\))?:\s*(.*)$")


def _documented(doc: str) -> tuple[str, dict[str, str]]:
    """The description before the first section, and the words for each parameter under `Args:`."""
    front: list[str] = []
    explained: dict[str, str] = {}
    section, current, indent = "", "", 0
    for line in doc.splitlines():
        if (heading := _SECTION.match(line)) is not None:
            section = heading[1]
        elif not section:
            front.append(line)
        elif section in ("Args", "Arguments", "Parameters") and line.strip():
            depth = len(line) - len(line.lstrip())
            found = _PARAMETER.match(line.strip())
            if found is not None and (not current or depth <= indent):
                current, indent = found[1], depth
                explained[current] = found[2]
            elif current:
                explained[current] += " " + line.strip()
    return textwrap.dedent("\n".join(front)).strip(), explained


class Repeats:
    """Counts the calls of one loop."""

    __slots__ = ("_seen",)

    def __init__(self) -> None:
        self._seen: Counter[tuple[str, bytes]] = Counter()

    def count(self, calls: Sequence[ToolCall]) -> None:
        """Raises `ToolLoopStopped` when one of `calls` comes for the third time."""
        for call in calls:
            key = call.name, _canonical(call.arguments)
            self._seen[key] += 1
            if self._seen[key] >= SAME_CALLS:
                raise ToolLoopStopped(
                    f"the model called {call.name}({call.arguments:.200}) {SAME_CALLS} times",
                    reason="repeated",
                )


def _canonical(arguments: str) -> bytes:
    try:
        return msgspec.json.encode(msgspec.json.decode(arguments or "{}"), order="sorted")
    except (msgspec.DecodeError, RecursionError):
        return arguments.encode()


async def run_calls(
    calls: Sequence[ToolCall],
    functions: Mapping[str, FunctionTool],
    *,
    approve: Approve | None,
    timeout_s: float,
    deadline: float,
    clock: Clock,
) -> tuple[Message, list[ToolRun]]:
    """Run `calls` at once: the message with their results, and what happened. A function's exception is a result, not an error.

    Args:
        timeout_s: Seconds that one call may take.
        deadline: On the clock's monotonic scale; nothing runs beyond it.
    """
    allowed = [await _allowed(call, approve) for call in calls]
    running = [
        _run(call, functions, allowed=may, timeout_s=timeout_s, deadline=deadline, clock=clock)
        for call, may in zip(calls, allowed, strict=True)
    ]
    ran = await asyncio.gather(*running)
    results = tuple(result for result, _ in ran)
    return Message(role="tool", content=results), [run for _, run in ran]


async def _allowed(call: ToolCall, approve: Approve | None) -> bool:
    if approve is None:
        return True
    verdict = approve(call)
    return bool(await verdict if inspect.isawaitable(verdict) else verdict)


async def _run(
    call: ToolCall,
    functions: Mapping[str, FunctionTool],
    *,
    allowed: bool,
    timeout_s: float,
    deadline: float,
    clock: Clock,
) -> tuple[ToolResult, ToolRun]:
    began = clock.now()
    content, is_error = await _outcome(
        call, functions, allowed, min(began + timeout_s, deadline), timeout_s, clock
    )
    result = ToolResult(call_id=call.id, content=content, is_error=is_error)
    text = "".join(block.text for block in content if isinstance(block, Text))
    return result, ToolRun(call, text, is_error, clock.now() - began)


async def _outcome(
    call: ToolCall,
    functions: Mapping[str, FunctionTool],
    allowed: bool,
    until: float,
    timeout_s: float,
    clock: Clock,
) -> tuple[tuple[Block, ...], bool]:
    found = functions.get(call.name)
    if found is None:
        return _text(f"there is no tool {call.name!r}; there is: {', '.join(sorted(functions))}"), True
    if not allowed:
        return _text("the user did not approve this call"), True
    try:
        arguments = found.shape.decode(call.arguments or "{}")
    except Mismatch as error:
        return _text(f"the arguments are not valid: {error}"), True
    values = {name: getattr(arguments, name) for name in found.parameters}
    try:
        async with timeout_at(clock, None if until == float("inf") else until):
            if inspect.iscoroutinefunction(found.function):
                value = await found.function(**values)
            else:
                # A thread cannot be stopped: after the time limit its result is thrown away.
                value = await asyncio.to_thread(found.function, **values)
                if inspect.isawaitable(value):
                    value = await value
        return _content(value), False
    except TimeoutError:
        return _text(f"{call.name} took longer than {timeout_s:g} s"), True
    except Exception as error:  # noqa: BLE001  (whatever the user's function raises is the model's to read)
        return _text(f"{type(error).__name__}: {error}"[:ERROR_KEPT]), True


def _text(text: str) -> tuple[Block, ...]:
    return (Text(text=text),)


def _content(value: object) -> tuple[Block, ...]:
    if isinstance(value, str):
        return _text(value[:RESULT_KEPT])
    if isinstance(value, Text | Image | Document):
        return (value,)
    if (
        isinstance(value, list | tuple)
        and value
        and all(isinstance(v, Text | Image | Document) for v in value)
    ):
        return tuple(value)
    dump = getattr(value, "model_dump_json", None)
    if callable(dump):
        return _text(str(dump())[:RESULT_KEPT])
    return _text(msgspec.json.encode(value, enc_hook=_plain).decode()[:RESULT_KEPT])


def _plain(value: object) -> object:
    dump = getattr(value, "model_dump", None)
    return dump(mode="json") if callable(dump) else str(value)
