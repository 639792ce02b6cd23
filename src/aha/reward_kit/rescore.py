"""A GRPO run under another reward: whose verdict flips, and which gradients would have turned.

The rollouts of a run are kept completion by completion, with the verdicts and the advantage that the trainer used. They
are judged again here, with the `grpo.rewards` block of the run's recipe changed, and the advantages are computed again
as TRL did. Which of TRL's scalings that was is not believed from the recipe: it is the one that gives the recorded
advantages.
"""

from __future__ import annotations

import difflib
import json
import os
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aha.data.sources import read_problems
from aha.errors import AhaError, Mistake, RecipeError, RunDirError
from aha.metrics import short_names
from aha.recipe import load_recipe
from aha.recipe.algorithms import algorithm_of
from aha.rewards.scorer import Judged, Scorer
from aha.rundir import RunDir, finite, read_jsonl
from aha.types import Completion, Problem

SCALINGS = ("group", "batch", "none", "leave_one_out", "whitened")
"""What the recipe's `advantage` can be (none is `mean`): by the deviation within the group, or within the step, or not at
all; times n / (n - 1); or by the deviation of what the group's mean leaves."""
STABLE = 1e-4
"""What TRL adds to the deviation before it divides."""
TOLERANCE = 2e-3
"""What a recorded advantage, computed in float32, may differ from ours."""
EVEN = 1e-9
EXAMPLES = 3
"""Flips kept in each direction, to be shown."""

Row = dict[str, Any]


@dataclass
class Change:
    """What the new reward changes about the completions of one problem, over all steps that asked it."""

    prompt: str
    completions: int = 0
    up: int = 0
    down: int = 0
    verdicts: int = 0
    """Completions that gained a verdict or lost it."""
    turned: int = 0
    """Completions whose gradient has another sign than before, or none any more, or one for the first time."""
    moved: float = 0.0
    """Sum of |new advantage - old advantage|."""


@dataclass(frozen=True)
class Flip:
    """A completion whose verdict flipped, with the reasons."""

    step: int
    problem_id: str
    answer: str
    completion: str
    old: str
    new: str


@dataclass
class Rescored:
    """What became of a run's rollouts."""

    compared: list[tuple[str, str]]
    """Which reward of the run is compared with which new one."""
    scaling: str
    output: Path
    """One line for each completion, with everything."""
    notes: list[str] = field(default_factory=list)
    """What could not be had as the run had it."""
    changes: dict[str, Change] = field(default_factory=dict)
    """By problem id."""
    flips: dict[str, list[Flip]] = field(default_factory=lambda: {"up": [], "down": []})


class Rescoring:
    """`root` is the run's directory; `overrides` change the `grpo.rewards` of its recipe, or say `reward=NAME`.

    Raises RunDirError when the run has no rollouts, or none that a trainer could have written; RecipeError when the
    overrides are wrong, or would change something else than the rewards.
    """

    def __init__(self, root: Path, overrides: Sequence[str], output: Path | None = None, workers: int = 2):
        self._files = sorted((RunDir(root).stage("grpo") / "rollouts").glob("step-*.jsonl"))
        if not self._files or not (root / "recipe.yaml").is_file():
            raise RunDirError(f"{root} has no rollouts to score again: it needs recipe.yaml and 3-grpo/rollouts/")
        self._recipe = load_recipe(root / "recipe.yaml", _about_rewards(overrides))
        assert self._recipe.grpo is not None, "a recipe without grpo has no rollouts"
        self._block, self._workers = self._recipe.grpo, workers
        self.steps = len(self._files)
        first = self._groups(self._files[0])[0][0]
        compared = _pairs(list(first["rewards"]), list(short_names(self._block.rewards).values()))
        self.result = Rescored(compared, self._scaling(), output or root / "rescored.jsonl")

    def run(self) -> Iterator[int]:
        """Judge every rollout again; yields how many files are done. At the end `result` is whole, its output in place."""
        block, output = self._block, self.result.output
        part = output.with_name(f"{output.name}.part")
        with Scorer(
            block.rewards, block.reward_deadline, self._workers, block.reward_failures, "grpo.rewards"
        ) as scorer:
            problems = self._problems()
            part.parent.mkdir(parents=True, exist_ok=True)
            with part.open("w", encoding="utf-8") as file:
                for number, path in enumerate(self._files, 1):
                    for line in self._rescore(self._groups(path), problems, scorer):
                        file.write(json.dumps(finite(line)) + "\n")
                    yield number
        os.replace(part, output)

    def _groups(self, path: Path) -> list[list[Row]]:
        """The rows of a step, by group: neighbours, as the trainer wrote them."""
        rows, size = read_jsonl(path), self._block.group_size
        groups = [rows[start : start + size] for start in range(0, len(rows), size)]
        for group in groups:
            if len(group) != size or len({row["problem_id"] for row in group}) != 1:
                raise RunDirError(f"{path}: not groups of {size} completions of one problem each, as the recipe says")
        if not groups:
            raise RunDirError(f"{path} is empty; delete it, and the other steps are scored")
        return groups

    def _scaling(self) -> str:
        """The scaling that gives the advantages which the run recorded."""
        fitting = list(SCALINGS)
        for path in self._files:
            groups = self._groups(path)
            recorded = [row["advantage"] for group in groups for row in group]
            rewards = [[row["reward"] for row in group] for group in groups]
            fitting = [name for name in fitting if _near(advantages(rewards, name), recorded)]
            if not fitting:
                raise RunDirError(
                    f"{path}: its advantages are not its rewards scaled by {', '.join(SCALINGS)}, so they cannot be "
                    "computed again. (A multi_objective_aggregation in the trainer block is not understood here.)"
                )
        return fitting[0]

    def _problems(self) -> dict[str, Problem]:
        """The run's problems by id, read again for what a reward reads of them beside prompt and answer."""
        try:
            found, _ = read_problems(self._block.data, self._recipe.seed)
        except AhaError as error:
            self.result.notes.append(
                f"the run's data cannot be read again, rewards see prompt and answer only: {error}"
            )
            return {}
        by_id = {problem.id: problem for problem in found}
        asked = {row["problem_id"]: row for path in self._files for group in self._groups(path) for row in group}
        lost = [name for name, row in asked.items() if _found(row, by_id) is None]
        if lost:
            self.result.notes.append(
                f"{len(lost)} of {len(asked)} problems are no longer in the run's data ({lost[0]}, …): "
                "for them rewards see prompt and answer only"
            )
        return by_id

    def _rescore(self, groups: list[list[Row]], problems: dict[str, Problem], scorer: Scorer) -> Iterator[Row]:
        """The lines of one step, old and new side by side."""
        rows = [row for group in groups for row in group]
        asked = [_found(row, problems) or Problem(row["prompt"], row["answer"], row["problem_id"]) for row in rows]
        answers = [Completion(row["completion"], row["tokens"], truncated=row["truncated"]) for row in rows]
        size = self._block.group_size
        judged = scorer.score(answers, asked, size)
        totals = [one.total for one in judged]
        before = advantages([[row["reward"] for row in group] for group in groups], self.result.scaling)
        after = advantages([totals[start : start + size] for start in range(0, len(totals), size)], self.result.scaling)
        for row, one, old, new in zip(rows, judged, before, after, strict=True):
            yield self._note(row, one, old, new)

    def _note(self, row: Row, judged: Judged, old: float, new: float) -> Row:
        """Count a completion's change, and the line that tells it."""
        change = self.result.changes.setdefault(row["problem_id"], Change(row["prompt"]))
        turned = not self._masked(row) and _sign(old) != _sign(new)
        flip, reasons = _flip(row, judged, self.result.compared)
        change.completions += 1
        change.moved += abs(new - old)
        change.turned += turned
        change.up += flip == "up"
        change.down += flip == "down"
        change.verdicts += flip == "verdict"
        if flip in self.result.flips and len(self.result.flips[flip]) < EXAMPLES:
            example = Flip(row["step"], row["problem_id"], row["answer"], row["completion"], *reasons)
            self.result.flips[flip].append(example)
        verdicts = {
            name: {"value": verdict.value, "reason": verdict.reason} for name, verdict in judged.verdicts.items()
        }
        kept = ("step", "problem_id", "prompt", "answer", "completion", "tokens", "truncated")
        return {
            **{key: row[key] for key in kept},
            "flip": flip,
            "turned": turned,
            "old": {"reward": row["reward"], "advantage": old, "rewards": row["rewards"]},
            "new": {"reward": judged.total, "advantage": new, "rewards": verdicts},
        }

    def _masked(self, row: Row) -> bool:
        """Whether the loss left this completion out, whatever its advantage."""
        if "in_loss" in row:
            return not row["in_loss"]
        masks = self._block.trainer.get("mask_truncated_completions", algorithm_of(self._block).mask_truncated)
        return bool(masks) and bool(row["truncated"])  # of runs that did not write it down


def advantages(groups: Sequence[Sequence[float | None]], scaling: str) -> list[float]:
    """TRL's advantages of a step's rewards: minus the group's mean, over a deviation (GRPO, arXiv:2402.03300, section 4.1).

    A completion without a reward has the advantage 0 and is in no mean. The deviation is that of a sample (n - 1).

    >>> [round(a, 2) for a in advantages([[1.0, 0.0, None], [1.0, 1.0, 1.0]], "group")]
    [0.71, -0.71, 0.0, 0.0, 0.0, 0.0]
    """
    everyone = [reward for group in groups for reward in group if reward is not None]
    centred = [
        reward - mean for group, mean in zip(groups, map(_mean, groups), strict=True) for reward in _known(group)
    ]
    found: list[float] = []
    for group in groups:
        known, mean = _known(group), _mean(group)
        divisor: float | None = 1.0
        if scaling == "leave_one_out":
            divisor = (len(known) - 1) / len(known) if len(known) > 1 else None
        elif scaling != "none":
            divisor = _divisor({"group": known, "batch": everyone, "whitened": centred}[scaling])
        found += [0.0 if reward is None or divisor is None else (reward - mean) / divisor for reward in group]
    return found


def _known(group: Sequence[float | None]) -> list[float]:
    return [reward for reward in group if reward is not None]


def _mean(group: Sequence[float | None]) -> float:
    return statistics.fmean(_known(group)) if _known(group) else 0.0


def _divisor(values: Sequence[float]) -> float | None:
    """The deviation, kept away from 0; None of a single value, which has none."""
    return statistics.stdev(values) + STABLE if len(values) > 1 else None


def _near(ours: Sequence[float], recorded: Sequence[float]) -> bool:
    return all(abs(a - b) <= TOLERANCE * max(1.0, abs(b)) for a, b in zip(ours, recorded, strict=True))


def _sign(advantage: float) -> int:
    return 0 if abs(advantage) < EVEN else 1 if advantage > 0 else -1


def _about_rewards(overrides: Sequence[str]) -> list[str]:
    """The overrides as a recipe takes them; `reward=NAME` is short for a block with that reward alone."""
    taken = []
    for override in overrides:
        key, _, value = override.partition("=")
        if key == "reward" and value:
            taken.append(f"grpo.rewards={json.dumps({value: 1.0})}")
        elif key == "grpo.rewards" or key.startswith("grpo.rewards."):
            taken.append(override)
        else:
            expected = "reward=NAME, grpo.rewards.NAME=WEIGHT or grpo.rewards.NAME.ARGUMENT=…: the rest has happened"
            nearest = difflib.get_close_matches(key, ["reward", "grpo.rewards"], n=1)
            raise RecipeError(Mistake(f"override {override}", key, expected, nearest[0] if nearest else None))
    return taken


def _pairs(old: list[str], new: list[str]) -> list[tuple[str, str]]:
    """Rewards of one name are compared; and the one that went with the one that came."""
    pairs = [(name, name) for name in old if name in new]
    gone, came = [name for name in old if name not in new], [name for name in new if name not in old]
    return pairs + ([(gone[0], came[0])] if len(gone) == len(came) == 1 else [])


def _flip(row: Row, judged: Judged, compared: list[tuple[str, str]]) -> tuple[str | None, tuple[str, str]]:
    """How the first verdict that changed did (up, down, or a verdict gained or lost), and both reasons."""
    for old_name, new_name in compared:
        old, new = row["rewards"][old_name], judged.verdicts[new_name]
        reasons = (f"{_shown(old['value'])}, {old['reason']}", f"{_shown(new.value)}, {new.reason}")
        if (old["value"] is None) != (new.value is None):
            return "verdict", reasons
        if old["value"] is not None and new.value is not None and abs(old["value"] - new.value) > EVEN:
            return ("up" if new.value > old["value"] else "down"), reasons
    return None, ("", "")


def _shown(value: float | None) -> str:
    return "no verdict" if value is None else f"{value:g}"


def _found(row: Row, problems: dict[str, Problem]) -> Problem | None:
    """The problem that a row answers, unless the data have changed since."""
    problem = problems.get(row["problem_id"])
    same = problem is not None and (problem.prompt, problem.answer) == (row["prompt"], row["answer"])
    return problem if same else None
