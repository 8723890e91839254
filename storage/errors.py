"""What can go wrong between a caller and the truth kept here. Every error is one sentence that names the field and the mend."""

from __future__ import annotations

from certify.errors import AssayError


class NotFound(AssayError):
    """There is no such thing, or it belongs to another tenant: the two are never told apart."""

    code = "not-found"


class Conflict(AssayError):
    """The request is sound, but not in the present state of things."""

    code = "conflict"


class NotReady(Conflict):
    """What is asked for is still being inspected."""


class LostLease(AssayError):
    """The lease has ended or was given to another worker; nothing was written."""

    code = "lost-lease"


class DamagedArtifact(AssayError):
    """Stored bytes no longer have the digest they were stored under; they are never used."""

    code = "damaged-artifact"


class Busy(AssayError):
    """The database is too busy or cannot be reached. The same request may be sent again in a moment."""

    code = "busy"
