"""When a budget is renewed: the window that holds a moment; pure.

Minutes and hours are those of UTC. Days and months begin at midnight of the budget's time zone, so that a day may have 23 or 25 hours;
a midnight that the clocks skip is the moment at which they do. Windows of a kind follow each other without a gap.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import lru_cache
from typing import Literal, NamedTuple
from zoneinfo import ZoneInfo

__all__ = ["Window", "window_at", "zone_info"]


class Window(NamedTuple):
    """From `start`, included, to `end`, excluded; seconds since 1970."""

    start: int
    end: int


def window_at(kind: Literal["minute", "hour", "day", "month"], wall: float, zone: str = "UTC") -> Window:
    """The window that `wall` (seconds since 1970) is in.

    Raises:
        zoneinfo.ZoneInfoNotFoundError: There is no such zone; the configuration refuses it before.
    """
    last = _LAST.get((kind, zone))
    if last is not None and last.start <= wall < last.end:
        return last
    window = _LAST[kind, zone] = _window_at(kind, int(wall // 1), zone)
    return window


_LAST: dict[tuple[str, str], Window] = {}
"""The window that was asked for last: a moment is nearly always in it. There are no more than kinds times zones that somebody configured."""


def _window_at(kind: str, moment: int, zone: str) -> Window:
    if kind == "minute" or kind == "hour":
        length = 60 if kind == "minute" else 3600
        start = moment - moment % length
        return Window(start, start + length)
    local = datetime.fromtimestamp(moment, zone_info(zone)).date()
    if kind == "day":
        first, following = local, local + timedelta(days=1)
    else:
        first = local.replace(day=1)
        following = (first + timedelta(days=32)).replace(day=1)
    return Window(_midnight(first, zone), _midnight(following, zone))


@lru_cache(maxsize=64)
def zone_info(name: str) -> tzinfo:
    """The zone of that name. UTC needs no database of zones, which some containers lack."""
    return UTC if name == "UTC" else ZoneInfo(name)


@lru_cache(maxsize=1024)
def _midnight(day: date, zone: str) -> int:
    # Of a midnight that comes twice the first; of one that is skipped, the moment of the jump (`fold=0` does both).
    return int(datetime.combine(day, time(), zone_info(zone)).astimezone(UTC).timestamp())
