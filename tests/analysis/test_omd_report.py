import json

import pytest

from analysis import run_report
from experiment.metrics import MetricsWriter

COLUMNS = ("inner_gradient", "alignment", "cosine_identity_cg", "cg_residual", "cg_failed")


@pytest.fixture
def report_of(tmp_path):
    """Returns a function that writes a run and returns its section on hypergradients, or ""."""

    def write(diagnoses, *, epochs=({},), objective="omd", inverse="identity", **more):
        config = {"algo": "omd", "env": "CartPole-v1", "seed": 0, "num_seeds": len(diagnoses)}
        config |= {"model": {"objective": objective}, "omd": {"inverse": inverse}, **more}
        (tmp_path / "config.json").write_text(json.dumps({"config": config, "environment": {}}))
        writer = MetricsWriter(
            tmp_path,
            list(range(len(diagnoses))),
            tensorboard=False,
            wandb="off",
            wandb_project="",
            config={},
        )
        tables = [
            [
                {"env_step": 1001 + 1000 * i, **{f"omd/{n}": v for n, v in zip(COLUMNS, row)}}
                for i, row in enumerate(rows)
            ]
            for rows in diagnoses
        ]
        writer.write_refreshes(tables)
        for index, row in enumerate(epochs):
            row = {"wall_clock": 10.0, "eval/return": 1.0, **row}
            writer.write(1000 * (index + 1), [row] * len(diagnoses))
        run_report.write_report(tmp_path, "x")
        text = (tmp_path / "report.md").read_text()
        return (
            text[text.index("## Hypergradients") : text.index("## Time")] if "Hyper" in text else ""
        )

    return write


# Four diagnoses of two seeds; conjugate gradients converge in the first of each seed alone.
FIRST = [
    (0.9, 0.95, 0.99, 1e-5, 0.0),
    (0.8, 0.9, 0.5, 0.4, 1.0),
    (0.7, 0.9, 0.4, 0.6, 1.0),
    (0.4, 0.7, 0.3, 0.7, 1.0),
]
SECOND = [
    (0.7, 0.85, 0.97, 1e-5, 0.0),
    (0.6, 0.8, 0.4, 0.9, 1.0),
    (0.5, 0.7, 0.3, 0.8, 1.0),
    (0.2, 0.5, 0.1, 0.95, 1.0),
]


def test_failures_of_conjugate_gradients_are_counted_and_judged(report_of):
    section = report_of([FIRST, SECOND])
    # The residuals of the six that failed are 0.4, 0.6, 0.7, 0.8, 0.9 and 0.95.
    assert (
        "**Conjugate gradients did not converge in 6 of 8 diagnoses** (median residual 0.75)"
        in (section)
    )
    assert "as a heuristic" in section
    assert "trained with the identity in place of the inverse Hessian" in section


def test_directions_are_medians_of_the_last_quarter(report_of):
    section = report_of([FIRST, SECOND])
    # A quarter of four diagnoses is one, of two seeds: 0.4 and 0.2, 0.7 and 0.5, 0.3 and 0.1.
    assert "was 0.3 times as long" in section
    assert "these are not" in section
    assert "cosine of 0.6: the model moves the critics partly the way" in section
    rows = section[section.index("| median") :].splitlines()
    assert rows[2:5] == [
        "| omd/inner_gradient | 0.8 | 0.3 |",
        "| omd/alignment | 0.9 | 0.6 |",
        "| omd/cg_residual | 1e-05 | 0.825 |",
    ]


def test_cosines_count_where_a_solution_is_better_than_none(report_of):
    worse = [(0.5, 0.5, -0.99, 2.0, 1.0), (0.5, 0.5, -0.9, 1.0, 1.0)]
    section = report_of([FIRST, SECOND + worse])
    # 0.1, 0.3, 0.3, 0.4, 0.4, 0.5, 0.97 and 0.99; without `worse`
    assert "had a cosine of **0.4** (median; quartiles 0.3 and 0.617) over the 8 of 10" in section
    assert "in 2 they converged, in 2 they were no better than no solution." in section


def test_where_no_solution_is_better_than_none_cosines_say_nothing(report_of):
    section = report_of([[(0.5, 0.5, -0.99, 2.0, 1.0)]])
    assert "No diagnosis had a residual below that of the solution 0" in section


def test_diagnoses_of_untrained_networks_are_left_out(report_of):
    section = report_of([FIRST], agent="dyna", initial_steps=1000)
    assert "3 of 3 diagnoses" in section


def test_of_untrained_networks_alone_nothing_is_said(report_of):
    section = report_of([FIRST[:1]], agent="dyna", initial_steps=1000)
    assert "Every diagnosis was made before learning began" in section
    assert "diagnose_every" in section


def test_convergence_everywhere_is_said_too(report_of):
    section = report_of([[(0.05, 1.0, 0.9, 2e-5, 0.0), (0.05, 1.0, 0.9, 4e-5, 0.0)]])
    assert "Conjugate gradients converged in all of 2 diagnoses (median residual 3e-05)." in section
    assert "by that measure these nearly are" in section
    assert "the way that reality does" in section
    assert "over the 2 of 2 diagnoses" in section
    assert "in 2 they converged." in section
    assert "heuristic" not in section


def test_a_near_miss_is_not_called_a_heuristic(report_of):
    section = report_of([[(0.05, -0.8, 0.9, 2e-3, 1.0)]])
    assert "**Conjugate gradients did not converge in 1 of 1 diagnosis**" in section
    assert "(median residual 0.002), though they came close." in section
    assert "the model moves the critics against the way that reality does" in section
    assert "heuristic" not in section


def test_a_model_that_was_trained_otherwise_has_hypergradients_in_theory_only(report_of):
    section = report_of([FIRST], objective="mse")
    assert "was not trained with hypergradients" in section
    assert "identity in place" not in section


def test_residuals_of_training_steps_are_averaged_and_judged(report_of):
    epochs = [
        {"model/hessian_residual": x, "model/hessian_failed": x / 4} for x in (0.2, 0.4, 0.6, 0.8)
    ]
    section = report_of([[], []], epochs=epochs, inverse="cg")  # no diagnoses
    assert "by conjugate gradients. The residual |H u - v| / |v| was **0.5** on average" in section
    assert "0.2 in the first quarter of the epochs and 0.8 in the last" in section
    assert "In 12.5% of the steps it was no better than that." in section
    assert "as a heuristic" in section
    assert "diagnos" not in section


def test_small_residuals_of_training_steps_are_no_heuristic(report_of):
    section = report_of([[]], epochs=[{"model/hessian_residual": 0.01}], inverse="exact")
    assert "by a dense solver. The residual |H u - v| / |v| was **0.01** on average" in section
    assert "nearly the direction that the theorem asks for" in section


def test_without_hypergradients_there_is_no_section(report_of):
    assert report_of([[]]) == ""


def test_time_of_diagnoses_is_a_stage(report_of, tmp_path):
    report_of([FIRST], epochs=[{"time/diagnostics": 4.0}])
    assert "| diagnostics of hypergradients | 4.0 | 40% |" in (tmp_path / "report.md").read_text()
