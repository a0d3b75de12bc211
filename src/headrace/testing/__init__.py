"""What tests need: time that stands still, a provider that fails on demand, and a handler that plays a script.

The names below are loaded when they are first used, since pytest imports this package for its plugin in every run. See
`docs/testing.md`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headrace.testing.answers import Answer
    from headrace.testing.blackhole import Blackhole
    from headrace.testing.cassette import Cassette, NotRecorded, NotReplayed
    from headrace.testing.clock import ManualClock, Stuck, run, until
    from headrace.testing.faults import (
        BadChunk,
        BadKey,
        Bomb,
        CleanCut,
        CutJson,
        CutStream,
        Doubled,
        Empty,
        ErrorEvent,
        ErrorIn200,
        Fault,
        Filtered,
        Garbage,
        Headless,
        Html,
        Huge,
        HugeHeader,
        Interim,
        LengthAndChunks,
        ManyHeaders,
        NoSuchModel,
        Overloaded,
        QuotaGone,
        RateLimited,
        Raw,
        Redirect,
        Refuse,
        Reordered,
        Reset,
        ServerError,
        Silence,
        SlowDrip,
        Stall,
        Status,
        TooLong,
        TwoLengths,
        Unfinished,
        Unterminated,
        UntilClose,
        WrongCharset,
        WrongLength,
    )
    from headrace.testing.handler import After, Hang, Play, Scene, ScriptedHandler, Wait, after, make_request
    from headrace.testing.provider import (
        FakeProvider,
        Outcome,
    )
    from headrace.testing.simulated import Fake, FakeAsyncClient, FakeClient, Unanswered, fake
    from headrace.testing.simulation import Simulation, Trouble, simulate
    from headrace.testing.wire import (
        Received,
        Wire,
    )

_HOMES = {
    "answers": ("Answer",),
    "blackhole": ("Blackhole",),
    "cassette": ("Cassette", "NotRecorded", "NotReplayed"),
    "clock": ("ManualClock", "Stuck", "run", "until"),
    "faults": (
        "BadChunk",
        "BadKey",
        "Bomb",
        "CleanCut",
        "CutJson",
        "CutStream",
        "Doubled",
        "Empty",
        "ErrorEvent",
        "ErrorIn200",
        "Fault",
        "Filtered",
        "Garbage",
        "Headless",
        "Html",
        "Huge",
        "HugeHeader",
        "Interim",
        "LengthAndChunks",
        "ManyHeaders",
        "NoSuchModel",
        "Overloaded",
        "QuotaGone",
        "RateLimited",
        "Raw",
        "Redirect",
        "Refuse",
        "Reordered",
        "Reset",
        "ServerError",
        "Silence",
        "SlowDrip",
        "Stall",
        "Status",
        "TooLong",
        "TwoLengths",
        "Unfinished",
        "Unterminated",
        "UntilClose",
        "WrongCharset",
        "WrongLength",
    ),
    "handler": ("After", "Hang", "Play", "Scene", "ScriptedHandler", "Wait", "after", "make_request"),
    "provider": ("FakeProvider", "Outcome"),
    "simulated": ("Fake", "FakeAsyncClient", "FakeClient", "Unanswered", "fake"),
    "simulation": ("Simulation", "Trouble", "simulate"),
    "wire": ("Received", "Wire"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "After",
    "Answer",
    "BadChunk",
    "BadKey",
    "Blackhole",
    "Bomb",
    "Cassette",
    "CleanCut",
    "CutJson",
    "CutStream",
    "Doubled",
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
    "Headless",
    "Html",
    "Huge",
    "HugeHeader",
    "Interim",
    "LengthAndChunks",
    "ManualClock",
    "ManyHeaders",
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
    "Redirect",
    "Refuse",
    "Reordered",
    "Reset",
    "Scene",
    "ScriptedHandler",
    "ServerError",
    "Silence",
    "Simulation",
    "SlowDrip",
    "Stall",
    "Status",
    "Stuck",
    "TooLong",
    "Trouble",
    "TwoLengths",
    "Unanswered",
    "Unfinished",
    "Unterminated",
    "UntilClose",
    "Wait",
    "Wire",
    "WrongCharset",
    "WrongLength",
    "after",
    "fake",
    "make_request",
    "run",
    "simulate",
    "until",
]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'headrace.testing' has no attribute {name!r}")
    value = getattr(import_module(f"headrace.testing.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
