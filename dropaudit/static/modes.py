"""Does this code hear about train and eval? Guards, early returns, rates computed from the mode."""

from __future__ import annotations

import re

import libcst as cst

from dropaudit.static.names import Kind
from dropaudit.static.source import Source, self_attribute, statements
from dropaudit.static.walk import descend

MODE_WORD = re.compile(
    r"^_?(is_?|in_?|do_?|use_?|when_?|if_?|for_?)*_?(train|training|trainning|train_mode|train_flag"
    r"|training_mode|train_phase|eval|evaluate|evaluation|eval_mode|inference|infer|inferring"
    r"|inference_mode|test|testing|test_mode|deterministic|mode|phase|stage|predict|prediction"
    r"|predicting|generate|generating|sampling|val|valid|validation)_?$",
    re.IGNORECASE,
)
_ON_PURPOSE = re.compile(
    r"pre_?-?net(?![a-z])|\bmc[_ -]?|mc_?drop|monte[_ -]?carlo|bayes|uncertain|epistemic|stochastic"
    r"|ensembl|always|concrete_?dropout|variational_inference|(?<!locked)test[_ -]time|at inference",
    re.IGNORECASE,
)
_EXITS = (cst.Return, cst.Raise, cst.Continue, cst.Break)
_LOOPS = (cst.ListComp, cst.SetComp, cst.DictComp, cst.GeneratorExp)


class Modes:
    """Questions about train and eval mode, asked of one file."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._running: set[cst.CSTNode] = set()

    def decides(self, node: cst.CSTNode | None, depth: int = 0) -> bool:
        """Whether the value of `node` depends on the mode, followed through locals and helpers."""
        if node is None or depth > 4 or node in self._running:
            return False
        self._running.add(node)
        try:
            return any(self._names_mode(n, depth) for n in descend(node))
        finally:
            self._running.discard(node)

    def guards(self, node: cst.CSTNode) -> bool:
        """Whether `node` only runs, or only counts, in one of the modes.

        Branches, conditional expressions, `and`, early returns, loops over a condition; up
        through nested functions to the method.
        """
        child = node
        for around in self._source.ancestors(node):
            if isinstance(around, cst.ClassDef):
                return False
            if self._branches(around, child) or self._left_early(around, child):
                return True
            child = around
        return False

    def callers_guard(self, function: cst.FunctionDef, depth: int = 0) -> bool:
        """Whether every call of `function` in this file is guarded or hands the mode over."""
        calls = self._source.callers(function)
        return bool(calls) and all(self._call_guarded(c, depth) for c in calls)

    def on_purpose(self, node: cst.CSTNode) -> bool:
        """Whether a name, docstring or comment around `node` says that it drops on purpose.

        Only the function and the class around count: a sibling class says nothing.
        """
        line = self._source.enclosing(node, cst.SimpleStatementLine)
        if line is not None and _ON_PURPOSE.search(_comments(line)):
            return True
        for around in self._source.ancestors(node):
            if isinstance(around, (cst.FunctionDef, cst.ClassDef)):
                if _ON_PURPOSE.search(_words(around.name.value)):
                    return True
                if _ON_PURPOSE.search(around.get_docstring(clean=False) or ""):
                    return True
        return False

    def in_test(self, node: cst.CSTNode) -> bool:
        """Whether `node` stands in a test function or test case."""
        for around in self._source.ancestors(node):
            if isinstance(around, cst.FunctionDef) and around.name.value.startswith("test"):
                return True
            if isinstance(around, cst.ClassDef) and re.match(r"^_?Tests?[A-Z_]|.*TestCase$", around.name.value):
                return True
        name = self._source.path.replace("\\", "/").rsplit("/", 1)[-1]
        return name.startswith("test_") or name.endswith("_test.py") or name == "conftest.py"

    def _names_mode(self, node: cst.CSTNode, depth: int) -> bool:
        if isinstance(node, cst.Attribute):
            if MODE_WORD.match(node.attr.value):
                return True
            name = self_attribute(node)
            return bool(name) and self._attribute_decides(node, name, depth)
        if isinstance(node, cst.Name):
            parent = self._source.parents.get(node)
            if isinstance(parent, cst.Attribute) and parent.attr is node:
                return False
            if isinstance(parent, cst.Arg) and parent.keyword is node:
                return False
            return bool(MODE_WORD.match(node.value)) or self._local_decides(node, depth)
        return False

    def _local_decides(self, name: cst.Name, depth: int) -> bool:
        for binding in self._source.bindings(name):
            if binding.kind is Kind.ASSIGNMENT:
                if self.decides(binding.value, depth + 1) or self.guards(binding.node):
                    return True
            elif binding.kind is Kind.OTHER:
                value = getattr(binding.node, "value", None)
                if self.decides(value, depth + 1) or self.guards(binding.node):
                    return True
            elif binding.kind is Kind.FUNCTION and depth < 3:
                if self.decides(binding.node.body, depth + 1):  # type: ignore[attr-defined]
                    return True
        return False

    def _attribute_decides(self, node: cst.CSTNode, name: str, depth: int) -> bool:
        facts = self._source.class_of(node)
        if facts is None or depth > 3:
            return False
        method = facts.method(name)
        if method is not None:
            return self.decides(method.body, depth + 1)
        for one in (a for f in facts.lineage for a in f.assigned if a.name == name):
            if one.method.name.value in ("train", "eval", "set_mode"):
                return True
            if one.method.name.value != "__init__" and self.decides(one.value, depth + 1):
                return True
        return False

    def _branches(self, around: cst.CSTNode, child: cst.CSTNode) -> bool:
        match around:
            case cst.If(test=test) | cst.While(test=test) | cst.IfExp(test=test):
                return child is not test and self.decides(test)
            case cst.BooleanOperation(left=left, right=right):
                return child is right and self.decides(left)
            case cst.Match(subject=subject):
                return child is not subject and self.decides(subject)
            case cst.CompIf(test=test):
                return False
        if isinstance(around, _LOOPS):
            return any(self.decides(c.test) for c in around.for_in.ifs)
        return False

    def _left_early(self, block: cst.CSTNode, child: cst.CSTNode) -> bool:
        body = getattr(block, "body", None)
        if not isinstance(body, (list, tuple)):
            return False
        for statement in body:
            if statement is child:
                return False
            if isinstance(statement, cst.If) and self.decides(statement.test):
                if any(isinstance(s, _EXITS) for s in statements(statement)):
                    return True
                other = statement.orelse
                if other is not None and any(isinstance(s, _EXITS) for s in statements(other)):
                    return True
            if isinstance(statement, cst.SimpleStatementLine):
                for small in statement.body:
                    if isinstance(small, cst.Assert) and self.decides(small.test):
                        return True
        return False

    def _call_guarded(self, call: cst.Call, depth: int) -> bool:
        if self.guards(call) or any(self.decides(a.value) for a in call.args):
            return True
        around = self._source.function_of(call)
        return around is not None and depth < 2 and self.callers_guard(around, depth + 1)


def _words(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)


def _comments(line: cst.SimpleStatementLine) -> str:
    found = [e.comment.value for e in line.leading_lines if e.comment is not None]
    if line.trailing_whitespace.comment is not None:
        found.append(line.trailing_whitespace.comment.value)
    return " ".join(found)
