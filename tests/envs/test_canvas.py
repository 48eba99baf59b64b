"""Shapes land where their coordinates say."""

import numpy as np

from envs.canvas import Canvas

BLACK, WHITE, RED = (0, 0, 0), (255, 255, 255), (255, 0, 0)


def test_y_points_up_and_later_shapes_cover_earlier_ones() -> None:
    canvas = Canvas((-1.0, 0.0), (3.0, 2.0), pixels_per_unit=20)
    canvas.box((-1.0, 0.0), (0.0, 1.0), "black")
    canvas.disc((2.0, 1.5), 0.25, "red")
    canvas.polygon([(-1.0, 0.0), (-0.5, 0.0), (-0.5, 0.5), (-1.0, 0.5)], "red")
    picture = canvas.pixels()
    assert picture.shape == (40, 80, 3)
    assert picture.dtype == np.uint8
    expected = {
        (-0.2, 0.8): BLACK,
        (-0.2, 1.2): WHITE,
        (0.2, 0.8): WHITE,
        (2.0, 1.5): RED,
        (2.0, 1.7): RED,
        (2.0, 1.2): WHITE,
        (-0.7, 0.2): RED,
        (-0.2, 0.2): BLACK,
    }
    for (x, y), color in expected.items():
        assert tuple(picture[round((2.0 - y) * 20), round((x + 1.0) * 20)]) == color


def test_edges_are_smooth_and_areas_right() -> None:
    canvas = Canvas((-1.0, -1.0), (1.0, 1.0), pixels_per_unit=100)
    canvas.disc((0.0, 0.0), 0.5, "black")
    darkness = 1.0 - canvas.pixels()[..., 0] / 255.0
    assert abs(darkness.sum() / 100**2 - np.pi * 0.5**2) < 0.02
    assert np.unique(darkness).size > 2
