"""The papers behind a configuration, as BibTeX."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optimum_grail.config.building import REGISTRIES
from optimum_grail.core.papers import GRAIL


def citations(config: Mapping[str, Any]) -> tuple[str, ...]:
    """BibTeX of the papers that a resolved configuration builds on, each once: GRAIL always, then those of its methods.

    A method that is not installed here is passed over. ``grail-plus`` cites LIAR for its bias, so not where none may be
    fitted.
    """
    names = {part: _name(config.get(part)) for part in REGISTRIES}
    if names["compensator"] == "grail-plus" and config.get("affine") is False:
        del names["compensator"]
    if not config.get("pattern"):
        del names["pattern_selector"]
    if config.get("experts") or config.get("expert_sparsity"):
        names["expert_selector"] = _name(config.get("expert_selector"))
    known = {part: set(registry.names()) for part, registry in REGISTRIES.items()}
    homes = {part: "selector" if part == "expert_selector" else part for part in names}
    papers = [REGISTRIES[homes[part]].get(name).paper for part, name in names.items() if name in known[homes[part]]]
    return tuple(dict.fromkeys([GRAIL, *(paper for paper in papers if paper is not None)]))


def _name(method: object) -> str:
    return str(method.get("name")) if isinstance(method, Mapping) else str(method or "").partition(":")[0]
