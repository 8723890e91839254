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


class Stale(AssayError):
    """What was to be changed is no longer what the caller read."""

    code = "stale"


class RevisionNeeded(AssayError):
    """A change must say which revision it is of, so that nobody overwrites what somebody else has just changed."""

    code = "revision-needed"


class LostLease(AssayError):
    """The lease has ended or was given to another worker; nothing was written."""

    code = "lost-lease"


class DamagedArtifact(AssayError):
    """Stored bytes no longer have the digest they were stored under; they are never used."""

    code = "damaged-artifact"


class Busy(AssayError):
    """The database is too busy or cannot be reached. The same request may be sent again in a moment."""

    code = "busy"


class Forbidden(AssayError):
    """The key is valid, but may not do this."""

    code = "forbidden"


class QuotaExceeded(AssayError):
    """The tenant has no room left for this."""

    code = "quota-exceeded"


class TooManyJobs(QuotaExceeded):
    """The tenant has as many jobs that have not ended as it may have."""

    code = "too-many-jobs"


class StorageFull(QuotaExceeded):
    """The tenant has stored as many bytes as it may."""

    code = "storage-full"
