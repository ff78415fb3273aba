"""The faster gradient is the library's own gradient of the same convolution."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as nnf
from torch import Tensor

from drivesim.models import convolution
from drivesim.models.convolution import Convolution, convolve

Kernel = tuple[int, int]


def parts(pictures: int, inputs: int, outputs: int, height: int, width: int, kernel: Kernel, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(pictures, inputs, height, width, generator=generator, dtype=dtype).contiguous(memory_format=torch.channels_last)
    weight, bias = torch.randn(outputs, inputs, *kernel, generator=generator, dtype=dtype), torch.randn(outputs, dtype=dtype)
    return [part.requires_grad_() for part in (x, weight, bias)]


@pytest.mark.parametrize("columns", [6_000_000, 700])
@pytest.mark.parametrize("kernel", [(3, 3), (3, 1), (1, 1), (5, 3)])
@pytest.mark.parametrize("size", [(1, 3, 5, 8, 7), (5, 4, 4, 5, 6), (3, 6, 2, 1, 4), (2, 3, 3, 17, 16)])
def test_values_and_gradients(size: tuple[int, ...], kernel: Kernel, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "COLUMNS", columns)
    given = parts(*size, kernel=kernel, dtype=torch.float64)
    ours, plain = convolve(*given), nnf.conv2d(*given, padding=(kernel[0] // 2, kernel[1] // 2))
    assert torch.equal(ours, plain)
    push = torch.randn(plain.shape, dtype=plain.dtype, generator=torch.Generator().manual_seed(1))
    for mine, wanted in zip(torch.autograd.grad(ours, given, push), torch.autograd.grad(plain, given, push), strict=True):
        assert mine.shape == wanted.shape
        torch.testing.assert_close(mine, wanted)


def test_gradient_of_the_gradient() -> None:
    assert torch.autograd.gradgradcheck(convolve, parts(2, 3, 2, 4, 3, (3, 3), torch.float64))


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_what_is_frozen_gets_none(frozen: int) -> None:
    given = parts(1, 3, 4, 5, 2, (3, 3), torch.float32)
    given[frozen].requires_grad_(False)
    convolve(*given).sum().backward()
    assert [part.grad is None for part in given] == [index == frozen for index in range(3)]


def test_half_precision_where_autocast_asks_for_it() -> None:
    given = parts(1, 8, 8, 6, 4, (3, 1), torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        result = convolve(*given)
    assert result.dtype == torch.bfloat16
    result.float().sum().backward()
    assert all(part.grad is not None and part.grad.dtype == torch.float32 for part in given)


def test_compiled_networks_may_hold_it() -> None:
    given = parts(2, 3, 3, 4, 2, (3, 3), torch.float32)
    compiled = torch.compile(convolve, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(*given), convolve(*given))
    compiled(*given).sum().backward()
    assert given[1].grad is not None


def test_weights_are_those_of_the_plain_layer() -> None:
    plain, ours = torch.nn.Conv2d(4, 6, 3, padding=1), Convolution(4, 6)
    ours.load_state_dict(plain.state_dict())
    x = torch.randn(2, 4, 5, 7)
    assert torch.equal(ours(x), plain(x))
