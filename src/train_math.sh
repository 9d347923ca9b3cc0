#!/usr/bin/env bash
# Train with GRPO, from any folder:   bash src/train_math.sh [CONFIG.yaml] [--section.key value ...]
# On several GPUs of this machine:    GPUS=all bash src/train_math.sh ...      (or GPUS=4)
# Relative paths start at the root of the repository, so that results go to its checkpoint/.
set -euo pipefail
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.."

refuse() {
    echo "train_math.sh: $1" >&2
    exit 2
}

# The .venv of setup_lightning.sh first, then the active environment; one without the package is skipped.
for python in .venv/bin/python python python3 ""; do
    if [ -n "$python" ] && "$python" -c 'import tiny_math_solver' 2>/dev/null; then break; fi
done
[ -n "$python" ] || refuse "tiny_math_solver is not installed; run this first: bash $PWD/setup_lightning.sh"

if [ "${GPUS:-1}" = 1 ]; then
    # One process trains on one GPU: TRL refuses to run a single process on several.
    export CUDA_VISIBLE_DEVICES="${CUDA_VISIBLE_DEVICES-0}"
    exec "$python" src/train_grpo.py "$@"
fi
there=$("$python" -c 'import torch; print(torch.cuda.device_count())')
count=$GPUS
if [ "$count" = all ]; then count=$there; fi
[[ "$count" =~ ^[1-9][0-9]*$ ]] && [ "$count" -le "$there" ] || refuse "GPUS=$GPUS, but this machine has $there GPUs"
exec "$python" -m torch.distributed.run --standalone --nproc_per_node "$count" src/train_grpo.py "$@"
