//! The status of the instance, with notices for the user.

use std::collections::BTreeMap;

use api::{Notice, NoticeLevel, Status, Storage};
use axum::extract::State;
use jiff::Timestamp;
use node::{Services, folder_name, source_name};
use protocols::NotifyState;
use snapshots::{Listing, Snapshot, SnapshotError};
use store::StoreAdmin as _;
use types::{FolderId, is_part, with_causes};

use super::extract::Json;
use super::{ApiResult, blocking, folders, sources};

/// Returns the status of the instance.
#[utoipa::path(get, path = "/status", responses((status = 200, body = Status)))]
pub(crate) async fn status(State(services): State<Services>) -> ApiResult<Status> {
    blocking(move || {
        let peer = services.net.peer_id();
        let mut addresses: Vec<String> = services
            .net
            .listen_addrs()
            .into_iter()
            .chain(services.net.announce_addrs().iter().cloned())
            .map(|address| format!("{address}/p2p/{peer}"))
            .collect();
        addresses.sort();
        addresses.dedup();
        let mut notices = notices(&services);
        let storage = match services.store.usage() {
            Ok(usage) => Storage {
                blocks: usage.blocks,
                used_bytes: usage.used_bytes,
                max_bytes: usage.max_bytes,
                available_bytes: usage.available_bytes,
            },
            Err(error) => {
                notices.push(Notice {
                    level: NoticeLevel::Error,
                    message: format!("cannot read the store: {}", with_causes(&error)),
                    action: Some("check the disk, then run `archivist verify`".into()),
                });
                Storage { blocks: 0, used_bytes: 0, max_bytes: None, available_bytes: 0 }
            }
        };
        notices.sort_by_key(|notice| notice.level);
        Ok(Json(Status {
            peer_id: peer.to_string(),
            addresses,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            data: services.data_dir.display().to_string(),
            folders: folders::all(&services),
            sources: sources::all(&services),
            storage,
            integrity: services.integrity(),
            notices,
            needs_restart: needs_restart(&services),
        }))
    })
    .await
}

/// Returns a notice about snapshot records that cannot be read.
fn damaged(listing: &Result<Listing, SnapshotError>) -> Option<Notice> {
    let notice = |message| Notice {
        level: NoticeLevel::Error,
        message,
        action: Some(
            "run `archivist verify` for details; with --repair, missing blocks are pulled again"
                .into(),
        ),
    };
    match listing {
        Ok(listing) => {
            let first = listing.damaged.first()?;
            let (count, root, reason) = (listing.damaged.len(), &first.root, &first.reason);
            Some(notice(match count {
                1 => format!("cannot read the snapshot {root}: {reason}"),
                _ => format!("cannot read {count} snapshots; the first is {root}: {reason}"),
            }))
        }
        Err(error) => Some(notice(format!("cannot list the snapshots: {}", with_causes(&error)))),
    }
}

/// Returns the notices about folders whose newest snapshot is suspicious.
fn suspicious(services: &Services, listing: &Result<Listing, SnapshotError>) -> Vec<Notice> {
    let Ok(listing) = listing else { return Vec::new() };
    let config = services.settings.get();
    let mut folders: BTreeMap<(String, &FolderId), Vec<&Snapshot>> = BTreeMap::new();
    for snapshot in &listing.snapshots {
        let record = &snapshot.record;
        folders.entry((record.source.to_string(), &record.folder)).or_default().push(snapshot);
    }
    let notice = |((source, _), mut snapshots): ((String, &FolderId), Vec<&Snapshot>)| {
        snapshots.sort_by_key(|snapshot| snapshot.record.order);
        let newest = snapshots.last()?;
        let record = &newest.record;
        let doubt = record.doubt().filter(|_| !is_part(record.held.as_deref()))?;
        let clean = snapshots.iter().rev().find(|snapshot| snapshot.record.doubt().is_none());
        let action = match clean {
            Some(clean) => format!(
                "examine the files on the source; the newest snapshot without this sign is {} of \
                 {:.0} (`archivist restore {} --target DIR`). If the change is intended, run \
                 `archivist snapshots confirm {}`",
                clean.id, clean.record.received_at, clean.id, newest.id
            ),
            None => format!(
                "examine the files on the source; if the change is intended, run `archivist \
                 snapshots confirm {}`",
                newest.id
            ),
        };
        Some(Notice {
            level: NoticeLevel::Error,
            message: format!(
                "{} of {}: {doubt}",
                record.folder_name,
                source_name(&config, &source)
            ),
            action: Some(action),
        })
    };
    folders.into_iter().filter_map(notice).collect()
}

/// Returns the notice that snapshots may be missing in the list.
fn roots_incomplete(services: &Services) -> Option<Notice> {
    services.store.roots_incomplete().then(|| Notice {
        level: NoticeLevel::Error,
        message: "the list of snapshots is incomplete: records of roots are lost, so snapshots \
                  may be missing, and no space is freed"
            .into(),
        action: Some(
            "run `archivist recover`, which finds lost snapshots, then `archivist prune \
             --accept-roots`"
                .into(),
        ),
    })
}

/// Returns the notice that the disk of the store has become read-only.
fn read_only(services: &Services) -> Option<Notice> {
    let is_read_only = services.store.is_read_only().unwrap_or(false);
    is_read_only.then(|| Notice {
        level: NoticeLevel::Error,
        message: "the store cannot be written: its file system is read-only, so nothing is backed \
                  up or removed; snapshots can still be restored"
            .into(),
        action: Some(
            "check the disk (`dmesg` shows its errors); make it writable, or replace it, and \
             restart the instance"
                .into(),
        ),
    })
}

/// Returns the notice about rules of retention that were loosened and are not in force yet.
fn loosened_rules(services: &Services) -> Option<Notice> {
    let config = services.settings.get();
    if !config.backup_server.enabled {
        return None;
    }
    let (rules, loosened) = services.rules.in_force(&config.backup_server, Timestamp::now());
    let (at, keep) = (loosened?.at, rules.keep);
    Some(Notice {
        level: NoticeLevel::Warning,
        message: format!(
            "`keep` or `lock_days` of the backup server was loosened; the former rules stay in \
             force until {at:.0}"
        ),
        action: Some(format!(
            "if that was not intended, set the former values in [backup_server] again: lock_days = \
             {}, keep = {{ within = \"{}\", last = {}, hourly = {}, daily = {}, weekly = {}, \
             monthly = {} }}",
            rules.lock_days,
            keep.within,
            keep.last,
            keep.hourly,
            keep.daily,
            keep.weekly,
            keep.monthly
        )),
    })
}

/// Returns everything that needs the attention of the user.
fn notices(services: &Services) -> Vec<Notice> {
    let problems = services.problems.list().into_iter();
    let mut notices: Vec<Notice> = problems
        .map(|message| Notice { level: NoticeLevel::Error, message, action: None })
        .collect();
    notices.extend(services.receipts.problems().into_iter().map(|problem| Notice {
        level: NoticeLevel::Error,
        message: problem.message,
        action: Some(problem.action),
    }));
    notices.extend(read_only(services));
    notices.extend(roots_incomplete(services));
    let listing = services.snapshots.list();
    notices.extend(damaged(&listing));
    notices.extend(suspicious(services, &listing));
    for folder in folders::all(services) {
        notices.extend(of_folder(&folder));
    }
    notices.extend(loosened_rules(services));
    notices.extend(unconfirmed(services));
    notices.extend(sources::all(services).iter().filter_map(of_source));
    notices.extend(manifest_clients(services));
    let config = services.settings.get();
    if !config.sync.folders.is_empty()
        && config.sync.backup_peer_address.is_none()
        && config.node.allowed_peers.is_empty()
    {
        notices.push(Notice {
            level: NoticeLevel::Error,
            message: "folders are watched, but no backup server is configured".into(),
            action: Some(
                "run `archivist pair` here, and enter the code on the backup server".into(),
            ),
        });
    }
    let waiting = needs_restart(services);
    if !waiting.is_empty() {
        notices.push(Notice {
            level: NoticeLevel::Info,
            message: format!("these settings take effect after a restart: {}", waiting.join(", ")),
            action: Some("restart the daemon".into()),
        });
    }
    notices
}

/// Returns the notices about a folder.
fn of_folder(folder: &api::Folder) -> Vec<Notice> {
    let mut notices = Vec::new();
    if matches!(folder.state.as_str(), "alarm" | "error") {
        let detail = folder.detail.as_deref().unwrap_or_default();
        notices.push(Notice {
            level: NoticeLevel::Error,
            message: format!("{}: {detail}", folder.name),
            action: (folder.state == "alarm")
                .then(|| format!("if this is intended: `archivist folder confirm {}`", folder.id)),
        });
    }
    if let Some(held) = &folder.held {
        notices.push(Notice {
            level: NoticeLevel::Warning,
            message: format!("{}: {held}", folder.name),
            action: Some(format!(
                "if this is intended: `archivist folder confirm {}`; otherwise restore from an \
                 older snapshot",
                folder.id
            )),
        });
    }
    if folder.error_count > 0 {
        notices.push(Notice {
            level: NoticeLevel::Warning,
            message: format!(
                "{}: cannot read {} files; their last readable versions stay in the backup",
                folder.name, folder.error_count
            ),
            action: Some("list them with `archivist status`".into()),
        });
    }
    notices.extend(folder.hook_error.as_ref().map(|error| Notice {
        level: NoticeLevel::Warning,
        message: format!("{}: backed up, but {error}", folder.name),
        action: Some(
            "correct the program, or before_publish and after_publish in config.toml".into(),
        ),
    }));
    notices.extend(left_out(folder));
    if folder.watched_dirs < folder.dirs_to_watch {
        notices.push(Notice {
            level: NoticeLevel::Info,
            message: format!(
                "{}: {} of {} directories are watched; the others are only scanned at the rescan \
                 interval",
                folder.name, folder.watched_dirs, folder.dirs_to_watch
            ),
            action: Some(
                "set fs.inotify.max_user_watches to more than the number of directories".into(),
            ),
        });
    }
    notices
}

/// Maximum number of left-out file systems that a notice names.
const LEFT_OUT_NAMED: usize = 5;

/// Returns the notice about file systems in a folder that are not backed up. (Caches are left
/// out because the user wants it.)
fn left_out(folder: &api::Folder) -> Option<Notice> {
    let others: Vec<_> = folder.left_out.iter().filter(|dir| dir.kind != "cache").collect();
    if others.is_empty() {
        return None;
    }
    let named = others.iter().take(LEFT_OUT_NAMED);
    let mut named: Vec<_> = named.map(|dir| format!("{} ({})", dir.path, dir.reason)).collect();
    if others.len() > named.len() {
        named.push(format!("{} more", others.len() - named.len()));
    }
    let can_enter = others.iter().any(|dir| dir.kind != "remote");
    let enter = if can_enter {
        format!(", or run `archivist folder set {} --one-file-system=false`", folder.id)
    } else {
        String::new()
    };
    Some(Notice {
        level: NoticeLevel::Info,
        message: format!("{}: not backed up: {}", folder.name, named.join(", ")),
        action: Some(format!("add it as a folder of its own{enter}, or exclude it")),
    })
}

/// Returns the notices about snapshots that the backup server has not confirmed in time.
fn unconfirmed(services: &Services) -> Vec<Notice> {
    let states = services.backup_service.states();
    let states = states.borrow();
    let overdue = states.iter().filter(|(_, notified)| notified.is_overdue);
    let notice = |(folder, notified): (&FolderId, &NotifyState)| {
        let error = notified.error.as_deref();
        Notice {
            level: NoticeLevel::Error,
            message: format!(
                "{}: the backup server has not confirmed snapshot {}: {}",
                folder_name(&services.sync, folder),
                notified.sequence,
                error.unwrap_or("it was notified and has not answered")
            ),
            action: Some("run `archivist status` on the backup server".into()),
        }
    };
    overdue.map(notice).collect()
}

/// Returns the notice about a source that failed or is refused.
fn of_source(source: &api::Source) -> Option<Notice> {
    matches!(source.state.as_str(), "failed" | "refused").then(|| Notice {
        level: NoticeLevel::Error,
        message: format!("{}: {}", source.name, source.errors.join("; ")),
        action: (source.state == "refused")
            .then(|| format!("if this is intended: `archivist source accept {:?}`", source.name)),
    })
}

fn needs_restart(services: &Services) -> Vec<String> {
    let waiting = services.settings.waiting_for_restart().into_iter();
    waiting.map(|change| change.key.to_string()).collect()
}

/// Returns notices about clients that may not request manifests, or that may not fetch
/// the blocks of the manifests.
fn manifest_clients(services: &Services) -> Vec<Notice> {
    let mut notices = Vec::new();
    for client in services.manifest_clients.list() {
        if !client.is_allowed {
            notices.push(Notice {
                level: NoticeLevel::Warning,
                message: format!("{} requested manifests and was refused", client.address),
                action: Some(format!(
                    "if this is your backup server, add {} to [manifest_server] whitelisted_ips",
                    client.address
                )),
            });
        } else if let Some(peer) = client.peer
            && services.access.get(&peer).is_none()
        {
            notices.push(Notice {
                level: NoticeLevel::Warning,
                message: format!("{peer} may request manifests, but not fetch their blocks"),
                action: Some(format!(
                    "if this is your backup server, add {peer} to [node] allowed_peers"
                )),
            });
        }
    }
    notices
}
