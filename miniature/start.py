"""Start the autoencoder's training from weights that pass coarse colours through, instead of random ones.

With random weights, the first thousands of steps only learn to distinguish colours: group normalisation removes the
mean of a picture, and for a long time only one direction of colour passes. Here the channels of every width repeat
``r, g, b, 1, -r, -g, -b, -1``: the signs survive SiLU (silu(x) - silu(-x) = x), and the constant survives the
normalisation, so brightness does too. The branches of the residual blocks start small. Then all weights are trained.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

PERIOD = 8  # r, g, b, 1 and their negatives
CONSTANT = 2.0  # large beside colours from -1 to 1, so that normalisation divides by nearly the same number everywhere
NOISE = 0.1  # how much of the random weights stays, so that equal channels become different
BRANCH = 0.1  # the strength of residual branches at the start


@torch.no_grad()
def carry_colours(model: AutoencoderKL, logvar: float) -> None:
    """Set the weights of ``model``, in place; ``logvar`` is the latents' log-variance at the start."""
    encoder, decoder = model.encoder, model.decoder
    set_taps(encoder.conv_in, spread(3, encoder.conv_in.out_channels))
    set_constant(encoder.conv_in)
    for block in encoder.down_blocks:
        pass_on(block.resnets)
        for down in block.downsamplers or ():
            set_taps(down.conv, keep(down.conv), corner=True)
    for block in decoder.up_blocks:
        pass_on(block.resnets)
        for up in block.upsamplers or ():
            set_taps(up.conv, keep(up.conv))
    for middle in (encoder.mid_block, decoder.mid_block):
        pass_on(middle.resnets)
        middle.attentions[0].to_out[0].weight *= BRANCH
    set_taps(
        encoder.conv_out,
        torch.cat([gather(4, encoder.conv_out.in_channels), torch.zeros(4, encoder.conv_out.in_channels)]),
    )
    set_taps(model.quant_conv, torch.eye(8))
    model.quant_conv.weight[4:] *= BRANCH
    model.quant_conv.bias[4:] = logvar
    set_taps(model.post_quant_conv, torch.eye(4))
    set_taps(decoder.conv_in, spread(4, decoder.conv_in.out_channels))
    set_taps(decoder.conv_out, gather(3, decoder.conv_out.in_channels))


def spread(parts: int, width: int) -> Tensor:
    """Matrix [width, parts] that repeats each part and its negative over all channels."""
    matrix = torch.zeros(width, parts)
    for channel in range(width):
        part = channel % PERIOD
        if part % 4 < parts:
            matrix[channel, part % 4] = 1 if part < 4 else -1
    return matrix


def gather(parts: int, width: int) -> Tensor:
    """Matrix [parts, width] that undoes `spread` after SiLU."""
    return spread(parts, width).T * (PERIOD / width)


def keep(conv: nn.Conv2d) -> Tensor:
    """Matrix [out, in] that averages the channels of the same meaning."""
    rows, columns = torch.arange(conv.out_channels), torch.arange(conv.in_channels)
    same = rows[:, None] % PERIOD == columns[None] % PERIOD
    return same.float() * (PERIOD / conv.in_channels)


def set_taps(conv: nn.Conv2d, matrix: Tensor, corner: bool = False) -> None:
    """Let ``conv`` apply ``matrix`` at its middle tap, or to the mean of the 2 × 2 pixels that it halves."""
    for parameter in conv.parameters():
        parameter.mul_(NOISE)
    if corner:
        conv.weight[:, :, :2, :2] += matrix[:, :, None, None] / 4
    else:
        middle = conv.kernel_size[0] // 2
        conv.weight[:, :, middle, middle] += matrix


def set_constant(conv: nn.Conv2d) -> None:
    """Add the constant and its negative to their channels."""
    part = torch.arange(conv.out_channels) % PERIOD
    assert conv.bias is not None
    conv.bias += CONSTANT * ((part == 3).float() - (part == 7).float())


def pass_on(resnets: nn.ModuleList) -> None:
    """Let residual blocks start as little more than their skip connection."""
    for block in resnets:
        assert isinstance(block, ResnetBlock2D)
        block.conv2.weight *= BRANCH
        if block.conv_shortcut is not None:
            set_taps(block.conv_shortcut, keep(block.conv_shortcut))
