//! The traceroute engine: state machines without sockets, clocks or threads, and the driver that pumps them.
