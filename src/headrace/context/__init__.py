"""Conversations that outgrow the window: send less, lose nothing.

`Log` holds what was said; `plan` decides, as a pure function, what of it is sent and says why; `pack` makes the messages. The
`Context` layer does this for every request of a route that has a context policy.
"""

from __future__ import annotations

from headrace.context.documents import Library
from headrace.context.layer import Context
from headrace.context.log import Log, Turn
from headrace.context.pack import Packed, pack
from headrace.context.plan import Period, Plan, Profile, Verdict, fits, input_limit, plan
from headrace.context.summarize import Fact, Segment, Summariser

__all__ = [
    "Context",
    "Fact",
    "Library",
    "Log",
    "Packed",
    "Period",
    "Plan",
    "Profile",
    "Segment",
    "Summariser",
    "Turn",
    "Verdict",
    "fits",
    "input_limit",
    "pack",
    "plan",
]
