"""Text from files and users, made fit to be shown."""

from __future__ import annotations


def printable(text: str, length: int | None = None) -> str:
    """The text without what moves a cursor, colours a terminal or turns the direction of reading: each such character becomes `?`.

    Args:
        text: any.
        length: at most so many characters of it; all when null.

    Returns:
        One line that `str.isprintable` accepts: letters, marks, digits, punctuation, symbols and plain spaces of any script. Control
        characters (C0, C1, line ends), format characters (bidi marks, zero-width ones) and unassigned ones are not among them.
    """
    return "".join(c if c.isprintable() else "?" for c in text[:length])


def printable_lines(text: str) -> str:
    """The same for each line of a text that is laid out in lines."""
    return "\n".join(map(printable, text.split("\n")))
