//! Asks a tunnel's peer whether it lives.
use crate::{Limits, TunnelError};
use h2::{Ping, PingPong};

/// Runs until the peer fails to answer, and returns why. Never returns while the peer answers.
pub(crate) async fn watch(mut pings: PingPong, limits: &Limits) -> TunnelError {
    loop {
        tokio::time::sleep(limits.ping_interval).await;
        match tokio::time::timeout(limits.ping_timeout, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return error.into(),
            Err(_) => return TunnelError::Ping(limits.ping_timeout.as_millis()),
        }
    }
}
