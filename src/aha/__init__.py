"""aha: a recipe for reasoning models.

A **recipe** is read into a **plan**; each **stage** of the plan turns **data** and a **checkpoint** into a new
checkpoint; checkpoints are **evaluated**; the run directory is written up as a **report**.
"""

__version__ = "0.1.0"
