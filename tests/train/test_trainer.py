"""A stage's metrics are in metrics.jsonl, and not a second time in the process, nor in each checkpoint."""

from __future__ import annotations

from pathlib import Path

from small import supervised

from aha.models.kernels import choose


def test_what_was_logged_is_not_held(tmp_path: Path) -> None:
    trainer = supervised(tmp_path, choose("cpt", "auto", "cpu", "llama"), 4, "cpt.save_every=3")
    trainer.train()
    assert len(trainer.state.log_history) == 1
    assert len(next(tmp_path.glob("run/*/metrics.jsonl")).read_text().splitlines()) == 4
    state = next(tmp_path.glob("run/*/checkpoints/step-*/trainer_state.json"))
    assert state.read_text().count("grad_norm") == 1
