"""Watches logical calls and their attempts: counts them for whoever exports metrics.

Observers are plain callbacks (`Observer`), so that neither this layer nor the library knows an exporter; one that raises is
logged once and never fails a request.
"""

from __future__ import annotations

import logging
from typing import Protocol

from headrace.call import Attempt, Call
from headrace.handler import Handler, Pending, Request

__all__ = ["Observer", "Trace"]

logger = logging.getLogger("headrace.trace")


class Observer(Protocol):
    """Hears of ends; must be quick and must not wait."""

    def call_ended(self, call: Call) -> None: ...

    def attempt_ended(self, call: Call, attempt: Attempt) -> None: ...


class Trace:
    """Tells the observers when a call and each of its attempts end."""

    def __init__(self) -> None:
        self.observers: list[Observer] = []
        self._complained = False

    def __call__(self, inner: Handler) -> Handler:
        def handle(request: Request) -> Pending:
            if self.observers:
                request.call.on_end.append(self._ended)
            return inner(request)

        return handle

    def _ended(self, call: Call) -> None:
        for observer in self.observers:
            try:
                for attempt in call.attempts:
                    observer.attempt_ended(call, attempt)
                observer.call_ended(call)
            except Exception:  # an exporter may be broken in any way; the request is not
                if not self._complained:
                    self._complained = True
                    logger.exception("an observer failed; further failures are not logged")
