"""Which tensors have just been dropped: a small forward interpretation of a function.

A value is the set of things that it may come from: a dropout, a parameter, or anything else. What
only changes the shape, the type or the place of a tensor hands its value on, everything else makes
it anything. Branches are joined, loops run until the second round, and calls of functions, methods
and modules of the same file are looked through.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import libcst as cst

from dropaudit.static.droppers import (
    Dropper,
    alternatives,
    built_dropper,
    called_dropper,
    is_switch,
    named_dropper,
)
from dropaudit.static.names import Kind, target_names
from dropaudit.static.source import Source, is_name, self_attribute
from dropaudit.static.walk import children, descend

Origin = Dropper | cst.Param | None  # None is anything else
Value = tuple[Origin, ...]
Places = dict[str, Value]

_OTHER: Value = (None,)
_DEPTH = 3  # calls that are looked through
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


class Dropped:
    """The doubled dropouts of one file."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._summaries: dict[cst.FunctionDef, Summary | None] = {}
        self._flows: dict[cst.FunctionDef, _Flow] = {}

    def doubled(self) -> Iterator[Doubled]:
        """Every dropout of a dropped tensor, function by function."""
        for function in self.source.nodes[cst.FunctionDef]:
            yield from self._flow(function).found()

    def summary(self, function: cst.FunctionDef) -> Summary | None:
        """What `function` does to its parameters; None where it leads back to itself."""
        if function not in self._summaries:
            self._summaries[function] = None
            self._summaries[function] = self._flow(function).summary
        return self._summaries[function]

    def _flow(self, function: cst.FunctionDef) -> _Flow:
        if function not in self._flows:
            self._flows[function] = _Flow(self, function)
            self._flows[function].run()
        return self._flows[function]


class _Flow:
    """The statements of one function, in order."""

    def __init__(self, file: Dropped, function: cst.FunctionDef) -> None:
        self.summary = Summary()
        self.source = file.source
        self._file = file
        self._function = function
        self._places: Places | None = {p.name.value: (p,) for p in _params(function)}
        self._doubled: dict[int, Doubled | None] = {}
        self._uses: dict[Dropper, set[int]] = {}
        self._applied: dict[tuple[int, int], Dropper] = {}
        self._level = 0

    def run(self) -> None:
        self._block(self._function.body)
        if self._places is not None:
            self.summary.returns.append(_OTHER)

    def found(self) -> Iterator[Doubled]:
        """The doubled dropouts; those inside a callee only where nothing else reads the tensor."""
        for one in self._doubled.values():
            if one is not None and not (one.inside and len(self._uses.get(one.first, ())) > 1):
                yield one

    # -- statements ------------------------------------------------------------------------

    def _block(self, block: cst.BaseSuite) -> None:
        for statement in block.body:
            parts: list[cst.CSTNode] = [statement]
            if isinstance(statement, cst.SimpleStatementLine):
                parts = list(statement.body)
            for part in parts:
                if self._places is None:
                    return
                self._statement(part)

    def _statement(self, node: cst.CSTNode) -> None:
        match node:
            case cst.Assign(targets=targets, value=value):
                if len(targets) == 1 and _pairs(targets[0].target, value):
                    self._assign_each(targets[0].target, value)
                    return
                found = self.value(value)
                for target in targets:
                    self._assign(target.target, found)
            case cst.AnnAssign(target=target, value=cst.BaseExpression() as value):
                self._assign(target, self.value(value))
            case cst.AugAssign(target=target, value=value):
                self.value(value)
                self._assign(target, _OTHER)
            case cst.Return(value=value):
                found = _OTHER if value is None else self.value(value)
                self.summary.returns.append(found)
                self._places = None
            case cst.Raise() | cst.Continue() | cst.Break():
                self._places = None
            case cst.If(test=test, body=body, orelse=orelse):
                self.value(test)
                self._either([body, orelse], only_first=orelse is None and self._switch(test))
            case cst.For(target=target, iter=iterated, body=body, orelse=orelse):
                self.value(iterated)
                self._loop(body, target)
                self._else(orelse)
            case cst.While(test=test, body=body, orelse=orelse):
                self.value(test)
                self._loop(body, None)
                self._else(orelse)
            case cst.With(items=items, body=body):
                for item in items:
                    self.value(item.item)
                    if item.asname is not None:
                        self._assign(item.asname.name, _OTHER)
                self._block(body)
            case cst.Try() | cst.TryStar():
                self._either([node.body, *(h.body for h in node.handlers)])
                self._else(node.orelse)
                self._else(node.finalbody)
            case cst.Match(subject=subject, cases=cases):
                self.value(subject)
                self._either([*(c.body for c in cases), None])
            case cst.Else(body=body) | cst.Finally(body=body):
                self._block(body)
            case cst.FunctionDef(name=name) | cst.ClassDef(name=name):
                self._assign(name, _OTHER)
            case _:
                self._inside(node)

    def _else(self, node: cst.Else | cst.Finally | None) -> None:
        if node is not None and self._places is not None:
            self._block(node.body)

    def _either(self, bodies: list[cst.CSTNode | None], only_first: bool = False) -> None:
        start, ends = self._places, []
        for body in bodies:
            self._places = None if start is None else dict(start)
            if isinstance(body, cst.BaseSuite):
                self._block(body)
            elif body is not None:
                self._statement(body)
            if self._places is not None:
                ends.append(self._places)
            if only_first and ends:
                break
        self._places = _joined(ends)

    def _loop(self, body: cst.BaseSuite, target: cst.CSTNode | None) -> None:
        """Once from the start, then once more with what the first round leaves behind.

        What a loop leaves is what its last round leaves: it is taken to run at least once.
        """
        start = self._places
        for _ in range(2):
            before = None if self._places is None else dict(self._places)
            if target is not None:
                self._assign(target, _OTHER)
            self._block(body)
            after = self._places
            if after is None:  # every round leaves early
                self._places = before
                return
            self._places = _joined([p for p in (start, after) if p is not None])
        self._places = after

    def _switch(self, test: cst.CSTNode) -> bool:
        return is_switch(self.source, test)

    def _assign(self, target: cst.CSTNode, value: Value) -> None:
        if self._places is None:
            return
        for name in target_names(target):
            self._places[name] = value
        if isinstance(target, cst.Subscript):
            self._inside(target)
            base = target.value
            if isinstance(base, cst.Name):
                self._places[base.value] = _OTHER

    def _assign_each(self, target: cst.BaseExpression, value: cst.BaseExpression) -> None:
        found = [self.value(e.value) for e in value.elements]  # type: ignore[attr-defined]
        for element, one in zip(target.elements, found, strict=True):  # type: ignore[attr-defined]
            self._assign(element.value, one)

    # -- expressions -----------------------------------------------------------------------

    def value(self, node: cst.CSTNode) -> Value:
        """What `node` may come from; notes the dropouts on the way."""
        if self._level > _NESTED:
            return _OTHER
        self._level += 1
        try:
            return self._value(node)
        finally:
            self._level -= 1

    def _value(self, node: cst.CSTNode) -> Value:
        match node:
            case cst.Name(value=name):
                found = (self._places or {}).get(name, _OTHER)
                for origin in found:
                    if isinstance(origin, Dropper):
                        self._uses.setdefault(origin, set()).add(id(node))
                return found
            case cst.Call():
                return self._call(node)
            case cst.Subscript(value=value, slice=slices):
                for one in slices:
                    self._inside(one)
                return self.value(value)
            case cst.IfExp(test=test, body=body, orelse=orelse):
                self.value(test)
                arms = [self.value(body), self.value(orelse)]
                if self._switch(test):
                    arms = [a for a in arms if all(isinstance(o, Dropper) for o in a)] or arms
                return _merged(arms)
            case cst.NamedExpr(target=target, value=value):
                found = self.value(value)
                self._assign(target, found)
                return found
            case cst.Lambda():
                return _OTHER
            case cst.Attribute(value=value, attr=cst.Name(value="T" | "mT" | "data")):
                return self.value(value)
        self._inside(node)
        return _OTHER

    def _inside(self, node: cst.CSTNode) -> None:
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
        before = None if self._places is None else dict(self._places)
        for part in descend(node):
            if isinstance(part, cst.CompFor):
                self._assign(part.target, _OTHER)
        self._inside(node)
        self._places = before

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
                    return _merged([self.value(e.value) for e in elements])
        definition = self.source.definition(func)
        if isinstance(definition, cst.FunctionDef):
            return self._through(call, definition, isinstance(func, cst.Attribute))
        modules = self._modules(func)
        if modules:
            return self._module(call, modules)
        by_name = named_dropper(self.source, call) if modules is None else None
        if by_name is not None:
            dropper = Dropper(call, self._key(func), by_name[0].kind)
            return self._drop(call, dropper, by_name[1])
        if not isinstance(func, cst.Name):
            self._inside(func)
        self._arguments(call)
        return _OTHER

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
        self._doubled[id(call)] = None
        if value and all(isinstance(o, Dropper) and second.doubles(o) for o in value):
            first = value[0]
            assert isinstance(first, Dropper)
            if first is not second:
                self._doubled[id(call)] = Doubled(call, second, first, input, inside)
        elif len(value) == 1 and isinstance(value[0], cst.Param):
            self.summary.first_acts.setdefault(value[0], []).append(second)
        return (second,)

    # -- modules and functions of this file ------------------------------------------------

    def _modules(self, func: cst.BaseExpression) -> list[tuple[cst.Call, bool]] | None:
        """The calls that build the module `func`, with whether only switches choose it.

        None where the file does not say; empty where it is no module, or not all are seen.
        """
        found: list[tuple[cst.Call, bool]] = []
        values = self._held(func)
        if values is None:
            return None
        for value, statement in values:
            certain = self._only_switches(statement)
            for arm, sure in alternatives(self.source, value):
                if is_name(arm, "None"):
                    continue
                if not isinstance(arm, cst.Call):
                    return [] if isinstance(arm, cst.Lambda) else None
                found.append((arm, sure and certain))
        return found

    def _held(
        self, func: cst.BaseExpression
    ) -> list[tuple[cst.BaseExpression, cst.CSTNode]] | None:
        attribute = self_attribute(func)
        if attribute and (facts := self.source.class_of(func)) is not None:
            return [
                (a.value, a.statement)
                for f in facts.lineage
                for a in f.assigned
                if a.name == attribute
            ] or None
        if isinstance(func, cst.Name):
            bindings = self.source.bindings(func)
            if len(bindings) == 1 and bindings[0].kind is Kind.ASSIGNMENT:
                value = bindings[0].value
                if isinstance(value, cst.Call):
                    return [(value, bindings[0].node)]
                return self._held(value) if self_attribute(value) and value is not None else None
        return None

    def _only_switches(self, statement: cst.CSTNode) -> bool:
        for around in self.source.ancestors(statement):
            if isinstance(around, cst.FunctionDef):
                return True
            if isinstance(around, cst.If) and not self._switch(around.test):
                return False
        return True

    def _module(self, call: cst.Call, modules: list[tuple[cst.Call, bool]]) -> Value:
        given = self._arguments(call)
        if not call.args or call.args[0].star:
            return _OTHER
        same = [(b, s) for b, s in modules if _SAME_MODULES.match(self.source.name_of(b.func))]
        rest = [one for one in modules if one not in same]
        if not rest:
            return given[0]
        key, sure = self._key(call.func), all(sure for _, sure in modules)
        noted = self._doubled.get(id(call))
        ends = [self._apply(call, built, given, call.args[0].value, key, sure) for built, _ in rest]
        if len(rest) > 1:  # which of them it is cannot be told
            self._doubled[id(call)] = noted
        return _merged(ends)

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
                    value, first = _OTHER, False
                    continue
                text = f"{key}[{built.args.index(arg)}]"
                noted = self._doubled.get(id(call))
                after = self._apply(call, entry, [value], input, text, sure, inside=first)
                if not first:  # two entries of one Sequential: said where it is built
                    self._doubled[id(call)] = noted
                first = first and after is value
                value = after
            return value
        definition = self.source.definition(built.func)
        if isinstance(definition, cst.ClassDef):
            forward = self.source.facts(definition).method("forward")
            if forward is not None and self.source.facts(definition).is_module:
                return self._look_through(call, forward, given, sure)
        return _OTHER

    def _through(self, call: cst.Call, function: cst.FunctionDef, bound: bool) -> Value:
        given = self._arguments(call)
        facts = self.source.class_of(call) if bound else None
        name = function.name.value
        if facts is not None and any(name in f.methods for f in facts.subclasses):
            return _OTHER
        return self._look_through(call, function, given, bound=bound)

    def _look_through(
        self,
        call: cst.Call,
        function: cst.FunctionDef,
        given: list[Value],
        sure: bool = True,
        bound: bool = True,
    ) -> Value:
        summary = self._file.summary(function)
        if summary is None or not summary.returns or len(self._file._flows) > 5000:
            return _OTHER
        passed = self._passed(call, function, given, bound)
        self._doubled[id(call)] = None
        for param, acts in summary.first_acts.items():
            at = passed.get(param)
            if at is not None and len(acts) == 1:
                node, value = at
                second = Dropper(call, acts[0].key + " inside", acts[0].kind, sure)
                self._note_inside(call, second, node, value)
        ends: list[Value] = []
        for returned in summary.returns:
            ends.append(
                _merged(
                    [
                        passed[o][1] if isinstance(o, cst.Param) and o in passed
                        else ((o,) if isinstance(o, Dropper) else _OTHER)
                        for o in returned
                    ]
                )
            )  # fmt: skip
        return _merged(ends)

    def _note_inside(
        self, call: cst.Call, second: Dropper, input: cst.BaseExpression, value: Value
    ) -> None:
        if value and all(isinstance(o, Dropper) and second.doubles(o) for o in value):
            first = value[0]
            assert isinstance(first, Dropper)
            self._doubled[id(call)] = Doubled(call, second, first, input, True)

    def _passed(
        self, call: cst.Call, function: cst.FunctionDef, given: list[Value], bound: bool
    ) -> dict[cst.Param, tuple[cst.BaseExpression, Value]]:
        params = [*function.params.posonly_params, *function.params.params]
        if bound and not any(is_name(d.decorator, "staticmethod") for d in function.decorators):
            params = params[1:]
        named = {p.name.value: p for p in _params(function)}
        found: dict[cst.Param, tuple[cst.BaseExpression, Value]] = {}
        for at, (arg, value) in enumerate(zip(call.args, given, strict=False)):
            if arg.star:
                break
            if arg.keyword is not None:
                param = named.get(arg.keyword.value)
            else:
                param = params[at] if at < len(params) else None
            if param is not None:
                found[param] = (arg.value, value)
        return found


def _at(dropper: Dropper, call: cst.Call) -> Dropper:
    """`dropper` as it is applied at `call`."""
    return Dropper(call, dropper.key, dropper.kind, dropper.sure)


def _pairs(target: cst.BaseExpression, value: cst.BaseExpression) -> bool:
    if not isinstance(target, (cst.Tuple, cst.List)) or not isinstance(
        value, (cst.Tuple, cst.List)
    ):
        return False
    every = (*target.elements, *value.elements)
    starred = any(isinstance(e, cst.StarredElement) for e in every)
    return len(target.elements) == len(value.elements) and not starred


def _merged(values: list[Value]) -> Value:
    return tuple(dict.fromkeys(o for value in values for o in value)) or _OTHER


def _joined(ends: list[Places]) -> Places | None:
    if not ends:
        return None
    names = dict.fromkeys(n for end in ends for n in end)
    return {n: _merged([end.get(n, _OTHER) for end in ends]) for n in names}


def _params(function: cst.FunctionDef) -> Iterator[cst.Param]:
    yield from function.params.posonly_params
    yield from function.params.params
    yield from function.params.kwonly_params
