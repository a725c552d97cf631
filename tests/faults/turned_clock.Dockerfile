# The project's image with a wall clock that a test can turn: TURNED names the file that says by how much.
ARG IMAGE
FROM ${IMAGE}
USER root
RUN apt-get update \
    && apt-get install -y --no-install-recommends libfaketime \
    && rm -rf /var/lib/apt/lists/* \
    && ln -s /usr/lib/*/faketime/libfaketimeMT.so.1 /usr/local/lib/libfaketime.so
ENV LD_PRELOAD=/usr/local/lib/libfaketime.so \
    FAKETIME_TIMESTAMP_FILE=/tmp/turned \
    FAKETIME_NO_CACHE=1 \
    FAKETIME_DONT_FAKE_MONOTONIC=1
USER 10001:10001
