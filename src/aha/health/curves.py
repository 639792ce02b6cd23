"""The rules that read metrics.jsonl. Each yields a diagnosis with its evidence, or nothing."""

from __future__ import annotations

from collections.abc import Iterator

from aha.health.evidence import Diagnosis, Evidence, Point, Trend, mean, number, span
from aha.recipe.algorithms import algorithm_of
from aha.recipe.document import Keys

Diagnoses = Iterator[Diagnosis]

CUT_OFF, MOSTLY_CUT_OFF = 0.3, 0.6
"""Share of completions ended by the length limit. A cut-off completion is judged as wrong whatever it was about to say
(DAPO, arXiv:2503.14476, section 3.4, calls it reward noise). The shares are ours: beyond three in five the limit, and
not the policy, decides most rewards."""
NO_SIGNAL, NEARLY_NO_SIGNAL = 0.8, 0.95
"""Share of groups whose rewards are all equal: they have no advantage and so no gradient (DAPO, section 3.2). At 0.8 a
step learns from one prompt in five."""
SOLVED = 0.9
"""Mean outcome from which a policy is rightly sure of itself, and data without signal are too easy."""
DRIFT, DRIFT_FLOOR = 3.0, 1e-4
"""Growth of the trainer-engine difference, and the value (nats) below which it is rounding: float32 stays under it.
Honest bfloat16 runs stay level within a factor of two; a stale tied head grew ninefold in six steps."""
FAR = 0.02
"""Nats: the most that honest bfloat16 runs have shown; the trainer itself ends a run at 0.05."""
COLLAPSED, SHARP = 0.2, 0.1
"""Entropy against where it began, and in nats per token. Reward is bought with entropy, and stops rising when it is
spent (Cui et al., arXiv:2505.22617); in our tiny runs a policy at 0.1 had nothing left for a reward to select."""
LONGER, BETTER = 1.3, 0.02
"""Growth of the mean completion, and the gain in outcome that excuses it. GRPO's own loss favours long wrong answers
(Dr. GRPO, arXiv:2503.20783, section 3.1)."""
CLEAR_GAIN = 2.0
"""Standard errors of a gain that speaks for a policy: weaker than the proof asked for against it."""
KL_HIGH, KL_BLOWN = 0.5, 2.0
"""Nats per token, by the k3 estimator that TRL logs. Runs with a penalty usually stay below 0.1 (DeepSeekMath,
arXiv:2402.03300, uses a penalty of 0.04 to keep it so); k3 grows as an exponential, so one outlier is 10 and more."""


def truncation_starved(evidence: Evidence) -> Diagnoses:
    """The length limit ends too many completions."""
    points = evidence.lately("truncated")
    if not points or mean(points) < CUT_OFF:
        return
    limit = evidence.grpo.rollout.max_tokens
    lengths = sorted(
        length
        for row in evidence.rollouts
        if row.get("truncated") is False and (length := number(row.get("tokens"))) is not None
    )
    yield Diagnosis(
        "truncation-starved",
        "severe" if mean(points) >= MOSTLY_CUT_OFF else "warn",
        f"{mean(points):.0%} of the completions were cut off at {limit} tokens, {_steps(points)}"
        + (_ended(lengths) if evidence.rollouts else ""),
        ("grpo", "rollout", "max_tokens"),
        _longer(evidence, limit) + ("" if lengths else "; and see that the stage before teaches the model to stop"),
    )


def _ended(lengths: list[float]) -> str:
    """How long the completions were that ended by themselves."""
    if not lengths:
        return "; none ended by itself"
    return f"; of those that ended by themselves, 95 % did within {lengths[int(0.95 * (len(lengths) - 1))]:.0f} tokens"


def _longer(evidence: Evidence, limit: int) -> str:
    scratch = evidence.recipe.model.from_scratch
    room = scratch.context - evidence.grpo.rollout.max_prompt_tokens if scratch else None
    if room is not None and room <= limit:
        return f"there is no room above {limit}: raise model.from_scratch.context first"
    wanted = 2 * limit if room is None else min(2 * limit, room)
    return f"raise it from {limit} to {wanted}" + (", if the model's context has room" if room is None else "")


def no_signal(evidence: Evidence) -> Diagnoses:
    """Nearly all groups are all right or all wrong. Where every reward of a step is equal, see `dead_reward`."""
    points, spread = evidence.lately("no_signal"), evidence.lately("reward_std")
    if not points or mean(points) < NO_SIGNAL or (spread and mean(spread) == 0):
        return
    reward = evidence.lately(f"reward/{evidence.outcome}") or evidence.lately("reward")
    easy = bool(reward) and mean(reward) >= 0.5
    level = f"; mean {evidence.outcome} {mean(reward):.2f}" if reward else ""
    size = evidence.grpo.group_size
    found = f"in {mean(points):.0%} of the groups all {size} rewards were equal"
    if evidence.chosen:
        found = f"{mean(points):.0%} of the batch stayed without signal after all rounds of dynamic sampling"
    yield Diagnosis(
        "no-signal-groups",
        "severe" if mean(points) >= NEARLY_NO_SIGNAL else "warn",
        f"{found}, {_steps(points)}{level}",
        ("grpo", "data") if easy else ("grpo", "group_size"),
        "the problems are too easy for this policy: take harder ones, or end the stage here"
        if easy
        else f"the problems are too hard for this policy: raise group_size from {size} to {2 * size}, or take easier ones",
    )


def mismatch_drift(evidence: Evidence) -> Diagnoses:
    """Trainer and engine compute ever more different log-probabilities of the same tokens."""
    for (gap,) in evidence.trends("mismatch"):
        if gap.rises and gap.after > max(DRIFT_FLOOR, DRIFT * gap.before):
            yield Diagnosis(
                "mismatch-drift",
                "severe" if gap.after > FAR else "warn",
                f"trainer and engine differ by {_moved(gap, '.2g')} nats per token",
                ("grpo", "rollout", "engine"),
                "the engine is losing the trainer's weights or rounds differently: compare a few steps with "
                "`engine: transformers`; if those stay level, the weight transfer is at fault",
            )
            return


def entropy_collapse(evidence: Evidence) -> Diagnoses:
    """The policy has made up its mind before it was right. `few_distinct` stands in where entropy is not logged."""
    solved = evidence.correct is not None and evidence.correct >= SOLVED
    for (entropy,) in evidence.trends("entropy"):
        if not solved and entropy.falls and entropy.after < min(SHARP, COLLAPSED * entropy.before):
            evidence_text = f"entropy went {_moved(entropy, '.3f')} nats per token"
            if evidence.correct is not None:
                evidence_text += f", at a mean {evidence.outcome} of {evidence.correct:.2f}"
            yield Diagnosis("entropy-collapse", "severe", evidence_text, *keep_exploring(evidence))
            return


def keep_exploring(evidence: Evidence) -> tuple[Keys, str]:
    """The recipe's key against a collapsed policy, and what to do there."""
    block = evidence.grpo
    if algorithm_of(block).clip_high is None:
        return ("grpo", "clip_high"), "set it to 0.28 (DAPO's clip-higher), or lower grpo.learning_rate"
    return ("grpo", "learning_rate"), f"lower it from {block.learning_rate:g} to {block.learning_rate / 2:g}"


def length_hack(evidence: Evidence) -> Diagnoses:
    """Completions grow, and are no better for it."""
    for length, outcome in evidence.trends("completion_length", f"reward/{evidence.outcome}"):
        better = outcome.errors > CLEAR_GAIN or outcome.after - outcome.before > BETTER
        if length.rises and length.after > LONGER * length.before and not better:
            others = _risers(evidence)
            keys: Keys = ("grpo", "algorithm")
            advice = f"{evidence.grpo.algorithm} pays for length: dr_grpo does not"
            if algorithm_of(evidence.grpo).average != "completion":
                keys, advice = ("grpo", "rewards"), "add a cost of length, for example soft_overlong: 1.0"
            if others:
                keys, advice = ("grpo", "rewards", others[0]), "it rose with the length: lower its weight"
            yield Diagnosis(
                "length-hack",
                "warn",
                f"the mean completion went {_moved(length, '.0f')} tokens, while {evidence.outcome} went {_moved(outcome, '.2f')}",
                keys,
                advice,
            )
            return


def reward_hack(evidence: Evidence) -> Diagnoses:
    """The total rises while what was meant by it falls."""
    for total, outcome in evidence.trends("reward", f"reward/{evidence.outcome}"):
        if total.rises and outcome.falls:
            others = _risers(evidence)
            yield Diagnosis(
                "reward-hack",
                "severe",
                f"the total reward went {_moved(total, '.2f')}, while {evidence.outcome} went {_moved(outcome, '.2f')}",
                ("grpo", "rewards", others[0]) if others else ("grpo", "rewards"),
                "it is what rose instead: lower its weight, or close the way that earns it"
                if others
                else "read the newest completions: which reward is earned without a right answer?",
            )
            return


def _risers(evidence: Evidence) -> list[str]:
    """The rewards beside the outcome that rose, by what they added to the total."""
    gains = {}
    for name, weight in evidence.weights.items():
        found = [] if name == evidence.outcome else evidence.trends(f"reward/{name}")
        if found and found[-1][0].rises:
            gains[name] = weight * (found[-1][0].after - found[-1][0].before)
    return sorted((name for name in gains if gains[name] > 0), key=lambda name: -gains[name])


def kl_blow_up(evidence: Evidence) -> Diagnoses:
    """The policy is far from the model it started from."""
    points = evidence.lately("kl")
    if not points or mean(points) < KL_HIGH:
        return
    block = evidence.grpo
    yield Diagnosis(
        "kl-blow-up",
        "severe" if mean(points) >= KL_BLOWN else "warn",
        f"KL to the starting model {mean(points):.2f} nats per token, {_steps(points)}; "
        f"it was {evidence.curve('kl')[0].value:.2g} at step {evidence.curve('kl')[0].step}",
        ("grpo", "learning_rate"),
        f"lower it from {block.learning_rate:g} to {block.learning_rate / 2:g}, or raise grpo.beta from {block.beta:g}",
    )


def _steps(points: list[Point]) -> str:
    return span([point.step for point in points])


def _moved(found: Trend, form: str) -> str:
    return f"from {found.before:{form}} ({found.first}) to {found.after:{form}} ({found.last})"


CURVE_RULES = (
    truncation_starved,
    no_signal,
    mismatch_drift,
    entropy_collapse,
    length_hack,
    reward_hack,
    kl_blow_up,
)
