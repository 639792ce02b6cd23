"""Weights really reach the engine: after training steps, engine and trainer give the same logprobs.

Each case has a process of its own, since an engine never quite leaves the one it started in. The naive reload is a case
too: with tied embeddings it must be caught, or these tests prove nothing.
"""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

TOLERANCE = 1e-4  # nats, float32


def train_and_compare(folder: str, kind: str, tied: bool, naive: bool) -> tuple[float, float]:
    """Largest |logprob difference| on fixed sequences: just before and just after the sync that follows 3 steps."""
    import torch

    from aha.data import arithmetic
    from aha.models.load import save
    from aha.models.scratch import make_model, make_tokenizer
    from aha.recipe.schema import FromScratch
    from aha.rollout.engine import EngineLimits
    from aha.rollout.start import choose_engine, start_engine

    torch.set_num_threads(1)
    tokenizer = make_tokenizer(arithmetic.vocabulary(), ("<think>", "</think>"))
    model = make_model(FromScratch(hidden_size=64, layers=2, heads=2, tied=tied), tokenizer, seed=0)
    save(model, tokenizer, Path(folder))
    engine = start_engine(choose_engine(kind), folder, EngineLimits(64, 32, 16, dtype="float32"), seed=0)
    if naive:
        engine._renew_tied_head = lambda: None  # type: ignore[attr-defined]
    sequences = [tokenizer(problem.prompt).input_ids for problem in arithmetic.problems(16)]

    def difference() -> float:
        theirs = engine.score(sequences)
        with torch.no_grad():
            ours = [
                model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1).gather(-1, torch.tensor(ids)[1:, None])[:, 0]
                for ids in sequences
            ]
        return max((mine - torch.tensor(other)).abs().max().item() for mine, other in zip(ours, theirs, strict=True))

    assert difference() < TOLERANCE, "engine and trainer differ before any training"
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(3):
        for ids in sequences:
            model(torch.tensor([ids]), labels=torch.tensor([ids])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        stale = difference()
        engine.sync(model.named_parameters())
    return stale, difference()


def compare(folder: Path, kind: str, tied: bool, naive: bool = False) -> tuple[float, float]:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(train_and_compare, str(folder), kind, tied, naive).result(timeout=300)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("kind", ["vllm", "transformers"])
def test_after_a_sync_the_engine_is_the_trainer(tmp_path: Path, kind: str, tied: bool) -> None:
    stale, fresh = compare(tmp_path, kind, tied)
    assert stale > 100 * TOLERANCE, "training did not move the policy, so the comparison proves nothing"
    assert fresh < TOLERANCE


def test_the_naive_reload_of_a_tied_model_is_caught(tmp_path: Path) -> None:
    _, fresh = compare(tmp_path, "vllm", tied=True, naive=True)
    assert fresh > 100 * TOLERANCE
