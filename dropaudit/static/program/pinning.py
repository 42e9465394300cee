"""Whether something in another file keeps a part of a model in eval mode."""

from __future__ import annotations

from dropaudit.static.program.callers import Callers
from dropaudit.static.program.code import dotted
from dropaudit.static.program.lexicon import FRAMEWORKS
from dropaudit.static.program.resolve import ClassRef, External, FunctionRef, Resolver

_SWITCHES = ("eval", "train", "modules", "named_modules", "children", "named_children", "apply")


def pinned_elsewhere(
    resolver: Resolver, callers: Callers, path: str, owner: str, part: str
) -> bool:
    """Whether `owner`, a class of the file at `path`, has its `part` switched by other classes.

    A base or subclass overrides `train`, a framework switches modes, or a function of another file
    says `model.part.eval()`, or goes over the modules of the part.
    """
    cls = resolver.resolve(path, owner)
    if not isinstance(cls, ClassRef):
        return False
    lineage = resolver.lineage(cls)
    outside = [one.dotted.lstrip("?") for one in lineage if isinstance(one, External)]
    if any(FRAMEWORKS.search(name) for name in outside):
        return True
    family = [cls, *resolver.subclasses(cls)]
    if any(isinstance(resolver.method(one, "train"), FunctionRef) for one in family):
        return True
    for name in _SWITCHES:
        for caller, call in callers.named(name):
            *whole, last, _ = ("", *dotted(call.function).split("."))
            if last != part or not any(whole):
                continue
            if whole[1:] != ["self"]:
                return True
            own = callers.owner(caller)
            if own is not None and own != cls and cls in resolver.lineage(own):
                return True
    return False
