"""The envelope of errors."""

from __future__ import annotations

from typing import Any

__all__ = ["envelope"]

# kind -> (type, code), as OpenAI sends them; `server_error` and no code for the rest. API reference, "Error codes".
_ERRORS: dict[str, tuple[str, str | None]] = {
    "invalid_request": ("invalid_request_error", None),
    "unsupported": ("invalid_request_error", "unsupported_parameter"),
    "model_not_found": ("invalid_request_error", "model_not_found"),
    "unauthorized": ("invalid_request_error", "invalid_api_key"),
    "forbidden": ("invalid_request_error", "permission_denied"),
    "request_too_large": ("invalid_request_error", "request_too_large"),
    "context_too_long": ("invalid_request_error", "context_length_exceeded"),
    "content_filtered": ("invalid_request_error", "content_filter"),
    "request_blocked": ("invalid_request_error", "request_blocked"),
    "answer_blocked": ("server_error", "answer_blocked"),
    "refusal": ("invalid_request_error", "content_filter"),
    "rate_limited": ("requests", "rate_limit_exceeded"),
    "budget_exceeded": ("insufficient_quota", "insufficient_quota"),
    "quota_exhausted": ("insufficient_quota", "insufficient_quota"),
    "overloaded": ("server_error", "server_is_overloaded"),
    "deadline_exceeded": ("server_error", "deadline_exceeded"),
    "timeout": ("server_error", "timeout"),
    "shutting_down": ("server_error", "shutting_down"),
    "stream_broken": ("server_error", "stream_broken"),
    "all_targets_failed": ("server_error", "all_targets_failed"),
}


def envelope(
    kind: str, message: str, status: int, request_id: str, param: str | None = None
) -> dict[str, Any]:
    type_, code = _ERRORS.get(kind, ("server_error" if status >= 500 else "invalid_request_error", None))
    error = {"message": message, "type": type_, "param": param, "code": code, "request_id": request_id}
    return {"error": error}
