"""End caps: the ends of an ROI beyond its outermost contours; ``docs/conventions.md``, "From contours"."""

from typing import Literal

EndCaps = Literal["rounded-half-slab", "rounded", "half-slab", "none"]
DEFAULT_END_CAPS: EndCaps = "rounded-half-slab"  # for masks and DVH metrics alike
