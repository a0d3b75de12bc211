"""What a fake model says: one `Answer`, the same for every dialect and for buffered and streamed requests."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field

import msgspec

from headrace.types import Usage

__all__ = ["Answer"]

ARGUMENT_PIECE = 8
"""Characters of a tool call's arguments in one streamed piece; real ones send a token, which is a few."""

_WORDS = re.compile(r"\s*\S+|\s+$")


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of a fake model.

    Attributes:
        text: What it says.
        tool_calls: `(name, arguments)` in order; arguments are a mapping, or JSON text exactly as the model "wrote" it.
        thinking: Reasoning before the text: a thinking block for Anthropic, `reasoning_content` for OpenAI's dialect.
        signature: Of the thinking; made up when there is thinking and none is given.
        refusal: The model's words for declining: `refusal` of OpenAI; text with the stop reason `refusal` for Anthropic.
        finish: A `headrace.types.FinishReason`, or the dialect's own word. Default: `refusal`, `tool_calls` or `stop`.
        stop_sequence: The sequence that stopped it; makes the default `finish` `stop_sequence`.
        usage: `(input, output)` or `(input, output, cached)` tokens, input counting the cached ones too, or a
            `headrace.types.Usage`. Default: an estimate from the lengths.
        report_usage: False: say nothing about tokens, as some compatible servers do.
        chunks: The text's pieces in a stream, instead of `text` cut into words; `text` may then be left out.
        delay_s: Seconds before each content chunk of a stream but the first.
        first_delay_s: Seconds before the answer begins (before its status line).
        model: The model that the answer names; default the one that was asked for.
        headers: More response headers.
    """

    text: str = ""
    _: KW_ONLY
    tool_calls: Sequence[tuple[str, Mapping[str, object] | str]] = ()
    thinking: str = ""
    signature: str | None = None
    refusal: str | None = None
    finish: str | None = None
    stop_sequence: str | None = None
    usage: tuple[int, int] | tuple[int, int, int] | Usage | None = None
    report_usage: bool = True
    chunks: Sequence[str] | None = None
    delay_s: float = 0.0
    first_delay_s: float = 0.0
    model: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.chunks is not None:
            joined = "".join(self.chunks)
            if self.text not in ("", joined):
                raise ValueError("text and chunks say different things: leave one of them out")
            object.__setattr__(self, "text", joined)

    @property
    def pieces(self) -> Sequence[str]:
        """The text as it is streamed."""
        if self.chunks is not None:
            return self.chunks
        return _WORDS.findall(self.text)

    @property
    def calls(self) -> list[tuple[str, str]]:
        """The tool calls with their arguments as JSON text."""
        return [
            (name, arguments if isinstance(arguments, str) else msgspec.json.encode(arguments).decode())
            for name, arguments in self.tool_calls
        ]

    @property
    def reason(self) -> str:
        """Why the model stopped, as a `FinishReason` or as given."""
        if self.finish is not None:
            return self.finish
        if self.refusal is not None:
            return "refusal"
        if self.tool_calls:
            return "tool_calls"
        return "stop" if self.stop_sequence is None else "stop_sequence"

    def tokens(self, input_tokens: int) -> Usage:
        """The usage to report for a request that is estimated at `input_tokens`."""
        match self.usage:
            case Usage():
                return self.usage
            case (input_, output):
                return Usage(input_tokens=input_, output_tokens=output)
            case (input_, output, cached):
                return Usage(input_tokens=input_, output_tokens=output, cache_read_tokens=cached)
            case _:
                thought = estimate(self.thinking)
                said = sum(estimate(part) for part in (self.text, self.refusal or ""))
                called = sum(estimate(name + arguments) for name, arguments in self.calls)
                return Usage(
                    input_tokens=input_tokens,
                    output_tokens=max(1, thought + said + called),
                    reasoning_tokens=thought,
                )


def estimate(text: str) -> int:
    """Tokens of `text`, at four characters each, rounded up: the usual rule of thumb for English."""
    return (len(text) + 3) // 4


def split_arguments(arguments: str) -> list[str]:
    """JSON text as it is streamed."""
    return [arguments[at : at + ARGUMENT_PIECE] for at in range(0, len(arguments), ARGUMENT_PIECE)]
