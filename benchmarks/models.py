"""Audit healthy models as they are trained, and print what was seen: there is nothing to find.

    python benchmarks/models.py [--steps 5] [--only NAME]

Each model, torch's own and those of transformers, small and with random weights, is trained for
some steps with AdamW, evaluated, and trained again. Every finding is a false alarm, or a defect of
a library: both are printed below the table.
"""

from __future__ import annotations

import argparse
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from dropaudit.findings import Severity
from dropaudit.runtime.auditor import audit
from dropaudit.runtime.report import Report

BATCH, LENGTH, WORDS, WIDTH = 4, 12, 50, 32
ATTENTION = ("eager", "sdpa")


@dataclass(frozen=True)
class Program:
    """A model, and the loss of the next batch."""

    model: nn.Module
    loss: Callable[[], Tensor]


@dataclass(frozen=True)
class Candidate:
    """A model to audit: how it is called, how it attends, and how it is built."""

    name: str
    attention: str
    build: Callable[[], Program]

    def __str__(self) -> str:
        return f"{self.name} {self.attention}".strip()


# Programs


def train_and_evaluate(program: Program, steps: int) -> None:
    """Some steps of training, an evaluation, and two steps more."""
    optimizer = torch.optim.AdamW(program.model.parameters(), lr=1e-3)
    for some in (steps, 2):
        program.model.train()
        for _ in range(some):
            optimizer.zero_grad()
            program.loss().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        program.model.eval()
        with torch.no_grad():
            program.loss()


def audited(candidate: Candidate, steps: int = 5) -> Report:
    """What an audit of the candidate's training reports."""
    torch.manual_seed(0)
    program = candidate.build()
    with audit(program.model, on_finding="collect") as watched:
        train_and_evaluate(program, steps)
    return watched.report


# Torch's own


class Translator(nn.Module):
    """torch's own Transformer, from words to words."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, WIDTH)
        self.dropout = nn.Dropout(0.1)
        self.transformer = nn.Transformer(
            *(WIDTH, 2, 2, 2, 64), dropout=0.1, batch_first=batch_first
        )
        self.head = nn.Linear(WIDTH, WORDS)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Logits of shape (batch, length, words), or length first."""
        mask = nn.Transformer.generate_square_subsequent_mask(LENGTH)
        source, target = self.dropout(self.embedding(source)), self.dropout(self.embedding(target))
        result: Tensor = self.head(self.transformer(source, target, tgt_mask=mask))
        return result


class LanguageModel(nn.Module):
    """Two layers of an LSTM between dropouts, as in Zaremba et al. (2014)."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, WIDTH)
        self.dropout = nn.Dropout(0.2)
        self.lstm = nn.LSTM(WIDTH, WIDTH, 2, dropout=0.2, batch_first=True)
        self.head = nn.Linear(WIDTH, WORDS)

    def forward(self, words: Tensor) -> Tensor:
        """Logits of shape (batch, length, words)."""
        hidden, _ = self.lstm(self.dropout(self.embedding(words)))
        result: Tensor = self.head(self.dropout(hidden))
        return result


class DropPath(nn.Module):
    """Stochastic depth by sample, as timm writes it."""

    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        """`x`, where whole samples are dropped in training."""
        if self.drop_prob == 0.0 or not self.training:
            return x
        keep_prob = 1 - self.drop_prob
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        random_tensor = x.new_empty(shape).bernoulli_(keep_prob)
        if keep_prob > 0.0:
            random_tensor.div_(keep_prob)
        return x * random_tensor


class Block(nn.Module):
    """A block of a vision transformer, as timm writes it."""

    def __init__(self, drop_path: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.attn_drop, self.proj_drop = nn.Dropout(0.1), nn.Dropout(0.1)
        self.mlp = nn.Sequential(
            *(nn.Linear(WIDTH, 64), nn.GELU(), nn.Dropout(0.1)),
            *(nn.Linear(64, WIDTH), nn.Dropout(0.1)),
        )
        self.drop_path1, self.drop_path2 = DropPath(drop_path), DropPath(drop_path)

    def attend(self, x: Tensor) -> Tensor:
        """Self-attention of shape (batch, tokens, width)."""
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, 2, width // 2).permute(2, 0, 3, 1, 4)
        weights = self.attn_drop((q @ k.transpose(-2, -1) / width**0.5).softmax(dim=-1))
        result: Tensor = self.proj_drop(self.proj((weights @ v).transpose(1, 2).flatten(2)))
        return result

    def forward(self, x: Tensor) -> Tensor:
        """Attention and MLP, each around a residual."""
        x = x + self.drop_path1(self.attend(self.norm1(x)))
        result: Tensor = x + self.drop_path2(self.mlp(self.norm2(x)))
        return result


def _translator(batch_first: bool) -> Program:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that length first keeps it off a fast path
        model = Translator(batch_first)
    shape = (BATCH, LENGTH) if batch_first else (LENGTH, BATCH)
    return _classifier(model, (torch.randint(WORDS, shape), torch.randint(WORDS, shape)), WORDS)


def _language_model() -> Program:
    return _classifier(LanguageModel(), (torch.randint(WORDS, (BATCH, LENGTH)),), WORDS)


def _conv_net() -> Program:
    model = nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Dropout2d(0.2)),
        *(nn.Conv2d(16, 32, 3, stride=2), nn.ReLU(), nn.Dropout2d(0.2), nn.Flatten()),
        *(nn.Dropout(0.5), nn.Linear(32 * 49, 10)),
    )
    return _classifier(model, (torch.randn(BATCH, 3, 16, 16),), 10)


def _vision_transformer() -> Program:
    class Patches(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(2).transpose(1, 2)

    model = nn.Sequential(
        *(nn.Conv2d(3, WIDTH, 4, stride=4), Patches(), nn.Dropout(0.1)),
        *(Block(rate) for rate in (0.0, 0.1, 0.2)),
        *(nn.LayerNorm(WIDTH), nn.Flatten(), nn.Linear(16 * WIDTH, 10)),
    )
    return _classifier(model, (torch.randn(8, 3, 16, 16),), 10)


def _classifier(model: nn.Module, inputs: tuple[Tensor, ...], classes: int) -> Program:
    def loss() -> Tensor:
        logits = model(*inputs).reshape(-1, classes)
        labels = torch.arange(len(logits)) % classes
        return nn.functional.cross_entropy(logits, labels)

    return Program(model, loss)


# Those of transformers


def _pretrained(name: str, config: str, options: dict[str, Any], inputs: Any, how: str) -> Program:
    transformers = import_module("transformers")
    settings = getattr(transformers, config)(**options, attn_implementation=how)
    model: nn.Module = getattr(transformers, name)(settings)
    batch = inputs()

    def loss() -> Tensor:
        result: Tensor = model(**batch).loss
        return result

    return Program(model, loss)


def _words() -> dict[str, Tensor]:
    words = torch.randint(3, WORDS, (BATCH, LENGTH))
    mask = torch.ones_like(words)
    mask[0, LENGTH // 2 :] = 0
    return {"input_ids": words, "attention_mask": mask, "labels": words.clone()}


def _images() -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(BATCH, 3, 16, 16), "labels": torch.arange(BATCH)}


def _spectrograms() -> dict[str, Tensor]:
    words = torch.randint(3, WORDS, (BATCH, LENGTH))
    return {"input_features": torch.randn(BATCH, 8, 40), "labels": words}


def _sounds() -> dict[str, Tensor]:
    words = torch.randint(3, WORDS, (BATCH, 3))
    return {"input_values": torch.randn(BATCH, 1600), "labels": words}


_ENCODER = {
    **{"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2},
    "intermediate_size": 64,
}
_RATES = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
_T5 = {"d_model": WIDTH, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2}
_LAYERS = {
    **{"encoder_layers": 2, "decoder_layers": 2, "d_model": WIDTH},
    **{"encoder_attention_heads": 2, "decoder_attention_heads": 2},
    **{"encoder_ffn_dim": 64, "decoder_ffn_dim": 64},
}
_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_WAV2VEC2 = {
    **_ENCODER,
    **{"vocab_size": WORDS, "conv_dim": (16, 16), "conv_kernel": (10, 5), "conv_stride": (5, 4)},
    **{"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2},
    **{"hidden_dropout": 0.1, "activation_dropout": 0.1, "attention_dropout": 0.1},
    **{"feat_proj_dropout": 0.1, "final_dropout": 0.1, "layerdrop": 0.1},
    **{"mask_time_prob": 0.2, "mask_time_length": 4, "ctc_zero_infinity": True},
}
_MODELS: tuple[tuple[str, str, str, dict[str, Any], Any], ...] = (
    (
        *("BERT", "BertForMaskedLM", "BertConfig"),
        {**_ENCODER, **_RATES, "vocab_size": WORDS, "max_position_embeddings": 32},
        _words,
    ),
    (
        *("GPT-2", "GPT2LMHeadModel", "GPT2Config"),
        {**_TOKENS, "n_embd": WIDTH, "n_layer": 2, "n_head": 2, "vocab_size": WORDS},
        _words,
    ),
    (
        *("T5", "T5ForConditionalGeneration", "T5Config"),
        {**_T5, "vocab_size": WORDS, "dropout_rate": 0.1, "decoder_start_token_id": 0},
        _words,
    ),
    (
        *("Llama", "LlamaForCausalLM", "LlamaConfig"),
        {**_ENCODER, **_TOKENS, "vocab_size": WORDS, "attention_dropout": 0.1},
        _words,
    ),
    (
        *("ViT", "ViTForImageClassification", "ViTConfig"),
        {**_ENCODER, **_RATES, "image_size": 16, "patch_size": 4, "num_labels": 10},
        _images,
    ),
    (
        *("Whisper", "WhisperForConditionalGeneration", "WhisperConfig"),
        {
            **_LAYERS,
            **_TOKENS,
            **{"vocab_size": WORDS, "num_mel_bins": 8, "max_source_positions": 20},
            **{"dropout": 0.1, "attention_dropout": 0.1, "activation_dropout": 0.1},
            **{"decoder_start_token_id": 1, "suppress_tokens": None},
        },
        _spectrograms,
    ),
    (
        *("Wav2Vec2", "Wav2Vec2ForCTC", "Wav2Vec2Config"),
        {**_WAV2VEC2, "apply_spec_augment": False},
        _sounds,
    ),
    (
        *("Wav2Vec2 with SpecAugment", "Wav2Vec2ForCTC", "Wav2Vec2Config"),
        {**_WAV2VEC2, "apply_spec_augment": True},
        _sounds,
    ),
)

TORCH = (
    Candidate("nn.Transformer", "batch first", partial(_translator, True)),
    Candidate("nn.Transformer", "length first", partial(_translator, False)),
    Candidate("LSTM language model", "", _language_model),
    Candidate("ConvNet with Dropout2d", "", _conv_net),
    Candidate("ViT with DropPath", "", _vision_transformer),
)
TRANSFORMERS = tuple(
    Candidate(name, how, partial(_pretrained, model, config, options, inputs, how))
    for name, model, config, options, inputs in _MODELS
    for how in ATTENTION
)


# The table


def main() -> None:
    """Audit the models one by one, and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=5, help="training steps before the evaluation")
    parser.add_argument("--only", default="", help="only models with this in their name")
    options = parser.parse_args()
    chosen = TORCH + TRANSFORMERS if find_spec("transformers") else TORCH
    if chosen is TORCH:
        print("transformers is not installed: only torch's own models\n")
    warnings.simplefilter("ignore")
    print(_row("model", "attention", "sites", "calls", "gradients", "errors", "warnings", "kinds"))
    said: list[str] = []
    for candidate in chosen:
        if options.only.lower() in str(candidate).lower():
            report = audited(candidate, options.steps)
            print(_figures(candidate, report), flush=True)
            said += _sentences(candidate, report)
    print("\n" + "\n".join(said or ["No findings."]))


def _figures(candidate: Candidate, report: Report) -> str:
    sites = report.sites
    severities = Counter(finding.severity for finding in report.findings)
    kinds = Counter(site.kind for site in sites)
    return _row(
        candidate.name,
        candidate.attention,
        len(sites),
        sum(site.training.calls + site.eval.calls for site in sites),
        sum(site.backward.calls for site in sites),
        severities[Severity.ERROR],
        severities[Severity.WARNING],
        ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())),
    )


def _sentences(candidate: Candidate, report: Report) -> Iterator[str]:
    for finding in report.findings:
        yield f"{candidate}: {finding.code} {finding.where}: {finding.message}"


def _row(name: object, attention: object, *rest: object) -> str:
    *figures, kinds = rest
    cells = "".join(f"{figure:>10}" for figure in figures)
    return f"{name:<27}{attention:<14}{cells}  {kinds}"


if __name__ == "__main__":
    main()
