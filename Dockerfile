# streamproxy in a small image: no build tools, no package manager in the environment, a user without rights.
#
#   docker build -t streamproxy .
#   docker run -p 8080:8080 -v ./streamproxy.yaml:/etc/streamproxy/streamproxy.yaml:ro streamproxy
#
# Inside a container the proxy has to listen on every address: server.listen is 0.0.0.0:8080 there. The admin listener
# stays on 127.0.0.1:9090, where the health check asks it; to scrape it from outside, set admin.listen to 0.0.0.0:9090.
# It writes no file, so that --read-only works. /opt/streamproxy/sbom.cdx.json says what it is made of.

# The same Python and Debian as below, but with a C compiler.
FROM python:3.13-bookworm AS build
WORKDIR /src
COPY pyproject.toml hatch_build.py hot_functions.txt README.md LICENSE ./
COPY streamproxy ./streamproxy
# With every extra that a configuration or a command can ask for: an image is not added to afterwards.
# Wheels first, then an installation from nothing but these wheels: what is in the image is what was built here.
RUN STREAMPROXY_COMPILE=1 python -m pip wheel --no-cache-dir --wheel-dir /wheels '.[hypercorn,jwt,otel,redis,top]'
RUN python -m venv --without-pip /opt/streamproxy \
    && python -m pip --python /opt/streamproxy/bin/python install --no-cache-dir --no-index --find-links /wheels 'streamproxy[hypercorn,jwt,otel,redis,top]'
# What the installation is made of (CycloneDX), by a tool that does not come into the image.
RUN python -m venv /sbom \
    && /sbom/bin/python -m pip install --no-cache-dir 'cyclonedx-bom>=7.5,<8' \
    && /sbom/bin/cyclonedx-py environment --pyproject pyproject.toml --mc-type application --output-reproducible \
        --output-file /opt/streamproxy/sbom.cdx.json /opt/streamproxy/bin/python

FROM python:3.13-slim-bookworm
ARG VERSION=0.2.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="streamproxy" \
      org.opencontainers.image.description="A streaming reverse proxy for LLM servers and event backends" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.vendor="The streamproxy authors" \
      org.opencontainers.image.source="https://github.com/streamproxy/streamproxy" \
      org.opencontainers.image.documentation="https://github.com/streamproxy/streamproxy/tree/main/docs" \
      org.opencontainers.image.base.name="docker.io/library/python:3.13-slim-bookworm"
COPY --from=build /opt/streamproxy /opt/streamproxy
ENV PATH=/opt/streamproxy/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 65532:65532
EXPOSE 8080 9090
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 \
    CMD ["streamproxy", "health"]
ENTRYPOINT ["streamproxy"]
CMD ["run", "-c", "/etc/streamproxy/streamproxy.yaml"]
