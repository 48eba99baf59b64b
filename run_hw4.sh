#!/usr/bin/env bash
# CS285 homework 4 in one command: planning with a learned model, then MBPO. See docs/mpc.md.
#
#   ./run_hw4.sh
#   RUN_MBPO=0 MB_ENV_NAME=reacher-cs285-v0 MB_MPC_SAMPLING=cem ./run_hw4.sh
#   SKIP_INSTALL=1 RUN_MB=0 MBPO_ROLLOUT_LENGTH=5 SAC_INIT_TEMPERATURE=0.5 ./run_hw4.sh
#
# RUN_MB, RUN_MBPO            0 skips an experiment
# MB_ENV_NAME, MBPO_ENV_NAME  obstacles-cs285-v0, reacher-cs285-v0 or cheetah-cs285-v0
# MB_MPC_SAMPLING             random (default) or cem, with MB_CEM_ITERATIONS and MB_CEM_NUM_ELITES
# MB_ADD_SL_NOISE, MBPO_ADD_SL_NOISE  1 adds noise of 1 % to what the model is fitted to
# MBPO_ROLLOUT_LENGTH         0: SAC, 1: Dyna, 10 (default): MBPO
# SAC_INIT_TEMPERATURE, SAC_LEARNING_RATE, SAC_DISCOUNT, SAC_BATCH_SIZE, SAC_SIZE, SAC_N_LAYERS
# SKIP_INSTALL=1              uses .venv, or else the python on the path, as it is
# MB_EXTRA_FLAGS, MBPO_EXTRA_FLAGS    flags of train.py, such as --config.total_steps=10000
# RUNS_DIR                    where the run folders go: runs/hw4. The same command continues them.
set -euo pipefail
cd "$(dirname "$0")"
export MUJOCO_GL="${MUJOCO_GL:-egl}"

fail() {
    echo "error: $1" >&2
    exit 2
}

# switch NAME DEFAULT: fails unless the variable is 0 or 1; returns whether it is 1.
switch() {
    local value=${!1:-$2}
    [[ $value == 0 || $value == 1 ]] || fail "$1=$value: use 0 or 1."
    [[ $value == 1 ]]
}

declare -A SAC_FIELDS=(
    [SAC_INIT_TEMPERATURE]=sac.initial_temperature
    [SAC_LEARNING_RATE]=sac.learning_rate
    [SAC_DISCOUNT]=discount
    [SAC_BATCH_SIZE]=sac.batch_size
    [SAC_SIZE]=sac.hidden_width
    [SAC_N_LAYERS]=sac.hidden_depth
)

mb_flags=("--config=configs/cs285_mpc.py:${MB_ENV_NAME:-obstacles-cs285-v0}")
case ${MB_MPC_SAMPLING:-random} in
random)
    [[ -z ${MB_CEM_ITERATIONS:-}${MB_CEM_NUM_ELITES:-} ]] ||
        fail "MB_CEM_ITERATIONS and MB_CEM_NUM_ELITES need MB_MPC_SAMPLING=cem."
    ;;
cem)
    mb_flags+=(
        --config.planner.name=cem
        "--config.planner.num_iterations=${MB_CEM_ITERATIONS:-4}"
        "--config.planner.num_elites=${MB_CEM_NUM_ELITES:-5}"
    )
    ;;
*) fail "MB_MPC_SAMPLING=$MB_MPC_SAMPLING: use random or cem." ;;
esac
if switch MB_ADD_SL_NOISE 0; then mb_flags+=(--config.model.sl_noise=0.01); fi

length=${MBPO_ROLLOUT_LENGTH:-10}
mbpo_flags=("--config=configs/cs285_mbpo.py:$length,${MBPO_ENV_NAME:-cheetah-cs285-v0}")
if switch MBPO_ADD_SL_NOISE 0; then
    [[ $length != 0 ]] || fail "MBPO_ADD_SL_NOISE=1 needs a model: MBPO_ROLLOUT_LENGTH of at least 1."
    mbpo_flags+=(--config.model.sl_noise=0.01)
fi
for name in $(compgen -v SAC_ | grep -v '^SAC_FIELDS$' || true); do
    field=${SAC_FIELDS[$name]:-}
    [[ -n $field ]] || fail "$name is unknown. Use one of: $(echo "${!SAC_FIELDS[@]}" | tr ' ' '\n' | sort | xargs)."
    mbpo_flags+=("--config.$field=${!name}")
done
# Flags are separated by spaces, as on a command line.
read -r -a mb_extra <<<"${MB_EXTRA_FLAGS:-}"
read -r -a mbpo_extra <<<"${MBPO_EXTRA_FLAGS:-}"

python=python
if [[ -x .venv/bin/python ]]; then python=.venv/bin/python; fi
if ! switch SKIP_INSTALL 0; then
    [[ -x .venv/bin/python ]] || python3 -m venv .venv
    python=.venv/bin/python
    "$python" -m pip install --quiet --disable-pip-version-check -r requirements.txt
fi

runs=${RUNS_DIR:-runs/hw4}
# experiment NAME FLAGS...: trains, and leaves curve.png, report.md and metrics/*.csv.
experiment() {
    echo "== $1: $runs/$1"
    "$python" train.py "${@:2}" --workdir="$runs/$1"
    echo "== $1: $runs/$1/curve.png, $runs/$1/report.md"
}
if switch RUN_MB 1; then experiment mb "${mb_flags[@]}" "${mb_extra[@]}"; fi
if switch RUN_MBPO 1; then experiment mbpo "${mbpo_flags[@]}" "${mbpo_extra[@]}"; fi
