"""Whether a module acts otherwise in training: what it is built from, in this file or by name."""

from __future__ import annotations

import re

import libcst as cst

from dropaudit.static.constants import constant
from dropaudit.static.facts import DROPOUT_MODULES, builds_dropout
from dropaudit.static.names import Kind, dotted_text
from dropaudit.static.source import Source, is_name, self_attribute
from dropaudit.static.walk import descend

DROPOUT, NORM = "dropout", "batch normalization"

_NORM = re.compile(r"torch\.nn\.(Lazy|Sync)?BatchNorm([123]d)?$")
# torchvision and timm: families with batch normalization, whatever comes before and after
_WITH_NORM = (
    r"(se_?)?resnet\w*|resnext\w*|wide_resnet\w*|densenet\w*|inception\w*|googlenet|mobilenet\w*"
    r"|efficientnet\w*|tf_efficientnet\w*|mnasnet\w*|shufflenet\w*|regnet\w*|xception\w*|vgg\w+_bn"
    r"|seresne[x]?t\w*|res2net\w*|hrnet\w*|dla\d\w*|rexnet\w*|ghostnet\w*|repvgg\w*|fasterrcnn\w*"
    r"|deeplabv3\w*|fcn_resnet\w*|r3d_\w+|r2plus1d\w*|mc3_\w+|s3d"
)
_TORCHVISION = re.compile(
    rf"(torchvision\.)?models(\.\w+)*\.({_WITH_NORM})$|torchvision(\.\w+)*\.({_WITH_NORM})$",
    re.IGNORECASE,
)
_ANYWHERE = re.compile(
    r"(^|\.)(wide_)?(resnet\d+|resnext\d+_\w+|densenet\d+|vgg\d+_bn|inception_v[34]|mobilenet_v[23]"
    r"|efficientnet_b\d|ResNet\d+|ResNeXt\d+|DenseNet\d+|InceptionV3|InceptionResnetV1)\w*$"
    r"|(^|\.)EfficientNet\.from_(pretrained|name)$|^segmentation_models_pytorch\.[A-Z]\w*$"
)
_BY_NAME = re.compile(rf"(timm/|hf_hub:timm/|nvidia_|\w+_)?({_WITH_NORM})(\.\w+)?$", re.IGNORECASE)
# transformers whose configurations drop by default; CLIP, ViT, Llama and their kin have rates of 0
_LANGUAGE = (
    r"(xlm[_-]?|distil|m?de|mobile|camem|flau|big_?bird|canine|long|retri|layout\w*|e)?"
    r"(bert|roberta|electra|albert|xlnet|gpt2|t5|mt5|bart|mbart|pegasus|marian|former|berta"
    r"|wav2vec2\w*|hubert|wavlm|speecht5|data2vec\w*)"
)
_TRANSFORMERS = re.compile(
    rf"^(pytorch_)?(transformers|pretrained_bert|pytorch_transformers)\b.*\.\w*?({_LANGUAGE})\w*"
    r"\.from_pretrained$",
    re.IGNORECASE,
)
_BERT_ANYWHERE = re.compile(
    r"(^|\.)(XLM)?(Distil)?(Bert|Roberta|Albert|Electra|T5|Bart|GPT2)(Model|For[A-Z]\w*|LMHeadModel)"
    r"\.from_pretrained$"
)
_AUTO = re.compile(
    r"^transformers\.(AutoModel(For(MaskedLM|SequenceClassification|Seq2SeqLM|TokenClassification"
    r"|QuestionAnswering|PreTraining))?)\.from_pretrained$"
)
_LANGUAGE_NAME = re.compile(rf"(.*[/_-])?{_LANGUAGE}([/_-].*)?$", re.IGNORECASE)
_LANGUAGE_MODELS = re.compile(r"^(sentence_transformers\.SentenceTransformer|lpips\.LPIPS)$")
_SPEECH = re.compile(r"^torchaudio\.pipelines\.(WAV2VEC2|HUBERT|WAVLM)\w*\.get_model$")
_DROPPING = (_TRANSFORMERS, _BERT_ANYWHERE, _LANGUAGE_MODELS, _SPEECH)
_CASTS = frozenset(
    ["to", "cuda", "cpu", "half", "float", "double", "train", "eval", "requires_grad_", "apply"]
)
_CHILDREN = frozenset(["children", "modules", "named_children"])
_FROZEN = re.compile(r"frozen", re.IGNORECASE)
_WHOLE = re.compile(r"(features|layers?\d*|blocks?\d*|stages?|body|backbone|encoder|model|module)$")
_DEPTH = 5


def mode_layers(source: Source, value: cst.CSTNode | None, depth: int = 0) -> str:
    """Which layers of the module `value` heed the mode, in words; empty where none is known.

    Only what surely is there counts: classes and functions of this file, models of libraries by
    their name. Models that are known to have none, and all that is not known, give the same.
    """
    if value is None or depth > _DEPTH:
        return ""
    if isinstance(value, cst.IfExp):
        return mode_layers(source, value.body, depth) or mode_layers(source, value.orelse, depth)
    if isinstance(value, cst.Name):
        return _first(source, _values(source, value), depth)
    if isinstance(value, cst.Subscript):
        ensemble = _is_fairseq(source, value.value)
        return DROPOUT if ensemble else _of_part(source, value.value, depth)
    if isinstance(value, cst.Attribute):
        if self_attribute(value):
            facts = source.class_of(value)
            return _first(source, facts.values(value.attr.value) if facts else [], depth)
        return _of_part(source, value, depth)
    return _of_call(source, value, depth) if isinstance(value, cst.Call) else ""


def builder_of(source: Source, value: cst.CSTNode) -> cst.CSTNode:
    """The call that builds `value`, through casts; `value` itself where there is none."""
    while isinstance(value, cst.Call) and isinstance(value.func, cst.Attribute):
        if value.func.attr.value not in _CASTS or source.name_of(value.func).startswith("torch."):
            break
        value = value.func.value
    return value


def _of_call(source: Source, call: cst.Call, depth: int) -> str:
    name = source.name_of(call.func) or dotted_text(call.func)
    last = name.rpartition(".")[2]
    if isinstance(call.func, cst.Attribute) and call.func.attr.value in _CASTS:
        return mode_layers(source, call.func.value, depth + 1)
    if last == "deepcopy" and call.args:
        return mode_layers(source, call.args[0].value, depth + 1)
    if any(_FROZEN.search(source.text(a.value)) for a in call.args if a.keyword is not None):
        return ""  # norm_layer=FrozenBatchNorm2d
    definition = source.definition(call.func)
    if isinstance(definition, cst.ClassDef):
        return _of_class(source, definition, depth)
    if isinstance(definition, cst.FunctionDef):
        returned = [n.value for n in descend(definition.body) if isinstance(n, cst.Return)]
        found = [mode_layers(source, value, depth + 1) for value in returned[:8]]
        return found[0] if found and all(found) else ""
    if last == "from_pretrained" and isinstance(call.func, cst.Attribute):
        own = source.definition(call.func.value)
        if isinstance(own, cst.ClassDef):
            return _of_class(source, own, depth)
    if name in ("torch.nn.Sequential", "torch.nn.ModuleList", "torch.nn.DataParallel"):
        return _first(source, [a.value for a in call.args], depth, inside=True)
    if _NORM.match(name):
        return NORM if _follows_statistics(source, call) else ""
    if name.startswith("torch.nn."):
        return DROPOUT if builds_dropout(source, call) else ""
    return _of_library(source, call, name)


def _of_library(source: Source, call: cst.Call, name: str) -> str:
    if _TORCHVISION.search(name) or _ANYWHERE.search(name):
        return NORM
    words = [a.value.evaluated_value for a in call.args if isinstance(a.value, cst.SimpleString)]
    given = [str(w) for w in words]
    if name in ("timm.create_model", "timm.models.create_model"):
        return NORM if any(_BY_NAME.match(w) for w in given[:1]) else ""
    if name == "torch.hub.load":
        if any(_BY_NAME.match(w) for w in given[1:2]):
            return NORM
        return DROPOUT if any(_LANGUAGE_NAME.match(w) for w in given[1:2]) else ""
    if any(known.search(name) for known in _DROPPING):
        return DROPOUT
    if name == "clip.load" and any(w.startswith("RN") for w in given[:1]):
        return NORM
    if _AUTO.match(name) and (not given or _LANGUAGE_NAME.match(given[0])):
        return DROPOUT
    return ""


def _of_class(source: Source, node: cst.ClassDef, depth: int) -> str:
    """What a module class of this file holds: what its methods build on every path."""
    facts = source.facts(node)
    if not facts.is_module or depth > _DEPTH:
        return ""
    key = ("mode layers", id(node))
    if key not in source.memo:
        source.memo[key] = ""  # a class that builds itself has no more than what it builds beside
        found = ""
        for one in facts.lineage:
            for call in descend(one.node):
                if isinstance(call, cst.Call) and not found:
                    found = _built(source, call, depth)
        source.memo[key] = found
    return str(source.memo[key])


def _built(source: Source, call: cst.Call, depth: int) -> str:
    if is_name(call.func, "super"):
        return ""
    name = source.name_of(call.func)
    if name in DROPOUT_MODULES:
        rate = source.argument(call, "p", 0)
        return DROPOUT if rate is None or constant(source, rate.value) != 0 else ""
    if name.startswith("torch.nn.functional.dropout"):
        training = source.argument(call, "training", 2)
        return DROPOUT if training is None or not is_name(training.value, "False") else ""
    if isinstance(source.definition(call.func), cst.FunctionDef):
        return ""
    return _of_call(source, call, depth + 1)


def _of_part(source: Source, whole: cst.CSTNode, depth: int) -> str:
    """`model.features`, `model.features[:16]`, `list(model.children())[:-1]`: the norms remain."""
    while True:
        match whole:
            case cst.Subscript(value=inner):
                whole = inner
            case cst.Call(
                func=cst.Name(value="list" | "tuple" | "dict"), args=[cst.Arg(value=inner)]
            ):
                whole = inner
            case cst.Call(func=cst.Attribute(value=inner, attr=cst.Name(value=name))) if (
                name in _CHILDREN
            ):
                whole = inner
            case cst.Attribute(value=inner, attr=cst.Name(value=name)) if not self_attribute(
                whole
            ) and _WHOLE.match(name):
                whole = inner
            case _:
                break
    return NORM if mode_layers(source, whole, depth + 1) == NORM else ""


def _first(
    source: Source, values: list[cst.BaseExpression], depth: int, inside: bool = False
) -> str:
    for value in values:
        if inside and not isinstance(value, (cst.Call, cst.Name, cst.IfExp)):
            found = _any_below(source, value, depth)
        else:
            found = mode_layers(source, value, depth + 1) or (
                _of_part(source, value, depth) if inside else ""
            )
        if found:
            return found
    return ""


def _any_below(source: Source, value: cst.CSTNode, depth: int) -> str:
    for node in descend(value, stop=(cst.Lambda,)):
        found = ""
        if isinstance(node, cst.Call):
            found = mode_layers(source, node, depth + 1)
        elif isinstance(node, (cst.Attribute, cst.Subscript)):
            found = _of_part(source, node, depth + 1)
        if found:
            return found
    return ""


def _is_fairseq(source: Source, models: cst.CSTNode) -> bool:
    """Whether `models` is the list that fairseq loads: its models drop by their configuration."""
    if not isinstance(models, cst.Name):
        return False
    return any(
        isinstance(b.node, cst.Assign) and "load_model_ensemble" in source.text(b.node.value)
        for b in source.bindings(models)
    )


def _values(source: Source, name: cst.Name) -> list[cst.BaseExpression]:
    found = source.bindings(name)
    if any(b.kind is not Kind.ASSIGNMENT for b in found):
        return []
    return [b.value for b in found if b.value is not None]


def _follows_statistics(source: Source, call: cst.Call) -> bool:
    flag = source.argument(call, "track_running_stats")
    return flag is None or not is_name(flag.value, "False")
