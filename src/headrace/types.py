"""The values that cross the house: what is asked, what is answered, and what happened on the way.

A superset of the dialects: every block, parameter and event of each of them has a place here, and what has none travels
as raw JSON marked with its dialect (`Details`, `Opaque`), to be written back only in that dialect. All values are frozen;
whoever changes one makes another with `msgspec.structs.replace`. The two exceptions, `Call` and `Attempt`, are the records
that layers write into while a request is on its way; they are defined in `headrace.call`.

Nothing here does I/O and nothing here knows a provider.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

import msgspec
from msgspec import Struct

__all__ = [
    "Batch",
    "Block",
    "BlockStart",
    "BlockStop",
    "Budget",
    "CacheHint",
    "Chat",
    "Complete",
    "Delta",
    "Deployment",
    "Details",
    "Document",
    "End",
    "Event",
    "Finish",
    "FinishReason",
    "Frame",
    "Image",
    "Limits",
    "Message",
    "Opaque",
    "OpaqueEvent",
    "Ping",
    "Reasoning",
    "Refusal",
    "Reply",
    "ResponseFormat",
    "Restart",
    "Role",
    "Start",
    "Target",
    "Text",
    "Thinking",
    "Tool",
    "ToolCall",
    "ToolChoice",
    "ToolResult",
    "Usage",
    "UsageReport",
]

DialectName: TypeAlias = str
"""`openai-chat` or `anthropic`."""

Role = Literal["system", "developer", "user", "assistant", "tool"]
FinishReason = Literal[
    "stop",
    "length",
    "tool_calls",
    "stop_sequence",
    "content_filter",
    "refusal",
    "pause",
    "context_full",
    "other",
]
"""Why the model stopped. `refusal` and `content_filter` are answers that a route may treat as failures."""


class Details(Struct, frozen=True):
    """Members that only one dialect knows, kept verbatim: name to raw JSON text.

    Written back unchanged when the same dialect is encoded; named in a warning when another one is. `spelled` says how the
    dialect wrote a typed member that it can write in more than one way (`max_tokens`: `max_completion_tokens`); nothing is
    lost with it, so nothing warns.
    """

    dialect: DialectName
    members: dict[str, msgspec.Raw]
    spelled: dict[str, str] = {}


class CacheHint(Struct, frozen=True):
    """A prompt-cache breakpoint after the block that carries it (`cache_control` of Anthropic). `ttl`: `5m` or `1h`."""

    ttl: str | None = None


class Text(Struct, frozen=True, kw_only=True):
    """Plain text."""

    text: str
    cache: CacheHint | None = None
    provider_details: Details | None = None


class Image(Struct, frozen=True, kw_only=True):
    """An image: exactly one of `data` (base64 text), `url`, `file_id`."""

    media_type: str | None = None
    data: str | None = None
    url: str | None = None
    file_id: str | None = None
    detail: str | None = None
    cache: CacheHint | None = None
    provider_details: Details | None = None


class Document(Struct, frozen=True, kw_only=True):
    """A document, such as a PDF: exactly one of `data` (base64 text), `url`, `file_id`, `text`."""

    media_type: str | None = None
    data: str | None = None
    url: str | None = None
    file_id: str | None = None
    text: str | None = None
    name: str | None = None
    cache: CacheHint | None = None
    provider_details: Details | None = None


class ToolCall(Struct, frozen=True, kw_only=True):
    """The model asks for a function. `arguments` is JSON text exactly as the model wrote it, valid or not."""

    id: str
    name: str
    arguments: str
    cache: CacheHint | None = None
    provider_details: Details | None = None


class ToolResult(Struct, frozen=True, kw_only=True):
    """What a function answered to the call with `call_id`."""

    call_id: str
    content: tuple[Block, ...] = ()
    is_error: bool = False
    cache: CacheHint | None = None
    provider_details: Details | None = None


class Thinking(Struct, frozen=True, kw_only=True):
    """Reasoning. With a `signature` it must travel byte-identical; `redacted` is the encrypted form without text."""

    text: str = ""
    signature: str | None = None
    redacted: str | None = None
    provider_details: Details | None = None


class Refusal(Struct, frozen=True, kw_only=True):
    """The model's own words for why it will not answer."""

    text: str
    provider_details: Details | None = None


class Opaque(Struct, frozen=True, kw_only=True):
    """A block that only `dialect` knows, as raw JSON: server tools, citations documents, audio, and what is yet to come."""

    dialect: DialectName
    kind: str
    raw: msgspec.Raw


Block: TypeAlias = Text | Image | Document | ToolCall | ToolResult | Thinking | Refusal | Opaque


class Message(Struct, frozen=True, kw_only=True):
    """One turn: ordered blocks by one role. A `tool` message holds `ToolResult` blocks only."""

    role: Role
    content: tuple[Block, ...]
    name: str | None = None
    provider_details: Details | None = None


class Tool(Struct, frozen=True, kw_only=True):
    """A function that the model may call. `parameters` is a JSON Schema as raw JSON.

    A tool that the provider itself runs (web search, code execution) has `opaque` set and nothing else but its name.
    """

    name: str
    description: str | None = None
    parameters: msgspec.Raw | None = None
    strict: bool | None = None
    cache: CacheHint | None = None
    opaque: Opaque | None = None
    provider_details: Details | None = None


class ToolChoice(Struct, frozen=True, kw_only=True):
    """`auto`, `none`, `required` (some tool), or `tool` (the one called `name`)."""

    mode: Literal["auto", "none", "required", "tool"]
    name: str | None = None


class ResponseFormat(Struct, frozen=True, kw_only=True):
    """The form the answer must have; `schema` is a JSON Schema as raw JSON for `json_schema`."""

    kind: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    schema: msgspec.Raw | None = None
    strict: bool | None = None
    description: str | None = None


class Reasoning(Struct, frozen=True, kw_only=True):
    """How much to think: an `effort` word, or a budget in tokens; `enabled=False` turns it off where that can be said."""

    enabled: bool = True
    effort: str | None = None
    budget_tokens: int | None = None


class Chat(Struct, frozen=True, kw_only=True):
    """A request, whatever its dialect. System text is a message of role `system`, in its place in the order."""

    model: str
    messages: tuple[Message, ...]
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    n: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    reasoning: Reasoning | None = None
    user: str | None = None
    stream: bool = False
    include_usage: bool = False
    provider_details: Details | None = None


class Usage(Struct, frozen=True, kw_only=True):
    """Tokens of one answer.

    `input_tokens` counts all of the input, cached or not; `cache_read_tokens` and `cache_write_tokens` are the parts of it
    that were read from or written to the provider's prompt cache (`cache_write_1h_tokens` the part of the writes kept for an
    hour). `output_tokens` counts all of the output; `reasoning_tokens` is the part of it that was thinking,
    `image_tokens` the part that was images.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    reasoning_tokens: int = 0
    image_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Input and output together."""
        return self.input_tokens + self.output_tokens


class Reply(Struct, frozen=True, kw_only=True):
    """A whole answer. `finish_raw` is the provider's own word for `finish`; `created` is in seconds since 1970."""

    id: str = ""
    model: str = ""
    content: tuple[Block, ...] = ()
    finish: FinishReason = "stop"
    finish_raw: str | None = None
    stop_sequence: str | None = None
    usage: Usage | None = None
    created: int | None = None
    provider_details: Details | None = None

    @property
    def text(self) -> str:
        """The text blocks, joined."""
        return "".join(block.text for block in self.content if isinstance(block, Text))

    @property
    def thinking(self) -> str:
        """The thinking blocks, joined."""
        return "".join(block.text for block in self.content if isinstance(block, Thinking))

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The calls, in order."""
        return tuple(block for block in self.content if isinstance(block, ToolCall))


# --- events -----------------------------------------------------------------------------------------------------------


class Start(Struct, frozen=True):
    """The provider has begun an answer. Not content."""

    id: str
    model: str
    created: int | None = None


class BlockStart(Struct, frozen=True):
    """Block `index` begins; `block` has what is known already (a tool call's id and name), its text still empty.

    Indices are consecutive from 0 in the order of the answer's content.
    """

    index: int
    block: Block


class Delta(Struct, frozen=True):
    """A piece of block `index`. `kind` says which member grows; for `opaque`, `text` is raw JSON of the dialect's delta."""

    index: int
    kind: Literal["text", "arguments", "thinking", "signature", "refusal", "opaque"]
    text: str


class BlockStop(Struct, frozen=True):
    """Block `index` is complete. `provider_details` replaces the block's where some of it came after its start (citations)."""

    index: int
    provider_details: Details | None = None


class Finish(Struct, frozen=True):
    """The model has stopped; usage may still follow."""

    reason: FinishReason
    raw: str | None = None
    stop_sequence: str | None = None


class UsageReport(Struct, frozen=True):
    """The usage so far; each report replaces the one before."""

    usage: Usage


class Ping(Struct, frozen=True):
    """A sign of life. Not content."""


class OpaqueEvent(Struct, frozen=True):
    """Something only `dialect` knows; its bytes are on the frame that carries it."""

    dialect: DialectName
    kind: str


class End(Struct, frozen=True):
    """The dialect's terminal marker (`[DONE]`, `message_stop`). After it nothing comes."""


class Complete(Struct, frozen=True):
    """A whole answer at once: what a buffered call yields instead of the events above."""

    reply: Reply


class Restart(Struct, frozen=True):
    """What came before is void: that answer broke off for `cause` (an error's kind), and `target` begins another one. Only where a
    route says `mid_stream = "restart"`."""

    target: str
    cause: str


Event: TypeAlias = (
    Start
    | BlockStart
    | Delta
    | BlockStop
    | Finish
    | UsageReport
    | Ping
    | OpaqueEvent
    | End
    | Complete
    | Restart
)


class Frame(Struct, frozen=True):
    """The events of one unit on the wire, and that unit's bytes when it came from a wire (`dialect` says which).

    A unit is one server-sent event with its closing blank line, or the body of a buffered answer. `hidden` marks a frame
    that the caller did not ask for (the usage chunk that we asked for): layers see it, the caller's bytes leave it out.
    """

    events: tuple[Event, ...]
    raw: bytes | None = None
    dialect: DialectName = ""
    hidden: bool = False


Batch: TypeAlias = list[Frame]
"""What crosses the layers: the frames of one read from the socket, never empty."""


class Target(Struct, frozen=True):
    """One level of a cascade: a provider's model and how often it may be tried (1 or more)."""

    provider: str
    model: str
    attempts: int = 1

    def __str__(self) -> str:
        return f"{self.provider}/{self.model}"


class Deployment(Struct, frozen=True, kw_only=True):
    """One place where a target is to be had: another key, account, region or server.

    Attributes:
        quota_domain: The account whose limits and money it shares with others of that name.
        weight: Its share of new conversations, above 0, in relation to the others of its target.
        concurrency: Requests at a time in one process, 0 for any number; `queue` is how many may wait then, None for as many again.
    """

    name: str
    provider: str
    model: str
    quota_domain: str
    weight: float = 1.0
    concurrency: int = 0
    queue: int | None = None


class Budget(Struct, frozen=True, kw_only=True):
    """How much may be spent in a window, by whoever it is declared for.

    `amount` is nano-dollars for the unit `usd`, input and output together for `tokens`. A hard budget is never overdrawn; a soft
    one only warns. `downgrade`: what does not fit goes on to the next target instead of being refused. Days and months
    begin at midnight in `zone` (an IANA name); minutes and hours are those of UTC.
    """

    unit: Literal["usd", "tokens"]
    amount: int
    window: Literal["minute", "hour", "day", "month"]
    hard: bool = True
    downgrade: bool = False
    zone: str = "UTC"


class Limits(Struct, frozen=True, kw_only=True):
    """How fast somebody may ask: requests (`rpm`) and tokens of input and output together (`tpm`) a minute, each 1 or more, None for no
    limit. What a minute holds may come at once and is renewed evenly."""

    rpm: int | None = None
    tpm: int | None = None


Headers: TypeAlias = tuple[tuple[str, str], ...]
"""Names in lower case, in order, repeated where they were repeated."""

Tags: TypeAlias = Mapping[str, str]
