# syntax=docker/dockerfile:1

# Stage 1 builds our wheel and fetches the dependencies' wheels. What it needs is in .dockerignore.
FROM python:3.13-slim AS build
WORKDIR /src
COPY . .
RUN pip wheel --no-cache-dir --wheel-dir /wheels .

# Stage 2 installs them: no compiler, no sources, no index.
FROM python:3.13-slim
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index --find-links /wheels ingest-worker \
    && useradd --system --uid 10001 --create-home --home-dir /var/lib/ingest ingest \
    && install --directory --owner=ingest /var/lib/ingest/metrics
USER ingest
WORKDIR /var/lib/ingest
# No ENTRYPOINT: the commands of docker-compose.yml are the Procfile's, word for word.
CMD ["ingest", "--help"]
