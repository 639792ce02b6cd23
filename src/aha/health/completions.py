"""The rules that read the newest rollouts: what the policy wrote, and what the rewards said of it."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator

from aha.health.curves import SOLVED, keep_exploring
from aha.health.evidence import LATELY, Diagnosis, Evidence, Row, number, span

Diagnoses = Iterator[Diagnosis]

SAME = 0.05
"""Share of a group that differs from the rest of it, 0 when all its completions are one text. Ours: at 0.05 two groups
of eight in three are one text, and there is nothing to compare."""
FULL = 1.0
"""Full marks of a reward that grades outcomes."""
ANSWERS, SUSPECTS = 3, 0.02
"""Different right answers that one text has "given", and its share of the completions. One text can be right for two
problems by chance of a re-worded answer; for three it is the grader."""
UNJUDGED, MOSTLY_UNJUDGED = 0.1, 0.5
"""Share of completions without a total. They leave the batch, so what is trained on is a selection of the grader's."""
REPEATED = 0.05
"""Share of groups whose prompt stands in the data more than once."""


def dead_reward(evidence: Evidence) -> Diagnoses:
    """A reward that says the same of every completion, or nothing of any.

    A shaping reward that is constant may be a guard that is kept (a format learned, a penalty never drawn): only the
    outcome, and the total, have to tell completions apart.
    """
    if len(evidence.steps) < LATELY:
        return
    where, count = span(evidence.steps), len(evidence.rollouts)
    silent = [name for name in evidence.weights if not any(value is not None for value in evidence.values(name))]
    for name in silent:
        yield Diagnosis(
            "dead-reward",
            "severe",
            f"{name} judged none of the {count} completions of {where}; mostly: {evidence.reasons(name, judged=False)}",
            ("grpo", "rewards", name),
            "see its reasons in rollouts/: it declines everything, so nothing is learned from it",
        )
    if silent:
        return
    outcome = {value for value in evidence.values(evidence.outcome) if value is not None}
    totals = {value for row in evidence.rollouts if (value := number(row.get("reward"))) is not None}
    if len(outcome) == 1 or len(totals) == 1:
        name, only = (evidence.outcome, outcome) if len(outcome) == 1 else ("the total", totals)
        value = only.pop()
        reason = evidence.reasons(evidence.outcome, judged=True)
        yield Diagnosis(
            "dead-reward",
            "severe",
            f"{name} was {value:g} for all {count} completions of {where}; mostly: {reason}",
            ("grpo", "rewards", evidence.outcome),
            "every completion passes: is the grader strict enough, and the data hard enough?"
            if value >= FULL
            else "nothing passes: see its reasons in rollouts/ (a format never taught, another spelling of the "
            "answers, problems out of reach), or turn to easier grpo.data",
        )


def few_distinct(evidence: Evidence) -> Diagnoses:
    """Entropy collapse, seen in the text: TRL's path through Liger's fused loss logs no entropy."""
    if evidence.curve("entropy") or len(evidence.steps) < LATELY:
        return
    shares = [(_distinct(group) - 1) / (len(group) - 1) for group in evidence.groups if len(group) > 1]
    if not shares or statistics.fmean(shares) > SAME or evidence.correct is None or evidence.correct >= SOLVED:
        return
    texts = statistics.fmean(_distinct(group) for group in evidence.groups)
    yield Diagnosis(
        "entropy-collapse",
        "severe",
        f"a group of {evidence.grpo.group_size} holds {texts:.1f} different completions on average, {span(evidence.steps)}, "
        f"at a mean {evidence.outcome} of {evidence.correct:.2f} (judged by the texts: entropy is not logged)",
        *keep_exploring(evidence),
    )


def _distinct(group: list[Row]) -> int:
    return len({str(row.get("completion")) for row in group})


def one_text_fits_all(evidence: Evidence) -> Diagnoses:
    """The same completion has full marks for problems with different answers."""
    answers: dict[str, set[str]] = {}
    counts: Counter[str] = Counter()
    for row, value in zip(evidence.rollouts, evidence.values(evidence.outcome), strict=True):
        if value is not None and value >= FULL:
            text = str(row.get("completion")).strip()
            answers.setdefault(text, set()).add(str(row.get("answer")))
            counts[text] += 1
    suspects = [text for text, given in answers.items() if len(given) >= ANSWERS]
    earned = sum(counts[text] for text in suspects)
    if suspects and earned >= SUSPECTS * len(evidence.rollouts):
        worst = max(suspects, key=lambda text: counts[text])
        yield Diagnosis(
            "reward-hack",
            "severe",
            f"{earned} of {len(evidence.rollouts)} completions, {span(evidence.steps)}, have full marks of {evidence.outcome} "
            f"with a text that has them for other answers too; one text for {len(answers[worst])} answers: {worst[-80:]!r}",
            ("grpo", "rewards", evidence.outcome),
            "the grader can be satisfied without the answer: test it on that text",
        )


def unjudged(evidence: Evidence) -> Diagnoses:
    """Completions that leave the batch because a reward could not judge them."""
    missing = sum(number(row.get("reward")) is None for row in evidence.rollouts)
    if len(evidence.steps) < LATELY or missing < UNJUDGED * len(evidence.rollouts):
        return
    declined = {name: sum(value is None for value in evidence.values(name)) for name in evidence.weights}
    name = max(declined, key=lambda name: declined[name])
    reason = evidence.reasons(name, judged=False)
    yield Diagnosis(
        "unjudged",
        "severe" if missing >= MOSTLY_UNJUDGED * len(evidence.rollouts) else "warn",
        f"{missing} of {len(evidence.rollouts)} completions of {span(evidence.steps)} had no verdict; "
        f"{name} declined {declined[name]}, mostly: {reason}",
        ("grpo", "reward_deadline") if "deadline" in reason else ("grpo", "rewards", name),
        f"raise it from {evidence.grpo.reward_deadline:g} s, or make the reward quicker"
        if "deadline" in reason
        else "let it judge these, or take the problems it cannot judge out of grpo.data",
    )


def duplicate_prompts(evidence: Evidence) -> Diagnoses:
    """One question under several ids, or twice in one step. The loader drops exact copies; these differ in
    case, spacing or the last stop, as the same question from two sources may."""
    ids: dict[str, set[str]] = {}
    seen: Counter[tuple[str, str]] = Counter()
    for group in evidence.groups:
        text = _bare(str(group[0].get("prompt")))
        ids.setdefault(text, set()).add(str(group[0].get("problem_id")))
        seen[text, str(group[0].get("step"))] += len(group)
    size = evidence.grpo.group_size
    twice = {text for text, names in ids.items() if len(names) > 1} | {
        text for (text, _), n in seen.items() if n > size
    }
    repeated = [group for group in evidence.groups if _bare(str(group[0].get("prompt"))) in twice]
    if repeated and len(repeated) >= REPEATED * len(evidence.groups):
        first = repeated[0][0]
        yield Diagnosis(
            "duplicate-prompts",
            "warn",
            f"{len(repeated)} of {len(evidence.groups)} groups, {span(evidence.steps)}, ask a question that the data hold "
            f"more than once, for example {sorted(ids[_bare(str(first.get('prompt')))])[:3]}: {str(first.get('prompt'))[:80]!r}",
            ("grpo", "data"),
            "take the copies out: they weigh double, and may stand in the evaluation too",
        )


def _bare(prompt: str) -> str:
    """A prompt without its case, spacing and last stop; the signs inside it may be a formula's, and stay."""
    return " ".join(prompt.casefold().split()).rstrip(" .?")


COMPLETION_RULES = (dead_reward, few_distinct, one_text_fits_all, unjudged, duplicate_prompts)
