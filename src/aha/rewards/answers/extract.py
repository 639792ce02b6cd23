"""Finding what a completion says its answer is: the first thing that every grader does, so it is done here once.

All scans are linear (`rfind` and one pass over braces): a policy that loops writes 100 kB of `\\( `, and a quadratic
pattern over that takes half a minute. Only what stands *after the last* `</think>` can be an answer; a think block that
never closes has none.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from aha.types import Completion

Require = Literal["answer_tag", "boxed", "either", "any"]

TAIL = 2048
"""Characters at the end of a completion in which a stated answer ("The answer is 5.") is looked for."""

ALONE = 40
"""Characters of a completion that may be nothing but its answer."""

_FENCE = re.compile(r"(?:<[a-z]{1,20}>)?[ \t]{0,3}(`{3,}|~{3,})[ \t]*([\w+#.-]*)")
_AFTER_FENCE = re.compile(r"\s*(?:</[a-z]{1,20}>\s*)?")
_BRACE = re.compile(
    r"(?=[\\{}])(?:(?P<box>\\{1,3}(?:boxed|f(?:rame)?box)\s{0,20}\{)|(?P<bare>\\{1,3}boxed\s{0,20}[0-9A-Za-z])|\\.|[{}])",
    re.DOTALL,
)
_BETWEEN = re.compile(
    r"[\s$,;()|/\\{}]+|\b(?:or|and|also|alternatively|maybe|perhaps|possibly|either|text|quad)\b"
    r"|\b(?:answer|case|option|solution) ?\d ?[:.)]?|\b[A-Za-z](?:_\{?\w\}?)? ?=",
    re.IGNORECASE,
)
_LONGEST_GAP = 40
_STATED = re.compile(
    r"####|\bfinal answer\s*(?:is|:|\*)|\b(?:answer|correct (?:option|choice))\W{0,3}(?:is|:)|^[#* ]*(?:final )?answer[* ]*$|答案\s*(?:是|为|:|：)",
    re.IGNORECASE | re.MULTILINE,
)
_SENTENCE_END = re.compile(r"\.(?:\s|$)|,?\s(?:since|because)\s")
_OPENING = re.compile(r"^(?:(?:the|its|this) [a-z]{1,20}|it|this) (?:is|equals) (?:\*\*)?", re.IGNORECASE)
_REMARK = re.compile(r"(?:in)?correct|right|wrong|verified|consistent", re.IGNORECASE)


def whole_text(completion: Completion) -> str:
    """The assistant's turn as a reader sees it: what the chat template began, and what the policy went on with."""
    return completion.prompt_tail + completion.text


def thought(completion: Completion) -> str:
    """The reasoning: all that stands before the last `</think>`, or without one, before the answer's tag.

    What stands in front of `<think>` belongs to it, or a policy could reason there unseen; the opening tags do not.

    >>> thought(Completion("7 + 5</think><answer>12</answer>", prompt_tail="<think>"))
    '7 + 5'
    """
    text = whole_text(completion)
    end = text.rfind(completion.think[1])
    before = text[:end] if end >= 0 else text.partition(completion.answer[0])[0]
    return before.replace(completion.think[0], "")


def after_thinking(completion: Completion) -> str | None:
    """What follows the last closed think block; None while a think block is still open."""
    text, think = whole_text(completion), completion.think
    opened, closed = text.rfind(think[0]), text.rfind(think[1])
    if opened > closed:
        return None
    return text[closed + len(think[1]) :] if closed >= 0 else text


def last_tagged(text: str, tags: tuple[str, str]) -> str | None:
    """The content of the last pair of tags, such as `<answer>…</answer>`."""
    end = text.rfind(tags[1])
    start = text.rfind(tags[0], 0, end) if end >= 0 else -1
    return text[start + len(tags[0]) : end] if start >= 0 else None


def last_boxed(text: str) -> str | None:
    r"""The content of the last balanced `\boxed{…}`. Boxes side by side, `\boxed{1} or \boxed{2}`, are one list.

    >>> last_boxed(r"\boxed{1} then \boxed {\frac{1}{2}} and \boxed{3")
    '\\frac{1}{2}'
    >>> last_boxed(r"\boxed{5} or \boxed{6}")
    '5, 6'
    """
    boxes = _boxes(text)
    if not boxes:
        return None
    first = len(boxes) - 1
    while first and _are_one_list(text[boxes[first - 1].end : boxes[first].start]):
        first -= 1
    if not text[boxes[-1].inner : boxes[-1].end - boxes[-1].closing].strip():
        return ""
    return ", ".join(dict.fromkeys(text[box.inner : box.end - box.closing] for box in boxes[first:]))


def _are_one_list(gap: str) -> bool:
    """Whether nothing stands between two boxes but signs and words that join."""
    return not _BETWEEN.sub("", gap[:_LONGEST_GAP]).strip() and not gap[_LONGEST_GAP:].strip()


class _Box(NamedTuple):
    start: int
    inner: int
    end: int
    closing: int
    """Length of the closing brace; 0 for `\\boxed5`."""


def _boxes(text: str) -> list[_Box]:
    """The outermost balanced boxes, in order, in one pass with a stack of open braces."""
    boxes: list[_Box] = []
    open_braces: list[tuple[int, int] | None] = []
    for match in _BRACE.finditer(text):
        token = match[0]
        if match["box"]:
            open_braces.append((match.start(), match.end()))
        elif match["bare"]:
            boxes.append(_Box(match.start(), match.end() - 1, match.end(), 0))
        elif token == "{":
            open_braces.append(None)
        elif token == "}" and open_braces and (opened := open_braces.pop()):
            while boxes and boxes[-1].start > opened[0]:
                boxes.pop()
            boxes.append(_Box(*opened, match.end(), 1))
    return boxes


def after_marker(text: str) -> str | None:
    """What follows the last `####`, `Final answer:` or `The answer is`, to the end of its sentence.

    >>> after_marker("The answer is 5. No: the answer is $6$. I hope that my answer is correct.")
    '$6$'
    """
    tail = text[-TAIL:]
    found = [tail[marker.end() :].lstrip(" \t\r\n:*").partition("\n")[0] for marker in _STATED.finditer(tail)]
    found = [each for each in found if each.strip()]
    answers = [each for each in found if not _REMARK.match(each)] or found
    return (_SENTENCE_END.split(answers[-1])[0].rstrip("*").strip() or None) if answers else None


def reference_answer(text: str) -> str:
    """What a data set's answer says: the box in it, or what follows its `####` or `The answer is`, else all of it."""
    boxed = last_boxed(text) if "boxed" in text else None
    marked = None if r"\text" in text else after_marker(text)
    return boxed or marked or text


def stated(text: str) -> str | None:
    """The last answer stated in words (`#### 5`, `The answer is 5.`), or the whole of a very short text."""
    marked = after_marker(text)
    if marked is not None:
        return marked
    alone = _OPENING.sub("", text[: TAIL + 1].strip().strip("*"), count=1)
    return alone if 0 < len(alone) <= ALONE and "\n" not in alone and len(text) <= TAIL else None


class Block(NamedTuple):
    """A fenced code block: the word behind its opening fence, in lower case, and what stands in it."""

    language: str
    code: str


def fenced_blocks(text: str) -> list[Block]:
    """The closed Markdown code blocks of a text, in order. A block ends at a line of at least as many of the same marks. A tag
    may stand before the opening marks or after the closing ones.

    >>> fenced_blocks("So:\\n```Python\\nprint(1)\\n```\\n~~~\\nx\\n~~~\\n```c\\nnever closed")
    [Block(language='python', code='print(1)\\n'), Block(language='', code='x\\n')]
    """
    blocks: list[Block] = []
    lines: list[str] = []
    fence, language = "", ""
    for line in text.splitlines(keepends=True):
        marks = _FENCE.match(line)
        if not fence and marks:
            fence, language, lines = marks[1], marks[2].lower(), []
        elif (
            fence
            and marks
            and not marks[2]
            and marks[1].startswith(fence)
            and _AFTER_FENCE.fullmatch(line, marks.end())
        ):
            blocks.append(Block(language, "".join(lines)))
            fence = ""
        else:
            lines.append(line)
    return blocks


def last_code(completion: Completion, languages: tuple[str, ...]) -> str | None:
    """The program a completion commits to: its last code block in one of these languages, or without a language, after the
    thinking; None without one.

    >>> last_code(Completion("<think>hm</think>```py\\n1\\n```\\nIt prints\\n```text\\n1\\n```"), ("python", "py"))
    '1\\n'
    """
    text = after_thinking(completion) or ""
    fitting = [block.code for block in fenced_blocks(text) if block.language in ("", *languages)]
    return fitting[-1] if fitting else None


def final_answer(completion: Completion, require: Require = "any") -> str | None:
    """The answer a completion commits to, or None.

    `require` says where it must stand: in the answer tag, in a box, in either (the tag wins; a box inside the tag is
    opened), or anywhere it is clearly stated.

    >>> final_answer(Completion("<think>\\\\boxed{4}</think><answer>5</answer>"))
    '5'
    >>> final_answer(Completion("so \\\\boxed{4} or", prompt_tail="<think>"))  # still thinking: no answer
    """
    text = after_thinking(completion)
    if text is None:
        return None
    tagged = None if require == "boxed" else last_tagged(text, completion.answer)
    if tagged is not None:
        boxed = last_boxed(tagged)
        return (after_marker(tagged) or tagged) if boxed is None else boxed
    if require == "answer_tag":
        return None
    boxed = last_boxed(text)
    return stated(text) if boxed is None and require == "any" else boxed
