"""One forward pass: shapes, time, memory."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

from optimum_grail.data.batches import CalibrationData, make_batches
from optimum_grail.errors import CheckpointError
from optimum_grail.evaluation.forward import compare_forward, example_inputs, measure_forward, take_turns


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
    found = compare_forward(measure_forward(Slow(0.02), data()), measure_forward(Slow(0.005), data()))
    assert found["inputs"] == {"images": {"shape": [1, 6], "dtype": "torch.float32"}}
    assert found["outputs"] == {"output": [1, 2]}
    assert (found["dtype"], found["device"], found["memory"]) == ("float32", "cpu", [])
    one, four = found["latency"]
    assert (one["batch"], four["batch"]) == (1, 4)
    assert 0.02 <= one["dense"] < four["dense"] and 0.005 <= one["compressed"] < one["dense"]
    assert four["dense"] >= 0.08 and four["compressed"] < four["dense"]


def test_outputs_of_a_mapping_are_named():
    class Named(Slow):
        def forward(self, images):
            return {"logits": self.linear(images), "nothing": None}

    assert measure_forward(Named(0), data()).outputs == {"logits": [1, 2]}


def test_without_data_nothing_is_measured():
    assert measure_forward(Slow(0), None) is None
    assert compare_forward(None, None) == {}


def test_models_take_turns():
    quick, slow = Slow(0.001), Slow(0.01).double()
    shapes = {"images": {"shape": [1, 6], "dtype": "torch.float32"}}
    inputs = [example_inputs(shapes, model, batch=2) for model in (quick, slow)]
    assert [(tuple(item["images"].shape), item["images"].dtype) for item in inputs] == [
        ((2, 6), torch.float32),
        ((2, 6), torch.float64),
    ]
    first, second = take_turns([quick, slow], inputs, turns=2)
    assert 0.002 <= first < second and second >= 0.02


@pytest.mark.parametrize("item", [{"shape": [1, 6], "dtype": "torch.load"}, {"shape": 6, "dtype": "torch.int64"}, {}])
def test_a_report_that_names_no_input_is_refused(item):
    with pytest.raises(CheckpointError, match="images"):
        example_inputs({"images": item}, Slow(0))
