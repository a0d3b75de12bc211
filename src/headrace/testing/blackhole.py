"""An address of this machine at which nobody answers, not even to refuse: what a host behind a dropping firewall looks like."""

from __future__ import annotations

import socket
from types import TracebackType
from typing import Self

__all__ = ["Blackhole"]


class Blackhole:
    """A port whose queue of new connections is full, so that the system drops every further attempt; use it with `with`. Linux only:
    other systems may refuse instead.

    Attributes:
        url: `http://127.0.0.1:PORT`, from when it was entered.
    """

    def __init__(self) -> None:
        self.url = ""
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> Self:
        listening = socket.socket()
        self._sockets.append(listening)
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        address = listening.getsockname()
        self.url = f"http://127.0.0.1:{address[1]}"
        # A queue of length 0 takes one connection; more are sent in case the system rounds up.
        for _ in range(4):
            waiting = socket.socket()
            self._sockets.append(waiting)
            waiting.setblocking(False)
            waiting.connect_ex(address)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        for each in self._sockets:
            each.close()
        self._sockets.clear()
