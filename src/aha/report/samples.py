"""Which completions to show: the same problem (or its likeness) at the first, a middle and the last step of GRPO.

They are picked to show the change where there is one, so every pick comes with its group's count of correct answers:
one completion is an illustration, the count is the evidence. Of the completions of the wanted kind, the one of median
length is shown.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aha.report.read import clean, mapping, number, read_lines

WINDOW = 3
"""Steps read around each of the three points, so that a problem that recurs is found."""
ANCHORS = 12
"""Early groups tried when no problem recurs."""

HEAD, TAIL = 1500, 900
"""Characters kept of a long text: completions may be of any size."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Group:
    """The completions of one problem at one step."""

    step: int
    problem: str
    prompt: str
    rows: list[Row]
    verdicts: list[bool | None]

    @property
    def correct(self) -> int:
        return sum(verdict is True for verdict in self.verdicts)

    @property
    def share(self) -> float:
        return self.correct / len(self.rows)

    def typical(self, wanted: bool) -> Row:
        """The completion of median length among those that are (in)correct as wanted, else among all."""
        rows = [row for row, verdict in zip(self.rows, self.verdicts, strict=False) if verdict is wanted] or self.rows
        return sorted(rows, key=length)[len(rows) // 2]


@dataclass(frozen=True)
class Moment:
    """One completion on show, and the group it stands for."""

    group: Group
    row: Row


@dataclass(frozen=True)
class Story:
    """The moments of one problem, or of problems that are alike."""

    moments: list[Moment]
    same_problem: bool


def length(row: Row) -> float:
    """Tokens of a completion; its characters when the tokens were not recorded."""
    tokens = number(row.get("tokens"))
    return len(str(row.get("completion", ""))) if tokens is None else tokens


def is_correct(row: Row, grader: str | None) -> bool | None:
    """Whether the grader called it right; None when it could not judge. Without a grader, the reward's sign decides."""
    value = (
        number(mapping(mapping(row.get("rewards")).get(grader)).get("value")) if grader else number(row.get("reward"))
    )
    return None if value is None else value > (0.5 if grader else 0.0)


def excerpt(text: str) -> str:
    """The beginning and the end of a long text; what was in between is counted."""
    if len(text) > HEAD + TAIL + 100:
        text = f"{text[:HEAD]}\n[… {len(text) - HEAD - TAIL} characters left out …]\n{text[-TAIL:]}"
    return clean(text)


def _groups(files: list[Path], grader: str | None) -> list[Group]:
    found: dict[tuple[int, str], list[Row]] = {}
    for path in files:
        for row in read_lines(path)[0]:
            step = number(row.get("step"))
            digits = re.findall(r"\d+", path.stem)
            at = int(step) if step is not None else int(digits[-1][:9]) if digits else 0
            row |= {key: excerpt(str(row.get(key, ""))) for key in ("prompt", "completion")}
            found.setdefault((at, clean(str(row.get("problem_id"))[:80])), []).append(row)
    return [
        Group(step, problem, rows[0]["prompt"], rows, [is_correct(row, grader) for row in rows])
        for (step, problem), rows in found.items()
    ]


def _points(files: list[Path]) -> list[list[Path]]:
    """The files of the first, the middle and the last steps; fewer points when there are fewer files."""
    if len(files) < 3:
        return [[path] for path in files]
    width = max(1, min(WINDOW, len(files) // 3))
    middle = (len(files) - width) // 2
    return [files[:width], files[middle : middle + width], files[-width:]]


def _words(prompt: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", re.sub(r"\d+", "0", prompt[-2000:].lower())))


def _likeness(left: frozenset[str], right: frozenset[str]) -> float:
    return len(left & right) / max(1, len(left | right))


def _recurring(points: list[list[Group]]) -> list[list[Group]]:
    """One group per point for every problem that all points know, the largest gain first."""
    earliest = {group.problem: group for group in reversed(points[0])}
    by_problem = [earliest, *({group.problem: group for group in groups} for groups in points[1:])]
    shared = [problem for problem in by_problem[0] if all(problem in groups for groups in by_problem)]
    chains = [[groups[problem] for groups in by_problem] for problem in shared]
    return sorted(chains, key=lambda chain: chain[0].share - chain[-1].share)


def _alike(points: list[list[Group]]) -> list[list[Group]]:
    """One group per point, as alike in their prompts as can be, starting from early groups with few correct answers."""
    words = {id(group): _words(group.prompt) for groups in points for group in groups}
    free = [list(groups) for groups in points[1:]]
    chains = []
    for anchor in sorted(points[0], key=lambda group: group.share)[:ANCHORS]:
        if not all(free):
            break

        def fit(group: Group, anchor: Group = anchor) -> tuple[float, float]:
            return round(_likeness(words[id(anchor)], words[id(group)]), 1), group.share

        near = [max(groups, key=fit) for groups in free]
        for groups, taken in zip(free, near, strict=False):
            groups.remove(taken)
        chains.append([anchor, *near])
    return sorted(chains, key=lambda chain: chain[0].share - chain[-1].share)


def pick_stories(files: list[Path], grader: str | None, most: int = 2) -> list[Story]:
    """At most `most` stories of how the completions changed."""
    points = [groups for groups in (_groups(window, grader) for window in _points(files)) if groups]
    if not points:
        return []
    chains = _recurring(points)
    same = bool(chains)
    stories = []
    for chain in (chains or _alike(points))[:most]:
        wanted = [False] + [group.share >= 0.5 for group in chain[1:-1]] + [True]
        moments = [Moment(group, group.typical(want)) for group, want in zip(chain, wanted, strict=False)]
        stories.append(Story(moments, same))
    return stories
