"""What a cap on the gradient steps of a model fit costs in accuracy and saves in time.

    python benchmarks/fit_cap.py --workdir=runs/mbpo_hopper [--fresh] [--caps=250,500,1000,2000,0]

Takes the model, policy and real transitions of every seed from the newest checkpoint of a run and
refits the model (or, with --fresh, a new one) with every cap; 0 is the published rule without one.
All caps see the same hold-out rows. Writes one row per seed and cap as CSV to standard output.
"""

import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from absl import app, flags  # noqa: E402
from ml_collections import ConfigDict  # noqa: E402

_WORKDIR = flags.DEFINE_string("workdir", None, "Run folder of an MBPO run.", required=True)
_CAPS = flags.DEFINE_list("caps", ["250", "500", "1000", "2000", "0"], "Caps to compare.")
_FRESH = flags.DEFINE_bool("fresh", False, "Fit a new model instead of the run's.")


def main(argv: list[str]) -> None:
    """Prints the comparison."""
    del argv
    import jax

    from agents.sac import make_sac, parts_of
    from experiment.restore import restore, seed_slice
    from models.ensemble import make_ensemble
    from models.fit import make_fit
    from models.objectives import OBJECTIVES, Context

    run = restore(Path(_WORKDIR.value))
    stored, spec = run.config, run.spec
    print("env_step,rows,seed,fresh,cap,seconds,fit_steps,fit_epochs,holdout_mse,holdout_nll")
    for cap in map(int, _CAPS.value):
        config = ConfigDict(stored.to_dict())
        config.model.max_gradient_steps = cap
        ensemble, policy = make_ensemble(config, spec), make_sac(config, spec)
        parts = parts_of(policy, ensemble, spec)
        learner = make_fit(config, ensemble, OBJECTIVES[config.model.objective](config, parts))
        fit = jax.jit(learner.fit)
        for seed in range(stored.num_seeds):
            state = jax.device_get(seed_slice(run.state, seed))
            model = learner.init(jax.random.key(seed)) if _FRESH.value else state.model
            context = Context(
                state.sac.policy,
                state.sac.critics,
                state.sac.target_critics,
                state.sac.log_temperature,
                model.normalizers,
            )
            arguments = (model, state.replay, context, jax.random.key(seed))
            compiled = fit.lower(*arguments).compile()
            start = time.perf_counter()
            _, metrics = jax.block_until_ready(compiled(*arguments))
            seconds = time.perf_counter() - start
            print(
                f"{run.env_step},{state.replay.size},{seed},{int(_FRESH.value)},{cap},{seconds:.2f},"
                f"{metrics['model/fit_steps']},{metrics['model/fit_epochs']},"
                f"{metrics['model/holdout_mse']:.5g},{metrics['model/holdout_nll']:.4f}",
                flush=True,
            )


if __name__ == "__main__":
    app.run(main)
