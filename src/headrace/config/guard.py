"""`[guard]` and `[routes.X.guard]`."""

from __future__ import annotations

import re

from headrace.config.problem import guess
from headrace.config.table import Table
from headrace.handler import AnswerPolicy, GuardPolicy

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
                guess(text, KINDS),
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
        injections=table.choice("injections", ("off", "flag", "block")) or usual.injections,
        answer=_read_answer(table),
        judge=table.name("judge") or "",
        judge_answers=table.boolean("judge_answers") or False,
        judge_fails=table.choice("judge_fails", ("block", "pass")) or usual.judge_fails,
    )
    if not table.members:
        found.add(table.path, "guards nothing", 'Write redact = ["email", "phone"].')
    table.close()
    return policy


def _read_answer(outer: Table) -> AnswerPolicy | None:
    """What must not come back; None where nothing is said about it."""
    table = outer.table("answer")
    if "answer" not in outer.members:
        return None
    usual = AnswerPolicy()
    policy = AnswerPolicy(
        secrets=table.boolean("secrets") or False,
        allow_links=_domains(table, "allow_links") if "allow_links" in table.members else None,
        deny_links=_domains(table, "deny_links"),
        max_characters=table.integer("max_characters", 0, 1, 100_000_000) or None,
        action=table.choice("action", ("block", "flag")) or usual.action,
        whole=table.choice("streams", ("words", "whole")) == "whole",
    )
    table.take("allow_links")
    table.close()
    return policy


def _domains(table: Table, name: str) -> tuple[str, ...]:
    domains = []
    for index, text in table.texts(name):
        domain = text.lower().strip(".")
        if re.fullmatch(r"[^\s/:@*]+", domain):
            domains.append(domain)
        else:
            table.found.add(
                (*table.path, name, index),
                "must be a domain",
                'Write "example.com"; it stands for those below it too.',
                value=text,
            )
    return tuple(domains)
