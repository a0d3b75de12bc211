"""Every error answer that providers were seen to give, and what it means.

Two sets: cases written by hand, of documented shapes, and every error among the recordings, whose expected class stands in
`faults.tsv`. That table was reviewed row by row; a recording that it lacks fails, and the failure prints the row to review.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.dialects import faults
from headrace.dialects.faults import read_error, retry_after, scrub
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

NOW = 1_800_000_000.0
"""2027-01-15 08:00:00 UTC."""


def read(status: int | None, body: Any, headers: Mapping[str, str] | None = None) -> ProviderError:
    """`read_error` for a body given as JSON value, text or bytes."""
    if isinstance(body, str):
        body = body.encode()
    elif not isinstance(body, bytes):
        body = json.dumps(body).encode()
    return read_error(status=status, headers=headers or {}, body=body, dialect="openai-chat", now_wall=NOW)


def openai(message: str, *, code: Any = None, kind: str | None = "invalid_request_error") -> dict[str, Any]:
    """The envelope of OpenAI and of all who copy it."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def anthropic(kind: str, message: str, **details: Any) -> dict[str, Any]:
    """The envelope of Anthropic."""
    error = {"type": kind, "message": message, "details": details or None}
    return {"type": "error", "error": error, "request_id": "req_body"}


def google(code: int, status: str, message: str, *details: dict[str, Any]) -> dict[str, Any]:
    """The envelope of Gemini and Vertex."""
    return {"error": {"code": code, "message": message, "status": status, "details": list(details)}}


def quota(*ids: str) -> dict[str, Any]:
    """`QuotaFailure` of Google's error details."""
    return {
        "@type": "type.googleapis.com/google.rpc.QuotaFailure",
        "violations": [{"quotaMetric": "m", "quotaId": id_} for id_ in ids],
    }


def amazon(kind: str) -> dict[str, str]:
    """The error-type header of Bedrock."""
    return {"x-amzn-ErrorType": f"{kind}:http://internal.amazon.com/coral/com.amazon.bedrock/"}


class Case(NamedTuple):
    """What comes in, and what must come out."""

    name: str
    status: int | None
    body: Any
    error: type[ProviderError]
    code: str | None = None
    wait: float | None = None
    headers: Mapping[str, str] = {}


TOO_LARGE = "Request too large for gpt-4o in organization org-x on tokens per min (TPM): Limit 30000, Requested 34000."
HTML_502 = (
    "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body><center>nginx</center></body></html>"
)

CASES = [
    # Rate limits: wait.
    Case("openai-tpm", 429, openai("Rate limit reached for gpt-4o. Please try again in 644ms.", code="rate_limit_exceeded",
         kind="tokens"), ProviderRateLimited, "rate_limit_exceeded", 0.644),
    Case("openai-rpd", 429, openai("Rate limit reached on requests per day (RPD): Limit 200, Used 200, Requested 1."
         " Please try again in 7m12s.", code="rate_limit_exceeded", kind="requests"), ProviderRateLimited,
         "rate_limit_exceeded", 432.0),
    Case("openai-slow-down", 429, openai("Slow down.", code="slow_down"), ProviderRateLimited, "slow_down", 2.0,
         {"Retry-After": "2"}),
    Case("anthropic", 429, anthropic("rate_limit_error", "This request would exceed your rate limit."),
         ProviderRateLimited, "rate_limit_error", 17.0, {"retry-after": "17", "request-id": "req_1"}),
    Case("anthropic-ramp", 429, anthropic("rate_limit_error", "Too steep.", error_code="ramp_limit_exceeded"),
         ProviderRateLimited, "ramp_limit_exceeded"),
    Case("gemini-minute", 429, google(429, "RESOURCE_EXHAUSTED", "You exceeded your current quota.",
         quota("GenerateRequestsPerMinutePerProjectPerModel-FreeTier"),
         {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34.4s"}),
         ProviderRateLimited, "RESOURCE_EXHAUSTED", 34.4),
    Case("gemini-array", 429, [google(429, "RESOURCE_EXHAUSTED", "Resource exhausted.")], ProviderRateLimited,
         "RESOURCE_EXHAUSTED"),
    Case("bedrock", 429, {"message": "Too many tokens, please wait."}, ProviderRateLimited, "ThrottlingException", None,
         amazon("ThrottlingException")),
    Case("bedrock-json-type", 400, {"__type": "com.amazon.coral#ThrottlingException", "message": "Rate exceeded"},
         ProviderRateLimited, "ThrottlingException"),
    Case("azure", 429, openai("Requests have exceeded the call rate limit. Please retry after 6 seconds.", code="429",
         kind=None), ProviderRateLimited, "429", 6.0),
    Case("azure-two-headers", 429, openai("x", code="RateLimitReached", kind=None), ProviderRateLimited,
         "RateLimitReached", 0.0, {"Retry-After": "1", "Retry-After-Ms": "0"}),
    Case("openrouter", 429, {"error": {"message": "Provider returned error", "code": 429, "metadata": {
         "raw": "m is temporarily rate-limited upstream.", "retry_after_seconds": 2}}}, ProviderRateLimited, "429", 2.0),
    Case("mistral", 429, {"object": "error", "message": "Requests rate limit exceeded", "type": "rate_limited",
         "param": None, "code": "1300"}, ProviderRateLimited, "rate_limited"),
    Case("cohere", 429, {"message": "You are using a Trial key, which is limited to 10 API calls / minute."},
         ProviderRateLimited),
    Case("moonshot", 429, openai("Your account request reached max request: 3, please try again after 1 seconds",
         kind="rate_limit_reached_error"), ProviderRateLimited, "rate_limit_reached_error", 1.0),
    Case("alibaba", 429, openai("Too fast.", code="limit_burst_rate"), ProviderRateLimited, "limit_burst_rate"),
    Case("rate-limit-text", 429, "slow down", ProviderRateLimited),
    Case("rate-limit-empty", 429, b"", ProviderRateLimited),
    # Never fits.
    Case("openai-too-large", 429, openai(TOO_LARGE, code="rate_limit_exceeded", kind="tokens"), NeverFits,
         "rate_limit_exceeded"),
    Case("groq-too-large", 413, openai(TOO_LARGE, code="rate_limit_exceeded", kind="tokens"), NeverFits),
    Case("anthropic-too-large", 413, anthropic("request_too_large", "Request exceeds the maximum size"), NeverFits,
         "request_too_large"),
    Case("proxy-too-large", 413, "<html><title>413 Request Entity Too Large</title></html>", NeverFits),
    # Money gone.
    Case("openai-quota", 429, openai("You exceeded your current quota.", code="insufficient_quota",
         kind="insufficient_quota"), QuotaExhausted, "insufficient_quota"),
    *(Case(f"openai-{code}", 429, openai("Stop.", code=code, kind="billing"), QuotaExhausted, code) for code in (
        "credit_balance_exhausted", "organization_spend_limit_exceeded", "project_spend_limit_exceeded",
        "organization_usage_limit_exceeded")),
    *(Case(f"anthropic-{code}", 429, anthropic("rate_limit_error", "Stop.", error_code=code), QuotaExhausted, code)
      for code in ("enforced_spend_limit_reached", "contract_spend_limit_reached")),
    Case("anthropic-billing", 402, anthropic("billing_error", "Payment required"), QuotaExhausted, "billing_error"),
    Case("anthropic-own-limit", 400, anthropic("invalid_request_error",
         "You have reached your specified API usage limits. You will regain access on 2026-12-01 at 00:00 UTC."),
         QuotaExhausted),
    Case("anthropic-credit", 400, anthropic("invalid_request_error", "Your credit balance is too low to access the API."),
         QuotaExhausted),
    Case("deepseek-402", 402, openai("Insufficient Balance", kind="unknown_error"), QuotaExhausted),
    Case("huggingface-402", 402, {"error": "You have exceeded your monthly included credits."}, QuotaExhausted),
    Case("gemini-402", 402, google(402, "FAILED_PRECONDITION", "Prepaid credits are depleted."), QuotaExhausted),
    Case("gemini-day", 429, google(429, "RESOURCE_EXHAUSTED", "You exceeded your current quota.",
         quota("GenerateContentInputTokensPerModelPerMinute-FreeTier",
               "GenerateRequestsPerDayPerProjectPerModel-FreeTier")), QuotaExhausted),
    Case("gemini-no-free-tier", 429, google(429, "RESOURCE_EXHAUSTED", "Quota exceeded for metric:"
         " generativelanguage.googleapis.com/generate_content_free_tier_requests, limit: 0, model: gemini-3-pro"),
         QuotaExhausted),
    Case("xai-credits", 429, {"code": "Some resource has been exhausted", "error": "Your team t has either used all available"
         " credits or reached its monthly spending limit."}, QuotaExhausted),
    Case("xai-credits-403", 403, {"error": "You have run out of credits or need a Grok subscription."}, QuotaExhausted),
    Case("openrouter-day", 429, {"error": {"message": "Rate limit exceeded: free-models-per-day. Add 10 credits",
         "code": 429}}, QuotaExhausted),
    Case("cohere-month", 429, {"message": "You are using a Trial key, which is limited to 1,000 API calls / month."},
         QuotaExhausted),
    Case("alibaba-arrears", 400, openai("Access denied.", code="Arrearage", kind="Arrearage"), QuotaExhausted, "Arrearage"),
    Case("bedrock-quota", 400, {"message": "Quota"}, QuotaExhausted, "ServiceQuotaExceededException", None,
         amazon("ServiceQuotaExceededException")),
    # Overloaded.
    Case("anthropic-529", 529, anthropic("overloaded_error", "Overloaded"), ProviderOverloaded, "overloaded_error"),
    Case("anthropic-529-bare", 529, b"", ProviderOverloaded),
    Case("anthropic-stream", None, anthropic("overloaded_error", "Overloaded"), ProviderOverloaded, "overloaded_error"),
    Case("openai-503", 503, openai("The server is overloaded.", code="server_is_overloaded"), ProviderOverloaded,
         "server_is_overloaded"),
    Case("openai-503-text", 503, openai("That model is currently overloaded with other requests.", kind="server_error"),
         ProviderOverloaded),
    Case("gemini-503", 503, google(503, "UNAVAILABLE", "The model is overloaded."), ProviderOverloaded, "UNAVAILABLE"),
    Case("bedrock-503", 503, {"message": "Too many connections"}, ProviderOverloaded, "ServiceUnavailableException",
         None, amazon("ServiceUnavailableException")),
    Case("mistral-capacity", 429, {"object": "error", "message": "Service tier capacity exceeded for this model.",
         "type": "service_tier_capacity_exceeded", "code": "3505"}, ProviderOverloaded),
    Case("groq-498", 498, b"", ProviderOverloaded),
    # Unavailable.
    Case("mistral-500", 500, {"object": "error", "message": "Service unavailable.", "type": "internal_server_error",
         "code": "1000"}, ProviderUnavailable, "1000"),
    Case("anthropic-500", 500, anthropic("api_error", "Internal server error"), ProviderUnavailable, "api_error"),
    Case("anthropic-504", 504, anthropic("timeout_error", "Timed out"), ProviderUnavailable, "timeout_error"),
    Case("html-502", 502, HTML_502, ProviderUnavailable),
    Case("html-503", 503, "<html><title>503 Service Temporarily Unavailable</title></html>", ProviderUnavailable),
    Case("html-504", 504, "<html><title>504 Gateway Time-out</title></html>", ProviderUnavailable),
    Case("empty-500", 500, b"", ProviderUnavailable),
    Case("unknown-599", 599, "?", ProviderUnavailable),
    *(Case(f"transient-{status}", status, b"", ProviderUnavailable) for status in (408, 409, 424, 425, 499, 520)),
    Case("text-500", 500, "Internal Server Error", ProviderUnavailable),
    Case("huggingface-loading", 503, {"error": "Model m is currently loading"}, ProviderUnavailable),
    # Too long.
    Case("openai-context", 400, openai("This model's maximum context length is 8192 tokens.",
         code="context_length_exceeded"), ContextTooLong, "context_length_exceeded"),
    Case("anthropic-context", 400, anthropic("invalid_request_error", "prompt is too long: 207791 tokens > 200000 maximum"),
         ContextTooLong),
    Case("anthropic-output", 400, anthropic("invalid_request_error",
         "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000"), ContextTooLong),
    Case("gemini-context", 400, google(400, "INVALID_ARGUMENT",
         "The input token count (134123) exceeds the maximum number of tokens allowed (131072)."), ContextTooLong),
    Case("deepseek-context", 400, openai("This model's maximum context length is 131072 tokens.",
         code="invalid_request_error"), ContextTooLong),
    Case("vllm-context", 400, {"object": "error", "message": "This model's maximum context length is 16384 tokens.",
         "type": "BadRequestError", "param": None, "code": 400}, ContextTooLong),
    Case("llamacpp-context", 400, {"error": {"code": 400, "message": "too big", "type": "exceed_context_size_error"}},
         ContextTooLong),
    Case("llamacpp-context-500", 500, {"error": {"code": 500, "message": "Context size has been exceeded.",
         "type": "server_error"}}, ContextTooLong),
    Case("cohere-context", 400, {"message": "too many tokens: total number of tokens in the prompt cannot exceed 4081"},
         ContextTooLong),
    Case("perplexity-context", 400, {"error": {"message": "x", "type": "too_many_prompt_tokens", "code": 400}},
         ContextTooLong),
    Case("openrouter-context", 400, {"error": {"message": "This endpoint's maximum context length is 131072 tokens.",
         "code": 400}}, ContextTooLong),
    Case("openrouter-raw-context", 400, {"error": {"message": "Provider returned error", "code": 400, "metadata": {
         "raw": '{"error":{"message":"maximum context length is 5"}}'}}}, ContextTooLong),
    Case("ollama-context", 400, {"error": "prompt too long; exceeded max context length by 5 tokens"}, ContextTooLong),
    Case("bedrock-context", 400, {"message": "Input is too long for requested model."}, ContextTooLong,
         "ValidationException", None, amazon("ValidationException")),
    Case("xai-context", 400, {"error": "This model's maximum prompt length is 131072 but the request contains 537812"},
         ContextTooLong),
    Case("tgi-context", 422, {"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096",
         "error_type": "validation"}, ContextTooLong),
    # Filters.
    Case("azure-filter", 400, {"error": {"message": "filtered", "code": "content_filter", "status": 400,
         "innererror": {"code": "ResponsibleAIPolicyViolation"}}}, ContentFiltered, "content_filter"),
    Case("azure-filter-200", 200, {"error": {"message": "filtered", "type": None, "code": "content_filter",
         "status": 400}}, ContentFiltered, "content_filter"),
    Case("anthropic-filter", 400, anthropic("invalid_request_error", "Output blocked by content filtering policy"),
         ContentFiltered),
    Case("openai-flagged", 400, openai("Invalid prompt: your prompt was flagged as potentially violating our usage policy.",
         code="invalid_prompt"), ContentFiltered),
    Case("openrouter-flagged", 403, {"error": {"code": 403, "message": "m requires moderation. Your input was flagged.",
         "metadata": {"reasons": ["violence"]}}}, ContentFiltered),
    Case("xai-filter", 403, {"code": "The caller does not have permission", "error": "Content violates usage guidelines."},
         ContentFiltered),
    Case("deepseek-filter", 400, openai("Content Exists Risk", code="invalid_request_error"), ContentFiltered),
    Case("alibaba-filter", 400, openai("Inappropriate content.", code="data_inspection_failed"), ContentFiltered),
    # Credentials.
    Case("openai-key", 401, openai("Incorrect API key provided: sk-abc***xyz.", code="invalid_api_key"),
         CredentialsInvalid, "invalid_api_key"),
    Case("anthropic-key", 401, anthropic("authentication_error", "invalid x-api-key"), CredentialsInvalid),
    Case("anthropic-403", 403, anthropic("permission_error", "Not allowed"), CredentialsInvalid),
    Case("gemini-key", 400, google(400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.",
         {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}), CredentialsInvalid,
         "API_KEY_INVALID"),
    Case("gemini-key-bare", 400, google(400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key."),
         CredentialsInvalid),
    Case("bedrock-403", 403, {"message": "The security token included in the request is expired"}, CredentialsInvalid,
         "ExpiredTokenException", None, amazon("ExpiredTokenException")),
    Case("xai-key", 400, {"code": "invalid-argument", "error": "Incorrect API key provided."}, CredentialsInvalid),
    Case("perplexity-html", 401, "<html><head><title>401 Authorization Required</title></head></html>",
         CredentialsInvalid),
    Case("deepseek-key", 401, openai("Authentication Fails", code="invalid_request_error", kind="authentication_error"),
         CredentialsInvalid, "authentication_error"),
    Case("ollama-401", 401, openai("Unauthorized", kind="api_error"), CredentialsInvalid),
    Case("mistral-401", 401, {"detail": "Unauthorized"}, CredentialsInvalid),
    Case("cloudflare-403", 403, {"success": False, "errors": [{"code": 10000, "message": "Authentication error"}]},
         CredentialsInvalid),
    # Models and paths.
    Case("openai-model", 404, openai("The model `m` does not exist.", code="model_not_found"), ModelNotFound,
         "model_not_found"),
    Case("openai-model-400", 400, openai("The requested model 'm' does not exist.", code="model_not_found"), ModelNotFound),
    Case("anthropic-model", 404, anthropic("not_found_error", "model: m"), ModelNotFound, "not_found_error"),
    Case("mistral-model", 400, {"object": "error", "message": "Invalid model: m", "type": "invalid_model", "code": "1500"},
         ModelNotFound, "invalid_model"),
    Case("ollama-model", 404, {"error": "model 'm' not found"}, ModelNotFound),
    Case("azure-model", 404, openai("No such deployment.", code="DeploymentNotFound"), ModelNotFound),
    Case("bedrock-model", 400, {"message": "The provided model identifier is invalid."}, ModelNotFound, None, None,
         amazon("ValidationException")),
    Case("bedrock-no-access", 403, {"message": "You don't have access to the model with the specified model ID."},
         ModelNotFound, "AccessDeniedException", None, amazon("AccessDeniedException")),
    Case("html-404", 404, "<html><title>404 Not Found</title></html>", ModelNotFound),
    *(Case(f"path-{status}", status, b"", ModelNotFound) for status in (301, 308, 404, 405, 410)),
    Case("openai-model-id", 400, openai("invalid model ID"), ModelNotFound),
    Case("openrouter-model", 400, {"error": {"message": "bad/model is not a valid model ID", "code": 400}}, ModelNotFound),
    Case("xai-model", 400, {"code": "invalid-argument", "error": "Model not found: grok-x"}, ModelNotFound),
    Case("deepseek-model", 400, openai("The supported API model names are a or b, but you passed c."), ModelNotFound),
    Case("gemini-model", 400, google(400, "INVALID_ARGUMENT", "* GenerateContentRequest.model: unexpected model name format"),
         ModelNotFound),
    Case("bedrock-profile", 400, {"message": "Invocation of model ID m with on-demand throughput isn't supported."},
         ModelNotFound),
    Case("ollama-pull", 500, {"error": "pull model manifest: file does not exist"}, ModelNotFound),
    # Bad requests and failed samples.
    Case("openai-400", 400, openai("Unsupported parameter: 'stop'", code="unsupported_parameter"), ProviderRejected,
         "unsupported_parameter"),
    Case("fastapi-422", 422, {"detail": [{"loc": ["body"], "msg": "Field required"}, {"msg": "Bad"}]}, ProviderRejected),
    Case("cerebras-403", 403, {"message": "Multimodal is not enabled", "code": "multimodal_not_enabled"}, ProviderRejected),
    Case("together-nested", 400, {"error": {"message": {"message": "Invalid JSON data", "code": "json_data_error"},
         "type": "invalid_request_error"}}, ProviderRejected),
    Case("unknown-418", 418, "teapot", ProviderRejected),
    Case("llamacpp-image", 500, {"error": {"code": 500, "message": "image input is not supported - hint: mmproj",
         "type": "server_error"}}, ProviderRejected),
    Case("ollama-image", 500, {"error": "Failed to create new sequence: failed to process inputs: image: unknown format"},
         ProviderRejected),
    Case("gemini-region", 400, google(400, "FAILED_PRECONDITION", "User location is not supported for the API use."),
         CredentialsInvalid),
    Case("groq-tool", 400, openai("Failed to call a function.", code="tool_use_failed"), ModelFailed, "tool_use_failed"),
    Case("groq-json", 400, openai("Failed to generate JSON.", code="json_validate_failed"), ModelFailed),
    # Inside a stream, or with a 200.
    Case("stream-openai", None, openai("Could not finish.", code=None), ProviderRejected, "invalid_request_error"),
    Case("stream-server-error", None, {"type": "error", "code": "server_error", "message": "Oops"}, ProviderUnavailable,
         "server_error"),
    Case("stream-api-error", None, anthropic("api_error", "Oops"), ProviderUnavailable, "api_error"),
    Case("stream-responses-failed", None, {"type": "response.failed", "response": {"status": "failed", "error": {
         "code": "rate_limit_exceeded", "message": TOO_LARGE}}}, NeverFits, "rate_limit_exceeded"),
    Case("stream-openrouter", None, {"id": "gen-1", "choices": [], "error": {"code": 502, "message": "Upstream failed"}},
         ProviderUnavailable, "502"),
    Case("stream-openrouter-429", None, {"error": {"code": 429, "message": "Provider returned error"}},
         ProviderRateLimited, "429"),
    Case("stream-bedrock", None, {"message": "Slow"}, ProviderRateLimited, "throttlingException", None,
         {":exception-type": "throttlingException"}),
    Case("stream-unknown", None, {"error": {"message": "Something"}}, ProviderUnavailable),
    Case("stream-text", None, {"error": "an error was encountered while running the model"}, ProviderUnavailable),
    Case("body-200-400", 200, {"error": {"message": "Provider returned error", "code": 400}}, ProviderRejected, "400"),
    Case("html-200", 200, "<!doctype html><html><title>Welcome</title></html>", Malformed),
    Case("empty-200", 200, b"", Malformed),
    Case("no-error-200", 200, {"hello": "world"}, Malformed),
    Case("cut-200", 200, b'{"id":"chatcmpl-1","choi', Malformed),
    Case("garbage-event", None, b"\xff\xfe", Malformed),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_documented_shape(case: Case) -> None:
    """Each documented shape gives its class, the provider's word for it and the wait that it asks for."""
    error = read(case.status, case.body, case.headers)
    assert type(error) is case.error
    if case.code is not None:
        assert error.code == case.code
    assert error.retry_after_s == (None if case.wait is None else pytest.approx(case.wait))
    assert error.http == case.status
    assert error.dialect == "openai-chat"


def test_names_of_cases_are_unique() -> None:
    """A name that stands twice would hide a case in the report."""
    names = [case.name for case in CASES]
    assert len(names) == len(set(names))


# The tables.


@pytest.mark.parametrize("row", [*faults.WORDS, *faults.VAGUE_WORDS], ids=lambda row: row.words[:30])
def test_each_word_stands_once_in_lower_case(row: faults.Words) -> None:
    """A word in two rows, or in upper case, would never be found."""
    everywhere = [word for other in (*faults.WORDS, *faults.VAGUE_WORDS) for word in other.words.split()]
    for word in row.words.split():
        assert word == word.lower()
        assert everywhere.count(word) == 1
    assert row.source


@pytest.mark.parametrize("row", faults.WORDS, ids=lambda row: row.words[:30])
@pytest.mark.parametrize("status", [400, 401, 404, 413, 429, 500])
def test_a_word_beats_the_status(row: faults.Words, status: int) -> None:
    """Whatever status it comes with, a particular word decides, in any case of letters."""
    for word in row.words.split():
        assert type(read(status, openai("x", code=word.upper()))) is row.error


@pytest.mark.parametrize("row", faults.VAGUE_WORDS, ids=lambda row: row.words[:30])
def test_a_status_beats_a_vague_word(row: faults.Words) -> None:
    """The general words count only where no status is at hand."""
    for word in row.words.split():
        assert type(read(401, openai("x", kind=word))) is CredentialsInvalid
        assert type(read(None, openai("x", kind=word))) is row.error


def test_a_message_refines_its_own_class_only() -> None:
    """A text that quotes the caller ("API key not valid") cannot make a server's failure the credential's."""
    text = "API key not valid. prompt is too long. Request too large: Limit 1, Requested 2"
    assert type(read(500, openai(text))) is ProviderUnavailable
    assert type(read(403, openai(text))) is CredentialsInvalid
    assert type(read(400, openai(text, code="content_filter"))) is ContentFiltered


@pytest.mark.parametrize("row", faults.MESSAGES, ids=lambda row: row.pattern[:30])
def test_each_message_has_a_case(row: faults.Refinement) -> None:
    """No row without an answer that needs it: with the row it is `error`, without its text it is `of`."""
    needing = [
        case
        for case in CASES
        if case.error is row.error and re.search(row.pattern, text_of(case), re.IGNORECASE | re.DOTALL)
    ]
    assert needing
    assert any(
        type(read(case.status, {"error": {"message": "x"}}, case.headers)) is row.of for case in needing
    )


def text_of(case: Case) -> str:
    """What the rows of `MESSAGES` are searched in: the message and the ids of quotas."""
    ids = [] if isinstance(case.body, bytes) else re.findall(r'"quotaId": "([^"]+)"', json.dumps(case.body))
    return "\n".join([read(case.status, case.body, case.headers).message, *ids])


# The wait.

DATE = "Fri, 15 Jan 2027 08:00:30 GMT"


@pytest.mark.parametrize(
    ("headers", "body", "wait"),
    [
        ({"retry-after": "5"}, None, 5.0),
        ({"Retry-After": " 0.25 "}, None, 0.25),
        ({"retry-after": "0"}, None, 0.0),
        ({"retry-after": DATE}, None, 30.0),
        ({"retry-after": "Fri, 15 Jan 2027 07:59:00 GMT"}, None, None),
        ({"retry-after-ms": "644"}, None, 0.644),
        ({"retry-after-ms": "1500", "retry-after": "2"}, None, 1.5),
        ({"retry-after-ms": "0", "retry-after": "1"}, None, 0.0),
        ({"retry-after-ms": "soon", "retry-after": "1"}, None, 1.0),
        ({"retry-after-ms": "-1", "retry-after": "1"}, None, 1.0),
        *(({"retry-after": bad}, None, None) for bad in ("-1", "nan", "inf", "-inf", "1e3", "1_000", "", "soon", "0x10")),
        ({"retry-after": "9" * 400}, None, None),
        ({"retry-after": "1800000000"}, None, faults.HINT_CAP_S),
        ({"retry-after": "86400"}, None, 86_400.0),
        ({}, google(429, "X", "m", {"retryDelay": "34.4s"}), 34.4),
        ({}, [google(429, "X", "m", {"retryDelay": "0s"})], 0.0),
        ({}, google(429, "X", "m", {"retryDelay": "-3s"}), None),
        ({}, google(429, "X", "m", {"retryDelay": 3}), None),
        ({"retry-after": "7"}, google(429, "X", "m", {"retryDelay": "34.4s"}), 7.0),
        ({}, google(429, "X", "Please retry in 48.939935699s.", {"retryDelay": "48s"}), 48.0),
        ({}, google(429, "X", "Please retry in 48.939935699s."), 48.939935699),
        ({}, openai("Please try again in 644ms. Visit"), 0.644),
        ({}, openai("Please try again in 1.5s."), 1.5),
        ({}, openai("Please try again in 1m30s."), 90.0),
        ({}, openai("Please try again in 1h2m3.5s"), 3723.5),
        ({}, openai("Please Try Again In 20 seconds."), 20.0),
        ({}, openai("Please retry after 2 minutes"), 120.0),
        ({}, openai("Please try again in a moment."), None),
        ({}, openai("Please try again in 3 months."), None),
        ({}, openai("Please try again later."), None),
        ({}, {"error": {"metadata": {"retry_after_seconds": 2.5}}}, 2.5),
        ({}, {"error": {"metadata": {"retry_after_seconds": True}}}, None),
        ({}, {"error": {"metadata": {"retry_after_seconds": 10**400}}}, None),
        ({}, None, None),
        ({}, "text", None),
    ],
)  # fmt: skip
def test_retry_after(headers: dict[str, str], body: Any, wait: float | None) -> None:
    """The hint that comes first and makes sense, in seconds."""
    found = retry_after(headers, body, NOW)
    assert found == (None if wait is None else pytest.approx(wait))


@pytest.mark.parametrize(
    "piece", ["eyJ-", "sk-", "api key provided: ", "api_key=", "bearer ", "request too large limit 1", "try again in 1", "["]
)  # fmt: skip
def test_long_answers_take_no_time(piece: str) -> None:
    """No pattern is quadratic: an answer made to be slow (64 KiB of half a match) is read in well under a second."""
    text = piece * (BODY_KEPT // len(piece))
    begin = time.process_time()
    read(429, text)
    read(429, openai(text))
    assert time.process_time() - begin < 0.3


# What is kept of an answer.


@pytest.mark.parametrize(
    ("headers", "body", "id_"),
    [
        ({"X-Request-Id": "req_a", "cf-ray": "ray"}, {}, "req_a"),
        ({"request-id": "req_b"}, anthropic("api_error", "x"), "req_b"),
        ({"cf-ray": "ray"}, anthropic("api_error", "x"), "req_body"),
        ({"apim-request-id": "c"}, {}, "c"),
        ({"x-amzn-RequestId": "d"}, {}, "d"),
        ({"mistral-correlation-id": "e"}, {}, "e"),
        ({"cf-ray": "ray"}, {}, "ray"),
        ({"x-request-id": " "}, {}, None),
        ({}, {"request_id": None}, None),
    ],
)
def test_request_id(headers: dict[str, str], body: Any, id_: str | None) -> None:
    """The provider's id of the request, from the header that it uses, or the body."""
    assert read(500, body, headers).request_id == id_


@pytest.mark.parametrize(
    ("value", "expected"), [("true", True), ("False", False), ("maybe", None), (None, None)]
)
def test_should_retry(value: str | None, expected: bool | None) -> None:
    """`x-should-retry` as Anthropic and OpenAI send it."""
    assert read(500, {}, {} if value is None else {"X-Should-Retry": value}).should_retry is expected


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (500, openai("Oops\r\n  twice"), "Oops twice"),
        (500, {"error": "text"}, "text"),
        (500, {"message": "text"}, "text"),
        (422, {"detail": [{"msg": "one"}, {"msg": "two"}]}, "one; two"),
        (400, {"error": {"message": {"message": "deep"}}}, "deep"),
        (429, {"error": {"message": "Provider returned error", "metadata": {"raw": "why"}}}, "Provider returned error: why"),
        (403, {"errors": [{"message": "first"}]}, "first"),
        (500, "plain text", "HTTP 500: plain text"),
        (500, b"", "HTTP 500 with an empty body"),
        (502, HTML_502, "HTTP 502 with an HTML page: 502 Bad Gateway"),
        (200, "<html>", "HTTP 200 with an HTML page"),
        (500, {"error": {"code": 5}}, "HTTP 500 without a message"),
        (None, {"error": {}}, "an error event without a message"),
        (500, openai("a\x00b\x1b[31m"), "a\ufffdb\ufffd[31m"),
        (500, '{"error":"lone \\ud800 surrogate"}', None),
    ],
)  # fmt: skip
def test_message(status: int | None, body: Any, message: str | None) -> None:
    """One printable line that says what the provider said, or what its answer lacks."""
    error = read(status, body)
    assert message is None or error.message == message
    assert error.message.encode()


def test_a_long_message_is_cut() -> None:
    """A provider that quotes the whole prompt does not fill the log."""
    error = read(400, openai("word " * 10_000))
    assert len(error.message) == faults.MESSAGE_KEPT and error.message.endswith("…")


KEYS = [
    "sk-proj-abcdefghijklmnop", "sk-ant-api03-AAAAbbbbCCCC_-dddd", "sk-abc***xyz", "gsk_abcdefghijklmnop123",
    "xai-abcdefghijkl", "AIzaSyA1234567890abcdef", "hf_abcdefghijklmnop", "pplx-abcdefghijkl", "csk-abcdefgh",
    "AKIAIOSFODNN7EXAMPLE", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
]  # fmt: skip


@pytest.mark.parametrize("key", KEYS)
def test_nothing_kept_has_a_key_in_it(key: str) -> None:
    """A key is scrubbed wherever a provider echoes it: message, code, id, text, body."""
    for body in (
        openai(f"Incorrect API key provided: {key}. You can find it in your account."),
        openai(f"Bad header Authorization: Bearer {key}"),
        openai("x", code=key),
        {"error": f"key {key} is not known", "request_id": key},
        f"no such key {key}",
        f"<html><title>{key}</title>",
    ):
        error = read(401, body, {"x-request-id": key})
        kept = f"{error} {error!r} {error.code} {error.request_id} {error.body!r}"
        assert key not in kept
        assert "[key]" in kept


@pytest.mark.parametrize(
    ("text", "scrubbed"),
    [
        ("Incorrect API key provided: bad apiKey. You can", "Incorrect API key provided: [key]. You can"),
        ("Incorrect API key provided: x", "Incorrect API key provided: [key]"),
        ('"Incorrect API key provided: <a****b>"', '"Incorrect API key provided: [key]"'),
        ("Your api key: ****iKey is invalid", "Your api key: [key] is invalid"),
        ("x-api-key: abc123", "x-api-key: [key]"),
        ('{"api_key": "abc", "n": 1}', '{"api_key": "[key]", "n": 1}'),
        ('{"api_key":null}', '{"api_key":null}'),
        ("Authorization: Basic dXNlcjpwYXNz", "Authorization: [key]"),
        ("GET /v1/models?key=abc&alt=sse", "GET /v1/models?key=[key]&alt=sse"),
        ("bearer abcdef123456", "bearer [key]"),
        # What is no key stays.
        ("Invalid API key provided. You can find", "Invalid API key provided. You can find"),
        ("invalid x-api-key", "invalid x-api-key"),
        ('"param":"api_key","code":"wrong_api_key"', '"param":"api_key","code":"wrong_api_key"'),
        ("Limit 30000, Used 28039; max_tokens: 5; tokens: 7", "Limit 30000, Used 28039; max_tokens: 5; tokens: 7"),
        ("The security token included in the request is expired", "The security token included in the request is expired"),
        ("Missing bearer token", "Missing bearer token"),
        ("task-1234567 risk-assessment", "task-1234567 risk-assessment"),
    ],
)  # fmt: skip
def test_scrub(text: str, scrubbed: str) -> None:
    """What looks like a key goes, what does not stays, and once is enough."""
    assert scrub(text) == scrubbed
    assert scrub(scrubbed) == scrubbed


def test_no_header_value_is_in_the_message() -> None:
    """Headers carry organisation ids, cookies and more."""
    headers = dict.fromkeys(
        ("set-cookie", "openai-organization", "x-request-id", "retry-after", "date"), "canary-value"
    )
    for body in (b"", b"<html>", b"text", b"{}", json.dumps(openai("Oops")).encode()):
        assert "canary" not in read(500, body, headers).message


def test_an_innocent_body_is_kept_as_it_is() -> None:
    """Scrubbing touches keys only, also in bytes that are not UTF-8; a long body is cut."""
    for body in (b'{"error": {"message": "caf\xc3\xa9"}}', b"\xff\x00\xfe", HTML_502.encode()):
        assert read(500, body).body == body
    assert len(read(500, b"a" * (BODY_KEPT + 9)).body) == BODY_KEPT


# Whatever comes.

NAMES = st.sampled_from(
    ["error", "code", "message", "msg", "type", "status", "details", "metadata", "raw", "response", "errors", "detail",
     "reason", "retryDelay", "violations", "quotaId", "innererror", "error_code", "__type", "request_id", "object",
     "retry_after_seconds", "error_type"]
)  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30)
    | st.sampled_from(["34.4s", "429", "error", "rate_limit_error", "try again in 1s", "invalid_request_error"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=5),
    max_leaves=25,
)  # fmt: skip
BODIES = (
    st.binary(max_size=200) | VALUES.map(lambda value: json.dumps(value).encode()) | st.just(b"[" * 100_000)
)
HEADERS = st.dictionaries(
    st.sampled_from(
        ["retry-after", "Retry-After-Ms", "x-request-id", "x-should-retry", "x-amzn-errortype", "cf-ray"]
    )
    | st.text(max_size=8),
    st.text(max_size=30) | st.floats().map(str) | st.integers().map(str) | st.just(DATE),
    max_size=4,
)


@given(status=st.none() | st.integers(0, 999) | st.integers(), headers=HEADERS, body=BODIES)
def test_anything_gives_a_typed_error(status: int | None, headers: dict[str, str], body: bytes) -> None:
    """No bytes, status or headers make the reader raise, and what it gives is always fit for a log."""
    error = read(status, body, headers)
    assert isinstance(error, ProviderError)
    assert type(error).__name__ in {"Malformed", "ModelFailed"} or type(error).__mro__[2] is ProviderError
    assert 0 < len(error.message) <= faults.MESSAGE_KEPT
    assert error.message.isprintable() and error.message.encode()
    assert error.retry_after_s is None or 0.0 <= error.retry_after_s <= faults.HINT_CAP_S
    assert len(error.body) <= BODY_KEPT
    assert error.http == status


@given(
    st.text()
    | st.lists(
        st.sampled_from(
            [*KEYS, "api key provided: ", "x-api-key: ", "Authorization: ", "Bearer ", ". ", '"', " "]
        )
    ).map("".join)
)
def test_scrubbing_is_idempotent(text: str) -> None:
    """A scrubbed text has nothing left to scrub."""
    once = scrub(text)
    assert scrub(once) == once


# The recordings.

TABLE = Path(__file__).parent / "faults.tsv"


class Expected(NamedTuple):
    """A row of `faults.tsv`. `hash` names provider, status, error-type header and body; `status` is a number or `event` for an
    error inside a stream; `code` and `wait` may be empty; `says` is for whoever reads the table."""

    hash: str
    error: str
    provider: str
    status: str
    code: str
    wait: str
    says: str


def load_table() -> dict[str, Expected]:
    """The rows by hash."""
    lines = TABLE.read_text("utf-8").splitlines()[1:]
    rows = [Expected(*line.split("\t")) for line in lines]
    assert len({row.hash for row in rows}) == len(rows)
    return {row.hash: row for row in rows}


def tabs(row: Expected | None) -> str:
    """The row as it stands in the table."""
    return "(not in the table)" if row is None else "\t".join(row)


class Seen(NamedTuple):
    """An error among the recordings."""

    where: str
    provider: str
    status: int | None
    headers: dict[str, str]
    body: bytes

    def expected(self) -> Expected:
        """The row that the present code would give."""
        error = read(self.status, self.body, self.headers)
        status = "event" if self.status is None else str(self.status)
        kind = self.headers.get("x-amzn-errortype", "")
        digest = hashlib.sha256(
            b"\0".join((self.provider.encode(), status.encode(), kind.encode(), self.body))
        )
        wait = "" if error.retry_after_s is None else f"{error.retry_after_s:g}"
        says = " ".join(error.message.split()[:6])
        return Expected(
            digest.hexdigest()[:12], type(error).__name__, self.provider, status, error.code or "", wait, says
        )


def events(body: bytes) -> Iterator[bytes]:
    """The JSON of the error events of a stream: server-sent events or one object a line."""
    for line in re.split(rb"[\r\n]+", body):
        data = line.removeprefix(b"data:").strip()
        if not data.startswith(b"{"):
            continue
        try:
            value = json.loads(data)
        except ValueError:
            continue
        response = value.get("response")
        if (
            value.get("error")
            or value.get("type") in ("error", "response.failed")
            or (isinstance(response, dict) and response.get("error"))
        ):
            yield data


def errors_of(recording: Any) -> Iterator[Seen]:
    """The errors that a recorded exchange carries: its answer, or events of its stream, or an object in a good body."""
    headers = {name.lower(): value for name, value in recording.headers}

    def seen(status: int | None, body: bytes) -> Seen:
        return Seen(recording.source, recording.provider, status, headers, body)

    if recording.status >= 400:
        yield seen(recording.status, recording.body)
    elif recording.stream:
        for event in events(recording.body):
            yield seen(None, event)
    elif recording.body.lstrip().startswith(b"{"):
        try:
            value = json.loads(recording.body)
        except ValueError:
            return
        if value.get("error"):
            yield seen(recording.status, recording.body)


def test_every_recorded_error_is_what_the_table_says(recordings: list[Any]) -> None:
    """All error answers, error events and error objects of the recordings have the class, code and wait of the table."""
    table = load_table()
    found = [seen for recording in recordings for seen in errors_of(recording)]
    assert sum(seen.status is not None and seen.status >= 400 for seen in found) >= 270
    assert sum(seen.status is None for seen in found) >= 6
    assert sum(seen.status == 200 for seen in found) >= 5
    wrong = []
    for seen in found:
        row = seen.expected()
        if table.get(row.hash) != row:
            wrong += [seen.where, f"  is        {tabs(row)}", f"  should be {tabs(table.get(row.hash))}"]
    assert not wrong, "\n".join(wrong)
    stale = table.keys() - {seen.expected().hash for seen in found}
    assert not stale, f"rows without a recording: {stale}"


def test_no_recorded_error_leaks_a_key_or_breaks_a_line(recordings: list[Any]) -> None:
    """What is kept of each recorded error has nothing left to scrub and fits on a line of a log."""
    for recording in recordings:
        for seen in errors_of(recording):
            error = read(seen.status, seen.body, seen.headers)
            assert scrub(error.message) == error.message
            assert error.message.isprintable() and len(error.message) <= faults.MESSAGE_KEPT
            if b"provided:" not in seen.body and b"api key:" not in seen.body:
                assert error.body == seen.body[:BODY_KEPT]
