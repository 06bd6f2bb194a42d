//! One stream: first requests, then responses and demands as they come.
//!
//! Requests wait in a queue of their own and leave when the transport takes them, so that a server
//! that is slow to read never keeps this side from reading.

use std::collections::{HashSet, VecDeque};
use std::error::Error;
use std::sync::Arc;

use bytes::Bytes;
use meltemi_types::ads::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use meltemi_types::ads::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node, Status as WireStatus};
use meltemi_types::discovery::{Batch, Rejection, ResourceSink, ResourceType, ResourceUpdate};
use prost::Message;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::MAX_RESPONSE_BYTES;
use crate::asker::Asker;
use crate::options::{ClientOptions, Metrics, NodeInfo};
use crate::subscriptions::Subscriptions;
use crate::transport::{self, TransportError};

/// A server that does not read its ACKs is not read from either.
const MAX_QUEUED: usize = 1024;
/// google.rpc.Code.INVALID_ARGUMENT
const INVALID_ARGUMENT: i32 = 3;
/// Names of refused resources in one NACK; the rest is counted.
const MAX_NACK_DETAILS: usize = 20;
/// A response of at least this size may be one part of several.
const PART_BYTES: usize = 512 * 1024;

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StreamEnd {
    #[error("{0}")]
    Transport(#[from] TransportError),
    #[error("{} ({:?})", .0.message(), .0.code())]
    Refused(Box<tonic::Status>),
    #[error("the server closed the stream")]
    Closed,
}

impl StreamEnd {
    /// The error and what it came from: transports say what matters only in their causes.
    pub(crate) fn told(&self) -> String {
        let mut text = self.to_string();
        let mut cause = match self {
            Self::Refused(status) => status.source(),
            Self::Transport(_) | Self::Closed => self.source(),
        };
        while let Some(error) = cause {
            let said = error.to_string();
            if !text.contains(&said) {
                text.push_str(": ");
                text.push_str(&said);
            }
            cause = error.source();
        }
        text
    }
}

/// What one stream works on.
pub(crate) struct Session<'a> {
    pub(crate) options: &'a ClientOptions,
    pub(crate) sink: &'a Arc<dyn ResourceSink>,
    pub(crate) metrics: &'a Arc<dyn Metrics>,
    pub(crate) asker: &'a Asker,
    pub(crate) subscriptions: &'a mut Subscriptions,
    /// Set when the server has answered: the next wait starts from the shortest.
    pub(crate) answered: bool,
    queue: VecDeque<DeltaDiscoveryRequest>,
    synced: HashSet<ResourceType>,
    /// Types whose first answer may have more parts, until silence says otherwise.
    quiet_at: Option<Instant>,
    partial: HashSet<ResourceType>,
}

impl<'a> Session<'a> {
    pub(crate) fn new(
        options: &'a ClientOptions,
        sink: &'a Arc<dyn ResourceSink>,
        metrics: &'a Arc<dyn Metrics>,
        asker: &'a Asker,
        subscriptions: &'a mut Subscriptions,
    ) -> Self {
        Self {
            options,
            sink,
            metrics,
            asker,
            subscriptions,
            answered: false,
            queue: VecDeque::new(),
            synced: HashSet::new(),
            quiet_at: None,
            partial: HashSet::new(),
        }
    }

    /// Runs until the stream ends. `up` is called once the server has accepted it.
    pub(crate) async fn run(&mut self, up: impl FnOnce()) -> StreamEnd {
        match self.open().await {
            Ok((requests, responses)) => {
                up();
                self.converse(requests, responses).await
            }
            Err(end) => end,
        }
    }

    async fn open(
        &mut self,
    ) -> Result<(mpsc::Sender<DeltaDiscoveryRequest>, Streaming<DeltaDiscoveryResponse>), StreamEnd> {
        let options = self.options;
        let channel = transport::channel(
            &options.server,
            options.root_file.as_deref(),
            options.connect_timeout,
            options.keepalive,
        )
        .await?;
        // The first requests of all types have room before anybody takes one.
        let (sender, receiver) = mpsc::channel(options.types.len().max(8));
        for resource_type in options.types.iter().copied() {
            let request = self.subscriptions.initial(resource_type, wire_node(options));
            self.queue.push_back(request);
        }
        // Some servers answer with headers only after the first request.
        for _ in options.types {
            if let Some(request) = self.queue.pop_front() {
                sender.try_send(request).map_err(|_| StreamEnd::Closed)?;
            }
        }
        let mut request = tonic::Request::new(ReceiverStream::new(receiver));
        if let Some(path) = &options.token_file {
            request.metadata_mut().insert("authorization", transport::bearer(path).await?);
        }
        if let Ok(cluster) = options.node.cluster_id.parse() {
            request.metadata_mut().insert("clusterid", cluster);
        }
        let mut client =
            AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(MAX_RESPONSE_BYTES);
        let responses = client.delta_aggregated_resources(request).await;
        let responses = responses.map_err(|status| StreamEnd::Refused(Box::new(status)))?;
        Ok((sender, responses.into_inner()))
    }

    async fn converse(
        &mut self,
        requests: mpsc::Sender<DeltaDiscoveryRequest>,
        mut responses: Streaming<DeltaDiscoveryResponse>,
    ) -> StreamEnd {
        let mut idle_check = tokio::time::interval(self.options.idle_check);
        idle_check.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                permit = requests.reserve(), if !self.queue.is_empty() => {
                    let Ok(permit) = permit else { return StreamEnd::Closed };
                    if let Some(request) = self.queue.pop_front() {
                        permit.send(request);
                    }
                }
                response = responses.message(), if self.queue.len() < MAX_QUEUED => match response {
                    Ok(Some(response)) => self.take(response),
                    Ok(None) => return StreamEnd::Closed,
                    Err(status) => return StreamEnd::Refused(Box::new(status)),
                },
                wanted = self.asker.take(), if self.queue.len() < MAX_QUEUED => {
                    wanted.iter().for_each(|_| self.metrics.demand());
                    self.queue.extend(self.subscriptions.ask(wanted));
                }
                () = sleep_until(self.quiet_at), if self.quiet_at.is_some() => self.became_quiet(),
                _ = idle_check.tick() => self.release_idle(),
            }
        }
    }

    fn take(&mut self, response: DeltaDiscoveryResponse) {
        self.answered = true;
        let nonce = response.nonce.clone();
        let type_url = response.type_url.clone();
        let Some(resource_type) = ResourceType::from_type_url(&type_url)
            .filter(|resource_type| self.options.types.contains(resource_type))
        else {
            tracing::warn!(type_url, "response of a type that was not asked for");
            self.answer(type_url, nonce, Some("this type was not asked for".into()));
            return;
        };
        let bytes = response.encoded_len();
        let (resources, removed) = (response.resources.len(), response.removed_resources.len());
        let rejections = self.apply(resource_type, response);
        self.metrics.response(resource_type, resources, removed, bytes);
        tracing::debug!(
            resource_type = resource_type.label(),
            resources,
            removed,
            bytes,
            refused = rejections.len(),
            "discovery response applied"
        );
        if !rejections.is_empty() {
            self.metrics.nack(resource_type);
            for rejection in rejections.iter().take(MAX_NACK_DETAILS) {
                tracing::warn!(
                    resource_type = resource_type.label(),
                    resource = rejection.name,
                    problem = rejection.problem,
                    "resource refused, last good kept"
                );
            }
        }
        self.answer(type_url, nonce, (!rejections.is_empty()).then(|| detail(&rejections)));
        self.count_first_answer(resource_type, bytes);
    }

    fn apply(&mut self, resource_type: ResourceType, mut response: DeltaDiscoveryResponse) -> Vec<Rejection> {
        let mut updates = Vec::with_capacity(response.resources.len());
        let mut rejections = Vec::new();
        for resource in &mut response.resources {
            match resource.resource.take() {
                Some(any) if any.type_url == resource_type.type_url() => updates.push(ResourceUpdate {
                    name: resource.name.clone(),
                    aliases: resource.aliases.clone(),
                    body: Bytes::from(any.value),
                }),
                Some(any) => rejections.push(Rejection {
                    name: resource.name.clone(),
                    problem: format!("it is a `{}`", any.type_url),
                }),
                None => rejections
                    .push(Rejection { name: resource.name.clone(), problem: "it has no content".into() }),
            }
        }
        let removed = response.removed_resources.clone();
        rejections.extend(self.sink.apply(Batch { resource_type, updates, removed }));
        self.subscriptions.received(resource_type, &response, &rejections);
        rejections
    }

    fn answer(&mut self, type_url: String, nonce: String, error: Option<String>) {
        self.queue.push_back(DeltaDiscoveryRequest {
            type_url,
            response_nonce: nonce,
            error_detail: error.map(|message| WireStatus { code: INVALID_ARGUMENT, message }),
            ..DeltaDiscoveryRequest::default()
        });
    }

    /// Under a wildcard, what the server has not told of does not exist, once it has told all. A large
    /// first answer comes in parts, and nothing marks the last.
    fn count_first_answer(&mut self, resource_type: ResourceType, bytes: usize) {
        if self.synced.contains(&resource_type) {
            return;
        }
        if bytes >= PART_BYTES {
            self.partial.insert(resource_type);
            self.quiet_at = Some(Instant::now() + self.options.quiet);
            return;
        }
        self.partial.remove(&resource_type);
        self.synced.insert(resource_type);
        self.sink.synced(resource_type);
    }

    fn became_quiet(&mut self) {
        self.quiet_at = None;
        for resource_type in self.partial.drain() {
            self.synced.insert(resource_type);
            self.sink.synced(resource_type);
        }
    }

    fn release_idle(&mut self) {
        if let (true, Some(limit)) = (self.options.on_demand, self.options.idle_limit) {
            let released = self.sink.release_idle(limit);
            self.queue.extend(self.subscriptions.release(&released));
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn detail(rejections: &[Rejection]) -> String {
    let mut text = rejections
        .iter()
        .take(MAX_NACK_DETAILS)
        .map(|rejection| format!("{}: {}", rejection.name, rejection.problem))
        .collect::<Vec<_>>()
        .join("; ");
    if rejections.len() > MAX_NACK_DETAILS {
        text.push_str(&format!("; and {} more", rejections.len() - MAX_NACK_DETAILS));
    }
    text
}

/// As ambient's servers expect a node's proxy to introduce itself.
fn wire_node(options: &ClientOptions) -> Node {
    let ClientOptions { node, on_demand, role, .. } = options;
    let NodeInfo { ip, name, namespace, node_name, cluster_id } = node;
    let text = |text: &str| prost_types::Value {
        kind: Some(prost_types::value::Kind::StringValue(text.to_owned())),
    };
    let ip = ip.to_string();
    let mut fields: std::collections::BTreeMap<String, prost_types::Value> = [
        ("NAME", name.as_str()),
        ("NAMESPACE", namespace),
        ("INSTANCE_IPS", &ip),
        ("NODE_NAME", node_name),
        ("CLUSTER_ID", cluster_id),
    ]
    .map(|(key, value)| (key.to_owned(), text(value)))
    .into();
    if *on_demand {
        fields.insert("MELTEMI_ON_DEMAND".into(), text("true"));
    }
    Node {
        id: format!("{role}~{ip}~{name}.{namespace}~{namespace}.svc.cluster.local"),
        metadata: Some(prost_types::Struct { fields }),
        user_agent_name: "meltemi-proxy".into(),
        build_version: env!("CARGO_PKG_VERSION").into(),
        ..Node::default()
    }
}
