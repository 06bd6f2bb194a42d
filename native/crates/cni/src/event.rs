//! What the agent is told: JSON, with the four fields of ambient's `/cmdadd` and ours beside them.

use std::net::IpAddr;
use std::path::Path;

use serde_json::{Value, json};

use crate::attachment::{Attachment, Pod};
use crate::config::{Config, ValidAttachment};
use crate::failure::Failure;

/// For ADD and CHECK: the sandbox with the addresses that the plugins before us gave it.
pub(crate) fn sandbox(
    config: &Config,
    attachment: &Attachment,
    pod: &Pod,
    netns: &Path,
    netns_inode: u64,
) -> Result<String, Failure> {
    let mut event = pod_fields(config, attachment, pod);
    event["Netns"] = json!(netns);
    event["NetnsInode"] = json!(netns_inode);
    event["IPs"] = addresses(config.required_previous()?)?;
    Ok(event.to_string())
}

/// For DEL, where neither namespace nor addresses need to be there any more.
pub(crate) fn removal(config: &Config, attachment: &Attachment, pod: &Pod) -> String {
    pod_fields(config, attachment, pod).to_string()
}

pub(crate) fn collection(config: &Config, valid: &[ValidAttachment]) -> String {
    let valid: Vec<Value> =
        valid.iter().map(|one| json!({ "ContainerID": one.container_id, "IfName": one.interface })).collect();
    json!({ "Network": config.network, "Valid": valid }).to_string()
}

fn pod_fields(config: &Config, attachment: &Attachment, pod: &Pod) -> Value {
    json!({
        "PodName": pod.name,
        "PodNamespace": pod.namespace,
        "PodUID": pod.uid,
        "ContainerID": attachment.container_id,
        "IfName": attachment.interface,
        "Network": config.network,
    })
}

/// `ips` of a result as `[{Interface, Address: {IP, Mask}, Gateway}]`, the mask in base64 as ambient has it.
fn addresses(previous: &Value) -> Result<Value, Failure> {
    let empty = Vec::new();
    let ips = match previous.get("ips") {
        None | Some(Value::Null) => &empty,
        Some(value) => value.as_array().ok_or_else(|| Failure::config("prevResult.ips is not a list"))?,
    };
    ips.iter()
        .enumerate()
        .map(|(index, ip)| {
            let text = ip.get("address").and_then(Value::as_str).unwrap_or_default();
            let (address, length) = cidr(text).ok_or_else(|| {
                Failure::config(format!(
                    "prevResult.ips[{index}].address is \"{text}\", expected ADDRESS/LENGTH"
                ))
            })?;
            Ok(json!({
                "Interface": ip.get("interface"),
                "Address": { "IP": address, "Mask": mask(address, length) },
                "Gateway": ip.get("gateway"),
            }))
        })
        .collect()
}

fn cidr(text: &str) -> Option<(IpAddr, u32)> {
    let (address, length) = text.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let length: u32 = length.parse().ok()?;
    (length <= if address.is_ipv4() { 32 } else { 128 }).then_some((address, length))
}

fn mask(address: IpAddr, length: u32) -> String {
    match address {
        IpAddr::V4(_) => base64(&u32::MAX.checked_shl(32 - length).unwrap_or(0).to_be_bytes()),
        IpAddr::V6(_) => base64(&u128::MAX.checked_shl(128 - length).unwrap_or(0).to_be_bytes()),
    }
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits =
            chunk.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for position in 0..4 {
            let digit = ALPHABET[(bits >> (18 - 6 * position) & 63) as usize];
            text.push(if position <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_addresses_as_ambient_does() {
        let previous = json!({ "ips": [
            { "version": "4", "interface": 2, "address": "10.1.2.3/20", "gateway": "10.1.0.1" },
            { "address": "fd00::7/64" },
        ]});
        assert_eq!(
            addresses(&previous).expect("addresses"),
            json!([
                { "Interface": 2, "Address": { "IP": "10.1.2.3", "Mask": "///wAA==" }, "Gateway": "10.1.0.1" },
                { "Interface": null, "Address": { "IP": "fd00::7", "Mask": "//////////8AAAAAAAAAAA==" }, "Gateway": null },
            ])
        );
        assert_eq!(addresses(&json!({})).expect("none"), json!([]));
        assert_eq!(mask("0.0.0.0".parse().expect("address"), 0), "AAAAAA==");
    }

    #[test]
    fn names_the_address_that_is_none() {
        for bad in ["10.0.0.1", "10.0.0.1/33", "x/8", ""] {
            let failure = addresses(&json!({ "ips": [{ "address": bad }] })).expect_err(bad);
            assert!(failure.message.contains("prevResult.ips[0].address"), "{}", failure.message);
        }
    }
}
