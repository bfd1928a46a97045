# One image for worker, producer and tools. The build of torch on PyPI runs on the CPU and with CUDA.
FROM python:3.11-slim-bookworm

ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1

WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY state state
COPY events events
COPY models models
COPY replay replay
COPY monitor monitor
COPY streams streams
# Holds a relative link to each of the folders above; COPY keeps links.
COPY ecdctr ecdctr
RUN pip install --constraint constraints.txt . \
 && useradd --create-home --uid 10001 ecdctr \
 && mkdir /state && chown ecdctr /state

USER ecdctr
VOLUME /state
ENV ECDCTR_STATE__FOLDER=/state
ENTRYPOINT ["ecdctr"]
CMD ["worker"]
