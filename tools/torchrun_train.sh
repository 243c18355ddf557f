#!/usr/bin/env bash
# Train on the GPUs of one machine, or of several that reach each other:
#
#   tools/torchrun_train.sh NAME|CONFIG GPUS [OPTIONS OF eca-mmdet train]
#
# Several: the same line on each of them, with the number and the address of one:
#
#   NODES=2 MASTER_ADDR=node0 tools/torchrun_train.sh NAME|CONFIG 8
#
# MASTER_PORT (29500) must be free on that one, and open to the others.
set -euo pipefail

if (($# < 2)) || ! [[ $2 =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: [NODES=N MASTER_ADDR=HOST] $0 NAME|CONFIG GPUS [OPTIONS]" >&2
  exit 2
fi
config=$1 gpus=$2
shift 2

meeting=(--standalone)
if ((${NODES:-1} > 1)); then
  address=${MASTER_ADDR:?NODES is more than 1: MASTER_ADDR must name one of them}
  endpoint=$address:${MASTER_PORT:-29500}
  meeting=(--nnodes "$NODES" --rdzv_backend c10d --rdzv_endpoint "$endpoint"
    --rdzv_id "${JOB_ID:-eca-mmdet}")
fi
exec torchrun "${meeting[@]}" --nproc_per_node "$gpus" \
  -m eca_mmdet.cli train "$config" --launcher pytorch "$@"
