"""How an `Answer` and an error look on the wire in each dialect; pure, and apart from `headrace.dialects` on purpose.

The fake provider is what those are tested against, so it shares no code with them. Shapes are those of recorded traffic of
the real services (2026).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from zlib import crc32

import msgspec

from headrace.testing.answers import Answer, estimate, split_arguments
from headrace.types import Usage

__all__ = ["ANTHROPIC", "EMBEDDINGS", "OPENAI", "Ask", "BadAsk", "Piece", "Trouble", "Voice"]

encode = msgspec.json.encode


@dataclass(frozen=True, slots=True)
class Ask:
    """What of a request decides the form of its answer. `number` counts requests from 1, `created` is a Unix time."""

    number: int
    created: int
    model: str
    stream: bool
    include_usage: bool
    input_tokens: int
    text: str
    inputs: tuple[str, ...] = ()
    dimensions: int = 0


class BadAsk(Exception):
    """The provider would answer 400; `param` is the member at fault."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True, slots=True)
class Piece:
    """One server-sent event. `content`: it carries some of the answer, as `headrace.handler.is_content` means it."""

    data: bytes
    content: bool


@dataclass(frozen=True, slots=True)
class Trouble:
    """An error as a dialect says it: HTTP status, `error.type`, `error.code`, `error.message`, `error.param`."""

    status: int
    type: str
    message: str
    code: str | None = None
    param: str | None = None


class Voice(Protocol):
    """One dialect, as a provider speaks it."""

    name: str
    troubles: Mapping[str, Trouble]

    def ask(self, body: Any, *, number: int, created: int) -> Ask:
        """What was asked. Raises `BadAsk`."""

    def reply(self, answer: Answer, ask: Ask) -> bytes:
        """The body of a buffered answer."""

    def pieces(self, answer: Answer, ask: Ask) -> list[Piece]:
        """The events of a streamed answer, terminator included."""

    def status(self, code: int) -> Trouble:
        """What the service says with the HTTP status `code`."""

    def error(self, trouble: Trouble, request_id: str) -> bytes:
        """The body of an error."""

    def error_event(self, trouble: Trouble, request_id: str) -> bytes:
        """An error inside a stream, as one server-sent event."""

    def garbage(self) -> bytes:
        """A server-sent event whose data is neither JSON nor UTF-8."""

    def models(self, names: list[str], created: int) -> bytes:
        """The body of `GET /v1/models`."""

    def model(self, name: str, created: int) -> bytes:
        """The body of `GET /v1/models/{name}`."""

    def headers(self, request_id: str) -> list[tuple[str, str]]:
        """What every answer carries."""

    def limits(self, used: int) -> list[tuple[str, str]]:
        """Rate-limit headers after `used` requests."""


def _fields(body: Any) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise BadAsk("the body is not a JSON object")
    if not isinstance(body.get("model"), str) or not body["model"]:
        raise BadAsk("you must provide a model parameter", "model")
    if not isinstance(body.get("messages"), list) or not body["messages"]:
        raise BadAsk("messages: at least one message is required", "messages")
    return body


def _texts(content: Any) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    parts: list[str] = []
    for block in content:
        if isinstance(block, dict):
            if isinstance(block.get("text"), str):
                parts.append(block["text"])
            elif "content" in block:
                parts.append(_texts(block["content"]))
    return "\n".join(parts)


def _asked(body: dict[str, Any]) -> tuple[str, int]:
    """The last user text, and an estimate of the input's tokens."""
    messages = [m for m in body["messages"] if isinstance(m, dict)]
    said = [_texts(m.get("content")) for m in messages]
    last = next(
        (text for m, text in zip(reversed(messages), reversed(said), strict=True) if m.get("role") == "user"),
        "",
    )
    tokens = sum(map(estimate, said)) + estimate(_texts(body.get("system"))) + 3 * len(messages)
    if body.get("tools"):
        tokens += estimate(encode(body["tools"]).decode())
    return last, tokens


# --- OpenAI chat completions ------------------------------------------------------------------------------------------


class _OpenAI:
    name = "openai-chat"
    finishes: Mapping[str, str] = {
        "stop_sequence": "stop",
        "refusal": "stop",
        "pause": "stop",
        "context_full": "length",
    }
    statuses: Mapping[int, Trouble] = {
        401: Trouble(401, "invalid_request_error", "Incorrect API key provided.", "invalid_api_key"),
        403: Trouble(
            403,
            "request_forbidden",
            "Country, region, or territory not supported",
            "unsupported_country_region_territory",
        ),
        404: Trouble(
            404, "invalid_request_error", "The requested model does not exist.", "model_not_found", "model"
        ),
        429: Trouble(
            429, "requests", "Rate limit reached for requests. Please slow down.", "rate_limit_exceeded"
        ),
        503: Trouble(
            503,
            "server_error",
            "The server is currently overloaded with other requests.",
            "server_is_overloaded",
        ),
    }
    troubles: Mapping[str, Trouble] = {
        "rate_limited": statuses[429],
        "overloaded": statuses[503],
        "bad_key": statuses[401],
        "no_such_model": statuses[404],
        "quota_gone": Trouble(
            429,
            "insufficient_quota",
            "You exceeded your current quota, please check your plan and billing details.",
            "insufficient_quota",
        ),
        "too_long": Trouble(
            400,
            "invalid_request_error",
            "This model's maximum context length is 8192 tokens. However, your messages resulted in 8227 tokens. "
            "Please reduce the length of the messages.",
            "context_length_exceeded",
            "messages",
        ),
        "filtered": Trouble(
            400,
            "invalid_request_error",
            "The response was filtered due to the prompt triggering the content management policy.",
            "content_filter",
            "prompt",
        ),
        "server_error": Trouble(
            500, "server_error", "The server had an error while processing your request. Sorry about that!"
        ),
    }

    def ask(self, body: Any, *, number: int, created: int) -> Ask:
        fields = _fields(body)
        text, tokens = _asked(fields)
        stream = fields.get("stream") is True
        options = fields.get("stream_options")
        if options is not None and not stream:
            raise BadAsk(
                "The 'stream_options' parameter is only allowed when 'stream' is enabled.", "stream_options"
            )
        usage = isinstance(options, dict) and options.get("include_usage") is True
        return Ask(number, created, fields["model"], stream, usage, tokens, text)

    def _usage(self, usage: Usage) -> dict[str, Any]:
        return {
            "prompt_tokens": usage.input_tokens,
            "completion_tokens": usage.output_tokens,
            "total_tokens": usage.total_tokens,
            "prompt_tokens_details": {"cached_tokens": usage.cache_read_tokens, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": usage.reasoning_tokens,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        }

    def _calls(self, answer: Answer, ask: Ask) -> list[dict[str, Any]]:
        return [
            {
                "id": f"call_fake{ask.number:08d}x{at}",
                "type": "function",
                "function": {"name": name, "arguments": arguments},
            }
            for at, (name, arguments) in enumerate(answer.calls)
        ]

    def reply(self, answer: Answer, ask: Ask) -> bytes:
        message: dict[str, Any] = {"role": "assistant", "content": answer.text or None}
        if not answer.text and not answer.tool_calls and answer.refusal is None:
            message["content"] = ""
        if answer.thinking:
            message["reasoning_content"] = answer.thinking
        if answer.tool_calls:
            message["tool_calls"] = self._calls(answer, ask)
        message["refusal"] = answer.refusal
        message["annotations"] = []
        body = {
            "id": f"chatcmpl-fake{ask.number:08d}",
            "object": "chat.completion",
            "created": ask.created,
            "model": answer.model or ask.model,
            "choices": [
                {
                    "index": 0,
                    "message": message,
                    "logprobs": None,
                    "finish_reason": self.finishes.get(answer.reason, answer.reason),
                }
            ],
            "usage": self._usage(answer.tokens(ask.input_tokens)),
            "service_tier": "default",
            "system_fingerprint": "fp_fake",
        }
        if not answer.report_usage:
            del body["usage"]
        return encode(body)

    def pieces(self, answer: Answer, ask: Ask) -> list[Piece]:
        head = {
            "id": f"chatcmpl-fake{ask.number:08d}",
            "object": "chat.completion.chunk",
            "created": ask.created,
            "model": answer.model or ask.model,
            "service_tier": "default",
            "system_fingerprint": "fp_fake",
        }
        tail: dict[str, Any] = {"usage": None} if ask.include_usage and answer.report_usage else {}

        def chunk(delta: dict[str, Any], finish: str | None = None, *, content: bool = False) -> Piece:
            choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
            return Piece(b"data: " + encode({**head, "choices": [choice], **tail}) + b"\n\n", content)

        first: dict[str, Any] = {"role": "assistant", "content": "", "refusal": None}
        pieces: list[Piece] = []
        if not answer.tool_calls or answer.text or answer.thinking or answer.refusal is not None:
            pieces.append(chunk(first))
            first = {}
        pieces += [chunk({"reasoning_content": text}, content=True) for text in _words(answer.thinking)]
        pieces += [chunk({"content": text}, content=text != "") for text in answer.pieces]
        pieces += [chunk({"refusal": text}, content=True) for text in _words(answer.refusal or "")]
        for index, call in enumerate(self._calls(answer, ask)):
            function = call["function"]
            begun = {"index": index, **call, "function": {"name": function["name"], "arguments": ""}}
            # A bare tool call comes in the very first chunk, with content null.
            opening = {**first, "content": None} if first else {}
            pieces.append(chunk({**opening, "tool_calls": [begun]}, content=True))
            first = {}
            for part in split_arguments(function["arguments"]):
                more = {"index": index, "function": {"arguments": part}}
                pieces.append(chunk({"tool_calls": [more]}, content=True))
        pieces.append(chunk({}, self.finishes.get(answer.reason, answer.reason)))
        if tail:
            usage = self._usage(answer.tokens(ask.input_tokens))
            pieces.append(Piece(b"data: " + encode({**head, "choices": [], "usage": usage}) + b"\n\n", False))
        pieces.append(Piece(b"data: [DONE]\n\n", False))
        return pieces

    def status(self, code: int) -> Trouble:
        if code in self.statuses:
            return self.statuses[code]
        if code >= 500:
            return Trouble(code, "server_error", self.troubles["server_error"].message)
        return Trouble(code, "invalid_request_error", f"The request was rejected ({code}).")

    def error(self, trouble: Trouble, request_id: str) -> bytes:
        return encode(
            {
                "error": {
                    "message": trouble.message,
                    "type": trouble.type,
                    "param": trouble.param,
                    "code": trouble.code,
                }
            }
        )

    def error_event(self, trouble: Trouble, request_id: str) -> bytes:
        return b"data: " + self.error(trouble, request_id) + b"\n\n"

    def garbage(self) -> bytes:
        return b'data: {"id":"chatcmpl-\xff\xfe","choices":[{"delta":{"con\n\n'

    def model(self, name: str, created: int) -> bytes:
        return encode({"id": name, "object": "model", "created": created, "owned_by": "fake"})

    def models(self, names: list[str], created: int) -> bytes:
        data = [msgspec.Raw(self.model(name, created)) for name in names]
        return encode({"object": "list", "data": data})

    def headers(self, request_id: str) -> list[tuple[str, str]]:
        return [
            ("x-request-id", request_id),
            ("openai-version", "2020-10-01"),
            ("openai-processing-ms", "1"),
        ]

    def limits(self, used: int) -> list[tuple[str, str]]:
        return [
            ("x-ratelimit-limit-requests", "15000"),
            ("x-ratelimit-limit-tokens", "40000000"),
            ("x-ratelimit-remaining-requests", str(max(0, 15000 - used))),
            ("x-ratelimit-remaining-tokens", str(max(0, 40_000_000 - 1000 * used))),
            ("x-ratelimit-reset-requests", "4ms"),
            ("x-ratelimit-reset-tokens", "1m30s"),
        ]


class _Embeddings(_OpenAI):
    """OpenAI embeddings: texts with many words in common have vectors that are near."""

    def ask(self, body: Any, *, number: int, created: int) -> Ask:
        if not isinstance(body, dict) or not isinstance(body.get("model"), str):
            raise BadAsk("you must provide a model parameter", "model")
        given = body.get("input")
        inputs = [given] if isinstance(given, str) else given
        if not isinstance(inputs, list) or not inputs:
            raise BadAsk("'input' cannot be empty", "input")
        texts = tuple(one if isinstance(one, str) else encode(one).decode() for one in inputs)
        tokens = sum(map(estimate, texts))
        dimensions = body.get("dimensions") or EMBEDDED
        return Ask(number, created, body["model"], False, False, tokens, texts[-1], texts, dimensions)

    def reply(self, answer: Answer, ask: Ask) -> bytes:
        usage = {"prompt_tokens": ask.input_tokens, "total_tokens": ask.input_tokens}
        data = [
            {"object": "embedding", "index": index, "embedding": embedded(text, ask.dimensions)}
            for index, text in enumerate(ask.inputs)
        ]
        return encode({"object": "list", "data": data, "model": ask.model, "usage": usage})


EMBEDDED = 32
"""Dimensions of a made-up vector."""


def embedded(text: str, dimensions: int = EMBEDDED) -> list[float]:
    """A vector of length 1 made of the text's words, the same in every process."""
    vector = [1e-3] * dimensions
    for word in text.lower().split():
        vector[crc32(word.encode()) % dimensions] += 1.0
    length = sum(one * one for one in vector) ** 0.5
    return [one / length for one in vector]


def _words(text: str) -> list[str]:
    return list(Answer(text).pieces)


# --- Anthropic messages -----------------------------------------------------------------------------------------------


class _Anthropic:
    name = "anthropic"
    finishes: Mapping[str, str] = {
        "stop": "end_turn",
        "length": "max_tokens",
        "tool_calls": "tool_use",
        "content_filter": "refusal",
        "pause": "pause_turn",
        "context_full": "model_context_window_exceeded",
    }
    statuses: Mapping[int, Trouble] = {
        401: Trouble(401, "authentication_error", "invalid x-api-key"),
        402: Trouble(402, "billing_error", "There is an issue with your organization's billing."),
        403: Trouble(
            403, "permission_error", "Your API key does not have permission to use the specified resource."
        ),
        404: Trouble(404, "not_found_error", "Not found"),
        408: Trouble(408, "timeout_error", "Request timed out"),
        413: Trouble(413, "request_too_large", "Request exceeds the maximum size"),
        429: Trouble(429, "rate_limit_error", "This request would exceed your organization's rate limit."),
        504: Trouble(504, "timeout_error", "Request timed out"),
        529: Trouble(529, "overloaded_error", "Overloaded"),
    }
    troubles: Mapping[str, Trouble] = {
        "rate_limited": statuses[429],
        "overloaded": statuses[529],
        "bad_key": statuses[401],
        "no_such_model": Trouble(404, "not_found_error", "model: no such model"),
        "quota_gone": Trouble(
            429,
            "rate_limit_error",
            "You have reached your enforced spend limit.",
            "enforced_spend_limit_reached",
        ),
        "too_long": Trouble(
            400, "invalid_request_error", "prompt is too long: 207791 tokens > 200000 maximum"
        ),
        "filtered": Trouble(400, "invalid_request_error", "Output blocked by content filtering policy"),
        "server_error": Trouble(500, "api_error", "Internal server error"),
    }

    def ask(self, body: Any, *, number: int, created: int) -> Ask:
        fields = _fields(body)
        text, tokens = _asked(fields)
        return Ask(number, created, fields["model"], fields.get("stream") is True, True, tokens, text)

    def _input_usage(self, usage: Usage, output: int) -> dict[str, Any]:
        written, hour = usage.cache_write_tokens, usage.cache_write_1h_tokens
        return {
            "input_tokens": usage.input_tokens - usage.cache_read_tokens - written,
            "cache_creation_input_tokens": written,
            "cache_read_input_tokens": usage.cache_read_tokens,
            "cache_creation": {
                "ephemeral_5m_input_tokens": written - hour,
                "ephemeral_1h_input_tokens": hour,
            },
            "output_tokens": output,
            "service_tier": "standard",
        }

    def _message(self, answer: Answer, ask: Ask, usage: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": f"msg_fake{ask.number:08d}",
            "type": "message",
            "role": "assistant",
            "model": answer.model or ask.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage,
        }

    def _blocks(self, answer: Answer, ask: Ask) -> list[dict[str, Any]]:
        blocks: list[dict[str, Any]] = []
        if answer.thinking or answer.signature is not None:
            signature = f"fake-signature-{ask.number:08d}==" if answer.signature is None else answer.signature
            blocks.append({"type": "thinking", "thinking": answer.thinking, "signature": signature})
        said = answer.text + (answer.refusal or "")
        if said:
            blocks.append({"type": "text", "text": said})
        for at, (name, arguments) in enumerate(answer.calls):
            blocks.append(
                {
                    "type": "tool_use",
                    "id": f"toolu_fake{ask.number:08d}x{at}",
                    "name": name,
                    "input": arguments,
                }
            )
        return blocks

    def reply(self, answer: Answer, ask: Ask) -> bytes:
        usage = answer.tokens(ask.input_tokens)
        message = self._message(answer, ask, self._input_usage(usage, usage.output_tokens))
        blocks = self._blocks(answer, ask)
        for block in blocks:
            if block["type"] == "tool_use":
                block["input"] = _parsed(block["input"])
        message["content"] = blocks
        message["stop_reason"] = self.finishes.get(answer.reason, answer.reason)
        message["stop_sequence"] = answer.stop_sequence
        if not answer.report_usage:
            del message["usage"]
        return encode(message)

    def pieces(self, answer: Answer, ask: Ask) -> list[Piece]:
        usage = answer.tokens(ask.input_tokens)

        def event(kind: str, members: dict[str, Any] | None = None, *, content: bool = False) -> Piece:
            data = encode({"type": kind, **(members or {})})
            return Piece(b"event: " + kind.encode() + b"\ndata: " + data + b"\n\n", content)

        begun = self._message(answer, ask, self._input_usage(usage, 1))
        if not answer.report_usage:
            del begun["usage"]
        pieces = [event("message_start", {"message": begun})]
        ping = [event("ping")]
        for index, block in enumerate(self._blocks(answer, ask)):
            match block["type"]:
                case "thinking":
                    opened: dict[str, Any] = {"type": "thinking", "thinking": "", "signature": ""}
                    deltas = [
                        {"type": "thinking_delta", "thinking": text} for text in _words(answer.thinking)
                    ]
                    deltas.append({"type": "signature_delta", "signature": block["signature"]})
                case "text":
                    opened = {"type": "text", "text": ""}
                    texts = [*answer.pieces, *_words(answer.refusal or "")]
                    deltas = [{"type": "text_delta", "text": text} for text in texts]
                case _:
                    opened = {**block, "input": {}}
                    parts = ["", *split_arguments(block["input"])]
                    deltas = [{"type": "input_json_delta", "partial_json": part} for part in parts]
            tool = block["type"] == "tool_use"
            opening = {"index": index, "content_block": opened}
            pieces.append(event("content_block_start", opening, content=tool))
            pieces += ping
            ping = []
            for delta in deltas:
                grown = any(value for name, value in delta.items() if name != "type")
                pieces.append(event("content_block_delta", {"index": index, "delta": delta}, content=grown))
            pieces.append(event("content_block_stop", {"index": index}))
        stop = {
            "stop_reason": self.finishes.get(answer.reason, answer.reason),
            "stop_sequence": answer.stop_sequence,
        }
        counted = self._input_usage(usage, usage.output_tokens)
        del counted["cache_creation"], counted["service_tier"]
        if usage.reasoning_tokens:
            counted["output_tokens_details"] = {"thinking_tokens": usage.reasoning_tokens}
        last = {"delta": stop, "usage": counted} if answer.report_usage else {"delta": stop}
        pieces.append(event("message_delta", last))
        pieces.append(event("message_stop"))
        return pieces

    def status(self, code: int) -> Trouble:
        if code in self.statuses:
            return self.statuses[code]
        if code >= 500:
            return Trouble(code, "api_error", "Internal server error")
        return Trouble(code, "invalid_request_error", f"The request was rejected ({code}).")

    def error(self, trouble: Trouble, request_id: str) -> bytes:
        error: dict[str, Any] = {"type": trouble.type, "message": trouble.message}
        error["details"] = None if trouble.code is None else {"error_code": trouble.code}
        return encode({"type": "error", "error": error, "request_id": request_id})

    def error_event(self, trouble: Trouble, request_id: str) -> bytes:
        return b"event: error\ndata: " + self.error(trouble, request_id) + b"\n\n"

    def garbage(self) -> bytes:
        return b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"del\xff\xfe\n\n'

    def model(self, name: str, created: int) -> bytes:
        # The service's own form of a time; fakes were all created at the epoch of this API.
        return encode(
            {"type": "model", "id": name, "display_name": name, "created_at": "2026-01-01T00:00:00Z"}
        )

    def models(self, names: list[str], created: int) -> bytes:
        data = [msgspec.Raw(self.model(name, created)) for name in names]
        ends = {"first_id": names[0] if names else None, "last_id": names[-1] if names else None}
        return encode({"data": data, "has_more": False, **ends})

    def headers(self, request_id: str) -> list[tuple[str, str]]:
        return [
            ("request-id", request_id),
            ("anthropic-organization-id", "00000000-0000-4000-8000-000000000000"),
        ]

    def limits(self, used: int) -> list[tuple[str, str]]:
        headers: list[tuple[str, str]] = []
        for name, limit, cost in (
            ("requests", 20_000, 1),
            ("input-tokens", 10_000_000, 1000),
            ("output-tokens", 800_000, 100),
            ("tokens", 10_800_000, 1100),
        ):
            headers += [
                (f"anthropic-ratelimit-{name}-limit", str(limit)),
                (f"anthropic-ratelimit-{name}-remaining", str(max(0, limit - cost * used))),
                (f"anthropic-ratelimit-{name}-reset", "2030-01-01T00:00:00Z"),
            ]
        return headers


def _parsed(arguments: str) -> Any:
    """A buffered tool call has its input parsed; what is no JSON object is wrapped, as the service documents."""
    try:
        value = msgspec.json.decode(arguments or "{}")
    except msgspec.DecodeError:
        return {"INVALID_JSON": arguments}
    return value if isinstance(value, dict) else {"INVALID_JSON": arguments}


OPENAI: Voice = _OpenAI()
EMBEDDINGS: Voice = _Embeddings()
ANTHROPIC: Voice = _Anthropic()
