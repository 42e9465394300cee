"""Which files, and which rules on them, are worth a parse: regular expressions over bytes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache

from dropaudit.catalogue import Rule


def prefilter(rules: Iterable[Rule]) -> Callable[[bytes], bool]:
    """A test over the bytes of a file: whether any of `rules` could report something in it."""
    return compiled(trigger_patterns(rules))


def may_report(rule: Rule, data: bytes) -> bool:
    """Whether `rule` could report something in a file with these bytes."""
    return _test(rule.triggers, rule.requires)(data)


def reading(rules: Iterable[Rule]) -> list[Rule]:
    """The rules that read one file."""
    return [rule for rule in rules if rule.source_checks]


def joining(rules: Iterable[Rule]) -> list[Rule]:
    """The rules that look at files together."""
    return [rule for rule in rules if rule.project_checks]


def trigger_patterns(rules: Iterable[Rule]) -> list[tuple[str, ...]]:
    """What the prefilter searches: a file passes that matches all of one of the tuples."""
    rules = tuple(rules)
    plain = sorted({t for rule in rules for t in rule.triggers if not rule.requires})
    others = {(_any_of(rule.triggers), *rule.requires) for rule in rules if rule.requires}
    return [(_any_of(plain),), *sorted(others)]


def compiled(patterns: Iterable[Sequence[str]]) -> Callable[[bytes], bool]:
    """The test that `trigger_patterns` describes.

    >>> compiled([("a", "b"), ("c",)])(b"ba"), compiled([("a", "b"), ("c",)])(b"a")
    (True, False)
    """
    tests = [[re.compile(one.encode(), re.MULTILINE).search for one in every] for every in patterns]
    return lambda data: any(all(search(data) for search in every) for every in tests)


@cache
def _test(triggers: tuple[str, ...], requires: tuple[str, ...]) -> Callable[[bytes], bool]:
    return compiled([(_any_of(triggers), *requires)])


def _any_of(triggers: Iterable[str]) -> str:
    return "|".join(f"(?:{t})" for t in triggers) or "(?!)"
