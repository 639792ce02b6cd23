"""Before the first step, every problem's own answer: what a grader misreads is dropped by name, and too much is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from aha.errors import DataError, RewardError
from aha.rewards.contract import Problem
from aha.rewards.golds import Golds, check_golds
from aha.rewards.honest import Tags
from aha.rewards.scorer import Scorer

MISREADING = r"""
import re

def misreading(completions, answer, **kwargs):
    '''Reads a reference up to its first sign that is no digit, as parsers of bare LaTeX do: `2\sqrt{3}` is 2.'''
    given = [re.findall(r"boxed{(.*)}", text) for text in completions]
    return [float(bool(boxes) and boxes[-1] == re.match(r"\d*", gold)[0]) for boxes, gold in zip(given, answer)]
"""


@pytest.fixture
def misreading(tmp_path: Path) -> str:
    path = tmp_path / "misreading.py"
    path.write_text(MISREADING)
    return str(path)


def problems(*answers: str, **meta: object) -> list[Problem]:
    return [Problem("?", answer, f"p{number}", meta) for number, answer in enumerate(answers)]


def checked(rewards: dict, problems: list[Problem], **options: object) -> Golds:
    with Scorer(rewards, workers=1, failure_budget=1.0) as scorer:
        return check_golds(scorer, problems, **options)  # type: ignore[arg-type]


NUMBERS = [str(number) for number in range(10, 210)]


def test_a_misread_reference_is_dropped_by_name(misreading: str) -> None:
    found = checked({misreading: 1.0}, problems(*NUMBERS, r"2\sqrt{3}"))
    assert [problem.answer for problem in found.kept] == NUMBERS
    (bad,) = found.bad
    assert (bad.problem.id, bad.reward) == ("p200", "misreading") and bad.reason.startswith("0, not 1")
    assert found.graders == {"misreading": "in a box in an answer tag"} and not found.whole
    assert "1 problems dropped; the first is p200" in found.remarks()[1] and r"2\\sqrt{3}" in found.remarks()[1]


def test_more_than_a_hundredth_is_refused(misreading: str) -> None:
    bad = problems(*NUMBERS, *[rf"{number}\sqrt{{3}}" for number in range(2, 5)])
    with pytest.raises(DataError, match=r"(?s)grpo.data: of 203 problems, 3 .* more than 1%.*p200 .*bad_rows"):
        checked({misreading: 1.0}, bad, where="grpo.data")
    assert len(checked({misreading: 1.0}, bad, allowed=0.02).bad) == 3


def test_what_decides_nothing_is_not_asked(misreading: str) -> None:
    bad = problems(*NUMBERS, *[rf"{number}\sqrt{{3}}" for number in range(2, 9)])
    assert checked({"math_answer": 1.0, misreading: 0.0}, bad).whole
    with pytest.raises(DataError, match="misreading"):
        checked({"math_answer": {"weight": 1.0, "only_if": misreading}, misreading: 0.0}, bad)


@pytest.mark.parametrize(
    ("rewards", "form"),
    [
        ({"math_answer": 1.0, "think_format": 0.2, "repetition": 0.1}, "in an answer tag"),
        ({"math_answer": {"weight": 1.0, "require": "boxed"}}, "in a box in an answer tag"),
        ({"first_number": 1.0}, "alone"),
        ({"cosine_length": {"weight": 1.0, "max_tokens": 100}}, "in an answer tag"),
        ({"trl.rewards:accuracy_reward": 1.0}, "in a box in an answer tag"),
    ],
)
def test_the_form_that_a_reward_reads_is_found_out(rewards: dict, form: str) -> None:
    found = checked(rewards, problems(*NUMBERS[:20]))
    assert list(found.graders.values()) == [form] and found.whole, found


def test_a_row_may_show_what_deserves_full_marks() -> None:
    rows = [
        Problem("?", str(target), f"p{target}", {"nums": [3, 4, 5], "target": target, "completion": completion})
        for target, completion in ((12, "<answer>3 + 4 + 5</answer>"), (35, "<answer>(3 + 4) * 5</answer>"))
    ]
    assert checked({"countdown": 1.0}, rows).graders == {"countdown": "as its row's completion"}


def test_tags_are_the_chats() -> None:
    tags = Tags(("<r>", "</r>"), ("<a>", "</a>"))
    found = checked({"math_answer": {"weight": 1.0, "require": "answer_tag"}}, problems(*NUMBERS[:20]), tags=tags)
    assert found.whole and found.graders == {"math_answer": "in an answer tag"}


def test_a_reward_that_does_not_look_at_the_answer_must_still_judge(tmp_path: Path) -> None:
    path = tmp_path / "picky.py"
    path.write_text(
        "def picky(completions, level, **kwargs): return [None if level[0] == 9 else 0.5 for _ in completions]"
    )
    rows = [Problem("?", "5", f"p{number}", {"level": number % 100}) for number in range(200)]
    found = checked({str(path): 1.0}, rows)
    assert [bad.problem.id for bad in found.bad] == ["p9", "p109"] and "returned None" in found.bad[0].reason
    assert not found.graders and "no reward tells" in found.remarks()[0]


def test_a_reward_that_looks_at_other_things_in_the_text_is_no_grader(tmp_path: Path) -> None:
    path = tmp_path / "odd.py"
    path.write_text(
        "def digits(completions, **kwargs): return [sum(map(str.isdigit, text)) / len(text) for text in completions]\n"
        "def sevens(completions, **kwargs): return [float('7' in text.split('So it')[-1]) for text in completions]\n"
    )
    rows = problems(*(str(number * number) for number in range(200)))
    assert checked({f"{path}:digits": 1.0, f"{path}:sevens": 1.0}, rows).graders == {}


STRICT = """
import re

def strict(completions, answer, **kwargs):
    '''Raises when there is no tag, as many do.'''
    return [float(re.search("<answer>(.*)</answer>", text)[1] == gold) for text, gold in zip(completions, answer)]
"""


def test_a_reward_that_raises_in_a_form_that_it_does_not_read(tmp_path: Path) -> None:
    path = tmp_path / "strict.py"
    path.write_text(STRICT)
    with Scorer({str(path): 1.0}, workers=1, failure_budget=0.05) as scorer:
        assert check_golds(scorer, problems(*NUMBERS)).graders == {"strict": "in an answer tag"}


def test_a_reward_that_always_raises_is_named_before_the_first_step(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("def broken(completions, **kwargs): return [kwargs['no_such_column']]")
    said = r"(?s)broken.py failed on 400 of 400 .*KeyError: 'no_such_column'"
    with Scorer({str(path): 1.0}, failure_budget=0.05) as scorer, pytest.raises(RewardError, match=said):
        check_golds(scorer, problems(*NUMBERS))


def test_a_reference_that_can_only_be_recognised_is_bad() -> None:
    unreadable = r"\frac{1}{\lceil x"
    found = checked({"math_answer": 1.0}, problems(*NUMBERS, unreadable))
    assert [bad.problem.answer for bad in found.bad] == [unreadable]
    assert found.bad[0].reason.startswith("no verdict on a wrong answer: the reference cannot be read")


def test_of_very_many_a_part_is_checked_and_that_is_said() -> None:
    found = checked({"math_answer": 1.0}, problems(*NUMBERS), most=50)
    assert (found.checked, found.of, len(found.kept), found.whole) == (50, 200, 200, False)
    assert found.remarks()[0].startswith("golds: 50 problems of 200, and not the others, checked in ")
    assert found.record() == {"checked": 50, "of": 200, "graders": {"math_answer": "in an answer tag"}, "dropped": []}
