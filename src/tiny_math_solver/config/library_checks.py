"""Checks of settings that transformers and TRL would refuse only after the evaluations before training."""

from typing import Any

from transformers import Trainer, get_scheduler
from transformers.utils import is_liger_kernel_available

from tiny_math_solver.support.errors import UserError


def check_arguments(args: Any) -> None:
    """Raise UserError if a GRPOConfig's optimizer or schedule cannot be built, or a package is missing."""
    import torch

    weight = torch.nn.Parameter(torch.zeros(1))
    try:
        Trainer.get_optimizer_cls_and_kwargs(args)
    except (ValueError, ImportError) as error:
        arguments = f", optim_args {args.optim_args}" if args.optim_args else ""
        raise UserError(f"grpo.optim {args.optim.value}{arguments}: {error}") from None
    try:
        optimizer, special = torch.optim.SGD([weight]), args.lr_scheduler_kwargs
        get_scheduler(args.lr_scheduler_type, optimizer, 1, 10, scheduler_specific_kwargs=dict(special or {}))
    except (ValueError, TypeError) as error:
        raise UserError(
            f"grpo.lr_scheduler_type {args.lr_scheduler_type.value}: {error}; see lr_scheduler_kwargs"
        ) from None
    if args.use_liger_kernel and not is_liger_kernel_available():
        raise UserError("grpo.use_liger_kernel: the package liger-kernel is not installed")
    if args.use_vllm:
        from trl.import_utils import is_vllm_available

        if not is_vllm_available():
            raise UserError("grpo.use_vllm: vLLM is not installed; the engine does not need it")
    if not args.dataloader_num_workers:
        for name in ("dataloader_multiprocessing_context", "dataloader_persistent_workers"):
            if getattr(args, name):
                raise UserError(f"grpo.{name} needs grpo.dataloader_num_workers above 0")
