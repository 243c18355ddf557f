#!/usr/bin/env bash
# Check and time everything that only a GPU runs, in at most 8 minutes.
#
#     benchmarks/gpu.sh [CHECK ...] [--device cuda] [--small]
#
# Installs and downloads nothing; PYTHON names the interpreter (default: .venv's, or
# python). Prints a JSON line for each result, also into $OUT/gpu.jsonl (default OUT: .).
# Exit status: 0, or 1 if a check failed or was not run.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 2
[ -n "${PYTHON:-}" ] || { [ -x .venv/bin/python ] && PYTHON=.venv/bin/python; }
PYTHON=${PYTHON:-python}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONWARNINGS=ignore
"$PYTHON" -c 'import torch, mmdet' 2>/dev/null || {
  echo "$PYTHON cannot import torch and mmdet; set PYTHON." >&2
  exit 2
}
timeout --kill-after=5 480 "$PYTHON" benchmarks/gpu_checks.py --budget 470 "$@" |
  tee "${OUT:-.}/gpu.jsonl"
