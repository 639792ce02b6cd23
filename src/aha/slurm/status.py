"""Where a run stands: its files say what is done, Slurm says what waits, runs or was ended, and why."""

from __future__ import annotations

import os
import re
import socket
import time
from pathlib import Path
from typing import Any, NamedTuple

from aha.errors import RunDirError, SlurmError
from aha.metrics import read_metrics
from aha.recipe import Plan, StagePlan, make_plan
from aha.report.wording import duration
from aha.rundir import RunDir, read_object
from aha.slurm import client
from aha.slurm.client import InQueue
from aha.slurm.submit import Submitted, recorded

COLUMNS = ("part", "job", "attempt", "state", "step", "left", "tokens/s", "reward", "why")
RECENT = 20
"""Steps over which the remaining time is estimated."""

REASONS = {
    "Dependency": "waits for what comes before it",
    "DependencyNeverSatisfied": "what it waits for did not end well",
    "Priority": "others come first",
    "Resources": "waits for free nodes",
    "BeginTime": "comes back after its requeue",
    "JobHeldUser": "held: scontrol release lets it go",
    "JobHeldAdmin": "held by an administrator",
    "ReqNodeNotAvail": "the nodes it could use are not available",
    "PartitionTimeLimit": "asks for more time than its partition gives",
    "PartitionNodeLimit": "asks for more nodes than its partition has",
    "AssocGrpGRES": "the account's GPUs are all in use",
}
"""Slurm's reasons for waiting, as people say them; any other is shown as Slurm says it."""


class Row(NamedTuple):
    """One part of a run, in the words of `COLUMNS`; empty where there is nothing to say."""

    part: str
    job: str = ""
    attempt: str = ""
    state: str = ""
    step: str = ""
    left: str = ""
    speed: str = ""
    reward: str = ""
    why: str = ""


def run_rows(run_dir: Path) -> list[Row]:
    """Each stage and each evaluation of a run, submitted or run by hand.

    Raises RunDirError when this is no run directory. Where Slurm cannot be asked, the files still tell, and the last
    row says why.
    """
    plan = _planned(run_dir)
    jobs = {job.part: job for job in recorded(run_dir)}
    unknown: list[Row] = []
    try:
        known = client.queue(job.id for job in jobs.values())
    except SlurmError as error:
        known = {}
        unknown = [Row("slurm", why=str(error))]
    rows = [_stage_row(run_dir, stage, jobs.get(stage.directory), known) for stage in plan.stages]
    failure: Path | None = run_dir / "eval" / "failure.json"
    for evaluation in plan.evals:
        part = f"eval-{evaluation.after}"
        finished = evaluation.state == "skip"
        rows.append(_row(part, finished, failure, jobs.get(part), known))
        failure = failure if finished else None  # they share the file, and the first that is not finished wrote it
    return rows + unknown


def newest_log(run_dir: Path, part: str | None = None) -> Path:
    """The job's log that was written to last, of one part or of any.

    Raises RunDirError when no job has written one yet.
    """
    logs = [Path(job.log) for job in recorded(run_dir) if part in (None, job.part)]
    written = [log for log in logs if log.exists()]
    if not written:
        parts = ", ".join(job.part for job in recorded(run_dir)) or "none: it was not submitted"
        raise RunDirError(f"{run_dir}: no job{f' of {part}' if part else ''} has written a log yet (jobs: {parts})")
    return max(written, key=lambda log: log.stat().st_mtime)


def _planned(run_dir: Path) -> Plan:
    """The run's plan as it stands now, not as it stood when it was written."""
    path = run_dir / "plan.json"
    if not path.is_file():
        raise RunDirError(f"{run_dir} is not a run directory: it has no plan.json")
    plan = Plan.model_validate_json(path.read_text(encoding="utf-8"))
    return make_plan(plan.recipe, run_dir, plan.name)


def _stage_row(run_dir: Path, stage: StagePlan, job: Submitted | None, known: dict[str, InQueue]) -> Row:
    folder = RunDir(run_dir).stage(stage.name)
    row = _row(stage.directory, stage.state == "skip", folder / "failure.json", job, known)
    if row.state in ("running", "not run") and (at_work := _at_work(folder)):
        row = row._replace(state="running", why=row.why or at_work)
    return row._replace(**_progress(folder, running=row.state == "running"))


def _at_work(folder: Path) -> str:
    """What a stage's process is doing, and for how long; nothing when its heartbeat is past its deadline, or it is dead."""
    facts = read_object(folder / "heartbeat.json") or {}
    passed = time.time() - facts.get("since", 0)
    if passed > facts.get("seconds", 0) or (facts["host"] == socket.gethostname() and not _lives(facts["process"])):
        return ""
    step = f" of step {facts['step']}" if facts["step"] else ""
    return f"{facts['phase']}{step}, for {duration(passed)}"


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def _row(part: str, finished: bool, failure: Path | None, job: Submitted | None, known: dict[str, InQueue]) -> Row:
    state, why = _state(finished, failure, job, known.get(job.id) if job else None)
    return Row(part, job.id if job else "", _attempt(job), state, why=why)


def _state(finished: bool, failure: Path | None, job: Submitted | None, found: InQueue | None) -> tuple[str, str]:
    if found is not None and not found.over:
        reason = REASONS.get(found.reason, found.reason) if found.state == "PENDING" else ""
        return found.state.lower(), reason
    if finished:
        return "finished", ""
    told = read_object(failure) if failure else None
    if found is not None and found.state == "CANCELLED" and not (job and Path(job.log).exists()):
        return "not started", REASONS.get(found.reason, "") if found.reason.startswith("Dep") else "cancelled"
    if told is not None:
        return "stopped" if told.get("exit_code") == 75 else "failed", str(told.get("message", ""))
    if found is not None:
        return found.state.lower(), "" if found.reason == "None" else found.reason
    return ("gone" if job else "not run"), "Slurm has forgotten the job, and it has not finished" if job else ""


def _attempt(job: Submitted | None) -> str:
    """The last attempt that its log tells of; Slurm itself forgets it some minutes after the job's end."""
    if job is None or not Path(job.log).exists():
        return ""
    told = re.findall(r"attempt (\d+) of at most", Path(job.log).read_text(errors="replace"))
    return told[-1] if told else ""


def _progress(folder: Path, running: bool) -> dict[str, str]:
    rows = read_metrics(folder / "metrics.jsonl")
    if not rows:
        return {}
    last = rows[-1]
    steps = (read_object(folder / "config.json") or {}).get("steps")
    return {
        "step": f"{last['step']}/{steps}" if steps else str(last["step"]),
        "left": duration(_left(rows[-RECENT:], steps)) if running and steps else "",
        "speed": _number(last.get("tokens_per_second"), ",.0f"),
        "reward": _number(last.get("reward"), ".3f"),
    }


def _left(rows: list[dict[str, Any]], steps: int) -> float | None:
    """Seconds to the last step, at the pace of these rows."""
    first, last = rows[0], rows[-1]
    if last["step"] == first["step"]:
        return None
    return (last["time"] - first["time"]) / (last["step"] - first["step"]) * (steps - last["step"])


def _number(value: Any, form: str) -> str:
    return format(value, form) if isinstance(value, int | float) else ""
