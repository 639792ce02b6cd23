"""Rewards: completions go in, verdicts with their reasons come out. Floor 2; what a reward *means* is in `reward_fns/`."""
