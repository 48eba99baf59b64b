"""The homework's fits have the losses that were published."""

import pytest

from benchmarks import cs285_model_fits
from benchmarks.cs285_model_fits import Fit


@pytest.mark.slow
def test_the_loss_on_obstacles_is_the_published_one():
    fit = Fit("obstacles-cs285-v0", rows=5_000, depth=2, width=250, steps=20, noise=0.01)
    _, _, losses = cs285_model_fits.run(fit, seed=0)
    assert losses[0] == pytest.approx(1.029, rel=0.15)
    assert losses[-1] == pytest.approx(0.340, rel=0.15)
