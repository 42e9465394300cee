"""Which rules speak after all selectors."""

from __future__ import annotations

import pytest

from dropaudit.selection import Layer, UnknownRule, enabled, selectors

KNOWN = {
    "DRP000": "unchecked",
    "DRP101": "unscaled-mask",
    "DRP201": "functional-dropout-ignoring-mode",
    "DRP202": "attention-dropout-ignoring-mode",
    "DRP401": "discarded-result",
}


def layer(select: str | None = None, ignore: str = "", extend: str = "") -> Layer:
    chosen = None if select is None else selectors(select.split(), KNOWN)
    return Layer(chosen, selectors(extend.split(), KNOWN), selectors(ignore.split(), KNOWN))


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([], "101 201 202 401"),
        ([layer("ALL")], "101 201 202 401"),
        ([layer("drp")], "101 201 202 401"),
        ([layer("DRP2")], "201 202"),
        ([layer("discarded-result")], "401"),
        ([layer("DRP201", ignore="DRP2")], "201"),
        ([layer("DRP2", ignore="DRP201")], "202"),
        ([layer("DRP201", ignore="DRP201")], ""),
        ([layer("DRP4", extend="DRP1")], "101 401"),
        ([layer(ignore="DRP2")], "101 401"),
        ([layer("DRP201"), layer(ignore="DRP2")], ""),
        ([layer("DRP201"), layer("DRP4")], "401"),
        ([layer(ignore="DRP2"), layer("ALL")], "101 401"),
        ([layer(ignore="DRP2"), layer("DRP201")], "201"),
        ([layer(ignore="DRP2"), layer(extend="DRP201")], "101 201 401"),
    ],
)
def test_the_more_specific_selector_wins_and_then_the_later_layer(
    layers: list[Layer], expected: str
) -> None:
    """Codes, prefixes, names and ALL, in the file and on the command line."""
    codes = {f"DRP{number}" for number in expected.split()}
    assert enabled(layers, KNOWN) == codes | {"DRP000"}


def test_only_its_own_code_silences_a_file_that_could_not_be_checked() -> None:
    """Silence means checked."""
    assert "DRP000" in enabled([layer("DRP4", ignore="ALL DRP DRP0")], KNOWN)
    assert "DRP000" not in enabled([layer(ignore="unchecked")], KNOWN)


def test_preview_rules_are_held_back() -> None:
    """Also when they are selected."""
    assert "DRP101" not in enabled([layer("DRP101")], KNOWN, frozenset({"DRP101"}))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("DRP2O1", "DRP201"),
        ("discarded-results", "discarded-result"),
        ("DRP9", "`dropaudit rule --all`"),
        ("E501", "unknown rule 'E501'"),
        ("", "unknown rule ''"),
    ],
)
def test_an_unknown_selector_is_an_error_with_the_nearest(text: str, said: str) -> None:
    """Never zero findings for a misspelt name."""
    with pytest.raises(UnknownRule, match=said):
        selectors([text], KNOWN)
