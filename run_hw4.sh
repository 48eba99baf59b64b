#!/usr/bin/env bash
# CS285 homework 4 in one command: planning with a learned model, then MBPO. See docs/mpc.md.
#
#   ./run_hw4.sh
#   RUN_MBPO=0 MB_ENV_NAME=obstacles-cs285-v0 MB_MPC_SAMPLING=cem MB_EXP_NAME=cem ./run_hw4.sh
#   SKIP_INSTALL=1 RUN_MB=0 MBPO_ROLLOUT_LENGTH=5 SAC_INIT_TEMPERATURE=0.5 ./run_hw4.sh
#
# RUN_MB, RUN_MBPO            0 skips an experiment
# MB_ENV_NAME, MBPO_ENV_NAME  cheetah-cs285-v0 (default), reacher-cs285-v0 or obstacles-cs285-v0
# MB_EXP_NAME, MBPO_EXP_NAME  folders below RUNS_DIR (runs/hw4); the same command continues there
# MB_MPC_SAMPLING             random (default) or cem, with MB_CEM_ITERATIONS, MB_CEM_NUM_ELITES
#                             and MB_CEM_ALPHA; MB_MPC_HORIZON, MB_MPC_ACTION_SEQUENCES
# MB_ADD_SL_NOISE, MBPO_ADD_SL_NOISE  1: noise of 1 % on what the model is fitted to
# MBPO_ROLLOUT_LENGTH         0: SAC, 1: Dyna, 10 (default): MBPO
# MB_..., MBPO_...            N_ITER, BATCH_SIZE, BATCH_SIZE_INITIAL, TRAIN_BATCH_SIZE, SEED,
#                             EVAL_BATCH_SIZE, NUM_AGENT_TRAIN_STEPS, ENSEMBLE_SIZE, LEARNING_RATE,
#                             N_LAYERS, HIDDEN_SIZE
# SAC_...                     INIT_TEMPERATURE, LEARNING_RATE, DISCOUNT, TRAIN_BATCH_SIZE,
#                             HIDDEN_SIZE, N_LAYERS, N_ITER and others of experiment/homework.py
# MB_EXTRA_FLAGS, MBPO_EXTRA_FLAGS    flags of train.py, such as --config.num_seeds=3
# SKIP_INSTALL=1              uses .venv, or else PYTHON_BIN, as it is
# PYTHON_BIN                  makes the virtual environment: python3
set -euo pipefail
cd "$(dirname "$0")"
export MUJOCO_GL="${MUJOCO_GL:-egl}"

python=${PYTHON_BIN:-python3}
if [[ ${SKIP_INSTALL:-0} != 1 ]]; then
    [[ -x .venv/bin/python ]] || "$python" -m venv .venv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
fi
if [[ -x .venv/bin/python ]]; then python=.venv/bin/python; fi
exec "$python" -m experiment.homework
