"""Ways to write dropout by hand: the right ones are silent, the wrong ones named at their line."""

from __future__ import annotations

import textwrap

import pytest

from dropaudit.static.joining import scan_program
from tests.programs import marked, unmarked

HEAD = """\
import functools
import random
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

"""

# One function or class each; what is wrong is marked at the end of its line.
RIGHT_IN_ONE_FUNCTION = {
    "keep and floor": """
        def drop_path(x, drop_prob: float = 0.0, training: bool = False):
            if drop_prob == 0.0 or not training:
                return x
            keep_prob = 1 - drop_prob
            random_tensor = keep_prob + torch.rand((x.shape[0], 1), dtype=x.dtype)
            random_tensor.floor_()
            return x.div(keep_prob) * random_tensor
    """,
    "the mask is divided in place": """
        def my_dropout(x, p):
            keep = 1 - p
            mask = x.new_empty(x.shape[0], 1).bernoulli_(keep)
            mask.div_(keep)
            return x * mask
    """,
    "a scale in a local": """
        def my_dropout(x, p):
            scale = 1 / (1 - p)
            mask = (torch.rand_like(x) > p).float()
            return x * mask * scale
    """,
    "the activation is divided first": """
        def my_dropout(x, p):
            keep = 1 - p
            mask = keep + torch.rand_like(x)
            return x.div(keep) * mask.floor()
    """,
    "where": """
        def my_dropout(x, p):
            return torch.where(torch.rand_like(x) < p, torch.zeros_like(x), x / (1 - p))
    """,
    "masked_fill": """
        def my_dropout(x, p):
            return x.masked_fill(torch.rand_like(x) < p, 0.0) * (1 / (1 - p))
    """,
    "bernoulli of a filled tensor": """
        def my_dropout(x, p):
            return x * torch.bernoulli(torch.full_like(x, 1 - p)) / (1 - p)
    """,
    "empty and bernoulli_": """
        def my_dropout(x, p):
            keep = 1.0 - p
            return x * torch.empty(x.shape, device=x.device).bernoulli_(keep).div_(keep)
    """,
    "a factory by dropout of ones": """
        def locked_dropout(x, p):
            mask = F.dropout(torch.ones(x.size(0), 1), p, True)
            return x * mask
    """,
    "a conditional expression for the scale": """
        def drop_path(x, drop_prob, scale_by_keep: bool = True):
            keep = 1 - drop_prob
            mask = torch.empty(x.size(0), 1).bernoulli_(keep)
            mask = mask / keep if scale_by_keep else mask
            return x * mask
    """,
    "a conditional expression for the rate": """
        class OwnDropout(nn.Module):
            def __init__(self, p):
                super().__init__()
                self.p = p

            def forward(self, x):
                p = self.p if self.training else 0.0
                mask = torch.rand_like(x) >= p
                return x * mask / (1 - p)
    """,
    "classic dropout with an early return": """
        class OwnDropout(nn.Module):
            def __init__(self, p):
                super().__init__()
                self.p = p

            def forward(self, x):
                if not self.training:
                    return x * (1 - self.p)
                return x * (torch.rand_like(x) > self.p)
    """,
    "a Bernoulli distribution": """
        class OwnDropout(nn.Module):
            def __init__(self, p):
                super().__init__()
                self.keep = 1 - p

            def forward(self, x):
                if not self.training:
                    return x
                mask = torch.distributions.Bernoulli(probs=self.keep).sample(x.shape)
                return mask * x / self.keep
    """,
    "a rate of a config": """
        @dataclass
        class Config:
            p: float = 0.1

        def my_dropout(x, config: Config):
            mask = torch.rand_like(x) > config.p
            return x * mask / (1 - config.p)
    """,
    "a config held by the module": """
        class OwnDropout(nn.Module):
            def __init__(self, config):
                super().__init__()
                self.config = config

            def forward(self, x):
                if not self.training:
                    return x
                mask = torch.rand_like(x) > self.config.dropout
                return x * mask / (1 - self.config.dropout)
    """,
    "an index assignment": """
        def my_dropout(x, p):
            y = x / (1 - p)
            y[torch.rand_like(x) < p] = 0
            return y
    """,
    "a mask of ones with holes": """
        def my_dropout(x, p):
            mask = torch.ones_like(x)
            mask[torch.rand_like(x) < p] = 0
            return x * mask / (1 - p)
    """,
    "the activation scaled by a product": """
        def my_dropout(x, keep_prob):
            noise = torch.floor(torch.rand_like(x) + keep_prob)
            return (x * noise).mul_(1.0 / keep_prob)
    """,
}
RIGHT_THROUGH_HELPERS = {
    "a helper makes the mask": """
        def make_mask(x, p):
            return (torch.rand_like(x) > p).float()

        def my_dropout(x, p):
            return x * make_mask(x, p) / (1 - p)
    """,
    "a helper makes a scaled mask": """
        def make_mask(x, p):
            return x.new_empty(x.shape).bernoulli_(1 - p).div_(1 - p)

        def my_dropout(x, p):
            return x * make_mask(x, p)
    """,
    "a helper gives mask and scale": """
        def mask_and_scale(x, p):
            keep = 1 - p
            return torch.rand_like(x) < keep, 1 / keep

        def my_dropout(x, rate):
            mask, scale = mask_and_scale(x, rate)
            return x * mask * scale
    """,
    "mask and scale taken by index": """
        def mask_and_keep(x, p):
            keep = 1 - p
            mask = torch.bernoulli(torch.full_like(x, keep))
            return (mask, keep)

        def my_dropout(x, p):
            both = mask_and_keep(x, p)
            return x * both[0] / both[1]
    """,
    "one helper makes the mask, another applies it": """
        def make_mask(x, p):
            return torch.rand_like(x) > p

        def apply_mask(x, mask, p):
            return x * mask / (1 - p)

        def my_dropout(x, p):
            mask = make_mask(x, p)
            return apply_mask(x, mask, p)
    """,
    "a helper for the keep probability": """
        def keep_of(p):
            return 1 - p

        def my_dropout(x, p):
            mask = torch.rand_like(x) > p
            return x * mask / keep_of(p)
    """,
    "methods": """
        class OwnDropout(nn.Module):
            def __init__(self, p):
                super().__init__()
                self.p = p

            def _mask(self, x):
                return torch.empty_like(x).bernoulli_(1 - self.p)

            def _apply(self, x, mask):
                return x * mask / (1 - self.p)

            def forward(self, x):
                if not self.training:
                    return x
                return self._apply(x, self._mask(x))
    """,
    "a static method": """
        class OwnDropout(nn.Module):
            def __init__(self, p):
                super().__init__()
                self.p = p

            @staticmethod
            def _mask(x, p):
                return torch.empty_like(x).bernoulli_(1 - p).div_(1 - p)

            def forward(self, x):
                if not self.training:
                    return x
                return x * self._mask(x, self.p)
    """,
    "a property for the keep probability": """
        class OwnDropout(nn.Module):
            def __init__(self, p):
                super().__init__()
                self.p = p

            @property
            def keep(self):
                return 1 - self.p

            def forward(self, x):
                if not self.training:
                    return x
                return x * (torch.rand_like(x) > self.p) / self.keep
    """,
    "a property for the scale": """
        class OwnDropout(nn.Module):
            def __init__(self, rate):
                super().__init__()
                self.rate = rate

            @property
            def correction(self):
                return 1.0 / (1.0 - self.rate)

            def forward(self, x):
                if not self.training:
                    return x
                return self.correction * x * (torch.rand_like(x) > self.rate)
    """,
    "a mask kept on the module by a helper": """
        class LockedDropout(nn.Module):
            def __init__(self, p):
                super().__init__()
                self.p = p

            def _draw(self, x):
                self.mask = torch.rand_like(x[:1]) > self.p

            def forward(self, x):
                if not self.training:
                    return x
                self._draw(x)
                return x * self.mask / (1 - self.p)
    """,
    "a partial": """
        def make_mask(x, p):
            return (torch.rand_like(x) > p).float()

        def my_dropout(x, p):
            draw = partial(make_mask, p=p)
            return x * draw(x) / (1 - p)
    """,
    "a partial of the module": """
        def make_mask(x, keep, like=None):
            return torch.empty(x.shape).bernoulli_(keep)

        class OwnDropout(nn.Module):
            def __init__(self, p):
                super().__init__()
                self.p = p
                self.draw = functools.partial(make_mask, keep=1 - p)

            def forward(self, x):
                if not self.training:
                    return x
                return x * self.draw(x) / (1 - self.p)
    """,
    "a default argument": """
        def make_mask(x, p=0.25):
            return (torch.rand_like(x) > p).float()

        def my_dropout(x):
            return x * make_mask(x) / 0.75
    """,
    "a keyword dictionary": """
        def make_mask(x, p):
            return (torch.rand_like(x) > p).float()

        def my_dropout(x, rate):
            options = dict(p=rate)
            return x * make_mask(x, **options) / (1 - rate)
    """,
    "a keyword dictionary in braces": """
        def make_mask(x, p):
            return (torch.rand_like(x) > p).float()

        def my_dropout(x, rate):
            options = {"p": rate}
            return x * make_mask(x, **options) / (1 - rate)
    """,
    "the caller divides": """
        def dropped(x, p):
            return x * (torch.rand_like(x) > p)

        def my_dropout(x, p):
            return dropped(x, p) / (1 - p)
    """,
    "the caller divides before": """
        def dropped_units(x, p):
            return x * (torch.rand_like(x) > p)

        def my_dropout(x, p):
            return dropped_units(x / (1 - p), p)
    """,
    "a helper with an early return": """
        def make_mask(x, p, training):
            if not training or p == 0:
                return torch.ones_like(x)
            mask = torch.rand_like(x) > p
            return mask / (1 - p)

        def my_dropout(x, p, training):
            return x * make_mask(x, p, training)
    """,
    "a classic dropout through a helper": """
        def random_mask(x, p):
            return torch.rand_like(x) > p

        def my_dropout(x, p, training):
            if training:
                return x * random_mask(x, p)
            return x * (1 - p)
    """,
    "a helper that other code may scale": """
        def dropout_mask(x, p):
            return x.new_empty(x.shape).bernoulli_(1 - p)
    """,
    "scores divided by their root": """
        def make_mask(x, p):
            return x.new_empty(x.shape).bernoulli_(1 - p).div_(1 - p)

        def attention_dropout(x, p):
            return x * make_mask(x, p) / x.size(-1) ** 0.5
    """,
    "half of a residual": """
        def drop_path(x, p=0.5, training=False):
            if not training:
                return x
            return x * torch.empty(x.size(0), 1).bernoulli_(1 - p) / (1 - p)

        class Block(nn.Module):
            def forward(self, x):
                return x + 0.5 * drop_path(x, 0.5, self.training)
    """,
    "a subclass scales what the base draws": """
        class Base(nn.Module):
            def __init__(self, p):
                super().__init__()
                self.p = p

            def mask(self, x):
                return torch.rand_like(x) > self.p

            def forward(self, x):
                if not self.training:
                    return x
                return x * self.mask(x)

        class OwnDropout(Base):
            def mask(self, x):
                return super().mask(x) / (1 - self.p)
    """,
    "an option for either way": """
        class OwnDropout(nn.Module):
            def __init__(self, p, inverted=True):
                super().__init__()
                self.p = p
                self.inverted = inverted

            def _noise(self, x):
                return x.new_empty(x.size(0), 1).bernoulli_(1 - self.p)

            def forward(self, x):
                if not self.training:
                    return x if self.inverted else x * (1 - self.p)
                noise = self._noise(x)
                if self.inverted:
                    noise = noise.div_(1 - self.p)
                return x * noise
    """,
    "a condition that is left out at random": """
        def chance_mask(rows, probability, device):
            return torch.zeros(rows, device=device).uniform_(0, 1) < probability

        class Denoiser(nn.Module):
            def forward(self, x, classes):
                mask = chance_mask((x.size(0), 1), 1 - self.cond_drop_prob, x.device)
                hint = self.embed(classes) * mask
                return self.net(x, hint)
    """,
    "the training pass of a generator": """
        def toss(shape, probability):
            return torch.bernoulli(torch.full(shape, probability))

        class Chunked(nn.Module):
            def __init__(self, dropout=0.1):
                super().__init__()
                self.net = nn.Linear(2, 2)
                self.dropout = dropout

            def forward(self, x, before):
                hidden = self.net(before)
                hidden = torch.where(toss((x.size(0), 1), self.dropout) > 0, 0.0, hidden)
                return self.net(x + hidden)

            def sample(self, x):
                return self.net(x)
    """,
    "a joint scale of a list of masks": """
        class JointDropout(nn.Module):
            def forward(self, *items):
                if not self.training:
                    return items
                masks = [x.new_empty(x.shape[:2]).bernoulli_(1 - self.p) for x in items]
                total = sum(masks)
                scale = len(items) / total.clamp(min=1)
                return [x * (m * scale)[..., None] for x, m in zip(items, masks)]
    """,
    "another mask of the caller": """
        def random_mask(x, p):
            return (torch.rand_like(x) > p).float()

        class Masked(nn.Module):
            def forward(self, tokens, p):
                return tokens * random_mask(tokens, p)
    """,
}
WRONG_IN_ONE_FUNCTION = {
    "floor without a scale": """
        def drop_path(x, drop_prob, training):
            if not training:
                return x
            keep = 1 - drop_prob
            mask = (keep + torch.rand(x.shape[0], 1)).floor()
            return x * mask  # DRP101
    """,
    "an empty tensor without a scale": """
        def my_dropout(x, p):
            return x * torch.empty(x.shape).bernoulli_(1 - p)  # DRP101
    """,
    "where without a scale": """
        def my_dropout(x, p):
            return torch.where(torch.rand_like(x) < p, torch.zeros_like(x), x)  # DRP101
    """,
    "masked_fill without a scale": """
        def my_dropout(x, p):
            return x.masked_fill(torch.rand_like(x) < p, 0.0)  # DRP101
    """,
    "an index assignment without a scale": """
        def my_dropout(x, p):
            y = x.clone()
            y[torch.rand_like(x) < p] = 0  # DRP101
            return y
    """,
    "a config without a scale": """
        class OwnDropout(nn.Module):
            def __init__(self, config):
                super().__init__()
                self.config = config

            def forward(self, x):
                if not self.training:
                    return x
                return x * (torch.rand_like(x) > self.config.dropout)  # DRP101
    """,
    "divided by the rate": """
        def my_dropout(x, p):
            mask = (torch.rand_like(x) > p).float()
            mask.div_(p)  # DRP102
            return x * mask
    """,
    "divided by the rate of a config": """
        def my_dropout(x, config):
            mask = torch.rand_like(x) > config.drop_rate
            return x * mask / config.drop_rate  # DRP102
    """,
    "multiplied by the keep probability": """
        def drop_path(x, drop_prob):
            keep = 1 - drop_prob
            mask = torch.empty(x.size(0), 1).bernoulli_(keep)
            return x * mask * keep  # DRP102
    """,
    "torch's own dropout scaled again": """
        class Net(nn.Module):
            def __init__(self, p):
                super().__init__()
                self.p = p

            def dropout(self, x):
                return F.dropout(x, self.p, self.training) / (1 - self.p)  # DRP102
    """,
    "kept with the drop probability": """
        def my_dropout(x, p):
            mask = torch.rand_like(x) < p
            return x * mask / (1 - p)  # DRP104
    """,
    "a bernoulli of the drop probability": """
        def drop_path(x, drop_prob):
            mask = x.new_empty(x.size(0), 1).bernoulli_(drop_prob)
            return x * mask / (1 - drop_prob)  # DRP104
    """,
    "normal noise": """
        def my_dropout(x, p):
            mask = (torch.randn_like(x) > p).float()  # DRP105
            return x * mask / (1 - p)
    """,
    "a mask read off the result": """
        def dropout_with_mask(x, p):
            y = F.dropout(x, p, True)
            mask = y != 0  # DRP105
            return y, mask
    """,
}
WRONG_THROUGH_HELPERS = {
    "a helper makes the mask": """
        def make_mask(x, p):
            return (torch.rand_like(x) > p).float()

        def my_dropout(x, p):
            return x * make_mask(x, p)  # DRP101
    """,
    "one helper makes the mask, another applies it": """
        def make_mask(x, p):
            return torch.rand_like(x) > p

        def apply_mask(x, mask):
            return x * mask  # DRP101

        def my_dropout(x, p):
            return apply_mask(x, make_mask(x, p))
    """,
    "a mask and a scale that is wrong": """
        def mask_and_scale(x, p):
            return torch.rand_like(x) > p, 1 / p

        def my_dropout(x, rate):
            mask, scale = mask_and_scale(x, rate)
            return x * mask * scale  # DRP102
    """,
    "methods": """
        class OwnDropout(nn.Module):
            def __init__(self, p):
                super().__init__()
                self.p = p

            def _mask(self, x):
                return torch.empty_like(x).bernoulli_(1 - self.p)

            def forward(self, x):
                if not self.training:
                    return x
                return x * self._mask(x)  # DRP101
    """,
    "a property that is the rate": """
        class OwnDropout(nn.Module):
            def __init__(self, p):
                super().__init__()
                self.p = p

            @property
            def scale(self):
                return 1 / self.p

            def forward(self, x):
                if not self.training:
                    return x
                return x * (torch.rand_like(x) > self.p) * self.scale  # DRP102
    """,
    "a mask kept on the module by a helper": """
        class LockedDropout(nn.Module):
            def __init__(self, p):
                super().__init__()
                self.p = p

            def _draw(self, x):
                self.mask = torch.rand_like(x[:1]) > self.p

            def forward(self, x):
                if not self.training:
                    return x
                self._draw(x)
                return x * self.mask  # DRP101
    """,
    "a partial": """
        def make_mask(x, p):
            return (torch.rand_like(x) > p).float()

        def my_dropout(x, p):
            draw = partial(make_mask, p=p)
            return x * draw(x) / p  # DRP102
    """,
    "a keyword dictionary": """
        def make_mask(x, p):
            return (torch.rand_like(x) < p).float()

        def my_dropout(x, rate):
            options = dict(p=rate)
            return x * make_mask(x, **options) / (1 - rate)  # DRP104
    """,
    "a default argument": """
        def make_mask(x, p=0.25):
            return (torch.rand_like(x) > p).float()

        def my_dropout(x):
            return x * make_mask(x) / 0.25  # DRP102
    """,
    "a scale that is divided out again": """
        def make_mask(x, p):
            return x.new_empty(x.shape).bernoulli_(1 - p).div_(1 - p)

        def my_dropout(x, p):
            return x * make_mask(x, p) / (1 - p)  # DRP102
    """,
    "the caller multiplies": """
        def dropped(x, p):
            return x * (torch.rand_like(x) > p)

        def my_dropout(x, p):
            return dropped(x, p) * (1 - p)  # DRP102
    """,
    "normal noise of a helper": """
        def noise_like(x):
            return torch.randn_like(x)

        def my_dropout(x, p):
            mask = noise_like(x) > p  # DRP105
            return x * mask / (1 - p)
    """,
    "an evaluation branch that never runs": """
        def sample_drop(x, rate, is_training):
            keep = 1 - rate
            if not is_training:
                return x * keep
            mask = torch.floor(keep + torch.rand(x.shape[0], 1, 1, 1))
            return x * mask

        class Block(nn.Module):
            def forward(self, x):
                if self.training and self.rate:
                    x = sample_drop(x, self.rate, self.training)  # DRP101
                return x
    """,
    "an evaluation branch that drops everything": """
        def dropout_rows(x, p, training=True):
            if not training or p == 0.0:
                mask = x.new_zeros(x.size(0), dtype=torch.bool)  # DRP104
                return x, mask
            mask = torch.rand(x.size(0)) > p
            return x[mask], mask
    """,
}
MODE = {
    "a method that is on by default": """
        class Net(nn.Module):
            def _drop(self, x, training=True):
                if not training:
                    return x
                return x * (torch.rand_like(x) > self.drop_rate) / (1 - self.drop_rate)

            def forward(self, x):
                h = self._drop(x, self.training)
                return self._drop(self.fc(h))  # DRP216
    """,
    "a helper that is off by default": """
        def my_dropout(x, p, training=False):
            if not training:
                return x
            return x * (torch.rand_like(x) > p) / (1 - p)

        class Net(nn.Module):
            def forward(self, x):
                return my_dropout(self.fc(x), self.p)
    """,
    "scaled in training and again in evaluation": """
        class OwnDropout(nn.Module):
            def __init__(self, p):
                super().__init__()
                self.p = p

            def forward(self, x):
                if self.training:
                    mask = (torch.rand_like(x) > self.p).float()
                    return x * mask / (1 - self.p)
                return x * (1 - self.p)  # DRP102
    """,
    "a helper that is on by default": """
        def my_dropout(x, p, training=True):
            if not training:
                return x
            return x * (torch.rand_like(x) > p) / (1 - p)

        class Net(nn.Module):
            def forward(self, x):
                return my_dropout(x, self.p)  # DRP216
    """,
    "a helper that is told the mode": """
        def my_dropout(x, p, training=True):
            if not training:
                return x
            return x * (torch.rand_like(x) > p) / (1 - p)

        class Net(nn.Module):
            def forward(self, x):
                return my_dropout(x, self.p, training=self.training)
    """,
    "a helper gated at every call": """
        def my_dropout(x, p):
            return x * (torch.rand_like(x) > p) / (1 - p)

        class Net(nn.Module):
            def forward(self, x):
                if self.training:
                    x = my_dropout(x, self.p)
                y = my_dropout(x, self.q) if self.training else x
                return x + y
    """,
    "a mask helper in every mode": """
        class OwnDropout(nn.Module):
            def __init__(self, p):
                super().__init__()
                self.p = p

            def _mask(self, x):
                return torch.empty_like(x).bernoulli_(1 - self.p) / (1 - self.p)

            def forward(self, x):
                return x * self._mask(x)  # DRP216
    """,
    "a free mask helper in every mode": """
        def make_mask(x, p):
            return torch.empty_like(x).bernoulli_(1 - p) / (1 - p)

        class OwnDropout(nn.Module):
            def __init__(self, p):
                super().__init__()
                self.p = p

            def forward(self, x):
                return x * make_mask(x, self.p)  # DRP216
    """,
    "a free mask helper in training": """
        def make_mask(x, p):
            return torch.empty_like(x).bernoulli_(1 - p) / (1 - p)

        class OwnDropout(nn.Module):
            def __init__(self, p):
                super().__init__()
                self.p = p

            def forward(self, x):
                if self.training:
                    x = x * make_mask(x, self.p)
                return x
    """,
    "a mask helper that hears of the mode": """
        class OwnDropout(nn.Module):
            def __init__(self, p):
                super().__init__()
                self.p = p

            def _mask(self, x):
                if not self.training:
                    return torch.ones_like(x)
                return torch.empty_like(x).bernoulli_(1 - self.p) / (1 - self.p)

            def forward(self, x):
                return x * self._mask(x)
    """,
}
FORMS = {
    f"{group}: {name}": textwrap.dedent(program).lstrip()
    for group, forms in (
        ("right in one function", RIGHT_IN_ONE_FUNCTION),
        ("right through helpers", RIGHT_THROUGH_HELPERS),
        ("wrong in one function", WRONG_IN_ONE_FUNCTION),
        ("wrong through helpers", WRONG_THROUGH_HELPERS),
        ("mode", MODE),
    )
    for name, program in forms.items()
}


@pytest.mark.parametrize("name", FORMS)
def test_each_form_is_judged_at_its_line_by_every_rule(name: str) -> None:
    """Exactly the marked lines, whatever rule might speak."""
    program = HEAD + FORMS[name]
    compile(program, "example.py", "exec")
    found = scan_program("example.py", unmarked(program).encode(), {})
    assert [(f.where.line, f.code) for f in found] == marked(program), program


@pytest.mark.parametrize("name", [n for n in FORMS if n.startswith("right")])
def test_right_forms_carry_no_mark(name: str) -> None:
    """A form that is called right expects nothing."""
    assert marked(FORMS[name]) == []
