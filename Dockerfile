# The service in a container, not root. Two targets, each checked by (docs/places.md):
#   docker build --target cpu -t skysky . && docker run --rm -e SKYSKY_TOKEN=t -p 8000:8000 skysky
#   docker build --target cuda -t skysky:cuda . && docker run --rm --gpus all -e SKYSKY_TOKEN=t -p 8000:8000 skysky:cuda
FROM python:3.13-slim AS wheel
WORKDIR /src
COPY setup.py pyproject.toml settings.ini README.md LICENSE MANIFEST.in ./
COPY skysky skysky
RUN pip wheel --no-cache-dir --no-deps -w /wheel .

# No window is opened here: OpenCV without its libraries for that.
FROM python:3.13-slim AS cpu
COPY --from=wheel /wheel /wheel
RUN pip install --no-cache-dir "$(ls /wheel/*.whl)[serve]" \
    && pip uninstall -qy opencv-python && pip install --no-cache-dir "opencv-python-headless>=4.11,<6" \
    && useradd --uid 10001 --create-home skysky
USER 10001
EXPOSE 8000
HEALTHCHECK --start-period=60s CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/health')"]
ENTRYPOINT ["skysky"]
CMD ["serve", "--host", "0.0.0.0"]

FROM nvidia/cuda:12.9.1-cudnn-runtime-ubuntu24.04 AS cuda
COPY --from=wheel /wheel /wheel
RUN apt-get update && apt-get install -y --no-install-recommends python3-venv && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/skysky && /opt/skysky/bin/pip install --no-cache-dir "$(ls /wheel/*.whl)[serve]" onnxruntime-gpu \
    && /opt/skysky/bin/pip uninstall -qy opencv-python \
    && /opt/skysky/bin/pip install --no-cache-dir "opencv-python-headless>=4.11,<6" \
    && useradd --uid 10001 --create-home skysky
ENV PATH=/opt/skysky/bin:$PATH
USER 10001
EXPOSE 8000
HEALTHCHECK --start-period=60s CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/health')"]
ENTRYPOINT ["skysky"]
CMD ["serve", "--host", "0.0.0.0", "--device", "cuda"]
