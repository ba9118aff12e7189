"""Raw latents -> zero mean and unit variance per channel, by the network that made them.

A codec's networks are trained apart: channel k of one is not channel k of another, and amplitudes differ 15 times
between 0.12 and 1.00 bits per pixel (JPEG AI). So there is one row of statistics per model index, or per rate where
the index is unknown. The tables are buffers: a state dict is complete without its configuration.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from latentface.errors import LatentFaceError
from latentface.model.config import ChannelCounts

# A channel that is almost always zero carries little but would turn a rare symbol, or a picture's own mean, into a
# large value: its deviation counts as at least this part of the root mean square over all channels (0.02 in place of
# 0.1 kept a model from learning JPEG AI latents at 0.12 bpp at all). What is still far out is cut off.
SMALLEST_DEVIATION = 0.1
LARGEST_VALUE = 10.0


@dataclass(frozen=True)
class CodecModel:
    """What is known of the network behind a row of statistics."""

    row: int
    rates: tuple[int, ...]  # whose usual network it is
    indices: tuple[int, ...]  # empty: unknown
    channels: int  # of its latents

    def __str__(self) -> str:
        listed = ", ".join(map(str, self.indices or self.rates))
        return f"model index {listed}" if self.indices else f"rate {listed}"


@dataclass(frozen=True)
class LatentStatistics:
    """Mean and standard deviation per channel of a training set, one row per model index or rate."""

    mean: Tensor  # [G, C]
    deviation: Tensor  # [G, C]
    rates: tuple[int, ...]
    rate_rows: tuple[int, ...]  # the row each rate uses where the model index is unknown
    indices: tuple[int, ...] = ()
    index_rows: tuple[int, ...] = ()
    channels: tuple[int, ...] = ()  # of each row's latents, where rows differ; empty: all C

    @classmethod
    def neutral(cls, channels: int, rates: tuple[int, ...]) -> LatentStatistics:
        """Leaves latents as they are."""
        return cls(torch.zeros(1, channels), torch.ones(1, channels), rates, (0,) * len(rates))


class LatentNormalisation(nn.Module):
    """`(latent - mean) / deviation`, the row chosen by model index, else by rate.

    Rows may differ in their number of channels: those that a row lacks have an inverse deviation of 0 and become 0,
    whatever a batch holds in them.

    Where `channels_read` is set, only so many channels of each row count, those of the largest deviation (the codec's
    order between equals); the others are as if they stood at their mean.
    """

    channels_read: int = 0  # 0: all

    mean: Tensor
    inverse_deviation: Tensor
    rates: Tensor
    rate_rows: Tensor
    indices: Tensor
    index_rows: Tensor

    def __init__(self, statistics: LatentStatistics) -> None:
        super().__init__()
        deviation = statistics.deviation.float()
        rows, most = deviation.shape
        device = deviation.device
        counts = torch.tensor(statistics.channels or [most] * rows, device=device)[:, None]  # [G, 1]
        there = torch.arange(most, device=device) < counts
        floor = SMALLEST_DEVIATION * ((deviation * there).square().sum(dim=1, keepdim=True) / counts).sqrt()
        self.register_buffer("mean", statistics.mean.float().clone())
        self.register_buffer("inverse_deviation", there / deviation.maximum(floor).clamp(min=1e-6))
        for name in ("rates", "rate_rows", "indices", "index_rows"):
            self.register_buffer(name, torch.tensor(getattr(statistics, name), dtype=torch.int64))

    def forward(self, latents: Tensor, rates: Tensor, model_indices: Tensor | None = None) -> Tensor:
        """[B, c, h, w], rates [B], model indices [B] (-1: unknown) -> [B, c, h, w]; c may be less than C."""
        rows, channels = self.rows(rates, model_indices), latents.shape[1]
        mean = self.mean[rows][:, :channels, None, None]
        scale = self.inverse_deviation * self._read() if self.channels_read else self.inverse_deviation
        normalised = (latents - mean) * scale[rows][:, :channels, None, None]
        return normalised.clamp(-LARGEST_VALUE, LARGEST_VALUE)

    def _read(self) -> Tensor:
        """Which channels count: [G, C]."""
        lacking = self.inverse_deviation == 0
        order = self.inverse_deviation.masked_fill(lacking, torch.inf).argsort(dim=1, stable=True)
        return order.argsort(dim=1) < self.channels_read

    def rows(self, rates: Tensor, model_indices: Tensor | None = None) -> Tensor:
        """The row of each sample: [B] of 0 to G - 1.

        A rate that is not in the table silently takes row 0: callers check with `known_rates`.
        """
        rows = self.rate_rows[(rates[:, None] == self.rates).int().argmax(dim=1)]
        if model_indices is None or len(self.indices) == 0:
            return rows
        known = model_indices[:, None] == self.indices  # [B, K]
        return torch.where(known.any(dim=1), self.index_rows[known.int().argmax(dim=1)], rows)

    def codec_models(self) -> list[CodecModel]:
        """Of each row that a rate or a model index points at: pictures take no others."""
        counts = self._channels_of_rows().tolist()
        return [
            CodecModel(row, tuple(self.rates[self.rate_rows == row].tolist()),
                       tuple(self.indices[self.index_rows == row].tolist()), counts[row])
            for row in sorted({*self.rate_rows.tolist(), *self.index_rows.tolist()})
        ]  # fmt: skip

    def find(self, wanted: CodecModel) -> list[CodecModel]:
        """What a codec model of another set can be here: those of its model index, else those of its rates.

        Several where this table tells rates apart that are one network there. A row of another known index is none.
        """
        indices, rates = set(wanted.indices), set(wanted.rates)
        models = self.codec_models()
        same = [known for known in models if indices.intersection(known.indices)]
        return same or [m for m in models if not (indices and m.indices) and rates.intersection(m.rates)]

    def _channels_of_rows(self) -> Tensor:
        """How many channels latents of each row have: [G]."""
        return (self.inverse_deviation > 0).sum(dim=1)

    def check(self, origin: str) -> None:
        """Raises LatentFaceError for tables that point at rows which are not there."""
        rows = torch.cat([self.rate_rows, self.index_rows])
        if not len(self.rates) or rows.min() < 0 or rows.max() >= len(self.mean):
            raise LatentFaceError(f"{origin}: its statistics have no row for one of its rates or model indices")

    @property
    def known_rates(self) -> tuple[int, ...]:
        return tuple(self.rates.tolist())

    @property
    def channel_counts(self) -> ChannelCounts:
        """How many channels latents of each rate and model index have."""
        counts = self._channels_of_rows()

        def table(keys: Tensor, rows: Tensor) -> dict[int, int]:
            return dict(zip(keys.tolist(), counts[rows].tolist(), strict=True))

        by_index = table(self.indices, self.index_rows)
        return ChannelCounts(table(self.rates, self.rate_rows), by_index, self.inverse_deviation.shape[1])


class RowProjection(nn.Module):
    """A linear map of its own for each row of statistics: [B, c, h, w] -> [B, P, h, w], c up to C.

    Channel k of one of a codec's models has nothing to do with channel k of another, so they share no filters until
    here. 0.05 GMAC for a [256, 40, 40] latent and 128 channels, whatever the number of rows. This is also what makes
    latents of different numbers of channels alike.
    """

    def __init__(self, rows: int, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, in_channels, out_channels))
        nn.init.normal_(self.weight, std=(2 / in_channels) ** 0.5)
        self.bias = nn.Parameter(torch.zeros(rows, 1, out_channels))

    def forward(self, x: Tensor, rows: Tensor) -> Tensor:
        """`rows` [B] as from `LatentNormalisation.rows`."""
        height, width = x.shape[2:]
        cells = x.permute(0, 2, 3, 1).flatten(1, 2)  # [B, h * w, C], a view where channels are last
        # index_select and not weight[rows], whose gradient adds up in any order
        weight, bias = self.weight.index_select(0, rows)[:, : x.shape[1]], self.bias.index_select(0, rows)
        return torch.baddbmm(bias, cells, weight).unflatten(1, (height, width)).permute(0, 3, 1, 2)


class PictureNormalisation(nn.Module):
    """RGB 0..255 -> the range that ImageNet weights expect. Takes rates for the common signature and ignores them."""

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", 255 * torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer("deviation", 255 * torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))

    def forward(self, pictures: Tensor, rates: Tensor, model_indices: Tensor | None = None) -> Tensor:
        return (pictures - self.mean) / self.deviation

    def check(self, origin: str) -> None:
        """There are no tables."""

    def rows(self, rates: Tensor, model_indices: Tensor | None = None) -> Tensor:
        """One row for all."""
        return torch.zeros_like(rates)

    @property
    def known_rates(self) -> tuple[int, ...]:
        return ()

    @property
    def channel_counts(self) -> ChannelCounts:
        """Red, green, blue."""
        return ChannelCounts({}, {}, 3)
