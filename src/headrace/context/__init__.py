"""Conversations that outgrow the window: send less, lose nothing.

`Log` holds what was said; `plan` decides, as a pure function, what of it is sent and says why; `pack` makes the messages. The
`Context` layer does this for every request of a route that has a context policy.
"""

from __future__ import annotations

from headrace.context.documents import Library
from headrace.context.layer import Context
from headrace.context.log import Log
from headrace.context.pack import Packed, pack
from headrace.context.plan import Period, Plan, Verdict
from headrace.context.planner import fits, plan
from headrace.context.profile import Profile, input_limit
from headrace.context.summarize import Fact, Segment, Summariser
from headrace.context.turn import Turn

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
