//! Client HTTP in and out: accept, classify by route, capture, answer.
