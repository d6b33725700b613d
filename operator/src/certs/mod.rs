//! Certs.
