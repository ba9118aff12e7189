from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from latentface.model.config import ChannelCounts
from latentface.model.normalisation import (
    CodecModel,
    LatentNormalisation,
    LatentStatistics,
    PictureNormalisation,
    RowProjection,
)

# Rates 25 and 50 share a network, 75 has one of its own; row 2 belongs to a network that no rate uses by default.
STATISTICS = LatentStatistics(
    mean=torch.tensor([[0.0, 10], [1, 20], [2, 30]]),
    deviation=torch.tensor([[1.0, 2], [4, 5], [8, 10]]),
    rates=(25, 50, 75),
    rate_rows=(0, 0, 1),
    indices=(7, 1, 3),
    index_rows=(2, 0, 1),
)


def normalised(rates: list[int], indices: list[int] | None = None) -> np.ndarray:
    """What becomes of a latent of 32 in both channels, [B, 2]."""
    latents = torch.full((len(rates), 2, 2, 3), 32.0)
    found = LatentNormalisation(STATISTICS)(
        latents, torch.tensor(rates), None if indices is None else torch.tensor(indices)
    )
    assert found.shape == latents.shape
    assert (found == found[:, :, :1, :1]).all()  # the same at every position
    return found[:, :, 0, 0].numpy()


ROWS = np.array([[10, 10], [7.75, 2.4], [3.75, 0.2]])  # (32 - mean) / deviation of each row, at most 10


def test_the_row_follows_the_rate():
    assert normalised([75, 25, 50]) == pytest.approx(ROWS[[1, 0, 0]])


def test_the_row_follows_the_model_index_where_it_is_known():
    assert normalised([25, 25, 75], [3, 7, 1]) == pytest.approx(ROWS[[1, 2, 0]])


def test_an_unknown_model_index_falls_back_to_the_rate():
    assert normalised([75, 75, 25], [-1, 99, -1]) == pytest.approx(ROWS[[1, 1, 0]])


def test_indices_mean_nothing_to_statistics_without_them():
    normalisation = LatentNormalisation(LatentStatistics(torch.tensor([[1.0]]), torch.tensor([[2.0]]), (75,), (0,)))
    assert normalisation(torch.full((1, 1, 1, 1), 5.0), torch.tensor([75]), torch.tensor([0])).item() == 2.0


def test_a_rate_that_is_not_in_the_table_takes_the_first_row():
    assert normalised([99]) == pytest.approx(ROWS[[0]])
    assert LatentNormalisation(STATISTICS).known_rates == (25, 50, 75)


def test_the_deviation_has_a_floor():
    """Deviations 3 and 4 and two of nothing: the root mean square is 2.5, a tenth of it 0.25."""
    statistics = LatentStatistics(torch.zeros(1, 4), torch.tensor([[3.0, 4, 0, 0]]), (75,), (0,))
    found = LatentNormalisation(statistics)(torch.full((1, 4, 1, 1), 0.1), torch.tensor([75])).flatten()
    assert found.tolist() == pytest.approx([0.1 / 3, 0.1 / 4, 0.4, 0.4])


def test_what_is_far_out_is_cut_off():
    statistics = LatentStatistics(torch.tensor([[1.0, 1, 1]]), torch.ones(1, 3), (75,), (0,))
    found = LatentNormalisation(statistics)(torch.tensor([100.0, 10.5, -100]).view(1, 3, 1, 1), torch.tensor([75]))
    assert found.flatten().tolist() == [10, 9.5, -10]


def test_the_floor_is_that_of_the_row():
    statistics = LatentStatistics(torch.zeros(2, 2), torch.tensor([[1.0, 0], [100, 0]]), (12, 100), (0, 1))
    inverse = LatentNormalisation(statistics).inverse_deviation[:, 1]
    assert (1 / inverse).tolist() == pytest.approx([0.1 * 0.5**0.5, 10 * 0.5**0.5])


def test_constant_latents_stay_finite():
    statistics = LatentStatistics(torch.full((1, 2), 3.0), torch.zeros(1, 2), (75,), (0,))
    found = LatentNormalisation(statistics)(torch.full((1, 2, 1, 1), 3.0), torch.tensor([75]))
    assert found.flatten().tolist() == [0, 0]


def test_statistics_of_double_precision_do_not_change_the_models_precision():
    statistics = LatentStatistics(torch.zeros(1, 2).double(), torch.ones(1, 2).double(), (75,), (0,))
    assert LatentNormalisation(statistics)(torch.ones(1, 2, 1, 1), torch.tensor([75])).dtype == torch.float32


def test_neutral_statistics_leave_latents_as_they_are():
    latents = torch.randn(2, 3, 4, 5)
    normalisation = LatentNormalisation(LatentStatistics.neutral(3, (12, 100)))
    assert torch.equal(normalisation(latents, torch.tensor([100, 12])), latents)
    assert normalisation.known_rates == (12, 100)


def test_the_tables_travel_with_the_state_dict():
    source, target = (
        LatentNormalisation(STATISTICS),
        LatentNormalisation(
            LatentStatistics(torch.zeros(3, 2), torch.ones(3, 2), (0, 0, 0), (0, 0, 0), (0, 0, 0), (0, 0, 0))
        ),
    )
    target.load_state_dict(source.state_dict())
    latents, rates = torch.randn(2, 2, 2, 2), torch.tensor([75, 25])
    assert torch.equal(target(latents, rates), source(latents, rates))
    assert target.known_rates == (25, 50, 75)


def test_pictures_get_the_range_of_imagenet():
    normalisation = PictureNormalisation()
    pictures = torch.tensor([123.675, 116.28, 103.53]).view(1, 3, 1, 1) + torch.tensor([0, 58.395]).view(2, 1, 1, 1)
    found = normalisation(pictures, torch.tensor([0, 0]), torch.tensor([-1, -1]))[:, :, 0, 0]
    assert torch.allclose(found[0], torch.zeros(3), atol=1e-6)
    assert torch.allclose(found[1], torch.tensor([1, 0.229 / 0.224, 0.229 / 0.225]))
    assert normalisation.known_rates == ()


def test_projection_has_filters_of_its_own_for_each_row() -> None:
    torch.manual_seed(0)
    projection = RowProjection(2, 5, 3)
    torch.nn.init.normal_(projection.bias)
    x = torch.randn(3, 5, 4, 6)
    found = projection(x, torch.tensor([1, 0, 1]))
    for sample, row in enumerate((1, 0, 1)):
        wanted = torch.einsum("chw,cp->phw", x[sample], projection.weight[row]) + projection.bias[row, 0, :, None, None]
        torch.testing.assert_close(found[sample], wanted)


def test_only_the_strongest_channels_of_each_row_are_read():
    """Deviations 1, 4, 2, 4 and 3, 1, 2, 0: the two largest are channels 1 and 3, and 0 and 2. 0 has a floor."""
    deviation = torch.tensor([[1.0, 4, 2, 4], [3, 1, 2, 0]])
    normalisation = LatentNormalisation(LatentStatistics(torch.ones(2, 4), deviation, (25, 75), (0, 1)))
    latents, rates = torch.full((2, 4, 1, 1), 5.0), torch.tensor([25, 75])
    normalisation.channels_read = 2
    assert normalisation(latents, rates).flatten(1).tolist() == [[0, 1, 0, 1], [pytest.approx(4 / 3), 0, 2, 0]]
    normalisation.channels_read = 1
    assert normalisation(latents, rates).flatten(1).tolist() == [[0, 1, 0, 0], [pytest.approx(4 / 3), 0, 0, 0]]
    normalisation.channels_read = 4
    read = normalisation(latents, rates)
    normalisation.channels_read = 0
    assert torch.equal(read, normalisation(latents, rates))


# Two channels at rate 1 (index 4), three at rate 6 (index 9); the mean and deviation of what is lacking say nothing.
MIXED = LatentStatistics(
    mean=torch.tensor([[1.0, 2, 77], [0, 0, 5]]),
    deviation=torch.tensor([[2.0, 1, 99], [1, 1, 4]]),
    rates=(1, 6),
    rate_rows=(0, 1),
    indices=(4, 9),
    index_rows=(0, 1),
    channels=(2, 3),
)


def test_channels_that_a_row_lacks_are_zero_whatever_they_hold():
    normalisation = LatentNormalisation(MIXED)
    latents = torch.tensor([[5.0, 4, 1e6], [5, 4, 9]]).view(2, 3, 1, 1)
    found = normalisation(latents, torch.tensor([1, 6])).flatten(1)
    assert found.tolist() == [[2, 2, 0], [5, 4, 1]]


def test_latents_of_fewer_channels_need_no_padding():
    normalisation = LatentNormalisation(MIXED)
    narrow = torch.randn(2, 2, 3, 4)
    wide = torch.cat([narrow, torch.randn(2, 1, 3, 4)], dim=1)
    rates = torch.tensor([1, 1])
    assert torch.equal(normalisation(narrow, rates), normalisation(wide, rates)[:, :2])
    projection = RowProjection(2, 3, 5)
    rows = normalisation.rows(rates)
    torch.testing.assert_close(
        projection(normalisation(narrow, rates), rows), projection(normalisation(wide, rates), rows)
    )


def test_the_floor_counts_the_channels_that_there_are():
    """Of deviations 3, 4, 0 and one that is lacking the root mean square is 5 / sqrt 3."""
    statistics = LatentStatistics(torch.zeros(1, 4), torch.tensor([[3.0, 4, 0, 50]]), (75,), (0,), channels=(3,))
    inverse = LatentNormalisation(statistics).inverse_deviation[0].tolist()
    assert inverse == pytest.approx([1 / 3, 1 / 4, 10 * 3**0.5 / 5, 0])


def test_channels_that_a_row_lacks_are_never_the_strongest():
    normalisation = LatentNormalisation(MIXED)
    normalisation.channels_read = 2
    latents, rates = torch.full((2, 3, 1, 1), 3.0), torch.tensor([1, 6])
    assert normalisation(latents, rates).flatten(1).tolist() == [[1, 1, 0], [3, 0, -0.5]]


def test_how_many_channels_latents_have():
    counts = LatentNormalisation(MIXED).channel_counts
    assert [counts.of(rate, index) for rate, index in ((1, -1), (6, -1), (6, 4), (1, 9), (1, 5), (75, -1))] == [
        2, 3, 2, 3, 2, 3,
    ]  # fmt: skip
    assert ChannelCounts.of_json(json.loads(json.dumps(counts.to_json()))) == counts
    assert LatentNormalisation(STATISTICS).channel_counts.of(75, 7) == 2
    assert PictureNormalisation().channel_counts.of(0, -1) == 3


def test_a_codec_model_is_found_by_its_index_else_by_its_rates():
    """Row 0 is the network of index 4, row 1 that of rates 50 and 75, whose index nobody knew, row 2 that of 100."""
    table = LatentStatistics(
        torch.zeros(3, 2), torch.ones(3, 2), rates=(25, 50, 75, 100), rate_rows=(0, 1, 1, 2), indices=(4,),
        index_rows=(0,),
    )  # fmt: skip
    there = LatentNormalisation(table)

    def rows(rates: tuple[int, ...], indices: tuple[int, ...]) -> list[int]:
        return [found.row for found in there.find(CodecModel(0, rates, indices, 2))]

    assert rows((75,), (4,)) == [0]  # the index says more than the rate
    assert rows((75,), (7,)) == [1]
    assert rows((25,), (7,)) == []  # there the rate's network is another one
    assert rows((25,), ()) == [0]
    assert rows((100, 50), ()) == [1, 2]
    assert rows((12,), ()) == []
