"""Server-sent events: bytes in, events out, no I/O.

Follows the event stream format of the WHATWG HTML standard (section 9.2.6): lines end in LF, CRLF or CR, a blank line
closes an event, a byte order mark may come first. Two differences, both for the sake of a relay: every event keeps its own
bytes, and an event that the end of the stream leaves without its blank line is given out (several providers end so).
"""

from __future__ import annotations

import re

from msgspec import Struct

from headrace.errors import Malformed

__all__ = ["MAX_EVENT_BYTES", "SSEEvent", "SSEParser"]

MAX_EVENT_BYTES = 16 * 1024 * 1024
"""The most bytes of one event. The largest recorded ones (a whole answer repeated in one event) are below 1 MiB."""

_BOM = b"\xef\xbb\xbf"

# A line end and the blank line behind it. `\r\r` closes at once: should a `\n` follow, it is the rest of that line end and
# a blank line at the head of the next event means nothing. `\n\r` must wait for one more byte, since it is the cut of a
# stream of CRLFs far more often than a change of line ends.
_CLOSE = re.compile(rb"\n\n|\r\r|\n\r(?:\n|(?=[^\n]))")
_HEAD = re.compile(rb"[\r\n]*")


class SSEEvent(Struct, frozen=True, gc=False):
    """One event.

    `name` is its `event` field, empty when absent; `data` its data lines joined by LF. `raw` has all of its bytes: stray
    blank lines and comments before it, its lines, the closing blank line. `comment` marks a block without any data line
    (comments, a lone `event:`), which the standard does not dispatch: a sign of life.
    """

    name: str
    data: bytes
    raw: bytes
    comment: bool = False


class SSEParser:
    """Cuts a stream into events; any split of the bytes gives the same events.

    The `raw` of all events together is the stream, but for its very end: the blank line that is missing there, or is one too many.

    Args:
        max_event_bytes: An event longer than this, 1 or more, ends the parsing with `Malformed`.
    """

    __slots__ = ("_at_start", "_broken", "_head", "_max", "_tail")

    def __init__(self, *, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max = max_event_bytes
        self._tail = bytearray()
        self._head = 0  # how many bytes of the tail are blank lines at its head
        self._at_start = True
        self._broken = False

    def feed(self, data: bytes) -> list[SSEEvent]:
        """The events that `data` completes.

        Raises:
            Malformed: An event is too long. Events that were complete before it are returned first; the error is raised
                by the same call when there are none, else by the next one.
        """
        if self._broken:
            raise self._too_long()
        tail = self._tail
        if not tail:
            event = self._one(data)
            return self._cut(data, 0) if event is None else [event]
        seen = len(tail)
        tail += data
        # What was searched before is not searched again: a long event in small pieces costs no more than in one.
        if self._head == seen:
            self._head = _head_end(tail, seen)
        found = _CLOSE.search(tail, max(self._head, seen - 2))
        if found is None:
            if len(tail) > self._max:
                self._broken = True
                tail.clear()
                raise self._too_long()
            return []
        whole = bytes(tail)
        tail.clear()
        return self._cut(whole, found.end())

    def close(self) -> list[SSEEvent]:
        """The stream has ended: the last event, if all that is missing is its blank line, which `raw` has then: a relay may have more
        to say. What has no data is the beginning of something that never came. Raises as `feed` does."""
        if self._broken:
            raise self._too_long()
        block = bytes(self._tail)
        self._tail.clear()
        event = _parse(block.rstrip(b"\r\n") + b"\n\n", self._at_start)
        return [event] if event.data else []

    def _one(self, data: bytes) -> SSEEvent | None:
        """The event when `data` is exactly one of the usual form, as most reads are: one data line, with or without a name."""
        end = len(data) - 2
        if not data.endswith(b"\n\n") or end >= self._max - 1 or b"\r" in data:
            return None
        line = data.find(b"\n")
        if line == end and data.startswith(b"data: "):
            self._at_start = False
            return SSEEvent("", data[6:end], data)
        if (
            data.startswith(b"event: ")
            and data.startswith(b"data: ", line + 1)
            and data.find(b"\n", line + 7) == end
        ):
            self._at_start = False
            return SSEEvent(data[7:line].decode("utf-8", "replace"), data[line + 7 : end], data)
        return None

    def _cut(self, buffer: bytes, end: int) -> list[SSEEvent]:
        """The events in `buffer`; `end` is that of the first one where it is known, else 0. Keeps what is left."""
        events: list[SSEEvent] = []
        find, starts = buffer.find, buffer.startswith
        start, size = 0, len(buffer)
        lf_only = b"\r" not in buffer
        quick = lf_only and size <= self._max
        while start < size:
            if end == 0:
                if quick:
                    # The two forms that make up nearly all traffic: one data line, and a name with one data line.
                    line = find(b"\n", start)
                    if starts(b"data: ", start):
                        if line >= 0 and starts(b"\n", line + 1):
                            events.append(SSEEvent("", buffer[start + 6 : line], buffer[start : line + 2]))
                            start = line + 2
                            continue
                    elif line >= 0 and starts(b"event: ", start) and starts(b"data: ", line + 1):
                        last = find(b"\n", line + 7)
                        if last >= 0 and starts(b"\n", last + 1):
                            name = buffer[start + 7 : line].decode("utf-8", "replace")
                            events.append(SSEEvent(name, buffer[line + 7 : last], buffer[start : last + 2]))
                            start = last + 2
                            continue
                head = _head_end(buffer, start)
                if lf_only:
                    end = find(b"\n\n", head) + 2
                    if end == 1:
                        break
                else:
                    match = _CLOSE.search(buffer, head)
                    if match is None:
                        break
                    end = match.end()
            if end - start > self._max:
                return self._break(events)
            events.append(_parse(buffer[start:end], self._at_start and not events))
            start, end = end, 0
        if events:
            self._at_start = False
        if start < size:
            if size - start > self._max:
                return self._break(events)
            self._tail += buffer[start:]
            self._head = _head_end(self._tail, 0)
        return events

    def _break(self, events: list[SSEEvent]) -> list[SSEEvent]:
        self._broken = True
        if not events:
            raise self._too_long()
        return events

    def _too_long(self) -> Malformed:
        return Malformed(f"a server-sent event is longer than {self._max} bytes")


def _parse(raw: bytes, at_start: bool) -> SSEEvent:
    name = ""
    lines: list[bytes] = []
    for line in (raw.removeprefix(_BOM) if at_start else raw).splitlines():
        field, _, value = line.partition(b":")
        if field == b"data":
            lines.append(value.removeprefix(b" "))
        elif field == b"event":
            name = value.removeprefix(b" ").decode("utf-8", "replace")
    return SSEEvent(name, b"\n".join(lines), raw, not lines)


def _head_end(buffer: bytes | bytearray, at: int) -> int:
    match = _HEAD.match(buffer, at)
    assert match is not None
    return match.end()
