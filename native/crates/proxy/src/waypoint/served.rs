//! What this waypoint takes connections for, and how each port is read.

use hashbrown::HashMap;
use meltemi_types::meltemi as wire;
use parking_lot::RwLock;
use prost::Message;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::time::Instant;

/// How a port's bytes are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// Not at all.
    Tcp,
    Http {
        http2_only: bool,
        http2_backend: bool,
    },
}

#[derive(Debug)]
pub(crate) struct Served {
    ports: Box<[(u16, Reading)]>,
}

impl Served {
    /// `None`: the port is not listed.
    pub(crate) fn reading(&self, port: u16) -> Option<Reading> {
        self.ports.iter().find(|(listed, _)| *listed == port).map(|(_, reading)| *reading)
    }
}

/// By resource name: `NAMESPACE/HOSTNAME` of services, uid of workloads.
#[derive(Debug, Default)]
pub(crate) struct ServedTable {
    served: RwLock<HashMap<Arc<str>, Arc<Served>>>,
    changed: watch::Sender<u64>,
}

impl ServedTable {
    /// Returns what is refused, with the reason; the last good version stays.
    pub(crate) fn apply<'a>(
        &self,
        updates: impl IntoIterator<Item = (&'a str, &'a [u8])>,
        removed: &[String],
    ) -> Vec<(String, String)> {
        let mut refused = Vec::new();
        {
            let mut served = self.served.write();
            for name in removed {
                served.remove(name.as_str());
            }
            for (name, body) in updates {
                match decode(body) {
                    Ok(good) => {
                        served.insert(name.into(), Arc::new(good));
                    }
                    Err(problem) => refused.push((name.to_owned(), problem)),
                }
            }
        }
        self.changed.send_modify(|count| *count += 1);
        refused
    }

    /// How often it has changed.
    pub(crate) fn version(&self) -> u64 {
        *self.changed.borrow()
    }

    pub(crate) fn get(&self, name: &str) -> Option<Arc<Served>> {
        self.served.read().get(name).cloned()
    }

    /// The same, waiting for what discovery may be about to tell.
    pub(crate) async fn wait_for(&self, name: &str, deadline: Instant) -> Option<Arc<Served>> {
        let mut changed = self.changed.subscribe();
        loop {
            if let Some(served) = self.get(name) {
                return Some(served);
            }
            tokio::time::timeout_at(deadline, changed.changed()).await.ok()?.ok()?;
        }
    }

    /// The service of a host name; of several, the first by namespace.
    pub(crate) fn service_named(&self, hostname: &str) -> Option<Arc<str>> {
        let served = self.served.read();
        let named = served.keys().filter(|key| {
            key.split_once('/').is_some_and(|(_, name)| !name.contains('/') && name == hostname)
        });
        named.min().cloned()
    }

    pub(crate) fn names(&self) -> Vec<Arc<str>> {
        let mut names: Vec<_> = self.served.read().keys().cloned().collect();
        names.sort();
        names
    }
}

fn decode(body: &[u8]) -> Result<Served, String> {
    use wire::served_port::Protocol;
    let message = wire::Served::decode(body).map_err(|error| format!("it is no Served: {error}"))?;
    meltemi_http::decode::check_requires(&message.requires).map_err(|error| error.to_string())?;
    let ports = message.ports.iter().enumerate().map(|(index, port)| {
        let number = u16::try_from(port.port).ok().filter(|number| *number > 0);
        let number = number.ok_or_else(|| format!("ports[{index}].port: {} is no port", port.port))?;
        let http = |http2_only| Reading::Http { http2_only, http2_backend: port.http2_backend };
        match Protocol::try_from(port.protocol) {
            Ok(Protocol::Tcp) => Ok((number, Reading::Tcp)),
            Ok(Protocol::Http) => Ok((number, http(false))),
            Ok(Protocol::Http2) => Ok((number, http(true))),
            Err(_) => Err(format!("ports[{index}].protocol: an unknown value")),
        }
    });
    Ok(Served { ports: ports.collect::<Result<_, _>>()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served(port: u32, protocol: i32) -> Vec<u8> {
        let ports = vec![wire::ServedPort { port, protocol, http2_backend: false }];
        wire::Served { ports, ..Default::default() }.encode_to_vec()
    }

    #[tokio::test]
    async fn the_last_good_version_stays() {
        let table = ServedTable::default();
        assert_eq!(table.apply([("ns/cart.example", &*served(80, 1))], &[]), []);
        for bad in [served(0, 1), served(80, 9), b"\xff".to_vec()] {
            assert_eq!(table.apply([("ns/cart.example", &*bad)], &[]).len(), 1);
        }
        let kept = table.get("ns/cart.example").unwrap();
        assert_eq!(kept.reading(80), Some(Reading::Http { http2_only: false, http2_backend: false }));
        assert_eq!(kept.reading(81), None);
        assert_eq!(table.service_named("cart.example").as_deref(), Some("ns/cart.example"));
        table.apply([], &["ns/cart.example".to_owned()]);
        assert!(table.wait_for("ns/cart.example", Instant::now()).await.is_none());
    }
}
