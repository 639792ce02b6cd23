# One aha on each node; each starts its node's @{processes} processes with torchrun, and they find each other at the head.
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 20000))
torchrun="--nnodes=@{nodes} --nproc-per-node=@{processes}"
torchrun+=" --rdzv-backend=c10d --rdzv-endpoint=$head:$port --rdzv-id=$SLURM_JOB_ID"
# shellcheck disable=SC2016  # which node it is, is known there
on_each='exec "${@:2}" --torchrun "$1 --node-rank=$SLURM_NODEID"'
srun --nodes=@{nodes} --ntasks=@{nodes} --ntasks-per-node=1 --kill-on-bad-exit=1 @{options} \
  bash -c "$on_each" torchrun "$torchrun" @{command}
