"""What ``speed_tries.py`` tries that drivesim does not have: networks and loops that do the same in another way.

F frames   C channels   H, W height and width   N = H * W   G groups
"""

from __future__ import annotations

import queue
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from drivesim.models.blocks import Norm, ResBlock, channels_last, to_tokens
from drivesim.models.temporal import Call, TemporalConvBlock

__all__ = ["contiguous", "fused", "has_bfloat16", "in_a_thread", "norm_modulate_silu"]


def contiguous(network: nn.Module) -> nn.Module:
    """Weights in the layout that training leaves them in; what ``accelerate`` does otherwise is done."""
    network = network.eval().requires_grad_(False)
    for weight in network.parameters():
        weight.data = weight.data.contiguous()
    return network


def fused(network: nn.Module) -> nn.Module:
    """Residual and temporal blocks that normalise, modulate and activate in one sweep over memory behind that for the statistics."""
    for module in network.modules():
        if isinstance(module, ResBlock) and isinstance(module.norm1, Norm):
            module.forward = types.MethodType(_res_block, module)  # type: ignore[method-assign]
        elif isinstance(module, TemporalConvBlock) and isinstance(module.norm1, Norm):
            module.change = types.MethodType(_temporal_change, module)  # type: ignore[method-assign]
    return network


def norm_modulate_silu(norm: Norm, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
    """SiLU(norm(x) (1 + scale) + shift) as SiLU(a x + b): x (F, C, H, W), scale and shift (F, C, 1, 1)."""
    tokens = to_tokens(channels_last(x)).unflatten(2, (norm.num_groups, -1))  # f n g c
    variance, mean = torch.var_mean(tokens, dim=(1, 3), correction=0)
    inverse = torch.rsqrt(variance + norm.eps)
    a = (inverse[..., None] * norm.weight.view(norm.num_groups, -1)).flatten(1)
    b = norm.bias - (mean[..., None] * a.unflatten(1, (norm.num_groups, -1))).flatten(1)
    a, b = a[..., None, None], b[..., None, None]
    if scale is not None and shift is not None:
        a, b = a * (1 + scale), b * (1 + scale) + shift
    return nnf.silu(torch.addcmul(b, x, a), inplace=True)


def _res_block(block: ResBlock, x: Tensor, embedding: Tensor) -> Tensor:
    hidden = block.conv1(norm_modulate_silu(block.norm1, x))
    scale, shift = block.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
    return block.skip(x) + block.conv2(norm_modulate_silu(block.norm2, hidden, scale, shift))


def _temporal_change(block: TemporalConvBlock, z: Tensor, call: Call) -> Tensor:
    hidden, context = norm_modulate_silu(block.norm1, z), call.context_like(z)
    if context is not None:
        hidden = torch.cat([hidden, context.to(hidden.dtype)], dim=1)
    hidden = block.conv1(hidden, call.frames)
    scale, shift = block.modulation(call.embedding)[:, :, None, None].chunk(2, dim=1)
    return block.conv2(norm_modulate_silu(block.norm2, hidden, scale, shift), call.frames)


def has_bfloat16() -> bool:
    """Does the processor multiply bfloat16 itself?"""
    info = Path("/proc/cpuinfo")
    words = info.read_text().split() if info.exists() else []
    return "avx512_bf16" in words or "amx_bf16" in words


def in_a_thread(recorder: Any, steps: Iterator[Any]) -> None:
    """Write steps in a thread that is at most one behind, while the next is computed; its error is raised here."""
    waiting: queue.Queue[Any] = queue.Queue(maxsize=1)
    failed: list[BaseException] = []

    def write() -> None:
        while (step := waiting.get()) is not None:
            try:
                if not failed:
                    recorder.write(step)
            except BaseException as error:
                failed.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for step in steps:
            waiting.put(step)
            if failed:
                break
    finally:
        waiting.put(None)
        thread.join()
    if failed:
        raise failed[0]
