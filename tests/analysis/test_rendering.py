import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure

from analysis import rendering
from errors import UserError


def test_a_figure_is_saved_with_its_size_and_its_colours(tmp_path):
    figure = Figure(figsize=(2, 1), dpi=50, facecolor="#0000ff")
    rendering.save_figure(figure, tmp_path, "a.png", "It")
    picture = matplotlib.image.imread(tmp_path / "a.png")
    assert picture.shape == (50, 100, 4)
    np.testing.assert_array_equal(picture[20, 30], [0, 0, 1, 1])
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_figure_that_cannot_be_saved_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="The curve could not be written to"):
        rendering.save_figure(Figure(), tmp_path / "missing", "a.png", "The curve")


def test_tables_have_text_on_the_left_and_numbers_on_the_right():
    assert rendering.markdown_table(["group", "x", "y"], [["a", "1", "2"], ["b", "3", "4"]]) == (
        "| group | x | y |\n| --- | ---: | ---: |\n| a | 1 | 2 |\n| b | 3 | 4 |"
    )
