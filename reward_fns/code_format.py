"""Full marks for one think block, then an answer with exactly one code block in the language.

Source: the format reward of DeepSeek-R1 (arXiv:2501.12948, section 2.2.2), and the code format reward of Open R1.
Range: 0 or 1.

Choices: the layout is `<think>…</think>`, then the answer; with `answer_tags: true` the answer stands in
`<answer>…</answer>` and nothing outside of it. Each tag stands once. The answer may say something around its code
block; a second block is a second answer, whatever its language, and the block names its language (` ```python `).
It holds more than white space. What stands in the think block does not matter, code blocks included. A template
that already wrote `<think>` counts as if the policy had written it. Whether the code runs is for `code_tests`.
"""

from __future__ import annotations

from dataclasses import dataclass

from aha.rewards.answers.extract import fenced_blocks
from aha.rewards.contract import Completion, Problem, Score, whole_text


@dataclass(frozen=True)
class Params:
    language: str = "python"
    think: tuple[str, str] = ("<think>", "</think>")
    answer: tuple[str, str] = ("<answer>", "</answer>")
    answer_tags: bool = False
    """Whether the answer must stand in its tags."""


def score(completion: Completion, problem: Problem, params: Params) -> Score:
    text = whole_text(completion).strip()
    tags = (*params.think, *(params.answer if params.answer_tags else ()))
    for tag in tags:
        if text.count(tag) != 1:
            return Score(0.0, f"{text.count(tag)} times {tag}")
    before, _, rest = text.partition(params.think[0])
    _, closed, answer = rest.partition(params.think[1])
    if not closed:
        return Score(0.0, "tags out of order")
    if params.answer_tags:
        between, opened, rest = answer.partition(params.answer[0])
        answer, closed, after = rest.partition(params.answer[1])
        if not opened or not closed:
            return Score(0.0, "tags out of order")
        before += between.strip() + after.strip()
    if before:
        return Score(0.0, "text outside of the tags")
    return _one_block(answer, params.language)


def _one_block(answer: str, language: str) -> Score:
    blocks = fenced_blocks(answer)
    if len(blocks) != 1:
        return Score(0.0, f"{len(blocks)} code blocks")
    if blocks[0].language != language.lower():
        return Score(0.0, f"a block of {blocks[0].language or 'no language'}, not {language}")
    if not blocks[0].code.strip():
        return Score(0.0, "an empty code block")
    return Score(1.0, f"one thought, one block of {language}")
