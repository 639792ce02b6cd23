"""What is no test here: a script that a test runs, and that would set this process's Triton up for itself."""

collect_ignore = ["kernel_differences.py"]
