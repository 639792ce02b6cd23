"""Each algorithm's loss and gradient in the real trainer, against its paper's equation written out in float64.

Two groups of four completions of different lengths; one was cut off, one was not judged. The policy that sampled them is
not the policy that is trained, so ratios differ from 1 and clips act. Both ways to compute the loss are held to it.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
import torch
from told import THOUGHT, told
from trl import GRPOTrainer

from aha.errors import KernelError
from aha.recipe.algorithms import ALGORITHMS
from aha.rewards.scorer import Scorer
from aha.train.algorithms import leave_one_out, require_whole_loss, whitened
from aha.train.grpo import GroupTrainer

SAID = [
    "<think> 1 </think> <answer> 0 </answer> <|im_end|>",
    "<think> 0 </think> <answer> 2 + 3 = 5 . 5 + 1 = 6 </answer> <|im_end|>",
    "<think> 2 </think> <answer> 2 + 3 =",
    "<think> 13 </think> <|im_end|>",
    "<think> 0 </think> <answer> 4 </answer> <|im_end|>",
    "<think> 0 </think> <answer> 4 + 4 = 8 </answer> <|im_end|>",
    "<think> 3 </think> <|im_end|>",
    "<think> 1 </think> <answer> 7 . 7 . 7 . 7 . 7 . 7 </answer> <|im_end|>",
]
REWARDS: list[float | None] = [1, 0, 2, None, 0, 0, 3, 1]
CUT_OFF, MOST = 2, 24  # the completion without an end; rollout.max_tokens
EPSILON = 1e-4  # TRL's, beside each standard deviation


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scorer]:
    path = tmp_path_factory.mktemp("rewards") / "thought.py"
    path.write_text(THOUGHT)
    with Scorer({str(path): 1.0}, deadline=30, workers=1) as made:
        made.path = path  # type: ignore[attr-defined]
        yield made


@dataclass
class Sampled:
    """One completion: log-probabilities of its tokens under the policy, and under the one that sampled it, and the policy's
    entropy at each; float64.
    """

    new: torch.Tensor
    old: torch.Tensor
    entropy: torch.Tensor
    reward: float | None
    advantage: float = 0.0

    @property
    def w(self) -> torch.Tensor:
        return (self.new - self.old).exp()


Batch = list[Sampled]


# --- the papers' equations: J, which is maximised ------------------------------------------------------------------


def centred(batch: Batch, divide: Callable[[list[float], list[float]], float]) -> None:
    """A_i = (r_i - mean of its group) / divide(rewards of the group, all the centred rewards)."""
    groups = [batch[:4], batch[4:]]
    known = [[one.reward for one in group if one.reward is not None] for group in groups]
    everyone = [reward - mean(rewards) for rewards in known for reward in rewards]
    for group, rewards in zip(groups, known, strict=True):
        for one in group:
            if one.reward is not None:
                one.advantage = (one.reward - mean(rewards)) / divide(rewards, everyone)


def group_deviation(rewards: list[float], everyone: list[float]) -> float:
    return stdev(rewards) + EPSILON


def clipped(one: Sampled, low: float, high: float, w: torch.Tensor | None = None) -> torch.Tensor:
    w = one.w if w is None else w
    return torch.min(w * one.advantage, w.clamp(1 - low, 1 + high) * one.advantage)


def grpo(batch: Batch) -> torch.Tensor:
    """DeepSeekMath, eq. 3 without its KL: 1/G sum_i 1/|o_i| sum_t min(w A, clip(w, 1 - e, 1 + e) A)."""
    centred(batch, group_deviation)
    return sum(clipped(one, 0.2, 0.2).mean() for one in batch) / len(batch)


def dr_grpo(batch: Batch) -> torch.Tensor:
    """Dr. GRPO: 1/G sum_i sum_t min(...), A = r - mean; over the constant of the authors' code."""
    centred(batch, lambda rewards, everyone: 1.0)
    return sum(clipped(one, 0.2, 0.2).sum() / MOST for one in batch) / len(batch)


def dapo(batch: Batch) -> torch.Tensor:
    """DAPO, eq. 8: 1 / sum|o_i| sum_i sum_t min(w A, clip(w, 1 - 0.2, 1 + 0.28) A), overlong completions filtered."""
    centred(batch, group_deviation)
    kept = [one for number, one in enumerate(batch) if number != CUT_OFF and one.reward is not None]
    return sum(clipped(one, 0.2, 0.28).sum() for one in kept) / sum(len(one.new) for one in kept)


def gspo(batch: Batch) -> torch.Tensor:
    """GSPO, eq. 5-7: 1/G sum_i min(s A, clip(s) A), s = exp(1/|o_i| sum_t log w_t)."""
    centred(batch, group_deviation)
    return sum(clipped(one, 3e-4, 4e-4, (one.new - one.old).mean().exp()) for one in batch) / len(batch)


def cispo(batch: Batch) -> torch.Tensor:
    """MiniMax-M1, eq. 4: 1 / sum|o_i| sum_i sum_t stopgrad(min(w, 5)) A log policy."""
    centred(batch, group_deviation)
    kept = [one for one in batch if one.reward is not None]
    terms = [(one.w.detach().clamp(max=5.0) * one.advantage * one.new).sum() for one in kept]
    return sum(terms) / sum(len(one.new) for one in kept)


def rloo(batch: Batch) -> torch.Tensor:
    """RLOO, eq. 8: 1/k sum_i (r_i - 1/(k-1) sum_{j != i} r_j) log policy(o_i), by the ratio's surrogate."""
    for group in (batch[:4], batch[4:]):
        for one in group:
            others = [other.reward for other in group if other is not one and other.reward is not None]
            one.advantage = 0.0 if one.reward is None else one.reward - sum(others) / len(others)
    return sum(clipped(one, 0.2, 0.2).sum() / MOST for one in batch) / len(batch)


def reinforce_pp(batch: Batch) -> torch.Tensor:
    """REINFORCE++ with baseline: A = (r - mean of the group) / deviation of that over the batch; PPO's surrogate."""
    centred(batch, lambda rewards, everyone: stdev(everyone) + EPSILON)
    return sum(clipped(one, 0.2, 0.2).mean() for one in batch) / len(batch)


PAPERS = {function.__name__: function for function in (grpo, dr_grpo, dapo, gspo, cispo, rloo, reinforce_pp)}
SPREAD = {"gspo": 2e-3, "cispo": 2.0}  # of log w, so that the clip acts on some tokens and not on others


# --- the trainer ---------------------------------------------------------------------------------------------------


def keys_of(scorer: Scorer, *keys: str) -> list[str]:
    path = scorer.path  # type: ignore[attr-defined]
    own = [f"rewards={{{path}: 1.0}}", "prompts_per_step=2", "group_size=4", "micro_batch=4", *keys]
    return [f"grpo.{key}" for key in own]


def sample(trainer: GroupTrainer, spread: float, generate: Any = None) -> dict[str, Any]:
    """A step's batch; the policy that sampled it is `spread` nats away from the one that is trained."""
    rows = trainer.train_dataset
    trainer.model.train()
    output = (generate or trainer._generate_and_score_completions)([rows[0]] * 4 + [rows[1]] * 4)
    noise = torch.randn(output["old_per_token_logps"].shape, generator=torch.Generator().manual_seed(1))
    output["old_per_token_logps"] += spread * noise
    return output


def stepped(trainer: GroupTrainer, output: dict[str, Any]) -> tuple[float, torch.Tensor]:
    """Loss and gradient of one optimiser step of two micro-batches, as the trainer accumulates them."""
    trainer.current_gradient_accumulation_steps = 2
    halves = [{k: v[start : start + 4] if v.ndim else v for k, v in output.items()} for start in (0, 4)]
    losses = [trainer.compute_loss(trainer.model, half) for half in halves]
    sum(losses).backward()
    return sum(loss.item() for loss in losses), gradient(trainer.model)


def gradient(model: Any) -> torch.Tensor:
    return torch.cat([p.grad.flatten().double() for p in model.parameters() if p.requires_grad])


def exact(trainer: GroupTrainer, output: dict[str, Any]) -> tuple[Any, Batch]:
    """The model in float64, and the batch under it: one completion at a time, without padding or masks."""
    model = copy.deepcopy(trainer.model).double()
    model.zero_grad()
    tokenizer, batch = trainer.processing_class, []
    for number, text in enumerate(SAID):
        ids = tokenizer(text, add_special_tokens=False).input_ids
        prompt = output["prompt_ids"][number][output["prompt_mask"][number].bool()].tolist()
        scores = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        new = scores.gather(-1, torch.tensor(ids)[:, None])[:, 0]
        old, entropy = output["old_per_token_logps"][number, : len(ids)].double(), -(scores.exp() * scores).sum(-1)
        batch.append(Sampled(new, old, entropy, REWARDS[number]))
    return model, batch


def agree(found: tuple[float, torch.Tensor], expected: tuple[float, torch.Tensor]) -> None:
    assert found[0] == pytest.approx(expected[0], rel=1e-4, abs=1e-6)
    assert (found[1] - expected[1]).norm() < 2e-4 * expected[1].norm()


def by_paper(trainer: GroupTrainer, output: dict[str, Any], paper: Any) -> tuple[float, torch.Tensor]:
    model, batch = exact(trainer, output)
    loss = -paper(batch)
    loss.backward()
    return loss.item(), gradient(model)


@pytest.mark.parametrize("kernels", ["torch", "auto"])
@pytest.mark.parametrize("algorithm", PAPERS)
def test_loss_and_gradient_are_the_papers(algorithm: str, kernels: str, scorer: Scorer, tmp_path: Path) -> None:
    keys = keys_of(scorer, f"algorithm={algorithm}", "dynamic_sampling=false")
    with told(tmp_path, keys, lambda prompt, number: SAID[number], scorer, kernels=kernels) as trainer:
        assert trainer.use_liger_kernel == (kernels == "auto")
        output = sample(trainer, SPREAD.get(algorithm, 0.3))
        _, batch = exact(trainer, output)
        ends = torch.tensor([one.w.log().mean().exp().item() for one in batch]) if algorithm == "gspo" else None
        acts = torch.cat([one.w for one in batch]) if ends is None else ends
        low, high = {"gspo": (1 - 3e-4, 1 + 4e-4), "cispo": (0.0, 5.0)}.get(algorithm, (0.8, 1.28))
        assert 0 < int(((acts < low) | (acts > high)).sum()) < len(acts), "the clip acts on some, and not on all"
        assert len({len(one.new) for one in batch}) > 4
        agree(stepped(trainer, output), by_paper(trainer, output, PAPERS[algorithm]))


def test_reinforce_where_the_paper_steps_once(scorer: Scorer, tmp_path: Path) -> None:
    """RLOO's own case: the policy that is trained is the one that sampled, so its gradient is that of A log policy."""

    def reinforce(batch: Batch) -> torch.Tensor:
        rloo(batch)  # for its advantages
        return sum((one.advantage * one.new).sum() / MOST for one in batch) / len(batch)

    with told(tmp_path, keys_of(scorer, "algorithm=rloo"), lambda prompt, number: SAID[number], scorer) as trainer:
        output = sample(trainer, 0.0)
        found, expected = stepped(trainer, output), by_paper(trainer, output, reinforce)
        assert (found[1] - expected[1]).norm() < 2e-4 * expected[1].norm()


@pytest.mark.parametrize("kernels", ["torch", "auto"])
def test_the_engines_mistakes_are_weighed(kernels: str, scorer: Scorer, tmp_path: Path) -> None:
    """Truncated importance sampling: each token counts min(policy / engine, cap) times."""
    shift = [0.5, -1.0, 1.5]  # nats, token by token in turn: weights 1.65, 0.37, and 4.48 cut to 2

    def off(length: int) -> torch.Tensor:
        return torch.tensor([shift[position % 3] for position in range(length)])

    def weighed(batch: Batch) -> torch.Tensor:
        centred(batch, group_deviation)
        weights = [off(len(one.new)).double().exp().clamp(max=2.0) for one in batch]
        terms = zip(batch, weights, strict=True)
        return sum((weight * clipped(one, 0.2, 0.2)).mean() for one, weight in terms) / len(batch)

    with told(
        tmp_path,
        keys_of(scorer, "rollout.correction_cap=2.0"),
        lambda prompt, number: SAID[number],
        scorer,
        kernels=kernels,
        heard=lambda number, logprobs: logprobs - off(len(logprobs)),
    ) as trainer:
        # TRL's own step: ours ends the run at such an engine.
        trl_step = GRPOTrainer._generate_and_score_completions.__get__(trainer)
        output = sample(trainer, 0.3, trl_step)
        agree(stepped(trainer, output), by_paper(trainer, output, weighed))


@pytest.mark.parametrize("keys", [[], ["lora.rank=4"], ["unbiased_kl=true"]])
@pytest.mark.parametrize("kernels", ["torch", "auto"])
def test_the_kl_penalty_is_k3(kernels: str, keys: list[str], scorer: Scorer, tmp_path: Path) -> None:
    """DeepSeekMath, eq. 3 and 4: + beta (exp(q - p) - (q - p) - 1) for each token of a judged completion."""

    def penalised(batch: Batch) -> torch.Tensor:
        kl = torch.tensor(0.0)
        for number, one in enumerate(batch):
            if one.reward is not None:
                gap = reference[number, : len(one.new)].double() - one.new
                weight = one.w if "unbiased_kl=true" in keys else 1.0  # DeepSeek-V3.2, eq. 7
                kl = kl + (weight * (gap.exp() - gap - 1)).mean()
        return grpo(batch) - 0.2 * kl / len(batch)

    with told(
        tmp_path, keys_of(scorer, "beta=0.2", *keys), lambda prompt, number: SAID[number], scorer, kernels=kernels
    ) as trainer:
        output = sample(trainer, 0.3)
        mask = output["completion_mask"].bool()
        assert torch.allclose(output["ref_per_token_logps"][mask], before_noise(trainer, output)[mask], atol=1e-4)
        output["ref_per_token_logps"] += torch.linspace(-0.5, 0.5, mask.shape[1])
        reference = output["ref_per_token_logps"]
        agree(stepped(trainer, output), by_paper(trainer, output, penalised))


def before_noise(trainer: GroupTrainer, output: dict[str, Any]) -> torch.Tensor:
    noise = torch.randn(output["old_per_token_logps"].shape, generator=torch.Generator().manual_seed(1))
    return output["old_per_token_logps"] - 0.3 * noise


@pytest.mark.parametrize("algorithm", PAPERS)
def test_a_preset_is_its_knobs(algorithm: str, scorer: Scorer, tmp_path: Path) -> None:
    """Each set beside `grpo`, they come to the same paper's equation."""
    preset = ALGORITHMS[algorithm]
    knobs = {field.name: getattr(preset, field.name) for field in dataclasses.fields(preset)}
    unused = {"dynamic_sampling"} | ({"clip_low"} if algorithm == "cispo" else set())
    beside = [
        f"{name}={str(value).lower()}" for name, value in knobs.items() if value is not None and name not in unused
    ]
    with told(tmp_path, keys_of(scorer, *beside), lambda prompt, number: SAID[number], scorer) as trainer:
        output = sample(trainer, SPREAD.get(algorithm, 0.3))
        agree(stepped(trainer, output), by_paper(trainer, output, PAPERS[algorithm]))


@pytest.mark.parametrize(("bonus", "share"), [(0.5, 1.0), (0.0, 0.31)])
def test_entropy_control(bonus: float, share: float, scorer: Scorer, tmp_path: Path) -> None:
    """- bonus times the mean entropy of a token; and the surrogate of the share of tokens with the highest entropy."""

    def controlled(batch: Batch) -> torch.Tensor:
        centred(batch, group_deviation)
        judged = [(one, entropy) for one, entropy in zip(batch, entropies, strict=True) if one.reward is not None]
        everywhere = torch.cat([entropy for _, entropy in judged])
        assert (len(everywhere) - 1) * (1 - share) % 1 > 0.01 or share == 1, "no token lies on the threshold"
        least = everywhere.detach().quantile(1 - share)
        surrogate = sum((clipped(one, 0.2, 0.2) * (entropy >= least)).mean() for one, entropy in judged) / len(batch)
        return surrogate + bonus * everywhere.mean()

    keys = keys_of(scorer, "micro_batch=8", f"entropy_bonus={bonus}", f"high_entropy_share={share}")
    with told(tmp_path, keys, lambda prompt, number: SAID[number], scorer) as trainer:
        output = sample(trainer, 0.3)
        trainer.current_gradient_accumulation_steps = 1
        loss = trainer.compute_loss(trainer.model, output)
        loss.backward()
        model, batch = exact(trainer, output)
        entropies = [one.entropy for one in batch]
        expected = -controlled(batch)
        expected.backward()
        agree((loss.item(), gradient(trainer.model)), (expected.item(), gradient(model)))


def test_advantages_leave_out_what_was_not_judged() -> None:
    nan = float("nan")
    rewards = torch.tensor([[1.0, 0.0, 2.0, nan], [0.0, 0.0, 3.0, 1.0], [5.0, nan, nan, nan], [nan] * 4])
    found = leave_one_out(rewards)
    assert found[0, :3].tolist() == [0.0, -1.5, 1.5] and found[1].tolist() == pytest.approx([-4 / 3, -4 / 3, 8 / 3, 0])
    assert found[2, 0] == 0.0 and found.isnan().sum() == rewards.isnan().sum()
    deviation = stdev([0, -1, 1, -1, -1, 2, 0, 0])
    assert whitened(rewards)[1].tolist() == pytest.approx([x / (deviation + EPSILON) for x in (-1, -1, 2, 0)])
    assert whitened(torch.full((2, 2), nan)).isnan().all() and whitened(torch.ones(2, 2)).abs().max() == 0


@pytest.mark.parametrize("kernels", ["torch", "auto"])
def test_what_ligers_loss_leaves_out_is_refused(kernels: str, scorer: Scorer, tmp_path: Path) -> None:
    with told(tmp_path, keys_of(scorer), lambda prompt, number: SAID[number], scorer, kernels=kernels) as trainer:
        refusal = pytest.raises(KernelError, match="kernels: torch") if kernels == "auto" else nullcontext()
        trainer.aux_loss_enabled = True  # what TRL finds out of a mixture of experts
        with refusal:
            require_whole_loss(trainer)
        trainer.aux_loss_enabled = False
        require_whole_loss(trainer)
        trainer.model.config.logits_scaling = 8.0  # Granite's
        with refusal:
            require_whole_loss(trainer)
