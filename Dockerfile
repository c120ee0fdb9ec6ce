# The daemon: docker build -t exo-dl .
# BASE is any image of Python 3.11 or newer, or of Debian 12 or newer (then Python comes from Debian).
ARG BASE=python:3.11-slim
FROM ${BASE} AS base
RUN python3 -c 'import ensurepip, venv' 2>/dev/null \
 || { apt-get update && apt-get install -y --no-install-recommends python3 python3-venv ca-certificates \
      && rm -rf /var/lib/apt/lists/*; }
RUN useradd --uid 10001 --create-home --home-dir /data --shell /usr/sbin/nologin exo-dl \
 && install -d -o exo-dl -g exo-dl /data/state /data/hf /cluster
WORKDIR /src
COPY requirements/runtime.txt requirements/build.txt requirements/
RUN python3 -m venv /opt/exo-dl \
 && /opt/exo-dl/bin/pip install --no-cache-dir --require-hashes -r requirements/runtime.txt -r requirements/build.txt
COPY pyproject.toml README.md LICENSE ./
COPY exo_dl exo_dl
COPY daemon daemon
RUN /opt/exo-dl/bin/pip install --no-cache-dir --no-deps --no-build-isolation .
ENV PATH=/opt/exo-dl/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    EXO_DL_STATE_DIR=/data/state HF_HOME=/data/hf
WORKDIR /data

# For docker-compose.yml: a small local hub with a model made for the purpose.
FROM base AS hub
COPY bench /src/bench
USER exo-dl

FROM base AS daemon
USER exo-dl
VOLUME /data
EXPOSE 52520
HEALTHCHECK --interval=5s --timeout=5s --start-period=20s --retries=3 CMD ["python", "-m", "exo_dld.health"]
CMD ["exo-dld"]
