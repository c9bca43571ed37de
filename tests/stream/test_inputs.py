"""Inputs in every form that people have give the same numbers, and what cannot be done is one sentence."""

from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from criticality.measurement import measure
from criticality.stream import stream

IDS = torch.randint(0, 20, (2, 6), generator=torch.Generator().manual_seed(0))
MASK = torch.ones(2, 6, dtype=torch.long)
MASK[0, 4:] = 0


class Reader(nn.Module):
    """Tokens with a mask, mixed by a mean over those that are there."""

    def __init__(self):
        super().__init__()
        self.table, self.mix = nn.Embedding(20, 8), nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

    def forward(self, ids, mask=None):
        weights = torch.ones_like(ids) if mask is None else mask
        x = self.table(ids)
        for mix in self.mix:
            mean = (x * weights[..., None]).sum(1, keepdim=True) / weights.sum(1)[:, None, None]
            x = x + torch.tanh(mix(x + mean))
        return x


@dataclass
class Batch:
    ids: torch.Tensor
    mask: torch.Tensor | None = None
    extra: None = None


Pair = namedtuple("Pair", "ids mask")


def reader():
    torch.manual_seed(0)
    return Reader()


@pytest.mark.parametrize(
    "inputs",
    [
        (IDS, MASK),
        Pair(IDS, MASK),
        {"ids": IDS, "mask": MASK},
        OrderedDict(ids=IDS, mask=MASK),
        UserDict(ids=IDS, mask=MASK),
        Batch(IDS, MASK),
        (IDS.numpy(), MASK.numpy()),
        {"ids": IDS.numpy(), "mask": MASK.tolist()},
        UserDict(ids=IDS.tolist(), mask=MASK.tolist()),  # as a tokenizer's without return_tensors
        (IDS.int(), MASK),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_form_gives_the_same(inputs):
    model = reader()
    expected = measure(model, (IDS, MASK)).log_apjn.values
    np.testing.assert_array_equal(measure(model, inputs).log_apjn.values, expected)
    assert str(stream(model, inputs)) == str(stream(model, (IDS, MASK)))


@pytest.mark.parametrize(
    "inputs",
    [IDS, IDS.tolist(), IDS.numpy(), list(IDS), {"ids": IDS.tolist(), "mask": None}],
    ids=lambda value: type(value).__name__,
)
def test_every_form_of_one_argument_gives_the_same(inputs):
    model = reader()
    np.testing.assert_array_equal(measure(model, inputs).log_apjn.values, measure(model, IDS).log_apjn.values)


def test_arrays_of_doubles_are_of_the_models_dtype():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.TransformerEncoderLayer(4, 1, 8, 0.0, batch_first=True))
    x = np.random.default_rng(0).standard_normal((2, 3, 4))
    expected = measure(model, torch.tensor(x, dtype=torch.float32)).log_apjn.values
    for given in (x, x.tolist(), x[:, ::-1][:, ::-1]):
        np.testing.assert_array_equal(measure(model, given).log_apjn.values, expected)
    with torch.inference_mode():
        batch = torch.tensor(x, dtype=torch.float32)
    np.testing.assert_array_equal(measure(model, batch).log_apjn.values, expected)


def made_in_inference_mode():
    with torch.inference_mode():
        return reader()


def exported():
    return torch.export.export(reader(), (IDS,)).module()


class Wrapping(nn.Linear):
    """Returns something of its own."""

    def forward(self, x):
        return SimpleNamespace(value=super().forward(x))


def lazy():
    return nn.Sequential(nn.Linear(4, 4), nn.LazyLinear(4))


FLOATS = nn.Sequential(nn.Linear(4, 4), nn.TransformerEncoderLayer(4, 1, 8, 0.0, batch_first=True))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize(
    ("model", "inputs", "said"),
    [
        (reader, [[1, 2, 3], [1, 2]], "inputs must hold a floating tensor or integer token ids, and are of type list"),
        (reader, IDS.to(torch.uint8), "and are a tensor of torch.uint8"),
        (reader, "some text", "and are of type str"),
        (reader, None, "and are of type NoneType"),
        (reader, SimpleNamespace(ids=IDS), "and are of type SimpleNamespace"),
        (reader, torch.zeros(0, 6, dtype=torch.long), r"inputs must have entries, and a tensor of shape \(0, 6\) has none"),
        (reader, IDS + 30, "must run on these inputs, and its own code raised in 'table' IndexError"),
        (made_in_inference_mode, IDS, "parameter 'table.weight' must be made outside of torch.inference_mode"),
        (exported, IDS, "must have a training and an evaluation mode, and raised NotImplementedError"),
        (lambda: FLOATS, torch.full((2, 3, 4), float("nan")), "inputs must be finite, and hold nan or inf"),
        (lambda: FLOATS, torch.nested.nested_tensor([torch.ones(3, 4), torch.ones(2, 4)]), "nested: pad them"),
        (lambda: FLOATS, torch.ones(2, 3, 4).to_sparse(), "must be dense tensors, and are of torch.sparse_coo"),
        (lambda: FLOATS, torch.ones(2, 3, 4, device="meta"), r"a tensor of shape \(2, 3, 4\) is on the meta device"),
        (lambda: nn.Linear(4, 4, device="meta"), torch.ones(2, 4), "parameter 'weight' must hold numbers, and is on the meta"),
        (lazy, torch.ones(2, 4), "parameter '1.weight' must have a shape, and its lazy module has seen no batch"),
        (lambda: Wrapping(4, 4), torch.ones(2, 4), "output of Wrapping must be tensors, .* and is a SimpleNamespace"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_one_sentence(model, inputs, said):
    with pytest.raises(ValueError, match=said) as refusal:
        measure(model(), inputs)
    assert "\n" not in str(refusal.value)
    with pytest.raises(ValueError, match=r"dtype=torch.int32 must be a floating one"):
        measure(FLOATS, torch.ones(2, 3, 4), dtype=torch.int32)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # torch's own: jit is deprecated
def test_a_traced_model_is_measured():
    class Tower(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

        def forward(self, x):
            for layer in self.layers:
                x = x + torch.tanh(layer(x))
            return x

    torch.manual_seed(0)
    model, x = Tower(), torch.randn(2, 3, 4)
    measured = measure(torch.jit.trace(model, x), x)
    assert float(measured.log_apjn[0]) == pytest.approx(float(measure(model, x).log_apjn[0]), rel=1e-5)


def test_an_input_beside_others_may_be_empty():
    class Series(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = FLOATS

        def forward(self, values, features):
            return self.blocks(torch.cat([values, features], dim=-1))

    x = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    assert measure(Series(), (x, x[..., :0])).log_apjn[0] == measure(FLOATS, x).log_apjn[0]
