"""Numbers as people read them."""

from __future__ import annotations


def counted(number: object, noun: str, nouns: str = "") -> str:
    """`1 face`, `2 faces`."""
    return f"{number} {noun}" if number == 1 else f"{number} {nouns or noun + 's'}"


def disk_size(size: float) -> str:
    """Bytes as `7.3 KB`, `512 MB`, `4.2 GB`, to three digits; a KB has 1000."""
    units = ["KB", "MB", "GB", "TB"]
    size /= 1000
    while size >= 999.5 and len(units) > 1:
        size, _ = size / 1000, units.pop(0)
    return f"{size:.3g} {units[0]}"
