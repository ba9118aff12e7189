import pytest

from latentface.words import counted, disk_size


def test_one_has_no_plural():
    assert [counted(number, "face") for number in (0, 1, 2)] == ["0 faces", "1 face", "2 faces"]


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 KB"), (999, "0.999 KB"), (7300, "7.3 KB"), (999_600, "1 MB"), (512e6, "512 MB"), (4.2e9, "4.2 GB"),
     (4.096e13, "41 TB")],
)  # fmt: skip
def test_sizes_have_the_unit_that_fits(size, text):
    assert disk_size(size) == text
