"""What a module is known to hold that heeds the mode."""

from __future__ import annotations

import libcst as cst
import pytest

from dropaudit.static.modelayers import DROPOUT, NORM, mode_layers
from dropaudit.static.source import Source

HEAD = """
import clip
import copy
import fairseq
import timm
import torch
import torchaudio
import torchvision
import transformers
from torch import nn
from torchvision import models
from backbones import resnet34

class Drops(nn.Module):
    def __init__(self, rate):
        super().__init__()
        self.drop = nn.Dropout(rate)

class Outer(nn.Module):
    def __init__(self, rate):
        super().__init__()
        self.inner = Drops(rate)

class Still(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 2)
        self.drop = nn.Dropout(0.0)
        self.norm = nn.LayerNorm(2)

class Record:
    def __init__(self):
        self.drop = nn.Dropout(0.5)

def build(name):
    if name == "small":
        return models.resnet18()
    return models.resnet50()

def pick(name):
    return Still() if name else other(name)

vgg = models.vgg16(pretrained=True)
loaded, config, task = fairseq.checkpoint_utils.load_model_ensemble_and_task([name])
resnet = models.resnet18()
"""

CASES = [
    ("models.resnet50(weights=None).cuda()", NORM),
    ("torchvision.models.vgg16_bn().features[:20]", NORM),
    ("torchvision.models.segmentation.deeplabv3_resnet50()", NORM),
    ("nn.Sequential(*list(resnet.children())[:-1])", NORM),
    ("nn.Sequential(*(resnet.layer1[i] for i in range(2)))", NORM),
    ("resnet34(pretrained=True)", NORM),
    ("build('small')", NORM),
    ("timm.create_model('efficientnet_b0', pretrained=True)", NORM),
    ("torch.hub.load('pytorch/vision', 'resnet18')", NORM),
    ("nn.Sequential(nn.Conv1d(2, 2, 1), nn.BatchNorm1d(2))", NORM),
    ("copy.deepcopy(resnet)", NORM),
    ("Outer(0.1)", DROPOUT),
    ("nn.Sequential(nn.Linear(2, 2), Drops(0.1))", DROPOUT),
    ("nn.LSTM(2, 2, 2, dropout=0.1)", DROPOUT),
    ("nn.TransformerEncoderLayer(8, 2)", DROPOUT),
    ("transformers.RobertaModel.from_pretrained(name)", DROPOUT),
    ("transformers.AutoModel.from_pretrained('bert-base-uncased')", DROPOUT),
    ("torchaudio.pipelines.HUBERT_BASE.get_model()", DROPOUT),
    ("loaded[0].cuda()", DROPOUT),
    ("clip.load('RN50')[0]", NORM),
    ("clip.load('ViT-B/32')[0]", ""),
    ("models.vgg16().features", ""),
    ("vgg.features[:16]", ""),
    ("nn.Sequential(*list(vgg.features)[:31])", ""),
    ("resnet.conv1", ""),
    ("models.resnet50(norm_layer=FrozenBatchNorm2d)", ""),
    ("models.vit_b_16()", ""),
    ("timm.create_model('vit_base_patch16_224')", ""),
    ("timm.create_model(name)", ""),
    ("torch.hub.load('facebookresearch/dinov2', 'dinov2_vits14')", ""),
    ("transformers.CLIPModel.from_pretrained(name)", ""),
    ("transformers.AutoModelForCausalLM.from_pretrained(name)", ""),
    ("transformers.AutoModel.from_pretrained('facebook/dinov2-base')", ""),
    ("Still()", ""),
    ("Record()", ""),
    ("pick(name)", ""),
    ("nn.BatchNorm2d(3, track_running_stats=False)", ""),
    ("nn.LSTM(2, 2)", ""),
    ("something(name)", ""),
]


@pytest.mark.parametrize(("built", "expected"), CASES)
def test_a_module_is_known_by_what_builds_it(built: str, expected: str) -> None:
    """Classes and functions of the file, and libraries by name; unknown is nothing."""
    source = Source("net.py", f"{HEAD}found = {built}\n".encode())
    assign = source.nodes[cst.Assign][-1]
    assert mode_layers(source, assign.value) == expected
