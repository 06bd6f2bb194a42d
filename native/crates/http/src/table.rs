//! The routes in force, by what they are attached to.

use crate::decode;
use crate::matcher::{Entry, Matcher, PathMatch, RequestView};
use crate::route::{Parent, Route, Rule};
use hashbrown::{HashMap, HashSet};
use meltemi_types::meltemi as wire;
use parking_lot::RwLock;
use prost::Message;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Acquire, Ordering::Release};

/// A rule, as a matcher holds it.
type Rules = Matcher<Arc<Rule>>;

/// What the routes of a parent say of a request.
#[derive(Debug)]
pub enum Found {
    /// Discovery has not answered yet: whatever is known may not be all.
    NotReceived,
    /// No route is attached: on to the parent as asked.
    NoRoutes,
    /// Routes are attached, none is for this request: 404.
    NoMatch,
    /// A route that is attached was refused and had no good version before; no other one is for this
    /// request: 500.
    Broken,
    Rule {
        rule: Arc<Rule>,
        path: PathMatch,
    },
}

/// The routes of one parent.
#[derive(Debug)]
struct ParentRoutes {
    producer: Attached,
    /// By the caller's namespace: they see these and no producer route.
    consumers: HashMap<Arc<str>, Attached>,
    /// A producer's route was refused.
    broken: bool,
    /// Namespaces a consumer route of which was refused. It is nobody else's affair.
    broken_for: HashSet<Arc<str>>,
}

#[derive(Debug)]
struct Attached {
    rules: Rules,
    /// Ports that a route is attached to; `None` among them: to all.
    ports: Box<[Option<u16>]>,
}

impl Attached {
    fn new(routes: &[(Option<u16>, &Arc<Route>)]) -> Self {
        let mut ports: Vec<_> = routes.iter().map(|(port, _)| *port).collect();
        ports.sort_unstable();
        ports.dedup();
        let rules = routes.iter().flat_map(|(port, route)| entries(route, *port)).collect();
        Self { rules: Rules::new(rules), ports: ports.into() }
    }

    fn is_at(&self, port: u16) -> bool {
        self.ports.iter().any(|attached| attached.is_none_or(|attached| attached == port))
    }
}

#[derive(Debug, Default)]
struct Known {
    routes: HashMap<Arc<str>, Arc<Route>>,
    /// Refused and never good.
    refused: HashMap<Arc<str>, Refused>,
    parents: HashMap<Parent, Arc<ParentRoutes>>,
}

/// What is known of a route that was refused.
#[derive(Debug, Default)]
struct Refused {
    /// A consumer route's namespace.
    consumer: Option<Arc<str>>,
    parents: Vec<Parent>,
}

/// Shared; a look-up takes a read lock for one hash.
#[derive(Debug, Default)]
pub struct RouteTable {
    known: RwLock<Known>,
    synced: AtomicBool,
}

impl RouteTable {
    /// Takes over one response of discovery: encoded routes by name, and names that are gone. Returns what is
    /// refused, with the reason; the last good version of such a route stays in force.
    pub fn apply<'a>(
        &self,
        updates: impl IntoIterator<Item = (&'a str, &'a [u8])>,
        removed: &[String],
    ) -> Vec<(String, String)> {
        let mut refused = Vec::new();
        let decoded: Vec<_> =
            updates.into_iter().map(|(name, body)| (name, decode_route(name, body))).collect();
        let mut touched = HashSet::new();
        let mut known = self.known.write();
        for name in removed {
            known.forget(name, &mut touched);
        }
        for (name, outcome) in decoded {
            match outcome {
                Ok(route) => {
                    known.forget(name, &mut touched);
                    touched.extend(route.parents.iter().map(|parent| parent.parent.clone()));
                    known.routes.insert(route.name.clone(), Arc::new(route));
                }
                Err((problem, route)) => {
                    if !known.routes.contains_key(name) {
                        known.forget(name, &mut touched);
                        touched.extend(route.parents.iter().cloned());
                        known.refused.insert(name.into(), route);
                    }
                    refused.push((name.to_owned(), problem));
                }
            }
        }
        for parent in touched {
            known.rebuild(parent);
        }
        refused
    }

    /// Discovery has answered: what is absent does not exist.
    pub fn synced(&self) {
        self.synced.store(true, Release);
    }

    /// The rule for a request that was sent to `parent`.
    pub fn find(&self, parent: &Parent, request: &RequestView<'_>) -> Found {
        if !self.synced.load(Acquire) {
            return Found::NotReceived;
        }
        let Some(routes) = self.known.read().parents.get(parent).cloned() else { return Found::NoRoutes };
        let consumer = routes.consumers.get(request.source_namespace);
        let broken_for = routes.broken_for.contains(request.source_namespace);
        let attached = match consumer.filter(|routes| routes.is_at(request.port)) {
            Some(attached) => attached,
            // The route that was refused would have been in place of the producer's.
            None if broken_for => return Found::Broken,
            None => &routes.producer,
        };
        match attached.rules.find(request) {
            Some(entry) => {
                let path = match entry.value.replaces_path() {
                    true => entry.request.path.clone(),
                    false => PathMatch::Any,
                };
                Found::Rule { rule: entry.value.clone(), path }
            }
            None if routes.broken || broken_for => Found::Broken,
            None if !attached.is_at(request.port) => Found::NoRoutes,
            None => Found::NoMatch,
        }
    }

    /// Names of the routes in force.
    pub fn names(&self) -> Vec<Arc<str>> {
        let mut names: Vec<_> = self.known.read().routes.keys().cloned().collect();
        names.sort();
        names
    }
}

fn decode_route(name: &str, body: &[u8]) -> Result<Route, (String, Refused)> {
    let message = wire::HttpRoute::decode(body)
        .map_err(|error| (format!("it is no HttpRoute: {error}"), Refused::default()))?;
    decode::route(name, &message).map_err(|error| {
        let parents = decode::parents(&message).into_iter().map(|parent| parent.parent).collect();
        (error.to_string(), Refused { consumer: decode::consumer(&message), parents })
    })
}

impl Known {
    fn forget(&mut self, name: &str, touched: &mut HashSet<Parent>) {
        if let Some(route) = self.routes.remove(name) {
            touched.extend(route.parents.iter().map(|parent| parent.parent.clone()));
        }
        touched.extend(self.refused.remove(name).into_iter().flat_map(|route| route.parents));
    }

    fn rebuild(&mut self, parent: Parent) {
        let mut producer = Vec::new();
        let mut consumers: HashMap<Arc<str>, Vec<_>> = HashMap::new();
        for route in self.routes.values() {
            for attached in route.parents.iter().filter(|attached| attached.parent == parent) {
                match &route.consumer {
                    Some(namespace) => {
                        consumers.entry(namespace.clone()).or_default().push((attached.port, route));
                    }
                    None => producer.push((attached.port, route)),
                }
            }
        }
        let refused = self.refused.values().filter(|route| route.parents.contains(&parent));
        let (mut broken, mut broken_for) = (false, HashSet::new());
        for route in refused {
            match &route.consumer {
                Some(namespace) => _ = broken_for.insert(namespace.clone()),
                None => broken = true,
            }
        }
        if producer.is_empty() && consumers.is_empty() && broken_for.is_empty() && !broken {
            self.parents.remove(&parent);
            return;
        }
        let routes = ParentRoutes {
            producer: Attached::new(&producer),
            consumers: consumers.into_iter().map(|(name, routes)| (name, Attached::new(&routes))).collect(),
            broken,
            broken_for,
        };
        self.parents.insert(parent, Arc::new(routes));
    }
}

/// Every match of every rule, for every host.
fn entries(route: &Arc<Route>, port: Option<u16>) -> impl Iterator<Item = Entry<Arc<Rule>>> {
    let hosts = route.hosts.iter();
    hosts.flat_map(move |host| {
        route.rules.iter().enumerate().flat_map(move |(rule_index, (matches, rule))| {
            matches.iter().enumerate().filter_map(move |(index, request)| {
                let mut request = request.clone();
                match (request.port, port) {
                    // The match names another port than the parent it would be for.
                    (Some(wanted), Some(port)) if wanted != port => return None,
                    (None, port) => request.port = port,
                    _ => {}
                }
                Some(Entry {
                    host: host.clone(),
                    order: route.order,
                    created_ms: route.created_ms,
                    route: route.key.clone(),
                    rule: rule_index as u32,
                    index: index as u32,
                    request,
                    value: rule.clone(),
                })
            })
        })
    })
}

#[cfg(test)]
mod tests;
