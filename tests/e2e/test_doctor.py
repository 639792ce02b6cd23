"""Short runs made to fail: the doctor names what was done to them, live and afterwards, and can end the stage.

Three runs of the GRPO stage alone, each with several faults at once, from the same model made from nothing.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
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


def test_too_few_tokens_and_a_reward_that_says_nothing(tmp_path: Path) -> None:
    """A random model is cut off at four tokens nearly always, and a constant reward teaches nothing."""
    code, said = run(tmp_path, "{./constant.py: 1.0}", "grpo.rollout.max_tokens=4")
    assert code == 0, said
    told = diagnoses(tmp_path)
    for name in ("truncation-starved", "dead-reward"):
        assert f"health: {name}" in said and name in told
    assert "raise it from 4 to 8" in told and "recipe.yaml:" in told
    assert "./constant.py was 0.5 for all 80 completions of steps 2-6; mostly: always the same" in " ".join(
        told.split()
    )
    assert "dead-reward" in (tmp_path / "runs/sick/report.md").read_text()


def test_a_gullible_grader_copies_in_the_data_and_a_policy_torn_from_its_start(tmp_path: Path) -> None:
    """One token per completion, so that texts recur; problems in two spellings; a learning rate far too high, so that
    the policy is soon far from its start and writes one text only."""
    rows = [
        {"prompt": prompt, "answer": str(number), "id": f"{number}{dress}"}
        for number in range(8)
        for dress, prompt in (("a", f"Start with {number} ."), ("b", f"start with  {number}"))
    ]
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = "grpo.data=[{path: problems.jsonl}]"
    changes = ("grpo.rollout.max_tokens=1", "grpo.learning_rate=0.3", "grpo.beta=0.001", "grpo.steps=10")
    code, said = run(tmp_path, "{./gullible.py: 1.0}", data, *changes)
    assert code in (0, 1), said  # so high a rate may also end in a step that is not finite
    told = diagnoses(tmp_path)
    for name in ("duplicate-prompts", "kl-blow-up"):
        assert name in told, told
    assert {"reward-hack", "dead-reward", "no-signal-groups", "entropy-collapse"} & {*told.split()}, told


@pytest.mark.parametrize("health", ["stop"])
def test_stop_ends_the_stage_with_a_checkpoint_and_warn_goes_on_from_it(tmp_path: Path, health: str) -> None:
    """Two completions in three without a verdict: severe."""
    code, said = run(tmp_path, "{./shy.py: 1.0}", f"grpo.health={health}", "grpo.steps=8")
    assert code == 3, said
    assert "stopped at step 5 of 8, checkpoint saved, because grpo.health is stop" in said and "unjudged" in said
    assert (tmp_path / "runs/sick/3-grpo/checkpoints/step-000005/manifest.json").is_file()
    assert "unjudged" in diagnoses(tmp_path)
    again = aha("run", "sick.yaml", "grpo.health=warn", "grpo.steps=8", cwd=tmp_path)
    assert again.returncode == 0 and "resuming from step-000005" in again.stdout, again.stdout + again.stderr
