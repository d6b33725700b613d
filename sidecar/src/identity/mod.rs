//! Certificates, and who may call what.
