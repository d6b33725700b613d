//! nginx with one worker as a plain reverse proxy: the anchor for what a hop costs.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::process::{Process, free_addresses};

/// A running proxy.
pub(crate) struct Nginx {
    _process: Process,
    /// Where it listens.
    pub(crate) address: SocketAddr,
}

// === impl Nginx ===

impl Nginx {
    /// Proxies to `app` with keep-alive connections and without logs.
    pub(crate) fn start(folder: &Path, app: SocketAddr) -> Result<Self> {
        let address = free_addresses(1)?[0];
        let folder_name = folder.display();
        let configuration = format!(
            "daemon off; worker_processes 1; pid {folder_name}/nginx.pid; error_log stderr error;\n\
             events {{ worker_connections 2048; }}\n\
             http {{\n  access_log off; client_body_temp_path {folder_name}/body;\n  \
             proxy_temp_path {folder_name}/proxy; fastcgi_temp_path {folder_name}/fastcgi;\n  \
             uwsgi_temp_path {folder_name}/uwsgi; scgi_temp_path {folder_name}/scgi;\n  \
             keepalive_requests 10000000;\n  \
             upstream app {{ server {app}; keepalive 256; keepalive_requests 10000000; }}\n  \
             server {{ listen {address}; location / {{ proxy_pass http://app; \
             proxy_http_version 1.1; proxy_set_header Connection \"\"; }} }}\n}}\n"
        );
        let file = folder.join("nginx.conf");
        std::fs::write(&file, configuration)?;
        let mut command = Command::new("nginx");
        command.arg("-p").arg(folder).arg("-c").arg(&file);
        let mut process = Process::start("nginx", folder, &mut command)?;
        process.wait_listening(address)?;
        Ok(Self {
            _process: process,
            address,
        })
    }
}
