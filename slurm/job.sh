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
# shellcheck disable=SC2317  # the traps call it
pass_on() {
  say "SIG$1: the work finishes its step and saves"
  [[ -z $work ]] || kill -s "$1" "$work" 2>/dev/null || true
}
trap 'pass_on USR1' USR1  # the time is nearly up, or somebody preempts: save, and go on later
trap 'pass_on TERM' TERM  # the job is over: save while there is time

@{work} &
work=$!
while kill -0 "$work" 2>/dev/null; do
  wait "$work" || true # a signal ends `wait`, not the work
done
code=0
wait "$work" || code=$?

# --- how it ended ---
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
