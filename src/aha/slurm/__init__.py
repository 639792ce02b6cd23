"""Runs on a Slurm cluster: one job for each stage and each evaluation, where they stand, and how they are ended."""

from aha.slurm.jobs import Job, jobs_of, script_of
from aha.slurm.status import COLUMNS, newest_log, run_rows
from aha.slurm.submit import Submitted, cancel, submit

__all__ = [
    "COLUMNS",
    "Job",
    "Submitted",
    "cancel",
    "jobs_of",
    "newest_log",
    "run_rows",
    "script_of",
    "submit",
]
