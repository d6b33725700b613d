//! Conditions of services and groups, with their reasons.
