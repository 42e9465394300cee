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
        said = " ".join([self.facts.name, self.facts.node.get_docstring() or ""])
        for method in (self.forward, self.backward):
            said += " " + (method.get_docstring() or "")
        return not _ON_PURPOSE.search(said)

    @property
    def replays(self) -> bool:
        """Whether a seed, a state or a generator is handed over."""
        return any(
            _REPLAY.search(node.value)
            for method in (self.forward, self.backward)
            if method is not None
            for node in descend(method)
            if isinstance(node, cst.Name)
        )

    def masks(self, method: cst.FunctionDef) -> list[cst.Call]:
        """The draws of `method` that make a mask."""
        return list(mask_draws(self._source, method.body))

    def draws(self, method: cst.FunctionDef) -> list[cst.Call]:
        """All draws of `method`."""
        return list(draws(self._source, method.body))

    def gradient_names(self) -> set[str]:
        """The parameters of backward after the context."""
        assert self.backward is not None
        params = self.backward.params
        names = {p.name.value for p in params.params[1:]}
        if isinstance(params.star_arg, cst.Param):
            names.add(params.star_arg.name.value)
        return names

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
        """Whether forward multiplies something by what `draw` gives, directly or by a name."""
        assert self.forward is not None
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
        for node in descend(self.forward.body):
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


def functions(source: Source, node: cst.ClassDef) -> FunctionFacts | None:
    """The facts of `node` where it is a complete autograd Function."""
    facts = source.facts(node)
    if not facts.is_function:
        return None
    found = FunctionFacts(facts, source)
    return found if found.complete else None
