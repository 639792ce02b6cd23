"""Training: thin adapters over TRL's trainers, with checkpoints that survive and metrics that are kept."""
