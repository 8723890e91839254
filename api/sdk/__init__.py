"""The Python client: `from assay import Assay`. Talks REST; a torch module is exported on the user's machine."""

from api.sdk.assay import Assay
from api.sdk.client import Client, ServiceError
from api.sdk.run import Run
from api.sdk.webhooks import BadSignature, verify_webhook

__all__ = ["Assay", "BadSignature", "Client", "Run", "ServiceError", "verify_webhook"]
