//! A control plane in this process: delta discovery, on demand or all of it.
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use meltemi_types::ads::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use meltemi_types::ads::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};
use meltemi_types::discovery::ResourceType;
use prost_types::Any;
use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// One object as it is served.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    pub kind: ResourceType,
    pub name: String,
    pub aliases: Vec<String>,
    pub body: Vec<u8>,
    /// The node whose data plane has it always.
    pub node: Option<String>,
    /// Services it is an endpoint of.
    pub endpoint_of: Vec<String>,
}

impl Object {
    /// Addresses and policies by their names, a waypoint's own objects as `KIND:NAME`.
    fn key(&self) -> String {
        match self.kind {
            ResourceType::Address | ResourceType::Authorization => self.name.clone(),
            kind => format!("{}:{}", kind.label(), self.name),
        }
    }
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<String, (u64, Object)>,
    version: u64,
}

#[derive(Debug, Clone)]
pub struct Control {
    state: Arc<Mutex<State>>,
    changed: watch::Sender<u64>,
    nacks: Arc<Mutex<Vec<String>>>,
}

impl Control {
    pub fn start(socket: &Path) -> Self {
        let control = Self { state: Arc::default(), changed: watch::Sender::new(0), nacks: Arc::default() };
        let listener = UnixListener::bind(socket).unwrap();
        let served = control.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = TowerToHyperService::new(AggregatedDiscoveryServiceServer::new(served.clone()));
                let connection = http2::Builder::new(TokioExecutor::new());
                tokio::spawn(async move {
                    let _ = connection.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        control
    }

    pub fn put(&self, object: Object) {
        let version = {
            let mut state = self.state.lock().unwrap();
            state.version += 1;
            let version = state.version;
            state.objects.insert(object.key(), (version, object));
            version
        };
        self.changed.send_replace(version);
    }

    pub fn remove(&self, name: &str) {
        let version = {
            let mut state = self.state.lock().unwrap();
            state.version += 1;
            state.objects.remove(name);
            state.version
        };
        self.changed.send_replace(version);
    }

    pub fn nacks(&self) -> Vec<String> {
        self.nacks.lock().unwrap().clone()
    }
}

/// What one stream has asked for and been told.
#[derive(Default)]
struct Session {
    node: String,
    asked: HashSet<String>,
    wildcard: HashSet<ResourceType>,
    begun: HashSet<ResourceType>,
    answered: HashSet<ResourceType>,
    told: BTreeMap<(ResourceType, String), u64>,
    refused: HashSet<String>,
    nonce: u64,
}

impl Session {
    fn take(&mut self, request: DeltaDiscoveryRequest) -> Option<String> {
        if let Some(node) = request.node {
            let name = node.metadata.and_then(|metadata| metadata.fields.get("NODE_NAME").cloned());
            if let Some(prost_types::value::Kind::StringValue(name)) = name.and_then(|value| value.kind) {
                self.node = name;
            }
        }
        let kind = ResourceType::from_type_url(&request.type_url)?;
        self.begun.insert(kind);
        for name in request.resource_names_subscribe {
            if name == "*" {
                self.wildcard.insert(kind);
            }
            self.refused.remove(&name);
            self.asked.insert(name);
        }
        for name in request.resource_names_unsubscribe {
            if name == "*" {
                self.wildcard.remove(&kind);
            }
            self.asked.remove(&name);
        }
        if kind == ResourceType::Authorization {
            self.wildcard.insert(kind);
        }
        request.error_detail.map(|error| error.message)
    }

    fn wants(&self, object: &Object, objects: &BTreeMap<String, (u64, Object)>) -> bool {
        let asked = |object: &Object| {
            self.asked.contains(&object.name) || object.aliases.iter().any(|a| self.asked.contains(a))
        };
        self.wildcard.contains(&object.kind)
            || asked(object)
            || object.node.as_ref() == Some(&self.node)
            || object.endpoint_of.iter().any(|s| objects.get(s).is_some_and(|(_, s)| asked(s)))
    }

    fn answer(&mut self, kind: ResourceType, state: &State) -> Option<DeltaDiscoveryResponse> {
        if !self.begun.contains(&kind) {
            return None;
        }
        let mut resources = Vec::new();
        let mut present = HashSet::new();
        let mut known = HashSet::new();
        for (version, object) in state.objects.values().filter(|(_, object)| object.kind == kind) {
            known.insert(object.name.clone());
            known.extend(object.aliases.iter().cloned());
            if !self.wants(object, &state.objects) {
                continue;
            }
            present.insert(object.name.clone());
            if self.told.insert((kind, object.name.clone()), *version) != Some(*version) {
                resources.push(Resource {
                    version: version.to_string(),
                    resource: Some(Any { type_url: kind.type_url().to_owned(), value: object.body.clone() }),
                    name: object.name.clone(),
                    aliases: object.aliases.clone(),
                    ttl: None,
                });
            }
        }
        let gone: Vec<_> = self
            .told
            .keys()
            .filter(|(told, name)| *told == kind && !present.contains(name))
            .map(|(_, name)| name.clone())
            .collect();
        for name in &gone {
            self.told.remove(&(kind, name.clone()));
        }
        let mut removed = gone;
        if kind == ResourceType::Address {
            let absent = self.asked.iter().filter(|name| *name != "*" && !known.contains(*name));
            let new: Vec<_> = absent.filter(|name| !self.refused.contains(*name)).cloned().collect();
            self.refused.extend(new.iter().cloned());
            self.refused.retain(|name| !known.contains(name));
            removed.extend(new);
        }
        let first = self.answered.insert(kind);
        if !first && resources.is_empty() && removed.is_empty() {
            return None;
        }
        self.nonce += 1;
        Some(DeltaDiscoveryResponse {
            system_version_info: state.version.to_string(),
            resources,
            type_url: kind.type_url().to_owned(),
            nonce: self.nonce.to_string(),
            removed_resources: removed,
        })
    }
}

type Responses = Pin<Box<dyn futures::Stream<Item = Result<DeltaDiscoveryResponse, Status>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Control {
    type DeltaAggregatedResourcesStream = Responses;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Responses>, Status> {
        let mut requests = request.into_inner();
        let (responses, stream) = tokio::sync::mpsc::channel(16);
        let control = self.clone();
        tokio::spawn(async move {
            let mut session = Session::default();
            let mut changed = control.changed.subscribe();
            loop {
                tokio::select! {
                    request = requests.message() => match request {
                        Ok(Some(request)) => {
                            if let Some(nack) = session.take(request) {
                                control.nacks.lock().unwrap().push(nack);
                            }
                        }
                        _ => return,
                    },
                    _ = changed.changed() => {}
                }
                for kind in ResourceType::WAYPOINT {
                    let answer = session.answer(kind, &control.state.lock().unwrap());
                    if let Some(answer) = answer
                        && responses.send(Ok(answer)).await.is_err()
                    {
                        return;
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}
