# Debian's Python where the official image has its own. pip may install there, as it may in that.
FROM scratch
COPY base /
RUN python3 -m venv /usr/local && ln -sf python3 /usr/local/bin/python
ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin \
    PIP_CERT=/etc/ssl/certs/ca-certificates.crt SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
