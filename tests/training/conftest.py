"""What several tests of training look at."""

from __future__ import annotations

from pathlib import Path

import pytest

from latentface.apps.demo import DemoConfig, draw_split
from latentface.data.encode import EncodeConfig, encode


@pytest.fixture(scope="session")
def drawn_photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ROOT with photos/train and train/: six drawn pictures and a crop of each, encoded by dct with a manifest."""
    root = tmp_path_factory.mktemp("photographs")
    settings = DemoConfig(out=str(root), pictures=6, held_out=1, size=96)
    draw_split(root / "photos" / "train", "train", 6, settings)
    images, labels = str(root / "photos" / "train"), str(root / "photos" / "train" / "labels.txt")
    encode(
        EncodeConfig(images=images, labels=labels, out=str(root / "train"), rates=(75,), size=96, crops=1, workers=1)
    )
    return root
