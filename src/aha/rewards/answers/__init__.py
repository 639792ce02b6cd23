"""Answers: found in a completion (`extract`), brought to one alphabet, read as values, compared with a reference.

The tools of the reward files that grade answers; nothing here is a reward.
"""
