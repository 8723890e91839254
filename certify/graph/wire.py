"""Counts what a protobuf file holds before it is parsed: two bytes of file can ask the parser for a hundred of memory."""

from __future__ import annotations

from typing import Any

from certify.errors import ModelRejected

MAX_ITEMS = 1_000_000
MAX_DEPTH = 32

_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5


class Malformed(ValueError):
    """Not the wire format of protobuf."""


def check_items(data: bytes, descriptor: Any) -> None:
    """Refuse a message of the type `descriptor` with more than a million fields, counted at every depth.

    Raises:
        ModelRejected: it has more, or is nested too deeply.
        Malformed: the bytes are no such message.
    """
    items, open_messages = 0, [(0, len(data), descriptor, 0)]
    while open_messages:
        position, end, kind, depth = open_messages.pop()
        fields = kind.fields_by_number
        while position < end:
            items += 1
            if items > MAX_ITEMS:
                detail = f"holds more than {MAX_ITEMS:,} nodes, names and numbers outside its weights"
                raise ModelRejected.at("model", detail, "export a smaller graph")
            tag, position = _varint(data, position, end)
            wire, field = tag & 7, fields.get(tag >> 3)
            if wire == _VARINT:
                _, position = _varint(data, position, end)
            elif wire == _BYTES:
                size, position = _varint(data, position, end)
                if field is not None and field.message_type is not None:
                    if depth >= MAX_DEPTH:
                        raise ModelRejected.at("model", f"is nested more than {MAX_DEPTH} deep", "export the model again")
                    open_messages.append((position, position + size, field.message_type, depth + 1))
                position += size
            elif wire in (_EIGHT, _FOUR):
                position += 8 if wire == _EIGHT else 4
            else:
                raise Malformed
        if position != end:
            raise Malformed


def _varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while position < end and shift < 70:
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
        shift += 7
    raise Malformed
