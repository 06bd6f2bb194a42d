//! The verbs of the specification (section 2), and what each does when the agent does not answer.

use serde_json::{Value, json};

use crate::agent::{self, Answer};
use crate::attachment::{Attachment, Pod};
use crate::config::{Config, WhenUnknown};
use crate::environment::{Environment, Verb};
use crate::event;
use crate::failure::{Code, Failure};
use crate::list::{List, Standing};
use crate::netns;
use crate::version::{self, Version};

/// Runs the verb of the environment over the configuration of stdin. Ok is what goes to stdout.
pub(crate) fn run(environment: &Environment, input: &[u8]) -> Result<String, Failure> {
    let verb = environment.verb()?;
    if verb == Verb::Version {
        return versions(input);
    }
    let config = Config::parse(input)?;
    match verb {
        Verb::Add => add(environment, &config),
        Verb::Check => check(environment, &config).map(|()| String::new()),
        Verb::Del => del(environment, &config).map(|()| String::new()),
        Verb::Gc => collect(&config).map(|()| String::new()),
        Verb::Status => status(&config).map(|()| String::new()),
        Verb::Version => versions(input),
    }
}

/// Runtimes ask before they know which version to speak, some with nothing on stdin.
fn versions(input: &[u8]) -> Result<String, Failure> {
    let spoken = if input.iter().all(u8::is_ascii_whitespace) {
        None
    } else {
        serde_json::from_slice::<Value>(input)
            .map_err(|error| Failure::decode(format!("the configuration on stdin is not JSON: {error}")))?;
        crate::config::spoken_version(input)
    };
    let answered = spoken.unwrap_or(Version::NEWEST).as_str();
    Ok(json!({ "cniVersion": answered, "supportedVersions": version::supported() }).to_string())
}

fn add(environment: &Environment, config: &Config) -> Result<String, Failure> {
    let attachment = Attachment::of(environment)?;
    let path = environment.netns()?;
    let mut result = config.required_previous()?.clone();
    let inode = netns::inode(environment, &path)?;
    if let Some(pod) = &attachment.pod {
        let event = event::sandbox(config, &attachment, pod, &path, inode)?;
        judge(config, pod, "/cmdadd", &event)?;
    }
    // What the plugins before us made is all there is; libcni writes the version, other runtimes may not.
    if result.get("cniVersion").is_none_or(Value::is_null) {
        result["cniVersion"] = json!(config.version.as_str());
    }
    Ok(result.to_string())
}

fn check(environment: &Environment, config: &Config) -> Result<(), Failure> {
    config.at_least(Version::V0_4_0, "CHECK")?;
    let attachment = Attachment::of(environment)?;
    let path = environment.netns()?;
    config.required_previous()?;
    let inode = netns::inode(environment, &path)?;
    let Some(pod) = &attachment.pod else { return Ok(()) };
    let event = event::sandbox(config, &attachment, pod, &path, inode)?;
    judge(config, pod, "/cmdcheck", &event)
}

/// Never fails for want of the agent: a pod that is going must go. The agent, when it is back, finds the namespace gone.
fn del(environment: &Environment, config: &Config) -> Result<(), Failure> {
    let attachment = Attachment::of(environment)?;
    let Some(pod) = &attachment.pod else { return Ok(()) };
    let event = event::removal(config, &attachment, pod);
    match agent::ask(&config.socket, "/cmddel", &event, config.timeout) {
        Ok(Answer::Done | Answer::Unknown) => {}
        Ok(Answer::Later { reason } | Answer::Refused { reason }) => {
            note(&format!("DEL of pod {}: {reason}", pod.key()))
        }
        Err(problem) => note(&format!("DEL of pod {}: {problem}", pod.key())),
    }
    if let Some(path) = environment.netns_if_any().filter(|path| !path.exists()) {
        note(&format!("DEL of pod {}: {} was gone already", pod.key(), path.display()));
    }
    Ok(())
}

fn collect(config: &Config) -> Result<(), Failure> {
    config.at_least(Version::V1_1_0, "GC")?;
    let valid = config.valid.as_deref().ok_or_else(|| {
        Failure::config(
            "the configuration has no cni.dev/valid-attachments, without which GC would collect everything",
        )
    })?;
    let problem =
        match agent::ask(&config.socket, "/cmdgc", &event::collection(config, valid), config.timeout) {
            Ok(Answer::Done | Answer::Unknown) => return Ok(()),
            Ok(Answer::Later { reason } | Answer::Refused { reason }) => reason,
            Err(problem) => problem.to_string(),
        };
    Err(Failure::new(
        Code::TryAgainLater,
        format!("nothing was collected for network \"{}\": {problem}", config.network),
        "the agent holds all there is to collect, and looks for itself when it starts",
    ))
}

/// A node without its agent can start every pod that did not ask for the mesh, the agent's own among them: a node that
/// called itself not ready would never get its agent.
fn status(config: &Config) -> Result<(), Failure> {
    config.at_least(Version::V1_1_0, "STATUS")?;
    let problem = match agent::ask(&config.socket, "/cmdstatus", "{}", config.brief_timeout) {
        Ok(Answer::Done | Answer::Unknown) => return Ok(()),
        Ok(Answer::Later { reason } | Answer::Refused { reason }) => reason,
        Err(problem) => problem.to_string(),
    };
    if !config.status_needs_agent {
        note(&format!("STATUS: pods of the mesh have to wait: {problem}"));
        return Ok(());
    }
    Err(Failure::new(
        Code::NotAvailable,
        format!("pods of the mesh cannot be started: {problem}"),
        "start the node agent; statusNeedsAgent false lets the other pods start meanwhile",
    ))
}

/// Ok where the pod may start (or, for CHECK, is as it should be).
fn judge(config: &Config, pod: &Pod, path: &str, event: &str) -> Result<(), Failure> {
    let standing = standing(config, pod);
    // A pod that surely did not ask is announced, so that it can join later, and does not wait for who hangs.
    let timeout = if standing == Standing::DidNotAsk { config.brief_timeout } else { config.timeout };
    match agent::ask(&config.socket, path, event, timeout) {
        Ok(Answer::Done) => Ok(()),
        Ok(Answer::Unknown) => unknown(config, pod, &standing, "the node agent does not know it yet"),
        Ok(Answer::Later { reason }) if path == "/cmdcheck" => Err(Failure::new(
            Code::NotInForce,
            format!("pod {} is not as it should be: {reason}", pod.key()),
            "the node agent repairs what it can; its status says what it waits for",
        )),
        Ok(Answer::Later { reason }) => Err(later(pod, &reason)),
        Ok(Answer::Refused { reason }) => Err(Failure::new(
            Code::Refused,
            format!("the node agent refuses pod {}: {reason}", pod.key()),
            "plugin and agent do not fit together, or the call is not the runtime's",
        )),
        Err(problem) => unknown(config, pod, &standing, &problem.to_string()),
    }
}

fn standing(config: &Config, pod: &Pod) -> Standing {
    let Some(path) = &config.list else { return Standing::NotKnown };
    match List::read(path) {
        Ok(list) => list.standing(pod),
        Err(problem) => {
            note(&problem);
            Standing::NotKnown
        }
    }
}

/// What the list and the API can tell, and the rule for what they cannot.
fn unknown(config: &Config, pod: &Pod, standing: &Standing, problem: &str) -> Result<(), Failure> {
    if *standing == Standing::DidNotAsk {
        return Ok(());
    }
    let mut problem = problem.to_owned();
    match config.api.as_ref().map(|api| api.asks(pod)) {
        Some(Ok(false)) => return Ok(()),
        Some(Ok(true)) => return Err(later(pod, &format!("its labels ask for the mesh, and {problem}"))),
        Some(Err(more)) => problem = format!("{problem}; {more}"),
        None => {}
    }
    let reason = match (standing, config.when_unknown) {
        (Standing::DidNotAsk, _) => return Ok(()),
        (Standing::Asked { by }, _) => format!("{by}, and {problem}"),
        (Standing::NamespaceDoesNotAsk, WhenUnknown::Namespace | WhenUnknown::Allow)
        | (Standing::NotKnown, WhenUnknown::Allow) => {
            note(&format!("pod {} starts outside the mesh: {problem}", pod.key()));
            return Ok(());
        }
        (Standing::NamespaceDoesNotAsk | Standing::NotKnown, _) => {
            format!("it may have asked for the mesh, and {problem}")
        }
    };
    Err(later(pod, &reason))
}

fn later(pod: &Pod, reason: &str) -> Failure {
    Failure::new(
        Code::TryAgainLater,
        format!("pod {} cannot be captured yet: {reason}", pod.key()),
        "the runtime tries again; see the node agent's status, and whenUnknown in docs/cni.md",
    )
}

/// Runtimes keep what a plugin writes to stderr, at best, in their log.
fn note(text: &str) {
    eprintln!("meltemi-cni: {text}");
}
