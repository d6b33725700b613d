//! The app as this sidecar sees it: HTTP client, process identity, start and restart.
