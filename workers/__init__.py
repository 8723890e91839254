"""torch and what it stands on read these variables once: whatever computes in this package has them set before (certify/precision.py)."""

import os

# Matrix products on a GPU are repeatable only with workspaces of a fixed size.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
# Each of these shortens float32 products, whatever a program asks for.
for _name in (
    "NVIDIA_TF32_OVERRIDE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "DNNL_DEFAULT_FPMATH_MODE",
):
    os.environ.pop(_name, None)
