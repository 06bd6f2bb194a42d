//! How a pod is captured, as the agent says it, and as the programs read it.

use crate::error::BpfError;
use crate::layout::{
    Address, Cidr, FLAG_BYPASS_INBOUND, FLAG_REFUSE_UDP, MAX_ADDRESSES, MAX_CIDRS, MAX_PORTS, Settings,
};
use crate::sys::Plain;
use std::net::IpAddr;

/// Whether UDP, which the proxy does not carry, passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Udp {
    Pass,
    /// Except what the excluded ports and ranges let pass.
    Refuse,
}

/// A pod's capture settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodSettings {
    /// All of the pod's addresses: TCP to any other is dropped.
    pub addresses: Vec<IpAddr>,
    pub exclude_inbound_ports: Vec<u16>,
    pub exclude_outbound_ports: Vec<u16>,
    /// Each an address and a length in bits.
    pub exclude_outbound_cidrs: Vec<(IpAddr, u8)>,
    pub bypass_inbound: bool,
    pub udp: Udp,
}

impl PodSettings {
    /// # Errors
    /// Names the list that is too long, or the range that is none.
    pub(crate) fn compile(&self) -> Result<Settings, BpfError> {
        let mut compiled = Settings::zeroed();
        compiled.address_count = fits("addresses", self.addresses.len(), MAX_ADDRESSES)?;
        for (to, from) in compiled.addresses.iter_mut().zip(&self.addresses) {
            *to = Address::from(*from);
        }
        let inbound = &self.exclude_inbound_ports;
        compiled.inbound_port_count = fits("excludeInboundPorts", inbound.len(), MAX_PORTS)?;
        for (to, from) in compiled.exclude_inbound_ports.iter_mut().zip(inbound) {
            *to = from.to_be();
        }
        let outbound = &self.exclude_outbound_ports;
        compiled.outbound_port_count = fits("excludeOutboundPorts", outbound.len(), MAX_PORTS)?;
        for (to, from) in compiled.exclude_outbound_ports.iter_mut().zip(outbound) {
            *to = from.to_be();
        }
        let cidrs = &self.exclude_outbound_cidrs;
        compiled.cidr_count = fits("excludeOutboundCidrs", cidrs.len(), MAX_CIDRS)?;
        for (to, (address, bits)) in compiled.exclude_outbound_cidrs.iter_mut().zip(cidrs) {
            *to = cidr(*address, *bits)?;
        }
        if self.bypass_inbound {
            compiled.flags |= FLAG_BYPASS_INBOUND;
        }
        if self.udp == Udp::Refuse {
            compiled.flags |= FLAG_REFUSE_UDP;
        }
        Ok(compiled)
    }
}

fn fits(field: &'static str, count: usize, most: usize) -> Result<u32, BpfError> {
    if count > most {
        return Err(BpfError::Settings {
            field,
            problem: format!("{count} entries, at most {most} are possible"),
        });
    }
    Ok(count as u32)
}

fn cidr(address: IpAddr, bits: u8) -> Result<Cidr, BpfError> {
    let (most, mapped_bits) = match address {
        IpAddr::V4(_) => (32, 96 + u32::from(bits)),
        IpAddr::V6(_) => (128, u32::from(bits)),
    };
    if bits > most {
        return Err(BpfError::Settings {
            field: "excludeOutboundCidrs",
            problem: format!("{address}/{bits}: want at most {most} bits"),
        });
    }
    let mask = u128::MAX.checked_shl(128 - mapped_bits).unwrap_or(0).to_be_bytes();
    Ok(Cidr { address: Address::from(address), mask: Address(mask) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> PodSettings {
        PodSettings {
            addresses: vec!["10.0.0.1".parse().unwrap()],
            exclude_inbound_ports: vec![],
            exclude_outbound_ports: vec![],
            exclude_outbound_cidrs: vec![],
            bypass_inbound: false,
            udp: Udp::Pass,
        }
    }

    fn masks(address: &str, bits: u8) -> String {
        let mask = cidr(address.parse().unwrap(), bits).unwrap().mask;
        mask.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn ranges_become_masks_over_sixteen_bytes() {
        assert_eq!(masks("10.0.0.0", 8), format!("{}00{}", "ff".repeat(13), "0000"));
        assert_eq!(masks("0.0.0.0", 0), format!("{}{}", "ff".repeat(12), "00".repeat(4)));
        assert_eq!(masks("::", 0), "00".repeat(16));
        assert_eq!(masks("fd00::1", 128), "ff".repeat(16));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let many = PodSettings { exclude_inbound_ports: vec![1; 65], ..settings() };
        assert!(many.compile().unwrap_err().to_string().contains("excludeInboundPorts: 65 entries"));
        let wide =
            PodSettings { exclude_outbound_cidrs: vec![("10.0.0.0".parse().unwrap(), 33)], ..settings() };
        assert!(wide.compile().unwrap_err().to_string().contains("10.0.0.0/33: want at most 32 bits"));
    }

    #[test]
    fn ports_are_in_network_order() {
        let one = PodSettings { exclude_outbound_ports: vec![0x1234], ..settings() };
        assert_eq!(one.compile().unwrap().exclude_outbound_ports[0].to_ne_bytes(), [0x12, 0x34]);
    }
}
