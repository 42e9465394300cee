"""What one file says of a `torch.autograd.Function`: its forward, its backward, its masks."""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from dropaudit.static.facts import ClassFacts
from dropaudit.static.randomness import draws, mask_draws
from dropaudit.static.source import Source, is_name
from dropaudit.static.walk import descend

_REPLAY = re.compile(
    r"seed|rng|generator|getstate|setstate|(^|_)state$|philox|offset", re.IGNORECASE
)
_ON_PURPOSE = re.compile(
    r"shake|straight|\bste\b|binari|quanti|round|stochastic|gumbel|noise|perturb|checkpoint"
    r"|revers|sampl|spik",
    re.IGNORECASE,
)


class FunctionFacts:
    """The two halves of an autograd Function; None of them is guessed."""

    def __init__(self, facts: ClassFacts, source: Source) -> None:
        self.facts = facts
        self.forward = facts.method("forward")
        self.backward = facts.method("backward")
        self._source = source

    @property
    def complete(self) -> bool:
        """Whether both halves stand in this file and nothing says that they differ on purpose."""
        if self.forward is None or self.backward is None:
            return False
        said = [self.facts.name, self.facts.node.get_docstring() or ""]
        for method in self._every():
            if method not in (self.forward, self.backward):
                said.append(method.name.value)
            said.append(method.get_docstring() or "")
        return not _ON_PURPOSE.search(" ".join(said))

    @property
    def replays(self) -> bool:
        """Whether a seed, a state or a generator is handed over."""
        return any(
            _REPLAY.search(node.value)
            for method in self._every()
            for node in descend(method)
            if isinstance(node, cst.Name)
        )

    def _every(self) -> list[cst.FunctionDef]:
        """Both halves and the helpers that they call."""
        halves = [m for m in (self.forward, self.backward) if m is not None]
        return halves + [helper for half in halves for _, helper in self.helpers(half)]

    def masks(self, method: cst.FunctionDef) -> list[cst.Call]:
        """The draws of `method` that make a mask, and its calls of helpers that make one."""
        found = list(mask_draws(self._source, method.body))
        for call, helper in self.helpers(method):
            if any(True for _ in mask_draws(self._source, helper.body)):
                found.append(call)
        return found

    def draws(self, method: cst.FunctionDef) -> list[cst.Call]:
        """All draws of `method`, and its calls of helpers that draw."""
        found = list(draws(self._source, method.body))
        for call, helper in self.helpers(method):
            if any(True for _ in draws(self._source, helper.body)):
                found.append(call)
        return found

    def helpers(self, method: cst.FunctionDef) -> Iterator[tuple[cst.Call, cst.FunctionDef]]:
        """The calls in `method` of functions of this file, and of methods by the class's name."""
        for call in descend(method.body):
            if not isinstance(call, cst.Call):
                continue
            helper: cst.CSTNode | None = self._source.definition(call.func)
            match call.func:
                case cst.Attribute(value=owner, attr=cst.Name(value=name)) if helper is None:
                    known = self._source.definition(owner)
                    if isinstance(known, cst.ClassDef):
                        helper = self._source.facts(known).method(name)
            if isinstance(helper, cst.FunctionDef) and helper is not method:
                yield call, helper

    def gradient_names(self) -> set[str]:
        """The parameters of backward after the context."""
        assert self.backward is not None
        params = self.backward.params
        names = {p.name.value for p in params.params[1:]}
        if isinstance(params.star_arg, cst.Param):
            names.add(params.star_arg.name.value)
        return names

    def bare_masks(self) -> list[str]:
        """What forward saves of its masks, by name, where no scale is in them."""
        assert self.forward is not None
        saved = self._saved()
        found = []
        for draw in self.masks(self.forward):
            statement = self._source.statement_of(draw)
            if not isinstance(statement, cst.Assign) or len(statement.targets) != 1:
                return []
            target = statement.targets[0].target
            if not isinstance(target, cst.Name) or len(self._source.bindings(target)) != 1:
                return []
            if target.value in saved and not _may_scale(statement.value, target, self.forward):
                found.append(target.value)
        return found if len(saved) == 1 else []

    def is_saved_mask(self, node: cst.BaseExpression) -> bool:
        """Whether `node`, in backward, is the one tensor that forward saved."""
        while isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute):
            if node.func.attr.value not in ("to", "type_as", "float", "type"):
                return False
            node = node.func.value
        if isinstance(node, cst.Name):
            bindings = self._source.bindings(node)
            binding = bindings[0].node if len(bindings) == 1 else None
            return isinstance(binding, cst.Assign) and "saved_tensors" in self._source.text(binding)
        text = self._source.text(node)
        return text.endswith("saved_tensors[0]") or text in {f"ctx.{n}" for n in self.bare_masks()}

    def only_value(self, name: cst.Name) -> cst.BaseExpression | None:
        """What `name` is assigned, where it is bound once."""
        bindings = self._source.bindings(name)
        return bindings[0].value if len(bindings) == 1 else None

    def _saved(self) -> set[str]:
        """The names of what forward hands to `save_for_backward` or puts on the context."""
        assert self.forward is not None
        found = set()
        for node in descend(self.forward.body):
            match node:
                case cst.Call(
                    func=cst.Attribute(attr=cst.Name(value="save_for_backward")), args=args
                ):
                    found |= {self._source.text(a.value) for a in args}
                case cst.Assign(
                    targets=[cst.AssignTarget(target=cst.Attribute(value=cst.Name(value="ctx")))],
                    value=cst.Name(value=name),
                ) if name == "mask":
                    found.add(name)
        return found

    def context_reads(self) -> Iterator[str]:
        """The attributes of the context that backward reads."""
        assert self.backward is not None
        if not self.backward.params.params:
            return
        context = self.backward.params.params[0].name.value
        for node in descend(self.backward.body):
            if isinstance(node, cst.Attribute) and is_name(node.value, context):
                yield node.attr.value

    def multiplies_by(self, draw: cst.Call) -> bool:
        """Whether forward multiplies something by what `draw` gives, directly or by a name.

        A helper that draws may do so itself.
        """
        assert self.forward is not None
        helper = next((h for c, h in self.helpers(self.forward) if c is draw), None)
        if helper is not None and any(
            self._multiplies(one, helper) for one in mask_draws(self._source, helper.body)
        ):
            return True
        return self._multiplies(draw, self.forward)

    def _multiplies(self, draw: cst.Call, function: cst.FunctionDef) -> bool:
        names = {""}
        for around in self._source.ancestors(draw):
            if isinstance(around, cst.BinaryOperation) and isinstance(
                around.operator, cst.Multiply
            ):
                return True
            if isinstance(around, cst.Assign):
                names |= {t.target.value for t in around.targets if isinstance(t.target, cst.Name)}
                break
            if isinstance(around, cst.BaseStatement):
                break
        for node in descend(function.body):
            match node:
                case cst.BinaryOperation(left=left, right=right, operator=cst.Multiply()):
                    sides = (left, right)
                case cst.Call(
                    func=cst.Attribute(value=left, attr=cst.Name(value="mul" | "mul_")),
                    args=[cst.Arg(value=right), *_],
                ):
                    sides = (left, right)
                case cst.AugAssign(target=left, value=right, operator=cst.MultiplyAssign()):
                    sides = (left, right)
                case _:
                    continue
            if any(isinstance(s, cst.Name) and s.value in names for s in sides):
                return True
        return False


def is_bare_product(function: FunctionFacts, value: cst.BaseExpression | None) -> bool:
    """Whether the first gradient returned is one that came in times something saved, no more."""
    if isinstance(value, cst.Tuple) and value.elements:
        value = value.elements[0].value
    if isinstance(value, cst.Name):
        value = function.only_value(value)
    match value:
        case cst.BinaryOperation(left=left, right=right, operator=cst.Multiply()):
            sides = [left, right]
        case cst.Call(
            func=cst.Attribute(value=left, attr=cst.Name(value="mul")), args=[cst.Arg(value=right)]
        ):
            sides = [left, right]
        case _:
            return False
    gradients = function.gradient_names()
    rest = [s for s in sides if not (isinstance(s, cst.Name) and s.value in gradients)]
    return len(rest) == 1 and function.is_saved_mask(rest[0])


def functions(source: Source, node: cst.ClassDef) -> FunctionFacts | None:
    """The facts of `node` where it is a complete autograd Function."""
    facts = source.facts(node)
    if not facts.is_function:
        return None
    found = FunctionFacts(facts, source)
    return found if found.complete else None


def _may_scale(value: cst.CSTNode, target: cst.Name, function: cst.FunctionDef) -> bool:
    """Whether a mask is divided or multiplied where it is made, or in place later."""
    scaling = (cst.Divide, cst.Multiply, cst.DivideAssign, cst.MultiplyAssign)
    for node in descend(value):
        operator = getattr(node, "operator", None)
        if isinstance(operator, scaling) or _in_place(node) in ("div", "div_", "mul", "mul_"):
            return True
    return any(
        _in_place(node) in ("div_", "mul_") and is_name(node.func.value, target.value)  # type: ignore[attr-defined]
        for node in descend(function.body)
    )


def _in_place(node: cst.CSTNode) -> str:
    match node:
        case cst.Call(func=cst.Attribute(attr=cst.Name(value=name))):
            return name
    return ""
