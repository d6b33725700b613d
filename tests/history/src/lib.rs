//! Histories of clients and the checks on them.
