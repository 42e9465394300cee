"""Words by which code names the mode, or says that it drops on purpose in evaluation."""

from __future__ import annotations

import re

# The name of a flag for train or eval mode.
MODE_WORD = re.compile(
    r"^_*(not_|model_|net_|module_|flag_|phase_|run_|global_)?(is|in|do|use|when|if|for|at|on|_)*_?"
    r"(train|training|trainning|trainable_mode|eval|evaluate|evaluating|evaluation|infer|inference"
    r"|inferring|test|testing|deterministic|predict|prediction|predicting|generate|generating"
    r"|sampling|(?<=[a-z]_)val|validate|validating|validation)"
    r"(_?(mode|flag|phase|time|step|stage|only|bool|state))?_*$",
    re.IGNORECASE,
)
# In the name of a class, function or option.
PURPOSE = re.compile(
    r"pre_?-?net(?![a-z])|(^|[^a-z])mc([_ -]|$|[^a-z])|(^|_)MC(?=[A-Z_]|$)|mc_?drop"
    r"|monte[_ -]?carlo|bayes(?!ian_?personal)|uncertain|epistemic|always|consistent_?drop"
    r"|concrete_?drop|(drop\w*|eval|test|infer\w*)_(at|in|during)_(eval|test|infer)"
    r"|(eval|test|infer\w*)_?(time_?)?dropout|retain_dropout|stochastic_(infer|eval|forward)"
    r"|explor|augment|corrupt|perturb|add_?noise",
    re.IGNORECASE,
)
# In a docstring or a comment, where the same words say other things as well.
_SAID = re.compile(
    r"\bpre-?net\b|\bmc[ _-]?drop|monte[ -]?carlo|bayesian(?! personal)|uncertaint|epistemic"
    r"|always[\w ,]{0,40}\b(drop|on|active|enabled|appl|train)"
    r"|(drop\w*|noise)[\w ,`'.]{0,40}\b(always|on purpose|intention|deliberate)"
    r"|drop\w*[^.]{0,60}\b(at|during|in|for) (both|test|inference|eval|predict|synthesis|generat)"
    r"|(even|also) (at|during|in|for) (test|inference|eval|prediction|synthesis|generation)"
    r"|(stays?|left|kept|keep|remains?) (it )?(on|active|enabled)\b|explor(e|ation)"
    r"|regardless of (the )?(mode|training)",
    re.IGNORECASE,
)
_DENIED = re.compile(
    r"\b(no|not|never|disabled?|without|off|turn(ed)? off|instead of|should)\b", re.IGNORECASE
)


def says_on_purpose(text: str) -> bool:
    """Whether a comment or docstring says that the dropout around it is meant to stay on.

    >>> says_on_purpose("# MC dropout: stays on at test time")
    True
    >>> says_on_purpose("# the input is always two-dimensional")
    False
    >>> says_on_purpose("# dropout is not applied during inference")
    False
    """
    for sentence in re.split(r"(?<=[.!?])\s+|\n\s*\n", text):
        found = _SAID.search(sentence)
        if found and not _DENIED.search(found[0]):
            return True
    return False


def words(name: str) -> str:
    """`name` with its camel humps taken apart.

    >>> words("PreNetMCDropout")
    'Pre_Net_MCDropout'
    """
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
