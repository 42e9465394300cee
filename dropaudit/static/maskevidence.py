"""Is a random mask dropout at all? By names, by what it is laid over, and by what is near."""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from dropaudit.static.maskuses import DropoutUse, Masks, Use
from dropaudit.static.maskverdicts import verdict
from dropaudit.static.names import target_names
from dropaudit.static.source import Source, self_attribute
from dropaudit.static.walk import descend

DROPOUT_NAME = re.compile(
    r"(?<![a-z])(naive_?|my_?|inverted_?|apply_?)*drop(?!_?(na|nan|last|dup|s|down|box|col|row|ins"
    r"|table|index|file|level)(?![a-z]))(ped|ping|out|path|connect|block|_|[A-Z]|\d|$)"
    r"|stochastic_?depth|dropout|droppath|dropconnect",
    re.IGNORECASE,
)
OTHER_PURPOSE = re.compile(
    r"tok(en)?s?(?![a-z])|word|label|(?<![a-z])(un)?cond|cfg|class(?![a-z])|guid|edge|node|graph|adj"
    r"|zone|modal|teacher|student|schedul|expert|rout|moe(?![a-z])|augment|(?<![a-z])augs?(?![a-z])"
    r"|nois|corrupt|mlm|(?<![a-z])mae|masked|masking|random_?mask|feature_?mask|cut_?(out|mix)|mix"
    r"|eras|perturb|attack|prun|spars|gumbel|concrete|quant|explor|epsilon|greedy|action|collat"
    r"|dataset|transform|loader|(?<![a-z])views?(?![a-z])|crop|patch|negativ|contrast|sampler"
    r"|spec_?aug|time_?mask|freq|frame|channel_?swap|frequency|bits|spik|gate|(?<![a-z])image"
    r"|(?<![a-z])(rl|env|agent|policy|replay)(?![a-z])|generat(e|or)|simulat|synth|impute|missing"
    r"|drop(out)?_feat|(?<![a-z])bert(?![a-z])|neighbo|modality|tower|sentence|span|caption|prompt|audio|wav",
    re.IGNORECASE,
)
_AUGMENTATION = re.compile(r"(augment\w*|transforms?)([/\\][^/\\]*)?\.(py|ipynb)$", re.IGNORECASE)
_OTHER_DOC = re.compile(
    r"classifier[- ]free|augment|masked (language|auto|image)|mask(ed)? tokens?|zoneout|\bprun"
    r"|contrastive|\bedges?\b|\bUNK\b|word dropout|\btokens?\b|self-supervised|corrupt"
    r"|straight[- ]through|scheduled sampling|no (re)?scal|without (re)?scal|not (re)?scale",
    re.IGNORECASE,
)
_OTHER_DATA = re.compile(
    r"(^|[._\[])(\w*ids?|idx|ind(ex|ices)\w*|tok(en)?s?|label\w*|words?|cond\w*|context|prompt\w*"
    r"|text\w*|edge\w*|adj\w*|ima?ge?s?|audio|wave\w*|spec\w*|noise\w*|target\w*|action\w*"
    r"|reward\w*|grad\w*|loss\w*|gate\w*|\w*mask\w*|delta\w*|task\w*|bits?|eps|error|err|update)$",
    re.IGNORECASE,
)
_SAMPLES = re.compile(r"(p_|ddim_)?(sample|generate)(_|$)")
_DROP_RATE = re.compile(r"drop|keep|surviv|retain", re.IGNORECASE)
_PLAIN_RATE = re.compile(
    r"^(self\.)?(p|prob(ability)?|rate|ratio|q|dp)$|^\d*\.?\d*$|^\(?1\.?0?\s*-", re.IGNORECASE
)


def dropout_uses(source: Source) -> Iterator[DropoutUse]:
    """The products of masks and activations that are dropout, in source order."""
    if _AUGMENTATION.search(source.path):
        return
    for masks in source.masks.functions:
        for use in masks.uses:
            named = calls_itself_dropout(source, masks.function)
            if (
                _kept_for_good(source, use)
                or _of_words(source, use)
                or _looked_up(source, masks, use)
            ):
                continue
            scaled = verdict(use.coins) in ("drop", "twice") and _speaks_of_dropping(source, masks)
            if named or scaled or _looks_like_dropout(source, masks, use):
                yield DropoutUse(use, masks, named)


def calls_itself_dropout(source: Source, function: cst.FunctionDef) -> bool:
    """Whether the function, or else the class around it, is named for dropout and nothing else."""
    name = _spaced(function.name.value)
    if OTHER_PURPOSE.search(name) or _other_doc(function):
        return False
    around = source.enclosing(function, cst.ClassDef)
    if around is not None and _other_doc(around):
        return False
    if DROPOUT_NAME.search(name):
        return True
    if around is None:
        return False
    class_name = _spaced(around.name.value)
    return bool(DROPOUT_NAME.search(class_name)) and not OTHER_PURPOSE.search(class_name)


def in_test(source: Source, node: cst.CSTNode) -> bool:
    """Whether `node` stands in a test, by the folder or by the function and class around it."""
    if re.search(r"(^|[/\\])(tests?|testing)[/\\]", source.path):
        return True
    return any(
        isinstance(around, (cst.FunctionDef, cst.ClassDef))
        and re.match(r"_?[Tt]est(s|[A-Z_]|$)|.*TestCase$", around.name.value)
        for around in source.ancestors(node)
    )


def _speaks_of_dropping(source: Source, masks: Masks) -> bool:
    """Whether the function or its class is named for dropping anything.

    A mask that is scaled for its probability means to be dropout, of nodes or of words as well.
    """
    facts = source.class_of(masks.function)
    names = f"{masks.function.name.value} {facts.name if facts is not None else ''}"
    return "drop" in names.lower()


def _kept_for_good(source: Source, use: Use) -> bool:
    """Whether the mask is drawn once, when an attribute is still None."""
    return any(
        isinstance(around, cst.If)
        and re.search(r"\bself\.\w*mask\w* is None", source.text(around.test))
        for around in source.ancestors(use.draw)
    )


def _looked_up(source: Source, masks: Masks, use: Use) -> bool:
    """Whether what is masked are indices: they go on into an embedding."""
    names = {use.data.value} if isinstance(use.data, cst.Name) else set()
    statement = source.statement_of(use.node)
    if isinstance(statement, cst.Assign):
        names.update(n for t in statement.targets for n in target_names(t.target))
    return any(
        isinstance(node, cst.Call)
        and re.search(r"emb", self_attribute(node.func), re.IGNORECASE)
        and any(isinstance(a.value, cst.Name) and a.value.value in names for a in node.args)
        for node in descend(masks.function.body)
    )


def _of_words(source: Source, use: Use) -> bool:
    """Whether what is dropped are words, tokens, labels or conditions, which nobody rescales."""
    statement = source.text(source.statement_of(use.draw))
    names = [_before_call(statement) if len(statement) < 400 else ""]
    names.append(source.text(use.data) if use.data is not None else "")
    return any(
        re.search(
            r"tok(en)?s?(?![a-z])|word|label|(?<![a-z])(un)?cond|edge|adj|_ids?$|wave|audio", n
        )
        for n in names
    )


def _looks_like_dropout(source: Source, masks: Masks, use: Use) -> bool:
    """A mask in a method of a Module, over an activation, with a probability to drop or keep."""
    facts = source.class_of(masks.function)
    function = masks.function
    if facts is None or not facts.is_module or function.name.value == "__init__":
        return False
    if source.function_of(function) is not None:
        return False
    words = f"{_spaced(function.name.value)} {_spaced(facts.name)} {use.keep_text}"
    if OTHER_PURPOSE.search(words) or _other_doc(function) or _other_doc(facts.node):
        return False
    if _of_other_helper(source, use):
        return False
    if any(_SAMPLES.match(m) for f in facts.lineage for m in f.methods):
        return False  # its forward is the training pass of a generator
    if not isinstance(use.node, (cst.BinaryOperation, cst.AugAssign, cst.Call)):
        return False
    data = source.text(use.data) if use.data is not None else ""
    if _OTHER_DATA.search(data) or OTHER_PURPOSE.search(data):
        return False
    statement = source.text(source.statement_of(use.draw))
    if len(statement) > 400 or OTHER_PURPOSE.search(_before_call(statement)):
        return False
    if _DROP_RATE.search(use.keep_text):
        return True
    if not _PLAIN_RATE.search(use.keep_text.strip("()")):
        return False
    if function.name.value == "forward" and source.modes.guards(use.node):
        return True
    hidden = not (isinstance(use.data, cst.Name) and _is_untouched_parameter(source, use.data))
    return hidden and has_layers(source, masks.function)


def _of_other_helper(source: Source, use: Use) -> bool:
    """Whether a helper that draws or applies the mask, or what it is kept as, has other names."""
    for place in (use.draw, use.node):
        function = source.function_of(place)
        if function is None:
            continue
        if OTHER_PURPOSE.search(_spaced(function.name.value)) or _other_doc(function):
            return True
    for node in (use.via, use.node):
        statement = source.statement_of(node) if node is not None else None
        if isinstance(statement, cst.Assign):
            names = [n for t in statement.targets for n in target_names(t.target)]
            if any(OTHER_PURPOSE.search(_spaced(n)) or _is_other_data(n) for n in names):
                return True
    return False


def _is_other_data(name: str) -> bool:
    return bool(_OTHER_DATA.search(name)) and "mask" not in name


def _is_untouched_parameter(source: Source, name: cst.Name) -> bool:
    bindings = source.bindings(name)
    return sum(not isinstance(b.node, cst.Param) for b in bindings) <= 1 and any(
        isinstance(b.node, cst.Param) for b in bindings
    )


def has_layers(source: Source, function: cst.FunctionDef) -> bool:
    """Whether the method calls a layer of its own: a network, not a transformation of inputs."""
    facts = source.class_of(function)
    if facts is None:
        return False
    return any(
        isinstance(node, cst.Call)
        and any(_builds(source, v) for v in facts.values(self_attribute(node.func)))
        for node in descend(function.body)
    )


def _builds(source: Source, value: cst.BaseExpression) -> bool:
    if not isinstance(value, cst.Call):
        return False
    return bool(re.search(r"(^|\.)[A-Z]\w*$", source.text(value.func)))


def _before_call(statement: str) -> str:
    return _spaced(statement.split("=", 1)[0]) if "=" in statement else ""


def _other_doc(node: cst.FunctionDef | cst.ClassDef) -> bool:
    return bool(_OTHER_DOC.search(node.get_docstring(clean=False) or ""))


def _spaced(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
