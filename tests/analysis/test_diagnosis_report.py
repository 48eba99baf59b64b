import matplotlib.image
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg

from analysis import diagnosis_figure, diagnosis_report, diagnosis_table
from analysis.diagnosis_table import tidy
from analysis.diagnosis_text import paragraph
from tests.analysis.diagnosis_rows import rows, value_rows


def test_the_report_says_what_was_measured_and_lists_the_numbers():
    frame = tidy("mbpo on Toy-v0", {0: rows(model=1234.4), 1: rows(bias=7.0, model=2234.4)})
    report = diagnosis_report.report(frame)
    assert report.startswith(f"# Diagnosis of mbpo on Toy-v0\n\n{paragraph(frame)}\n\n![")
    assert "10 new episodes per seed, 1,000 steps in all" in report
    assert "at 800 positions" in report
    assert "the discount until then is at most 0.2" in report
    assert "| open-loop error (std of the observations) | 3 | 1.5 | 1.5 | 1.5 |" in report
    assert "| bias of the value (discounted soft return) | 0 | 6 | 5 | 7 |" in report
    assert "| return in the model | 100 | 1,734 | 1,234 | 2,234 |" in report
    assert "nan" not in report


def test_targets_left_out_are_named():
    constant = [("data/constant_target", 0.0, name, 1.0) for name in ("3", "reward")]
    report = diagnosis_report.report(tidy("", {0: [*rows(), *constant]}))
    assert "left out of likelihood and calibration: dimension 3, reward." in report


def test_without_a_model_the_caption_is_about_the_value_alone():
    report = diagnosis_report.report(tidy("sac on Toy-v0", {0: value_rows()}))
    assert "**Value estimate**" in report
    assert "Open-loop" not in report


def test_the_files_are_the_table_its_figure_and_its_report(tmp_path):
    frame = tidy("mbpo on Toy-v0", {0: rows()})
    path = diagnosis_report.write(frame, tmp_path / "some" / "where")
    assert path == tmp_path / "some" / "where" / "diagnosis.md"
    assert path.read_text() == diagnosis_report.report(frame)
    assert diagnosis_table.read(path.with_suffix(".csv")).equals(frame)
    canvas = FigureCanvasAgg(diagnosis_figure.draw(frame))
    canvas.draw()
    picture = matplotlib.image.imread(path.with_suffix(".png"))
    np.testing.assert_array_equal((255 * picture).astype(np.uint8), canvas.buffer_rgba())
