"""What tests need: time that stands still, a provider that fails on demand, and a handler that plays a script.

See `docs/testing.md`.
"""

from __future__ import annotations

from headrace.testing.answers import (
    Answer,
)
from headrace.testing.clock import (
    ManualClock,
    Stuck,
    run,
)
from headrace.testing.faults import (
    BadChunk,
    BadKey,
    CleanCut,
    CutJson,
    CutStream,
    Empty,
    ErrorEvent,
    ErrorIn200,
    Fault,
    Filtered,
    Garbage,
    Html,
    HugeHeader,
    NoSuchModel,
    Overloaded,
    QuotaGone,
    RateLimited,
    Raw,
    Refuse,
    Reset,
    ServerError,
    Silence,
    SlowDrip,
    Stall,
    Status,
    TooLong,
    WrongLength,
)
from headrace.testing.provider import (
    FakeProvider,
    Outcome,
)
from headrace.testing.wire import (
    Received,
    Wire,
)

__all__ = [
    "Answer",
    "BadChunk",
    "BadKey",
    "CleanCut",
    "CutJson",
    "CutStream",
    "Empty",
    "ErrorEvent",
    "ErrorIn200",
    "FakeProvider",
    "Fault",
    "Filtered",
    "Garbage",
    "Html",
    "HugeHeader",
    "ManualClock",
    "NoSuchModel",
    "Outcome",
    "Overloaded",
    "QuotaGone",
    "RateLimited",
    "Raw",
    "Received",
    "Refuse",
    "Reset",
    "ServerError",
    "Silence",
    "SlowDrip",
    "Stall",
    "Status",
    "Stuck",
    "TooLong",
    "Wire",
    "WrongLength",
    "run",
]
