"""In which mode code runs, by the branches around it, and scales that no call reaches."""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from dropaudit.static.maskuses import DropoutUse
from dropaudit.static.scalars import close
from dropaudit.static.source import Source, statements

TRAIN, EVAL = 1, -1
_TRAINING = re.compile(r"(is_|in_)?train(ing)?(_mode)?$", re.IGNORECASE)
_EVALUATION = re.compile(
    r"(is_|in_)?(eval(uation|uating)?|test(ing)?|infer(ence)?|deterministic)(_mode)?$",
    re.IGNORECASE,
)
_EXITS = (cst.Return, cst.Raise)


def mode_of(source: Source, node: cst.CSTNode) -> int:
    """`TRAIN` or `EVAL` where `node` runs in that mode only; 0 where it runs in both, or who knows.

    `if not training or p == 0:` counts as evaluation: nothing is dropped there either.
    """
    child = node
    for around in source.ancestors(node):
        if isinstance(around, (cst.If, cst.IfExp)) and child is not around.test:
            inside = polarity(around.test)
            mode = inside if child is around.body else -_surely(around.test)
            if mode:
                return mode
        mode = _after_exits(around, child)
        if mode:
            return mode
        if isinstance(around, (cst.FunctionDef, cst.ClassDef, cst.Lambda)):
            return 0
        child = around
    return 0


def evaluation_block(node: cst.If) -> cst.CSTNode | None:
    """The branch of `node` that runs in evaluation."""
    if polarity(node.test) == EVAL:
        return node.body
    return node.orelse if _surely(node.test) == TRAIN else None


def polarity(test: cst.CSTNode) -> int:
    """The mode in which `test` lets its branch run."""
    match test:
        case cst.UnaryOperation(operator=cst.Not(), expression=inner):
            return -polarity(inner)
        case cst.BooleanOperation(left=left, right=right):
            found = {polarity(left), polarity(right)} - {0}
            return found.pop() if len(found) == 1 else 0
        case cst.Name(value=name) | cst.Attribute(attr=cst.Name(value=name)):
            if _TRAINING.match(name):
                return TRAIN
            return EVAL if _EVALUATION.match(name) else 0
    return 0


def _surely(test: cst.CSTNode) -> int:
    """The same where the other mode never gets in: its `else` then runs in the other only."""
    if isinstance(test, cst.BooleanOperation) and isinstance(test.operator, cst.And):
        return 0
    return polarity(test)


def _after_exits(block: cst.CSTNode, child: cst.CSTNode) -> int:
    """The mode that is left after `if not training: return x` in the same block."""
    body = getattr(block, "body", None)
    if not isinstance(body, (list, tuple)):
        return 0
    for statement in body:
        if statement is child:
            return 0
        if not isinstance(statement, cst.If) or statement.orelse is not None:
            continue
        if any(isinstance(s, _EXITS) for s in statements(statement)):
            mode = -_surely(statement.test)
            if mode:
                return mode
    return 0


def calls_without_scale(source: Source, found: DropoutUse) -> Iterator[cst.Call]:
    """Calls, all in training only, of a dropout that scales by `keep` in its eval branch."""
    keep, function = found.use.coins[0].keep, found.masks.function
    scaled = [node for f, node in found.masks.factors if close(f, keep)]
    if not scaled or not all(mode_of(source, node) == EVAL for node in scaled):
        return
    if any(close(f, 1 / keep) for f, _ in found.masks.factors) or found.masks.words:
        return
    calls = source.callers(function)
    if all(mode_of(source, call) == TRAIN for call in calls):
        yield from calls


def scales_again(source: Source, found: DropoutUse) -> Iterator[cst.CSTNode]:
    """Products with the keep probability in evaluation, where training has divided by it."""
    keep, function = found.use.coins[0].keep, found.masks.function
    if mode_of(source, found.use.node) == EVAL:
        return
    if not any(close(f, 1 / keep) and _by_mode(source, n) for f, n in found.masks.factors):
        return
    for factor, node in found.masks.factors:
        here = source.function_of(node) is function
        at_fault = here and close(factor, keep) and mode_of(source, node) == EVAL
        if at_fault and _by_mode(source, node):
            yield node


def _by_mode(source: Source, node: cst.CSTNode) -> bool:
    """Whether nothing but the mode decides if `node` runs: no option to scale or not."""
    child = node
    for around in source.ancestors(node):
        match around:
            case cst.If(test=test) | cst.IfExp(test=test):
                if child is not test and not polarity(test):
                    return False
        if isinstance(around, cst.FunctionDef):
            return True
        child = around
    return True
