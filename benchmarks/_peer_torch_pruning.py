"""Torch-Pruning on one model, run by its own environment's Python (``benchmarks/torch-pruning.txt``).

Transformers lose channels of their feed-forward layers, the same share in every layer, which hurts them least of what
the library can cut; convolutional networks are pruned as its own example does, in every layer but the classifier. The
share is chosen so that as many parameters go as are asked for.

    PEERS/bin/python benchmarks/_peer_torch_pruning.py JOB.pt PRUNED.pt
"""

from __future__ import annotations

import copy
import sys
import types
from pathlib import Path
from typing import Any

import torch
import torch_pruning as tp
import transformers
from torch import nn
from torch.nn import functional


def loaded(job: dict[str, Any]) -> Any:
    """The dense model, in float32."""
    if job["weights"] is None:
        found = getattr(transformers, job["class"]).from_pretrained(job["folder"], dtype=torch.float32).eval()
        found.config.use_cache = False  # a cache in the output stops the graph
        return found
    text = Path(job["source"]).read_text(encoding="utf-8").partition("# -- its description")[0]
    module = types.ModuleType("custom_module")
    lines = [
        line for line in text.splitlines() if not line.startswith(("from optimum_grail", "from datasets", "from rich"))
    ]
    module.__dict__["__file__"] = job["source"]
    exec("\n".join(lines), module.__dict__)  # the class of this repository's own example, without its imports
    sys.modules["custom_module"] = module
    found = module.ResNet().eval()
    found.load_state_dict(job["weights"])
    return found


# what a user writes
def loss_of(model: Any, kind: str, batch: dict[str, Any]) -> Any:
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    if kind == "language":
        return model(**inputs, labels=batch["labels"], use_cache=False).loss
    if kind == "embeddings":
        hidden = model(**inputs).last_hidden_state
        mask = batch["attention_mask"].unsqueeze(-1).float()
        first, second = ((hidden * mask).sum(1) / mask.sum(1)).chunk(2)
        return functional.mse_loss(functional.cosine_similarity(first, second), batch["labels"])
    output = model(**inputs)
    return functional.cross_entropy(getattr(output, "logits", output), batch["labels"])


def importance_of(model: nn.Module, job: dict[str, Any]) -> Any:
    if job["importance"] == "magnitude":
        return tp.importance.GroupMagnitudeImportance(p=2)
    for batch in job["batches"]:
        (loss_of(model, job["kind"], batch) / len(job["batches"])).backward()
    return tp.importance.GroupTaylorImportance()


def prune_transformer(model: Any, job: dict[str, Any], inputs: Any, importance: Any) -> None:
    ends = ("up_proj", "intermediate.dense", "fc1")
    layers = [module for name, module in model.named_modules() if name.endswith(ends) and isinstance(module, nn.Linear)]
    graph = tp.DependencyGraph().build_dependency(model, example_inputs=inputs)
    widths = {layer: layer.out_features for layer in layers}
    before = sum(parameter.numel() for parameter in model.parameters())
    first = graph.get_pruning_group(layers[0], tp.prune_linear_out_channels, idxs=[0])
    twin = copy.deepcopy(model)
    trial = tp.DependencyGraph().build_dependency(twin, example_inputs=inputs)
    root = dict(twin.named_modules())[next(name for name, module in model.named_modules() if module is layers[0])]
    trial.get_pruning_group(root, tp.prune_linear_out_channels, idxs=[0]).prune()
    each = before - sum(parameter.numel() for parameter in twin.parameters())
    del first, twin, trial
    share = min(job["gone"] / sum(each * width for width in widths.values()), 0.99)
    for layer, width in widths.items():
        group = graph.get_pruning_group(layer, tp.prune_linear_out_channels, idxs=list(range(width)))
        order = torch.argsort(importance(group))[: round(share * width)].tolist()
        graph.get_pruning_group(layer, tp.prune_linear_out_channels, idxs=order).prune()
    model.config.intermediate_size = layers[0].out_features


def prune_convolutions(model: Any, job: dict[str, Any], inputs: Any, importance: Any) -> None:
    before = sum(parameter.numel() for parameter in model.parameters())
    low, high, widest = 0.0, 0.9, 0.0
    grads = {name: parameter.grad for name, parameter in model.named_parameters()}

    def cut(target: Any, ratio: float) -> Any:
        for name, parameter in target.named_parameters():
            parameter.grad = None if grads[name] is None else grads[name].clone()
        heads = [module for module in target.modules() if isinstance(module, nn.Linear)]
        pruner = tp.pruner.BasePruner(target, inputs, importance=importance, pruning_ratio=ratio, ignored_layers=heads)
        pruner.step()
        return before - sum(parameter.numel() for parameter in target.parameters())

    for _ in range(8):
        widest = (low + high) / 2
        low, high = (widest, high) if cut(copy.deepcopy(model), widest) < job["gone"] else (low, widest)
    cut(model, high)


# end of that


def main() -> None:
    """Read the job, prune, write the model."""
    job = torch.load(sys.argv[1], weights_only=True)
    model = loaded(job)
    first = {key: value[:2] for key, value in job["batches"][0].items() if key != "labels"}
    if job["kind"] == "module":
        first = first["images"]
    before = sum(parameter.numel() for parameter in model.parameters())
    importance = importance_of(model, job)
    convolutional = job["kind"] == "module" or "MobileNet" in job["class"]
    if convolutional:
        inputs = first if job["kind"] == "module" else first["pixel_values"]
        prune_convolutions(model, job, inputs, importance)
    else:
        prune_transformer(model, job, first, importance)
    model.zero_grad(set_to_none=True)
    if "use_cache" in vars(getattr(model, "config", model)):
        model.config.use_cache = True
    torch.save(model, sys.argv[2])
    after = sum(parameter.numel() for parameter in model.parameters())
    print(f"torch-pruning {tp.__version__}: {before:,} to {after:,} parameters, {job['gone']:,} asked to go")


if __name__ == "__main__":
    main()
