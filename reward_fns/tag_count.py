"""A quarter for each of the four tags that stands exactly once: a gentler slope towards the format than `think_format`.

Source: Open R1's tag_count_reward (github.com/huggingface/open-r1), after the format reward of DeepSeek-R1
(arXiv:2501.12948). Range: 0 to 1 in quarters.

Choices: a tag that is repeated earns nothing, and so does one that stands before a tag it must follow: the four marks
are for a layout that can still become right, not for four strings. Line breaks around the tags do not matter (Open
R1's own version pays nothing for CRLF). A tag that the chat template already wrote counts.
"""

from __future__ import annotations

from dataclasses import dataclass

from aha.rewards.contract import Completion, Problem, Score, whole_text


@dataclass(frozen=True)
class Params:
    think: tuple[str, str] | None = None
    """The tags around the thinking; those of the recipe's `chat:` block if absent."""
    answer: tuple[str, str] | None = None


def score(completion: Completion, problem: Problem, params: Params) -> Score:
    text = whole_text(completion)
    reached, found = -1, []
    for tag in (*(params.think or completion.think), *(params.answer or completion.answer)):
        if text.count(tag) == 1 and text.find(tag) > reached:
            reached = text.find(tag)
            found.append(tag)
    return Score(len(found) / 4, f"{len(found)} of 4 tags in place")
