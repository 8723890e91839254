"""The Python client: `from assay import Assay`. Talks REST; a torch module is exported on the user's machine."""

from api.sdk.assay import Assay
from api.sdk.client import Client, ServiceError

__all__ = ["Assay", "Client", "ServiceError"]
