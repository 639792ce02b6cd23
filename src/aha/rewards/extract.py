"""Finding what a completion says its answer is: the first thing that every grader does, so it is done here once.

All scans are linear (`rfind` and one pass over braces): a policy that loops writes 100 kB of `\\( `, and a quadratic
pattern over that takes half a minute. Only what stands *after the last* `</think>` can be an answer; a think block that
never closes has none.
"""

from __future__ import annotations

import re
from typing import Literal

from aha.types import Completion

Require = Literal["answer_tag", "boxed", "either", "any"]

THINK = ("<think>", "</think>")
ANSWER = ("<answer>", "</answer>")
TAIL = 2048
"""Characters at the end of a completion in which a stated answer ("The answer is 5.") is looked for."""

_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_STATED = re.compile(r"(?:####|\bfinal answer\s*(?:is|:|\*)|\banswer\s*(?:is|:))[\s:*]*([^\n]*)", re.IGNORECASE)


def whole_text(completion: Completion) -> str:
    """The assistant's turn as a reader sees it: what the chat template began, and what the policy went on with."""
    return completion.prompt_tail + completion.text


def after_thinking(text: str, think: tuple[str, str] = THINK) -> str | None:
    """What follows the last closed think block; None while a think block is still open."""
    opened, closed = text.rfind(think[0]), text.rfind(think[1])
    if opened > closed:
        return None
    return text[closed + len(think[1]) :] if closed >= 0 else text


def last_tagged(text: str, tags: tuple[str, str] = ANSWER) -> str | None:
    """The content of the last `<answer>…</answer>`."""
    end = text.rfind(tags[1])
    start = text.rfind(tags[0], 0, end) if end >= 0 else -1
    return text[start + len(tags[0]) : end] if start >= 0 else None


def last_boxed(text: str) -> str | None:
    r"""The content of the last balanced `\boxed{…}`; of nested boxes, the innermost last one.

    >>> last_boxed(r"\boxed{1} and \boxed {\frac{1}{2}} and \boxed{3")
    '\\frac{1}{2}'
    """
    for opening in reversed(list(_BOX.finditer(text))):
        end = _closing_brace(text, opening.end())
        if end is not None:
            return text[opening.end() : end]
    return None


def _closing_brace(text: str, start: int) -> int | None:
    depth, position = 1, start
    while position < len(text):
        character = text[position]
        if character == "\\":
            position += 1
        elif character == "{":
            depth += 1
        elif character == "}":
            depth -= 1
            if depth == 0:
                return position
        position += 1
    return None


def stated(text: str) -> str | None:
    """The last answer stated in words: `#### 5`, `Final answer: 5`, `The answer is 5.`"""
    found = _STATED.findall(text[-TAIL:])
    return found[-1].strip().rstrip("*").strip() if found and found[-1].strip() else None


def final_answer(completion: Completion, require: Require = "any", tags: tuple[str, str] = ANSWER) -> str | None:
    """The answer a completion commits to, or None.

    `require` says where it must stand: in the answer tag, in a box, in either (the tag wins; a box inside the tag is
    opened), or anywhere it is clearly stated.

    >>> final_answer(Completion("<think>\\\\boxed{4}</think><answer>5</answer>"))
    '5'
    >>> final_answer(Completion("so \\\\boxed{4} or", prompt_tail="<think>"))  # still thinking: no answer
    """
    text = after_thinking(whole_text(completion))
    if text is None:
        return None
    tagged = None if require == "boxed" else last_tagged(text, tags)
    if tagged is not None:
        boxed = last_boxed(tagged)
        return tagged if boxed is None else boxed
    if require == "answer_tag":
        return None
    boxed = last_boxed(text)
    return stated(text) if boxed is None and require == "any" else boxed
