"""What the expressions of a function come from, as far as dropout cares.

A value is the set of things that it may come from: a dropout, a parameter, or anything else. What
only changes the shape, the type or the place of a tensor hands its value on, everything else makes
it anything. Calls of functions, methods and modules of the same file are looked through.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

import libcst as cst

from dropaudit.static.dropmodules import Value, module_builders, passed_values
from dropaudit.static.droppers import (
    Dropper,
    built_dropper,
    called_dropper,
    is_switch,
    named_dropper,
)
from dropaudit.static.names import target_names
from dropaudit.static.source import Source, self_attribute
from dropaudit.static.unread import params
from dropaudit.static.walk import children, descend

Places = dict[str, Value]

OTHER: Value = (None,)
_NESTED = 60  # calls inside calls inside one expression
_SAME_METHODS_TEXT = (
    "view view_as reshape reshape_as transpose permute t squeeze unsqueeze flatten unflatten "
    "contiguous swapaxes swapdims movedim moveaxis chunk split unbind narrow expand expand_as to "
    "cuda cpu half float double bfloat16 type type_as clone detach squeeze_ unsqueeze_ transpose_ "
    "select index_select tensor_split"
)
_SAME_METHODS = frozenset(_SAME_METHODS_TEXT.split())
_SAME_FUNCTIONS = re.compile(
    r"torch\.(transpose|permute|squeeze|unsqueeze|flatten|reshape|chunk|split|unbind|swapaxes"
    r"|movedim|narrow|clone|select|index_select|t)$|einops\.rearrange$"
)
_JOINS = ("torch.cat", "torch.stack", "torch.concat", "torch.hstack", "torch.vstack")
_SAME_MODULES = re.compile(
    r"torch\.nn\.(Identity|Flatten|Unflatten)$|einops\.layers\.torch\.Rearrange$"
)
_NAMED_DROPOUT = re.compile(r"(^|\.)[A-Z]\w*Dropout\d?d?$|(^|\.)Dropout$")
_COMPREHENSIONS = (cst.ListComp, cst.SetComp, cst.GeneratorExp, cst.DictComp)


@dataclass(frozen=True, eq=False)
class Doubled:
    """A dropout of what another one has just dropped.

    `call` is where the second is applied; `inside` says that it is the first act of what is
    called there. `input` is what the call is given.
    """

    call: cst.Call
    second: Dropper
    first: Dropper
    input: cst.BaseExpression
    inside: bool = False


@dataclass(eq=False)
class Summary:
    """What a function does to the tensors it is given."""

    returns: list[Value] = field(default_factory=list)
    first_acts: dict[cst.Param, list[Dropper]] = field(default_factory=dict)


class DropValues:
    """The values of the expressions of one function, given those of the names in `places`.

    `places` is None where no code runs: after a return.
    """

    def __init__(
        self,
        source: Source,
        function: cst.FunctionDef,
        summary_of: Callable[[cst.FunctionDef], Summary | None],
    ) -> None:
        self.source = source
        self.summary = Summary()
        self.places: Places | None = {p.name.value: (p,) for p in params(function)}
        self.doubled: dict[int, Doubled | None] = {}
        self.uses: dict[Dropper, set[int]] = {}
        self._function = function
        self._summary_of = summary_of
        self._applied: dict[tuple[int, int], Dropper] = {}
        self._level = 0

    def assign(self, target: cst.CSTNode, value: Value) -> None:
        """Put `value` under the names of `target`."""
        if self.places is None:
            return
        for name in target_names(target):
            self.places[name] = value
        if isinstance(target, cst.Subscript):
            self.inside(target)
            base = target.value
            if isinstance(base, cst.Name):
                self.places[base.value] = OTHER

    # -- expressions -----------------------------------------------------------------------

    def value(self, node: cst.CSTNode) -> Value:
        """What `node` may come from; notes the dropouts on the way."""
        if self._level > _NESTED:
            return OTHER
        self._level += 1
        try:
            return self._value(node)
        finally:
            self._level -= 1

    def _value(self, node: cst.CSTNode) -> Value:
        match node:
            case cst.Name(value=name):
                found = (self.places or {}).get(name, OTHER)
                for origin in found:
                    if isinstance(origin, Dropper):
                        self.uses.setdefault(origin, set()).add(id(node))
                return found
            case cst.Call():
                return self._call(node)
            case cst.Subscript(value=value, slice=slices):
                for one in slices:
                    self.inside(one)
                return self.value(value)
            case cst.IfExp(test=test, body=body, orelse=orelse):
                self.value(test)
                arms = [self.value(body), self.value(orelse)]
                if is_switch(self.source, test):
                    arms = [a for a in arms if all(isinstance(o, Dropper) for o in a)] or arms
                return merged(arms)
            case cst.NamedExpr(target=target, value=value):
                found = self.value(value)
                self.assign(target, found)
                return found
            case cst.Lambda():
                return OTHER
            case cst.Attribute(value=value, attr=cst.Name(value="T" | "mT" | "data")):
                return self.value(value)
        self.inside(node)
        return OTHER

    def inside(self, node: cst.CSTNode) -> None:
        """The values of all calls below `node`, however deep the operators are nested."""
        stack = list(reversed(children(node)))
        while stack:
            one = stack.pop()
            if isinstance(one, (cst.Call, cst.IfExp, cst.NamedExpr, cst.Name, cst.Subscript)):
                self.value(one)
            elif isinstance(one, _COMPREHENSIONS):
                self._comprehension(one)
            elif isinstance(one, (cst.Arg, cst.Attribute)):
                stack.append(one.value)
            elif not isinstance(one, cst.Lambda):
                stack.extend(reversed(children(one)))

    def _comprehension(self, node: cst.CSTNode) -> None:
        before = None if self.places is None else dict(self.places)
        for part in descend(node):
            if isinstance(part, cst.CompFor):
                self.assign(part.target, OTHER)
        self.inside(node)
        self.places = before

    def _call(self, call: cst.Call) -> Value:
        found = called_dropper(self.source, call)
        if found is not None:
            return self._drop(call, found[0], found[1])
        func = call.func
        name = self.source.name_of(func)
        match func:
            case cst.Attribute(value=owner, attr=cst.Name(value=method)):
                if method in _SAME_METHODS and not name.startswith("torch."):
                    self._arguments(call)
                    return self.value(owner)
        if call.args and _SAME_FUNCTIONS.match(name):
            given = self._arguments(call)
            return given[0]
        if name in _JOINS and call.args:
            match call.args[0].value:
                case cst.List(elements=elements) | cst.Tuple(elements=elements) if elements:
                    return merged([self.value(e.value) for e in elements])
        definition = self.source.definition(func)
        if isinstance(definition, cst.FunctionDef):
            return self._through(call, definition, isinstance(func, cst.Attribute))
        modules = module_builders(self.source, func)
        if modules:
            return self._module(call, modules)
        by_name = named_dropper(self.source, call) if modules is None else None
        if by_name is not None:
            dropper = Dropper(call, self._key(func), by_name[0].kind)
            return self._drop(call, dropper, by_name[1])
        if not isinstance(func, cst.Name):
            self.inside(func)
        self._arguments(call)
        return OTHER

    def _arguments(self, call: cst.Call) -> list[Value]:
        return [self.value(a.value) for a in call.args]

    def _drop(self, call: cst.Call, second: Dropper, input: cst.BaseExpression) -> Value:
        for arg in call.args:
            if arg.value is not input:
                self.value(arg.value)
        return self._dropped(call, second, input, self.value(input))

    def _dropped(
        self,
        call: cst.Call,
        second: Dropper,
        input: cst.BaseExpression,
        value: Value,
        inside: bool = False,
    ) -> Value:
        """What `second` makes of `value`; notes it where all of that has just been dropped."""
        second = self._applied.setdefault((id(call), id(second.node)), _at(second, call))
        self.doubled[id(call)] = None
        if value and all(isinstance(o, Dropper) and second.doubles(o) for o in value):
            first = value[0]
            assert isinstance(first, Dropper)
            if first is not second:
                self.doubled[id(call)] = Doubled(call, second, first, input, inside)
        elif len(value) == 1 and isinstance(value[0], cst.Param):
            self.summary.first_acts.setdefault(value[0], []).append(second)
        return (second,)

    # -- modules and functions of this file ------------------------------------------------

    def _module(self, call: cst.Call, modules: list[tuple[cst.Call, bool]]) -> Value:
        given = self._arguments(call)
        if not call.args or call.args[0].star:
            return OTHER
        same = [(b, s) for b, s in modules if _SAME_MODULES.match(self.source.name_of(b.func))]
        rest = [one for one in modules if one not in same]
        if not rest:
            return given[0]
        key, sure = self._key(call.func), all(sure for _, sure in modules)
        noted = self.doubled.get(id(call))
        ends = [self._apply(call, built, given, call.args[0].value, key, sure) for built, _ in rest]
        if len(rest) > 1:  # which of them it is cannot be told
            self.doubled[id(call)] = noted
        return merged(ends)

    def _key(self, func: cst.BaseExpression) -> str:
        """What is equal for the same module, and for no other one of the file."""
        owner = self.source.class_of(func) if self_attribute(func) else None
        inside = self._function if owner is None else owner.node
        return f"{self.source.text(func)} of {id(inside)}"

    def _apply(
        self,
        call: cst.Call,
        built: cst.Call,
        given: list[Value],
        input: cst.BaseExpression,
        key: str,
        sure: bool,
        inside: bool = False,
    ) -> Value:
        """What the module that `built` constructs makes of the arguments `given` at `call`."""
        name = self.source.name_of(built.func)
        dropper = built_dropper(self.source, built, key, sure)
        if dropper is not None:
            return self._dropped(call, dropper, input, given[0], inside)
        if _SAME_MODULES.match(name):
            return given[0]
        if name == "torch.nn.Sequential":
            value, first = given[0], True
            for arg in built.args:
                entry = arg.value
                if arg.star or not isinstance(entry, cst.Call):
                    value, first = OTHER, False
                    continue
                text = f"{key}[{built.args.index(arg)}]"
                noted = self.doubled.get(id(call))
                after = self._apply(call, entry, [value], input, text, sure, inside=first)
                if not first:  # two entries of one Sequential: said where it is built
                    self.doubled[id(call)] = noted
                first = first and after is value
                value = after
            return value
        definition = self.source.definition(built.func)
        if definition is None and _NAMED_DROPOUT.search(name):
            return self._dropped(call, Dropper(call, key, "named"), input, given[0], inside)
        if isinstance(definition, cst.ClassDef):
            forward = self.source.facts(definition).method("forward")
            if forward is not None and self.source.facts(definition).is_module:
                return self._look_through(call, forward, given, sure)
        return OTHER

    def _through(self, call: cst.Call, function: cst.FunctionDef, bound: bool) -> Value:
        given = self._arguments(call)
        facts = self.source.class_of(call) if bound else None
        name = function.name.value
        if facts is not None and any(name in f.methods for f in facts.subclasses):
            return OTHER
        return self._look_through(call, function, given, bound=bound)

    def _look_through(
        self,
        call: cst.Call,
        function: cst.FunctionDef,
        given: list[Value],
        sure: bool = True,
        bound: bool = True,
    ) -> Value:
        summary = self._summary_of(function)
        if summary is None or not summary.returns:
            return OTHER
        passed = passed_values(call, function, given, bound)
        self.doubled[id(call)] = None
        for param, acts in summary.first_acts.items():
            at = passed.get(param)
            if at is not None and len(acts) == 1:
                node, value = at
                second = Dropper(call, acts[0].key + " inside", acts[0].kind, sure)
                self._note_inside(call, second, node, value)
        ends: list[Value] = []
        for returned in summary.returns:
            ends.append(
                merged(
                    [
                        passed[o][1] if isinstance(o, cst.Param) and o in passed
                        else ((o,) if isinstance(o, Dropper) else OTHER)
                        for o in returned
                    ]
                )
            )  # fmt: skip
        return merged(ends)

    def _note_inside(
        self, call: cst.Call, second: Dropper, input: cst.BaseExpression, value: Value
    ) -> None:
        if value and all(isinstance(o, Dropper) and second.doubles(o) for o in value):
            first = value[0]
            assert isinstance(first, Dropper)
            self.doubled[id(call)] = Doubled(call, second, first, input, True)


def _at(dropper: Dropper, call: cst.Call) -> Dropper:
    """`dropper` as it is applied at `call`."""
    return Dropper(call, dropper.key, dropper.kind, dropper.sure)


def merged(values: list[Value]) -> Value:
    """The distinct origins of all of `values`."""
    return tuple(dict.fromkeys(o for value in values for o in value)) or OTHER
