# cdm-nnunet as an image; by default it runs the DICOM node of /data/node.yaml: docs/node.md.
#
#   docker build -t cdm-nnunet .
#   docker build -t cdm-nnunet --build-arg BASE=nvidia/cuda:12.8.1-runtime-ubuntu24.04 .
#
# The default base is small; PyTorch brings CUDA's libraries itself, so that it uses a GPU where the host hands one on
# (--gpus all). A CUDA base is for sites that keep one. PIP_OPTIONS takes options of pip, such as an index with CPU builds.
ARG BASE=python:3.12-slim-bookworm

FROM ${BASE} AS build
ARG PIP_OPTIONS=""
RUN python3 -m venv --help >/dev/null 2>&1 || { apt-get update && apt-get install -y --no-install-recommends python3 python3-venv; }
COPY pyproject.toml README.md LICENSE /src/
COPY cdm_nnunet /src/cdm_nnunet
COPY trainers /src/trainers
COPY dataset_conversion /src/dataset_conversion
RUN python3 -m venv /opt/cdm_nnunet
RUN /opt/cdm_nnunet/bin/python -m pip install --no-cache-dir ${PIP_OPTIONS} "/src[node]"

FROM ${BASE}
RUN python3 --version >/dev/null 2>&1 || { apt-get update && apt-get install -y --no-install-recommends python3 && rm -rf /var/lib/apt/lists/*; }
COPY --from=build /opt/cdm_nnunet /opt/cdm_nnunet
RUN useradd --create-home --uid 10001 cdm && mkdir -p /data && chown cdm /data
ENV PATH=/opt/cdm_nnunet/bin:$PATH PYTHONUNBUFFERED=1
USER cdm
WORKDIR /data
VOLUME /data
EXPOSE 11112
ENTRYPOINT ["cdm-nnunet"]
CMD ["node", "--config", "/data/node.yaml"]
