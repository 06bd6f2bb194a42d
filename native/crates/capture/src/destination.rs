//! The destination that the application dialled.
use crate::CaptureError;
use socket2::SockRef;
use std::io;
use std::net::{IpAddr, SocketAddr};
use tokio::net::TcpStream;

/// The address the connection was made to before any redirection: connection tracking's where a
/// REDIRECT rule was applied, the socket's own otherwise (transparent delivery).
pub fn original_destination(stream: &TcpStream) -> Result<SocketAddr, CaptureError> {
    let local = canonical(stream.local_addr()?);
    let socket = SockRef::from(stream);
    let tracked = match local {
        SocketAddr::V4(_) => socket.original_dst_v4(),
        SocketAddr::V6(_) => socket.original_dst_v6(),
    };
    match tracked {
        Ok(address) => Ok(address.as_socket().map_or(local, canonical)),
        Err(error) if not_tracked(&error) => Ok(local),
        Err(error) => Err(error.into()),
    }
}

/// No entry, or no connection tracking in this namespace or kernel at all.
fn not_tracked(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOPROTOOPT | libc::EOPNOTSUPP | libc::EINVAL))
}

/// IPv4-mapped IPv6 addresses as IPv4, so that one client has one form.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => SocketAddr::new(IpAddr::V4(v4), address.port()),
            None => address,
        },
        IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_addresses_have_one_form() {
        let mapped: SocketAddr = "[::ffff:10.0.0.1]:80".parse().unwrap();
        assert_eq!(canonical(mapped), "10.0.0.1:80".parse().unwrap());
        let plain: SocketAddr = "[fd00::1]:80".parse().unwrap();
        assert_eq!(canonical(plain), plain);
    }
}
