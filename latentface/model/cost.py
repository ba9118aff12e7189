"""What a network costs."""

from __future__ import annotations

import torch
from torch import nn


def gmac(module: nn.Module, *inputs: torch.Tensor) -> float:
    """Multiply-adds of one forward pass, in thousand millions, as torch counts them."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        module(*inputs)
    return counter.get_total_flops() / 2e9
