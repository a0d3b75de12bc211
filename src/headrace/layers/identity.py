"""Lets a key do what it may: ask for the routes and models it is allowed. Who the key is was settled before, at the face."""

from __future__ import annotations

from headrace.access import require
from headrace.handler import Handler, Request, Stream

__all__ = ["identity"]


def identity(inner: Handler) -> Handler:
    """Raises `Forbidden` when the request's route or model is not among the key's; a request without a key (the library) may all."""

    async def handle(request: Request) -> Stream:
        require(request.allowed, request.route.name)
        return await inner(request)

    return handle
