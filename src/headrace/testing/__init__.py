"""What tests need: time that stands still, a provider that fails on demand, and a handler that plays a script.

See `docs/testing.md`.
"""

from __future__ import annotations

from headrace.testing.answers import Answer
from headrace.testing.cassette import Cassette, NotRecorded, NotReplayed
from headrace.testing.clock import ManualClock, Stuck, run, until
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
from headrace.testing.handler import After, Hang, Play, Scene, ScriptedHandler, Wait, after, make_request
from headrace.testing.provider import (
    FakeProvider,
    Outcome,
)
from headrace.testing.simulated import Fake, FakeAsyncClient, FakeClient, Unanswered, fake
from headrace.testing.wire import (
    Received,
    Wire,
)

__all__ = [
    "After",
    "Answer",
    "BadChunk",
    "BadKey",
    "Cassette",
    "CleanCut",
    "CutJson",
    "CutStream",
    "Empty",
    "ErrorEvent",
    "ErrorIn200",
    "Fake",
    "FakeAsyncClient",
    "FakeClient",
    "FakeProvider",
    "Fault",
    "Filtered",
    "Garbage",
    "Hang",
    "Html",
    "HugeHeader",
    "ManualClock",
    "NoSuchModel",
    "NotRecorded",
    "NotReplayed",
    "Outcome",
    "Overloaded",
    "Play",
    "QuotaGone",
    "RateLimited",
    "Raw",
    "Received",
    "Refuse",
    "Reset",
    "Scene",
    "ScriptedHandler",
    "ServerError",
    "Silence",
    "SlowDrip",
    "Stall",
    "Status",
    "Stuck",
    "TooLong",
    "Unanswered",
    "Wait",
    "Wire",
    "WrongLength",
    "after",
    "fake",
    "make_request",
    "run",
    "until",
]
