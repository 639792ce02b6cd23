"""Full marks for one think block followed by one answer block, and nothing around them.

Source: the format reward of DeepSeek-R1 (arXiv:2501.12948, section 2.2.2). Range: 0 or 1.

Choices: the layout is exactly `<think>…</think><answer>…</answer>`, white space between and around them aside; each
tag stands once, so a block repeated a thousand times earns nothing. The answer may not be blank; the think block may,
until `min_think_chars` asks for text (R1-Zero's own template does not). A template that already wrote `<think>`
counts as if the policy had written it. Tags are matched literally: full-width letters, attributes and zero-width
spaces are not tags.
"""

from __future__ import annotations

from dataclasses import dataclass

from aha.rewards.contract import Completion, Problem, Score, whole_text


@dataclass(frozen=True)
class Params:
    think: tuple[str, str] | None = None
    """The tags around the thinking; those of the recipe's `chat:` block if absent."""
    answer: tuple[str, str] | None = None
    min_think_chars: int = 0
    """Characters, white space at the ends aside, that the think block must hold."""


def score(completion: Completion, problem: Problem, params: Params) -> Score:
    text = whole_text(completion).strip()
    tags = (*(params.think or completion.think), *(params.answer or completion.answer))
    for tag in tags:
        if text.count(tag) != 1:
            return Score(0.0, f"{text.count(tag)} times {tag}")
    positions = [text.find(tag) for tag in tags]
    if positions != sorted(positions):
        return Score(0.0, "tags out of order")
    before, thought, between, answer, after = _split(text, tags)
    if before or between.strip() or after:
        return Score(0.0, "text outside of the tags")
    if not answer.strip():
        return Score(0.0, "blank answer")
    if len(thought.strip()) < params.min_think_chars:
        return Score(0.0, f"fewer than {params.min_think_chars} characters of thought")
    return Score(1.0, "one thought, one answer")


def _split(text: str, tags: tuple[str, ...]) -> list[str]:
    """The five stretches around the four tags."""
    parts = []
    for tag in tags:
        part, _, text = text.partition(tag)
        parts.append(part)
    return [*parts, text]
