"""What a Module's own `train` or `eval` does: its parameters, whom it switches, its effects."""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from dropaudit.static.facts import ClassFacts
from dropaudit.static.names import Kind, dotted_text
from dropaudit.static.source import Source, is_name, self_attribute
from dropaudit.static.walk import descend

_MODE_NAMES = re.compile(
    r"_?(is_?)?(mode|train|training|flag|status|value|state|enabled?|phase|val|b|t|m|p|x)_?\w*$",
    re.I,
)
_FROZEN = re.compile(
    r"freez|frozen|fixed|always.{0,12}eval|keep.{0,20}eval|eval.only|disabled?.train|stay|pinned"
    r"|no.?op|pretrained|teacher",
    re.IGNORECASE,
)
_QUIET = re.compile(r"(log|logger|logging|warnings?|print|super)\b")
_WORDS_OF_A_LOOP = frozenset(["backward", "step", "zero_grad", "fit"])


class Override:
    """One `train` or `eval` in the body of a Module's class."""

    def __init__(self, function: cst.FunctionDef, facts: ClassFacts, source: Source) -> None:
        self.function = function
        self.facts = facts
        self.source = source
        self.owner = facts.name
        params = function.params
        self.parameters = [*params.posonly_params, *params.params][1:]
        self.required = [p for p in self.parameters if p.default is None]
        self.required += [p for p in params.kwonly_params if p.default is None]
        star = isinstance(params.star_arg, cst.Param) or params.star_kwarg is not None
        self.starred = star
        self.mode = self.parameters[0].name.value if self.parameters else ""
        self.nodes = list(descend(function.body))

    @property
    def is_unusual(self) -> bool:
        """A property, a static or abstract method: no switch to judge."""
        for decorator in self.function.decorators:
            name = dotted_text(decorator.decorator)
            if "overload" in name or "abstract" in name or "property" in name or "static" in name:
                return True
        return any(isinstance(n, cst.Raise) for n in self.nodes) and len(self.nodes) < 16

    @property
    def is_frozen(self) -> bool:
        """Whether a name, docstring or comment says that the mode is pinned on purpose."""
        text = self.source.text(self.function)
        return bool(_FROZEN.search(self.owner) or _FROZEN.search(text))


def is_loop(override: Override) -> bool:
    """Whether a `train` cannot be called as `train(False)`, or trains when it is."""
    if len(override.required) > 1:
        return True
    if override.starred:
        return False
    if hands_on(override):
        return False
    if not override.parameters:
        return "eval" not in override.facts.methods or _trains(override)
    first = override.parameters[0]
    if first.default is None and not _MODE_NAMES.match(first.name.value):
        return True
    return _trains(override) and not is_name(first.default, "True")


def hands_on(override: Override) -> bool:
    """Whether the mode reaches anything: through the base, by name, by hand, to the children."""
    for call in _calls(override):
        name = _called(call)
        if name in ("train", "eval"):
            owner = call.func.value if isinstance(call.func, cst.Attribute) else None
            if override.function.name.value == "train":
                if _is_base(owner) or call.args or not is_name(owner, "self"):
                    return not _is_other_child(override, call, owner)
            elif _is_base(owner) or (name == "train" and is_name(owner, "self")):
                return True
            elif isinstance(owner, cst.Name) and owner.value not in ("self", "m", "module"):
                bases = {dotted_text(a.value) for a in override.facts.node.bases}
                if owner.value in bases or call.args:
                    return True
        if name in ("apply", "set_mode", "_set_mode", "switch_mode"):
            return True
    return _sets_and_recurses(override)


def unpassed_call(override: Override) -> cst.Call | None:
    """`super().train()` or `super().train(True)` where the mode is at hand and not looked at."""
    if not override.mode or override.starred or override.is_frozen:
        return None
    mode = override.mode
    calls = [
        c
        for c in _calls(override)
        if _called(c) == "train" and isinstance(c.func, cst.Attribute) and _is_base(c.func.value)
    ]
    if len(calls) != 1 or (calls[0].args and not is_name(calls[0].args[0].value, "True")):
        return None
    for around in override.source.ancestors(calls[0]):
        if around is override.function:
            break
        if isinstance(around, (cst.If, cst.IfExp, cst.Match)):
            return None
    if any(_called(c) == "eval" and _is_base_call(c) for c in _calls(override)):
        return None
    looked_at = any(
        isinstance(n, (cst.If, cst.IfExp)) and _mentions(n.test, mode) for n in override.nodes
    )
    return None if looked_at else calls[0]


def does_work(override: Override) -> bool:
    """Whether an `eval` has an effect of its own that `train` of the same class does not have."""
    train = override.facts.method("train")
    if train is not None and _acts_on_eval(train):
        return False
    done = "" if train is None else override.source.text(train)
    for node in override.nodes:
        if done and isinstance(node, cst.BaseSmallStatement) and override.source.text(node) in done:
            continue
        if isinstance(node, (cst.Assign, cst.AugAssign, cst.AnnAssign)):
            targets = node.targets if isinstance(node, cst.Assign) else [node]
            if any(_is_state(t.target) for t in targets) and not _optional(override, node):
                return True
        if isinstance(node, cst.Expr) and isinstance(node.value, cst.Call):
            name = dotted_text(node.value.func)
            effect = name.startswith("self.") and name.count(".") == 1
            quiet = _QUIET.match(name) or name in ("self.train", "self.eval")
            if effect and not quiet and not _optional(override, node):
                return True
    return False


def hides_method(facts: ClassFacts, source: Source) -> Iterator[cst.CSTNode]:
    """`self.train = flag` and `self.eval = flag`: a value that cannot be called."""
    for assigned in facts.assigned:
        if assigned.name not in ("train", "eval"):
            continue
        value = assigned.value
        if is_name(value, "True") or is_name(value, "False") or isinstance(value, cst.Comparison):
            yield assigned.statement
        elif isinstance(value, cst.Name):
            bindings = source.bindings(value)
            if bindings and all(b.kind is Kind.PARAMETER for b in bindings):
                yield assigned.statement


def _trains(override: Override) -> bool:
    return any(_called(c) in _WORDS_OF_A_LOOP for c in _calls(override))


def _calls(override: Override) -> list[cst.Call]:
    return [n for n in override.nodes if isinstance(n, cst.Call)]


def _called(call: cst.Call) -> str:
    match call.func:
        case cst.Attribute(attr=cst.Name(value=name)) | cst.Name(value=name):
            return name
    return ""


def _is_base(owner: cst.CSTNode | None) -> bool:
    match owner:
        case cst.Call(func=cst.Name("super")):
            return True
        case cst.Attribute() | cst.Name():
            return dotted_text(owner).rpartition(".")[2][:1].isupper()
    return False


def _is_base_call(call: cst.Call) -> bool:
    return isinstance(call.func, cst.Attribute) and _is_base(call.func.value)


def _is_other_child(override: Override, call: cst.Call, owner: cst.CSTNode | None) -> bool:
    """Whether a `train` without a mode parameter only switches a part, as a training loop does."""
    return not _is_base(owner) and not override.mode and not call.args and _trains(override)


def _sets_and_recurses(override: Override) -> bool:
    sets = any(
        isinstance(n, cst.AssignTarget) and self_attribute(n.target) == "training"
        for n in override.nodes
    )
    walks = any(_called(c) in ("children", "modules", "named_children") for c in _calls(override))
    return sets and walks


def _mentions(node: cst.CSTNode, name: str) -> bool:
    return any(is_name(n, name) for n in descend(node))


def _acts_on_eval(train: cst.FunctionDef) -> bool:
    """Whether a `train` has something to do for mode False, or hands it to a helper of the class.

    One that only acts on `if mode:` undoes what `eval` did and leaves the doing to `eval`.
    """
    params = (*train.params.posonly_params, *train.params.params)[1:]
    mode = params[0].name.value if params else "mode"
    for node in descend(train.body):
        match node:
            case cst.If(test=test, orelse=orelse) if _mentions(test, mode):
                if orelse is not None or not _requires(test, mode):
                    return True
            case cst.IfExp(test=test) if _mentions(test, mode):
                return True
            case cst.Call(func=cst.Attribute(value=cst.Name("self")), args=[cst.Arg(value=value)]):
                if _mentions(value, mode):
                    return True
    return False


def _requires(test: cst.CSTNode, mode: str) -> bool:
    """Whether `test` can only hold where `mode` does: `mode`, `mode and ...`."""
    if isinstance(test, cst.BooleanOperation) and isinstance(test.operator, cst.And):
        return _requires(test.left, mode) or _requires(test.right, mode)
    return is_name(test, mode)


def _is_state(target: cst.CSTNode) -> bool:
    while isinstance(target, cst.Attribute) and not self_attribute(target):
        target = target.value  # self.weight.data
    return bool(self_attribute(target)) and self_attribute(target) != "training"


def _optional(override: Override, node: cst.CSTNode) -> bool:
    """Whether `node` only runs when an extra argument of the override asks for it."""
    names = {p.name.value for p in override.parameters}
    for around in override.source.ancestors(node):
        if around is override.function:
            return False
        if isinstance(around, cst.If) and any(_mentions(around.test, n) for n in names):
            return True
    return False
