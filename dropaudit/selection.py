"""Which rules speak: codes, prefixes, names and ALL, the more specific winning, as in ruff."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

UNCHECKED = "DRP000"
_DIGITS = str.maketrans("OIL", "011")


class UnknownRule(ValueError):
    """A selector that names no rule, with the nearest that do."""


@dataclass(frozen=True)
class Selector:
    """What a person wrote, the codes it stands for, and how specific it is (`ALL` is 0)."""

    text: str
    codes: tuple[str, ...]
    specificity: int


@dataclass(frozen=True)
class Layer:
    """The selectors of one source: the configuration file, or the command line.

    `select` of None leaves what the layer below selects.
    """

    select: tuple[Selector, ...] | None = None
    extend_select: tuple[Selector, ...] = ()
    ignore: tuple[Selector, ...] = ()


def selectors(texts: Iterable[str], known: Mapping[str, str]) -> tuple[Selector, ...]:
    """Every selector in `texts`; `known` is code to name. Raises `UnknownRule`.

    >>> [s.codes for s in selectors(["DRP2", "drp401"], {"DRP201": "a", "DRP401": "b"})]
    [('DRP201',), ('DRP401',)]
    """
    return tuple(_selector(text, known) for text in texts)


def nearest(text: str, known: Mapping[str, str]) -> tuple[str, ...]:
    """The codes and names that `text` may have meant, the most similar first.

    >>> nearest("DRP2O1", {"DRP201": "functional-dropout-ignoring-mode"})
    ('DRP201',)
    """
    code = text.upper()
    look_alike = code.translate(_DIGITS)
    found = [code[:3] + look_alike[3:]] if code[:3] + look_alike[3:] in known else []
    found += get_close_matches(code, known, 3, 0.7)
    found += get_close_matches(text.lower(), known.values(), 3, 0.6)
    return tuple(dict.fromkeys(found))[:3]


def unknown(text: str, known: Mapping[str, str]) -> str:
    """The sentence that says that `text` is no rule.

    >>> unknown("DRP2O1", {"DRP201": "a-name"})
    "unknown rule 'DRP2O1': did you mean DRP201?"
    """
    similar = nearest(text, known)
    if not similar:
        return f"unknown rule {text!r}: `dropaudit rule --all` lists the rules"
    return f"unknown rule {text!r}: did you mean {' or '.join(similar)}?"


def enabled(
    layers: Sequence[Layer], known: Mapping[str, str], previews: frozenset[str] = frozenset()
) -> frozenset[str]:
    """The codes that speak after all `layers`, the last of which has the last word.

    Within a layer the more specific selector wins, and `ignore` wins over an equal `select`. That
    a file could not be checked (DRP000) is said unless exactly that code is ignored. `previews`
    are the codes that are held back.
    """
    chosen = set(known)
    kept: tuple[Selector, ...] = ()  # ignored below and not selected below
    for layer in layers:
        verdict = _verdict(layer, kept)
        if layer.select is not None:
            chosen = {code for code, wanted in verdict.items() if wanted}
            kept = ()
        else:
            chosen |= {code for code, wanted in verdict.items() if wanted}
            chosen -= {code for code, wanted in verdict.items() if not wanted}
            kept = layer.ignore
    refused = any(is_exact(s) and UNCHECKED in s.codes for la in layers for s in la.ignore)
    always = set() if refused else {UNCHECKED}
    return frozenset((chosen - previews - {UNCHECKED}) | always)


def is_exact(selector: Selector) -> bool:
    """Whether the selector names one rule, by its code or its name."""
    return selector.specificity == _EXACT


_EXACT = 9


def _selector(text: str, known: Mapping[str, str]) -> Selector:
    word = text.strip()
    if word.upper() == "ALL":
        return Selector(word, tuple(known), 0)
    code = word.upper()
    if code in known:
        return Selector(word, (code,), _EXACT)
    by_name = tuple(code for code, name in known.items() if name == word.lower())
    if by_name:
        return Selector(word, by_name, _EXACT)
    codes = tuple(one for one in known if one.startswith(code))
    if re.fullmatch(r"DRP\d{0,2}", code) and codes:
        return Selector(word, codes, 1 + len(code) - len("DRP"))
    raise UnknownRule(unknown(word, known))


def _verdict(layer: Layer, kept: tuple[Selector, ...]) -> dict[str, bool]:
    verdict: dict[str, bool] = {}
    ignored = (*layer.ignore, *(kept if layer.select is not None and not layer.ignore else ()))
    for _, wanted, selector in sorted(
        _ordered(layer, ignored), key=lambda one: (one[0], not one[1])
    ):
        for code in selector.codes:
            verdict[code] = wanted
    return verdict


def _ordered(layer: Layer, ignored: tuple[Selector, ...]) -> Iterator[tuple[int, bool, Selector]]:
    for selector in (*(layer.select or ()), *layer.extend_select):
        yield selector.specificity, True, selector
    for selector in ignored:
        yield selector.specificity, False, selector
