"""Rewards: completions go in, verdicts with their reasons come out. What a reward *means* is in `reward_fns/`."""
