"""A network for PEFT to learn, with layers at the places of a UNet's."""

from __future__ import annotations

from torch import nn


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v = nn.Linear(16, 16), nn.Linear(24, 16, bias=False), nn.Linear(24, 16)


class Net(nn.Module):
    """Layers at the places of a UNet's."""

    def __init__(self) -> None:
        super().__init__()
        self.mid_block = nn.Module()
        attention = nn.Module()
        attention.transformer_blocks = nn.ModuleList([nn.Module()])
        attention.transformer_blocks[0].attn2 = Attention()  # type: ignore[union-attr]
        resnet = nn.Module()
        resnet.conv1 = nn.Conv2d(8, 12, 3, padding=1)
        self.mid_block.attentions, self.mid_block.resnets = nn.ModuleList([attention]), nn.ModuleList([resnet])
