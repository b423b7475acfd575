use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::{Error, Node, Result, sys};

/// A server in a node, on a thread of this process. Dropping it stops it and closes its
/// connections.
#[derive(Debug)]
pub struct Service {
    /// Closed to tell the thread to end.
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
    address: SocketAddr,
}

impl Node {
    /// Listens on a TCP port (0: any) of all IPv4 and IPv6 addresses. Accepts every connection, and
    /// reads and discards what arrives until the peer closes.
    ///
    /// # Errors
    /// When the port cannot be bound.
    pub fn listen_tcp(&self, port: u16) -> Result<Service> {
        self.listen_tcp_greeting(port, b"")
    }

    /// As [`Node::listen_tcp`], but speaks first, as SSH or SMTP servers do.
    ///
    /// # Errors
    /// When the port cannot be bound.
    pub fn listen_tcp_greeting(&self, port: u16, greeting: &[u8]) -> Result<Service> {
        let listener = self.tcp_listener(any(port))?;
        let address = listener
            .local_addr()
            .map_err(Error::system("read the address of a listener"))?;
        let greeting = greeting.to_vec();
        Service::start(address, move |stop| {
            let mut connections = Vec::new();
            let served = serve_tcp(&listener, &mut connections, &greeting, &stop);
            // A child that another thread has just forked holds copies until it executes its
            // program, so closing is not enough. To shutdown(2), a listener is a socket like any
            // other.
            connections.push(TcpStream::from(OwnedFd::from(listener)));
            for socket in connections {
                let _ = socket.shutdown(Shutdown::Both);
            }
            served
        })
    }

    /// Listens on a UDP port (0: any) of all IPv4 and IPv6 addresses, and sends each datagram back.
    ///
    /// # Errors
    /// When the port cannot be bound.
    pub fn listen_udp(&self, port: u16) -> Result<Service> {
        self.answer_udp(any(port), |datagram| Some(datagram.to_vec()))
    }

    /// Listens on a UDP address, and answers each datagram with what `answer` makes of it, if
    /// anything.
    pub(crate) fn answer_udp(
        &self,
        address: SocketAddr,
        answer: impl Fn(&[u8]) -> Option<Vec<u8>> + Send + 'static,
    ) -> Result<Service> {
        let socket = self.udp_socket(address)?;
        let address = socket
            .local_addr()
            .map_err(Error::system("read the address of a socket"))?;
        Service::start(address, move |stop| serve_udp(&socket, &stop, answer))
    }
}

impl Service {
    fn start(
        address: SocketAddr,
        serve: impl FnOnce(PipeReader) -> io::Result<()> + Send + 'static,
    ) -> Result<Self> {
        let (stopped, stop) = io::pipe().map_err(Error::system("make a pipe"))?;
        let run = move || {
            if let Err(error) = serve(stopped) {
                let _ = writeln!(io::stderr(), "testbed: the server on {address} ended: {error}");
            }
        };
        let thread = thread::Builder::new()
            .name(format!("server on {}", address.port()))
            .spawn(run)
            .map_err(Error::system("start a server thread"))?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
            address,
        })
    }

    /// The port that this server listens on.
    pub fn port(&self) -> u16 {
        self.address.port()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The IPv6 wildcard, which takes IPv4 as well: `net.ipv6.bindv6only` is 0 in new namespaces.
fn any(port: u16) -> SocketAddr {
    (Ipv6Addr::UNSPECIFIED, port).into()
}

fn serve_tcp(
    listener: &TcpListener,
    connections: &mut Vec<TcpStream>,
    greeting: &[u8],
    stop: &PipeReader,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    loop {
        let mut fds = vec![stop.as_raw_fd(), listener.as_raw_fd()];
        fds.extend(connections.iter().map(AsRawFd::as_raw_fd));
        let readable = sys::wait_readable(&fds)?;
        if readable[0] {
            return Ok(());
        }
        let mut ready = readable[2..].iter();
        connections.retain_mut(|connection| !ready.next().is_some_and(|&ready| ready) || is_open(connection));
        if readable[1] {
            connections.extend(accept(listener, greeting));
        }
    }
}

/// A connection that is gone before it is accepted or greeted is the client's affair.
fn accept(listener: &TcpListener, greeting: &[u8]) -> Option<TcpStream> {
    let (mut connection, _) = listener.accept().ok()?;
    connection.set_write_timeout(Some(Duration::from_secs(1))).ok()?;
    connection.write_all(greeting).ok()?;
    Some(connection)
}

/// Reads once from a readable connection; false when the peer has closed it.
fn is_open(connection: &mut TcpStream) -> bool {
    matches!(connection.read(&mut [0; 4096]), Ok(1..))
}

fn serve_udp(
    socket: &UdpSocket,
    stop: &PipeReader,
    answer: impl Fn(&[u8]) -> Option<Vec<u8>>,
) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    let mut datagram = vec![0; 65536];
    loop {
        if sys::wait_readable(&[stop.as_raw_fd(), socket.as_raw_fd()])?[0] {
            return Ok(());
        }
        // An ICMP error for an earlier answer arrives as an error of the socket; it concerns that
        // client only.
        if let Ok((length, client)) = socket.recv_from(&mut datagram)
            && let Some(answer) = answer(&datagram[..length])
        {
            let _ = socket.send_to(&answer, client);
        }
    }
}
