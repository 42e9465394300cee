"""Parameters and attributes that nothing reads, and the reasons why that may be on purpose."""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from dropaudit.static.facts import AttributeValue, ClassFacts
from dropaudit.static.source import Source, is_name, self_attribute, statements
from dropaudit.static.walk import descend

# what reads every argument, or every name around it
_READS_ALL = re.compile(
    r"^(locals|vars|eval|exec|save_hyperparameters|store_attr|asdict|signature|_?getframe"
    r"|currentframe|getargvalues|get_init_args|capture_init_args|register_to_config"
    r"|\w*(save|store|collect|capture|record)_?\w*(args|arguments|params|config|init|hparams)\w*"
    r"|update_config|initialize_config|auto_assign)$"
)
_HARMLESS = re.compile(
    r"^(@?(staticmethod|classmethod|property|torch\.\w+.*|register_(?!to_config)\w+|\w*MODELS?\w*\.\w+.*"
    r"|\w*REGISTRY\w*\.\w+.*|registry\.\w+.*|typechecked|beartype.*|wraps.*|functools\.\w+.*))$"
)
_EXCUSE = re.compile(
    r"unused|(not|never) (currently |yet |actually )?(used|supported|needed|implemented|functional)"
    r"|ignored?\b"
    r"|deprecat|no effect|compat|reserved|placeholder|legacy|dummy|for consistency|kept for"
    r"|interface|signature|do(es)? nothing|has no|n/a\b|obsolete",
    re.IGNORECASE,
)
_STANDS_IN = re.compile(
    r"identity|dummy|fake|mock|stub|noop|no_op|base|abstract|mixin|interface|template|placeholder"
    r"|protocol|legacy|deprecat|compat",
    re.IGNORECASE,
)


def params(function: cst.FunctionDef) -> Iterator[cst.Param]:
    """The named parameters of `function`, in order."""
    yield from function.params.posonly_params
    yield from function.params.params
    yield from function.params.kwonly_params


def unread_params(source: Source, function: cst.FunctionDef) -> list[cst.Param]:
    """The parameters that the body of `function` does not name, unless it reads them all."""
    named: set[str] = set()
    for node in descend(function.body):
        if isinstance(node, cst.Name):
            named.add(node.value)
    if any(_READS_ALL.match(n) for n in named):
        return []
    return [p for p in params(function) if p.name.value not in named]


def is_stub(function: cst.FunctionDef) -> bool:
    """Whether the body does nothing: a docstring, `pass`, `...`, or only an error."""
    for statement in statements(function.body):
        match statement:
            case cst.Pass() | cst.Raise():
                continue
            case cst.Expr(value=cst.SimpleString() | cst.ConcatenatedString() | cst.Ellipsis()):
                continue
            case cst.Return(value=None | cst.Name()):
                continue
            case cst.Expr(value=cst.Call(func=cst.Attribute(attr=cst.Name("__init__")))):
                continue
        return False
    return True


def excuses(source: Source, function: cst.FunctionDef, param: cst.Param) -> bool:
    """Whether something says that `param` is left unread on purpose, or may be."""
    name = param.name.value
    if name.startswith("_") or is_stub(function) or _STANDS_IN.search(function.name.value):
        return True
    if any(not _HARMLESS.match(source.text(d.decorator)) for d in function.decorators):
        return True
    facts = source.class_of(function)
    if facts is not None and _STANDS_IN.search(facts.name):
        return True
    texts = [function.get_docstring(clean=False) or ""]
    if facts is not None:
        texts.append(facts.node.get_docstring(clean=False) or "")
    texts.append(source.module.code_for_node(function.params))
    word = re.compile(rf"(?<!\w){re.escape(name)}(?!\w)")
    for text in texts:
        lines = text.splitlines()
        for at, line in enumerate(lines):
            if word.search(line) and _EXCUSE.search(" ".join(lines[at : at + 3])):
                return True
    return False


def takes_over(source: Source, function: cst.FunctionDef, param: cst.Param) -> bool:
    """Whether the signature of `function` is given: by a base, or by other classes like it."""
    facts = source.class_of(function)
    if facts is None:
        return False
    for base in facts.local_bases:
        other = base.methods.get(function.name.value)
        if other is not None and param.name.value in {p.name.value for p in params(other)}:
            return True
    if function.name.value != "__init__":
        return bool(facts.foreign_bases)
    return _is_spread_into(source, facts) or _is_one_of_a_kind(source, function, param)


def _is_spread_into(source: Source, facts: ClassFacts) -> bool:
    """Whether a whole configuration is handed to the constructor: `cls(**config)`."""
    calls = list(source.calls_by_name.get(facts.name, []))
    for call in source.calls_by_name.get("cls", []):
        owner = source.class_of(call)
        if owner is not None and owner.node is facts.node:
            calls.append(call)
    return any(arg.star == "**" for call in calls for arg in call.args)


def _is_one_of_a_kind(source: Source, init: cst.FunctionDef, param: cst.Param) -> bool:
    """Whether a class of this file with the very same parameters reads `param`: one interface."""
    wanted = [p.name.value for p in params(init)]
    for node in source.nodes[cst.ClassDef]:
        other = source.facts(node).methods.get("__init__")
        if other is None or other is init or len(wanted) < 3:
            continue
        reads = any(is_name(n, param.name.value) for n in descend(other.body))
        if reads and [p.name.value for p in params(other)] == wanted:
            return True
    return False


def is_read_attribute(source: Source, name: str) -> bool:
    """Whether this file reads an attribute called `name` of anything, or spells its name."""
    for node in source.attributes_by_name.get(name, []):
        parent = source.parents.get(node)
        if not isinstance(parent, (cst.AssignTarget, cst.AnnAssign)):
            return True
        if isinstance(parent, cst.AnnAssign) and parent.target is not node:
            return True
    quoted = {f'"{name}"', f"'{name}'"}
    return any(s.value in quoted for s in source.nodes[cst.SimpleString])


def stored_only(
    source: Source, facts: ClassFacts, function: cst.FunctionDef, param: cst.Param
) -> AttributeValue | None:
    """`self.name = param`, where that is the one place that reads `param`, and nothing reads it."""
    name = param.name.value
    reads = [
        n
        for n in descend(function.body)
        if is_name(n, name) and not isinstance(source.parents.get(n), cst.Attribute)
    ]
    kept = [a for a in facts.assigned if a.method is function and is_name(a.value, name)]
    if len(reads) != 1 or len(kept) != 1 or reads[0] is not kept[0].value:
        return None
    one = kept[0]
    if any(_READS_ALL.match(n.value) for n in descend(function.body) if isinstance(n, cst.Name)):
        return None
    for around in source.nodes[cst.Attribute]:
        if around.attr.value in ("__dict__", "hparams") and self_attribute(around):
            return None
    return None if is_read_attribute(source, one.name) else one


_KNOWN_BASE = re.compile(
    r"^(torch\.nn\.Module|object|abc\.ABC|torch\.jit\.ScriptModule|.*LightningModule)$"
)


def is_closed(source: Source, facts: ClassFacts) -> bool:
    """Whether all that a module of this class runs is seen here: its bases, and a real forward."""
    if not facts.foreign_bases or not all(_KNOWN_BASE.match(b) for b in facts.foreign_bases):
        return False
    forward = facts.method("forward")
    if forward is None or is_stub(forward) or _STANDS_IN.search(facts.name):
        return False
    return not any(isinstance(n, cst.Raise) for n in statements(forward.body))
