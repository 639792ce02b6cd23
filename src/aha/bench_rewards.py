r"""How fast answers are verified, and how rightly, against what others do with the same text: `aha bench-rewards`.

Three graders judge the same completions in one run: our `math_answer` through the whole path of a training run (a
`Scorer` with its worker processes), TRL's `accuracy_reward`, and a plain loop over math-verify. The completions are made
here, so the truth is known. There are two kinds: *easy* ones end in an integer, a decimal or an amount of money, like
GSM8K; *hard* ones in LaTeX whose equality has to be worked out. Every repetition is of fresh completions, so that no
memo knows them, and the graders take turns. Within a group answers recur, as they do in training: of eight about five
are different. A figure is the median of the repetitions; the ratios are what can be compared between machines.

    python -m aha.bench_rewards FOLDER      writes figures.json there, and metrics.jsonl while it works
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from aha.rewards.scorer import Scorer
from aha.rundir import write_json
from aha.types import Completion, Problem

REPEATS = 9
GROUP = 8
PROBLEMS = {"easy": 24, "hard": 16}
"""Problems of one repetition, with GROUP completions each."""
STEPS = len(PROBLEMS) * (REPEATS + 1)

Grade = Callable[[Sequence[Completion], Sequence[Problem]], list[float | None]]


class Question(NamedTuple):
    """A reference, and other spellings of it and of something else."""

    gold: str
    right: tuple[str, ...]
    wrong: tuple[str, ...]


class Batch(NamedTuple):
    completions: list[Completion]
    problems: list[Problem]
    truth: list[float]


Figures = dict[str, dict[str, dict[str, Any]]]
"""kind → grader → {answers_per_second, slowest, fastest, right: share of verdicts that are the known truth}."""


def measure(tell: Callable[[int], None] = lambda step: None) -> Figures:
    """Every kind of completion under every grader; `tell` hears of each of the STEPS."""
    found: Figures = {}
    with Scorer({"math_answer": 1.0}, workers=2) as two, Scorer({"math_answer": 1.0}, workers=1) as one:
        graders: dict[str, Grade] = {
            "aha, 2 workers": lambda *batch: _scored(two, *batch),
            "aha, 1 worker": lambda *batch: _scored(one, *batch),
            "TRL accuracy_reward": _trl,
            "math-verify, serial": _math_verify,
        }
        for number, kind in enumerate(PROBLEMS):
            before = number * (REPEATS + 1)
            found[kind] = _compare(kind, graders, lambda repeat, before=before: tell(before + repeat))  # type: ignore[misc]
    return found


def _compare(kind: str, graders: dict[str, Grade], tell: Callable[[int], None]) -> dict[str, dict[str, Any]]:
    speeds: dict[str, list[float]] = {name: [] for name in graders}
    right: dict[str, int] = dict.fromkeys(graders, 0)
    total = 0
    for repeat in range(REPEATS + 1):  # the first is the warm-up
        batch = make_batch(kind, random.Random(f"{kind} {repeat}"))
        for name, grade in graders.items():
            began = time.perf_counter()
            values = grade(batch.completions, batch.problems)
            seconds = time.perf_counter() - began
            if repeat:
                speeds[name].append(len(values) / seconds)
                right[name] += sum(value == truth for value, truth in zip(values, batch.truth, strict=True))
        total += len(batch.truth) if repeat else 0
        tell(repeat + 1)
    return {name: _figures(speeds[name], right[name] / total) for name in graders}


def _figures(speeds: list[float], right: float) -> dict[str, Any]:
    return {
        "answers_per_second": statistics.median(speeds),
        "slowest": min(speeds),
        "fastest": max(speeds),
        "right": right,
    }


# --- graders -------------------------------------------------------------------------------------------------------


def _scored(scorer: Scorer, completions: Sequence[Completion], problems: Sequence[Problem]) -> list[float | None]:
    return [judged.total for judged in scorer.score(completions, problems, GROUP)]


def _trl(completions: Sequence[Completion], problems: Sequence[Problem]) -> list[float | None]:
    """With references in dollars: bare LaTeX is misread (`2\\sqrt{3}` as 2)."""
    from trl.rewards import accuracy_reward

    messages = [[{"role": "assistant", "content": completion.text}] for completion in completions]
    values: list[float | None] = accuracy_reward(messages, [f"${problem.answer}$" for problem in problems])
    return values


def _math_verify(completions: Sequence[Completion], problems: Sequence[Problem]) -> list[float | None]:
    from math_verify import parse, verify

    pairs = zip(completions, problems, strict=True)
    return [float(verify(parse(f"${problem.answer}$"), parse(completion.text))) for completion, problem in pairs]


# --- completions ---------------------------------------------------------------------------------------------------

_SENTENCES = (
    "Let us see what is given: {a} of the first kind and {b} of the second.",
    "If each of the {a} parts takes {b} steps, the total has to be found first.",
    "We write this down as ${a} + {b}$, and keep the result for later.",
    "Then the rest is what remains after taking {b} away from {a}.",
    "It helps to check: {a} times {b} is what we would get the other way round.",
    "So far everything fits, and the second condition has not been used yet.",
    "Putting $x = {a}$ into the equation leaves one unknown, $y$.",
    "This cannot be negative, so the other case, ${a} < {b}$, falls away.",
)


def make_batch(kind: str, rng: random.Random) -> Batch:
    """Groups of GROUP completions: a few hundred tokens of reasoning, then an answer, right in about half of them."""
    batch = Batch([], [], [])
    for number in range(PROBLEMS[kind]):
        question = _easy(rng) if kind == "easy" else rng.choice(_HARD)(rng)
        for _ in range(GROUP):
            is_right = rng.random() < 0.5
            answer = rng.choice(question.right if is_right else question.wrong)
            text = f"<think>{_reasoning(rng)}</think>\n{_reasoning(rng, 4)} So the answer is $\\boxed{{{answer}}}$."
            batch.completions.append(Completion(text))
            batch.problems.append(Problem("?", question.gold, f"{kind}-{number}"))
            batch.truth.append(float(is_right))
    return batch


def _reasoning(rng: random.Random, sentences: int = 16) -> str:
    return " ".join(rng.choice(_SENTENCES).format(a=rng.randint(2, 99), b=rng.randint(2, 99)) for _ in range(sentences))


def _easy(rng: random.Random) -> Question:
    kind, value = rng.choice(("integer", "decimal", "money")), rng.randint(2, 20_000)
    other = value + rng.choice((-1, 1, 10))
    if kind == "integer":
        return Question(str(value), (str(value), f"{value:,}", f"{value}.0"), (str(other), f"{other:,}", f"-{value}"))
    cents = rng.randint(1, 9) * 10
    right, wrong = f"{value}.{cents}", f"{other}.{cents}"
    if kind == "decimal":
        return Question(right, (right, right.rstrip("0")), (wrong, str(value)))
    return Question(right, (rf"\${right}", rf"\${value:,}.{cents}", right), (rf"\${wrong}", str(value)))


def _fraction(rng: random.Random) -> Question:
    a, b, k = rng.randint(2, 40), rng.choice((3, 7, 11, 13, 17)), rng.randint(2, 9)
    a += a % b == 0
    right = (rf"\frac{{{a}}}{{{b}}}", rf"\dfrac{{{a * k}}}{{{b * k}}}", f"{a}/{b}")
    return Question(right[0], right, (rf"\frac{{{b}}}{{{a}}}", rf"\frac{{{a + 1}}}{{{b}}}", f"{a}"))


def _root(rng: random.Random) -> Question:
    a, b = rng.randint(2, 12), rng.choice((2, 3, 5, 6, 7))
    right = (rf"{a}\sqrt{{{b}}}", rf"\sqrt{{{a * a * b}}}", rf"\frac{{{a * b}}}{{\sqrt{{{b}}}}}")
    return Question(right[0], right, (rf"{a + 1}\sqrt{{{b}}}", rf"\sqrt{{{a * b + 1}}}", rf"{b}\sqrt{{{a * a + 1}}}"))


def _set(rng: random.Random) -> Question:
    a, b, c = rng.sample(range(-20, 20), 3)
    right = (rf"\{{{a}, {b}, {c}\}}", rf"\{{{c}, {a}, {b}\}}", rf"\left\{{{b},{a},{c}\right\}}")
    return Question(right[0], right, (rf"\{{{a}, {b}\}}", rf"\{{{a}, {b}, {c + 40}\}}"))


def _interval(rng: random.Random) -> Question:
    a, b = rng.randint(-20, 0), rng.randint(1, 20)
    right = (
        rf"(-\infty,{a})\cup[{b},\infty)",
        rf"[{b},\infty)\cup(-\infty,{a})",
        rf"(-\infty, {a}) \cup [{b}, +\infty)",
    )
    return Question(right[0], right, (rf"(-\infty,{a}]\cup[{b},\infty)", rf"(-\infty,{a})\cup[{b + 1},\infty)"))


def _matrix(rng: random.Random) -> Question:
    a, b, c, d = (rng.randint(-9, 9) for _ in range(4))
    right = tuple(rf"\begin{{{env}}}{a} & {b} \\ {c} & {d}\end{{{env}}}" for env in ("pmatrix", "bmatrix"))
    wrong = (rf"\begin{{pmatrix}}{a} & {b} \\ {c} & {d + 1}\end{{pmatrix}}",)
    return Question(right[0], right, wrong)


def _polynomial(rng: random.Random) -> Question:
    a, b = rng.randint(1, 9), rng.randint(1, 9)
    right = (f"x^2+{a + b}x+{a * b}", f"(x+{a})(x+{b})", f"x(x+{a + b})+{a * b}")
    return Question(right[0], right, (f"(x-{a})(x+{b})", f"x^2+{a + b}x-{a * b}"))


def _identity(rng: random.Random) -> Question:
    a, b = rng.randint(2, 9), rng.randint(2, 9)
    right = (rf"{a}\cos(2x)+{b}", rf"{a + b}-{2 * a}\sin^2 x", rf"{2 * a}\cos^2 x+{b - a}".replace("+-", "-"))
    return Question(right[0], right, (rf"{a}\sin(2x)+{b}", rf"{a + b}-{2 * a}\cos^2 x"))


def _logarithm(rng: random.Random) -> Question:
    a, b = rng.choice((2, 3, 5, 7)), rng.randint(2, 5)
    right = (rf"{b}\ln {a}+1", rf"\ln({a**b})+1", rf"1+\ln {a}+{b - 1}\ln {a}")
    return Question(right[0], right, (rf"{b + 1}\ln {a}+1", rf"\ln({a**b + 1})+1"))


_HARD = (_fraction, _root, _set, _interval, _matrix, _polynomial, _identity, _logarithm)


def main(folder: Path) -> None:
    """Measure, say in `folder` how far it is, and leave the figures there."""
    write_json(folder / "config.json", {"steps": STEPS})

    def tell(step: int) -> None:
        with (folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": step}) + "\n")

    write_json(folder / "figures.json", measure(tell))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
