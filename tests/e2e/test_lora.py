"""Low-rank adapters in distillation and GRPO: the engine gets the merged weights, and a whole model comes out."""

from __future__ import annotations

import json
from pathlib import Path

from nano import BF16, NANO, aha
from safetensors.torch import load_file

from aha.models.load import fingerprint


def test_adapters_reach_the_engine_and_the_checkpoint(finished: Path, tmp_path: Path) -> None:
    base = finished / "1-cpt" / "model"
    blocks = NANO[NANO.index("distill:") : NANO.index("eval:")]
    blocks = blocks.replace("learning_rate: 1e-3", "learning_rate: 1e-2\n  lora: {rank: 4, alpha: 8}")
    blocks = blocks.replace("learning_rate: 1e-4", "learning_rate: 1e-2\n  lora: {rank: 4, alpha: 8}")
    (tmp_path / "lora.yaml").write_text(f"model: {{path: {base}}}\n{blocks}")
    done = aha("run", "lora.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    run = tmp_path / "runs" / "lora"
    rows = [json.loads(line) for line in (run / "3-grpo" / "metrics.jsonl").read_text().splitlines()]
    assert all(row["mismatch"] < (2e-3 if BF16 else 1e-4) for row in rows), [row["mismatch"] for row in rows]
    shares = [row["arrived"] for row in rows if row["arrived"] is not None]
    assert shares and all(abs(1 - share) < 0.1 for share in shares), f"an engine without the adapter has 0: {shares}"
    weights = [
        load_file(run / folder / "model.safetensors") for folder in ("0-base", "2-distill/model", "3-grpo/model")
    ]
    assert weights[0].keys() == weights[1].keys() == weights[2].keys()
    moved = [not weights[0][name].equal(weights[1][name]) for name in weights[0]]
    assert any(moved) and not all(moved), "only the linear layers move"
    assert len({fingerprint(run / folder) for folder in ("0-base", "2-distill/model", "3-grpo/model")}) == 3
