//! Traceroute as a library: parameters in, one JSON document out.

mod parameters;

pub use parameters::{
    DEFAULT_E2E_QUERIES, DEFAULT_MAX_TTL, DEFAULT_PORT, DEFAULT_TIMEOUT_MS, DEFAULT_TRACEROUTE_QUERIES, Host,
    Parameters, Protocol, Request, TcpMethod,
};
