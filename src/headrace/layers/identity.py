"""Lets a key do what it may: the routes it is allowed to use. Who the key is was settled before, at the face."""

from __future__ import annotations

from headrace.errors import Forbidden
from headrace.handler import Handler, Request, Stream

__all__ = ["identity"]


def identity(inner: Handler) -> Handler:
    """Raises `Forbidden` when the request's route is not among the key's; a request without a key (the library) may all."""

    async def handle(request: Request) -> Stream:
        allowed = request.allowed_routes
        if allowed and request.route.name not in allowed:
            raise Forbidden(f"this key may use {', '.join(sorted(allowed))}, not {request.route.name!r}")
        return await inner(request)

    return handle
