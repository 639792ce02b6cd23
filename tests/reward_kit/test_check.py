"""The check passes what is sound, and catches every reward here, each of which is bad in a way that has been seen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aha.errors import RecipeError, RewardError
from aha.reward_kit.check import Finding, check_reward
from aha.reward_kit.problems import BUILTIN, problems_of
from aha.rewards.load import load_reward
from aha.types import Completion, Problem

pytestmark = pytest.mark.timeout(300)

OPENING = """
import json, math, random, re, time
from pathlib import Path
from aha.rewards.contract import Completion, Problem, Score, final_answer

def right(completion, problem):
    return float((final_answer(completion) or "") == problem.answer)
"""

BAD = {
    "random": ("def score(c, p): return random.random()", {"determinism"}),
    "counts its calls": ("calls = []\ndef score(c, p):\n calls.append(1)\n return right(c, p) + len(calls) % 2", {"order"}),
    "sees the batch": (
        "def bad(completions, answer, **_): return [float(a in c) - i for i, (c, a) in enumerate(zip(completions, answer))]",
        {"order"},
    ),
    "nan": ("def score(c, p): return right(c, p) if c.text.strip() else math.nan", {"finite values"}),
    "infinite": ("def score(c, p): return right(c, p) / len(c.text) if c.text else math.inf", {"finite values"}),
    "too few": ("def score_group(cs, p): return [right(c, p) for c in cs if c.text]", {"shape"}),
    "a number for all": ("def score_group(cs, p): return 1.0", {"shape"}),
    "raises always": ("def score(c, p): raise RuntimeError('boom')", {"exceptions", "verdicts"}),
    "raises on junk": ("def score(c, p): return right(c, p) if c.text.encode() else 0.0", {"exceptions"}),
    "exits": ("import os\ndef score(c, p): return right(c, p) if c.text else os._exit(0)", {"survival"}),
    "sleeps": ("def score(c, p): time.sleep(60)", {"deadline"}),
    "hangs on junk": ("def score(c, p):\n while len(c.text) > 200_000: pass\n return right(c, p)", {"deadline"}),
    "mutates": ("def score(c, p):\n p.meta['seen'] = True\n return right(c, p)", {"inputs"}),
    "empty text": ("def score(c, p): return 1.0 if not c.text.strip() else right(c, p)", {"empty text"}),
    "always": ("def score(c, p): return 1.0", {"signal"}),
    "huge": ("def score(c, p): return right(c, p) - len(c.text)", {"range"}),
    "out of its RANGE": ("RANGE = (0.0, 1.0)\ndef score(c, p): return 2 * right(c, p)", {"range"}),
    "substring": (
        "def score(c, p): return float(p.answer in c.text)",
        {"every option listed", "right in the reasoning only", "a wrong answer around it"},
    ),
    "last number": (
        "def score(c, p): return float((re.findall(r'-?\\\\d+', c.text) or [''])[-1] == p.answer)",
        {"many boxed answers", "every option listed", "right in the reasoning only"},
    ),
    "any box": ("def score(c, p): return float(f'\\\\\\\\boxed{{{p.answer}}}' in c.text)", {"many boxed answers", "right in the reasoning only"}),
    "believes": ("def score(c, p): return max(right(c, p), float('full marks' in c.text))", {"text that addresses the grader"}),
    "tags": ("def score(c, p): return max(right(c, p), float(c.text.count('<answer></answer>')))", {"tags without content"}),
    "prompt": ("def score(c, p): return max(right(c, p), float(p.prompt in c.text))", {"the prompt repeated"}),
    "long is good": ("def score(c, p): return right(c, p) + min(len(c.text) / 1e6, 1.0)", {"1 MB of junk"}),
    "runs the text": (
        "def score(c, p):\n try:\n  return float(eval(final_answer(c) or '') == int(p.answer))\n except Exception:\n  return 0.0",
        {"does not run the text", "code instead of an answer"},
    ),
    "runs all the text": ("def score(c, p):\n try: exec(c.text)\n except Exception: pass\n return right(c, p)", {"does not run the text"}),
    "shaping that pays for junk": ("def score(c, p): return min(len(c.text) / 1000, 1.0)", {"1 MB of junk"}),
    "a wrong answer is right": (
        "def score(c, p): return float((final_answer(c) or '') in (p.answer, '42'))",
        {"wrong answers"},
    ),
}  # fmt: skip


def check(
    path: str, deadline: float = 5.0, problems: list[Problem] | None = None, **arguments: object
) -> list[Finding]:
    return list(check_reward(path, arguments, problems, deadline))


def failed(findings: list[Finding]) -> dict[str, str]:
    return {finding.check: finding.text for finding in findings if finding.passed is False}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_reward_is_caught(name: str, tmp_path: Path) -> None:
    code, expected = BAD[name]
    path = tmp_path / "bad.py"
    path.write_text(OPENING + code.replace("\\\\", "\\") + "\n")
    found = failed(check(str(path), deadline=1.0))
    assert expected <= set(found), found


@pytest.mark.parametrize(
    ("name", "arguments", "kind"),
    [
        ("math_answer", {}, "a grader"),
        ("math_answer", {"require": "boxed"}, "a grader"),
        ("multiple_choice", {}, "a grader"),
        ("first_number", {}, "a grader"),
        ("countdown", {}, "a grader"),
        ("cosine_length", {"max_tokens": 500}, "a grader"),
        ("length_penalty", {}, "a grader"),
        ("think_format", {}, "a shaping reward"),
        ("tag_count", {}, "a shaping reward"),
        ("soft_overlong", {"max_tokens": 300, "cache": 200}, "a shaping reward"),
        ("repetition", {}, "a shaping reward"),
    ],
)
def test_the_library_passes(name: str, arguments: dict[str, object], kind: str) -> None:
    findings = check(name, **arguments)
    assert failed(findings) == {}
    assert kind in [finding.check for finding in findings]


def test_a_plain_trl_function_can_be_checked(tmp_path: Path) -> None:
    path = tmp_path / "plain.py"
    path.write_text(
        "def exact(completions, answer, **columns):\n"
        "    return [float(c[0]['content'].strip() == a) for c, a in zip(completions, answer)]\n"
    )
    findings = check(f"{path}:exact")
    assert failed(findings) == {} and "a grader" in [finding.check for finding in findings]


def test_a_reward_that_does_not_load_in_another_process(tmp_path: Path) -> None:
    path = tmp_path / "once.py"
    path.write_text(
        "assert 'aha.rewards.worker' not in open('/proc/self/cmdline').read(), 'not in a worker'\n"
        "def score(completion, problem): return 1.0\n"
    )
    (finding,) = check(str(path))
    assert finding.check == "loads" and finding.passed is False and "not in a worker" in finding.text


def test_a_reward_that_cannot_be_read_or_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("raise SystemExit(0)")
    with pytest.raises(RewardError, match="could not be read"):
        check(str(path))
    with pytest.raises(RecipeError, match="nearest   math_answer"):
        check("math_anser")


@pytest.mark.parametrize(
    "code", ["def score(c, p): return float(p.meta['tests'] == 1)", "def bad(completions, tests): return [0.0]"]
)
def test_a_reward_that_reads_other_columns_asks_for_data(code: str, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(code)
    with pytest.raises(RecipeError, match=r"DATA=rows\.jsonl") as asked:
        check(str(tmp_path / "bad.py"))
    assert "tests" in str(asked.value)
    with pytest.raises(RecipeError, match="which task it came from"):
        check("reasoning_gym")


def test_data_that_the_reward_cannot_read_are_named(tmp_path: Path) -> None:
    rows = [{"prompt": f"What is {n} + 1?", "answer": str(n + 1), "id": f"row-{n}"} for n in range(12)]
    rows[7]["answer"] = "\\frac{1}{"
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = failed(check("first_number", problems=problems_of(str(path))))
    assert "1 of 12" in found["right answers"] and "row-7" in found["right answers"]
    assert "exceptions" in found, "int() of that answer raises"


def test_a_row_may_bring_a_completion_that_deserves_full_marks(tmp_path: Path) -> None:
    """As for answers of which there are many: the reference says 16, the completion how to make it."""
    path = tmp_path / "rows.jsonl"
    rows = [{**problem.meta, "prompt": problem.prompt, "answer": problem.answer} for problem in BUILTIN["countdown"]]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    findings = check("countdown", problems=problems_of(str(path)))
    assert failed(findings) == {}
    assert any(finding.check == "a grader" and "as its row's completion" in finding.text for finding in findings)


def test_problems_of_a_recipe() -> None:
    assert problems_of("tiny") == problems_of("recipes/tiny.yaml")
    with pytest.raises(RecipeError, match=r"nearest   recipes/tiny\.yaml"):
        problems_of("tny")


def test_the_problems_of_the_house_are_right() -> None:
    for problem in BUILTIN["countdown"]:
        (score,) = load_reward("countdown", {}).score_group([Completion(problem.meta["completion"])], problem)
        assert score.value == 1.0, score
    for problem in BUILTIN["sums"]:
        left, right = (int(word.strip("?")) for word in problem.prompt.removeprefix("What is ").split(" + "))
        assert int(problem.answer) == left + right
