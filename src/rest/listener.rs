//! Opens the sockets of the REST API and says under which URL others find this worker. The first thing of a start, so
//! that a client may connect while the rest is put together.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener as StdListener, UdpSocket};

use lakeferry_api::error::Context as _;
use lakeferry_api::{ConnectError, Kind, Result};
use tokio::net::TcpListener;

use crate::config::rest::{Listener, RestConfig, Scheme};

/// Open sockets.
pub struct Sockets {
    pub(super) main: Vec<TcpListener>,
    /// `None`: the admin resources are served with all others.
    pub(super) admin: Option<Vec<TcpListener>>,
    worker_id: String,
}

impl Sockets {
    /// Opens every listener of `config`.
    ///
    /// # Errors
    /// `Config` for a listener that cannot be opened.
    pub fn open(config: &RestConfig) -> Result<Self> {
        let main = config.listeners.iter().map(open).collect::<Result<Vec<_>>>()?;
        let admin = config.admin_listeners.as_ref().map(|listeners| listeners.iter().map(open).collect());
        let port = match main.first() {
            Some(socket) => port(socket)?,
            None => {
                return Err(ConnectError::config("listeners is empty: name at least one, as http://localhost:8083"));
            }
        };
        Ok(Self { worker_id: worker_id(config, port, own_host), main, admin: admin.transpose()? })
    }

    /// `host:port`, as statuses name this worker.
    pub fn worker_id(&self) -> &str {
        &self.worker_id
    }
}

fn open(listener: &Listener) -> Result<TcpListener> {
    if listener.scheme == Scheme::Https {
        return Err(ConnectError::config(format!(
            "The listener {listener} cannot be opened: https is not supported yet; use an http:// listener, behind a \
             proxy that speaks TLS where one is needed"
        )));
    }
    let refused = || format!("The listener {listener} cannot be opened: choose another host or port");
    let bound = match listener.host.as_str() {
        "" => StdListener::bind((Ipv6Addr::UNSPECIFIED, listener.port))
            .or_else(|_| StdListener::bind((Ipv4Addr::UNSPECIFIED, listener.port))),
        host => StdListener::bind((host, listener.port)),
    };
    let socket = bound.context(Kind::Config, refused)?;
    socket.set_nonblocking(true).context(Kind::Fatal, refused)?;
    TcpListener::from_std(socket).context(Kind::Fatal, refused)
}

fn port(socket: &TcpListener) -> Result<u16> {
    socket.local_addr().map(|address| address.port()).context(Kind::Fatal, || "a listener has no address".to_owned())
}

/// What the settings say of host and port; else the listener that is advertised; else what was really opened.
fn worker_id(config: &RestConfig, opened: u16, own_host: impl FnOnce() -> String) -> String {
    let wanted = config.advertised_listener.unwrap_or(Scheme::Http);
    let listener = config.listeners.iter().find(|listener| listener.scheme == wanted);
    let host = config.advertised_host_name.clone().filter(|host| !host.is_empty());
    let host = host.or_else(|| listener.map(|listener| listener.host.clone()).filter(|host| !host.is_empty()));
    let port = config.advertised_port.or_else(|| listener.map(|listener| listener.port).filter(|port| *port != 0));
    let host = host.unwrap_or_else(own_host);
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    format!("{host}:{}", port.unwrap_or(opened))
}

/// The address that this machine uses towards others. Nothing is sent.
fn own_host() -> String {
    let towards = |own: IpAddr, other: &str| -> Option<IpAddr> {
        let socket = UdpSocket::bind((own, 0)).ok()?;
        socket.connect(other).ok()?;
        socket.local_addr().ok().map(|address| address.ip())
    };
    let address = towards(Ipv4Addr::UNSPECIFIED.into(), "192.0.2.1:9")
        .or_else(|| towards(Ipv6Addr::UNSPECIFIED.into(), "[2001:db8::1]:9"))
        .filter(|address| !address.is_unspecified());
    address.map_or_else(|| "localhost".to_owned(), |address| address.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(listeners: &[(Scheme, &str, u16)]) -> RestConfig {
        let listener = |(scheme, host, port): &(Scheme, &str, u16)| Listener {
            scheme: *scheme,
            host: (*host).to_owned(),
            port: *port,
        };
        RestConfig {
            listeners: listeners.iter().map(listener).collect(),
            admin_listeners: None,
            advertised_host_name: None,
            advertised_port: None,
            advertised_listener: None,
            access_control_allow_origin: String::new(),
            access_control_allow_methods: String::new(),
            response_headers: Vec::new(),
        }
    }

    fn id(config: &RestConfig) -> String {
        worker_id(config, 4711, || "10.0.0.5".to_owned())
    }

    #[test]
    fn the_worker_id_is_what_is_advertised() {
        assert_eq!(id(&config(&[(Scheme::Http, "h", 1)])), "h:1");
        assert_eq!(id(&config(&[(Scheme::Http, "", 0)])), "10.0.0.5:4711");
        assert_eq!(id(&config(&[(Scheme::Http, "::1", 1)])), "[::1]:1");
        let both = config(&[(Scheme::Https, "s", 2), (Scheme::Http, "h", 1)]);
        assert_eq!(id(&both), "h:1");
        assert_eq!(id(&RestConfig { advertised_listener: Some(Scheme::Https), ..both.clone() }), "s:2");
        let told = RestConfig { advertised_host_name: Some("a".to_owned()), advertised_port: Some(9), ..both };
        assert_eq!(id(&told), "a:9");
    }

    #[tokio::test]
    async fn what_cannot_be_opened_is_named() {
        let sockets = Sockets::open(&config(&[(Scheme::Http, "127.0.0.1", 0)])).unwrap();
        let taken = port(&sockets.main[0]).unwrap();
        assert_eq!(sockets.worker_id(), format!("127.0.0.1:{taken}"));
        for listener in [(Scheme::Https, "127.0.0.1", 0), (Scheme::Http, "127.0.0.1", taken)] {
            let error = Sockets::open(&config(&[listener])).err().unwrap();
            assert_eq!(error.kind(), Kind::Config);
            assert!(error.message().contains("127.0.0.1"), "{error}");
        }
    }
}
