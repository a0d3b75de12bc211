"""`[routes.X.context]`."""

from __future__ import annotations

from pathlib import Path

from headrace.config.places import placed
from headrace.config.table import Table
from headrace.handler import ContextPolicy


def read_context(route: Table, folder: Path) -> ContextPolicy | None:
    """How `[routes.X.context]` packs; None where there is none."""
    table = route.table("context")
    if "context" not in route.members:
        return None
    usual = ContextPolicy()
    found, shares = table.found, table.table("sections")
    paths = []
    for index, text in table.texts("documents"):
        path = placed(text, folder, found.environ)
        if path.is_file():
            paths.append(str(path))
        else:
            found.add((*table.path, "documents", index), "there is no such file", value=text)
    policy = ContextPolicy(
        budget=table.integer("budget", 0, 64, 1_000_000_000) or None,
        trigger=table.number("trigger", usual.trigger, 0.1, 1.0),
        target=table.number("target", usual.target, 0.05, 1.0),
        summary=shares.number("summary", usual.summary, 0.0, 0.8),
        recall=shares.number("recall", usual.recall, 0.0, 0.8),
        documents=shares.number("documents", usual.documents, 0.0, 0.8),
        recall_turn=table.number("recall_turn", usual.recall_turn, 0.05, 1.0),
        margin=table.number("margin", usual.margin, 0.0, 0.5),
        output=table.integer("output", usual.output, 1, 10_000_000),
        keep_results=table.integer("keep_results", usual.keep_results, 1, 1000),
        document_paths=tuple(paths),
        pins=table.integer("pins", usual.pins, 0, 100),
        summariser=table.text("summariser") or usual.summariser,
    )
    shares.close()
    table.close()
    if policy.target > policy.trigger:
        table.wrong("target", "must not be above trigger", "Each compaction goes down from one to the other.")
    if policy.summary + policy.recall + policy.documents > 0.8:
        found.add(
            (*table.path, "sections"), "together they leave less than a fifth for the conversation itself"
        )
    return policy
