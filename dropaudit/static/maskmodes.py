"""Masks that are drawn and applied in evaluation as in training."""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from dropaudit.static.draws import UNIFORM, UNIFORM_BETWEEN
from dropaudit.static.facts import ClassFacts
from dropaudit.static.maskcallees import callee
from dropaudit.static.maskevidence import (
    OTHER_PURPOSE,
    calls_itself_dropout,
    dropout_uses,
    has_layers,
    in_test,
)
from dropaudit.static.maskuses import Masks, Use
from dropaudit.static.modes import MODE_WORD
from dropaudit.static.purpose import words
from dropaudit.static.source import Source, self_attribute
from dropaudit.static.walk import descend

_LAYER_DROP = re.compile(
    r"(layer|block|path|branch)s?_?drop|drop_?(layer|block|path|branch)s?(?![a-z])"
    r"|stochastic_?depth",
    re.IGNORECASE,
)
_LAYER_RATE = re.compile(
    r"layer_?drop|drop_?(layer|path)|path_?drop|surviv|stochastic_?depth", re.IGNORECASE
)
_DRAWN_APART = re.compile(
    r"train|eval|sample|generat|augment|corrupt|mask_|_mask|aug(?![a-z])|pretrain|loss|init|reset",
    re.IGNORECASE,
)
_KEEPS_PARTS = re.compile(r"drop|keep_?(edge|node|prob|rate|ratio|p\b)", re.IGNORECASE)
_EDGES = re.compile(r"edge|graph|node|sample|adj|neighbo", re.IGNORECASE)


def masks_in_every_mode(source: Source) -> Iterator[tuple[cst.CSTNode, str, Use | None]]:
    """(node, what it is, the use) for each mask or call of a mask that no mode switches off."""
    yielded: set[cst.CSTNode] = set()
    every = (
        *_in_modules(source),
        *((*found, None) for found in _through_helpers(source)),
        *((*found, None) for found in _skipped_layers(source)),
        *((*found, None) for found in _drawn_once(source)),
    )
    for node, what, use in every:
        if node not in yielded:
            yielded.add(node)
            yield node, what, use


def _in_modules(source: Source) -> Iterator[tuple[cst.CSTNode, str, Use | None]]:
    for found in dropout_uses(source):
        function = found.masks.function
        if any(c.ready for c in found.use.coins):
            continue
        if found.use.carried:
            continue
        drawn, via = found.use.draw, found.use.via
        if via is not None and source.function_of(via) is function:
            if _helper_hears(source, via, drawn):
                continue
            drawn = via
        if _runs_in_every_mode(source, function, (drawn, found.use.node)):
            yield drawn, "a dropout mask is drawn and applied", found.use
    for masks in source.masks.functions:
        facts = source.class_of(masks.function)
        if facts is None or not has_layers(source, masks.function):
            continue
        words = _EDGES.sub("", f"{masks.function.name.value} {facts.name}")
        if OTHER_PURPOSE.search(words):
            continue
        for node, coin in masks.selections:
            rate = source.text(source.statement_of(coin.draw))
            if _KEEPS_PARTS.search(rate) and _runs_in_every_mode(
                source, masks.function, (coin.draw, node)
            ):
                yield coin.draw, "a random part is dropped", None


def _helper_hears(source: Source, call: cst.CSTNode, draw: cst.CSTNode) -> bool:
    """Whether the helper that `call` asks for a mask is told the mode, or finds it out."""
    if not isinstance(call, cst.Call):
        return True
    target = callee(source, call)
    if target is None or source.modes.call_guarded(call):
        return True
    mode = mode_parameter(target.function)
    if mode is not None:
        return not target.complete or mode[0] in target.given
    function = source.function_of(draw)
    if function is None or any(_has_mode_parameter(f) for f in (function, target.function)):
        return True
    bodies = (function.body, target.function.body)
    return source.modes.guards(draw) or any(source.modes.decides(b) for b in bodies)


def _runs_in_every_mode(
    source: Source, function: cst.FunctionDef, nodes: tuple[cst.CSTNode, ...]
) -> bool:
    """Whether a method of a Module reaches all of `nodes` whatever the mode is."""
    facts = source.class_of(function)
    if facts is None or not facts.is_module or function.name.value == "__init__":
        return False
    if source.function_of(function) is not None or not _is_instance_method(function):
        return False
    modes = source.modes
    for node in nodes:
        statement = source.statement_of(node)
        if modes.guards(node) or modes.decides(_simple(statement)) or modes.on_purpose(node):
            return False
        if in_test(source, node):
            return False
    if _has_mode_parameter(function) or _switches(facts):
        return False
    if function.name.value in ("forward", "__call__"):
        return not _gated_where_used(source, facts)
    if _DRAWN_APART.search(function.name.value):
        return False
    calls = source.callers(function)
    return bool(calls) and any(_reached(source, c, facts) for c in calls)


def _reached(source: Source, call: cst.Call, facts: ClassFacts) -> bool:
    """Whether a forward of the class makes `call` in every mode."""
    around = source.function_of(call)
    if around is None or source.class_of(call) is not facts:
        return False
    return around.name.value == "forward" and not source.modes.call_guarded(call)


def _through_helpers(source: Source) -> Iterator[tuple[cst.CSTNode, str]]:
    """Calls in a Module's forward of a function that drops, without any mode."""
    for function, mode in dropping_helpers(source):
        for call in source.callers(function):
            if source.definition(call.func) is not function:
                continue
            target = callee(source, call)
            told = mode is not None and (target is None or mode[0] in target.given)
            if told or source.modes.call_guarded(call):
                continue
            if calls_in_every_mode(source, call):
                yield call, f"`{function.name.value}` drops"


def dropping_helpers(
    source: Source,
) -> Iterator[tuple[cst.FunctionDef, tuple[str, int] | None]]:
    """The functions that drop with a mask of their own, and the mode that is on by default.

    A method hears of `self.training`; it counts where it takes such a mode.
    """
    for masks in source.masks.functions:
        function = masks.function
        around = source.enclosing(function, (cst.ClassDef, cst.FunctionDef))
        told = isinstance(around, cst.ClassDef) and mode_parameter(function) is not None
        if around is not None and (not told or function.name.value in ("forward", "__call__")):
            continue
        drops = any(not c.ready for u in masks.uses for c in u.coins)
        if not (drops and calls_itself_dropout(source, function)) and not (
            _LAYER_DROP.search(function.name.value)
        ):
            continue
        mode = mode_parameter(function)
        if mode is not None or not _hears_of_mode(source, masks):
            yield function, mode


def _skipped_layers(source: Source) -> Iterator[tuple[cst.CSTNode, str]]:
    """Tests in a forward that skip a layer at random, by a rate that is named for it."""
    for masks in source.masks.functions:
        if masks.function.name.value != "forward":
            continue
        for node in descend(masks.function.body):
            if not isinstance(node, cst.If) or not _LAYER_RATE.search(source.text(node.test)):
                continue
            if source.modes.decides(node.test) or not _is_random(source, node.test):
                continue
            if _runs_in_every_mode(source, masks.function, (node,)):
                yield node.test, "a layer is skipped at random"


def _drawn_once(source: Source) -> Iterator[tuple[cst.CSTNode, str]]:
    """Masks that the constructor of a dropout draws and nothing draws again."""
    for masks in source.masks.functions:
        function, facts = masks.function, source.class_of(masks.function)
        if function.name.value != "__init__" or facts is None or not facts.is_module:
            continue
        if not calls_itself_dropout(source, function) or in_test(source, function):
            continue
        for one in facts.assigned:
            again = any(o.name == one.name and o.method is not function for o in facts.assigned)
            if "mask" in one.name and not again and _tosses(source, one.value):
                yield one.value, "the mask is drawn once, when the module is built, and applied"


def _tosses(source: Source, value: cst.CSTNode) -> bool:
    return any(
        isinstance(node, cst.Call)
        and (
            source.name_of(node.func) == "torch.bernoulli"
            or (isinstance(node.func, cst.Attribute) and node.func.attr.value == "bernoulli_")
        )
        for node in descend(value)
    )


def _is_random(source: Source, test: cst.CSTNode) -> bool:
    values = [b.value for n in descend(test) if isinstance(n, cst.Name) for b in source.bindings(n)]
    return any(
        isinstance(node, cst.Call) and source.name_of(node.func) in (*UNIFORM, *UNIFORM_BETWEEN)
        for value in (test, *(v for v in values if v is not None))
        for node in descend(value)
    )


def calls_in_every_mode(source: Source, call: cst.Call) -> bool:
    """Whether a Module's forward makes `call`, which no mode guards, whatever the mode is."""
    facts, around = source.class_of(call), source.function_of(call)
    if facts is None or not facts.is_module or around is None or source.has_star(call):
        return False
    if source.modes.on_purpose(call) or in_test(source, call):
        return False
    if _has_mode_parameter(around) or _switches(facts) or OTHER_PURPOSE.search(around.name.value):
        return False
    if around.name.value == "forward":
        return not _gated_where_used(source, facts)
    return any(_reached(source, c, facts) for c in source.callers(around))


def _hears_of_mode(source: Source, masks: Masks) -> bool:
    if _has_mode_parameter(masks.function):
        return True
    nodes = [u.draw for u in masks.uses] + [u.node for u in masks.uses]
    return any(source.modes.guards(n) for n in nodes) or source.modes.decides(masks.function.body)


def mode_parameter(function: cst.FunctionDef) -> tuple[str, int] | None:
    """The name and position of a parameter for the mode that is on by default."""
    for at, param in enumerate(function.params.params):
        if MODE_WORD.match(param.name.value):
            default = param.default
            if isinstance(default, cst.Name) and default.value == "True":
                return (param.name.value, at)
    return None


def _has_mode_parameter(function: cst.FunctionDef) -> bool:
    params = function.params
    every = (*params.posonly_params, *params.params, *params.kwonly_params)
    return any(
        MODE_WORD.match(p.name.value) or re.search(r"mode|phase|stage|train", p.name.value)
        for p in every
    )


def _switches(facts: ClassFacts) -> bool:
    """Whether the class takes note of the mode in a way of its own."""
    every = (*facts.lineage, *facts.subclasses)
    return any(
        name in ("train", "eval")
        or ("mode" in words(name).lower().split("_") and _speaks_of_mode(method))
        for f in every
        for name, method in f.methods.items()
    )


def _speaks_of_mode(method: cst.FunctionDef) -> bool:
    """Whether a method with `mode` in its name means training and evaluation by it."""
    text = cst.Module([]).code_for_node(method)
    return not re.search(r"\bmode\b", text) or bool(re.search(r"train|eval|test|infer", text))


def _gated_where_used(source: Source, facts: ClassFacts) -> bool:
    """Whether an instance of the class is called, or built, only under a test of the mode."""
    for call in source.calls_by_name.get(facts.name, ()):
        if source.modes.guards(call):
            return True
        holder = source.class_of(call)
        statement = source.statement_of(call)
        if holder is None or not isinstance(statement, cst.Assign):
            continue
        for target in statement.targets:
            name = self_attribute(target.target)
            uses = [c for c in source.calls_by_name.get(name, ()) if self_attribute(c.func) == name]
            if any(source.modes.call_guarded(c) for c in uses):
                return True
    return False


def _is_instance_method(function: cst.FunctionDef) -> bool:
    params = function.params.params
    return bool(params) and params[0].name.value == "self"


def _simple(statement: cst.CSTNode) -> cst.CSTNode | None:
    return statement if isinstance(statement, cst.BaseSmallStatement) else None
