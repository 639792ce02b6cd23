"""Is this training sound? Named diagnoses from a run's curves and completions, each with the recipe line to change.

`evidence` is what was logged, `curves` and `completions` hold the rules (one small function each), and `examine` runs
them over a run directory. `aha doctor` shows what they find; the trainer asks the same rules while it runs.
"""

from aha.health.evidence import Diagnosis, Evidence
from aha.health.examine import Examination, diagnose, examine, examine_grpo, in_words

__all__ = ["Diagnosis", "Evidence", "Examination", "diagnose", "examine", "examine_grpo", "in_words"]
