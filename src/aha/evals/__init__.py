"""Evaluation: checkpoints are sampled on held-out problems, and graded by the same rewards that training uses."""
