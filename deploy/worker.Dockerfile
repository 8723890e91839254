# The dispatcher and its workers. Build from the repository root: docker build -f deploy/worker.Dockerfile -t assay-worker .
# TORCH_INDEX: PyTorch's wheel index for your device (CPU or CUDA); empty takes torch from the index that pip is configured for.
FROM python:3.13-slim-bookworm
ARG TORCH_INDEX=""
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 RAY_USAGE_STATS_ENABLED=0
WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN pip install --constraint constraints.txt ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch==2.13.0
COPY certify ./certify
COPY storage ./storage
COPY workers ./workers
COPY api ./api
COPY deploy/selftest.py ./deploy/selftest.py
RUN pip install --constraint constraints.txt ".[worker,images]" \
 && pip install --no-deps auto-LiRPA==0.3 \
 && python deploy/selftest.py \
 && useradd --system --uid 10001 --home-dir /data assay && install -d -o assay /data
USER assay
ENV ASSAY_HOME=/data
CMD ["python", "-m", "workers.dispatcher"]
