"""The envelope of errors."""

from __future__ import annotations

from typing import Any

__all__ = ["envelope"]

_ERROR_TYPES = {
    "invalid_request": "invalid_request_error",
    "unsupported": "invalid_request_error",
    "context_too_long": "invalid_request_error",
    "content_filtered": "invalid_request_error",
    "refusal": "invalid_request_error",
    "unauthorized": "authentication_error",
    "forbidden": "permission_error",
    "model_not_found": "not_found_error",
    "request_too_large": "request_too_large",
    "rate_limited": "rate_limit_error",
    "budget_exceeded": "billing_error",
    "deadline_exceeded": "timeout_error",
    "timeout": "timeout_error",
    "overloaded": "overloaded_error",
    "shutting_down": "overloaded_error",
}
_ERROR_TYPES_BY_STATUS = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def envelope(kind: str, message: str, status: int, request_id: str) -> dict[str, Any]:
    fallback = "invalid_request_error" if 400 <= status < 500 else "api_error"
    word = _ERROR_TYPES.get(kind) or _ERROR_TYPES_BY_STATUS.get(status, fallback)
    return {"type": "error", "error": {"type": word, "message": message}, "request_id": request_id}
