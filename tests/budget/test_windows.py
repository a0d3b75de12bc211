"""Windows follow each other without a gap and turn at the stated second, also where the clocks change."""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.budget.windows import window_at

Kind = Literal["minute", "hour", "day", "month"]
KINDS: tuple[Kind, ...] = ("minute", "hour", "day", "month")
ZONES = sorted(available_timezones())


def at(text: str, zone: str = "UTC") -> int:
    """Seconds since 1970 of a local time (the first, where it comes twice)."""
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp())


@given(
    kind=st.sampled_from(KINDS),
    zone=st.sampled_from(ZONES),
    wall=st.floats(0, 4_102_444_800, allow_nan=False),
)
def test_windows_tile_time(kind: Kind, zone: str, wall: float) -> None:
    """A moment is in its window, the window's last second is too, and the next one begins where it ends."""
    window = window_at(kind, wall, zone)
    assert window.start <= wall < window.end
    assert window_at(kind, window.start, zone) == window
    assert window_at(kind, window.end - 1, zone) == window
    assert window_at(kind, window.end, zone).start == window.end


@pytest.mark.parametrize(
    ("kind", "zone", "wall", "start", "end", "hours"),
    [
        ("day", "Europe/Berlin", "2026-03-29T12:00", "2026-03-29T00:00", "2026-03-30T00:00", 23),
        ("day", "Europe/Berlin", "2026-10-25T12:00", "2026-10-25T00:00", "2026-10-26T00:00", 25),
        # Chile's clocks jump from midnight to one: the day begins at one.
        ("day", "America/Santiago", "2026-09-06T12:00", "2026-09-06T01:00", "2026-09-07T00:00", 23),
        # Samoa had no 30 December 2011.
        ("day", "Pacific/Apia", "2011-12-29T12:00", "2011-12-29T00:00", "2011-12-31T00:00", 24),
        ("month", "Europe/Berlin", "2026-03-31T23:59:59", "2026-03-01T00:00", "2026-04-01T00:00", 743),
        ("month", "UTC", "2028-02-29T23:59:59", "2028-02-01T00:00", "2028-03-01T00:00", 29 * 24),
        ("day", "UTC", "2026-12-31T23:59:59", "2026-12-31T00:00", "2027-01-01T00:00", 24),
        ("hour", "Asia/Kolkata", "2026-01-01T05:45", "2026-01-01T05:30", "2026-01-01T06:30", 1),
    ],
)
def test_a_window_turns_at_the_stated_second(
    kind: Kind, zone: str, wall: str, start: str, end: str, hours: int
) -> None:
    """Midnight of the zone, whatever the clocks do; hours are those of UTC."""
    window = window_at(kind, at(wall, zone), zone)
    assert window == (at(start, zone), at(end, zone))
    assert window.end - window.start == hours * 3600
    assert window_at(kind, window.start - 0.001, zone).end == window.start
