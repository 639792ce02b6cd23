"""The command line, as people meet it: what it prints, how it fails, and what a run looks like while it works."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

import aha
from aha.pipeline import Event, Stopped
from aha.recipe import Plan, describe, load_recipe, make_plan
from aha.watch import STOPPING, measures, watch

ROOT = Path(__file__).resolve().parents[1]
TINY = str(ROOT / "recipes" / "tiny.yaml")


def command(*arguments: object, folder: Path = ROOT, columns: int = 80) -> subprocess.CompletedProcess[str]:
    """Run `aha …` as a process of its own, on a terminal of 80 columns that is no terminal."""
    environment = {**os.environ, "PYTHONPATH": str(Path(aha.__file__).parents[1]), "COLUMNS": str(columns)}
    return subprocess.run(
        [sys.executable, "-m", "aha.cli", *map(str, arguments)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


# --- one part of a run ----------------------------------------------------------------------------------------------


def test_a_part_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    for verb, known in (("run", "cpt, distill, grpo"), ("eval", "grpo")):
        done = command(verb, TINY, "--only", "sft", "--run-dir", tmp_path / "run")
        assert (done.returncode, done.stdout) == (2, "") and f"one of: {known}" in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_stage_does_not_start_before_the_one_it_starts_from(tmp_path: Path) -> None:
    done = command("run", TINY, "--only", "distill", "--run-dir", tmp_path / "run")
    assert done.returncode == 1 and "2-distill starts from 1-cpt, which is not finished: not run yet" in done.stderr
    assert not (tmp_path / "run").exists()


def test_an_evaluation_does_not_start_before_what_it_measures(tmp_path: Path) -> None:
    done = command("eval", TINY, "--only", "grpo", "--run-dir", tmp_path / "run")
    assert done.returncode == 1 and "measures 1-cpt, 2-distill, 3-grpo, not finished yet" in done.stderr


# --- the cluster, where there is none --------------------------------------------------------------------------------


def test_submitting_without_a_site_or_without_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = command("submit", TINY, "--cluster", "nowhere.yaml", "--run-dir", tmp_path / "run")
    assert done.returncode == 2 and "a site file (.yaml)" in done.stderr
    monkeypatch.setenv("PATH", str(tmp_path))
    site = ROOT / "slurm" / "example-plain.yaml"
    done = command("submit", TINY, "--cluster", site, "--run-dir", tmp_path / "run")
    assert done.returncode == 1 and "sbatch is not on this machine" in done.stderr, done.stderr
    for verb in ("cancel", "logs"):
        done = command(verb, tmp_path / "run")
        assert done.returncode == 1 and "not submitted" in done.stderr and "Traceback" not in done.stderr


def test_what_several_processes_need_is_written_out_and_submitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = ROOT / "recipes" / "qwen2.5-1.5b-8gpu.yaml"
    site = ROOT / "slurm" / "example-plain.yaml"
    shown = command("submit", recipe, "--cluster", site, "--run-dir", tmp_path / "run", "--dry-run")
    assert shown.returncode == 0 and "--rdzv-backend=c10d" in shown.stdout and not shown.stderr
    assert not (tmp_path / "run").exists()
    monkeypatch.setenv("PATH", str(tmp_path))
    sent = command("submit", recipe, "--cluster", site, "--run-dir", tmp_path / "run")
    assert "sbatch is not on this machine" in sent.stderr, "it gets as far as Slurm"


def test_one_machine_does_not_stand_in_for_several(tmp_path: Path) -> None:
    two = ["hardware={device: cpu, nodes: 2, parallel: ddp}", "--run-dir", tmp_path / "run"]
    for only in ([], ["--only", "cpt"]):
        done = command("run", TINY, *two, *only)
        assert done.returncode == 1 and "planned for 2 nodes, and this is one" in done.stderr, done.stderr
    assert not (tmp_path / "run").exists()


def test_groups_stay_whole(tmp_path: Path) -> None:
    """Three prompts of four completions are six for each of two processes: a group and a half."""
    halves = ["grpo.prompts_per_step=3", "grpo.group_size=4", "grpo.micro_batch=1", "--run-dir", tmp_path / "run"]
    done = command("run", TINY, "hardware={device: cpu, processes_per_node: 2, parallel: ddp}", *halves)
    assert done.returncode == 1 and "prompts_per_step: 3 is not a multiple of 2 processes" in done.stderr, done.stderr


def test_status_of_runs_without_slurm(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "tiny"
    stage = run / "1-cpt"
    stage.mkdir(parents=True)
    plan = make_plan(load_recipe(TINY), run, TINY)
    (run / "plan.json").write_text(plan.model_dump_json())
    (stage / "metrics.jsonl").write_text('{"step": 3, "time": 1.0, "tokens_per_second": 1234.5, "reward": 0.25}\n')
    (stage / "config.json").write_text('{"steps": 9}')
    (stage / "failure.json").write_text('{"exit_code": 1, "message": "loss is nan at step 3"}')
    done = command("status", "--all", "--folder", tmp_path / "runs", columns=120)
    rows = {line.split()[0]: line.split(maxsplit=5) for line in done.stdout.splitlines() if line.strip()}
    assert rows["1-cpt"] == ["1-cpt", "failed", "3/9", "1,234", "0.250", "loss is nan at step 3"], done.stdout
    assert rows["3-grpo"][1:] == ["not", "run"]
    nothing = command("status", tmp_path)
    assert nothing.returncode == 1 and "is not a run directory" in nothing.stderr
    assert "which run?" in command("status").stderr


# --- plan ----------------------------------------------------------------------------------------------------------


def test_plan_is_readable_at_80_columns(tmp_path: Path) -> None:
    done = command("plan", TINY, "hardware.device=cpu", "--run-dir", tmp_path / "run")
    assert (done.returncode, done.stderr) == (0, "")
    assert not (tmp_path / "run").exists(), "planning writes nothing"
    blocks = done.stdout.strip().split("\n\n")
    assert [block.split()[0] for block in blocks] == ["tiny", "1-cpt", "2-distill", "3-grpo", "eval", "assumed"]
    steps = load_recipe(TINY).grpo.steps  # type: ignore[union-attr]
    assert blocks[3].splitlines()[:3] == [
        "3-grpo     run    2-distill, which it starts from, runs first",
        f"           from 2-distill · {steps} steps × 24,576 tokens · 1 × cpu",
        "           32 prompts × 8 = 256 completions = 1 process × 64 × 4 accumulated",
    ]
    assert re.findall(r"^ {11}(memory|step|disk) ", blocks[3], re.MULTILINE) == ["memory", "step", "disk"]
    assert "1-cpt, 2-distill, 3-grpo" in blocks[4]
    assert all(len(line) <= 80 for block in blocks[1:] for line in block.splitlines())


def test_plan_for_other_devices() -> None:
    """`--hardware` changes the devices; what does not fit them is refused with the change that would."""
    path = ROOT / "recipes" / "qwen2.5-7b-4node.yaml"
    many = command("plan", path, "--hardware", "h100-80x8x16nodes", "distill.batch_size=128")
    assert (many.returncode, many.stderr) == (0, "")
    assert "128 × cuda" in many.stdout and "of 79.6 GiB per device" in many.stdout
    small = command("plan", path, "--hardware", "a100-40x2", "hardware.parallel=zero2")
    assert small.returncode == 2 and "Traceback" not in small.stderr
    assert "cpt\n  given     " in small.stderr and "at most 39.6 GiB, what one a100-40 has" in small.stderr
    wrong = command("plan", path, "--hardware", "h10-80")
    assert wrong.returncode == 2 and "nearest   h100-80" in wrong.stderr


def test_plan_as_json_is_the_plan(tmp_path: Path) -> None:
    done = command("plan", TINY, "grpo.steps=7", "--run-dir", tmp_path, "--json")
    plan = Plan.model_validate_json(done.stdout)
    assert plan == make_plan(load_recipe(TINY, ["grpo.steps=7"]), tmp_path, TINY)
    assert [stage.steps for stage in plan.stages][-1] == 7


def test_every_row_of_every_recipe_is_shown() -> None:
    """Also of the recipes whose lines do not fit: nothing is cut off with an ellipsis."""
    path = ROOT / "recipes" / "openr1-distill-7b-8gpu.yaml"
    shown = " ".join(command("plan", path).stdout.split())
    for row in describe(make_plan(load_recipe(path), "runs/x", str(path))):
        for words in (row.stage, row.input, row.tokens_per_step, row.batch, row.device if row.steps else "", row.why):
            assert " ".join(words.split()) in shown
    assert "…" not in shown


BROKEN = {
    "syntax error": ("model: {from_scratch: {}\ncpt: [", "broken.yaml:"),
    "empty stage": ("model: {from_scratch: {}}\ncpt:\n", "broken.yaml:2  cpt"),
    "unknown key": ("model: {from_scratch: {}}\ngrpo: {stepz: 4}\n", "broken.yaml:2  grpo.stepz"),
    "not a mapping": ("- 1\n", "broken.yaml"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_recipe_is_refused_without_a_traceback(name: str, tmp_path: Path) -> None:
    text, where = BROKEN[name]
    (tmp_path / "broken.yaml").write_text(text)
    done = command("plan", "broken.yaml", folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(where) and "  expected  " in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_recipe(tmp_path: Path) -> None:
    for what in ("plan", "run"):
        done = command(what, "nowhere.yaml", folder=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert "nowhere.yaml" in done.stderr and "Traceback" not in done.stderr
    assert not any(tmp_path.iterdir()), "a run that cannot start leaves nothing behind"


def test_a_wrong_argument_of_a_reward_is_a_mistake_in_the_recipe(tmp_path: Path) -> None:
    done = command("plan", TINY, "grpo.rewards.math_answer={weight: 1.0, tolerence: 2}", "--run-dir", tmp_path)
    assert done.returncode == 2, done.stderr
    assert "grpo.rewards.math_answer" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "overrides",
    [
        ("grpo.rewards.code_tests=1.0", "grpo.reward_deadline=3"),
        ("eval.tasks.0.grader=code_tests", "eval.tasks.0.params={budget: 5}"),
    ],
)
def test_a_reward_that_would_be_killed_before_it_is_done(overrides: tuple[str, ...], tmp_path: Path) -> None:
    done = command("plan", TINY, *overrides, "--run-dir", tmp_path)
    assert done.returncode == 2 and ".budget" in done.stderr and "nearest   budget:" in done.stderr, done.stderr


# --- the other commands --------------------------------------------------------------------------------------------


def test_recipes_has_a_block_for_each() -> None:
    done = command("recipes")
    heads = [line.split()[0] for line in done.stdout.splitlines() if re.match(r"\S+  \(", line)]
    assert heads == sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml"))
    for path in (ROOT / "recipes").glob("*.yaml"):
        assert " ".join(load_recipe(path).expect.result.split()) in " ".join(done.stdout.split())
    assert all(len(line) <= 80 for line in done.stdout.splitlines())


def test_recipes_of_a_folder_without_any(tmp_path: Path) -> None:
    done = command("recipes", "--folder", tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "no recipes" in done.stderr


def test_rewards_lists_every_file() -> None:
    done = command("rewards")
    for file in (ROOT / "reward_fns").glob("*.py"):
        assert re.search(rf"^{file.stem} +\S", done.stdout, re.MULTILINE), f"{file.name} has no line of its own"


def test_report_of_a_missing_directory(tmp_path: Path) -> None:
    done = command("report", tmp_path / "nowhere")
    assert (done.returncode, done.stdout) == (1, "")
    assert "nowhere" in done.stderr and "Traceback" not in done.stderr


def test_report_of_an_unfinished_run(tmp_path: Path) -> None:
    done = command("report", tmp_path)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_file() and (tmp_path / "report.md").is_file()


def test_help() -> None:
    overview = command("--help").stdout
    listed = re.findall(r"^  ([\w-]+)  +(\S.*)$", overview.partition("Commands:")[2], re.MULTILINE)
    about_runs = {
        "plan",
        "run",
        "serve",
        "eval",
        "report",
        "doctor",
        "bench",
        "bench-rewards",
        "bench-algorithms",
        "bench-overlap",
        "bench-memory",
        "rescore",
    }
    about_jobs = {"submit", "status", "logs", "cancel"}
    assert {name for name, _ in listed} == about_runs | about_jobs | {"recipes", "rewards", "version"}
    for name, words in listed:
        assert words.endswith("."), f"aha {name}: the first sentence of its docstring is too long for the list: {words}"
        done = command(name, "--help")
        assert done.returncode == 0 and done.stdout.startswith(f"Usage: aha {name}"), done.stderr


def test_a_mistyped_command() -> None:
    done = command("plam")
    assert done.returncode == 2 and "plan" in done.stderr and "Traceback" not in done.stderr
    assert command("version").stdout == f"aha {aha.__version__}\n"


# --- watching ------------------------------------------------------------------------------------------------------

STORY = [
    Event("skip", "1-cpt", "finished, and its inputs are the same"),
    Event("start", "2-distill", "not run yet", {"steps": None}),
    Event("remark", "2-distill", "3 of 90 traces are longer than [64] tokens and were dropped"),
    Event("step", "2-distill", facts={"step": 1, "steps": 2, "loss": 2.5, "tokens_per_second": 12345.6}),
    Event("step", "2-distill", facts={"step": 2, "steps": 2, "loss": None}),
    Event("done", "2-distill", facts={"seconds": 75}),
    Event("start", "3-grpo", "not run yet", {"steps": 40}),
    Event("step", "3-grpo", facts={"step": 40, "steps": 40, "reward": 0.25, "completion_length": 17.4}),
    Event("done", "3-grpo", facts={"seconds": 3700}),
    Event("start", "eval", "2-distill, 3-grpo"),
    Event("done", "eval", facts={"seconds": 4.2}),
    Event("report", "report", "runs/tiny/report.html"),
]


def shown(events: Iterator[Event], terminal: bool) -> str:
    file = StringIO()
    watch(events, Console(file=file, force_terminal=terminal, width=80))
    return file.getvalue()


def test_a_log_gets_plain_lines() -> None:
    assert shown(iter(STORY), terminal=False).splitlines() == [
        "    1-cpt  skipped: finished, and its inputs are the same",
        "2-distill  starts (not run yet)",
        "2-distill  3 of 90 traces are longer than [64] tokens and were dropped",
        "2-distill  step 1/2  loss 2.500  12,346 tokens/s",
        "2-distill  step 2/2  ",
        "2-distill  done in 1 min 15 s",
        "   3-grpo  starts (not run yet)",
        "   3-grpo  step 40/40  reward 0.250  length 17",
        "   3-grpo  done in 1 h 01 min",
        "     eval  starts (2-distill, 3-grpo)",
        "     eval  done in 4.2 s",
        "   report  runs/tiny/report.html",
    ]


def test_a_log_is_not_flooded() -> None:
    steps = [Event("step", "3-grpo", facts={"step": step, "steps": 50, "loss": 1.0}) for step in range(1, 51)]
    lines = shown(iter([Event("start", "3-grpo", "not run yet", {"steps": 50}), *steps]), terminal=False).splitlines()
    assert len(lines) == 3 and "step 1/50" in lines[1] and "step 50/50" in lines[2]


def test_a_terminal_gets_bars() -> None:
    text = shown(iter(STORY), terminal=True)
    for words in ("done in 1 min 15 s", "longer than [64] tokens", "runs/tiny/report.html"):
        assert words in text
    assert "step 1/2" not in text, "on a terminal the bar shows the steps"
    assert "\x1b[?25h" in text, "the cursor comes back"


def test_a_part_may_start_twice() -> None:
    """An evaluation after each stage: every one is called eval."""
    story = [Event("start", "eval", "1-cpt"), Event("done", "eval"), Event("start", "eval", "2-distill")]
    for terminal in (True, False):
        assert "2-distill" in shown(iter([*story, story[-1]]), terminal)


def test_measures() -> None:
    assert measures({"step": 3}) == ""
    assert measures({"loss": 0.5, "reward": 0.0, "completion_length": None}) == "reward 0.000  length 0"
    assert measures({"reward": 1.0, "rollout_tokens_per_second": 5}) == "reward 1.000  length 0  5 new tokens/s"


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("while_showing", [True, False])
def test_ctrl_c_reaches_the_run_wherever_it_falls(while_showing: bool, terminal: bool) -> None:
    before = signal.getsignal(signal.SIGINT)
    asked = []

    class Interrupting(dict[str, object]):
        """Facts during whose showing somebody presses Ctrl-C."""

        def get(self, key: str, default: object = None) -> object:
            signal.raise_signal(signal.SIGINT)
            return super().get(key, default)

    def run() -> Iterator[Event]:
        try:
            facts = Interrupting(step=1) if while_showing else {"step": 1, "steps": 2}
            yield Event("start", "1-cpt", "not run yet", {"steps": 2})
            yield Event("step", "1-cpt", facts=facts)
            signal.raise_signal(signal.SIGINT)
        except (KeyboardInterrupt, GeneratorExit):
            asked.append(True)
            raise Stopped("1-cpt was stopped and has saved") from None

    file = StringIO()
    with pytest.raises(Stopped):
        watch(run(), Console(file=file, force_terminal=terminal, width=100))
    assert asked == [True] and STOPPING in file.getvalue()
    assert signal.getsignal(signal.SIGINT) is before
