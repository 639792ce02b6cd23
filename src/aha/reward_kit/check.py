"""Is a reward fit to be optimised against? Everything that can be found out without a model, as a list of findings.

What a reward is comes first, and is found out, not declared. If right answers earn more than wrong ones it is a
*grader*: then nothing that is no answer may earn more than a wrong answer of the same length. If they earn the same it
is a *shaping* reward, which pays for something else: then nothing may earn more than an honest completion.

Judging happens where it happens in a run: in processes that can be killed, under a deadline per completion.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aha.errors import Mistake, RecipeError, RewardError
from aha.reward_kit.attacks import attacks, junk
from aha.reward_kit.problems import BUILTIN
from aha.rewards.honest import AS_ITS_ROW, FORMS, LONG, OPTIONS, SHORT, USUAL
from aha.rewards.load import Reward, load_reward
from aha.rewards.scorer import Scorer, Verdict
from aha.types import Completion, Problem

SAMPLE = 8
"""Problems on which every form of an answer is tried."""
ATTACKED = 3
"""Problems to which every attack is tried."""
LARGEST = 10.0
"""What a value may be in size when the reward's file declares no RANGE: one huge value drowns its whole group."""
EVEN = 1e-9
"""Values that differ by less are the same."""

FAULTS = {
    "shape": r"returned \d+ values for|, not a list",
    "finite values": r"not a finite number",
    "deadline": r"^deadline",
    "exceptions": r"^raised|cannot be sent",
    "survival": r"^the worker died",
}
"""Check -> how the reason of a `Failure` reads that fails it."""
NEEDS_COLUMNS = re.compile(r"^raised (KeyError|TypeError: .*missing \d+ required)")


@dataclass(frozen=True)
class Finding:
    """One check: passed, failed, or (None) nothing to pass, in words."""

    check: str
    passed: bool | None
    text: str


@dataclass(frozen=True)
class Group:
    """Completions that are judged together."""

    problem: Problem
    completions: tuple[Completion, ...]


@dataclass(frozen=True)
class Stance:
    """How a reward takes honest completions: the form it reads best, and what right and wrong answers earn in it."""

    problems: list[Problem]
    source: str
    form: str
    right: list[Verdict]
    wrong: list[Verdict]
    most: float | None
    """The most that any honest completion earned, in any form."""

    @property
    def told_apart(self) -> int:
        pairs = zip(self.right, self.wrong, strict=True)
        return sum(a.value is not None and b.value is not None and a.value > b.value + EVEN for a, b in pairs)

    @property
    def grader(self) -> bool:
        return 2 * self.told_apart >= len(self.right)

    @property
    def rank(self) -> tuple[int, int, float]:
        known = [verdict.value for verdict in self.right if verdict.value is not None]
        return self.told_apart, len(known), sum(known)


class _Judges:
    """A reward in its worker processes, and all that it has said there."""

    def __init__(self, reward: str, arguments: Mapping[str, Any], deadline: float, workers: int = 2):
        self._name = reward
        self._scorer = Scorer({reward: {"weight": 1.0, **arguments}}, deadline, workers, failure_budget=1.0)
        self.said: list[tuple[Group, int, Verdict]] = []

    def __enter__(self) -> _Judges:
        return self

    def __exit__(self, *_: object) -> None:
        self._scorer.close()

    def judge(self, groups: Sequence[Group]) -> list[list[Verdict]]:
        """The verdicts of each group, all of one size, in the order of its completions."""
        size = len(groups[0].completions)
        flat = [completion for group in groups for completion in group.completions]
        asked = [group.problem for group in groups for _ in group.completions]
        verdicts = [
            verdict for one in self._scorer.score(flat, asked, size) for verdict in one.verdicts.values()
        ]  # of one reward
        grouped = [verdicts[start : start + size] for start in range(0, len(verdicts), size)]
        self.said += [
            (group, member, verdict)
            for group, said in zip(groups, grouped, strict=True)
            for member, verdict in enumerate(said)
        ]
        return grouped


def check_reward(
    name: str, arguments: Mapping[str, Any], problems: list[Problem] | None = None, deadline: float = 5.0
) -> Iterator[Finding]:
    """Check the reward that a recipe would name so, on `problems` or on those of the house; `deadline` in seconds.

    Raises RecipeError when there is no such reward or it does not take these arguments, and when the problems of the
    house lack what it reads; RewardError when its code cannot be read.
    """
    reward = load_reward(name, arguments)
    try:
        judges = _Judges(name, arguments, deadline)
    except RewardError as error:
        yield Finding("loads", False, f"not in another process: {error}")
        return
    with judges, tempfile.TemporaryDirectory() as folder:
        yield Finding("loads", True, "here, and in a process of its own")
        yield from _checked(judges, reward, arguments, problems, deadline, Path(folder) / "run_by_the_reward")


def _checked(
    judges: _Judges,
    reward: Reward,
    arguments: Mapping[str, Any],
    problems: list[Problem] | None,
    deadline: float,
    mark: Path,
) -> Iterator[Finding]:
    sets = {"its data": problems} if problems is not None else BUILTIN
    first = next(iter(sets.values()))
    (probe,) = judges.judge([_honest(first[0], first, "in an answer tag")])
    if all(verdict.failed and verdict.reason.startswith(("deadline", "the worker died")) for verdict in probe):
        yield from _faults(judges, deadline)  # everything else would end the same way, each at the full deadline
        return
    stance = _stance(judges, sets)
    if problems is None:
        _require_fitting(reward.name, stance)
    yield from _standing(judges, stance)
    assaults = [_assault(stance, number, mark) for number in range(min(ATTACKED, len(stance.problems)))]
    assaults[0] += [(what, _faced(stance, 0, completion)) for what, completion in junk()]
    yield from _repelled(judges, stance, [one for assault in assaults for one in assault], mark)
    honest = [_honest(problem, stance.problems, stance.form) for problem in stance.problems[:SAMPLE]]
    watched = [*honest, *(group for _, group in assaults[0])]
    yield from _steady(judges, reward, arguments, deadline, watched)
    yield _untouched(reward.name, arguments, deadline, watched)
    yield from _faults(judges, deadline)
    yield from _range(judges, reward)


# --- honest completions --------------------------------------------------------------------------------------------


def _stance(judges: _Judges, sets: Mapping[str, list[Problem]]) -> Stance:
    stances = []
    for source, problems in sets.items():
        few = problems[:SAMPLE]
        found = []
        for form in FORMS:
            if form != AS_ITS_ROW or all(problem.meta.get("completion") for problem in few):
                verdicts = judges.judge([_honest(problem, problems, form) for problem in few])
                found.append((form, verdicts))
        known = [one.value for _, verdicts in found for said in verdicts for one in said if one.value is not None]
        most = max(known, default=None)
        stances += [
            Stance(problems, source, form, [said[0] for said in verdicts], [said[1] for said in verdicts], most)
            for form, verdicts in found
        ]
    return max(stances, key=lambda stance: stance.rank)


def _honest(problem: Problem, problems: Sequence[Problem], form: str) -> Group:
    """A right and a wrong answer, each short and long, to be judged side by side."""
    texts = [FORMS[form](one, USUAL) for one in (problem, _mistaken(problem, problems))]
    return Group(problem, tuple(Completion(text, tokens) for tokens in (SHORT, LONG) for text in texts))


def _mistaken(problem: Problem, problems: Sequence[Problem]) -> Problem:
    """The problem as somebody sees it who answers wrongly: with the answer of the next one."""
    at = problems.index(problem)
    for other in (*problems[at + 1 :], *problems[:at]):
        if other.answer != problem.answer:
            return replace(other, prompt=problem.prompt)
    return replace(problem, answer=_others(problem, problems)[0], meta={})


def _others(problem: Problem, problems: Sequence[Problem]) -> list[str]:
    """Five wrong answers: those of other problems, or whatever is at hand; for a choice, the other letters."""
    known = [other.answer for other in problems]
    if "choices" in problem.meta:
        known = [chr(ord("A") + number) for number in range(len(problem.meta["choices"]))]
    return [answer for answer in dict.fromkeys([*known, *OPTIONS]) if answer != problem.answer][:5]


def _require_fitting(name: str, stance: Stance) -> None:
    """Raises RecipeError when a reward could say nothing about any problem of the house for want of a column."""
    reasons = {verdict.reason for verdict in stance.right}
    declined = not any(verdict.failed for verdict in stance.right)
    if any(verdict.value is not None for verdict in stance.right):
        return
    if declined or all(NEEDS_COLUMNS.match(reason) for reason in reasons):
        data = "DATA=rows.jsonl (prompt, answer, and the columns that it reads), or DATA=tiny for a recipe's problems"
        raise RecipeError(Mistake(name, f"no data, and about ours it says: {min(reasons)}", data))


def _standing(judges: _Judges, stance: Stance) -> Iterator[Finding]:
    """What the reward is, and what all right answers of its data earn."""
    few = f"{len(stance.right)} problems ({stance.source})"
    if not stance.grader:
        yield Finding("a shaping reward", None, f"right and wrong answers earn the same, on {few}")
        known = {verdict.value for _, _, verdict in judges.said}
        if not any(verdict.value is not None for _, _, verdict in judges.said):
            yield Finding("verdicts", False, f"none at all: {stance.right[0].reason}")
        elif len(known) > 1 or stance.told_apart:
            yield Finding("verdicts", True, f"honest completions earn {_span(v for _, _, v in judges.said)}")
        return
    yield Finding("a grader", None, f"right answers earn more, {stance.form}, on {few}")
    groups = [_honest(problem, stance.problems, stance.form) for problem in stance.problems]
    verdicts = judges.judge(groups)
    full = max(said[0].value for said in verdicts if said[0].value is not None)
    short = [
        (group, said[0])
        for group, said in zip(groups, verdicts, strict=True)
        if said[0].value is None or said[0].value < full - EVEN
    ]
    yield _counted("right answers", short, len(groups), f"earn full marks ({full:g})", "do not earn full marks")
    same = [
        (group, said[1])
        for group, said in zip(groups, verdicts, strict=True)
        if said[0].value is not None and said[1].value is not None and said[1].value > said[0].value - EVEN
    ]
    yield _counted("wrong answers", same, len(groups), "earn less", "earn as much as the right one")


def _counted(check: str, broken: list[tuple[Group, Verdict]], count: int, good: str, bad: str) -> Finding:
    if not broken:
        return Finding(check, True, f"all {count} {good}")
    group, verdict = broken[0]
    example = f"{group.problem.id} (answer {_shown(group.problem.answer, 40)}): {_value(verdict)}, {verdict.reason}"
    return Finding(check, False, f"{len(broken)} of {count} {bad}; the first is {example}")


# --- attacks -------------------------------------------------------------------------------------------------------


def _assault(stance: Stance, number: int, mark: Path) -> list[tuple[str, Group]]:
    """Every attack on one problem, each in a group of its own."""
    problem = stance.problems[number]
    found = attacks(problem, _others(problem, stance.problems), mark)
    return [(what, _faced(stance, number, completion)) for what, completion in found]


def _faced(stance: Stance, number: int, attack: Completion) -> Group:
    """An attack beside two right answers and its measure: for a grader a wrong answer, else a right one, as long."""
    problem = stance.problems[number]
    honest = _honest(problem, stance.problems, stance.form).completions
    measure = replace(honest[1] if stance.grader else honest[0], tokens=attack.tokens)
    return Group(problem, (honest[0], honest[2], measure, attack))


def _repelled(judges: _Judges, stance: Stance, assaults: list[tuple[str, Group]], mark: Path) -> Iterator[Finding]:
    verdicts = judges.judge([group for _, group in assaults])
    paid: dict[str, list[tuple[Group, Verdict, float]]] = {}
    counts: dict[str, int] = {}
    for (what, group), (_, _, measure, said) in zip(assaults, verdicts, strict=True):
        limit = _limit(stance, measure)
        counts[what] = counts.get(what, 0) + 1
        if said.value is not None and said.value > limit + EVEN:
            paid.setdefault(what, []).append((group, said, limit))
    most = "more than a wrong answer earns" if stance.grader else "more than an honest completion earns"
    for what, count in counts.items():
        if what not in paid:
            yield Finding(what, True, f"none of {count} pays")
            continue
        group, said, limit = paid[what][0]
        text = _shown(group.completions[-1].prompt_tail + group.completions[-1].text, 90)
        example = f"{text} earns {_value(said)}, not {limit:g} at most (right: {_shown(group.problem.answer, 40)})"
        yield Finding(what, False, f"{len(paid[what])} of {count} pay {most}; {example}: {said.reason}")
    ran = mark.exists()
    yield Finding("does not run the text", not ran, "code in a completion was run" if ran else "no code was run")


def _limit(stance: Stance, measure: Verdict) -> float:
    """The most that an attack may earn."""
    known = [measure.value] if measure.value is not None else []
    if not stance.grader:
        return max([*known, *([stance.most] if stance.most is not None else [])], default=0.0)
    return max(known or [verdict.value for verdict in stance.wrong if verdict.value is not None], default=0.0)


# --- the same again ------------------------------------------------------------------------------------------------


def _steady(
    judges: _Judges, reward: Reward, arguments: Mapping[str, Any], deadline: float, groups: list[Group]
) -> Iterator[Finding]:
    """The same completions again in a fresh process, then in the opposite order, then each alone."""
    small = [group for group in groups if all(len(one.text) < 100_000 for one in group.completions)]
    turned = [replace(group, completions=group.completions[::-1]) for group in reversed(small)]
    first = [[verdict.value for verdict in said] for said in judges.judge(small)]
    again = _values(reward.name, arguments, deadline, small)
    opposite = [said[::-1] for said in reversed(_values(reward.name, arguments, deadline, turned))]
    count = sum(len(group.completions) for group in small)
    yield _agreed("determinism", small, first, again, f"the same for {count} in two processes")
    yield _agreed("order", small, again, opposite, f"the same for {count} from last to first")
    if not reward.whole_group:
        yield Finding("batch", True, "each completion is judged by itself")
        return
    alone = [Group(group.problem, (one,)) for group in small[:SAMPLE] for one in group.completions]
    flat = [value for said in again[:SAMPLE] for value in said]
    same = flat == [value for said in _values(reward.name, arguments, deadline, alone) for value in said]
    words = "does not depend on its group" if same else "depends on its group, as rewards that compare may"
    yield Finding("batch", True if same else None, f"what a completion earns {words}")


def _values(
    name: str, arguments: Mapping[str, Any], deadline: float, groups: Sequence[Group]
) -> list[list[float | None]]:
    with _Judges(name, arguments, deadline, workers=1) as judges:
        return [[verdict.value for verdict in said] for said in judges.judge(groups)]


def _agreed(
    check: str,
    groups: Sequence[Group],
    one: Sequence[Sequence[float | None]],
    other: Sequence[Sequence[float | None]],
    good: str,
) -> Finding:
    differing = [
        (group.completions[member], a, b)
        for group, ones, others in zip(groups, one, other, strict=True)
        for member, (a, b) in enumerate(zip(ones, others, strict=True))
        if a != b
    ]
    if not differing:
        return Finding(check, True, good)
    completion, a, b = differing[0]
    return Finding(check, False, f"{len(differing)} values differ; {_shown(completion.text, 60)} earned {a}, then {b}")


def _untouched(name: str, arguments: Mapping[str, Any], deadline: float, groups: list[Group]) -> Finding:
    watcher = {"reward": name, "arguments": json.dumps(dict(arguments))}
    with _Judges("aha.reward_kit.untouched:score_group", watcher, deadline) as judges:
        verdicts = judges.judge(groups[: 2 * SAMPLE])
    changed = sum(any(verdict.value == 0.0 for verdict in said) for said in verdicts)
    if changed:
        return Finding(
            "inputs", False, f"changed its completions or its problem in {changed} of {len(verdicts)} groups"
        )
    return Finding("inputs", True, "left as they were")


# --- all that was said ---------------------------------------------------------------------------------------------


def _faults(judges: _Judges, deadline: float) -> Iterator[Finding]:
    failed = [(group, member, verdict) for group, member, verdict in judges.said if verdict.failed]
    slowest = max((verdict.seconds for _, _, verdict in judges.said), default=0.0)
    good = {"deadline": f"{slowest:.3f} s at most, of {deadline:g} s"}
    for check, pattern in FAULTS.items():
        found = [one for one in failed if re.search(pattern, one[2].reason)]
        if not found:
            yield Finding(check, True, good.get(check, f"no fault in {len(judges.said)} verdicts"))
            continue
        group, member, verdict = found[0]
        text = _shown(group.completions[member].text, 60)
        yield Finding(check, False, f"{len(found)} of {len(judges.said)} verdicts; for {text}: {verdict.reason}")


def _range(judges: _Judges, reward: Reward) -> Iterator[Finding]:
    """What was earned lies in the declared range, and is not the same for everything."""
    values = [verdict.value for _, _, verdict in judges.said if verdict.value is not None]
    if not values:
        return
    low, high = reward.range or (-LARGEST, LARGEST)
    declared = f"RANGE is {low:g} to {high:g}" if reward.range else f"without a RANGE, {low:g} to {high:g} may be"
    inside = low - EVEN <= min(values) and max(values) <= high + EVEN
    yield Finding("range", inside, f"earned {_span(v for _, _, v in judges.said)}; {declared}")
    if min(values) == max(values):
        yield Finding("signal", False, f"all {len(values)} completions earned {values[0]:g}: there is nothing to learn")


def _span(verdicts: Iterator[Verdict]) -> str:
    values = [verdict.value for verdict in verdicts if verdict.value is not None]
    return f"{min(values) + 0.0:g} to {max(values) + 0.0:g}" if values else "nothing"


def _value(verdict: Verdict) -> str:
    return "no verdict" if verdict.value is None else f"{verdict.value:g}"


def _shown(text: str, most: int) -> str:
    return repr(text if len(text) <= most else f"{text[: most - 1]}…")
