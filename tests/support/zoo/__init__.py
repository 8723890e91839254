"""Small classifiers of the families that people upload, and what torch exports for them."""

from __future__ import annotations

from tests.support.zoo.attention import ATTENTION
from tests.support.zoo.classic import CLASSIC
from tests.support.zoo.exhibit import CLASSES, Exhibit, export, module
from tests.support.zoo.pieces import PIECES

EXHIBITS: tuple[Exhibit, ...] = (*CLASSIC, *ATTENTION, *PIECES)
NAMED: dict[str, Exhibit] = {exhibit.name: exhibit for exhibit in EXHIBITS}

__all__ = ["ATTENTION", "CLASSES", "CLASSIC", "EXHIBITS", "NAMED", "PIECES", "Exhibit", "export", "module"]
