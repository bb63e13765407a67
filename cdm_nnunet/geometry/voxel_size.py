"""Voxel size in text form: ``3``, or ``2.5x2.5x2`` for x, y and z."""

from __future__ import annotations

import math

from cdm_nnunet.errors import InputError

GRID_LIMITS_MM = (0.5, 10.0)  # voxel size of a converted data set


def voxel_size_zyx_mm(
    text: str, option: str, limits_mm: tuple[float, float] | None = GRID_LIMITS_MM
) -> tuple[float, float, float]:
    """Voxel size from ``3`` or ``2.5x2.5x2`` (x, y, z).

    Args:
        text: The text.
        option: The option with its other values, for messages.
        limits_mm: Smallest and largest size; None for any above zero.

    Returns:
        The size in the order of arrays.

    Raises:
        InputError: If it is neither, or a size is out of the limits.

    Example:
        >>> voxel_size_zyx_mm("3", "--grid takes"), voxel_size_zyx_mm("2.5x2.5x2", "--grid takes")
        ((3.0, 3.0, 3.0), (2.0, 2.5, 2.5))
    """
    try:
        sizes = [float(size) for size in text.split("x")]
    except ValueError:
        sizes = []
    low, high = limits_mm or (0.0, math.inf)
    possible = all(low <= size <= high and 0 < size < math.inf for size in sizes)
    if len(sizes) not in (1, 3) or not possible:
        within = f"of {low:g} to {high:g} mm" if limits_mm else "above zero"
        raise InputError(f"{option} a voxel size {within}, as 3 or 2.5x2.5x2 (x, y, z), not '{text}'")
    x, y, z = sizes if len(sizes) == 3 else sizes * 3
    return z, y, x
