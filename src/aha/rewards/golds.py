r"""Before the first step: does each problem's own answer earn full marks? If not, the problem teaches that right is wrong.

The classic is a reference in bare LaTeX that a grader misreads: `2\sqrt{3}` as 2. So the answer of every problem is put
into an honest completion and judged, and the answer of another problem beside it. Which rewards look at the answer, and
in which form they read it, is found out on a few problems; of the others nothing is asked but a verdict. A problem is bad
when its own answer has less than full marks, or no verdict, in every form, or when a wrong answer has no verdict: then
only what is spelt like the reference could be judged. Bad problems are dropped by name; more of them than is allowed, and
nothing starts.

The rewards are those of the run, in its worker processes. Two judgements per problem: 17,000 of them take `math_answer`
some seconds.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from aha.errors import DataError
from aha.rewards.honest import AS_ITS_ROW, FORMS, OPTIONS, SHORT, USUAL, Tags
from aha.rewards.scorer import Judged, Scorer, Verdict
from aha.types import Completion, Problem

PROBED = 16
"""Problems on which the rewards are found out."""
CHUNK = 512
"""Problems that are judged at a time."""
ALLOWED = 0.01
"""Share of bad problems that is dropped and not refused."""
MOST = 20_000
"""Problems that are checked; of more, so many are taken evenly, and that is said."""
EVEN = 1e-9
"""Values that differ by less are the same."""


class Bad(NamedTuple):
    """A problem that is dropped: which reward said what about its answer."""

    problem: Problem
    reward: str
    reason: str

    def __str__(self) -> str:
        answer = self.problem.answer
        shown = repr(answer if len(answer) <= 60 else f"{answer[:59]}…")
        return f"{self.problem.id} (answer {shown}), {self.reward}: {self.reason}"


@dataclass(frozen=True)
class Golds:
    """What became of the problems."""

    kept: list[Problem]
    bad: list[Bad]
    checked: int
    of: int
    graders: dict[str, str]
    """The rewards that tell right from wrong here -> the form of an answer that they read."""
    seconds: float

    @property
    def whole(self) -> bool:
        """Whether all were checked by a reward that looks at the answer, and none was bad."""
        return bool(self.graders) and not self.bad and self.checked == self.of

    def remarks(self) -> list[str]:
        """What a person should know about it."""
        by = ", ".join(f"{name} reads them {form}" for name, form in self.graders.items())
        part = "" if self.checked == self.of else f" of {self.of:,}, and not the others,"
        lines = [f"golds: {self.checked:,} problems{part} checked in {self.seconds:.1f} s; {by or NO_GRADER}"]
        return lines + [f"golds: {len(self.bad):,} problems dropped; the first is {one}" for one in self.bad[:1]]

    def record(self) -> dict[str, Any]:
        """The same for a file."""
        return {
            "checked": self.checked,
            "of": self.of,
            "graders": self.graders,
            "dropped": [str(one) for one in self.bad],
        }


NO_GRADER = "no reward tells a problem's own answer from another one's, so what they say of it is not known"


def check_golds(
    scorer: Scorer,
    problems: Sequence[Problem],
    tags: Tags = USUAL,
    allowed: float = ALLOWED,
    most: int = MOST,
    where: str = "data",
) -> Golds:
    """The problems whose own answer earns full marks from every reward that decides something; `most` are checked.

    `tags` are the chat's, and `where` is what a person calls these problems. Raises DataError when more than the share `allowed` of those is bad, RewardError when a reward fails beyond its budget.
    """
    began = time.perf_counter()
    count = min(most, len(problems))
    chosen = [number * len(problems) // count for number in range(count)]
    check = _Check(scorer, problems, tags)
    check.find_out(chosen[:: max(1, count // PROBED)][:PROBED])
    bad = check.bad_among(chosen)
    if len(bad) > allowed * count:
        raise DataError(f"{where}: {_refusal(list(bad.values()), count, allowed)}")
    kept = [problem for number, problem in enumerate(problems) if number not in bad]
    forms = {name: form for name, (form, _) in check.graders.items()}
    return Golds(kept, list(bad.values()), count, len(problems), forms, time.perf_counter() - began)


def _refusal(bad: Sequence[Bad], count: int, allowed: float) -> str:
    listed = "".join(f"\n  {one}" for one in bad[:5])
    return (
        f"of {count:,} problems, {len(bad):,} cannot be trained or measured on, more than {allowed:.0%}: their own answer "
        f"does not earn full marks, or a wrong one has no verdict{listed}\n"
        "Is it the right column (columns:, answer_after:), and the right reward with the right arguments? "
        "`aha rewards check` tells more; bad_rows: of the data raises the limit"
    )


class _Check:
    """The problems, under the rewards of one scorer."""

    def __init__(self, scorer: Scorer, problems: Sequence[Problem], tags: Tags):
        self._scorer, self._problems, self._tags = scorer, problems, tags
        self.graders: dict[str, tuple[str, float]] = {}
        """Reward -> the form in which it reads an answer, and its full marks."""

    def find_out(self, probe: Sequence[int]) -> None:
        """Which rewards are graders: to most problems' own answers they give the same, and less to another one.

        A reward that looks at something else in the text (digits, say) differs too, but in both directions.
        """
        best: dict[str, tuple[int, float]] = {}
        for form in self._forms(probe):
            pairs = [(own.verdicts, other.verdicts) for _, own, other in self._judged(probe, form, on_trial=True)]
            if all(own[name].failed for own, _ in pairs for name in own):
                return  # the deadline, or an import: it is the same in every form
            for name in self._scorer.decisive:
                known = [(own[name].value, other[name].value) for own, other in pairs]
                apart = [own - other for own, other in known if own is not None and other is not None]
                full = max((own for own, _ in known if own is not None), default=0.0)
                right = sum(
                    own is not None and own > full - EVEN and (other or 0.0) < full - EVEN for own, other in known
                )
                turned = sum(difference < -EVEN for difference in apart)
                if 2 * right >= len(probe) and 8 * turned <= len(probe) and (right, full) > best.get(name, (0, 0.0)):
                    best[name] = right, full
                    self.graders[name] = form, full

    def bad_among(self, numbers: Sequence[int]) -> dict[int, Bad]:
        """The bad problems by their number. What fails in one form is tried in the others."""
        read = {name: self.graders.get(name, ("in an answer tag", 0.0))[0] for name in self._scorer.decisive}
        complaints = {
            (number, name): complaint
            for form in sorted(set(read.values()))
            for number, own, other in self._judged(numbers, form)
            for name in read
            if read[name] == form and (complaint := self._complaint(name, own.verdicts[name], other.verdicts[name]))
        }
        suspects = sorted({number for number, _ in complaints})
        for form in self._forms(suspects):
            for number, own, other in self._judged(suspects, form, on_trial=True):
                for name in read:
                    if not self._complaint(name, own.verdicts[name], other.verdicts[name]):
                        complaints.pop((number, name), None)
        return {number: Bad(self._problems[number], name, words) for (number, name), words in complaints.items()}

    def _complaint(self, name: str, own: Verdict, other: Verdict) -> str:
        """What a reward has against a problem, in words; empty when nothing."""
        if own.value is None:
            return f"no verdict: {own.reason}"
        if name not in self.graders:
            return ""
        full = self.graders[name][1]
        if own.value < full - EVEN:
            return f"{own.value:g}, not {full:g}: {own.reason}"
        return f"no verdict on a wrong answer: {other.reason}" if other.value is None and not other.failed else ""

    def _forms(self, numbers: Sequence[int]) -> list[str]:
        shown = all(self._problems[number].meta.get("completion") for number in numbers)
        return [form for form in FORMS if form != AS_ITS_ROW or shown] if numbers else []

    def _judged(
        self, numbers: Sequence[int], form: str, on_trial: bool = False
    ) -> Iterator[tuple[int, Judged, Judged]]:
        """(problem's number, what its own answer earns, what another one's does)."""
        for start in range(0, len(numbers), CHUNK):
            few = numbers[start : start + CHUNK]
            asked = [self._problems[number] for number in few]
            given = [*asked, *(self._mistaken(number) for number in few)]
            judged = self._scorer.score([self._completion(one, form) for one in given], asked * 2, 1, on_trial)
            yield from zip(few, judged[: len(few)], judged[len(few) :], strict=True)

    def _completion(self, problem: Problem, form: str) -> Completion:
        return Completion(FORMS[form](problem, self._tags), SHORT, think=self._tags.think, answer=self._tags.answer)

    def _mistaken(self, number: int) -> Problem:
        """The problem as somebody sees it who answers wrongly: with the answer of one of the next."""
        problem = self._problems[number]
        for step in range(1, 9):
            other = self._problems[(number + step) % len(self._problems)]
            if other.answer != problem.answer:
                return replace(other, prompt=problem.prompt)
        answer = next(answer for answer in OPTIONS if answer != problem.answer)
        return replace(problem, answer=answer, meta={})
