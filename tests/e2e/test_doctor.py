"""Short runs made to fail: the doctor names what was done to them, live and afterwards, and can end the stage.

Two runs of the GRPO stage alone, each with several faults at once, on a model made from nothing.
"""

from __future__ import annotations

import json
from pathlib import Path

from nano import NANO, aha

GRPO = NANO[: NANO.index("cpt:")] + NANO[NANO.index("grpo:") : NANO.index("eval:")]
CONSTANT = '''\
"""Says the same of everything."""


def score(completion, problem):
    from aha.rewards.contract import Score

    return Score(0.5, "always the same")
'''
GULLIBLE = '''\
"""Believes every text whose first letter comes early: nothing in it depends on the answer."""


def score(completion, problem):
    from aha.rewards.contract import Score

    return Score(float(sum(map(ord, completion.text[:3])) % 2 == 0), "sounds right")
'''
SHY = '''\
"""Declines two completions in three."""


def score(completion, problem):
    from aha.rewards.contract import Score

    if len(completion.text) % 3:
        return Score(None, "would rather not say")
    return Score(float(len(completion.text) % 2), "length is odd, or not")
'''


def run(folder: Path, rewards: str, *overrides: str) -> tuple[int, str]:
    """One run; its exit code, and all that it said."""
    text = GRPO.replace(GRPO[GRPO.index("rewards: {") : GRPO.index("steps:")], f"rewards: {rewards}\n  ")
    (folder / "sick.yaml").write_text(text.replace("name: nano", "name: sick"))
    for name, source in {"constant": CONSTANT, "gullible": GULLIBLE, "shy": SHY}.items():
        (folder / f"{name}.py").write_text(source)
    done = aha("run", "sick.yaml", *overrides, cwd=folder)
    assert "Traceback" not in done.stdout + done.stderr, done.stdout + done.stderr
    return done.returncode, done.stdout + done.stderr


def diagnoses(folder: Path) -> str:
    """What the doctor says of it afterwards; it finds something, so its exit code is 3."""
    told = aha("doctor", "runs/sick", cwd=folder)
    assert told.returncode == 3, told.stdout + told.stderr
    return told.stdout


def test_a_severe_finding_can_end_the_stage_and_the_doctor_says_the_same_afterwards(tmp_path: Path) -> None:
    """A random model is cut off at four tokens nearly always; one reward says nothing, the other declines to judge."""
    rewards = "{./constant.py: 1.0, ./shy.py: 0.5}"
    faults = ("truncation-starved", "dead-reward", "unjudged")
    code, said = run(tmp_path, rewards, "grpo.rollout.max_tokens=4", "grpo.health=stop")
    assert code == 3, said
    assert "stopped at step 5 of 6, checkpoint saved, because grpo.health is stop" in said
    assert (tmp_path / "runs/sick/3-grpo/checkpoints/step-000005/manifest.json").is_file()
    told = " ".join(diagnoses(tmp_path).split())
    for name in faults:
        assert f"health: {name}" in said and name in told
    assert "raise it from 4 to 8" in told and "recipe.yaml:" in told
    assert "./constant.py was 0.5 for all 80 completions of steps 1-5; mostly: always the same" in told

    again = aha("run", "sick.yaml", "grpo.rollout.max_tokens=4", cwd=tmp_path)  # grpo.health is warn again
    assert again.returncode == 0 and "resuming from step-000005" in again.stdout, again.stdout + again.stderr
    assert "health: dead-reward" in again.stdout
    assert "dead-reward" in (tmp_path / "runs/sick/report.md").read_text()


def test_a_gullible_grader_and_copies_in_the_data(tmp_path: Path) -> None:
    """One token per completion, so that texts recur; problems in two spellings; a learning rate far too high, so that
    the policy soon writes what the grader believes, and nothing else."""
    rows = [
        {"prompt": prompt, "answer": str(number), "id": f"{number}{dress}"}
        for number in range(8)
        for dress, prompt in (("a", f"Start with {number} ."), ("b", f"start with  {number}"))
    ]
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = "grpo.data=[{path: problems.jsonl}]"
    changes = ("grpo.rollout.max_tokens=1", "grpo.learning_rate=0.02", "grpo.steps=12")
    code, said = run(tmp_path, "{./gullible.py: 1.0}", data, *changes)
    assert code == 0, said
    told = diagnoses(tmp_path)
    for name in ("duplicate-prompts", "reward-hack"):
        assert name in told and f"health: {name}" in said, told + said
