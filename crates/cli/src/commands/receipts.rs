//! `archivist receipts`

use std::cell::RefCell;
use std::collections::BTreeSet;

use anyhow::Result;
use api::ReceiptChain;
use config::Config;
use node::{ChainId, PeerId, ReceiptListing, check_name, folder_names, read_receipts};
use serde_json::json;
use types::with_causes;

use crate::context::{Context, block_on};
use crate::exit::End;
use crate::output::{Align, Out, Table, count, local_time, print_json, print_line, safe};

/// List the receipts of the backup servers for the folders of this computer.
///
/// With a receipt, a backup server confirms that it has a snapshot. Each receipt is signed, and
/// contains the hash of the receipt before it. The command checks all of that. It works with and
/// without a running instance. The time `arrived_at` in the JSON is that of the clock of this
/// computer; nothing signs it.
///
/// Exit code 1: a receipt is damaged, incomplete, repeated, or was written by a newer version of
/// this program, the receipts are for another computer, or the chain is interrupted and that was
/// not accepted.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Example:\n  archivist receipts --json | packaging/verify-receipts.py"
)]
pub(crate) struct Receipts {
    #[command(subcommand)]
    action: Option<Action>,
    /// List only the receipts for this folder, by id or name.
    #[arg(long, value_name = "FOLDER")]
    folder: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    Accept(Accept),
}

/// Accept that chains of receipts are interrupted.
///
/// A backup server that lost its state starts another chain, and a computer that lost its
/// receipts has a gap. `archivist status` reports both until they are accepted. The receipts and
/// the interruptions stay in the list.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  archivist receipts accept --folder Documents")]
struct Accept {
    /// Accept only the chains of this folder, by id or name.
    #[arg(long, value_name = "FOLDER")]
    folder: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Receipts {
    pub(crate) fn run(&self, context: &Context) -> Result<()> {
        if let Some(Action::Accept(accept)) = &self.action {
            return accept.run(context);
        }
        let config = context.config()?;
        let own = own_peer_id(context)?;
        let listings = self.read(context, &config, own.as_ref().ok())?;
        if self.json {
            let receipts = listings.iter().flat_map(|listing| &listing.receipts);
            print_json(&receipts.map(|receipt| receipt.to_api(&config)).collect::<Vec<_>>())?;
        } else {
            print_table(&config, &listings)?;
        }
        let mut is_good = true;
        for listing in &listings {
            let (folder, server) = (name(&config, &listing.id), listing.id.backup_server);
            for damage in &listing.damage {
                eprintln!(
                    "archivist: {}: backup server {server}: {}",
                    safe(&folder),
                    safe(&damage.to_string())
                );
            }
            if listing.open > 0 {
                eprintln!(
                    "archivist: {}: the chain of receipts of backup server {server} is interrupted; \
                     if that is known, run `archivist receipts accept`",
                    safe(&folder)
                );
            }
            let is_own = match (&own, &listing.source) {
                (Ok(own), Some(source)) if own != source => {
                    eprintln!(
                        "archivist: {}: the receipts of backup server {server} are for the source \
                         {source}, and this computer is {own}: identity.key was replaced",
                        safe(&folder)
                    );
                    false
                }
                (Err(reason), Some(source)) => {
                    eprintln!(
                        "archivist: {}: the receipts of backup server {server} are for the source \
                         {source}; not checked that this computer is that source: {}",
                        safe(&folder),
                        safe(reason)
                    );
                    true
                }
                _ => true,
            };
            is_good &= is_own && listing.damage.is_empty() && listing.open == 0;
        }
        if is_good { Ok(()) } else { Err(End::Reported.into()) }
    }

    fn read(
        &self,
        context: &Context,
        config: &Config,
        own: Option<&PeerId>,
    ) -> Result<Vec<ReceiptListing>> {
        let wanted = self.folder.as_deref().map(|folder| ids(config, folder));
        let listed = RefCell::new(Vec::new());
        let is_wanted = |id: &ChainId| {
            listed.borrow_mut().push((id.folder.to_string(), name(config, id)));
            wanted.as_ref().is_none_or(|wanted| wanted.contains(id.folder.as_str()))
        };
        let listings = read_receipts(context.paths.data_dir(), own, is_wanted)?;
        if let Some(folder) = &self.folder {
            let listed = listed.into_inner();
            check_name("folder", folder, folder_names(config).chain(listed))?;
        }
        Ok(listings)
    }
}

/// Returns the peer id of this computer, or the reason why it is not known. The receipts are signed
/// by the backup servers, so the key of this computer is not needed to verify them.
fn own_peer_id(context: &Context) -> Result<Result<PeerId, String>> {
    Ok(match node::read_identity(context.need_data_dir()?) {
        Ok(Some(own)) => Ok(own),
        Ok(None) => Err(format!("{} is missing", context.paths.identity_key().display())),
        Err(error) => Err(with_causes(&error)),
    })
}

impl Accept {
    fn run(&self, context: &Context) -> Result<()> {
        let client = context.need_instance("`archivist receipts accept`")?;
        let config = context.config()?;
        let chains: Vec<ReceiptChain> = block_on(async {
            let mut chains: Vec<ReceiptChain> = client.get("/receipts").await?;
            let folders = match self.folder.as_deref() {
                None => vec![None],
                Some(folder) => {
                    let listed = chains.iter();
                    let listed =
                        listed.map(|one| (one.folder_id.to_string(), one.folder_name.clone()));
                    check_name("folder", folder, folder_names(&config).chain(listed))?;
                    ids(&config, folder).into_iter().map(Some).collect()
                }
            };
            for folder_id in folders {
                let body = json!({ "folder_id": folder_id });
                chains = client.post("/receipts/accept", &body).await?;
            }
            Ok(chains)
        })?;
        if self.json {
            return print_json(&chains);
        }
        print_line("the interruptions of the chains are accepted")
    }
}

/// Returns the ids of the configured folders with this id or name. A folder that is not configured
/// has its id only.
fn ids(config: &Config, folder: &str) -> BTreeSet<String> {
    let known = folder_names(config).filter(|(id, name)| id == folder || name == folder);
    let ids: BTreeSet<String> = known.map(|(id, _)| id).collect();
    if ids.is_empty() { BTreeSet::from([folder.to_owned()]) } else { ids }
}

/// Returns the name of a folder, or its id if it is not configured.
fn name(config: &Config, id: &ChainId) -> String {
    config
        .folder(&id.folder)
        .map_or_else(|| id.folder.to_string(), config::FolderConfig::display_name)
}

fn print_table(config: &Config, listings: &[ReceiptListing]) -> Result<()> {
    let is_empty =
        |listing: &ReceiptListing| listing.receipts.is_empty() && listing.damage.is_empty();
    if listings.iter().all(is_empty) {
        eprintln!("no receipts found");
        return Ok(());
    }
    let mut out = Out::new();
    for listing in listings {
        let receipts = count(listing.receipts.len() as u64, "receipt", "receipts");
        let (folder, server) = (name(config, &listing.id), listing.id.backup_server);
        out.line(format_args!("{}, backup server {server}: {receipts}", safe(&folder)))?;
        let mut table = Table::new(&[
            ("NUMBER", Align::Right),
            ("SEQUENCE", Align::Right),
            ("COMPLETE", Align::Left),
            ("MANIFEST", Align::Left),
            ("", Align::Left),
        ]);
        for listed in &listing.receipts {
            let signed = &listed.stored.signed;
            let confirmed = signed.confirmation();
            table.row([
                signed.receipt().number.to_string(),
                confirmed.sequence.to_string(),
                local_time(confirmed.received_at),
                confirmed.manifest_cid.to_string(),
                listed.problem.as_ref().map_or(String::new(), ToString::to_string),
            ]);
        }
        table.print(&mut out, "  ")?;
    }
    out.finish()
}
