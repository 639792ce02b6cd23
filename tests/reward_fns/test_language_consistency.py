"""The share of words in the wanted script, whatever stands in formulas and code."""

from __future__ import annotations

import pytest

from aha.errors import RecipeError
from aha.rewards.contract import Completion, Problem
from aha.rewards.load import load_reward


def judge(text: str, script: str = "latin", **completion: str) -> float | None:
    reward = load_reward("language_consistency", {"script": script})
    return reward.score_group([Completion(text, **completion)], Problem("?", "5", "p"))[0].value


@pytest.mark.parametrize(
    ("script", "text"),
    [
        ("latin", "We add 2 and 3, so x = 5."),
        ("latin", "Être ou ne pas être: voilà la réponse"),
        ("latin", "The angle α is π/2, and Σ f(x) dx ≤ 5 µm"),
        ("latin", "It costs $5, he said, and a ` alone is no code"),
        ("han", "我们把两个数相加,得到 $\\frac{abc}{def} + \\text{cm}$ 等于 x。"),
        ("han", "代码:```python\nprint('hello world')\n```结束"),
        ("han", "\\begin{align} 设 \\alpha 为角 \\text{cm} \\end{align}"),
        ("japanese", "これは漢字とカタカナです"),
        ("korean", "두 수를 더하면 다섯이다"),
        ("cyrillic", "Сложим два и три, получим 5"),
        ("arabic", "نجمع العددين فنحصل على خمسة"),
        ("devanagari", "दो और तीन को जोड़ने पर पाँच"),
        ("thai", "เราบวกสองกับสาม"),
        ("greek", "προσθέτουμε δύο και τρία"),
        ("hebrew", "נחבר שתיים ושלוש"),
        ("latin", "Ｗｅ ａｄｄ ｔｈｅｍ"),
    ],
)
def test_one_language_is_full_marks(script: str, text: str) -> None:
    assert judge(f"<think>{text}</think><answer>5</answer>", script) == 1.0


def test_the_share_of_words() -> None:
    assert judge("we add two and 等于五是的 so") == pytest.approx(5 / 8)
    assert judge("we add 等于五是的", "han") == pytest.approx(3 / 5)
    assert judge("мы add", "cyrillic") == pytest.approx(1 / 2)


def test_nothing_is_hidden_in_formulas_and_code() -> None:
    assert judge("we add $我们把两个数$ and `我们把两个数` so") == pytest.approx(4 / 10)
    assert judge("we add \\(我们把两个数 then go") == pytest.approx(4 / 7)


def test_only_the_thinking_is_read() -> None:
    assert judge("我们把两个数</think>The answer is five") == 0.0
    assert judge("add them</think>答案是五") == 1.0
    assert judge("我们相加<think>add them</think>") == pytest.approx(2 / 4)
    assert judge("add them", prompt_tail="<think>\n") == 1.0
    assert judge("add them<answer>答案是五</answer>") == 1.0


@pytest.mark.parametrize(
    "text", ["", "<think></think><answer>the answer</answer>", "2 + 3 = 5", "$$\\frac{a}{b}$$", "x y"]
)
def test_without_words_there_are_no_marks(text: str) -> None:
    assert judge(text) == 0.0


def test_english_and_french_are_one_script() -> None:
    assert judge("We add them, puis on double le tout") == 1.0


@pytest.mark.parametrize(
    "piece", ["\\( ", "\\[ ", "$", "```", "`", "$$ $", "\\", "ﷺ", "的 ", "\ud800\x00", "x" * 999 + " "]
)
def test_a_megabyte_of_anything_is_read(piece: str) -> None:
    value = judge(piece * (1_000_000 // len(piece)))
    assert value is not None and 0.0 <= value <= 1.0


def test_the_script_must_be_given() -> None:
    with pytest.raises(RecipeError, match="script"):
        load_reward("language_consistency", {})
    with pytest.raises(RecipeError, match="latin, han"):
        load_reward("language_consistency", {"script": "english"})
