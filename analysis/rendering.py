"""Figures and tables of a run folder."""

import io
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from experiment.files import disk_problems_as_user_errors, write_bytes_atomically


def save_figure(figure: Figure, folder: Path, name: str, what: str) -> None:
    """Writes a figure as the PNG file `name`.

    Args:
      figure: what to draw.
      folder: where to.
      name: file name.
      what: what the figure is, capitalised; an error message starts with it.

    Raises:
      UserError: the disk is full or not writable.
    """
    image = io.BytesIO()
    FigureCanvasAgg(figure).print_png(image)
    with disk_problems_as_user_errors(folder, what):
        write_bytes_atomically(folder / name, image.getvalue())


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """Returns a table whose first column is text and whose others are numbers."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
