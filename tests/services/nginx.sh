#!/usr/bin/env bash
# nginx of Debian 12 as a reverse proxy with TLS: it passes every request on to AAP_NGINX_UPSTREAM (127.0.0.1:8080)
# and answers /healthz itself. AAP_NGINX_PORT (18080), AAP_NGINX_TLS_PORT (18443).
# AAP_NGINX_CONF names a file of own `server` blocks to use instead.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/lib.sh"
. "$here/native-lib.sh"

PORT=${AAP_NGINX_PORT:-18080}
TLS_PORT=${AAP_NGINX_TLS_PORT:-18443}
UPSTREAM=${AAP_NGINX_UPSTREAM:-127.0.0.1:8080}
DIR=$RUN/nginx

install_nginx() { apt_packages nginx-light libnginx-mod-stream openssl; }

start_nginx() {
  mkdir -p "$DIR/tmp"
  make_cert "$DIR/tls"
  cat >"$DIR/server.conf" <<CONF
server {
  listen 127.0.0.1:$PORT;
  listen 127.0.0.1:$TLS_PORT ssl http2;
  ssl_certificate $DIR/tls/server.crt;
  ssl_certificate_key $DIR/tls/server.key;
  client_max_body_size 0;
  location = /healthz { return 200 "ok\n"; }
  location / {
    proxy_pass http://$UPSTREAM;
    proxy_http_version 1.1;
    proxy_request_buffering off;
    proxy_set_header Host \$host;
    proxy_set_header X-Forwarded-For \$remote_addr;
    proxy_set_header X-Forwarded-Proto \$scheme;
  }
}
CONF
  cat >"$DIR/nginx.conf" <<CONF
daemon off;
pid $DIR/tmp/nginx.pid;
error_log stderr;
worker_processes 1;
events { worker_connections 1024; }
http {
  access_log $DIR/access.log;
  client_body_temp_path $DIR/tmp/body;
  proxy_temp_path $DIR/tmp/proxy;
  fastcgi_temp_path $DIR/tmp/fastcgi;
  uwsgi_temp_path $DIR/tmp/uwsgi;
  scgi_temp_path $DIR/tmp/scgi;
  include ${AAP_NGINX_CONF:-$DIR/server.conf};
}
CONF
  ports_free nginx "$PORT" "$TLS_PORT"
  start_daemon nginx "$DIR/nginx.log" nginx -c "$DIR/nginx.conf" -e stderr
  wait_port 127.0.0.1 "$PORT" 20 nginx
  env_line AAP_TEST_NGINX "http://127.0.0.1:$PORT"
  env_line AAP_TEST_NGINX_TLS "https://127.0.0.1:$TLS_PORT"
  env_line AAP_TEST_NGINX_CA "$DIR/tls/ca.crt"
}

stop_nginx() { stop_daemon nginx; }
status_nginx() { tree_status nginx; }

service_main nginx "$@"
