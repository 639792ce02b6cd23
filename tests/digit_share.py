"""A reward from outside reward_fns/, as TRL has them: the share of words that are numbers.

The nano model answers nothing right, so it needs a reward that varies within a group, or its GRPO would train nothing.
"""

from __future__ import annotations


def digit_share(completions, **columns):
    texts = [one if isinstance(one, str) else one[0]["content"] for one in completions]
    return [sum(word.isdigit() for word in text.split()) / max(1, len(text.split())) for text in texts]
