#!/usr/bin/env bash
# One-time set-up on Lightning AI, or on any Linux machine with a GPU. Safe to run again.
#
#   bash setup_lightning.sh
#
# EXTRAS=wandb,dev    extras to install (default: wandb if WANDB_TOKEN or WANDB_API_KEY is set)
# SKIP_DOWNLOAD=1     do not download the model and the data set
# PYTHON=python3.12   the Python to make .venv with
set -euo pipefail
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")"

CONFIG=configs/gsm8k-qwen2.5-0.5b.yaml
STAMP=.venv/.installed
NEXT="bash src/train_math.sh"
PYTHON=${PYTHON:-python3}
EXTRAS=${EXTRAS-$([[ -z ${WANDB_TOKEN:-}${WANDB_API_KEY:-} ]] || echo wandb)}

say() { printf '%s\n' "$*"; }
die() { printf 'setup_lightning.sh: %s\n' "$*" >&2; exit 2; }

require_python_311() {
    command -v "$1" >/dev/null || die "no $1 found: install Python 3.11 or newer, or name one with PYTHON=..."
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        die "$1 is $("$1" --version 2>&1), but 3.11 or newer is needed: name another one with PYTHON=..."
}

# Prints the version of the torch that a Python can import; nothing if there is none or it is too old.
usable_torch() {
    "$1" -c 'import torch
version = str(torch.__version__)
print(version if [int(part) for part in version.split(".")[:2]] >= [2, 6] else "")' 2>/dev/null || true
}

# A virtual environment also works with "externally managed" system Pythons (PEP 668), where pip refuses to install.
make_venv() { # flags for the venv
    rm -rf .venv
    "$PYTHON" -m venv "$@" .venv >/dev/null 2>&1 && return
    rm -rf .venv # Debian's python3 without python3-venv leaves an incomplete one behind
    say "$PYTHON -m venv does not work here; trying virtualenv, then uv"
    if command -v virtualenv >/dev/null && virtualenv --quiet --python "$PYTHON" "$@" .venv; then return; fi
    if command -v uv >/dev/null && uv venv --quiet --seed --python "$PYTHON" "$@" .venv; then return; fi
    die "cannot make a virtual environment: install one of python3-venv (apt), virtualenv (pip), uv; then run this again"
}

# A venv made from within another venv sees the packages of the base Python, not those of the outer venv.
link_torch_of_parent() {
    [[ -n $(usable_torch .venv/bin/python) ]] && return
    "$PYTHON" -c 'import pathlib, torch; print(pathlib.Path(torch.__file__).parents[1])' \
        >"$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/parent.pth"
    [[ -n $(usable_torch .venv/bin/python) ]] || die "the torch of $PYTHON cannot be imported from .venv"
}

# Prints the tested versions, except for those that an existing torch decides: its own and its requirements' (torch 2.6
# pins sympy).
constraints_around_torch() { # version of the torch to keep
    echo "torch==$1"
    .venv/bin/python -c 'import importlib.metadata, re, sys
def name(line):
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", line.strip(), maxsplit=1)[0]).lower()
decided = {"torch", *map(name, importlib.metadata.requires("torch") or [])}
print(*[line for line in open("constraints.txt").read().splitlines() if name(line) not in decided], sep="\n")'
}

report_gpu() {
    local gpu
    if ! gpu=$(nvidia-smi --query-gpu=name,memory.total --format=csv,noheader 2>/dev/null); then
        say "no GPU found: take the configuration for a CPU, or 'make quickstart'"
        NEXT+=" configs/gsm8k-cpu.yaml"
    elif .venv/bin/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
        say "GPU: $gpu"
    else
        say "GPU: $gpu, but torch $(usable_torch .venv/bin/python) cannot use it: see https://pytorch.org/get-started"
    fi
}

if [[ ! -x .venv/bin/python ]]; then
    require_python_311 "$PYTHON"
    torch=$(usable_torch "$PYTHON")
    say "making .venv from $("$PYTHON" --version)${torch:+, keeping its torch $torch}"
    if [[ -n $torch ]]; then
        make_venv --system-site-packages
        link_torch_of_parent
    else
        make_venv
    fi
fi
require_python_311 .venv/bin/python

if [[ $STAMP -nt pyproject.toml && $STAMP -nt constraints.txt && $(<"$STAMP") == "$EXTRAS" ]]; then
    say "package: installed already"
else
    constraints=.venv/constraints.txt # the Makefile reads it too
    torch=$(usable_torch .venv/bin/python)
    if [[ -n $torch ]]; then constraints_around_torch "$torch" >"$constraints"; else cp constraints.txt "$constraints"; fi
    say "installing the package${EXTRAS:+ with $EXTRAS} (takes minutes if torch has to be installed)"
    # Some hosted machines make --user pip's default, which would install into ~/.local instead of .venv.
    PIP_USER=0 .venv/bin/python -m pip install --quiet --disable-pip-version-check \
        --constraint "$constraints" --editable ".${EXTRAS:+[$EXTRAS]}"
    printf '%s\n' "$EXTRAS" >"$STAMP"
fi

if [[ ${SKIP_DOWNLOAD:-} == 1 ]]; then
    say "download and check: skipped"
else
    say "downloading the model and the data set at their pinned revisions"
    .venv/bin/tiny-math fetch "$CONFIG" || die "the package is installed, the download is not complete; run this again to finish the download"
    say "checking $CONFIG"
    .venv/bin/tiny-math train "$CONFIG" --dry-run
fi
report_gpu
say "ready; next: $NEXT"
