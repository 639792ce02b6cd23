"""What an author works with before a reward meets a policy: write one, check it, score with it, rescore a run."""
