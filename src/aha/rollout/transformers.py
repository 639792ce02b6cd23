"""Generation with plain transformers, for machines that vLLM has no wheel for. Slower, and otherwise the same."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from aha.rollout.channel import Receives
from aha.rollout.engine import EngineLimits, Generation, Sampling, end_tokens, run_to_end

Waiting = tuple[str, Sequence[int], Sampling, int]
"""A request: its name, prompt, sampling and seed."""


class TransformersEngine(Receives):
    """A frozen copy of the policy, sampled token by token in padded batches."""

    name = "transformers"

    def __init__(self, model_path: str, limits: EngineLimits):
        device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = "auto" if limits.dtype == "auto" else getattr(torch, limits.dtype)
        self._model: Any = _load(model_path, dtype).to(device).eval()
        self._most = limits.max_sequences
        self._numbers = itertools.count()
        self._waiting: list[Waiting] = []
        self._batch: Iterator[list[tuple[str, Generation]]] | None = None
        self._ends = set(end_tokens(model_path))

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling, seeds: Sequence[int]) -> list[Generation]:
        return run_to_end(self, prompts, sampling, seeds)

    def submit(self, prompts: Sequence[Sequence[int]], sampling: Sampling, seeds: Sequence[int]) -> list[str]:
        names = [str(next(self._numbers)) for _ in prompts]
        self._waiting += zip(names, prompts, [sampling] * len(names), seeds, strict=True)
        return names

    def step(self) -> list[tuple[str, Generation]]:
        if self._batch is None:
            sampling = self._waiting[0][2]
            rows = list(itertools.takewhile(lambda row: row[2] == sampling, self._waiting[: self._most]))
            del self._waiting[: len(rows)]
            self._batch = self._generate_batch(rows, sampling)
        finished = next(self._batch)
        if finished:
            self._batch = None
        return finished

    def abort(self, names: Iterable[str]) -> None:
        gone = set(names)  # a batch that is running goes on: its rows share one forward pass
        self._waiting = [row for row in self._waiting if row[0] not in gone]

    @torch.inference_mode()
    def _generate_batch(self, rows: list[Waiting], sampling: Sampling) -> Iterator[list[tuple[str, Generation]]]:
        """Yields nothing after each token, and at the end the whole batch."""
        names, prompts, _, seeds = zip(*rows, strict=True)
        device = self._model.device
        width = max(map(len, prompts))
        ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts], device=device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
        draws = [torch.Generator().manual_seed(seed) for seed in seeds]
        tokens: list[list[int]] = [[] for _ in prompts]
        logprobs: list[list[float]] = [[] for _ in prompts]
        alive = set(range(len(prompts)))
        cache = None
        for _ in range(sampling.max_tokens):
            positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
            out = self._model(ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            scores = _processed(out.logits[:, -1].float(), sampling)
            chosen = _draw(scores, draws, greedy=sampling.temperature == 0).to(device)
            picked = scores.gather(-1, chosen[:, None])[:, 0].tolist()
            for row in list(alive):
                tokens[row].append(int(chosen[row]))
                logprobs[row].append(picked[row])
                if int(chosen[row]) in self._ends:
                    alive.discard(row)
            if not alive:
                break
            ids = chosen[:, None]
            mask = torch.cat([mask, mask.new_ones(len(prompts), 1)], dim=1)
            yield []
        done = [Generation(t, lp, row in alive) for row, (t, lp) in enumerate(zip(tokens, logprobs, strict=True))]
        yield list(zip(names, done, strict=True))

    @torch.inference_mode()
    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        scored = []
        for sequence in sequences:
            ids = torch.tensor([list(sequence)], device=self._model.device)
            logprobs = self._model(ids).logits[0, :-1].float().log_softmax(-1)
            scored.append(logprobs.gather(-1, ids[0, 1:, None])[:, 0].tolist())
        return scored

    def sync(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        own = dict(self._model.named_parameters())
        with torch.no_grad():
            for name, weight in weights:
                own[name].copy_(weight)


def _load(model_path: str, dtype: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(model_path, dtype=dtype)


def _processed(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Logprobs of the distribution that is sampled: temperature first, then the top-p nucleus. Shape (rows, vocabulary)."""
    scores = (logits / (sampling.temperature or 1.0)).log_softmax(-1)
    if sampling.top_p < 1:
        ranked, order = scores.sort(-1, descending=True)
        outside = ranked.exp().cumsum(-1) - ranked.exp() >= sampling.top_p
        scores = scores.masked_fill(outside.gather(-1, order.argsort(-1)), -torch.inf).log_softmax(-1)
    return scores


def _draw(scores: torch.Tensor, draws: list[torch.Generator], greedy: bool) -> torch.Tensor:
    """One token per row, each row from its own generator, so that a row never depends on its neighbours."""
    if greedy:
        return scores.argmax(-1).cpu()
    probabilities = scores.exp().cpu()
    return torch.cat([torch.multinomial(p, 1, generator=g) for p, g in zip(probabilities, draws, strict=True)])
