#!/usr/bin/env bash
# One seed of CFG-MBPO on a small environment, with its learning curve: bash run.sh [folder]
# Flags after the folder go to train.py, for example: bash run.sh runs/quick --config.use_algo=reward
set -euo pipefail
cd "$(dirname "$0")"
workdir=${1:-runs/quick}
if [[ $workdir == -* ]]; then
    echo "error: the first argument is the run folder: bash run.sh runs/quick $*" >&2
    exit 2
fi
python=python
[[ -x .venv/bin/python ]] && python=.venv/bin/python
"$python" train.py --config=configs/cf_mbpo.py --config.num_seeds=1 --config.total_steps=5000 \
    --workdir="$workdir" "${@:2}"
echo "Learning curve: $workdir/curve.png"
