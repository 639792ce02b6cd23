"""One evaluation: its checkpoints, one after another, through one engine.

Every sample is kept, one line each, in eval/<checkpoint>/<task>.jsonl; results.json has the shares. A sample whose
grader gave no verdict is counted as unjudged and is in no share.
"""

from __future__ import annotations

import re
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from aha import handoff
from aha.data.chat import messages_of, prompt_ids
from aha.data.sources import read_problems
from aha.errors import DataError
from aha.evals.stats import majority, pass_at_k, share
from aha.models.load import load_tokenizer, read_weights
from aha.recipe.plan import EvalPlan, Plan
from aha.recipe.schema import Eval, Task, asked_of
from aha.rewards.golds import ALLOWED, check_golds
from aha.rewards.honest import Tags
from aha.rewards.scorer import DEADLINE, Judged, Scorer
from aha.rollout.engine import Engine, EngineLimits, Generation, Sampling
from aha.rollout.start import choose_engine, start_engine
from aha.rundir import RunDir, read_object, write_json, write_jsonl
from aha.seeds import seed_of
from aha.train.trainer import mixed_bf16
from aha.types import Checkpoint, Completion, Problem, Results

FAILURES = 0.05
MAX_SEQUENCES = 256


def evaluate(plan: Plan, evaluation: EvalPlan, run: RunDir) -> None:
    """Measure every target of one evaluation and add it to results.json."""
    settings = plan.recipe.eval
    assert settings is not None
    tasks = [task for task in settings.tasks if task.name in evaluation.tasks]
    problems = {task.name: _problems(plan, task, run) for task in tasks}
    engine: Engine | None = None
    for target in evaluation.targets:
        checkpoint = handoff.checkpoint_of(target, plan.recipe, run.root)
        tokenizer = load_tokenizer(checkpoint)
        if engine is None:
            engine = _start(plan, settings, checkpoint, tokenizer, tasks, problems)
        else:
            engine.sync(read_weights(checkpoint))
        found = {}
        for task in tasks:
            if not asked_of(task, target):
                continue
            sampled = _sample(engine, tokenizer, settings, task, problems[task.name], plan)
            judged = _grade(task, sampled)
            path = run.root / "eval" / target / f"{task.name}.jsonl"
            found[task.name] = asdict(_write(path, task, settings, sampled, judged))
        results = read_object(run.root / "results.json") or {}
        measured = {"fingerprint": checkpoint.fingerprint, "files": evaluation.files, "tasks": found}
        write_json(run.root / "results.json", results | {target: measured})


def _problems(plan: Plan, task: Task, run: RunDir) -> list[Problem]:
    """A task's problems, but for those whose own answer its grader does not take: see `rewards/golds.py`."""
    problems, _ = read_problems(task.data, plan.recipe.seed)
    chat = plan.recipe.chat
    with _grader(task) as scorer:
        allowed = max(ALLOWED, *(source.bad_rows for source in task.data))
        found = check_golds(scorer, problems, Tags(chat.think, chat.answer), allowed, where=f"eval task {task.name}")
    remarks = [*scorer.notes, *([] if found.whole else found.remarks())]
    with (run.root / "eval" / "remarks.txt").open("a") as file:
        file.writelines(f"{task.name}: {remark}\n" for remark in remarks)
    return found.kept


def _grader(task: Task) -> Scorer:
    rewards = {task.grader: {"weight": 1.0, **task.params}}
    return Scorer(rewards, DEADLINE, 2, FAILURES, f"eval.tasks.{task.name}")


def _prompt(tokenizer: PreTrainedTokenizerBase, task: Task, problem: Problem, system: str | None) -> list[int]:
    if task.raw:
        return list(tokenizer(problem.prompt, add_special_tokens=False).input_ids)
    return prompt_ids(tokenizer, messages_of(problem.prompt, system))


def _start(
    plan: Plan,
    settings: Eval,
    checkpoint: Checkpoint,
    tokenizer: PreTrainedTokenizerBase,
    tasks: list[Task],
    problems: dict[str, list[Problem]],
) -> Engine:
    longest = max(
        len(_prompt(tokenizer, task, problem, plan.recipe.chat.system))
        for task in tasks
        for problem in problems[task.name]
    )
    dtype = "bfloat16" if mixed_bf16(plan.device, plan.recipe.model.dtype) else "float32"  # what rollouts are drawn in
    limits = EngineLimits(longest, settings.max_tokens, MAX_SEQUENCES, memory_share=0.85, dtype=dtype)
    return start_engine(choose_engine(settings.engine), checkpoint.path, limits, plan.recipe.seed)


Sample = tuple[Problem, int, Completion]


def _sample(
    engine: Engine,
    tokenizer: PreTrainedTokenizerBase,
    settings: Eval,
    task: Task,
    problems: list[Problem],
    plan: Plan,
) -> list[Sample]:
    """`settings.samples` completions per problem, each with its own seed. Samples of one problem stand together."""
    if not problems:
        raise DataError(f"eval task {task.name} has no problems")
    work = [(problem, sample) for problem in problems for sample in range(settings.samples)]
    prompts = [_prompt(tokenizer, task, problem, plan.recipe.chat.system) for problem, _ in work]
    seeds = [seed_of(plan.recipe.seed, task.name, problem.id, sample) for problem, sample in work]
    sampling = Sampling(task.max_tokens or settings.max_tokens, settings.temperature, settings.top_p)
    drawn: list[Generation] = engine.generate(prompts, sampling, seeds)
    texts = tokenizer.batch_decode([generation.token_ids for generation in drawn], skip_special_tokens=True)
    return [
        (
            problem,
            sample,
            Completion(
                text,
                len(generation.token_ids),
                truncated=generation.truncated,
                think=plan.recipe.chat.think,
                answer=plan.recipe.chat.answer,
            ),
        )
        for (problem, sample), generation, text in zip(work, drawn, texts, strict=True)
    ]


def _grade(task: Task, sampled: list[Sample]) -> list[Judged]:
    with _grader(task) as scorer:
        return scorer.score([completion for _, _, completion in sampled], [problem for problem, _, _ in sampled], 1)


def _write(path: Path, task: Task, settings: Eval, sampled: list[Sample], judged: list[Judged]) -> Results:
    write_jsonl(path, (_line(*one, verdict) for one, verdict in zip(sampled, judged, strict=True)))
    groups = [list(group) for _, group in groupby(zip(sampled, judged, strict=True), key=lambda pair: pair[0][0].id)]
    return _summary(task.name, settings, groups)


def _line(problem: Problem, sample: int, completion: Completion, judged: Judged) -> dict[str, Any]:
    (verdict,) = judged.verdicts.values()
    return {
        "problem_id": problem.id,
        "sample": sample,
        "prompt": problem.prompt,
        "answer": problem.answer,
        "completion": completion.text,
        "tokens": completion.tokens,
        "truncated": completion.truncated,
        "value": verdict.value,
        "reason": verdict.reason,
    }


def _summary(task: str, settings: Eval, groups: list[list[tuple[Sample, Judged]]]) -> Results:
    means, votes = [], []
    passes: dict[int, list[float]] = {k: [] for k in settings.ks}
    completions = [sample[2] for group in groups for sample, _ in group]
    unjudged = 0
    for group in groups:
        known = [(sample[2], judged.total) for sample, judged in group if judged.total is not None]
        unjudged += len(group) - len(known)
        if not known:
            continue
        right = [total >= 1.0 for _, total in known]
        means.append(sum(right) / len(right))
        votes.append(majority([final_answer(completion) for completion, _ in known], right))
        for k in settings.ks:
            if k <= len(right):
                passes[k].append(pass_at_k(len(right), sum(right), k))
    return Results(
        task,
        len(groups),
        settings.samples,
        share(means),
        {k: share(values) for k, values in passes.items()},
        share(votes) if settings.samples > 2 else None,
        sum(completion.tokens for completion in completions) / len(completions),
        sum(completion.truncated for completion in completions) / len(completions),
        unjudged,
    )


def final_answer(completion: Completion) -> str:
    """What a majority vote counts as the answer: the last answer block or box, else the last line."""
    text, (opened, closed) = completion.text, map(re.escape, completion.answer)
    found = re.findall(rf"{opened}(.*?){closed}|\\boxed\{{([^{{}}]*)\}}", text[-4000:], re.DOTALL)
    if found:
        return " ".join((found[-1][0] or found[-1][1]).split())
    return (text.strip().splitlines() or [""])[-1].strip()[:200]
