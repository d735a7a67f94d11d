//! Proxies between clients and the service, each on a Unix socket: no port is taken.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;

use integration_tests::process::eventually;
use integration_tests::{SOON, Service};

use super::stage::Place;

/// The place of the proxy, once it listens.
fn start<'a>(
    place: &Place<'a>,
    program: &str,
    configuration: &str,
    arguments: &[&str],
) -> anyhow::Result<Place<'a>> {
    let folder = place.sandbox.path();
    // Envoy goes by the extension.
    let file = folder.join(format!("{program}.yaml"));
    fs::write(&file, configuration)?;
    let mut all = vec![arguments[0].to_owned(), file.display().to_string()];
    all.extend(arguments[1..].iter().map(|argument| (*argument).to_owned()));
    // It ends with the sandbox.
    let _ = Service::spawn(place.sandbox, Path::new(program), &all);
    let socket = folder.join("proxy.sock");
    eventually("the proxy listens", SOON, || UnixStream::connect(&socket).ok());
    Ok(Place { sandbox: place.sandbox, address: format!("unix:{}", socket.display()), certificate: None })
}

/// nginx, which closes a connection that waits for the next call if it hears a single byte on it.
pub(crate) fn nginx<'a>(place: &Place<'a>) -> anyhow::Result<Place<'a>> {
    let (folder, service) = (place.sandbox.path().display(), &place.address);
    let folders: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|name| format!("  {name}_temp_path {folder}/nginx-{name};\n"))
        .collect();
    let configuration = format!(
        "daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log stderr warn;
events {{ worker_connections 64; }}
http {{
  access_log off; keepalive_requests 100000000;
{folders}  upstream service {{ server {service}; keepalive 16; keepalive_requests 100000000; }}
  server {{
    listen unix:{folder}/proxy.sock http2;
    location / {{ grpc_pass grpc://service; }}
  }}
}}
"
    );
    start(place, "nginx", &configuration, &["-c"])
}

/// Envoy, with one connection to the service for all calls.
pub(crate) fn envoy<'a>(place: &Place<'a>) -> anyhow::Result<Place<'a>> {
    let socket = place.sandbox.path().join("proxy.sock");
    let (ip, port) = place.address.rsplit_once(':').unwrap_or_default();
    let configuration = format!(
        r#"static_resources:
  listeners:
  - name: calls
    address: {{ pipe: {{ path: "{socket}" }} }}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: calls
          codec_type: HTTP2
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {{ prefix: "/" }}
                route: {{ cluster: service, timeout: 0s }}
  clusters:
  - name: service
    type: STATIC
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{ http2_protocol_options: {{}} }}
    load_assignment:
      cluster_name: service
      endpoints:
      - lb_endpoints:
        - endpoint: {{ address: {{ socket_address: {{ address: {ip}, port_value: {port} }} }} }}
"#,
        socket = socket.display(),
    );
    start(
        place,
        "envoy",
        &configuration,
        &["--config-path", "--concurrency", "1", "--use-dynamic-base-id", "-l", "warn"],
    )
}
