"""What no formula gives, in one table, each with its reason; and how the predictions came out.

A number stands here when it was measured on a run that no formula explains: the size of imported libraries, what an engine
allocates for itself. What a formula gives is corrected in the formula. Peak memory (VmHWM of the stage's process, GiB) as
`aha plan` predicts it and as `done.json` has it, on one thread of an AMD EPYC with AVX512-BF16: tiny in float32, SmolLM2-135M
in mixed bfloat16. A few steps of each; the recipe's batches and lengths where nothing else is said.

    ========================================================  =========  ========  =====
    used to correct the formulas and to fill the table        predicted  observed  ratio
    ========================================================  =========  ========  =====
    SmolLM2 cpt, 4 x 512                                           5.41      5.15   1.05
    SmolLM2 cpt, micro_batch 1                                     3.80      3.90   0.97
    SmolLM2 cpt, 4 x 1024 (its one step has no moments yet)        7.69      6.87   1.12
    SmolLM2 cpt, gradient_checkpointing                            3.52      3.62   0.97
    SmolLM2 distill, 4 x 256                                       4.32      4.06   1.06
    SmolLM2 distill, 12 x 256                                      6.43      6.74   0.95
    SmolLM2 grpo, micro_batch 8                                    6.42      6.25   1.03
    SmolLM2 grpo, max_tokens 128, kv_cache_gib 2                   9.79      9.17   1.07
    tiny cpt, 512 x 64                                             2.41      2.71   0.89
    tiny cpt and distill, in bfloat16                              0.67      0.72   0.94
    tiny grpo, in bfloat16                                         2.13      2.33   0.92
    tiny grpo, micro_batch 256                                     3.42      3.04   1.13
    ========================================================  =========  ========  =====

    ========================================================  =========  ========  =====
    held out: predicted before they were run                  predicted  observed  ratio
    ========================================================  =========  ========  =====
    tiny cpt                                                       0.71      0.72   0.99
    tiny distill                                                   0.71      0.73   0.97
    tiny grpo                                                      2.40      2.41   1.00
    tiny cpt, 512 x 64, all of its million tokens                  2.46      2.81   0.88
    SmolLM2 cpt, four steps                                        5.41      5.30   1.02
    SmolLM2 grpo, three steps                                      7.80      7.10   1.10
    ========================================================  =========  ========  =====

    ========================================================  =========  ========  =====
    run again once GRPO's scores came in pieces too           predicted  observed  ratio
    ========================================================  =========  ========  =====
    SmolLM2 grpo, micro_batch 8, prompts_per_step 2                6.29      6.27   1.00
    tiny grpo                                                      2.40      2.33   1.03
    tiny grpo, micro_batch 256                                     3.42      3.26   1.05
    ========================================================  =========  ========  =====

GRPO is predicted for sequences of full length, and they are shorter. On a GPU nothing has been measured.
"""

from __future__ import annotations

MEASURED = {
    "python and torch": 0.58,  # GiB: imports of a supervised stage on CPU (torch 2.13, transformers 5.23, TRL 1.13),
    #                            half a GiB at rest, and the kernels' code that the first steps page in
    "python, torch and vllm": 0.76,  # GiB: the same of the GRPO stage, before an engine starts
    "vllm on cpu": 0.08,  # GiB: what starting the engine adds beside its weights, cache and buffers
    "tokenizer": 1200.0,  # bytes of host memory for each word: the strings and both tables of a BPE tokenizer, read twice
    "cuda context": 0.6,  # GiB: CUDA, cuBLAS and the kernels' code; not yet measured here
    "nccl": 1.0,  # GiB: communication buffers of several processes; not yet measured here
    "vllm asleep": 1.0,  # GiB: CUDA graphs and buffers that level-1 sleep leaves; not yet measured here
    "heap": 0.12,  # share of a CPU's activations, held beside them by an allocator that cannot use its pieces again: 0 to
    #                0.3 in the runs above, most where the pieces are just under the 32 MiB that glibc maps one by one
    "packing": 60.0,  # bytes of host memory for each token of the window that is packed: two arrays, and an object for
    #                   each sequence of some thirty tokens
}
"""GiB, except `tokenizer`, `heap` and `packing`."""
