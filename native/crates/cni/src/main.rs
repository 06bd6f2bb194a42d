//! `meltemi-cni`: a chained CNI plugin (spec 0.3.1 to 1.1.0). It changes nothing by itself: it tells the node
//! agent about each pod's sandbox and returns when the agent has its capture in force. Where the agent does not
//! answer it decides from the agent's list of this node's pods, and where configured from the API (docs/cni.md).

mod agent;
mod api;
mod attachment;
mod bounded;
mod config;
mod environment;
mod event;
mod failure;
mod list;
mod netns;
mod verbs;
mod version;
mod wish;

use std::io::{self, Read, Write};
use std::process::ExitCode;

use crate::environment::Environment;
use crate::failure::Failure;

/// A garbage collection names every attachment of the node; nothing else comes near.
const MAX_STDIN_BYTES: u64 = 16 << 20;

fn read_stdin() -> Result<Vec<u8>, Failure> {
    let mut input = Vec::new();
    io::stdin()
        .lock()
        .take(MAX_STDIN_BYTES + 1)
        .read_to_end(&mut input)
        .map_err(|error| Failure::io(format!("the configuration cannot be read from stdin: {error}")))?;
    if input.len() as u64 > MAX_STDIN_BYTES {
        return Err(Failure::decode(format!(
            "the configuration on stdin is longer than {MAX_STDIN_BYTES} bytes"
        )));
    }
    Ok(input)
}

fn main() -> ExitCode {
    let environment = Environment::of_process();
    let input = read_stdin();
    let spoken = input.as_deref().ok().and_then(config::spoken_version);
    let (output, code) = match input.and_then(|input| verbs::run(&environment, &input)) {
        Ok(output) => (output, ExitCode::SUCCESS),
        Err(failure) => (failure.to_json(spoken), ExitCode::FAILURE),
    };
    // Whoever started us has gone when this fails: nobody is left to be told.
    let _ = io::stdout().lock().write_all(output.as_bytes());
    code
}
