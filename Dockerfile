# kinembed over HTTP, as nobody.
#
#   docker build -t kinembed .
#   docker run --rm --read-only --tmpfs /tmp --user "$(id -u)" -p 127.0.0.1:8000:8000 \
#     -v "$PWD/runs/default:/run-folder:ro" kinembed
FROM python:3.12-slim

COPY pyproject.toml README.md LICENSE /src/
COPY kinembed /src/kinembed
# The index has torch without CUDA, which is ten times smaller.
RUN pip install --no-cache-dir torch==2.13.0 '/src[serve,sface,heic]' \
      --extra-index-url https://download.pytorch.org/whl/cpu && rm -r /src
# The weights are unpacked once, here, for nobody may write later.
ENV KINEMBED_CACHE=/opt/kinembed
RUN kinembed weights fetch sface && chmod -R a+rX /opt/kinembed

USER nobody
WORKDIR /tmp
EXPOSE 8000
HEALTHCHECK --start-period=60s CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=5)"]
# 0.0.0.0 is this container alone: what of it can be reached, -p says.
ENTRYPOINT ["kinembed", "serve", "--host", "0.0.0.0", "--run", "/run-folder"]
