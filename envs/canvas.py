"""Pictures of flat worlds, for environments without a simulator of their own."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

Point = Sequence[float] | np.ndarray

_OVERSAMPLING = 3  # edges are smoothed by drawing larger and averaging


class Canvas:
    """A white picture of a rectangle of the plane, y upwards; shapes cover earlier ones."""

    def __init__(self, low: Point, high: Point, pixels_per_unit: int) -> None:
        self._scale = pixels_per_unit * _OVERSAMPLING
        self._left, self._top = low[0], high[1]
        self._size = (
            round((high[0] - low[0]) * pixels_per_unit),
            round((high[1] - low[1]) * pixels_per_unit),
        )
        width, height = self._size
        self._image = Image.new("RGB", (width * _OVERSAMPLING, height * _OVERSAMPLING), "white")
        self._draw = ImageDraw.Draw(self._image)

    def polygon(self, corners: Sequence[Point], color: str) -> None:
        """Fills a polygon."""
        self._draw.polygon([self._pixel(corner) for corner in corners], fill=color)

    def box(self, low: Point, high: Point, color: str) -> None:
        """Fills an axis-aligned rectangle."""
        self.polygon([low, (high[0], low[1]), high, (low[0], high[1])], color)

    def disc(self, center: Point, radius: float, color: str) -> None:
        """Fills a circle."""
        self._draw.circle(self._pixel(center), radius * self._scale, fill=color)

    def pixels(self) -> np.ndarray:
        """Returns the picture [H, W, 3], uint8."""
        return np.asarray(self._image.resize(self._size, Image.Resampling.BOX))

    def _pixel(self, point: Point) -> tuple[float, float]:
        return (point[0] - self._left) * self._scale, (self._top - point[1]) * self._scale
