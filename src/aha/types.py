"""The glossary: what flows between the rooms of the house. All frozen, all plain standard library.

A *problem* is asked, a *completion* answers it, a *score* judges the completion, a *checkpoint* is a model on disk
with its fingerprint, and *results* are what an evaluation found.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Problem:
    """A question with a checkable answer.

    >>> Problem(prompt="What is 2 + 3?", answer="5", id="arithmetic-17").answer
    '5'
    """

    prompt: str
    answer: str
    id: str
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Whatever else the row carried (its columns, the generator's own record): graders may read it."""


@dataclass(frozen=True)
class Completion:
    """What a policy wrote after a prompt. Hostile until shown otherwise.

    >>> Completion(text="<think>2+3=5</think><answer>5</answer>", tokens=12).truncated
    False
    """

    text: str
    tokens: int = 0
    """Length in tokens, the end-of-sequence token included."""
    prompt_tail: str = ""
    """What the chat template already wrote of the answer (for example `<think>\\n`)."""
    truncated: bool = False
    """True when the length limit, not the policy, ended it."""
    think: tuple[str, str] = ("<think>", "</think>")
    """The tags around the thinking: those of the recipe's `chat:` block."""
    answer: tuple[str, str] = ("<answer>", "</answer>")


@dataclass(frozen=True)
class Score:
    """A judgement of one completion. `value=None` means "could not judge": never 0, never 1.

    >>> Score(None, "deadline of 2.0 s passed").value is None
    True
    """

    value: float | None
    reason: str


@dataclass(frozen=True)
class Checkpoint:
    """A Hugging Face model directory and the SHA-256 over its weights, configuration, tokenizer and chat format.

    >>> Checkpoint("runs/tiny/2-distill/model", "9f2c41ab").path
    'runs/tiny/2-distill/model'
    """

    path: str
    fingerprint: str


@dataclass(frozen=True)
class Estimate:
    """A measured share with its 95 % interval.

    >>> str(Estimate(0.5, 0.43, 0.57))
    '0.500 [0.430, 0.570]'
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Results:
    """What one evaluation task found for one checkpoint; shares are over problems, with bootstrap intervals.

    >>> Results("arithmetic", 200, 4, Estimate(0.5, 0.43, 0.57)).samples
    4
    """

    task: str
    problems: int
    samples: int
    pass_at_1: Estimate
    pass_at_k: Mapping[int, Estimate] = field(default_factory=dict)
    majority: Estimate | None = None
    mean_tokens: float = 0.0
    truncated: float = 0.0
    unjudged: int = 0
    """Samples whose grader gave no verdict; they are outside every share above."""
