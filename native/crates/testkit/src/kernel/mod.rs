//! `kernel`: asks and changes what the packaged tools do not know yet: programs on interfaces (TCX).

mod bpf;

use clap::Subcommand;

use self::bpf::Direction;

#[derive(Debug, Subcommand)]
pub(crate) enum Kernel {
    /// The TCX links of an interface of this namespace.
    Tcx {
        #[arg(long, value_name = "NAME")]
        device: String,
    },
    /// Detaches a link, as the host's root may.
    Detach {
        #[arg(long)]
        link: u32,
    },
}

pub(crate) fn run(command: &Kernel) -> anyhow::Result<bool> {
    match command {
        Kernel::Tcx { device } => {
            let index = nix::net::if_::if_nametoindex(device.as_str())?;
            crate::output::line(&serde_json::json!({
                "ingress": bpf::links(index, Direction::Ingress)?,
                "egress": bpf::links(index, Direction::Egress)?,
            }));
        }
        Kernel::Detach { link } => {
            bpf::detach(*link)?;
            crate::output::line(&serde_json::json!({ "detached": link }));
        }
    }
    Ok(true)
}
