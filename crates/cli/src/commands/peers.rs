//! `archivist peers`, `archivist connect`

use anyhow::Result;
use api::{ConnectRequest, Peer};

use crate::context::{Context, block_on};
use crate::output::{Align, Out, Table, local_time, print_json};

/// List the peers that this instance is connected to.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  archivist peers")]
pub(crate) struct Peers {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Connect to a peer by its address.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  archivist connect /ip4/192.0.2.10/tcp/8070/p2p/16Uiu2HAm5hPxT7s3TA2f4b4YjAPzS7yLRSgdj87ysDZ6NAXMiRuY"
)]
pub(crate) struct Connect {
    /// Multiaddr of the peer. It must end with its peer id.
    #[arg(value_name = "MULTIADDR")]
    address: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Peers {
    pub(crate) fn run(&self, context: &Context) -> Result<()> {
        let client = context.need_instance("`archivist peers`")?;
        let peers: Vec<Peer> = block_on(async { Ok(client.get("/peers").await?) })?;
        if self.json {
            return print_json(&peers);
        }
        if peers.is_empty() {
            eprintln!("no peer is connected");
            return Ok(());
        }
        show(&peers)
    }
}

impl Connect {
    pub(crate) fn run(self, context: &Context) -> Result<()> {
        let client = context.need_instance("`archivist connect`")?;
        let body = ConnectRequest { address: self.address };
        let peer: Peer = block_on(async { Ok(client.post("/connect", &body).await?) })?;
        if self.json { print_json(&peer) } else { show(&[peer]) }
    }
}

fn show(peers: &[Peer]) -> Result<()> {
    let mut table = Table::new(&[
        ("PEER ID", Align::Left),
        ("NAME", Align::Left),
        ("MAY FETCH", Align::Left),
        ("BY", Align::Left),
        ("PING", Align::Right),
        ("SINCE", Align::Left),
        ("AGENT", Align::Left),
        ("ADDRESSES", Align::Left),
    ]);
    for peer in peers {
        table.row([
            peer.peer_id.clone(),
            peer.name.clone().unwrap_or_else(|| "-".to_owned()),
            if peer.is_allowed { "yes" } else { "no" }.to_owned(),
            peer.direction.clone(),
            peer.rtt_ms.map_or("-".to_owned(), |rtt| format!("{rtt:.1} ms")),
            local_time(peer.connected_since),
            peer.agent.clone().unwrap_or_else(|| "-".to_owned()),
            peer.addresses.join(" "),
        ]);
    }
    let mut out = Out::new();
    table.print(&mut out, "")?;
    out.finish()
}
