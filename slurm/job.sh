#!/usr/bin/env bash
# @{title}
# Written by `aha submit` from slurm/job.sh and the site file. To change it, change those and submit again.
@{directives}
set -eo pipefail

say() { echo "aha: $(date '+%F %T')  $*"; }

# --- which attempt this is: Slurm counts every start after the first, whether we asked for it or a node was lost ---
attempt=$((${SLURM_RESTART_COUNT:-0} + 1))
attempts=@{attempts}
say "@{part}: job $SLURM_JOB_ID, attempt $attempt of at most $attempts, on $SLURM_JOB_NODELIST"
if ((attempt > attempts)); then
  say "started $attempts times and not finished (restarts in the site file): not started again"
  exit 1
fi

# --- this site (before `set -u`, for which module files are not written) ---
@{site}
set -u

# --- the work, in the background so that this shell hears signals ---
work=
# shellcheck disable=SC2317  # the trap calls it
save() {
  say "SIGUSR1: the work finishes its step and saves"
  [[ -z $work ]] || kill -USR1 "$work" 2>/dev/null || true
}
trap save USR1                             # the time is nearly up, or somebody asks: save, and go on later
trap 'say "SIGTERM: the work saves"' TERM # Slurm sends it to the work too; this shell stays to see how it ends

@{servers}@{work} &
work=$!
while kill -0 "$work" 2>/dev/null; do
  wait "$work" || true # a signal ends `wait`, not the work
done
code=0
wait "$work" || code=$?

# --- how it ended ---
# SIGTERM while Slurm still calls the job RUNNING is a preemption with time to save; a job that was cancelled, or whose
# time is up, is not RUNNING any more, and is not brought back.
if ((code == 130 || code == 143)) && [[ $(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T | sort -u) == RUNNING ]]; then
  code=75
fi
case $code in
  0) ;; # the work has said so itself; of a lost node srun says 0 too, and Slurm starts the job again
  75 | 138) # 75: saved, go on later. 138: the signal came before anything was there to save
    if ((attempt == attempts)); then
      say "@{part}: saved, but this was attempt $attempt of $attempts; the same aha submit goes on from here"
      exit 1
    fi
    say "@{part}: saved; back into the queue for attempt $((attempt + 1))"
    scontrol requeue "$SLURM_JOB_ID"
    ;;
  *) say "@{part}: ended with exit code $code; what waits for it does not start" ;;
esac
exit "$code"
