"""Lets a key do what it may: ask for the routes and models it is allowed. Who the key is was settled before, at the face."""

from __future__ import annotations

from headrace.access import require
from headrace.handler import Handler, Pending, Request

__all__ = ["identity"]


def identity(inner: Handler) -> Handler:
    """Raises `Forbidden` when the request's route or model is not among the key's; a request without a key (the library) may all."""

    def handle(request: Request) -> Pending:
        require(request.allowed, request.route.name)
        return inner(request)

    return handle
