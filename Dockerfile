# Thin images: `--target producer` loads, `--target worker` drains, `--target emulator` stands in for the index.
FROM python:3.13-slim AS base
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /app
COPY pyproject.toml README.md LICENSE ./
COPY producer producer
COPY worker worker
COPY emulator emulator
COPY chaos chaos
RUN useradd --create-home upsertq

FROM base AS producer
RUN pip install '.[cli,files]'
COPY examples examples
USER upsertq
ENTRYPOINT ["upsertq"]
CMD ["load", "--help"]

FROM base AS worker
RUN pip install '.[worker]'
USER upsertq
ENTRYPOINT ["upsertq"]
CMD ["work"]

FROM base AS emulator
RUN pip install '.[emulator]'
USER upsertq
ENTRYPOINT ["upsertq"]
CMD ["emulate", "--host", "0.0.0.0", "--require-api-key"]
