"""One forward pass: shapes, time, memory."""

from __future__ import annotations

import threading
import time

import pytest
import torch
from torch import nn

from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.data.batches import CalibrationData, make_batches
from optimum_grail.errors import CheckpointError
from optimum_grail.evaluation import stopwatch
from optimum_grail.evaluation.stopwatch import (
    Timing,
    _filled,
    _twin,
    compare_forward,
    example_inputs,
    shape_of,
    take_turns,
)
from optimum_grail.models.resolve import resolve
from optimum_grail.models.surgery import narrow_


class Slow(nn.Module):
    """Waits for every sample."""

    def __init__(self, wait: float) -> None:
        super().__init__()
        self.wait, self.linear = wait, nn.Linear(6, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        time.sleep(self.wait * len(images))
        return self.linear(images)


def data() -> CalibrationData:
    samples = [{"images": torch.zeros(6)} for _ in range(10)]
    batches = make_batches(samples, batch_size=4, held_out=False, pad_id=0)
    return CalibrationData(batches, "zeros", "00", 10, 0, None, "image", frozenset())


def test_dense_and_compressed_side_by_side():
    dense = shape_of(Slow(0.02))
    assert all(parameter.is_meta for parameter in dense.parameters())
    found = compare_forward(dense, Slow(0.005), data())
    assert found["inputs"] == {"images": {"shape": [1, 6], "dtype": "torch.float32"}}
    assert found["outputs"] == {"output": [1, 2]}
    assert (found["dtype"], found["device"], found["memory"]) == ("float32", "cpu", [])
    one, eight = found["latency"]
    assert (one["batch"], eight["batch"]) == (1, 8), "a batch of four is filled up"
    assert 0.02 <= one["dense"] < eight["dense"] and 0.005 <= one["compressed"] < one["dense"]
    assert eight["dense"] >= 0.16 and eight["compressed"] < eight["dense"]


def test_the_shape_of_a_model_is_the_dense_one_although_the_model_shrinks():
    model = tiny_llama().eval()
    model.lm_head.weight = model.get_input_embeddings().weight
    before = {name: (p.shape, p.dtype) for name, p in model.named_parameters()}
    dense = shape_of(model)
    for group in resolve(model).groups:
        narrow_(model, group, 1)
    twin = _twin(dense, lambda item: _filled(item, torch.device("cpu")))
    assert {name: (p.shape, p.dtype) for name, p in twin.named_parameters()} == before
    assert twin.lm_head.weight is twin.get_input_embeddings().weight
    assert twin(input_ids=torch.arange(3, 9)[None]).logits.isfinite().all()
    assert next(model.parameters()).requires_grad and not next(model.parameters()).is_meta


def test_outputs_of_a_mapping_are_named():
    class Named(Slow):
        def forward(self, images):
            return {"logits": self.linear(images), "nothing": None}

    assert compare_forward(None, Named(0), data())["outputs"] == {"logits": [1, 2]}


def test_without_data_nothing_is_measured():
    assert compare_forward(None, Slow(0), None) == {}


def test_without_room_for_the_dense_model_no_time_is_told(monkeypatch):
    model = Slow(0)
    size = 4 * (6 * 2 + 2)
    for free, rows in ((int(1.5 * size), 0), (int(1.5 * size) + 1, 2)):
        monkeypatch.setattr(stopwatch, "available_memory", lambda device, free=free: free)
        assert len(compare_forward(shape_of(model), model, data())["latency"]) == rows


def test_what_cannot_be_copied_has_no_shape():
    model = Slow(0)
    model.lock = threading.Lock()
    assert shape_of(model) is None
    mixed = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, device="meta"))
    assert shape_of(mixed) is None


def test_times_are_medians_with_half_the_interquartile_range():
    assert Timing.of([5.0, 1.0, 2.0, 3.0, 100.0]) == Timing(3.0, 1.5)
    assert Timing.of([4.0], 7) == Timing(4.0, 0.0, 7)


def test_models_take_turns():
    quick, slow = Slow(0.001), Slow(0.01).double()
    shapes = {"images": {"shape": [1, 6], "dtype": "torch.float32"}}
    inputs = [example_inputs(shapes, model, batch=2) for model in (quick, slow)]
    assert [(tuple(item["images"].shape), item["images"].dtype) for item in inputs] == [
        ((2, 6), torch.float32),
        ((2, 6), torch.float64),
    ]
    first, second = take_turns([quick, slow], inputs)
    assert 0.002 <= first.seconds < second.seconds and second.seconds >= 0.02


@pytest.mark.parametrize(
    "item",
    [
        {"shape": [1, 6], "dtype": "torch.load"},
        {"shape": 6, "dtype": "torch.int64"},
        {"shape": [1, 10**9, 10**9], "dtype": "torch.int64"},
        {"shape": [1, -6], "dtype": "torch.int64"},
        {"shape": ["1, 2"], "dtype": "torch.int64"},
        {},
    ],
)
def test_a_report_that_names_no_input_is_refused(item):
    with pytest.raises(CheckpointError, match="images"):
        example_inputs({"images": item}, Slow(0))
