"""`rules` of `[routes.X]`: which other route a request goes to."""

from __future__ import annotations

from collections.abc import Sequence

from headrace.config.problem import Report, kind_of
from headrace.config.table import Table
from headrace.handler import Rule
from headrace.language import LANGUAGES


def read_rules(found: Report, route: Table, routes: Sequence[str], plain: Sequence[str]) -> tuple[Rule, ...]:
    """The rules in their order. `plain` are the routes without rules of their own, which alone may be used."""
    value = route.take("rules")
    path = (*route.path, "rules")
    if value is None:
        return ()
    if not isinstance(value, list) or not value:
        found.add(path, "must be an array of tables", 'Write rules = [{ shorter_than = 500, use = "fast" }].')
        return ()
    rules = []
    for index, item in enumerate(value):
        if not isinstance(item, dict):
            found.add((*path, index), f"must be a table, not {kind_of(item)}", 'Write { ..., use = "fast" }.')
            continue
        table = Table(found, (*path, index), item, "routes")
        use = table.text("use")
        if use is None or ("/" not in use and use not in plain):
            fix = f"There is: {', '.join(sorted(plain))}." if plain else 'Write "provider/model".'
            what = "has rules itself" if use in routes else "must be a route or provider/model"
            table.wrong("use", what, fix)
            use = None
        tag = table.text("tag")
        if tag is not None and ("=" not in tag or tag.startswith("=")):
            table.wrong("tag", "must be NAME=VALUE", 'Write tag = "task=label".')
            tag = None
        languages = []
        for place, language in table.texts("language"):
            if language not in LANGUAGES:
                found.add(
                    (*path, index, "language", place),
                    "is not a language that is told apart",
                    f"There is: {', '.join(LANGUAGES)}.",
                    value=language,
                )
            languages.append(language)
        rule = Rule(
            use=use or "",
            longer_than=table.integer("longer_than", -1, 0, 10_000_000),
            shorter_than=table.integer("shorter_than", -1, 1, 10_000_000),
            languages=frozenset(languages),
            tag=None if tag is None else (tag.partition("=")[0], tag.partition("=")[2]),
            tools=table.boolean("tools"),
            budget_below=table.number("budget_below", -1.0, 0.0, 1.0),
        )
        table.close()
        rules.append(_without_absent(rule))
    return tuple(rules)


def _without_absent(rule: Rule) -> Rule:
    """A number that was not given is None, not the -1 that stood for it."""
    return Rule(
        use=rule.use,
        longer_than=None if rule.longer_than == -1 else rule.longer_than,
        shorter_than=None if rule.shorter_than == -1 else rule.shorter_than,
        languages=rule.languages,
        tag=rule.tag,
        tools=rule.tools,
        budget_below=None if rule.budget_below == -1.0 else rule.budget_below,
    )
