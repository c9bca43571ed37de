"""The kernels in Triton's interpreter against torch's own operations, and compiled for a card that is not there."""

import os
import subprocess
import sys

import pytest
import torch

from criticality.models import DynamicPointwise

pytest.importorskip("triton", reason="Triton comes with torch for CUDA, on Linux")

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
in_the_interpreter = pytest.mark.skipif(not INTERPRETED, reason="test_in_the_interpreter runs it")


@pytest.mark.skipif(INTERPRETED, reason="this is that process")
def test_in_the_interpreter():
    """In a process of its own, as Triton decides when it is imported what its functions are."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    run = subprocess.run(command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout
    assert run.stdout.split()[0] == "s......ss"  # not one of them skipped


def everything(module, x, g, triton):
    """The value, and the gradients of the input and of every parameter."""
    module.triton = triton
    y = module(x)
    assert type(y.grad_fn).__name__ == ("TritonDynamicBackward" if triton else "DynamicBackward")
    return [y.detach(), *torch.autograd.grad(y, [x, *module.parameters()], g)]


@in_the_interpreter
@pytest.mark.parametrize("name", ["dyt", "derf"])
@pytest.mark.parametrize("shape", [(3, 50, 130), (5, 7)], ids=["several tiles", "less than one"])
def test_value_and_gradients_are_those_of_the_eager_function(name, shape):
    module = DynamicPointwise(shape[-1], name, alpha=0.7)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    x = (3 * torch.randn(shape[-1], *shape[:-1])).movedim(0, -1).requires_grad_()  # with gaps
    g = torch.randn(shape)
    for found, wanted in zip(*(everything(module, x, g, triton) for triton in (True, False)), strict=True):
        torch.testing.assert_close(found, wanted, rtol=2e-6, atol=2e-6 * max(1.0, float(g.numel()) ** 0.5))


@in_the_interpreter
def test_half_precision_is_computed_in_single():
    module, x, g = DynamicPointwise(40, "derf"), 3 * torch.randn(20, 40), torch.randn(20, 40)
    x, g = x.bfloat16().requires_grad_(), g.bfloat16()
    found = everything(module.bfloat16(), x, g, triton=True)
    wanted = everything(module.float(), x.detach().float().requires_grad_(), g.float(), triton=False)
    for one, exact in zip(found, wanted, strict=True):
        assert one.dtype == torch.bfloat16
        torch.testing.assert_close(
            one.float(), exact, rtol=2**-7, atol=1e-6
        )  # once, which the interpreter does by cutting off


@in_the_interpreter
def test_frozen_parameters_nan_and_what_the_kernels_leave_to_torch():
    module = DynamicPointwise(7, "derf", triton=True).requires_grad_(False)
    x = torch.randn(3, 7, requires_grad=True)
    (found,) = torch.autograd.grad(module(x).sum(), x)
    module.triton = False
    (wanted,) = torch.autograd.grad(module(x).sum(), x)
    torch.testing.assert_close(found, wanted)
    module.triton = True
    assert torch.isnan(module(torch.full((1, 7), torch.nan))).all()
    assert module(torch.empty(0, 7)).shape == (0, 7)
    assert type(module.double()(x.double()).grad_fn).__name__ == "DynamicBackward"


@pytest.mark.skipif(INTERPRETED, reason="what is interpreted is not compiled")
@pytest.mark.parametrize("name", ["tanh", "erf"])
def test_the_kernels_compile_for_a_card(name, monkeypatch, tmp_path):
    """An H100's machine code, by the compiler that comes with Triton: the interpreter would run what this refuses."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from criticality.models import triton_dynamic as kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    shared = {**kernels._constants(name), "shifted": name == "erf", "ROWS": 16, "COLUMNS": 128}
    backward = {**shared, "is_tanh": name == "tanh", "parameters": True, "TILES": 8}
    for kernel, constants in ((kernels._forward, shared), (kernels._backward, backward)):
        kinds = {one: "constexpr" if one in constants else "*fp32" for one in kernel.arg_names}
        source = ASTSource(kernel, signature={**kinds, "rows": "i32", "width": "i32"}, constexprs=constants)
        assert triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"]
