"""What a provider's error answer means: any provider, any shape, one typed error.

Four tables decide, and nothing else does; a provider's new error is a new row. In this order:

1. `WORDS`: the words that the answer uses for the error (`code`, `type`, `status`, `reason`, the error-type header, the most
   particular first). The first that stands in the table gives the class.
2. `STATUSES`, then `FAMILIES`: else the HTTP status. Inside a stream, and in the body of a 200, a number that the body
   calls `code` takes the place of the status.
3. `VAGUE_WORDS`: else, only where there is no such status either, the words that say no more than a status would. They come
   last because providers send them with statuses that know better (a 401 of type `api_error`).
4. `MESSAGES`: at last the text may refine that class into another, where the provider tells the two apart in no other way.
   A row applies to one class only, so a text that quotes the caller cannot turn a certain class into something else.

An answer with no status and none of these that still is an error object is `ProviderUnavailable`; bytes that are no error
at all (HTML with a 200, an empty body) are `Malformed`.

The `source` of each row says where it comes from: `recorded` (an exchange with the provider is in the tests' table),
`reported` (quoted in public threads), `docs` (the provider's error reference), `src` (the server's or the SDK's source).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

import msgspec

from headrace.errors import (
    BODY_KEPT,
    ContentFiltered,
    ContextTooLong,
    CredentialsInvalid,
    Malformed,
    ModelFailed,
    ModelNotFound,
    NeverFits,
    ProviderError,
    ProviderOverloaded,
    ProviderRateLimited,
    ProviderRejected,
    ProviderUnavailable,
    QuotaExhausted,
)

__all__ = [
    "FAMILIES",
    "HINT_CAP_S",
    "MESSAGES",
    "MESSAGE_KEPT",
    "STATUSES",
    "VAGUE_WORDS",
    "WORDS",
    "Refinement",
    "Words",
    "read_error",
    "retry_after",
    "scrub",
]

MESSAGE_KEPT = 500
"""Characters of a provider's message that are kept: two lines of a log. Ours."""

SEARCHED = 4_000
"""Characters at the front of a message in which anything is looked for; a provider quotes the caller after it has spoken."""

HINT_CAP_S = 86_400.0
"""The longest wait believed, in seconds; a longer hint is cut to it. No caller waits a day, so for the cascade all such
hints are alike; but who shuts a target out for as long as it asks must not do so for years because a proxy sent an epoch or
milliseconds where seconds belong. Ours."""


class Words(NamedTuple):
    """A row of `WORDS`: these words of a provider (lower case, separated by blanks) mean that class."""

    error: type[ProviderError]
    words: str
    source: str


class Refinement(NamedTuple):
    """A row of `MESSAGES`: an error that would be `of`, with this text (searched, ignoring case), is `error` instead."""

    of: type[ProviderError]
    pattern: str
    error: type[ProviderError]
    source: str


# fmt: off
WORDS: tuple[Words, ...] = (
    Words(ProviderRateLimited, "rate_limit_exceeded slow_down tokens requests", "OpenAI docs; slow_down reported"),
    Words(ProviderRateLimited, "rate_limit_error ramp_limit_exceeded", "Anthropic docs and SDK src"),
    Words(ProviderRateLimited, "resource_exhausted", "Gemini recorded"),
    Words(ProviderRateLimited, "ratelimitreached too_many_requests", "Azure docs"),
    Words(ProviderRateLimited, "throttlingexception toomanyrequestsexception", "Bedrock reported, docs"),
    Words(ProviderRateLimited, "rate_limited", "Mistral docs"),
    Words(ProviderRateLimited, "throttling throttling.ratequota throttling.burstrate limit_requests limit_burst_rate",
          "Alibaba docs"),
    Words(ProviderRateLimited, "rate_limit_reached_error", "Moonshot reported"),

    Words(QuotaExhausted, "insufficient_quota credit_balance_exhausted organization_spend_limit_exceeded"
          " project_spend_limit_exceeded organization_usage_limit_exceeded billing_hard_limit_reached"
          " billing_not_active", "OpenAI recorded (insufficient_quota), docs"),
    Words(QuotaExhausted, "billing_error enforced_spend_limit_reached contract_spend_limit_reached"
          " linked_organization_spend_limit_reached linked_organization_billing_unavailable", "Anthropic SDK src"),
    Words(QuotaExhausted, "servicequotaexceededexception", "Bedrock docs"),
    Words(QuotaExhausted, "arrearage throttling.allocationquota", "Alibaba reported, docs"),
    Words(QuotaExhausted, "exceeded_current_quota_error", "Moonshot reported"),

    Words(ProviderOverloaded, "overloaded_error overloaded", "Anthropic reported"),
    Words(ProviderOverloaded, "server_is_overloaded engine_overloaded engine_overloaded_error",
          "OpenAI docs; Moonshot reported"),
    Words(ProviderOverloaded, "unavailable", "Gemini reported"),
    Words(ProviderOverloaded, "serviceunavailableexception modelnotreadyexception", "Bedrock docs"),
    Words(ProviderOverloaded, "nocapacity", "Azure docs"),
    Words(ProviderOverloaded, "service_tier_capacity_exceeded", "Mistral reported"),

    Words(ProviderUnavailable, "modeltimeoutexception modelerrorexception modelstreamerrorexception"
          " internalserverexception", "Bedrock docs"),
    Words(ProviderUnavailable, "timeout_error", "Anthropic docs"),
    Words(ProviderUnavailable, "cmek_key_unreachable cmek_context_unavailable", "Anthropic SDK src: passes in minutes"),

    Words(CredentialsInvalid, "invalid_api_key wrong_api_key invalid_authentication_error",
          "OpenAI, Cerebras, Groq, Together recorded; Moonshot docs"),
    Words(CredentialsInvalid, "authentication_error permission_error", "Anthropic, DeepSeek recorded"),
    Words(CredentialsInvalid, "organization_on_hold cmek_key_disabled cmek_key_network_blocked"
          " claude_code_key_creator_not_member", "Anthropic SDK src"),
    Words(CredentialsInvalid, "api_key_invalid", "Gemini recorded (ErrorInfo.reason)"),
    Words(CredentialsInvalid, "unauthenticated", "google.rpc docs"),
    Words(CredentialsInvalid, "accessdeniedexception expiredtokenexception unrecognizedclientexception"
          " invalidsignatureexception incompletesignatureexception missingauthenticationtokenexception"
          " invalidclienttokenid", "Bedrock recorded (the first two), docs"),

    Words(ModelNotFound, "model_not_found invalid_model", "OpenAI, Mistral, Perplexity recorded"),
    Words(ModelNotFound, "not_found_error", "Anthropic recorded"),
    Words(ModelNotFound, "deploymentnotfound", "Azure recorded"),
    Words(ModelNotFound, "resourcenotfoundexception", "Bedrock recorded"),

    Words(ContextTooLong, "context_length_exceeded", "OpenAI recorded"),
    Words(ContextTooLong, "exceed_context_size_error", "llama.cpp recorded"),
    Words(ContextTooLong, "too_many_prompt_tokens", "Perplexity reported"),
    Words(NeverFits, "request_too_large request_body_too_large_after_decoding", "Anthropic docs, SDK src"),

    Words(ContentFiltered, "content_filter responsibleaipolicyviolation content_policy_violation moderation_blocked",
          "Azure recorded; OpenAI docs"),
    Words(ContentFiltered, "data_inspection_failed datainspectionfailed", "Alibaba docs"),

    Words(ModelFailed, "tool_use_failed json_validate_failed", "Groq docs, reported"),

    # Words whose status alone would say something else.
    Words(ProviderRejected, "multimodal_not_enabled", "Cerebras recorded, with 403: the key is good"),
    Words(ProviderRejected, "previous_response_not_found", "OpenAI recorded: no model is missing"),
)

STATUSES: dict[int, type[ProviderError]] = {
    401: CredentialsInvalid,
    402: QuotaExhausted,       # DeepSeek, Hugging Face, OpenRouter, Anthropic
    403: CredentialsInvalid,
    404: ModelNotFound,
    405: ModelNotFound,        # the path belongs to something else
    408: ProviderUnavailable,
    409: ProviderUnavailable,  # a lock: the official SDKs retry it too
    410: ModelNotFound,
    413: NeverFits,
    424: ProviderUnavailable,  # Bedrock: the model failed behind the service
    425: ProviderUnavailable,
    429: ProviderRateLimited,
    498: ProviderOverloaded,   # Groq: flex tier without capacity
    499: ProviderUnavailable,  # cancelled between the provider and its model
    529: ProviderOverloaded,   # Anthropic
}
"""The status where no word decides."""

FAMILIES: dict[int, type[ProviderError]] = {
    3: ModelNotFound,          # a redirect is not followed with a key in hand: the path is not here
    4: ProviderRejected,
    5: ProviderUnavailable,
}
"""The first digit of a status that `STATUSES` does not have. Any other is `Malformed`."""

VAGUE_WORDS: tuple[Words, ...] = (
    Words(ProviderRejected, "invalid_request_error invalid_request invalid_parameter_error badrequesterror", "OpenAI,"
          " OpenRouter, Alibaba recorded in streams; vLLM src"),
    Words(ProviderRejected, "invalid_argument failed_precondition out_of_range", "google.rpc docs"),
    Words(ProviderRejected, "validationexception", "Bedrock recorded"),
    Words(ProviderUnavailable, "api_error server_error internal_error internal_server_error internal conflict_error aborted"
          " deadline_exceeded cancelled unknown", "OpenAI, Anthropic, google.rpc docs"),
    Words(CredentialsInvalid, "permission_denied unauthorized", "google.rpc docs"),
    Words(ModelNotFound, "not_found", "google.rpc docs"),
)

MESSAGES: tuple[Refinement, ...] = (
    # More than the account may ever ask for, with the code of a rate limit.
    Refinement(ProviderRateLimited, r"request too large.*limit \d+, requested \d+", NeverFits, "OpenAI recorded; Groq reported"),

    # A quota that no wait within a request brings back, with the status of a rate limit.
    Refinement(ProviderRateLimited, r"PerDay", QuotaExhausted, "Gemini reported (QuotaFailure.violations.quotaId)"),
    Refinement(ProviderRateLimited, r"quota exceeded for metric: \S+, limit: 0\b(?!\.)", QuotaExhausted,
               "Gemini reported: not in the free tier"),
    Refinement(ProviderRateLimited, r"free-models-per-day", QuotaExhausted, "OpenRouter reported"),
    Refinement(ProviderRateLimited, r"used all available credits|monthly spending limit", QuotaExhausted, "xAI reported"),
    Refinement(ProviderRateLimited, r"limited to [\d,]+ API calls / month", QuotaExhausted, "Cohere reported"),
    Refinement(CredentialsInvalid, r"used all available credits|monthly spending limit|run out of credits", QuotaExhausted,
               "xAI reported, with 403"),
    Refinement(ProviderRejected, r"^you have reached your specified API usage limits", QuotaExhausted, "Anthropic reported"),
    Refinement(ProviderRejected, r"credit balance is too low", QuotaExhausted, "Anthropic reported"),

    # Too long, where no code says so.
    Refinement(ProviderRejected, r"maximum context length", ContextTooLong, "DeepSeek recorded; vLLM, OpenRouter, Mistral reported"),
    Refinement(ProviderRejected, r"^prompt is too long", ContextTooLong, "Anthropic reported"),
    Refinement(ProviderRejected, r"input length and .?max_tokens.? exceed context limit", ContextTooLong, "Anthropic reported"),
    Refinement(ProviderRejected, r"input token count \S+ exceeds", ContextTooLong, "Gemini, Vertex recorded"),
    Refinement(ProviderRejected, r"input is too long for requested model", ContextTooLong, "Bedrock reported"),
    Refinement(ProviderRejected, r"maximum prompt length is", ContextTooLong, "xAI reported"),
    Refinement(ProviderRejected, r"^too many tokens", ContextTooLong, "Cohere docs"),
    Refinement(ProviderRejected, r"prompt too long", ContextTooLong, "Ollama src"),
    Refinement(ProviderRejected, r"inputs.? tokens \+ .?max_new_tokens", ContextTooLong, "Hugging Face TGI src"),
    Refinement(ProviderUnavailable, r"context size has been exceeded", ContextTooLong, "llama.cpp recorded, with 500"),

    # A bad key, where the status says "bad request".
    Refinement(ProviderRejected, r"^API key (not valid|expired)", CredentialsInvalid, "Gemini recorded"),
    Refinement(ProviderRejected, r"^incorrect API key", CredentialsInvalid, "xAI recorded"),
    Refinement(ProviderRejected, r"^user location is not supported", CredentialsInvalid, "Gemini reported"),

    # No such model, where the status says something else.
    Refinement(ProviderRejected, r"^model not found|is not a valid model ID|^invalid model ID", ModelNotFound,
               "xAI, OpenRouter, OpenAI recorded"),
    Refinement(ProviderRejected, r"^the supported API model names are|unexpected model name format", ModelNotFound,
               "DeepSeek, Gemini recorded"),
    Refinement(ProviderRejected, r"^the provided model identifier is invalid|^invocation of model ID", ModelNotFound,
               "Bedrock recorded"),
    Refinement(CredentialsInvalid, r"access to the model", ModelNotFound,
               "Bedrock recorded: the key is good for other models"),
    Refinement(ProviderUnavailable, r"^pull model manifest: file does not exist", ModelNotFound, "Ollama recorded, with 500"),

    # Filters.
    Refinement(ProviderRejected, r"^output blocked by content filtering", ContentFiltered, "Anthropic reported"),
    Refinement(ProviderRejected, r"^invalid prompt: your prompt was flagged", ContentFiltered, "OpenAI reported"),
    Refinement(ProviderRejected, r"^content exists risk", ContentFiltered, "DeepSeek reported"),
    Refinement(CredentialsInvalid, r"your input was flagged", ContentFiltered, "OpenRouter docs, with 403"),
    Refinement(CredentialsInvalid, r"^content violates usage guidelines", ContentFiltered, "xAI reported, with 403"),

    # No capacity, with a status that only says "failed".
    Refinement(ProviderUnavailable, r"\boverloaded\b|\bat capacity\b", ProviderOverloaded, "OpenAI, Gemini reported"),

    # The request is at fault though the server says that it is: asking again gives the same.
    Refinement(ProviderUnavailable, r"^(image|audio) input is not supported", ProviderRejected, "llama.cpp recorded, with 500"),
    Refinement(ProviderUnavailable, r"failed to process inputs: image: unknown format", ProviderRejected,
               "Ollama recorded, with 500"),
)

REQUEST_ID_HEADERS = (
    "x-request-id",            # OpenAI, Groq, Azure, most others
    "request-id",              # Anthropic
    "apim-request-id",         # Azure
    "x-amzn-requestid",        # Bedrock
    "mistral-correlation-id",
    "x-debug-trace-id",        # Cohere
    "x-ds-trace-id",           # DeepSeek
)
"""Where the provider's id of the request is, all recorded; the first that is there, else `request_id` of the body, else
`cf-ray`, which whoever stands behind Cloudflare has."""

SECRETS: tuple[tuple[str, str], ...] = (
    # What follows "provided:" is what we sent, whatever it looks like (OpenAI).
    (r'(?i)(\bapi[ _-]?key provided: ?+)(?!\[key\])[^"\n]+?(?=\. |\.?["\n]|\.?$)', r"\1[key]"),
    # A header or a member with a key, echoed.
    (r"(?i)(\bauthorization\\?+['\"]?+\s*+[:=]\s*+\\?+['\"]?+)(?!\[key\])(?:(?:bearer|basic|token)\s+)?[^\s'\"\\,;&]+", r"\1[key]"),
    (r"(?i)(\b(?:x-)?(?:api|access|auth|secret|security|session)[ _-]?(?:key|token)\\?+['\"]?+\s*+[:=]\s*+\\?+['\"]?+)(?!\[key\]|null\b)[^\s'\"\\,;&{}\[\]]+", r"\1[key]"),
    (r"(?i)(\bbearer\s++)(?!\[key\])[\w.~+/*=-]{6,}", r"\1[key]"),
    (r"(?i)([?&]key=)(?!\[key\])[^\s&'\"\\]+", r"\1[key]"),
    # Prefixes of keys: OpenAI, Anthropic, OpenRouter, DeepSeek (sk-), Cerebras, Perplexity, xAI; Groq, Hugging Face,
    # Replicate, Fireworks, NVIDIA; Google; AWS; a JSON web token.
    (r"\b(?:sk|csk|pplx|xai)-[\w*-]{4,}", "[key]"),
    (r"\b(?:gsk|hf|r8|fw|nvapi)[_-][\w*-]{8,}", "[key]"),
    (r"\bAIza[\w*-]{8,}", "[key]"),
    (r"\b(?:AKIA|ASIA)[A-Z0-9*]{8,}[\w*-]*", "[key]"),
    (r"\beyJ[\w-]{8,}(?:\.[\w-]*)*", "[key]"),
)
"""What looks like a key, and what takes its place."""
# fmt: on


def _index(rows: tuple[Words, ...]) -> dict[str, type[ProviderError]]:
    index: dict[str, type[ProviderError]] = {}
    for row in rows:
        for word in row.words.split():
            assert word not in index, f"{word} stands in two rows"
            index[word] = row.error
    return index


_BY_WORD = _index(WORDS)
_BY_VAGUE_WORD = _index(VAGUE_WORDS)
_BY_MESSAGE = tuple(
    (row.of, re.compile(row.pattern, re.IGNORECASE | re.DOTALL), row.error) for row in MESSAGES
)
_SECRETS = tuple((re.compile(pattern), instead) for pattern, instead in SECRETS)


def read_error(
    *, status: int | None, headers: Mapping[str, str], body: bytes, dialect: str, now_wall: float
) -> ProviderError:
    """The typed error that a provider's answer means; pure, never raises.

    Args:
        status: The HTTP status of the answer; None for an error event inside a stream, whose JSON is then `body`.
        headers: Of the answer; names in any case. For an AWS event stream, those of the message.
        body: The whole body, already decompressed.
        dialect: Of `body`; kept on the error, not used to read it: gateways answer in each other's shapes.
        now_wall: Seconds since 1970, for a `retry-after` that is a date.

    The message and the kept body are scrubbed of whatever looks like a key; the message is one line of at most
    `MESSAGE_KEPT` characters. No header value is in it.
    """
    headers = {name.lower(): value for name, value in headers.items()}
    text = body.decode("utf-8", "replace")
    document = _parse(text)
    outer = _object(document)
    error = _error_object(outer)
    words = list(_words(error, outer, headers))
    message = _message(error, outer)
    kind = _classify(status, words, error, outer)
    kind = _refine(kind, "\n".join((message[:SEARCHED], *_quota_ids(error))))
    decisive = (word for word in words if word.lower() in _BY_WORD)
    code = next(decisive, None) or (words[0] if words else None)
    number = _number(error, outer)
    if code is None and number is not None:
        code = str(number)
    return kind(
        _line(message) or _without_message(status, text, outer),
        http=status,
        code=None if code is None else _line(code),
        retry_after_s=retry_after(headers, document, now_wall),
        body=scrub(body[:BODY_KEPT].decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape"),
        dialect=dialect,
        request_id=_request_id(headers, error, outer),
        should_retry={"true": True, "false": False}.get(headers.get("x-should-retry", "").strip().lower()),
    )


def _classify(
    status: int | None, words: list[str], error: dict[str, Any], outer: dict[str, Any]
) -> type[ProviderError]:
    """Steps 1 to 3 of the order above."""
    for word in words:
        if kind := _BY_WORD.get(word.lower()):
            return kind
    if status is None or 200 <= status < 300:
        status = _number(error, outer)
    if status is not None:
        return STATUSES.get(status) or FAMILIES.get(status // 100, Malformed)
    for word in words:
        if kind := _BY_VAGUE_WORD.get(word.lower()):
            return kind
    return ProviderUnavailable if _is_error(outer) else Malformed


def _refine(kind: type[ProviderError], text: str) -> type[ProviderError]:
    """Step 4; one refinement at most."""
    for of, pattern, refined in _BY_MESSAGE:
        if of is kind and pattern.search(text):
            return refined
    return kind


def _parse(text: str) -> Any:
    """The JSON value, or None."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        return None


def _object(document: Any) -> dict[str, Any]:
    """The object that speaks of the error; Gemini without `alt=sse` puts it into an array."""
    for candidate in document if isinstance(document, list) else [document]:
        if isinstance(candidate, dict):
            return candidate
    return {}


def _error_object(outer: dict[str, Any]) -> dict[str, Any]:
    """The innermost object with the message: `error`, `response.error` (Responses), `errors[0]` (Cloudflare), or `outer`
    itself (Bedrock, Mistral, vLLM, Cohere, Cerebras, an `error` that is a text)."""
    response = outer.get("response")
    for candidate in (
        outer.get("error"),
        response.get("error") if isinstance(response, dict) else None,
        _object(outer.get("errors")),
    ):
        if isinstance(candidate, dict) and candidate:
            return candidate
    return outer


def _is_error(outer: dict[str, Any]) -> bool:
    response = outer.get("response")
    return bool(
        outer.get("error")
        or outer.get("errors")
        or (isinstance(response, dict) and response.get("error"))
        or "error" in (outer.get("type"), outer.get("object"))
    )


def _words(error: dict[str, Any], outer: dict[str, Any], headers: Mapping[str, str]) -> Iterator[str]:
    """The words for the error, the most particular first, as the provider spells them."""
    for header in ("x-amzn-errortype", ":exception-type"):
        if header in headers:
            yield from _word(headers[header].partition(":")[0])
    details = error.get("details")
    if isinstance(details, dict):
        yield from _word(details.get("error_code"))
    for detail in _details(error):
        yield from _word(detail.get("reason"))
    for source in (error,) if error is outer else (error, outer):
        for name in ("code", "error_code", "type", "status", "reason"):
            yield from _word(source.get(name))
    for name, member in (("innererror", "code"), ("metadata", "error_type")):
        if isinstance(inner := error.get(name), dict):
            yield from _word(inner.get(member))
    if isinstance(kind := outer.get("__type"), str):
        yield from _word(kind.rpartition("#")[2])
    yield from _word(outer.get("error"))


def _word(value: Any) -> Iterator[str]:
    """`value` if it is a word: a text without blanks that is not a status and not the name of the envelope."""
    if (
        isinstance(value, str)
        and re.fullmatch(r"\S{1,100}", value)
        and not re.fullmatch(r"[1-5]\d\d", value)
        and value not in ("error", "response.failed")
    ):
        yield value


def _number(error: dict[str, Any], outer: dict[str, Any]) -> int | None:
    """The HTTP status that the body itself names, 400 to 599, or None."""
    for value in (error.get("code"), error.get("status"), outer.get("code"), outer.get("status")):
        if isinstance(value, str) and re.fullmatch(r"[45]\d\d", value):
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and 400 <= value <= 599:
            return value
    return None


def _message(error: dict[str, Any], outer: dict[str, Any]) -> str:
    """What the provider says, unscrubbed; empty if it says nothing."""
    message = ""
    for value in (
        error.get("message"),
        error.get("msg"),
        outer.get("error"),
        outer.get("message"),
        outer.get("detail"),
    ):
        if message := _text(value):
            break
    metadata = error.get("metadata")
    raw = _text(metadata.get("raw")) if isinstance(metadata, dict) else ""
    return f"{message}: {raw}" if raw and message else message or raw


def _text(value: Any, depth: int = 4) -> str:
    """The text in `value`: itself, the `message` of an object, or that of each element (FastAPI's `detail`)."""
    if isinstance(value, str):
        return value.strip()
    if depth and isinstance(value, dict):
        return _text(value.get("message") or value.get("msg"), depth - 1)
    if depth and isinstance(value, list):
        return "; ".join(filter(None, (_text(item, depth - 1) for item in value[:5])))
    return ""


def _without_message(status: int | None, text: str, outer: dict[str, Any]) -> str:
    """A message for an answer that has none: the title of a page, the text itself, or what it lacks."""
    said = "an error event" if status is None else f"HTTP {status}"
    text = text.strip()
    if outer:
        return f"{said} without a message"
    if not text:
        return f"{said} with an empty body"
    if text.startswith("<"):
        title = re.search(r"(?is)<title[^>]*>([^<]{1,200})", text[:4096])
        return f"{said} with an HTML page" + (f": {_line(title[1])}" if title else "")
    return f"{said}: {_line(text[: 2 * MESSAGE_KEPT])}"[:MESSAGE_KEPT]


def _quota_ids(error: dict[str, Any]) -> Iterator[str]:
    """`QuotaFailure.violations[].quotaId` of Google's error details."""
    for detail in _details(error):
        violations = detail.get("violations")
        for violation in violations if isinstance(violations, list) else ():
            if isinstance(violation, dict) and isinstance(violation.get("quotaId"), str):
                yield violation["quotaId"]


def _details(error: dict[str, Any]) -> Iterator[dict[str, Any]]:
    details = error.get("details")
    for detail in details if isinstance(details, list) else ():
        if isinstance(detail, dict):
            yield detail


def _request_id(headers: Mapping[str, str], error: dict[str, Any], outer: dict[str, Any]) -> str | None:
    for value in (
        *map(headers.get, REQUEST_ID_HEADERS),
        outer.get("request_id"),
        error.get("request_id"),
        headers.get("cf-ray"),
    ):
        if isinstance(value, str) and (line := _line(value)):
            return line[:200]
    return None


def scrub(text: str) -> str:
    """`text` with `[key]` in the place of everything that looks like a key; scrubbing twice changes nothing."""
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


def _line(text: str) -> str:
    """One printable, scrubbed line of at most `MESSAGE_KEPT` characters."""
    # Scrub a bounded piece, and before the cut: half a key is a key that no pattern knows.
    line = scrub(" ".join(text[:SEARCHED].split()))
    line = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in line)
    return line if len(line) <= MESSAGE_KEPT else line[: MESSAGE_KEPT - 1] + "…"


_DURATION = r"(?:\d+(?:\.\d+)?\s*(?:hours?|minutes?|seconds?|h|m|s|ms)(?![a-z])\s*)+"
_IS_DURATION = re.compile(_DURATION, re.IGNORECASE | re.ASCII)
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|h|m|s)", re.IGNORECASE | re.ASCII)
_UNIT_S = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_TRY_AGAIN = re.compile(rf"\b(?:try again|retry) (?:in|after) ({_DURATION})", re.IGNORECASE | re.ASCII)
_NUMBER = re.compile(r"\d+\.?\d*|\.\d+", re.ASCII)


def retry_after(headers: Mapping[str, str], body_json: Any, now_wall: float) -> float | None:
    """How long an error answer asks to wait, in seconds, from 0.0 to `HINT_CAP_S`; None if it does not say.

    The first of these that makes sense: `retry-after-ms` (Azure sends it beside a rounded `retry-after`), `retry-after` in
    seconds, with a fraction or not, or as an HTTP date still to come, Google's `RetryInfo.retryDelay`, OpenRouter's
    `metadata.retry_after_seconds`, and "try again in 1m30s" in the message. What is negative, past, not finite or not a
    number counts as not said.

    Only error answers are to be asked: Anthropic, Together and Hugging Face send `retry-after` with a 200, where it is
    no reason to stop.

    Args:
        headers: Names in any case.
        body_json: The decoded body, or None.
        now_wall: Seconds since 1970, for a date.
    """
    headers = {name.lower(): value for name, value in headers.items()}
    for wait in _hints(headers, body_json, now_wall):
        if wait is not None and math.isfinite(wait) and wait >= 0:
            return min(wait + 0.0, HINT_CAP_S)
    return None


def _hints(headers: Mapping[str, str], body_json: Any, now_wall: float) -> Iterator[float | None]:
    milliseconds = _float(headers.get("retry-after-ms"))
    yield None if milliseconds is None else milliseconds / 1000
    seconds = headers.get("retry-after")
    yield _float(seconds)
    yield _until(seconds, now_wall)
    outer = _object(body_json)
    error = _error_object(outer)
    for detail in _details(error):
        yield _duration(detail.get("retryDelay"))
    metadata = error.get("metadata")
    if isinstance(metadata, dict):
        yield _float(metadata.get("retry_after_seconds"))
    if said := _TRY_AGAIN.search(_message(error, outer)[:SEARCHED]):
        yield _duration(said[1])


def _float(value: Any) -> float | None:
    """A decimal number, as JSON or as text; none of `1e3`, `1_000` and `nan`, which Python would take."""
    if isinstance(value, str):
        return float(value) if _NUMBER.fullmatch(value := value.strip()) else None
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            return None
    return None


def _until(date: str | None, now_wall: float) -> float | None:
    """Seconds until an HTTP date; None if it is no date."""
    if not date:
        return None
    try:
        return parsedate_to_datetime(date).timestamp() - now_wall
    except (ValueError, OverflowError, TypeError, IndexError, OSError):
        return None


def _duration(value: Any) -> float | None:
    """Seconds of `34.4s`, `644ms`, `1m30s`, `6 seconds`."""
    if not isinstance(value, str) or not _IS_DURATION.fullmatch(value.strip()):
        return None
    return sum(float(amount) * _UNIT_S[unit.lower()] for amount, unit in _PART.findall(value))
