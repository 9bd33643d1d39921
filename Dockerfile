# The package with everything that a cluster asks of it. CPU:  docker build -t dreamfusion .
# CUDA:  docker build --build-arg VARIANT=cu126 -t dreamfusion:cuda .   (any of PyTorch's own variants)
FROM python:3.12-slim-bookworm
ARG VARIANT=cpu
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# Ray's autoscaler looks for wget and ps in its pods.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends procps=2:4.* wget=1.21.* \
    && rm -rf /var/lib/apt/lists/*
RUN pip install --no-cache-dir "torch>=2.6,<2.14" --index-url "https://download.pytorch.org/whl/${VARIANT}"
COPY pyproject.toml README.md LICENSE /src/
COPY src /src/src
RUN pip install --no-cache-dir "/src[scale,compress,tensorboard]" "ray[default]>=2.40" && rm -rf /src
RUN useradd --create-home --uid 1000 ray
USER 1000
WORKDIR /home/ray
ENV RAY_USAGE_STATS_ENABLED=0
# One word behind `docker run dreamfusion` is a command of the package; Kubernetes names another entry point.
ENTRYPOINT ["dreamfusion"]
CMD ["--help"]
