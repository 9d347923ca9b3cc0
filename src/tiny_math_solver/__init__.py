"""Teach a small language model maths with GRPO and rewards that only check the answer."""

import logging

for _name in ("torchao", "bitsandbytes", "torch.utils._pytree"):  # tell of kernels for machines that this one is not
    logging.getLogger(_name).setLevel(logging.ERROR)
