"""Dynamic sampling (DAPO, arXiv:2503.14476, section 3.2): groups whose outcomes are all equal are drawn again.

A step starts with its prompts. Groups that tell their completions apart are kept; for the others further problems are
asked, in rounds, until the step is full or its budget is spent. Then the step is taken with what there is: the rest of
its batch are groups without signal, whose tokens are left out of the loss. TRL sees one batch of the planned size, with
completions and verdicts that are there already.

The filter looks at one reward, the outcome, and not at shaping: a group that differs in format only says nothing of
right and wrong. Every process sees all groups of a round, so that all of them draw, keep and stop alike.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from accelerate.utils import gather_object

from aha.recipe.schema import DynamicSampling
from aha.rewards.scorer import Judged
from aha.train import heartbeat
from aha.train.draws import Draws
from aha.train.judge import Judge
from aha.types import Completion


@dataclass
class Member:
    """One completion, as TRL and the judge know it. It travels between processes; a problem may hold what cannot."""

    problem: int
    prompt_ids: list[int]
    ids: list[int]
    text: list[dict[str, str]]
    """As TRL has it: one message."""
    logprobs: list[float]
    completion: Completion
    judged: Judged


Group = list[Member]


@dataclass
class Filled:
    """One step's groups so far, over all processes."""

    kept: list[Group] = field(default_factory=list)
    """Those that tell their completions apart."""
    spare: list[Group] = field(default_factory=list)
    first: list[Judged] = field(default_factory=list)
    """The verdicts of the first round, before anything was chosen."""
    rounds: int = 0

    @property
    def asked(self) -> list[Group]:
        return self.kept + self.spare


def outcomes_of(judged: Sequence[Judged], outcome: str) -> list[float]:
    """The outcome of each completion that has a total; none of a group in which nobody was judged."""
    values = [one.verdicts[outcome].value for one in judged if one.total is not None]
    return [value for value in values if value is not None]


def next_number(target: int, kept: int, asked: int, processes: int) -> int:
    """How many problems to ask next: what is missing, over the share kept so far; a multiple of the processes.

    >>> next_number(target=32, kept=24, asked=32, processes=1), next_number(target=32, kept=0, asked=32, processes=1)
    (11, 32)
    """
    wanted = min(target, math.ceil((target - kept) * asked / kept)) if kept else target
    return math.ceil(wanted / processes) * processes


class Refilled:
    """Mixed in before TRL's GRPOTrainer. Without dynamic sampling and without a curriculum it changes nothing."""

    judge: Judge
    draws: Draws
    dynamic = DynamicSampling(enabled=False)
    outcome = ""
    """The outcome's name in metrics and verdicts."""
    say: Callable[[str], None]
    round = 0
    filled: Filled | None = None
    _chosen: tuple[Any, ...] | None = None

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        if not self.dynamic.enabled and not self.draws.curriculum:
            return super()._generate_and_score_completions(inputs)  # type: ignore[misc]
        trainer: Any = self
        self.filled = self._fill(inputs)
        rows = [member for group in self.filled.asked for member in group]
        mine = rows[trainer.accelerator.process_index * len(inputs) :][: len(inputs)]
        prompts, tokens, texts = [one.prompt_ids for one in mine], [one.ids for one in mine], [one.text for one in mine]
        self._chosen = (prompts, tokens, None, texts, [one.logprobs for one in mine], {}, None, [])
        self.judge.known = [(self.judge.problems[one.problem], one.completion, one.judged) for one in mine]
        try:
            return super()._generate_and_score_completions([trainer.train_dataset[one.problem] for one in mine])  # type: ignore[misc]
        finally:
            self._chosen = self.judge.known = None

    def _generate(self, prompts: list[Any]) -> tuple[Any, ...]:
        return super()._generate(prompts) if self._chosen is None else self._chosen  # type: ignore[misc]

    def _fill(self, inputs: list[dict[str, Any]]) -> Filled:
        """Ask, keep, and ask again: the same in every process."""
        trainer: Any = self
        step, processes = trainer.state.global_step + 1, trainer.accelerator.num_processes
        problems = gather_object([row["problem_index"] for row in inputs])[:: self.judge.group_size]
        target, asked, spent = len(problems), set[int](), Spent()
        if self.draws.curriculum:
            problems = self.draws.draw(step, 0, target)
        filled = Filled()
        while problems:
            self.round = filled.rounds
            groups = self._ask(problems)
            spent.add(trainer.vllm_generation, self.judge)
            for group in groups:
                (filled.kept if self._tells(group) else filled.spare).append(group)
            filled.first = filled.first or [one.judged for group in groups for one in group]
            filled.rounds += 1
            asked.update(problems)
            if len(filled.kept) >= target or not self.dynamic.enabled or filled.rounds == self.dynamic.rounds:
                break
            number = next_number(target, len(filled.kept), len(filled.asked), processes)
            problems = self.draws.draw(step, filled.rounds, number, asked)
            problems = problems[: len(problems) // processes * processes]
        self.round = 0
        spent.put_back(trainer.vllm_generation, self.judge)
        spread = {group[0].problem: self._spread(group) for group in filled.asked}
        self.draws.note(step, spread, write=trainer.accelerator.is_main_process)
        if len(filled.kept) < target and self.dynamic.enabled and trainer.accelerator.is_main_process:
            why = "there are no further problems" if not problems else f"the budget is {self.dynamic.rounds} rounds"
            self.say(
                f"step {step}: {len(filled.kept)} of {target} groups tell their completions apart by {self.outcome}, "
                f"after {filled.rounds} rounds and {len(filled.asked)} problems ({why}); the step is taken with these"
            )
        return filled

    def _ask(self, problems: list[int]) -> list[Group]:
        """One group for each problem: this process samples and judges its share, and is told the others'."""
        trainer: Any = self
        size, processes = self.judge.group_size, trainer.accelerator.num_processes
        share = len(problems) // processes
        start = trainer.accelerator.process_index * share
        mine = [problem for problem in problems[start : start + share] for _ in range(size)]
        lengths = {name: len(values) for name, values in trainer._metrics["train"].items()}
        prompts, ids, _, texts, logprobs, *_ = self._generate([trainer.train_dataset[one]["prompt"] for one in mine])
        if self.round:  # what TRL logs of lengths is that of the first round, before anything was chosen
            for name in (name for name in lengths if name.startswith("completions/")):
                del trainer._metrics["train"][name][lengths[name] :]
        with heartbeat.phase("reward"):
            self.judge(completions=texts, completion_ids=ids, problem_index=mine)
        rows = zip(mine, prompts, ids, texts, logprobs, self.judge.last, strict=True)
        own = [
            Member(problem, prompt, tokens, text, logps, completion, judged)
            for problem, prompt, tokens, text, logps, (_, completion, judged) in rows
        ]
        everyone = gather_object(own)
        return [everyone[first : first + size] for first in range(0, len(everyone), size)]

    def _tells(self, group: Group) -> bool:
        """Whether a group's outcomes differ; every group does where nothing is filtered."""
        found = outcomes_of([one.judged for one in group], self.outcome)
        return not self.dynamic.enabled or (len(found) > 1 and max(found) - min(found) > self.dynamic.tolerance)

    def _spread(self, group: Group) -> float:
        found = outcomes_of([one.judged for one in group], self.outcome)
        return statistics.pstdev(found) if found else 0.0

    def _trained(self, rows: int) -> list[bool]:
        """Of this process's rows: whether each is of a group that was kept, and not there to fill the batch."""
        if self.filled is None:
            return [True] * rows
        first = self.accelerator.process_index * rows  # type: ignore[attr-defined]
        return [first + row < len(self.filled.kept) * self.judge.group_size for row in range(rows)]

    def _record_filling(self, metrics: dict[str, list[float]]) -> None:
        """Rounds, the share of groups kept, completions sampled; and the share of this batch that has no signal."""
        if self.filled is None or not self.dynamic.enabled:
            return
        target = self.args.generation_batch_size // self.judge.group_size  # type: ignore[attr-defined]
        asked = len(self.filled.asked)
        metrics["rounds"].append(self.filled.rounds)
        metrics["groups_kept"].append(len(self.filled.kept) / asked)
        metrics["completions_sampled"].append(asked * self.judge.group_size)
        metrics["frac_reward_zero_std"][-1] = 1 - min(len(self.filled.kept), target) / target


class Spent:
    """What the rounds of a step took together: the engine and the judge know of their last call only."""

    def __init__(self) -> None:
        self.rollout, self.reward, self.tokens = 0.0, 0.0, 0

    def add(self, engine: Any, judge: Judge) -> None:
        """After each round."""
        self.rollout, self.tokens = self.rollout + engine.seconds, self.tokens + engine.new_tokens
        self.reward += judge.seconds

    def put_back(self, engine: Any, judge: Judge) -> None:
        """After the last one."""
        engine.seconds, engine.new_tokens, judge.seconds = self.rollout, self.tokens, self.reward
