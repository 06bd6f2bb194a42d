//! Which of an endpoint's addresses a client is connected to, where there are several.

use std::net::IpAddr;

use crate::Text;
use crate::selection::{EndpointAddress, SelectionRequest};
use crate::service::IpFamilies;
use crate::workload::Workload;

/// An [`EndpointAddress`] that is not taken yet.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Reach<'a> {
    Ip(IpAddr),
    Hostname(&'a Text),
    NetworkGateway,
}

impl From<Reach<'_>> for EndpointAddress {
    fn from(reach: Reach<'_>) -> Self {
        match reach {
            Reach::Ip(ip) => Self::Ip(ip),
            Reach::Hostname(name) => Self::Hostname(name.clone()),
            Reach::NetworkGateway => Self::NetworkGateway,
        }
    }
}

/// How well an address suits a client; a greater one goes before a smaller one, and before nearness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fit {
    /// It was tried for this connection already.
    Tried,
    /// The client has the other address family as well, and can reach it from there.
    OtherFamily,
    /// As the client connected.
    SameFamily,
}

/// Why an endpoint has no address for a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unaddressed {
    /// None that the service is offered on.
    NoAddress,
    /// Only of a family in which the client has no address.
    OtherFamily,
}

/// The address of an endpoint that suits best: of the client's own family before another one in which the
/// client has an address. What was tried before goes last.
pub(crate) fn address_for<'a>(
    workload: &'a Workload,
    families: IpFamilies,
    request: &SelectionRequest<'_>,
) -> Result<(Fit, Reach<'a>), Unaddressed> {
    let offered = || workload.ips.iter().copied().filter(|ip| families.accepts(*ip));
    let best = offered().filter_map(|ip| Some((fit(ip, request)?, ip))).reduce(|best, next| {
        // Of two that suit alike the first, which is the pod's primary one.
        if next.0 > best.0 { next } else { best }
    });
    if let Some((fit, ip)) = best {
        return Ok((fit, Reach::Ip(ip)));
    }
    if workload.ips.is_empty() && !workload.hostname.is_empty() {
        return Ok((Fit::SameFamily, Reach::Hostname(&workload.hostname)));
    }
    if workload.network_gateway.is_some() && workload.network != request.source.network {
        return Ok((Fit::SameFamily, Reach::NetworkGateway));
    }
    match offered().next() {
        Some(_) => Err(Unaddressed::OtherFamily),
        None => Err(Unaddressed::NoAddress),
    }
}

fn fit(ip: IpAddr, request: &SelectionRequest<'_>) -> Option<Fit> {
    let same = |other: &IpAddr| other.is_ipv4() == ip.is_ipv4();
    let family = match same(&request.client) {
        true => Fit::SameFamily,
        false if request.source.ips.iter().any(same) => Fit::OtherFamily,
        false => return None,
    };
    Some(if request.tried.contains(&ip) { Fit::Tried } else { family })
}
