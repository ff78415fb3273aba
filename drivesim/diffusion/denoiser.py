"""Denoiser: a function (x, sigma) -> x0, the best guess of the clean video under the noise.

One wrapper turns a network into a denoiser; after it nobody asks what the network predicts or how it is told known frames. Guidance binds
denoisers together into another denoiser, before any sampler runs. This file does not know samplers, schedules or what a label means.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from drivesim.diffusion.frame_mask import Known
from drivesim.diffusion.parameterization import Parameterization, parameterization_named
from drivesim.errors import DrivesimError

__all__ = [
    "Denoiser", "Labels", "Network", "call_network", "guided", "hold_known", "network_denoiser", "pushed",
    "window_denoiser",
]  # fmt: skip

Denoiser = Callable[[Tensor, Tensor], Tensor]
"""(x (b, t, c, h, w), sigma (b,)) -> x0 (b, t, c, h, w)."""

Labels = dict[str, Tensor] | None
"""Label name -> (b, t, ...); None = every label null."""


WAYS = ("slots", "encoder", "carried", "none")
"""How a network is told known frames; see ``frame_mask``. "carried" is slots and context at once."""


class Network(Protocol):
    """(x (b, t, c, h, w), sigma (b,) or (b, t), labels, context (b, t, c + 2, h, w) or None) -> like x.

    Its attribute ``context`` says how it is told known frames: "slots", "encoder", "carried" or "none" (also what no attribute means).
    """

    def __call__(self, x: Tensor, sigma: Tensor, labels: Any, context: Tensor | None, /) -> Tensor: ...


def call_network(network: Network, x: Tensor, sigma: Tensor, labels: Labels, known: Known | None) -> Tensor:
    """Call the network, telling it the known frames in its own way.

    Returns:
        The network's output (b, t, c, h, w); in known slots it may mean anything.

    Raises:
        DrivesimError: ``network.context`` is no way we know.
    """
    way = getattr(network, "context", "none")
    if way not in WAYS:
        raise DrivesimError(f"a network's context must be one of {', '.join(WAYS)}, not {way!r}")
    context = None
    if known is not None and way in ("slots", "carried"):
        x, sigma = known.insert(x, sigma)
    if known is not None and way in ("encoder", "carried"):
        context = known.tensor() if way == "encoder" else known.carried()
    return network(x, sigma, labels, context)


def network_denoiser(network: Network, parameterization: str | Parameterization, labels: Labels, known: Known | None = None) -> Denoiser:
    """A network bound to its labels and known frames. x0 of known frames is what is known."""
    meaning = parameterization_named(parameterization)

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        x0 = meaning.x0(call_network(network, x, sigma, labels, known), x, sigma)
        return x0 if known is None else known.keep(x0)

    return denoise


def pushed(full: Denoiser, *pushes: tuple[Denoiser, float], parallel: float = 1.0) -> Denoiser:
    """x0 + sum over pushes of (scale - 1) (x0 - x0 of a denoiser that is told less, or is worse); a scale of 1 costs no call.

    ``parallel``: share that is kept of what the sum has in the direction of x0, frame by frame (eta of adaptive projected guidance: Sadat
    et al. 2024). That part makes a picture only stronger: brighter lights, whiter roads, from window to window more so.
    """
    active = [(lesser, scale) for lesser, scale in pushes if scale != 1.0]
    if not active:
        return full

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        x0 = full(x, sigma)
        push = sum(((scale - 1.0) * (x0 - lesser(x, sigma)) for lesser, scale in active), start=torch.zeros_like(x0))
        return x0 + (push if parallel == 1.0 else push - (1.0 - parallel) * _along(push, x0))

    return denoise


def _along(push: Tensor, x0: Tensor) -> Tensor:
    """The part of ``push`` in the direction of ``x0``, frame by frame; none where x0 is all zero."""
    frame = (-3, -2, -1)
    length = x0.square().sum(frame, keepdim=True)
    return (push * x0).sum(frame, keepdim=True) / length.clamp(min=torch.finfo(length.dtype).tiny) * x0


def guided(full: Denoiser, told_less: Denoiser, scale: float) -> Denoiser:
    """Guidance, Eq. 4 on x0: f(l) + s (f(c, l) - f(l)), with ``full`` = f(c, l) and ``told_less`` = f(l).

    c is the context, l the labels. Guiding by labels alone is the same with f(l) and f(). Autoguidance (Karras et al. 2024, Eq. 3) is the
    same with a worse version of the network (less trained, or smaller) in place of one that is told less: both err alike, the worse one
    farther, so the way from it to ``full`` leads on to what neither reaches. Scale 1 is ``full`` itself, at no extra call.
    """
    return pushed(full, (told_less, scale))


def hold_known(denoiser: Denoiser, known: Known | None) -> Denoiser:
    """The same denoiser with known frames held at what is known.

    Guidance extrapolates every frame; held, the known ones move straight from noise to their values, so that a denoiser without context
    sees them at the sampler's own noise level.
    """
    if known is None:
        return denoiser
    return lambda x, sigma: known.keep(denoiser(x, sigma))


def window_denoiser(
    network: Network,
    parameterization: str | Parameterization,
    labels: Labels,
    known: Known | None = None,
    *,
    context_scale: float = 1.0,
    label_scale: float = 1.0,
    null_labels: Labels = None,
    worse: Network | None = None,
    autoguidance: float = 1.0,
    parallel: float = 1.0,
) -> Denoiser:
    """A network -> the denoiser that a rollout samples with: labels, known frames and all guidance bound in.

    ``null_labels`` is what f(c) is told instead of ``labels``; None = every label null.   ``worse``: the network of autoguidance, which is
    told the same as ``network``; None = no autoguidance.   ``parallel``: of all guidance together, see ``pushed``.
    """

    def told(labels: Labels, known: Known | None) -> Denoiser:
        return network_denoiser(network, parameterization, labels, known)

    context_scale = 1.0 if known is None else context_scale
    full = told(labels, known)
    pushes = [(told(labels, None), context_scale), (told(null_labels, known), label_scale)]
    if worse is not None:
        pushes.append((network_denoiser(worse, parameterization, labels, known), autoguidance))
    return hold_known(pushed(full, *pushes, parallel=parallel), known)
