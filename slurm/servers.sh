# Nodes that train: the first @{nodes}. Nodes that serve rollouts: the last @{servers} (of a heterogeneous job: its second part), each
# with @{engines} times `aha serve` on @{wide} device(s), at the address by which this node knows it. They answer only who has this
# job's token, and end with this script, whatever ends the work.
mapfile -t names < <(scontrol show hostnames "$SLURM_JOB_NODELIST${SLURM_JOB_NODELIST_HET_GROUP_1:+,$SLURM_JOB_NODELIST_HET_GROUP_1}")
training=$(IFS=, && echo "${names[*]:0:@{nodes}}")
serving=$(IFS=, && echo "${names[*]:@{nodes}}")
port=$((10000 + SLURM_JOB_ID % 1000 * @{engines}))
AHA_ROLLOUT_SERVERS=
for name in "${names[@]:@{nodes}}"; do
  read -r address _ < <(getent ahostsv4 "$name") || { say "$name has no address here" && exit 1; }
  for ((engine = 0; engine < @{engines}; engine++)); do
    AHA_ROLLOUT_SERVERS+="${AHA_ROLLOUT_SERVERS:+,}$address:$((port + engine))"
  done
done
AHA_ROLLOUT_TOKEN=$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')
export AHA_ROLLOUT_SERVERS AHA_ROLLOUT_TOKEN
say "$training train, $serving serve rollouts: $AHA_ROLLOUT_SERVERS"

# On a serving node. Signals that ask to save are the training's: it needs its servers until it has. USR2 ends them.
# shellcheck disable=SC2016  # what a node knows is known there
serve='trap "" TERM USR1
trap "exit 0" USR2
IFS=, read -ra all <<<"$AHA_ROLLOUT_SERVERS"
IFS=, read -ra gpus <<<"${CUDA_VISIBLE_DEVICES:-}"
for ((engine = 0; engine < @{engines}; engine++)); do
  at=${all[SLURM_PROCID * @{engines} + engine]}
  mine=()
  for ((gpu = engine * @{wide}; gpu < (engine + 1) * @{wide}; gpu++)); do mine+=("${gpus[gpu]-$gpu}"); done
  ((@{gpus} == 0)) || export CUDA_VISIBLE_DEVICES=$(IFS=, && echo "${mine[*]}")
  "$@" --host "${at%:*}" --port "${at##*:}" &
done
wait -n
exit 1'
srun --overlap --nodelist="$serving" --nodes=@{servers} --ntasks=@{servers} --kill-on-bad-exit=1 @{options} \
  bash -c "$serve" serve @{serve} &
servers=$!
{
  trap '' TERM USR1
  while kill -0 "$servers" 2>/dev/null; do sleep 1; done
  kill -USR2 $$ 2>/dev/null
} &
trap 'say "a rollout server has ended, and said why above: the job ends"; exit 1' USR2
trap 'trap "" USR2; while kill -USR2 "$servers" 2>/dev/null; do sleep 0.2; done' EXIT # again: srun may not listen yet

