"""Does this code hear about train and eval? Guards, early returns, rates computed from the mode."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import libcst as cst

from dropaudit.static import expectations
from dropaudit.static.names import Binding, Kind
from dropaudit.static.purpose import MODE_WORD as MODE_WORD
from dropaudit.static.purpose import PURPOSE, says_on_purpose, words
from dropaudit.static.scalars import RATE
from dropaudit.static.source import Source, is_name, self_attribute, statements
from dropaudit.static.walk import children, descend

if TYPE_CHECKING:
    from dropaudit.static.facts import ClassFacts

# Words that name the mode of a network only in some comparisons: `mode == "train"`.
_WEAK_WORD = re.compile(
    r"^_*(run_?|cur_?|current_?)?(mode|phase|stage|split|state)_*$", re.IGNORECASE
)
_MODE_VALUE = re.compile(r"train|eval|val\b|valid|test|infer|predict|fit|\bTR", re.IGNORECASE)
_TARGET = re.compile(
    r"^_?(y|gt\w*|tgt|trg|targets?|labels?|ground_truths?|\w+_(targets?|labels?|gt))$"
)
_TRAINING_FUNCTION = re.compile(r"(^|_)(train|training)(_|$)", re.IGNORECASE)
_GATE = re.compile(r"(only|when|if|during|in|while)_?\w*train|train(ing)?_?only", re.IGNORECASE)
_EXITS = (cst.Return, cst.Raise, cst.Continue, cst.Break)
_LOOPS = (cst.ListComp, cst.SetComp, cst.DictComp, cst.GeneratorExp)
_SWITCHES = ("train", "eval", "set_mode")
_CASTS = frozenset(("float", "int", "bool", "max", "min", "abs", "getattr", "round", "next"))


class Modes:
    """Questions about train and eval mode, asked of one file."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._known: dict[object, bool] = {}
        self._asked: set[object] = set()  # by the question that is being answered
        self._level = 0
        self._attributes: dict[tuple[cst.ClassDef, str], list[Binding]] = {}

    def decides(self, node: cst.CSTNode | None) -> bool:
        """Whether the value of `node` depends on the mode, followed through locals and helpers."""
        if node is None:
            return False
        return self._ask(node, lambda: any(self._names_mode(n) for n in self._relevant(node)))

    def guards(self, node: cst.CSTNode) -> bool:
        """Whether `node` only runs, or only counts, in one of the modes.

        Branches, conditional expressions, `and`, early returns, loops over a condition; up
        through nested functions to the method. A function that is named after training, or
        decorated so, is a guard too.
        """
        return self._ask(("guards", node), lambda: self._is_guarded(node))

    def callers_guard(self, function: cst.FunctionDef, depth: int = 0) -> bool:
        """Whether every call of `function` in this file is guarded or hands the mode over."""
        calls = self._source.callers(function)
        return bool(calls) and all(self.call_guarded(c, depth) for c in calls)

    def call_guarded(self, call: cst.Call, depth: int = 0) -> bool:
        """Whether `call` only runs in one mode or passes something that depends on the mode."""
        if self.guards(call) or any(self.decides(a.value) for a in call.args):
            return True
        around = self._source.function_of(call)
        return around is not None and depth < 3 and self.callers_guard(around, depth + 1)

    def on_purpose(self, node: cst.CSTNode) -> bool:
        """Whether a name, docstring or comment around `node` says that it drops on purpose.

        Only the function and the class around count, their options and the patterns of
        `always-on`: a sibling class says nothing.
        """
        line = self._source.enclosing(node, cst.SimpleStatementLine)
        if line is not None and says_on_purpose(_comments(line)):
            return True
        child = node
        for around in self._source.ancestors(node):
            if isinstance(around, (cst.FunctionDef, cst.ClassDef)):
                if self._always_on(around.name.value):
                    return True
                if says_on_purpose(around.get_docstring(clean=False) or ""):
                    return True
                if isinstance(around, cst.ClassDef) and any(
                    self._always_on(n.rsplit(".", 1)[-1])
                    for n in self._source.facts(around).foreign_bases
                ):
                    return True
            elif isinstance(around, (cst.If, cst.IfExp)) and child is not around.test:
                if PURPOSE.search(self._source.text(around.test)):
                    return True
                header = getattr(around, "leading_lines", ())
                if says_on_purpose(" ".join(e.comment.value for e in header if e.comment)):
                    return True
            child = around
        return False

    def in_test(self, node: cst.CSTNode) -> bool:
        """Whether `node` stands in a test function, a test case or a file of tests."""
        name = self._source.path.replace("\\", "/").rsplit("/", 1)[-1]
        if name.endswith("_test.py") or name == "conftest.py":
            return True
        return expectations.in_test(self._source, node)

    def _ask(self, key: object, answer: Callable[[], bool]) -> bool:
        """The answer to one question, each asked once: what leads in a circle is no evidence."""
        if key in self._known:
            return self._known[key]
        if key in self._asked or self._level > 60:
            return False
        self._asked.add(key)
        self._level += 1
        try:
            found = answer()
        finally:
            self._level -= 1
        if found:
            self._known[key] = True
        if not self._level:  # all that the first question led to has been looked at
            for one in self._asked:
                self._known.setdefault(one, False)
            self._asked.clear()
        return found

    # -- what names the mode ---------------------------------------------------------------

    def _relevant(self, node: cst.CSTNode) -> Iterator[cst.CSTNode]:
        """The code below `node` without calls that take the mode but give a tensor back."""
        stack = [node]
        while stack:
            one = stack.pop()
            if isinstance(one, cst.Call) and self._gives_tensor(one):
                continue
            yield one
            stack.extend(reversed(children(one)))

    def _gives_tensor(self, call: cst.Call) -> bool:
        if any(a.keyword is not None and a.keyword.value == "training" for a in call.args):
            return True
        name = self._source.name_of(call.func)
        return name.startswith("torch.") and not name.startswith(("torch.is_", "torch.tensor"))

    def _names_mode(self, node: cst.CSTNode) -> bool:
        if isinstance(node, cst.Attribute):
            word = node.attr.value
            if MODE_WORD.match(word) and not self._is_called(node):
                return True
            if _WEAK_WORD.match(word) and self._compared_with_mode(node):
                return True
            name = self_attribute(node)
            return bool(name) and self._attribute_decides(node, name)
        if isinstance(node, cst.Name):
            parent = self._source.parents.get(node)
            if isinstance(parent, cst.Attribute) and parent.attr is node:
                return False
            if isinstance(parent, cst.Arg) and parent.keyword is node:
                return False
            if MODE_WORD.match(node.value):
                return True
            if _WEAK_WORD.match(node.value) and self._compared_with_mode(node):
                return True
            return self._local_decides(node)
        if isinstance(node, cst.SimpleString):  # getattr(self, "training"), options["training"]
            parent = self._source.parents.get(node)
            held = isinstance(parent, (cst.Index, cst.Arg))
            return held and bool(MODE_WORD.match(node.value.strip("'\"")))
        if isinstance(node, cst.Comparison) and len(node.comparisons) == 1:
            one = node.comparisons[0]
            if isinstance(one.operator, (cst.Is, cst.IsNot)) and is_name(one.comparator, "None"):
                return isinstance(node.left, cst.Name) and bool(_TARGET.match(node.left.value))
        return False

    def _is_called(self, node: cst.CSTNode) -> bool:
        parent = self._source.parents.get(node)
        return isinstance(parent, cst.Call) and parent.func is node

    def _compared_with_mode(self, node: cst.CSTNode) -> bool:
        """Whether `mode` and its like are compared with a mode, or simply true or false."""
        child = node
        for around in self._source.ancestors(node):
            if isinstance(around, cst.Comparison):
                rest = "".join(
                    self._source.text(c)
                    for c in (around.left, *(t.comparator for t in around.comparisons))
                    if c is not node
                )
                return bool(_MODE_VALUE.search(rest))
            if isinstance(around, (cst.If, cst.IfExp, cst.While)):
                return child is around.test
            if isinstance(around, cst.Match):
                return any(_MODE_VALUE.search(self._source.text(c.pattern)) for c in around.cases)
            if not isinstance(
                around, (cst.ComparisonTarget, cst.UnaryOperation, cst.BooleanOperation)
            ):
                return False
            child = around
        return False

    def _local_decides(self, name: cst.Name) -> bool:
        optional = self._is_compared_with_none(name)
        return any(
            (optional and binding.kind is Kind.ASSIGNMENT and self.guards(binding.node))
            or self._binding_decides(binding)
            for binding in self._source.bindings(name)
        )

    def _binding_decides(self, binding: Binding) -> bool:
        return self._ask(binding, lambda: self._decided(binding))

    def _decided(self, binding: Binding) -> bool:
        node = binding.node
        if binding.kind is Kind.ASSIGNMENT:
            if not self._takes_tensor(binding.value) and self.decides(binding.value):
                return True
            return self._is_scalar(binding.value) and self.guards(node)
        if binding.kind is Kind.OTHER:
            if isinstance(node, cst.AugAssign):
                scalar = self._is_scalar(node.value)
                return scalar and (self.decides(node.value) or self.guards(node))
            if not isinstance(node, cst.Assign) or self._takes_tensor(node.value):
                return False
            return self.decides(node.value)
        if binding.kind is Kind.FUNCTION:
            return self.decides(getattr(node, "body", None))
        return False

    def _takes_tensor(self, value: cst.CSTNode | None) -> bool:
        """Whether `value` is what a call makes of some local: `y = block(x, self.training)`."""
        if not isinstance(value, cst.Call) or self._source.name_of(value.func) in _CASTS:
            return False
        names = (a.value.value for a in value.args if isinstance(a.value, cst.Name))
        return any(not MODE_WORD.match(n) and not RATE.search(n) for n in names)

    def _is_scalar(self, value: cst.CSTNode | None) -> bool:
        """Whether nothing in `value` could make a tensor of it."""
        return value is not None and all(
            not isinstance(n, cst.Call) or self._source.name_of(n.func) in _CASTS
            for n in descend(value)
        )

    def _is_compared_with_none(self, name: cst.Name) -> bool:
        parent = self._source.parents.get(name)
        if not isinstance(parent, cst.Comparison) or len(parent.comparisons) != 1:
            return False
        return is_name(parent.comparisons[0].comparator, "None")

    def _attribute_decides(self, node: cst.CSTNode, name: str) -> bool:
        facts = self._source.class_of(node)
        if facts is None:
            return False
        return any(self._binding_decides(b) for b in self._attribute_bindings(facts, name))

    def _attribute_bindings(self, facts: ClassFacts, name: str) -> list[Binding]:
        key = (facts.node, name)
        if key not in self._attributes:
            self._attributes[key] = list(_attribute_bindings(facts, name))
        return self._attributes[key]

    # -- what guards -----------------------------------------------------------------------

    def _branches(self, around: cst.CSTNode, child: cst.CSTNode) -> bool:
        match around:
            case cst.If(test=test) | cst.While(test=test) | cst.IfExp(test=test):
                return child is not test and self.decides(test)
            case cst.BooleanOperation(left=left, right=right):
                return child is right and self.decides(left)
            case cst.Match(subject=subject):
                return child is not subject and self.decides(subject)
        if isinstance(around, _LOOPS):
            return any(self.decides(c.test) for c in around.for_in.ifs)
        return False

    def _is_guarded(self, node: cst.CSTNode) -> bool:
        child = node
        for around in self._source.ancestors(node):
            if isinstance(around, cst.ClassDef):
                return False
            if self._branches(around, child) or self._left_early(around, child):
                return True
            if isinstance(around, cst.FunctionDef) and self._for_training(around):
                return True
            child = around
        return False

    def _left_early(self, block: cst.CSTNode, child: cst.CSTNode) -> bool:
        body = getattr(block, "body", None)
        if not isinstance(body, (list, tuple)):
            return False
        for statement in body:
            if statement is child:
                return False
            if isinstance(statement, cst.If) and self._exits_by_mode(statement):
                return True
            if isinstance(statement, cst.SimpleStatementLine):
                for small in statement.body:
                    if isinstance(small, cst.Assert) and self.decides(small.test):
                        return True
        return False

    def _exits_by_mode(self, statement: cst.If) -> bool:
        arm: cst.BaseCompoundStatement | None = statement
        decided = False
        while arm is not None:
            if isinstance(arm, cst.If):
                decided = decided or self.decides(arm.test)
            if decided and any(isinstance(s, _EXITS) for s in statements(arm)):
                return True
            arm = getattr(arm, "orelse", None)
        return False

    def _for_training(self, function: cst.FunctionDef) -> bool:
        if _TRAINING_FUNCTION.search(words(function.name.value)):
            return True
        decorators = (self._source.text(d.decorator) for d in function.decorators)
        return any(_GATE.search(text) for text in decorators)

    def _always_on(self, name: str) -> bool:
        if any(fnmatchcase(name, pattern) for pattern in self._source.options.always_on):
            return True
        return bool(PURPOSE.search(words(name)))


def _attribute_bindings(facts: ClassFacts, name: str) -> Iterator[Binding]:
    """A method or property called `name`, or the assignments to `self.name` that may say the mode.

    A switch that train() sets counts by itself; the value that `__init__` gives never does.
    """
    method = facts.method(name)
    if method is not None:
        yield Binding(Kind.FUNCTION, method)
        return
    for one in (a for f in facts.lineage for a in f.assigned if a.name == name):
        if one.method.name.value in _SWITCHES:
            yield Binding(Kind.ASSIGNMENT, one.value, value=cst.Name("training"))
        elif one.method.name.value != "__init__":
            yield Binding(Kind.ASSIGNMENT, one.value, value=one.value)


def _comments(line: cst.SimpleStatementLine) -> str:
    found = [e.comment.value for e in line.leading_lines if e.comment is not None]
    if line.trailing_whitespace.comment is not None:
        found.append(line.trailing_whitespace.comment.value)
    return " ".join(found)
