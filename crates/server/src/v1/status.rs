//! How the instance is, in one answer.

use api::{Notice, NoticeLevel, Status, Storage};
use axum::extract::State;
use node::Services;
use store::StoreAdmin as _;

use super::extract::Json;
use super::{Answer, blocking, folders, sources};
use types::with_causes;

/// How the instance is.
#[utoipa::path(get, path = "/status", responses((status = 200, body = Status)))]
pub(crate) async fn status(State(services): State<Services>) -> Answer<Status> {
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
                    message: format!("the store cannot be read: {}", with_causes(&error)),
                    action: Some("look at the disk, and run `archivist verify`".into()),
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
            notices,
            needs_restart: needs_restart(&services),
        }))
    })
    .await
}

/// Snapshots that are named as kept, and cannot be read.
fn damaged(services: &Services) -> Option<Notice> {
    let told = |message| Notice {
        level: NoticeLevel::Error,
        message,
        action: Some(
            "`archivist verify` says more; with --repair, what a peer has is pulled".into(),
        ),
    };
    match services.snapshots.list() {
        Ok(listing) => {
            let first = listing.damaged.first()?;
            let (count, root, reason) = (listing.damaged.len(), &first.root, &first.reason);
            Some(told(match count {
                1 => format!("the snapshot {root} cannot be read: {reason}"),
                _ => format!("{count} snapshots cannot be read; the first, {root}: {reason}"),
            }))
        }
        Err(error) => {
            Some(told(format!("the snapshots cannot be listed: {}", with_causes(&error))))
        }
    }
}

/// What somebody should look at.
fn notices(services: &Services) -> Vec<Notice> {
    let config = services.settings.get();
    let problems = services.problems.list().into_iter();
    let mut notices: Vec<Notice> = problems
        .map(|message| Notice { level: NoticeLevel::Error, message, action: None })
        .collect();
    notices.extend(damaged(services));
    for folder in folders::all(services) {
        if matches!(folder.state.as_str(), "alarm" | "error") {
            let detail = folder.detail.unwrap_or_default();
            notices.push(Notice {
                level: NoticeLevel::Error,
                message: format!("{}: {detail}", folder.name),
                action: (folder.state == "alarm")
                    .then(|| format!("if that is meant: `archivist folder confirm {}`", folder.id)),
            });
        }
        if let Some(held) = folder.held {
            notices.push(Notice {
                level: NoticeLevel::Warning,
                message: format!("{}: {held}", folder.name),
                action: Some(format!(
                    "if that is meant: `archivist folder confirm {}`; else restore from an older \
                     snapshot",
                    folder.id
                )),
            });
        }
        if folder.error_count > 0 {
            notices.push(Notice {
                level: NoticeLevel::Warning,
                message: format!(
                    "{}: {} files could not be read, and are kept as they were before",
                    folder.name, folder.error_count
                ),
                action: Some("`archivist status` names them".into()),
            });
        }
        if folder.watched_dirs < folder.dirs_to_watch {
            notices.push(Notice {
                level: NoticeLevel::Info,
                message: format!(
                    "{}: {} of {} directories are watched; the others are looked through from \
                     time to time",
                    folder.name, folder.watched_dirs, folder.dirs_to_watch
                ),
                action: Some(
                    "set fs.inotify.max_user_watches to more than the number of directories".into(),
                ),
            });
        }
    }
    let states = services.backup_service.states();
    for (folder, told) in states.borrow().iter().filter(|(_, told)| told.is_overdue) {
        let name =
            services.sync.folder(folder).map_or_else(|| folder.to_string(), |f| f.name.clone());
        let error = told.error.clone().unwrap_or_else(|| "it was told, and says nothing".into());
        notices.push(Notice {
            level: NoticeLevel::Error,
            message: format!(
                "{name}: the backup server has not acknowledged manifest {}: {error}",
                told.sequence
            ),
            action: Some("look at the backup server: `archivist status` there".into()),
        });
    }
    for source in sources::all(services) {
        if matches!(source.state.as_str(), "failed" | "refused") {
            notices.push(Notice {
                level: NoticeLevel::Error,
                message: format!("{}: {}", source.name, source.errors.join("; ")),
                action: (source.state == "refused").then(|| {
                    format!("if that is meant: `archivist source accept {:?}`", source.name)
                }),
            });
        }
    }
    notices.extend(manifest_clients(services));
    if !config.sync.folders.is_empty()
        && config.sync.backup_peer_address.is_none()
        && config.node.allowed_peers.is_empty()
    {
        notices.push(Notice {
            level: NoticeLevel::Error,
            message: "folders are watched, but no backup server may pull them".into(),
            action: Some(
                "run `archivist pair` here, and enter the code on the other machine".into(),
            ),
        });
    }
    let waiting = needs_restart(services);
    if !waiting.is_empty() {
        notices.push(Notice {
            level: NoticeLevel::Info,
            message: format!("these settings count after a restart: {}", waiting.join(", ")),
            action: Some("restart the daemon".into()),
        });
    }
    notices
}

fn needs_restart(services: &Services) -> Vec<String> {
    let waiting = services.settings.waiting_for_restart().into_iter();
    waiting.map(|change| change.key.to_string()).collect()
}

/// Who asks for manifests in vain, or could not fetch what they name.
fn manifest_clients(services: &Services) -> Vec<Notice> {
    let mut notices = Vec::new();
    for asker in services.manifest_clients.list() {
        if !asker.is_allowed {
            notices.push(Notice {
                level: NoticeLevel::Warning,
                message: format!("{} asked for manifests and was refused", asker.address),
                action: Some(format!(
                    "if that is your backup server, add {} to [manifest_server] whitelisted_ips",
                    asker.address
                )),
            });
        } else if let Some(peer) = asker.peer
            && services.access.get(&peer).is_none()
        {
            notices.push(Notice {
                level: NoticeLevel::Warning,
                message: format!("{peer} may ask for manifests, but not fetch what they name"),
                action: Some(format!(
                    "if that is your backup server, add {peer} to [node] allowed_peers"
                )),
            });
        }
    }
    notices
}
