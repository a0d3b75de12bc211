"""`[guard]` and `[routes.X.guard]`."""

from __future__ import annotations

from headrace.config.problem import closest
from headrace.config.table import Table
from headrace.handler import GuardPolicy

ACTIONS = ("redact", "block", "flag")


def read_guard(outer: Table) -> GuardPolicy | None:
    """What the table `guard` keeps from leaving; None where there is none."""
    table = outer.table("guard")
    if "guard" not in outer.members:
        return None
    from headrace.guards import KINDS, Redactor  # its patterns take a while, and most users never need them

    usual, found = GuardPolicy(), table.found
    kinds = []
    for index, text in table.texts("redact"):
        if text in KINDS:
            kinds.append(text)
        else:
            found.add(
                (*table.path, "redact", index),
                f"must be one of {', '.join(KINDS)}",
                closest(text, KINDS),
                value=text,
            )
    written = table.table("patterns")
    patterns = []
    for name in written.members:
        pattern = written.text(name)
        if pattern is None:
            continue
        try:
            Redactor((), {name: pattern})
        except ValueError as error:
            found.add((*written.path, name), str(error), value=pattern)
        else:
            patterns.append((name, pattern))
    policy = GuardPolicy(
        redact=tuple(kinds),
        patterns=tuple(patterns),
        action=table.choice("action", ACTIONS) or usual.action,
    )
    if not table.members:
        found.add(table.path, "guards nothing", 'Write redact = ["email", "phone"].')
    table.close()
    return policy
