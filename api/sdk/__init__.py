"""The Python client: `from assay import Client`. Talks REST and computes nothing."""

from api.sdk.client import Client, ServiceError

__all__ = ["Client", "ServiceError"]
