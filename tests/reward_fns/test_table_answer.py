"""Numbers as rounded, lists in any order, text up to its spelling; and none of the ways to be nearly right."""

from __future__ import annotations

import pytest

from aha.errors import RecipeError
from aha.rewards.contract import Completion, Problem, Score
from aha.rewards.load import load_reward


def judge(answer: str, reference: str, **params: object) -> Score:
    completion = Completion(f"<think>hm</think><answer>{answer}</answer>")
    return load_reward("table_answer", params).score_group([completion], Problem("?", reference, "p"))[0]


LONG = "Customers in the northern region prefer the premium plan over the basic plan"


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("5", "5"),
        ("5.0", "5"),
        ("3.14159", "3.14"),
        ("3.145", "3.14"),
        ("3.1", "3.10"),
        ("0.5", ".50"),
        ("-5.25", "−5.25"),
        ("$1,234.50", "1234.5"),
        ("1 234.5 EUR", "€1,234.50"),
        ("USD 5", "$5.00"),
        ("-$5", "$-5"),
        ("\\$5.00", "5"),
        ("25%", "25"),
        ("25", "25 %"),
        ("25 percent", "25\\%"),
        ("5 kg", "5"),
        ("5", "5 apples"),
        ("5 apple", "5 Apples."),
        ("1.5e3", "1500"),
        ("5 million", "5 million"),
        ("\\boxed{1,234}", "1234"),
        ("A, B, C", "C, A, B"),
        ("a; b; c", "C, A, B"),
        ("['NL', 'BE', 'FR']", "FR, NL, BE"),
        ("Crossfit, Gym, and Yoga", "yoga, gym, crossfit"),
        ("5.014, 5.03", "5.0, 5.01"),
        ("2; 1,234", "1,234; 2.00"),
        ("Paris: 5; Rome: 7", "Rome: 7; Paris: 5"),
        ("the Netherlands", "Netherlands"),
        ("Not applicable.", "Not Applicable"),
        ("e-commerce", "E‐Commerce"),
        (LONG.replace("premium", "premiun"), LONG),
        ("A", "A"),
        ("nan", "NaN"),
    ],
)
def test_right(answer: str, reference: str) -> None:
    assert judge(answer, reference).value == 1.0
    assert judge(reference, reference).value == 1.0


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("", "5"),
        ("5.4", "5"),
        ("3", "3.14"),
        ("3.1", "3.14"),
        ("3.146", "3.14"),
        ("0", "0.4"),
        ("0.25", "25%"),
        ("5 USD", "5 EUR"),
        ("5 kg", "5 km"),
        ("5 million", "5"),
        ("5", "5 million"),
        ("5k", "5"),
        ("5 or 6", "5"),
        ("5, 6, 7", "5"),
        ("15", "5"),
        ("nan", "5"),
        ("inf", "5"),
        ("5", "nan"),
        ("1e999999", "5"),
        ("-5", "5"),
        ("A, B", "A, B, C"),
        ("A, B, C, D", "A, B, C"),
        ("A, A, B", "A, B, B"),
        ("A B C", "A, B, C"),
        ("5.03, 5.04", "5.0, 5.01"),
        ("Net", "Netherlands"),
        ("Netherlands, Belgium, France", "Netherlands"),
        ("It may be the Netherlands or Belgium", "Netherlands"),
        ("Option B", "Option A"),
        ("Option", "Option A"),
        ("Q2 2023", "Q1 2023"),
        ("yes", "no"),
        (LONG.replace(" prefer", " never prefer"), LONG),
        (LONG + " " + LONG, LONG),
        ("C", "C++"),
        ("> 5 of those", "< 5 of those"),
    ],
)
def test_wrong(answer: str, reference: str) -> None:
    assert judge(answer, reference).value == 0.0


def test_a_thousand_and_a_list() -> None:
    assert judge("1,234", "1234").value == 1.0
    assert judge("234; 1", "1, 234").value == 1.0
    assert judge("1,234", "1, 234").value == 0.0


def test_references_with_commas_can_stand_as_they_are() -> None:
    assert judge("France, Paris", "Paris, France").value == 1.0
    assert judge("France, Paris", "Paris, France", lists=False).value == 0.0
    assert judge("paris, france", "Paris, France", lists=False).value == 1.0


def test_the_very_words_can_be_demanded() -> None:
    claim = "it is possible that the northern region prefers the premium plan"
    assert judge(claim.replace("possible", "impossible"), claim).value == 1.0
    assert judge(claim.replace("possible", "impossible"), claim, similarity=1.0).value == 0.0


def test_no_verdict() -> None:
    assert judge("5", " ").value is None
    assert judge("5", "; ".join(map(str, range(201)))).value is None


def test_the_answer_must_be_given() -> None:
    reward = load_reward("table_answer", {"require": "answer_tag"})
    assert reward.score_group([Completion("5")], Problem("?", "5", "p"))[0] == Score(0.0, "no answer given")
    with pytest.raises(RecipeError, match=r"similarity from 0\.5"):
        load_reward("table_answer", {"similarity": 0.1})


@pytest.mark.parametrize("piece", ["1,", "1 ", "$", "9", ";", "a, ", "'", "the ", "(" * 9, "\ud800\x00", "1,234"])
@pytest.mark.parametrize("reference", ["5", "1, 2", LONG])
def test_hostile_answers_are_wrong(piece: str, reference: str) -> None:
    assert judge(piece * (9_000 // len(piece)), reference).value == 0.0
    assert judge(piece * (1_000_000 // len(piece)), reference).value == 0.0


def test_long_lists_of_likely_words() -> None:
    items = [f"item {number:04} of the northern region" for number in range(200)]
    assert judge("; ".join(reversed(items)), "; ".join(items)).value == 1.0
