"""vLLM inside the trainer's process: the only door to it.

On a GPU new weights go through vLLM's own `load_weights`. On CPU that cannot work: the backend packs every linear
weight after loading and drops the original. There `reload_weights` rebuilds the layers one by one, with one trap:
with tied embeddings vLLM keeps a separate packed output head that the reload leaves as it was, so completions would
be sampled from a policy whose last layer is old. `_renew_tied_head` packs it again.

The CPU backend also draws slowly for requests with seeds of their own: an exponential variate for every entry of the
vocabulary, 1 ms per new token at 49k entries, a third of the time of a 135M model. `draw` needs one uniform number.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from aha.errors import EngineError
from aha.rollout.channel import Receives
from aha.rollout.engine import EngineLimits, Generation, Sampling, end_tokens, run_to_end

SLEEPS = ("weights", "kv_cache")
"""What vLLM puts to sleep, by its own tags."""


def _prepare_environment(limits: EngineLimits) -> None:
    """vLLM reads these while it is imported. One process: the engine must see the trainer's weights."""
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(max(1, round(limits.kv_cache_gib))))
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")


class VllmEngine(Receives):
    """An in-process vLLM engine.

    Raises EngineError when vLLM cannot start on this machine.
    """

    name = "vllm"

    def __init__(self, model_path: str, limits: EngineLimits, seed: int):
        _prepare_environment(limits)
        from vllm import LLM  # after the environment: vLLM reads it on import

        self.on_gpu = torch.cuda.is_available()
        self._sleeps = limits.sleep and self.on_gpu
        self._asleep: set[str] = set()
        length = limits.max_prompt_tokens + limits.max_new_tokens
        options: dict[str, Any] = {
            "model": model_path,
            "dtype": limits.dtype,
            "max_model_len": length,
            "max_num_seqs": limits.max_sequences,
            "tensor_parallel_size": limits.tensor_parallel,
            "logprobs_mode": "processed_logprobs",  # of the distribution that is sampled, temperature included
            "generation_config": "vllm",  # the recipe's sampling, not the checkpoint's
            "skip_tokenizer_init": True,  # token ids in, token ids out
            "model_impl": "vllm",  # its transformers backend patches the trainer's own model classes
            "enable_prefix_caching": True,  # a group shares its prompt; `sync` forgets what the old weights made
            "seed": seed,
        }
        if self.on_gpu:
            options |= {"gpu_memory_utilization": limits.memory_share, "enable_sleep_mode": self._sleeps}
        else:
            # A prefill cut in two makes vLLM rewind the request's random generator, which CPU generators cannot do:
            # leave room for every prompt at once.
            options |= {
                "enforce_eager": True,
                "max_num_batched_tokens": max(2048, limits.max_sequences * length),
                "block_size": 16,  # of its default, 128 tokens, a short prompt never fills one that could be shared
            }
        if "RANK" in os.environ:  # one of several processes: vLLM finds their group, and makes this one its own of it
            options["distributed_executor_backend"] = "external_launcher"
        if limits.tensor_parallel > 1 and not self.on_gpu:
            _add_up_over_gloo()
        self._ends = end_tokens(model_path)
        random_state = torch.get_rng_state()
        try:
            self._llm: Any = LLM(**options)
        except Exception as error:  # whatever vLLM raises, the user needs to know which engine and which model
            told = " ".join(str(error).split())  # in one line: a server's log is asked for its last
            raise EngineError(f"vLLM could not start on {model_path}: {type(error).__name__}: {told}") from error
        finally:
            torch.set_rng_state(random_state)  # vLLM seeds the whole process; training has its own seed
        if not self.on_gpu:
            self._runner.sampler.topk_topp_sampler.forward = draw

    @property
    def _runner(self) -> Any:
        return self._llm.llm_engine.model_executor.driver_worker.worker.model_runner

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling, seeds: Sequence[int]) -> list[Generation]:
        self._wake("weights", "kv_cache")
        drawn = run_to_end(self, prompts, sampling, seeds)
        self._sleep()
        return drawn

    def submit(self, prompts: Sequence[Sequence[int]], sampling: Sampling, seeds: Sequence[int]) -> list[str]:
        from vllm import SamplingParams

        params = [
            SamplingParams(
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_tokens=sampling.max_tokens,
                logprobs=0,
                stop_token_ids=self._ends,
                seed=seed,
                detokenize=False,
            )
            for seed in seeds
        ]
        inputs = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        names = self._llm.enqueue(inputs, params, use_tqdm=False)
        return [name.partition("-")[0] for name in names]  # outputs bear the name before vLLM's own "-…"

    def step(self) -> list[tuple[str, Generation]]:
        return [
            (output.request_id, _generation(output.outputs[0]))
            for output in self._llm.llm_engine.step()
            if output.finished
        ]

    def abort(self, names: Iterable[str]) -> None:
        self._llm.llm_engine.abort_request(list(names))

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        from vllm import SamplingParams

        params = SamplingParams(max_tokens=1, prompt_logprobs=0, detokenize=False, temperature=1.0, seed=0)
        inputs = [{"prompt_token_ids": list(sequence)} for sequence in sequences]
        slept = self._asleep == set(SLEEPS)
        self._wake("weights", "kv_cache")
        outputs = self._llm.generate(inputs, params, use_tqdm=False)
        self._forget()  # a cached prefix would change what is generated next, by a rounding
        if slept:
            self._sleep()
        return [
            [step[token].logprob for step, token in zip(output.prompt_logprobs[1:], sequence[1:], strict=True)]
            for output, sequence in zip(outputs, sequences, strict=True)
        ]

    def sync(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        self._wake("weights")
        if self.on_gpu:
            self._runner.model.load_weights(weights)
        else:
            self._runner.reload_weights(weights_iterator=((name, weight.detach()) for name, weight in weights))
            self._renew_tied_head()
        self._forget()

    def _forget(self) -> None:
        if not self._llm.reset_prefix_cache():
            raise EngineError("vLLM kept its prefix cache: completions would be drawn from a half-old policy")

    def _wake(self, *tags: str) -> None:
        """Bring back what sleeps of these. vLLM would map memory that is awake a second time, and serves nothing, for
        ever, while anything still sleeps."""
        if sleeping := [tag for tag in tags if tag in self._asleep]:
            self._llm.wake_up(tags=sleeping)
            self._asleep.difference_update(sleeping)

    def _sleep(self) -> None:
        if self._sleeps:
            self._llm.sleep(level=1)
            self._asleep.update(SLEEPS)

    def _renew_tied_head(self) -> None:
        model = self._runner.model
        if not model.config.tie_word_embeddings:
            return
        head, embedding = model.lm_head, model.model.embed_tokens
        head.weight = torch.nn.Parameter(embedding.weight.detach().clone(), requires_grad=False)
        head.quant_method.process_weights_after_loading(head)


def _add_up_over_gloo() -> None:
    """On a CPU vLLM adds up slices in shared memory. With its external launcher all engines of a machine would take the same
    piece of it, which also outlives a process that was killed; and who waits there for a lost one waits for ever."""
    from vllm.distributed.device_communicators.cpu_communicator import CpuCommunicator

    CpuCommunicator._all_group_ranks_share_shm_group_name = lambda self: False  # type: ignore[method-assign]


def _generation(output: Any) -> Generation:
    logprobs = [step[token].logprob for step, token in zip(output.logprobs, output.token_ids, strict=True)]
    return Generation(list(output.token_ids), logprobs, output.finish_reason == "length")


def draw(
    logits: torch.Tensor, generators: dict[int, torch.Generator], k: torch.Tensor | None, p: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """One token per row of `logits` (rows, vocabulary), and the logprobs of what was drawn from, of the same shape.

    Inverse transform sampling with each request's own generator, in place of vLLM's sampler on CPU. In float64, whose
    rounding cannot reach a token of probability zero behind the last one that is left.
    """
    from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p

    logprobs = apply_top_k_top_p(logits, k, p).log_softmax(dim=-1, dtype=torch.float32)
    cumulative = logprobs.exp().cumsum(dim=-1, dtype=torch.float64)
    numbers = [torch.rand(1, generator=generators[row], dtype=torch.float64) for row in range(len(logits))]
    heights = torch.stack(numbers) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, heights, right=True).squeeze(1), logprobs
