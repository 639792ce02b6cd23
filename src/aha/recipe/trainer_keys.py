"""What TRL calls the things that a recipe names itself.

People know these names. In a `trainer:` block they would silently argue with the planner, so they are refused there;
anywhere in a recipe they are answered with the key that is meant.
"""

from __future__ import annotations

RECIPE_KEYS = {
    "model_name_or_path": "model",
    "attn_implementation": "model.attention",
    "torch_dtype": "model.dtype",
    "chat_template": "chat.template",
    "chat_template_path": "chat.template",
    "use_liger_kernel": "kernels",
    "report_to": "tracking",
    "lr_scheduler_type": "schedule",
    "warmup_ratio": "warmup",
    "warmup_steps": "warmup",
    "per_device_train_batch_size": "micro_batch",
    "logging_steps": "log_every",
    "save_steps": "save_every",
    "num_train_epochs": "epochs",
    "max_steps": "steps",
    "max_length": "max_tokens",
    "max_seq_length": "max_tokens",
    "num_generations": "group_size",
    "num_iterations": "iterations",
    "epsilon": "clip_low",
    "epsilon_high": "clip_high",
    "loss_type": "algorithm",
    "importance_sampling_level": "ratio",
    "scale_rewards": "advantage",
    "mask_truncated_completions": "mask_truncated",
    "use_bias_correction_kl": "unbiased_kl",
    "sync_ref_model": "reference_sync",
    "ref_model_sync_steps": "reference_sync.every",
    "ref_model_mixup_alpha": "reference_sync.share",
    "entropy_coef": "entropy_bonus",
    "top_entropy_quantile": "high_entropy_share",
    "reward_funcs": "rewards",
    "reward_weights": "rewards",
    "multi_objective_aggregation": "combine",
    "max_completion_length": "rollout.max_tokens",
    "max_prompt_length": "rollout.max_prompt_tokens",
    "use_vllm": "rollout.engine",
    "vllm_mode": "rollout.mode",
    "vllm_gpu_memory_utilization": "rollout.memory_share",
    "vllm_tensor_parallel_size": "rollout.tensor_parallel",
    "vllm_importance_sampling_cap": "rollout.correction_cap",
    "vllm_importance_sampling_clip_max": "rollout.correction_cap",
    "dataset_name": "data",
    "deepspeed": "hardware.parallel",
    "fsdp": "hardware.parallel",
}
"""TRL's key -> the recipe's."""

PLANNED = {
    "gradient_accumulation_steps": "the plan works it out from batch_size (or prompts_per_step and group_size)",
    "generation_batch_size": "the plan works it out from prompts_per_step and group_size",
    "steps_per_generation": "the plan works it out from prompts_per_step and group_size",
    "output_dir": "the run directory decides it",
    "run_name": "name, at the top of the recipe",
    "seed": "seed, at the top of the recipe",
    "data_seed": "seed, at the top of the recipe",
    "bf16": "model.dtype",
    "fp16": "model.dtype",
    "use_cpu": "hardware.device",
    "save_strategy": "save_every",
    "logging_strategy": "log_every",
    "resume_from_checkpoint": "nothing: the same command resumes",
    "packing": "nothing: the stage packs the data itself",
    "eval_strategy": "eval, at the top of the recipe",
    "use_adaptive_entropy": "grpo.entropy_bonus: TRL saves no adaptive coefficient, so a resumed run would differ",
    "temperature": "rollout.temperature",
    "top_p": "rollout.top_p",
}
"""TRL's key -> who decides it, where no single key of the recipe does."""
