# The API: no torch, no Ray. Build from the repository root: docker build -f deploy/api.Dockerfile -t assay-api .
FROM python:3.13-slim-bookworm
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY certify ./certify
COPY storage ./storage
COPY workers ./workers
COPY api ./api
RUN pip install --constraint constraints.txt . && useradd --system --uid 10001 --home-dir /data assay && install -d -o assay /data
USER assay
ENV ASSAY_HOME=/data ASSAY_HOST=0.0.0.0 ASSAY_PORT=8000
EXPOSE 8000
CMD ["uvicorn", "api.app:app", "--host", "0.0.0.0", "--port", "8000", "--no-access-log", "--timeout-graceful-shutdown", "5", "--timeout-keep-alive", "75"]
