//! Where the service listens.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};
use std::str::FromStr;

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that wait to be accepted; the kernel may allow fewer.
const BACKLOG: i32 = 4096;
/// Bytes of answers that the kernel keeps for one connection until they are acknowledged. It would
/// keep up to 4 MB otherwise, and that is this service's memory. Linux takes twice as much, and what
/// one more packet of 64 kB holds.
pub(crate) const SEND_BUFFER: usize = 16 * 1024;
/// Bytes of requests likewise, until they are read. Linux takes twice as much.
const RECEIVE_BUFFER: usize = 16 * 1024;

/// A TCP address as on the command line: `:port`, `host:port` or `[v6]:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ListenAddress {
    /// Name or address; empty: all addresses, IPv6 and IPv4.
    host: String,
    port: u16,
}

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let invalid = |problem: &str| format!("{text:?} {problem}; write :3765, host:3765 or [::1]:3765");
        let (host, port) = text.rsplit_once(':').ok_or_else(|| invalid("has no port"))?;
        let digits = port.bytes().all(|byte| byte.is_ascii_digit());
        let port = match port.parse() {
            Ok(port) if digits => port,
            _ => return Err(invalid("has a port that is not between 0 and 65535")),
        };
        let host = match host.strip_prefix('[').map(|rest| rest.strip_suffix(']')) {
            Some(Some(v6)) if v6.parse::<Ipv6Addr>().is_ok() => v6,
            None if !host.contains([':', ']']) => host,
            _ => return Err(invalid("has an IPv6 address that is wrong or without brackets")),
        };
        Ok(ListenAddress {
            host: host.to_owned(),
            port,
        })
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ListenAddress { host, port } = self;
        if host.contains(':') {
            write!(f, "[{host}]:{port}")
        } else {
            write!(f, "{host}:{port}")
        }
    }
}

impl ListenAddress {
    /// Whether only this machine reaches it, as far as the text tells.
    pub(crate) fn is_loopback(&self) -> bool {
        let address = self.host.parse::<IpAddr>();
        self.host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    }

    /// Listens, on each of a name's addresses.
    ///
    /// # Errors
    /// The name has no address, or none of its addresses can be listened on.
    pub(crate) fn open(&self) -> io::Result<Vec<TcpListener>> {
        if self.host.is_empty() {
            return Ok(vec![listen_on_all(self.port)?]);
        }
        let mut port = self.port;
        let mut listeners: Vec<TcpListener> = Vec::new();
        let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in (self.host.as_str(), port).to_socket_addrs()? {
            let address = SocketAddr::new(address.ip(), port);
            let has = |listener: &TcpListener| listener.local_addr().is_ok_and(|local| local == address);
            if listeners.iter().any(has) {
                continue;
            }
            match listen(address) {
                Ok(listener) => {
                    // Port 0 is any, but the same for all.
                    port = listener.local_addr()?.port();
                    listeners.push(listener);
                }
                // `localhost` names ::1 also where IPv6 is turned off.
                Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => failure = error,
                Err(error) => return Err(error),
            }
        }
        if listeners.is_empty() {
            return Err(failure);
        }
        Ok(listeners)
    }
}

/// One socket for IPv6 and IPv4, or for IPv4 where there is no IPv6.
fn listen_on_all(port: u16) -> io::Result<TcpListener> {
    match listen((Ipv6Addr::UNSPECIFIED, port).into()) {
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
            listen((Ipv4Addr::UNSPECIFIED, port).into()).map_err(|_| error)
        }
        result => result,
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if let SocketAddr::V6(v6) = address {
        socket.set_only_v6(!v6.ip().is_unspecified())?;
    }
    // To be able to start again at once. Elsewhere the option means something else: anybody may
    // take the port.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    // Connections inherit these.
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(unix)]
pub(crate) use unix::UnixSocket;

/// Unix sockets.
#[cfg(unix)]
mod unix {
    use std::fs::{self, Permissions};
    use std::io;
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::path::{Path, PathBuf};

    use socket2::{Domain, SockAddr, SockRef, Socket, Type};

    use super::BACKLOG;

    /// A listening Unix socket; its file is removed when this is dropped.
    #[derive(Debug)]
    pub(crate) struct UnixSocket {
        path: PathBuf,
        pub(crate) listener: UnixListener,
    }

    impl UnixSocket {
        /// Listens at `path`, in the place of a socket that nobody listens on any more. Those may
        /// connect who may write to the file, whose permission bits are `mode`.
        ///
        /// # Errors
        /// Something else is there, or the system refuses.
        pub(crate) fn open(path: &Path, mode: u32) -> io::Result<Self> {
            remove_stale(path)?;
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            socket.bind(&SockAddr::unix(path)?)?;
            let socket = UnixSocket {
                path: path.to_owned(),
                listener: socket.into(),
            };
            fs::set_permissions(path, Permissions::from_mode(mode))?;
            // Only now: until it listens nobody can connect, whatever the permissions were.
            SockRef::from(&socket.listener).listen(BACKLOG)?;
            socket.listener.set_nonblocking(true)?;
            Ok(socket)
        }
    }

    fn remove_stale(path: &Path) -> io::Result<()> {
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
            Ok(found) if !found.file_type().is_socket() => return Err(io::ErrorKind::AlreadyExists.into()),
            Ok(_) => {}
        }
        match UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
            Err(error) => Err(error),
            Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
        }
    }

    impl Drop for UnixSocket {
        fn drop(&mut self) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;

    #[test]
    fn accepted_forms() {
        for (text, host, port) in [
            (":3765", "", 3765),
            (":0", "", 0),
            ("localhost:80", "localhost", 80),
            ("192.0.2.1:65535", "192.0.2.1", 65535),
            ("[::1]:3765", "::1", 3765),
            ("[::]:3765", "::", 3765),
        ] {
            let address: ListenAddress = text.parse().unwrap();
            assert_eq!((address.host.as_str(), address.port), (host, port), "{text}");
            assert_eq!(address.to_string(), text);
        }
    }

    #[test]
    fn refused_forms() {
        for text in [
            "",
            "3765",
            "localhost",
            ":",
            ":65536",
            ":+1",
            ":http",
            "::1:80",
            "[::1]",
            "[::1",
            "[x]:1",
            "a]:1",
        ] {
            assert!(text.parse::<ListenAddress>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn no_host_means_both_families() {
        let listeners = ":0".parse::<ListenAddress>().unwrap().open().unwrap();
        let port = listeners[0].local_addr().unwrap().port();
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok() {
            TcpStream::connect((Ipv6Addr::LOCALHOST, port)).unwrap();
        } else {
            eprintln!("not tested: this system has no IPv6");
        }
    }

    #[test]
    fn a_name_means_all_its_addresses_on_one_port() {
        let listeners = "localhost:0".parse::<ListenAddress>().unwrap().open().unwrap();
        let ports: Vec<u16> = listeners.iter().map(|l| l.local_addr().unwrap().port()).collect();
        assert!(ports.iter().all(|port| *port == ports[0]), "{ports:?}");
    }

    #[test]
    fn an_address_in_use_is_an_error() {
        let first = "127.0.0.1:0".parse::<ListenAddress>().unwrap().open().unwrap();
        let address = first[0].local_addr().unwrap().to_string();
        let error = address.parse::<ListenAddress>().unwrap().open().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    #[cfg(unix)]
    #[test]
    fn unix_sockets_replace_stale_ones_only() {
        let path = std::env::temp_dir().join(format!("traceroute-test-{}.sock", std::process::id()));
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let socket = UnixSocket::open(&path, 0o600).unwrap();
        assert_eq!(
            UnixSocket::open(&path, 0o600).unwrap_err().kind(),
            io::ErrorKind::AddrInUse
        );
        drop(socket);
        assert!(!path.exists());
        std::fs::write(&path, "precious").unwrap();
        assert_eq!(
            UnixSocket::open(&path, 0o600).unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
        std::fs::remove_file(&path).unwrap();
    }
}
