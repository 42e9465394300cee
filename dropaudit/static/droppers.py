"""What drops: functions, modules and what a name says, with the kind of thing they drop."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import libcst as cst

from dropaudit.static.applications import settings
from dropaudit.static.facts import DROPOUT_MODULES
from dropaudit.static.flags import NEVER_ON
from dropaudit.static.functional import functional_dropout, is_zero
from dropaudit.static.names import Kind
from dropaudit.static.source import Source, is_name, self_attribute
from dropaudit.static.walk import descend

_PLAIN = re.compile(r"(^|\.)(Dropout|AlphaDropout|dropout|alpha_dropout)$")
_SAYS_DROPOUT = re.compile(r"^_*([a-z0-9]+_)*dropout(_?(layer|module|fn|func|op))?_?\d*$")
_DROPS_ELSE = re.compile(r"path|block|connect|edge|node|word|token|layer_?drop|get|set|make|build")
# a test that asks for nothing but the rate, the presence of the dropout, or the mode
_SWITCH_WORD = re.compile(
    r"^(self|None|True|False|p|rate|float|getattr|hasattr|isinstance|nn|torch|is_training|training"
    r"|Dropout|Identity|args|config|cfg|opt|hparams|\w*drop\w*)$"
)


@dataclass(frozen=True, eq=False)
class Dropper:
    """One dropout: `node` is where it stands, `key` is equal for what is surely the same one.

    `sure` is False where something else than its rate decides whether it drops at all.
    """

    node: cst.CSTNode
    key: str
    kind: str
    sure: bool = True

    def doubles(self, first: Dropper) -> bool:
        """Whether both drop the same way, so that one after the other is one too many."""
        if self.kind == first.kind == "named":
            return self.key == first.key
        if self.key == first.key:
            return True
        return self.kind == first.kind and self.sure and first.sure


def called_dropper(source: Source, call: cst.Call) -> tuple[Dropper, cst.BaseExpression] | None:
    """The function that `call` drops with, and its input; None for a module or anything else."""
    drop = functional_dropout(source, call)
    if drop is None or drop.name.endswith("attention_forward") or not call.args:
        return None
    given = call.args[0]
    if given.star or (given.keyword is not None and given.keyword.value != "input"):
        return None
    if is_zero(source, drop.rate) or is_name(drop.training, "False"):
        return None
    if drop.training is None and drop.name in NEVER_ON:
        return None
    rate = "0.5" if drop.rate is None else source.text(drop.rate)
    return Dropper(call, f"{drop.shown}({rate})", _kind(drop.name)), given.value


def built_dropper(source: Source, built: cst.Call, key: str, sure: bool = True) -> Dropper | None:
    """The dropout that `built` constructs, unless its rate is zero."""
    name = source.name_of(built.func)
    if name not in DROPOUT_MODULES or is_zero(source, settings(source, built)[0]):
        return None
    return Dropper(built, key, _kind(name), sure)


def named_dropper(source: Source, call: cst.Call) -> tuple[Dropper, cst.BaseExpression] | None:
    """A call of something that nothing but its name tells: a module that another file builds."""
    if len(call.args) != 1 or call.args[0].star or call.args[0].keyword is not None:
        return None
    func = call.func
    name = func.value if isinstance(func, cst.Name) else self_attribute(func)
    if not name or not _SAYS_DROPOUT.match(name) or _DROPS_ELSE.search(name):
        return None
    if isinstance(func, cst.Name):
        bindings = source.bindings(func)
        if len(bindings) != 1 or bindings[0].kind not in (Kind.ASSIGNMENT, Kind.PARAMETER):
            return None
    return Dropper(call, source.text(func), "named"), call.args[0].value


def is_switch(source: Source, test: cst.CSTNode) -> bool:
    """Whether `test` asks only for the rate or the presence of a dropout, or for the mode."""
    names = [n for n in descend(test) if isinstance(n, cst.Name)]
    return bool(names) and all(_SWITCH_WORD.match(n.value) for n in names)


def alternatives(
    source: Source, value: cst.BaseExpression
) -> Iterator[tuple[cst.BaseExpression, bool]]:
    """The arms of conditional expressions, with whether only a switch chooses among them."""
    stack = [(value, True)]
    while stack:
        one, sure = stack.pop()
        if isinstance(one, cst.IfExp):
            sure = sure and is_switch(source, one.test)
            stack.extend(((one.orelse, sure), (one.body, sure)))
        else:
            yield one, sure


def _kind(name: str) -> str:
    """`plain` for what drops elements; what drops channels is of a kind by their rank."""
    return "plain" if _PLAIN.search(name) else name.rpartition(".")[2].lower()
