"""The pipeline: a plan is run stage by stage, evaluated, and written up. This process imports no torch.

Each stage and each evaluation is a process of its own, so its memory, its engine and its crashes end with it. What
they do is told as events; the command line shows them.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aha import launch
from aha.child import FAILURES, failure_file, first_cause
from aha.environment import describe_environment
from aha.errors import StageError
from aha.recipe import EvalPlan, Plan, Recipe, StagePlan, dump_recipe, make_plan, recipe_hash, require_fit
from aha.report import write_report
from aha.rewards.load import check_params, read_entry
from aha.rewards.scorer import DEADLINE
from aha.rundir import STAGES, RunDir, read_json, read_object, write_json, write_text

POLL = 0.2  # seconds
PATIENCE = 600.0
"""Seconds that a stage has to finish its step and save, once asked to stop."""
ASK_AGAIN = 5.0  # seconds
SAVED = 75
"""The exit code of a stage that was asked to stop, and has saved."""
GRACE = 20.0
"""Seconds that a stage's other processes have to end, once one has said that it failed."""


@dataclass(frozen=True)
class Event:
    """Something a watcher wants to know: `what` is one of skip, start, step, remark, done, report."""

    what: str
    part: str
    text: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


class Stopped(StageError):
    """The user stopped the run; the same command goes on."""

    exit_code = 130


def prepare(recipe: Recipe, run_dir: Path, source: str) -> Plan:
    """Check what a recipe alone cannot tell (the rewards' arguments, whether the stages fit their devices), and plan.

    Raises RecipeError or RewardError; touches nothing.
    """
    if recipe.grpo:
        for name, entry in recipe.grpo.rewards.items():
            check_params(name, read_entry(entry).params, f"grpo.rewards.{name}", recipe.grpo.reward_deadline)
    for task in recipe.eval.tasks if recipe.eval else ():
        check_params(task.grader, task.params, f"eval.tasks.{task.name}", DEADLINE)
    plan = make_plan(recipe, run_dir, source)
    if plan.prediction:
        require_fit(recipe, plan.prediction.machine, [stage.name for stage in plan.stages if stage.state != "skip"])
    return plan


@contextmanager
def opened(plan: Plan, part: str | None = None) -> Iterator[RunDir]:
    """The run directory, locked (whole, or one part of it), claimed for this recipe, and with the plan in it.

    A part is a job's, and a job does not fail because somebody looks in for a moment. Raises RunDirError when another
    process is in it, or when it belongs to a different recipe.
    """
    run = RunDir(plan.run_dir)
    with run.lock(part, patience=60.0 if part else 0.0):
        run.claim(dump_recipe(plan.recipe), recipe_hash(plan.recipe))
        write_text(run.root / "plan.json", plan.model_dump_json(indent=1))
        write_json(run.root / "environment.json", describe_environment())
        yield run


def execute(plan: Plan) -> Iterator[Event]:
    """Run what the plan says is missing, and report.

    Raises StageError with the child's own words when a stage or an evaluation fails; Stopped on Ctrl-C.
    """
    launch.require_supported(plan)
    launch.require_all_nodes(plan)
    with opened(plan) as run:
        yield from _evaluations(plan, run, "base")
        for stage in plan.stages:
            yield from _stage(plan, run, stage)
            yield from _evaluations(plan, run, stage.directory)
        yield Event("report", "report", str(write_report(run.root)))


def execute_stage(plan: Plan, name: str, torchrun: str | None = None) -> Iterator[Event]:
    """One stage of the run and nothing else, and report: what one job of a cluster does.

    A stage on several nodes is called so on each of them; the first node keeps the run directory, the others help.
    Raises StageError when it fails, or when the stage it starts from is not finished; Stopped when asked to stop.
    """
    launch.require_supported(plan)
    stage = next(stage for stage in plan.stages if stage.name == name)
    launch.require_all_nodes(plan, torchrun, stage)
    if launch.node_of(torchrun):
        yield from _help(plan, stage, torchrun)
        return
    for parent in plan.stages:
        if parent.directory == stage.parent and parent.state != "skip":
            raise StageError(f"{stage.directory} starts from {parent.directory}, which is not finished: {parent.why}")
    with opened(plan, stage.directory) as run:
        yield from _stage(plan, run, stage, torchrun)
        yield Event("report", "report", str(write_report(run.root)))


def evaluate_after(plan: Plan, after: str) -> Iterator[Event]:
    """The evaluation that follows one stage (or `base`), and report: what one job of a cluster does.

    Raises StageError when it fails, or when what it measures is not finished.
    """
    finished = {"base", *(stage.directory for stage in plan.stages if stage.state == "skip")}
    index, evaluation = next((index, one) for index, one in enumerate(plan.evals) if one.after == after)
    if missing := [target for target in evaluation.targets if target not in finished]:
        raise StageError(f"the evaluation after {after} measures {', '.join(missing)}, not finished yet")
    with opened(plan, "eval") as run:
        yield from _evaluation(plan, run, index, evaluation)
        yield Event("report", "report", str(write_report(run.root)))


def evaluate(plan: Plan) -> Iterator[Event]:
    """Only the evaluations, of the stages that are finished."""
    finished = {"base", *(stage.directory for stage in plan.stages if stage.state == "skip")}
    with opened(plan) as run:
        for index, evaluation in enumerate(plan.evals):
            if set(evaluation.targets) <= finished:
                yield from _evaluation(plan, run, index, evaluation)
            else:
                waiting = ", ".join(target for target in evaluation.targets if target not in finished)
                yield Event("skip", "eval", f"{waiting} has not been trained yet")
        yield Event("report", "report", str(write_report(run.root)))


def serve_rollouts(plan: Plan, host: str, port: int) -> Iterator[Event]:
    """A rollout server for the GRPO stage of a run, until it is interrupted.

    Raises StageError when the recipe has no GRPO stage, or when the server cannot start or ends.
    """
    if plan.recipe.grpo is None:
        raise StageError("the recipe has no grpo stage: there is nothing to serve")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_text(folder / "plan.json", plan.model_dump_json())
        log = folder / "log.txt"
        command = [sys.executable, "-m", "aha.stages.serve", str(folder / "plan.json"), host, str(port)]
        process = launch.start(command, log, plan.recipe.hardware.threads)
        try:
            said = False
            while process.poll() is None:
                if not said and (at := read_object(folder / "ready.json")):
                    said = True
                    yield Event(
                        "remark", "serve", f"{at['on']} serves rollouts for {plan.run_dir} on {host}:{at['port']}"
                    )
                time.sleep(POLL)
        except (KeyboardInterrupt, GeneratorExit):
            raise Stopped("the rollout server was stopped") from None
        finally:
            launch.kill(process)
        raise _failed(process.returncode, first_cause(folder, []), log, "serve", _lines(log))


def measure_speed(root: Path) -> dict[str, Any]:
    """The figures of `aha.bench` for a finished run.

    Raises StageError when the run is not finished or the measurement fails.
    """
    unfinished = [name for name in STAGES if (root / STAGES[name]).exists() and RunDir(root).done(name) is None]
    if unfinished or not (root / "plan.json").exists():
        raise StageError(f"{root} is not a finished run{': ' if unfinished else ''}{', '.join(unfinished)}")
    log = root / "bench.log"
    process = launch.start([sys.executable, "-m", "aha.bench", str(root)], log)
    try:
        process.wait()
    finally:
        launch.kill(process)
    if process.returncode != 0:
        raise _failed(process.returncode, read_object(root / "bench-failure.json"), log, "bench", _lines(log))
    return read_json(root / "bench.json")


def measure_rewards() -> Iterator[Event]:
    """Measure how answers are verified, in a process of its own: TRL imports torch.

    The figures of `aha.bench_rewards` are the facts of the last event. Raises StageError.
    """
    part, began = "bench", time.time()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        yield Event("start", part, "math_answer, TRL's accuracy_reward and math-verify take turns")
        yield from _watch([sys.executable, "-m", "aha.bench_rewards", name], folder, part)
        figures = read_json(folder / "figures.json")
        yield Event("done", part, facts={"seconds": time.time() - began, "figures": figures})


def measure_memory() -> Iterator[Event]:
    """What a step of SmolLM2-135M takes on a CPU (train/footprint.py): each stage by TRL's stock path and by ours.

    One process for each, since what a process has held it rarely gives back; its figures are the facts of its last event.
    Raises StageError.
    """
    for stage, lengths in {"distill": [512], "grpo": [256, 256]}.items():
        for way in ("torch", "auto"):
            case = {
                "stage": stage,
                "kernels": way,
                "shape": "smollm2-135m",
                "micro": 2,
                "lengths": lengths,
                "device": "cpu",
            }
            part, began = f"{stage}, kernels: {way}", time.time()
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                found = folder / "figures.json"
                yield Event("start", part, "SmolLM2-135M, 2 x 512 tokens, two steps")
                command = [sys.executable, "-m", "aha.train.footprint", json.dumps(case), str(found)]
                yield from _watch(command, folder, part)
                yield Event("done", part, facts={"seconds": time.time() - began, "figures": read_json(found)})


def _stage(plan: Plan, run: RunDir, stage: StagePlan, torchrun: str | None = None) -> Iterator[Event]:
    if stage.state == "skip":
        yield Event("skip", stage.directory, stage.why)
        return
    folder = run.stage(stage.name)
    if stage.state == "run":
        _set_aside(folder)
    folder.mkdir(parents=True, exist_ok=True)
    yield Event("start", stage.directory, stage.why, {"steps": stage.steps})
    command = launch.stage_command(plan, stage, torchrun)
    yield from _watch(command, folder, stage.directory, launch.threads_of(plan, stage))
    done = run.done(stage.name)
    if done is None:
        raise StageError(f"{stage.directory} ended without finishing; its log is {folder / 'log.txt'}")
    yield Event("done", stage.directory, facts=done)


def _help(plan: Plan, stage: StagePlan, torchrun: str | None) -> Iterator[Event]:
    """A further node of a stage: its processes take part, and the first node keeps the run directory."""
    if stage.state == "skip":
        yield Event("skip", stage.directory, stage.why)
        return
    node, run = launch.node_of(torchrun), RunDir(plan.run_dir)
    log = run.root / f"{stage.directory}.node{node}.log"
    yield Event("remark", stage.directory, f"node {node + 1} of {plan.recipe.hardware.nodes}: the first one tells")
    command = launch.stage_command(plan, stage, torchrun)
    for _ in _until_its_end(command, run.stage(stage.name), stage.directory, log, launch.threads_of(plan, stage)):
        pass


def _set_aside(folder: Path) -> None:
    """What an earlier, different version of this stage left is kept under another name."""
    if any(folder.glob("checkpoints/step-*")) or (folder / "model").exists():
        folder.rename(folder.with_name(f"{folder.name}.replaced-{time.strftime('%Y%m%d-%H%M%S')}"))
    else:
        shutil.rmtree(folder, ignore_errors=True)


def _evaluations(plan: Plan, run: RunDir, after: str) -> Iterator[Event]:
    for index, evaluation in enumerate(plan.evals):
        if evaluation.after == after:
            yield from _evaluation(plan, run, index, evaluation)


def _evaluation(plan: Plan, run: RunDir, index: int, evaluation: EvalPlan) -> Iterator[Event]:
    if evaluation.state == "skip":
        yield Event("skip", "eval", evaluation.why)
        return
    folder = run.root / "eval"
    folder.mkdir(parents=True, exist_ok=True)
    began = time.time()
    yield Event("start", "eval", ", ".join(evaluation.targets))
    yield from _watch(launch.eval_command(plan, index), folder, "eval", launch.threads_of(plan))
    results = read_object(run.root / "results.json") or {}
    yield Event("done", "eval", facts={"seconds": time.time() - began, "results": results})


def _watch(command: list[str], folder: Path, part: str, threads: int | None = None) -> Iterator[Event]:
    """Run a child to its end, telling its metrics and remarks as they appear."""
    for old in (*folder.glob(FAILURES), *folder.glob("heartbeat*.json")):
        old.unlink(missing_ok=True)
    tails = {"step": _Tail(folder / "metrics.jsonl"), "remark": _Tail(folder / "remarks.txt")}
    turns = _until_its_end(command, folder, part, folder / "log.txt", threads)
    try:
        for _ in turns:
            for what, tail in tails.items():
                for line in tail.lines():
                    yield _event(what, part, line, folder)
    except (KeyboardInterrupt, GeneratorExit):  # here, and not where the child is waited for
        turns.throw(KeyboardInterrupt())


def _until_its_end(command: list[str], folder: Path, part: str, log: Path, threads: int | None) -> Generator[None]:
    """Start a child, and give the caller a turn again and again, once more after its end.

    Raises StageError with its own words when it fails, Stopped when asked to stop.
    """
    said = _Tail(log)
    impatience = _Impatience(folder)
    process = launch.start(command, log, threads)
    try:
        while True:
            ended = process.poll() is not None
            yield
            if ended:
                break
            if impatience.grows():
                launch.kill(process)
            time.sleep(POLL)
    except KeyboardInterrupt:
        _stop(process)
        told = first_cause(folder, [])
        if told and told["exit_code"] != SAVED and "traceback" not in told:  # a full disk, for example
            raise _failed(process.returncode, told, log, part, []) from None
        raise Stopped(f"{part} was stopped and has saved; the same command goes on from there") from None
    finally:
        if process.poll() is None:
            launch.kill(process)
    if process.returncode != 0:
        lines = said.lines()
        told = first_cause(folder, lines)
        if process.returncode == 1 and (told is None or "traceback" in told):  # the others miss one that was overdue
            told = _overdue(log) or told
        if told and not (folder / failure_file(None)).exists():
            write_json(folder / failure_file(None), told)
        raise _failed(process.returncode, told, log, part, lines)


class _Impatience:
    """When one of a stage's processes has failed, the others have a moment to end: they may wait for it in vain."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._before = self._failures()
        self._since: float | None = None

    def _failures(self) -> set[tuple[str, int]]:
        found = set()
        for path in self._folder.glob(FAILURES):
            with contextlib.suppress(FileNotFoundError):
                found.add((path.name, path.stat().st_mtime_ns))
        return found

    def grows(self) -> bool:
        """Whether the moment is over."""
        if self._since is None and self._failures() - self._before:
            self._since = time.monotonic()
        return self._since is not None and time.monotonic() - self._since > GRACE


def _event(what: str, part: str, line: str, folder: Path) -> Event:
    if what == "remark":
        return Event("remark", part, line)
    steps = (read_object(folder / "config.json") or {}).get("steps")
    return Event("step", part, facts=json.loads(line) | {"steps": steps})


class _Tail:
    """The lines that have been added to a file since the last look. What was there at the start is old news."""

    def __init__(self, path: Path):
        self._path = path
        self._at = path.stat().st_size if path.exists() else 0

    def lines(self) -> list[str]:
        if not self._path.exists():
            return []
        self._at = min(self._at, self._path.stat().st_size)
        with self._path.open("rb") as file:
            file.seek(self._at)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._at += len(whole) + len(newline)
        return whole.decode(errors="replace").splitlines()


def _lines(log: Path) -> list[str]:
    return log.read_text(errors="replace").splitlines() if log.exists() else []


def _stop(process: subprocess.Popen[bytes]) -> None:
    """First ask; the second Ctrl-C, or a stage that does not answer, is a kill.

    It is asked again and again: one of several processes may not have been there yet to hear it.
    """
    until = time.monotonic() + PATIENCE
    try:
        while process.poll() is None and time.monotonic() < until:
            launch.ask_to_stop(process)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(ASK_AGAIN)
    except KeyboardInterrupt:
        pass
    if process.poll() is None:
        launch.kill(process)


def _overdue(log: Path) -> dict[str, Any] | None:
    """What an ended process was doing, when it was ended for taking too long over it. See train/heartbeat.py."""
    for path in sorted(log.parent.glob("heartbeat*.json")):
        facts = read_object(path) or {}
        seconds = facts.get("seconds")
        if seconds and time.time() >= facts["since"] + seconds:
            name, step = facts["phase"], f" of step {facts['step']}" if facts["step"] else ""
            message = (
                f"{name}{step} was still at work after {seconds:g} s, its deadline, and was ended; the stack of every thread is at "
                f"the end of {log}. If it only needs longer, raise hardware.deadlines.{name}; the same command goes on"
            )
            return {"kind": "StageError", "message": message, "exit_code": 1}
    return None


def _failed(code: int, told: dict[str, Any] | None, log: Path, part: str, said: list[str]) -> StageError:
    """What to tell of a child that failed: `told` by itself; else the last of what it `said`."""
    if told and "traceback" not in told:
        error = StageError(f"{part}: {told['message']}")
        error.exit_code = told["exit_code"]
        return error
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    detail = f"{told['kind']}: {told['message']}\n" if told else ""
    lines = said[-12:] if not told else []
    return StageError(f"{part} {how}; its log is {log}\n{detail}" + "\n".join(f"  | {line}" for line in lines))
