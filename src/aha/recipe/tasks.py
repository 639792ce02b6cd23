"""The evaluations that have a name: what `tasks: [math500]` in a recipe stands for.

Written as a recipe would write them, so that any of them can be copied into a recipe and changed there.
"""

from __future__ import annotations

from typing import Any

PROBLEM_AND_ANSWER = {"prompt": "problem", "answer": "answer"}

TASKS: dict[str, dict[str, Any]] = {
    "math500": {
        "data": [{"hub": "HuggingFaceH4/MATH-500", "split": "test", "columns": PROBLEM_AND_ANSWER}],
        "grader": "math_answer",
    },
    "aime24": {
        "data": [{"hub": "HuggingFaceH4/aime_2024", "split": "train", "columns": PROBLEM_AND_ANSWER}],
        "grader": "math_answer",
    },
    "aime25": {
        "data": [{"hub": "math-ai/aime25", "split": "test", "columns": PROBLEM_AND_ANSWER}],
        "grader": "math_answer",
    },
    "gsm8k": {
        "data": [
            {
                "hub": "openai/gsm8k",
                "config": "main",
                "split": "test",
                "columns": {"prompt": "question", "answer": "answer"},
                "answer_after": "####",
            }
        ],
        "grader": "math_answer",
    },
}
