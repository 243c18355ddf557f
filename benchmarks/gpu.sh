#!/usr/bin/env bash
# Check and time everything that only a GPU runs, in at most 8 minutes; installs nothing.
#     [PYTHON=python] benchmarks/gpu.sh [CHECK ...] [--device cpu] [--small] > gpu.jsonl
# Prints a JSON line for each result. Exit status 1 if a check failed or was not run.
cd "$(dirname "$0")/.." || exit 2
[ -x .venv/bin/python ] && PYTHON=${PYTHON:-.venv/bin/python}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONWARNINGS=ignore
exec timeout --kill-after=5 480 "${PYTHON:-python}" benchmarks/gpu_checks.py "$@"
