#!/usr/bin/env bash
#SBATCH --job-name=eca-mmdet
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=4
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out
#
# One task a GPU; a requeued job goes on from its last checkpoint:
#
#   sbatch tools/slurm_train.sh NAME|CONFIG [OPTIONS OF eca-mmdet train]
#   sbatch --nodes=2 --ntasks-per-node=8 --gpus-per-node=8 tools/slurm_train.sh NAME
#
# What your cluster asks for besides (partition, account) goes before the script's name.
set -euo pipefail

if (($# < 1)); then
  echo "usage: sbatch [OPTIONS OF sbatch] $0 NAME|CONFIG [OPTIONS]" >&2
  exit 2
fi
: "${SLURM_JOB_ID:?is not set: this script is for sbatch}"

nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
MASTER_ADDR=${nodes%%$'\n'*}
# Two jobs may share a node: each takes a port of its own.
MASTER_PORT=${MASTER_PORT:-$((20000 + SLURM_JOB_ID % 10000))}
export MASTER_ADDR MASTER_PORT

# The first task that fails ends the others, which would wait for it.
exec srun --kill-on-bad-exit=1 \
  eca-mmdet train --resume --launcher slurm "$@"
