"""Names of base classes that tell whether a class is an `nn.Module`."""

from __future__ import annotations

import re

NO_MODULE = re.compile(
    r"^((object|dict|list|tuple|int|str|Exception)$|Generic\b|Protocol\b|builtins\.|abc\.|typing\."
    r"|unittest\.|torch\.autograd\.|torch\.utils\.|torch\.optim|torch\.nn\.(Parameter|init|utils)\b"
    r"|flax|keras|tensorflow|tf\.|haiku|hk\.|jax|equinox|eqx\.|mlx|mxnet|gluon|chainer|paddle"
    r"|mindspore|jittor|tinygrad|tensorlayer|oneflow|megengine|theano|lasagne|enum\.|collections\.)"
    r"|(Trainer|Agent|Solver|Runner|Dataset|DataModule|Config|Arguments|Callback|Optimizer|Scheduler"
    r"|Env|Environment|Experiment|Pipeline|Tokenizer|TokenizerFast|Processor|Criteria|Collator"
    r"|TestCase|Output|Function|Enum|Error|Warning|Transform|Sampler|Metric|Thread|Process)$"
)
KNOWN_MODULE = re.compile(
    r"^(torch\.nn\.|torch\.jit\.ScriptModule$|torch\.fx\.GraphModule$|torch_geometric\.nn\."
    r"|transformers\.|torchvision\.(models|ops)\.)|(^|\.)(LightningModule|ScriptModule"
    r"|PreTrainedModel|MessagePassing)$"
)
# a class of this file may be a module by the name of a base in another file; models and networks
# are also what trainers, wrappers and benchmarks are called, so these need a `forward`
LAYER_NAME = re.compile(
    r"(Module|Layer|Block|Attention|Encoder|Decoder|Conv|Head|MessagePassing|PreTrainedModel)$"
)
MODEL_NAME = re.compile(r"(Model|Net|Network|Backbone|Transformer|Base|Mixin)$")

_LONG_WAY = re.compile(r"^torch\.nn\.modules\.(?:[a-z_]+\.)?([A-Za-z_]\w*)$")


def canonical(dotted: str) -> str:
    """The public name of what torch also exports under longer ones.

    >>> canonical("torch.nn.modules.dropout.Dropout")
    'torch.nn.Dropout'
    """
    return _LONG_WAY.sub(r"torch.nn.\1", dotted) if dotted.startswith("torch.nn.mod") else dotted
