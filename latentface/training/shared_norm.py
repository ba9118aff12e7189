"""Batch norm over the whole batch of a run on several processes (`--sync_bn`).

As PyTorch's SyncBatchNorm, which knows GPUs only: mean, then variance about it, are added up over the processes in
training mode, gradients included. Two small sums a layer each way, so a few per cent of a step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn


class _AddUp(torch.autograd.Function):
    """The sum over all processes; so is its gradient, as every process's loss depends on every process's value."""

    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        total = values.contiguous().clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        return _AddUp.apply(gradients[0])


class SharedBatchNorm(nn.BatchNorm2d):
    """[B, C, h, w] -> the same; B may differ between processes."""

    counted = True  # whether this process's pictures are part of the batch, or only there to take part with

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        values = x.float()
        weight = float(self.counted)
        number = values.new_tensor([values.numel() / values.shape[1]])
        sums = _AddUp.apply(weight * torch.cat([values.sum(dim=(0, 2, 3)), number]))
        mean, count = sums[:-1] / sums[-1], sums[-1]
        centred = values - mean[:, None, None]
        variance = _AddUp.apply(weight * centred.square().sum(dim=(0, 2, 3))) / count
        self._remember(mean.detach(), (variance * count / (count - 1).clamp(min=1)).detach())
        scale = torch.rsqrt(variance + self.eps) * self.weight
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)


def share_statistics(model: nn.Module) -> None:
    """Turns every batch norm of `model` into a shared one, in place; names and values stay."""
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SharedBatchNorm


@contextmanager
def counted(model: nn.Module, flag: bool) -> Iterator[None]:
    """Whether this process's pictures count in the statistics that are shared, inside the block."""
    shared = [module for module in model.modules() if isinstance(module, SharedBatchNorm)]
    for module in shared:
        module.counted = flag
    try:
        yield
    finally:
        for module in shared:
            module.counted = True
