#!/usr/bin/env bash
# Train with GRPO, from any folder:   bash src/train_math.sh [CONFIG.yaml] [--section.key value ...]
# Relative paths start at the root of the repository, so that results go to its checkpoint/.
set -euo pipefail
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.."

# One process trains on one GPU: TRL refuses to run a single process on several.
export CUDA_VISIBLE_DEVICES="${CUDA_VISIBLE_DEVICES-0}"

# The .venv of setup_lightning.sh first, then the active environment; one without the package is skipped.
for python in .venv/bin/python python python3; do
    if "$python" -c 'import tiny_math_solver' 2>/dev/null; then
        exec "$python" src/train_grpo.py "$@"
    fi
done
echo "train_math.sh: tiny_math_solver is not installed; run this first: bash $PWD/setup_lightning.sh" >&2
exit 2
